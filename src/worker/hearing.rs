//! What follows from what a child says. Pure: a line in, effects out; [`super::attempt`] performs them.
//!
//! A child is hostile until parsed, and afterwards bounded: lines, objects and bytes, over all that it says.

use std::time::Instant;

use jiff::Timestamp;

use super::output::{LineBudget, printable};
use crate::domain::asset::Materialization;
use crate::domain::flow_run::{Artifact, LogLevel, Progress};
use crate::domain::state::{StateName, StateType};
use crate::orchestrator::claims::{Record, log_line};
use crate::protocol::{ChildEvent, Failure};

/// Most artifacts, assets and task runs of one attempt: more is a fault of the program.
pub const MAX_OBJECTS: usize = 1000;
/// Most bytes of them together.
const MAX_OBJECT_BYTES: usize = 32 << 20;

/// What the worker is to do because of what it heard.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Keep this; the newest progress takes the place of an older one.
    Keep(Record),
    /// Made, if the attempt completes.
    Made(Materialization),
    /// Answer whether it may write its result: of the run, or of one caption.
    Answer(Option<i64>),
    /// Its last word.
    Said(LastWord),
}

/// How the child itself says that it ended.
#[derive(Debug, Clone, PartialEq)]
pub enum LastWord {
    /// Done, with a line for people.
    Completed(String),
    /// Not done.
    Failed(Failure),
    /// Stopped, and why.
    Cancelled(String),
}

/// The ear for one attempt.
#[derive(Debug)]
pub struct Hearing {
    attempt: u32,
    budget: LineBudget,
    objects: usize,
    object_bytes: usize,
}

impl Hearing {
    /// Of an attempt whose run has logged so many bytes before it.
    pub fn new(attempt: u32, bytes_logged: u64, now: Instant) -> Self {
        Self {
            attempt,
            budget: LineBudget::new(now, bytes_logged),
            objects: 0,
            object_bytes: 0,
        }
    }

    /// A line of stderr: what is printed by whoever does not speak our protocol.
    pub fn hear_error(&mut self, line: &[u8], now: Instant) -> Vec<Effect> {
        self.log(LogLevel::Warning, printable(line), now).into_iter().collect()
    }

    /// A line of stdout.
    pub fn hear(&mut self, line: &[u8], now: Instant) -> Vec<Effect> {
        let Ok(event) = serde_json::from_slice::<ChildEvent>(line) else {
            return self.hear_error(line, now);
        };
        let timestamp = Timestamp::now();
        match event {
            ChildEvent::Started { .. } => Vec::new(),
            ChildEvent::DatabaseSeen { identity } => vec![Effect::Keep(Record::Database(identity))],
            ChildEvent::TaskRun {
                task_run_id,
                name,
                run_count,
                state,
                message,
            } => {
                let record = Record::TaskRun {
                    task_run_id,
                    name,
                    run_count,
                    state: task_state(state, run_count),
                    message,
                };
                self.object(line.len(), Effect::Keep(record), now)
            }
            ChildEvent::Progress {
                task,
                done,
                total,
                unit,
                fraction,
            } => {
                let fraction = if fraction.is_finite() {
                    fraction.clamp(0.0, 1.0)
                } else {
                    0.0
                };
                vec![Effect::Keep(Record::Progress(Progress {
                    task,
                    done,
                    total,
                    unit,
                    fraction,
                    timestamp,
                }))]
            }
            ChildEvent::Log { level, message } => {
                let message = printable(message.as_bytes());
                self.log(level, message, now).into_iter().collect()
            }
            ChildEvent::Artifact {
                key,
                artifact_type,
                description,
                data,
            } => {
                let record = Record::Artifact(Artifact {
                    key,
                    artifact_type,
                    description,
                    data,
                    timestamp,
                });
                self.object(line.len(), Effect::Keep(record), now)
            }
            ChildEvent::Asset { materialization } => self.object(line.len(), Effect::Made(materialization), now),
            ChildEvent::MayCommit { caption_id } => vec![Effect::Answer(caption_id)],
            ChildEvent::Completed { message } => vec![Effect::Said(LastWord::Completed(message))],
            ChildEvent::Failed { failure } => vec![Effect::Said(LastWord::Failed(failure))],
            ChildEvent::Cancelled { message } => vec![Effect::Said(LastWord::Cancelled(message))],
        }
    }

    /// What is to be said of it at the end: how much was left out.
    pub fn end(&self) -> Option<Effect> {
        let left_out = self.budget.left_out;
        let message = format!("{left_out} lines were left out: the run logged too much");
        (left_out > 0).then(|| Effect::Keep(Record::Log(log_line(self.attempt, LogLevel::Warning, message))))
    }

    fn log(&mut self, level: LogLevel, message: String, now: Instant) -> Option<Effect> {
        let is_kept = !message.is_empty() && self.budget.take(now, message.len());
        is_kept.then(|| Effect::Keep(Record::Log(log_line(self.attempt, level, message))))
    }

    /// One of the objects, as long as there is room; that there is no more is said once.
    fn object(&mut self, bytes: usize, effect: Effect, now: Instant) -> Vec<Effect> {
        let is_full = |hearing: &Self| hearing.objects >= MAX_OBJECTS || hearing.object_bytes >= MAX_OBJECT_BYTES;
        let was_full = is_full(self);
        self.objects += 1;
        self.object_bytes = self.object_bytes.saturating_add(bytes);
        if !is_full(self) {
            return vec![effect];
        }
        if was_full {
            return Vec::new();
        }
        let message = format!(
            "more than {MAX_OBJECTS} task runs, artifacts and assets, or more than {MAX_OBJECT_BYTES} bytes of them: the rest \
             is left out"
        );
        self.log(LogLevel::Warning, message, now).into_iter().collect()
    }
}

