//! Several machines on one server: homes of their own, PID and mount namespaces of their own, lost for good, standing still, coming
//! back. What may be silent is set to seconds.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use captionacc::process::tree::marked;
use rustix::process::{Signal, geteuid};
use serde_json::{Value, json};

use super::end_to_end::{FINAL, PrefectWorld, UNTIL_GO, flow};
use super::proxy::{Exchange, Fault, Plan, Proxy};
use super::server::Server;
use crate::studio::Studio;
use crate::world::{Worker, kill};

const PATIENCE: Duration = Duration::from_mins(3);

/// What a run may be silent for in these tests; `CAPTIONACC_MACHINE_LOST_AFTER_MS` sets another time, as that of a user (90000).
fn lost_after_ms() -> String {
    std::env::var("CAPTIONACC_MACHINE_LOST_AFTER_MS").unwrap_or_else(|_| "8000".to_owned())
}

/// The states of a run whose first attempt was taken over.
const AT_THE_SECOND_ATTEMPT: [&str; 7] = [
    "SCHEDULED",
    "PENDING",
    "RUNNING",
    "SCHEDULED",
    "PENDING",
    "RUNNING",
    "COMPLETED",
];

/// A machine: a home, and a worker that sees no process but its own.
pub struct Machine {
    container: Option<Worker>,
}

impl Machine {
    pub fn start(world: &PrefectWorld, name: &str) -> Self {
        Self::start_with(world, name, &[("CAPTIONACC_LOST_AFTER_MS", &lost_after_ms())])
    }

    pub fn start_with(world: &PrefectWorld, name: &str, more: &[(&str, &str)]) -> Self {
        let worker = world.command(&["worker", "--name", &format!("worker-{name}"), "--limit", "4"]);
        let mut command = Command::new("unshare");
        if !geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command
            .args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"])
            .arg(worker.get_program())
            .args(worker.get_args())
            .env_clear();
        for (name, value) in worker.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        command
            .env("CAPTIONACC_HOME", world.path(name))
            .envs(more.iter().copied())
            .current_dir(world.path(""));
        Self {
            container: Some(Worker::spawn(command)),
        }
    }

    /// The worker's process, by its number outside. It is not always the least of its machine's: the kernel begins anew when
    /// numbers run out.
    fn worker(&self) -> Option<u32> {
        let pid = self.container.as_ref().expect("not lost").identity.pid;
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.trim().parse().ok()
    }

    /// Its processes, by their numbers outside.
    fn processes(&self) -> Vec<u32> {
        let Some(first) = self.worker() else {
            return Vec::new();
        };
        let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = namespace(first);
        fs::read_dir("/proc")
            .expect("it is there")
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| own.is_some() && namespace(*pid) == own)
            .collect()
    }

    fn signal_all(&self, signal: Signal) {
        for pid in self.processes() {
            kill(pid, signal);
        }
    }

    /// Stands still, as a machine that sleeps.
    pub fn freeze(&self) {
        // What was started in between is found by the second look.
        self.signal_all(Signal::STOP);
        self.signal_all(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal_all(Signal::CONT);
    }

    /// Loses power.
    pub fn lose(&mut self) {
        if let Some(container) = self.container.take() {
            container.kill();
        }
    }

    /// Stops it once its log says this.
    pub fn stop_after(self, text: &str) -> String {
        let container = self.container.as_ref().expect("not lost");
        until("its log says so", || container.said().contains(text));
        self.stop()
    }

    pub fn stop(mut self) -> String {
        let worker = self.worker().expect("it runs");
        let container = self.container.take().expect("not lost");
        kill(worker, Signal::TERM);
        container.wait().1
    }
}

/// Waits until it holds; what is asked for is at the server.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub fn read(world: &mut PrefectWorld, id: &str) -> Value {
    world.judge.ask("read", json!({ "id": id }))
}

pub fn is(run: &Value, state: &str) -> bool {
    run["state"]["type"] == state
}

/// Whether the worker of this machine runs it.
pub fn runs_on(run: &Value, machine: &str) -> bool {
    is(run, "RUNNING") && run["labels"]["prefect.worker.name"] == format!("worker-{machine}")
}

