//! What is asked of queue.db costs the same however many runs wait or have ended. No clock tells: each statement says how
//! many steps it took, and by which way it looks things up.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use rusqlite::trace::{TraceEvent, TraceEventCodes};
use rusqlite::{Connection, StatementStatus};
use serde_json::json;
use tempfile::TempDir;
use uuid::Uuid;

use super::outbox::Tell;
use super::peers::Peers;
use super::rows::now_ms;
use super::store::open_connection;
use super::{feed, notifications, queue, reading, records, retention, waiting, workers};
use crate::domain::asset::LineageOf;
use crate::domain::asset::Materialization;
use crate::domain::flow::{Flows, WorkQueue};
use crate::domain::flow_run::{Artifact, ArtifactType, EventCursor, LogLevel, Progress};
use crate::domain::id::FlowRunId;
use crate::domain::state::{StateName, StateType};
use crate::orchestrator::claims::{Claim, Ending, PoolLimits, Record, log_line};
use crate::orchestrator::queue::{FlowRunFilter, Intent, NewFlowRun, WorkerRecord};
use crate::process::identity::ProcessIdentity;

/// Runs that wait, and as many that have ended: enough that no walk over them goes unseen.
const MANY: u32 = 5000;

/// What the videos of all runs look like.
const VIDEO_FILE: &str = "1:2:3:4";

/// A store, and what was asked of it.
struct Subject {
    connection: Connection,
    peers: Peers,
    /// Statement by statement: its text, and the steps that it took.
    asked: Arc<Mutex<Vec<(String, i32)>>>,
    _folder: TempDir,
}

/// The runs that stand around when questions are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crowd {
    Nobody,
    /// Each for a video of its own.
    DueNow,
    DueTomorrow,
    /// All of one video, queued one after the other.
    OneVideo,
}

impl Subject {
    fn with(crowd: Crowd) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut connection = open_connection(&folder.path().join("queue.db")).expect("opens");
        connection
            .execute_batch("PRAGMA synchronous = OFF; UPDATE work_pool SET background_limit = 64")
            .expect("nothing of it is to last; both slots are anybody's");
        if crowd != Crowd::Nobody {
            fill(&connection, crowd);
        }
        let asked = Arc::default();
        listen(&mut connection, Arc::clone(&asked));
        Self {
            connection,
            peers: Peers::new(folder.path()),
            asked,
            _folder: folder,
        }
    }

    /// Statements and their steps since the last time.
    fn take_asked(&self) -> Vec<(String, i32)> {
        mem::take(&mut *self.asked.lock().expect("nobody panics with it"))
    }

    fn create(&mut self, flow: &str, video_id: &str, rate: f64) -> FlowRunId {
        self.create_for(flow, video_id, rate, VIDEO_FILE)
    }

    fn create_for(&mut self, flow: &str, video_id: &str, rate: f64, video_file: &str) -> FlowRunId {
        let new = new(flow, video_id, rate);
        queue::create(&mut self.connection, &new, Some(video_file), &Intent::default())
            .expect("queued")
            .flow_run_id
    }

    fn claim(&mut self) -> Option<Claim> {
        let own = self.peers.own().expect("locks work here");
        loop {
            match queue::try_to_claim(&mut self.connection, "tester", &own, &names()).expect("claims work") {
                ControlFlow::Break(claim) => return claim,
                ControlFlow::Continue(()) => {}
            }
        }
    }

    fn begin(&mut self) -> Claim {
        let claim = self.claim().expect("a run waits");
        queue::start(&mut self.connection, claim.lease, &ProcessIdentity::own(), Tell::Nobody).expect("starts");
        claim
    }

    fn end(&mut self, claim: &Claim, ending: &Ending) {
        queue::finish(&mut self.connection, claim.lease, ending, Tell::Nobody).expect("ends");
    }

    /// Before everything else of its queue, whatever waits there.
    fn put_first(&self, id: FlowRunId) {
        self.connection
            .execute(
                "UPDATE flow_run SET scheduled_at = 1, priority = 1 WHERE id = ?1",
                [id.to_string()],
            )
            .expect("changed");
        self.take_asked();
    }

    fn is_in(&self, id: FlowRunId, state_type: &str) -> bool {
        self.connection
            .query_row(
                "SELECT state_type = ?2 FROM flow_run WHERE id = ?1",
                (id.to_string(), state_type),
                |row| row.get(0),
            )
            .expect("known")
    }

    /// Waiting runs as they are kept, by queue.
    fn counts(&self) -> [u32; 2] {
        let pool = waiting::counts(&self.connection).expect("reads");
        WorkQueue::ALL.map(|queue| {
            let found = pool.iter().find(|(of, _)| *of == queue);
            found.expect("every queue is counted").1
        })
    }
}

