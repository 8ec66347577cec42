//! What the dashboard's server says to its pages, as JSON: the types here are written in TypeScript by a test
//! (`dashboard/src/api.ts`), so that both sides have one definition. The domain's own objects (a flow run, an asset) are those
//! of `index.d.ts`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::asset::Asset;
use crate::domain::error::OrchestratorError;
use crate::domain::finding::Level;
use crate::domain::flow::{CropBounds, WorkQueue};
use crate::domain::flow_run::{FlowRun, FlowRunDetails, LogLine};
use crate::domain::id::FlowRunId;
use crate::domain::state::StateType;
use crate::orchestrator::delivery::{self, MessageKind};
use crate::orchestrator::queue::{Queue, WorkPool, WorkerRecord};

/// What does not change while the dashboard runs.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct About {
    /// Of this program.
    pub(super) version: &'static str,
    /// Where runs are queued, for people.
    pub(super) orchestrator: String,
    /// The address of Prefect's own UI, where there is one.
    pub(super) prefect_ui: Option<String>,
    /// Nothing can be changed here.
    pub(super) read_only: bool,
    /// A run whose worker is silent is given on by hand: several machines share the queue.
    pub(super) takes_over: bool,
    /// The flows that are known.
    pub(super) flows: Vec<FlowName>,
}

/// A flow that is known.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct FlowName {
    /// `full-frames`, for example.
    pub(super) name: String,
    /// One line for people.
    pub(super) description: String,
}

/// The pool and what runs in it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct Overview {
    /// The pool.
    pub(super) pool: Pool,
    /// Runs that hold a slot, newest first.
    #[cfg_attr(test, ts(type = "FlowRun[]"))]
    pub(super) active: Vec<FlowRun>,
}

/// The work pool.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct Pool {
    /// Its name.
    pub(super) name: String,
    /// Runs at once.
    pub(super) concurrency_limit: u32,
    /// Of these, runs of the queue `background` at once: the rest is kept for those that a person waits for.
    pub(super) background_limit: u32,
    /// Whether claims stand still.
    pub(super) is_paused: bool,
    /// Runs that hold a slot.
    pub(super) active: u32,
    /// Runs that wait, by queue.
    pub(super) waiting: Vec<QueueDepth>,
    /// Workers known, alive or not.
    pub(super) workers: Vec<Worker>,
    /// What Prefect's API must still hear from this machine; none on the embedded queue, where nobody else hears of runs.
    pub(super) delivery: Option<Delivery>,
}

/// What Prefect's API must still hear from this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct Delivery {
    /// Messages that wait, by kind; kinds of which none waits are left out.
    pub(super) waiting: Vec<WaitingMessages>,
    /// When the oldest of them came.
    #[cfg_attr(test, ts(type = "string | null"))]
    pub(super) oldest_at: Option<Timestamp>,
    /// Runs that were queued while the API was away, and wait on this machine.
    pub(super) kept_runs: u64,
    /// Since when the API has not answered; none: it does.
    #[cfg_attr(test, ts(type = "string | null"))]
    pub(super) away_since: Option<Timestamp>,
}

/// How many messages of a kind wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct WaitingMessages {
    /// What they are about.
    #[cfg_attr(test, ts(type = "'state' | 'labels' | 'taskRun' | 'artifact' | 'asset' | 'log'"))]
    pub(super) kind: MessageKind,
    /// How many.
    pub(super) count: u64,
}

impl From<delivery::Delivery> for Delivery {
    fn from(delivery: delivery::Delivery) -> Self {
        Self {
            waiting: delivery
                .waiting
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(kind, count)| WaitingMessages { kind, count })
                .collect(),
            oldest_at: delivery.oldest_at,
            kept_runs: delivery.kept_runs,
            away_since: delivery.away_since,
        }
    }
}

/// How many runs wait in a work queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct QueueDepth {
    /// The queue.
    #[cfg_attr(test, ts(type = "Priority"))]
    pub(super) queue: WorkQueue,
    /// How many.
    pub(super) count: u32,
}

/// A worker as it announced itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct Worker {
    /// `host-PID`.
    pub(super) name: String,
    /// Its process.
    pub(super) pid: u32,
    /// Version of its program.
    pub(super) version: String,
    /// When it started.
    #[cfg_attr(test, ts(type = "string"))]
    pub(super) started_at: Timestamp,
    /// Whether its process lives.
    pub(super) is_alive: bool,
}

