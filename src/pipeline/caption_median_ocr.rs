//! caption-median-ocr: the text of captions, each read off the median of its cropped frames, into `captions`.
//!
//! A caption's fault is its own: it is written into its row, and the others go on. What hinders all of them (a locked
//! database, a folder that cannot be written) is a fault of the run, and tried again as such.
//!
//! The newest request for a caption counts. The app asks for one anew by writing `queued` into its row; a newer run that
//! waits is known to the worker, which is asked before the reading and before the writing of each. What was read of
//! boundaries that are no longer the caption's is never written: it is read again, a few times at most.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::thread;

use serde_json::json;

use super::caption_text::text_of;
use super::fraction::fraction;
use super::status::{BUSY_TIMEOUT_MS, with_causes};
use super::text_images::TextImages;
use crate::annotations::{Begun, Caption, Captions, FrameLayout, Standing};
use crate::domain::asset;
use crate::domain::flow::CaptionMedianOcr;
use crate::domain::flow_run::{ArtifactType, LogLevel};
use crate::engine::{Attempt, FaultKind, TaskError};
use crate::ocr::{OcrError, OcrModels, PpOcr, Recognizer, reads_language};
use crate::protocol::ChildEvent;
use crate::video::{MAX_PICTURES, MedianError, MedianLimits, encode_jpeg, median_of_jpegs};

const TASK: &str = "read_captions";
/// How often a caption is read whose boundaries or frames change while that is done.
const READINGS: u32 = 3;
/// libav's quality scale for JPEG: 2 is about quality 95.
const JPEG_QSCALE: i32 = 2;
/// Most memory for decoded frames; a quarter of what the attempt may take, if that is less.
const MAX_MEMORY_BYTES: u64 = 512 << 20;
/// Rows of the artifact, and assets: a worker keeps a thousand objects of an attempt.
const SHOWN_CAPTIONS: usize = 900;
/// Failures that the run's message tells of, each by its reason.
const TOLD_FAILURES: usize = 3;

/// What became of a caption.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Read {
        text: String,
        frames: usize,
    },
    Failed(String),
    /// A newer request has it.
    Left,
    /// There is no such caption.
    Gone,
}

/// Why a caption could not be read.
enum Fault {
    /// Of this caption: in words for whoever looks at it.
    Caption(String),
    /// It is to be read again: its frames were exchanged meanwhile.
    Changed,
    /// Of the run.
    Run(TaskError),
}

impl<T: Into<TaskError>> From<T> for Fault {
    fn from(error: T) -> Self {
        Self::Run(error.into())
    }
}

pub(super) fn run(attempt: &Attempt, arguments: &CaptionMedianOcr) -> Result<String, TaskError> {
    let order = attempt.order();
    let (captions, images, begun, left) = attempt.task("open_annotations", || {
        let captions = Captions::open(&arguments.db_path, order.database, BUSY_TIMEOUT_MS)?;
        attempt.say(&ChildEvent::DatabaseSeen {
            identity: captions.identity(),
        });
        let images = TextImages::of(&arguments.video_dir)?;
        // What a newer run has read is that one's; what an earlier attempt has read stays read.
        let mut left = BTreeSet::new();
        for id in captions.complete_among(&arguments.caption_ids)? {
            if !attempt.may_commit_caption(id)? {
                left.insert(id);
            }
        }
        let mut ids = arguments.caption_ids.clone();
        ids.retain(|id| !left.contains(id));
        let begun = captions.begin(&ids, order.attempt > 1)?;
        Ok((captions, images, begun, left))
    })?;
    if !reads_language(&arguments.language) {
        let language = &arguments.language;
        attempt.log(
            LogLevel::Warning,
            format!("No model reads the language {language:?}: Chinese and Latin letters are what is recognized"),
        );
    }
    let mut reading = Reading {
        attempt,
        captions: &captions,
        images: &images,
        engine: None,
        longest_step: None,
        outcomes: (begun.gone.iter().map(|id| (*id, Outcome::Gone)))
            .chain(left.iter().map(|id| (*id, Outcome::Left)))
            .collect(),
    };
    attempt.task(TASK, || reading.read_all(&begun.queued))?;
    let outcomes = std::mem::take(&mut reading.outcomes);
    report(attempt, arguments, &begun, &outcomes)
}

