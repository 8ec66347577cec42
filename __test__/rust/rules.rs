//! The rules between the web app and the runs, with real pipelines on a real film: deletion, retries, latest-wins,
//! cancellation, giving back, and what the status rows say at each of them.

use std::fs;

use captionacc::domain::id::FlowRunId;
use captionacc::domain::state::StateName;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::studio::{Studio, film, ocr_models};
use crate::world::{World, kill};

/// A film that takes either flow long enough to be met at work.
const LONG_FILM: &str = "wannaworktogether.mp4";

fn world(config: &str) -> World {
    World::with(config, &[("CAPTIONACC_OCR_MODELS", &ocr_models())])
}

fn long(mut arguments: Value) -> Value {
    arguments["video-path"] = json!(film(LONG_FILM));
    arguments
}

/// Waits until the run is in the middle of its work: its row names its process, and frames are staged.
fn wait_until_at_work(world: &World, studio: &Studio, id: FlowRunId) -> u32 {
    world.wait_until("frames are being staged", || {
        let run = world.run(id);
        run.pid.is_some() && run.progress.is_some() && studio.output_dir().exists()
    });
    let pid = world.run(id).pid.expect("it runs");
    let table = if world.run(id).flow_name == "crop-frames" {
        studio.cropping()
    } else {
        studio.processing()
    };
    assert_eq!(
        table.1,
        Some(pid.to_string()),
        "the row names the process that does the work"
    );
    pid
}

fn wait_for_the_rows(world: &World) {
    world.wait_until("every status row is up to date", || {
        world.block_on(world.store.status_rows_due()).expect("reads").is_empty()
    });
}

#[test]
fn a_deleted_video_cancels_its_run_and_nothing_comes_back() {
    for flow in ["full-frames", "crop-frames"] {
        let world = world("");
        let worker = world.start_worker();
        let studio = Studio::new(&world.path("videos"), "v");
        let arguments = if flow == "full-frames" {
            studio.full_frames()
        } else {
            studio.crop_frames(1)
        };
        let id = world.queue(flow, long(arguments));
        let pid = wait_until_at_work(&world, &studio, id);
        // As the web app does it.
        studio
            .app
            .execute_batch("UPDATE processing_status SET deleted = 1, deleted_at = datetime('now')")
            .expect("no run holds the lock for long");
        kill(pid, Signal::TERM);
        let Studio { folder, app, .. } = studio;
        drop(app);
        // What the run still writes meanwhile is in the way once at most.
        while folder.exists() {
            let _ = fs::remove_dir_all(&folder);
        }
        let run = world.wait_for(id, StateName::Cancelled);
        assert_eq!(run.attempt, 1, "{flow}: not retried");
        wait_for_the_rows(&world);
        let log = worker.stop();
        assert!(!folder.exists(), "{flow}: {log}");
        assert_eq!(world.processes_of(id), Vec::<u32>::new());
    }
}

#[test]
fn a_video_that_is_only_marked_as_deleted_cancels_its_run() {
    let world = world("");
    let worker = world.start_worker();
    let studio = Studio::new(&world.path("videos"), "v");
    let id = world.queue("full-frames", long(studio.full_frames()));
    wait_until_at_work(&world, &studio, id);
    studio
        .app
        .execute_batch("UPDATE processing_status SET deleted = 1")
        .expect("no run holds the lock for long");
    let run = world.wait_for(id, StateName::Cancelled);
    assert_eq!(run.attempt, 1);
    assert!(run.state.message.is_some_and(|message| message.contains("deleted")));
    assert_eq!(studio.frames("full_frames"), []);
    assert!(!studio.output_dir().exists());
    worker.stop();
}

#[test]
fn a_database_that_was_replaced_is_left_alone() {
    let world = world("");
    let worker = world.start_worker();
    let studio = Studio::new(&world.path("videos"), "v");
    let id = world.queue("crop-frames", long(studio.crop_frames(1)));
    wait_until_at_work(&world, &studio, id);
    let path = studio.folder.join("annotations.db");
    fs::rename(&path, studio.folder.join("old.db")).expect("the folder is ours");
    let new = crate::annotations::create_app_database(&path);
    world.wait_for(id, StateName::Cancelled);
    wait_for_the_rows(&world);
    let rows: i64 = new
        .query_row("SELECT count(*) FROM crop_frames_status", [], |row| row.get(0))
        .expect("a table");
    assert_eq!(rows, 0, "the new file's row is not this run's");
    worker.stop();
}

