//! Watching all runs: one reader for however many watch.
//!
//! Theory of operation. What was read last is kept in a ring. A watcher whose place is in the ring is served from there.
//! Those that have come to its end queue up for it: the first of them reads on for all of them, as soon as anything has
//! changed, and whoever comes next finds what it has read. There is no task and no thread: nothing is asked while nobody
//! watches, and a watcher that leaves hands the reading to the next one. A watcher from further back reads by itself until
//! it has come to where the ring is.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::feed::{FeedCursor, FeedEvent, FeedPage};
use super::queue::Queue;
use crate::domain::error::OrchestratorError;
use crate::domain::flow_run::FlowRunEvent;
use crate::domain::id::FlowRunId;

/// How often the counter is looked at, which asks nothing of a server.
const COUNTER_INTERVAL: Duration = Duration::from_millis(100);
/// Events that are kept for watchers that are a moment behind.
const RING: usize = 1024;
/// Pages that are read to bring a ring up to date that nobody has read on for a while; if there are more, it begins anew.
const CATCH_UP_PAGES: usize = 4;

/// Which events somebody wants to see; what is left out does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WatchFilter {
    /// Of this run.
    pub flow_run_id: Option<FlowRunId>,
    /// Of runs of this flow.
    pub flow_name: Option<String>,
    /// Of runs for this video.
    pub video_id: Option<String>,
    /// Of these kinds; empty: any.
    pub types: Vec<EventType>,
}

/// A kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EventType {
    /// A run entered a state.
    State,
    /// An attempt came further.
    Progress,
    /// A line was logged.
    Log,
}

impl WatchFilter {
    fn takes(&self, event: &FeedEvent) -> bool {
        let event_type = match event.event {
            FlowRunEvent::State { .. } => EventType::State,
            FlowRunEvent::Progress { .. } => EventType::Progress,
            FlowRunEvent::Log { .. } => EventType::Log,
        };
        (self.types.is_empty() || self.types.contains(&event_type))
            && self.flow_run_id.is_none_or(|id| id == event.flow_run_id)
            && self.flow_name.as_ref().is_none_or(|name| *name == event.flow_name)
            && self
                .video_id
                .as_ref()
                .is_none_or(|id| event.video_id.as_ref() == Some(id))
    }

    fn take<'a>(&self, events: impl IntoIterator<Item = &'a FeedEvent>) -> Vec<FeedEvent> {
        events.into_iter().filter(|event| self.takes(event)).cloned().collect()
    }
}

/// Where a watcher has come to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WatchPlace {
    /// After this; none: it begins now.
    pub cursor: Option<FeedCursor>,
    /// The same as a number of the ring's.
    pub at: Option<RingPlace>,
}

/// A place in a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingPlace {
    /// Which ring.
    pub ring: Uuid,
    /// Events before it.
    pub number: u64,
}

/// Events after a place, as many as there are now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WatchReading {
    /// In their order.
    pub events: Vec<FeedEvent>,
    /// Where to go on.
    pub place: WatchPlace,
}

/// What all watchers of one orchestrator share.
pub struct Watching {
    id: Uuid,
    queue: Arc<dyn Queue>,
    // Its waiters get it in the order in which they came.
    ring: Mutex<Ring>,
}

impl Watching {
    /// For the watchers of this orchestrator.
    pub fn new(queue: Arc<dyn Queue>) -> Self {
        Self {
            id: Uuid::new_v4(),
            queue,
            ring: Mutex::default(),
        }
    }

    /// Returns as soon as there are events after `place` that pass the filter. It may be dropped at any time, and the same
    /// place asked for again.
    ///
    /// # Errors
    /// [`OrchestratorError::CursorGone`] if events after the place are no longer kept, and those of [`Queue::read_feed`].
    pub async fn next(&self, filter: &WatchFilter, mut place: WatchPlace) -> Result<WatchReading, OrchestratorError> {
        loop {
            let events = self.read_on(filter, &mut place).await?;
            if !events.is_empty() {
                return Ok(WatchReading { events, place });
            }
        }
    }

