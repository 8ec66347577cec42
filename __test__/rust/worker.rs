//! The worker with real processes: limits, signals, deaths, hostile children. Programs stand in for pipelines here,
//! because a program can be told to misbehave; the pipelines have tests of their own.

use std::fs;
use std::time::{Duration, Instant};

use captionacc::domain::id::FlowRunId;
use captionacc::domain::state::StateName;
use captionacc::process::identity::ProcessIdentity;
use rustix::process::{Signal, geteuid, getpriority_process};
use serde_json::json;

use crate::world::{Worker, World, exists, kill};

/// A flow `NAME` that runs a shell script; `{folder}` is a folder of the test.
fn flow(name: &str, script: &str, more: &str) -> String {
    format!(
        "[flows.{name}]\ncommand = ['sh', '-c', '''{}''', 'sh', '{{folder}}', '{{video-id}}']\n{more}\n\
         [flows.{name}.parameters.folder]\ntype = 'path'\n[flows.{name}.parameters.video-id]\ntype = 'text'\ndefault = 'v'\n",
        // Braces are templates.
        script.replace('{', "{{").replace('}', "}}")
    )
}

fn queue(world: &World, name: &str) -> FlowRunId {
    world.queue(
        name,
        json!({ "folder": ".", "video-id": format!("{name}-{}", FlowRunId::generate()) }),
    )
}

/// Says that it runs, then waits for the file `go`.
const UNTIL_GO: &str = "echo running; while [ ! -e \"$1/go\" ]; do sleep 0.02; done; echo gone";

#[test]
fn a_program_runs_with_logs_progress_and_assets() {
    let script = "echo hello; echo '(1/2 frames)'; echo '(2/2 frames)'; echo bad >&2";
    let world = World::new(&flow(
        "hello",
        script,
        "assets = ['models://m-{video-id}']\nupstream-assets = ['video://{video-id}']",
    ));
    let worker = world.start_worker();
    let id = world.queue("hello", json!({ "folder": ".", "video-id": "v7" }));
    let run = world.wait_for(id, StateName::Completed);
    let progress = run.progress.expect("reported");
    assert_eq!(
        (progress.done, progress.total, progress.unit.as_str()),
        (2, Some(2), "frames")
    );
    let mut lines = world.logs(id);
    lines.sort();
    assert_eq!(lines, ["(1/2 frames)", "(2/2 frames)", "bad", "hello"]);
    let lineage = world.block_on(world.store.read_lineage()).expect("reads");
    assert_eq!(lineage.assets["models://m-v7"].upstreams[0].key, "video://v7");
    let log = worker.stop();
    for expected in [
        "Worker started",
        "Flow run started",
        "Flow run completed",
        "Worker stopped",
    ] {
        assert!(log.contains(expected), "{expected}: {log}");
    }
}

#[test]
fn the_newest_of_many_steps_at_once_is_told() {
    let script = format!("for step in 1 2 3 4 5 6 7; do echo \"($step/20 parts)\"; done; {UNTIL_GO}");
    let world = World::new(&flow("steps", &script, ""));
    let worker = world.start_worker();
    let id = queue(&world, "steps");
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let run = world.block_on(world.store.read_flow_run(id)).expect("known");
        if run.progress.as_ref().is_some_and(|progress| progress.done == 7) {
            break;
        }
        assert!(Instant::now() < deadline, "{run:?}");
    }
    fs::write(world.path("go"), "").expect("written");
    world.wait_for(id, StateName::Completed);
    worker.stop();
}

#[test]
fn a_run_for_which_nobody_waits_gives_way_to_others() {
    let flows = ["background", "user-initiated"].map(|queue| {
        let queued = format!("work-queue = '{queue}'");
        flow(queue, "nice > \"$1/nice\"", &queued)
    });
    let world = World::new(&flows.concat());
    let worker = world.start_worker();
    let own = getpriority_process(None).expect("a process has one");
    for (name, expected) in [("background", (own + 10).min(19)), ("user-initiated", own)] {
        let id = queue(&world, name);
        world.wait_for(id, StateName::Completed);
        let nice = fs::read_to_string(world.path("nice")).expect("written");
        assert_eq!(nice.trim(), expected.to_string(), "{name}");
    }
    worker.stop();
}

