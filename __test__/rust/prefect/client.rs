//! The client against a real server through the fault proxy: what passes is survived, what does not is said.

use std::time::Duration;

use captionacc::domain::prefect_error::PrefectError;
use captionacc::orchestrator::prefect::client::{Call, PrefectClient};
use captionacc::settings::prefect::PrefectSettings;
use serde_json::{Value, json};
use uuid::Uuid;

use super::proxy::{Fault, Plan, Proxy, body_of};
use super::server::Server;
use crate::world::runtime;

struct Bed {
    _server: Server,
    proxy: Proxy,
    client: PrefectClient,
    runtime: tokio::runtime::Runtime,
    deployment: Uuid,
}

impl Bed {
    fn new() -> Self {
        let server = Server::shared();
        let proxy = Proxy::to(server.address());
        let settings = PrefectSettings::new(&proxy.api_url(), "the test").expect("an address");
        let client = PrefectClient::new(settings).expect("a client");
        let runtime = runtime();
        let deployment = runtime.block_on(async {
            let flow = client.create_flow("client-test").await.expect("registered");
            let name = format!("d-{}", Uuid::new_v4().simple());
            let body = json!({"name": name, "flow_id": flow.id});
            client.create_deployment(&body).await.expect("registered").0.id
        });
        Self {
            _server: server,
            proxy,
            client,
            runtime,
            deployment,
        }
    }

    fn create(&self, key: &str, patience: Duration) -> Result<(Uuid, bool), PrefectError> {
        let body = json!({"idempotency_key": key});
        let made = self
            .runtime
            .block_on(self.client.create_flow_run(self.deployment, &body, patience));
        made.map(|(run, is_new)| (run.id, is_new))
    }

    fn runs(&self) -> usize {
        let filter = json!({"deployments": {"id": {"any_": [self.deployment]}}});
        self.runtime
            .block_on(self.client.filter_flow_runs(&filter))
            .expect("listed")
            .len()
    }
}

#[test]
fn what_passes_is_survived_and_a_run_is_made_once() {
    let bed = Bed::new();
    for (index, fault) in Fault::passing().into_iter().enumerate() {
        let said = format!("{fault:?}");
        bed.proxy.plan(Plan::on("POST", "create_flow_run", fault).times(2));
        let (_, _) = bed
            .create(&format!("{}-{index}", bed.deployment), Duration::from_secs(20))
            .unwrap_or_else(|error| panic!("{said}: {error}"));
        assert_eq!(bed.runs(), index + 1, "{said}");
    }
}

#[test]
fn a_server_whose_sqlite_is_locked_again_and_again_is_asked_until_it_is_free() {
    let bed = Bed::new();
    bed.proxy
        .plan(Plan::on("POST", "create_flow_run", Fault::status(503)).times(30));
    bed.create(&bed.deployment.to_string(), Duration::from_secs(20))
        .expect("created within the patience");
    assert_eq!(bed.runs(), 1);
}

#[test]
fn what_does_not_pass_is_said_with_its_code_and_not_tried_again() {
    let bed = Bed::new();
    for (status, code) in [
        (401, "ERR_CAPTIONACC_PREFECT_UNAUTHORIZED"),
        (403, "ERR_CAPTIONACC_PREFECT_FORBIDDEN"),
        (404, "ERR_CAPTIONACC_PREFECT_NOT_FOUND"),
        (409, "ERR_CAPTIONACC_PREFECT_REJECTED"),
        (422, "ERR_CAPTIONACC_PREFECT_REJECTED"),
    ] {
        let before = bed.proxy.exchanges().len();
        bed.proxy
            .plan(Plan::on("POST", "create_flow_run", Fault::status(status)).times(1));
        let error = bed.create("key", Duration::from_secs(5)).expect_err("refused");
        assert_eq!(error.code(), code, "{status}: {error}");
        assert!(!error.retryable());
        assert_eq!(bed.proxy.exchanges().len(), before + 1, "{status}");
    }
    assert_eq!(bed.runs(), 0);
}

#[test]
fn a_server_that_is_away_or_says_nothing_ends_with_the_patience() {
    let bed = Bed::new();
    bed.proxy.refuse();
    let error = bed.create("key", Duration::from_secs(2)).expect_err("refused");
    assert_eq!(error.code(), "ERR_CAPTIONACC_PREFECT_UNREACHABLE");
    assert!(error.to_string().contains(&bed.proxy.api_url()), "{error}");
    bed.proxy.accept();
    for fault in [Fault::Stall, Fault::Slow] {
        bed.proxy.plan(Plan::on("POST", "create_flow_run", fault).times(1));
        let error = bed.create("key", Duration::from_secs(1)).expect_err("too late");
        assert_eq!(error.code(), "ERR_CAPTIONACC_PREFECT_UNREACHABLE");
    }
}

#[test]
fn a_call_that_may_not_be_repeated_is_not() {
    let bed = Bed::new();
    bed.proxy
        .plan(Plan::on("POST", "/artifacts/", Fault::LoseAnswer).times(1));
    let artifact = json!({"key": "once", "type": "markdown", "data": "x"});
    bed.runtime
        .block_on(bed.client.create_artifact(&artifact))
        .expect_err("its answer was lost");
    let sent = bed.proxy.exchanges();
    let sent = sent.iter().filter(|exchange| exchange.path.ends_with("/artifacts/"));
    assert_eq!(sent.count(), 1);
}

#[test]
fn every_call_carries_its_length_and_one_connection_serves_them() {
    let bed = Bed::new();
    let before = bed.proxy.exchanges().len();
    bed.runtime.block_on(async {
        for _ in 0..5 {
            let flows: Value = bed
                .client
                .call(Call::post("/flows/filter", &json!({"limit": 1})))
                .await
                .expect("answered");
            assert!(flows.is_array());
        }
    });
    let sent = &bed.proxy.exchanges()[before..];
    assert_eq!(Proxy::connections_of(sent), 1);
    // The proxy reads no chunked body: what arrived came with a length.
    assert!(sent.iter().all(|exchange| body_of(exchange)["limit"] == 1));
}

#[test]
fn a_server_that_was_killed_and_is_back_has_the_runs_it_had() {
    let mut server = Server::start(&[]);
    let settings = PrefectSettings::new(server.api_url(), "the test").expect("an address");
    let client = PrefectClient::new(settings).expect("a client");
    let runtime = runtime();
    let run = runtime.block_on(async {
        let flow = client.create_flow("client-test").await.expect("registered");
        let deployment = json!({"name": "d", "flow_id": flow.id});
        let deployment = client.create_deployment(&deployment).await.expect("registered").0;
        let body = json!({"idempotency_key": "one"});
        let made = client
            .create_flow_run(deployment.id, &body, Duration::from_secs(10))
            .await;
        made.expect("made").0.id
    });
    server.kill();
    let error = runtime
        .block_on(client.answer(Call::get("/health").patience(Duration::from_secs(1))))
        .expect_err("it is dead");
    assert_eq!(error.code(), "ERR_CAPTIONACC_PREFECT_UNREACHABLE");
    server.restart();
    assert_eq!(runtime.block_on(client.read_flow_run(run)).expect("kept").id, run);
}
