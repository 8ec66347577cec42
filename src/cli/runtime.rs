//! What every command needs around its work: where it was called, an event loop, the orchestrator.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::builder::TypedValueParser;

use super::failure::Failure;
use crate::domain::error::OrchestratorError;
use crate::domain::trace::{self, TraceContext};
use crate::orchestrator;
use crate::orchestrator::queue::Queue;
use crate::settings::Settings;
use crate::settings::table::LIMIT;

/// How long a collector may take for the spans of a command's calls, at its end.
pub(super) const LAST_SPAN_TIMEOUT: Duration = Duration::from_secs(1);

/// Against which paths of the command line are meant.
pub(super) fn working_directory() -> Result<PathBuf, Failure> {
    Ok(std::env::current_dir().map_err(|error| OrchestratorError::Config {
        origin: "working directory".to_owned(),
        problem: format!("it cannot be read: {error}"),
    })?)
}

/// The span that this program was started in, if whoever started it has said so.
pub(super) fn surrounding_trace() -> Option<TraceContext> {
    let [parent, _] = trace::VARIABLES;
    std::env::var(parent).ok()?.parse().ok()
}

/// Runs `work` with the orchestrator that the settings choose.
pub(super) fn with_orchestrator<T>(
    settings: &Settings,
    work: impl AsyncFnOnce(Arc<dyn Queue>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    block_on(async { work(orchestrator::open::queue(settings).await?).await })
}

/// Runs `work` on an event loop of its own.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| OrchestratorError::Internal(format!("the system gives no event loop: {error}")))?;
    let outcome = runtime.block_on(work);
    // A thread that waits for a dead disk is not waited for.
    runtime.shutdown_background();
    outcome
}

/// Takes what may be the limit of flow runs at once.
pub(super) fn limit_parser() -> impl TypedValueParser<Value = u32> {
    clap::value_parser!(u64).range(LIMIT.range()).try_map(u32::try_from)
}