/// Remembers every statement with the steps that it took.
fn listen(connection: &mut Connection, asked: Arc<Mutex<Vec<(String, i32)>>>) {
    // A statement counts for as long as it lives.
    let mut counted: HashMap<String, i32> = HashMap::new();
    let hear = move |event: TraceEvent<'_>| {
        if let TraceEvent::Profile(statement, _) = event {
            let sql = statement.sql().into_owned();
            let all = statement.get_status(StatementStatus::VmStep);
            let before = counted.insert(sql.clone(), all).unwrap_or(0);
            let steps = if all >= before { all - before } else { all };
            asked.lock().expect("nobody panics with it").push((sql, steps));
        }
    };
    connection
        .trace_v2(TraceEventCodes::SQLITE_TRACE_PROFILE, Some(hear))
        .expect("listens");
}

fn new(flow: &str, video_id: &str, rate: f64) -> NewFlowRun {
    let flows = Flows::builtin();
    let flow = flows.get(flow).expect("built in").clone();
    let mut given = json!({
        "video-id": video_id, "video-path": "/v/a.mp4", "db-path": format!("/d/{video_id}.db"), "output-dir": "/o",
    });
    if flow.name == "crop-frames" {
        given["crop-bounds"] = json!({"left": 0, "top": 0, "right": 8, "bottom": 8});
    } else {
        given["frame-rate"] = json!(rate);
    }
    let arguments = flow
        .parse_arguments(given.as_object().expect("an object"), Path::new("/"))
        .expect("valid arguments");
    NewFlowRun::new(flow, arguments)
}

fn names() -> BTreeSet<String> {
    Flows::builtin().iter().map(|flow| flow.name.clone()).collect()
}

