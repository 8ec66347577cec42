//! What runs say that other homes work on: the log lines and the progress that their workers put at the server.
//!
//! A line is new by when the server noted it, which is in its order; it carries the time of the machine that wrote it, which is what
//! a server can be asked for. So more is asked for than is new, by [`LATE`]: lines of a machine whose clock is behind by more,
//! or that could not tell them for so long, are read with the run's own log alone, and so are those beyond [`MAX_LINES`] at a time.

use std::collections::{HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

use super::client::Call;
use super::conversion;
use super::journal::Journal;
use super::model::{ApiArtifact, ApiFlowRun, ApiLog};
use super::server::Server;
use super::states::PATIENCE;
use crate::domain::error::OrchestratorError;
use crate::domain::flow::flow_meant_by;
use crate::domain::flow_run::FlowRunEvent;
use crate::domain::id::FlowRunId;
use crate::domain::prefect_error::PrefectError;
use crate::domain::state::StateType;
use crate::orchestrator::feed::{FeedCursor, FeedEvent};

/// What a line's time may be before the one at which the server noted it.
const LATE: SignedDuration = SignedDuration::from_mins(2);
/// Runs that are asked for, the newest.
const MAX_RUNS: usize = 100;
/// Lines that are looked at for one answer, the newest.
const MAX_LINES: usize = 1000;
/// Most of one answer of the server.
const PAGE: usize = 200;
/// Characters of a line that are told.
const MAX_CHARACTERS: usize = 25_000;

/// What they said.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// In order, each with when the server noted it.
    pub(super) lines: Vec<(Timestamp, FeedEvent)>,
    /// How far each is that is at work, with its time in ms.
    pub(super) progress: Vec<(i64, FeedEvent)>,
}

/// What was said after one time and until another, and how far runs are now.
pub(super) async fn said(
    server: &Server,
    journal: &Journal,
    after: Timestamp,
    until: Timestamp,
) -> Result<Said, OrchestratorError> {
    let runs = runs_elsewhere(server, journal, after - LATE).await?;
    if runs.is_empty() {
        return Ok(Said::default());
    }
    let mut names = HashMap::new();
    for run in &runs {
        let flow_name = server.names().flow(server.client(), run.flow_id).await?;
        names.insert(run.id, (flow_meant_by(&flow_name).to_owned(), video_of(run)));
    }
    let of_run = |id: Uuid, event: FlowRunEvent| {
        let (flow_name, video_id) = names.get(&id)?.clone();
        Some(FeedEvent {
            flow_run_id: FlowRunId::from_uuid(id),
            flow_name,
            video_id,
            event,
            cursor: FeedCursor(String::new()),
        })
    };
    let mut lines = lines(server, &runs, after, until).await?;
    lines.sort_by_key(|line| (line.created, line.timestamp));
    let line = |mut line: ApiLog| {
        let (at, id) = (line.created?, line.flow_run_id?);
        if let Some((end, _)) = line.message.char_indices().nth(MAX_CHARACTERS) {
            line.message.truncate(end);
        }
        let log = conversion::log_line(line);
        Some((at, of_run(id, FlowRunEvent::Log { log })?))
    };
    let is_at_work = |run: &&ApiFlowRun| run.state.as_ref().is_some_and(|state| !state.state_type().is_final());
    let at_work: Vec<Uuid> = runs.iter().filter(is_at_work).map(|run| run.id).collect();
    let artifacts = progress(server, &at_work).await?;
    let progress = at_work.iter().filter_map(|id| {
        let is_of_run = |artifact: &&ApiArtifact| artifact.flow_run_id == Some(*id);
        let of_it: Vec<_> = artifacts.iter().filter(is_of_run).cloned().collect();
        let progress = conversion::progress(&of_it)?;
        let at_ms = progress.timestamp.as_millisecond();
        Some((at_ms, of_run(*id, FlowRunEvent::Progress { progress })?))
    });
    Ok(Said {
        progress: progress.collect(),
        lines: lines.into_iter().filter_map(line).collect(),
    })
}

