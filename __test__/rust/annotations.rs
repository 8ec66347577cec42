//! annotations.db over real files: what is written at each moment, what never is, and what others see meanwhile.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use captionacc::annotations::{
    Annotations, AnnotationsError, CommitCounts, CommitStep, FailureRecord, FullFramesOutcome, OpenRequest, Stage,
    StagedBox, Staging, StatusRow, remove_leftovers,
};
use captionacc::domain::flow::{CropBounds, StatusTable};
use rusqlite::Connection;
use rusqlite::types::Value;
use serde_json::json;

const OUR_PID: u32 = 4242;
const APP_SCHEMA: &str = include_str!("../fixtures/app-schema.sql");
/// Everything in the app's schema that no pipeline writes.
const APP_TABLES: [&str; 6] = [
    "captions",
    "full_frame_box_labels",
    "box_classification_model",
    "video_preferences",
    "text_review_status",
    "duplicate_resolution",
];
const BOUNDS: CropBounds = CropBounds {
    left: 10,
    top: 400,
    right: 330,
    bottom: 440,
};

/// A file as the web app leaves it after an upload, with rows of a user in every table that is the app's alone.
pub fn create_app_database(path: &Path) -> Connection {
    let app = Connection::open(path).expect("the folder is ours");
    app.pragma_update(None, "foreign_keys", false).expect("a pragma");
    app.busy_timeout(Duration::from_secs(30)).expect("a timeout");
    app.execute_batch(APP_SCHEMA).expect("the schema is valid");
    app.execute_batch(
        "INSERT INTO captions (start_frame_index, end_frame_index, text) VALUES (0, 12, 'one'), (13, 30, '二');
         INSERT INTO full_frame_box_labels (frame_index, box_index, box_left, box_top, box_right, box_bottom, label)
           VALUES (0, 0, 1, 2, 3, 4, 'in'), (100, 1, 5, 6, 7, 8, 'out');
         INSERT INTO box_classification_model VALUES (1, 'v1', datetime('now'), 10, 0.5, 0.5, '{}');
         INSERT INTO text_review_status VALUES (1, NULL, 'notes');
         INSERT INTO duplicate_resolution (id, duplicate_of_video_id, duplicate_of_display_path) VALUES (1, 'v', 'p');",
    )
    .expect("the rows fit the schema");
    app
}

/// A video's folder with its file, and the app's own connection to it.
struct Video {
    folder: tempfile::TempDir,
    app: Connection,
}

impl Video {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let app = create_app_database(&folder.path().join("annotations.db"));
        Self { folder, app }
    }

    fn with_tables(sql: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let app = Connection::open(folder.path().join("annotations.db")).expect("the folder is ours");
        app.execute_batch(sql).expect("valid SQL");
        Self { folder, app }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("annotations.db")
    }

    fn output_dir(&self) -> PathBuf {
        self.folder.path().join("output")
    }

    fn open(&self, table: StatusTable) -> Result<Annotations, AnnotationsError> {
        open(&self.path(), table)
    }

    /// An attempt that has begun.
    fn begun(&self, table: StatusTable) -> Annotations {
        let mut annotations = self.open(table).expect("it opens");
        annotations.begin().expect("it begins");
        annotations
    }

    fn value(&self, sql: &str) -> Value {
        self.app.query_row(sql, [], |row| row.get(0)).expect(sql)
    }

    fn text(&self, sql: &str) -> String {
        match self.value(sql) {
            Value::Text(text) => text,
            other => panic!("{sql}: {other:?}"),
        }
    }

    fn count(&self, sql: &str) -> i64 {
        match self.value(sql) {
            Value::Integer(number) => number,
            other => panic!("{sql}: {other:?}"),
        }
    }

    fn is_null(&self, sql: &str) -> bool {
        self.value(sql) == Value::Null
    }

    fn run(&self, sql: &str) {
        self.app.execute_batch(sql).expect(sql);
    }

    fn processing(&self, column: &str) -> Value {
        self.value(&format!("SELECT {column} FROM processing_status"))
    }

    fn status(&self) -> String {
        self.text("SELECT status FROM processing_status")
    }

    fn crop_status(&self) -> String {
        self.text("SELECT status FROM crop_frames_status")
    }

    /// Schema and rows of everything that no pipeline may touch.
    fn of_the_app(&self) -> String {
        APP_TABLES.iter().map(|table| dump(&self.app, table)).collect()
    }

    fn is_sound(&self) -> bool {
        self.text("PRAGMA integrity_check") == "ok"
    }
}

fn dump(database: &Connection, table: &str) -> String {
    let mut rows = database.prepare(&format!("SELECT * FROM {table}")).expect(table);
    let count = rows.column_count();
    let rows = rows.query_map([], |row| {
        (0..count)
            .map(|at| row.get::<_, Value>(at))
            .collect::<Result<Vec<_>, _>>()
    });
    let rows: Vec<_> = rows.expect(table).collect::<Result<_, _>>().expect(table);
    format!("{table}: {rows:?}\n")
}

fn request(path: &Path, table: StatusTable) -> OpenRequest<'_> {
    OpenRequest {
        path,
        may_create: false,
        identity: None,
        table,
        pid: OUR_PID,
        busy_timeout_ms: 30_000,
    }
}

fn open(path: &Path, table: StatusTable) -> Result<Annotations, AnnotationsError> {
    Annotations::open(&request(path, table))
}

fn jpeg(frame_index: i64, generation: u8) -> Vec<u8> {
    let mut bytes = vec![generation; 2000 + usize::try_from(frame_index % 7).expect("small")];
    bytes[..2].copy_from_slice(&[0xff, 0xd8]);
    bytes
}

/// `count` frames a second apart, two boxes on each.
fn staged(output_dir: &Path, count: i64, generation: u8) -> Staging {
    let mut staging = Staging::create(output_dir, "run-1").expect("it is created");
    for frame_index in (0..count).map(|at| at * 10) {
        assert!(
            staging
                .add_frame(frame_index, &jpeg(frame_index, generation), 640, 480)
                .expect("it is stored")
        );
        let text_box = |text: &str, y| StagedBox {
            text: text.to_owned(),
            confidence: 0.9,
            x: 0.1,
            y,
            width: 0.5,
            height: 0.05,
        };
        staging
            .add_boxes(frame_index, &[text_box("first", 0.9), text_box("二", 0.1)])
            .expect("they are stored");
    }
    staging
}

fn outcome() -> FullFramesOutcome {
    FullFramesOutcome {
        frame_width: 640,
        frame_height: 480,
        duration_seconds: 12.5,
        fps: 29.97,
        codec: "h264".to_owned(),
    }
}

fn commit_full(video: &Video, annotations: &mut Annotations, count: i64, generation: u8) -> CommitCounts {
    let mut staging = staged(&video.output_dir(), count, generation);
    annotations
        .commit_full_frames(&mut staging, &outcome(), &mut unobserved)
        .expect("it is written")
}

/// Whatever a commit says between its transactions, it may go on.
#[expect(clippy::unnecessary_wraps, reason = "what a commit takes")]
fn unobserved(_: CommitStep) -> Result<(), AnnotationsError> {
    Ok(())
}

fn failure() -> FailureRecord {
    FailureRecord {
        message: "the disk\n is full".to_owned(),
        details: json!({ "reason": "DISK_FULL", "flow_run_id": "run", "attempt": 1 }),
    }
}

#[track_caller]
fn assert_cancellation(outcome: Result<(), AnnotationsError>, code: &str) {
    let error = outcome.expect_err(code);
    assert_eq!(error.code(), code, "{error}");
    assert!(error.is_cancellation() && !error.is_input_fault());
}

// The moments of processing_status

#[test]
fn a_run_of_full_frames_writes_each_moment_of_its_status() {
    let video = Video::new();
    video.run(
        "UPDATE processing_status SET status = 'error', error_message = 'x', error_details = '{}',
         error_occurred_at = 'then', ocr_progress = 1.0, frame_extraction_progress = 1.0, processing_attempts = 2",
    );
    let mut annotations = video.begun(StatusTable::ProcessingStatus);
    assert_eq!(video.status(), "extracting_frames");
    assert_eq!(video.processing("processing_attempts"), Value::Integer(3));
    assert_eq!(video.processing("current_job_id"), Value::Text(OUR_PID.to_string()));
    assert_eq!(video.processing("frame_extraction_progress"), Value::Real(0.0));
    assert_eq!(video.processing("ocr_progress"), Value::Real(0.0));
    for column in ["error_message", "error_details", "error_occurred_at"] {
        assert_eq!(video.processing(column), Value::Null, "{column}");
    }
    let age = "abs(strftime('%s', 'now') - strftime('%s', processing_started_at)) < 60";
    assert_eq!(video.processing(age), Value::Integer(1));

    annotations.progress(0.5, Instant::now()).expect("it is written");
    assert_eq!(video.processing("frame_extraction_progress"), Value::Real(0.5));
    assert_ne!(video.processing("last_heartbeat_at"), Value::Null);

    annotations.stage(Stage::RunningOcr).expect("it is written");
    assert_eq!(video.status(), "running_ocr");
    assert_eq!(video.processing("frame_extraction_progress"), Value::Real(1.0));
    annotations.progress(0.25, Instant::now()).expect("it is written");
    assert_eq!(video.processing("ocr_progress"), Value::Real(0.25));

    annotations.stage(Stage::AnalyzingLayout).expect("it is written");
    assert_eq!(video.status(), "analyzing_layout");
    assert_eq!(video.processing("ocr_progress"), Value::Real(1.0));

    commit_full(&video, &mut annotations, 3, 1);
    assert_eq!(video.status(), "processing_complete");
    assert_eq!(video.processing("current_job_id"), Value::Null);
    assert_ne!(video.processing("processing_completed_at"), Value::Null);
    for column in [
        "upload_progress",
        "frame_extraction_progress",
        "ocr_progress",
        "layout_analysis_progress",
    ] {
        assert_eq!(video.processing(column), Value::Real(1.0), "{column}");
    }
}

