//! The command line: one file a command, each with its options and `perform`.
//!
//! Every command ends with an exit code of [`exit`]. What it found goes to stdout; why it failed goes to stderr as one
//! line of JSON, wrong arguments included, so that a program that spawns it never has to guess.

mod exit;
mod failure;
mod worker;

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::Failure;

/// The name under which the worker starts its children.
const ATTEMPT: &str = "attempt";

#[derive(Debug, Parser)]
#[command(name = "captionacc", version, about = "The CaptionA.cc orchestrator: queues caption flows and runs them.")]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run flow runs until told to stop
    #[command(after_help = worker::EXAMPLES)]
    Worker(worker::Options),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // A child starts once a run, and waits for nothing but its work order: no settings, no parser.
    if arguments.get(1).map(OsString::as_os_str) == Some(OsStr::new(ATTEMPT)) {
        return crate::engine::run_child();
    }
    let command = match CommandLine::try_parse_from(arguments) {
        Ok(line) => line.command,
        Err(error) => error.exit(),
    };
    perform(command).unwrap_or_else(|failure| failure.report())
}

fn perform(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Worker(options) => worker::perform(options),
    }
}
