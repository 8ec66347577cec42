//! Prefect's control channel, version 1: the engine connects to it, and what it is told before a SIGTERM says that the
//! signal means "cancelled" rather than "crashed". An engine that does not listen is signalled all the same.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use uuid::Uuid;

/// How long an engine may take to say its token, and later to acknowledge what it is told.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(1);

/// The worker's end of the channel of one run.
#[derive(Debug)]
pub(super) struct ControlChannel {
    port: u16,
    token: Uuid,
    /// Ends with the connection of the engine.
    engine: JoinHandle<Option<TcpStream>>,
}

impl ControlChannel {
    /// Listens for the engine.
    pub(super) async fn open() -> Option<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.ok()?;
        let port = listener.local_addr().ok()?.port();
        let token = Uuid::new_v4();
        let engine = tokio::spawn(connected(listener, token));
        Some(Self { port, token, engine })
    }

    /// By what the engine finds it.
    pub(super) fn environment(&self) -> [(&'static str, String); 2] {
        [
            ("PREFECT__CONTROL_PORT", self.port.to_string()),
            ("PREFECT__CONTROL_TOKEN", self.token.to_string()),
        ]
    }

    /// Tells the engine that it is to be cancelled; returns once it has acknowledged, or has had its time.
    pub(super) async fn announce_cancellation(mut self) {
        let told = async {
            let Ok(Some(mut engine)) = (&mut self.engine).await else {
                return;
            };
            if engine.write_all(b"c").await.is_err() {
                return;
            }
            // Before its acknowledgement comes the hello of version 2, in which that byte does not occur.
            while let Ok(byte) = engine.read_u8().await {
                if byte == b'a' {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(CONTROL_TIMEOUT, told).await;
    }
}

impl Drop for ControlChannel {
    fn drop(&mut self) {
        self.engine.abort();
    }
}

async fn connected(listener: TcpListener, token: Uuid) -> Option<TcpStream> {
    loop {
        let (mut stream, _) = listener.accept().await.ok()?;
        // Anyone on this machine can connect; the engine alone knows the token.
        let greeting = tokio::time::timeout(CONTROL_TIMEOUT, is_greeted(&mut stream, token)).await;
        if matches!(greeting, Ok(Ok(true))) {
            return Some(stream);
        }
    }
}

/// Whether the first line of a connection is the token.
async fn is_greeted(stream: &mut TcpStream, token: Uuid) -> std::io::Result<bool> {
    let expected = format!("{token}\n");
    let mut line = vec![0; expected.len()];
    stream.read_exact(&mut line).await?;
    Ok(line == expected.as_bytes())
}