    /// One step forward: events that pass the filter, if it came to any.
    async fn read_on(&self, filter: &WatchFilter, place: &mut WatchPlace) -> Result<Vec<FeedEvent>, OrchestratorError> {
        let queue = self.queue.as_ref();
        let at = place.at.filter(|at| at.ring == self.id);
        let mut ring = match (at, &place.cursor) {
            (Some(_), _) | (_, None) => self.ring.lock().await,
            (None, Some(cursor)) => {
                let page = queue.read_feed(Some(cursor)).await?;
                if page.has_more || !page.events.is_empty() {
                    place.cursor = Some(page.next);
                    return Ok(filter.take(&page.events));
                }
                self.ring.lock().await
            }
        };
        if let Some(at) = at
            && ring.has(at.number)
        {
            if at.number == ring.end() {
                ring.wait(queue).await?;
            }
            *place = self.end_of(&ring);
            return Ok(filter.take(ring.after(at.number)));
        }
        ring.catch_up(queue).await?;
        let Some(cursor) = &place.cursor else {
            *place = self.end_of(&ring);
            return Ok(Vec::new());
        };
        // Nothing may come between the last reading and the place in the ring.
        let page = queue.read_feed(Some(cursor)).await?;
        if ring.cursor.as_ref() == Some(&page.next) {
            *place = self.end_of(&ring);
            let progress = page.progress.iter().map(|(_, event)| event);
            return Ok(filter.take(page.events.iter().chain(progress)));
        }
        drop(ring);
        place.at = None;
        place.cursor = Some(page.next);
        if page.events.is_empty() {
            // A server that is away has told the ring and this watcher up to different times: they meet once it is back.
            tokio::time::sleep(COUNTER_INTERVAL).await;
        }
        Ok(filter.take(&page.events))
    }

    fn end_of(&self, ring: &Ring) -> WatchPlace {
        WatchPlace {
            cursor: ring.cursor.clone(),
            at: Some(RingPlace {
                ring: self.id,
                number: ring.end(),
            }),
        }
    }
}

/// What was read last.
#[derive(Default)]
struct Ring {
    events: VecDeque<FeedEvent>,
    /// Events that were there before them.
    before: u64,
    /// The place after them; none: nothing was read yet.
    cursor: Option<FeedCursor>,
    /// [`Queue::change_counter`] as of the last reading; none: there is more to be read now.
    counter: Option<i64>,
    /// The progress that was seen last, of each run at work.
    progress: HashMap<FlowRunId, i64>,
}

impl Ring {
    fn end(&self) -> u64 {
        self.before + u64::try_from(self.events.len()).unwrap_or(0)
    }

    fn has(&self, number: u64) -> bool {
        self.cursor.is_some() && (self.before..=self.end()).contains(&number)
    }

    fn after(&self, number: u64) -> impl Iterator<Item = &FeedEvent> {
        let seen = usize::try_from(number.saturating_sub(self.before)).unwrap_or(usize::MAX);
        self.events.iter().skip(seen)
    }

    /// Waits until something has changed, and reads it.
    async fn wait(&mut self, queue: &dyn Queue) -> Result<(), OrchestratorError> {
        loop {
            // Read before the events: what changes meanwhile is read the next time.
            let counter = queue.feed_counter().await?;
            if self.counter == Some(counter) {
                tokio::time::sleep(COUNTER_INTERVAL).await;
                continue;
            }
            let page = self.read(queue).await?;
            let has_more = page.has_more;
            let is_news = self.take(page);
            self.counter = (!has_more).then_some(counter);
            if is_news {
                return Ok(());
            }
        }
    }

    /// Comes to the end of what there is.
    async fn catch_up(&mut self, queue: &dyn Queue) -> Result<(), OrchestratorError> {
        for _ in 0..CATCH_UP_PAGES {
            let page = self.read(queue).await?;
            let has_more = page.has_more;
            self.take(page);
            if !has_more {
                return Ok(());
            }
        }
        self.begin_anew(queue).await
    }

    async fn read(&mut self, queue: &dyn Queue) -> Result<FeedPage, OrchestratorError> {
        if self.cursor.is_none() {
            self.begin_anew(queue).await?;
        }
        match queue.read_feed(self.cursor.as_ref()).await {
            // Nobody has watched for longer than anything is kept, or the file is another one.
            Err(OrchestratorError::CursorGone) => {
                self.begin_anew(queue).await?;
                queue.read_feed(self.cursor.as_ref()).await
            }
            read => read,
        }
    }

    /// Leaves out what was not read. Whoever was at its end finds its own way from there.
    async fn begin_anew(&mut self, queue: &dyn Queue) -> Result<(), OrchestratorError> {
        let cursor = queue.read_feed(None).await?.next;
        self.before = self.end() + 1;
        self.events.clear();
        self.cursor = Some(cursor);
        self.counter = None;
        Ok(())
    }

    /// Whether there was anything in it.
    fn take(&mut self, page: FeedPage) -> bool {
        let end = self.end();
        self.events.extend(page.events);
        if !page.has_more {
            let mut seen = HashMap::new();
            for (at_ms, event) in page.progress {
                if self.progress.get(&event.flow_run_id) != Some(&at_ms) {
                    self.events.push_back(event.clone());
                }
                seen.insert(event.flow_run_id, at_ms);
            }
            self.progress = seen;
        }
        self.cursor = Some(page.next);
        let is_news = self.end() > end;
        while self.events.len() > RING {
            self.events.pop_front();
            self.before += 1;
        }
        is_news
    }
}
