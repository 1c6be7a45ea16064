//! The page and its files, out of this program: nothing is fetched from anywhere else.
//!
//! One page for every path; what it shows it finds out by itself. Tags are digests of the content, so that a browser
//! asks each time and is answered with nothing when it has the file.

use super::answers::Refusal;
use axum::{
    body::Body,
    extract::Path,
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use sha2::{Digest, Sha256};
use std::{collections::HashMap, sync::LazyLock};

/// Name and content of each, from the folder `assets`.
static FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/assets.rs"));

static ASSETS: LazyLock<HashMap<&'static str, Asset>> =
    LazyLock::new(|| FILES.iter().map(|(name, content)| (*name, Asset::new(name, content))).collect());

struct Asset {
    content: &'static [u8],
    tag: HeaderValue,
    kind: HeaderValue,
}

impl Asset {
    fn new(name: &str, content: &'static [u8]) -> Self {
        let digest = Sha256::digest(content);
        let hex: String = digest[..12].iter().map(|byte| format!("{byte:02x}")).collect();
        let kind = match name.rsplit('.').next() {
            Some("html") => "text/html; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "application/octet-stream",
        };
        let tag = HeaderValue::try_from(format!("\"{hex}\"")).expect("hex digits are a header's text");
        Self { content, tag, kind: HeaderValue::from_static(kind) }
    }
}

/// The page.
pub async fn index(headers: HeaderMap) -> Response<Body> {
    serve("index.html", &headers)
}

/// One of its files.
pub async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response<Body> {
    serve(&name, &headers)
}

/// What browsers ask for whatever the page says.
pub async fn favicon(headers: HeaderMap) -> Response<Body> {
    serve("icon.svg", &headers)
}

fn serve(name: &str, headers: &HeaderMap) -> Response<Body> {
    let Some(asset) = ASSETS.get(name) else {
        return Refusal::not_found("there is no such file").into_response();
    };
    let known = headers.get_all(header::IF_NONE_MATCH).iter().any(|tags| {
        let tags = tags.to_str().unwrap_or_default();
        tags.split(',').any(|tag| tag.trim().trim_start_matches("W/").as_bytes() == asset.tag.as_bytes())
    });
    let mut answer = match known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => Response::new(Body::from(asset.content)),
    };
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, asset.kind.clone());
    headers.insert(header::ETAG, asset.tag.clone());
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_sent_once() {
        let first = serve("index.html", &HeaderMap::new());
        assert_eq!(first.status(), StatusCode::OK);
        assert_eq!(first.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
        let mut again = HeaderMap::new();
        again.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
        assert_eq!(serve("index.html", &again).status(), StatusCode::NOT_MODIFIED);
        for missing in ["", "../Cargo.toml", "index", "package.json"] {
            assert_eq!(serve(missing, &HeaderMap::new()).status(), StatusCode::NOT_FOUND, "{missing}");
        }
    }

    #[test]
    fn no_script_or_style_stands_in_the_page() {
        let page = std::str::from_utf8(ASSETS["index.html"].content).unwrap();
        // The policy of `guard` would keep them from working.
        for inline in ["<style", " style=", " onclick=", " onload=", "javascript:", "http://", "https://"] {
            assert!(!page.contains(inline), "{inline}");
        }
        for script in page.split("<script").skip(1) {
            assert!(script.split('>').next().unwrap().contains("src="), "<script{script}");
        }
        for file in page.split("/assets/").skip(1) {
            let name: String = file.chars().take_while(|c| !matches!(c, '"' | '\'' | ' ' | '>')).collect();
            assert!(ASSETS.contains_key(name.as_str()), "{name} is not there");
        }
    }
}
