//! What happens, told to every page that is open: one reader of the store for all of them.
//!
//! One task looks at the store as long as any page listens: a counter that costs nothing, and what has changed when it moved.
//! Between two looks it tells how far runs have come, as far as this machine knows that by itself: a server is looked at seldom.
//! What it finds becomes messages with numbers. The newest are kept, so that a page which lost its connection goes on after
//! the last one that it saw (`Last-Event-ID`); one that missed more is told to read everything anew.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use tokio::sync::{Notify, broadcast};
use tokio::time::{Interval, MissedTickBehavior};
use uuid::Uuid;

use super::answer::problem_of;
use super::api::{Delivery, Live, Overview, Pool};
use crate::domain::error::OrchestratorError;
use crate::domain::flow_run::{FlowRun, Progress};
use crate::domain::id::FlowRunId;
use crate::domain::state::StateType;
use crate::orchestrator::queue::{FlowRunFilter, Queue};

/// Messages that are kept for pages that come back.
const KEPT: usize = 512;
/// Newest runs that are compared with what they were.
const NEWEST: u32 = 50;
/// Most runs that hold a slot: the largest limit of a pool.
const MOST_ACTIVE: u32 = 64;
/// What changes by the clock alone (a run becomes late, a worker dies) is looked at so often.
const SLOW_LOOK: Duration = Duration::from_secs(5);

/// How often it is told how far runs have come.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// A message as it goes out to every page.
#[derive(Debug, Clone)]
pub(super) struct Message {
    number: u64,
    /// The run whose pages alone want it.
    of_run: Option<FlowRunId>,
    /// As the stream has it.
    pub(super) bytes: Bytes,
}

/// The place where messages come from.
pub(super) struct Hub {
    queue: Arc<dyn Queue>,
    interval: Duration,
    /// The same while no run holds a slot: there is no progress to be shown.
    idle_interval: Duration,
    /// Tells the messages of this start from those of another.
    boot: String,
    shared: Mutex<Shared>,
    listeners: Notify,
}

struct Shared {
    sender: broadcast::Sender<Arc<Message>>,
    kept: VecDeque<Arc<Message>>,
    next: u64,
    overview: Option<Overview>,
    /// Runs whose log is followed: how many pages do, and how far it was told.
    followed: BTreeMap<FlowRunId, Followed>,
    /// What was said last of a store that does not answer.
    away: Option<Live>,
    /// Somebody has come who may have missed what the counter told before.
    has_newcomer: bool,
}

#[derive(Debug, Clone, Copy)]
struct Followed {
    pages: u32,
    cursor: i64,
}

/// What a page listens to.
pub(super) struct Listener {
    hub: Arc<Hub>,
    /// What it is told first.
    first: VecDeque<Bytes>,
    receiver: broadcast::Receiver<Arc<Message>>,
    run: Option<FlowRunId>,
}

impl Hub {
    /// A hub that looks at `queue` every `interval` while somebody listens, every `idle_interval` while nothing runs; [`Hub::run`]
    /// does it.
    pub(super) fn new(queue: Arc<dyn Queue>, interval: Duration, idle_interval: Duration) -> Arc<Self> {
        let (sender, _) = broadcast::channel(KEPT);
        Arc::new(Self {
            queue,
            interval,
            idle_interval,
            boot: Uuid::new_v4().simple().to_string(),
            shared: Mutex::new(Shared {
                sender,
                kept: VecDeque::new(),
                next: 1,
                overview: None,
                followed: BTreeMap::new(),
                away: None,
                has_newcomer: false,
            }),
            listeners: Notify::new(),
        })
    }

    /// Listens from after `last_seen`, the id of a message, and follows the log of `run` from a cursor on.
    pub(super) fn listen(self: &Arc<Self>, last_seen: Option<&str>, run: Option<(FlowRunId, i64)>) -> Listener {
        let mut shared = self.shared();
        if let Some((id, cursor)) = run {
            let followed = shared.followed.entry(id).or_insert(Followed { pages: 0, cursor });
            followed.pages += 1;
        }
        let run = run.map(|(id, _)| id);
        let mut first = VecDeque::new();
        if let Some(id) = last_seen {
            match self.missed(&shared, id) {
                Some(missed) => first.extend(
                    missed
                        .filter(|message| message.is_for(run))
                        .map(|message| message.bytes.clone()),
                ),
                None => first.push_back(encode(&self.boot, shared.next - 1, &Live::Reset)),
            }
        }
        if let Some(overview) = shared.overview.clone() {
            first.push_back(encode(&self.boot, shared.next - 1, &Live::Overview { overview }));
        }
        if let Some(away) = &shared.away {
            first.push_back(encode(&self.boot, shared.next - 1, away));
        }
        let receiver = shared.sender.subscribe();
        shared.has_newcomer = true;
        drop(shared);
        self.listeners.notify_one();
        Listener {
            hub: Arc::clone(self),
            first,
            receiver,
            run,
        }
    }

