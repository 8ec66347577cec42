//! `captionacc pool`: the work pool, and whether runs are claimed from it.

use std::fmt::Write;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::away::known_here;
use super::exit;
use super::failure::Failure;
use super::output::{json_line, plain, print, table, time};
use super::runtime::with_orchestrator;
use crate::domain::error::OrchestratorError;
use crate::orchestrator::attention::Attention;
use crate::orchestrator::queue::{Queue, WorkPool};
use crate::settings::{OrchestratorChoice, Settings};

/// What `captionacc pool --help` ends with.
pub(super) const EXAMPLES: &str = "\
Examples:
  captionacc pool
  captionacc pool pause             # what runs goes on, nothing new starts
  captionacc pool resume
  captionacc worker --limit 4       # sets how many flow runs the pool runs at once";

/// Options of `captionacc pool`.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(subcommand)]
    action: Option<Action>,
    /// One line of JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the pool and its workers
    Show,
    /// Claim nothing until resumed; what runs goes on
    Pause,
    /// Claim again
    Resume,
}

/// Does what was asked with the pool, and shows it.
pub(super) fn perform(options: &Options) -> Result<ExitCode, Failure> {
    let settings = Settings::from_environment()?;
    let is_shared = settings.orchestrator == OrchestratorChoice::Prefect;
    let (orchestrator, pool, attention) = with_orchestrator(&settings, async |orchestrator| {
        let orchestrator = orchestrator.as_ref();
        match options.action {
            Some(Action::Pause) => orchestrator.set_paused(true).await?,
            Some(Action::Resume) => orchestrator.set_paused(false).await?,
            Some(Action::Show) | None => {}
        }
        match look(orchestrator).await {
            Ok((pool, attention)) => Ok((orchestrator.description(), pool, attention)),
            // A program reads the error alone.
            Err(error) if options.json => Err(error.into()),
            Err(error) => Err(known_here(orchestrator, error.into()).await),
        }
    })?;
    print(&if options.json {
        json_line(&Shown {
            orchestrator: &orchestrator,
            pool: &pool,
            attention: &attention,
        })
    } else {
        text(&pool, &orchestrator, is_shared) + &attention_text(&pool.name, &attention)
    })?;
    Ok(exit::DONE)
}

async fn look(orchestrator: &dyn Queue) -> Result<(WorkPool, Attention), OrchestratorError> {
    Ok((
        orchestrator.read_work_pool().await?,
        orchestrator.read_attention().await?,
    ))
}

/// What `--json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    /// Which it is, and where.
    orchestrator: &'a str,
    #[serde(flatten)]
    pool: &'a WorkPool,
    #[serde(flatten)]
    attention: &'a Attention,
}

/// What waits for a person, each with what to do about it.
fn attention_text(pool: &str, attention: &Attention) -> String {
    let stranded = attention.stranded.iter().map(|run| (run.line(), run.remedy()));
    let unserved = attention.unserved.iter().map(|flow| (flow.line(), flow.remedy()));
    let paused = attention.paused_queues.iter().map(|queue| {
        (
            format!("work queue {queue} is paused: its runs wait"),
            format!("prefect work-queue resume {queue} --pool {pool} goes on"),
        )
    });
    let mut text = String::new();
    for (line, remedy) in stranded.chain(unserved).chain(paused) {
        write!(text, "\n{}\n  {}\n", plain(&line), plain(&remedy)).expect("writing to a String cannot fail");
    }
    text
}

fn text(pool: &WorkPool, orchestrator: &str, is_shared: bool) -> String {
    let standing = if pool.is_paused {
        "paused (captionacc pool resume goes on)"
    } else {
        "ready"
    };
    let mut text = format!(
        "{}: {standing}, {} of {} slots taken, at most {} by background runs{}\nQueued at: {}\n\n",
        pool.name,
        pool.active,
        pool.concurrency_limit,
        pool.background_limit,
        // A server does not know of it: each home holds its own runs to it.
        if is_shared { " of this home" } else { "" },
        plain(orchestrator)
    );
    text.push_str(&table(
        ["WORK QUEUE", "WAITING"],
        pool.waiting
            .iter()
            .map(|(queue, count)| [queue.as_str().to_owned(), count.to_string()]),
    ));
    text.push('\n');
    if pool.workers.is_empty() {
        text.push_str("No worker: start one with captionacc worker\n");
        return text;
    }
    text.push_str(&table(
        ["WORKER", "PID", "VERSION", "STARTED", "ALIVE"],
        pool.workers.iter().map(|worker| {
            // Of one on another machine its process says nothing here; one of an earlier version does not tell which it is.
            let known = |text: String, is_known: bool| if is_known { text } else { "-".to_owned() };
            [
                worker.name.clone(),
                known(worker.process.pid.to_string(), worker.process.pid != 0),
                known(worker.version.clone(), !worker.version.is_empty()),
                time(worker.started_at),
                if worker.is_alive { "yes" } else { "no" }.to_owned(),
            ]
        }),
    ));
    text
}
