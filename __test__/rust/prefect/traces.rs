//! Traces over a server: the context goes with the run, where Prefect's own client keeps it.

use std::fs;

use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::{Value, json};

use super::end_to_end::{FINAL, PrefectWorld, flow};
use super::server::{Server, environment};
use crate::collector::{Collector, Manner, named, said, traceparent};
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

/// Another program's trace: of a run's label, of an environment.
const OF_LABEL: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const OF_ENVIRONMENT: &str = "00-11111111111111111111111111111111-2222222222222222-01";
/// What the process of a worker was started in.
const OF_WORKER: &str = "00-99999999999999999999999999999999-8888888888888888-01";

/// A worker of that world which sends its spans there.
fn traced_worker(world: &PrefectWorld, collector: &Collector) -> Worker {
    let mut command = world.command(&["worker"]);
    command
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address())
        .env("TRACEPARENT", OF_WORKER)
        .env("TRACESTATE", "of=worker");
    Worker::spawn(command)
}

/// Queues a run of another program's deployment, which is made for it.
fn queue_program(world: &mut PrefectWorld, flow: &str, job_variables: &Value, labels: &Value) -> String {
    let folder = world.path("");
    let judge = &mut world.judge;
    let mut post =
        |path: &str, body: Value| judge.ask("request", json!({"method": "POST", "path": path, "body": body}));
    let made = post("/flows/", json!({"name": flow}));
    let deployment = json!({
        "name": world.name, "flow_id": made["id"], "work_pool_name": world.name, "entrypoint": format!("flows.py:{flow}"),
        "path": folder, "parameter_openapi_schema": {"type": "object", "properties": {}}, "job_variables": job_variables,
    });
    let deployment = post("/deployments/", deployment);
    let id = deployment["id"].as_str().expect("an id");
    let run = post(&format!("/deployments/{id}/create_flow_run"), json!({"labels": labels}));
    run["id"].as_str().expect("an id").to_owned()
}

/// The span that this one is below, as it was told of it.
fn parent(span: &Span) -> Option<String> {
    let above = Span {
        span_id: span.parent_span_id.clone(),
        ..span.clone()
    };
    (!span.parent_span_id.is_empty()).then(|| traceparent(&above))
}

#[test]
fn another_programs_run_is_two_spans_below_its_own_trace_and_its_program_is_told_of_the_second() {
    let server = Server::shared();
    let collector = Collector::start(Manner::Takes);
    let mut world = PrefectWorld::new(&server, "");
    let worker = traced_worker(&world, &collector);
    let label = json!({"__OTEL_TRACEPARENT": OF_LABEL});
    let of_environment = json!({"TRACEPARENT": OF_ENVIRONMENT, "TRACESTATE": "of=environment"});
    // What it is told, what it is queued with, the span that its claim is below, and what is left of what vendors add.
    let cases = [
        ("neither", json!({}), json!({}), None, ""),
        ("label", json!({}), label.clone(), Some(OF_LABEL), ""),
        (
            "environment",
            of_environment.clone(),
            json!({}),
            Some(OF_ENVIRONMENT),
            "of=environment",
        ),
        ("both", of_environment.clone(), label, Some(OF_LABEL), ""),
        ("nonsense", json!({"TRACEPARENT": "nonsense"}), json!({}), None, ""),
    ];
    let say = "sh -c 'printf %s,%s \"$TRACEPARENT\" \"$TRACESTATE\" >\"$SAYS\"'";
    let queue = |world: &mut PrefectWorld, name: &str, environment: &Value, labels: &Value| {
        let mut environment = environment.clone();
        environment["SAYS"] = json!(world.path(name));
        queue_program(world, name, &json!({"command": say, "env": environment}), labels)
    };
    let ids = cases
        .each_ref()
        .map(|(name, environment, labels, ..)| queue(&mut world, name, environment, labels));
    for id in &ids {
        let run = world.wait(id, &FINAL);
        assert_eq!(run["state"]["type"], "CRASHED", "it says nothing of itself: {run}");
    }
    worker.stop();
    let spans = collector.wait_for("all have come", |spans| spans.len() == 2 * cases.len());
    for ((name, _, _, above, state), id) in cases.iter().zip(&ids) {
        let [claim, run] = ["claim", "run"].map(|kind| named(&spans, &format!("{kind} {name}")));
        assert_eq!(parent(claim).as_deref(), *above, "{name}");
        assert_eq!(parent(run), Some(traceparent(claim)), "{name}");
        let told = fs::read_to_string(world.path(name)).expect("it ran");
        assert_eq!(told, format!("{},{state}", traceparent(run)), "{name}");
        for span in [claim, run] {
            assert_eq!(said(&span.attributes, "captionacc.flow_run_id").as_ref(), Some(id));
            assert_eq!(said(&span.attributes, "captionacc.flow").as_deref(), Some(*name));
        }
        assert_eq!((claim.kind, run.kind), (5, 1));
        let status = run.status.clone().unwrap_or_default();
        assert_eq!(
            (status.code, status.message.as_str()),
            (2, "it ended without a final state")
        );
        assert_eq!(said(&run.attributes, "captionacc.state").as_deref(), Some("Crashed"));
    }

    // A worker that sends nothing hands on what there is, and nothing of itself.
    let mut command = world.command(&["worker"]);
    command.env("TRACEPARENT", OF_WORKER).env("TRACESTATE", "of=worker");
    let worker = Worker::spawn(command);
    let told = [
        ("untraced", json!({}), json!({}), ",".to_owned()),
        (
            "passed-on",
            of_environment,
            json!({}),
            format!("{OF_ENVIRONMENT},of=environment"),
        ),
    ];
    for (name, environment, labels, expected) in told {
        let id = queue(&mut world, name, &environment, &labels);
        world.wait(&id, &FINAL);
        assert_eq!(
            fs::read_to_string(world.path(name)).expect("it ran"),
            expected,
            "{name}"
        );
    }
    worker.stop();
}

