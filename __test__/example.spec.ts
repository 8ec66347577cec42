// The example web app as a person has it: started with its one command, used in a browser.

import { execFileSync } from 'node:child_process';
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { chromium, type Browser, type Locator, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { temporaryFolder } from './support/home.js';
import { isAlive, root, Running } from './support/processes.js';
import { films } from './support/web-app.js';

const captioned = 'wannaworktogether, captioned.mp4';
const ARGUMENTS = [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync',
];

/** What the functions that run in the browser use of it: the types of this project are Node's. */
interface InBrowser {
  document: { documentElement: { scrollWidth: number }; querySelector: (selector: string) => { value: number } | null };
  OffscreenCanvas: new (width: number, height: number) => {
    getContext: (kind: '2d') => {
      drawImage: (picture: Picture, x: number, y: number) => void;
      getImageData: (x: number, y: number, width: number, height: number) => { data: Uint8ClampedArray };
    };
  };
  seen?: Set<number>;
  isSamePage?: boolean;
}

interface Picture {
  loading: string;
  naturalWidth: number;
  naturalHeight: number;
  decode: () => Promise<void>;
}

let browser: Browser;
beforeAll(async () => {
  browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ARGUMENTS });
});
afterAll(() => browser?.close());

interface Example {
  address: string;
  page: Page;
  /** What the browser's console had to complain of. */
  complaints: string[];
}

/** Runs `use` with the example at work on `data`, then stops it as Ctrl-C does; nothing of it may be left. */
async function withExample(data: string, use: (example: Example) => Promise<void>): Promise<void> {
  const env = { CAPTIONACC_NO_BUILD: '1', CAPTIONACC_EXAMPLE_DATA: data };
  const running = new Running('bash', ['scripts/example.sh'], { env });
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  page.setDefaultTimeout(45_000);
  const complaints: string[] = [];
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') complaints.push(message.text());
  });
  page.on('pageerror', (error) => complaints.push(error.message));
  try {
    await running.says('the example is at ');
    const address = /the example is at (\S+)/.exec(running.stderr)?.[1] ?? '';
    const processes = childrenOf(running.child.pid ?? 0);
    expect(processes).toHaveLength(2);
    await page.goto(address);
    await use({ address, page, complaints });
    // The page stays open meanwhile, as a person's would.
    running.child.kill('SIGTERM');
    const { code, stderr } = await running.ended;
    expect(code, stderr).toBe(0);
    expect(processes.filter(isAlive)).toEqual([]);
  } finally {
    running.child.kill('SIGTERM');
    await running.ended;
    await page.close();
  }
}

function childrenOf(pid: number): number[] {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number);
}

/** The panel of a flow's newest run, once it is in that state. */
async function untilState(page: Page, state: string, section = 'Frames and texts'): Promise<Locator> {
  const panel = page.locator('section', { has: page.getByRole('heading', { name: section }) }).locator(`.run[data-state="${state}"]`);
  await panel.waitFor();
  return panel;
}

/** Resolves once the progress bar has been seen at so many places. */
async function untilProgressMoves(page: Page, places: number): Promise<void> {
  await page.waitForFunction((wanted) => {
    const inBrowser = globalThis as unknown as InBrowser;
    const seen = (inBrowser.seen ??= new Set());
    const bar = inBrowser.document.querySelector('.run progress');
    if (bar && bar.value > 0) seen.add(bar.value);
    return seen.size >= wanted;
  }, places);
}

/** Widths of pictures once they are decoded. */
function decoded(pictures: Locator): Promise<number[]> {
  return pictures.evaluateAll((images) =>
    Promise.all(
      (images as unknown as Picture[]).map(async (image) => {
        image.loading = 'eager';
        await image.decode();
        return image.naturalWidth;
      }),
    ),
  );
}

