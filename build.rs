//! Links the Node addon as napi wants it, and what the static libav needs beside itself.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_ADDON").is_some() {
        napi_build::setup();
    }
    if std::env::var_os("CARGO_FEATURE_WORKER").is_some() {
        // The AV1 decoder and zlib, which a static libavcodec leaves to whoever links it.
        println!("cargo::rustc-link-lib=dav1d");
        println!("cargo::rustc-link-lib=z");
    }
}
