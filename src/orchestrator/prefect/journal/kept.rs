//! Runs that were queued while the server could not be reached.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use serde_json::{Map, Value};

use crate::domain::error::OrchestratorError;
use crate::domain::id::FlowRunId;
use crate::domain::trace::TraceContext;
use crate::orchestrator::local::LocalOrchestrator;
use crate::orchestrator::local::rows::{id, json, now_ms, timestamp};
use crate::orchestrator::queue::NewFlowRun;

/// How long a lock on the queue of another folder is waited for.
const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
/// Most rows that one transaction forgets.
const FORGOTTEN_AT_ONCE: u32 = 1000;

/// A run that was queued while the server could not be reached.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::orchestrator) struct KeptRun {
    pub(in crate::orchestrator) id: FlowRunId,
    pub(in crate::orchestrator) flow_name: String,
    pub(in crate::orchestrator) idempotency_key: String,
    pub(in crate::orchestrator) parameters: Map<String, Value>,
    pub(in crate::orchestrator) created_at: Timestamp,
    pub(in crate::orchestrator) prefect_id: Option<FlowRunId>,
    pub(in crate::orchestrator) problem: Option<String>,
}

const KEPT: &str =
    "SELECT id, flow_name, idempotency_key, parameters, created_at, prefect_id, problem FROM stored_flow_run";

fn read_kept(row: &rusqlite::Row<'_>) -> rusqlite::Result<KeptRun> {
    let prefect_id: Option<String> = row.get("prefect_id")?;
    Ok(KeptRun {
        id: id(row, "id")?,
        flow_name: row.get("flow_name")?,
        idempotency_key: row.get("idempotency_key")?,
        parameters: json(row, "parameters")?,
        created_at: timestamp(row.get("created_at")?),
        prefect_id: prefect_id.map(|_| id(row, "prefect_id")).transpose()?,
        problem: row.get("problem")?,
    })
}

/// Runs that wait for the server.
#[derive(Clone)]
pub(in crate::orchestrator) struct KeptRuns(Arc<LocalOrchestrator>);

impl KeptRuns {
    pub(super) const fn of(local: Arc<LocalOrchestrator>) -> Self {
        Self(local)
    }

