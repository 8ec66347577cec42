//! `captionacc lineage`: what runs have made, from what, and what of it is out of date.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use termtree::Tree;

use super::exit;
use super::failure::Failure;
use super::output::{json_line, plain, print, time};
use super::runtime::with_orchestrator;
use crate::domain::asset::{Asset, AssetLineage};
use crate::domain::error::did_you_mean;
use crate::settings::Settings;

/// What `captionacc lineage --help` ends with.
pub(super) const EXAMPLES: &str = "\
Assets are video://VIDEO_ID, annotations://VIDEO_ID/TABLE, and those that declared flows name. Under each stands what
it was made from. An asset is stale when something it was made from has been made anew since.

Examples:
  captionacc lineage
  captionacc lineage --stale
  captionacc lineage annotations://v1/cropped_frames
  captionacc lineage --json | jq '.assets[\"video://v1\"].metadata'";

/// Options of `captionacc lineage`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Only this asset, what it was made from and what was made from it
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    asset: Option<String>,
    /// Only what is stale, with the reasons
    #[arg(long)]
    stale: bool,
    /// One line of JSON: {"assets":{KEY:…}}
    #[arg(long)]
    json: bool,
}

/// Shows the lineage.
pub(super) fn perform(options: &Options) -> Result<ExitCode, Failure> {
    let settings = Settings::from_environment()?;
    let lineage = with_orchestrator(&settings, async |orchestrator| Ok(orchestrator.read_lineage().await?))?;
    if let Some(key) = &options.asset
        && !lineage.assets.contains_key(key)
    {
        let hint = did_you_mean(key, lineage.assets.keys().map(String::as_str));
        return Err(Failure::argument(
            "ASSET",
            format!("no flow run has made {key:?}{hint} (captionacc lineage lists all)"),
        ));
    }
    let shown = shown(&lineage, options);
    if options.json {
        let assets = shown
            .iter()
            .filter_map(|key| lineage.assets.get_key_value(key))
            .map(|(key, asset)| (key.clone(), asset.clone()))
            .collect();
        print(&json_line(&AssetLineage {
            assets,
            notice: lineage.notice.clone(),
            left_out: 0,
        }))?;
    } else {
        print(&text(&lineage, &shown, options))?;
        if let Some(notice) = &lineage.notice {
            print(&format!("\nNote: {}\n", plain(notice)))?;
        }
    }
    Ok(exit::DONE)
}

/// The keys that the options ask for.
fn shown(lineage: &AssetLineage, options: &Options) -> BTreeSet<String> {
    let mut keys: BTreeSet<String> = match &options.asset {
        Some(key) => {
            let mut keys = BTreeSet::new();
            follow(key, &mut keys, &|key| {
                let asset = lineage.assets.get(key);
                asset.map_or_else(Vec::new, |asset| {
                    asset.upstreams.iter().map(|upstream| upstream.key.clone()).collect()
                })
            });
            let mut below = BTreeSet::new();
            follow(key, &mut below, &|key| {
                lineage.downstream(key).map(|asset| asset.key.clone()).collect()
            });
            keys.append(&mut below);
            keys
        }
        None => lineage.assets.keys().cloned().collect(),
    };
    keys.retain(|key| {
        let asset = lineage.assets.get(key);
        !options.stale || asset.is_some_and(|asset| !asset.stale_because.is_empty())
    });
    keys
}

/// Adds `key` and all that `next` leads to.
fn follow(key: &str, keys: &mut BTreeSet<String>, next: &dyn Fn(&str) -> Vec<String>) {
    if keys.insert(key.to_owned()) {
        for further in next(key) {
            follow(&further, keys, next);
        }
    }
}

