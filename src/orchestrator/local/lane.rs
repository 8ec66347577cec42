//! Which run is next, and which ones wait behind another for the same video (or annotations.db) and flow.
//!
//! One run at a time for a video and flow. Half a million of them may wait for one video, and a claim must not look at each:
//! so those that wait behind another are put aside (`is_behind`), and the end of the one before lets one of them through
//! (`rows::enter`). What is not put aside and turns out to be busy is passed over. It stays true that of the runs that share
//! a video, one is at work, or is looked at by claims from when it is due: none is forgotten.

use std::collections::BTreeSet;

use rusqlite::{Connection, Transaction};

use super::entries;
use super::rows::parse_id;
use super::store::Fault;
use crate::domain::flow::{WORK_POOL, WorkQueue};
use crate::domain::id::FlowRunId;

/// So many runs of busy videos are passed over before they are put aside.
const PASSED_OVER: usize = 64;
/// Most runs that one transaction puts aside.
const PUT_ASIDE: usize = 1000;

/// What is next.
#[derive(Debug)]
pub(super) enum Next {
    /// Nothing that may be claimed now.
    Nothing,
    /// This run.
    Run(FlowRunId),
    /// Too many runs of busy videos stand before it.
    Crowded { flow_name: String, priority: u8 },
}

/// The next run of one of these flows, if the pool has a slot: by queue, then by time.
pub(super) fn next(connection: &Connection, flow_names: &BTreeSet<String>, now: i64) -> Result<Next, Fault> {
    for priority in open_priorities(connection)? {
        let mut first: Option<(i64, String)> = None;
        for flow_name in flow_names {
            let seen = walk(connection, flow_name, priority, now, PASSED_OVER)?;
            if seen.free.is_none() && seen.busy.len() >= PASSED_OVER {
                let flow_name = flow_name.clone();
                return Ok(Next::Crowded { flow_name, priority });
            }
            first = first.into_iter().chain(seen.free).min();
        }
        if let Some((_, id)) = first {
            return Ok(Next::Run(parse_id("id", &id)?));
        }
    }
    Ok(Next::Nothing)
}

/// Whether [`next`] is worth asking: a run of one of these flows is due, and the pool has a slot for it. Four statements at most,
/// however many flows there are: workers ask in every turn, and most find nothing.
pub(super) fn may_be_next(connection: &Connection, flow_names: &BTreeSet<String>, now: i64) -> Result<bool, Fault> {
    let is_due: bool = connection
        .prepare_cached(IS_DUE)?
        .query_row((names(flow_names), priorities(), now), |row| row.get(0))?;
    if !is_due {
        return Ok(false);
    }
    // The answer above holds for all queues; where not all are open, it is asked of those that are.
    let open = open_priorities(connection)?;
    if open.is_empty() || open.len() == WorkQueue::ALL.len() {
        return Ok(!open.is_empty());
    }
    Ok(connection
        .prepare_cached(IS_DUE)?
        .query_row((names(flow_names), numbers(&open), now), |row| row.get(0))?)
}

/// Whether a run of these flows and priorities is due.
const IS_DUE: &str = "SELECT EXISTS (SELECT 1 FROM json_each(?1) AS flow, json_each(?2) AS queue WHERE EXISTS (
   SELECT 1 FROM flow_run
   WHERE state_type = 'SCHEDULED' AND is_behind = 0 AND flow_name = flow.value AND priority = queue.value
     AND scheduled_at <= ?3))";

/// Names as a statement takes them.
pub(super) fn names(flow_names: &BTreeSet<String>) -> String {
    serde_json::to_string(flow_names).expect("names are text")
}

/// The priorities of the queues as a statement takes them.
pub(super) fn priorities() -> String {
    numbers(&WorkQueue::ALL.map(WorkQueue::priority))
}

fn numbers(priorities: &[u8]) -> String {
    // A list of bytes would be text to serde.
    format!("{priorities:?}")
}

