//! What happens to all runs, as far as it can be known: of runs that this home has queued or works on from its journal, at
//! once; the states of all others from the server's events, some seconds later.
//!
//! A server writes its events down up to 5 s after they happened, in batches, and not in their order: what is younger than
//! that is not asked for yet, so that each comes once and none is passed by. Log lines and progress of runs that other homes
//! work on are not asked for: it would be a request for each of them every few seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::json;

use super::client::Call;
use super::journal::Journal;
use super::model::{ApiState, ApiStateDetails};
use super::server::Server;
use crate::domain::error::OrchestratorError;
use crate::domain::flow::flow_meant_by;
use crate::domain::flow_run::{FlowRunEvent, State};
use crate::domain::id::FlowRunId;
use crate::domain::prefect_error::PrefectError;
use crate::orchestrator::feed::{FeedCursor, FeedEvent, FeedPage};
use crate::orchestrator::queue::Queue;

/// Events older than this are all written down at a server.
const SETTLED: SignedDuration = SignedDuration::from_secs(8);
/// How much of a server's time one request is about, at least.
const INTERVAL: SignedDuration = SignedDuration::from_secs(2);
/// How long one request may take; what this journal tells waits for it.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a server that did not answer is left alone.
const AWAY: Duration = Duration::from_secs(5);
/// Most events of one answer; the most that a server gives.
const PAGE: usize = 50;

/// The journal's feed and the server's in one.
pub(super) struct Feed {
    server: Arc<Server>,
    journal: Journal,
    failed_at: Mutex<Option<Instant>>,
}

impl Feed {
    pub(super) const fn new(server: Arc<Server>, journal: Journal) -> Self {
        Self {
            server,
            journal,
            failed_at: Mutex::new(None),
        }
    }

    /// See [`Queue::read_feed`]. A server that is away has nothing new; what it has then comes once it is back.
    pub(super) async fn read(&self, after: Option<&FeedCursor>) -> Result<FeedPage, OrchestratorError> {
        let settled = on_grid(self.server.client().server_now() - SETTLED);
        let Some(after) = after else {
            let page = self.journal.local.read_feed(None).await?;
            return Ok(with_server_time(page, settled));
        };
        let (here, there) = parse(after)?;
        let page = self.journal.local.read_feed(Some(&here)).await?;
        let failed_at = || self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        if settled <= there || failed_at().is_some_and(|at| at.elapsed() < AWAY) {
            return Ok(with_server_time(page, there));
        }
        let asked = self.states_at_server(there, settled).await;
        self.server.note(&asked);
        *failed_at() = asked.is_err().then(Instant::now);
        let Ok((states, until)) = asked else {
            return Ok(with_server_time(page, there));
        };
        let states = self.not_known_here(states).await?;
        let has_more = until < settled;
        let mut page = with_server_time(page, there);
        let next = place(&here_of(&page.next), until);
        // By themselves after those from here: their place is not reached before all of these were seen.
        page.events.extend(states.into_iter().map(|(at, event)| FeedEvent {
            cursor: place(&here_of(&page.next), at),
            ..event
        }));
        for (_, event) in &mut page.progress {
            event.cursor = next.clone();
        }
        page.next = next;
        page.has_more |= has_more;
        Ok(page)
    }

    /// States after a time, and until when these are all.
    async fn states_at_server(
        &self,
        after: Timestamp,
        until: Timestamp,
    ) -> Result<(Vec<(Timestamp, FeedEvent)>, Timestamp), PrefectError> {
        let filter = json!({
            "filter": {
                "occurred": { "since": after + SignedDuration::from_micros(1), "until": until },
                "event": { "prefix": ["prefect.flow-run."] },
                "order": "ASC",
            },
            "limit": PAGE,
        });
        let answer: Answer = self
            .server
            .client()
            .call(Call::post("/events/filter", &filter).patience(PATIENCE))
            .await?;
        let until = match answer.events.last() {
            Some(last) if answer.events.len() >= PAGE => last.occurred,
            _ => until,
        };
        let deployment = &self.server.settings().deployment_name;
        let states = answer
            .events
            .iter()
            .filter_map(|event| Some((event.occurred, event.as_state(deployment)?)))
            .collect();
        Ok((states, until))
    }

