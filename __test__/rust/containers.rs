//! Workers in PID namespaces of their own, as containers give them, on one home: no pid of the one says anything to the
//! other. Namespaces are made with unshare, which needs root or a system that lets users make them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use captionacc::domain::id::FlowRunId;
use captionacc::domain::state::StateName;
use captionacc::orchestrator::claims::{ForeignClaim, ForeignEnd, Program};
use captionacc::process::identity::ProcessIdentity;
use captionacc::worker::attempt::Wish;
use captionacc::worker::foreign::supervise_foreign;
use rustix::process::{Signal, geteuid};
use serde_json::json;
use tokio::sync::watch;

use crate::world::{Worker, World, exists, kill, runtime};

const BINARY: &str = env!("CARGO_BIN_EXE_captionacc");
/// Says that it runs, then waits for the file `go`.
const UNTIL_GO: &str = "echo running; while [ ! -e \"$1/go\" ]; do sleep 0.02; done; echo gone";
const ONCE: [StateName; 4] = [
    StateName::Scheduled,
    StateName::Pending,
    StateName::Running,
    StateName::Completed,
];
const TWICE: [StateName; 7] = [
    StateName::Scheduled,
    StateName::Pending,
    StateName::Running,
    StateName::Scheduled,
    StateName::Pending,
    StateName::Running,
    StateName::Completed,
];

fn flow(name: &str, script: &str) -> String {
    format!(
        "[flows.{name}]\ncommand = ['sh', '-c', '''{script}''', 'sh', '{{folder}}']\n\
         [flows.{name}.parameters.folder]\ntype = 'path'\n"
    )
}

fn queue(world: &World, name: &str) -> FlowRunId {
    world.queue(name, json!({ "folder": "." }))
}

/// A command whose processes see nobody of ours: `script` is its process 1, which may become another program by `exec`.
fn contained(world: &World, script: &str) -> Command {
    let mut command = world.command("unshare");
    if !geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script]);
    command
}

fn worker_in_container(world: &World, config: Option<&Path>) -> Worker {
    let mut command = contained(world, &format!("exec '{BINARY}' worker --limit 8"));
    if let Some(config) = config {
        command.env("CAPTIONACC_CONFIG", config);
    }
    Worker::spawn(command)
}

/// Process 1 of the container, by its number outside; unshare itself answers no signals.
fn first_process(container: &Worker) -> u32 {
    let pid = container.identity.pid;
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("unshare runs");
    children.trim().parse().expect("it has one child")
}

fn stop(container: Worker) {
    kill(first_process(&container), Signal::TERM);
    let (status, log) = container.wait();
    assert!(status.success(), "{status}: {log}");
}

fn wait_for_workers(world: &World, number: usize) {
    world.wait_until("all workers are there", || {
        let pool = world.block_on(world.store.read_work_pool()).expect("a pool");
        pool.workers.iter().filter(|worker| worker.is_alive).count() == number
    });
}