/// Runs as this program queues and ends them, half of each flow, younger than what tests queue.
fn fill(connection: &Connection, crowd: Crowd) {
    let now = now_ms();
    let scheduled_at = now + if crowd == Crowd::DueTomorrow { 86_400_000 } else { -1000 };
    let is_behind = crowd == Crowd::OneVideo;
    let parameters = ["full-frames", "crop-frames"].map(|flow| {
        let given = new(flow, "VIDEO", 0.1).arguments;
        serde_json::to_string(&given).expect("arguments are JSON")
    });
    for (state_type, state_name, base) in [("SCHEDULED", "Scheduled", 1), ("COMPLETED", "Completed", 2)] {
        connection
            .execute(
                r#"WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?1)
                 INSERT INTO flow_run (id, flow_name, parameters, video_id, db_path, work_queue, priority, tags,
                   has_status_row, state_type, state_name, state_at, state_sequence, status_row_due, created_at,
                   scheduled_at, ended_at, child_process, is_behind)
                 SELECT printf('ffffffff-ffff-7fff-800%d-%012x', ?2, n),
                   iif(n % 2, 'full-frames', 'crop-frames'),
                   replace(iif(n % 2, ?3, ?4), 'VIDEO', iif(?8, 'busy', 'video-' || ?2 || '-' || n)),
                   iif(?8, 'busy', 'video-' || ?2 || '-' || n), iif(?8, '/d/busy.db', '/d/video-' || ?2 || n),
                   iif(n % 2, 'background', 'user-initiated'), iif(n % 2, 2, 1), '[]', 1, ?5, ?6, ?7, 1, 0, ?7, ?9,
                   iif(?5 = 'COMPLETED', ?7, NULL), iif(?5 = 'COMPLETED', '{"pid":1,"start_ticks":0,"boot_id":""}', NULL),
                   ?8 AND ?5 = 'SCHEDULED' AND n > 2
                 FROM number"#,
                rusqlite::params![
                    MANY,
                    base,
                    parameters[0],
                    parameters[1],
                    state_type,
                    state_name,
                    now - 1000,
                    is_behind,
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
             INSERT INTO task_run SELECT id, id, 1, 'task', 1, 'Completed', NULL, 1, 1, 1 FROM flow_run WHERE ended_at IS NOT NULL;
             INSERT INTO idempotency SELECT 'key-' || id, id FROM flow_run;
             INSERT INTO asset_materialization (key, flow_run_id, flow_name, metadata, at, is_newest)
               SELECT 'a://' || (rowid % 7), id, flow_name, '{}', state_at, 0 FROM flow_run WHERE ended_at IS NOT NULL;
             UPDATE asset_materialization SET is_newest = 1
               WHERE version IN (SELECT max(version) FROM asset_materialization GROUP BY key);",
        )
        .expect("filled");
}

fn completed(keys: &[&str]) -> Ending {
    let made = |key: &&str| Materialization {
        key: (*key).to_owned(),
        metadata: json!({}),
        upstream_keys: vec!["a://1".to_owned()],
        observed: false,
    };
    Ending::Completed {
        message: "done".to_owned(),
        materializations: keys.iter().map(made).collect(),
    }
}

fn failed(retry_after_s: Option<u64>) -> Ending {
    Ending::Failed {
        state: StateName::Failed,
        message: "broken".to_owned(),
        retry_after: retry_after_s.map(std::time::Duration::from_secs),
    }
}

/// What was asked, with the steps that each statement took.
type Questions = BTreeMap<&'static str, Vec<(String, i32)>>;

macro_rules! ask {
    ($all:ident, $subject:ident, $what:literal, $question:expr) => {{
        let answer = $question;
        $all.entry($what).or_insert_with(Vec::new).extend($subject.take_asked());
        answer
    }};
}

/// Everything that workers and readers ask, where runs of the tests' own come first.
fn ask_everything(subject: &mut Subject) -> Questions {
    let mut all = Questions::new();
    let id = ask_what_workers_ask(subject, &mut all);
    ask_what_readers_ask(subject, &mut all, id);
    all
}

/// Returns a run that has ended.
#[expect(clippy::too_many_lines, reason = "question after question, as a worker asks them")]
fn ask_what_workers_ask(subject: &mut Subject, all: &mut Questions) -> FlowRunId {
    let busy = subject.create("full-frames", "busy", 0.3);
    subject.put_first(busy);
    let busy = subject.begin();
    subject.take_asked();
    ask!(all, subject, "register a worker", {
        let worker = WorkerRecord {
            name: "tester".to_owned(),
            process: ProcessIdentity::own(),
            version: "0".to_owned(),
            started_at: Timestamp::now(),
            is_alive: true,
        };
        workers::register(
            &mut subject.connection,
            &subject.peers,
            &worker,
            PoolLimits {
                all: Some(3),
                background: None,
            },
        )
        .expect("registers");
    });
    let older = ask!(all, subject, "create", subject.create("crop-frames", "v1", 0.1));
    let newer = ask!(
        all,
        subject,
        "supersede one that waits",
        subject.create("crop-frames", "v1", 0.1)
    );
    ask!(
        all,
        subject,
        "create a full-frames",
        subject.create("full-frames", "v1", 0.1)
    );
    ask!(
        all,
        subject,
        "create an equal one",
        subject.create("full-frames", "v1", 0.1)
    );
    ask!(
        all,
        subject,
        "create for a busy video",
        subject.create("full-frames", "busy", 0.4)
    );
    subject.put_first(newer);
    ask!(
        all,
        subject,
        "when the next is due",
        queue::next_due(&subject.connection, &names()).expect("answers")
    );
    let claim = ask!(all, subject, "claim", subject.claim().expect("a run waits"));
    assert_eq!(claim.lease.flow_run_id, newer);
    ask!(
        all,
        subject,
        "start",
        queue::start(
            &mut subject.connection,
            claim.lease,
            &ProcessIdentity::own(),
            Tell::Nobody
        )
        .expect("starts")
    );
    ask!(
        all,
        subject,
        "record",
        records::record(
            &mut subject.connection,
            claim.lease,
            &one_of_each_record(),
            Tell::Nobody
        )
        .expect("kept")
    );
    ask!(
        all,
        subject,
        "may commit",
        assert!(queue::may_commit(&subject.connection, claim.lease).expect("answers"))
    );
    ask!(all, subject, "orphaned runs", {
        queue::orphaned_runs(&subject.connection, &subject.peers).expect("answers");
    });
    ask!(
        all,
        subject,
        "pool",
        workers::pool(&mut subject.connection, &subject.peers).expect("reads")
    );
    let equal = ask!(
        all,
        subject,
        "create one that is at work",
        subject.create("crop-frames", "v1", 0.1)
    );
    assert_eq!(equal, newer);
    let last = ask!(
        all,
        subject,
        "supersede one at work",
        subject.create_for("crop-frames", "v1", 0.1, "of another video")
    );
    ask!(all, subject, "cancellations", {
        assert_eq!(
            queue::cancellations(&subject.connection, &[newer, older])
                .expect("answers")
                .len(),
            1
        );
    });
    let cancelled = Ending::Cancelled { message: String::new() };
    ask!(all, subject, "finish", subject.end(&claim, &cancelled));
    for ending in [
        failed(Some(0)),
        failed(None),
        Ending::GivenBack { message: String::new() },
    ] {
        subject.put_first(last);
        let claim = ask!(all, subject, "claim", subject.begin());
        assert_eq!(claim.lease.flow_run_id, last);
        ask!(all, subject, "finish", subject.end(&claim, &ending));
        if subject.is_in(last, "FAILED") {
            ask!(
                all,
                subject,
                "retry",
                queue::retry(&mut subject.connection, last).expect("waits again")
            );
        }
    }
    subject.put_first(last);
    let claim = subject.begin();
    subject.take_asked();
    ask!(
        all,
        subject,
        "finish with assets",
        subject.end(&claim, &completed(&["a://1", "a://2"]))
    );
    ask!(
        all,
        subject,
        "finish one of a busy video",
        subject.end(&busy, &failed(None))
    );
    ask!(all, subject, "status rows", {
        for due in queue::status_rows_due(&mut subject.connection).expect("answers") {
            let id = due.flow_run.flow_run_id;
            queue::status_row_is_due(&subject.connection, id, due.state_sequence).expect("answers");
            queue::status_row_written(&subject.connection, id, due.state_sequence).expect("noted");
        }
    });
    ask!(
        all,
        subject,
        "forget nothing",
        assert_eq!(
            retention::forget_some(&mut subject.connection, 1)
                .expect("looks")
                .forgotten,
            0
        )
    );
    workers::set_paused(&subject.connection, true).expect("pauses");
    subject.take_asked();
    ask!(
        all,
        subject,
        "claim where nothing may be",
        assert_eq!(subject.claim(), None)
    );
    workers::set_paused(&subject.connection, false).expect("resumes");
    ask!(all, subject, "withdraw a worker", {
        workers::deregister(&mut subject.connection, &subject.peers, "tester").expect("withdrawn");
    });
    newer
}

fn ask_what_readers_ask(subject: &mut Subject, all: &mut Questions, newer: FlowRunId) {
    let waiting = subject.create("crop-frames", "v2", 0.1);
    subject.take_asked();
    ask!(
        all,
        subject,
        "cancel",
        queue::cancel(&mut subject.connection, waiting).expect("cancels")
    );
    ask!(all, subject, "read events", {
        reading::events(&mut subject.connection, newer, EventCursor::default()).expect("reads");
        reading::logs(&subject.connection, newer, 0).expect("reads");
    });
    ask!(all, subject, "notifications", {
        let receiver = "http://127.0.0.1/runs";
        notifications::due(&mut subject.connection, receiver).expect("begins");
    });
    let waiting = subject.create("crop-frames", "v3", 0.1);
    ask!(all, subject, "notifications", {
        let receiver = "http://127.0.0.1/runs";
        let due = notifications::due(&mut subject.connection, receiver)
            .expect("reads")
            .notifications;
        assert_eq!(due[0].flow_run_id, waiting);
        notifications::not_notified(&subject.connection, receiver, "away", std::time::Duration::ZERO).expect("noted");
        notifications::notified(&mut subject.connection, receiver, due[0].position, None).expect("noted");
        notifications::delivery(&subject.connection, receiver).expect("reads");
    });
    ask!(all, subject, "assets of a video and of a run", {
        for which in [LineageOf::Video("v1".to_owned()), LineageOf::Runs(vec![newer])] {
            reading::lineage_of(&mut subject.connection, &which).expect("reads");
        }
    });
    ask!(all, subject, "oldest waiting run", {
        reading::oldest_waiting(&mut subject.connection).expect("reads");
    });
    ask!(all, subject, "read the feed", {
        let end = feed::read(&mut subject.connection, None).expect("reads").next;
        feed::read(&mut subject.connection, Some(&end)).expect("reads");
    });
    ask!(
        all,
        subject,
        "details",
        reading::details(&subject.connection, newer).expect("reads")
    );
    ask!(
        all,
        subject,
        "lineage",
        reading::lineage(&mut subject.connection).expect("reads")
    );
    for filter in lists(newer) {
        ask!(
            all,
            subject,
            "list",
            reading::list(&mut subject.connection, &filter).expect("lists")
        );
    }
}

fn one_of_each_record() -> Vec<Record> {
    let timestamp = Timestamp::now();
    vec![
        Record::TaskRun {
            task_run_id: Uuid::now_v7(),
            name: "task".to_owned(),
            run_count: 1,
            state: StateName::Running,
            message: None,
        },
        Record::Progress(Progress {
            task: "task".to_owned(),
            done: 1,
            total: None,
            unit: "frames".to_owned(),
            fraction: 0.5,
            timestamp,
        }),
        Record::Log(log_line(1, LogLevel::Info, "line")),
        Record::Artifact(Artifact {
            key: "texts".to_owned(),
            artifact_type: ArtifactType::Table,
            description: None,
            data: json!([]),
            timestamp,
        }),
    ]
}

fn lists(before: FlowRunId) -> Vec<FlowRunFilter> {
    let all = FlowRunFilter {
        limit: 3,
        ..FlowRunFilter::default()
    };
    let flow_name = || Some("crop-frames".to_owned());
    vec![
        all.clone(),
        FlowRunFilter {
            before: Some(before),
            ..all.clone()
        },
        FlowRunFilter {
            flow_name: flow_name(),
            ..all.clone()
        },
        FlowRunFilter {
            video_id: Some("v1".to_owned()),
            flow_name: flow_name(),
            before: Some(before),
            ..all.clone()
        },
        FlowRunFilter {
            state_types: vec![StateType::Running, StateType::Failed],
            ..all.clone()
        },
        FlowRunFilter {
            flow_name: flow_name(),
            state_types: vec![StateType::Scheduled],
            ..all
        },
    ]
}

fn steps(statements: &[(String, i32)]) -> i64 {
    statements.iter().map(|(_, steps)| i64::from(*steps)).sum()
}

#[test]
fn nothing_that_is_asked_costs_more_because_many_runs_wait_or_have_ended() {
    let alone = ask_everything(&mut Subject::with(Crowd::Nobody));
    let mut worse = Vec::new();
    for crowd in [Crowd::DueNow, Crowd::DueTomorrow, Crowd::OneVideo] {
        for (what, statements) in ask_everything(&mut Subject::with(crowd)) {
            let (before, after) = (steps(&alone[what]), steps(&statements));
            println!("{crowd:?}: {what}: {before} -> {after}");
            // Some rows more are there to be returned; a walk over the crowd takes several steps for each of it.
            if after > 2 * before + i64::from(MANY) / 2 {
                worse.push(format!("{crowd:?}: {what}: {before} -> {after} steps: {statements:#?}"));
            }
        }
    }
    assert!(worse.is_empty(), "{}", worse.join("\n"));
}

#[test]
fn every_statement_looks_things_up_by_an_index_and_sorts_nothing() {
    let mut subject = Subject::with(Crowd::DueNow);
    let mut asked: BTreeSet<String> = ask_everything(&mut subject)
        .into_values()
        .flatten()
        .map(|(sql, _)| sql)
        .collect();
    retention::forget_some(&mut subject.connection, now_ms() - 500).expect("forgets");
    asked.extend(subject.take_asked().into_iter().map(|(sql, _)| sql));
    let mut faults = Vec::new();
    for sql in &asked {
        let verb = sql.split_whitespace().next().unwrap_or_default();
        if !["SELECT", "INSERT", "UPDATE", "DELETE"].contains(&verb) {
            continue;
        }
        let plan: Vec<String> = subject
            .connection
            .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
            .expect("it was asked")
            .raw_query()
            .mapped(|row| row.get("detail"))
            .collect::<rusqlite::Result<_>>()
            .expect("a plan");
        faults.extend(
            plan.iter()
                .filter(|line| {
                    line.contains("TEMP B-TREE")
                        || line.starts_with("SCAN") && !MAY_BE_WALKED.iter().any(|prefix| line.starts_with(prefix))
                })
                .map(|line| format!("{line}\n  of {sql}")),
        );
    }
    assert!(asked.len() > 60, "statements were listened to: {}", asked.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What is small, or asked for as a whole.
const MAY_BE_WALKED: [&str; 14] = [
    // Values given with the statement, and rows that were looked up.
    "SCAN CONSTANT ROW",
    "SCAN json_each",
    "SCAN flow VIRTUAL TABLE",
    "SCAN queue VIRTUAL TABLE",
    "SCAN (subquery",
    // The assets of a video, and what they were made from.
    "SCAN wanted",
    "SCAN needed",
    // One row.
    "SCAN feed",
    // As many as the limit of the pool.
    "SCAN flow_run USING INDEX flow_run_active",
    "SCAN flow_run USING COVERING INDEX flow_run_active",
    // The first hundred.
    "SCAN flow_run USING INDEX flow_run_status_row_due",
    "SCAN worker",
    // Empty, but in the journal of runs of a Prefect server, and read once an hour.
    "SCAN prefect_run",
    // Each asset once: what lineage is.
    "SCAN asset_materialization USING INDEX asset_materialization_newest",
];

#[test]
fn of_many_runs_for_a_busy_video_each_has_its_turn_in_order() {
    let mut subject = Subject::with(Crowd::Nobody);
    let expected: Vec<_> = (1..=150)
        .map(|rate| subject.create("full-frames", "busy", f64::from(rate) / 1000.0))
        .collect();
    // As a store of an earlier version has them.
    subject
        .connection
        .execute("UPDATE flow_run SET is_behind = 0", [])
        .expect("changed");
    let other = {
        let first = subject.begin();
        let other = subject.create("full-frames", "other", 0.1);
        assert_eq!(subject.begin().lease.flow_run_id, other);
        assert_eq!(subject.claim(), None);
        subject.end(&first, &completed(&[]));
        other
    };
    let mut claimed = vec![expected[0]];
    while let Some(claim) = subject.claim() {
        queue::start(
            &mut subject.connection,
            claim.lease,
            &ProcessIdentity::own(),
            Tell::Nobody,
        )
        .expect("starts");
        claimed.push(claim.lease.flow_run_id);
        assert_eq!(subject.claim(), None, "one at a time");
        let ending = match claimed.len() % 3 {
            0 => completed(&[]),
            1 => failed(None),
            _ => Ending::Cancelled { message: String::new() },
        };
        subject.end(&claim, &ending);
        // Whoever waits may be cancelled at any time, the next one as well.
        if claimed.len() % 7 == 0
            && let Some(&next) = expected.get(claimed.len())
        {
            queue::cancel(&mut subject.connection, next).expect("cancels");
            claimed.push(next);
        }
    }
    assert_eq!(claimed, expected);
    assert!(subject.is_in(other, "RUNNING"));
    assert_eq!(subject.counts(), [0, 0]);
}

#[test]
fn the_number_of_waiting_runs_is_kept() {
    for crowd in [Crowd::Nobody, Crowd::DueNow, Crowd::OneVideo] {
        let mut subject = Subject::with(crowd);
        ask_everything(&mut subject);
        let counted: Vec<u32> = ["user-initiated", "background"]
            .iter()
            .map(|queue| {
                subject
                    .connection
                    .query_row(
                        "SELECT count(*) FROM flow_run WHERE state_type = 'SCHEDULED' AND work_queue = ?1",
                        [queue],
                        |row| row.get(0),
                    )
                    .expect("counts")
            })
            .collect();
        assert_eq!(subject.counts(), counted[..], "{crowd:?}");
    }
}
