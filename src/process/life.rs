//! Whether a process lives, asked of a lock instead of its number.
//!
//! Workers in several containers may share one home, and a pid says nothing there: in each PID namespace it names another
//! process, or none. So whoever holds something of a queue also holds, for its life, a lock (`flock`) on a file of its
//! own in the home. The kernel lets go of it when the process ends, however it ends, and everybody who sees the file can
//! ask. A reboot frees every lock, and so does copying a home: what was held there is nobody's in the copy.
//!
//! A lock belongs to the open file, not to the process: whoever inherits the descriptor holds it too. Files are opened
//! close-on-exec, as the standard library does, so that no child keeps its worker's lock.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The lock of a process, held until this is dropped or the process ends. Dropped, it takes its file with it.
#[derive(Debug)]
pub struct Life {
    path: PathBuf,
    file: File,
}

impl Life {
    /// Makes the file (0600, its folder 0700) where it is missing, and takes its lock.
    ///
    /// # Errors
    /// What the file system says; [`ErrorKind::Unsupported`] and the like where it has no locks.
    pub fn begin(path: &Path) -> io::Result<Self> {
        make_folder_of(path)?;
        loop {
            // A file that was removed in between, because nobody held it yet, is made anew.
            if let Some(life) = Self::take(path, true)? {
                return Ok(life);
            }
        }
    }

    /// Takes the lock of a file that was made for this process with [`prepare`]; `None`: it was [`bury`]ed since, and the
    /// process must not begin.
    ///
    /// # Errors
    /// As [`Life::begin`].
    pub fn enter(path: &Path) -> io::Result<Option<Self>> {
        Self::take(path, false)
    }

    fn take(path: &Path, create: bool) -> io::Result<Option<Self>> {
        let path = path.to_owned();
        Ok(take(&path, create)?.map(|file| Self { path, file }))
    }

    /// Whether the file that others look at is still the one that is held.
    pub fn is_in_place(&self) -> bool {
        is_at(&self.file, &self.path)
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if self.is_in_place() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes the file where it is missing and takes its lock for a program that is yet to be started and knows nothing of it.
/// Given to it as its stdin, the file, which is empty, stays locked for as long as any process of the program has it open.
///
/// # Errors
/// As [`Life::begin`].
pub fn lend(path: &Path) -> io::Result<File> {
    make_folder_of(path)?;
    loop {
        if let Some(file) = take(path, true)? {
            return Ok(file);
        }
    }
}

/// Makes the file that a process yet to be started will [`Life::enter`].
///
/// # Errors
/// What the file system says.
pub fn prepare(path: &Path) -> io::Result<()> {
    make_folder_of(path)?;
    open(path, true).map(drop)
}

/// Whether nobody holds this lock, now and from now on: the file is removed. What cannot be asked counts as held, because
/// nothing is ever taken from the living.
pub fn bury(path: &Path) -> bool {
    let file = match open(path, false) {
        Ok(file) => file,
        Err(error) => return error.kind() == ErrorKind::NotFound,
    };
    match file.try_lock() {
        Ok(()) => {
            if is_at(&file, path) {
                let _ = fs::remove_file(path);
            }
            true
        }
        Err(TryLockError::WouldBlock | TryLockError::Error(_)) => false,
    }
}

/// The locked file; `None`: it was removed before its lock was taken, or it is not there and not to be made.
fn take(path: &Path, create: bool) -> io::Result<Option<File>> {
    let file = match open(path, create) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound && !create => return Ok(None),
        Err(error) => return Err(error),
    };
    // Nobody else holds it for longer than a look takes.
    while let Err(error) = file.lock() {
        if error.kind() != ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(is_at(&file, path).then_some(file))
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        // Network file systems lend a lock to writers only.
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

fn make_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => DirBuilder::new().recursive(true).mode(0o700).create(folder),
        None => Ok(()),
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(held), Ok(there)) = (file.metadata(), fs::metadata(path)) else {
        return false;
    };
    (held.dev(), held.ino()) == (there.dev(), there.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_not_buried_and_what_is_let_go_leaves_no_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("locks/one");
        let life = Life::begin(&path).expect("locks work here");
        assert!(!bury(&path));
        drop(life);
        assert!(bury(&path));
        assert_eq!(
            fs::read_dir(path.parent().expect("it has one")).expect("reads").count(),
            0
        );
    }

    #[test]
    fn what_was_buried_can_not_be_entered_any_more() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("one");
        prepare(&path).expect("made");
        assert!(bury(&path));
        assert!(Life::enter(&path).expect("asked").is_none());
        prepare(&path).expect("made");
        let _life = Life::enter(&path).expect("asked").expect("it is there");
        assert!(!bury(&path));
    }

    #[test]
    fn a_lent_lock_is_held_by_whatever_the_program_left_running() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("locks/one");
        let mut shell = std::process::Command::new("sh")
            // A shell gives what it starts in the background an empty stdin of its own.
            .args(["-c", "exec 3<&0; sleep 1000 <&3 & echo $!"])
            .stdin(lend(&path).expect("locks work here"))
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("sh starts");
        let mut pid = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(shell.stdout.take().expect("piped")), &mut pid).expect("a pid");
        shell.wait().expect("it ends");
        assert!(!bury(&path), "its program lives");
        let pid = rustix::process::Pid::from_raw(pid.trim().parse().expect("a number"));
        rustix::process::kill_process(pid.expect("a pid"), rustix::process::Signal::KILL).expect("it is ours");
        while !bury(&path) {
            std::thread::yield_now();
        }
        assert!(!path.exists());
    }

    #[test]
    fn a_lock_whose_file_was_taken_away_is_not_in_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("one");
        let old = Life::begin(&path).expect("held");
        fs::remove_file(&path).expect("removed");
        assert!(!old.is_in_place());
        let new = Life::begin(&path).expect("held");
        drop(old);
        assert!(new.is_in_place(), "the old one took the new one's file with it");
    }
}
