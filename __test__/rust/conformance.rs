//! What every orchestrator must do. One suite: each function states a fact about any orchestrator ([`Claims`]).

use std::collections::BTreeSet;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use captionacc::domain::asset::{AssetLineage, LineageOf, Materialization};
use captionacc::domain::error::OrchestratorError;
use captionacc::domain::flow::{Flows, WorkQueue};
use captionacc::domain::flow_run::{Artifact, ArtifactType, EventCursor, FlowRunEvent, LogLevel, Progress};
use captionacc::domain::id::FlowRunId;
use captionacc::domain::lease::Lease;
use captionacc::domain::state::{StateName, StateType};
use captionacc::orchestrator::claims::{Claim, Claimed, Claims, Ending, PoolLimits, Record, log_line};
use captionacc::orchestrator::feed::{FeedCursor, FeedEvent};
use captionacc::orchestrator::local::LocalOrchestrator;
use captionacc::orchestrator::queue::{FlowRunFilter, Intent, NewFlowRun, Queue, WorkerRecord};
use captionacc::orchestrator::watching::{EventType, WatchFilter, WatchPlace, Watching};
use captionacc::process::identity::ProcessIdentity;
use jiff::Timestamp;
use serde_json::json;

use crate::prefect::server::Server;
use crate::prefect::subject;
use crate::world::runtime;

type Subject = Arc<dyn Claims>;

/// Runs a fact against each orchestrator, over an empty store of its own.
fn check<F: Future<Output = ()>>(fact: impl Fn(Subject) -> F) {
    runtime().block_on(async {
        println!("over the embedded orchestrator");
        let home = tempfile::tempdir().expect("a folder");
        let local = LocalOrchestrator::open(home.path()).await.expect("a new store");
        fact(Arc::new(local)).await;
        println!("over Prefect");
        let home = tempfile::tempdir().expect("a folder");
        let server = Server::shared();
        fact(subject::open(&server, home.path()).await).await;
    });
}

/// A run of a built-in flow that has never been queued.
pub fn new(flow: &str, video_id: &str) -> NewFlowRun {
    let flows = Flows::builtin();
    let flow = flows.get(flow).expect("built in").clone();
    let mut given = json!({
        "video-id": video_id, "video-path": "/v/a.mp4", "db-path": format!("/d/{video_id}.db"), "output-dir": "/o",
    });
    if flow.name == "crop-frames" {
        given["crop-bounds"] = json!({"left": 0, "top": 0, "right": 8, "bottom": 8});
    }
    let arguments = flow
        .parse_arguments(given.as_object().expect("an object"), Path::new("/"))
        .expect("valid arguments");
    NewFlowRun::new(flow, arguments)
}

async fn queue(subject: &Subject, flow: &str, video_id: &str) -> FlowRunId {
    let queued = subject
        .create_flow_run(new(flow, video_id), Arc::default())
        .await
        .expect("queued");
    queued.flow_run_id
}

fn names() -> BTreeSet<String> {
    Flows::builtin().iter().map(|flow| flow.name.clone()).collect()
}

/// A worker that is this process.
pub fn worker(name: &str) -> WorkerRecord {
    WorkerRecord {
        name: name.to_owned(),
        process: ProcessIdentity::own(),
        version: "0".to_owned(),
        started_at: Timestamp::now(),
        is_alive: true,
    }
}

async fn claim(subject: &Subject) -> Option<Claim> {
    let claimed = subject.claim("tester", names()).await.expect("claims work");
    claimed.and_then(Claimed::own)
}

async fn claim_and_start(subject: &Subject) -> Lease {
    let lease = claim(subject).await.expect("a run waits").lease;
    subject.start(lease, ProcessIdentity::own()).await.expect("starts");
    lease
}

fn completed(materializations: Vec<Materialization>) -> Ending {
    Ending::Completed {
        message: "done".to_owned(),
        materializations,
    }
}

fn failed(retry_after_ms: Option<u64>) -> Ending {
    Ending::Failed {
        state: StateName::Failed,
        message: "broken".to_owned(),
        retry_after: retry_after_ms.map(Duration::from_millis),
    }
}

async fn state(subject: &Subject, id: FlowRunId) -> StateName {
    subject.read_flow_run(id).await.expect("known").state.name
}

#[test]
fn a_queued_run_is_read_back_as_it_was_given() {
    check(|subject| async move {
        let given = new("full-frames", "v1");
        let queued = subject
            .create_flow_run(given.clone(), Arc::default())
            .await
            .expect("queued");
        assert!(queued.created);
        assert_eq!(queued.work_queue, WorkQueue::Background);
        let run = subject.read_flow_run(queued.flow_run_id).await.expect("known");
        assert_eq!(run.parameters, given.arguments.to_parameters());
        assert_eq!(run.video_id.as_deref(), given.arguments.video_id());
        assert!(run.deployment.starts_with("full-frames/"), "{}", run.deployment);
        assert_eq!((run.state.name, run.attempt), (StateName::Scheduled, 0));
        assert!(run.tags.contains(&"video:v1".to_owned()), "{:?}", run.tags);
    });
}

#[test]
fn the_trace_of_a_run_goes_with_it_to_whoever_claims_it() {
    check(|subject| async move {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().ok();
        for (video_id, trace) in [("v1", trace), ("v2", None)] {
            let given = NewFlowRun {
                trace,
                ..new("crop-frames", video_id)
            };
            subject.create_flow_run(given, Arc::default()).await.expect("queued");
            let claim = claim(&subject).await.expect("it waits");
            assert_eq!(claim.trace, trace, "{video_id}");
        }
    });
}

#[test]
fn the_run_that_is_due_longest_is_told_and_none_once_it_is_claimed() {
    check(|subject| async move {
        assert_eq!(subject.oldest_waiting().await.expect("answers"), None);
        let oldest = queue(&subject, "full-frames", "v1").await;
        queue(&subject, "crop-frames", "v2").await;
        let told = subject.oldest_waiting().await.expect("answers").expect("some wait");
        assert_eq!(told.flow_run_id, oldest);
        while claim(&subject).await.is_some() {}
        assert_eq!(subject.oldest_waiting().await.expect("answers"), None);
    });
}

