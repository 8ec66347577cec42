//! What holds over all machines of one server: lineage, pools and deployments that change under them, attempts that go on.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use super::end_to_end::{FINAL, PrefectWorld, UNTIL_GO, flow};
use super::interop::queue_python;
use super::machines::{Machine, is, queue_by_prefect, read, request, runs_on, say, until};
use super::proxy::{Fault, Plan, Proxy};
use super::server::{Server, prefect_command};
use crate::studio::Studio;

fn lineage(world: &PrefectWorld, home: &str, more: &[(&str, &str)]) -> Value {
    let said = say(world, home, &["lineage", "--json"], more);
    serde_json::from_str(&said).unwrap_or_else(|_| panic!("JSON: {said}"))
}

/// The answer of Prefect's own command line.
fn prefect(world: &PrefectWorld, arguments: &[&str]) -> String {
    let home = world.path("of-prefect");
    fs::create_dir_all(&home).expect("a folder");
    let output = prefect_command("prefect", &home, Some(&world.server_url))
        .args(arguments)
        .output()
        .expect("Prefect is there");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn lineage_shows_on_every_machine_what_every_machine_has_made() {
    let server = Server::shared();
    let proxy = Proxy::to(server.address());
    let mut world = PrefectWorld::new(&server, "");
    let studio = Studio::new(&world.path("videos"), &world.video(0));
    let key = |table: &str| format!("annotations://{}/{table}", studio.id);
    let film = format!("video://{}", studio.id);
    let url = proxy.api_url();
    let through_proxy = [("PREFECT_API_URL", url.as_str())];
    let stale = |lineage: &Value| -> Vec<String> {
        let assets = lineage["assets"].as_object().expect("assets");
        let is_stale = |asset: &&Value| {
            asset["staleBecause"]
                .as_array()
                .is_some_and(|because| !because.is_empty())
        };
        let keys = assets
            .values()
            .filter(is_stale)
            .map(|asset| asset["key"].as_str().expect("text").to_owned());
        keys.collect()
    };
    let run_on = |world: &mut PrefectWorld, home: &str, flow: &str, parameters: Value| {
        let more: &[(&str, &str)] = if home == "a" { &through_proxy } else { &[] };
        let machine = Machine::start_with(world, home, more);
        let id = queue_by_prefect(world, flow, parameters);
        let run = world.wait(&id, &FINAL);
        assert!(is(&run, "COMPLETED"), "{run}");
        machine.stop();
        id
    };
    assert_eq!(lineage(&world, "b", &[]), json!({ "assets": {} }));
    let full = run_on(&mut world, "a", "full-frames", studio.full_frames());
    let on_b = lineage(&world, "b", &[]);
    let frames = &on_b["assets"][key("full_frames")];
    assert_eq!(frames["flowRunId"], full.as_str(), "{on_b}");
    assert_eq!(frames["flowName"], "full-frames");
    assert_eq!(frames["metadata"]["frames"], 2);
    assert_eq!(frames["upstreams"][0]["key"], film.as_str());
    assert_eq!(frames["upstreams"][0]["version"], on_b["assets"][&film]["version"]);
    assert_eq!(lineage(&world, "a", &through_proxy), on_b, "the same on both");

    // The film was found by each home for the first time: it is one version, and nothing is stale.
    let crop = run_on(&mut world, "b", "crop-frames", studio.crop_frames(1));
    let on_a = lineage(&world, "a", &through_proxy);
    assert_eq!(
        on_a["assets"][key("cropped_frames")]["flowRunId"],
        crop.as_str(),
        "{on_a}"
    );
    assert_eq!(on_a["assets"][&film]["flowRunId"], full.as_str());
    assert_eq!(stale(&on_a), Vec::<String>::new(), "{on_a}");
    assert_eq!(lineage(&world, "b", &[]), on_a);
    let said = say(&world, "a", &["lineage", &key("cropped_frames")], &through_proxy);
    assert!(said.contains("cropped_frames") && !said.contains("Note:"), "{said}");

    // Another film on B: what A made of the old one is stale, on A too.
    let path = studio.folder.join("video.mp4");
    let mut other = fs::read(&path).expect("the film");
    other.extend_from_slice(&[0, 0, 0, 8, b'f', b'r', b'e', b'e']);
    fs::write(&path, other).expect("written");
    let again = run_on(&mut world, "b", "crop-frames", studio.crop_frames(2));
    let on_a = lineage(&world, "a", &through_proxy);
    assert_eq!(on_a["assets"][key("cropped_frames")]["flowRunId"], again.as_str());
    assert!(stale(&on_a).contains(&key("full_frames")), "{on_a}");
    assert!(!stale(&on_a).contains(&key("cropped_frames")), "{on_a}");
    assert_eq!(lineage(&world, "b", &[]), on_a);

    // With the server away, what this home has made is shown, and that there may be more.
    proxy.refuse();
    let own = lineage(&world, "a", &through_proxy);
    assert_eq!(own["assets"][key("full_frames")]["flowRunId"], full.as_str(), "{own}");
    assert!(own["assets"][key("cropped_frames")].is_null(), "{own}");
    let notice = own["notice"].as_str().expect("a notice");
    assert!(
        notice.contains("what other machines have made") && notice.contains("cannot be reached"),
        "{notice}"
    );
    let said = say(&world, "a", &["lineage"], &through_proxy);
    assert!(said.contains("Note: what other machines have made"), "{said}");
}

#[test]
fn a_paused_work_queue_is_named_with_what_resumes_it() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, "");
    let name = world.name.clone();
    prefect(&world, &["work-queue", "pause", "background", "--pool", &name]);
    let said = say(&world, "home", &["pool"], &[]);
    assert!(
        said.contains("work queue background is paused: its runs wait"),
        "{said}"
    );
    let remedy = format!("prefect work-queue resume background --pool {name}");
    assert!(said.contains(&remedy), "{said}");
    assert!(say(&world, "home", &["doctor"], &[]).contains(&remedy));
    let arguments: Vec<&str> = remedy.split(' ').skip(1).collect();
    prefect(&world, &arguments);
    assert!(!say(&world, "home", &["pool"], &[]).contains("is paused"));
    let queues = world.judge.ask("work_queues", json!({ "pool": name }));
    assert!(
        queues
            .as_array()
            .expect("queues")
            .iter()
            .all(|queue| queue["is_paused"] == false)
    );
}