impl Pool {
    /// Asks the queue for it.
    pub(super) async fn read(queue: &dyn Queue) -> Result<Self, OrchestratorError> {
        let pool = queue.read_work_pool().await?;
        let delivery = queue.read_delivery().await?;
        Ok(Self::new(pool, delivery.map(Delivery::from)))
    }

    fn new(pool: WorkPool, delivery: Option<Delivery>) -> Self {
        let worker = |worker: WorkerRecord| Worker {
            name: worker.name,
            pid: worker.process.pid,
            version: worker.version,
            started_at: worker.started_at,
            is_alive: worker.is_alive,
        };
        Self {
            name: pool.name,
            concurrency_limit: pool.concurrency_limit,
            background_limit: pool.background_limit,
            is_paused: pool.is_paused,
            active: pool.active,
            waiting: pool
                .waiting
                .into_iter()
                .map(|(queue, count)| QueueDepth { queue, count })
                .collect(),
            workers: pool.workers.into_iter().map(worker).collect(),
            delivery,
        }
    }
}

/// What the stream tells.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Live {
    /// The pool, or a run that holds a slot, has changed.
    Overview {
        /// As it is now.
        overview: Overview,
    },
    /// Runs that are new or have changed.
    Runs {
        /// As they are now.
        #[cfg_attr(test, ts(type = "FlowRun[]"))]
        runs: Vec<FlowRun>,
    },
    /// Runs at work that have come further, and have not changed else.
    Progress {
        /// As they are now.
        #[cfg_attr(test, ts(type = "FlowRun[]"))]
        runs: Vec<FlowRun>,
    },
    /// Lines of the run that the page follows.
    Log {
        /// The run.
        #[cfg_attr(test, ts(type = "string"))]
        flow_run_id: FlowRunId,
        /// The cursor before them.
        from: i64,
        /// The cursor after them.
        to: i64,
        /// The lines.
        #[cfg_attr(test, ts(type = "LogLine[]"))]
        lines: Vec<LogLine>,
    },
    /// The store, or Prefect's API, does not answer; told again as the rest changes.
    Away {
        /// What is wrong.
        problem: Problem,
        /// What waits meanwhile, and since when.
        delivery: Option<Delivery>,
    },
    /// It answers again.
    Back,
    /// Too much was missed: everything is to be read anew.
    Reset,
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct Problem {
    /// Stable, as `ERR_CAPTIONACC_…`.
    pub(super) code: String,
    /// For people.
    pub(super) message: String,
    /// Whether the same may succeed later.
    pub(super) retryable: bool,
}

/// The answer to what was not done.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub(super) struct Refusal {
    /// Why.
    pub(super) error: Problem,
}

/// What stands on the first page beside the overview.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct Home {
    /// What is wrong, the gravest first.
    pub(super) findings: Vec<Finding>,
    /// Runs that ended last.
    #[cfg_attr(test, ts(type = "FlowRun[]"))]
    pub(super) recent: Vec<FlowRun>,
    /// The run that waits longest, of those that are due.
    #[cfg_attr(test, ts(type = "FlowRun | null"))]
    pub(super) oldest_waiting: Option<FlowRun>,
    /// Whether any run was ever queued here.
    pub(super) has_runs: bool,
}

/// Something that is wrong, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct Finding {
    /// What was looked at, in a word or two.
    pub(super) check: String,
    /// How grave it is.
    #[cfg_attr(test, ts(type = "'ok' | 'warning' | 'error'"))]
    pub(super) level: Level,
    /// What was found.
    pub(super) message: String,
    /// What to do about it.
    pub(super) fix: Option<String>,
}

/// A page of runs, newest first.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct RunsPage {
    /// Those that match.
    #[cfg_attr(test, ts(type = "FlowRun[]"))]
    pub(super) runs: Vec<FlowRun>,
    /// Where to go on; none: that was all.
    #[cfg_attr(test, ts(type = "string | null"))]
    pub(super) before: Option<FlowRunId>,
}

