//! What `captionacc doctor` says of the orchestrator: which, why, and whether it works.

use std::path::PathBuf;

use super::local::check::{check as check_local, check_configuration, check_notifications};
use super::prefect::check::check as check_prefect;
use super::prefect::journal_home;
use crate::domain::finding::Findings;
use crate::settings::{OrchestratorChoice, Settings};

/// Looks at the one that is chosen.
pub async fn check(settings: &Settings) -> Findings {
    const CHECK: &str = "orchestrator";
    let mut findings = Findings::default();
    let because = &settings.orchestrator_reason;
    match (settings.orchestrator, &settings.prefect) {
        (OrchestratorChoice::Embedded, _) => {
            let queue = settings.home.join("queue.db");
            findings.ok(CHECK, format!("embedded ({}); because: {because}", queue.display()));
            findings.extend(check_local(&settings.home).await);
        }
        (OrchestratorChoice::Prefect, Some(prefect)) => {
            let found = if prefect.reason == *because {
                String::new()
            } else {
                format!(", from {}", prefect.reason)
            };
            let mode = if prefect.runner_mode {
                "runner mode, without a work pool"
            } else {
                "with a work pool"
            };
            findings.ok(
                CHECK,
                format!("Prefect ({}{found}), {mode}; because: {because}", prefect.api_url),
            );
            findings.extend(check_prefect(&settings.home, prefect, &settings.flows, settings.background_limit).await);
        }
        (OrchestratorChoice::Prefect, None) => findings.error(
            CHECK,
            format!("Prefect, and no address of its API; because: {because}"),
            "captionacc setup, or set PREFECT_API_URL",
        ),
    }
    if let Some(file) = &settings.config_file {
        findings.extend(check_configuration(&queue_home(settings), file).await);
    }
    if let Some(notify) = &settings.notify {
        findings.extend(check_notifications(&queue_home(settings), &notify.url).await);
    }
    findings
}

/// The folder of the queue.db that is used, made or not.
pub fn queue_home(settings: &Settings) -> PathBuf {
    match (settings.orchestrator, &settings.prefect) {
        (OrchestratorChoice::Prefect, Some(prefect)) => journal_home(&settings.home, prefect),
        _ => settings.home.clone(),
    }
}
