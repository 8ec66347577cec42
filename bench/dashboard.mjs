/**
 * o) The dashboard over a store with many runs: what its pages wait for, against a bare endpoint of the same server, in turns; its
 * start; and what it takes of the machine while one page is open.
 *
 * Two runs a video, one in a hundred still waiting; the assets are those of `videos`, four each, with what they were made from.
 *
 * Options: --runs N, --videos N, --turns N, --starts N, --idle-seconds N.
 */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { Agent, request } from 'node:http';
import { join } from 'node:path';
import { setTimeout as passing } from 'node:timers/promises';
import {
  Report,
  binary,
  brief,
  median,
  numberOptions,
  output,
  preciseCpuOf,
  quantile,
  say,
  startProgram,
  useHome,
  withFolder,
} from './lib/harness.mjs';

const options = numberOptions({ runs: 100_000, videos: 25_000, turns: 300, starts: 20, 'idle-seconds': 30 });
const TOKEN = 'a token of the benchmark';
/** Milliseconds, megabytes and a share of a processor: issue 12. */
const TARGETS = { runs: 50, lineage: 300, start: 300, megabytes: 20, share: 0.001 };
const { default: Database } = await import('better-sqlite3');

/** What one turn asks. Named after the page that asks it. */
const QUESTIONS = [
  { what: 'bare endpoint', path: '/healthz' },
  { what: 'runs', path: '/api/runs', limitMs: TARGETS.runs },
  { what: 'runs of a flow in a state', path: '/api/runs?flow=full-frames&state=failed', limitMs: TARGETS.runs },
  { what: 'runs of a video', path: '/api/runs?video=v7', limitMs: TARGETS.runs },
  { what: 'runs with a text that few have', path: '/api/runs?text=damaged', limitMs: TARGETS.runs },
  { what: 'home', path: '/api/home', limitMs: TARGETS.runs },
  { what: 'overview', path: '/api/overview', limitMs: TARGETS.runs },
  { what: 'lineage of a video', path: '/api/lineage?video=v7', limitMs: TARGETS.lineage },
  { what: 'lineage of all', path: '/api/lineage', limitMs: TARGETS.lineage },
  { what: 'metrics', path: '/metrics' },
];

/** Runs that have ended, one in fifty of them badly, and some that wait; and assets of videos. */
function fill(path, runs, videos) {
  const database = new Database(path);
  database.pragma('synchronous = OFF');
  database
    .prepare(
      `WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < :runs)
       INSERT INTO flow_run (id, flow_name, parameters, video_id, db_path, work_queue, priority, tags, has_status_row, state_type,
         state_name, state_message, state_at, state_sequence, status_row_due, attempt, created_at, scheduled_at, started_at, ended_at)
       SELECT printf('01a%05x-%04x-7%03x-8000-%012x', n / 65536, n % 65536, n % 4096, n), iif(n % 2, 'full-frames', 'crop-frames'),
         json_object('video-id', 'v' || (n / 2), 'video-path', '/data/v' || (n / 2) || '/original.mp4',
           'db-path', '/nowhere/v' || (n / 2) || '/annotations.db', 'output-dir', '/data/scratch', 'frame-rate', 0.1),
         'v' || (n / 2), '/nowhere/v' || (n / 2) || '/annotations.db', iif(n % 2, 'background', 'user-initiated'), 2 - (n % 2 = 0), '[]', 1,
         CASE WHEN n > :runs * 0.99 THEN 'SCHEDULED' WHEN n % 50 = 1 THEN 'FAILED' ELSE 'COMPLETED' END,
         CASE WHEN n > :runs * 0.99 THEN 'Scheduled' WHEN n % 50 = 1 THEN 'Failed' ELSE 'Completed' END,
         CASE WHEN n > :runs * 0.99 THEN NULL WHEN n % 50 = 1 THEN 'its video is no video (NOT_A_VIDEO)' ELSE '90 frames, 812 text boxes' END,
         :now - (:runs - n) * 60, 3, 0, iif(n > :runs * 0.99, 0, 1), :now - (:runs - n) * 60 - 9000, :now - (:runs - n) * 60 - 9000,
         iif(n > :runs * 0.99, NULL, :now - (:runs - n) * 60 - 8000), iif(n > :runs * 0.99, NULL, :now - (:runs - n) * 60)
       FROM number`,
    )
    .run({ runs, now: Date.now() - 10_000 });
  database.exec(
    `UPDATE waiting SET runs = (SELECT count(*) FROM flow_run WHERE state_type = 'SCHEDULED' AND work_queue = waiting.work_queue);
     INSERT INTO flow_run_state SELECT id, 1, state_name, state_message, 1, state_at, rowid FROM flow_run;
     INSERT INTO log (flow_run_id, attempt, level, message, at) SELECT id, 1, 'info', 'a line', state_at FROM flow_run`,
  );
  const made = database.prepare(
    `INSERT INTO asset_materialization (key, flow_run_id, flow_name, metadata, at)
     VALUES (?, (SELECT id FROM flow_run WHERE video_id = ? LIMIT 1), ?, ?, ?) RETURNING version`,
  );
  const from = database.prepare('INSERT INTO asset_upstream VALUES (?, ?, ?)');
  database.transaction(() => {
    for (let number = 1; number <= videos; number++) {
      const id = `v${number}`;
      const make = (key, flow, metadata, ...upstreams) => {
        const { version } = made.get(key, id, flow, JSON.stringify(metadata), Date.now());
        for (const [upstream, of] of upstreams) from.run(version, upstream, of);
        return [key, version];
      };
      const video = make(`video://${id}`, 'full-frames', { bytes: 1e9, modified: '2026-01-01T00:00:00Z' });
      const frames = make(`annotations://${id}/full_frames`, 'full-frames', { frames: 90, bytes: 9e6 }, video);
      make(`annotations://${id}/full_frame_ocr`, 'full-frames', { boxes: 812 }, frames);
      make(`annotations://${id}/cropped_frames`, 'crop-frames', { frames: 6000, bytes: 3e7 }, video);
    }
  })();
  database.pragma('wal_checkpoint(TRUNCATE)');
  database.close();
}

