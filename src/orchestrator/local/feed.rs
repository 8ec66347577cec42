//! What happened to all runs, in the order in which it was stored: states by their position, log lines by their row, both
//! of which only grow. What was seen of each is the cursor.

use std::collections::VecDeque;
use std::fmt::{self, Display};

use jiff::Timestamp;
use rusqlite::{Connection, Row};

use super::rows::{id, json, state_name, timestamp, unreadable};
use super::store::Fault;
use crate::domain::error::OrchestratorError;
use crate::domain::flow_run::{FlowRunEvent, LogLevel, LogLine, Progress, State};
use crate::orchestrator::feed::{FeedCursor, FeedEvent, FeedPage};

/// Most states, and most log lines, of one page.
const PAGE: usize = 500;

/// A place in the order, as a cursor says it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// The file that it is a place of.
    feed: String,
    /// The last state seen.
    state: i64,
    /// The last log line seen.
    log: i64,
}

impl Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.feed, self.state, self.log)
    }
}

impl Place {
    fn cursor(&self) -> FeedCursor {
        FeedCursor(self.to_string())
    }

    fn parse(cursor: &FeedCursor) -> Result<Self, OrchestratorError> {
        let mut parts = cursor.0.split('.');
        let number = |part: Option<&str>| part?.parse().ok().filter(|number| *number >= 0);
        match (parts.next(), number(parts.next()), number(parts.next()), parts.next()) {
            (Some(feed), Some(state), Some(log), None) if !feed.is_empty() => Ok(Self {
                feed: feed.to_owned(),
                state,
                log,
            }),
            _ => Err(OrchestratorError::InvalidArgument {
                argument: "after".to_owned(),
                problem: format!(
                    "{:?} is no cursor of an event: give one as it came, or none to begin now",
                    cursor.0.chars().take(80).collect::<String>()
                ),
            }),
        }
    }
}

/// Events after a cursor; of none, only where the order ends now.
pub(super) fn read(connection: &mut Connection, after: Option<&FeedCursor>) -> Result<FeedPage, Fault> {
    let after = after.map(Place::parse).transpose()?;
    // One transaction: a state is never read without the lines before it.
    let transaction = connection.transaction()?;
    let (end, forgotten) = ends(&transaction)?;
    let mut page = FeedPage {
        events: Vec::new(),
        progress: Vec::new(),
        next: end.cursor(),
        has_more: false,
    };
    let Some(mut place) = after else { return Ok(page) };
    if place.feed != end.feed || place.state < forgotten.state || place.log < forgotten.log {
        return Err(OrchestratorError::CursorGone.into());
    }
    let states = states(&transaction, place.state)?;
    let lines = lines(&transaction, place.log)?;
    page.has_more = states.len() >= PAGE || lines.len() >= PAGE;
    page.events = merge(&mut place, states, lines);
    if page.has_more {
        page.next = place.cursor();
    } else {
        page.progress = progress(&transaction, &page.next)?;
    }
    Ok(page)
}

/// Where the order ends, and up to where some of it is no longer there.
fn ends(connection: &Connection) -> Result<(Place, Place), Fault> {
    Ok(connection
        .prepare_cached(
            "SELECT id, position, forgotten_position, forgotten_log, coalesce((SELECT max(id) FROM log), 0) AS log FROM feed_end",
        )?
        .query_row([], |row| {
            let feed: String = row.get("id")?;
            let forgotten = Place {
                feed: feed.clone(),
                state: row.get("forgotten_position")?,
                log: row.get("forgotten_log")?,
            };
            let end = Place {
                feed,
                state: row.get("position")?,
                log: row.get::<_, i64>("log")?.max(forgotten.log),
            };
            Ok((end, forgotten))
        })?)
}

/// A row of the order, with what it is numbered by, and when it was.
struct Entry {
    number: i64,
    at: Timestamp,
    event: FeedEvent,
}

