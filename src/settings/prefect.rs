//! Where Prefect's API is and how to speak to it, found as Prefect itself finds it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use serde::Deserialize;

use super::sources::{Sources, fault};
use super::table::{
    API_AUTH_STRING, API_KEY, API_SSL_CERT_FILE, API_TLS_INSECURE_SKIP_VERIFY, API_URL, CLIENT_CUSTOM_HEADERS,
    CLOUD_API_URL, DEPLOYMENT, LOST_AFTER_MS, POOL, RUNNER_MODE, SSL_CERT_FILE, WHEN_UNREACHABLE,
};
use crate::domain::error::OrchestratorError;

/// Prefix by which Prefect's client knows its own cloud.
const PREFECT_CLOUD: &str = "https://api.prefect.cloud/api";
/// Headers that a custom header may not replace.
const RESERVED_HEADERS: [&str; 3] = ["user-agent", "prefect-csrf-token", "prefect-csrf-client"];

/// What [`LOST_AFTER_MS`] is unless set.
pub const LOST_AFTER: Duration = Duration::from_secs(90);

/// A text that is never shown: an API key, a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[redacted]")
    }
}

/// How a caller shows who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing asked for.
    None,
    /// `PREFECT_API_KEY`, sent as a bearer token: Cloud.
    ApiKey(Secret),
    /// `PREFECT_API_AUTH_STRING`, `user:password`, sent as basic authentication: self-hosted. Goes before a key.
    AuthString(Secret),
}

/// What a queue call does when the API cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenUnreachable {
    /// It fails, naming the address.
    #[default]
    Reject,
    /// The run is kept in queue.db, and the worker forwards it.
    Store,
}

/// Everything about the Prefect API.
#[derive(Debug, Clone, PartialEq)]
pub struct PrefectSettings {
    /// `http://127.0.0.1:4200/api`, without a slash at the end and without a password.
    pub api_url: String,
    /// Where it was found, for people.
    pub reason: String,
    /// Whether it is Prefect Cloud.
    pub is_cloud: bool,
    /// Key or auth string.
    pub credentials: Credentials,
    /// `PREFECT_CLIENT_CUSTOM_HEADERS`.
    pub custom_headers: Vec<(String, Secret)>,
    /// `PREFECT_API_SSL_CERT_FILE`: further certificates to trust, PEM.
    pub ssl_cert_file: Option<PathBuf>,
    /// `PREFECT_API_TLS_INSECURE_SKIP_VERIFY`.
    pub skips_tls_verification: bool,
    /// The work pool; `CAPTIONACC_WORK_POOL`.
    pub work_pool: String,
    /// The name of this project's deployments; `CAPTIONACC_DEPLOYMENT`.
    pub deployment_name: String,
    /// Whether the deployments have no pool (a plan that allows none): `CAPTIONACC_RUNNER_MODE`.
    pub runner_mode: bool,
    /// `CAPTIONACC_WHEN_UNREACHABLE`, unless a call says otherwise.
    pub when_unreachable: WhenUnreachable,
    /// How long a run may give no sign of life before it is lost: `CAPTIONACC_LOST_AFTER_MS`. None: nobody has set it here, and what
    /// the server has is left as it is.
    pub lost_after: Option<Duration>,
}

impl PrefectSettings {
    /// How long a run may give no sign of life, where no server says it.
    pub fn lost_after(&self) -> Duration {
        self.lost_after.unwrap_or(LOST_AFTER)
    }

    /// Settings for an API address, everything else at its default.
    ///
    /// # Errors
    /// [`OrchestratorError::Config`] if it is no http(s) address.
    pub fn new(api_url: &str, reason: &str) -> Result<Self, OrchestratorError> {
        let (api_url, embedded) = parse_url(api_url, reason)?;
        Ok(Self {
            is_cloud: api_url.starts_with(PREFECT_CLOUD),
            api_url,
            reason: reason.to_owned(),
            credentials: embedded.map_or(Credentials::None, Credentials::AuthString),
            custom_headers: Vec::new(),
            ssl_cert_file: None,
            skips_tls_verification: false,
            work_pool: POOL.default.unwrap_or_default().to_owned(),
            deployment_name: DEPLOYMENT.default.unwrap_or_default().to_owned(),
            runner_mode: false,
            when_unreachable: WhenUnreachable::Reject,
            lost_after: None,
        })
    }

    /// The command that sets up what these settings say, where nobody can be asked.
    pub fn setup_command(&self) -> String {
        let mut command = "captionacc setup --orchestrator ".to_owned();
        if self.is_cloud {
            command.push_str("cloud --api-key-file FILE");
            // The address of a workspace ends with its id.
            if let Some((_, workspace)) = self.api_url.split_once("/workspaces/") {
                command.push_str(" --workspace ");
                command.push_str(workspace);
            }
        } else {
            command.push_str("server --api-url ");
            command.push_str(&self.api_url);
            if self.credentials != Credentials::None {
                command.push_str(" --auth-string-file FILE");
            }
        }
        if self.runner_mode {
            command.push_str(" --runner-mode");
        }
        command
    }

