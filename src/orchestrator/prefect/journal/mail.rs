//! The outbox as the one who tells the server reads it.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Transaction};
use serde::Deserialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::domain::error::OrchestratorError;
use crate::domain::id::FlowRunId;
use crate::domain::state::StateName;
use crate::orchestrator::delivery::{Delivery, MessageKind};
use crate::orchestrator::local::LocalOrchestrator;
use crate::orchestrator::local::rows::{id, json, now_ms, uuid};
use crate::orchestrator::local::store::Fault;

/// Most log lines that wait for the server: what comes on top displaces the oldest.
const MAX_WAITING_LOG_LINES: i64 = 50_000;
/// Most rows of one reading of the outbox.
const OUTBOX_PAGE: u32 = 1000;

/// The next of what the server must hear of a run.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::orchestrator) struct NextMail {
    /// What comes before `state`, at most one page of it.
    pub(in crate::orchestrator) head: Vec<OutboxRow>,
    /// The first state that was not told.
    pub(in crate::orchestrator) state: Option<OutboxRow>,
}

/// A row of the outbox.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::orchestrator) struct OutboxRow {
    pub(in crate::orchestrator) id: i64,
    /// Makes a repeated telling count once.
    pub(in crate::orchestrator) token: Uuid,
    pub(in crate::orchestrator) message: OutboxMessage,
}

