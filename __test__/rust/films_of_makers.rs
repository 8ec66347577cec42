//! Films of many makers through both flows, as a worker runs them: every picture that is stored is the one on display at its
//! time and none of its neighbours, and its colours are those of ffmpeg's PNG of it.
//!
//! A JPEG is not its original: what is compared are means of blocks, in which its noise is small and a wrong matrix, a wrong
//! range or a shifted edge is not. Every test shows on its own film that the measure tells those apart.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use captionacc::domain::id::FlowRunId;
use captionacc::domain::state::StateName;
use captionacc::picture::RgbPicture;
use captionacc::video::{decode_jpeg, probe};
use serde_json::json;

use crate::clips::{cached, part, with_matrix};
use crate::studio::{Studio, ffmpeg, film, ocr_models};
use crate::world::World;

/// Pixels of a block's side.
const BLOCK: usize = 8;
/// Levels that a colour may be off.
const MAX_OFF: f32 = 3.0;
/// What the values of a colour's area may differ by: across an edge a JPEG and a PNG are clipped to what a screen shows in ways
/// of their own, and there is no one colour.
const FLAT: u8 = 32;
/// The same where it may be clipped in places.
const EVEN: u8 = 8;
/// Below the one and from the other on, a value may have been clipped to what a screen shows.
const BLACK: u8 = 5;
const WHITE: u8 = 250;
/// An area where all values reach this may be of a film that is brighter than white, or darker than black: a JPEG cannot hold
/// that. ffmpeg's own has it 5 to 11 levels off.
const BRIGHT: u8 = 235;
const DARK: u8 = 16;
/// Two pictures that are no further apart (as a root of the sum of the squares over all blocks) may be taken for each other.
const ALIKE: f32 = 12.0;
/// The same if they are no further apart than this share of what a JPEG of one of them is off: pictures of a slow fade.
const ALIKE_SHARE: f32 = 0.75;
const EXACT: &str = "flags=accurate_rnd+full_chroma_int+full_chroma_inp+bicubic";

/// The blocks of a picture, row by row; what does not fill a block is left out.
struct Blocks {
    columns: usize,
    /// Of each, red, green, blue: their means.
    means: Vec<f32>,
    /// The least and the greatest.
    ranges: Vec<[u8; 2]>,
}

impl Blocks {
    fn of(picture: &RgbPicture) -> Self {
        let width = picture.width as usize;
        let columns = width / BLOCK;
        let (mut means, mut ranges) = (Vec::new(), Vec::new());
        for rows in picture.data.chunks_exact(width * 3 * BLOCK) {
            let mut sums = vec![0_u16; columns * 3];
            let first = ranges.len();
            ranges.resize(first + columns * 3, [255, 0]);
            for row in rows.chunks_exact(width * 3) {
                let of_block = sums.chunks_exact_mut(3).zip(ranges[first..].chunks_exact_mut(3));
                for (block, (sums, ranges)) in row.chunks_exact(BLOCK * 3).zip(of_block) {
                    for pixel in block.chunks_exact(3) {
                        for colour in 0..3 {
                            sums[colour] += u16::from(pixel[colour]);
                            let [least, greatest] = ranges[colour];
                            ranges[colour] = [least.min(pixel[colour]), greatest.max(pixel[colour])];
                        }
                    }
                }
            }
            means.extend(sums.iter().map(|sum| f32::from(*sum) / 64.0));
        }
        Self { columns, means, ranges }
    }

    /// How far this picture is from two others, and those from each other, where neither is clipped to what a screen shows.
    fn distances(&self, one: &Self, other: &Self) -> [f32; 3] {
        let mut squares = [0.0; 3];
        for (at, mean) in self.means.iter().enumerate() {
            let is_clipped = |[least, greatest]: [u8; 2]| least < BLACK || greatest >= WHITE;
            if is_clipped(one.ranges[at]) || is_clipped(other.ranges[at]) {
                continue;
            }
            let (one, other) = (one.means[at], other.means[at]);
            let differences = [mean - one, mean - other, one - other];
            for (square, difference) in squares.iter_mut().zip(differences) {
                *square += difference.powi(2);
            }
        }
        squares.map(f32::sqrt)
    }

