// The tarballs of `npm run package` on a bare machine, as a user installs them: everything that the package promises works
// there, with nothing else installed and no network.

import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import Database from 'better-sqlite3';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';

import { changeManifest, install } from './support/apps.js';
import { Machine } from './support/machine.js';
import { root, type Ended } from './support/processes.js';

const packages = path.resolve(process.env.CAPTIONACC_PACKAGES ?? path.join(root, 'dist/packages'));
const { version } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as { version: string };
const name = '@captionacc/orchestrator';
const platformName = `${name}-linux-${process.arch}-gnu`;
const names = [name, platformName, `${name}-models`];
const tarball = (packageName: string) => `${packageName.slice(1).replace('/', '-')}-${version}.tgz`;

const isPossible = process.platform === 'linux' && process.getuid?.() === 0;
if (!isPossible) process.stderr.write('skipped: the install test makes a Debian root and enters it, for which it must be root on Linux\n');

/** What a program says when it ends well, and says nothing on stderr. */
function saidBy(ended: Ended): string {
  expect(ended).toMatchObject({ code: 0, stderr: '' });
  return ended.stdout;
}

/** Queues a run of a flow, waits for its end and tells it. */
const runFlow = `
  import { queuePrefectFlow, waitForFlowRun } from '${name}';
  const [flow, given] = process.argv.slice(2);
  const { flowRunId } = await queuePrefectFlow(flow, JSON.parse(given));
  const { state, attempt } = await waitForFlowRun(flowRunId);
  console.log(JSON.stringify({ state: state.name, attempt }));`;

/** Where the captions of scripts/captions.srt are, in the film of 480 x 352 pixels that has them. */
const captionRow = { left: 0, top: 296, right: 480, bottom: 352 };
const [filmWidth, filmHeight] = [480, 352];

/** The captions of the film by the frame that shows them: one frame in 10 s, counted in tenths of a second. */
function writtenCaptions(): Record<number, string> {
  const blocks = readFileSync(path.join(root, 'scripts/captions.srt'), 'utf8').trim().split('\n\n');
  const tenthsOf = (time = '') => {
    const [hours = 0, minutes = 0, seconds = 0, thousandths = 0] = time.split(/[:,]/).map(Number);
    return (hours * 3600 + minutes * 60 + seconds) * 10 + thousandths / 100;
  };
  const shown = blocks.flatMap((block) => {
    const [, times = '', ...lines] = block.split('\n');
    const [from = 0, to = 0] = times.split(' --> ').map(tenthsOf);
    const frame = Math.ceil(from / 100) * 100;
    return frame < to ? [[frame, letters(lines.join(''))] as const] : [];
  });
  return Object.fromEntries(shown);
}

/** Of OCR, letters are expected, not the spaces and signs between them. */
const letters = (text: string) => text.replaceAll(/[\p{P}\p{S}\p{Z}]/gu, '');

interface Frame {
  frame_index: number;
  image_data: Buffer;
  width: number;
  height: number;
  file_size: number;
}

interface Box {
  frame_index: number;
  text: string;
  y: number;
  height: number;
}

function expectPictures(frames: readonly Frame[], width: number, height: number): void {
  for (const { image_data: data, ...frame } of frames) {
    expect(frame).toMatchObject({ width, height, file_size: data.length });
    // A whole JPEG, from its first marker to its last.
    expect([data[0], data[1], data.at(-2), data.at(-1)]).toEqual([0xff, 0xd8, 0xff, 0xd9]);
  }
}

