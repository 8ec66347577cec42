//! One pool, two workers: Prefect's own Python worker runs our flows, and our worker runs Python flows.

use std::fs;
use std::process::{Child, Stdio};

use captionacc::process_tree::marked;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;

use super::end_to_end::{FINAL, PrefectWorld, UNTIL_GO, flow};
use super::server::{Server, environment, prefect_command};

/// `prefect worker start --type process`, killed with its group when it is dropped.
struct StockWorker(Child);

impl StockWorker {
    fn start(world: &PrefectWorld) -> Self {
        let home = world.path("stock");
        fs::create_dir_all(&home).expect("a folder");
        let log = fs::File::create(home.join("log")).expect("a file");
        let mut command = prefect_command("prefect", &home, Some(&world.api_url));
        command
            .args(["worker", "start", "--type", "process", "--pool", &world.name])
            .env("PREFECT_WORKER_QUERY_SECONDS", "1")
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

impl Drop for StockWorker {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
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
    let python = environment().join("bin/python");
    let mut ids = Vec::new();
    for flow in ["training", "endless"] {
        let post = |path: &str, body| json!({"method": "POST", "path": path, "body": body});
        let made = world.judge.ask("request", post("/flows/", json!({"name": flow})));
        let deployment = json!({
            "name": world.name, "flow_id": made["id"], "work_pool_name": world.name,
            "entrypoint": format!("flows.py:{flow}"), "path": world.path(""),
            "parameter_openapi_schema": {"type": "object", "properties": {}},
            "job_variables": {"command": format!("{} -m prefect.engine", python.display()), "working_dir": world.path("")},
        });
        world.judge.ask("request", post("/deployments/", deployment));
        let name = format!("{flow}/{}", world.name);
        let run = world.judge.ask("queue", json!({"deployment": name}));
        ids.push(run["id"].as_str().expect("an id").to_owned());
    }
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
    assert!(captionacc::process_identity::ProcessIdentity::of(child).is_none());
    worker.stop();
    assert_eq!(world.slots(), 0);
}
