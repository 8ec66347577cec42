//! The command line: one file a command, each with its options, its examples and `perform`.
//!
//! Every command ends with an exit code of [`exit`]. What it found goes to stdout; why it failed goes to stderr as one
//! line of JSON, wrong arguments included, so that a program that spawns it never has to guess. A new command is a
//! file, a variant of [`Command`] and its line in [`Command::perform`].

mod away;
mod dashboard;
mod deploy;
mod doctor;
mod execute;
mod exit;
mod failure;
mod image;
mod lineage;
mod ocr;
mod output;
mod pool;
mod queue;
mod run_table;
mod runs;
mod runtime;
mod service;
mod setup;
mod toml_file;
mod version;
mod worker;

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use failure::{Failure, not_parsed};

/// The name under which the worker starts its children.
const ATTEMPT: &str = "attempt";

const EXAMPLES: &str = "\
Examples:
  captionacc worker
  captionacc queue full-frames --video-id v1 --video-path v1.mp4 \\
    --db-path annotations.db --output-dir /tmp/v1
  captionacc runs
  captionacc doctor
  captionacc --version --verbose

Errors are one line of JSON on stderr, {\"error\":{\"code\",\"message\",\"retryable\"}}, with exit code 1.";

/// The CaptionA.cc orchestrator: queues caption flows and runs them
#[derive(Debug, Parser)]
#[command(name = "captionacc", version, after_help = EXAMPLES, arg_required_else_help = false)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Queue a flow run
    #[command(disable_help_flag = true, after_help = "captionacc queue --help lists the flows.")]
    Queue(queue::Options),
    /// List flow runs; show, follow, cancel, retry or take over one
    #[command(after_help = runs::EXAMPLES)]
    Runs(runs::Options),
    /// Show, pause or resume the work pool
    #[command(after_help = pool::EXAMPLES)]
    Pool(pool::Options),
    /// Show assets, from what they were made, and what is stale
    #[command(after_help = lineage::EXAMPLES)]
    Lineage(lineage::Options),
    /// Show runs, videos with their pictures and lineage in a browser
    #[command(after_help = dashboard::EXAMPLES)]
    Dashboard(dashboard::Options),
    /// Run flow runs until told to stop
    #[command(after_help = worker::EXAMPLES)]
    Worker(worker::Options),
    /// Choose the orchestrator (embedded, Prefect Cloud, a Prefect server) and make what it needs
    #[command(after_help = setup::EXAMPLES)]
    Setup(setup::Options),
    /// Register the flows with Prefect
    #[command(after_help = deploy::EXAMPLES)]
    Deploy(deploy::Options),
    /// Run the flow run that Prefect's own worker started this program for
    #[command(hide = true, after_help = execute::EXAMPLES)]
    Execute(execute::Options),
    /// Check this installation, and say how to repair it
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(doctor::Options),
    /// Print the text of a picture
    #[command(after_help = ocr::EXAMPLES)]
    Ocr(ocr::Options),
    /// Print a systemd unit for the worker
    #[command(after_help = service::EXAMPLES)]
    Service(service::Options),
}

impl Command {
    fn perform(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Queue(options) => queue::perform(options),
            Self::Runs(options) => runs::perform(options),
            Self::Pool(options) => pool::perform(&options),
            Self::Lineage(options) => lineage::perform(&options),
            Self::Dashboard(options) => dashboard::perform(options, doctor::findings),
            Self::Worker(options) => worker::perform(options, doctor::findings),
            Self::Setup(options) => setup::perform(&options),
            Self::Deploy(options) => deploy::perform(&options),
            Self::Execute(options) => execute::perform(&options),
            Self::Doctor(options) => doctor::perform(&options),
            Self::Ocr(options) => ocr::perform(&options),
            Self::Service(options) => service::perform(&options),
        }
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // A child starts once a run, and waits for nothing but its work order: no settings, no parser.
    if arguments.get(1).map(OsString::as_os_str) == Some(OsStr::new(ATTEMPT)) {
        return crate::engine::run_child(crate::pipeline::run);
    }
    if version::is_wanted(&arguments) {
        let printed = output::print(&version::text()).map(|()| exit::DONE);
        return printed.unwrap_or_else(|error| Failure::from(error).report());
    }
    let outcome = match CommandLine::try_parse_from(arguments) {
        Ok(line) => line.command.perform(),
        Err(error) => not_parsed(&error, &mut CommandLine::command()),
    };
    outcome.unwrap_or_else(|failure| failure.report())
}
