//! Settings: read once, from the environment and `captionacc.toml`, and typed from then on.
//!
//! An explicit option goes before the environment, which goes before `captionacc.toml`. That file is the one that
//! `CAPTIONACC_CONFIG` names, else `captionacc.toml` in the working directory, else the one in `CAPTIONACC_HOME`.
//!
//! [`table`] has a row for each of them; [`sources`] finds what is set and holds it to its row, wherever it comes from.

#[cfg(feature = "worker")]
pub mod check;
pub mod prefect;
pub mod table;
pub mod traces;

mod flows;
mod sources;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::domain::error::OrchestratorError;
use crate::domain::flow::Flows;
use crate::settings::prefect::{PrefectSettings, Secret};
use sources::Sources;
use table::{
    BACKGROUND_LIMIT, CHILD_MEMORY_MB, GRACE_MS, KILL_GRACE_MS, LIMIT, NOTIFY_SECRET, NOTIFY_URL, OCR_MODELS,
    ORCHESTRATOR, RETENTION_DAYS, STALL_TIMEOUT_MS,
};
use traces::Traces;

/// Which orchestrator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrchestratorChoice {
    /// queue.db on this machine.
    Embedded,
    /// A Prefect 3 API.
    Prefect,
}

/// All settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Folder of queue.db; absolute.
    pub home: PathBuf,
    /// The orchestrator to use.
    pub orchestrator: OrchestratorChoice,
    /// Which setting chose it, for people.
    pub orchestrator_reason: String,
    /// Prefect's API, where one is configured, whether it is chosen or not.
    pub prefect: Option<PrefectSettings>,
    /// The configuration file that was read.
    pub config_file: Option<PathBuf>,
    /// The flows, built in and declared.
    pub flows: Flows,
    /// `CAPTIONACC_GRACE_MS`.
    pub grace_ms: u64,
    /// `CAPTIONACC_KILL_GRACE_MS`: how long a stopped child has to end itself before it is killed.
    pub kill_grace_ms: u64,
    /// `CAPTIONACC_LIMIT` or `[worker] limit`; none: what the pool has.
    pub limit: Option<u32>,
    /// `CAPTIONACC_BACKGROUND_LIMIT` or `[worker] background-limit`; none: what the pool has.
    pub background_limit: Option<u32>,
    /// `CAPTIONACC_RETENTION_DAYS` or `[worker] retention-days`.
    pub retention_days: u32,
    /// `CAPTIONACC_OCR_MODELS` or `[worker] ocr-models`.
    pub ocr_models: Option<PathBuf>,
    /// `CAPTIONACC_CHILD_MEMORY_MB` or `[worker] child-memory-mb`: most memory of a child with all that it started.
    pub child_memory_mb: u64,
    /// `CAPTIONACC_STALL_TIMEOUT_MS`: a child that says nothing for so long is stopped.
    pub stall_timeout_ms: u64,
    /// Who is told of every state of every run.
    pub notify: Option<NotifySettings>,
    /// Where traces go, by OpenTelemetry's own variables.
    pub traces: Traces,
}

/// Who is told of every state of every run, and how it knows who tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotifySettings {
    /// `CAPTIONACC_NOTIFY_URL` or `[worker] notify-url`: an address of http or https.
    pub url: String,
    /// `CAPTIONACC_NOTIFY_SECRET` or `[worker] notify-secret`.
    pub secret: Option<Secret>,
}

impl Settings {
    /// Settings of this process.
    ///
    /// # Errors
    /// [`OrchestratorError::Config`], naming the setting at fault.
    pub fn from_environment() -> Result<Self, OrchestratorError> {
        Self::from_sources(Sources::of_process()?, Traces::load(&|name| std::env::var_os(name)))
    }

    /// Settings of this environment. Pure but for the files that it reads.
    ///
    /// # Errors
    /// [`OrchestratorError::Config`], naming the setting at fault.
    pub fn load(
        environment: &dyn Fn(&str) -> Option<OsString>,
        working_directory: &Path,
    ) -> Result<Self, OrchestratorError> {
        Self::from_sources(
            Sources::read(environment, working_directory)?,
            Traces::load(environment),
        )
    }

