//! `/metrics` in Prometheus' text format (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
//!
//! What stands (slots, waiting runs) is read when it is asked for. What is counted (runs that ended, how long they took) counts
//! from the start of this process, as counters of a process do: each time it is asked, the runs that ended since are added.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;

use super::app::App;
use super::counted::{BUCKETS, Counts};
use crate::domain::asset::LineageOf;
use crate::domain::error::OrchestratorError;
use crate::domain::flow_run::FlowRun;
use crate::domain::state::StateType;
use crate::orchestrator::delivery::Delivery;
use crate::orchestrator::queue::{FlowRunFilter, WorkPool};

const DURATION: &str = "captionacc_flow_run_duration_seconds";
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Newest runs among which those that ended since are looked for.
const LOOKED_AT: u32 = 500;
/// What was read of the store.
struct Standing {
    pool: WorkPool,
    active: Vec<FlowRun>,
    oldest_wait_seconds: f64,
    child_memory_bytes: u64,
    child_busy_cores: f64,
}

/// The metrics.
pub(super) async fn show(State(app): State<Arc<App>>) -> Response {
    let standing = read(&app).await.ok();
    if standing.is_none() {
        app.counted.reading_failed();
    }
    // What waits for an API that is away is known all the same.
    let delivery = app.queue.read_delivery().await.ok().flatten();
    let counts = app.counted.counts();
    let text = text(standing.as_ref(), delivery.as_ref(), &counts, app.hub.pages());
    drop(counts);
    ([(CONTENT_TYPE, TEXT_FORMAT)], text).into_response()
}

async fn read(app: &App) -> Result<Standing, OrchestratorError> {
    let of_states = |state_types: &[StateType]| {
        app.queue.list_flow_runs(FlowRunFilter {
            state_types: state_types.to_vec(),
            limit: LOOKED_AT,
            ..FlowRunFilter::default()
        })
    };
    let pool = app.queue.read_work_pool().await?;
    let active = of_states(&[StateType::Pending, StateType::Running, StateType::Cancelling]).await?;
    let oldest = app.queue.oldest_waiting().await?;
    let completed = app.counted.add(&of_states(&[]).await?);
    if !completed.is_empty() {
        let lineage = app.queue.read_lineage_of(LineageOf::Runs(completed)).await?;
        app.counted.add_made(lineage.assets.values());
    }
    let now = Timestamp::now();
    let (mut child_memory_bytes, mut child_busy_cores) = (0, 0.0);
    for process in active.iter().filter_map(|run| app.processes.of(&pool, run)) {
        child_memory_bytes += process.memory_bytes;
        child_busy_cores += process.busy_cores;
    }
    Ok(Standing {
        oldest_wait_seconds: oldest.map_or(0.0, |run| now.duration_since(run.scheduled_at).as_secs_f64().max(0.0)),
        pool,
        active,
        child_memory_bytes,
        child_busy_cores,
    })
}

/// Metrics as they are written down.
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("a String takes it");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, text)| {
                let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                format!("{label}=\"{text}\"")
            })
            .collect();
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", labels.join(","))
        };
        writeln!(self.0, "{name}{labels} {value}").expect("a String takes it");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }
}

fn text(standing: Option<&Standing>, delivery: Option<&Delivery>, counts: &Counts, pages: usize) -> String {
    let mut page = Page(String::new());
    page.gauge(
        "captionacc_orchestrator_up",
        "Whether the store, or Prefect's API, answers.",
        u8::from(standing.is_some()),
    );
    if let Some(standing) = standing {
        of_pool(&mut page, standing);
    }
    page.family(
        "captionacc_orchestrator_errors_total",
        "counter",
        "Readings of the store, or of Prefect's API, for these metrics that failed.",
    );
    page.sample("captionacc_orchestrator_errors_total", &[], counts.failed_readings);
    page.family("captionacc_flow_runs_ended_total", "counter", "Flow runs that ended.");
    for ((flow, state), count) in &counts.ended {
        let labels = [("flow", flow.as_str()), ("state", state)];
        page.sample("captionacc_flow_runs_ended_total", &labels, count);
    }
    page.family(DURATION, "histogram", "From a run's first start to its end.");
    for (flow, durations) in &counts.durations {
        let mut sum = 0;
        for (slice, count) in durations.slices.iter().enumerate() {
            sum += count;
            let end = BUCKETS.get(slice).map_or_else(|| "+Inf".to_owned(), f64::to_string);
            page.sample(&format!("{DURATION}_bucket"), &[("flow", flow), ("le", &end)], sum);
        }
        page.sample(&format!("{DURATION}_sum"), &[("flow", flow)], durations.sum_seconds);
        page.sample(&format!("{DURATION}_count"), &[("flow", flow)], sum);
    }
    page.family(
        "captionacc_frames_written_total",
        "counter",
        "Frames that completed flow runs have written, by table.",
    );
    for (table, frames) in [
        ("full_frames", counts.full_frames),
        ("cropped_frames", counts.cropped_frames),
    ] {
        page.sample("captionacc_frames_written_total", &[("table", table)], frames);
    }
    page.family(
        "captionacc_boxes_written_total",
        "counter",
        "Text boxes that completed flow runs have written.",
    );
    page.sample("captionacc_boxes_written_total", &[], counts.boxes);
    if let Some(delivery) = delivery {
        of_delivery(&mut page, delivery);
    }
    page.gauge("captionacc_dashboard_pages", "Pages that listen.", pages);
    page.0
}

