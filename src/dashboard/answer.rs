//! Answers that are no success: what went wrong, with a status that fits.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::api::{Problem, Refusal};
use crate::annotations::AnnotationsError;
use crate::domain::error::OrchestratorError;

/// Why a request was not answered as it was meant.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The orchestrator's.
    #[error(transparent)]
    Orchestrator(#[from] OrchestratorError),
    /// Of a video's annotations.db.
    #[error(transparent)]
    Annotations(#[from] AnnotationsError),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// A disk, or a server, does not answer.
    #[error("{0} did not answer in time: its disk or its server may hang")]
    Slow(&'static str),
}

impl Fault {
    /// For a page.
    pub(super) fn problem(&self) -> Problem {
        let (code, retryable) = match self {
            Self::Orchestrator(error) => return problem_of(error),
            Self::Annotations(error) => (error.code(), !error.is_input_fault()),
            Self::NotFound(_) => ("ERR_CAPTIONACC_DASHBOARD_NOT_FOUND", false),
            Self::Slow(_) => ("ERR_CAPTIONACC_TIMEOUT", true),
        };
        Problem {
            code: code.to_owned(),
            message: self.to_string(),
            retryable,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Orchestrator(OrchestratorError::FlowRunNotFound(_)) | Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Orchestrator(OrchestratorError::InvalidArgument { .. } | OrchestratorError::UnknownFlow { .. }) => {
                StatusCode::BAD_REQUEST
            }
            Self::Orchestrator(OrchestratorError::InvalidState { .. }) | Self::Annotations(_) => StatusCode::CONFLICT,
            Self::Orchestrator(error) if error.retryable() => StatusCode::SERVICE_UNAVAILABLE,
            Self::Orchestrator(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Slow(_) => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

/// An error of the orchestrator for a page.
pub(super) fn problem_of(error: &OrchestratorError) -> Problem {
    Problem {
        code: error.code().to_owned(),
        message: error.to_line(),
        retryable: error.retryable(),
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let error = self.problem();
        (self.status(), Json(Refusal { error })).into_response()
    }
}
