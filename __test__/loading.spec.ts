// The package where it cannot be loaded, or only just: each failure is one error that names the platform, what was looked
// for and what helps, and Node lives on.

import { chmodSync, cpSync, mkdirSync, readFileSync, realpathSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { beforeAll, beforeEach, describe, expect, test } from 'vitest';

import { changeManifest, install, installInto, nodeOf, platform } from './support/apps.js';
import { freshHome, temporaryFolder } from './support/home.js';
import { root, Running, type Ended } from './support/processes.js';

const name = '@captionacc/orchestrator';
const platformName = `${name}-${platform}`;
const { version } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as { version: string };

beforeAll(async () => {
  for (const tools of ['tools', 'nodes'] as const) await install(tools);
}, 600_000);

beforeEach(() => {
  freshHome();
});

/** A folder with the packages in its node_modules. */
async function installation(): Promise<string> {
  const folder = temporaryFolder();
  await installInto(folder);
  return folder;
}

const installed = (folder: string, ...below: string[]) => path.join(folder, 'node_modules', ...below);

interface Options {
  node?: string;
  given?: string[];
  /** Runs before everything else. */
  before?: string;
}

function start(folder: string, code: string, { node = process.execPath, given = [], before }: Options = {}): Promise<Ended> {
  const file = path.join(folder, `main-${Math.random()}.cjs`);
  writeFileSync(file, `${before ?? ''};${code}`);
  return new Running(node, [...given, file], { cwd: folder }).ended;
}

interface Failure {
  name: string;
  code: string;
  message: string;
  retryable: boolean;
}

/** How loading fails, which is the same for `import`, `require` and the command. */
async function failureOf(folder: string, options: Options = {}): Promise<Failure> {
  const show = '(error) => console.log(JSON.stringify({ name: error.name, code: error.code, message: error.message, retryable: error.retryable }))';
  const required = await start(folder, `try { require('${name}') } catch (error) { (${show})(error) }`, options);
  expect(required).toMatchObject({ code: 0, signal: null, stderr: '' });
  const imported = await start(folder, `import('${name}').catch(${show})`, options);
  expect(imported).toMatchObject({ code: 0, signal: null, stderr: '' });
  expect(imported.stdout).toBe(required.stdout);
  return JSON.parse(required.stdout) as Failure;
}

async function expectFailure(folder: string, reason: string, options: Options = {}): Promise<string> {
  const { message, ...others } = await failureOf(folder, options);
  expect(others, message).toEqual({ name: 'OrchestratorError', code: `ERR_CAPTIONACC_LOAD_${reason}`, retryable: false });
  // One line, which names where it is.
  expect(message).not.toContain('\n');
  expect(message).toMatch(/\w+-x64|\w+-arm64/);
  return message;
}

/** What the command tells of the same failure, on stderr. */
async function expectOfCommand(folder: string, reason: string, options: Options = {}): Promise<string> {
  const command = installed(folder, name, 'bin/captionacc.js');
  const ended = await start(folder, `process.argv[1] = ${JSON.stringify(command)}; require(process.argv[1])`, options);
  expect(ended).toMatchObject({ code: 1, signal: null, stdout: '' });
  const { error } = JSON.parse(ended.stderr) as { error: Failure };
  expect(error).toEqual({ code: `ERR_CAPTIONACC_LOAD_${reason}`, message: expect.any(String), retryable: false });
  return error.message;
}

const listing = `require('${name}').listFlowRuns().then((runs) => console.log(runs.length))`;

describe('an installation works', () => {
  test('as npm makes it, and the command with it', async () => {
    const folder = await installation();
    expect(await start(folder, listing)).toMatchObject({ code: 0, stdout: '0\n', stderr: '' });
    const command = await new Running(process.execPath, [installed(folder, name, 'bin/captionacc.js'), '--version']).ended;
    expect(command).toMatchObject({ code: 0, stdout: expect.stringContaining(version), stderr: '' });
  });

  test('after its folder was moved, to a name with spaces, accents and signs', async () => {
    const folder = await installation();
    const moved = path.join(temporaryFolder(), 'Málaga, [new] #1 %20');
    renameSync(path.join(folder, 'node_modules'), path.join(folder, 'moving'));
    mkdirSync(moved);
    cpSync(path.join(folder, 'moving'), path.join(moved, 'node_modules'), { recursive: true });
    rmSync(path.join(folder, 'moving'), { recursive: true });
    expect(await start(moved, listing)).toMatchObject({ code: 0, stdout: '0\n', stderr: '' });
    expect(await start(moved, `import('${name}').then((all) => all.listFlowRuns()).then(console.log)`)).toMatchObject({ code: 0, stdout: '[]\n' });
  });

  test('where nobody may write', async () => {
    const folder = await installation();
    writeFileSync(path.join(folder, 'main.cjs'), listing);
    await new Running('chmod', ['-R', 'a-w,a+rX', folder]).ended;
    chmodSync(process.env.CAPTIONACC_HOME ?? '', 0o777);
    const asNobody = process.getuid?.() === 0 ? ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups', '--'] : [];
    const [program = '', ...given] = [...asNobody, process.execPath, path.join(folder, 'main.cjs')];
    const ended = await new Running(program, given, { cwd: '/' }).ended;
    await new Running('chmod', ['-R', 'u+w', folder]).ended;
    expect(ended).toMatchObject({ code: 0, stdout: '0\n', stderr: '' });
  });

  test('with the links of pnpm: each package in a folder of its own, its dependencies beside it', async () => {
    const folder = temporaryFolder();
    const store = installed(folder, '.pnpm');
    const of = (packageName: string) => path.join(store, `${packageName.replace('/', '+')}@${version}/node_modules`, packageName);
    const beside = await installation();
    for (const packageName of [name, platformName]) cpSync(installed(beside, packageName), of(packageName), { recursive: true });
    symlinkSync(of(platformName), path.join(path.dirname(of(name)), path.basename(platformName)));
    mkdirSync(installed(folder, '@captionacc'));
    symlinkSync(of(name), installed(folder, name));
    expect(await start(folder, listing)).toMatchObject({ code: 0, stdout: '0\n', stderr: '' });
    expect(await start(folder, `import('${name}').then((all) => all.listFlowRuns()).then(console.log)`)).toMatchObject({ code: 0, stdout: '[]\n' });
  });
});

describe('a machine that it is not made for', () => {
  const systems = {
    'win32-x64': "Object.defineProperty(process, 'platform', { value: 'win32' }); Object.defineProperty(process, 'arch', { value: 'x64' })",
    'linux-x64-musl': `Object.defineProperty(process, 'arch', { value: 'x64' });
      const fs = require('node:fs');
      const read = fs.readFileSync;
      fs.readFileSync = (file, ...given) => {
        const text = read(file, ...given);
        return file === '/proc/self/maps' ? text + '7f0000000000-7f0000001000 r-xp 00000000 08:01 42    /lib/ld-musl-x86_64.so.1\\n' : text;
      }`,
  };

  test.each(Object.entries(systems))('%s: the error says which it is made for', async (system, before) => {
    const folder = await installation();
    const message = await expectFailure(folder, 'PLATFORM', { before });
    expect(message).toContain(`not for ${system}, Node ${process.version}`);
    expect(message).toContain('linux-x64-gnu');
    expect(message.includes('node:22-bookworm-slim')).toBe(system.includes('musl'));
    expect(await expectOfCommand(folder, 'PLATFORM', { before })).toBe(message);
  });

  test('an old glibc: the error says what is needed', async () => {
    const folder = await installation();
    const addon = installed(folder, platformName, 'captionacc.node');
    const versions = readFileSync(addon, 'latin1').replaceAll(/GLIBC_2\.\d\d(?=\0)/g, 'GLIBC_2.99');
    writeFileSync(addon, versions, 'latin1');
    const message = await expectFailure(folder, 'LIBC');
    expect(message).toContain(addon);
    expect(message).toContain('GLIBC_2.99');
  });

  test.runIf(process.platform === 'linux' && process.arch === 'x64')('an old Node: the error says which is needed', async () => {
    const folder = await installation();
    const node = await nodeOf(18);
    const message = await expectFailure(folder, 'NODE_VERSION', { node });
    expect(message).toContain('needs Node.js 20 or newer, and this is v18.');
    expect(await expectOfCommand(folder, 'NODE_VERSION', { node })).toBe(message);
  });
});

describe('an installation that is not whole', () => {
  test('without the package of the platform: the error has the command that installs it', async () => {
    const folder = await installation();
    rmSync(installed(folder, platformName), { recursive: true });
    const message = await expectFailure(folder, 'NOT_INSTALLED');
    expect(message).toContain(`${platformName} is not installed beside ${installed(folder, name)}`);
    expect(message).toContain(`npm install --include=optional --save-optional ${platformName}@${version}`);
    expect(await expectOfCommand(folder, 'NOT_INSTALLED')).toBe(message);
  });

  test('with a platform package of another version: the error names both', async () => {
    const folder = await installation();
    changeManifest(installed(folder, platformName), (manifest) => (manifest.version = '0.0.9'));
    const message = await expectFailure(folder, 'VERSION');
    expect(message).toContain(`${name} is version ${version}`);
    expect(message).toContain(`${platformName} is version 0.0.9`);
    expect(message).toContain(`${platformName}@${version}`);
    expect(await expectOfCommand(folder, 'VERSION')).toBe(message);
  });

  test('with a file of it missing', async () => {
    const folder = await installation();
    for (const file of ['captionacc.node', 'captionacc']) rmSync(installed(folder, platformName, file));
    expect(await expectFailure(folder, 'NOT_INSTALLED')).toContain(installed(folder, platformName, 'captionacc.node'));
    expect(await expectOfCommand(folder, 'NOT_INSTALLED')).toContain('npm ci');
  });

  test.each([
    ['no program', 'it is no program', () => Buffer.from('version https://git-lfs.github.com/spec/v1\n'.repeat(3))],
    ['cut off', 'its end is missing', (whole: Buffer) => whole.subarray(0, whole.length / 2)],
    ['of another processor', 'another kind of processor', (whole: Buffer) => Buffer.concat([whole.subarray(0, 18), Buffer.from([243, 0]), whole.subarray(20)])],
  ])('with files that are damaged, %s: Node does not go down with them', async (_, problem, damage) => {
    const folder = await installation();
    const [addon, command] = ['captionacc.node', 'captionacc'].map((file) => installed(folder, platformName, file)) as [string, string];
    for (const file of [addon, command]) writeFileSync(file, damage(readFileSync(file)));
    for (const [file, message] of [[addon, await expectFailure(folder, 'REFUSED')], [command, await expectOfCommand(folder, 'REFUSED')]] as const) {
      expect(message).toContain(file);
      expect(message).toContain(problem);
      expect(message).toContain('npm ci');
    }
  });

  test('with an addon that the system does not load: the error has its words', async () => {
    const folder = await installation();
    const addon = installed(folder, platformName, 'captionacc.node');
    // The type of the file: no shared library any more.
    const file = readFileSync(addon);
    file.writeUInt16LE(1, 16);
    writeFileSync(addon, file);
    expect(await expectFailure(folder, 'REFUSED')).toContain('only ET_DYN and ET_EXEC can be loaded');
  });

  test('with a command that may not be run', async () => {
    const folder = await installation();
    chmodSync(installed(folder, platformName, 'captionacc'), 0o644);
    expect(await expectOfCommand(folder, 'REFUSED')).toContain('EACCES');
  });

  test('in a Node that loads no addons', async () => {
    expect(await expectFailure(await installation(), 'REFUSED', { given: ['--no-addons'] })).toContain('--allow-addons');
  });

  test('in a checkout that was not built', async () => {
    const folder = temporaryFolder();
    for (const file of ['package.json', 'index.js', 'index.mjs', 'lib', 'bin']) cpSync(path.join(root, file), installed(folder, name, file), { recursive: true });
    const message = await expectFailure(folder, 'NOT_BUILT');
    expect(message).toContain(installed(folder, name));
    expect(message).toContain('npm run build');
    expect(await expectOfCommand(folder, 'NOT_BUILT')).toContain('npm run build');
  });
});

describe('a bundle', () => {
  test.each([
    ['main.mjs', 'cjs'],
    ['main.mjs', 'esm'],
    ['main.cjs', 'cjs'],
    ['main.cjs', 'esm'],
  ])('of %s as %s needs the package where it runs, and says so', async (entry, format) => {
    const built = await installation();
    cpSync(path.join(root, '__test__/apps/tools'), built, { recursive: true });
    const esbuild = path.join(await install('tools'), 'node_modules/esbuild/bin/esbuild');
    const bundle = path.join(temporaryFolder(), `bundle.${format === 'esm' ? 'mjs' : 'cjs'}`);
    const options = ['--bundle', '--platform=node', `--format=${format}`, `--outfile=${bundle}`, '--log-level=warning'];
    expect(await new Running(process.execPath, [esbuild, entry, ...options], { cwd: built }).ended).toMatchObject({ code: 0, stderr: '' });

    const alone = await new Running(process.execPath, [bundle]).ended;
    expect(alone).toMatchObject({ code: 1, signal: null, stdout: '' });
    expect(alone.stderr).toContain("code: 'ERR_CAPTIONACC_LOAD_BUNDLED'");
    const message = /OrchestratorError\]?: (.*)/.exec(alone.stderr)?.[1] ?? alone.stderr;
    expect(message).toContain(path.basename(bundle));
    for (const hint of [
      `npm install ${name}`,
      `ssr: { external: ['${name}'] }`,
      `--external:${name}`,
      `externals: { '${name}': 'commonjs ${name}' }`,
      `serverExternalPackages: ['${name}']`,
      "outputFileTracingIncludes: { '/**': ['./node_modules/@captionacc/**'] }",
    ]) {
      expect(message).toContain(hint);
    }

    const copied = path.dirname(bundle);
    await installInto(copied);
    // As a tracer of files leaves it, which sees no way from the entry to what it loads.
    renameSync(installed(copied, name, 'lib'), installed(copied, name, 'left behind'));
    expect((await new Running(process.execPath, [bundle]).ended).stderr).toContain("code: 'ERR_CAPTIONACC_LOAD_BUNDLED'");
    renameSync(installed(copied, name, 'left behind'), installed(copied, name, 'lib'));
    expect(await new Running(process.execPath, [bundle]).ended).toMatchObject({ code: 0, stderr: '', stdout: expect.stringContaining('Scheduled') });
  });
});

