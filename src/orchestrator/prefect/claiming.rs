//! Claiming: a poll offers runs, a PENDING that the server accepts is the claim.
//!
//! A run takes its slot of the journal before the server is asked for it, with the transition id of the proposal: a
//! worker that dies before it knows the answer leaves enough behind for the next one to give the run back.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::json;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::Inner;
use super::client::DEFAULT_PATIENCE;
use super::conversion::{self, superseded_by};
use super::foreign;
use super::model::{ApiDeployment, ApiFlowRun, ApiState, Proposal, Verdict};
use crate::domain::error::OrchestratorError;
use crate::domain::flow::{FlowDefinition, Parameters, Subject};
use crate::domain::id::FlowRunId;
use crate::domain::prefect_error::PrefectError;
use crate::domain::state::{StateName, StateType};
use crate::orchestrator::claims::{Claimed, Claims, Ending};
use crate::orchestrator::local::journal::{ClaimIntent, RunContext};
use crate::orchestrator::queue::Queue;

/// The poll that finds what no event told of.
const SAFETY_POLL: Duration = Duration::from_secs(10);
/// How often the states of our runs are asked for, whatever the events say.
const SAFETY_CHECK: Duration = Duration::from_secs(5);
/// How long a run whose claim was refused is left alone.
const REFUSED_WAIT: jiff::SignedDuration = jiff::SignedDuration::from_secs(1);
/// Most runs of one offer.
const OFFERS: u32 = 20;

/// What became of an offered run.
pub(super) enum Offer {
    Claimed(Claimed),
    /// Not for us now.
    Passed,
}

impl Inner {
    /// See [`crate::orchestrator::claims::Claims::claim`]. A server that is away has no run for us; that is said once.
    pub(super) async fn claim(
        &self,
        worker_name: &str,
        flow_names: &BTreeSet<String>,
    ) -> Result<Option<Claimed>, OrchestratorError> {
        if !self.poll_is_due() {
            return Ok(None);
        }
        // Rings of until now are answered by this poll.
        self.journal.heard(Duration::ZERO).await;
        let taken = self.journal.slots_taken().await?;
        let outcome = self.claim_from_server(worker_name, flow_names, taken).await;
        match outcome {
            Err(OrchestratorError::Prefect(error)) => {
                self.note::<(), _>(&Err(error));
                Ok(None)
            }
            Err(error) => Err(error),
            Ok(claim) => {
                self.note::<_, PrefectError>(&Ok(()));
                if claim.is_some() {
                    if taken == 0 {
                        // The state of the only run at work is known from its claim.
                        self.clocks().checked = Some(Instant::now());
                    }
                    let one_less = |announced: u32| Some(announced.saturating_sub(1));
                    let _ = self
                        .announced
                        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
                }
                Ok(claim)
            }
        }
    }

    fn poll_is_due(&self) -> bool {
        let is_wanted = self.poll_wanted.swap(false, Ordering::Relaxed);
        let mut clocks = self.clocks();
        let is_over = clocks.polled.is_none_or(|at| at.elapsed() >= SAFETY_POLL);
        let now = Timestamp::now();
        let is_due = [clocks.due, clocks.offered].into_iter().flatten().any(|due| due <= now);
        if is_due {
            clocks.due = None;
            clocks.offered = None;
        }
        is_wanted || is_over || is_due
    }

    async fn claim_from_server(
        &self,
        worker_name: &str,
        flow_names: &BTreeSet<String>,
        taken: u32,
    ) -> Result<Option<Claimed>, OrchestratorError> {
        self.clocks().polled = Some(Instant::now());
        let limit = if let Some(pool) = self.pool().await? {
            pool.concurrency_limit.unwrap_or(u32::MAX)
        } else {
            let pool = self.journal.read_work_pool().await?;
            if pool.is_paused { 0 } else { pool.concurrency_limit }
        };
        if taken >= limit {
            return Ok(None);
        }
        let offers = self.poll(flow_names).await?;
        let count = offers.len();
        let mut passed = 0;
        for run in offers {
            match self.consider(run, worker_name, flow_names, limit).await? {
                Offer::Claimed(claim) => {
                    // Others may wait behind it.
                    if passed + 1 < count || count >= OFFERS as usize || taken + 1 < limit && count > 1 {
                        self.poll_wanted.store(true, Ordering::Relaxed);
                    }
                    return Ok(Some(claim));
                }
                Offer::Passed => passed += 1,
            }
        }
        Ok(None)
    }

