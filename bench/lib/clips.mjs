/**
 * The clips of the pipeline benchmark: real films, looped and scaled, with captions of known text burnt in. Made once
 * and kept in the cache, named by what they were made from.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { cache, output, root, say } from './harness.mjs';

/** How long a caption stays. */
const CAPTION_SECONDS = 3;

/** Display size and the strip that the captions are in, in pixels. */
const hd = { width: 1920, height: 1080, crop: { left: 240, top: 920, right: 1680, bottom: 1040 } };
const small = { width: 1280, height: 720, crop: { left: 160, top: 612, right: 1120, bottom: 692 } };

/** Settings that look like what people upload. */
const kinds = [
  {
    name: '1080p25 H.264, keyint 250',
    ...hd,
    rate: 25,
    suffix: 'mp4',
    codec: ['libx264', '-preset', 'fast', '-crf', '23', '-g', '250', '-keyint_min', '25'],
  },
  {
    name: '1080p25 H.264, keyint 60',
    ...hd,
    rate: 25,
    suffix: 'mp4',
    codec: ['libx264', '-preset', 'fast', '-crf', '23', '-g', '60', '-keyint_min', '25'],
  },
  {
    name: '720p30 H.264',
    ...small,
    rate: 30,
    suffix: 'mp4',
    codec: ['libx264', '-preset', 'fast', '-crf', '23', '-g', '250', '-keyint_min', '25'],
  },
  {
    name: '1080p25 HEVC',
    ...hd,
    rate: 25,
    suffix: 'mp4',
    codec: ['libx265', '-preset', 'veryfast', '-crf', '26', '-tag:v', 'hvc1', '-x265-params', 'log-level=error'],
  },
  {
    name: '1080p25 VP9',
    ...hd,
    rate: 25,
    suffix: 'webm',
    codec: ['libvpx-vp9', '-deadline', 'realtime', '-cpu-used', '6', '-row-mt', '1', '-b:v', '2500k', '-g', '128'],
  },
];

/** The films in the order of the loop: both are moving footage. */
const films = ['bigbuckbunny.mp4', 'bikes.mp4'];

async function subtitles(seconds) {
  const captions = Object.values(JSON.parse(await readFile(join(root, 'bench/data/captions.json'), 'utf8')));
  const texts = captions[0].flatMap((_, position) => captions.map((kind) => kind[position]));
  const at = (second) => `${new Date(second * 1000).toISOString().slice(11, 19)},000`;
  const blocks = [];
  for (let number = 0; number * CAPTION_SECONDS < seconds; number += 1) {
    const start = number * CAPTION_SECONDS;
    blocks.push(`${number + 1}\n${at(start)} --> ${at(start + CAPTION_SECONDS)}\n${texts[number % texts.length]}\n`);
  }
  return blocks.join('\n');
}

/** Makes a file under the cache through a temporary name, so that a half made one is never taken for whole. */
async function once(path, make) {
  if (existsSync(path)) return path;
  const unfinished = path.replace(/(\.\w+)$/, '.unfinished$1');
  try {
    await make(unfinished);
    await rename(unfinished, path);
  } finally {
    await rm(unfinished, { force: true });
  }
  return path;
}

/** The films one after the other in one size and rate, nearly lossless: what the clips loop. */
async function footage(folder, { width, height, rate }) {
  return await once(join(folder, `footage-${width}x${height}-${rate}.mp4`), async (unfinished) => {
    const sources = films.map((film) => join(process.env.CAPTIONACC_FILMS, film));
    const inputs = sources.flatMap((source) => ['-i', source]);
    const codec = ['-c:v', 'libx264', '-preset', 'veryfast', '-crf', '8', '-pix_fmt', 'yuv420p'];
    const filter = joined(`scale=${width}:${height}:flags=bicubic,setsar=1,fps=${rate}`);
    await output('ffmpeg', [
      '-v',
      'error',
      '-y',
      ...inputs,
      '-filter_complex',
      filter,
      '-map',
      '[out]',
      ...codec,
      unfinished,
    ]);
  });
}

