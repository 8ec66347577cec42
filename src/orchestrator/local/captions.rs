//! Which captions of a run a newer run has taken.
//!
//! A run that names captions speaks for each of them, not for its video: of two runs that name the same one, the newer has
//! it, and the older goes on with its others.

use std::collections::BTreeSet;

use rusqlite::Connection;

use super::rows::path_text;
use super::store::Fault;
use crate::domain::flow_run::FlowRun;

/// The captions that newer runs of this flow on the same annotations.db name: runs that wait, are at work or have completed
/// since. What failed or was cancelled has taken nothing. Ids of a Prefect server are random: what is newer is told by time
/// first.
pub(super) fn taken(connection: &Connection, run: &FlowRun) -> Result<BTreeSet<i64>, Fault> {
    let mut taken = BTreeSet::new();
    // Found by an index each.
    for ended in ["ended_at IS NULL", "ended_at >= ?3 AND state_type = 'COMPLETED'"] {
        let mut newer = connection.prepare_cached(&format!(
            "SELECT DISTINCT caption.value FROM flow_run, json_each(flow_run.parameters, '$.caption-ids') AS caption
             WHERE db_path = ?1 AND flow_name = ?2 AND {ended} AND (created_at, flow_run.id) > (?3, ?4)
               AND caption.type = 'integer'"
        ))?;
        let ids = newer.query_map(
            (
                path_text(run),
                &run.flow_name,
                run.created_at.as_millisecond(),
                run.flow_run_id.to_string(),
            ),
            |row| row.get(0),
        )?;
        for id in ids {
            taken.insert(id?);
        }
    }
    Ok(taken)
}
