//! Traces over a server: the context goes with the run, where Prefect's own client keeps it.

use serde_json::{Value, json};

use super::end_to_end::{FINAL, PrefectWorld, flow};
use super::server::Server;
use crate::collector::{Collector, Manner, named, traceparent};
use crate::world::Worker;

#[test]
fn a_run_at_the_server_is_one_trace_and_prefects_client_finds_it_in_its_label() {
    let server = Server::shared();
    let collector = Collector::start(Manner::Takes);
    let mut world = PrefectWorld::new(&server, &flow("hello", "echo trace=$TRACEPARENT", ""));
    let mut worker = world.command(&["worker"]);
    worker.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address());
    let worker = Worker::spawn(worker);
    let folder = world.path(".");
    let folder = folder.to_str().expect("UTF-8");
    let video = world.video(0);
    let output = world
        .command(&["queue", "hello", "--folder", folder, "--video-id", &video])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address())
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{output:?}");
    let queued: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let id = queued["flowRunId"].as_str().expect("an id").to_owned();
    let run = world.wait(&id, &FINAL);
    assert_eq!(run["state"]["type"], "COMPLETED", "{run}");
    worker.stop();
    let spans = collector.wait_for("all have come", |spans| spans.len() == 4);
    let [queued, claim, attempt, task] =
        ["queue hello", "claim hello", "attempt hello", "run_command"].map(|name| named(&spans, name));
    for (parent, child) in [(queued, claim), (claim, attempt), (attempt, task)] {
        assert_eq!(
            (&parent.trace_id, &parent.span_id),
            (&child.trace_id, &child.parent_span_id)
        );
    }
    assert!(queued.parent_span_id.is_empty(), "nobody has begun it before");
    let read = world
        .judge
        .ask("request", json!({"method": "GET", "path": format!("/flow_runs/{id}")}));
    assert_eq!(
        read["labels"]["__OTEL_TRACEPARENT"],
        traceparent(queued).as_str(),
        "{read}"
    );
    let line = format!("trace={}", traceparent(attempt));
    let all = world.everything(&id);
    let logs = all["logs"].as_array().expect("logs");
    assert!(logs.iter().any(|log| log["message"] == line.as_str()), "{logs:?}");
}
