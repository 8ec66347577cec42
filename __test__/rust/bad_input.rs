//! Bad input through a real worker: a clear error, no retry, and no side effect.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use captionacc::domain::flow_run::FlowRun;
use captionacc::domain::id::FlowRunId;
use captionacc::domain::state::{StateName, StateType};
use rusqlite::types::Value as SqlValue;
use serde_json::{Value, json};

use crate::studio::{Studio, ffmpeg, ocr_models};
use crate::world::World;

/// A case: how the input is bad, the code, and what the message has to name.
struct Case {
    name: &'static str,
    flow: &'static str,
    make: fn(&Studio) -> Value,
    code: &'static str,
    names: &'static str,
}

fn crop(name: &'static str, make: fn(&Studio) -> Value, code: &'static str, names: &'static str) -> Case {
    Case {
        name,
        flow: "crop-frames",
        make,
        code,
        names,
    }
}

fn full(name: &'static str, make: fn(&Studio) -> Value, code: &'static str, names: &'static str) -> Case {
    Case {
        flow: "full-frames",
        ..crop(name, make, code, names)
    }
}

/// Arguments of crop-frames with some of them changed.
#[expect(clippy::needless_pass_by_value, reason = "written out with json! at every call")]
fn with(studio: &Studio, changed: Value) -> Value {
    let Value::Object(mut arguments) = studio.crop_frames(1) else {
        unreachable!("an object")
    };
    arguments.extend(changed.as_object().expect("an object").clone());
    Value::Object(arguments)
}

/// Replaces the video by a file with that content.
fn video_of(studio: &Studio, name: &str, content: &[u8]) -> Value {
    let path = studio.folder.join(name);
    fs::write(&path, content).expect("the folder is ours");
    with(studio, json!({ "video-path": path }))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of ours")
}

fn bounds(studio: &Studio, left: u32, top: u32, right: u32, bottom: u32) -> Value {
    let bounds = json!({ "left": left, "top": top, "right": right, "bottom": bottom });
    with(studio, json!({ "crop-bounds": bounds }))
}

/// Faults of the video and of the arguments: the status row can say them.
fn cases() -> Vec<Case> {
    vec![
        crop(
            "no such video",
            |studio| with(studio, json!({ "video-path": studio.folder.join("no.mp4") })),
            "VIDEO_NOT_FOUND",
            "no.mp4",
        ),
        crop(
            "a directory",
            |studio| with(studio, json!({ "video-path": studio.folder })),
            "VIDEO_NOT_A_FILE",
            "folder",
        ),
        crop(
            "a FIFO",
            |studio| {
                let fifo = studio.folder.join("pipe.mp4");
                let made = Command::new("mkfifo").arg(&fifo).status().expect("mkfifo is there");
                assert!(made.success());
                with(studio, json!({ "video-path": fifo }))
            },
            "VIDEO_NOT_A_FILE",
            "pipe",
        ),
        crop("empty", |studio| video_of(studio, "a.mp4", b""), "VIDEO_EMPTY", "a.mp4"),
        crop(
            "no video",
            |studio| video_of(studio, "a.mp4", "words, not pictures\n".repeat(5000).as_bytes()),
            "NOT_A_VIDEO",
            "a.mp4",
        ),
        full(
            "audio only",
            |studio| {
                let audio = studio.folder.join("audio.mp4");
                ffmpeg(&["-f", "lavfi", "-i", "sine=duration=1", text(&audio)]);
                let Value::Object(mut arguments) = studio.full_frames() else {
                    unreachable!("an object")
                };
                arguments.insert("video-path".to_owned(), json!(audio));
                Value::Object(arguments)
            },
            "NO_VIDEO_STREAM",
            "audio",
        ),
        crop(
            "cut off in the middle",
            |studio| {
                let whole = studio.folder.join("whole.mp4");
                let film = studio.folder.join("video.mp4");
                ffmpeg(&["-i", text(&film), "-c", "copy", "-movflags", "+faststart", text(&whole)]);
                let content = fs::read(&whole).expect("it was made");
                video_of(studio, "cut.mp4", &content[..content.len() * 3 / 5])
            },
            "TRUNCATED",
            "cut.mp4",
        ),
        crop(
            "a playlist",
            |studio| video_of(studio, "a.m3u8", b"#EXTM3U\n#EXTINF:2,\nvideo.mp4\n#EXT-X-ENDLIST\n"),
            "VIDEO_IS_A_PLAYLIST",
            "a.m3u8",
        ),
        crop(
            "a concat script",
            |studio| video_of(studio, "a.mp4", b"ffconcat version 1.0\nfile video.mp4\n"),
            "VIDEO_IS_A_PLAYLIST",
            "a.mp4",
        ),
        crop(
            "crop bounds outside the frame",
            |studio| bounds(studio, 0, 100, 321, 140),
            "CROP_OUTSIDE_FRAME",
            "320x180",
        ),
        full(
            "more frames than the index can tell apart",
            |studio| studio.arguments(json!({ "frame-rate": 11 })),
            "INVALID_ARGUMENT",
            "11 Hz",
        ),
        crop(
            "an output-dir that is a file",
            |studio| with(studio, json!({ "output-dir": studio.folder.join("video.mp4") })),
            "OUTPUT_DIR_NOT_WRITABLE",
            "video.mp4",
        ),
        crop(
            "an output-dir below a file",
            |studio| with(studio, json!({ "output-dir": studio.folder.join("video.mp4/scratch") })),
            "OUTPUT_DIR_NOT_WRITABLE",
            "scratch",
        ),
    ]
}

