//! Which orchestrator the settings choose.

use std::sync::Arc;

#[cfg(feature = "worker")]
use super::claims::Claims;
use super::local::LocalOrchestrator;
use super::prefect::PrefectOrchestrator;
use super::queue::Queue;
use crate::domain::error::OrchestratorError;
use crate::settings::{OrchestratorChoice, Settings};

/// Opens, for a caller, the orchestrator that the settings choose.
///
/// # Errors
/// [`OrchestratorError::Config`] if they choose Prefect and name no API, and what opening queue.db can say.
pub async fn queue(settings: &Settings) -> Result<Arc<dyn Queue>, OrchestratorError> {
    match settings.orchestrator {
        OrchestratorChoice::Embedded => Ok(Arc::new(LocalOrchestrator::open(&settings.home).await?)),
        OrchestratorChoice::Prefect => Ok(Arc::new(prefect(settings).await?)),
    }
}

/// Opens it for a worker.
///
/// # Errors
/// As [`queue`].
#[cfg(feature = "worker")]
pub async fn claims(settings: &Settings) -> Result<Arc<dyn Claims>, OrchestratorError> {
    match settings.orchestrator {
        OrchestratorChoice::Embedded => Ok(Arc::new(LocalOrchestrator::open(&settings.home).await?)),
        OrchestratorChoice::Prefect => Ok(Arc::new(prefect(settings).await?)),
    }
}

async fn prefect(settings: &Settings) -> Result<PrefectOrchestrator, OrchestratorError> {
    let prefect = settings.prefect.clone().ok_or_else(|| OrchestratorError::Config {
        origin: settings.orchestrator_reason.clone(),
        problem: "no Prefect API is configured: run captionacc setup, or set PREFECT_API_URL".to_owned(),
    })?;
    PrefectOrchestrator::open(prefect, &settings.home, settings.flows.clone()).await
}
