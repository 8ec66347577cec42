//! Runs of the journal that the server knows as well, and by which process it hears of them.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::error::OrchestratorError;
use crate::domain::flow::FlowDefinition;
use crate::domain::flow_run::FlowRun;
use crate::domain::id::FlowRunId;
use crate::domain::state::{StateName, StateType};
use crate::orchestrator::claims::Claim;
use crate::orchestrator::local::LocalOrchestrator;
use crate::orchestrator::local::entries;
use crate::orchestrator::local::outbox::Tell;
use crate::orchestrator::local::peers::{Peer, Peers};
use crate::orchestrator::local::rows::{Step, enter, now_ms};
use crate::orchestrator::local::rows::{id, json, uuid};
use crate::orchestrator::local::store::Fault;

/// Ids and names that the events of a run carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::orchestrator) struct RunContext {
    pub(in crate::orchestrator) run_name: String,
    pub(in crate::orchestrator) flow_id: Uuid,
    pub(in crate::orchestrator) flow_name: String,
    pub(in crate::orchestrator) deployment_id: Uuid,
    pub(in crate::orchestrator) deployment_name: String,
    pub(in crate::orchestrator) work_pool_id: Option<Uuid>,
    pub(in crate::orchestrator) work_pool_name: Option<String>,
    pub(in crate::orchestrator) tags: Vec<String>,
    /// The server does not know name and tags yet: they are told with the start.
    #[serde(default)]
    pub(in crate::orchestrator) is_unnamed: bool,
    /// A slot of the deployment's limit, to be renewed.
    pub(in crate::orchestrator) concurrency_lease_id: Option<Uuid>,
    /// The claim by which it is ours; none of a run that an earlier version claimed.
    #[serde(default)]
    pub(in crate::orchestrator) claim: Option<ClaimMark>,
    /// Retries that whoever made the run has asked for, in place of its flow's.
    #[serde(default)]
    pub(in crate::orchestrator) retries: Option<GivenRetries>,
}

/// A claim as the server knows it.
///
/// The ids of all that is told because of it follow from its own: a state of ours is known for ours by whichever process of
/// this machine looks at it, and one that was told twice counts once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::orchestrator) struct ClaimMark {
    /// The transition to PENDING.
    pub(in crate::orchestrator) transition_id: Uuid,
    /// Whether another program's worker made it, and goes on telling that the run is pending.
    #[serde(default)]
    pub(in crate::orchestrator) is_handed_over: bool,
    /// When, by the server's clock: what was made before it is what the attempt reads.
    #[serde(default)]
    pub(in crate::orchestrator) at: Option<Timestamp>,
}

/// The label of a run that says which receiver of notifications is told of it by the home that works on it.
pub(in crate::orchestrator) const TOLD_TO: &str = "captionacc.told-to";

/// The label of a run that names the claim by which its worker has it, for those who are to know what that worker has told.
pub(in crate::orchestrator) const CLAIM: &str = "captionacc.claim";

/// The transition of an attempt that was taken for dead and goes on.
const REVIVAL: &str = "Revived";

impl ClaimMark {
    /// A claim of which only the transition is known.
    pub(in crate::orchestrator) const fn of(transition_id: Uuid) -> Self {
        Self {
            transition_id,
            is_handed_over: false,
            at: None,
        }
    }

    /// The id of this claim's transition to a state of that name.
    pub(in crate::orchestrator) fn transition_to(&self, name: StateName) -> Uuid {
        Uuid::new_v5(&self.transition_id, name.as_str().as_bytes())
    }

    /// The same of one that goes on though it was taken for dead.
    pub(in crate::orchestrator) fn revival(&self) -> Uuid {
        Uuid::new_v5(&self.transition_id, REVIVAL.as_bytes())
    }

