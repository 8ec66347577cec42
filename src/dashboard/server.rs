//! The server's connections: bounded in number, in what they may send, and in how long they may take.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;
use tracing::debug;

use super::guard::{Guard, Verdict};

/// Where it listens unless told otherwise.
pub const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4210);
/// Connections at once; each open page holds one for its stream. More of them wait to be accepted.
const MAX_CONNECTIONS: usize = 512;
/// Longest that a request's head may take to come, and an idle connection may stay.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest that a change may take, its body's coming included.
const CHANGE_TIMEOUT: Duration = Duration::from_mins(1);
/// Longest that a client may let what was sent to it lie.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest head of a request.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Pause after the system refused to accept: it has no descriptors left, and will have.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` behind `guard` until it is dropped.
pub(super) async fn serve(listener: TcpListener, guard: Arc<Guard>, router: Router) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, Arc::clone(&guard), router.clone(), permit));
            }
            Err(error) => {
                debug!(%error, "A connection was not accepted.");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, guard: Arc<Guard>, router: Router, permit: OwnedSemaphorePermit) {
    // A small event goes out at once.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let answer = service_fn(move |request| {
        let (guard, router) = (Arc::clone(&guard), router.clone());
        async move { Ok::<_, Infallible>(answer(&guard, router, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(Box::pin(stream)), answer)
        .await;
    // Clients leave as they like.
    if let Err(error) = served {
        debug!(%error, "A connection ended early.");
    }
    drop(permit);
}

async fn answer(guard: &Guard, router: Router, request: Request<hyper::body::Incoming>) -> Response<Body> {
    let mut response = match guard.judge(&request) {
        Verdict::Answer(response) => response,
        Verdict::Pass => {
            let is_change = request.method() == Method::POST;
            let answering = TowerToHyperService::new(router).call(request.map(Body::new));
            let answered = if is_change {
                tokio::time::timeout(CHANGE_TIMEOUT, answering).await
            } else {
                Ok(answering.await)
            };
            match answered {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                Err(_) => {
                    let mut response = Response::new(Body::empty());
                    *response.status_mut() = StatusCode::REQUEST_TIMEOUT;
                    response
                }
            }
        }
    };
    Guard::seal(&mut response);
    response
}

/// Listens there.
pub(super) async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}