    /// The areas of two by two blocks, each by its four blocks.
    fn areas(&self) -> impl Iterator<Item = [usize; 4]> {
        let (columns, rows) = (self.columns, self.means.len() / 3 / self.columns.max(1));
        (0..rows / 2).flat_map(move |row| {
            (0..columns / 2).map(move |column| {
                let first = 2 * row * columns + 2 * column;
                [first, first + 1, first + columns, first + columns + 1]
            })
        })
    }

    /// What is the same colour all over in this area.
    fn colour(&self, area: [usize; 4]) -> Option<[f32; 3]> {
        let mut colour = [0.0; 3];
        let (mut is_bright, mut is_dark, mut clipped, mut white) = (true, true, 0, 0);
        for (at, mean) in colour.iter_mut().enumerate() {
            let ranges = area.map(|block| self.ranges[block * 3 + at]);
            let least = ranges.iter().map(|range| range[0]).min()?;
            let greatest = ranges.iter().map(|range| range[1]).max()?;
            let is_clipped = least < BLACK || greatest >= WHITE;
            if greatest - least > if is_clipped { EVEN } else { FLAT } {
                return None;
            }
            clipped += usize::from(is_clipped);
            white += usize::from(greatest >= WHITE);
            is_bright &= greatest >= BRIGHT;
            is_dark &= least <= DARK;
            *mean = self.mean(area, at);
        }
        // Clipped in all, it is a pure colour; as bright as can be in some, it may be one that no screen shows.
        let is_shown = white == 0 || clipped == 3;
        (is_shown && !is_bright && !is_dark).then_some(colour)
    }

    fn mean(&self, area: [usize; 4], colour: usize) -> f32 {
        area.map(|block| self.means[block * 3 + colour]).iter().sum::<f32>() / 4.0
    }

    /// How far off the colours of this picture are in a stored one, at most; how many there are; which is the one furthest off.
    fn colours_off(&self, stored: &Self) -> (f32, usize, String) {
        let (mut furthest, mut count, mut which) = (0.0_f32, 0, String::new());
        for area in self.areas() {
            let Some(colour) = self.colour(area) else { continue };
            count += 1;
            let found = [0, 1, 2].map(|at| stored.mean(area, at));
            let off = (0..3).map(|at| (colour[at] - found[at]).abs()).fold(0.0, f32::max);
            if off > furthest {
                furthest = off;
                let (x, y) = (area[0] % self.columns * BLOCK, area[0] / self.columns * BLOCK);
                which = format!("{found:.1?}, not {colour:.1?}, at {x}, {y}");
            }
        }
        (furthest, count, which)
    }
}

/// A picture as ffmpeg shows it: its time in ticks, all of it, and the strip.
struct Shown {
    at: i64,
    whole: Blocks,
    strip: Blocks,
}

/// The pictures of a film, and a tick in seconds.
struct Reference {
    tick: (i64, i64),
    pictures: Vec<Shown>,
}

#[derive(Clone, Copy)]
struct Strip {
    left: u32,
    top: u32,
    right: u32,
    bottom: u32,
}

impl Strip {
    /// The lower part, beginning within the pixels that share a colour.
    fn of(width: u32, height: u32) -> Self {
        Self {
            left: (width / 10) | 1,
            top: (height * 11 / 20) | 1,
            right: width - width / 12,
            bottom: height - height / 16,
        }
    }

    fn cut(self, picture: &RgbPicture) -> RgbPicture {
        part(
            picture,
            self.left,
            self.top,
            self.right - self.left,
            self.bottom - self.top,
        )
    }
}

