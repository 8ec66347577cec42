//! Runs whose machine is lost: how they are known, and what becomes of them.
//!
//! The server frees no run whose worker vanished. A living attempt says so with an event, at its claim and then thrice in
//! the time that a run may be silent ([`crate::settings::table::LOST_AFTER_MS`]). Silence has two witnesses: an automation of the
//! server's own, where `captionacc setup` could make one, which sets the run to CRASHED; and every worker of ours, which looks for
//! silent runs and takes over what either of them has found, as a further attempt.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tracing::debug;
use uuid::Uuid;

use super::api::PAGE;
use super::client::{Call, DEFAULT_PATIENCE, PrefectClient, segment};
use super::conversion::WORKER_NAME;
use super::model::{ApiFlowRun, ApiState, ApiWorker, Proposal};
use crate::domain::flow::names_meaning;
use crate::domain::prefect_error::PrefectError;
use crate::domain::state::{CANCELLED_ON_REQUEST, StateName, StateType};
use crate::settings::prefect::PrefectSettings;

/// What the message of a run begins with that was taken for lost.
pub(super) const LOST: &str = "lost: no sign of life for ";
/// How often a run was lost with its machine.
pub(super) const TIMES_LOST: &str = "captionacc.lost";
/// That the worker of a run says that it lives: earlier versions of this program do not, and are no worse for it.
const SPEAKS: &str = "captionacc.speaks";
/// The process of an attempt that was lost with its machine, once the run itself no longer names it: its video's status row may.
pub(super) const LOST_PID: &str = "captionacc.lost-pid";
/// A run that takes three machines with it is not given to a fourth.
const MOST_TIMES_LOST: u32 = 3;
/// A server keeps events in batches, some seconds late.
pub(super) const KEPT_LATE: jiff::SignedDuration = jiff::SignedDuration::from_secs(6);
/// Beats that a worker may miss.
const MISSED_BEATS: u64 = 3;
/// How late a beat may come, by a clock that is the server's to the second.
const BEATS_LATE: jiff::SignedDuration = jiff::SignedDuration::from_secs(2);
/// How long the server may hear late who has a run.
const JUST_NOW: jiff::SignedDuration = jiff::SignedDuration::from_secs(5);
/// How long after its end a run that was taken for lost is looked for.
const LOOKED_FOR: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// What the runs of one worker have in common at the server: their pool, or in runner mode the name of their deployments.
pub(super) fn place(settings: &PrefectSettings) -> &str {
    if settings.runner_mode {
        &settings.deployment_name
    } else {
        &settings.work_pool
    }
}

/// The event by which a run of ours that a worker has is alive. One of our own beside Prefect's, and one for each pool: other
/// programs have heartbeats at a rate of theirs, and would be taken for lost by ours.
pub(super) fn alive_event(settings: &PrefectSettings) -> String {
    format!("captionacc.flow-run.alive.{}", segment(place(settings)))
}

/// The event by which it is no longer anybody's: it waits, or has ended. By the clock of the machine that said that it was alive.
pub(super) fn left_event(settings: &PrefectSettings) -> String {
    format!("captionacc.flow-run.left.{}", segment(place(settings)))
}

/// Says that a run is no longer anybody's: nobody is to wait for a sign of life of it.
pub(super) async fn tell_left(client: &PrefectClient, run: Uuid) -> Result<(), PrefectError> {
    let event = json!({
        "id": Uuid::new_v4(),
        "occurred": client.server_now(),
        "event": left_event(client.settings()),
        "resource": { "prefect.resource.id": format!("prefect.flow-run.{run}") },
        "related": [],
        "payload": {},
    });
    client.create_events(&[event]).await
}

/// Whether this state says that the run was taken for lost.
pub(super) fn is_alarm(state: &ApiState) -> bool {
    state.state_type() == StateType::Crashed
        && state
            .message
            .as_deref()
            .is_some_and(|message| message.starts_with(LOST))
}

/// What is said of a run that was silent for so long.
pub(super) fn alarm_message(after: Duration) -> String {
    format!("{LOST}{} s", after.as_secs().max(1))
}

/// What became of a run that was ended or given on in place of its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It waits for another worker.
    Scheduled,
    /// It was to be stopped, and there is nobody left to stop.
    Cancelled,
    /// It was lost too often.
    Crashed,
    /// It is in another state meanwhile.
    Untouched,
}