    async fn poll(&self, flow_names: &BTreeSet<String>) -> Result<Vec<ApiFlowRun>, PrefectError> {
        if !self.settings().runner_mode {
            let offers = self.client.poll_work_pool(&self.settings().work_pool, OFFERS).await?;
            return Ok(offers.into_iter().map(|offer| offer.flow_run).collect());
        }
        let mut ids = Vec::new();
        for flow in flow_names {
            match self.names.own_deployment(&self.client, flow).await {
                Ok(id) => ids.push(id),
                // The others are served all the same.
                Err(error @ PrefectError::NotFound { .. }) => debug!(flow, "{error}"),
                Err(error) => return Err(error),
            }
        }
        ids.extend(self.names.served_deployments(&self.client).await?);
        let mut runs = self.client.poll_deployments(&ids, OFFERS).await?;
        // There are no queues here: whom a person waits for goes first all the same.
        runs.sort_by_key(|run| {
            let priority = if run.tags.iter().any(|tag| tag == "user-initiated") {
                1
            } else {
                2
            };
            (priority, run.next_scheduled_start_time)
        });
        Ok(runs)
    }

    async fn consider(
        &self,
        run: ApiFlowRun,
        worker_name: &str,
        flow_names: &BTreeSet<String>,
        limit: u32,
    ) -> Result<Offer, OrchestratorError> {
        let Some(deployment_id) = run.deployment_id else {
            return Ok(Offer::Passed);
        };
        if let Some(due) = due_later(&run, self.client.server_now()) {
            let wait = due.duration_since(self.client.server_now());
            self.look_again_after(wait);
            return Ok(Offer::Passed);
        }
        let deployment = self.names.deployment(&self.client, deployment_id).await?;
        let flow_name = self.names.flow(&self.client, run.flow_id).await?;
        let is_ours = deployment.name == self.settings().deployment_name && flow_names.contains(&flow_name);
        let flow = match self.flows.get(&flow_name) {
            Ok(flow) if is_ours => flow.clone(),
            // A deployment that is not ours, of the same pool.
            _ => {
                let claim = self.claim_foreign(&run, &flow_name, worker_name, limit).await?;
                return Ok(claim.map_or(Offer::Passed, |claim| Offer::Claimed(Claimed::Foreign(Box::new(claim)))));
            }
        };
        let subject = Subject::of(&Parameters(run.parameters.clone()));
        if !self.is_its_turn(&flow, &run, subject.video_id.as_deref()).await? {
            return Ok(Offer::Passed);
        }
        let id = FlowRunId::from_uuid(run.id);
        let intent = ClaimIntent {
            flow_run_id: id,
            transition_id: Uuid::new_v4(),
            flow_name: flow.name.clone(),
            subject,
        };
        let transition_id = intent.transition_id;
        if !self.journal.reserve(intent, limit).await? {
            return Ok(Offer::Passed);
        }
        let Some(state) = self.propose_pending(id, transition_id).await? else {
            return Ok(Offer::Passed);
        };
        let lease_id = state.state_details.deployment_concurrency_lease_id;
        self.adopt(run, flow, &deployment, lease_id, worker_name).await
    }

    /// Polls again then, whatever happens until then.
    fn look_again_after(&self, wait: jiff::SignedDuration) {
        let at = Timestamp::now() + wait;
        let mut clocks = self.clocks();
        clocks.offered = Some(clocks.offered.map_or(at, |before| before.min(at)));
    }

