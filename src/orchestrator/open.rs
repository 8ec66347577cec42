//! Which orchestrator the settings choose.

use std::sync::Arc;

use super::claims::Claims;
use super::local::LocalOrchestrator;
use super::prefect::PrefectOrchestrator;
use super::queue::Queue;
use crate::domain::error::OrchestratorError;
use crate::settings::{OrchestratorChoice, Settings};

/// Opens, for a worker, the orchestrator that the settings choose.
///
/// # Errors
/// [`OrchestratorError::Config`] if they choose Prefect and name no API, and what opening queue.db can say.
pub async fn claims(settings: &Settings) -> Result<Arc<dyn Claims>, OrchestratorError> {
    match settings.orchestrator {
        OrchestratorChoice::Embedded => Ok(Arc::new(LocalOrchestrator::open(&settings.home).await?)),
        OrchestratorChoice::Prefect => {
            let prefect = settings.prefect.clone().ok_or_else(|| OrchestratorError::Config {
                origin: settings.orchestrator_reason.clone(),
                problem: "no Prefect API is configured: run npm run setup, or set PREFECT_API_URL".to_owned(),
            })?;
            let opened = PrefectOrchestrator::open(prefect, &settings.home, settings.flows.clone()).await?;
            Ok(Arc::new(opened))
        }
    }
}

/// Opens it for a caller.
///
/// # Errors
/// As [`claims`].
pub async fn queue(settings: &Settings) -> Result<Arc<dyn Queue>, OrchestratorError> {
    Ok(claims(settings).await?)
}
