//! What readers ask of queue.db.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, Params, Transaction};

use super::rows::{id, json, now_ms, read_run, state_name, timestamp, unreadable};
use super::store::Fault;
use crate::domain::asset::{Asset, AssetLineage, LineageOf, Upstream, annotations, video};
use crate::domain::flow::WorkQueue;
use crate::domain::flow_run::{
    Artifact, ArtifactType, EventCursor, FlowRun, FlowRunDetails, LogLevel, LogLine, State, TaskRun,
};
use crate::domain::id::FlowRunId;
use crate::domain::state::StateType;
use crate::orchestrator::events::{EventPage, Pages, merge};
use crate::orchestrator::queue::FlowRunFilter;

/// Most log lines in one reading.
const LOG_PAGE: u32 = 1000;

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
             FROM task_run WHERE flow_run_id = ?1 ORDER BY attempt, rowid",
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

/// Runs, newest first. Each question reads one index from its end: no more than it returns, unless a video has many runs
/// of other flows and states.
pub(super) fn list(connection: &mut Connection, filter: &FlowRunFilter) -> Result<Vec<FlowRun>, Fault> {
    let connection = &connection.transaction()?;
    let before = filter
        .before
        .map_or_else(|| "~".to_owned(), |before| before.to_string());
    let types = &filter.state_types;
    let ids = if let Some(video_id) = &filter.video_id {
        let types = serde_json::to_string(types).expect("states are plain words");
        ids(
            connection,
            "SELECT id FROM flow_run WHERE video_id = ?3 AND id < ?1 AND coalesce(?4, flow_name) = flow_name
               AND (?5 = '[]' OR state_type IN (SELECT value FROM json_each(?5))) ORDER BY id DESC LIMIT ?2",
            (&before, filter.limit, video_id, &filter.flow_name, types),
        )?
    } else if filter.flow_name.is_none() && types.is_empty() {
        ids(
            connection,
            "SELECT id FROM flow_run WHERE id < ?1 ORDER BY id DESC LIMIT ?2",
            (&before, filter.limit),
        )?
    } else {
        let flow_names = match &filter.flow_name {
            Some(flow_name) => vec![flow_name.clone()],
            None => flow_names(connection)?,
        };
        let types = if types.is_empty() { &StateType::ALL[..] } else { types };
        let mut newest = BTreeSet::new();
        for (flow_name, state_type) in flow_names
            .iter()
            .flat_map(|name| types.iter().map(move |of| (name, of)))
        {
            newest.extend(ids(
                connection,
                "SELECT id FROM flow_run WHERE flow_name = ?3 AND state_type = ?4 AND id < ?1 ORDER BY id DESC LIMIT ?2",
                (&before, filter.limit, flow_name, state_type.as_str()),
            )?);
        }
        newest.into_iter().rev().take(filter.limit as usize).collect()
    };
    let mut runs = Vec::new();
    for id in ids {
        runs.push(read_run(connection, id)?.flow_run);
    }
    Ok(runs)
}

fn ids(connection: &Connection, sql: &str, parameters: impl Params) -> Result<Vec<FlowRunId>, Fault> {
    Ok(connection
        .prepare_cached(sql)?
        .query_map(parameters, |row| id(row, "id"))?
        .collect::<rusqlite::Result<_>>()?)
}

/// The flows of which there are runs, one look at the index for each.
fn flow_names(connection: &Connection) -> Result<Vec<String>, Fault> {
    let mut names: Vec<String> = Vec::new();
    let mut next = connection.prepare_cached("SELECT min(flow_name) FROM flow_run WHERE flow_name > ?1")?;
    while let Some(name) = next.query_row([names.last().map_or("", String::as_str)], |row| row.get(0))? {
        names.push(name);
    }
    Ok(names)
}

/// See [`crate::orchestrator::queue::Queue::oldest_waiting`]: one look at the index for each flow and queue.
pub(super) fn oldest_waiting(connection: &mut Connection) -> Result<Option<FlowRun>, Fault> {
    let connection = &connection.transaction()?;
    let now = now_ms();
    let mut oldest: Option<(i64, FlowRunId)> = None;
    for flow_name in flow_names(connection)? {
        for queue in WorkQueue::ALL {
            let first = connection
                .prepare_cached(
                    "SELECT scheduled_at, id FROM flow_run INDEXED BY flow_run_ready
                     WHERE state_type = 'SCHEDULED' AND is_behind = 0 AND flow_name = ?1 AND priority = ?2
                     ORDER BY scheduled_at, id LIMIT 1",
                )?
                .query_row((&flow_name, queue.priority()), |row| Ok((row.get(0)?, id(row, "id")?)))
                .optional()?;
            let is_older = |found: &(i64, FlowRunId)| found.0 <= now && oldest.is_none_or(|oldest| *found < oldest);
            if let Some(first) = first.filter(is_older) {
                oldest = Some(first);
            }
        }
    }
    oldest.map(|(_, id)| Ok(read_run(connection, id)?.flow_run)).transpose()
}

pub(super) fn logs(connection: &Connection, run_id: FlowRunId, cursor: i64) -> Result<(Vec<LogLine>, i64), Fault> {
    // Tells an unknown run from one without logs.
    read_run(connection, run_id)?;
    let rows = log_page(connection, run_id, cursor)?;
    let next = rows.last().map_or(cursor, |(id, _)| *id);
    Ok((rows.into_iter().map(|(_, line)| line).collect(), next))
}

