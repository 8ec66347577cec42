'use strict';

// Where the two binary files lie: in a checkout that was built, or in the package of this platform. package.json names
// those packages among its `optionalDependencies` once it is published; npm installs the one that fits.

const { accessSync, closeSync, constants, existsSync, fstatSync, openSync, readFileSync, readSync } = require('node:fs');
const path = require('node:path');

const { loadError } = require('./error.js');
const { name, version, optionalDependencies } = require('../package.json');

const root = path.join(__dirname, '..');

/** The names of the platforms that this release is made for; none in a checkout. */
const made = Object.keys(optionalDependencies ?? {})
  .filter((dependency) => dependency.startsWith(`${name}-`))
  .map((dependency) => dependency.slice(name.length + 1));

/**
 * The files that are mapped into this process, those of all its threads. `undefined` where the system does not tell.
 *
 * @returns {string[] | undefined} a deleted one ends with ` (deleted)`
 */
function mappedFiles() {
  try {
    const maps = readFileSync('/proc/self/maps', 'utf8');
    return [...new Set(Array.from(maps.matchAll(/^\S+ \S+ \S+ \S+ \d+ +(\/.*)$/gm), (match) => match[1]))];
  } catch {
    return undefined;
  }
}

/** The name of the platform that this Node runs on, as the packages are called. */
function platformName() {
  const base = `${process.platform}-${process.arch}`;
  if (process.platform !== 'linux') return base;
  // The loader of musl is its libc: where it is mapped, nothing that is linked against glibc can run.
  return mappedFiles()?.some((file) => file.includes('/ld-musl-')) ? `${base}-musl` : `${base}-gnu`;
}

/** Platform and Node, for an error. */
const whereWeAre = () => `${platformName()}, Node ${process.version}`;

/** What to do where files are there and are not what they should be. */
const again = made.length === 0 ? 'Run "npm run build"' : 'Remove node_modules and run "npm ci"';

/** The command that installs a platform's package in the right version. */
const installCommand = (packageName) => `npm install --include=optional --save-optional ${packageName}@${version}`;

/**
 * The absolute path of a binary file.
 *
 * @param {string} inCheckout its path in a checkout, relative to the root
 * @param {string} inPackage its path in a platform's package
 * @throws {OrchestratorError} if it is nowhere, saying what to do
 */
function find(inCheckout, inPackage) {
  const built = path.join(root, inCheckout);
  if (existsSync(built)) return built;
  if (made.length === 0) {
    throw loadError('NOT_BUILT', `${root} is a checkout that was not built: there is no ${inCheckout} (${whereWeAre()}). Run "npm run build" there`);
  }
  const platform = platformName();
  if (!made.includes(platform)) {
    const hint = platform.endsWith('-musl') ? '; on Alpine, take an image with glibc, as node:22-bookworm-slim' : '';
    throw loadError('PLATFORM', `${name} ${version} is made for ${made.join(', ')}, not for ${whereWeAre()}${hint}`);
  }
  const packageName = `${name}-${platform}`;
  let manifest;
  try {
    manifest = require.resolve(`${packageName}/package.json`);
  } catch {
    throw loadError(
      'NOT_INSTALLED',
      `${packageName} is not installed beside ${root} (${whereWeAre()}). It is an optional dependency: npm leaves it out with ` +
        `--omit=optional, and at times where package-lock.json comes from another platform. Run "${installCommand(packageName)}"`,
    );
  }
  const { version: found } = require(manifest);
  if (found !== version) {
    throw loadError(
      'VERSION',
      `${name} is version ${version} (${root}) and ${packageName} is version ${found} (${path.dirname(manifest)}); they must be the same ` +
        `(${whereWeAre()}). Run "${installCommand(packageName)}"`,
    );
  }
  const file = path.join(path.dirname(manifest), inPackage);
  if (existsSync(file)) return file;
  throw loadError('NOT_INSTALLED', `${packageName} has no ${inPackage}: looked for ${file} (${whereWeAre()}). ${again}`);
}

/** The machines of Node, as ELF counts them. */
const machines = { x64: 62, arm64: 183 };

/** What is wrong with a file that is to be mapped as a program; nothing, if it looks like one that is whole. */
function damage(file) {
  const header = Buffer.alloc(64);
  const descriptor = openSync(file, 'r');
  try {
    const length = readSync(descriptor, header, 0, header.length, 0);
    if (header.toString('latin1', 0, 2) === '#!') return undefined;
    if (length < header.length || header.readUInt32BE(0) !== 0x7f454c46) return 'it is no program';
    const machine = header.readUInt16LE(18);
    if (machine !== (machines[process.arch] ?? machine)) return 'it is made for another kind of processor';
    // The table of its sections, which is the last thing in it: place, length of an entry, entries.
    const end = Number(header.readBigUInt64LE(40)) + header.readUInt16LE(58) * header.readUInt16LE(60);
    return fstatSync(descriptor).size < end ? 'its end is missing' : undefined;
  } finally {
    closeSync(descriptor);
  }
}

/**
 * Sees to it that a file may be loaded or started: one that is cut off, or is no program, would take Node down with it.
 *
 * @param {number} mode what it must be open for: `constants.R_OK`, `constants.X_OK`
 * @throws {OrchestratorError} if it may not
 */
function checkFile(file, mode) {
  let problem;
  try {
    accessSync(file, mode);
    problem = process.platform === 'linux' ? damage(file) : undefined;
  } catch (error) {
    problem = error.message;
  }
  if (problem === undefined) return file;
  throw loadError('REFUSED', `${file} cannot be used (${whereWeAre()}): ${problem}. ${again}`);
}

exports.addonPath = () => checkFile(find('captionacc.node', 'captionacc.node'), constants.R_OK);
exports.binaryPath = () => checkFile(find('dist/captionacc', 'captionacc'), constants.X_OK);
exports.again = again;
exports.mappedFiles = mappedFiles;
exports.whereWeAre = whereWeAre;
