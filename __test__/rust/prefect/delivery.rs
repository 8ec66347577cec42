//! What a server must still hear, and since when it is away: known without asking it.

use std::fs;

use captionacc::domain::flow::Flows;
use captionacc::orchestrator::delivery::{CallFault, Delivery, MessageKind};
use captionacc::orchestrator::prefect::PrefectOrchestrator;
use captionacc::orchestrator::queue::Queue;
use captionacc::settings::prefect::PrefectSettings;
use jiff::Timestamp;

use serde_json::{Value, json};

use super::end_to_end::{FINAL, PrefectWorld, UNTIL_GO, flow};
use super::proxy::Proxy;
use super::server::Server;
use crate::dashboard::Dashboard;
use crate::exposition::samples;

#[test]
fn what_waits_for_a_server_that_is_away_is_told_until_it_has_heard_it() {
    let server = Server::shared();
    let proxy = Proxy::to(server.address());
    let mut world = PrefectWorld::at(server.api_url(), &proxy.api_url(), &flow("wait", UNTIL_GO, ""));
    let mut settings = PrefectSettings::new(&proxy.api_url(), "test").expect("an address");
    settings.work_pool.clone_from(&world.name);
    settings.deployment_name.clone_from(&world.name);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let worker = world.start_worker();
    let video = world.video(0);
    let id = world.queue("wait", &video);
    world.wait_for_file(&format!("started-{video}"));
    // A dashboard's process, of the same home.
    let home = world.path("home");
    let reader = runtime
        .block_on(PrefectOrchestrator::open(settings, &home, Flows::builtin()))
        .expect("opens");
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
