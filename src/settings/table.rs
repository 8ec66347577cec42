//! Every setting, as a row of one table.
//!
//! The loader, `captionacc doctor`, `captionacc service`, the README and examples/captionacc.toml read the same rows, so none of
//! them can say something else than another. A new setting is a row, and a field of `Settings` that is loaded from it.

use std::ops::RangeInclusive;

use crate::domain::error::did_you_mean;
use crate::domain::flow::WORK_POOL;

/// A setting.
#[derive(Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its environment variable.
    pub variable: &'static str,
    /// Its place in captionacc.toml: the name of the table (none for the top) and the key.
    pub key: Option<(&'static str, &'static str)>,
    /// What it may be.
    pub kind: Kind,
    /// What holds unless it is set, as one would write it.
    pub default: Option<&'static str>,
    /// What it means, for people.
    pub doc: &'static str,
}

/// What a setting may be.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number.
    Number {
        /// The least that is taken.
        least: u64,
        /// The most that is taken.
        most: u64,
    },
    /// One of these words.
    Word(&'static [&'static str]),
    /// Yes or no.
    Flag,
    /// The name of something at a Prefect server, which allows none of `/ % & > <` in it; not of dots alone.
    Name,
    /// A file or folder; a relative one is meant against the folder of the file that says it, else the working directory.
    Path,
    /// An address of http or https.
    Url,
    /// Any text; whoever needs it takes it apart.
    Text,
}

/// Words for yes and for no, as Prefect has them.
const YES: [&str; 4] = ["true", "1", "yes", "on"];
const NO: [&str; 4] = ["false", "0", "no", "off"];
/// Most milliseconds of any setting: a day.
pub const DAY_MS: u64 = 86_400_000;