#[test]
fn a_server_that_no_longer_takes_our_api_version_says_to_update_this_program() {
    let server = Server::shared();
    let world = PrefectWorld::new(&server, &flow("hello", "echo hello", ""));
    // The server's own refusal, of a version that is older than it takes.
    let old = [("PREFECT_CLIENT_CUSTOM_HEADERS", r#"{"x-prefect-api-version": "0.7.9"}"#)];
    let queue = ["queue", "hello", "--folder", "/tmp", "--video-id", "v"];
    for arguments in [&queue[..], &["runs"], &["pool"], &["doctor"]] {
        let said = say(&world, "home", arguments, &old);
        assert!(
            said.contains("requires version") && said.to_lowercase().contains("update this program"),
            "{arguments:?}: {said}"
        );
    }
    let said = say(&world, "home", &queue, &old);
    assert!(said.contains("ERR_CAPTIONACC_PREFECT_REJECTED"), "{said}");
    // Its lineage of its own is shown all the same.
    let said = say(&world, "home", &["lineage"], &old);
    assert!(
        said.contains("No assets") && said.contains("Update this program"),
        "{said}"
    );
}

#[test]
fn runs_of_other_programs_are_listed_whatever_their_deployment_is_called() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, "");
    fs::write(
        world.path("flows.py"),
        "from prefect import flow\n\n@flow\ndef nightly():\n    return 1\n",
    )
    .expect("written");
    let pool = world.name.clone();
    let flow = format!("nightly-{pool}");
    let made = request(&mut world, "POST", "/flows/", json!({ "name": flow }));
    let deployment = json!({
        "name": "of-somebody-else", "flow_id": made["id"], "work_pool_name": pool, "entrypoint": "flows.py:nightly",
        "path": world.path(""), "parameter_openapi_schema": { "type": "object", "properties": {} },
    });
    request(&mut world, "POST", "/deployments/", deployment);
    let run = world
        .judge
        .ask("queue", json!({ "deployment": format!("{flow}/of-somebody-else") }));
    let id = run["id"].as_str().expect("an id");
    let listed = world.succeed(&["runs", "--json"]);
    let listed: Vec<Value> = listed
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0]["flowRunId"], id);
    assert_eq!(listed[0]["deployment"], format!("{flow}/of-somebody-else"));
    // In runner mode: those that ask for our workers.
    let runner = [("CAPTIONACC_RUNNER_MODE", "true")];
    let tag = json!({"name": "served", "tags": ["captionacc"], "work_pool_name": null});
    let other = queue_python_named(&mut world, &tag);
    let said = say(&world, "home", &["runs", "--json"], &runner);
    assert!(said.contains(&other), "{said}");
}

