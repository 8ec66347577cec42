//! What callers leave out, and what is found out for them.

use captionacc::domain::flow_run::FlowRun;
use captionacc::domain::state::StateName;
use rusqlite::types::Value as SqlValue;
use serde_json::{Value, json};

use crate::studio::Studio;
use crate::world::World;

const BOUNDS: &str = r#"{"left":16,"top":120,"right":304,"bottom":160}"#;
const BOUNDS_IN_ROWS: &str =
    "SELECT DISTINCT crop_left, crop_top, crop_right, crop_bottom, crop_bounds_version FROM cropped_frames";

fn integers(numbers: [i64; 5]) -> Vec<SqlValue> {
    numbers.map(SqlValue::Integer).to_vec()
}

fn end_of(world: &World, studio: &Studio, more: Value, state: StateName) -> FlowRun {
    let id = world.queue("crop-frames", studio.arguments(more));
    world.wait_for(id, state)
}

#[test]
fn crop_frames_takes_from_the_layout_what_it_was_not_given() {
    let world = World::new("");
    let _worker = world.start_worker();
    let studio = Studio::new(&world.path("."), "v1");
    let layout = |sql: &str| studio.app.execute_batch(sql).expect("the app writes its layout");
    layout(
        "INSERT INTO video_layout_config (id, frame_width, frame_height, crop_left, crop_top, crop_right, crop_bottom,
           crop_bounds_version) VALUES (1, 320, 180, 20, 100, 300, 170, 4)",
    );
    for (more, expected) in [
        (json!({}), [20, 100, 300, 170, 4]),
        (json!({ "crop-bounds": BOUNDS }), [16, 120, 304, 160, 4]),
        (json!({ "crop-bounds-version": 9 }), [20, 100, 300, 170, 9]),
        (
            json!({ "crop-bounds": BOUNDS, "crop-bounds-version": 2 }),
            [16, 120, 304, 160, 2],
        ),
    ] {
        end_of(&world, &studio, more, StateName::Completed);
        assert_eq!(studio.row(BOUNDS_IN_ROWS), integers(expected));
    }
    layout("DELETE FROM video_layout_config");
    end_of(&world, &studio, json!({ "crop-bounds": BOUNDS }), StateName::Completed);
    assert_eq!(studio.row(BOUNDS_IN_ROWS), integers([16, 120, 304, 160, 1]));
    let run = end_of(&world, &studio, json!({}), StateName::Failed);
    let message = run.state.message.expect("says why");
    assert!(message.contains("\"crop-bounds\": missing"), "{message}");
    assert!(message.contains("run full-frames first"), "{message}");
    assert_eq!(run.attempt, 1, "a fault of the input is final");
    assert_eq!(
        studio.row(BOUNDS_IN_ROWS),
        integers([16, 120, 304, 160, 1]),
        "the frames stay"
    );
}

#[test]
fn what_was_neither_read_nor_written_is_no_edge_of_lineage() {
    let world = World::new("");
    let _worker = world.start_worker();
    let studio = Studio::new(&world.path("."), "v1");
    let upstreams = || -> Vec<String> {
        let lineage = world.block_on(world.store.read_lineage()).expect("reads");
        let upstreams = &lineage.assets["annotations://v1/cropped_frames"].upstreams;
        upstreams.iter().map(|upstream| upstream.key.clone()).collect()
    };
    let has_layout = || {
        let lineage = world.block_on(world.store.read_lineage()).expect("reads");
        lineage.assets.contains_key("annotations://v1/video_layout_config")
    };
    let given = json!({ "crop-bounds": BOUNDS, "crop-bounds-version": 2 });
    end_of(&world, &studio, given, StateName::Completed);
    assert_eq!(upstreams(), ["video://v1"]);
    assert!(!has_layout(), "no row was read or written");

    let layout =
        "INSERT INTO video_layout_config (id, frame_width, frame_height, crop_left, crop_top, crop_right, crop_bottom,
       crop_bounds_version) VALUES (1, 320, 180, 20, 100, 300, 170, 4)";
    studio.app.execute_batch(layout).expect("the app writes its layout");
    end_of(&world, &studio, json!({}), StateName::Completed);
    assert_eq!(upstreams(), ["annotations://v1/video_layout_config", "video://v1"]);
    let id = world.queue("full-frames", studio.full_frames());
    world.wait_for(id, StateName::Completed);
    let lineage = world.block_on(world.store.read_lineage()).expect("reads");
    let layout = &lineage.assets["annotations://v1/video_layout_config"];
    assert!(layout.upstreams.is_empty(), "full-frames found it, and made none");
    assert!(lineage.assets.values().all(|asset| asset.stale_because.is_empty()));
}

#[test]
fn without_a_layout_and_bounds_no_annotations_db_is_made() {
    let world = World::new("");
    let _worker = world.start_worker();
    let studio = Studio::new(&world.path("."), "v1");
    let elsewhere = studio.folder.join("other.db");
    end_of(&world, &studio, json!({ "db-path": elsewhere }), StateName::Failed);
    assert!(!elsewhere.exists());
}

#[test]
fn doctor_tells_of_a_status_row_that_a_process_of_another_program_took_over() {
    let world = World::new("");
    let _worker = world.start_worker();
    let studio = Studio::new(&world.path("."), "v1");
    let doctor = || {
        let mut command = world.command(env!("CARGO_BIN_EXE_captionacc"));
        let output = command.arg("doctor").output().expect("it runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // As soon as it says who is at work, it says another.
    let other = std::process::id();
    for event in ["INSERT", "UPDATE"] {
        let sql = format!(
            "CREATE TRIGGER taken_after_{event} AFTER {event} ON crop_frames_status
             WHEN NEW.current_job_id IS NOT NULL AND NEW.current_job_id <> '{other}'
             BEGIN UPDATE crop_frames_status SET current_job_id = '{other}' WHERE id = 1; END"
        );
        studio.app.execute_batch(&sql).expect("the app may do so");
    }
    let id = world.queue("crop-frames", studio.crop_frames(1));
    let run = world.wait_for(id, StateName::Cancelled);
    let said = doctor();
    assert!(
        said.contains(&format!("the last one is {id} of video v1")),
        "{run:?}: {said}"
    );
    assert!(
        said.contains(&format!("process {other} has taken over the status row")),
        "{said}"
    );
}
