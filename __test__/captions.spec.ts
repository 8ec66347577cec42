// The third flow as the web app uses it: strips of a real film are there, a person moves the boundaries of captions, and
// the app, which keeps writing to the same file, waits for their texts.

import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';

import { getFlowRun, getLineage, queuePrefectFlow, waitForFlowRun } from '@captionacc/orchestrator';
import { beforeEach, expect, test } from 'vitest';

import { freshHome } from './support/home.js';
import { chineseFont, filmWith, latinFont, WebApp, Worker } from './support/web-app.js';

beforeEach(() => {
  freshHome();
});

interface Row {
  median_ocr_status: string;
  text_ocr_combined: string | null;
  median_ocr_error: string | null;
  median_ocr_processed_at: string | null;
  text_pending: number;
  text: string | null;
}

test.each(['wal', 'delete'] as const)('captions whose boundaries were moved get their texts, journal mode %s', async (journalMode) => {
  const film = filmWith([
    { text: 'HELLO WORLD 2026', font: latinFont, size: 28, x: 150, y: 215, from: 0, to: 3 },
    { text: '今天天气很好', font: chineseFont, size: 30, x: 200, y: 215, from: 3.05, to: 6 },
  ]);
  const app = new WebApp(journalMode);
  app.database.exec(`
    ALTER TABLE captions ADD COLUMN text_ocr_combined TEXT;
    ALTER TABLE captions ADD COLUMN median_ocr_status TEXT NOT NULL DEFAULT 'pending'
      CHECK (median_ocr_status IN ('pending', 'queued', 'processing', 'complete', 'error'));
    ALTER TABLE captions ADD COLUMN median_ocr_error TEXT;
    ALTER TABLE captions ADD COLUMN median_ocr_processed_at TEXT;`);
  const worker = await Worker.start();
  const cropping = await queuePrefectFlow('crop-frames', {
    ...app.arguments(film),
    'crop-bounds': { left: 100, top: 200, right: 540, bottom: 260 },
  });
  expect((await waitForFlowRun(cropping.flowRunId)).state.type).toBe('COMPLETED');

  // As the app does it when a person saves boundaries.
  const save = app.database.prepare(
    `INSERT INTO captions (start_frame_index, end_frame_index, text, text_pending, median_ocr_status)
     VALUES (?, ?, 'a person wrote this', 0, 'queued') RETURNING id`,
  ).pluck();
  const [first, second, empty] = [[1, 29], [31, 59], [90_000, 90_010]].map(([start, end]) => save.get(start, end) as number);
  const captionIds = [first, second, empty] as number[];
  const queued = await queuePrefectFlow('caption-median-ocr', {
    'video-id': 'video-1',
    'db-path': app.databasePath,
    'video-dir': app.folder,
    'caption-ids': captionIds,
  });
  expect(queued.priority).toBe('user-initiated');
  const run = await waitForFlowRun(queued.flowRunId);
  expect(run.state.type, worker.running.stderr).toBe('COMPLETED');
  expect(run.state.message).toContain(`2 captions read, 1 not: caption ${empty}: its frames 90000-90010 are missing`);
  expect(run.parameters).toMatchObject({ 'caption-ids': captionIds, 'language': 'zh-Hans' });

  const row = (id: number | undefined) => app.all<Row>(`SELECT * FROM captions WHERE id = ${id}`)[0];
  const plain = (text: string | null | undefined) => text?.replaceAll(/\s/g, '').toUpperCase();
  expect(plain(row(first)?.text_ocr_combined)).toBe('HELLOWORLD2026');
  expect(plain(row(second)?.text_ocr_combined)).toBe('今天天气很好');
  for (const id of [first, second]) {
    expect(row(id)).toMatchObject({
      median_ocr_status: 'complete',
      median_ocr_error: null,
      median_ocr_processed_at: expect.stringMatching(/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$/),
      text_pending: 1,
      text: 'a person wrote this',
    });
    const picture = readFileSync(path.join(app.folder, 'text_images', `annotation_${id}.jpg`));
    expect([picture[0], picture[1], picture.at(-2), picture.at(-1)]).toEqual([0xff, 0xd8, 0xff, 0xd9]);
  }
  expect(row(empty)).toMatchObject({ median_ocr_status: 'error', text_ocr_combined: null });
  expect(existsSync(path.join(app.folder, 'text_images', `annotation_${empty}.jpg`))).toBe(false);

  const { artifacts } = await getFlowRun(queued.flowRunId);
  expect(artifacts.map(({ key }) => key)).toEqual(['captions']);
  const lineage = await getLineage();
  const asset = lineage.assets[`annotations://video-1/captions/${first}`];
  expect(asset?.upstreams.map(({ key }) => key)).toEqual(['annotations://video-1/cropped_frames']);
  app.expectWhole();
  await worker.stop();
}, 120_000);

test.each([
  [[], 'empty'],
  [[1.5], "1.5 is no caption's id"],
  [['1'], "is no caption's id"],
  ['1,2', 'is not JSON'],
  [Array.from({ length: 10_001 }, (_, id) => id + 1), 'queue several'],
])('captions that are none are refused by the call: %j', async (captionIds, expected) => {
  const queueing = queuePrefectFlow('caption-median-ocr', {
    'video-id': 'v', 'db-path': 'annotations.db', 'video-dir': '.', 'caption-ids': captionIds as number[],
  });
  await expect(queueing).rejects.toMatchObject({
    code: 'ERR_CAPTIONACC_INVALID_ARGUMENT',
    message: expect.stringContaining(expected),
  });
});

test('ten thousand captions are queued by one call, each once', async () => {
  const ids = Array.from({ length: 10_000 }, (_, id) => id + 1);
  const { flowRunId } = await queuePrefectFlow('caption-median-ocr', {
    'video-id': 'v', 'db-path': 'annotations.db', 'video-dir': '.', 'caption-ids': [...ids, 5, 5],
  });
  const run = await getFlowRun(flowRunId);
  expect(run.parameters['caption-ids']).toEqual(ids);
});
