// The package of linux-arm64-gnu, which is built across: under qemu, with no other part of that system than glibc and Node.js.

import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import Database from 'better-sqlite3';
import { beforeAll, describe, expect, test } from 'vitest';

import { freshHome, temporaryFolder } from './support/home.js';
import { root, Running } from './support/processes.js';
import { chineseFont, filmWith } from './support/web-app.js';

const name = '@captionacc/orchestrator';
const packages = process.env.CAPTIONACC_PACKAGES ?? path.join(root, 'dist/packages');
const { version } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as { version: string };
const tarball = (packageName: string) => path.join(packages, `${packageName.slice(1).replace('/', '-')}-${version}.tgz`);

const isPossible = process.platform === 'linux' && process.arch === 'x64';
if (!isPossible) process.stderr.write('skipped: the package for arm64 is built across, and tried under qemu, on Linux x64\n');

describe.runIf(isPossible)('on 64-bit ARM', () => {
  let system = '';

  beforeAll(() => {
    if (!existsSync(tarball(`${name}-linux-arm64-gnu`))) throw new Error('there is no package for arm64: run "npm run package -- linux-arm64-gnu"');
    system = execFileSync('bash', ['scripts/arm64-root.sh'], { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] }).trim();
  }, 300_000);

  /** An app that has the packages. */
  function makeApp(): string {
    const app = temporaryFolder();
    for (const packageName of [name, `${name}-linux-arm64-gnu`, `${name}-models`]) {
      const folder = path.join(app, 'node_modules', packageName);
      mkdirSync(folder, { recursive: true });
      execFileSync('tar', ['-xzf', tarball(packageName), '-C', folder, '--strip-components=1']);
    }
    return app;
  }

  /** What a program of the app says, which ends well. */
  async function run(app: string, ...command: string[]): Promise<string> {
    const ended = await new Running('bash', [path.join(root, 'scripts/on-arm64.sh'), system, ...command], { cwd: app }).ended;
    expect({ code: ended.code, signal: ended.signal }, ended.stderr).toEqual({ code: 0, signal: null });
    return ended.stdout;
  }

  test('a run is queued from Node, and the worker takes a film through both flows', async () => {
    freshHome();
    const app = makeApp();
    const film = filmWith([{ text: '我们合作 work together', font: chineseFont, size: 36, x: 60, y: 200, from: 0, to: 10 }]);
    const video = { 'video-id': 'v', 'video-path': film, 'db-path': path.join(app, 'annotations.db'), 'output-dir': path.join(app, 'scratch') };
    const bounds = { left: 40, top: 190, right: 600, bottom: 260 };
    writeFileSync(
      path.join(app, 'queue.mjs'),
      `import { queuePrefectFlow } from '${name}';
       await queuePrefectFlow('full-frames', ${JSON.stringify(video)});
       await queuePrefectFlow('crop-frames', ${JSON.stringify({ ...video, 'crop-bounds': bounds, 'frame-rate': 2 })});
       console.log(process.arch);`,
    );
    expect(await run(app, path.join(system, 'usr/bin/node'), 'queue.mjs')).toBe('arm64\n');

    const binary = path.join(app, 'node_modules', `${name}-linux-arm64-gnu`, 'captionacc');
    expect(await run(app, binary, '--version', '--verbose')).toContain('target aarch64-unknown-linux-gnu');
    await run(app, binary, 'worker', '--once');

    const database = new Database(video['db-path'], { readonly: true });
    try {
      const one = (text: string) => database.prepare(text).pluck().get();
      expect(one('SELECT status FROM processing_status')).toBe('processing_complete');
      expect(one('SELECT status FROM crop_frames_status')).toBe('complete');
      expect(one('SELECT count(*) FROM cropped_frames')).toBe(20);
      const texts = database.prepare('SELECT text FROM full_frame_ocr WHERE frame_index = 0 ORDER BY box_index').pluck().all();
      expect(texts.join('').replaceAll(' ', '')).toContain('我们合作');
    } finally {
      database.close();
    }
  }, 600_000);
});