/// A run of a deployment of that name without a pool.
fn queue_python_named(world: &mut PrefectWorld, place: &Value) -> String {
    let name = std::mem::replace(&mut world.name, place["name"].as_str().expect("a name").to_owned());
    let id = queue_python(world, &format!("nightly-of-{name}"), place);
    world.name = name;
    id
}

#[test]
fn a_pool_that_was_made_anew_is_told_of_and_its_worker_goes_on() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, &flow("hello", "echo hello", ""));
    let machine = Machine::start(&world, "a");
    let before = world.queue("hello", &world.video(0));
    assert!(is(&world.wait(&before, &FINAL), "COMPLETED"));
    let name = world.name.clone();
    prefect(&world, &["work-pool", "pause", &name]);
    let waiting = world.queue("hello", &world.video(2));
    let path = format!("/work_pools/{}", world.name);
    request(&mut world, "DELETE", &path, Value::Null);
    let while_missing = world.queue("hello", &world.video(3));
    let runs = say(&world, "b", &["runs"], &[]);
    assert!(
        [&before, &waiting, &while_missing]
            .iter()
            .all(|id| runs.contains(id.as_str())),
        "{runs}"
    );
    let doctor = say(&world, "a", &["doctor"], &[]);
    assert!(
        doctor.contains(&world.name) && doctor.contains("run captionacc setup"),
        "{doctor}"
    );
    // As a person makes it in the UI: without our queues.
    let template: Value =
        serde_json::from_str(include_str!("../../../src/cli/process_job_template.json")).expect("JSON");
    let pool = json!({ "name": world.name, "type": "process", "base_job_template": template, "concurrency_limit": 2 });
    request(&mut world, "POST", "/work_pools/", pool);
    let doctor = say(&world, "a", &["doctor"], &[]);
    assert!(doctor.contains("has no work queue user-initiated"), "{doctor}");
    assert!(
        doctor.contains("captionacc deploy"),
        "its deployments have lost their pool: {doctor}"
    );
    assert!(!doctor.contains("no worker is alive"), "{doctor}");
    let url = world.server_url.clone();
    world.succeed(&["setup", "--orchestrator", "server", "--api-url", &url]);
    world.succeed(&["deploy"]);
    let after = world.queue("hello", &world.video(1));
    assert!(is(&world.wait(&after, &FINAL), "COMPLETED"), "the same worker goes on");
    // What waited is in no queue of the new pool.
    for id in [&waiting, &while_missing] {
        assert!(is(&world.wait(id, &FINAL), "COMPLETED"));
    }
    let runs = say(&world, "b", &["runs"], &[]);
    assert!(
        [&before, &waiting, &after].iter().all(|id| runs.contains(id.as_str())),
        "{runs}"
    );
    // It reports to the new pool by itself.
    until("the worker is online in the new pool", || {
        say(&world, "a", &["doctor"], &[]).contains("worker-a online at the server")
    });
    let doctor = say(&world, "a", &["doctor"], &[]);
    assert!(
        !doctor.contains("captionacc deploy") && !doctor.contains("has no work queue"),
        "{doctor}"
    );
    machine.stop();
}

#[test]
fn runs_that_outlived_their_pool_count_towards_the_limit_of_the_new_one() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, &flow("wait", UNTIL_GO, ""));
    let old: Vec<String> = (0..2).map(|number| world.queue("wait", &world.video(number))).collect();
    let path = format!("/work_pools/{}", world.name);
    request(&mut world, "DELETE", &path, Value::Null);
    let url = world.server_url.clone();
    world.succeed(&["setup", "--orchestrator", "server", "--api-url", &url]);
    world.succeed(&["deploy"]);
    let worker = world.start_worker();
    for id in &old {
        world.wait(id, &["RUNNING"]);
    }
    let new = world.queue("wait", &world.video(2));
    let doctor = world.command(&["doctor"]).output().expect("it starts");
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(
        doctor.contains(": 2 of 2 slots taken") && doctor.contains(", 1 waiting"),
        "{doctor}"
    );
    fs::write(world.path("go"), "").expect("written");
    let ends: Vec<String> = old
        .iter()
        .map(|id| {
            let run = world.wait(id, &FINAL);
            assert!(is(&run, "COMPLETED"), "{run}");
            run["end_time"].as_str().expect("a time").to_owned()
        })
        .collect();
    let run = world.wait(&new, &FINAL);
    assert!(is(&run, "COMPLETED"), "{run}");
    assert!(
        run["start_time"].as_str() >= ends.iter().map(String::as_str).min(),
        "{run}"
    );
    worker.stop();
}