    fn from_sources(sources: Sources, traces: Traces) -> Result<Self, OrchestratorError> {
        let prefect = PrefectSettings::load(&sources)?;
        let (orchestrator, orchestrator_reason) = choose(&sources, prefect.as_ref())?;
        Ok(Self {
            orchestrator,
            orchestrator_reason,
            prefect,
            flows: flows::load(&sources)?,
            grace_ms: sources.number_or_default(&GRACE_MS)?,
            kill_grace_ms: sources.number_or_default(&KILL_GRACE_MS)?,
            limit: sources.number(&LIMIT)?,
            background_limit: sources.number(&BACKGROUND_LIMIT)?,
            retention_days: sources.number_or_default(&RETENTION_DAYS)?,
            ocr_models: sources.path(&OCR_MODELS)?,
            child_memory_mb: sources.number_or_default(&CHILD_MEMORY_MB)?,
            stall_timeout_ms: sources.number_or_default(&STALL_TIMEOUT_MS)?,
            notify: match sources.find(&NOTIFY_URL)? {
                Some(url) => Some(NotifySettings {
                    url: url.text().to_owned(),
                    secret: sources.find(&NOTIFY_SECRET)?.map(|secret| Secret::new(secret.text())),
                }),
                None => None,
            },
            traces,
            home: sources.home,
            config_file: sources.config_file,
        })
    }
}

/// Where queue.db lies unless set: this platform's data directory of this user, if the user has one.
pub fn default_home() -> Option<PathBuf> {
    sources::default_home()
}

