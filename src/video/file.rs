//! The file on the disk: opened without ever waiting on it, and known for a playlist by its first bytes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::Path;

use super::error::VideoError;

/// Opens `path` if it is a file with something in it.
pub(super) fn open_file(path: &Path) -> Result<File, VideoError> {
    let owned = || path.to_owned();
    let refused = |source: io::Error| match source.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidInput | ErrorKind::InvalidFilename => {
            VideoError::NotFound { path: owned() }
        }
        ErrorKind::PermissionDenied => VideoError::NotReadable { path: owned(), source },
        _ => VideoError::Io { path: owned(), source },
    };
    let check = |metadata: &fs::Metadata| match kind_of(metadata) {
        Some(kind) => Err(VideoError::NotAFile { path: owned(), kind }),
        None => Ok(()),
    };
    // Looked at first, because merely opening a device can do something to it.
    check(&fs::metadata(path).map_err(refused)?)?;
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        // Without waiting for a writer, should a pipe have taken the file's place meanwhile.
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    }
    let file = options.open(path).map_err(refused)?;
    let metadata = file.metadata().map_err(refused)?;
    check(&metadata)?;
    if metadata.len() == 0 {
        return Err(VideoError::Empty { path: owned() });
    }
    Ok(file)
}

/// What else a path leads to, if not to a file.
fn kind_of(metadata: &fs::Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return None;
    }
    if kind.is_dir() {
        return Some("a folder");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        if kind.is_fifo() {
            return Some("a pipe");
        }
        if kind.is_socket() {
            return Some("a socket");
        }
    }
    Some("a device")
}

/// What kind of playlist begins like this, if one does.
pub(super) fn playlist_kind(head: &[u8]) -> Option<&'static str> {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let kinds: [(&[u8], &str); 6] = [
        (b"#EXTM3U", "an HLS playlist"),
        (b"ffconcat", "a concat list"),
        (b"file ", "a concat list"),
        (b"<MPD", "a DASH manifest"),
        (b"<?xml", "an XML manifest"),
        (b"[playlist]", "a playlist"),
    ];
    kinds
        .into_iter()
        .find(|(start, _)| text.starts_with(start))
        .map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::playlist_kind;

    #[test]
    fn playlists_are_known_by_their_first_words() {
        assert_eq!(playlist_kind(b"#EXTM3U\n"), Some("an HLS playlist"));
        assert_eq!(
            playlist_kind(b"\xef\xbb\xbf  ffconcat version 1.0"),
            Some("a concat list")
        );
        assert_eq!(playlist_kind(b"\0\0\0 ftypisom"), None);
    }
}