/// Folder of queue.db.
pub const HOME: Setting = Setting {
    variable: "CAPTIONACC_HOME",
    key: None,
    kind: Kind::Path,
    default: None,
    doc: "folder of `queue.db`; the platform's data folder unless set. The web app and the worker must agree on it; containers of \
          one machine may share it. Its file system must have locks (`flock`)",
};
/// The configuration file.
pub const CONFIG: Setting = Setting {
    variable: "CAPTIONACC_CONFIG",
    key: None,
    kind: Kind::Path,
    default: None,
    doc: "the configuration file",
};
/// Which orchestrator.
pub const ORCHESTRATOR: Setting = Setting {
    variable: "CAPTIONACC_ORCHESTRATOR",
    key: Some(("", "orchestrator")),
    kind: Kind::Word(&["embedded", "prefect"]),
    default: None,
    doc: "where flow runs are queued; unless set, Prefect where an API of Prefect is configured",
};
/// Flow runs at once.
pub const LIMIT: Setting = Setting {
    variable: "CAPTIONACC_LIMIT",
    key: Some(("worker", "limit")),
    kind: Kind::Number { least: 1, most: 64 },
    default: None,
    doc: "flow runs at once, in the whole pool; unless set, what the pool has (2 at first)",
};
/// Flow runs of the queue `background` at once.
pub const BACKGROUND_LIMIT: Setting = Setting {
    variable: "CAPTIONACC_BACKGROUND_LIMIT",
    key: Some(("worker", "background-limit")),
    kind: Kind::Number { least: 1, most: 64 },
    default: None,
    doc: "flow runs at once for which nobody waits (`background`); unless set, what the pool has (one less than `limit`, but at \
          least 1), so that there is a slot for a person",
};
/// How long running attempts may go on.
pub const GRACE_MS: Setting = Setting {
    variable: "CAPTIONACC_GRACE_MS",
    key: Some(("worker", "grace-ms")),
    kind: Kind::Number { least: 0, most: DAY_MS },
    default: Some("30000"),
    doc: "how long running attempts may go on after the worker's first SIGTERM",
};
/// How long a stopped child may take.
pub const KILL_GRACE_MS: Setting = Setting {
    variable: "CAPTIONACC_KILL_GRACE_MS",
    key: Some(("worker", "kill-grace-ms")),
    kind: Kind::Number { least: 0, most: DAY_MS },
    default: Some("5000"),
    doc: "how long a child that is to stop may take before it is killed",
};
/// How long a run is kept after its end; the default is the same as Prefect's free plan.
pub const RETENTION_DAYS: Setting = Setting {
    variable: "CAPTIONACC_RETENTION_DAYS",
    key: Some(("worker", "retention-days")),
    kind: Kind::Number { least: 1, most: 36_500 },
    default: Some("7"),
    doc: "ended runs are forgotten after so many days; frames and videos are never touched",
};
/// Folder of the OCR models.
pub const OCR_MODELS: Setting = Setting {
    variable: "CAPTIONACC_OCR_MODELS",
    key: Some(("worker", "ocr-models")),
    kind: Kind::Path,
    default: None,
    doc: "folder of the OCR models, where they are not found beside the program",
};
/// Most memory of an attempt.
pub const CHILD_MEMORY_MB: Setting = Setting {
    variable: "CAPTIONACC_CHILD_MEMORY_MB",
    key: Some(("worker", "child-memory-mb")),
    kind: Kind::Number {
        least: 64,
        most: 1 << 20,
    },
    default: Some("4096"),
    doc: "most memory of one attempt with all that it started",
};
/// Silence before an attempt is taken for hung.
pub const STALL_TIMEOUT_MS: Setting = Setting {
    variable: "CAPTIONACC_STALL_TIMEOUT_MS",
    key: Some(("worker", "stall-timeout-ms")),
    kind: Kind::Number {
        least: 100,
        most: DAY_MS,
    },
    default: Some("600000"),
    doc: "an attempt that says nothing for so long is taken for hung and stopped",
};
/// Who is told of every state of every run.
pub const NOTIFY_URL: Setting = Setting {
    variable: "CAPTIONACC_NOTIFY_URL",
    key: Some(("worker", "notify-url")),
    kind: Kind::Url,
    default: None,
    doc: "the worker posts every state that a run enters to this address, as JSON",
};
/// What those posts are signed with.
pub const NOTIFY_SECRET: Setting = Setting {
    variable: "CAPTIONACC_NOTIFY_SECRET",
    key: Some(("worker", "notify-secret")),
    kind: Kind::Text,
    default: None,
    doc: "signs them: `X-CaptionAcc-Signature: t=SECONDS,v1=HMAC-SHA256 of \"SECONDS.BODY\"`",
};
/// Wait before the first retry, in every flow.
pub const RETRY_DELAY_MS: Setting = Setting {
    variable: "CAPTIONACC_RETRY_DELAY_MS",
    key: None,
    kind: Kind::Number { least: 0, most: DAY_MS },
    default: None,
    doc: "wait before the first retry of a run, in every flow; of one flow: `retry-delay-ms` in its `[flows.NAME]`, unless set 60000",
};
/// What a queue call does while Prefect's API is away.
pub const WHEN_UNREACHABLE: Setting = Setting {
    variable: "CAPTIONACC_WHEN_UNREACHABLE",
    key: Some(("prefect", "when-unreachable")),
    kind: Kind::Word(&["reject", "store"]),
    default: Some("reject"),
    doc: "while Prefect's API is away, a queue call fails, or keeps the run here to be queued once when it is back",
};
/// When a run at Prefect is taken for lost.
pub const LOST_AFTER_MS: Setting = Setting {
    variable: "CAPTIONACC_LOST_AFTER_MS",
    key: Some(("prefect", "lost-after-ms")),
    kind: Kind::Number {
        least: 3000,
        most: DAY_MS,
    },
    default: Some("90000"),
    doc: "a run at Prefect that gives no sign of life for so long is lost with its machine, and another worker takes it over; \
          `captionacc setup` makes the server's automation from it (10000 at least), which then holds for every worker; where there \
          is none, this holds, and is to be the same on every machine",
};
/// Whether there is no work pool.
pub const RUNNER_MODE: Setting = Setting {
    variable: "CAPTIONACC_RUNNER_MODE",
    key: Some(("prefect", "runner-mode")),
    kind: Kind::Flag,
    default: Some("false"),
    doc: "no work pool: the worker polls the deployments (`captionacc setup` sets it)",
};
/// The work pool.
pub const POOL: Setting = Setting {
    variable: "CAPTIONACC_WORK_POOL",
    key: Some(("prefect", "work-pool")),
    kind: Kind::Name,
    default: Some(WORK_POOL),
    doc: "name of the work pool at Prefect",
};
/// The deployments' name.
pub const DEPLOYMENT: Setting = Setting {
    variable: "CAPTIONACC_DEPLOYMENT",
    key: Some(("prefect", "deployment")),
    kind: Kind::Name,
    default: Some("production"),
    doc: "name of each flow's deployment at Prefect",
};
/// What the worker logs; the log reads it itself.
pub const LOG: Setting = Setting {
    variable: "RUST_LOG",
    key: None,
    kind: Kind::Text,
    default: Some("warn,captionacc=info"),
    doc: "what the worker logs; `captionacc=debug` for more",
};

