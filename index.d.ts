/**
 * CaptionA.cc orchestrator: queues caption flows and tells what becomes of them. The flows themselves run in a worker
 * (`captionacc worker`), in another process.
 *
 * Every function returns a promise (or an iterator of them), and every failure is a rejection with an {@link OrchestratorError}, wrong arguments
 * included; only what hinders loading (`ERR_CAPTIONACC_LOAD_…`) is thrown when the package is imported or required. No call
 * blocks the event loop, keeps the process alive once it has settled, or opens an `annotations.db`.
 *
 * Where runs are queued is a matter of settings, read from the environment, `captionacc.toml` and Prefect's own settings:
 * by default `queue.db` in `CAPTIONACC_HOME`, or a Prefect 3 API. The calls and their results are the same.
 *
 * @packageDocumentation
 */

/** A rectangle in pixels of the upright frame; `right` and `bottom` are exclusive. */
export interface CropBounds {
  /** First column. */
  left: number;
  /** First row. */
  top: number;
  /** Column after the last; above `left`. */
  right: number;
  /** Row after the last; above `top`. */
  bottom: number;
}

/** What the flows that read a video take. Paths are local, and made absolute against the working directory of the call. */
export interface VideoArguments {
  /** The video's id in the web app. */
  'video-id': string;
  /** The video file. */
  'video-path': string;
  /** The video's `annotations.db`. */
  'db-path': string;
  /** A scratch directory: nothing is left in it, and if the run made it, it is removed. */
  'output-dir': string;
}

/** Arguments of `full-frames`: samples whole frames and reads the text on them. */
export interface FullFramesArguments extends VideoArguments {
  /**
   * Sampled frames a second, in Hz; above 0.
   * @default 0.1
   */
  'frame-rate'?: number | string | undefined;
  /**
   * What becomes of a video that is damaged in places: `keep` shows what can be shown and reports the rest, `fail` fails.
   * @default 'keep'
   */
  'on-damage'?: 'keep' | 'fail' | undefined;
}

/** Arguments of `crop-frames`: samples the caption strip. */
export interface CropFramesArguments extends VideoArguments {
  /**
   * The caption strip, as an object or as its JSON text.
   * @default the bounds of `video_layout_config` when the run starts
   */
  'crop-bounds'?: CropBounds | string | undefined;
  /**
   * Version of the layout that the bounds come from; a whole number from 1.
   * @default the version of `video_layout_config` when the run starts; 1 where it has no row
   */
  'crop-bounds-version'?: number | string | undefined;
  /**
   * Sampled frames a second, in Hz; above 0.
   * @default 10
   */
  'frame-rate'?: number | string | undefined;
  /**
   * What becomes of a video that is damaged in places: `keep` shows what can be shown and reports the rest, `fail` fails.
   * @default 'keep'
   */
  'on-damage'?: 'keep' | 'fail' | undefined;
}

/**
 * Arguments of `caption-median-ocr`: reads the text of captions, each off the median of its cropped frames. Paths are local,
 * and made absolute against the working directory of the call.
 *
 * For each caption, the frames of `cropped_frames` from `start_frame_index` to `end_frame_index` become one picture, in which
 * every pixel has the median of its values: `text_images/annotation_ID.jpg` in the video's folder. Its text goes to
 * `text_ocr_combined`, a line of it a line of the picture, with `median_ocr_status` `complete`. What cannot be read has
 * `error` and a reason in `median_ocr_error`, and the others go on; the run completes unless none could be read.
 */
export interface CaptionMedianOcrArguments {
  /** The video's id in the web app. */
  'video-id': string;
  /** The video's `annotations.db`. */
  'db-path': string;
  /** The video's folder, which must exist. */
  'video-dir': string;
  /**
   * Ids of the captions, as a list or as its JSON text: whole numbers from 1, at most 10,000; each is read once.
   */
  'caption-ids': readonly number[] | string;
  /**
   * What the captions are written in, as a BCP 47 tag. The models read Chinese and Latin letters whatever this says; another
   * language is a warning in the run's log.
   * @default 'zh-Hans'
   */
  'language'?: string | undefined;
}

