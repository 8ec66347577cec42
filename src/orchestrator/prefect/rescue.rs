//! Looks for runs whose machine is lost, gives them on, ends those that were to be stopped, and finds what those that have ended
//! still owe. Every worker does, so that the last one that lives does too.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tracing::{debug, info};
use uuid::Uuid;

use super::hints::Hints;
use super::journal::Journal;
use super::lost::{
    Because, Fate, alarm_message, alarmed_runs, give_on, held_runs, is_online, is_silent, its_worker, since, speaks,
    worker_of,
};
use super::model::{ApiFlowRun, ApiState, ApiWorker};
use super::owed::Owed;
use super::server::Server;
use crate::domain::error::OrchestratorError;
use crate::domain::state::StateType;

/// Longest pause of chance before a run is given on: of several workers that see it, one is first.
const LONGEST_PAUSE_MS: u64 = 1000;

/// After an outage every worker has said within this time that it is there.
const WORKERS_HEARD: Duration = Duration::from_secs(30);
/// An event comes out of the transaction that it tells of. And many come at a time.
const AFTER_AN_EVENT: Duration = Duration::from_millis(300);

/// Gives on the runs of lost machines.
pub(super) struct Rescue {
    server: Arc<Server>,
    journal: Journal,
    hints: Arc<Hints>,
    owed: Arc<Owed>,
    /// Since when the server has answered every look. After an outage everybody has been silent, and is given time to speak.
    unbroken_since: Mutex<Option<Timestamp>>,
}

/// Looks until it is dropped.
pub(super) async fn run(rescue: Arc<Rescue>) {
    loop {
        let interval =
            (rescue.server.client().lost_after() / 9).clamp(Duration::from_millis(500), Duration::from_secs(10));
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = rescue.hints.look_wanted() => tokio::time::sleep(AFTER_AN_EVENT).await,
        }
        let looked = rescue.look().await;
        rescue.server.note(&looked);
        let mut unbroken_since = rescue.unbroken_since.lock().unwrap_or_else(PoisonError::into_inner);
        match looked {
            Ok(()) => drop(unbroken_since.get_or_insert_with(Timestamp::now)),
            Err(_) => *unbroken_since = None,
        }
    }
}

impl Rescue {
    pub(super) fn new(server: Arc<Server>, journal: Journal, hints: Arc<Hints>, owed: Arc<Owed>) -> Self {
        Self {
            owed,
            server,
            journal,
            hints,
            unbroken_since: Mutex::default(),
        }
    }

    /// By a limit that nobody else may hold to, nobody is judged.
    fn is_settled(&self, time: Duration) -> bool {
        if !self.server.client().knows_limit() {
            return false;
        }
        let unbroken_since = *self.unbroken_since.lock().unwrap_or_else(PoisonError::into_inner);
        unbroken_since.is_some_and(|at| is_past(at, Timestamp::now(), time))
    }

    async fn look(&self) -> Result<(), OrchestratorError> {
        let client = self.server.client();
        let names: Vec<&str> = self.server.flows().iter().map(|flow| flow.name.as_str()).collect();
        let at_work = self.journal.forwarding.at_work().await?;
        let mut own: HashSet<Uuid> = at_work.iter().map(|run| run.flow_run.flow_run_id.as_uuid()).collect();
        // What has ended here and was not told yet is at work there.
        own.extend(self.journal.forwarding.with_mail().await?.iter().map(|id| id.as_uuid()));
        let mut held = held_runs(client, names.iter().copied()).await?;
        held.retain(|run| !own.contains(&run.id));
        let mut alarmed = alarmed_runs(client, names.iter().copied()).await?;
        alarmed.retain(|run| !own.contains(&run.id));
        let is_owed = self.owed.look().await?;
        let are_workers_heard = self.is_settled(client.hearing_time().min(WORKERS_HEARD));
        if held.is_empty() && alarmed.is_empty() && !is_owed || !are_workers_heard {
            return Ok(());
        }
        let are_runs_heard = self.is_settled(client.hearing_time());
        let workers = self.workers().await?;
        let mut is_online_by_name: HashMap<String, bool> = HashMap::new();
        let mut is_heard = |run: &ApiFlowRun| {
            worker_of(run).is_some_and(|name| {
                *is_online_by_name
                    .entry(name)
                    .or_insert_with_key(|name| is_online(client, &workers, name))
            })
        };
        for run in alarmed.into_iter().filter(|_| are_runs_heard) {
            // One that lives says so, and goes on.
            if !is_heard(&run) || is_past(since(&run), client.server_now(), client.hearing_time()) {
                self.give_on(&run).await?;
            }
        }
        for run in held {
            // Nobody is left to stop it: there is nothing to wait for.
            let is_known = worker_of(&run).is_some() && !client.settings().runner_mode;
            if is_to_stop(&run) && is_known && !is_heard(&run) {
                self.give_on(&run).await?;
                continue;
            }
            // A worker of an earlier version vouches for its runs by being heard; where calls are counted, every worker does.
            let is_vouched_for = client.settings().is_cloud || !speaks(&run);
            if is_vouched_for && (is_heard(&run) || client.settings().runner_mode && !speaks(&run)) {
                continue;
            }
            if are_runs_heard && is_silent(client, &run).await? {
                self.give_on(&run).await?;
            }
        }
        // What was ended just now is found by the next look: its event wakes it.
        self.owed.decide(&workers).await
    }

    async fn workers(&self) -> Result<Vec<ApiWorker>, OrchestratorError> {
        let settings = self.server.settings();
        if settings.runner_mode {
            return Ok(Vec::new());
        }
        Ok(self.server.client().read_workers(&settings.work_pool).await?)
    }

    async fn give_on(&self, run: &ApiFlowRun) -> Result<(), OrchestratorError> {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..=LONGEST_PAUSE_MS))).await;
        let worker = its_worker(run);
        let why = if is_to_stop(run) {
            format!("{worker} is offline")
        } else {
            format!("{worker} was {}", alarm_message(self.server.client().lost_after()))
        };
        let fate = give_on(self.server.client(), run, Because::Lost(&why)).await?;
        if fate == Fate::Untouched {
            debug!(flow_run_id = %run.id, "Somebody else was faster with a run whose machine is lost.");
            return Ok(());
        }
        info!(flow_run_id = %run.id, ?fate, "The machine of a run is lost: {why}.");
        self.hints.want_poll();
        Ok(())
    }
}

fn is_to_stop(run: &ApiFlowRun) -> bool {
    run.state.as_ref().map(ApiState::state_type) == Some(StateType::Cancelling)
}

/// Whether at least `time` has passed from `at` to `now`.
fn is_past(at: Timestamp, now: Timestamp, time: Duration) -> bool {
    let passed = now.duration_since(at);
    !passed.is_negative() && passed.unsigned_abs() >= time
}
