//! Assets: from what they were made, which are stale and why, and making those anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use serde::Deserialize;
use serde_json::Value;

use super::again::{queue_again, trace_of};
use super::answer::Fault;
use super::api::{LineagePage, StaleRequest, StaleResult};
use super::app::{App, db_path_of, read_database};
use crate::annotations::reading::{Layout, Reader};
use crate::domain::asset::{Asset, AssetLineage, LineageOf, is_found};
use crate::domain::error::OrchestratorError;

/// Most assets of a page of all: a graph of more is none that anybody could read.
const MOST_ASSETS: u32 = 2_000;

/// Of which video; none: of all.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LineageQuery {
    video: Option<String>,
    /// Whether the layouts are compared with what the strips were made from: a look into each annotations.db.
    layouts: bool,
}

/// The assets.
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Query(query): Query<LineageQuery>,
) -> Result<Json<LineagePage>, Fault> {
    let which = query.video.map_or(LineageOf::Newest(MOST_ASSETS), LineageOf::Video);
    let AssetLineage {
        assets,
        notice,
        left_out,
    } = app.queue.read_lineage_of(which).await?;
    let mut assets: Vec<Asset> = assets.into_values().collect();
    if query.layouts {
        compare_layouts(&app, &mut assets).await;
    }
    let runnable = assets
        .iter()
        .filter(|asset| is_made(asset))
        .map(|asset| asset.key.clone());
    Ok(Json(LineagePage {
        runnable: runnable.collect(),
        assets,
        notice,
        left_out,
    }))
}

/// The assets of a video, with what they were made from; of all videos, if none is named.
pub(super) async fn assets(app: &App, video_id: Option<&str>) -> Result<Vec<Asset>, OrchestratorError> {
    let lineage = match video_id {
        Some(video_id) => app.queue.read_lineage_of(LineageOf::Video(video_id.to_owned())).await?,
        None => app.queue.read_lineage().await?,
    };
    Ok(lineage.assets.into_values().collect())
}

/// Whether a run makes it anew.
fn is_made(asset: &Asset) -> bool {
    !is_found(&asset.key)
}

/// Says of each strip whether the layout in its annotations.db is newer than the one that it was made from: the app changes
/// a layout without a run, so that the lineage does not know of it yet. Returns the layouts by the strip's key.
pub(super) async fn compare_layouts(app: &App, assets: &mut [Asset]) -> BTreeMap<String, Layout> {
    let mut layouts = BTreeMap::new();
    for asset in assets {
        let Some(of) = asset.key.strip_suffix("/cropped_frames") else {
            continue;
        };
        let Some(path) = database_of(app, asset).await else {
            continue;
        };
        let Ok(Some(layout)) = read_database(path, Reader::layout).await else {
            continue;
        };
        if let Some(cause) = layout_cause(&format!("{of}/video_layout_config"), &asset.metadata, &layout) {
            asset.stale_because.insert(0, cause);
            layouts.insert(asset.key.clone(), layout);
        }
    }
    layouts
}

async fn database_of(app: &App, asset: &Asset) -> Option<PathBuf> {
    db_path_of(&app.queue.read_flow_run(asset.flow_run_id).await.ok()?)
}

/// Why a strip with this metadata is older than this layout, if it is. Versions alone tell: a caller may crop to bounds of its
/// own and leave the layout as it is.
fn layout_cause(key: &str, metadata: &Value, layout: &Layout) -> Option<String> {
    let made_from = metadata["crop_bounds_version"].as_i64()?;
    let version = layout.version;
    (made_from < version).then(|| format!("{key} is version {version}, this was made from {made_from}"))
}

/// Queues the runs that make anew what is stale.
pub(super) async fn run_stale(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Json(request): Json<StaleRequest>,
) -> Result<Json<StaleResult>, Fault> {
    let mut assets = assets(&app, request.video.as_deref()).await?;
    let layouts = compare_layouts(&app, &mut assets).await;
    let mut result = StaleResult::default();
    let mut queued = BTreeSet::new();
    for asset in assets
        .iter()
        .filter(|asset| is_made(asset) && !asset.stale_because.is_empty())
    {
        // One run may have made several of them.
        if !queued.insert(asset.flow_run_id) {
            continue;
        }
        let again = async {
            let run = app.queue.read_flow_run(asset.flow_run_id).await?;
            queue_again(&app, &run, layouts.get(&asset.key), trace_of(&headers)).await
        };
        match again.await {
            Ok(run) => result.queued.push(run),
            Err(error) => result.left.push((asset.key.clone(), error.to_line())),
        }
    }
    Ok(Json(result))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::flow::CropBounds;

    #[test]
    fn a_strip_is_stale_when_the_layout_is_newer() {
        let layout = Layout {
            frame_width: 20,
            frame_height: 40,
            bounds: CropBounds {
                left: 0,
                top: 10,
                right: 20,
                bottom: 30,
            },
            version: 4,
        };
        for (metadata, expected) in [
            (json!({ "crop_bounds_version": 4 }), None),
            (json!({ "crop_bounds_version": 5 }), None),
            (
                json!({ "crop_bounds_version": 3 }),
                Some("K is version 4, this was made from 3"),
            ),
            (json!({}), None),
        ] {
            assert_eq!(layout_cause("K", &metadata, &layout).as_deref(), expected, "{metadata}");
        }
    }
}
