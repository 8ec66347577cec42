//! The threads of sampling: one that reads, some that decode, and the caller's, which takes the pictures in order.

use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use ffmpeg_next::{Packet, Rational};

use super::decode::{self, DecodeFailure, Seen, Sequence};
use super::error::VideoError;
use super::jpeg::JpegEncoder;
use super::memory::{PICTURES_AHEAD_BYTES, Plan, READ_AHEAD_BYTES, Tasks};
use super::picture::{Cutter, Geometry};
use super::request::{MAX_RATE_HZ, SampleRequest, SampleSummary, SampledFrame, SinkError};
use super::scan::Scan;
use super::source::Source;
use super::sys;
use super::taken::{Stored, Taken};
use super::timeline::{Fraction, Group, Needed, Route, SampleClock};
use crate::domain::flow::CropBounds;

/// What a packet takes besides its data, about.
const PACKET_OVERHEAD_BYTES: usize = 512;
/// Pictures of one group that its decoder may be ahead of the sink. A decoder that may not finish a group while an earlier
/// one is still decoded stands still until then.
const PICTURES_AHEAD: RangeInclusive<usize> = 32..=1024;
/// How often the calling thread looks at the stop flag while it waits.
const STOP_POLL: Duration = Duration::from_millis(20);
/// Groups that are decoded once more, picture by picture, because something in them is damaged; then all of the rest is.
const MAX_REPAIRS: usize = 20;

/// A group on its way from the reader to a decoder.
struct Work {
    /// It does not begin with the film's first packet.
    begins_within: bool,
    packets: Receiver<(usize, Packet)>,
    order: Order,
    pictures: SyncSender<Result<Stored, DecodeFailure>>,
}

/// What is to be made of the packets.
#[derive(Clone)]
enum Order {
    /// These pictures of one group.
    Planned { start_pts: i64, needed: Vec<Needed> },
    /// Whatever is shown at these samples; what is damaged up to the end is damaged up to `until`, in ticks from the
    /// origin.
    Sequence { samples: Range<u64>, until: i64 },
}

/// Bounds what is read ahead. Acquired by the reader, released by the decoders.
struct Budget {
    used_bytes: Mutex<usize>,
    released: Condvar,
}

/// What stays the same for one video and request.
struct Run<'a> {
    path: &'a Path,
    request: &'a SampleRequest,
    scan: &'a Scan,
    geometry: Geometry,
    bounds: CropBounds,
    clock: SampleClock,
    samples: u64,
}

/// The packets of one way through the file, and what is to be made of them.
enum Part<'a> {
    Groups(&'a [Group]),
    Sequence {
        first: usize,
        last: usize,
        samples: Range<u64>,
        until: i64,
        is_repair: bool,
    },
}

/// One way through the file.
struct Way<'a> {
    run: &'a Run<'a>,
    part: Part<'a>,
    /// The first packet of the film that can be decoded, once it has been read.
    first_packet: Mutex<Option<Packet>>,
    /// Set once nobody wants the rest.
    abandoned: AtomicBool,
    budget: Budget,
}

type Sink<'a> = dyn FnMut(SampledFrame, u64) -> Result<(), SinkError> + 'a;

pub(super) fn sample(
    path: &Path,
    request: &SampleRequest,
    stop: &AtomicBool,
    sink: &mut Sink<'_>,
) -> Result<SampleSummary, VideoError> {
    let rate = rate_of(request)?;
    let scan = Scan::of(Source::open(path)?, stop)?;
    let geometry = Geometry::of(&scan.facts, path)?;
    let bounds = geometry.bounds(request.crop)?;
    let clock = SampleClock::new(rate, scan.facts.time_base);
    let info = scan.info(&geometry);
    let samples = clock
        .samples_in(scan.timeline.length)
        .ok_or_else(|| VideoError::TooLarge {
            path: path.to_owned(),
            detail: format!("its pictures span {:.0} s", info.duration_seconds),
        })?;
    let run = Run {
        path,
        request,
        scan: &scan,
        geometry,
        bounds,
        clock,
        samples,
    };
    let mut taken = Taken::new(path, request, &scan, clock, samples, bounds);
    taken.note_known_damage()?;
    let changed = || VideoError::Changed { path: path.to_owned() };
    match run.follow_route(&mut taken, stop, sink) {
        Ok(()) => {}
        Err(DecodeFailure::Video(error)) => return Err(error),
        Err(DecodeFailure::NotAsPlanned) => return Err(changed()),
    }
    let damage = taken.finish()?;
    Ok(SampleSummary { info, samples, damage })
}

