//! What a lost machine leaves behind, and who puts it right: its videos' status rows, its task runs, what is said of it. Machines as
//! in `machines.rs`.

use std::fs;

use rusqlite::types::Value as SqlValue;
use serde_json::{Value, json};

use super::end_to_end::{FINAL, PrefectWorld, UNTIL_GO, flow};
use super::machines::{Machine, is, queue_by_prefect, read, request, runs_on, say, set_state, until};
use super::proxy::{Exchange, Fault, Plan, Proxy};
use super::server::Server;
use crate::studio::Studio;

/// Its worker is known to be lost within seconds; a run of another machine would be taken over after 10 min.
const PATIENT: [(&str, &str); 1] = [("CAPTIONACC_LOST_AFTER_MS", "600000")];

/// Status word, process and message that a web app reads.
type Row = (String, Option<String>, Option<String>);

/// The two flows with a status row of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Full,
    Crop,
}

impl Kind {
    fn queue(self, world: &mut PrefectWorld, studio: &Studio) -> String {
        match self {
            Self::Full => queue_by_prefect(world, "full-frames", studio.full_frames()),
            Self::Crop => queue_by_prefect(world, "crop-frames", studio.crop_frames(1)),
        }
    }

    fn row(self, studio: &Studio) -> Row {
        match self {
            Self::Full => studio.processing(),
            Self::Crop => studio.cropping(),
        }
    }

    const fn details(self) -> &'static str {
        match self {
            Self::Full => "SELECT error_details FROM processing_status",
            Self::Crop => "SELECT error_details FROM crop_frames_status",
        }
    }
}

/// A machine that speaks through a proxy; it is known to be lost after some seconds.
fn start_behind(world: &PrefectWorld, proxy: &Proxy, name: &str) -> Machine {
    let api_url = proxy.api_url();
    let variables = [
        ("PREFECT_API_URL", api_url.as_str()),
        ("CAPTIONACC_LOST_AFTER_MS", "30000"),
    ];
    Machine::start_with(world, name, &variables)
}

/// Runs both flows for a video each until they would write their results, and loses their machine a there.
fn lose_at_work(server: &Server) -> (PrefectWorld, Proxy, Vec<(Kind, Studio, String)>) {
    let mut world = PrefectWorld::new(server, "");
    let proxy = Proxy::to(server.address());
    // Whether their results are wanted is asked, and never answered.
    proxy.plan(Plan::on("GET", "/flow_runs/", Fault::Stall));
    let mut machine = start_behind(&world, &proxy, "a");
    let mut runs = Vec::new();
    for (number, kind) in (0..).zip([Kind::Full, Kind::Crop]) {
        let studio = Studio::new(&world.path("videos"), &world.video(number));
        let id = kind.queue(&mut world, &studio);
        runs.push((kind, studio, id));
    }
    for (_, _, id) in &runs {
        proxy.wait_for("who has it is known, and its result is asked for", |exchanges| {
            // A server on SQLite that many tests share answers some calls with 503 first.
            let has_come = |method: &str, path: &str, status: Option<u16>| {
                exchanges.iter().any(|exchange: &Exchange| {
                    let is_it = exchange.method == method && exchange.path.ends_with(path);
                    is_it && status.is_none_or(|status| exchange.status == status)
                })
            };
            has_come("GET", id, None) && has_come("PATCH", &format!("{id}/labels"), Some(204))
        });
        assert!(is(&read(&mut world, id), "RUNNING"));
    }
    machine.lose();
    for (kind, studio, _) in &runs {
        assert!(studio.output_dir().exists());
        let row = kind.row(studio);
        assert!(["analyzing_layout", "processing"].contains(&row.0.as_str()), "{row:?}");
        assert!(row.1.is_some());
    }
    (world, proxy, runs)
}

fn says_cancelled(row: &Row) -> bool {
    *row == ("error".to_owned(), None, Some("Processing cancelled".to_owned()))
}

fn cancel(world: &PrefectWorld, id: &str) {
    world.succeed(&["runs", "cancel", id]);
}

