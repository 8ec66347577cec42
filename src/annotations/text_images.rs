//! The pictures that captions were read off, for people to see: `text_images/annotation_ID.jpg` in the video's folder.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use super::database::regular_file;
use super::error::AnnotationsError;

/// A larger picture is none of ours.
const MAX_PICTURE_BYTES: u64 = 64 << 20;

/// The folder in the video's own.
pub fn folder(video_dir: &Path) -> PathBuf {
    video_dir.join("text_images")
}

/// The name of a caption's picture in that folder.
pub fn file_name(caption_id: i64) -> String {
    format!("annotation_{caption_id}.jpg")
}

/// The picture of a caption, if there is one.
///
/// # Errors
/// What hinders the reading of one that is there.
pub fn read(video_dir: &Path, caption_id: i64) -> Result<Option<Vec<u8>>, AnnotationsError> {
    let path = folder(video_dir).join(file_name(caption_id));
    // Also tells a pipe from a file: opening one would wait for ever.
    match regular_file(&path) {
        Ok(Some(_)) => {}
        Ok(None) | Err(AnnotationsError::FolderNotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut bytes = Vec::new();
    match File::open(&path).and_then(|file| file.take(MAX_PICTURE_BYTES).read_to_end(&mut bytes)) {
        Ok(_) => Ok(Some(bytes)),
        // Another one takes its place at this moment, or the video is deleted.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(AnnotationsError::Io {
            path,
            doing: "reading a caption's picture",
            source: Box::new(error),
        }),
    }
}