describe('two copies in one process', () => {
  /** An installation in which `other` brings a copy of its own. */
  async function twoCopies(otherVersion: string): Promise<{ folder: string; other: string }> {
    const folder = await installation();
    const other = installed(folder, 'other');
    await installInto(other);
    for (const packageName of [name, platformName]) changeManifest(installed(other, packageName), (manifest) => (manifest.version = otherVersion));
    writeFileSync(path.join(other, 'index.js'), `module.exports = require('${name}')`);
    return { folder, other };
  }
  const mapped = "new Set(require('node:fs').readFileSync('/proc/self/maps', 'utf8').match(/\\/.*captionacc\\.node/g)).size";
  const inThread = `new (require('node:worker_threads').Worker)("require('other').listFlowRuns().then((runs) => console.log(runs.length))", { eval: true })`;

  test('of one version share the addon that was loaded first', async () => {
    const { folder } = await twoCopies(version);
    const code = `const [one, other] = [require('${name}'), require('other')];
      console.log(one === other);
      other.listFlowRuns().then((runs) => console.log(runs.length, ${mapped}));`;
    expect(await start(folder, code)).toMatchObject({ code: 0, stdout: 'false\n0 1\n', stderr: '' });
  });

  test('of one version share it among threads', async () => {
    const { folder } = await twoCopies(version);
    const code = `require('${name}'); ${inThread}.on('exit', () => console.log(${mapped}))`;
    expect(await start(folder, code)).toMatchObject({ code: 0, stdout: '0\n1\n', stderr: '' });
  });

  const requireOther = "try { require('other') } catch (error) { tell(error) }";
  const untold = `const fs = require('node:fs');
    const read = fs.readFileSync;
    fs.readFileSync = (file, ...given) => (file === '/proc/self/maps' && given.length === 1 && new Error().stack.includes('platform.js') ? read('/nowhere') : read(file, ...given))`;
  test.each([
    ['in one thread', requireOther, ''],
    ['in two threads', `${inThread}.on('error', tell)`, ''],
    ['in one thread of a system that does not tell what is loaded', requireOther, untold],
  ])('of two versions: the second is refused and the first goes on, %s', async (_, second, before) => {
    const { folder, other } = await twoCopies('0.0.9');
    const code = `const { listFlowRuns } = require('${name}');
      const tell = ({ name, code, retryable, message }) => listFlowRuns().then((runs) => console.log(JSON.stringify({ name, code, retryable, message, runs: runs.length, mapped: ${mapped} })));
      ${second}`;
    const ended = await start(folder, code, { before });
    expect(ended).toMatchObject({ code: 0, stderr: '' });
    const { message, ...others } = JSON.parse(ended.stdout) as Failure;
    // What an error carries from one thread to another is the business of Node.
    expect(others).toMatchObject({ code: 'ERR_CAPTIONACC_LOAD_TWO_COPIES', retryable: false, runs: 0, mapped: 1 });
    expect(message).toContain(installed(other, platformName, 'captionacc.node'));
    expect(message).toContain(`${installed(folder, platformName, 'captionacc.node')} (version ${version})`);
    expect(message).toContain(`npm ls ${name}`);
    expect(message).toContain('npm dedupe');
  });

  test('because the addon was replaced under a running process: a new thread is refused', async () => {
    const folder = await installation();
    const addon = realpathSync(installed(folder, platformName, 'captionacc.node'));
    const code = `const { copyFileSync, renameSync } = require('node:fs');
      const { listFlowRuns } = require('${name}');
      copyFileSync('${addon}', '${addon}.new');
      renameSync('${addon}.new', '${addon}');
      new (require('node:worker_threads').Worker)("require('${name}')", { eval: true }).on('error', ({ code, message }) => {
        listFlowRuns().then((runs) => console.log(JSON.stringify({ code, message, runs: runs.length })));
      });`;
    const ended = await start(folder, code);
    expect(ended).toMatchObject({ code: 0, stderr: '' });
    expect(JSON.parse(ended.stdout)).toEqual({ code: 'ERR_CAPTIONACC_LOAD_TWO_COPIES', message: expect.stringContaining('Restart the process'), runs: 0 });
  });
});