    /// Looks at the store while anybody listens, for ever.
    pub(super) async fn run(self: Arc<Self>) {
        let mut seen = Seen::default();
        let mut progress_ticks = tokio::time::interval(PROGRESS_INTERVAL);
        progress_ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if self.pages() == 0 {
                self.sleep();
                seen = Seen::default();
                self.listeners.notified().await;
                continue;
            }
            let look_and_wait = async {
                self.look(&mut seen).await;
                let is_idle = seen.active == Some(0);
                tokio::time::sleep(if is_idle { self.idle_interval } else { self.interval }).await;
            };
            // A server may take its time to answer: progress goes on meanwhile.
            tokio::select! {
                () = look_and_wait => {}
                never = self.tell_progress(&mut progress_ticks) => match never {},
            }
        }
    }

    /// Looks once, and tells what it has found.
    async fn look(&self, seen: &mut Seen) {
        if std::mem::take(&mut self.shared().has_newcomer) {
            seen.counter = None;
        }
        let followed = self.followed();
        match look(self.queue.as_ref(), seen, &followed).await {
            Ok(news) => self.tell(news),
            Err(error) => {
                seen.counter = None;
                let delivery = self.queue.read_delivery().await.ok().flatten();
                self.tell_away(&error, delivery.map(Delivery::from));
            }
        }
    }

    /// Tells how far runs have come of which this machine knows it, for ever.
    async fn tell_progress(&self, ticks: &mut Interval) -> Infallible {
        loop {
            ticks.tick().await;
            if !self.shared().has_active() {
                continue;
            }
            // What is wrong the next look says.
            let Ok(known) = self.queue.read_progress().await else {
                continue;
            };
            let mut shared = self.shared();
            let runs = shared.take_progress(&known);
            if !runs.is_empty() {
                self.push(&mut shared, &Live::Progress { runs });
            }
        }
    }

    /// Nobody looks any more: what was seen is old by the time somebody comes, and who comes back then has missed something.
    fn sleep(&self) {
        let mut shared = self.shared();
        shared.overview = None;
        shared.away = None;
        shared.kept.clear();
        shared.next += 1;
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many pages listen.
    pub(super) fn pages(&self) -> usize {
        self.shared().sender.receiver_count()
    }

    fn followed(&self) -> Vec<(FlowRunId, i64)> {
        let shared = self.shared();
        shared
            .followed
            .iter()
            .map(|(id, followed)| (*id, followed.cursor))
            .collect()
    }

    /// The messages after the one of this id; `None` if they are not known any more.
    fn missed<'a>(&self, shared: &'a Shared, id: &str) -> Option<impl Iterator<Item = &'a Arc<Message>>> {
        let (boot, number) = id.split_once('-')?;
        let number: u64 = number.parse().ok()?;
        let oldest = shared.kept.front().map_or(shared.next, |message| message.number);
        let is_known = boot == self.boot && number < shared.next && number + 1 >= oldest;
        is_known.then(|| shared.kept.iter().filter(move |message| message.number > number))
    }

    fn tell(&self, news: Vec<Live>) {
        let mut shared = self.shared();
        if shared.away.take().is_some() {
            self.push(&mut shared, &Live::Back);
        }
        for mut live in news {
            match &mut live {
                Live::Overview { overview } => {
                    if let Some(before) = &shared.overview {
                        overview.keep_progress_of(before);
                    }
                    if shared.overview.as_ref() == Some(overview) {
                        continue;
                    }
                    shared.overview = Some(overview.clone());
                }
                Live::Log { flow_run_id, to, .. } => {
                    if let Some(followed) = shared.followed.get_mut(flow_run_id) {
                        followed.cursor = *to;
                    }
                }
                _ => {}
            }
            self.push(&mut shared, &live);
        }
    }

    fn tell_away(&self, error: &OrchestratorError, delivery: Option<Delivery>) {
        let mut shared = self.shared();
        let problem = problem_of(error);
        let away = Live::Away { problem, delivery };
        if shared.away.as_ref() != Some(&away) {
            self.push(&mut shared, &away);
            shared.away = Some(away);
        }
    }

    fn push(&self, shared: &mut Shared, live: &Live) {
        let number = shared.next;
        shared.next += 1;
        let message = Arc::new(Message {
            number,
            of_run: match live {
                Live::Log { flow_run_id, .. } => Some(*flow_run_id),
                _ => None,
            },
            bytes: encode(&self.boot, number, live),
        });
        if shared.kept.len() == KEPT {
            shared.kept.pop_front();
        }
        shared.kept.push_back(Arc::clone(&message));
        // Nobody may listen any more.
        let _ = shared.sender.send(message);
    }
}

