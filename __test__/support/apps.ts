// Apps that use this package with the tools of the trade: __test__/apps/ has them and the tools, from the registry.

import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';

import { afterAll } from 'vitest';

import { afterTest } from './home.js';
import { root } from './processes.js';

const fixtures = path.join(root, '__test__/apps');
const cache = path.join(process.env.CAPTIONACC_CACHE ?? path.join(root, '.cache'), 'apps');
const name = '@captionacc/orchestrator';
const run = promisify(execFile);

/** A folder of __test__/apps with a lock file. */
export type Tools = 'nodes' | 'react-router' | 'tools';

/** How an app came to the package: a link to the checkout, as in a workspace, or the files that npm unpacks. */
export type Way = 'linked' | 'installed';

/** The folder whose node_modules holds these tools; installed once for each content of the lock file. */
export async function install(tools: Tools): Promise<string> {
  const files = ['package.json', 'package-lock.json', '.npmrc'].map((file) => path.join(fixtures, tools, file));
  const digest = createHash('sha256');
  for (const file of files) digest.update(readFileSync(file));
  const folder = path.join(cache, `${tools}-${digest.digest('hex').slice(0, 12)}`);
  if (existsSync(folder)) return folder;
  mkdirSync(cache, { recursive: true });
  const unfinished = mkdtempSync(`${folder}-`);
  try {
    for (const file of files) cpSync(file, path.join(unfinished, path.basename(file)));
    await run('npm', ['ci', '--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund'], { cwd: unfinished });
    mkdirSync(path.join(unfinished, 'apps'));
    renameSync(unfinished, folder);
  } catch (error) {
    // Where another process was quicker, its folder is the one.
    if (!existsSync(folder)) throw error;
  } finally {
    rmSync(unfinished, { recursive: true, force: true });
  }
  return folder;
}

/** A Node of that major version, of those in __test__/apps/nodes. */
export async function nodeOf(version: number): Promise<string> {
  return path.join(await install('nodes'), `node_modules/node-${version}/bin/node`);
}

/** The name of the platform of this machine, as its package is called. */
export const platform = `${process.platform}-${process.arch}${process.platform === 'linux' ? '-gnu' : ''}`;

/** Where `npm run package` puts its tarballs, unless this says otherwise. */
const tarballs = process.env.CAPTIONACC_PACKAGES ?? path.join(root, 'dist/packages');

let unpacking: Promise<string> | undefined;
let unpacked = '';
afterAll(() => {
  if (unpacked !== '') rmSync(unpacked, { recursive: true });
});

/** A node_modules with the main package and that of this platform, as `npm run package` made them. */
async function unpack(): Promise<string> {
  mkdirSync(cache, { recursive: true });
  const folder = mkdtempSync(path.join(cache, 'packages-'));
  unpacked = folder;
  const { version } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as { version: string };
  for (const packageName of [name, `${name}-${platform}`]) {
    const tarball = path.join(tarballs, `${packageName.slice(1).replace('/', '-')}-${version}.tgz`);
    if (!existsSync(tarball)) throw new Error(`there is no ${tarball}: run "npm run package"`);
    const target = path.join(folder, packageName);
    mkdirSync(target, { recursive: true });
    await run('tar', ['-xzf', tarball, '-C', target, '--strip-components=1']);
  }
  for (const file of ['index.js', 'index.mjs', ...readdirSync(path.join(root, 'lib')).map((module) => `lib/${module}`)]) {
    if (readFileSync(path.join(root, file), 'utf8') === readFileSync(path.join(folder, name, file), 'utf8')) continue;
    throw new Error(`${file} is another one than in ${tarballs}: run "npm run package"`);
  }
  return folder;
}

/** Puts the main package and that of this platform into a folder's node_modules, as copies. */
export async function installInto(folder: string): Promise<void> {
  unpacking ??= unpack();
  cpSync(await unpacking, path.join(folder, 'node_modules'), { recursive: true });
}

/** Changes a package.json. */
export function changeManifest(folder: string, change: (manifest: Record<string, unknown>) => void): void {
  const file = path.join(folder, 'package.json');
  const manifest = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
  change(manifest);
  writeFileSync(file, JSON.stringify(manifest));
}

/**
 * An app of a workspace, for the current test: its tools lie in the workspace's node_modules. Its folder has a name that
 * not every program can stand.
 *
 * @param sources the folder of __test__/apps whose sources it has
 */
export async function makeApp(way: Way, tools: Tools, sources: Tools = tools): Promise<string> {
  const folder = mkdtempSync(path.join(await install(tools), 'apps', 'Málaga web app-'));
  afterTest(() => rmSync(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 }));
  cpSync(path.join(fixtures, sources), folder, { recursive: true, filter: (file) => !/package-lock\.json$|\.npmrc$/.test(file) });
  changeManifest(folder, (manifest) => {
    manifest.name = 'app';
    delete manifest.workspaces;
  });
  if (way === 'installed') {
    await installInto(folder);
  } else {
    mkdirSync(path.join(folder, 'node_modules/@captionacc'), { recursive: true });
    symlinkSync(root, path.join(folder, 'node_modules', name));
  }
  return folder;
}
