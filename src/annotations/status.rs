//! The status rows that the web app polls: what is written at which moment, and by whom it may be written.
//!
//! A row belongs to the process whose pid is in `current_job_id`. The attempt's own process writes its row as long as
//! it is named there ([`fence`]); the worker writes about attempts that have ended ([`StatusRow`]), and only if the
//! row names one of them or nobody.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use rusqlite::types::Value as SqlValue;
use rusqlite::{Connection, OptionalExtension, params_from_iter};
use serde_json::Value;

use super::database::Database;
use super::error::{AnnotationsError, Fault};
use super::schema;
use crate::domain::database::DatabaseIdentity;
use crate::domain::flow::StatusTable;
use crate::process::identity::ProcessIdentity;

/// How long a lock is waited for when the worker writes a row.
const WORKER_BUSY_TIMEOUT_MS: u64 = 10_000;
/// How often it is asked whether a row is still due that changes while it is asked.
const QUESTIONS: u32 = 5;
/// What the row says of a film without any text.
const WITHOUT_TEXT_MESSAGE: &str = "No text detected";
/// By how much the clocks of two machines may differ.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_mins(10);
/// What the web app shows of a cancelled run.
const CANCELLED_MESSAGE: &str = "Processing cancelled";

/// Why an attempt or a run failed, as people and programs read it in the row.
#[derive(Debug, Clone, PartialEq)]
pub struct FailureRecord {
    /// One line for a person; line breaks become spaces.
    pub message: String,
    /// A JSON object, with at least `reason`, `flow_run_id` and `attempt`.
    pub details: Value,
}

/// The worker's access to a video's status row. Each call opens the file, writes one short transaction and closes.
///
/// Nothing is ever created but the status table and its row, and that only in a file that exists.
///
/// A row that is not the run's to write is an error that [`is_cancellation`](AnnotationsError::is_cancellation), or
/// [`AnnotationsError::NotFound`]: there is nothing more to do about it then. What may pass is to be tried again.
#[derive(Clone, Copy)]
pub struct StatusRow<'a> {
    path: &'a Path,
    table: StatusTable,
    identity: Option<DatabaseIdentity>,
    ended_pid: Option<u32>,
    known_pids: Option<&'a BTreeMap<u32, bool>>,
    still_due: Option<&'a dyn Fn() -> bool>,
    left_since: Option<Timestamp>,
}

impl<'a> StatusRow<'a> {
    /// The row of `table` in the annotations.db at `path`.
    pub const fn new(path: &'a Path, table: StatusTable) -> Self {
        Self {
            path,
            table,
            identity: None,
            ended_pid: None,
            known_pids: None,
            still_due: None,
            left_since: None,
        }
    }

    /// Asked right before the row is written; `false`: nothing is. What was to be said may be outdated by then: the run may
    /// have been claimed, and even be complete.
    ///
    /// The answer may take its time, over a network for instance: no lock is held meanwhile. The row is compared
    /// under the lock with what it was before the question; if it has changed, the question is asked again. So
    /// whoever claims the run after that and writes the row is never written over.
    #[must_use]
    pub const fn with_still_due(mut self, still_due: &'a dyn Fn() -> bool) -> Self {
        self.still_due = Some(still_due);
        self
    }

    /// The file that the run saw: another one (of a video uploaded anew) is not written.
    #[must_use]
    pub const fn with_identity(mut self, identity: Option<DatabaseIdentity>) -> Self {
        self.identity = identity;
        self
    }

    /// The process of the run's last attempt, which has ended: a row that names it may be written.
    #[must_use]
    pub const fn with_ended_pid(mut self, ended_pid: Option<u32>) -> Self {
        self.ended_pid = ended_pid;
        self
    }

    /// The row was left by a lost machine, whose run was to begin then: it is written only while it says that the run waits or is at
    /// work. Of which process that machine may not have come to say; it is the run's, if it began after that.
    #[must_use]
    pub const fn with_left_since(mut self, left_since: Option<Timestamp>) -> Self {
        self.left_since = left_since;
        self
    }

