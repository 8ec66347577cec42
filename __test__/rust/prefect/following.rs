//! What a follower of a run costs the server.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use captionacc::domain::flow_run::{EventCursor, FlowRunEvent};
use captionacc::domain::state::StateName;
use captionacc::orchestrator::following::{Place, next_events};
use captionacc::orchestrator::prefect::PrefectOrchestrator;
use captionacc::orchestrator::queue::Queue;

use super::proxy::{Exchange, Proxy};
use super::server::Server;
use super::setup::User;
use super::subject;
use crate::conformance::new;
use crate::world::runtime;

/// Looks that are counted.
const LOOKS: usize = 4;
/// As the orchestrator's documentation has it.
const SECONDS_BETWEEN_LOOKS: u64 = 2;

#[test]
fn a_follower_asks_one_thing_every_two_seconds_while_its_run_waits() {
    let server = Server::shared();
    let proxy = Arc::new(Proxy::to(server.address()));
    let user = user_of(&proxy);
    runtime().block_on(follow(&user, &proxy));
}

async fn follow(user: &User, proxy: &Arc<Proxy>) {
    let opened = Instant::now();
    let orchestrator = open(user, proxy).await;
    let queued = orchestrator
        .create_flow_run(new("full-frames", "v"), Arc::default())
        .await
        .expect("queued");
    let id = queued.flow_run_id;

    let before = proxy.exchanges().len();
    let waits_only = Place {
        cursor: EventCursor {
            without_logs: true,
            without_progress: true,
            ..EventCursor::default()
        },
        counter: None,
    };
    let reading = next_events(&orchestrator, id, waits_only).await.expect("read");
    assert!(
        matches!(&reading.events[..], [FlowRunEvent::State { state, .. }] if state.name == StateName::Scheduled),
        "{reading:?}"
    );
    let started = proxy.exchanges().len();
    assert_eq!(started - before, 2, "the run and its states");

    let path = format!("/api/flow_runs/{id}");
    let is_look = move |exchange: &Exchange| exchange.method == "GET" && exchange.path == path;
    let (seen_by, is_a_look) = (proxy.clone(), is_look.clone());
    let looked = tokio::task::spawn_blocking(move || {
        seen_by.wait_for("the follower has looked some times", |exchanges| {
            exchanges[started..]
                .iter()
                .filter(|exchange| is_a_look(exchange))
                .count()
                >= LOOKS
        });
    });
    let mut following = pin!(next_events(&orchestrator, id, reading.place));
    tokio::select! {
        reading = &mut following => panic!("nothing happened, and it says {reading:?}"),
        looked = looked => looked.expect("it looks"),
    }
    let seconds = opened.elapsed().as_secs();
    let asked = proxy.exchanges()[started..].to_vec();
    assert!(asked.iter().all(&is_look), "nothing else is asked: {asked:#?}");
    // A slow machine looks later, never more often.
    let turns = usize::try_from(seconds / SECONDS_BETWEEN_LOOKS).expect("a small number") + 1;
    assert!(asked.len() <= turns, "{} looks within {seconds} s", asked.len());

    let (cancelled, reading) = tokio::join!(orchestrator.cancel_flow_run(id), following);
    cancelled.expect("cancelled");
    let reading = reading.expect("read");
    assert!(
        matches!(&reading.events[..], [FlowRunEvent::State { state, .. }] if state.name == StateName::Cancelled),
        "{reading:?}"
    );
    let last = next_events(&orchestrator, id, reading.place).await.expect("read");
    assert!(last.done && last.events.is_empty(), "{last:?}");
}

#[test]
fn a_follower_that_knows_its_run_bears_with_a_server_that_is_away_and_one_that_does_not_is_told() {
    let server = Server::shared();
    let proxy = Proxy::to(server.address());
    let user = user_of(&proxy);
    runtime().block_on(async {
        let orchestrator = open(&user, &proxy).await;
        let queued = orchestrator
            .create_flow_run(new("full-frames", "v"), Arc::default())
            .await;
        let id = queued.expect("queued").flow_run_id;
        let known = next_events(&orchestrator, id, Place::default()).await.expect("read");
        proxy.refuse();
        // Looks at once, and at nothing but a refused connection.
        let place = Place {
            counter: None,
            ..known.place
        };
        let (reading, ()) = tokio::join!(next_events(&orchestrator, id, place), async {
            for _ in 0..2 {
                let error = next_events(&orchestrator, id, Place::default())
                    .await
                    .expect_err("away");
                assert_eq!(error.code(), "ERR_CAPTIONACC_PREFECT_UNREACHABLE");
            }
            proxy.accept();
            orchestrator.cancel_flow_run(id).await.expect("cancelled");
        });
        let reading = reading.expect("it is back");
        assert!(
            matches!(&reading.events[..], [FlowRunEvent::State { state, .. }] if state.name == StateName::Cancelled),
            "{reading:?}"
        );
    });
}

/// A user with deployments at the server behind the proxy.
fn user_of(proxy: &Proxy) -> User {
    let user = User::new();
    user.succeed(&["setup", "--orchestrator", "server", "--api-url", &proxy.api_url()]);
    user.succeed(&["deploy"]);
    user
}

async fn open(user: &User, proxy: &Proxy) -> PrefectOrchestrator {
    subject::of_pool(&proxy.api_url(), &user.name, &user.path("home")).await
}
