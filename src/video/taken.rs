//! What has been taken from the decoders: samples in order, the last good picture for those that have none, and the damage.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::damage::{Damage, DamagedStretch};
use super::decode::{DecodeFailure, SeenDamage};
use super::error::VideoError;
use super::facts::seconds;
use super::request::{SampleRequest, SampledFrame, SinkError};
use super::scan::Scan;
use super::timeline::SampleClock;
use crate::domain::flow::CropBounds;
use crate::domain::flow::OnDamage;

/// Of so many samples one may be hit.
const SAMPLES_A_HIT: u64 = 10;

/// What a decoder hands over.
pub(super) enum Stored {
    /// A JPEG and the samples that show it.
    Picture(RangeInclusive<u64>, Vec<u8>),
    /// Samples without a picture of their own, or before it in what was decoded.
    Nothing(RangeInclusive<u64>),
    /// A stretch that could not be shown.
    Damage(SeenDamage),
}

/// A stretch that is damaged, in ticks from the origin.
struct Hit {
    from: i64,
    to: i64,
    /// Its pictures are not shown; otherwise only the container says that something is wrong.
    hides: bool,
    reason: String,
}

pub(super) struct Taken<'a> {
    path: &'a Path,
    request: &'a SampleRequest,
    scan: &'a Scan,
    clock: SampleClock,
    samples: u64,
    bounds: CropBounds,
    /// The sample that is next.
    next: u64,
    /// Samples before it that wait for the first good picture: all, or none.
    waiting: u64,
    last_jpeg: Option<Vec<u8>>,
    hits: Vec<Hit>,
    /// How many of them were counted against the limit.
    counted: usize,
}