#[test]
fn an_unknown_run_is_an_error_everywhere() {
    check(|subject| async move {
        let id = FlowRunId::generate();
        let is_unknown =
            |error: OrchestratorError| matches!(error, OrchestratorError::FlowRunNotFound(found) if found == id);
        assert!(subject.read_flow_run(id).await.is_err_and(is_unknown));
        assert!(subject.read_flow_run_details(id).await.is_err_and(is_unknown));
        assert!(subject.read_logs(id, 0).await.is_err_and(is_unknown));
        assert!(
            subject
                .read_events(id, EventCursor::default())
                .await
                .is_err_and(is_unknown)
        );
        assert!(subject.cancel_flow_run(id).await.is_err_and(is_unknown));
        assert!(subject.retry_flow_run(id).await.is_err_and(is_unknown));
    });
}

#[test]
fn what_a_person_waits_for_is_claimed_first() {
    check(|subject| async move {
        let background = queue(&subject, "full-frames", "v1").await;
        let first = queue(&subject, "crop-frames", "v2").await;
        let claimed = claim(&subject).await.expect("a run waits").lease.flow_run_id;
        assert_eq!(claimed, first);
        assert_eq!(
            claim(&subject).await.expect("another waits").lease.flow_run_id,
            background
        );
    });
}

#[test]
fn within_a_queue_the_oldest_is_claimed_first() {
    check(|subject| async move {
        let first = queue(&subject, "crop-frames", "v1").await;
        let second = queue(&subject, "crop-frames", "v2").await;
        assert_eq!(claim(&subject).await.expect("waits").lease.flow_run_id, first);
        assert_eq!(claim(&subject).await.expect("waits").lease.flow_run_id, second);
    });
}

#[test]
fn no_more_runs_are_claimed_than_the_limit() {
    check(|subject| async move {
        for video in ["v1", "v2", "v3"] {
            queue(&subject, "crop-frames", video).await;
        }
        let first = claim_and_start(&subject).await;
        claim_and_start(&subject).await;
        assert_eq!(claim(&subject).await, None);
        subject.finish(first, completed(Vec::new())).await.expect("ends");
        assert!(claim(&subject).await.is_some());
    });
}

#[test]
fn a_worker_can_set_the_limit() {
    check(|subject| async move {
        let limits = PoolLimits {
            all: Some(1),
            background: None,
        };
        subject
            .register_worker(worker("tester"), limits)
            .await
            .expect("registers");
        assert_eq!(subject.read_work_pool().await.expect("a pool").concurrency_limit, 1);
        for video in ["v1", "v2"] {
            queue(&subject, "full-frames", video).await;
        }
        assert!(claim(&subject).await.is_some());
        assert_eq!(claim(&subject).await, None);
    });
}

#[test]
fn runs_for_which_nobody_waits_leave_a_slot_for_a_person() {
    check(|subject| async move {
        let pool = subject.read_work_pool().await.expect("a pool");
        assert_eq!((pool.concurrency_limit, pool.background_limit), (2, 1));
        for video in ["v1", "v2", "v3"] {
            queue(&subject, "full-frames", video).await;
        }
        let first = claim_and_start(&subject).await;
        assert_eq!(claim(&subject).await, None, "the other slot is a person's");
        let waited_for = queue(&subject, "crop-frames", "v4").await;
        assert_eq!(claim(&subject).await.expect("it is").lease.flow_run_id, waited_for);
        subject.finish(first, completed(Vec::new())).await.expect("ends");
        claim_and_start(&subject).await;
        assert_eq!(claim(&subject).await, None);
    });
}

#[test]
fn a_worker_can_set_how_many_runs_nobody_waits_for() {
    check(|subject| async move {
        let limits = PoolLimits {
            all: Some(2),
            background: Some(2),
        };
        subject.register_worker(worker("one"), limits).await.expect("registers");
        // One that brings none leaves them as they are.
        let none = PoolLimits::default();
        subject.register_worker(worker("two"), none).await.expect("registers");
        assert_eq!(subject.read_work_pool().await.expect("a pool").background_limit, 2);
        for video in ["v1", "v2"] {
            queue(&subject, "full-frames", video).await;
        }
        for _ in 0..2 {
            assert!(claim(&subject).await.is_some());
        }
    });
}

#[test]
fn two_runs_for_one_video_and_flow_never_run_at_once() {
    check(|subject| async move {
        queue(&subject, "full-frames", "v1").await;
        let first = claim_and_start(&subject).await;
        let second = queue(&subject, "full-frames", "v1").await;
        let third = queue(&subject, "crop-frames", "v1").await;
        assert_eq!(
            claim(&subject).await.expect("another flow may").lease.flow_run_id,
            third
        );
        subject.finish(first, completed(Vec::new())).await.expect("ends");
        assert_eq!(claim(&subject).await.expect("its turn").lease.flow_run_id, second);
    });
}

#[test]
fn a_paused_pool_claims_nothing_until_it_is_resumed() {
    check(|subject| async move {
        queue(&subject, "full-frames", "v1").await;
        subject.set_paused(true).await.expect("pauses");
        assert_eq!(claim(&subject).await, None);
        subject.set_paused(false).await.expect("resumes");
        subject.set_concurrency_limit(5).await.expect("sets");
        assert_eq!(subject.read_work_pool().await.expect("reads").concurrency_limit, 5);
        subject.set_concurrency_limit(2).await.expect("sets");
        assert!(claim(&subject).await.is_some());
    });
}

