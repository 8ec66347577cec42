//! A proxy between our program and a Prefect server that plays what networks and servers do, on order.
//!
//! Theory of operation: a thread with a runtime of its own, so that faults happen while the test blocks. Each client
//! connection is a task that reads one HTTP/1.1 request at a time, looks for a plan that matches, and plays its fault
//! or passes the request on over a connection of its own. Websockets are copied through until they are dropped.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// uvicorn closes a connection that says nothing for so long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Nothing in a test takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_mins(2);

/// What happens to a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection is reset before the server hears of the request.
    Reset,
    /// Nobody answers, and the server never hears of the request.
    Stall,
    /// The server did it; its answer comes one byte a second.
    Slow,
    /// The server did it; half of its answer comes, then the end of the connection.
    Truncate,
    /// The server did it; its answer is no JSON.
    BadJson,
    /// The server did it; the connection is reset before its answer.
    LoseAnswer,
    /// The server never hears of it; this comes back.
    Answer {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: String,
    },
}

impl Fault {
    /// An answer with this status as Prefect words it.
    pub fn status(status: u16) -> Self {
        let body = match status {
            404 | 409 | 403 => json!({"detail": format!("played by the fault proxy: {status}")}),
            422 => {
                json!({"exception_message": "Invalid request received.", "exception_detail": [], "request_body": {}})
            }
            401 => json!({"exception_message": "Unauthorized"}),
            503 => json!({"exception_message": "Service Unavailable"}),
            _ => json!({"exception_message": "Internal Server Error"}),
        };
        Self::Answer {
            status,
            headers: Vec::new(),
            body: body.to_string(),
        }
    }

    /// All that passes by itself.
    pub fn passing() -> Vec<Self> {
        vec![
            Self::Reset,
            Self::LoseAnswer,
            Self::Truncate,
            Self::BadJson,
            Self::status(408),
            Self::status(500),
            Self::status(502),
            Self::status(503),
            Self::rate_limited(1),
        ]
    }

    /// 429 with `Retry-After`, as Cloud says it.
    pub fn rate_limited(retry_after_s: u32) -> Self {
        Self::Answer {
            status: 429,
            headers: vec![("Retry-After", retry_after_s.to_string())],
            body: json!({"detail": "Rate limit exceeded"}).to_string(),
        }
    }
}

/// Which requests meet a fault.
#[derive(Debug, Clone)]
pub struct Plan {
    method: &'static str,
    path: String,
    body: Option<String>,
    passes: usize,
    times: usize,
    fault: Fault,
}

impl Plan {
    /// Requests of this method (`*`: any) whose path contains `path`, for ever.
    pub fn on(method: &'static str, path: impl Into<String>, fault: Fault) -> Self {
        Self {
            method,
            path: path.into(),
            body: None,
            passes: 0,
            times: usize::MAX,
            fault,
        }
    }

    /// Only those whose body contains this.
    pub fn with_body(mut self, body: impl Into<String>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Only so many.
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    /// After so many went through.
    pub fn after(mut self, passes: usize) -> Self {
        self.passes = passes;
        self
    }
}

/// A request that came, and what became of it.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub connection: usize,
    pub method: String,
    pub path: String,
    pub body: String,
    /// Of the answer; 0 if there was none. 101 for a websocket.
    pub status: u16,
}

/// What differs on Prefect Cloud, as far as its documents and its client's code tell. A stand-in, not Cloud: no
/// account was at hand.
#[derive(Debug, Clone)]
pub struct CloudStandIn {
    /// The one key that is accepted, as a Bearer.
    pub api_key: String,
    pub account_id: String,
    pub workspace_id: String,
    /// Whether the plan has hybrid work pools; without, their creation is 403.
    pub allows_pools: bool,
    /// Requests in a minute before 429.
    pub requests_per_minute: usize,
}

impl CloudStandIn {
    /// The free plan.
    pub fn free() -> Self {
        Self {
            api_key: "pnu_the_key_of_the_stand_in".to_owned(),
            account_id: "0c1bd8a4-6f0b-4c9e-8d37-5d3f3d0f2b11".to_owned(),
            workspace_id: "7b1b7f2e-3d8e-4d55-9a2e-0c39a6e1f0aa".to_owned(),
            allows_pools: false,
            requests_per_minute: 625,
        }
    }

    fn prefix(&self) -> String {
        format!("/api/accounts/{}/workspaces/{}", self.account_id, self.workspace_id)
    }