/// The name of a task run's state.
const fn task_state(state: StateType, run_count: u32) -> StateName {
    match state {
        StateType::Running if run_count > 1 => StateName::Retrying,
        StateType::Running => StateName::Running,
        StateType::Completed => StateName::Completed,
        StateType::Cancelled => StateName::Cancelled,
        StateType::Crashed => StateName::Crashed,
        _ => StateName::Failed,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn hearing() -> Hearing {
        Hearing::new(3, 0, Instant::now())
    }

    /// What follows, in a few words.
    fn said(effects: &[Effect]) -> Vec<String> {
        let word = |effect: &Effect| match effect {
            Effect::Keep(Record::Log(line)) => format!("{:?} {}: {}", line.level, line.attempt, line.message),
            Effect::Keep(Record::Progress(progress)) => format!("{} {}", progress.task, progress.fraction),
            Effect::Keep(Record::TaskRun { name, state, .. }) => format!("{name} {state:?}"),
            Effect::Keep(Record::Artifact(artifact)) => format!("artifact {}", artifact.key),
            Effect::Keep(record) => format!("{record:?}"),
            Effect::Made(made) => format!("made {}", made.key),
            Effect::Answer(None) => "answer".to_owned(),
            Effect::Answer(Some(caption)) => format!("answer for {caption}"),
            Effect::Said(word) => format!("{word:?}"),
        };
        effects.iter().map(word).collect()
    }

    #[test]
    fn what_follows_from_what_a_child_says() {
        let task = |state: &str, run_count: u32| json!({"event": "task_run", "task_run_id": uuid::Uuid::nil(), "name": "t", "run_count": run_count, "state": state});
        let progress = |fraction: f64| json!({"event": "progress", "task": "t", "done": 1, "total": null, "unit": "frames", "fraction": fraction});
        let table: [(Value, &[&str]); 18] = [
            (json!({"event": "started", "protocol_version": 2}), &[]),
            (task("RUNNING", 1), &["t Running"]),
            (task("RUNNING", 2), &["t Retrying"]),
            (task("COMPLETED", 1), &["t Completed"]),
            (task("CANCELLED", 1), &["t Cancelled"]),
            (task("PENDING", 1), &["t Failed"]),
            (progress(0.5), &["t 0.5"]),
            (progress(7.0), &["t 1"]),
            (progress(-1.0), &["t 0"]),
            (
                json!({"event": "log", "level": "error", "message": "a\u{1b}[2Jb"}),
                &["Error 3: a\u{fffd}[2Jb"],
            ),
            (json!({"event": "log", "level": "info", "message": ""}), &[]),
            (
                json!({"event": "artifact", "key": "k", "artifact_type": "table", "description": null, "data": []}),
                &["artifact k"],
            ),
            (
                json!({"event": "asset", "materialization": {"key": "a", "metadata": {}, "upstream_keys": [], "observed": false}}),
                &["made a"],
            ),
            (json!({"event": "may_commit"}), &["answer"]),
            (json!({"event": "may_commit", "caption_id": 7}), &["answer for 7"]),
            (json!({"event": "completed", "message": "m"}), &["Completed(\"m\")"]),
            (json!({"event": "cancelled", "message": "m"}), &["Cancelled(\"m\")"]),
            (
                json!({"event": "unheard of"}),
                &["Warning 3: {\"event\":\"unheard of\"}"],
            ),
        ];
        for (line, expected) in table {
            let effects = hearing().hear(line.to_string().as_bytes(), Instant::now());
            assert_eq!(said(&effects), expected, "{line}");
        }
    }

    #[test]
    fn what_is_no_message_is_a_line_of_the_log() {
        for line in ["garbage", "{\"event\":", "[1]"] {
            let expected = [format!("Warning 3: {line}")];
            assert_eq!(said(&hearing().hear(line.as_bytes(), Instant::now())), expected);
            assert_eq!(said(&hearing().hear_error(line.as_bytes(), Instant::now())), expected);
        }
        assert_eq!(hearing().hear(b"", Instant::now()), []);
    }

    #[test]
    fn objects_are_bounded_and_that_they_are_is_said_once() {
        let mut hearing = hearing();
        let asset = json!({"event": "asset", "materialization": {"key": "a", "metadata": {}, "upstream_keys": [], "observed": false}});
        let asset = asset.to_string();
        let heard: Vec<String> = (0..MAX_OBJECTS + 10)
            .flat_map(|_| said(&hearing.hear(asset.as_bytes(), Instant::now())))
            .collect();
        assert_eq!(heard.len(), MAX_OBJECTS);
        assert!(heard[MAX_OBJECTS - 1].contains("the rest is left out"), "{heard:?}");
        let completed = json!({"event": "completed", "message": "m"}).to_string();
        assert_eq!(hearing.hear(completed.as_bytes(), Instant::now()).len(), 1);
    }

    #[test]
    fn lines_that_were_left_out_are_counted_at_the_end() {
        let mut hearing = hearing();
        assert_eq!(hearing.end(), None);
        let now = Instant::now();
        let kept = (0..5000).filter(|_| !hearing.hear(b"line", now).is_empty()).count();
        let left_out = 5000 - kept;
        let end = said(&Vec::from_iter(hearing.end()));
        assert_eq!(
            end,
            [format!(
                "Warning 3: {left_out} lines were left out: the run logged too much"
            )]
        );
    }
}