/**
 * The flows, each with its arguments. A flow that `captionacc.toml` declares is made known to the compiler by
 * augmenting this interface.
 *
 * @example
 * ```ts
 * declare module '@captionacc/orchestrator' {
 *   interface FlowArguments {
 *     train: { version: string };
 *   }
 * }
 * ```
 */
export interface FlowArguments {
  'full-frames': FullFramesArguments;
  'crop-frames': CropFramesArguments;
  'caption-median-ocr': CaptionMedianOcrArguments;
}

/** The name of a flow. */
export type FlowType = keyof FlowArguments;

/** Where a run waits: `user-initiated` ones start before `background` ones. */
export type Priority = 'background' | 'user-initiated';

/** The arguments `A` of flow `F`, without any that the flow does not take. */
export type ExactArguments<F extends FlowType, A> = A & Record<Exclude<keyof A, keyof FlowArguments[F]>, never>;

/** Options of {@link queuePrefectFlow}. */
export interface QueueOptions {
  /** Gives the call up while nothing is stored. Once the run is stored, the call returns it all the same. */
  signal?: AbortSignal | undefined;
  /** Calls with the same key queue one run, and return it. At most 1024 bytes. */
  idempotencyKey?: string | undefined;
  /**
   * Longest wait, in milliseconds. When it is over, nothing is stored, unless a Prefect server has stored the run and its
   * answer was lost: a call with the same `idempotencyKey` returns it then.
   * @default 30000
   */
  timeoutMs?: number | undefined;
  /**
   * What to do if Prefect's API cannot be reached within `timeoutMs`. `reject`: the promise rejects with
   * `ERR_CAPTIONACC_PREFECT_UNREACHABLE`. `store`: the run is kept on this machine, and a worker of the same
   * `CAPTIONACC_HOME` queues it, once, when the API is back; the id of the call stays good. The embedded orchestrator is
   * always reached.
   * @default 'reject', or what `when-unreachable` in captionacc.toml or CAPTIONACC_WHEN_UNREACHABLE says
   */
  whenUnreachable?: 'reject' | 'store' | undefined;
}

/** A run that is durably queued. */
export interface QueuedFlowRun {
  /** Its id. */
  flowRunId: string;
  status: 'queued';
  /** Where it waits. */
  priority: Priority;
}

/**
 * Queues a flow run and resolves once it is durably stored.
 *
 * An equal `full-frames` run of the same video that still waits is returned instead of queued twice; a `crop-frames` run
 * takes the place of an older one of the same video, queued or running. Only if one is at work on the very same (the same
 * video file, not changed since; bounds that were given, version, rate, paths), that one is returned and goes on. A
 * `caption-median-ocr` run takes the captions that it names from older runs, which go on with their others.
 * Called within a span of OpenTelemetry (`@opentelemetry/api`), the run belongs to its trace.
 *
 * @throws {@link OrchestratorError} `ERR_CAPTIONACC_UNKNOWN_FLOW`, `ERR_CAPTIONACC_INVALID_ARGUMENT`,
 * `ERR_CAPTIONACC_ABORTED`, `ERR_CAPTIONACC_TIMEOUT`, `ERR_CAPTIONACC_CONFIG`, `ERR_CAPTIONACC_STORE_…`,
 * `ERR_CAPTIONACC_PREFECT_…`. Whatever it is, nothing was stored; where an answer of Prefect's API was lost
 * (`ERR_CAPTIONACC_PREFECT_UNREACHABLE`), that cannot be known, and an `idempotencyKey` makes it safe to call again.
 *
 * @example
 * ```ts
 * const { flowRunId } = await queuePrefectFlow('crop-frames', {
 *   'video-id': video.id,
 *   'video-path': video.path,
 *   'db-path': path.join(folder, 'annotations.db'),
 *   'output-dir': path.join(folder, 'scratch'),
 *   'crop-bounds': { left: 0, top: 400, right: 1280, bottom: 640 },
 *   'crop-bounds-version': 3,
 * });
 * ```
 *
 * @example
 * ```ts
 * // After a caption's boundaries were moved, and its `median_ocr_status` set to `queued`.
 * await queuePrefectFlow('caption-median-ocr', {
 *   'video-id': video.id,
 *   'db-path': path.join(folder, 'annotations.db'),
 *   'video-dir': folder,
 *   'caption-ids': [captionId],
 * });
 * ```
 */