#[test]
fn a_run_queued_before_the_worker_starts_is_not_lost() {
    let world = World::new(&flow("hello", "true", ""));
    let id = queue(&world, "hello");
    let _worker = world.start_worker();
    world.wait_for(id, StateName::Completed);
}

#[test]
fn two_workers_share_one_limit() {
    let world = World::new(&flow("wait", UNTIL_GO, ""));
    let ids: Vec<_> = (0..5).map(|_| queue(&world, "wait")).collect();
    let workers = [world.start_worker(), world.start_worker()];
    let pool = || world.block_on(world.store.read_work_pool()).expect("a pool");
    world.wait_until("two run, and both workers are there", || {
        ids.iter().filter(|id| world.run(**id).pid.is_some()).count() == 2 && pool().workers.len() == 2
    });
    assert_eq!(pool().active, 2);
    fs::write(world.path("go"), "").expect("written");
    for id in ids {
        world.wait_for(id, StateName::Completed);
    }
    drop(workers);
}

#[test]
fn a_cancelled_run_that_obeys_is_asked_and_not_killed() {
    let script = "trap 'echo asked; kill $!; exit 0' TERM; echo running; sleep 1000 & wait";
    let world = World::with(&flow("polite", script, ""), &[("CAPTIONACC_KILL_GRACE_MS", "60000")]);
    let worker = world.start_worker();
    let id = queue(&world, "polite");
    world.wait_for_line(id, "running");
    world.block_on(world.store.cancel_flow_run(id)).expect("cancels");
    world.wait_for(id, StateName::Cancelled);
    assert!(world.logs(id).contains(&"asked".to_owned()), "{:?}", world.logs(id));
    assert_eq!(world.processes_of(id), Vec::<u32>::new());
    worker.stop();
}

#[test]
fn a_cancelled_run_that_resists_is_killed_with_its_whole_tree_after_the_grace() {
    // A grandchild in a session of its own, which ignores TERM, and whose parent is gone.
    let script = "trap '' TERM; (setsid sh -c 'trap \"\" TERM; sleep 1000' &) ; echo running; sleep 1000";
    let world = World::with(&flow("stubborn", script, ""), &[("CAPTIONACC_KILL_GRACE_MS", "200")]);
    let worker = world.start_worker();
    let id = queue(&world, "stubborn");
    world.wait_for_line(id, "running");
    assert!(world.processes_of(id).len() >= 4, "{:?}", world.processes_of(id));
    world.block_on(world.store.cancel_flow_run(id)).expect("cancels");
    world.wait_for(id, StateName::Cancelled);
    assert_eq!(world.processes_of(id), Vec::<u32>::new());
    worker.stop();
}

#[test]
fn what_a_program_leaves_running_ends_with_its_run() {
    let world = World::new(&flow("leaver", "(setsid sleep 1000 >/dev/null 2>&1 &); echo left", ""));
    let worker = world.start_worker();
    let id = queue(&world, "leaver");
    world.wait_for(id, StateName::Completed);
    assert_eq!(world.processes_of(id), Vec::<u32>::new());
    worker.stop();
}

#[test]
fn what_hides_its_mark_in_the_group_of_the_run_ends_with_it() {
    let script = "env -i sleep 1000 >/dev/null 2>&1 & echo $!";
    let world = World::new(&flow("hider", script, ""));
    let worker = world.start_worker();
    let id = queue(&world, "hider");
    world.wait_for(id, StateName::Completed);
    let pid = world.logs(id)[0].parse().expect("a pid");
    world.wait_until("it is gone", || ProcessIdentity::of(pid).is_none());
    worker.stop();
}

#[test]
fn a_worker_that_stands_still_keeps_its_runs() {
    let world = World::new(&(flow("wait", UNTIL_GO, "") + &flow("hello", "true", "")));
    let slow = world.start_worker();
    let id = queue(&world, "wait");
    world.wait_for_line(id, "running");
    slow.signal(Signal::STOP);
    let other = world.start_worker();
    let hello = queue(&world, "hello");
    world.wait_for(hello, StateName::Completed);
    // The other one has looked for dead workers before it claimed.
    let run = world.run(id);
    assert_eq!((run.state.name, run.attempt), (StateName::Running, 1));
    slow.signal(Signal::CONT);
    fs::write(world.path("go"), "").expect("written");
    assert_eq!(world.wait_for(id, StateName::Completed).attempt, 1);
    slow.stop();
    other.stop();
}

