//! Traces, as a collector of OpenTelemetry sees them.

use std::collections::BTreeMap;
use std::process::Command;

use captionacc::domain::id::FlowRunId;
use captionacc::domain::state::StateName;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::Value;

use crate::collector::{Collector, Manner, named, said, traceparent};
use crate::dashboard::Dashboard;
use crate::world::{Worker, World};

const PROGRAM: &str = env!("CARGO_BIN_EXE_captionacc");
/// Says what trace it is part of.
const FLOW: &str = r#"
[flows.say]
command = ["sh", "-c", "echo trace=$TRACEPARENT; exit $1", "sh", "{code}"]
retries = 0
[flows.say.parameters.code]
type = "text"
default = "0"
[flows.say.parameters.video-id]
type = "text"
"#;
/// What the caller is part of.
const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// What another one is part of.
const OTHER: &str = "00-11111111111111111111111111111111-2222222222222222-01";

/// Queues a run as a program does that is part of a trace.
fn queue(world: &World, more: &[&str]) -> FlowRunId {
    let mut command: Command = world.command(PROGRAM);
    command.args(["queue", "say", "--video-id", "film"]).args(more);
    let output = command.env("TRACEPARENT", CALLER).output().expect("it starts");
    assert!(output.status.success(), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    said["flowRunId"].as_str().expect("an id").parse().expect("an id")
}

#[test]
fn a_run_is_one_trace_from_the_call_that_queued_it_to_its_last_task() {
    for protocol in ["http/protobuf", "http/json"] {
        let collector = Collector::start(Manner::Takes);
        let world = World::with(
            FLOW,
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.address()),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=films"),
                ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test"),
                ("OTEL_SERVICE_NAME", "the-films"),
            ],
        );
        let id = queue(&world, &[]);
        let worker = world.start_worker();
        world.wait_for(id, StateName::Completed);
        worker.stop();
        let spans = collector.wait_for("all have come", |spans| spans.len() == 4);
        let [queued, claim, attempt, task] =
            ["queue say", "claim say", "attempt say", "run_command"].map(|name| named(&spans, name));
        let caller = CALLER.split('-').nth(2).expect("a span");
        assert_eq!(
            traceparent(queued).split('-').nth(1),
            CALLER.split('-').nth(1),
            "{protocol}"
        );
        let parents = [queued, claim, attempt, task].map(|span| span.parent_span_id.clone());
        let expected = [
            (0..8)
                .map(|at| u8::from_str_radix(&caller[2 * at..2 * at + 2], 16).expect("a number"))
                .collect(),
            queued.span_id.clone(),
            claim.span_id.clone(),
            attempt.span_id.clone(),
        ];
        assert_eq!(parents, expected, "{protocol}: {spans:#?}");
        for span in &spans {
            assert_eq!(span.trace_id, queued.trace_id);
            assert!(
                span.start_time_unix_nano <= span.end_time_unix_nano && span.start_time_unix_nano > 0,
                "{span:#?}"
            );
        }
        for span in [queued, claim, attempt] {
            assert_eq!(said(&span.attributes, "captionacc.flow_run_id"), Some(id.to_string()));
            assert_eq!(said(&span.attributes, "captionacc.video_id").as_deref(), Some("film"));
        }
        assert_eq!((queued.kind, claim.kind, attempt.kind), (4, 5, 1));
        assert_eq!(
            said(&attempt.attributes, "captionacc.state").as_deref(),
            Some("Completed")
        );
        // The program is part of it too.
        let line = format!("trace={}", traceparent(attempt));
        assert!(world.logs(id).contains(&line), "{line}: {:?}", world.logs(id));

        let call = collector.calls().remove(0);
        assert!(call.head.starts_with("post /v1/traces http/1.1\r\n"), "{}", call.head);
        assert!(call.head.contains("x-tenant: films"), "{}", call.head);
        let resource = call.request.resource_spans[0].resource.clone().expect("one");
        assert_eq!(said(&resource.attributes, "service.name").as_deref(), Some("the-films"));
        assert_eq!(
            said(&resource.attributes, "deployment.environment").as_deref(),
            Some("test")
        );
    }
}

