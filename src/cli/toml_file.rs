//! Changing single values of a TOML file that people keep by hand: everything else in it, comments and order included,
//! stays as it was, and the file is either the old one or the new one at any moment.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use toml_edit::{DocumentMut, Item, Table, Value};

use crate::domain::error::OrchestratorError;

/// A TOML file to be changed.
pub(super) struct TomlFile<'a> {
    path: &'a Path,
    document: DocumentMut,
    before: Option<String>,
}

impl<'a> TomlFile<'a> {
    /// Reads the file; one that does not exist is an empty one.
    ///
    /// # Errors
    /// [`OrchestratorError::Config`] if it cannot be read or is no TOML: it is not overwritten then.
    pub(super) fn read(path: &'a Path) -> Result<Self, OrchestratorError> {
        let before = match fs::read_to_string(path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(fault(path, format!("cannot be read: {error}"))),
        };
        let document = before
            .as_deref()
            .unwrap_or_default()
            .parse()
            .map_err(|error: toml_edit::TomlError| {
                // The parser's own text quotes the line, which may hold a key.
                fault(path, format!("is no TOML ({}): repair or remove it", error.message()))
            })?;
        Ok(Self { path, document, before })
    }

    /// The table at this path of names, made where it is missing.
    ///
    /// # Errors
    /// [`OrchestratorError::Config`] if something else is there.
    pub(super) fn table(&mut self, names: &[&str]) -> Result<&mut Table, OrchestratorError> {
        let mut table = self.document.as_table_mut();
        for (depth, name) in names.iter().enumerate() {
            let item = table.entry(name).or_insert_with(|| {
                let mut made = Table::new();
                // `[profiles.local]` needs no `[profiles]` above it.
                made.set_implicit(depth + 1 < names.len());
                Item::Table(made)
            });
            table = item.as_table_mut().ok_or_else(|| {
                fault(
                    self.path,
                    format!("{} is no table there: repair it", names[..=depth].join(".")),
                )
            })?;
        }
        Ok(table)
    }

    /// Writes the file if something in it changed, readable and writable by its owner alone, replacing the old one at
    /// once. Says whether it did.
    ///
    /// # Errors
    /// [`OrchestratorError::Config`]; the old file is as it was then.
    pub(super) fn write(self) -> Result<bool, OrchestratorError> {
        let text = self.document.to_string();
        // A link stays one: what it leads to is replaced.
        let target = fs::canonicalize(self.path).unwrap_or_else(|_| self.path.to_owned());
        if self.before.as_ref() == Some(&text) {
            let is_open = fs::metadata(&target).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0);
            if is_open {
                fs::set_permissions(&target, fs::Permissions::from_mode(0o600))
                    .map_err(|error| fault(self.path, format!("cannot be made private: {error}")))?;
            }
            return Ok(false);
        }
        replace(&target, &text).map_err(|error| fault(self.path, format!("cannot be written: {error}")))?;
        Ok(true)
    }
}

/// Sets a value and keeps the comments above and behind it.
pub(super) fn set(table: &mut Table, name: &str, value: impl Into<Value>) {
    let mut value = value.into();
    match table.get_mut(name) {
        // An insertion would make the key anew, without the comment above it.
        Some(item) => {
            if let Some(old) = item.as_value() {
                *value.decor_mut() = old.decor().clone();
            }
            *item = Item::Value(value);
        }
        None => drop(table.insert(name, Item::Value(value))),
    }
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let scratch = folder.join(format!(".{name}.{}.new", std::process::id()));
    let written = (|| {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&scratch)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&scratch, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&scratch);
    }
    written
}

fn fault(path: &Path, problem: String) -> OrchestratorError {
    OrchestratorError::Config {
        origin: path.display().to_string(),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_set_changes_and_the_file_is_private() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("profiles.toml");
        let before =
            "# mine\nactive = \"a\" # now\n\n[profiles.a]\n# the old server\nPREFECT_API_URL = \"http://a/api\"\n";
        fs::write(&path, before).expect("written");
        let mut file = TomlFile::read(&path).expect("read");
        set(file.table(&[]).expect("a table"), "active", "b");
        set(
            file.table(&["profiles", "b"]).expect("a table"),
            "PREFECT_API_URL",
            "http://b/api",
        );
        assert!(file.write().expect("written"));
        let after = fs::read_to_string(&path).expect("read");
        assert_eq!(
            after,
            before.replace("\"a\" # now", "\"b\" # now") + "\n[profiles.b]\nPREFECT_API_URL = \"http://b/api\"\n"
        );
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(!TomlFile::read(&path).expect("read").write().expect("nothing to write"));
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }

    #[test]
    fn what_is_no_toml_is_not_overwritten_and_not_quoted() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("profiles.toml");
        fs::write(&path, "PREFECT_API_KEY = pnu_hidden").expect("written");
        let error = TomlFile::read(&path).err().expect("refused").to_string();
        assert!(!error.contains("pnu_hidden"), "{error}");
    }
}