#[test]
fn a_run_whose_process_dies_shows_as_queued_with_the_reason_until_its_retry_starts() {
    for (flow, queued) in [("full-frames", "upload_complete"), ("crop-frames", "queued")] {
        // Long enough to be looked at: a person shortens it.
        let world = world(&format!("[flows.{flow}]\nretry-delay-ms = 3600000\n"));
        let worker = world.start_worker();
        let studio = Studio::new(&world.path("videos"), "v");
        let (arguments, table) = if flow == "full-frames" {
            (long(studio.full_frames()), "processing_status")
        } else {
            (long(studio.crop_frames(1)), "crop_frames_status")
        };
        let id = world.queue(flow, arguments);
        let pid = wait_until_at_work(&world, &studio, id);
        kill(pid, Signal::KILL);
        world.wait_for(id, StateName::AwaitingRetry);
        wait_for_the_rows(&world);
        let (status, job, error) = if flow == "full-frames" {
            studio.processing()
        } else {
            studio.cropping()
        };
        assert_eq!((status.as_str(), job), (queued, None), "{flow}");
        assert!(error.is_some_and(|error| error.contains("killed")), "{flow}");
        let details: String = studio.value(&format!("SELECT error_details FROM {table}"));
        let details: Value = serde_json::from_str(&details).expect("JSON");
        assert_eq!((&details["flow_run_id"], &details["attempt"]), (&json!(id), &json!(1)));
        assert!(!studio.output_dir().exists(), "{flow}: its scratch is cleared away");
        if flow == "crop-frames" {
            assert_eq!(studio.value::<i64>("SELECT retry_count FROM crop_frames_status"), 1);
        }
        world.block_on(world.store.retry_flow_run(id)).expect("it waits");
        wait_until_at_work(&world, &studio, id);
        let cleared: bool = studio.value(&format!(
            "SELECT error_message IS NULL AND error_details IS NULL FROM {table}"
        ));
        assert!(cleared, "{flow}: the retry has started");
        world.block_on(world.store.cancel_flow_run(id)).expect("it runs");
        world.wait_for(id, StateName::Cancelled);
        worker.stop();
    }
}

#[test]
fn a_newer_crop_frames_takes_the_place_of_a_running_one() {
    let world = world("");
    let worker = world.start_worker();
    let studio = Studio::new(&world.path("videos"), "v");
    let older = world.queue("crop-frames", long(studio.crop_frames(1)));
    wait_until_at_work(&world, &studio, older);
    let newer = world.queue("crop-frames", studio.crop_frames(2));
    world.wait_for(newer, StateName::Completed);
    let run = world.run(older);
    assert_eq!((run.state.name, run.superseded_by), (StateName::Cancelled, Some(newer)));
    assert!(
        run.state
            .message
            .is_some_and(|message| message.contains(&newer.to_string()))
    );
    wait_for_the_rows(&world);
    assert_eq!(studio.cropping(), ("complete".to_owned(), None, None));
    let version: i64 = studio.value("SELECT DISTINCT crop_bounds_version FROM cropped_frames");
    assert_eq!(version, 2);
    worker.stop();
}

#[test]
fn a_crop_frames_that_waits_for_a_slot_shows_as_queued() {
    let world = world("[flows.wait]\ncommand = ['sh', '-c', 'while [ ! -e go ]; do sleep 0.02; done']\n");
    let worker = world.start_worker_with(&["--limit", "1"]);
    let studio = Studio::new(&world.path("videos"), "v");
    let wait = world.queue("wait", json!({}));
    world.wait_for(wait, StateName::Running);
    let id = world.queue("crop-frames", studio.crop_frames(1));
    let rows = || studio.value::<i64>("SELECT count(*) FROM crop_frames_status WHERE status = 'queued'");
    world.wait_until("its row says so", || rows() == 1);
    assert_eq!(world.run(id).attempt, 0);
    fs::write(world.path("go"), "").expect("written");
    world.wait_for(id, StateName::Completed);
    assert_eq!(studio.cropping(), ("complete".to_owned(), None, None));
    worker.stop();
}