/// What a command says on the home of a machine.
pub fn say(world: &PrefectWorld, home: &str, arguments: &[&str], more: &[(&str, &str)]) -> String {
    let output = world
        .command(arguments)
        .env("CAPTIONACC_HOME", world.path(home))
        .envs(more.iter().copied())
        .output()
        .expect("it starts");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A request of the judge's to the server.
#[expect(clippy::needless_pass_by_value, reason = "written out with json! at every call")]
pub fn request(world: &mut PrefectWorld, method: &str, path: &str, body: Value) -> Value {
    world
        .judge
        .ask("request", json!({"method": method, "path": path, "body": body}))
}

pub fn set_state(world: &mut PrefectWorld, id: &str, state: &str, message: &str) {
    let body = json!({ "state": { "type": state, "message": message } });
    request(world, "POST", &format!("/flow_runs/{id}/set_state"), body);
}

/// Processes of any attempt of the run, on whatever machine.
pub fn processes_of(id: &str) -> Vec<u32> {
    (1..20).flat_map(|token| marked(&format!("{id}:{token}"))).collect()
}

/// Queues a run as Prefect's own client does.
#[expect(clippy::needless_pass_by_value, reason = "written out with json! at every call")]
pub fn queue_by_prefect(world: &mut PrefectWorld, flow: &str, parameters: Value) -> String {
    let question = json!({ "deployment": format!("{flow}/{}", world.name), "parameters": parameters });
    let deadline = Instant::now() + PATIENCE;
    let run = loop {
        match world.judge.try_ask("queue", question.clone()) {
            Ok(run) => break run,
            // A server on SQLite that many tests share: its client gives up after some tries.
            Err(error) if error.contains("503") && Instant::now() < deadline => {}
            Err(error) => panic!("{flow}: {error}"),
        }
    };
    run["id"].as_str().expect("an id").to_owned()
}

#[test]
fn the_run_of_a_lost_machine_runs_elsewhere_by_itself_as_a_further_attempt() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, &flow("wait", UNTIL_GO, ""));
    let mut first = Machine::start(&world, "a");
    let video = world.video(0);
    let id = world.queue("wait", &video);
    until("a runs it", || runs_on(&read(&mut world, &id), "a"));
    let second = Machine::start(&world, "b");
    let lost_at = Instant::now();
    first.lose();
    until("b runs it", || runs_on(&read(&mut world, &id), "b"));
    println!("running elsewhere after {:?}", lost_at.elapsed());
    assert_eq!(read(&mut world, &id)["labels"]["captionacc.attempt"], 2);
    fs::write(world.path("go"), "").expect("written");
    assert!(is(&world.wait(&id, &FINAL), "COMPLETED"));
    let mut states = world.state_types(&id);
    // The server's automation, where there is one, may be first.
    states.retain(|state| state != "CRASHED");
    assert_eq!(states, AT_THE_SECOND_ATTEMPT);
    assert_eq!(world.slots(), 0);
    second.stop();
}

