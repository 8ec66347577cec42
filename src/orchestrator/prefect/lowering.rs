//! How `captionacc setup` makes the limit of silence shorter under workers that run: in steps that they can follow.
//!
//! A worker learns of a new limit at its next beat, and tells the server at which pace it beats from then on. The limit is never
//! less than twice the slowest pace that a living worker has told, so that nobody who lives is taken for lost.

use std::time::{Duration, Instant};

use super::automation::{self, Outcome};
use super::client::PrefectClient;
use super::model::ApiWorker;
use crate::domain::prefect_error::PrefectError;
use crate::settings::prefect::LOST_AFTER;

/// How often it is looked whether they have followed.
const LOOK: Duration = Duration::from_secs(1);
/// What a beat may be late.
const LATE: Duration = Duration::from_secs(5);
/// How Prefect's own workers are called unless somebody names them. `captionacc execute` beats for their runs, at its own pace.
const PREFECTS_OWN: &str = "ProcessWorker ";

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lowered {
    /// The automation.
    pub outcome: Outcome,
    /// What it says now, in seconds.
    pub now_s: u64,
    /// Workers that did not follow, if it is not what it should be yet.
    pub kept_by: Vec<String>,
}

/// Makes the automation, or makes it right; its time is changed only where one is set on this machine. Shorter limits in steps, each
/// of which `say` is told.
///
/// # Errors
/// What the API says.
pub async fn ensure(client: &PrefectClient, say: &mut dyn FnMut(String)) -> Result<Lowered, PrefectError> {
    let found = automation::find(client).await?.and_then(|found| found.silence_s);
    let own_s = automation::silence_s(client);
    // What another machine has set stays where this one has no wish.
    let wanted_s = found
        .filter(|_| client.settings().lost_after.is_none())
        .unwrap_or(own_s);
    // Nobody beats for an automation that is made now: living workers have the pace of their settings.
    let mut holds_s = found.unwrap_or(LOST_AFTER.as_secs().max(wanted_s));
    let mut outcome = Outcome::There;
    let mut is_first = true;
    let mut since = Instant::now();
    let mut slowest_before = u64::MAX;
    loop {
        let slow = slow_workers(client).await?;
        let slowest_s = slow.iter().map(|(_, pace_s)| *pace_s).max();
        let safe_s = match slowest_s {
            Some(slowest_s) => slowest_s * 2,
            // Their paces are not known: half of what they heard last is in time for a third of it.
            None if client.settings().runner_mode => {
                let has_passed = since.elapsed() > Duration::from_secs(holds_s / 3) + LATE;
                if is_first || has_passed { holds_s / 2 } else { holds_s }
            }
            None => 0,
        };
        let step_s = match found {
            Some(_) if wanted_s >= holds_s => wanted_s,
            // One that is longer already stays until they have followed.
            Some(_) => wanted_s.max(safe_s).min(holds_s),
            None => wanted_s.max(safe_s),
        };
        if step_s < holds_s || is_first {
            is_first = false;
            let made = automation::ensure(client, step_s).await?;
            if made != Outcome::There && outcome != Outcome::Made {
                outcome = made;
            }
            holds_s = step_s;
            since = Instant::now();
        }
        if holds_s <= wanted_s {
            return Ok(Lowered {
                outcome,
                now_s: holds_s,
                kept_by: Vec::new(),
            });
        }
        let late: Vec<&(String, u64)> = slow.iter().filter(|(_, pace_s)| pace_s * 2 > wanted_s).collect();
        let slowest_s = slowest_s.unwrap_or(0);
        if slowest_s < slowest_before {
            slowest_before = slowest_s;
            since = Instant::now();
            say(format!(
                "A run may be silent for {holds_s} s now, and for {wanted_s} s once the running workers beat as often{}",
                names(&late)
            ));
        }
        // As long as it takes one that is gone to be offline.
        if !client.settings().runner_mode && since.elapsed() > Duration::from_secs(slowest_s * 3) + LATE {
            return Ok(Lowered {
                outcome,
                now_s: holds_s,
                kept_by: late.into_iter().map(|(name, _)| name.clone()).collect(),
            });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Living workers, with the pace that each has told.
async fn slow_workers(client: &PrefectClient) -> Result<Vec<(String, u64)>, PrefectError> {
    let settings = client.settings();
    if settings.runner_mode {
        return Ok(Vec::new());
    }
    let lives =
        |worker: &ApiWorker| worker.status.as_deref() == Some("ONLINE") && !worker.name.starts_with(PREFECTS_OWN);
    let workers = client.read_workers(&settings.work_pool).await?;
    Ok(workers
        .into_iter()
        .filter(lives)
        .map(|worker| {
            let pace_s = worker.pace_s().unwrap_or(30);
            (worker.name, pace_s)
        })
        .collect())
}

fn names(late: &[&(String, u64)]) -> String {
    let names: Vec<String> = late
        .iter()
        .map(|(name, pace_s)| format!("{name} (every {pace_s} s)"))
        .collect();
    if names.is_empty() {
        String::new()
    } else {
        format!(": {}", names.join(", "))
    }
}