#[test]
fn a_cancelled_pipeline_says_so_and_leaves_the_old_frames() {
    for flow in ["full-frames", "crop-frames"] {
        let world = world("");
        let worker = world.start_worker();
        let studio = Studio::new(&world.path("videos"), "v");
        let arguments = if flow == "full-frames" {
            studio.full_frames()
        } else {
            studio.crop_frames(1)
        };
        let id = world.queue(flow, long(arguments));
        wait_until_at_work(&world, &studio, id);
        world.block_on(world.store.cancel_flow_run(id)).expect("it runs");
        world.wait_for(id, StateName::Cancelled);
        assert_eq!(world.processes_of(id), Vec::<u32>::new());
        wait_for_the_rows(&world);
        let row = if flow == "full-frames" {
            studio.processing()
        } else {
            studio.cropping()
        };
        assert_eq!(
            row,
            ("error".to_owned(), None, Some("Processing cancelled".to_owned())),
            "{flow}"
        );
        assert_eq!(
            (studio.frames("full_frames"), studio.frames("cropped_frames")),
            (vec![], vec![])
        );
        assert!(!studio.output_dir().exists(), "{flow}");
        worker.stop();
    }
}

#[test]
fn a_pipeline_that_is_given_back_shows_as_queued_and_is_done_by_the_next_worker() {
    let world = world("");
    let worker = world.start_worker();
    let studio = Studio::new(&world.path("videos"), "v");
    let full = world.queue("full-frames", long(studio.full_frames()));
    wait_until_at_work(&world, &studio, full);
    worker.signal(Signal::TERM);
    worker.signal(Signal::INT);
    let (status, log) = worker.wait();
    assert!(status.success(), "{log}");
    assert_eq!(world.run(full).state.name, StateName::Scheduled, "{log}");
    assert_eq!(studio.processing(), ("upload_complete".to_owned(), None, None), "{log}");
    assert!(!studio.output_dir().exists(), "{log}");
    let worker = world.start_worker();
    wait_until_at_work(&world, &studio, full);
    let run = world.run(full);
    assert_eq!((run.attempt, run.failed_attempts), (2, 0));
    assert_eq!(
        studio.value::<i64>("SELECT processing_attempts FROM processing_status"),
        2
    );
    world.block_on(world.store.cancel_flow_run(full)).expect("it runs");
    world.wait_for(full, StateName::Cancelled);
    worker.stop();
}

#[test]
fn a_pipeline_that_hangs_is_stopped_and_tried_again() {
    let world = World::with(
        "[flows.crop-frames]\nretry-delay-ms = 3600000\n",
        &[
            ("CAPTIONACC_STALL_TIMEOUT_MS", "2000"),
            ("CAPTIONACC_KILL_GRACE_MS", "100"),
        ],
    );
    let worker = world.start_worker();
    let studio = Studio::new(&world.path("videos"), "v");
    let id = world.queue("crop-frames", long(studio.crop_frames(1)));
    // It hears no signal but KILL.
    kill(wait_until_at_work(&world, &studio, id), Signal::STOP);
    let run = world.wait_for(id, StateName::AwaitingRetry);
    assert!(run.state.message.is_some_and(|message| message.contains("hung")));
    assert_eq!(world.processes_of(id), Vec::<u32>::new());
    wait_for_the_rows(&world);
    assert_eq!(studio.cropping().0, "queued");
    assert!(!studio.output_dir().exists());
    worker.stop();
}

#[test]
fn a_child_that_did_not_hear_of_its_workers_death_is_killed_before_its_run_goes_on() {
    let world = world("");
    let worker = world.start_worker();
    let studio = Studio::new(&world.path("videos"), "v");
    let id = world.queue("crop-frames", studio.arguments(long(studio.crop_frames(1))));
    let pid = wait_until_at_work(&world, &studio, id);
    kill(pid, Signal::STOP);
    worker.kill();
    let worker = world.start_worker();
    let second = {
        world.wait_until("the second attempt runs", || world.run(id).attempt == 2);
        wait_until_at_work(&world, &studio, id)
    };
    assert_ne!(second, pid);
    assert_eq!(world.processes_of(id), [second], "the first one is gone");
    world.block_on(world.store.cancel_flow_run(id)).expect("it runs");
    world.wait_for(id, StateName::Cancelled);
    worker.stop();
}