    /// Whether a transition is of this claim.
    pub(in crate::orchestrator) fn made(&self, transition_id: Uuid) -> bool {
        transition_id == self.transition_id
            || transition_id == self.revival()
            || StateName::ALL
                .into_iter()
                .any(|name| transition_id == self.transition_to(name))
    }
}

/// Retries that were asked for with a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::orchestrator) struct GivenRetries {
    /// Further attempts after a failed one.
    pub(in crate::orchestrator) retries: u32,
    /// Seconds before each.
    pub(in crate::orchestrator) delay_s: u32,
}

/// What is let go of. Between a look at the server and what follows from it, the run may have come back to this machine by a claim
/// of which that look knew nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::orchestrator) enum Held {
    /// The run by this claim; none of a run that an earlier version claimed.
    By(Option<ClaimMark>),
    /// The run that waits here.
    Waiting,
}

/// What came of letting a run go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::orchestrator) enum LetGo {
    /// Nothing: it is held by a newer claim, or a worker of this machine is claiming it.
    HeldAgain,
    /// There was nothing at work.
    Idle,
    /// Something is at work here, and is to stop.
    Stopping,
}

/// A run that the server hears of from this process.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::orchestrator) struct ForwardedRun {
    pub(in crate::orchestrator) flow_run: FlowRun,
    pub(in crate::orchestrator) context: RunContext,
    pub(in crate::orchestrator) progress_at: i64,
    pub(in crate::orchestrator) progress_sent_at: i64,
    pub(in crate::orchestrator) progress_artifact_id: Option<Uuid>,
}

/// Runs that the server knows as well; and who is told of those that are claimed here, as soon as that is known.
#[derive(Clone)]
pub(in crate::orchestrator) struct Forwarding(Arc<LocalOrchestrator>, Arc<OnceLock<String>>);

impl Forwarding {
    pub(super) fn of(local: Arc<LocalOrchestrator>) -> Self {
        Self(local, Arc::default())
    }

    /// From now on, runs that are claimed say at the server that this receiver is told of them.
    pub(in crate::orchestrator) fn tell_of_receiver(&self, mark: String) {
        // A process has one.
        let _ = self.1.set(mark);
    }

    /// Notes a run that was queued from this machine, so that its status row is kept while it waits.
    pub(in crate::orchestrator) async fn observe(
        &self,
        run: FlowRun,
        flow: FlowDefinition,
    ) -> Result<(), OrchestratorError> {
        self.0
            .change(move |transaction, _| entries::note_waiting(transaction, &run, flow.keeps_status()))
            .await?;
        self.0.ring();
        Ok(())
    }

    /// Enters a state that the server has already: it is not told again. `false`: the run is not in a state that
    /// this can follow on, or not known.
    pub(in crate::orchestrator) async fn mirror(
        &self,
        id: FlowRunId,
        state: StateName,
        message: String,
        superseded_by: Option<FlowRunId>,
    ) -> Result<bool, OrchestratorError> {
        let from: &[StateType] = match state.state_type() {
            StateType::Cancelling => &[StateType::Pending, StateType::Running],
            // What is at work here ends by its own attempt.
            StateType::Cancelled => &[StateType::Scheduled],
            StateType::Scheduled => &[
                StateType::Scheduled,
                StateType::Cancelled,
                StateType::Failed,
                StateType::Crashed,
            ],
            _ => return Ok(false),
        };
        let changed = self
            .0
            .change(move |transaction, _| {
                if let Some(newer) = superseded_by {
                    entries::note_superseded(transaction, id, newer)?;
                }
                let step = Step {
                    message: Some(&message),
                    scheduled_at: (state.state_type() == StateType::Scheduled).then(now_ms),
                    // The status row is left to the newer run.
                    status_row_due: superseded_by.is_none() && state.state_type() != StateType::Cancelling,
                    tell: Tell::Nobody,
                };
                enter(transaction, id, from, state, now_ms(), step)
            })
            .await?;
        if changed {
            self.0.ring();
        }
        Ok(changed)
    }

