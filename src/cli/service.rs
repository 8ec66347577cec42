//! `captionacc service`: a systemd unit for the worker of this installation.
//!
//! The unit calls the binary itself: npm in between would swallow the signals. What it hardens is what leaves video
//! folders, wherever they lie, and the devices and interpreters of command flows alone.

use std::ffi::OsStr;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::failure::Failure;
use super::runtime::working_directory;
use super::{exit, output};
use crate::domain::error::OrchestratorError;
use crate::domain::flow::Runner;
use crate::settings::Settings;
use crate::settings::prefect::without_secrets;
use crate::settings::table::{
    API_URL, CONFIG, HOME, OCR_MODELS, OURS, PREFECT_HOME, PREFECT_PROFILE, PREFECT_PROFILES_PATH, Setting,
};

/// What `captionacc service --help` ends with.
pub(super) const EXAMPLES: &str = "\
The unit carries the settings of this shell (CAPTIONACC_…) and of captionacc.toml; never a key.

Examples:
  captionacc service | sudo tee /etc/systemd/system/captionacc.service
  sudo systemctl daemon-reload && sudo systemctl enable --now captionacc

  captionacc service --dashboard | sudo tee /etc/systemd/system/captionacc.service

  captionacc service --user > ~/.config/systemd/user/captionacc.service
  systemctl --user daemon-reload && systemctl --user enable --now captionacc
  loginctl enable-linger            # lets it run while nobody is logged in";

/// Options of `captionacc service`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// For the service manager of this user rather than the system's
    #[arg(long)]
    user: bool,
    /// Show the dashboard as well, there (default: 127.0.0.1:4210)
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "127.0.0.1:4210")]
    dashboard: Option<SocketAddr>,
    /// A file with the dashboard's token (default: a new token with each start, which the journal has)
    #[arg(long, value_name = "FILE", requires = "dashboard")]
    dashboard_token_file: Option<PathBuf>,
}

/// Without a sign of life for so long, systemd starts the worker anew. The worker may wait 30 s for a lock on
/// queue.db, and for one on an annotations.db after that.
const WATCHDOG_SECONDS: u64 = 180;
/// What the worker takes after its grace and that of its children, to write down how they ended.
const STOP_MARGIN_MS: u64 = 15_000;

/// Settings that the unit says otherwise: made absolute.
const ABSOLUTE: [&Setting; 3] = [&HOME, &CONFIG, &OCR_MODELS];
/// Prefect's settings that the unit carries: how to find its API, and never a key.
const OF_PREFECT: [&Setting; 4] = [&API_URL, &PREFECT_HOME, &PREFECT_PROFILE, &PREFECT_PROFILES_PATH];

/// Of the system's manager only: a user's manager has not the rights for them.
const SYSTEM_HARDENING: &str = "\
ProtectSystem=full
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
";

/// Prints the unit.
pub(super) fn perform(options: &Options) -> Result<ExitCode, Failure> {
    let settings = Settings::from_environment()?;
    output::print(&unit(options, &settings)?)?;
    Ok(exit::DONE)
}