    /// Proposes PENDING for a run that has its slot here. `None`: it is another worker's, and the slot is given back.
    pub(super) async fn propose_pending(
        &self,
        id: FlowRunId,
        transition_id: Uuid,
    ) -> Result<Option<ApiState>, OrchestratorError> {
        let proposal = Proposal::new(StateName::Pending, None, transition_id);
        let answer = match self
            .client
            .set_flow_run_state(id.as_uuid(), &proposal, DEFAULT_PATIENCE)
            .await
        {
            Ok(answer) => answer,
            Err(error @ (PrefectError::NotFound { .. } | PrefectError::Rejected { .. })) => {
                self.journal.release(id).await?;
                warn!(flow_run_id = %id, "A run could not be claimed: {error}.");
                self.look_again_after(REFUSED_WAIT);
                return Ok(None);
            }
            Err(error) => {
                // It may be ours: it is looked after once the server answers.
                self.doubt(id, transition_id);
                return Err(error.into());
            }
        };
        match answer.state {
            Some(state) if is_ours_now(&state, answer.status, transition_id) => Ok(Some(state)),
            _ => {
                self.journal.release(id).await?;
                debug!(flow_run_id = %id, reason = answer.details.reason, "Another worker has the run.");
                Ok(None)
            }
        }
    }

    /// Nobody knows whether the claim came through.
    pub(super) fn doubt(&self, id: FlowRunId, transition_id: Uuid) {
        self.doubtful
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((id, transition_id));
    }

    /// One run at a time for a video and flow, over all workers; of a flow where the latest wins, only the latest.
    pub(super) async fn is_its_turn(
        &self,
        flow: &FlowDefinition,
        run: &ApiFlowRun,
        video_id: Option<&str>,
    ) -> Result<bool, OrchestratorError> {
        let states = [
            StateType::Scheduled,
            StateType::Pending,
            StateType::Running,
            StateType::Cancelling,
        ];
        let others = self.runs_of_video(flow, video_id, &states).await?;
        let mut is_free = true;
        for other in others.iter().filter(|other| other.id != run.id) {
            let state = other.state.as_ref().map_or(StateType::Scheduled, ApiState::state_type);
            let is_newer = (other.created, other.id) > (run.created, run.id);
            if flow.latest_wins && is_newer && state != StateType::Cancelling {
                // Whoever queued the newer one died before it could say so.
                self.supersede_older(flow, other).await?;
                return Ok(false);
            }
            is_free &= state == StateType::Scheduled;
        }
        if !is_free && flow.latest_wins {
            self.supersede_older(flow, run).await?;
        }
        Ok(is_free)
    }

    pub(super) async fn adopt(
        &self,
        run: ApiFlowRun,
        flow: FlowDefinition,
        deployment: &ApiDeployment,
        lease_id: Option<Uuid>,
        worker_name: &str,
    ) -> Result<Offer, OrchestratorError> {
        let work_pool_id = self.clocks().pool.as_ref().map(|(_, pool)| pool.id);
        let context = RunContext {
            run_name: run.name.clone(),
            flow_id: run.flow_id,
            flow_name: flow.name.clone(),
            deployment_id: deployment.id,
            deployment_name: deployment.name.clone(),
            work_pool_id,
            work_pool_name: run.work_pool_name.clone(),
            tags: run.tags.clone(),
            concurrency_lease_id: lease_id,
        };
        let mut own = conversion::flow_run(
            &run,
            flow.name.clone(),
            format!("{}/{}", flow.name, deployment.name),
            flow.work_queue,
            None,
        );
        // Whoever made the run may have used the API itself: what it gave is checked as if a caller had given it.
        let checked = flow.parse_arguments(&run.parameters, std::path::Path::new("/"));
        if let Ok(arguments) = &checked {
            own.parameters = arguments.to_parameters();
            let subject = arguments.subject();
            (own.video_id, own.db_path) = (subject.video_id, subject.db_path);
        }
        let has_status_row = flow.status_table.is_some() && checked.is_ok();
        let claim = self
            .journal
            .adopt(own, has_status_row, context, worker_name.to_owned())
            .await?;
        info!(flow_run_id = %run.id, attempt = claim.lease.attempt, "Flow run claimed.");
        match checked {
            Ok(_) => Ok(Offer::Claimed(Claimed::Own(Box::new(claim)))),
            Err(error) => {
                let ending = Ending::Failed {
                    state: StateName::Failed,
                    message: error.to_string(),
                    retry_after: None,
                };
                self.journal.finish(claim.lease, ending).await?;
                let told = self
                    .deliver(
                        claim.lease.flow_run_id,
                        super::delivery::Scope::Everything,
                        DEFAULT_PATIENCE,
                    )
                    .await;
                self.note(&told);
                Ok(Offer::Passed)
            }
        }
    }