#[test]
fn progress_is_written_at_most_ten_times_a_second_and_at_least_every_two_seconds() {
    for mode in ["wal", "delete"] {
        let video = Video::new();
        assert_eq!(video.text(&format!("PRAGMA journal_mode = {mode}")), mode);
        let mut annotations = video.begun(StatusTable::ProcessingStatus);
        let start = Instant::now();
        let mut written_ms = Vec::new();
        let mut seen = Value::Null;
        for ms in 0..4000_u32 {
            annotations
                .progress(f64::from(ms + 1) / 4000.0, start + Duration::from_millis(u64::from(ms)))
                .expect("it is written");
            let now = video.processing("frame_extraction_progress");
            if now != seen {
                written_ms.push(ms);
                seen = now;
            }
        }
        assert!(written_ms.len() > 2, "{mode}: {written_ms:?}");
        for pair in written_ms.windows(2) {
            assert!((100..=2000).contains(&(pair[1] - pair[0])), "{mode}: {written_ms:?}");
        }
    }
}

#[test]
fn progress_passes_over_a_locked_file_without_waiting_long() {
    let video = Video::new();
    let mut annotations = video.begun(StatusTable::ProcessingStatus);
    video.run("BEGIN IMMEDIATE");
    let start = Instant::now();
    annotations.progress(0.5, start).expect("it is passed over");
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "30 s is the patience of what matters"
    );
    video.run("ROLLBACK");
    assert_eq!(video.processing("frame_extraction_progress"), Value::Real(0.0));
    annotations
        .progress(0.75, start + Duration::from_secs(1))
        .expect("it is written");
    assert_eq!(video.processing("frame_extraction_progress"), Value::Real(0.75));
}

#[test]
fn a_failure_shows_as_queued_while_a_retry_is_due_and_as_an_error_in_the_end() {
    let video = Video::new();
    drop(video.begun(StatusTable::ProcessingStatus));
    let path = video.path();
    let row = StatusRow::new(&path, StatusTable::ProcessingStatus).with_ended_pid(Some(OUR_PID));
    row.mark_retry_due(&failure()).expect("it is written");
    assert_eq!(video.status(), "upload_complete");
    assert_eq!(
        video.text("SELECT error_message FROM processing_status"),
        "the disk is full"
    );
    assert_eq!(video.processing("current_job_id"), Value::Null);

    drop(video.begun(StatusTable::ProcessingStatus));
    assert_eq!(video.processing("error_message"), Value::Null);
    row.mark_failed(&failure()).expect("it is written");
    assert_eq!(video.status(), "error");
    assert_eq!(
        video.text("SELECT error_details ->> 'reason' FROM processing_status"),
        "DISK_FULL"
    );
    assert_ne!(video.processing("error_occurred_at"), Value::Null);
    assert_eq!(video.processing("current_job_id"), Value::Null);

    drop(video.begun(StatusTable::ProcessingStatus));
    row.mark_cancelled(&failure()).expect("it is written");
    assert_eq!(video.status(), "error");
    assert_eq!(
        video.text("SELECT error_message FROM processing_status"),
        "Processing cancelled"
    );
    assert_eq!(
        video.count("SELECT error_details ->> 'attempt' FROM processing_status"),
        1
    );
}

// crop_frames_status

#[test]
fn a_run_of_crop_frames_writes_each_moment_of_its_status() {
    let video = Video::with_tables(
        "CREATE TABLE crop_frames_status (id INTEGER PRIMARY KEY CHECK (id = 1), status TEXT NOT NULL DEFAULT 'queued',
         processing_started_at TEXT, processing_completed_at TEXT, current_job_id TEXT, error_message TEXT,
         error_details TEXT, error_occurred_at TEXT);",
    );
    let path = video.path();
    let row = StatusRow::new(&path, StatusTable::CropFramesStatus);
    row.mark_queued().expect("it is written");
    assert_eq!(video.crop_status(), "queued");
    assert_eq!(video.count("SELECT retry_count FROM crop_frames_status"), 0);

    drop(video.begun(StatusTable::CropFramesStatus));
    assert_eq!(video.crop_status(), "processing");
    assert_eq!(
        video.text("SELECT current_job_id FROM crop_frames_status"),
        OUR_PID.to_string()
    );

    row.with_ended_pid(Some(OUR_PID))
        .mark_retry_due(&failure())
        .expect("it is written");
    assert_eq!(video.crop_status(), "queued");
    assert_eq!(video.count("SELECT retry_count FROM crop_frames_status"), 1);
    assert_eq!(
        video.text("SELECT error_message FROM crop_frames_status"),
        "the disk is full"
    );

    let mut annotations = video.begun(StatusTable::CropFramesStatus);
    assert!(video.is_null("SELECT error_message FROM crop_frames_status"));
    let mut staging = staged(&video.output_dir(), 5, 1);
    let counts = annotations
        .commit_crop_frames(&mut staging, BOUNDS, 3, &mut unobserved)
        .expect("it is written");
    assert_eq!((counts.frames, counts.layout_bounds), (5, Some(BOUNDS)));
    assert_eq!(video.crop_status(), "complete");
    assert!(video.is_null("SELECT current_job_id FROM crop_frames_status"));
    assert!(!video.is_null("SELECT processing_completed_at FROM crop_frames_status"));

    row.mark_cancelled(&failure()).expect("it is written");
    assert_eq!(video.crop_status(), "error");
}

#[test]
fn queueing_leaves_the_row_of_a_living_process_alone_and_takes_that_of_a_dead_one() {
    let video = Video::new();
    let path = video.path();
    let row = StatusRow::new(&path, StatusTable::CropFramesStatus);
    let living = std::process::id();
    video.run(&format!(
        "INSERT INTO crop_frames_status (id, status, current_job_id) VALUES (1, 'processing', '{living}')"
    ));
    assert_cancellation(row.mark_queued(), "STATUS_ROW_TAKEN");
    assert_eq!(video.crop_status(), "processing");

    let mut dead = Command::new("true").spawn().expect("true starts");
    let dead_pid = dead.id();
    dead.wait().expect("it ends");
    video.run(&format!("UPDATE crop_frames_status SET current_job_id = '{dead_pid}'"));
    row.mark_queued().expect("it is written");
    assert_eq!(video.crop_status(), "queued");
}

#[test]
fn what_the_queue_knows_of_a_process_goes_before_what_its_number_says_here() {
    let video = Video::new();
    let path = video.path();
    let row = StatusRow::new(&path, StatusTable::CropFramesStatus);
    let here = std::process::id();
    let mut ended = Command::new("true").spawn().expect("true starts");
    let not_here = ended.id();
    ended.wait().expect("it ends");
    video.run(&format!(
        "INSERT INTO crop_frames_status (id, status, current_job_id) VALUES (1, 'processing', '{not_here}')"
    ));
    // An attempt in another container.
    let known = BTreeMap::from([(not_here, true), (here, false)]);
    assert_cancellation(row.with_known_pids(&known).mark_queued(), "STATUS_ROW_TAKEN");
    assert_eq!(video.crop_status(), "processing");

    // One that has ended in another container, whose number is that of a process here.
    video.run(&format!("UPDATE crop_frames_status SET current_job_id = '{here}'"));
    row.with_known_pids(&known).mark_queued().expect("it is written");
    assert_eq!(video.crop_status(), "queued");
}

#[test]
fn the_worker_writes_no_row_that_names_another_process() {
    let video = Video::new();
    let path = video.path();
    let row = StatusRow::new(&path, StatusTable::ProcessingStatus).with_ended_pid(Some(7));
    drop(video.begun(StatusTable::ProcessingStatus));
    let before = dump(&video.app, "processing_status");
    assert_cancellation(row.mark_failed(&failure()), "STATUS_ROW_TAKEN");
    assert_cancellation(row.mark_retry_due(&failure()), "STATUS_ROW_TAKEN");
    assert_cancellation(row.mark_cancelled(&failure()), "STATUS_ROW_TAKEN");
    row.mark_queued().expect("there is nothing to do");
    assert_eq!(dump(&video.app, "processing_status"), before);
}

