//! The test bed itself: what the other tests rely on.

use std::net::TcpStream;

use serde_json::json;

use super::judge::Judge;
use super::proxy::{CloudStandIn, Fault, Plan, Proxy};
use super::server::{Postgres, Server};

fn get(api_url: &str, path: &str) -> std::io::Result<String> {
    use std::io::{Read, Write};
    let rest = api_url.trim_start_matches("http://");
    let (address, prefix) = rest.split_at(rest.find('/').expect("a path"));
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "GET {prefix}{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn the_proxy_passes_on_what_no_plan_speaks_of_and_plays_what_one_does() {
    let server = Server::shared();
    let proxy = Proxy::to(server.address());
    let url = proxy.api_url();
    assert!(get(&url, "/health").expect("passed on").ends_with("true"));
    proxy.plan(Plan::on("GET", "/health", Fault::status(503)).times(1));
    assert!(get(&url, "/health").expect("answered").starts_with("HTTP/1.1 503"));
    assert!(get(&url, "/health").expect("passed on").starts_with("HTTP/1.1 200"));
    for fault in [Fault::Reset, Fault::LoseAnswer] {
        proxy.plan(Plan::on("GET", "/health", fault).times(1));
        get(&url, "/health").expect_err("reset");
    }
    proxy.plan(Plan::on("GET", "/health", Fault::Truncate).times(1));
    assert!(!get(&url, "/health").expect("half").ends_with("true"));
    proxy.plan(Plan::on("GET", "/health", Fault::BadJson).times(1));
    assert!(get(&url, "/health").expect("answered").ends_with("</html>"));
    proxy.refuse();
    get(&url, "/health").expect_err("refused");
    proxy.accept();
    assert!(get(&url, "/health").expect("passed on").ends_with("true"));
    assert_eq!(proxy.exchanges().len(), 8);
}

#[test]
fn the_stand_in_for_cloud_wants_a_key() {
    let server = Server::shared();
    let proxy = Proxy::cloud(server.address(), CloudStandIn::free());
    assert!(
        get(&proxy.base_url(), "/me/workspaces")
            .expect("answered")
            .starts_with("HTTP/1.1 401")
    );
}

#[test]
fn the_judge_reads_a_real_server() {
    let server = Server::shared();
    let mut judge = Judge::start(server.api_url());
    let version = judge.ask("request", json!({"method": "GET", "path": "/admin/version"}));
    assert!(version.as_str().expect("text").starts_with("3."), "{version}");
}

#[test]
fn a_server_runs_on_postgresql() {
    let Some(postgres) = Postgres::start() else {
        eprintln!("skipped: PostgreSQL is not installed");
        return;
    };
    let url = postgres.connection_url();
    let server = Server::start(&[("PREFECT_SERVER_DATABASE_CONNECTION_URL", &url)]);
    let mut judge = Judge::start(server.api_url());
    let flow = judge.ask(
        "request",
        json!({"method": "POST", "path": "/flows/", "body": {"name": "test-bed"}}),
    );
    assert_eq!(flow["name"], "test-bed");
}

#[test]
fn websockets_are_dropped_on_order() {
    use std::io::{Read, Write};
    let server = Server::shared();
    let proxy = Proxy::to(server.address());
    let address = proxy.base_url().replace("http://", "").replace("/api", "");
    let mut stream = TcpStream::connect(address).expect("it listens");
    let head = "GET /api/events/out HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                sec-websocket-protocol: prefect\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("written");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("answered");
    assert_eq!(&answer, b"HTTP/1.1 101");
    proxy.wait_for_websockets(1);
    proxy.drop_websockets();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect_err("reset");
}

#[test]
fn a_plan_can_wait_for_its_turn_and_look_into_the_body() {
    let server = Server::shared();
    let proxy = Proxy::to(server.address());
    proxy.plan(Plan::on("GET", "/health", Fault::status(502)).after(1).times(1));
    proxy.plan(Plan::on("GET", "/health", Fault::Reset).with_body("nobody sends this"));
    for _ in 0..3 {
        get(&proxy.api_url(), "/health").expect("answered");
    }
    proxy.wait_for("three requests came", |exchanges| exchanges.len() == 3);
    let exchanges = proxy.exchanges();
    let statuses: Vec<u16> = exchanges.iter().map(|exchange| exchange.status).collect();
    assert_eq!(statuses, [200, 502, 200]);
    assert!(exchanges.iter().all(|exchange| exchange.method == "GET"));
}
