//! What a command that did not do its work says: one line of JSON on stderr, and the exit code.

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::exit;
use crate::error::OrchestratorError;

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The orchestrator, or the settings, refused.
    #[error(transparent)]
    Orchestrator(#[from] OrchestratorError),
    /// Whoever read stdout has gone: nothing to say, and no fault.
    #[error("stdout is closed")]
    OutputClosed,
    /// Stdout could not be written.
    #[error("stdout cannot be written: {0}")]
    Output(#[source] std::io::Error),
}

impl From<std::io::Error> for Failure {
    /// Of writing to stdout, the only I/O that the commands do themselves.
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Output(error),
        }
    }
}

impl Failure {
    /// An argument that is missing, unknown or not of its form.
    pub(super) fn argument(argument: impl Into<String>, problem: impl Into<String>) -> Self {
        OrchestratorError::InvalidArgument {
            argument: argument.into(),
            problem: problem.into(),
        }
        .into()
    }

    /// Says it on stderr and gives the exit code.
    pub(super) fn report(&self) -> ExitCode {
        if matches!(self, Self::OutputClosed) {
            return exit::DONE;
        }
        // A closed stderr is no reason to end otherwise.
        let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{}\n", self.to_json()).as_bytes());
        exit::FAILED
    }

    /// `{"error":{"code","message","retryable",…}}`; further fields name what is at fault.
    fn to_json(&self) -> Value {
        let (code, message, retryable) = match self {
            Self::Orchestrator(error) => (error.code(), error.to_line(), error.retryable()),
            Self::OutputClosed | Self::Output(_) => ("ERR_CAPTIONACC_OUTPUT", self.to_string(), false),
        };
        let mut fields = Map::new();
        fields.insert("code".to_owned(), json!(code));
        fields.insert("message".to_owned(), json!(message));
        fields.insert("retryable".to_owned(), json!(retryable));
        match self {
            Self::Orchestrator(OrchestratorError::InvalidArgument { argument, .. }) => {
                fields.insert("argument".to_owned(), json!(argument));
            }
            Self::Orchestrator(OrchestratorError::UnknownFlow { name, .. }) => {
                fields.insert("flow".to_owned(), json!(name));
            }
            Self::Orchestrator(OrchestratorError::FlowRunNotFound(id)) => {
                fields.insert("flowRunId".to_owned(), json!(id));
            }
            Self::Orchestrator(OrchestratorError::InvalidState { flow_run_id, state, .. }) => {
                fields.insert("flowRunId".to_owned(), json!(flow_run_id));
                fields.insert("state".to_owned(), json!(state));
            }
            _ => {}
        }
        json!({ "error": fields })
    }
}
