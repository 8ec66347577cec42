//! What `captionacc doctor` says of runs that lost their video to another program.

use crate::annotations::tells_of_takeover;
use crate::domain::finding::{Findings, counted};
use crate::domain::flow_run::FlowRun;

/// Runs that ended because another process took over the status row of their video: a program beside this one works on it, or
/// takes its attempts for dead.
pub fn check_takeovers(ended: &[FlowRun]) -> Findings {
    let mut findings = Findings::default();
    let taken = |run: &&FlowRun| run.state.message.as_deref().is_some_and(tells_of_takeover);
    let runs: Vec<&FlowRun> = ended.iter().filter(taken).collect();
    if let Some(newest) = runs.first() {
        findings.warning(
            "status rows",
            format!(
                "{} of late ended because a process that is not this program's took over the status row of their \
                 video; the last one is {} of video {}, at {}: {}",
                counted(runs.len() as u64, "run", "runs"),
                newest.flow_run_id,
                newest.video_id.as_deref().unwrap_or("none"),
                newest.state.timestamp,
                newest.state.message.as_deref().unwrap_or_default(),
            ),
            "remove what restarts videos in the web app when their process does not answer (README, From the \
             Python scripts): a worker of another user or container never does",
        );
    }
    findings
}