export function queuePrefectFlow<F extends FlowType, A extends FlowArguments[F]>(
  flowType: F,
  args: ExactArguments<F, A>,
  options?: QueueOptions,
): Promise<QueuedFlowRun>;
/** The same for arguments whose names are not known to the compiler: they are checked by the call. */
export function queuePrefectFlow<A extends Record<string, string>>(
  flowType: FlowType,
  args: string extends keyof A ? A : never,
  options?: QueueOptions,
): Promise<QueuedFlowRun>;

/** An open database of better-sqlite3 (`Database`) or node:sqlite (`DatabaseSync`). */
export interface AppDatabase {
  exec(sql: string): unknown;
  prepare(sql: string): { run(...parameters: never[]): { changes: number | bigint } };
}

/**
 * Writes into a video's `annotations.db` that a run waits, through the app's own open database, so that a page shows it even
 * before any worker has seen the run: `queued` in `crop_frames_status` (which is made if it is missing), `upload_complete` in
 * `processing_status`, `queued` as `median_ocr_status` of the captions. One upsert, which may be part of a transaction of the
 * app's; nothing else is opened. A row that an attempt writes at the moment stays as it is.
 *
 * To be called right before {@link queuePrefectFlow}: after it, a worker may be done already, and nobody would take the word
 * back.
 *
 * It is the one function that is done when it returns. @returns how many rows say so now; 0: an attempt is at work.
 *
 * @throws {@link OrchestratorError} `ERR_CAPTIONACC_INVALID_ARGUMENT`, `ERR_CAPTIONACC_UNKNOWN_FLOW`. What the app's own SQLite
 * throws (a lock, a missing table) is thrown as it is.
 *
 * @example
 * ```ts
 * markQueued(database, 'crop-frames');
 * await queuePrefectFlow('crop-frames', args);
 * ```
 */
export function markQueued(database: AppDatabase, flowType: 'full-frames' | 'crop-frames'): number;
/** The same of captions. */
export function markQueued(
  database: AppDatabase,
  flowType: 'caption-median-ocr',
  options: { /** The captions' ids. */ captionIds: readonly number[] },
): number;

/** What kind of state it is. `CANCELLED`, `COMPLETED`, `FAILED` and `CRASHED` are final. */
export type StateType =
  | 'SCHEDULED'
  | 'PENDING'
  | 'RUNNING'
  | 'CANCELLING'
  | 'CANCELLED'
  | 'COMPLETED'
  | 'FAILED'
  | 'CRASHED';

/** The name of a state, which says more than its type. */
export type StateName =
  | 'Scheduled'
  | 'Late'
  | 'AwaitingRetry'
  | 'Pending'
  | 'Running'
  | 'Retrying'
  | 'Cancelling'
  | 'Cancelled'
  | 'Completed'
  | 'Failed'
  | 'TimedOut'
  | 'Crashed';

/** A state that a run is or was in. Times are RFC 3339, in UTC. */
export interface State {
  type: StateType;
  name: StateName;
  /** Why, for people. */
  message: string | null;
  /** Since when. */
  timestamp: string;
}

/** How far an attempt is. */
export interface Progress {
  /** The task that it speaks of. */
  task: string;
  /** Work done, in `unit`. */
  done: number;
  /** All of the work, if known. */
  total: number | null;
  /** `frames`, for example. */
  unit: string;
  /** Of the whole attempt, from 0 to 1. */
  fraction: number;
  timestamp: string;
}

