//! From the queue call to the final state: real server, real worker, real processes, judged by Prefect's own client.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use captionacc::process::identity::ProcessIdentity;
use captionacc::process::tree::marked;
use rustix::process::Signal;
use serde_json::{Value, json};
use uuid::Uuid;

use super::judge::Judge;
use super::proxy::{CloudStandIn, Exchange, Fault, Plan, Proxy};
use super::server::Server;
use crate::studio::{Studio, ocr_models};
use crate::world::{Worker, kill};

/// Nothing in a test takes longer, unless it hangs.
const PATIENCE_S: u32 = 120;
pub const FINAL: [&str; 4] = ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"];

/// A user of a server, set up by our own commands, with a pool and deployments that no other test has.
pub struct PrefectWorld {
    folder: tempfile::TempDir,
    pub name: String,
    pub judge: Judge,
    /// The API of the server itself, whatever our programs speak to.
    pub server_url: String,
    /// What tells our programs where the API is.
    api: (&'static str, String),
}

/// A flow `NAME` that runs a shell script; `$1` is a folder of the test, `$2` the video's id.
pub fn flow(name: &str, script: &str, more: &str) -> String {
    format!(
        "[flows.{name}]\ncommand = ['sh', '-c', '''{}''', 'sh', '{{folder}}', '{{video-id}}']\n{more}\n\
         [flows.{name}.parameters.folder]\ntype = 'path'\n[flows.{name}.parameters.video-id]\ntype = 'text'\n",
        // Braces are templates.
        script.replace('{', "{{").replace('}', "}}")
    )
}

/// Says that it runs, then waits for the file `go`.
pub const UNTIL_GO: &str =
    "echo running; : >\"$1/started-$2\"; while [ ! -e \"$1/go\" ]; do sleep 0.02; done; echo gone";

impl PrefectWorld {
    pub fn new(server: &Server, config: &str) -> Self {
        Self::at(server.api_url(), server.api_url(), config)
    }

    /// Our programs speak to `api_url`, the judge to `judge_url`.
    pub fn at(judge_url: &str, api_url: &str, config: &str) -> Self {
        let world = Self::bare(judge_url, ("PREFECT_API_URL", api_url.to_owned()), config);
        world.succeed(&["setup", "--orchestrator", "server", "--api-url", judge_url]);
        // Its 90 s would hold for every worker: without it each test says how long a run may be silent.
        world.succeed(&["setup", "--remove"]);
        world.succeed(&["deploy"]);
        world
    }

    /// Our programs speak to a stand-in for Cloud, the judge to the server behind it.
    pub fn on_cloud(server: &Server, proxy: &Proxy, cloud: &CloudStandIn, config: &str) -> Self {
        let world = Self::bare(server.api_url(), ("PREFECT_CLOUD_API_URL", proxy.base_url()), config);
        let key = world.path("key");
        fs::write(&key, &cloud.api_key).expect("written");
        let key = key.to_str().expect("UTF-8");
        world.succeed(&["setup", "--orchestrator", "cloud", "--api-key-file", key]);
        world.succeed(&["deploy"]);
        world
    }

