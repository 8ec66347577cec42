// Made from src/dashboard/api.rs by its test; to make it anew: CAPTIONACC_MAKE_API=1 with that test. Not to be edited.

import type {
  Asset,
  CropBounds,
  FlowRun,
  FlowRunDetails,
  LogLine,
  Priority,
  StateType,
} from '../../index.js';

/**
 * What does not change while the dashboard runs.
 */
export type About = { 
/**
 * Of this program.
 */
version: string, 
/**
 * Where runs are queued, for people.
 */
orchestrator: string, 
/**
 * The address of Prefect's own UI, where there is one.
 */
prefectUi: string | null, 
/**
 * Nothing can be changed here.
 */
readOnly: boolean, 
/**
 * A run whose worker is silent is given on by hand: several machines share the queue.
 */
takesOver: boolean, 
/**
 * The flows that are known.
 */
flows: Array<FlowName>, };

/**
 * A flow that is known.
 */
export type FlowName = { 
/**
 * `full-frames`, for example.
 */
name: string, 
/**
 * One line for people.
 */
description: string, };

/**
 * The pool and what runs in it.
 */
export type Overview = { 
/**
 * The pool.
 */
pool: Pool, 
/**
 * Runs that hold a slot, newest first.
 */
active: FlowRun[], };

/**
 * The work pool.
 */
export type Pool = { 
/**
 * Its name.
 */
name: string, 
/**
 * Runs at once.
 */
concurrencyLimit: number, 
/**
 * Of these, runs of the queue `background` at once: the rest is kept for those that a person waits for.
 */
backgroundLimit: number, 
/**
 * Whether claims stand still.
 */
isPaused: boolean, 
/**
 * Runs that hold a slot.
 */
active: number, 
/**
 * Runs that wait, by queue.
 */
waiting: Array<QueueDepth>, 
/**
 * Workers known, alive or not.
 */
workers: Array<Worker>, 
/**
 * What Prefect's API must still hear from this machine; none on the embedded queue, where nobody else hears of runs.
 */
delivery: Delivery | null, };

/**
 * How many runs wait in a work queue.
 */
export type QueueDepth = { 
/**
 * The queue.
 */
queue: Priority, 
/**
 * How many.
 */
count: number, };

/**
 * A worker as it announced itself.
 */
export type Worker = { 
/**
 * `host-PID`.
 */
name: string, 
/**
 * Its process.
 */
pid: number, 
/**
 * Version of its program.
 */
version: string, 
/**
 * When it started.
 */
startedAt: string, 
/**
 * Whether its process lives.
 */
isAlive: boolean, };

/**
 * What Prefect's API must still hear from this machine.
 */
export type Delivery = { 
/**
 * Messages that wait, by kind; kinds of which none waits are left out.
 */
waiting: Array<WaitingMessages>, 
/**
 * When the oldest of them came.
 */
oldestAt: string | null, 
/**
 * Runs that were queued while the API was away, and wait on this machine.
 */
keptRuns: number, 
/**
 * Since when the API has not answered; none: it does.
 */
awaySince: string | null, };

/**
 * How many messages of a kind wait.
 */
export type WaitingMessages = { 
/**
 * What they are about.
 */
kind: 'state' | 'labels' | 'taskRun' | 'artifact' | 'asset' | 'log', 
/**
 * How many.
 */
count: number, };

/**
 * What the stream tells.
 */
export type Live = { "type": "overview", 
/**
 * As it is now.
 */
overview: Overview, } | { "type": "runs", 
/**
 * As they are now.
 */
runs: FlowRun[], } | { "type": "progress", 
/**
 * As they are now.
 */
runs: FlowRun[], } | { "type": "log", 
/**
 * The run.
 */
flowRunId: string, 
/**
 * The cursor before them.
 */
from: number, 
/**
 * The cursor after them.
 */
to: number, 
/**
 * The lines.
 */
lines: LogLine[], } | { "type": "away", 
/**
 * What is wrong.
 */
problem: Problem, 
/**
 * What waits meanwhile, and since when.
 */
delivery: Delivery | null, } | { "type": "back" } | { "type": "reset" };

/**
 * Why something was not done.
 */
export type Problem = { 
/**
 * Stable, as `ERR_CAPTIONACC_…`.
 */
code: string, 
/**
 * For people.
 */
message: string, 
/**
 * Whether the same may succeed later.
 */
retryable: boolean, };

/**
 * The answer to what was not done.
 */
export type Refusal = { 
/**
 * Why.
 */
error: Problem, };

/**
 * What stands on the first page beside the overview.
 */
export type Home = { 
/**
 * What is wrong, the gravest first.
 */
findings: Array<Finding>, 
/**
 * Runs that ended last.
 */
recent: FlowRun[], 
/**
 * The run that waits longest, of those that are due.
 */
oldestWaiting: FlowRun | null, 
/**
 * Whether any run was ever queued here.
 */
hasRuns: boolean, };

/**
 * Something that is wrong, with what to do about it.
 */
