//! queue.db as the journal of the Prefect orchestrator: runs that are worked on here, what the server must still hear
//! of them, and runs that wait for the server to come back. The triggers of `schema_2.sql` fill the outbox.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::LocalOrchestrator;
use super::peers::{Peer, Peers};
use super::records::log_bytes;
use super::rows::{Step, enter, id, json, keep_state, now_ms, path_text, read_run, timestamp, unreadable};
use super::store::{Fault, begin};
use super::waiting;
use crate::domain::error::OrchestratorError;
use crate::domain::flow::{FlowDefinition, Subject};
use crate::domain::flow_run::FlowRun;
use crate::domain::id::FlowRunId;
use crate::domain::state::{StateName, StateType};
use crate::orchestrator::claims::Claim;
use crate::orchestrator::queue::NewFlowRun;
use crate::process::life::bury;

/// Most log lines that wait for the server: what comes on top displaces the oldest.
const MAX_WAITING_LOG_LINES: i64 = 50_000;
/// Most rows of one reading of the outbox.
const OUTBOX_PAGE: u32 = 1000;

/// Ids and names that the events of a run carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::orchestrator) struct RunContext {
    pub(in crate::orchestrator) run_name: String,
    pub(in crate::orchestrator) flow_id: Uuid,
    pub(in crate::orchestrator) flow_name: String,
    pub(in crate::orchestrator) deployment_id: Uuid,
    pub(in crate::orchestrator) deployment_name: String,
    pub(in crate::orchestrator) work_pool_id: Option<Uuid>,
    pub(in crate::orchestrator) work_pool_name: Option<String>,
    pub(in crate::orchestrator) tags: Vec<String>,
    /// A slot of the deployment's limit, to be renewed.
    pub(in crate::orchestrator) concurrency_lease_id: Option<Uuid>,
}

/// A run that a worker is about to claim at the server.
#[derive(Debug, Clone)]
pub(in crate::orchestrator) struct ClaimIntent {
    pub(in crate::orchestrator) flow_run_id: FlowRunId,
    pub(in crate::orchestrator) transition_id: Uuid,
    pub(in crate::orchestrator) flow_name: String,
    pub(in crate::orchestrator) subject: Subject,
}

/// The next of what the server must hear of a run.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::orchestrator) struct Mail {
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

/// A run whose server has to hear something, or that is at work here.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::orchestrator) struct ForwardedRun {
    pub(in crate::orchestrator) flow_run: FlowRun,
    pub(in crate::orchestrator) context: RunContext,
    pub(in crate::orchestrator) has_mail: bool,
    pub(in crate::orchestrator) progress_at: i64,
    pub(in crate::orchestrator) progress_sent_at: i64,
    pub(in crate::orchestrator) progress_artifact_id: Option<Uuid>,
}

/// A run that was queued while the server could not be reached.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::orchestrator) struct StoredRun {
    pub(in crate::orchestrator) id: FlowRunId,
    pub(in crate::orchestrator) flow_name: String,
    pub(in crate::orchestrator) idempotency_key: String,
    pub(in crate::orchestrator) parameters: Map<String, Value>,
    pub(in crate::orchestrator) created_at: Timestamp,
    pub(in crate::orchestrator) prefect_id: Option<FlowRunId>,
    pub(in crate::orchestrator) problem: Option<String>,
}

impl LocalOrchestrator {
    /// Takes a slot for a run before the server is asked for it. `false`: there is none, or a run for the same video
    /// and flow is at work.
    pub(in crate::orchestrator) async fn reserve(
        &self,
        intent: ClaimIntent,
        limit: u32,
    ) -> Result<bool, OrchestratorError> {
        self.run_with_peers(move |connection, peers| reserve(connection, &peers.own()?, &intent, limit))
            .await
    }

    /// Gives the slot of a run back that the server did not hand over.
    pub(in crate::orchestrator) async fn release(&self, id: FlowRunId) -> Result<(), OrchestratorError> {
        self.store
            .run(move |connection| {
                connection.execute("DELETE FROM claim_intent WHERE flow_run_id = ?1", [id.to_string()])?;
                Ok(())
            })
            .await
    }