/** A flow run. */
export interface FlowRun {
  flowRunId: string;
  /** `full-frames`, for example. */
  flowName: string;
  /** `full-frames/production`, for example. */
  deployment: string;
  /** The arguments as they were checked: complete, paths absolute; `on-damage` only where it is `fail`. */
  parameters: Record<string, unknown>;
  /** The video that it is about; null for a program that is about none. */
  videoId: string | null;
  /** Where it waits. */
  priority: Priority;
  /** Flow, work queue and `video:ID`. */
  tags: string[];
  /** Its state now. */
  state: State;
  /** Attempts begun. */
  attempt: number;
  /** Attempts that failed by themselves; interrupted ones do not count. */
  failedAttempts: number;
  /** Of the attempt that runs, or of the last one. */
  progress: Progress | null;
  /** The run that took its place, if one did. */
  supersededBy: string | null;
  /** The worker that has it, or had it last. */
  workerName: string | null;
  /** Process of the attempt that runs. */
  pid: number | null;
  /** When it was queued. */
  createdAt: string;
  /** When it may run (again). */
  scheduledAt: string;
  /** When its first attempt started. */
  startedAt: string | null;
  /** When it reached its final state. */
  endedAt: string | null;
}

/** A step of an attempt. */
export interface TaskRun {
  taskRunId: string;
  /** Attempt of the flow run that it belongs to, from 1. */
  attempt: number;
  name: string;
  /** How often it was tried within the attempt. */
  runCount: number;
  /** Its state now. */
  state: State;
  startedAt: string;
  endedAt: string | null;
}

/** Something that a run leaves for people to look at. */
export interface Artifact {
  /** Lowercase letters, digits and dashes. */
  key: string;
  type: 'table' | 'link' | 'markdown' | 'progress';
  description: string | null;
  /** `table`: a list of objects; `link`, `markdown`: text; `progress`: a number from 0 to 100. */
  data: unknown;
  timestamp: string;
}

/** A flow run with all that is kept of it. */
export interface FlowRunDetails extends FlowRun {
  /** Every state it was in, oldest first. */
  states: State[];
  /** Its task runs, oldest first. */
  taskRuns: TaskRun[];
  /** Its artifacts, oldest first. */
  artifacts: Artifact[];
}

/**
 * Reads a flow run with its states, task runs and artifacts.
 *
 * @throws {@link OrchestratorError} `ERR_CAPTIONACC_FLOW_RUN_NOT_FOUND`, `ERR_CAPTIONACC_INVALID_ARGUMENT`, and those of
 * the store and of Prefect.
 */
export function getFlowRun(flowRunId: string): Promise<FlowRunDetails>;

/** Which runs to list; what is left out does not matter. */
export interface FlowRunFilter {
  /** Of this flow. */
  flowName?: string | undefined;
  /** Of this video. */
  videoId?: string | undefined;
  /**
   * In a state of one of these types.
   * @default [] any
   */
  stateTypes?: readonly StateType[] | undefined;
  /**
   * At most so many, from 1 to 1000.
   * @default 100
   */
  limit?: number | undefined;
  /** Only runs queued before this one: the last id of the page before. */
  before?: string | undefined;
}

/**
 * Lists flow runs, newest first.
 *
 * @throws {@link OrchestratorError} `ERR_CAPTIONACC_INVALID_ARGUMENT`, and those of the store and of Prefect.
 *
 * @example
 * ```ts
 * const running = await listFlowRuns({ stateTypes: ['PENDING', 'RUNNING'], videoId: video.id });
 * ```
 */
export function listFlowRuns(filter?: FlowRunFilter): Promise<FlowRun[]>;

/**
 * Cancels a flow run: one that waits at once, a running one as soon as its worker has stopped it (its state is
 * `CANCELLING` until then). To cancel twice is to cancel once.
 *
 * @throws {@link OrchestratorError} `ERR_CAPTIONACC_FLOW_RUN_NOT_FOUND`; `ERR_CAPTIONACC_INVALID_STATE` if it has ended
 * otherwise; and those of the store and of Prefect.
 */
export function cancelFlowRun(flowRunId: string): Promise<FlowRun>;

/**
 * Queues a failed, crashed or cancelled flow run again, under its id; one that waits for its retry becomes due.
 *
 * @throws {@link OrchestratorError} `ERR_CAPTIONACC_FLOW_RUN_NOT_FOUND`; `ERR_CAPTIONACC_INVALID_STATE` if it is under way
 * or completed; and those of the store.
 */
export function retryFlowRun(flowRunId: string): Promise<FlowRun>;

