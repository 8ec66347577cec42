//! The processes that share this queue, told alive or dead by their locks below `locks/` beside queue.db.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, Transaction};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::store::Fault;
use crate::domain::error::OrchestratorError;
use crate::domain::lease::Lease;
use crate::process::identity::ProcessIdentity;
use crate::process::life::{Life, bury};

const PROCESS: &str = "process-";
const ATTEMPT: &str = "attempt-";

/// A process that holds something of the queue: who it is to those of its namespace, and what it is alive by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::orchestrator) struct Peer {
    #[serde(flatten)]
    pub(in crate::orchestrator) process: ProcessIdentity,
    /// Names its lock. What an earlier version wrote has none, and its process counts as dead.
    #[serde(default)]
    pub(in crate::orchestrator) life: Uuid,
}

impl Peer {
    /// As it is stored.
    pub(in crate::orchestrator) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain values")
    }
}

/// The locks of one queue.
#[derive(Debug)]
pub(in crate::orchestrator) struct Peers {
    folder: PathBuf,
    own: Uuid,
    /// Held from the first time that this process takes something.
    held: Mutex<Option<Life>>,
}

impl Peers {
    pub(super) fn new(home: &Path) -> Self {
        Self {
            folder: home.join("locks"),
            own: Uuid::now_v7(),
            held: Mutex::default(),
        }
    }

    /// This process, whose lock is held from now on: also again, if somebody removed its file.
    pub(in crate::orchestrator) fn own(&self) -> Result<Peer, Fault> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if !held.as_ref().is_some_and(Life::is_in_place) {
            let path = self.process_lock(self.own);
            *held = Some(Life::begin(&path).map_err(|error| OrchestratorError::StoreIo {
                path,
                problem: "a worker tells by a lock on it that it lives, and it could not be locked: set CAPTIONACC_HOME to \
                          a folder whose file system has locks"
                    .to_owned(),
                source: Box::new(error),
            })?);
        }
        Ok(Peer {
            process: ProcessIdentity::own(),
            life: self.own,
        })
    }

    /// Whether it lives, in whatever namespace. Of what is dead nothing is left lying.
    pub(in crate::orchestrator) fn lives(&self, peer: &Peer) -> bool {
        !bury(&self.process_lock(peer.life))
    }

    /// The file whose lock the child of an attempt holds.
    pub(super) fn attempt_lock(&self, lease: Lease) -> PathBuf {
        self.folder
            .join(format!("{ATTEMPT}{}.{}", lease.flow_run_id, lease.fencing_token))
    }

    /// A file for a lock that another system's bookkeeping names.
    pub(super) fn lock_file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn process_lock(&self, life: Uuid) -> PathBuf {
        self.folder.join(format!("{PROCESS}{life}"))
    }

    /// Removes the records of workers of this name that are this process's or have died.
    pub(super) fn withdraw(&self, transaction: &Transaction<'_>, name: &str) -> Result<(), Fault> {
        let lives: Vec<String> = transaction
            .prepare_cached("SELECT life FROM worker WHERE name = ?1")?
            .query_map([name], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for life in lives {
            let is_over = life
                .parse()
                .map_or(true, |life| life == self.own || bury(&self.process_lock(life)));
            if is_over {
                transaction
                    .prepare_cached("DELETE FROM worker WHERE name = ?1 AND life = ?2")?
                    .execute((name, life))?;
            }
        }
        Ok(())
    }

    /// Removes what processes left that died before anything named them. The file of an attempt that a worker holds is
    /// not looked at: its child may not have come to lock it yet.
    pub(super) fn sweep(&self, connection: &Connection) -> Result<(), Fault> {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_dead = if let Some((run, token)) = name.strip_prefix(ATTEMPT).and_then(|name| name.split_once('.')) {
                connection
                    .prepare_cached(
                        "SELECT NOT EXISTS (SELECT 1 FROM flow_run WHERE id = ?1 AND fencing_token = ?2
                           AND state_type IN ('PENDING', 'RUNNING', 'CANCELLING'))",
                    )?
                    .query_row((run, token.parse::<i64>().unwrap_or(0)), |row| row.get(0))?
            } else {
                name.starts_with(PROCESS)
            };
            if is_dead {
                bury(&entry.path());
            }
        }
        Ok(())
    }
}
