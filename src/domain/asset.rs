//! Assets: what runs leave behind, from what it was made, and whether that has changed since.
//!
//! Keys: `video://{video_id}` and `annotations://{video_id}/{table}`; command flows name their own. A run that
//! completes materializes its assets; a materialization remembers which materialization of each upstream it was made
//! from. An asset is stale when an upstream has been materialized anew since, or is stale itself.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::id::FlowRunId;

/// Key of a video file.
pub fn video(video_id: &str) -> String {
    format!("video://{}", escape(video_id))
}

/// Key of a table of a video's annotations.db.
pub fn annotations(video_id: &str, table: &str) -> String {
    format!("annotations://{}/{table}", escape(video_id))
}

/// Whether an asset is found rather than made: a film, an approved layout. No run makes it anew, and found again as it was it is
/// the version that was there.
pub fn is_found(key: &str) -> bool {
    key.starts_with("video://") || key.ends_with("/video_layout_config")
}

/// What stays as it is in a segment of a key, as in a URL (RFC 3986, unreserved).
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A video id as one segment of a key.
fn escape(segment: &str) -> PercentEncode<'_> {
    utf8_percent_encode(segment, PLAIN)
}

/// A materialized asset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Materialization {
    /// `annotations://v1/full_frames`.
    pub key: String,
    /// Counts, parameters, versions.
    pub metadata: Value,
    /// Keys that it was made from.
    pub upstream_keys: Vec<String>,
    /// Found rather than made (a video file, an approved layout): a new version only if `metadata` has changed.
    #[serde(default)]
    pub observed: bool,
}

/// The newest materialization of an asset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asset {
    /// Its key.
    pub key: String,
    /// Grows with every materialization of any asset.
    pub version: i64,
    /// The run that made it.
    pub flow_run_id: FlowRunId,
    /// The flow of that run.
    pub flow_name: String,
    /// When.
    pub materialized_at: Timestamp,
    /// Counts, parameters, versions.
    pub metadata: Value,
    /// What it was made from, with the version at that time (`None`: an asset that no run makes).
    pub upstreams: Vec<Upstream>,
    /// Why it is out of date; empty: it is not.
    pub stale_because: Vec<String>,
}

/// An upstream of a materialization.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Upstream {
    /// Its key.
    pub key: String,
    /// The version that was read.
    pub version: Option<i64>,
}

/// Of which assets a lineage is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineageOf {
    /// Of this video, with what was made from them.
    Video(String),
    /// Made or found by these runs.
    Runs(Vec<FlowRunId>),
    /// So many that were made last.
    Newest(u32),
}

/// Every asset, by key.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct AssetLineage {
    /// By key, staleness filled in.
    pub assets: BTreeMap<String, Asset>,
    /// What is not shown and why, for people: the server that knows what other machines have made does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
    /// How many there are besides, where the newest alone were asked for.
    #[serde(skip)]
    pub left_out: usize,
}

impl AssetLineage {
    /// Lineage of these materializations, the newest of each key; fills in what is stale and why.
    pub fn new(newest: impl IntoIterator<Item = Asset>) -> Self {
        let mut assets: BTreeMap<String, Asset> = newest.into_iter().map(|asset| (asset.key.clone(), asset)).collect();
        let keys: Vec<String> = assets.keys().cloned().collect();
        let mut reasons: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for key in &keys {
            let found = stale_because(key, &assets, &mut BTreeSet::new());
            reasons.insert(key.clone(), found);
        }
        for (key, because) in reasons {
            if let Some(asset) = assets.get_mut(&key) {
                asset.stale_because = because;
            }
        }
        Self {
            assets,
            notice: None,
            left_out: 0,
        }
    }

    /// Those of them alone.
    #[must_use]
    pub fn of(mut self, which: &LineageOf) -> Self {
        let mut wanted: BTreeSet<String> = match which {
            LineageOf::Runs(ids) => {
                self.assets.retain(|_, asset| ids.contains(&asset.flow_run_id));
                return self;
            }
            LineageOf::Newest(most) => {
                let all = self.assets.len();
                let mut versions: Vec<i64> = self.assets.values().map(|asset| asset.version).collect();
                versions.sort_unstable_by(|one, other| other.cmp(one));
                if let Some(oldest) = versions.into_iter().take(*most as usize).next_back() {
                    self.assets.retain(|_, asset| asset.version >= oldest);
                }
                self.left_out = all - self.assets.len();
                return self;
            }
            LineageOf::Video(id) => {
                let (film, prefix) = (video(id), annotations(id, ""));
                let is_its = |key: &&String| **key == film || key.starts_with(&prefix);
                self.assets.keys().filter(is_its).cloned().collect()
            }
        };
        // What other flows made from them belongs to the picture as well.
        let mut unseen: Vec<String> = wanted.iter().cloned().collect();
        while let Some(key) = unseen.pop() {
            for made in self.downstream(&key) {
                if wanted.insert(made.key.clone()) {
                    unseen.push(made.key.clone());
                }
            }
        }
        self.assets.retain(|key, _| wanted.contains(key));
        self
    }