/** Options of {@link waitForFlowRun}. */
export interface WaitOptions {
  /** Ends the waiting; the run goes on. */
  signal?: AbortSignal | undefined;
  /**
   * Longest wait, in milliseconds.
   * @default none
   */
  timeoutMs?: number | undefined;
  /** Called with the newest progress; what it throws ends the waiting and is what the promise rejects with. */
  onProgress?: ((progress: Progress) => void) | undefined;
}

/**
 * Waits until a flow run has reached a final state, whichever it is, and returns the run. A Prefect API is asked for news
 * every 2 s, Prefect Cloud every 5 s; the end of a run that a worker of the same `CAPTIONACC_HOME` has is seen at once. An
 * API that is away is waited for a minute.
 *
 * @throws {@link OrchestratorError} `ERR_CAPTIONACC_FLOW_RUN_NOT_FOUND`, `ERR_CAPTIONACC_ABORTED`,
 * `ERR_CAPTIONACC_TIMEOUT`, and those of the store and of Prefect.
 *
 * @example
 * ```ts
 * const run = await waitForFlowRun(flowRunId, { onProgress: ({ fraction }) => show(fraction) });
 * if (run.state.type !== 'COMPLETED') throw new Error(run.state.message ?? run.state.name);
 * ```
 */
export function waitForFlowRun(flowRunId: string, options?: WaitOptions): Promise<FlowRunDetails>;

/** A line of a run's log. */
export interface LogLine {
  /** Attempt that wrote it; 0 before the first. */
  attempt: number;
  level: 'debug' | 'info' | 'warning' | 'error';
  /** One line of text. */
  message: string;
  timestamp: string;
}

/** What a watcher of a run sees. */
export type FlowRunEvent =
  | { type: 'state'; state: State; /** Attempts begun by then. */ attempt: number }
  | { type: 'progress'; progress: Progress }
  | { type: 'log'; log: LogLine };

/** An event with the place after it. */
export type Placed<E> = E & {
  /**
   * The place after this event, to go on from with `after`; letters, digits, `-` and `_`. What is in it is no business of
   * anybody else's.
   */
  cursor: string;
};

/** Options of {@link watchFlowRun} and {@link watchFlowRuns}. */
export interface WatchOptions {
  /** Ends the watching with `ERR_CAPTIONACC_ABORTED`; the runs go on. */
  signal?: AbortSignal | undefined;
  /** Begin after the event of this cursor, which was one of the same function's (and of the same run's). */
  after?: string | undefined;
}

/**
 * The events of a flow run: all of its past ones first (of progress, only the newest is kept), then each as it happens
 * (as {@link waitForFlowRun} sees it).
 * The iterator ends once the run has ended and all was seen. Leaving the loop releases everything. The status row of the
 * video's database may be written a moment after the final state is seen.
 *
 * @throws {@link OrchestratorError} from `next()`: `ERR_CAPTIONACC_FLOW_RUN_NOT_FOUND`, `ERR_CAPTIONACC_ABORTED`, and
 * those of the store and of Prefect.
 *
 * @example
 * ```ts
 * for await (const event of watchFlowRun(flowRunId)) {
 *   if (event.type === 'log') console.log(event.log.message);
 * }
 * ```
 */
export function watchFlowRun(
  flowRunId: string,
  options?: WatchOptions,
): AsyncIterableIterator<Placed<FlowRunEvent>, undefined>;

/** An event of any run. */
export type AnyFlowRunEvent = Placed<FlowRunEvent> & {
  flowRunId: string;
  /** `full-frames`, for example. */
  flowName: string;
  /** The video that the run is about; null for a program that is about none. */
  videoId: string | null;
};

/** Which events to watch; what is left out does not matter. */
export interface WatchFilter {
  /** Of this run. */
  flowRunId?: string | undefined;
  /** Of runs of this flow. */
  flowName?: string | undefined;
  /** Of runs for this video. */
  videoId?: string | undefined;
  /**
   * Of these kinds.
   * @default [] any
   */
  types?: readonly FlowRunEvent['type'][] | undefined;
}