#[test]
fn sigterm_to_the_process_of_a_run_cancels_it() {
    let world = World::new(&flow("wait", UNTIL_GO, ""));
    let worker = world.start_worker();
    let id = queue(&world, "wait");
    world.wait_for_line(id, "running");
    // As the web app does when it deletes a video.
    kill(world.run(id).pid.expect("it runs"), Signal::TERM);
    let run = world.wait_for(id, StateName::Cancelled);
    assert_eq!(run.attempt, 1);
    assert_eq!(world.processes_of(id), Vec::<u32>::new());
    worker.stop();
}

#[test]
fn the_first_signal_lets_running_attempts_finish_and_claims_nothing_more() {
    let world = World::new(&flow("wait", UNTIL_GO, ""));
    let worker = world.start_worker_with(&["--limit", "1"]);
    let running = queue(&world, "wait");
    let waiting = queue(&world, "wait");
    world.wait_for_line(running, "running");
    worker.signal(Signal::TERM);
    fs::write(world.path("go"), "").expect("written");
    let (status, log) = worker.wait();
    assert!(status.success(), "{status} {log}");
    assert_eq!(world.run(running).state.name, StateName::Completed);
    assert_eq!(world.run(waiting).attempt, 0);
}

#[test]
fn a_second_signal_gives_running_attempts_back_at_once() {
    let world = World::new(&flow("wait", &format!("trap '' TERM; {UNTIL_GO}"), ""));
    let worker = world.start_worker();
    let id = queue(&world, "wait");
    world.wait_for_line(id, "running");
    worker.signal(Signal::INT);
    worker.signal(Signal::TERM);
    let (status, log) = worker.wait();
    assert!(status.success(), "{status} {log}");
    let run = world.run(id);
    assert_eq!(
        (run.state.state_type, run.failed_attempts),
        (StateName::Scheduled.state_type(), 0),
        "{log}"
    );
    assert_eq!(world.processes_of(id), Vec::<u32>::new());
    // The next worker runs it.
    fs::write(world.path("go"), "").expect("written");
    let _worker = world.start_worker();
    world.wait_for(id, StateName::Completed);
}

#[test]
fn attempts_that_outlast_the_grace_are_given_back() {
    let world = World::new(&flow("wait", UNTIL_GO, ""));
    let worker = world.start_worker_with(&["--grace-ms", "50"]);
    let id = queue(&world, "wait");
    world.wait_for_line(id, "running");
    let log = worker.stop();
    let run = world.run(id);
    assert_eq!(
        (run.state.state_type, run.failed_attempts),
        (StateName::Scheduled.state_type(), 0),
        "{log}"
    );
    assert_eq!(world.processes_of(id), Vec::<u32>::new());
}

#[test]
fn a_worker_whose_script_runner_died_drains_and_ends() {
    let world = World::new("");
    let mut command = world.command("sh");
    command
        .env("npm_lifecycle_event", "worker")
        .args([
            "-c",
            &format!(
                "'{}' worker >worker.log 2>&1 & echo $!; wait",
                env!("CARGO_BIN_EXE_captionacc")
            ),
        ])
        .stdout(std::process::Stdio::piped());
    let mut runner = command.spawn().expect("sh starts");
    let mut pid = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(runner.stdout.take().expect("piped")),
        &mut pid,
    )
    .expect("a pid");
    let worker = ProcessIdentity::of(pid.trim().parse().expect("a number")).expect("it runs");
    let log = world.path("worker.log");
    world.wait_until("the worker has started", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("Worker started"))
    });
    runner.kill().expect("it is ours");
    runner.wait().expect("it ended");
    world.wait_until("the worker has ended", || !worker.is_alive());
    let text = fs::read_to_string(&log).expect("a log");
    assert!(text.contains("Worker stopped"), "{text}");
}

#[test]
fn a_killed_worker_takes_its_children_along_and_the_next_one_recovers_the_run() {
    let world = World::new(&flow("wait", UNTIL_GO, ""));
    let worker = world.start_worker();
    let id = queue(&world, "wait");
    world.wait_for_line(id, "running");
    worker.kill();
    world.wait_until("the child has noticed", || world.processes_of(id).is_empty());
    let run = world.run(id);
    assert_eq!(run.state.name, StateName::Running, "nobody has recovered it yet");
    fs::write(world.path("go"), "").expect("written");
    let worker = world.start_worker();
    let run = world.wait_for(id, StateName::Completed);
    assert_eq!(
        (run.attempt, run.failed_attempts),
        (2, 0),
        "an interruption is not counted"
    );
    worker.stop();
}

