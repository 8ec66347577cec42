//! The pass over the packets alone: what a video is, when its pictures are shown, and what of it is known to be damaged.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use ffmpeg_next::{Rational, packet};

use super::error::VideoError;
use super::facts::{StreamFacts, seconds};
use super::file::open_file;
use super::picture::Geometry;
use super::request::VideoInfo;
use super::source::{Source, positive};
use super::structure::{self, Findings};
use super::sys;
use super::timeline::{Fraction, PacketFacts, Timeline, go_on_after_restarts, leaps};

/// Pictures of one file, which bounds the memory of the packet pass: 60 Hz for two days.
const MAX_PACKETS: usize = 10_000_000;

/// What the packet pass found.
pub(super) struct Scan {
    pub(super) facts: StreamFacts,
    pub(super) packets: Vec<PacketFacts>,
    pub(super) timeline: Timeline,
    /// Where the container gives damage away.
    pub(super) damage: Vec<KnownDamage>,
    findings: Findings,
}

/// A stretch of which the container says that something is wrong there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KnownDamage {
    /// In ticks of the stream.
    pub(super) from: i64,
    pub(super) to: i64,
    /// Pictures are missing there; otherwise the decoder has to tell whether any is hit.
    pub(super) lost: bool,
    pub(super) reason: String,
}

/// A packet as it is in the file.
struct Read {
    position: Option<u64>,
    doubted: bool,
}

impl Scan {
    /// Reads all packets' times. Fails for a file whose end is missing, before anything of it is used.
    pub(super) fn of(mut source: Source, stop: &AtomicBool) -> Result<Self, VideoError> {
        let path = source.path.clone();
        let findings = inspect(&path, &source, stop)?;
        if source.cut_off.is_none() {
            source.cut_off.clone_from(&findings.cut_off);
        }
        let mut packets = Vec::new();
        let mut read = Vec::new();
        while let Some(packet) = source.next_packet()? {
            if stop.load(Ordering::Relaxed) {
                return Err(VideoError::Cancelled);
            }
            if packets.len() == MAX_PACKETS {
                return Err(VideoError::TooLarge {
                    path,
                    detail: format!("more than {MAX_PACKETS} pictures"),
                });
            }
            read.push(Read {
                position: u64::try_from(packet.position()).ok(),
                doubted: packet.is_corrupt(),
            });
            packets.push(PacketFacts {
                pts: packet.pts(),
                dts: packet.dts(),
                duration: packet.duration(),
                key: packet.is_key(),
                hidden: sys::is_hidden(&packet),
                damaged: false,
            });
        }
        if let Some(detail) = source.cut_off {
            return Err(VideoError::Truncated { path, detail });
        }
        let time_base = source.time_base;
        let header = sys::stream_header(&mut source.input, source.stream);
        let stream = source
            .input
            .stream(source.stream)
            .expect("the stream that was chosen from this file");
        let container_start =
            sys::start_microseconds(&source.input).map(|start| sys::ticks_of_microseconds(start, &stream));
        let mean_rate = positive(stream.avg_frame_rate());
        // Field pictures can come in a packet each; only the decoder can tell.
        let fields = header.interlaced;
        let usual_interval = positive(Rational::new(header.usual_rate.0, header.usual_rate.1))
            .or(mean_rate)
            .and_then(|rate| interval(rate, time_base));
        if sys::may_start_again(&source.input) {
            let joints = joints(&path, &packets, &read, time_base, stop)?;
            go_on_after_restarts(&mut packets, &joints, usual_interval.unwrap_or(1), time_base);
        }
        let timeline = Timeline::of(&packets, container_start, usual_interval, time_base, fields)
            .ok_or_else(|| VideoError::NoFrames { path: path.clone() })?;
        let is_counted = place_doubts(&path, header.id, &mut read, stop)?;
        // Of a transport stream it is known that packets were lost on the way, and how many pictures that hits.
        if !is_counted && read.last().is_some_and(|last| last.doubted) {
            return Err(VideoError::Truncated {
                path,
                detail: "its last picture is not whole".to_owned(),
            });
        }
        let damage = known_damage(&mut packets, &read, &findings, timeline.interval);
        let facts = StreamFacts {
            header,
            time_base,
            display_matrix: stream.side_data().find_map(|data| match data.kind() {
                packet::side_data::Type::DisplayMatrix => matrix(data.data()),
                _ => None,
            }),
            mean_rate_hz: mean_rate.map_or(0.0, Fraction::value),
        };
        Ok(Self {
            facts,
            packets,
            timeline,
            damage,
            findings,
        })
    }

    /// Mean frame rate: the container's if the pictures agree with it, so that 29.97 Hz is not 29.9702.
    #[expect(clippy::cast_precision_loss, reason = "less than 2^53 pictures")]
    fn mean_rate_hz(&self) -> f64 {
        let measured = self.timeline.pictures as f64 / self.length_seconds().max(f64::MIN_POSITIVE);
        let stated = self.facts.mean_rate_hz;
        if stated > 0.0 && (!measured.is_finite() || (stated / measured - 1.0).abs() < 0.01) {
            stated
        } else {
            measured
        }
    }

    /// The time that a decoder gives the first picture, by the container.
    pub(super) fn first_time(&self) -> Option<i64> {
        let first = self.packets.get(self.timeline.first_packet)?;
        Some(
            first
                .dts?
                .saturating_add(self.facts.header.delay.saturating_mul(self.timeline.interval)),
        )
    }

    fn length_seconds(&self) -> f64 {
        seconds(self.timeline.length, self.facts.time_base)
    }

