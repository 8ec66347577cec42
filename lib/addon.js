'use strict';

// Loads the addon: one file of it in a process. A second one would bring a second SQLite, and two of them with one
// queue.db open break each other's locks, as closing a file in one gives up the locks of the other (POSIX).

const { readFileSync, realpathSync } = require('node:fs');
const path = require('node:path');

const { loadError } = require('./error.js');
const { addonPath, again, mappedFiles, whereWeAre } = require('./platform.js');
const { name, version } = require('../package.json');

/** Where the system does not tell what is loaded, the copies of this package in one thread tell each other. */
const told = Symbol.for(`${name}: loaded addons`);

/** The addon files that some thread of this process has loaded. */
function loadedAddons() {
  const mapped = mappedFiles()?.filter((file) => /\/captionacc\.node( \(deleted\))?$/.test(file));
  return mapped ?? process[told] ?? [];
}

/** Whether the file that is loaded is not the one any more that lies there, as after an update or a build. */
const isDeleted = (file) => file.endsWith(' (deleted)');

/** The version of the package that an addon file belongs to. */
function versionOf(file) {
  try {
    return JSON.parse(readFileSync(path.join(path.dirname(file), 'package.json'), 'utf8')).version;
  } catch {
    return undefined;
  }
}

function refusal(own, loaded) {
  const replaced = loaded.find(isDeleted);
  if (replaced) {
    return loadError('TWO_COPIES', `${own} is not the file that this process has loaded, which is gone: ${replaced} (${whereWeAre()}). Restart the process`);
  }
  const others = loaded.map((file) => `${file} (version ${versionOf(file) ?? 'unknown'})`).join(' and ');
  return loadError(
    'TWO_COPIES',
    `${name} ${version} cannot use ${own}: this process has loaded ${others}, and two of them would damage queue.db ` +
      `(${whereWeAre()}). "npm ls ${name}" shows who needs which; let all of them need one version, then run "npm dedupe"`,
  );
}

/** Why the system did not load the file. */
function failure(file, error) {
  const what = `${file} cannot be loaded (${whereWeAre()})`;
  const needed = /version [`']?(GLIBC_[\d.]+)/.exec(error.message);
  if (needed) {
    return loadError('LIBC', `${what}: it needs ${needed[1]}, and the glibc of this system is older. Update the system, or take a newer image`, error);
  }
  if (/ld-linux|Error relocating/.test(error.message)) {
    return loadError('LIBC', `${what}: it needs glibc, and this system has another libc. Take an image with glibc, as node:22-bookworm-slim`, error);
  }
  if (error.code === 'ERR_DLOPEN_DISABLED') {
    return loadError('REFUSED', `${what}: Node was started so that it loads no addons. Start it with --allow-addons, or without --no-addons`, error);
  }
  return loadError('REFUSED', `${what}: ${error.message}. ${again}`, error);
}

/**
 * The addon. A second copy of this package gets the file that the first one has loaded.
 *
 * @throws {OrchestratorError} if it cannot be had, saying what to do
 */
exports.loadAddon = () => {
  const own = realpathSync(addonPath());
  const loaded = loadedAddons();
  const [file = own] = loaded;
  if (loaded.length > 1 || loaded.some(isDeleted) || (file !== own && versionOf(file) !== version)) throw refusal(own, loaded);
  let addon;
  try {
    addon = require(file);
  } catch (error) {
    throw failure(file, error);
  }
  // Another thread may have loaded another copy meanwhile. Who came first does not see the other yet, or neither is used.
  const others = loadedAddons().filter((other) => other !== file);
  if (others.length > 0) throw refusal(own, others);
  process[told] = [file];
  return addon;
};
