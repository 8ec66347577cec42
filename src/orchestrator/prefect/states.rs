//! The states of runs of our deployments as a server's events tell of them, whoever made them.

use std::collections::HashMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::client::Call;
use super::journal::Journal;
use super::model::{ApiState, ApiStateDetails};
use super::server::Server;
use crate::domain::error::OrchestratorError;
use crate::domain::flow::flow_meant_by;
use crate::domain::flow_run::State;
use crate::domain::id::FlowRunId;
use crate::domain::prefect_error::PrefectError;
use crate::settings::prefect::PrefectSettings;

/// Events older than this are all written down at a server.
pub(super) const SETTLED: SignedDuration = SignedDuration::from_secs(8);
/// How long one request may take; what this journal tells waits for it.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// How much of a server's time one request is about, at least.
const INTERVAL: SignedDuration = SignedDuration::from_secs(2);
/// Most events of one answer; the most that a server gives.
const PAGE: usize = 50;
/// How often somebody who waits for news asks the server.
const NEWS_INTERVAL: Duration = Duration::from_secs(2);
/// The same where calls are counted; also what Prefect's own client does.
const CLOUD_NEWS_INTERVAL: Duration = Duration::from_secs(5);

/// A state that a run has entered, as the server tells of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StateAtServer {
    /// When the server noted it.
    pub(super) occurred: Timestamp,
    /// The state's own id, which is that of its event.
    pub(super) id: Uuid,
    pub(super) flow_run_id: FlowRunId,
    pub(super) flow_name: String,
    pub(super) video_id: Option<String>,
    pub(super) attempt: u32,
    pub(super) state: State,
    /// The one before it.
    pub(super) previous: Option<State>,
}

/// How often a server with these settings is asked for news.
pub(super) const fn news_interval(settings: &PrefectSettings) -> Duration {
    if settings.is_cloud {
        CLOUD_NEWS_INTERVAL
    } else {
        NEWS_INTERVAL
    }
}

/// Until when all has been seen after each of these times, which are in order and later than `after`: a time is not seen
/// before all that came at it was.
pub(super) fn seen_after_each(after: Timestamp, times: &[Timestamp]) -> Vec<Timestamp> {
    let mut seen = after;
    let mut all = Vec::with_capacity(times.len());
    for (index, at) in times.iter().enumerate() {
        if times.get(index + 1) != Some(at) {
            seen = *at;
        }
        all.push(seen);
    }
    all
}

/// Everybody's times are the same few, so that readers who have seen the same are at the same place.
pub(super) fn on_grid(time: Timestamp) -> Timestamp {
    let seconds = INTERVAL.as_secs();
    Timestamp::from_second(time.as_second().div_euclid(seconds) * seconds).unwrap_or(time)
}

/// States after a time in order, and until when these are all.
pub(super) async fn states_at_server(
    server: &Server,
    after: Timestamp,
    until: Timestamp,
) -> Result<(Vec<StateAtServer>, Timestamp), PrefectError> {
    let filter = json!({
        "filter": {
            "occurred": { "since": after + SignedDuration::from_micros(1), "until": until },
            "event": { "prefix": ["prefect.flow-run."] },
            "order": "ASC",
        },
        "limit": PAGE,
    });
    let answer: Answer = server
        .client()
        .call(Call::post("/events/filter", &filter).patience(PATIENCE))
        .await?;
    let occurred = |event: &Value| event.get("occurred")?.as_str()?.parse().ok();
    let until = match answer.events.last() {
        Some(last) if answer.events.len() >= PAGE => occurred(last).unwrap_or(until),
        _ => until,
    };
    let deployment = &server.settings().deployment_name;
    // One that is not as expected hides none of the others.
    let known = |event| serde_json::from_value::<ApiEvent>(event).ok();
    let states = answer.events.into_iter().filter_map(known);
    let states = states.filter_map(|event| event.as_state(deployment));
    // A time before the one that was asked for would be asked for again for ever.
    let states = states.filter(|state| after < state.occurred && state.occurred <= until);
    let mut states: Vec<_> = states.collect();
    states.sort_by_key(|state| state.occurred);
    Ok((states, until.max(after + SignedDuration::from_micros(1))))
}

