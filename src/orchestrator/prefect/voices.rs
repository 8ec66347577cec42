//! Which runs have said that they live. One that ended before its first sign of life is waited for by nobody, and need not say
//! that it has left.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::id::FlowRunId;

/// Runs that this process has claimed and not spoken for yet.
#[derive(Debug, Default)]
pub(super) struct Voices(Mutex<HashSet<FlowRunId>>);

impl Voices {
    fn silent(&self) -> MutexGuard<'_, HashSet<FlowRunId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It was claimed a moment ago; whoever had it before has left.
    pub(super) fn claimed(&self, id: FlowRunId) {
        self.silent().insert(id);
    }

    /// It is about to be said that it lives.
    pub(super) fn speaks(&self, id: FlowRunId) {
        self.silent().remove(&id);
    }

    /// Whether nobody has heard of it, now that it is no longer at work. Of a run of which nothing is known here, somebody may have.
    pub(super) fn was_silent(&self, id: FlowRunId) -> bool {
        self.silent().remove(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_run_that_was_claimed_here_and_never_spoke_was_silent() {
        let voices = Voices::default();
        let [unknown, short, long] = std::array::from_fn(|_| FlowRunId::generate());
        voices.claimed(short);
        voices.claimed(long);
        voices.speaks(long);
        assert_eq!(
            [unknown, short, long].map(|id| voices.was_silent(id)),
            [false, true, false]
        );
        assert!(!voices.was_silent(short), "said once");
    }
}
