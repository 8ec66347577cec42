//! Which file a run is queued for: a run at work is equal to a new one only if the video has not changed since.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use super::queue::NewFlowRun;
use crate::domain::flow::{Arguments, CropFrames};

/// How long a disk may take to answer; who queues a run waits for it.
const PATIENCE: Duration = Duration::from_millis(500);
/// Most looks at once: on a dead disk they never end.
const MAX_LOOKS: usize = 8;

/// What tells the video of this run from another file of its name (or the same one, written to since). `None`: no run at
/// work can be equal to this one, because the file cannot be looked at, because an older run is not at work on the same
/// (bounds that are read when a run begins may be others by now), or because the flow knows no such thing.
pub(super) async fn fingerprint(new: &NewFlowRun) -> Option<String> {
    static LOOKS: AtomicUsize = AtomicUsize::new(0);
    let path = match &new.arguments {
        Arguments::CropFrames(CropFrames {
            files,
            crop_bounds: Some(_),
            ..
        }) if new.flow.latest_wins => files.video_path.clone(),
        _ => return None,
    };
    if LOOKS.fetch_add(1, Ordering::AcqRel) >= MAX_LOOKS {
        LOOKS.fetch_sub(1, Ordering::AcqRel);
        return None;
    }
    let (answer, looked) = oneshot::channel();
    // A thread of its own, which may hang: nothing waits for it, not even the end of the process.
    let looking = thread::Builder::new().name("video-file".to_owned()).spawn(move || {
        let found = look(&path);
        LOOKS.fetch_sub(1, Ordering::AcqRel);
        let _ = answer.send(found);
    });
    if looking.is_err() {
        LOOKS.fetch_sub(1, Ordering::AcqRel);
        return None;
    }
    tokio::time::timeout(PATIENCE, looked).await.ok()?.ok()?
}

fn look(path: &Path) -> Option<String> {
    let file = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    Some(format!(
        "{}:{}:{}:{}.{:09}",
        file.dev(),
        file.ino(),
        file.len(),
        file.mtime(),
        file.mtime_nsec()
    ))
}
