//! What the web app's layout analysis makes of our boxes: the rule by which it finds where captions stand, over films with known
//! captions.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use captionacc::domain::flow::OnDamage;
use captionacc::ocr::Recognizer as _;
use captionacc::video::{SampleRequest, decode_jpeg, sample};

use crate::ocr::{CJK, LATIN, engine};
use crate::studio::{ffmpeg, film};

const WIDTH: usize = 1280;
const HEIGHT: usize = 720;
const SIZE: usize = 36;

/// The benchmark's captions of a kind, those that ffmpeg's filters take as they are, and as many again without their last and
/// without their first two characters: as many as a film of a quarter of an hour has samples, with lengths in common as its
/// captions have. The rule looks for columns where several lines begin and end.
fn texts(kind: &str) -> Vec<String> {
    let captions: serde_json::Value =
        serde_json::from_str(include_str!("../../bench/data/captions.json")).expect("JSON");
    let whole: Vec<&str> = captions[kind]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(serde_json::Value::as_str)
        .filter(|text| !text.contains(['\'', ':']))
        .collect();
    let shorter = |from: usize, less: usize| {
        whole.iter().map(move |text| {
            let characters: Vec<char> = text.chars().collect();
            let part: String = characters[from..characters.len() - less].iter().collect();
            part.trim().to_owned()
        })
    };
    shorter(0, 0).chain(shorter(0, 2)).chain(shorter(2, 0)).collect()
}

/// In pixels; right and bottom are beyond.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    left: usize,
    top: usize,
    right: usize,
    bottom: usize,
}

/// A filter that shows each caption for a second, one after the other.
fn captions(font: &str, texts: &[String], x: &str) -> String {
    let drawn: Vec<String> = texts
        .iter()
        .enumerate()
        .map(|(second, text)| {
            format!(
                "drawtext=fontfile={font}:fontsize={SIZE}:fontcolor=white:borderw=2:bordercolor=black:x={x}:y=640-ascent:\
                 text='{text}':enable='between(t,{second},{second}.99)'"
            )
        })
        .collect();
    drawn.join(",")
}

/// Where the captions stand: the pixels that they change of a picture of one colour.
fn drawn_bounds(filter: &str, count: usize) -> Vec<Bounds> {
    let color = format!("color=c=0x304060:s={WIDTH}x{HEIGHT}:r=1");
    let filter = format!("format=gray,{filter}");
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", &color, "-vf", &filter])
        .args([
            "-frames:v",
            &count.to_string(),
            "-f",
            "rawvideo",
            "-pix_fmt",
            "gray",
            "-",
        ])
        .output()
        .expect("the ffmpeg command is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let pictures = output.stdout.chunks_exact(WIDTH * HEIGHT);
    pictures
        .map(|picture| {
            let changed = (0..WIDTH * HEIGHT).filter(|&pixel| picture[pixel].abs_diff(picture[0]) > 20);
            let nothing = Bounds {
                left: WIDTH,
                top: HEIGHT,
                right: 0,
                bottom: 0,
            };
            changed.fold(nothing, |bounds, pixel| {
                let (x, y) = (pixel % WIDTH, pixel / WIDTH);
                Bounds {
                    left: bounds.left.min(x),
                    top: bounds.top.min(y),
                    right: bounds.right.max(x + 1),
                    bottom: bounds.bottom.max(y + 1),
                }
            })
        })
        .collect()
}

/// The boxes of all samples of a film, a sample a second, in the pixels that the app makes of them.
fn boxes(path: &Path) -> Vec<Bounds> {
    let request = SampleRequest {
        frame_rate_hz: 1.0,
        crop: None,
        worker_threads: 2,
        memory_bytes: 1 << 30,
        jpeg_qscale: 6,
        on_damage: OnDamage::Keep,
    };
    let (mut engine, never) = (engine(), AtomicBool::new(false));
    let mut found = Vec::new();
    sample(path, &request, &never, &mut |frame, _| {
        let picture = decode_jpeg(&frame.jpeg).expect("a JPEG of ours");
        let lines = engine.recognize(&picture, &never).expect("the engine reads it");
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "pixels"
        )]
        let pixels = |part: f64, all: usize| (part * all as f64).floor() as usize;
        for part in lines.iter().flat_map(|line| &line.boxes) {
            let (left, bottom) = (
                pixels(part.extent.left, WIDTH),
                pixels(part.extent.top + part.extent.height, HEIGHT),
            );
            let (width, height) = (pixels(part.extent.width, WIDTH), pixels(part.extent.height, HEIGHT));
            // What is narrower or lower is noise to the app.
            if width >= 10 && height >= 10 {
                found.push(Bounds {
                    left,
                    top: bottom - height,
                    right: left + width,
                    bottom,
                });
            }
        }
        Ok(())
    })
    .expect("the film is sampled");
    found
}

/// The value that is met most often, to two pixels.
fn mode(values: impl Iterator<Item = usize>) -> usize {
    let mut counts = BTreeMap::new();
    for value in values {
        *counts.entry(value.div_ceil(2) * 2).or_insert(0) += 1;
    }
    counts
        .into_iter()
        .max_by_key(|&(_, count)| count)
        .expect("there are boxes")
        .0
}