#[test]
fn deployments_go_from_the_pool_to_runner_mode_and_back() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, &flow("hello", "echo hello", ""));
    let runner = [("CAPTIONACC_RUNNER_MODE", "true")];
    let deployment = format!("hello/{}", world.name);
    for (number, more) in [&runner[..], &[]].into_iter().enumerate() {
        let said = say(&world, "home", &["deploy"], more);
        assert_eq!(said.matches("work_pool_name").count(), 4, "{said}");
        let said = say(&world, "home", &["deploy"], more);
        assert_eq!(said.matches("unchanged").count(), 4, "{said}");
        let known = world.judge.ask("deployment", json!({ "name": deployment }));
        let pool = if more.is_empty() {
            json!(world.name)
        } else {
            Value::Null
        };
        assert_eq!(known["work_pool_name"], pool, "{known}");
        let machine = Machine::start_with(&world, &format!("m{number}"), more);
        let folder = world.path("");
        let parameters = json!({ "folder": folder, "video-id": world.video(number) });
        let id = queue_by_prefect(&mut world, "hello", parameters);
        assert!(is(&world.wait(&id, &FINAL), "COMPLETED"));
        machine.stop();
    }
}

#[test]
fn an_attempt_that_was_taken_for_lost_while_its_machine_was_cut_off_goes_on_and_ends_once() {
    let server = Server::shared();
    let proxy = Proxy::to(server.address());
    let script =
        "echo begun >>\"$1/begun\"; while [ ! -e \"$1/go\" ]; do sleep 0.05; done; echo done >>\"$1/done\"; echo gone";
    let mut world = PrefectWorld::new(&server, &flow("wait", script, "retries = 0"));
    let url = proxy.api_url();
    let after = [("CAPTIONACC_LOST_AFTER_MS", "10000"), ("PREFECT_API_URL", url.as_str())];
    let set_up = ["setup", "--orchestrator", "server", "--api-url", server.api_url()];
    say(&world, "home", &set_up, &after[..1]);
    let machine = Machine::start_with(&world, "a", &after);
    let id = world.queue("wait", &world.video(0));
    until("a runs it", || runs_on(&read(&mut world, &id), "a"));
    // It has said that it lives, so that its silence is noticed.
    until("it was heard", || {
        let question = json!({ "id": id, "prefix": "captionacc.flow-run.alive" });
        let events = world.judge.ask("events", question);
        events.as_array().is_some_and(|events| !events.is_empty())
    });
    proxy.refuse();
    let run = world.wait(&id, &["CRASHED"]);
    assert!(
        run["state"]["message"]
            .as_str()
            .is_some_and(|message| message.starts_with("lost: no sign of life")),
        "{run}"
    );
    proxy.accept();
    until("it goes on", || is(&read(&mut world, &id), "RUNNING"));
    assert!(runs_on(&read(&mut world, &id), "a"));
    fs::write(world.path("go"), "").expect("written");
    assert!(is(&world.wait(&id, &FINAL), "COMPLETED"));
    machine.stop();
    let states = world.state_types(&id);
    assert_eq!(
        states,
        ["SCHEDULED", "PENDING", "RUNNING", "CRASHED", "RUNNING", "COMPLETED"]
    );
    for file in ["begun", "done"] {
        let text = fs::read_to_string(world.path(file)).expect("written");
        assert_eq!(text.lines().count(), 1, "{file}");
    }
    let all = world.everything(&id);
    let logs = all["logs"].as_array().expect("logs");
    assert_eq!(
        logs.iter().filter(|line| line["message"] == "gone").count(),
        1,
        "{logs:?}"
    );
    assert_eq!(world.slots(), 0);
    say(&world, "home", &["setup", "--remove"], &after[..1]);
}