#[test]
fn the_servers_own_automation_notices_a_lost_machine_and_setup_makes_shows_and_removes_it() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, &flow("wait", UNTIL_GO, ""));
    let after = [("CAPTIONACC_LOST_AFTER_MS", "10000")];
    let say = |world: &PrefectWorld, arguments: &[&str]| {
        let output = world.command(arguments).envs(after).output().expect("it starts");
        assert!(output.status.code().is_some(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let set_up = ["setup", "--orchestrator", "server", "--api-url", server.api_url()];
    assert!(say(&world, &["doctor"]).contains("the server has no automation for it"));
    assert!(say(&world, &set_up).contains("whose machine is lost\" is made"));
    assert!(say(&world, &set_up).contains("whose machine is lost\" is there"));
    assert!(say(&world, &["doctor"]).contains("10 s without a sign of life"));
    let mut first = Machine::start_with(&world, "a", &after);
    let id = world.queue("wait", &world.video(0));
    until("a runs it", || runs_on(&read(&mut world, &id), "a"));
    // It lives longer than it may be silent, and nobody takes it for dead.
    std::thread::sleep(Duration::from_secs(12));
    assert!(is(&read(&mut world, &id), "RUNNING"));
    first.lose();
    let run = world.wait(&id, &["CRASHED"]);
    let message = run["state"]["message"].as_str().expect("a message");
    assert!(message.starts_with("lost: no sign of life for 10 s"), "{message}");
    let second = Machine::start_with(&world, "b", &after);
    until("b runs it", || runs_on(&read(&mut world, &id), "b"));
    fs::write(world.path("go"), "").expect("written");
    assert!(is(&world.wait(&id, &FINAL), "COMPLETED"));
    second.stop();
    assert!(say(&world, &["setup", "--remove"]).contains("is removed"));
    assert!(say(&world, &["setup", "--remove"]).contains("is not there"));
    assert!(say(&world, &["doctor"]).contains("the server has no automation for it"));
}

#[test]
fn a_machine_that_comes_back_after_its_run_was_taken_over_stops_and_tells_nothing() {
    let server = Server::shared();
    // Ticks are counted, and how far each machine has come is in a file.
    let script = ": >\"$1/started-$2\"; n=0; while [ ! -e \"$1/go\" ]; do n=$((n+1)); echo \"tick $n of $CAPTIONACC_HOME\"; \
                  echo $n >\"$CAPTIONACC_HOME/ticks\"; sleep 0.2; done";
    let mut world = PrefectWorld::new(&server, &flow("tick", script, ""));
    let first = Machine::start(&world, "a");
    let id = world.queue("tick", &world.video(0));
    until("a runs it", || runs_on(&read(&mut world, &id), "a"));
    let second = Machine::start(&world, "b");
    until("a ticks", || world.path("a/ticks").exists());
    first.freeze();
    until("b runs it", || runs_on(&read(&mut world, &id), "b"));
    // What it did before may be on its way for as long as it is frozen; what it does after is told to nobody.
    let ticked = fs::read_to_string(world.path("a/ticks")).expect("it has ticked");
    let last: u64 = ticked.trim().parse().expect("a number");
    let told_after = |world: &mut PrefectWorld| {
        let logs = world.everything(&id)["logs"].clone();
        let of_the_first = format!(" of {}", world.path("a").display());
        let logs = logs.as_array().expect("logs").clone();
        let ticks = logs.iter().filter_map(|line| {
            let tick = line["message"].as_str()?.strip_prefix("tick ")?;
            tick.strip_suffix(of_the_first.as_str())?.parse::<u64>().ok()
        });
        // It may have been frozen between the tick and its note.
        ticks.filter(|tick| *tick > last + 1).count()
    };
    let old: BTreeSet<u32> = first.processes().into_iter().collect();
    first.thaw();
    until("its attempt has stopped", || {
        !processes_of(&id).iter().any(|pid| old.contains(pid))
    });
    let run = read(&mut world, &id);
    assert!(runs_on(&run, "b"), "{run}");
    assert_eq!(told_after(&mut world), 0);
    fs::write(world.path("go"), "").expect("written");
    assert!(is(&world.wait(&id, &FINAL), "COMPLETED"));
    let said = first.stop();
    let what_happened = "taken over by worker worker-b (attempt 2); this attempt is stopped";
    assert!(said.contains(&format!("Attempt stopped: {what_happened}")), "{said}");
    assert!(!said.contains("Flow run cancelled"), "{said}");
    second.stop();
    assert_eq!(world.state_types(&id), AT_THE_SECOND_ATTEMPT);
    assert_eq!(told_after(&mut world), 0);
    assert_eq!(world.slots(), 0);
}

#[test]
fn a_state_that_a_person_sets_stays() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, &flow("wait", UNTIL_GO, ""));
    let machine = Machine::start(&world, "a");
    for (number, state) in ["FAILED", "CRASHED", "COMPLETED"].into_iter().enumerate() {
        let id = world.queue("wait", &world.video(number));
        until("it runs", || is(&read(&mut world, &id), "RUNNING"));
        set_state(&mut world, &id, state, "by hand");
        until("its processes have ended", || processes_of(&id).is_empty());
        // The worker has told of another one meanwhile, so that it has told of this one.
        let other = world.queue("wait", &world.video(100 + number));
        until("another one runs", || is(&read(&mut world, &other), "RUNNING"));
        world.judge.ask("cancel", json!({ "id": other }));
        world.wait(&other, &FINAL);
        let run = read(&mut world, &id);
        assert!(is(&run, state), "{run}");
        assert_eq!(run["state"]["message"], "by hand");
    }
    machine.stop();
}