    fn bare(judge_url: &str, api: (&'static str, String), config: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("captionacc.toml"), config).expect("written");
        Self {
            folder,
            name: format!("e2e-{}", Uuid::new_v4().simple()),
            judge: Judge::start(judge_url),
            server_url: judge_url.to_owned(),
            api,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_captionacc"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder.path())
            .env("CAPTIONACC_HOME", self.path("home"))
            .env("CAPTIONACC_WORK_POOL", &self.name)
            .env("CAPTIONACC_DEPLOYMENT", &self.name)
            .env("CAPTIONACC_OCR_MODELS", ocr_models())
            .env("CAPTIONACC_KILL_GRACE_MS", "3000")
            .env("CAPTIONACC_RETRY_DELAY_MS", "100")
            .env("CAPTIONACC_BACKGROUND_LIMIT", "64")
            .env(self.api.0, &self.api.1)
            .env("RUST_LOG", "warn,captionacc=debug")
            .current_dir(self.folder.path())
            .args(arguments);
        command
    }

    pub fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("it starts");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    pub fn start_worker(&self) -> Worker {
        Worker::spawn(self.command(&["worker"]))
    }

    /// Queues a run of a flow of [`flow`] with our command.
    pub fn queue(&self, flow: &str, video: &str) -> String {
        let folder = self.folder.path().to_str().expect("UTF-8");
        let said = self.succeed(&["queue", flow, "--folder", folder, "--video-id", video]);
        let said: Value = serde_json::from_str(&said).expect("JSON");
        said["flowRunId"].as_str().expect("an id").to_owned()
    }

    /// A video id that no other test has.
    pub fn video(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    /// Waits for one of these state types and returns the run.
    pub fn wait(&mut self, id: &str, types: &[&str]) -> Value {
        self.judge
            .ask("wait", json!({"id": id, "types": types, "timeout": PATIENCE_S}))
    }

    pub fn everything(&mut self, id: &str) -> Value {
        self.judge.ask("everything", json!({ "id": id }))
    }

    pub fn state_types(&mut self, id: &str) -> Vec<String> {
        let all = self.everything(id);
        let states = all["states"].as_array().expect("states");
        states
            .iter()
            .map(|state| state["type"].as_str().expect("text").to_owned())
            .collect()
    }

    /// Waits until a program of the test has made this file.
    pub fn wait_for_file(&self, name: &str) {
        let deadline = Instant::now() + Duration::from_secs(PATIENCE_S.into());
        while !self.path(name).exists() {
            assert!(Instant::now() < deadline, "{name} did not come to be");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Runs of the pool that are not final, as the server counts them; with those that wait.
    pub fn unfinished(&mut self) -> u64 {
        let filter = json!({
            "work_pools": {"name": {"any_": [self.name]}},
            "flow_runs": {"state": {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING", "CANCELLING", "PAUSED"]}}},
        });
        let body = json!({"method": "POST", "path": "/flow_runs/count", "body": filter});
        self.judge.ask("request", body).as_u64().expect("a count")
    }

    /// Runs that hold a slot of the pool, as the server counts them.
    pub fn slots(&mut self) -> u64 {
        let filter = json!({
            "work_pools": {"name": {"any_": [self.name]}},
            "flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}},
        });
        let body = json!({"method": "POST", "path": "/flow_runs/count", "body": filter});
        self.judge.ask("request", body).as_u64().expect("a count")
    }
}

/// The percentage that the run's progress artifact shows.
fn progress_of(world: &mut PrefectWorld, id: &str) -> Option<f64> {
    let all = world.everything(id);
    let artifacts = all["artifacts"].as_array().expect("artifacts");
    artifacts.iter().find(|artifact| artifact["type"] == "progress")?["data"].as_f64()
}

fn last(states: &[String]) -> &str {
    states.last().map_or("none", String::as_str)
}

#[test]
fn a_run_is_seen_in_prefect_with_states_logs_progress_and_assets() {
    let server = Server::shared();
    let script = "echo hello; echo '(1/2 frames)'; : >\"$1/started-$2\"; while [ ! -e \"$1/go\" ]; do sleep 0.02; done; \
                  echo '(2/2 frames)'; echo bad >&2";
    let assets = "assets = ['models://m-{video-id}']\nupstream-assets = ['video://{video-id}']";
    let mut world = PrefectWorld::new(&server, &flow("hello", script, assets));
    let worker = world.start_worker();
    let video = world.video(0);
    let id = world.queue("hello", &video);
    // While it runs, its progress is seen.
    let deadline = Instant::now() + Duration::from_secs(30);
    while progress_of(&mut world, &id) != Some(50.0) {
        assert!(Instant::now() < deadline, "no progress was told");
        std::thread::sleep(Duration::from_millis(100));
    }
    // Lists show it too: here, where the journal knows it, and on another machine, where only the server does.
    for home in ["home", "elsewhere"] {
        let mut command = world.command(&["runs", "--state", "running", "--json"]);
        let listed = command
            .env("CAPTIONACC_HOME", world.path(home))
            .output()
            .expect("it starts");
        let run: Value = serde_json::from_slice(&listed.stdout).expect("one line of JSON");
        assert_eq!(run["progress"]["done"], 1, "{home}: {run}");
    }
    fs::write(world.path("go"), "").expect("written");
    let run = world.wait(&id, &FINAL);
    assert_eq!(run["state"]["type"], "COMPLETED", "{run}");
    assert_eq!(run["run_count"], 1);
    assert!(
        run["infrastructure_pid"]
            .as_str()
            .is_some_and(|pid| pid.contains(char::is_numeric)),
        "{run}"
    );
    assert!(
        run["tags"]
            .as_array()
            .expect("tags")
            .contains(&json!(format!("video:{video}")))
    );
    worker.stop();
    let all = world.everything(&id);
    let states = world.state_types(&id);
    assert_eq!(states, ["SCHEDULED", "PENDING", "RUNNING", "COMPLETED"]);
    let logs = all["logs"].as_array().expect("logs");
    for line in ["hello", "bad"] {
        assert!(logs.iter().any(|log| log["message"] == line), "{line}: {logs:?}");
    }
    assert_eq!(progress_of(&mut world, &id), Some(100.0));
    // The server keeps events in batches.
    let deadline = Instant::now() + Duration::from_secs(30);
    let asset = loop {
        let events = world.judge.ask("events", json!({"id": id, "prefix": "prefect.asset."}));
        let events = events.as_array().expect("events").clone();
        let found = events
            .into_iter()
            .find(|event| event["event"] == "prefect.asset.materialization.succeeded");
        if let Some(found) = found {
            break found;
        }
        assert!(Instant::now() < deadline, "no materialization was told");
        std::thread::sleep(Duration::from_millis(200));
    };
    assert_eq!(asset["resource"]["prefect.resource.id"], format!("models://m-{video}"));
    let related = asset["related"].as_array().expect("related");
    assert!(
        related
            .iter()
            .any(|one| one["prefect.resource.id"] == format!("video://{video}")),
        "{related:?}"
    );
}

#[test]
fn a_real_film_becomes_frames_queued_by_prefects_own_client() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, "");
    let studio = Studio::new(&world.path("videos"), &world.video(0));
    let worker = world.start_worker();
    let deployment = format!("full-frames/{}", world.name);
    let run = world.judge.ask(
        "queue",
        json!({"deployment": deployment, "parameters": studio.full_frames()}),
    );
    let id = run["id"].as_str().expect("an id").to_owned();
    let run = world.wait(&id, &FINAL);
    assert_eq!(run["state"]["type"], "COMPLETED", "{run}");
    assert!(!studio.frames("full_frames").is_empty());
    // What remains to be told is told before the worker ends; the server takes its events in later.
    worker.stop();
    let deadline = Instant::now() + Duration::from_secs(30);
    let all = loop {
        let all = world.everything(&id);
        let task_runs = all["task_runs"].as_array().expect("task runs");
        if task_runs.iter().all(|task| task["state"]["type"] == "COMPLETED") || Instant::now() > deadline {
            break all;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let task_runs = all["task_runs"].as_array().expect("task runs");
    assert!(task_runs.len() >= 2, "{all}");
    assert!(
        task_runs.iter().all(|task| task["state"]["type"] == "COMPLETED"),
        "{task_runs:?}"
    );
    let edges = task_runs
        .iter()
        .filter(|task| task["inputs"].as_object().is_some_and(|inputs| !inputs.is_empty()));
    assert_eq!(edges.count(), task_runs.len() - 1, "{task_runs:?}");
    let artifacts = all["artifacts"].as_array().expect("artifacts");
    assert!(
        artifacts.iter().any(|artifact| artifact["type"] == "table"),
        "{artifacts:?}"
    );
}

#[test]
fn a_run_cancelled_in_prefect_ends_with_its_process_tree() {
    let server = Server::shared();
    let script = "sleep 600 & echo $! >\"$1/child\"; : >\"$1/started-$2\"; wait";
    let mut world = PrefectWorld::new(&server, &flow("long", script, ""));
    let worker = world.start_worker();
    let video = world.video(0);
    let id = world.queue("long", &video);
    world.wait_for_file(&format!("started-{video}"));
    let child: u32 = fs::read_to_string(world.path("child"))
        .expect("there")
        .trim()
        .parse()
        .expect("a pid");
    world.wait(&id, &["RUNNING"]);
    world.judge.ask("cancel", json!({ "id": id }));
    let run = world.wait(&id, &FINAL);
    assert_eq!(run["state"]["type"], "CANCELLED", "{run}");
    assert!(ProcessIdentity::of(child).is_none());
    assert!(!marked_any(&id));
    let states = world.state_types(&id);
    assert_eq!(states, ["SCHEDULED", "PENDING", "RUNNING", "CANCELLING", "CANCELLED"]);
    assert_eq!(world.slots(), 0);
    worker.stop();
}

#[test]
fn a_worker_that_is_stopped_gives_its_run_back() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, &flow("wait", UNTIL_GO, ""));
    let video = world.video(0);
    let worker = Worker::spawn(world.command(&["worker", "--grace-ms", "0"]));
    let id = world.queue("wait", &video);
    world.wait_for_file(&format!("started-{video}"));
    worker.stop();
    let run = world.judge.ask("read", json!({ "id": id }));
    assert_eq!(run["state"]["type"], "SCHEDULED", "{run}");
    assert_eq!(world.slots(), 0);
    fs::write(world.path("go"), "").expect("written");
    let worker = world.start_worker();
    let run = world.wait(&id, &FINAL);
    assert_eq!(run["state"]["type"], "COMPLETED", "{run}");
    worker.stop();
}

#[test]
fn a_server_that_does_not_answer_does_not_keep_a_worker_from_hearing_a_signal() {
    let server = Server::shared();
    let proxy = Proxy::to(server.address());
    let mut world = PrefectWorld::at(server.api_url(), &proxy.api_url(), &flow("wait", UNTIL_GO, ""));
    let worker = world.start_worker();
    let (first, second) = (world.video(0), world.video(1));
    let running = world.queue("wait", &first);
    world.wait_for_file(&format!("started-{first}"));
    proxy.plan(Plan::on("POST", "/get_scheduled_flow_runs", Fault::Stall));
    let waiting = world.queue("wait", &second);
    let is_unanswered =
        |exchange: &Exchange| exchange.path.ends_with("/get_scheduled_flow_runs") && exchange.status == 0;
    proxy.wait_for("a poll has no answer", |exchanges| exchanges.iter().any(is_unanswered));
    worker.signal(Signal::TERM);
    fs::write(world.path("go"), "").expect("written");
    let (status, log) = worker.wait();
    assert!(status.success(), "{log}");
    let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("no {text:?} in {log}"));
    assert!(at("Stopping because of SIGTERM") < at("no answer in time"), "{log}");
    assert_eq!(world.wait(&running, &FINAL)["state"]["type"], "COMPLETED");
    let left = world.judge.ask("read", json!({ "id": waiting }));
    assert_eq!(left["state"]["type"], "SCHEDULED", "{left}");
}

#[test]
fn the_run_of_a_killed_worker_is_taken_back_by_the_next() {
    let server = Server::shared();
    takes_back(PrefectWorld::new(&server, &flow("wait", UNTIL_GO, "")));
}

/// A world whose flow `wait` is [`UNTIL_GO`]: the run of a killed worker is completed by the next, once.
pub fn takes_back(mut world: PrefectWorld) {
    let video = world.video(0);
    let worker = world.start_worker();
    let id = world.queue("wait", &video);
    world.wait_for_file(&format!("started-{video}"));
    worker.kill();
    fs::write(world.path("go"), "").expect("written");
    let worker = world.start_worker();
    let run = world.wait(&id, &FINAL);
    assert_eq!(run["state"]["type"], "COMPLETED", "{run}");
    let states = world.state_types(&id);
    assert_eq!(
        states.iter().filter(|state| *state == "COMPLETED").count(),
        1,
        "{states:?}"
    );
    worker.stop();
}

#[test]
fn a_server_that_dies_and_comes_back_in_mid_run_loses_nothing() {
    let mut server = Server::start(&[]);
    let mut world = PrefectWorld::new(&server, &flow("wait", UNTIL_GO, ""));
    let video = world.video(0);
    let worker = world.start_worker();
    let id = world.queue("wait", &video);
    world.wait_for_file(&format!("started-{video}"));
    server.kill();
    // The run ends while nobody listens.
    fs::write(world.path("go"), "").expect("written");
    let deadline = Instant::now() + Duration::from_secs(30);
    while marked_any(&id) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    server.restart();
    world.judge = Judge::start(server.api_url());
    let run = world.wait(&id, &FINAL);
    assert_eq!(run["state"]["type"], "COMPLETED", "{run}");
    let all = world.everything(&id);
    let logs = all["logs"].as_array().expect("logs");
    assert!(logs.iter().any(|log| log["message"] == "gone"), "{logs:?}");
    worker.stop();
}

/// Whether a process of any attempt of the run lives.
fn marked_any(id: &str) -> bool {
    (1..20).any(|token| !marked(&format!("{id}:{token}")).is_empty())
}

/// What a worker says of a run beside its states.
const CONTENT: [(&str, &str); 3] = [("PATCH", "/labels"), ("POST", "/events"), ("POST", "/logs/")];

/// How a worker asks for runs.
const POLL: (&str, &str) = ("POST", "/get_scheduled_flow_runs");

/// Each of these faults meets a run in every state that is told and in these calls, once each; the run completes, and
/// its program ran once.
fn survives(faults: Vec<Fault>, calls: &[(&'static str, &'static str)]) {
    let server = Server::shared();
    let proxy = Proxy::to(server.address());
    let script = "echo ran >>\"$1/ran-$2\"";
    let mut world = PrefectWorld::at(server.api_url(), &proxy.api_url(), &flow("once", script, ""));
    let worker = world.start_worker();
    for (number, fault) in faults.into_iter().enumerate() {
        let said = format!("{fault:?}");
        for state in ["PENDING", "RUNNING", "COMPLETED"] {
            let state = format!("\"type\":\"{state}\"");
            proxy.plan(Plan::on("POST", "/set_state", fault.clone()).with_body(state).times(1));
        }
        for &(method, path) in calls {
            proxy.plan(Plan::on(method, path, fault.clone()).times(1));
        }
        proxy.drop_websockets();
        let video = world.video(number);
        let id = world.queue("once", &video);
        let run = world.wait(&id, &FINAL);
        assert_eq!(run["state"]["type"], "COMPLETED", "{said}: {run}");
        let states = world.state_types(&id);
        assert!(states.contains(&"RUNNING".to_owned()), "{said}: {states:?}");
        assert_eq!(
            fs::read_to_string(world.path(&format!("ran-{video}"))).expect("it ran"),
            "ran\n",
            "{said}"
        );
        proxy.calm();
    }
    assert_eq!(world.slots(), 0);
    worker.stop();
}

#[test]
fn no_fault_of_the_network_loses_a_state_or_runs_a_run_twice() {
    survives(Fault::passing(), &[&CONTENT[..], &[POLL]].concat());
}

#[test]
fn no_refusal_in_mid_run_loses_a_state_or_runs_a_run_twice() {
    let faults = [401, 403, 404, 409, 422].map(Fault::status);
    survives(faults.to_vec(), &[&CONTENT[..], &[POLL]].concat());
}

#[test]
fn no_silence_in_mid_run_loses_a_state_or_runs_a_run_twice() {
    survives(vec![Fault::Stall], &CONTENT[2..]);
}

#[test]
fn no_answer_of_one_byte_a_second_loses_a_state_or_runs_a_run_twice() {
    survives(vec![Fault::Slow], &CONTENT[2..]);
}

/// Every second death is -9, the others are SIGTERM. `CAPTIONACC_CHAOS_KILLS` sets how many there are (50), `CAPTIONACC_CHAOS_SEED` repeats a run's choices.
#[test]
fn after_50_deaths_and_stops_no_run_is_lost_stuck_or_completed_twice() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let seed = number("CAPTIONACC_CHAOS_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("CAPTIONACC_CHAOS_SEED={seed}");
    let mut seed = seed;
    let mut below = |end: u64| {
        // `SplitMix64` (Steele, Lea, Flood 2014).
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    };
    let server = Server::shared();
    let config = flow("work", "sleep 0.2", "retries = 1000\nretry-delay-ms = 1");
    let mut world = PrefectWorld::new(&server, &config);
    let deaths = number("CAPTIONACC_CHAOS_KILLS").unwrap_or(50);
    let mut ids = Vec::new();
    let mut studios = Vec::new();
    for death in 0..deaths {
        // A run that is interrupted 20 times is taken for the cause.
        if deaths - death <= 15 && (deaths - death) % 5 == 0 {
            let studio = Studio::new(&world.path("videos"), &world.video(1000 + studios.len()));
            let question = json!({
                "deployment": format!("full-frames/{}", world.name), "parameters": studio.full_frames(),
            });
            let run = world.judge.ask("queue", question);
            ids.push(run["id"].as_str().expect("an id").to_owned());
            studios.push(studio);
        }
        let worker = world.start_worker();
        ids.push(world.queue("work", &world.video(ids.len())));
        std::thread::sleep(Duration::from_millis(below(900)));
        if death % 2 == 0 {
            worker.kill();
        } else {
            kill(worker.identity.pid, Signal::TERM);
            if below(2) == 0 {
                kill(worker.identity.pid, Signal::TERM);
            }
            let (status, log) = worker.wait();
            // A signal before the handler stands ends a worker that has claimed nothing.
            assert!(
                status.success() || log.is_empty() || !log.contains("Flow run claimed"),
                "{status}: {log}"
            );
        }
    }
    let worker = world.start_worker();
    for id in &ids {
        let run = world.wait(id, &FINAL);
        assert_eq!(run["state"]["type"], "COMPLETED", "{run}");
    }
    // What a worker still does for an ended run would be seen in its states.
    worker.stop();
    for id in &ids {
        let states = world.state_types(id);
        assert_eq!(
            states.iter().filter(|state| *state == "COMPLETED").count(),
            1,
            "{id}: {states:?}"
        );
        assert_eq!(last(&states), "COMPLETED");
        assert!(!marked_any(id));
    }
    assert_eq!(world.unfinished(), 0);
    let path = format!("/work_pools/{}", world.name);
    let pool = world.judge.ask("request", json!({"method": "GET", "path": path}));
    assert_eq!(pool["active_slots"], 0, "{pool}");
    for studio in &studios {
        assert_eq!(studio.frames("full_frames").len(), 2, "{}", studio.id);
        assert!(studio.is_sound(), "{}", studio.id);
    }
}
