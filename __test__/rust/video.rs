//! The sampler over real videos: which picture is stored, where its edges are, and what is refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use captionacc::domain::flow::{CropBounds, OnDamage};
use captionacc::picture::RgbPicture;
use captionacc::video::{SampleRequest, SampledFrame, VideoError, VideoInfo, decode_jpeg, probe, sample};

use crate::clips::{Clip, cached, difference, number_of, part, reference, turned, with_matrix};

const X264: &str = "-c:v libx264 -preset veryfast -g 24 -bf 3 -pix_fmt yuv420p";
const H264: Clip = Clip {
    name: "h264",
    extension: "mp4",
    size: (320, 240),
    rate: "25",
    pictures: 150,
    arguments: X264,
};

fn request(frame_rate_hz: f64, crop: Option<CropBounds>) -> SampleRequest {
    SampleRequest {
        frame_rate_hz,
        crop,
        worker_threads: 2,
        memory_bytes: 4 << 30,
        jpeg_qscale: 2,
        on_damage: OnDamage::Fail,
    }
}

fn sampled(path: &Path, frame_rate_hz: f64, crop: Option<CropBounds>) -> Result<Vec<SampledFrame>, VideoError> {
    sampled_with(path, &request(frame_rate_hz, crop))
}

fn sampled_with(path: &Path, request: &SampleRequest) -> Result<Vec<SampledFrame>, VideoError> {
    let mut frames: Vec<SampledFrame> = Vec::new();
    let mut all = None;
    let summary = sample(path, request, &AtomicBool::new(false), &mut |frame, total| {
        assert_eq!(frame.sample, frames.len() as u64, "in order, without a gap");
        assert_eq!(*all.get_or_insert(total), total);
        frames.push(frame);
        Ok(())
    })?;
    assert_eq!(summary.samples, frames.len() as u64);
    assert_eq!(all, Some(summary.samples));
    Ok(frames)
}

fn pictures(frames: &[SampledFrame]) -> Vec<RgbPicture> {
    let picture = |frame: &SampledFrame| {
        let picture = decode_jpeg(&frame.jpeg).expect("a JPEG of ours");
        assert_eq!((picture.width, picture.height), (frame.width, frame.height));
        picture
    };
    frames.iter().map(picture).collect()
}

fn numbers(path: &Path, frame_rate_hz: f64) -> Vec<Option<usize>> {
    let frames = sampled(path, frame_rate_hz, None).unwrap_or_else(|error| panic!("{}: {error:?}", path.display()));
    pictures(&frames).iter().map(number_of).collect()
}

/// The same samples as the ffmpeg command takes with its filter set to our rule.
fn assert_like_ffmpeg(name: &str, path: &Path, frame_rate_hz: f64) {
    let frames = sampled(path, frame_rate_hz, None).unwrap_or_else(|error| panic!("{name}: {error:?}"));
    let VideoInfo { width, height, .. } = probe(path).expect("it was sampled");
    let filter = format!("fps={frame_rate_hz}:round=up,scale={width}:{height}");
    let expected = reference(path, &filter, width, height);
    assert_eq!(
        frames.len(),
        expected.len(),
        "{name} at {frame_rate_hz} Hz: the number of samples"
    );
    for (sample, (ours, theirs)) in pictures(&frames).iter().zip(&expected).enumerate() {
        let off = difference(ours, theirs);
        assert!(
            off < 6.0,
            "{name} at {frame_rate_hz} Hz, sample {sample}: {off:.1} from ffmpeg's"
        );
    }
}

