//! `captionacc dashboard`: runs, videos with their pictures, and lineage in a browser.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::exit;
use super::failure::Failure;
use super::output::print;
use super::runtime::{LAST_SPAN_TIMEOUT, block_on};
use crate::dashboard::{Dashboard, DashboardOptions};
use crate::domain::error::OrchestratorError;
use crate::domain::finding::Findings;
use crate::orchestrator;
use crate::process::identity::ProcessIdentity;
use crate::process::tree::ancestors_up_to_npm;
use crate::settings::Settings;

/// What `captionacc dashboard --help` ends with.
pub(super) const EXAMPLES: &str = "\
It prints the address to open, with a token that is good until it ends. It answers on this machine alone; to reach it from
another one, forward the port (ssh -L 4210:127.0.0.1:4210 HOST), or let it listen there with a token of yours.

Examples:
  captionacc dashboard --open
  captionacc dashboard --read-only
  captionacc dashboard --listen 0.0.0.0:4210 --token-file token.txt --allow-host films.example.org
  captionacc worker --dashboard     # beside a worker, in its process
  curl -H \"Authorization: Bearer $(cat token.txt)\" http://127.0.0.1:4210/metrics";

/// How often it is looked whether npm, which passes no signal on, has gone.
const ANCESTORS_INTERVAL: Duration = Duration::from_secs(1);

/// Options of `captionacc dashboard`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Where to listen (default: 127.0.0.1:4210, or a free port if that is taken); port 0: a free one
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Open it in this user's browser
    #[arg(long)]
    open: bool,
    /// Nothing can be changed
    #[arg(long)]
    read_only: bool,
    /// A file with the token that a browser or a program needs (default: a new token)
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A name under which it is known beside its address; may be given several times
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
}

/// Runs the dashboard until it is told to stop.
pub(super) fn perform(options: Options, examine: fn(&Settings) -> Findings) -> Result<ExitCode, Failure> {
    let settings = Settings::from_environment()?;
    for warning in &settings.traces.warnings {
        eprintln!("captionacc: {warning}");
    }
    let wanted = DashboardOptions {
        address: options.listen,
        hosts: options.allow_host,
        token: options.token_file.as_deref().map(read_token).transpose()?,
        read_only: options.read_only,
    };
    block_on(async {
        // Whoever reads the address may stop it at once.
        let mut terminate = listen(SignalKind::terminate())?;
        let mut interrupt = listen(SignalKind::interrupt())?;
        let queue = orchestrator::open::queue(&settings).await?;
        let home = settings.home.clone();
        let examined = settings.clone();
        let dashboard = Dashboard::open(wanted, settings, queue, Box::new(move || examine(&examined))).await?;
        print(&format!(
            "The dashboard is at {}\nCtrl-C ends it.\n",
            dashboard.address()
        ))?;
        if options.open {
            open(&dashboard.address_with_token(), &home)?;
        }
        let tracer = dashboard.tracer();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = npm_has_gone() => {}
            () = dashboard.serve() => {}
        }
        tracer.flush(LAST_SPAN_TIMEOUT).await;
        Ok(exit::DONE)
    })
}

fn listen(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Failure> {
    Ok(signal(kind).map_err(|error| OrchestratorError::Internal(format!("signals can not be received: {error}")))?)
}

/// The token in a file: its first line.
pub(super) fn read_token(path: &Path) -> Result<String, Failure> {
    let text = fs::read_to_string(path).map_err(|error| OrchestratorError::Config {
        origin: path.display().to_string(),
        problem: format!("the token cannot be read: {error}"),
    })?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// Returns once an ancestor has gone, if npm started this; else never.
async fn npm_has_gone() {
    if std::env::var_os("npm_lifecycle_event").is_none() {
        return std::future::pending().await;
    }
    let ancestors = ancestors_up_to_npm();
    while ancestors.iter().all(ProcessIdentity::is_alive) {
        tokio::time::sleep(ANCESTORS_INTERVAL).await;
    }
}

/// Opens the address in a browser, by a file that leads to it: what a program is called with, every user of the machine sees.
fn open(address: &str, home: &Path) -> Result<(), Failure> {
    let page = home.join("dashboard.html");
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&page)
        .and_then(|mut file| {
            write!(
                file,
                "<!doctype html><meta charset=\"utf-8\"><title>CaptionA.cc</title><meta http-equiv=\"refresh\" content=\"0;url={address}\">"
            )
        });
    written.map_err(|error| OrchestratorError::Config {
        origin: page.display().to_string(),
        problem: format!("it cannot be written: {error}"),
    })?;
    let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let started = Command::new(opener)
        .arg(&page)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    // The address is printed: who has no browser here opens it elsewhere.
    if started.is_err() {
        print(&format!("No {opener} here: open the address in a browser.\n"))?;
    }
    Ok(())
}
