//! The command line: one file a command, each with its options, its examples and `perform`.
//!
//! Every command ends with an exit code of [`exit`]. What it found goes to stdout; why it failed goes to stderr as one
//! line of JSON, wrong arguments included, so that a program that spawns it never has to guess. A new command is a
//! file, a variant of [`Command`] and its line in [`Command::perform`].

mod deploy;
mod doctor;
mod execute;
mod exit;
mod failure;
mod lineage;
mod output;
mod pool;
mod queue;
mod runs;
mod service;
mod setup;
mod toml_file;
mod version;
mod worker;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

use crate::domain::error::OrchestratorError;
use crate::orchestrator;
use crate::orchestrator::queue::Queue;
use crate::settings::Settings;
use failure::Failure;

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
    /// List flow runs; show, follow, cancel or retry one
    #[command(after_help = runs::EXAMPLES)]
    Runs(runs::Options),
    /// Show, pause or resume the work pool
    #[command(after_help = pool::EXAMPLES)]
    Pool(pool::Options),
    /// Show assets, from what they were made, and what is stale
    #[command(after_help = lineage::EXAMPLES)]
    Lineage(lineage::Options),
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
            Self::Worker(options) => worker::perform(options),
            Self::Setup(options) => setup::perform(&options),
            Self::Deploy(options) => deploy::perform(&options),
            Self::Execute(options) => execute::perform(&options),
            Self::Doctor(options) => doctor::perform(&options),
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
        return printed.unwrap_or_else(|failure| failure.report());
    }
    let outcome = match CommandLine::try_parse_from(arguments) {
        Ok(line) => line.command.perform(),
        Err(error) => not_parsed(&error, &mut CommandLine::command()),
    };
    outcome.unwrap_or_else(|failure| failure.report())
}

/// Help and version are what was asked for; anything else is a wrong argument. Without any command, `command`'s help
/// comes first, for the person who has yet to learn them.
fn not_parsed(error: &clap::Error, command: &mut clap::Command) -> Result<ExitCode, Failure> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            output::print(&error.render().to_string())?;
            Ok(exit::DONE)
        }
        ErrorKind::MissingSubcommand => {
            output::print(&command.render_help().to_string())?;
            Err(Failure::of_parser(error))
        }
        _ => Err(Failure::of_parser(error)),
    }
}

/// Against which paths of the command line are meant.
fn working_directory() -> Result<PathBuf, Failure> {
    Ok(std::env::current_dir().map_err(|error| OrchestratorError::Config {
        origin: "working directory".to_owned(),
        problem: format!("it cannot be read: {error}"),
    })?)
}

/// Runs `work` with the orchestrator that the settings choose.
fn with_orchestrator<T>(
    settings: &Settings,
    work: impl AsyncFnOnce(Arc<dyn Queue>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    block_on(async { work(orchestrator::open::queue(settings).await?).await })
}

fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| OrchestratorError::Internal(format!("the system gives no event loop: {error}")))?;
    runtime.block_on(work)
}
