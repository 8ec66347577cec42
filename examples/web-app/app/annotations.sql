-- A video's annotations.db as this app makes it: a small one. The app makes the tables, a run fills them. Tables that a run
-- needs and that are missing it makes itself; tables and columns that it does not know it leaves alone.

CREATE TABLE video_metadata (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  video_id TEXT NOT NULL,
  display_path TEXT NOT NULL,
  original_filename TEXT,
  file_size_bytes INTEGER,
  -- A run fills these in.
  duration_seconds REAL,
  width INTEGER,
  height INTEGER,
  fps REAL,
  codec TEXT,
  uploaded_at TEXT NOT NULL DEFAULT (datetime('now'))
);

-- How far full-frames is, for the app to read. error_message is one line for people, error_details a JSON object.
CREATE TABLE processing_status (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  status TEXT NOT NULL DEFAULT 'uploading' CHECK (status IN (
    'uploading', 'upload_complete', 'pending_duplicate_resolution', 'extracting_frames', 'running_ocr',
    'analyzing_layout', 'processing_complete', 'error')),
  upload_progress REAL DEFAULT 0.0,
  frame_extraction_progress REAL DEFAULT 0.0,
  ocr_progress REAL DEFAULT 0.0,
  layout_analysis_progress REAL DEFAULT 0.0,
  error_message TEXT,
  error_details TEXT,
  current_job_id TEXT,
  processing_attempts INTEGER DEFAULT 0,
  last_heartbeat_at TEXT,
  deleted INTEGER NOT NULL DEFAULT 0,
  processing_started_at TEXT,
  processing_completed_at TEXT,
  error_occurred_at TEXT
);

-- The same of crop-frames.
CREATE TABLE crop_frames_status (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  status TEXT NOT NULL DEFAULT 'queued' CHECK (status IN ('queued', 'processing', 'complete', 'error')),
  processing_started_at TEXT,
  processing_completed_at TEXT,
  current_job_id TEXT,
  error_message TEXT,
  error_details TEXT,
  error_occurred_at TEXT,
  retry_count INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE full_frames (
  -- Time on a clock of 10 Hz: 0, 100, 200, … at one frame every 10 s.
  frame_index INTEGER PRIMARY KEY,
  image_data BLOB NOT NULL,
  width INTEGER NOT NULL,
  height INTEGER NOT NULL,
  file_size INTEGER NOT NULL,
  created_at TEXT NOT NULL DEFAULT (datetime('now'))
);

CREATE TABLE full_frame_ocr (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  frame_index INTEGER NOT NULL,
  box_index INTEGER NOT NULL,
  text TEXT NOT NULL,
  confidence REAL NOT NULL,
  -- Fractions of the frame. y is the box's lower edge, counted from the bottom: what CSS calls `bottom`.
  x REAL NOT NULL,
  y REAL NOT NULL,
  width REAL NOT NULL,
  height REAL NOT NULL,
  timestamp_seconds REAL,
  created_at TEXT NOT NULL DEFAULT (datetime('now')),
  UNIQUE (frame_index, box_index)
);

-- The caption strip, in pixels; right and bottom are exclusive. full-frames makes the row, people change it.
CREATE TABLE video_layout_config (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  frame_width INTEGER NOT NULL,
  frame_height INTEGER NOT NULL,
  crop_left INTEGER NOT NULL DEFAULT 0,
  crop_top INTEGER NOT NULL DEFAULT 0,
  crop_right INTEGER NOT NULL,
  crop_bottom INTEGER NOT NULL,
  crop_bounds_version INTEGER NOT NULL DEFAULT 1,
  updated_at TEXT NOT NULL DEFAULT (datetime('now'))
);

CREATE TABLE cropped_frames (
  frame_index INTEGER PRIMARY KEY,
  image_data BLOB NOT NULL,
  width INTEGER NOT NULL,
  height INTEGER NOT NULL,
  file_size INTEGER NOT NULL,
  crop_left INTEGER NOT NULL,
  crop_top INTEGER NOT NULL,
  crop_right INTEGER NOT NULL,
  crop_bottom INTEGER NOT NULL,
  crop_bounds_version INTEGER DEFAULT 1,
  created_at TEXT NOT NULL DEFAULT (datetime('now'))
);