    /// Asks for the states of these runs, if something said that one has changed or if it is time.
    pub(super) async fn check_if_due(&self, ids: &[FlowRunId]) {
        let is_wanted = self.check_wanted.swap(false, Ordering::Relaxed);
        let is_over = self.clocks().checked.is_none_or(|at| at.elapsed() >= SAFETY_CHECK);
        if !ids.is_empty() && (is_wanted || is_over) {
            self.clocks().checked = Some(Instant::now());
            self.check_own_runs(ids).await;
        }
    }

    /// A run of ours that is to be stopped at the server, or that is no longer ours there, is to be stopped here.
    pub(super) async fn check_own_runs(&self, ids: &[FlowRunId]) {
        let uuids: Vec<Uuid> = ids.iter().map(|id| id.as_uuid()).collect();
        let filter = json!({ "flow_runs": { "id": { "any_": uuids } }, "limit": super::api::PAGE });
        let found = self.client.filter_flow_runs(&filter).await;
        self.note(&found);
        let Ok(found) = found else { return };
        for id in ids {
            let state = found
                .iter()
                .find(|run| run.id == id.as_uuid())
                .map(|run| run.state.as_ref());
            let message = match state {
                None => "its run was deleted at the server".to_owned(),
                Some(None) => continue,
                Some(Some(state)) => match state.state_type() {
                    // A paused run is called scheduled by us; it is neither.
                    _ if state.state_type == "PAUSED" => continue,
                    StateType::Pending | StateType::Running => continue,
                    StateType::Cancelling => state
                        .message
                        .clone()
                        .unwrap_or_else(|| "cancelled on request".to_owned()),
                    // Its own program reports its end, and is still at it.
                    _ if self.is_foreign(*id) => continue,
                    other => state
                        .message
                        .clone()
                        .filter(|message| superseded_by(Some(message)).is_some())
                        .unwrap_or_else(|| format!("its state was set to {} at the server", other.as_str())),
                },
            };
            self.stop_here(*id, message).await;
        }
    }

    /// A run of ours is to be stopped: its worker sees it as being cancelled.
    pub(super) async fn stop_here(&self, id: FlowRunId, message: String) {
        if self.is_foreign(id) {
            self.cancel_foreign(id, message);
            return;
        }
        let newer = superseded_by(Some(&message));
        match self.journal.mirror(id, StateName::Cancelling, message, newer).await {
            Ok(true) => self.wake.notify_one(),
            Ok(false) => {}
            Err(error) => warn!(flow_run_id = %id, error = error.to_line(), "A cancellation could not be noted."),
        }
    }

