//! The Node surface: decodes a call, passes it to the [`Queue`], encodes the answer. The only file that knows
//! napi. `index.js` is its only caller and what users see.
//!
//! Requests and answers are JSON texts, because then the one definition of every type is its serde one, and a call
//! costs the event loop the copy of a short text. A failure is an answer too (`{"error": …}`), from which `index.js`
//! makes an `OrchestratorError`: a napi error could carry neither `retryable` nor its causes.
//!
//! On the JavaScript thread a call only copies the environment and the working directory; files and queue.db are
//! touched in threads of their own. Nothing is open that keeps a process alive: a promise does while it is pending.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{self, Poll, Waker};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use napi::bindgen_prelude::{Env, PromiseRaw, block_on, create_custom_tokio_runtime};
use napi_derive::napi;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::{MutexGuard, Notify, OnceCell};

use crate::domain::error::OrchestratorError;
use crate::domain::flow::WorkQueue;
use crate::domain::id::FlowRunId;
use crate::domain::state::StateType;
use crate::orchestrator;
use crate::orchestrator::following::{Place, next_events as events_after};
use crate::orchestrator::queue::{FlowRunFilter, Intent, NewFlowRun, Queue};
use crate::orchestrator::watching::{WatchFilter, WatchPlace, Watching};
use crate::settings::prefect::{PrefectSettings, WhenUnreachable};
use crate::settings::traces::{self, TraceSettings};
use crate::settings::{OrchestratorChoice, Settings, default_home};
use crate::telemetry::{Tracer, create_flow_run};

/// Most runs in one list.
const MAX_LISTED: u32 = 1000;
/// Runs in a list unless told otherwise.
const DEFAULT_LISTED: u32 = 100;

/// Longest that the end of a process waits for a collector: long enough for one that is there, and hardly noticed.
const LAST_SPANS_TIMEOUT: Duration = Duration::from_millis(500);

/// One thread serves all calls: they wait for queue.db's thread anyway.
#[napi_derive::module_init]
fn start_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("captionacc")
        .enable_all()
        .build();
    // Without it napi starts one of its own with the first call, or says why it cannot.
    if let Ok(runtime) = runtime {
        create_custom_tokio_runtime(runtime);
    }
}

type Answer<T> = Result<T, OrchestratorError>;

/// Whether a caller still wants the answer of a call that it made; given to the call, kept by the caller.
#[napi(js_name = "Interest")]
#[derive(Default)]
pub struct Interest {
    shared: Arc<SharedInterest>,
}

#[derive(Default)]
struct SharedInterest {
    intent: Arc<Intent>,
    given_up: Notify,
}