/// The clips of which the picture at a time is known: number = floor(time * rate).
#[expect(clippy::too_many_lines, reason = "a table")]
fn clips() -> Vec<Clip> {
    let clip = |name, extension, arguments| Clip {
        name,
        extension,
        arguments,
        ..H264
    };
    let x264_long = "-c:v libx264 -preset veryfast -g 9999 -keyint_min 9999 -sc_threshold 0 -bf 3 -pix_fmt yuv420p";
    vec![
        H264,
        clip("mov", "mov", X264),
        clip("mkv", "mkv", X264),
        clip("flv", "flv", X264),
        clip("ts", "ts", X264),
        clip(
            "fragmented",
            "mp4",
            "-c:v libx264 -preset veryfast -g 24 -movflags frag_keyframe+empty_moov -pix_fmt yuv420p",
        ),
        clip(
            "open-gop",
            "mp4",
            "-c:v libx264 -preset veryfast -x264-params open-gop=1:keyint=24:bframes=3:b-pyramid=normal -pix_fmt yuv420p",
        ),
        clip(
            "open-gop",
            "ts",
            "-c:v libx264 -preset veryfast -x264-params open-gop=1:keyint=24:bframes=3:b-pyramid=normal -pix_fmt yuv420p",
        ),
        clip(
            "intra-refresh",
            "ts",
            "-c:v libx264 -preset veryfast -x264-params intra-refresh=1:keyint=48 -pix_fmt yuv420p",
        ),
        clip("one-long-group", "mp4", x264_long),
        clip(
            "intra-only",
            "mp4",
            "-c:v libx264 -preset veryfast -g 1 -pix_fmt yuv420p",
        ),
        clip("422", "mp4", "-c:v libx264 -preset veryfast -g 24 -pix_fmt yuv422p"),
        clip("444", "mkv", "-c:v libx264 -preset veryfast -g 24 -pix_fmt yuv444p"),
        clip(
            "10-bit",
            "mp4",
            "-c:v libx264 -preset veryfast -g 24 -pix_fmt yuv420p10le",
        ),
        clip(
            "full-range",
            "mp4",
            "-c:v libx264 -preset veryfast -g 24 -pix_fmt yuvj420p",
        ),
        clip(
            "interlaced",
            "mp4",
            "-c:v libx264 -preset veryfast -g 24 -flags +ildct+ilme -x264-params tff=1 -pix_fmt yuv420p",
        ),
        clip(
            "interlaced",
            "ts",
            "-c:v libx264 -preset veryfast -g 24 -flags +ildct+ilme -x264-params tff=1 -pix_fmt yuv420p",
        ),
        Clip {
            size: (322, 242),
            ..clip("even", "mp4", X264)
        },
        Clip {
            size: (321, 241),
            ..clip("odd", "mkv", "-c:v libx264 -preset veryfast -g 24 -pix_fmt yuv444p")
        },
        Clip {
            size: (321, 241),
            ..clip(
                "odd-vp9",
                "webm",
                "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 24",
            )
        },
        clip(
            "hevc",
            "mp4",
            "-c:v libx265 -preset superfast -x265-params log-level=error:keyint=24:open-gop=1:bframes=3",
        ),
        clip(
            "hevc",
            "mkv",
            "-c:v libx265 -preset superfast -x265-params log-level=error:keyint=24:open-gop=0",
        ),
        clip(
            "hevc",
            "ts",
            "-c:v libx265 -preset superfast -x265-params log-level=error:keyint=24:open-gop=1:bframes=4",
        ),
        clip(
            "hevc-layers",
            "mp4",
            "-c:v libx265 -preset superfast -x265-params log-level=error:keyint=24:temporal-layers=1:bframes=4",
        ),
        clip(
            "hevc-10-bit",
            "mp4",
            "-c:v libx265 -preset superfast -pix_fmt yuv420p10le -x265-params log-level=error:keyint=24",
        ),
        clip(
            "vp8",
            "webm",
            "-c:v libvpx -deadline realtime -cpu-used 8 -g 24 -b:v 2M",
        ),
        clip(
            "vp8-hidden",
            "webm",
            "-c:v libvpx -auto-alt-ref 1 -lag-in-frames 16 -g 48 -b:v 2M",
        ),
        clip(
            "vp9",
            "webm",
            "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 24 -b:v 2M",
        ),
        clip(
            "vp9-hidden",
            "webm",
            "-c:v libvpx-vp9 -deadline good -cpu-used 5 -auto-alt-ref 1 -lag-in-frames 16 -g 48 -b:v 2M",
        ),
        clip("av1", "mp4", "-c:v libsvtav1 -preset 12 -g 24"),
        clip("av1", "webm", "-c:v libsvtav1 -preset 12 -g 24"),
        clip("mpeg4", "avi", "-c:v mpeg4 -q:v 3 -g 24"),
        clip("mpeg4-b", "mp4", "-c:v mpeg4 -q:v 3 -g 24 -bf 2"),
        clip("msmpeg4", "avi", "-c:v msmpeg4 -q:v 3 -g 24"),
        clip("mjpeg", "avi", "-c:v mjpeg -q:v 3 -pix_fmt yuvj420p"),
        clip("mpeg2", "ts", "-c:v mpeg2video -q:v 3 -g 24 -bf 2"),
        clip("raw", "avi", "-c:v rawvideo -pix_fmt bgr24"),
        clip(
            "sound-first",
            "mp4",
            "-f lavfi -i sine=440 -shortest -c:v libx264 -preset veryfast -g 24 -c:a aac",
        ),
        // No presentation times at all. ffmpeg's own command counts from the decoder's delay here, two pictures late.
        clip("h264-b", "avi", X264),
        clip("mpeg4-b", "avi", "-c:v mpeg4 -q:v 3 -g 24 -bf 2"),
        clip("mpeg1", "mpg", "-c:v mpeg1video -q:v 3 -g 24 -bf 2"),
        clip("mpeg2", "mpg", "-c:v mpeg2video -q:v 3 -g 24 -bf 2"),
        clip("mpeg2", "m2v", "-c:v mpeg2video -q:v 3 -g 24 -bf 2"),
        clip("h264", "mpg", X264),
        clip("theora", "ogg", "-c:v libtheora -q:v 7 -g 24"),
    ]
}

#[test]
fn every_sample_is_the_picture_on_display() {
    for clip in clips() {
        let path = clip.path();
        let expected = |hz: f64| -> Vec<Option<usize>> {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a number of a picture"
            )]
            let number = |sample: u32| (f64::from(sample) / hz * 25.0 + 1e-6) as usize;
            (0..10_000)
                .map(number)
                .take_while(|number| *number < clip.pictures)
                .map(Some)
                .collect()
        };
        for hz in [10.0, 25.0, 0.5] {
            let found = numbers(&path, hz);
            assert_eq!(found, expected(hz), "{}.{} at {hz} Hz", clip.name, clip.extension);
        }
    }
}

