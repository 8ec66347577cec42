//! How long a run may be silent: one truth for all machines, and what is said of it.

use std::fs;

use serde_json::{Value, json};

use super::end_to_end::{FINAL, PrefectWorld, UNTIL_GO, flow};
use super::machines::{Machine, is, read, request, runs_on, say, set_state, until};
use super::proxy::Proxy;
use super::server::Server;
use super::setup::User;

/// How often the run has said that it lives.
fn beats(world: &mut PrefectWorld, id: &str) -> usize {
    count(world, id, "captionacc.flow-run.alive")
}

fn count(world: &mut PrefectWorld, id: &str, prefix: &str) -> usize {
    let events = world.judge.ask("events", json!({ "id": id, "prefix": prefix }));
    events.as_array().map_or(0, Vec::len)
}

#[test]
fn nobody_waits_for_a_sign_of_life_of_a_run_that_was_cancelled_or_ended_by_hand() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, &flow("wait", UNTIL_GO, ""));
    let machine = Machine::start(&world, "a");
    for number in 0..2 {
        let id = world.queue("wait", &world.video(number));
        until("it has said that it lives", || beats(&mut world, &id) > 0);
        if number == 0 {
            world.succeed(&["runs", "cancel", &id]);
        } else {
            set_state(&mut world, &id, "FAILED", "by hand");
        }
        world.wait(&id, &FINAL);
        // Else the server's automation would set it to CRASHED, and be refused.
        until("it has said that it is nobody's", || {
            count(&mut world, &id, "captionacc.flow-run.left") > 0
        });
    }
    machine.stop();
}

#[test]
fn a_limit_that_setup_makes_shorter_crashes_no_healthy_run_of_a_running_worker() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, &flow("wait", UNTIL_GO, ""));
    let (long, short) = (
        [("CAPTIONACC_LOST_AFTER_MS", "24000")],
        [("CAPTIONACC_LOST_AFTER_MS", "10000")],
    );
    let set_up = ["setup", "--orchestrator", "server", "--api-url", server.api_url()];
    assert!(say(&world, "a", &set_up, &long).contains("no sign of life for 24 s"));
    let machine = Machine::start_with(&world, "a", &long);
    let id = world.queue("wait", &world.video(0));
    until("a runs it", || runs_on(&read(&mut world, &id), "a"));
    until("it was heard", || beats(&mut world, &id) > 0);
    let said = say(&world, "b", &set_up, &short);
    assert!(said.contains("no sign of life for 10 s"), "{said}");
    // Above twice the pace of a running worker at each step.
    assert!(
        said.contains("for 16 s now") && said.contains("worker-a (every 8 s)"),
        "{said}"
    );
    // It lives for longer than the shorter limit, at the pace for that.
    let before = beats(&mut world, &id);
    until("it has beaten for longer than the limit", || {
        beats(&mut world, &id) >= before + 5
    });
    let doctor = say(&world, "a", &["doctor"], &long);
    assert!(doctor.contains("10 s without a sign of life"), "{doctor}");
    assert!(
        doctor.contains("CAPTIONACC_LOST_AFTER_MS of this machine says 24 s"),
        "{doctor}"
    );
    assert!(doctor.contains("set CAPTIONACC_LOST_AFTER_MS=10000"), "{doctor}");
    // A machine that has no wish of its own leaves what is there.
    for command in [&set_up[..], &["doctor"]] {
        let said = say(&world, "c", command, &[]);
        assert!(
            said.contains("10 s without a sign of life") || said.contains("no sign of life for 10 s"),
            "{said}"
        );
        assert!(!said.contains("90 s"), "{said}");
    }
    let remedy = format!("make it 24 s for all machines: captionacc {}", set_up.join(" "));
    assert!(doctor.contains(&remedy), "{doctor}");
    fs::write(world.path("go"), "").expect("written");
    assert!(is(&world.wait(&id, &FINAL), "COMPLETED"));
    assert_eq!(world.state_types(&id), ["SCHEDULED", "PENDING", "RUNNING", "COMPLETED"]);
    machine.stop();
    say(&world, "a", &["setup", "--remove"], &[]);
}

#[test]
fn a_run_is_judged_by_the_servers_limit_whatever_a_machine_has_set() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, &flow("wait", UNTIL_GO, ""));
    let long = [("CAPTIONACC_LOST_AFTER_MS", "60000")];
    let set_up = ["setup", "--orchestrator", "server", "--api-url", server.api_url()];
    say(&world, "a", &set_up, &long);
    let machine = Machine::start_with(&world, "a", &long);
    let id = world.queue("wait", &world.video(0));
    until("a runs it", || runs_on(&read(&mut world, &id), "a"));
    // Its owner is heard every 20 s, and this one would have taken it over after 9.
    let hasty = Machine::start_with(&world, "b", &[("CAPTIONACC_LOST_AFTER_MS", "3000")]);
    let other = world.queue("wait", &world.video(1));
    until("another one is at work", || is(&read(&mut world, &other), "RUNNING"));
    until("a has beaten again", || beats(&mut world, &id) >= 3);
    assert!(runs_on(&read(&mut world, &id), "a"));
    fs::write(world.path("go"), "").expect("written");
    for id in [&id, &other] {
        assert!(is(&world.wait(id, &FINAL), "COMPLETED"));
    }
    assert_eq!(world.state_types(&id), ["SCHEDULED", "PENDING", "RUNNING", "COMPLETED"]);
    machine.stop();
    hasty.stop();
    say(&world, "a", &["setup", "--remove"], &[]);
}

