//! Changes of a file, told by inotify.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::{fs::File, io};

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Hears of every change from its making on.
pub(super) struct Changes(AsyncFd<OwnedFd>);

impl Changes {
    /// Of the file at this path. Within a tokio runtime.
    pub(super) fn of(path: &Path, _file: File) -> io::Result<Self> {
        let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        add_watch(&inotify, path, WatchFlags::MODIFY)?;
        // Deprecated because a type of the caller's could lie about its descriptor; an OwnedFd can not.
        #[expect(deprecated, reason = "sound with an OwnedFd")]
        AsyncFd::with_interest(inotify, Interest::READABLE).map(Self)
    }

    /// Returns at the next change, or at once if there was one since the last call. Cancel safe.
    pub(super) async fn next(&self) {
        loop {
            let Ok(mut ready) = self.0.readable().await else {
                return std::future::pending().await;
            };
            let mut buffer = [0; 4096];
            // All that is there is taken at once: several changes are one.
            if let Ok(Ok(length)) = ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut buffer)?))
                && length > 0
            {
                return;
            }
        }
    }
}
