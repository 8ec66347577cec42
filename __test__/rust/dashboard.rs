//! The dashboard's server: what it answers, and everything that was reported against others of its kind, tried on it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use captionacc::annotations::reading::{FrameTable, Reader};
use captionacc::domain::id::FlowRunId;
use captionacc::domain::state::StateName;
use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::annotations::create_app_database;
use crate::exposition::samples;
use crate::world::{World, kill};

const PROGRAM: &str = env!("CARGO_BIN_EXE_captionacc");
/// Nothing that is answered at all takes longer.
const PATIENCE: Duration = Duration::from_mins(1);
const TOKEN: &str = "a token that nobody guesses";

/// A flow that says that it runs and waits for the file `go`.
const WAITING_FLOW: &str = r#"
[flows.wait]
description = "Waits"
command = ["sh", "-c", "echo running; while [ ! -e go ]; do sleep 0.02; done", "sh", "{video-id}"]
retries = 0
[flows.wait.parameters.video-id]
type = "text"
description = "which video"

[flows.look]
description = "Is about a database"
command = ["true"]
[flows.look.parameters.video-id]
type = "text"
[flows.look.parameters.db-path]
type = "path"
"#;

/// A dashboard of its own, as a process.
pub struct Dashboard {
    child: Child,
    port: u16,
}

impl Dashboard {
    /// With a token of the test's.
    fn start(world: &World, more: &[&str]) -> Self {
        Self::of(world.command(PROGRAM), &world.path("token.txt"), more)
    }

    /// The same of a command of the program, with a place for the token.
    pub fn of(command: Command, token: &Path, more: &[&str]) -> Self {
        fs::write(token, format!("{TOKEN}\n")).expect("written");
        let token = token.to_str().expect("a path of ours").to_owned();
        let mut arguments = vec!["--token-file", &token];
        arguments.extend(more);
        Self::begin(command, &arguments).0
    }

    /// Returns it with the address that it printed.
    fn begin(mut command: Command, more: &[&str]) -> (Self, String) {
        command.arg("dashboard");
        if !more.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.args(more);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped"))
            .read_line(&mut line)
            .expect("it says where it is");
        let address = line.split_once(" is at ").expect("an address").1.trim().to_owned();
        let (_, after) = address
            .trim_start_matches("http://")
            .split_once(':')
            .expect("an address of this machine");
        let port = after.split('/').next().expect("a port").parse().expect("a number");
        (Self { child, port }, address)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }

