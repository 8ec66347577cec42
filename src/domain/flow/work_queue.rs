//! The work pool and its queues.

use serde::{Deserialize, Serialize};

/// The work pool of this project.
pub const WORK_POOL: &str = "video-processing-pool";
/// How many flow runs the pool runs at once unless told otherwise.
pub const DEFAULT_CONCURRENCY_LIMIT: u32 = 2;

/// How many of the runs of a pool may be ones for which nobody waits, unless told otherwise: all but one, so that a person
/// finds a slot.
pub const fn default_background_limit(limit: u32) -> u32 {
    if limit > 1 { limit - 1 } else { 1 }
}

/// A work queue: runs of a lower number are claimed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkQueue {
    /// A person waits for the run.
    UserInitiated,
    /// Nobody waits.
    Background,
}

impl WorkQueue {
    /// Both queues, first one first.
    pub const ALL: [Self; 2] = [Self::UserInitiated, Self::Background];

    /// 1 is claimed before 2.
    pub const fn priority(self) -> u8 {
        match self {
            Self::UserInitiated => 1,
            Self::Background => 2,
        }
    }

    /// The queue's name, which is also the `priority` that Node callers see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UserInitiated => "user-initiated",
            Self::Background => "background",
        }
    }

    /// The queue of a stored or configured name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|queue| queue.as_str() == name)
    }
}