/// Why a run is ended or given on in place of its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Because<'a> {
    /// Its machine is lost, for this reason. After [`MOST_TIMES_LOST`] times the run itself is taken for the cause.
    Lost(&'a str),
    /// Somebody wants it so, in these words: whatever was before is forgiven.
    Asked(&'a str),
}

/// Filters that select our runs: whatever made them, by whichever name of their flow.
pub(super) fn of_ours<'a>(client: &PrefectClient, flow_names: impl IntoIterator<Item = &'a str>) -> Value {
    json!({
        "flows": { "name": { "any_": flow_names.into_iter().flat_map(names_meaning).collect::<Vec<_>>() } },
        "deployments": { "name": { "any_": [client.settings().deployment_name] } },
        "sort": "ID_DESC",
        "limit": PAGE,
    })
}

/// Runs of ours that hold a slot, at most a page of them.
pub(super) async fn held_runs<'a>(
    client: &PrefectClient,
    flow_names: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<ApiFlowRun>, PrefectError> {
    let mut runs = runs_at_work(client, flow_names).await?;
    runs.retain(is_ours);
    Ok(runs)
}

/// The same with those of the Python service that was there before.
pub(super) async fn runs_at_work<'a>(
    client: &PrefectClient,
    flow_names: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<ApiFlowRun>, PrefectError> {
    let mut filter = of_ours(client, flow_names);
    let held = [StateType::Pending, StateType::Running, StateType::Cancelling];
    filter["flow_runs"] = json!({ "state": { "type": { "any_": held } } });
    client.filter_flow_runs(&filter).await
}

/// Whether a worker of ours has it, or nobody: nothing is said of a run of the Python service.
fn is_ours(run: &ApiFlowRun) -> bool {
    !run.is_by_old_names() || run.label(SPEAKS).is_some()
}

/// Runs of ours that the server's automation has taken for lost.
pub(super) async fn alarmed_runs<'a>(
    client: &PrefectClient,
    flow_names: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<ApiFlowRun>, PrefectError> {
    let mut filter = of_ours(client, flow_names);
    filter["flow_runs"] = json!({
        "state": { "type": { "any_": [StateType::Crashed] } },
        "end_time": { "after_": client.server_now() - LOOKED_FOR },
    });
    let mut runs = client.filter_flow_runs(&filter).await?;
    runs.retain(|run| goes_on(run) && is_ours(run));
    Ok(runs)
}

/// Whether the run was taken for lost, and another worker is to have it.
pub(super) fn goes_on(run: &ApiFlowRun) -> bool {
    run.state.as_ref().is_some_and(is_alarm) && times_lost(run) + 1 < MOST_TIMES_LOST
}

