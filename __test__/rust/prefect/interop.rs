//! One pool, two workers: Prefect's own Python worker runs our flows, and our worker runs Python flows.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use captionacc::process::tree::marked;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

use super::end_to_end::{FINAL, PrefectWorld, UNTIL_GO, flow};
use super::proxy::{Exchange, Fault, Plan, Proxy};
use super::server::{Server, environment, prefect_command};
use crate::world::{Worker, kill};

/// `prefect worker start --type process`, killed with its group when it is dropped.
struct StockWorker(Child);

impl StockWorker {
    fn start(world: &PrefectWorld) -> Self {
        let home = world.path("stock");
        fs::create_dir_all(&home).expect("a folder");
        let log = fs::File::create(home.join("log")).expect("a file");
        let mut command = prefect_command("prefect", &home, Some(&world.server_url));
        command
            .args(["worker", "start", "--type", "process", "--pool", &world.name])
            .env("PREFECT_WORKER_QUERY_SECONDS", "1")
            // Our program is found by its name.
            .env("PATH", path_with_our_program())
            // What our program needs of its machine's set-up.
            .env("CAPTIONACC_HOME", world.path("home"))
            .env("CAPTIONACC_CONFIG", world.path("captionacc.toml"))
            .env("CAPTIONACC_WORK_POOL", &world.name)
            .env("CAPTIONACC_DEPLOYMENT", &world.name)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        Self(command.spawn().expect("Prefect is there"))
    }
}

fn path_with_our_program() -> String {
    let programs = Path::new(env!("CARGO_BIN_EXE_captionacc")).parent().expect("a folder");
    let prefects = environment().join("bin");
    let others = std::env::var("PATH").unwrap_or_default();
    format!("{}:{}:{others}", programs.display(), prefects.display())
}

impl Drop for StockWorker {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

/// Registers a flow of the world's `flows.py` and queues a run of it; its id.
pub fn queue_python(world: &mut PrefectWorld, flow: &str, place: &Value) -> String {
    let python = environment().join("bin/python");
    let post = |path: &str, body| json!({"method": "POST", "path": path, "body": body});
    let made = world.judge.ask("request", post("/flows/", json!({"name": flow})));
    let mut deployment = json!({
        "name": world.name, "flow_id": made["id"], "entrypoint": format!("flows.py:{flow}"), "path": world.path(""),
        "parameter_openapi_schema": {"type": "object", "properties": {}},
        "job_variables": {"command": format!("{} -m prefect.engine", python.display()), "working_dir": world.path("")},
    });
    for (name, value) in place.as_object().expect("an object") {
        deployment[name] = value.clone();
    }
    world.judge.ask("request", post("/deployments/", deployment));
    let name = format!("{flow}/{}", world.name);
    let run = world.judge.ask("queue", json!({"deployment": name}));
    run["id"].as_str().expect("an id").to_owned()
}

#[test]
fn prefects_own_worker_runs_our_flows() {
    let server = Server::shared();
    let config = flow("hello", "echo hello; echo bad >&2", "") + &flow("broken", "exit 3", "retries = 0");
    let mut world = PrefectWorld::new(&server, &config);
    let good = world.queue("hello", &world.video(0));
    let bad = world.queue("broken", &world.video(1));
    let _worker = StockWorker::start(&world);
    let run = world.wait(&good, &FINAL);
    let log = fs::read_to_string(world.path("stock/log")).unwrap_or_default();
    assert_eq!(run["state"]["type"], "COMPLETED", "{run}: {log}");
    assert_eq!(
        world.state_types(&good),
        ["SCHEDULED", "PENDING", "PENDING", "RUNNING", "COMPLETED"]
    );
    let all = world.everything(&good);
    let logs = all["logs"].as_array().expect("logs");
    assert!(logs.iter().any(|log| log["message"] == "hello"), "{logs:?}");
    let run = world.wait(&bad, &FINAL);
    assert_eq!(run["state"]["type"], "FAILED", "{run}");
    assert_eq!(world.slots(), 0);
}

#[test]
fn a_run_under_prefects_own_worker_is_cancelled_with_its_tree() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, &flow("wait", UNTIL_GO, ""));
    let video = world.video(0);
    let id = world.queue("wait", &video);
    let _worker = StockWorker::start(&world);
    world.wait_for_file(&format!("started-{video}"));
    world.wait(&id, &["RUNNING"]);
    world.judge.ask("cancel", json!({ "id": id }));
    let run = world.wait(&id, &FINAL);
    assert_eq!(run["state"]["type"], "CANCELLED", "{run}");
    assert!((1..5).all(|token| marked(&format!("{id}:{token}")).is_empty()));
}

