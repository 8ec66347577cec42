//! The threads of sampling: one that reads, some that decode, and the caller's, which takes the pictures in order.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use ffmpeg_next::{Packet, Rational, frame};

use super::decode::{self, DecodeFailure, Everything};
use super::jpeg::JpegEncoder;
use super::picture::{Cutter, Geometry};
use super::source::{Scan, Source};
use super::timeline::{Group, Needed, Route, SampleClock};
use super::{SampleRequest, SampleSummary, SampledFrame, SinkError, VideoError};
use crate::domain::flow::CropBounds;

/// Bytes of packets that are read ahead of the decoders: several groups of an ordinary video, so that every decoder
/// has one, and a bound for groups of any length.
const READ_AHEAD_BYTES: usize = 48 << 20;
/// What a packet takes besides its data, about.
const PACKET_OVERHEAD_BYTES: usize = 512;
/// Pictures that the decoders of later groups may be ahead of the sink, in bytes over all decoders, and in pictures of
/// one. A decoder that may not finish a group while an earlier one is still decoded stands still until then.
const PICTURES_AHEAD_BYTES: usize = 64 << 20;
const PICTURES_AHEAD: RangeInclusive<usize> = 32..=1024;
/// How often the calling thread looks at the stop flag while it waits.
const STOP_POLL: Duration = Duration::from_millis(20);
/// Decoders, at most: more only take memory.
const MAX_WORKERS: usize = 64;
/// A rate that is above the video's own by rounding alone.
const RATE_TOLERANCE: f64 = 1.001;

/// A group on its way from the reader to a decoder.
struct Work {
    packets: Receiver<Packet>,
    /// `None`: everything.
    group: Option<(i64, Vec<Needed>)>,
    pictures: SyncSender<Result<Stored, DecodeFailure>>,
}

/// A JPEG and the samples that show it.
struct Stored {
    samples: RangeInclusive<u64>,
    jpeg: Vec<u8>,
}

/// Bounds what is read ahead. Acquired by the reader, released by the decoders.
struct Budget {
    used_bytes: Mutex<usize>,
    released: Condvar,
}

/// What one try at a route has in common.
struct Run<'a> {
    path: &'a Path,
    request: &'a SampleRequest,
    scan: &'a Scan,
    geometry: Geometry,
    bounds: CropBounds,
    clock: SampleClock,
    samples: u64,
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
    check(request)?;
    let scan = Source::open(path)?.scan(stop)?;
    let geometry = Geometry::of(&scan.facts, path)?;
    let bounds = geometry.bounds(request.crop)?;
    let own_hz = scan.own_rate_hz();
    if request.frame_rate_hz > own_hz * RATE_TOLERANCE {
        return Err(VideoError::FrameRateTooHigh {
            asked_hz: request.frame_rate_hz,
            own_hz,
        });
    }
    let rate = Rational::from(request.frame_rate_hz);
    let rate = super::timeline::Fraction {
        numerator: i64::from(rate.numerator()),
        denominator: i64::from(rate.denominator()),
    };
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
        abandoned: AtomicBool::new(false),
        budget: Budget::new(),
    };
    let mut next = 0;
    let route = scan.timeline.route(&scan.packets, clock, samples);
    match run.follow(&route, &mut next, stop, sink) {
        Err(DecodeFailure::NotAsPlanned) => {
            // What has been handed out holds: each of those pictures came out as planned.
            let again = Run {
                abandoned: AtomicBool::new(false),
                budget: Budget::new(),
                ..run
            };
            again.follow(&Route::Everything, &mut next, stop, sink)
        }
        outcome => outcome,
    }
    .map_err(|failure| match failure {
        DecodeFailure::Video(error) => error,
        DecodeFailure::NotAsPlanned => VideoError::Changed { path: path.to_owned() },
    })?;
    if next != samples {
        return Err(VideoError::Changed { path: path.to_owned() });
    }
    Ok(SampleSummary { info, samples })
}

fn check(request: &SampleRequest) -> Result<(), VideoError> {
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
    if !(1..=31).contains(&request.jpeg_qscale) {
        return invalid(
            "jpeg_qscale",
            request.jpeg_qscale.to_string(),
            "it must be from 1 to 31",
        );
    }
    Ok(())
}