    /// Claims of workers that died between asking for a run and knowing the answer.
    pub(in crate::orchestrator) async fn broken_intents(&self) -> Result<Vec<(FlowRunId, Uuid)>, OrchestratorError> {
        self.run_with_peers(|connection, peers| broken_intents(connection, peers))
            .await
    }

    /// The file whose lock the processes of a run hold that is not ours.
    pub(in crate::orchestrator) fn foreign_lock(&self, id: FlowRunId, transition_id: Uuid) -> PathBuf {
        self.peers.foreign_lock(id, transition_id)
    }

    /// Whether none of those processes is left, in whatever container.
    pub(in crate::orchestrator) fn bury_foreign(&self, id: FlowRunId, transition_id: Uuid) -> bool {
        bury(&self.peers.foreign_lock(id, transition_id))
    }

    /// How many runs hold a slot here.
    pub(in crate::orchestrator) async fn slots_taken(&self) -> Result<u32, OrchestratorError> {
        self.store.run(|connection| Ok(slots_taken(connection)?)).await
    }

    /// Makes a run that the server handed over a claimed run of this journal; its intent is fulfilled.
    pub(in crate::orchestrator) async fn adopt(
        &self,
        run: FlowRun,
        has_status_row: bool,
        context: RunContext,
        worker_name: String,
    ) -> Result<Claim, OrchestratorError> {
        self.run_with_peers(move |connection, peers| {
            adopt(connection, &peers.own()?, &run, has_status_row, &context, &worker_name)
        })
        .await
    }

    /// Notes a run that was queued from this machine, so that its status row is kept while it waits.
    pub(in crate::orchestrator) async fn observe(
        &self,
        run: FlowRun,
        flow: FlowDefinition,
    ) -> Result<(), OrchestratorError> {
        self.store
            .run(move |connection| observe(connection, &run, &flow))
            .await?;
        self.bell.ring();
        Ok(())
    }

    /// Enters a state that the server has already: it is not told again. `false`: the run is not in a state that
    /// this can follow on, or not known.
    pub(in crate::orchestrator) async fn mirror(
        &self,
        id: FlowRunId,
        state: StateName,
        message: String,
        superseded_by: Option<FlowRunId>,
    ) -> Result<bool, OrchestratorError> {
        let changed = self
            .store
            .run(move |connection| mirror(connection, id, state, &message, superseded_by))
            .await?;
        if changed {
            self.bell.ring();
        }
        Ok(changed)
    }

