import { mkdtempSync, realpathSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';

import type { VideoArguments } from '@captionacc/orchestrator';
import { afterEach } from 'vitest';

const removals: (() => void)[] = [];

afterEach(() => {
  for (const remove of removals.splice(0).toReversed()) remove();
});

/** Runs `action` when the current test has ended, however it ended; the last one given runs first. */
export function afterTest(action: () => void): void {
  removals.push(action);
}

/** A folder of its own for the current test. */
export function temporaryFolder(): string {
  const folder = realpathSync(mkdtempSync(path.join(os.tmpdir(), 'captionacc-')));
  afterTest(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Gives this process an empty queue of its own for the current test. Returns its folder. */
export function freshHome(): string {
  const home = temporaryFolder();
  // A setting of the machine must not reach a test.
  for (const name of Object.keys(process.env)) {
    if (name.startsWith('CAPTIONACC_') && name !== 'CAPTIONACC_FILMS') delete process.env[name];
    if (name.startsWith('PREFECT_')) delete process.env[name];
  }
  process.env.CAPTIONACC_HOME = home;
  process.env.CAPTIONACC_ORCHESTRATOR = 'embedded';
  return home;
}

/** Arguments of a `full-frames` run that nothing will run. */
export function someArguments(extra: Partial<VideoArguments> = {}): VideoArguments {
  return {
    'video-id': 'video-1',
    'video-path': '/videos/1.mp4',
    'db-path': '/videos/annotations.db',
    'output-dir': '/videos/scratch',
    ...extra,
  };
}
