//! What a killed attempt leaves in annotations.db is removed by the worker, where no attempt follows that would do so.

use captionacc::domain::state::StateName;
use rustix::process::Signal;
use serde_json::json;

use crate::studio::Studio;
use crate::world::{World, kill};

fn shadows(studio: &Studio) -> Vec<String> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'captionacc_*'";
    let mut statement = studio.app.prepare(sql).expect("valid SQL");
    let rows = statement.query_map([], |row| row.get(0)).expect("reads");
    rows.map(|row| row.expect("a name")).collect()
}

#[test]
fn the_tables_of_an_attempt_that_was_killed_are_removed_by_the_worker_and_no_others() {
    let world = World::new("[flows.crop-frames]\nretries = 0\n");
    let worker = world.start_worker();
    let studio = Studio::new(&world.path("videos"), "v");
    // Another flow's, which may have a run at work elsewhere: it is not for this one to remove.
    let of_another = "captionacc_0123abcd_full_frames";
    let table = format!("CREATE TABLE {of_another} AS SELECT * FROM full_frames");
    let many = "UPDATE video_preferences SET index_framerate_hz = 1000";
    studio.app.execute_batch(&format!("{table}; {many}")).expect("written");
    let killed = loop {
        // Strips enough that they are filled in over several transactions.
        let run = world.queue(
            "crop-frames",
            studio.arguments(json!({
                "crop-bounds": { "left": 0, "top": 0, "right": 320, "bottom": 180 },
                "crop-bounds-version": 2,
                "frame-rate": 1000,
            })),
        );
        let mut is_held = false;
        world.wait_until("it fills its tables", || {
            studio.app.execute_batch("BEGIN IMMEDIATE").expect("a lock");
            is_held = shadows(&studio).len() > 1 && studio.cropping().0 == "processing";
            if !is_held {
                studio.app.execute_batch("ROLLBACK").expect("given back");
            }
            is_held || world.run(run).state.state_type.is_final()
        });
        if is_held {
            break run;
        }
        assert_eq!(world.run(run).state.name, StateName::Completed, "it was too quick");
    };
    kill(world.run(killed).pid.expect("it runs"), Signal::KILL);
    world.wait_until("it has ended", || world.run(killed).state.state_type.is_final());
    assert!(shadows(&studio).len() > 1, "there is something to remove");
    studio.app.execute_batch("ROLLBACK").expect("given back");
    world.wait_until("they are gone", || shadows(&studio) == [of_another]);
    assert_eq!(studio.cropping().0, "error");
    assert!(studio.is_sound());
    worker.stop();
}