/// Where most begin and where most end of `ranges`, and how sharp both are: how many do at one place, of the most that meet in
/// one.
fn edges(ranges: &[[usize; 2]], size: usize) -> ([usize; 2], [f64; 2], [f64; 2]) {
    let mut density = vec![0_i32; size + 1];
    for &[start, end] in ranges {
        for place in &mut density[start..=end.min(size - 1)] {
            *place += 1;
        }
    }
    let steps: Vec<i32> = density.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let place = |wanted: i32| steps.iter().position(|&step| step == wanted).expect("a step of them");
    let (rise, fall) = (*steps.iter().max().expect("steps"), *steps.iter().min().expect("steps"));
    let most = f64::from(*density.iter().max().expect("places"));
    let strengths = [f64::from(rise), f64::from(-fall)];
    (
        [place(rise), place(fall)],
        strengths,
        strengths.map(|strength| strength / most),
    )
}

/// Where all captions are alike.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Anchor {
    Centre,
    Left,
    Right,
}

/// What the app takes for the anchor, and its crop bounds.
fn crop(boxes: &[Bounds]) -> (Anchor, Bounds) {
    #![expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "pixels"
    )]
    let width = mode(boxes.iter().map(|found| found.right - found.left)) as f64;
    let height = mode(boxes.iter().map(|found| found.bottom - found.top)) as f64;
    let across: Vec<_> = boxes.iter().map(|found| [found.left, found.right]).collect();
    let down: Vec<_> = boxes.iter().map(|found| [found.top, found.bottom]).collect();
    let ([start, end], [rise, fall], across_sharpness) = edges(&across, WIDTH);
    let ([top, bottom], _, down_sharpness) = edges(&down, HEIGHT);
    // Blurred edges get up to three times the padding of sharp ones, a tenth.
    let padding = |size: f64, sharpness: f64| (size * 0.1 * (1.0 + 2.0 * (1.0 - sharpness.min(1.0)))).ceil() as usize;
    let leftmost = across.iter().map(|[left, _]| *left).min().expect("there are boxes");
    let rightmost = across.iter().map(|[_, right]| *right).max().expect("there are boxes");
    let sparse = (2.0 * width).ceil() as usize;
    let middles: f64 = across.iter().map(|[left, right]| (left + right) as f64 / 2.0).sum();
    let is_in_the_middle = (middles / across.len() as f64 - WIDTH as f64 / 2.0).abs() < width;
    // Centred lines of one length begin in one column as often as they end in one. Of Chinese captions, twenty do and the answer is
    // sure from a dozen lines on; of Latin ones, whose lengths are all different, no more than four or five meet in a column of a
    // film's ninety, and three against five would be taken for captions that end alike.
    let anchor = if is_in_the_middle && (rise - fall).abs() < 0.3 * rise {
        Anchor::Centre
    } else if rise >= fall {
        Anchor::Left
    } else {
        Anchor::Right
    };
    let (is_left, is_right) = (anchor == Anchor::Left, anchor == Anchor::Right);
    let bounds = Bounds {
        left: if is_left {
            start - padding(width, across_sharpness[0])
        } else {
            leftmost.saturating_sub(sparse)
        },
        right: if is_right {
            end + padding(width, across_sharpness[1])
        } else {
            rightmost + sparse
        }
        .min(WIDTH),
        top: top - padding(height, down_sharpness[0]),
        bottom: (bottom + padding(height, down_sharpness[1])).min(HEIGHT),
    };
    (anchor, bounds)
}

fn check(name: Anchor, font: &str, texts: &[String], x: &str) {
    let filter = captions(font, texts, x);
    let expected = drawn_bounds(&filter, texts.len());
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("film.mp4");
    let source = film("bigbuckbunny.mp4");
    ffmpeg(&[
        "-stream_loop",
        "20",
        "-i",
        source.to_str().expect("a path of ours"),
        "-t",
        &texts.len().to_string(),
        "-an",
        "-vf",
        &format!("setpts=N/25/TB,scale={WIDTH}:{HEIGHT},{filter}"),
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-crf",
        "18",
        path.to_str().expect("a path of ours"),
    ]);
    let boxes = boxes(&path);
    let width = mode(boxes.iter().map(|found| found.right - found.left));
    if font == CJK {
        assert!(
            (SIZE * 85 / 100..=SIZE * 115 / 100).contains(&width),
            "{name:?}: the usual width is {width}"
        );
    }
    let (anchor, crop) = crop(&boxes);
    assert_eq!(anchor, name);
    for (text, bounds) in texts.iter().zip(&expected) {
        let is_inside = crop.left <= bounds.left
            && crop.top <= bounds.top
            && bounds.right <= crop.right
            && bounds.bottom <= crop.bottom;
        assert!(is_inside, "{name:?}: {text:?} at {bounds:?} is not within {crop:?}");
    }
    let long = texts
        .iter()
        .zip(&expected)
        .filter(|(text, _)| text.chars().count() >= 12);
    let widest = long
        .map(|(_, bounds)| bounds.right - bounds.left)
        .max()
        .expect("there is a long one");
    assert!(
        (crop.right - crop.left) * 10 <= widest * 14,
        "{name:?}: {crop:?} for captions of up to {widest} pixels"
    );
}

#[test]
fn the_app_crops_chinese_captions_closely_and_whole() {
    let texts = texts("chinese");
    check(Anchor::Centre, CJK, &texts, "(w-text_w)/2");
    check(Anchor::Left, CJK, &texts[..16], "120");
    check(Anchor::Right, CJK, &texts[..16], "w-text_w-120");
}

#[test]
fn the_app_crops_latin_captions_closely_and_whole() {
    let texts = texts("latin");
    check(Anchor::Centre, LATIN, &texts, "(w-text_w)/2");
    check(Anchor::Left, LATIN, &texts[..16], "60");
    check(Anchor::Right, LATIN, &texts[..16], "w-text_w-60");
}