#[test]
fn a_second_worker_recovers_the_runs_of_a_dead_one() {
    let world = World::new(&flow("wait", UNTIL_GO, ""));
    let first = world.start_worker();
    let id = queue(&world, "wait");
    world.wait_for_line(id, "running");
    let second = world.start_worker();
    first.kill();
    fs::write(world.path("go"), "").expect("written");
    world.wait_for(id, StateName::Completed);
    second.stop();
}

#[test]
fn a_killed_child_is_a_crash_and_tried_again() {
    let world = World::new(&flow("wait", UNTIL_GO, "retry-delay-ms = 1"));
    let worker = world.start_worker();
    let id = queue(&world, "wait");
    world.wait_for_line(id, "running");
    kill(world.run(id).pid.expect("it runs"), Signal::KILL);
    world.wait_until("it is tried again", || world.run(id).attempt == 2);
    fs::write(world.path("go"), "").expect("written");
    let run = world.wait_for(id, StateName::Completed);
    assert_eq!(run.failed_attempts, 1);
    assert!(world.states(id).contains(&StateName::AwaitingRetry));
    worker.stop();
}

#[test]
fn a_run_that_keeps_failing_is_given_up_after_its_retries() {
    let world = World::new(&flow("bad", "exit 9", "retries = 2\nretry-delay-ms = 1"));
    let worker = world.start_worker();
    let id = queue(&world, "bad");
    let run = world.wait_for(id, StateName::Failed);
    let log = worker.stop();
    assert_eq!((run.attempt, run.failed_attempts), (3, 3), "{log}");
    assert!(run.state.message.is_some_and(|message| message.contains("code 9")));
}

#[test]
fn a_fault_of_the_input_is_not_tried_again() {
    let world = World::new(&(flow("data", "exit 65", "") + "[flows.nothing]\ncommand = ['/no/such/program']\n"));
    let worker = world.start_worker();
    let data = queue(&world, "data");
    let nothing = world.queue("nothing", json!({}));
    for id in [data, nothing] {
        assert_eq!(world.wait_for(id, StateName::Failed).attempt, 1);
    }
    assert!(
        world
            .run(nothing)
            .state
            .message
            .is_some_and(|message| message.contains("/no/such/program"))
    );
    worker.stop();
}

#[test]
fn a_run_that_takes_longer_than_its_timeout_is_stopped() {
    let world = World::new(&flow("slow", UNTIL_GO, "timeout-ms = 200\nretries = 0"));
    let worker = world.start_worker();
    let id = queue(&world, "slow");
    world.wait_for(id, StateName::TimedOut);
    assert_eq!(world.processes_of(id), Vec::<u32>::new());
    worker.stop();
}

#[test]
fn a_run_that_says_nothing_is_taken_for_hung() {
    let world = World::with(
        &flow("hung", UNTIL_GO, "retries = 0"),
        &[("CAPTIONACC_STALL_TIMEOUT_MS", "300")],
    );
    let worker = world.start_worker();
    let id = queue(&world, "hung");
    let run = world.wait_for(id, StateName::TimedOut);
    assert!(run.state.message.is_some_and(|message| message.contains("hung")));
    worker.stop();
}

#[test]
fn a_run_that_takes_too_much_memory_is_stopped_and_says_so() {
    // tail keeps the last line, which never ends; again and again, because once may be over before anybody looks.
    let script = "echo running; while :; do head -c 400000000 /dev/zero | tail -n 1 >/dev/null; done";
    let world = World::with(
        &flow("hungry", script, "retries = 0"),
        &[("CAPTIONACC_CHILD_MEMORY_MB", "100")],
    );
    let worker = world.start_worker();
    let id = queue(&world, "hungry");
    world.wait_until("it has ended", || {
        world.run(id).ended_at.is_some() || world.logs(id).len() > 1
    });
    let run = world.wait_for(id, StateName::Crashed);
    assert!(
        run.state
            .message
            .as_ref()
            .is_some_and(|message| message.contains("100 MB")),
        "{run:?}"
    );
    worker.stop();
}