/// Every picture that ffmpeg makes of the film, with `before` before anything else.
fn reference(path: &Path, before: &str, width: u32, height: u32, strip: Strip) -> Reference {
    let filter = format!("{before}showinfo=checksum=0,scale={width}:{height}:{EXACT}");
    let mut ffmpeg = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "info", "-nostats", "-threads", "1", "-i"])
        .arg(path)
        .args(["-an", "-sn", "-dn", "-vf", &filter, "-fps_mode", "passthrough"])
        .args(["-f", "rawvideo", "-pix_fmt", "rgb24", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the ffmpeg command is installed");
    let said = BufReader::new(ffmpeg.stderr.take().expect("piped"));
    let times = std::thread::spawn(move || {
        let (mut tick, mut times) = (None, Vec::new());
        let mut bytes = Vec::new();
        for line in said.split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let word_after = |name: &str| Some(line.split_once(name)?.1.split_whitespace().next()?.to_owned());
            if let Some(base) = word_after("config in time_base:") {
                let (numerator, denominator) = base.trim_end_matches(',').split_once('/').expect("a fraction");
                tick = Some((
                    numerator.parse().expect("a number"),
                    denominator.parse().expect("a number"),
                ));
            } else if let Some(time) = line.contains("showinfo").then(|| word_after(" pts:")).flatten() {
                times.push(
                    time.parse::<i64>()
                        .unwrap_or_else(|_| panic!("a picture without a time: {line}")),
                );
            } else {
                bytes.extend(line.bytes());
                bytes.push(b'\n');
            }
        }
        (tick, times, String::from_utf8_lossy(&bytes).into_owned())
    });
    let mut stdout = BufReader::new(ffmpeg.stdout.take().expect("piped"));
    let mut blocks = Vec::new();
    let mut picture = RgbPicture {
        width,
        height,
        data: vec![0; width as usize * height as usize * 3],
    };
    while stdout.read_exact(&mut picture.data).is_ok() {
        blocks.push((Blocks::of(&picture), Blocks::of(&strip.cut(&picture))));
    }
    let status = ffmpeg.wait().expect("ffmpeg ends");
    let (tick, times, said) = times.join().expect("it is read");
    assert!(status.success(), "{said}");
    assert_eq!(times.len(), blocks.len(), "{said}");
    let shown = |(at, (whole, strip))| Shown { at, whole, strip };
    Reference {
        tick: tick.expect("a time base"),
        pictures: times.into_iter().zip(blocks).map(shown).collect(),
    }
}

/// A film, and how it goes through the flows.
struct Film {
    path: PathBuf,
    /// Whole frames a second, as a fraction.
    full_rate: (i64, i64),
    /// MPEG-4 with B-frames in AVI, without times: ffmpeg's command counts from the decoder's delay there.
    is_untimed: bool,
    /// No area of it has one colour that a screen can show: its pictures are told apart alone.
    is_gaudy: bool,
}

const STRIP_RATE: (i64, i64) = (10, 1);

/// What was found of the stored pictures of a table.
#[derive(Default)]
struct Found {
    wrong: Vec<String>,
    /// Those that are unlike both of their neighbours.
    told_apart: usize,
    largest_off: f32,
    /// Colours that were compared.
    colours: usize,
}

impl Film {
    fn check(&self) {
        let name = self.path.file_name().expect("a file").to_string_lossy();
        let info = probe(&self.path).expect("a film");
        let strip = Strip::of(info.width, info.height);
        let (full_frames, strips) = self.through_both_flows(strip);
        let before = if self.is_untimed { "setpts=N/FRAME_RATE/TB," } else { "" };
        let reference = reference(&self.path, before, info.width, info.height, strip);

        let whole = reference.compare(&full_frames, self.full_rate, |shown| &shown.whole);
        let cut = reference.compare(&strips, STRIP_RATE, |shown| &shown.strip);
        for (table, found, stored) in [
            ("full_frames", &whole, full_frames.len()),
            ("cropped_frames", &cut, strips.len()),
        ] {
            println!(
                "{name}, {table}: {stored} pictures, {} unlike their neighbours, {} colours off by {:.2} at most",
                found.told_apart, found.colours, found.largest_off
            );
            let said = found.wrong.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
            assert!(
                found.wrong.is_empty(),
                "{name}, {table}, {} wrong:\n{said}",
                found.wrong.len()
            );
        }
        assert!(
            whole.colours + cut.colours > 0 || self.is_gaudy,
            "{name}: no colour was compared"
        );
        let shifted: Vec<_> = strips.iter().skip(1).cloned().collect();
        if cut.told_apart * 3 > strips.len() && shifted.len() > 2 {
            let found = reference.compare(&shifted, STRIP_RATE, |shown| &shown.strip);
            assert!(
                !found.wrong.is_empty(),
                "{name}: strips of the sample after theirs went unnoticed"
            );
        }
        self.show_that_wrong_colours_are_noticed(&reference, &strips, strip, &info);
    }

