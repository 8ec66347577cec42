//! OCR over pictures with real rendered text: drawn by the `ffmpeg` command with fonts from `fonts-noto-cjk` and
//! `fonts-dejavu-core`, read with the models that `scripts/fetch-models.sh` gets.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use captionacc::ocr::{Extent, Line as TextLine, OcrError, OcrModels, PpOcr, Recognizer, joined_text, recognize_all};
use captionacc::picture::RgbPicture;

pub const CJK: &str = "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc";
pub const LATIN: &str = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf";

/// White text to draw: font, size in pixels, position of its upper left corner, words.
type Line<'a> = (&'a str, u32, [u32; 2], &'a str);

/// A blue-grey picture with text.
fn draw(width: u32, height: u32, lines: &[Line]) -> RgbPicture {
    let color = format!("color=c=0x304060:s={width}x{height}");
    let mut filters = vec!["format=rgb24".to_owned()];
    filters.extend(lines.iter().map(|(font, size, [x, y], text)| {
        format!("drawtext=fontfile={font}:fontsize={size}:fontcolor=white:x={x}:y={y}:text='{text}'")
    }));
    raw_picture(width, height, &["-f", "lavfi", "-i", &color, "-vf", &filters.join(",")])
}

fn raw_picture(width: u32, height: u32, arguments: &[&str]) -> RgbPicture {
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error"])
        .args(arguments)
        .args(["-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"])
        .output()
        .expect("the ffmpeg command is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout.len(), width as usize * height as usize * 3);
    RgbPicture {
        width,
        height,
        data: output.stdout,
    }
}

fn models() -> OcrModels {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/models");
    let folder = std::env::var_os("CAPTIONACC_OCR_MODELS").map_or(installed, PathBuf::from);
    OcrModels::find(Some(&folder)).expect("the models are there: scripts/fetch-models.sh")
}

/// A new engine on weights that are loaded once.
pub fn engine() -> PpOcr {
    static LOADED: OnceLock<Mutex<PpOcr>> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| Mutex::new(PpOcr::load(&models()).expect("the models load")));
    loaded.lock().expect("no test fails while it forks").fork()
}

fn recognize(picture: &RgbPicture) -> Vec<TextLine> {
    engine()
        .recognize(picture, &AtomicBool::new(false))
        .expect("the engine reads the picture")
}

fn texts(lines: &[TextLine]) -> Vec<&str> {
    lines.iter().map(|line| line.text.as_str()).collect()
}

/// Draws one line into a 1080p frame and checks what is read of it, spaces and punctuation too.
fn check_line(font: &str, size: u32, text: &str) {
    let lines = recognize(&draw(1920, 1080, &[(font, size, [300, 900], text)]));
    assert_eq!(texts(&lines), [text], "{lines:?}");
    for (confidence, text) in lines.iter().flat_map(|line| {
        let boxes = line.boxes.iter().map(|part| (part.confidence, &part.text));
        boxes.chain([(line.confidence, &line.text)])
    }) {
        assert!(confidence > 0.5 && confidence <= 1.0, "{text}: {confidence}");
    }
}

#[test]
fn chinese_latin_and_mixed_lines_are_read() {
    check_line(CJK, 54, "我们明天早上八点出发去机场");
    check_line(CJK, 28, "这个故事发生在很久以前");
    check_line(LATIN, 54, "Nobody knows where the old map came from");
    check_line(LATIN, 28, "The train leaves at half past seven");
    check_line(CJK, 44, "我用 Google 找到了 25 个答案");
    check_line(CJK, 44, "這座城市的夜景十分美麗，聽說還有煙火");
    check_line(CJK, 40, "他说：“好！”（笑）、再见……");
    check_line(LATIN, 40, "Une journée très agréable à Zürich");
}