    /// What is answered to these bytes.
    fn raw(&self, request: &str) -> Answer {
        let mut stream = self.connect();
        // A server that has read enough need not read the rest.
        let _ = stream.write_all(request.as_bytes());
        Answer::read(&mut BufReader::new(stream))
    }

    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A request with the token, as a program makes it.
    pub fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, &[("Authorization", &format!("Bearer {TOKEN}"))], "")
    }

    fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut lines = vec![
            format!("{method} {target} HTTP/1.1"),
            format!("Host: {}", self.host()),
            "Connection: close".to_owned(),
        ];
        lines.extend(headers.iter().map(|(name, value)| format!("{name}: {value}")));
        if !body.is_empty() {
            lines.push(format!("Content-Length: {}", body.len()));
        }
        let request = format!("{}\r\n\r\n{body}", lines.join("\r\n"));
        self.raw(&request)
    }

    /// A change as a page of its own asks for it.
    pub fn post(&self, target: &str, body: &Value) -> Answer {
        let cookie = self.cookie();
        let origin = format!("http://{}", self.host());
        self.ask(
            "POST",
            target,
            &[
                ("Cookie", &cookie),
                ("Origin", &origin),
                ("Sec-Fetch-Site", "same-origin"),
                ("Content-Type", "application/json"),
            ],
            &body.to_string(),
        )
    }

    /// A change that a program asks for, with these headers more.
    pub fn post_as_program(&self, target: &str, more: &[(&str, &str)]) -> Answer {
        let authorization = format!("Bearer {TOKEN}");
        let mut headers = vec![
            ("Authorization", authorization.as_str()),
            ("Content-Type", "application/json"),
        ];
        headers.extend(more);
        self.ask("POST", target, &headers, "{}")
    }

    /// What a browser that opened the address sends from then on.
    fn cookie(&self) -> String {
        let token = TOKEN.replace(' ', "%20");
        let answer = self.ask("GET", &format!("/?token={token}"), &[], "");
        assert_eq!(answer.status, 200, "{answer:?}");
        let cookie = &answer.headers["set-cookie"];
        cookie.split(';').next().expect("a value").to_owned()
    }

    /// Listens to the stream, from after a message.
    pub fn listen(&self, query: &str, last: Option<&str>) -> Stream {
        let mut stream = self.connect();
        let last = last.map_or_else(String::new, |id| format!("Last-Event-ID: {id}\r\n"));
        let request = format!(
            "GET /api/stream{query} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\n{last}\r\n",
            self.host()
        );
        stream.write_all(request.as_bytes()).expect("sent");
        let mut reader = BufReader::new(stream);
        assert_eq!(head(&mut reader).0, 200);
        Stream {
            reader,
            last: String::new(),
        }
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn read(reader: &mut BufReader<TcpStream>) -> Self {
        let (status, headers) = head(reader);
        let mut body = Vec::new();
        match headers.get("content-length") {
            Some(length) => {
                body.resize(length.parse().expect("a number"), 0);
                reader.read_exact(&mut body).expect("the whole body");
            }
            None => {
                reader.read_to_end(&mut body).expect("the whole body");
            }
        }
        Self { status, headers, body }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        assert_eq!(self.headers["content-type"], "application/json", "{self:?}");
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

/// Status and headers.
fn head(reader: &mut BufReader<TcpStream>) -> (u16, BTreeMap<String, String>) {
    let mut line = String::new();
    reader.read_line(&mut line).expect("a status line");
    let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a header");
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    (status.unwrap_or_else(|| panic!("no status in {line:?}")), headers)
}

/// Server-sent events as they come.
pub struct Stream {
    reader: BufReader<TcpStream>,
    last: String,
}

impl Stream {
    /// The next event of this kind; remembers its id.
    pub fn next(&mut self, kind: &str) -> Value {
        loop {
            let event = self.next_of_all();
            if event["type"] == kind {
                return event;
            }
        }
    }

    /// The next event, whatever it is.
    pub fn next_of_all(&mut self) -> Value {
        loop {
            let mut line = String::new();
            assert!(
                self.reader.read_line(&mut line).expect("an event") > 0,
                "the stream has ended"
            );
            if let Some(id) = line.strip_prefix("id: ") {
                id.trim_end().clone_into(&mut self.last);
            } else if let Some(data) = line.strip_prefix("data: ") {
                return serde_json::from_str(data).expect("JSON");
            }
        }
    }

    /// Waits until this run is told of in this state.
    fn until(&mut self, id: FlowRunId, state: &str) {
        let id = id.to_string();
        loop {
            let event = self.next_of_all();
            let runs = event["runs"]
                .as_array()
                .or_else(|| event["overview"]["active"].as_array());
            let is_told = runs.is_some_and(|runs| {
                runs.iter()
                    .any(|run| run["flowRunId"] == id.as_str() && run["state"]["name"] == state)
            });
            if is_told {
                return;
            }
        }
    }
}

fn waiting(world: &World, video: &str) -> FlowRunId {
    world.queue("wait", json!({ "video-id": video }))
}

/// A video whose annotations.db has these frames.
fn video(world: &World, id: &str, frames: &[(i64, &[u8])]) -> Connection {
    let folder = world.path("videos");
    fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("annotations.db");
    let app = create_app_database(&path);
    app.execute_batch(
        "CREATE TABLE IF NOT EXISTS full_frames (frame_index INTEGER PRIMARY KEY, image_data BLOB NOT NULL,
           width INTEGER NOT NULL, height INTEGER NOT NULL, file_size INTEGER NOT NULL,
           created_at TEXT NOT NULL DEFAULT (datetime('now')))",
    )
    .expect("a table");
    for (index, picture) in frames {
        app.execute(
            "INSERT INTO full_frames (frame_index, image_data, width, height, file_size) VALUES (?1, ?2, 4, 3, 9)",
            (index, picture),
        )
        .expect("a frame");
    }
    world.queue("look", json!({ "video-id": id, "db-path": path }));
    app
}

#[test]
fn it_answers_only_to_names_of_its_own() {
    let world = World::new(WAITING_FLOW);
    let dashboard = Dashboard::start(&world, &["--allow-host", "Films.Example.org"]);
    let port = dashboard.port;
    let status = |head: &str| {
        dashboard
            .raw(&format!(
                "{head}Authorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
            ))
            .status
    };
    for target in [
        "/",
        "/app.js",
        "/healthz",
        "/readyz",
        "/metrics",
        "/api/runs",
        "/api/stream",
        "/nothing",
    ] {
        for host in [
            "evil.example",
            &format!("evil.example:{port}"),
            "127.0.0.1.evil.example",
            "192.168.1.7",
            "x@127.0.0.1",
        ] {
            assert_eq!(
                status(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n")),
                403,
                "{host} {target}"
            );
        }
    }
    for host in [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("[::1]:{port}"),
        // A forwarded port has another number.
        "localhost:9999".to_owned(),
        "films.example.org".to_owned(),
    ] {
        assert_eq!(
            status(&format!("GET /api/runs HTTP/1.1\r\nHost: {host}\r\n")),
            200,
            "{host}"
        );
    }
    assert_eq!(status("GET /api/runs HTTP/1.0\r\n"), 403, "no name");
    assert_eq!(
        status("GET /api/runs HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n"),
        403,
        "two names"
    );
    assert_eq!(
        status("GET http://evil.example/api/runs HTTP/1.1\r\nHost: localhost\r\n"),
        403,
        "another name in the first line"
    );
}

#[test]
fn nobody_gets_in_without_the_token() {
    let world = World::new(WAITING_FLOW);
    let dashboard = Dashboard::start(&world, &[]);
    for target in [
        "/",
        "/runs",
        "/app.js",
        "/metrics",
        "/api/runs",
        "/api/stream",
        "/api/video/frame.jpg?id=v&at=0",
    ] {
        assert_eq!(dashboard.ask("GET", target, &[], "").status, 401, "{target}");
    }
    for header in [
        ("Authorization", "Bearer wrong"),
        ("Authorization", "Bearer "),
        ("Cookie", "captionacc-dashboard=x"),
        ("Cookie", &format!("captionacc-dashboard-{}={TOKEN}", dashboard.port)),
    ] {
        assert_eq!(
            dashboard.ask("GET", "/api/runs", &[header], "").status,
            401,
            "{header:?}"
        );
    }
    assert_eq!(dashboard.ask("GET", "/?token=wrong", &[], "").status, 401);
    assert_eq!(dashboard.get("/api/runs").status, 200);

    let entered = dashboard.ask(
        "GET",
        "//evil.example/?token=a%20token%20that%20nobody%20guesses",
        &[],
        "",
    );
    assert_eq!(entered.status, 200);
    assert!(
        entered.text().contains("url=/\""),
        "it leads to its own first page alone: {}",
        entered.text()
    );
    let cookie = &entered.headers["set-cookie"];
    assert!(cookie.ends_with("; HttpOnly; SameSite=Strict; Path=/"), "{cookie}");
    assert!(!cookie.contains("guesses"), "{cookie}");
    let cookie = dashboard.cookie();
    assert_eq!(
        dashboard.ask("GET", "/api/runs", &[("Cookie", &cookie)], "").status,
        200
    );

    // A cookie is good as long as the token is: also after a new start, and not with another token.
    let restarted = Dashboard::start(&world, &[]);
    let renamed = |port: u16| cookie.replace(&dashboard.port.to_string(), &port.to_string());
    assert_eq!(
        restarted
            .ask("GET", "/api/runs", &[("Cookie", &renamed(restarted.port))], "")
            .status,
        200
    );
    let (other, _) = Dashboard::begin(world.command(PROGRAM), &[]);
    assert_eq!(
        other
            .ask("GET", "/api/runs", &[("Cookie", &renamed(other.port))], "")
            .status,
        401
    );
}

#[test]
fn the_address_that_is_printed_lets_in_and_another_start_prints_another() {
    let world = World::new(WAITING_FLOW);
    let (first, address) = Dashboard::begin(world.command(PROGRAM), &[]);
    let (_second, other) = Dashboard::begin(world.command(PROGRAM), &[]);
    let token = |address: &str| address.split_once("/?token=").expect("a token").1.to_owned();
    assert_eq!(token(&address).len(), 64);
    assert_ne!(token(&address), token(&other));
    assert_eq!(
        first
            .ask("GET", &format!("/?token={}", token(&address)), &[], "")
            .status,
        200
    );
    assert_eq!(
        first.ask("GET", &format!("/?token={}", token(&other)), &[], "").status,
        401
    );
}

#[test]
fn a_change_comes_from_a_page_of_its_own() {
    let world = World::new(WAITING_FLOW);
    let id = waiting(&world, "v1");
    let dashboard = Dashboard::start(&world, &[]);
    let cookie = dashboard.cookie();
    let own = format!("http://{}", dashboard.host());
    let target = format!("/api/runs/{id}/cancel");
    let json = ("Content-Type", "application/json");
    let with = |headers: &[(&str, &str)]| {
        let mut all = vec![("Cookie", cookie.as_str())];
        all.extend(headers);
        dashboard.ask("POST", &target, &all, "{}").status
    };
    for headers in [
        &[("Origin", "http://evil.example"), json][..],
        &[("Origin", "null"), json],
        &[("Origin", "http://127.0.0.1:1"), json],
        &[json],
        &[("Origin", &own), ("Sec-Fetch-Site", "cross-site"), json],
        &[("Origin", &own), ("Sec-Fetch-Site", "same-site"), json],
    ] {
        assert_eq!(with(headers), 403, "{headers:?}");
    }
    // What a form can send.
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        assert_eq!(with(&[("Origin", &own), ("Content-Type", kind)]), 415, "{kind}");
    }
    assert_eq!(with(&[("Origin", &own)]), 415);
    // Nothing is changed by an address that is merely opened.
    assert_eq!(dashboard.ask("GET", &target, &[("Cookie", &cookie)], "").status, 405);
    assert_eq!(
        dashboard
            .ask("DELETE", &target, &[("Cookie", &cookie), ("Origin", &own)], "")
            .status,
        405
    );
    assert_eq!(world.run(id).state.name, StateName::Scheduled);

    assert_eq!(dashboard.post(&target, &json!({})).status, 200);
    assert_eq!(world.run(id).state.name, StateName::Cancelled);
}

#[test]
fn a_read_only_dashboard_changes_nothing() {
    let world = World::new(WAITING_FLOW);
    let id = waiting(&world, "v1");
    let dashboard = Dashboard::start(&world, &["--read-only"]);
    let refused = |target: &str, body: Value| {
        let answer = dashboard.post(target, &body);
        assert_eq!(answer.status, 403, "{target}");
        assert_eq!(answer.json()["error"]["code"], "ERR_CAPTIONACC_DASHBOARD_READ_ONLY");
    };
    refused(&format!("/api/runs/{id}/cancel"), json!({}));
    refused(&format!("/api/runs/{id}/retry"), json!({}));
    refused(&format!("/api/runs/{id}/again"), json!({}));
    refused("/api/runs", json!({ "action": "cancel", "ids": null, "filter": {} }));
    refused("/api/pool", json!({ "isPaused": true }));
    refused("/api/lineage/run", json!({ "video": null }));
    assert_eq!(world.runs().len(), 1);
    assert_eq!(world.run(id).state.name, StateName::Scheduled);
    assert_eq!(dashboard.get("/api/about").json()["readOnly"], true);
}

#[test]
fn an_address_of_other_machines_needs_a_token_of_ones_own() {
    let world = World::new(WAITING_FLOW);
    let refused = |arguments: &[&str], expected: &str| {
        let output = world
            .command(PROGRAM)
            .arg("dashboard")
            .args(arguments)
            .output()
            .expect("it starts");
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            said.contains("ERR_CAPTIONACC_CONFIG") && said.contains(expected),
            "{said}"
        );
    };
    refused(&["--listen", "0.0.0.0:0"], "--token-file");
    refused(&["--listen", "[::]:0"], "--token-file");
    let short = world.path("short.txt");
    fs::write(&short, "secret\n").expect("written");
    refused(
        &["--listen", "0.0.0.0:0", "--token-file", short.to_str().expect("ours")],
        "16",
    );
    refused(&["--token-file", "/nowhere/token"], "/nowhere/token");
    let dashboard = Dashboard::start(&world, &[]);
    refused(&["--listen", &dashboard.host()], "another");
}

