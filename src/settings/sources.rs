//! Where settings come from, first one first: the environment, captionacc.toml, and for those about Prefect the places where
//! Prefect itself looks (<https://docs.prefect.io/v3/concepts/settings-and-profiles>): `.env`, `prefect.toml` and
//! `pyproject.toml` in the working directory, the active profile. A file of Prefect's that cannot be read or parsed says
//! nothing: it is another program's.

use std::collections::BTreeMap;
#[cfg(feature = "worker")]
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::table::{
    CONFIG, HOME, Kind, OURS, PREFECT_HOME, PREFECT_PROFILE, PREFECT_PROFILES_PATH, PREFECTS, Setting, is_yes,
};
use crate::domain::error::{OrchestratorError, did_you_mean};

/// All that is set, with what says it.
pub(super) struct Sources {
    layers: Vec<Layer>,
    /// captionacc.toml, if there is one.
    pub config_file: Option<PathBuf>,
    /// The folder of queue.db; absolute.
    pub home: PathBuf,
    /// `[flows]` of captionacc.toml.
    pub flows: toml::Table,
}

/// What one of the places says, by the names of variables.
struct Layer {
    place: Place,
    values: BTreeMap<&'static str, OsString>,
    /// Against what a relative path is meant.
    base: PathBuf,
}

#[derive(PartialEq)]
enum Place {
    Environment,
    ConfigFile(String),
    Prefect(String),
}

/// What a setting was set to.
pub(super) struct Given<'a> {
    /// The value, checked, without space around it.
    value: OsString,
    layer: &'a Layer,
}

impl Given<'_> {
    /// The value of what is no path.
    pub fn text(&self) -> &str {
        self.value.to_str().unwrap_or_default()
    }

    /// The value of whatever it is.
    #[cfg(feature = "worker")]
    pub fn value(&self) -> &OsStr {
        &self.value
    }

    /// What says it, for people: `PREFECT_API_URL is set`, or the name of a file.
    pub fn reason(&self, setting: &Setting) -> String {
        match &self.layer.place {
            Place::Environment => format!("{} is set", setting.variable),
            Place::ConfigFile(name) | Place::Prefect(name) => name.clone(),
        }
    }

    /// The same with the value: `CAPTIONACC_LIMIT=2`, or `limit = "2" in captionacc.toml`.
    pub fn reason_with_value(&self, setting: &Setting) -> String {
        let text = self.text();
        match &self.layer.place {
            Place::Environment => format!("{}={text}", setting.variable),
            place => format!("{} = {text:?} in {}", place.name_of(setting), self.reason(setting)),
        }
    }

    /// Where it is from, in a word or by its file.
    #[cfg(feature = "worker")]
    pub fn origin(&self) -> &str {
        match &self.layer.place {
            Place::Environment => "environment",
            Place::ConfigFile(name) | Place::Prefect(name) => name,
        }
    }
}

impl Place {
    /// What the setting is called there.
    fn name_of(&self, setting: &Setting) -> String {
        match self {
            Self::ConfigFile(_) => setting.key_text().unwrap_or_default(),
            Self::Environment | Self::Prefect(_) => setting.variable.to_owned(),
        }
    }
}

impl Layer {
    /// The value of a setting, checked; an empty one counts as unset.
    fn find(&self, setting: &Setting) -> Result<Option<Given<'_>>, OrchestratorError> {
        if matches!(self.place, Place::Prefect(_)) && !setting.is_of_prefect() {
            return Ok(None);
        }
        let Some(value) = self.values.get(setting.variable).filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        if setting.kind == Kind::Path {
            return Ok(Some(Given {
                value: value.clone(),
                layer: self,
            }));
        }
        let checked = match value.to_str().map(str::trim) {
            Some("") => return Ok(None),
            Some(text) => setting.kind.check(text).map(|()| text),
            None => Err("its value is not UTF-8".to_owned()),
        };
        let text = checked.map_err(|problem| match &self.place {
            Place::Environment => fault(setting.variable, problem),
            Place::ConfigFile(file) | Place::Prefect(file) => {
                fault(file, format!("{}: {problem}", self.place.name_of(setting)))
            }
        })?;
        Ok(Some(Given {
            value: text.into(),
            layer: self,
        }))
    }
}