/// Runs of our deployments that are at work, or have ended since a time, and that this journal has never worked on.
async fn runs_elsewhere(
    server: &Server,
    journal: &Journal,
    since: Timestamp,
) -> Result<Vec<ApiFlowRun>, OrchestratorError> {
    let filter = json!({
        "flow_runs": {
            "operator": "or_",
            "state": { "type": { "any_": [StateType::Pending, StateType::Running, StateType::Cancelling] } },
            "end_time": { "after_": since },
        },
        "deployments": { "name": { "any_": [server.settings().deployment_name] } },
        "sort": "EXPECTED_START_TIME_DESC",
        "limit": MAX_RUNS,
    });
    let mut runs: Vec<ApiFlowRun> = asked(server, "/flow_runs/filter", &filter).await?;
    let ids: Vec<String> = runs.iter().map(|run| run.id.to_string()).collect();
    let ids = serde_json::to_string(&ids).expect("ids are text");
    let own: HashSet<String> = journal
        .local
        .read(move |connection| {
            Ok(connection
                .prepare_cached(
                    "SELECT id FROM flow_run WHERE attempt > 0 AND id IN (SELECT value FROM json_each(?1))",
                )?
                .query_map([ids], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?)
        })
        .await?;
    runs.retain(|run| !own.contains(&run.id.to_string()));
    Ok(runs)
}

async fn lines(
    server: &Server,
    runs: &[ApiFlowRun],
    after: Timestamp,
    until: Timestamp,
) -> Result<Vec<ApiLog>, PrefectError> {
    let ids: Vec<Uuid> = runs.iter().map(|run| run.id).collect();
    let mut found: HashMap<Uuid, ApiLog> = HashMap::new();
    for offset in (0..MAX_LINES).step_by(PAGE) {
        let filter = json!({
            "logs": { "flow_run_id": { "any_": ids }, "timestamp": { "after_": after - LATE } },
            "sort": "TIMESTAMP_DESC",
            "offset": offset,
            "limit": PAGE,
        });
        let page: Vec<ApiLog> = asked(server, "/logs/filter", &filter).await?;
        let is_last = page.len() < PAGE;
        // A line that came meanwhile has moved others to the next page.
        found.extend(page.into_iter().filter_map(|line| Some((line.id?, line))));
        if is_last {
            break;
        }
    }
    let is_new = |line: &ApiLog| line.created.is_some_and(|at| after < at && at <= until);
    Ok(found.into_values().filter(is_new).collect())
}

async fn progress(server: &Server, runs: &[Uuid]) -> Result<Vec<ApiArtifact>, PrefectError> {
    if runs.is_empty() {
        return Ok(Vec::new());
    }
    asked(server, "/artifacts/filter", &progress_filter(runs)).await
}

/// Asks for how far runs are, what was told last first.
pub(super) fn progress_filter(runs: &[Uuid]) -> Value {
    json!({
        "artifacts": { "flow_run_id": { "any_": runs }, "type": { "any_": ["progress"] } },
        "sort": "UPDATED_DESC",
        "limit": PAGE,
    })
}

/// What is as expected of an answer.
async fn asked<T: DeserializeOwned>(server: &Server, path: &str, filter: &Value) -> Result<Vec<T>, PrefectError> {
    let call = Call::post(path, filter).patience(PATIENCE);
    let rows: Vec<Value> = server.client().call(call).await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| serde_json::from_value(row).ok())
        .collect())
}

/// As its arguments say; those of another program may have no such argument, but the tag.
fn video_of(run: &ApiFlowRun) -> Option<String> {
    let tagged = || run.tags.iter().find_map(|tag| tag.strip_prefix("video:"));
    run.video_id().or_else(tagged).map(str::to_owned)
}
