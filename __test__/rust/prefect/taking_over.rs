//! Runs of another machine, taken over on the dashboard.

use std::fs;

use serde_json::{Value, json};
use uuid::Uuid;

use super::end_to_end::{FINAL, PrefectWorld, UNTIL_GO, flow};
use super::machines::{Machine, is, read, request, runs_on, until};
use super::server::Server;
use crate::dashboard::{Answer, Dashboard};

#[test]
fn the_dashboard_takes_over_a_run_whose_worker_is_heard_only_when_told_to_do_so_all_the_same() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, &flow("wait", UNTIL_GO, ""));
    // Far from lost by itself.
    let mut first = Machine::start_with(&world, "a", &[("CAPTIONACC_LOST_AFTER_MS", "600000")]);
    let ids: Vec<String> = (0..2).map(|number| world.queue("wait", &world.video(number))).collect();
    for id in &ids {
        until("a runs it", || runs_on(&read(&mut world, id), "a"));
    }
    let dashboard = Dashboard::of(world.command(&[]), &world.path("token.txt"), &[]);
    let take_over = |id: &str, is_forced: bool| {
        let target = format!("/api/runs/{id}/take-over");
        dashboard.post(&target, &json!({ "isForced": is_forced }))
    };
    let refused = |answer: &Answer, because: &str| {
        let problem = answer.json();
        assert_eq!(answer.status, 409, "{problem}");
        assert_eq!(problem["error"]["code"], "ERR_CAPTIONACC_INVALID_STATE");
        let message = problem["error"]["message"].as_str().expect("text");
        assert!(message.contains(because), "{message}");
    };

    // Its machines were lost with it as often as it may be; whoever asks forgives that.
    let labels = json!({ "captionacc.lost": 2 });
    request(&mut world, "PATCH", &format!("/flow_runs/{}/labels", ids[0]), labels);
    refused(&take_over(&ids[0], false), "worker-a was heard not long ago");
    assert!(is(&read(&mut world, &ids[0]), "RUNNING"));
    // Nobody takes it meanwhile: its worker is gone with its machine.
    first.lose();
    let answer = take_over(&ids[0], true);
    let run: Value = answer.json();
    assert_eq!(
        (answer.status, &run["state"]["type"]),
        (200, &json!("SCHEDULED")),
        "{run}"
    );
    assert_eq!(run["flowRunId"], ids[0].as_str());
    for is_forced in [false, true] {
        refused(&take_over(&ids[0], is_forced), "no worker has it");
    }
    // The one that is not to be heard is given on without more ado.
    until("its worker is known to be silent", || {
        take_over(&ids[1], false).status == 200
    });
    assert!(is(&read(&mut world, &ids[1]), "SCHEDULED"));

    let second = Machine::start(&world, "b");
    fs::write(world.path("go"), "").expect("written");
    for id in &ids {
        assert!(is(&world.wait(id, &FINAL), "COMPLETED"));
    }
    second.stop();
    refused(&take_over(&ids[0], true), "no worker has it");
    assert_eq!(take_over(&Uuid::new_v4().to_string(), true).status, 404);
    assert_eq!(take_over("no-id", true).status, 400);
    let target = format!("/api/runs/{}/take-over", ids[0]);
    assert!(!(200..300).contains(&dashboard.post(&target, &json!({ "isForced": "yes" })).status));
    let read_only = Dashboard::of(world.command(&[]), &world.path("token.txt"), &["--read-only"]);
    assert_eq!(read_only.post(&target, &json!({ "isForced": true })).status, 403);
}
