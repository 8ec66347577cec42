//! A picture's file, as a command reads it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Pictures of a film are far smaller; a file beyond it is something else.
const MAX_BYTES: u64 = 256 << 20;

/// A picture that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImageError {
    /// `ERR_CAPTIONACC_IMAGE_NOT_FOUND`: no file of that name.
    #[error("there is no file {}: give the path of a picture", .0.display())]
    NotFound(PathBuf),
    /// `ERR_CAPTIONACC_IMAGE_UNREADABLE`: the system refused.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// `ERR_CAPTIONACC_IMAGE_TOO_LARGE`: more bytes than a picture has.
    #[error("{} has {bytes} bytes, and at most {MAX_BYTES} are read: give one picture", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// `ERR_CAPTIONACC_IMAGE_INVALID`: no picture, a damaged one, or one of too many pixels.
    #[error("{} is no picture that can be read ({problem}): give a whole JPEG or PNG file", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl ImageError {
    /// A stable name of the kind of failure.
    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "ERR_CAPTIONACC_IMAGE_NOT_FOUND",
            Self::Unreadable { .. } => "ERR_CAPTIONACC_IMAGE_UNREADABLE",
            Self::TooLarge { .. } => "ERR_CAPTIONACC_IMAGE_TOO_LARGE",
            Self::Invalid { .. } => "ERR_CAPTIONACC_IMAGE_INVALID",
        }
    }
}

/// The whole file at `path`.
pub(super) fn bytes(path: &Path) -> Result<Vec<u8>, ImageError> {
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => ImageError::NotFound(path.to_owned()),
        _ => ImageError::Unreadable {
            path: path.to_owned(),
            source,
        },
    };
    let kind = std::fs::metadata(path).map_err(unreadable)?;
    if !kind.is_file() {
        // A pipe or a device might never end.
        return Err(unreadable(io::Error::other("it is no regular file")));
    }
    if kind.len() > MAX_BYTES {
        return Err(ImageError::TooLarge {
            path: path.to_owned(),
            bytes: kind.len(),
        });
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}
