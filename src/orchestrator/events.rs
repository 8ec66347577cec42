//! A run's events from what an orchestrator has read of it: merged, in order, each once. Pure.

use jiff::Timestamp;

use crate::domain::flow_run::{EventCursor, FlowRunEvent, LogLine, Progress, State};

/// What was read of a run after a cursor.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Pages {
    /// Log lines after [`EventCursor::log`], oldest first, each with the cursor after it.
    pub(super) lines: Vec<(i64, LogLine)>,
    /// The cursor after them.
    pub(super) log: i64,
    /// Whether the page of log lines was full, so that more of them may wait.
    pub(super) is_full: bool,
    /// The newest progress with its time in ms, which grows with each.
    pub(super) progress: Option<(i64, Progress)>,
    /// States with their numbers, from 1, and the attempts begun by then; oldest first.
    pub(super) states: Vec<(i64, u32, State)>,
    /// Whether the run had ended.
    pub(super) has_ended: bool,
}

/// Events of a run after a cursor.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EventPage {
    /// In their order.
    pub events: Vec<FlowRunEvent>,
    /// For each of them, a place from which all that come after it are read, and hardly anything before.
    pub cursors: Vec<EventCursor>,
    /// Where to go on.
    pub next: EventCursor,
    /// Whether more is to be read now.
    pub has_more: bool,
}

/// The events of these pages that are new to the cursor: by time; at one moment log lines, then progress, then states. A
/// final state is the last, whatever clocks say, and comes with the last page of the log.
pub(super) fn merge(cursor: EventCursor, pages: Pages) -> EventPage {
    let mut next = EventCursor {
        log: pages.log,
        has_ended: false,
        ..cursor
    };
    let mut events: Vec<(Timestamp, i64, FlowRunEvent)> = pages
        .lines
        .into_iter()
        .map(|(number, log)| (log.timestamp, number, FlowRunEvent::Log { log }))
        .collect();
    if !pages.is_full {
        next.has_ended = pages.has_ended;
        if let Some((at_ms, progress)) = pages.progress
            && !cursor.without_progress
            && at_ms > cursor.progress_ms
        {
            next.progress_ms = at_ms;
            events.push((progress.timestamp, at_ms, FlowRunEvent::Progress { progress }));
        }
        for (number, attempt, state) in pages.states {
            next.state_at = Some(state.timestamp);
            if number > cursor.state {
                next.state = number;
                events.push((state.timestamp, number, FlowRunEvent::State { state, attempt }));
            }
        }
        // Stable: what has one time stays in the order above.
        events.sort_by_key(|(timestamp, ..)| *timestamp);
        let last_state = events
            .iter()
            .rposition(|(.., event)| matches!(event, FlowRunEvent::State { .. }));
        if let Some(at) = last_state
            && matches!(&events[at].2, FlowRunEvent::State { state, .. } if state.state_type.is_final())
        {
            let last = events.remove(at);
            events.push(last);
        }
    }
    EventPage {
        cursors: cursors(cursor, next, &events),
        events: events.into_iter().map(|(.., event)| event).collect(),
        next,
        has_more: pages.is_full,
    }
}

