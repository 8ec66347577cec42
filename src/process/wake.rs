//! Wakes workers when something was queued or cancelled, across processes, at no cost while nothing happens.
//!
//! Whoever changes the queue writes a byte to `wake` beside queue.db; workers watch that file with inotify. It is a
//! hint only: a worker that misses it polls all the same, and systems without inotify have the poll alone.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// The writing end.
#[derive(Debug)]
pub(crate) struct Bell {
    path: PathBuf,
    file: Mutex<Option<File>>,
}

impl Bell {
    pub(crate) fn new(home: &Path) -> Self {
        Self {
            path: home.join("wake"),
            file: Mutex::new(None),
        }
    }

    /// Wakes every worker. A failure is silent: the workers' poll finds the change.
    pub(crate) fn ring(&self) {
        let Ok(mut file) = self.file.lock() else { return };
        let is_linked = |file: &File| {
            use std::os::unix::fs::MetadataExt;
            file.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
        };
        if !file.as_ref().is_some_and(is_linked) {
            *file = open(&self.path).ok();
        }
        if let Some(file) = file.as_ref() {
            let _ = file.write_at(b"!", 0);
        }
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// The waiting end.
pub(crate) struct Ear {
    #[cfg(all(target_os = "linux", feature = "worker"))]
    inotify: Option<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>>,
}

impl Ear {
    /// Hears every ring after this call. Within a tokio runtime.
    #[cfg(all(target_os = "linux", feature = "worker"))]
    pub(crate) fn new(home: &Path) -> Self {
        use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
        let path = home.join("wake");
        let watch = || {
            open(&path).ok()?;
            let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok()?;
            add_watch(&inotify, &path, WatchFlags::MODIFY).ok()?;
            // Deprecated because a type of the caller's could lie about its descriptor; an OwnedFd can not.
            #[expect(deprecated, reason = "sound with an OwnedFd")]
            tokio::io::unix::AsyncFd::with_interest(inotify, tokio::io::Interest::READABLE).ok()
        };
        Self { inotify: watch() }
    }

    /// Nothing to hear with.
    #[cfg(not(all(target_os = "linux", feature = "worker")))]
    pub(crate) fn new(_home: &Path) -> Self {
        Self {}
    }

    /// Returns at the next ring, or at once if one came since the last call; `false` after `timeout` without one.
    pub(crate) async fn wait(&self, timeout: Duration) -> bool {
        tokio::time::timeout(timeout, self.heard()).await.is_ok()
    }

    #[cfg(all(target_os = "linux", feature = "worker"))]
    async fn heard(&self) {
        let Some(inotify) = &self.inotify else {
            return std::future::pending().await;
        };
        loop {
            let Ok(mut ready) = inotify.readable().await else {
                return;
            };
            let mut buffer = [0; 4096];
            // All that is there is taken at once: several rings are one.
            if let Ok(Ok(length)) = ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut buffer)?))
                && length > 0
            {
                return;
            }
        }
    }

    #[cfg(not(all(target_os = "linux", feature = "worker")))]
    async fn heard(&self) {
        std::future::pending::<()>().await;
    }
}
