//! Runs of Python flows in the pool, run by our worker's part for them: Prefect's real engine, judged by its client.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use captionacc::domain::flow::Flows;
use captionacc::domain::state::StateName;
use captionacc::orchestrator::claims::{Claimed, Claims, ForeignClaim, ForeignEnd};
use captionacc::orchestrator::prefect::PrefectOrchestrator;
use captionacc::process::tree::marked;
use captionacc::settings::prefect::PrefectSettings;
use captionacc::worker::attempt::Wish;
use captionacc::worker::foreign::supervise_foreign;
use serde_json::{Value, json};
use tokio::sync::watch;
use uuid::Uuid;

use super::judge::Judge;
use super::server::{Server, environment};
use crate::world::runtime;

const FLOWS: &str = r#"
import os, subprocess, sys, time
from pathlib import Path
from prefect import flow, task
from prefect.assets import materialize

@materialize("models://boundary-detection-v1")
def train(size):
    return size * 2

@flow(log_prints=True)
def training(size: int = 3):
    print(f"training with {os.environ['TRAINING_SIZE']} in {os.getcwd()}")
    return train(size)

@flow
def failing():
    raise ValueError("no such data")

@flow
def waiting(folder: str):
    child = subprocess.Popen(["sleep", "600"])
    Path(folder, "grandchild").write_text(str(child.pid))
    time.sleep(600)

@flow
def dying():
    print("about to die", file=sys.stderr, flush=True)
    os._exit(7)
"#;

/// A server with a pool of its own and the flows above in a folder.
struct Bed {
    _server: Server,
    judge: Judge,
    runtime: tokio::runtime::Runtime,
    orchestrator: Arc<PrefectOrchestrator>,
    folder: tempfile::TempDir,
    pool: String,
}

impl Bed {
    fn new() -> Self {
        let server = Server::shared();
        let mut judge = Judge::start(server.api_url());
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("flows.py"), FLOWS).expect("written");
        let pool = format!("foreign-{}", Uuid::new_v4().simple());
        let template: Value =
            serde_json::from_str(include_str!("../../../src/cli/process_job_template.json")).expect("JSON");
        let body = json!({"name": pool, "type": "process", "base_job_template": template});
        judge.ask(
            "request",
            json!({"method": "POST", "path": "/work_pools/", "body": body}),
        );
        let mut settings = PrefectSettings::new(server.api_url(), "the test").expect("an address");
        settings.work_pool.clone_from(&pool);
        let runtime = runtime();
        let home = folder.path().join("home");
        let opened = PrefectOrchestrator::open(settings, &home, Flows::builtin());
        let orchestrator = Arc::new(runtime.block_on(opened).expect("it opens"));
        Self {
            _server: server,
            judge,
            runtime,
            orchestrator,
            folder,
            pool,
        }
    }

    /// Registers a flow of the file, queues a run of it, and claims it.
    fn claim(&mut self, flow: &str, parameters: &Value, variables: Value) -> ForeignClaim {
        let post = |path: &str, body: Value| json!({"method": "POST", "path": path, "body": body});
        let flow_id = self.judge.ask("request", post("/flows/", json!({"name": flow})))["id"].clone();
        let mut variables = variables;
        let python = environment().join("bin/python");
        if variables["command"].is_null() {
            variables["command"] = json!(format!("{} -m prefect.engine", python.display()));
        }
        let deployment = self.judge.ask(
            "request",
            post(
                "/deployments/",
                json!({
                    "name": self.pool, "flow_id": flow_id, "work_pool_name": self.pool,
                    "entrypoint": format!("flows.py:{flow}"), "path": self.folder.path(),
                    "parameter_openapi_schema": {"type": "object", "properties": {}},
                    "job_variables": variables,
                }),
            ),
        );
        let deployment_name = format!("{flow}/{}", self.pool);
        assert_eq!(deployment["name"], self.pool);
        let queued = self.judge.ask(
            "queue",
            json!({"deployment": deployment_name, "parameters": parameters}),
        );
        let id = queued["id"].as_str().expect("an id");
        // Polls by itself at most every ten seconds, unless something rings.
        let orchestrator = self.orchestrator.clone();
        let claimed = self.runtime.block_on(async {
            loop {
                if let Some(claimed) = orchestrator
                    .claim("the-worker", BTreeSet::new())
                    .await
                    .expect("answered")
                {
                    return claimed;
                }
                orchestrator.wait_for_work(Duration::from_millis(100)).await;
            }
        });
        let Claimed::Foreign(claim) = claimed else {
            panic!("{claimed:?}");
        };
        assert_eq!(claim.flow_run_id.to_string(), id);
        *claim
    }

    fn supervise(&self, claim: &ForeignClaim) -> ForeignEnd {
        let (_wish, receiver) = watch::channel(Wish::Run);
        let supervising = supervise_foreign(self.orchestrator.as_ref(), claim, Duration::from_secs(5), receiver);
        self.runtime.block_on(supervising).expect("told")
    }
}