/// Where Prefect's API is.
pub const API_URL: Setting = of_prefect(
    "PREFECT_API_URL",
    Kind::Text,
    "address of the API, as `http://127.0.0.1:4200/api`",
);
/// Prefect Cloud's key.
pub const API_KEY: Setting = of_prefect("PREFECT_API_KEY", Kind::Text, "key of Prefect Cloud");
/// User and password of a server.
pub const API_AUTH_STRING: Setting = of_prefect(
    "PREFECT_API_AUTH_STRING",
    Kind::Text,
    "`user:password` of a server of your own; goes before a key",
);
/// Further certificates to trust.
pub const API_SSL_CERT_FILE: Setting = of_prefect(
    "PREFECT_API_SSL_CERT_FILE",
    Kind::Path,
    "further certificates to trust, PEM",
);
/// The same for all programs.
pub const SSL_CERT_FILE: Setting = of_prefect("SSL_CERT_FILE", Kind::Path, "the same, unless the one before is set");
/// Whether any certificate is trusted.
pub const API_TLS_INSECURE_SKIP_VERIFY: Setting = of_prefect(
    "PREFECT_API_TLS_INSECURE_SKIP_VERIFY",
    Kind::Flag,
    "any certificate is trusted",
);
/// Headers of every call.
pub const CLIENT_CUSTOM_HEADERS: Setting = of_prefect(
    "PREFECT_CLIENT_CUSTOM_HEADERS",
    Kind::Text,
    "headers of every call, as JSON: `{\"X-Name\": \"value\"}`",
);
/// What is taken for Prefect Cloud.
pub const CLOUD_API_URL: Setting = of_prefect(
    "PREFECT_CLOUD_API_URL",
    Kind::Text,
    "an API at this address is Prefect Cloud",
);
/// Prefect's folder.
pub const PREFECT_HOME: Setting = of_prefect(
    "PREFECT_HOME",
    Kind::Path,
    "folder of `profiles.toml`; unless set `~/.prefect`",
);
/// The file of its profiles.
pub const PREFECT_PROFILES_PATH: Setting = of_prefect("PREFECT_PROFILES_PATH", Kind::Path, "the file itself");
/// The profile in use.
pub const PREFECT_PROFILE: Setting = of_prefect(
    "PREFECT_PROFILE",
    Kind::Text,
    "the profile in use; unless set, the file's active one",
);

/// Our settings, in the order in which people read them.
pub const OURS: [&Setting; 20] = [
    &HOME,
    &CONFIG,
    &ORCHESTRATOR,
    &LIMIT,
    &BACKGROUND_LIMIT,
    &GRACE_MS,
    &KILL_GRACE_MS,
    &RETENTION_DAYS,
    &OCR_MODELS,
    &CHILD_MEMORY_MB,
    &STALL_TIMEOUT_MS,
    &NOTIFY_URL,
    &NOTIFY_SECRET,
    &RETRY_DELAY_MS,
    &WHEN_UNREACHABLE,
    &LOST_AFTER_MS,
    &RUNNER_MODE,
    &POOL,
    &DEPLOYMENT,
    &LOG,
];

