//! `GET /docs`: Swagger UI over `/openapi.json`, from files of ours: a machine without a network has it too, and no other host learns who reads it.

use std::sync::OnceLock;

use bytes::Bytes;
use flate2::bufread::GzDecoder;
use warp::http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, VARY};
use warp::http::{HeaderMap, HeaderValue};
use warp::reply::Response;

use super::request::quality;

/// Everything is of this server; the pictures of the style sheet are in it. No style is inline and no script is made of text, so neither need be allowed.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Files change with the version of the server alone, and any of them goes with any page.
const KEPT: HeaderValue = HeaderValue::from_static("public, max-age=3600");

pub fn page() -> Response {
    let mut response = answer("text/html; charset=utf-8", Bytes::from_static(include_bytes!("index.html")));
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

/// What the page names. `swagger-ui/README.md` says where the first two come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    Style,
    Script,
    Start,
}

impl File {
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "swagger-ui.css" => Some(Self::Style),
            "swagger-ui-bundle.js" => Some(Self::Script),
            "start.js" => Some(Self::Start),
            _ => None,
        }
    }

    pub fn answer(self, headers: &HeaderMap) -> Response {
        static STYLE: Packed = Packed::new(include_bytes!("swagger-ui/swagger-ui.css.gz"));
        static SCRIPT: Packed = Packed::new(include_bytes!("swagger-ui/swagger-ui-bundle.js.gz"));
        const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
        let mut response = match self {
            Self::Style => STYLE.answer("text/css; charset=utf-8", headers),
            Self::Script => SCRIPT.answer(JAVASCRIPT, headers),
            Self::Start => answer(JAVASCRIPT, Bytes::from_static(include_bytes!("start.js"))),
        };
        response.headers_mut().insert(CACHE_CONTROL, KEPT);
        response
    }
}

/// A file as gzip has it, and unpacked from when somebody first wants it so: a browser never does.
struct Packed {
    gzip: &'static [u8],
    plain: OnceLock<Bytes>,
}

impl Packed {
    const fn new(gzip: &'static [u8]) -> Self {
        Self { gzip, plain: OnceLock::new() }
    }

    fn answer(&self, content_type: &'static str, headers: &HeaderMap) -> Response {
        let mut response = if quality(headers, ACCEPT_ENCODING, "gzip") > 0.0 {
            let mut response = answer(content_type, Bytes::from_static(self.gzip));
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            response
        } else {
            answer(content_type, self.plain.get_or_init(|| unpacked(self.gzip)).clone())
        };
        response.headers_mut().insert(VARY, HeaderValue::from_static("accept-encoding"));
        response
    }
}

fn unpacked(gzip: &[u8]) -> Bytes {
    let mut plain = Vec::new();
    match std::io::copy(&mut GzDecoder::new(gzip), &mut plain) {
        Ok(_) => plain.into(),
        Err(error) => unreachable!("a test unpacks each file of this program: {error}"),
    }
}

fn answer(content_type: &'static str, bytes: Bytes) -> Response {
    let mut response = Response::new(bytes.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