    /// What Cloud itself answers; `None`: it is the server's to answer, under this path.
    fn answer(&self, request: &mut Request, seen: usize) -> Option<Fault> {
        let detail = |status: u16, detail: &str| Fault::Answer {
            status,
            headers: Vec::new(),
            body: json!({ "detail": detail }).to_string(),
        };
        if seen > self.requests_per_minute {
            return Some(Fault::rate_limited(1));
        }
        if request.header("authorization") != Some(&format!("Bearer {}", self.api_key)) {
            return Some(detail(401, "Invalid authentication credentials"));
        }
        if ["POST", "PUT", "PATCH"].contains(&request.method.as_str()) && request.header("content-length").is_none() {
            return Some(detail(411, "Length Required"));
        }
        if request.path == "/api/me/workspaces" {
            let workspace = json!([{
                "account_id": self.account_id, "account_name": "Stand-in", "account_handle": "stand-in",
                "workspace_id": self.workspace_id, "workspace_name": "captions", "workspace_handle": "captions",
                "workspace_description": "",
            }]);
            return Some(Fault::Answer {
                status: 200,
                headers: Vec::new(),
                body: workspace.to_string(),
            });
        }
        let Some(rest) = request.path.strip_prefix(&self.prefix()) else {
            return Some(detail(404, "Not Found"));
        };
        if ["/csrf-token", "/admin"].iter().any(|path| rest.starts_with(path)) {
            return Some(detail(404, "Not Found"));
        }
        if request.method == "POST" && rest.trim_end_matches('/') == "/work_pools" && !self.allows_pools {
            return Some(detail(
                403,
                "Your plan does not allow work pools of type 'process'. Upgrade to create hybrid work pools.",
            ));
        }
        request.path = format!("/api{rest}");
        request.headers.retain(|(name, _)| name != "authorization");
        None
    }
}

/// A proxy in front of a server. Dropped, its connections end.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    commands: watch::Sender<Command>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Listen,
    Refuse,
    End,
}

struct Shared {
    upstream: SocketAddr,
    cloud: Option<CloudStandIn>,
    state: Mutex<State>,
    changed: Condvar,
    /// Counts up when every websocket is to be dropped.
    websocket_drops: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    plans: Vec<Plan>,
    exchanges: Vec<Exchange>,
    connections: usize,
    websockets: usize,
    is_listening: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds it")
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    /// The fault that the first matching plan has for this request.
    fn fault(&self, request: &Request) -> Option<Fault> {
        let mut state = self.state();
        let plan = state.plans.iter_mut().find(|plan| {
            plan.times > 0
                && (plan.method == "*" || plan.method == request.method)
                && request.path.contains(&plan.path)
                && plan
                    .body
                    .as_ref()
                    .is_none_or(|body| String::from_utf8_lossy(&request.body).contains(body))
        })?;
        if plan.passes > 0 {
            plan.passes -= 1;
            return None;
        }
        plan.times = plan.times.saturating_sub(usize::from(plan.times != usize::MAX));
        Some(plan.fault.clone())
    }
}

impl Proxy {
    /// A proxy to the server at this address.
    pub fn to(upstream: SocketAddr) -> Self {
        Self::with(upstream, None)
    }

    /// A stand-in for Cloud in front of the server at this address.
    pub fn cloud(upstream: SocketAddr, cloud: CloudStandIn) -> Self {
        Self::with(upstream, Some(cloud))
    }