#[test]
fn one_idempotency_key_makes_one_run() {
    check(|subject| async move {
        let mut given = new("crop-frames", "v1");
        // A server keeps keys for all who use it.
        let key = uuid::Uuid::new_v4().to_string();
        given.idempotency_key = Some(key.clone());
        let first = subject
            .create_flow_run(given.clone(), Arc::default())
            .await
            .expect("queued");
        let second = subject
            .create_flow_run(given.clone(), Arc::default())
            .await
            .expect("known");
        assert_eq!((first.flow_run_id, false), (second.flow_run_id, second.created));
        let mut other = new("crop-frames", "v2");
        other.idempotency_key = Some(key);
        let error = subject
            .create_flow_run(other, Arc::default())
            .await
            .expect_err("another run's key");
        assert_eq!(error.code(), "ERR_CAPTIONACC_INVALID_ARGUMENT");
        assert_eq!(subject.list_flow_runs(all()).await.expect("lists").len(), 1);
    });
}

fn all() -> FlowRunFilter {
    FlowRunFilter {
        limit: 100,
        ..FlowRunFilter::default()
    }
}

#[test]
fn an_equal_full_frames_that_waits_is_returned() {
    check(|subject| async move {
        let first = queue(&subject, "full-frames", "v1").await;
        assert_eq!(queue(&subject, "full-frames", "v1").await, first);
        claim_and_start(&subject).await;
        assert_ne!(
            queue(&subject, "full-frames", "v1").await,
            first,
            "a running one is not waiting"
        );
    });
}

#[test]
fn queueing_again_shortens_the_wait_for_a_retry() {
    check(|subject| async move {
        let id = queue(&subject, "full-frames", "v1").await;
        let lease = claim_and_start(&subject).await;
        subject.finish(lease, failed(Some(3_600_000))).await.expect("ends");
        assert_eq!(claim(&subject).await, None);
        assert_eq!(queue(&subject, "full-frames", "v1").await, id);
        assert_eq!(claim(&subject).await.expect("due at once").lease.flow_run_id, id);
    });
}

#[test]
fn a_newer_crop_frames_supersedes_a_waiting_one() {
    check(|subject| async move {
        let older = queue(&subject, "crop-frames", "v1").await;
        let newer = queue(&subject, "crop-frames", "v1").await;
        let run = subject.read_flow_run(older).await.expect("known");
        assert_eq!((run.state.name, run.superseded_by), (StateName::Cancelled, Some(newer)));
        assert!(
            run.state
                .message
                .is_some_and(|message| message.contains(&newer.to_string()))
        );
    });
}

#[test]
fn a_newer_crop_frames_supersedes_a_running_one_and_waits_for_its_end() {
    check(|subject| async move {
        let older = queue(&subject, "crop-frames", "v1").await;
        let lease = claim_and_start(&subject).await;
        let newer = queue(&subject, "crop-frames", "v1").await;
        assert_eq!(state(&subject, older).await, StateName::Cancelling);
        assert!(
            !subject.may_commit(lease).await.expect("answers"),
            "a superseded run writes nothing"
        );
        assert_eq!(claim(&subject).await, None);
        let cancellations = subject.cancellations(vec![older]).await.expect("answers");
        assert!(cancellations[0].1.contains(&newer.to_string()), "{cancellations:?}");
        subject
            .finish(lease, Ending::Cancelled { message: String::new() })
            .await
            .expect("ends");
        assert_eq!(claim(&subject).await.expect("its turn").lease.flow_run_id, newer);
    });
}

#[test]
fn an_equal_crop_frames_at_work_is_returned_and_another_one_takes_its_place() {
    check(|subject| async move {
        let folder = tempfile::tempdir().expect("a folder");
        let video = folder.path().join("a.mp4");
        std::fs::write(&video, "a film").expect("written");
        let given = json!({
            "video-id": "v1", "video-path": video, "db-path": "/d/v1.db", "output-dir": "/o",
            "crop-bounds": {"left": 0, "top": 0, "right": 8, "bottom": 8},
        });
        let queue = async |more: serde_json::Value| {
            let mut given = given.clone();
            for (name, value) in more.as_object().expect("an object") {
                given[name] = value.clone();
            }
            let mut new = new("crop-frames", "v1");
            let given = given.as_object().expect("an object");
            new.arguments = new
                .flow
                .parse_arguments(given, Path::new("/"))
                .expect("valid arguments");
            subject.create_flow_run(new, Arc::default()).await.expect("queued")
        };
        let first = queue(json!({})).await;
        let lease = claim_and_start(&subject).await;
        let again = queue(json!({})).await;
        assert_eq!((again.flow_run_id, again.created), (first.flow_run_id, false));
        assert_eq!(state(&subject, first.flow_run_id).await, StateName::Running);
        let others = [
            json!({"crop-bounds-version": 2}),
            json!({"frame-rate": 5}),
            json!({"output-dir": "/elsewhere"}),
            json!({"crop-bounds": {"left": 0, "top": 0, "right": 8, "bottom": 9}}),
            // What the layout says now need not be what it said then.
            json!({"crop-bounds": null}),
            json!({"crop-bounds": null}),
        ];
        let mut at_work = (first.flow_run_id, lease);
        let end = async |(older, lease): (FlowRunId, Lease), newer: FlowRunId| {
            assert_ne!(newer, older);
            assert_eq!(state(&subject, older).await, StateName::Cancelling);
            let ending = Ending::Cancelled { message: String::new() };
            subject.finish(lease, ending).await.expect("ends");
            (newer, claim_and_start(&subject).await)
        };
        for other in others {
            let newer = queue(other).await.flow_run_id;
            at_work = end(at_work, newer).await;
        }
        let equal = queue(json!({})).await.flow_run_id;
        at_work = end(at_work, equal).await;
        std::fs::write(&video, "another film").expect("written");
        let newer = queue(json!({})).await.flow_run_id;
        end(at_work, newer).await;
    });
}

/// What a watcher of all runs is told, in words.
fn words(events: &[FeedEvent]) -> Vec<String> {
    let word = |event: &FeedEvent| match &event.event {
        FlowRunEvent::Log { log } => log.message.clone(),
        FlowRunEvent::Progress { progress } => format!("{}", progress.done),
        FlowRunEvent::State { state, .. } => state.name.as_str().to_owned(),
    };
    let short = |event: &FeedEvent| event.video_id.clone().unwrap_or_default();
    events
        .iter()
        .map(|event| format!("{} {}", short(event), word(event)))
        .collect()
}

