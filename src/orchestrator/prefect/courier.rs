//! Telling the server what the outbox holds: states before everything else, everything else before a final state where
//! the server can take it, and nothing twice that would count twice.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use super::api::PAGE;
use super::client::DEFAULT_PATIENCE;
use super::conversion::{self, FAILED_ATTEMPTS};
use super::events::{asset_events, task_run_event};
use super::fence::{Fence, Standing};
use super::journal::Journal;
use super::journal::forwarding::{ClaimMark, ForwardedRun, RunContext};
use super::journal::mail::{ArtifactMessage, OutboxMessage, OutboxRow, StateMessage};
use super::lost::tell_left;
use super::made::result;
use super::model::{ApiLog, ApiState, Orchestration, Proposal, Verdict};
use super::rounds::Rounds;
use super::server::Server;
use super::stopping::Stopping;
use super::voices::Voices;
use crate::domain::error::OrchestratorError;
use crate::domain::flow_run::LogLevel;
use crate::domain::id::FlowRunId;
use crate::domain::prefect_error::PrefectError;
use crate::domain::state::{StateName, StateType};

/// A server takes ever longer for a line the more there are in a batch.
const LOG_BATCH: usize = 250;
/// Events in one call.
const EVENT_BATCH: usize = 100;
/// Log lines and events that Cloud's smallest plan takes in a minute are 2,000; some are left to others.
const CLOUD_LINES_PER_MINUTE: f64 = 1600.0;
/// Longest log line, in characters: Cloud takes 25,000.
const MAX_LOG_CHARACTERS: usize = 20_000;
/// How long the server may ask to wait with a run that is not due yet by its clock.
const MAX_EARLY: Duration = Duration::from_secs(5);
/// How often a state may be refused before it is left out. A server refuses none of ours; what stands before it may.
const MAX_REFUSALS: u32 = 10;

/// What to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// What comes before the first thing that is not a state can wait.
    States,
    /// All of it.
    Everything,
}

/// What is being told by this process.
#[derive(Debug, Default)]
struct Mailroom {
    /// One teller a run, so that it hears things in their order.
    locks: Mutex<BTreeMap<FlowRunId, Arc<tokio::sync::Mutex<()>>>>,
    /// Artifacts that may be there already: the answer was lost.
    doubtful: Mutex<HashSet<Uuid>>,
    /// How often a state was refused.
    refusals: Mutex<HashMap<Uuid, u32>>,
    budget: Mutex<Option<(Instant, f64)>>,
}

impl Mailroom {
    fn lock_of(&self, id: FlowRunId) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        locks.entry(id).or_default().clone()
    }

    /// Whether a state that was refused once more is to be tried again.
    fn may_be_tried_again(&self, token: Uuid) -> bool {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let count = refusals.entry(token).or_default();
        *count += 1;
        let may = *count < MAX_REFUSALS;
        if !may {
            refusals.remove(&token);
        }
        may
    }

    /// How many of `wanted` lines may go now.
    fn allowance(&self, is_cloud: bool, wanted: usize) -> usize {
        if !is_cloud {
            return wanted;
        }
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let (at, left) = budget.unwrap_or((now, CLOUD_LINES_PER_MINUTE));
        let grown = left + now.duration_since(at).as_secs_f64() * CLOUD_LINES_PER_MINUTE / 60.0;
        let left = grown.min(CLOUD_LINES_PER_MINUTE);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "at most some thousands, never below 0"
        )]
        let (allowed, left) = {
            let allowed = wanted.min(left as usize);
            (allowed, left - allowed as f64)
        };
        *budget = Some((now, left));
        allowed
    }
}

/// What the server thought of a state.
enum Told {
    /// It knows it, or will never take it.
    Done,
    /// It wants it again then.
    After(Duration),
    /// The run is no longer ours.
    Gone {
        /// Why, for people.
        why: String,
        /// Whether another attempt has it, or will have it.
        is_taken: bool,
    },
}