fn unit(options: &Options, settings: &Settings) -> Result<String, Failure> {
    let executable = std::env::current_exe()
        .map_err(|error| OrchestratorError::Internal(format!("this program's own path cannot be found: {error}")))?;
    let folder = settings
        .config_file
        .as_ref()
        .and_then(|path| path.parent().map(ToOwned::to_owned))
        .map_or_else(working_directory, Ok)?;
    let mut environment = vec![(HOME.variable, settings.home.clone().into_os_string())];
    if let Some(path) = &settings.config_file {
        environment.push((CONFIG.variable, path.clone().into_os_string()));
    }
    if let Some(path) = &settings.ocr_models {
        environment.push((OCR_MODELS.variable, path.clone().into_os_string()));
    }
    let runs_programs = settings
        .flows
        .iter()
        .any(|flow| matches!(flow.runner, Runner::Command(_)));
    // The service manager's own PATH is short: a declared flow's program would not be found by it.
    let carried = OURS
        .into_iter()
        .filter(|setting| !ABSOLUTE.contains(setting))
        .chain(OF_PREFECT);
    let names = carried
        .map(|setting| setting.variable)
        .chain(runs_programs.then_some("PATH"));
    environment.extend(names.filter_map(|name| {
        let value = without_secrets(OsStr::new(name), &std::env::var_os(name)?)?;
        Some((name, value))
    }));

    let grace_ms = settings.grace_ms + settings.kill_grace_ms + STOP_MARGIN_MS;
    let mut unit = String::new();
    let mut line = |line: String| {
        writeln!(unit, "{line}").expect("writing to a String cannot fail");
    };
    line("# Printed by `captionacc service`.".to_owned());
    line("[Unit]\nDescription=CaptionA.cc worker\nAfter=network.target\nStartLimitIntervalSec=0\n".to_owned());
    line("[Service]\nType=notify\nNotifyAccess=main".to_owned());
    let mut command = format!("{} worker", quoted(executable.as_os_str(), true)?);
    if let Some(address) = options.dashboard {
        write!(command, " --dashboard {address}").expect("a String takes it");
        if let Some(file) = &options.dashboard_token_file {
            let file = working_directory()?.join(file);
            write!(command, " --dashboard-token-file {}", quoted(file.as_os_str(), true)?).expect("a String takes it");
        }
    }
    line(format!("ExecStart={command}"));
    line(format!("WorkingDirectory={}", unit_text(folder.as_os_str())?));
    for (name, value) in environment {
        let mut assignment = std::ffi::OsString::from(format!("{name}="));
        assignment.push(value);
        line(format!("Environment={}", quoted(&assignment, false)?));
    }
    if !options.user
        && let Some(user) = own_user_name()
    {
        line("# Who owns the queue and the videos.".to_owned());
        line(format!("User={user}"));
    }
    line("Restart=always\nRestartSec=2".to_owned());
    line(format!("WatchdogSec={WATCHDOG_SECONDS}"));
    line("# The worker gets SIGTERM and ends its children itself; what is left after the stop is killed.".to_owned());
    line(format!("KillMode=mixed\nTimeoutStopSec={}", grace_ms.div_ceil(1000)));
    line("# A child that runs out of memory costs its attempt, not the worker.\nOOMPolicy=continue".to_owned());
    line("NoNewPrivileges=yes\nLockPersonality=yes\nRestrictRealtime=yes\nRestrictSUIDSGID=yes".to_owned());
    if !options.user {
        line(SYSTEM_HARDENING.trim_end().to_owned());
    }
    let target = if options.user {
        "default.target"
    } else {
        "multi-user.target"
    };
    line(format!("\n[Install]\nWantedBy={target}"));
    Ok(unit)
}

/// The name of the user who asks, unless that is root: then the unit's default is right.
fn own_user_name() -> Option<String> {
    let name = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).ok()?;
    let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    (!rustix::process::getuid().is_root() && is_plain && !name.is_empty()).then_some(name)
}

/// `text` as one word, for systemd's unquoting (systemd.syntax(7), systemd.service(5)): `$` starts a variable in
/// commands only.
fn quoted(text: &OsStr, is_command: bool) -> Result<String, Failure> {
    let text = unit_text(text)?.replace('\\', "\\\\").replace('"', "\\\"");
    let text = if is_command { text.replace('$', "$$") } else { text };
    Ok(format!("\"{text}\""))
}

/// `text` as a whole value: `%` starts a specifier everywhere in a unit file, and nothing else is special in a path.
fn unit_text(text: &OsStr) -> Result<String, Failure> {
    let plain = text
        .to_str()
        .filter(|text| !text.chars().any(char::is_control))
        .ok_or_else(|| OrchestratorError::Config {
            origin: text.to_string_lossy().escape_debug().to_string(),
            problem: "a unit file cannot hold this text: use names in UTF-8 without control characters".to_owned(),
        })?;
    Ok(plain.replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_would_expand_is_escaped() {
        let text = OsStr::new(r#"/a b/100%/"x"/$HOME\"#);
        assert_eq!(quoted(text, true).expect("text"), r#""/a b/100%%/\"x\"/$$HOME\\""#);
        assert_eq!(unit_text(OsStr::new("/$HOME %h")).expect("text"), "/$HOME %%h");
        assert!(quoted(OsStr::new("a\nExecStartPre=x"), true).is_err());
    }
}
