//! `notify-url` over a real server, where other homes work on runs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use captionacc::domain::id::FlowRunId;
use captionacc::orchestrator::notifications::Notifications;

use super::end_to_end::{FINAL, PrefectWorld, flow};
use super::server::Server;
use super::subject;
use crate::notifications::{Answer, Receiver};
use crate::world::{Worker, runtime};

const PATIENCE: Duration = Duration::from_mins(2);
const ALL: [&str; 4] = ["Scheduled", "Pending", "Running", "Completed"];

/// A worker of another home, which knows the flows of this configuration alone.
fn another_home(world: &PrefectWorld, folder: &Path, config: &str, receiver: &Receiver) -> Worker {
    fs::write(folder.join("captionacc.toml"), config).expect("written");
    let mut command = world.command(&["worker"]);
    command
        .env("CAPTIONACC_HOME", folder.join("home"))
        .env("CAPTIONACC_NOTIFY_URL", &receiver.url)
        .current_dir(folder);
    Worker::spawn(command)
}

/// From now on the receiver hears of what happens from this home: as from when a worker starts.
fn begin(world: &PrefectWorld, server: &Server, folder: &Path, receiver: &Receiver) {
    runtime().block_on(async {
        let opened = subject::of_pool(server.api_url(), &world.name, &folder.join("home")).await;
        let begun = opened.notifications_due(&receiver.url).await;
        assert!(begun.expect("begins").notifications.is_empty());
    });
}

fn wait_until(receiver: &Receiver, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "waited in vain until {what}: {:#?}",
            receiver.told()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn set(states: &[String]) -> BTreeSet<&str> {
    states.iter().map(String::as_str).collect()
}

#[test]
fn a_receiver_is_told_once_of_every_state_whichever_home_works_on_a_run() {
    let server = Server::shared();
    let receiver = Receiver::new(Answer::Status(200));
    let hello = flow("hello", "echo hello", "");
    let mut world = PrefectWorld::new(&server, &hello);
    // The home that tells of all runs; it can work on none of them.
    let teller = tempfile::tempdir().expect("a folder");
    begin(&world, &server, teller.path(), &receiver);
    let telling = another_home(&world, teller.path(), "", &receiver);

    // Worked on by a home that tells nobody.
    let silent = world.start_worker();
    let first: FlowRunId = world.queue("hello", &world.video(0)).parse().expect("an id");
    world.wait(&first.to_string(), &FINAL);
    wait_until(&receiver, "all of the first is told", || {
        receiver.states(first).len() == ALL.len()
    });
    assert_eq!(receiver.states(first), ALL);
    let told = receiver.told();
    let last = told
        .iter()
        .rfind(|one| one.body["flowRunId"] == first.to_string())
        .expect("told");
    assert_eq!(last.body["previous"]["name"], "Running");
    assert_eq!(last.body["parameters"]["video-id"], world.video(0));
    assert_eq!(last.body["videoId"], world.video(0));
    assert_eq!(last.body["attempt"], 1);
    silent.stop();

    // Worked on by a home that tells the same receiver.
    let other = tempfile::tempdir().expect("a folder");
    begin(&world, &server, other.path(), &receiver);
    let working = another_home(&world, other.path(), &hello, &receiver);
    let second: FlowRunId = world.queue("hello", &world.video(1)).parse().expect("an id");
    world.wait(&second.to_string(), &FINAL);
    wait_until(&receiver, "all of the second is told", || {
        set(&receiver.states(second)).len() == ALL.len()
    });
    // Until the teller has certainly read what the server says of it.
    let third: FlowRunId = world.queue("hello", &world.video(2)).parse().expect("an id");
    world.wait(&third.to_string(), &FINAL);
    wait_until(&receiver, "all of the third is told", || {
        set(&receiver.states(third)).len() == ALL.len()
    });
    let mut states = receiver.states(second);
    states.sort_unstable();
    let mut expected = ALL.map(str::to_owned);
    expected.sort_unstable();
    assert_eq!(states, expected, "each once");
    let told = receiver.told();
    let keys: BTreeSet<_> = told.iter().map(|one| &one.key).collect();
    assert_eq!(keys.len(), told.len(), "no key twice");
    working.stop();
    telling.stop();
}
