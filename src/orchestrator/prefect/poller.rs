//! Claiming: a poll offers runs, a PENDING that the server accepts is the claim.
//!
//! A run takes its slot of the journal before the server is asked for it, with the transition id of the proposal: a
//! worker that dies before it knows the answer leaves enough behind for the next one to give the run back.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::api::PAGE;
use super::arrivals::Arrivals;
use super::client::DEFAULT_PATIENCE;
use super::conversion;
use super::courier::{Courier, Scope};
use super::fence::{Fence, Standing};
use super::foreign::ForeignRuns;
use super::heartbeat::Heart;
use super::hints::Hints;
use super::journal::Journal;
use super::journal::forwarding::{ClaimMark, GivenRetries, RunContext};
use super::journal::intents::ClaimIntent;
use super::lost::{is_alarm, runs_at_work};
use super::model::{ApiDeployment, ApiFlowRun, ApiState};
use super::names::{flow_meant, is_of_this_program};
use super::proposals::{ANOTHER_AT_WORK, GIVEN_BACK, Proposals, Proposed, give_back, was_given_back};
use super::server::Server;
use super::steering::Steering;
use super::stopping::Stopping;
use crate::domain::error::OrchestratorError;
use crate::domain::flow::{FlowDefinition, Parameters, Subject, WorkQueue};
use crate::domain::id::FlowRunId;
use crate::domain::prefect_error::PrefectError;
use crate::domain::state::{CANCELLED_ON_REQUEST, StateName, StateType};
use crate::orchestrator::claims::{Claimed, Claims, Ending};
use crate::orchestrator::queue::Queue;

/// The poll that finds what no event told of.
const SAFETY_POLL: Duration = Duration::from_secs(10);
/// How often the states of our runs are asked for, whatever the events say.
const SAFETY_CHECK: Duration = Duration::from_secs(5);
/// How long a run whose claim was refused is left alone.
const REFUSED_WAIT: jiff::SignedDuration = jiff::SignedDuration::from_secs(1);
/// How long a worker waits for another one to give back what both have claimed, and how often it looks.
const YIELD_PATIENCE: Duration = Duration::from_secs(3);
const YIELD_LOOK: Duration = Duration::from_millis(200);
/// How long a result waits for the server to say that it is still wanted.
const COMMIT_PATIENCE: Duration = Duration::from_secs(10);
/// Most runs of one offer.
const OFFERS: u32 = 20;

/// What became of an offered run.
pub(super) enum Offer {
    Claimed(Claimed),
    /// Not for us now.
    Passed,
}

/// How a run is held at the server.
pub(super) struct ClaimedAtServer {
    /// By which transition.
    pub(super) claim: ClaimMark,
    /// A slot of the deployment's limit.
    pub(super) lease_id: Option<Uuid>,
    /// Name and tags are still to be told.
    pub(super) is_unnamed: bool,
}

/// When what was done last, and what is known of it.
#[derive(Default)]
struct Clocks {
    polled: Option<Instant>,
    checked: Option<Instant>,
    due: Option<Timestamp>,
    /// When a run that was offered too early is due.
    offered: Option<Timestamp>,
}

/// Claims runs, and keeps an eye on those that were claimed.
pub(super) struct Poller {
    server: Arc<Server>,
    journal: Journal,
    steering: Steering,
    hints: Arc<Hints>,
    proposals: Arc<Proposals>,
    foreign: Arc<ForeignRuns>,
    stopping: Stopping,
    courier: Arc<Courier>,
    fence: Arc<Fence>,
    heart: Arc<Heart>,
    arrivals: Arrivals,
    clocks: Mutex<Clocks>,
}

/// What a poller works with.
pub(super) struct PollerParts {
    pub(super) server: Arc<Server>,
    pub(super) journal: Journal,
    pub(super) hints: Arc<Hints>,
    pub(super) proposals: Arc<Proposals>,
    pub(super) foreign: Arc<ForeignRuns>,
    pub(super) stopping: Stopping,
    pub(super) courier: Arc<Courier>,
    pub(super) fence: Arc<Fence>,
    pub(super) heart: Arc<Heart>,
}

