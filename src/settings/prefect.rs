//! Where Prefect's API is and how to speak to it, found as Prefect itself finds it.
//!
//! Sources, first one first (<https://docs.prefect.io/v3/concepts/settings-and-profiles>): the environment, `.env`,
//! `prefect.toml` and `pyproject.toml` in the working directory, the active profile. A file that cannot be read or
//! parsed says nothing: it is another program's.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use reqwest::Url;
use serde::Deserialize;

use crate::domain::error::OrchestratorError;
use crate::domain::flow::WORK_POOL;

/// Prefix by which Prefect's client knows its own cloud.
const CLOUD_API_URL: &str = "https://api.prefect.cloud/api";
/// The name of every deployment unless set.
pub const DEFAULT_DEPLOYMENT_NAME: &str = "production";
/// Headers that a custom header may not replace.
const RESERVED_HEADERS: [&str; 3] = ["user-agent", "prefect-csrf-token", "prefect-csrf-client"];

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
    /// Whether the deployments have no pool (a plan that allows none): `CAPTIONACC_RUNNER_MODE`, or the profile that
    /// `captionacc setup` wrote.
    pub runner_mode: bool,
    /// `CAPTIONACC_WHEN_UNREACHABLE`, unless a call says otherwise.
    pub when_unreachable: WhenUnreachable,
}

impl PrefectSettings {
    /// Settings for an API address, everything else at its default.
    ///
    /// # Errors
    /// [`OrchestratorError::Config`] if it is no http(s) address.
    pub fn new(api_url: &str, reason: &str) -> Result<Self, OrchestratorError> {
        let (api_url, embedded) = parse_url(api_url, reason)?;
        Ok(Self {
            is_cloud: api_url.starts_with(CLOUD_API_URL),
            api_url,
            reason: reason.to_owned(),
            credentials: embedded.map_or(Credentials::None, Credentials::AuthString),
            custom_headers: Vec::new(),
            ssl_cert_file: None,
            skips_tls_verification: false,
            work_pool: WORK_POOL.to_owned(),
            deployment_name: DEFAULT_DEPLOYMENT_NAME.to_owned(),
            runner_mode: false,
            when_unreachable: WhenUnreachable::Reject,
        })
    }

    /// Settings as Prefect's own client would find them here; `None` if no API is configured.
    ///
    /// # Errors
    /// [`OrchestratorError::Config`], naming the setting that is wrong. Never the value of a secret.
    pub fn load(
        environment: &dyn Fn(&str) -> Option<OsString>,
        working_directory: &Path,
    ) -> Result<Option<Self>, OrchestratorError> {
        let sources = Sources::read(environment, working_directory);
        let Some((url, reason)) = sources.find("PREFECT_API_URL") else {
            return Ok(None);
        };
        let mut settings = Self::new(url, &reason)?;
        if let Some((cloud, _)) = sources.find("PREFECT_CLOUD_API_URL") {
            settings.is_cloud = settings.api_url.starts_with(cloud.trim_end_matches('/'));
        }
        if let Some((auth, _)) = sources.find("PREFECT_API_AUTH_STRING") {
            settings.credentials = Credentials::AuthString(Secret::new(auth));
        } else if let Some((key, _)) = sources.find("PREFECT_API_KEY") {
            settings.credentials = Credentials::ApiKey(Secret::new(key));
        }
        if let Some((text, origin)) = sources.find("PREFECT_CLIENT_CUSTOM_HEADERS") {
            settings.custom_headers = parse_headers(text, &origin)?;
        }
        settings.ssl_cert_file = ["PREFECT_API_SSL_CERT_FILE", "SSL_CERT_FILE"]
            .iter()
            .find_map(|name| sources.find(name))
            .map(|(path, _)| working_directory.join(path));
        settings.skips_tls_verification = sources.flag("PREFECT_API_TLS_INSECURE_SKIP_VERIFY")?;
        settings.runner_mode = sources.flag("CAPTIONACC_RUNNER_MODE")?;
        for (name, place) in [
            ("CAPTIONACC_WORK_POOL", &mut settings.work_pool),
            ("CAPTIONACC_DEPLOYMENT", &mut settings.deployment_name),
        ] {
            if let Some((value, origin)) = sources.find(name) {
                if value.contains(['/', '%', '&', '>', '<']) {
                    return Err(config(
                        &origin,
                        format!("{name} = {value:?}: a name without / % & > < is needed"),
                    ));
                }
                value.clone_into(place);
            }
        }
        if let Some((word, origin)) = sources.find("CAPTIONACC_WHEN_UNREACHABLE") {
            settings.when_unreachable = match word {
                "reject" => WhenUnreachable::Reject,
                "store" => WhenUnreachable::Store,
                _ => return Err(config(&origin, format!("{word:?}: give reject or store"))),
            };
        }
        Ok(Some(settings))
    }
}

fn config(origin: &str, problem: impl Into<String>) -> OrchestratorError {
    OrchestratorError::Config {
        origin: origin.to_owned(),
        problem: problem.into(),
    }
}

/// The address as it is used and shown; a password in it becomes an auth string.
fn parse_url(text: &str, reason: &str) -> Result<(String, Option<Secret>), OrchestratorError> {
    let mut url = Url::parse(text.trim())
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| {
            config(
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
        config(
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
                Err(config(
                    origin,
                    format!("PREFECT_CLIENT_CUSTOM_HEADERS: {name:?} is no header that can be sent"),
                ))
            }
        })
        .collect()
}

