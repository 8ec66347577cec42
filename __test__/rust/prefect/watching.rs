//! Watching all runs of a server from a home that has nothing to do with them.

use captionacc::domain::flow::Flows;
use captionacc::domain::flow_run::FlowRunEvent;
use captionacc::orchestrator::prefect::PrefectOrchestrator;
use captionacc::orchestrator::queue::Queue;
use captionacc::settings::prefect::PrefectSettings;

use super::end_to_end::{FINAL, PrefectWorld, flow};
use super::server::Server;

#[test]
fn the_states_of_runs_of_another_home_come_from_the_server() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, &flow("hello", "echo hello", ""));
    let mut settings = PrefectSettings::new(server.api_url(), "test").expect("an address");
    settings.work_pool.clone_from(&world.name);
    settings.deployment_name.clone_from(&world.name);
    let home = tempfile::tempdir().expect("a folder");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let watcher = runtime
        .block_on(PrefectOrchestrator::open(settings, home.path(), Flows::builtin()))
        .expect("opens");
    let mut cursor = runtime.block_on(watcher.read_feed(None)).expect("reads").next;
    let worker = world.start_worker();
    let video = world.video(0);
    let id = world.queue("hello", &video);
    world.wait(&id, &FINAL);
    let mut names = Vec::new();
    let mut cursors = Vec::new();
    while names.last().map(String::as_str) != Some("Completed") {
        let page = runtime.block_on(watcher.read_feed(Some(&cursor))).expect("reads");
        for event in page.events {
            assert_eq!(
                (event.flow_run_id.to_string(), event.flow_name.as_str()),
                (id.clone(), "hello")
            );
            assert_eq!(event.video_id.as_deref(), Some(video.as_str()));
            if let FlowRunEvent::State { state, .. } = event.event {
                names.push(state.name.as_str().to_owned());
                cursors.push(event.cursor);
            }
        }
        cursor = page.next;
        // What a watcher waits for.
        let counter = runtime.block_on(watcher.feed_counter()).expect("answers");
        while runtime.block_on(watcher.feed_counter()).expect("answers") == counter {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
    assert_eq!(names, ["Scheduled", "Pending", "Running", "Completed"]);
    let page = runtime.block_on(watcher.read_feed(Some(&cursors[1]))).expect("reads");
    let rest: Vec<_> = page
        .events
        .iter()
        .filter_map(|event| match &event.event {
            FlowRunEvent::State { state, .. } => Some(state.name.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(rest, ["Running", "Completed"]);
    worker.stop();
}