#[test]
fn our_worker_runs_a_python_flow_of_its_pool_beside_our_own() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, &flow("hello", "echo hello", ""));
    let flows = "import subprocess, time\nfrom pathlib import Path\nfrom prefect import flow\n\n\
                 @flow(log_prints=True)\ndef training(size: int = 3):\n    print(f'size {size}')\n    return size\n\n\
                 @flow\ndef endless():\n    child = subprocess.Popen(['sleep', '600'])\n    \
                 Path('started-endless').write_text(str(child.pid))\n    time.sleep(600)\n";
    fs::write(world.path("flows.py"), flows).expect("written");
    let place = json!({"work_pool_name": world.name});
    let ids = ["training", "endless"].map(|flow| queue_python(&mut world, flow, &place));
    let worker = world.start_worker();
    let own = world.queue("hello", &world.video(0));
    let run = world.wait(&ids[0], &FINAL);
    assert_eq!(run["state"]["type"], "COMPLETED", "{run}");
    let run = world.wait(&own, &FINAL);
    assert_eq!(run["state"]["type"], "COMPLETED", "{run}");
    world.wait_for_file("started-endless");
    world.judge.ask("cancel", json!({ "id": ids[1] }));
    let run = world.wait(&ids[1], &FINAL);
    assert_eq!(run["state"]["type"], "CANCELLED", "{run}");
    let child: u32 = fs::read_to_string(world.path("started-endless"))
        .expect("there")
        .parse()
        .expect("a pid");
    assert!(captionacc::process::identity::ProcessIdentity::of(child).is_none());
    worker.stop();
    assert_eq!(world.slots(), 0);
}

#[test]
fn a_python_run_whose_worker_and_process_die_is_crashed_and_its_slot_free() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, "");
    let flows = "import os, time\nfrom pathlib import Path\nfrom prefect import flow\n\n\
                 @flow\ndef endless():\n    Path('started').write_text(str(os.getpid()))\n    time.sleep(600)\n";
    fs::write(world.path("flows.py"), flows).expect("written");
    let worker = world.start_worker();
    let place = json!({"work_pool_name": world.name});
    let id = queue_python(&mut world, "endless", &place);
    world.wait_for_file("started");
    world.wait(&id, &["RUNNING"]);
    worker.kill();
    for pid in marked(&format!("foreign:{id}")) {
        kill(pid, Signal::KILL);
    }
    let worker = world.start_worker();
    let run = world.wait(&id, &FINAL);
    assert_eq!(run["state"]["type"], "CRASHED", "{run}");
    assert_eq!(world.slots(), 0);
    // It may not listen to signals yet.
    worker.kill();
}

#[test]
fn a_python_run_whose_worker_died_goes_on_and_the_next_one_cancels_it() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, "");
    let flows = "import time\nfrom pathlib import Path\nfrom prefect import flow\n\n\
                 @flow\ndef patient():\n    Path('started').touch()\n    \
                 while not Path('go').exists():\n        time.sleep(0.05)\n\n\
                 @flow\ndef endless():\n    Path('started-endless').touch()\n    time.sleep(600)\n";
    fs::write(world.path("flows.py"), flows).expect("written");
    let worker = world.start_worker();
    let place = json!({"work_pool_name": world.name});
    let ids = ["patient", "endless"].map(|flow| queue_python(&mut world, flow, &place));
    for file in ["started", "started-endless"] {
        world.wait_for_file(file);
    }
    for id in &ids {
        world.wait(id, &["RUNNING"]);
    }
    worker.kill();
    let worker = world.start_worker();
    fs::write(world.path("go"), "").expect("written");
    let run = world.wait(&ids[0], &FINAL);
    assert_eq!(run["state"]["type"], "COMPLETED", "{run}");
    world.judge.ask("cancel", json!({ "id": ids[1] }));
    let run = world.wait(&ids[1], &FINAL);
    assert_eq!(run["state"]["type"], "CANCELLED", "{run}");
    assert!(marked(&format!("foreign:{}", ids[1])).is_empty());
    assert_eq!(world.slots(), 0);
    // It may not listen to signals yet.
    worker.kill();
}

#[test]
fn a_run_under_prefects_own_worker_outlives_an_outage_at_its_start_and_at_its_end() {
    let server = Server::shared();
    let proxy = Proxy::to(server.address());
    let mut world = PrefectWorld::at(server.api_url(), &proxy.api_url(), &flow("wait", UNTIL_GO, ""));
    let video = world.video(0);
    let id = world.queue("wait", &video);
    // As that worker claims it.
    let state = json!({"state": {"type": "PENDING"}});
    let path = format!("/flow_runs/{id}/set_state");
    world
        .judge
        .ask("request", json!({"method": "POST", "path": path, "body": state}));
    let resets = |exchanges: &[Exchange]| exchanges.iter().filter(|exchange| exchange.status == 0).count();
    proxy.plan(Plan::on("*", "", Fault::Reset));
    let mut command = world.command(&["execute"]);
    command
        .env("PREFECT__FLOW_RUN_ID", &id)
        .env("PREFECT__WORKER_NAME", "stock");
    let executing = Worker::spawn(command);
    // More than one call makes with its repetitions.
    proxy.wait_for("it asks again and again", |exchanges| resets(exchanges) > 12);
    proxy.calm();
    world.wait_for_file(&format!("started-{video}"));
    world.wait(&id, &["RUNNING"]);
    let before = resets(&proxy.exchanges());
    proxy.plan(Plan::on("*", "", Fault::Reset));
    fs::write(world.path("go"), "").expect("written");
    proxy.wait_for("it tells again and again", |exchanges| resets(exchanges) > before + 12);
    proxy.calm();
    let (exit, log) = executing.wait();
    assert!(exit.success(), "{exit}: {log}");
    let states = world.state_types(&id);
    assert_eq!(states, ["SCHEDULED", "PENDING", "RUNNING", "COMPLETED"]);
    let all = world.everything(&id);
    let logs = all["logs"].as_array().expect("logs");
    assert!(logs.iter().any(|log| log["message"] == "gone"), "{logs:?}");
}