#[test]
fn what_failed_is_seen_in_its_spans() {
    let collector = Collector::start(Manner::Takes);
    let world = World::with(FLOW, &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &collector.address())]);
    let id = queue(&world, &["--code", "65"]);
    let worker = world.start_worker();
    world.wait_for(id, StateName::Failed);
    worker.stop();
    let spans = collector.wait_for("all have come", |spans| spans.len() == 4);
    for (name, code) in [
        ("queue say", 0),
        ("claim say", 0),
        ("attempt say", 2),
        ("run_command", 2),
    ] {
        let status = named(&spans, name).status.clone().unwrap_or_default();
        assert_eq!(status.code, code, "{name}: {status:?}");
        assert!(code == 0 || status.message.contains("ended with code 65"), "{status:?}");
    }
    assert!(
        collector.calls()[0].head.starts_with("post / http"),
        "the address of traces is taken as it is"
    );
}

#[test]
fn nothing_is_sent_unless_it_is_asked_for_and_the_trace_goes_on_all_the_same() {
    let collector = Collector::start(Manner::Takes);
    let address = collector.address();
    let off = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", address.as_str()),
        ("OTEL_SDK_DISABLED", "true"),
    ];
    let none = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", address.as_str()),
        ("OTEL_TRACES_EXPORTER", "none"),
    ];
    let unset = [("OTEL_SERVICE_NAME", "films"), ("OTEL_TRACES_SAMPLER", "always_on")];
    for variables in [off, none, unset] {
        let world = World::with(FLOW, &variables);
        let id = queue(&world, &[]);
        let worker = world.start_worker();
        world.wait_for(id, StateName::Completed);
        let log = worker.stop();
        assert!(!log.contains("races are not taken"), "{log}");
        assert!(
            world.logs(id).contains(&format!("trace={CALLER}")),
            "{:?}",
            world.logs(id)
        );
    }
    assert_eq!(collector.connections(), 0);
}

#[test]
fn the_trace_that_a_worker_was_started_in_is_not_that_of_its_runs() {
    let world = World::with(FLOW, &[]);
    let mut command = world.command(PROGRAM);
    command.arg("worker").env("TRACEPARENT", CALLER);
    let worker = Worker::spawn(command);
    let id = world.queue("say", serde_json::json!({"video-id": "film"}));
    world.wait_for(id, StateName::Completed);
    worker.stop();
    assert!(world.logs(id).contains(&"trace=".to_owned()), "{:?}", world.logs(id));
}

/// The spans of that run, by their names: the last of each.
fn of_run(spans: &[Span], id: FlowRunId) -> BTreeMap<&str, &Span> {
    let id = Some(id.to_string());
    let of_it = spans
        .iter()
        .filter(|span| said(&span.attributes, "captionacc.flow_run_id") == id);
    of_it.map(|span| (span.name.as_str(), span)).collect()
}

#[test]
fn what_a_dashboard_queues_is_part_of_the_trace_of_whoever_asks_and_a_retry_goes_on_in_that_of_its_run() {
    let collector = Collector::start(Manner::Takes);
    let world = World::with(FLOW, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.address())]);
    let worker = world.start_worker();
    let failed = queue(&world, &["--code", "65"]);
    world.wait_for(failed, StateName::Failed);
    let dashboard = Dashboard::of(world.command(PROGRAM), &world.path("token.txt"), &[]);
    let again = |headers: &[(&str, &str)]| -> FlowRunId {
        let answer = dashboard.post_as_program(&format!("/api/runs/{failed}/again"), headers);
        let id = answer.json()["flowRunId"]
            .as_str()
            .expect("queued")
            .parse()
            .expect("an id");
        world.wait_for(id, StateName::Failed);
        id
    };
    let of_nobody = again(&[]);
    let of_nonsense = again(&[("traceparent", "nonsense")]);
    let of_somebody = again(&[("traceparent", OTHER)]);
    let retried = dashboard.post_as_program(&format!("/api/runs/{failed}/retry"), &[("traceparent", OTHER)]);
    assert_eq!(retried.json()["flowRunId"], failed.to_string().as_str(), "{retried:?}");
    world.wait_until("it has failed once more", || {
        let run = world.run(failed);
        run.attempt == 2 && run.state.name == StateName::Failed
    });
    worker.stop();
    // A queue call each, and three spans of each attempt.
    let spans = collector.wait_for("all have come", |spans| spans.len() == 4 + 3 * 5);
    let trace_of = |span: &Span| traceparent(span).split('-').nth(1).map(str::to_owned);
    let trace_in = |context: &str| context.split('-').nth(1).map(str::to_owned);
    for (id, is_somebodys) in [(of_nobody, false), (of_nonsense, false), (of_somebody, true)] {
        let of_it = of_run(&spans, id);
        let queued = of_it["queue say"];
        assert_eq!(queued.parent_span_id.is_empty(), !is_somebodys, "{queued:?}");
        assert_eq!(trace_of(queued) == trace_in(OTHER), is_somebodys);
        assert_eq!(of_it["claim say"].parent_span_id, queued.span_id);
    }
    let of_retried = of_run(&spans, failed);
    assert_eq!(
        said(&of_retried["attempt say"].attributes, "captionacc.attempt").as_deref(),
        Some("2")
    );
    assert_eq!(of_retried["claim say"].parent_span_id, of_retried["queue say"].span_id);
    assert_eq!(trace_of(of_retried["claim say"]), trace_in(CALLER));
}

