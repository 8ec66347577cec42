//! The queue call at a real server: one request where it can be one, one run whatever happens on the way.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use captionacc::orchestrator::queue::Queue;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::end_to_end::{FINAL, PrefectWorld, flow};
use super::proxy::{Exchange, Fault, Plan, Proxy};
use super::server::Server;
use super::subject;
use crate::conformance::new;
use crate::studio::Studio;
use crate::world::runtime;

struct Bed {
    world: PrefectWorld,
    proxy: Proxy,
    studio: Studio,
    _server: Server,
}

impl Bed {
    fn new() -> Self {
        let server = Server::shared();
        let proxy = Proxy::to(server.address());
        let world = PrefectWorld::at(server.api_url(), &proxy.api_url(), "");
        let studio = Studio::new(&world.path("videos"), &world.video(0));
        Self {
            world,
            proxy,
            studio,
            _server: server,
        }
    }

    /// Queues full-frames of the video with our command: the run's id and the requests that it took.
    fn queue(&self) -> (String, Vec<Exchange>) {
        let before = self.proxy.exchanges().len();
        let arguments = self.studio.full_frames();
        let mut words = vec!["queue".to_owned(), "full-frames".to_owned()];
        for (name, value) in arguments.as_object().expect("an object") {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            words.extend([format!("--{name}"), value]);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let said: Value = serde_json::from_str(&self.world.succeed(&words)).expect("JSON");
        let id = said["flowRunId"].as_str().expect("an id").to_owned();
        (id, self.proxy.exchanges()[before..].to_vec())
    }

    fn runs(&mut self) -> usize {
        let tag = format!("video:{}", self.studio.id);
        let runs = self.world.judge.ask("list_runs", json!({ "tag": tag }));
        runs.as_array().expect("runs").len()
    }
}

#[test]
fn an_equal_run_that_waits_is_found_and_one_that_has_ended_is_not_in_the_way() {
    let mut bed = Bed::new();
    let (first, asked) = bed.queue();
    // Repeated where the server's SQLite was locked.
    let only_creates = |asked: &[Exchange]| {
        let mut posts = asked.iter().filter(|exchange| exchange.method == "POST");
        posts.all(|exchange| exchange.path.ends_with("/create_flow_run"))
    };
    assert!(only_creates(&asked), "{asked:#?}");
    let (second, asked) = bed.queue();
    assert_eq!(first, second);
    assert!(only_creates(&asked), "{asked:#?}");
    let worker = bed.world.start_worker();
    let run = bed.world.wait(&first, &FINAL);
    assert_eq!(run["state"]["type"], "COMPLETED", "{run}");
    worker.stop();
    let (third, _) = bed.queue();
    assert_ne!(first, third);
    let (fourth, _) = bed.queue();
    assert_eq!(third, fourth);
    assert_eq!(bed.runs(), 2);
}

#[test]
fn a_run_whose_answer_was_lost_is_one_run_also_after_an_equal_one_has_ended() {
    let mut bed = Bed::new();
    let lost = || Plan::on("POST", "/create_flow_run", Fault::LoseAnswer).times(1);
    bed.proxy.plan(lost());
    let (first, _) = bed.queue();
    assert_eq!(bed.runs(), 1);
    let worker = bed.world.start_worker();
    let run = bed.world.wait(&first, &FINAL);
    assert_eq!(run["state"]["type"], "COMPLETED", "{run}");
    worker.stop();
    bed.proxy.plan(lost().after(1));
    let (second, _) = bed.queue();
    assert_ne!(first, second);
    assert_eq!(bed.runs(), 2);
}

#[test]
fn what_was_kept_under_one_spelling_of_the_address_comes_to_the_server_by_a_worker_with_another() {
    let server = Server::shared();
    let proxy = Proxy::to(server.address());
    let mut world = PrefectWorld::at(server.api_url(), &proxy.api_url(), &flow("hello", "echo hello", ""));
    let video = world.video(0);
    let folder = world.path("");
    let as_app = |world: &PrefectWorld, words: &[&str]| {
        let url = proxy.api_url().replace("127.0.0.1", "localhost");
        let mut command = world.command(words);
        let output = command
            .env("PREFECT_API_URL", url)
            .env("CAPTIONACC_WHEN_UNREACHABLE", "store")
            .output()
            .expect("it starts");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    proxy.refuse();
    let folder = folder.to_str().expect("UTF-8");
    let said = as_app(&world, &["queue", "hello", "--folder", folder, "--video-id", &video]);
    let said: Value = serde_json::from_str(&said).expect("JSON");
    let kept = said["flowRunId"].as_str().expect("an id");
    proxy.accept();
    let worker = world.start_worker();
    proxy.wait_for("it is queued", |exchanges| {
        let is_queued = |exchange: &Exchange| exchange.path.ends_with("/create_flow_run") && exchange.status == 201;
        exchanges.iter().any(is_queued)
    });
    let runs = world.judge.ask("list_runs", json!({ "tag": format!("video:{video}") }));
    assert_eq!(runs.as_array().map(Vec::len), Some(1), "{runs}");
    let id = runs[0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(world.wait(&id, &FINAL)["state"]["type"], "COMPLETED");
    // It is known here as what it was kept as once its worker has noted that, at the latest when it stops.
    worker.stop();
    let shown = as_app(&world, &["runs", "show", kept]);
    assert!(shown.contains(&id), "{shown}");
}

#[test]
fn thirty_calls_at_once_beside_a_worker_that_works_through_them_are_all_queued() {
    let server = Server::start(&[]);
    let world = PrefectWorld::new(&server, "");
    let runtime = runtime();
    let home = world.path("home");
    let opened = subject::of_pool(server.api_url(), &world.name, &home);
    let orchestrator = Arc::new(runtime.block_on(opened));
    let worker = world.start_worker();
    let (ids, mut took) = runtime.block_on(async {
        let mut calls = JoinSet::new();
        for number in 0..30 {
            let orchestrator = orchestrator.clone();
            // Their films are missing, so that they end at once, and the worker tells much of them.
            let mut new = new(["full-frames", "crop-frames"][number % 2], &world.video(number));
            new.patience = Some(Duration::from_mins(1));
            calls.spawn(async move {
                let called_at = Instant::now();
                let queued = orchestrator.create_flow_run(new, Arc::default()).await;
                (queued.expect("queued").flow_run_id, called_at.elapsed())
            });
        }
        let all = calls.join_all().await;
        let ids: BTreeSet<_> = all.iter().map(|(id, _)| *id).collect();
        (ids, all.into_iter().map(|(_, took)| took).collect::<Vec<_>>())
    });
    took.sort_unstable();
    println!("p50 {:?}, the slowest {:?}", took[15], took[29]);
    assert_eq!(ids.len(), 30);
    worker.stop();
}
