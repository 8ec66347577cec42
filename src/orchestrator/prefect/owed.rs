//! Status rows that lost machines owe. What a web app polls is written by the worker that had the run; where its machine is gone for
//! good when the run ends, cancelled by a person or as crashed, it would say for ever that the run is at work. Any worker of ours
//! writes it then, in its place: every machine has the videos under the same paths.
//!
//! Nobody notes at the server whose row was written: the row itself says so, which is written only as long as it says that the run
//! waits or is at work, and is that run's. So whoever starts next looks at what ended while no worker lived.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tracing::info;
use uuid::Uuid;

use super::api::PAGE;
use super::conversion;
use super::hints::Hints;
use super::journal::Journal;
use super::journal::forwarding::{CLAIM, ClaimMark};
use super::lost::{LOST_PID, TIMES_LOST, end_task_runs, goes_on, is_online, its_worker, of_ours, worker_of};
use super::model::{ApiFlowRun, ApiState, ApiWorker};
use super::server::Server;
use super::steering::Steering;
use crate::domain::error::OrchestratorError;
use crate::domain::flow::{FlowDefinition, flow_meant_by};
use crate::domain::id::FlowRunId;
use crate::domain::state::StateType;
use crate::orchestrator::claims::StatusRowDue;
use crate::orchestrator::queue::Queue;

/// How long ago a run may have ended whose row is looked at by a worker that starts.
const LOOKED_BACK: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Most pages of such runs; the newest ends are looked at.
const MOST_PAGES: u32 = 10;
/// A server notes an end a moment after the time that it gives it.
const NOTED_LATE: SignedDuration = SignedDuration::from_mins(1);
/// How long a worker that lives needs at most to write the row of a run that has ended.
const WRITTEN_AFTER: SignedDuration = SignedDuration::from_mins(1);
/// Runs that are asked about in one look: others wait for what it finds.
const MOST_ASKED: usize = 20;
/// What tells a row that is owed from one of the journal, whose numbers are positive.
const SEQUENCE: i64 = -1;

const ENDED: [StateType; 3] = [StateType::Cancelled, StateType::Failed, StateType::Crashed];

/// Rows that somebody may have to write in the place of a lost machine.
pub(super) struct Owed {
    server: Arc<Server>,
    journal: Journal,
    steering: Steering,
    hints: Arc<Hints>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Until when ends have been looked at.
    seen_until: Option<Timestamp>,
    /// Ends that say nothing yet: the worker may live, or another run of the video is to come first.
    undecided: BTreeMap<Uuid, ApiFlowRun>,
    /// Rows to write.
    due: BTreeMap<FlowRunId, StatusRowDue>,
    /// Decided of late, with when they ended: they are found once more.
    decided: HashSet<(Uuid, Option<Timestamp>)>,
}

/// What is to be done about the row of a run that has ended.
enum Verdict {
    /// It is written, or somebody else's.
    Settled,
    /// Not known yet.
    Undecided,
    /// It is to be written, in all likelihood.
    Due(Box<StatusRowDue>),
}

