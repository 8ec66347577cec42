//! What may have changed at the server, as far as somebody here has heard or done something: the handle by which listener,
//! courier and callers reach the poller.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use uuid::Uuid;

/// Most ends that are kept in mind: those of other workers' runs stay until then.
const MOST_ENDED: usize = 1000;

/// What the poller is to look at.
#[derive(Debug)]
pub(super) struct Hints {
    /// Whoever waits for work looks again.
    wake: Notify,
    /// The server may have a run for us.
    poll: AtomicBool,
    /// One of our runs may be in another state at the server.
    check: AtomicBool,
    /// A run may have ended, or be to end, whose worker is lost.
    look: Notify,
    /// Runs that events told of, less those that were claimed since.
    announced: AtomicU32,
    /// Ends that are being told.
    finishing: AtomicU32,
    /// Runs of which an end was told that this worker has not made, and that nobody has looked at since.
    ended: Mutex<HashSet<Uuid>>,
}

impl Default for Hints {
    /// Nothing is known yet: there may be a run.
    fn default() -> Self {
        Self {
            wake: Notify::new(),
            poll: AtomicBool::new(true),
            check: AtomicBool::new(false),
            look: Notify::new(),
            announced: AtomicU32::new(0),
            finishing: AtomicU32::new(0),
            ended: Mutex::default(),
        }
    }
}

impl Hints {
    /// The server may have a run for us, now.
    pub(super) fn want_poll(&self) {
        self.poll_next_time();
        self.wake();
    }

    /// It may have another one, for whoever looks next.
    pub(super) fn poll_next_time(&self) {
        self.poll.store(true, Ordering::Relaxed);
    }

    /// Whether it may have one.
    pub(super) fn take_poll(&self) -> bool {
        self.poll.swap(false, Ordering::Relaxed)
    }

    /// One of our runs may be in another state there.
    pub(super) fn want_check(&self) {
        self.check.store(true, Ordering::Relaxed);
        self.wake();
    }

    /// Whether one may be.
    pub(super) fn take_check(&self) -> bool {
        self.check.swap(false, Ordering::Relaxed)
    }

    /// An end was told that this worker has not made: whoever checks the run knows that it was ended, also if a state of the worker's
    /// came over that in the same moment.
    pub(super) fn ended(&self, run: Uuid) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.len() >= MOST_ENDED {
            ended.clear();
        }
        ended.insert(run);
    }

    /// Whether one was told of this run since it was asked last.
    pub(super) fn take_ended(&self, run: Uuid) -> bool {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).remove(&run)
    }

    /// A run has ended or is to end that may be of a lost machine.
    pub(super) fn want_look(&self) {
        self.look.notify_one();
    }

    /// Returns once one has.
    pub(super) async fn look_wanted(&self) {
        self.look.notified().await;
    }

    /// Whoever waits for work looks again.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Returns once somebody is to look again.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// An event told of a run that is ready.
    pub(super) fn announce(&self) {
        self.announced.fetch_add(1, Ordering::Relaxed);
        self.want_poll();
    }

    /// A run was claimed: one of those that were announced, if any was.
    pub(super) fn claimed(&self) {
        let one_less = |announced: u32| Some(announced.saturating_sub(1));
        let _ = self
            .announced
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
    }

    /// Whether runs were announced that nobody has claimed.
    pub(super) fn take_announced(&self) -> bool {
        self.announced.swap(0, Ordering::Relaxed) > 0
    }

    /// An end is being told until this is dropped. Each rings the journal's bell before the server has heard of it, and
    /// polls once it has.
    pub(super) fn finishing(&self) -> Finishing<'_> {
        self.finishing.fetch_add(1, Ordering::Relaxed);
        Finishing(&self.finishing)
    }

    /// The journal's bell rang.
    pub(super) fn rang(&self) {
        if self.finishing.load(Ordering::Relaxed) == 0 {
            self.poll_next_time();
        }
    }
}

/// See [`Hints::finishing`].
pub(super) struct Finishing<'a>(&'a AtomicU32);

impl Drop for Finishing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