#[test]
fn samples_are_those_of_ffmpeg_at_any_rate() {
    let clip = |name, extension, rate, arguments| Clip {
        name,
        extension,
        rate,
        arguments,
        ..H264
    };
    let late = "-c:v libx264 -preset veryfast -g 24 -bf 3 -output_ts_offset 3.7";
    let made = [
        clip("ntsc", "mp4", "30000/1001", X264),
        clip("ntsc", "mkv", "30000/1001", X264),
        clip("film", "mp4", "24000/1001", X264),
        clip("sixty", "mp4", "60", X264),
        clip("ntsc-ts", "ts", "30000/1001", X264),
        clip(
            "ntsc-vp9",
            "webm",
            "30000/1001",
            "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 24 -b:v 2M",
        ),
        clip("late", "mp4", "25", late),
        clip("late", "mkv", "25", late),
        clip("late", "ts", "25", late),
        clip(
            "wide-pixels",
            "mp4",
            "25",
            "-vf setsar=4/3 -c:v libx264 -preset veryfast -g 24",
        ),
        clip(
            "narrow-pixels",
            "mkv",
            "25",
            "-vf setsar=8/9 -c:v libx264 -preset veryfast -g 24",
        ),
    ];
    for clip in made {
        for hz in [10.0, 3.0, 0.3, 7.49] {
            assert_like_ffmpeg(&format!("{}.{}", clip.name, clip.extension), &clip.path(), hz);
        }
    }
}

#[test]
fn a_picture_of_a_variable_rate_stays_until_the_next_one() {
    // In twenty-fifths of a second, by the formula that ffmpeg is given.
    let time = |number: usize| number + number / 20 * 9 + if number < 60 { 0 } else { 52 };
    let variable =
        "-vf setpts=N+floor(N/20)*9+52*gte(N\\,60) -fps_mode passthrough -c:v libx264 -preset veryfast -g 24 -bf 3";
    for extension in ["mp4", "mkv"] {
        let clip = Clip {
            name: "variable",
            extension,
            arguments: variable,
            ..H264
        };
        let end = time(clip.pictures - 1) + 1;
        // Tenths of Hz. ffmpeg's filter does not know how long the last picture stays, so it is no reference here.
        for (hz, tenths) in [(10.0, 100), (3.0, 30), (0.3, 3), (7.5, 75)] {
            let on_display = |sample: usize| (0..clip.pictures).rfind(|number| time(*number) * tenths <= sample * 250);
            let samples = (end * tenths).div_ceil(250);
            let expected: Vec<Option<usize>> = (0..samples).map(on_display).collect();
            assert_eq!(numbers(&clip.path(), hz), expected, "{extension} at {hz} Hz");
        }
    }
}

#[test]
fn before_the_first_picture_it_is_the_first_one() {
    let sound = |codec: &str| -> &'static str {
        format!(
            "-f lavfi -i sine=440 -map 0:v -map 1:a -vf setpts=PTS+1.2/TB -fps_mode passthrough -t 6 \
             -c:v libx264 -preset veryfast -g 24 -bf 3 -c:a {codec}"
        )
        .leak()
    };
    // In Matroska AAC starts with its encoder's delay, before 0.
    for (extension, codec) in [("mp4", "aac"), ("mkv", "pcm_s16le")] {
        let clip = Clip {
            name: "sound-before",
            extension,
            arguments: sound(codec),
            ..H264
        };
        let found = numbers(&clip.path(), 10.0);
        assert_eq!(found.len(), 60, "{extension}: the timeline starts with the sound");
        for (sample, number) in found.into_iter().enumerate() {
            let expected = (sample * 25).saturating_sub(12 * 25) / 10;
            assert_eq!(number, Some(expected), "{extension}, sample {sample}");
        }
    }
}

#[test]
fn an_edit_list_is_followed() {
    let path = cached("edited-1.mp4", |path| {
        // Copied from within a group of pictures: what comes before the cut is decoded but not shown.
        let made = H264.path();
        let status = Command::new("ffmpeg")
            .args(["-v", "error", "-y", "-ss", "1.2", "-i"])
            .arg(made)
            .args(["-c", "copy"])
            .arg(path)
            .status();
        assert!(status.expect("ffmpeg runs").success());
    });
    assert_like_ffmpeg("edited", &path, 10.0);
    let first = numbers(&path, 10.0)[0].expect("a number");
    assert_eq!(first, 30, "1.2 s of 25 Hz, not the key picture before it");
}

/// Mean of each channel.
fn mean_colour(picture: &RgbPicture) -> [f64; 3] {
    #[expect(clippy::cast_precision_loss, reason = "sums of bytes")]
    let mean = |channel: usize| {
        let bytes = picture.data.iter().skip(channel).step_by(3);
        let sum: u64 = bytes.map(|byte| u64::from(*byte)).sum();
        sum as f64 / (picture.data.len() / 3) as f64
    };
    [mean(0), mean(1), mean(2)]
}