#[test]
fn a_flood_of_output_is_bounded_and_the_run_completes() {
    let script = "i=0; while [ $i -lt 20 ]; do seq 10000; i=$((i+1)); done; head -c 3000000 /dev/urandom; echo end";
    let world = World::new(&flow("flood", script, ""));
    let worker = world.start_worker();
    let id = queue(&world, "flood");
    world.wait_for(id, StateName::Completed);
    let lines = world.logs(id);
    assert!(lines.len() < 60_000, "{}", lines.len());
    assert!(
        lines.iter().any(|line| line.contains("lines were left out")),
        "{} lines",
        lines.len()
    );
    worker.stop();
}

#[test]
fn a_program_can_not_speak_for_the_worker() {
    // What a program prints is its log, also when it looks like an event of ours.
    let world = World::new(&flow(
        "liar",
        r#"echo '{"event":"completed","message":"lies"}'; exit 65"#,
        "",
    ));
    let worker = world.start_worker();
    let id = queue(&world, "liar");
    world.wait_for(id, StateName::Failed);
    assert!(world.logs(id).iter().any(|line| line.contains("lies")));
    worker.stop();
}

#[test]
fn no_key_reaches_a_program() {
    let world = World::with(
        &flow("spy", "env", ""),
        &[
            ("PREFECT_API_KEY", "pnu_secret"),
            ("PREFECT_API_AUTH_STRING", "user:secret"),
            ("KEPT", "yes"),
        ],
    );
    let worker = world.start_worker();
    let id = queue(&world, "spy");
    world.wait_for(id, StateName::Completed);
    let lines = world.logs(id);
    assert!(
        lines.contains(&"KEPT=yes".to_owned()),
        "the rest of the environment is the operator's"
    );
    assert!(!lines.iter().any(|line| line.contains("secret")), "{lines:?}");
    worker.stop();
}

#[test]
fn arguments_reach_a_program_as_they_are() {
    let world = World::new(&flow("echo", "printf '%s\\n' \"$2\"", ""));
    let worker = world.start_worker();
    let id = world.queue(
        "echo",
        json!({ "folder": ".", "video-id": "a b; $(touch x) {y} 'q' \"字\"" }),
    );
    world.wait_for(id, StateName::Completed);
    assert_eq!(world.logs(id), ["a b; $(touch x) {y} 'q' \"字\""]);
    assert!(!exists(&world.path("x")));
    worker.stop();
}

#[test]
fn a_worker_with_once_ends_when_nothing_waits() {
    let world = World::new(&flow("hello", "true", ""));
    let ids: Vec<_> = (0..4).map(|_| queue(&world, "hello")).collect();
    let (status, log) = world.start_worker_with(&["--once"]).wait();
    assert!(status.success(), "{log}");
    assert!(
        ids.into_iter()
            .all(|id| world.run(id).state.name == StateName::Completed)
    );
}

#[test]
fn a_paused_pool_is_left_alone() {
    let world = World::new(&flow("hello", "true", ""));
    let id = queue(&world, "hello");
    world.block_on(world.store.set_paused(true)).expect("pauses");
    let (status, log) = world.start_worker_with(&["--once"]).wait();
    assert!(status.success() && log.contains("paused"), "{log}");
    assert_eq!(world.run(id).attempt, 0);
}

#[test]
fn a_flow_that_this_worker_does_not_know_is_left_for_one_that_does() {
    let world = World::new(&flow("hello", "true", ""));
    let id = queue(&world, "hello");
    fs::write(world.path("captionacc.toml"), "").expect("written");
    let worker = world.start_worker();
    let known = world.queue(
        "full-frames",
        json!({"video-id": "v", "video-path": "no.mp4", "db-path": "no/no.db", "output-dir": "o"}),
    );
    world.wait_for(known, StateName::Failed);
    assert_eq!(world.run(id).attempt, 0);
    worker.stop();
}

