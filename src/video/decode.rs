//! One decoder: packets in, the pictures that samples show out.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::path::Path;

use ffmpeg_next::codec::discard::Discard;
use ffmpeg_next::{Dictionary, Error, Packet, Rational, codec, decoder, ffi, frame};

use super::error::VideoError;
use super::facts::StreamFacts;
use super::picture::MAX_PIXELS;
use super::timeline::{Needed, PacketFacts, SampleClock};

/// Pictures that a decoder may be behind its packets.
const MAX_DELAY: i64 = 32;

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

/// What comes out of a decoder.
pub(super) enum Seen<'a> {
    /// A picture and the samples that show it.
    Picture(&'a frame::Video, RangeInclusive<u64>),
    /// Samples for which there is no good picture, nor one before it among those that were decoded.
    Nothing(RangeInclusive<u64>),
    /// A stretch without a good picture.
    Damage(SeenDamage),
}

/// A stretch without a good picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SeenDamage {
    /// In ticks from the origin.
    pub(super) from: i64,
    pub(super) to: i64,
    pub(super) reason: String,
}

/// What takes it.
pub(super) type Sink<'a> = dyn FnMut(Seen<'_>) -> Result<(), DecodeFailure> + 'a;
/// Packets as they are read, with their numbers, to the end of the group.
pub(super) type Packets<'a> = &'a mut dyn Iterator<Item = (usize, Packet)>;

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

/// Shows a decoder the film's first packet, of which nothing is kept but what it says of its writer: for films of some
/// encoders libav's decoders have to know that (x264 before build 151 with 4:4:4), and it stands nowhere else.
pub(super) fn introduce(decoder: &mut decoder::Video, first: Option<&Packet>, facts: &StreamFacts) {
    let Some(first) = first.filter(|_| matches!(facts.header.codec.as_str(), "h264" | "mpeg4")) else {
        return;
    };
    let mut picture = frame::Video::empty();
    // What goes wrong here goes wrong where the packet is decoded for its picture.
    if decoder.send_packet(first).is_ok() && decoder.send_eof().is_ok() {
        while decoder.receive_frame(&mut picture).is_ok() {}
    }
    decoder.flush();
}

/// Whether a decoder can start at any packet that the container calls a key packet. Codecs of old files replace parts of the
/// picture only, and their writers call packets as they like.
pub(super) fn starts_at_key_packets(facts: &StreamFacts) -> bool {
    facts.header.intra_only
        || matches!(
            facts.header.codec.as_str(),
            "h264"
                | "hevc"
                | "av1"
                | "vp8"
                | "vp9"
                | "mpeg4"
                | "mpeg1video"
                | "mpeg2video"
                | "msmpeg4v2"
                | "msmpeg4v3"
                | "theora"
        )
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
    facts: &[PacketFacts],
    sink: &mut Sink<'_>,
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
                sink(Seen::Picture(picture, next.samples.clone()))
            }
            Some(next) if next.pts < pts => Err(DecodeFailure::NotAsPlanned),
            _ => Ok(()),
        }
    };
    let mut picture = frame::Video::empty();
    let mut first = true;
    for (index, packet) in packets {
        if facts[index].damaged {
            return Err(DecodeFailure::NotAsPlanned);
        }
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

/// One picture after the other, going by the times that the decoder gives them: for packets that do not tell when their
/// pictures are shown, and around damage, which is passed over here.
///
/// A picture is damaged if its decoder fails or says so, and so are all that are decoded after it up to the next key
/// picture, which may refer to it.
pub(super) struct Sequence<'a> {
    pub(super) packets: &'a [PacketFacts],
    pub(super) clock: SampleClock,
    pub(super) origin: Option<i64>,
    pub(super) lead: i64,
    /// Where the origin is not known: the time that the first picture has with a decoder that waits for no more packets
    /// than the container says.
    pub(super) first_time: Option<i64>,
    pub(super) interval: i64,
    /// The samples that are wanted.
    pub(super) samples: Range<u64>,
    /// What is damaged up to the end is damaged up to here, in ticks from the origin.
    pub(super) until: i64,
}

