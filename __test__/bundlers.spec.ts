// The package in the hands of the tools that apps are made with, none of them configured for it: each app queues a run and
// reads it back.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';

import { getFlowRun } from '@captionacc/orchestrator';
import { beforeAll, beforeEach, describe, expect, test } from 'vitest';

import { install, makeApp, nodeOf, type Tools } from './support/apps.js';
import { freshHome } from './support/home.js';
import { root, Running } from './support/processes.js';

beforeAll(async () => {
  for (const tools of ['tools', 'react-router', 'nodes'] as const) await install(tools);
}, 600_000);

beforeEach(() => {
  freshHome();
  // Of this test run, and nothing that an app should see.
  for (const variable of Object.keys(process.env)) if (/^(VITEST|NODE_ENV$|TEST$|PROD$|DEV$|SSR$|MODE$|BASE_URL$)/.test(variable)) delete process.env[variable];
  process.env.NO_COLOR = '1';
});

/** A program of the app's tools. */
function start(app: string, program: string, ...given: string[]): Running {
  return new Running(process.execPath, [path.join(app, '../../node_modules', program), ...given], { cwd: app });
}

/** What a program says when it ends well, and without a word of warning. */
async function output(running: Running): Promise<string> {
  const ended = await running.ended;
  expect(ended).toMatchObject({ code: 0, stderr: '' });
  expect(ended.stdout).not.toMatch(/warn/i);
  return ended.stdout;
}

const runNode = (app: string, file: string, node = process.execPath) => output(new Running(node, [file], { cwd: app }));

/** That these lines are what apps say who have queued a run each. */
async function expectQueued(lines: string, count = 1): Promise<void> {
  const queued = lines.split('\n').filter((line) => line.startsWith('{'));
  expect(queued, lines).toHaveLength(count);
  for (const line of queued) {
    const { flowRunId, ...others } = JSON.parse(line) as { flowRunId: string };
    expect(others).toEqual({ state: 'Scheduled', refused: true });
    expect((await getFlowRun(flowRunId)).flowRunId).toBe(flowRunId);
  }
}

/** Where a server says that it listens. */
async function address(server: Running): Promise<string> {
  await server.says('http://');
  return /http:\/\/[^\s/]+:\d+/.exec(server.stdout)?.[0] ?? '';
}