#[test]
fn an_automation_that_was_made_nonsense_of_holds_for_nobody_and_setup_makes_it_right() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, &flow("hello", "echo hello", ""));
    let set_up = ["setup", "--orchestrator", "server", "--api-url", server.api_url()];
    say(&world, "a", &set_up, &[]);
    let name = format!("captionacc: runs of {} whose machine is lost", world.name);
    let filter = json!({ "automations": { "name": { "any_": [name] } } });
    let mut found = request(&mut world, "POST", "/automations/filter", filter);
    let mut automation = found[0].take();
    let path = format!("/automations/{}", automation["id"].as_str().expect("an id"));
    let fields = automation.as_object_mut().expect("an object");
    fields.retain(|field, _| !["id", "created", "updated"].contains(&field.as_str()));
    // More than a time can be away from now.
    automation["trigger"]["within"] = json!(1e12);
    request(&mut world, "PUT", &path, automation);
    // One that calls itself a worker, at a pace that is none.
    let path = format!("/work_pools/{}/workers/heartbeat", world.name);
    let nobody = json!({ "name": "nobody", "heartbeat_interval_seconds": -5 });
    request(&mut world, "POST", &path, nobody);
    let doctor = say(&world, "a", &["doctor"], &[]);
    assert!(
        doctor.contains("does not do what captionacc setup made it for"),
        "{doctor}"
    );
    let machine = Machine::start_with(&world, "a", &[]);
    let id = world.queue("hello", &world.video(0));
    assert!(is(&world.wait(&id, &FINAL), "COMPLETED"));
    let pool = say(&world, "a", &["pool"], &[]);
    assert!(pool.contains("worker-a"), "{pool}");
    machine.stop();
    let said = say(&world, "a", &set_up, &[]);
    assert!(said.contains("is changed") && said.contains("for 90 s"), "{said}");
    say(&world, "a", &["setup", "--remove"], &[]);
}

#[test]
fn with_the_server_away_it_is_said_what_waits_here_and_where_its_address_is_from() {
    let server = Server::shared();
    let proxy = Proxy::to(server.address());
    let mut world = PrefectWorld::new(&server, &flow("wait", UNTIL_GO, ""));
    let url = proxy.api_url();
    let more = [("PREFECT_API_URL", url.as_str())];
    let machine = Machine::start_with(&world, "a", &more);
    let id = world.queue("wait", &world.video(0));
    until("a runs it", || runs_on(&read(&mut world, &id), "a"));
    proxy.refuse();
    fs::write(world.path("go"), "").expect("written");
    until("its end waits here", || {
        say(&world, "a", &["doctor"], &more).contains("for the server to answer")
    });
    let pool = say(&world, "a", &["pool"], &more);
    assert!(
        pool.contains("cannot be reached") && pool.contains("PREFECT_API_URL is set"),
        "{pool}"
    );
    let lineage = say(&world, "a", &["lineage"], &more);
    assert!(!lineage.contains("no flow run has completed"), "{lineage}");
    assert!(lineage.contains("could not be asked"), "{lineage}");
    proxy.accept();
    assert!(is(&world.wait(&id, &FINAL), "COMPLETED"));
    machine.stop();
}

#[test]
fn setup_names_what_it_wrote_and_an_address_is_told_by_its_origin() {
    let server = Server::shared();
    let proxy = Proxy::to(server.address());
    let user = User::new();
    let url = proxy.api_url();
    let set_up = ["setup", "--orchestrator", "server", "--api-url", &url];
    // An address alone is not all that it takes.
    let output = user
        .captionacc(&["doctor", "--json"])
        .env("PREFECT_API_URL", &url)
        .output()
        .expect("it starts");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("findings");
    let wrong: Vec<&Value> = findings.iter().filter(|finding| finding["level"] != "ok").collect();
    assert!(wrong.iter().all(|finding| finding["fix"].is_string()), "{wrong:?}");
    let remedy = format!("captionacc {}", set_up.join(" "));
    assert!(wrong.iter().any(|finding| finding["fix"] == remedy), "{wrong:?}");
    let said = user.succeed(&set_up);
    assert!(
        said.contains("captionacc.toml") && said.contains("profiles.toml"),
        "{said}"
    );
    assert!(!said.contains("npm run"), "{said}");
    let pool = user.succeed(&["pool"]);
    assert!(pool.contains(&format!("Queued at: Prefect ({url})")), "{pool}");
    proxy.refuse();
    let message = user.fail(&["pool"])["message"].to_string();
    assert!(
        message.contains("profile") && !message.contains("PREFECT_API_URL"),
        "{message}"
    );
}