/// Prefect's own settings, of those that are heeded here; all else about them is Prefect's to say.
pub const PREFECTS: [&Setting; 11] = [
    &API_URL,
    &API_KEY,
    &API_AUTH_STRING,
    &API_SSL_CERT_FILE,
    &SSL_CERT_FILE,
    &API_TLS_INSECURE_SKIP_VERIFY,
    &CLIENT_CUSTOM_HEADERS,
    &CLOUD_API_URL,
    &PREFECT_HOME,
    &PREFECT_PROFILES_PATH,
    &PREFECT_PROFILE,
];

const fn of_prefect(variable: &'static str, kind: Kind, doc: &'static str) -> Setting {
    Setting {
        variable,
        key: None,
        kind,
        default: None,
        doc,
    }
}

impl Setting {
    /// `[worker] grace-ms`.
    pub fn key_text(&self) -> Option<String> {
        self.key.map(|(table, key)| match table {
            "" => key.to_owned(),
            table => format!("[{table}] {key}"),
        })
    }

    /// What a number may be; everything for what is no number.
    pub const fn range(&self) -> RangeInclusive<u64> {
        match self.kind {
            Kind::Number { least, most } => least..=most,
            _ => 0..=u64::MAX,
        }
    }

    /// Whether Prefect's own places may say it too: its files and its profile.
    pub fn is_of_prefect(&self) -> bool {
        self.key.is_some_and(|(table, _)| table == "prefect") || PREFECTS.contains(&self)
    }
}

impl Kind {
    /// Whether a setting of this kind may have this value, and what it should be if not.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn check(&self, text: &str) -> Result<(), String> {
        match self {
            Self::Number { least, most } => match text.parse::<u64>() {
                Ok(number) if (*least..=*most).contains(&number) => Ok(()),
                _ => Err(format!("{text:?} is not a whole number from {least} to {most}")),
            },
            Self::Word(words) if words.contains(&text) => Ok(()),
            Self::Word(words) => {
                let meant = did_you_mean(text, words.iter().copied());
                Err(format!("{text:?} is unknown{meant}: give {}", words.join(" or ")))
            }
            Self::Flag if is_yes(text) || NO.contains(&text.to_lowercase().as_str()) => Ok(()),
            Self::Flag => Err(format!("{text:?} is neither true nor false")),
            // An address drops a part of dots alone, however it is escaped.
            Self::Name if text.contains(['/', '%', '&', '>', '<']) || text.chars().all(|c| c == '.') => Err(format!(
                "{text:?} is no name: one without / % & > < is needed, and not of dots alone"
            )),
            // A password in it is not shown.
            Self::Url if !is_http(text) => {
                Err("it is no address of http or https: give one as http://127.0.0.1:5173/api/runs".to_owned())
            }
            Self::Name | Self::Path | Self::Url | Self::Text => Ok(()),
        }
    }
}