export type Finding = { 
/**
 * What was looked at, in a word or two.
 */
check: string, 
/**
 * How grave it is.
 */
level: 'ok' | 'warning' | 'error', 
/**
 * What was found.
 */
message: string, 
/**
 * What to do about it.
 */
fix: string | null, };

/**
 * A page of runs, newest first.
 */
export type RunsPage = { 
/**
 * Those that match.
 */
runs: FlowRun[], 
/**
 * Where to go on; none: that was all.
 */
before: string | null, };

/**
 * Which runs.
 */
export type RunsFilter = { 
/**
 * Of this flow.
 */
flow: string | null, 
/**
 * Of this video.
 */
video: string | null, 
/**
 * In one of these states; none: any.
 */
states: StateType[], 
/**
 * With this text in id, video, message or parameters.
 */
text: string | null, };

/**
 * What is to be done with many runs.
 */
export type BulkAction = "cancel" | "retry";

/**
 * A request to do something with many runs.
 */
export type BulkRequest = { 
/**
 * What.
 */
action: BulkAction, 
/**
 * These runs; none: all that match the filter.
 */
ids: string[] | null, 
/**
 * Which runs, where no ids are given.
 */
filter: RunsFilter, };

/**
 * What became of it.
 */
export type BulkResult = { 
/**
 * Runs for which it was done.
 */
done: number, 
/**
 * Runs that are left as they are.
 */
skipped: number, 
/**
 * Why the first of them is.
 */
skippedBecause: string | null, 
/**
 * Runs for which it failed.
 */
failed: number, 
/**
 * Why the first of them did.
 */
problem: Problem | null, 
/**
 * More match than are done at once: the same again goes on.
 */
hasMore: boolean, };

/**
 * A request to give a run to another worker.
 */
export type TakeOverRequest = { 
/**
 * Also if its worker was heard a moment ago.
 */
isForced: boolean, };

/**
 * A run with all that is kept of it.
 */
export type RunPage = { 
/**
 * The run.
 */
run: FlowRunDetails, 
/**
 * What it has made or found, as far as it is the newest.
 */
assets: Asset[], 
/**
 * Its process, if it runs on this machine.
 */
process: ProcessFigures | null, 
/**
 * Its page in Prefect's UI.
 */
prefectUrl: string | null, };

/**
 * A process of this machine.
 */
export type ProcessFigures = { 
/**
 * Memory that it holds, in bytes.
 */
memoryBytes: number, 
/**
 * Time that it has computed, in seconds; several cores count each.
 */
cpuSeconds: number, 
/**
 * Cores that it keeps busy: since it was looked at a moment ago, or since its start.
 */
busyCores: number, };

/**
 * Lines of a log.
 */
export type LogPage = { 
/**
 * The lines after the cursor.
 */
lines: LogLine[], 
/**
 * The cursor after them.
 */
next: number, };

/**
 * A run that was queued.
 */
export type Queued = { 
/**
 * The run.
 */
flowRunId: string, 
/**
 * Its flow.
 */
flowName: string, 
/**
 * What it is about.
 */
videoId: string | null, };

/**
 * A video, as the runs know it.
 */
export type VideoSummary = { 
/**
 * Its id.
 */
videoId: string, 
/**
 * The name of its file.
 */
fileName: string | null, 
/**
 * Its newest run.
 */
newestRun: FlowRun, };

/**
 * A video.
 */
export type VideoPage = { 
/**
 * Its id.
 */
videoId: string, 
/**
 * The name of its file.
 */
fileName: string | null, 
/**
 * Its annotations.db.
 */
dbPath: string | null, 
/**
 * Why its pictures cannot be shown.
 */
problem: Problem | null, 
/**
 * What is in its annotations.db.
 */
pictures: Pictures | null, 
/**
 * Its runs, newest first; a hundred at most.
 */
runs: FlowRun[], 
/**
 * Its assets.
 */
assets: Asset[], };

/**
 * What is in an annotations.db.
 */
export type Pictures = { 
/**
 * Ticks of the index clock a second.
 */
indexRateHz: number, 
/**
 * The full frames.
 */
full: Frames | null, 
/**
 * The cropped frames.
 */
cropped: Frames | null, 
/**
 * Recognized boxes.
 */
boxCount: number, 
/**
 * Captions, read or not.
 */
captionCount: number, 
/**
 * The caption strip.
 */
layout: Layout | null, 
/**
 * What is known of the film, and the status rows: name of the table, and column with value.
 */
rows: Array<[string, Array<[string, string]>]>, };

/**
 * A set of frames.
 */
export type Frames = { 
/**
 * How many.
 */
count: number, 
/**
 * The first index.
 */
first: number, 
/**
 * The last index.
 */
last: number, 
/**
 * Pixels.
 */
width: number, 
/**
 * Pixels.
 */
height: number, 
/**
 * Changes when the set is made anew; a part of the pictures' addresses.
 */
version: string, 
/**
 * The layout that a strip is from.
 */
boundsVersion: number | null, };

/**
 * A caption strip.
 */
