//! j) A queue of a million runs against an empty one: `bash bench/run.sh million`. Prints every sample as JSON, one side a
//! line; `million.mjs` makes the table.
//!
//! Three stores with 500,000 waiting and 500,000 ended runs, in which the waiting ones are all due now, all due tomorrow, or
//! all due now for one video that is being worked on, and one store without. All sides are measured in turns.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use captionacc::domain::flow::{FlowDefinition, Flows};
use captionacc::domain::id::FlowRunId;
use captionacc::domain::state::StateType;
use captionacc::orchestrator::claims::{Claims, Ending};
use captionacc::orchestrator::local::LocalOrchestrator;
use captionacc::orchestrator::queue::{FlowRunFilter, NewFlowRun, Queue};
use captionacc::process::identity::ProcessIdentity;
use captionacc::settings::Settings;
use jiff::Timestamp;
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// The crowd's flow where its runs may be claimed; the worker that is measured does not know it.
const CROWD_FLOW: &str = "crowd";
/// What is queued and claimed here, which the worker does not know either.
const MEASURED_FLOW: &str = "measured";
const CONFIG: &str = "[flows.first-instruction]\ncommand = ['date', '+%s.%N']\n";
/// Runs that one measurement of retention forgets.
const FORGOTTEN: u32 = 2000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crowd {
    Nobody,
    DueNow,
    DueTomorrow,
    OneVideo,
}

impl Crowd {
    const ALL: [Self; 4] = [Self::Nobody, Self::DueNow, Self::DueTomorrow, Self::OneVideo];

    fn name(self) -> &'static str {
        match self {
            Self::Nobody => "empty",
            Self::DueNow => "due now",
            Self::DueTomorrow => "due tomorrow",
            Self::OneVideo => "one busy video",
        }
    }
}

struct Side {
    crowd: Crowd,
    home: PathBuf,
    store: LocalOrchestrator,
    worker: Option<Child>,
    samples: BTreeMap<&'static str, Vec<f64>>,
}

fn main() {
    let number = |name: &str, default: u32| {
        let mut arguments = std::env::args().skip_while(|argument| argument != name);
        arguments
            .nth(1)
            .map_or(default, |value| value.parse().expect("a number"))
    };
    let (runs, turns) = (number("--runs", 500_000), number("--turns", 60));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("captionacc.toml"), CONFIG).expect("written");
    let flows = Settings::load(&|_| None, folder.path()).expect("valid").flows;
    let mut sides: Vec<Side> = Crowd::ALL
        .into_iter()
        .map(|crowd| Side::new(&runtime, folder.path(), crowd, runs))
        .collect();
    let first_instruction = flows.get("first-instruction").expect("declared");
    for turn in 0..turns {
        // The order changes, so that nobody is always first.
        for place in 0..sides.len() {
            let side = (place + turn as usize) % sides.len();
            sides[side].measure(&runtime, turn, first_instruction);
        }
    }
    for side in &mut sides {
        side.stop_worker();
        println!("{}", json!({ "store": side.crowd.name(), "samples": side.samples }));
    }
}

impl Side {
    fn new(runtime: &Runtime, folder: &Path, crowd: Crowd, runs: u32) -> Self {
        let home = folder.join(crowd.name().replace(' ', "-"));
        let store = runtime.block_on(LocalOrchestrator::open(&home)).expect("a store");
        // A run in the crowd is at work: the one that is measured is to find a slot.
        Connection::open(home.join("queue.db"))
            .and_then(|queue| queue.execute_batch("UPDATE work_pool SET background_limit = 64"))
            .expect("a limit");
        if crowd != Crowd::Nobody {
            eprintln!("filling: {}", crowd.name());
            fill(&home.join("queue.db"), crowd, runs);
        }
        let side = Self {
            crowd,
            home,
            store,
            worker: None,
            samples: BTreeMap::new(),
        };
        // A run for the busy video is at work, in this process.
        let busy = full_frames("busy");
        let id = runtime
            .block_on(side.store.create_flow_run(busy, std::sync::Arc::default()))
            .expect("queued")
            .flow_run_id;
        connect(&side.home.join("queue.db"))
            .execute(
                "UPDATE flow_run SET scheduled_at = 1, is_behind = 0 WHERE id = ?1",
                [id.to_string()],
            )
            .expect("first in line");
        let names = BTreeSet::from(["full-frames".to_owned()]);
        let claim = runtime
            .block_on(side.store.claim("bench", names))
            .expect("claims")
            .expect("waits")
            .own()
            .expect("of a flow of ours");
        assert_eq!(claim.lease.flow_run_id, id);
        runtime
            .block_on(side.store.start(claim.lease, ProcessIdentity::own()))
            .expect("starts");
        side
    }

    fn timed<T>(&mut self, what: &'static str, work: impl FnOnce(&LocalOrchestrator) -> T) -> T {
        let begun = Instant::now();
        let done = work(&self.store);
        self.samples
            .entry(what)
            .or_default()
            .push(begun.elapsed().as_secs_f64() * 1000.0);
        done
    }

