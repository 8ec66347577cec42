//! Dependencies point one way: the table "Floors" in ARCHITECTURE.md is the rule, and every path in `src/` is held to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A place in `src/` that names another file of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Import {
    from: PathBuf,
    line: usize,
    path: String,
    to: PathBuf,
}

#[test]
fn every_import_keeps_to_the_floors_of_the_table() {
    let source = Source::read();
    let floors = floors();
    let mut faults = String::new();
    for room in source.rooms() {
        if !floors.contains_key(&room) {
            writeln!(faults, "src/{room}: the table has no such room").expect("a text");
        }
    }
    for import in source.imports() {
        let (from, to) = (room_of(&import.from), room_of(&import.to));
        let is_allowed = from == to || floors.get(&from).is_some_and(|allowed| allowed.contains(&to));
        if !is_allowed {
            let Import {
                from: file, line, path, ..
            } = &import;
            writeln!(faults, "{}:{line}: {path}: {from} may not use {to}", file.display()).expect("a text");
        }
    }
    assert!(faults.is_empty(), "against the table of ARCHITECTURE.md:\n{faults}");
}

#[test]
fn the_table_itself_has_no_circle() {
    let edges = floors()
        .into_iter()
        .flat_map(|(room, allowed)| allowed.into_iter().map(move |other| (room.clone(), other)))
        .collect();
    assert_eq!(circles(&edges), Vec::<Vec<String>>::new());
}

#[test]
fn no_two_files_need_each_other() {
    let imports = Source::read().imports();
    let edges = imports
        .iter()
        .filter(|import| import.from != import.to)
        .map(|import| (import.from.display().to_string(), import.to.display().to_string()))
        .collect();
    let mut faults = String::new();
    for circle in circles(&edges) {
        writeln!(faults, "a circle of {}:", circle.join(", ")).expect("a text");
        for import in &imports {
            let is_within = |file: &Path| circle.contains(&file.display().to_string());
            if import.from != import.to && is_within(&import.from) && is_within(&import.to) {
                let Import { from, line, path, to } = import;
                writeln!(faults, "  {}:{line}: {path} ({})", from.display(), to.display()).expect("a text");
            }
        }
    }
    assert!(faults.is_empty(), "{faults}");
}

#[test]
fn paths_are_found_in_whatever_form_they_are_written() {
    let text = "use crate::a::{b as x, c::{D, self}};\nmod child;\nfn f() { select! { x = super::e::g() => child::h() } }\n\
                // crate::no\nconst T: &str = \"crate::no\";\n#[cfg(test)]\nmod tests { use super::*; use crate::no; }";
    let mut found = Vec::new();
    let tokens: TokenStream = text.parse().expect("Rust");
    paths(&tokens, &["child".to_owned()], &mut |path, _| {
        found.push(path.join("::"));
    });
    let expected = [
        "crate::a::b",
        "crate::a::c::D",
        "crate::a::c::self",
        "super::e::g",
        "child::h",
    ];
    assert_eq!(found, expected);
}

/// The rooms of the table, each with those that it may use.
fn floors() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the map is there");
    let section = text.split("\n## Floors\n").nth(1).expect("it has a section \"Floors\"");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rooms: BTreeMap<_, _> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(room, rest)| {
            (
                room.to_owned(),
                rest.split('`').skip(1).step_by(2).map(str::to_owned).collect(),
            )
        })
        .collect();
    assert!(rooms.len() > 5, "the table was not found: {rooms:?}");
    rooms
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `domain` of `src/domain/flow/mod.rs`, `protocol` of `src/protocol.rs`.
fn room_of(file: &Path) -> String {
    let name = file.iter().nth(1).unwrap_or_default().to_string_lossy();
    name.strip_suffix(".rs").unwrap_or(&name).to_owned()
}

/// The files below `src/`, by the path of their module.
struct Source {
    files: BTreeMap<Vec<String>, PathBuf>,
}