#[test]
fn a_row_that_a_lost_machine_left_is_written_while_it_is_that_runs_and_says_that_it_is_at_work() {
    let now = jiff::Timestamp::now();
    let long_ago = now - jiff::SignedDuration::from_hours(2);
    let later = now + jiff::SignedDuration::from_hours(2);
    // Word, process of the row, process that the server knows, when the run was to begin; what it comes to.
    let cases = [
        ("running_ocr", Some(7), Some(7), long_ago, Some(true)),
        ("running_ocr", Some(8), Some(7), long_ago, None),
        // The machine did not come to say which process it was.
        ("running_ocr", Some(8), None, long_ago, Some(true)),
        ("running_ocr", Some(8), None, later, None),
        ("upload_complete", None, Some(7), long_ago, Some(true)),
        ("processing_complete", None, Some(7), long_ago, Some(false)),
        ("error", None, None, long_ago, Some(false)),
        ("pending_duplicate_resolution", None, Some(7), long_ago, Some(false)),
    ];
    for (word, process, known, since, expected) in cases {
        let video = Video::new();
        drop(video.begun(StatusTable::ProcessingStatus));
        let process = process.map_or("NULL".to_owned(), |pid: u32| format!("'{pid}'"));
        video.run(&format!(
            "UPDATE processing_status SET status = '{word}', current_job_id = {process}"
        ));
        let before = dump(&video.app, "processing_status");
        let path = video.path();
        let written = StatusRow::new(&path, StatusTable::ProcessingStatus)
            .with_ended_pid(known)
            .with_left_since(Some(since))
            .mark_cancelled(&failure());
        let case = format!("{word} {process} {known:?}");
        match expected {
            None => assert_cancellation(written, "STATUS_ROW_TAKEN"),
            Some(_) => written.expect(&case),
        }
        let is_written = dump(&video.app, "processing_status") != before;
        assert_eq!(is_written, expected == Some(true), "{case}");
        assert_eq!(
            is_written && video.status() == "error",
            expected == Some(true),
            "{case}"
        );
    }
}

#[test]
fn what_is_no_longer_due_is_not_written() {
    let video = Video::new();
    let path = video.path();
    let row = StatusRow::new(&path, StatusTable::CropFramesStatus);
    row.with_still_due(&|| true).mark_queued().expect("it is written");
    assert_eq!(video.crop_status(), "queued");
    row.with_still_due(&|| false)
        .mark_failed(&failure())
        .expect("there is nothing to do");
    assert_eq!(video.crop_status(), "queued");
}

#[test]
fn no_lock_is_held_while_an_orchestrator_is_asked_whether_a_row_is_due() {
    let video = Video::new();
    let path = video.path();
    video
        .app
        .busy_timeout(Duration::ZERO)
        .expect("a connection that gives up at once");
    // However long the answer takes: the app writes meanwhile.
    let answer = || {
        video.run("UPDATE captions SET text = 'while it was asked' WHERE id = 1");
        true
    };
    StatusRow::new(&path, StatusTable::CropFramesStatus)
        .with_still_due(&answer)
        .mark_queued()
        .expect("it is written");
    assert_eq!(video.crop_status(), "queued");
    assert_eq!(
        video.text("SELECT text FROM captions WHERE id = 1"),
        "while it was asked"
    );
}

#[test]
fn a_row_that_changes_while_an_orchestrator_is_asked_is_asked_about_again() {
    let video = Video::new();
    let path = video.path();
    video.run("INSERT INTO crop_frames_status (id, status) VALUES (1, 'complete')");
    let asked = Cell::new(0);
    // Due when it was asked; then another worker claims the run, and its attempt is complete before the lock is had.
    let claimed_meanwhile = || {
        asked.set(asked.get() + 1);
        video.run(&format!(
            "UPDATE crop_frames_status SET processing_completed_at = 'moment {}'",
            asked.get()
        ));
        asked.get() == 1
    };
    let row = StatusRow::new(&path, StatusTable::CropFramesStatus);
    row.with_still_due(&claimed_meanwhile)
        .mark_queued()
        .expect("there is nothing to do");
    assert_eq!(asked.get(), 2);
    assert_eq!(video.crop_status(), "complete");

    // One that never keeps still is left for later.
    let restless = || {
        asked.set(asked.get() + 1);
        video.run(&format!(
            "UPDATE crop_frames_status SET processing_completed_at = 'moment {}'",
            asked.get()
        ));
        true
    };
    let error = row.with_still_due(&restless).mark_queued().expect_err("it may pass");
    assert!(!error.is_input_fault() && !error.is_cancellation(), "{error}");
    assert_eq!(video.crop_status(), "complete");
}

#[test]
fn a_living_attempt_with_the_number_of_an_ended_one_keeps_its_row() {
    let video = Video::new();
    let path = video.path();
    // Attempts in two containers.
    drop(video.begun(StatusTable::ProcessingStatus));
    let row = StatusRow::new(&path, StatusTable::ProcessingStatus).with_ended_pid(Some(OUR_PID));
    let known = BTreeMap::from([(OUR_PID, true)]);
    assert_cancellation(row.with_known_pids(&known).mark_failed(&failure()), "STATUS_ROW_TAKEN");
    assert_eq!(video.status(), "extracting_frames");
    let known = BTreeMap::from([(OUR_PID, false)]);
    row.with_known_pids(&known)
        .mark_failed(&failure())
        .expect("it has ended");
    assert_eq!(video.status(), "error");
}

#[test]
fn a_late_attempt_with_the_number_of_the_one_at_work_writes_nothing_more() {
    for table in [StatusTable::ProcessingStatus, StatusTable::CropFramesStatus] {
        let video = Video::new();
        let mut late = video.begun(table);
        late.check_fence().expect("the row is its own");
        match table {
            StatusTable::ProcessingStatus => drop(video.begun(table)),
            StatusTable::CropFramesStatus => {
                let path = video.path();
                StatusRow::new(&path, table)
                    .with_ended_pid(Some(OUR_PID))
                    .mark_retry_due(&failure())
                    .expect("it is written");
                drop(video.begun(table));
            }
        }
        let before = dump(&video.app, "processing_status") + &dump(&video.app, "crop_frames_status");
        let mut staging = staged(&video.output_dir(), 2, 1);
        assert_cancellation(late.check_fence(), "STATUS_ROW_TAKEN");
        assert_cancellation(late.stage(Stage::RunningOcr), "STATUS_ROW_TAKEN");
        let committed = match table {
            StatusTable::ProcessingStatus => late.commit_full_frames(&mut staging, &outcome(), &mut unobserved),
            StatusTable::CropFramesStatus => late.commit_crop_frames(&mut staging, BOUNDS, 1, &mut unobserved),
        };
        assert_cancellation(committed.map(drop), "STATUS_ROW_TAKEN");
        let after = dump(&video.app, "processing_status") + &dump(&video.app, "crop_frames_status");
        assert_eq!(after, before);
    }
}

// Frames, boxes, layout, metadata

#[test]
fn frames_and_boxes_take_the_place_of_the_old_ones() {
    let video = Video::new();
    let mut annotations = video.begun(StatusTable::ProcessingStatus);
    commit_full(&video, &mut annotations, 9, 1);
    annotations.begin().expect("a second run");
    let counts = commit_full(&video, &mut annotations, 4, 2);
    let bytes: usize = (0..4).map(|at| jpeg(at * 10, 2).len()).sum();
    assert_eq!((counts.frames, counts.boxes, counts.bytes), (4, 8, bytes as u64));
    assert_eq!(video.count("SELECT count(*) FROM full_frames"), 4);
    assert_eq!(video.count("SELECT max(frame_index) FROM full_frames"), 30);
    let frame = video.value("SELECT image_data FROM full_frames WHERE frame_index = 20");
    assert_eq!(frame, Value::Blob(jpeg(20, 2)));
    assert_eq!(
        video.count("SELECT count(*) FROM full_frames WHERE file_size = length(image_data)"),
        4
    );
    assert_eq!(
        video.count("SELECT count(*) FROM full_frames WHERE width = 640 AND height = 480"),
        4
    );
    assert_eq!(
        video.count("SELECT count(*) FROM full_frames WHERE created_at LIKE '____-__-__ __:__:__'"),
        4
    );
    assert_eq!(video.count("SELECT count(*) FROM full_frame_ocr"), 8);
    assert_eq!(
        video.text("SELECT text FROM full_frame_ocr WHERE frame_index = 30 AND box_index = 1 AND y = 0.1"),
        "二"
    );
    assert_eq!(
        video.value("SELECT timestamp_seconds FROM full_frame_ocr WHERE frame_index = 30"),
        Value::Real(3.0)
    );
    assert!(video.is_null("SELECT predicted_label FROM full_frame_ocr LIMIT 1"));
    assert!(video.is_sound());
}

#[test]
fn cropped_frames_carry_their_bounds_and_version() {
    let video = Video::new();
    let mut annotations = video.begun(StatusTable::CropFramesStatus);
    for (version, count) in [(1, 8), (2, 3)] {
        let mut staging = staged(&video.output_dir(), count, 1);
        annotations
            .commit_crop_frames(&mut staging, BOUNDS, version, &mut unobserved)
            .expect("it is written");
        annotations.begin().expect("another run");
    }
    assert_eq!(
        video.count(
            "SELECT count(*) FROM cropped_frames WHERE crop_left = 10 AND crop_top = 400 AND crop_right = 330
             AND crop_bottom = 440 AND crop_bounds_version = 2"
        ),
        3
    );
    assert_eq!(video.count("SELECT count(*) FROM cropped_frames"), 3);
}

#[test]
fn the_index_rate_of_the_preferences_counts_the_seconds() {
    let video = Video::new();
    assert_eq!(
        video
            .begun(StatusTable::ProcessingStatus)
            .index_frame_rate_hz()
            .to_string(),
        "10"
    );
    video.run("UPDATE video_preferences SET index_framerate_hz = 20");
    let mut annotations = video.begun(StatusTable::ProcessingStatus);
    assert_eq!(annotations.index_frame_rate_hz().to_string(), "20");
    commit_full(&video, &mut annotations, 3, 1);
    assert_eq!(
        video.value("SELECT max(timestamp_seconds) FROM full_frame_ocr"),
        Value::Real(1.0)
    );
    video.run("UPDATE video_preferences SET index_framerate_hz = 0");
    assert_eq!(
        video
            .begun(StatusTable::ProcessingStatus)
            .index_frame_rate_hz()
            .to_string(),
        "10"
    );
}

