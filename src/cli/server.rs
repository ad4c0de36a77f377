//! A server as a client sees it: its index documents, and points as bodies of the binary form.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Failure;
use crate::api::binary::{self, Rows};
use crate::types::{IndexId, Lsn, Metric};

/// Bytes of an answer. What is asked for is bounded: this is for a server that is none of ours.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// A server, and a key that it knows.
#[derive(Debug)]
pub struct Server {
    agent: ureq::Agent,
    url: String,
    key: String,
}

/// What is needed of an index document.
#[derive(Debug, Deserialize)]
pub struct Document {
    pub id: IndexId,
    pub tenant_id: String,
    pub dimension: usize,
    pub metric: Metric,
}

/// An answer of the binary form: points, and what it says beside them.
#[derive(Debug)]
pub struct Points(Vec<u8>);

/// The JSON of such an answer.
#[derive(Debug, Deserialize)]
pub struct Head<'a> {
    #[serde(borrow)]
    pub vectors: Vec<Point<'a>>,
    pub lsn: Lsn,
    /// Null after the last page; absent where there are no pages.
    pub next_cursor: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Point<'a> {
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    #[serde(borrow)]
    pub metadata: &'a RawValue,
    pub lsn: Lsn,
}

/// What is sent with a call.
enum Sent<'a> {
    Nothing,
    Json(&'a Value),
    Binary(&'a [u8]),
}

impl Server {
    /// The server at a URL; its key is in the environment variable `variable`.
    ///
    /// # Errors
    /// Where the URL cannot be one, or there is no key.
    pub fn new(url: &str, variable: &str) -> Result<Self, Failure> {
        let key =
            std::env::var(variable).map_err(|_| Failure::new(format!("{variable} has no API key of the server: set it")))?;
        if !url.starts_with("http://") {
            return Err(Failure::new(format!("--url {url}: must begin with http://; TLS is not spoken")));
        }
        let agent = ureq::Agent::config_builder().proxy(None).http_status_as_error(false).build().into();
        Ok(Self { agent, url: url.trim_end_matches('/').to_owned(), key })
    }

    /// # Errors
    /// Where the server cannot be reached, refuses, or answers something else.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.decoded(path, &self.call(path, &Sent::Nothing, None, "application/json")?)
    }

    /// # Errors
    /// As [`get`](Self::get).
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &Value, idempotency_key: Option<&str>) -> Result<T, Failure> {
        self.decoded(path, &self.call(path, &Sent::Json(body), idempotency_key, "application/json")?)
    }

    /// Sends a body of the binary form.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn send(&self, path: &str, body: &[u8]) -> Result<(), Failure> {
        self.call(path, &Sent::Binary(body), None, "application/json").map(drop)
    }

    /// Points with their values; where there is a body, it is posted.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn points(&self, path: &str, body: Option<&Value>) -> Result<Points, Failure> {
        let sent = body.map_or(Sent::Nothing, Sent::Json);
        self.call(path, &sent, None, binary::MEDIA_TYPE).map(Points)
    }

    /// What an answer of points says.
    ///
    /// # Errors
    /// Where it is none.
    pub fn read<'a>(&self, path: &str, points: &'a Points, dimension: usize) -> Result<(Head<'a>, Rows<'a>), Failure> {
        let (json, rows) = binary::split(&points.0).map_err(|why| self.foreign(path, &why))?;
        let head: Head<'_> = serde_json::from_slice(json).map_err(|error| self.foreign(path, &error))?;
        let rows = Rows::new(rows, head.vectors.len(), dimension).map_err(|why| self.foreign(path, &why))?;
        Ok((head, rows))
    }

    fn call(&self, path: &str, sent: &Sent<'_>, idempotency_key: Option<&str>, accept: &str) -> Result<Vec<u8>, Failure> {
        let url = format!("{}{path}", self.url);
        let failed = |why: String| Failure::new(format!("{url}: {why}"));
        let post = |media_type: &str| {
            let post = self.agent.post(&url).header("x-api-key", &self.key).header("accept", accept);
            let post = post.header("content-type", media_type);
            match idempotency_key {
                Some(key) => post.header("idempotency-key", key),
                None => post,
            }
        };
        let answer = match sent {
            Sent::Nothing => self.agent.get(&url).header("x-api-key", &self.key).header("accept", accept).call(),
            Sent::Json(body) => post("application/json").send(body.to_string()),
            Sent::Binary(body) => post(binary::MEDIA_TYPE).send(*body),
        };
        let mut answer = answer.map_err(|error| failed(error.to_string()))?;
        let bytes = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let bytes = bytes.map_err(|error| failed(error.to_string()))?;
        if answer.status().is_success() { Ok(bytes) } else { Err(failed(problem(answer.status().as_u16(), &bytes))) }
    }

    fn decoded<T: DeserializeOwned>(&self, path: &str, json: &[u8]) -> Result<T, Failure> {
        serde_json::from_slice(json).map_err(|error| self.foreign(path, &error))
    }

    fn foreign(&self, path: &str, why: &dyn std::fmt::Display) -> Failure {
        Failure::new(format!("{}{path}: not the answer of this server: {why}", self.url))
    }
}

/// What a problem document says, or what else came.
fn problem(status: u16, body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Problem {
        detail: String,
    }
    let text = String::from_utf8_lossy(body);
    let detail = serde_json::from_str(&text).map_or_else(|_| crate::error::quoted(&text), |problem: Problem| problem.detail);
    format!("{status}: {detail}")
}