#[test]
fn a_box_is_a_wide_character_or_a_word() {
    let lines = recognize(&draw(1920, 1080, &[(CJK, 44, [300, 900], "我用 Google 找，好吗")]));
    let boxes: Vec<_> = lines[0].boxes.iter().map(|part| part.text.as_str()).collect();
    assert_eq!(boxes, ["我", "用", "Google", "找", "，", "好", "吗"]);
    let first = lines[0].boxes[0].extent;
    for pair in lines[0].boxes.windows(2) {
        let [before, after] = [pair[0].extent, pair[1].extent];
        assert!(before.left + before.width <= after.left, "{pair:?}");
        // To the bit: that is how a reader of the boxes alone knows a line.
        assert_eq!(
            (after.top.to_bits(), after.height.to_bits()),
            (first.top.to_bits(), first.height.to_bits())
        );
    }
}

#[test]
fn a_box_is_where_its_text_stands() {
    // The ink of these capitals, measured in the picture itself.
    let picture = draw(1600, 800, &[(LATIN, 64, [400, 600], "HARBOR HOTEL")]);
    let is_ink = |x: usize, y: usize| picture.data[(y * 1600 + x) * 3] > 200;
    let columns: Vec<_> = (0..1600).filter(|&x| (0..800).any(|y| is_ink(x, y))).collect();
    let rows: Vec<_> = (0..800).filter(|&y| (0..1600).any(|x| is_ink(x, y))).collect();
    let edge = |list: &[usize], size: f64, last: bool| {
        let position = if last {
            list.last().map(|end| end + 1)
        } else {
            list.first().copied()
        };
        f64::from(u32::try_from(position.expect("there is ink")).expect("a pixel position")) / size
    };
    let lines = recognize(&picture);
    assert_eq!(texts(&lines), ["HARBOR HOTEL"]);
    let found = lines[0].extent();
    let check = |name: &str, outward: f64, pixels: f64| {
        let outward = outward * pixels;
        assert!(
            (-2.0..2.0).contains(&outward),
            "the {name} edge is {outward} pixels outside of the ink: {found:?}"
        );
    };
    check("left", edge(&columns, 1600.0, false) - found.left, 1600.0);
    check("right", found.left + found.width - edge(&columns, 1600.0, true), 1600.0);
    check("upper", edge(&rows, 800.0, false) - found.top, 800.0);
    check("lower", found.top + found.height - edge(&rows, 800.0, true), 800.0);
}

/// The parts of a picture where text was added to it, in pixels: left, top, right, bottom.
fn added(before: &[u8], after: &[u8], width: usize) -> Option<[usize; 4]> {
    let pixels = before
        .as_chunks::<3>()
        .0
        .iter()
        .zip(after.as_chunks::<3>().0)
        .enumerate();
    let places = pixels.filter(|(_, (one, other))| one[0].abs_diff(other[0]) > 64);
    places.fold(None, |extent, (pixel, _)| {
        let (x, y) = (pixel % width, pixel / width);
        let [left, top, right, bottom] = extent.unwrap_or([x, y, x + 1, y + 1]);
        Some([left.min(x), top.min(y), right.max(x + 1), bottom.max(y + 1)])
    })
}

