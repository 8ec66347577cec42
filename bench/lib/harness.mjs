/**
 * What the benchmarks share: numbers, processes, the worker, the report.
 *
 * Every benchmark measures all its sides in turns within one run, so that a change of the machine's load hits all of
 * them. What is compared is the median of a side, or the median of the ratios of turns where turns are pairs.
 */
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { cpus, release, tmpdir, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as passing } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

export const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
export const binary = join(root, 'dist', 'captionacc');
export const cache = join(process.env.CAPTIONACC_CACHE ?? join(root, '.cache'), 'bench');
const results = join(root, 'bench', 'results');
/** Ticks of /proc/PID/stat in a second: 100 on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100;
/** A program that is told to end and does not by then is killed. */
const STOP_TIMEOUT_MS = 90_000;
/**
 * Share of all processors that may be busy in the two seconds before the start: above it, numbers are not worth
 * publishing. Not the load average, which still speaks of the benchmark before.
 */
const QUIET_SHARE = 0.1;

async function busyShare() {
  const spent = () =>
    cpus().reduce(
      ({ busy, all }, { times }) => {
        const total = Object.values(times).reduce((sum, time) => sum + time, 0);
        return { busy: busy + total - times.idle, all: all + total };
      },
      { busy: 0, all: 0 },
    );
  const before = spent();
  await passing(2000);
  const after = spent();
  return (after.busy - before.busy) / (after.all - before.all);
}


/** Options as `--name NUMBER`, with these defaults. */
export function numberOptions(defaults) {
  const options = Object.fromEntries(Object.keys(defaults).map((name) => [name, { type: 'string' }]));
  const { values } = parseArgs({ options });
  const read = Object.entries(defaults).map(([name, value]) => {
    const number = values[name] === undefined ? value : Number(values[name]);
    if (!Number.isFinite(number) || number <= 0) {
      throw new Error(`--${name} ${values[name]}: give a number above 0`);
    }
    return [name, number];
  });
  return Object.fromEntries(read);
}

/** Milliseconds since 1970 to the microsecond; Date.now() has whole ones only. */
export function clock() {
  const before = Date.now();
  while (Date.now() === before);
  const offset = Date.now() - performance.now();
  return () => performance.now() + offset;
}

/** The `q` quantile, 0..1, of numbers (nearest rank). */
export function quantile(values, q) {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(q * sorted.length) - 1))];
}

export const median = (values) => quantile(values, 0.5);

/** A number with about three digits. */
export function brief(value, unit = '') {
  if (!Number.isFinite(value)) return '–';
  const digits = value === 0 ? 0 : Math.min(3, Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value)))));
  return `${value.toFixed(digits)}${unit && ` ${unit}`}`;
}

/** `p50 (p10–p90)`. */
export const spread = (values, unit = '') =>
  `${brief(median(values))} (${brief(quantile(values, 0.1))}–${brief(quantile(values, 0.9))})${unit && ` ${unit}`}`;

/** What a signal that ends this process has to end and remove first. */
const children = new Set();
const folders = new Set();
for (const [name, number] of [
  ['SIGINT', 2],
  ['SIGTERM', 15],
]) {
  process.once(name, () => {
    for (const child of children) child.kill('SIGKILL');
    for (const folder of folders) rmSync(folder, { recursive: true, force: true });
    process.exit(128 + number);
  });
}

/** Spawns a program that does not outlive this one. */
function start(program, args, options) {
  const child = spawn(program, args, options);
  children.add(child);
  child.once('close', () => children.delete(child));
  return child;
}