struct Reading<'a> {
    attempt: &'a Attempt,
    captions: &'a Captions,
    images: &'a TextImages,
    /// Loaded once there is something to read.
    engine: Option<PpOcr>,
    longest_step: Option<i64>,
    outcomes: BTreeMap<i64, Outcome>,
}

impl Reading<'_> {
    fn read_all(&mut self, ids: &[i64]) -> Result<(), TaskError> {
        for (done, &id) in (0..).zip(ids) {
            // The task may have been begun before.
            if self.outcomes.contains_key(&id) {
                continue;
            }
            let progress = Progress {
                attempt: self.attempt,
                done,
                of: u64::try_from(ids.len()).unwrap_or(u64::MAX),
            };
            progress.say(0.0);
            let outcome = self.read_one(id, &progress)?;
            if let Outcome::Failed(reason) = &outcome {
                self.attempt
                    .log(LogLevel::Warning, format!("Caption {id} can not be read: {reason}"));
            }
            self.outcomes.insert(id, outcome);
            Progress {
                done: done + 1,
                ..progress
            }
            .say(0.0);
        }
        Ok(())
    }

    fn read_one(&mut self, id: i64, progress: &Progress<'_>) -> Result<Outcome, TaskError> {
        for _ in 0..READINGS {
            if !self.attempt.may_commit_caption(id)? {
                return Ok(Outcome::Left);
            }
            let Some(caption) = self.captions.take(id)? else {
                return Ok(Outcome::Gone);
            };
            let (standing, outcome) = match self.read(&caption, progress) {
                Ok(Median { jpeg, text, frames }) => {
                    if !self.attempt.may_commit_caption(id)? {
                        self.captions.give_back(id)?;
                        return Ok(Outcome::Left);
                    }
                    let mut standing = self.captions.standing(&caption)?;
                    if standing == Standing::Same {
                        self.images.publish(id, &jpeg)?;
                        standing = self.captions.complete(&caption, &text)?;
                    }
                    (standing, Outcome::Read { text, frames })
                }
                Err(Fault::Caption(reason)) => (self.captions.fail(&caption, &reason)?, Outcome::Failed(reason)),
                Err(Fault::Changed) => (Standing::Moved, Outcome::Left),
                Err(Fault::Run(error)) => return Err(error),
            };
            match standing {
                Standing::Same => return Ok(outcome),
                Standing::Taken => return Ok(Outcome::Left),
                Standing::Gone => return Ok(Outcome::Gone),
                Standing::Moved => self.attempt.log(
                    LogLevel::Info,
                    format!("Caption {id} was changed while it was read: it is read again"),
                ),
            }
        }
        let reason = format!("its boundaries or its frames changed {READINGS} times while it was read");
        self.captions.fail_moved(id, &reason)?;
        Ok(Outcome::Failed(reason))
    }

    fn read(&mut self, caption: &Caption, progress: &Progress<'_>) -> Result<Median, Fault> {
        let indexes = self.frames_of(caption)?;
        let mut frames = Frames {
            captions: self.captions,
            indexes: &indexes,
            layout: None,
            seen: vec![None; indexes.len()],
        };
        let memory_bytes = (self.attempt.order().memory_bytes / 4).min(MAX_MEMORY_BYTES);
        let limits = MedianLimits {
            threads: thread::available_parallelism().map_or(2, std::num::NonZero::get),
            memory_bytes: usize::try_from(memory_bytes).unwrap_or(usize::MAX),
        };
        let median = median_of_jpegs(
            indexes.len(),
            limits,
            self.attempt.stop_flag(),
            &mut |range| frames.fetch(range),
            &mut |fraction| progress.say(fraction),
        );
        let again = |width: u32, height: u32| format!("{width} x {height}");
        let picture = median.map_err(|error| match error {
            MedianError::Fetch(fault) => fault,
            MedianError::Decode { position, source } => Fault::Caption(format!(
                "its frame {} is damaged: {}",
                indexes[position],
                with_causes(&source)
            )),
            MedianError::Size { position, found, first } => Fault::Caption(format!(
                "its frames are of two sizes (frame {} of {}, frame {} of {}): crop the frames again",
                indexes[0],
                again(first.0, first.1),
                indexes[position],
                again(found.0, found.1),
            )),
            MedianError::Count(count) => Fault::Caption(format!(
                "it has {count} frames, more than the {MAX_PICTURES} of one caption"
            )),
            MedianError::Cancelled => Fault::Run(self.attempt.stopped()),
        })?;
        let jpeg = encode_jpeg(&picture, JPEG_QSCALE)?;
        let engine = match &mut self.engine {
            Some(engine) => engine,
            none => none.insert(PpOcr::load(&OcrModels::find(
                self.attempt.order().ocr_models.as_deref(),
            )?)?),
        };
        let lines = match engine.recognize(&picture, self.attempt.stop_flag()) {
            Ok(lines) => lines,
            Err(OcrError::Cancelled) => return Err(self.attempt.stopped().into()),
            Err(error) => return Err(Fault::Caption(with_causes(&error))),
        };
        Ok(Median {
            jpeg,
            text: text_of(&lines),
            frames: indexes.len(),
        })
    }

    /// The indexes of the caption's frames; a fault if one is missing.
    fn frames_of(&mut self, caption: &Caption) -> Result<Vec<i64>, Fault> {
        let &Caption {
            start_frame_index: start,
            end_frame_index: end,
            ..
        } = caption;
        if end < start {
            return Err(Fault::Caption(format!(
                "it ends (frame {end}) before it begins (frame {start})"
            )));
        }
        let longest_step = match self.longest_step {
            Some(step) => step,
            None => *self.longest_step.insert(self.captions.longest_step()?.unwrap_or(1)),
        };
        let indexes = self.captions.frame_indexes(start..=end)?;
        let mut missing = missing(start, end, &indexes, longest_step);
        if indexes.is_empty() {
            // A caption between two frames has none, whatever the step.
            missing = vec![(start, end)];
        }
        if missing.is_empty() {
            return Ok(indexes);
        }
        let told: Vec<String> = missing.iter().take(3).map(range_text).collect();
        let more = if missing.len() > told.len() { " and others" } else { "" };
        let frames = told.join(", ");
        Err(Fault::Caption(format!(
            "its frames {frames}{more} are missing: crop the frames again, or move its boundaries"
        )))
    }
}