#[test]
fn watchers_of_all_runs_see_what_happens_to_each_in_order_and_go_on_from_any_event() {
    check(|subject| async move {
        let queue_only: Arc<dyn Queue> = subject.clone();
        let watching = Watching::new(queue_only);
        queue(&subject, "full-frames", "before").await;
        let begin = async |filter: &WatchFilter| {
            // Nothing happens yet: it comes to its place and waits there.
            let mut place = WatchPlace::default();
            let looking = watching.next(filter, WatchPlace::default());
            assert!(tokio::time::timeout(Duration::from_millis(50), looking).await.is_err());
            place.cursor = Some(subject.read_feed(None).await.expect("reads").next);
            place
        };
        let all = WatchFilter::default();
        let start = begin(&all).await;
        let progress = |done| {
            Record::Progress(Progress {
                task: "sample".to_owned(),
                done,
                total: None,
                unit: "frames".to_owned(),
                fraction: 0.1,
                timestamp: Timestamp::now(),
            })
        };
        let line = |text| Record::Log(log_line(1, LogLevel::Info, text));
        let mut place = start.clone();
        let mut seen = Vec::new();
        let read = async |place: &mut WatchPlace, seen: &mut Vec<FeedEvent>, last: &str| {
            while words(seen).last().map(String::as_str) != Some(last) {
                let reading = watching.next(&all, place.clone()).await.expect("reads");
                seen.extend(reading.events);
                *place = reading.place;
            }
        };
        let first = queue(&subject, "crop-frames", "v1").await;
        queue(&subject, "crop-frames", "v2").await;
        read(&mut place, &mut seen, "v2 Scheduled").await;
        let lease = claim_and_start(&subject).await;
        assert_eq!(lease.flow_run_id, first);
        subject
            .record(lease, vec![line("begun"), progress(1)])
            .await
            .expect("kept");
        read(&mut place, &mut seen, "v1 1").await;
        subject.record(lease, vec![progress(2)]).await.expect("kept");
        read(&mut place, &mut seen, "v1 2").await;
        subject.record(lease, vec![line("last words")]).await.expect("kept");
        subject.finish(lease, completed(Vec::new())).await.expect("ends");
        read(&mut place, &mut seen, "v1 Completed").await;
        let of = |video: &str| -> Vec<String> {
            let prefix = format!("{video} ");
            let own = |word: String| word.strip_prefix(&prefix).map(str::to_owned);
            words(&seen).into_iter().filter_map(own).collect()
        };
        let is_state = |word: &String| word.starts_with(char::is_uppercase);
        let (entered, said): (Vec<_>, Vec<_>) = of("v1").into_iter().partition(is_state);
        assert_eq!(entered, ["Scheduled", "Pending", "Running", "Completed"]);
        assert_eq!(said, ["begun", "1", "2", "last words"]);
        assert_eq!(words(&seen).last().map(String::as_str), Some("v1 Completed"));
        assert_eq!(of("v2"), ["Scheduled"]);
        assert_eq!(of("before"), [""; 0], "that was before");
        // From any event on, whoever comes later sees the same; of progress that is over nothing is left.
        let kept = |events: &[FeedEvent]| -> Vec<String> {
            let is_kept = |event: &&FeedEvent| !matches!(event.event, FlowRunEvent::Progress { .. });
            words(&events.iter().filter(is_kept).cloned().collect::<Vec<_>>())
        };
        for (number, event) in seen.iter().enumerate() {
            let expected = kept(&seen[number + 1..]);
            let mut rest = Vec::new();
            let mut place = WatchPlace {
                cursor: Some(event.cursor.clone()),
                at: None,
            };
            while rest.len() < expected.len() {
                let reading = watching.next(&all, place).await.expect("reads");
                rest.extend(kept(&reading.events));
                place = reading.place;
            }
            // States in their order and lines in theirs; of one and the same moment either may be first.
            let parts = |words: Vec<String>| -> (Vec<_>, Vec<_>) {
                let is_state = |word: &String| word.split_once(' ').is_some_and(|(_, word)| is_state(&word.to_owned()));
                words.into_iter().partition(is_state)
            };
            assert_eq!(parts(rest), parts(expected));
        }
        // Each sees what it asks for.
        let filter = WatchFilter {
            video_id: Some("v1".to_owned()),
            types: vec![EventType::State],
            ..WatchFilter::default()
        };
        let reading = watching.next(&filter, start).await.expect("reads");
        assert_eq!(words(&reading.events)[0], "v1 Scheduled");
    });
}

#[test]
fn a_cursor_that_is_none_or_of_a_past_that_is_gone_is_an_error() {
    check(|subject| async move {
        for text in ["", "x", "1.2", "a.b.c.d", "..", "1.-1.0.0"] {
            let error = subject
                .read_feed(Some(&FeedCursor(text.to_owned())))
                .await
                .expect_err(text);
            assert_eq!(error.code(), "ERR_CAPTIONACC_INVALID_ARGUMENT", "{text:?}");
        }
        let start = subject.read_feed(None).await.expect("reads").next;
        queue(&subject, "full-frames", "v1").await;
        let lease = claim_and_start(&subject).await;
        subject.finish(lease, completed(Vec::new())).await.expect("ends");
        let end = subject.read_feed(None).await.expect("reads").next;
        let mut forgotten = 0;
        let given_up_at = Instant::now() + Duration::from_secs(30);
        // A Prefect server has to hear of the run's end first.
        while forgotten == 0 && Instant::now() < given_up_at {
            let soon = Timestamp::now() + jiff::SignedDuration::from_secs(60);
            forgotten = subject.apply_retention(soon).await.expect("forgets");
        }
        let error = subject.read_feed(Some(&start)).await.expect_err("gone");
        assert_eq!(error.code(), "ERR_CAPTIONACC_CURSOR_GONE");
        let page = subject.read_feed(Some(&end)).await.expect("nothing after it is gone");
        assert_eq!(page.events, []);
        let elsewhere = end.0.replace(|c: char| c.is_ascii_lowercase(), "0");
        let elsewhere = FeedCursor(format!("f{elsewhere}"));
        let error = subject.read_feed(Some(&elsewhere)).await.expect_err("another queue's");
        assert_eq!(error.code(), "ERR_CAPTIONACC_CURSOR_GONE");
    });
}

