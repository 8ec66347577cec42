'use strict';

// The JavaScript half of the Node surface: checks what only JavaScript can get wrong, turns calls into JSON for the
// addon (src/addon.rs) and its answers into values and errors. index.d.ts is the documentation.

const { loadAddon } = require('./addon.js');
const { OrchestratorError } = require('./error.js');
const { markQueued } = require('./mark-queued.js');
const { traceparent } = require('./trace-context.js');

const native = loadAddon();

const DEFAULT_TIMEOUT_MS = 30_000;
/** The longest time that a timer of Node can wait. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1;
const WHEN_UNREACHABLE = ['reject', 'store'];

const invalid = (argument, problem) =>
  new OrchestratorError('ERR_CAPTIONACC_INVALID_ARGUMENT', `argument ${JSON.stringify(argument)}: ${problem}`);

const aborted = (signal) =>
  new OrchestratorError('ERR_CAPTIONACC_ABORTED', 'aborted by the caller before the operation was done', {
    cause: signal.reason,
  });

/** What the addon answered; throws the failure that it is. */
function unwrap(answer) {
  const { value, error } = JSON.parse(answer);
  if (error === undefined) return value;
  const cause = error.causes.reduceRight((inner, message) => new Error(message, inner && { cause: inner }), undefined);
  throw new OrchestratorError(error.code, error.message, { retryable: error.retryable, cause });
}

function checkObject(name, value) {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) {
    throw invalid(name, `${value === null ? 'null' : Array.isArray(value) ? 'a list' : typeof value} is not an object`);
  }
  return value;
}

function checkText(name, value) {
  if (typeof value !== 'string') throw invalid(name, `${typeof value} is not text`);
  if (!value.isWellFormed()) throw invalid(name, 'contains half a character (a lone surrogate)');
  return value;
}

/** A value of any type, for an error. */
const describe = (value) => (typeof value === 'string' ? JSON.stringify(value) : `a value of type ${typeof value}`);

/** The options as they are now; `undefined` counts as absent, an unknown name is a mistake. */
function checkOptions(options, known) {
  if (options === undefined) return {};
  for (const name of Object.keys(checkObject('options', options))) {
    if (!known.includes(name)) throw invalid(name, `unknown option (there are ${known.join(', ')})`);
  }
  const { signal, timeoutMs, idempotencyKey, whenUnreachable, onProgress, after } = options;
  if (signal !== undefined && !(signal instanceof AbortSignal)) throw invalid('signal', 'it is not an AbortSignal');
  if (timeoutMs !== undefined && !(Number.isInteger(timeoutMs) && timeoutMs >= 1 && timeoutMs <= MAX_TIMEOUT_MS)) {
    throw invalid('timeoutMs', `${String(timeoutMs)} is not a whole number of milliseconds from 1 to ${MAX_TIMEOUT_MS}`);
  }
  if (idempotencyKey !== undefined) checkText('idempotencyKey', idempotencyKey);
  if (whenUnreachable !== undefined && !WHEN_UNREACHABLE.includes(whenUnreachable)) {
    throw invalid('whenUnreachable', `${describe(whenUnreachable)} is none of ${WHEN_UNREACHABLE.join(', ')}`);
  }
  if (onProgress !== undefined && typeof onProgress !== 'function') throw invalid('onProgress', 'it is not a function');
  return { signal, timeoutMs, idempotencyKey, whenUnreachable, onProgress, after };
}

/** A flow's arguments as JSON can carry them, nothing lost: what JSON would drop or change is refused here. */
function toArguments(args) {
  const plain = {};
  for (const [name, value] of Object.entries(checkObject('args', args))) {
    checkText('args', name);
    switch (typeof value) {
      case 'string':
        plain[name] = checkText(name, value);
        break;
      case 'number':
        // JSON has no NaN: as text it reaches the check of the parameter, which names it.
        plain[name] = Number.isFinite(value) ? value : String(value);
        break;
      case 'undefined':
        break;
      case 'object':
      case 'boolean':
        plain[name] = value;
        break;
      default:
        throw invalid(name, `a ${typeof value} is not a value that an argument can have`);
    }
  }
  return plain;
}