fn log_page(connection: &Connection, run_id: FlowRunId, cursor: i64) -> Result<Vec<(i64, LogLine)>, Fault> {
    Ok(connection
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
        .collect::<rusqlite::Result<_>>()?)
}

pub(super) fn events(connection: &mut Connection, run_id: FlowRunId, cursor: EventCursor) -> Result<EventPage, Fault> {
    // One transaction: a final state is never read without the log lines before it.
    let transaction = connection.transaction()?;
    let run = read_run(&transaction, run_id)?.flow_run;
    let lines = if cursor.without_logs {
        Vec::new()
    } else {
        log_page(&transaction, run_id, cursor.log)?
    };
    let progress_at: i64 = transaction
        .prepare_cached("SELECT progress_at FROM flow_run WHERE id = ?1")?
        .query_row([run_id.to_string()], |row| row.get(0))?;
    let pages = Pages {
        log: lines.last().map_or(cursor.log, |(number, _)| *number),
        is_full: lines.len() >= LOG_PAGE as usize,
        lines,
        progress: run.progress.map(|progress| (progress_at, progress)),
        states: states(&transaction, run_id, cursor.state)?,
        has_ended: run.state.state_type.is_final(),
    };
    Ok(merge(cursor, pages))
}

/// Every asset with its newest materialization.
pub(super) fn lineage(connection: &mut Connection) -> Result<AssetLineage, Fault> {
    let transaction = connection.transaction()?;
    let newest = "SELECT version, key, flow_run_id, flow_name, metadata, at
         FROM asset_materialization INDEXED BY asset_materialization_newest WHERE is_newest = 1";
    Ok(AssetLineage::new(assets(&transaction, newest, [])?))
}

/// Some of them. What they were made from is read along, because it tells whether they are stale; nothing else is.
pub(super) fn lineage_of(connection: &mut Connection, which: &LineageOf) -> Result<AssetLineage, Fault> {
    let transaction = connection.transaction()?;
    let (runs, film, prefix, since) = match which {
        LineageOf::Runs(ids) => {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            (
                Some(serde_json::to_string(&ids).expect("ids are text")),
                None,
                None,
                None,
            )
        }
        LineageOf::Video(id) => (None, Some(video(id)), Some(annotations(id, "")), None),
        LineageOf::Newest(most) => (None, None, None, Some(version_of_newest(&transaction, *most)?)),
    };
    // The first text that comes after all that begin so.
    let end = prefix
        .as_ref()
        .map(|prefix| format!("{}0", prefix.trim_end_matches('/')));
    let newest = "WITH RECURSIVE
           wanted (key) AS (
             SELECT key FROM asset_materialization
               WHERE flow_run_id IN (SELECT value FROM json_each(?1)) AND is_newest = 1
             UNION ALL SELECT key FROM asset_materialization WHERE key = ?2 AND is_newest = 1
             UNION ALL SELECT key FROM asset_materialization WHERE key >= ?3 AND key < ?4 AND is_newest = 1
             UNION ALL SELECT key FROM asset_materialization WHERE version >= ?5 AND is_newest = 1
             UNION SELECT made.key FROM wanted
               CROSS JOIN asset_upstream AS upstream ON upstream.key = wanted.key
               CROSS JOIN asset_materialization AS made ON made.version = upstream.materialization_version
               WHERE made.is_newest = 1 AND ?3 IS NOT NULL),
           needed (key) AS (
             SELECT key FROM wanted
             UNION SELECT upstream.key FROM needed
               CROSS JOIN asset_materialization AS made ON made.key = needed.key AND made.is_newest = 1
               CROSS JOIN asset_upstream AS upstream ON upstream.materialization_version = made.version)
         SELECT made.version, made.key, flow_run_id, flow_name, metadata, at
         FROM needed CROSS JOIN asset_materialization AS made ON made.key = needed.key AND made.is_newest = 1";
    let read = assets(&transaction, newest, (runs, film, prefix, end, since))?;
    let mut lineage = AssetLineage::new(read).of(which);
    if matches!(which, LineageOf::Newest(_)) {
        lineage.left_out = count_assets(&transaction)?.saturating_sub(lineage.assets.len());
    }
    Ok(lineage)
}

/// The version of the last of so many assets that were made last.
fn version_of_newest(transaction: &Transaction<'_>, most: u32) -> Result<i64, Fault> {
    Ok(transaction
        .prepare_cached(
            "SELECT coalesce(min(version), 0) FROM (
               SELECT version FROM asset_materialization WHERE is_newest = 1 ORDER BY version DESC LIMIT ?1)",
        )?
        .query_row([most], |row| row.get(0))?)
}

/// How many assets there are.
fn count_assets(connection: &Connection) -> Result<usize, Fault> {
    let number: i64 = connection
        .prepare_cached(
            "SELECT count(*) FROM asset_materialization INDEXED BY asset_materialization_newest WHERE is_newest = 1",
        )?
        .query_row([], |row| row.get(0))?;
    Ok(usize::try_from(number).unwrap_or(0))
}

fn assets(transaction: &Transaction<'_>, newest: &str, parameters: impl Params) -> Result<Vec<Asset>, Fault> {
    let mut upstreams = transaction
        .prepare_cached("SELECT key, version FROM asset_upstream WHERE materialization_version = ?1 ORDER BY key")?;
    Ok(transaction
        .prepare_cached(newest)?
        .query_map(parameters, |row| {
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
        .collect::<rusqlite::Result<_>>()?)
}