    /// The stored pictures of both, in their order.
    fn through_both_flows(&self, strip: Strip) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let world = World::with("", &[("CAPTIONACC_OCR_MODELS", &ocr_models())]);
        let worker = world.start_worker();
        let studio = Studio::new(&world.path("videos"), "v");
        let Strip {
            left,
            top,
            right,
            bottom,
        } = strip;
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let rate = self.full_rate.0 as f64 / self.full_rate.1 as f64;
        let full = studio.arguments(json!({ "video-path": self.path, "frame-rate": rate }));
        let crop = studio.arguments(json!({
            "video-path": self.path,
            "output-dir": studio.folder.join("scratch-of-strips"),
            "crop-bounds": { "left": left, "top": top, "right": right, "bottom": bottom },
        }));
        let runs: [FlowRunId; 2] = [world.queue("full-frames", full), world.queue("crop-frames", crop)];
        for id in runs {
            let run = world.wait_for(id, StateName::Completed);
            let said = run.state.message.unwrap_or_default();
            assert!(!said.contains("damaged"), "{said}");
        }
        worker.stop();
        let stored = |table: &str, (numerator, denominator): (i64, i64)| {
            let frames = studio.frames(table);
            for (sample, (index, _)) in (0..).zip(&frames) {
                let tenths = (sample * 10 * denominator + numerator / 2) / numerator;
                assert_eq!(*index, tenths, "{table}, sample {sample}");
            }
            frames.into_iter().map(|(_, jpeg)| jpeg).collect()
        };
        (
            stored("full_frames", self.full_rate),
            stored("cropped_frames", STRIP_RATE),
        )
    }

    /// The same picture, read with the other matrix and with the other range, is refused.
    fn show_that_wrong_colours_are_noticed(
        &self,
        reference: &Reference,
        strips: &[Vec<u8>],
        strip: Strip,
        info: &captionacc::video::VideoInfo,
    ) {
        let name = self.path.file_name().expect("a file").to_string_lossy();
        let sample = strips.len() / 2;
        let picture = reference.on_display(i64::try_from(sample).expect("small"), STRIP_RATE);
        let stored = Blocks::of(&decode_jpeg(&strips[sample]).expect("a JPEG of ours"));
        let said = Command::new("ffprobe")
            .args([
                "-v",
                "error",
                "-select_streams",
                "V:0",
                "-show_entries",
                "stream=color_space,pix_fmt",
            ])
            .args(["-of", "default=nw=1:nk=1"])
            .arg(&self.path)
            .output()
            .expect("ffprobe is installed");
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        if said.contains("rgb") || said.contains("pal8") {
            return;
        }
        let other = if said.contains("bt709") { "bt601" } else { "bt709" };
        for (kind, wrong) in [
            ("matrix", format!("in_color_matrix={other}")),
            ("range", "in_range=pc".to_owned()),
        ] {
            let (width, height) = (info.width, info.height);
            let filter = format!("select=eq(n\\,{picture}),scale={width}:{height}:{EXACT}:{wrong}");
            let output = Command::new("ffmpeg")
                .args(["-nostdin", "-v", "error", "-i"])
                .arg(&self.path)
                .args([
                    "-an",
                    "-sn",
                    "-dn",
                    "-vf",
                    &filter,
                    "-fps_mode",
                    "passthrough",
                    "-frames:v",
                    "1",
                ])
                .args(["-f", "rawvideo", "-pix_fmt", "rgb24", "-"])
                .output()
                .expect("the ffmpeg command is installed");
            let shown = RgbPicture {
                width,
                height,
                data: output.stdout,
            };
            assert_eq!(shown.data.len(), width as usize * height as usize * 3, "{name}: {kind}");
            let wrong = Blocks::of(&strip.cut(&shown));
            let (off, colours, _) = wrong.colours_off(&stored);
            let (apart, ..) = wrong.colours_off(&reference.pictures[picture].strip);
            println!("{name}: with the wrong {kind} colours are off by {off:.2}; it shows by {apart:.2}");
            // In pale pictures the two matrices are as near to each other as what is stored may be to either.
            let is_to_be_seen = colours > 0 && apart > MAX_OFF + 1.0;
            assert!(
                off > MAX_OFF || !is_to_be_seen,
                "{name}: the wrong {kind} went unnoticed, {off}"
            );
        }
    }
}