#[test]
fn a_run_whose_worker_is_offline_is_named_and_ended_or_taken_over_at_once() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, &flow("wait", UNTIL_GO, ""));
    // Far from lost by itself.
    let mut first = Machine::start_with(&world, "a", &[("CAPTIONACC_LOST_AFTER_MS", "600000")]);
    let ids: Vec<String> = (0..3).map(|number| world.queue("wait", &world.video(number))).collect();
    for id in &ids {
        until("a runs it", || runs_on(&read(&mut world, id), "a"));
    }
    let say = |world: &PrefectWorld, arguments: &[&str]| say(world, "a", arguments, &[]);
    let refusal = say(&world, &["runs", "take-over", &ids[0]]);
    assert!(refusal.contains("was heard not long ago"), "{refusal}");
    first.lose();
    for command in ["doctor", "pool"] {
        let said = say(&world, &[command]);
        for id in &ids {
            assert!(
                said.contains(&format!("captionacc runs take-over {id}")),
                "{command}: {said}"
            );
        }
        assert!(said.contains("worker worker-a is offline"), "{command}: {said}");
        assert!(!said.contains("online at the server"), "{command}: {said}");
    }
    say(&world, &["runs", "cancel", &ids[0]]);
    assert!(is(&read(&mut world, &ids[0]), "CANCELLED"));
    for (id, command) in [(&ids[1], "take-over"), (&ids[2], "retry")] {
        say(&world, &["runs", command, id]);
        let run = read(&mut world, id);
        assert!(is(&run, "SCHEDULED"), "{command}: {run}");
    }
    let second = Machine::start(&world, "b");
    fs::write(world.path("go"), "").expect("written");
    for id in &ids[1..] {
        assert!(is(&world.wait(id, &FINAL), "COMPLETED"));
    }
    assert_eq!(world.slots(), 0);
    second.stop();
}

#[test]
fn right_after_an_outage_nobody_is_called_offline_who_lives() {
    let server = Server::shared();
    let proxy = Proxy::to(server.address());
    let mut world = PrefectWorld::new(&server, &flow("wait", UNTIL_GO, ""));
    let api_url = proxy.api_url();
    let behind = [
        ("PREFECT_API_URL", api_url.as_str()),
        ("CAPTIONACC_LOST_AFTER_MS", "12000"),
    ];
    let machine = Machine::start_with(&world, "b", &behind);
    let id = world.queue("wait", &world.video(0));
    until("b runs it", || runs_on(&read(&mut world, &id), "b"));
    proxy.refuse();
    // As for somebody on another machine.
    let say = |arguments: &[&str]| say(&world, "a", arguments, &behind[1..]);
    until("it is silent", || say(&["pool"]).contains("worker worker-b is offline"));
    proxy.accept();
    let refusal = say(&["runs", "take-over", &id]);
    assert!(refusal.contains("was heard not long ago"), "{refusal}");
    fs::write(world.path("go"), "").expect("written");
    let run = world.wait(&id, &FINAL);
    assert!(is(&run, "COMPLETED") && run["run_count"] == 1, "{run}");
    machine.stop();
}

#[test]
fn a_worker_whose_name_another_machines_has_says_so() {
    let server = Server::shared();
    let world = PrefectWorld::new(&server, "");
    let machine = Machine::start(&world, "a");
    until("it is online", || say(&world, "b", &["pool"], &[]).contains("worker-a"));
    let said = say(&world, "b", &["worker", "--once", "--name", "worker-a"], &[]);
    assert!(said.contains("A worker of this name is online already"), "{said}");
    let said = say(&world, "b", &["worker", "--once", "--name", "worker-b"], &[]);
    assert!(!said.contains("A worker of this name"), "{said}");
    machine.stop();
}