/// The rate as a fraction, of a request that can be fulfilled.
fn rate_of(request: &SampleRequest) -> Result<Fraction, VideoError> {
    let invalid = |argument, value: String, problem| {
        Err(VideoError::InvalidArgument {
            argument,
            value,
            problem,
        })
    };
    let rate = request.frame_rate_hz;
    // The slowest rate whose fraction fits into libav's: a sample every 11 days.
    if !(rate.is_finite() && rate >= 1e-6) {
        return invalid("frame-rate", rate.to_string(), "it must be a number of Hz above 0");
    }
    if rate > MAX_RATE_HZ {
        return invalid("frame-rate", rate.to_string(), "it must be at most 1000 Hz");
    }
    if !(1..=31).contains(&request.jpeg_qscale) {
        return invalid(
            "jpeg_qscale",
            request.jpeg_qscale.to_string(),
            "it must be from 1 to 31",
        );
    }
    let rate = Rational::from(rate);
    Ok(Fraction {
        numerator: i64::from(rate.numerator()),
        denominator: i64::from(rate.denominator()),
    })
}

impl Run<'_> {
    fn follow_route(&self, taken: &mut Taken<'_>, stop: &AtomicBool, sink: &mut Sink<'_>) -> Result<(), DecodeFailure> {
        let scan = self.scan;
        let groups = match scan.timeline.route(&scan.packets, self.clock, self.samples) {
            Route::Groups(groups) => groups,
            Route::Everything => return self.follow(self.everything(taken), taken, stop, sink),
        };
        if !decode::starts_at_key_packets(&scan.facts) {
            return self.follow(self.everything(taken), taken, stop, sink);
        }
        let starts = scan.timeline.starts(&scan.packets);
        let mut rest = groups.as_slice();
        for _ in 0..MAX_REPAIRS {
            match self.follow(Part::Groups(rest), taken, stop, sink) {
                Err(DecodeFailure::NotAsPlanned) => {}
                outcome => return outcome,
            }
            // What has been handed out holds: each of those pictures came out as planned.
            let is_done = |group: &Group| {
                group
                    .needed
                    .last()
                    .is_none_or(|last| *last.samples.end() < taken.next())
            };
            let done = rest.partition_point(is_done);
            let Some((failed, following)) = rest[done..].split_first() else {
                break;
            };
            // With the group before it, whose last picture may be the last good one.
            let start = starts.partition_point(|(_, index)| *index < failed.first);
            let first = starts
                .get(start.saturating_sub(1))
                .map_or(failed.first, |(_, index)| *index);
            let origin = scan.timeline.origin.unwrap_or(0);
            let next_start = starts.get(start + 1).map(|(pts, _)| pts.saturating_sub(origin));
            let end = failed.needed.last().map_or(taken.next(), |last| last.samples.end() + 1);
            let repair = Part::Sequence {
                first,
                last: failed.last,
                samples: taken.next()..end,
                until: next_start.unwrap_or(scan.timeline.length),
                is_repair: true,
            };
            let damage_before = taken.damage_seen();
            self.follow(repair, taken, stop, sink)?;
            if taken.damage_seen() == damage_before {
                // Nothing is damaged: the plan is no good for this video.
                break;
            }
            rest = following;
            if rest.is_empty() {
                return Ok(());
            }
        }
        self.follow(self.everything(taken), taken, stop, sink)
    }

    /// All packets, for the samples that are still to come.
    fn everything(&self, taken: &Taken<'_>) -> Part<'static> {
        Part::Sequence {
            first: self.scan.timeline.first_packet,
            last: usize::MAX,
            samples: taken.next()..self.samples,
            until: self.scan.timeline.length,
            is_repair: false,
        }
    }

    fn follow(
        &self,
        part: Part<'_>,
        taken: &mut Taken<'_>,
        stop: &AtomicBool,
        sink: &mut Sink<'_>,
    ) -> Result<(), DecodeFailure> {
        let way = Way {
            run: self,
            part,
            first_packet: Mutex::new(None),
            abandoned: AtomicBool::new(false),
            budget: Budget::new(),
        };
        way.follow(taken, stop, sink)
    }
}

