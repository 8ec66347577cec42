//! Films as people have them: colours of every kind, odd starts, joined and cut-off files, palettes, old codecs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use captionacc::domain::flow::OnDamage;
use captionacc::picture::RgbPicture;
use captionacc::video::{Damage, SampleRequest, SampledFrame, VideoError, decode_jpeg, probe, sample};

use crate::clips::{Clip, cached, number_of, reference};

const X264: &str = "-c:v libx264 -preset veryfast -g 24 -bf 3 -pix_fmt yuv420p";
const H264: Clip = Clip {
    name: "h264",
    extension: "mp4",
    size: (320, 240),
    rate: "25",
    pictures: 150,
    arguments: X264,
};

fn ffmpeg(arguments: &str, output: &Path) {
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-y"])
        .args(arguments.split_whitespace())
        .arg(output)
        .output()
        .expect("the ffmpeg command is installed");
    assert!(
        made.status.success(),
        "{arguments}: {}",
        String::from_utf8_lossy(&made.stderr)
    );
}

fn request(frame_rate_hz: f64) -> SampleRequest {
    SampleRequest {
        frame_rate_hz,
        crop: None,
        worker_threads: 2,
        memory_bytes: 4 << 30,
        jpeg_qscale: 6,
        on_damage: OnDamage::Keep,
    }
}

fn sampled(path: &Path, frame_rate_hz: f64) -> Result<Vec<SampledFrame>, VideoError> {
    let mut frames = Vec::new();
    sample(
        path,
        &request(frame_rate_hz),
        &AtomicBool::new(false),
        &mut |frame, _| {
            frames.push(frame);
            Ok(())
        },
    )?;
    Ok(frames)
}

fn number(jpeg: &[u8]) -> Option<usize> {
    number_of(&decode_jpeg(jpeg).expect("a JPEG of ours"))
}

/// The numbers at 10 Hz of a film that is damaged in places, and where.
fn kept(path: &Path, worker_threads: usize) -> Result<(Vec<Option<usize>>, Damage), VideoError> {
    let request = SampleRequest {
        worker_threads,
        ..request(10.0)
    };
    let mut numbers = Vec::new();
    let summary = sample(path, &request, &AtomicBool::new(false), &mut |frame, _| {
        numbers.push(number(&frame.jpeg));
        Ok(())
    })?;
    assert_eq!(summary.samples, numbers.len() as u64);
    Ok((numbers, summary.damage))
}

fn numbers(path: &Path, frame_rate_hz: f64) -> Vec<Option<usize>> {
    let frames = sampled(path, frame_rate_hz).unwrap_or_else(|error| panic!("{}: {error:?}", path.display()));
    // Those of one picture are alike, and looked at once.
    let of_one = frames.chunk_by(|one, other| one.jpeg == other.jpeg);
    of_one
        .flat_map(|alike| vec![number(&alike[0].jpeg); alike.len()])
        .collect()
}

/// The numbers at 10 Hz of 25 pictures a second, of which the first is on display from `start_seconds` on.
fn expected(start_tenths: usize, pictures: usize) -> Vec<Option<usize>> {
    let shown = (0..(pictures * 10).div_ceil(25)).map(|sample| sample * 25 / 10);
    vec![0; start_tenths].into_iter().chain(shown).map(Some).collect()
}

/// Red to grey, as patches of 80x80 pixels.
const PATCHES: [[u8; 3]; 12] = [
    [255, 0, 0],
    [0, 255, 0],
    [0, 0, 255],
    [255, 255, 0],
    [0, 255, 255],
    [255, 0, 255],
    [255, 255, 255],
    [0, 0, 0],
    [224, 172, 105],
    [128, 128, 128],
    [40, 90, 60],
    [200, 40, 120],
];

/// Six pictures of the patches, as bytes of RGB.
fn patches() -> PathBuf {
    cached("patches-1.rgb", |path| {
        let mut bytes = Vec::new();
        for y in 0..240 {
            for x in 0..320 {
                bytes.extend(PATCHES[y / 80 * 4 + x / 80]);
            }
        }
        fs::write(path, bytes.repeat(6)).expect("the cache is ours");
    })
}

fn patch(picture: &RgbPicture, index: usize) -> [u8; 3] {
    let (x, y) = (index % 4 * 80 + 40, index / 4 * 80 + 40);
    let at = (y * picture.width as usize + x) * 3;
    [picture.data[at], picture.data[at + 1], picture.data[at + 2]]
}