/** Folder that is gone when `work` has ended, however it ended. */
export async function withFolder(work) {
  const folder = await mkdtemp(join(tmpdir(), 'captionacc-bench-'));
  folders.add(folder);
  try {
    return await work(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Runs a program to its end; its stdout. Fails with its stderr if it fails. */
export function output(program, args, options = {}) {
  return new Promise((settle, fail) => {
    const child = start(program, args, { stdio: ['ignore', 'pipe', 'pipe'], ...options });
    let [said, complained] = ['', ''];
    child.stdout.on('data', (text) => (said += text));
    child.stderr.on('data', (text) => (complained = (complained + text).slice(-4000)));
    child.once('error', fail);
    child.once('close', (code, signal) => {
      if (code === 0) settle(said);
      else fail(new Error(`${program} ${args.join(' ')} ended with ${signal ?? code}: ${complained}`));
    });
  });
}

/** Runs a program under measure.py: `{ wallSeconds, cpuSeconds, peakMegabytes }` of it with all its children. */
export async function measured(program, args, options = {}) {
  const said = await output(python(), [join(root, 'bench/python/measure.py'), program, ...args], options);
  return JSON.parse(said);
}

/** The Python that bench/run.sh has prepared. */
export function python() {
  const path = process.env.CAPTIONACC_BENCH_PYTHON;
  if (!path) throw new Error('CAPTIONACC_BENCH_PYTHON is not set: start benchmarks with npm run bench:…');
  return path;
}

/** Chooses the embedded orchestrator in `home` for this process and what it starts. */
export function useHome(home) {
  for (const name of Object.keys(process.env)) {
    if (name.startsWith('PREFECT_')) delete process.env[name];
  }
  delete process.env.CAPTIONACC_CONFIG;
  Object.assign(process.env, { CAPTIONACC_HOME: home, CAPTIONACC_ORCHESTRATOR: 'embedded' });
}

/**
 * A program that goes on until it is stopped; resolves once it has said `until`. `stop()` ends it with SIGTERM, or by force if it
 * does not.
 */
export async function startProgram(program, args, { until, ...options }) {
  const child = start(program, args, { stdio: ['ignore', 'pipe', 'pipe'], ...options });
  let log = '';
  const ended = new Promise((settle) => child.once('close', settle));
  await new Promise((settle, fail) => {
    child.once('error', fail);
    child.once('close', (code) => fail(new Error(`${program} ended with ${code}: ${log}`)));
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (text) => {
        log = (log + text).slice(-20_000);
        if (log.includes(until)) settle();
      });
    }
  });
  return {
    pid: child.pid,
    log: () => log,
    hasEnded: () => child.exitCode !== null || child.signalCode !== null,
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.kill('SIGTERM');
      const byForce = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
      await ended;
      clearTimeout(byForce);
    },
  };
}

/** A worker; resolves once it has announced itself. `stop()` drains it. */
export async function startWorker(extra = [], env = process.env) {
  if (!existsSync(binary)) throw new Error('dist/captionacc is missing: npm run build');
  return startProgram(binary, ['worker', '--json', ...extra], { until: 'Worker started', env });
}

/** CPU seconds of a process: its own, and of the children that it has waited for. */
export function cpuOf(pid) {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  // The program's name, in brackets, may hold anything; the numbers begin after it with field 3.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const [utime, stime, cutime, cstime] = fields.slice(11, 15).map(Number);
  return { own: (utime + stime) / TICKS_PER_SECOND, children: (cutime + cstime) / TICKS_PER_SECOND };
}

/** CPU seconds of a process itself, to the nanosecond where the kernel keeps them. */
export function preciseCpuOf(pid) {
  const threads = readdirSync(`/proc/${pid}/task`);
  const nanoseconds = threads.map((thread) =>
    Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0]),
  );
  return nanoseconds.reduce((sum, value) => sum + value, 0) / 1e9;
}