function toJson(name, value) {
  try {
    return JSON.stringify(value);
  } catch (error) {
    throw invalid(name, `cannot be written as JSON (${error.message})`);
  }
}

/** Calls `call` with an interest that is given up when `signal` is aborted. */
async function withSignal(signal, call) {
  if (signal?.aborted) throw aborted(signal);
  const interest = new native.Interest();
  const onAbort = () => interest.giveUp();
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    return await call(interest);
  } catch (error) {
    throw signal?.aborted && error.code === 'ERR_CAPTIONACC_ABORTED' ? aborted(signal) : error;
  } finally {
    signal?.removeEventListener('abort', onAbort);
  }
}

let isEndHeard = false;

/**
 * Lets the span of a call reach its collector also where the process ends right after the call, `process.exit` included: for
 * half a second at most. A process that exports no traces gets no listener.
 */
function sendSpansAtEnd() {
  if (isEndHeard || !native.exportsTraces()) return;
  isEndHeard = true;
  process.once('exit', () => {
    try {
      native.flushTraces();
    } catch {
      // A process does not end otherwise because of its traces.
    }
  });
}

async function queuePrefectFlow(flowType, args, options) {
  const { signal, timeoutMs = DEFAULT_TIMEOUT_MS, idempotencyKey, whenUnreachable } = checkOptions(options, [
    'signal',
    'timeoutMs',
    'idempotencyKey',
    'whenUnreachable',
  ]);
  const request = toJson('args', {
    flowType: checkText('flowType', flowType),
    arguments: toArguments(args),
    idempotencyKey,
    timeoutMs,
    whenUnreachable,
    traceparent: traceparent(),
  });
  try {
    return await withSignal(signal, async (interest) => unwrap(await native.queueFlowRun(request, interest)));
  } finally {
    sendSpansAtEnd();
  }
}

async function getFlowRun(flowRunId) {
  return unwrap(await native.getFlowRun(checkText('flowRunId', flowRunId)));
}

async function listFlowRuns(filter = {}) {
  return unwrap(await native.listFlowRuns(toJson('filter', checkObject('filter', filter))));
}

async function cancelFlowRun(flowRunId) {
  return unwrap(await native.cancelFlowRun(checkText('flowRunId', flowRunId)));
}

async function retryFlowRun(flowRunId) {
  return unwrap(await native.retryFlowRun(checkText('flowRunId', flowRunId)));
}

async function getLineage() {
  return unwrap(await native.getLineage());
}

/** A cursor as callers get it: opaque, and good for a header or an address. */
const toCursor = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');

function fromCursor(cursor) {
  if (cursor === undefined) return undefined;
  try {
    const value = JSON.parse(Buffer.from(checkText('after', cursor), 'base64url').toString());
    if (value !== null && typeof value === 'object') return value;
  } catch {
    // Not one of ours, as what is said below.
  }
  throw invalid('after', `${describe(cursor)} is no cursor of an event: give one as it came, or none`);
}

/**
 * The iterator of `watchFlowRun` and `watchFlowRuns`. Written by hand because `return()` of an async generator waits for the
 * `next()` that is pending, which may be for ever: here it ends it.
 */
class Watch {
  #read;
  #signal;
  #place;
  #events = [];
  #interest = null;
  #isOver = false;
  #last = Promise.resolve();

