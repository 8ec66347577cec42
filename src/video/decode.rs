//! One decoder: packets in, the pictures that samples show out.

use std::path::Path;

use ffmpeg_next::codec::discard::Discard;
use ffmpeg_next::{Dictionary, Error, Packet, Rational, codec, decoder, ffi, frame};

use super::VideoError;
use super::picture::MAX_PIXELS;
use super::source::{self, StreamFacts};
use super::timeline::{Needed, SampleClock, Timeline};

/// Why a group of pictures did not come out.
#[derive(Debug)]
pub(super) enum DecodeFailure {
    /// What was planned did not come out of the decoder, or it failed: decoding everything will tell why.
    NotAsPlanned,
    /// No other way will do either.
    Video(VideoError),
}

impl From<VideoError> for DecodeFailure {
    fn from(error: VideoError) -> Self {
        Self::Video(error)
    }
}

/// What takes a picture and the samples that show it.
pub(super) type PictureSink<'a> =
    dyn FnMut(&frame::Video, std::ops::RangeInclusive<u64>) -> Result<(), DecodeFailure> + 'a;
/// Packets as they are read, to the end of the group.
pub(super) type Packets<'a> = &'a mut dyn Iterator<Item = Packet>;

/// Opens a decoder of the stream.
pub(super) fn open(
    parameters: codec::Parameters,
    time_base: Rational,
    threads: usize,
    path: &Path,
) -> Result<decoder::Video, VideoError> {
    let unsupported = |codec: codec::Id| VideoError::UnsupportedCodec {
        path: path.to_owned(),
        codec: codec.name().to_owned(),
    };
    let id = parameters.id();
    let failed = |source| VideoError::Libav {
        step: "open the decoder",
        source,
    };
    let mut context = codec::Context::from_parameters(parameters).map_err(failed)?.decoder();
    context.set_packet_time_base(time_base);
    let codec = decoder::find(id).ok_or_else(|| unsupported(id))?;
    let mut options = Dictionary::new();
    options.set("threads", &threads.max(1).to_string());
    options.set("max_pixels", &MAX_PIXELS.to_string());
    // This decoder notices nearly all damage, and neither fails nor marks the picture unless it is told to. Those of
    // MPEG-4 and its kin mark theirs; told to fail, they leave behind what makes libav abort the process (5.1.9).
    if id == codec::Id::MJPEG {
        options.set("err_detect", "explode");
    }
    match context.open_as_with(codec, options) {
        Ok(opened) => opened.video().map_err(failed),
        Err(source @ Error::Other { errno: ffi::ENOMEM }) => Err(failed(source)),
        Err(_) => Err(unsupported(id)),
    }
}

/// Whether pictures that are no reference can be left out without any other picture suffering.
///
/// In HEVC "not a reference" holds for one temporal layer only, so there must be just one: `hvcC` says so.
pub(super) fn can_skip(facts: &StreamFacts) -> bool {
    match facts.header.codec.as_str() {
        "h264" | "mpeg4" | "mpeg1video" | "mpeg2video" | "msmpeg4v2" | "msmpeg4v3" => true,
        "hevc" => {
            let extradata = &facts.header.extradata;
            let temporal_layers = extradata.get(21).map(|byte| byte >> 3 & 7);
            extradata.first() == Some(&1) && temporal_layers == Some(1)
        }
        _ => false,
    }
}

/// What the decoder says next.
enum Step {
    Picture,
    MorePackets,
    End,
}

fn receive(decoder: &mut decoder::Video, picture: &mut frame::Video) -> Result<Step, Error> {
    match decoder.receive_frame(picture) {
        Ok(()) => Ok(Step::Picture),
        Err(Error::Eof) => Ok(Step::End),
        Err(Error::Other { errno: ffi::EAGAIN }) => Ok(Step::MorePackets),
        Err(error) => Err(error),
    }
}