export type Layout = { 
/**
 * Pixels of the full frame.
 */
frameWidth: number, 
/**
 * Pixels of the full frame.
 */
frameHeight: number, 
/**
 * The strip.
 */
bounds: CropBounds, 
/**
 * Its version.
 */
version: number, };

/**
 * Full frames in their order, with their boxes.
 */
export type FramesPage = { 
/**
 * Frames after the index that was asked for.
 */
frames: Array<FullFrame>, 
/**
 * Where to go on; none: that was all.
 */
after: number | null, };

/**
 * A full frame.
 */
export type FullFrame = { 
/**
 * Its place on the index clock.
 */
frameIndex: number, 
/**
 * Pixels.
 */
width: number, 
/**
 * Pixels.
 */
height: number, 
/**
 * What was read on it, in reading order.
 */
boxes: Array<TextBox>, };

/**
 * A recognized text; its place is in fractions of the frame, from the upper left corner.
 */
export type TextBox = { 
/**
 * What was read.
 */
text: string, 
/**
 * From 0 to 1.
 */
confidence: number, 
/**
 * Left edge.
 */
left: number, 
/**
 * Upper edge.
 */
top: number, 
/**
 * Width.
 */
width: number, 
/**
 * Height.
 */
height: number, };

/**
 * The captions of a video.
 */
export type Captions = { 
/**
 * In the order of time.
 */
captions: Array<Caption>, };

/**
 * A caption: its boundaries, and what was read off the median of its frames.
 */
export type Caption = { 
/**
 * Its id.
 */
id: number, 
/**
 * Its first frame on the index clock.
 */
first: number, 
/**
 * Its last frame.
 */
last: number, 
/**
 * A person has said that there is none.
 */
isGap: boolean, 
/**
 * What a person wrote.
 */
text: string | null, 
/**
 * What was read.
 */
readText: string | null, 
/**
 * How the reading stands; none: it was never asked for.
 */
reading: Reading | null, 
/**
 * Why it was not read.
 */
error: string | null, 
/**
 * The version of the picture that it was read off; none: there is no picture.
 */
picture: string | null, };

/**
 * How the reading of a caption stands.
 */
export type Reading = "queued" | "processing" | "complete" | "error";

/**
 * Where a text was found.
 */
export type Found = { 
/**
 * Frames that have it, in their order.
 */
matches: Array<FoundFrame>, 
/**
 * There are more frames than are told.
 */
hasMore: boolean, };

/**
 * A frame with a text that was looked for.
 */
export type FoundFrame = { 
/**
 * The frame.
 */
frameIndex: number, 
/**
 * Places of the boxes that the text is in, in the frame's reading order.
 */
boxes: Array<number>, 
/**
 * All that was read on the frame.
 */
text: string, };

/**
 * Assets and what is stale.
 */
export type LineagePage = { 
/**
 * Assets, by key.
 */
assets: Asset[], 
/**
 * Keys of those that a run can make anew.
 */
runnable: Array<string>, 
/**
 * What is not shown and why: what other machines have made, while the server does not answer.
 */
notice: string | null, 
/**
 * Older ones that are not among them.
 */
leftOut: number, };

/**
 * A request to make stale assets anew.
 */
export type StaleRequest = { 
/**
 * Of this video alone; none: of all.
 */
video: string | null, };

/**
 * What was queued for it.
 */
export type StaleResult = { 
/**
 * Runs that are queued now.
 */
queued: Array<Queued>, 
/**
 * Keys of assets that could not be queued, with why.
 */
left: Array<[string, string]>, };

/**
 * A request to change the pool.
 */
export type PoolRequest = { 
/**
 * Whether claims are to stand still; none: as it is.
 */
isPaused: boolean | null, 
/**
 * Runs at once; none: as it is.
 */
concurrencyLimit: number | null, };

/**
 * What the pool has done over time.
 */
export type Activity = { 
/**
 * The first moment that is told.
 */
from: string, 
/**
 * Length of a slice.
 */
sliceSeconds: number, 
/**
 * From `from` on.
 */
slices: Array<Slice>, 
/**
 * Runs that ended in that time, oldest first.
 */
ended: Array<EndedRun>, 
/**
 * There were more runs than were looked at: the older slices tell too little.
 */
isPartial: boolean, };

/**
 * What the pool did in a slice of time.
 */
export type Slice = { 
/**
 * Runs that waited at its end.
 */
waiting: number, 
/**
 * Runs that ran at its end.
 */
running: number, 
/**
 * Runs that completed in it.
 */
completed: number, 
/**
 * Runs that failed or crashed in it.
 */
failed: number, 
/**
 * Runs that were cancelled in it, whether they had begun or not.
 */
cancelled: number, };

/**
 * A run that has ended.
 */
export type EndedRun = { 
/**
 * The run.
 */
flowRunId: string, 
/**
 * Its flow.
 */
flowName: string, 
/**
 * How it ended.
 */
stateType: StateType, 
/**
 * When.
 */
endedAt: string, 
/**
 * From its first start to its end.
 */
seconds: number, };