#[test]
fn a_lost_run_that_is_cancelled_ends_and_its_status_row_says_so_by_another_machine() {
    let server = Server::shared();
    let (mut world, _proxy, runs) = lose_at_work(&server);
    let second = Machine::start_with(&world, "b", &PATIENT);
    for (_, _, id) in &runs {
        cancel(&world, id);
    }
    for (kind, studio, id) in &runs {
        let run = world.wait(id, &["CANCELLED"]);
        assert_eq!(run["state"]["message"], "cancelled on request");
        until("its row says so", || says_cancelled(&kind.row(studio)));
        let SqlValue::Text(details) = studio.row(kind.details()).remove(0) else {
            panic!("no details");
        };
        let details: Value = serde_json::from_str(&details).expect("JSON");
        assert_eq!(details["flow_run_id"], json!(id));
        assert_eq!(details["attempt"], 1);
        until("nothing of it is left beside its film", || {
            !studio.output_dir().exists()
        });
    }
    assert_eq!(world.slots(), 0);
    second.stop();
}

#[test]
fn what_a_lost_machine_owes_is_written_by_the_next_that_starts_unless_another_run_has_begun() {
    let server = Server::shared();
    let (mut world, proxy, runs) = lose_at_work(&server);
    for (_, _, id) in &runs {
        // Nobody lives: it has ended once its worker is known to be lost.
        until("it is cancelled", || {
            cancel(&world, id);
            is(&read(&mut world, id), "CANCELLED")
        });
    }
    let [(Kind::Full, film, _), (Kind::Crop, strips, lost)] = &runs[..] else {
        panic!("both flows");
    };
    // The strips are asked for again, and the film's folder is on no disk of the next machine's.
    let again = Kind::Crop.queue(&mut world, strips);
    let (here, away) = (film.folder.clone(), film.folder.with_extension("away"));
    fs::rename(&here, &away).expect("moved");
    let second = Machine::start(&world, "b");
    assert!(is(&world.wait(&again, &FINAL), "COMPLETED"));
    let said = second.stop_after("can not be written here");
    assert!(
        said.contains("is not there") || said.contains("does not exist"),
        "{said}"
    );
    fs::rename(&away, &here).expect("moved back");
    assert_eq!(Kind::Crop.row(strips).0, "complete");
    // The one after that sees it.
    let third = Machine::start(&world, "c");
    until("its row says so", || says_cancelled(&Kind::Full.row(film)));
    third.stop();
    // The lost machine comes back, and finds that its run was cancelled and its video is done.
    proxy.calm();
    let first = start_behind(&world, &proxy, "a");
    let said = first.stop_after("its state was set to CANCELLED at the server");
    assert!(said.contains(lost.as_str()), "{said}");
    assert_eq!(Kind::Crop.row(strips).0, "complete");
    assert_eq!(strips.frames("cropped_frames").len(), 20);
}

#[test]
fn a_run_that_took_three_machines_with_it_stays_crashed_and_its_row_says_so() {
    let server = Server::shared();
    let (mut world, _proxy, runs) = lose_at_work(&server);
    for (_, _, id) in &runs {
        let labels = json!({ "captionacc.lost": 2 });
        request(&mut world, "PATCH", &format!("/flow_runs/{id}/labels"), labels);
        // As the server's automation does.
        set_state(&mut world, id, "CRASHED", "lost: no sign of life for 8 s");
    }
    let second = Machine::start(&world, "b");
    for (kind, studio, id) in &runs {
        until("its row says so", || kind.row(studio).0 == "error");
        assert_eq!(
            kind.row(studio),
            (
                "error".to_owned(),
                None,
                Some("lost: no sign of life for 8 s".to_owned())
            )
        );
        let run = read(&mut world, id);
        assert!(is(&run, "CRASHED"), "{run}");
    }
    second.stop();
}