#[test]
fn a_python_flow_runs_as_under_prefects_own_worker() {
    let mut bed = Bed::new();
    let variables = json!({"env": {"TRAINING_SIZE": "big"}, "working_dir": bed.folder.path()});
    let run = bed.claim("training", &json!({"size": 5}), variables);
    assert_eq!(bed.supervise(&run), ForeignEnd::Reported(Some(StateName::Completed)));
    let all = bed.judge.ask("everything", json!({"id": run.flow_run_id}));
    assert_eq!(all["run"]["state"]["type"], "COMPLETED", "{all}");
    assert!(
        all["run"]["infrastructure_pid"]
            .as_str()
            .is_some_and(|pid| pid.parse::<u32>().is_ok())
    );
    let line = format!("training with big in {}", bed.folder.path().display());
    let logs = all["logs"].as_array().expect("logs");
    assert!(logs.iter().any(|log| log["message"] == line.as_str()), "{logs:?}");
    assert!(marked(&run.marker()).is_empty());
}

#[test]
fn what_a_flow_reports_itself_stands() {
    let mut bed = Bed::new();
    let run = bed.claim("failing", &json!({}), json!({"working_dir": bed.folder.path()}));
    assert_eq!(bed.supervise(&run), ForeignEnd::Reported(Some(StateName::Failed)));
    let run = bed.judge.ask("read", json!({"id": run.flow_run_id}));
    assert_eq!(run["state"]["type"], "FAILED");
}

#[test]
fn a_process_that_dies_without_a_word_is_crashed_with_its_last_words() {
    let mut bed = Bed::new();
    let run = bed.claim("dying", &json!({}), json!({"working_dir": bed.folder.path()}));
    assert_eq!(bed.supervise(&run), ForeignEnd::Crashed);
    let state = bed.judge.ask("read", json!({"id": run.flow_run_id}))["state"].take();
    assert_eq!(state["type"], "CRASHED");
    let message = state["message"].as_str().expect("a message");
    assert!(
        message.contains("code 7") && message.contains("about to die"),
        "{message}"
    );
}

#[test]
fn a_program_that_can_not_be_started_is_crashed_and_says_why() {
    let mut bed = Bed::new();
    let run = bed.claim("dying", &json!({}), json!({"command": "/no/such/program"}));
    assert_eq!(bed.supervise(&run), ForeignEnd::Crashed);
    let state = bed.judge.ask("read", json!({"id": run.flow_run_id}))["state"].take();
    assert!(
        state["message"]
            .as_str()
            .expect("a message")
            .contains("/no/such/program"),
        "{state}"
    );
}

#[test]
fn a_claim_shows_nothing_of_its_secrets() {
    let mut bed = Bed::new();
    let variables = json!({"env": {"TOKEN": "hidden"}, "stream_output": false});
    let run = bed.claim("dying", &json!({}), variables);
    assert_eq!(run.program.environment["TOKEN"], "hidden");
    assert!(!format!("{run:?}").contains("hidden"), "{run:?}");
    assert!(!run.program.shows_output);
    assert_eq!(bed.supervise(&run), ForeignEnd::Crashed);
}

#[test]
fn a_cancelled_flow_ends_with_its_whole_process_tree() {
    let mut bed = Bed::new();
    let folder = bed.folder.path().to_owned();
    let run = bed.claim("waiting", &json!({"folder": folder}), json!({"working_dir": folder}));
    let (wish, receiver) = watch::channel(Wish::Run);
    let (orchestrator, claim) = (bed.orchestrator.clone(), run.clone());
    // Its connections live there.
    let on = std::mem::replace(&mut bed.runtime, runtime());
    let supervising = std::thread::spawn(move || {
        on.block_on(supervise_foreign(
            orchestrator.as_ref(),
            &claim,
            Duration::from_secs(5),
            receiver,
        ))
    });
    let written: PathBuf = folder.join("grandchild");
    let grandchild = loop {
        // The flow is another process, which tells of its start by this file alone.
        let text = fs::read_to_string(&written).unwrap_or_default();
        if let Ok(pid) = text.parse::<u32>() {
            break pid;
        }
        assert!(!supervising.is_finished(), "the flow ended before it started");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(
        bed.judge.ask("cancel", json!({"id": run.flow_run_id}))["status"],
        "ACCEPT"
    );
    wish.send_replace(Wish::Cancel);
    assert_eq!(
        supervising.join().expect("it ends").expect("told"),
        ForeignEnd::Cancelled
    );
    assert_eq!(
        bed.judge.ask("read", json!({"id": run.flow_run_id}))["state"]["type"],
        "CANCELLED"
    );
    assert!(captionacc::process::identity::ProcessIdentity::of(grandchild).is_none());
}
