'use strict';

// Where the two binary files of this package lie: in a checkout that was built, or in the package of this platform,
// which a published version names among its `optionalDependencies`. npm installs only the one that fits.

const { existsSync } = require('node:fs');
const path = require('node:path');

const root = path.join(__dirname, '..');

/** The packages that could hold binaries for this platform; npm's `libc` field decides between gnu and musl. */
function packageNames() {
  const base = `@captionacc/orchestrator-${process.platform}-${process.arch}`;
  return process.platform === 'linux' ? [`${base}-gnu`, `${base}-musl`] : [base];
}

/**
 * The absolute path of a binary file.
 *
 * @param {string} inCheckout its path in a checkout, relative to the root
 * @param {string} inPackage its path in a platform's package
 * @throws {Error} if it is nowhere, saying what to do
 */
function find(inCheckout, inPackage) {
  const built = path.join(root, inCheckout);
  if (existsSync(built)) return built;
  for (const name of packageNames()) {
    try {
      return require.resolve(`${name}/${inPackage}`);
    } catch {
      // Not installed: the next one, or the error below.
    }
  }
  throw new Error(
    `@captionacc/orchestrator has no ${inPackage} for ${process.platform}-${process.arch}: looked for ${built} and in ` +
      `${packageNames().join(', ')}. In a checkout run "npm run build"; in an installation run "npm install" again ` +
      'without --omit=optional. Binaries exist for Linux and macOS on x64 and arm64.',
  );
}

exports.addonPath = () => find('captionacc.node', 'captionacc.node');
exports.binaryPath = () => find('dist/captionacc', 'captionacc');
