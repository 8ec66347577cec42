//! `captionacc doctor`: looks at all that this installation needs, and says of each fault how to repair it.
//!
//! Each area looks at its own; here it is gathered and printed. It changes nothing: a queue that is not there yet is not made.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Args;
use serde::Serialize;

use super::exit;
use super::failure::Failure;
use super::output::{json_line, plain, print, table};
use super::runtime::block_on;
use crate::annotations::check::Answer;
use crate::domain::error::OrchestratorError;
use crate::domain::finding::{Findings, Level};
use crate::domain::flow_run::FlowRun;
use crate::domain::state::StateType;
use crate::orchestrator::check::queue_home;
use crate::orchestrator::local::check::check_home;
use crate::orchestrator::local::sqlite_version;
use crate::orchestrator::queue::FlowRunFilter;
use crate::process::check::Allowance;
use crate::process::machine::own_program;
use crate::settings::Settings;
use crate::settings::check::Listed;
use crate::worker::check::check_takeovers;
use crate::{annotations, dashboard, ocr, orchestrator, process, settings, video};

/// What `captionacc doctor --help` ends with.
pub(super) const EXAMPLES: &str = "\
It exits with 1 if there is an error; a warning is no error.

Examples:
  captionacc doctor
  captionacc doctor --videos /srv/videos
  captionacc doctor --json | jq -r '.findings[] | select(.level != \"ok\") | .fix'";

/// Options of `captionacc doctor`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// One line of JSON: {"level":…,"settings":[{"variable","key","value","from"}],"findings":[{"check","level","message","fix"}]}
    #[arg(long)]
    json: bool,
    /// Also tries whether the disk of this folder has the locks that annotations.db needs: once on each machine
    #[arg(long, value_name = "FOLDER")]
    videos: Option<PathBuf>,
    /// Asked by a process that holds a lock on this file: whether another one is kept out
    #[arg(long, hide = true, value_name = "FILE")]
    ask: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Report {
    /// The gravest of the findings.
    level: Level,
    version: &'static str,
    /// Every setting; none if one of them is wrong.
    settings: Vec<Listed>,
    findings: Findings,
}

/// Examines everything, reports, and ends with [`exit::FAILED`] if there is an error.
pub(super) fn perform(options: &Options) -> Result<ExitCode, Failure> {
    if let Some(trial) = &options.ask {
        let answer = annotations::check::ask(trial).map_err(|error| OrchestratorError::Internal(error.to_string()))?;
        print(&format!("{}\n", answer.to_word()))?;
        return Ok(exit::DONE);
    }
    let mut findings = Findings::default();
    let loaded = Settings::from_environment().and_then(|settings| Ok((settings, settings::check::list()?)));
    let listed = match loaded {
        Ok((settings, listed)) => {
            findings.extend(of_settings(&settings)?);
            listed
        }
        Err(error) => {
            findings.error(
                "configuration",
                error.to_line(),
                "correct that setting: nothing works without valid settings",
            );
            Vec::new()
        }
    };
    findings.extend(of_machine());
    if let Some(folder) = &options.videos {
        findings.extend(annotations::check::check(folder, &mut ask_another));
    }
    let report = Report {
        level: findings.gravest(),
        version: env!("CARGO_PKG_VERSION"),
        settings: listed,
        findings,
    };
    print(&if options.json {
        json_line(&report)
    } else {
        text(&report)
    })?;
    Ok(if report.level == Level::Error {
        exit::FAILED
    } else {
        exit::DONE
    })
}

/// What it finds of an installation with these settings.
pub(super) fn findings(settings: &Settings) -> Findings {
    let mut findings = of_settings(settings).unwrap_or_default();
    findings.extend(of_machine());
    findings
}

/// Everything that depends on the settings.
fn of_settings(settings: &Settings) -> Result<Findings, Failure> {
    let mut findings = settings::check::check(settings);
    findings.extend(check_home(&settings.home));
    findings.extend(block_on(async { Ok(orchestrator::check::check(settings).await) })?);
    findings.extend(block_on(async { Ok(check_takeovers(&cancelled(settings).await)) })?);
    findings.extend(settings::check::check_flows(settings));
    findings.extend(dashboard::check::check(&settings.home, dashboard::DEFAULT_ADDRESS));
    findings.extend(ocr::check(settings.ocr_models.as_deref()));
    findings.extend(process::check::check(
        &settings.home,
        Allowance {
            child_memory_mb: settings.child_memory_mb,
            stall_timeout_ms: settings.stall_timeout_ms,
            grace_ms: settings.grace_ms,
        },
    ));
    Ok(findings)
}

/// This program once more, as another process that is to be kept out.
fn ask_another(trial: &Path) -> Result<Answer, String> {
    let said = |error: std::io::Error| format!("another process cannot be started: {error}");
    let mut command = Command::new(own_program().map_err(said)?);
    command.args(["doctor", "--ask"]).arg(trial);
    let output = command.output().map_err(said)?;
    Answer::parse(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| {
        format!(
            "another process says: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )
    })
}

/// The newest runs that were cancelled. A queue that is not there yet is not made; one that cannot be read has been named.
async fn cancelled(settings: &Settings) -> Vec<FlowRun> {
    if !queue_home(settings).join("queue.db").exists() {
        return Vec::new();
    }
    let filter = FlowRunFilter {
        state_types: vec![StateType::Cancelled],
        limit: 100,
        ..FlowRunFilter::default()
    };
    match orchestrator::open::queue(settings).await {
        Ok(queue) => queue.list_flow_runs(filter).await.unwrap_or_default(),
        Err(_) => Vec::new(),
    }
}

/// Everything that the program and its system bring along, whatever is set.
fn of_machine() -> Findings {
    let mut findings = video::check_libraries();
    findings.ok("sqlite", format!("SQLite {}, linked in", sqlite_version()));
    findings
}

fn text(report: &Report) -> String {
    const WRITES: &str = "writing to a String cannot fail";
    let mut text = format!("captionacc {}\n", report.version);
    for finding in report.findings.iter() {
        let word = finding.level.as_str();
        let message = plain(&finding.message);
        writeln!(text, "{word:<8} {:<14} {message}", finding.check).expect(WRITES);
        if let Some(fix) = &finding.fix {
            writeln!(text, "{:<23} fix: {}", "", plain(fix)).expect(WRITES);
        }
    }
    let set = report.settings.iter().filter_map(|listed| {
        let value = listed.value.clone()?;
        Some([
            listed.variable.to_owned(),
            value,
            listed.from.clone().unwrap_or_default(),
        ])
    });
    if !report.settings.is_empty() {
        write!(text, "\n{}", table(["SETTING", "VALUE", "FROM"], set)).expect(WRITES);
    }
    text
}