/// The place after each of these events. Where clocks have put two of a kind the wrong way round, the one after it comes
/// again rather than never.
fn cursors(before: EventCursor, next: EventCursor, events: &[(Timestamp, i64, FlowRunEvent)]) -> Vec<EventCursor> {
    // States are looked at again from there, and more of the run than its end: so a place is the same whenever it is read.
    let mut place = EventCursor {
        state_at: None,
        has_ended: false,
        ..next
    };
    let mut cursors = Vec::with_capacity(events.len());
    for (_, number, event) in events.iter().rev() {
        cursors.push(place);
        match event {
            FlowRunEvent::Log { .. } => place.log = place.log.min(number - 1),
            FlowRunEvent::State { .. } => place.state = place.state.min(number - 1),
            FlowRunEvent::Progress { .. } => place.progress_ms = before.progress_ms,
        }
    }
    cursors.reverse();
    cursors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::flow_run::LogLevel;
    use crate::domain::state::StateName;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn line(second: i64) -> (i64, LogLine) {
        let line = LogLine {
            attempt: 1,
            level: LogLevel::Info,
            message: format!("line {second}"),
            timestamp: at(second),
        };
        (second, line)
    }

    fn progress(second: i64) -> (i64, Progress) {
        let progress = Progress {
            task: "task".to_owned(),
            done: 1,
            total: None,
            unit: "frames".to_owned(),
            fraction: 0.5,
            timestamp: at(second),
        };
        (second * 1000, progress)
    }

    fn state(number: i64, name: StateName, second: i64) -> (i64, u32, State) {
        let state = State {
            state_type: name.state_type(),
            name,
            message: None,
            timestamp: at(second),
        };
        (number, 1, state)
    }

    fn words(page: &EventPage) -> Vec<String> {
        page.events
            .iter()
            .map(|event| match event {
                FlowRunEvent::Log { log } => log.message.clone(),
                FlowRunEvent::Progress { .. } => "progress".to_owned(),
                FlowRunEvent::State { state, .. } => state.name.as_str().to_owned(),
            })
            .collect()
    }

    #[test]
    fn events_come_once_and_in_their_order() {
        use StateName::{Completed, Failed, Pending, Running, Scheduled};
        let cursor = EventCursor::default();
        for (what, cursor, pages, expected) in [
            ("nothing", cursor, Pages::default(), vec![]),
            (
                "at one moment: lines, progress, states",
                cursor,
                Pages {
                    lines: vec![line(5)],
                    progress: Some(progress(5)),
                    states: vec![state(1, Running, 5)],
                    ..Pages::default()
                },
                vec!["line 5", "progress", "Running"],
            ),
            (
                "by time",
                cursor,
                Pages {
                    lines: vec![line(2), line(7)],
                    progress: Some(progress(6)),
                    states: vec![state(1, Scheduled, 1), state(2, Pending, 3), state(3, Running, 6)],
                    ..Pages::default()
                },
                vec!["Scheduled", "line 2", "Pending", "progress", "Running", "line 7"],
            ),
            (
                "a full page of the log is all that there is",
                cursor,
                Pages {
                    lines: vec![line(2)],
                    is_full: true,
                    progress: Some(progress(1)),
                    states: vec![state(1, Completed, 1)],
                    has_ended: true,
                    ..Pages::default()
                },
                vec!["line 2"],
            ),
            (
                "the final state is the last, whatever clocks say",
                cursor,
                Pages {
                    lines: vec![line(5), line(9)],
                    states: vec![state(1, Running, 4), state(2, Failed, 6)],
                    has_ended: true,
                    ..Pages::default()
                },
                vec!["Running", "line 5", "line 9", "Failed"],
            ),
            (
                "one that was left again is not",
                cursor,
                Pages {
                    lines: vec![line(7)],
                    states: vec![state(1, Failed, 4), state(2, Scheduled, 6)],
                    ..Pages::default()
                },
                vec!["Failed", "Scheduled", "line 7"],
            ),
            (
                "what was seen is left out",
                EventCursor {
                    state: 1,
                    progress_ms: 6000,
                    ..cursor
                },
                Pages {
                    progress: Some(progress(6)),
                    states: vec![state(1, Scheduled, 1), state(2, Pending, 3)],
                    ..Pages::default()
                },
                vec!["Pending"],
            ),
            (
                "what is not asked for is left out",
                EventCursor {
                    without_progress: true,
                    ..cursor
                },
                Pages {
                    progress: Some(progress(6)),
                    states: vec![state(1, Scheduled, 1)],
                    ..Pages::default()
                },
                vec!["Scheduled"],
            ),
        ] {
            check(what, cursor, &pages, &expected);
        }
    }

    fn check(what: &str, cursor: EventCursor, pages: &Pages, expected: &[&str]) {
        let page = merge(cursor, pages.clone());
        assert_eq!(words(&page), expected, "{what}");
        assert_eq!(page.has_more, pages.is_full, "{what}");
        assert_eq!(page.next.has_ended, pages.has_ended && !pages.is_full, "{what}");
        // Read again from there, nothing comes again but log lines, which the log's own cursor has left behind.
        if !pages.is_full {
            let again = Pages {
                lines: Vec::new(),
                ..pages.clone()
            };
            assert_eq!(merge(page.next, again).events, [], "{what}");
        }
    }

    #[test]
    fn from_the_place_after_an_event_the_ones_after_it_are_read() {
        let pages = Pages {
            lines: vec![line(2), line(7), line(9)],
            log: 9,
            progress: Some(progress(6)),
            states: vec![state(1, StateName::Running, 3), state(2, StateName::Failed, 8)],
            has_ended: true,
            ..Pages::default()
        };
        let page = merge(EventCursor::default(), pages.clone());
        let all = words(&page);
        for (number, cursor) in page.cursors.iter().enumerate() {
            let mut rest = pages.clone();
            rest.lines.retain(|(of, _)| *of > cursor.log);
            assert_eq!(words(&merge(*cursor, rest)), all[number + 1..], "after {}", all[number]);
        }
        let last = page.cursors.last().expect("there are some");
        assert_eq!((last.state, last.log, last.progress_ms), (2, 9, 6000));
    }

    #[test]
    fn a_full_page_leaves_the_cursor_before_the_states() {
        let pages = Pages {
            lines: vec![line(2)],
            log: 7,
            is_full: true,
            progress: Some(progress(1)),
            states: vec![state(1, StateName::Completed, 1)],
            has_ended: true,
        };
        let expected = EventCursor {
            log: 7,
            ..EventCursor::default()
        };
        assert_eq!(merge(EventCursor::default(), pages).next, expected);
    }
}