impl Sequence<'_> {
    /// Decodes all packets. Fails only for want of memory, or as `sink` does.
    pub(super) fn decode(
        &self,
        decoder: &mut decoder::Video,
        packets: Packets<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<(), DecodeFailure> {
        let mut way = Way {
            of: self,
            display: Display {
                clock: self.clock,
                origin: self.origin,
                interval: self.interval,
                next: self.samples.start,
                end: self.samples.end,
                shown: None,
            },
            start_pts: None,
            waiting: BTreeMap::new(),
            trouble: None,
            sink,
        };
        decoder.skip_frame(Discard::Default);
        for (index, packet) in packets {
            way.decode(decoder, index, &packet)?;
        }
        way.drain(decoder)?;
        way.finish()
    }
}

/// Why no picture is shown, and since when.
struct Trouble {
    /// The first packet that is hit.
    index: usize,
    /// The time of the earliest picture that is hit.
    from: i64,
    reason: String,
    /// The time of the key picture from which on pictures are good again, once its packet has come; the least there is if
    /// it has none.
    recovery: Option<i64>,
}

/// A sequence on its way through a decoder.
struct Way<'a, 'b> {
    of: &'a Sequence<'a>,
    display: Display,
    start_pts: Option<i64>,
    /// Packets whose pictures have not come out, by time.
    waiting: BTreeMap<i64, usize>,
    trouble: Option<Trouble>,
    sink: &'a mut Sink<'b>,
}

impl Way<'_, '_> {
    fn decode(&mut self, decoder: &mut decoder::Video, index: usize, packet: &Packet) -> Result<(), DecodeFailure> {
        let facts = self.of.packets[index];
        let start = *self.start_pts.get_or_insert(facts.pts.unwrap_or(i64::MIN));
        // Leading pictures of the very first key picture, see `decode_group`.
        let leading = facts.pts.is_some_and(|pts| pts < start);
        if self.trouble.is_some() && facts.key && !facts.hidden {
            // Nothing of what was damaged is left in the decoder.
            self.drain(decoder)?;
            if let Some(trouble) = &mut self.trouble {
                trouble.recovery = Some(facts.pts.unwrap_or(i64::MIN));
            }
        }
        if let (Some(pts), false) = (facts.pts, leading) {
            self.waiting.insert(pts, index);
        }
        if facts.damaged && !leading {
            self.hit(
                index,
                facts.pts,
                "the container marks a packet as damaged, or those before it are missing",
            );
        }
        match decoder.send_packet(packet) {
            Err(source @ Error::Other { errno: ffi::ENOMEM }) => return Err(out_of_memory(source)),
            Err(source) if !leading => self.fail(source),
            Ok(()) | Err(_) => {}
        }
        self.receive_all(decoder, leading)
    }

    /// Takes what is left in the decoder, which is as new then.
    fn drain(&mut self, decoder: &mut decoder::Video) -> Result<(), DecodeFailure> {
        if decoder.send_eof().is_ok() {
            self.receive_all(decoder, false)?;
        }
        decoder.flush();
        self.waiting.clear();
        Ok(())
    }

    fn receive_all(&mut self, decoder: &mut decoder::Video, leading: bool) -> Result<(), DecodeFailure> {
        let mut picture = frame::Video::empty();
        loop {
            match receive(decoder, &mut picture) {
                Ok(Step::Picture) => self.take(&mut picture)?,
                Ok(Step::MorePackets | Step::End) => return Ok(()),
                Err(source @ Error::Other { errno: ffi::ENOMEM }) => return Err(out_of_memory(source)),
                Err(_) if leading => return Ok(()),
                Err(source) => {
                    self.fail(source);
                    return Ok(());
                }
            }
        }
    }

    /// A failure of the decoder is one of the earliest packet whose picture has not come out: it works on several.
    fn fail(&mut self, source: Error) {
        let earliest = self.waiting.iter().min_by_key(|(_, index)| **index);
        let (pts, index) = earliest.map_or((None, 0), |(pts, index)| (Some(*pts), *index));
        self.hit(index, pts, &source.to_string());
    }