    /// Without those that this journal tells of, at its own time.
    async fn not_known_here(
        &self,
        states: Vec<(Timestamp, FeedEvent)>,
    ) -> Result<Vec<(Timestamp, FeedEvent)>, OrchestratorError> {
        if states.is_empty() {
            return Ok(states);
        }
        let ids: Vec<String> = states.iter().map(|(_, event)| event.flow_run_id.to_string()).collect();
        let ids = serde_json::to_string(&ids).expect("ids are text");
        let known: HashMap<String, (bool, i64)> = self
            .journal
            .local
            .read(move |connection| {
                Ok(connection
                    .prepare_cached(
                        "SELECT id, state_type = 'SCHEDULED', state_at FROM flow_run
                         WHERE id IN (SELECT value FROM json_each(?1))",
                    )?
                    .query_map([ids], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?
                    .collect::<rusqlite::Result<_>>()?)
            })
            .await?;
        let is_news = |event: &FeedEvent| match (known.get(&event.flow_run_id.to_string()), &event.event) {
            // It waits as far as is known here: another machine has begun it since.
            (Some((true, since_ms)), FlowRunEvent::State { state, .. }) => state.timestamp.as_millisecond() > *since_ms,
            (Some(_), _) => false,
            (None, _) => true,
        };
        Ok(states.into_iter().filter(|(_, event)| is_news(event)).collect())
    }
}

/// Everybody's times are the same few, so that readers who have seen the same are at the same place.
fn on_grid(time: Timestamp) -> Timestamp {
    let seconds = INTERVAL.as_secs();
    Timestamp::from_second(time.as_second().div_euclid(seconds) * seconds).unwrap_or(time)
}

/// The journal's place and the server's time in one.
fn place(here: &FeedCursor, there: Timestamp) -> FeedCursor {
    FeedCursor(format!("{}.{}", here.0, there.as_microsecond()))
}

fn here_of(cursor: &FeedCursor) -> FeedCursor {
    FeedCursor(cursor.0.rsplit_once('.').map_or("", |(here, _)| here).to_owned())
}

fn with_server_time(mut page: FeedPage, there: Timestamp) -> FeedPage {
    for event in page
        .events
        .iter_mut()
        .chain(page.progress.iter_mut().map(|(_, event)| event))
    {
        event.cursor = place(&event.cursor, there);
    }
    page.next = place(&page.next, there);
    page
}

fn parse(cursor: &FeedCursor) -> Result<(FeedCursor, Timestamp), OrchestratorError> {
    cursor
        .0
        .rsplit_once('.')
        .and_then(|(here, there)| {
            let there = Timestamp::from_microsecond(there.parse().ok()?).ok()?;
            Some((FeedCursor(here.to_owned()), there))
        })
        .ok_or_else(|| OrchestratorError::InvalidArgument {
            argument: "after".to_owned(),
            problem: "no cursor of an event: give one as it came, or none to begin now".to_owned(),
        })
}

#[derive(Deserialize)]
struct Answer {
    events: Vec<ApiEvent>,
}

/// An event of the server, as far as it is used.
#[derive(Deserialize)]
struct ApiEvent {
    occurred: Timestamp,
    resource: HashMap<String, String>,
    #[serde(default)]
    related: Vec<HashMap<String, String>>,
}

impl ApiEvent {
    /// The state that it tells of, of a run of our deployments.
    fn as_state(&self, deployment: &str) -> Option<FeedEvent> {
        let of = |name: &str| self.resource.get(name).cloned();
        let related = |role: &str| {
            let role = role.to_owned();
            self.related
                .iter()
                .filter(move |one| one.get("prefect.resource.role") == Some(&role))
        };
        let name_of = |role: &str| related(role).next()?.get("prefect.resource.name").cloned();
        if name_of("deployment").as_deref() != Some(deployment) {
            return None;
        }
        let flow_run_id: FlowRunId = of("prefect.resource.id")?
            .strip_prefix("prefect.flow-run.")?
            .parse()
            .ok()?;
        let state = ApiState {
            state_type: of("prefect.state-type")?,
            name: of("prefect.state-name"),
            message: of("prefect.state-message").filter(|message| !message.is_empty()),
            timestamp: of("prefect.state-timestamp")?.parse().unwrap_or(self.occurred),
            state_details: ApiStateDetails::default(),
            data: serde_json::Value::Null,
        };
        let video_id = related("tag")
            .filter_map(|tag| tag.get("prefect.resource.id")?.strip_prefix("prefect.tag.video:"))
            .map(str::to_owned)
            .next();
        Some(FeedEvent {
            flow_run_id,
            flow_name: flow_meant_by(&name_of("flow")?).to_owned(),
            video_id,
            event: FlowRunEvent::State {
                attempt: of("prefect.run-count")
                    .and_then(|count| count.parse().ok())
                    .unwrap_or(0),
                state: State {
                    state_type: state.state_type(),
                    name: state.state_name(),
                    message: state.message,
                    timestamp: state.timestamp,
                },
            },
            cursor: FeedCursor(String::new()),
        })
    }
}
