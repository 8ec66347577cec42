//! What readers ask of queue.db.

use rusqlite::{Connection, params_from_iter, types::Value as SqlValue};

use super::peers::{Peer, Peers};
use super::rows::{COLUMNS, StoredRun, id, json, read_run, state_name, timestamp, unreadable};
use super::store::Fault;
use crate::domain::asset::{Asset, AssetLineage, Upstream};
use crate::domain::flow::{WORK_POOL, WorkQueue};
use crate::domain::flow_run::{
    Artifact, ArtifactType, EventCursor, FlowRun, FlowRunDetails, FlowRunEvent, LogLevel, LogLine, State, TaskRun,
};
use crate::domain::id::FlowRunId;
use crate::orchestrator::queue::{FlowRunFilter, WorkPool, WorkerRecord};

/// Most log lines in one reading.
const LOG_PAGE: i64 = 1000;

pub(super) fn details(connection: &Connection, run_id: FlowRunId) -> Result<FlowRunDetails, Fault> {
    let flow_run = read_run(connection, run_id)?.flow_run;
    let key = run_id.to_string();
    let states = states(connection, run_id, 0)?
        .into_iter()
        .map(|(_, _, state)| state)
        .collect();
    let task_runs = connection
        .prepare_cached(
            "SELECT id, attempt, name, run_count, state_name, message, started_at, state_at, ended_at
             FROM task_run WHERE flow_run_id = ?1 ORDER BY attempt, started_at, rowid",
        )?
        .query_map([&key], |row| {
            let name = state_name(row, "state_name")?;
            Ok(TaskRun {
                task_run_id: row
                    .get::<_, String>("id")?
                    .parse()
                    .map_err(|_| unreadable("id", "no UUID"))?,
                attempt: row.get("attempt")?,
                name: row.get("name")?,
                run_count: row.get("run_count")?,
                state: State {
                    state_type: name.state_type(),
                    name,
                    message: row.get("message")?,
                    timestamp: timestamp(row.get("state_at")?),
                },
                started_at: timestamp(row.get("started_at")?),
                ended_at: row.get::<_, Option<i64>>("ended_at")?.map(timestamp),
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    let artifacts = connection
        .prepare_cached("SELECT key, type, description, data, at FROM artifact WHERE flow_run_id = ?1 ORDER BY id")?
        .query_map([&key], |row| {
            Ok(Artifact {
                key: row.get("key")?,
                artifact_type: ArtifactType::parse(&row.get::<_, String>("type")?)
                    .ok_or_else(|| unreadable("type", "no artifact type"))?,
                description: row.get("description")?,
                data: json(row, "data")?,
                timestamp: timestamp(row.get("at")?),
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(FlowRunDetails {
        flow_run,
        states,
        task_runs,
        artifacts,
    })
}

/// States after `cursor`: sequence, attempt, state.
fn states(connection: &Connection, run_id: FlowRunId, cursor: i64) -> Result<Vec<(i64, u32, State)>, Fault> {
    Ok(connection
        .prepare_cached(
            "SELECT sequence, state_name, message, attempt, at FROM flow_run_state
             WHERE flow_run_id = ?1 AND sequence > ?2 ORDER BY sequence",
        )?
        .query_map((run_id.to_string(), cursor), |row| {
            let name = state_name(row, "state_name")?;
            let state = State {
                state_type: name.state_type(),
                name,
                message: row.get("message")?,
                timestamp: timestamp(row.get("at")?),
            };
            Ok((row.get("sequence")?, row.get("attempt")?, state))
        })?
        .collect::<rusqlite::Result<_>>()?)
}

pub(super) fn list(connection: &Connection, filter: &FlowRunFilter) -> Result<Vec<FlowRun>, Fault> {
    let mut conditions = vec!["1".to_owned()];
    let mut values: Vec<SqlValue> = Vec::new();
    let mut condition = |text: &str, value: String| {
        values.push(value.into());
        conditions.push(text.replace('?', &format!("?{}", values.len())));
    };
    if let Some(flow_name) = &filter.flow_name {
        condition("flow_name = ?", flow_name.clone());
    }
    if let Some(video_id) = &filter.video_id {
        condition("video_id = ?", video_id.clone());
    }
    if !filter.state_types.is_empty() {
        let types = serde_json::to_string(&filter.state_types).expect("states are plain words");
        condition("state_type IN (SELECT value FROM json_each(?))", types);
    }
    if let Some(before) = filter.before {
        condition("id < ?", before.to_string());
    }
    let sql = format!(
        "SELECT {COLUMNS} FROM flow_run WHERE {} ORDER BY id DESC LIMIT {}",
        conditions.join(" AND "),
        filter.limit
    );
    let runs: Vec<StoredRun> = connection
        .prepare(&sql)?
        .query_map(params_from_iter(values), StoredRun::from_row)?
        .collect::<rusqlite::Result<_>>()?;
    Ok(runs.into_iter().map(|run| run.flow_run).collect())
}

pub(super) fn logs(connection: &Connection, run_id: FlowRunId, cursor: i64) -> Result<(Vec<LogLine>, i64), Fault> {
    // Tells an unknown run from one without logs.
    read_run(connection, run_id)?;
    let rows: Vec<(i64, LogLine)> = connection
        .prepare_cached(
            "SELECT id, attempt, level, message, at FROM log WHERE flow_run_id = ?1 AND id > ?2 ORDER BY id LIMIT ?3",
        )?
        .query_map((run_id.to_string(), cursor, LOG_PAGE), |row| {
            let level =
                LogLevel::parse(&row.get::<_, String>("level")?).ok_or_else(|| unreadable("level", "no level"))?;
            let line = LogLine {
                attempt: row.get("attempt")?,
                level,
                message: row.get("message")?,
                timestamp: timestamp(row.get("at")?),
            };
            Ok((row.get("id")?, line))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let next = rows.last().map_or(cursor, |(id, _)| *id);
    Ok((rows.into_iter().map(|(_, line)| line).collect(), next))
}

pub(super) fn events(
    connection: &mut Connection,
    run_id: FlowRunId,
    cursor: EventCursor,
) -> Result<(Vec<FlowRunEvent>, EventCursor), Fault> {
    // One transaction: a final state is never read without the log lines before it.
    let transaction = connection.transaction()?;
    let run = read_run(&transaction, run_id)?.flow_run;
    let (lines, log) = if cursor.without_logs {
        (Vec::new(), cursor.log)
    } else {
        logs(&transaction, run_id, cursor.log)?
    };
    let mut next = EventCursor {
        log,
        has_ended: false,
        ..cursor
    };
    let is_last_page = i64::try_from(lines.len()).unwrap_or(LOG_PAGE) < LOG_PAGE;
    let mut events: Vec<_> = lines
        .into_iter()
        .map(|log| (log.timestamp, FlowRunEvent::Log { log }))
        .collect();
    if is_last_page {
        next.has_ended = run.state.state_type.is_final();
        let progress_at: i64 = transaction
            .prepare_cached("SELECT progress_at FROM flow_run WHERE id = ?1")?
            .query_row([run_id.to_string()], |row| row.get(0))?;
        let is_newer = !cursor.without_progress && progress_at > cursor.progress_ms;
        if let Some(progress) = run.progress.filter(|_| is_newer) {
            next.progress_ms = progress_at;
            events.push((progress.timestamp, FlowRunEvent::Progress { progress }));
        }
        for (sequence, attempt, state) in states(&transaction, run_id, cursor.state)? {
            next.state = sequence;
            events.push((state.timestamp, FlowRunEvent::State { state, attempt }));
        }
        // Stable: at one moment, logs come before progress, and progress before the state that it led to.
        events.sort_by_key(|(timestamp, _)| *timestamp);
    }
    Ok((events.into_iter().map(|(_, event)| event).collect(), next))
}

pub(super) fn lineage(connection: &mut Connection) -> Result<AssetLineage, Fault> {
    let transaction = connection.transaction()?;
    let mut upstreams = transaction
        .prepare("SELECT key, version FROM asset_upstream WHERE materialization_version = ?1 ORDER BY key")?;
    let assets: Vec<Asset> = transaction
        .prepare(
            "SELECT version, key, flow_run_id, flow_name, metadata, at FROM asset_materialization AS newest
             WHERE version = (SELECT max(version) FROM asset_materialization WHERE key = newest.key)",
        )?
        .query_map([], |row| {
            let version: i64 = row.get("version")?;
            let upstreams = upstreams
                .query_map([version], |row| {
                    Ok(Upstream {
                        key: row.get(0)?,
                        version: row.get(1)?,
                    })
                })?
                .collect::<rusqlite::Result<_>>()?;
            Ok(Asset {
                key: row.get("key")?,
                version,
                flow_run_id: id(row, "flow_run_id")?,
                flow_name: row.get("flow_name")?,
                materialized_at: timestamp(row.get("at")?),
                metadata: json(row, "metadata")?,
                upstreams,
                stale_because: Vec::new(),
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(AssetLineage::new(assets))
}

pub(super) fn work_pool(connection: &mut Connection, peers: &Peers) -> Result<WorkPool, Fault> {
    let transaction = connection.transaction()?;
    let workers = transaction
        .prepare("SELECT name, process, version, started_at FROM worker ORDER BY started_at, name")?
        .query_map([], |row| {
            let peer: Peer = json(row, "process")?;
            Ok(WorkerRecord {
                name: row.get("name")?,
                is_alive: peers.lives(&peer),
                process: peer.process,
                version: row.get("version")?,
                started_at: timestamp(row.get("started_at")?),
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut waiting = Vec::new();
    for queue in WorkQueue::ALL {
        let count = transaction.query_row(
            "SELECT count(*) FROM flow_run WHERE state_type = 'SCHEDULED' AND work_queue = ?1",
            [queue.as_str()],
            |row| row.get(0),
        )?;
        waiting.push((queue, count));
    }
    let active = transaction.query_row(
        "SELECT count(*) FROM flow_run WHERE state_type IN ('PENDING', 'RUNNING', 'CANCELLING')",
        [],
        |row| row.get(0),
    )?;
    Ok(transaction.query_row(
        "SELECT name, concurrency_limit, is_paused FROM work_pool WHERE name = ?1",
        [WORK_POOL],
        |row| {
            Ok(WorkPool {
                name: row.get(0)?,
                concurrency_limit: row.get(1)?,
                is_paused: row.get(2)?,
                active,
                waiting,
                workers,
            })
        },
    )?)
}
