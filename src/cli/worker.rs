//! `captionacc worker`: runs flow runs until it is told to stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;

use clap::Args;

use super::dashboard::read_token;
use super::failure::Failure;
use super::output::print;
use super::runtime::{block_on, limit_parser};
use crate::dashboard::{DEFAULT_ADDRESS, Dashboard, DashboardOptions};
use crate::domain::error::OrchestratorError;
use crate::domain::finding::Findings;
use crate::orchestrator;
use crate::settings::Settings;
use crate::settings::table::GRACE_MS;
use crate::worker::{WorkerOptions, run};

/// Options of `captionacc worker`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Most flow runs at once, for the whole pool (kept in the pool; default: what the pool has, 2 at first)
    #[arg(long, value_name = "COUNT", value_parser = limit_parser())]
    limit: Option<u32>,
    /// Log lines as JSON, one object a line
    #[arg(long)]
    json: bool,
    /// The worker's name (default: HOST-PID, in a container HOST-NAMESPACE-PID)
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    name: Option<String>,
    /// End once nothing waits and nothing runs
    #[arg(long)]
    once: bool,
    /// How long running attempts may go on after the first signal, in ms (default: 30000)
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(GRACE_MS.range()))]
    grace_ms: Option<u64>,
    /// Show the dashboard as well, there (default: 127.0.0.1:4210, or a free port if that is taken)
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "127.0.0.1:4210")]
    dashboard: Option<SocketAddr>,
    /// A file with the dashboard's token (default: a new token, which the log says)
    #[arg(long, value_name = "FILE", requires = "dashboard")]
    dashboard_token_file: Option<PathBuf>,
    /// A name under which the dashboard is known beside its address; may be given several times
    #[arg(long, value_name = "NAME", requires = "dashboard")]
    dashboard_allow_host: Vec<String>,
}

/// What `captionacc worker --help` ends with.
pub(super) const EXAMPLES: &str = "\
Signals: the first SIGTERM or SIGINT lets running attempts finish within the grace, then gives them back to the
queue; a second one gives them back at once.

Examples:
  captionacc worker
  captionacc worker --limit 4 --json 2>> worker.log
  captionacc worker --dashboard
  captionacc worker --once          # work off what waits, then end";

/// Runs the worker. Its log goes to stderr.
pub(super) fn perform(options: Options, examine: fn(&Settings) -> Findings) -> Result<ExitCode, Failure> {
    let settings = Settings::from_environment()?;
    if let Some(address) = options.dashboard {
        let wanted = DashboardOptions {
            address: (address != DEFAULT_ADDRESS).then_some(address),
            hosts: options.dashboard_allow_host,
            token: options.dashboard_token_file.as_deref().map(read_token).transpose()?,
            read_only: false,
        };
        show_beside(wanted, settings.clone(), examine)?;
    }
    let options = WorkerOptions {
        limit: options.limit,
        json: options.json,
        name: options.name,
        once: options.once,
        grace_ms: options.grace_ms,
    };
    Ok(run(&options, settings))
}

/// Serves the dashboard on a thread of its own, which ends with the process: the worker's thread waits for nobody. An address
/// that cannot be had is said before anything runs.
fn show_beside(
    wanted: DashboardOptions,
    settings: Settings,
    examine: fn(&Settings) -> Findings,
) -> Result<(), Failure> {
    let (said, hears) = mpsc::channel();
    thread::Builder::new()
        .name("dashboard".to_owned())
        .spawn(move || {
            block_on(async {
                let opened = async {
                    let queue = orchestrator::open::queue(&settings).await?;
                    let examined = settings.clone();
                    Dashboard::open(wanted, settings, queue, Box::new(move || examine(&examined))).await
                };
                match opened.await {
                    Ok(dashboard) => {
                        // Whoever waited for it has gone only if the process ends.
                        let _ = said.send(Ok(dashboard.address()));
                        dashboard.serve().await;
                    }
                    Err(error) => {
                        let _ = said.send(Err(error));
                    }
                }
                Ok(())
            })
        })
        .map_err(|error| OrchestratorError::Internal(format!("the system gives no thread: {error}")))?;
    let address = hears
        .recv()
        .map_err(|_| OrchestratorError::Internal("the dashboard's thread has ended".to_owned()))??;
    print(&format!("The dashboard is at {address}\n"))?;
    Ok(())
}