    fn with(upstream: SocketAddr, cloud: Option<CloudStandIn>) -> Self {
        let shared = Arc::new(Shared {
            upstream,
            cloud,
            state: Mutex::default(),
            changed: Condvar::new(),
            websocket_drops: watch::channel(0).0,
        });
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        drop(listener);
        let (commands, receiver) = watch::channel(Command::Listen);
        let for_thread = shared.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(serve(address, for_thread, receiver));
        });
        let proxy = Self {
            address,
            shared,
            commands,
            thread: Some(thread),
        };
        proxy.wait_until("the proxy listens", |state| state.is_listening);
        proxy
    }

    /// The API's address behind this proxy: `http://127.0.0.1:PORT/api`, or the workspace's on the stand-in for Cloud.
    pub fn api_url(&self) -> String {
        match &self.shared.cloud {
            Some(cloud) => format!("http://{}{}", self.address, cloud.prefix()),
            None => format!("http://{}/api", self.address),
        }
    }

    /// `http://127.0.0.1:PORT/api`, for `PREFECT_CLOUD_API_URL`.
    pub fn base_url(&self) -> String {
        format!("http://{}/api", self.address)
    }

    /// Adds a plan; earlier ones go first.
    pub fn plan(&self, plan: Plan) {
        self.shared.change(|state| state.plans.push(plan));
    }

    /// Forgets all plans.
    pub fn calm(&self) {
        self.shared.change(|state| state.plans.clear());
    }

    /// From now on connections are refused, and those there are reset.
    pub fn refuse(&self) {
        self.commands.send_replace(Command::Refuse);
        self.wait_until("connections are refused", |state| !state.is_listening);
    }

    /// Ends [`Proxy::refuse`].
    pub fn accept(&self) {
        self.commands.send_replace(Command::Listen);
        self.wait_until("connections are accepted", |state| state.is_listening);
    }

    /// Resets every websocket there is.
    pub fn drop_websockets(&self) {
        self.shared.websocket_drops.send_modify(|count| *count += 1);
        self.wait_until("the websockets are gone", |state| state.websockets == 0);
    }

    /// What came so far.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.shared.state().exchanges.clone()
    }

    /// Connections that these requests came over.
    pub fn connections_of(exchanges: &[Exchange]) -> usize {
        exchanges
            .iter()
            .map(|exchange| exchange.connection)
            .collect::<BTreeSet<_>>()
            .len()
    }

    /// Returns once `condition` holds of what came so far.
    pub fn wait_for(&self, what: &str, mut condition: impl FnMut(&[Exchange]) -> bool) {
        self.wait_until(what, |state| condition(&state.exchanges));
    }

    /// Returns once so many websockets are open.
    pub fn wait_for_websockets(&self, count: usize) {
        self.wait_until("websockets are open", |state| state.websockets >= count);
    }

    fn wait_until(&self, what: &str, mut condition: impl FnMut(&State) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.shared.state();
        while !condition(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "waited in vain until {what}; what came: {:#?}",
                state.exchanges
            );
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .expect("no panic inside")
                .0;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.commands.send_replace(Command::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(address: SocketAddr, shared: Arc<Shared>, mut commands: watch::Receiver<Command>) {
    loop {
        let command = *commands.borrow_and_update();
        match command {
            Command::End => return,
            Command::Refuse => {
                shared.change(|state| state.is_listening = false);
                let _ = commands.changed().await;
            }
            Command::Listen => {
                let listener = TcpListener::bind(address).await.expect("the port is still ours");
                shared.change(|state| state.is_listening = true);
                // Dropped at the next command, and with it every connection.
                let mut tasks = tokio::task::JoinSet::new();
                loop {
                    tokio::select! {
                        _ = commands.changed() => break,
                        Some(_) = tasks.join_next() => {}
                        accepted = listener.accept() => {
                            let Ok((client, _)) = accepted else { continue };
                            let shared = shared.clone();
                            shared.change(|state| state.connections += 1);
                            let connection = shared.state().connections;
                            tasks.spawn(async move {
                                let _ = connection_task(client, connection, shared).await;
                            });
                        }
                    }
                }
            }
        }
    }
}

struct Request {
    method: String,
    path: String,
    /// Names in lowercase.
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&String> {
        self.headers
            .iter()
            .find(|header| header.0 == name)
            .map(|header| &header.1)
    }

    fn to_bytes(&self, upstream: SocketAddr, is_websocket: bool) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\nhost: {upstream}\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            if name != "host" && (is_websocket || name != "connection") {
                text.extend([name.as_str(), ": ", value.as_str(), "\r\n"]);
            }
        }
        if !is_websocket {
            text.push_str("connection: close\r\n");
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// Reads a request; `None` at the end of the connection.
async fn read_request(client: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<Request>> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Request::new(&mut headers);
        let status = parsed
            .parse(buffer)
            .map_err(|error| io::Error::other(error.to_string()))?;
        if let httparse::Status::Complete(head) = status {
            let mut request = Request {
                method: parsed.method.unwrap_or_default().to_owned(),
                path: parsed.path.unwrap_or_default().to_owned(),
                headers: parsed
                    .headers
                    .iter()
                    .map(|header| {
                        (
                            header.name.to_ascii_lowercase(),
                            String::from_utf8_lossy(header.value).into_owned(),
                        )
                    })
                    .collect(),
                body: Vec::new(),
            };
            let length = request
                .header("content-length")
                .and_then(|value| value.parse().ok())
                .unwrap_or(0);
            while buffer.len() < head + length {
                if client.read_buf(buffer).await? == 0 {
                    return Ok(None);
                }
            }
            request.body = buffer[head..head + length].to_vec();
            buffer.drain(..head + length);
            return Ok(Some(request));
        }
        let read = tokio::time::timeout(IDLE_TIMEOUT, client.read_buf(buffer)).await;
        if !matches!(read, Ok(Ok(count)) if count > 0) {
            return Ok(None);
        }
    }
}

async fn connection_task(mut client: TcpStream, connection: usize, shared: Arc<Shared>) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some(mut request) = read_request(&mut client, &mut buffer).await? {
        let is_websocket = request.header("upgrade").is_some();
        let asked = (request.method.clone(), request.path.clone());
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let record = |status: u16| {
            shared.change(|state| {
                state.exchanges.push(Exchange {
                    connection,
                    method: asked.0.clone(),
                    path: asked.1.clone(),
                    body: body.clone(),
                    status,
                });
            });
        };
        let mut fault = shared.fault(&request);
        if let (None, Some(cloud)) = (&fault, &shared.cloud) {
            let seen = shared.state().exchanges.len();
            fault = cloud.answer(&mut request, seen);
        }
        match fault {
            Some(Fault::Reset) => {
                record(0);
                return client.set_zero_linger();
            }
            Some(Fault::Stall) => {
                record(0);
                // Until the client has had enough.
                let _ = client.read_buf(&mut buffer).await;
                return Ok(());
            }
            Some(Fault::Answer { status, headers, body }) => {
                let mut text = format!(
                    "HTTP/1.1 {status} Played\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
                    body.len()
                );
                for (name, value) in headers {
                    text.extend([name, ": ", value.as_str(), "\r\n"]);
                }
                text.push_str("\r\n");
                text.push_str(&body);
                record(status);
                client.write_all(text.as_bytes()).await?;
            }
            _ if is_websocket => {
                record(101);
                return pass_websocket(client, &request, &shared).await;
            }
            fault => {
                let mut upstream = TcpStream::connect(shared.upstream).await?;
                upstream.write_all(&request.to_bytes(shared.upstream, false)).await?;
                let mut answer = Vec::new();
                upstream.read_to_end(&mut answer).await?;
                let Some((status, head)) = read_answer_head(&answer) else {
                    record(0);
                    return client.set_zero_linger();
                };
                record(status);
                match fault {
                    Some(Fault::LoseAnswer) => return client.set_zero_linger(),
                    Some(Fault::Truncate) => {
                        let half = head + (answer.len() - head) / 2;
                        return client.write_all(&answer[..half]).await;
                    }
                    Some(Fault::Slow) => {
                        for byte in answer {
                            client.write_all(&[byte]).await?;
                            tokio::time::sleep(Duration::from_secs(1)).await;
                        }
                        return Ok(());
                    }
                    Some(Fault::BadJson) => {
                        let body = b"<html>502 Bad Gateway</html>";
                        let head = format!(
                            "HTTP/1.1 {status} OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                            body.len()
                        );
                        client.write_all(head.as_bytes()).await?;
                        client.write_all(body).await?;
                    }
                    _ => {
                        // The connection to the client stays, as the server's own would.
                        let text = String::from_utf8_lossy(&answer[..head]).into_owned();
                        let kept: String = text
                            .split_inclusive("\r\n")
                            .filter(|line| !line.to_ascii_lowercase().starts_with("connection:"))
                            .collect();
                        client.write_all(kept.as_bytes()).await?;
                        client.write_all(&answer[head..]).await?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Status and length of the head of an answer.
fn read_answer_head(answer: &[u8]) -> Option<(u16, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Response::new(&mut headers);
    match parsed.parse(answer).ok()? {
        httparse::Status::Complete(head) => Some((parsed.code?, head)),
        httparse::Status::Partial => None,
    }
}

async fn pass_websocket(mut client: TcpStream, request: &Request, shared: &Shared) -> io::Result<()> {
    let mut drops = shared.websocket_drops.subscribe();
    let mut upstream = TcpStream::connect(shared.upstream).await?;
    upstream.write_all(&request.to_bytes(shared.upstream, true)).await?;
    shared.change(|state| state.websockets += 1);
    let ended = tokio::select! {
        copied = tokio::io::copy_bidirectional(&mut client, &mut upstream) => copied.map(|_| ()),
        _ = drops.changed() => client.set_zero_linger(),
    };
    shared.change(|state| state.websockets -= 1);
    ended
}

/// The JSON of a request's body.
pub fn body_of(exchange: &Exchange) -> Value {
    serde_json::from_str(&exchange.body).unwrap_or(Value::Null)
}