fn is_http(text: &str) -> bool {
    reqwest::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

/// Whether a flag that was checked says yes.
pub fn is_yes(text: &str) -> bool {
    YES.contains(&text.to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write;
    use std::fs;

    use super::*;

    const WRITES: &str = "writing to a String cannot fail";

    #[test]
    fn every_row_is_one_of_its_own_and_its_default_is_a_value_of_its_kind() {
        let rows: Vec<&Setting> = OURS.into_iter().chain(PREFECTS).collect();
        let variables: BTreeSet<_> = rows.iter().map(|setting| setting.variable).collect();
        let keys: BTreeSet<_> = rows.iter().filter_map(|setting| setting.key).collect();
        assert_eq!(variables.len(), rows.len());
        assert_eq!(keys.len(), rows.iter().filter(|setting| setting.key.is_some()).count());
        for setting in rows {
            if let Some(default) = setting.default {
                assert_eq!(setting.kind.check(default), Ok(()), "{}", setting.variable);
            }
        }
    }

    /// What it may be, for people.
    fn values(kind: &Kind) -> String {
        match kind {
            Kind::Number { least, most } => format!("{least} to {most}"),
            Kind::Word(words) => words.join(" or "),
            Kind::Flag => "true or false".to_owned(),
            Kind::Name => "a name".to_owned(),
            Kind::Path => "a path".to_owned(),
            Kind::Url => "an address".to_owned(),
            Kind::Text => "a text".to_owned(),
        }
    }

    /// The table of the README.
    fn markdown() -> String {
        let mut text = "| variable | in `captionacc.toml` | values | default | |\n|---|---|---|---|---|\n".to_owned();
        for setting in OURS.iter().chain(&PREFECTS) {
            let code = |text: &str| format!("`{text}`");
            writeln!(
                text,
                "| {} | {} | {} | {} | {} |",
                code(setting.variable),
                setting.key_text().as_deref().map(code).unwrap_or_default(),
                values(&setting.kind),
                setting.default.map(code).unwrap_or_default(),
                setting.doc,
            )
            .expect(WRITES);
        }
        text
    }

    /// The head of examples/captionacc.toml: every key, with its default where it has one.
    fn example() -> String {
        let mut text = "\
# captionacc.toml: read where CAPTIONACC_CONFIG points, else from the working directory, else from CAPTIONACC_HOME.
# Every key is optional; what stands here is what holds without it. Check what was understood with: captionacc doctor
"
        .to_owned();
        for table in ["", "worker", "prefect"] {
            if !table.is_empty() {
                write!(text, "\n[{table}]").expect(WRITES);
            }
            for setting in OURS {
                let Some((_, key)) = setting.key.filter(|key| key.0 == table) else {
                    continue;
                };
                let doc = setting.doc.replace('`', "");
                match setting.kind {
                    Kind::Name | Kind::Path | Kind::Url | Kind::Text => writeln!(text, "\n# {doc}"),
                    _ => writeln!(text, "\n# {doc}; {}", values(&setting.kind)),
                }
                .expect(WRITES);
                match (setting.default, &setting.kind) {
                    (Some(default), Kind::Number { .. } | Kind::Flag) => writeln!(text, "{key} = {default}"),
                    (Some(default), _) => writeln!(text, "{key} = {default:?}"),
                    (None, Kind::Number { least, .. }) => writeln!(text, "# {key} = {least}"),
                    (None, Kind::Word(words)) => writeln!(text, "# {key} = {:?}", words[0]),
                    (None, _) => writeln!(text, "# {key} = \"…\""),
                }
                .expect(WRITES);
            }
        }
        text
    }

    /// Writes what is generated into the file where it differs, and fails then: the difference is for a person to see.
    fn assert_generated(name: &str, replace: impl Fn(&str) -> String) {
        let path = format!("{}/{name}", env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(&path).expect("it is there");
        let wanted = replace(&text);
        if text != wanted {
            fs::write(&path, wanted).expect("written");
            panic!("{name} differed from the table of settings: it is written anew, see what changed and commit it");
        }
    }

    #[test]
    fn the_readme_has_every_setting() {
        assert_generated("README.md", |text| {
            let section = text.find("\n## Settings\n").expect("a section");
            let start = section + text[section..].find("\n| ").expect("a table") + 1;
            let end = start + text[start..].find("\n\n").expect("it ends") + 1;
            [&text[..start], &markdown(), &text[end..]].concat()
        });
    }

    #[test]
    fn the_example_has_every_key() {
        assert_generated("examples/captionacc.toml", |text| {
            let flows = text.find("\n# A built-in flow").expect("flows are declared");
            [&example(), &text[flows..]].concat()
        });
    }
}
