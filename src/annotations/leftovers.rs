//! Removes what a killed attempt has left in annotations.db, once no attempt of its flow is there to do so.
//!
//! What is left are shadows (`exchange.rs`): they make the file larger, as much as all frames of the video do, and nothing else.
//! The next attempt removes them, and this the worker, where no attempt follows.

use std::path::Path;

use super::commit::{CLEARING_TRIES, let_others_in, tables_of};
use super::database::Database;
use super::error::AnnotationsError;
use super::exchange::{Deleted, delete_some, leftovers};
use super::pace::{MAX_BATCH_BYTES, Pace};
use super::schema;
use super::status::{Holder, Row};
use crate::domain::database::DatabaseIdentity;
use crate::domain::flow::StatusTable;

const DOING: &str = "removing what an attempt has left";
/// How long a lock is waited for at the beginning.
const BUSY_TIMEOUT_MS: u64 = 10_000;

/// Removes the shadows of the tables that runs with this status table write, in short transactions. Ends early, and leaves the
/// rest to the next attempt: once the status row names a process, once `is_free` says that there may be one, while others
/// keep the file locked. Says how many tables are gone.
///
/// # Errors
/// The cancellations of [`Annotations`](super::Annotations), and those of writing.
pub fn remove_shadows(
    path: &Path,
    table: StatusTable,
    identity: Option<DatabaseIdentity>,
    is_free: &dyn Fn() -> bool,
) -> Result<usize, AnnotationsError> {
    let database = Database::open(path, identity, BUSY_TIMEOUT_MS)?;
    let mut left = Vec::new();
    for name in tables_of(table) {
        left.extend(database.read(DOING, |sqlite| leftovers(sqlite, name))?);
    }
    if left.is_empty() {
        return Ok(0);
    }
    database.set_for_batches(4 * MAX_BATCH_BYTES)?;
    let mut gone = 0;
    let mut tries = 0;
    for shadow in &left {
        let mut pace = Pace::new();
        loop {
            // An attempt whose row the app has just reset goes on, and is not named for a moment.
            if !is_free() {
                return Ok(gone);
            }
            let bytes = pace.batch_bytes();
            let deleted = database.try_write(DOING, |sqlite| {
                if schema::is_deleted(sqlite)? {
                    let path = database.path().to_owned();
                    return Err(AnnotationsError::Deleted { path }.into());
                }
                if Row::of(sqlite, table)?.holder()? != Holder::Nobody {
                    return Ok(None);
                }
                delete_some(sqlite, shadow, bytes).map(Some)
            })?;
            match deleted {
                Some((None, _)) => return Ok(gone),
                Some((Some(deleted), held)) => {
                    let_others_in(&database, held);
                    match deleted {
                        Deleted::Some(bytes) => pace.learn(bytes, held),
                        Deleted::All => break,
                    }
                }
                None if tries == CLEARING_TRIES => return Ok(gone),
                None => tries += 1,
            }
        }
        gone += 1;
    }
    Ok(gone)
}
