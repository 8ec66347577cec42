//! Videos: what is in their annotations.db, for people to see. Pictures go out as JPEG and as nothing else.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::answer::Fault;
use super::api::{
    Caption, Captions, Found, FoundFrame, Frames, FramesPage, FullFrame, Layout, Pictures, Reading, TextBox, VideoPage,
    VideoSummary,
};
use super::app::App;
use super::find::Needle;
use super::lineage::{assets, compare_layouts};
use crate::annotations::AnnotationsError;
use crate::annotations::reading::{self, CaptionRow, FrameSet, FrameTable, Reader};
use crate::domain::flow_run::FlowRun;
use crate::orchestrator::queue::FlowRunFilter;

/// Runs among which the newest videos are found.
const RUNS_FOR_VIDEOS: u32 = 1000;
/// Frames in a page, and most of them.
const PAGE: u32 = 60;
const MAX_PAGE: u32 = 500;
/// Most boxes that go out with a page of frames.
const MAX_BOXES: u32 = 100_000;
/// Boxes that one query reads when a text is looked for: a writer waits for no longer.
const BOX_BATCH: u32 = 5_000;
/// Most frames that are told to have a text.
const MAX_FOUND: usize = 1_000;
/// Most captions that are told.
const MAX_CAPTIONS: u32 = 10_000;
/// The first bytes of a JPEG.
const JPEG: [u8; 3] = [0xff, 0xd8, 0xff];
/// Rows that are shown as they are.
const ROWS: [&str; 3] = ["processing_status", "crop_frames_status", "video_metadata"];

/// Which video.
#[derive(Debug, Deserialize)]
pub(super) struct VideoQuery {
    id: String,
}

/// The videos of the newest runs, those first that were worked at last.
pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Json<Vec<VideoSummary>>, Fault> {
    let filter = FlowRunFilter {
        limit: RUNS_FOR_VIDEOS,
        ..FlowRunFilter::default()
    };
    let mut places = HashMap::new();
    let mut videos: Vec<VideoSummary> = Vec::new();
    for run in app.queue.list_flow_runs(filter).await? {
        let Some(video_id) = run.video_id.clone() else { continue };
        let place = *places.entry(video_id.clone()).or_insert(videos.len());
        if let Some(known) = videos.get_mut(place) {
            // Not each run names the film.
            known.file_name = known.file_name.take().or_else(|| file_name(&run));
        } else {
            videos.push(VideoSummary {
                video_id,
                file_name: file_name(&run),
                newest_run: run,
            });
        }
    }
    Ok(Json(videos))
}

/// The name of the film that a run is about.
fn file_name(run: &FlowRun) -> Option<String> {
    let path = run.parameters.0.get("video-path")?.as_str()?;
    Some(Path::new(path).file_name()?.to_string_lossy().into_owned())
}

/// A video.
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Query(query): Query<VideoQuery>,
) -> Result<Json<VideoPage>, Fault> {
    let known = app.video(&query.id).await?;
    let (pictures, problem) = if known.places.db_path.is_some() {
        match app.read_video(&query.id, pictures).await {
            Ok(pictures) => (Some(pictures), None),
            Err(fault) => (None, Some(fault.problem())),
        }
    } else {
        (None, None)
    };
    let mut assets = assets(&app, Some(&query.id)).await?;
    compare_layouts(&app, &mut assets).await;
    Ok(Json(VideoPage {
        file_name: known.runs.iter().find_map(file_name),
        db_path: known.places.db_path.map(|path| path.to_string_lossy().into_owned()),
        video_id: query.id,
        problem,
        pictures,
        runs: known.runs,
        assets,
    }))
}