#[test]
fn a_missing_layout_is_the_whole_frame_and_an_approved_one_stays() {
    let video = Video::new();
    let mut annotations = video.begun(StatusTable::ProcessingStatus);
    let counts = commit_full(&video, &mut annotations, 1, 1);
    let whole = CropBounds {
        left: 0,
        top: 0,
        right: 640,
        bottom: 480,
    };
    assert_eq!((counts.layout_bounds, counts.layout_version), (Some(whole), Some(1)));
    video.run(
        "UPDATE video_layout_config SET frame_width = 1, frame_height = 2, crop_left = 5, crop_top = 6, crop_right = 70,
         crop_bottom = 80, crop_bounds_version = 4, anchor_type = 'left', updated_at = 'the user''s'",
    );
    annotations.begin().expect("a re-run");
    let counts = commit_full(&video, &mut annotations, 1, 1);
    let approved = CropBounds {
        left: 5,
        top: 6,
        right: 70,
        bottom: 80,
    };
    assert_eq!((counts.layout_bounds, counts.layout_version), (Some(approved), Some(4)));
    assert_eq!(
        video.count(
            "SELECT count(*) FROM video_layout_config WHERE frame_width = 640 AND frame_height = 480 AND crop_left = 5
             AND crop_top = 6 AND crop_right = 70 AND crop_bottom = 80 AND crop_bounds_version = 4
             AND anchor_type = 'left' AND updated_at = 'the user''s'"
        ),
        1
    );
}

#[test]
fn only_empty_metadata_is_filled() {
    let video = Video::new();
    video.run("UPDATE video_metadata SET codec = 'the app''s'");
    let mut annotations = video.begun(StatusTable::ProcessingStatus);
    commit_full(&video, &mut annotations, 1, 1);
    assert_eq!(
        video.count(
            "SELECT count(*) FROM video_metadata WHERE duration_seconds = 12.5 AND width = 640 AND height = 480
             AND fps = 29.97 AND codec = 'the app''s' AND video_id = 'video-1' AND file_size_bytes = 123456"
        ),
        1
    );
}

#[test]
fn nothing_of_the_app_is_touched_and_the_journal_mode_stays() {
    for mode in ["delete", "wal"] {
        let video = Video::new();
        assert_eq!(video.text(&format!("PRAGMA journal_mode = {mode}")), mode);
        // A column that the app added since.
        video.run("ALTER TABLE full_frames ADD COLUMN rating INTEGER NOT NULL DEFAULT 7");
        // All but where in the file it is (rootpage).
        let the_schema = "(SELECT rowid, type, name, tbl_name, sql FROM sqlite_schema)";
        let schema = dump(&video.app, the_schema);
        let rows = video.of_the_app();
        let mut annotations = video.begun(StatusTable::ProcessingStatus);
        commit_full(&video, &mut annotations, 20, 1);
        // Frames that a user's labels refer to are replaced too, and the labels stay.
        annotations.begin().expect("a second run");
        commit_full(&video, &mut annotations, 20, 2);
        drop(annotations);
        let mut annotations = video.begun(StatusTable::CropFramesStatus);
        let mut staging = staged(&video.output_dir(), 20, 1);
        annotations
            .commit_crop_frames(&mut staging, BOUNDS, 1, &mut unobserved)
            .expect("it is written");
        drop((annotations, staging));
        assert_eq!(video.of_the_app(), rows, "{mode}");
        assert_eq!(dump(&video.app, the_schema), schema, "{mode}");
        assert_eq!(video.count("SELECT count(*) FROM full_frames WHERE rating = 7"), 20);
        assert_eq!(video.text("PRAGMA journal_mode"), mode);
        assert!(video.is_sound());
    }
}

// Older files

#[test]
fn a_file_is_created_only_on_request_and_an_empty_one_is_filled() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("annotations.db");
    assert_eq!(
        open(&path, StatusTable::ProcessingStatus).expect_err("no file").code(),
        "ANNOTATIONS_NOT_FOUND"
    );
    assert!(!path.exists());
    fs::write(&path, "").expect("the folder is ours");
    for may_create in [false, true] {
        let mut annotations = Annotations::open(&OpenRequest {
            may_create,
            ..request(&path, StatusTable::ProcessingStatus)
        })
        .expect("it opens");
        annotations.begin().expect("it begins");
        let mut staging = staged(&folder.path().join("out"), 2, 1);
        annotations
            .commit_full_frames(&mut staging, &outcome(), &mut unobserved)
            .expect("it is written");
        drop(annotations);
        let app = Connection::open(&path).expect("it is a database");
        let row = "SELECT status FROM processing_status";
        assert_eq!(
            app.query_row(row, [], |row| row.get::<_, String>(0)).expect(row),
            "processing_complete"
        );
        let row = "SELECT codec FROM video_metadata";
        assert_eq!(
            app.query_row(row, [], |row| row.get::<_, String>(0)).expect(row),
            "h264"
        );
        drop(app);
        fs::remove_file(&path).expect("it is there");
    }
}

#[test]
fn older_tables_with_fewer_columns_are_taken_as_they_are() {
    let video = Video::with_tables(
        "CREATE TABLE full_frames (frame_index INTEGER PRIMARY KEY, image_data BLOB NOT NULL, width INTEGER NOT NULL,
           height INTEGER NOT NULL, file_size INTEGER NOT NULL, created_at TEXT NOT NULL DEFAULT (datetime('now')));
         CREATE TABLE full_frame_ocr (id INTEGER PRIMARY KEY AUTOINCREMENT, frame_index INTEGER NOT NULL,
           box_index INTEGER NOT NULL, text TEXT NOT NULL, confidence REAL NOT NULL, x REAL NOT NULL, y REAL NOT NULL,
           width REAL NOT NULL, height REAL NOT NULL, UNIQUE (frame_index, box_index));
         CREATE TABLE processing_status (id INTEGER PRIMARY KEY, status TEXT NOT NULL, error_message TEXT,
           current_job_id TEXT);
         CREATE TABLE cropped_frames (frame_index INTEGER PRIMARY KEY, image_data BLOB NOT NULL, width INTEGER NOT NULL,
           height INTEGER NOT NULL, file_size INTEGER NOT NULL, crop_left INTEGER NOT NULL, crop_top INTEGER NOT NULL,
           crop_right INTEGER NOT NULL, crop_bottom INTEGER NOT NULL);
         INSERT INTO processing_status VALUES (1, 'upload_complete', 'x', NULL);
         INSERT INTO full_frames VALUES (3, x'00', 1, 1, 1, 'then');",
    );
    let old_schema = "SELECT group_concat(sql, char(10)) FROM (SELECT sql FROM sqlite_schema WHERE name IN
        ('full_frames', 'full_frame_ocr', 'processing_status', 'cropped_frames') ORDER BY name)";
    let before = video.text(old_schema);
    let mut annotations = video.begun(StatusTable::ProcessingStatus);
    annotations.stage(Stage::RunningOcr).expect("it is written");
    annotations
        .progress(0.5, Instant::now())
        .expect("there is no column for it");
    commit_full(&video, &mut annotations, 2, 1);
    assert_eq!(video.count("SELECT count(*) FROM full_frames"), 2);
    assert_eq!(video.count("SELECT count(*) FROM full_frame_ocr"), 4);
    assert_eq!(video.status(), "processing_complete");
    let mut annotations = video.begun(StatusTable::CropFramesStatus);
    let mut staging = staged(&video.output_dir(), 2, 1);
    annotations
        .commit_crop_frames(&mut staging, BOUNDS, 9, &mut unobserved)
        .expect("it is written");
    assert_eq!(video.count("SELECT count(*) FROM cropped_frames"), 2);
    assert_eq!(video.text(old_schema), before);
}

#[test]
fn a_table_of_another_kind_is_a_fault_of_the_input() {
    let video = Video::with_tables("CREATE TABLE full_frames (name TEXT)");
    let error = video
        .open(StatusTable::ProcessingStatus)
        .expect_err("it is another table");
    assert_eq!(error.code(), "ANNOTATIONS_SCHEMA");
    assert!(error.is_input_fault());
    assert!(error.to_string().contains("full_frames"), "{error}");
}

// Files that are none

#[test]
fn what_is_no_database_is_named_as_such() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let garbage = folder.path().join("garbage.db");
    fs::write(&garbage, "not a database at all, ".repeat(100)).expect("the folder is ours");
    let link = folder.path().join("link.db");
    std::os::unix::fs::symlink(folder.path().join("nothing"), &link).expect("the folder is ours");
    let pipe = folder.path().join("pipe.db");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo starts");
    assert!(made.success());
    let cases = [
        (folder.path().to_owned(), "ANNOTATIONS_NOT_A_FILE"),
        (pipe, "ANNOTATIONS_NOT_A_FILE"),
        (link, "ANNOTATIONS_NOT_A_FILE"),
        (garbage.clone(), "ANNOTATIONS_NOT_A_DATABASE"),
        (
            folder.path().join("no/such/annotations.db"),
            "ANNOTATIONS_FOLDER_NOT_FOUND",
        ),
        (garbage.join("annotations.db"), "ANNOTATIONS_FOLDER_NOT_FOUND"),
    ];
    for (path, code) in cases {
        let error = Annotations::open(&OpenRequest {
            may_create: true,
            ..request(&path, StatusTable::ProcessingStatus)
        })
        .expect_err(code);
        assert_eq!(error.code(), code, "{}", path.display());
        assert!(error.is_input_fault());
    }
    assert!(!folder.path().join("nothing").exists());
}

