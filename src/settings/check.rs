//! What `captionacc doctor` says of the settings, and the list of them.

use std::ffi::OsStr;

use serde::Serialize;

use super::Settings;
use super::prefect::without_secrets;
use super::sources::Sources;
use super::table::{OURS, PREFECTS};
use crate::domain::error::{OrchestratorError, did_you_mean};
use crate::domain::finding::Findings;
use crate::domain::flow::Runner;

/// One setting, as it is set.
#[derive(Debug, Serialize)]
pub struct Listed {
    /// Its environment variable.
    pub variable: &'static str,
    /// Its place in captionacc.toml.
    pub key: Option<String>,
    /// Its value, that of a secret excepted.
    pub value: Option<String>,
    /// What says so: `environment`, a file, `default`.
    pub from: Option<String>,
}

/// Every setting of this process.
///
/// # Errors
/// [`OrchestratorError::Config`], naming the setting at fault.
pub fn list() -> Result<Vec<Listed>, OrchestratorError> {
    let sources = Sources::of_process()?;
    let settings = OURS.iter().chain(&PREFECTS).map(|setting| {
        let (value, from) = match sources.find(setting)? {
            Some(given) => {
                let shown = without_secrets(OsStr::new(setting.variable), given.value());
                let shown = shown.map_or_else(|| "(not shown)".to_owned(), |text| text.to_string_lossy().into_owned());
                (Some(shown), Some(given.origin().to_owned()))
            }
            None => (
                setting.default.map(str::to_owned),
                setting.default.map(|_| "default".to_owned()),
            ),
        };
        Ok(Listed {
            variable: setting.variable,
            key: setting.key_text(),
            value,
            from,
        })
    });
    settings.collect()
}

/// What was read, and what looks like a setting and is none.
pub fn check(settings: &Settings) -> Findings {
    const CHECK: &str = "configuration";
    let mut findings = Findings::default();
    findings.ok(
        CHECK,
        match &settings.config_file {
            Some(path) => format!("settings from {} and the environment", path.display()),
            None => "no captionacc.toml: settings from the environment and defaults".to_owned(),
        },
    );
    if let Some(export) = &settings.traces.export {
        let url = without_secrets(OsStr::new("OTEL_EXPORTER_OTLP_ENDPOINT"), OsStr::new(&export.url));
        let url = url.map_or_else(
            || "an address that is not shown".to_owned(),
            |url| url.to_string_lossy().into_owned(),
        );
        findings.ok("traces", format!("exported to {url}"));
    }
    for warning in &settings.traces.warnings {
        findings.warning("traces", warning.clone(), "correct that variable, or remove it");
    }
    let names: Vec<&str> = OURS
        .iter()
        .filter_map(|setting| setting.variable.strip_prefix("CAPTIONACC_"))
        .collect();
    for (variable, _) in std::env::vars_os() {
        let Some(name) = variable.to_str().and_then(|name| name.strip_prefix("CAPTIONACC_")) else {
            continue;
        };
        // All begin alike: what comes after that tells them apart.
        let meant = did_you_mean(name, names.iter().copied()).replacen('"', "\"CAPTIONACC_", 1);
        if !names.contains(&name) && !meant.is_empty() {
            findings.warning(
                CHECK,
                format!("CAPTIONACC_{name} is no setting and does nothing{meant}"),
                "correct its name, or remove it",
            );
        }
    }
    findings
}

/// Whether the program of each declared flow would be found.
pub fn check_flows(settings: &Settings) -> Findings {
    let mut findings = Findings::default();
    let names: Vec<&str> = settings.flows.iter().map(|flow| flow.name.as_str()).collect();
    findings.ok("flows", names.join(", "));
    for flow in settings.flows.iter() {
        let Runner::Command(runner) = &flow.runner else {
            continue;
        };
        let Some(program) = runner.command.first().filter(|program| !program.contains('{')) else {
            continue;
        };
        let folder = runner.working_directory.clone().map_or_else(std::env::current_dir, Ok);
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
    findings
}
