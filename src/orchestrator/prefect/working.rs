//! The workers' half: claims, what the server must hear of them, and what is done beside.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::task::AbortHandle;
use tracing::warn;

use super::arrivals::Arrivals;
use super::calling::Caller;
use super::courier::{Courier, Scope};
use super::fence::Fence;
use super::foreign::ForeignRuns;
use super::heartbeat::{self, Heart};
use super::hints::Hints;
use super::housekeeping::{self, Housekeeping};
use super::introductions::Introduction;
use super::journal::Journal;
use super::listener::{self, ExpectedEnds, Listener};
use super::lost::is_online;
use super::owed::Owed;
use super::poller::{Poller, PollerParts};
use super::proposals::Proposals;
use super::rescue::{self, Rescue};
use super::server::Server;
use super::stopping::Stopping;
use super::voices::Voices;
use crate::domain::error::OrchestratorError;
use crate::domain::id::FlowRunId;
use crate::domain::prefect_error::PrefectError;

/// How long the server's first answer is waited for before it is asked again.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The parts, and the tasks that belong to them.
pub(super) struct Working {
    server: Arc<Server>,
    pub(super) hints: Arc<Hints>,
    pub(super) poller: Poller,
    pub(super) courier: Arc<Courier>,
    heart: Arc<Heart>,
    rescue: Arc<Rescue>,
    pub(super) owed: Arc<Owed>,
    pub(super) foreign: Arc<ForeignRuns>,
    pub(super) housekeeping: Arc<Housekeeping>,
    pub(super) ends: Arc<ExpectedEnds>,
    /// Whether this process works on runs.
    is_at_work: AtomicBool,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Working {
    pub(super) fn new(server: &Arc<Server>, journal: &Journal, caller: &Arc<Caller>) -> Self {
        let hints = Arc::new(Hints::default());
        let proposals = Arc::new(Proposals::new(server.clone(), journal.clone(), hints.clone()));
        let foreign = Arc::new(ForeignRuns::new(
            server.clone(),
            journal.clone(),
            hints.clone(),
            proposals.clone(),
        ));
        let stopping = Stopping::new(journal.clone(), foreign.clone(), hints.clone());
        let fence = Arc::new(Fence::new(server.clone(), journal.clone(), hints.clone()));
        let voices = Arc::new(Voices::default());
        let courier = Arc::new(Courier::new(
            server.clone(),
            journal.clone(),
            stopping.clone(),
            fence.clone(),
            voices.clone(),
        ));
        let owed = Arc::new(Owed::new(server.clone(), journal.clone(), hints.clone()));
        let heart = Arc::new(Heart {
            server: server.clone(),
            journal: journal.clone(),
            voices,
        });
        Self {
            poller: Poller::new(PollerParts {
                server: server.clone(),
                journal: journal.clone(),
                hints: hints.clone(),
                proposals: proposals.clone(),
                foreign: foreign.clone(),
                stopping,
                courier: courier.clone(),
                fence,
                heart: heart.clone(),
            }),
            heart,
            rescue: Arc::new(Rescue::new(
                server.clone(),
                journal.clone(),
                hints.clone(),
                owed.clone(),
            )),
            owed,
            housekeeping: Arc::new(Housekeeping {
                server: server.clone(),
                journal: journal.clone(),
                caller: caller.clone(),
                courier: courier.clone(),
                proposals,
                arrivals: Arrivals::new(server.clone()),
            }),
            server: server.clone(),
            hints,
            courier,
            foreign,
            ends: Arc::default(),
            is_at_work: AtomicBool::new(false),
            tasks: Mutex::default(),
        }
    }

    /// From now on this process works on runs.
    pub(super) fn begin_work(&self) {
        self.is_at_work.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_at_work(&self) -> bool {
        self.is_at_work.load(Ordering::Relaxed)
    }

    /// Begins what is done beside the runs.
    pub(super) fn keep_house(&self, worker_name: &str, introduction: Option<Introduction>) {
        self.start(heartbeat::run(self.heart.clone(), worker_name.to_owned(), introduction));
        self.start(housekeeping::run(self.housekeeping.clone()));
    }

    /// Begins to look for runs whose machine is lost.
    pub(super) fn watch_over_others(&self) {
        self.start(rescue::run(self.rescue.clone()));
    }

    /// Begins to listen.
    pub(super) fn listen(&self) {
        self.start(listener::run(Listener {
            server: self.server.clone(),
            hints: self.hints.clone(),
            ends: self.ends.clone(),
        }));
    }

    pub(super) fn is_started(&self) -> bool {
        !self.tasks.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn start(&self, task: impl Future<Output = ()> + Send + 'static) {
        let task = tokio::spawn(task).abort_handle();
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }

    /// Tells what the server must hear of a run, as far as it can be told in that time.
    pub(super) async fn tell(&self, id: FlowRunId, scope: Scope, patience: Duration) {
        let told = self.courier.deliver(id, scope, patience).await;
        self.server.note(&told);
    }

    /// Waits for the server and its pool, for ever, and sets the pool's limit.
    pub(super) async fn wait_for_server(&self, limit: Option<u32>) -> Result<(), OrchestratorError> {
        let mut wait = FIRST_WAIT;
        loop {
            let ready = self.set_limit(limit).await;
            self.server.note(&ready);
            if ready.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// A server knows workers by their names alone: of two of one name the loss of one is not noticed.
    pub(super) async fn warn_of_namesake(&self, worker_name: &str) {
        let settings = self.server.settings();
        if settings.runner_mode {
            return;
        }
        let workers = self.server.client().read_workers(&settings.work_pool).await;
        self.server.note(&workers);
        if workers.is_ok_and(|workers| is_online(self.server.client(), &workers, worker_name)) {
            warn!(
                name = worker_name,
                "A worker of this name is online already: unless it was this one a moment ago, give each a name of its own with --name, or \
                 runs of a lost machine are found late."
            );
        }
    }

    async fn set_limit(&self, limit: Option<u32>) -> Result<(), PrefectError> {
        let (client, names) = (self.server.client(), self.server.names());
        if self.server.settings().runner_mode {
            for flow in self.server.flows().iter() {
                names.own_deployment(client, &flow.name).await?;
            }
            return Ok(());
        }
        let pool = self.server.refresh_pool().await?;
        if limit.is_some() && pool.concurrency_limit != limit {
            client
                .update_work_pool(&pool.name, &json!({ "concurrency_limit": limit }))
                .await?;
            self.server.refresh_pool().await?;
        }
        Ok(())
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        let tasks = self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner);
        for task in tasks.drain(..) {
            task.abort();
        }
    }
}