#[test]
fn every_answer_has_its_policy() {
    let world = World::new(WAITING_FLOW);
    let dashboard = Dashboard::start(&world, &[]);
    let refused = dashboard.ask("GET", "/api/runs", &[], "");
    let answers = [
        "/",
        "/app.js",
        "/app.css",
        "/api/runs",
        "/api/runs/x",
        "/api/nothing",
        "/healthz",
        "/metrics",
    ];
    for answer in answers.into_iter().map(|target| dashboard.get(target)).chain([refused]) {
        let policy = &answer.headers["content-security-policy"];
        assert!(
            policy.starts_with("default-src 'self';") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        assert_eq!(answer.headers["referrer-policy"], "no-referrer");
        assert_eq!(answer.headers["x-frame-options"], "DENY");
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert!(!answer.headers.contains_key("access-control-allow-origin"));
    }
}

#[test]
fn no_path_from_a_request_reaches_the_file_system() {
    let world = World::new(WAITING_FLOW);
    let database = world.path("other.db");
    create_app_database(&database);
    waiting(&world, "v1");
    let dashboard = Dashboard::start(&world, &[]);
    let ids = [
        "..%2F..%2Fetc%2Fpasswd",
        "%2Fetc%2Fpasswd",
        "..",
        "%00",
        &database.to_str().expect("ours").replace('/', "%2F"),
        "v1%00",
        "file%3A%2F%2F%2Fetc%2Fpasswd",
    ];
    for id in ids {
        for target in [
            "video",
            "video/frames",
            "video/frame.jpg",
            "video/strip.jpg",
            "video/find",
        ] {
            let answer = dashboard.get(&format!("/api/{target}?id={id}&at=0&text=x"));
            assert_eq!(answer.status, 404, "{target} {id}: {answer:?}");
        }
        let answer = dashboard.get(&format!("/api/video/thumbnail.jpg?id={id}&at=0"));
        assert_eq!((answer.status, answer.body.len()), (204, 0), "{id}");
        assert!(
            matches!(dashboard.get(&format!("/api/runs/{id}")).status, 400 | 404),
            "{id}"
        );
        assert!(
            matches!(dashboard.get(&format!("/api/runs/{id}/log.txt")).status, 400 | 404),
            "{id}"
        );
    }
    let document = dashboard.get("/").body;
    for target in [
        "/../../../../etc/passwd",
        "/..%2f..%2f..%2fetc/passwd",
        "/etc/passwd",
        "/Cargo.toml",
        "//etc/passwd",
    ] {
        assert_eq!(dashboard.get(target).body, document, "{target}");
    }
    // A run that names no database has none, and one that is not there is not made.
    assert_eq!(dashboard.get("/api/video/frames?id=v1").status, 404);
    let absent = world.path("absent.db");
    world.queue("look", json!({ "video-id": "v2", "db-path": absent }));
    assert_eq!(dashboard.get("/api/video/frames?id=v2").status, 409);
    assert!(!absent.exists());
}

#[test]
fn a_picture_goes_out_as_jpeg_and_as_nothing_else() {
    let world = World::new(WAITING_FLOW);
    let jpeg = [0xff, 0xd8, 0xff, 0xe0, 1, 2, 3, 4, 5];
    let _app = video(
        &world,
        "v1",
        &[(0, &jpeg), (100, b"<script>"), (200, b"GIF89a, not one of ours")],
    );
    let dashboard = Dashboard::start(&world, &[]);
    let picture = |at: i64| dashboard.get(&format!("/api/video/frame.jpg?id=v1&at={at}"));
    let answer = picture(50);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "image/jpeg");
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    assert_eq!(answer.body, jpeg);
    assert_eq!(picture(100).status, 404);
    assert_eq!(picture(200).status, 404);
    let kept = dashboard.get("/api/video/frame.jpg?id=v1&at=0&v=1");
    assert_eq!(kept.headers["cache-control"], "private, max-age=3600, immutable");
}