describe.each(['linked', 'installed'] as const)('%s', (way) => {
  test.runIf(process.platform === 'linux' && process.arch === 'x64').each([20, 22, 24, 26])(
    'Node %i imports and requires it, and both are one',
    async (version) => {
      const app = await makeApp(way, 'tools');
      const node = await nodeOf(version);
      await expectQueued(await runNode(app, 'main.mjs', node));
      await expectQueued(await runNode(app, 'main.cjs', node));
      expect(JSON.parse(await runNode(app, 'both.mjs', node))).toEqual({ names: 11, differing: [] });
    },
  );

  test('worker threads and the main thread use it side by side', async () => {
    await expectQueued(await runNode(await makeApp(way, 'tools'), 'threads.mjs'), 3);
  });

  test('tsx runs it', async () => {
    await expectQueued(await output(start(await makeApp(way, 'tools'), 'tsx/dist/cli.mjs', 'main.ts')));
  });

  test('a vitest of the app runs it', async () => {
    const app = await makeApp(way, 'tools');
    await expectQueued(await output(start(app, 'vitest/vitest.mjs', 'run', '--root', app, '--disable-console-intercept')));
  });

  test.each(['cjs', 'esm'])('esbuild bundles it to %s, imported and required', async (format) => {
    const app = await makeApp(way, 'tools');
    const extension = { cjs: 'cjs', esm: 'mjs' }[format] ?? '';
    for (const entry of ['main.mjs', 'main.cjs']) {
      const bundle = `dist/${entry}.${extension}`;
      const built = start(app, 'esbuild/bin/esbuild', entry, '--bundle', '--platform=node', `--format=${format}`, `--outfile=${bundle}`, '--log-level=warning');
      expect(await output(built)).toBe('');
      await expectQueued(await runNode(app, bundle));
    }
  });

  test('webpack bundles it, imported and required', async () => {
    const app = await makeApp(way, 'tools');
    expect(await output(new Running(process.execPath, ['-e', webpackRun], { cwd: app }))).toBe('[]\n');
    for (const bundle of readdirSync(path.join(app, 'dist'))) await expectQueued(await runNode(app, `dist/${bundle}`));
  });

  describe.each([
    [7, 'react-router'],
    [8, 'tools'],
  ] as const)('Vite %i', (version: number, tools: Tools) => {
    test('serves it in development, builds it, and serves the build', async () => {
      const app = await makeApp(way, tools, 'tools');
      const installed = JSON.parse(readFileSync(path.join(app, '../../node_modules/vite/package.json'), 'utf8')) as { version: string };
      expect(installed.version).toMatch(`${version}.`);
      const development = start(app, 'vite/bin/vite.js', '--port', '0', '--host', '127.0.0.1');
      await expectQueued(await (await fetch(`${await address(development)}/queue`)).text());
      expect(development.stderr).toBe('');
      await output(start(app, 'vite/bin/vite.js', 'build'));
      const preview = start(app, 'vite/bin/vite.js', 'preview', '--port', '0', '--host', '127.0.0.1');
      await expectQueued(await (await fetch(`${await address(preview)}/queue`)).text());
      expect(preview.stderr).toBe('');
    });
  });

  test('React Router in framework mode serves it in development, builds it, and serves the build', async () => {
    const app = await makeApp(way, 'react-router');
    const expectServed = async (server: Running): Promise<void> => {
      const url = await address(server);
      const answer = await fetch(`${url}/?index`, { method: 'POST', body: new URLSearchParams({ video: 'posted' }) });
      const said = /<p id="says">Scheduled ([0-9a-f-]+)<\/p>/.exec(await answer.text())?.[1] ?? server.stderr;
      expect((await getFlowRun(said)).state.name).toBe('Scheduled');
      // The loader of another request sees it.
      expect(await (await fetch(url)).text()).toContain(said);
      const refused = await fetch(`${url}/?index`, { method: 'POST', body: new URLSearchParams({ video: '' }) });
      expect(await refused.text()).toContain('ERR_CAPTIONACC_INVALID_ARGUMENT');
      expect(server.stderr).toBe('');
    };
    await expectServed(start(app, '@react-router/dev/bin.js', 'dev', '--host', '127.0.0.1', '--port', '0'));
    const built = await start(app, '@react-router/dev/bin.js', 'build').ended;
    expect(built.code, built.stderr).toBe(0);
    // It warns of its own future, and of nothing else.
    expect(`${built.stdout}${built.stderr}`).not.toContain('captionacc');
    const client = path.join(app, 'build/client/assets');
    // Nothing of it is in what browsers get.
    expect(readdirSync(client).filter((file) => readFileSync(path.join(client, file), 'utf8').includes('captionacc'))).toEqual([]);
    expect(existsSync(path.join(app, 'build/server/index.js'))).toBe(true);
    process.env.NODE_ENV = 'production';
    await expectServed(start(app, '@react-router/serve/dist/cli.js', 'build/server/index.js'));
  });
});

test.each([
  ['nodenext', ['--module', 'nodenext']],
  ['bundler', ['--module', 'esnext', '--moduleResolution', 'bundler']],
  ['commonjs', ['--module', 'commonjs']],
])('its types are found by a compiler set to %s', async (_, options) => {
  const app = await makeApp('installed', 'tools');
  const types = ['--typeRoots', path.join(root, 'node_modules/@types'), '--types', 'node'];
  const compiler = path.join(root, 'node_modules/typescript/bin/tsc');
  const compiled = new Running(process.execPath, [compiler, '--noEmit', '--strict', '--target', 'es2022', ...types, ...options, 'main.ts'], { cwd: app });
  expect(await output(compiled)).toBe('');
});

const webpackRun = `(async () => {
  const { default: webpack } = await import('webpack');
  const { default: configuration } = await import(process.cwd() + '/webpack.config.mjs');
  webpack(configuration, (error, stats) => {
    if (error) throw error;
    const { children } = stats.toJson({ all: false, errors: true, warnings: true });
    console.log(JSON.stringify(children.flatMap(({ errors, warnings }) => [...errors, ...warnings])));
  });
})();`;