fn choose(
    sources: &Sources,
    prefect: Option<&PrefectSettings>,
) -> Result<(OrchestratorChoice, String), OrchestratorError> {
    Ok(match (sources.find(&ORCHESTRATOR)?, prefect) {
        (Some(given), _) => {
            let choice = match given.text() {
                "prefect" => OrchestratorChoice::Prefect,
                _ => OrchestratorChoice::Embedded,
            };
            (choice, given.reason_with_value(&ORCHESTRATOR))
        }
        (None, Some(prefect)) => (OrchestratorChoice::Prefect, prefect.reason.clone()),
        (None, None) => (
            OrchestratorChoice::Embedded,
            "the default: no setting asks for Prefect".to_owned(),
        ),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;
    use crate::domain::flow::Runner;
    use crate::settings::prefect::WhenUnreachable;

    fn load(variables: &[(&str, &str)], config: &str) -> Result<Settings, String> {
        let folder = tempfile::tempdir().expect("a folder");
        if !config.is_empty() {
            fs::write(folder.path().join("captionacc.toml"), config).expect("written");
        }
        let variables: BTreeMap<String, String> = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Settings::load(&|name| variables.get(name).map(OsString::from), folder.path())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_set_is_the_embedded_orchestrator() {
        let settings = load(&[], "").expect("valid");
        assert_eq!(settings.orchestrator, OrchestratorChoice::Embedded);
        assert_eq!(
            (settings.grace_ms, settings.retention_days, settings.limit),
            (30_000, 7, None)
        );
    }

    #[test]
    fn the_environment_goes_before_the_file_and_the_file_before_prefects_own_settings() {
        let url = ("PREFECT_API_URL", "http://localhost:4200/api");
        for (variables, config, expected) in [
            (vec![url], "", OrchestratorChoice::Prefect),
            (vec![url], "orchestrator = \"embedded\"", OrchestratorChoice::Embedded),
            (
                vec![("CAPTIONACC_ORCHESTRATOR", "prefect")],
                "orchestrator = \"embedded\"",
                OrchestratorChoice::Prefect,
            ),
        ] {
            assert_eq!(
                load(&variables, config).expect("valid").orchestrator,
                expected,
                "{variables:?} {config}"
            );
        }
    }

    #[test]
    fn the_active_prefect_profile_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(
            folder.path().join("profiles.toml"),
            "active = \"cloud\"\n[profiles.cloud]\nPREFECT_API_URL = \"https://example.com/api\"\n",
        )
        .expect("written");
        let settings = load(&[("PREFECT_HOME", folder.path().to_str().expect("UTF-8"))], "").expect("valid");
        assert_eq!(settings.orchestrator, OrchestratorChoice::Prefect);
        assert!(
            settings.orchestrator_reason.contains("\"cloud\""),
            "{}",
            settings.orchestrator_reason
        );
    }

    #[test]
    fn a_program_is_declared_as_a_flow() {
        let settings = load(
            &[],
            r#"
            [flows.train]
            command = ["python3", "train.py", "--version={version}"]
            work-queue = "background"
            retries = 0
            assets = ["models://boundary-detection-{version}"]
            [flows.train.parameters.version]
            type = "text"
            "#,
        )
        .expect("valid");
        let flow = settings.flows.get("train").expect("declared");
        assert_eq!(flow.retry.retries, 0);
        assert!(matches!(&flow.runner, Runner::Command(runner) if runner.command.len() == 3));
    }

    #[test]
    fn faults_of_the_configuration_are_named() {
        for (variables, config, expected) in [
            (
                vec![("CAPTIONACC_ORCHESTRATOR", "embeded")],
                "",
                "did you mean \"embedded\"",
            ),
            (vec![("CAPTIONACC_LIMIT", "0")], "", "CAPTIONACC_LIMIT"),
            (
                vec![("CAPTIONACC_GRACE_MS", "soon")],
                "",
                "\"soon\" is not a whole number",
            ),
            (vec![("CAPTIONACC_CONFIG", "nowhere.toml")], "", "there is no file"),
            (vec![], "limt = 3", "limt"),
            (vec![], "[worker]\nlimit = 0", "[worker] limit: \"0\" is not"),
            (vec![], "worker = 3", "give [worker]"),
            (vec![], "[worker]\nlimit = [2]", "array is no value"),
            (vec![], "[flows.train]\n", "has no command"),
            (
                vec![],
                "[flows.full-frames.parameters.frame-rate]\ntype = \"text\"",
                "its own type",
            ),
            (
                vec![],
                "[flows.full-frames.parameters.rate]\ntype = \"number\"",
                "takes none of this name",
            ),
            (
                vec![],
                "[flows.full-frames.parameters.frame-rate]\ntype = \"frame-rate\"\ndefault = 0",
                "not a frame rate",
            ),
            (vec![], "[flows.Train]\ncommand = [\"x\"]", "lowercase"),
            (vec![], "[flows.train]\ncommand = [\"x\", \"{nope}\"]", "nope"),
            (
                vec![],
                "[flows.train]\ncommand = [\"x\"]\nparameters.'a b' = { type = 'text' }",
                "a letter first",
            ),
            (
                vec![],
                "[flows.train]\ncommand = [\"x\"]\nparameters.help = { type = 'text' }",
                "is taken",
            ),
            (
                vec![],
                "[flows.train]\ncommand = [\"x\"]\nwork-queue = \"fast\"",
                "user-initiated or background",
            ),
            (
                vec![],
                "[flows.train]\ncommand = [\"x\"]\nstatus-table = \"processing_status\"",
                "db-path",
            ),
        ] {
            let error = load(&variables, config).expect_err("refused");
            assert!(error.contains(expected), "{config}: {error}");
        }
    }

    #[test]
    fn a_value_is_checked_alike_wherever_it_comes_from() {
        let mut accepted = Vec::new();
        for (variable, config) in [
            (("CAPTIONACC_ORCHESTRATOR", "cloud"), "orchestrator = 'cloud'"),
            (("CAPTIONACC_LIMIT", "65"), "[worker]\nlimit = 65"),
            (("CAPTIONACC_GRACE_MS", "86400001"), "[worker]\ngrace-ms = 86400001"),
            (
                ("CAPTIONACC_KILL_GRACE_MS", "86400001"),
                "[worker]\nkill-grace-ms = 86400001",
            ),
            (("CAPTIONACC_RETENTION_DAYS", "0"), "[worker]\nretention-days = 0"),
            (("CAPTIONACC_CHILD_MEMORY_MB", "1"), "[worker]\nchild-memory-mb = 1"),
            (("CAPTIONACC_STALL_TIMEOUT_MS", "99"), "[worker]\nstall-timeout-ms = 99"),
            (
                ("CAPTIONACC_RETRY_DELAY_MS", "86400001"),
                "[flows.full-frames]\nretry-delay-ms = 86400001",
            ),
            (
                ("CAPTIONACC_WHEN_UNREACHABLE", "wait"),
                "[prefect]\nwhen-unreachable = 'wait'",
            ),
            (
                ("CAPTIONACC_RUNNER_MODE", "perhaps"),
                "[prefect]\nrunner-mode = 'perhaps'",
            ),
            (("CAPTIONACC_WORK_POOL", "a/b"), "[prefect]\nwork-pool = 'a/b'"),
            (("CAPTIONACC_DEPLOYMENT", ".."), "[prefect]\ndeployment = '..'"),
        ] {
            for (variables, config) in [(vec![variable], ""), (vec![], config)] {
                match load(&variables, config) {
                    Ok(_) => accepted.push(format!("{variables:?} {config}")),
                    Err(error) => assert!(
                        error.contains(variables.first().map_or("captionacc.toml", |it| it.0)),
                        "{error}"
                    ),
                }
            }
        }
        assert_eq!(accepted, Vec::<String>::new());
    }

    #[test]
    fn a_value_that_another_place_overrules_is_checked_too() {
        let error = load(&[("CAPTIONACC_LIMIT", "2")], "[worker]\nlimit = 65").expect_err("refused");
        assert!(error.contains("[worker] limit"), "{error}");
    }

    #[test]
    fn a_value_that_is_no_text_is_refused_by_whatever_setting() {
        use std::os::unix::ffi::OsStringExt;
        let folder = tempfile::tempdir().expect("a folder");
        for variable in ["CAPTIONACC_LIMIT", "CAPTIONACC_WORK_POOL", "CAPTIONACC_ORCHESTRATOR"] {
            let lookup = |name: &str| (name == variable).then(|| OsString::from_vec(vec![0xff]));
            let error = Settings::load(&lookup, folder.path()).expect_err("refused").to_string();
            assert!(error.contains(variable) && error.contains("UTF-8"), "{error}");
        }
    }

    #[test]
    fn the_example_says_what_holds_without_it() {
        let example = include_str!("../../examples/captionacc.toml");
        let (with, without) = (load(&[], example).expect("valid"), load(&[], "").expect("valid"));
        assert!(with.flows.get("train-boundaries").is_ok());
        let same = Settings {
            flows: without.flows.clone(),
            config_file: None,
            home: without.home.clone(),
            ..with
        };
        assert_eq!(same, without);
    }

    #[test]
    fn names_at_prefect_may_stand_in_the_file() {
        let url = ("PREFECT_API_URL", "http://localhost:4200/api");
        let file =
            "[prefect]\nwork-pool = 'films'\ndeployment = 'staging'\nwhen-unreachable = 'store'\nrunner-mode = true";
        let settings = load(&[url, ("CAPTIONACC_DEPLOYMENT", "canary")], file).expect("valid");
        let prefect = settings.prefect.expect("configured");
        assert_eq!(
            (prefect.work_pool.as_str(), prefect.deployment_name.as_str()),
            ("films", "canary")
        );
        assert_eq!(
            (prefect.when_unreachable, prefect.runner_mode),
            (WhenUnreachable::Store, true)
        );
    }

    #[test]
    fn a_key_that_is_none_names_the_one_that_was_meant() {
        for (config, meant) in [
            ("orchestartor = 'embedded'", "orchestrator"),
            ("[workers]\nlimit = 2", "worker"),
            ("[worker]\ngrace = 2", "grace-ms"),
            ("[prefect]\nrunner_mode = true", "runner-mode"),
            ("[flows.full-frames]\nretrys = 2", "retries"),
        ] {
            let error = load(&[], config).expect_err("refused");
            assert!(error.contains(&format!("did you mean {meant:?}")), "{config}: {error}");
        }
    }
}