    /// The run is another's by now, or ended by somebody's decision: nothing more is told of it, and what is at work here is to
    /// stop. Its status row is left to whoever has it, unless nobody does. What this machine has got since by a newer claim, or
    /// is about to, stays.
    pub(in crate::orchestrator) async fn let_go(
        &self,
        id: FlowRunId,
        held: Held,
        message: String,
        is_taken: bool,
    ) -> Result<LetGo, OrchestratorError> {
        let outcome = self
            .0
            .change(move |transaction, _| {
                if !is_still_held(transaction, id, held)? {
                    return Ok(LetGo::HeldAgain);
                }
                let key = id.to_string();
                for sql in [
                    "DELETE FROM outbox WHERE flow_run_id = ?1",
                    "DELETE FROM prefect_run WHERE flow_run_id = ?1",
                ] {
                    transaction.execute(sql, [&key])?;
                }
                if is_taken {
                    transaction.execute(
                        "UPDATE flow_run SET has_status_row = 0, status_row_due = 0 WHERE id = ?1",
                        [&key],
                    )?;
                }
                let step = |status_row_due| Step {
                    message: Some(&message),
                    scheduled_at: None,
                    status_row_due,
                    tell: Tell::Nobody,
                };
                let at_work = [StateType::Pending, StateType::Running];
                let is_stopping = enter(transaction, id, &at_work, StateName::Cancelling, now_ms(), step(false))?;
                enter(
                    transaction,
                    id,
                    &[StateType::Scheduled],
                    StateName::Cancelled,
                    now_ms(),
                    step(true),
                )?;
                Ok(if is_stopping { LetGo::Stopping } else { LetGo::Idle })
            })
            .await?;
        if outcome != LetGo::HeldAgain {
            self.0.ring();
        }
        Ok(outcome)
    }

    /// Counts the states of a run that are known here and at the server; 0 if nothing is known of it here.
    pub(in crate::orchestrator) async fn told_counter(&self, id: FlowRunId) -> Result<i64, OrchestratorError> {
        self.0
            .read(move |connection| {
                Ok(connection
                    .prepare_cached(
                        "SELECT coalesce((SELECT state_sequence FROM flow_run WHERE id = ?1), 0)
                           - (SELECT count(*) FROM outbox WHERE flow_run_id = ?1 AND kind = 'state')
                           + EXISTS (SELECT 1 FROM stored_flow_run
                                     WHERE id = ?1 AND (prefect_id IS NOT NULL OR problem IS NOT NULL))",
                    )?
                    .query_row([id.to_string()], |row| row.get(0))?)
            })
            .await
    }

    /// Makes a run that the server handed over a claimed run of this journal; its intent is fulfilled.
    pub(in crate::orchestrator) async fn adopt(
        &self,
        run: FlowRun,
        has_status_row: bool,
        context: RunContext,
        worker_name: String,
    ) -> Result<Claim, OrchestratorError> {
        let receiver = self.1.get().cloned();
        self.0
            .change(move |transaction, peers| {
                let own = peers.own()?;
                let key = run.flow_run_id.to_string();
                transaction.execute("DELETE FROM claim_intent WHERE flow_run_id = ?1", [&key])?;
                // States of an attempt before it that the server has not heard: it let the run be claimed without them, and this
                // claim would be told over by them.
                transaction.execute("DELETE FROM outbox WHERE flow_run_id = ?1 AND kind = 'state'", [&key])?;
                let claim = entries::hold(transaction, &own, &run, has_status_row, &worker_name)?;
                transaction.execute(
                    "INSERT OR REPLACE INTO prefect_run (flow_run_id, context, forwarder) VALUES (?1, ?2, ?3)",
                    (
                        &key,
                        serde_json::to_string(&context).expect("plain values"),
                        own.to_json(),
                    ),
                )?;
                let mut labels = serde_json::json!({
                    "prefect.worker.name": worker_name,
                    "prefect.worker.type": "process",
                    "captionacc.attempt": claim.flow_run.attempt,
                    "captionacc.speaks": 1,
                });
                if let Some(claim) = &context.claim {
                    labels[CLAIM] = serde_json::json!(claim.transition_id);
                }
                if let Some(receiver) = &receiver {
                    labels[TOLD_TO] = serde_json::json!(receiver);
                }
                transaction.execute(
                    "INSERT INTO outbox (flow_run_id, kind, at, content) VALUES (?1, 'labels', ?2, ?3)",
                    (&key, now_ms(), labels.to_string()),
                )?;
                Ok(claim)
            })
            .await
    }

