//! Ids.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The id of a flow run: a `UUIDv7`, so that ids sort by the time of their creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FlowRunId(Uuid);

impl FlowRunId {
    /// A new id.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// The id that a Prefect server gave.
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The id as a Prefect server knows it.
    pub const fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for FlowRunId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl FromStr for FlowRunId {
    type Err = InvalidFlowRunId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text.trim())
            .map(Self)
            .map_err(|_| InvalidFlowRunId(text.chars().take(80).collect()))
    }
}

/// A text that is no flow run id; shortened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a flow run id: give the UUID that the queue call returned")]
pub struct InvalidFlowRunId(pub String);