    /// Processes of which the queue knows whether they are still at work on this row: they may be of other containers,
    /// where a pid says nothing.
    #[must_use]
    pub const fn with_known_pids(mut self, known_pids: &'a BTreeMap<u32, bool>) -> Self {
        self.known_pids = Some(known_pids);
        self
    }

    /// The run waits for its turn, for the first time or because an attempt was interrupted. What an earlier attempt
    /// said stays readable.
    ///
    /// `crop_frames_status`: `queued`, unless the row names a process that is at work: as the queue knows, or, of a process
    /// that it does not know, as there is one of that number. `processing_status`: the web app
    /// itself has written `upload_complete`; it is written again only over the ended process.
    pub fn mark_queued(&self) -> Result<(), AnnotationsError> {
        if self.table == StatusTable::ProcessingStatus {
            return self.give_back("writing that the run waits again");
        }
        let free = |pid: &str| self.has_ended(pid) || !self.is_at_work(pid);
        self.write("writing that the run waits", free, |row| {
            row.set(&[("status", Set::Text("queued")), ("current_job_id", Set::Null)])
        })
    }

    /// An attempt failed and another one will follow: the row shows as queued, with the reason.
    pub fn mark_retry_due(&self, failure: &FailureRecord) -> Result<(), AnnotationsError> {
        let details = details_text(failure);
        let message = one_line(&failure.message);
        self.write(
            "writing that a retry is due",
            |pid| self.has_ended(pid),
            |row| {
                row.set(&[
                    ("status", Set::Text(queued_word(self.table))),
                    ("current_job_id", Set::Null),
                    ("error_message", Set::Text(&message)),
                    ("error_details", Set::Text(&details)),
                    ("error_occurred_at", Set::Now),
                    ("retry_count", Set::Increment),
                ])
            },
        )
    }

    /// The run failed for good.
    pub fn mark_failed(&self, failure: &FailureRecord) -> Result<(), AnnotationsError> {
        self.mark_ended(&failure.message, failure)
    }

    /// The run was cancelled: the message is `Processing cancelled`, the details are those of `failure`.
    pub fn mark_cancelled(&self, failure: &FailureRecord) -> Result<(), AnnotationsError> {
        self.mark_ended(CANCELLED_MESSAGE, failure)
    }

    fn mark_ended(&self, message: &str, failure: &FailureRecord) -> Result<(), AnnotationsError> {
        let details = details_text(failure);
        let message = one_line(message);
        self.write(
            "writing that the run ended",
            |pid| self.has_ended(pid),
            |row| {
                row.set(&[
                    ("status", Set::Text("error")),
                    ("current_job_id", Set::Null),
                    ("error_message", Set::Text(&message)),
                    ("error_details", Set::Text(&details)),
                    ("error_occurred_at", Set::Now),
                ])
            },
        )
    }

    fn give_back(&self, doing: &'static str) -> Result<(), AnnotationsError> {
        self.write(
            doing,
            |_| true,
            |row| match row.holder()? {
                Holder::Process(pid) if self.has_ended(&pid) => row.set(&[
                    ("status", Set::Text(queued_word(self.table))),
                    ("current_job_id", Set::Null),
                ]),
                Holder::Process(_) | Holder::Nobody => Ok(()),
            },
        )
    }

    fn has_ended(&self, holder: &str) -> bool {
        let is_named = |pid: &u32| pid.to_string() == holder;
        // In another container, a living attempt may have the number of the one that has ended.
        self.ended_pid
            .filter(is_named)
            .is_some_and(|pid| self.known_pids.and_then(|known| known.get(&pid)) != Some(&true))
    }

    /// Whether the row is of a lost machine's process of which nothing is known but when it can have begun.
    fn is_left_by_unknown(&self, row: &Row<'_>) -> rusqlite::Result<bool> {
        match (self.left_since, self.ended_pid) {
            (Some(since), None) => row.began_after(since - CLOCKS_DIFFER),
            _ => Ok(false),
        }
    }