impl Shared {
    /// Whether any run holds a slot, as far as was seen.
    fn has_active(&self) -> bool {
        let overview = self.overview.as_ref();
        overview.is_some_and(|overview| !overview.active.is_empty())
    }

    /// Notes how far runs are; returns those that have come further.
    fn take_progress(&mut self, known: &[(FlowRunId, Progress)]) -> Vec<FlowRun> {
        let mut further = Vec::new();
        for run in self.overview.iter_mut().flat_map(|overview| &mut overview.active) {
            let of_run = known.iter().find(|(id, _)| *id == run.flow_run_id);
            if let Some((_, progress)) = of_run
                && is_newer(progress, run)
            {
                run.progress = Some(progress.clone());
                further.push(run.clone());
            }
        }
        further
    }
}

impl Overview {
    /// What was told of a run's progress since this was read is not taken back.
    fn keep_progress_of(&mut self, told: &Self) {
        for run in &mut self.active {
            let same = |known: &&FlowRun| known.flow_run_id == run.flow_run_id && known.attempt == run.attempt;
            if let Some(progress) = told.active.iter().find(same).and_then(|known| known.progress.as_ref())
                && is_newer(progress, run)
            {
                run.progress = Some(progress.clone());
            }
        }
    }
}

/// Whether it says more of a run at work than is known of it.
fn is_newer(progress: &Progress, run: &FlowRun) -> bool {
    let known = run.progress.as_ref();
    run.state.state_type == StateType::Running && known.is_none_or(|known| known.timestamp < progress.timestamp)
}

impl Message {
    fn is_for(&self, run: Option<FlowRunId>) -> bool {
        self.of_run.is_none() || self.of_run == run
    }
}

impl Listener {
    /// The next message for this page.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        if let Some(bytes) = self.first.pop_front() {
            return Some(bytes);
        }
        loop {
            match self.receiver.recv().await {
                Ok(message) if message.is_for(self.run) => return Some(message.bytes.clone()),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    let last = self.hub.shared().next - 1;
                    self.receiver = self.receiver.resubscribe();
                    return Some(encode(&self.hub.boot, last, &Live::Reset));
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Some(run) = self.run else { return };
        let mut shared = self.hub.shared();
        if let Some(followed) = shared.followed.get_mut(&run) {
            followed.pages -= 1;
            if followed.pages == 0 {
                shared.followed.remove(&run);
            }
        }
    }
}

/// A message as the stream has it (<https://html.spec.whatwg.org/multipage/server-sent-events.html>): JSON has no line ends.
fn encode(boot: &str, number: u64, live: &Live) -> Bytes {
    let data = serde_json::to_string(live).expect("it has text keys only");
    Bytes::from(format!("id: {boot}-{number}\ndata: {data}\n\n"))
}

/// What was seen of the store.
#[derive(Default)]
struct Seen {
    counter: Option<i64>,
    looked_at: Option<Instant>,
    /// Runs that hold a slot.
    active: Option<usize>,
    runs: BTreeMap<FlowRunId, FlowRun>,
}