    /// Settings as Prefect's own client would find them here; `None` if no API is configured.
    ///
    /// # Errors
    /// [`OrchestratorError::Config`], naming the setting that is wrong. Never the value of a secret.
    pub(super) fn load(sources: &Sources) -> Result<Option<Self>, OrchestratorError> {
        let Some(url) = sources.find(&API_URL)? else {
            return Ok(None);
        };
        let mut settings = Self::new(url.text(), &url.reason(&API_URL))?;
        if let Some(cloud) = sources.text(&CLOUD_API_URL)? {
            settings.is_cloud = settings.api_url.starts_with(cloud.trim_end_matches('/'));
        }
        if let Some(auth) = sources.text(&API_AUTH_STRING)? {
            settings.credentials = Credentials::AuthString(Secret::new(auth));
        } else if let Some(key) = sources.text(&API_KEY)? {
            settings.credentials = Credentials::ApiKey(Secret::new(key));
        }
        if let Some(headers) = sources.find(&CLIENT_CUSTOM_HEADERS)? {
            settings.custom_headers = parse_headers(headers.text(), &headers.reason(&CLIENT_CUSTOM_HEADERS))?;
        }
        settings.ssl_cert_file = match sources.path(&API_SSL_CERT_FILE)? {
            None => sources.path(&SSL_CERT_FILE)?,
            path => path,
        };
        settings.skips_tls_verification = sources.flag(&API_TLS_INSECURE_SKIP_VERIFY)?;
        settings.runner_mode = sources.flag(&RUNNER_MODE)?;
        settings.work_pool = sources.text(&POOL)?.unwrap_or_default();
        settings.deployment_name = sources.text(&DEPLOYMENT)?.unwrap_or_default();
        settings.when_unreachable = match sources.text(&WHEN_UNREACHABLE)?.as_deref() {
            Some("store") => WhenUnreachable::Store,
            _ => WhenUnreachable::Reject,
        };
        if sources.find(&LOST_AFTER_MS)?.is_some() {
            settings.lost_after = Some(Duration::from_millis(sources.number_or_default(&LOST_AFTER_MS)?));
        }
        Ok(Some(settings))
    }
}

/// The address as it is used and shown; a password in it becomes an auth string.
fn parse_url(text: &str, reason: &str) -> Result<(String, Option<Secret>), OrchestratorError> {
    let mut url = Url::parse(text.trim())
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| {
            fault(
                reason,
                "PREFECT_API_URL is no http or https address: give one as http://127.0.0.1:4200/api",
            )
        })?;
    let embedded = (!url.username().is_empty())
        .then(|| Secret::new(format!("{}:{}", url.username(), url.password().unwrap_or_default())));
    // Neither can fail for an address with a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    Ok((url.as_str().trim_end_matches('/').to_owned(), embedded))
}

fn parse_headers(text: &str, origin: &str) -> Result<Vec<(String, Secret)>, OrchestratorError> {
    let headers: BTreeMap<String, String> = serde_json::from_str(text).map_err(|_| {
        fault(
            origin,
            "PREFECT_CLIENT_CUSTOM_HEADERS is no JSON object of texts: give {\"X-Name\": \"value\"}",
        )
    })?;
    headers
        .into_iter()
        .filter(|(name, _)| !RESERVED_HEADERS.contains(&name.to_lowercase().as_str()))
        .map(|(name, value)| {
            let is_valid = reqwest::header::HeaderName::from_bytes(name.as_bytes()).is_ok()
                && reqwest::header::HeaderValue::from_str(&value).is_ok();
            if is_valid {
                Ok((name, Secret::new(value)))
            } else {
                Err(fault(
                    origin,
                    format!("PREFECT_CLIENT_CUSTOM_HEADERS: {name:?} is no header that can be sent"),
                ))
            }
        })
        .collect()
}

