//! What `captionacc doctor` says of the store on this machine. It makes nothing: a queue that is not there yet is not made.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use jiff::Timestamp;
use rustix::fs::{Access, access};

use super::LocalOrchestrator;
use crate::domain::error::OrchestratorError;
use crate::domain::finding::{Findings, bytes_text, counted};
use crate::orchestrator::queue::{Queue, WorkPool, WorkerRecord};
use crate::process::check::existing_ancestor;

/// Findings about the absence of a worker, here or at a server.
pub(in crate::orchestrator) const NO_WORKER: &str = "no worker is alive: flow runs are queued and wait";
/// What to do about it.
pub(in crate::orchestrator) const START_WORKER: &str =
    "captionacc worker (captionacc service prints a unit that keeps one running)";

/// Whether the queue can be written by this user, and read by nobody else.
pub fn check_home(home: &Path) -> Findings {
    const CHECK: &str = "home";
    let mut findings = Findings::default();
    let shown = home.display();
    let metadata = match fs::metadata(home) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let parent = existing_ancestor(home);
            if access(parent, Access::WRITE_OK | Access::EXEC_OK).is_ok() {
                findings.ok(CHECK, format!("{shown} will be made at the first use"));
            } else {
                findings.error(
                    CHECK,
                    format!("{shown} is not there, and cannot be made in {}", parent.display()),
                    "make it for this user, or set CAPTIONACC_HOME to a folder that this user can write",
                );
            }
            return findings;
        }
        Err(error) => {
            let fix = "give this user access to it, or set CAPTIONACC_HOME to another folder";
            findings.error(CHECK, format!("{shown}: {error}"), fix);
            return findings;
        }
    };
    if !metadata.is_dir() {
        let fix = "set CAPTIONACC_HOME to a folder";
        findings.error(CHECK, format!("{shown} is not a folder"), fix);
    } else if access(home, Access::WRITE_OK | Access::READ_OK | Access::EXEC_OK).is_err() {
        findings.error(
            CHECK,
            format!("{shown} cannot be written by this user"),
            format!(
                "chown it to this user, or set CAPTIONACC_HOME to another folder ({})",
                owner(&metadata)
            ),
        );
    } else if metadata.permissions().mode() & 0o077 != 0 {
        findings.warning(
            CHECK,
            format!(
                "{shown} has mode {:03o}: other users can look into it",
                metadata.permissions().mode() & 0o777
            ),
            format!("chmod 700 {shown}"),
        );
    } else {
        findings.ok(CHECK, format!("{shown}, for this user alone"));
    }
    findings
}

fn owner(metadata: &fs::Metadata) -> String {
    format!(
        "it belongs to user {}, this is user {}",
        metadata.uid(),
        rustix::process::geteuid().as_raw()
    )
}

/// The queue of the embedded orchestrator, and whether somebody works on it.
pub async fn check(home: &Path) -> Findings {
    let mut findings = Findings::default();
    let queue = home.join("queue.db");
    if !queue.exists() {
        findings.ok(
            "queue",
            format!("{} is not there yet: it is made at the first use", queue.display()),
        );
        return findings;
    }
    findings.extend(check_queue(home).await);
    match read_pool(home).await {
        Ok(pool) => {
            work_pool(&pool, &mut findings);
            findings.extend(check_workers("worker", &pool.workers));
        }
        Err(error) => findings.error(
            "work pool",
            line(&error),
            "do as the message says, or choose another orchestrator: captionacc setup",
        ),
    }
    findings
}

/// The pool of the queue in `home`.
pub(in crate::orchestrator) async fn read_pool(home: &Path) -> Result<WorkPool, OrchestratorError> {
    LocalOrchestrator::open(home).await?.read_work_pool().await
}

/// An error with its code.
pub(in crate::orchestrator) fn line(error: &OrchestratorError) -> String {
    format!("{} ({})", error.to_line(), error.code())
}

/// What a server must still hear of the runs in `home`, if it can be read.
pub(in crate::orchestrator) async fn untold(home: &Path) -> u64 {
    let inspected = async { LocalOrchestrator::open(home).await?.inspect().await }.await;
    inspected.map_or(0, |found| found.untold)
}