#[test]
fn a_damaged_database_is_named_as_such() {
    let video = Video::new();
    let path = video.path();
    drop(video.app);
    let mut bytes = fs::read(&path).expect("it is there");
    bytes[100..4096].fill(0x55);
    fs::write(&path, bytes).expect("it is ours");
    let error = open(&path, StatusTable::ProcessingStatus).expect_err("it is damaged");
    assert_eq!(error.code(), "ANNOTATIONS_CORRUPT");
    assert!(error.is_input_fault());
}

#[test]
fn a_symbolic_link_to_the_file_is_followed() {
    let video = Video::new();
    let link = video.folder.path().join("link.db");
    std::os::unix::fs::symlink(video.path(), &link).expect("the folder is ours");
    open(&link, StatusTable::ProcessingStatus)
        .expect("it opens")
        .begin()
        .expect("it begins");
    assert_eq!(video.status(), "extracting_frames");
}

// Deletion, replacement, other holders

#[test]
fn a_deleted_video_ends_the_run_and_is_not_written_to() {
    for table in [StatusTable::ProcessingStatus, StatusTable::CropFramesStatus] {
        let video = Video::new();
        let mut annotations = video.begun(table);
        let mut staging = staged(&video.output_dir(), 2, 1);
        video.run("UPDATE processing_status SET deleted = 1, deleted_at = datetime('now')");
        let before = [
            "processing_status",
            "crop_frames_status",
            "full_frames",
            "cropped_frames",
        ]
        .map(|table| dump(&video.app, table));
        assert_cancellation(annotations.check_fence(), "VIDEO_DELETED");
        assert_cancellation(annotations.begin(), "VIDEO_DELETED");
        assert_cancellation(annotations.stage(Stage::RunningOcr), "VIDEO_DELETED");
        let committed = match table {
            StatusTable::ProcessingStatus => annotations.commit_full_frames(&mut staging, &outcome(), &mut unobserved),
            StatusTable::CropFramesStatus => annotations.commit_crop_frames(&mut staging, BOUNDS, 1, &mut unobserved),
        };
        assert_cancellation(committed.map(drop), "VIDEO_DELETED");
        assert_cancellation(video.open(table).map(drop), "VIDEO_DELETED");
        let path = video.path();
        let row = StatusRow::new(&path, table).with_ended_pid(Some(OUR_PID));
        assert_cancellation(row.mark_failed(&failure()), "VIDEO_DELETED");
        assert_cancellation(row.mark_queued(), "VIDEO_DELETED");
        let after = [
            "processing_status",
            "crop_frames_status",
            "full_frames",
            "cropped_frames",
        ]
        .map(|table| dump(&video.app, table));
        assert_eq!(after, before);
    }
}

#[test]
fn a_removed_folder_is_not_brought_back_to_life() {
    for mode in ["delete", "wal"] {
        let video = Video::new();
        assert_eq!(video.text(&format!("PRAGMA journal_mode = {mode}")), mode);
        let mut annotations = video.begun(StatusTable::ProcessingStatus);
        let mut staging = staged(&video.output_dir(), 2, 1);
        let (path, identity) = (video.path(), annotations.identity());
        let Video { folder, app } = video;
        let folder = folder.keep();
        fs::remove_dir_all(&folder).expect("it is ours");
        assert_cancellation(annotations.check_fence(), "ANNOTATIONS_GONE");
        assert_cancellation(annotations.progress(0.5, Instant::now()), "ANNOTATIONS_GONE");
        assert_cancellation(annotations.stage(Stage::RunningOcr), "ANNOTATIONS_GONE");
        let committed = annotations.commit_full_frames(&mut staging, &outcome(), &mut unobserved);
        assert!(committed.expect_err("it is gone").is_cancellation() || !folder.exists());
        drop((annotations, staging, app));
        let row = StatusRow::new(&path, StatusTable::ProcessingStatus).with_identity(identity);
        assert_cancellation(row.mark_failed(&failure()), "ANNOTATIONS_GONE");
        // A second attempt that knows which file it was.
        let reopened = Annotations::open(&OpenRequest {
            may_create: true,
            identity,
            ..request(&path, StatusTable::ProcessingStatus)
        });
        assert_cancellation(reopened.map(drop), "ANNOTATIONS_GONE");
        assert!(!folder.exists(), "{mode}");
    }
}

#[test]
fn another_file_in_the_same_place_is_left_alone() {
    let video = Video::new();
    let mut annotations = video.begun(StatusTable::ProcessingStatus);
    let identity = annotations.identity();
    let path = video.path();
    let aside = video.folder.path().join("aside.db");
    fs::rename(&path, &aside).expect("it is ours");
    let new = create_app_database(&path);
    let before = dump(&new, "processing_status");
    let mut staging = staged(&video.output_dir(), 2, 1);
    assert_cancellation(annotations.check_fence(), "ANNOTATIONS_GONE");
    assert_cancellation(
        annotations
            .commit_full_frames(&mut staging, &outcome(), &mut unobserved)
            .map(drop),
        "ANNOTATIONS_GONE",
    );
    let row = StatusRow::new(&path, StatusTable::ProcessingStatus).with_identity(identity);
    assert_cancellation(row.mark_cancelled(&failure()), "ANNOTATIONS_GONE");
    assert_eq!(dump(&new, "processing_status"), before);
}

#[test]
fn a_row_of_another_process_ends_the_run_and_a_reset_row_is_taken_again() {
    let video = Video::new();
    let mut annotations = video.begun(StatusTable::ProcessingStatus);
    annotations.stage(Stage::RunningOcr).expect("it is written");
    annotations.check_fence().expect("the row is ours");

    video.run("UPDATE processing_status SET status = 'upload_complete', current_job_id = NULL, error_message = 'old'");
    annotations.check_fence().expect("nobody else has it");
    assert_eq!(video.status(), "running_ocr");
    assert_eq!(video.processing("current_job_id"), Value::Text(OUR_PID.to_string()));
    assert_eq!(video.processing("error_message"), Value::Null);

    video.run("UPDATE processing_status SET current_job_id = '99'");
    let before = dump(&video.app, "processing_status");
    let mut staging = staged(&video.output_dir(), 2, 1);
    assert_cancellation(annotations.check_fence(), "STATUS_ROW_TAKEN");
    assert_cancellation(annotations.progress(0.9, Instant::now()), "STATUS_ROW_TAKEN");
    assert_cancellation(annotations.stage(Stage::AnalyzingLayout), "STATUS_ROW_TAKEN");
    assert_cancellation(annotations.complete_external(), "STATUS_ROW_TAKEN");
    assert_cancellation(
        annotations
            .commit_full_frames(&mut staging, &outcome(), &mut unobserved)
            .map(drop),
        "STATUS_ROW_TAKEN",
    );
    assert_eq!(dump(&video.app, "processing_status"), before);
    assert_eq!(video.count("SELECT count(*) FROM full_frames"), 0);
}

// Others at the file meanwhile

#[test]
fn a_lock_that_stays_is_a_passing_fault_and_one_that_goes_is_waited_for() {
    let video = Video::new();
    drop(video.begun(StatusTable::ProcessingStatus));
    video.run("BEGIN IMMEDIATE");
    let path = video.path();
    let mut impatient = Annotations::open(&OpenRequest {
        busy_timeout_ms: 50,
        ..request(&path, StatusTable::ProcessingStatus)
    })
    .expect("opening only reads");
    let error = impatient.begin().expect_err("it is locked");
    assert_eq!(error.code(), "ANNOTATIONS_LOCKED");
    assert!(!error.is_input_fault() && !error.is_cancellation());

    let mut patient = video.open(StatusTable::ProcessingStatus).expect("opening only reads");
    let waiting = AtomicBool::new(false);
    thread::scope(|scope| {
        let begun = scope.spawn(|| {
            waiting.store(true, Ordering::Release);
            patient.begin()
        });
        while !waiting.load(Ordering::Acquire) {
            thread::yield_now();
        }
        video.run("COMMIT");
        begun.join().expect("no panic").expect("the lock is gone");
    });
    assert_eq!(video.count("SELECT processing_attempts FROM processing_status"), 2);
}

#[test]
fn a_failed_commit_changes_nothing_and_can_be_repeated() {
    let video = Video::new();
    let mut annotations = video.begun(StatusTable::ProcessingStatus);
    commit_full(&video, &mut annotations, 5, 1);
    annotations.begin().expect("a second run");
    // Whatever fails within the transaction: here a trigger, after the frames are written.
    video.run(
        "CREATE TRIGGER refuse BEFORE INSERT ON full_frame_ocr WHEN new.frame_index = 20
         BEGIN SELECT raise(ABORT, 'refused'); END",
    );
    let before = ["full_frames", "full_frame_ocr", "processing_status"].map(|table| dump(&video.app, table));
    let mut staging = staged(&video.output_dir(), 9, 2);
    let error = annotations
        .commit_full_frames(&mut staging, &outcome(), &mut unobserved)
        .expect_err("the trigger refuses");
    assert_eq!(error.code(), "ANNOTATIONS_SCHEMA");
    assert!(error.to_string().contains("refused"), "{error}");
    let after = ["full_frames", "full_frame_ocr", "processing_status"].map(|table| dump(&video.app, table));
    assert_eq!(after, before);
    video.run("DROP TRIGGER refuse");
    annotations
        .commit_full_frames(&mut staging, &outcome(), &mut unobserved)
        .expect("the same staging database again");
    assert_eq!(video.count("SELECT count(*) FROM full_frames"), 9);
}

