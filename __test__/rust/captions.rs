//! caption-median-ocr with real parts: an app's database, strips with text under what moves, a worker, the real models.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use captionacc::domain::id::FlowRunId;
use captionacc::domain::state::StateName;
use captionacc::orchestrator::claims::{Claimed, Ending};
use captionacc::picture::RgbPicture;
use captionacc::process::identity::ProcessIdentity;
use captionacc::video::{MedianError, MedianLimits, decode_jpeg, encode_jpeg, median_of_jpegs};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::studio::{Studio, ocr_models};
use crate::world::{World, kill};

const LATIN: &str = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf";
const CJK: &str = "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc";
const WIDTH: u32 = 480;
const HEIGHT: u32 = 48;

fn world(config: &str) -> World {
    World::with(config, &[("CAPTIONACC_OCR_MODELS", &ocr_models())])
}

/// A video whose captions have what newer versions of the app say of their reading.
fn studio(world: &World) -> Studio {
    let studio = Studio::new(&world.path("videos"), "v");
    studio
        .app
        .execute_batch(
            "DELETE FROM captions;
             ALTER TABLE captions ADD COLUMN text_ocr_combined TEXT;
             ALTER TABLE captions ADD COLUMN median_ocr_status TEXT NOT NULL DEFAULT 'pending'
               CHECK (median_ocr_status IN ('pending', 'queued', 'processing', 'complete', 'error'));
             ALTER TABLE captions ADD COLUMN median_ocr_error TEXT;
             ALTER TABLE captions ADD COLUMN median_ocr_processed_at TEXT;",
        )
        .expect("a newer app");
    studio
}

/// White text on a strip.
fn strip(font: &str, text: &str) -> RgbPicture {
    let size = format!("color=c=0x304060:s={WIDTH}x{HEIGHT}");
    let filter = format!("format=rgb24,drawtext=fontfile={font}:fontsize=28:fontcolor=white:x=60:y=8:text='{text}'");
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", &size, "-vf", &filter])
        .args(["-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"])
        .output()
        .expect("the ffmpeg command is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    RgbPicture {
        width: WIDTH,
        height: HEIGHT,
        data: output.stdout,
    }
}

/// The strip as frame `number` has it: something passes before the text, and there is noise.
fn frame(strip: &RgbPicture, number: u32) -> Vec<u8> {
    let mut picture = strip.clone();
    let mut chance = fastrand::Rng::with_seed(u64::from(number));
    let block = number * 37 % (WIDTH - 60);
    for (at, pixel) in (0_u32..).zip(picture.data.chunks_exact_mut(3)) {
        let x = at % WIDTH;
        if (block..block + 60).contains(&x) {
            pixel.fill(chance.u8(..));
        } else {
            for value in pixel {
                *value = value.saturating_add(chance.u8(0..12));
            }
        }
    }
    encode_jpeg(&picture, 3).expect("it is encoded")
}

fn put_frame(studio: &Studio, index: i64, jpeg: &[u8], version: i64) {
    studio
        .app
        .execute(
            "INSERT OR REPLACE INTO cropped_frames (frame_index, image_data, width, height, file_size, crop_left, crop_top,
               crop_right, crop_bottom, crop_bounds_version) VALUES (?1, ?2, 480, 48, ?3, 0, 0, 480, 48, ?4)",
            (index, jpeg, i64::try_from(jpeg.len()).expect("small"), version),
        )
        .expect("written");
}

/// Frames 0 to 11 with one text, 12 to 23 with another.
fn put_frames(studio: &Studio) {
    let first = strip(LATIN, "HELLO WORLD 2026");
    let second = strip(CJK, "今天天气很好");
    for number in 0..24 {
        let strip = if number < 12 { &first } else { &second };
        put_frame(studio, i64::from(number), &frame(strip, number), 1);
    }
}

fn put_caption(studio: &Studio, id: i64, start: i64, end: i64) {
    studio
        .app
        .execute(
            "INSERT INTO captions (id, start_frame_index, end_frame_index, text, text_pending, median_ocr_status)
             VALUES (?1, ?2, ?3, 'mine', 0, 'queued')",
            (id, start, end),
        )
        .expect("written");
}

