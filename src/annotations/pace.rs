//! How much one transaction takes on, so that nobody waits long for its lock.
//!
//! The app waits for a lock by asking again and again: SQLite's own busy handler, which better-sqlite3 uses, asks after 1,
//! 2, 5, 10, 15, 20, 25, 25, 25, 50, 50 ms, and then every 100 ms. So a transaction is to be over within [`TARGET_HOLD`], and
//! then the lock is left free ([`pause_after`]) for as long as those who have waited for all of it sleep at most: whoever
//! waits gets in at the first pause. Who missed it would sleep ever longer, and miss more of them.
//!
//! How many bytes that is depends on the disk, on the journal mode and on settings of the file (`secure_delete`,
//! `auto_vacuum`, the size of a page): each transaction is measured, and the next one is sized by it.

use std::thread;
use std::time::{Duration, Instant};

/// How long a transaction is to hold the lock.
const TARGET_HOLD: Duration = Duration::from_millis(25);
/// How long the lock is left free after a transaction that has held it for so long at most: the longest sleep of whoever
/// has waited for that long, and a little for being woken late.
const PAUSES: [(Duration, Duration); 2] = [
    (Duration::from_millis(90), Duration::from_millis(30)),
    (Duration::from_millis(160), Duration::from_millis(60)),
];
/// The same after a longer one.
const LONG_PAUSE: Duration = Duration::from_millis(110);
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

    /// A transaction of `bytes` has held the lock for `held`: at most a quarter more is next, at least a quarter of it. What was
    /// slow once, on a busy machine, will be so again.
    pub(super) fn learn(&mut self, bytes: u64, held: Duration) {
        let in_time = u128::from(bytes) * TARGET_HOLD.as_nanos() / held.as_nanos().max(1);
        self.batch_bytes = u64::try_from(in_time)
            .unwrap_or(u64::MAX)
            .clamp(self.batch_bytes / 4, self.batch_bytes / 4 * 5)
            .clamp(MIN_BATCH_BYTES, MAX_BATCH_BYTES);
    }
}

/// How long the lock is left free after a transaction that has `held` it.
pub(super) fn pause_after(held: Duration) -> Duration {
    let fitting = PAUSES.into_iter().find(|(longest, _)| held <= *longest);
    fitting.map_or(LONG_PAUSE, |(_, pause)| pause)
}

/// Lets others at the file for `pause`, of which some may be over: it is free since `free_since`.
pub(super) fn wait(free_since: Instant, pause: Duration) {
    thread::sleep(pause.saturating_sub(free_since.elapsed()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waited_for_a_transaction_asks_again_within_the_pause_after_it() {
        // sqlite3.c, sqliteDefaultBusyCallback: how long it sleeps, and 100 ms from then on.
        let sleeps_ms = [1, 2, 5, 10, 15, 20, 25, 25, 25, 50, 50, 100, 100, 100, 100];
        for held_ms in 0..500 {
            let pause_ms = u64::try_from(pause_after(Duration::from_millis(held_ms)).as_millis()).expect("short");
            // It came at any time while the lock was held.
            for waited_ms in 0..=held_ms {
                let mut asked_ms = 0;
                let next = sleeps_ms.into_iter().find_map(|sleep_ms| {
                    asked_ms += sleep_ms;
                    (asked_ms >= waited_ms).then_some(asked_ms)
                });
                let too_late = next.expect("more than half a second") - waited_ms;
                assert!(
                    too_late < pause_ms,
                    "held {held_ms} ms, waited {waited_ms} ms: {too_late} ms"
                );
            }
        }
    }

    #[test]
    fn a_slow_transaction_is_followed_by_a_smaller_one_and_a_fast_one_by_a_larger() {
        let after = |bytes, held_ms| {
            let mut pace = Pace::new();
            pace.learn(bytes, Duration::from_millis(held_ms));
            pace.batch_bytes()
        };
        assert_eq!(after(FIRST_BATCH_BYTES, 50), FIRST_BATCH_BYTES / 2);
        assert_eq!(after(FIRST_BATCH_BYTES, 25), FIRST_BATCH_BYTES);
        assert_eq!(after(FIRST_BATCH_BYTES, 1), FIRST_BATCH_BYTES / 4 * 5);
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
