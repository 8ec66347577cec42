//! What can go wrong with Prefect's API, and what to do about it.

/// A call to Prefect's API that did not succeed. Names the address and never a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrefectError {
    /// `ERR_CAPTIONACC_PREFECT_UNREACHABLE`: no answer from the API.
    #[error(
        "Prefect's API at {address} cannot be reached ({problem}): check that it runs, and that its address is right ({origin})"
    )]
    Unreachable {
        /// Its address.
        address: String,
        /// What the last try ended with.
        problem: String,
        /// Where the address was found.
        origin: String,
    },
    /// `ERR_CAPTIONACC_PREFECT_UNAUTHORIZED`: the API key or auth string was refused.
    #[error(
        "Prefect's API at {address} refused the {credentials}: give a valid one (captionacc setup takes --api-key-file or --auth-string-file)"
    )]
    Unauthorized {
        /// Its address.
        address: String,
        /// `API key`, `auth string` or `call without credentials`.
        credentials: &'static str,
    },
    /// `ERR_CAPTIONACC_PREFECT_FORBIDDEN`: these credentials or this plan do not allow it.
    #[error("Prefect's API at {address} does not allow {call}: {detail}")]
    Forbidden {
        /// Its address.
        address: String,
        /// `POST /work_pools/`.
        call: String,
        /// What the API said.
        detail: String,
    },
    /// `ERR_CAPTIONACC_PREFECT_NOT_FOUND`: the API has no such thing.
    #[error("{what} is not known to Prefect's API at {address}: {hint}")]
    NotFound {
        /// Its address.
        address: String,
        /// The deployment, work pool or path.
        what: String,
        /// What to do.
        hint: String,
    },
    /// `ERR_CAPTIONACC_PREFECT_REJECTED`: the API found something wrong with what was sent.
    #[error("Prefect's API refused {call} with {status}: {detail}")]
    Rejected {
        /// `POST /deployments/…`.
        call: String,
        /// The HTTP status.
        status: u16,
        /// What the API said.
        detail: String,
    },
    /// `ERR_CAPTIONACC_PREFECT_RATE_LIMITED`: too many calls for the plan.
    #[error("Prefect's API at {address} limits the rate of calls: try again in {retry_after_ms} ms")]
    RateLimited {
        /// Its address.
        address: String,
        /// How long to wait.
        retry_after_ms: u64,
    },
    /// `ERR_CAPTIONACC_PREFECT_FAULT`: the API answered with a fault of its own, or with what is no answer.
    #[error("Prefect's API at {address} failed at {call}: {problem}")]
    Fault {
        /// Its address.
        address: String,
        /// `GET /flow_runs/…`.
        call: String,
        /// Status or what was wrong with the answer.
        problem: String,
    },
}

impl PrefectError {
    /// Every code.
    pub const CODES: [&'static str; 7] = [
        "ERR_CAPTIONACC_PREFECT_UNREACHABLE",
        "ERR_CAPTIONACC_PREFECT_UNAUTHORIZED",
        "ERR_CAPTIONACC_PREFECT_FORBIDDEN",
        "ERR_CAPTIONACC_PREFECT_NOT_FOUND",
        "ERR_CAPTIONACC_PREFECT_REJECTED",
        "ERR_CAPTIONACC_PREFECT_RATE_LIMITED",
        "ERR_CAPTIONACC_PREFECT_FAULT",
    ];

    /// The stable code of this error.
    pub const fn code(&self) -> &'static str {
        Self::CODES[match self {
            Self::Unreachable { .. } => 0,
            Self::Unauthorized { .. } => 1,
            Self::Forbidden { .. } => 2,
            Self::NotFound { .. } => 3,
            Self::Rejected { .. } => 4,
            Self::RateLimited { .. } => 5,
            Self::Fault { .. } => 6,
        }]
    }

    /// Whether the same call can succeed later with nothing changed.
    pub const fn retryable(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::RateLimited { .. } | Self::Fault { .. }
        )
    }
}