#[expect(clippy::needless_pass_by_value, reason = "written out with json! at every call")]
fn queue(world: &World, studio: &Studio, ids: Value) -> FlowRunId {
    world.queue(
        "caption-median-ocr",
        json!({
            "video-id": studio.id,
            "db-path": studio.folder.join("annotations.db"),
            "video-dir": studio.folder,
            "caption-ids": ids,
        }),
    )
}

/// Status, text and error of a caption.
fn caption(studio: &Studio, id: i64) -> (String, Option<String>, Option<String>) {
    studio
        .app
        .query_row(
            "SELECT median_ocr_status, text_ocr_combined, median_ocr_error FROM captions WHERE id = ?1",
            [id],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .expect("a caption")
}

fn status(studio: &Studio, id: i64) -> String {
    caption(studio, id).0
}

/// Of OCR, letters are expected, not the spaces between them.
fn plain(text: Option<String>) -> String {
    text.expect("a text").split_whitespace().collect()
}

fn error(studio: &Studio, id: i64) -> String {
    let (status, text, error) = caption(studio, id);
    assert_eq!((status.as_str(), text), ("error", None), "caption {id}");
    error.expect("a reason")
}

/// Returns once the worker has written what it owes to the rows of runs that wait or have ended.
fn wait_for_the_rows(world: &World) {
    world.wait_until("every row is up to date", || {
        world
            .block_on(world.store.status_rows_due())
            .expect("answers")
            .is_empty()
    });
}

fn message(world: &World, id: FlowRunId) -> String {
    world.run(id).state.message.expect("said")
}

#[test]
fn captions_are_read_off_the_median_of_their_frames() {
    let world = world("");
    let worker = world.start_worker();
    let studio = studio(&world);
    put_frames(&studio);
    put_caption(&studio, 7, 0, 11);
    put_caption(&studio, 9, 12, 23);
    put_caption(&studio, 11, 0, 5);
    let id = queue(&world, &studio, json!([7, 9]));
    let run = world.wait_for(id, StateName::Completed);
    assert_eq!(message(&world, id), "2 captions read");
    let progress = run.progress.expect("reported");
    assert_eq!(
        (progress.done, progress.total, progress.unit.as_str()),
        (2, Some(2), "captions")
    );

    for (id, expected) in [(7, "HELLOWORLD2026"), (9, "今天天气很好")] {
        let (status, text, error) = caption(&studio, id);
        assert_eq!((status.as_str(), error), ("complete", None));
        assert_eq!(plain(text), expected);
        let row = studio.row(&format!(
            "SELECT text, text_pending, median_ocr_processed_at IS NOT NULL, boundary_pending FROM captions WHERE id = {id}"
        ));
        assert_eq!(row, ["mine".to_owned().into(), 1.into(), 1.into(), 1.into()]);
    }
    assert_eq!(status(&studio, 11), "queued", "nobody asked for it");

    // The pictures are the medians of what any viewer shows of the frames.
    for (id, range) in [(7, 0..12), (9, 12..24)] {
        let frames: Vec<RgbPicture> = studio
            .frames("cropped_frames")
            .iter()
            .filter(|(index, _)| range.contains(index))
            .map(|(_, jpeg)| decode_jpeg(jpeg).expect("a JPEG"))
            .collect();
        let expected = encode_jpeg(&plain_median(&frames), 2).expect("it is encoded");
        let stored = fs::read(studio.folder.join(format!("text_images/annotation_{id}.jpg"))).expect("a picture");
        assert!(stored == expected, "caption {id}");
    }
    let pictures: BTreeSet<_> = fs::read_dir(studio.folder.join("text_images"))
        .expect("a folder")
        .map(|entry| entry.expect("readable").file_name())
        .collect();
    assert_eq!(pictures, ["annotation_7.jpg".into(), "annotation_9.jpg".into()].into());

    let lineage = world.block_on(world.store.read_lineage()).expect("reads");
    let asset = &lineage.assets["annotations://v/captions/7"];
    assert_eq!(asset.upstreams[0].key, "annotations://v/cropped_frames");
    let details = world.block_on(world.store.read_flow_run_details(id)).expect("known");
    let table = details.artifacts.iter().find(|artifact| artifact.key == "captions");
    assert_eq!(
        table.expect("an artifact").data[1]["text"],
        json!(caption(&studio, 9).1)
    );
    worker.stop();
}

/// As `numpy.median(…, axis=0).astype(uint8)` has it.
fn plain_median(frames: &[RgbPicture]) -> RgbPicture {
    let mut median = frames[0].clone();
    for (at, value) in median.data.iter_mut().enumerate() {
        let mut values: Vec<u16> = frames.iter().map(|frame| u16::from(frame.data[at])).collect();
        values.sort_unstable();
        let middle = values[(values.len() - 1) / 2] + values[values.len() / 2];
        *value = u8::try_from(middle / 2).expect("a mean of bytes");
    }
    median
}

#[test]
fn a_median_is_the_same_however_little_memory_there_is_for_it() {
    let strip = strip(LATIN, "MEMORY");
    for count in [1, 2, 7, 40] {
        let jpegs: Vec<Vec<u8>> = (0..count).map(|number| frame(&strip, number)).collect();
        let decoded: Vec<RgbPicture> = jpegs.iter().map(|jpeg| decode_jpeg(jpeg).expect("a JPEG")).collect();
        let expected = plain_median(&decoded);
        // All of them, counts alone, counts of some rows.
        for memory_bytes in [1 << 30, 3 << 20, 100_000, 0] {
            let limits = MedianLimits {
                threads: 2,
                memory_bytes,
            };
            let mut told = 0.0_f64;
            let median = median_of_jpegs::<()>(
                jpegs.len(),
                limits,
                &AtomicBool::new(false),
                &mut |range| Ok(jpegs[range].to_vec()),
                &mut |fraction| told = told.max(fraction),
            )
            .expect("a median");
            assert!(median == expected, "{count} frames in {memory_bytes} bytes");
            assert!(told <= 1.0, "{told}");
        }
    }
    let stopped = median_of_jpegs::<()>(
        1,
        MedianLimits {
            threads: 1,
            memory_bytes: 0,
        },
        &AtomicBool::new(true),
        &mut |_| Ok(vec![frame(&strip, 0)]),
        &mut |_| {},
    );
    assert!(matches!(stopped, Err(MedianError::Cancelled)));
}

#[test]
fn what_is_wrong_with_a_caption_is_said_in_its_row_and_the_others_go_on() {
    let world = world("");
    let worker = world.start_worker();
    let studio = studio(&world);
    put_frames(&studio);
    let text = strip(LATIN, "AND SO ON");
    for index in 24..60 {
        put_frame(&studio, index, &frame(&text, 1), 1);
    }
    // 30: of another layout. 40: of another size. 45: cut off. 50 and 52: not there.
    put_frame(&studio, 30, &frame(&text, 1), 2);
    let mut small = text.clone();
    small.height /= 2;
    small.data.truncate(small.data.len() / 2);
    put_frame(&studio, 40, &encode_jpeg(&small, 3).expect("it is encoded"), 1);
    let whole = frame(&text, 1);
    put_frame(&studio, 45, &whole[..whole.len() / 2], 1);
    studio
        .app
        .execute_batch("DELETE FROM cropped_frames WHERE frame_index IN (50, 52)")
        .expect("written");
    let captions = [
        (1, 0, 11, ""),
        (2, 28, 32, "of two layouts (versions 1 and 2)"),
        (3, 38, 41, "of two sizes (frame 38 of 480 x 48, frame 40 of 480 x 24)"),
        (4, 44, 46, "its frame 45 is damaged"),
        (5, 49, 53, "its frames 50, 52 are missing"),
        (6, 55, 70, "its frames 60-70 are missing"),
        (7, 100, 110, "its frames 100-110 are missing"),
        (8, 9, 5, "it ends (frame 5) before it begins (frame 9)"),
        (9, 12, 23, ""),
    ];
    for (id, start, end, _) in captions {
        put_caption(&studio, id, start, end);
    }
    let id = queue(&world, &studio, json!([1, 2, 3, 4, 5, 6, 7, 8, 77, 9]));
    world.wait_for(id, StateName::Completed);
    for (id, _, _, expected) in captions {
        if expected.is_empty() {
            assert_eq!(
                status(&studio, id),
                "complete",
                "caption {id}: {:?}",
                caption(&studio, id)
            );
        } else {
            let error = error(&studio, id);
            assert!(error.contains(expected), "caption {id}: {error}");
            assert!(!studio.folder.join(format!("text_images/annotation_{id}.jpg")).exists());
        }
    }
    let said = message(&world, id);
    assert!(
        said.starts_with("2 captions read, 8 not: caption 2: its frames"),
        "{said}"
    );
    assert!(said.ends_with("5 more"), "{said}");
    worker.stop();
}

#[test]
fn a_run_of_which_nothing_can_be_read_fails_and_is_not_tried_again() {
    let world = world("");
    let worker = world.start_worker();
    let studio = studio(&world);
    put_caption(&studio, 1, 0, 3);
    let id = queue(&world, &studio, json!([1, 5]));
    let run = world.wait_for(id, StateName::Failed);
    assert_eq!(run.attempt, 1);
    let said = message(&world, id);
    assert!(said.contains("caption 1: its frames 0-3 are missing"), "{said}");
    assert!(said.contains("caption 5: there is no such caption"), "{said}");
    assert!(error(&studio, 1).contains("its frames 0-3 are missing"));
    worker.stop();
}

#[test]
fn a_caption_whose_boundaries_move_meanwhile_is_read_again() {
    let world = world("");
    let worker = world.start_worker();
    let studio = studio(&world);
    put_frames(&studio);
    for id in [1, 2, 3] {
        put_caption(&studio, id, 0, 11);
    }
    // Right after the run has read the boundaries: once for the first; again and again for the second; and the third is
    // asked for anew, as the app does it.
    studio
        .app
        .execute_batch(
            "CREATE TRIGGER moves AFTER UPDATE OF median_ocr_status ON captions WHEN new.median_ocr_status = 'processing' BEGIN
               UPDATE captions SET start_frame_index = 12, end_frame_index = 23 WHERE id = new.id AND id = 1;
               UPDATE captions SET end_frame_index = end_frame_index - 1 WHERE id = new.id AND id = 2;
               UPDATE captions SET median_ocr_status = 'queued', start_frame_index = 3 WHERE id = new.id AND id = 3;
             END",
        )
        .expect("a trigger");
    let id = queue(&world, &studio, json!([1, 2, 3]));
    world.wait_for(id, StateName::Completed);
    let (status_of_it, text, _) = caption(&studio, 1);
    assert_eq!(status_of_it, "complete");
    assert_eq!(plain(text), "今天天气很好");
    assert!(error(&studio, 2).contains("changed 3 times"));
    assert_eq!(caption(&studio, 3), ("queued".to_owned(), None, None));
    assert!(message(&world, id).starts_with("1 captions read, 1 left to a newer request, 1 not: caption 2"));
    worker.stop();
}

#[test]
fn a_newer_run_takes_its_captions_from_an_older_one_which_goes_on_with_the_others() {
    let world = world("");
    let studio = studio(&world);
    put_frames(&studio);
    put_caption(&studio, 1, 0, 11);
    put_caption(&studio, 2, 12, 23);
    let older = queue(&world, &studio, json!([2, 1]));
    let newer = queue(&world, &studio, json!([2]));
    let equal = queue(&world, &studio, json!([2]));
    assert_eq!(newer, equal, "one that waits is not queued twice");
    let worker = world.start_worker();
    world.wait_for(newer, StateName::Completed);
    assert_eq!(world.run(older).state.name, StateName::Completed);
    assert_eq!(message(&world, older), "1 captions read, 1 left to a newer request");
    assert_eq!(message(&world, newer), "1 captions read");
    for id in [1, 2] {
        assert_eq!(status(&studio, id), "complete");
    }
    worker.stop();
}

#[test]
fn what_comes_to_nothing_takes_no_captions() {
    let world = world("");
    let studio = studio(&world);
    let names = || BTreeSet::from(["caption-median-ocr".to_owned()]);
    let claim = || {
        let claimed = world
            .block_on(world.store.claim("tester", names()))
            .expect("claims work");
        let claim = claimed.and_then(Claimed::own).expect("a run waits");
        world
            .block_on(world.store.start(claim.lease, ProcessIdentity::own()))
            .expect("starts");
        claim
    };
    queue(&world, &studio, json!([1, 2]));
    let older = claim();
    let taken = || -> Vec<i64> {
        let is_taken = |id: &i64| {
            world
                .block_on(world.store.caption_is_taken(older.lease, *id))
                .expect("answers")
        };
        (1..=4).filter(is_taken).collect()
    };
    assert_eq!(taken(), Vec::<i64>::new());
    let other = Studio::new(&world.path("videos"), "other");
    queue(&world, &other, json!([1, 2]));
    assert_eq!(taken(), Vec::<i64>::new(), "another video's");
    let second = queue(&world, &studio, json!([2, 3]));
    assert_eq!(taken(), [2, 3]);
    world.block_on(world.store.cancel_flow_run(second)).expect("cancelled");
    assert_eq!(taken(), Vec::<i64>::new());

    // One that waits, and completes while the older one waits for its retry.
    let newer = queue(&world, &studio, json!([1]));
    let failed = Ending::Failed {
        state: StateName::Failed,
        message: "for now".to_owned(),
        retry_after: Some(Duration::from_hours(1)),
    };
    world.block_on(world.store.finish(older.lease, failed)).expect("ends");
    let due = world.block_on(world.store.status_rows_due()).expect("reads");
    let due = due
        .iter()
        .find(|due| due.flow_run.flow_run_id == older.lease.flow_run_id);
    assert_eq!(due.expect("its rows are due").taken_captions, [1].into());
    let lease = [claim(), claim()]
        .map(|claim| claim.lease)
        .into_iter()
        .find(|lease| lease.flow_run_id == newer)
        .expect("both have a slot");
    let completed = Ending::Completed {
        message: String::new(),
        materializations: Vec::new(),
    };
    world.block_on(world.store.finish(lease, completed)).expect("ends");
    assert_eq!(taken(), [1]);
    // The older one may be tried again all the same, for its others.
    world
        .block_on(world.store.retry_flow_run(older.lease.flow_run_id))
        .expect("queued again");
}

#[test]
fn a_run_that_dies_or_is_cancelled_leaves_no_caption_at_work() {
    let world = world("[flows.caption-median-ocr]\nretry-delay-ms = 3600000\n");
    let worker = world.start_worker();
    let studio = studio(&world);
    put_frames(&studio);
    for id in [1, 2, 3] {
        put_caption(&studio, id, 0, 11);
    }
    studio
        .app
        .execute_batch(
            "UPDATE captions SET median_ocr_status = 'processing' WHERE id = 1;
             UPDATE captions SET median_ocr_status = 'complete', text_ocr_combined = 'done' WHERE id = 2;
             BEGIN IMMEDIATE;",
        )
        .expect("the app writes for a while");
    // It waits for the app, and dies.
    let id = queue(&world, &studio, json!([1, 2, 3]));
    world.wait_until("it runs", || world.run(id).state.name == StateName::Running);
    kill(world.run(id).pid.expect("it runs"), Signal::KILL);
    world.wait_for(id, StateName::AwaitingRetry);
    studio.app.execute_batch("COMMIT").expect("the app has written");
    wait_for_the_rows(&world);
    for caption_id in [1, 3] {
        let (status, _, error) = caption(&studio, caption_id);
        assert_eq!(status, "queued", "a retry is due");
        assert!(error.expect("a reason").contains("killed"), "{caption_id}");
    }
    assert_eq!(status(&studio, 2), "complete");

    world.block_on(world.store.cancel_flow_run(id)).expect("cancelled");
    wait_for_the_rows(&world);
    for caption_id in [1, 3] {
        assert_eq!(error(&studio, caption_id), "Processing cancelled");
    }
    assert_eq!(status(&studio, 2), "complete");

    // What a person tries again reads what has no text yet.
    world.block_on(world.store.retry_flow_run(id)).expect("queued again");
    world.wait_for(id, StateName::Completed);
    for caption_id in [1, 3] {
        assert_eq!(status(&studio, caption_id), "complete");
    }
    assert_eq!(caption(&studio, 2).1.as_deref(), Some("done"));
    worker.stop();
}

#[test]
fn a_run_that_fails_for_good_says_so_in_its_captions_but_not_in_those_of_a_newer_one() {
    let world = world("[flows.caption-median-ocr]\nretries = 0\n");
    let studio = studio(&world);
    put_frames(&studio);
    for id in [1, 2] {
        put_caption(&studio, id, 0, 11);
    }
    // Where its pictures are to go, there is a file.
    fs::write(studio.folder.join("text_images"), "").expect("written");
    let gone = studio.folder.join("gone");
    let older = world.queue(
        "caption-median-ocr",
        json!({
            "video-id": studio.id, "db-path": studio.folder.join("annotations.db"), "video-dir": gone, "caption-ids": [1, 2],
        }),
    );
    let newer = queue(&world, &studio, json!([2]));
    let worker = world.start_worker_with(&["--limit", "1"]);
    world.wait_for(older, StateName::Failed);
    world.wait_for(newer, StateName::Failed);
    wait_for_the_rows(&world);
    let first = error(&studio, 1);
    assert!(first.contains("text_images cannot be written"), "{first}");
    assert!(
        !first.contains(studio.folder.to_str().expect("a path of ours")),
        "no path for the web: {first}"
    );
    assert!(
        error(&studio, 2).contains("annotation_2.jpg cannot be written"),
        "{:?}",
        caption(&studio, 2)
    );
    worker.stop();
}

#[test]
fn a_file_of_before_there_were_readings_gets_their_columns_and_one_without_captions_is_refused() {
    let world = world("");
    let worker = world.start_worker();
    let studio = Studio::new(&world.path("videos"), "v");
    put_frames(&studio);
    studio
        .app
        .execute_batch("INSERT OR REPLACE INTO captions (id, start_frame_index, end_frame_index) VALUES (1, 0, 11)")
        .expect("written");
    let id = world.queue(
        "caption-median-ocr",
        json!({
            "video-id": "v", "db-path": studio.folder.join("annotations.db"), "video-dir": studio.folder,
            "caption-ids": "[1]", "language": "tlh",
        }),
    );
    world.wait_for(id, StateName::Completed);
    assert_eq!(plain(caption(&studio, 1).1), "HELLOWORLD2026");
    assert!(
        world
            .logs(id)
            .iter()
            .any(|line| line.contains("No model reads the language \"tlh\"")),
        "{:?}",
        world.logs(id)
    );

    studio.app.execute_batch("DROP TABLE captions").expect("written");
    let id = queue(&world, &studio, json!([1]));
    world.wait_for(id, StateName::Failed);
    assert!(
        message(&world, id).contains("it has no table captions"),
        "{}",
        message(&world, id)
    );
    worker.stop();
}

#[test]
fn a_deleted_video_ends_the_reading_of_its_captions() {
    let world = world("");
    let worker = world.start_worker();
    let studio = studio(&world);
    put_frames(&studio);
    put_caption(&studio, 1, 0, 11);
    // Deleted while the caption is read.
    studio
        .app
        .execute_batch(
            "CREATE TRIGGER deletes AFTER UPDATE OF median_ocr_status ON captions WHEN new.median_ocr_status = 'processing' BEGIN
               UPDATE processing_status SET deleted = 1;
             END",
        )
        .expect("a trigger");
    let id = queue(&world, &studio, json!([1]));
    let run = world.wait_for(id, StateName::Cancelled);
    assert_eq!(run.attempt, 1);
    assert!(!studio.folder.join("text_images/annotation_1.jpg").exists());
    worker.stop();
}

/// What kills: the child alone, or the worker with it, in whose place another one starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    Child,
    Both,
}