impl Way<'_> {
    /// Hands out the samples that are next.
    fn follow(&self, taken: &mut Taken<'_>, stop: &AtomicBool, sink: &mut Sink<'_>) -> Result<(), DecodeFailure> {
        let run = self.run;
        let source = Source::open(run.path)?;
        let tasks = match self.part {
            Part::Groups(groups) => Tasks::Groups(groups.len()),
            Part::Sequence { is_repair: true, .. } => Tasks::DamagedSequence,
            Part::Sequence { .. } => Tasks::Sequence,
        };
        let (width, height) = (run.bounds.right - run.bounds.left, run.bounds.bottom - run.bounds.top);
        let Plan { workers, threads_each } = Plan::of(run.path, &run.scan.facts, &run.geometry, run.request, tasks)?;
        let open_codecs = || {
            let decoder = decode::open(source.parameters(), source.time_base(), threads_each, run.path)?;
            let encoder = JpegEncoder::open(width, height, run.request.jpeg_qscale)?;
            Ok::<_, VideoError>((decoder, encoder))
        };
        let codecs = (0..workers).map(|_| open_codecs()).collect::<Result<Vec<_>, _>>()?;
        // A JPEG takes less than half a byte a pixel.
        let picture_bytes = (width as usize * height as usize / 2).max(1);
        let ahead =
            (PICTURES_AHEAD_BYTES / workers / picture_bytes).clamp(*PICTURES_AHEAD.start(), *PICTURES_AHEAD.end());
        let (work_sender, work) = mpsc::channel::<Work>();
        let work = &Mutex::new(work);
        // Groups that are decoded before their turn are in memory.
        let (group_sender, groups) = mpsc::sync_channel(workers + 2);
        thread::scope(|scope| {
            let reader = scope.spawn(move || self.read(source, &work_sender, &group_sender, ahead));
            for (mut decoder, mut encoder) in codecs {
                scope.spawn(move || {
                    let mut cutter = Cutter::new(run.geometry, run.bounds);
                    let mut is_new = true;
                    loop {
                        let next_work = lock(work).recv();
                        let Ok(next_work) = next_work else { return };
                        if std::mem::take(&mut is_new) && next_work.begins_within {
                            let first = lock(&self.first_packet).clone();
                            decode::introduce(&mut decoder, first.as_ref(), &run.scan.facts);
                        }
                        self.decode(next_work, &mut decoder, &mut cutter, &mut encoder);
                    }
                });
            }
            let outcome = take(&groups, taken, stop, sink);
            // Whoever waits for room or for packets must see that nobody takes what they make any more.
            self.abandon();
            // What is on its way to this thread is let go of, so that no decoder waits to hand it over.
            drop(groups);
            match reader.join() {
                // What the reader failed with is why the pictures stopped.
                Ok(Err(error)) if !matches!(outcome, Err(DecodeFailure::Video(_))) => Err(error.into()),
                Ok(_) => outcome,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Reads the file and hands its packets to the groups that need them, in order. Each may have `ahead` pictures that
    /// the sink has not taken.
    fn read(
        &self,
        mut source: Source,
        work: &Sender<Work>,
        groups: &SyncSender<Receiver<Result<Stored, DecodeFailure>>>,
        ahead: usize,
    ) -> Result<(), VideoError> {
        let changed = |source: Source| VideoError::Changed { path: source.path };
        let facts = &self.run.scan.packets;
        let orders: Vec<(usize, usize, Order)> = match &self.part {
            Part::Groups(groups) => groups.iter().map(planned).collect(),
            Part::Sequence {
                first,
                last,
                samples,
                until,
                ..
            } => vec![(
                *first,
                *last,
                Order::Sequence {
                    samples: samples.clone(),
                    until: *until,
                },
            )],
        };
        let mut waiting = orders.into_iter().peekable();
        // Groups that have begun and are not over; two at most, while a group gets its leading pictures.
        let mut open: Vec<(usize, Sender<(usize, Packet)>)> = Vec::with_capacity(2);
        let mut carried = Vec::new();
        for index in 0.. {
            open.retain(|(last, _)| *last >= index);
            if self.abandoned() || open.is_empty() && waiting.peek().is_none() {
                return Ok(());
            }
            let Some(mut packet) = source.next_packet()? else {
                return if index == facts.len() {
                    Ok(())
                } else {
                    Err(changed(source))
                };
            };
            let Some(known) = facts.get(index) else {
                return Err(changed(source));
            };
            // The times on which the plan was made, with what was set right of them.
            packet.set_pts(known.pts);
            packet.set_dts(known.dts);
            sys::carry(&mut carried, &packet);
            if index == self.run.scan.timeline.first_packet {
                *lock(&self.first_packet) = Some(packet.clone());
            }
            if let Some((_, last, order)) = waiting.next_if(|(first, ..)| *first == index) {
                sys::add_carried(&mut packet, &carried).map_err(|source| VideoError::Libav {
                    step: "read a packet",
                    source,
                })?;
                let (packets, received) = mpsc::channel();
                let (pictures, stored) = mpsc::sync_channel(ahead);
                if work
                    .send(Work {
                        begins_within: index != self.run.scan.timeline.first_packet,
                        packets: received,
                        order,
                        pictures,
                    })
                    .is_err()
                    || groups.send(stored).is_err()
                {
                    return Ok(());
                }
                open.push((last, packets));
            }
            if open.is_empty() {
                continue;
            }
            // While two groups are open neither may wait for the other's decoder: those are a few packets.
            if open.len() == 1 && !self.budget.wait_for_room(&self.abandoned) {
                return Ok(());
            }
            let (newest, older) = open.split_last().expect("a group is open");
            for (_, packets) in older {
                self.budget.take(cost(&packet));
                // A decoder that has given up has said why.
                let _ = packets.send((index, packet.clone()));
            }
            self.budget.take(cost(&packet));
            let _ = newest.1.send((index, packet));
        }
        Ok(())
    }

    /// Decodes one group; what comes of it goes into its channel.
    fn decode(
        &self,
        work: Work,
        decoder: &mut ffmpeg_next::decoder::Video,
        cutter: &mut Cutter,
        encoder: &mut JpegEncoder,
    ) {
        let Work {
            packets,
            order,
            pictures,
            ..
        } = work;
        let scan = self.run.scan;
        let mut packets = PacketFlow { packets, way: self };
        let mut store = |seen: Seen<'_>| {
            let stored = match seen {
                Seen::Picture(picture, samples) => Stored::Picture(samples, encoder.encode(&mut cutter.cut(picture)?)?),
                Seen::Nothing(samples) => Stored::Nothing(samples),
                Seen::Damage(damage) => Stored::Damage(damage),
            };
            // Nobody takes it any more: the calling thread has a reason of its own.
            pictures.send(Ok(stored)).map_err(|_| VideoError::Cancelled.into())
        };
        let outcome = match order {
            Order::Planned { start_pts, needed } => {
                let can_skip = decode::can_skip(&scan.facts);
                let facts = &scan.packets;
                decode::decode_group(decoder, &mut packets, start_pts, &needed, can_skip, facts, &mut store)
            }
            Order::Sequence { samples, until } => Sequence {
                packets: &scan.packets,
                clock: self.run.clock,
                origin: scan.timeline.origin,
                lead: scan.timeline.lead,
                first_time: scan.first_time(),
                interval: scan.timeline.interval,
                samples,
                until,
            }
            .decode(decoder, &mut packets, &mut store),
        };
        if let Err(failure) = outcome {
            let _ = pictures.send(Err(failure));
        }
    }

    fn abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    fn abandon(&self) {
        // Set under the lock, so that a reader that is about to wait for room sees it.
        let used_bytes = lock(&self.budget.used_bytes);
        self.abandoned.store(true, Ordering::Relaxed);
        drop(used_bytes);
        self.budget.released.notify_all();
    }
}

/// First and last packet of a group, and what is to be made of it.
fn planned(group: &Group) -> (usize, usize, Order) {
    let order = Order::Planned {
        start_pts: group.start_pts,
        needed: group.needed.clone(),
    };
    (group.first, group.last, order)
}

/// Takes the pictures of the groups in order.
fn take(
    groups: &Receiver<Receiver<Result<Stored, DecodeFailure>>>,
    taken: &mut Taken<'_>,
    stop: &AtomicBool,
    sink: &mut Sink<'_>,
) -> Result<(), DecodeFailure> {
    while let Some(group) = receive(groups, stop)? {
        while let Some(stored) = receive(&group, stop)? {
            taken.take(stored?, stop, sink)?;
        }
    }
    Ok(())
}

/// Waits for the next value, but not past a stop. `None` once all senders are gone.
fn receive<T>(from: &Receiver<T>, stop: &AtomicBool) -> Result<Option<T>, VideoError> {
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(VideoError::Cancelled);
        }
        match from.recv_timeout(STOP_POLL) {
            Ok(value) => return Ok(Some(value)),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// The packets of one group: gives their bytes back to the budget, and ends early once nobody wants the pictures.
struct PacketFlow<'a> {
    packets: Receiver<(usize, Packet)>,
    way: &'a Way<'a>,
}

impl Iterator for PacketFlow<'_> {
    type Item = (usize, Packet);

    fn next(&mut self) -> Option<(usize, Packet)> {
        let (index, packet) = self.packets.recv().ok()?;
        self.way.budget.release(cost(&packet));
        (!self.way.abandoned()).then_some((index, packet))
    }
}

impl Drop for PacketFlow<'_> {
    fn drop(&mut self) {
        for (_, packet) in self.packets.try_iter() {
            self.way.budget.release(cost(&packet));
        }
    }
}

fn cost(packet: &Packet) -> usize {
    packet.size() + PACKET_OVERHEAD_BYTES
}

impl Budget {
    fn new() -> Self {
        Self {
            used_bytes: Mutex::new(0),
            released: Condvar::new(),
        }
    }

    /// Waits until something may be taken; `false` if there is no need any more.
    fn wait_for_room(&self, abandoned: &AtomicBool) -> bool {
        let mut used_bytes = lock(&self.used_bytes);
        while *used_bytes >= READ_AHEAD_BYTES && !abandoned.load(Ordering::Relaxed) {
            used_bytes = self.released.wait(used_bytes).unwrap_or_else(PoisonError::into_inner);
        }
        !abandoned.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) {
        *lock(&self.used_bytes) += bytes;
    }

    fn release(&self, bytes: usize) {
        let mut used_bytes = lock(&self.used_bytes);
        *used_bytes = used_bytes.saturating_sub(bytes);
        drop(used_bytes);
        self.released.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere is passed on at the end; until then the numbers are as good as ever.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
