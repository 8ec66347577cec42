// End to end, as in production: the web app holds annotations.db open and keeps writing to it, the addon queues, a
// real worker runs both flows over a real film with known captions.

import { copyFileSync, existsSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import {
  cancelFlowRun,
  getFlowRun,
  getLineage,
  listFlowRuns,
  queuePrefectFlow,
  waitForFlowRun,
  type Progress,
} from '@captionacc/orchestrator';
import { beforeEach, expect, test } from 'vitest';

import { freshHome } from './support/home.js';
import { isAlive } from './support/processes.js';
import { chineseFont, filmWith, latinFont, untilEvent, WebApp, Worker, type Caption } from './support/web-app.js';

// bikes.mp4 has 640 x 272 pixels and 10 s.
const captions: Caption[] = [
  { text: 'HELLO WORLD 2026', font: latinFont, size: 28, x: 150, y: 215, from: 0, to: 4.9 },
  { text: '今天天气很好', font: chineseFont, size: 30, x: 200, y: 20, from: 5, to: 20 },
];
const bounds = { left: 100, top: 200, right: 540, bottom: 260 };

beforeEach(() => {
  freshHome();
});

interface Box {
  frame_index: number;
  text: string;
  confidence: number;
  x: number;
  y: number;
  width: number;
  height: number;
  timestamp_seconds: number;
}

test.each(['wal', 'delete'] as const)('both flows run beside the app, journal mode %s', async (journalMode) => {
  const film = filmWith(captions);
  const app = new WebApp(journalMode);
  const worker = await Worker.start();

  const full = await queuePrefectFlow('full-frames', { ...app.arguments(film), 'frame-rate': 1 });
  const progress: Progress[] = [];
  const fullRun = await waitForFlowRun(full.flowRunId, { onProgress: (step) => progress.push(step) });
  expect(fullRun.state, worker.running.stderr).toMatchObject({ type: 'COMPLETED' });

  // The frames: one a second on the 10 Hz index clock, whole and of the film's size.
  const frames = app.all<{ frame_index: number; image_data: Buffer; width: number; height: number; file_size: number }>(
    'SELECT * FROM full_frames ORDER BY frame_index',
  );
  expect(frames.map(({ frame_index }) => frame_index)).toEqual([0, 10, 20, 30, 40, 50, 60, 70, 80, 90]);
  for (const { image_data, width, height, file_size } of frames) {
    expect({ width, height, file_size }).toEqual({ width: 640, height: 272, file_size: image_data.length });
    expect([image_data[0], image_data[1], image_data.at(-2), image_data.at(-1)]).toEqual([0xff, 0xd8, 0xff, 0xd9]);
  }

  // The boxes: the captions where they were burnt in; y is the lower edge, from the bottom.
  const boxes = app.all<Box>('SELECT * FROM full_frame_ocr ORDER BY frame_index, box_index');
  // A word or a Chinese character each, of a line at one height.
  const lineOf = (frame_index: number, words: string[]) => {
    const inFrame = boxes.filter((box) => box.frame_index === frame_index);
    const start = inFrame.findIndex((_, place) => words.every((word, next) => inFrame[place + next]?.text === word));
    const line = inFrame.slice(start, start + words.length);
    expect(start, JSON.stringify(inFrame)).toBeGreaterThanOrEqual(0);
    expect(new Set(line.map(({ y, height }) => `${y} ${height}`)).size).toBe(1);
    return line[0];
  };
  for (const frame_index of [0, 10, 20, 30, 40]) {
    const box = lineOf(frame_index, ['HELLO', 'WORLD', '2026']);
    expect(box?.timestamp_seconds).toBe(frame_index / 10);
    expect(box?.confidence).toBeGreaterThan(0.8);
    expect(Math.abs((box?.x ?? 0) - 150 / 640)).toBeLessThan(0.03);
    // 28 pixels high from row 215: its lower edge is some 35 of 272 pixels above the bottom.
    expect(Math.abs((box?.y ?? 0) - 35 / 272)).toBeLessThan(0.04);
  }
  for (const frame_index of [50, 60, 70, 80, 90]) {
    const box = lineOf(frame_index, [...'今天天气很好']);
    // At the top of the picture, so far from the bottom.
    expect(box?.y).toBeGreaterThan(0.75);
  }

  // The status row: every step, in order, with its times; the process was a child of the worker; it has gone.
  expect(app.statuses('processing_status')).toEqual(['extracting_frames', 'running_ocr', 'analyzing_layout', 'processing_complete']);
  const changes = app.history('processing_status');
  expect(changes.map(({ at }) => at)).toEqual(changes.map(({ at }) => at).toSorted());
  const progresses = changes.map((change) => change.progress);
  expect(progresses).toEqual(progresses.toSorted((a, b) => a - b));
  expect(progresses.at(-1)).toBe(3);
  const pids = new Set(changes.map(({ pid }) => pid));
  expect(pids.size).toBe(2);
  expect(changes.at(-1)?.pid).toBeNull();
  const pid = Number(changes[0]?.pid);
  expect(app.seen.get(pid)).toBe(worker.pid);
  expect(isAlive(pid)).toBe(false);
  const row = app.all<Record<string, unknown>>('SELECT * FROM processing_status')[0];
  const time = expect.stringMatching(/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$/);
  expect(row).toMatchObject({
    status: 'processing_complete',
    upload_progress: 1,
    processing_attempts: 1,
    processing_started_at: time,
    processing_completed_at: time,
    last_heartbeat_at: time,
    error_message: null,
    error_occurred_at: null,
    deleted: 0,
  });
  expect(String(row?.processing_started_at) <= String(row?.processing_completed_at)).toBe(true);

  // What the queue tells: states, tasks, progress that only grows.
  expect(fullRun.states.map((state) => state.name)).toEqual(['Scheduled', 'Pending', 'Running', 'Completed']);
  expect(fullRun.taskRuns.map((task) => [task.name, task.state.name])).toEqual([
    ['open_annotations', 'Completed'],
    ['sample_video', 'Completed'],
    ['recognize_text', 'Completed'],
    ['write_frames', 'Completed'],
  ]);
  const fractions = progress.map(({ fraction }) => fraction);
  expect(fractions.length).toBeGreaterThan(0);
  expect(fractions).toEqual(fractions.toSorted((a, b) => a - b));

  // The layout and what is known of the video.
  expect(app.all('SELECT frame_width, frame_height, crop_left, crop_top, crop_right, crop_bottom, crop_bounds_version FROM video_layout_config')).toEqual([
    { frame_width: 640, frame_height: 272, crop_left: 0, crop_top: 0, crop_right: 640, crop_bottom: 272, crop_bounds_version: 1 },
  ]);
  expect(app.all('SELECT width, height, codec, original_filename FROM video_metadata')).toEqual([
    { width: 640, height: 272, codec: 'h264', original_filename: 'a video.mp4' },
  ]);

  const crop = await queuePrefectFlow('crop-frames', {
    ...app.arguments(film),
    'crop-bounds': JSON.stringify(bounds),
    'crop-bounds-version': '4',
  });
  expect(crop.priority).toBe('user-initiated');
  expect((await waitForFlowRun(crop.flowRunId)).state, worker.running.stderr).toMatchObject({ type: 'COMPLETED' });
  const strips = app.all<Record<string, number>>(
    'SELECT frame_index, width, height, crop_left, crop_top, crop_right, crop_bottom, crop_bounds_version FROM cropped_frames ORDER BY frame_index',
  );
  expect(strips).toHaveLength(100);
  strips.forEach((strip, frame_index) => {
    expect(strip).toEqual({
      frame_index,
      width: 440,
      height: 60,
      crop_left: 100,
      crop_top: 200,
      crop_right: 540,
      crop_bottom: 260,
      crop_bounds_version: 4,
    });
  });
  expect(app.statuses('crop_frames_status').filter((status) => status !== 'queued')).toEqual(['processing', 'complete']);
  const cropPid = Number(app.history('crop_frames_status').find(({ status }) => status === 'processing')?.pid);
  expect(app.seen.get(cropPid)).toBe(worker.pid);
  expect(app.all('SELECT status, current_job_id, error_message, retry_count, processing_completed_at FROM crop_frames_status')).toEqual([
    { status: 'complete', current_job_id: null, error_message: null, retry_count: 0, processing_completed_at: time },
  ]);

  const { assets } = await getLineage();
  expect(Object.keys(assets)).toEqual(expect.arrayContaining(['annotations://video-1/full_frames', 'annotations://video-1/cropped_frames']));

  await worker.stop();
  app.expectWhole();
  expect(app.database.pragma('journal_mode', { simple: true })).toBe(journalMode);
  expect(existsSync(path.join(app.folder, 'scratch'))).toBe(false);
});

test('a video that is deleted while it is processed does not come back', async () => {
  const film = filmWith([], 'bigbuckbunny.mp4');
  const app = new WebApp();
  const worker = await Worker.start();
  const { flowRunId } = await queuePrefectFlow('full-frames', { ...app.arguments(film), 'frame-rate': 10 });
  await untilEvent(flowRunId, (event) => event.type === 'progress' && event.progress.task === 'recognize_text');
  const pid = app.deleteVideo();
  expect((await waitForFlowRun(flowRunId)).state.type).toBe('CANCELLED');
  expect(isAlive(pid)).toBe(false);
  await worker.stop();
  expect(existsSync(app.folder)).toBe(false);
  expect((await getFlowRun(flowRunId)).attempt).toBe(1);
});

test('a run that is cancelled leaves the frames as they were, and says so', async () => {
  const film = filmWith([], 'bigbuckbunny.mp4');
  const app = new WebApp();
  app.database.exec("INSERT INTO full_frames VALUES (7, x'ffd8', 1, 1, 2, datetime('now'))");
  const worker = await Worker.start();
  const { flowRunId } = await queuePrefectFlow('full-frames', { ...app.arguments(film), 'frame-rate': 10 });
  await untilEvent(flowRunId, (event) => event.type === 'progress' && event.progress.task === 'recognize_text');
  const { pid } = await getFlowRun(flowRunId);
  expect(['CANCELLING', 'CANCELLED']).toContain((await cancelFlowRun(flowRunId)).state.type);
  const run = await waitForFlowRun(flowRunId);
  expect(run.states.map((state) => state.type)).toEqual(['SCHEDULED', 'PENDING', 'RUNNING', 'CANCELLING', 'CANCELLED']);
  expect(isAlive(pid ?? 0)).toBe(false);
  await worker.stop();
  expect(app.all('SELECT status, error_message, current_job_id FROM processing_status')).toEqual([
    { status: 'error', error_message: 'Processing cancelled', current_job_id: null },
  ]);
  expect(app.all('SELECT frame_index FROM full_frames')).toEqual([{ frame_index: 7 }]);
  expect(existsSync(path.join(app.folder, 'scratch'))).toBe(false);
  app.expectWhole();
});

test('what failed is retried by the app: the row is reset, the flow queued again', async () => {
  const film = path.join(path.dirname(filmWith(captions)), 'uploaded.mp4');
  writeFileSync(film, 'this is no film');
  const app = new WebApp('delete');
  const worker = await Worker.start();
  const given = { ...app.arguments(film), 'frame-rate': 0.5 };
  const first = await queuePrefectFlow('full-frames', given);
  const failed = await waitForFlowRun(first.flowRunId);
  // A fault of the input: final at once, with the reason.
  expect(failed).toMatchObject({ state: { type: 'FAILED' }, attempt: 1 });
  await app.untilStatus('processing_status', 'error');
  const [row] = app.all<{ status: string; error_message: string; error_details: string; error_occurred_at: string }>('SELECT * FROM processing_status');
  expect(row).toMatchObject({ status: 'error', error_occurred_at: expect.any(String) });
  // A person reads the file's name; its path is for those who look into the details.
  expect(row?.error_message).toMatch(/^uploaded\.mp4 /);
  expect(row?.error_details).toContain(film);
  expect(JSON.parse(row?.error_details ?? '')).toMatchObject({ flow_run_id: first.flowRunId, attempt: 1, reason: expect.any(String) });

  copyFileSync(path.join(path.dirname(film), 'a film.mp4'), film);
  app.database.exec(
    "UPDATE processing_status SET status = 'upload_complete', error_message = NULL, error_details = NULL, error_occurred_at = NULL",
  );
  const second = await queuePrefectFlow('full-frames', given);
  expect(second.flowRunId).not.toBe(first.flowRunId);
  expect((await waitForFlowRun(second.flowRunId)).state.type, worker.running.stderr).toBe('COMPLETED');
  await app.untilStatus('processing_status', 'processing_complete');
  expect(app.all('SELECT status, error_message, processing_attempts FROM processing_status')).toEqual([
    { status: 'processing_complete', error_message: null, processing_attempts: 2 },
  ]);
  expect(app.all('SELECT count(*) AS frames FROM full_frames')).toEqual([{ frames: 5 }]);
  await worker.stop();
  app.expectWhole();
});

test('the newest bounds win: an older crop-frames that runs is stopped, and only the newest frames are there', async () => {
  const film = filmWith([], 'bigbuckbunny.mp4');
  const app = new WebApp();
  const worker = await Worker.start();
  const crop = (version: number) =>
    queuePrefectFlow('crop-frames', { ...app.arguments(film), 'crop-bounds': bounds, 'crop-bounds-version': version });
  const first = await crop(1);
  await untilEvent(first.flowRunId, (event) => event.type === 'state' && event.state.name === 'Running');
  const second = await crop(2);
  expect((await waitForFlowRun(second.flowRunId)).state.type, worker.running.stderr).toBe('COMPLETED');
  const superseded = await waitForFlowRun(first.flowRunId);
  // It may have been done before it could be stopped; it is never the one that counts.
  expect(['CANCELLED', 'COMPLETED']).toContain(superseded.state.type);
  expect(superseded.supersededBy).toBe(superseded.state.type === 'CANCELLED' ? second.flowRunId : superseded.supersededBy);
  await app.untilStatus('crop_frames_status', 'complete');
  expect(app.all('SELECT DISTINCT crop_bounds_version FROM cropped_frames')).toEqual([{ crop_bounds_version: 2 }]);
  expect(app.all('SELECT status, current_job_id FROM crop_frames_status')).toEqual([{ status: 'complete', current_job_id: null }]);
  await worker.stop();
  expect(await listFlowRuns({ stateTypes: ['RUNNING'] })).toEqual([]);
  app.expectWhole();
});
