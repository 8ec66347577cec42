//! Films as people have them: colours of every kind, odd starts, joined and cut-off files, palettes, old codecs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use captionacc::domain::flow::OnDamage;
use captionacc::picture::RgbPicture;
use captionacc::video::{SampleRequest, SampledFrame, VideoError, decode_jpeg, probe, sample};

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

fn sampled(path: &Path, frame_rate_hz: f64) -> Result<Vec<SampledFrame>, VideoError> {
    let request = SampleRequest {
        frame_rate_hz,
        crop: None,
        worker_threads: 2,
        memory_bytes: 4 << 30,
        jpeg_qscale: 6,
        on_damage: OnDamage::Keep,
    };
    let mut frames = Vec::new();
    sample(path, &request, &AtomicBool::new(false), &mut |frame, _| {
        frames.push(frame);
        Ok(())
    })?;
    Ok(frames)
}

fn numbers(path: &Path, frame_rate_hz: f64) -> Vec<Option<usize>> {
    let frames = sampled(path, frame_rate_hz).unwrap_or_else(|error| panic!("{}: {error:?}", path.display()));
    frames
        .iter()
        .map(|frame| number_of(&decode_jpeg(&frame.jpeg).expect("a JPEG of ours")))
        .collect()
}

/// The numbers at 10 Hz of 25 pictures a second, of which the first is on display from `start_seconds` on.
fn expected(start_tenths: usize, pictures: usize) -> Vec<Option<usize>> {
    (0..start_tenths)
        .map(|_| Some(0))
        .chain(
            (0..)
                .map(|sample| sample * 25 / 10)
                .take_while(|number| *number < pictures)
                .map(Some),
        )
        .collect()
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
            yuv(
                "bt709",
                "tv",
                "yuv422p10le",
                "-c:v prores_ks -colorspace bt709 -color_primaries bt709 -color_trc bt709 -movflags +write_colr",
            ),
            true,
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
        ffmpeg("-f lavfi -i testsrc2=s=320x240 -frames:v 1", path)
    })
}