    /// Runs of this journal in one of these states.
    pub(in crate::orchestrator) async fn runs_in(
        &self,
        state_types: &'static [StateType],
    ) -> Result<Vec<FlowRunId>, OrchestratorError> {
        self.store
            .run(move |connection| {
                Ok(connection
                    .prepare_cached(
                        "SELECT id FROM flow_run WHERE state_type IN (SELECT value FROM json_each(?1)) ORDER BY state_at DESC LIMIT 200",
                    )?
                    .query_map([serde_json::to_string(state_types).expect("plain words")], |row| id(row, "id"))?
                    .collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    /// Runs that this process forwards: those with something to tell, and those at work. Takes over those of dead
    /// processes.
    pub(in crate::orchestrator) async fn forwarded_runs(&self) -> Result<Vec<ForwardedRun>, OrchestratorError> {
        self.run_with_peers(forwarded_runs).await
    }

    /// What the server must still hear of a run, in order; at most one page.
    pub(in crate::orchestrator) async fn outbox(&self, id: FlowRunId) -> Result<Mail, OrchestratorError> {
        self.store.run(move |connection| outbox(connection, id)).await
    }

    /// Counts the states of a run that are known here and at the server; 0 if nothing is known of it here.
    pub(in crate::orchestrator) async fn told_counter(&self, id: FlowRunId) -> Result<i64, OrchestratorError> {
        self.store
            .run(move |connection| {
                Ok(connection
                    .prepare_cached(
                        "SELECT coalesce((SELECT state_sequence FROM flow_run WHERE id = ?1), 0)
                           - (SELECT count(*) FROM outbox WHERE flow_run_id = ?1 AND kind = 'state')
                           + EXISTS (SELECT 1 FROM stored_flow_run
                                     WHERE id = ?1 AND (prefect_id IS NOT NULL OR problem IS NOT NULL))",
                    )?
                    .query_row([id.to_string()], |row| row.get(0))?)
            })
            .await
    }

    /// The context of a run that was claimed from a server, if it was.
    pub(in crate::orchestrator) async fn run_context(
        &self,
        id: FlowRunId,
    ) -> Result<Option<RunContext>, OrchestratorError> {
        self.store
            .run(move |connection| {
                Ok(connection
                    .prepare_cached("SELECT context FROM prefect_run WHERE flow_run_id = ?1")?
                    .query_row([id.to_string()], |row| json(row, "context"))
                    .optional()?)
            })
            .await
    }

    /// The server has heard these.
    pub(in crate::orchestrator) async fn told(&self, ids: Vec<i64>) -> Result<(), OrchestratorError> {
        self.store
            .run(move |connection| {
                let ids = serde_json::to_string(&ids).expect("numbers");
                connection.execute(
                    "DELETE FROM outbox WHERE id IN (SELECT value FROM json_each(?1))",
                    [ids],
                )?;
                Ok(())
            })
            .await
    }

    /// Forgets what a server was to hear of a run that it no longer knows.
    pub(in crate::orchestrator) async fn forget_mail(&self, id: FlowRunId) -> Result<(), OrchestratorError> {
        self.store
            .run(move |connection| {
                connection.execute("DELETE FROM outbox WHERE flow_run_id = ?1", [id.to_string()])?;
                connection.execute("DELETE FROM prefect_run WHERE flow_run_id = ?1", [id.to_string()])?;
                Ok(())
            })
            .await
    }

    /// Displaces the oldest log lines of an outbox that has grown too long, with a line in their place. Everything
    /// else stays. Returns how many went.
    pub(in crate::orchestrator) async fn bound_outbox(&self) -> Result<u64, OrchestratorError> {
        self.store.run(bound_outbox).await
    }

    /// The server has the run's progress as of `progress_at`.
    pub(in crate::orchestrator) async fn progress_told(
        &self,
        run: FlowRunId,
        progress_at: i64,
        artifact_id: Uuid,
    ) -> Result<(), OrchestratorError> {
        self.store
            .run(move |connection| {
                connection.execute(
                    "UPDATE prefect_run SET progress_sent_at = ?2, progress_artifact_id = ?3 WHERE flow_run_id = ?1",
                    (run.to_string(), progress_at, artifact_id.to_string()),
                )?;
                Ok(())
            })
            .await
    }

    /// Keeps a run for a server that cannot be reached. A key that is known returns its run.
    pub(in crate::orchestrator) async fn store_run(
        &self,
        new: NewFlowRun,
        key: String,
    ) -> Result<FlowRunId, OrchestratorError> {
        let kept = self
            .store
            .run(move |connection| store_run(connection, &new, &key))
            .await?;
        self.bell.ring();
        Ok(kept)
    }

    /// Runs that wait for the server, oldest first.
    pub(in crate::orchestrator) async fn stored_runs(&self) -> Result<Vec<StoredRun>, OrchestratorError> {
        self.store
            .run(|connection| {
                Ok(connection
                    .prepare_cached(&format!(
                        "{STORED} WHERE prefect_id IS NULL AND problem IS NULL ORDER BY created_at, id LIMIT 100"
                    ))?
                    .query_map([], read_stored)?
                    .collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    /// The run that was kept under this id.
    pub(in crate::orchestrator) async fn stored_run(
        &self,
        id: FlowRunId,
    ) -> Result<Option<StoredRun>, OrchestratorError> {
        self.store
            .run(move |connection| {
                Ok(connection
                    .prepare_cached(&format!("{STORED} WHERE id = ?1"))?
                    .query_row([id.to_string()], read_stored)
                    .optional()?)
            })
            .await
    }

    /// A kept run has come to the server, or never will.
    pub(in crate::orchestrator) async fn stored_run_settled(
        &self,
        id: FlowRunId,
        outcome: Result<FlowRunId, String>,
    ) -> Result<(), OrchestratorError> {
        self.store
            .run(move |connection| {
                let (prefect_id, problem) = match outcome {
                    Ok(prefect_id) => (Some(prefect_id.to_string()), None),
                    Err(problem) => (None, Some(problem)),
                };
                connection.execute(
                    "UPDATE stored_flow_run SET prefect_id = ?2, problem = ?3 WHERE id = ?1",
                    (id.to_string(), prefect_id, problem),
                )?;
                Ok(())
            })
            .await
    }
}

const STORED: &str =
    "SELECT id, flow_name, idempotency_key, parameters, created_at, prefect_id, problem FROM stored_flow_run";

fn read_stored(row: &rusqlite::Row<'_>) -> rusqlite::Result<StoredRun> {
    let prefect_id: Option<String> = row.get("prefect_id")?;
    Ok(StoredRun {
        id: id(row, "id")?,
        flow_name: row.get("flow_name")?,
        idempotency_key: row.get("idempotency_key")?,
        parameters: json(row, "parameters")?,
        created_at: timestamp(row.get("created_at")?),
        prefect_id: prefect_id.map(|_| id(row, "prefect_id")).transpose()?,
        problem: row.get("problem")?,
    })
}

fn store_run(connection: &mut Connection, new: &NewFlowRun, key: &str) -> Result<FlowRunId, Fault> {
    let given = new.arguments.to_parameters();
    let parameters = serde_json::to_string(&given).expect("arguments are JSON");
    let transaction = begin(connection)?;
    let known = transaction
        .prepare_cached(&format!("{STORED} WHERE idempotency_key = ?1"))?
        .query_row([key], read_stored)
        .optional()?;
    if let Some(known) = known {
        if known.flow_name == new.flow.name && known.parameters == given.0 {
            return Ok(known.prefect_id.unwrap_or(known.id));
        }
        return Err(OrchestratorError::InvalidArgument {
            argument: "idempotencyKey".to_owned(),
            problem: format!(
                "{key:?} belongs to flow run {} with another flow or other arguments: take a new key",
                known.id
            ),
        }
        .into());
    }
    let id = FlowRunId::generate();
    transaction.execute(
        "INSERT INTO stored_flow_run (id, flow_name, idempotency_key, parameters, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
        (id.to_string(), &new.flow.name, key, parameters, now_ms()),
    )?;
    transaction.commit()?;
    Ok(id)
}

fn slots_taken(connection: &Connection) -> rusqlite::Result<u32> {
    connection.query_row(
        "SELECT (SELECT count(*) FROM flow_run INDEXED BY flow_run_active WHERE state_type IN ('PENDING', 'RUNNING', 'CANCELLING'))
              + (SELECT count(*) FROM claim_intent)",
        [],
        |row| row.get(0),
    )
}

fn reserve(connection: &mut Connection, own: &Peer, intent: &ClaimIntent, limit: u32) -> Result<bool, Fault> {
    let transaction = begin(connection)?;
    if slots_taken(&transaction)? >= limit {
        return Ok(false);
    }
    let is_taken: bool = transaction
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM flow_run WHERE state_type IN ('PENDING', 'RUNNING', 'CANCELLING')
                 AND (id = ?1 OR flow_name = ?2 AND (video_id = ?3 OR db_path = ?4)))
               OR EXISTS (SELECT 1 FROM claim_intent
                 WHERE flow_run_id = ?1 OR flow_name = ?2 AND (video_id = ?3 OR db_path = ?4))",
        )?
        .query_row(
            (
                intent.flow_run_id.to_string(),
                &intent.flow_name,
                &intent.subject.video_id,
                intent.subject.db_path_text(),
            ),
            |row| row.get(0),
        )?;
    if is_taken {
        return Ok(false);
    }
    transaction.execute(
        "INSERT INTO claim_intent (flow_run_id, transition_id, worker_process, flow_name, video_id, db_path)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        (
            intent.flow_run_id.to_string(),
            intent.transition_id.to_string(),
            own.to_json(),
            &intent.flow_name,
            &intent.subject.video_id,
            intent.subject.db_path_text(),
        ),
    )?;
    transaction.commit()?;
    Ok(true)
}

fn broken_intents(connection: &Connection, peers: &Peers) -> Result<Vec<(FlowRunId, Uuid)>, Fault> {
    let all: Vec<(FlowRunId, Uuid, Peer)> = connection
        .prepare_cached("SELECT flow_run_id, transition_id, worker_process FROM claim_intent")?
        .query_map([], |row| {
            Ok((
                id(row, "flow_run_id")?,
                uuid(row, "transition_id")?,
                json(row, "worker_process")?,
            ))
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(all
        .into_iter()
        .filter(|(_, _, worker)| !peers.lives(worker))
        .map(|(id, transition_id, _)| (id, transition_id))
        .collect())
}

fn uuid(row: &rusqlite::Row<'_>, column: &str) -> rusqlite::Result<Uuid> {
    Uuid::parse_str(&row.get::<_, String>(column)?).map_err(|_| unreadable(column, "no UUID"))
}

fn adopt(
    connection: &mut Connection,
    own: &Peer,
    run: &FlowRun,
    has_status_row: bool,
    context: &RunContext,
    worker_name: &str,
) -> Result<Claim, Fault> {
    let now = now_ms();
    let key = run.flow_run_id.to_string();
    let transaction = begin(connection)?;
    // While its row is away, the state below is not told: the server gave it.
    transaction.execute("DELETE FROM prefect_run WHERE flow_run_id = ?1", [&key])?;
    transaction.execute("DELETE FROM claim_intent WHERE flow_run_id = ?1", [&key])?;
    waiting::leaves(&transaction, &key)?;
    transaction
        .prepare_cached(
            "INSERT INTO flow_run (id, flow_name, parameters, video_id, db_path, work_queue, priority, tags,
               has_status_row, state_type, state_name, state_at, state_sequence, status_row_due, created_at, scheduled_at,
               attempt, failed_attempts, fencing_token, assets_seen, worker_name, worker_process)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 'PENDING', 'Pending', ?10, 1, 0, ?11, ?12, ?13, ?14, 1,
               coalesce((SELECT max(version) FROM asset_materialization), 0), ?15, ?16)
             ON CONFLICT (id) DO UPDATE SET
               parameters = ?3, video_id = ?4, db_path = ?5, state_type = 'PENDING', state_name = 'Pending',
               state_message = NULL, state_at = ?10, state_sequence = state_sequence + 1, status_row_due = 0,
               scheduled_at = ?12, attempt = max(attempt + 1, ?13), failed_attempts = ?14,
               fencing_token = fencing_token + 1,
               assets_seen = coalesce((SELECT max(version) FROM asset_materialization), 0),
               worker_name = ?15, worker_process = ?16, child_process = NULL, progress = NULL, superseded_by = NULL,
               ended_at = NULL",
        )?
        .execute(rusqlite::params![
            key,
            run.flow_name,
            serde_json::to_string(&run.parameters).expect("arguments are JSON"),
            &run.video_id,
            path_text(run),
            run.priority.as_str(),
            run.priority.priority(),
            serde_json::to_string(&run.tags).expect("tags are text"),
            has_status_row && run.db_path.is_some(),
            now,
            run.created_at.as_millisecond(),
            run.scheduled_at.as_millisecond(),
            run.attempt + 1,
            run.failed_attempts,
            worker_name,
            own.to_json(),
        ])?;
    keep_state(&transaction, run.flow_run_id)?;
    transaction.execute(
        "INSERT INTO prefect_run (flow_run_id, context, forwarder) VALUES (?1, ?2, ?3)",
        (
            &key,
            serde_json::to_string(context).expect("plain values"),
            own.to_json(),
        ),
    )?;
    let stored = read_run(&transaction, run.flow_run_id)?;
    let labels = serde_json::json!({
        "prefect.worker.name": worker_name,
        "prefect.worker.type": "process",
        "captionacc.attempt": stored.flow_run.attempt,
    });
    post(&transaction, run.flow_run_id, "labels", &labels)?;
    let log_bytes = log_bytes(&transaction, run.flow_run_id)?;
    transaction.commit()?;
    Ok(Claim {
        log_bytes,
        lease: stored.lease(),
        database: stored.database,
        flow_run: stored.flow_run,
    })
}

fn post(transaction: &Transaction<'_>, id: FlowRunId, kind: &str, content: &Value) -> Result<(), Fault> {
    transaction
        .prepare_cached("INSERT INTO outbox (flow_run_id, kind, content) VALUES (?1, ?2, ?3)")?
        .execute((id.to_string(), kind, content.to_string()))?;
    Ok(())
}

fn observe(connection: &mut Connection, run: &FlowRun, flow: &FlowDefinition) -> Result<(), Fault> {
    let transaction = begin(connection)?;
    let db_path = path_text(run);
    let has_status_row = flow.status_table.is_some() && db_path.is_some();
    let inserted = transaction
        .prepare_cached(
            "INSERT OR IGNORE INTO flow_run (id, flow_name, parameters, video_id, db_path, work_queue, priority, tags,
               has_status_row, state_type, state_name, state_at, state_sequence, status_row_due, created_at, scheduled_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 'SCHEDULED', 'Scheduled', ?10, 1, ?9, ?10, ?11)",
        )?
        .execute((
            run.flow_run_id.to_string(),
            &run.flow_name,
            serde_json::to_string(&run.parameters).expect("arguments are JSON"),
            &run.video_id,
            db_path,
            run.priority.as_str(),
            run.priority.priority(),
            serde_json::to_string(&run.tags).expect("tags are text"),
            has_status_row,
            run.created_at.as_millisecond(),
            run.scheduled_at.as_millisecond(),
        ))?;
    if inserted == 1 {
        waiting::came(&transaction, run.priority.as_str())?;
        keep_state(&transaction, run.flow_run_id)?;
    }
    transaction.commit()?;
    Ok(())
}

fn mirror(
    connection: &mut Connection,
    run: FlowRunId,
    state: StateName,
    message: &str,
    superseded_by: Option<FlowRunId>,
) -> Result<bool, Fault> {
    let transaction = begin(connection)?;
    let from: Vec<StateType> = match state.state_type() {
        StateType::Cancelling => vec![StateType::Pending, StateType::Running],
        // What is at work here ends by its own attempt.
        StateType::Cancelled => vec![StateType::Scheduled],
        StateType::Scheduled => vec![
            StateType::Scheduled,
            StateType::Cancelled,
            StateType::Failed,
            StateType::Crashed,
        ],
        _ => return Ok(false),
    };
    let newest: i64 = transaction.query_row("SELECT coalesce(max(id), 0) FROM outbox", [], |row| row.get(0))?;
    if let Some(newer) = superseded_by {
        transaction.execute(
            "UPDATE flow_run SET superseded_by = ?2 WHERE id = ?1",
            (run.to_string(), newer.to_string()),
        )?;
    }
    let step = Step {
        message: Some(message),
        scheduled_at: (state.state_type() == StateType::Scheduled).then(now_ms),
        // The status row is left to the newer run.
        status_row_due: superseded_by.is_none() && state.state_type() != StateType::Cancelling,
    };
    let changed = enter(&transaction, run, &from, state, now_ms(), step)?;
    if changed {
        transaction.execute(
            "DELETE FROM outbox WHERE flow_run_id = ?1 AND id > ?2",
            (run.to_string(), newest),
        )?;
    }
    transaction.commit()?;
    Ok(changed)
}

fn forwarded_runs(connection: &mut Connection, peers: &Peers) -> Result<Vec<ForwardedRun>, Fault> {
    let transaction = begin(connection)?;
    let all: Vec<(FlowRunId, Peer, ForwardedParts)> = transaction
        .prepare_cached(
            "SELECT prefect_run.flow_run_id, forwarder, context, progress_artifact_id, progress_sent_at, progress_at,
               EXISTS (SELECT 1 FROM outbox WHERE outbox.flow_run_id = prefect_run.flow_run_id) AS has_mail
             FROM prefect_run JOIN flow_run ON flow_run.id = prefect_run.flow_run_id
             WHERE has_mail OR state_type IN ('PENDING', 'RUNNING', 'CANCELLING') LIMIT 500",
        )?
        .query_map([], |row| {
            let artifact: Option<String> = row.get("progress_artifact_id")?;
            let parts = ForwardedParts {
                context: json(row, "context")?,
                has_mail: row.get("has_mail")?,
                progress_at: row.get("progress_at")?,
                progress_sent_at: row.get("progress_sent_at")?,
                progress_artifact_id: artifact.map(|_| uuid(row, "progress_artifact_id")).transpose()?,
            };
            Ok((id(row, "flow_run_id")?, json(row, "forwarder")?, parts))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let own = peers.own()?;
    let mut runs = Vec::new();
    let mut alive: BTreeMap<Uuid, bool> = BTreeMap::new();
    for (id, forwarder, parts) in all {
        if forwarder != own {
            if *alive.entry(forwarder.life).or_insert_with(|| peers.lives(&forwarder)) {
                continue;
            }
            transaction.execute(
                "UPDATE prefect_run SET forwarder = ?2 WHERE flow_run_id = ?1",
                (id.to_string(), own.to_json()),
            )?;
        }
        runs.push(ForwardedRun {
            flow_run: read_run(&transaction, id)?.flow_run,
            context: parts.context,
            has_mail: parts.has_mail,
            progress_at: parts.progress_at,
            progress_sent_at: parts.progress_sent_at,
            progress_artifact_id: parts.progress_artifact_id,
        });
    }
    transaction.commit()?;
    Ok(runs)
}

struct ForwardedParts {
    context: RunContext,
    has_mail: bool,
    progress_at: i64,
    progress_sent_at: i64,
    progress_artifact_id: Option<Uuid>,
}

fn outbox(connection: &Connection, run: FlowRunId) -> Result<Mail, Fault> {
    let mut rows = connection.prepare_cached(
        "SELECT id, kind, token, content FROM outbox
         WHERE flow_run_id = ?1 AND (kind = 'state') = ?2
           AND (?2 OR id < coalesce((SELECT min(id) FROM outbox WHERE flow_run_id = ?1 AND kind = 'state'), 1 << 62))
         ORDER BY id LIMIT ?3",
    )?;
    let state = rows.query_row((run.to_string(), true, 1), outbox_row).optional()?;
    let mut head: Vec<OutboxRow> = rows
        .query_map((run.to_string(), false, OUTBOX_PAGE), outbox_row)?
        .collect::<rusqlite::Result<_>>()?;
    for row in &mut head {
        if let OutboxMessage::Asset(asset) = &mut row.message {
            asset.upstream_keys = connection
                .prepare_cached("SELECT key FROM asset_upstream WHERE materialization_version = ?1 ORDER BY key")?
                .query_map([asset.version], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
        }
    }
    Ok(Mail { head, state })
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

fn bound_outbox(connection: &mut Connection) -> Result<u64, Fault> {
    let count: i64 = connection.query_row("SELECT count(*) FROM outbox WHERE kind = 'log'", [], |row| row.get(0))?;
    let excess = count - MAX_WAITING_LOG_LINES;
    if excess <= 0 {
        return Ok(0);
    }
    let transaction = begin(connection)?;
    // A tenth more, so that this is not done for every line.
    let number = excess + MAX_WAITING_LOG_LINES / 10;
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
    transaction.commit()?;
    Ok(u64::try_from(number).unwrap_or(0))
}