    fn hit(&mut self, index: usize, time: Option<i64>, reason: &str) {
        let time = time.unwrap_or_else(|| self.display.following());
        match &mut self.trouble {
            Some(trouble) => {
                trouble.from = trouble.from.min(time);
                trouble.recovery = None;
            }
            none => {
                *none = Some(Trouble {
                    index,
                    from: time,
                    reason: reason.to_owned(),
                    recovery: None,
                });
            }
        }
    }

    fn take(&mut self, picture: &mut frame::Video) -> Result<(), DecodeFailure> {
        let pts = picture.pts();
        if pts.is_some_and(|pts| self.start_pts.is_some_and(|start| pts < start)) {
            return Ok(());
        }
        let time = picture.timestamp().unwrap_or_else(|| self.display.following());
        if self.display.origin.is_none() {
            // A decoder gives the first picture the time of the packet with which it comes out. If that is long after its own,
            // the second one is late.
            let is_own = |own: &i64| time.saturating_sub(*own) <= MAX_DELAY.saturating_mul(self.of.interval);
            let first = self.of.first_time.filter(|own| !is_own(own)).unwrap_or(time);
            self.display.origin = Some(first.saturating_sub(self.of.lead));
        }
        let index = pts.and_then(|pts| self.waiting.remove(&pts));
        if is_damaged(picture) {
            self.hit(index.unwrap_or(0), Some(time), &Error::InvalidData.to_string());
            return Ok(());
        }
        if let Some(trouble) = &mut self.trouble {
            let is_before = index.is_some_and(|index| index < trouble.index);
            let is_behind = |key_pts: i64| pts.is_none_or(|pts| pts >= key_pts);
            let is_recovered = trouble.recovery.is_some_and(is_behind);
            if is_recovered {
                self.report(time)?;
            } else if !is_before {
                trouble.from = trouble.from.min(time);
                return Ok(());
            }
        }
        let shown = std::mem::replace(picture, frame::Video::empty());
        self.display.show(shown, time, self.sink)
    }

    /// The trouble is over at `to`.
    fn report(&mut self, to: i64) -> Result<(), DecodeFailure> {
        let Some(trouble) = self.trouble.take() else {
            return Ok(());
        };
        let origin = self.display.origin.unwrap_or(0);
        let damage = SeenDamage {
            from: trouble.from.saturating_sub(origin).max(0),
            to: to.saturating_sub(origin),
            reason: trouble.reason,
        };
        (self.sink)(Seen::Damage(damage))
    }

    fn finish(mut self) -> Result<(), DecodeFailure> {
        let until = self.of.until.saturating_add(self.display.origin.unwrap_or(0));
        self.report(until)?;
        self.display.finish(self.sink)
    }
}

fn out_of_memory(source: Error) -> DecodeFailure {
    DecodeFailure::Video(VideoError::Libav {
        step: "decode a picture",
        source,
    })
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
    /// The time of the next picture, if it has none itself.
    fn following(&self) -> i64 {
        let latest = self.shown.as_ref().map(|(time, _)| *time);
        latest.map_or(self.origin.unwrap_or(0), |time| time.saturating_add(self.interval))
    }

    fn show(&mut self, picture: frame::Video, time: i64, sink: &mut Sink<'_>) -> Result<(), DecodeFailure> {
        let origin = i128::from(*self.origin.get_or_insert(time));
        let before = self.clock.samples_before(i128::from(time) - origin);
        // Before the first picture, it is the first one.
        if self.shown.is_some() {
            self.hand_out(before.min(self.end), sink)?;
        }
        self.shown = Some((time, picture));
        Ok(())
    }

    fn finish(mut self, sink: &mut Sink<'_>) -> Result<(), DecodeFailure> {
        let end = self.end;
        self.hand_out(end, sink)
    }

    fn hand_out(&mut self, after: u64, sink: &mut Sink<'_>) -> Result<(), DecodeFailure> {
        if after <= self.next {
            return Ok(());
        }
        let samples = self.next..=after - 1;
        self.next = after;
        match &self.shown {
            Some((_, picture)) => sink(Seen::Picture(picture, samples)),
            None => sink(Seen::Nothing(samples)),
        }
    }
}
