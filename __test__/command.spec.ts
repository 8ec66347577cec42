// The `captionacc` command as npm installs it, and `npm run worker`: who gets the signals, and what is left behind.

import { chmodSync, copyFileSync, cpSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { listFlowRuns } from '@captionacc/orchestrator';
import { beforeEach, describe, expect, test } from 'vitest';

import { freshHome, temporaryFolder } from './support/home.js';
import { isAlive, root, Running } from './support/processes.js';

const shim = path.join(root, 'bin/captionacc.js');

beforeEach(() => {
  freshHome();
});

/** The shim over a program of our own in place of the binary. */
function shimOver(script: string): string {
  const folder = temporaryFolder();
  cpSync(path.join(root, 'bin'), path.join(folder, 'bin'), { recursive: true });
  cpSync(path.join(root, 'lib'), path.join(folder, 'lib'), { recursive: true });
  copyFileSync(path.join(root, 'package.json'), path.join(folder, 'package.json'));
  mkdirSync(path.join(folder, 'dist'));
  writeFileSync(path.join(folder, 'dist/captionacc'), `#!/bin/sh\n${script}\n`);
  chmodSync(path.join(folder, 'dist/captionacc'), 0o755);
  return path.join(folder, 'bin/captionacc.js');
}

describe('bin/captionacc.js', () => {
  test('is the binary: arguments, output and exit code pass through', async () => {
    const ended = await new Running(process.execPath, [shim, '--version']).ended;
    expect(ended).toMatchObject({ code: 0, stderr: '' });
    expect(ended.stdout).toMatch(/^captionacc \d+\.\d+\.\d+\n$/);
    const echo = shimOver('printf "%s|" "$@"; exit 7');
    expect(await new Running(process.execPath, [echo, '--a b', '', '-']).ended).toMatchObject({ code: 7, stdout: '--a b||-|' });
  });

  test('is found through the link that npm makes', async () => {
    const link = path.join(temporaryFolder(), 'captionacc');
    symlinkSync(shim, link);
    chmodSync(shim, 0o755);
    expect((await new Running(link, ['--version']).ended).code).toBe(0);
  });

  test.each(['SIGTERM', 'SIGINT', 'SIGHUP'] as const)('%s reaches the program, which ends it in its own way', async (signal) => {
    const name = signal.slice(3);
    const running = new Running(process.execPath, [shimOver(`trap 'echo got ${name}; exit 3' ${name}; echo ready; for i in $(seq 2000); do sleep 0.01; done`)]);
    await running.says('ready');
    running.child.kill(signal);
    expect(await running.ended).toMatchObject({ code: 3, stdout: `ready\ngot ${name}\n` });
  });

  test('a program that dies of a signal takes the command with it, by the same signal', async () => {
    expect(await new Running(process.execPath, [shimOver('kill -KILL $$')]).ended).toMatchObject({ code: null, signal: 'SIGKILL' });
    expect(await new Running(process.execPath, [shimOver('kill -TERM $$')]).ended).toMatchObject({ code: null, signal: 'SIGTERM' });
  });

  test('a worker that is started by it drains on SIGTERM', async () => {
    const running = new Running(process.execPath, [shim, 'worker']);
    await running.says('Worker started.');
    running.child.kill('SIGTERM');
    const ended = await running.ended;
    expect(ended).toMatchObject({ code: 0, signal: null });
    expect(ended.stderr).toContain('Worker stopped.');
  });
});

test('a worker of `npm run worker` ends when npm is killed, which tells it nothing', async () => {
  const running = new Running('npm', ['run', '--silent', 'worker', '--', '--name', 'of-npm'], { env: { CAPTIONACC_NO_BUILD: '1' } });
  await running.says('Worker started.');
  running.child.kill('SIGKILL');
  const { stderr } = await running.ended;
  // Its output is closed only now: it has ended, and well.
  expect(stderr).toContain('Worker stopped.');
  expect(isAlive(running.child.pid ?? 0)).toBe(false);
  expect(await listFlowRuns()).toEqual([]);
});