#[test]
fn a_run_that_is_killed_at_a_caption_leaves_each_whole_and_is_begun_again() {
    for death in [Death::Child, Death::Both] {
        let world = world("[flows.caption-median-ocr]\nretry-delay-ms = 1\n");
        let mut worker = world.start_worker();
        let studio = studio(&world);
        put_frames(&studio);
        // Enough frames that the second one takes a while.
        let long = strip(LATIN, "A LONG CAPTION");
        for number in 24..524 {
            put_frame(&studio, i64::from(number), &frame(&long, number), 1);
        }
        let ids = [1, 2, 3];
        let older = loop {
            studio.app.execute_batch("DELETE FROM captions").expect("written");
            for (id, start, end) in [(1, 0, 11), (2, 24, 523), (3, 12, 23)] {
                put_caption(&studio, id, start, end);
            }
            let run = queue(&world, &studio, json!(ids));
            // While the app holds the lock, a caption that is at work stays so.
            let mut is_held = false;
            world.wait_until("it is at the second caption", || {
                studio.app.execute_batch("BEGIN IMMEDIATE").expect("a lock");
                let now = status(&studio, 2);
                is_held = now == "processing";
                if !is_held {
                    studio.app.execute_batch("ROLLBACK").expect("given back");
                }
                now != "queued"
            });
            if is_held {
                break run;
            }
            // It was quicker: once more.
            world.wait_for(run, StateName::Completed);
        };
        assert_eq!(status(&studio, 1), "complete", "{death:?}");
        let first = caption(&studio, 1).1;
        let first_attempt = world.run(older).attempt;
        // Asked for by somebody else meanwhile.
        let newer = queue(&world, &studio, json!([3]));
        let child = world.run(older).pid.expect("it runs");
        if death == Death::Both {
            worker.kill();
            worker = world.start_worker();
        }
        kill(child, Signal::KILL);
        let in_work = |studio: &Studio| {
            studio.value::<i64>("SELECT count(*) FROM captions WHERE median_ocr_status = 'processing'")
        };
        assert_eq!(in_work(&studio), 1, "{death:?}: the one that it was at");
        studio.app.execute_batch("ROLLBACK").expect("given back");

        world.wait_for(older, StateName::Completed);
        world.wait_for(newer, StateName::Completed);
        wait_for_the_rows(&world);
        assert!(world.run(older).attempt > first_attempt, "{death:?}");
        assert_eq!(
            message(&world, older),
            "2 captions read, 1 left to a newer request",
            "{death:?}"
        );
        assert_eq!(message(&world, newer), "1 captions read", "{death:?}");
        for (id, text) in [(1, "HELLOWORLD2026"), (2, "ALONGCAPTION"), (3, "今天天气很好")] {
            let (status, found, error) = caption(&studio, id);
            assert_eq!((status.as_str(), error), ("complete", None), "{death:?}, caption {id}");
            assert_eq!(plain(found), text, "{death:?}");
            let picture = fs::read(studio.folder.join(format!("text_images/annotation_{id}.jpg"))).expect("a picture");
            assert!(decode_jpeg(&picture).is_ok(), "{death:?}, caption {id}");
        }
        assert_eq!(caption(&studio, 1).1, first, "{death:?}: what was read stays");
        let pictures = fs::read_dir(studio.folder.join("text_images"))
            .expect("a folder")
            .count();
        assert_eq!(pictures, 3, "{death:?}: nothing half written is left");
        assert!(studio.is_sound());
        worker.stop();
    }
}