/// The places of `parts`, drawn one after the other as one line whose base is at `base`: in fractions, of each part its
/// columns and the line's rows; with the picture of the whole line.
fn typeset(font: &str, size: u32, style: &str, base: u32, parts: &[&str]) -> (RgbPicture, Vec<Extent>) {
    // Of the height of a tenth, so that much can be drawn in little time; of the width of 1080p, so that detection halves it.
    let (width, height) = (1920, 128);
    let mut filters = vec!["format=rgb24".to_owned()];
    filters.extend((1..=parts.len()).map(|count| {
        let text = parts[..count].concat();
        let text = text.trim_end();
        format!(
            "drawtext=fontfile={font}:fontsize={size}:fontcolor=white:{style}x=300:y={base}-ascent:text='{text}':enable='eq(n,{count})'"
        )
    }));
    let color = format!("color=c=0x304060:s={width}x{height}:r=1");
    let output = Command::new("ffmpeg")
        .args([
            "-nostdin",
            "-v",
            "error",
            "-f",
            "lavfi",
            "-i",
            &color,
            "-vf",
            &filters.join(","),
        ])
        .args([
            "-frames:v",
            &(parts.len() + 1).to_string(),
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-",
        ])
        .output()
        .expect("the ffmpeg command is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let pictures: Vec<&[u8]> = output
        .stdout
        .chunks_exact(width as usize * height as usize * 3)
        .collect();
    let whole = added(pictures[0], pictures[parts.len()], width as usize).expect("there is text");
    let fraction = |start: usize, end: usize, pixels: u32| {
        let [start, end] =
            [start, end].map(|place| f64::from(u32::try_from(place).expect("in a picture")) / f64::from(pixels));
        (start, end - start)
    };
    let extents = pictures
        .windows(2)
        .map(|pair| {
            let [left, _, right, _] = added(pair[0], pair[1], width as usize).expect("every part has ink");
            let (left, width) = fraction(left, right, width);
            let (top, height) = fraction(whole[1], whole[3], height);
            Extent {
                left,
                top,
                width,
                height,
            }
        })
        .collect();
    let data = pictures[parts.len()].to_vec();
    (RgbPicture { width, height, data }, extents)
}

/// Area that two have in common over the area that they cover.
fn overlap(one: &Extent, other: &Extent) -> f64 {
    let shared = |start: f64, length: f64, other_start: f64, other_length: f64| {
        ((start + length).min(other_start + other_length) - start.max(other_start)).max(0.0)
    };
    let common =
        shared(one.left, one.width, other.left, other.width) * shared(one.top, one.height, other.top, other.height);
    common / (one.width * one.height + other.width * other.height - common)
}

#[test]
fn boxes_lie_close_around_their_glyphs() {
    let chinese = [
        "我", "们", "在", "上", "海", "一", "起", "吃", "了", "小", "笼", "包", "，", "真", "好", "吃", "！",
    ];
    let latin = ["Nobody ", "knows ", "it, ", "will ", "you ", "marry ", "William?"];
    let mixed = [
        "我", "们", "用", "iPhone", "拍", "照", "CC ", "BY ", "4.0", "，", "很", "好",
    ];
    let outlined = "borderw=2:bordercolor=black:";
    let check = |size: u32, least: f64| {
        let mut overlaps = Vec::new();
        for (font, style, parts) in [
            (CJK, "", &chinese[..]),
            (CJK, outlined, &chinese),
            (LATIN, "", &latin),
            (LATIN, outlined, &latin),
            (CJK, "", &mixed),
        ] {
            let (picture, extents) = typeset(font, size, style, 84, parts);
            let lines = recognize(&picture);
            let boxes: Vec<_> = lines.iter().flat_map(|line| &line.boxes).collect();
            let found: Vec<_> = boxes.iter().map(|part| part.text.as_str()).collect();
            let expected: Vec<_> = parts.iter().map(|part| part.trim_end()).collect();
            assert_eq!(found, expected, "{size} pixels");
            overlaps.extend(boxes.iter().zip(&extents).map(|(part, extent)| {
                let overlap = overlap(&part.extent, extent);
                if overlap < 0.6 {
                    eprintln!(
                        "{size} {style:?} {:?} {overlap:.2}: {:?} {extent:?}",
                        part.text, part.extent
                    );
                }
                overlap
            }));
        }
        #[expect(clippy::cast_precision_loss, reason = "a hundred boxes")]
        let mean = overlaps.iter().sum::<f64>() / overlaps.len() as f64;
        eprintln!("{size} pixels: {mean:.3}");
        assert!(mean >= least, "{size} pixels: {mean:.3}");
    };
    check(64, 0.8);
    check(40, 0.8);
    check(28, 0.8);
    check(18, 0.65);
}

#[test]
fn a_box_at_the_edge_stays_within_the_picture() {
    let lines = recognize(&draw(
        640,
        360,
        &[(LATIN, 48, [2, 312], "Cut at the corner of this picture")],
    ));
    assert!(!lines.is_empty());
    for part in lines.iter().flat_map(|line| &line.boxes) {
        let found = part.extent;
        assert!(
            found.left >= 0.0 && found.top >= 0.0 && found.width > 0.0 && found.height > 0.0,
            "{found:?}"
        );
        assert!(
            found.left + found.width <= 1.0 && found.top + found.height <= 1.0,
            "{found:?}"
        );
    }
}

#[test]
fn texts_come_in_reading_order() {
    let picture = draw(
        1920,
        1080,
        &[
            (LATIN, 40, [1200, 204], "second"),
            (LATIN, 40, [200, 900], "fifth"),
            // A few pixels higher than its left neighbour, and still of the same row.
            (LATIN, 40, [200, 212], "first"),
            (LATIN, 40, [1300, 500], "fourth"),
            (LATIN, 40, [700, 506], "third"),
        ],
    );
    assert_eq!(
        texts(&recognize(&picture)),
        ["first", "second", "third", "fourth", "fifth"]
    );
}

#[test]
fn a_slanted_line_is_read() {
    let turned = "format=rgb24,drawtext=fontfile=/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf:fontsize=56:\
                  fontcolor=white:x=300:y=360:text='Seven boats crossed',rotate=-8*PI/180:fillcolor=0x304060";
    let picture = raw_picture(
        1280,
        720,
        &["-f", "lavfi", "-i", "color=c=0x304060:s=1280x720", "-vf", turned],
    );
    let lines = recognize(&picture);
    assert_eq!(texts(&lines), ["Seven boats crossed"], "{lines:?}");
    assert!(
        lines[0].extent().height > 0.15,
        "the upright box around a slanted line is high: {lines:?}"
    );
    let boxes = &lines[0].boxes;
    assert_eq!(boxes.len(), 3);
    for pair in boxes.windows(2) {
        let [before, after] = [pair[0].extent, pair[1].extent];
        assert!(
            after.top < before.top && after.height < 0.14,
            "each word has its own: {boxes:?}"
        );
    }
}

#[test]
fn turned_text_is_read() {
    for (turn, name) in [
        ("transpose=1", "right"),
        ("transpose=2", "left"),
        ("hflip,vflip", "on its head"),
    ] {
        for (font, text) in [
            (LATIN, "Seven boats crossed the bay"),
            (CJK, "今天的天气真不错，我们走吧"),
        ] {
            let drawn = format!(
                "format=rgb24,drawtext=fontfile={font}:fontsize=48:fontcolor=white:x=200:y=300:text='{text}',{turn}"
            );
            let picture = raw_picture(
                1080,
                1080,
                &["-f", "lavfi", "-i", "color=c=0x304060:s=1080x1080", "-vf", &drawn],
            );
            let lines = recognize(&picture);
            assert_eq!(texts(&lines), [text], "{name}: {lines:?}");
            let extents: Vec<Extent> = lines[0].boxes.iter().map(|part| part.extent).collect();
            for pair in extents.windows(2) {
                let follows = match turn {
                    "transpose=1" => pair[1].top >= pair[0].top + pair[0].height,
                    "transpose=2" => pair[0].top >= pair[1].top + pair[1].height,
                    _ => pair[0].left >= pair[1].left + pair[1].width,
                };
                assert!(follows, "{name}: {extents:?}");
            }
        }
    }
}

#[test]
fn type_that_is_small_for_its_picture_is_read() {
    // Halved, as the whole is looked at, the last letter, m, is one with the grass: it was read as n.
    let film = Path::new(&std::env::var_os("CAPTIONACC_FILMS").expect("scripts/fetch-films.sh says where"))
        .join("bigbuckbunny.mp4");
    let text = "Nobody knows where it came from";
    let filter = format!(
        "scale=1920:1080,drawtext=fontfile={LATIN}:fontsize=16:fontcolor=white:borderw=1:x=800:y=940:text='{text}'"
    );
    let film = film.to_str().expect("a path in UTF-8");
    let lines = recognize(&raw_picture(1920, 1080, &["-ss", "1", "-i", film, "-vf", &filter]));
    assert!(texts(&lines).contains(&text), "{:?}", texts(&lines));
    // A large line that reaches into what is looked at closer stays whole, and one.
    let beside = [
        (LATIN, 16, [300, 850], "all of it is small"),
        (LATIN, 64, [300, 880], "and this is large"),
    ];
    let lines = recognize(&draw(1920, 1080, &beside));
    assert_eq!(texts(&lines), ["all of it is small", "and this is large"], "{lines:?}");
}

#[test]
fn pictures_without_text_give_no_boxes() {
    assert_eq!(recognize(&draw(1920, 1080, &[])), []);
    for (width, height) in [(0, 0), (0, 9), (1, 1), (2, 1), (31, 33), (1, 3000), (3000, 1)] {
        let data = vec![128; width as usize * height as usize * 3];
        assert_eq!(recognize(&RgbPicture { width, height, data }), [], "{width}x{height}");
    }
}

#[test]
fn a_caption_strip_is_read() {
    let strip = draw(
        1800,
        90,
        &[
            (CJK, 48, [200, 14], "海边的房子已经卖掉了"),
            (LATIN, 48, [1100, 16], "Sold to a friend"),
        ],
    );
    let lines = recognize(&strip);
    assert_eq!(texts(&lines), ["海边的房子已经卖掉了", "Sold to a friend"]);
    assert_eq!(joined_text(&lines), "海边的房子已经卖掉了Sold to a friend");
}

#[test]
fn a_picture_of_another_size_than_its_data_is_refused() {
    for (width, height, bytes) in [(4, 4, 47), (4, 4, 0), (u32::MAX, u32::MAX, 12)] {
        let picture = RgbPicture {
            width,
            height,
            data: vec![0; bytes],
        };
        let error = engine()
            .recognize(&picture, &AtomicBool::new(false))
            .expect_err("its data does not fit");
        assert_eq!(error.code(), "OCR_INVALID_PICTURE");
        assert!(error.is_input_fault());
    }
}

#[test]
fn missing_models_are_named_with_a_remedy() {
    let empty = tempfile::tempdir().expect("a temporary folder");
    let error = OcrModels::find(Some(empty.path())).expect_err("the folder is empty");
    assert_eq!(error.code(), "OCR_MODELS_MISSING");
    assert!(error.is_input_fault());
    let message = error.to_string();
    for part in [
        &empty.path().display().to_string(),
        "npm install",
        "CAPTIONACC_OCR_MODELS",
        "PP-OCRv6_rec_small.onnx",
    ] {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

#[test]
fn a_broken_model_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let good = models();
    let copy = |file: &Path| {
        let target = folder.path().join(file.file_name().expect("a file"));
        std::fs::copy(file, &target).expect("a copy");
        target
    };
    let [detection, recognition] = [&good.detection, &good.recognition].map(|file| copy(file));
    let broken = OcrModels::find(Some(folder.path())).expect("all files are there");
    let check = |file: &Path, problem: &str| {
        let error = PpOcr::load(&broken).err().expect("a broken file does not load");
        assert_eq!(error.code(), "OCR_MODEL_INVALID");
        assert!(error.is_input_fault());
        let message = error.to_string();
        assert!(message.contains(&file.display().to_string()), "{message}");
        assert!(message.contains(problem), "{message}");
    };
    std::fs::copy(&detection, &recognition).expect("a copy");
    check(&recognition, "it has no list of characters");
    copy(&good.recognition);
    std::fs::write(&detection, "no model").expect("written");
    check(&detection, "");
}

const NUMBERS: [&str; 7] = [
    "seven", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen",
];

fn numbered(index: usize) -> RgbPicture {
    draw(640, 360, &[(LATIN, 40, [100, 200], NUMBERS[index])])
}

fn engines(count: usize) -> Vec<Box<dyn Recognizer>> {
    (0..count).map(|_| Box::new(engine()) as Box<dyn Recognizer>).collect()
}

#[test]
fn engines_side_by_side_read_what_one_reads() {
    let expected: Vec<_> = (0..NUMBERS.len()).map(|index| recognize(&numbered(index))).collect();
    for (number, lines) in NUMBERS.iter().zip(&expected) {
        assert_eq!(texts(lines), [*number]);
    }
    for engine_count in [1, 2, 9] {
        let mut found = vec![None; NUMBERS.len()];
        let fetch = |index| Ok(numbered(index));
        recognize_all(
            &mut engines(engine_count),
            NUMBERS.len(),
            &fetch,
            &AtomicBool::new(false),
            &mut |index, lines| {
                assert_eq!(found[index].replace(lines), None, "frame {index} came twice");
                Ok(())
            },
        )
        .expect("all frames are read");
        let found: Vec<_> = found
            .into_iter()
            .map(|lines| lines.expect("each frame comes"))
            .collect();
        assert_eq!(found, expected, "{engine_count} engines");
    }
}

#[test]
fn no_frames_need_no_engine() {
    recognize_all(
        &mut [],
        0,
        &|_| unreachable!("no frames"),
        &AtomicBool::new(false),
        &mut |_, _| Ok(()),
    )
    .expect("nothing to do");
}

/// Runs two engines over many frames; gives the outcome, how many frames were fetched, and how many results came.
fn run(
    cancelled: &AtomicBool,
    fetch: &(dyn Fn(usize) -> Result<RgbPicture, captionacc::ocr::FrameError> + Sync),
    sink: &mut dyn FnMut(usize) -> Result<(), captionacc::ocr::FrameError>,
) -> (OcrError, usize, usize) {
    let (fetched, mut results) = (AtomicUsize::new(0), 0);
    let counting = |index| {
        fetched.fetch_add(1, Ordering::Relaxed);
        fetch(index)
    };
    let outcome = recognize_all(&mut engines(2), 1000, &counting, cancelled, &mut |index, _| {
        results += 1;
        sink(index)
    });
    (
        outcome.expect_err("it does not come to its end"),
        fetched.into_inner(),
        results,
    )
}

fn grey() -> RgbPicture {
    RgbPicture {
        width: 64,
        height: 64,
        data: vec![90; 64 * 64 * 3],
    }
}

#[test]
fn cancelling_ends_it_at_once() {
    let before = AtomicBool::new(true);
    let (error, fetched, results) = run(&before, &|_| Ok(grey()), &mut |_| Ok(()));
    assert_eq!((error.code(), fetched, results), ("OCR_CANCELLED", 0, 0));

    let during = AtomicBool::new(false);
    let (error, fetched, results) = run(&during, &|_| Ok(grey()), &mut |_| {
        during.store(true, Ordering::Relaxed);
        Ok(())
    });
    assert_eq!((error.code(), results), ("OCR_CANCELLED", 1));
    assert!(!error.is_input_fault());
    assert!(fetched < 20, "{fetched} frames fetched");

    let error = engine()
        .recognize(&grey(), &AtomicBool::new(true))
        .expect_err("cancelled before it began");
    assert_eq!(error.code(), "OCR_CANCELLED");
}

#[test]
fn a_failing_closure_ends_it_with_its_cause() {
    let never = AtomicBool::new(false);
    let (error, fetched, _) = run(
        &never,
        &|index| if index == 3 { Err("torn".into()) } else { Ok(grey()) },
        &mut |_| Ok(()),
    );
    assert_eq!(error.code(), "OCR_FETCH");
    assert_eq!(error.to_string(), "frame 3 of 1000 could not be fetched for OCR");
    assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("torn"));
    assert!(fetched < 20, "{fetched} frames fetched");

    let (error, fetched, results) = run(&never, &|_| Ok(grey()), &mut |_| Err("disk full".into()));
    assert_eq!((error.code(), results), ("OCR_SINK", 1));
    assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("disk full"));
    assert!(fetched < 20, "{fetched} frames fetched");
}