/// More than one transaction takes, so that a commit has several.
fn many_staged(output_dir: &Path, count: i64, generation: u8) -> Staging {
    let mut staging = Staging::create(output_dir, "run-1").expect("it is created");
    for frame_index in 0..count {
        staging
            .add_frame(frame_index, &vec![generation; 100_000], 640, 480)
            .expect("it is stored");
    }
    staging
}

/// Tables of ours in a file.
fn debris(app: &Connection) -> i64 {
    app.query_row(
        "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'captionacc%' OR name LIKE 'sqlite_autoindex_captionacc%'",
        [],
        |row| row.get(0),
    )
    .expect("the schema is readable")
}

#[test]
fn the_app_writes_and_reads_between_the_transactions_of_a_commit_which_are_short() {
    const LARGEST_BYTES: i64 = 5_000_000;
    for mode in ["delete", "wal"] {
        let video = Video::new();
        assert_eq!(video.text(&format!("PRAGMA journal_mode = {mode}")), mode);
        video.app.busy_timeout(Duration::ZERO).expect("it gives up at once");
        let mut annotations = video.begun(StatusTable::CropFramesStatus);
        for (generation, count) in [(1, 150), (2, 140)] {
            annotations.begin().expect("a run");
            let mut staging = many_staged(&video.output_dir(), count, generation);
            let old = video.count("SELECT count(*) FROM cropped_frames");
            let in_use = "SELECT (SELECT page_count FROM pragma_page_count) - (SELECT freelist_count FROM pragma_freelist_count)";
            let page_bytes = video.count("PRAGMA page_size");
            let mut pages = video.count(in_use);
            let mut steps = BTreeMap::new();
            let mut is_visible = false;
            let mut observe = |step: CommitStep| {
                let name = format!("{step:?}");
                *steps
                    .entry(name.split(' ').next().expect("a name").to_owned())
                    .or_insert(0) += 1;
                is_visible |= step == CommitStep::Exchanged;
                // With no patience at all: nobody has the lock.
                video.run("UPDATE captions SET text = 'between' WHERE id = 1");
                let frames = video.count("SELECT count(*) FROM cropped_frames");
                assert_eq!(frames, if is_visible { count } else { old }, "{mode}: {step:?}");
                let now = video.count(in_use);
                let bytes = (now - pages).abs() * page_bytes;
                assert!(
                    bytes < LARGEST_BYTES,
                    "{mode}: {bytes} bytes in one transaction before {step:?}"
                );
                pages = now;
                if mode == "wal" {
                    let log = fs::metadata(video.path().with_extension("db-wal")).expect("there is a log");
                    assert!(
                        log.len() < 3 * LARGEST_BYTES as u64,
                        "the log grows: {} bytes",
                        log.len()
                    );
                }
                Ok::<_, AnnotationsError>(())
            };
            annotations
                .commit_crop_frames(&mut staging, BOUNDS, 1, &mut observe)
                .expect("it is written");
            assert!(steps["Filled"] > 3, "{mode}: {steps:?}");
            assert_eq!((steps["Ready"], steps["Exchanged"]), (1, 1), "{mode}");
            assert!(old == 0 || steps["OldRemoved"] > 3, "{mode}: {steps:?}");
            assert_eq!(debris(&video.app), 0, "{mode}");
            assert!(video.is_sound(), "{mode}");
        }
        assert_eq!(
            video.count("SELECT count(*) FROM cropped_frames WHERE substr(image_data, 1, 1) = x'02'"),
            140
        );
    }
}

