//! Changes of a file, told by kqueue. Not by `FSEvents`, which tells when a file is closed: the bell keeps its file open.

use std::path::Path;
use std::{fs::File, io};

use kqueue::{EventFilter, FilterFlag, Watcher};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Hears of every change from its making on.
pub(super) struct Changes {
    queue: AsyncFd<Watcher>,
    /// A closed file tells of nothing.
    _file: File,
}

impl Changes {
    /// Of this open file. Within a tokio runtime.
    pub(super) fn of(_path: &Path, file: File) -> io::Result<Self> {
        let mut watcher = Watcher::new()?;
        watcher.add_file(&file, EventFilter::EVFILT_VNODE, FilterFlag::NOTE_WRITE)?;
        watcher.watch()?;
        // Deprecated because a type of the caller's could lie about its descriptor; this one owns its queue.
        #[expect(deprecated, reason = "sound with a type that owns its descriptor")]
        let queue = AsyncFd::with_interest(watcher, Interest::READABLE)?;
        Ok(Self { queue, _file: file })
    }

    /// Returns at the next change, or at once if there was one since the last call. Cancel safe.
    pub(super) async fn next(&self) {
        loop {
            let Ok(mut ready) = self.queue.readable().await else {
                return std::future::pending().await;
            };
            let mut is_changed = false;
            while ready.get_inner().poll(None).is_some() {
                is_changed = true;
            }
            ready.clear_ready();
            if is_changed {
                return;
            }
        }
    }
}
