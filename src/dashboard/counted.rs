//! What is counted for `/metrics` from the start of this process on.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::domain::asset::Asset;
use crate::domain::flow_run::FlowRun;
use crate::domain::id::FlowRunId;
use crate::domain::state::StateType;

/// Ends that are remembered, so that none is counted twice.
const KNOWN: usize = 2_000;
/// Upper ends of the slices of durations, in seconds.
pub(super) const BUCKETS: [f64; 12] = [
    1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0,
];

/// What was counted since the start.
pub(super) struct Counted {
    since: Timestamp,
    state: Mutex<Counts>,
}

/// The counts.
#[derive(Default)]
pub(super) struct Counts {
    /// Runs with the end that was counted: one that was retried ends again.
    known: BTreeMap<FlowRunId, Timestamp>,
    /// By flow and state.
    pub(super) ended: BTreeMap<(String, &'static str), u64>,
    /// By flow.
    pub(super) durations: BTreeMap<String, Durations>,
    /// Frames and text boxes that completed runs have written.
    pub(super) full_frames: u64,
    pub(super) cropped_frames: u64,
    pub(super) boxes: u64,
    /// Readings that failed.
    pub(super) failed_readings: u64,
}

/// How long the runs of a flow took.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Durations {
    /// By slice, not yet summed up; the last: longer than all.
    pub(super) slices: [u64; BUCKETS.len() + 1],
    /// All of them.
    pub(super) sum_seconds: f64,
}

impl Counted {
    /// Counts what ends from `since` on.
    pub(super) fn new(since: Timestamp) -> Self {
        Self {
            since,
            state: Mutex::default(),
        }
    }

    /// Adds those of these runs, the newest, that have ended since. Returns those that completed.
    pub(super) fn add(&self, runs: &[FlowRun]) -> Vec<FlowRunId> {
        let mut completed = Vec::new();
        let mut counts = self.counts();
        let counts = &mut *counts;
        for run in runs {
            let Some(ended_at) = run.ended_at.filter(|at| *at >= self.since) else {
                continue;
            };
            if counts.known.insert(run.flow_run_id, ended_at) == Some(ended_at) {
                continue;
            }
            let key = (run.flow_name.clone(), run.state.state_type.as_str());
            *counts.ended.entry(key).or_default() += 1;
            if run.state.state_type == StateType::Completed {
                completed.push(run.flow_run_id);
            }
            if let Some(started_at) = run.started_at {
                let seconds = ended_at.duration_since(started_at).as_secs_f64().max(0.0);
                let durations = counts.durations.entry(run.flow_name.clone()).or_default();
                let slice = BUCKETS.iter().position(|end| seconds <= *end).unwrap_or(BUCKETS.len());
                durations.slices[slice] += 1;
                durations.sum_seconds += seconds;
            }
        }
        // Only those that are looked at again need be known.
        while counts.known.len() > KNOWN {
            counts.known.pop_first();
        }
        completed
    }

    /// Adds what a run has written, as far as nothing newer has taken its place.
    pub(super) fn add_made<'a>(&self, assets: impl IntoIterator<Item = &'a Asset>) {
        let mut counts = self.counts();
        for asset in assets {
            let number = |name: &str| {
                asset
                    .metadata
                    .get(name)
                    .and_then(serde_json::Value::as_u64)
                    .unwrap_or(0)
            };
            match asset.key.rsplit('/').next() {
                Some("full_frames") => counts.full_frames += number("frames"),
                Some("cropped_frames") => counts.cropped_frames += number("frames"),
                Some("full_frame_ocr") => counts.boxes += number("boxes"),
                _ => {}
            }
        }
    }

    /// A reading has failed.
    pub(super) fn reading_failed(&self) {
        self.counts().failed_readings += 1;
    }

    /// What was counted so far.
    pub(super) fn counts(&self) -> MutexGuard<'_, Counts> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