fn pictures(reader: &Reader) -> Result<Pictures, AnnotationsError> {
    let mut rows = Vec::new();
    for table in ROWS {
        let fields = reader.fields(table)?;
        if !fields.is_empty() {
            rows.push((table.to_owned(), fields));
        }
    }
    Ok(Pictures {
        index_rate_hz: reader.index_rate_hz()?,
        full: reader.frame_set(FrameTable::Full)?.map(frames),
        cropped: reader.frame_set(FrameTable::Cropped)?.map(frames),
        box_count: reader.box_count()?,
        caption_count: reader.caption_count()?,
        layout: reader.layout()?.map(|layout| Layout {
            frame_width: layout.frame_width,
            frame_height: layout.frame_height,
            bounds: layout.bounds,
            version: layout.version,
        }),
        rows,
    })
}

fn frames(set: FrameSet) -> Frames {
    Frames {
        count: set.count,
        first: set.first,
        last: set.last,
        width: set.width,
        height: set.height,
        version: format!(
            "{}-{}-{}",
            set.created_at.unwrap_or_default(),
            set.bounds_version.unwrap_or(0),
            set.count
        ),
        bounds_version: set.bounds_version,
    }
}

/// Which full frames.
#[derive(Debug, Deserialize)]
pub(super) struct FramesQuery {
    id: String,
    after: Option<i64>,
    limit: Option<u32>,
}

/// Full frames with what was read on them.
pub(super) async fn full_frames(
    State(app): State<Arc<App>>,
    Query(query): Query<FramesQuery>,
) -> Result<Json<FramesPage>, Fault> {
    let after = query.after.unwrap_or(-1);
    let limit = query.limit.unwrap_or(PAGE).clamp(1, MAX_PAGE);
    let page = app
        .read_video(&query.id, move |reader| {
            let frames = reader.full_frames(after, limit)?;
            let boxes = match (frames.first(), frames.last()) {
                (Some(first), Some(last)) => reader.boxes(first.frame_index, last.frame_index, MAX_BOXES)?,
                _ => Vec::new(),
            };
            Ok((frames, boxes))
        })
        .await?;
    Ok(Json(frames_page(page.0, page.1, limit)))
}

/// Frames and boxes, both in the order of frames, put together.
fn frames_page(frames: Vec<reading::FullFrame>, boxes: Vec<reading::TextBox>, limit: u32) -> FramesPage {
    let after = (frames.len() == limit as usize)
        .then(|| frames.last().map(|frame| frame.frame_index))
        .flatten();
    let mut boxes = boxes.into_iter().peekable();
    let with_boxes = |frame: reading::FullFrame| {
        let mut own = Vec::new();
        while let Some(found) = boxes.next_if(|found| found.frame_index <= frame.frame_index) {
            if found.frame_index == frame.frame_index {
                own.push(TextBox {
                    text: found.text,
                    confidence: found.confidence,
                    left: found.left,
                    top: found.top,
                    width: found.width,
                    height: found.height,
                });
            }
        }
        FullFrame {
            frame_index: frame.frame_index,
            width: frame.width,
            height: frame.height,
            boxes: own,
        }
    };
    FramesPage {
        frames: frames.into_iter().map(with_boxes).collect(),
        after,
    }
}

/// Which picture. `v` is the version of its set: with it, a browser may keep the picture.
#[derive(Debug, Deserialize)]
pub(super) struct PictureQuery {
    id: String,
    at: i64,
    v: Option<String>,
}

/// A full frame.
pub(super) async fn full_frame(app: State<Arc<App>>, query: Query<PictureQuery>) -> Result<Response, Fault> {
    picture(app, query, FrameTable::Full).await
}

/// A full frame where there is one, and nothing where there is none: a list may have many of those.
pub(super) async fn thumbnail(app: State<Arc<App>>, query: Query<PictureQuery>) -> Response {
    match picture(app, query, FrameTable::Full).await {
        Ok(response) => response,
        Err(_) => StatusCode::NO_CONTENT.into_response(),
    }
}

/// A cropped frame.
pub(super) async fn cropped_frame(app: State<Arc<App>>, query: Query<PictureQuery>) -> Result<Response, Fault> {
    picture(app, query, FrameTable::Cropped).await
}