impl Reference {
    /// The last picture that begins at the sample's time or before it; the first one before that.
    fn on_display(&self, sample: i64, (rate_numerator, rate_denominator): (i64, i64)) -> usize {
        let (numerator, denominator) = self.tick;
        let sample_time = i128::from(sample) * i128::from(rate_denominator) * i128::from(denominator);
        let time = |shown: &Shown| i128::from(shown.at) * i128::from(numerator) * i128::from(rate_numerator);
        self.pictures.partition_point(|shown| time(shown) <= sample_time).max(1) - 1
    }

    /// Compares stored pictures with those on display and their neighbours.
    fn compare<'a>(&'a self, stored: &[Vec<u8>], rate: (i64, i64), of: impl Fn(&'a Shown) -> &'a Blocks) -> Found {
        let mut found = Found::default();
        for (sample, jpeg) in stored.iter().enumerate() {
            let at = self.on_display(i64::try_from(sample).expect("small"), rate);
            let ours = Blocks::of(&decode_jpeg(jpeg).expect("a JPEG of ours"));
            let this = of(&self.pictures[at]);
            assert_eq!(ours.means.len(), this.means.len(), "sample {sample}");
            let (off, colours, which) = this.colours_off(&ours);
            found.largest_off = found.largest_off.max(off);
            found.colours += colours;
            if off > MAX_OFF {
                found
                    .wrong
                    .push(format!("sample {sample}: a colour is {off:.2} levels off: {which}"));
            }
            let mut is_told_apart = true;
            let neighbours = [at.checked_sub(1), (at + 1 < self.pictures.len()).then_some(at + 1)];
            for neighbour in neighbours.into_iter().flatten() {
                let [to_this, to_neighbour, apart] = ours.distances(this, of(&self.pictures[neighbour]));
                let is_unlike = apart > ALIKE.max(to_this * ALIKE_SHARE);
                is_told_apart &= is_unlike;
                if is_unlike && to_neighbour <= to_this {
                    found.wrong.push(format!(
                        "sample {sample} is not picture {at} ({to_this:.1}) but rather {neighbour} ({to_neighbour:.1}), which are \
                         {apart:.1} apart"
                    ));
                }
            }
            found.told_apart += usize::from(is_told_apart);
        }
        found
    }
}

/// The first seconds of a film, as they are.
fn beginning(name: &str, seconds: u32) -> PathBuf {
    let whole = film(name);
    let name = whole.file_name().expect("a file").to_string_lossy().into_owned();
    cached(&format!("beginning-1-{seconds}-{name}"), |path| {
        let (whole, path) = (
            whole.to_str().expect("a path of ours"),
            path.to_str().expect("a path of ours"),
        );
        ffmpeg(&[
            "-i",
            whole,
            "-t",
            &seconds.to_string(),
            "-map",
            "0:V:0",
            "-c",
            "copy",
            path,
        ]);
    })
}

