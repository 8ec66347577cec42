//! Runs that others than our callers have queued: from Prefect's UI, its command line, its schedules. They get what ours have from
//! the start, so that they are found by their video: its tag, and a telling name.

use std::cmp::Reverse;
use std::sync::Arc;

use serde_json::json;

use super::api::PAGE;
use super::client::DEFAULT_PATIENCE;
use super::lost::of_ours;
use super::model::ApiFlowRun;
use super::server::Server;
use crate::domain::flow::{FlowDefinition, flow_meant_by};
use crate::domain::prefect_error::PrefectError;
use crate::domain::state::StateType;

/// How many of those that are next are looked at now and then.
const NEXT: u32 = 50;
/// Most pages of those that wait.
const MOST_PAGES: usize = 10;

/// Welcomes runs.
pub(super) struct Arrivals(Arc<Server>);

impl Arrivals {
    pub(super) const fn new(server: Arc<Server>) -> Self {
        Self(server)
    }

    /// The run as it is to be claimed, and whether the server is still to hear of it. Where the latest wins, one that nobody has
    /// welcomed is welcomed with all that wait beside it: the latest of several for one video is known by what they are about. Of other
    /// flows, what a run lacks can be told with its start.
    pub(super) async fn welcome(
        &self,
        flow: &FlowDefinition,
        run: ApiFlowRun,
    ) -> Result<(ApiFlowRun, bool), PrefectError> {
        if lacking(flow, &run).is_none() {
            return Ok((run, false));
        }
        if !flow.latest_wins {
            return Ok((mended(flow, &run).0, true));
        }
        let mut others = Vec::new();
        for page in 0..MOST_PAGES {
            let found = self.waiting(flow, page * PAGE as usize).await?;
            let is_last = found.len() < PAGE as usize;
            others.extend(found);
            if is_last {
                break;
            }
        }
        others.retain(|other| other.id != run.id && !other.is_by_old_names());
        newest_first(&mut others);
        for other in &others {
            self.mend(flow, other).await?;
        }
        Ok((self.mend(flow, &run).await?, false))
    }

    /// Welcomes those whose turn is next, so that they are found before anybody claims them.
    pub(super) async fn welcome_next(&self) -> Result<(), PrefectError> {
        let (client, flows) = (self.0.client(), self.0.flows());
        let mut filter = of_ours(client, flows.iter().map(|flow| flow.name.as_str()));
        filter["flow_runs"] = json!({ "state": { "type": { "any_": [StateType::Scheduled] } } });
        filter["sort"] = json!("EXPECTED_START_TIME_ASC");
        filter["limit"] = json!(NEXT);
        let mut found = client.filter_flow_runs(&filter).await?;
        newest_first(&mut found);
        for run in found {
            // It may be of the Python service that was there before; one of ours is found by its arguments.
            if run.is_by_old_names() {
                continue;
            }
            let name = self.0.names().flow(client, run.flow_id).await?;
            if let Ok(flow) = flows.get(flow_meant_by(&name)) {
                self.mend(flow, &run).await?;
            }
        }
        Ok(())
    }

    async fn waiting(&self, flow: &FlowDefinition, offset: usize) -> Result<Vec<ApiFlowRun>, PrefectError> {
        let mut filter = of_ours(self.0.client(), [flow.name.as_str()]);
        filter["flow_runs"] = json!({ "state": { "type": { "any_": [StateType::Scheduled] } } });
        filter["sort"] = json!("EXPECTED_START_TIME_ASC");
        filter["offset"] = json!(offset);
        self.0.client().filter_flow_runs(&filter).await
    }

    /// Gives the run what it lacks.
    pub(super) async fn mend(&self, flow: &FlowDefinition, run: &ApiFlowRun) -> Result<ApiFlowRun, PrefectError> {
        let (mended, is_changed) = mended(flow, run);
        if is_changed {
            let changes = json!({ "tags": mended.tags, "name": mended.name });
            self.0
                .client()
                .update_flow_run(run.id, &changes, DEFAULT_PATIENCE)
                .await?;
        }
        Ok(mended)
    }
}

/// In the order in which they are welcomed: whoever finds an older run of a video welcomed finds the newer ones too.
fn newest_first(runs: &mut [ApiFlowRun]) {
    runs.sort_by_key(|run| Reverse(run.made()));
}

/// The run with what it lacks, and whether that was anything.
fn mended(flow: &FlowDefinition, run: &ApiFlowRun) -> (ApiFlowRun, bool) {
    let mut mended = run.clone();
    let Some((tags, name)) = lacking(flow, run) else {
        return (mended, false);
    };
    mended.tags.extend(tags);
    if is_random(&run.name) {
        mended.name = name;
    }
    (mended, true)
}

/// Tags that a run lacks, and what it should be called; none of one that is about no video, or that has them.
fn lacking(flow: &FlowDefinition, run: &ApiFlowRun) -> Option<(Vec<String>, String)> {
    let video_id = run.video_id()?;
    let mut tags = flow.tags(Some(video_id));
    tags.retain(|tag| !run.tags.contains(tag));
    (!tags.is_empty()).then(|| (tags, flow.run_name(video_id)))
}

/// Whether the server has made the name up, of two words.
fn is_random(name: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase());
    name.split_once('-')
        .is_some_and(|(first, second)| is_word(first) && is_word(second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_somebody_gave_stays() {
        assert!(is_random("brave-otter"));
        for name in ["nightly", "the-big-one", "film-2", "crop-frames of v"] {
            assert!(!is_random(name), "{name}");
        }
    }
}
