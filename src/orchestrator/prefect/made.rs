//! What a run has made, as it stands in the result of its final state, and what all of it comes to.
//!
//! The result is told in one call with the state, and is there as long as the run is: the server forgets the events of assets after a
//! week (`PREFECT_SERVER_EVENTS_RETENTION_PERIOD`), and has them some seconds late. Versions are of one home; between machines a
//! materialization is known by its run and its key, and which of two is newer by the server's clock.

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::journal::made::{Made, MadeFrom};
use super::model::ApiFlowRun;
use crate::domain::asset::{Asset, AssetLineage, Upstream, is_found};
use crate::domain::id::FlowRunId;
use crate::domain::state::StateType;

/// What the result of a run of ours calls itself.
const OURS: &str = "captionacc";
/// Most assets of one run that are read.
const MOST_ASSETS: usize = 1000;
/// Most upstreams of one asset that are read.
const MOST_UPSTREAMS: usize = 200;
/// Longest key that is read, in bytes.
const LONGEST_KEY: usize = 1024;
/// An end that is told later than this was told late; a smaller difference is one of clocks.
const TOLD_AT_ONCE: SignedDuration = SignedDuration::from_secs(30);

/// The part of the result that machines read.
#[derive(Debug, Serialize, Deserialize)]
struct Lineage {
    claimed_at: Timestamp,
    made: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    key: String,
    at: Timestamp,
    /// Keys that it was made from, with the run whose making was read.
    from: BTreeMap<String, Option<FlowRunId>>,
}

/// The result of a completed run: what `run_deployment` returns, and what other machines read. One that the server does not take as a
/// result would let the run be run again.
pub(super) fn result(message: Option<&str>, made: &[Made]) -> Value {
    let assets: Map<String, Value> = made
        .iter()
        .map(|made| (made.key.clone(), made.metadata.clone()))
        .collect();
    let mut result = json!({ "type": OURS, "message": message, "assets": assets });
    if let Some(first) = made.first() {
        let entries = made.iter().map(|made| Entry {
            key: made.key.clone(),
            at: made.at,
            from: made
                .upstreams
                .iter()
                .map(|upstream| (upstream.key.clone(), upstream.made_by))
                .collect(),
        });
        let lineage = Lineage {
            claimed_at: first.claimed_at,
            made: entries.collect(),
        };
        result["lineage"] = serde_json::to_value(lineage).expect("plain values");
    }
    result
}

/// What a completed run says that it has made, as far as it can be read. One of an earlier version does not say from what.
pub(super) fn made_by(run: &ApiFlowRun, flow_name: &str) -> Vec<Made> {
    let Some(state) = run
        .state
        .as_ref()
        .filter(|state| state.state_type() == StateType::Completed)
    else {
        return Vec::new();
    };
    if state.data["type"] != OURS {
        return Vec::new();
    }
    let Some(assets) = state.data["assets"].as_object() else {
        return Vec::new();
    };
    let lineage = Lineage::deserialize(&state.data["lineage"]).unwrap_or_else(|_| Lineage {
        claimed_at: run.start_time.unwrap_or(run.created),
        made: assets
            .keys()
            .map(|key| Entry {
                key: key.clone(),
                at: state.timestamp,
                from: BTreeMap::new(),
            })
            .collect(),
    });
    let is_told_at_once = |at: Timestamp| state.timestamp.duration_since(at) < TOLD_AT_ONCE;
    let is_key = |key: &String| !key.is_empty() && key.len() <= LONGEST_KEY;
    lineage
        .made
        .into_iter()
        .filter(|entry| is_key(&entry.key))
        .take(MOST_ASSETS)
        .filter_map(|entry| {
            Some(Made {
                metadata: assets.get(&entry.key)?.clone(),
                upstreams: entry
                    .from
                    .into_iter()
                    .filter(|(key, _)| is_key(key))
                    .take(MOST_UPSTREAMS)
                    .map(|(key, made_by)| MadeFrom { key, made_by })
                    .collect(),
                at: if is_told_at_once(entry.at) {
                    state.timestamp
                } else {
                    entry.at
                },
                claimed_at: lineage.claimed_at,
                key: entry.key,
                flow_run_id: FlowRunId::from_uuid(run.id),
                flow_name: flow_name.to_owned(),
            })
        })
        .collect()
}

/// A version of an asset.
struct Version<'a> {
    made: &'a Made,
    number: i64,
}