/**
 * The events of all flow runs, each as it happens: from the first `next()` on, or after a cursor. It never ends by itself.
 * Leaving the loop, or the signal, ends it and releases everything. However many iterators a process has, one reader reads
 * for all of them.
 *
 * With the embedded orchestrator every state and every log line comes, once and in the order in which they were stored, from
 * whatever process; of progress the newest (after a cursor, that of the runs at work comes again). With Prefect the same is
 * true of runs that this `CAPTIONACC_HOME` has queued or works on, from when it knows them; of all other runs of its
 * deployments the server tells, about 10 s after it happened: states, log lines (of a line that came to the server more than
 * two minutes after its time, and of more than 1,000 in that time, only the run's own log tells), and progress. After a cursor,
 * what came with it at the very same moment may come again.
 *
 * A `next()` that waits keeps the process alive, as every promise of this package does while it is pending; an iterator that
 * nobody asks holds nothing.
 *
 * Events are kept as long as their runs (`retention-days`). A cursor from before that, or of another queue, is
 * `ERR_CAPTIONACC_CURSOR_GONE`: list the runs anew, and watch without a cursor.
 *
 * @throws {@link OrchestratorError} from `next()`: `ERR_CAPTIONACC_CURSOR_GONE`, `ERR_CAPTIONACC_INVALID_ARGUMENT`,
 * `ERR_CAPTIONACC_ABORTED`, and those of the store.
 *
 * @example One stream of server-sent events for a page, as a resource route of React Router. A browser that was cut off sends the
 * last id that it has seen, and misses nothing.
 * ```ts
 * export function loader({ request }: LoaderFunctionArgs) {
 *   const after = request.headers.get('Last-Event-ID') ?? undefined;
 *   const events = watchFlowRuns({ types: ['state', 'progress'] }, { signal: request.signal, after });
 *   const text = new TextEncoder();
 *   const body = new ReadableStream({
 *     async pull(controller) {
 *       try {
 *         const { value } = await events.next();
 *         if (value) controller.enqueue(text.encode(`id: ${value.cursor}\ndata: ${JSON.stringify(value)}\n\n`));
 *         else controller.close();
 *       } catch (error) {
 *         const code = (error as OrchestratorError).code;
 *         if (code === 'ERR_CAPTIONACC_CURSOR_GONE') controller.enqueue(text.encode('id:\nevent: reload\ndata:\n\n'));
 *         controller.close();
 *       }
 *     },
 *     cancel: () => void events.return?.(),
 *   });
 *   return new Response(body, { headers: { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' } });
 * }
 * ```
 */
export function watchFlowRuns(
  filter?: WatchFilter,
  options?: WatchOptions,
): AsyncIterableIterator<AnyFlowRunEvent, undefined>;

/** The newest materialization of an asset. */
export interface Asset {
  /** `annotations://VIDEO/full_frames`, for example. */
  key: string;
  /** Grows with every materialization of any asset. */
  version: number;
  /** The run that made it. */
  flowRunId: string;
  /** The flow of that run. */
  flowName: string;
  materializedAt: string;
  /** Counts, parameters, versions. */
  metadata: unknown;
  /** What it was made from, with the version at that time (`null`: an asset that no run makes). */
  upstreams: { key: string; version: number | null }[];
  /** Why it is out of date; empty: it is not. */
  staleBecause: string[];
}

/** Every asset, by key. */
export interface AssetLineage {
  assets: Record<string, Asset>;
  /** What is missing and why, for people: over Prefect, what other machines have made while its API does not answer. */
  notice?: string;
}

/**
 * Reads what the runs have made, from what, and whether that has changed since. Over Prefect: the runs of every machine.
 *
 * @throws {@link OrchestratorError} those of the store.
 */
export function getLineage(): Promise<AssetLineage>;