fn is_damaged(picture: &frame::Video) -> bool {
    picture.is_corrupt() || picture.has_decode_errors()
}

/// Decodes one group, from a key packet on, and hands the needed pictures to `sink` in order.
pub(super) fn decode_group(
    decoder: &mut decoder::Video,
    packets: Packets<'_>,
    start_pts: i64,
    needed: &[Needed],
    can_skip: bool,
    sink: &mut PictureSink<'_>,
) -> Result<(), DecodeFailure> {
    let mut waiting = needed.iter();
    let mut take = |picture: &frame::Video, waiting: &mut std::slice::Iter<'_, Needed>| {
        let Some(pts) = picture.pts() else {
            return Err(DecodeFailure::NotAsPlanned);
        };
        // Leading pictures without what they refer to: players do not show them, and the group before had them.
        if pts < start_pts {
            return Ok(());
        }
        if is_damaged(picture) {
            return Err(DecodeFailure::NotAsPlanned);
        }
        match waiting.as_slice().first() {
            Some(next) if next.pts == pts => {
                waiting.next();
                sink(picture, next.samples.clone())
            }
            Some(next) if next.pts < pts => Err(DecodeFailure::NotAsPlanned),
            _ => Ok(()),
        }
    };
    let mut picture = frame::Video::empty();
    let mut first = true;
    for packet in packets {
        let pts = packet.pts().ok_or(DecodeFailure::NotAsPlanned)?;
        let is_needed = first || needed.binary_search_by_key(&pts, |needed| needed.pts).is_ok();
        first = false;
        decoder.skip_frame(if can_skip && !is_needed {
            Discard::NonReference
        } else {
            Discard::Default
        });
        if decoder.send_packet(&packet).is_err() && pts >= start_pts {
            return Err(DecodeFailure::NotAsPlanned);
        }
        loop {
            match receive(decoder, &mut picture) {
                Ok(Step::Picture) => take(&picture, &mut waiting)?,
                Ok(Step::MorePackets | Step::End) => break,
                Err(_) if pts < start_pts => break,
                Err(_) => return Err(DecodeFailure::NotAsPlanned),
            }
        }
    }
    decoder.send_eof().map_err(|_| DecodeFailure::NotAsPlanned)?;
    loop {
        match receive(decoder, &mut picture) {
            Ok(Step::Picture) => take(&picture, &mut waiting)?,
            Ok(Step::MorePackets | Step::End) => break,
            Err(_) => return Err(DecodeFailure::NotAsPlanned),
        }
    }
    decoder.flush();
    if waiting.as_slice().is_empty() {
        Ok(())
    } else {
        Err(DecodeFailure::NotAsPlanned)
    }
}

/// What decoding everything goes by.
pub(super) struct Everything<'a> {
    pub(super) path: &'a Path,
    pub(super) facts: &'a StreamFacts,
    pub(super) timeline: &'a Timeline,
    pub(super) clock: SampleClock,
    /// Samples that are still to come, of all.
    pub(super) samples: std::ops::Range<u64>,
}

