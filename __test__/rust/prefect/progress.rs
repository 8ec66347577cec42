//! How far runs of this home are: whoever looks is told what this machine knows of it, and no server is asked for it.

use std::fs;
use std::sync::Arc;

use captionacc::domain::flow_run::FlowRunEvent;
use captionacc::orchestrator::feed::FeedEvent;
use captionacc::orchestrator::queue::Queue;
use captionacc::orchestrator::watching::{EventType, WatchFilter, WatchPlace, Watching};
use serde_json::Value;

use super::end_to_end::{FINAL, PrefectWorld, flow};
use super::proxy::{Fault, Plan, Proxy};
use super::server::Server;
use super::subject;
use crate::dashboard::{Dashboard, Stream};
use crate::world::runtime;

/// Says one of six steps, and the next once the file for it is there.
const STEPS: &str = r#"for step in 1 2 3 4 5 6; do
  echo "($step/6 frames)"
  while [ ! -e "$1/seen-$step" ]; do sleep 0.02; done
done"#;

/// The program goes on from this step.
fn go_on_from(world: &PrefectWorld, step: u64) {
    fs::write(world.path(&format!("seen-{step}")), "").expect("written");
}

/// Waits until a page is told that the run is at this step.
fn is_told(stream: &mut Stream, id: &str, step: u64) {
    loop {
        let event = stream.next_of_all();
        let runs = match event["type"].as_str() {
            Some("overview") => &event["overview"]["active"],
            Some("progress" | "runs") => &event["runs"],
            _ => continue,
        };
        let runs: &[Value] = runs.as_array().expect("runs");
        if runs
            .iter()
            .any(|run| run["flowRunId"] == id && run["progress"]["done"] == step)
        {
            return;
        }
    }
}

#[test]
fn a_page_sees_each_step_of_a_run_of_this_home_while_the_server_does_not_answer() {
    let server = Server::shared();
    let proxy = Proxy::to(server.address());
    let mut world = PrefectWorld::at(server.api_url(), &proxy.api_url(), &flow("steps", STEPS, ""));
    let worker = world.start_worker();
    let dashboard = Dashboard::of(world.command(&[]), &world.path("token.txt"), &[]);
    let mut stream = dashboard.listen("", None);
    let id = world.queue("steps", &world.video(0));
    is_told(&mut stream, &id, 1);

    // What the server has is old: the run's own page has what is known here.
    proxy.plan(Plan::on("PATCH", "/artifacts/", Fault::status(500)));
    go_on_from(&world, 1);
    is_told(&mut stream, &id, 2);
    let page = dashboard.get(&format!("/api/runs/{id}")).json();
    assert_eq!(page["run"]["progress"]["done"], 2, "{page}");

    proxy.plan(Plan::on("*", "/api/", Fault::Stall));
    for step in 2..6 {
        go_on_from(&world, step);
        is_told(&mut stream, &id, step + 1);
    }

    proxy.calm();
    go_on_from(&world, 6);
    let run = world.wait(&id, &FINAL);
    assert_eq!(run["state"]["type"], "COMPLETED", "{run}");
    worker.stop();
}

#[test]
fn a_watcher_sees_each_step_of_a_run_of_this_home_while_the_server_does_not_answer() {
    let server = Server::shared();
    let proxy = Proxy::to(server.address());
    let mut world = PrefectWorld::at(server.api_url(), &proxy.api_url(), &flow("steps", STEPS, ""));
    let runtime = runtime();
    let home = world.path("home");
    let queue: Arc<dyn Queue> = Arc::new(runtime.block_on(subject::of_pool(&proxy.api_url(), &world.name, &home)));
    // From before the run: its first step is not to be missed.
    let mut place = WatchPlace {
        cursor: Some(runtime.block_on(queue.read_feed(None)).expect("reads").next),
        ..WatchPlace::default()
    };
    let watching = Watching::new(queue);
    let worker = world.start_worker();
    let id = world.queue("steps", &world.video(0));
    let filter = WatchFilter {
        flow_run_id: Some(id.parse().expect("an id")),
        types: vec![EventType::Progress],
        ..WatchFilter::default()
    };
    let mut is_seen = |step: u64| {
        loop {
            let reading = runtime.block_on(watching.next(&filter, place.clone())).expect("reads");
            place = reading.place;
            let is_at_step = |event: &FeedEvent| matches!(&event.event, FlowRunEvent::Progress { progress } if progress.done == step);
            if reading.events.iter().any(is_at_step) {
                return;
            }
        }
    };
    is_seen(1);
    proxy.plan(Plan::on("*", "/api/", Fault::Stall));
    for step in 1..6 {
        go_on_from(&world, step);
        is_seen(step + 1);
    }
    proxy.calm();
    go_on_from(&world, 6);
    let run = world.wait(&id, &FINAL);
    assert_eq!(run["state"]["type"], "COMPLETED", "{run}");
    worker.stop();
}
