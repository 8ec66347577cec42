//! How much one transaction takes on, so that nobody waits long for its lock.
//!
//! The app waits for a lock by asking again and again: SQLite's own busy handler, which better-sqlite3 uses, asks after 1,
//! 2, 5, 10, 15, 20, 25, 25 and 25 ms, and only then more rarely. So a transaction is to be over within [`TARGET_HOLD`], and
//! the lock is left free for [`PAUSE`] between two of them, which is as long as those who wait sleep at most: whoever
//! waits gets in at the first pause.
//!
//! How many bytes that is depends on the disk, on the journal mode and on settings of the file (`secure_delete`,
//! `auto_vacuum`, the size of a page): each transaction is measured, and the next one is sized by it.

use std::thread;
use std::time::{Duration, Instant};

/// How long a transaction is to hold the lock.
const TARGET_HOLD: Duration = Duration::from_millis(40);
/// How long the lock is left free between two transactions.
const PAUSE: Duration = Duration::from_millis(25);
/// What the first transaction takes: little, since nothing is known of the disk yet.
const FIRST_BATCH_BYTES: u64 = 1 << 20;
/// What a transaction takes at least: below it, the syncs are most of the time.
const MIN_BATCH_BYTES: u64 = 64 << 10;
/// What a transaction takes at most, a row that is larger by itself apart. Also what another connection may have to bring
/// from the log into the file (WAL) before its own commit returns.
pub(super) const MAX_BATCH_BYTES: u64 = 4 << 20;

/// The size of the next transaction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    batch_bytes: u64,
}

impl Pace {
    /// Nothing is known yet.
    pub(super) const fn new() -> Self {
        Self {
            batch_bytes: FIRST_BATCH_BYTES,
        }
    }

    /// The bytes that the next transaction may take on.
    pub(super) const fn batch_bytes(self) -> u64 {
        self.batch_bytes
    }

    /// A transaction of `bytes` has held the lock for `held`: at most twice as much is next, at least a quarter.
    pub(super) fn learn(&mut self, bytes: u64, held: Duration) {
        let in_time = u128::from(bytes) * TARGET_HOLD.as_nanos() / held.as_nanos().max(1);
        self.batch_bytes = u64::try_from(in_time)
            .unwrap_or(u64::MAX)
            .clamp(self.batch_bytes / 4, self.batch_bytes * 2)
            .clamp(MIN_BATCH_BYTES, MAX_BATCH_BYTES);
    }
}

/// Lets others at the file, who have had it since `free_since`.
pub(super) fn pause(free_since: Instant) {
    thread::sleep(PAUSE.saturating_sub(free_since.elapsed()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_transaction_is_followed_by_a_smaller_one_and_a_fast_one_by_a_larger() {
        let after = |bytes, held_ms| {
            let mut pace = Pace::new();
            pace.learn(bytes, Duration::from_millis(held_ms));
            pace.batch_bytes()
        };
        assert_eq!(after(FIRST_BATCH_BYTES, 80), FIRST_BATCH_BYTES / 2);
        assert_eq!(after(FIRST_BATCH_BYTES, 40), FIRST_BATCH_BYTES);
        assert_eq!(after(FIRST_BATCH_BYTES, 1), FIRST_BATCH_BYTES * 2);
        assert_eq!(after(FIRST_BATCH_BYTES, 60_000), FIRST_BATCH_BYTES / 4);
        let mut pace = Pace::new();
        for _ in 0..20 {
            pace.learn(pace.batch_bytes(), Duration::ZERO);
        }
        assert_eq!(pace.batch_bytes(), MAX_BATCH_BYTES);
        for _ in 0..20 {
            pace.learn(1, Duration::from_secs(1));
        }
        assert_eq!(pace.batch_bytes(), MIN_BATCH_BYTES);
    }
}