#[test]
fn the_latest_of_several_runs_from_prefects_side_wins_and_all_are_found_by_their_video() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, "");
    let studio = Studio::new(&world.path("videos"), &world.video(0));
    let ids: Vec<String> = (1..=3)
        .map(|version| queue_by_prefect(&mut world, "crop-frames", studio.crop_frames(version)))
        .collect();
    let listed = world.succeed(&["runs", "--video", &studio.id, "--json"]);
    assert_eq!(listed.lines().count(), 3, "found while they wait: {listed}");
    let machines = ["a", "b"].map(|name| Machine::start(&world, name));
    assert!(is(&world.wait(&ids[2], &FINAL), "COMPLETED"));
    for id in &ids[..2] {
        let run = world.wait(id, &FINAL);
        assert!(is(&run, "CANCELLED"), "{run}");
        assert_eq!(run["run_count"], 0, "{run}");
        let message = format!("superseded by flow run {}", ids[2]);
        assert_eq!(run["state"]["message"], message);
    }
    let run = read(&mut world, &ids[2]);
    let tags = run["tags"].as_array().expect("tags");
    assert!(tags.contains(&json!(format!("video:{}", studio.id))), "{tags:?}");
    assert_eq!(run["name"], format!("crop-frames of {}", studio.id));
    let all = world.everything(&ids[2]);
    let artifacts = all["artifacts"].as_array().expect("artifacts");
    let progress = artifacts.iter().find(|artifact| artifact["type"] == "progress");
    assert_eq!(progress.expect("a progress")["data"], 100.0);
    let logs = all["logs"].as_array().expect("logs");
    for beginning in ["Sampling ", "The film is 320x180 h264", "20 cropped frames"] {
        let is_there = |line: &Value| line["message"].as_str().is_some_and(|text| text.starts_with(beginning));
        assert!(logs.iter().any(is_there), "{beginning}: {logs:?}");
    }
    let result = world.judge.ask("result", json!({ "id": ids[2] }));
    let frames = &result["assets"][format!("annotations://{}/cropped_frames", studio.id)];
    assert_eq!(frames["frames"], 20, "{result}");
    assert_eq!(studio.frames("cropped_frames").len(), 20);
    let listed = world.succeed(&["runs", "--video", &studio.id, "--json"]);
    assert_eq!(listed.lines().count(), 3, "{listed}");
    for machine in machines {
        machine.stop();
    }
}

#[test]
fn two_machines_run_one_run_of_a_video_at_a_time() {
    let server = Server::shared();
    let script = "mkdir \"$1/at-work-$2\" || exit 9; sleep 0.3; rmdir \"$1/at-work-$2\"";
    let mut world = PrefectWorld::new(&server, &flow("alone", script, "retries = 0"));
    let machines = ["a", "b"].map(|name| Machine::start(&world, name));
    let folder = world.path("");
    let video = world.video(0);
    let ids: Vec<String> = (0..6)
        .map(|_| queue_by_prefect(&mut world, "alone", json!({ "folder": folder, "video-id": video })))
        .collect();
    for id in &ids {
        let run = world.wait(id, &FINAL);
        assert!(is(&run, "COMPLETED"), "{run}");
        assert_eq!(run["run_count"], 1, "{run}");
    }
    assert_eq!(world.slots(), 0);
    for machine in machines {
        machine.stop();
    }
}

#[test]
fn a_relative_path_from_prefects_side_is_refused_by_name_and_makes_nothing() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, "");
    let studio = Studio::new(&world.path("videos"), &world.video(0));
    let name = format!("{}.db", world.name);
    let mut parameters = studio.crop_frames(1);
    parameters["db-path"] = json!(name);
    let machine = Machine::start(&world, "a");
    let id = queue_by_prefect(&mut world, "crop-frames", parameters);
    let run = world.wait(&id, &FINAL);
    assert!(is(&run, "FAILED"), "{run}");
    let message = run["state"]["message"].as_str().expect("a message");
    assert!(
        message.contains("db-path") && message.contains("relative path"),
        "{message}"
    );
    assert!(!std::path::Path::new("/").join(&name).exists());
    assert!(!world.path(&name).exists());
    machine.stop();
}

