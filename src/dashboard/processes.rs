//! What the processes of runs take of this machine.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::api::ProcessFigures;
use crate::domain::flow_run::FlowRun;
use crate::orchestrator::queue::WorkPool;
use crate::process::identity::ProcessIdentity;
use crate::process::tree::{cpu_time_of, memory_bytes_of};

/// What was computed within less is no measure: the system counts in hundredths of a second.
const SHORTEST_LOOK: Duration = Duration::from_secs(1);
/// So many processes are remembered.
const MOST_KNOWN: usize = 256;

/// The processes that were looked at.
#[derive(Default)]
pub(super) struct Processes(Mutex<HashMap<(u32, u64), Look>>);

#[derive(Clone, Copy)]
struct Look {
    at: Instant,
    cpu: Duration,
    busy_cores: f64,
}

impl Processes {
    /// The process of a run whose worker lives on this machine: elsewhere the same number is another process.
    pub(super) fn of(&self, pool: &WorkPool, run: &FlowRun) -> Option<ProcessFigures> {
        let (pid, worker_name) = (run.pid?, run.worker_name.as_deref()?);
        let worker = pool.workers.iter().find(|worker| worker.name == worker_name)?;
        if !worker.process.is_alive() {
            return None;
        }
        let process = ProcessIdentity::of(pid)?;
        // A worker's child is younger than the worker.
        if process.start_ticks < worker.process.start_ticks {
            return None;
        }
        let cpu = cpu_time_of(&process);
        // It was started when its attempt began to run.
        let age = Timestamp::now().duration_since(run.state.timestamp);
        Some(ProcessFigures {
            memory_bytes: memory_bytes_of(&process),
            cpu_seconds: cpu.as_secs_f64(),
            busy_cores: self.busy_cores(&process, cpu, age.as_secs_f64()),
        })
    }

    fn busy_cores(&self, process: &ProcessIdentity, cpu: Duration, age_seconds: f64) -> f64 {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (process.pid, process.start_ticks);
        let at = Instant::now();
        let busy_cores = match looks.get(&key) {
            Some(look) if at - look.at < SHORTEST_LOOK => return look.busy_cores,
            Some(look) => cpu.saturating_sub(look.cpu).as_secs_f64() / (at - look.at).as_secs_f64(),
            None => cpu.as_secs_f64() / age_seconds.max(SHORTEST_LOOK.as_secs_f64()),
        };
        if looks.len() >= MOST_KNOWN {
            looks.clear();
        }
        looks.insert(key, Look { at, cpu, busy_cores });
        busy_cores
    }
}