/// What is new in the store, and how it stands. The one place that asks it for news, by what it offers to every reader.
async fn look(
    queue: &dyn Queue,
    seen: &mut Seen,
    followed: &[(FlowRunId, i64)],
) -> Result<Vec<Live>, OrchestratorError> {
    // Read before the rest: what changes meanwhile is read the next time.
    let counter = queue.change_counter().await?;
    let is_slow_look = seen.looked_at.is_none_or(|at| at.elapsed() >= SLOW_LOOK);
    if seen.counter == Some(counter) && !is_slow_look {
        return Ok(Vec::new());
    }
    let mut news = Vec::new();
    let listed = |state_types: &[StateType], limit| {
        queue.list_flow_runs(FlowRunFilter {
            state_types: state_types.to_vec(),
            limit,
            ..FlowRunFilter::default()
        })
    };
    let active = listed(
        &[StateType::Pending, StateType::Running, StateType::Cancelling],
        MOST_ACTIVE,
    )
    .await?;
    let newest = listed(&[], NEWEST).await?;
    let pool = Pool::read(queue).await?;
    seen.active = Some(active.len());
    let mut runs: BTreeMap<FlowRunId, FlowRun> = newest
        .into_iter()
        .chain(active.iter().cloned())
        .map(|run| (run.flow_run_id, run))
        .collect();
    // What held a slot and does no longer has ended, however old it is.
    for run in seen.runs.values() {
        if run.state.state_type.holds_slot() && !runs.contains_key(&run.flow_run_id) {
            match queue.read_flow_run(run.flow_run_id).await {
                Ok(run) => {
                    runs.insert(run.flow_run_id, run);
                }
                Err(OrchestratorError::FlowRunNotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }
    // A page that has just come reads the runs itself.
    if seen.looked_at.is_some() {
        let changed: Vec<FlowRun> = runs
            .values()
            // Those that hold a slot are in the overview.
            .filter(|run| !run.state.state_type.holds_slot() && seen.runs.get(&run.flow_run_id) != Some(run))
            .cloned()
            .collect();
        if !changed.is_empty() {
            news.push(Live::Runs { runs: changed });
        }
    }
    news.push(Live::Overview {
        overview: Overview { pool, active },
    });
    let mut has_more = false;
    for (id, cursor) in followed {
        let (lines, next) = match queue.read_logs(*id, *cursor).await {
            Err(OrchestratorError::FlowRunNotFound(_)) => continue,
            read => read?,
        };
        if !lines.is_empty() {
            // There may be more of them than one reading gives.
            has_more = true;
            news.push(Live::Log {
                flow_run_id: *id,
                from: *cursor,
                to: next,
                lines,
            });
        }
    }
    seen.counter = (!has_more).then_some(counter);
    seen.looked_at = Some(Instant::now());
    seen.runs = runs;
    Ok(news)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use async_trait::async_trait;
    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::asset::AssetLineage;
    use crate::domain::flow_run::{EventCursor, FlowRunDetails, LogLine};
    use crate::orchestrator::events::EventPage;
    use crate::orchestrator::feed::{FeedCursor, FeedPage};
    use crate::orchestrator::queue::{Intent, NewFlowRun, QueuedFlowRun, WorkPool};

    /// A store in which something has changed whenever it is looked at: the pool says how often it was read.
    #[derive(Default)]
    struct Restless {
        pools: AtomicU32,
        lists: AtomicU32,
        counters: AtomicU32,
    }

    #[async_trait]
    impl Queue for Restless {
        async fn create_flow_run(&self, _: NewFlowRun, _: Arc<Intent>) -> Result<QueuedFlowRun, OrchestratorError> {
            unreachable!()
        }
        async fn read_flow_run(&self, _: FlowRunId) -> Result<FlowRun, OrchestratorError> {
            unreachable!()
        }
        async fn read_flow_run_details(&self, _: FlowRunId) -> Result<FlowRunDetails, OrchestratorError> {
            unreachable!()
        }
        async fn list_flow_runs(&self, _: FlowRunFilter) -> Result<Vec<FlowRun>, OrchestratorError> {
            self.lists.fetch_add(1, Ordering::SeqCst);
            Ok(Vec::new())
        }
        async fn read_logs(&self, _: FlowRunId, _: i64) -> Result<(Vec<LogLine>, i64), OrchestratorError> {
            unreachable!()
        }
        async fn read_events(&self, _: FlowRunId, _: EventCursor) -> Result<EventPage, OrchestratorError> {
            unreachable!()
        }
        async fn read_feed(&self, _: Option<&FeedCursor>) -> Result<FeedPage, OrchestratorError> {
            unreachable!()
        }
        async fn cancel_flow_run(&self, _: FlowRunId) -> Result<FlowRun, OrchestratorError> {
            unreachable!()
        }
        async fn retry_flow_run(&self, _: FlowRunId) -> Result<FlowRun, OrchestratorError> {
            unreachable!()
        }
        async fn read_lineage(&self) -> Result<AssetLineage, OrchestratorError> {
            unreachable!()
        }
        async fn read_work_pool(&self) -> Result<WorkPool, OrchestratorError> {
            Ok(WorkPool {
                name: "pool".to_owned(),
                concurrency_limit: 2,
                background_limit: 1,
                is_paused: false,
                active: self.pools.fetch_add(1, Ordering::SeqCst) + 1,
                waiting: Vec::new(),
                workers: Vec::new(),
            })
        }
        async fn set_paused(&self, _: bool) -> Result<(), OrchestratorError> {
            unreachable!()
        }
        async fn set_concurrency_limit(&self, _: u32) -> Result<(), OrchestratorError> {
            unreachable!()
        }
        async fn change_counter(&self) -> Result<i64, OrchestratorError> {
            Ok(self.counters.fetch_add(1, Ordering::SeqCst).into())
        }
        fn description(&self) -> String {
            "restless".to_owned()
        }
    }

    /// Which reading of the pool a page hears of next.
    async fn next_reading(listener: &mut Listener) -> u64 {
        loop {
            let bytes = listener.next().await.expect("it goes on");
            let text = String::from_utf8(bytes.to_vec()).expect("text");
            let (_, data) = text.split_once("data: ").expect("an event");
            let event: Value = serde_json::from_str(data).expect("JSON");
            if let Some(reading) = event["overview"]["pool"]["active"].as_u64() {
                return reading;
            }
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn two_hundred_open_pages_are_one_reader_of_the_store() {
        let queue = Arc::new(Restless::default());
        let hub = Hub::new(queue.clone(), Duration::from_millis(1), Duration::from_millis(1));
        let mut pages: Vec<Listener> = (0..200).map(|_| hub.listen(None, None)).collect();
        let looking = tokio::spawn(Arc::clone(&hub).run());
        let mut heard = 0;
        for _ in 0..20 {
            for page in &mut pages {
                heard = heard.max(next_reading(page).await);
            }
        }
        looking.abort();
        // All that was read was told to all: one more reading may not have been told yet.
        let read = |count: &AtomicU32| u64::from(count.load(Ordering::SeqCst));
        let told = hub
            .shared()
            .overview
            .as_ref()
            .map_or(0, |overview| u64::from(overview.pool.active));
        assert!(heard >= 20 && told >= heard, "{heard} {told}");
        assert!(
            read(&queue.pools) <= told + 1,
            "{} readings, {told} told",
            read(&queue.pools)
        );
        assert!(read(&queue.lists) <= 2 * (told + 1));
        assert!(read(&queue.counters) <= told + 1);
    }

    fn run_at(step: u64) -> FlowRun {
        let mut run: FlowRun = serde_json::from_value(json!({
            "flowRunId": "01890000-0000-7000-8000-000000000001", "flowName": "f", "deployment": "f/d", "parameters": {},
            "videoId": null, "priority": "background", "tags": [],
            "state": { "type": "RUNNING", "name": "Running", "message": null, "timestamp": "2026-01-01T00:00:00Z" },
            "attempt": 1, "failedAttempts": 0, "progress": null, "supersededBy": null, "workerName": null, "pid": null,
            "createdAt": "2026-01-01T00:00:00Z", "scheduledAt": "2026-01-01T00:00:00Z", "startedAt": null, "endedAt": null,
        }))
        .expect("a run");
        run.progress = Some(progress(step));
        run
    }

    fn progress(step: u64) -> Progress {
        Progress {
            task: "task".to_owned(),
            done: step,
            total: None,
            unit: "steps".to_owned(),
            fraction: 0.5,
            timestamp: Timestamp::from_second(i64::try_from(step).expect("small")).expect("a time"),
        }
    }

    #[test]
    fn progress_that_was_told_is_not_taken_back() {
        let hub = Hub::new(
            Arc::new(Restless::default()),
            Duration::from_hours(1),
            Duration::from_hours(1),
        );
        let look_that_read = |step| {
            hub.tell(vec![Live::Overview {
                overview: Overview {
                    pool: Pool {
                        name: "pool".to_owned(),
                        concurrency_limit: 2,
                        background_limit: 1,
                        is_paused: false,
                        active: 1,
                        waiting: Vec::new(),
                        workers: Vec::new(),
                        delivery: None,
                    },
                    active: vec![run_at(step)],
                },
            }]);
            let shared = hub.shared();
            (shared.kept.len(), shared.overview.clone().expect("told").active)
        };
        let known_here = |step| {
            hub.shared()
                .take_progress(&[(run_at(step).flow_run_id, progress(step))])
        };
        assert_eq!(look_that_read(1), (1, vec![run_at(1)]));
        assert_eq!(known_here(3), [run_at(3)]);
        assert_eq!(known_here(3), [], "told");
        assert_eq!(look_that_read(2), (1, vec![run_at(3)]), "nothing new");
        assert_eq!(known_here(2), []);
        assert_eq!(look_that_read(4), (2, vec![run_at(4)]));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn nobody_looks_while_no_page_is_open() {
        let queue = Arc::new(Restless::default());
        let hub = Hub::new(queue.clone(), Duration::from_millis(1), Duration::from_millis(1));
        let looking = tokio::spawn(Arc::clone(&hub).run());
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(queue.counters.load(Ordering::SeqCst), 0);
        let mut page = hub.listen(None, None);
        next_reading(&mut page).await;
        looking.abort();
    }
}