/// The iPhone's film as it is when the phone was held upright.
fn upright() -> PathBuf {
    cached("iphone-upright-1.mov", |path| {
        let bytes = std::fs::read(film("of-makers/iphone.mov")).expect("scripts/fetch-films.sh");
        std::fs::write(path, with_matrix(bytes, [0, 1, -1, 0])).expect("the cache is ours");
    })
}

macro_rules! films {
    ($($test:ident: $film:expr, $rate:expr $(, $kind:ident)?;)*) => {
        $(#[test]
        fn $test() {
            #[allow(unused_mut, unused_assignments, reason = "of most films")]
            let (mut is_untimed, mut is_gaudy) = (false, false);
            $(is_untimed = stringify!($kind) == "untimed"; is_gaudy = stringify!($kind) == "gaudy";)?
            Film { path: $film, full_rate: $rate, is_untimed, is_gaudy }.check();
        })*
    };
}

films! {
    a_film_of_an_iphone_is_stored_as_it_is_shown: film("of-makers/iphone.mov"), (1, 1);
    a_film_of_an_iphone_held_upright_is_stored_as_it_is_shown: upright(), (1, 1);
    a_film_of_an_android_phone_is_stored_as_it_is_shown: film("of-many/realshort.mp4"), (5, 1);
    a_film_of_a_mac_is_stored_as_it_is_shown: film("of-many/cup.mp4"), (1, 1);
    a_film_of_final_cut_is_stored_as_it_is_shown: beginning("of-makers/final-cut.mp4", 12), (1, 2);
    a_film_of_quicktime_is_stored_as_it_is_shown: beginning("of-makers/quicktime.mp4", 30), (1, 5);
    a_film_of_on2_flix_is_stored_as_it_is_shown: film("of-makers/flix.webm"), (1, 10);
    a_film_of_handbrake_is_stored_as_it_is_shown: beginning("wannaworktogether.mp4", 40), (1, 5);
    an_hevc_film_of_handbrake_is_stored_as_it_is_shown: film("of-makers/handbrake.mp4"), (5, 1);
    a_film_of_ffmpeg_is_stored_as_it_is_shown: film("bigbuckbunny.mp4"), (1, 1);
    a_film_of_ffmpeg_in_444_is_stored_as_it_is_shown: film("of-many/cockatoo.mp4"), (1, 1);
    a_film_of_colours_is_stored_as_it_is_shown: film("of-makers/colours.mp4"), (1, 1);
    a_cinepak_film_is_stored_as_it_is_shown: film("of-many/tree.avi"), (1, 5);
    a_film_with_pixels_of_dv_is_stored_as_it_is_shown: film("of-makers/dv.mp4"), (10, 1);
    a_film_of_mencoder_is_stored_as_it_is_shown: beginning("of-many/vtest.avi", 20), (1, 2);
    a_film_of_virtualdub_is_stored_as_it_is_shown: film("of-many/Megamind.avi"), (1, 1), untimed;
    a_film_of_an_old_editor_is_stored_as_it_is_shown: film("of-makers/editor.avi"), (1, 2);
    a_screencast_of_gnome_is_stored_as_it_is_shown: film("of-makers/gnome.webm"), (1, 10);
    a_program_stream_is_stored_as_it_is_shown: film("of-makers/city.mpg"), (1, 1);
    a_program_stream_of_one_second_is_stored_as_it_is_shown: film("of-makers/logo.mpg"), (5, 1);
    a_film_of_tmpgenc_without_a_container_is_stored_as_it_is_shown: film("of-makers/visual.mpv"), (1, 1), gaudy;
    a_theora_film_is_stored_as_it_is_shown: film("of-makers/gallery.ogv"), (1, 1);
    a_film_of_mkvmerge_with_a_cover_is_stored_as_it_is_shown: film("of-makers/mkvmerge-vp9.mkv"), (5, 1);
    an_av1_film_of_mkvmerge_is_stored_as_it_is_shown: film("of-makers/mkvmerge-av1.mkv"), (1, 1);
}