    fn is_at_work(&self, holder: &str) -> bool {
        let Ok(pid) = holder.parse() else { return false };
        let known = self.known_pids.and_then(|known| known.get(&pid).copied());
        known.unwrap_or_else(|| ProcessIdentity::of(pid).is_some())
    }

    fn open(&self) -> Result<Database, AnnotationsError> {
        Database::open(self.path, self.identity, WORKER_BUSY_TIMEOUT_MS)
    }

    fn write(
        &self,
        doing: &'static str,
        may_write: impl Fn(&str) -> bool,
        write: impl Fn(&Row<'_>) -> Result<(), Fault>,
    ) -> Result<(), AnnotationsError> {
        let database = self.open()?;
        let deleted = || AnnotationsError::Deleted {
            path: self.path.to_owned(),
        };
        // No table is made for a video that is deleted.
        if database.read(doing, schema::is_deleted)? {
            return Err(deleted());
        }
        schema::ensure_status_table(&database, self.table)?;
        for _ in 0..QUESTIONS {
            let before = database.read(doing, |sqlite| Row::of(sqlite, self.table)?.content())?;
            if self.still_due.is_some_and(|still_due| !still_due()) {
                return Ok(());
            }
            let is_done = database.write(doing, |sqlite| {
                if schema::is_deleted(sqlite)? {
                    return Err(deleted().into());
                }
                let row = Row::of(sqlite, self.table)?;
                if row.content()? != before {
                    return Ok(false);
                }
                if self.left_since.is_some() && !row.is_unfinished()? {
                    return Ok(true);
                }
                match row.holder()? {
                    Holder::Process(holder) if !may_write(&holder) && !self.is_left_by_unknown(&row)? => {
                        Err(AnnotationsError::Superseded {
                            path: self.path.to_owned(),
                            holder,
                        }
                        .into())
                    }
                    _ => write(&row).map(|()| true),
                }
            })?;
            if is_done {
                return Ok(());
            }
        }
        // Somebody writes it all the time: later, perhaps.
        Err(AnnotationsError::Locked {
            path: self.path.to_owned(),
            waited_ms: 0,
            doing,
        })
    }
}

/// What the row of a run says that has done its work.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Completion {
    /// What people should know, as a JSON object, for `error_details`.
    pub details: Option<String>,
    /// There is no text in the whole film: the web app shows that as such by an `error` with these details.
    pub is_without_text: bool,
}

/// A stage of full-frames, each with a status word and a progress column. crop-frames has but one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Frames are sampled.
    ExtractingFrames,
    /// The frames' text is read: entered when all frames are there.
    RunningOcr,
    /// The result is written: entered when all text is read.
    AnalyzingLayout,
}

impl Stage {
    const fn word(self) -> &'static str {
        match self {
            Self::ExtractingFrames => "extracting_frames",
            Self::RunningOcr => "running_ocr",
            Self::AnalyzingLayout => "analyzing_layout",
        }
    }

    const fn progress_column(self) -> &'static str {
        match self {
            Self::ExtractingFrames => "frame_extraction_progress",
            Self::RunningOcr => "ocr_progress",
            Self::AnalyzingLayout => "layout_analysis_progress",
        }
    }
}

/// Whom a status row names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Holder {
    Nobody,
    Process(String),
}

/// What the fence found when it let the attempt pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// The row names the attempt's process.
    Held,
    /// The row names nobody: the web app has reset it.
    Released,
}

/// By what an attempt knows its row again. A pid alone does not tell: attempts in two containers may have the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holding {
    pid: u32,
    /// `processing_started_at`, as the attempt left it.
    started_at: Option<String>,
    /// How often runs have started (`processing_attempts`) or been tried again (`retry_count`) by then.
    count: Option<i64>,
}

impl Holding {
    /// Of an attempt that has not begun.
    pub(super) const fn of_process(pid: u32) -> Self {
        Self {
            pid,
            started_at: None,
            count: None,
        }
    }

