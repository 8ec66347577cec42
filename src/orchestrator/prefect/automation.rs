//! Prefect's own automation for runs whose machine is lost: a run that was alive, and has said nothing for a while, is set to
//! CRASHED by the server itself. Workers of ours give it on from there.

use std::time::Duration;

use serde_json::{Value, json};

use super::client::{Call, DEFAULT_PATIENCE, PrefectClient};
use super::limit::whole_seconds;
use super::lost::{alarm_message, alive_event, left_event, place};
use crate::domain::prefect_error::PrefectError;
use crate::settings::table::DAY_MS;

/// The shortest time that the server watches for silence.
const SHORTEST_S: u64 = 10;
/// The longest time that a run may be set to be silent; of more, nobody of ours has made it.
const LONGEST_S: u64 = DAY_MS / 1000;
/// How long a beat waits to learn of another limit: what it says of runs that live is not to be late.
const LEARNING_PATIENCE: Duration = Duration::from_secs(2);

/// The automation as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    id: String,
    /// Whether it is switched on.
    pub is_enabled: bool,
    /// Whether it does what it should, after whatever time.
    pub is_right: bool,
    /// How long it lets a run be silent, in seconds; nothing, if that is no time that may be set.
    pub silence_s: Option<u64>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was not there.
    Made,
    /// It did something else, or was switched off.
    Changed,
    /// It was there.
    There,
}

impl Outcome {
    /// In a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::Changed => "changed",
            Self::There => "there",
        }
    }
}

/// Its name: one for each pool, or in runner mode for each name of deployments.
pub fn name(client: &PrefectClient) -> String {
    format!("captionacc: runs of {} whose machine is lost", place(client.settings()))
}

/// How long it lets a run be silent if `captionacc setup` makes it with these settings, in seconds.
pub fn silence_s(client: &PrefectClient) -> u64 {
    whole_seconds(client.settings().lost_after()).max(SHORTEST_S)
}

fn wanted(client: &PrefectClient, silence_s: u64) -> Value {
    let alive = alive_event(client.settings());
    // Events of our own alone: the server's of a run's states would cost it a write for every run of every pool.
    let expected = [alive.clone(), left_event(client.settings())];
    json!({
        "name": name(client),
        "description": "Made by `captionacc setup`, removed by `captionacc setup --remove`: a run that gives no sign of life is \
                        set to CRASHED, and a worker of another machine takes it over.",
        "enabled": true,
        "trigger": {
            "type": "event",
            "posture": "Proactive",
            "match": { "prefect.resource.id": "prefect.flow-run.*" },
            "match_related": {},
            "after": [alive],
            "expect": expected,
            "for_each": ["prefect.resource.id"],
            "threshold": 1,
            "within": silence_s,
        },
        "actions": [{
            "type": "change-flow-run-state",
            "state": "CRASHED",
            "name": "Crashed",
            "message": alarm_message(Duration::from_secs(silence_s)),
        }],
    })
}

/// The automation, if it is there.
///
/// # Errors
/// What the API says.
pub async fn find(client: &PrefectClient) -> Result<Option<Found>, PrefectError> {
    find_within(client, DEFAULT_PATIENCE).await
}

async fn find_within(client: &PrefectClient, patience: Duration) -> Result<Option<Found>, PrefectError> {
    let filter = json!({ "automations": { "name": { "any_": [name(client)] } } });
    let found: Vec<Value> = client
        .call(Call::post("/automations/filter", &filter).patience(patience))
        .await?;
    Ok(found.into_iter().find_map(|automation| {
        let silence_s = automation.pointer("/trigger/within").and_then(silence_in);
        let wanted = silence_s.map(|silence_s| wanted(client, silence_s));
        let is_same = |path: &str| Some(automation.pointer(path)) == wanted.as_ref().map(|wanted| wanted.pointer(path));
        Some(Found {
            id: automation["id"].as_str()?.to_owned(),
            is_enabled: automation["enabled"].as_bool().unwrap_or(true),
            is_right: ["/trigger/after", "/actions/0/state", "/actions/0/message"]
                .into_iter()
                .all(is_same),
            silence_s,
        })
    }))
}

/// Reads what holds for every worker. Where the server or the plan has none, or does not say it, what was known last holds.
///
/// # Errors
/// What the API says, of a server that is away or at fault.
pub async fn learn_limit(client: &PrefectClient) -> Result<(), PrefectError> {
    match find_within(client, LEARNING_PATIENCE).await {
        // One that is switched off can be switched on at any time.
        Ok(found) => client.learn_limit(found.and_then(|found| found.silence_s).map(Duration::from_secs)),
        Err(PrefectError::Forbidden { .. } | PrefectError::NotFound { .. } | PrefectError::Rejected { .. }) => {
            if !client.knows_limit() {
                client.learn_limit(None);
            }
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Prefect writes seconds as a number with a point.
fn silence_in(value: &Value) -> Option<u64> {
    let time = Duration::try_from_secs_f64(value.as_f64()?).ok()?;
    let to_the_millisecond = Duration::new(time.as_secs(), time.subsec_millis() * 1_000_000);
    let silence_s = whole_seconds(to_the_millisecond).max(SHORTEST_S);
    (silence_s <= LONGEST_S).then_some(silence_s)
}

/// Makes it with this time, or makes it right.
///
/// # Errors
/// What the API says; [`PrefectError::Forbidden`], [`PrefectError::NotFound`] where the server or the plan has none.
pub async fn ensure(client: &PrefectClient, silence_s: u64) -> Result<Outcome, PrefectError> {
    match find(client).await? {
        Some(found) if found.is_right && found.is_enabled && found.silence_s == Some(silence_s) => Ok(Outcome::There),
        Some(found) => {
            let path = format!("/automations/{}", found.id);
            client.answer(Call::put(path, &wanted(client, silence_s))).await?;
            Ok(Outcome::Changed)
        }
        None => {
            client
                .answer(Call::post("/automations/", &wanted(client, silence_s)).once())
                .await?;
            Ok(Outcome::Made)
        }
    }
}

/// Removes it; whether it was there.
///
/// # Errors
/// What the API says.
pub async fn remove(client: &PrefectClient) -> Result<bool, PrefectError> {
    let Some(found) = find(client).await? else {
        return Ok(false);
    };
    client
        .answer(Call::delete(format!("/automations/{}", found.id)))
        .await?;
    Ok(true)
}