impl Everything<'_> {
    /// Decodes all packets, and hands to `sink` the pictures that samples show, going by the times that the decoder
    /// gives the pictures. Here a failure of the decoder is one of the video.
    pub(super) fn decode(
        &self,
        decoder: &mut decoder::Video,
        packets: Packets<'_>,
        sink: &mut PictureSink<'_>,
    ) -> Result<(), DecodeFailure> {
        let mut display = Display {
            clock: self.clock,
            origin: self.timeline.origin,
            interval: self.timeline.interval,
            next: self.samples.start,
            end: self.samples.end,
            shown: None,
        };
        let first_key = self.timeline.origin;
        let mut start_pts = None;
        let mut picture = frame::Video::empty();
        decoder.skip_frame(Discard::Default);
        for packet in packets {
            let time = packet.pts().or(packet.dts());
            let start = *start_pts.get_or_insert(packet.pts().unwrap_or(i64::MIN));
            // Leading pictures of the very first key picture, see `decode_group`.
            let leading = packet.pts().is_some_and(|pts| pts < start);
            if let Err(source) = decoder.send_packet(&packet)
                && !leading
            {
                return Err(self.damaged(time, first_key, source).into());
            }
            loop {
                match receive(decoder, &mut picture) {
                    Ok(Step::Picture) => self.show(&mut display, &mut picture, start, sink)?,
                    Ok(Step::MorePackets | Step::End) => break,
                    Err(_) if leading => break,
                    Err(source) => return Err(self.damaged(time, first_key, source).into()),
                }
            }
        }
        let ended = |source| VideoError::Libav {
            step: "end decoding",
            source,
        };
        decoder.send_eof().map_err(ended)?;
        let start = start_pts.unwrap_or(i64::MIN);
        loop {
            match receive(decoder, &mut picture) {
                Ok(Step::Picture) => self.show(&mut display, &mut picture, start, sink)?,
                Ok(Step::MorePackets | Step::End) => break,
                Err(source) => return Err(self.damaged(display.latest(), first_key, source).into()),
            }
        }
        decoder.flush();
        if display.shown.is_none() {
            return Err(VideoError::NoFrames {
                path: self.path.to_owned(),
            }
            .into());
        }
        display.finish(sink)
    }

    fn show(
        &self,
        display: &mut Display,
        picture: &mut frame::Video,
        start: i64,
        sink: &mut PictureSink<'_>,
    ) -> Result<(), DecodeFailure> {
        if picture.pts().is_some_and(|pts| pts < start) {
            return Ok(());
        }
        if is_damaged(picture) {
            let error = self.damaged(picture.timestamp(), self.timeline.origin, Error::InvalidData);
            return Err(error.into());
        }
        let shown = std::mem::replace(picture, frame::Video::empty());
        display.show(shown, sink)
    }

    fn damaged(&self, time: Option<i64>, origin: Option<i64>, source: Error) -> VideoError {
        let ticks = time.unwrap_or(0).saturating_sub(origin.unwrap_or(0));
        VideoError::Corrupt {
            path: self.path.to_owned(),
            at_seconds: source::seconds(ticks.max(0), self.facts.time_base),
            detail: source.to_string(),
        }
    }
}

/// What is on display while pictures come in.
struct Display {
    clock: SampleClock,
    origin: Option<i64>,
    interval: i64,
    /// The first sample that has not been handed out, and the one after the last.
    next: u64,
    end: u64,
    /// The picture on display and its time.
    shown: Option<(i64, frame::Video)>,
}

impl Display {
    fn latest(&self) -> Option<i64> {
        self.shown.as_ref().map(|(time, _)| *time)
    }

    fn show(&mut self, picture: frame::Video, sink: &mut PictureSink<'_>) -> Result<(), DecodeFailure> {
        let following = self.latest().map(|time| time.saturating_add(self.interval));
        let time = picture.timestamp().or(following).unwrap_or(0);
        let origin = i128::from(*self.origin.get_or_insert(time));
        let mut after = self.next;
        while after < self.end && origin + self.clock.tick(after) < i128::from(time) {
            after += 1;
        }
        // Before the first picture, it is the first one.
        if self.shown.is_some() {
            self.hand_out(after, sink)?;
        }
        self.shown = Some((time, picture));
        Ok(())
    }

    fn finish(mut self, sink: &mut PictureSink<'_>) -> Result<(), DecodeFailure> {
        let end = self.end;
        self.hand_out(end, sink)
    }

    fn hand_out(&mut self, after: u64, sink: &mut PictureSink<'_>) -> Result<(), DecodeFailure> {
        if let (Some((_, picture)), true) = (&self.shown, after > self.next) {
            sink(picture, self.next..=after - 1)?;
            self.next = after;
        }
        Ok(())
    }
}
