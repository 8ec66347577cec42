//! What a server must still hear, and since when it is away: known without asking it.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use captionacc::domain::flow::Flows;
use captionacc::domain::state::StateName;
use captionacc::orchestrator::claims::{Claimed, Ending, PoolLimits};
use captionacc::orchestrator::delivery::{CallFault, Delivery, MessageKind};
use captionacc::orchestrator::prefect::client::{Call, PrefectClient};
use captionacc::orchestrator::queue::Queue;
use captionacc::process::identity::ProcessIdentity;
use captionacc::settings::prefect::PrefectSettings;
use jiff::Timestamp;

use serde_json::{Value, json};

use super::end_to_end::{FINAL, PrefectWorld, UNTIL_GO, flow};
use super::proxy::{Fault, Plan, Proxy};
use super::server::Server;
use super::subject;
use crate::conformance;
use crate::dashboard::Dashboard;
use crate::exposition::samples;
use crate::world::runtime;

#[tokio::test(flavor = "current_thread")]
async fn what_an_earlier_claim_tells_late_takes_nothing_from_a_newer_one() {
    let server = Server::shared();
    let proxy = Proxy::to(server.address());
    let home = tempfile::tempdir().expect("a folder");
    let subject = subject::open_at(&proxy.api_url(), home.path()).await;
    let queued = subject
        .create_flow_run(conformance::new("full-frames", "v1"), Arc::default())
        .await
        .expect("queued");
    let names = || Flows::builtin().iter().map(|flow| flow.name.clone()).collect();
    let claim = async || {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            assert!(Instant::now() < deadline, "it is claimed again");
            // As a worker asks before it looks: it is due at once.
            subject.next_due(names()).await.expect("answers");
            let claimed = subject.claim("tester", names()).await.expect("claims work");
            if let Some(claim) = claimed.and_then(Claimed::own) {
                return claim;
            }
        }
    };
    let given_back = || Ending::GivenBack {
        message: "stop".to_owned(),
    };
    let first = claim().await;
    // The server has heard that it waits again, and whoever tells so hangs in the call after that.
    let hung = Plan::on("POST", "/events", Fault::Stall).with_body("captionacc.flow-run.left");
    proxy.plan(hung.times(1));
    let teller = tokio::spawn({
        let subject = subject.clone();
        async move { subject.finish(first.lease, given_back()).await }
    });
    let second = claim().await;
    assert_eq!(second.lease.attempt, 2);
    subject.finish(second.lease, given_back()).await.expect("ends");
    teller.await.expect("no panic").expect("ends");
    let third = claim().await;
    assert_eq!(third.lease.attempt, 3);
    let run = subject.read_flow_run(queued.flow_run_id).await.expect("known");
    assert_eq!(run.state.name, StateName::Pending, "{run:?}");
    let process = ProcessIdentity::own();
    subject.start(third.lease, process).await.expect("starts");
    assert!(subject.may_commit(third.lease).await.expect("answers"));
}

#[tokio::test(flavor = "current_thread")]
async fn a_run_that_is_cancelled_between_claim_and_start_stays_cancelled() {
    let server = Server::shared();
    let home = tempfile::tempdir().expect("a folder");
    let subject = subject::open(&server, home.path()).await;
    let none = PoolLimits::default();
    subject
        .register_worker(conformance::worker("tester"), none)
        .await
        .expect("registers");
    let queued = subject
        .create_flow_run(conformance::new("full-frames", "v1"), Arc::default())
        .await
        .expect("queued");
    let id = queued.flow_run_id;
    let names: BTreeSet<String> = Flows::builtin().iter().map(|flow| flow.name.clone()).collect();
    let deadline = Instant::now() + Duration::from_mins(1);
    let claim = loop {
        assert!(Instant::now() < deadline, "it is claimed");
        let claimed = subject.claim("tester", names.clone()).await.expect("claims work");
        if let Some(claim) = claimed.and_then(Claimed::own) {
            break claim;
        }
    };
    // By somebody who saw it wait a moment ago.
    let settings = PrefectSettings::new(server.api_url(), "a person").expect("an address");
    let person = PrefectClient::new(settings).expect("a client");
    let cancelled = json!({ "state": { "type": "CANCELLED", "name": "Cancelled", "message": "by a person" } });
    let call = Call::post(format!("/flow_runs/{id}/set_state"), &cancelled);
    let answer: Value = person.call(call).await.expect("answers");
    assert_eq!(answer["status"], "ACCEPT", "{answer}");
    // Its worker did not hear of it yet, and a server lets a cancelled run begin.
    let _ = subject.start(claim.lease, ProcessIdentity::own()).await;
    let stop = loop {
        assert!(Instant::now() < deadline, "its worker hears that it was cancelled");
        let mut wished = subject.cancellations(vec![id]).await.expect("answers");
        if let Some((_, why)) = wished.pop() {
            break why;
        }
    };
    assert!(stop.contains("CANCELLED") || stop.contains("cancelled"), "{stop}");
    let _ = subject.finish(claim.lease, Ending::Cancelled { message: stop }).await;
    loop {
        let run = subject.read_flow_run(id).await.expect("known");
        if run.state.name == StateName::Cancelled {
            assert_eq!(run.state.message.as_deref(), Some("by a person"));
            break;
        }
        assert!(Instant::now() < deadline, "it stays cancelled: {run:?}");
    }
}