fn furthest(one: [u8; 3], other: [u8; 3]) -> u8 {
    (0..3).map(|at| one[at].abs_diff(other[at])).max().expect("three")
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn a_stored_picture_has_the_colours_of_the_film() {
    let yuv = |matrix: &str, range: &str, format: &str, codec: &str| {
        format!(
            "-vf scale=out_color_matrix={matrix}:out_range={range}:flags=accurate_rnd+full_chroma_inp,format={format} {codec}"
        )
    };
    let x264 = "-c:v libx264 -preset veryfast -qp 2";
    let x265 = "-c:v libx265 -preset superfast -x265-params log-level=error:qp=2";
    // What it is called, its extension, how it is made, and whether its colours are those that went in.
    let films: Vec<(&str, &str, String, bool)> = vec![
        (
            "h264-601",
            "mp4",
            yuv("bt601", "tv", "yuv420p", &format!("{x264} -colorspace smpte170m")),
            true,
        ),
        ("h264-untagged", "mp4", yuv("bt601", "tv", "yuv420p", x264), true),
        (
            "h264-709",
            "mp4",
            yuv("bt709", "tv", "yuv420p", &format!("{x264} -colorspace bt709")),
            true,
        ),
        (
            "h264-709-full",
            "mp4",
            yuv(
                "bt709",
                "pc",
                "yuvj420p",
                &format!("{x264} -colorspace bt709 -color_range pc"),
            ),
            true,
        ),
        (
            "h264-240m",
            "mkv",
            yuv("smpte240m", "tv", "yuv420p", &format!("{x264} -colorspace smpte240m")),
            true,
        ),
        (
            "h264-422-709",
            "mp4",
            yuv("bt709", "tv", "yuv422p", &format!("{x264} -colorspace bt709")),
            true,
        ),
        (
            "h264-444-709-full",
            "mp4",
            yuv(
                "bt709",
                "pc",
                "yuvj444p",
                &format!("{x264} -colorspace bt709 -color_range pc"),
            ),
            true,
        ),
        (
            "h264-10-bit-709",
            "mp4",
            yuv("bt709", "tv", "yuv420p10le", &format!("{x264} -colorspace bt709")),
            true,
        ),
        (
            "hevc-709",
            "mp4",
            yuv("bt709", "tv", "yuv420p", &format!("{x265} -colorspace bt709")),
            true,
        ),
        (
            "hevc-2020",
            "mp4",
            yuv(
                "bt2020",
                "tv",
                "yuv420p10le",
                &format!("{x265} -colorspace bt2020nc -color_trc bt2020-10 -color_primaries bt2020"),
            ),
            true,
        ),
        (
            "hevc-pq",
            "mp4",
            yuv(
                "bt2020",
                "tv",
                "yuv420p10le",
                &format!("{x265} -colorspace bt2020nc -color_trc smpte2084 -color_primaries bt2020"),
            ),
            true,
        ),
        (
            "vp9-709",
            "webm",
            yuv(
                "bt709",
                "tv",
                "yuv420p",
                "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -crf 2 -b:v 0 -colorspace bt709",
            ),
            true,
        ),
        (
            "av1-709",
            "mp4",
            yuv(
                "bt709",
                "tv",
                "yuv420p",
                "-c:v libsvtav1 -preset 12 -qp 4 -colorspace bt709",
            ),
            true,
        ),
        (
            "prores-709",
            "mov",
            yuv("bt709", "tv", "yuv422p10le", "-c:v prores_ks -colorspace bt709"),
            false,
        ),
        ("mpeg4", "avi", yuv("bt601", "tv", "yuv420p", "-c:v mpeg4 -q:v 1"), true),
        (
            "mjpeg",
            "avi",
            yuv("bt601", "pc", "yuvj420p", "-c:v mjpeg -q:v 1"),
            true,
        ),
        (
            "h264-rgb",
            "mp4",
            "-c:v libx264rgb -preset veryfast -qp 0 -pix_fmt rgb24".to_owned(),
            true,
        ),
        ("hevc-rgb", "mp4", format!("{x265} -pix_fmt gbrp"), true),
        (
            "vp9-rgb",
            "webm",
            "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -lossless 1 -pix_fmt gbrp".to_owned(),
            true,
        ),
        (
            "av1-rgb",
            "mkv",
            "-c:v libaom-av1 -cpu-used 8 -crf 1 -pix_fmt gbrp".to_owned(),
            true,
        ),
        ("ffv1-rgb", "mkv", "-c:v ffv1 -pix_fmt bgr0".to_owned(), true),
        ("ffv1-gray", "mkv", "-c:v ffv1 -pix_fmt gray".to_owned(), false),
        ("png", "mov", "-c:v png -pix_fmt rgb24".to_owned(), true),
        ("raw", "avi", "-c:v rawvideo -pix_fmt bgr24".to_owned(), true),
    ];
    let patches = patches();
    let folder = tempfile::tempdir().expect("a folder");
    let mut wrong = Vec::new();
    for (name, extension, arguments, faithful) in films {
        let film = cached(&format!("colours-2-{name}.{extension}"), |path| {
            let input = format!("-f rawvideo -pix_fmt rgb24 -s 320x240 -r 6 -i {}", patches.display());
            ffmpeg(&format!("{input} {arguments}"), path);
        });
        let frames = sampled(&film, 2.0).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let flags = "flags=accurate_rnd+full_chroma_int+full_chroma_inp";
        let shown = reference(&film, &format!("select=eq(n\\,0),scale=320:240:{flags}"), 320, 240).remove(0);
        // Twice: as this program reads it back, and as others do.
        let jpeg = folder.path().join("stored.jpg");
        fs::write(&jpeg, &frames[0].jpeg).expect("written");
        let by_others = reference(&jpeg, &format!("scale=320:240:{flags}"), 320, 240).remove(0);
        let by_us = decode_jpeg(&frames[0].jpeg).expect("a JPEG of ours");
        for (index, original) in PATCHES.iter().enumerate() {
            let theirs = patch(&shown, index);
            for (whose, stored) in [("ours", &by_us), ("others", &by_others)] {
                let stored = patch(stored, index);
                if furthest(stored, theirs) > 3 || faithful && furthest(stored, *original) > 8 {
                    wrong.push(format!(
                        "{name}, {original:?}: {stored:?} ({whose}), ffmpeg's PNG has {theirs:?}"
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_timeline_starts_with_the_sound_however_late_the_picture_comes() {
    for (seconds, tenths) in [(59, 590), (61, 610), (600, 6000)] {
        let clip = Clip {
            name: "late-picture",
            extension: "mkv",
            arguments: format!(
                "-f lavfi -i sine=440:sample_rate=8000 -map 0:v -map 1:a -vf setpts=PTS+{seconds}/TB -fps_mode passthrough \
                 -t {} {X264} -c:a pcm_s16le",
                seconds + 6
            )
            .leak(),
            ..H264
        };
        assert_eq!(numbers(&clip.path(), 10.0), expected(tenths, 150), "{seconds} s");
    }
}

#[test]
fn the_first_picture_may_come_late_where_packets_have_no_presentation_times() {
    for (name, extension, codec) in [
        ("mpeg1", "mpg", "-c:v mpeg1video -q:v 3 -g 24 -bf 2 -c:a mp2"),
        ("mpeg2", "mpg", "-c:v mpeg2video -q:v 3 -g 24 -bf 2 -c:a mp2"),
        ("mpeg2", "vob", "-c:v mpeg2video -q:v 3 -g 24 -bf 2 -c:a ac3"),
        (
            "h264",
            "mpg",
            "-c:v libx264 -preset veryfast -g 24 -bf 3 -pix_fmt yuv420p -c:a mp2",
        ),
        ("mpeg4-b", "avi", "-c:v mpeg4 -q:v 3 -g 24 -bf 2 -c:a mp2"),
        (
            "h264-b",
            "avi",
            "-c:v libx264 -preset veryfast -g 24 -bf 3 -pix_fmt yuv420p -c:a mp2",
        ),
    ] {
        // Sound alone for 2 s; and all of it 3 s late.
        for (kind, tenths, options) in [
            ("sound-alone", 20, "-vf setpts=PTS+2/TB -fps_mode passthrough -t 8"),
            ("with-sound", 0, "-t 6"),
            ("late", 0, "-t 6 -output_ts_offset 3"),
            (
                "late-sound-alone",
                20,
                "-vf setpts=PTS+2/TB -fps_mode passthrough -t 8 -output_ts_offset 3",
            ),
        ] {
            if extension == "avi" && kind != "with-sound" {
                // ffmpeg writes the first picture at 0 there, and a gap behind it.
                continue;
            }
            let clip = Clip {
                name: format!("{kind}-{name}").leak(),
                extension,
                arguments: format!("-f lavfi -i sine=440:sample_rate=44100 -map 0:v -map 1:a {options} {codec}").leak(),
                ..H264
            };
            let found = numbers(&clip.path(), 10.0);
            assert!(
                (60 + tenths..62 + tenths).contains(&found.len()),
                "{kind} {name}.{extension}: {}",
                found.len()
            );
            for (sample, number) in found.into_iter().enumerate() {
                // Encoders of sound begin up to 20 ms before the first of it.
                let at = |milliseconds: usize| (milliseconds.saturating_sub(tenths * 100) / 40).min(149);
                let allowed = [at(sample * 100), at((sample * 100).saturating_sub(20))];
                let shown = number.is_some_and(|number| allowed.contains(&number));
                assert!(
                    shown,
                    "{kind} {name}.{extension}, sample {sample}: {number:?}, not {allowed:?}"
                );
            }
        }
    }
}

#[test]
fn a_stream_of_an_avi_may_start_late_by_its_header() {
    let folder = tempfile::tempdir().expect("a folder");
    for codec in ["mpeg4", "h264"] {
        let video = if codec == "h264" {
            X264
        } else {
            "-c:v mpeg4 -q:v 3 -g 24 -bf 2"
        };
        let clip = Clip {
            name: format!("late-{codec}").leak(),
            extension: "avi",
            arguments: format!("-f lavfi -i sine=440 -map 0:v -map 1:a -t 6 {video} -c:a pcm_s16le").leak(),
            ..H264
        };
        let mut bytes = fs::read(clip.path()).expect("made");
        let header = bytes
            .windows(8)
            .position(|window| &window[..4] == b"strh")
            .expect("a stream's header");
        // Its start, in units of a picture here: 50 of them are 2 s.
        bytes[header + 8 + 28] = 50;
        let path = folder.path().join(format!("{codec}.avi"));
        fs::write(&path, bytes).expect("written");
        assert_eq!(numbers(&path, 10.0), expected(20, 150), "{codec}");
    }
}

#[test]
fn the_last_picture_of_a_mov_with_a_coarse_clock_has_its_length() {
    for scale in [600, 2500, 90_000] {
        let clip = Clip {
            name: "coarse-clock",
            extension: "mov",
            arguments: format!("{X264} -video_track_timescale {scale}").leak(),
            ..H264
        };
        let info = probe(&clip.path()).expect("a video");
        assert!(
            (info.duration_seconds - 6.0).abs() < 1e-6,
            "time scale {scale}: {info:?}"
        );
        assert_eq!(numbers(&clip.path(), 10.0), expected(0, 150), "time scale {scale}");
    }
}

#[test]
fn of_several_video_tracks_the_largest_is_taken() {
    for (extension, options) in [("mkv", ""), ("mp4", ""), ("ts", "")] {
        let small = Clip { pictures: 50, ..H264 }.path();
        let film = cached(&format!("two-tracks-1{}.{extension}", options.len()), |path| {
            ffmpeg(
                &format!(
                    "-f lavfi -i color=red:s=64x48:r=25:d=2 -i {} -map 0:v -map 1:v {options} {X264}",
                    small.display()
                ),
                path,
            );
        });
        let frames = sampled(&film, 10.0).expect("sampled");
        assert_eq!((frames[0].width, frames[0].height), (320, 240), "{extension} {options}");
    }
}

#[test]
fn a_palette_that_the_first_packet_alone_carries_holds_for_all() {
    let input = patches();
    let raw = format!(
        "-f rawvideo -pix_fmt rgb24 -s 320x240 -r 6 -stream_loop 9 -i {}",
        input.display()
    );
    let palette = "-filter_complex split[a][b];[a]palettegen[p];[b][p]paletteuse";
    for (name, extension, codec) in [
        ("raw", "avi", "-c:v rawvideo -pix_fmt pal8"),
        ("raw", "mov", "-c:v rawvideo -pix_fmt pal8"),
        ("png", "avi", "-c:v png -pix_fmt pal8"),
        ("qtrle", "mov", "-c:v qtrle -pix_fmt rgb24"),
    ] {
        let film = cached(&format!("palette-1-{name}.{extension}"), |path| {
            ffmpeg(&format!("{raw} {palette} {codec} -frames:v 40"), path);
        });
        let frames = match sampled(&film, 6.0) {
            Ok(frames) => frames,
            Err(error) => panic!("{name}.{extension}: {error:?}"),
        };
        assert_eq!(frames.len(), 40, "{name}.{extension}");
        for frame in &frames {
            let picture = decode_jpeg(&frame.jpeg).expect("a JPEG of ours");
            for (index, original) in PATCHES.iter().enumerate() {
                let stored = patch(&picture, index);
                assert!(
                    furthest(stored, *original) <= 8,
                    "{name}.{extension}, picture {}, {original:?}: {stored:?}",
                    frame.sample
                );
            }
        }
    }
}

/// Pictures `first..first + count` of 25 a second.
fn stretch(name: &str, extension: &str, first: usize, count: usize, options: &str) -> PathBuf {
    cached(&format!("stretch-1-{name}-{first}-{count}.{extension}"), |path| {
        let whole = Clip { pictures: 300, ..H264 }.path();
        let end = first + count;
        ffmpeg(
            &format!(
                "-i {} -vf trim=start_frame={first}:end_frame={end},setpts=PTS-STARTPTS {options} {X264}",
                whole.display()
            ),
            path,
        );
    })
}

fn joined(parts: &[PathBuf], folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    let bytes: Vec<u8> = parts.iter().flat_map(|part| fs::read(part).expect("made")).collect();
    fs::write(&path, bytes).expect("written");
    path
}

#[test]
fn segments_that_were_joined_are_one_film() {
    let folder = tempfile::tempdir().expect("a folder");
    let parts: Vec<PathBuf> = (0..5)
        .map(|at| {
            // 60 pictures are 2.4 s.
            let offset = format!(
                "-output_ts_offset {}.{} -muxdelay 0 -muxpreload 0",
                1 + at * 24 / 10,
                at * 24 % 10
            );
            stretch("continuing-from-1", "ts", at * 60, 60, &offset)
        })
        .collect();
    let film = joined(&parts, folder.path(), "continuing.ts");
    assert_eq!(numbers(&film, 10.0), expected(0, 300));
    assert_eq!(numbers(&film, 25.0), (0..300).map(Some).collect::<Vec<_>>());
}

#[test]
fn a_recording_whose_time_starts_again_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let segments = |extension: &str| -> Vec<PathBuf> {
        (0..3)
            .map(|at| stretch("from-zero", extension, at * 100, 100, ""))
            .collect()
    };
    let film = joined(&segments("ts"), folder.path(), "again.ts");
    assert_eq!(numbers(&film, 10.0), expected(0, 300), "ts");
    // What a server writes that appends a second push to the first: one header, then the tags of both.
    let parts = segments("flv");
    let tags = |part: &PathBuf| fs::read(part).expect("made")[13..].to_vec();
    let mut bytes = fs::read(&parts[0]).expect("made");
    bytes.extend(tags(&parts[1]));
    bytes.extend(tags(&parts[2]));
    let film = folder.path().join("again.flv");
    fs::write(&film, bytes).expect("written");
    assert_eq!(numbers(&film, 10.0), expected(0, 300), "flv");
}

#[test]
fn a_cut_off_recording_is_truncated_where_its_end_can_be_known() {
    let folder = tempfile::tempdir().expect("a folder");
    let clip = |extension, arguments| Clip {
        name: "to-be-cut",
        extension,
        arguments,
        ..H264
    };
    for (clip, share) in [
        (clip("flv", X264), 5),
        (clip("flv", X264), 8),
        (
            clip(
                "webm",
                "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 24 -b:v 2M -live 1",
            ),
            5,
        ),
        (
            clip(
                "webm",
                "-c:v libvpx -deadline realtime -cpu-used 8 -g 24 -b:v 2M -live 1",
            ),
            7,
        ),
        (clip("ogv", "-c:v libtheora -q:v 7 -g 24"), 5),
        (clip("ts", X264), 6),
        (clip("m2ts", X264), 6),
    ] {
        let whole = fs::read(clip.path()).expect("made");
        let mut cut = whole.len() * share / 10;
        // Within a packet of a transport stream, and one of m2ts.
        cut += usize::from(cut % 188 == 0 || cut % 192 == 0);
        let path = folder.path().join(format!("cut.{}", clip.extension));
        fs::write(&path, &whole[..cut]).expect("written");
        let error = match sampled(&path, 10.0) {
            Err(error) => error,
            Ok(frames) => panic!("{} cut at {share}0 %: {} frames", clip.extension, frames.len()),
        };
        assert_eq!(error.code(), "TRUNCATED", "{}: {error}", clip.extension);
        assert_eq!(
            sampled(&clip.path(), 10.0).expect("whole").len(),
            60,
            "{}",
            clip.extension
        );
    }
    // Between two tags nothing but the header's own words tell.
    let whole = fs::read(clip("flv", X264).path()).expect("made");
    let mut at = 13;
    while at < whole.len() / 2 {
        let size = u32::from_be_bytes([0, whole[at + 1], whole[at + 2], whole[at + 3]]);
        at += 15 + usize::try_from(size).expect("24 bits");
    }
    let path = folder.path().join("between.flv");
    fs::write(&path, &whole[..at]).expect("written");
    let error = sampled(&path, 10.0).expect_err("cut");
    assert_eq!(error.code(), "TRUNCATED", "{error}");
    assert!(error.to_string().contains("s long, and ends at 2.9 s"), "{error}");
}

#[test]
fn every_reason_has_words() {
    let folder = tempfile::tempdir().expect("a folder");
    // A codec that is not built in, and says nothing of its pictures' size before it is decoded.
    let film = cached("unsupported-1.mkv", |path| {
        ffmpeg("-f lavfi -i testsrc=s=320x240:r=5:d=1 -c:v snow -strict -2", path);
    });
    let error = sampled(&film, 1.0).expect_err("no decoder");
    assert_eq!(error.code(), "UNSUPPORTED_CODEC", "{error}");
    assert!(error.to_string().contains("snow"), "{error}");
    // Damage of which the decoder has to say something.
    let clip = Clip {
        name: "vp9",
        extension: "ivf",
        arguments: "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 24 -b:v 2M",
        ..H264
    };
    let mut bytes = fs::read(clip.path()).expect("made");
    let mut at = 32;
    for _ in 0..clip.pictures / 2 {
        let size = u32::from_le_bytes(*bytes[at..].first_chunk().expect("a picture"));
        at += 12 + usize::try_from(size).expect("it is in memory");
    }
    bytes[at + 12..at + 16].fill(0xff);
    let path = folder.path().join("damaged.ivf");
    fs::write(&path, bytes).expect("written");
    let error = sampled(&path, 10.0).expect_err("damaged");
    assert!(
        error.to_string().contains("(Invalid data found when processing input"),
        "{error}"
    );
    assert!(!error.to_string().contains("()"), "{error}");
}

#[test]
fn codecs_of_old_films_and_of_editors_are_read() {
    let source = "-f lavfi -i testsrc2=s=320x240:r=25:d=2";
    let mut missing = Vec::new();
    for (name, extension, codec) in [
        ("cinepak", "avi", "-c:v cinepak"),
        ("qtrle", "mov", "-c:v qtrle"),
        ("flashsv", "flv", "-c:v flashsv"),
        ("flashsv2", "flv", "-c:v flashsv2"),
        ("dnxhd", "mov", "-s 1280x720 -c:v dnxhd -b:v 90M -pix_fmt yuv422p"),
        ("dnxhr", "mov", "-c:v dnxhd -profile:v dnxhr_hq -pix_fmt yuv422p"),
        ("utvideo", "avi", "-c:v utvideo"),
        ("svq1", "mov", "-c:v svq1"),
        ("cfhd", "mov", "-c:v cfhd"),
        ("zmbv", "avi", "-c:v zmbv"),
        ("msvideo1", "avi", "-c:v msvideo1"),
        ("rpza", "mov", "-c:v rpza"),
        ("smc", "mov", "-c:v smc"),
        ("magicyuv", "avi", "-c:v magicyuv"),
        ("ffvhuff", "avi", "-c:v ffvhuff"),
        ("h263p", "avi", "-c:v h263p -s 352x288"),
        ("flv1", "flv", "-c:v flv"),
        ("v210", "mov", "-c:v v210"),
    ] {
        let film = cached(&format!("codec-1-{name}.{extension}"), |path| {
            ffmpeg(&format!("{source} {codec}"), path);
        });
        match sampled(&film, 5.0) {
            Ok(frames) if frames.len() == 10 => {
                let (width, height) = (frames[0].width, frames[0].height);
                let filter = format!("fps=5:round=up,scale={width}:{height}");
                let theirs = reference(&film, &filter, width, height);
                for (ours, theirs) in frames.iter().zip(&theirs) {
                    let picture = decode_jpeg(&ours.jpeg).expect("a JPEG of ours");
                    let off = crate::clips::difference(&picture, theirs);
                    if off > 8.0 {
                        missing.push(format!("{name}, sample {}: {off:.1} from ffmpeg's", ours.sample));
                    }
                }
            }
            Ok(frames) => missing.push(format!("{name}: {} frames", frames.len())),
            Err(error) => missing.push(format!("{name}: {error}")),
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn any_rate_is_sampled_on_any_film() {
    let one_hz = Clip {
        rate: "1",
        pictures: 8,
        name: "one-hz",
        ..H264
    };
    let found = numbers(&one_hz.path(), 10.0);
    assert_eq!(found, (0..80).map(|sample| Some(sample / 10)).collect::<Vec<_>>());
    let still = cached("still-1.mp4", |path| {
        ffmpeg(
            &format!("-loop 1 -r 1/25 -i {} -t 25 {X264}", still_picture().display()),
            path,
        );
    });
    assert_eq!(sampled(&still, 10.0).expect("sampled").len(), 250);
    assert_eq!(numbers(&H264.path(), 1000.0).len(), 6000);
    let error = sampled(&H264.path(), 1000.1).expect_err("a mistake");
    assert_eq!(error.code(), "INVALID_ARGUMENT", "{error}");
}

fn still_picture() -> PathBuf {
    cached("still-1.png", |path| {
        ffmpeg("-f lavfi -i testsrc2=s=320x240 -frames:v 1", path);
    })
}

/// A film of 150 pictures whose key pictures are 12 apart, and where the packet of each picture begins.
fn ivf(name: &'static str, codec: &'static str) -> (Vec<u8>, Vec<usize>) {
    let clip = Clip {
        name,
        extension: "ivf",
        arguments: codec,
        ..H264
    };
    let bytes = fs::read(clip.path()).expect("made");
    let mut packets = Vec::new();
    // A header of 32 bytes; a picture's size and time, 12 bytes; the picture.
    let mut at = 32;
    while at < bytes.len() {
        packets.push(at + 12);
        let size = u32::from_le_bytes(*bytes[at..].first_chunk().expect("a picture"));
        at += 12 + usize::try_from(size).expect("it is in memory");
    }
    (bytes, packets)
}

const VP9: &str = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 12 -b:v 2M";

/// The film with these pictures' packets made unreadable.
fn damaged(bytes: &[u8], packets: &[usize], pictures: &[usize], path: &Path) {
    let mut bytes = bytes.to_vec();
    for picture in pictures {
        bytes[packets[*picture]..][..4].fill(0xff);
    }
    fs::write(path, bytes).expect("written");
}

#[test]
fn what_cannot_be_decoded_shows_the_last_good_picture_and_is_reported() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, codec) in [
        ("every-12-vp9", VP9),
        (
            "every-12-vp8",
            "-c:v libvpx -deadline realtime -cpu-used 8 -g 12 -b:v 2M",
        ),
        (
            "every-12-av1",
            "-c:v libsvtav1 -preset 12 -g 12 -svtav1-params pred-struct=1",
        ),
    ] {
        let (bytes, packets) = ivf(name, codec);
        let path = folder.path().join("damaged.ivf");
        // From 3.00 s to the next key picture at 3.36 s.
        damaged(&bytes, &packets, &[75], &path);
        for threads in [1, 2, 5] {
            let (found, damage) = kept(&path, threads).unwrap_or_else(|error| panic!("{name}: {error}"));
            let mut wanted = expected(0, 150);
            wanted[30..34].fill(Some(74));
            assert_eq!(found, wanted, "{name}");
            assert_eq!(damage.samples, 4, "{name}: {damage:?}");
            assert_eq!(damage.stretches.len(), 1, "{name}: {damage:?}");
            let summary = damage.summary().expect("damage");
            assert_eq!(summary, "0.4 s damaged: 00:00:03.0-00:00:03.4", "{name}");
            assert!(!damage.stretches[0].reason.is_empty(), "{name}: {damage:?}");
        }
        let refusing = SampleRequest {
            on_damage: OnDamage::Fail,
            ..request(10.0)
        };
        let error = sample(&path, &refusing, &AtomicBool::new(false), &mut |_, _| Ok(())).expect_err("damaged");
        assert_eq!(error.code(), "CORRUPT_VIDEO", "{name}: {error}");
        assert!(error.to_string().contains("damaged at 3.000 s"), "{name}: {error}");
    }
}

#[test]
fn at_the_start_it_is_the_first_good_picture() {
    let folder = tempfile::tempdir().expect("a folder");
    let (bytes, packets) = ivf("every-12-vp9", VP9);
    let path = folder.path().join("damaged.ivf");
    damaged(&bytes, &packets, &[0], &path);
    let (found, damage) = kept(&path, 2).expect("the rest of it is good");
    let mut wanted = expected(0, 150);
    wanted[..5].fill(Some(12));
    assert_eq!(found, wanted);
    assert_eq!(damage.samples, 5, "{damage:?}");
}

#[test]
fn at_the_end_it_is_the_last_good_picture() {
    let folder = tempfile::tempdir().expect("a folder");
    let (bytes, packets) = ivf("every-12-vp9", VP9);
    let path = folder.path().join("damaged.ivf");
    damaged(&bytes, &packets, &[146], &path);
    let (found, damage) = kept(&path, 2).expect("the rest of it is good");
    let mut wanted = expected(0, 150);
    wanted[59] = Some(145);
    assert_eq!(found, wanted);
    assert_eq!(damage.samples, 1, "{damage:?}");
    let end = damage.stretches[0].to_seconds;
    assert!((end - 6.0).abs() < 1e-6, "{damage:?}");
}

#[test]
fn several_places_are_told_apart_and_too_many_are_too_many() {
    let folder = tempfile::tempdir().expect("a folder");
    let (bytes, packets) = ivf("every-12-vp9", VP9);
    let path = folder.path().join("damaged.ivf");
    // Two pictures before the key pictures 24 and 132: from 0.88 and 5.20 s, 0.08 s each.
    damaged(&bytes, &packets, &[22, 130], &path);
    let (found, damage) = kept(&path, 2).expect("a tenth and no more");
    let mut wanted = expected(0, 150);
    (wanted[9], wanted[52]) = (Some(21), Some(129));
    assert_eq!(found, wanted);
    assert_eq!((damage.samples, damage.stretches.len()), (2, 2), "{damage:?}");
    damaged(&bytes, &packets, &[1, 61], &path);
    let error = kept(&path, 2).expect_err("9 of 60");
    assert_eq!((error.code(), error.is_input_fault()), ("CORRUPT_VIDEO", true));
    assert!(
        error
            .to_string()
            .contains("of 60 samples cannot be shown, more than a tenth"),
        "{error}"
    );
}

#[test]
fn a_picture_that_is_hit_within_a_group_hides_those_that_refer_to_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let clip = Clip {
        name: "every-12",
        extension: "mkv",
        arguments: "-c:v libx264 -preset veryfast -g 12 -bf 2 -pix_fmt yuv420p -x264-params scenecut=0",
        ..H264
    };
    let mut bytes = fs::read(clip.path()).expect("made");
    // Garbage over a thousand bytes in the middle: its cluster's checksum tells, and the decoder.
    let middle = bytes.len() / 2;
    for byte in &mut bytes[middle..middle + 1000] {
        *byte ^= 0x5a;
    }
    let path = folder.path().join("damaged.mkv");
    fs::write(&path, bytes).expect("written");
    let (found, damage) = kept(&path, 2).expect("the rest of it is good");
    assert!(damage.samples > 0 && damage.samples <= 6, "{damage:?}");
    for (sample, (found, own)) in found.iter().zip(expected(0, 150)).enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "a time in a film of 6 s")]
        let time = sample as f64 / 10.0;
        let is_hit = damage
            .stretches
            .iter()
            .any(|hit| hit.from_seconds <= time && time < hit.to_seconds);
        assert!(*found == own || is_hit, "sample {sample}: {found:?}, {damage:?}");
    }
}

#[test]
fn packets_that_a_capture_lost_are_reported_and_the_rest_is_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let clip = Clip {
        name: "every-12",
        extension: "ts",
        arguments: "-c:v libx264 -preset veryfast -g 12 -bf 0 -pix_fmt yuv420p",
        ..H264
    };
    let whole = fs::read(clip.path()).expect("made");
    // One packet of the picture in the middle: with bytes of a picture, without the start of one.
    let is_middle = |packet: &[u8]| packet[1] & 0x5f == 1 && packet[2] == 0 && packet[3] & 0x30 == 0x10;
    let packets: Vec<&[u8]> = whole.chunks(188).collect();
    let lost = packets.len() / 2
        + packets[packets.len() / 2..]
            .iter()
            .position(|packet| is_middle(packet))
            .expect("one");
    let path = folder.path().join("capture.ts");
    let bytes: Vec<u8> = [&packets[..lost], &packets[lost + 1..]].concat().concat();
    fs::write(&path, bytes).expect("written");
    let (found, damage) = kept(&path, 2).expect("the rest of it is good");
    assert_eq!(damage.stretches.len(), 1, "{damage:?}");
    assert!((1..=5).contains(&damage.samples), "{damage:?}");
    let wrong = found
        .iter()
        .zip(expected(0, 150))
        .filter(|(found, own)| **found != *own)
        .count();
    assert!(wrong as u64 <= damage.samples, "{found:?}, {damage:?}");
    assert_eq!(found.len(), 60);
}

#[test]
fn pictures_that_are_missing_from_a_file_are_reported() {
    let folder = tempfile::tempdir().expect("a folder");
    let clip = Clip {
        name: "clusters",
        extension: "mkv",
        arguments: "-c:v libx264 -preset veryfast -g 12 -pix_fmt yuv420p -cluster_time_limit 400",
        ..H264
    };
    let mut bytes = fs::read(clip.path()).expect("made");
    let clusters: Vec<usize> = (0..bytes.len() - 4)
        .filter(|at| bytes[*at..].starts_with(&[0x1f, 0x43, 0xb6, 0x75]))
        .collect();
    let broken = clusters[clusters.len() / 2];
    bytes[broken..broken + 4].fill(0);
    let path = folder.path().join("broken.mkv");
    fs::write(&path, bytes).expect("written");
    let (found, damage) = kept(&path, 2).expect("the rest of it is good");
    assert_eq!(found.len(), 60);
    assert_eq!(damage.stretches.len(), 1, "{damage:?}");
    assert!((1..=6).contains(&damage.samples), "{damage:?}");
    let says = format!("its structure is broken at byte {broken}");
    assert_eq!(damage.stretches[0].reason, says);
    let wrong = found
        .iter()
        .zip(expected(0, 150))
        .filter(|(found, own)| **found != *own)
        .count();
    assert!(wrong as u64 <= damage.samples, "{found:?}, {damage:?}");
}

#[test]
fn a_film_that_does_not_fit_into_the_memory_is_refused_and_others_get_fewer_decoders() {
    let with = |memory_bytes| {
        let request = SampleRequest {
            memory_bytes,
            worker_threads: 8,
            ..request(10.0)
        };
        let mut frames = Vec::new();
        sample(&H264.path(), &request, &AtomicBool::new(false), &mut |frame, _| {
            frames.push(frame);
            Ok(())
        })?;
        Ok::<_, VideoError>(frames)
    };
    let all = with(4 << 30).expect("plenty");
    assert!(with(140 << 20).expect("enough for one or two") == all);
    let error = with(129 << 20).expect_err("too little");
    assert_eq!((error.code(), error.is_input_fault()), ("VIDEO_TOO_LARGE", true));
    assert!(
        error.to_string().contains("129 MB are allowed: raise child-memory-mb"),
        "{error}"
    );
}

#[test]
fn what_the_file_says_of_its_length_is_told_where_its_end_is_not_known() {
    let of = |extension: &'static str, arguments: &'static str| {
        let clip = Clip {
            name: "open-end",
            extension,
            arguments,
            ..H264
        };
        probe(&clip.path()).expect("a video").open_end()
    };
    assert_eq!(of("mp4", X264), None);
    assert_eq!(of("flv", X264), None);
    let nothing = Some("pictures until 6.0 s, the file does not say how long it is".to_owned());
    assert_eq!(of("ts", X264), nothing);
    assert_eq!(
        of(
            "webm",
            "-c:v libvpx -deadline realtime -cpu-used 8 -g 24 -b:v 2M -live 1"
        ),
        nothing
    );
}

/// The pictures of an AVI file, and what comes before the list of them.
fn avi_pictures(bytes: &[u8]) -> (&[u8], Vec<Vec<u8>>) {
    let word = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().expect("a size"));
    let size = |at: usize| usize::try_from(word(at)).expect("it is in memory");
    let movi = bytes.windows(4).position(|word| word == b"movi").expect("its pictures");
    let end = movi + size(movi - 4);
    let mut at = movi + 4;
    let mut pictures = Vec::new();
    while at < end {
        let length = size(at + 4);
        if bytes[at..].starts_with(b"00dc") {
            pictures.push(bytes[at + 8..at + 8 + length].to_vec());
        }
        at += 8 + length.next_multiple_of(2);
    }
    (&bytes[..movi - 8], pictures)
}

#[test]
fn b_frames_that_old_writers_packed_into_other_packets_are_shown() {
    const PICTURE: [u8; 4] = [0, 0, 1, 0xb6];
    let clip = Clip {
        name: "to-be-packed",
        extension: "avi",
        arguments: "-c:v mpeg4 -vtag DX50 -bf 1 -q:v 3 -g 24",
        ..H264
    };
    let bytes = fs::read(clip.path()).expect("made");
    let (head, pictures) = avi_pictures(&bytes);
    let start = |picture: &[u8]| picture.windows(4).position(|word| word == PICTURE).expect("a picture");
    let is_b = |picture: &Vec<u8>| picture[start(picture) + 4] >> 6 == 2;
    // As DivX 5 did: a P-frame with the B-frame that is shown before it, and then a packet that says "no new picture".
    let mut packed: Vec<Vec<u8>> = Vec::new();
    for picture in &pictures {
        if is_b(picture) {
            packed.last_mut().expect("a B-frame is not the first").extend(picture);
            packed.push([&PICTURE[..], &[0b0101_0000, 0b0100_1111, 0x7f]].concat());
        } else {
            packed.push(picture.clone());
        }
    }
    assert!(packed.iter().filter(|packet| packet.len() == 7).count() > 50);
    let first = &mut packed[0];
    let at = start(first);
    first.splice(at..at, *b"\0\0\x01\xb2DivX503b1393p");
    let mut list = b"movi".to_vec();
    for packet in packed {
        list.extend(b"00dc");
        list.extend(u32::try_from(packet.len()).expect("a picture").to_le_bytes());
        list.extend(&packet);
        list.resize(list.len().next_multiple_of(2), 0);
    }
    let mut film = head.to_vec();
    film.extend(b"LIST");
    film.extend(u32::try_from(list.len()).expect("a short film").to_le_bytes());
    film.extend(list);
    let length = u32::try_from(film.len() - 8).expect("a short film");
    film[4..8].copy_from_slice(&length.to_le_bytes());
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("packed.avi");
    fs::write(&path, film).expect("written");
    assert_eq!(numbers(&path, 25.0), (0..150).map(Some).collect::<Vec<_>>());
    assert_eq!(numbers(&path, 10.0), expected(0, 150));
}

#[test]
fn a_wrong_length_in_a_file_of_unknown_size_is_told_and_not_believed() {
    let clip = Clip {
        name: "announced",
        extension: "mkv",
        arguments: X264,
        ..H264
    };
    let mut bytes = fs::read(clip.path()).expect("made");
    // The segment's size becomes an unknown one, as that of a recorder that cannot go back; the length that was announced,
    // in milliseconds, is another one.
    let segment = bytes
        .windows(4)
        .position(|word| word == [0x18, 0x53, 0x80, 0x67])
        .expect("a segment");
    assert_eq!(bytes[segment + 4], 1, "a size of eight bytes");
    bytes[segment + 5..segment + 12].fill(0xff);
    let duration = bytes
        .windows(3)
        .position(|word| word == [0x44, 0x89, 0x88])
        .expect("a duration of eight bytes");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("announced.mkv");
    for (announced_seconds, told) in [(60.0, Some("pictures until 6.0 s, the file says 60.0 s")), (6.1, None)] {
        bytes[duration + 3..duration + 11].copy_from_slice(&f64::to_be_bytes(announced_seconds * 1000.0));
        fs::write(&path, &bytes).expect("written");
        assert_eq!(numbers(&path, 10.0), expected(0, 150), "{announced_seconds} s");
        let info = probe(&path).expect("a video");
        assert_eq!(info.open_end().as_deref(), told, "{announced_seconds} s");
    }
    // Cut off within an element it is truncated all the same.
    fs::write(&path, &bytes[..bytes.len() * 7 / 10]).expect("written");
    assert_eq!(sampled(&path, 10.0).expect_err("cut").code(), "TRUNCATED");
}

#[test]
fn an_avi_whose_size_is_a_few_bytes_too_large_is_whole() {
    let clip = Clip {
        name: "sizes",
        extension: "avi",
        arguments: "-c:v mpeg4 -q:v 3 -g 24",
        ..H264
    };
    let whole = fs::read(clip.path()).expect("made");
    let size = u32::from_le_bytes(*whole[4..].first_chunk().expect("its size"));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sizes.avi");
    for more in [1, 2, 8, 12, 40] {
        let mut bytes = whole.clone();
        bytes[4..8].copy_from_slice(&(size + more).to_le_bytes());
        fs::write(&path, &bytes).expect("written");
        assert_eq!(numbers(&path, 10.0), expected(0, 150), "{more} bytes too large");
    }
    // Without its index, so that what is missing is of a picture.
    let index = whole.windows(4).rposition(|word| word == b"idx1").expect("an index");
    for missing in [3, 8, 40] {
        fs::write(&path, &whole[..index - missing]).expect("written");
        let error = sampled(&path, 10.0).expect_err("cut");
        assert_eq!(error.code(), "TRUNCATED", "{missing} bytes before its index: {error}");
        // The same, and its size fits what is there but for a few bytes.
        let mut bytes = whole[..index - missing].to_vec();
        let short = u32::try_from(bytes.len() - 8).expect("a short film") + 8;
        bytes[4..8].copy_from_slice(&short.to_le_bytes());
        fs::write(&path, &bytes).expect("written");
        let error = sampled(&path, 10.0).expect_err("cut");
        assert_eq!(
            error.code(),
            "TRUNCATED",
            "{missing} bytes of the last picture: {error}"
        );
    }
}

#[test]
fn a_packet_that_is_lost_in_the_last_picture_is_damage() {
    let folder = tempfile::tempdir().expect("a folder");
    let clip = Clip {
        name: "every-picture",
        extension: "ts",
        arguments: "-c:v libx264 -preset veryfast -g 1 -bf 0 -pix_fmt yuv420p",
        ..H264
    };
    let whole = fs::read(clip.path()).expect("made");
    let packets: Vec<&[u8]> = whole.chunks(188).collect();
    let is_video = |packet: &[u8]| packet[1] & 0x1f == 1 && packet[2] == 0;
    let last_begins = packets
        .iter()
        .rposition(|packet| is_video(packet) && packet[1] & 0x40 != 0)
        .expect("a picture");
    let lost = last_begins
        + 1
        + packets[last_begins + 1..]
            .iter()
            .position(|packet| is_video(packet))
            .expect("of more packets than one");
    assert!(lost + 1 < packets.len(), "not the last packet of all");
    let path = folder.path().join("capture.ts");
    fs::write(&path, [&packets[..lost], &packets[lost + 1..]].concat().concat()).expect("written");
    let (found, damage) = kept(&path, 2).expect("the rest of it is good");
    assert_eq!(found.len(), 60);
    assert_eq!(damage.stretches.len(), 1, "{damage:?}");
    assert!(damage.stretches[0].from_seconds > 5.9, "{damage:?}");
    let wrong = found
        .iter()
        .zip(expected(0, 150))
        .filter(|(found, own)| **found != *own)
        .count();
    assert!(wrong as u64 <= damage.samples, "{found:?}, {damage:?}");
}

#[test]
fn two_recordings_whose_clocks_are_hours_apart_are_one_film_without_a_pause() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = Clip { pictures: 300, ..H264 }.path();
    let whole = whole.display();
    let sound = "-f lavfi -i sine=440:sample_rate=44100";
    for (name, input, maps) in [
        ("silent", "", ""),
        ("with-sound", sound, "-map 0:v -map 1:a -shortest -c:a mp2"),
    ] {
        let segment = |first: usize, offset: &str| {
            cached(&format!("recording-2-{name}-at-{offset}.ts"), |path| {
                let trim = format!("trim=start_frame={first}:end_frame={},setpts=PTS-STARTPTS", first + 150);
                ffmpeg(
                    &format!("-i {whole} {input} -vf {trim} {maps} {X264} -bf 0 -output_ts_offset {offset}"),
                    path,
                );
            })
        };
        let parts = [segment(0, "3"), segment(150, "11000")];
        let film = joined(&parts, folder.path(), "hours.ts");
        let found = numbers(&film, 10.0);
        assert!((120..=121).contains(&found.len()), "{name}: {}", found.len());
        for (sample, number) in found.into_iter().enumerate() {
            // Encoders of sound begin a little before the first of it, and the timeline with them.
            let at = |milliseconds: usize| (milliseconds / 40).min(299);
            let allowed = [at(sample * 100), at((sample * 100).saturating_sub(35))];
            let shown = number.is_some_and(|number| allowed.contains(&number));
            assert!(shown, "{name}, sample {sample}: {number:?}, not {allowed:?}");
        }
    }
    // A film with a still of half a minute is not joined, whether its sound goes on meanwhile or it has none.
    for (name, input, maps) in [("silent", "", ""), ("with-sound", sound, "-map 0:v -map 1:a -c:a mp2")] {
        let still = cached(&format!("long-still-2-{name}.ts"), |path| {
            let late = "setpts=PTS+gte(N\\,100)*30/TB";
            ffmpeg(
                &format!("-i {whole} {input} {maps} -vf {late} -fps_mode passthrough -t 40 {X264}"),
                path,
            );
        });
        let found = numbers(&still, 10.0);
        assert_eq!(found[200], Some(99), "{name}");
        assert!(found.len() > 395, "{name}: {}", found.len());
        assert!(found[345] > Some(100), "{name}: {:?}", found[345]);
    }
}
