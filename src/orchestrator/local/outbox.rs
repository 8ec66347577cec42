//! Somebody else who is to hear what becomes of runs: told where it happens, by the transaction that makes it so, so that
//! nothing can be known here and forgotten to be told.

use std::fmt;

use rusqlite::Transaction;
use uuid::Uuid;

use super::store::Fault;
use crate::domain::flow_run::LogLine;
use crate::domain::id::FlowRunId;

/// What became of a run; its row is there.
#[derive(Debug, Clone, Copy)]
pub(in crate::orchestrator) enum News<'a> {
    /// It is in another state.
    State,
    /// This task run of it is in another state.
    TaskRun(Uuid),
    /// It left this artifact.
    Artifact(i64),
    /// It made this version of an asset.
    Asset(i64),
    /// It said this.
    Log(&'a LogLine),
}

/// Takes news in the transaction that they come from.
pub(in crate::orchestrator) trait Outbox: fmt::Debug + Send + Sync {
    fn post(&self, transaction: &Transaction<'_>, run: FlowRunId, news: News<'_>) -> Result<(), Fault>;
}

/// Who hears of a change.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::orchestrator) enum Tell<'a> {
    /// Nobody but this queue: there is nobody else, or it is known there already.
    #[default]
    Nobody,
    /// Who reads this outbox.
    Reader(&'a dyn Outbox),
}

impl Tell<'_> {
    pub(super) fn post(self, transaction: &Transaction<'_>, run: FlowRunId, news: News<'_>) -> Result<(), Fault> {
        match self {
            Self::Nobody => Ok(()),
            Self::Reader(outbox) => outbox.post(transaction, run, news),
        }
    }
}