/// What a program of a command flow may see of an environment variable: of Prefect's and of
/// notifications, no key, no password and no header, and no address with one in it. `None`: nothing. Everything else is the operator's, and stays as it is.
pub fn without_secrets(name: &OsStr, value: &OsStr) -> Option<OsString> {
    /// Words of the names of settings whose value is a secret: `PREFECT_API_KEY`, `PREFECT_API_DATABASE_PASSWORD`, …
    const SECRET_WORDS: [&str; 6] = ["KEY", "AUTH", "HEADERS", "PASSWORD", "SECRET", "TOKEN"];
    let name = name.to_string_lossy().to_uppercase();
    let may_be_one = ["PREFECT_", "CAPTIONACC_NOTIFY_", "OTEL_"];
    if !may_be_one.iter().any(|prefix| name.starts_with(prefix)) {
        return Some(value.to_owned());
    }
    if name.split('_').any(|word| SECRET_WORDS.contains(&word)) {
        return None;
    }
    let text = value.to_str()?;
    let Some(mut url) = Url::parse(text.trim()).ok().filter(Url::has_host) else {
        // What looks like an address and can not be taken apart may hold a password.
        return (!text.contains('@')).then(|| value.to_owned());
    };
    let has_secret = !url.username().is_empty() || url.password().is_some() || url.query().is_some();
    // Neither can fail for an address with a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    Some(if has_secret {
        url.as_str().into()
    } else {
        value.to_owned()
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn load(environment: &[(&str, &str)], files: &[(&str, &str)]) -> Result<Option<PrefectSettings>, String> {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("in the folder")).expect("a folder");
            fs::write(path, text).expect("written");
        }
        let home = folder.path().join("home").into_os_string();
        let lookup = |name: &str| {
            environment
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| OsString::from(value))
                .or_else(|| (name == "HOME").then(|| home.clone()))
        };
        Sources::read(&lookup, folder.path())
            .and_then(|sources| PrefectSettings::load(&sources))
            .map_err(|error| error.to_line())
    }

    const PROFILES: &str = "active = 'a'\n[profiles.a]\nPREFECT_API_URL = 'http://a/api'\nPREFECT_API_KEY = 'pnu_a'\n\
                            [profiles.b]\nPREFECT_API_URL = 'http://b/api/'\n";

    #[test]
    fn sources_go_in_prefects_order() {
        let profiles = ("home/.prefect/profiles.toml", PROFILES);
        let pyproject = ("pyproject.toml", "[tool.prefect.api]\nurl = 'http://pyproject/api'\n");
        let prefect = ("prefect.toml", "[api]\nurl = 'http://toml/api'\n");
        let dotenv = (".env", "PREFECT_API_URL=\"http://dotenv/api\"\n");
        let url = |environment: &[(&str, &str)], files: &[(&str, &str)]| {
            load(environment, files)
                .expect("valid")
                .map(|settings| settings.api_url)
        };
        let environment = [("PREFECT_API_URL", "http://environment/api")];
        let all = [profiles, pyproject, prefect, dotenv];
        assert_eq!(url(&[], &[]), None);
        for (environment, files, expected) in [
            (&[][..], &all[..1], "http://a/api"),
            (&[("PREFECT_PROFILE", "b")][..], &all[..1], "http://b/api"),
            (&[][..], &all[..2], "http://pyproject/api"),
            (&[][..], &all[..3], "http://toml/api"),
            (&[][..], &all[..], "http://dotenv/api"),
            (&environment[..], &all[..], "http://environment/api"),
        ] {
            assert_eq!(url(environment, files).as_deref(), Some(expected));
        }
    }

    #[test]
    fn no_secret_is_ever_shown() {
        let settings = load(
            &[
                ("PREFECT_API_URL", "http://user:hidden1@host/api"),
                ("PREFECT_API_KEY", "hidden2"),
                (
                    "PREFECT_CLIENT_CUSTOM_HEADERS",
                    r#"{"X-A": "hidden3", "User-Agent": "hidden4"}"#,
                ),
            ],
            &[],
        )
        .expect("valid")
        .expect("configured");
        assert!(!format!("{settings:?}").contains("hidden"), "{settings:?}");
        assert_eq!(settings.credentials, Credentials::ApiKey(Secret::new("hidden2")));
        assert_eq!(settings.custom_headers.len(), 1);
        let error = load(&[("PREFECT_API_URL", "ftp://user:hidden@host")], &[]).expect_err("no http");
        assert!(!error.contains("hidden"), "{error}");
    }

    #[test]
    fn an_auth_string_goes_before_a_key() {
        let settings = load(
            &[
                ("PREFECT_API_URL", "http://h/api"),
                ("PREFECT_API_KEY", "key"),
                ("PREFECT_API_AUTH_STRING", "a:b"),
            ],
            &[],
        )
        .expect("valid")
        .expect("configured");
        assert_eq!(settings.credentials, Credentials::AuthString(Secret::new("a:b")));
    }

    #[test]
    fn of_what_is_set_for_prefect_a_program_sees_no_secret_in_any_form() {
        for (name, value, seen) in [
            ("PREFECT_API_KEY", "pnu_x", None),
            ("prefect_api_key", "pnu_x", None),
            ("PREFECT_API_AUTH_STRING", "a:b", None),
            (
                "PREFECT_API_URL",
                "http://a:b@host:4200/api",
                Some("http://host:4200/api"),
            ),
            ("PREFECT_API_URL", "http://b@host/api?token=c", Some("http://host/api")),
            ("PREFECT_API_URL", "http://host:4200/api", Some("http://host:4200/api")),
            ("PREFECT_API_URL", "no address a:b@host", None),
            ("PREFECT_HOME", "/home/x/.prefect", Some("/home/x/.prefect")),
            ("HTTPS_PROXY", "http://a:b@proxy", Some("http://a:b@proxy")),
        ] {
            let found = without_secrets(OsStr::new(name), OsStr::new(value));
            assert_eq!(found, seen.map(OsString::from), "{name}={value}");
        }
    }
}
