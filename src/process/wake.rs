//! Wakes workers when something was queued or cancelled, across processes, at no cost while nothing happens.
//!
//! Whoever changes the queue writes a byte to `wake` beside queue.db; workers watch that file. It is a hint only: a
//! worker that misses it polls all the same.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

#[cfg(feature = "worker")]
#[cfg_attr(target_os = "linux", path = "linux/wake.rs")]
#[cfg_attr(target_os = "macos", path = "macos/wake.rs")]
mod sys;

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
    /// None where the system would not have it.
    #[cfg(feature = "worker")]
    changes: Option<sys::Changes>,
}

impl Ear {
    /// Hears every ring after this call. Within a tokio runtime.
    #[cfg(feature = "worker")]
    pub(crate) fn new(home: &Path) -> Self {
        let path = home.join("wake");
        let changes = open(&path).and_then(|file| sys::Changes::of(&path, file)).ok();
        Self { changes }
    }

    /// A caller has nothing to hear with.
    #[cfg(not(feature = "worker"))]
    pub(crate) fn new(_home: &Path) -> Self {
        Self {}
    }

    /// Returns at the next ring, or at once if one came since the last call; `false` after `timeout` without one.
    pub(crate) async fn wait(&self, timeout: Duration) -> bool {
        tokio::time::timeout(timeout, self.heard()).await.is_ok()
    }

    #[cfg(feature = "worker")]
    async fn heard(&self) {
        match &self.changes {
            Some(changes) => changes.next().await,
            None => std::future::pending().await,
        }
    }

    #[cfg(not(feature = "worker"))]
    async fn heard(&self) {
        std::future::pending::<()>().await;
    }
}
