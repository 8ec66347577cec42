//! When a failed flow run is tried again.

use serde::{Deserialize, Serialize};

/// When and how often a failed flow run is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Further attempts after the first.
    pub retries: u32,
    /// Wait before the first further attempt; it doubles with each, with a jitter of 20 %.
    pub delay_ms: u64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            retries: 3,
            delay_ms: 60_000,
        }
    }
}

impl RetryPolicy {
    /// Longest wait between two attempts.
    const MAX_DELAY_MS: u64 = 3_600_000;

    /// How long to wait after `failed_attempts` attempts failed; `chance` is in 0..1. `None`: it is final.
    pub fn delay_after_ms(&self, failed_attempts: u32, chance: f64) -> Option<u64> {
        if failed_attempts > self.retries {
            return None;
        }
        let doublings = failed_attempts.saturating_sub(1).min(16);
        let base = self.delay_ms.saturating_mul(1 << doublings).min(Self::MAX_DELAY_MS);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most an hour in ms"
        )]
        let jittered = (base as f64 * (0.8 + 0.4 * chance.clamp(0.0, 1.0))) as u64;
        Some(jittered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_wait_longer_each_time_and_end() {
        let policy = RetryPolicy {
            retries: 3,
            delay_ms: 1000,
        };
        let delays: Vec<_> = (1..=4).map(|failed| policy.delay_after_ms(failed, 0.5)).collect();
        assert_eq!(delays, [Some(1000), Some(2000), Some(4000), None]);
        assert_eq!(policy.delay_after_ms(1, 0.0), Some(800));
    }
}
