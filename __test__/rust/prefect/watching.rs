//! Watching all runs of a server from a home that has nothing to do with them.

use std::fs;

use captionacc::domain::flow_run::FlowRunEvent;
use captionacc::orchestrator::feed::{FeedCursor, FeedEvent};
use captionacc::orchestrator::queue::Queue;

use super::end_to_end::{PrefectWorld, flow};
use super::server::Server;
use super::subject;
use crate::world::runtime;

#[test]
fn what_runs_of_another_home_do_and_say_comes_from_the_server() {
    let server = Server::shared();
    let script = "echo hello; echo '(1/2 frames)'; while [ ! -e \"$1/go\" ]; do sleep 0.02; done; echo '(2/2 frames)'; \
                  echo 'that was it'";
    let world = PrefectWorld::new(&server, &flow("hello", script, ""));
    let home = tempfile::tempdir().expect("a folder");
    let runtime = runtime();
    let watcher = runtime.block_on(subject::of_pool(server.api_url(), &world.name, home.path()));
    let mut cursor = runtime.block_on(watcher.read_feed(None)).expect("reads").next;
    let worker = world.start_worker();
    let video = world.video(0);
    let id = world.queue("hello", &video);
    let mut seen: Vec<(String, FeedCursor)> = Vec::new();
    let mut progress = Vec::new();
    while seen.last().is_none_or(|(what, _)| what != "Completed") {
        let page = runtime.block_on(watcher.read_feed(Some(&cursor))).expect("reads");
        for (_, event) in &page.progress {
            assert_eq!(event.flow_run_id.to_string(), id);
            let FlowRunEvent::Progress { progress: now } = &event.event else {
                panic!("{event:?}");
            };
            progress.push(now.done);
        }
        for event in page.events {
            assert_eq!(
                (event.flow_run_id.to_string(), event.flow_name.as_str()),
                (id.clone(), "hello")
            );
            assert_eq!(event.video_id.as_deref(), Some(video.as_str()));
            seen.push((what(&event), event.cursor));
        }
        cursor = page.next;
        // The run goes on once it was seen how far it is.
        if progress.contains(&1) && seen.iter().any(|(what, _)| what == "hello") {
            fs::write(world.path("go"), "").expect("written");
        }
        // What a watcher waits for.
        let counter = runtime.block_on(watcher.feed_counter()).expect("answers");
        while runtime.block_on(watcher.feed_counter()).expect("answers") == counter {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
    assert!(progress.is_sorted(), "{progress:?}");
    let all: Vec<&str> = seen.iter().map(|(what, _)| what.as_str()).collect();
    let states = ["Scheduled", "Pending", "Running", "Completed"];
    let of_states: Vec<&str> = all.iter().copied().filter(|what| states.contains(what)).collect();
    assert_eq!(of_states, states);
    for line in ["hello", "(1/2 frames)", "(2/2 frames)", "that was it"] {
        assert_eq!(all.iter().filter(|what| **what == line).count(), 1, "{line}: {all:?}");
    }
    let at = |wanted: &str| all.iter().position(|what| *what == wanted).expect("seen");
    assert!(
        at("hello") < at("that was it") && at("that was it") < at("Completed"),
        "{all:?}"
    );

    // Who goes on from the middle sees the rest, and none of what it knew, but for what came at one moment with it.
    let from = at("Running");
    let page = runtime.block_on(watcher.read_feed(Some(&seen[from].1))).expect("reads");
    let rest: Vec<String> = page.events.iter().map(what).collect();
    assert!(
        rest.ends_with(
            &all[from + 1..]
                .iter()
                .map(|what| (*what).to_owned())
                .collect::<Vec<_>>()
        ),
        "{rest:?}"
    );
    assert!(!rest.contains(&"Pending".to_owned()), "{rest:?}");
    worker.stop();
}

/// The state's name, or the line.
fn what(event: &FeedEvent) -> String {
    match &event.event {
        FlowRunEvent::State { state, .. } => state.name.as_str().to_owned(),
        FlowRunEvent::Log { log } => log.message.clone(),
        FlowRunEvent::Progress { progress } => format!("{}/{:?}", progress.done, progress.total),
    }
}