#[test]
fn films_of_many_makers_are_sampled_as_ffmpeg_shows_them() {
    let cached = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/films");
    let folder = std::env::var_os("CAPTIONACC_FILMS").map_or(cached, PathBuf::from);
    let entries = |folder: &Path| fs::read_dir(folder).expect("scripts/fetch-films.sh");
    let mut films: Vec<PathBuf> = entries(&folder)
        .chain(entries(&folder.join("of-many")))
        .map(|entry| entry.expect("readable").path())
        .collect();
    films.retain(|film| {
        film.extension()
            .is_some_and(|extension| extension == "mp4" || extension == "avi")
    });
    assert!(films.len() >= 10, "{films:?}");
    let mut wrong = Vec::new();
    for film in films {
        let name = film
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        // MPEG-4 with B-frames in AVI, without times: ffmpeg's command counts from the decoder's delay there.
        let numbered = if name.starts_with("Megamind") {
            "setpts=N/FRAME_RATE/TB,"
        } else {
            ""
        };
        for hz in [2.0, 0.1] {
            let request = SampleRequest {
                on_damage: OnDamage::Keep,
                ..request(hz, None)
            };
            let mut frames = Vec::new();
            let outcome = sample(&film, &request, &AtomicBool::new(false), &mut |frame, _| {
                frames.push(frame);
                Ok(())
            });
            let damage = outcome.unwrap_or_else(|error| panic!("{name}: {error:?}")).damage;
            assert!(damage.stretches.is_empty(), "{name}: {damage:?}");
            let VideoInfo { width, height, .. } = probe(&film).expect("it was sampled");
            let exact = "flags=accurate_rnd+full_chroma_int+bicubic";
            let filter = format!("{numbered}fps={hz}:round=up,scale={width}:{height}:{exact}");
            let expected = reference(&film, &filter, width, height);
            if frames.len() != expected.len() {
                wrong.push(format!(
                    "{name} at {hz} Hz: {} samples, not {}",
                    frames.len(),
                    expected.len()
                ));
            }
            for (sample, (ours, theirs)) in pictures(&frames).iter().zip(&expected).enumerate() {
                let off = difference(ours, theirs);
                let (our_mean, their_mean) = (mean_colour(ours), mean_colour(theirs));
                let colour_off = (0..3)
                    .map(|at| (our_mean[at] - their_mean[at]).abs())
                    .fold(0.0, f64::max);
                if off > 6.0 || colour_off > 3.0 {
                    wrong.push(format!(
                        "{name} at {hz} Hz, sample {sample}: {off:.1}, in the mean {colour_off:.1}"
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_end_comes_from_the_packets() {
    let info = probe(&H264.path()).expect("a video");
    assert_eq!((info.width, info.height, info.codec.as_str()), (320, 240, "h264"));
    assert!((info.duration_seconds - 6.0).abs() < 1e-6, "{info:?}");
    assert!((info.frame_rate_hz - 25.0).abs() < 1e-9, "{info:?}");
    let late = Clip {
        name: "late",
        extension: "mkv",
        arguments: "-c:v libx264 -preset veryfast -g 24 -bf 3 -output_ts_offset 3.7",
        ..H264
    };
    let info = probe(&late.path()).expect("a video");
    assert!((info.duration_seconds - 6.0).abs() < 0.005, "{info:?}");
}

const TURNS: [[i32; 4]; 8] = [
    [1, 0, 0, 1],
    [0, 1, -1, 0],
    [-1, 0, 0, -1],
    [0, -1, 1, 0],
    [-1, 0, 0, 1],
    [1, 0, 0, -1],
    [0, 1, 1, 0],
    [0, -1, -1, 0],
];

/// A still picture, coded so finely that one pixel's offset shows.
const FINE: &str = "-c:v libx264 -qp 4 -preset veryfast -g 24 -pix_fmt";

#[test]
fn crop_bounds_are_exact_in_every_orientation_and_format() {
    let folder = tempfile::tempdir().expect("a folder");
    for format in ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le"] {
        let arguments: &'static str = format!("{FINE} {format}").leak();
        let size = (318, 238);
        let clip = Clip {
            name: "fine",
            size,
            pictures: 30,
            arguments,
            ..H264
        };
        let stored = fs::read(clip.path()).expect("made");
        let upright = pictures(&sampled(&clip.path(), 1.0, None).expect("sampled")).remove(0);
        for turn in TURNS {
            let path = folder.path().join(format!("{format}{turn:?}.mp4"));
            fs::write(&path, with_matrix(stored.clone(), turn)).expect("written");
            let whole = turned(&upright, turn);
            let shown = pictures(&sampled(&path, 1.0, None).expect("sampled")).remove(0);
            assert_eq!((shown.width, shown.height), (whole.width, whole.height), "{turn:?}");
            let off = difference(&shown, &whole);
            assert!(off < 3.0, "{format}, whole, turned by {turn:?}: {off}");
            for (left, top, width, height) in [(0, 0, 77, 83), (20, 40, 100, 60), (33, 51, 77, 45), (101, 100, 64, 33)]
            {
                let bounds = CropBounds {
                    left,
                    top,
                    right: left + width,
                    bottom: top + height,
                };
                let cut = pictures(&sampled(&path, 1.0, Some(bounds)).expect("sampled")).remove(0);
                assert_eq!((cut.width, cut.height), (width, height));
                let exact = difference(&cut, &part(&whole, left, top, width, height));
                for (right, down) in [(1, 0), (0, 1), (1, 1)] {
                    let beside = difference(&cut, &part(&whole, left + right, top + down, width, height));
                    assert!(
                        exact < 6.0 && exact < beside * 0.7,
                        "{format}, {turn:?}, {bounds:?}: {exact} beside {beside}"
                    );
                }
            }
            let (width, height) = (whole.width, whole.height);
            let corner = CropBounds {
                left: width - 1,
                top: height - 1,
                right: width,
                bottom: height,
            };
            assert_eq!(sampled(&path, 1.0, Some(corner)).expect("a pixel")[0].width, 1);
        }
    }
}

#[test]
fn turned_films_are_turned_as_ffmpeg_turns_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let stored = fs::read(H264.path()).expect("made");
    for turn in &TURNS[..4] {
        let path = folder.path().join("turned.mp4");
        fs::write(&path, with_matrix(stored.clone(), *turn)).expect("written");
        assert_like_ffmpeg(&format!("{turn:?}"), &path, 2.0);
    }
}

#[test]
fn pixels_that_are_not_square_are_shown_at_their_aspect() {
    let folder = tempfile::tempdir().expect("a folder");
    let clip = Clip {
        name: "wide-pixels",
        arguments: "-vf setsar=4/3 -c:v libx264 -preset veryfast -g 24",
        ..H264
    };
    let info = probe(&clip.path()).expect("a video");
    assert_eq!((info.width, info.height), (427, 240));
    let bounds = CropBounds {
        left: 400,
        top: 0,
        right: 427,
        bottom: 240,
    };
    let whole = pictures(&sampled(&clip.path(), 1.0, None).expect("sampled")).remove(0);
    let cut = pictures(&sampled(&clip.path(), 1.0, Some(bounds)).expect("sampled")).remove(0);
    assert!(difference(&cut, &part(&whole, 400, 0, 27, 240)) < 3.0);
    let turned = folder.path().join("turned.mp4");
    fs::write(&turned, with_matrix(fs::read(clip.path()).expect("made"), TURNS[1])).expect("written");
    let info = probe(&turned).expect("a video");
    assert_eq!((info.width, info.height), (240, 427));
    assert_eq!(sampled(&turned, 1.0, None).expect("sampled")[0].height, 427);
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    for clip in [
        H264,
        Clip {
            name: "one-long-group",
            arguments: clips()[9].arguments,
            ..H264
        },
    ] {
        let with = |worker_threads| {
            sampled_with(
                &clip.path(),
                &SampleRequest {
                    worker_threads,
                    ..request(10.0, None)
                },
            )
            .expect("sampled")
        };
        let one = with(1);
        assert!(
            [2, 3, 8].into_iter().all(|threads| with(threads) == one),
            "{}",
            clip.name
        );
    }
}

fn bounds(left: u32, top: u32, right: u32, bottom: u32) -> CropBounds {
    CropBounds {
        left,
        top,
        right,
        bottom,
    }
}

#[track_caller]
fn assert_refused(name: &str, outcome: Result<Vec<SampledFrame>, VideoError>, code: &str, says: &str) {
    let error = match outcome {
        Err(error) => error,
        Ok(frames) => panic!("{name}: {} frames instead of {code}", frames.len()),
    };
    assert_eq!(error.code(), code, "{name}: {error}");
    assert!(VideoError::CODES.contains(&code), "{code}");
    assert!(error.is_input_fault(), "{name}: {error}");
    assert!(error.to_string().contains(says), "{name}: {error}");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn what_is_no_video_is_refused_with_its_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let write = |name: &str, bytes: &[u8]| {
        fs::write(at(name), bytes).expect("written");
        at(name)
    };
    let try_one = |path: &Path| sampled(path, 1.0, None);

    assert_refused("missing", try_one(&at("missing.mp4")), "VIDEO_NOT_FOUND", "missing.mp4");
    assert_refused("nul", try_one(Path::new("a\0b")), "VIDEO_NOT_FOUND", "check video-path");
    assert_refused(
        "url",
        try_one(Path::new("http://127.0.0.1:9/film.mp4")),
        "VIDEO_NOT_FOUND",
        "127.0.0.1",
    );
    assert_refused("folder", try_one(folder.path()), "VIDEO_NOT_A_FILE", "a folder");
    let pipe = at("pipe.mp4");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .expect("a pipe");
    assert_refused("pipe", try_one(&pipe), "VIDEO_NOT_A_FILE", "a pipe");
    assert_refused(
        "device",
        try_one(Path::new("/dev/zero")),
        "VIDEO_NOT_A_FILE",
        "a device",
    );
    assert_refused("empty", try_one(&write("empty.mp4", b"")), "VIDEO_EMPTY", "0 bytes");
    assert_refused(
        "text",
        try_one(&write("text.mp4", b"not a video\n")),
        "NOT_A_VIDEO",
        "text.mp4",
    );
    assert_refused(
        "zeros",
        try_one(&write("zeros.mp4", &vec![0; 100_000])),
        "NOT_A_VIDEO",
        "zeros.mp4",
    );
    let film = H264.path();
    let target = film.display();
    for (name, content, kind) in [
        (
            "list.m3u8",
            format!("#EXTM3U\n#EXTINF:6,\n{target}\n#EXT-X-ENDLIST\n"),
            "an HLS playlist",
        ),
        (
            "list.ffconcat",
            format!("ffconcat version 1.0\nfile '{target}'\n"),
            "a concat list",
        ),
        ("list.txt", format!("file '{target}'\n"), "a concat list"),
        (
            "list.mpd",
            format!("<?xml version=\"1.0\"?><MPD><BaseURL>{target}</BaseURL></MPD>"),
            "an XML manifest",
        ),
    ] {
        assert_refused(
            name,
            try_one(&write(name, content.as_bytes())),
            "VIDEO_IS_A_PLAYLIST",
            kind,
        );
    }
    for (name, arguments) in [
        ("sound.m4a", "-f lavfi -i sine=440 -t 1 -c:a aac"),
        ("sound.mkv", "-f lavfi -i sine=440 -t 1 -c:a aac"),
        (
            "cover.m4a",
            "-f lavfi -i sine=440 -f lavfi -i color=s=64x64:r=1 -t 1 -c:a aac -c:v mjpeg -disposition:v attached_pic",
        ),
    ] {
        let path = at(name);
        let status = Command::new("ffmpeg")
            .args(["-v", "error", "-y"])
            .args(arguments.split_whitespace())
            .arg(&path)
            .status();
        assert!(status.expect("ffmpeg runs").success());
        assert_refused(name, try_one(&path), "NO_VIDEO_STREAM", "only sound");
    }
    let nothing = at("nothing.mp4");
    let status = Command::new("ffmpeg")
        .args([
            "-v",
            "error",
            "-f",
            "lavfi",
            "-i",
            "color=s=64x64",
            "-c:v",
            "libx264",
            "-frames:v",
            "0",
            "-movflags",
            "empty_moov",
        ])
        .arg(&nothing)
        .status();
    assert!(status.expect("ffmpeg runs").success());
    assert_refused("nothing", try_one(&nothing), "NO_FRAMES", "nothing.mp4");
}

#[test]
fn a_request_that_the_video_can_not_fulfil_is_refused() {
    let path = H264.path();
    for (name, crop, problem) in [
        ("right", bounds(0, 0, 321, 240), "outside the frame"),
        ("bottom", bounds(0, 0, 320, 241), "outside the frame"),
        ("huge", bounds(u32::MAX - 1, 0, u32::MAX, 1), "outside the frame"),
        ("empty", bounds(5, 5, 5, 9), "empty"),
        ("inverted", bounds(9, 5, 5, 9), "inverted"),
    ] {
        let outcome = sampled(&path, 10.0, Some(crop));
        assert_refused(name, outcome, "CROP_OUTSIDE_FRAME", problem);
        let text = sampled(&path, 10.0, Some(crop)).expect_err("refused").to_string();
        assert!(text.contains("320x240"), "{text}");
    }
    for hz in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-9, 1000.5] {
        assert_refused("rate", sampled(&path, hz, None), "INVALID_ARGUMENT", "frame-rate");
    }
    assert_eq!(sampled(&path, 1e-5, None).expect("slow, but a rate").len(), 1);
}

#[test]
fn a_file_without_its_end_is_truncated_whatever_its_container() {
    let folder = tempfile::tempdir().expect("a folder");
    let x264 = "-c:v libx264 -preset veryfast -g 24 -pix_fmt yuv420p";
    let clip = |name, extension, arguments| Clip {
        name,
        extension,
        arguments,
        ..H264
    };
    for clip in [
        H264,
        clip(
            "faststart",
            "mp4",
            "-c:v libx264 -preset veryfast -g 24 -pix_fmt yuv420p -movflags +faststart",
        ),
        clip("fragmented", "mp4", clips()[5].arguments),
        clip("mkv", "mkv", x264),
        clip(
            "vp9",
            "webm",
            "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 24 -b:v 2M",
        ),
        clip("mpeg4", "avi", "-c:v mpeg4 -q:v 3 -g 24"),
    ] {
        let whole = fs::read(clip.path()).expect("made");
        for share in [3, 5, 9] {
            let path = folder.path().join(format!("cut.{}", clip.extension));
            fs::write(&path, &whole[..whole.len() * share / 10]).expect("written");
            assert_refused(
                &format!("{} cut at {share}0 %", clip.name),
                sampled(&path, 10.0, None),
                "TRUNCATED",
                "cut off",
            );
        }
    }
}

#[test]
fn a_damaged_picture_fails_and_says_where() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, clip) in [
        ("h264", H264),
        ("hevc", clips()[20]),
        ("vp9", clips()[27]),
        ("mpeg4", clips()[31]),
    ] {
        let mut bytes = fs::read(clip.path()).expect("made");
        let middle = bytes.len() / 2;
        for (at, byte) in bytes[middle..middle + 6000].iter_mut().enumerate() {
            *byte ^= u8::try_from(at * 7 % 251).expect("a byte") | 1;
        }
        let path = folder.path().join(format!("damaged.{}", clip.extension));
        fs::write(&path, bytes).expect("written");
        let error = sampled(&path, 10.0, None)
            .err()
            .unwrap_or_else(|| panic!("{name}: sampled as if it were whole"));
        assert!(
            matches!(error.code(), "CORRUPT_VIDEO" | "TRUNCATED"),
            "{name}: {error:?}"
        );
        assert!(error.is_input_fault());
    }
}

#[test]
fn pictures_that_the_demuxer_passes_over_in_silence_are_missed() {
    let folder = tempfile::tempdir().expect("a folder");
    let clip = Clip {
        name: "clusters",
        extension: "mkv",
        arguments: "-c:v libx264 -preset veryfast -g 24 -pix_fmt yuv420p -cluster_time_limit 1000",
        ..H264
    };
    let whole = fs::read(clip.path()).expect("made");
    let clusters: Vec<usize> = (0..whole.len() - 4)
        .filter(|at| whole[*at..].starts_with(&[0x1f, 0x43, 0xb6, 0x75]))
        .collect();
    assert!(clusters.len() > 3, "{clusters:?}");
    let broken = clusters[2];
    let path = folder.path().join("broken.mkv");
    let mut bytes = whole;
    bytes[broken..broken + 4].fill(0);
    fs::write(&path, bytes).expect("written");
    let says = format!("its structure is broken at byte {broken}");
    assert_refused("a lost cluster", sampled(&path, 10.0, None), "CORRUPT_VIDEO", &says);
}

/// Where `needle` is first found in the second half.
fn after_middle(bytes: &[u8], needle: &[u8]) -> usize {
    let middle = bytes.len() / 2;
    let found = bytes[middle..]
        .windows(needle.len())
        .position(|window| window == needle);
    middle + found.expect("the element that is to be damaged")
}

/// The first tag of the second half of an FLV file, and where it ends.
fn flv_tag(bytes: &[u8]) -> (usize, usize) {
    let mut at = 13;
    loop {
        let size = u32::from_be_bytes([0, bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let end = at + 11 + usize::try_from(size).expect("24 bits");
        if at > bytes.len() / 2 {
            return (at, end);
        }
        at = end + 4;
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn damage_that_a_container_gives_away_is_found_where_it_is() {
    /// Damages a file and returns the byte that is to be named.
    type Damage = fn(&mut [u8]) -> usize;
    const CHAIN: &str = "its structure is broken at byte";
    let folder = tempfile::tempdir().expect("a folder");
    let clip = |name, extension, arguments| Clip {
        name,
        extension,
        arguments,
        ..H264
    };
    let avi = clip("mpeg4", "avi", "-c:v mpeg4 -q:v 3 -g 24");
    let flv = clip("flv", "flv", X264);
    let ogg = clip("theora", "ogg", "-c:v libtheora -q:v 7 -g 24");
    let mkv = clip(
        "clusters",
        "mkv",
        "-c:v libx264 -preset veryfast -g 24 -pix_fmt yuv420p -cluster_time_limit 1000",
    );
    let cases: [(&str, Clip, Damage, &str); 7] = [
        (
            "the name of an AVI chunk",
            avi,
            |bytes| {
                let at = after_middle(bytes, b"00dc");
                bytes[at + 1] = b'?';
                at
            },
            CHAIN,
        ),
        (
            "the size of an AVI chunk",
            avi,
            |bytes| {
                let at = after_middle(bytes, b"00dc");
                bytes[at + 6] ^= 0x40;
                at
            },
            CHAIN,
        ),
        (
            "the kind of an FLV tag",
            flv,
            |bytes| {
                let (at, _) = flv_tag(bytes);
                bytes[at] = 7;
                at
            },
            CHAIN,
        ),
        (
            "the size of an FLV tag",
            flv,
            |bytes| {
                let (at, end) = flv_tag(bytes);
                let is_longer = bytes[at + 3] & 1 == 0;
                bytes[at + 3] ^= 1;
                if is_longer { end + 1 } else { end - 1 }
            },
            CHAIN,
        ),
        (
            "the size after an FLV tag",
            flv,
            |bytes| {
                let (_, end) = flv_tag(bytes);
                bytes[end + 3] ^= 1;
                end
            },
            CHAIN,
        ),
        (
            "the content of an Ogg page",
            ogg,
            |bytes| {
                let at = after_middle(bytes, b"OggS");
                bytes[at + 300] ^= 0x55;
                at
            },
            "the checksum does not fit of the page at byte",
        ),
        (
            "the content of a Matroska cluster",
            mkv,
            |bytes| {
                let at = after_middle(bytes, &[0x1f, 0x43, 0xb6, 0x75]);
                bytes[at + 900] ^= 0x55;
                at
            },
            "the checksum does not fit of the cluster at byte",
        ),
    ];
    for (name, clip, damage, says) in cases {
        let mut bytes = fs::read(clip.path()).expect("made");
        let at = damage(&mut bytes);
        let path = folder.path().join(format!("damaged.{}", clip.extension));
        fs::write(&path, bytes).expect("written");
        assert_refused(
            name,
            sampled(&path, 10.0, None),
            "CORRUPT_VIDEO",
            &format!("{says} {at}"),
        );
    }
}

#[test]
fn damage_that_a_decoder_would_conceal_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, arguments) in [
        ("mjpeg", "-c:v mjpeg -q:v 3 -pix_fmt yuvj420p"),
        ("mpeg4", "-c:v mpeg4 -q:v 3 -g 24"),
    ] {
        let clip = Clip {
            name,
            extension: "avi",
            arguments,
            ..H264
        };
        let mut bytes = fs::read(clip.path()).expect("made");
        let chunk = after_middle(&bytes, b"00dc");
        let size = u32::from_le_bytes(*bytes[chunk + 4..].first_chunk().expect("its size"));
        let middle = chunk + 8 + usize::try_from(size / 2).expect("it is in memory");
        for byte in &mut bytes[middle..middle + 32] {
            *byte ^= 0x55;
        }
        let path = folder.path().join(format!("{name}.avi"));
        fs::write(&path, bytes).expect("written");
        assert_refused(name, sampled(&path, 25.0, None), "CORRUPT_VIDEO", "damaged at");
    }
}

#[test]
fn a_picture_that_its_decoder_refuses_is_an_error_where_the_container_is_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, arguments) in [
        ("vp8", "-c:v libvpx -deadline realtime -cpu-used 8 -g 24 -b:v 2M"),
        ("vp9", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 24 -b:v 2M"),
        ("av1", "-c:v libsvtav1 -preset 12 -g 24"),
    ] {
        let clip = Clip {
            name,
            extension: "ivf",
            arguments,
            ..H264
        };
        let mut bytes = fs::read(clip.path()).expect("made");
        // A header of 32 bytes; a picture's size and time, 12 bytes; the picture.
        let mut at = 32;
        for _ in 0..clip.pictures / 2 {
            let size = u32::from_le_bytes(*bytes[at..].first_chunk().expect("a picture"));
            at += 12 + usize::try_from(size).expect("it is in memory");
        }
        bytes[at + 12..at + 16].fill(0xff);
        let path = folder.path().join(format!("{name}.ivf"));
        fs::write(&path, bytes).expect("written");
        assert_refused(name, sampled(&path, 10.0, None), "CORRUPT_VIDEO", "damaged at");
        assert_eq!(
            sampled(&clip.path(), 10.0, None).expect("the whole one").len(),
            60,
            "{name}"
        );
    }
}

#[test]
fn garbage_never_becomes_a_crash() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("garbage");
    let mut state = 1_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).expect("31 bits")
    };
    for clip in [H264, clips()[2], clips()[4], clips()[31], clips()[27]] {
        let whole = fs::read(clip.path()).expect("made");
        for _ in 0..12 {
            let mut bytes = whole.clone();
            for _ in 0..40 {
                // Half of them in the headers.
                let range = if random() % 2 == 0 {
                    bytes.len()
                } else {
                    bytes.len().min(4096)
                };
                let at = random() % range;
                bytes[at] = u8::try_from(random() % 256).expect("a byte");
            }
            fs::write(&path, bytes).expect("written");
            if let Err(error) = sampled(&path, 2.0, None) {
                assert!(VideoError::CODES.contains(&error.code()), "{error}");
            }
        }
    }
}