describe.runIf(isPossible)('on a bare Debian 11', () => {
  let machine: Machine;
  let film = '';

  beforeAll(async () => {
    for (const packageName of names) {
      const file = path.join(packages, tarball(packageName));
      if (!existsSync(file)) throw new Error(`there is no ${file}: run "npm run package"`);
    }
    film = execFileSync('bash', ['scripts/captioned-film.sh'], { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] }).trim();
    machine = await Machine.start();
    for (const folder of ['home', 'app']) mkdirSync(path.join(machine.srv, folder));
    await machine.show(packages, 'packages');
    await installPackages('app');
    writeFileSync(path.join(machine.srv, 'app/run-flow.mjs'), runFlow);
  }, 600_000);

  afterEach(() => machine.clear());
  afterAll(() => machine?.stop());

  /**
   * As the README says: every tarball that was made, as optional ones, so that npm leaves out those of other platforms.
   * Without --offline, npm asks the registry for minutes whether it has these packages, too.
   */
  async function installPackages(folder: string): Promise<void> {
    const given = readdirSync(packages).filter((file) => file.endsWith('.tgz'));
    const installed = await machine.run(folder, 'npm', 'install', '--offline', '--save-optional', ...given.map((file) => `/srv/packages/${file}`));
    expect(saidBy(installed)).toContain('added 3 packages');
  }

  /** Every process that a test started has gone, or is about to: who ends closes its pipes first. */
  const expectQuiet = () => expect.poll(() => machine.processes(), { timeout: 10_000 }).toEqual([]);

  test('the packages ask for nothing that they do not bring, and run nothing when they are installed', async () => {
    // What npm wrote down is enough to install them again.
    expect(saidBy(await machine.run('app', 'npm', 'ci', '--offline'))).toContain('added 3 packages');
    saidBy(await machine.run('app', 'npm', 'ls', '--all'));
    const modules = path.join(machine.srv, 'app/node_modules');
    expect(readdirSync(path.join(modules, '@captionacc'))).toHaveLength(3);
    for (const packageName of names) {
      const manifest = JSON.parse(readFileSync(path.join(modules, packageName, 'package.json'), 'utf8')) as { scripts?: unknown };
      expect(manifest.scripts).toBeUndefined();
    }
    const modeOf = (file: string) => statSync(path.join(modules, file)).mode & 0o777;
    expect(modeOf(`${platformName}/captionacc`)).toBe(0o755);
    expect(modeOf(`${name}/bin/captionacc.js`)).toBe(0o755);
  });

  test('its binaries need the parts of glibc and nothing else', async () => {
    for (const file of ['captionacc', 'captionacc.node']) {
      const listed = saidBy(await machine.run(`app/node_modules/${platformName}`, 'ldd', file));
      expect(listed).not.toContain('not found');
      const libraries = listed.trim().split('\n').map((line) => path.basename(line.trim().split(' ')[0] ?? ''));
      expect(libraries.filter((library) => !/^(linux-vdso|ld-linux-[\w-]+|lib(c|m|dl|pthread|rt|util))\.so\.\d$/.test(library))).toEqual([]);
      expect(libraries).toContain('libc.so.6');
    }
  });

  test('it is imported and required, and both are one', async () => {
    for (const file of ['main.cjs', 'main.mjs', 'both.mjs', 'queue.mjs']) await machine.copy(path.join(root, '__test__/apps/tools', file), `app/${file}`);
    const home = { CAPTIONACC_HOME: '/srv/home/importing' };
    for (const file of ['main.mjs', 'main.cjs']) {
      const said = JSON.parse(saidBy(await machine.start('app', ['node', file], home).ended)) as unknown;
      expect(said).toEqual({ flowRunId: expect.any(String), state: 'Scheduled', refused: true });
    }
    expect(JSON.parse(saidBy(await machine.start('app', ['node', 'both.mjs'], home).ended))).toMatchObject({ differing: [] });
    expect(saidBy(await machine.start('app', ['npx', 'captionacc', 'runs'], home).ended)).toMatch(/full-frames[^]*full-frames/);
    await expectQuiet();
  });

  test('the command tells what is linked in, and finds nothing wrong', async () => {
    const told = saidBy(await machine.run('app', 'npx', 'captionacc', '--version', '--verbose'));
    expect(told).toMatch(new RegExp(`^captionacc ${version.replaceAll('.', '\\.')}\n`));
    for (const part of ['SQLite', 'libavformat', 'dav1d', 'zlib', 'rten', 'rustls', 'tokio']) expect(told).toContain(part);
    // What was found; the list of the settings comes after an empty line.
    const [findings = ''] = saidBy(await machine.run('app', 'npx', 'captionacc', 'doctor')).split('\n\n');
    const found = findings.trim().split('\n');
    expect(found.filter((line) => !line.startsWith('ok'))).toEqual([`captionacc ${version}`]);
    expect(found.find((line) => /^ok +ocr/.test(line))).toContain(`/srv/app/node_modules/${name}-models`);
  });

  test('a film goes through both flows, and its frames and captions are in annotations.db', async () => {
    mkdirSync(path.join(machine.srv, '第一 video'));
    const there = (file: string) => path.join(machine.srv, '第一 video', file);
    // As the web app makes it.
    const made = new Database(':memory:').exec(readFileSync(path.join(root, '__test__/fixtures/app-schema.sql'), 'utf8'));
    writeFileSync(there('annotations.db'), made.serialize());
    made.close();
    copyFileSync(film, there('a film.mp4'));

    const worker = machine.start('app', ['npx', 'captionacc', 'worker']);
    await worker.says('Worker started.');
    const video = { 'video-id': 'v1', 'video-path': '../第一 video/a film.mp4', 'db-path': '../第一 video/annotations.db', 'output-dir': '../第一 video/scratch' };
    for (const [flow, given] of [
      ['full-frames', video],
      ['crop-frames', { ...video, 'crop-bounds': captionRow }],
    ] as const) {
      const said = saidBy(await machine.run('app', 'node', 'run-flow.mjs', flow, JSON.stringify(given)));
      expect(JSON.parse(said), worker.stdout).toEqual({ state: 'Completed', attempt: 1 });
    }
    // npx dies of it; the worker sees that it is alone, and ends well. Both hold this pipe.
    machine.signal(worker, 'SIGTERM');
    expect(`${(await worker.ended).stdout}${worker.stderr}`).toContain('Worker stopped.');
    await expectQuiet();

    // No scratch, no journal: all of it is in one file.
    expect(readdirSync(there('')).toSorted()).toEqual(['a film.mp4', 'annotations.db']);
    const written = new Database(readFileSync(there('annotations.db')));
    try {
      expect(written.pragma('integrity_check', { simple: true })).toBe('ok');
      expect(written.prepare('SELECT status FROM processing_status').pluck().all()).toEqual(['processing_complete']);
      expect(written.prepare('SELECT status FROM crop_frames_status').pluck().all()).toEqual(['complete']);

      const frames = written.prepare('SELECT * FROM full_frames ORDER BY frame_index').all() as Frame[];
      expect(frames.map(({ frame_index: index }) => index)).toEqual(Array.from({ length: 19 }, (_, place) => place * 100));
      expectPictures(frames, filmWidth, filmHeight);
      // The film has text of its own, elsewhere.
      const boxes = written.prepare('SELECT * FROM full_frame_ocr ORDER BY frame_index, box_index').all() as Box[];
      const read: Record<number, string> = {};
      for (const { frame_index: index, text, y, height } of boxes) {
        const middle = filmHeight * (1 - y - height / 2);
        if (middle > captionRow.top + 10) read[index] = `${read[index] ?? ''}${letters(text)}`;
      }
      const captions = writtenCaptions();
      expect(Object.keys(captions)).toHaveLength(12);
      expect(read).toEqual(captions);

      const strips = written.prepare('SELECT * FROM cropped_frames ORDER BY frame_index').all() as Frame[];
      expect(strips.map(({ frame_index: index }) => index)).toEqual(Array.from({ length: 1803 }, (_, place) => place));
      expectPictures(strips, filmWidth, captionRow.bottom - captionRow.top);
    } finally {
      written.close();
    }
  });

  test('an app of React Router is built on it there, and queues a run when it is asked', async () => {
    // Of a workspace, which has the tools: they cannot be installed without a network, so they are named afterwards.
    await machine.show(path.join(await install('react-router'), 'node_modules'), 'workspace/node_modules');
    mkdirSync(path.join(machine.srv, 'workspace/web'));
    for (const file of ['app', 'vite.config.ts']) await machine.copy(path.join(root, '__test__/apps/react-router', file), `workspace/web/${file}`);
    const web = path.join(machine.srv, 'workspace/web');
    writeFileSync(path.join(web, 'package.json'), '{ "name": "web", "private": true, "type": "module" }');
    await installPackages('workspace/web');
    const tools = JSON.parse(readFileSync(path.join(root, '__test__/apps/react-router/package.json'), 'utf8')) as { dependencies: object };
    changeManifest(web, (manifest) => {
      manifest.dependencies = { ...(manifest.dependencies as object), ...tools.dependencies };
    });
    const start = (file: string, given: string[], environment: Record<string, string>) =>
      machine.start('workspace/web', ['node', `../node_modules/@react-router/${file}`, ...given], environment);
    const built = await start('dev/bin.js', ['build'], { NO_COLOR: '1' }).ended;
    expect(built.code, built.stderr).toBe(0);
    const home = { CAPTIONACC_HOME: '/srv/home/routing', NODE_ENV: 'production' };
    const server = start('serve/dist/cli.js', ['build/server/index.js'], home);
    await server.says('http://');
    const ask = "fetch('http://localhost:3000/?index', { method: 'POST', body: new URLSearchParams({ video: 'posted' }) }).then((answer) => answer.text()).then(console.log)";
    const page = saidBy(await machine.run('app', 'node', '--eval', ask));
    const queued = /<p id="says">Scheduled ([0-9a-f-]+)<\/p>/.exec(page)?.[1] ?? page;
    expect(saidBy(await machine.start('app', ['npx', 'captionacc', 'runs', 'show', queued], home).ended)).toContain('posted');
    expect(server.stderr).toBe('');
    machine.signal(server, 'SIGTERM');
    await server.ended;
    await expectQuiet();
  });

  test('it works from a node_modules that nobody can write', async () => {
    mkdirSync(path.join(machine.srv, 'read-only'));
    await machine.show(path.join(machine.srv, 'app/node_modules'), 'read-only/node_modules');
    expect((await machine.run('read-only/node_modules', 'touch', 'file')).stderr).toContain('Read-only file system');
    await machine.copy(path.join(machine.srv, 'app/run-flow.mjs'), 'read-only/run-flow.mjs');
    copyFileSync(film, path.join(machine.srv, 'read-only/film.mp4'));
    const home = { CAPTIONACC_HOME: '/srv/home/read-only' };
    const given = { 'video-id': 'v1', 'video-path': 'film.mp4', 'db-path': 'annotations.db', 'output-dir': 'scratch', 'crop-bounds': captionRow, 'frame-rate': 1 };
    const queueing = machine.start('read-only', ['node', 'run-flow.mjs', 'crop-frames', JSON.stringify(given)], home);
    const worker = await machine.start('read-only', ['npx', 'captionacc', 'worker', '--once'], home).ended;
    expect(worker.code, worker.stderr).toBe(0);
    expect(JSON.parse(saidBy(await queueing.ended))).toEqual({ state: 'Completed', attempt: 1 });
    await expectQuiet();
  });

  test('without its optional dependency, it is one error that says what to do', async () => {
    mkdirSync(path.join(machine.srv, 'omitted'));
    const installed = await machine.run('omitted', 'npm', 'install', '--offline', '--omit=optional', `/srv/packages/${tarball(name)}`);
    expect(saidBy(installed)).toContain('added 1 package');
    const command = await machine.run('omitted', 'npx', 'captionacc', 'doctor');
    expect(command).toMatchObject({ code: 1, stdout: '' });
    const { error } = JSON.parse(command.stderr) as { error: { code: string; message: string } };
    expect(error.code).toBe('ERR_CAPTIONACC_LOAD_NOT_INSTALLED');
    expect(error.message).toContain(`${platformName} is not installed beside /srv/omitted/node_modules/${name}`);
    expect(error.message).toContain(`npm install --include=optional --save-optional ${platformName}@${version}`);
    for (const load of [`import('${name}').catch`, `new Promise(() => require('${name}')).catch`]) {
      const said = saidBy(await machine.run('omitted', 'node', '--eval', `${load}(({ code, message }) => console.log(JSON.stringify({ code, message })))`));
      expect(JSON.parse(said)).toEqual({ code: error.code, message: error.message });
    }
    await expectQuiet();
  });
});