/** Memory of a process in MB (10^6 bytes): now, and at most so far. */
export function memoryOf(pid) {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const read = (name) => (Number(status.match(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm'))?.[1] ?? NaN) * 1024) / 1e6;
  return { now: read('VmRSS'), peak: read('VmHWM') };
}

/** The line of /proc/cpuinfo, versions and load: what a number means nothing without. */
function machine() {
  const version = (program, ...args) => {
    try {
      return execFileSync(program, args, { stdio: ['ignore', 'pipe', 'ignore'] })
        .toString()
        .split('\n')[0]
        .trim();
    } catch {
      return 'none';
    }
  };
  return {
    cpu: `${cpus().length} × ${cpus()[0]?.model ?? 'unknown'}`,
    memory: `${(totalmem() / 1e9).toFixed(0)} GB`,
    kernel: release(),
    node: process.version,
    captionacc: existsSync(binary) ? version(binary, '--version') : 'none',
    commit: version('git', '-C', root, 'rev-parse', '--short', 'HEAD'),
    ffmpeg: version('ffmpeg', '-version').split(' ').slice(0, 3).join(' '),
    python: process.env.CAPTIONACC_BENCH_PYTHON ? version(process.env.CAPTIONACC_BENCH_PYTHON, '--version') : 'none',
  };
}

/** Collects rows, prints them as a Markdown table and keeps them, with every sample, as JSON in bench/results. */
export class Report {
  /** Looks at the machine first, which takes two seconds. */
  static async begin(name, parameters, columns) {
    return new Report(name, parameters, columns, await busyShare());
  }

  constructor(name, parameters, columns, busyAtStart) {
    this.name = name;
    this.parameters = parameters;
    this.columns = columns;
    this.rows = [];
    this.samples = {};
    this.notes = [];
    this.startedAt = new Date();
    this.busyAtStart = busyAtStart;
    if (busyAtStart > QUIET_SHARE) {
      this.notes.push(`not for publication: processors were ${(busyAtStart * 100).toFixed(0)} % busy before the start`);
    }
  }

  row(...cells) {
    this.rows.push(cells);
  }

  note(text) {
    this.notes.push(text);
  }

  /** A row that compares with a target: says whether it is met. */
  target(what, value, limit, isMet, unit = '') {
    this.rows.push([what, brief(value, unit), `target ${limit}: ${isMet ? 'met' : 'MISSED'}`]);
  }

  async write() {
    const line = (cells) => `| ${cells.join(' | ')} |`;
    const width = this.columns.length;
    const padded = (cells) => [...cells, ...Array(Math.max(0, width - cells.length)).fill('')];
    const about = machine();
    const markdown = [
      `## ${this.name}`,
      '',
      line(this.columns),
      line(this.columns.map(() => '---')),
      ...this.rows.map((cells) => line(padded(cells))),
      '',
      ...this.notes.map((text) => `- ${text}`),
      `- ${Object.entries(this.parameters)
        .map(([key, value]) => `${key} ${value}`)
        .join(', ')}`,
      `- ${this.startedAt.toISOString().slice(0, 16)}Z, ${Object.entries(about)
        .map(([key, value]) => `${key}: ${value}`)
        .join('; ')}`,
      '',
    ].join('\n');
    await mkdir(results, { recursive: true });
    const stem = `${this.name}-${this.startedAt.toISOString().replaceAll(/[:.]/g, '-')}`;
    const { name, parameters, columns, rows, notes, samples, startedAt, busyAtStart } = this;
    const record = { name, startedAt, busyAtStart, machine: about, parameters, columns, rows, notes, samples };
    await writeFile(join(results, `${stem}.json`), `${JSON.stringify(record, null, 1)}\n`);
    await writeFile(join(results, `${stem}.md`), markdown);
    process.stdout.write(`\n${markdown}\n(bench/results/${stem}.json)\n`);
  }
}

/** A line about what is being measured, on stderr. */
export const say = (text) => process.stderr.write(`${text}\n`);

/** An annotations.db with the app's schema. */
export async function createDatabase(path) {
  const { default: Database } = await import('better-sqlite3');
  const database = new Database(path);
  database.pragma('journal_mode = WAL');
  database.exec(await readFile(join(root, '__test__/fixtures/app-schema.sql'), 'utf8'));
  database.close();
}
