//! How long a run may be silent: one truth for all machines, and what is said of it.

use std::fs;
use std::process::{Command, Output};

use serde_json::json;

use super::end_to_end::{FINAL, PrefectWorld, UNTIL_GO, flow};
use super::machines::{Machine, is, read, runs_on, until};
use super::server::Server;

/// A command on the home of a machine.
fn command(world: &PrefectWorld, home: &str, arguments: &[&str], more: &[(&str, &str)]) -> Command {
    let mut command = world.command(arguments);
    command
        .env("CAPTIONACC_HOME", world.path(home))
        .envs(more.iter().copied());
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What it says.
fn say(world: &PrefectWorld, home: &str, arguments: &[&str], more: &[(&str, &str)]) -> String {
    text(&command(world, home, arguments, more).output().expect("it starts"))
}

/// How often the run has said that it lives.
fn beats(world: &mut PrefectWorld, id: &str) -> usize {
    let question = json!({ "id": id, "prefix": "captionacc.flow-run.alive" });
    let events = world.judge.ask("events", question);
    events.as_array().map_or(0, Vec::len)
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