impl Run<'_> {
    /// Hands out the samples from `next` on, which is kept up to date.
    fn follow(
        &self,
        route: &Route,
        next: &mut u64,
        stop: &AtomicBool,
        sink: &mut Sink<'_>,
    ) -> Result<(), DecodeFailure> {
        let source = Source::open(self.path)?;
        let wanted = self.request.worker_threads.clamp(1, MAX_WORKERS);
        let groups = match route {
            Route::Groups(groups) => groups.len(),
            Route::Everything => 1,
        };
        let workers = wanted.min(groups).max(1);
        // One long group is shared out by the decoder itself.
        let threads_each = (wanted / workers).max(1);
        let first_sample = *next;
        let (width, height) = (
            self.bounds.right - self.bounds.left,
            self.bounds.bottom - self.bounds.top,
        );
        let open_codecs = || {
            let decoder = decode::open(source.parameters(), source.time_base(), threads_each, self.path)?;
            let encoder = JpegEncoder::open(width, height, self.request.jpeg_qscale)?;
            Ok::<_, VideoError>((decoder, encoder))
        };
        let codecs = (0..workers).map(|_| open_codecs()).collect::<Result<Vec<_>, _>>()?;
        // A JPEG takes less than half a byte a pixel.
        let picture_bytes = (width as usize * height as usize / 2).max(1);
        let ahead =
            (PICTURES_AHEAD_BYTES / workers / picture_bytes).clamp(*PICTURES_AHEAD.start(), *PICTURES_AHEAD.end());
        let (work_sender, work) = mpsc::channel::<Work>();
        let work = &Mutex::new(work);
        let (group_sender, groups) = mpsc::channel();
        thread::scope(|scope| {
            let reader = scope.spawn(move || self.read(source, route, &work_sender, &group_sender, ahead));
            for (mut decoder, mut encoder) in codecs {
                scope.spawn(move || {
                    let mut cutter = Cutter::new(self.geometry, self.bounds);
                    loop {
                        let next_work = lock(work).recv();
                        let Ok(next_work) = next_work else { return };
                        self.decode(next_work, &mut decoder, &mut cutter, &mut encoder, first_sample);
                    }
                });
            }
            let outcome = self.take(&groups, next, stop, sink);
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
        route: &Route,
        work: &Sender<Work>,
        groups: &Sender<Receiver<Result<Stored, DecodeFailure>>>,
        ahead: usize,
    ) -> Result<(), VideoError> {
        let everything = [Group {
            first: self.scan.timeline.first_packet,
            last: usize::MAX,
            start_pts: 0,
            needed: Vec::new(),
        }];
        let (planned, is_planned) = match route {
            Route::Groups(groups) => (groups.as_slice(), true),
            Route::Everything => (everything.as_slice(), false),
        };
        let mut waiting = planned.iter().peekable();
        // Groups that have begun and are not over; two at most, while a group gets its leading pictures.
        let mut open: Vec<(&Group, Sender<Packet>)> = Vec::with_capacity(2);
        for index in 0.. {
            open.retain(|(group, _)| group.last >= index);
            if self.abandoned() || open.is_empty() && waiting.peek().is_none() {
                return Ok(());
            }
            let Some(packet) = source.next_packet()? else {
                return if is_planned {
                    Err(VideoError::Changed { path: source.path })
                } else {
                    Ok(())
                };
            };
            if let Some(group) = waiting.next_if(|group| group.first == index) {
                let (packets, received) = mpsc::channel();
                let (pictures, stored) = mpsc::sync_channel(ahead);
                let order = is_planned.then(|| (group.start_pts, group.needed.clone()));
                if work
                    .send(Work {
                        packets: received,
                        group: order,
                        pictures,
                    })
                    .is_err()
                    || groups.send(stored).is_err()
                {
                    return Ok(());
                }
                open.push((group, packets));
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
                let _ = packets.send(packet.clone());
            }
            self.budget.take(cost(&packet));
            let _ = newest.1.send(packet);
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
        first_sample: u64,
    ) {
        let Work {
            packets,
            group,
            pictures,
        } = work;
        let mut packets = PacketFlow { packets, run: self };
        let mut store = |picture: &frame::Video, samples: RangeInclusive<u64>| {
            let jpeg = encoder.encode(&mut cutter.cut(picture)?)?;
            // Nobody takes it any more: the calling thread has a reason of its own.
            pictures
                .send(Ok(Stored { samples, jpeg }))
                .map_err(|_| VideoError::Cancelled.into())
        };
        let outcome = match group {
            Some((start_pts, needed)) => {
                let can_skip = decode::can_skip(&self.scan.facts);
                decode::decode_group(decoder, &mut packets, start_pts, &needed, can_skip, &mut store)
            }
            None => Everything {
                path: self.path,
                facts: &self.scan.facts,
                timeline: &self.scan.timeline,
                clock: self.clock,
                samples: first_sample..self.samples,
            }
            .decode(decoder, &mut packets, &mut store),
        };
        if let Err(failure) = outcome {
            let _ = pictures.send(Err(failure));
        }
    }

    /// Takes the pictures of the groups in order.
    fn take(
        &self,
        groups: &Receiver<Receiver<Result<Stored, DecodeFailure>>>,
        next: &mut u64,
        stop: &AtomicBool,
        sink: &mut Sink<'_>,
    ) -> Result<(), DecodeFailure> {
        let (width, height) = (
            self.bounds.right - self.bounds.left,
            self.bounds.bottom - self.bounds.top,
        );
        while let Some(group) = receive(groups, stop)? {
            while let Some(stored) = receive(&group, stop)? {
                let Stored { samples, jpeg } = stored?;
                if *samples.start() != *next {
                    return Err(DecodeFailure::NotAsPlanned);
                }
                for sample in samples {
                    if stop.load(Ordering::Relaxed) {
                        return Err(VideoError::Cancelled.into());
                    }
                    let frame = SampledFrame {
                        sample,
                        jpeg: jpeg.clone(),
                        width,
                        height,
                    };
                    sink(frame, self.samples).map_err(|source| VideoError::Sink { sample, source })?;
                    *next = sample + 1;
                }
            }
        }
        Ok(())
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
    packets: Receiver<Packet>,
    run: &'a Run<'a>,
}

impl Iterator for PacketFlow<'_> {
    type Item = Packet;

    fn next(&mut self) -> Option<Packet> {
        let packet = self.packets.recv().ok()?;
        self.run.budget.release(cost(&packet));
        (!self.run.abandoned()).then_some(packet)
    }
}

impl Drop for PacketFlow<'_> {
    fn drop(&mut self) {
        for packet in self.packets.try_iter() {
            self.run.budget.release(cost(&packet));
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
