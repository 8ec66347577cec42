//! What a receiver of `notify-url` is told over a server: the states in this journal, at once; and those that only the server
//! knows, of all other runs of our deployments, some seconds later (`states.rs`).
//!
//! Who tells what, where several homes tell one receiver: of a run that was claimed by a home with this receiver, that home
//! alone; it is a label of the run. Of a run that nobody has claimed, or a home without this receiver, every home with it, each
//! under the id of the state at the server: by it a receiver knows what it has heard already. Where one home has the receiver,
//! nothing is told twice.
//!
//! Up to when the server's states were told is a row like a receiver's, with a time in place of a position. Notifications
//! of the server have that time as their position, below zero.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use ring::digest;
use rusqlite::OptionalExtension;
use serde_json::json;
use uuid::Uuid;

use super::client::Call;
use super::journal::Journal;
use super::journal::forwarding::TOLD_TO;
use super::model::ApiFlowRun;
use super::server::Server;
use super::states::{PATIENCE, SETTLED, StateAtServer, news_interval, on_grid, seen_after_each, states_at_server};
use crate::domain::error::OrchestratorError;
use crate::domain::flow::Parameters;
use crate::domain::id::FlowRunId;
use crate::domain::state::StateType;
use crate::orchestrator::notifications::{Due, Notification, Notifications as _, PreviousState};

/// Notifications for receivers, from the journal and from the server.
pub(super) struct Notifications {
    server: Arc<Server>,
    journal: Journal,
    asked_at: Mutex<Option<Instant>>,
}

/// How far a receiver was told of the server's states.
struct Progress {
    told_until: Timestamp,
    due_at: Timestamp,
}

/// What the journal knows of a run.
struct Known {
    is_waiting: bool,
    state_at_ms: i64,
    /// Whether it has told of the run's waiting.
    has_told_of_waiting: bool,
}

impl Notifications {
    pub(super) const fn new(server: Arc<Server>, journal: Journal) -> Self {
        Self {
            server,
            journal,
            asked_at: Mutex::new(None),
        }
    }

    /// What is due, of the journal first.
    pub(super) async fn due(&self, receiver: &str) -> Result<Due, OrchestratorError> {
        self.journal.forwarding.tell_of_receiver(mark_of(receiver));
        let due = self.journal.local.notifications_due(receiver).await?;
        let now = self.server.client().server_now();
        let progress = self.progress(receiver, now).await?;
        let until = on_grid(now - SETTLED);
        if !due.notifications.is_empty() || progress.due_at > Timestamp::now() || until <= progress.told_until {
            return Ok(due);
        }
        if !self.may_ask() {
            return Ok(due);
        }
        let found = self.at_server(receiver, progress.told_until, until).await;
        self.server.note(&found);
        // A server that is away is asked again later; nothing is passed by.
        let Ok((notifications, until)) = found else {
            return Ok(due);
        };
        if notifications.is_empty() {
            self.told(receiver, until).await?;
        }
        Ok(Due { notifications, ..due })
    }

    /// See [`Notifications::notified`](crate::orchestrator::notifications::Notifications::notified).
    pub(super) async fn notified(
        &self,
        receiver: &str,
        position: i64,
        problem: Option<String>,
    ) -> Result<(), OrchestratorError> {
        if position < 0 {
            self.told(
                receiver,
                Timestamp::from_microsecond(-position).unwrap_or(Timestamp::UNIX_EPOCH),
            )
            .await?;
        }
        // What went wrong is noted at one place for both.
        self.journal.local.notified(receiver, position.max(0), problem).await
    }

    /// Whether the server was left alone for long enough.
    fn may_ask(&self) -> bool {
        let interval = news_interval(self.server.settings());
        let mut asked_at = self.asked_at.lock().unwrap_or_else(PoisonError::into_inner);
        let may = asked_at.is_none_or(|at| at.elapsed() >= interval);
        if may {
            *asked_at = Some(Instant::now());
        }
        may
    }

    /// The receiver hears of what happens from the first time on that this is asked.
    async fn progress(&self, receiver: &str, now: Timestamp) -> Result<Progress, OrchestratorError> {
        let (receiver, at_server) = (receiver.to_owned(), row_of(receiver));
        let now = now.as_microsecond();
        let (told_until, due_at_ms) = self
            .journal
            .local
            .change(move |transaction, _| {
                let due_at_ms: Option<i64> = transaction
                    .prepare_cached("SELECT due_at FROM notification WHERE url = ?1")?
                    .query_row([&receiver], |row| row.get(0))
                    .optional()?;
                transaction
                    .prepare_cached(
                        "INSERT OR IGNORE INTO notification (url, position, failures, due_at) VALUES (?1, ?2, 0, 0)",
                    )?
                    .execute((&at_server, now))?;
                let told_until: i64 = transaction
                    .prepare_cached("SELECT position FROM notification WHERE url = ?1")?
                    .query_row([&at_server], |row| row.get(0))?;
                Ok((told_until, due_at_ms.unwrap_or(0)))
            })
            .await?;
        Ok(Progress {
            told_until: Timestamp::from_microsecond(told_until).unwrap_or(Timestamp::UNIX_EPOCH),
            due_at: Timestamp::from_millisecond(due_at_ms).unwrap_or(Timestamp::UNIX_EPOCH),
        })
    }

