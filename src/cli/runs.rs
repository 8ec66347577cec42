//! `captionacc runs`: the flow runs there are, and what may be done with one.

use std::fmt::Write;
use std::io;
use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::away::known_here;
use super::exit;
use super::failure::Failure;
use super::output::{duration, json_line, plain, print, table, time};
use super::run_table::{progress_text, run_table, took};
use super::runtime::with_orchestrator;
use crate::domain::error::OrchestratorError;
use crate::domain::flow_run::{EventCursor, FlowRun, FlowRunDetails, FlowRunEvent, LogLine};
use crate::domain::id::FlowRunId;
use crate::domain::state::StateType;
use crate::orchestrator::following::{Place, next_events};
use crate::orchestrator::queue::{FlowRunFilter, Queue};
use crate::settings::Settings;

/// What `captionacc runs --help` ends with.
pub(super) const EXAMPLES: &str = "\
Examples:
  captionacc runs
  captionacc runs list --state running,failed --video v1
  captionacc runs show 01994c5e-7b1c-7c3e-8d5f-2a4b6c8d0e1f
  captionacc runs logs 01994c5e-7b1c-7c3e-8d5f-2a4b6c8d0e1f --follow
  captionacc runs take-over 01994c5e-7b1c-7c3e-8d5f-2a4b6c8d0e1f   # its machine is lost
  captionacc runs --json | jq -r 'select(.state.type == \"FAILED\") | .flowRunId' | xargs -n 1 captionacc runs retry";

/// Options of `captionacc runs`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Options {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    list: ListOptions,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List flow runs, newest first
    List(ListOptions),
    /// Show a flow run with its states, task runs and artifacts
    Show(RunOptions),
    /// Print the log of a flow run
    Logs(LogOptions),
    /// Cancel a flow run: one that waits at once, a running one as soon as it has stopped
    Cancel(RunOptions),
    /// Give a flow run whose worker is offline to another worker at once
    TakeOver(TakeOverOptions),
    /// Queue a failed, crashed or cancelled flow run again; one that waits for its retry becomes due
    Retry(RunOptions),
}