#[test]
fn pictures_beyond_the_limit_are_refused_before_they_are_decoded() {
    let bomb = cached("bomb-1.avi", |path| {
        let arguments = "-v error -y -f lavfi -i color=s=12000x8000 -frames:v 2 -c:v mjpeg";
        let status = Command::new("ffmpeg")
            .args(arguments.split_whitespace())
            .arg(path)
            .status();
        assert!(status.expect("ffmpeg runs").success());
    });
    assert_refused("bomb", sampled(&bomb, 1.0, None), "VIDEO_TOO_LARGE", "12000x8000");
}

/// This process's line of /proc/self/status, in MiB.
fn status_mib(line: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let found = status.lines().find_map(|text| text.strip_prefix(line));
    let kib = found.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("a number of kB") / 1024
}

#[test]
fn a_giant_group_of_pictures_takes_no_more_memory_than_others() {
    // One key picture, then 10 s of noise: a group that is a multiple of what may be read ahead.
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("giant.mp4");
    let arguments =
        "-v error -f lavfi -i color=gray:s=960x540:r=25,noise=alls=100:allf=t -t 10 -c:v mpeg4 -q:v 1 -g 9999";
    let status = Command::new("ffmpeg")
        .args(arguments.split_whitespace())
        .arg(&path)
        .status();
    assert!(status.expect("ffmpeg runs").success());
    let group_mib = fs::metadata(&path).expect("made").len() >> 20;
    assert!(group_mib > 150, "{group_mib} MiB");
    let before_mib = status_mib("VmRSS:");
    let mut taken = 0;
    let crop = Some(bounds(0, 440, 960, 540));
    let summary = sample(&path, &request(10.0, crop), &AtomicBool::new(false), &mut |_, _| {
        taken += 1;
        Ok(())
    });
    assert_eq!((summary.expect("sampled").samples, taken), (100, 100));
    let taken_mib = status_mib("VmHWM:") - before_mib;
    assert!(taken_mib < 120, "{taken_mib} MiB for a group of {group_mib} MiB");
}