    async fn told(&self, receiver: &str, until: Timestamp) -> Result<(), OrchestratorError> {
        let row = row_of(receiver);
        let until = until.as_microsecond();
        self.journal
            .local
            .change(move |transaction, _| {
                transaction
                    .prepare_cached("UPDATE notification SET position = ?2 WHERE url = ?1 AND position < ?2")?
                    .execute((&row, until))?;
                Ok(())
            })
            .await
    }

    async fn at_server(
        &self,
        receiver: &str,
        after: Timestamp,
        until: Timestamp,
    ) -> Result<(Vec<Notification>, Timestamp), OrchestratorError> {
        let (states, until) = states_at_server(&self.server, after, until).await?;
        let known = self.known(&states).await?;
        let runs = self.runs(&states).await?;
        let mark = mark_of(receiver);
        let is_told_here = |state: &StateAtServer| {
            let run = runs.get(&state.flow_run_id.as_uuid());
            let by_another = run.is_some_and(|run| run.label(TOLD_TO).as_ref() == Some(&mark));
            match known.get(&state.flow_run_id) {
                None => !by_another,
                // It waits as far as is known here: another machine has begun it since.
                Some(known) if known.is_waiting => {
                    !by_another && state.state.timestamp.as_millisecond() > known.state_at_ms
                }
                // The journal knows of it from its claim on.
                Some(known) => is_before_any_claim(state) && !known.has_told_of_waiting,
            }
        };
        let states: Vec<_> = states.into_iter().filter(is_told_here).collect();
        let times: Vec<_> = states.iter().map(|state| state.occurred).collect();
        let seen = seen_after_each(after, &times);
        let notification = |(state, seen): (StateAtServer, Timestamp)| {
            let run = runs.get(&state.flow_run_id.as_uuid());
            Notification {
                position: -seen.as_microsecond(),
                event_id: state.id.to_string(),
                flow_run_id: state.flow_run_id,
                flow_name: state.flow_name,
                video_id: state.video_id,
                state: state.state,
                previous: state.previous.map(|before| PreviousState {
                    state_type: before.state_type,
                    name: before.name,
                }),
                attempt: state.attempt,
                parameters: Parameters(run.map(|run| run.parameters.clone()).unwrap_or_default()),
            }
        };
        Ok((states.into_iter().zip(seen).map(notification).collect(), until))
    }

    async fn known(&self, states: &[StateAtServer]) -> Result<BTreeMap<FlowRunId, Known>, OrchestratorError> {
        let ids: Vec<String> = states.iter().map(|state| state.flow_run_id.to_string()).collect();
        let ids = serde_json::to_string(&ids).expect("ids are text");
        let found: Vec<(String, Known)> = self
            .journal
            .local
            .read(move |connection| {
                Ok(connection
                    .prepare_cached(
                        "SELECT id, state_type = 'SCHEDULED', state_at,
                           EXISTS (SELECT 1 FROM flow_run_state
                                   WHERE flow_run_id = flow_run.id AND flow_run_state.state_name = 'Scheduled')
                         FROM flow_run WHERE id IN (SELECT value FROM json_each(?1))",
                    )?
                    .query_map([ids], |row| {
                        let known = Known {
                            is_waiting: row.get(1)?,
                            state_at_ms: row.get(2)?,
                            has_told_of_waiting: row.get(3)?,
                        };
                        Ok((row.get(0)?, known))
                    })?
                    .collect::<rusqlite::Result<_>>()?)
            })
            .await?;
        Ok(found
            .into_iter()
            .filter_map(|(id, known)| Some((id.parse().ok()?, known)))
            .collect())
    }

    /// The runs themselves, for what their events do not tell; those that were deleted since are not among them.
    async fn runs(&self, states: &[StateAtServer]) -> Result<HashMap<Uuid, ApiFlowRun>, OrchestratorError> {
        if states.is_empty() {
            return Ok(HashMap::new());
        }
        let ids: Vec<Uuid> = states.iter().map(|state| state.flow_run_id.as_uuid()).collect();
        // Fewer than one answer of the server may hold.
        let filter = json!({ "flow_runs": { "id": { "any_": ids } } });
        let call = Call::post("/flow_runs/filter", &filter).patience(PATIENCE);
        let runs: Vec<ApiFlowRun> = self.server.client().call(call).await?;
        Ok(runs.into_iter().map(|run| (run.id, run)).collect())
    }
}

fn is_before_any_claim(state: &StateAtServer) -> bool {
    state.state.state_type == StateType::Scheduled && state.attempt == 0
}

/// The row that says how far a receiver was told of the server's states: no address of http is one.
fn row_of(receiver: &str) -> String {
    format!("server {receiver}")
}

/// The receiver, for a label that everybody at the server can read: an address may hold a password.
fn mark_of(receiver: &str) -> String {
    let digest = digest::digest(&digest::SHA256, receiver.as_bytes());
    let first = digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes");
    format!("{:016x}", u64::from_be_bytes(*first))
}