fn entry(row: &Row<'_>, event: FlowRunEvent, at: Timestamp) -> rusqlite::Result<Entry> {
    Ok(Entry {
        number: row.get("number")?,
        at,
        event: FeedEvent {
            flow_run_id: id(row, "flow_run_id")?,
            flow_name: row.get("flow_name")?,
            video_id: row.get("video_id")?,
            event,
            cursor: FeedCursor(String::new()),
        },
    })
}

fn states(connection: &Connection, after: i64) -> Result<VecDeque<Entry>, Fault> {
    Ok(connection
        .prepare_cached(&format!(
            "SELECT position AS number, flow_run_id, flow_name, video_id, flow_run_state.state_name, message,
               flow_run_state.attempt, flow_run_state.at
             FROM flow_run_state INDEXED BY flow_run_state_position CROSS JOIN flow_run ON flow_run.id = flow_run_id
             WHERE position > ?1 ORDER BY position LIMIT {PAGE}"
        ))?
        .query_map([after], |row| {
            let name = state_name(row, "state_name")?;
            let state = State {
                state_type: name.state_type(),
                name,
                message: row.get("message")?,
                timestamp: timestamp(row.get("at")?),
            };
            let at = state.timestamp;
            let attempt = row.get("attempt")?;
            entry(row, FlowRunEvent::State { state, attempt }, at)
        })?
        .collect::<rusqlite::Result<_>>()?)
}

fn lines(connection: &Connection, after: i64) -> Result<VecDeque<Entry>, Fault> {
    Ok(connection
        .prepare_cached(&format!(
            "SELECT log.id AS number, flow_run_id, flow_name, video_id, log.attempt, level, message, log.at
             FROM log CROSS JOIN flow_run ON flow_run.id = flow_run_id
             WHERE log.id > ?1 ORDER BY log.id LIMIT {PAGE}"
        ))?
        .query_map([after], |row| {
            let level =
                LogLevel::parse(&row.get::<_, String>("level")?).ok_or_else(|| unreadable("level", "no level"))?;
            let log = LogLine {
                attempt: row.get("attempt")?,
                level,
                message: row.get("message")?,
                timestamp: timestamp(row.get("at")?),
            };
            let at = log.timestamp;
            entry(row, FlowRunEvent::Log { log }, at)
        })?
        .collect::<rusqlite::Result<_>>()?)
}

/// Both by time, each in its own order whatever clocks say, lines first at one moment. Where a page of one of them is full,
/// the other goes no further than that, since what lies between is not read yet.
fn merge(place: &mut Place, mut states: VecDeque<Entry>, mut lines: VecDeque<Entry>) -> Vec<FeedEvent> {
    let (all_states, all_lines) = (states.len() < PAGE, lines.len() < PAGE);
    let mut events = Vec::new();
    loop {
        let is_line = match (states.front(), lines.front()) {
            (Some(state), Some(line)) => line.at <= state.at,
            (None, Some(_)) if all_states => true,
            (Some(_), None) if all_lines => false,
            _ => return events,
        };
        let next = if is_line { &mut lines } else { &mut states };
        let Some(Entry { number, mut event, .. }) = next.pop_front() else {
            return events;
        };
        if is_line {
            place.log = number;
        } else {
            place.state = number;
        }
        event.cursor = place.cursor();
        events.push(event);
    }
}

/// How far each run at work is: as many as the limit of the pool.
fn progress(connection: &Connection, cursor: &FeedCursor) -> Result<Vec<(i64, FeedEvent)>, Fault> {
    Ok(connection
        .prepare_cached(
            "SELECT id, flow_name, video_id, progress, progress_at FROM flow_run INDEXED BY flow_run_active
             WHERE state_type IN ('PENDING', 'RUNNING', 'CANCELLING') AND progress IS NOT NULL",
        )?
        .query_map([], |row| {
            let progress: Progress = json(row, "progress")?;
            let event = FeedEvent {
                flow_run_id: id(row, "id")?,
                flow_name: row.get("flow_name")?,
                video_id: row.get("video_id")?,
                event: FlowRunEvent::Progress { progress },
                cursor: cursor.clone(),
            };
            Ok((row.get("progress_at")?, event))
        })?
        .collect::<rusqlite::Result<_>>()?)
}
