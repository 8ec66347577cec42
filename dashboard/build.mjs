// Builds the pages: one script, one sheet of styles and one document, compressed, into dist/, from where the binary takes them.

import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { constants, gzipSync } from 'node:zlib';

import { build } from 'esbuild';

/** All of it is to stay small enough to be there at once. */
const MOST_BYTES = 70_000;

const folder = import.meta.dirname;
const built = await build({
  absWorkingDir: folder,
  entryPoints: ['src/app.tsx', 'src/app.css'],
  outdir: 'dist',
  bundle: true,
  minify: true,
  format: 'esm',
  target: ['es2022', 'chrome110', 'firefox115', 'safari16.4'],
  jsx: 'automatic',
  jsxImportSource: 'preact',
  legalComments: 'none',
  metafile: true,
  write: false,
});
const files = built.outputFiles.map((file) => ({ name: path.basename(file.path), bytes: file.contents }));
for (const name of ['index.html', 'icon.svg']) files.push({ name, bytes: readFileSync(path.join(folder, name)) });

mkdirSync(path.join(folder, 'dist'), { recursive: true });
let total = 0;
for (const { name, bytes } of files) {
  const compressed = gzipSync(bytes, { level: constants.Z_BEST_COMPRESSION });
  total += compressed.length;
  // Put in its place whole: another build may read it at this moment.
  const target = path.join(folder, 'dist', `${name}.gz`);
  writeFileSync(`${target}.new`, compressed);
  renameSync(`${target}.new`, target);
}
if (process.argv.includes('--sizes')) {
  for (const { inputs } of Object.values(built.metafile.outputs)) {
    for (const [input, { bytesInOutput }] of Object.entries(inputs)) console.log(String(bytesInOutput).padStart(8), input);
  }
}
console.error(`the dashboard's pages: ${total} bytes, compressed`);
if (total > MOST_BYTES) {
  console.error(`error: they are to have ${MOST_BYTES} at most`);
  process.exitCode = 1;
}
