//! What a command that did not do its work says: one line of JSON on stderr, and the exit code.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use serde_json::{Map, Value, json};

use super::exit;
use super::image::ImageError;
use super::output::{plain, print};
use crate::domain::error::OrchestratorError;
use crate::ocr::OcrError;

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The orchestrator, or the settings, refused.
    #[error(transparent)]
    Orchestrator(#[from] OrchestratorError),
    /// Text recognition failed.
    #[error(transparent)]
    Ocr(#[from] OcrError),
    /// The picture that it was to read cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Whoever read stdout has gone: nothing to say, and no fault.
    #[error("stdout is closed")]
    OutputClosed,
    /// `ERR_CAPTIONACC_OUTPUT`: stdout could not be written.
    #[error("stdout cannot be written: {0}")]
    Output(#[source] std::io::Error),
}

impl From<std::io::Error> for Failure {
    /// Of writing to stdout, the only I/O that commands do themselves.
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Output(error),
        }
    }
}

impl Failure {
    /// An argument that is missing, unknown or not of its form.
    pub(super) fn argument(argument: impl Into<String>, problem: impl Into<String>) -> Self {
        OrchestratorError::InvalidArgument {
            argument: argument.into(),
            problem: problem.into(),
        }
        .into()
    }

    /// What the parser of the command line found wrong, as the error that any wrong argument is.
    pub(super) fn of_parser(error: &clap::Error) -> Self {
        let argument = [ContextKind::InvalidArg, ContextKind::InvalidSubcommand]
            .into_iter()
            .find_map(|kind| context(error, kind))
            .unwrap_or_default();
        // `--frame-rate <FRAME_RATE>` and `--frame-rate` are both the argument frame-rate.
        let name = argument
            .split([' ', '=', ','])
            .next()
            .unwrap_or_default()
            .trim_start_matches("--")
            .trim_matches(['<', '>']);
        match error.kind() {
            ErrorKind::MissingSubcommand => Self::argument("command", "missing: --help lists the commands"),
            _ if name.is_empty() => Self::argument("command line", sentence(error)),
            _ => Self::argument(name, sentence(error)),
        }
    }

    /// Says it on stderr (JSON; for a person at a terminal, in words) and gives the exit code.
    pub(super) fn report(&self) -> ExitCode {
        if matches!(self, Self::OutputClosed) {
            return exit::DONE;
        }
        let fields = self.fields();
        let mut stderr = std::io::stderr();
        let text = if stderr.is_terminal() {
            let word = |name: &str| fields[name].as_str().map(plain).unwrap_or_default();
            format!("error: {}\n  code: {}\n", word("message"), word("code"))
        } else {
            format!("{}\n", json!({ "error": fields }))
        };
        // A closed stderr is no reason to end otherwise.
        let _ = stderr.write_all(text.as_bytes());
        exit::FAILED
    }

    /// `code`, `message`, `retryable`; further fields name what is at fault.
    fn fields(&self) -> Map<String, Value> {
        let (code, message, retryable) = match self {
            Self::Orchestrator(error) => (error.code(), error.to_line(), error.retryable()),
            Self::Ocr(error) => (error.code(), error.to_string(), false),
            Self::Image(error) => (error.code(), error.to_string(), false),
            Self::OutputClosed | Self::Output(_) => ("ERR_CAPTIONACC_OUTPUT", self.to_string(), false),
        };
        let mut fields = Map::new();
        let mut field = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        field("code", json!(code));
        field("message", json!(message));
        field("retryable", json!(retryable));
        match self {
            Self::Orchestrator(OrchestratorError::InvalidArgument { argument, .. }) => {
                field("argument", json!(argument));
            }
            Self::Orchestrator(OrchestratorError::UnknownFlow { name, .. }) => {
                field("flow", json!(name));
            }
            Self::Orchestrator(OrchestratorError::FlowRunNotFound(id)) => {
                field("flowRunId", json!(id));
            }
            Self::Orchestrator(OrchestratorError::InvalidState { flow_run_id, state, .. }) => {
                field("flowRunId", json!(flow_run_id));
                field("state", json!(state));
            }
            _ => {}
        }
        fields
    }
}

/// Help and version are what was asked for; anything else is a wrong argument. Without any command, `command`'s help
/// comes first, for the person who has yet to learn them.
pub(super) fn not_parsed(error: &clap::Error, command: &mut clap::Command) -> Result<ExitCode, Failure> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            print(&error.render().to_string())?;
            Ok(exit::DONE)
        }
        ErrorKind::MissingSubcommand => {
            print(&command.render_help().to_string())?;
            Err(Failure::of_parser(error))
        }
        _ => Err(Failure::of_parser(error)),
    }
}

/// What the parser names as `kind`, if it names one thing.
pub(super) fn context(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => texts.first().cloned(),
        _ => None,
    }
}

/// The parser's message without its decoration and usage: what is wrong, then its tips, in one line.
fn sentence(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let told = text.split("\n\nUsage:").next().unwrap_or(&text);
    let told = told.split("\n\nFor more information").next().unwrap_or(told);
    let lines: Vec<&str> = told.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines
        .join("; ")
        .replace(":; ", ": ")
        .trim_start_matches("error: ")
        .to_owned()
}
