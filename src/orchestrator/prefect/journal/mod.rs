//! What this machine keeps about a Prefect server: a queue.db of this one server and pool, in which the runs that are worked
//! on here live as in the embedded orchestrator, and beside them what the server must still hear.

pub(super) mod forwarding;
pub(super) mod intents;
pub(super) mod kept;
pub(super) mod made;
pub(super) mod mail;
pub mod place;
mod posting;

use std::path::Path;
use std::sync::Arc;

use crate::domain::error::OrchestratorError;
use crate::orchestrator::local::LocalOrchestrator;
use crate::settings::prefect::PrefectSettings;

/// The journal of one server and pool.
#[derive(Clone)]
pub(super) struct Journal {
    /// The queue itself: leases, recovery, status rows, lineage.
    pub(super) local: Arc<LocalOrchestrator>,
    /// Runs that the server knows as well.
    pub(super) forwarding: forwarding::Forwarding,
    /// Runs about to be claimed.
    pub(super) intents: intents::Intents,
    /// What the server must still hear.
    pub(super) mail: mail::Mail,
    /// What runs of this home have made.
    pub(super) made: made::MadeHere,
    /// Runs that wait for the server.
    pub(super) kept: kept::KeptRuns,
}

impl Journal {
    /// Opens it below `home`.
    pub(super) async fn open(home: &Path, settings: &PrefectSettings) -> Result<Self, OrchestratorError> {
        let place = place::find(home, settings);
        let local = Arc::new(LocalOrchestrator::open_with(&place.folder, Some(Arc::new(posting::Posting))).await?);
        let journal = Self {
            forwarding: forwarding::Forwarding::of(local.clone()),
            intents: intents::Intents::of(local.clone()),
            mail: mail::Mail::of(local.clone()),
            made: made::MadeHere::of(local.clone()),
            kept: kept::KeptRuns::of(local.clone()),
            local,
        };
        for folder in place.others {
            journal.kept.bring_from(folder).await?;
        }
        Ok(journal)
    }
}
