//! `notify-url` with real workers and a real receiver: whatever happens to either, every state arrives, in order.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use captionacc::domain::id::FlowRunId;
use captionacc::domain::state::StateName;
use serde_json::{Value, json};

use crate::world::World;

/// What the receiver does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Status(u16),
    /// None, ever; the connection stays open.
    Never,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Told {
    pub key: String,
    signature: Option<String>,
    text: String,
    pub body: Value,
    was_accepted: bool,
}

pub struct Receiver {
    pub url: String,
    answer: Arc<Mutex<Answer>>,
    told: Arc<Mutex<Vec<Told>>>,
}

impl Receiver {
    pub fn new(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/runs", listener.local_addr().expect("bound"));
        let receiver = Self {
            url,
            answer: Arc::new(Mutex::new(answer)),
            told: Arc::default(),
        };
        let (answer, told) = (receiver.answer.clone(), receiver.told.clone());
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for connection in listener.incoming().flatten() {
                let answer = *answer.lock().expect("whole");
                let Some(one) = read(&connection, answer) else { continue };
                told.lock().expect("whole").push(one);
                match answer {
                    Answer::Status(status) => {
                        let text = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                        let _ = (&connection).write_all(text.as_bytes());
                    }
                    Answer::Never => kept.push(connection),
                }
            }
        });
        receiver
    }

    fn answers(&self, answer: Answer) {
        *self.answer.lock().expect("whole") = answer;
    }

    pub fn told(&self) -> Vec<Told> {
        self.told.lock().expect("whole").clone()
    }

    /// States of a run that were accepted.
    pub fn states(&self, id: FlowRunId) -> Vec<String> {
        let told = self.told();
        let of = |one: &&Told| one.was_accepted && one.body["flowRunId"] == id.to_string();
        told.iter()
            .filter(of)
            .map(|one| one.body["state"]["name"].as_str().expect("a name").to_owned())
            .collect()
    }
}

fn read(mut connection: &TcpStream, answer: Answer) -> Option<Told> {
    let mut bytes = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let count = connection.read(&mut buffer).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&buffer[..count]);
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut headers);
        let Ok(httparse::Status::Complete(head)) = request.parse(&bytes) else {
            continue;
        };
        let header = |name: &str| {
            let found = request
                .headers
                .iter()
                .find(|header| header.name.eq_ignore_ascii_case(name))?;
            String::from_utf8(found.value.to_vec()).ok()
        };
        let length: usize = header("content-length")?.parse().ok()?;
        if bytes.len() < head + length {
            continue;
        }
        let text = String::from_utf8(bytes[head..head + length].to_vec()).ok()?;
        return Some(Told {
            key: header("idempotency-key")?,
            signature: header("x-captionacc-signature"),
            body: serde_json::from_str(&text).ok()?,
            text,
            was_accepted: answer == Answer::Status(200),
        });
    }
}

const ALL: [&str; 4] = ["Scheduled", "Pending", "Running", "Completed"];

/// A world whose receiver hears of all that happens in it.
fn world(receiver: &Receiver) -> World {
    let url = &receiver.url;
    let world = World::new(&format!(
        "[worker]\nnotify-url = '{url}'\nnotify-secret = 'open sesame'\n[flows.hello]\ncommand = ['true']\n\
         [flows.hello.parameters.video-id]\ntype = 'text'\n"
    ));
    // As a worker does when it starts.
    world.block_on(world.store.notifications_due(url)).expect("begins");
    world
}

fn queue(world: &World) -> FlowRunId {
    world.queue("hello", json!({ "video-id": FlowRunId::generate().to_string() }))
}

#[test]
fn every_state_is_told_once_in_order_by_whichever_worker() {
    let receiver = Receiver::new(Answer::Status(200));
    let world = world(&receiver);
    let workers = [world.start_worker(), world.start_worker()];
    let first = queue(&world);
    world.wait_for(first, StateName::Completed);
    let ids: Vec<_> = (0..8).map(|_| queue(&world)).collect();
    world.wait_until("all is told", || {
        ids.iter().all(|id| receiver.states(*id).len() == ALL.len())
    });
    for id in ids {
        assert_eq!(receiver.states(id), ALL);
    }
    let told = receiver.told();
    let keys: BTreeSet<_> = told.iter().map(|one| &one.key).collect();
    assert_eq!(keys.len(), told.len(), "each once");
    for one in &told {
        assert_eq!(json!(one.key), one.body["eventId"]);
        let signature = one.signature.as_ref().expect("signed");
        let seconds = signature.strip_prefix("t=").and_then(|rest| rest.split_once(",v1="));
        let (seconds, hex) = seconds.expect("its form");
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"open sesame");
        let expected = ring::hmac::sign(&key, format!("{seconds}.{}", one.text).as_bytes());
        let bytes: Vec<u8> = (0..hex.len() / 2)
            .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hexadecimal"))
            .collect();
        assert_eq!(bytes, expected.as_ref());
    }
    for worker in workers {
        worker.stop();
    }
}