#[test]
fn what_a_name_or_a_log_says_is_text() {
    let world = World::new(
        "[flows.speak]\ndescription = \"Speaks\"\ncommand = [\"echo\", \"<script>alert(1)</script>\"]\nretries = 0\n\
         [flows.speak.parameters.video-id]\ntype = \"text\"\n",
    );
    let name = "<img src=x onerror=alert(1)>";
    let id = world.queue("speak", json!({ "video-id": name }));
    let worker = world.start_worker_with(&["--once"]);
    assert!(worker.wait().0.success());
    let dashboard = Dashboard::start(&world, &[]);
    let run = dashboard.get(&format!("/api/runs/{id}"));
    assert_eq!(run.json()["run"]["videoId"], name);
    let log = dashboard.get(&format!("/api/runs/{id}/log"));
    assert!(log.json()["lines"].to_string().contains("<script>alert(1)</script>"));
    let file = dashboard.get(&format!("/api/runs/{id}/log.txt"));
    assert_eq!(file.headers["content-type"], "text/plain; charset=utf-8");
    assert!(file.headers["content-disposition"].starts_with("attachment;"));
}

#[test]
fn clients_that_stall_hold_up_nobody() {
    let world = World::new(WAITING_FLOW);
    let dashboard = Dashboard::start(&world, &[]);
    let stalled: Vec<TcpStream> = (0..200)
        .map(|number| {
            let mut stream = dashboard.connect();
            let host = dashboard.host();
            let begun = match number % 3 {
                0 => "GET /api/ru".to_owned(),
                1 => format!("POST /api/pool HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"),
                _ => format!("GET /app.js HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"),
            };
            stream.write_all(begun.as_bytes()).expect("sent");
            stream
        })
        .collect();
    assert_eq!(dashboard.get("/api/runs").status, 200);
    drop(stalled);
    let long = "x".repeat(130 << 10);
    assert_eq!(dashboard.ask("GET", "/api/runs", &[("X-Long", &long)], "").status, 431);
    let body = json!({ "isPaused": true, "more": "x".repeat(300 << 10) });
    assert_eq!(dashboard.post("/api/pool", &body).status, 413);
    assert_eq!(dashboard.get("/api/runs").status, 200);
}

