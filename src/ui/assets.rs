//! The files of the dashboard: style sheet, scripts, icon, and htmx. They are part of the program, compressed once, and
//! served under a name with their hash, so that browsers keep them for ever and get new ones after an update.

use std::io::Write as _;
use std::sync::LazyLock;

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

use crate::domain::key::hex;

/// A file.
#[derive(Debug)]
struct Asset {
    name: &'static str,
    content_type: &'static str,
    content: &'static [u8],
    /// The beginning of its SHA-256.
    version: String,
    /// Empty if the content does not become smaller.
    compressed: Vec<u8>,
}

impl Asset {
    fn new(name: &'static str, content_type: &'static str, content: &'static [u8]) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        let compressed = encoder.write_all(content).and_then(|()| encoder.finish()).unwrap_or_default();
        let compressed = if compressed.len() < content.len() { compressed } else { Vec::new() };
        Self { name, content_type, content, version: hex(&Sha256::digest(content)[..8]), compressed }
    }
}

static ASSETS: LazyLock<[Asset; 5]> = LazyLock::new(|| {
    [
        Asset::new("app.css", "text/css; charset=utf-8", include_bytes!("assets/app.css")),
        Asset::new("app.js", "text/javascript; charset=utf-8", include_bytes!("assets/app.js")),
        Asset::new("live.js", "text/javascript; charset=utf-8", include_bytes!("assets/live.js")),
        Asset::new("htmx.js", "text/javascript; charset=utf-8", include_bytes!("assets/vendor/htmx-2.0.10.min.js")),
        Asset::new("icon.svg", "image/svg+xml", include_bytes!("assets/icon.svg")),
    ]
});

/// Returns the path of a file, with its version.
pub(super) fn path(name: &str) -> String {
    let version = ASSETS.iter().find(|asset| asset.name == name).map_or("0", |asset| asset.version.as_str());
    format!("/ui/assets/{version}/{name}")
}

/// Returns the routes of the files. They need no session.
pub(super) fn router() -> Router {
    Router::new().route("/ui/assets/{version}/{name}", get(serve))
}

async fn serve(Path((version, name)): Path<(String, String)>, headers: HeaderMap) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.name == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    // During an update, a page of one version may load its files from a replica of another one.
    let is_current = asset.version == version;
    let caching = if is_current { "public, max-age=31536000, immutable" } else { "no-cache" };
    let etag = format!("\"{}\"", asset.version);
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == etag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response();
    }
    let common = [
        (header::CONTENT_TYPE, asset.content_type.to_owned()),
        (header::CACHE_CONTROL, caching.to_owned()),
        (header::ETAG, etag),
        (header::VARY, "accept-encoding".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    let accepts_gzip = headers
        .get(header::ACCEPT_ENCODING)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.split(',').any(|one| one.trim().eq_ignore_ascii_case("gzip")));
    if accepts_gzip && !asset.compressed.is_empty() {
        return (common, [(header::CONTENT_ENCODING, "gzip")], asset.compressed.as_slice()).into_response();
    }
    (common, asset.content).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::EventType;

    /// The vendored files, as `assets/vendor/VENDORED.md` lists them.
    const VENDORED: &str = include_str!("assets/vendor/VENDORED.md");

    #[test]
    fn vendored_files_are_unchanged() {
        let content = include_bytes!("assets/vendor/htmx-2.0.10.min.js");
        let row = VENDORED.lines().find(|line| line.contains("htmx-2.0.10.min.js")).unwrap();
        assert!(row.contains(&hex(&Sha256::digest(content))), "{row}");
    }

    /// An event that the script does not listen to would not update the list of messages.
    #[test]
    fn script_listens_to_every_event_of_messages() {
        let script = include_str!("assets/live.js");
        // Received messages are not in the list.
        let of_list = EventType::ALL.iter().filter(|event| **event != EventType::Received).map(ToString::to_string);
        for event in of_list.filter(|name| name.starts_with("message.")) {
            assert!(script.contains(&format!("\"{event}\"")), "{event}");
        }
    }

    #[test]
    fn first_load_is_small() {
        let size: usize = ASSETS.iter().map(|asset| asset.compressed.len().max(1)).sum();
        assert!(size < 60_000, "{size} bytes compressed");
        assert!(ASSETS.iter().all(|asset| !asset.compressed.is_empty()));
    }
}