fn times_lost(run: &ApiFlowRun) -> u32 {
    run.label(TIMES_LOST).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Whether the silence of a run says something. One that has no worker's name yet was lost before its worker could tell it.
pub(super) fn speaks(run: &ApiFlowRun) -> bool {
    run.label(SPEAKS).is_some() || worker_of(run).is_none()
}

/// Whether a run that holds a slot has given no sign of life for as long as it takes to be lost.
pub(super) async fn is_silent(client: &PrefectClient, run: &ApiFlowRun) -> Result<bool, PrefectError> {
    let Some(state) = &run.state else { return Ok(false) };
    let now = client.server_now();
    let since = now - signed(client.lost_after()) - KEPT_LATE;
    // That it is to be stopped is no sign of its worker's: what it was before is.
    let spoke_at = if state.state_type() == StateType::Cancelling {
        client
            .read_flow_run_states(run.id)
            .await?
            .iter()
            .filter(|state| is_held(state))
            .map(|state| state.timestamp)
            .max()
    } else {
        Some(state.timestamp)
    };
    if spoke_at.is_some_and(|at| at > since) {
        return Ok(false);
    }
    let filter = json!({
        "limit": 1,
        "filter": {
            "occurred": { "since": since, "until": now + jiff::SignedDuration::from_mins(5) },
            "event": { "name": [alive_event(client.settings())] },
            "resource": { "id": [format!("prefect.flow-run.{}", run.id)] },
        },
    });
    let page: Value = client.call(Call::post("/events/filter", &filter)).await?;
    Ok(page["events"].as_array().is_none_or(Vec::is_empty))
}

fn is_held(state: &ApiState) -> bool {
    matches!(state.state_type(), StateType::Pending | StateType::Running)
}

/// Whether a worker has begun or claimed the run just now: its name stands there a moment later, and until then an older one's.
pub(super) fn is_fresh(client: &PrefectClient, run: &ApiFlowRun) -> bool {
    let since = client.server_now() - JUST_NOW;
    run.state
        .as_ref()
        .is_some_and(|state| is_held(state) && state.timestamp > since)
}

/// Whether a worker has reported to the pool of late: it has not missed three beats of its own pace. The server judges alike, but looks
/// every 15 s only.
pub(super) fn is_online(client: &PrefectClient, workers: &[ApiWorker], name: &str) -> bool {
    let lost_after = signed(client.lost_after());
    let now = client.server_now();
    let is_heard = |worker: &ApiWorker| {
        let beats = worker.pace_s().map_or(lost_after, |pace_s| {
            signed(Duration::from_secs(MISSED_BEATS * pace_s)) + BEATS_LATE
        });
        worker
            .last_heartbeat_time
            .is_none_or(|at| at > now - beats.min(lost_after))
    };
    workers
        .iter()
        .filter(|worker| worker.name == name && worker.status.as_deref() == Some("ONLINE"))
        .any(is_heard)
}

/// The worker that has the run.
pub(super) fn worker_of(run: &ApiFlowRun) -> Option<String> {
    run.label(WORKER_NAME)
}

/// The same for people.
pub(super) fn its_worker(run: &ApiFlowRun) -> String {
    worker_of(run).map_or_else(|| "its worker".to_owned(), |name| format!("worker {name}"))
}

/// Gives on a run whose worker is gone, if it is still in the state in which it was seen: one that was to be stopped has stopped.
/// The server knows no condition for a change of state: it is read again right before.
pub(super) async fn give_on(
    client: &PrefectClient,
    seen: &ApiFlowRun,
    because: Because<'_>,
) -> Result<Fate, PrefectError> {
    let run = client.read_flow_run(seen.id).await?;
    let (Some(now), Some(before)) = (&run.state, &seen.state) else {
        return Ok(Fate::Untouched);
    };
    if (now.timestamp, &now.state_type) != (before.timestamp, &before.state_type) {
        return Ok(Fate::Untouched);
    }
    let (why, times) = match because {
        Because::Lost(why) => (why, times_lost(&run) + 1),
        Because::Asked(words) => (words, 0),
    };
    let (name, message, fate) = match now.state_type() {
        StateType::Cancelling => {
            let message = now.message.clone().unwrap_or_else(|| CANCELLED_ON_REQUEST.to_owned());
            (StateName::Cancelled, message, Fate::Cancelled)
        }
        StateType::Pending | StateType::Running if times >= MOST_TIMES_LOST => {
            let message = format!("lost with its machine {times} times: {why}");
            (StateName::Crashed, message, Fate::Crashed)
        }
        StateType::Pending | StateType::Running | StateType::Crashed => {
            (StateName::Scheduled, format!("taken over: {why}"), Fate::Scheduled)
        }
        _ => return Ok(Fate::Untouched),
    };
    let mut labels = json!({ TIMES_LOST: times });
    if let Some(pid) = run.infrastructure_pid.as_deref().filter(|_| fate == Fate::Scheduled) {
        labels[LOST_PID] = json!(pid);
    }
    let labels = labels.as_object().expect("an object");
    client.label_flow_run(run.id, labels, DEFAULT_PATIENCE).await?;
    if fate == Fate::Scheduled {
        // A run with a process would not be cancelled while it waits.
        let changes = json!({ "infrastructure_pid": null });
        client.update_flow_run(run.id, &changes, DEFAULT_PATIENCE).await?;
    }
    let mut proposal = Proposal::new(name, Some(message), Uuid::new_v4());
    if fate == Fate::Scheduled {
        proposal = proposal.due_at(client.server_now());
    }
    client.set_flow_run_state(run.id, &proposal, DEFAULT_PATIENCE).await?;
    tell_left(client, run.id).await?;
    end_task_runs(client, run.id, &format!("lost with {}", its_worker(&run))).await;
    Ok(fate)
}

/// The task runs of a lost attempt end with it: nobody else says so. Those of a further one begin later. What can not be told is
/// for people to read only.
pub(super) async fn end_task_runs(client: &PrefectClient, run: Uuid, why: &str) {
    if let Err(error) = try_end_task_runs(client, run, why).await {
        debug!(flow_run_id = %run, "The task runs of a lost attempt could not be ended at the server: {error}.");
    }
}

async fn try_end_task_runs(client: &PrefectClient, run: Uuid, why: &str) -> Result<(), PrefectError> {
    let filter = json!({
        "flow_runs": { "id": { "any_": [run] } },
        "task_runs": { "state": { "type": { "any_": [StateType::Pending, StateType::Running] } } },
        "limit": PAGE,
    });
    for task_run in client.filter_task_runs(&filter).await? {
        let proposal = Proposal::new(StateName::Crashed, Some(why.to_owned()), Uuid::new_v4()).force();
        let path = format!("/task_runs/{}/set_state", task_run.id);
        client.answer(Call::post(path, &proposal)).await?;
    }
    Ok(())
}

/// Since when the run is in its state, for people.
pub(super) fn since(run: &ApiFlowRun) -> Timestamp {
    run.state.as_ref().map_or(run.created, |state| state.timestamp)
}

fn signed(duration: Duration) -> jiff::SignedDuration {
    jiff::SignedDuration::try_from(duration).unwrap_or(jiff::SignedDuration::MAX)
}
