//! What runs of this home have made, for the server to be told and for lineage.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{Connection, Row};
use serde_json::Value;

use crate::domain::error::OrchestratorError;
use crate::domain::id::FlowRunId;
use crate::orchestrator::local::LocalOrchestrator;
use crate::orchestrator::local::rows::{id, json, timestamp};
use crate::orchestrator::local::store::Fault;

/// One making of an asset, as every machine understands it: versions are of one home, runs and times are everybody's.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::orchestrator) struct Made {
    pub(in crate::orchestrator) key: String,
    pub(in crate::orchestrator) flow_run_id: FlowRunId,
    pub(in crate::orchestrator) flow_name: String,
    pub(in crate::orchestrator) at: Timestamp,
    /// Since when its attempt was at work: what was made before is what it has read.
    pub(in crate::orchestrator) claimed_at: Timestamp,
    pub(in crate::orchestrator) metadata: Value,
    pub(in crate::orchestrator) upstreams: Vec<MadeFrom>,
}

/// Something that it was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::orchestrator) struct MadeFrom {
    pub(in crate::orchestrator) key: String,
    /// The run whose making of it was read, where this home knows it.
    pub(in crate::orchestrator) made_by: Option<FlowRunId>,
}

/// Materializations of this home.
#[derive(Clone)]
pub(in crate::orchestrator) struct MadeHere(Arc<LocalOrchestrator>);

impl MadeHere {
    pub(super) const fn of(local: Arc<LocalOrchestrator>) -> Self {
        Self(local)
    }

    /// The newest of each asset.
    pub(in crate::orchestrator) async fn newest(&self) -> Result<Vec<Made>, OrchestratorError> {
        self.0.read(|connection| made(connection, "is_newest = 1", ())).await
    }

    /// What a run has made of which the server has not heard.
    pub(in crate::orchestrator) async fn untold(&self, run: FlowRunId) -> Result<Vec<Made>, OrchestratorError> {
        let which = "version IN (SELECT json_extract(content, '$.version') FROM outbox
                                 WHERE outbox.flow_run_id = ?1 AND kind = 'asset') ORDER BY version";
        self.0
            .read(move |connection| made(connection, which, [run.to_string()]))
            .await
    }
}

fn made(connection: &Connection, which: &str, parameters: impl rusqlite::Params) -> Result<Vec<Made>, Fault> {
    let mut upstreams = connection.prepare_cached(
        "SELECT upstream.key AS key, made.flow_run_id AS flow_run_id
         FROM asset_upstream AS upstream LEFT JOIN asset_materialization AS made ON made.version = upstream.version
         WHERE materialization_version = ?1 ORDER BY upstream.key",
    )?;
    let mut rows = connection.prepare_cached(&format!(
        "SELECT version, key, flow_run_id, flow_name, metadata, at,
           (SELECT json_extract(context, '$.claim.at') FROM prefect_run WHERE prefect_run.flow_run_id = making.flow_run_id)
             AS claimed_at,
           (SELECT started_at FROM flow_run WHERE id = making.flow_run_id) AS started_at
         FROM asset_materialization AS making WHERE {which}"
    ))?;
    let found = rows.query_map(parameters, |row| {
        let version: i64 = row.get("version")?;
        let upstreams = upstreams.query_map([version], made_from)?;
        let at = timestamp(row.get("at")?);
        let claimed_at: Option<String> = row.get("claimed_at")?;
        let started_at: Option<i64> = row.get("started_at")?;
        Ok(Made {
            key: row.get("key")?,
            flow_run_id: id(row, "flow_run_id")?,
            flow_name: row.get("flow_name")?,
            at,
            claimed_at: claimed_at
                .and_then(|text| text.parse().ok())
                .or_else(|| started_at.map(timestamp))
                .unwrap_or(at),
            metadata: json(row, "metadata")?,
            upstreams: upstreams.collect::<rusqlite::Result<_>>()?,
        })
    })?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

fn made_from(row: &Row<'_>) -> rusqlite::Result<MadeFrom> {
    let made_by: Option<String> = row.get("flow_run_id")?;
    Ok(MadeFrom {
        key: row.get("key")?,
        made_by: made_by.and_then(|text| text.parse().ok()),
    })
}