#[test]
fn two_hundred_pages_are_told_of_a_run() {
    let world = World::new(WAITING_FLOW);
    let dashboard = Dashboard::start(&world, &[]);
    let mut streams: Vec<Stream> = (0..200).map(|_| dashboard.listen("", None)).collect();
    for stream in &mut streams {
        stream.next("overview");
    }
    let id = waiting(&world, "v1");
    for stream in &mut streams {
        stream.until(id, "Scheduled");
    }
    assert_eq!(dashboard.get("/api/runs").status, 200);
}

#[test]
fn a_run_is_seen_from_queued_to_completed_with_its_log() {
    let world = World::new(WAITING_FLOW);
    let id = waiting(&world, "v1");
    let dashboard = Dashboard::start(&world, &[]);
    let mut stream = dashboard.listen(&format!("?run={id}&after=0"), None);
    stream.next("overview");
    let worker = world.start_worker();
    stream.until(id, "Running");
    let log = stream.next("log");
    assert_eq!(log["flowRunId"], id.to_string());
    assert_eq!(log["from"], 0);
    fs::write(world.path("go"), "").expect("written");
    stream.until(id, "Completed");
    worker.stop();
}

#[test]
fn a_page_that_comes_back_goes_on_where_it_was() {
    let world = World::new(WAITING_FLOW);
    let dashboard = Dashboard::start(&world, &[]);
    // Somebody listens all the time, so that the store is looked at.
    let mut watcher = dashboard.listen("", None);
    watcher.next("overview");
    let first = waiting(&world, "v1");
    let mut page = dashboard.listen("", None);
    page.next("overview");
    watcher.until(first, "Scheduled");
    let last = watcher.last.clone();
    drop(page);
    let second = waiting(&world, "v2");
    watcher.until(second, "Scheduled");
    // By the header, as a browser asks again; by the address, which is all that a page which opens its stream itself can set.
    for mut back in [
        dashboard.listen("", Some(&last)),
        dashboard.listen(&format!("?last={last}"), None),
    ] {
        loop {
            let missed = back.next_of_all().to_string();
            assert!(
                !missed.contains("reset") && !missed.contains(&first.to_string()),
                "{missed}"
            );
            if missed.contains(&second.to_string()) {
                break;
            }
        }
    }
    for unknown in ["x", "x-1", &last.replace('-', "x-")] {
        assert_eq!(
            dashboard.listen("", Some(unknown)).next_of_all()["type"],
            "reset",
            "{unknown}"
        );
    }
}

