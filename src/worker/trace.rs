//! The spans of an attempt: its claim, itself, and its tasks, as its child tells of them.

use std::collections::HashMap;

use jiff::Timestamp;
use uuid::Uuid;

use crate::domain::state::StateName;
use crate::domain::trace::TraceContext;
use crate::orchestrator::claims::{Claim, Ending, ForeignClaim, Record};
use crate::telemetry::{Kind, Span, Tracer};

/// Most tasks at once; a child that begins more is at fault.
const MOST_TASKS: usize = 64;

/// Begins the span of a foreign run, after that of its claim, and tells its program of it.
pub(super) fn begin_foreign(tracer: &Tracer, claim: &mut ForeignClaim, asked_at: Timestamp) -> Span {
    let name = &claim.flow_name;
    let mut claiming = tracer.start_at(format!("claim {name}"), Kind::Consumer, claim.trace, asked_at);
    let mut running = tracer.start(format!("run {name}"), Kind::Internal, claiming.context());
    for span in [&mut claiming, &mut running] {
        span.text("captionacc.flow", name);
        span.text("captionacc.flow_run_id", &claim.flow_run_id.to_string());
    }
    claiming.end();
    if let Some(context) = running.context() {
        let environment = &mut claim.program.environment;
        environment
            .entry("TRACEPARENT".to_owned())
            .or_insert_with(|| context.to_string());
    }
    running
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
