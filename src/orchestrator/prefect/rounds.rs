//! Whose mail is next: everybody's turn comes, whoever's mail fails for ever.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::domain::id::FlowRunId;

/// Runs that are told of at the same time.
const AT_ONCE: usize = 16;
/// How long a run whose mail failed is left alone at first, and at most.
const FIRST_WAIT: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// When each run had its turn.
#[derive(Debug, Default)]
pub(super) struct Rounds(HashMap<FlowRunId, Turn>);

#[derive(Debug, Clone, Copy)]
struct Turn {
    at: Instant,
    failures: u32,
    again_at: Instant,
}

impl Rounds {
    /// The runs whose turn it is, of those that have mail: first who never had one, then whose is longest ago.
    pub(super) fn begin(&mut self, with_mail: &[FlowRunId], now: Instant) -> Vec<FlowRunId> {
        let still: HashSet<&FlowRunId> = with_mail.iter().collect();
        self.0.retain(|id, _| still.contains(id));
        let mut due: Vec<FlowRunId> = with_mail
            .iter()
            .copied()
            .filter(|id| self.0.get(id).is_none_or(|turn| turn.again_at <= now))
            .collect();
        due.sort_by_key(|id| self.0.get(id).map(|turn| turn.at));
        due.truncate(AT_ONCE);
        due
    }

    /// A turn is over.
    pub(super) fn end(&mut self, id: FlowRunId, has_failed: bool, now: Instant) {
        let failures = if has_failed {
            self.0.get(&id).map_or(0, |turn| turn.failures).saturating_add(1)
        } else {
            0
        };
        let wait = match failures {
            0 => Duration::ZERO,
            more => LONGEST_WAIT.min(FIRST_WAIT * (1 << (more - 1).min(10))),
        };
        self.0.insert(
            id,
            Turn {
                at: now,
                failures,
                again_at: now + wait,
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_whose_mail_fails_for_ever_starve_nobody_and_are_left_alone_ever_longer() {
        let ids: Vec<FlowRunId> = (0..40).map(|_| FlowRunId::generate()).collect();
        let start = Instant::now();
        for has_failed in [true, false] {
            let mut rounds = Rounds::default();
            let mut seen = HashSet::new();
            for round in 0..3 {
                let now = start + Duration::from_mins(10) * round;
                for id in rounds.begin(&ids, now) {
                    seen.insert(id);
                    rounds.end(id, has_failed, now);
                }
            }
            assert_eq!(seen.len(), ids.len(), "{has_failed}");
        }
        let one = &ids[..1];
        let mut rounds = Rounds::default();
        let mut turns = 0;
        for second in 0..3600 {
            let now = start + Duration::from_secs(second);
            for id in rounds.begin(one, now) {
                turns += 1;
                rounds.end(id, true, now);
            }
        }
        assert!((55..70).contains(&turns), "{turns} in an hour");
        assert_eq!(rounds.begin(&[], start), []);
        assert_eq!(rounds.begin(one, start), one, "what has new mail is told at once");
    }
}
