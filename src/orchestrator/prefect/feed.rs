//! What happens to all runs, as far as it can be known: of runs that this home has queued or works on from its journal, at
//! once; of all others from the server, some seconds later: their states from its events (`states.rs`), their log lines and
//! their progress from where their workers put them (`elsewhere.rs`).
//!
//! A server writes its events down up to 5 s after they happened, in batches, and not in their order: what is younger than
//! that is not asked for yet, so that each comes once and none is passed by. What came at one moment has one place: who goes on
//! from the middle of it sees its beginning again, and misses nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::elsewhere;
use super::journal::Journal;
use super::server::Server;
use super::states::{SETTLED, StateAtServer, not_known_here, on_grid, seen_after_each, states_at_server};
use crate::domain::error::OrchestratorError;
use crate::domain::flow_run::FlowRunEvent;
use crate::orchestrator::feed::{FeedCursor, FeedEvent, FeedPage};
use crate::orchestrator::queue::Queue;

/// How long a server that did not answer is left alone.
const AWAY: Duration = Duration::from_secs(5);

/// The journal's feed and the server's in one.
pub(super) struct Feed {
    server: Arc<Server>,
    journal: Journal,
    failed_at: Mutex<Option<Instant>>,
    /// How far runs at work elsewhere were when the server was asked last.
    progress: Mutex<Vec<(i64, FeedEvent)>>,
}

/// What a server told.
struct News {
    events: Vec<(Timestamp, FeedEvent)>,
    progress: Vec<(i64, FeedEvent)>,
    /// Until when this is all.
    until: Timestamp,
}

impl Feed {
    pub(super) const fn new(server: Arc<Server>, journal: Journal) -> Self {
        Self {
            server,
            journal,
            failed_at: Mutex::new(None),
            progress: Mutex::new(Vec::new()),
        }
    }

    /// See [`Queue::read_feed`]. A server that is away has nothing new; what it has then comes once it is back.
    pub(super) async fn read(&self, after: Option<&FeedCursor>) -> Result<FeedPage, OrchestratorError> {
        let settled = on_grid(self.server.client().server_now() - SETTLED);
        let Some(after) = after else {
            let page = self.journal.local.read_feed(None).await?;
            return Ok(with_server_time(page, settled));
        };
        let (here, there) = parse(after)?;
        let page = self.journal.local.read_feed(Some(&here)).await?;
        let mut page = with_server_time(page, there);
        let failed_at = || self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        let progress = || self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let is_away = failed_at().is_some_and(|at| at.elapsed() < AWAY);
        if settled > there && !is_away {
            let asked = self.at_server(there, settled).await;
            self.server.note(&asked);
            *failed_at() = asked.is_err().then(Instant::now);
            if let Ok(news) = asked {
                // By themselves after those from here: their place is not reached before all of these were seen.
                page.events.extend(placed(&here_of(&page.next), there, news.events));
                page.next = place(&here_of(&page.next), news.until);
                page.has_more |= news.until < settled;
                *progress() = news.progress;
            }
        }
        if page.has_more {
            page.progress.clear();
        } else {
            page.progress.extend(progress().iter().cloned());
        }
        for (_, event) in &mut page.progress {
            event.cursor = page.next.clone();
        }
        Ok(page)
    }

    async fn at_server(&self, after: Timestamp, until: Timestamp) -> Result<News, OrchestratorError> {
        let (states, until) = states_at_server(&self.server, after, until).await?;
        let states = not_known_here(&self.journal, states).await?;
        let said = elsewhere::said(&self.server, &self.journal, after, until).await?;
        let states = states.into_iter().map(|state| (state.occurred, FeedEvent::from(state)));
        // Lines first at one moment, so that a final state comes after them.
        let mut events: Vec<_> = said.lines.into_iter().chain(states).collect();
        events.sort_by_key(|(at, _)| *at);
        Ok(News {
            events,
            progress: said.progress,
            until,
        })
    }
}

impl From<StateAtServer> for FeedEvent {
    fn from(state: StateAtServer) -> Self {
        Self {
            flow_run_id: state.flow_run_id,
            flow_name: state.flow_name,
            video_id: state.video_id,
            event: FlowRunEvent::State {
                state: state.state,
                attempt: state.attempt,
            },
            cursor: FeedCursor(String::new()),
        }
    }
}

/// With their places: that of an event is not reached before all of its moment were seen.
fn placed(here: &FeedCursor, after: Timestamp, events: Vec<(Timestamp, FeedEvent)>) -> Vec<FeedEvent> {
    let times: Vec<_> = events.iter().map(|(at, _)| *at).collect();
    let seen = seen_after_each(after, &times);
    let with_place = |((_, event), seen)| FeedEvent {
        cursor: place(here, seen),
        ..event
    };
    events.into_iter().zip(seen).map(with_place).collect()
}

/// The journal's place and the server's time in one.
fn place(here: &FeedCursor, there: Timestamp) -> FeedCursor {
    FeedCursor(format!("{}.{}", here.0, there.as_microsecond()))
}

fn here_of(cursor: &FeedCursor) -> FeedCursor {
    FeedCursor(cursor.0.rsplit_once('.').map_or("", |(here, _)| here).to_owned())
}

fn with_server_time(mut page: FeedPage, there: Timestamp) -> FeedPage {
    for event in page
        .events
        .iter_mut()
        .chain(page.progress.iter_mut().map(|(_, event)| event))
    {
        event.cursor = place(&event.cursor, there);
    }
    page.next = place(&page.next, there);
    page
}

fn parse(cursor: &FeedCursor) -> Result<(FeedCursor, Timestamp), OrchestratorError> {
    cursor
        .0
        .rsplit_once('.')
        .and_then(|(here, there)| {
            let there = Timestamp::from_microsecond(there.parse().ok()?).ok()?;
            Some((FeedCursor(here.to_owned()), there))
        })
        .ok_or_else(|| OrchestratorError::InvalidArgument {
            argument: "after".to_owned(),
            problem: "no cursor of an event: give one as it came, or none to begin now".to_owned(),
        })
}