#[test]
fn one_reader_reads_for_all_watchers_and_hands_over_when_it_leaves() {
    check(|subject| async move {
        let queue_only: Arc<dyn Queue> = subject.clone();
        let watching = Arc::new(Watching::new(queue_only));
        let all = WatchFilter::default();
        let mut first = Box::pin(watching.next(&all, WatchPlace::default()));
        let others: Vec<_> = (0..20)
            .map(|_| {
                let watching = watching.clone();
                async move { watching.next(&WatchFilter::default(), WatchPlace::default()).await }
            })
            .collect();
        let mut others = Box::pin(futures_util::future::join_all(others));
        // The first one reads; all others wait behind it.
        assert!(
            tokio::time::timeout(Duration::from_millis(300), &mut first)
                .await
                .is_err()
        );
        assert!(
            tokio::time::timeout(Duration::from_millis(300), &mut others)
                .await
                .is_err()
        );
        drop(first);
        // Each begins where it first comes to its turn: what is queued until all of them have seen something.
        let seen = loop {
            queue(&subject, "crop-frames", "v1").await;
            if let Ok(seen) = tokio::time::timeout(Duration::from_millis(300), &mut others).await {
                break seen;
            }
        };
        for reading in seen {
            assert!(!reading.expect("reads").events.is_empty());
        }
    });
}

#[test]
fn a_receiver_is_due_every_state_in_order_until_it_was_told() {
    use StateName::{Completed, Pending, Running, Scheduled};
    check(|subject| async move {
        let receiver = "http://127.0.0.1:9/runs";
        queue(&subject, "full-frames", "before").await;
        let due = async || subject.notifications_due(receiver).await.expect("reads").notifications;
        assert_eq!(due().await, [], "it begins now");
        let id = queue(&subject, "crop-frames", "v1").await;
        let lease = claim_and_start(&subject).await;
        subject.finish(lease, completed(Vec::new())).await.expect("ends");
        let found = due().await;
        let states: Vec<_> = found
            .iter()
            .map(|one| (one.flow_run_id, one.previous.map(|state| state.name), one.state.name))
            .collect();
        assert_eq!(
            states,
            [
                (id, None, Scheduled),
                (id, Some(Scheduled), Pending),
                (id, Some(Pending), Running),
                (id, Some(Running), Completed)
            ]
        );
        let text = serde_json::to_value(&found[3]).expect("JSON");
        assert_eq!(text["state"]["type"], "COMPLETED");
        assert_eq!(
            (&text["videoId"], &text["parameters"]["video-id"]),
            (&json!("v1"), &json!("v1"))
        );
        assert_eq!(text["eventId"], format!("{id}.4"));
        assert_eq!(due().await, found, "it was not told yet");
        subject
            .notified(receiver, found[1].position, None)
            .await
            .expect("noted");
        assert_eq!(due().await, found[2..]);
        let wait = Duration::from_mins(1);
        subject
            .not_notified(receiver, "away".to_owned(), wait)
            .await
            .expect("noted");
        assert_eq!(due().await, [], "it is left alone");
        subject
            .notified(receiver, found[3].position, None)
            .await
            .expect("noted");
        subject
            .notified(receiver, found[0].position, None)
            .await
            .expect("noted");
        assert_eq!(due().await, [], "nothing is told twice because of a late word");
    });
}

#[test]
fn an_operation_that_was_given_up_stores_nothing() {
    check(|subject| async move {
        let intent = Arc::new(Intent::default());
        assert!(intent.give_up());
        let error = subject
            .create_flow_run(new("full-frames", "v1"), intent)
            .await
            .expect_err("given up");
        assert_eq!(error.code(), "ERR_CAPTIONACC_ABORTED");
        assert_eq!(subject.list_flow_runs(all()).await.expect("lists"), []);
    });
}

#[test]
fn a_cancelled_run_is_never_claimed() {
    check(|subject| async move {
        let id = queue(&subject, "full-frames", "v1").await;
        let run = subject.cancel_flow_run(id).await.expect("cancels");
        assert_eq!(run.state.name, StateName::Cancelled);
        assert_eq!(claim(&subject).await, None);
        assert_eq!(
            subject.cancel_flow_run(id).await.expect("twice is once").state.name,
            StateName::Cancelled
        );
    });
}

#[test]
fn a_running_run_is_cancelled_when_its_worker_has_stopped_it() {
    check(|subject| async move {
        let id = queue(&subject, "full-frames", "v1").await;
        let lease = claim_and_start(&subject).await;
        assert_eq!(
            subject.cancel_flow_run(id).await.expect("asks").state.name,
            StateName::Cancelling
        );
        assert_eq!(subject.cancellations(vec![id]).await.expect("answers").len(), 1);
        let run = subject.finish(lease, failed(Some(0))).await.expect("however it ended");
        assert_eq!(run.state.name, StateName::Cancelled);
    });
}

#[test]
fn a_run_that_completed_while_it_was_being_cancelled_is_completed() {
    check(|subject| async move {
        let id = queue(&subject, "full-frames", "v1").await;
        let lease = claim_and_start(&subject).await;
        subject.cancel_flow_run(id).await.expect("asks");
        let run = subject.finish(lease, completed(Vec::new())).await.expect("ends");
        assert_eq!(run.state.name, StateName::Completed);
    });
}

