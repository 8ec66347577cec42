//! What the command line says while the server does not answer.

use std::fs;

use serde_json::Value;

use super::end_to_end::{FINAL, PrefectWorld, UNTIL_GO, flow};
use super::proxy::Proxy;
use super::server::Server;

#[test]
fn what_this_machine_knows_is_said_before_the_error_of_a_server_that_does_not_answer() {
    let server = Server::shared();
    let proxy = Proxy::to(server.address());
    let mut world = PrefectWorld::at(server.api_url(), &proxy.api_url(), &flow("wait", UNTIL_GO, ""));
    let (at_work, kept) = (world.video(0), world.video(1));
    let worker = world.start_worker();
    let id = world.queue("wait", &at_work);
    world.wait_for_file(&format!("started-{at_work}"));
    world.wait(&id, &["RUNNING"]);

    proxy.refuse();
    let folder = world.path(".").to_str().expect("UTF-8").to_owned();
    let stored = world
        .command(&["queue", "wait", "--folder", &folder, "--video-id", &kept])
        .env("CAPTIONACC_WHEN_UNREACHABLE", "store")
        .output()
        .expect("it starts");
    assert!(stored.status.success(), "{stored:?}");
    for command in ["runs", "pool"] {
        let output = world.command(&[command]).output().expect("it starts");
        assert_eq!(output.status.code(), Some(1), "{command}: {output:?}");
        let said = String::from_utf8(output.stdout).expect("UTF-8");
        for expected in [
            "The server has not answered since ",
            "Workers here: ",
            &id,
            "Running",
            &at_work,
            "1 run was queued while it was away",
            &kept,
        ] {
            assert!(said.contains(expected), "{command}: {expected:?}: {said}");
        }
        let error = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(error.contains("\"code\":\"ERR_CAPTIONACC_"), "{command}: {error}");
        // A program reads the error alone.
        let output = world.command(&[command, "--json"]).output().expect("it starts");
        assert_eq!(output.status.code(), Some(1), "{command}: {output:?}");
        assert!(output.stdout.is_empty(), "{command}: {output:?}");
    }

    let stored: Value = serde_json::from_slice(&stored.stdout).expect("JSON");
    let said = world.succeed(&["runs", "cancel", stored["flow_run_id"].as_str().expect("an id")]);
    assert!(said.contains("Cancelled"), "{said}");

    proxy.accept();
    let said = world.succeed(&["pool"]);
    assert!(!said.contains("has not answered"), "{said}");
    fs::write(world.path("go"), "").expect("written");
    let run = world.wait(&id, &FINAL);
    assert_eq!(run["state"]["type"], "COMPLETED", "{run}");
    worker.stop();
}