#[test]
fn a_lost_attempts_task_runs_are_shown_and_kept_as_crashed_and_its_successor_is_named() {
    let server = Server::shared();
    let mut world = PrefectWorld::new(&server, &flow("wait", UNTIL_GO, ""));
    let mut first = Machine::start(&world, "a");
    let id = world.queue("wait", &world.video(0));
    until("a runs it", || runs_on(&read(&mut world, &id), "a"));
    let tasks = |world: &mut PrefectWorld| world.everything(&id)["task_runs"].as_array().expect("tasks").clone();
    until("its task is at work", || {
        tasks(&mut world).iter().any(|task| is(task, "RUNNING"))
    });
    let second = Machine::start(&world, "b");
    first.lose();
    until("b runs it", || runs_on(&read(&mut world, &id), "b"));
    for command in ["pool", "doctor"] {
        let said = world.command(&[command]).output().expect("it starts");
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(!said.contains("is offline"), "{command}: {said}");
    }
    let pool = world.succeed(&["pool"]);
    let line = pool
        .lines()
        .find(|line| line.starts_with("worker-b"))
        .expect("b is there");
    // Its process is none of this machine's; which version it is it says itself, some seconds late.
    assert_eq!(line.split_whitespace().nth(1), Some("-"), "{pool}");
    assert!(!pool.contains("worker-a"), "{pool}");
    until("both attempts' tasks are there", || tasks(&mut world).len() == 2);
    let found = tasks(&mut world);
    let in_state = |state: &str| found.iter().filter(|task| is(task, state)).count();
    assert_eq!((in_state("CRASHED"), in_state("RUNNING")), (1, 1), "{found:?}");
    fs::write(world.path("go"), "").expect("written");
    assert!(is(&world.wait(&id, &FINAL), "COMPLETED"));
    second.stop();
}

#[test]
fn a_worker_of_this_machine_that_hangs_is_said_to_be_silent() {
    let server = Server::shared();
    let world = PrefectWorld::new(&server, "");
    let machine = Machine::start(&world, "a");
    let doctor = || say(&world, "a", &["doctor"], &[]);
    until("it is online", || doctor().contains("worker-a online at the server"));
    machine.freeze();
    until("its silence is known", || {
        doctor().contains("worker-a lives, and has not been heard for ")
    });
    machine.thaw();
    until("it is online again", || {
        doctor().contains("worker-a online at the server")
    });
    machine.stop();
}

#[test]
fn a_worker_that_was_stopped_before_its_pool_was_there_leaves_no_record() {
    let server = Server::shared();
    let world = PrefectWorld::new(&server, "");
    let pool = [("CAPTIONACC_WORK_POOL", "not there")];
    let machine = Machine::start_with(&world, "a", &pool);
    let said = machine.stop_after("\"not there\"");
    assert!(said.contains("Stopped because of SIGTERM"), "{said}");
    let home = world.path("a");
    let journal = fs::read_dir(home.join("prefect"))
        .expect("a journal")
        .flatten()
        .next()
        .expect("one");
    let journal = rusqlite::Connection::open(journal.path().join("queue.db")).expect("it opens");
    let workers: u32 = journal
        .query_row("SELECT count(*) FROM worker", [], |row| row.get(0))
        .expect("counted");
    assert_eq!(workers, 0);
}

#[test]
fn a_lost_run_that_ends_by_hand_or_while_it_waits_anew_reaches_its_status_row() {
    let server = Server::shared();
    let (mut world, _proxy, runs) = lose_at_work(&server);
    let [(Kind::Full, film, failed), (Kind::Crop, strips, waiting)] = &runs[..] else {
        panic!("both flows");
    };
    until("its worker is known to be lost", || {
        let _ = world
            .command(&["runs", "take-over", waiting])
            .output()
            .expect("it starts");
        is(&read(&mut world, waiting), "SCHEDULED")
    });
    cancel(&world, waiting);
    let second = Machine::start_with(&world, "b", &PATIENT);
    set_state(&mut world, failed, "FAILED", "by hand");
    until("its row says so", || Kind::Full.row(film).0 == "error");
    assert_eq!(
        Kind::Full.row(film),
        ("error".to_owned(), None, Some("by hand".to_owned()))
    );
    until("its row says so", || says_cancelled(&Kind::Crop.row(strips)));
    second.stop();
}