/// What the server must hear.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::orchestrator) enum OutboxMessage {
    State(StateMessage),
    Labels(Map<String, Value>),
    TaskRun(TaskRunMessage),
    Artifact(ArtifactMessage),
    Asset(AssetMessage),
    Log(LogMessage),
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(in crate::orchestrator) struct StateMessage {
    pub(in crate::orchestrator) name: StateName,
    pub(in crate::orchestrator) message: Option<String>,
    pub(in crate::orchestrator) due_ms: i64,
    pub(in crate::orchestrator) failed_attempts: u32,
    pub(in crate::orchestrator) pid: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(in crate::orchestrator) struct TaskRunMessage {
    pub(in crate::orchestrator) id: Uuid,
    pub(in crate::orchestrator) name: String,
    pub(in crate::orchestrator) attempt: u32,
    pub(in crate::orchestrator) run_count: u32,
    pub(in crate::orchestrator) state: StateName,
    pub(in crate::orchestrator) message: Option<String>,
    pub(in crate::orchestrator) at_ms: i64,
    pub(in crate::orchestrator) started_ms: i64,
    pub(in crate::orchestrator) ended_ms: Option<i64>,
    /// The task run before it.
    pub(in crate::orchestrator) after: Option<Uuid>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(in crate::orchestrator) struct ArtifactMessage {
    pub(in crate::orchestrator) key: String,
    #[serde(rename = "type")]
    pub(in crate::orchestrator) artifact_type: String,
    pub(in crate::orchestrator) description: Option<String>,
    pub(in crate::orchestrator) data: Value,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(in crate::orchestrator) struct AssetMessage {
    pub(in crate::orchestrator) key: String,
    pub(in crate::orchestrator) metadata: Value,
    pub(in crate::orchestrator) at_ms: i64,
    pub(in crate::orchestrator) version: i64,
    #[serde(skip)]
    pub(in crate::orchestrator) upstream_keys: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(in crate::orchestrator) struct LogMessage {
    pub(in crate::orchestrator) attempt: u32,
    pub(in crate::orchestrator) level: String,
    pub(in crate::orchestrator) message: String,
    pub(in crate::orchestrator) timestamp_ms: i64,
}

/// What the server must still hear.
#[derive(Clone)]
pub(in crate::orchestrator) struct Mail(Arc<LocalOrchestrator>);

impl Mail {
    pub(super) const fn of(local: Arc<LocalOrchestrator>) -> Self {
        Self(local)
    }

    /// What the server must still hear of a run, in order; at most one page.
    pub(in crate::orchestrator) async fn of_run(&self, run: FlowRunId) -> Result<NextMail, OrchestratorError> {
        self.0
            .read(move |connection| {
                let mut rows = connection.prepare_cached(
                    "SELECT id, kind, token, content FROM outbox
                     WHERE flow_run_id = ?1 AND (kind = 'state') = ?2
                       AND (?2 OR id < coalesce((SELECT min(id) FROM outbox WHERE flow_run_id = ?1 AND kind = 'state'),
                                                1 << 62))
                     ORDER BY id LIMIT ?3",
                )?;
                let state = rows.query_row((run.to_string(), true, 1), outbox_row).optional()?;
                let mut head: Vec<OutboxRow> = rows
                    .query_map((run.to_string(), false, OUTBOX_PAGE), outbox_row)?
                    .collect::<rusqlite::Result<_>>()?;
                for row in &mut head {
                    if let OutboxMessage::Asset(asset) = &mut row.message {
                        asset.upstream_keys = connection
                            .prepare_cached(
                                "SELECT key FROM asset_upstream WHERE materialization_version = ?1 ORDER BY key",
                            )?
                            .query_map([asset.version], |row| row.get(0))?
                            .collect::<rusqlite::Result<_>>()?;
                    }
                }
                Ok(NextMail { head, state })
            })
            .await
    }

    /// How much of it waits, and since when.
    pub(in crate::orchestrator) async fn read_delivery(&self) -> Result<Delivery, OrchestratorError> {
        self.0
            .read(|connection| {
                let mut count = connection.prepare_cached("SELECT count(*) FROM outbox WHERE kind = ?1")?;
                let mut waiting = Vec::new();
                for kind in MessageKind::ALL {
                    let number: i64 = count.query_row([kind.as_str()], |row| row.get(0))?;
                    waiting.push((kind, u64::try_from(number).unwrap_or(0)));
                }
                let one = |sql: &str| -> rusqlite::Result<Option<i64>> {
                    connection
                        .prepare_cached(sql)?
                        .query_row([], |row| row.get(0))
                        .optional()
                };
                let oldest = one("SELECT at FROM outbox ORDER BY id LIMIT 1")?;
                let kept = one("SELECT count(*) FROM stored_flow_run WHERE prefect_id IS NULL AND problem IS NULL")?;
                let since = one("SELECT since FROM server_away")?;
                let moment = |at_ms: i64| Timestamp::from_millisecond(at_ms).ok();
                Ok(Delivery {
                    waiting,
                    oldest_at: oldest.filter(|at_ms| *at_ms > 0).and_then(moment),
                    kept_runs: kept.and_then(|number| u64::try_from(number).ok()).unwrap_or(0),
                    away_since: since.and_then(moment),
                    failed_calls: Vec::new(),
                })
            })
            .await
    }

    /// Remembers since when the server has not answered; none: it does. The first moment of several workers' stays.
    pub(in crate::orchestrator) async fn note_away(&self, since: Option<Timestamp>) -> Result<(), OrchestratorError> {
        self.0
            .change(move |transaction, _| {
                match since {
                    Some(since) => transaction
                        .prepare_cached(
                            "INSERT INTO server_away (one, since) VALUES (1, ?1)
                             ON CONFLICT (one) DO UPDATE SET since = min(since, excluded.since)",
                        )?
                        .execute([since.as_millisecond()])?,
                    None => transaction.prepare_cached("DELETE FROM server_away")?.execute([])?,
                };
                Ok(())
            })
            .await
    }

    /// The server has heard these.
    pub(in crate::orchestrator) async fn told(&self, ids: Vec<i64>) -> Result<(), OrchestratorError> {
        self.0
            .change(move |transaction, _| {
                let ids = serde_json::to_string(&ids).expect("numbers");
                transaction
                    .prepare_cached("DELETE FROM outbox WHERE id IN (SELECT value FROM json_each(?1))")?
                    .execute([ids])?;
                Ok(())
            })
            .await
    }

    /// Forgets what a server was to hear of a run that it no longer knows.
    pub(in crate::orchestrator) async fn forget(&self, run: FlowRunId) -> Result<(), OrchestratorError> {
        self.0
            .change(move |transaction, _| {
                transaction.execute("DELETE FROM outbox WHERE flow_run_id = ?1", [run.to_string()])?;
                transaction.execute("DELETE FROM prefect_run WHERE flow_run_id = ?1", [run.to_string()])?;
                Ok(())
            })
            .await
    }

    /// Displaces the oldest log lines of an outbox that has grown too long, with a line in their place. Everything
    /// else stays. Returns how many went.
    pub(in crate::orchestrator) async fn bound(&self) -> Result<u64, OrchestratorError> {
        let count: i64 = self
            .0
            .read(|connection| {
                Ok(connection
                    .prepare_cached("SELECT count(*) FROM outbox WHERE kind = 'log'")?
                    .query_row([], |row| row.get(0))?)
            })
            .await?;
        let excess = count - MAX_WAITING_LOG_LINES;
        if excess <= 0 {
            return Ok(0);
        }
        // A tenth more, so that this is not done for every line.
        let number = excess + MAX_WAITING_LOG_LINES / 10;
        self.0
            .change(move |transaction, _| displace_lines(transaction, number))
            .await?;
        Ok(u64::try_from(number).unwrap_or(0))
    }
}

fn outbox_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<OutboxRow> {
    let kind: String = row.get("kind")?;
    let message = match kind.as_str() {
        "state" => OutboxMessage::State(json(row, "content")?),
        "labels" => OutboxMessage::Labels(json(row, "content")?),
        "task_run" => OutboxMessage::TaskRun(json(row, "content")?),
        "artifact" => OutboxMessage::Artifact(json(row, "content")?),
        "asset" => OutboxMessage::Asset(json(row, "content")?),
        _ => OutboxMessage::Log(json(row, "content")?),
    };
    Ok(OutboxRow {
        id: row.get("id")?,
        token: uuid(row, "token")?,
        message,
    })
}

fn displace_lines(transaction: &Transaction<'_>, number: i64) -> Result<(), Fault> {
    let by_run: Vec<(FlowRunId, i64, i64)> = transaction
        .prepare(
            "SELECT flow_run_id, count(*) AS number, max(id) AS newest
             FROM (SELECT id, flow_run_id FROM outbox WHERE kind = 'log' ORDER BY id LIMIT ?1) GROUP BY flow_run_id",
        )?
        .query_map([number], |row| {
            Ok((id(row, "flow_run_id")?, row.get("number")?, row.get("newest")?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    for (run, number, newest) in by_run {
        transaction.execute(
            "DELETE FROM outbox WHERE flow_run_id = ?1 AND kind = 'log' AND id < ?2",
            (run.to_string(), newest),
        )?;
        let note = serde_json::json!({
            "attempt": 0, "level": "warning", "timestamp_ms": now_ms(),
            "message": format!("{number} log lines were left out: the API could not be reached for too long"),
        });
        transaction.execute(
            "UPDATE outbox SET content = ?2 WHERE id = ?1",
            (newest, note.to_string()),
        )?;
    }
    Ok(())
}