/// The lineage of all that was made, each known once. What was found again as it was is the version that was there.
pub(super) fn lineage(mut all: Vec<Made>) -> AssetLineage {
    // One order, in whatever order they were read.
    all.sort_by(|one, other| (one.at, one.flow_run_id, &one.key).cmp(&(other.at, other.flow_run_id, &other.key)));
    let mut versions: HashMap<&str, Vec<Version<'_>>> = HashMap::new();
    // By which version a run knows an asset that it has made or found.
    let mut of_run: HashMap<(FlowRunId, &str), i64> = HashMap::new();
    let mut newest = 0;
    for made in &all {
        let of_key = versions.entry(&made.key).or_default();
        let is_as_before = is_found(&made.key)
            && of_key
                .last()
                .is_some_and(|version| version.made.metadata == made.metadata);
        if !is_as_before {
            // Milliseconds, and those of one millisecond in their order: the same on every machine and at every reading.
            newest = (made.at.as_millisecond() * 1000).max(newest + 1);
            of_key.push(Version { made, number: newest });
        }
        if let Some(version) = of_key.last() {
            of_run.insert((made.flow_run_id, &made.key), version.number);
        }
    }
    let upstream = |made: &Made, from: &MadeFrom| {
        let made_by = [Some(made.flow_run_id), from.made_by].into_iter().flatten();
        let known = made_by.filter_map(|run| of_run.get(&(run, from.key.as_str())).copied());
        let of_key = versions.get(from.key.as_str()).into_iter().flatten();
        let there = of_key
            .filter(|version| version.made.at <= made.claimed_at)
            .map(|version| version.number);
        Upstream {
            key: from.key.clone(),
            version: known.chain(there).max(),
        }
    };
    AssetLineage::new(versions.values().filter_map(|of_key| {
        let Version { made, number } = of_key.last()?;
        Some(Asset {
            key: made.key.clone(),
            version: *number,
            flow_run_id: made.flow_run_id,
            flow_name: made.flow_name.clone(),
            materialized_at: made.at,
            metadata: made.metadata.clone(),
            upstreams: made.upstreams.iter().map(|from| upstream(made, from)).collect(),
            stale_because: Vec::new(),
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).expect("in range")
    }

    fn run(number: u128) -> FlowRunId {
        FlowRunId::from_uuid(uuid::Uuid::from_u128(number))
    }

    /// What run `number` made at `seconds`, at work since then.
    fn made(
        number: u128,
        (since, seconds): (i64, i64),
        key: &str,
        metadata: Value,
        from: &[(&str, Option<u128>)],
    ) -> Made {
        Made {
            key: key.to_owned(),
            flow_run_id: run(number),
            flow_name: "f".to_owned(),
            at: at(seconds),
            claimed_at: at(since),
            metadata,
            upstreams: from
                .iter()
                .map(|(key, made_by)| MadeFrom {
                    key: (*key).to_owned(),
                    made_by: made_by.map(run),
                })
                .collect(),
        }
    }

    fn stale(all: Vec<Made>) -> Vec<String> {
        let assets = lineage(all).assets.into_values();
        assets
            .filter(|asset| !asset.stale_because.is_empty())
            .map(|asset| asset.key)
            .collect()
    }

    const FILM: &str = "video://v";

    #[test]
    fn a_film_that_two_homes_find_for_the_first_time_each_is_one_version() {
        let film = |number, times| made(number, times, FILM, json!({ "size": 1 }), &[]);
        let all = vec![
            film(1, (0, 5)),
            made(1, (0, 5), "frames", json!({}), &[(FILM, Some(1))]),
            film(2, (6, 9)),
            made(2, (6, 9), "strip", json!({}), &[(FILM, Some(2))]),
        ];
        assert_eq!(stale(all.clone()), Vec::<String>::new());
        let known = lineage(all.clone());
        assert_eq!(known.assets[FILM].flow_run_id, run(1));
        // Read in whatever order, it is the same.
        let mut turned = all.clone();
        turned.reverse();
        assert_eq!(lineage(turned), known);
        let mut changed = all;
        changed.push(made(3, (10, 12), FILM, json!({ "size": 2 }), &[]));
        assert_eq!(stale(changed), ["frames", "strip"]);
    }

    #[test]
    fn what_was_made_while_an_attempt_was_at_work_was_not_read_by_it() {
        let frames = |number, times| made(number, times, "frames", json!({ "n": number.to_string() }), &[]);
        let strip = |since| made(2, (since, 9), "strip", json!({}), &[("frames", None)]);
        assert_eq!(stale(vec![frames(1, (0, 5)), strip(6)]), Vec::<String>::new());
        assert_eq!(stale(vec![frames(1, (0, 7)), strip(6)]), ["strip"]);
        // Unless it is known that it did read just that.
        let reader = made(2, (6, 9), "strip", json!({}), &[("frames", Some(1))]);
        assert_eq!(stale(vec![frames(1, (0, 7)), reader]), Vec::<String>::new());
    }

    #[test]
    fn a_result_that_was_told_is_read_as_it_was_and_a_hostile_one_as_nothing() {
        let original = vec![
            made(7, (1, 5), FILM, json!({ "size": 1 }), &[]),
            made(
                7,
                (1, 5),
                "strip",
                json!({ "count": 3 }),
                &[("layout", None), (FILM, Some(7))],
            ),
        ];
        let mut api: ApiFlowRun = serde_json::from_value(json!({
            "id": run(7), "name": "r", "flow_id": run(1), "created": at(0),
            "state": { "type": "COMPLETED", "timestamp": at(5), "data": result(Some("done"), &original) },
        }))
        .expect("a run");
        assert_eq!(made_by(&api, "f"), original);
        // Told long after, it was made when it was made.
        let state = api.state.as_mut().expect("a state");
        state.timestamp = at(500);
        assert_eq!(made_by(&api, "f")[0].at, at(5));
        for hostile in [
            Value::Null,
            json!({ "type": "captionacc" }),
            json!({ "type": "captionacc", "assets": [] }),
            json!({ "type": "unpersisted", "assets": { "a": {} } }),
            json!({ "type": "captionacc", "assets": { "": {} } }),
            json!({ "type": "captionacc", "assets": {}, "lineage": { "claimed_at": at(0), "made": [{ "key": "a", "at": at(0), "from": {} }] } }),
        ] {
            api.state.as_mut().expect("a state").data = hostile.clone();
            assert_eq!(made_by(&api, "f"), Vec::new(), "{hostile}");
        }
        // One of an earlier version.
        api.state.as_mut().expect("a state").data = json!({ "type": "captionacc", "assets": { "a": { "n": 1 } } });
        assert_eq!(made_by(&api, "f")[0].metadata, json!({ "n": 1 }));
    }
}