impl Poller {
    pub(super) fn new(parts: PollerParts) -> Self {
        Self {
            steering: Steering::new(parts.server.clone(), parts.journal.clone()),
            arrivals: Arrivals::new(parts.server.clone()),
            fence: parts.fence,
            heart: parts.heart,
            server: parts.server,
            journal: parts.journal,
            hints: parts.hints,
            proposals: parts.proposals,
            foreign: parts.foreign,
            stopping: parts.stopping,
            courier: parts.courier,
            clocks: Mutex::default(),
        }
    }

    fn clocks(&self) -> MutexGuard<'_, Clocks> {
        self.clocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Claims::next_due`].
    pub(super) async fn next_due(&self, flow_names: BTreeSet<String>) -> Result<Option<Timestamp>, OrchestratorError> {
        let due = self.journal.local.next_due(flow_names).await?;
        let mut clocks = self.clocks();
        clocks.due = due;
        Ok(due.into_iter().chain(clocks.offered).min())
    }

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
        self.journal.local.heard(Duration::ZERO).await;
        let taken = self.journal.intents.slots_taken().await?;
        let outcome = self.claim_from_server(worker_name, flow_names, taken).await;
        match outcome {
            Err(OrchestratorError::Prefect(error)) => {
                self.server.note::<(), _>(&Err(error));
                Ok(None)
            }
            Err(error) => Err(error),
            Ok(claim) => {
                self.server.note::<_, PrefectError>(&Ok(()));
                if claim.is_some() {
                    if taken == 0 {
                        // The state of the only run at work is known from its claim.
                        self.clocks().checked = Some(Instant::now());
                    }
                    self.hints.claimed();
                }
                Ok(claim)
            }
        }
    }

    fn poll_is_due(&self) -> bool {
        let is_wanted = self.hints.take_poll();
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
        let limit = if let Some(pool) = self.server.pool().await? {
            pool.concurrency_limit.unwrap_or(u32::MAX)
        } else {
            let pool = self.journal.local.read_work_pool().await?;
            if pool.is_paused { 0 } else { pool.concurrency_limit }
        };
        if taken >= limit {
            return Ok(None);
        }
        // The server's own count leaves out what was in the pool before.
        if self.server.is_pool_made_anew().await? && self.server.slots_taken().await? >= limit {
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
                        self.hints.poll_next_time();
                    }
                    return Ok(Some(claim));
                }
                Offer::Passed => passed += 1,
            }
        }
        Ok(None)
    }

    async fn poll(&self, flow_names: &BTreeSet<String>) -> Result<Vec<ApiFlowRun>, PrefectError> {
        if !self.server.settings().runner_mode {
            let offers = self
                .server
                .client()
                .poll_work_pool(&self.server.settings().work_pool, OFFERS)
                .await?;
            let mut runs: Vec<ApiFlowRun> = offers.into_iter().map(|offer| offer.flow_run).collect();
            runs.extend(self.in_no_queue(flow_names).await?);
            return Ok(runs);
        }
        let mut ids = self
            .server
            .names()
            .own_deployments(self.server.client(), flow_names)
            .await?;
        ids.extend(self.server.names().served_deployments(self.server.client()).await?);
        let mut runs = self.server.client().poll_deployments(&ids, OFFERS).await?;
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

    /// Runs of ours that wait, and that no poll of the pool offers: it was deleted under them, or was not there when they were made.
    async fn in_no_queue(&self, flow_names: &BTreeSet<String>) -> Result<Vec<ApiFlowRun>, PrefectError> {
        if !self.server.is_pool_made_anew().await? || self.server.refresh_pool().await?.is_paused {
            return Ok(Vec::new());
        }
        let ids = self
            .server
            .names()
            .own_deployments(self.server.client(), flow_names)
            .await?;
        let mut runs = self.server.client().poll_deployments(&ids, OFFERS).await?;
        runs.retain(|run| run.work_pool_name.is_none());
        Ok(runs)
    }

    async fn consider(
        &self,
        mut run: ApiFlowRun,
        worker_name: &str,
        flow_names: &BTreeSet<String>,
        limit: u32,
    ) -> Result<Offer, OrchestratorError> {
        let Some(deployment_id) = run.deployment_id else {
            return Ok(Offer::Passed);
        };
        if let Some(due) = due_later(&run, self.server.client().server_now()) {
            let wait = due.duration_since(self.server.client().server_now());
            self.look_again_after(wait);
            return Ok(Offer::Passed);
        }
        let deployment = self
            .server
            .names()
            .deployment(self.server.client(), deployment_id)
            .await?;
        let flow_name = self.server.names().flow(self.server.client(), run.flow_id).await?;
        let flow_name = flow_meant(&flow_name, &deployment).to_owned();
        let is_ours = deployment.name == self.server.settings().deployment_name && flow_names.contains(&flow_name);
        let flow = match self.server.flows().get(&flow_name) {
            Ok(flow) if is_ours => flow.clone(),
            // A flow of ours that another machine declares: its workers know what to do, this one does not.
            _ if is_of_this_program(&deployment, &flow_name) => {
                debug!(flow_run_id = %run.id, flow_name, "The run waits for a worker that knows its flow.");
                return Ok(Offer::Passed);
            }
            // A deployment that is not ours, of the same pool.
            _ => {
                let claim = self.foreign.claim(&run, &flow_name, worker_name, limit).await?;
                return Ok(claim.map_or(Offer::Passed, |claim| Offer::Claimed(Claimed::Foreign(Box::new(claim)))));
            }
        };
        run.parameters = flow.own_names(&run.parameters);
        let subject = Subject::of(&Parameters(run.parameters.clone()));
        let (run, is_unnamed) = self.arrivals.welcome(&flow, run).await?;
        // Where the oldest goes first, nothing is lost by claiming first and looking then; one that was given back looks before.
        let is_asked_before = flow.latest_wins || was_given_back(&run);
        if is_asked_before && !self.is_its_turn(&flow, &run, subject.video_id.as_deref()).await? {
            return Ok(Offer::Passed);
        }
        let id = FlowRunId::from_uuid(run.id);
        let intent = ClaimIntent {
            flow_run_id: id,
            transition_id: Uuid::new_v4(),
            flow_name: flow.name.clone(),
            subject,
            is_background: flow.work_queue == WorkQueue::Background,
        };
        let transition_id = intent.transition_id;
        if !self.journal.intents.reserve(intent, limit).await? {
            return Ok(Offer::Passed);
        }
        let state = match self.proposals.propose_pending(id, transition_id).await? {
            Proposed::Ours(state) => state,
            Proposed::Others => return Ok(Offer::Passed),
            Proposed::Refused => {
                self.look_again_after(REFUSED_WAIT);
                return Ok(Offer::Passed);
            }
        };
        let lease_id = state.state_details.deployment_concurrency_lease_id;
        match self.is_alone(&flow, &run).await {
            Ok(true) => {}
            Ok(false) => {
                // It looks before it is claimed again, so that it need not wait.
                let wait = if flow.latest_wins {
                    GIVEN_BACK
                } else {
                    SignedDuration::ZERO
                };
                give_back(self.server.client(), id, ANOTHER_AT_WORK, wait).await?;
                self.journal.intents.release(id, transition_id).await?;
                return Ok(Offer::Passed);
            }
            Err(error) => {
                // Given back once the server answers.
                self.proposals.doubt(id, transition_id);
                return Err(error.into());
            }
        }
        let claim = ClaimMark {
            transition_id,
            at: Some(state.timestamp),
            is_handed_over: false,
        };
        let claimed = ClaimedAtServer {
            claim,
            lease_id,
            is_unnamed,
        };
        self.adopt(run, flow, &deployment, claimed, worker_name).await
    }

    /// Whether the run, pending by a claim of this worker, is the only one of its flow and video at work. Each worker claims first
    /// and looks then, so that of two that claim in the same moment one sees the other at least: one of them gives back what it
    /// has, and the other waits for that. A limit of the server's for each video would hold as well, but leaves an object there
    /// for each, and a lease that stays taken when its machine is lost.
    pub(super) async fn is_alone(&self, flow: &FlowDefinition, run: &ApiFlowRun) -> Result<bool, PrefectError> {
        let Some(video_id) = run.video_id() else {
            return Ok(true);
        };
        let deadline = Instant::now() + YIELD_PATIENCE;
        loop {
            let mut others = runs_at_work(self.server.client(), [flow.name.as_str()]).await?;
            others.retain(|other| other.id != run.id && other.video_id() == Some(video_id));
            if others.is_empty() {
                return Ok(true);
            }
            let goes_before = |other: &ApiFlowRun| {
                let is_pending = other.state.as_ref().map(ApiState::state_type) == Some(StateType::Pending);
                let is_newer = other.made() > run.made();
                !is_pending || is_newer == flow.latest_wins
            };
            if others.iter().any(goes_before) || Instant::now() > deadline {
                return Ok(false);
            }
            tokio::time::sleep(YIELD_LOOK).await;
        }
    }

    /// Polls again then, whatever happens until then.
    fn look_again_after(&self, wait: jiff::SignedDuration) {
        let at = Timestamp::now() + wait;
        let mut clocks = self.clocks();
        clocks.offered = Some(clocks.offered.map_or(at, |before| before.min(at)));
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
        let others = self.steering.runs_of_video(flow, video_id, &states).await?;
        let state_of = |other: &ApiFlowRun| other.state.as_ref().map_or(StateType::Scheduled, ApiState::state_type);
        let others: Vec<&ApiFlowRun> = others.iter().filter(|other| other.id != run.id).collect();
        let newer = others
            .iter()
            .filter(|other| other.made() > run.made() && state_of(other) != StateType::Cancelling);
        if flow.latest_wins
            && let Some(latest) = newer.max_by_key(|other| other.made())
        {
            // Whoever queued it died before it could say so.
            self.steering.supersede_older(flow, latest).await?;
            return Ok(false);
        }
        let is_free = others.iter().all(|other| state_of(other) == StateType::Scheduled);
        if !is_free && flow.latest_wins {
            self.steering.supersede_older(flow, run).await?;
        }
        Ok(is_free)
    }

    pub(super) async fn adopt(
        &self,
        run: ApiFlowRun,
        flow: FlowDefinition,
        deployment: &ApiDeployment,
        claimed: ClaimedAtServer,
        worker_name: &str,
    ) -> Result<Offer, OrchestratorError> {
        // For people to read only: what can not be asked now does not lose the claim.
        let work_pool_id = self.server.pool().await.ok().flatten().map(|pool| pool.id);
        let context = RunContext {
            run_name: run.name.clone(),
            flow_id: run.flow_id,
            flow_name: flow.name.clone(),
            deployment_id: deployment.id,
            deployment_name: deployment.name.clone(),
            work_pool_id,
            work_pool_name: run.work_pool_name.clone(),
            tags: run.tags.clone(),
            is_unnamed: claimed.is_unnamed,
            concurrency_lease_id: claimed.lease_id,
            claim: Some(claimed.claim),
            retries: run.empirical_policy.retries.map(|retries| GivenRetries {
                retries,
                delay_s: seconds(run.empirical_policy.retry_delay),
            }),
        };
        let mut own = conversion::flow_run(
            &run,
            flow.name.clone(),
            format!("{}/{}", flow.name, deployment.name),
            flow.work_queue,
            None,
        );
        if own.failed_attempts > 0 {
            let had_ended = self.had_ended(run.id).await;
            self.server.note(&had_ended);
            if had_ended.unwrap_or(false) {
                // Somebody had it done again: its failures before that no longer count.
                own.failed_attempts = 0;
            }
        }
        // Whoever made the run may have used the API itself: what it gave is checked as if a caller had given it.
        let checked = flow.parse_stored(&run.parameters);
        if let Ok(arguments) = &checked {
            own.parameters = arguments.to_parameters();
            let subject = arguments.subject();
            (own.video_id, own.db_path) = (subject.video_id, subject.db_path);
        }
        let has_status_row = flow.keeps_status() && checked.is_ok();
        let trace = run.trace();
        let mut claim = self
            .journal
            .forwarding
            .adopt(own, has_status_row, context, worker_name.to_owned())
            .await?;
        claim.trace = trace.or(claim.trace);
        info!(flow_run_id = %run.id, attempt = claim.lease.attempt, "Flow run claimed.");
        self.fence.confirm(claim.lease.flow_run_id);
        let (heart, id) = (self.heart.clone(), claim.lease.flow_run_id);
        // Beside: a start is waited for. Who has the run is told by then, so that people and other workers know whose loss is its.
        let courier = self.courier.clone();
        tokio::spawn(async move {
            heart.begin(id).await;
            if let Err(error) = courier.deliver(id, Scope::Everything, DEFAULT_PATIENCE).await {
                debug!(flow_run_id = %id, "It is told with the next round who has the run: {}.", error.to_line());
            }
        });
        match checked {
            Ok(_) => Ok(Offer::Claimed(Claimed::Own(Box::new(claim)))),
            Err(error) => {
                if claimed.is_unnamed {
                    // It does not start, with which this would be told.
                    let changes = json!({ "name": run.name, "tags": run.tags });
                    let told = self
                        .server
                        .client()
                        .update_flow_run(run.id, &changes, DEFAULT_PATIENCE)
                        .await;
                    self.server.note(&told);
                }
                let ending = Ending::Failed {
                    state: StateName::Failed,
                    message: error.to_string(),
                    retry_after: None,
                };
                self.journal.local.finish(claim.lease, ending).await?;
                let told = self
                    .courier
                    .deliver(claim.lease.flow_run_id, Scope::Everything, DEFAULT_PATIENCE)
                    .await;
                self.server.note(&told);
                Ok(Offer::Passed)
            }
        }
    }

    /// Whether the run had ended before it came to wait for this claim, and not just with its machine. Whoever lets it be done again
    /// may do so with force, which leaves no other trace.
    async fn had_ended(&self, id: Uuid) -> Result<bool, PrefectError> {
        let mut states = self.server.client().read_flow_run_states(id).await?;
        states.sort_by_key(|state| state.timestamp);
        let before = states
            .iter()
            .rev()
            .skip_while(|state| state.state_type() == StateType::Pending)
            .find(|state| state.state_type() != StateType::Scheduled);
        Ok(before.is_some_and(|state| state.state_type().is_final() && !is_alarm(state)))
    }

    /// Asks for the states of these runs, if something said that one has changed or if it is time.
    pub(super) async fn check_if_due(&self, ids: &[FlowRunId]) {
        let is_wanted = self.hints.take_check();
        let is_over = self.clocks().checked.is_none_or(|at| at.elapsed() >= SAFETY_CHECK);
        if !ids.is_empty() && (is_wanted || is_over) {
            self.clocks().checked = Some(Instant::now());
            self.check_own_runs(ids).await;
        }
    }

    /// A run of ours that is to be stopped at the server, or that is no longer ours there, is to be stopped here.
    pub(super) async fn check_own_runs(&self, ids: &[FlowRunId]) {
        // By which claim they are ours before the server is asked: its answer is judged by that.
        let mut contexts = HashMap::new();
        for &id in ids {
            let known = self.journal.forwarding.run(id).await;
            self.server.note(&known);
            if let Ok(Some(known)) = known {
                contexts.insert(id, known.context);
            }
        }
        let uuids: Vec<Uuid> = ids.iter().map(|id| id.as_uuid()).collect();
        let filter = json!({ "flow_runs": { "id": { "any_": uuids } }, "limit": PAGE });
        let found = self.server.client().filter_flow_runs(&filter).await;
        self.server.note(&found);
        let Ok(found) = found else { return };
        for &id in ids {
            let Some(run) = found.iter().find(|run| run.id == id.as_uuid()) else {
                self.stopping
                    .stop(id, "its run was deleted at the server".to_owned())
                    .await;
                continue;
            };
            if self.foreign.is_held(id) {
                // Its own program reports its end, and is still at it.
                if let Some(state) = run.state.as_ref().filter(|state| state.state_type == "CANCELLING") {
                    let message = state.message.clone();
                    self.stopping
                        .stop(id, message.unwrap_or_else(|| CANCELLED_ON_REQUEST.to_owned()))
                        .await;
                }
                continue;
            }
            if let Some(context) = contexts.get(&id) {
                let checked = self.check_own_run(id, run, context).await;
                self.server.note(&checked);
            }
        }
    }

    async fn check_own_run(
        &self,
        id: FlowRunId,
        run: &ApiFlowRun,
        context: &RunContext,
    ) -> Result<(), OrchestratorError> {
        let mut standing = self.fence.standing(run, context).await?;
        let mut decided = run.state.clone().filter(|state| state.state_type().is_final());
        if self.hints.take_ended(run.id) && standing == Standing::Ours {
            decided = self.fence.overruled(run, context).await?;
            if let Some(state) = &decided {
                standing = Fence::ended_by(state);
            }
        }
        let is_decided = matches!(standing, Standing::Gone { is_taken: false, .. });
        self.heed(id, context, standing).await?;
        if let Some(state) = decided.filter(|_| is_decided)
            && let Some(claim) = context.claim
        {
            let courier = self.courier.clone();
            // Beside: a start of ours may be on its way, and is waited for.
            tokio::spawn(async move {
                if let Err(error) = courier.uphold(id, claim, &state).await {
                    warn!(flow_run_id = %id, "What was decided of the run may be told over by its start: {}.", error.to_line());
                }
            });
        }
        Ok(())
    }

    /// Does what follows from how a run of ours stands.
    async fn heed(&self, id: FlowRunId, context: &RunContext, standing: Standing) -> Result<(), OrchestratorError> {
        match standing {
            Standing::Ours => Ok(()),
            Standing::Cancelling(message) => {
                self.stopping
                    .stop(id, message.unwrap_or_else(|| CANCELLED_ON_REQUEST.to_owned()))
                    .await;
                Ok(())
            }
            Standing::TakenForDead => Ok(self.fence.revive(id, context, DEFAULT_PATIENCE).await?),
            Standing::Gone { why, is_taken } => self.fence.let_go(id, context, why, is_taken).await,
        }
    }

    /// Asks the server whether a run of ours may write its result, for some seconds.
    ///
    /// A server that does not answer by then is away for everybody, in all likelihood, and the run nobody else's: refused, its
    /// work would be lost. If this machine alone is cut off, another one may have taken the run over. That one has entered its
    /// own process into the video's status row before it began, and the row is read in the very transaction that would write:
    /// an older attempt is refused there.
    pub(super) async fn confirm_before_commit(&self, id: FlowRunId) {
        let deadline = Instant::now() + COMMIT_PATIENCE;
        loop {
            let asked = match self.journal.forwarding.run(id).await {
                Ok(None) => return,
                Ok(Some(run)) => {
                    let left = deadline.saturating_duration_since(Instant::now()).max(YIELD_LOOK);
                    let asking = self.fence.ask(id, &run.context);
                    match tokio::time::timeout(left, asking).await {
                        Ok(Ok(standing)) => self.heed(id, &run.context, standing).await,
                        Ok(Err(PrefectError::NotFound { .. })) => {
                            self.stopping
                                .stop(id, "its run was deleted at the server".to_owned())
                                .await;
                            Ok(())
                        }
                        Ok(Err(error)) => Err(error.into()),
                        Err(_) => Err(self.server.client().unreachable("no answer in time".to_owned()).into()),
                    }
                }
                Err(error) => Err(error),
            };
            self.server.note(&asked);
            if asked.is_ok() || Instant::now() >= deadline {
                return;
            }
            tokio::time::sleep(YIELD_LOOK).await;
        }
    }
}

/// A time of the API in whole seconds.
fn seconds(time: Option<f64>) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to what fits"
    )]
    let seconds = time.unwrap_or(0.0).clamp(0.0, 86_400.0 * 365.0) as u32;
    seconds
}

/// When the run is due, if it is not yet. One that was scheduled for the moment in which it was scheduled is due
/// whatever our clock says.
fn due_later(run: &ApiFlowRun, now: Timestamp) -> Option<Timestamp> {
    let state = run.state.as_ref()?;
    let due = state.state_details.scheduled_time.or(run.next_scheduled_start_time)?;
    let is_immediate = due <= state.timestamp + jiff::SignedDuration::from_secs(1);
    (!is_immediate && due > now).then_some(due)
}
