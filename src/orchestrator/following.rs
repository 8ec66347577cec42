//! Following a flow run: its events as they happen, at a price that its orchestrator can bear.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::domain::error::OrchestratorError;
use crate::domain::flow_run::{EventCursor, FlowRunEvent};
use crate::domain::id::FlowRunId;
use crate::orchestrator::queue::Queue;

/// How often the counter is looked at, which asks nothing of a server.
const COUNTER_INTERVAL: Duration = Duration::from_millis(100);

/// How long a follower that has seen its run bears with a server that is away.
const OUTAGE: Duration = Duration::from_mins(1);

/// Where a follower of a run has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Place {
    /// What was seen.
    pub cursor: EventCursor,
    /// [`Queue::news_counter`] as of the last reading; none: there is more to be read now.
    pub counter: Option<i64>,
}

/// Events of a run after a place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reading {
    /// In their order.
    pub events: Vec<FlowRunEvent>,
    /// The place after each of them.
    pub cursors: Vec<EventCursor>,
    /// Where to go on.
    pub place: Place,
    /// The run has ended and nothing of it is left to be seen.
    pub done: bool,
}

/// Returns as soon as there are events after `place`, or the run has ended. A server that was there before and is away,
/// or too busy, is waited for a minute.
///
/// # Errors
/// Those of [`Queue::read_events`]. The same place can be asked for again.
pub async fn next_events(orchestrator: &dyn Queue, id: FlowRunId, place: Place) -> Result<Reading, OrchestratorError> {
    let Place {
        mut cursor,
        counter: mut seen,
    } = place;
    let is_known = cursor.state > 0;
    let mut failing_since = None;
    loop {
        // Read before the events: what changes meanwhile is read the next time.
        let counter = orchestrator.news_counter(id).await?;
        if seen == Some(counter) {
            tokio::time::sleep(COUNTER_INTERVAL).await;
            continue;
        }
        seen = Some(counter);
        let page = match orchestrator.read_events(id, cursor).await {
            Err(OrchestratorError::Prefect(error))
                if is_known
                    && error.retryable()
                    && failing_since.get_or_insert_with(Instant::now).elapsed() < OUTAGE =>
            {
                continue;
            }
            read => read?,
        };
        failing_since = None;
        let events = page.events;
        cursor = page.next;
        if !events.is_empty() || cursor.has_ended {
            // After the end nothing announces what is left.
            let has_more = page.has_more || !events.is_empty() && cursor.has_ended;
            return Ok(Reading {
                done: events.is_empty(),
                events,
                cursors: page.cursors,
                place: Place {
                    cursor,
                    counter: (!has_more).then_some(counter),
                },
            });
        }
    }
}
