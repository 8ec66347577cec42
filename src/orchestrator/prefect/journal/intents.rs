//! Runs about to be claimed: each holds a slot from before the server is asked for it until it is a run of the journal.

use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::Connection;
use uuid::Uuid;

use crate::domain::error::OrchestratorError;
use crate::domain::flow::Subject;
use crate::domain::id::FlowRunId;
use crate::orchestrator::local::LocalOrchestrator;
use crate::orchestrator::local::entries;
use crate::orchestrator::local::peers::Peer;
use crate::orchestrator::local::rows::{id, json, uuid};
use crate::process::life::bury;

/// A run that a worker is about to claim at the server.
#[derive(Debug, Clone)]
pub(in crate::orchestrator) struct ClaimIntent {
    pub(in crate::orchestrator) flow_run_id: FlowRunId,
    pub(in crate::orchestrator) transition_id: Uuid,
    pub(in crate::orchestrator) flow_name: String,
    pub(in crate::orchestrator) subject: Subject,
    /// Whether nobody waits for it.
    pub(in crate::orchestrator) is_background: bool,
}

/// The intents of all workers of this journal.
#[derive(Clone)]
pub(in crate::orchestrator) struct Intents(Arc<LocalOrchestrator>);

impl Intents {
    pub(super) const fn of(local: Arc<LocalOrchestrator>) -> Self {
        Self(local)
    }

    /// Takes a slot for a run before the server is asked for it. `false`: there is none, or a run for the same video
    /// and flow is at work.
    pub(in crate::orchestrator) async fn reserve(
        &self,
        intent: ClaimIntent,
        limit: u32,
    ) -> Result<bool, OrchestratorError> {
        self.0
            .change(move |transaction, peers| {
                let own = peers.own()?;
                let id = intent.flow_run_id;
                let (video_id, db_path) = (intent.subject.video_id.as_deref(), intent.subject.db_path_text());
                if taken(transaction)? >= limit
                    || intent.is_background
                        && taken_in_background(transaction)? >= entries::background_limit(transaction, limit)?
                    || entries::is_held(transaction, id, &intent.flow_name, video_id, db_path)?
                {
                    return Ok(false);
                }
                let is_asked_for: bool = transaction
                    .prepare_cached(
                        "SELECT EXISTS (SELECT 1 FROM claim_intent
                         WHERE flow_run_id = ?1 OR flow_name = ?2 AND (video_id = ?3 OR db_path = ?4))",
                    )?
                    .query_row((id.to_string(), &intent.flow_name, video_id, db_path), |row| row.get(0))?;
                if is_asked_for {
                    return Ok(false);
                }
                transaction
                    .prepare_cached(
                        "INSERT INTO claim_intent
                           (flow_run_id, transition_id, worker_process, flow_name, video_id, db_path, is_background)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                    )?
                    .execute((
                        id.to_string(),
                        intent.transition_id.to_string(),
                        own.to_json(),
                        &intent.flow_name,
                        video_id,
                        db_path,
                        intent.is_background,
                    ))?;
                Ok(true)
            })
            .await
    }

    /// Gives the slot of this very claim back; one that was taken for the run since is another's.
    pub(in crate::orchestrator) async fn release(
        &self,
        id: FlowRunId,
        transition_id: Uuid,
    ) -> Result<(), OrchestratorError> {
        self.0
            .change(move |transaction, _| {
                transaction
                    .prepare_cached("DELETE FROM claim_intent WHERE flow_run_id = ?1 AND transition_id = ?2")?
                    .execute((id.to_string(), transition_id.to_string()))?;
                Ok(())
            })
            .await
    }

    /// Claims of workers that died between asking for a run and knowing the answer.
    pub(in crate::orchestrator) async fn broken(&self) -> Result<Vec<(FlowRunId, Uuid)>, OrchestratorError> {
        self.0
            .change(move |transaction, peers| {
                let all: Vec<(FlowRunId, Uuid, Peer)> = transaction
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
            })
            .await
    }

    /// How many runs hold a slot here.
    pub(in crate::orchestrator) async fn slots_taken(&self) -> Result<u32, OrchestratorError> {
        self.0.read(|connection| Ok(taken(connection)?)).await
    }

    /// The file whose lock the processes of a foreign run hold.
    pub(in crate::orchestrator) fn foreign_lock(&self, id: FlowRunId, transition_id: Uuid) -> PathBuf {
        self.0.lock_file(&format!("foreign-{id}.{transition_id}"))
    }

    /// Whether none of those processes is left, in whatever container.
    pub(in crate::orchestrator) fn bury_foreign(&self, id: FlowRunId, transition_id: Uuid) -> bool {
        bury(&self.foreign_lock(id, transition_id))
    }
}

fn taken(connection: &Connection) -> rusqlite::Result<u32> {
    let asked_for: u32 = connection
        .prepare_cached("SELECT count(*) FROM claim_intent")?
        .query_row([], |row| row.get(0))?;
    Ok(entries::held(connection)?.saturating_add(asked_for))
}

fn taken_in_background(connection: &Connection) -> rusqlite::Result<u32> {
    let asked_for: u32 = connection
        .prepare_cached("SELECT count(*) FROM claim_intent WHERE is_background = 1")?
        .query_row([], |row| row.get(0))?;
    Ok(entries::held_in_background(connection)?.saturating_add(asked_for))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_stale_duplicate_does_not_free_the_slot_of_a_newer_claim() {
        let folder = tempfile::tempdir().expect("a folder");
        let local = LocalOrchestrator::open(folder.path()).await.expect("opens");
        let intents = Intents::of(Arc::new(local));
        let intent = || ClaimIntent {
            flow_run_id: FlowRunId::from_uuid(Uuid::from_u128(1)),
            transition_id: Uuid::new_v4(),
            flow_name: "hello".to_owned(),
            subject: Subject::default(),
            is_background: false,
        };
        let (first, second) = (intent(), intent());
        let id = first.flow_run_id;
        assert!(intents.reserve(first.clone(), 1).await.expect("asked"));
        intents.release(id, first.transition_id).await.expect("released");
        assert!(intents.reserve(second.clone(), 1).await.expect("asked"));
        intents
            .release(id, first.transition_id)
            .await
            .expect("nothing of its own");
        assert_eq!(intents.slots_taken().await.expect("read"), 1);
        intents.release(id, second.transition_id).await.expect("released");
        assert_eq!(intents.slots_taken().await.expect("read"), 0);
    }
}
