//! How long a run may be silent: what the server's automation says holds for every worker, and this machine's setting where there is
//! none.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Longest pace: three beats later a machine is known to be lost. A beat costs a server some small writes.
const LONGEST_PACE: Duration = Duration::from_secs(10);
const SHORTEST_PACE: Duration = Duration::from_secs(1);

/// Seconds as the server has them, begun ones too: whoever is told to be quicker than it is would be taken for offline.
pub(super) const fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + (time.subsec_nanos() > 0) as u64
}

/// What is known of the server's limit.
#[derive(Debug, Default)]
pub(super) struct Limit {
    known: Mutex<Known>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Known {
    /// The server has said nothing yet.
    #[default]
    Nothing,
    /// It has no automation.
    NoAutomation,
    /// Its automation says this.
    AtServer(Duration),
}

impl Limit {
    /// The server has said it.
    pub(super) fn learn(&self, at_server: Option<Duration>) {
        let known = at_server.map_or(Known::NoAutomation, Known::AtServer);
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }

    /// Whether the server has ever said it: before, nobody is to be judged.
    pub(super) fn is_known(&self) -> bool {
        self.known() != Known::Nothing
    }

    /// What holds for everybody.
    pub(super) fn holds(&self, own: Duration) -> Duration {
        match self.known() {
            Known::AtServer(limit) => limit,
            Known::Nothing | Known::NoAutomation => own,
        }
    }

    fn known(&self) -> Known {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often a worker says that it and its runs live: a third of the shorter one, so that it is in time for both; oftener where
    /// calls are not counted.
    pub(super) fn pace(&self, own: Duration, is_cloud: bool) -> Duration {
        let longest = if is_cloud { Duration::MAX } else { LONGEST_PACE };
        (self.holds(own).min(own) / 3).clamp(SHORTEST_PACE, longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_limit_holds_and_the_pace_is_in_time_for_the_shorter_one() {
        let seconds = Duration::from_secs;
        let limit = Limit::default();
        assert!(!limit.is_known());
        assert_eq!(
            (limit.holds(seconds(90)), limit.pace(seconds(90), true)),
            (seconds(90), seconds(30))
        );
        limit.learn(Some(seconds(24)));
        assert!(limit.is_known());
        assert_eq!(
            (limit.holds(seconds(90)), limit.pace(seconds(90), true)),
            (seconds(24), seconds(8))
        );
        assert_eq!(
            (limit.holds(seconds(15)), limit.pace(seconds(15), false)),
            (seconds(24), seconds(5))
        );
        limit.learn(None);
        assert_eq!(limit.holds(seconds(90)), seconds(90));
    }

    #[test]
    fn a_loss_is_known_well_before_runs_are_taken_over_where_calls_are_not_counted() {
        let seconds = Duration::from_secs;
        let limit = Limit::default();
        for (own, is_cloud, pace) in [(90, false, 10), (600, false, 10), (600, true, 200), (2, false, 1)] {
            assert_eq!(limit.pace(seconds(own), is_cloud), seconds(pace), "{own}");
        }
    }
}
