//! `captionacc --version --verbose`: what this program is made of.

use std::ffi::OsString;

use crate::orchestrator::local::sqlite_version;
use crate::video::media_description;

/// Whether the arguments ask for nothing but the version, in full.
pub(super) fn is_wanted(arguments: &[OsString]) -> bool {
    let is = |argument: &OsString, names: [&str; 2]| names.iter().any(|name| argument == name);
    let [_, given @ ..] = arguments else { return false };
    given.len() == 2
        && given.iter().any(|argument| is(argument, ["--version", "-V"]))
        && given.iter().any(|argument| is(argument, ["--verbose", "-v"]))
}

/// This program and everything that is linked into it, a line each.
pub(super) fn text() -> String {
    let media = media_description();
    let mut lines = vec![
        format!("captionacc {}", env!("CARGO_PKG_VERSION")),
        format!("target {}", env!("CAPTIONACC_TARGET")),
        format!("SQLite {}", sqlite_version()),
        format!("FFmpeg {} ({})", media.libraries.join(", "), media.license),
        format!("decoders {}", media.decoders.join(", ")),
    ];
    lines.extend(env!("CAPTIONACC_LINKED").split(';').map(str::to_owned));
    lines.join("\n") + "\n"
}