#[test]
fn a_worker_that_can_not_use_its_store_says_why_and_ends() {
    let world = World::new("");
    fs::write(
        world.path("other"),
        "this is no database, but long enough to be read as one",
    )
    .expect("written");
    let home = world.path("home2");
    fs::create_dir(&home).expect("made");
    fs::rename(world.path("other"), home.join("queue.db")).expect("moved");
    let mut command = world.command(env!("CARGO_BIN_EXE_captionacc"));
    let output = command
        .env("CAPTIONACC_HOME", &home)
        .arg("worker")
        .output()
        .expect("it runs");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("ERR_CAPTIONACC_STORE_CORRUPT"), "{said}");
}

#[test]
fn a_child_that_asks_without_end_and_hears_nothing_is_still_stopped() {
    // The program stops its parent, our child, and speaks in its place: its questions are answered into a pipe that
    // nobody reads.
    let flood = "kill -STOP $PPID; exec 9>/proc/$PPID/fd/3; yes '{\"event\":\"may_commit\"}' >&9";
    let grace = [("CAPTIONACC_KILL_GRACE_MS", "200")];
    let world = World::with(&flow("flood", flood, "timeout-ms = 8000\nretries = 0"), &grace);
    let worker = world.start_worker();
    let id = queue(&world, "flood");
    world.wait_for(id, StateName::TimedOut);
    assert_eq!(world.processes_of(id), Vec::<u32>::new());
    worker.stop();
}

#[test]
fn no_password_of_an_address_reaches_a_program() {
    let world = World::with(
        &flow("spy", "env", ""),
        &[
            ("PREFECT_API_URL", "http://someone:secret1@127.0.0.1:9/api"),
            ("PREFECT_CLOUD_API_URL", "https://secret2@127.0.0.1:9/api"),
            (
                "PREFECT_API_DATABASE_CONNECTION_URL",
                "postgresql+asyncpg://p:secret3@db/prefect",
            ),
            ("PREFECT_SERVER_API_AUTH_STRING", "admin:secret4"),
            ("PREFECT_API_DATABASE_PASSWORD", "secret5"),
            ("PREFECT_CLIENT_CUSTOM_HEADERS", "{\"Authorization\": \"secret6\"}"),
            ("PREFECT_LOGGING_LEVEL", "DEBUG"),
        ],
    );
    let worker = world.start_worker();
    let id = queue(&world, "spy");
    world.wait_for(id, StateName::Completed);
    let lines = world.logs(id);
    assert!(!lines.iter().any(|line| line.contains("secret")), "{lines:?}");
    for kept in ["PREFECT_API_URL=http://127.0.0.1:9/api", "PREFECT_LOGGING_LEVEL=DEBUG"] {
        assert!(lines.contains(&kept.to_owned()), "{kept}: {lines:?}");
    }
    let log = worker.stop();
    assert!(!log.contains("secret"), "{log}");
}

#[test]
fn the_longest_line_and_the_longest_arguments_arrive_as_they_are() {
    // The quotes take twice their room in the worker's protocol.
    let script = "yes '\"' | head -n 65000 | tr -d '\\n'";
    let world = World::new(&flow("long", script, "assets = ['models://m']"));
    let worker = world.start_worker();
    // One argument has 32 KiB at most; this one takes six times as much in JSON.
    let long = "\u{1}".repeat(32_000);
    let id = world.queue("long", json!({ "folder": ".", "video-id": long }));
    world.wait_for(id, StateName::Completed);
    assert!(
        world.logs(id) == ["\"".repeat(65_000)],
        "{:.200}",
        world.logs(id).concat()
    );
    let lineage = world.block_on(world.store.read_lineage()).expect("reads");
    let asset = lineage.assets.get("models://m").expect("it was made");
    assert_eq!(asset.metadata["parameters"]["video-id"], long);
    worker.stop();
}

#[test]
fn what_a_run_may_log_is_bounded_in_bytes_over_all_its_attempts() {
    let script = "line=$(head -c 60000 /dev/zero | tr '\\0' x); i=0; while [ $i -lt 200 ]; do echo $line; i=$((i+1)); done; exit 9";
    let world = World::new(&flow("flood", script, "retries = 2\nretry-delay-ms = 1"));
    let worker = world.start_worker();
    let id = queue(&world, "flood");
    world.wait_for(id, StateName::Failed);
    let lines = world.logs(id);
    let bytes: usize = lines.iter().map(String::len).sum();
    assert!((10_000_000..18_000_000).contains(&bytes), "{bytes}");
    assert!(lines.iter().any(|line| line.contains("lines were left out")));
    worker.stop();
}