impl Owed {
    pub(super) fn new(server: Arc<Server>, journal: Journal, hints: Arc<Hints>) -> Self {
        Self {
            steering: Steering::new(server.clone(), journal.clone()),
            server,
            journal,
            hints,
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what has ended since the last look; whether there is something to decide.
    pub(super) async fn look(&self) -> Result<bool, OrchestratorError> {
        let began = self.server.client().server_now();
        let seen_until = self.known().seen_until;
        let since = seen_until.map_or(began - LOOKED_BACK, |seen| seen - NOTED_LATE);
        let found = self.ended_since(since).await?;
        let mut known = self.known();
        known.seen_until = Some(began);
        known
            .decided
            .retain(|(_, ended)| ended.is_none_or(|ended| ended > since - NOTED_LATE));
        for run in found {
            if !known.decided.contains(&(run.id, run.end_time)) {
                known.undecided.insert(run.id, run);
            }
        }
        Ok(!known.undecided.is_empty())
    }

    /// Decides what can be decided. `workers`: who reports to the pool, if there is one.
    pub(super) async fn decide(&self, workers: &[ApiWorker]) -> Result<(), OrchestratorError> {
        let mut undecided: Vec<ApiFlowRun> = self.known().undecided.values().cloned().collect();
        // Everybody's turn comes, whoever waits for another run.
        fastrand::shuffle(&mut undecided);
        let mut asked = 0;
        for run in undecided {
            let verdict = match self.known_verdict(&run, workers).await? {
                Some(verdict) => verdict,
                None if asked == MOST_ASKED => continue,
                None => {
                    asked += 1;
                    self.judge(&run).await?
                }
            };
            let mut known = self.known();
            if matches!(verdict, Verdict::Undecided) {
                continue;
            }
            known.undecided.remove(&run.id);
            known.decided.insert((run.id, run.end_time));
            if let Verdict::Due(due) = verdict {
                known.due.insert(due.flow_run.flow_run_id, *due);
                self.hints.wake();
            }
        }
        Ok(())
    }

    /// Runs with a status row that ended without success, the newest end first.
    async fn ended_since(&self, since: Timestamp) -> Result<Vec<ApiFlowRun>, OrchestratorError> {
        let flows = self.server.flows().iter().filter(|flow| flow.keeps_status());
        let mut filter = of_ours(self.server.client(), flows.map(|flow| flow.name.as_str()));
        filter["flow_runs"] = json!({ "state": { "type": { "any_": ENDED } }, "end_time": { "after_": since } });
        filter["sort"] = json!("END_TIME_DESC");
        let mut found = Vec::new();
        for page in 0..MOST_PAGES {
            filter["offset"] = json!(page * PAGE);
            let runs = self.server.client().filter_flow_runs(&filter).await?;
            let is_last = runs.len() < PAGE as usize;
            // What no worker ever had has a row of nobody's.
            found.extend(runs.into_iter().filter(|run| was_begun(run) && !goes_on(run)));
            if is_last {
                break;
            }
        }
        Ok(found)
    }

    /// What is known without a further question; nothing: that nobody else is to be expected to write the row.
    async fn known_verdict(
        &self,
        run: &ApiFlowRun,
        workers: &[ApiWorker],
    ) -> Result<Option<Verdict>, OrchestratorError> {
        let client = self.server.client();
        let id = FlowRunId::from_uuid(run.id);
        if self.is_own(id, attempt(run)).await? {
            return Ok(Some(Verdict::Settled));
        }
        let ended = run.end_time.unwrap_or(run.created);
        let worker = worker_of(run);
        let reports: Vec<&ApiWorker> = workers
            .iter()
            .filter(|known| worker.as_ref() == Some(&known.name))
            .collect();
        // One that withdrew has written before what it owed, and one that has lived long enough after that, too: if it is the one that
        // told of the end. A machine that came back with an empty home knows nothing of it.
        let has_withdrawn = !client.settings().runner_mode && reports.is_empty();
        let has_lived_on = reports
            .iter()
            .any(|report| report.last_heartbeat_time.is_some_and(|at| at > ended + WRITTEN_AFTER));
        if (has_withdrawn || has_lived_on) && is_told_by_its_worker(run) {
            return Ok(Some(Verdict::Settled));
        }
        let is_alive = if client.settings().runner_mode {
            // Nobody reports there: a worker that lives has written the row by then.
            client.server_now() < ended + WRITTEN_AFTER
        } else {
            !has_lived_on && worker.as_deref().is_some_and(|name| is_online(client, workers, name))
        };
        Ok(is_alive.then_some(Verdict::Undecided))
    }

    async fn judge(&self, run: &ApiFlowRun) -> Result<Verdict, OrchestratorError> {
        let client = self.server.client();
        let id = FlowRunId::from_uuid(run.id);
        let Some((flow, run)) = self.of_a_flow(run).await? else {
            return Ok(Verdict::Settled);
        };
        let Ok(arguments) = flow.parse_stored(&run.parameters) else {
            return Ok(Verdict::Settled);
        };
        let subject = arguments.subject();
        let Some(taken_captions) = self.taken(&flow, &run, subject.video_id.as_deref()).await? else {
            return Ok(Verdict::Settled);
        };
        let taken_captions = match taken_captions {
            Taken::Captions(taken) => taken,
            Taken::Perhaps => return Ok(Verdict::Undecided),
        };
        if run.state.as_ref().map(ApiState::state_type) == Some(StateType::Crashed) {
            end_task_runs(client, run.id, &format!("lost with {}", its_worker(&run))).await;
        }
        let ended_pid = run.infrastructure_pid.clone().or_else(|| run.label(LOST_PID));
        let left_since = Some(run.expected_start_time.unwrap_or(run.created));
        let deployment = flow.deployment();
        let mut flow_run = conversion::flow_run(&run, flow.name.clone(), deployment, flow.work_queue, None);
        flow_run.parameters = arguments.to_parameters();
        (flow_run.video_id, flow_run.db_path) = (subject.video_id, subject.db_path);
        info!(
            flow_run_id = %id,
            state = flow_run.state.name.as_str(),
            "A run has ended whose worker is gone: its status row is looked at here."
        );
        Ok(Verdict::Due(Box::new(StatusRowDue {
            flow_run,
            state_sequence: SEQUENCE,
            ended_pid: ended_pid.and_then(|pid| pid.parse().ok()),
            database: None,
            known_pids: BTreeMap::new(),
            taken_captions,
            left_since,
        })))
    }

    /// Whether a worker of this home has had this very attempt: its row is the journal's business.
    async fn is_own(&self, id: FlowRunId, attempt: u32) -> Result<bool, OrchestratorError> {
        let own = self.journal.forwarding.run(id).await?;
        Ok(own.is_some_and(|own| own.flow_run.attempt >= attempt.max(1)))
    }

    /// The flow of ours that it is a run of, and the run by that flow's names.
    async fn of_a_flow(&self, run: &ApiFlowRun) -> Result<Option<(FlowDefinition, ApiFlowRun)>, OrchestratorError> {
        let name = self.server.names().flow(self.server.client(), run.flow_id).await?;
        let Ok(flow) = self.server.flows().get(flow_meant_by(&name)) else {
            return Ok(None);
        };
        let mut run = run.clone();
        run.parameters = flow.own_names(&run.parameters);
        Ok(Some((flow.clone(), run)))
    }

    /// What other runs for the video have of what the run has left; nothing: all of it. Ids of captions are the rows of one table.
    async fn taken(
        &self,
        flow: &FlowDefinition,
        run: &ApiFlowRun,
        video_id: Option<&str>,
    ) -> Result<Option<Taken>, OrchestratorError> {
        let others = self.steering.runs_of_video(flow, video_id, &StateType::ALL).await?;
        let mut captions = BTreeSet::new();
        let mut is_open = false;
        for other in others.iter().filter(|other| other.id != run.id) {
            let is_to_come = other.state.as_ref().is_none_or(|state| !state.state_type().is_final());
            let began_later = other
                .start_time
                .is_some_and(|at| at > run.start_time.unwrap_or(run.created));
            if flow.keeps_captions {
                if is_to_come || began_later {
                    let ids = flow.parse_stored(&other.parameters).ok();
                    captions.extend(
                        ids.and_then(|other| other.to_parameters().caption_ids())
                            .unwrap_or_default(),
                    );
                }
            } else if began_later {
                return Ok(None);
            } else {
                is_open |= is_to_come;
            }
        }
        Ok(Some(if is_open {
            Taken::Perhaps
        } else {
            Taken::Captions(captions)
        }))
    }

    /// Rows to write now.
    pub(super) fn due(&self) -> Vec<StatusRowDue> {
        self.known().due.values().cloned().collect()
    }

    /// Whether a row is one of these.
    pub(super) const fn is_meant(sequence: i64) -> bool {
        sequence == SEQUENCE
    }

    /// Whether it is still to be written: nobody has had the run done again since, or begun another one for the video.
    pub(super) async fn is_due(&self, id: FlowRunId) -> Result<bool, OrchestratorError> {
        let Some(due) = self.known().due.get(&id).cloned() else {
            return Ok(false);
        };
        let run = self.server.client().read_flow_run(id.as_uuid()).await?;
        let is_as_it_was = run
            .state
            .as_ref()
            .is_some_and(|state| state.timestamp == due.flow_run.state.timestamp);
        let Some((flow, run)) = self.of_a_flow(&run).await?.filter(|_| is_as_it_was) else {
            return Ok(false);
        };
        let taken = self.taken(&flow, &run, due.flow_run.video_id.as_deref()).await?;
        if matches!(taken, Some(Taken::Perhaps)) {
            let mut known = self.known();
            known.due.remove(&id);
            known.undecided.insert(run.id, run);
            return Ok(false);
        }
        Ok(matches!(taken, Some(Taken::Captions(captions)) if captions.is_subset(&due.taken_captions)))
    }

    /// Whether a run of this home's that has ended left its row to another one, which has begun since: on another machine, while
    /// this one was away.
    pub(super) async fn has_passed_on(&self, id: FlowRunId) -> Result<bool, OrchestratorError> {
        let own = self.journal.local.read_flow_run(id).await?;
        // A server that is away is not waited for: the row is.
        if self.server.client().away_since().is_some() || own.attempt == 0 || !own.state.state_type.is_final() {
            return Ok(false);
        }
        let run = self.server.client().read_flow_run(id.as_uuid()).await?;
        let Some((flow, run)) = self.of_a_flow(&run).await? else {
            return Ok(false);
        };
        Ok(self.taken(&flow, &run, own.video_id.as_deref()).await?.is_none())
    }

    /// It is written, or not to be.
    pub(super) fn settle(&self, id: FlowRunId) {
        self.known().due.remove(&id);
    }
}

/// What others have of what a run has left.
enum Taken {
    /// The rows of these captions; all else is nobody's.
    Captions(BTreeSet<i64>),
    /// One is to come that will write the row, or end without having begun.
    Perhaps,
}

/// Whether the worker that had the run told of its end itself.
fn is_told_by_its_worker(run: &ApiFlowRun) -> bool {
    let claim: Option<Uuid> = run.label(CLAIM).and_then(|id| id.parse().ok());
    let told = run.state.as_ref().and_then(|state| state.state_details.transition_id);
    claim
        .zip(told)
        .is_some_and(|(claim, told)| ClaimMark::of(claim).made(told))
}

/// Whether a worker had it; one that was lost right away may not have come to say so.
fn was_begun(run: &ApiFlowRun) -> bool {
    attempt(run) > 0 || run.label(TIMES_LOST).is_some()
}

/// Attempts that workers have begun.
fn attempt(run: &ApiFlowRun) -> u32 {
    let told = run.label(conversion::ATTEMPT).and_then(|text| text.parse().ok());
    told.unwrap_or(0).max(run.run_count)
}