/// Tells the server what the journal's outbox holds.
pub(super) struct Courier {
    server: Arc<Server>,
    journal: Journal,
    stopping: Stopping,
    fence: Arc<Fence>,
    voices: Arc<Voices>,
    mailroom: Mailroom,
    rounds: Mutex<Rounds>,
}

impl Courier {
    pub(super) fn new(
        server: Arc<Server>,
        journal: Journal,
        stopping: Stopping,
        fence: Arc<Fence>,
        voices: Arc<Voices>,
    ) -> Self {
        Self {
            voices,
            server,
            journal,
            stopping,
            fence,
            mailroom: Mailroom::default(),
            rounds: Mutex::default(),
        }
    }

    fn rounds(&self) -> std::sync::MutexGuard<'_, Rounds> {
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One round: tells the mail of some runs side by side, so that one that the server is slow with does not hold up the
    /// others.
    pub(super) async fn go_round(self: &Arc<Self>) -> Result<(), OrchestratorError> {
        let with_mail = self.journal.forwarding.with_mail().await?;
        let mut tellers = JoinSet::new();
        let turn = self.rounds().begin(&with_mail, Instant::now());
        for id in turn {
            let courier = self.clone();
            tellers.spawn(async move {
                let told = courier.deliver(id, Scope::Everything, DEFAULT_PATIENCE).await;
                let is_its_fault = matches!(&told, Err(error) if !is_everybodys(error));
                courier.rounds().end(id, is_its_fault, Instant::now());
                told
            });
        }
        while let Some(told) = tellers.join_next().await {
            if let Ok(told) = told {
                self.server.note(&told);
            }
        }
        Ok(())
    }