#[test]
fn what_a_python_flow_reports_of_itself_is_seen_in_its_span() {
    let server = Server::shared();
    let collector = Collector::start(Manner::Takes);
    let mut world = PrefectWorld::new(&server, "");
    let flows = "from prefect import flow\n\n@flow\ndef training():\n    return 1\n\n\
                 @flow\ndef failing():\n    raise ValueError('no such data')\n";
    fs::write(world.path("flows.py"), flows).expect("written");
    let worker = traced_worker(&world, &collector);
    let python = environment().join("bin/python");
    let variables =
        json!({"command": format!("{} -m prefect.engine", python.display()), "working_dir": world.path("")});
    let cases = [
        ("training", "COMPLETED", "Completed", 0),
        ("failing", "FAILED", "Failed", 2),
    ];
    let ids = cases.map(|(flow, ..)| queue_program(&mut world, flow, &variables, &json!({})));
    for (id, (_, state, ..)) in ids.iter().zip(cases) {
        let run = world.wait(id, &FINAL);
        assert_eq!(run["state"]["type"], state, "{run}");
    }
    worker.stop();
    let spans = collector.wait_for("all have come", |spans| spans.len() == 4);
    for (flow, _, state, code) in cases {
        let run = named(&spans, &format!("run {flow}"));
        assert_eq!(said(&run.attributes, "captionacc.state").as_deref(), Some(state));
        assert_eq!(run.status.clone().unwrap_or_default().code, code, "{run:?}");
    }
}

#[test]
fn a_run_that_prefects_own_worker_gives_to_this_program_is_part_of_its_trace() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, &flow("hello", "echo trace=$TRACEPARENT", ""));
    let folder = world.path(".").to_str().expect("UTF-8").to_owned();
    // Whether its call is traced decides what its claim is below.
    for (number, is_traced) in [true, false].into_iter().enumerate() {
        let collector = Collector::start(Manner::Takes);
        let video = world.video(number);
        let mut queueing = world.command(&["queue", "hello", "--folder", &folder, "--video-id", &video]);
        if is_traced {
            queueing.env("TRACEPARENT", OF_LABEL);
        }
        let output = queueing.output().expect("it starts");
        assert!(output.status.success(), "{output:?}");
        let queued: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let id = queued["flowRunId"].as_str().expect("an id").to_owned();
        // As that worker claims it.
        let pending = json!({"state": {"type": "PENDING"}});
        let path = format!("/flow_runs/{id}/set_state");
        world
            .judge
            .ask("request", json!({"method": "POST", "path": path, "body": pending}));
        let mut command = world.command(&["execute"]);
        command
            .env("PREFECT__FLOW_RUN_ID", &id)
            .env("PREFECT__WORKER_NAME", "stock")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address())
            .env("TRACEPARENT", OF_ENVIRONMENT);
        let (exit, log) = Worker::spawn(command).wait();
        assert!(exit.success(), "{exit}: {log}");
        let spans = collector.wait_for("all have come", |spans| spans.len() == 3);
        let [claim, attempt, task] = ["claim hello", "attempt hello", "run_command"].map(|name| named(&spans, name));
        let above = if is_traced { OF_LABEL } else { OF_ENVIRONMENT };
        assert_eq!(parent(claim).as_deref(), Some(above));
        assert_eq!(parent(attempt), Some(traceparent(claim)));
        assert_eq!(parent(task), Some(traceparent(attempt)));
        assert_eq!(
            said(&attempt.attributes, "captionacc.state").as_deref(),
            Some("Completed")
        );
        let line = format!("trace={}", traceparent(attempt));
        let all = world.everything(&id);
        let logs = all["logs"].as_array().expect("logs");
        assert!(logs.iter().any(|log| log["message"] == line.as_str()), "{logs:?}");
    }
}