/// Nothing tells of anybody who lives.
fn assert_no_locks(home: &Path) {
    let left: Vec<_> = fs::read_dir(home.join("locks"))
        .into_iter()
        .flatten()
        .map(|entry| entry.expect("reads").file_name())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn workers_in_containers_of_their_own_leave_each_other_their_runs() {
    let config = |name: &str| flow(&format!("wait-{name}"), UNTIL_GO) + &flow(&format!("hello-{name}"), "true");
    let world = World::new(&(config("a") + &config("b")));
    // Each worker knows flows of its own, so that what it has done is known.
    let workers = ["a", "b"].map(|name| {
        let path = world.path(&format!("{name}.toml"));
        fs::write(&path, config(name)).expect("written");
        worker_in_container(&world, Some(&path))
    });
    let ids: Vec<_> = ["wait-a", "wait-b", "wait-a", "wait-b"]
        .iter()
        .map(|name| queue(&world, name))
        .collect();
    for &id in &ids {
        world.wait_for_line(id, "running");
    }
    // A worker looks for dead ones before it claims: each of them has, several times.
    for name in ["hello-a", "hello-b", "hello-a", "hello-b"] {
        let hello = queue(&world, name);
        world.wait_for(hello, StateName::Completed);
    }
    for command in ["pool", "doctor"] {
        let output = contained(&world, &format!("exec '{BINARY}' {command} --json"))
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let alive = if command == "pool" {
            "\"isAlive\":true"
        } else {
            "is alive"
        };
        assert_eq!(said.matches(alive).count(), 2, "{command}: {said}");
    }
    fs::write(world.path("go"), "").expect("written");
    for &id in &ids {
        assert_eq!(world.wait_for(id, StateName::Completed).attempt, 1);
        assert_eq!(world.states(id), ONCE);
    }
    workers.into_iter().for_each(stop);
    assert_no_locks(&world.path("home"));
}

#[test]
fn the_runs_of_a_killed_container_are_recovered_by_another_one_once() {
    let world = World::new(&flow("wait", UNTIL_GO));
    let first = worker_in_container(&world, None);
    let ids = [queue(&world, "wait"), queue(&world, "wait")];
    for id in ids {
        world.wait_for_line(id, "running");
    }
    let second = worker_in_container(&world, None);
    wait_for_workers(&world, 2);
    kill(first_process(&first), Signal::KILL);
    first.wait();
    world.wait_until("both are at work again", || {
        ids.iter()
            .all(|id| world.run(*id).attempt == 2 && world.run(*id).pid.is_some())
    });
    fs::write(world.path("go"), "").expect("written");
    for id in ids {
        world.wait_for(id, StateName::Completed);
        assert_eq!(world.states(id), TWICE);
    }
    wait_for_workers(&world, 1);
    stop(second);
    assert_no_locks(&world.path("home"));
}

#[test]
fn a_run_whose_child_outlives_its_worker_in_another_container_is_claimed_once_the_child_has_ended() {
    let world = World::new(&(flow("wait", UNTIL_GO) + &flow("hello", "true")));
    // The container goes on without its worker.
    let script = format!("'{BINARY}' worker --limit 8; exec sleep 1000");
    let first = Worker::spawn(contained(&world, &script));
    let id = queue(&world, "wait");
    world.wait_for_line(id, "running");
    let second = worker_in_container(&world, None);
    wait_for_workers(&world, 2);
    // It can not hear that its worker has gone.
    let processes = world.processes_of(id);
    for &pid in &processes {
        kill(pid, Signal::STOP);
    }
    let shell = first_process(&first);
    let worker = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).expect("the shell runs");
    kill(worker.trim().parse().expect("it has one child"), Signal::KILL);
    wait_for_workers(&world, 1);
    for _ in 0..3 {
        let hello = queue(&world, "hello");
        world.wait_for(hello, StateName::Completed);
    }
    let run = world.run(id);
    assert_eq!((run.attempt, run.state.name), (1, StateName::Running));
    for &pid in &processes {
        kill(pid, Signal::CONT);
    }
    world.wait_until("it is at work again", || world.run(id).attempt == 2);
    for pid in processes {
        assert!(
            ProcessIdentity::of(pid).is_none(),
            "{pid} works beside the next attempt"
        );
    }
    fs::write(world.path("go"), "").expect("written");
    world.wait_for(id, StateName::Completed);
    assert_eq!(world.states(id), TWICE);
    stop(second);
    drop(first);
    assert_no_locks(&world.path("home"));
}

#[test]
fn a_copy_of_a_home_recovers_its_runs_and_leaves_those_of_the_original_alone() {
    let world = World::new(&flow("wait", UNTIL_GO));
    let worker = world.start_worker();
    let id = queue(&world, "wait");
    world.wait_for_line(id, "running");
    let copy = world.path("copy");
    let copied = Command::new("cp")
        .arg("-a")
        .args([world.path("home"), copy.clone()])
        .status()
        .expect("cp starts");
    assert!(copied.success());
    let mut command = world.command(BINARY);
    command.arg("worker").env("CAPTIONACC_HOME", &copy);
    let worker_of_the_copy = Worker::spawn(command);
    let second_attempt = format!("{id}:2");
    world.wait_until("it is at work in the copy", || {
        !captionacc::process::tree::marked(&second_attempt).is_empty()
    });
    fs::write(world.path("go"), "").expect("written");
    world.wait_for(id, StateName::Completed);
    assert_eq!(world.states(id), ONCE);
    worker_of_the_copy.stop();
    worker.stop();
    assert_no_locks(&copy);
    assert_no_locks(&world.path("home"));
}

#[test]
fn a_program_of_a_foreign_run_is_known_to_live_in_every_container() {
    let world = World::new("");
    let claim = ForeignClaim {
        flow_run_id: FlowRunId::generate(),
        flow_run_name: "a-run".to_owned(),
        flow_name: "a-flow".to_owned(),
        program: Program {
            command: "sh".to_owned(),
            arguments: ["-c", "echo >started; while [ ! -e go ]; do sleep 0.02; done"]
                .map(str::to_owned)
                .to_vec(),
            environment: BTreeMap::new(),
            working_directory: Some(world.path(".")),
            shows_output: false,
        },
        trace: None,
        lock: world.path("home/locks/foreign"),
    };
    let (_wish, receiver) = watch::channel(Wish::Run);
    let store = world.store.clone();
    let supervising = std::thread::spawn(move || {
        runtime().block_on(supervise_foreign(
            store.as_ref(),
            &claim,
            Duration::from_mins(1),
            receiver,
        ))
    });
    world.wait_until("it is at work", || exists(&world.path("started")));
    let asked = contained(&world, "exec flock --nonblock home/locks/foreign true")
        .status()
        .expect("it runs");
    assert_eq!(asked.code(), Some(1), "its lock is held");
    fs::write(world.path("go"), "").expect("written");
    let end = supervising.join().expect("it ends").expect("told");
    assert_eq!(end, ForeignEnd::Reported(None));
    assert_no_locks(&world.path("home"));
}
