// The dashboard as a person has it: `captionacc dashboard` in Debian's Chromium, beside a real worker on a real film.

import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

import { getFlowRun, listFlowRuns, queuePrefectFlow, waitForFlowRun } from '@captionacc/orchestrator';
import Database from 'better-sqlite3';
import { chromium, type Browser, type Locator, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { afterTest, freshHome } from './support/home.js';
import { captionacc, freshPrefectUser, PrefectServer, setUp, Wire } from './support/prefect.js';
import { root, Running } from './support/processes.js';
import { chineseFont, filmWith, latinFont, WebApp, Worker, type Caption } from './support/web-app.js';

const ARGUMENTS = [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync',
];
const PAGES = ['/', '/runs', '/videos', '/lineage', '/pool'];
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** What the functions that run in the browser use of it: the types of this project are Node's. */
interface InBrowser {
  document: { documentElement: { scrollWidth: number }; querySelector: (selector: string) => { value: number; textContent: string } | null };
  seen?: Set<number>;
  isSamePage?: boolean;
  isHacked?: boolean;
  axe: { run: (context: unknown, options: unknown) => Promise<{ violations: { id: string; nodes: { html: string }[] }[] }> };
}

// bikes.mp4 has 640 x 272 pixels and 10 s.
const captions: Caption[] = [
  { text: 'HELLO WORLD 2026', font: latinFont, size: 28, x: 150, y: 215, from: 0, to: 4.9 },
  { text: '今天天气很好', font: chineseFont, size: 30, x: 200, y: 20, from: 5, to: 20 },
];

/** A program as a flow: it says a line whenever the file `more` grows, until the file `go` is there. */
const TALKING_FLOW = `
[flows.talk]
description = "Talks"
command = ["sh", "-c", "echo first line; tail -f -n +1 --pid=$$ more & while [ ! -e go ]; do sleep 0.05; done", "sh", "{video-id}"]
working-directory = "HOME"
retries = 0
[flows.talk.parameters.video-id]
type = "text"
`;

let browser: Browser;
beforeAll(async () => {
  browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ARGUMENTS });
});
afterAll(() => browser?.close());

interface Dashboard {
  page: Page;
  /** Without a token. */
  address: string;
  token: string;
  running: Running;
  /** What the browser's console had to complain of. */
  complaints: string[];
}

/** Opens the dashboard of the current test's queue; `through` may lead to it another way than its own address. */
async function open(options: { through?: (address: string) => Promise<string>; width?: number } = {}): Promise<Dashboard> {
  const running = new Running(path.join(root, 'dist/captionacc'), ['dashboard', '--listen', '127.0.0.1:0']);
  await running.says('Ctrl-C ends it.');
  const [, printed = '', token = ''] = /is at (http:\S+)\/\?token=(\S+)/.exec(running.stdout) ?? [];
  const address = options.through ? await options.through(printed) : printed;
  const context = await browser.newContext({ viewport: { width: options.width ?? 1280, height: 900 }, permissions: ['clipboard-read', 'clipboard-write'] });
  const page = await context.newPage();
  page.setDefaultTimeout(45_000);
  const complaints: string[] = [];
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') complaints.push(message.text());
  });
  page.on('pageerror', (error) => complaints.push(error.message));
  afterTest(() => void context.close().catch(() => {}));
  await page.goto(`${address}/?token=${token}`);
  await page.locator('header .slots').waitFor();
  expect(page.url()).toBe(`${address}/`);
  await page.evaluate(() => ((globalThis as unknown as InBrowser).isSamePage = true));
  return { page, address, token, running, complaints };
}

const isSamePage = (page: Page) => page.evaluate(() => (globalThis as unknown as InBrowser).isSamePage);

/** Queues a run of a declared flow, and returns its id. */
async function queue(...given: string[]): Promise<string> {
  return (JSON.parse(await captionacc('queue', ...given)) as { flowRunId: string }).flowRunId;
}

/** The state beside the heading of a run's page. */
const stateOf = (page: Page, name: string | RegExp): Locator => page.locator('h1 .state', { hasText: name });