#[test]
fn retries_that_were_given_with_a_run_are_honoured_and_a_retry_by_prefect_counts_anew() {
    let server = Server::shared();
    let config = flow("fail", "exit 1", "retries = 0\nretry-delay-ms = 1");
    let mut world = PrefectWorld::new(&server, &config);
    let machine = Machine::start(&world, "a");
    let deployment = world
        .judge
        .ask("deployment", json!({ "name": format!("fail/{}", world.name) }));
    let path = format!(
        "/deployments/{}/create_flow_run",
        deployment["id"].as_str().expect("an id")
    );
    let body = json!({
        "parameters": { "folder": world.path(""), "video-id": world.video(0) },
        "empirical_policy": { "retries": 2, "retry_delay": 0 },
    });
    let run = world
        .judge
        .ask("request", json!({"method": "POST", "path": path, "body": body}));
    let id = run["id"].as_str().expect("an id").to_owned();
    let run = world.wait(&id, &FINAL);
    assert!(is(&run, "FAILED"), "{run}");
    assert_eq!(run["run_count"], 3, "{run}");
    // As `prefect flow-run retry` does it.
    for (times, is_forced) in [(6, true), (9, false)] {
        let retry = json!({ "state": { "type": "SCHEDULED", "message": "Retried via CLI" }, "force": is_forced });
        let path = format!("/flow_runs/{id}/set_state");
        world
            .judge
            .ask("request", json!({"method": "POST", "path": path, "body": retry}));
        until("it has failed again", || {
            let run = read(&mut world, &id);
            is(&run, "FAILED") && run["run_count"] == times
        });
    }
    machine.stop();
}

#[test]
fn a_flow_that_no_worker_here_knows_waits_and_is_named() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, &flow("known", "echo hello", ""));
    let other = flow("elsewhere", "echo hello", "");
    fs::write(world.path("other.toml"), &other).expect("written");
    let deployed = world
        .command(&["deploy"])
        .env("CAPTIONACC_CONFIG", world.path("other.toml"))
        .output()
        .expect("it starts");
    assert!(deployed.status.success(), "{deployed:?}");
    let machine = Machine::start(&world, "a");
    let folder = world.path("");
    let parameters = |video: &str| json!({ "folder": folder, "video-id": video });
    let waiting = queue_by_prefect(&mut world, "elsewhere", parameters("w"));
    let done = queue_by_prefect(&mut world, "known", parameters("v"));
    assert!(is(&world.wait(&done, &FINAL), "COMPLETED"));
    assert!(is(&read(&mut world, &waiting), "SCHEDULED"));
    for command in ["doctor", "pool"] {
        let output = world.command(&[command]).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stdout);
        let wanted = "1 run waits for a worker that knows flow elsewhere";
        assert!(said.contains(wanted), "{command}: {said}");
    }
    let path = world.path("other.toml");
    let second = Machine::start_with(&world, "b", &[("CAPTIONACC_CONFIG", path.to_str().expect("UTF-8"))]);
    assert!(is(&world.wait(&waiting, &FINAL), "COMPLETED"));
    machine.stop();
    second.stop();
}