/** A filter graph: every film through `filter`, then one after the other. */
function joined(filter) {
  const each = films.map((_, input) => `[${input}:v]${filter}[v${input}]`);
  return `${each.join(';')};${films.map((_, input) => `[v${input}]`).join('')}concat=n=${films.length}[out]`;
}

/** The clips, or the first ones of them, made where they are missing: `{ name, path, width, height, crop, seconds }`. */
export async function clips(seconds, count = kinds.length) {
  const folder = join(cache, 'clips');
  await mkdir(folder, { recursive: true });
  const text = await subtitles(seconds);
  const made = [];
  for (const kind of kinds.slice(0, count)) {
    const style = 'Fontname=Noto Sans CJK SC,Fontsize=16,Outline=1,MarginV=16';
    const filter = `setpts=N/${kind.rate}/TB,subtitles=captions.srt:force_style='${style}'`;
    const recipe = JSON.stringify([kind, filter, seconds, text, films]);
    const digest = createHash('sha256').update(recipe).digest('hex').slice(0, 12);
    const path = await once(join(folder, `${digest}.${kind.suffix}`), async (unfinished) => {
      say(`making ${kind.name}, ${seconds} s`);
      await writeFile(join(folder, 'captions.srt'), text);
      const input = ['-stream_loop', '-1', '-i', await footage(folder, kind)];
      const args = ['-v', 'error', '-y', ...input, '-t', String(seconds), '-vf', filter];
      await output('ffmpeg', [...args, '-an', '-c:v', ...kind.codec, '-pix_fmt', 'yuv420p', unfinished], {
        cwd: folder,
      });
    });
    made.push({ ...kind, path, seconds });
  }
  return made;
}

/**
 * A clip of one picture a second, each with its own known caption over its own moment of real footage, with the truth:
 * `{ path, truth: [{ kind, text, angle, left, top, right, bottom }] }`. Nearly lossless, so that the codec is not what is
 * measured.
 */
export async function captionClip(python, font, countOfEach) {
  const folder = join(cache, 'captions');
  await mkdir(folder, { recursive: true });
  const parts = ['bench/python/caption_frames.py', 'bench/data/captions.json', 'bench/data/kinds.json'];
  const sources = await Promise.all(parts.map((part) => readFile(join(root, part), 'utf8')));
  const digest = createHash('sha256')
    .update(JSON.stringify([sources, films, countOfEach]))
    .digest('hex')
    .slice(0, 12);
  const truthPath = join(folder, `${digest}.json`);
  const path = await once(join(folder, `${digest}.mp4`), async (unfinished) => {
    say('making frames with captions');
    const work = join(folder, digest);
    await rm(work, { recursive: true, force: true });
    await mkdir(join(work, 'footage'), { recursive: true });
    await mkdir(join(work, 'drawn'));
    try {
      // 16 pictures a second of the two films, one after the other: 15 s of motion are 240 moments.
      const names = films.map((film) => join(process.env.CAPTIONACC_FILMS, film));
      const inputs = names.flatMap((name) => ['-i', name]);
      const filter = joined('scale=1920:1080:flags=bicubic,setsar=1,fps=16:round=up');
      await output('ffmpeg', [
        '-v',
        'error',
        ...inputs,
        '-filter_complex',
        filter,
        '-map',
        '[out]',
        join(work, 'footage/%04d.png'),
      ]);
      const drawn = join(work, 'drawn');
      await output(python, [
        join(root, 'bench/python/caption_frames.py'),
        join(root, 'bench/data/captions.json'),
        join(root, 'bench/data/kinds.json'),
        join(work, 'footage'),
        drawn,
        font,
        String(countOfEach),
      ]);
      await rename(join(drawn, 'truth.json'), truthPath);
      const codec = ['-c:v', 'libx264', '-preset', 'fast', '-crf', '8', '-g', '10', '-pix_fmt', 'yuv420p'];
      const input = ['-framerate', '1', '-i', join(drawn, '%03d.png')];
      await output('ffmpeg', ['-v', 'error', '-y', ...input, ...codec, unfinished]);
    } finally {
      await rm(work, { recursive: true, force: true });
    }
  });
  return { path, truth: JSON.parse(await readFile(truthPath, 'utf8')) };
}
