//! Lineage over all machines: what this home knows of its own runs, and what the runs of everybody say at the server.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::api::PAGE;
use super::journal::Journal;
use super::journal::made::Made;
use super::made::{lineage, made_by};
use super::model::ApiFlowRun;
use super::server::Server;
use crate::domain::asset::AssetLineage;
use crate::domain::error::OrchestratorError;
use crate::domain::flow::flow_meant_by;
use crate::domain::prefect_error::PrefectError;
use crate::domain::state::StateType;

/// Most pages of runs of one reading.
const MOST_PAGES: usize = 25;
/// Longest that one reading takes; a page that was asked for is waited for.
const LONGEST: Duration = Duration::from_secs(15);
/// How long the server is waited for at all.
const PATIENCE: Duration = Duration::from_secs(20);
/// What ended shortly before the newest known run is asked for again: of two states that were entered at once, the later one may be
/// seen first.
const OVERLAP: SignedDuration = SignedDuration::from_mins(1);
/// Most materializations of one asset that are kept: what an older one was made from matters no more.
const MOST_OF_A_KEY: usize = 8;
/// Most assets that are kept; beyond, all is read anew.
const MOST_KEYS: usize = 200_000;

/// Reads lineage. What was read once is kept as long as the process: a further reading asks for what has ended since.
pub(super) struct Lineage {
    server: Arc<Server>,
    journal: Journal,
    known: tokio::sync::Mutex<Known>,
}

#[derive(Default)]
struct Known {
    by_key: BTreeMap<String, Vec<Made>>,
    /// Until when by the server's clock.
    until: Option<Timestamp>,
    /// How many runs were read, if older ones were left out.
    only_newest: Option<usize>,
}

impl Lineage {
    pub(super) fn new(server: Arc<Server>, journal: Journal) -> Self {
        Self {
            server,
            journal,
            known: tokio::sync::Mutex::default(),
        }
    }

    /// See [`crate::orchestrator::queue::Queue::read_lineage`].
    pub(super) async fn read(&self) -> Result<AssetLineage, OrchestratorError> {
        let mut known = self.known.lock().await;
        let caught_up = tokio::time::timeout(PATIENCE, self.catch_up(&mut known))
            .await
            .unwrap_or_else(|_| Err(self.server.client().unreachable("no answer in time".to_owned())));
        let notice = match (caught_up, known.only_newest) {
            (Err(error), _) => Some(format!(
                "what other machines have made since is not shown, and nothing of it if it was not read before: {error}"
            )),
            (Ok(()), Some(count)) => Some(format!(
                "what other machines have made before the newest {count} runs is not shown"
            )),
            (Ok(()), None) => None,
        };
        let mut all: Vec<Made> = known.by_key.values().flatten().cloned().collect();
        drop(known);
        // A making that the server has is not this home's once more. It is the server's that counts: its times are of one clock.
        let told: HashSet<(String, _)> = all.iter().map(|made| (made.key.clone(), made.flow_run_id)).collect();
        let own = self.journal.made.newest().await?;
        all.extend(
            own.into_iter()
                .filter(|made| !told.contains(&(made.key.clone(), made.flow_run_id))),
        );
        Ok(AssetLineage { notice, ..lineage(all) })
    }

    /// Reads the runs that have completed since the last time, the newest first.
    async fn catch_up(&self, known: &mut Known) -> Result<(), PrefectError> {
        let started = Instant::now();
        let after = known.until.map(|until| until - OVERLAP);
        let mut until = known.until;
        let mut count = 0;
        let mut is_all = false;
        for _ in 0..MOST_PAGES {
            let runs = self.completed(after, count).await?;
            count += runs.len();
            for run in &runs {
                until = until.max(run.end_time);
                let flow_name = self.flow_name(run).await?;
                for made in made_by(run, &flow_name) {
                    known.keep(made);
                }
            }
            is_all = runs.len() < PAGE as usize;
            if is_all || started.elapsed() > LONGEST {
                break;
            }
        }
        known.until = until;
        if !is_all {
            known.only_newest = Some(count);
        }
        if known.by_key.len() > MOST_KEYS {
            *known = Known::default();
        }
        Ok(())
    }

    async fn completed(&self, after: Option<Timestamp>, offset: usize) -> Result<Vec<ApiFlowRun>, PrefectError> {
        let mut filter = json!({
            "deployments": { "name": { "any_": [self.server.settings().deployment_name] } },
            "flow_runs": { "state": { "type": { "any_": [StateType::Completed] } } },
            "sort": "END_TIME_DESC",
            "offset": offset,
            "limit": PAGE,
        });
        if let Some(after) = after {
            filter["flow_runs"]["end_time"] = json!({ "after_": after });
        }
        self.server.client().filter_flow_runs(&filter).await
    }

    /// The flow of ours, whatever it is called there.
    async fn flow_name(&self, run: &ApiFlowRun) -> Result<String, PrefectError> {
        let flow_name = self.server.names().flow(self.server.client(), run.flow_id).await?;
        Ok(flow_meant_by(&flow_name).to_owned())
    }
}

impl Known {
    fn keep(&mut self, made: Made) {
        let of_key = self.by_key.entry(made.key.clone()).or_default();
        // One of a run that was done once more takes the place of the older one.
        of_key.retain(|other| other.flow_run_id != made.flow_run_id);
        of_key.push(made);
        if of_key.len() > MOST_OF_A_KEY {
            let oldest = of_key
                .iter()
                .enumerate()
                .min_by_key(|(_, made)| made.at)
                .map(|(place, _)| place);
            if let Some(place) = oldest {
                of_key.swap_remove(place);
            }
        }
    }
}