impl<'a> Taken<'a> {
    pub(super) fn new(
        path: &'a Path,
        request: &'a SampleRequest,
        scan: &'a Scan,
        clock: SampleClock,
        samples: u64,
        bounds: CropBounds,
    ) -> Self {
        Self {
            path,
            request,
            scan,
            clock,
            samples,
            bounds,
            next: 0,
            waiting: 0,
            last_jpeg: None,
            hits: Vec::new(),
            counted: 0,
        }
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// How many stretches of damage have come.
    pub(super) fn damage_seen(&self) -> usize {
        self.hits.len()
    }

    /// Notes what the container gives away, before anything is decoded.
    pub(super) fn note_known_damage(&mut self) -> Result<(), VideoError> {
        let origin = self.scan.timeline.origin.unwrap_or(0);
        for known in &self.scan.damage {
            self.note(Hit {
                from: known.from.saturating_sub(origin),
                to: known.to.saturating_sub(origin),
                hides: known.lost,
                reason: known.reason.clone(),
            })?;
        }
        Ok(())
    }

    /// Takes what is next, and hands it to `sink` once there is a picture for it.
    pub(super) fn take(
        &mut self,
        stored: Stored,
        stop: &AtomicBool,
        sink: &mut dyn FnMut(SampledFrame, u64) -> Result<(), SinkError>,
    ) -> Result<(), DecodeFailure> {
        match stored {
            Stored::Damage(SeenDamage { from, to, reason }) => {
                let hides = true;
                self.note(Hit {
                    from,
                    to,
                    hides,
                    reason,
                })?;
            }
            Stored::Picture(samples, jpeg) => {
                self.check_order(&samples)?;
                let waiting = self.next - std::mem::take(&mut self.waiting)..self.next;
                self.hand_out(waiting, &jpeg, stop, sink)?;
                self.hand_out(*samples.start()..samples.end() + 1, &jpeg, stop, sink)?;
                self.last_jpeg = Some(jpeg);
            }
            Stored::Nothing(samples) => {
                self.check_order(&samples)?;
                let range = *samples.start()..samples.end() + 1;
                let tick = |sample| i64::try_from(self.clock.tick(sample)).unwrap_or(i64::MAX);
                let (from, to) = (tick(range.start), tick(range.end));
                let hides = true;
                let reason = "there is no picture that can be decoded".to_owned();
                self.note(Hit {
                    from,
                    to,
                    hides,
                    reason,
                })?;
                if let Some(jpeg) = self.last_jpeg.take() {
                    self.hand_out(range, &jpeg, stop, sink)?;
                    self.last_jpeg = Some(jpeg);
                } else {
                    self.waiting += range.end - range.start;
                    self.next = range.end;
                }
            }
        }
        Ok(())
    }

    fn check_order(&self, samples: &RangeInclusive<u64>) -> Result<(), DecodeFailure> {
        if *samples.start() == self.next {
            Ok(())
        } else {
            Err(DecodeFailure::NotAsPlanned)
        }
    }

    fn hand_out(
        &mut self,
        samples: std::ops::Range<u64>,
        jpeg: &[u8],
        stop: &AtomicBool,
        sink: &mut dyn FnMut(SampledFrame, u64) -> Result<(), SinkError>,
    ) -> Result<(), VideoError> {
        for sample in samples {
            if stop.load(Ordering::Relaxed) {
                return Err(VideoError::Cancelled);
            }
            let frame = SampledFrame {
                sample,
                jpeg: jpeg.to_vec(),
                width: self.bounds.right - self.bounds.left,
                height: self.bounds.bottom - self.bounds.top,
            };
            sink(frame, self.samples).map_err(|source| VideoError::Sink { sample, source })?;
            self.next = self.next.max(sample + 1);
        }
        Ok(())
    }

    fn note(&mut self, hit: Hit) -> Result<(), VideoError> {
        if self.request.on_damage == OnDamage::Fail {
            return Err(self.corrupt(&hit));
        }
        let hides = hit.hides;
        self.hits.push(hit);
        // The whole is counted again only once it may have changed by much; the last count is at the end.
        if hides && self.hits.len() >= self.counted + self.counted / 8 {
            self.counted = self.hits.len();
            self.check_limit()?;
        }
        Ok(())
    }

    fn check_limit(&self) -> Result<(), VideoError> {
        let damage = self.damage();
        if damage.samples.saturating_mul(SAMPLES_A_HIT) <= self.samples {
            return Ok(());
        }
        let first = self.hits.iter().filter(|hit| hit.hides).min_by_key(|hit| hit.from);
        Err(first.map_or_else(
            || VideoError::NoFrames {
                path: self.path.to_owned(),
            },
            |first| VideoError::Corrupt {
                path: self.path.to_owned(),
                at_seconds: self.seconds(first.from),
                detail: format!(
                    "{}; {} of {} samples cannot be shown, more than a tenth; {}",
                    first.reason,
                    damage.samples,
                    self.samples,
                    damage.summary().unwrap_or_default()
                ),
            },
        ))
    }

    fn corrupt(&self, hit: &Hit) -> VideoError {
        VideoError::Corrupt {
            path: self.path.to_owned(),
            at_seconds: self.seconds(hit.from.max(0)),
            detail: hit.reason.clone(),
        }
    }

    fn seconds(&self, ticks: i64) -> f64 {
        seconds(ticks, self.scan.facts.time_base)
    }

    /// The damage, after everything has been taken.
    pub(super) fn finish(self) -> Result<Damage, VideoError> {
        if self.last_jpeg.is_none() {
            return Err(VideoError::NoFrames {
                path: self.path.to_owned(),
            });
        }
        if self.next != self.samples {
            return Err(VideoError::Changed {
                path: self.path.to_owned(),
            });
        }
        self.check_limit()?;
        Ok(self.damage())
    }

    fn damage(&self) -> Damage {
        let all = merged(self.hits.iter());
        let hiding = merged(self.hits.iter().filter(|hit| hit.hides));
        let end = self.scan.timeline.length;
        let count = |from: i64, to: i64| {
            let before = |tick: i64| self.clock.samples_before(i128::from(tick.min(end))).min(self.samples);
            before(to).saturating_sub(before(from))
        };
        let stretch = |(from, to, reason): (i64, i64, &str)| {
            let within = hiding.iter().map(|(start, stop, _)| (from.max(*start), to.min(*stop)));
            DamagedStretch {
                from_seconds: self.seconds(from.clamp(0, end)),
                to_seconds: self.seconds(to.clamp(0, end)),
                samples: within
                    .filter(|(from, to)| from < to)
                    .map(|(from, to)| count(from, to))
                    .sum(),
                reason: reason.to_owned(),
            }
        };
        let stretches: Vec<DamagedStretch> = all.into_iter().map(stretch).collect();
        Damage {
            samples: stretches.iter().map(|stretch| stretch.samples).sum(),
            stretches,
        }
    }
}

/// Stretches in order, those that touch as one, with the first reason.
fn merged<'a>(hits: impl Iterator<Item = &'a Hit>) -> Vec<(i64, i64, &'a str)> {
    let mut sorted: Vec<(i64, i64, &str)> = hits.map(|hit| (hit.from, hit.to, hit.reason.as_str())).collect();
    sorted.sort_by_key(|(from, to, _)| (*from, *to));
    let mut merged: Vec<(i64, i64, &str)> = Vec::new();
    for (from, to, reason) in sorted {
        match merged.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => merged.push((from, to, reason)),
        }
    }
    merged
}