    pub(super) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether a row with this pid that is now `found` is another attempt's: one that started at another time, or after
    /// ours. What is not known, or was emptied, says nothing.
    fn was_lost_to(&self, found: &Self) -> bool {
        let both =
            |ours: &Option<String>, theirs: &Option<String>| ours.is_some() && theirs.is_some() && ours != theirs;
        both(&self.started_at, &found.started_at)
            || matches!((self.count, found.count), (Some(ours), Some(theirs)) if theirs > ours)
    }
}

/// Whether the attempt that left the row as `holding` may go on.
pub(super) fn fence(sqlite: &Connection, path: &Path, table: StatusTable, holding: &Holding) -> Result<Hold, Fault> {
    if schema::is_deleted(sqlite)? {
        return Err(AnnotationsError::Deleted { path: path.to_owned() }.into());
    }
    let row = Row::of(sqlite, table)?;
    match row.holder()? {
        Holder::Nobody => Ok(Hold::Released),
        Holder::Process(holder)
            if holder == holding.pid.to_string() && !holding.was_lost_to(&row.holding(holding.pid)?) =>
        {
            Ok(Hold::Held)
        }
        Holder::Process(holder) => Err(AnnotationsError::Superseded {
            path: path.to_owned(),
            holder,
        }
        .into()),
    }
}

/// A value to write into a column.
#[derive(Debug, Clone, Copy)]
enum Set<'a> {
    Text(&'a str),
    Number(f64),
    Null,
    Now,
    /// The time, if there is none yet.
    NowIfNull,
    /// One more than there is.
    Increment,
}

/// The row `id = 1` of a status table, within a transaction.
pub(super) struct Row<'a> {
    sqlite: &'a Connection,
    table: StatusTable,
    columns: schema::Columns,
}

impl<'a> Row<'a> {
    pub(super) fn of(sqlite: &'a Connection, table: StatusTable) -> rusqlite::Result<Self> {
        let columns = schema::columns(sqlite, schema::status_table_name(table))?;
        Ok(Self { sqlite, table, columns })
    }

    /// Whom the row names; a row that is not there names nobody.
    pub(super) fn holder(&self) -> rusqlite::Result<Holder> {
        let sql = format!(
            "SELECT nullif(trim(CAST(current_job_id AS TEXT)), '') FROM {} WHERE id = 1",
            schema::status_table_name(self.table)
        );
        let mut statement = self.sqlite.prepare_cached(&sql)?;
        let mut rows = statement.query([])?;
        let holder: Option<String> = match rows.next()? {
            Some(row) => row.get(0)?,
            None => None,
        };
        Ok(holder.map_or(Holder::Nobody, Holder::Process))
    }

    /// By what process `pid`, which the row names, knows it again.
    pub(super) fn holding(&self, pid: u32) -> rusqlite::Result<Holding> {
        let count = match self.table {
            StatusTable::ProcessingStatus => "processing_attempts",
            StatusTable::CropFramesStatus => "retry_count",
        };
        let value = |column, kind| {
            if self.columns.has(column) {
                format!("CAST({column} AS {kind})")
            } else {
                "NULL".to_owned()
            }
        };
        let sql = format!(
            "SELECT {}, {} FROM {} WHERE id = 1",
            value("processing_started_at", "TEXT"),
            value(count, "INTEGER"),
            schema::status_table_name(self.table)
        );
        let found = self
            .sqlite
            .prepare_cached(&sql)?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let (started_at, count) = found.unwrap_or_default();
        Ok(Holding { pid, started_at, count })
    }

    /// Whether it says that a run waits or is at work; so it is also where there is no row yet.
    fn is_unfinished(&self) -> rusqlite::Result<bool> {
        let sql = format!(
            "SELECT status FROM {} WHERE id = 1",
            schema::status_table_name(self.table)
        );
        let word: Option<String> = self.sqlite.query_row(&sql, [], |row| row.get(0)).optional()?;
        let words: &[&str] = match self.table {
            StatusTable::ProcessingStatus => &[
                "upload_complete",
                Stage::ExtractingFrames.word(),
                Stage::RunningOcr.word(),
                Stage::AnalyzingLayout.word(),
            ],
            StatusTable::CropFramesStatus => &["queued", started_word(self.table)],
        };
        Ok(word.is_none_or(|word| words.contains(&word.as_str())))
    }