  /** `read` asks for what comes after a place: it resolves to events, the place after them, and whether that was all. */
  constructor(signal, place, read) {
    this.#signal = signal;
    this.#place = place;
    this.#read = read;
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  next() {
    // One at a time, in the order of the calls; a failed one does not fail those after it.
    const next = this.#last.then(() => this.#next());
    this.#last = next.catch(() => {});
    return next;
  }

  async return(value) {
    this.#isOver = true;
    this.#events = [];
    this.#interest?.giveUp();
    return { done: true, value };
  }

  async throw(error) {
    await this.return();
    throw error;
  }

  async #next() {
    if (this.#events.length === 0 && !this.#isOver) await this.#readOn();
    if (this.#events.length > 0) return { done: false, value: this.#events.shift() };
    return { done: true, value: undefined };
  }

  async #readOn() {
    try {
      const { events, place, done } = await withSignal(this.#signal, (interest) => {
        this.#interest = interest;
        return this.#read(this.#place, interest);
      });
      if (this.#isOver) return;
      this.#events = events;
      this.#place = place;
      this.#isOver = done;
    } catch (error) {
      // `return()` gave it up: that is the end, not a failure.
      if (this.#isOver && !this.#signal?.aborted) return;
      this.#isOver = true;
      throw error;
    } finally {
      this.#interest = null;
    }
  }
}
if (Symbol.asyncDispose) {
  Object.defineProperty(Watch.prototype, Symbol.asyncDispose, {
    async value() {
      await this.return();
    },
  });
}

/** A watch, or one whose first `next()` rejects: every failure of this package is a rejection. */
function watch(make) {
  try {
    return make();
  } catch (error) {
    const failed = new Watch();
    failed.next = async () => {
      throw error;
    };
    return failed;
  }
}

function watchFlowRun(flowRunId, options) {
  return watch(() => {
    const { signal, after } = checkOptions(options, ['signal', 'after']);
    const cursor = fromCursor(after) ?? {};
    if ('all' in cursor) throw invalid('after', 'it is a cursor of watchFlowRuns, which goes on with all runs');
    return watchOne(flowRunId, signal, cursor);
  });
}

/** `cursor`: what was seen, and kinds of events that nobody looks at and that are not asked for. */
function watchOne(flowRunId, signal, cursor) {
  return new Watch(signal, { cursor }, async (place, interest) => {
    const reading = unwrap(await native.nextEvents(checkText('flowRunId', flowRunId), JSON.stringify(place), interest));
    const { events, cursors } = reading;
    return { ...reading, events: events.map((event, number) => ({ ...event, cursor: toCursor(cursors[number]) })) };
  });
}

function watchFlowRuns(filter, options) {
  return watch(() => {
    const { signal, after } = checkOptions(options, ['signal', 'after']);
    const wanted = toJson('filter', filter === undefined ? {} : checkObject('filter', filter));
    const cursor = fromCursor(after)?.all;
    if (after !== undefined && typeof cursor !== 'string') {
      throw invalid('after', 'it is a cursor of watchFlowRun, which goes on with that run alone');
    }
    return new Watch(signal, { cursor }, async (place, interest) => {
      const reading = unwrap(await native.nextEventsOfAll(wanted, JSON.stringify(place), interest));
      const events = reading.events.map((event) => ({ ...event, cursor: toCursor({ all: event.cursor }) }));
      return { ...reading, events, done: false };
    });
  });
}

async function waitForFlowRun(flowRunId, options) {
  const { signal, timeoutMs, onProgress } = checkOptions(options, ['signal', 'timeoutMs', 'onProgress']);
  const following = watchOne(flowRunId, signal, { withoutLogs: true, withoutProgress: onProgress === undefined });
  let isTooLate = false;
  const timer =
    timeoutMs &&
    setTimeout(() => {
      isTooLate = true;
      following.return();
    }, timeoutMs);
  try {
    for await (const event of following) {
      if (event.type === 'progress') onProgress?.(event.progress);
    }
  } finally {
    clearTimeout(timer);
  }
  if (isTooLate) {
    throw new OrchestratorError(
      'ERR_CAPTIONACC_TIMEOUT',
      `waiting for flow run ${flowRunId} was not done within ${timeoutMs} ms: the run goes on; wait again, or cancel it`,
      { retryable: true },
    );
  }
  return getFlowRun(flowRunId);
}

exports.OrchestratorError = OrchestratorError;
exports.markQueued = markQueued;
exports.queuePrefectFlow = queuePrefectFlow;
exports.getFlowRun = getFlowRun;
exports.listFlowRuns = listFlowRuns;
exports.cancelFlowRun = cancelFlowRun;
exports.retryFlowRun = retryFlowRun;
exports.waitForFlowRun = waitForFlowRun;
exports.watchFlowRun = watchFlowRun;
exports.watchFlowRuns = watchFlowRuns;
exports.getLineage = getLineage;