    /// Claims of which nobody knows how they ended: the run is given back if the server took them. Runs of others'
    /// deployments whose worker is dead get their end.
    pub(super) async fn settle_claims(&self) -> Result<(), OrchestratorError> {
        let mut open = self.journal.broken_intents().await?;
        open.append(&mut self.doubtful.lock().unwrap_or_else(PoisonError::into_inner));
        for (index, &(id, transition_id)) in open.iter().enumerate() {
            match self.settle_claim(id, transition_id).await {
                Ok(false) => {}
                Ok(true) => {
                    self.journal.release(id).await?;
                    self.want_poll();
                }
                Err(error) => {
                    let left = open[index..].iter().copied();
                    self.doubtful
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .extend(left);
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// Whether the claim's slot is free.
    async fn settle_claim(&self, id: FlowRunId, transition_id: Uuid) -> Result<bool, PrefectError> {
        let run = match self.client.read_flow_run(id.as_uuid()).await {
            Ok(run) => run,
            Err(PrefectError::NotFound { .. }) => return Ok(foreign::end_left_behind(id).await),
            Err(error) => return Err(error),
        };
        let Some(state) = run.state else { return Ok(true) };
        if state.state_type() == StateType::Cancelling && !foreign::end_left_behind(id).await {
            return Ok(false);
        }
        // A run of another program's deployment goes on without its worker, also where its processes are not to be seen.
        if foreign::is_left_behind(id) || !self.journal.bury_foreign(id, transition_id) {
            return Ok(false);
        }
        if state.state_type() == StateType::Pending && state.state_details.transition_id == Some(transition_id) {
            let message = "given back: its worker did not hear that it had it".to_owned();
            let proposal =
                Proposal::new(StateName::Scheduled, Some(message), Uuid::new_v4()).due_at(self.client.server_now());
            self.client
                .set_flow_run_state(id.as_uuid(), &proposal, DEFAULT_PATIENCE)
                .await?;
            info!(flow_run_id = %id, "A run was given back whose claim was not heard of.");
        } else if matches!(state.state_type(), StateType::Running | StateType::Cancelling)
            && self.is_of_claim(id, transition_id).await?
        {
            // One of ours begins only after its claim is settled: this is another program's.
            let name = if state.state_type() == StateType::Running {
                StateName::Crashed
            } else {
                StateName::Cancelled
            };
            let message = match name {
                StateName::Crashed => "its worker and its process died".to_owned(),
                _ => state.message.unwrap_or_else(|| "cancelled on request".to_owned()),
            };
            let proposal = Proposal::new(name, Some(message), Uuid::new_v4());
            self.client
                .set_flow_run_state(id.as_uuid(), &proposal, DEFAULT_PATIENCE)
                .await?;
            info!(flow_run_id = %id, state = name.as_str(), "The run of another program's deployment lost its worker and its process.");
        }
        Ok(true)
    }

    /// Whether the run began by the claim of this transition, and not by another worker's.
    async fn is_of_claim(&self, id: FlowRunId, transition_id: Uuid) -> Result<bool, PrefectError> {
        let states = self.client.read_flow_run_states(id.as_uuid()).await?;
        let claim = states
            .iter()
            .filter(|state| state.state_type() == StateType::Pending)
            .max_by_key(|state| state.timestamp);
        Ok(claim.is_some_and(|state| state.state_details.transition_id == Some(transition_id)))
    }

    /// A run that waits here but was cancelled at the server is cancelled here, for its status row's sake.
    pub(super) async fn mirror_waiting(&self) -> Result<(), OrchestratorError> {
        let waiting = self.journal.runs_in(&[StateType::Scheduled]).await?;
        if waiting.is_empty() {
            return Ok(());
        }
        let uuids: Vec<Uuid> = waiting.iter().map(|id| id.as_uuid()).collect();
        let filter = json!({
            "flow_runs": { "id": { "any_": uuids }, "state": { "type": { "any_": [StateType::Cancelled] } } },
            "limit": super::api::PAGE,
        });
        for run in self.client.filter_flow_runs(&filter).await? {
            let message = run
                .state
                .and_then(|state| state.message)
                .unwrap_or_else(|| "cancelled on request".to_owned());
            let newer = superseded_by(Some(&message));
            self.journal
                .mirror(FlowRunId::from_uuid(run.id), StateName::Cancelled, message, newer)
                .await?;
        }
        Ok(())
    }
}

/// When the run is due, if it is not yet. One that was scheduled for the moment in which it was scheduled is due
/// whatever our clock says.
fn due_later(run: &ApiFlowRun, now: Timestamp) -> Option<Timestamp> {
    let state = run.state.as_ref()?;
    let due = state.state_details.scheduled_time.or(run.next_scheduled_start_time)?;
    let is_immediate = due <= state.timestamp + jiff::SignedDuration::from_secs(1);
    (!is_immediate && due > now).then_some(due)
}

/// Whether the run is pending by this very proposal: an answer that was lost is given once more as a REJECT.
fn is_ours_now(state: &ApiState, verdict: Verdict, transition_id: Uuid) -> bool {
    verdict == Verdict::Accept
        || (state.state_type() == StateType::Pending && state.state_details.transition_id == Some(transition_id))
}
