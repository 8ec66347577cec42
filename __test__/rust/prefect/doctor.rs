//! `captionacc doctor` over a real server: what is well, and what is not, with what to do about it.

use std::fs;

use serde_json::{Value, json};

use super::judge::Judge;
use super::proxy::{CloudStandIn, Fault, Plan, Proxy};
use super::server::Server;
use super::setup::User;

/// The findings of one check: level, message and fix.
fn findings(user: &User, check: &str) -> Vec<(String, String, String)> {
    let report = report(user);
    let findings = report["findings"].as_array().expect("findings").clone();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    findings
        .iter()
        .filter(|finding| finding["check"] == check)
        .map(|finding| {
            (
                text(&finding["level"]),
                text(&finding["message"]),
                text(&finding["fix"]),
            )
        })
        .collect()
}

fn report(user: &User) -> Value {
    let output = user.run(&["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("JSON: {output:?}"));
    assert_eq!(output.status.success(), report["level"] != "error", "{report}");
    report
}

/// There is a finding of this level whose message and fix contain these.
fn assert_found(user: &User, check: &str, level: &str, message: &str, fix: &str) {
    let found = findings(user, check);
    assert!(
        found
            .iter()
            .any(|finding| finding.0 == level && finding.1.contains(message) && finding.2.contains(fix)),
        "{check}: {level}, {message:?}, {fix:?}: {found:?}"
    );
}

#[test]
fn after_setup_and_deploy_all_is_well_and_nothing_is_made_by_looking() {
    let server = Server::shared();
    let user = User::new();
    user.succeed(&["setup", "--orchestrator", "server", "--api-url", server.api_url()]);
    assert_found(&user, "deployments", "error", "full-frames/", "captionacc deploy");
    user.succeed(&["deploy"]);
    for (check, message) in [
        ("orchestrator", "with a work pool; because:"),
        ("prefect", "answers within"),
        ("prefect", "written against 3.9.1"),
        ("clock", "this machine's"),
        (
            "work pool",
            "0 of 2 slots taken (at most 1 by background runs of this home), 0 waiting",
        ),
        ("work queues", "user-initiated (priority 1), background (priority 2)"),
        ("deployments", &format!("full-frames/{}", user.name)),
        ("queue", "no run of this server was worked on"),
    ] {
        assert_found(&user, check, "ok", message, "");
    }
    assert_found(&user, "worker", "warning", "no worker is alive", "captionacc worker");
    assert!(!user.path("home/prefect").exists());
    // For people it says the same.
    let said = user.succeed(&["doctor"]);
    assert!(said.contains("fix: captionacc worker"), "{said}");
    // A pool that is gone is missed once.
    let mut judge = Judge::start(server.api_url());
    let path = format!("/work_pools/{}", user.name);
    judge.ask("request", json!({"method": "DELETE", "path": path, "body": null}));
    assert_found(&user, "work pool", "error", "not", "captionacc setup");
    assert_eq!(findings(&user, "flow runs"), []);
}

#[test]
fn what_is_missing_or_differs_at_the_server_is_named() {
    let server = Server::shared();
    let user = User::new();
    user.succeed(&["setup", "--orchestrator", "server", "--api-url", server.api_url()]);
    user.succeed(&["deploy"]);
    let mut judge = Judge::start(server.api_url());
    let mut request = |method: &str, path: &str, body: Value| {
        let path = format!("/work_pools/{}{path}", user.name);
        judge.ask("request", json!({"method": method, "path": path, "body": body}));
    };
    request("PATCH", "", json!({"is_paused": true}));
    assert_found(&user, "work pool", "warning", "paused", "captionacc pool resume");
    user.succeed(&["pool", "resume"]);
    request("PATCH", "/queues/background", json!({"is_paused": true}));
    request("PATCH", "/queues/user-initiated", json!({"priority": 5}));
    assert_found(
        &user,
        "work queues",
        "warning",
        "background is paused",
        "work-queue resume background",
    );
    assert_found(&user, "work queues", "warning", "has priority", "captionacc setup");
    request("DELETE", "/queues/user-initiated", Value::Null);
    assert_found(
        &user,
        "work queues",
        "error",
        "no work queue user-initiated",
        "captionacc setup",
    );
    request("PATCH", "", json!({"concurrency_limit": null}));
    assert_found(&user, "work pool", "warning", "any number of slots", "--limit 2");
    // Deployed with a pool, and now without one.
    let config = user.path("home/captionacc.toml");
    let text = fs::read_to_string(&config).expect("written") + "\n[prefect]\nrunner-mode = true\n";
    fs::write(config, text).expect("written");
    assert_found(&user, "orchestrator", "ok", "runner mode", "");
    assert_found(
        &user,
        "deployments",
        "error",
        "belongs to work pool",
        "captionacc deploy",
    );
}

#[test]
fn an_api_that_is_away_refuses_or_is_not_its_own_is_named() {
    let server = Server::shared();
    let proxy = Proxy::to(server.address());
    let user = User::new();
    let url = proxy.api_url();
    user.succeed(&["setup", "--orchestrator", "server", "--api-url", &url]);
    for (path, fault, level, message, fix) in [
        (
            "/flows/filter",
            Fault::status(401),
            "error",
            "UNAUTHORIZED",
            "--auth-string-file",
        ),
        (
            "/flows/filter",
            Fault::status(403),
            "error",
            "FORBIDDEN",
            "a key that may",
        ),
        (
            "/admin/version",
            version("2.20.9"),
            "error",
            "Prefect 2.20.9",
            "Prefect 3",
        ),
        (
            "/admin/version",
            version("3.1.0"),
            "warning",
            "Prefect 3.1.0",
            "prefect>=3.9.1",
        ),
        ("/admin/version", version("3.10.0"), "ok", "Prefect 3.10.0", ""),
    ] {
        proxy.plan(Plan::on("*", path, fault));
        assert_found(&user, "prefect", level, message, fix);
        proxy.calm();
    }
    proxy.plan(Plan::on(
        "POST",
        "/flows/filter",
        Fault::Answer {
            status: 200,
            headers: vec![("date", "Wed, 25 Nov 2020 10:00:00 GMT".to_owned())],
            body: "[]".to_owned(),
        },
    ));
    proxy.plan(Plan::on(
        "GET",
        "/admin/version",
        Fault::Answer {
            status: 200,
            headers: vec![("date", "Wed, 25 Nov 2020 10:00:00 GMT".to_owned())],
            body: json!("3.9.1").to_string(),
        },
    ));
    assert_found(&user, "clock", "warning", "behind this machine's", "timedatectl");
    proxy.calm();
    proxy.refuse();
    assert_found(&user, "prefect", "error", &url, "prefect server start");
    // What stands in the queue for it is told.
    let stored = user
        .captionacc(&["queue", "full-frames", "--video-id", "v", "--video-path", "v.mp4"])
        .args(["--db-path", "a.db", "--output-dir", "o"])
        .env("CAPTIONACC_WHEN_UNREACHABLE", "store")
        .output()
        .expect("it starts");
    assert!(stored.status.success(), "{stored:?}");
    assert_found(
        &user,
        "queue",
        "warning",
        "1 flow run waits here",
        "keep a worker of this home running",
    );
}

fn version(version: &str) -> Fault {
    Fault::Answer {
        status: 200,
        headers: Vec::new(),
        body: json!(version).to_string(),
    }
}

#[test]
fn on_the_stand_in_for_cloud_runner_mode_is_told_and_the_key_is_not() {
    let server = Server::shared();
    let cloud = CloudStandIn::free();
    let proxy = Proxy::cloud(server.address(), cloud.clone());
    let user = User::new();
    fs::write(user.path("key"), &cloud.api_key).expect("written");
    fs::write(
        user.path(".env"),
        format!("PREFECT_CLOUD_API_URL={}\n", proxy.base_url()),
    )
    .expect("written");
    let key = user.path("key");
    let setup = [
        "setup",
        "--orchestrator",
        "cloud",
        "--api-key-file",
        key.to_str().expect("UTF-8"),
    ];
    let output = user
        .captionacc(&setup)
        .env("PREFECT_CLOUD_API_URL", proxy.base_url())
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{output:?}");
    user.succeed(&["deploy"]);
    assert_found(&user, "orchestrator", "ok", "runner mode, without a work pool", "");
    assert_found(&user, "prefect", "ok", "takes the API key; Prefect Cloud", "");
    assert_found(&user, "deployments", "ok", "deployments in this workspace", "");
    assert!(findings(&user, "work pool").is_empty());
    assert!(!report(&user).to_string().contains(&cloud.api_key));
    proxy.plan(Plan::on("*", "/flows/filter", Fault::status(401)));
    assert_found(&user, "prefect", "error", "refused the API key", "--api-key-file");
}
