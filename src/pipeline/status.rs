//! An attempt's hold on annotations.db: its status row kept alive while the work goes on, and the wish to stop that
//! the web app expresses there.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::fraction::fraction;
use crate::annotations::{Annotations, AnnotationsError, CommitStep, OpenRequest, Stage};
use crate::domain::flow::StatusTable;
use crate::engine::{Attempt, FaultKind, TaskError};
use crate::protocol::ChildEvent;

/// How often the row is kept alive, whatever the work does: half of what the web app expects.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// How long a lock that another program holds on annotations.db is waited for.
pub(super) const BUSY_TIMEOUT_MS: u64 = 60_000;

impl From<AnnotationsError> for TaskError {
    fn from(error: AnnotationsError) -> Self {
        let kind = if error.is_cancellation() {
            FaultKind::Stopped
        } else if error.is_input_fault() {
            FaultKind::Input
        } else {
            FaultKind::Passing
        };
        TaskError::new(error.code(), with_causes(&error), kind)
    }
}

/// An error and its causes in one line.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // Some errors repeat their cause.
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

/// The open annotations.db of a running attempt.
pub(super) struct StatusKeeper<'a> {
    attempt: &'a Attempt,
    annotations: Mutex<Annotations>,
    fraction_bits: AtomicU64,
}

impl<'a> StatusKeeper<'a> {
    /// Opens annotations.db and writes that the run has started.
    pub(super) fn begin(attempt: &'a Attempt, table: StatusTable) -> Result<Self, TaskError> {
        attempt.task("open_annotations", || {
            let order = attempt.order();
            let path = order
                .work
                .db_path()
                .ok_or_else(|| TaskError::new("INTERNAL", "the order has no db-path", FaultKind::Input))?;
            let mut annotations = Annotations::open(&OpenRequest {
                path,
                // Made only by a first attempt that finds nothing: what was there and is gone was deleted.
                may_create: order.database.is_none(),
                identity: order.database,
                table,
                pid: std::process::id(),
                busy_timeout_ms: BUSY_TIMEOUT_MS,
            })?;
            if let Some(identity) = annotations.identity() {
                attempt.say(&ChildEvent::DatabaseSeen { identity });
            }
            annotations.begin()?;
            annotations.clear_leftovers(&mut |_| attempt.check_stop())?;
            Ok(Self {
                attempt,
                annotations: Mutex::new(annotations),
                fraction_bits: AtomicU64::new(0),
            })
        })
    }

    /// The database, for as long as nobody else needs it.
    pub(super) fn annotations(&self) -> MutexGuard<'_, Annotations> {
        self.annotations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes annotations.db if it is missing. A pipeline's commit does that by itself, once its input was found good.
    fn create(&self) -> Result<(), TaskError> {
        if let Some(identity) = self.annotations().create()? {
            self.attempt.say(&ChildEvent::DatabaseSeen { identity });
        }
        Ok(())
    }

    /// What is done between the transactions of a commit: the worker hears of it, and is asked before the one that shows. `from`
    /// is the part of the attempt's progress that was there before.
    pub(super) fn between_transactions(&self, from: f64) -> impl FnMut(CommitStep) -> Result<(), TaskError> {
        let attempt = self.attempt;
        move |step| match step {
            CommitStep::Created(identity) => {
                attempt.say(&ChildEvent::DatabaseSeen { identity });
                Ok(())
            }
            CommitStep::Filled { rows, of } => {
                let overall = from + (1.0 - from) * fraction(rows, of);
                attempt.progress("write_frames", rows, Some(of), "rows", overall);
                attempt.check_stop()
            }
            CommitStep::Ready => attempt.may_commit(),
            // Once the new rows are visible, to stop is to leave old ones to the next run: this one is complete.
            CommitStep::Cleared | CommitStep::OldRemoved => attempt.check_stop(),
            _ => Ok(()),
        }
    }

    /// Enters a stage: its progress starts at 0.
    pub(super) fn stage(&self, stage: Stage) -> Result<(), TaskError> {
        self.fraction_bits.store(0, Ordering::Relaxed);
        Ok(self.annotations().stage(stage)?)
    }

    /// Progress of the stage, 0..=1. Cheap; written by whoever gets to it.
    pub(super) fn progress(&self, fraction: f64) {
        self.fraction_bits.store(fraction.to_bits(), Ordering::Relaxed);
        if let Ok(mut annotations) = self.annotations.try_lock() {
            self.beat(&mut annotations);
        }
    }

    fn beat(&self, annotations: &mut Annotations) {
        let fraction = f64::from_bits(self.fraction_bits.load(Ordering::Relaxed));
        // A row that can not be written now is written next time; what it says of the video is found by the fence.
        let _ = annotations.progress(fraction, Instant::now());
    }

    /// Does `work` while a thread keeps the row alive and looks whether the video was deleted or the run replaced.
    pub(super) fn alive<T>(&self, work: impl FnOnce() -> Result<T, TaskError>) -> Result<T, TaskError> {
        let done = AtomicBool::new(false);
        let fault = Mutex::new(None);
        let outcome = thread::scope(|scope| {
            let heart = scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    thread::park_timeout(HEARTBEAT_INTERVAL);
                    if done.load(Ordering::Acquire) {
                        return;
                    }
                    let mut annotations = self.annotations();
                    self.beat(&mut annotations);
                    if let Err(error) = annotations.check_fence()
                        && error.is_cancellation()
                    {
                        *fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(TaskError::from(error));
                        self.attempt.ask_to_stop("the video was deleted, or the run replaced");
                        return;
                    }
                }
            });
            let outcome = work();
            done.store(true, Ordering::Release);
            heart.thread().unpark();
            outcome
        });
        match fault.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(fault) => Err(fault),
            None => outcome,
        }
    }
}

/// The status row of a command flow, if it has one.
pub(super) struct ExternalStatus<'a>(Option<StatusKeeper<'a>>);

impl<'a> ExternalStatus<'a> {
    /// Writes that the run has started.
    pub(super) fn begin(attempt: &'a Attempt) -> Result<Self, TaskError> {
        let keeper = attempt
            .order()
            .status_table
            .map(|table| StatusKeeper::begin(attempt, table))
            .transpose()?;
        if let Some(keeper) = &keeper {
            keeper.create()?;
        }
        Ok(Self(keeper))
    }

    /// Whether there is a row.
    pub(super) const fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    /// Runs the program's supervision while the row is kept alive.
    pub(super) fn alive<T>(&self, work: impl FnOnce() -> Result<T, TaskError>) -> Result<T, TaskError> {
        match &self.0 {
            Some(keeper) => keeper.alive(work),
            None => work(),
        }
    }

    /// Progress that the program has reported.
    pub(super) fn progress(&self, fraction: f64) {
        if let Some(keeper) = &self.0 {
            keeper.progress(fraction);
        }
    }

    /// Writes that the run is done.
    pub(super) fn complete(&self) -> Result<(), TaskError> {
        match &self.0 {
            Some(keeper) => Ok(keeper.annotations().complete_external()?),
            None => Ok(()),
        }
    }
}