    /// Runs that wait, as far as this journal knows; the newest.
    pub(in crate::orchestrator) async fn waiting(&self) -> Result<Vec<FlowRunId>, OrchestratorError> {
        self.0
            .read(move |connection| {
                Ok(connection
                    .prepare_cached(
                        "SELECT id FROM flow_run WHERE state_type = 'SCHEDULED' ORDER BY state_at DESC LIMIT 200",
                    )?
                    .query_map([], |row| id(row, "id"))?
                    .collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    /// Runs of which this process has something to tell. Takes over those of dead processes.
    pub(in crate::orchestrator) async fn with_mail(&self) -> Result<Vec<FlowRunId>, OrchestratorError> {
        self.0
            .change(|transaction, peers| {
                let all: Vec<(FlowRunId, Peer)> = transaction
                    .prepare_cached(
                        "SELECT flow_run_id, forwarder FROM prefect_run
                         WHERE EXISTS (SELECT 1 FROM outbox WHERE outbox.flow_run_id = prefect_run.flow_run_id)",
                    )?
                    .query_map([], |row| Ok((id(row, "flow_run_id")?, json(row, "forwarder")?)))?
                    .collect::<rusqlite::Result<_>>()?;
                own_of(transaction, peers, all)
            })
            .await
    }

    /// Runs at work of which the server hears from this process. Takes over those of dead processes.
    pub(in crate::orchestrator) async fn at_work(&self) -> Result<Vec<ForwardedRun>, OrchestratorError> {
        self.0
            .change(|transaction, peers| {
                let all: Vec<(FlowRunId, Peer)> = transaction
                    .prepare_cached(
                        "SELECT flow_run_id, forwarder FROM prefect_run WHERE flow_run_id IN
                           (SELECT id FROM flow_run WHERE state_type IN ('PENDING', 'RUNNING', 'CANCELLING'))",
                    )?
                    .query_map([], |row| Ok((id(row, "flow_run_id")?, json(row, "forwarder")?)))?
                    .collect::<rusqlite::Result<_>>()?;
                own_of(transaction, peers, all)?
                    .into_iter()
                    .filter_map(|id| forwarded(transaction, id).transpose())
                    .collect()
            })
            .await
    }

    /// The run as the server is to know it, if it was claimed from there.
    pub(in crate::orchestrator) async fn run(&self, id: FlowRunId) -> Result<Option<ForwardedRun>, OrchestratorError> {
        self.0.read(move |connection| forwarded(connection, id)).await
    }

    /// The server has the run's progress as of `progress_at`.
    pub(in crate::orchestrator) async fn progress_told(
        &self,
        run: FlowRunId,
        progress_at: i64,
        artifact_id: Uuid,
    ) -> Result<(), OrchestratorError> {
        self.0
            .change(move |transaction, _| {
                transaction
                    .prepare_cached(
                        "UPDATE prefect_run SET progress_sent_at = ?2, progress_artifact_id = ?3 WHERE flow_run_id = ?1",
                    )?
                    .execute((run.to_string(), progress_at, artifact_id.to_string()))?;
                Ok(())
            })
            .await
    }
}

/// Those that are this process's to tell, with those whose teller has died.
fn own_of(transaction: &Transaction<'_>, peers: &Peers, all: Vec<(FlowRunId, Peer)>) -> Result<Vec<FlowRunId>, Fault> {
    let own = peers.own()?;
    let mut alive: BTreeMap<Uuid, bool> = BTreeMap::new();
    let mut runs = Vec::new();
    for (id, forwarder) in all {
        if forwarder != own {
            if *alive.entry(forwarder.life).or_insert_with(|| peers.lives(&forwarder)) {
                continue;
            }
            transaction
                .prepare_cached("UPDATE prefect_run SET forwarder = ?2 WHERE flow_run_id = ?1")?
                .execute((id.to_string(), own.to_json()))?;
        }
        runs.push(id);
    }
    Ok(runs)
}

/// Whether what was looked at is what this machine has of the run now.
fn is_still_held(transaction: &Transaction<'_>, id: FlowRunId, held: Held) -> Result<bool, Fault> {
    let key = id.to_string();
    let is_being_claimed: bool = transaction
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM claim_intent WHERE flow_run_id = ?1)")?
        .query_row([&key], |row| row.get(0))?;
    if is_being_claimed {
        return Ok(false);
    }
    match held {
        Held::Waiting => Ok(transaction
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM flow_run WHERE id = ?1 AND state_type = 'SCHEDULED')")?
            .query_row([&key], |row| row.get(0))?),
        Held::By(claim) => {
            let context: Option<RunContext> = transaction
                .prepare_cached("SELECT context FROM prefect_run WHERE flow_run_id = ?1")?
                .query_row([&key], |row| json(row, "context"))
                .optional()?;
            Ok(context.is_some_and(|context| {
                context.claim.map(|claim| claim.transition_id) == claim.map(|claim| claim.transition_id)
            }))
        }
    }
}

fn forwarded(connection: &Connection, id: FlowRunId) -> Result<Option<ForwardedRun>, Fault> {
    struct Parts {
        context: RunContext,
        progress_at: i64,
        progress_sent_at: i64,
        progress_artifact_id: Option<Uuid>,
    }
    let parts = connection
        .prepare_cached(
            "SELECT context, progress_artifact_id, progress_sent_at, progress_at
             FROM prefect_run JOIN flow_run ON flow_run.id = prefect_run.flow_run_id WHERE flow_run_id = ?1",
        )?
        .query_row([id.to_string()], |row| {
            let artifact: Option<String> = row.get("progress_artifact_id")?;
            Ok(Parts {
                context: json(row, "context")?,
                progress_at: row.get("progress_at")?,
                progress_sent_at: row.get("progress_sent_at")?,
                progress_artifact_id: artifact.map(|_| uuid(row, "progress_artifact_id")).transpose()?,
            })
        })
        .optional()?;
    let Some(parts) = parts else { return Ok(None) };
    Ok(Some(ForwardedRun {
        flow_run: entries::read(connection, id)?,
        context: parts.context,
        progress_at: parts.progress_at,
        progress_sent_at: parts.progress_sent_at,
        progress_artifact_id: parts.progress_artifact_id,
    }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Journal;
    use super::super::intents::ClaimIntent;
    use super::*;
    use crate::domain::flow::{Flows, Subject};
    use crate::orchestrator::claims::{Claims, Ending};
    use crate::orchestrator::queue::{NewFlowRun, Queue};
    use crate::settings::prefect::PrefectSettings;

    fn context(claim: ClaimMark) -> RunContext {
        RunContext {
            run_name: "v".to_owned(),
            flow_id: Uuid::nil(),
            flow_name: "full-frames".to_owned(),
            deployment_id: Uuid::nil(),
            deployment_name: "captionacc".to_owned(),
            work_pool_id: None,
            work_pool_name: None,
            tags: Vec::new(),
            is_unnamed: false,
            concurrency_lease_id: None,
            claim: Some(claim),
            retries: None,
        }
    }

    async fn waiting_run(journal: &Journal) -> FlowRun {
        let flow = Flows::builtin().get("full-frames").expect("built in").clone();
        let given = serde_json::json!({
            "video-id": "v", "video-path": "/v/a.mp4", "db-path": "/d/v.db", "output-dir": "/o", "frame-rate": 0.1,
        });
        let arguments = flow
            .parse_arguments(given.as_object().expect("an object"), Path::new("/"))
            .expect("valid");
        let new = NewFlowRun::new(flow, arguments);
        let queued = journal
            .local
            .create_flow_run(new, Arc::default())
            .await
            .expect("queued");
        journal.local.read_flow_run(queued.flow_run_id).await.expect("known")
    }

    /// A journal of a server that does not answer.
    async fn journal(folder: &Path) -> Journal {
        let settings = PrefectSettings::new("http://127.0.0.1:1/api", "the test").expect("an address");
        Journal::open(folder, &settings).await.expect("opens")
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_was_seen_of_an_older_claim_does_not_let_go_of_a_newer_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = journal(folder.path()).await;
        let run = waiting_run(&journal).await;
        let id = run.flow_run_id;
        let [first, second] = [(); 2].map(|()| ClaimMark::of(Uuid::new_v4()));
        let adopt = async |claim| {
            let adopted = journal
                .forwarding
                .adopt(run.clone(), false, context(claim), "tester".to_owned());
            adopted.await.expect("adopted")
        };
        let let_go = async |held| {
            let message = "another's".to_owned();
            journal.forwarding.let_go(id, held, message, true).await.expect("asked")
        };
        let state = async || journal.local.read_flow_run(id).await.expect("known").state.name;
        let claim = adopt(first).await;
        assert_eq!(let_go(Held::Waiting).await, LetGo::HeldAgain);
        let given_back = Ending::GivenBack { message: String::new() };
        journal.local.finish(claim.lease, given_back).await.expect("ends");
        // A worker of this machine is about to have it again.
        let intent = ClaimIntent {
            flow_run_id: id,
            transition_id: second.transition_id,
            flow_name: "full-frames".to_owned(),
            subject: Subject::default(),
            is_background: false,
        };
        assert!(journal.intents.reserve(intent, 2).await.expect("asked"));
        for held in [Held::By(Some(first)), Held::Waiting] {
            assert_eq!(let_go(held).await, LetGo::HeldAgain, "{held:?}");
        }
        assert_eq!(state().await, StateName::Scheduled);
        adopt(second).await;
        for held in [Held::By(Some(first)), Held::By(None), Held::Waiting] {
            assert_eq!(let_go(held).await, LetGo::HeldAgain, "{held:?}");
        }
        assert_eq!(state().await, StateName::Pending);
        assert_eq!(let_go(Held::By(Some(second))).await, LetGo::Stopping);
        assert_eq!(state().await, StateName::Cancelling);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn states_of_an_attempt_that_were_not_told_are_not_told_of_the_next() {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = journal(folder.path()).await;
        let run = waiting_run(&journal).await;
        let id = run.flow_run_id;
        let adopt = async || {
            let mark = ClaimMark::of(Uuid::new_v4());
            let adopted = journal
                .forwarding
                .adopt(run.clone(), false, context(mark), "tester".to_owned());
            adopted.await.expect("adopted")
        };
        let claim = adopt().await;
        let given_back = Ending::GivenBack { message: String::new() };
        journal.local.finish(claim.lease, given_back).await.expect("ends");
        let mail = journal.mail.of_run(id).await.expect("read");
        assert!(mail.state.is_some(), "{mail:?}");
        // The server let it be claimed again meanwhile.
        adopt().await;
        let mail = journal.mail.of_run(id).await.expect("read");
        assert_eq!(mail.state, None, "{mail:?}");
        assert_eq!(mail.head.len(), 2, "whose it was and whose it is: {mail:?}");
    }
}
