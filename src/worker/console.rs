//! What the worker shows on its terminal: a line when a run starts, ends or retries, and progress.
//!
//! On a terminal, progress is a bar a run below the lines; elsewhere a line every 10 s. With `--json` every line is
//! one JSON object.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tracing::info;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::domain::flow_run::{FlowRun, Progress};
use crate::domain::id::FlowRunId;
use crate::domain::lease::Lease;
use crate::domain::state::{StateName, StateType};
use crate::orchestrator::claims::ATTEMPT_STOPPED;

/// How often progress is a line where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// The worker's terminal.
#[derive(Debug, Clone)]
pub struct Console {
    bars: Option<MultiProgress>,
    runs: std::sync::Arc<Mutex<HashMap<FlowRunId, Shown>>>,
}

#[derive(Debug)]
struct Shown {
    bar: Option<ProgressBar>,
    line_at: Instant,
}

impl Console {
    /// Sets up the log of this process. `RUST_LOG` filters it by target and level (`warn,captionacc=debug`); the default
    /// shows `info` and above of this program.
    pub fn install(json: bool) -> Self {
        let is_terminal = std::io::stderr().is_terminal() && !json;
        let bars = is_terminal.then(MultiProgress::new);
        let filter = std::env::var("RUST_LOG").ok().and_then(|wanted| wanted.parse().ok());
        let filter = filter.unwrap_or_else(|| {
            Targets::new()
                .with_default(LevelFilter::WARN)
                .with_target("captionacc", LevelFilter::INFO)
        });
        let layer = tracing_subscriber::fmt::layer()
            .with_target(false)
            .with_ansi(is_terminal && std::env::var_os("NO_COLOR").is_none())
            .with_writer(Writer { bars: bars.clone() });
        let registry = tracing_subscriber::registry().with(filter);
        // A second installation in one process (tests) keeps the first.
        let _ = if json {
            registry.with(layer.json().flatten_event(true)).try_init()
        } else {
            registry.with(layer).try_init()
        };
        Self {
            bars,
            runs: std::sync::Arc::default(),
        }
    }

    fn runs(&self) -> MutexGuard<'_, HashMap<FlowRunId, Shown>> {
        self.runs.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// An attempt runs.
    pub fn started(&self, run: &FlowRun, attempt: u32, pid: u32) {
        let video_id = run.video_id.as_deref().unwrap_or("-");
        info!(flow_run_id = %run.flow_run_id, flow = run.flow_name, video_id, attempt, pid, "Flow run started.");
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new(1000));
            let template = "{prefix:>24} [{bar:30}] {percent:>3} % {msg}";
            bar.set_style(
                ProgressStyle::with_template(template)
                    .expect("the template is right")
                    .progress_chars("=> "),
            );
            bar.set_prefix(format!("{} {video_id}", run.flow_name));
            bar
        });
        self.runs().insert(
            run.flow_run_id,
            Shown {
                bar,
                line_at: Instant::now(),
            },
        );
    }

    /// An attempt came further.
    pub fn progress(&self, lease: Lease, progress: &Progress) {
        let mut runs = self.runs();
        let Some(shown) = runs.get_mut(&lease.flow_run_id) else {
            return;
        };
        let total = progress.total.map_or_else(|| "?".to_owned(), |total| total.to_string());
        let detail = format!("{} ({}/{total} {})", progress.task, progress.done, progress.unit);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..=1000")]
        let permille = (progress.fraction * 1000.0) as u64;
        if let Some(bar) = &shown.bar {
            bar.set_position(permille);
            bar.set_message(detail);
        } else if shown.line_at.elapsed() >= LINE_INTERVAL {
            shown.line_at = Instant::now();
            let percent = permille / 10;
            info!(flow_run_id = %lease.flow_run_id, percent, "{detail}");
        }
    }

    /// An attempt ended, and with it perhaps the run.
    pub fn ended(&self, run: &FlowRun, took: Duration) {
        self.forget(run.flow_run_id);
        let seconds = format!("{:.1}", took.as_secs_f64());
        let state = run.state.name.as_str();
        let message = run.state.message.as_deref().unwrap_or("");
        let id = run.flow_run_id;
        match (run.state.state_type, run.state.name) {
            (StateType::Completed, _) => {
                info!(flow_run_id = %id, flow = run.flow_name, seconds, "Flow run completed: {message}");
            }
            (_, StateName::AwaitingRetry) => {
                let due = run.scheduled_at.to_string();
                info!(flow_run_id = %id, flow = run.flow_name, attempt = run.attempt, due, "Flow run failed, it will be tried again: {message}");
            }
            (StateType::Scheduled, _) => {
                info!(flow_run_id = %id, flow = run.flow_name, "Flow run given back to the queue: {message}");
            }
            (StateType::Cancelled, _) if message.ends_with(ATTEMPT_STOPPED) => {
                info!(flow_run_id = %id, flow = run.flow_name, attempt = run.attempt, "Attempt stopped: {message}.");
            }
            (StateType::Cancelled, _) => {
                info!(flow_run_id = %id, flow = run.flow_name, "Flow run cancelled: {message}");
            }
            _ => {
                tracing::error!(flow_run_id = %id, flow = run.flow_name, state, "Flow run failed: {message}");
            }
        }
    }

    /// The lease of an attempt was lost: someone else has the run.
    pub fn lost(&self, lease: Lease) {
        self.forget(lease.flow_run_id);
        info!(flow_run_id = %lease.flow_run_id, attempt = lease.attempt, "The attempt no longer holds its run; its writes were refused.");
    }

    fn forget(&self, id: FlowRunId) {
        if let Some(bar) = self.runs().remove(&id).and_then(|shown| shown.bar) {
            bar.finish_and_clear();
        }
    }
}

/// Writes log lines above the bars.
#[derive(Debug, Clone)]
struct Writer {
    bars: Option<MultiProgress>,
}

impl std::io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let write = || std::io::stderr().lock().write_all(bytes);
        match &self.bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
        // A closed terminal must not end the worker.
        .or(Ok(()))
        .map(|()| bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