/** The rectangle of nearly white pixels in the lower part of a picture, in its own pixels. */
function whiteness(picture: Locator, fromTop: number): Promise<{ left: number; top: number; right: number; bottom: number } | null> {
  return picture.evaluate(async (element, from) => {
    const image = element as unknown as Picture;
    const { OffscreenCanvas } = globalThis as unknown as InBrowser;
    await image.decode();
    const [width, height] = [image.naturalWidth, image.naturalHeight];
    const context = new OffscreenCanvas(width, height).getContext('2d');
    context.drawImage(image, 0, 0);
    const { data } = context.getImageData(0, 0, width, height);
    const [columns, rows]: [number[], number[]] = [[], []];
    for (let row = Math.round(height * from); row < height; row += 1) {
      for (let column = 0; column < width; column += 1) {
        const at = 4 * (row * width + column);
        if (Math.min(data[at]!, data[at + 1]!, data[at + 2]!) > 200) {
          columns.push(column);
          rows.push(row);
        }
      }
    }
    if (rows.length === 0) return null;
    return { left: Math.min(...columns), top: Math.min(...rows), right: Math.max(...columns) + 1, bottom: Math.max(...rows) + 1 };
  }, fromTop);
}

async function expectNoSidewaysScroll(page: Page): Promise<void> {
  expect(await page.evaluate(() => (globalThis as unknown as InBrowser).document.documentElement.scrollWidth)).toBeLessThanOrEqual(390);
}

