//! What a file's own structure tells that libav passes over in silence: where it should end, where the chain of its
//! elements is broken, and which of its checksums do not fit.
//!
//! libav is made to show what it can: behind damage it looks for the next element that it knows, and the pictures
//! between are missing without a word. Containers that name the length of every element are followed here from one to
//! the next: Matroska, AVI, FLV, Ogg; of a transport stream's packets the numbers are looked at. Ogg has a checksum for every page, Matroska may have one for every cluster (those
//! of ffmpeg do, `WebM` does not).
//!
//! What cannot be known: bytes that were changed within a picture, where the container has no checksum and the decoder
//! finds what it reads plausible. Codecs with an arithmetic coder (H.264 and HEVC with CABAC, VP8, VP9, AV1) have no
//! redundancy: the decoder notices only when it runs out of bytes or meets a forbidden value. libav's decoder of
//! MS-MPEG-4 notices, conceals and does not tell. Of 20 clips of 4 s at 25 Hz, sampled at 10 Hz, with 8 bytes changed
//! within one picture, so many were refused: VP8, HEVC and MS-MPEG-4 0, VP9 3, MJPEG 9 (of which only the pictures that
//! are sampled are decoded), H.264 10, AV1 17, MPEG-1 18, MPEG-2 and MPEG-4 20; Theora in Ogg and H.264 in ffmpeg's
//! Matroska 20. Program streams have no lengths to follow: whole packets that are missing there are missed by nobody.

use std::fs::File;
use std::io;
use std::sync::atomic::AtomicBool;

mod avi;
mod ebml;
mod flv;
mod matroska;
mod mp4;
mod mpegts;
mod ogg;
mod walk;

pub(super) use mpegts::{clock_leaps, lost_packets};
pub(super) use walk::{Findings, head_of};

/// Whether the file is shorter than its own structure says, and in what words: libav takes a cut-off mp4 for one
/// that is over.
pub(super) fn declared_end(file: &File) -> io::Result<Option<String>> {
    let length = file.metadata()?.len();
    let head = walk::head_of(file)?;
    let end = if head.get(4..8).is_some_and(mp4::is_box) {
        mp4::end(file, length)?
    } else if matroska::is_matroska(&head) {
        matroska::segment(&head).and_then(|(_, end)| end)
    } else if avi::is_avi(&head) {
        avi::end(&head, length)
    } else {
        None
    };
    Ok(end
        .filter(|end| *end > length)
        .map(|end| format!("it has {length} bytes and its structure goes on to {end}")))
}

/// Where the file is not as its own structure has it, in containers that libav reads on in behind such a place, and what
/// it says of its length. Of a file that [`declared_end`] has found cut off, nothing more is to be told. Once `stop` is set,
/// nothing is found.
pub(super) fn inspect(file: &File, stop: &AtomicBool) -> io::Result<Findings> {
    let head = walk::head_of(file)?;
    let walk = walk::Walk {
        file,
        length: file.metadata()?.len(),
        stop,
    };
    if let Some((start, end)) = matroska::segment(&head) {
        matroska::inspect(&walk, start, end)
    } else if avi::is_avi(&head) {
        avi::inspect(&walk)
    } else if flv::is_flv(&head) {
        flv::inspect(&walk, &head)
    } else if head.starts_with(b"OggS") {
        ogg::inspect(&walk)
    } else if let Some(layout) = mpegts::Layout::of(&head) {
        mpegts::inspect(&walk, layout)
    } else {
        Ok(Findings {
            end_is_known: head.get(4..8).is_some_and(mp4::is_box),
            ..Findings::default()
        })
    }
}
