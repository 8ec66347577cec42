//! Tables that are filled beside those of the app in short transactions, and take their place in one that is short too.
//!
//! Theory of operation: a [`Shadow`] is a table of ours in annotations.db with the columns and indexes of one of the app's. Once it
//! is full, [`exchange`] swaps the two in `sqlite_schema`: the numbers of the pages where their trees begin, and nothing
//! else. So the transaction that makes the new set visible writes a few pages, however long the film is; readers have the
//! old set whole or the new one whole, as with any transaction; and names, texts, order, references, views and triggers of the
//! app's schema stay as they are, to the byte. The schema cookie is raised, by which every other connection notices
//! that what it knows of the schema is out of date, and prepares its statements again. What the shadow has then is the
//! old set, which is deleted row by row in short transactions, and at last the table ([`delete_some`]).
//!
//! A death at any moment leaves at most a shadow, which says by its name what it is ([`leftovers`]); the next attempt
//! removes it.
//!
//! What was ruled out, with what it takes for 10,000 frames of 20 kB in WAL mode:
//! - one transaction (what there was): it holds the lock as long as the bytes take, 2.8 s on a busy machine;
//! - `ALTER TABLE … RENAME`: it writes the name in quotes into the app's own text, and the indexes keep the names of the old
//!   table's. New ones read through every frame under the lock, because `crop_bounds_version` lies behind the picture (0.1 s,
//!   growing with the film);
//! - staging in the app's table under other keys (negative ones): whoever counts or lists frames sees them, and to give them
//!   their keys is to write every frame again, because SQLite keeps a row's content with its key (2.5 s, 206 MB of log).
//!
//! A table that an exchange would pass something by has none, and is written in one transaction as it is: one with triggers,
//! which are to see every row, without row ids, virtual, or with an index whose text is not understood.

use rusqlite::{Connection, OptionalExtension};

use super::error::Fault;
use super::schema::columns;

/// How the names of our tables begin; eight digits and the name of the app's table follow.
const PREFIX: &str = "captionacc_";
/// What a row takes beside its picture, roughly.
const ROW_BYTES: u64 = 400;

/// A table that is to take the place of another one.
#[derive(Debug)]
pub(super) struct Shadow {
    name: String,
    parts: Vec<Part>,
}

/// A table or an index of the app, and ours that is like it.
#[derive(Debug)]
struct Part {
    of_the_app: Object,
    ours: String,
}

/// A row of `sqlite_schema`. An index that a constraint made has no text.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Object {
    kind: String,
    name: String,
    text: Option<String>,
}