#[test]
fn a_retry_that_the_server_gives_in_answer_to_a_failure_is_offered_to_every_worker() {
    let server = Server::shared();
    let script = "if [ -e \"$1/go\" ]; then exit 0; fi; : >\"$1/started\"; while [ ! -e \"$1/fail\" ]; do sleep 0.02; done; exit 1";
    let mut world = PrefectWorld::new(&server, &flow("second", script, "retries = 0"));
    let machine = Machine::start_with(&world, "a", &[]);
    let id = world.queue("second", &world.video(0));
    world.wait_for_file("started");
    until("it runs", || is(&read(&mut world, &id), "RUNNING"));
    // Given to a run that is at work: its worker does not know of it.
    let policy = json!({ "empirical_policy": { "retries": 1, "retry_delay": 1 } });
    request(&mut world, "PATCH", &format!("/flow_runs/{id}"), policy);
    fs::write(world.path("go"), "").expect("written");
    fs::write(world.path("fail"), "").expect("written");
    let run = world.wait(&id, &["COMPLETED"]);
    assert_eq!(run["run_count"], 2, "{run}");
    let states = world.everything(&id)["states"].clone();
    let names: Vec<&str> = states
        .as_array()
        .expect("states")
        .iter()
        .filter_map(|state| state["name"].as_str())
        .collect();
    assert!(names.contains(&"AwaitingRetry"), "{names:?}");
    assert_eq!(names.iter().filter(|name| **name == "Pending").count(), 2, "{names:?}");
    machine.stop();
}

#[test]
fn a_run_that_has_ended_and_can_not_be_told_of_is_not_taken_for_lost_by_its_own_worker() {
    let server = Server::shared();
    let proxy = Proxy::to(server.address());
    let mut world = PrefectWorld::new(&server, &flow("wait", UNTIL_GO, "retries = 0"));
    let url = proxy.api_url();
    let more = [("CAPTIONACC_LOST_AFTER_MS", "8000"), ("PREFECT_API_URL", url.as_str())];
    let machine = Machine::start_with(&world, "a", &more);
    let id = world.queue("wait", &world.video(0));
    until("a runs it", || runs_on(&read(&mut world, &id), "a"));
    let completed = "\"type\":\"COMPLETED\"";
    proxy.plan(Plan::on("POST", "/set_state", Fault::Stall).with_body(completed));
    fs::write(world.path("go"), "").expect("written");
    // Each try waits for longer than the one before: by the fourth it has been silent for longer than it may.
    proxy.wait_for("it is told again and again", |exchanges| {
        exchanges
            .iter()
            .filter(|exchange| exchange.body.contains(completed))
            .count()
            >= 4
    });
    proxy.calm();
    assert!(is(&world.wait(&id, &FINAL), "COMPLETED"));
    machine.stop();
    assert_eq!(world.state_types(&id), ["SCHEDULED", "PENDING", "RUNNING", "COMPLETED"]);
}

#[test]
fn prefects_own_retry_of_a_run_that_failed_counts_anew() {
    let server = Server::shared();
    let config = flow("fail", "exit 1", "retries = 1\nretry-delay-ms = 1");
    let mut world = PrefectWorld::new(&server, &config);
    let machine = Machine::start(&world, "a");
    let id = world.queue("fail", &world.video(0));
    let run = world.wait(&id, &["FAILED"]);
    assert_eq!(run["run_count"], 2, "{run}");
    prefect(&world, &["flow-run", "retry", &id]);
    until("it has failed anew, with its retry", || {
        let run = read(&mut world, &id);
        is(&run, "FAILED") && run["run_count"] == 4
    });
    machine.stop();
    assert_eq!(world.slots(), 0);
}

#[test]
fn a_server_that_is_killed_under_two_machines_at_work_loses_no_run() {
    let mut server = Server::start(&[]);
    let mut world = PrefectWorld::new(&server, &flow("wait", UNTIL_GO, ""));
    let machines = ["a", "b"].map(|name| Machine::start(&world, name));
    let videos: Vec<String> = (0..4).map(|number| world.video(number)).collect();
    let ids: Vec<String> = videos.iter().map(|video| world.queue("wait", video)).collect();
    for video in &videos {
        world.wait_for_file(&format!("started-{video}"));
    }
    for id in &ids {
        world.wait(id, &["RUNNING"]);
    }
    server.kill();
    // They end while nobody can be told.
    fs::write(world.path("go"), "").expect("written");
    std::thread::sleep(Duration::from_secs(2));
    server.restart();
    for id in &ids {
        let run = world.wait(id, &FINAL);
        assert!(is(&run, "COMPLETED"), "{run}");
        assert_eq!(run["run_count"], 1, "{run}");
        let completed = world
            .state_types(id)
            .iter()
            .filter(|state| *state == "COMPLETED")
            .count();
        assert_eq!(completed, 1);
    }
    assert_eq!(world.slots(), 0);
    for machine in machines {
        machine.stop();
    }
}