/// Which runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct RunsFilter {
    /// Of this flow.
    pub(super) flow: Option<String>,
    /// Of this video.
    pub(super) video: Option<String>,
    /// In one of these states; none: any.
    #[cfg_attr(test, ts(type = "StateType[]"))]
    pub(super) states: Vec<StateType>,
    /// With this text in id, video, message or parameters.
    pub(super) text: Option<String>,
}

/// What is to be done with many runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) enum BulkAction {
    /// Cancel those that have not ended.
    Cancel,
    /// Retry those that failed, crashed or were cancelled.
    Retry,
}

/// A request to do something with many runs.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct BulkRequest {
    /// What.
    pub(super) action: BulkAction,
    /// These runs; none: all that match the filter.
    #[cfg_attr(test, ts(type = "string[] | null"))]
    pub(super) ids: Option<Vec<FlowRunId>>,
    /// Which runs, where no ids are given.
    pub(super) filter: RunsFilter,
}

/// What became of it.
#[derive(Debug, Clone, Default, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct BulkResult {
    /// Runs for which it was done.
    pub(super) done: u32,
    /// Runs that are left as they are.
    pub(super) skipped: u32,
    /// Why the first of them is.
    pub(super) skipped_because: Option<String>,
    /// Runs for which it failed.
    pub(super) failed: u32,
    /// Why the first of them did.
    pub(super) problem: Option<Problem>,
    /// More match than are done at once: the same again goes on.
    pub(super) has_more: bool,
}

/// A request to give a run to another worker.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TakeOverRequest {
    /// Also if its worker was heard a moment ago.
    #[serde(default)]
    pub(super) is_forced: bool,
}

/// A run with all that is kept of it.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct RunPage {
    /// The run.
    #[cfg_attr(test, ts(type = "FlowRunDetails"))]
    pub(super) run: FlowRunDetails,
    /// What it has made or found, as far as it is the newest.
    #[cfg_attr(test, ts(type = "Asset[]"))]
    pub(super) assets: Vec<Asset>,
    /// Its process, if it runs on this machine.
    pub(super) process: Option<ProcessFigures>,
    /// Its page in Prefect's UI.
    pub(super) prefect_url: Option<String>,
}

/// A process of this machine.
#[derive(Debug, Clone, Copy, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct ProcessFigures {
    /// Memory that it holds, in bytes.
    pub(super) memory_bytes: u64,
    /// Time that it has computed, in seconds; several cores count each.
    pub(super) cpu_seconds: f64,
    /// Cores that it keeps busy: since it was looked at a moment ago, or since its start.
    pub(super) busy_cores: f64,
}

/// Lines of a log.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct LogPage {
    /// The lines after the cursor.
    #[cfg_attr(test, ts(type = "LogLine[]"))]
    pub(super) lines: Vec<LogLine>,
    /// The cursor after them.
    pub(super) next: i64,
}

/// A run that was queued.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct Queued {
    /// The run.
    #[cfg_attr(test, ts(type = "string"))]
    pub(super) flow_run_id: FlowRunId,
    /// Its flow.
    pub(super) flow_name: String,
    /// What it is about.
    pub(super) video_id: Option<String>,
}

/// A video, as the runs know it.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct VideoSummary {
    /// Its id.
    pub(super) video_id: String,
    /// The name of its file.
    pub(super) file_name: Option<String>,
    /// Its newest run.
    #[cfg_attr(test, ts(type = "FlowRun"))]
    pub(super) newest_run: FlowRun,
}

/// A video.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct VideoPage {
    /// Its id.
    pub(super) video_id: String,
    /// The name of its file.
    pub(super) file_name: Option<String>,
    /// Its annotations.db.
    pub(super) db_path: Option<String>,
    /// Why its pictures cannot be shown.
    pub(super) problem: Option<Problem>,
    /// What is in its annotations.db.
    pub(super) pictures: Option<Pictures>,
    /// Its runs, newest first; a hundred at most.
    #[cfg_attr(test, ts(type = "FlowRun[]"))]
    pub(super) runs: Vec<FlowRun>,
    /// Its assets.
    #[cfg_attr(test, ts(type = "Asset[]"))]
    pub(super) assets: Vec<Asset>,
}