#[test]
fn what_waits_for_a_server_that_is_away_is_told_until_it_has_heard_it() {
    let server = Server::shared();
    let proxy = Proxy::to(server.address());
    let mut world = PrefectWorld::at(server.api_url(), &proxy.api_url(), &flow("wait", UNTIL_GO, ""));
    let runtime = runtime();
    let worker = world.start_worker();
    let video = world.video(0);
    let id = world.queue("wait", &video);
    world.wait_for_file(&format!("started-{video}"));
    // A dashboard's process, of the same home.
    let home = world.path("home");
    let reader = runtime.block_on(subject::of_pool(&proxy.api_url(), &world.name, &home));
    let read = || {
        runtime
            .block_on(reader.read_delivery())
            .expect("reads")
            .expect("there is a server")
    };
    let ask = || runtime.block_on(reader.read_work_pool()).is_ok();
    let waiting = |delivery: &Delivery, kind: MessageKind| {
        let mut found = delivery.waiting.iter().filter(|(known, _)| *known == kind);
        found.next().map_or(0, |(_, count)| *count)
    };
    let until = |what: &str, condition: &dyn Fn(&Delivery) -> bool| loop {
        let delivery = read();
        if condition(&delivery) {
            return delivery;
        }
        assert!(!delivery.waiting.is_empty(), "{what}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    assert!(ask());
    assert_eq!(read().away_since, None);

    proxy.refuse();
    fs::write(world.path("go"), "").expect("written");
    let delivery = until("its end waits", &|delivery| waiting(delivery, MessageKind::State) == 1);
    assert!(waiting(&delivery, MessageKind::Log) >= 1, "{delivery:?}");
    let oldest = delivery.oldest_at.expect("something waits");
    assert!(oldest <= Timestamp::now(), "{oldest}");
    // This process has not asked since: it does not know yet.
    assert_eq!(delivery.away_since, None);
    let before = Timestamp::now();
    assert!(!ask());
    let delivery = until("the worker has noted it", &|delivery| {
        delivery.away_since.is_some_and(|since| since < before)
    });
    // The dashboard tells it too, and how long it has been so.
    let dashboard = Dashboard::of(world.command(&[]), &world.path("token.txt"), &[]);
    let samples = samples(&dashboard.get("/metrics").text());
    for (name, expected) in [
        ("captionacc_orchestrator_up", 0.0),
        ("captionacc_outbox_messages{kind=\"state\"}", 1.0),
        ("captionacc_kept_flow_runs", 0.0),
    ] {
        assert_eq!(samples.get(name), Some(&expected), "{name}: {samples:#?}");
    }
    for name in [
        "captionacc_api_away_seconds",
        "captionacc_outbox_oldest_seconds",
        "captionacc_api_failed_calls_total{kind=\"unreachable\"}",
    ] {
        assert!(samples[name] > 0.0, "{name}: {samples:#?}");
    }
    let mut stream = dashboard.listen("", None);
    let away = stream.next("away");
    assert_eq!(away["problem"]["code"], "ERR_CAPTIONACC_PREFECT_UNREACHABLE", "{away}");
    assert!(away["delivery"]["awaySince"].is_string(), "{away}");
    let kinds = away["delivery"]["waiting"].to_string();
    assert!(kinds.contains("{\"count\":1,\"kind\":\"state\"}"), "{kinds}");
    let unreachable = |delivery: &Delivery| delivery.failed_calls[CallFault::Unreachable as usize].1;
    assert!(unreachable(&delivery) >= 1, "{delivery:?}");

    proxy.accept();
    let run = world.wait(&id, &FINAL);
    assert_eq!(run["state"]["type"], "COMPLETED", "{run}");
    let delivery = until("all is told", &|delivery| {
        delivery.waiting.iter().all(|(_, count)| *count == 0)
    });
    assert_eq!(delivery.oldest_at, None);
    let overview = stream.next("overview");
    let delivery = &overview["overview"]["pool"]["delivery"];
    assert_eq!(
        (&delivery["awaySince"], &delivery["keptRuns"]),
        (&Value::Null, &json!(0)),
        "{overview}"
    );
    assert!(ask());
    assert_eq!(read().away_since, None);
    worker.stop();
}
