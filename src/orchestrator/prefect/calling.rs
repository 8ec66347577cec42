//! The callers' half: queueing, reading, cancelling and retrying runs at the server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use rusqlite::Connection;
use serde_json::{Value, json};
use tracing::warn;
use uuid::Uuid;

use super::api::PAGE;
use super::client::DEFAULT_PATIENCE;
use super::conversion::{self, ATTEMPT, FAILED_ATTEMPTS, refuse_instructions};
use super::elsewhere;
use super::introductions;
use super::journal::Journal;
use super::journal::kept::KeptRun;
use super::lost::{Because, KEPT_LATE, TIMES_LOST, give_on, is_alarm, is_online, since, worker_of};
use super::model::{ApiArtifact, ApiFlowRun, ApiState, ApiTaskRun, ApiWorker, TRACEPARENT};
use super::names::flow_meant;
use super::server::Server;
use super::steering::Steering;
use super::stranded::{self, Roll};
use crate::domain::error::OrchestratorError;
use crate::domain::flow::{FlowDefinition, Parameters, Subject, WorkQueue, flow_meant_by, legacy_names};
use crate::domain::flow_run::{EventCursor, FlowRun, FlowRunDetails, FlowRunEvent, LogLine, Progress, State, TaskRun};
use crate::domain::id::FlowRunId;
use crate::domain::prefect_error::PrefectError;
use crate::domain::state::{CANCELLED_ON_REQUEST, StateName, StateType};
use crate::orchestrator::attention::Attention;
use crate::orchestrator::events::{EventPage, Pages, merge};
use crate::orchestrator::local::entries;
use crate::orchestrator::local::queue::check_key;
use crate::orchestrator::queue::{FlowRunFilter, Intent, NewFlowRun, Queue, QueuedFlowRun, WorkPool, WorkerRecord};
use crate::orchestrator::video_file;
use crate::process::identity::ProcessIdentity;
use crate::settings::prefect::WhenUnreachable;

/// Of so many runs at work a list says how far they are.
const MOST_WITH_PROGRESS: u32 = 100;

/// Most log lines of one reading.
const LOG_PAGE: usize = PAGE as usize;
/// The label of the call that made a run, where equal runs share their key.
const MADE_BY: &str = "captionacc.made-by";
/// The label that tells a run's video from another file of that name.
const VIDEO_FILE: &str = "captionacc.video-file";
/// What keys of calls without one begin with.
const GENERATED: &str = "call-";
/// The namespace of the keys that equal runs share: any UUID, for ever the same.
const EQUALS: Uuid = Uuid::from_u128(0x5b0d_6c1e_77c4_4f6e_9a53_20c8_d9a1_4be7);

/// Calls of an application, as requests to the server.
pub(super) struct Caller {
    server: Arc<Server>,
    journal: Journal,
    steering: Steering,
}

impl Caller {
    pub(super) fn new(server: Arc<Server>, journal: Journal) -> Self {
        Self {
            steering: Steering::new(server.clone(), journal.clone()),
            server,
            journal,
        }
    }

    /// See [`crate::orchestrator::queue::Queue::create_flow_run`].
    pub(super) async fn create(&self, new: NewFlowRun, intent: &Intent) -> Result<QueuedFlowRun, OrchestratorError> {
        if intent.is_given_up() {
            return Err(OrchestratorError::Aborted);
        }
        check_key(new.idempotency_key.as_deref())?;
        refuse_instructions(&new.arguments.to_parameters())?;
        let when_unreachable = new.when_unreachable.unwrap_or(self.server.settings().when_unreachable);
        let deadline = Instant::now() + new.patience.unwrap_or(DEFAULT_PATIENCE);
        let key = new
            .idempotency_key
            .clone()
            .unwrap_or_else(|| format!("{GENERATED}{}", Uuid::new_v4()));
        match self.create_at_server(&new, &key, Some(intent), deadline).await {
            Err(OrchestratorError::Prefect(PrefectError::Unreachable { .. }))
                if when_unreachable == WhenUnreachable::Store =>
            {
                // The answer alone may have been lost: the same key makes the run one all the same.
                if intent.is_given_up() {
                    return Err(OrchestratorError::Aborted);
                }
                intent.commit();
                let work_queue = new.flow.work_queue;
                let flow_run_id = self.journal.kept.keep(new, key).await?;
                Ok(QueuedFlowRun {
                    flow_run_id,
                    work_queue,
                    created: true,
                })
            }
            outcome => outcome,
        }
    }

