//! What workers say of themselves, since a server knows of them their names and that they live: which version they are, since when
//! they run, and which flows they know. Each says so with an event, at its start and then every [`EVERY`].

use std::collections::{HashMap, HashSet};
#[cfg(feature = "worker")]
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
#[cfg(feature = "worker")]
use uuid::Uuid;

use super::client::{Call, PrefectClient, segment};
use super::lost::place;
use crate::domain::prefect_error::PrefectError;
use crate::settings::prefect::PrefectSettings;

/// How often a worker says it: a server keeps events for some days only, and who asks looks back only so far.
#[cfg(feature = "worker")]
pub(super) const EVERY: Duration = Duration::from_mins(10);
/// How far back is looked: what a worker says is some seconds late, and so is the next time.
const LOOKED_BACK: SignedDuration = SignedDuration::from_mins(12);
/// Most events of one answer of the server. Of more workers than this holds, some have said nothing, as far as is known.
const PAGE: usize = 50;
/// Longest version that is one: anybody may tell a server anything.
const LONGEST_VERSION: usize = 64;

/// What a worker says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Introduction {
    /// As the pool knows it.
    pub(super) name: String,
    /// Of this program.
    pub(super) version: String,
    pub(super) started_at: Timestamp,
    /// The names of the flows that it runs.
    pub(super) flows: HashSet<String>,
}

/// One for each pool.
fn event_name(settings: &PrefectSettings) -> String {
    format!("captionacc.worker.introduction.{}", segment(place(settings)))
}

/// Says it.
#[cfg(feature = "worker")]
pub(super) async fn tell(client: &PrefectClient, introduction: &Introduction) -> Result<(), PrefectError> {
    let event = json!({
        "id": Uuid::new_v4(),
        "occurred": client.server_now(),
        "event": event_name(client.settings()),
        "resource": {
            "prefect.resource.id": format!("captionacc.worker.{}", segment(&introduction.name)),
            "prefect.resource.name": introduction.name,
        },
        "related": [],
        "payload": introduction,
    });
    client.create_events(&[event]).await
}

/// What the workers of the pool have said last, by name. One of an earlier version says nothing, nor does one of another program.
pub(super) async fn read(client: &PrefectClient) -> Result<HashMap<String, Introduction>, PrefectError> {
    let now = client.server_now();
    let filter = json!({
        "limit": PAGE,
        "filter": {
            "occurred": { "since": now - LOOKED_BACK, "until": now + SignedDuration::from_mins(5) },
            "event": { "name": [event_name(client.settings())] },
            "order": "DESC",
        },
    });
    let mut page: Value = client.call(Call::post("/events/filter", &filter)).await?;
    let Value::Array(events) = page["events"].take() else {
        return Ok(HashMap::new());
    };
    let mut found = HashMap::new();
    for mut event in events {
        if let Ok(introduction) = serde_json::from_value::<Introduction>(event["payload"].take())
            && introduction.version.len() <= LONGEST_VERSION
        {
            found.entry(introduction.name.clone()).or_insert(introduction);
        }
    }
    Ok(found)
}
