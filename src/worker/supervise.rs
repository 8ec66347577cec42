//! One process tree: its start, its streams, its limits and its end. It knows neither what the lines mean nor why the tree is
//! to stop.
//!
//! Theory of operation: a supervisor calls [`Tree::next`] in its `select!` until [`Happening::Ended`]. The leader has a process
//! group of its own. [`Tree::stop`] sends TERM, the grace later KILL follows. The leader's death is heard before anybody has
//! waited for it, so that its group is killed while its number is still its own; then everything that carries the mark is
//! killed and its death waited for, and only then are the streams read to their ends. Nothing here waits for a disk, nor for
//! a child that does not read, and nothing looks at other processes on the thread of the caller.
//!
//! Dropped, it kills the leader and leaves the rest to whoever clears the mark.

use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use super::output::read_line;
use crate::process::identity::ProcessIdentity;
use crate::process::tree::{
    Handle, MARKER, clear, may_search, memory_bytes, memory_bytes_of, signal_group, signal_group_of_child,
};
use crate::protocol::MAX_LINE_BYTES;

/// How often the limits are looked at.
const LIMITS_INTERVAL: Duration = Duration::from_millis(500);
/// To look for the memory of a whole tree may take a twentieth of the time.
const MEASURING_SHARE: u32 = 20;
/// How long the streams of a dead tree are read on: what can not be found may hold them open.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_millis(500);
/// As many lines as two full pipes can hold.
const MAX_LATE_LINES: usize = 2 << 16;
/// How long a killed process may take to be gone. One that waits for a dead disk can take for ever.
const DEATH_TIMEOUT: Duration = Duration::from_secs(10);
/// As long as so much is left to be told, a child is not listened to.
const MAX_OUTGOING_BYTES: usize = 64 * 1024;

/// How a tree is to be started and kept.
pub struct Plan {
    /// The leader: its program, arguments, environment and folder.
    pub command: Command,
    /// What all its processes are marked with.
    pub marker: String,
    /// Whether the leader starts other programs: only then are there others to be looked for.
    pub starts_programs: bool,
    /// What it reads.
    pub input: Input,
    /// Longest line of its stdout, in bytes; what is longer is cut.
    pub longest_line: usize,
    /// Beyond them it is told of.
    pub limits: Limits,
    /// Who is asked to stop.
    pub asked: Asked,
    /// How long it may take from being asked until it is killed.
    pub grace: Duration,
}

/// What the leader reads.
pub enum Input {
    /// What [`Tree::say`] says.
    Said,
    /// An empty file, whose lock the tree holds by having it open.
    Lock(File),
}

/// Who is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The leader, which passes it on.
    Leader,
    /// Its whole group: the leader passes nothing on.
    Group,
}

/// What a tree may take; `None`: as much as it likes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// From its start to its end.
    pub time: Option<Duration>,
    /// Without a line.
    pub silence: Option<Duration>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
}

/// Which of them was exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// [`Limits::time`].
    Time,
    /// [`Limits::silence`].
    Silence,
    /// [`Limits::memory_bytes`].
    Memory,
}

/// What happens with a tree.
#[derive(Debug)]
pub enum Happening {
    /// A line of its stdout, without its end.
    Line(Vec<u8>),
    /// A line of its stderr, without its end.
    ErrorLine(Vec<u8>),
    /// Said again and again, until it is to stop.
    Exceeded(Limit),
    /// All is over.
    Ended(End),
}

/// How a tree ended.
#[derive(Debug)]
pub struct End {
    /// Of the leader; an error if it could not be waited for, or not be killed.
    pub status: io::Result<ExitStatus>,
    /// Processes that could not be killed: they wait for the system.
    pub left: usize,
}

/// A process tree.
pub struct Tree {
    child: Child,
    process: ProcessIdentity,
    /// None: it had ended before anybody looked.
    leader: Option<Handle>,
    marker: String,
    starts_programs: bool,
    input: Option<ChildStdin>,
    /// What it is yet to be told.
    outgoing: Vec<u8>,
    lines: Lines<ChildStdout>,
    error_lines: Lines<ChildStderr>,
    limits: Limits,
    look: Interval,
    started_at: Instant,
    heard_at: Instant,
    measuring: Option<JoinHandle<(u64, Duration)>>,
    measure_at: Instant,
    asked: Asked,
    grace: Duration,
    is_to_stop: bool,
    kill_at: Option<Instant>,
    phase: Phase,
}

enum Phase {
    Living,
    /// Killed, and not dead yet.
    Dying {
        until: Instant,
    },
    /// The leader is dead, what it has left is being killed.
    Clearing(JoinHandle<usize>),
    /// Nothing lives; what was written is read.
    Reading {
        until: Instant,
        /// Looks after that: what was in the pipes is read; what somebody goes on writing is not.
        late: usize,
        end: Option<End>,
    },
}

