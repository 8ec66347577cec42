//! What can go wrong between a caller and the orchestrator, with the codes that Node users see.

use std::path::PathBuf;

use super::id::{FlowRunId, InvalidFlowRunId};
use super::prefect_error::PrefectError;
use super::state::StateName;

/// An operation on the orchestrator that did not happen. Nothing is half done when one is returned.
///
/// In JavaScript each becomes an `OrchestratorError` with `code` and `retryable`; on the command line, JSON on
/// stderr. The codes are public API.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OrchestratorError {
    /// `ERR_CAPTIONACC_UNKNOWN_FLOW`: there is no flow of that name.
    #[error("unknown flow {name:?}{hint}: known flows are {known}")]
    UnknownFlow {
        /// What was asked for.
        name: String,
        /// `, did you mean "…"?` or nothing.
        hint: String,
        /// The flows there are.
        known: String,
    },
    /// `ERR_CAPTIONACC_INVALID_ARGUMENT`: an argument is missing, unknown, empty or not of its form.
    #[error("argument {argument:?}: {problem}")]
    InvalidArgument {
        /// The argument's name as the caller wrote it.
        argument: String,
        /// What is wrong with it, with the value, and what to do.
        problem: String,
    },
    /// `ERR_CAPTIONACC_FLOW_RUN_NOT_FOUND`: no such flow run (never queued here, or past its retention).
    #[error("flow run {0} is not known here: it was never queued in this store, or its retention has passed")]
    FlowRunNotFound(FlowRunId),
    /// `ERR_CAPTIONACC_INVALID_STATE`: the flow run's state does not allow this.
    #[error("flow run {flow_run_id} is {state}: {problem}", state = state.as_str())]
    InvalidState {
        /// The run.
        flow_run_id: FlowRunId,
        /// Its state now.
        state: StateName,
        /// Why not, and what to do.
        problem: String,
    },
    /// `ERR_CAPTIONACC_CURSOR_GONE`: events after this cursor are no longer kept, or it is a cursor of another queue.
    #[error(
        "events after this cursor are no longer kept (runs are forgotten some days after their end), or it is of another \
         queue: list the flow runs, and watch without a cursor"
    )]
    CursorGone,
    /// `ERR_CAPTIONACC_ABORTED`: the caller's signal was aborted; nothing was stored.
    #[error("aborted by the caller before the operation was done")]
    Aborted,
    /// `ERR_CAPTIONACC_TIMEOUT`: not done within the caller's `timeoutMs`.
    #[error("{what} was not done within {timeout_ms} ms: {hint}")]
    Timeout {
        /// The operation.
        what: &'static str,
        /// The limit that the caller gave (or the default).
        timeout_ms: u64,
        /// What to do.
        hint: &'static str,
    },
    /// `ERR_CAPTIONACC_ATTEMPT_SUPERSEDED`: this attempt no longer holds its flow run; it may write nothing.
    #[error("attempt {attempt} of flow run {flow_run_id} no longer holds the run: its writes are refused")]
    AttemptSuperseded {
        /// The run.
        flow_run_id: FlowRunId,
        /// The attempt that came late.
        attempt: u32,
    },
    /// `ERR_CAPTIONACC_STORE_NEWER`: queue.db was written by a newer version.
    #[error(
        "{path} has schema version {found}, this program knows up to {known}: \
         update @captionacc/orchestrator, or point CAPTIONACC_HOME elsewhere",
        path = path.display()
    )]
    StoreNewer {
        /// The queue database.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
    /// `ERR_CAPTIONACC_STORE_READ_ONLY`: queue.db or its folder cannot be written.
    #[error("{path} cannot be written: give this user write access to the file and its folder", path = path.display())]
    StoreReadOnly {
        /// The queue database.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// `ERR_CAPTIONACC_STORE_LOCKED`: another process held queue.db for the whole waiting time.
    #[error("{path} stayed locked by another process for {waited_ms} ms: try again", path = path.display())]
    StoreLocked {
        /// The queue database.
        path: PathBuf,
        /// How long it was waited for.
        waited_ms: u64,
    },
    /// `ERR_CAPTIONACC_STORE_FULL`: no space left for queue.db.
    #[error("no space left to write {path}: free some space on its disk", path = path.display())]
    StoreFull {
        /// The queue database.
        path: PathBuf,
    },
    /// `ERR_CAPTIONACC_STORE_CORRUPT`: queue.db is not a usable database.
    #[error("{path} is not a usable queue database: {problem}", path = path.display())]
    StoreCorrupt {
        /// The queue database.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
    /// `ERR_CAPTIONACC_STORE_IO`: the system refused an operation on queue.db or its folder.
    #[error("{path}: {problem}", path = path.display())]
    StoreIo {
        /// The file or folder.
        path: PathBuf,
        /// What was attempted.
        problem: String,
        /// What the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// `ERR_CAPTIONACC_CONFIG`: a setting or captionacc.toml is wrong.
    #[error("{origin}: {problem}")]
    Config {
        /// Where the setting came from: a file or an environment variable.
        origin: String,
        /// What is wrong, with the value, and what to do.
        problem: String,
    },
    /// `ERR_CAPTIONACC_PREFECT_…`: Prefect's API was not reached, or refused.
    #[error(transparent)]
    Prefect(#[from] PrefectError),
    /// `ERR_CAPTIONACC_INTERNAL`: a fault of this program; please report it.
    #[error("internal fault: {0}")]
    Internal(String),
}

impl From<InvalidFlowRunId> for OrchestratorError {
    fn from(invalid: InvalidFlowRunId) -> Self {
        Self::InvalidArgument {
            argument: "flowRunId".to_owned(),
            problem: invalid.to_string(),
        }
    }
}

impl OrchestratorError {
    /// Every code, for the types of the Node surface and their test.
    pub const CODES: [&'static str; 23] = [
        "ERR_CAPTIONACC_UNKNOWN_FLOW",
        "ERR_CAPTIONACC_INVALID_ARGUMENT",
        "ERR_CAPTIONACC_FLOW_RUN_NOT_FOUND",
        "ERR_CAPTIONACC_INVALID_STATE",
        "ERR_CAPTIONACC_CURSOR_GONE",
        "ERR_CAPTIONACC_ABORTED",
        "ERR_CAPTIONACC_TIMEOUT",
        "ERR_CAPTIONACC_ATTEMPT_SUPERSEDED",
        "ERR_CAPTIONACC_STORE_NEWER",
        "ERR_CAPTIONACC_STORE_READ_ONLY",
        "ERR_CAPTIONACC_STORE_LOCKED",
        "ERR_CAPTIONACC_STORE_FULL",
        "ERR_CAPTIONACC_STORE_CORRUPT",
        "ERR_CAPTIONACC_STORE_IO",
        "ERR_CAPTIONACC_CONFIG",
        "ERR_CAPTIONACC_PREFECT_UNREACHABLE",
        "ERR_CAPTIONACC_PREFECT_UNAUTHORIZED",
        "ERR_CAPTIONACC_PREFECT_FORBIDDEN",
        "ERR_CAPTIONACC_PREFECT_NOT_FOUND",
        "ERR_CAPTIONACC_PREFECT_REJECTED",
        "ERR_CAPTIONACC_PREFECT_RATE_LIMITED",
        "ERR_CAPTIONACC_PREFECT_FAULT",
        "ERR_CAPTIONACC_INTERNAL",
    ];

    /// The stable code of this error.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownFlow { .. } => "ERR_CAPTIONACC_UNKNOWN_FLOW",
            Self::InvalidArgument { .. } => "ERR_CAPTIONACC_INVALID_ARGUMENT",
            Self::FlowRunNotFound(_) => "ERR_CAPTIONACC_FLOW_RUN_NOT_FOUND",
            Self::InvalidState { .. } => "ERR_CAPTIONACC_INVALID_STATE",
            Self::CursorGone => "ERR_CAPTIONACC_CURSOR_GONE",
            Self::Aborted => "ERR_CAPTIONACC_ABORTED",
            Self::Timeout { .. } => "ERR_CAPTIONACC_TIMEOUT",
            Self::AttemptSuperseded { .. } => "ERR_CAPTIONACC_ATTEMPT_SUPERSEDED",
            Self::StoreNewer { .. } => "ERR_CAPTIONACC_STORE_NEWER",
            Self::StoreReadOnly { .. } => "ERR_CAPTIONACC_STORE_READ_ONLY",
            Self::StoreLocked { .. } => "ERR_CAPTIONACC_STORE_LOCKED",
            Self::StoreFull { .. } => "ERR_CAPTIONACC_STORE_FULL",
            Self::StoreCorrupt { .. } => "ERR_CAPTIONACC_STORE_CORRUPT",
            Self::StoreIo { .. } => "ERR_CAPTIONACC_STORE_IO",
            Self::Config { .. } => "ERR_CAPTIONACC_CONFIG",
            Self::Prefect(error) => error.code(),
            Self::Internal(_) => "ERR_CAPTIONACC_INTERNAL",
        }
    }

    /// Whether the same call can succeed later with nothing changed.
    pub const fn retryable(&self) -> bool {
        match self {
            Self::Timeout { .. } | Self::StoreLocked { .. } | Self::StoreFull { .. } | Self::StoreIo { .. } => true,
            Self::Prefect(error) => error.retryable(),
            _ => false,
        }
    }

    /// This error and its causes in one line, outermost first.
    pub fn to_line(&self) -> String {
        let mut line = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            line.push_str(": ");
            line.push_str(&error.to_string());
            cause = error.source();
        }
        line
    }
}

/// `, did you mean "…"?` for the candidate that looks most like `word`, or nothing.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or_else(String::new, |(_, candidate)| format!(", did you mean {candidate:?}?"))
}
