//! The pages: one document, one script, one sheet of styles, which the binary carries (scripts/build-dashboard.sh makes them).

use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderName, StatusCode, Uri};
use axum::response::{IntoResponse, Response};

/// A file of the bundle, compressed.
macro_rules! bundled {
    ($name:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/dashboard/dist/", $name, ".gz"))
    };
}

const SCRIPT: &[u8] = bundled!("app.js");
const STYLES: &[u8] = bundled!("app.css");
const DOCUMENT: &[u8] = bundled!("index.html");
const ICON: &[u8] = bundled!("icon.svg");

fn file(kind: &'static str, bytes: &'static [u8]) -> Response {
    let headers: [(HeaderName, &str); 2] = [(CONTENT_TYPE, kind), (CONTENT_ENCODING, "gzip")];
    (headers, bytes).into_response()
}

pub(super) async fn script() -> Response {
    file("text/javascript; charset=utf-8", SCRIPT)
}

pub(super) async fn styles() -> Response {
    file("text/css; charset=utf-8", STYLES)
}

pub(super) async fn icon() -> Response {
    file("image/svg+xml", ICON)
}

/// Every other address is a place within the one document, which says so if there is nothing.
pub(super) async fn document(uri: Uri) -> Response {
    if uri.path().starts_with("/api/") {
        return StatusCode::NOT_FOUND.into_response();
    }
    file("text/html; charset=utf-8", DOCUMENT)
}