#[test]
fn what_has_ended_can_not_be_cancelled_and_what_is_done_not_retried() {
    check(|subject| async move {
        let id = queue(&subject, "full-frames", "v1").await;
        let lease = claim_and_start(&subject).await;
        let error = subject.retry_flow_run(id).await.expect_err("it runs");
        assert_eq!(error.code(), "ERR_CAPTIONACC_INVALID_STATE");
        subject.finish(lease, completed(Vec::new())).await.expect("ends");
        for error in [subject.cancel_flow_run(id).await, subject.retry_flow_run(id).await] {
            assert_eq!(error.expect_err("it is done").code(), "ERR_CAPTIONACC_INVALID_STATE");
        }
    });
}

#[test]
fn a_failed_run_waits_for_its_retry_without_a_slot() {
    check(|subject| async move {
        let id = queue(&subject, "full-frames", "v1").await;
        let lease = claim_and_start(&subject).await;
        let run = subject.finish(lease, failed(Some(60_000))).await.expect("ends");
        assert_eq!((run.state.name, run.failed_attempts), (StateName::AwaitingRetry, 1));
        assert_eq!(subject.read_work_pool().await.expect("a pool").active, 0);
        assert_eq!(claim(&subject).await, None);
        let due = subject
            .next_due(names())
            .await
            .expect("answers")
            .expect("it waits for its time");
        assert_eq!(due, run.scheduled_at);
        let run = subject.retry_flow_run(id).await.expect("at once");
        assert_eq!((run.state.name, run.failed_attempts), (StateName::Scheduled, 0));
        let again = claim_and_start(&subject).await;
        assert_eq!(again.attempt, 2);
    });
}

#[test]
fn a_second_attempt_after_a_failure_is_called_retrying() {
    check(|subject| async move {
        let id = queue(&subject, "full-frames", "v1").await;
        let lease = claim_and_start(&subject).await;
        assert_eq!(state(&subject, id).await, StateName::Running);
        subject.finish(lease, failed(Some(0))).await.expect("ends");
        claim_and_start(&subject).await;
        assert_eq!(state(&subject, id).await, StateName::Retrying);
    });
}

#[test]
fn a_given_back_run_is_claimed_again_and_not_counted() {
    check(|subject| async move {
        queue(&subject, "full-frames", "v1").await;
        let lease = claim_and_start(&subject).await;
        let run = subject
            .finish(
                lease,
                Ending::GivenBack {
                    message: "stop".to_owned(),
                },
            )
            .await
            .expect("ends");
        assert_eq!((run.state.name, run.failed_attempts), (StateName::Scheduled, 0));
        assert_eq!(claim(&subject).await.expect("waits again").lease.attempt, 2);
    });
}

#[test]
fn a_run_that_is_always_interrupted_ends_some_day() {
    check(|subject| async move {
        // Who tells a busy server again what it did not hear.
        let none = PoolLimits::default();
        subject
            .register_worker(worker("tester"), none)
            .await
            .expect("registers");
        let id = queue(&subject, "full-frames", "v1").await;
        let mut interruptions = 0;
        let deadline = Instant::now() + Duration::from_mins(2);
        while state(&subject, id).await != StateName::Crashed {
            assert!(Instant::now() < deadline, "after {interruptions} interruptions");
            // A server that is busy may refuse a claim, which is then made again.
            let Some(claim) = claim(&subject).await else { continue };
            subject
                .finish(
                    claim.lease,
                    Ending::GivenBack {
                        message: "stop".to_owned(),
                    },
                )
                .await
                .expect("ends");
            interruptions += 1;
            assert!(interruptions < 100);
        }
        assert!(interruptions > 10, "{interruptions}");
    });
}

#[test]
fn a_late_attempt_can_write_nothing() {
    check(|subject| async move {
        let id = queue(&subject, "full-frames", "v1").await;
        let late = claim_and_start(&subject).await;
        subject
            .finish(late, Ending::GivenBack { message: String::new() })
            .await
            .expect("ends");
        let current = claim_and_start(&subject).await;
        let line = vec![Record::Log(log_line(1, LogLevel::Info, "late"))];
        for error in [
            subject.record(late, line).await.expect_err("late"),
            subject.finish(late, completed(Vec::new())).await.expect_err("late"),
            subject.start(late, ProcessIdentity::own()).await.expect_err("late"),
        ] {
            assert_eq!(error.code(), "ERR_CAPTIONACC_ATTEMPT_SUPERSEDED");
        }
        assert!(!subject.may_commit(late).await.expect("answers"));
        assert!(subject.may_commit(current).await.expect("answers"));
        assert_eq!(state(&subject, id).await, StateName::Running);
        assert_eq!(subject.read_logs(id, 0).await.expect("reads").0, []);
    });
}

#[test]
fn an_attempt_ends_once() {
    check(|subject| async move {
        queue(&subject, "full-frames", "v1").await;
        let lease = claim_and_start(&subject).await;
        subject.finish(lease, completed(Vec::new())).await.expect("ends");
        let error = subject
            .finish(lease, completed(Vec::new()))
            .await
            .expect_err("it has ended");
        assert_eq!(error.code(), "ERR_CAPTIONACC_ATTEMPT_SUPERSEDED");
    });
}

#[test]
fn the_run_of_a_live_worker_is_not_orphaned() {
    check(|subject| async move {
        queue(&subject, "full-frames", "v1").await;
        claim_and_start(&subject).await;
        assert_eq!(subject.orphaned_runs().await.expect("answers"), []);
    });
}

