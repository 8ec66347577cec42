//! Flow runs as a table.

use jiff::Timestamp;

use super::output::{duration, table, time};
use crate::domain::flow_run::FlowRun;
use crate::domain::state::StateType;

/// A line for each run.
pub(super) fn run_table(runs: &[FlowRun]) -> String {
    let headings = [
        "FLOW RUN", "FLOW", "VIDEO", "STATE", "ATTEMPT", "PROGRESS", "QUEUED", "TOOK", "MESSAGE",
    ];
    table(headings, runs.iter().map(row))
}

fn row(run: &FlowRun) -> [String; 9] {
    [
        run.flow_run_id.to_string(),
        run.flow_name.clone(),
        run.video_id.clone().unwrap_or_else(|| "-".to_owned()),
        run.state.name.as_str().to_owned(),
        run.attempt.to_string(),
        progress_text(run).unwrap_or_else(|| "-".to_owned()),
        time(run.created_at),
        took(run).unwrap_or_else(|| "-".to_owned()),
        run.state.message.clone().unwrap_or_default(),
    ]
}

/// How far it is, or was when it ended early; nothing of a completed run, whose last progress says less than its state.
pub(super) fn progress_text(run: &FlowRun) -> Option<String> {
    let is_completed = run.state.state_type == StateType::Completed;
    let progress = run.progress.as_ref().filter(|_| !is_completed)?;
    let total = progress.total.map_or_else(|| "?".to_owned(), |total| total.to_string());
    Some(format!(
        "{:.0} % ({}/{total} {})",
        progress.fraction * 100.0,
        progress.done,
        progress.unit
    ))
}

/// From its start to its end, or to now.
pub(super) fn took(run: &FlowRun) -> Option<String> {
    let to = run.ended_at.unwrap_or_else(Timestamp::now);
    run.started_at.map(|started_at| duration(started_at, to))
}
