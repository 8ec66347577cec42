//! Links the Node addon as napi wants it, and what the static libav needs beside itself; and notes what is linked in, for
//! `captionacc --version --verbose`.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Crates whose versions matter to whoever looks for the cause of a fault, or for a vulnerability.
const NOTED_CRATES: [&str; 6] = ["rten", "reqwest", "ring", "rustls", "rusqlite", "tokio"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=Cargo.lock");
    if env::var_os("CARGO_FEATURE_ADDON").is_some() {
        napi_build::setup();
    }
    if env::var_os("CARGO_FEATURE_WORKER").is_some() {
        find_dashboard();
        println!("cargo::rerun-if-env-changed=FFMPEG_DIR");
        let libav = env::var_os("FFMPEG_DIR").map(PathBuf::from);
        link_what_libav_needs(libav.as_deref());
        let target = env::var("TARGET").expect("cargo says what it builds for");
        println!("cargo::rustc-env=CAPTIONACC_TARGET={target}");
        println!(
            "cargo::rustc-env=CAPTIONACC_LINKED={}",
            linked(libav.as_deref()).join(";")
        );
    }
}

/// The pages of the dashboard are built by Node before the binary that carries them.
fn find_dashboard() {
    println!("cargo::rerun-if-changed=dashboard/dist");
    assert!(
        Path::new("dashboard/dist/app.js.gz").exists(),
        "the pages of the dashboard are not built: run bash scripts/build-dashboard.sh"
    );
}

/// The AV1 decoder and zlib, which a static libavcodec leaves to whoever links it: those that were built with it, else those
/// of the system.
fn link_what_libav_needs(libav: Option<&Path>) {
    let folder = libav.map(|prefix| prefix.join("lib"));
    let with_libav = folder.filter(|folder| folder.join("libdav1d.a").exists());
    if let Some(folder) = &with_libav {
        println!("cargo::rustc-link-search=native={}", folder.display());
    }
    let kind = if with_libav.is_some() { "static=" } else { "" };
    println!("cargo::rustc-link-lib={kind}dav1d");
    println!("cargo::rustc-link-lib={kind}z");
}

/// Name and version of what was built beside libav, and of the crates of [`NOTED_CRATES`], `NAME VERSION` each.
fn linked(libav: Option<&Path>) -> Vec<String> {
    let sources = libav.and_then(|prefix| fs::read_to_string(prefix.join("versions")).ok());
    let sources = sources.unwrap_or_default();
    let sources = sources.lines().map(|line| format!("{line} (Debian's source package)"));
    let lock = fs::read_to_string("Cargo.lock").expect("the lock file of this package is part of it");
    let crates = NOTED_CRATES.iter().filter_map(|name| {
        let entry = format!("name = \"{name}\"\nversion = \"");
        let version = lock.split_once(&entry)?.1.split('"').next()?;
        Some(format!("{name} {version}"))
    });
    sources.chain(crates).collect()
}
