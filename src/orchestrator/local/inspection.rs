//! A look at the whole of queue.db.

use std::path::PathBuf;

use rusqlite::Connection;

use super::store::Fault;
use crate::domain::error::OrchestratorError;

/// What was found in a queue.db that is sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreInspection {
    /// The version of its schema.
    pub schema_version: i64,
    /// `wal`, unless the file lies where `SQLite` has no shared memory (some network file systems).
    pub journal_mode: String,
    /// Size of its pages together.
    pub bytes: u64,
    /// Flow runs that it holds.
    pub flow_runs: u64,
    /// Flow runs that wait for a Prefect server to come back.
    pub stored_flow_runs: u64,
    /// Messages that a server must still hear.
    pub untold: u64,
}

/// `PRAGMA quick_check` and `foreign_key_check` find nothing, or this is an error.
pub(super) fn inspect(connection: &Connection, path: PathBuf) -> Result<StoreInspection, Fault> {
    let problem: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    let broken_references: i64 =
        connection.query_row("SELECT count(*) FROM pragma_foreign_key_check()", [], |row| row.get(0))?;
    let problem = match (problem.as_str(), broken_references) {
        ("ok", 0) => None,
        ("ok", count) => Some(format!("{count} rows refer to rows that are not there")),
        (problem, _) => Some(problem.replace('\n', "; ")),
    };
    if let Some(problem) = problem {
        let problem = format!("{problem}: restore it from a backup, or move it away to start with an empty queue");
        return Err(OrchestratorError::StoreCorrupt { path, problem }.into());
    }
    let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let whole = |number: i64| u64::try_from(number).unwrap_or(0);
    let pages = count("PRAGMA page_count")?;
    let page_bytes = count("PRAGMA page_size")?;
    Ok(StoreInspection {
        schema_version: count("PRAGMA user_version")?,
        journal_mode: connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?,
        bytes: whole(pages.saturating_mul(page_bytes)),
        flow_runs: whole(count("SELECT count(*) FROM flow_run")?),
        untold: whole(count("SELECT count(*) FROM outbox")?),
        stored_flow_runs: whole(count(
            "SELECT count(*) FROM stored_flow_run WHERE prefect_id IS NULL AND problem IS NULL",
        )?),
    })
}