/// Priorities of the queues whose next run may start now, the first first. Runs for which nobody waits leave a slot for a
/// person.
fn open_priorities(connection: &Connection) -> Result<Vec<u8>, Fault> {
    let (is_paused, limit): (bool, u32) = connection
        .prepare_cached("SELECT is_paused, concurrency_limit FROM work_pool WHERE name = ?1")?
        .query_row([WORK_POOL], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if is_paused || entries::held(connection)? >= limit {
        return Ok(Vec::new());
    }
    let is_full = entries::held_in_background(connection)? >= entries::background_limit(connection, limit)?;
    let is_open = |queue: &WorkQueue| !(is_full && *queue == WorkQueue::Background);
    let mut open: Vec<u8> = WorkQueue::ALL
        .into_iter()
        .filter(is_open)
        .map(WorkQueue::priority)
        .collect();
    open.sort_unstable();
    Ok(open)
}

struct Seen {
    /// When it was due, and its id.
    free: Option<(i64, String)>,
    /// Rows before it.
    busy: Vec<i64>,
}

/// The first run of this flow and priority whose video is not busy, and those before it, at most `most` of them.
fn walk(connection: &Connection, flow_name: &str, priority: u8, now: i64, most: usize) -> Result<Seen, Fault> {
    let mut busy = Vec::new();
    let mut due = connection.prepare_cached(
        "SELECT candidate.rowid, candidate.scheduled_at, candidate.id, EXISTS (
           SELECT 1 FROM flow_run AS active INDEXED BY flow_run_active
           WHERE active.state_type IN ('PENDING', 'RUNNING', 'CANCELLING')
             AND active.flow_name = candidate.flow_name
             AND (active.video_id = candidate.video_id OR active.db_path = candidate.db_path))
         FROM flow_run AS candidate
         WHERE candidate.state_type = 'SCHEDULED' AND candidate.is_behind = 0
           AND candidate.flow_name = ?1 AND candidate.priority = ?2 AND candidate.scheduled_at <= ?3
         ORDER BY candidate.scheduled_at, candidate.id",
    )?;
    let mut rows = due.query((flow_name, priority, now))?;
    while busy.len() < most
        && let Some(row) = rows.next()?
    {
        if !row.get::<_, bool>(3)? {
            let free = Some((row.get(1)?, row.get(2)?));
            return Ok(Seen { free, busy });
        }
        busy.push(row.get(0)?);
    }
    Ok(Seen { free: None, busy })
}

/// Puts the runs aside that [`next`] would pass over; each of them is let through after the run that is at work now.
pub(super) fn put_aside(transaction: &Transaction<'_>, flow_name: &str, priority: u8, now: i64) -> Result<(), Fault> {
    let mut put_aside = transaction.prepare_cached("UPDATE flow_run SET is_behind = 1 WHERE rowid = ?1")?;
    for row in walk(transaction, flow_name, priority, now, PUT_ASIDE)?.busy {
        put_aside.execute([row])?;
    }
    Ok(())
}

/// Whether a new run is to wait behind another one: one at work, one that is due, or those that wait behind already.
pub(super) fn is_taken(
    connection: &Connection,
    flow_name: &str,
    video_id: Option<&str>,
    db_path: Option<&str>,
    now: i64,
) -> Result<bool, Fault> {
    // In one statement, which goes no further than needed. Of those that are due a look at some is enough: not to put the new
    // one aside does no harm.
    Ok(connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM flow_run INDEXED BY flow_run_active WHERE state_type IN ('PENDING', 'RUNNING', 'CANCELLING')
                 AND flow_name = ?1 AND (video_id = ?2 OR db_path = ?3))
               OR EXISTS (SELECT 1 FROM flow_run INDEXED BY flow_run_behind_video WHERE state_type = 'SCHEDULED' AND is_behind = 1
                 AND flow_name = ?1 AND video_id = ?2)
               OR EXISTS (SELECT 1 FROM (SELECT scheduled_at FROM flow_run INDEXED BY flow_run_equal WHERE state_type = 'SCHEDULED'
                 AND flow_name = ?1 AND video_id = ?2 LIMIT 10) WHERE scheduled_at <= ?4)",
        )?
        .query_row((flow_name, video_id, db_path, now), |row| row.get(0))?)
}
