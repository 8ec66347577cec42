//! Callers of the Python service that was there before, over Prefect's own client: `run_deployment("crop-video-frames/…")`.

use serde_json::{Value, json};

use super::end_to_end::{FINAL, PrefectWorld};
use super::server::Server;
use crate::studio::Studio;

/// The arguments of a run of the old service.
fn old_arguments(studio: &Studio, more: Value) -> Value {
    let own = studio.arguments(more);
    let own = own.as_object().expect("an object").iter();
    own.map(|(name, value)| (name.replace('-', "_"), value.clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[test]
fn a_python_callers_run_of_an_old_deployment_is_run_as_the_flow_that_it_means() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, "");
    let said = world.succeed(&["deploy", "--legacy-names"]);
    assert!(
        said.contains(&format!("created   crop-video-frames/{}", world.name)),
        "{said}"
    );
    let again = world.succeed(&["deploy", "--legacy-names"]);
    assert_eq!(again.matches("unchanged").count(), 6, "{again}");
    for (name, tags) in [
        ("process-video-initial", ["background", "low-priority"]),
        ("crop-video-frames", ["high-priority", "user-initiated"]),
        ("process-caption-median-ocr", ["high-priority", "user-initiated"]),
    ] {
        let name = format!("{name}/{}", world.name);
        let deployment = world.judge.ask("deployment", json!({ "name": name }));
        let mut found: Vec<_> = deployment["tags"].as_array().expect("tags").clone();
        found.sort_by_key(Value::to_string);
        assert_eq!(found, tags);
        assert!(deployment["parameter_openapi_schema"]["properties"]["video_id"].is_object());
        assert_eq!(
            (&deployment["work_pool_name"], &deployment["entrypoint"]),
            (&json!(world.name), &Value::Null)
        );
    }
    let worker = world.start_worker();
    let studio = Studio::new(&world.path("."), &world.video(0));
    let bounds = json!({ "left": 16, "top": 120, "right": 304, "bottom": 160 });
    let given = old_arguments(&studio, json!({ "crop-bounds": bounds, "crop-bounds-version": 3 }));
    let name = format!("crop-video-frames/{}", world.name);
    let run = world
        .judge
        .ask("queue", json!({ "deployment": name, "parameters": given }));
    let id = run["id"].as_str().expect("an id").to_owned();
    let run = world.wait(&id, &FINAL);
    assert_eq!(run["state"]["type"], "COMPLETED", "{run}");
    assert_eq!(studio.value::<i64>("SELECT count(*) FROM cropped_frames"), 20);
    assert_eq!(
        studio.value::<i64>("SELECT max(crop_bounds_version) FROM cropped_frames"),
        3
    );
    assert_eq!(studio.cropping().0, "complete");
    // Found by the flow and the video that it is of.
    let listed: Value =
        serde_json::from_str(&world.succeed(&["runs", "--flow", "crop-frames", "--json"])).expect("one line of JSON");
    assert_eq!(listed["flowRunId"], id);
    assert_eq!(
        (&listed["flowName"], &listed["videoId"]),
        (&json!("crop-frames"), &json!(studio.id))
    );
    assert_eq!(listed["deployment"], name);
    let by_video = world.succeed(&["runs", "--video", &studio.id, "--json"]);
    assert!(by_video.contains(&id), "{by_video}");
    let lineage = world.succeed(&["lineage", "--json"]);
    assert!(
        lineage.contains(&format!("annotations://{}/cropped_frames", studio.id)),
        "{lineage}"
    );
    // What it does not take is refused by name, as the server does it.
    let mut wrong = given.clone();
    wrong["crop_bonds"] = json!(1);
    let error = world
        .judge
        .try_ask("queue", json!({ "deployment": name, "parameters": wrong }))
        .expect_err("refused");
    assert!(error.contains("crop_bonds"), "{error}");
    worker.stop();
}

#[test]
fn the_latest_crop_frames_of_a_video_wins_whatever_name_it_was_called_by() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, "");
    world.succeed(&["deploy", "--legacy-names"]);
    let studio = Studio::new(&world.path("."), &world.video(0));
    let bounds = json!({ "left": 16, "top": 120, "right": 304, "bottom": 160 });
    let given = old_arguments(&studio, json!({ "crop-bounds": bounds }));
    let name = format!("crop-video-frames/{}", world.name);
    let queue_old = |world: &mut PrefectWorld| -> String {
        let run = world
            .judge
            .ask("queue", json!({ "deployment": name, "parameters": given }));
        run["id"].as_str().expect("an id").to_owned()
    };
    let first = queue_old(&mut world);
    let second = queue_old(&mut world);
    let own = studio.crop_frames(2);
    let text = |name: &str| match &own[name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let said = world.succeed(&[
        "queue",
        "crop-frames",
        &text("video-id"),
        &text("video-path"),
        &text("db-path"),
        &text("output-dir"),
        &text("crop-bounds"),
        "--crop-bounds-version",
        "2",
    ]);
    let said: Value = serde_json::from_str(&said).expect("JSON");
    let newest = said["flow_run_id"].as_str().expect("an id").to_owned();
    for older in [&first, &second] {
        let run = world.wait(older, &FINAL);
        assert_eq!(run["state"]["type"], "CANCELLED", "{run}");
        let message = run["state"]["message"].as_str().expect("says why");
        assert!(message.contains(&newest), "{message}");
    }
    // Of two old ones that nobody of ours has queued, the worker sees which one counts.
    let third = queue_old(&mut world);
    let fourth = queue_old(&mut world);
    let worker = world.start_worker();
    let run = world.wait(&fourth, &FINAL);
    assert_eq!(run["state"]["type"], "COMPLETED", "{run}");
    for older in [&newest, &third] {
        let run = world.wait(older, &FINAL);
        assert_eq!(run["state"]["type"], "CANCELLED", "{run}");
    }
    worker.stop();
}