#[napi]
impl Interest {
    /// Interest in one call.
    #[napi(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the call up: it answers at once that it was aborted. `false`: too late, it is being made durable.
    #[napi]
    pub fn give_up(&self) -> bool {
        let is_given_up = self.shared.intent.give_up();
        if is_given_up {
            self.shared.given_up.notify_one();
        }
        is_given_up
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct QueueRequest {
    flow_type: String,
    arguments: Map<String, Value>,
    idempotency_key: Option<String>,
    timeout_ms: u64,
    when_unreachable: Option<WhenUnreachable>,
    /// The span of the application that the call is part of.
    traceparent: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ListRequest {
    flow_name: Option<String>,
    video_id: Option<String>,
    state_types: Vec<StateType>,
    limit: Option<u32>,
    before: Option<String>,
}

/// Queues a flow run; answers when it is durable.
#[napi]
pub fn queue_flow_run<'env>(
    env: &'env Env,
    request: String,
    interest: &Interest,
) -> napi::Result<PromiseRaw<'env, String>> {
    let interest = interest.shared.clone();
    let turn = Turn::take();
    answer(env, async move |context| {
        let request: QueueRequest = decode("arguments", &request)?;
        let timeout_ms = request.timeout_ms;
        let mut creating = pin!(create(context, request, turn, interest.intent.clone()));
        tokio::select! {
            biased;
            created = &mut creating => return created,
            () = interest.given_up.notified() => return Err(OrchestratorError::Aborted),
            () = tokio::time::sleep(Duration::from_millis(timeout_ms)) => {
                if interest.intent.give_up() {
                    return Err(OrchestratorError::Timeout {
                        what: "queueing the flow run",
                        timeout_ms,
                        hint: "nothing was stored; try again, or give a longer timeoutMs",
                    });
                }
            }
        }
        creating.await
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct QueueAnswer {
    flow_run_id: FlowRunId,
    status: &'static str,
    priority: WorkQueue,
}

/// A place in the order of this process's queue calls, taken when the call is made. Calls that nobody waited for are
/// stored in that order, which decides whose crop-frames is the latest; the runtime promises no order of its tasks.
struct Turn(Pin<Box<dyn Future<Output = MutexGuard<'static, ()>> + Send>>);

impl Turn {
    /// Takes the place behind all that were taken before.
    fn take() -> Self {
        // Its waiters are served in the order in which they were first polled.
        static ORDER: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let mut place = Box::pin(ORDER.lock());
        match place.as_mut().poll(&mut task::Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => Self(Box::pin(std::future::ready(turn))),
            Poll::Pending => Self(place),
        }
    }
}

async fn create(context: Context, request: QueueRequest, turn: Turn, intent: Arc<Intent>) -> Answer<QueueAnswer> {
    let (called, called_at) = (Instant::now(), Timestamp::now());
    let settings = context.settings().await?;
    let flow = settings.flows.get(&request.flow_type)?.clone();
    let arguments = flow.parse_arguments(&request.arguments, context.working_directory()?)?;
    let orchestrator = open(&settings).await?;
    let _turn = turn.0.await;
    // What is left is enough to store the run here, or to say why not, within the caller's time.
    let patience = Duration::from_millis(request.timeout_ms) * 9 / 10;
    let new = NewFlowRun {
        flow,
        arguments,
        idempotency_key: request.idempotency_key,
        patience: Some(patience.saturating_sub(called.elapsed())),
        when_unreachable: request.when_unreachable,
        // What is none is nobody's fault here: the run is queued all the same.
        trace: request.traceparent.and_then(|text| text.parse().ok()),
    };
    let queued = create_flow_run(&tracer(&settings), orchestrator.as_ref(), new, intent, called_at).await?;
    Ok(QueueAnswer {
        flow_run_id: queued.flow_run_id,
        status: "queued",
        priority: queued.work_queue,
    })
}

/// The tracer of the last settings.
static LAST_TRACER: Mutex<Option<(TraceSettings, Tracer)>> = Mutex::new(None);

/// The tracer of these settings: one task for all calls, which sends as soon as there is something. It keeps no process alive.
fn tracer(settings: &Settings) -> Tracer {
    let Some(export) = &settings.traces.export else {
        return Tracer::off();
    };
    let mut last = LAST_TRACER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, tracer)) = last.as_ref().filter(|(known, _)| known == export) {
        return tracer.clone();
    }
    let tracer = Tracer::begin_prompt(Some(export));
    *last = Some((export.clone(), tracer.clone()));
    tracer
}

/// Whether a call of this process had spans to send.
#[napi]
pub fn exports_traces() -> bool {
    let last = LAST_TRACER.lock().unwrap_or_else(PoisonError::into_inner);
    last.is_some()
}

/// Waits until a collector has the spans of this process's calls, or has refused them; [`LAST_SPANS_TIMEOUT`] at most. It blocks its
/// thread: for the end of a process.
#[napi(catch_unwind)]
pub fn flush_traces() {
    let last = LAST_TRACER.lock().unwrap_or_else(PoisonError::into_inner);
    let tracer = last.as_ref().map(|(_, tracer)| tracer.clone());
    drop(last);
    if let Some(tracer) = tracer {
        block_on(tracer.flush(LAST_SPANS_TIMEOUT));
    }
}

/// The run with its states, task runs and artifacts.
#[napi]
pub fn get_flow_run(env: &Env, flow_run_id: String) -> napi::Result<PromiseRaw<'_, String>> {
    answer(env, async move |context| {
        let id: FlowRunId = flow_run_id.parse()?;
        context.orchestrator().await?.read_flow_run_details(id).await
    })
}

/// The runs that match, newest first.
#[napi]
pub fn list_flow_runs(env: &Env, filter: String) -> napi::Result<PromiseRaw<'_, String>> {
    answer(env, async move |context| {
        let request: ListRequest = decode("filter", &filter)?;
        let limit = request.limit.unwrap_or(DEFAULT_LISTED);
        if !(1..=MAX_LISTED).contains(&limit) {
            return Err(OrchestratorError::InvalidArgument {
                argument: "limit".to_owned(),
                problem: format!("{limit} is not a number of runs from 1 to {MAX_LISTED}"),
            });
        }
        let filter = FlowRunFilter {
            flow_name: request.flow_name,
            video_id: request.video_id,
            state_types: request.state_types,
            limit,
            before: request.before.map(|id| id.parse()).transpose()?,
        };
        context.orchestrator().await?.list_flow_runs(filter).await
    })
}

/// Cancels a run.
#[napi]
pub fn cancel_flow_run(env: &Env, flow_run_id: String) -> napi::Result<PromiseRaw<'_, String>> {
    answer(env, async move |context| {
        let id: FlowRunId = flow_run_id.parse()?;
        context.orchestrator().await?.cancel_flow_run(id).await
    })
}

