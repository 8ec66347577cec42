//! Puts the pictures that texts were read off where the web app and the dashboard look for them.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::annotations::text_images;
use crate::engine::{FaultKind, TaskError};

/// The folder `text_images` of a video.
pub(super) struct TextImages {
    folder: PathBuf,
}

impl TextImages {
    /// Makes the folder where it is missing. The video's own is never made: it is gone if the video was deleted.
    pub(super) fn of(video_dir: &Path) -> Result<Self, TaskError> {
        let folder = text_images::folder(video_dir);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(fault(&folder, &error)),
            _ => Ok(Self { folder }),
        }
    }

    /// Puts a caption's picture there: whoever looks sees the old one or this one, whole.
    pub(super) fn publish(&self, caption_id: i64, jpeg: &[u8]) -> Result<(), TaskError> {
        let name = text_images::file_name(caption_id);
        let path = self.folder.join(&name);
        // Of one name, so that what a killed attempt left is replaced by the next.
        let new = self.folder.join(format!(".{name}.new"));
        let written = remove(&new)
            .and_then(|()| fs::File::create_new(&new))
            .and_then(|mut file| file.write_all(jpeg))
            .and_then(|()| fs::rename(&new, &path));
        written.map_err(|error| {
            let _ = remove(&new);
            fault(&path, &error)
        })
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn fault(path: &Path, error: &io::Error) -> TaskError {
    let (code, kind) = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ("DISK_FULL", FaultKind::Passing),
        ErrorKind::NotFound
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::PermissionDenied
        | ErrorKind::ReadOnlyFilesystem => ("VIDEO_DIR_NOT_WRITABLE", FaultKind::Input),
        _ => ("VIDEO_DIR_IO", FaultKind::Passing),
    };
    let message = format!(
        "{} cannot be written ({error}): give a video-dir that exists and that this user may write",
        path.display()
    );
    TaskError::new(code, message, kind)
}
