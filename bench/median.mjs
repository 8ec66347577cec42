/**
 * m) The median of a caption's strips, from their JPEGs on, against numpy's in Python; and the memory that a long caption takes.
 *
 * The strips are of a real film, coded as crop-frames codes them. Both sides read the same files, in turns; the results are
 * compared value by value, of the same decoded pixels. A caption of ten minutes is the same strips many times over, made as the
 * pipeline makes it: with a quarter of what a run may use, at most 512 MB, and counted where that is too little.
 *
 * Options: --strips N, --minutes N (of the long caption, ten strips a second), --turns N.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Report, brief, measured, median, numberOptions, output, python, root, say, withFolder } from './lib/harness.mjs';

const options = numberOptions({ strips: 100, minutes: 10, turns: 5 });
const [WIDTH, HEIGHT] = [1920, 270];
const STRIPS_A_SECOND = 10;
const MEMORY_MEGABYTES = 512;
const TARGET_MS = 150;
const program = join(root, 'target/release/examples/median');

await withFolder(async (folder) => {
  const strips = join(folder, 'strips');
  await mkdir(strips);
  // The film is 5 s long; its lower quarter, over and over.
  const film = join(process.env.CAPTIONACC_FILMS, 'bigbuckbunny.mp4');
  const filter = `fps=${STRIPS_A_SECOND},scale=${WIDTH}:1080,crop=${WIDTH}:${HEIGHT}:0:${1080 - HEIGHT}`;
  const frames = ['-frames:v', String(options.strips), '-q:v', '6', join(strips, '%05d.jpg')];
  await output('ffmpeg', ['-v', 'error', '-stream_loop', '-1', '-i', film, '-vf', filter, ...frames]);

  const report = await Report.begin('median', options, ['what', 'time', 'of it decoding', 'of it the median', 'ours is faster by']);
  const ours = async () => JSON.parse(await output(program, [strips, '1', String(MEMORY_MEGABYTES)]));
  const numpy = async () => {
    const script = join(root, 'bench/python/median.py');
    const times = JSON.parse(await output(python(), [script, strips, String(WIDTH), String(HEIGHT)]));
    return { ...times, wholeSeconds: times.decodingSeconds + times.medianSeconds };
  };
  const samples = { ours: [], numpy: [] };
  for (let turn = 0; turn < options.turns; turn += 1) {
    samples.ours.push(await ours());
    samples.numpy.push(await numpy());
    const [mine, theirs] = [samples.ours.at(-1), samples.numpy.at(-1)];
    say(`turn ${turn + 1}: ours ${brief(mine.wholeSeconds * 1000, 'ms')}, numpy ${brief(theirs.wholeSeconds * 1000, 'ms')}`);
  }
  report.samples = samples;
  const of = (side, key) => 1000 * median(samples[side].map((sample) => sample[key]));
  const cells = (side) => ['wholeSeconds', 'decodingSeconds', 'medianSeconds'].map((key) => brief(of(side, key), 'ms'));
  const whole = of('ours', 'wholeSeconds');
  const what = `${options.strips} strips of ${WIDTH}x${HEIGHT}`;
  report.row(`${what}, ours`, ...cells('ours'));
  report.row(`${what}, PIL and numpy`, ...cells('numpy'), brief(of('numpy', 'wholeSeconds') / whole));
  const different = Math.max(...samples.numpy.map((sample) => sample.different));
  report.note(`values that differ from numpy's median of the same pixels: ${different} of ${WIDTH * HEIGHT * 3}`);
  report.note(`${what}, from the JPEGs on, <= ${TARGET_MS} ms: ${whole <= TARGET_MS ? 'met' : 'MISSED'}`);

  const many = options.minutes * 60 * STRIPS_A_SECOND;
  const copies = Math.max(2, Math.ceil(many / options.strips));
  const long = await measured(program, [strips, String(copies), String(MEMORY_MEGABYTES)]);
  const short = await measured(program, [strips, '2', String(MEMORY_MEGABYTES)]);
  for (const [count, { wallSeconds, peakMegabytes }] of [[2, short], [copies, long]]) {
    const memory = `${brief(peakMegabytes, 'MB')} of memory at most`;
    report.row(`${count * options.strips} strips, ours`, brief(wallSeconds, 's'), memory);
  }
  await report.write();
});
