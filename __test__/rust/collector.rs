//! A collector of OpenTelemetry: takes spans over HTTP and reads them with OpenTelemetry's own types.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

/// Nothing in a test takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_mins(2);

/// Listens until the test's process ends.
pub struct Collector {
    port: u16,
    shared: Arc<(Mutex<Taken>, Condvar)>,
}

#[derive(Default)]
struct Taken {
    connections: usize,
    calls: Vec<Call>,
}

/// A call that came.
#[derive(Debug, Clone)]
pub struct Call {
    /// Request line and headers, in small letters.
    pub head: String,
    /// What it brought.
    pub request: ExportTraceServiceRequest,
}

/// What it does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Takes it.
    Takes,
    /// Never answers.
    Hangs,
}

impl Collector {
    pub fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let shared: Arc<(Mutex<Taken>, Condvar)> = Arc::default();
        let taken = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                taken.0.lock().expect("whole").connections += 1;
                taken.1.notify_all();
                let taken = taken.clone();
                std::thread::spawn(move || serve(stream, manner, &taken));
            }
        });
        Self { port, shared }
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn connections(&self) -> usize {
        self.shared.0.lock().expect("whole").connections
    }

    pub fn calls(&self) -> Vec<Call> {
        self.shared.0.lock().expect("whole").calls.clone()
    }

    /// Returns the spans once they are as they are waited for.
    pub fn wait_for(&self, what: &str, condition: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let (taken, news) = &*self.shared;
        let mut guard = taken.lock().expect("whole");
        loop {
            let spans = spans_of(&guard.calls);
            if condition(&spans) {
                return spans;
            }
            let (next, waited) = news.wait_timeout(guard, PATIENCE).expect("whole");
            assert!(!waited.timed_out(), "waited in vain until {what}: {spans:#?}");
            guard = next;
        }
    }

    /// Returns once somebody has connected.
    pub fn wait_for_a_connection(&self) {
        let (taken, news) = &*self.shared;
        let guard = taken.lock().expect("whole");
        let waiting = news.wait_timeout_while(guard, PATIENCE, |taken| taken.connections == 0);
        assert!(!waiting.expect("whole").1.timed_out(), "nobody came");
    }
}

fn spans_of(calls: &[Call]) -> Vec<Span> {
    let resources = calls.iter().flat_map(|call| &call.request.resource_spans);
    let scopes = resources.flat_map(|resource| &resource.scope_spans);
    scopes.flat_map(|scope| scope.spans.clone()).collect()
}

fn serve(stream: TcpStream, manner: Manner, taken: &(Mutex<Taken>, Condvar)) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let head = head.to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.expect("a length").trim().parse().expect("a number")];
        reader.read_exact(&mut body).expect("the whole body");
        let is_json = head.contains("content-type: application/json");
        assert!(
            is_json || head.contains("content-type: application/x-protobuf"),
            "{head}"
        );
        let request = if is_json {
            serde_json::from_slice(&body).expect("OTLP's JSON")
        } else {
            ExportTraceServiceRequest::decode(body.as_slice()).expect("OTLP")
        };
        taken.0.lock().expect("whole").calls.push(Call { head, request });
        taken.1.notify_all();
        if manner == Manner::Hangs {
            // Until the other side has had enough.
            let _ = reader.read(&mut [0]);
            return;
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{}";
        if reader.get_mut().write_all(answer).is_err() {
            return;
        }
    }
}

/// The one span of that name.
pub fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found: Vec<&Span> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "spans named {name}: {spans:#?}");
    found[0]
}

/// What is said of it, as a text.
pub fn said(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    Some(match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(is_so) => is_so.to_string(),
        other => format!("{other:?}"),
    })
}

/// The span as its children know it.
pub fn traceparent(span: &Span) -> String {
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0_u128, |number, byte| number << 8 | u128::from(*byte))
    };
    format!("00-{:032x}-{:016x}-01", number(&span.trace_id), number(&span.span_id))
}