    fn measure(&mut self, runtime: &Runtime, turn: u32, first_instruction: &FlowDefinition) {
        let names: BTreeSet<String> = [CROWD_FLOW, MEASURED_FLOW, "full-frames"].map(str::to_owned).into();
        let mut new = full_frames(&format!("v{turn}"));
        MEASURED_FLOW.clone_into(&mut new.flow.name);
        let id = self
            .timed("create", |store| {
                runtime.block_on(store.create_flow_run(new, std::sync::Arc::default()))
            })
            .expect("queued")
            .flow_run_id;
        let claim = self
            .timed("claim", |store| runtime.block_on(store.claim("bench", names.clone())))
            .expect("claims")
            .expect("a run waits")
            .own()
            .expect("of a flow of ours");
        runtime
            .block_on(self.store.start(claim.lease, ProcessIdentity::own()))
            .expect("starts");
        self.timed("claim where the limit is reached", |store| {
            runtime.block_on(store.claim("bench", names.clone()))
        })
        .expect("answers");
        self.timed("next_due", |store| runtime.block_on(store.next_due(names.clone())))
            .expect("answers");
        self.timed("pool", |store| runtime.block_on(store.read_work_pool()))
            .expect("answers");
        self.timed("orphaned runs", |store| runtime.block_on(store.orphaned_runs()))
            .expect("answers");
        let filter = FlowRunFilter {
            flow_name: Some("full-frames".to_owned()),
            state_types: vec![StateType::Running, StateType::Scheduled],
            limit: 1,
            ..FlowRunFilter::default()
        };
        self.timed("list one of a flow and state", |store| {
            runtime.block_on(store.list_flow_runs(filter))
        })
        .expect("answers");
        let ending = Ending::Completed {
            message: "done".to_owned(),
            materializations: Vec::new(),
        };
        self.timed("finish", |store| runtime.block_on(store.finish(claim.lease, ending)))
            .expect("ends");
        // What was created is not left, unless it was what was claimed.
        let _ = runtime.block_on(self.store.cancel_flow_run(id));
        if turn.is_multiple_of(4) {
            forgettable(&self.home.join("queue.db"), turn);
            let before = Timestamp::from_millisecond(2000).expect("a time");
            let forgotten = self
                .timed("retention of 2,000", |store| {
                    runtime.block_on(store.apply_retention(before))
                })
                .expect("forgets");
            assert_eq!(forgotten, u64::from(FORGOTTEN));
            self.restart_worker();
        }
        let calling = Timestamp::now();
        let arguments = first_instruction
            .parse_arguments(json!({}).as_object().expect("an object"), Path::new("/"))
            .expect("none");
        let new = NewFlowRun::new(first_instruction.clone(), arguments);
        let id = runtime
            .block_on(self.store.create_flow_run(new, std::sync::Arc::default()))
            .expect("queued")
            .flow_run_id;
        let first = self.first_line(runtime, id);
        let begun = calling.as_nanosecond();
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a moment ago")]
        let took = first * 1000.0 - begun as f64 / 1e6;
        self.samples.entry("create → first instruction").or_default().push(took);
        while !self.is_final(runtime, id) {
            runtime.block_on(self.store.wait_for_work(Duration::from_millis(2)));
        }
    }

    fn is_final(&self, runtime: &Runtime, id: FlowRunId) -> bool {
        let run = runtime.block_on(self.store.read_flow_run(id)).expect("known");
        run.state.state_type.is_final()
    }

    fn first_line(&self, runtime: &Runtime, id: FlowRunId) -> f64 {
        loop {
            let (lines, _) = runtime.block_on(self.store.read_logs(id, 0)).expect("reads");
            if let Some(seconds) = lines.iter().find_map(|line| line.message.parse().ok()) {
                return seconds;
            }
            runtime.block_on(self.store.wait_for_work(Duration::from_millis(2)));
        }
    }