/// What was made of a caption.
struct Median {
    jpeg: Vec<u8>,
    text: String,
    frames: usize,
}

/// The frames of a caption: of one layout, and the same whenever they are asked for.
struct Frames<'a> {
    captions: &'a Captions,
    indexes: &'a [i64],
    layout: Option<FrameLayout>,
    /// What each was when it was read first.
    seen: Vec<Option<u64>>,
}

impl Frames<'_> {
    fn fetch(&mut self, range: Range<usize>) -> Result<Vec<Vec<u8>>, Fault> {
        self.captions.check()?;
        let indexes = &self.indexes[range.clone()];
        let (Some(&first), Some(&last)) = (indexes.first(), indexes.last()) else {
            return Ok(Vec::new());
        };
        let frames = self.captions.frames(first..=last)?;
        if !frames.iter().map(|frame| frame.frame_index).eq(indexes.iter().copied()) {
            return Err(Fault::Changed);
        }
        for (position, frame) in range.zip(&frames) {
            let layout = *self.layout.get_or_insert(frame.layout);
            if layout != frame.layout {
                return Err(Fault::Caption(two_layouts(layout, frame.layout)));
            }
            let mut hasher = DefaultHasher::new();
            frame.jpeg.hash(&mut hasher);
            let now = hasher.finish();
            if *self.seen[position].get_or_insert(now) != now {
                return Err(Fault::Changed);
            }
        }
        Ok(frames.into_iter().map(|frame| frame.jpeg).collect())
    }
}

fn two_layouts(one: FrameLayout, other: FrameLayout) -> String {
    match (one.version, other.version) {
        (Some(one), Some(other)) if one != other => {
            format!("its frames are of two layouts (versions {one} and {other}): crop the frames again")
        }
        _ => "its frames are of two layouts (with other bounds): crop the frames again".to_owned(),
    }
}

/// What is missing of the frames from `start` to `end`, first and last.
fn missing(start: i64, end: i64, indexes: &[i64], longest_step: i64) -> Vec<(i64, i64)> {
    let ends = std::iter::once(start - 1).chain(indexes.iter().copied());
    let begins = indexes.iter().copied().chain([end + 1]);
    let is_too_far = |&(before, after): &(i64, i64)| after - before > longest_step;
    let gaps = ends.zip(begins).filter(is_too_far);
    gaps.map(|(before, after)| (before + 1, after - 1)).collect()
}

