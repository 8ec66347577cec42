//! What is said where the server that runs are queued at does not answer: what this machine knows by itself.

use std::fmt::Write;

use jiff::Timestamp;

use super::failure::Failure;
use super::output::{plain, print, table, time};
use super::run_table::run_table;
use crate::domain::finding::counted;
use crate::orchestrator::here::KnownHere;
use crate::orchestrator::queue::Queue;

/// Prints what is known here, if `failure` is that the server does not answer, and gives that back: it is said after it.
pub(super) async fn known_here(orchestrator: &dyn Queue, failure: Failure) -> Failure {
    // What can not be read here either is the lesser fault.
    let Ok(Some(known)) = orchestrator.read_known_here().await else {
        return failure;
    };
    let Some(since) = known.delivery.away_since else {
        return failure;
    };
    match print(&text(&known, since)) {
        Ok(()) => failure,
        Err(error) => error.into(),
    }
}

fn text(known: &KnownHere, since: Timestamp) -> String {
    let mut text = format!(
        "The server has not answered since {}. What this machine knows:\n",
        time(since)
    );
    let mut paragraph = |paragraph: &str| write!(text, "\n{paragraph}").expect("writing to a String cannot fail");
    if known.living_workers.is_empty() {
        paragraph(
            "No worker is alive here: start one with captionacc worker, which tells the server what waits here.\n",
        );
    } else {
        paragraph(&format!("Workers here: {}\n", plain(&known.living_workers.join(", "))));
    }
    if known.at_work.is_empty() {
        paragraph("No run is being worked on here.\n");
    } else {
        paragraph(&run_table(&known.at_work));
    }
    let delivery = &known.delivery;
    if delivery.kept_runs > 0 {
        let runs = counted(delivery.kept_runs, "run was", "runs were");
        paragraph(&format!("{runs} queued while it was away, and kept here for it:\n"));
        let rows = known.kept.iter().map(|run| {
            [
                run.flow_run_id.to_string(),
                run.flow_name.clone(),
                run.video_id.clone().unwrap_or_else(|| "-".to_owned()),
                time(run.queued_at),
            ]
        });
        paragraph(&table(["FLOW RUN", "FLOW", "VIDEO", "QUEUED"], rows));
    }
    let messages: u64 = delivery.waiting.iter().map(|(_, number)| number).sum();
    if messages > 0 {
        let messages = counted(messages, "message waits", "messages wait");
        let oldest = delivery
            .oldest_at
            .map_or_else(String::new, |at| format!(", the oldest since {}", time(at)));
        paragraph(&format!("{messages} for it{oldest}.\n"));
    }
    text.push('\n');
    text
}