#[test]
fn what_a_run_says_is_kept() {
    check(|subject| async move {
        let id = queue(&subject, "full-frames", "v1").await;
        let lease = claim_and_start(&subject).await;
        let task_run_id = uuid::Uuid::now_v7();
        let task = |state| Record::TaskRun {
            task_run_id,
            name: "sample".to_owned(),
            run_count: 1,
            state,
            message: None,
        };
        let progress = Progress {
            task: "sample".to_owned(),
            done: 3,
            total: Some(10),
            unit: "frames".to_owned(),
            fraction: 0.3,
            timestamp: Timestamp::now(),
        };
        let artifact = Artifact {
            key: "texts".to_owned(),
            artifact_type: ArtifactType::Table,
            description: None,
            data: json!([{"text": "字幕"}]),
            timestamp: Timestamp::now(),
        };
        let records = vec![
            task(StateName::Running),
            Record::Progress(progress.clone()),
            Record::Log(log_line(1, LogLevel::Info, "begun")),
            Record::Artifact(artifact.clone()),
            task(StateName::Completed),
        ];
        subject.record(lease, records).await.expect("kept");
        // A Prefect server makes the rows of task runs from their events, in its own time.
        let given_up_at = Instant::now() + Duration::from_secs(30);
        let details = loop {
            let details = subject.read_flow_run_details(id).await.expect("known");
            let is_there = |task: &captionacc::domain::flow_run::TaskRun| task.state.name == StateName::Completed;
            if details.task_runs.iter().any(is_there) || Instant::now() > given_up_at {
                break details;
            }
        };
        assert_eq!(details.flow_run.progress.map(|progress| progress.done), Some(3));
        assert_eq!(details.task_runs.len(), 1);
        assert_eq!(details.task_runs[0].state.name, StateName::Completed);
        assert_eq!(details.artifacts[0].data, artifact.data);
        let (lines, cursor) = subject.read_logs(id, 0).await.expect("reads");
        assert_eq!(lines[0].message, "begun");
        assert_eq!(subject.read_logs(id, cursor).await.expect("reads").0, []);
    });
}

#[test]
fn a_watcher_sees_everything_once_and_the_final_state_last() {
    check(|subject| async move {
        let id = queue(&subject, "full-frames", "v1").await;
        let mut seen = Vec::new();
        let mut cursor = EventCursor::default();
        let lease = claim_and_start(&subject).await;
        for _ in 0..2 {
            let page = subject.read_events(id, cursor).await.expect("reads");
            seen.extend(page.events);
            cursor = page.next;
        }
        subject
            .record(lease, vec![Record::Log(log_line(1, LogLevel::Info, "last words"))])
            .await
            .expect("kept");
        subject.finish(lease, completed(Vec::new())).await.expect("ends");
        let page = subject.read_events(id, cursor).await.expect("reads");
        seen.extend(page.events);
        assert_eq!(subject.read_events(id, page.next).await.expect("reads").events, []);
        let seen: Vec<String> = seen
            .into_iter()
            .map(|event| match event {
                FlowRunEvent::State { state, .. } => state.name.as_str().to_owned(),
                FlowRunEvent::Log { log } => log.message,
                FlowRunEvent::Progress { .. } => "progress".to_owned(),
            })
            .collect();
        assert_eq!(seen, ["Scheduled", "Pending", "Running", "last words", "Completed"]);
    });
}

#[test]
fn every_state_is_kept_with_its_time() {
    check(|subject| async move {
        let id = queue(&subject, "full-frames", "v1").await;
        let lease = claim_and_start(&subject).await;
        subject.finish(lease, failed(None)).await.expect("ends");
        let details = subject.read_flow_run_details(id).await.expect("known");
        let names: Vec<_> = details.states.iter().map(|state| state.name).collect();
        assert_eq!(
            names,
            [
                StateName::Scheduled,
                StateName::Pending,
                StateName::Running,
                StateName::Failed
            ]
        );
        assert!(
            details
                .states
                .windows(2)
                .all(|pair| pair[0].timestamp <= pair[1].timestamp)
        );
        assert_eq!(details.flow_run.ended_at, Some(details.states[3].timestamp));
    });
}

#[test]
fn the_change_counter_changes_with_every_change() {
    check(|subject| async move {
        let before = subject.change_counter().await.expect("counts");
        queue(&subject, "full-frames", "v1").await;
        assert_ne!(subject.change_counter().await.expect("counts"), before);
    });
}

#[test]
fn runs_are_listed_newest_first_and_filtered() {
    check(|subject| async move {
        let first = queue(&subject, "full-frames", "v1").await;
        let second = queue(&subject, "crop-frames", "v2").await;
        let ids = |runs: Vec<captionacc::domain::flow_run::FlowRun>| {
            runs.iter().map(|run| run.flow_run_id).collect::<Vec<_>>()
        };
        assert_eq!(
            ids(subject.list_flow_runs(all()).await.expect("lists")),
            [second, first]
        );
        for (filter, expected) in [
            (
                FlowRunFilter {
                    flow_name: Some("full-frames".to_owned()),
                    ..all()
                },
                vec![first],
            ),
            (
                FlowRunFilter {
                    video_id: Some("v2".to_owned()),
                    ..all()
                },
                vec![second],
            ),
            (
                FlowRunFilter {
                    before: Some(second),
                    ..all()
                },
                vec![first],
            ),
            (
                FlowRunFilter {
                    state_types: vec![StateType::Running],
                    ..all()
                },
                vec![],
            ),
            (FlowRunFilter { limit: 1, ..all() }, vec![second]),
        ] {
            assert_eq!(
                ids(subject.list_flow_runs(filter.clone()).await.expect("lists")),
                expected,
                "{filter:?}"
            );
        }
    });
}

fn asset(key: &str, upstreams: &[&str], observed: bool, metadata: serde_json::Value) -> Materialization {
    Materialization {
        key: key.to_owned(),
        metadata,
        upstream_keys: upstreams.iter().map(|key| (*key).to_owned()).collect(),
        observed,
    }
}

async fn run_once(subject: &Subject, flow: &str, materializations: Vec<Materialization>) {
    queue(subject, flow, "v1").await;
    let lease = claim_and_start(subject).await;
    subject.finish(lease, completed(materializations)).await.expect("ends");
}

fn stale(lineage: AssetLineage) -> Vec<String> {
    let assets = lineage.assets.into_values();
    assets
        .filter(|asset| !asset.stale_because.is_empty())
        .map(|asset| asset.key)
        .collect()
}

