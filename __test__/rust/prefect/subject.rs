//! The Prefect orchestrator as a subject of the conformance suite: a real server, a pool and deployments of its own.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use captionacc::domain::flow::Flows;
use captionacc::orchestrator::claims::Claims;
use captionacc::orchestrator::prefect::PrefectOrchestrator;
use captionacc::settings::prefect::PrefectSettings;
use uuid::Uuid;

use super::server::Server;

/// An orchestrator over this server that nobody has used before, with its journal below `home`.
pub async fn open(server: &Server, home: &Path) -> Arc<dyn Claims> {
    open_at(server.api_url(), home).await
}

/// The same at this address.
pub async fn open_at(api_url: &str, home: &Path) -> Arc<dyn Claims> {
    let name = format!("conformance-{}", Uuid::new_v4().simple());
    for arguments in [
        &["setup", "--orchestrator", "server", "--api-url", api_url][..],
        &["deploy"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_captionacc"))
            .args(arguments)
            .env_clear()
            .env("HOME", home)
            .env("CAPTIONACC_HOME", home)
            .env("CAPTIONACC_WORK_POOL", &name)
            .env("CAPTIONACC_DEPLOYMENT", &name)
            .current_dir(home)
            .output()
            .expect("it starts");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
    Arc::new(of_pool(api_url, &name, home).await)
}

/// An orchestrator at this address whose pool and deployments have this name, with its journal below `home`.
pub async fn of_pool(api_url: &str, name: &str, home: &Path) -> PrefectOrchestrator {
    let mut settings = PrefectSettings::new(api_url, "the test").expect("an address");
    name.clone_into(&mut settings.work_pool);
    name.clone_into(&mut settings.deployment_name);
    PrefectOrchestrator::open(settings, home, Flows::builtin())
        .await
        .expect("it opens")
}