fn range_text(&(first, last): &(i64, i64)) -> String {
    if first == last {
        first.to_string()
    } else {
        format!("{first}-{last}")
    }
}

/// How far the run is.
#[derive(Clone, Copy)]
struct Progress<'a> {
    attempt: &'a Attempt,
    done: u64,
    of: u64,
}

impl Progress<'_> {
    /// `part` of the caption at hand is done.
    fn say(&self, part: f64) {
        let each = fraction(1, self.of);
        let overall = fraction(self.done, self.of) + part * each;
        self.attempt
            .progress(TASK, self.done, Some(self.of), "captions", overall.min(1.0));
    }
}

/// Assets, artifact and message. An error if nothing came of it.
fn report(
    attempt: &Attempt,
    arguments: &CaptionMedianOcr,
    begun: &Begun,
    outcomes: &BTreeMap<i64, Outcome>,
) -> Result<String, TaskError> {
    let cropped = asset::annotations(&arguments.video_id, "cropped_frames");
    let mut rows = Vec::new();
    let (mut read, mut left) = (begun.complete.len(), 0);
    let mut failed = Vec::new();
    for id in &arguments.caption_ids {
        match outcomes.get(id) {
            Some(Outcome::Read { text, frames }) => {
                read += 1;
                if rows.len() < SHOWN_CAPTIONS {
                    attempt.asset(
                        asset::annotations(&arguments.video_id, &format!("captions/{id}")),
                        json!({ "frames": frames, "characters": text.chars().count() }),
                        vec![cropped.clone()],
                        false,
                    );
                    rows.push(json!({ "caption_id": id, "frames": frames, "text": text, "problem": null }));
                }
            }
            Some(Outcome::Left) => left += 1,
            Some(Outcome::Failed(reason)) => failed.push((*id, reason.as_str())),
            Some(Outcome::Gone) => failed.push((*id, "there is no such caption")),
            None => {}
        }
    }
    if read - begun.complete.len() > SHOWN_CAPTIONS {
        attempt.log(
            LogLevel::Warning,
            format!("More than {SHOWN_CAPTIONS} captions were read: the lineage and the table name the first of them"),
        );
    }
    let room = SHOWN_CAPTIONS.saturating_sub(rows.len());
    rows.extend(
        failed
            .iter()
            .take(room)
            .map(|(id, reason)| json!({ "caption_id": id, "frames": null, "text": null, "problem": reason })),
    );
    attempt.artifact(
        "captions",
        ArtifactType::Table,
        "What was read of the captions",
        json!(rows),
    );

    let mut problems: Vec<String> = failed
        .iter()
        .take(TOLD_FAILURES)
        .map(|(id, reason)| format!("caption {id}: {reason}"))
        .collect();
    if failed.len() > TOLD_FAILURES {
        problems.push(format!("{} more", failed.len() - TOLD_FAILURES));
    }
    let problems = problems.join("; ");
    if read == 0 && left == 0 && !failed.is_empty() {
        return Err(TaskError::new("CAPTIONS_NOT_READ", problems, FaultKind::Input));
    }
    let mut message = vec![format!("{read} captions read")];
    if left > 0 {
        message.push(format!("{left} left to a newer request"));
    }
    if !failed.is_empty() {
        message.push(format!("{} not: {problems}", failed.len()));
    }
    Ok(message.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_of_a_caption_is_known_by_the_step_of_its_film() {
        for (indexes, longest_step, expected) in [
            (vec![3, 4, 5, 6], 1, vec![]),
            (vec![3, 5, 6], 1, vec![(4, 4)]),
            (vec![], 1, vec![(3, 6)]),
            (vec![4, 5], 1, vec![(3, 3), (6, 6)]),
            (vec![4, 6], 2, vec![]),
            (vec![3, 5], 2, vec![]),
            (vec![6], 2, vec![(3, 5)]),
            (vec![], 10, vec![]),
        ] {
            assert_eq!(
                missing(3, 6, &indexes, longest_step),
                expected,
                "{indexes:?}, {longest_step}"
            );
        }
    }
}