    /// Queues a run at the server under `key`.
    pub(super) async fn create_at_server(
        &self,
        new: &NewFlowRun,
        key: &str,
        intent: Option<&Intent>,
        deadline: Instant,
    ) -> Result<QueuedFlowRun, OrchestratorError> {
        let flow = &new.flow;
        let subject = new.arguments.subject();
        let video_id = subject.video_id.as_deref();
        let queued = |id: Uuid, created: bool| QueuedFlowRun {
            flow_run_id: FlowRunId::from_uuid(id),
            work_queue: flow.work_queue,
            created,
        };
        // Equal runs share a key at the server, so that one call finds the run that waits or makes it.
        let is_shared = !flow.latest_wins && video_id.is_some() && new.idempotency_key.is_none();
        let mut server_key = if is_shared {
            self.key_of_equals(new)
        } else {
            key.to_owned()
        };
        let mut body = description(new, is_shared.then_some(key));
        let mut deployment = self.own_deployment(flow, deadline).await?;
        let mut others = self.others_that_count(flow, video_id, deployment, deadline).await?;
        if let Some(video_file) = video_file::fingerprint(new).await {
            if new.idempotency_key.is_none()
                && let Some(equal) = equal_at_work(&others, new, &video_file)
            {
                return Ok(queued(equal, false));
            }
            body["labels"][VIDEO_FILE] = json!(video_file);
        }
        let mut is_committed = false;
        let mut is_looked_up_again = false;
        let (run, is_created) = loop {
            if !is_committed && intent.is_some_and(|intent| !intent.commit()) {
                return Err(OrchestratorError::Aborted);
            }
            is_committed = true;
            body["idempotency_key"] = json!(server_key);
            let patience = deadline.saturating_duration_since(Instant::now());
            let (run, is_created) = match self.server.client().create_flow_run(deployment, &body, patience).await {
                // Deployed anew since, under another id.
                Err(PrefectError::NotFound { .. }) if !is_looked_up_again => {
                    is_looked_up_again = true;
                    self.server.names().forget_own(&flow.name);
                    deployment = self.own_deployment(flow, deadline).await?;
                    others = self.others_that_count(flow, video_id, deployment, deadline).await?;
                    continue;
                }
                outcome => outcome?,
            };
            // An answer that was lost on the way is the same call's all the same.
            if !is_shared || is_created || run.label(MADE_BY).as_deref() == Some(key) {
                break (run, is_created);
            }
            let is_equal = |run: &ApiFlowRun| run.deployment_id == Some(deployment) && has_arguments(flow, run, new);
            let equal = if is_equal(&run) && is_waiting(&run) {
                Some(run)
            } else {
                // The key belongs to a run that has begun; later ones have keys of their own.
                let waiting = self.steering.runs_of_video(flow, video_id, &[StateType::Scheduled]);
                self.within(deadline, waiting).await?.into_iter().find(is_equal)
            };
            if let Some(equal) = equal {
                // Whoever asks again does not want to wait for the rest of a retry's delay.
                if equal.state.as_ref().map(ApiState::state_name) == Some(StateName::AwaitingRetry) {
                    self.steering.schedule_now(equal.id, "queued again").await?;
                }
                return Ok(queued(equal.id, false));
            }
            key.clone_into(&mut server_key);
        };
        if !is_created && new.idempotency_key.is_some() {
            return if has_arguments(flow, &run, new) {
                Ok(queued(run.id, false))
            } else {
                Err(OrchestratorError::InvalidArgument {
                    argument: "idempotencyKey".to_owned(),
                    problem: format!(
                        "{key:?} belongs to flow run {} with other arguments: take a new key",
                        run.id
                    ),
                })
            };
        }
        if let Err(error) = self.observe(&run, flow).await {
            warn!(
                error = error.to_line(),
                "A queued run could not be noted here; it runs all the same."
            );
        }
        if flow.latest_wins {
            // The run is queued, whatever happens here; a worker that claims it does the same.
            if let Ok(superseded) =
                tokio::time::timeout_at(deadline.into(), self.steering.supersede(&others, &run)).await
            {
                self.server.note(&superseded);
            }
        }
        Ok(queued(run.id, true))
    }

    /// The runs that a new one takes the place of. Asked for once, before: one that comes between is superseded by the worker that
    /// claims the new one.
    async fn others_that_count(
        &self,
        flow: &FlowDefinition,
        video_id: Option<&str>,
        deployment: Uuid,
        deadline: Instant,
    ) -> Result<Vec<ApiFlowRun>, PrefectError> {
        if !flow.latest_wins {
            return Ok(Vec::new());
        }
        self.within(deadline, self.steering.runs_that_count_of(flow, video_id, deployment))
            .await
    }

    async fn own_deployment(&self, flow: &FlowDefinition, deadline: Instant) -> Result<Uuid, PrefectError> {
        let deployment = self.server.names().own_deployment(self.server.client(), &flow.name);
        self.within(deadline, deployment).await
    }

    /// The idempotency key that equal runs have in common: of the same deployment, with the same arguments.
    fn key_of_equals(&self, new: &NewFlowRun) -> String {
        let parameters = new.arguments.to_parameters();
        let arguments: BTreeMap<_, _> = parameters.0.iter().collect();
        let content = json!([new.flow.name, self.server.settings().deployment_name, arguments]).to_string();
        format!("equal-{}", Uuid::new_v5(&EQUALS, content.as_bytes()))
    }

