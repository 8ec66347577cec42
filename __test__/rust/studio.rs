//! Videos as the web app has them: a folder with a real film and an annotations.db that the app keeps open.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::types::{FromSql, Value as SqlValue};
use serde_json::{Value, json};

use crate::annotations::create_app_database;

/// The folder of the real films.
pub fn film(name: &str) -> PathBuf {
    let cached = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/films");
    let folder = std::env::var_os("CAPTIONACC_FILMS").map_or(cached, PathBuf::from);
    let film = folder.join(name);
    assert!(film.is_file(), "{} is missing: scripts/fetch-films.sh", film.display());
    film
}

/// The OCR models, as a variable for a worker.
pub fn ocr_models() -> String {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/models");
    let folder = std::env::var_os("CAPTIONACC_OCR_MODELS").map_or(installed, PathBuf::from);
    folder.to_str().expect("a path of ours").to_owned()
}

/// Runs the ffmpeg command.
pub fn ffmpeg(arguments: &[&str]) {
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-y"])
        .args(arguments)
        .output()
        .expect("the ffmpeg command is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Two seconds of a real film, small enough to be worked through hundreds of times.
pub fn short_film() -> Vec<u8> {
    static MADE: OnceLock<Vec<u8>> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let made = folder.path().join("short.mp4");
        let film = film("bigbuckbunny.mp4");
        ffmpeg(&[
            "-i",
            film.to_str().expect("a path of ours"),
            "-t",
            "2",
            "-an",
            "-vf",
            "scale=320:180",
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            made.to_str().expect("a path of ours"),
        ]);
        fs::read(made).expect("it was made")
    })
    .clone()
}

/// One video's folder, with the app's own connection to its annotations.db.
pub struct Studio {
    pub folder: PathBuf,
    pub id: String,
    pub app: Connection,
}

impl Studio {
    /// The short film as video `id` in a folder of its own below `parent`.
    pub fn new(parent: &Path, id: &str) -> Self {
        let folder = parent.join(id);
        fs::create_dir_all(&folder).expect("the folder is ours");
        fs::write(folder.join("video.mp4"), short_film()).expect("the folder is ours");
        let app = create_app_database(&folder.join("annotations.db"));
        // As the app opens it.
        app.pragma_update(None, "journal_mode", "wal").expect("a pragma");
        app.busy_timeout(Duration::from_mins(1)).expect("a timeout");
        Self {
            folder,
            id: id.to_owned(),
            app,
        }
    }

    /// Where a run's scratch goes.
    pub fn output_dir(&self) -> PathBuf {
        self.folder.join("scratch")
    }

    /// What both flows take.
    #[expect(clippy::needless_pass_by_value, reason = "written out with json! at every call")]
    pub fn arguments(&self, more: Value) -> Value {
        let mut arguments = json!({
            "video-id": self.id,
            "video-path": self.folder.join("video.mp4"),
            "db-path": self.folder.join("annotations.db"),
            "output-dir": self.output_dir(),
        });
        let all = arguments.as_object_mut().expect("an object");
        for (name, value) in more.as_object().expect("an object") {
            all.insert(name.clone(), value.clone());
        }
        arguments
    }

    /// Arguments of full-frames: two frames.
    pub fn full_frames(&self) -> Value {
        self.arguments(json!({ "frame-rate": 1 }))
    }

    /// Arguments of crop-frames: twenty strips.
    pub fn crop_frames(&self, version: i64) -> Value {
        self.arguments(json!({
            "crop-bounds": { "left": 16, "top": 120, "right": 304, "bottom": 160 },
            "crop-bounds-version": version,
        }))
    }

    pub fn value<T: FromSql>(&self, sql: &str) -> T {
        self.app.query_row(sql, [], |row| row.get(0)).expect(sql)
    }

    /// The only row of a query, as text.
    pub fn row(&self, sql: &str) -> Vec<SqlValue> {
        let mut statement = self.app.prepare(sql).expect(sql);
        let columns = statement.column_count();
        statement
            .query_row([], |row| (0..columns).map(|column| row.get(column)).collect())
            .expect(sql)
    }

    /// Index and JPEG of every frame of a table, in one reading.
    pub fn frames(&self, table: &str) -> Vec<(i64, Vec<u8>)> {
        let sql = format!("SELECT frame_index, image_data FROM {table} ORDER BY frame_index");
        let mut statement = self.app.prepare(&sql).expect("valid SQL");
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        rows.expect(table).map(|row| row.expect(table)).collect()
    }

    /// Status word, process, error of the row of full-frames.
    pub fn processing(&self) -> (String, Option<String>, Option<String>) {
        self.status("processing_status")
    }

    /// Status word, process, error of the row of crop-frames.
    pub fn cropping(&self) -> (String, Option<String>, Option<String>) {
        self.status("crop_frames_status")
    }

    fn status(&self, table: &str) -> (String, Option<String>, Option<String>) {
        self.app
            .query_row(
                &format!("SELECT status, current_job_id, error_message FROM {table} WHERE id = 1"),
                [],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )
            .expect(table)
    }

    /// The names in the folder, but those that SQLite keeps beside a database that is open.
    pub fn files(&self) -> BTreeSet<OsString> {
        let entries = fs::read_dir(&self.folder).expect("a folder");
        entries
            .map(|entry| entry.expect("readable").file_name())
            .filter(|name| !name.to_string_lossy().starts_with("annotations.db-"))
            .collect()
    }

    pub fn is_sound(&self) -> bool {
        self.value::<String>("PRAGMA integrity_check") == "ok"
    }
}
