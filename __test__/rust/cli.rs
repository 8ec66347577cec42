//! The command line as a program that spawns it, or a person, meets it: exit code, stdout, stderr.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Output, Stdio};

use captionacc::domain::id::FlowRunId;
use captionacc::domain::state::StateName;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::world::{World, kill};

const PROGRAM: &str = env!("CARGO_BIN_EXE_captionacc");

/// One call of the program, and what is expected of it.
#[must_use]
struct Test {
    command: Command,
}

impl Test {
    fn new(world: &World) -> Self {
        let mut command = world.command(PROGRAM);
        command.stdin(Stdio::null());
        Self { command }
    }

    fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(arguments);
        self
    }

    fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    fn output(mut self) -> Output {
        self.command.output().expect("the program starts")
    }

    /// It ends with 0 and says nothing on stderr; returns what it says on stdout.
    #[track_caller]
    fn success(self) -> String {
        let output = self.output();
        assert_eq!(text(&output.stderr), "");
        assert_eq!(output.status.code(), Some(0));
        text(&output.stdout)
    }

    /// As [`Test::success`], with one line of JSON on stdout.
    #[track_caller]
    fn json(self) -> Value {
        let stdout = self.success();
        assert_eq!(stdout.lines().count(), 1, "{stdout}");
        serde_json::from_str(&stdout).expect("JSON")
    }

    /// It ends with 1, says nothing on stdout and one line of JSON on stderr, of that code, naming `expected`.
    #[track_caller]
    fn failure(self, code: &str, expected: &str) {
        let output = self.output();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert_eq!(text(&output.stdout), "", "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        let error: Value = serde_json::from_str(&stderr).expect("JSON");
        let error = &error["error"];
        assert_eq!(error["code"], code, "{stderr}");
        assert!(error["retryable"].is_boolean(), "{stderr}");
        let message = error["message"].as_str().expect("text");
        assert!(message.contains(expected), "{expected:?} in {message:?}");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

const FULL_FRAMES: [&str; 10] = [
    "queue",
    "full-frames",
    "--video-id",
    "v1",
    "--video-path",
    "films/v1.mp4",
    "--db-path",
    "/videos/v1/annotations.db",
    "--output-dir",
    "/tmp/v1",
];
const BOUNDS: &str = r#"{"left":0,"top":300,"right":640,"bottom":360}"#;
const INVALID: &str = "ERR_CAPTIONACC_INVALID_ARGUMENT";

/// A flow that says that it runs and waits for the file `go`, and has an asset.
const WAITING_FLOW: &str = r#"
[flows.wait]
description = "Waits"
command = ["sh", "-c", "echo '(1/2) running'; while [ ! -e go ]; do sleep 0.02; done; echo gone", "sh", "{video-id}"]
assets = ["models://m-{video-id}"]
upstream-assets = ["video://{video-id}"]
[flows.wait.parameters.video-id]
type = "text"
description = "which video"
[flows.wait.parameters.shift]
type = "number"
default = 0
"#;

fn only_run(world: &World) -> FlowRunId {
    let runs = world.runs();
    assert_eq!(runs.len(), 1, "{runs:#?}");
    runs[0].flow_run_id
}

#[test]
fn the_old_call_queues_a_run_and_prints_one_line() {
    let world = World::new("");
    let line = Test::new(&world).args(FULL_FRAMES).args(["--frame-rate", "0.5"]).json();
    let id = only_run(&world).to_string();
    assert_eq!(
        line,
        json!({ "flow_run_id": id, "flowRunId": id, "status": "queued", "priority": "background", "created": true })
    );
    let parameters = &world.runs()[0].parameters;
    assert_eq!(parameters.0["frame-rate"], 0.5);
    // Against the caller's working directory.
    let expected = fs::canonicalize(world.path(".")).expect("there").join("films/v1.mp4");
    assert_eq!(parameters.0["video-path"], json!(expected));
}

#[test]
fn the_old_call_by_position_queues_the_same_run() {
    let world = World::new("");
    let full = [
        "queue",
        "full-frames",
        "v1",
        "films/v1.mp4",
        "annotations.db",
        "/tmp/v1",
    ];
    let crop = [
        "queue",
        "crop-frames",
        "v1",
        "films/v1.mp4",
        "annotations.db",
        "/tmp/v1",
        BOUNDS,
    ];
    for (arguments, rest, expected) in [
        (&full[..], &["--frame-rate", "0.5"][..], json!({"frame-rate": 0.5})),
        (
            &crop[..],
            &["--crop-bounds-version", "3"],
            json!({"crop-bounds-version": 3}),
        ),
        // The version is the layout's then, and so are the bounds.
        (&crop[..6], &["--idempotency-key", "k"], json!({"crop-bounds": null})),
    ] {
        // Options stand before, among and after values.
        for at in [2, 4, arguments.len()] {
            let mut call = arguments.to_vec();
            call.splice(at..at, rest.iter().copied());
            let line = Test::new(&world).args(&call).json();
            assert_eq!(line["flowRunId"], line["flow_run_id"]);
            let id = line["flow_run_id"].as_str().expect("an id").parse().expect("an id");
            let parameters = world.run(id).parameters.0;
            assert_eq!(
                (&parameters["video-id"], &parameters["output-dir"]),
                (&json!("v1"), &json!("/tmp/v1"))
            );
            for (name, value) in expected.as_object().expect("an object") {
                assert_eq!(parameters.get(name).unwrap_or(&json!(null)), value, "{call:?}");
            }
        }
    }
}

#[test]
fn values_by_position_are_not_mixed_with_options_of_the_same() {
    let world = World::new("");
    for (arguments, expected) in [
        (
            vec!["v1", "--video-path", "v1.mp4", "annotations.db", "/tmp/v1"],
            "\"video-path\": given as an option beside values by position",
        ),
        (
            vec!["v1", "v1.mp4", "annotations.db", "/tmp/v1", "0.2"],
            "by position there are VIDEO_ID VIDEO_PATH DB_PATH OUTPUT_DIR",
        ),
        (vec!["v1", "v1.mp4"], "\"db-path\": missing"),
    ] {
        let call = [vec!["queue", "full-frames"], arguments].concat();
        Test::new(&world).args(call).failure(INVALID, expected);
    }
    assert_eq!(world.runs(), []);
}

#[test]
fn crop_frames_takes_its_bounds_as_json_and_one_key_makes_one_run() {
    let world = World::new("");
    let call = || {
        let mut arguments: Vec<&str> = FULL_FRAMES.to_vec();
        arguments[1] = "crop-frames";
        arguments.extend(["--crop-bounds", BOUNDS, "--crop-bounds-version", "3"]);
        arguments.extend(["--idempotency-key", "-k1"]);
        Test::new(&world).args(arguments).json()
    };
    let (first, second) = (call(), call());
    assert_eq!(first["priority"], "user-initiated");
    assert_eq!(first["flow_run_id"], second["flow_run_id"]);
    assert_eq!((&first["created"], &second["created"]), (&json!(true), &json!(false)));
    only_run(&world);
    let bounds = world.runs()[0].parameters.0["crop-bounds"].clone();
    assert_eq!(bounds, json!({ "left": 0, "top": 300, "right": 640, "bottom": 360 }));
}

#[test]
fn what_starts_with_a_dash_is_a_value() {
    let world = World::new(WAITING_FLOW);
    for (video_id, shift) in [("-x", "-1.5"), ("--video-path", "-0"), ("-", "-1e3"), ("--help", "7")] {
        Test::new(&world)
            .args(["queue", "wait", "--video-id", video_id, "--shift", shift])
            .json();
        let run = world.runs().remove(0);
        assert_eq!(run.video_id.as_deref(), Some(video_id));
        assert_eq!(run.parameters.0["shift"].as_f64(), shift.parse().ok());
        let listed = Test::new(&world).args(["runs", "--video", video_id, "--json"]).json();
        assert_eq!(listed["flowRunId"], run.flow_run_id.to_string());
    }
}

#[test]
fn a_wrong_call_says_why_and_queues_nothing() {
    let world = World::new(WAITING_FLOW);
    for (arguments, code, expected) in [
        (vec!["queue"], INVALID, "crop-frames, full-frames, wait"),
        (vec!["queue", ""], "ERR_CAPTIONACC_UNKNOWN_FLOW", "unknown flow"),
        (
            vec!["queue", "full-frame"],
            "ERR_CAPTIONACC_UNKNOWN_FLOW",
            "did you mean \"full-frames\"?",
        ),
        (vec!["queue", "full-frames"], INVALID, "\"video-id\": missing"),
        (vec!["queue", "wait", "--video-id", ""], INVALID, "\"video-id\": empty"),
        (vec!["queue", "wait", "--video-id"], INVALID, "a value is required"),
        (vec!["runs", "show"], INVALID, "not provided: <FLOW_RUN_ID>"),
        (
            vec!["queue", "wait", "--vidoe-id", "v"],
            INVALID,
            "did you mean \"video-id\"?",
        ),
        (vec!["queue", "wait", "v1"], INVALID, "belongs to no option"),
        (
            vec!["queue", "wait", "--video-id", "a", "--video-id", "b"],
            INVALID,
            "multiple times",
        ),
        (
            vec!["queue", "wait", "--video-id", "v", "--shift", "NaN"],
            INVALID,
            "not a finite number",
        ),
        (
            vec!["queue", "wait", "--video-id", "v", "--shift", "x"],
            INVALID,
            "\"shift\": \"x\"",
        ),
        (
            vec!["queue", "wait", "--video-id", "v", "--idempotency-key", " "],
            INVALID,
            "idempotencyKey",
        ),
        (vec!["quue"], INVALID, "'queue'"),
        (vec!["--verbose"], INVALID, "--verbose"),
        (vec!["runs", "--state", "fail"], INVALID, "'failed'"),
        (vec!["runs", "--limit", "0"], INVALID, "limit"),
        (
            vec!["runs", "--flow", "waits"],
            "ERR_CAPTIONACC_UNKNOWN_FLOW",
            "did you mean \"wait\"?",
        ),
        (vec!["runs", "show", "no-uuid"], INVALID, "not a flow run id"),
        (vec!["runs", "logs"], INVALID, "FLOW_RUN_ID"),
        (vec!["lineage", "video://v9"], INVALID, "no flow run has made"),
        (vec!["worker", "--limit", "0"], INVALID, "limit"),
    ] {
        // Without a flow, its list comes on stdout.
        if arguments == ["queue"] {
            let output = Test::new(&world).args(&arguments).output();
            assert!(text(&output.stderr).contains(expected));
            assert_eq!(output.status.code(), Some(1));
        } else {
            Test::new(&world).args(&arguments).failure(code, expected);
        }
    }
    for (option, value, expected) in [
        ("--frame-rate", "0", "0 is not a frame rate"),
        ("--frame-rate", "-1", "-1 is not a frame rate"),
        ("--frame-rate", "NaN", "not a finite number"),
        ("--frame-rate", "inf", "not a finite number"),
        ("--crop-bounds", "{", "is not JSON"),
        (
            "--crop-bounds",
            r#"{"left":5,"top":0,"right":5,"bottom":9}"#,
            "has no area",
        ),
        (
            "--crop-bounds",
            r#"{"left":-5,"top":0,"right":5,"bottom":9}"#,
            "whole pixels",
        ),
        ("--crop-bounds-version", "0", "whole number from 1"),
        ("--video-path", "http://localhost/v.mp4", "is an address"),
        ("--video-path", "concat:a|b", "is an address"),
    ] {
        let mut arguments: Vec<&str> = FULL_FRAMES.to_vec();
        arguments[1] = "crop-frames";
        if option == "--video-path" {
            arguments[5] = value;
        } else {
            arguments.extend([option, value]);
        }
        if option != "--crop-bounds" {
            arguments.extend(["--crop-bounds", BOUNDS]);
        }
        Test::new(&world).args(arguments).failure(INVALID, expected);
    }
    assert_eq!(world.runs(), []);
}

#[test]
fn what_is_not_utf_8_is_refused() {
    let world = World::new("");
    let strange = OsString::from_vec(b"v\xff.mp4".to_vec());
    let mut arguments: Vec<OsString> = FULL_FRAMES.iter().map(OsString::from).collect();
    arguments[5] = strange.clone();
    Test::new(&world)
        .args(&arguments)
        .failure(INVALID, "\"video-path\": \"v\u{fffd}.mp4\" is not UTF-8");
    Test::new(&world).args([&strange]).failure(INVALID, "v");
    assert_eq!(world.runs(), []);
}

#[test]
fn faults_of_the_settings_are_errors_of_every_command() {
    let world = World::new("");
    fs::write(world.path("captionacc.toml"), "orchestrater = 1").expect("written");
    for arguments in [
        vec!["queue", "full-frames"],
        vec!["runs"],
        vec!["pool"],
        vec!["lineage"],
        vec!["service"],
        vec!["worker"],
    ] {
        Test::new(&world)
            .args(arguments)
            .failure("ERR_CAPTIONACC_CONFIG", "orchestrater");
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    let world = World::new(WAITING_FLOW);
    let version = Test::new(&world).args(["--version"]).success();
    assert_eq!(version, format!("captionacc {}\n", env!("CARGO_PKG_VERSION")));
    for (arguments, expected) in [
        (vec!["--help"], "Examples:"),
        (vec!["queue", "--help"], "Waits"),
        (vec!["queue", "wait", "--help"], "which video [required]"),
        (vec!["queue", "wait", "-h"], "[default: 0]"),
        (vec!["queue", "wait", "-h"], "captionacc queue wait --video-id TEXT\n"),
        (vec!["runs", "--help"], "Examples:"),
        (vec!["help", "worker"], "Examples:"),
    ] {
        let help = Test::new(&world).args(&arguments).success();
        assert!(help.contains(expected), "{arguments:?}: {help}");
        assert!(!help.contains('\u{1b}'), "{help}");
    }
}

#[test]
fn a_run_is_followed_to_its_end() {
    let world = World::new(WAITING_FLOW);
    let worker = world.start_worker();
    let id = world.queue("wait", json!({ "video-id": "v1" })).to_string();
    let mut follow = Test::new(&world)
        .args(["runs", "logs", &id, "--follow"])
        .command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdout = BufReader::new(follow.stdout.take().expect("piped"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("it reads");
    assert!(line.ends_with("running\n"), "{line}");
    fs::write(world.path("go"), "").expect("written");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("it reads");
    assert!(rest.ends_with("gone\n"), "{rest}");
    let output = follow.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));

    let shown = Test::new(&world).args(["runs", "show", &id, "--json"]).json();
    assert_eq!(shown["state"]["name"], "Completed");
    let shown = Test::new(&world).args(["runs", "show", &id]).success();
    for expected in ["deployment    wait/production", "video-id = v1", "Completed", "States"] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    assert!(!shown.contains("progress"), "a completed run is not at 50 %: {shown}");
    let logs = Test::new(&world).args(["runs", "logs", &id, "--json"]).success();
    let messages: Vec<Value> = logs
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["message"].clone())
        .collect();
    assert_eq!(messages, ["(1/2) running", "gone"]);
    worker.stop();
}

#[test]
fn an_interrupt_ends_following_quietly_and_not_the_run() {
    let world = World::new(WAITING_FLOW);
    let worker = world.start_worker();
    let id = world.queue("wait", json!({ "video-id": "v1" }));
    let mut follow = Test::new(&world)
        .args(["runs", "logs", &id.to_string(), "-f"])
        .command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    BufReader::new(follow.stdout.as_mut().expect("piped"))
        .read_line(&mut line)
        .expect("it reads");
    kill(follow.id(), Signal::INT);
    let output = follow.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
    assert_eq!(world.run(id).state.name, StateName::Running);
    world.block_on(world.store.cancel_flow_run(id)).expect("cancels");
    world.wait_for(id, StateName::Cancelled);
    worker.stop();
}

#[test]
fn a_run_is_listed_cancelled_and_retried() {
    let world = World::new(WAITING_FLOW);
    let id = world.queue("wait", json!({ "video-id": "v\u{1b}[2J" }));
    let list = Test::new(&world).args(["runs"]).success();
    assert!(list.starts_with("FLOW RUN"), "{list}");
    assert!(
        list.contains(&format!("{id}  wait  v\\u{{1b}}[2J  Scheduled")),
        "{list}"
    );
    let text_id = id.to_string();
    let said = Test::new(&world).args(["runs", "cancel", &text_id]).success();
    assert_eq!(said, format!("Flow run {id} is Cancelled.\n"));
    for (state, expected) in [("cancelled,failed", 1), ("Completed", 0)] {
        let list = Test::new(&world)
            .args(["runs", "list", "--state", state, "--json"])
            .success();
        assert_eq!(list.lines().count(), expected, "{list}");
    }
    let said = Test::new(&world).args(["runs", "retry", &text_id, "--json"]).json();
    assert_eq!(
        (&said["flowRunId"], &said["state"]["name"]),
        (&json!(id), &json!("Scheduled"))
    );
    fs::write(world.path("go"), "").expect("written");
    let worker = world.start_worker_with(&["--once"]);
    let (status, log) = worker.wait();
    assert!(status.success(), "{log}");
    Test::new(&world)
        .args(["runs", "retry", &text_id])
        .failure("ERR_CAPTIONACC_INVALID_STATE", "Completed");
    Test::new(&world)
        .args(["runs", "show", &FlowRunId::generate().to_string()])
        .failure("ERR_CAPTIONACC_FLOW_RUN_NOT_FOUND", "not known");
}

#[test]
fn a_paused_pool_says_so_until_resumed() {
    let world = World::new("");
    assert!(
        Test::new(&world)
            .args(["pool"])
            .success()
            .starts_with("video-processing-pool: ready, 0 of 2")
    );
    let paused = Test::new(&world).args(["pool", "pause"]).success();
    assert!(
        paused.contains(": paused (captionacc pool resume goes on), 0 of 2"),
        "{paused}"
    );
    let pool = Test::new(&world).args(["pool", "show", "--json"]).json();
    assert_eq!(
        (&pool["isPaused"], &pool["concurrencyLimit"]),
        (&json!(true), &json!(2))
    );
    let pool = Test::new(&world).args(["pool", "resume", "--json"]).json();
    assert_eq!(pool["isPaused"], false);
}

#[test]
fn lineage_shows_what_a_run_made_and_from_what() {
    let world = World::new(WAITING_FLOW);
    assert!(Test::new(&world).args(["lineage"]).success().starts_with("No assets"));
    fs::write(world.path("go"), "").expect("written");
    let id = world.queue("wait", json!({ "video-id": "v1" }));
    let (status, log) = world.start_worker_with(&["--once"]).wait();
    assert!(status.success(), "{log}");
    let tree = Test::new(&world).args(["lineage"]).success();
    let lines: Vec<&str> = tree.lines().collect();
    assert!(
        lines[0].starts_with("models://m-v1  2") && lines[0].ends_with(" by wait"),
        "{tree}"
    );
    assert_eq!(lines[1..], ["└── video://v1  (made by no flow run)"]);
    let lineage = Test::new(&world).args(["lineage", "models://m-v1", "--json"]).json();
    assert_eq!(lineage["assets"]["models://m-v1"]["flowRunId"], json!(id));
    assert_eq!(
        Test::new(&world).args(["lineage", "--stale"]).success(),
        "Nothing is stale.\n"
    );
    Test::new(&world)
        .args(["lineage", "models://m-v2"])
        .failure(INVALID, "did you mean \"models://m-v1\"?");
}

fn doctor(test: Test) -> (Option<i32>, Value) {
    let output = test.args(["doctor", "--json"]).output();
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(text(&output.stderr), "");
    let is_error = report["level"] == "error";
    assert_eq!(output.status.code(), Some(i32::from(is_error)), "{report:#}");
    for finding in report["findings"].as_array().expect("a list") {
        assert_eq!(finding["level"] == "ok", finding["fix"].is_null(), "{finding}");
    }
    (output.status.code(), report)
}

/// Level and message of the first finding of that check.
#[track_caller]
fn finding<'a>(report: &'a Value, check: &str) -> (&'a str, &'a str) {
    let findings = report["findings"].as_array().expect("a list");
    let finding = findings
        .iter()
        .find(|finding| finding["check"] == check)
        .unwrap_or_else(|| panic!("no {check} in {report:#}"));
    (
        finding["level"].as_str().expect("text"),
        finding["message"].as_str().expect("text"),
    )
}

#[test]
fn doctor_tells_what_is_chosen_and_whether_it_works() {
    let world = World::new("");
    let (_, report) = doctor(Test::new(&world));
    let (level, message) = finding(&report, "orchestrator");
    assert_eq!(level, "ok");
    assert!(
        message.contains("embedded") && message.contains("CAPTIONACC_ORCHESTRATOR=embedded"),
        "{message}"
    );
    for check in [
        "configuration",
        "home",
        "queue",
        "work pool",
        "flows",
        "sqlite",
        "media",
    ] {
        assert_eq!(finding(&report, check).0, "ok", "{report:#}");
    }
    assert_eq!(finding(&report, "worker").0, "warning");
    let worker = world.start_worker();
    world.wait_until("the worker is known", || {
        let pool = world.block_on(world.store.read_work_pool()).expect("a pool");
        pool.workers.iter().any(|worker| worker.is_alive)
    });
    assert_eq!(finding(&doctor(Test::new(&world)).1, "worker").0, "ok");
    worker.stop();
}

#[test]
fn doctor_names_a_worker_that_is_older_than_the_configuration() {
    let world = World::new("");
    let worker = world.start_worker();
    world.wait_until("the worker is known", || {
        let pool = world.block_on(world.store.read_work_pool()).expect("a pool");
        pool.workers.iter().any(|worker| worker.is_alive)
    });
    let older = || {
        let (_, report) = doctor(Test::new(&world));
        let findings = report["findings"].as_array().expect("a list").clone();
        let mut of_worker = findings.into_iter().filter(|finding| finding["check"] == "worker");
        of_worker.any(|finding| {
            let message = finding["message"].as_str().expect("text");
            finding["level"] == "warning" && message.contains("is older than") && message.contains("captionacc.toml")
        })
    };
    assert!(!older(), "nothing has changed");
    fs::write(world.path("captionacc.toml"), "[flows.new]\ncommand = ['true']\n").expect("written");
    assert!(older());
    worker.stop();
    assert!(!older(), "there is no such worker any more");
}

#[test]
fn doctor_names_what_is_wrong() {
    let world = World::new("[flows.gone]\ncommand = ['no-such-program-here']");
    let (_, report) = doctor(Test::new(&world));
    assert!(report.to_string().contains("no-such-program-here"), "{report:#}");

    let (code, report) = doctor(Test::new(&world).env("CAPTIONACC_OCR_MODELS", "/nowhere"));
    assert_eq!((code, finding(&report, "ocr").0), (Some(1), "error"));

    let elsewhere = world.path("elsewhere");
    fs::create_dir(&elsewhere).expect("made");
    let (_, report) = doctor(Test::new(&world).env("CAPTIONACC_HOME", &elsewhere));
    let (level, message) = finding(&report, "home");
    assert_eq!(level, "warning", "{message}");
    assert!(!elsewhere.join("queue.db").exists(), "a look must not make a queue");

    fs::write(
        elsewhere.join("queue.db"),
        "this is no database, however long it may be",
    )
    .expect("written");
    let (code, report) = doctor(Test::new(&world).env("CAPTIONACC_HOME", &elsewhere));
    assert_eq!((code, finding(&report, "queue").0), (Some(1), "error"));

    fs::write(world.path("captionacc.toml"), "=").expect("written");
    let (code, report) = doctor(Test::new(&world));
    assert_eq!((code, finding(&report, "configuration").0), (Some(1), "error"));
}

#[test]
fn doctor_tries_the_locks_of_the_folder_of_videos() {
    let world = World::new("");
    let videos = world.path("videos");
    fs::create_dir(&videos).expect("made");
    let tried = |folder: &std::path::Path| {
        let output = Test::new(&world)
            .args([
                OsStr::new("doctor"),
                OsStr::new("--json"),
                OsStr::new("--videos"),
                folder.as_os_str(),
            ])
            .output();
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let report = tried(&videos);
    let (level, message) = finding(&report, "videos");
    assert_eq!(level, "ok", "{message}");
    assert_eq!(fs::read_dir(&videos).expect("reads").count(), 0, "nothing is left");

    let report = tried(&world.path("nowhere"));
    assert_eq!(finding(&report, "videos").0, "error");
}

#[test]
fn doctor_lists_every_setting_with_what_says_so() {
    let world = World::new("[worker]\nkill-grace-ms = 1234");
    let (_, report) = doctor(
        Test::new(&world)
            .env("CAPTIONACC_RETENTION_DAYS", "9")
            .env("CAPTIONACC_RETENTON_DAYS", "9")
            .env("PREFECT_API_KEY", "pnu_hidden")
            .env("PREFECT_API_URL", "http://user:hidden@127.0.0.1:1/api"),
    );
    let file = world.path("captionacc.toml").display().to_string();
    for (variable, value, from) in [
        ("CAPTIONACC_RETENTION_DAYS", "9", "environment"),
        ("CAPTIONACC_KILL_GRACE_MS", "1234", file.as_str()),
        ("CAPTIONACC_STALL_TIMEOUT_MS", "600000", "default"),
        ("PREFECT_API_KEY", "(not shown)", "environment"),
        ("PREFECT_API_URL", "http://127.0.0.1:1/api", "environment"),
    ] {
        let settings = report["settings"].as_array().expect("a list");
        let listed = settings.iter().find(|listed| listed["variable"] == variable);
        let listed = listed.unwrap_or_else(|| panic!("no {variable} in {report:#}"));
        assert_eq!(
            (&listed["value"], &listed["from"]),
            (&json!(value), &json!(from)),
            "{variable}"
        );
    }
    let text = report.to_string();
    assert!(!text.contains("hidden"), "{report:#}");
    assert!(
        text.contains("does nothing, did you mean \\\"CAPTIONACC_RETENTION_DAYS"),
        "{report:#}"
    );
}

#[test]
fn the_unit_carries_no_password() {
    let world = World::new("");
    let unit = Test::new(&world)
        .args(["service"])
        .env("PREFECT_API_URL", "http://user:hidden@127.0.0.1:4200/api")
        .success();
    assert!(unit.contains("\"PREFECT_API_URL=http://127.0.0.1:4200/api\""), "{unit}");
    assert!(!unit.contains("hidden"), "{unit}");
}

#[test]
fn the_unit_starts_this_binary_and_gives_it_time_to_stop() {
    let world = World::new("");
    for (arguments, target) in [
        (vec!["service"], "multi-user.target"),
        (vec!["service", "--user"], "default.target"),
    ] {
        let unit = Test::new(&world)
            .args(&arguments)
            .env("CAPTIONACC_GRACE_MS", "40000")
            .env("CAPTIONACC_KILL_GRACE_MS", "5000")
            .success();
        for expected in [
            "Type=notify",
            "NotifyAccess=main",
            "WatchdogSec=",
            "KillMode=mixed",
            "Restart=always",
            "TimeoutStopSec=60",
            &format!("ExecStart=\"{PROGRAM}\" worker"),
            &format!("Environment=\"CAPTIONACC_HOME={}\"", world.path("home").display()),
            &format!("WantedBy={target}"),
        ] {
            assert!(
                unit.lines().any(|line| line.starts_with(expected)),
                "{expected}: {unit}"
            );
        }
        verify(&world, &unit, arguments.len() > 1);
    }
}

/// systemd's own judgement, on machines that have it.
fn verify(world: &World, unit: &str, is_user: bool) {
    let path = world.path("captionacc.service");
    fs::write(&path, unit).expect("written");
    let mut command = Command::new("systemd-analyze");
    if is_user {
        command.arg("--user");
    }
    match command.arg("verify").arg("--man=no").arg(&path).output() {
        Ok(output) => {
            let said = text(&output.stderr);
            let ours: Vec<&str> = said.lines().filter(|line| line.contains("captionacc")).collect();
            assert_eq!(ours, Vec::<&str>::new(), "{said}");
        }
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}"),
    }
}

#[test]
fn a_closed_stdout_is_no_fault() {
    let world = World::new("");
    for arguments in [vec!["runs"], vec!["runs", "--help"], vec!["pool"], vec!["service"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let child = Test::new(&world)
            .args(&arguments)
            .command
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(
            (output.status.code(), text(&output.stderr)),
            (Some(0), String::new()),
            "{arguments:?}"
        );
    }
}

#[test]
fn an_attempt_started_by_hand_says_what_it_is() {
    let world = World::new("");
    // It reads no settings: those of a child come with its work order.
    fs::write(world.path("captionacc.toml"), "not = [ valid").expect("written");
    let output = Test::new(&world).args(["attempt"]).output();
    assert_eq!(output.status.code(), Some(4));
    assert!(
        text(&output.stderr).contains("started by the worker"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn the_text_of_a_picture_is_printed_as_the_old_script_printed_it() {
    let world = World::new("");
    let drawn = "color=c=0x304060:s=640x160,format=rgb24,drawtext=fontfile=/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc:\
                 fontsize=40:fontcolor=white:x=40:y=20:text='今天天气很好',drawtext=fontfile=/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf:\
                 fontsize=36:fontcolor=white:x=40:y=90:text='See you soon'";
    let picture = |name: &str| world.path(name).to_str().expect("a path of ours").to_owned();
    for name in ["a.jpg", "a.png"] {
        crate::studio::ffmpeg(&[
            "-f",
            "lavfi",
            "-i",
            drawn,
            "-frames:v",
            "1",
            "-q:v",
            "2",
            &picture(name),
        ]);
    }
    let models = crate::studio::ocr_models();
    let ocr = |arguments: &[&str]| {
        Test::new(&world)
            .env("CAPTIONACC_OCR_MODELS", &models)
            .args(["ocr"])
            .args(arguments)
    };
    let text = "今天天气很好See you soon";
    let expected = |language: &str| json!({ "text": text, "framework": "PP-OCR", "language": language });
    assert_eq!(ocr(&[&picture("a.jpg")]).json(), expected("zh-Hans"));
    assert_eq!(ocr(&["a.png", "en-US"]).json(), expected("en-US"));

    // A language that no model reads is read as far as it can be.
    let output = ocr(&["a.jpg", "th"]).output();
    assert_eq!(output.status.code(), Some(0));
    let [said, warned] =
        [&output.stdout, &output.stderr].map(|stream| serde_json::from_slice::<Value>(stream).expect("JSON"));
    assert_eq!(said, expected("th"));
    assert_eq!(warned["warning"]["code"], "OCR_LANGUAGE_UNKNOWN");

    ocr(&["none.jpg"]).failure("ERR_CAPTIONACC_IMAGE_NOT_FOUND", "none.jpg");
    ocr(&["home"]).failure("ERR_CAPTIONACC_IMAGE_UNREADABLE", "home");
    fs::write(world.path("text.jpg"), "no picture").expect("written");
    ocr(&["text.jpg"]).failure("ERR_CAPTIONACC_IMAGE_INVALID", "text.jpg");
    let whole = fs::read(world.path("a.jpg")).expect("it was made");
    fs::write(world.path("cut.jpg"), &whole[..whole.len() / 2]).expect("written");
    ocr(&["cut.jpg"]).failure("ERR_CAPTIONACC_IMAGE_INVALID", "cut.jpg");
    // A head that promises 60,000 pixels a side.
    let mut wide = fs::read(world.path("a.png")).expect("it was made");
    wide[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    fs::write(world.path("wide.png"), wide).expect("written");
    ocr(&["wide.png"]).failure("ERR_CAPTIONACC_IMAGE_INVALID", "wide.png");
    let huge = fs::File::create(world.path("huge.jpg")).expect("created");
    huge.set_len(300 << 20).expect("no bytes are written");
    ocr(&["huge.jpg"]).failure("ERR_CAPTIONACC_IMAGE_TOO_LARGE", "huge.jpg");
    ocr(&[]).failure(INVALID, "IMAGE");
}
