//! What every route needs: the queue, the settings, the hub; and the ways to what may hang.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::task::spawn_blocking;

use super::answer::Fault;
use super::api::About;
use super::counted::Counted;
use super::live::Hub;
use super::processes::Processes;
use crate::annotations::reading::Reader;
use crate::annotations::{AnnotationsError, text_images};
use crate::domain::finding::Findings;
use crate::domain::flow::Subject;
use crate::domain::flow_run::FlowRun;
use crate::orchestrator::queue::{FlowRunFilter, Queue};
use crate::settings::Settings;
use crate::telemetry::Tracer;

/// Longest wait for a disk with an annotations.db.
const DISK_TIMEOUT: Duration = Duration::from_secs(10);
/// So long it is remembered which annotations.db is a video's.
const KNOWN_FOR: Duration = Duration::from_secs(30);
/// So many are remembered.
const MOST_KNOWN: usize = 1000;
/// So many runs of a video are looked at.
const RUNS_OF_VIDEO: u32 = 100;

/// Looks at the installation; may take a while.
pub type Examine = Box<dyn Fn() -> Findings + Send + Sync>;

/// What every route needs.
pub(super) struct App {
    pub(super) queue: Arc<dyn Queue>,
    pub(super) settings: Settings,
    pub(super) hub: Arc<Hub>,
    pub(super) tracer: Tracer,
    pub(super) about: About,
    pub(super) examine: Examine,
    pub(super) counted: Counted,
    pub(super) processes: Processes,
    places: Mutex<HashMap<String, (Places, Instant)>>,
}

/// A video as its runs know it.
pub(super) struct KnownVideo {
    /// Newest first; not empty.
    pub(super) runs: Vec<FlowRun>,
    /// Where its files are.
    pub(super) places: Places,
}

/// Where the files of a video are, as its newest runs say.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    /// Its annotations.db.
    pub(super) db_path: Option<PathBuf>,
    /// The folder with the pictures that its captions were read off.
    pub(super) video_dir: Option<PathBuf>,
}

impl App {
    pub(super) fn new(
        queue: Arc<dyn Queue>,
        settings: Settings,
        hub: Arc<Hub>,
        tracer: Tracer,
        about: About,
        examine: Examine,
    ) -> Self {
        Self {
            queue,
            settings,
            hub,
            tracer,
            about,
            examine,
            counted: Counted::new(Timestamp::now()),
            processes: Processes::default(),
            places: Mutex::default(),
        }
    }

    /// The video of that id: one that a run was queued for.
    pub(super) async fn video(&self, id: &str) -> Result<KnownVideo, Fault> {
        let filter = FlowRunFilter {
            video_id: Some(id.to_owned()),
            limit: RUNS_OF_VIDEO,
            ..FlowRunFilter::default()
        };
        let runs = self.queue.list_flow_runs(filter).await?;
        if runs.is_empty() {
            return Err(Fault::NotFound(format!("no flow run is known for a video {id:?}")));
        }
        let places = Places {
            db_path: runs.iter().find_map(db_path_of),
            video_dir: runs.iter().find_map(video_dir_of),
        };
        let mut known = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(id.to_owned(), (places.clone(), Instant::now()));
        drop(known);
        Ok(KnownVideo { runs, places })
    }

    /// Where the files of a video are. That the runs say, never a request.
    async fn places(&self, id: &str) -> Result<Places, Fault> {
        let known = {
            let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            places
                .get(id)
                .filter(|(_, at)| at.elapsed() < KNOWN_FOR)
                .map(|(places, _)| places.clone())
        };
        match known {
            Some(places) => Ok(places),
            None => Ok(self.video(id).await?.places),
        }
    }

    /// Reads in the annotations.db of a video.
    pub(super) async fn read_video<T: Send + 'static>(
        &self,
        id: &str,
        read: impl FnOnce(&Reader) -> Result<T, AnnotationsError> + Send + 'static,
    ) -> Result<T, Fault> {
        let path = self
            .places(id)
            .await?
            .db_path
            .ok_or_else(|| Fault::NotFound(format!("no flow run of video {id:?} names an annotations.db")))?;
        read_database(path, read).await
    }

    /// The picture that a caption of a video was read off, if there is one.
    pub(super) async fn read_text_image(&self, id: &str, caption_id: i64) -> Result<Option<Vec<u8>>, Fault> {
        // What is remembered may be from before the first run that read captions.
        let known = match self.places(id).await?.video_dir {
            None => self.video(id).await?.places.video_dir,
            known => known,
        };
        let Some(video_dir) = known else {
            return Ok(None);
        };
        read_disk(move || text_images::read(&video_dir, caption_id)).await
    }
}

/// The annotations.db of a run, if it is about one.
pub(super) fn db_path_of(run: &FlowRun) -> Option<PathBuf> {
    run.db_path.clone().or_else(|| Subject::of(&run.parameters).db_path)
}

/// The folder of the video that a run is about, if it was told.
fn video_dir_of(run: &FlowRun) -> Option<PathBuf> {
    Some(PathBuf::from(run.parameters.0.get("video-dir")?.as_str()?))
}

/// Opens an annotations.db for one reading, on a thread that may hang.
pub(super) async fn read_database<T: Send + 'static>(
    path: PathBuf,
    read: impl FnOnce(&Reader) -> Result<T, AnnotationsError> + Send + 'static,
) -> Result<T, Fault> {
    read_disk(move || read(&Reader::open(&path)?)).await
}

/// Reads on a thread that may hang.
async fn read_disk<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, AnnotationsError> + Send + 'static,
) -> Result<T, Fault> {
    match tokio::time::timeout(DISK_TIMEOUT, spawn_blocking(read)).await {
        Ok(Ok(read)) => Ok(read?),
        Ok(Err(_)) | Err(_) => Err(Fault::Slow("the disk of the video")),
    }
}
