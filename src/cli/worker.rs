//! `captionacc worker`: runs flow runs until it is told to stop.

use std::process::ExitCode;

use clap::Args;

use super::failure::Failure;
use super::runtime::limit_parser;
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
}

/// What `captionacc worker --help` ends with.
pub(super) const EXAMPLES: &str = "\
Signals: the first SIGTERM or SIGINT lets running attempts finish within the grace, then gives them back to the
queue; a second one gives them back at once.

Examples:
  captionacc worker
  captionacc worker --limit 4 --json 2>> worker.log
  captionacc worker --once          # work off what waits, then end";

/// Runs the worker. Its log goes to stderr.
pub(super) fn perform(options: Options) -> Result<ExitCode, Failure> {
    let settings = Settings::from_environment()?;
    let options = WorkerOptions {
        limit: options.limit,
        json: options.json,
        name: options.name,
        once: options.once,
        grace_ms: options.grace_ms,
    };
    Ok(run(&options, settings))
}
