//! One writing call at a time to a server of one's own, over all processes of a home.
//!
//! Prefect's SQLite refuses a call that has read before another one wrote ("database is locked", 503), and does so after most of the
//! call's work: beside a worker at short runs two of three queue calls were refused, and the server had time for little else. So calls
//! that write take turns, in the order of arrival within a process, and alternately between processes: whoever waits stands in a door
//! that everybody passes before. For a queue call somebody waits, who may give up; what a worker tells can wait: while there are queue
//! calls, other calls let them go first. All of it is a courtesy, not a lock: who has let others go first for a second takes its turn, who
//! has waited for that for a second goes, and who has gone for a second is no longer waited for. Other machines know nothing of it; a
//! server that several machines write to is one on PostgreSQL.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

/// Longest that one waits for its turn, and that a turn lasts.
const LONGEST: Duration = Duration::from_secs(1);
/// How often a file is looked at that another process holds.
const LOOK: Duration = Duration::from_millis(2);

/// Whose turn it is.
#[derive(Debug)]
pub(super) struct Turns {
    queue: Mutex<()>,
    /// How many calls of this process are in a hurry.
    hurrying: AtomicUsize,
    /// Where processes share a folder.
    files: Option<Files>,
}

#[derive(Debug)]
struct Files {
    door: PathBuf,
    turn: PathBuf,
    /// Shared by all that are in a hurry.
    hurry: PathBuf,
}

/// Somebody waits for a call: other calls let it go first, until this is dropped.
#[derive(Debug)]
pub(super) struct Hurry<'a> {
    turns: &'a Turns,
    file: Option<File>,
}

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.file = None;
        self.turns.hurrying.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    _queue: Option<MutexGuard<'a, ()>>,
    _file: Option<File>,
}

impl Turns {
    /// Turns with the processes that share this folder; within this one alone, if there is none.
    pub(super) fn new(folder: Option<&Path>) -> Self {
        Self {
            queue: Mutex::new(()),
            hurrying: AtomicUsize::new(0),
            files: folder.map(|folder| {
                let path = |name: &str| folder.join(format!("{name}.lock"));
                Files {
                    door: path("door"),
                    turn: path("turn"),
                    hurry: path("hurry"),
                }
            }),
        }
    }

    /// Says that the calls of this process are waited for.
    pub(super) async fn hurry(&self) -> Hurry<'_> {
        self.hurrying.fetch_add(1, Ordering::Relaxed);
        let mut hurry = Hurry {
            turns: self,
            file: None,
        };
        if let Some(files) = &self.files {
            // Who looks whether there are such calls has it for a moment.
            let shared = locked(&files.hurry, File::try_lock_shared);
            hurry.file = timeout(LONGEST, shared).await.ok().flatten();
        }
        hurry
    }

    /// Waits until no call of another process is in a hurry.
    async fn let_go_first(&self, files: &Files) {
        if self.hurrying.load(Ordering::Relaxed) == 0 {
            drop(locked(&files.hurry, File::try_lock).await);
        }
    }

    /// Waits for a turn, or for as long as one waits.
    pub(super) async fn take(&self) -> Turn<'_> {
        if let Some(files) = &self.files {
            let _ = timeout(LONGEST, self.let_go_first(files)).await;
        }
        let deadline = Instant::now() + LONGEST;
        let queue = timeout_at(deadline, self.queue.lock()).await.ok();
        let file = match &self.files {
            Some(files) if queue.is_some() => {
                let waiting = async {
                    let door = locked(&files.door, File::try_lock).await?;
                    let turn = locked(&files.turn, File::try_lock).await;
                    drop(door);
                    turn
                };
                timeout_at(deadline, waiting).await.ok().flatten()
            }
            _ => None,
        };
        Turn {
            _queue: queue,
            _file: file,
        }
    }

    /// Does `call` in a turn of its own. One that lasts goes on without it.
    pub(super) async fn within<T>(&self, call: impl Future<Output = T>) -> T {
        let turn = self.take().await;
        let end = Instant::now() + LONGEST;
        tokio::pin!(call);
        tokio::select! {
            answer = &mut call => return answer,
            () = sleep_until(end) => drop(turn),
        }
        call.await
    }
}

/// The file, once nobody else's lock is in the way; none where there can be none.
async fn locked(path: &Path, lock: fn(&File) -> Result<(), TryLockError>) -> Option<File> {
    let file = OpenOptions::new().create(true).append(true).open(path).ok()?;
    loop {
        match lock(&file) {
            Ok(()) => return Some(file),
            Err(TryLockError::WouldBlock) => sleep(LOOK).await,
            Err(TryLockError::Error(_)) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn two_processes_of_a_folder_go_alternately_and_one_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let at_once = Arc::new(AtomicU32::new(0));
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let processes = [0, 1].map(|number| {
            let turns = Turns::new(Some(folder.path()));
            let (at_once, order) = (at_once.clone(), order.clone());
            async move {
                for _ in 0..5 {
                    let call = async {
                        assert_eq!(at_once.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
                        order.lock().expect("whole").push(number);
                        sleep(Duration::from_millis(30)).await;
                        at_once.fetch_sub(1, Ordering::SeqCst);
                    };
                    turns.within(call).await;
                }
            }
        });
        let [one, other] = processes;
        tokio::join!(one, other);
        let order = order.lock().expect("whole").clone();
        assert_eq!(order.len(), 10);
        let changes = order.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(changes >= 8, "{order:?}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_can_wait_lets_the_queue_calls_of_another_process_go_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let [callers, worker] = [0, 1].map(|_| Turns::new(Some(folder.path())));
        let order = std::sync::Mutex::new(Vec::new());
        let note = |what: &'static str| order.lock().expect("whole").push(what);
        let first = callers.hurry().await;
        let second = callers.hurry().await;
        let queueing = async {
            for hurry in [first, second] {
                // The process that is in a hurry waits for none of its own.
                callers.within(async { sleep(LOOK * 20).await }).await;
                note("queued");
                drop(hurry);
            }
        };
        let telling = async {
            worker.within(async {}).await;
            note("told");
        };
        tokio::join!(telling, queueing);
        assert_eq!(*order.lock().expect("whole"), ["queued", "queued", "told"]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn nobody_lets_others_go_first_for_ever() {
        let folder = tempfile::tempdir().expect("a folder");
        let [callers, worker] = [0, 1].map(|_| Turns::new(Some(folder.path())));
        let _hurry = callers.hurry().await;
        worker.within(async {}).await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn nobody_waits_for_long_for_a_call_that_hangs() {
        let turns = Turns::new(None);
        tokio::select! {
            () = turns.within(std::future::pending()) => unreachable!("it never ends"),
            () = async {
                tokio::task::yield_now().await;
                turns.within(async {}).await;
            } => {}
        }
    }
}
