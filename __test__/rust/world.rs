//! A world for a test: a home of its own, a configuration, real workers, and the store to look into.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use captionacc::domain::flow::Flows;
use captionacc::domain::flow_run::FlowRun;
use captionacc::domain::id::FlowRunId;
use captionacc::domain::state::StateName;
use captionacc::orchestrator::claims::Claims;
use captionacc::orchestrator::local::LocalOrchestrator;
use captionacc::orchestrator::queue::{FlowRunFilter, NewFlowRun};
use captionacc::process::identity::ProcessIdentity;
use captionacc::process::tree;
use captionacc::settings::Settings;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::runtime::Runtime;

/// Nothing in a test takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_mins(2);

/// A worker that is to stop may finish what it runs.
const PATIENCE_WITH_A_WORKER: Duration = Duration::from_mins(5);

/// Runs what a test waits for, on the test's own thread.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// A home, a store, and whatever workers the test starts. Dropped, it leaves no process behind.
pub struct World {
    folder: tempfile::TempDir,
    variables: Vec<(String, String)>,
    runtime: Runtime,
    pub store: Arc<dyn Claims>,
    pub flows: Flows,
}

impl World {
    /// A world with this `captionacc.toml`.
    pub fn new(config: &str) -> Self {
        Self::with(config, &[])
    }

    /// A world with these variables for its workers as well.
    pub fn with(config: &str, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("captionacc.toml"), config).expect("written");
        let runtime = runtime();
        let home = folder.path().join("home");
        let store = runtime.block_on(LocalOrchestrator::open(&home)).expect("a store");
        let settings = Settings::load(&|_| None, folder.path()).expect("a valid configuration");
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Self {
            folder,
            variables,
            runtime,
            store: Arc::new(store),
            flows: settings.flows,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command of this program in this world.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.folder.path())
            .env("CAPTIONACC_HOME", self.path("home"))
            .env("CAPTIONACC_ORCHESTRATOR", "embedded")
            .env("RUST_LOG", "warn,captionacc=debug")
            // Tests run what they like side by side; that a slot is left for a person is a fact of its own.
            .env("CAPTIONACC_BACKGROUND_LIMIT", "64")
            .env_remove("npm_lifecycle_event")
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    pub fn start_worker(&self) -> Worker {
        self.start_worker_with(&[])
    }

    pub fn start_worker_with(&self, arguments: &[&str]) -> Worker {
        let mut command = self.command(env!("CARGO_BIN_EXE_captionacc"));
        command.arg("worker").args(arguments);
        Worker::spawn(command)
    }

    /// Queues a run.
    #[expect(clippy::needless_pass_by_value, reason = "written out with json! at every call")]
    pub fn queue(&self, flow: &str, arguments: Value) -> FlowRunId {
        let flow = self.flows.get(flow).expect("a flow").clone();
        let given = arguments.as_object().expect("an object");
        let arguments = flow
            .parse_arguments(given, self.folder.path())
            .expect("valid arguments");
        let new = NewFlowRun::new(flow, arguments);
        self.block_on(self.store.create_flow_run(new, Arc::default()))
            .expect("queued")
            .flow_run_id
    }

    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    pub fn run(&self, id: FlowRunId) -> FlowRun {
        self.block_on(self.store.read_flow_run(id)).expect("known")
    }

    pub fn runs(&self) -> Vec<FlowRun> {
        let filter = FlowRunFilter {
            limit: 100_000,
            ..FlowRunFilter::default()
        };
        self.block_on(self.store.list_flow_runs(filter)).expect("lists")
    }

    pub fn logs(&self, id: FlowRunId) -> Vec<String> {
        let mut lines = Vec::new();
        let mut cursor = 0;
        loop {
            let (page, next) = self.block_on(self.store.read_logs(id, cursor)).expect("reads");
            if page.is_empty() {
                return lines;
            }
            lines.extend(page.into_iter().map(|line| line.message));
            cursor = next;
        }
    }

    pub fn states(&self, id: FlowRunId) -> Vec<StateName> {
        let details = self.block_on(self.store.read_flow_run_details(id)).expect("known");
        details.states.iter().map(|state| state.name).collect()
    }

    /// Returns once `condition` holds; it is looked at whenever the store has changed, and now and then.
    pub fn wait_until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(
                Instant::now() < deadline,
                "waited in vain until {what}; runs: {:#?}",
                self.runs()
            );
            self.block_on(self.store.wait_for_work(Duration::from_millis(5)));
        }
    }

    pub fn wait_for(&self, id: FlowRunId, state: StateName) -> FlowRun {
        self.wait_until(&format!("run {id} is {}", state.as_str()), || {
            self.run(id).state.name == state
        });
        self.run(id)
    }

    /// Waits until the run has logged this line.
    pub fn wait_for_line(&self, id: FlowRunId, line: &str) {
        self.wait_until(&format!("{id} says {line:?}"), || {
            self.logs(id).iter().any(|logged| logged == line)
        });
    }

    /// Processes of any attempt of the run.
    pub fn processes_of(&self, id: FlowRunId) -> Vec<u32> {
        (1..200)
            .take(usize::try_from(self.run(id).attempt + 1).expect("small"))
            .fold(Vec::new(), |mut found, token| {
                found.extend(tree::marked(&format!("{id}:{token}")));
                found
            })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for run in self.runs() {
            for pid in self.processes_of(run.flow_run_id) {
                kill(pid, Signal::KILL);
            }
        }
    }
}

/// A real worker process.
pub struct Worker {
    child: Option<Child>,
    pub identity: ProcessIdentity,
    log: Option<std::thread::JoinHandle<()>>,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Worker {
    /// Starts one with this command of the program.
    pub fn spawn(mut command: Command) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the worker starts");
        let mut stderr = child.stderr.take().expect("piped");
        // The log is read as it comes: a full pipe would stop the worker.
        let said: Arc<Mutex<Vec<u8>>> = Arc::default();
        let heard = said.clone();
        let log = std::thread::spawn(move || {
            let mut some = [0; 8192];
            while let Ok(read @ 1..) = stderr.read(&mut some) {
                heard.lock().expect("whole").extend(&some[..read]);
            }
        });
        let identity = ProcessIdentity::of(child.id()).expect("it runs");
        Self {
            child: Some(child),
            identity,
            log: Some(log),
            said,
        }
    }

    /// Its log until now.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().expect("whole")).into_owned()
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.identity.pid, signal);
    }

    /// Waits for its end: exit status and log. One that does not end is killed, and its log is in the failure.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let mut child = self.child.take().expect("waited for once");
        let deadline = Instant::now() + PATIENCE_WITH_A_WORKER;
        let mut ended = child.try_wait().expect("it is ours");
        while ended.is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
            ended = child.try_wait().expect("it is ours");
        }
        let status = ended.unwrap_or_else(|| {
            let _ = child.kill();
            child.wait().expect("it is ours")
        });
        self.log.take().expect("read once").join().expect("the reader ends");
        let log = self.said();
        assert!(ended.is_some(), "the worker does not end: {log}");
        (status, log)
    }

    /// Kills it with -9 and waits for its end.
    pub fn kill(self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// Stops it gently and waits for its end.
    pub fn stop(self) -> String {
        self.signal(Signal::TERM);
        let (status, log) = self.wait();
        assert!(status.success(), "{status}: {log}");
        log
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn kill(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Whether the path exists, as a condition to wait for.
pub fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}