/** The codes of {@link OrchestratorError}. */
export type OrchestratorErrorCode =
  /** There is no flow of that name. */
  | 'ERR_CAPTIONACC_UNKNOWN_FLOW'
  /** An argument or option is missing, unknown, empty or not of its form. */
  | 'ERR_CAPTIONACC_INVALID_ARGUMENT'
  /** No such flow run: never queued here, or past its retention. */
  | 'ERR_CAPTIONACC_FLOW_RUN_NOT_FOUND'
  /** The flow run's state does not allow this. */
  | 'ERR_CAPTIONACC_INVALID_STATE'
  /** Events after this cursor are no longer kept, or it is one of another queue. */
  | 'ERR_CAPTIONACC_CURSOR_GONE'
  /** The signal was aborted; its reason is the `cause`. */
  | 'ERR_CAPTIONACC_ABORTED'
  /** Not done within `timeoutMs`. */
  | 'ERR_CAPTIONACC_TIMEOUT'
  /** An attempt no longer holds its flow run (workers only). */
  | 'ERR_CAPTIONACC_ATTEMPT_SUPERSEDED'
  /** queue.db was written by a newer version of this package. */
  | 'ERR_CAPTIONACC_STORE_NEWER'
  /** queue.db or its folder cannot be written. */
  | 'ERR_CAPTIONACC_STORE_READ_ONLY'
  /** Another process held queue.db for the whole waiting time. */
  | 'ERR_CAPTIONACC_STORE_LOCKED'
  /** No space left for queue.db. */
  | 'ERR_CAPTIONACC_STORE_FULL'
  /** queue.db is not a usable database. */
  | 'ERR_CAPTIONACC_STORE_CORRUPT'
  /** The system refused an operation on queue.db or its folder. */
  | 'ERR_CAPTIONACC_STORE_IO'
  /** A setting or captionacc.toml is wrong. */
  | 'ERR_CAPTIONACC_CONFIG'
  /** Prefect's API cannot be reached. */
  | 'ERR_CAPTIONACC_PREFECT_UNREACHABLE'
  /** Prefect refused the API key or auth string. */
  | 'ERR_CAPTIONACC_PREFECT_UNAUTHORIZED'
  /** The key, or the plan, does not allow this. */
  | 'ERR_CAPTIONACC_PREFECT_FORBIDDEN'
  /** Prefect does not know the deployment, pool or workspace. */
  | 'ERR_CAPTIONACC_PREFECT_NOT_FOUND'
  /** Prefect refused the request as it is. */
  | 'ERR_CAPTIONACC_PREFECT_REJECTED'
  /** Prefect's rate limit is used up. */
  | 'ERR_CAPTIONACC_PREFECT_RATE_LIMITED'
  /** Prefect failed, or answered what cannot be understood. */
  | 'ERR_CAPTIONACC_PREFECT_FAULT'
  /** A fault of this package; please report it. */
  | 'ERR_CAPTIONACC_INTERNAL'
  /** Thrown when the package is imported or required, as are those below: Node is too old. */
  | 'ERR_CAPTIONACC_LOAD_NODE_VERSION'
  /** This release is not made for this platform. */
  | 'ERR_CAPTIONACC_LOAD_PLATFORM'
  /** The C library of this system is too old, or not glibc. */
  | 'ERR_CAPTIONACC_LOAD_LIBC'
  /** A checkout that was not built. */
  | 'ERR_CAPTIONACC_LOAD_NOT_BUILT'
  /** The platform's package, an optional dependency, is not installed, or not whole. */
  | 'ERR_CAPTIONACC_LOAD_NOT_INSTALLED'
  /** The platform's package has another version than this one. */
  | 'ERR_CAPTIONACC_LOAD_VERSION'
  /** Node or the system refuses to load the addon; the `cause` has its words. */
  | 'ERR_CAPTIONACC_LOAD_REFUSED'
  /** This process has loaded the addon of another version, or one that was replaced since. */
  | 'ERR_CAPTIONACC_LOAD_TWO_COPIES'
  /** A bundle that runs where the package is not installed. */
  | 'ERR_CAPTIONACC_LOAD_BUNDLED';

/** An operation that did not happen. Only ever made by this package. */
export class OrchestratorError extends Error {
  private constructor();
  readonly name: 'OrchestratorError';
  /** What happened, for programs. Stable. */
  readonly code: OrchestratorErrorCode;
  /** Whether the same call can succeed later with nothing changed. */
  readonly retryable: boolean;
  /** What the system said; of `ERR_CAPTIONACC_ABORTED` the signal's reason. */
  readonly cause?: unknown;
}