/// Without those that this journal tells of, at its own time.
pub(super) async fn not_known_here(
    journal: &Journal,
    states: Vec<StateAtServer>,
) -> Result<Vec<StateAtServer>, OrchestratorError> {
    if states.is_empty() {
        return Ok(states);
    }
    let ids: Vec<String> = states.iter().map(|state| state.flow_run_id.to_string()).collect();
    let ids = serde_json::to_string(&ids).expect("ids are text");
    let known: HashMap<String, (bool, i64)> = journal
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
    let is_news = |state: &StateAtServer| match known.get(&state.flow_run_id.to_string()) {
        // It waits as far as is known here: another machine has begun it since.
        Some((true, since_ms)) => state.state.timestamp.as_millisecond() > *since_ms,
        Some(_) => false,
        None => true,
    };
    Ok(states.into_iter().filter(is_news).collect())
}

#[derive(Deserialize)]
struct Answer {
    events: Vec<Value>,
}

/// An event of the server, as far as it is used.
#[derive(Deserialize)]
struct ApiEvent {
    id: Uuid,
    occurred: Timestamp,
    resource: HashMap<String, String>,
    #[serde(default)]
    related: Vec<HashMap<String, String>>,
    #[serde(default)]
    payload: Value,
}

impl ApiEvent {
    /// The state that it tells of, of a run of our deployments.
    fn as_state(&self, deployment: &str) -> Option<StateAtServer> {
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
        Some(StateAtServer {
            occurred: self.occurred,
            id: self.id,
            flow_run_id,
            flow_name: flow_meant_by(&name_of("flow")?).to_owned(),
            video_id,
            attempt: of("prefect.run-count")
                .and_then(|count| count.parse().ok())
                .unwrap_or(0),
            state: known(state),
            previous: self.previous(),
        })
    }

    fn previous(&self) -> Option<State> {
        let before = self.payload.get("initial_state")?;
        let text = |name: &str| before.get(name)?.as_str().map(str::to_owned);
        Some(known(ApiState {
            state_type: text("type")?,
            name: text("name"),
            message: None,
            timestamp: self.occurred,
            state_details: ApiStateDetails::default(),
            data: serde_json::Value::Null,
        }))
    }
}

fn known(state: ApiState) -> State {
    State {
        state_type: state.state_type(),
        name: state.state_name(),
        message: state.message,
        timestamp: state.timestamp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_at_one_moment_is_seen_at_once() {
        let at = |second: i64| Timestamp::from_second(second).expect("a time");
        let times = [3, 3, 4, 6, 6, 6].map(at);
        assert_eq!(seen_after_each(at(1), &times), [1, 3, 4, 4, 4, 6].map(at));
        assert_eq!(seen_after_each(at(1), &[]), []);
    }

    #[test]
    fn what_a_server_says_is_a_state_only_if_it_is_one() {
        let event = |change: fn(&mut Value)| {
            let mut event = json!({
                "id": Uuid::nil(),
                "occurred": "2026-11-27T06:00:00Z",
                "resource": {
                    "prefect.resource.id": format!("prefect.flow-run.{}", Uuid::nil()),
                    "prefect.state-type": "RUNNING", "prefect.state-name": "Running", "prefect.state-message": "",
                    "prefect.state-timestamp": "2026-11-27T06:00:00Z", "prefect.run-count": "2",
                },
                "related": [
                    { "prefect.resource.role": "flow", "prefect.resource.name": "full-frames" },
                    { "prefect.resource.role": "deployment", "prefect.resource.name": "production" },
                    { "prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.video:v" },
                ],
                "payload": { "initial_state": { "type": "PENDING", "name": "Pending" } },
            });
            change(&mut event);
            let event: ApiEvent = serde_json::from_value(event).ok()?;
            event.as_state("production")
        };
        let state = event(|_| {}).expect("a state");
        assert_eq!(
            (state.flow_name.as_str(), state.video_id.as_deref(), state.attempt),
            ("full-frames", Some("v"), 2)
        );
        assert_eq!(state.previous.map(|before| before.name.as_str()), Some("Pending"));
        let without_previous: [fn(&mut Value); 3] = [
            |event| event["payload"] = Value::Null,
            |event| event["payload"]["initial_state"] = json!(7),
            |event| event["payload"]["initial_state"]["type"] = json!([]),
        ];
        for change in without_previous {
            assert_eq!(event(change).expect("a state").previous, None);
        }
        let not_ours: [fn(&mut Value); 4] = [
            |event| event["related"] = json!([]),
            |event| event["resource"]["prefect.resource.id"] = json!("prefect.flow-run.x"),
            |event| event["resource"]["prefect.state-type"] = Value::Null,
            |event| event["id"] = json!("no id"),
        ];
        for change in not_ours {
            assert_eq!(event(change), None);
        }
    }
}