async function expectNoFault(page: Page, what: string): Promise<void> {
  await page.evaluate(axe);
  const found = await page.evaluate(async () => {
    const { violations } = await (globalThis as unknown as InBrowser).axe.run((globalThis as unknown as InBrowser).document, {
      runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'],
    });
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 200)).join(' | ')}`);
  });
  expect(found, what).toEqual([]);
}

/** Where the runs of the tests are queued: the same pages, the same tests. */
interface World {
  name: string;
  /** Makes it there. */
  open?: () => Promise<void>;
  close?: () => void;
  /** An empty queue of the current test, with flows that `toml` declares; returns its home. */
  begin: (toml?: string) => Promise<string>;
}

const embedded: World = {
  name: 'embedded',
  begin: async (toml = '') => {
    const home = freshHome();
    writeFileSync(path.join(home, 'captionacc.toml'), toml.replace('HOME', home));
    process.env.CAPTIONACC_CONFIG = path.join(home, 'captionacc.toml');
    return home;
  },
};

let server: PrefectServer;
const prefect: World = {
  name: 'over Prefect',
  open: async () => {
    server = await PrefectServer.shared();
  },
  close: () => server.stop(),
  begin: async (toml = '') => {
    const { home } = freshPrefectUser();
    await setUp(server.apiUrl, home, toml.replace('HOME', home));
    return home;
  },
};

describe.each([embedded, prefect])('$name', (world) => {
  beforeAll(async () => {
    await world.open?.();
  });
  afterAll(() => world.close?.());

  test('a person comes from an empty queue to the text on a frame, and makes anew what a changed layout made stale', async () => {
    await world.begin();
    const { page, address, complaints } = await open();
    await page.getByText('Queue your first film:').waitFor();
    await page.getByText("await queuePrefectFlow('full-frames'").waitFor();

    const film = filmWith(captions);
    const app = new WebApp();
    // Long enough to be watched, on a fast machine too.
    const long = await queuePrefectFlow('full-frames', { ...app.arguments(film), 'frame-rate': 10 });
    await page.locator('header .slots', { hasText: '1 waiting' }).waitFor();
    await page.getByText('no worker is alive').waitFor();
    const worker = await Worker.start();
    // It moves by itself.
    await page.waitForFunction(() => {
      const inBrowser = globalThis as unknown as InBrowser;
      const seen = (inBrowser.seen ??= new Set());
      const bar = inBrowser.document.querySelector('.card progress');
      if (bar && bar.value > 0) seen.add(bar.value);
      return seen.size >= 3;
    });
    await page.locator(`tr[data-run="${long.flowRunId}"] .state`, { hasText: 'Completed' }).waitFor();
    const { flowRunId } = await queuePrefectFlow('full-frames', { ...app.arguments(film), 'frame-rate': 2 });
    await page.locator(`tr[data-run="${flowRunId}"] .state`, { hasText: 'Completed' }).waitFor();
    expect(await isSamePage(page)).toBe(true);

    // The run.
    await page.locator(`tr[data-run="${flowRunId}"] .run-link`).click();
    await stateOf(page, 'Completed').waitFor();
    for (const task of ['open_annotations', 'sample_video', 'recognize_text', 'write_frames']) {
      await page.locator('.bars .name', { hasText: task }).waitFor();
    }
    expect(await page.locator('.states .state').allTextContents()).toEqual(['Scheduled', 'Pending', 'Running', 'Completed']);

    // Its video: a text is found, and shown where it is.
    await page.locator('aside').getByRole('link', { name: 'video-1' }).first().click();
    await page.locator('.sheet li').nth(19).waitFor();
    await page.getByLabel('Find a text in all frames').fill('天气');
    await page.getByRole('status').getByText('10 frames').waitFor();
    expect(await page.locator('.sheet li').count()).toBe(10);
    expect(await page.locator('.texts .marked').textContent()).toContain('今天天气很好');
    const box = page.locator('.large rect.marked').first();
    await box.hover({ force: true });
    expect(await page.locator('.tip').textContent()).toMatch(/今天天气很好 \d+ %/);
    const frame = (await page.locator('.large .frame').boundingBox())!;
    const drawn = (await box.boundingBox())!;
    // The caption's left edge and top, in the film's own pixels.
    expect(Math.abs(((drawn.x - frame.x) / frame.width) * 640 - 200)).toBeLessThan(16);
    expect(Math.abs(((drawn.y - frame.y) / frame.height) * 272 - 20)).toBeLessThan(16);
    await page.keyboard.press('Escape');
    // The address holds what is looked for.
    await page.reload();
    await page.getByRole('status').getByText('10 frames').waitFor();
    await page.locator('.sheet li').nth(9).waitFor();
    expect(await page.locator('.sheet li').count()).toBe(10);
    await page.getByLabel('Find a text in all frames').fill('no such text');
    await page.getByText('No frame has this text.').waitFor();

    // The strip, and what a newer layout makes of it.
    const bounds = { left: 100, top: 200, right: 540, bottom: 260 };
    const crop = await queuePrefectFlow('crop-frames', { ...app.arguments(film), 'crop-bounds': bounds, 'crop-bounds-version': 1 });
    const scrubber = page.getByRole('slider', { name: 'Time' });
    await scrubber.waitFor();
    expect((await getFlowRun(crop.flowRunId)).state.type).toBe('COMPLETED');
    await scrubber.press('End');
    const strip = page.locator('.strip img');
    await page.waitForFunction((last) => (globalThis as unknown as { document: { querySelector: (s: string) => { src: string } | null } }).document.querySelector('.strip img')?.src.includes(`at=${last}&`), await scrubber.inputValue());
    expect(await strip.evaluate((image) => (image as unknown as { naturalWidth: number }).naturalWidth)).toBe(440);
    expect(await page.locator('.node.stale').count()).toBe(0);
    app.database.exec('UPDATE video_layout_config SET crop_left = 120, crop_top = 200, crop_right = 520, crop_bottom = 260, crop_bounds_version = 4');
    await page.getByRole('link', { name: 'lineage', exact: true }).click();
    await page.getByText('video_layout_config is version 4, this was made from 1').waitFor();
    await page.getByRole('button', { name: 'Run what is stale…' }).click();
    await page.getByRole('button', { name: 'Queue the runs' }).click();
    await page.getByText('1 run queued.').waitFor();
    await page.locator('.node:not(.stale)', { hasText: 'cropped_frames' }).waitFor();
    const [newest] = await listFlowRuns({ flowName: 'crop-frames', limit: 1 });
    expect(newest?.parameters).toMatchObject({ 'crop-bounds': { left: 120 }, 'crop-bounds-version': 4 });
    expect(newest?.state.type).toBe('COMPLETED');

    // All that while, the app wrote; and each page is without a fault for those who do not see it.
    app.expectWhole();
    for (const scheme of ['light', 'dark'] as const) {
      await page.emulateMedia({ colorScheme: scheme });
      for (const to of [...PAGES, `/runs/${flowRunId}`, '/video?id=video-1']) {
        await page.goto(`${address}${to}`);
        await page.locator('main h1').waitFor({ state: 'attached' });
        if (to.startsWith('/video?')) await page.locator('.sheet li').first().waitFor();
        await expectNoFault(page, `${to}, ${scheme}`);
      }
    }
    // On a telephone, also where a video has a long name.
    await page.setViewportSize({ width: 390, height: 844 });
    for (const to of [...PAGES, `/runs/${flowRunId}`, '/video?id=video-1', '/lineage?video=interview-with-the-director-of-photography-part-2-final-cut']) {
      await page.goto(`${address}${to}`);
      await page.locator('main h1').waitFor({ state: 'attached' });
      expect(await page.evaluate(() => (globalThis as unknown as InBrowser).document.documentElement.scrollWidth), to).toBeLessThanOrEqual(390);
    }
    expect(complaints).toEqual([]);
    await worker.stop();
    // Two looks at each page by axe take their time on a busy machine.
  }, 240_000);

  test('captions are gone through in time, each with the picture that it was read off', async () => {
    await world.begin();
    const app = new WebApp();
    // No app writes captions of its own in between.
    app.close();
    const database = new Database(app.databasePath);
    afterTest(() => database.close());
    database.exec(`
      DELETE FROM captions;
      ALTER TABLE captions ADD COLUMN text_ocr_combined TEXT;
      ALTER TABLE captions ADD COLUMN median_ocr_status TEXT NOT NULL DEFAULT 'pending';
      ALTER TABLE captions ADD COLUMN median_ocr_error TEXT;
      ALTER TABLE captions ADD COLUMN median_ocr_processed_at TEXT;`);
    const film = filmWith([
      { text: 'HELLO WORLD 2026', font: latinFont, size: 28, x: 150, y: 215, from: 0, to: 3 },
      { text: '今天天气很好', font: chineseFont, size: 30, x: 200, y: 215, from: 3.05, to: 6 },
    ]);
    const insert = database.prepare("INSERT INTO captions (start_frame_index, end_frame_index, median_ocr_status) VALUES (?, ?, 'queued') RETURNING id").pluck();
    const captionIds = [[1, 29], [31, 59], [90_000, 90_010]].map(([start, end]) => insert.get(start, end) as number);
    const worker = await Worker.start();
    const cropping = await queuePrefectFlow('crop-frames', { ...app.arguments(film), 'crop-bounds': { left: 100, top: 200, right: 540, bottom: 260 } });
    await waitForFlowRun(cropping.flowRunId);
    const { page, address, complaints } = await open();
    await page.goto(`${address}/video?id=video-1`);
    await page.getByText('3 captions: 0 read, 3 waiting').waitFor();
    const read = { 'video-id': 'video-1', 'db-path': app.databasePath, 'video-dir': app.folder, 'caption-ids': captionIds };
    await queuePrefectFlow('caption-median-ocr', read);
    // The texts come by themselves.
    await page.getByText('3 captions: 2 read, 1 not read').waitFor();
    const row = (place: number) => page.locator('.captions button').nth(place);
    expect(await row(2).textContent()).toContain('its frames 90000-90010 are missing');
    await row(1).click();
    const scrubber = page.getByRole('slider', { name: 'Time' });
    expect(await scrubber.inputValue()).toBe('31');
    await page.locator('.reading b', { hasText: '今天天气很好' }).waitFor();
    const median = page.locator('.reading img');
    await median.evaluate((image) => (image as unknown as { decode: () => Promise<void> }).decode());
    expect(await median.evaluate((image) => (image as unknown as { naturalWidth: number }).naturalWidth)).toBe(440);
    await page.keyboard.press('[');
    expect(await scrubber.inputValue()).toBe('1');
    expect((await page.locator('.reading b').textContent())?.replaceAll(' ', '')).toBe('HELLOWORLD2026');
    expect(await page.locator('.near .block').count()).toBe(2);
    // The address holds the moment.
    await page.waitForURL(/at=1$/);
    await page.reload();
    await page.locator('.reading b', { hasText: 'HELLO' }).waitFor();
    expect(await scrubber.inputValue()).toBe('1');
    await expectNoFault(page, 'captions');
    expect(complaints).toEqual([]);
    await worker.stop();
  });

  test('a log is followed, its run cancelled and retried', async () => {
    const home = await world.begin(TALKING_FLOW);
    const more = path.join(home, 'more');
    writeFileSync(more, '');
    const id = await queue('talk', '--video-id', 'v1');
    const { page, address, complaints } = await open();
    await page.goto(`${address}/runs/${id}`);
    await stateOf(page, /^(Scheduled|Late)$/).waitFor();
    const worker = await Worker.start();
    await stateOf(page, 'Running').waitFor();
    const line = (text: string) => page.locator('.log-line', { hasText: text });
    await line('first line').waitFor();
    writeFileSync(more, 'a second\nand a third\n');
    await line('and a third').waitFor();
    expect(await page.locator('.log-line .text').allTextContents()).toEqual(expect.arrayContaining(['first line', 'a second', 'and a third']));
    // What the program says of its progress moves the bar.
    for (const done of [1, 3]) {
      appendFileSync(more, `(${done}/4 parts)\n`);
      await page.locator('.progress', { hasText: `${done} of 4 parts` }).waitFor();
      expect(await page.locator('.progress progress').evaluate((bar) => (bar as unknown as { value: number }).value)).toBe(done / 4);
    }
    await page.getByLabel('Search the log').fill('THIRD');
    await line('a second').waitFor({ state: 'detached' });
    expect(await page.locator('.log-line mark').textContent()).toBe('third');
    await page.getByRole('button', { name: 'Copy', exact: true }).first().click();
    expect(await page.evaluate('navigator.clipboard.readText()')).toMatch(/info +and a third$/);
    await page.getByLabel('Search the log').fill('');

    await page.getByRole('button', { name: 'Cancel…' }).click();
    await page.getByRole('dialog').getByText('Its process is told to stop').waitFor();
    await page.getByRole('button', { name: 'Leave it' }).click();
    expect((await getFlowRun(id)).state.type).toBe('RUNNING');
    await page.getByRole('button', { name: 'Cancel…' }).click();
    await page.getByRole('button', { name: 'Cancel the run' }).click();
    await stateOf(page, 'Cancelled').waitFor();
    await page.getByRole('button', { name: 'Retry…' }).click();
    await page.getByRole('button', { name: 'Retry the run' }).click();
    await stateOf(page, 'Running').waitFor();
    await page.locator('.states .message', { hasText: 'attempt 2' }).waitFor();
    writeFileSync(path.join(home, 'go'), '');
    await stateOf(page, 'Completed').waitFor();
    const log = await page.request.get(`${address}/api/runs/${id}/log.txt`);
    expect(await log.text()).toContain('and a third');

    // A new one with the same parameters.
    await page.getByRole('button', { name: 'Queue once more…' }).click();
    await page.getByRole('button', { name: 'Queue a new run' }).click();
    await page.waitForURL((url) => url.pathname !== `/runs/${id}`);
    await stateOf(page, 'Completed').waitFor();
    expect(complaints).toEqual([]);
    await worker.stop();
  });

  test('many runs are filtered, chosen and cancelled together, with the keyboard alone', async () => {
    await world.begin(TALKING_FLOW);
    for (let number = 0; number < 4; number += 1) await queue('talk', '--video-id', `film ${number}`);
    const { page, complaints } = await open();
    const { keyboard } = page;
    await keyboard.press('?');
    await page.getByRole('dialog').getByText('workers and pool').waitFor();
    await keyboard.press('Escape');
    await page.getByRole('dialog').waitFor({ state: 'detached' });
    await keyboard.press('g');
    await keyboard.press('r');
    await page.locator('tbody tr').nth(3).waitFor();
    await keyboard.press('/');
    await keyboard.type('film 2');
    await page.waitForURL(/text=film/);
    await page.locator('tbody tr').nth(1).waitFor({ state: 'detached' });
    expect(await page.locator('tbody tr').allTextContents()).toEqual([expect.stringContaining('film 2')]);
    await keyboard.press('ControlOrMeta+a');
    await keyboard.press('Delete');
    await page.locator('tbody tr').nth(3).waitFor();
    await keyboard.press('Escape');
    await keyboard.press('j');
    await keyboard.press('x');
    await keyboard.press('j');
    await keyboard.press('x');
    await page.getByText('2 runs chosen').waitFor();
    await page.getByRole('button', { name: 'Cancel…' }).press('Enter');
    await page.getByRole('dialog').getByText('2 runs will be cancelled').waitFor();
    await keyboard.press('Enter');
    await page.getByText('2 runs cancelled or being stopped.').waitFor();
    await page.locator('tbody .state', { hasText: 'Cancelled' }).nth(1).waitFor();
    const states = (await listFlowRuns()).map((run) => run.state.type);
    expect(states).toEqual(['CANCELLED', 'CANCELLED', 'SCHEDULED', 'SCHEDULED']);

    // The address holds the filter.
    await page.getByRole('button', { name: 'Cancelled', exact: true }).press('Enter');
    await page.waitForURL(/state=cancelled/);
    await page.reload();
    await page.locator('tbody tr').nth(1).waitFor();
    expect(await page.locator('tbody tr').count()).toBe(2);
    await keyboard.press('j');
    await keyboard.press('Enter');
    await stateOf(page, 'Cancelled').waitFor();
    await keyboard.press('t');
    await page.getByRole('dialog').getByText('It is queued again under its id').waitFor();
    await keyboard.press('Enter');
    await stateOf(page, /^(Scheduled|Late)$/).waitFor();
    await keyboard.press('g');
    await keyboard.press('p');
    await page.getByRole('button', { name: 'Pause…' }).press('Enter');
    await page.getByRole('dialog').getByText('Nothing new starts').waitFor();
    await keyboard.press('Enter');
    await page.locator('h1 .state', { hasText: 'Paused' }).waitFor();
    expect(complaints).toEqual([]);
  });

  test('a connection that is lost is said and found again, with what happened meanwhile', async () => {
    await world.begin(TALKING_FLOW);
    let wire: Wire | undefined;
    const { page } = await open({
      through: async (address) => {
        wire = await Wire.to({ apiUrl: address });
        return wire.apiUrl.replace('/api', '');
      },
    });
    await page.locator('[data-connection="open"]').waitFor();
    wire?.play('cut');
    await page.getByText('The connection is lost').waitFor();
    const id = await queue('talk', '--video-id', 'v1');
    await captionacc('runs', 'cancel', id);
    await wire?.mend();
    await page.getByText('The connection is lost').waitFor({ state: 'detached' });
    await page.locator(`tr[data-run="${id}"] .state`, { hasText: 'Cancelled' }).waitFor();
    // One that hangs ends nothing, and says nothing.
    wire?.play('stall');
    await page.getByText('The connection is lost').waitFor();
    await wire?.mend();
    await page.getByText('The connection is lost').waitFor({ state: 'detached' });
    expect(await isSamePage(page)).toBe(true);
  });

  test('what a film or a program is called by is text and never a part of the page', async () => {
    const hostile = '<img src=x onerror="globalThis.isHacked = true">';
    await world.begin(`[flows.speak]\ndescription = "Speaks"\ncommand = ["echo", "<script>globalThis.isHacked = true</script>"]\nretries = 0\n[flows.speak.parameters.video-id]\ntype = "text"\n`);
    const worker = await Worker.start();
    const id = await queue('speak', '--video-id', hostile);
    await waitForFlowRun(id);
    const { page, address, complaints } = await open();
    for (const to of [...PAGES, `/runs/${id}`, `/video?id=${encodeURIComponent(hostile)}`, `/lineage?video=${encodeURIComponent(hostile)}`]) {
      await page.goto(`${address}${to}`);
      await page.getByText('onerror').or(page.locator('main')).first().waitFor();
    }
    await page.goto(`${address}/runs/${id}`);
    await page.locator('.log-line', { hasText: '<script>globalThis.isHacked' }).waitFor();
    await page.locator('aside').getByText(hostile).first().waitFor();
    expect(await page.locator('img[src="x"]').count()).toBe(0);
    expect(await page.evaluate(() => (globalThis as unknown as InBrowser).isHacked)).toBe(undefined);
    expect(complaints).toEqual([]);
    await worker.stop();
  });
});

describe('over Prefect alone', () => {
  beforeAll(async () => {
    await prefect.open?.();
  });
  afterAll(() => prefect.close?.());

  test('a run whose worker is lost is taken over, also where that takes a second question', async () => {
    const { home } = freshPrefectUser();
    await setUp(server.apiUrl, home, TALKING_FLOW.replace('HOME', home));
    writeFileSync(path.join(home, 'more'), '');
    const id = await queue('talk', '--video-id', 'v1');
    const worker = await Worker.start();
    const { page, address } = await open();
    await page.goto(`${address}/runs/${id}`);
    await stateOf(page, 'Running').waitFor();
    worker.running.child.kill('SIGKILL');
    // As a server says it that heard of its worker a moment ago.
    const message = `flow run ${id} is Running: its worker was heard not long ago`;
    const refusal = { error: { code: 'ERR_CAPTIONACC_INVALID_STATE', message, retryable: false } };
    await page.route('**/take-over', (route) => route.fulfill({ status: 409, json: refusal }), { times: 1 });
    const dialog = page.getByRole('dialog');
    await page.getByRole('button', { name: 'Take over…' }).click();
    await dialog.getByText('is not to be heard from here').waitFor();
    await dialog.getByRole('button', { name: 'Give it to another worker' }).click();
    await dialog.getByText('was heard not long ago, and may still work on it').waitFor();
    await dialog.getByRole('button', { name: 'Take it over all the same' }).click();
    await page.getByText('The run is given to another worker.').waitFor();
    await stateOf(page, /^(Scheduled|Late|Awaiting retry)$/).waitFor();
    const next = await Worker.start();
    await stateOf(page, 'Running').waitFor();
    writeFileSync(path.join(home, 'go'), '');
    await stateOf(page, 'Completed').waitFor();
    expect((await getFlowRun(id)).attempt).toBe(2);
    await next.stop();
  });

  test('a run names its page in Prefect’s UI, and an API that is away is said until it is back', async () => {
    const { home } = freshPrefectUser();
    await setUp(server.apiUrl, home, TALKING_FLOW.replace('HOME', home));
    const wire = await Wire.to(server);
    process.env.PREFECT_API_URL = wire.apiUrl;
    const id = await queue('talk', '--video-id', 'v1');
    const { page, address } = await open();
    await page.goto(`${address}/runs/${id}`);
    await stateOf(page, /^(Scheduled|Late)$/).waitFor();
    expect(await page.getByRole('link', { name: 'in its UI' }).getAttribute('href')).toBe(`${wire.apiUrl.replace('/api', '')}/runs/flow-run/${id}`);
    wire.play('cut');
    await page.getByText('The queue does not answer to the dashboard').waitFor();
    await page.keyboard.press('g');
    await page.keyboard.press('p');
    await page.locator('h2 .state', { hasText: 'API away' }).waitFor();
    await page.getByText('Prefect’s API has not answered for').waitFor();
    await wire.mend();
    await page.getByText('The queue does not answer to the dashboard').waitFor({ state: 'detached' });
    await page.locator('h2 .state', { hasText: 'API answers' }).waitFor();
    await page.goBack();
    await captionacc('runs', 'cancel', id);
    await stateOf(page, 'Cancelled').waitFor();
  });
});