#[test]
fn a_receiver_that_is_away_hears_all_of_it_later_from_the_next_worker() {
    let receiver = Receiver::new(Answer::Status(200));
    let world = world(&receiver);
    let worker = world.start_worker();
    let first = queue(&world);
    world.wait_until("the first is told", || receiver.states(first).len() == ALL.len());
    receiver.answers(Answer::Status(500));
    let ids: Vec<_> = (0..3).map(|_| queue(&world)).collect();
    for id in &ids {
        world.wait_for(*id, StateName::Completed);
    }
    world.wait_until("it was tried", || receiver.told().iter().any(|one| !one.was_accepted));
    let doctor = |expected: &str| {
        let output = world
            .command(env!("CARGO_BIN_EXE_captionacc"))
            .arg("doctor")
            .output()
            .expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(expected), "{expected}: {text}");
        assert!(!text.contains("open sesame"), "{text}");
    };
    world.wait_until("the failure is noted", || {
        let due = world
            .block_on(world.store.notifications_due(&receiver.url))
            .expect("reads");
        due.failures > 0
    });
    doctor("12 notifications wait");
    doctor("it answers 500");
    worker.kill();
    receiver.answers(Answer::Status(503));
    let worker = world.start_worker();
    let tries = receiver.told().len();
    world.wait_until("the next worker tries", || receiver.told().len() > tries);
    receiver.answers(Answer::Status(200));
    world.wait_until("all is told", || {
        ids.iter().all(|id| receiver.states(*id).len() >= ALL.len())
    });
    for id in ids {
        assert_eq!(receiver.states(id), ALL);
    }
    let log = worker.stop();
    assert!(log.contains("answers again"), "{log}");
    doctor("0 notifications wait");
}

#[test]
fn what_the_receiver_does_not_want_is_dropped_and_the_rest_is_told() {
    let receiver = Receiver::new(Answer::Status(410));
    let world = world(&receiver);
    let worker = world.start_worker();
    let first = queue(&world);
    world.wait_until("all was refused", || {
        let told = receiver.told();
        told.iter()
            .filter(|one| one.body["flowRunId"] == first.to_string())
            .count()
            == ALL.len()
    });
    receiver.answers(Answer::Status(200));
    let second = queue(&world);
    world.wait_until("the next is told", || receiver.states(second).len() == ALL.len());
    assert_eq!(receiver.states(first), [""; 0]);
    let log = worker.stop();
    assert!(log.contains("does not want a notification"), "{log}");
}

#[test]
fn a_receiver_that_never_answers_holds_nobody_up() {
    let receiver = Receiver::new(Answer::Never);
    let world = world(&receiver);
    let worker = world.start_worker();
    let ids: Vec<_> = (0..4).map(|_| queue(&world)).collect();
    for id in ids {
        world.wait_for(id, StateName::Completed);
    }
    world.wait_until("it was tried", || !receiver.told().is_empty());
    let log = worker.stop();
    assert!(log.contains("the next worker gives them"), "{log}");
}

#[test]
fn an_address_that_is_none_is_an_error_of_the_settings() {
    let world = World::new("");
    for url in [
        "ftp://example.com/x",
        "example.com/x",
        "http://",
        "/runs",
        "file:///etc/passwd",
    ] {
        let mut command = world.command(env!("CARGO_BIN_EXE_captionacc"));
        let output = command
            .arg("worker")
            .env("CAPTIONACC_NOTIFY_URL", url)
            .output()
            .expect("it ends");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(
            text.contains("ERR_CAPTIONACC_CONFIG") && text.contains("CAPTIONACC_NOTIFY_URL"),
            "{url}: {text}"
        );
    }
}