    fn stop_worker(&mut self) {
        if let Some(mut worker) = self.worker.take() {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }

    /// A worker of its own for each store: from its start to the line that says so.
    fn restart_worker(&mut self) {
        self.stop_worker();
        let begun = Instant::now();
        let mut worker = Command::new(env!("CARGO_BIN_EXE_captionacc"))
            .args(["worker", "--limit", "2"])
            .env("CAPTIONACC_HOME", &self.home)
            .env("CAPTIONACC_ORCHESTRATOR", "embedded")
            .current_dir(self.home.parent().expect("it has one"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut log = BufReader::new(worker.stderr.take().expect("piped"));
        let mut line = String::new();
        while !line.contains("Worker started") {
            line.clear();
            assert!(log.read_line(&mut line).expect("reads") > 0, "the worker ended");
        }
        let took = begun.elapsed().as_secs_f64() * 1000.0;
        self.samples.entry("worker start").or_default().push(took);
        // Nobody reads on: a worker says little.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        self.worker = Some(worker);
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.stop_worker();
    }
}

fn full_frames(video_id: &str) -> NewFlowRun {
    let flow = Flows::builtin().get("full-frames").expect("built in").clone();
    let given = json!({
        "video-id": video_id, "video-path": "/v/a.mp4", "db-path": format!("/nowhere/{video_id}.db"), "output-dir": "/o",
    });
    let arguments = flow
        .parse_arguments(given.as_object().expect("an object"), Path::new("/"))
        .expect("valid");
    NewFlowRun::new(flow, arguments)
}

fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).expect("opens");
    connection.busy_timeout(Duration::from_secs(30)).expect("set");
    connection
        .execute_batch("PRAGMA synchronous = OFF; PRAGMA foreign_keys = ON")
        .expect("set");
    connection
}

/// Runs as this program queues and ends them.
fn fill(path: &Path, crowd: Crowd, runs: u32) {
    let connection = connect(path);
    let now = Timestamp::now().as_millisecond();
    let is_one = crowd == Crowd::OneVideo;
    let scheduled_at = now + if crowd == Crowd::DueTomorrow { 86_400_000 } else { -1000 };
    let parameters: Value = json!({
        "video-id": "VIDEO", "video-path": "/data/videos/VIDEO/original.mp4", "output-dir": "/data/videos/VIDEO/scratch",
        "db-path": "/data/videos/VIDEO/annotations.db", "frame-rate": 0.1,
    });
    for (state_type, state_name, base) in [("SCHEDULED", "Scheduled", 1), ("COMPLETED", "Completed", 2)] {
        connection
            .execute(
                "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?1)
                 INSERT INTO flow_run (id, flow_name, parameters, video_id, db_path, work_queue, priority, tags,
                   has_status_row, state_type, state_name, state_at, state_sequence, status_row_due, created_at,
                   scheduled_at, ended_at, is_behind)
                 SELECT printf('0%d000000-%04x-7%03x-8000-%012x', ?2, n % 65536, n % 4096, n), ?3,
                   replace(replace(?4, 'VIDEO', iif(?5, 'busy', ?2 || '-' || n)), '0.1', '0.1' || n),
                   iif(?5, 'busy', ?2 || '-' || n), iif(?5, '/nowhere/busy.db', '/nowhere/' || ?2 || '-' || n),
                   'background', 2, '[]', 1, ?6, ?7, ?8, 1, 0, ?8, ?9, iif(?6 = 'COMPLETED', ?8, NULL),
                   ?5 AND ?6 = 'SCHEDULED'
                 FROM number",
                rusqlite::params![
                    runs,
                    base,
                    if is_one { "full-frames" } else { CROWD_FLOW },
                    parameters.to_string(),
                    is_one,
                    state_type,
                    state_name,
                    now - 1000,
                    scheduled_at
                ],
            )
            .expect("filled");
    }
    connection
        .execute_batch(
            "UPDATE waiting SET runs = (SELECT count(*) FROM flow_run
                                        WHERE state_type = 'SCHEDULED' AND work_queue = waiting.work_queue);
             INSERT INTO flow_run_state SELECT id, 1, state_name, NULL, 1, state_at, rowid FROM flow_run;
             INSERT INTO log (flow_run_id, attempt, level, message, at)
               SELECT id, 1, 'info', 'line', state_at FROM flow_run WHERE ended_at IS NOT NULL;
             INSERT INTO asset_materialization (key, flow_run_id, flow_name, metadata, at)
               SELECT 'annotations://' || rowid || '/full_frames', id, flow_name, '{}', state_at
               FROM flow_run WHERE ended_at IS NOT NULL;
             PRAGMA wal_checkpoint(TRUNCATE);",
        )
        .expect("filled");
}

/// Ended runs of 1970, each with a log line and a task run.
fn forgettable(path: &Path, turn: u32) {
    let connection = connect(path);
    connection
        .execute(
            "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?1)
             INSERT INTO flow_run (id, flow_name, parameters, video_id, db_path, work_queue, priority, tags,
               has_status_row, state_type, state_name, state_at, state_sequence, status_row_due, created_at,
               scheduled_at, ended_at)
             SELECT printf('00000000-%04x-7000-8000-%012x', ?2, n), 'crowd', '{}', 'old-' || n, '/nowhere/old-' || n,
               'background', 2, '[]', 1, 'COMPLETED', 'Completed', 1, 1, 0, 1, 1, 1
             FROM number",
            (FORGOTTEN, turn),
        )
        .expect("filled");
    connection
        .execute_batch(
            "INSERT INTO flow_run_state SELECT id, 1, state_name, NULL, 1, 1,
               (SELECT position FROM feed_end) + row_number() OVER (ORDER BY rowid) FROM flow_run WHERE ended_at = 1;
             INSERT INTO log (flow_run_id, attempt, level, message, at)
               SELECT id, 1, 'info', 'line', 1 FROM flow_run WHERE ended_at = 1;",
        )
        .expect("filled");
}
