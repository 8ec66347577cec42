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
use crate::annotations::AnnotationsError;
use crate::annotations::reading::Reader;
use crate::domain::finding::Findings;
use crate::domain::flow::Subject;
use crate::domain::flow_run::FlowRun;
use crate::orchestrator::queue::{FlowRunFilter, Queue};
use crate::settings::Settings;

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
    pub(super) about: About,
    pub(super) examine: Examine,
    pub(super) counted: Counted,
    pub(super) processes: Processes,
    databases: Mutex<HashMap<String, (PathBuf, Instant)>>,
}

/// A video as its runs know it.
pub(super) struct KnownVideo {
    /// Newest first; not empty.
    pub(super) runs: Vec<FlowRun>,
    /// Its annotations.db.
    pub(super) db_path: Option<PathBuf>,
}

impl App {
    pub(super) fn new(
        queue: Arc<dyn Queue>,
        settings: Settings,
        hub: Arc<Hub>,
        about: About,
        examine: Examine,
    ) -> Self {
        Self {
            queue,
            settings,
            hub,
            about,
            examine,
            counted: Counted::new(Timestamp::now()),
            processes: Processes::default(),
            databases: Mutex::default(),
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
        let db_path = runs.iter().find_map(db_path_of);
        let mut databases = self.databases.lock().unwrap_or_else(PoisonError::into_inner);
        if databases.len() >= MOST_KNOWN {
            databases.clear();
        }
        if let Some(db_path) = &db_path {
            databases.insert(id.to_owned(), (db_path.clone(), Instant::now()));
        }
        drop(databases);
        Ok(KnownVideo { runs, db_path })
    }

    /// Reads in the annotations.db of a video. Which file that is the runs say, never a request.
    pub(super) async fn read_video<T: Send + 'static>(
        &self,
        id: &str,
        read: impl FnOnce(&Reader) -> Result<T, AnnotationsError> + Send + 'static,
    ) -> Result<T, Fault> {
        let known = {
            let databases = self.databases.lock().unwrap_or_else(PoisonError::into_inner);
            databases
                .get(id)
                .filter(|(_, at)| at.elapsed() < KNOWN_FOR)
                .map(|(path, _)| path.clone())
        };
        let path = match known {
            Some(path) => path,
            None => self
                .video(id)
                .await?
                .db_path
                .ok_or_else(|| Fault::NotFound(format!("no flow run of video {id:?} names an annotations.db")))?,
        };
        read_database(path, read).await
    }
}

/// The annotations.db of a run, if it is about one.
pub(super) fn db_path_of(run: &FlowRun) -> Option<PathBuf> {
    run.db_path.clone().or_else(|| Subject::of(&run.parameters).db_path)
}

/// Opens an annotations.db for one reading, on a thread that may hang.
pub(super) async fn read_database<T: Send + 'static>(
    path: PathBuf,
    read: impl FnOnce(&Reader) -> Result<T, AnnotationsError> + Send + 'static,
) -> Result<T, Fault> {
    let reading = spawn_blocking(move || read(&Reader::open(&path)?));
    match tokio::time::timeout(DISK_TIMEOUT, reading).await {
        Ok(Ok(read)) => Ok(read?),
        Ok(Err(_)) | Err(_) => Err(Fault::Slow("the video's annotations.db")),
    }
}
