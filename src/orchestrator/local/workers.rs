//! The work pool and its workers. A record belongs to a process: workers in several containers may have one name, and each
//! is seen, and withdrawn, for itself.

use rusqlite::Connection;

use super::peers::{Peer, Peers};
use super::rows::{json, timestamp};
use super::store::{Fault, begin};
use super::waiting;
use crate::domain::flow::{WORK_POOL, default_background_limit};
use crate::orchestrator::claims::PoolLimits;
use crate::orchestrator::queue::{WorkPool, WorkerRecord};

/// See [`crate::orchestrator::claims::Claims::register_worker`].
pub(super) fn register(
    connection: &mut Connection,
    peers: &Peers,
    worker: &WorkerRecord,
    limits: PoolLimits,
) -> Result<(), Fault> {
    let peer = Peer {
        process: worker.process.clone(),
        ..peers.own()?
    };
    peers.sweep(connection)?;
    let transaction = begin(connection)?;
    // Whoever had the name and has died.
    peers.withdraw(&transaction, &worker.name)?;
    transaction
        .prepare_cached("INSERT INTO worker (name, life, process, version, started_at) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute((
            &worker.name,
            peer.life.to_string(),
            peer.to_json(),
            &worker.version,
            worker.started_at.as_millisecond(),
        ))?;
    if let Some(limit) = limits.all {
        set_limit(&transaction, limit)?;
    }
    if let Some(limit) = limits.background {
        transaction
            .prepare_cached("UPDATE work_pool SET background_limit = ?2 WHERE name = ?1")?
            .execute((WORK_POOL, limit))?;
    }
    transaction.commit()?;
    Ok(())
}

/// See [`crate::orchestrator::claims::Claims::deregister_worker`].
pub(super) fn deregister(connection: &mut Connection, peers: &Peers, name: &str) -> Result<(), Fault> {
    let transaction = begin(connection)?;
    peers.withdraw(&transaction, name)?;
    transaction.commit()?;
    Ok(())
}

/// See [`crate::orchestrator::queue::Queue::set_paused`].
pub(super) fn set_paused(connection: &Connection, is_paused: bool) -> Result<(), Fault> {
    connection
        .prepare_cached("UPDATE work_pool SET is_paused = ?2 WHERE name = ?1")?
        .execute((WORK_POOL, is_paused))?;
    Ok(())
}

/// See [`crate::orchestrator::queue::Queue::set_concurrency_limit`].
pub(super) fn set_limit(connection: &Connection, limit: u32) -> Result<(), Fault> {
    connection
        .prepare_cached("UPDATE work_pool SET concurrency_limit = ?2 WHERE name = ?1")?
        .execute((WORK_POOL, limit))?;
    Ok(())
}

/// See [`crate::orchestrator::queue::Queue::read_work_pool`].
pub(super) fn pool(connection: &mut Connection, peers: &Peers) -> Result<WorkPool, Fault> {
    let transaction = connection.transaction()?;
    let mut workers: Vec<WorkerRecord> = transaction
        .prepare_cached("SELECT name, process, version, started_at FROM worker")?
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
    workers.sort_by(|a, b| (a.started_at, &a.name).cmp(&(b.started_at, &b.name)));
    let waiting = waiting::counts(&transaction)?;
    let active = transaction.query_row(
        "SELECT count(*) FROM flow_run INDEXED BY flow_run_active WHERE state_type IN ('PENDING', 'RUNNING', 'CANCELLING')",
        [],
        |row| row.get(0),
    )?;
    Ok(transaction.query_row(
        "SELECT name, concurrency_limit, is_paused, background_limit FROM work_pool WHERE name = ?1",
        [WORK_POOL],
        |row| {
            let concurrency_limit = row.get(1)?;
            let background_limit: Option<u32> = row.get(3)?;
            Ok(WorkPool {
                name: row.get(0)?,
                concurrency_limit,
                background_limit: background_limit.unwrap_or_else(|| default_background_limit(concurrency_limit)),
                is_paused: row.get(2)?,
                active,
                waiting,
                workers,
            })
        },
    )?)
}