/// Queues an ended run again.
#[napi]
pub fn retry_flow_run(env: &Env, flow_run_id: String) -> napi::Result<PromiseRaw<'_, String>> {
    answer(env, async move |context| {
        let id: FlowRunId = flow_run_id.parse()?;
        context.orchestrator().await?.retry_flow_run(id).await
    })
}

/// Every asset with its newest materialization.
#[napi]
pub fn get_lineage(env: &Env) -> napi::Result<PromiseRaw<'_, String>> {
    answer(env, async move |context| {
        context.orchestrator().await?.read_lineage().await
    })
}

/// What happened to a run after `place` (JSON; `{}`: from the start). Answers as soon as there is something.
#[napi]
pub fn next_events<'env>(
    env: &'env Env,
    flow_run_id: String,
    place: String,
    interest: &Interest,
) -> napi::Result<PromiseRaw<'env, String>> {
    let interest = interest.shared.clone();
    answer(env, async move |context| {
        let id: FlowRunId = flow_run_id.parse()?;
        let place: Place = decode("after", &place)?;
        let following = async { events_after(context.orchestrator().await?.as_ref(), id, place).await };
        tokio::select! {
            biased;
            () = interest.given_up.notified() => Err(OrchestratorError::Aborted),
            events = following => events,
        }
    })
}

/// What happened to all runs that pass the filter after `place` (JSON; `{}`: from now). Answers as soon as there is something.
#[napi]
pub fn next_events_of_all<'env>(
    env: &'env Env,
    filter: String,
    place: String,
    interest: &Interest,
) -> napi::Result<PromiseRaw<'env, String>> {
    let interest = interest.shared.clone();
    answer(env, async move |context| {
        let filter: WatchFilter = decode("filter", &filter)?;
        let place: WatchPlace = decode("after", &place)?;
        let watching = async { watching(&context.orchestrator().await?).next(&filter, place).await };
        tokio::select! {
            biased;
            () = interest.given_up.notified() => Err(OrchestratorError::Aborted),
            events = watching => events,
        }
    })
}

/// An orchestrator, and what its watchers share.
type Watched = (Arc<dyn Queue>, Arc<Watching>);

/// What all watchers of this orchestrator share; there are as few as [`open`] opens.
fn watching(orchestrator: &Arc<dyn Queue>) -> Arc<Watching> {
    static ALL: Mutex<Vec<Watched>> = Mutex::new(Vec::new());
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, watching)) = all.iter().find(|(of, _)| Arc::ptr_eq(of, orchestrator)) {
        return watching.clone();
    }
    let watching = Arc::new(Watching::new(orchestrator.clone()));
    all.push((orchestrator.clone(), watching.clone()));
    watching
}

/// Every error code there is, for the test that holds `index.d.ts` to them.
#[napi]
pub fn error_codes() -> Vec<&'static str> {
    OrchestratorError::CODES.to_vec()
}

/// The environment and working directory of a call.
struct Context {
    surroundings: Result<Surroundings, String>,
}

/// What settings are read from; equal ones have equal settings.
#[derive(Clone, PartialEq)]
struct Surroundings {
    variables: Vec<(OsString, OsString)>,
    working_directory: PathBuf,
}

impl Context {
    /// Copies what a call depends on. On the JavaScript thread: Node changes the environment in no other, and a
    /// caller's `process.chdir` after the call does not matter to it.
    fn capture() -> Self {
        let is_setting = |name: &str| {
            name.starts_with("CAPTIONACC_")
                || name.starts_with("PREFECT_")
                || name.starts_with(traces::PREFIX)
                || ["HOME", "SSL_CERT_FILE"].contains(&name)
        };
        let mut variables: Vec<_> = std::env::vars_os()
            .filter(|(name, value)| name.to_str().is_some_and(is_setting) && !value.is_empty())
            .collect();
        if !variables.iter().any(|(name, _)| name == "CAPTIONACC_HOME") {
            variables.extend(default_home().map(|home| ("CAPTIONACC_HOME".into(), home.into_os_string())));
        }
        let surroundings = std::env::current_dir().map(|working_directory| Surroundings {
            variables,
            working_directory,
        });
        Self {
            surroundings: surroundings.map_err(|error| error.to_string()),
        }
    }