#[test]
fn a_page_that_comes_back_after_nobody_looked_misses_nothing() {
    let world = World::new(WAITING_FLOW);
    let dashboard = Dashboard::start(&world, &[]);
    let mut page = dashboard.listen("", None);
    page.next("overview");
    let last = page.last.clone();
    drop(page);
    // Until the server has noticed that the page has gone: it says so itself.
    while !dashboard
        .get("/metrics")
        .text()
        .contains("captionacc_dashboard_pages 0")
    {}
    let id = waiting(&world, "v1");
    let mut back = dashboard.listen("", Some(&last));
    // Told of the run, or to read everything anew.
    loop {
        let event = back.next_of_all();
        if event["type"] == "reset" || event.to_string().contains(&id.to_string()) {
            break;
        }
    }
}

#[test]
fn runs_are_filtered_searched_and_changed_together() {
    let world = World::new(WAITING_FLOW);
    let ids: Vec<FlowRunId> = (0..7)
        .map(|number| waiting(&world, &format!("film {number}")))
        .collect();
    let dashboard = Dashboard::start(&world, &[]);
    let listed = |query: &str| {
        let page = dashboard.get(&format!("/api/runs{query}")).json();
        let runs = page["runs"].as_array().expect("runs").clone();
        let videos: Vec<String> = runs
            .iter()
            .map(|run| run["videoId"].as_str().expect("a video").to_owned())
            .collect();
        (videos.join(","), page["before"].clone())
    };
    assert_eq!(listed("?limit=2"), ("film 6,film 5".to_owned(), json!(ids[5])));
    assert_eq!(listed(&format!("?limit=2&before={}", ids[1])).0, "film 0");
    assert_eq!(listed("?video=film%203").0, "film 3");
    assert_eq!(listed("?text=FILM%204").0, "film 4");
    assert_eq!(listed("?text=FILM&flow=wait&limit=1").0, "film 6");
    assert_eq!(listed("?state=running").0, "");
    assert_eq!(dashboard.get("/api/runs?state=walking").status, 400);
    assert_eq!(dashboard.get("/api/runs?before=x").status, 400);

    let bulk = |body: Value| dashboard.post("/api/runs", &body).json();
    let result = bulk(json!({ "action": "cancel", "ids": [ids[0], ids[1]], "filter": {} }));
    assert_eq!((&result["done"], &result["skipped"]), (&json!(2), &json!(0)));
    let result = bulk(json!({ "action": "cancel", "ids": [ids[0]], "filter": {} }));
    assert_eq!(result["failed"], 0);
    let result = bulk(json!({ "action": "cancel", "ids": null, "filter": { "text": "film 2" } }));
    assert_eq!(result["done"], 1);
    assert_eq!(listed("?state=cancelled").0, "film 2,film 1,film 0");
    let result = bulk(json!({ "action": "retry", "ids": null, "filter": { "states": ["CANCELLED"] } }));
    assert_eq!(result["done"], 3, "{result}");
    assert_eq!(listed("?state=cancelled").0, "");
    let result = bulk(json!({ "action": "cancel", "ids": null, "filter": { "flow": "wait" } }));
    assert_eq!(result["done"], 7);
    assert_eq!(
        dashboard
            .post("/api/runs", &json!({ "action": "delete", "ids": null, "filter": {} }))
            .status,
        422
    );

    // What is left as it is says why: here, a newer run has the video's database.
    let older = world.queue("look", json!({ "video-id": "v", "db-path": "/nowhere/a.db" }));
    world.block_on(world.store.cancel_flow_run(older)).expect("cancelled");
    world.queue("look", json!({ "video-id": "v", "db-path": "/nowhere/a.db" }));
    let result = bulk(json!({ "action": "retry", "ids": [older], "filter": {} }));
    assert_eq!((&result["done"], &result["skipped"]), (&json!(0), &json!(1)));
    let because = result["skippedBecause"].as_str().expect("a reason");
    assert!(because.contains("for the same video is newer"), "{because}");

    let again = dashboard
        .post(&format!("/api/runs/{}/again", ids[3]), &json!({}))
        .json();
    assert_eq!(again["videoId"], "film 3");
    assert_eq!(listed("?state=scheduled&flow=wait").0, "film 3");
}