    /// Keys of the assets made from `key`, directly.
    pub fn downstream<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a Asset> {
        self.assets
            .values()
            .filter(move |asset| asset.upstreams.iter().any(|upstream| upstream.key == key))
    }
}

/// `visiting` guards against lineage that goes in a circle, which command flows could declare.
fn stale_because(key: &str, assets: &BTreeMap<String, Asset>, visiting: &mut BTreeSet<String>) -> Vec<String> {
    let Some(asset) = assets.get(key) else {
        return Vec::new();
    };
    if !visiting.insert(key.to_owned()) {
        return Vec::new();
    }
    let mut because = Vec::new();
    for upstream in &asset.upstreams {
        let Some(current) = assets.get(&upstream.key) else {
            continue;
        };
        // A table and its layout can come out of one run: only what another run made since is a change.
        if upstream.version.is_none_or(|version| version < current.version) && current.flow_run_id != asset.flow_run_id
        {
            because.push(format!(
                "{} was made anew by flow run {}",
                upstream.key, current.flow_run_id
            ));
        } else if !stale_because(&upstream.key, assets, visiting).is_empty() {
            because.push(format!("{} is stale", upstream.key));
        }
    }
    visiting.remove(key);
    because
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asset(key: &str, version: i64, upstreams: &[(&str, Option<i64>)]) -> Asset {
        Asset {
            key: key.to_owned(),
            version,
            flow_run_id: FlowRunId::generate(),
            flow_name: "full-frames".to_owned(),
            materialized_at: Timestamp::UNIX_EPOCH,
            metadata: Value::Null,
            upstreams: upstreams
                .iter()
                .map(|(key, version)| Upstream {
                    key: (*key).to_owned(),
                    version: *version,
                })
                .collect(),
            stale_because: Vec::new(),
        }
    }

    fn stale(assets: &[Asset]) -> Vec<String> {
        let lineage = AssetLineage::new(assets.to_vec());
        lineage
            .assets
            .values()
            .filter(|asset| !asset.stale_because.is_empty())
            .map(|asset| asset.key.clone())
            .collect()
    }

    #[test]
    fn an_asset_is_stale_when_an_upstream_was_made_anew_since() {
        assert_eq!(
            stale(&[asset("a", 1, &[]), asset("b", 2, &[("a", Some(1))])]),
            Vec::<String>::new()
        );
        assert_eq!(stale(&[asset("a", 3, &[]), asset("b", 2, &[("a", Some(1))])]), ["b"]);
    }

    #[test]
    fn staleness_goes_downstream() {
        let assets = [
            asset("a", 9, &[]),
            asset("b", 2, &[("a", Some(1))]),
            asset("c", 3, &[("b", Some(2))]),
        ];
        assert_eq!(stale(&assets), ["b", "c"]);
    }

    #[test]
    fn the_assets_of_a_video_are_its_own_and_what_was_made_from_them() {
        let assets = [
            asset("video://a", 1, &[]),
            asset("annotations://a/full_frames", 2, &[("video://a", Some(1))]),
            asset("annotations://ab/full_frames", 3, &[]),
            asset(
                "models://m",
                4,
                &[("annotations://a/full_frames", Some(2)), ("other://o", Some(5))],
            ),
            asset("other://o", 5, &[]),
        ];
        let run = assets[4].flow_run_id;
        let keys = |which: LineageOf| {
            let lineage = AssetLineage::new(assets.to_vec()).of(&which);
            lineage.assets.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(
            keys(LineageOf::Video("a".to_owned())),
            ["annotations://a/full_frames", "models://m", "video://a"]
        );
        assert_eq!(keys(LineageOf::Runs(vec![run])), ["other://o"]);
        assert_eq!(keys(LineageOf::Newest(2)), ["models://m", "other://o"]);
        assert_eq!(keys(LineageOf::Newest(9)).len(), assets.len());
    }

    #[test]
    fn a_circle_ends() {
        let assets = [asset("a", 1, &[("b", Some(2))]), asset("b", 2, &[("a", Some(1))])];
        assert_eq!(stale(&assets), Vec::<String>::new());
    }

    #[test]
    fn a_video_id_is_one_segment() {
        assert_eq!(
            annotations("a/b c", "full_frames"),
            "annotations://a%2Fb%20c/full_frames"
        );
    }
}