#[test]
fn an_exchange_leaves_every_text_of_the_schema_and_gives_no_id_twice() {
    for pragma in [
        "auto_vacuum = 1",
        "auto_vacuum = 2",
        "secure_delete = 1",
        "page_size = 512",
    ] {
        let video = Video::with_tables(&format!("PRAGMA {pragma}; VACUUM;"));
        video.run(APP_SCHEMA);
        // What an app may have made since: quoted, renamed, with its own indexes and a view.
        video.run(
            "ALTER TABLE full_frames RENAME TO moved; ALTER TABLE moved RENAME TO full_frames;
             ALTER TABLE full_frames ADD COLUMN rating INTEGER NOT NULL DEFAULT 7;
             CREATE UNIQUE INDEX \"by rating\" ON \"full_frames\" (rating, frame_index) WHERE rating > 3;
             CREATE INDEX by_text ON full_frame_ocr (lower(text)); ANALYZE;
             CREATE VIEW first_frame AS SELECT frame_index FROM full_frames ORDER BY 1 LIMIT 1;
             PRAGMA foreign_keys = ON;",
        );
        let schema = "(SELECT rowid, type, name, tbl_name, sql FROM sqlite_schema)";
        let before = dump(&video.app, schema);
        let mut prepared = video
            .app
            .prepare("SELECT count(*) FROM full_frames NOT INDEXED")
            .expect("a statement of the app");
        let mut annotations = video.begun(StatusTable::ProcessingStatus);
        let mut newest_id = 0;
        for (generation, count) in [(1, 30), (2, 12), (3, 20)] {
            annotations.begin().expect("a run");
            commit_full(&video, &mut annotations, count, generation);
            assert_eq!(dump(&video.app, schema), before, "{pragma}");
            let seen: i64 = prepared.query_row([], |row| row.get(0)).expect("it is prepared again");
            assert_eq!(seen, count);
            assert!(
                video.count("SELECT min(id) FROM full_frame_ocr") > newest_id,
                "{pragma}"
            );
            newest_id = video.count("SELECT max(id) FROM full_frame_ocr");
            assert_eq!(
                video.count("SELECT count(*) FROM full_frame_ocr WHERE lower(text) = 'first'"),
                count
            );
            assert_eq!(video.count("SELECT count(*) FROM full_frames WHERE rating = 7"), count);
            assert_eq!(video.count("SELECT frame_index FROM first_frame"), 0);
            video.run("INSERT INTO full_frame_box_labels (frame_index, box_index, box_left, box_top, box_right, box_bottom, label)
                       VALUES (0, (SELECT count(*) FROM full_frame_box_labels), 1, 2, 3, 4, 'in')");
            assert!(video.is_sound(), "{pragma}");
            assert_eq!(debris(&video.app), 0, "{pragma}");
        }
        video.run("VACUUM");
        assert!(video.is_sound(), "{pragma}");
    }
}

#[test]
fn a_schema_that_changes_during_the_fill_is_kept_and_filled_again() {
    let video = Video::new();
    let mut annotations = video.begun(StatusTable::ProcessingStatus);
    commit_full(&video, &mut annotations, 5, 1);
    annotations.begin().expect("another run");
    let mut staging = staged(&video.output_dir(), 9, 2);
    let mut has_changed = false;
    let mut observe = |step: CommitStep| {
        if step == CommitStep::Ready && !std::mem::replace(&mut has_changed, true) {
            video.run("ALTER TABLE full_frames ADD COLUMN rating INTEGER NOT NULL DEFAULT 7");
        }
        Ok::<_, AnnotationsError>(())
    };
    annotations
        .commit_full_frames(&mut staging, &outcome(), &mut observe)
        .expect("it is written");
    assert_eq!(video.count("SELECT count(*) FROM full_frames WHERE rating = 7"), 9);
    assert_eq!(video.status(), "processing_complete");
    assert_eq!(debris(&video.app), 0);
}

#[test]
fn a_commit_that_is_ended_in_between_leaves_the_old_set_and_nothing_of_its_own() {
    for ended_at in ["Filled", "Ready"] {
        for deleted in [false, true] {
            let video = Video::new();
            let mut annotations = video.begun(StatusTable::ProcessingStatus);
            commit_full(&video, &mut annotations, 5, 1);
            annotations.begin().expect("another run");
            let before = ["full_frames", "full_frame_ocr"].map(|table| dump(&video.app, table));
            let mut staging = staged(&video.output_dir(), 9, 2);
            let mut observe = |step: CommitStep| {
                if !format!("{step:?}").starts_with(ended_at) {
                    return Ok(());
                }
                if deleted {
                    video.run("UPDATE processing_status SET deleted = 1");
                    return Ok(());
                }
                Err(AnnotationsError::Superseded {
                    path: video.path(),
                    holder: "the worker says no".to_owned(),
                })
            };
            let ended = annotations.commit_full_frames(&mut staging, &outcome(), &mut observe);
            let code = if deleted { "VIDEO_DELETED" } else { "STATUS_ROW_TAKEN" };
            assert_cancellation(ended.map(drop), code);
            let after = ["full_frames", "full_frame_ocr"].map(|table| dump(&video.app, table));
            assert_eq!(after, before, "{ended_at}");
            // A video that is deleted is not written any more; its file goes with what is in it.
            assert_eq!(debris(&video.app) == 0, !deleted, "{ended_at}");
        }
    }
}

#[test]
fn what_the_app_does_to_the_old_set_meanwhile_goes_with_it() {
    let video = Video::new();
    let mut annotations = video.begun(StatusTable::ProcessingStatus);
    commit_full(&video, &mut annotations, 5, 1);
    annotations.begin().expect("another run");
    let mut staging = staged(&video.output_dir(), 9, 2);
    let mut observe = |step: CommitStep| {
        if step == CommitStep::Ready {
            video.run(
                "DELETE FROM full_frames WHERE frame_index = 0; UPDATE full_frame_ocr SET predicted_label = 'in';
                 INSERT INTO full_frame_ocr (frame_index, box_index, text, confidence, x, y, width, height)
                   VALUES (7, 7, 'the app''s', 1, 0, 0, 1, 1);
                 UPDATE captions SET text = 'the user''s' WHERE id = 1",
            );
        }
        Ok::<_, AnnotationsError>(())
    };
    annotations
        .commit_full_frames(&mut staging, &outcome(), &mut observe)
        .expect("it is written");
    assert_eq!(video.count("SELECT count(*) FROM full_frames"), 9);
    assert_eq!(
        video.count("SELECT count(*) FROM full_frame_ocr WHERE predicted_label IS NULL"),
        18
    );
    assert_eq!(video.text("SELECT text FROM captions WHERE id = 1"), "the user's");
}

#[test]
fn a_table_with_triggers_is_written_in_one_transaction_that_they_see() {
    let video = Video::new();
    video.run(
        "CREATE TABLE seen (frame_index INTEGER);
         CREATE TRIGGER sees AFTER INSERT ON full_frames BEGIN INSERT INTO seen VALUES (new.frame_index); END",
    );
    let mut annotations = video.begun(StatusTable::ProcessingStatus);
    commit_full(&video, &mut annotations, 5, 1);
    annotations.begin().expect("another run");
    commit_full(&video, &mut annotations, 4, 2);
    assert_eq!(video.count("SELECT count(*) FROM seen"), 9);
    assert_eq!(video.count("SELECT count(*) FROM full_frames"), 4);
    assert_eq!(debris(&video.app), 0);
}

/// Run in a process of its own by [`a_death_at_any_step_leaves_one_set_whole_and_the_next_run_nothing_else`].
#[test]
#[ignore = "a part of another test"]
fn dies_at_a_step_of_its_commit() {
    let Some(path) = std::env::var_os(CRASH_PATH).map(PathBuf::from) else {
        return;
    };
    let fatal = std::env::var(CRASH_STEP).expect("a step");
    let mut annotations = open(&path, StatusTable::CropFramesStatus).expect("it opens");
    annotations.begin().expect("it begins");
    let mut staging = many_staged(&path.with_extension("output"), 60, 2);
    let mut observe = |step: CommitStep| {
        if format!("{step:?}").starts_with(&fatal) {
            std::process::abort();
        }
        Ok::<_, AnnotationsError>(())
    };
    annotations
        .commit_crop_frames(&mut staging, BOUNDS, 1, &mut observe)
        .expect("it ends before");
}

#[test]
fn a_death_at_any_step_leaves_one_set_whole_and_the_next_run_nothing_else() {
    for mode in ["delete", "wal"] {
        for fatal in ["Filled", "Ready", "Exchanged", "OldRemoved"] {
            let video = Video::new();
            assert_eq!(video.text(&format!("PRAGMA journal_mode = {mode}")), mode);
            let mut annotations = video.begun(StatusTable::CropFramesStatus);
            let mut staging = many_staged(&video.output_dir(), 50, 1);
            annotations
                .commit_crop_frames(&mut staging, BOUNDS, 1, &mut unobserved)
                .expect("it is written");
            drop((annotations, staging));
            let (_, module) = module_path!().split_once("::").expect("a module of a crate");
            let died = Command::new(std::env::current_exe().expect("it has a path"))
                .args([
                    "--ignored",
                    "--exact",
                    &format!("{module}::dies_at_a_step_of_its_commit"),
                ])
                .env(CRASH_PATH, video.path())
                .env(CRASH_STEP, fatal)
                .output()
                .expect("it starts");
            assert!(
                !died.status.success() && died.status.code().is_none(),
                "{fatal}: {died:?}"
            );

            let is_new = ["Exchanged", "OldRemoved"].contains(&fatal);
            let (count, generation) = if is_new { (60, "x'02'") } else { (50, "x'01'") };
            let set = format!("SELECT count(*) FROM cropped_frames WHERE substr(image_data, 9, 1) = {generation}");
            assert_eq!(video.count(&set), count, "{mode}, {fatal}");
            assert_eq!(
                video.count("SELECT count(*) FROM cropped_frames"),
                count,
                "{mode}, {fatal}"
            );
            assert_eq!(video.crop_status(), if is_new { "complete" } else { "processing" });
            assert!(video.is_sound());
            assert_ne!(debris(&video.app), 0, "{fatal}: there is something to clear away");

            // The next attempt, however it ends.
            let mut next = video.begun(StatusTable::CropFramesStatus);
            next.clear_leftovers(&mut unobserved).expect("they are removed");
            assert_eq!(debris(&video.app), 0, "{mode}, {fatal}");
            assert_eq!(video.count(&set), count, "{mode}, {fatal}");
            assert!(video.is_sound());
        }
    }
}

const CRASH_STEP: &str = "CAPTIONACC_TEST_CRASH_STEP";

#[test]
fn a_missing_file_is_made_by_the_commit_and_by_nothing_before() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("annotations.db");
    let request = OpenRequest {
        may_create: true,
        ..request(&path, StatusTable::ProcessingStatus)
    };
    let found = || fs::read_dir(folder.path()).expect("the folder is ours").count();
    let mut annotations = Annotations::open(&request).expect("it can be made");
    annotations.begin().expect("there is nothing to write it in");
    annotations.progress(0.5, Instant::now()).expect("as above");
    annotations.stage(Stage::RunningOcr).expect("as above");
    annotations.check_fence().expect("nobody has deleted it");
    assert_eq!((annotations.identity(), found()), (None, 0));
    // A run whose input is found faulty ends here.
    drop(annotations);
    assert_eq!(found(), 0);

    let mut annotations = Annotations::open(&request).expect("it can be made");
    annotations.begin().expect("there is nothing to write it in");
    let mut staging = staged(&folder.path().join("out"), 3, 1);
    let mut made = None;
    annotations
        .commit_full_frames(&mut staging, &outcome(), &mut |step| {
            if let CommitStep::Created(identity) = step {
                made = Some(identity);
            }
            Ok::<_, AnnotationsError>(())
        })
        .expect("it is written");
    assert!(made.is_some() && made == annotations.identity());
    let app = Connection::open(&path).expect("it is there");
    assert!(dump(&app, "processing_status").contains("processing_complete"));

    // One whose folder is removed meanwhile is not brought back to life.
    let gone = folder.path().join("gone");
    fs::create_dir(&gone).expect("the folder is ours");
    let path = gone.join("annotations.db");
    let mut annotations = Annotations::open(&OpenRequest { path: &path, ..request }).expect("it can be made");
    annotations.begin().expect("there is nothing to write it in");
    fs::remove_dir(&gone).expect("it is empty");
    let committed = annotations.commit_full_frames(&mut staging, &outcome(), &mut unobserved);
    assert_cancellation(committed.map(drop), "ANNOTATIONS_GONE");
    assert!(!gone.exists());
}