#[test]
fn the_pool_is_paused_and_told_of() {
    let world = World::new(WAITING_FLOW);
    waiting(&world, "v1");
    let dashboard = Dashboard::start(&world, &[]);
    assert_eq!(
        dashboard.post("/api/pool", &json!({ "isPaused": true })).json()["isPaused"],
        true
    );
    assert!(world.block_on(world.store.read_work_pool()).expect("a pool").is_paused);
    let findings = dashboard.get("/api/home").json()["findings"].to_string();
    assert!(
        findings.contains("is paused") && findings.contains("no worker is alive"),
        "{findings}"
    );
    let metrics = dashboard.get("/metrics").text();
    for line in [
        "captionacc_orchestrator_up 1",
        "captionacc_pool_paused 1",
        "captionacc_flow_runs_waiting{queue=\"background\"} 1",
        "captionacc_workers{alive=\"true\"} 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}\n{metrics}");
    }
    assert_eq!(dashboard.ask("GET", "/healthz", &[], "").text(), "ok\n");
    assert_eq!(dashboard.ask("GET", "/readyz", &[], "").text(), "ready\n");
    dashboard.post("/api/pool", &json!({ "isPaused": false }));
    let limited = dashboard.post("/api/pool", &json!({ "concurrencyLimit": 7 })).json();
    assert_eq!(
        (&limited["concurrencyLimit"], &limited["isPaused"]),
        (&json!(7), &json!(false))
    );
    assert_eq!(
        dashboard.post("/api/pool", &json!({ "concurrencyLimit": 0 })).status,
        400
    );
    assert_eq!(
        dashboard.post("/api/pool", &json!({ "concurrencyLimit": 65 })).status,
        400
    );
    assert!(!world.block_on(world.store.read_work_pool()).expect("a pool").is_paused);
}

#[test]
fn metrics_are_read_as_prometheus_reads_them() {
    let world = World::new(&format!(
        "{WAITING_FLOW}\n[flows.make]\ncommand = ['true']\nassets = ['annotations://{{video-id}}/full_frames']\n\
         [flows.make.parameters.video-id]\ntype = 'text'\n"
    ));
    let dashboard = Dashboard::start(&world, &[]);
    let odd = "a \"film\"\\ with\nlines";
    let waiting = waiting(&world, odd);
    let made = world.queue("make", json!({ "video-id": odd }));
    let worker = world.start_worker();
    world.wait_for(made, StateName::Completed);
    world.wait_for(waiting, StateName::Running);
    let samples = samples(&dashboard.get("/metrics").text());
    for (name, expected) in [
        ("captionacc_orchestrator_up", 1.0),
        ("captionacc_flow_runs_active{flow=\"wait\",state=\"RUNNING\"}", 1.0),
        (
            "captionacc_flow_runs_ended_total{flow=\"make\",state=\"COMPLETED\"}",
            1.0,
        ),
        ("captionacc_flow_run_duration_seconds_count{flow=\"make\"}", 1.0),
        ("captionacc_frames_written_total{table=\"full_frames\"}", 0.0),
        ("captionacc_boxes_written_total", 0.0),
        ("captionacc_workers{alive=\"true\"}", 1.0),
    ] {
        assert_eq!(samples.get(name), Some(&expected), "{name}: {samples:#?}");
    }
    assert!(samples["captionacc_child_memory_bytes"] > 0.0, "{samples:#?}");
    assert!(samples["captionacc_child_busy_cores"] >= 0.0, "{samples:#?}");
    // Nobody else is to hear of runs.
    assert!(
        !samples
            .keys()
            .any(|name| name.contains("outbox") || name.contains("_api_")),
        "{samples:#?}"
    );
    let page = dashboard.get(&format!("/api/runs/{waiting}")).json();
    assert!(page["process"]["memoryBytes"].as_u64() > Some(0), "{page}");
    assert!(
        page["process"]["cpuSeconds"].is_number() && page["process"]["busyCores"].is_number(),
        "{page}"
    );
    assert_eq!(dashboard.get("/api/overview").json()["pool"]["delivery"], Value::Null);
    fs::write(world.path("go"), "").expect("written");
    world.wait_for(waiting, StateName::Completed);
    worker.stop();
}

#[test]
fn doctor_knows_the_dashboard_of_its_home() {
    let world = World::new("");
    let doctor = || {
        let output = world
            .command(PROGRAM)
            .args(["doctor", "--json"])
            .output()
            .expect("it starts");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let findings = report["findings"].as_array().expect("a list").clone();
        let of_dashboard = findings.into_iter().find(|finding| finding["check"] == "dashboard");
        of_dashboard.expect("it is looked at")
    };
    let message = |finding: &Value| finding["message"].as_str().expect("a text").to_owned();
    assert!(message(&doctor()).starts_with("none runs for this home"));
    let dashboard = Dashboard::start(&world, &["--read-only"]);
    let found = doctor();
    let (port, pid) = (dashboard.port, dashboard.child.id());
    assert_eq!(
        message(&found),
        format!("at http://127.0.0.1:{port}/ (process {pid}, read-only)")
    );
    assert_eq!(found["level"], "ok");
    let noted = fs::read_to_string(world.path("home/dashboard.json")).expect("noted");
    assert!(!noted.contains(TOKEN), "{noted}");
    // One that was killed has left its note, which counts for nothing.
    drop(dashboard);
    assert!(world.path("home/dashboard.json").exists());
    assert!(message(&doctor()).starts_with("none runs for this home"));

    let mut dashboard = Dashboard::start(&world, &["--listen", "0.0.0.0:0"]);
    let found = doctor();
    assert_eq!(found["level"], "warning", "{found}");
    assert!(message(&found).contains("other machines reach it"), "{found}");
    kill(dashboard.child.id(), Signal::TERM);
    dashboard.child.wait().expect("it ends");
    assert!(!world.path("home/dashboard.json").exists(), "its note is gone with it");
}