    /// What `call` answers by then.
    async fn within<T>(
        &self,
        deadline: Instant,
        call: impl Future<Output = Result<T, PrefectError>>,
    ) -> Result<T, PrefectError> {
        tokio::time::timeout_at(deadline.into(), call)
            .await
            .unwrap_or_else(|_| Err(self.server.client().unreachable("no answer in time".to_owned())))
    }

    async fn observe(&self, run: &ApiFlowRun, flow: &FlowDefinition) -> Result<(), OrchestratorError> {
        let own = conversion::flow_run(run, flow.name.clone(), flow.deployment(), flow.work_queue, None);
        self.journal.forwarding.observe(own, flow.clone()).await
    }

    /// The run at the server; its id there, if it was kept here while the server was away.
    async fn find(&self, id: FlowRunId) -> Result<Found, OrchestratorError> {
        match self.server.client().read_flow_run(id.as_uuid()).await {
            Ok(run) => Ok(Found::AtServer(Box::new(run))),
            Err(error @ (PrefectError::NotFound { .. } | PrefectError::Unreachable { .. })) => {
                let is_missing = matches!(error, PrefectError::NotFound { .. });
                match self.journal.kept.read(id).await? {
                    Some(stored) => match stored.prefect_id {
                        Some(prefect_id) => {
                            let run = self.server.client().read_flow_run(prefect_id.as_uuid()).await;
                            Ok(Found::AtServer(Box::new(run.map_err(|error| missing(error, id))?)))
                        }
                        None => Ok(Found::Stored(stored)),
                    },
                    None if is_missing => Err(OrchestratorError::FlowRunNotFound(id)),
                    None => Err(error.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn find_at_server(&self, id: FlowRunId) -> Result<ApiFlowRun, OrchestratorError> {
        match self.find(id).await? {
            Found::AtServer(run) => Ok(*run),
            Found::Stored(stored) => Err(OrchestratorError::InvalidState {
                flow_run_id: id,
                state: self.stored_as_run(&stored)?.state.name,
                problem: stored.problem.map_or_else(
                    || "it waits here for Prefect's API: try again once that answers".to_owned(),
                    |problem| format!("{problem}, and Prefect's API has never heard of it: queue a new run"),
                ),
            }),
        }
    }

    pub(super) async fn own_run(
        &self,
        run: &ApiFlowRun,
        artifacts: &[ApiArtifact],
    ) -> Result<FlowRun, OrchestratorError> {
        let flow_name = self.server.names().flow(self.server.client(), run.flow_id).await?;
        let mut meant = flow_meant_by(&flow_name);
        let deployment = match run.deployment_id {
            Some(id) => match self.server.names().deployment(self.server.client(), id).await {
                Ok(deployment) => {
                    meant = flow_meant(&flow_name, &deployment);
                    format!("{flow_name}/{}", deployment.name)
                }
                // Deleted since.
                Err(PrefectError::NotFound { .. }) => format!("{flow_name}/{}", self.server.settings().deployment_name),
                Err(error) => return Err(error.into()),
            },
            None => flow_name.clone(),
        };
        let flow = self.server.flows().get(meant).ok();
        let queue = flow.map_or(WorkQueue::Background, |flow| flow.work_queue);
        let named;
        let run = match flow {
            Some(flow) if meant != flow_name => {
                named = ApiFlowRun {
                    parameters: flow.own_names(&run.parameters),
                    ..run.clone()
                };
                &named
            }
            _ => run,
        };
        Ok(conversion::flow_run(
            run,
            meant.to_owned(),
            deployment,
            queue,
            conversion::progress(artifacts),
        ))
    }

    /// See [`crate::orchestrator::queue::Queue::read_flow_run`].
    pub(super) async fn read(&self, id: FlowRunId) -> Result<FlowRun, OrchestratorError> {
        match self.find(id).await? {
            Found::AtServer(run) => {
                let is_begun = run.run_count > 0;
                let artifacts = if is_begun {
                    self.artifacts(run.id).await?
                } else {
                    Vec::new()
                };
                self.with_newest_progress(self.own_run(&run, &artifacts).await?).await
            }
            Found::Stored(stored) => self.stored_as_run(&stored),
        }
    }

    /// The server hears some seconds late how far a run of this machine is.
    async fn with_newest_progress(&self, mut run: FlowRun) -> Result<FlowRun, OrchestratorError> {
        if run.state.state_type != StateType::Running {
            return Ok(run);
        }
        let here = match self.journal.local.read_flow_run(run.flow_run_id).await {
            Err(OrchestratorError::FlowRunNotFound(_)) => return Ok(run),
            read => read?,
        };
        let reported_at = |run: &FlowRun| run.progress.as_ref().map(|progress| progress.timestamp);
        if here.state.state_type == StateType::Running && reported_at(&here) > reported_at(&run) {
            run.progress = here.progress;
        }
        Ok(run)
    }

    fn stored_as_run(&self, stored: &KeptRun) -> Result<FlowRun, OrchestratorError> {
        let flow = self.server.flows().get(&stored.flow_name)?;
        let parameters = Parameters(stored.parameters.clone());
        let subject = Subject::of(&parameters);
        let (name, message) = match &stored.problem {
            Some(problem) if problem == CANCELLED_ON_REQUEST => (StateName::Cancelled, problem.clone()),
            Some(problem) => (StateName::Failed, problem.clone()),
            None => (
                StateName::Scheduled,
                format!(
                    "waits for Prefect's API at {} to answer",
                    self.server.client().address()
                ),
            ),
        };
        Ok(FlowRun {
            flow_run_id: stored.id,
            flow_name: flow.name.clone(),
            deployment: flow.deployment(),
            tags: flow.tags(subject.video_id.as_deref()),
            parameters,
            video_id: subject.video_id,
            db_path: subject.db_path,
            priority: flow.work_queue,
            state: State {
                state_type: name.state_type(),
                name,
                message: Some(message),
                timestamp: stored.created_at,
            },
            attempt: 0,
            failed_attempts: 0,
            progress: None,
            superseded_by: None,
            worker_name: None,
            pid: None,
            created_at: stored.created_at,
            scheduled_at: stored.created_at,
            started_at: None,
            ended_at: stored.problem.as_ref().map(|_| stored.created_at),
        })
    }

    async fn artifacts(&self, id: Uuid) -> Result<Vec<ApiArtifact>, PrefectError> {
        let filter = json!({
            "artifacts": { "flow_run_id": { "any_": [id] } },
            "sort": "CREATED_DESC",
            "limit": PAGE,
        });
        let mut artifacts = self.server.client().filter_artifacts(&filter).await?;
        artifacts.reverse();
        Ok(artifacts)
    }

    /// See [`crate::orchestrator::queue::Queue::read_flow_run_details`].
    pub(super) async fn details(&self, id: FlowRunId) -> Result<FlowRunDetails, OrchestratorError> {
        let run = match self.find(id).await? {
            Found::AtServer(run) => run,
            Found::Stored(stored) => {
                let flow_run = self.stored_as_run(&stored)?;
                return Ok(FlowRunDetails {
                    states: vec![flow_run.state.clone()],
                    flow_run,
                    task_runs: Vec::new(),
                    artifacts: Vec::new(),
                });
            }
        };
        let states = self.server.client().read_flow_run_states(run.id).await?;
        let artifacts = self.artifacts(run.id).await?;
        let filter = json!({ "flow_runs": { "id": { "any_": [run.id] } }, "sort": "ID_DESC", "limit": PAGE });
        let mut task_runs = self.server.client().filter_task_runs(&filter).await?;
        task_runs.sort_by_key(|task_run| (task_run.flow_run_run_count, task_run.start_time, task_run.created));
        let mut states: Vec<State> = states.iter().map(conversion::state).collect();
        states.sort_by_key(|state| state.timestamp);
        Ok(FlowRunDetails {
            task_runs: self.task_runs(&run, &task_runs),
            flow_run: self.with_newest_progress(self.own_run(&run, &artifacts).await?).await?,
            states,
            artifacts: artifacts.iter().filter_map(conversion::artifact).collect(),
        })
    }

    /// The task runs; one that did not end has ended with its attempt. A server hears of ends some seconds late.
    fn task_runs(&self, run: &ApiFlowRun, found: &[ApiTaskRun]) -> Vec<TaskRun> {
        let since = since(run);
        let is_settled = self.server.client().server_now() > since + KEPT_LATE;
        let is_at_work = run.state.as_ref().is_some_and(|state| state.state_type().holds_slot());
        let current = run.label(ATTEMPT).and_then(|attempt| attempt.parse().ok()).unwrap_or(0);
        let has_ended = |task_run: &TaskRun| !is_at_work || task_run.attempt < current;
        let mut shown: Vec<TaskRun> = found.iter().map(conversion::task_run).collect();
        for task_run in shown.iter_mut().filter(|_| is_settled) {
            if !task_run.state.state_type.is_final() && has_ended(task_run) {
                let name = StateName::Crashed;
                task_run.state = State {
                    state_type: name.state_type(),
                    name,
                    message: Some("it ended with its attempt".to_owned()),
                    timestamp: since,
                };
                task_run.ended_at = Some(since);
            }
        }
        shown
    }

    /// See [`crate::orchestrator::queue::Queue::list_flow_runs`].
    pub(super) async fn list(&self, filter: &FlowRunFilter) -> Result<Vec<FlowRun>, OrchestratorError> {
        let before = match filter.before {
            Some(id) => Some(self.find_at_server(id).await?),
            None => None,
        };
        let mut runs = Vec::new();
        let mut offset = 0;
        let wanted = usize::try_from(filter.limit).unwrap_or(usize::MAX);
        let its_runs = self.server.its_runs().await?;
        while runs.len() < wanted {
            let limit = if filter.video_id.is_some() {
                PAGE
            } else {
                PAGE.min(filter.limit.saturating_add(1))
            };
            let mut conditions = json!({});
            if let Some(video_id) = &filter.video_id {
                // Of those that wait, some may have no tag yet: others have queued them. What they are about is read.
                conditions["operator"] = json!("or_");
                conditions["tags"] = json!({ "all_": [format!("video:{video_id}")] });
                conditions["state"] = json!({ "type": { "any_": [StateType::Scheduled] } });
            } else if !filter.state_types.is_empty() {
                conditions["state"] = json!({ "type": { "any_": filter.state_types } });
            }
            // With a video the conditions are alternatives, so that this is looked at below.
            let before_time = before.as_ref().and_then(|run| run.expected_start_time);
            if let Some(time) = before_time.filter(|_| filter.video_id.is_none()) {
                conditions["expected_start_time"] = json!({ "before_": time });
            }
            let mut query = its_runs.clone();
            query["flow_runs"] = conditions;
            query["sort"] = json!("EXPECTED_START_TIME_DESC");
            query["offset"] = json!(offset);
            query["limit"] = json!(limit);
            if let Some(flow_name) = &filter.flow_name {
                let mut names = vec![flow_name.clone()];
                names.extend(
                    legacy_names()
                        .filter(|name| flow_meant_by(name) == *flow_name)
                        .map(str::to_owned),
                );
                query["flows"] = json!({ "name": { "any_": names } });
            }
            let page = self.server.client().filter_flow_runs(&query).await?;
            let is_last = page.len() < limit as usize;
            offset += page.len();
            for run in page {
                let is_older = before.as_ref().is_none_or(|before| before.id != run.id)
                    && before_time.is_none_or(|time| run.expected_start_time.is_none_or(|at| at <= time));
                if runs.len() < wanted && is_older && is_wanted(filter, &run) {
                    runs.push(self.own_run(&run, &[]).await?);
                }
            }
            if is_last {
                break;
            }
        }
        self.show_progress(&mut runs).await?;
        Ok(runs)
    }

    /// See [`crate::orchestrator::queue::Queue::read_progress`].
    pub(super) async fn progress(&self) -> Result<Vec<(FlowRunId, Progress)>, OrchestratorError> {
        let known = self.at_work_here().await?.into_iter();
        Ok(known.filter_map(|run| Some((run.flow_run_id, run.progress?))).collect())
    }

    /// The runs that this machine works on, as its journal has them.
    async fn at_work_here(&self) -> Result<Vec<FlowRun>, OrchestratorError> {
        let filter = FlowRunFilter {
            state_types: vec![StateType::Running],
            limit: MOST_WITH_PROGRESS,
            ..FlowRunFilter::default()
        };
        self.journal.local.list_flow_runs(filter).await
    }

    /// Says of runs at work how far they are: the server's lists do not. Of this machine's the journal knows it, and newer.
    async fn show_progress(&self, runs: &mut [FlowRun]) -> Result<(), OrchestratorError> {
        let is_at_work = |run: &FlowRun| run.state.state_type == StateType::Running && run.progress.is_none();
        if !runs.iter().any(is_at_work) {
            return Ok(());
        }
        let known = self.at_work_here().await?;
        let mut elsewhere = BTreeMap::new();
        for run in runs.iter_mut().filter(|run| is_at_work(run)) {
            match known.iter().find(|known| known.flow_run_id == run.flow_run_id) {
                Some(known) => run.progress.clone_from(&known.progress),
                None => drop(elsewhere.insert(run.flow_run_id.as_uuid(), run)),
            }
        }
        if elsewhere.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = elsewhere.keys().copied().take(MOST_WITH_PROGRESS as usize).collect();
        let filter = elsewhere::progress_filter(&ids);
        for artifact in self.server.client().filter_artifacts(&filter).await? {
            let of = artifact.flow_run_id.and_then(|id| elsewhere.get_mut(&id));
            if let Some(run) = of.filter(|run| run.progress.is_none()) {
                run.progress = conversion::progress(&[artifact]);
            }
        }
        Ok(())
    }

    /// See [`crate::orchestrator::queue::Queue::read_logs`]. The cursor counts lines, in the order of their times.
    pub(super) async fn logs(&self, id: FlowRunId, cursor: i64) -> Result<(Vec<LogLine>, i64), OrchestratorError> {
        match self.find(id).await? {
            Found::AtServer(run) => Ok(self.log_page(run.id, cursor).await?),
            Found::Stored(_) => Ok((Vec::new(), cursor)),
        }
    }

    async fn log_page(&self, id: Uuid, cursor: i64) -> Result<(Vec<LogLine>, i64), PrefectError> {
        let filter = json!({
            "logs": { "flow_run_id": { "any_": [id] } },
            "sort": "TIMESTAMP_ASC",
            "offset": cursor.max(0),
            "limit": LOG_PAGE,
        });
        let lines: Vec<LogLine> = self
            .server
            .client()
            .filter_logs(&filter)
            .await?
            .into_iter()
            .map(conversion::log_line)
            .collect();
        let next = cursor.max(0) + i64::try_from(lines.len()).unwrap_or(0);
        Ok((lines, next))
    }

    /// See [`crate::orchestrator::queue::Queue::read_events`].
    pub(super) async fn events(&self, id: FlowRunId, cursor: EventCursor) -> Result<EventPage, OrchestratorError> {
        let run = match self.find(id).await? {
            Found::AtServer(run) => run,
            Found::Stored(stored) => {
                let state = self.stored_as_run(&stored)?.state;
                // It is entered anew once the server has the run.
                let is_new = cursor.state == 0 && cursor.state_at != Some(state.timestamp);
                let next = EventCursor {
                    state_at: Some(state.timestamp),
                    has_ended: state.state_type.is_final(),
                    ..cursor
                };
                let events = is_new.then_some(FlowRunEvent::State { state, attempt: 0 });
                return Ok(EventPage {
                    cursors: events.iter().map(|_| next).collect(),
                    events: events.into_iter().collect(),
                    next,
                    has_more: false,
                });
            }
        };
        let newest = run.state.as_ref().map(|state| state.timestamp);
        // Read first, so that a final state never comes without the log lines before it; and only if there is a new one.
        let mut states: Vec<State> = if newest.is_some() && newest == cursor.state_at {
            Vec::new()
        } else {
            let states = self.server.client().read_flow_run_states(run.id).await?;
            states.iter().map(conversion::state).collect()
        };
        states.sort_by_key(|state| state.timestamp);
        // What never began has said nothing.
        let name = run.state.as_ref().map(ApiState::state_name);
        let is_begun = run.run_count > 0 || !matches!(name, None | Some(StateName::Scheduled | StateName::Late));
        let (lines, log) = if is_begun && !cursor.without_logs {
            self.log_page(run.id, cursor.log).await?
        } else {
            (Vec::new(), cursor.log)
        };
        let is_full = lines.len() >= LOG_PAGE;
        let progress = if is_begun && !cursor.without_progress && !is_full {
            conversion::progress(&self.artifacts(run.id).await?)
        } else {
            None
        };
        let mut attempt = 0;
        let states = (1..).zip(states).map(|(number, state)| {
            attempt += u32::from(state.state_type == StateType::Pending);
            (number, attempt, state)
        });
        let pages = Pages {
            // Lines are counted.
            lines: (cursor.log.max(0) + 1..).zip(lines).collect(),
            log,
            is_full,
            progress: progress.map(|progress| (progress.timestamp.as_millisecond(), progress)),
            states: states.collect(),
            has_ended: run.state.as_ref().is_some_and(|state| state.state_type().is_final()),
        };
        Ok(merge(cursor, pages))
    }

    /// See [`crate::orchestrator::queue::Queue::cancel_flow_run`].
    pub(super) async fn cancel(&self, id: FlowRunId) -> Result<FlowRun, OrchestratorError> {
        let run = match self.find(id).await? {
            Found::AtServer(run) => run,
            Found::Stored(stored) if stored.problem.is_none() => {
                self.journal
                    .kept
                    .settle(id, Err(CANCELLED_ON_REQUEST.to_owned()))
                    .await?;
                return self.read(id).await;
            }
            Found::Stored(stored) => return self.stored_as_run(&stored),
        };
        let own = self.own_run(&run, &[]).await?;
        match own.state.state_type {
            StateType::Cancelled => return Ok(own),
            StateType::Cancelling => {
                self.end_if_stranded(&run).await?;
                return self.read(id).await;
            }
            StateType::Completed | StateType::Failed | StateType::Crashed => {
                return Err(OrchestratorError::InvalidState {
                    flow_run_id: id,
                    state: own.state.name,
                    problem: "it has ended, there is nothing to cancel".to_owned(),
                });
            }
            StateType::Scheduled | StateType::Pending | StateType::Running => {}
        }
        self.steering.ask_to_cancel(&run, CANCELLED_ON_REQUEST).await?;
        self.end_if_stranded(&self.server.client().read_flow_run(run.id).await?)
            .await?;
        self.read(id).await
    }

    /// Nobody is left who could stop a run whose worker is not to be heard: it has stopped. Should its worker come back, it finds
    /// that, and stops.
    async fn end_if_stranded(&self, run: &ApiFlowRun) -> Result<(), OrchestratorError> {
        let is_cancelling = run.state.as_ref().map(ApiState::state_type) == Some(StateType::Cancelling);
        if is_cancelling && self.is_stranded(run).await? {
            give_on(self.server.client(), run, Because::Asked("cancelled")).await?;
        }
        Ok(())
    }

    async fn is_stranded(&self, run: &ApiFlowRun) -> Result<bool, OrchestratorError> {
        let local = self.journal.local.read_work_pool().await?.workers;
        let mut roll = Roll::call(self.server.client(), &local).await?;
        Ok(roll.is_offline(run).await?)
    }

    /// See [`crate::orchestrator::queue::Queue::take_over_flow_run`].
    pub(super) async fn take_over(&self, id: FlowRunId, is_forced: bool) -> Result<FlowRun, OrchestratorError> {
        let api = self.find_at_server(id).await?;
        let refused = |problem: String| OrchestratorError::InvalidState {
            flow_run_id: id,
            state: api.state.as_ref().map_or(StateName::Scheduled, ApiState::state_name),
            problem,
        };
        let is_held = api.state.as_ref().is_some_and(|state| state.state_type().holds_slot());
        if !is_held && !api.state.as_ref().is_some_and(is_alarm) {
            return Err(refused("no worker has it, so there is nothing to take over".to_owned()));
        }
        if is_held && !is_forced && !self.is_stranded(&api).await? {
            let worker = worker_of(&api).map_or_else(|| "its worker".to_owned(), |name| format!("its worker {name}"));
            return Err(refused(format!(
                "{worker} was heard not long ago: wait, or cancel the run, or take it over all the same with --force"
            )));
        }
        give_on(self.server.client(), &api, Because::Asked("on request")).await?;
        self.read(id).await
    }

    /// See [`crate::orchestrator::queue::Queue::read_attention`].
    pub(super) async fn attention(&self) -> Result<Attention, OrchestratorError> {
        let local = self.journal.local.read_work_pool().await?.workers;
        Ok(stranded::attention(self.server.client(), self.server.flows(), &local).await?)
    }

    /// See [`crate::orchestrator::queue::Queue::retry_flow_run`].
    pub(super) async fn retry(&self, id: FlowRunId) -> Result<FlowRun, OrchestratorError> {
        let api = self.find_at_server(id).await?;
        let run = self.own_run(&api, &[]).await?;
        let refused = |problem: &str| OrchestratorError::InvalidState {
            flow_run_id: id,
            state: run.state.name,
            problem: problem.to_owned(),
        };
        match (run.state.state_type, run.state.name) {
            (StateType::Failed | StateType::Crashed | StateType::Cancelled, _) | (_, StateName::AwaitingRetry) => {}
            (StateType::Scheduled, _) => return Err(refused("it is queued already")),
            (StateType::Completed, _) => return Err(refused("it is done: queue a new run to do it again")),
            _ if self.is_stranded(&api).await? => {
                give_on(self.server.client(), &api, Because::Asked("retried on request")).await?;
                return self.read(id).await;
            }
            _ => return Err(refused("it has not ended: cancel it first, or wait")),
        }
        // A newer run has taken the captions that it names, and no others.
        if run.parameters.caption_ids().is_none()
            && let Ok(flow) = self.server.flows().get(&run.flow_name)
        {
            let alive = [
                StateType::Scheduled,
                StateType::Pending,
                StateType::Running,
                StateType::Cancelling,
                StateType::Completed,
            ];
            let newer = self
                .steering
                .runs_of_video(flow, run.video_id.as_deref(), &alive)
                .await?
                .into_iter()
                .find(|other| other.made() > api.made());
            if let Some(newer) = newer {
                return Err(refused(&format!(
                    "flow run {} for the same video is newer: retry that one",
                    newer.id
                )));
            }
        }
        let labels = json!({ FAILED_ATTEMPTS: 0, TIMES_LOST: 0 });
        let labels = labels.as_object().expect("an object");
        self.server
            .client()
            .label_flow_run(api.id, labels, DEFAULT_PATIENCE)
            .await?;
        // A run with a process would not be cancelled while it waits.
        self.server
            .client()
            .update_flow_run(api.id, &json!({ "infrastructure_pid": null }), DEFAULT_PATIENCE)
            .await?;
        self.steering.schedule_now(api.id, "retried on request").await?;
        self.read(id).await
    }

    /// See [`crate::orchestrator::queue::Queue::read_work_pool`].
    pub(super) async fn work_pool(&self) -> Result<WorkPool, OrchestratorError> {
        let journal = self.journal.local.read_work_pool().await?;
        let deployments = json!({ "name": { "any_": [self.server.settings().deployment_name] } });
        let mut waiting = Vec::new();
        for queue in WorkQueue::ALL {
            let filter = json!({
                "deployments": deployments,
                "flow_runs": {
                    "state": { "type": { "any_": [StateType::Scheduled] } },
                    "tags": { "all_": [queue.as_str()] },
                },
            });
            waiting.push((queue, self.server.client().count_flow_runs(&filter).await?));
        }
        if self.server.settings().runner_mode {
            return Ok(WorkPool { waiting, ..journal });
        }
        let pool = self.server.refresh_pool().await?;
        let active = self.server.slots_taken().await?;
        let mut workers = journal.workers;
        let known = self.server.client().read_workers(&pool.name).await?;
        // Of others only those that live: their processes are not of this machine.
        let is_elsewhere = |worker: &&ApiWorker| {
            is_online(self.server.client(), &known, &worker.name) && workers.iter().all(|here| here.name != worker.name)
        };
        let elsewhere: Vec<&ApiWorker> = known.iter().filter(is_elsewhere).collect();
        if !elsewhere.is_empty() {
            let mut introductions = introductions::read(self.server.client()).await?;
            for worker in elsewhere {
                let (version, started_at) = introductions
                    .remove(&worker.name)
                    .map(|said| (said.version, Some(said.started_at)))
                    .unwrap_or_default();
                workers.push(WorkerRecord {
                    process: ProcessIdentity {
                        pid: 0,
                        start_ticks: 0,
                        boot_id: String::new(),
                        pid_namespace: String::new(),
                    },
                    version,
                    // Of one that has not said it, the server knows when it heard that name first.
                    started_at: started_at.or(worker.created).unwrap_or(jiff::Timestamp::UNIX_EPOCH),
                    is_alive: true,
                    name: worker.name.clone(),
                });
            }
        }
        let concurrency_limit = pool.concurrency_limit.unwrap_or(u32::MAX);
        let read_limit = move |connection: &Connection| Ok(entries::background_limit(connection, concurrency_limit)?);
        Ok(WorkPool {
            name: pool.name,
            concurrency_limit,
            background_limit: self.journal.local.read(read_limit).await?,
            is_paused: pool.is_paused,
            active,
            waiting,
            workers,
        })
    }

    /// See [`crate::orchestrator::queue::Queue::set_paused`]. In runner mode there is no pool to pause: it concerns
    /// the workers of this machine.
    pub(super) async fn set_paused(&self, is_paused: bool) -> Result<(), OrchestratorError> {
        if self.server.settings().runner_mode {
            return self.journal.local.set_paused(is_paused).await;
        }
        self.server
            .client()
            .update_work_pool(&self.server.settings().work_pool, &json!({ "is_paused": is_paused }))
            .await?;
        self.server.refresh_pool().await?;
        Ok(())
    }

    /// See [`crate::orchestrator::queue::Queue::set_concurrency_limit`]. In runner mode it is that of this machine.
    pub(super) async fn set_concurrency_limit(&self, limit: u32) -> Result<(), OrchestratorError> {
        if self.server.settings().runner_mode {
            return self.journal.local.set_concurrency_limit(limit).await;
        }
        self.server
            .client()
            .update_work_pool(
                &self.server.settings().work_pool,
                &json!({ "concurrency_limit": limit }),
            )
            .await?;
        self.server.refresh_pool().await?;
        Ok(())
    }
}

/// A run as the server is to know it, but for the video's file; equal runs that share a key say whose call made them.
fn description(new: &NewFlowRun, made_by: Option<&str>) -> Value {
    let subject = new.arguments.subject();
    let video_id = subject.video_id.as_deref();
    let mut body = json!({ "parameters": new.arguments.to_parameters(), "tags": new.flow.tags(video_id) });
    if let Some(video_id) = video_id {
        body["name"] = json!(new.flow.run_name(video_id));
    }
    if let Some(key) = made_by {
        body["labels"][MADE_BY] = json!(key);
    }
    if let Some(trace) = new.trace {
        body["labels"][TRACEPARENT] = json!(trace);
    }
    body
}

/// The run for this video that counts, if it is at work on the same as the new one.
fn equal_at_work(runs: &[ApiFlowRun], new: &NewFlowRun, video_file: &str) -> Option<Uuid> {
    let newest = runs.iter().max_by_key(|run| run.made())?;
    let state = newest.state.as_ref().map(ApiState::state_type);
    let is_equal = matches!(state, Some(StateType::Pending | StateType::Running))
        && newest.label(VIDEO_FILE).as_deref() == Some(video_file)
        && has_arguments(&new.flow, newest, new);
    is_equal.then_some(newest.id)
}

/// Whether a run at the server has the arguments of this call; the server fills in what its deployment has.
fn has_arguments(flow: &FlowDefinition, run: &ApiFlowRun, new: &NewFlowRun) -> bool {
    flow.parse_stored(&run.parameters)
        .is_ok_and(|arguments| arguments == new.arguments)
}

/// Whether the run is one of those that a filter with a video asks for, of which the server returns more.
fn is_wanted(filter: &FlowRunFilter, run: &ApiFlowRun) -> bool {
    let Some(video_id) = &filter.video_id else { return true };
    let state_type = run.state.as_ref().map_or(StateType::Scheduled, ApiState::state_type);
    run.video_id() == Some(video_id.as_str())
        && (filter.state_types.is_empty() || filter.state_types.contains(&state_type))
}

/// The key that a caller gave to a run that was kept here; none, if it gave none.
#[cfg(feature = "worker")]
pub(super) fn given_key(key: &str) -> Option<String> {
    (!key.starts_with(GENERATED)).then(|| key.to_owned())
}

fn is_waiting(run: &ApiFlowRun) -> bool {
    let state = run.state.as_ref();
    state.is_none_or(|state| state.state_type() == StateType::Scheduled && state.state_type != "PAUSED")
}

enum Found {
    AtServer(Box<ApiFlowRun>),
    Stored(KeptRun),
}

fn missing(error: PrefectError, id: FlowRunId) -> OrchestratorError {
    match error {
        PrefectError::NotFound { .. } => OrchestratorError::FlowRunNotFound(id),
        error => error.into(),
    }
}