impl Sources {
    /// Reads everything that this process is told.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn of_process() -> Result<Self, OrchestratorError> {
        let working_directory = std::env::current_dir()
            .map_err(|error| fault("working directory", format!("it cannot be read: {error}")))?;
        Self::read(&|name| std::env::var_os(name), &working_directory)
    }

    /// Reads everything.
    ///
    /// # Errors
    /// [`OrchestratorError::Config`], naming the setting of ours that is wrong; also one that another place overrules.
    pub fn read(
        environment: &dyn Fn(&str) -> Option<OsString>,
        working_directory: &Path,
    ) -> Result<Self, OrchestratorError> {
        let known = OURS.iter().chain(&PREFECTS).map(|setting| setting.variable);
        let mut sources = Self {
            layers: vec![Layer {
                place: Place::Environment,
                values: known.filter_map(|name| Some((name, environment(name)?))).collect(),
                base: working_directory.to_owned(),
            }],
            config_file: None,
            home: PathBuf::new(),
            flows: toml::Table::new(),
        };
        sources.home = match sources.path(&HOME)? {
            Some(path) => path,
            None => default_home()
                .ok_or_else(|| fault(HOME.variable, "this user has no home directory: set it to a folder"))?,
        };
        sources.add_config_file(working_directory)?;
        sources.add(working_directory, ".env", |path| {
            Some(dotenvy::from_path_iter(path).ok()?.filter_map(Result::ok).collect())
        });
        sources.add(working_directory, "prefect.toml", |path| {
            Some(flatten(&read_toml(path)?))
        });
        sources.add(working_directory, "pyproject.toml", |path| {
            Some(flatten(read_toml(path)?.get("tool")?.get("prefect")?.as_table()?))
        });
        sources.add_profile(environment("HOME"), working_directory)?;
        for layer in &sources.layers {
            for setting in OURS {
                layer.find(setting)?;
            }
        }
        Ok(sources)
    }

    /// What is set, by the first place that says something.
    pub fn find(&self, setting: &Setting) -> Result<Option<Given<'_>>, OrchestratorError> {
        self.layers
            .iter()
            .find_map(|layer| layer.find(setting).transpose())
            .transpose()
    }

    /// What is set, or the default.
    pub fn text(&self, setting: &Setting) -> Result<Option<String>, OrchestratorError> {
        let given = self.find(setting)?.and_then(|given| given.value.into_string().ok());
        Ok(given.or_else(|| setting.default.map(str::to_owned)))
    }

    /// The same of a number: that it is one was checked.
    pub fn number<T: TryFrom<u64>>(&self, setting: &Setting) -> Result<Option<T>, OrchestratorError> {
        let number = self.text(setting)?.and_then(|text| text.parse::<u64>().ok());
        Ok(number.and_then(|number| number.try_into().ok()))
    }

    /// The same of a number that has a default.
    pub fn number_or_default<T: TryFrom<u64>>(&self, setting: &Setting) -> Result<T, OrchestratorError> {
        let number = self.number(setting)?;
        Ok(number.expect("its row has a default, and a range that its type holds"))
    }

    /// The same of a flag; unset is no.
    pub fn flag(&self, setting: &Setting) -> Result<bool, OrchestratorError> {
        Ok(self.text(setting)?.is_some_and(|text| is_yes(&text)))
    }

    /// The same of a path, made absolute.
    pub fn path(&self, setting: &Setting) -> Result<Option<PathBuf>, OrchestratorError> {
        Ok(self.find(setting)?.map(|given| given.layer.base.join(given.value)))
    }

    fn add_config_file(&mut self, working_directory: &Path) -> Result<(), OrchestratorError> {
        let path = match self.path(&CONFIG)? {
            Some(path) if path.is_file() => Some(path),
            Some(path) => return Err(fault(CONFIG.variable, format!("there is no file {}", path.display()))),
            None => [working_directory, &self.home]
                .into_iter()
                .map(|folder| folder.join("captionacc.toml"))
                .find(|path| path.is_file()),
        };
        let Some(path) = path else { return Ok(()) };
        let origin = path.display().to_string();
        let text = fs::read_to_string(&path).map_err(|error| fault(&origin, format!("cannot be read: {error}")))?;
        let mut file: toml::Table = text
            .parse()
            .map_err(|error: toml::de::Error| fault(&origin, error.to_string().trim_end()))?;
        self.flows = match file.remove("flows") {
            None => toml::Table::new(),
            Some(toml::Value::Table(flows)) => flows,
            Some(_) => return Err(fault(&origin, "flows is no table: give [flows.NAME]")),
        };
        self.layers.push(Layer {
            values: values_of(&file).map_err(|problem| fault(&origin, problem))?,
            place: Place::ConfigFile(origin),
            base: path.parent().unwrap_or(working_directory).to_owned(),
        });
        self.config_file = Some(path);
        Ok(())
    }

    fn add(&mut self, folder: &Path, name: &str, read: impl Fn(&Path) -> Option<BTreeMap<String, String>>) {
        let path = folder.join(name);
        if let Some(values) = read(&path) {
            self.push(path.display().to_string(), folder, &values);
        }
    }

    fn push(&mut self, origin: String, base: &Path, values: &BTreeMap<String, String>) {
        let known = OURS.iter().chain(&PREFECTS).map(|setting| setting.variable);
        self.layers.push(Layer {
            place: Place::Prefect(origin),
            values: known
                .filter_map(|name| Some((name, values.get(name)?.into())))
                .collect(),
            base: base.to_owned(),
        });
    }

    fn add_profile(&mut self, user_home: Option<OsString>, working_directory: &Path) -> Result<(), OrchestratorError> {
        let home = self
            .path(&PREFECT_HOME)?
            .or_else(|| Some(Path::new(&user_home?).join(".prefect")));
        let path = self
            .path(&PREFECT_PROFILES_PATH)?
            .or_else(|| Some(home?.join("profiles.toml")));
        let Some((path, profiles)) = path.and_then(|path| read_toml(&path).map(|profiles| (path, profiles))) else {
            return Ok(());
        };
        let active = self
            .text(&PREFECT_PROFILE)?
            .or_else(|| Some(profiles.get("active")?.as_str()?.to_owned()));
        let profile = active.and_then(|active| {
            let values = profiles.get("profiles")?.get(&active)?.as_table()?.iter();
            let values = values.filter_map(|(name, value)| Some((name.clone(), plain(value)?)));
            Some((format!("profile {active:?} of {}", path.display()), values.collect()))
        });
        if let Some((origin, values)) = profile {
            self.push(origin, working_directory, &values);
        }
        Ok(())
    }
}