async fn picture(
    State(app): State<Arc<App>>,
    Query(query): Query<PictureQuery>,
    table: FrameTable,
) -> Result<Response, Fault> {
    let at = query.at;
    let found = app
        .read_video(&query.id, move |reader| reader.picture(table, at))
        .await?;
    jpeg(&query, found.map(|picture| picture.jpeg))
}

fn jpeg(query: &PictureQuery, found: Option<Vec<u8>>) -> Result<Response, Fault> {
    let picture = found
        .filter(|picture| picture.starts_with(&JPEG))
        .ok_or_else(|| Fault::NotFound(format!("video {:?} has no picture there", query.id)))?;
    let keep = if query.v.is_some() {
        "private, max-age=3600, immutable"
    } else {
        "no-store"
    };
    Ok(([(CONTENT_TYPE, "image/jpeg"), (CACHE_CONTROL, keep)], picture).into_response())
}

/// The picture that a caption was read off: `at` is its id.
pub(super) async fn caption_picture(
    State(app): State<Arc<App>>,
    Query(query): Query<PictureQuery>,
) -> Result<Response, Fault> {
    let found = app.read_text_image(&query.id, query.at).await?;
    jpeg(&query, found)
}

/// The captions of a video, with what was read of them.
pub(super) async fn captions(
    State(app): State<Arc<App>>,
    Query(query): Query<VideoQuery>,
) -> Result<Json<Captions>, Fault> {
    let rows = app
        .read_video(&query.id, |reader| reader.captions(MAX_CAPTIONS))
        .await?;
    Ok(Json(Captions {
        captions: rows.into_iter().map(caption).collect(),
    }))
}

fn caption(row: CaptionRow) -> Caption {
    let reading = match row.reading.as_deref() {
        Some("queued") => Some(Reading::Queued),
        Some("processing") => Some(Reading::Processing),
        Some("complete") => Some(Reading::Complete),
        Some("error") => Some(Reading::Error),
        _ => None,
    };
    Caption {
        id: row.id,
        first: row.first,
        last: row.last,
        is_gap: row.boundary_state.as_deref() == Some("gap"),
        text: row.text,
        read_text: row.read_text,
        reading,
        error: row.error,
        // The one of boundaries that were moved since lies there until the next is read.
        picture: row.read_at.filter(|_| reading == Some(Reading::Complete)),
    }
}

/// Which text.
#[derive(Debug, Deserialize)]
pub(super) struct FindQuery {
    id: String,
    text: String,
}

/// The frames with a text.
pub(super) async fn find(State(app): State<Arc<App>>, Query(query): Query<FindQuery>) -> Result<Json<Found>, Fault> {
    let mut found = Found {
        matches: Vec::new(),
        has_more: false,
    };
    let Some(needle) = Needle::new(&query.text) else {
        return Ok(Json(found));
    };
    let mut from = i64::MIN;
    loop {
        let batch = app
            .read_video(&query.id, move |reader| reader.boxes(from, i64::MAX, BOX_BATCH))
            .await?;
        let is_last = batch.len() < BOX_BATCH as usize;
        let mut frames: Vec<&[reading::TextBox]> = batch
            .chunk_by(|one, other| one.frame_index == other.frame_index)
            .collect();
        // The last frame may be cut: it is read again, unless it is all there is.
        if !is_last && frames.len() > 1 {
            frames.pop();
        }
        for boxes in &frames {
            let places = needle.find(boxes.iter().map(|found| found.text.as_str()));
            if places.is_empty() {
                continue;
            }
            if found.matches.len() == MAX_FOUND {
                found.has_more = true;
                return Ok(Json(found));
            }
            found.matches.push(FoundFrame {
                frame_index: boxes[0].frame_index,
                boxes: places,
                text: boxes
                    .iter()
                    .map(|found| found.text.as_str())
                    .collect::<Vec<_>>()
                    .join(" "),
            });
        }
        match frames.last() {
            Some(boxes) if !is_last => from = boxes[0].frame_index + 1,
            _ => return Ok(Json(found)),
        }
    }
}