/// What is in an annotations.db.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct Pictures {
    /// Ticks of the index clock a second.
    pub(super) index_rate_hz: f64,
    /// The full frames.
    pub(super) full: Option<Frames>,
    /// The cropped frames.
    pub(super) cropped: Option<Frames>,
    /// Recognized boxes.
    pub(super) box_count: u32,
    /// Captions, read or not.
    pub(super) caption_count: u32,
    /// The caption strip.
    pub(super) layout: Option<Layout>,
    /// What is known of the film, and the status rows: name of the table, and column with value.
    pub(super) rows: Vec<(String, Vec<(String, String)>)>,
}

/// A set of frames.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct Frames {
    /// How many.
    pub(super) count: u32,
    /// The first index.
    pub(super) first: i64,
    /// The last index.
    pub(super) last: i64,
    /// Pixels.
    pub(super) width: u32,
    /// Pixels.
    pub(super) height: u32,
    /// Changes when the set is made anew; a part of the pictures' addresses.
    pub(super) version: String,
    /// The layout that a strip is from.
    pub(super) bounds_version: Option<i64>,
}

/// A caption strip.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct Layout {
    /// Pixels of the full frame.
    pub(super) frame_width: u32,
    /// Pixels of the full frame.
    pub(super) frame_height: u32,
    /// The strip.
    #[cfg_attr(test, ts(type = "CropBounds"))]
    pub(super) bounds: CropBounds,
    /// Its version.
    pub(super) version: i64,
}

/// Full frames in their order, with their boxes.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct FramesPage {
    /// Frames after the index that was asked for.
    pub(super) frames: Vec<FullFrame>,
    /// Where to go on; none: that was all.
    pub(super) after: Option<i64>,
}

/// A full frame.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct FullFrame {
    /// Its place on the index clock.
    pub(super) frame_index: i64,
    /// Pixels.
    pub(super) width: u32,
    /// Pixels.
    pub(super) height: u32,
    /// What was read on it, in reading order.
    pub(super) boxes: Vec<TextBox>,
}

/// A recognized text; its place is in fractions of the frame, from the upper left corner.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct TextBox {
    /// What was read.
    pub(super) text: String,
    /// From 0 to 1.
    pub(super) confidence: f64,
    /// Left edge.
    pub(super) left: f64,
    /// Upper edge.
    pub(super) top: f64,
    /// Width.
    pub(super) width: f64,
    /// Height.
    pub(super) height: f64,
}

/// The captions of a video.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub(super) struct Captions {
    /// In the order of time.
    pub(super) captions: Vec<Caption>,
}

/// A caption: its boundaries, and what was read off the median of its frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct Caption {
    /// Its id.
    pub(super) id: i64,
    /// Its first frame on the index clock.
    pub(super) first: i64,
    /// Its last frame.
    pub(super) last: i64,
    /// A person has said that there is none.
    pub(super) is_gap: bool,
    /// What a person wrote.
    pub(super) text: Option<String>,
    /// What was read.
    pub(super) read_text: Option<String>,
    /// How the reading stands; none: it was never asked for.
    pub(super) reading: Option<Reading>,
    /// Why it was not read.
    pub(super) error: Option<String>,
    /// The version of the picture that it was read off; none: there is no picture.
    pub(super) picture: Option<String>,
}

/// How the reading of a caption stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) enum Reading {
    /// It waits.
    Queued,
    /// It is at work.
    Processing,
    /// It was read.
    Complete,
    /// It could not be read.
    Error,
}

/// Where a text was found.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct Found {
    /// Frames that have it, in their order.
    pub(super) matches: Vec<FoundFrame>,
    /// There are more frames than are told.
    pub(super) has_more: bool,
}

/// A frame with a text that was looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct FoundFrame {
    /// The frame.
    pub(super) frame_index: i64,
    /// Places of the boxes that the text is in, in the frame's reading order.
    pub(super) boxes: Vec<u32>,
    /// All that was read on the frame.
    pub(super) text: String,
}

/// Assets and what is stale.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct LineagePage {
    /// Assets, by key.
    #[cfg_attr(test, ts(type = "Asset[]"))]
    pub(super) assets: Vec<Asset>,
    /// Keys of those that a run can make anew.
    pub(super) runnable: Vec<String>,
    /// What is not shown and why: what other machines have made, while the server does not answer.
    pub(super) notice: Option<String>,
    /// Older ones that are not among them.
    pub(super) left_out: usize,
}

/// A request to make stale assets anew.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct StaleRequest {
    /// Of this video alone; none: of all.
    pub(super) video: Option<String>,
}