#[derive(Debug, Args)]
struct ListOptions {
    /// Only runs of this flow
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    flow: Option<String>,
    /// Only runs for the video of this id
    #[arg(long, value_name = "VIDEO_ID", allow_hyphen_values = true, value_parser = NonEmptyStringValueParser::new())]
    video: Option<String>,
    /// Only runs in one of these states
    #[arg(long, value_delimiter = ',', ignore_case = true)]
    state: Vec<StateWord>,
    /// At most so many runs
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct RunOptions {
    /// Id of the flow run
    #[arg(value_name = "FLOW_RUN_ID", value_parser = parse_id)]
    id: FlowRunId,
    /// One line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct TakeOverOptions {
    #[command(flatten)]
    run: RunOptions,
    /// Also if its worker was heard a moment ago: it stops once it hears of it
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct LogOptions {
    #[command(flatten)]
    run: RunOptions,
    /// Go on until the flow run has ended
    #[arg(long, short)]
    follow: bool,
}

/// A state type as an option's value.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum StateWord {
    Scheduled,
    Pending,
    Running,
    Cancelling,
    Cancelled,
    Completed,
    Failed,
    Crashed,
}

impl From<StateWord> for StateType {
    fn from(word: StateWord) -> Self {
        match word {
            StateWord::Scheduled => Self::Scheduled,
            StateWord::Pending => Self::Pending,
            StateWord::Running => Self::Running,
            StateWord::Cancelling => Self::Cancelling,
            StateWord::Cancelled => Self::Cancelled,
            StateWord::Completed => Self::Completed,
            StateWord::Failed => Self::Failed,
            StateWord::Crashed => Self::Crashed,
        }
    }
}

fn parse_id(text: &str) -> Result<FlowRunId, String> {
    text.parse()
        .map_err(|_| "not a flow run id: give the UUID that the queue call returned".to_owned())
}

/// Does what was asked with the runs.
pub(super) fn perform(options: Options) -> Result<ExitCode, Failure> {
    let settings = Settings::from_environment()?;
    let action = options.action.unwrap_or(Action::List(options.list));
    with_orchestrator(&settings, async |orchestrator| {
        let orchestrator = orchestrator.as_ref();
        match action {
            Action::List(options) => list(orchestrator, &settings, options).await,
            Action::Show(options) => show(orchestrator, &options).await,
            Action::Logs(options) => logs(orchestrator, &options).await,
            Action::Cancel(options) => Ok(said(&orchestrator.cancel_flow_run(options.id).await?, options.json)?),
            Action::TakeOver(TakeOverOptions { run, force }) => {
                Ok(said(&orchestrator.take_over_flow_run(run.id, force).await?, run.json)?)
            }
            Action::Retry(options) => Ok(said(&orchestrator.retry_flow_run(options.id).await?, options.json)?),
        }
    })?;
    Ok(exit::DONE)
}

async fn list(orchestrator: &dyn Queue, settings: &Settings, options: ListOptions) -> Result<(), Failure> {
    // Runs of a flow that is no longer declared are kept: only a name without any run is a mistake.
    let flow = options.flow.clone();
    let filter = FlowRunFilter {
        flow_name: options.flow,
        video_id: options.video,
        state_types: options.state.into_iter().map(StateType::from).collect(),
        limit: options.limit,
        before: None,
    };
    let runs = match orchestrator.list_flow_runs(filter).await {
        Ok(runs) => runs,
        // A program reads the error alone.
        Err(error) if options.json => return Err(error.into()),
        Err(error) => return Err(known_here(orchestrator, error.into()).await),
    };
    if let (Some(flow), true) = (flow, runs.is_empty()) {
        settings.flows.get(&flow)?;
    }
    if options.json {
        return Ok(print(&runs.iter().map(json_line).collect::<String>())?);
    }
    if runs.is_empty() {
        return Ok(print("No flow runs.\n")?);
    }
    Ok(print(&run_table(&runs))?)
}

async fn show(orchestrator: &dyn Queue, options: &RunOptions) -> Result<(), Failure> {
    let details = orchestrator.read_flow_run_details(options.id).await?;
    if options.json {
        print(&json_line(&details))?;
    } else {
        print(&details_text(&details))?;
    }
    Ok(())
}

fn details_text(details: &FlowRunDetails) -> String {
    let run = &details.flow_run;
    let mut text = String::new();
    let mut field = |name: &str, value: &str| {
        writeln!(text, "{name:<14}{}", plain(value)).expect("writing to a String cannot fail");
    };
    field("flow run", &run.flow_run_id.to_string());
    field("deployment", &run.deployment);
    field("work queue", run.priority.as_str());
    field("state", run.state.name.as_str());
    if let Some(message) = &run.state.message {
        field("message", message);
    }
    field("attempt", &format!("{} ({} failed)", run.attempt, run.failed_attempts));
    if let Some(progress) = progress_text(run) {
        field("progress", &progress);
    }
    if let Some(superseded_by) = run.superseded_by {
        field("superseded by", &superseded_by.to_string());
    }
    if let Some(worker_name) = &run.worker_name {
        field("worker", worker_name);
    }
    if let Some(pid) = run.pid {
        field("pid", &pid.to_string());
    }
    field("queued", &time(run.created_at));
    if !run.state.state_type.is_final() && run.started_at.is_none() {
        field("scheduled", &time(run.scheduled_at));
    }
    if let Some(started_at) = run.started_at {
        field("started", &time(started_at));
    }
    if let Some(ended_at) = run.ended_at {
        field("ended", &time(ended_at));
    }
    if let Some(took) = took(run) {
        field("took", &took);
    }
    for (name, value) in &run.parameters.0 {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        field("parameter", &format!("{name} = {value}"));
    }
    let mut section = |title: &str, rows: String| {
        write!(text, "\n{title}\n{rows}").expect("writing to a String cannot fail");
    };
    section(
        "States",
        table(
            ["AT", "STATE", "MESSAGE"],
            details.states.iter().map(|state| {
                let message = state.message.clone().unwrap_or_default();
                [time(state.timestamp), state.name.as_str().to_owned(), message]
            }),
        ),
    );
    if !details.task_runs.is_empty() {
        section(
            "Task runs",
            table(
                ["ATTEMPT", "TASK", "STATE", "TRIES", "TOOK", "MESSAGE"],
                details.task_runs.iter().map(|task_run| {
                    [
                        task_run.attempt.to_string(),
                        task_run.name.clone(),
                        task_run.state.name.as_str().to_owned(),
                        task_run.run_count.to_string(),
                        duration(task_run.started_at, task_run.ended_at.unwrap_or_else(Timestamp::now)),
                        task_run.state.message.clone().unwrap_or_default(),
                    ]
                }),
            ),
        );
    }
    if !details.artifacts.is_empty() {
        section(
            "Artifacts (their data: --json)",
            table(
                ["KEY", "TYPE", "DESCRIPTION"],
                details.artifacts.iter().map(|artifact| {
                    [
                        artifact.key.clone(),
                        artifact.artifact_type.as_str().to_owned(),
                        artifact.description.clone().unwrap_or_default(),
                    ]
                }),
            ),
        );
    }
    text
}

async fn logs(orchestrator: &dyn Queue, options: &LogOptions) -> Result<(), Failure> {
    let LogOptions {
        run: RunOptions { id, json },
        follow,
    } = *options;
    if follow {
        return follow_logs(orchestrator, id, json).await;
    }
    let mut cursor = 0;
    loop {
        let (lines, next) = orchestrator.read_logs(id, cursor).await?;
        if lines.is_empty() {
            return Ok(());
        }
        print(&lines.iter().map(|line| line_text(line, json)).collect::<String>())?;
        cursor = next;
    }
}

async fn follow_logs(orchestrator: &dyn Queue, id: FlowRunId, json: bool) -> Result<(), Failure> {
    // Ours from the start: whoever has seen a line of it may interrupt at once.
    let mut interrupt = signal(SignalKind::interrupt())
        .map_err(|error| OrchestratorError::Internal(format!("signals can not be received: {error}")))?;
    let mut place = Place {
        cursor: EventCursor {
            without_progress: true,
            ..EventCursor::default()
        },
        counter: None,
    };
    loop {
        let reading = tokio::select! {
            // Whoever follows has seen enough.
            _ = interrupt.recv() => return Ok(()),
            reading = next_events(orchestrator, id, place) => reading?,
        };
        let lines = reading.events.iter().filter_map(|event| match event {
            FlowRunEvent::Log { log } => Some(line_text(log, json)),
            _ => None,
        });
        print(&lines.collect::<String>())?;
        if reading.done {
            return Ok(());
        }
        place = reading.place;
    }
}

fn line_text(line: &LogLine, json: bool) -> String {
    if json {
        return json_line(line);
    }
    format!(
        "{:.3} {:<7} {}\n",
        line.timestamp,
        line.level.as_str(),
        plain(&line.message)
    )
}

/// What has become of the run.
fn said(run: &FlowRun, json: bool) -> io::Result<()> {
    if json {
        return print(&json_line(&json!({ "flowRunId": run.flow_run_id, "state": run.state })));
    }
    print(&format!(
        "Flow run {} is {}.\n",
        run.flow_run_id,
        run.state.name.as_str()
    ))
}