#[test]
fn a_call_that_fails_has_a_span_that_says_so() {
    let collector = Collector::start(Manner::Takes);
    let world = World::with(FLOW, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.address())]);
    let too_long = "x".repeat(1 << 16);
    let mut command: Command = world.command(PROGRAM);
    command.args(["queue", "say", "--video-id", "film", "--idempotency-key", &too_long]);
    let output = command.output().expect("it starts");
    assert!(!output.status.success(), "{output:?}");
    let spans = collector.wait_for("it has come", |spans| spans.len() == 1);
    let status = named(&spans, "queue say").status.clone().unwrap_or_default();
    assert_eq!(
        (status.code, status.message.as_str()),
        (2, "ERR_CAPTIONACC_INVALID_ARGUMENT")
    );
}

#[test]
fn what_the_caller_does_not_keep_is_not_sent() {
    let collector = Collector::start(Manner::Takes);
    let world = World::with(FLOW, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.address())]);
    let mut command = world.command(PROGRAM);
    command.args(["queue", "say", "--video-id", "film"]);
    command.env("TRACEPARENT", CALLER.replace("-01", "-00"));
    let output = command.output().expect("it starts");
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let id = said["flowRunId"].as_str().expect("an id").parse().expect("an id");
    let worker = world.start_worker();
    world.wait_for(id, StateName::Completed);
    worker.stop();
    assert_eq!(collector.connections(), 0);
}

#[test]
fn a_collector_that_is_away_costs_a_warning_and_no_run() {
    // Nobody listens there any more.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", gone.local_addr().expect("bound"));
    drop(gone);
    let world = World::with(
        FLOW,
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &address),
            ("OTEL_BSP_SCHEDULE_DELAY", "1"),
        ],
    );
    let worker = world.start_worker();
    for video in ["a", "b", "c"] {
        let id = queue(&world, &["--code", "0", "--idempotency-key", video]);
        world.wait_for(id, StateName::Completed);
    }
    let log = worker.stop();
    assert_eq!(log.matches("Traces are not taken").count(), 1, "{log}");
    assert!(log.contains("WARN"), "{log}");
}

#[test]
fn a_collector_that_hangs_holds_up_neither_a_run_nor_the_workers_end() {
    let collector = Collector::start(Manner::Hangs);
    let world = World::with(
        FLOW,
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.address()),
            // Longer than a test may take.
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "86400000"),
            ("OTEL_BSP_SCHEDULE_DELAY", "1"),
        ],
    );
    let id = queue(&world, &[]);
    collector.wait_for_a_connection();
    let worker = world.start_worker();
    world.wait_for(id, StateName::Completed);
    worker.stop();
}

#[test]
fn a_value_that_can_not_be_used_is_said_and_nothing_else_suffers() {
    let world = World::with(
        FLOW,
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ],
    );
    let worker = world.start_worker();
    let id = queue(&world, &[]);
    world.wait_for(id, StateName::Completed);
    let log = worker.stop();
    assert!(
        log.contains("OTEL_EXPORTER_OTLP_PROTOCOL=\"grpc\" is not spoken here"),
        "{log}"
    );
    let doctor = world.command(PROGRAM).arg("doctor").output().expect("it starts");
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(said.contains("OTEL_EXPORTER_OTLP_PROTOCOL=\"grpc\""), "{said}");
}