    fn surroundings(&self) -> Answer<&Surroundings> {
        self.surroundings.as_ref().map_err(|error| OrchestratorError::Config {
            origin: "working directory".to_owned(),
            problem: format!("it cannot be read: {error}"),
        })
    }

    fn working_directory(&self) -> Answer<&Path> {
        Ok(&self.surroundings()?.working_directory)
    }

    /// The settings of these surroundings, read once.
    async fn settings(&self) -> Answer<Arc<Settings>> {
        static LAST: Mutex<Option<(Surroundings, Arc<Settings>)>> = Mutex::new(None);
        let surroundings = self.surroundings()?.clone();
        {
            let last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, settings)) = last.as_ref().filter(|(known, _)| *known == surroundings) {
                return Ok(settings.clone());
            }
        }
        // The file may lie on a disk that takes its time.
        let reading = tokio::task::spawn_blocking(move || {
            let variable = |name: &str| {
                let mut found = surroundings.variables.iter().filter(|(known, _)| known == name);
                found.next().map(|(_, value)| value.clone())
            };
            let settings = Arc::new(Settings::load(&variable, &surroundings.working_directory)?);
            *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some((surroundings, settings.clone()));
            Ok(settings)
        });
        reading
            .await
            .map_err(|error| OrchestratorError::Internal(format!("reading the settings: {error}")))?
    }

    async fn orchestrator(&self) -> Answer<Arc<dyn Queue>> {
        open(self.settings().await?.as_ref()).await
    }
}

/// An orchestrator that is open, with what tells it from another one.
struct OpenOrchestrator {
    home: PathBuf,
    prefect: Option<PrefectSettings>,
    handle: Arc<OnceCell<Arc<dyn Queue>>>,
}

/// The orchestrator of these settings: one handle a home for the whole process, all its worker threads included.
/// What could not be opened is tried again by the next call.
async fn open(settings: &Settings) -> Answer<Arc<dyn Queue>> {
    static OPEN: Mutex<Vec<OpenOrchestrator>> = Mutex::new(Vec::new());
    let prefect = match settings.orchestrator {
        OrchestratorChoice::Embedded => None,
        OrchestratorChoice::Prefect => settings.prefect.clone(),
    };
    let handle = {
        let mut known = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known
            .iter()
            .find(|open| open.home == settings.home && open.prefect == prefect);
        if let Some(open) = found {
            open.handle.clone()
        } else {
            let handle = Arc::default();
            known.push(OpenOrchestrator {
                home: settings.home.clone(),
                prefect,
                handle: Arc::clone(&handle),
            });
            handle
        }
    };
    handle
        .get_or_try_init(|| orchestrator::open::queue(settings))
        .await
        .cloned()
}

fn decode<T: for<'a> Deserialize<'a>>(argument: &str, json: &str) -> Answer<T> {
    serde_json::from_str(json).map_err(|error| OrchestratorError::InvalidArgument {
        argument: argument.to_owned(),
        problem: error.to_string(),
    })
}

#[derive(Serialize)]
struct Success<T> {
    value: T,
}

/// A promise of the JSON text of what `call` returns.
fn answer<T: Serialize, Call, Called>(env: &Env, call: Call) -> napi::Result<PromiseRaw<'_, String>>
where
    Call: FnOnce(Context) -> Called,
    Called: Future<Output = Answer<T>> + Send + 'static,
{
    let calling = call(Context::capture());
    env.spawn_future(async move {
        let answer = match calling.await {
            Ok(value) => serde_json::to_string(&Success { value }),
            Err(error) => {
                let mut causes = Vec::new();
                let mut cause = std::error::Error::source(&error);
                while let Some(error) = cause {
                    causes.push(error.to_string());
                    cause = error.source();
                }
                serde_json::to_string(&json!({"error": {
                    "code": error.code(),
                    "message": error.to_string(),
                    "retryable": error.retryable(),
                    "causes": causes,
                }}))
            }
        };
        answer.map_err(napi::Error::from)
    })
}