    /// Whether the run that it speaks of began after that.
    fn began_after(&self, time: Timestamp) -> rusqlite::Result<bool> {
        if !self.columns.has("processing_started_at") {
            return Ok(false);
        }
        let sql = format!(
            "SELECT processing_started_at >= datetime(?1, 'unixepoch') FROM {} WHERE id = 1",
            schema::status_table_name(self.table)
        );
        let began: Option<Option<bool>> = self
            .sqlite
            .query_row(&sql, [time.as_second()], |row| row.get(0))
            .optional()?;
        Ok(began.flatten().unwrap_or(false))
    }

    /// All that the row says.
    fn content(&self) -> rusqlite::Result<Option<Vec<SqlValue>>> {
        let sql = format!("SELECT * FROM {} WHERE id = 1", schema::status_table_name(self.table));
        let mut statement = self.sqlite.prepare(&sql)?;
        let columns = statement.column_count();
        statement
            .query_row([], |row| (0..columns).map(|at| row.get(at)).collect())
            .optional()
    }

    /// Takes a row again that the web app has reset; it is held as before otherwise.
    pub(super) fn taken_again_if(&self, hold: Hold, holding: &Holding, stage: Stage) -> Result<Holding, Fault> {
        match hold {
            Hold::Held => Ok(holding.clone()),
            Hold::Released => {
                self.write_taken_again(holding.pid, stage)?;
                Ok(self.holding(holding.pid)?)
            }
        }
    }

    /// A run starts as process `pid`.
    pub(super) fn write_started(&self, pid: u32) -> Result<(), Fault> {
        let pid = pid.to_string();
        self.set(&[
            ("status", Set::Text(started_word(self.table))),
            ("processing_started_at", Set::Now),
            ("processing_attempts", Set::Increment),
            ("current_job_id", Set::Text(&pid)),
            ("frame_extraction_progress", Set::Number(0.0)),
            ("ocr_progress", Set::Number(0.0)),
            ("layout_analysis_progress", Set::Number(0.0)),
            ("error_message", Set::Null),
            ("error_details", Set::Null),
            ("error_occurred_at", Set::Null),
            ("last_heartbeat_at", Set::Now),
        ])
    }

    /// The run goes on in a row that the web app has reset.
    fn write_taken_again(&self, pid: u32, stage: Stage) -> Result<(), Fault> {
        let pid = pid.to_string();
        let word = match self.table {
            StatusTable::ProcessingStatus => stage.word(),
            StatusTable::CropFramesStatus => started_word(self.table),
        };
        self.set(&[
            ("status", Set::Text(word)),
            ("processing_started_at", Set::NowIfNull),
            ("current_job_id", Set::Text(&pid)),
            ("error_message", Set::Null),
            ("error_details", Set::Null),
            ("error_occurred_at", Set::Null),
            ("last_heartbeat_at", Set::Now),
        ])
    }

    /// The run enters a stage: those before it are done.
    pub(super) fn write_stage(&self, stage: Stage) -> Result<(), Fault> {
        if self.table == StatusTable::CropFramesStatus {
            return Ok(());
        }
        let mut values = vec![
            ("status", Set::Text(stage.word())),
            ("last_heartbeat_at", Set::Now),
            (stage.progress_column(), Set::Number(0.0)),
        ];
        let before: &[Stage] = match stage {
            Stage::ExtractingFrames => &[],
            Stage::RunningOcr => &[Stage::ExtractingFrames],
            Stage::AnalyzingLayout => &[Stage::ExtractingFrames, Stage::RunningOcr],
        };
        values.extend(before.iter().map(|stage| (stage.progress_column(), Set::Number(1.0))));
        self.set(&values)
    }