#[test]
fn an_older_sqlite_finds_queue_db_sound() {
    let world = World::new(&flow("hello", "true", ""));
    let worker = world.start_worker();
    let id = queue(&world, "hello");
    world.wait_for(id, StateName::Completed);
    worker.stop();
    // Python brings the system's own, which is older than ours on every system that is supported.
    let script =
        "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('PRAGMA integrity_check').fetchall())";
    let output = std::process::Command::new("python3")
        .args(["-c", script])
        .arg(world.path("home/queue.db"))
        .output()
        .expect("python3 runs");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "[('ok',)]",
        "{output:?}"
    );
}

#[test]
fn a_worker_that_waits_for_an_api_is_ready_and_watched_and_can_be_stopped() {
    let world = World::new("");
    let socket = world.path("notify");
    let systemd = std::os::unix::net::UnixDatagram::bind(&socket).expect("a socket");
    systemd
        .set_read_timeout(Some(std::time::Duration::from_mins(1)))
        .expect("set");
    let mut command = world.command(env!("CARGO_BIN_EXE_captionacc"));
    command
        .arg("worker")
        .env("NOTIFY_SOCKET", &socket)
        .env("WATCHDOG_USEC", "200000")
        .env("CAPTIONACC_ORCHESTRATOR", "prefect")
        // Nobody listens there.
        .env("PREFECT_API_URL", "http://127.0.0.1:9/api");
    let worker = Worker::spawn(command);
    let hear = || {
        let mut text = [0; 1024];
        let length = systemd.recv(&mut text).expect("it says something");
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    assert!(hear().contains("READY=1"));
    for _ in 0..3 {
        assert!(hear().contains("WATCHDOG=1"));
    }
    worker.stop();
}

/// A flow whose output-dir is `dead`, which is not looked at by the program itself.
fn flow_on_dead_disk(script: &str) -> String {
    format!(
        "[flows.dead]\ncommand = ['sh', '-c', '{script}', 'sh', '{{folder}}']\n[flows.dead.parameters.folder]\ntype = 'path'\n\
         [flows.dead.parameters.output-dir]\ntype = 'path'\n"
    )
}

/// A worker that finds a disk at `dead` which never answers: a file system in user space, whose server would be whoever
/// reads its descriptor 3. It is gone with the worker.
fn worker_with_dead_disk(world: &World) -> Worker {
    fs::create_dir_all(world.path("dead")).expect("made");
    let mut command = world.command("unshare");
    if !geteuid().is_root() {
        command.arg("--map-root-user");
    }
    let script = format!(
        "exec 3<>/dev/fuse && mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 dead dead && exec '{}' worker",
        env!("CARGO_BIN_EXE_captionacc")
    );
    command.args(["--mount", "sh", "-c", &script]);
    Worker::spawn(command)
}

#[test]
fn a_dead_disk_holds_up_neither_the_end_of_a_run_nor_that_of_the_worker() {
    let world = World::new(&(flow_on_dead_disk("true") + &flow("hello", "true", "")));
    let worker = worker_with_dead_disk(&world);
    // More than may wait for such a disk at once.
    let on_it: Vec<_> = (0..6)
        .map(|_| world.queue("dead", json!({ "folder": ".", "output-dir": "dead" })))
        .collect();
    for id in on_it {
        world.wait_for(id, StateName::Completed);
    }
    let hello = queue(&world, "hello");
    world.wait_for(hello, StateName::Completed);
    let log = worker.stop();
    assert!(log.contains("does not answer"), "{log}");
}

#[test]
fn a_run_whose_disk_has_died_is_recovered_from_a_dead_worker() {
    let world = World::new(&(flow_on_dead_disk(UNTIL_GO) + &flow("hello", "true", "")));
    let first = world.start_worker();
    let id = world.queue("dead", json!({ "folder": ".", "output-dir": "dead" }));
    world.wait_for_line(id, "running");
    first.kill();
    world.wait_until("the child has noticed", || world.processes_of(id).is_empty());
    let second = worker_with_dead_disk(&world);
    world.wait_until("it is at work again", || world.run(id).attempt == 2);
    let hello = queue(&world, "hello");
    world.wait_for(hello, StateName::Completed);
    fs::write(world.path("go"), "").expect("written");
    world.wait_for(id, StateName::Completed);
    second.stop();
}
