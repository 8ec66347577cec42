//! What a pool has done over time, from its runs alone: who waited and who ran at each moment. Pure.

use jiff::{SignedDuration, Timestamp};

use super::api::{Activity, EndedRun, Slice};
use crate::domain::flow_run::FlowRun;
use crate::domain::state::StateType;

/// Slices of the time that is told.
const SLICES: u32 = 60;

/// The last `minutes` before `now`, from these runs. `is_partial`: there are older ones that were not read.
pub(super) fn activity(runs: &[FlowRun], minutes: u32, now: Timestamp, is_partial: bool) -> Activity {
    let slice_seconds = (minutes * 60 / SLICES).max(1);
    let length = SignedDuration::from_secs(i64::from(slice_seconds));
    let from = now
        .checked_sub(SignedDuration::from_secs(i64::from(slice_seconds * SLICES)))
        .unwrap_or(Timestamp::UNIX_EPOCH);
    let mut slices = vec![Slice::default(); SLICES as usize];
    let mut begins = from;
    for slice in &mut slices {
        let ends = begins.checked_add(length).unwrap_or(now);
        for run in runs {
            let has_ended_by = |at: Timestamp| run.ended_at.is_some_and(|ended_at| ended_at <= at);
            if run.created_at <= ends && !has_ended_by(ends) {
                if works_since(run).is_some_and(|since| since <= ends) {
                    slice.running += 1;
                } else if run.attempt > 0 || run.scheduled_at <= ends {
                    // One that is scheduled for later is not waited for yet.
                    slice.waiting += 1;
                }
            }
            if has_ended_by(ends) && !has_ended_by(begins) {
                match run.state.state_type {
                    StateType::Completed => slice.completed += 1,
                    StateType::Cancelled => slice.cancelled += 1,
                    _ => slice.failed += 1,
                }
            }
        }
        begins = ends;
    }
    let mut ended: Vec<EndedRun> = runs
        .iter()
        .filter_map(|run| {
            let (started_at, ended_at) = (run.started_at?, run.ended_at?);
            (ended_at > from).then(|| EndedRun {
                flow_run_id: run.flow_run_id,
                flow_name: run.flow_name.clone(),
                state_type: run.state.state_type,
                ended_at,
                seconds: ended_at.duration_since(started_at).as_secs_f64().max(0.0),
            })
        })
        .collect();
    ended.sort_by_key(|run| run.ended_at);
    Activity {
        from,
        slice_seconds,
        slices,
        ended,
        is_partial,
    }
}

/// Since when it is, or was, at work. Of one that is tried again only the newest state is known: it is taken to have waited
/// until then, as most of that time it has, so that no more are at work than there are slots.
fn works_since(run: &FlowRun) -> Option<Timestamp> {
    match run.state.state_type {
        StateType::Scheduled => None,
        StateType::Pending | StateType::Running if run.attempt > 1 => Some(run.state.timestamp),
        _ => run.started_at,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(created: &str, started: Option<&str>, ended: Option<&str>) -> FlowRun {
        let state = if ended.is_some() { "COMPLETED" } else { "RUNNING" };
        let name = if ended.is_some() { "Completed" } else { "Running" };
        serde_json::from_value(json!({
            "flowRunId": "01994c5e-7b1c-7c3e-8d5f-2a4b6c8d0e1f", "flowName": "f", "deployment": "f/production",
            "parameters": {}, "videoId": null, "priority": "background", "tags": [],
            "state": { "type": state, "name": name, "message": null, "timestamp": created },
            "attempt": 1, "failedAttempts": 0, "progress": null, "supersededBy": null, "workerName": null, "pid": null,
            "createdAt": created, "scheduledAt": created, "startedAt": started, "endedAt": ended,
        }))
        .expect("a run")
    }

    #[test]
    fn who_waited_and_who_ran_is_told_for_each_slice() {
        let runs = [
            run(
                "2026-01-01T00:00:30Z",
                Some("2026-01-01T00:02:30Z"),
                Some("2026-01-01T00:04:30Z"),
            ),
            run("2026-01-01T00:03:30Z", None, None),
        ];
        let now = "2026-01-01T01:00:00Z".parse().expect("a time");
        let told = activity(&runs, 60, now, false);
        assert_eq!(told.slice_seconds, 60);
        let first: Vec<(u32, u32, u32)> = told.slices[..6]
            .iter()
            .map(|slice| (slice.waiting, slice.running, slice.completed))
            .collect();
        assert_eq!(
            first,
            [(1, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 1), (1, 0, 0)]
        );
        assert_eq!(told.ended.len(), 1);
        assert!((told.ended[0].seconds - 120.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_run_that_awaits_its_next_attempt_waits_and_one_that_was_cancelled_has_not_failed() {
        let mut awaits = run("2026-01-01T00:00:30Z", Some("2026-01-01T00:01:30Z"), None);
        awaits.state.state_type = StateType::Scheduled;
        let mut again = run("2026-01-01T00:00:30Z", Some("2026-01-01T00:01:30Z"), None);
        again.attempt = 2;
        again.state.timestamp = "2026-01-01T00:02:30Z".parse().expect("a time");
        let mut later = run("2026-01-01T00:00:30Z", None, None);
        (later.attempt, later.state.state_type) = (0, StateType::Scheduled);
        later.scheduled_at = "2026-01-02T00:00:00Z".parse().expect("a time");
        let mut cancelled = run("2026-01-01T00:00:30Z", None, Some("2026-01-01T00:01:30Z"));
        cancelled.state.state_type = StateType::Cancelled;
        let now = "2026-01-01T01:00:00Z".parse().expect("a time");
        let told = activity(&[awaits, again, cancelled, later], 60, now, false);
        let first: Vec<(u32, u32)> = told.slices[..4]
            .iter()
            .map(|slice| (slice.waiting, slice.running))
            .collect();
        assert_eq!(first, [(3, 0), (2, 0), (1, 1), (1, 1)]);
        assert_eq!((told.slices[1].cancelled, told.slices[1].failed), (1, 0));
    }
}