    /// How far the stage is.
    pub(super) fn write_progress(&self, stage: Stage, fraction: f64) -> Result<(), Fault> {
        let fraction = if fraction.is_nan() {
            0.0
        } else {
            fraction.clamp(0.0, 1.0)
        };
        self.set(&[
            (stage.progress_column(), Set::Number(fraction)),
            ("last_heartbeat_at", Set::Now),
        ])
    }

    /// Everything is written.
    pub(super) fn write_completed(&self, completion: &Completion) -> Result<(), Fault> {
        let (word, message, occurred_at) = if completion.is_without_text {
            ("error", Set::Text(WITHOUT_TEXT_MESSAGE), Set::Now)
        } else {
            (completed_word(self.table), Set::Null, Set::Null)
        };
        let details = completion.details.as_deref().map_or(Set::Null, Set::Text);
        self.set(&[
            ("status", Set::Text(word)),
            ("processing_completed_at", Set::Now),
            ("upload_progress", Set::Number(1.0)),
            ("frame_extraction_progress", Set::Number(1.0)),
            ("ocr_progress", Set::Number(1.0)),
            ("layout_analysis_progress", Set::Number(1.0)),
            ("current_job_id", Set::Null),
            ("error_message", message),
            ("error_details", details),
            ("error_occurred_at", occurred_at),
            ("last_heartbeat_at", Set::Now),
        ])
    }

    /// Writes the values whose columns the table has, in a row that is made if there is none.
    fn set(&self, values: &[(&str, Set<'_>)]) -> Result<(), Fault> {
        let table = schema::status_table_name(self.table);
        let mut assignments = Vec::with_capacity(values.len() + 1);
        let mut parameters: Vec<SqlValue> = Vec::new();
        for (column, value) in values.iter().chain([&("updated_at", Set::Now)]) {
            if !self.columns.has(column) {
                continue;
            }
            let mut parameter = |value: SqlValue| {
                parameters.push(value);
                format!("?{}", parameters.len())
            };
            let sql = match value {
                Set::Text(text) => parameter((*text).to_owned().into()),
                Set::Number(number) => parameter((*number).into()),
                Set::Null => "NULL".to_owned(),
                Set::Now => "datetime('now')".to_owned(),
                Set::NowIfNull => format!("coalesce({column}, datetime('now'))"),
                Set::Increment => format!("coalesce({column}, 0) + 1"),
            };
            assignments.push(format!("{column} = {sql}"));
        }
        self.sqlite
            .prepare_cached(&format!(
                "INSERT INTO {table} (id, status) SELECT 1, ?1 WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE id = 1)"
            ))?
            .execute([started_word(self.table)])?;
        if assignments.is_empty() {
            // An older table, with no column for any of it.
            return Ok(());
        }
        self.sqlite
            .prepare_cached(&format!("UPDATE {table} SET {} WHERE id = 1", assignments.join(", ")))?
            .execute(params_from_iter(parameters))?;
        Ok(())
    }
}

const fn started_word(table: StatusTable) -> &'static str {
    match table {
        StatusTable::ProcessingStatus => Stage::ExtractingFrames.word(),
        StatusTable::CropFramesStatus => "processing",
    }
}

const fn completed_word(table: StatusTable) -> &'static str {
    match table {
        StatusTable::ProcessingStatus => "processing_complete",
        StatusTable::CropFramesStatus => "complete",
    }
}

/// What the web app shows as queued.
const fn queued_word(table: StatusTable) -> &'static str {
    match table {
        StatusTable::ProcessingStatus => "upload_complete",
        StatusTable::CropFramesStatus => "queued",
    }
}

fn one_line(message: &str) -> String {
    message
        .split(['\n', '\r'])
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The web app reads an object.
fn details_text(failure: &FailureRecord) -> String {
    match &failure.details {
        object @ Value::Object(_) => object.to_string(),
        other => serde_json::json!({ "reason": other }).to_string(),
    }
}