#[test]
fn what_workers_of_other_machines_know_is_said_on_every_machine() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, &flow("elsewhere", "echo hello", ""));
    let path = world.path("none.toml");
    fs::write(&path, "").expect("written");
    let knows_it: &[(&str, &str)] = &[];
    let knows_none = &[("CAPTIONACC_CONFIG", path.to_str().expect("UTF-8"))];
    let line = |say: &str| -> Option<String> {
        let found = say
            .lines()
            .find(|line| line.contains("worker that knows flow elsewhere"));
        found.map(str::to_owned)
    };
    let both = |world: &PrefectWorld, home: &str, more: &[(&str, &str)]| {
        ["pool", "doctor"].map(|command| line(&say(world, home, &[command], more)))
    };
    say(&world, "a", &["pool", "pause"], knows_none);
    let parameters = json!({ "folder": world.path(""), "video-id": "v" });
    let waiting = queue_by_prefect(&mut world, "elsewhere", parameters);
    let first = Machine::start_with(&world, "b", knows_none);
    // Written down here, and no worker has read it.
    until("it is known that no worker knows it", || {
        let said = both(&world, "a", knows_it);
        said.iter().all(|line| {
            line.as_ref()
                .is_some_and(|line| line.contains("no worker that is online does"))
        })
    });
    let second = Machine::start_with(&world, "c", knows_it);
    until("it is known that a worker knows it", || {
        both(&world, "a", knows_none) == [None, None]
    });
    let pool: Value = serde_json::from_str(&say(&world, "a", &["pool", "--json"], knows_none)).expect("JSON");
    let workers = pool["workers"].as_array().expect("workers");
    let of_c = workers
        .iter()
        .find(|worker| worker["name"] == "worker-c")
        .expect("it is online");
    assert_eq!(of_c["version"], env!("CARGO_PKG_VERSION"), "{pool}");
    let pool = say(&world, "a", &["pool"], knows_none);
    let of_c = pool
        .lines()
        .find(|line| line.starts_with("worker-c"))
        .expect("it is shown");
    assert!(
        of_c.contains(" - ") && of_c.contains(env!("CARGO_PKG_VERSION")),
        "{pool}"
    );
    say(&world, "a", &["pool", "resume"], knows_none);
    assert!(is(&world.wait(&waiting, &FINAL), "COMPLETED"));
    first.stop();
    second.stop();
}

#[test]
fn a_deployment_is_the_same_from_whatever_machine_it_is_made() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, "");
    let copy = world.path("elsewhere/bin/captionacc");
    fs::create_dir_all(copy.parent().expect("a folder")).expect("made");
    fs::copy(env!("CARGO_BIN_EXE_captionacc"), &copy).expect("copied");
    let here = world.command(&["deploy"]);
    let mut there = Command::new(copy);
    there.arg("deploy").env_clear().current_dir(world.path(""));
    for (name, value) in here.get_envs() {
        there.env(name, value.unwrap_or_default());
    }
    let output = there.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said.matches("unchanged").count(), 3, "{said}");
    let name = format!("crop-frames/{}", world.name);
    let deployment = world.judge.ask("deployment", json!({ "name": name }));
    assert_eq!(deployment["job_variables"]["command"], "captionacc execute");
}

#[test]
fn a_deployment_that_leaves_its_pool_for_runner_mode_does_so_once_and_takes_no_run_with_it() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, &flow("hello", "echo hello", ""));
    let waiting = world.queue("hello", &world.video(0));
    let deploy = |world: &PrefectWorld| {
        let output = world
            .command(&["deploy"])
            .env("CAPTIONACC_RUNNER_MODE", "true")
            .output()
            .expect("it starts");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let refusal = deploy(&world);
    assert!(refusal.contains("1 of its runs wait in its work pool"), "{refusal}");
    world.succeed(&["runs", "cancel", &waiting]);
    assert_eq!(deploy(&world).matches("work_pool_name").count(), 4);
    assert_eq!(deploy(&world).matches("unchanged").count(), 4);
    let name = format!("hello/{}", world.name);
    let deployment = world.judge.ask("deployment", json!({ "name": name }));
    assert!(deployment["work_pool_name"].is_null(), "{deployment}");
}

#[test]
fn an_address_without_its_api_is_told_so() {
    let server = Server::shared();
    let world = PrefectWorld::new(&server, "");
    let address = server.api_url().trim_end_matches("/api").to_owned();
    let say = |arguments: &[&str]| {
        let output = world
            .command(arguments)
            .env("PREFECT_API_URL", &address)
            .output()
            .expect("it starts");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let doctor = say(&["doctor"]);
    assert!(doctor.contains(&format!("--api-url {address}/api")), "{doctor}");
    let setup = say(&["setup", "--orchestrator", "server", "--api-url", &address]);
    assert!(setup.contains(&format!("give {address}/api")), "{setup}");
}

/// Where in its life a run is when its machine goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Claimed,
    Running,
    Committing,
    Finishing,
}