    /// Tells what the server must hear of a run, for at most about `patience`.
    pub(super) async fn deliver(
        &self,
        id: FlowRunId,
        scope: Scope,
        patience: Duration,
    ) -> Result<(), OrchestratorError> {
        let lock = self.mailroom.lock_of(id);
        let deadline = Instant::now() + patience;
        let Ok(_alone) = tokio::time::timeout(patience, lock.lock()).await else {
            return Ok(());
        };
        // What is not a state, once it could not be told.
        let mut postponed = (scope == Scope::States).then_some(Ok(()));
        loop {
            // By which claim it is ours is read before what is to be told: this worker may claim it again while it tells, and what
            // is of the newer claim is not told by the older one.
            let Some(ForwardedRun { context, .. }) = self.journal.forwarding.run(id).await? else {
                return postponed.unwrap_or(Ok(()));
            };
            let mail = self.journal.mail.of_run(id).await?;
            let (head, state) = (mail.head, mail.state);
            let has_mail = state.is_some() || !head.is_empty();
            if has_mail && !self.fence.is_fresh(id) {
                // Nothing is told of a run that is another's by now: not a line.
                match self.fence.ask(id, &context).await {
                    Ok(Standing::Gone { why, is_taken }) => {
                        return self.fence.let_go(id, &context, why, is_taken).await;
                    }
                    // One that the server no longer has is forgotten below, where it says so of the run itself.
                    Ok(_) | Err(PrefectError::NotFound { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let is_start = state.as_ref().is_some_and(is_start);
            if !head.is_empty() && postponed.is_none() && !is_start {
                match self.tell_content(id, &context, head, deadline).await {
                    Ok(()) => continue,
                    // No state would come through either.
                    Err(error @ OrchestratorError::Prefect(PrefectError::Unreachable { .. })) => return Err(error),
                    Err(OrchestratorError::Prefect(PrefectError::NotFound { .. })) => {
                        return self.forget(id).await;
                    }
                    Err(error) => postponed = Some(Err(error)),
                }
            }
            if postponed.is_none() && !is_start {
                let is_completed = state.as_ref().is_some_and(is_completion);
                // Not worth holding up a state.
                if let Err(error) = self.tell_progress_of(id, is_completed).await {
                    debug!(flow_run_id = %id, "Its progress could not be shown: {}.", error.to_line());
                }
            }
            let Some(row) = state else {
                return postponed.unwrap_or(Ok(()));
            };
            let OutboxMessage::State(message) = &row.message else {
                return Ok(());
            };
            let token = context
                .claim
                .map_or(row.token, |claim| claim.transition_to(message.name));
            let result = self.result_of(id, message).await?;
            let told = self
                .tell_state(id, &context, message, token, result, remaining(deadline))
                .await;
            match told {
                Ok(Told::Gone { why, is_taken }) => return self.fence.let_go(id, &context, why, is_taken).await,
                Ok(Told::Done) => self.journal.mail.told(vec![row.id]).await?,
                Ok(Told::After(wait)) if Instant::now() + wait < deadline + MAX_EARLY => tokio::time::sleep(wait).await,
                Ok(Told::After(_)) => return Ok(()),
                Err(PrefectError::NotFound { .. }) if self.is_gone(id).await? => return self.forget(id).await,
                Err(error @ PrefectError::Rejected { .. }) if !self.mailroom.may_be_tried_again(row.token) => {
                    error!(flow_run_id = %id, state = message.name.as_str(), "A state is refused again and again, and is left out: {error}.");
                    self.journal.mail.told(vec![row.id]).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Tells everything of every run that is this process's to tell. One that can not be told is in nobody's way.
    pub(super) async fn tell_all(&self, patience: Duration) -> Result<(), OrchestratorError> {
        let mut outcome = Ok(());
        for id in self.journal.forwarding.with_mail().await? {
            match self.deliver(id, Scope::Everything, patience).await {
                Err(error) if is_outage(&error) => return Err(error),
                Err(error) => outcome = Err(error),
                Ok(()) => {}
            }
        }
        outcome
    }

    /// Whether the server says of the run itself that it has none: a 404 of one call may come from what stands before it.
    async fn is_gone(&self, id: FlowRunId) -> Result<bool, PrefectError> {
        match self.server.client().read_flow_run(id.as_uuid()).await {
            Ok(_) => Ok(false),
            Err(PrefectError::NotFound { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    async fn forget(&self, id: FlowRunId) -> Result<(), OrchestratorError> {
        debug!(flow_run_id = %id, "The server no longer knows the run.");
        self.stopping
            .stop(id, "its run was deleted at the server".to_owned())
            .await;
        self.journal.mail.forget(id).await
    }

    /// What `run_deployment` returns of a completed run: what it says of itself, and what it made.
    async fn result_of(&self, id: FlowRunId, message: &StateMessage) -> Result<Option<Value>, OrchestratorError> {
        if message.name != StateName::Completed {
            return Ok(None);
        }
        let made = self.journal.made.untold(id).await?;
        Ok(Some(result(message.message.as_deref(), &made)))
    }

    async fn tell_state(
        &self,
        id: FlowRunId,
        context: &RunContext,
        message: &StateMessage,
        token: Uuid,
        result: Option<Value>,
        patience: Duration,
    ) -> Result<Told, PrefectError> {
        let is_start = message.name.state_type() == StateType::Running;
        // A claim of a moment ago is nobody else's yet, and its start is waited for.
        if !(is_start && self.fence.is_fresh(id)) {
            let run = self.server.client().read_flow_run(id.as_uuid()).await?;
            if is_made_by(run.state.as_ref(), token) {
                return Ok(Told::Done);
            }
            match self.fence.standing(&run, context).await? {
                // Its work was done and written before it could be stopped.
                Standing::Ours | Standing::TakenForDead => {}
                Standing::Cancelling(_) if message.name == StateName::Completed || is_start => {}
                Standing::Cancelling(_) => {
                    let told = self.tell_cancelled(id, run.state, token, patience).await?;
                    self.leave(id);
                    return Ok(told);
                }
                Standing::Gone { why, is_taken } => return Ok(Told::Gone { why, is_taken }),
            }
        }
        match message.name.state_type() {
            StateType::Running => self.tell_start(id, context, message, token, patience).await,
            StateType::Scheduled => self.tell_scheduled(id, message, token, patience).await,
            _ => {
                let told = self.tell_end(id, message, token, result, patience).await?;
                self.leave(id);
                Ok(told)
            }
        }
    }

    /// Says that a run that has ended is nobody's any more, if anybody may have heard that it lives. Beside: the next run waits for the slot.
    /// Unheard, the server tries to crash an ended run, and cannot.
    fn leave(&self, id: FlowRunId) {
        if !self.voices.was_silent(id) {
            let server = self.server.clone();
            tokio::spawn(async move { tell_left(server.client(), id.as_uuid()).await });
        }
    }

    /// Sets the end again that somebody has set, if a start by this claim came over it: the server lets a run begin that has ended.
    pub(super) async fn uphold(
        &self,
        id: FlowRunId,
        claim: ClaimMark,
        decided: &ApiState,
    ) -> Result<(), OrchestratorError> {
        let lock = self.mailroom.lock_of(id);
        // What was on its way has arrived then.
        let _alone = lock.lock().await;
        let run = self.server.client().read_flow_run(id.as_uuid()).await?;
        let is_over_it = run.state.is_some_and(|state| {
            state.state_type() == StateType::Running
                && state.state_details.transition_id.is_some_and(|id| claim.made(id))
        });
        if is_over_it {
            let proposal = Proposal::new(decided.state_name(), decided.message.clone(), Uuid::new_v4());
            self.propose(id, &proposal, DEFAULT_PATIENCE).await?;
            info!(flow_run_id = %id, "The run was ended while its start was on its way, and stays so.");
        }
        Ok(())
    }

    async fn propose(
        &self,
        id: FlowRunId,
        proposal: &Proposal,
        patience: Duration,
    ) -> Result<Orchestration, PrefectError> {
        self.server
            .client()
            .set_flow_run_state(id.as_uuid(), proposal, patience)
            .await
    }

    async fn tell_start(
        &self,
        id: FlowRunId,
        context: &RunContext,
        message: &StateMessage,
        token: Uuid,
        patience: Duration,
    ) -> Result<Told, PrefectError> {
        // A run that waits for its retry without a process would be cancelled behind its worker's back.
        let mut changes = json!({ "infrastructure_pid": message.pid.map(|pid| pid.to_string()) });
        if context.is_unnamed {
            changes["name"] = json!(context.run_name);
            changes["tags"] = json!(context.tags);
        }
        self.server
            .client()
            .update_flow_run(id.as_uuid(), &changes, patience)
            .await?;
        let proposal = Proposal::new(message.name, message.message.clone(), token);
        let answer = self.propose(id, &proposal, patience).await?;
        if is_heard(&answer, token) {
            return Ok(Told::Done);
        }
        if answer.status == Verdict::Wait {
            let seconds = answer.details.delay_seconds.unwrap_or(1.0).clamp(0.1, 3600.0);
            return Ok(Told::After(Duration::from_secs_f64(seconds)));
        }
        let reason = answer
            .state
            .as_ref()
            .and_then(|state| state.message.clone())
            .or(answer.details.reason)
            .unwrap_or_else(|| "the server no longer lets it run".to_owned());
        if answer
            .state
            .as_ref()
            .is_some_and(|state| state.state_type() != StateType::Running)
        {
            self.stopping.stop(id, reason).await;
        }
        Ok(Told::Done)
    }

    async fn tell_scheduled(
        &self,
        id: FlowRunId,
        message: &StateMessage,
        token: Uuid,
        patience: Duration,
    ) -> Result<Told, PrefectError> {
        let run = id.as_uuid();
        let labels = json!({ FAILED_ATTEMPTS: message.failed_attempts });
        self.server
            .client()
            .label_flow_run(run, labels.as_object().expect("an object"), patience)
            .await?;
        self.server
            .client()
            .update_flow_run(run, &json!({ "infrastructure_pid": null }), patience)
            .await?;
        let due = Timestamp::from_millisecond(message.due_ms).unwrap_or(Timestamp::UNIX_EPOCH);
        let proposal = Proposal::new(message.name, message.message.clone(), token).due_at(due);
        let answer = self.propose(id, &proposal, patience).await?;
        if answer.state.as_ref().map(ApiState::state_type) == Some(StateType::Cancelling) {
            return self.tell_cancelled(id, answer.state, Uuid::new_v4(), patience).await;
        }
        // At once: the server's automation would take it for lost while it waits.
        if let Err(error) = tell_left(self.server.client(), run).await {
            debug!(flow_run_id = %id, "That it waits could not be told beside its state: {error}.");
        }
        Ok(Told::Done)
    }

    async fn tell_end(
        &self,
        id: FlowRunId,
        message: &StateMessage,
        token: Uuid,
        result: Option<Value>,
        patience: Duration,
    ) -> Result<Told, PrefectError> {
        let name = message.name;
        let mut proposal = Proposal::new(name, message.message.clone(), token);
        if let Some(result) = result {
            proposal = proposal.with_result(result);
        }
        let answer = self.propose(id, &proposal, patience).await?;
        if is_heard(&answer, token) {
            return Ok(Told::Done);
        }
        let state_type = answer.state.as_ref().map(ApiState::state_type);
        if state_type == Some(StateType::Cancelling) {
            if name == StateName::Completed {
                // Its work was done and written before it could be stopped.
                self.propose(id, &proposal.force(), patience).await?;
                return Ok(Told::Done);
            }
            return self.tell_cancelled(id, answer.state, Uuid::new_v4(), patience).await;
        }
        if state_type == Some(StateType::Scheduled) && name.state_type() == StateType::Failed {
            return self.offer_retry(id, answer.state, patience).await;
        }
        debug!(flow_run_id = %id, state = name.as_str(), reason = answer.details.reason, "The server keeps another state.");
        Ok(Told::Done)
    }

    /// The server answers a failure with a retry that it keeps for the process that failed, which is not there any more: it is
    /// offered to every worker.
    async fn offer_retry(
        &self,
        id: FlowRunId,
        state: Option<ApiState>,
        patience: Duration,
    ) -> Result<Told, PrefectError> {
        let run = id.as_uuid();
        let now = self.server.client().server_now();
        let due = state.as_ref().and_then(|state| state.state_details.scheduled_time);
        let message = state.and_then(|state| state.message);
        self.server.offer_to_all(run, patience).await?;
        let changes = json!({ "infrastructure_pid": null });
        self.server.client().update_flow_run(run, &changes, patience).await?;
        let proposal = Proposal::new(StateName::AwaitingRetry, message, Uuid::new_v4()).due_at(due.unwrap_or(now));
        self.propose(id, &proposal, patience).await?;
        Ok(Told::Done)
    }

    async fn tell_cancelled(
        &self,
        id: FlowRunId,
        cancelling: Option<ApiState>,
        token: Uuid,
        patience: Duration,
    ) -> Result<Told, PrefectError> {
        let message = cancelling.and_then(|state| state.message);
        let proposal = Proposal::new(StateName::Cancelled, message, token);
        self.server
            .client()
            .set_flow_run_state(id.as_uuid(), &proposal, patience)
            .await?;
        Ok(Told::Done)
    }

    /// Tells what is no state, in three calls where all is well: events, artifacts, logs.
    async fn tell_content(
        &self,
        id: FlowRunId,
        context: &RunContext,
        rows: Vec<OutboxRow>,
        deadline: Instant,
    ) -> Result<(), OrchestratorError> {
        let mut labels = Map::new();
        let mut label_rows = Vec::new();
        let mut events = Vec::new();
        let mut artifacts = Vec::new();
        let mut lines = Vec::new();
        for row in rows {
            match row.message {
                OutboxMessage::Labels(more) => {
                    labels.extend(more);
                    label_rows.push(row.id);
                }
                OutboxMessage::TaskRun(task_run) => {
                    events.push((row.id, task_run_event(id, context, &task_run, row.token)));
                }
                OutboxMessage::Asset(asset) => {
                    for event in asset_events(id, context, &asset, row.token) {
                        events.push((row.id, event));
                    }
                }
                OutboxMessage::Artifact(artifact) => artifacts.push((row.id, row.token, artifact)),
                OutboxMessage::Log(line) => {
                    let level = LogLevel::parse(&line.level).unwrap_or(LogLevel::Info);
                    let timestamp = Timestamp::from_millisecond(line.timestamp_ms).unwrap_or(Timestamp::UNIX_EPOCH);
                    lines.push((
                        row.id,
                        ApiLog {
                            name: conversion::logger(line.attempt),
                            level: conversion::level_number(level),
                            message: line.message.chars().take(MAX_LOG_CHARACTERS).collect(),
                            timestamp,
                            flow_run_id: Some(id.as_uuid()),
                            ..ApiLog::default()
                        },
                    ));
                }
                OutboxMessage::State(_) => {}
            }
        }
        if !labels.is_empty() {
            let told = self
                .server
                .client()
                .label_flow_run(id.as_uuid(), &labels, remaining(deadline))
                .await;
            self.settle(id, label_rows, told).await?;
        }
        for batch in events.chunks(EVENT_BATCH) {
            let (rows, bodies): (Vec<i64>, Vec<Value>) = batch.iter().cloned().unzip();
            let told = self.server.client().create_events(&bodies).await;
            self.settle(id, rows, told).await?;
        }
        for (row, token, artifact) in artifacts {
            let told = self.tell_artifact(id, token, &artifact).await;
            self.settle(id, vec![row], told).await?;
        }
        let mut rest = &lines[..];
        while !rest.is_empty() {
            let wanted = rest.len().min(LOG_BATCH);
            let allowed = self.mailroom.allowance(self.server.settings().is_cloud, wanted);
            if allowed == 0 {
                return Err(PrefectError::RateLimited {
                    address: self.server.client().address().to_owned(),
                    retry_after_ms: 2000,
                }
                .into());
            }
            let (batch, more) = rest.split_at(allowed);
            let (rows, bodies): (Vec<i64>, Vec<ApiLog>) = batch.iter().cloned().unzip();
            let told = self.server.client().create_logs(&bodies).await;
            self.settle(id, rows, told).await?;
            rest = more;
        }
        Ok(())
    }

    /// Takes rows out of the outbox that were told, or that the server refuses for good: they would be in the way of
    /// everything behind them.
    async fn settle(
        &self,
        id: FlowRunId,
        rows: Vec<i64>,
        told: Result<(), PrefectError>,
    ) -> Result<(), OrchestratorError> {
        if let Err(error) = told {
            let is_refused = match error {
                PrefectError::Rejected { .. } => true,
                PrefectError::NotFound { .. } => !self.is_gone(id).await?,
                _ => false,
            };
            if !is_refused {
                return Err(error.into());
            }
            warn!(flow_run_id = %id, "Something that the run left was refused and is left out: {error}.");
        }
        self.journal.mail.told(rows).await
    }

    async fn tell_artifact(&self, id: FlowRunId, token: Uuid, artifact: &ArtifactMessage) -> Result<(), PrefectError> {
        let text = token.to_string();
        let doubtful = |action: &dyn Fn(&mut HashSet<Uuid>) -> bool| {
            action(&mut self.mailroom.doubtful.lock().unwrap_or_else(PoisonError::into_inner))
        };
        if doubtful(&|tokens| tokens.contains(&token)) {
            let filter = json!({ "artifacts": { "flow_run_id": { "any_": [id.as_uuid()] } }, "limit": PAGE });
            let is_there = self
                .server
                .client()
                .filter_artifacts(&filter)
                .await?
                .iter()
                .any(|known| {
                    let known = known
                        .metadata_
                        .as_ref()
                        .and_then(|metadata| metadata.get("captionacc.token"));
                    known.and_then(Value::as_str) == Some(&text)
                });
            if is_there {
                doubtful(&|tokens| tokens.remove(&token));
                return Ok(());
            }
        }
        let mut body = conversion::artifact_body(&artifact.key, &artifact.artifact_type, &artifact.data, &text);
        body["description"] = json!(artifact.description);
        body["flow_run_id"] = json!(id);
        match self.server.client().create_artifact(&body).await {
            Ok(_) => {
                doubtful(&|tokens| tokens.remove(&token));
                Ok(())
            }
            Err(error) => {
                doubtful(&|tokens| tokens.insert(token));
                Err(error)
            }
        }
    }

    /// Shows how far the runs at work are.
    pub(super) async fn tell_progress(&self) -> Result<(), OrchestratorError> {
        for run in self.journal.forwarding.at_work().await? {
            if run.progress_at > run.progress_sent_at {
                let id = run.flow_run.flow_run_id;
                let lock = self.mailroom.lock_of(id);
                // Whoever has it shows it.
                if let Ok(_alone) = lock.try_lock()
                    && self.fence.is_fresh(id)
                {
                    self.tell_progress_of(id, false).await?;
                }
            }
        }
        Ok(())
    }

    /// Shows how far a run is, if it came further; one that is completed is all done. For the one who tells its mail.
    async fn tell_progress_of(&self, id: FlowRunId, is_completed: bool) -> Result<(), OrchestratorError> {
        let Some(run) = self.journal.forwarding.run(id).await? else {
            return Ok(());
        };
        let is_news = is_completed || run.progress_at > run.progress_sent_at;
        let Some(progress) = run.flow_run.progress.filter(|_| is_news) else {
            return Ok(());
        };
        let mut body = conversion::progress_body(&progress);
        if is_completed {
            // What was last counted says less than the state.
            body["data"] = json!(100.0);
        }
        let artifact = if let Some(artifact) = run.progress_artifact_id {
            self.server.client().update_artifact(artifact, &body).await?;
            artifact
        } else {
            let key = format!("progress-{}", run.context.flow_name);
            body["key"] = json!(conversion::artifact_key(&key));
            body["type"] = json!("progress");
            body["flow_run_id"] = json!(id);
            self.server.client().create_artifact(&body).await?.id
        };
        self.journal
            .forwarding
            .progress_told(id, run.progress_at, artifact)
            .await
    }
}

/// Whether the mail of others would have fared no better.
const fn is_everybodys(error: &OrchestratorError) -> bool {
    is_outage(error) || matches!(error, OrchestratorError::Prefect(PrefectError::RateLimited { .. }))
}

/// Whether nothing could be told to anybody.
const fn is_outage(error: &OrchestratorError) -> bool {
    matches!(error, OrchestratorError::Prefect(PrefectError::Unreachable { .. }))
}

fn remaining(deadline: Instant) -> Duration {
    deadline
        .saturating_duration_since(Instant::now())
        .max(Duration::from_millis(200))
}

fn is_start(row: &OutboxRow) -> bool {
    matches!(&row.message, OutboxMessage::State(state) if state.name.state_type() == StateType::Running)
}

fn is_completion(row: &OutboxRow) -> bool {
    matches!(&row.message, OutboxMessage::State(state) if state.name == StateName::Completed)
}

/// Whether the run is in this state by this transition.
fn is_made_by(state: Option<&ApiState>, token: Uuid) -> bool {
    state.is_some_and(|state| state.state_details.transition_id == Some(token))
}

/// Whether the state is the run's, by this proposal or by the same one sent before.
fn is_heard(answer: &Orchestration, token: Uuid) -> bool {
    answer.status == Verdict::Accept || is_made_by(answer.state.as_ref(), token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cloud_is_told_no_more_lines_a_minute_than_its_plan_takes() {
        let mailroom = Mailroom::default();
        let first = mailroom.allowance(true, 5000);
        assert!((1500..2000).contains(&first), "{first}");
        assert!(mailroom.allowance(true, 5000) < 10);
        assert_eq!(mailroom.allowance(false, 5000), 5000);
    }
}