#[test]
fn a_stop_ends_it_and_no_further_frame_is_handed_out() {
    let path = H264.path();
    let stop = AtomicBool::new(true);
    let outcome = sample(&path, &request(10.0, None), &stop, &mut |_, _| {
        panic!("stopped before it began")
    });
    assert_eq!(outcome.expect_err("stopped").code(), "CANCELLED");
    for clip in [H264, clips()[9], clips()[14]] {
        let stop = AtomicBool::new(false);
        let mut taken = 0;
        let outcome = sample(&clip.path(), &request(10.0, None), &stop, &mut |_, _| {
            taken += 1;
            stop.store(taken == 3, Ordering::Relaxed);
            Ok(())
        });
        let error = outcome.expect_err("stopped");
        assert_eq!((error.code(), error.is_input_fault(), taken), ("CANCELLED", false, 3));
    }
}

#[test]
fn a_sink_that_fails_ends_it_with_its_reason() {
    let mut taken = 0;
    let outcome = sample(
        &H264.path(),
        &request(10.0, None),
        &AtomicBool::new(false),
        &mut |_, _| {
            taken += 1;
            if taken == 5 {
                Err("the disk is full".into())
            } else {
                Ok(())
            }
        },
    );
    let error = outcome.expect_err("refused");
    assert_eq!((error.code(), taken), ("FRAME_NOT_TAKEN", 5));
    assert_eq!(
        std::error::Error::source(&error).expect("the sink's").to_string(),
        "the disk is full"
    );
}

#[test]
fn only_whole_jpegs_are_decoded() {
    let frames = sampled(&H264.path(), 1.0, None).expect("sampled");
    let jpeg = &frames[0].jpeg;
    for (name, bytes) in [
        ("nothing", &[][..]),
        ("text", b"not a picture"),
        ("start", &jpeg[..2]),
        ("header", &jpeg[..300]),
        ("half", &jpeg[..jpeg.len() / 2]),
        ("nearly all", &jpeg[..jpeg.len() * 9 / 10]),
    ] {
        let error = decode_jpeg(bytes).expect_err(name);
        assert_eq!((error.code(), error.is_input_fault()), ("INVALID_JPEG", true), "{name}");
    }
}
