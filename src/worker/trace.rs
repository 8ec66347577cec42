//! The spans of an attempt: its claim, itself, and its tasks, as its child tells of them.

use std::collections::HashMap;

use jiff::Timestamp;
use uuid::Uuid;

use crate::domain::error::OrchestratorError;
use crate::domain::state::{StateName, StateType};
use crate::domain::trace::{TraceContext, VARIABLES};
use crate::orchestrator::claims::{Claim, Ending, ForeignClaim, ForeignEnd, Record};
use crate::telemetry::{Kind, Span, Tracer};

/// Most tasks at once; a child that begins more is at fault.
const MOST_TASKS: usize = 64;

/// Begins the span of a foreign run, after that of its claim, and tells its program of it.
///
/// The run's own trace, of the call that queued it, goes before a `TRACEPARENT` that its environment sets, which may be the
/// deployment's and the same for all runs; where the run has none, the environment's is its trace. Its program gets the run's span
/// in any case, as it would from any other program between the two: one that was left with what the environment says would not be
/// below the span that it runs in.
pub(super) fn begin_foreign(tracer: &Tracer, claim: &mut ForeignClaim, asked_at: Timestamp) -> Span {
    let name = &claim.flow_name;
    let environment = &mut claim.program.environment;
    let [parent, state] = VARIABLES;
    let given = environment.get(parent).and_then(|text| text.parse().ok());
    if claim.trace.is_some() && claim.trace != given {
        // It goes with what is replaced.
        environment.remove(state);
    }
    let before = claim.trace.or(given);
    let mut claiming = tracer.start_at(format!("claim {name}"), Kind::Consumer, before, asked_at);
    let mut running = tracer.start(format!("run {name}"), Kind::Internal, claiming.context());
    for span in [&mut claiming, &mut running] {
        span.text("captionacc.flow", name);
        span.text("captionacc.flow_run_id", &claim.flow_run_id.to_string());
    }
    claiming.end();
    if let Some(context) = running.context() {
        environment.insert(parent.to_owned(), context.to_string());
    }
    running
}

/// The foreign run has ended so.
pub(super) fn end_foreign(mut span: Span, end: &Result<ForeignEnd, OrchestratorError>) {
    let has_failed = |state: &StateName| matches!(state.state_type(), StateType::Failed | StateType::Crashed);
    let (state, problem) = match end {
        Ok(ForeignEnd::Reported(state)) => {
            let problem = state.filter(has_failed).map(|_| "its program reported that it failed");
            (*state, problem)
        }
        Ok(ForeignEnd::Crashed) => (Some(StateName::Crashed), Some("it ended without a final state")),
        Ok(ForeignEnd::Cancelled) => (Some(StateName::Cancelled), None),
        Ok(ForeignEnd::GivenBack) => (Some(StateName::Scheduled), None),
        Err(error) => (None, Some(error.code())),
    };
    if let Some(state) = state {
        span.text("captionacc.state", state.as_str());
    }
    if let Some(problem) = problem {
        span.fail(problem);
    }
    span.end();
}

/// The spans of one attempt.
pub(super) struct AttemptTrace {
    tracer: Tracer,
    attempt: Span,
    tasks: HashMap<Uuid, Span>,
}

impl AttemptTrace {
    /// Of a claim that was asked for at `asked_at` and has just been given.
    pub(super) fn begin(tracer: &Tracer, claim: &Claim, asked_at: Timestamp) -> Self {
        let run = &claim.flow_run;
        let mut claiming = tracer.start_at(
            format!("claim {}", run.flow_name),
            Kind::Consumer,
            claim.trace,
            asked_at,
        );
        let mut attempt = tracer.start(format!("attempt {}", run.flow_name), Kind::Internal, claiming.context());
        for span in [&mut claiming, &mut attempt] {
            span.text("captionacc.flow", &run.flow_name);
            span.text("captionacc.flow_run_id", &run.flow_run_id.to_string());
            span.number("captionacc.attempt", claim.lease.attempt);
            if let Some(video_id) = &run.video_id {
                span.text("captionacc.video_id", video_id);
            }
        }
        let waited = Timestamp::now().duration_since(run.scheduled_at).as_millis().max(0);
        claiming.number("captionacc.waited_ms", i64::try_from(waited).unwrap_or(i64::MAX));
        claiming.end();
        Self {
            tracer: tracer.clone(),
            attempt,
            tasks: HashMap::new(),
        }
    }

    /// What the program of the attempt begins from.
    pub(super) fn context(&self) -> Option<TraceContext> {
        self.attempt.context()
    }

    /// Its process.
    pub(super) fn started(&mut self, pid: u32) {
        self.attempt.number("process.pid", pid);
    }

    /// A task run has entered a state.
    pub(super) fn heard(&mut self, record: &Record) {
        let Record::TaskRun {
            task_run_id,
            name,
            run_count,
            state,
            message,
        } = record
        else {
            return;
        };
        if matches!(state, StateName::Running | StateName::Retrying) {
            if self.tasks.len() < MOST_TASKS {
                let begin = || self.tracer.start(name, Kind::Internal, self.attempt.context());
                self.tasks.entry(*task_run_id).or_insert_with(begin);
            }
            return;
        }
        let Some(mut span) = self.tasks.remove(task_run_id) else {
            return;
        };
        span.text("captionacc.task_run_id", &task_run_id.to_string());
        span.number("captionacc.run_count", *run_count);
        if *state != StateName::Completed {
            span.fail(message.as_deref().unwrap_or(state.as_str()));
        }
        span.end();
    }

    /// The attempt has ended so.
    pub(super) fn end(mut self, ending: &Ending) {
        for (_, mut span) in self.tasks.drain() {
            span.fail("its process ended before it");
            span.end();
        }
        let state = match ending {
            Ending::Completed { .. } => StateName::Completed,
            Ending::Cancelled { .. } => StateName::Cancelled,
            Ending::GivenBack { .. } => StateName::Scheduled,
            Ending::Failed { state, message, .. } => {
                self.attempt.fail(message);
                *state
            }
        };
        self.attempt.text("captionacc.state", state.as_str());
        self.attempt.end();
    }
}