/// What was queued for it.
#[derive(Debug, Clone, Default, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct StaleResult {
    /// Runs that are queued now.
    pub(super) queued: Vec<Queued>,
    /// Keys of assets that could not be queued, with why.
    pub(super) left: Vec<(String, String)>,
}

/// A request to change the pool.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PoolRequest {
    /// Whether claims are to stand still; none: as it is.
    #[serde(default)]
    pub(super) is_paused: Option<bool>,
    /// Runs at once; none: as it is.
    #[serde(default)]
    pub(super) concurrency_limit: Option<u32>,
}

/// What the pool has done over time.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct Activity {
    /// The first moment that is told.
    #[cfg_attr(test, ts(type = "string"))]
    pub(super) from: Timestamp,
    /// Length of a slice.
    pub(super) slice_seconds: u32,
    /// From `from` on.
    pub(super) slices: Vec<Slice>,
    /// Runs that ended in that time, oldest first.
    pub(super) ended: Vec<EndedRun>,
    /// There were more runs than were looked at: the older slices tell too little.
    pub(super) is_partial: bool,
}

/// What the pool did in a slice of time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct Slice {
    /// Runs that waited at its end.
    pub(super) waiting: u32,
    /// Runs that ran at its end.
    pub(super) running: u32,
    /// Runs that completed in it.
    pub(super) completed: u32,
    /// Runs that failed or crashed in it.
    pub(super) failed: u32,
    /// Runs that were cancelled in it, whether they had begun or not.
    pub(super) cancelled: u32,
}

/// A run that has ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(super) struct EndedRun {
    /// The run.
    #[cfg_attr(test, ts(type = "string"))]
    pub(super) flow_run_id: FlowRunId,
    /// Its flow.
    pub(super) flow_name: String,
    /// How it ended.
    #[cfg_attr(test, ts(type = "StateType"))]
    pub(super) state_type: StateType,
    /// When.
    #[cfg_attr(test, ts(type = "string"))]
    pub(super) ended_at: Timestamp,
    /// From its first start to its end.
    pub(super) seconds: f64,
}

#[cfg(test)]
mod tests {
    use ts_rs::{Config, TS};

    use super::*;

    /// The types of the domain that `index.d.ts` documents, as far as these use them.
    const IMPORTS: &str = "import type {\n  Asset,\n  CropBounds,\n  FlowRun,\n  FlowRunDetails,\n  LogLine,\n  Priority,\n  StateType,\n} from '../../index.js';\n";

    fn typescript() -> String {
        let mut text = String::from(
            "// Made from src/dashboard/api.rs by its test; to make it anew: CAPTIONACC_MAKE_API=1 with that test. Not to be edited.\n\n",
        );
        text.push_str(IMPORTS);
        let config = Config::new().with_large_int("number");
        macro_rules! declare {
            ($($name:ident),* $(,)?) => {$(
                let docs = $name::docs().unwrap_or_default();
                text.push_str(&format!("\n{docs}export {}\n", $name::decl(&config)));
            )*};
        }
        declare!(
            About,
            FlowName,
            Overview,
            Pool,
            QueueDepth,
            Worker,
            Delivery,
            WaitingMessages,
            Live,
            Problem,
            Refusal,
            Home,
            Finding,
            RunsPage,
            RunsFilter,
            BulkAction,
            BulkRequest,
            BulkResult,
            TakeOverRequest,
            RunPage,
            ProcessFigures,
            LogPage,
            Queued,
            VideoSummary,
            VideoPage,
            Pictures,
            Frames,
            Layout,
            FramesPage,
            FullFrame,
            TextBox,
            Captions,
            Caption,
            Reading,
            Found,
            FoundFrame,
            LineagePage,
            StaleRequest,
            StaleResult,
            PoolRequest,
            Activity,
            Slice,
            EndedRun,
        );
        text
    }

    #[test]
    fn the_pages_have_the_types_of_the_server() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/dashboard/src/api.ts");
        let expected = typescript();
        if std::env::var_os("CAPTIONACC_MAKE_API").is_some() {
            std::fs::write(path, &expected).expect("written");
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == expected,
            "dashboard/src/api.ts is not what src/dashboard/api.rs makes: run this test with CAPTIONACC_MAKE_API=1"
        );
    }
}
