//! What receivers are still to be told: all states after the position up to which they were. Nothing is kept for them beside
//! that: the history of the runs is the outbox.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};

use super::rows::{id, json, now_ms, state_name, timestamp};
use super::store::{Fault, begin};
use crate::domain::flow_run::State;
use crate::domain::state::StateName;
#[cfg(any(feature = "worker", test))]
use crate::orchestrator::notifications::Delivery;
use crate::orchestrator::notifications::{Due, Notification, PreviousState};

/// Most notifications of one reading.
const PAGE: i64 = 100;
/// Most that wait for a receiver that is away: some MB of telling, and days of a usual queue.
pub(super) const MAX_WAITING: i64 = 10_000;

/// No wait for a receiver is longer.
const MAX_WAIT_MS: i64 = 300_000;

pub(super) fn due(connection: &mut Connection, receiver: &str) -> Result<Due, Fault> {
    let known: Option<(i64, i64, i64, u32)> = connection
        .prepare_cached(
            "SELECT notification.position, feed_end.position, due_at, failures FROM feed_end CROSS JOIN notification WHERE url = ?1",
        )?
        .query_row([receiver], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?;
    let Some((position, newest, due_at, failures)) = known else {
        connection
            .prepare_cached(
                "INSERT OR IGNORE INTO notification (url, position, failures, due_at) SELECT ?1, position, 0, 0 FROM feed_end",
            )?
            .execute([receiver])?;
        return Ok(Due::default());
    };
    let now = now_ms();
    // A clock that was set back is no reason to wait longer than any wait is.
    if position >= newest || (now + 1..=now + MAX_WAIT_MS).contains(&due_at) {
        return Ok(Due {
            failures,
            ..Due::default()
        });
    }
    let first = position.max(newest - MAX_WAITING);
    let notifications = connection
        .prepare_cached(
            "SELECT now.position, now.flow_run_id, now.sequence, flow_name, video_id, parameters, now.state_name,
               now.message, now.attempt, now.at,
               (SELECT state_name FROM flow_run_state AS before
                WHERE before.flow_run_id = now.flow_run_id AND before.sequence < now.sequence
                ORDER BY before.sequence DESC LIMIT 1) AS previous
             FROM flow_run_state AS now INDEXED BY flow_run_state_position
             CROSS JOIN flow_run ON flow_run.id = now.flow_run_id
             WHERE now.position > ?1 ORDER BY now.position LIMIT ?2",
        )?
        .query_map((first, PAGE), |row| {
            let name = state_name(row, "state_name")?;
            let flow_run_id = id(row, "flow_run_id")?;
            let sequence: i64 = row.get("sequence")?;
            let previous = row.get::<_, Option<String>>("previous")?;
            Ok(Notification {
                position: row.get("position")?,
                event_id: format!("{flow_run_id}.{sequence}"),
                flow_run_id,
                flow_name: row.get("flow_name")?,
                video_id: row.get("video_id")?,
                state: State {
                    state_type: name.state_type(),
                    name,
                    message: row.get("message")?,
                    timestamp: timestamp(row.get("at")?),
                },
                previous: previous
                    .as_deref()
                    .and_then(StateName::parse)
                    .map(|name| PreviousState {
                        state_type: name.state_type(),
                        name,
                    }),
                attempt: row.get("attempt")?,
                parameters: json(row, "parameters")?,
            })
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    if notifications.is_empty() || first > position {
        // Forgotten with their runs, or too many.
        let up_to = notifications.first().map_or(newest, |next| next.position - 1);
        move_on(connection, receiver, up_to)?;
    }
    Ok(Due {
        notifications,
        dropped: u64::try_from(first - position).unwrap_or(0),
        failures,
    })
}

fn move_on(connection: &Connection, receiver: &str, position: i64) -> Result<(), Fault> {
    connection
        .prepare_cached("UPDATE notification SET position = ?2 WHERE url = ?1 AND position < ?2")?
        .execute((receiver, position))?;
    Ok(())
}

pub(super) fn notified(
    connection: &mut Connection,
    receiver: &str,
    position: i64,
    problem: Option<&str>,
) -> Result<(), Fault> {
    let transaction = begin(connection)?;
    move_on(&transaction, receiver, position)?;
    transaction
        .prepare_cached(
            "UPDATE notification SET failures = 0, due_at = 0, problem = coalesce(?2, problem),
               problem_at = iif(?2 IS NULL, problem_at, ?3) WHERE url = ?1",
        )?
        .execute((receiver, problem, now_ms()))?;
    transaction.commit()?;
    Ok(())
}

pub(super) fn not_notified(
    connection: &Connection,
    receiver: &str,
    problem: &str,
    wait: Duration,
) -> Result<(), Fault> {
    let now = now_ms();
    let due_at = now.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX));
    connection
        .prepare_cached(
            "UPDATE notification SET failures = failures + 1, due_at = ?2, problem = ?3, problem_at = ?4 WHERE url = ?1",
        )?
        .execute((receiver, due_at, problem, now))?;
    Ok(())
}

/// How it goes; `None`: this receiver was never asked for.
#[cfg(any(feature = "worker", test))]
pub(super) fn delivery(connection: &Connection, receiver: &str) -> Result<Option<Delivery>, Fault> {
    Ok(connection
        .prepare_cached(
            "SELECT feed_end.position - notification.position, failures, problem, problem_at
             FROM feed_end CROSS JOIN notification WHERE url = ?1",
        )?
        .query_row([receiver], |row| {
            let problem: Option<String> = row.get(2)?;
            let problem_at: Option<i64> = row.get(3)?;
            Ok(Delivery {
                waiting: row.get(0)?,
                failures: row.get(1)?,
                problem: problem.zip(problem_at.map(timestamp)),
            })
        })
        .optional()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orchestrator::local::store::open_connection;

    #[test]
    fn of_more_than_is_kept_waiting_the_oldest_are_dropped() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut connection = open_connection(&folder.path().join("queue.db")).expect("opens");
        assert_eq!(due(&mut connection, "http://r").expect("reads"), Due::default());
        connection
            .execute_batch(&format!(
                "INSERT INTO flow_run (id, flow_name, parameters, work_queue, priority, tags, has_status_row, state_type,
                   state_name, state_at, state_sequence, status_row_due, created_at, scheduled_at)
                 VALUES ('01932f2b-7d5c-7000-8000-000000000000', 'f', '{{}}', 'background', 2, '[]', 0, 'SCHEDULED',
                   'Scheduled', 1, 1, 0, 1, 1);
                 WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {MAX_WAITING} + 7)
                 INSERT INTO flow_run_state (flow_run_id, sequence, state_name, attempt, at, position)
                 SELECT '01932f2b-7d5c-7000-8000-000000000000', n, 'Scheduled', 0, 1, n FROM number;"
            ))
            .expect("a long history");
        let found = due(&mut connection, "http://r").expect("reads");
        assert_eq!((found.dropped, found.notifications[0].position), (7, 8));
        assert_eq!(found.notifications.len(), usize::try_from(PAGE).expect("small"));
        let again = due(&mut connection, "http://r").expect("reads");
        assert_eq!(
            (again.dropped, again.notifications[0].position),
            (0, 8),
            "that is said once"
        );
        let waiting = || {
            delivery(&connection, "http://r")
                .expect("reads")
                .expect("known")
                .waiting
        };
        assert_eq!(waiting(), MAX_WAITING);
    }
}
