//! What a flow run is about.

use std::path::PathBuf;

use serde_json::Value;

use super::parameters::Parameters;

/// The video and the annotations.db that a run is about, if it is about one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subject {
    /// The video's id in the web app.
    pub video_id: Option<String>,
    /// The video's annotations.db.
    pub db_path: Option<PathBuf>,
}

impl Subject {
    /// As the parameters have it that a server or a store gave: not checked, and of whatever flow.
    pub fn of(parameters: &Parameters) -> Self {
        let text = |name: &str| parameters.0.get(name).and_then(Value::as_str);
        Self {
            video_id: text("video-id").map(str::to_owned),
            db_path: text("db-path").map(PathBuf::from),
        }
    }

    /// The path as it is stored. One that is no UTF-8 came from nowhere that we know: parameters are JSON.
    pub fn db_path_text(&self) -> Option<&str> {
        self.db_path.as_deref().and_then(std::path::Path::to_str)
    }
}