impl Tree {
    /// Starts it. On a thread of its own: the folder or the program may lie on a dead disk. Dropped before it returns, nothing
    /// stays.
    ///
    /// # Errors
    /// What the system says.
    pub async fn start(plan: Plan) -> io::Result<Self> {
        let Plan {
            mut command,
            marker,
            starts_programs,
            input,
            longest_line,
            limits,
            asked,
            grace,
        } = plan;
        command
            .env(MARKER, &marker)
            .stdin(match input {
                Input::Said => Stdio::piped(),
                Input::Lock(file) => Stdio::from(file),
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        // The command goes with the thread: as long as it is there, it has the lock open too.
        let mut child = spawn_blocking(move || command.spawn())
            .await
            .map_err(io::Error::other)??;
        let missing = || io::Error::other("its end came before it was looked at");
        let process = ProcessIdentity::of_child(child.id().ok_or_else(missing)?);
        let mut look = interval(LIMITS_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let now = Instant::now();
        Ok(Self {
            leader: Handle::open(&process),
            process,
            marker,
            starts_programs,
            input: child.stdin.take(),
            outgoing: Vec::new(),
            lines: Lines::new(child.stdout.take().ok_or_else(missing)?, longest_line),
            error_lines: Lines::new(child.stderr.take().ok_or_else(missing)?, MAX_LINE_BYTES),
            child,
            limits,
            look,
            started_at: now,
            heard_at: now,
            measuring: None,
            measure_at: now,
            asked,
            grace,
            is_to_stop: false,
            kill_at: None,
            phase: Phase::Living,
        })
    }

    /// Its leader.
    pub const fn process(&self) -> &ProcessIdentity {
        &self.process
    }

    /// Says something to the leader, as soon as it reads.
    pub fn say(&mut self, bytes: &[u8]) {
        self.outgoing.extend_from_slice(bytes);
    }

    /// Lets the leader read the end of what it is told.
    pub fn say_no_more(&mut self) {
        self.input = None;
        self.outgoing.clear();
    }

    /// Asks it to stop; the grace later it is killed. Once is enough.
    pub fn stop(&mut self) {
        if std::mem::replace(&mut self.is_to_stop, true) || !matches!(self.phase, Phase::Living) {
            return;
        }
        self.kill_at = Some(Instant::now() + self.grace);
        match self.asked {
            Asked::Group => signal_group(&self.process, Signal::TERM),
            Asked::Leader => self.signal_leader(Signal::TERM),
        }
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.is_to_stop = true;
        self.kill_at = Some(Instant::now());
    }

    /// Kills it and returns once it is gone, whatever it has to say.
    pub async fn end(&mut self) -> End {
        self.kill();
        loop {
            if let Happening::Ended(end) = self.next().await {
                return end;
            }
        }
    }

    /// What happens next; nothing more after [`Happening::Ended`]. Cancel safe.
    pub async fn next(&mut self) -> Happening {
        loop {
            let happening = match self.phase {
                Phase::Living | Phase::Dying { .. } => self.live().await,
                Phase::Clearing(_) => {
                    self.clear().await;
                    None
                }
                Phase::Reading { .. } => Some(self.read().await),
            };
            if let Some(happening) = happening {
                return happening;
            }
        }
    }

    async fn live(&mut self) -> Option<Happening> {
        let (kill_at, give_up_at) = match self.phase {
            Phase::Dying { until } => (None, Some(until)),
            _ => (self.kill_at, None),
        };
        tokio::select! {
            // A child that asks and does not read the answers is not heard until it has.
            line = self.lines.next(), if self.outgoing.len() < MAX_OUTGOING_BYTES => {
                self.heard_at = Instant::now();
                return line.map(Happening::Line);
            }
            line = self.error_lines.next() => {
                self.heard_at = Instant::now();
                return line.map(Happening::ErrorLine);
            }
            () = write_some(&mut self.input, &mut self.outgoing) => {}
            () = ended(self.leader.as_ref()) => self.leader_ended(),
            () = at(kill_at) => {
                signal_group(&self.process, Signal::KILL);
                self.signal_leader(Signal::KILL);
                self.phase = Phase::Dying { until: Instant::now() + DEATH_TIMEOUT };
            }
            () = at(give_up_at) => {
                let status = Err(io::Error::other("it can not be killed: it waits for the system"));
                self.read_on(End { status, left: 1 });
            }
            measured = done(&mut self.measuring) => return self.measured(measured),
            _ = self.look.tick(), if !self.is_to_stop => return self.look().map(Happening::Exceeded),
        }
        None
    }

    fn signal_leader(&self, signal: Signal) {
        if let Some(leader) = &self.leader {
            leader.signal(signal);
        }
    }

    /// Which limit it exceeds; its memory is looked at beside it.
    fn look(&mut self) -> Option<Limit> {
        let now = Instant::now();
        let exceeds = |since: Instant, limit: Option<Duration>| limit.is_some_and(|limit| now - since > limit);
        if exceeds(self.started_at, self.limits.time) {
            return Some(Limit::Time);
        }
        if exceeds(self.heard_at, self.limits.silence) {
            return Some(Limit::Silence);
        }
        let limit = self.limits.memory_bytes?;
        if self.starts_programs {
            if self.measuring.is_none()
                && now >= self.measure_at
                && let Some(permit) = may_search()
            {
                let (marker, process) = (self.marker.clone(), self.process.clone());
                self.measuring = Some(spawn_blocking(move || {
                    let started = Instant::now();
                    let bytes = memory_bytes(&marker, &process);
                    drop(permit);
                    (bytes, started.elapsed())
                }));
            }
            None
        } else {
            (memory_bytes_of(&self.process) > limit).then_some(Limit::Memory)
        }
    }

    fn measured(&mut self, measured: Option<(u64, Duration)>) -> Option<Happening> {
        let (bytes, took) = measured?;
        self.measure_at = Instant::now() + took * MEASURING_SHARE;
        let exceeds = self.limits.memory_bytes.is_some_and(|limit| bytes > limit);
        (exceeds && !self.is_to_stop).then_some(Happening::Exceeded(Limit::Memory))
    }

    fn leader_ended(&mut self) {
        // What has cleared its mark in the group of the leader.
        signal_group_of_child(&self.process, Signal::KILL);
        let marker = self.starts_programs.then(|| self.marker.clone());
        self.phase = Phase::Clearing(tokio::spawn(async move {
            match marker {
                Some(marker) => clear(&marker, None, DEATH_TIMEOUT).await,
                None => 0,
            }
        }));
    }

    async fn clear(&mut self) {
        let Phase::Clearing(clearing) = &mut self.phase else {
            return;
        };
        let left = clearing.await.unwrap_or(1);
        // It is dead: this is the moment from which its number may be another's.
        let status = self.child.wait().await;
        self.read_on(End { status, left });
    }

    fn read_on(&mut self, end: End) {
        self.input = None;
        self.phase = Phase::Reading {
            until: Instant::now() + LAST_WORDS_TIMEOUT,
            late: 0,
            end: Some(end),
        };
    }

    async fn read(&mut self) -> Happening {
        let Phase::Reading { until, late, end } = &mut self.phase else {
            return std::future::pending().await;
        };
        while *late < MAX_LATE_LINES && (self.lines.is_open || self.error_lines.is_open) {
            *late += usize::from(Instant::now() > *until);
            tokio::select! {
                // What is there is read, however late anybody comes for it.
                biased;
                line = self.lines.next() => if let Some(line) = line {
                    return Happening::Line(line);
                },
                line = self.error_lines.next() => if let Some(line) = line {
                    return Happening::ErrorLine(line);
                },
                () = sleep_until(*until) => break,
            }
        }
        match end.take() {
            Some(end) => Happening::Ended(end),
            None => std::future::pending().await,
        }
    }
}

/// The lines of a stream.
struct Lines<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
    longest: usize,
    is_open: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    fn new(stream: R, longest: usize) -> Self {
        Self {
            reader: BufReader::new(stream),
            line: Vec::new(),
            longest,
            is_open: true,
        }
    }

    /// The next one; `None` at the end of the stream, once. Cancel safe.
    async fn next(&mut self) -> Option<Vec<u8>> {
        if !self.is_open {
            return std::future::pending().await;
        }
        let more = read_line(&mut self.reader, &mut self.line, self.longest).await;
        self.is_open = more.unwrap_or(false);
        let line = std::mem::take(&mut self.line);
        (self.is_open || !line.is_empty()).then_some(line)
    }
}

/// Writes what the child's pipe takes of `outgoing`; waits for ever where there is nothing to write. Cancel safe.
async fn write_some(input: &mut Option<ChildStdin>, outgoing: &mut Vec<u8>) {
    let Some(pipe) = input.as_mut().filter(|_| !outgoing.is_empty()) else {
        return std::future::pending().await;
    };
    if let Ok(written) = pipe.write(outgoing).await {
        outgoing.drain(..written);
    } else {
        // It has died, which is noticed elsewhere, or wants to hear nothing more.
        *input = None;
        outgoing.clear();
    }
}

async fn ended(leader: Option<&Handle>) {
    if let Some(leader) = leader {
        leader.ended().await;
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// What a task beside has found out, once; `None` if it failed. Cancel safe.
async fn done<T>(task: &mut Option<JoinHandle<T>>) -> Option<T> {
    let Some(running) = task else {
        return std::future::pending().await;
    };
    let found = running.await.ok();
    *task = None;
    found
}

/// How a leader died that did not say why, for people.
pub fn death(status: &io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => match (status.signal(), status.code()) {
            (Some(9), _) => "its process was killed (SIGKILL): by hand, or because memory ran out".to_owned(),
            (Some(signal), _) => format!("its process died of signal {signal}"),
            (None, Some(code)) => format!("its process ended with code {code} without saying why"),
            (None, None) => "its process ended without saying why".to_owned(),
        },
        Err(error) => format!("its process could not be waited for: {error}"),
    }
}