impl Shadow {
    /// Makes an empty shadow of `table`; `None` if it can have none.
    ///
    /// # Errors
    /// SQLite's; a text that cannot be used under another name (a constraint that names its table) is one of them.
    pub(super) fn create(sqlite: &Connection, table: &str) -> Result<Option<Self>, Fault> {
        let is_plain = sqlite
            .query_row(
                "SELECT type = 'table' AND wr = 0 FROM pragma_table_list WHERE schema = 'main' AND lower(name) = ?1",
                [table],
                |row| row.get(0),
            )
            .optional()?;
        // As a child of another table it would bind whoever writes that one.
        let refers: bool = sqlite.query_row(
            "SELECT EXISTS (SELECT 1 FROM pragma_foreign_key_list(?1))",
            [table],
            |row| row.get(0),
        )?;
        if is_plain != Some(true) || refers {
            return Ok(None);
        }
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let name = format!("{PREFIX}{}_{table}", &unique[..8]);
        let mut parts = Vec::new();
        for (number, of_the_app) in objects_of(sqlite, table)?.into_iter().enumerate() {
            let Some((ours, text)) = of_the_app.renamed(&name, number) else {
                return Ok(None);
            };
            if let Some(text) = text {
                sqlite.execute_batch(&text)?;
            }
            parts.push(Part { of_the_app, ours });
        }
        let shadow = Self { name, parts };
        shadow.begin_sequence(sqlite)?;
        Ok(Some(shadow))
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the app's table is still as it was when the shadow was made, and the shadow is still there.
    pub(super) fn is_like(&self, sqlite: &Connection, table: &str) -> rusqlite::Result<bool> {
        let now = objects_of(sqlite, table)?;
        let is_same = now.iter().eq(self.parts.iter().map(|part| &part.of_the_app));
        Ok(is_same && objects_of(sqlite, &self.name)?.len() == self.parts.len())
    }

    fn table(&self) -> &str {
        let table = self.parts.iter().find(|part| part.of_the_app.kind == "table");
        table.map_or("", |part| &part.of_the_app.name)
    }

    /// `AUTOINCREMENT` gives no id twice: the shadow goes on where the app's table is.
    fn begin_sequence(&self, sqlite: &Connection) -> rusqlite::Result<()> {
        if !columns(sqlite, "sqlite_sequence")?.is_empty() {
            sqlite.execute(
                "INSERT INTO main.sqlite_sequence (name, seq) SELECT ?1, seq FROM main.sqlite_sequence WHERE name = ?2",
                [&self.name, self.table()],
            )?;
        }
        Ok(())
    }

    /// The app's table goes on where the shadow is.
    fn end_sequence(&self, sqlite: &Connection) -> rusqlite::Result<()> {
        if columns(sqlite, "sqlite_sequence")?.is_empty() {
            return Ok(());
        }
        let names = [&self.name, self.table()];
        sqlite.execute(
            "UPDATE main.sqlite_sequence AS app SET seq = max(app.seq, ours.seq)
             FROM (SELECT seq FROM main.sqlite_sequence WHERE name = ?1) AS ours WHERE app.name = ?2",
            names,
        )?;
        sqlite.execute(
            "INSERT INTO main.sqlite_sequence (name, seq) SELECT ?2, seq FROM main.sqlite_sequence WHERE name = ?1
             AND NOT EXISTS (SELECT 1 FROM main.sqlite_sequence WHERE name = ?2)",
            names,
        )?;
        Ok(())
    }
}

impl Object {
    /// Name and text of the like of it that belongs to the table `shadow`; `None` if there is none.
    fn renamed(&self, shadow: &str, number: usize) -> Option<(String, Option<String>)> {
        match (self.kind.as_str(), &self.text) {
            // SQLite begins the text of a table in this way, however it was written.
            ("table", Some(text)) => {
                let rest = after_identifier(text.strip_prefix("CREATE TABLE ")?)?;
                Some((shadow.to_owned(), Some(format!("CREATE TABLE {shadow}{rest}"))))
            }
            ("index", None) => {
                let (_, number) = self.name.rsplit_once('_')?;
                Some((format!("sqlite_autoindex_{shadow}_{number}"), None))
            }
            ("index", Some(text)) => {
                let plain = text.strip_prefix("CREATE INDEX ").map(|rest| ("CREATE INDEX", rest));
                let (create, rest) =
                    plain.or_else(|| Some(("CREATE UNIQUE INDEX", text.strip_prefix("CREATE UNIQUE INDEX ")?)))?;
                let on = after_identifier(rest)?.trim_start();
                let (_, table) = on.split_at_checked(2).filter(|(on, _)| on.eq_ignore_ascii_case("on"))?;
                let rest = after_identifier(table.trim_start())?;
                let name = format!("{shadow}_{number}");
                let text = format!("{create} {name} ON {shadow}{rest}");
                Some((name, Some(text)))
            }
            _ => None,
        }
    }
}

/// What belongs to a table, in the order of the schema.
fn objects_of(sqlite: &Connection, table: &str) -> rusqlite::Result<Vec<Object>> {
    sqlite
        .prepare("SELECT type, name, sql FROM main.sqlite_schema WHERE lower(tbl_name) = ?1 ORDER BY rowid")?
        .query_map([table], |row| {
            Ok(Object {
                kind: row.get(0)?,
                name: row.get(1)?,
                text: row.get(2)?,
            })
        })?
        .collect()
}

/// What follows an identifier, plain or in any of the quotes that SQLite takes.
fn after_identifier(text: &str) -> Option<&str> {
    let first = text.chars().next()?;
    let closing = match first {
        '"' | '`' | '\'' => first,
        '[' => ']',
        _ => {
            let is_part =
                |character: char| character.is_alphanumeric() || "_$".contains(character) || !character.is_ascii();
            let end = text.find(|character| !is_part(character)).unwrap_or(text.len());
            return (end > 0).then(|| &text[end..]);
        }
    };
    let mut rest = text.get(1..)?;
    loop {
        rest = &rest[rest.find(closing)? + 1..];
        match rest.strip_prefix(closing) {
            // A quote within the name is written twice.
            Some(more) if closing != ']' => rest = more,
            _ => return Some(rest),
        }
    }
}

/// Swaps shadows and tables. In the caller's transaction: whoever reads sees all of them swapped, or none.
pub(super) fn exchange(sqlite: &Connection, shadows: &[Shadow]) -> Result<(), Fault> {
    let root = |name: &str| -> rusqlite::Result<i64> {
        sqlite.query_row(
            "SELECT rootpage FROM main.sqlite_schema WHERE name = ?1 AND type IN ('table', 'index')",
            [name],
            |row| row.get(0),
        )
    };
    let mut roots = Vec::new();
    for Part { of_the_app, ours } in shadows.iter().flat_map(|shadow| &shadow.parts) {
        roots.push((&of_the_app.name, root(ours)?));
        roots.push((ours, root(&of_the_app.name)?));
    }
    sqlite.pragma_update(None, "writable_schema", true)?;
    let swapped = roots.iter().try_for_each(|(name, root)| {
        sqlite
            .execute(
                "UPDATE main.sqlite_schema SET rootpage = ?2 WHERE name = ?1 AND type IN ('table', 'index')",
                (name, root),
            )
            .map(drop)
    });
    sqlite.pragma_update(None, "writable_schema", false)?;
    swapped?;
    for shadow in shadows {
        shadow.end_sequence(sqlite)?;
    }
    let version: i32 = sqlite.query_row("PRAGMA main.schema_version", [], |row| row.get(0))?;
    sqlite.pragma_update(Some("main"), "schema_version", version.wrapping_add(1))?;
    Ok(())
}

/// Shadows of `table` that somebody has left behind.
pub(super) fn leftovers(sqlite: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let digits = "[0-9a-f]".repeat(8);
    sqlite
        .prepare("SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name GLOB ?1")?
        .query_map([format!("{PREFIX}{digits}_{table}")], |row| row.get(0))?
        .collect()
}

/// What one step of removing a shadow has done.
pub(super) enum Deleted {
    /// Rows of about so many bytes; there may be more.
    Some(u64),
    /// The table is gone.
    All,
}

/// Deletes rows of a shadow of about `bytes`, and the shadow once it is empty.
pub(super) fn delete_some(sqlite: &Connection, shadow: &str, bytes: u64) -> Result<Deleted, Fault> {
    let found = columns(sqlite, shadow)?;
    if found.is_empty() {
        return Ok(Deleted::All);
    }
    let picture = if found.has("image_data") {
        "length(image_data)"
    } else {
        "0"
    };
    let mut done = 0;
    let mut last: Option<i64> = None;
    {
        let mut statement = sqlite.prepare(&format!("SELECT rowid, {picture} FROM main.{shadow} ORDER BY rowid"))?;
        let mut rows = statement.query([])?;
        while done < bytes {
            let Some(row) = rows.next()? else { break };
            last = Some(row.get(0)?);
            done += ROW_BYTES + row.get::<_, Option<i64>>(1)?.unwrap_or(0).unsigned_abs();
        }
    }
    if last.is_none() {
        sqlite.execute_batch(&format!("DROP TABLE main.{shadow}"))?;
        return Ok(Deleted::All);
    }
    sqlite.execute(&format!("DELETE FROM main.{shadow} WHERE rowid <= ?1"), [last])?;
    Ok(Deleted::Some(done))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_a_schema_are_copied_under_another_name() {
        let renamed = |kind: &str, text: &str| {
            let object = Object {
                kind: kind.to_owned(),
                name: "app".to_owned(),
                text: Some(text.to_owned()),
            };
            object.renamed("ours", 3).and_then(|(_, text)| text)
        };
        let cases = [
            ("table", "CREATE TABLE app (a, b)", Some("CREATE TABLE ours (a, b)")),
            ("table", "CREATE TABLE \"a\"\"pp\"(a)", Some("CREATE TABLE ours(a)")),
            ("table", "CREATE TABLE [a pp](a)", Some("CREATE TABLE ours(a)")),
            ("table", "CREATE VIRTUAL TABLE app USING fts5 (a)", None),
            (
                "index",
                "CREATE INDEX i ON app (a)",
                Some("CREATE INDEX ours_3 ON ours (a)"),
            ),
            (
                "index",
                "CREATE UNIQUE INDEX `i j` on\n\"app\"(a) WHERE a > 'on app'",
                Some("CREATE UNIQUE INDEX ours_3 ON ours(a) WHERE a > 'on app'"),
            ),
            ("index", "CREATE INDEX i /* ON app */ ON app (a)", None),
            (
                "trigger",
                "CREATE TRIGGER t AFTER INSERT ON app BEGIN SELECT 1; END",
                None,
            ),
        ];
        for (kind, text, expected) in cases {
            assert_eq!(renamed(kind, text).as_deref(), expected, "{text}");
        }
    }
}