fn world() -> World {
    World::with("", &[("CAPTIONACC_OCR_MODELS", &ocr_models())])
}

fn assert_refused(run: &FlowRun, case: &str, code: &str, names: &str) {
    let message = run.state.message.clone().unwrap_or_default();
    assert_eq!(run.state.name, StateName::Failed, "{case}: {message}");
    assert!(message.contains(&format!("({code})")), "{case}: {message}");
    assert!(message.contains(names), "{case}: {message}");
    assert_eq!(
        (run.attempt, run.failed_attempts),
        (1, 1),
        "{case}: no retry for a fault of the input"
    );
}

fn wait_for_the_end(world: &World, id: FlowRunId) -> FlowRun {
    world.wait_until("the run has ended", || {
        let run = world.run(id);
        run.state.state_type.is_final() || run.state.name == StateName::AwaitingRetry
    });
    world.run(id)
}

fn wait_for_the_rows(world: &World) {
    world.wait_until("every status row is up to date", || {
        world.block_on(world.store.status_rows_due()).expect("reads").is_empty()
    });
}

#[test]
fn a_fault_of_the_input_is_named_in_the_status_row_and_changes_nothing_else() {
    let world = world();
    let worker = world.start_worker();
    for (number, case) in cases().into_iter().enumerate() {
        let studio = Studio::new(&world.path("videos"), &format!("v{number}"));
        studio
            .app
            .execute_batch(
                "INSERT INTO full_frames (frame_index, image_data, width, height, file_size) VALUES (7, x'00', 1, 1, 1);
                 INSERT INTO cropped_frames (frame_index, image_data, width, height, file_size,
                   crop_left, crop_top, crop_right, crop_bottom) VALUES (7, x'00', 1, 1, 1, 0, 0, 1, 1);",
            )
            .expect("the rows fit the schema");
        let arguments = (case.make)(&studio);
        let before = studio.files();
        let id = world.queue(case.flow, arguments);
        let run = wait_for_the_end(&world, id);
        assert_refused(&run, case.name, case.code, case.names);
        wait_for_the_rows(&world);
        let table = if case.flow == "crop-frames" {
            "crop_frames_status"
        } else {
            "processing_status"
        };
        let row = studio.row(&format!(
            "SELECT status, current_job_id, error_message, error_details, error_occurred_at IS NOT NULL FROM {table}"
        ));
        let [
            SqlValue::Text(status),
            SqlValue::Null,
            SqlValue::Text(message),
            SqlValue::Text(details),
            SqlValue::Integer(1),
        ] = row.as_slice()
        else {
            panic!("{}: {row:?}", case.name)
        };
        assert_eq!(status, "error", "{}", case.name);
        assert!(message.contains(case.names), "{}: {message}", case.name);
        let details: Value = serde_json::from_str(details).expect("JSON");
        assert_eq!(details["flow_run_id"], json!(id), "{}", case.name);
        assert_eq!(details["attempt"], 1, "{}", case.name);
        assert!(
            details["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains(case.names))
        );
        for table in ["full_frames", "cropped_frames"] {
            assert_eq!(studio.frames(table), [(7, vec![0])], "{}: {table}", case.name);
        }
        assert_eq!(studio.files(), before, "{}: nothing appears, nothing goes", case.name);
        assert!(studio.is_sound(), "{}", case.name);
    }
    worker.stop();
}

#[test]
fn a_db_path_that_is_no_database_is_named_and_left_as_it_is() {
    let world = world();
    let worker = world.start_worker();
    let studio = Studio::new(&world.path("videos"), "v");
    let words = studio.folder.join("words.db");
    fs::write(&words, "words, not pages\n".repeat(500)).expect("the folder is ours");
    let content = fs::read(&words).expect("it is there");
    let before = studio.files();
    for (path, code) in [
        (
            studio.folder.join("no/folder/annotations.db"),
            "ANNOTATIONS_FOLDER_NOT_FOUND",
        ),
        (studio.folder.clone(), "ANNOTATIONS_NOT_A_FILE"),
        (words.clone(), "ANNOTATIONS_NOT_A_DATABASE"),
    ] {
        for flow in ["crop-frames", "full-frames"] {
            let mut arguments = if flow == "crop-frames" {
                studio.crop_frames(1)
            } else {
                studio.full_frames()
            };
            arguments["db-path"] = json!(path);
            let run = wait_for_the_end(&world, world.queue(flow, arguments));
            assert_refused(&run, code, code, text(&path));
            wait_for_the_rows(&world);
        }
    }
    assert_eq!(studio.files(), before);
    assert_eq!(fs::read(&words).expect("it is there"), content);
    worker.stop();
}

#[test]
fn no_database_is_made_for_a_run_that_can_not_be() {
    let world = world();
    let worker = world.start_worker();
    let studio = Studio::new(&world.path("videos"), "v");
    let missing = studio.folder.join("new.db");
    let unsupported = studio.folder.join("snow.mkv");
    ffmpeg(&[
        "-f",
        "lavfi",
        "-i",
        "testsrc=s=320x240:d=1",
        "-c:v",
        "snow",
        "-strict",
        "-2",
        text(&unsupported),
    ]);
    let garbage = studio.folder.join("garbage.avi");
    ffmpeg(&[
        "-f",
        "lavfi",
        "-i",
        "testsrc=s=320x240:d=1",
        "-c:v",
        "mjpeg",
        text(&garbage),
    ]);
    let mut bytes = fs::read(&garbage).expect("made");
    let length = bytes.len();
    for at in (0..length - 4)
        .filter(|at| bytes[*at..].starts_with(b"00dc"))
        .collect::<Vec<_>>()
    {
        bytes[at + 8..(at + 2008).min(length)].fill(0x55);
    }
    fs::write(&garbage, bytes).expect("written");
    let before = studio.files();
    for (changed, code, names) in [
        (
            json!({ "video-path": studio.folder.join("no.mp4") }),
            "VIDEO_NOT_FOUND",
            "no.mp4",
        ),
        (json!({ "video-path": unsupported }), "UNSUPPORTED_CODEC", "snow"),
        (json!({ "video-path": garbage }), "CORRUPT_VIDEO", "garbage.avi"),
        (
            json!({ "crop-bounds": { "left": 0, "top": 0, "right": 321, "bottom": 9 } }),
            "CROP_OUTSIDE_FRAME",
            "320",
        ),
        (json!({ "frame-rate": 11 }), "INVALID_ARGUMENT", "11 Hz"),
        (
            json!({ "output-dir": studio.folder.join("video.mp4") }),
            "OUTPUT_DIR_NOT_WRITABLE",
            "video.mp4",
        ),
    ] {
        let mut changed = changed;
        changed["db-path"] = json!(missing);
        let run = wait_for_the_end(&world, world.queue("crop-frames", with(&studio, changed)));
        assert_refused(&run, names, code, names);
        wait_for_the_rows(&world);
        assert_eq!(studio.files(), before, "{code}");
    }
    // For one that can, it is.
    let id = world.queue("crop-frames", with(&studio, json!({ "db-path": missing })));
    world.wait_for(id, StateName::Completed);
    assert!(missing.is_file());
    worker.stop();
}

#[test]
fn no_fault_of_the_input_makes_a_database_where_there_was_none() {
    let world = world();
    let worker = world.start_worker();
    let studio = Studio::new(&world.path("videos"), "v");
    let missing = studio.folder.join("new.db");
    let file = studio.folder.join("a-file");
    fs::write(&file, "").expect("the folder is ours");
    let before = studio.files();
    let outside = json!({ "left": 0, "top": 0, "right": 100_000, "bottom": 100_000 }).to_string();
    let cases = [
        ("crop-frames", json!({ "crop-bounds": outside })),
        ("crop-frames", json!({ "output-dir": file })),
        ("full-frames", json!({ "output-dir": file.join("below") })),
    ];
    for (flow, mut changed) in cases {
        changed["db-path"] = json!(missing);
        let arguments = match flow {
            "crop-frames" => with(&studio, changed.clone()),
            _ => studio.arguments(changed.clone()),
        };
        let run = wait_for_the_end(&world, world.queue(flow, arguments));
        assert_eq!(run.state.name, StateName::Failed, "{flow} {changed}");
        wait_for_the_rows(&world);
        assert_eq!(studio.files(), before, "{flow} {changed}");
    }
    worker.stop();
}

#[test]
fn a_film_that_is_damaged_in_places_is_done_and_the_run_says_so() {
    let world = world();
    let worker = world.start_worker();
    let studio = Studio::new(&world.path("videos"), "v");
    let film = studio.folder.join("damaged.avi");
    let made = "-f lavfi -i testsrc=s=320x240:r=10:d=6 -c:v mjpeg";
    ffmpeg(&[&made.split(' ').collect::<Vec<_>>()[..], &[text(&film)]].concat());
    let mut bytes = fs::read(&film).expect("made");
    // Behind the header, which names them once more.
    let list = bytes.windows(4).position(|word| word == b"movi").expect("its pictures");
    let chunks: Vec<usize> = (list..bytes.len() - 4)
        .filter(|at| bytes[*at..].starts_with(b"00dc"))
        .collect();
    // Pictures 30 and 31, from 3.0 to 3.2 s.
    for chunk in &chunks[30..32] {
        bytes[chunk + 1000..chunk + 3000].fill(0x55);
    }
    fs::write(&film, bytes).expect("written");
    let id = world.queue("crop-frames", with(&studio, json!({ "video-path": film })));
    let run = world.wait_for(id, StateName::Completed);
    let message = run.state.message.unwrap_or_default();
    assert!(
        message.contains("60 cropped frames; 0.2 s damaged: 00:00:03.0-00:00:03.2"),
        "{message}"
    );
    assert_eq!(studio.frames("cropped_frames").len(), 60);
    let details = world.block_on(world.store.read_flow_run_details(id)).expect("known");
    let damage = details.artifacts.iter().find(|artifact| artifact.key == "damage");
    let damage = &damage.expect("an artifact").data[0];
    assert_eq!(damage["frames"], 2, "{damage}");
    let (lines, _) = world.block_on(world.store.read_logs(id, 0)).expect("reads");
    let warned = lines
        .iter()
        .any(|line| line.message.contains("2 frames show an earlier picture"));
    assert!(warned, "{lines:?}");
    worker.stop();
}

#[test]
fn arguments_that_can_not_be_are_refused_before_anything_is_stored() {
    let world = world();
    let studio = Studio::new(&world.path("videos"), "v");
    let good = studio.crop_frames(1);
    let changed = |name: &str, value: Value| {
        let mut arguments = good.clone();
        arguments[name] = value;
        ("crop-frames", arguments, name.to_owned())
    };
    let bounds = |text: &str| changed("crop-bounds", json!(text));
    let rate = |value: Value| {
        (
            "full-frames",
            studio.arguments(json!({ "frame-rate": value })),
            "frame-rate".to_owned(),
        )
    };
    let mut missing = good.clone();
    missing.as_object_mut().expect("an object").remove("video-path");
    for (flow, arguments, named) in [
        ("crop-frames", missing, "video-path".to_owned()),
        changed("video-id", json!("")),
        changed("video-path", json!("")),
        changed("vido-path", json!("x")),
        changed("video-path", json!("http://127.0.0.1:9/video.mp4")),
        changed("video-path", json!("concat:one.mp4|two.mp4")),
        bounds("not JSON"),
        bounds(r#"{"left":0,"top":0,"right":10}"#),
        bounds(r#"{"left":10,"top":0,"right":10,"bottom":20}"#),
        bounds(r#"{"left":20,"top":0,"right":10,"bottom":20}"#),
        bounds(r#"{"left":0.5,"top":0,"right":10,"bottom":20}"#),
        bounds(r#"{"left":-1,"top":0,"right":10,"bottom":20}"#),
        bounds(r#"{"left":0,"top":0,"right":10,"bottom":20,"depth":1}"#),
        changed("crop-bounds-version", json!("1.5")),
        changed("crop-bounds-version", json!(0)),
        rate(json!("0")),
        rate(json!(-1)),
        rate(json!("NaN")),
        rate(json!("inf")),
        rate(json!("fast")),
    ] {
        let flow = world.flows.get(flow).expect("a flow");
        let error = flow
            .parse_arguments(arguments.as_object().expect("an object"), &studio.folder)
            .expect_err(&named);
        assert_eq!(error.code(), "ERR_CAPTIONACC_INVALID_ARGUMENT", "{error}");
        assert!(error.to_string().contains(&named), "{named}: {error}");
    }
    let unknown = world.flows.get("crop-frame").expect_err("no such flow");
    assert!(unknown.to_string().contains("crop-frames"), "did you mean: {unknown}");
    assert_eq!(world.runs(), []);
}

#[test]
fn names_that_mean_something_elsewhere_are_just_names_here() {
    let world = world();
    let worker = world.start_worker();
    for (number, name) in [
        "100 %d",
        "frame_%05d",
        "it's \"quoted\"",
        "two\nlines",
        "字幕 ünï",
        "-y",
        "a?mode=memory&b#c",
        "$(touch x); {video-id}",
    ]
    .into_iter()
    .enumerate()
    {
        let studio = Studio::new(&world.path("videos").join(name), &format!("{name} {number}"));
        let id = world.queue("crop-frames", studio.crop_frames(1));
        let run = wait_for_the_end(&world, id);
        assert_eq!(run.state.name, StateName::Completed, "{name:?}: {run:?}");
        assert_eq!(studio.frames("cropped_frames").len(), 20, "{name:?}");
        assert!(!studio.output_dir().exists(), "{name:?}");
    }
    worker.stop();
}

#[test]
fn a_database_that_another_program_locks_is_waited_for() {
    let world = world();
    let worker = world.start_worker();
    let studio = Studio::new(&world.path("videos"), "v");
    studio.app.execute_batch("BEGIN IMMEDIATE").expect("nobody has it");
    let id = world.queue("crop-frames", studio.crop_frames(1));
    world.wait_until("the run waits for the lock", || {
        let details = world.block_on(world.store.read_flow_run_details(id)).expect("known");
        let mut tasks = details.task_runs.iter();
        tasks.any(|task| task.name == "open_annotations" && task.state.state_type == StateType::Running)
    });
    studio.app.execute_batch("COMMIT").expect("it is ours");
    let run = world.wait_for(id, StateName::Completed);
    assert_eq!((run.attempt, run.failed_attempts), (1, 0));
    assert_eq!(studio.cropping(), ("complete".to_owned(), None, None));
    worker.stop();
}

/// A file system of its own that can be filled, for as long as it lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where this user may not mount one.
    fn mount(folder: PathBuf, size: &str) -> Option<Self> {
        fs::create_dir_all(&folder).expect("the folder is ours");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&folder)
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("skipped: this user may not mount a small disk");
        }
        mounted.then_some(Self(folder))
    }

    fn remount(&self, options: &str) {
        let done = Command::new("mount")
            .args(["-o", &format!("remount,{options}")])
            .arg(&self.0)
            .status()
            .expect("mount is there");
        assert!(done.success(), "{options}");
    }

    /// Takes all the space that is left.
    fn fill(&self) -> PathBuf {
        let filler = self.0.join("filler");
        let file = fs::File::create(&filler).expect("there is space");
        let full = std::io::copy(&mut std::io::repeat(7), &mut &file).expect_err("it ends");
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        filler
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the app's connection is closed after it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn impatient_world() -> World {
    World::with("[flows.crop-frames]\nretries = 0\n", &[])
}

#[test]
fn a_full_scratch_disk_fails_the_run_and_keeps_the_old_frames() {
    let world = impatient_world();
    let Some(disk) = SmallDisk::mount(world.path("small"), "32k") else {
        return;
    };
    let worker = world.start_worker();
    let studio = Studio::new(&world.path("videos"), "v");
    let before = world.queue("crop-frames", studio.crop_frames(1));
    world.wait_for(before, StateName::Completed);
    let frames = studio.frames("cropped_frames");
    let id = world.queue(
        "crop-frames",
        with(&studio, json!({ "output-dir": disk.0.join("scratch") })),
    );
    let run = wait_for_the_end(&world, id);
    let message = run.state.message.unwrap_or_default();
    assert_eq!(run.state.name, StateName::Failed, "{message}");
    assert!(
        message.contains("(DISK_FULL)") && message.contains("scratch"),
        "{message}"
    );
    wait_for_the_rows(&world);
    assert_eq!(studio.cropping().0, "error");
    assert_eq!(studio.frames("cropped_frames"), frames);
    assert!(!disk.0.join("scratch").exists());
    worker.stop();
}

#[test]
fn a_full_disk_under_the_database_costs_nothing_and_is_told_once_there_is_space() {
    let world = impatient_world();
    let Some(disk) = SmallDisk::mount(world.path("small"), "2m") else {
        return;
    };
    let worker = world.start_worker();
    let studio = Studio::new(&disk.0, "v");
    let arguments = with(&studio, json!({ "output-dir": world.path("scratch") }));
    let before = world.queue("crop-frames", arguments.clone());
    world.wait_for(before, StateName::Completed);
    let frames = studio.frames("cropped_frames");
    // Everything is in the file, so that the log has no space of its own left.
    studio.row("PRAGMA wal_checkpoint(TRUNCATE)");
    let filler = disk.fill();
    let run = wait_for_the_end(&world, world.queue("crop-frames", arguments));
    let message = run.state.message.unwrap_or_default();
    assert_eq!(run.state.name, StateName::Failed, "{message}");
    assert!(message.contains("(DISK_FULL)"), "{message}");
    assert_eq!(studio.frames("cropped_frames"), frames);
    fs::remove_file(filler).expect("it is ours");
    wait_for_the_rows(&world);
    assert_eq!(studio.cropping().0, "error");
    assert!(studio.is_sound());
    assert!(!world.path("scratch").exists());
    worker.stop();
}

#[test]
fn a_read_only_disk_is_named() {
    let world = impatient_world();
    let Some(disk) = SmallDisk::mount(world.path("small"), "4m") else {
        return;
    };
    let worker = world.start_worker();
    let Studio { folder, app, id } = Studio::new(&disk.0, "v");
    drop(app);
    disk.remount("ro");
    let arguments = json!({
        "video-id": id,
        "video-path": folder.join("video.mp4"),
        "db-path": folder.join("annotations.db"),
        "output-dir": world.path("scratch"),
        "crop-bounds": r#"{"left":0,"top":0,"right":10,"bottom":10}"#,
    });
    let run = wait_for_the_end(&world, world.queue("crop-frames", arguments));
    assert_refused(&run, "read-only", "ANNOTATIONS_NOT_WRITABLE", "annotations.db");
    assert!(!world.path("scratch").exists());
    worker.stop();
}
