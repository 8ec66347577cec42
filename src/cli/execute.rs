//! `captionacc execute`: runs the one flow run that Prefect's own Python worker has claimed and started this program for.
//!
//! That worker reads the exit code: anything but 0 makes a run without a final state CRASHED. So 0 is returned only once
//! the server has heard what became of the run.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use jiff::Timestamp;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use super::exit;
use super::failure::Failure;
use super::runtime::{block_on, surrounding_trace};
use crate::domain::error::OrchestratorError;
use crate::domain::id::FlowRunId;
use crate::domain::state::StateType;
use crate::orchestrator::claims::{Claim, Claims};
use crate::orchestrator::prefect::PrefectOrchestrator;
use crate::settings::{OrchestratorChoice, Settings};
use crate::telemetry::Tracer;
use crate::worker::LAST_SPANS_TIMEOUT;
use crate::worker::attempt::{Shared, Wish, supervise};
use crate::worker::console::Console;

/// Where Prefect's worker puts the run's id.
const FLOW_RUN_ID: &str = "PREFECT__FLOW_RUN_ID";
/// How long the server is waited for at the start: the worker that started this program takes its end for a crash.
const START_TIMEOUT: Duration = Duration::from_mins(5);
/// How long the server is waited for at the end. What it has not heard by then is told by whatever program of this
/// machine speaks to the same server next.
const TELLING_TIMEOUT: Duration = Duration::from_mins(5);
/// How often a server that is away is asked again.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// How often a cancellation is looked for.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// What `captionacc execute --help` ends with.
pub(super) const EXAMPLES: &str = "\
Not for people: `captionacc deploy` makes it the command of every deployment, so that Prefect's own worker can run it:
  prefect worker start --type process --pool video-processing-pool
The flow run is the one that PREFECT__FLOW_RUN_ID names; it must have been claimed (PENDING).";

/// Options of `captionacc execute`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Log lines as JSON, one object a line
    #[arg(long)]
    json: bool,
}

/// Runs the flow run.
pub(super) fn perform(options: &Options) -> Result<ExitCode, Failure> {
    let id = std::env::var(FLOW_RUN_ID)
        .map_err(|_| Failure::argument(FLOW_RUN_ID, "missing: Prefect's worker sets it for what it starts"))?;
    let id: FlowRunId = id.parse().map_err(OrchestratorError::from)?;
    let worker_name = std::env::var("PREFECT__WORKER_NAME").unwrap_or_else(|_| "prefect".to_owned());
    let settings = Settings::from_environment()?;
    let (OrchestratorChoice::Prefect, Some(prefect)) = (settings.orchestrator, settings.prefect.clone()) else {
        return Err(OrchestratorError::Config {
            origin: settings.orchestrator_reason,
            problem: "only a flow run of Prefect is executed: set PREFECT_API_URL".to_owned(),
        }
        .into());
    };
    let console = Console::install(options.json);
    block_on(async {
        let opened = PrefectOrchestrator::open(prefect, &settings.home, settings.flows.clone()).await?;
        let orchestrator = Arc::new(opened);
        let signals = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        let [Ok(terminate), Ok(interrupt), Ok(hangup)] = signals else {
            return Err(OrchestratorError::Internal("signals can not be received".to_owned()).into());
        };
        let mut signals = Signals {
            terminate,
            interrupt,
            hangup,
        };
        let asked_at = Timestamp::now();
        let claim = tokio::select! {
            claim = take_over(&orchestrator, id, &worker_name) => claim?,
            () = signals.recv() => {
                // Nothing was begun. A run that is being cancelled is its worker's to report.
                orchestrator.give_back(id, "given back: its worker was stopped").await?;
                return Ok(exit::DONE);
            }
        };
        let Some(mut claim) = claim else {
            info!(flow_run_id = %id, "The run is not to be executed now.");
            return Ok(exit::DONE);
        };
        // The run's own, of the call that queued it, goes before what its deployment's environment may say for all runs.
        claim.trace = claim.trace.or_else(surrounding_trace);
        let tracer = Tracer::begin(settings.traces.export.as_ref());
        for warning in &settings.traces.warnings {
            warn!("{warning}");
        }
        let shared = Arc::new(Shared {
            tracer: tracer.clone(),
            orchestrator: orchestrator.clone(),
            settings,
            console,
        });
        let (wish, receiver) = watch::channel(Wish::Run);
        let attempt = supervise(shared, claim, asked_at, receiver);
        tokio::pin!(attempt);
        let mut check = tokio::time::interval(CHECK_INTERVAL);
        loop {
            tokio::select! {
                _ = &mut attempt => break,
                () = signals.recv() => {
                    // Prefect's worker ends a cancelled run and, when it stops, every run in the same way: what the
                    // server says tells them apart.
                    let is_cancelled = is_cancelling(&orchestrator, id).await;
                    wish.send_modify(|wish| {
                        *wish = match (&*wish, is_cancelled) {
                            (Wish::Run, true) => Wish::Cancel,
                            (Wish::Run, false) => Wish::GiveBack,
                            _ => Wish::Kill,
                        };
                    });
                }
                _ = check.tick() => {
                    let cancellations = orchestrator.cancellations(vec![id]).await.unwrap_or_default();
                    if !cancellations.is_empty() {
                        wish.send_if_modified(|wish| {
                            let is_new = *wish == Wish::Run;
                            if is_new {
                                *wish = Wish::Cancel;
                            }
                            is_new
                        });
                    }
                }
            }
        }
        tracer.flush(LAST_SPANS_TIMEOUT).await;
        tell(&orchestrator).await
    })
}

/// Takes the run over, once the server answers.
async fn take_over(
    orchestrator: &PrefectOrchestrator,
    id: FlowRunId,
    worker_name: &str,
) -> Result<Option<Claim>, OrchestratorError> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        match orchestrator.take_over(id, worker_name).await {
            Err(error) if error.retryable() && Instant::now() < deadline => {
                warn!(
                    code = error.code(),
                    "The run can not be taken over yet: {}",
                    error.to_line()
                );
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
            outcome => return outcome,
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// A server that does not answer soon has cancelled nothing that this process must know of.
async fn is_cancelling(orchestrator: &PrefectOrchestrator, id: FlowRunId) -> bool {
    let reading = orchestrator.client().read_flow_run(id.as_uuid());
    match tokio::time::timeout(Duration::from_secs(2), reading).await {
        Ok(Ok(run)) => run
            .state
            .is_some_and(|state| matches!(state.state_type(), StateType::Cancelling | StateType::Cancelled)),
        _ => false,
    }
}

/// Returns once the server has heard everything.
async fn tell(orchestrator: &PrefectOrchestrator) -> Result<ExitCode, Failure> {
    let deadline = Instant::now() + TELLING_TIMEOUT;
    loop {
        match orchestrator.forward().await {
            Ok(()) => return Ok(exit::DONE),
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(error) => {
                warn!(
                    code = error.code(),
                    "The server has not heard everything yet: {}",
                    error.to_line()
                );
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        }
    }
}