#[test]
fn a_worker_shows_it_beside_its_work() {
    let world = World::new(WAITING_FLOW);
    let mut command: Command = world.command(PROGRAM);
    command.args(["worker", "--dashboard", "127.0.0.1:0"]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped"))
        .read_line(&mut line)
        .expect("a line");
    let address = line.split_once(" is at http://").expect("an address").1.trim();
    let (host, token) = address.split_once("/?token=").expect("a token");
    let mut stream = TcpStream::connect(host).expect("it listens");
    let request = format!("GET /api/overview HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    assert_eq!(
        Answer::read(&mut BufReader::new(stream)).json()["pool"]["concurrencyLimit"],
        2
    );
    let id = waiting(&world, "v1");
    fs::write(world.path("go"), "").expect("written");
    world.wait_for(id, StateName::Completed);
    kill(child.id(), Signal::TERM);
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn looking_at_pictures_changes_nothing_and_waits_for_no_writer() {
    let world = World::new(WAITING_FLOW);
    for mode in ["wal", "delete"] {
        let path = world.path(&format!("{mode}.db"));
        assert!(Reader::open(&path).is_err(), "it is not made");
        assert!(!path.exists());
        let app = create_app_database(&path);
        app.pragma_update(None, "journal_mode", mode).expect("a pragma");
        app.execute_batch(
            "CREATE TABLE IF NOT EXISTS full_frames (frame_index INTEGER PRIMARY KEY, image_data BLOB NOT NULL,
               width INTEGER NOT NULL, height INTEGER NOT NULL, file_size INTEGER NOT NULL, created_at TEXT);
             INSERT INTO full_frames VALUES (0, x'ffd8ff', 4, 3, 3, 'now'), (100, x'ffd8ff00', 4, 3, 4, 'now')",
        )
        .expect("frames");
        let reader = Reader::open(&path).expect("it opens");
        let set = reader.frame_set(FrameTable::Full).expect("reads").expect("frames");
        assert_eq!((set.count, set.first, set.last), (2, 0, 100));
        assert_eq!(reader.frame_set(FrameTable::Cropped).expect("reads"), None);
        assert_eq!(
            reader
                .picture(FrameTable::Full, 99)
                .expect("reads")
                .expect("one")
                .frame_index,
            0
        );
        assert_eq!(reader.boxes(0, 100, 10).expect("reads"), []);
        // The app writes while the reader is open, without waiting at all.
        app.busy_timeout(Duration::ZERO).expect("a timeout");
        app.execute_batch("BEGIN IMMEDIATE; DELETE FROM full_frames; COMMIT")
            .expect(mode);
        assert_eq!(reader.frame_set(FrameTable::Full).expect("reads"), None);
    }
}

#[test]
fn a_database_of_an_older_schema_is_shown_as_far_as_it_goes() {
    let world = World::new(WAITING_FLOW);
    let path = world.path("old.db");
    let app = Connection::open(&path).expect("a database");
    app.execute_batch(
        "CREATE TABLE full_frames (frame_index INTEGER PRIMARY KEY, image_data BLOB);
         INSERT INTO full_frames VALUES (3, x'ffd8ff');
         CREATE TABLE video_layout_config (id INTEGER PRIMARY KEY, crop_left INTEGER);
         CREATE TABLE processing_status (id INTEGER PRIMARY KEY, status TEXT, odd BLOB);
         INSERT INTO processing_status VALUES (1, 'done', x'00')",
    )
    .expect("tables");
    let reader = Reader::open(&path).expect("it opens");
    let set = reader.frame_set(FrameTable::Full).expect("reads").expect("a frame");
    assert_eq!((set.count, set.width, set.created_at), (1, 0, None));
    assert_eq!(reader.layout().expect("reads"), None);
    assert_eq!(reader.box_count().expect("reads"), 0);
    assert!((reader.index_rate_hz().expect("reads") - 10.0).abs() < f64::EPSILON);
    let fields = reader.fields("processing_status").expect("reads");
    let expected = [("id", "1"), ("status", "done"), ("odd", "1 bytes")];
    assert_eq!(
        fields,
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
    assert!(reader.full_frames(-1, 10).expect("reads")[0].frame_index == 3);
}
