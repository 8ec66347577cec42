//! Runner mode, without a work pool, on the stand-in for Cloud's free plan.

use std::fs;

use captionacc::process::tree::marked;
use serde_json::json;

use super::end_to_end::{FINAL, PrefectWorld, UNTIL_GO, flow, takes_back};
use super::interop::queue_python;
use super::proxy::{CloudStandIn, Exchange, Fault, Plan, Proxy};
use super::server::Server;

/// Cloud took every request for one with a key and a length.
fn assert_welcome(exchanges: &[Exchange]) {
    for exchange in exchanges {
        assert!(![401, 411].contains(&exchange.status), "{exchange:?}");
    }
}

#[test]
fn a_worker_without_a_pool_runs_and_cancels_and_waits_when_it_is_told_to() {
    let server = Server::shared();
    let cloud = CloudStandIn::free();
    let proxy = Proxy::cloud(server.address(), cloud.clone());
    let config = flow("hello", "echo hello", "") + &flow("wait", UNTIL_GO, "");
    let mut world = PrefectWorld::on_cloud(&server, &proxy, &cloud, &config);
    let set_up = proxy.exchanges().len();
    let worker = world.start_worker();
    let limited = ["/get_scheduled_flow_runs", "/set_state", "/logs/"];
    for path in limited {
        proxy.plan(Plan::on("POST", path, Fault::rate_limited(1)).times(1));
    }
    let hello = world.queue("hello", &world.video(0));
    let run = world.wait(&hello, &FINAL);
    assert_eq!(run["state"]["type"], "COMPLETED", "{run}");
    assert!(run["work_pool_name"].is_null(), "{run}");
    let video = world.video(1);
    let endless = world.queue("wait", &video);
    world.wait_for_file(&format!("started-{video}"));
    world.wait(&endless, &["RUNNING"]);
    world.judge.ask("cancel", json!({ "id": endless }));
    let run = world.wait(&endless, &FINAL);
    assert_eq!(run["state"]["type"], "CANCELLED", "{run}");
    let states = world.state_types(&endless);
    assert_eq!(states, ["SCHEDULED", "PENDING", "RUNNING", "CANCELLING", "CANCELLED"]);
    let log = worker.stop();
    assert!(!log.contains(&cloud.api_key), "the key is in the log");
    let all = world.everything(&hello);
    let logs = all["logs"].as_array().expect("logs");
    assert!(logs.iter().any(|log| log["message"] == "hello"), "{logs:?}");
    let exchanges = &proxy.exchanges()[set_up..];
    assert_welcome(exchanges);
    assert_eq!(
        exchanges.iter().filter(|exchange| exchange.status == 429).count(),
        limited.len()
    );
    assert!(exchanges.iter().all(|exchange| !exchange.path.contains("/work_pools/")));
}

#[test]
fn a_run_of_a_killed_worker_without_a_pool_is_taken_back_by_the_next() {
    let server = Server::shared();
    let cloud = CloudStandIn::free();
    let proxy = Proxy::cloud(server.address(), cloud.clone());
    takes_back(PrefectWorld::on_cloud(
        &server,
        &proxy,
        &cloud,
        &flow("wait", UNTIL_GO, ""),
    ));
}

#[test]
fn python_flows_without_a_pool_are_run_if_their_deployment_asks_for_it() {
    let server = Server::shared();
    let cloud = CloudStandIn::free();
    let proxy = Proxy::cloud(server.address(), cloud.clone());
    let mut world = PrefectWorld::on_cloud(&server, &proxy, &cloud, "");
    let flows = "from prefect import flow\n\n@flow\ndef asked():\n    return 1\n\n@flow\ndef served():\n    return 1\n";
    fs::write(world.path("flows.py"), flows).expect("written");
    // Somebody else's: served by a program of its own.
    let others = queue_python(&mut world, "served", &json!({}));
    let asked = queue_python(&mut world, "asked", &json!({"tags": ["captionacc"]}));
    let worker = world.start_worker();
    let run = world.wait(&asked, &FINAL);
    assert_eq!(run["state"]["type"], "COMPLETED", "{run}");
    worker.stop();
    assert!(marked(&format!("foreign:{asked}")).is_empty());
    // Late, if this took long.
    let states = world.state_types(&others);
    assert!(states.iter().all(|state| state == "SCHEDULED"), "{states:?}");
}

#[test]
fn a_worker_without_a_pool_finds_deployments_that_were_made_anew() {
    let server = Server::shared();
    let cloud = CloudStandIn::free();
    let proxy = Proxy::cloud(server.address(), cloud.clone());
    let mut world = PrefectWorld::on_cloud(&server, &proxy, &cloud, &flow("hello", "echo hello", ""));
    let worker = world.start_worker();
    let before = world.queue("hello", &world.video(0));
    assert_eq!(world.wait(&before, &FINAL)["state"]["type"], "COMPLETED");
    let name = format!("hello/{}", world.name);
    let id = world.judge.ask("deployment", json!({ "name": name }))["id"].take();
    let path = format!("/deployments/{}", id.as_str().expect("an id"));
    world.judge.ask("request", json!({ "method": "DELETE", "path": path }));
    world.succeed(&["deploy"]);
    let after = world.queue("hello", &world.video(1));
    assert_eq!(world.wait(&after, &FINAL)["state"]["type"], "COMPLETED");
    worker.stop();
}
