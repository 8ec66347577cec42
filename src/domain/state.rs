//! The states of a flow run and of a task run, and the rules between them. Pure: no clock, no store.
//!
//! Types and names are Prefect's (<https://docs.prefect.io/v3/concepts/states>): a state has one of a few types,
//! which decide what may follow, and a name, which says more to a person.

use serde::{Deserialize, Serialize};

/// The message of a run that somebody has cancelled, unless a reason was given.
pub const CANCELLED_ON_REQUEST: &str = "cancelled on request";

/// What kind of state it is; rules speak of types only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StateType {
    /// Waits for its time and for a worker.
    Scheduled,
    /// Claimed by a worker, not yet running.
    Pending,
    /// Its child process runs.
    Running,
    /// To be stopped; its process may still run.
    Cancelling,
    /// Stopped on request. Final.
    Cancelled,
    /// Done. Final.
    Completed,
    /// Ended with a failure of its own. Final.
    Failed,
    /// Its process died. Final.
    Crashed,
}

impl StateType {
    /// Every type, in the order of a run's life.
    pub const ALL: [Self; 8] = [
        Self::Scheduled,
        Self::Pending,
        Self::Running,
        Self::Cancelling,
        Self::Cancelled,
        Self::Completed,
        Self::Failed,
        Self::Crashed,
    ];

    /// Whether nothing follows by itself (a person may still ask for a retry).
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Cancelled | Self::Completed | Self::Failed | Self::Crashed)
    }

    /// Whether a worker holds the run, and with it one slot of the pool.
    pub const fn holds_slot(self) -> bool {
        matches!(self, Self::Pending | Self::Running | Self::Cancelling)
    }

    /// The word of Prefect's API, as stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "SCHEDULED",
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Cancelling => "CANCELLING",
            Self::Cancelled => "CANCELLED",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Crashed => "CRASHED",
        }
    }

    /// Whether a run in `self` may go to `next`. The store holds the same rule as guarded SQL.
    ///
    /// From a final state only `Scheduled` follows, and only because a person retries it; a completed run never
    /// runs again. From `Cancelling` a run can still be found completed: its work was done before it could stop.
    pub const fn may_become(self, next: Self) -> bool {
        use StateType::{Cancelled, Cancelling, Completed, Crashed, Failed, Pending, Running, Scheduled};
        match self {
            Scheduled => matches!(next, Scheduled | Pending | Cancelled),
            Pending => matches!(next, Scheduled | Running | Cancelling | Cancelled | Failed | Crashed),
            Running => matches!(next, Scheduled | Cancelling | Cancelled | Completed | Failed | Crashed),
            Cancelling => matches!(next, Cancelled | Completed),
            Cancelled | Failed | Crashed => matches!(next, Scheduled),
            Completed => false,
        }
    }
}

/// The name of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StateName {
    /// Waits for a worker.
    Scheduled,
    /// Scheduled more than [`LATE_AFTER_MS`] ago and still waiting. Derived when read, never stored.
    Late,
    /// Waits for its next attempt.
    AwaitingRetry,
    /// Claimed.
    Pending,
    /// First attempt runs.
    Running,
    /// A later attempt runs.
    Retrying,
    /// To be stopped.
    Cancelling,
    /// Stopped.
    Cancelled,
    /// Done.
    Completed,
    /// Failed.
    Failed,
    /// Failed because it took longer than its timeout.
    TimedOut,
    /// Its process died.
    Crashed,
}

/// Prefect's own threshold for `Late`, in milliseconds.
pub const LATE_AFTER_MS: i64 = 15_000;

impl StateName {
    /// Every name.
    pub const ALL: [Self; 12] = [
        Self::Scheduled,
        Self::Late,
        Self::AwaitingRetry,
        Self::Pending,
        Self::Running,
        Self::Retrying,
        Self::Cancelling,
        Self::Cancelled,
        Self::Completed,
        Self::Failed,
        Self::TimedOut,
        Self::Crashed,
    ];

    /// The type that this name belongs to.
    pub const fn state_type(self) -> StateType {
        match self {
            Self::Scheduled | Self::Late | Self::AwaitingRetry => StateType::Scheduled,
            Self::Pending => StateType::Pending,
            Self::Running | Self::Retrying => StateType::Running,
            Self::Cancelling => StateType::Cancelling,
            Self::Cancelled => StateType::Cancelled,
            Self::Completed => StateType::Completed,
            Self::Failed | Self::TimedOut => StateType::Failed,
            Self::Crashed => StateType::Crashed,
        }
    }

    /// The name as stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "Scheduled",
            Self::Late => "Late",
            Self::AwaitingRetry => "AwaitingRetry",
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Retrying => "Retrying",
            Self::Cancelling => "Cancelling",
            Self::Cancelled => "Cancelled",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
            Self::TimedOut => "TimedOut",
            Self::Crashed => "Crashed",
        }
    }

    /// The name behind a stored word, if it is one.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.as_str() == word)
    }

    /// What a reader sees at `now_ms` of a run that is scheduled for `scheduled_ms`: a late run says so.
    #[must_use]
    pub const fn seen_at(self, scheduled_ms: i64, now_ms: i64) -> Self {
        match self {
            Self::Scheduled if now_ms - scheduled_ms > LATE_AFTER_MS => Self::Late,
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completed_run_never_becomes_anything_else() {
        assert!(
            StateType::ALL
                .into_iter()
                .all(|next| !StateType::Completed.may_become(next))
        );
    }

    #[test]
    fn only_a_retry_leaves_a_final_state() {
        for from in StateType::ALL.into_iter().filter(|state| state.is_final()) {
            for next in StateType::ALL {
                assert!(
                    !from.may_become(next) || next == StateType::Scheduled,
                    "{from:?} -> {next:?}"
                );
            }
        }
    }

    #[test]
    fn a_run_holds_a_slot_exactly_while_a_worker_has_it() {
        let holding: Vec<_> = StateType::ALL.into_iter().filter(|state| state.holds_slot()).collect();
        assert_eq!(holding, [StateType::Pending, StateType::Running, StateType::Cancelling]);
    }

    #[test]
    fn every_name_is_found_by_its_word() {
        for name in StateName::ALL {
            assert_eq!(StateName::parse(name.as_str()), Some(name));
        }
        assert_eq!(StateName::parse("running"), None);
    }

    #[test]
    fn a_run_is_late_after_15_seconds_of_waiting() {
        assert_eq!(StateName::Scheduled.seen_at(0, 15_000), StateName::Scheduled);
        assert_eq!(StateName::Scheduled.seen_at(0, 15_001), StateName::Late);
        assert_eq!(StateName::AwaitingRetry.seen_at(0, 99_000), StateName::AwaitingRetry);
    }
}