/// Whether the queue in `home` is sound, and what stands in it for another place.
pub(in crate::orchestrator) async fn check_queue(home: &Path) -> Findings {
    const CHECK: &str = "queue";
    let mut findings = Findings::default();
    let inspected = async { LocalOrchestrator::open(home).await?.inspect().await }.await;
    match inspected {
        Ok(found) if found.journal_mode != "wal" => findings.warning(
            CHECK,
            format!(
                "journal mode {} instead of wal: its folder may be on a network file system",
                found.journal_mode
            ),
            "set CAPTIONACC_HOME to a folder on a local disk",
        ),
        Ok(found) if found.stored_flow_runs > 0 => findings.warning(
            CHECK,
            format!(
                "{} here until Prefect's API answers",
                counted(found.stored_flow_runs, "flow run waits", "flow runs wait")
            ),
            "keep a worker of this home running: it queues them as soon as the API answers",
        ),
        Ok(found) => findings.ok(
            CHECK,
            format!(
                "sound: schema version {}, {}, {}",
                found.schema_version,
                counted(found.flow_runs, "flow run", "flow runs"),
                bytes_text(found.bytes)
            ),
        ),
        Err(error) => findings.error(
            CHECK,
            line(&error),
            "do as the message says; the flow runs in it can not be used until then",
        ),
    }
    findings
}

/// Whether the receiver of notifications hears them, from the queue in `home`.
pub(in crate::orchestrator) async fn check_notifications(home: &Path, receiver: &str) -> Findings {
    const CHECK: &str = "notify-url";
    let mut findings = Findings::default();
    if !home.join("queue.db").exists() {
        return findings;
    }
    let delivery = async { LocalOrchestrator::open(home).await?.delivery(receiver).await }.await;
    match delivery {
        Ok(None) => findings.ok(CHECK, "nobody was told anything yet: a worker begins with it"),
        Ok(Some(delivery)) => {
            let waiting = counted(
                u64::try_from(delivery.waiting).unwrap_or(0),
                "notification waits",
                "notifications wait",
            );
            let last = delivery.problem.map_or(String::new(), |(problem, at)| {
                format!("; the last failure, at {at}: {problem}")
            });
            if delivery.failures > 0 {
                findings.warning(
                    CHECK,
                    format!("{waiting}, {} tries in a row have failed{last}", delivery.failures),
                    "see that the receiver runs and answers with 200: it is told all that waits",
                );
            } else {
                findings.ok(CHECK, format!("{waiting}{last}"));
            }
        }
        Err(error) => findings.error(CHECK, line(&error), "do as the message says"),
    }
    findings
}

/// Workers of the queue in `home` that are older than the configuration in `file`: which flows they know, they read at their start,
/// and a run of a flow that none knows waits and says nothing.
pub(in crate::orchestrator) async fn check_configuration(home: &Path, file: &Path) -> Findings {
    let mut findings = Findings::default();
    let written = fs::metadata(file).and_then(|metadata| metadata.modified());
    let Some(written) = written.ok().and_then(|written| Timestamp::try_from(written).ok()) else {
        return findings;
    };
    if !home.join("queue.db").exists() {
        return findings;
    }
    // What keeps the queue from being read is a finding of its own.
    let Ok(pool) = async { LocalOrchestrator::open(home).await?.read_work_pool().await }.await else {
        return findings;
    };
    for worker in pool.workers {
        if worker.is_alive && worker.started_at < written {
            findings.warning(
                "worker",
                format!(
                    "{} is older than {} as it is now: it knows the flows and settings of its start",
                    worker.name,
                    file.display()
                ),
                "start that worker anew: its flow runs go on after it",
            );
        }
    }
    findings
}

fn work_pool(pool: &WorkPool, findings: &mut Findings) {
    let waiting: u32 = pool.waiting.iter().map(|(_, count)| count).sum();
    let summary = format!(
        "{}: {} of {} slots taken (at most {} by background runs), {waiting} waiting",
        pool.name, pool.active, pool.concurrency_limit, pool.background_limit
    );
    if pool.is_paused {
        findings.warning("work pool", format!("{summary}, paused"), "captionacc pool resume");
    } else {
        findings.ok("work pool", summary);
    }
}

/// Workers of this machine.
pub(in crate::orchestrator) fn check_workers(check: &'static str, known: &[WorkerRecord]) -> Findings {
    let mut findings = Findings::default();
    let alive: Vec<_> = known.iter().filter(|worker| worker.is_alive).collect();
    if alive.is_empty() {
        findings.warning(check, NO_WORKER, START_WORKER);
    }
    for worker in alive {
        let summary = format!(
            "{} is alive (pid {}, version {})",
            worker.name, worker.process.pid, worker.version
        );
        if worker.version == env!("CARGO_PKG_VERSION") {
            findings.ok(check, summary);
        } else {
            let fix = "start that worker anew: its flow runs go on after it";
            findings.warning(
                check,
                format!("{summary}, this program is {}", env!("CARGO_PKG_VERSION")),
                fix,
            );
        }
    }
    findings
}