const STAGES: [Stage; 4] = [Stage::Claimed, Stage::Running, Stage::Committing, Stage::Finishing];

/// Machines are lost for good or stand still and come back, at each stage of a run, beside a worker that races for the same
/// video, with and without the server. `CAPTIONACC_MACHINE_ROUNDS` sets how many rounds (4).
#[test]
fn whatever_machine_is_lost_at_whatever_stage_every_run_ends_once_with_whole_frames() {
    let rounds = std::env::var("CAPTIONACC_MACHINE_ROUNDS").map_or(4, |text| text.parse().expect("a number"));
    let server = Server::shared();
    // The first machine speaks through a proxy, which knows the stage and cuts it off.
    let proxy = Proxy::to(server.address());
    let mut world = PrefectWorld::new(&server, "");
    for round in 0..rounds {
        let stage = STAGES[round % 4];
        let comes_back = (round + round / 4) % 2 == 1;
        println!("round {round}: {stage:?}, comes back: {comes_back}");
        play(&mut world, &proxy, round, stage, comes_back);
        proxy.calm();
    }
    assert_eq!(world.unfinished(), 0);
    assert_eq!(world.slots(), 0);
}

fn play(world: &mut PrefectWorld, proxy: &Proxy, round: usize, stage: Stage, comes_back: bool) {
    let studio = Studio::new(&world.path("videos"), &world.video(round));
    let through_proxy = [
        ("PREFECT_API_URL", proxy.api_url()),
        ("CAPTIONACC_LOST_AFTER_MS", lost_after_ms()),
    ];
    let through_proxy: Vec<(&str, &str)> = through_proxy
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    // The call in which the machine goes. Committing, it asks whether its result is still wanted.
    let (method, path, body) = match stage {
        Stage::Claimed => ("POST", "/set_state", "\"type\":\"PENDING\""),
        Stage::Running => ("POST", "/set_state", "\"type\":\"RUNNING\""),
        Stage::Committing => ("GET", "/flow_runs/", ""),
        Stage::Finishing => ("POST", "/set_state", "\"type\":\"COMPLETED\""),
    };
    // The server never hears of it, or does, and the answer is lost.
    let fault = if (round / 8).is_multiple_of(2) {
        Fault::Stall
    } else {
        Fault::Slow
    };
    let seen = proxy.exchanges().len();
    proxy.plan(Plan::on(method, path, fault).with_body(body));
    let mut first = Machine::start_with(world, &format!("a{round}"), &through_proxy);
    let id = queue_by_prefect(world, "crop-frames", studio.crop_frames(1));
    proxy.wait_for("it is at that stage", |exchanges| {
        let is_it = |exchange: &&Exchange| {
            exchange.method == method && exchange.path.contains(path) && exchange.body.contains(body)
        };
        exchanges.iter().skip(seen).any(|exchange| is_it(&exchange))
    });
    if comes_back {
        first.freeze();
    } else {
        first.lose();
    }
    let second = Machine::start(world, &format!("b{round}"));
    if round.is_multiple_of(3) {
        proxy.refuse();
    }
    let run = world.wait(&id, &FINAL);
    assert!(is(&run, "COMPLETED"), "{run}");
    proxy.accept();
    proxy.calm();
    if comes_back {
        first.thaw();
        until("nothing of it is at work", || processes_of(&id).is_empty());
        // What it believes that it has to tell is told, or given up, before it ends.
        first.stop();
    }
    second.stop();
    let states = world.state_types(&id);
    let completed = states.iter().filter(|state| *state == "COMPLETED").count();
    assert_eq!(
        (completed, states.last().map(String::as_str)),
        (1, Some("COMPLETED")),
        "{states:?}"
    );
    assert_eq!(studio.frames("cropped_frames").len(), 20);
    assert!(studio.is_sound());
    assert!(processes_of(&id).is_empty());
}