fn text(lineage: &AssetLineage, shown: &BTreeSet<String>, options: &Options) -> String {
    if options.stale {
        let stale: String = shown.iter().map(|key| reasons(&lineage.assets[key])).collect();
        return if stale.is_empty() {
            "Nothing is stale.\n".to_owned()
        } else {
            stale
        };
    }
    if shown.is_empty() && lineage.notice.is_some() {
        return "No assets are known here; whether there are any elsewhere could not be asked.\n".to_owned();
    }
    if shown.is_empty() {
        return "No assets: no flow run has completed yet.\n".to_owned();
    }
    // Trees grow from what nothing was made from; an asset in the middle is seen below those.
    let is_root = |key: &str| !lineage.downstream(key).any(|asset| shown.contains(&asset.key));
    let mut roots: Vec<&str> = shown.iter().map(String::as_str).filter(|key| is_root(key)).collect();
    // Lineage that is one circle has no root.
    if roots.is_empty() {
        roots = shown.iter().map(String::as_str).take(1).collect();
    }
    roots
        .into_iter()
        .map(|key| tree(lineage, key, &mut Vec::new()).to_string())
        .collect::<Vec<_>>()
        .join("\n")
}

fn reasons(asset: &Asset) -> String {
    let because = asset
        .stale_because
        .iter()
        .map(|reason| format!("  because {}\n", plain(reason)));
    format!("{}\n{}", plain(&asset.key), because.collect::<String>())
}

/// The asset with what it was made from below it. `path` guards against lineage that goes in a circle.
fn tree(lineage: &AssetLineage, key: &str, path: &mut Vec<String>) -> Tree<String> {
    let Some(asset) = lineage.assets.get(key) else {
        return Tree::new(format!("{}  (made by no flow run)", plain(key)));
    };
    let mut node = Tree::new(label(asset));
    if path.iter().any(|above| above == key) {
        return node;
    }
    path.push(key.to_owned());
    for upstream in &asset.upstreams {
        node.push(tree(lineage, &upstream.key, path));
    }
    path.pop();
    node
}

fn label(asset: &Asset) -> String {
    let stale = if asset.stale_because.is_empty() { "" } else { "  STALE" };
    format!(
        "{}{stale}  {} by {}",
        plain(&asset.key),
        time(asset.materialized_at),
        plain(&asset.flow_name)
    )
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::Value;

    use super::*;
    use crate::domain::asset::Upstream;
    use crate::domain::id::FlowRunId;

    /// Key, version and upstreams with the versions that were read.
    type Made<'a> = (&'a str, i64, &'a [(&'a str, i64)]);

    fn lineage(assets: &[Made<'_>]) -> AssetLineage {
        AssetLineage::new(assets.iter().map(|(key, version, upstreams)| {
            Asset {
                key: (*key).to_owned(),
                version: *version,
                flow_run_id: FlowRunId::generate(),
                flow_name: "f".to_owned(),
                materialized_at: Timestamp::UNIX_EPOCH,
                metadata: Value::Null,
                upstreams: upstreams
                    .iter()
                    .map(|(key, version)| Upstream {
                        key: (*key).to_owned(),
                        version: Some(*version),
                    })
                    .collect(),
                stale_because: Vec::new(),
            }
        }))
    }

    fn shown_text(lineage: &AssetLineage, asset: Option<&str>, stale: bool) -> String {
        let options = Options {
            asset: asset.map(str::to_owned),
            stale,
            json: false,
        };
        text(lineage, &shown(lineage, &options), &options)
    }

    #[test]
    fn what_an_asset_was_made_from_stands_below_it() {
        let lineage = lineage(&[("a", 9, &[]), ("b", 2, &[("a", 1)]), ("c", 3, &[("b", 2), ("x", 0)])]);
        let at = "1970-01-01T00:00:00Z by f";
        assert_eq!(
            shown_text(&lineage, None, false),
            format!("c  STALE  {at}\n├── b  STALE  {at}\n│   └── a  {at}\n└── x  (made by no flow run)\n")
        );
        let stale = shown_text(&lineage, None, true);
        assert!(stale.starts_with("b\n  because a was made anew by flow run"), "{stale}");
        assert!(stale.ends_with("c\n  because b is stale\n"), "{stale}");
        assert_eq!(
            shown_text(&lineage, Some("a"), false),
            shown_text(&lineage, None, false)
        );
    }

    #[test]
    fn a_circle_is_shown_once_around() {
        let lineage = lineage(&[("a", 1, &[("b", 2)]), ("b", 2, &[("a", 1)])]);
        let at = "1970-01-01T00:00:00Z by f";
        assert_eq!(
            shown_text(&lineage, None, false),
            format!("a  {at}\n└── b  {at}\n    └── a  {at}\n")
        );
    }
}