    pub(super) fn info(&self, geometry: &Geometry) -> VideoInfo {
        VideoInfo {
            width: geometry.width,
            height: geometry.height,
            duration_seconds: self.length_seconds(),
            frame_rate_hz: self.mean_rate_hz(),
            codec: self.facts.header.codec.clone(),
            is_hdr: self.facts.header.is_hdr,
            end_is_known: self.findings.end_is_known,
            stated_seconds: self.findings.stated_seconds,
        }
    }
}

fn inspect(path: &Path, source: &Source, stop: &AtomicBool) -> Result<Findings, VideoError> {
    if source.cut_off.is_some() {
        return Ok(Findings::default());
    }
    let file = open_file(path)?;
    structure::inspect(&file, stop).map_err(|source| VideoError::Io {
        path: path.to_owned(),
        source,
    })
}

/// The packets with which another recording begins whose clock is ahead: those of a transport stream that leap ahead where the
/// whole of it does.
fn joints(
    path: &Path,
    packets: &[PacketFacts],
    read: &[Read],
    time_base: Fraction,
    stop: &AtomicBool,
) -> Result<Vec<usize>, VideoError> {
    let leaping = leaps(packets, time_base);
    if leaping.is_empty() {
        return Ok(leaping);
    }
    let file = open_file(path)?;
    let clock = structure::clock_leaps(&file, stop).map_err(|source| VideoError::Io {
        path: path.to_owned(),
        source,
    })?;
    let position = |index: usize| read.get(index).and_then(|read| read.position);
    let is_joint = |&index: &usize| {
        let before = index.checked_sub(1).and_then(position).unwrap_or(0);
        // The clock may be in packets of the sound, a little behind those of the picture.
        let behind = position(index + 1).unwrap_or(u64::MAX);
        let next = clock.partition_point(|at| *at <= before);
        clock.get(next).is_some_and(|at| *at <= behind)
    };
    Ok(leaping.into_iter().filter(is_joint).collect())
}

/// Of a transport stream it is known where packets were lost. libav doubts the picture before, since it tells of a picture once
/// the next one begins, never the last one, and also one where segments were joined and nothing is missing: its doubts say that
/// it is worth to look. Says whether the file is one whose lost packets are known.
fn place_doubts(path: &Path, stream_id: i32, read: &mut [Read], stop: &AtomicBool) -> Result<bool, VideoError> {
    let (true, Ok(pid)) = (read.iter().any(|packet| packet.doubted), u16::try_from(stream_id)) else {
        return Ok(false);
    };
    let file = open_file(path)?;
    let lost = structure::lost_packets(&file, pid, stop).map_err(|source| VideoError::Io {
        path: path.to_owned(),
        source,
    })?;
    let Some(lost) = lost else { return Ok(false) };
    for index in 0..read.len() {
        let Some(begins) = read[index].position else {
            continue;
        };
        // What is missing before the next packet begins is missing in this one.
        let next = read.get(index + 1).and_then(|next| next.position).unwrap_or(u64::MAX);
        let from = lost.partition_point(|at| *at <= begins);
        read[index].doubted = lost.get(from).is_some_and(|at| *at <= next);
    }
    Ok(true)
}

/// Marks the packets that are damaged or follow what was lost, and gathers what the container says of damage.
fn known_damage(packets: &mut [PacketFacts], read: &[Read], findings: &Findings, interval: i64) -> Vec<KnownDamage> {
    let mut damage = Vec::new();
    for (packet, read) in packets.iter_mut().zip(read) {
        if read.doubted {
            packet.damaged = true;
            let from = packet.pts.or(packet.dts).unwrap_or(0);
            damage.push(KnownDamage {
                from,
                to: from.saturating_add(interval),
                lost: false,
                reason: "the container marks a packet as damaged".to_owned(),
            });
        }
    }
    let time = |packet: &PacketFacts| packet.pts.or(packet.dts);
    for broken in &findings.breaks {
        let is_before = |read: &Read| read.position.is_some_and(|position| position < broken.at);
        let next = read.iter().rposition(is_before).map_or(0, |last| last + 1);
        let latest = packets[..next].iter().filter_map(time).max();
        let from = latest.map(|latest| latest.saturating_add(interval));
        let (to, lost) = if let Some(until) = broken.until {
            let is_within = |read: &Read| read.position.is_some_and(|position| position < until);
            let behind = read[next..].iter().position(|read| !is_within(read));
            let behind = behind.map_or(packets.len(), |count| next + count);
            let last = packets[next..behind].iter().filter_map(time).max();
            (last.map(|last| last.saturating_add(interval)), false)
        } else {
            // What refers to lost pictures cannot be shown either.
            if let Some(packet) = packets.get_mut(next) {
                packet.damaged |= !packet.key;
            }
            (packets.get(next).and_then(time), true)
        };
        let from = from.or(to).unwrap_or(0);
        damage.push(KnownDamage {
            from,
            to: to.unwrap_or(from).max(from),
            lost,
            reason: broken.detail.clone(),
        });
    }
    damage
}

/// A picture's length at `rate`, in ticks.
fn interval(rate: Fraction, time_base: Fraction) -> Option<i64> {
    let ticks = i128::from(rate.denominator) * i128::from(time_base.denominator)
        / (i128::from(rate.numerator) * i128::from(time_base.numerator));
    i64::try_from(ticks).ok().filter(|ticks| *ticks > 0)
}

fn matrix(bytes: &[u8]) -> Option<[i32; 9]> {
    let (numbers, _) = bytes.as_chunks::<4>();
    let numbers: Vec<i32> = numbers.iter().map(|bytes| i32::from_ne_bytes(*bytes)).collect();
    numbers.get(..9)?.try_into().ok()
}