impl Source {
    fn read() -> Self {
        let mut files = BTreeMap::new();
        let mut folders = vec![PathBuf::from("src")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(root().join(&folder)).expect("a folder") {
                let entry = entry.expect("readable");
                let path = folder.join(entry.file_name());
                if entry.file_type().expect("known").is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let module = path.with_extension("");
                    let mut module: Vec<String> = module
                        .iter()
                        .skip(1)
                        .map(|name| name.to_string_lossy().into_owned())
                        .collect();
                    // The crate's entries stand above everything and belong to no room.
                    if module == ["lib"] || module == ["main"] {
                        continue;
                    }
                    if module.last().is_some_and(|name| name == "mod") {
                        module.pop();
                    }
                    files.insert(module, path);
                }
            }
        }
        Self { files }
    }

    fn rooms(&self) -> BTreeSet<String> {
        self.files.values().map(|file| room_of(file)).collect()
    }

    fn imports(&self) -> Vec<Import> {
        let mut imports = Vec::new();
        for (module, file) in &self.files {
            let text = fs::read_to_string(root().join(file)).expect("readable");
            let tokens: TokenStream = text.parse().expect("it compiles");
            let children: Vec<String> = self
                .files
                .keys()
                .filter(|other| other.len() == module.len() + 1 && other.starts_with(module))
                .filter_map(|other| other.last().cloned())
                .collect();
            paths(&tokens, &children, &mut |path, line| {
                if let Some(to) = self.resolve(module, path) {
                    imports.push(Import {
                        from: file.clone(),
                        line,
                        path: path.join("::"),
                        to: to.clone(),
                    });
                }
            });
        }
        imports
    }

    /// The file that a path leads to: the last module on its way.
    fn resolve(&self, module: &[String], path: &[String]) -> Option<&PathBuf> {
        let mut at = module.to_vec();
        let mut rest = path;
        if path.first().is_some_and(|word| word == "crate") {
            at.clear();
            rest = &path[1..];
        }
        for word in rest {
            match word.as_str() {
                "self" => {}
                "super" => drop(at.pop()),
                word => {
                    at.push(word.to_owned());
                    if !self.files.contains_key(&at) {
                        at.pop();
                        break;
                    }
                }
            }
        }
        self.files.get(&at)
    }
}

/// Calls `found` with every path that begins with `crate`, `super` or one of `children`. What is in `mod … { … }` (the unit
/// tests of a file) is left out.
fn paths(tokens: &TokenStream, children: &[String], found: &mut dyn FnMut(&[String], usize)) {
    let tokens: Vec<TokenTree> = tokens.clone().into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Ident(word) if *word == "mod" => at += 3,
            TokenTree::Ident(word) => {
                let is_path = is_separator(&tokens, at + 1) && !(at >= 2 && is_separator(&tokens, at - 2));
                let word = word.to_string();
                if is_path && (word == "crate" || word == "super" || children.contains(&word)) {
                    at = path(&tokens, at, &mut Vec::new(), found);
                } else {
                    at += 1;
                }
            }
            TokenTree::Group(group) => {
                paths(&group.stream(), children, found);
                at += 1;
            }
            _ => at += 1,
        }
    }
}

/// One path, or the several of a tree of imports; returns where it ends.
fn path(
    tokens: &[TokenTree],
    mut at: usize,
    before: &mut Vec<String>,
    found: &mut dyn FnMut(&[String], usize),
) -> usize {
    let depth = before.len();
    loop {
        match tokens.get(at) {
            Some(TokenTree::Ident(word)) => {
                before.push(word.to_string());
                at += 1;
                if is_separator(tokens, at) {
                    at += 2;
                    continue;
                }
                found(before, word.span().start().line);
            }
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                let mut next = 0;
                while next < inner.len() {
                    next = path(&inner, next, before, found);
                    // `as name` belongs to the one before.
                    while inner.get(next).is_some_and(|token| token.to_string() != ",") {
                        next += 1;
                    }
                    next += 1;
                }
                at += 1;
            }
            // A glob, or the generic arguments of a function.
            Some(other) => {
                found(before, other.span().start().line);
                at += 1;
            }
            None => {}
        }
        before.truncate(depth);
        return at;
    }
}

fn is_separator(tokens: &[TokenTree], at: usize) -> bool {
    let is_colon = |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    is_colon(at) && is_colon(at + 1)
}

/// The groups that can be reached from each other, by Kosaraju's two walks.
fn circles(edges: &BTreeSet<(String, String)>) -> Vec<Vec<String>> {
    fn walk<'a>(
        node: &'a str,
        edges: &BTreeMap<&'a str, Vec<&'a str>>,
        seen: &mut BTreeSet<&'a str>,
        order: &mut Vec<&'a str>,
    ) {
        if seen.insert(node) {
            for next in edges.get(node).into_iter().flatten() {
                walk(next, edges, seen, order);
            }
            order.push(node);
        }
    }
    let mut ahead: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut back: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in edges {
        ahead.entry(from).or_default().push(to);
        back.entry(to).or_default().push(from);
    }
    let (mut seen, mut order) = (BTreeSet::new(), Vec::new());
    for node in ahead.keys() {
        walk(node, &ahead, &mut seen, &mut order);
    }
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for node in order.into_iter().rev() {
        let mut group = Vec::new();
        walk(node, &back, &mut seen, &mut group);
        if group.len() > 1 {
            group.sort_unstable();
            found.push(group.into_iter().map(str::to_owned).collect());
        }
    }
    found
}