/// Where queue.db lies unless set: this platform's data directory of this user, if the user has one.
pub(super) fn default_home() -> Option<PathBuf> {
    directories::ProjectDirs::from("cc", "CaptionA", "captionacc").map(|directories| directories.data_dir().to_owned())
}

/// A setting of `origin` that cannot be used.
pub(super) fn fault(origin: &str, problem: impl Into<String>) -> OrchestratorError {
    OrchestratorError::Config {
        origin: origin.to_owned(),
        problem: problem.into(),
    }
}

/// What captionacc.toml says beside its flows, by the names of variables.
fn values_of(file: &toml::Table) -> Result<BTreeMap<&'static str, OsString>, String> {
    let mut values = BTreeMap::new();
    for (name, value) in file {
        match value {
            toml::Value::Table(table) if is_table(name) => {
                for (key, value) in table {
                    values.extend(value_of(name, key, value)?);
                }
            }
            value => values.extend(value_of("", name, value)?),
        }
    }
    Ok(values)
}

fn value_of(table: &str, key: &str, value: &toml::Value) -> Result<Option<(&'static str, OsString)>, String> {
    let setting = OURS.into_iter().find(|setting| setting.key == Some((table, key)));
    let Some(setting) = setting else {
        let keys = OURS.into_iter().filter_map(|setting| setting.key);
        let mut known: Vec<&str> = if table.is_empty() {
            // A table is known by its name.
            let tops = keys.map(|(table, key)| if table.is_empty() { key } else { table });
            tops.chain(["flows"]).collect()
        } else {
            keys.filter(|(of, _)| *of == table).map(|(_, key)| key).collect()
        };
        known.dedup();
        if is_table(key) && table.is_empty() {
            return Err(format!("{key} is no table: give [{key}]"));
        }
        let meant = did_you_mean(key, known.iter().copied());
        let place = if table.is_empty() {
            String::new()
        } else {
            format!("[{table}] ")
        };
        return Err(format!(
            "{place}unknown key {key:?}{meant} (known: {})",
            known.join(", ")
        ));
    };
    match plain(value) {
        Some(text) => Ok(Some((setting.variable, text.into()))),
        None => Err(format!(
            "{}: {} is no value of a setting",
            setting.key_text().unwrap_or_default(),
            value.type_str()
        )),
    }
}

fn is_table(name: &str) -> bool {
    OURS.iter()
        .any(|setting| setting.key.is_some_and(|(table, _)| table == name && !table.is_empty()))
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

/// A value as one would write it into a variable.
fn plain(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Array(_) | toml::Value::Datetime(_) => None,
        value => serde_json::to_string(value).ok(),
    }
}