/// What a program of a command flow may see of an environment variable: of Prefect's, no key, no password and no header,
/// and no address with one in it. `None`: nothing. Everything else is the operator's, and stays as it is.
pub fn without_secrets(name: &OsStr, value: &OsStr) -> Option<OsString> {
    /// Words of the names of settings whose value is a secret: `PREFECT_API_KEY`, `PREFECT_API_DATABASE_PASSWORD`, …
    const SECRET_WORDS: [&str; 6] = ["KEY", "AUTH", "HEADERS", "PASSWORD", "SECRET", "TOKEN"];
    let name = name.to_string_lossy().to_uppercase();
    if !name.starts_with("PREFECT_") {
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

/// The sources in their order, each with what it is called.
struct Sources(Vec<(String, BTreeMap<String, String>)>);

impl Sources {
    fn read(environment: &dyn Fn(&str) -> Option<OsString>, working_directory: &Path) -> Self {
        let names = [
            "PREFECT_API_URL",
            "PREFECT_API_KEY",
            "PREFECT_API_AUTH_STRING",
            "PREFECT_API_SSL_CERT_FILE",
            "PREFECT_API_TLS_INSECURE_SKIP_VERIFY",
            "PREFECT_CLIENT_CUSTOM_HEADERS",
            "PREFECT_CLOUD_API_URL",
            "PREFECT_HOME",
            "PREFECT_PROFILE",
            "PREFECT_PROFILES_PATH",
            "SSL_CERT_FILE",
            "HOME",
            "CAPTIONACC_DEPLOYMENT",
            "CAPTIONACC_RUNNER_MODE",
            "CAPTIONACC_WHEN_UNREACHABLE",
            "CAPTIONACC_WORK_POOL",
        ];
        let own = names
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), environment(name)?.into_string().ok()?)))
            .collect();
        let mut sources = Self(vec![("environment".to_owned(), own)]);
        sources.add(&working_directory.join(".env"), read_dotenv);
        sources.add(&working_directory.join("prefect.toml"), |path| {
            Some(flatten(&read_toml(path)?))
        });
        sources.add(&working_directory.join("pyproject.toml"), |path| {
            let table = read_toml(path)?;
            Some(flatten(table.get("tool")?.get("prefect")?.as_table()?))
        });
        sources.add_profile();
        sources
    }

    fn add(&mut self, path: &Path, read: impl Fn(&Path) -> Option<BTreeMap<String, String>>) {
        if let Some(values) = read(path) {
            self.0.push((path.display().to_string(), values));
        }
    }

    fn add_profile(&mut self) {
        let home = self
            .find("PREFECT_HOME")
            .map(|(home, _)| PathBuf::from(home))
            .or_else(|| Some(Path::new(self.find("HOME")?.0).join(".prefect")));
        let path = self
            .find("PREFECT_PROFILES_PATH")
            .map(|(path, _)| PathBuf::from(path))
            .or_else(|| Some(home?.join("profiles.toml")));
        let Some((path, profiles)) = path.and_then(|path| Some((path.clone(), read_toml(&path)?))) else {
            return;
        };
        let active = self
            .find("PREFECT_PROFILE")
            .map(|(name, _)| name.to_owned())
            .or_else(|| Some(profiles.get("active")?.as_str()?.to_owned()));
        let Some(active) = active else { return };
        let profile = profiles
            .get("profiles")
            .and_then(|profiles| profiles.get(&active)?.as_table());
        if let Some(profile) = profile {
            let values = profile
                .iter()
                .filter_map(|(name, value)| Some((name.clone(), plain(value)?)))
                .collect();
            self.0
                .push((format!("profile {active:?} of {}", path.display()), values));
        }
    }

    /// The first value that is not empty, and where it is from.
    fn find(&self, name: &str) -> Option<(&str, String)> {
        self.0.iter().find_map(|(origin, values)| {
            let value = values
                .get(name)
                .map(|value| value.trim())
                .filter(|value| !value.is_empty())?;
            let origin = if origin == "environment" {
                format!("{name} is set")
            } else {
                origin.clone()
            };
            Some((value, origin))
        })
    }

    fn flag(&self, name: &str) -> Result<bool, OrchestratorError> {
        match self.find(name) {
            None => Ok(false),
            Some((word, origin)) => match word.to_lowercase().as_str() {
                "1" | "true" | "yes" | "on" => Ok(true),
                "0" | "false" | "no" | "off" => Ok(false),
                _ => Err(config(&origin, format!("{name} = {word:?}: give true or false"))),
            },
        }
    }
}

fn read_dotenv(path: &Path) -> Option<BTreeMap<String, String>> {
    Some(dotenvy::from_path_iter(path).ok()?.filter_map(Result::ok).collect())
}

fn read_toml(path: &Path) -> Option<toml::Table> {
    fs::read_to_string(path).ok()?.parse().ok()
}

/// `[api] url = …` as `PREFECT_API_URL`.
fn flatten(table: &toml::Table) -> BTreeMap<String, String> {
    fn walk(prefix: &str, table: &toml::Table, values: &mut BTreeMap<String, String>) {
        for (key, value) in table {
            let name = format!("{prefix}_{}", key.to_uppercase());
            match value {
                toml::Value::Table(inner) if name != "PREFECT_CLIENT_CUSTOM_HEADERS" => walk(&name, inner, values),
                value => {
                    if let Some(value) = plain(value) {
                        values.insert(name, value);
                    }
                }
            }
        }
    }
    let mut values = BTreeMap::new();
    walk("PREFECT", table, &mut values);
    values
}

fn plain(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Array(_) | toml::Value::Datetime(_) => None,
        value => serde_json::to_string(value).ok(),
    }
}

#[cfg(test)]
mod tests {
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
        PrefectSettings::load(&lookup, folder.path()).map_err(|error| error.to_line())
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