/// Another program that polls the file: it prints what sets of frames it sees, one a line, until its stdin ends.
fn poller(path: &Path) -> Child {
    const PROGRAM: &str = "
import select, sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
while True:
    row = database.execute('''SELECT count(*), count(DISTINCT hex(substr(image_data, 3, 1))), (SELECT count(*) FROM full_frame_ocr),
        (SELECT status FROM processing_status) FROM full_frames''').fetchone()
    print(*row, flush=True)
    if select.select([sys.stdin], [], [], 0)[0]:
        break
";
    Command::new("python3")
        .args([OsStr::new("-c"), OsStr::new(PROGRAM), path.as_os_str()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is installed")
}

#[test]
fn another_process_sees_the_old_set_or_the_new_one_whole() {
    for mode in ["delete", "wal"] {
        let video = Video::new();
        assert_eq!(video.text(&format!("PRAGMA journal_mode = {mode}")), mode);
        let mut annotations = video.begun(StatusTable::ProcessingStatus);
        commit_full(&video, &mut annotations, 30, 1);
        let mut poller = poller(&video.path());
        let said = BufReader::new(poller.stdout.take().expect("it is piped"));
        let (seen, sets) = channel();
        let reading = thread::spawn(move || {
            for line in said.lines() {
                let line = line.expect("it is text");
                // Nobody listens any more when the test has failed.
                let _ = seen.send(line.rsplit_once(' ').expect("four words").0.to_owned());
            }
        });
        let (old, new) = ("30 1 60", "40 1 80");
        // Until the poller has seen the set; whatever it sees on the way is one of both, whole.
        let wait_for = |set: &str| {
            loop {
                let seen = sets.recv().expect("it polls until it is told to end");
                assert!(seen == old || seen == new, "{mode}: a mixture: {seen}");
                if seen == set {
                    return;
                }
            }
        };
        wait_for(old);
        for generation in 2..20 {
            annotations.begin().expect("another run");
            let is_new = generation % 2 == 0;
            commit_full(&video, &mut annotations, if is_new { 40 } else { 30 }, generation);
            wait_for(if is_new { new } else { old });
        }
        drop(poller.stdin.take());
        assert!(poller.wait().expect("it ends").success());
        reading.join().expect("no panic");
        assert!(video.is_sound());
    }
}

/// Run in a process of its own by [`a_crash_within_the_commit_leaves_the_old_set`], which ends it.
#[test]
#[ignore = "a part of another test"]
fn commits_until_it_is_killed() {
    let Some(path) = std::env::var_os(CRASH_PATH).map(PathBuf::from) else {
        return;
    };
    let mut annotations = open(&path, StatusTable::ProcessingStatus).expect("it opens");
    annotations.begin().expect("it begins");
    let mut staging = Staging::create(&path.with_extension("output"), "run-1").expect("it is created");
    for frame_index in 0..40 {
        staging
            .add_frame(frame_index, &vec![2; 50_000], 640, 480)
            .expect("it is stored");
    }
    annotations
        .commit_full_frames(&mut staging, &outcome(), &mut unobserved)
        .expect("the system ends this process first");
}

const CRASH_PATH: &str = "CAPTIONACC_TEST_CRASH_PATH";

#[cfg(target_os = "linux")]
#[test]
fn a_crash_within_the_commit_leaves_the_old_set() {
    use std::os::unix::process::ExitStatusExt;
    for mode in ["delete", "wal"] {
        let video = Video::new();
        assert_eq!(video.text(&format!("PRAGMA journal_mode = {mode}")), mode);
        let mut annotations = video.begun(StatusTable::ProcessingStatus);
        commit_full(&video, &mut annotations, 30, 1);
        drop(annotations);
        // Fills the file, or its log, so that it outgrows the limit before the staging database does.
        video.run(
            "PRAGMA wal_autocheckpoint = 0; CREATE TABLE big (data BLOB); INSERT INTO big VALUES (zeroblob(2000000))",
        );
        let before = ["full_frames", "full_frame_ocr"].map(|table| dump(&video.app, table));
        // SIGXFSZ ends a process in the very write that crosses the limit. The staging database has 2.6 MB.
        let (_, module) = module_path!().split_once("::").expect("a module of a crate");
        let crashed = Command::new("prlimit")
            .args(["--fsize=3000000", "--core=0"])
            .arg(std::env::current_exe().expect("it has a path"))
            .args(["--ignored", "--exact", &format!("{module}::commits_until_it_is_killed")])
            .env(CRASH_PATH, video.path())
            .output()
            .expect("prlimit is installed");
        let sigxfsz = rustix::process::Signal::XFSZ.as_raw();
        assert_eq!(crashed.status.signal(), Some(sigxfsz), "{mode}: {crashed:?}");
        // It had begun, so it is the commit that it died in.
        assert_eq!(video.status(), "extracting_frames");
        assert_eq!(video.count("SELECT processing_attempts FROM processing_status"), 2);
        assert!(video.is_sound());
        let after = ["full_frames", "full_frame_ocr"].map(|table| dump(&video.app, table));
        assert_eq!(after, before);
        let left = video.path().with_extension("output");
        assert_eq!(fs::read_dir(&left).expect("its scratch is still there").count(), 1);
        remove_leftovers(&left, "run", 1);
        assert!(!left.exists());
    }
}

// Scratch

#[test]
fn nothing_is_left_in_the_output_dir_whatever_its_name() {
    for name in [
        "%d",
        "it's \"quoted\"",
        "line\nbreak",
        "视频 ünï",
        "a?b#c%20d&mode=memory",
        "deep/er/still",
        "-x",
        "~",
    ] {
        let video = Video::new();
        let output_dir = video.folder.path().join("scratch").join(name);
        let mut annotations = video.begun(StatusTable::ProcessingStatus);
        let mut staging = staged(&output_dir, 3, 1);
        assert!(output_dir.is_dir(), "{name}");
        annotations
            .commit_full_frames(&mut staging, &outcome(), &mut unobserved)
            .expect(name);
        assert_eq!(video.count("SELECT count(*) FROM full_frames"), 3, "{name}");
        drop(staging);
        assert!(!video.folder.path().join("scratch").exists(), "{name}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_output_dir_whose_name_is_not_unicode_works() {
    use std::os::unix::ffi::OsStrExt;
    let video = Video::new();
    let output_dir = video.folder.path().join(OsStr::from_bytes(b"\xff\xfe"));
    let mut annotations = video.begun(StatusTable::ProcessingStatus);
    let mut staging = staged(&output_dir, 3, 1);
    annotations
        .commit_full_frames(&mut staging, &outcome(), &mut unobserved)
        .expect("it is written");
    drop(staging);
    assert!(!output_dir.exists());
}

#[test]
fn an_output_dir_that_exists_keeps_what_is_in_it() {
    let video = Video::new();
    let output_dir = video.output_dir();
    fs::create_dir(&output_dir).expect("the folder is ours");
    drop(staged(&output_dir, 1, 1));
    assert!(output_dir.exists());
    let theirs = output_dir.join("captionacc-notes.staging");
    fs::write(&theirs, "a user's").expect("the folder is ours");
    drop(staged(&output_dir, 1, 1));
    assert_eq!(fs::read_to_string(&theirs).expect("it is there"), "a user's");
    assert_eq!(fs::read_dir(&output_dir).expect("it is there").count(), 1);
    // Someone puts a file into a folder that the run has made.
    let made = video.folder.path().join("made");
    let staging = staged(&made, 1, 1);
    fs::write(made.join("file"), "a user's").expect("the folder is ours");
    drop(staging);
    assert!(made.join("file").exists(), "it stays");
}

#[test]
fn what_a_killed_attempt_left_is_removed_with_the_folders_it_made() {
    let video = Video::new();
    let output_dir = video.folder.path().join("made/by/run");
    // A killed process drops nothing.
    std::mem::forget(staged(&output_dir, 1, 1));
    let next = Staging::create(&output_dir, "run-2").expect("it is created");
    assert_eq!(fs::read_dir(&output_dir).expect("it is there").count(), 1);
    drop(next);
    assert!(!video.folder.path().join("made").exists());

    std::mem::forget(staged(&output_dir, 1, 1));
    let other = Staging::create(&output_dir, "other-1").expect("it is created");
    // A slow worker clears away after the first attempt while the second one is at work.
    let second = video.folder.path().join("second");
    let at_work = Staging::create(&second, "run-2").expect("it is created");
    remove_leftovers(&second, "run", 1);
    assert_eq!(fs::read_dir(&second).expect("it is there").count(), 1);
    drop(at_work);
    remove_leftovers(&output_dir, "run", 1);
    assert_eq!(fs::read_dir(&output_dir).expect("the other run's").count(), 1);
    drop(other);
    assert!(!video.folder.path().join("made").exists());
}

#[test]
fn the_last_of_two_runs_removes_the_folder_that_the_first_made() {
    let video = Video::new();
    let shared = video.folder.path().join("made/for/both");
    let first = Staging::create(&shared, "first-1").expect("it is created");
    let second = Staging::create(&shared, "second-1").expect("it is created");
    drop(first);
    assert!(shared.exists());
    drop(second);
    assert!(!video.folder.path().join("made").exists());
    // Another folder below the same one that was missing.
    let first = Staging::create(&shared, "first-1").expect("it is created");
    let beside = video.folder.path().join("made/for/one");
    let second = Staging::create(&beside, "second-1").expect("it is created");
    drop(first);
    drop(second);
    let left: Vec<_> = fs::read_dir(video.folder.path())
        .expect("the folder is ours")
        .map(|entry| entry.expect("readable").file_name())
        .filter(|name| !name.to_string_lossy().starts_with("annotations.db"))
        .collect();
    assert_eq!(left, Vec::<std::ffi::OsString>::new(), "nor any marker");
}

#[test]
fn an_output_dir_that_cannot_be_is_a_fault_of_the_input() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("file");
    fs::write(&file, "").expect("the folder is ours");
    for output_dir in [
        file.clone(),
        file.join("below"),
        folder.path().join("x".repeat(300)),
        PathBuf::from("/proc/x"),
    ] {
        let error = Staging::create(&output_dir, "run-1").expect_err("it cannot be");
        assert_eq!(
            error.code(),
            "OUTPUT_DIR_NOT_WRITABLE",
            "{}: {error}",
            output_dir.display()
        );
        assert!(error.is_input_fault());
    }
}

#[test]
fn staged_frames_are_read_by_other_threads_while_boxes_are_stored() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut staging = Staging::create(&folder.path().join("out"), "run-1").expect("it is created");
    for frame_index in 0..150 {
        staging
            .add_frame(frame_index, &jpeg(frame_index, 1), 8, 8)
            .expect("it is stored");
    }
    assert!(!staging.add_frame(7, b"again", 8, 8).expect("the first one stays"));
    assert_eq!(staging.frame_indexes().expect("it reads"), (0..150).collect::<Vec<_>>());
    assert_eq!(staging.jpeg(7).expect("it is there"), jpeg(7, 1));
    let readers = [staging.reader().expect("it opens"), staging.reader().expect("it opens")];
    thread::scope(|scope| {
        for reader in readers {
            scope.spawn(move || {
                for frame_index in 0..150 {
                    assert_eq!(reader.jpeg(frame_index).expect("it is there"), jpeg(frame_index, 1));
                }
            });
        }
        for frame_index in 0..150 {
            let text_box = StagedBox {
                text: "t".to_owned(),
                confidence: 2.0,
                x: f64::NAN,
                y: -1.0,
                width: 1.0,
                height: 1.0,
            };
            staging.add_boxes(frame_index, &[text_box]).expect("they are stored");
        }
    });
}

#[test]
fn an_external_program_completes_the_row_of_its_run() {
    let video = Video::new();
    let mut annotations = video.begun(StatusTable::CropFramesStatus);
    annotations.complete_external().expect("it is written");
    assert_eq!(video.crop_status(), "complete");
    assert!(video.is_null("SELECT current_job_id FROM crop_frames_status"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_takes_no_files_is_named_as_not_writable() {
    let error = Annotations::open(&OpenRequest {
        may_create: true,
        ..request(Path::new("/proc/annotations.db"), StatusTable::ProcessingStatus)
    })
    .expect_err("nobody can create a file there");
    assert_eq!(error.code(), "ANNOTATIONS_NOT_WRITABLE", "{error}");
    assert!(error.is_input_fault());
}