#[test]
fn an_asset_is_stale_once_its_upstream_was_made_anew() {
    check(|subject| async move {
        let video = asset("video://v1", &[], true, json!({"size": 1}));
        let frames = asset("a://v1/full_frames", &["video://v1"], false, json!({}));
        run_once(&subject, "full-frames", vec![video.clone(), frames]).await;
        // The same file found again is no change, another one is.
        run_once(&subject, "crop-frames", vec![video]).await;
        assert_eq!(
            stale(subject.read_lineage().await.expect("reads")),
            Vec::<String>::new()
        );
        run_once(
            &subject,
            "crop-frames",
            vec![asset("video://v1", &[], true, json!({"size": 2}))],
        )
        .await;
        assert_eq!(
            stale(subject.read_lineage().await.expect("reads")),
            ["a://v1/full_frames"]
        );
    });
}

#[test]
fn the_assets_of_a_video_and_of_a_run_are_read_as_they_stand_in_the_whole() {
    check(|subject| async move {
        let video = asset("video://v1", &[], true, json!({ "bytes": 1 }));
        let frames = asset("annotations://v1/full_frames", &["video://v1"], false, json!({}));
        let model = asset(
            "models://m",
            &["annotations://v1/full_frames", "data://d"],
            false,
            json!({}),
        );
        let other = asset("annotations://v10/full_frames", &[], false, json!({}));
        run_once(&subject, "full-frames", vec![video, frames.clone()]).await;
        run_once(
            &subject,
            "full-frames",
            vec![model, other, asset("data://d", &[], false, json!({}))],
        )
        .await;
        // What the model was made from is made anew.
        run_once(&subject, "full-frames", vec![frames]).await;
        let whole = subject.read_lineage().await.expect("reads");
        let newest = subject.read_lineage_of(LineageOf::Newest(1)).await.expect("reads");
        assert_eq!(newest.left_out + newest.assets.len(), whole.assets.len());
        assert_eq!(stale(whole.clone()), ["models://m"]);
        let of_video = LineageOf::Video("v1".to_owned());
        let of_run = LineageOf::Runs(vec![whole.assets["models://m"].flow_run_id]);
        for (which, keys) in [
            (
                of_video,
                vec!["annotations://v1/full_frames", "models://m", "video://v1"],
            ),
            (of_run, vec!["annotations://v10/full_frames", "data://d", "models://m"]),
            (LineageOf::Video("nobody".to_owned()), vec![]),
            (LineageOf::Newest(1), vec!["annotations://v1/full_frames"]),
        ] {
            let found = subject.read_lineage_of(which.clone()).await.expect("reads");
            assert_eq!(found.assets.keys().collect::<Vec<_>>(), keys);
            assert_eq!(found, whole.clone().of(&which));
        }
    });
}

#[test]
fn two_runs_that_find_the_same_video_at_the_same_time_make_nothing_stale() {
    check(|subject| async move {
        let video = asset("video://v1", &[], true, json!({"size": 1}));
        let frames = |key: &str| asset(key, &["video://v1"], false, json!({}));
        queue(&subject, "full-frames", "v1").await;
        let one = claim_and_start(&subject).await;
        queue(&subject, "crop-frames", "v1").await;
        let other = claim_and_start(&subject).await;
        for (lease, key) in [(one, "a://v1/full_frames"), (other, "a://v1/cropped_frames")] {
            let made = completed(vec![video.clone(), frames(key)]);
            subject.finish(lease, made).await.expect("ends");
        }
        let lineage = subject.read_lineage().await.expect("reads");
        assert!(
            lineage.assets.values().all(|asset| asset.stale_because.is_empty()),
            "{lineage:?}"
        );
    });
}

#[test]
fn the_assets_of_a_failed_run_do_not_count() {
    check(|subject| async move {
        queue(&subject, "full-frames", "v1").await;
        let lease = claim_and_start(&subject).await;
        subject.finish(lease, failed(None)).await.expect("ends");
        assert!(subject.read_lineage().await.expect("reads").assets.is_empty());
    });
}

#[test]
fn old_runs_are_forgotten_and_their_newest_assets_kept() {
    check(|subject| async move {
        for version in [1, 2] {
            run_once(
                &subject,
                "full-frames",
                vec![asset("a://v1", &[], false, json!({ "n": version }))],
            )
            .await;
        }
        let waiting = queue(&subject, "full-frames", "v2").await;
        let later = Timestamp::now() + Duration::from_secs(1);
        assert_eq!(subject.apply_retention(later).await.expect("forgets"), 2);
        assert_eq!(subject.apply_retention(later).await.expect("forgets"), 0);
        assert_eq!(state(&subject, waiting).await, StateName::Scheduled);
        let lineage = subject.read_lineage().await.expect("reads");
        assert_eq!(lineage.assets["a://v1"].metadata, json!({ "n": 2 }));
    });
}

#[test]
fn a_status_row_is_due_until_it_was_written_and_only_for_the_newest_run() {
    check(|subject| async move {
        let older = queue(&subject, "full-frames", "v1").await;
        let lease = claim_and_start(&subject).await;
        assert!(
            subject.status_rows_due().await.expect("answers").is_empty(),
            "a running child writes its row itself"
        );
        subject.finish(lease, failed(None)).await.expect("ends");
        let due = subject.status_rows_due().await.expect("answers");
        assert_eq!(due[0].flow_run.flow_run_id, older);
        // Of an older state: it stays due.
        subject
            .status_row_written(older, due[0].state_sequence - 1)
            .await
            .expect("noted");
        assert_eq!(subject.status_rows_due().await.expect("answers").len(), 1);
        subject
            .status_row_written(older, due[0].state_sequence)
            .await
            .expect("noted");
        assert!(subject.status_rows_due().await.expect("answers").is_empty());

        let second = queue(&subject, "full-frames", "v1").await;
        let lease = claim_and_start(&subject).await;
        subject.finish(lease, failed(None)).await.expect("ends");
        let third = queue(&subject, "full-frames", "v1").await;
        let due: Vec<_> = subject
            .status_rows_due()
            .await
            .expect("answers")
            .iter()
            .map(|due| due.flow_run.flow_run_id)
            .collect();
        assert!(!due.contains(&second) && due.contains(&third), "{due:?}");
    });
}