describe('the example web app', () => {
  test('a person comes from a film to its caption strip', async () => {
    await withExample(temporaryFolder(), async ({ address, page, complaints }) => {
      await page.getByRole('button', { name: captioned }).click();
      await page.waitForURL(/\/videos\//);
      await page.evaluate(() => ((globalThis as unknown as InBrowser).isSamePage = true));
      await untilProgressMoves(page, 3);
      await untilState(page, 'COMPLETED');
      expect(await page.evaluate(() => (globalThis as unknown as InBrowser).isSamePage)).toBe(true);

      // Frames, and boxes where the text is.
      const stage = page.locator('.stage');
      expect(await decoded(page.locator('.filmstrip img'))).toEqual(Array.from({ length: 19 }, () => 480));
      await page.locator('.filmstrip button', { hasText: '0:20' }).click();
      await page.locator('.texts', { hasText: 'together?' }).waitFor();
      const written = (await whiteness(stage.locator('img'), 0.8))!;
      const frame = (await stage.boundingBox())!;
      const scale = 480 / frame.width;
      const boxes = await Promise.all((await stage.locator('.box').all()).map((box) => box.boundingBox()));
      const edges = {
        left: Math.min(...boxes.map((box) => (box!.x - frame.x) * scale)),
        top: Math.min(...boxes.map((box) => (box!.y - frame.y) * scale)),
        right: Math.max(...boxes.map((box) => (box!.x + box!.width - frame.x) * scale)),
        bottom: Math.max(...boxes.map((box) => (box!.y + box!.height - frame.y) * scale)),
      };
      for (const side of ['left', 'top', 'right', 'bottom'] as const) {
        expect(Math.abs(edges[side] - written[side]), `${side}: boxes ${edges[side]}, text ${written[side]}`).toBeLessThan(8);
      }

      // The strip that is suggested holds the text; another one is drawn.
      const bounds = async () => {
        const values = await page.locator('.bounds input').evaluateAll((inputs) => inputs.map((input) => Number((input as unknown as { value: string }).value)));
        const [left, top, right, bottom] = values as [number, number, number, number];
        return { left, top, right, bottom };
      };
      const suggested = await bounds();
      expect(suggested.left).toBeLessThanOrEqual(written.left);
      expect(suggested.top).toBeLessThanOrEqual(written.top);
      expect(suggested.right).toBeGreaterThanOrEqual(written.right);
      expect(suggested.bottom).toBeGreaterThanOrEqual(written.bottom);
      const at = (x: number, y: number) => [frame.x + x / scale, frame.y + y / scale] as const;
      await page.mouse.move(...at(24, 280));
      await page.mouse.down();
      await page.mouse.move(...at(300, 300), { steps: 5 });
      await page.mouse.move(...at(456, 344));
      await page.mouse.up();
      const drawn = await bounds();
      expect(drawn).toEqual({ left: 24, top: 280, right: 456, bottom: 344 });
      await page.getByRole('button', { name: 'Crop to this strip' }).click();

      // The strip over time.
      const cropped = await untilState(page, 'COMPLETED', 'The strip over time');
      await cropped.locator('output', { hasText: '1803 cropped frames' }).waitFor();
      const now = page.locator('.now');
      const scrubber = page.getByRole('slider', { name: 'Time' });
      expect(await decoded(now)).toEqual([432]);
      await scrubber.scrollIntoViewIfNeeded();
      const track = (await scrubber.boundingBox())!;
      await page.mouse.click(track.x + track.width / 2, track.y + track.height / 2);
      const middle = Number(await scrubber.inputValue());
      expect(Math.abs(middle - 901)).toBeLessThan(20);
      expect(await now.getAttribute('src')).toContain(`/strips/${middle}?`);
      expect(await decoded(now)).toEqual([432]);
      await scrubber.press('ArrowRight');
      expect(await scrubber.inputValue()).toBe(String(middle + 1));
      await scrubber.press('End');
      expect(await scrubber.inputValue()).toBe('1802');
      await scrubber.press('Home');
      expect(await scrubber.inputValue()).toBe('0');
      expect(await now.getAttribute('src')).toContain('/strips/0?');
      // Black at first; the caption is there at 0:20.
      expect(await whiteness(now, 0)).toBeNull();
      await scrubber.fill('200');
      const inStrip = (await whiteness(now, 0))!;
      expect(Math.abs(inStrip.left + drawn.left - written.left)).toBeLessThan(3);
      expect(Math.abs(inStrip.top + drawn.top - written.top)).toBeLessThan(3);
      expect((await decoded(page.locator('.around img'))).length).toBe(7);

      // What was made from what, and what another run makes stale.
      const lineage = page.locator('section', { has: page.getByRole('heading', { name: 'Made from' }) });
      expect(await lineage.locator('.fresh').count()).toBe(5);
      const texts = await page.request.get(`${page.url()}/texts`);
      expect(await texts.text()).toContain('10.0\t一起合作吧');

      // On a telephone.
      await page.setViewportSize({ width: 390, height: 844 });
      await expectNoSidewaysScroll(page);
      await page.goto(address);
      await page.getByRole('link', { name: captioned }).waitFor();
      await expectNoSidewaysScroll(page);
      expect(complaints).toEqual([]);
    });
  });

  test('an uploaded film is cancelled and retried', async () => {
    // A quarter of an hour, so that there is time to cancel.
    const folder = temporaryFolder();
    const film = path.join(folder, '一部 <b>long film.mp4');
    const source = path.join(films, 'wannaworktogether.mp4');
    execFileSync('ffmpeg', ['-v', 'error', '-stream_loop', '4', '-i', source, '-c', 'copy', film]);
    await withExample(path.join(folder, 'data'), async ({ page, complaints }) => {
      await page.locator('input[type="file"]').setInputFiles(film);
      await page.getByRole('heading', { name: '一部 <b>long film.mp4' }).waitFor();
      await untilProgressMoves(page, 2);
      await page.getByRole('button', { name: 'Cancel' }).click();
      const cancelled = await untilState(page, 'CANCELLED');
      await cancelled.locator('output', { hasText: 'cancelled on request' }).waitFor();
      expect(await page.locator('.stage').count()).toBe(0);

      await cancelled.getByRole('button', { name: 'Retry' }).click();
      await untilState(page, 'RUNNING');
      const completed = await untilState(page, 'COMPLETED');
      await completed.locator('output', { hasText: 'attempt 2' }).waitFor();
      expect(await page.locator('.filmstrip li').count()).toBe(91);
      expect(complaints).toEqual([]);
    });
  });

  test('what goes wrong is said', async () => {
    const folder = temporaryFolder();
    const file = (name: string, text: string) => {
      writeFileSync(path.join(folder, name), text);
      return path.join(folder, name);
    };
    await withExample(path.join(folder, 'data'), async ({ address, page, complaints }) => {
      await page.locator('input[type="file"]').setInputFiles(file('empty.mp4', ''));
      await page.getByRole('alert').getByText('The file is empty.').waitFor();
      await page.locator('input[type="file"]').setInputFiles(file('broken.mp4', 'This is no film.\n'.repeat(100)));
      await page.getByRole('heading', { name: 'broken.mp4' }).waitFor();
      const failed = await untilState(page, 'FAILED');
      expect(await failed.getByRole('alert').locator('p').textContent()).toMatch(/^the film is not a video/);
      expect(await failed.getByRole('button', { name: 'Retry' }).count()).toBe(1);

      await page.goto(address);
      await page.getByRole('button', { name: 'bigbuckbunny.mp4' }).click();
      await untilState(page, 'COMPLETED');
      await page.getByLabel('left').fill('300');
      await page.getByLabel('right').fill('100');
      await page.getByLabel('bottom').fill('100');
      await page.getByRole('button', { name: 'Crop to this strip' }).click();
      await page.getByRole('alert').getByText('ERR_CAPTIONACC_INVALID_ARGUMENT').waitFor();
      // The browser names every answer that is an error.
      expect(complaints.filter((text) => !/status of 4(00|09)/.test(text))).toEqual([]);

      for (const wanted of ['videos/no-such-video', 'videos/..%2F..%2Ffilms/frames/0', `${new URL(page.url()).pathname.slice(1)}/frames/-1`]) {
        expect((await page.request.get(`${address}/${wanted}`)).status(), wanted).toBe(404);
      }
      const foreign = await page.request.post(`${address}/uploads`, { data: 'a body that another site made the browser send' });
      expect(foreign.status()).toBe(400);
    });
  });

  test('a film that was replaced makes its strip stale, until it is cropped again', async () => {
    const data = temporaryFolder();
    await withExample(data, async ({ page, complaints }) => {
      await page.locator('input[type="file"]').setInputFiles(path.join(films, 'bigbuckbunny.mp4'));
      await untilState(page, 'COMPLETED');
      for (const [side, value] of Object.entries({ left: '0', top: '100', right: '600', bottom: '200' })) {
        await page.getByLabel(side).fill(value);
      }
      await page.getByRole('button', { name: 'Crop to this strip' }).click();
      await untilState(page, 'COMPLETED', 'The strip over time');
      const strip = page.locator('.rows li', { hasText: 'cropped_frames' });
      await strip.getByText('up to date').waitFor();

      copyFileSync(path.join(films, 'bikes.mp4'), path.join(data, 'videos', page.url().split('/').at(-1) ?? '', 'film'));
      await page.getByRole('button', { name: 'Read again' }).click();
      await strip.getByText('film was made anew').waitFor();
      await page.getByRole('button', { name: 'Crop to this strip' }).click();
      await strip.getByText('up to date').waitFor();
      expect(complaints).toEqual([]);
    });
  });

  test('it stops while a run is at work, and goes on with it at the next start', async () => {
    const data = temporaryFolder();
    await withExample(data, async ({ page }) => {
      await page.getByRole('button', { name: captioned }).click();
      await untilProgressMoves(page, 1);
    });
    await withExample(data, async ({ page }) => {
      await page.getByRole('link', { name: captioned }).click();
      await untilState(page, 'COMPLETED');
      expect(await page.locator('.filmstrip li').count()).toBe(19);
    });
  });

  test('its types hold', async () => {
    const app = path.join(root, 'examples/web-app');
    for (const given of [['node_modules/@react-router/dev/bin.js', 'typegen'], ['node_modules/typescript/bin/tsc']]) {
      const { code, stdout, stderr } = await new Running(process.execPath, given, { cwd: app }).ended;
      expect(code, stdout + stderr).toBe(0);
    }
  });
});