const agent = new Agent({ keepAlive: true, maxSockets: 1 });

/** Asks for a path over a connection that stays: milliseconds and bytes until the last byte. */
async function ask(port, path) {
  const begun = performance.now();
  const asked = request({ port, path, agent, host: '127.0.0.1', headers: { authorization: `Bearer ${TOKEN}` } }).end();
  const [response] = await once(asked, 'response');
  let bytes = 0;
  for await (const chunk of response) bytes += chunk.length;
  if (response.statusCode !== 200) throw new Error(`${path}: ${response.statusCode}`);
  return { ms: performance.now() - begun, bytes };
}

/** Opens the stream, as a page does, and reads on. */
async function openPage(port) {
  const asked = request({ port, path: '/api/stream', host: '127.0.0.1', headers: { authorization: `Bearer ${TOKEN}` } }).end();
  const [response] = await once(asked, 'response');
  response.resume();
  return () => asked.destroy();
}

async function startDashboard(folder) {
  const begun = performance.now();
  const dashboard = await startProgram(binary, ['dashboard', '--listen', '127.0.0.1:0', '--token-file', join(folder, 'token')], {
    until: 'Ctrl-C',
    cwd: folder,
  });
  const port = Number(/127\.0\.0\.1:(\d+)/.exec(dashboard.log())[1]);
  await ask(port, '/api/runs');
  return { dashboard, port, ms: performance.now() - begun };
}

/** Memory of its own, in MB: pages of the program that others share or the system can drop are not its. */
function ownMegabytes(pid) {
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  const read = (name) => Number(rollup.match(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm'))[1]) * 1024;
  return { resident: read('Rss') / 1e6, anonymous: read('Anonymous') / 1e6 };
}

await withFolder(async (folder) => {
  useHome(join(folder, 'home'));
  await writeFile(join(folder, 'token'), TOKEN);
  await output(binary, ['pool'], { cwd: folder });
  const report = await Report.begin('dashboard', options, ['what', 'p50', 'p99', 'bytes', 'ratio to the bare endpoint', 'target']);
  say(`filling: ${options.runs} runs`);
  fill(join(folder, 'home/queue.db'), options.runs, options.videos);

  const starts = [];
  for (let turn = 0; turn < options.starts; turn++) {
    const { dashboard, ms } = await startDashboard(folder);
    starts.push(ms);
    agent.destroy();
    await dashboard.stop();
  }

  const { dashboard, port } = await startDashboard(folder);
  const samples = new Map(QUESTIONS.map(({ what }) => [what, []]));
  const sizes = new Map();
  say('asking');
  for (let turn = 0; turn < options.turns; turn++) {
    // The order changes, so that nobody is always first.
    for (let place = 0; place < QUESTIONS.length; place++) {
      const { what, path } = QUESTIONS[(place + turn) % QUESTIONS.length];
      const { ms, bytes } = await ask(port, path);
      samples.get(what).push(ms);
      sizes.set(what, bytes);
    }
  }
  const bare = median(samples.get('bare endpoint'));
  for (const { what, limitMs } of QUESTIONS) {
    const taken = samples.get(what);
    const verdict = limitMs === undefined ? '' : `<= ${limitMs} ms: ${quantile(taken, 0.99) <= limitMs ? 'met' : 'MISSED'}`;
    report.row(what, brief(median(taken), 'ms'), brief(quantile(taken, 0.99), 'ms'), sizes.get(what), brief(median(taken) / bare), verdict);
  }
  agent.destroy();
  await dashboard.stop();
  report.row('start to first answer', brief(median(starts), 'ms'), brief(quantile(starts, 0.99), 'ms'), '', '', `< ${TARGETS.start} ms: ${quantile(starts, 0.99) < TARGETS.start ? 'met' : 'MISSED'}`);

  // Another one, that has shown nothing but the page that is open.
  say('idle, with one page open');
  const idle = await startDashboard(folder);
  const close = await openPage(idle.port);
  await passing(2000);
  const before = preciseCpuOf(idle.dashboard.pid);
  await passing(options['idle-seconds'] * 1000);
  const share = (preciseCpuOf(idle.dashboard.pid) - before) / options['idle-seconds'];
  const { resident, anonymous } = ownMegabytes(idle.dashboard.pid);
  close();
  agent.destroy();
  await idle.dashboard.stop();
  report.row('CPU, one page open', brief(share * 100, '%'), '', '', '', `< 0.1 %: ${share < TARGETS.share ? 'met' : 'MISSED'}`);
  report.row('memory, one page open', brief(resident, 'MB'), '', '', '', `< ${TARGETS.megabytes} MB: ${resident < TARGETS.megabytes ? 'met' : 'MISSED'}`);
  report.row('of it not the program itself', brief(anonymous, 'MB'));
  report.samples = { ...Object.fromEntries(samples), starts };
  await report.write();
});