/// Over Prefect alone.
fn of_delivery(page: &mut Page, delivery: &Delivery) {
    let now = Timestamp::now();
    let seconds_since = |at: Option<Timestamp>| at.map_or(0.0, |at| now.duration_since(at).as_secs_f64().max(0.0));
    page.family(
        "captionacc_outbox_messages",
        "gauge",
        "Messages of this machine that Prefect's API must still hear, by kind.",
    );
    for (kind, count) in &delivery.waiting {
        page.sample("captionacc_outbox_messages", &[("kind", kind.as_str())], count);
    }
    page.gauge(
        "captionacc_outbox_oldest_seconds",
        "How long the oldest of them has waited.",
        seconds_since(delivery.oldest_at),
    );
    page.gauge(
        "captionacc_kept_flow_runs",
        "Flow runs that were queued while Prefect's API was away, and wait on this machine.",
        delivery.kept_runs,
    );
    page.gauge(
        "captionacc_api_away_seconds",
        "How long Prefect's API has not answered; 0: it does.",
        seconds_since(delivery.away_since),
    );
    page.family(
        "captionacc_api_failed_calls_total",
        "counter",
        "Calls of Prefect's API by this process that failed, by kind, each try counted.",
    );
    for (fault, count) in &delivery.failed_calls {
        page.sample("captionacc_api_failed_calls_total", &[("kind", fault.as_str())], count);
    }
}

fn of_pool(page: &mut Page, standing: &Standing) {
    let pool = &standing.pool;
    page.gauge("captionacc_pool_slots", "Flow runs at once.", pool.concurrency_limit);
    page.gauge(
        "captionacc_pool_slots_taken",
        "Flow runs that hold a slot.",
        pool.active,
    );
    page.gauge(
        "captionacc_pool_paused",
        "Whether claims stand still.",
        u8::from(pool.is_paused),
    );
    page.family(
        "captionacc_flow_runs_waiting",
        "gauge",
        "Flow runs that wait, by work queue.",
    );
    for (queue, count) in &pool.waiting {
        page.sample("captionacc_flow_runs_waiting", &[("queue", queue.as_str())], count);
    }
    page.gauge(
        "captionacc_oldest_wait_seconds",
        "How long the run that is due longest has waited.",
        standing.oldest_wait_seconds,
    );
    page.family("captionacc_workers", "gauge", "Workers that announced themselves.");
    for (word, is_alive) in [("true", true), ("false", false)] {
        let count = pool.workers.iter().filter(|worker| worker.is_alive == is_alive).count();
        page.sample("captionacc_workers", &[("alive", word)], count);
    }
    page.family("captionacc_flow_runs_active", "gauge", "Flow runs that hold a slot.");
    let mut active: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for run in &standing.active {
        *active
            .entry((&run.flow_name, run.state.state_type.as_str()))
            .or_default() += 1;
    }
    for ((flow, state), count) in active {
        page.sample(
            "captionacc_flow_runs_active",
            &[("flow", flow), ("state", state)],
            count,
        );
    }
    page.gauge(
        "captionacc_child_memory_bytes",
        "Memory of the attempts' processes on this machine.",
        standing.child_memory_bytes,
    );
    page.gauge(
        "captionacc_child_busy_cores",
        "Cores that the attempts' processes on this machine keep busy.",
        standing.child_busy_cores,
    );
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::counted::Counted;
    use super::*;

    fn run(ended_at: &str) -> FlowRun {
        serde_json::from_value(json!({
            "flowRunId": "01994c5e-7b1c-7c3e-8d5f-2a4b6c8d0e1f", "flowName": "full-frames", "deployment": "full-frames/production",
            "parameters": {}, "videoId": null, "priority": "background", "tags": [],
            "state": { "type": "COMPLETED", "name": "Completed", "message": null, "timestamp": ended_at },
            "attempt": 1, "failedAttempts": 0, "progress": null, "supersededBy": null, "workerName": null, "pid": null,
            "createdAt": "2026-01-01T00:00:00Z", "scheduledAt": "2026-01-01T00:00:00Z",
            "startedAt": "2026-01-01T00:00:00Z", "endedAt": ended_at,
        }))
        .expect("a run")
    }

    #[test]
    fn an_end_is_counted_once_and_each_end_of_a_run_that_was_retried() {
        let counted = Counted::new("2026-01-01T00:00:00Z".parse().expect("a time"));
        counted.add(&[run("2025-12-31T00:00:00Z")]);
        counted.add(&[run("2026-01-01T00:00:04Z")]);
        counted.add(&[run("2026-01-01T00:00:04Z")]);
        counted.add(&[run("2026-01-01T00:01:30Z")]);
        let text = text(None, None, &counted.counts(), 1);
        for line in [
            "captionacc_orchestrator_up 0",
            "captionacc_flow_runs_ended_total{flow=\"full-frames\",state=\"COMPLETED\"} 2",
            "captionacc_flow_run_duration_seconds_bucket{flow=\"full-frames\",le=\"2\"} 0",
            "captionacc_flow_run_duration_seconds_bucket{flow=\"full-frames\",le=\"5\"} 1",
            "captionacc_flow_run_duration_seconds_bucket{flow=\"full-frames\",le=\"+Inf\"} 2",
            "captionacc_flow_run_duration_seconds_sum{flow=\"full-frames\"} 94",
            "captionacc_dashboard_pages 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_label_cannot_leave_its_quotes() {
        let mut page = Page(String::new());
        page.sample("m", &[("l", "a\"b\\c\nd")], 1);
        assert_eq!(page.0, "m{l=\"a\\\"b\\\\c\\nd\"} 1\n");
    }
}
