/**
 * j) A queue of a million runs against an empty one: the table of what million.rs has measured.
 *
 * Usage: million.mjs FILE [--runs N] [--turns N]; bench/run.sh makes the file.
 */
import { readFile } from 'node:fs/promises';
import { Report, brief, median, numberOptions, spread } from './lib/harness.mjs';

const [file] = process.argv.splice(2, 1);
const options = numberOptions({ runs: 500_000, turns: 60 });
const sides = (await readFile(file, 'utf8')).trim().split('\n').map((line) => JSON.parse(line));
const [empty, ...crowded] = sides;
const report = await Report.begin('million', options, ['what', ...sides.map((side) => side.store), 'ratios']);
report.samples = sides;
for (const what of Object.keys(empty.samples)) {
  const ratios = crowded.map((side) => median(side.samples[what]) / median(empty.samples[what]));
  report.row(
    what,
    ...sides.map((side) => spread(side.samples[what], 'ms')),
    `${ratios.map((ratio) => brief(ratio)).join(', ')}: ${Math.max(...ratios) <= 2 ? 'met' : 'MISSED'}`,
  );
}
await report.write();