    /// Keeps a run for a server that cannot be reached. A key that is known returns its run.
    pub(in crate::orchestrator) async fn keep(
        &self,
        new: NewFlowRun,
        key: String,
    ) -> Result<FlowRunId, OrchestratorError> {
        let kept = self
            .0
            .change(move |transaction, _| {
                let given = new.arguments.to_parameters();
                let known = transaction
                    .prepare_cached(&format!("{KEPT} WHERE idempotency_key = ?1"))?
                    .query_row([&key], read_kept)
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
                    "INSERT INTO stored_flow_run (id, flow_name, idempotency_key, parameters, created_at, traceparent)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    (
                        id.to_string(),
                        &new.flow.name,
                        &key,
                        serde_json::to_string(&given).expect("arguments are JSON"),
                        now_ms(),
                        new.trace.map(|trace| trace.to_string()),
                    ),
                )?;
                Ok(id)
            })
            .await?;
        self.0.ring();
        Ok(kept)
    }

    /// The run that was kept under this id.
    pub(in crate::orchestrator) async fn read(&self, id: FlowRunId) -> Result<Option<KeptRun>, OrchestratorError> {
        self.0
            .read(move |connection| {
                Ok(connection
                    .prepare_cached(&format!("{KEPT} WHERE id = ?1"))?
                    .query_row([id.to_string()], read_kept)
                    .optional()?)
            })
            .await
    }

    /// The trace of a kept run. Read by itself: what was kept by an earlier version has no place for it.
    pub(in crate::orchestrator) async fn trace(
        &self,
        id: FlowRunId,
    ) -> Result<Option<TraceContext>, OrchestratorError> {
        self.0
            .read(move |connection| {
                let trace: Option<Option<String>> = connection
                    .prepare_cached("SELECT traceparent FROM stored_flow_run WHERE id = ?1")?
                    .query_row([id.to_string()], |row| row.get(0))
                    .optional()?;
                Ok(trace.flatten().and_then(|text| text.parse().ok()))
            })
            .await
    }

    /// A kept run has come to the server, or never will.
    pub(in crate::orchestrator) async fn settle(
        &self,
        id: FlowRunId,
        outcome: Result<FlowRunId, String>,
    ) -> Result<(), OrchestratorError> {
        self.0
            .change(move |transaction, _| {
                let (prefect_id, problem) = match outcome {
                    Ok(prefect_id) => (Some(prefect_id.to_string()), None),
                    Err(problem) => (None, Some(problem)),
                };
                transaction.execute(
                    "UPDATE stored_flow_run SET prefect_id = ?2, problem = ?3 WHERE id = ?1",
                    (id.to_string(), prefect_id, problem),
                )?;
                Ok(())
            })
            .await
    }

    /// Brings what was kept in another folder for the same server, under another spelling of its address. Done again
    /// after a crash, it brings nothing twice.
    pub(super) async fn bring_from(&self, folder: PathBuf) -> Result<(), OrchestratorError> {
        let brought = self
            .0
            .change(move |transaction, _| {
                let path = folder.join("queue.db");
                let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                // No queue of ours, or one of before runs were kept: nothing is there.
                let Ok(other) = Connection::open_with_flags(&path, flags) else {
                    return Ok(None);
                };
                other.busy_timeout(BUSY_TIMEOUT)?;
                let Ok(mut statement) = other.prepare(KEPT) else {
                    return Ok(None);
                };
                let all: Vec<KeptRun> = statement.query_map([], read_kept)?.collect::<rusqlite::Result<_>>()?;
                for kept in &all {
                    transaction.execute(
                        "INSERT OR IGNORE INTO stored_flow_run
                           (id, flow_name, idempotency_key, parameters, created_at, prefect_id, problem)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                        (
                            kept.id.to_string(),
                            &kept.flow_name,
                            &kept.idempotency_key,
                            serde_json::to_string(&kept.parameters).expect("JSON"),
                            kept.created_at.as_millisecond(),
                            kept.prefect_id.map(|id| id.to_string()),
                            &kept.problem,
                        ),
                    )?;
                }
                drop(statement);
                // One whose key is taken here by another run stays where it is.
                let mut here =
                    transaction.prepare_cached("SELECT EXISTS (SELECT 1 FROM stored_flow_run WHERE id = ?1)")?;
                let mut brought = Vec::new();
                for kept in all {
                    if here.query_row([kept.id.to_string()], |row| row.get(0))? {
                        brought.push(kept);
                    }
                }
                drop(here);
                Ok((!brought.is_empty()).then_some((other, brought)))
            })
            .await?;
        let Some((other, all)) = brought else {
            return Ok(());
        };
        // They are safe here: there, they would be brought again once they are forgotten here.
        self.0
            .change(move |_, _| {
                for kept in all {
                    other.execute("DELETE FROM stored_flow_run WHERE id = ?1", [kept.id.to_string()])?;
                }
                Ok(())
            })
            .await?;
        self.0.ring();
        Ok(())
    }

    /// Runs that wait for the server, oldest first.
    pub(in crate::orchestrator) async fn waiting(&self) -> Result<Vec<KeptRun>, OrchestratorError> {
        self.0
            .read(|connection| {
                Ok(connection
                    .prepare_cached(&format!(
                        "{KEPT} WHERE prefect_id IS NULL AND problem IS NULL ORDER BY created_at, id LIMIT 100"
                    ))?
                    .query_map([], read_kept)?
                    .collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    /// Forgets those that were kept before then and no longer wait.
    pub(in crate::orchestrator) async fn forget(&self, before: Timestamp) -> Result<u64, OrchestratorError> {
        let mut forgotten = 0;
        loop {
            let number = self
                .0
                .change(move |transaction, _| {
                    Ok(transaction
                        .prepare_cached(
                            "DELETE FROM stored_flow_run WHERE id IN
                               (SELECT id FROM stored_flow_run
                                WHERE created_at < ?1 AND (prefect_id IS NOT NULL OR problem IS NOT NULL) LIMIT ?2)",
                        )?
                        .execute((before.as_millisecond(), FORGOTTEN_AT_ONCE))?)
                })
                .await?;
            forgotten += number as u64;
            if number < FORGOTTEN_AT_ONCE as usize {
                return Ok(forgotten);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::flow::Flows;

    fn new() -> NewFlowRun {
        let flow = Flows::builtin().get("full-frames").expect("built in").clone();
        let given = serde_json::json!({
            "video-id": "v", "video-path": "/v/a.mp4", "db-path": "/d/v.db", "output-dir": "/o", "frame-rate": 0.1,
        });
        let arguments = flow
            .parse_arguments(given.as_object().expect("an object"), std::path::Path::new("/"))
            .expect("valid");
        NewFlowRun::new(flow, arguments)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn kept_runs_are_forgotten_once_they_wait_no_longer() {
        let folder = tempfile::tempdir().expect("a folder");
        let local = LocalOrchestrator::open(folder.path()).await.expect("opens");
        let kept = KeptRuns::of(Arc::new(local));
        let [waiting, there, never] = ["a", "b", "c"].map(|key| kept.keep(new(), key.to_owned()));
        let (waiting, there, never) = (
            waiting.await.expect("kept"),
            there.await.expect("kept"),
            never.await.expect("kept"),
        );
        kept.settle(there, Ok(FlowRunId::generate())).await.expect("settled");
        kept.settle(never, Err("refused".to_owned())).await.expect("settled");
        let hour = jiff::SignedDuration::from_hours(1);
        assert_eq!(kept.forget(Timestamp::now() - hour).await.expect("looked"), 0);
        assert_eq!(kept.forget(Timestamp::now() + hour).await.expect("forgotten"), 2);
        assert_eq!(kept.read(there).await.expect("read"), None);
        assert!(kept.read(waiting).await.expect("read").is_some());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_was_kept_in_another_folder_is_brought_once() {
        let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        let open = async |folder: &tempfile::TempDir| {
            KeptRuns::of(Arc::new(LocalOrchestrator::open(folder.path()).await.expect("opens")))
        };
        let id = open(&folders[0]).await.keep(new(), "a".to_owned()).await.expect("kept");
        let here = open(&folders[1]).await;
        let bring = || here.bring_from(folders[0].path().to_owned());
        bring().await.expect("brought");
        assert_eq!(
            here.read(id).await.expect("read").map(|kept| kept.idempotency_key),
            Some("a".to_owned())
        );
        here.settle(id, Ok(FlowRunId::generate())).await.expect("settled");
        bring().await.expect("nothing is left");
        assert_eq!(here.waiting().await.expect("read"), []);
        here.forget(Timestamp::now() + jiff::SignedDuration::from_hours(1))
            .await
            .expect("forgotten");
        bring().await.expect("nothing is left");
        assert_eq!(here.read(id).await.expect("read"), None);
        here.bring_from(folders[0].path().join("none"))
            .await
            .expect("nothing is there");
    }
}
