//! A request as the handlers see it: its id, its query, and its body, read within limits.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use percent_encoding::percent_decode_str;
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;
use warp::Stream;
use warp::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, IF_MATCH, IF_NONE_MATCH};
use warp::http::{HeaderMap, Method, StatusCode};

use super::reply::Problem;
use super::spans::Spans;
use super::{Connections, Server, binary};
use crate::error::Error;
use crate::types::{Condition, IdempotencyKey, WriteOptions};

/// Under which a request is found in the log: the client's own word where it sent one that is safe to repeat.
#[derive(Clone, Debug)]
pub struct RequestId(String);

impl RequestId {
    pub fn of(headers: &HeaderMap) -> Self {
        let sent = headers.get("x-request-id").and_then(|value| value.to_str().ok()).filter(|id| Self::is_safe(id));
        Self(sent.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned))
    }

    fn is_safe(id: &str) -> bool {
        (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is known of a request that is not in it.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub id: RequestId,
    /// Whoever has the other end of the connection: perhaps a proxy.
    pub peer: IpAddr,
    pub spans: Spans,
}

type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, warp::Error>> + Send>>;

/// A request whose path is known and whose body is still on its way.
pub struct Request {
    pub id: RequestId,
    pub peer: IpAddr,
    pub spans: Spans,
    pub came: Instant,
    pub method: Method,
    pub headers: HeaderMap,
    query: String,
    body: BodyStream,
}

impl Request {
    pub fn new(
        Arrival { id, peer, spans }: Arrival,
        method: Method,
        headers: HeaderMap,
        query: String,
        body: impl Stream<Item = Result<impl Buf, warp::Error>> + Send + 'static,
    ) -> Self {
        Self { id, peer, spans, came: Instant::now(), method, headers, query, body: Box::pin(Chunks(Box::pin(body))) }
    }

    /// The value of a query parameter, decoded; the first where it is there more than once.
    ///
    /// # Errors
    /// 422 where its percent-encoding gives no UTF-8.
    pub fn query(&self, name: &'static str) -> Result<Option<String>, Problem> {
        let value = self.query.split('&').find_map(|pair| match pair.split_once('=') {
            Some((key, value)) => (key == name).then_some(value),
            None => (pair == name).then_some(""),
        });
        value.map(|value| decode_percent(&value.replace('+', " "), name)).transpose()
    }

    /// As it came.
    pub fn raw_query(&self) -> &str {
        &self.query
    }

    /// A query parameter that is a whole number.
    ///
    /// # Errors
    /// 422 with this code where it is none, or is negative or too large.
    pub fn number<T: FromStr>(&self, name: &'static str, code: &'static str) -> Result<Option<T>, Problem> {
        let number = |text: String| text.parse().map_err(|_| Error::invalid(name, code, "must be a whole number"));
        Ok(self.query(name)?.map(number).transpose()?)
    }

    /// A query parameter that is `true` or `false`; absent, it is `false`.
    ///
    /// # Errors
    /// 422 where it is neither.
    pub fn flag(&self, name: &'static str) -> Result<bool, Problem> {
        match self.query(name)?.as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Error::invalid(name, "invalid_type", "must be true or false").into()),
        }
    }

    /// How a write is to be made: `durability` and `atomic` of the query, and the key of the header `Idempotency-Key`. `what`: the parts of the
    /// request that say what is to be written.
    ///
    /// # Errors
    /// 422 where one of them is none.
    pub fn write_options(&self, what: &[&[u8]]) -> Result<WriteOptions, Problem> {
        let durability = self.query("durability")?.map(|word| word.parse()).transpose()?.unwrap_or_default();
        let (atomic, key) = (self.flag("atomic")?, self.idempotency_key(what)?);
        Ok(WriteOptions { durability, atomic, key, points_max: None })
    }

    /// The key of the header `Idempotency-Key`.
    ///
    /// # Errors
    /// 422 where it is none.
    pub fn idempotency_key(&self, what: &[&[u8]]) -> Result<Option<IdempotencyKey>, Problem> {
        let Some(key) = self.headers.get("idempotency-key") else { return Ok(None) };
        let key = key.to_str().map_err(|_| {
            Error::invalid("Idempotency-Key", "invalid_idempotency_key", "has characters other than visible ones of ASCII")
        })?;
        let head = [self.method.as_str().as_bytes(), self.query.as_bytes()];
        Ok(Some(IdempotencyKey::new(key, &[&head[..], what].concat())?))
    }

    /// Until when a call may begin: so many seconds after the request came, by the header `X-Request-Timeout`.
    ///
    /// # Errors
    /// 422 where it is no number of seconds.
    pub fn deadline(&self) -> Result<Option<Instant>, Problem> {
        let Some(value) = self.headers.get("x-request-timeout") else { return Ok(None) };
        let seconds = value.to_str().ok().and_then(|text| text.trim().parse().ok());
        let timeout = seconds.and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok());
        let deadline = timeout.and_then(|timeout| self.came.checked_add(timeout));
        let wrong = || Error::invalid("X-Request-Timeout", "invalid_timeout", "must be a number of seconds, like 0.5");
        Ok(Some(deadline.ok_or_else(wrong)?))
    }

    /// What `If-Match: "<lsn>"`, `If-Match: *` or `If-None-Match: *` asks of a point.
    ///
    /// # Errors
    /// 422 where it is another one, or both.
    pub fn condition(&self) -> Result<Condition, Problem> {
        let word = |name| self.headers.get(name).map(|value| value.to_str().unwrap_or_default().trim());
        let lsn = |word: &str| word.strip_prefix('"').and_then(|word| word.strip_suffix('"')).unwrap_or(word).parse().ok();
        match (word(IF_MATCH), word(IF_NONE_MATCH)) {
            (None, None) => Ok(Condition::Always),
            (None, Some("*")) => Ok(Condition::Absent),
            (Some("*"), None) => Ok(Condition::Present),
            (Some(word), None) => lsn(word)
                .map(Condition::StoredBy)
                .ok_or_else(|| Error::invalid("If-Match", "invalid_condition", "must be the LSN of a point, or *").into()),
            (None, Some(_)) => Err(Error::invalid("If-None-Match", "invalid_condition", "must be *").into()),
            (Some(_), Some(_)) => Err(Error::invalid("If-Match", "invalid_condition", "and If-None-Match are both there").into()),
        }
    }

    /// Reads the body, which must be JSON by its media type; whether it is, nobody has looked yet.
    ///
    /// # Errors
    /// 415; 413 as soon as the limit is passed, whether the length was announced or not; 408; 429 where the bodies of all
    /// requests together are too large; 400 where the connection broke.
    pub async fn json_body(&mut self, server: &Server) -> Result<JsonBody, Problem> {
        match self.media_type() {
            MediaType::Json => self.receive(server).await.map(JsonBody),
            _ => Err(unsupported_media_type("the Content-Type must be application/json")),
        }
    }

    /// Reads the body of a call that takes vectors, which is JSON or of the binary form, by its media type.
    ///
    /// # Errors
    /// As [`json_body`](Self::json_body).
    pub async fn vectors_body(&mut self, server: &Server) -> Result<VectorsBody, Problem> {
        let is_binary = match self.media_type() {
            MediaType::Json => false,
            MediaType::Binary => true,
            MediaType::Other => {
                let detail = format!("the Content-Type must be application/json or {}", binary::MEDIA_TYPE);
                return Err(unsupported_media_type(&detail));
            }
        };
        Ok(VectorsBody { received: self.receive(server).await?, is_binary })
    }

    /// Reads the body, whatever it is.
    ///
    /// # Errors
    /// As [`json_body`](Self::json_body), but 415.
    pub async fn receive(&mut self, server: &Server) -> Result<Received, Problem> {
        let max = server.config.body_bytes_max;
        let too_large = || {
            let detail = format!("the body is larger than {max} bytes");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
        };
        if self.announced_bytes().is_some_and(|announced| announced > max as u64) {
            return Err(too_large());
        }
        let mut bytes = BytesMut::new();
        let mut memory: Option<OwnedSemaphorePermit> = None;
        let &Connections { body_timeout, body_rate_min, .. } = &server.config.connections;
        let began = Instant::now();
        loop {
            // Else one byte at a time would keep a connection, and what it holds, for ever.
            let slowest = body_timeout.saturating_add(Duration::from_secs_f64(bytes.len() as f64 / body_rate_min as f64));
            let left = slowest.checked_sub(began.elapsed()).ok_or_else(body_too_slow)?;
            let Some(chunk) = self.next_chunk(body_timeout.min(left)).await? else { break };
            if bytes.len() + chunk.len() > max {
                return Err(too_large());
            }
            let taken = Arc::clone(&server.bodies_bytes).try_acquire_many_owned(u32::try_from(chunk.len()).unwrap_or(u32::MAX));
            let taken = taken.map_err(|_| Problem::busy("the server holds too many request bodies"))?;
            match &mut memory {
                Some(memory) => memory.merge(taken),
                None => memory = Some(taken),
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Received { bytes: bytes.freeze(), _memory: memory })
    }

    /// A body without a media type is taken for JSON: the first server did.
    fn media_type(&self) -> MediaType {
        let Some(value) = self.headers.get(CONTENT_TYPE) else { return MediaType::Json };
        let essence = value.to_str().unwrap_or("").split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        if essence == binary::MEDIA_TYPE {
            MediaType::Binary
        } else if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
            MediaType::Json
        } else {
            MediaType::Other
        }
    }

    fn announced_bytes(&self) -> Option<u64> {
        self.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }

    async fn next_chunk(&mut self, timeout: Duration) -> Result<Option<Bytes>, Problem> {
        let next = poll_fn(|cx| self.body.as_mut().poll_next(cx));
        match tokio::time::timeout(timeout, next).await {
            Ok(chunk) => chunk
                .transpose()
                .map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "body_incomplete", "the body ended before its end")),
            Err(_) => Err(body_too_slow()),
        }
    }
}

fn body_too_slow() -> Problem {
    Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body came too slowly")
}

/// What a client says that its body is.
enum MediaType {
    Json,
    Binary,
    Other,
}

fn unsupported_media_type(detail: &str) -> Problem {
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
}

/// How much a client wants what `accept` lists, a media type or an encoding, from 0 to 1, where it names it; 0 where it does not: a wildcard names none.
pub fn quality(headers: &HeaderMap, accept: HeaderName, wanted: &str) -> f32 {
    let accepts = headers.get_all(accept).iter().filter_map(|value| value.to_str().ok());
    let quality = |range: &str| {
        let mut parts = range.split(';').map(str::trim);
        let is_named = parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case(wanted));
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        if is_named { weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0)) } else { 0.0 }
    };
    accepts.flat_map(|value| value.split(',')).map(quality).fold(0.0, f32::max)
}

/// What came of a body.
#[derive(Debug)]
pub struct Received {
    bytes: Bytes,
    /// Given back when the body is dropped.
    _memory: Option<OwnedSemaphorePermit>,
}

impl Received {
    pub fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// A body that came by no connection.
    #[cfg(any(fuzzing, test))]
    fn of(bytes: &[u8]) -> Self {
        Self { bytes: Bytes::copy_from_slice(bytes), _memory: None }
    }
}

/// Bytes that a client sent as JSON.
#[derive(Debug)]
pub struct JsonBody(Received);

impl JsonBody {
    #[cfg(any(fuzzing, test))]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Received::of(bytes))
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// # Errors
    /// 400 where it is no UTF-8, as JSON must be.
    pub fn text(&self) -> Result<&str, Problem> {
        text_of_json(&self.0.bytes)
    }
}

/// Bytes that a client sent, with vectors in JSON or behind it.
#[derive(Debug)]
pub struct VectorsBody {
    received: Received,
    is_binary: bool,
}

impl VectorsBody {
    #[cfg(any(fuzzing, test))]
    pub fn of(bytes: &[u8], is_binary: bool) -> Self {
        Self { received: Received::of(bytes), is_binary }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.received.bytes
    }

    /// The JSON, and of the binary form what comes behind it.
    ///
    /// # Errors
    /// 400 where the JSON is no UTF-8; 422 where the body ends before it.
    pub fn parts(&self) -> Result<(&str, Option<&[u8]>), Problem> {
        if !self.is_binary {
            return Ok((text_of_json(self.bytes())?, None));
        }
        let (json, vectors) = binary::split(self.bytes()).map_err(|detail| Error::invalid("body", "wrong_length", detail))?;
        Ok((text_of_json(json)?, Some(vectors)))
    }
}

fn text_of_json(bytes: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(bytes).map_err(|error| Problem::invalid_json(format!("the body is no UTF-8: {error}")))
}

/// Decodes a part of a path or a query.
///
/// # Errors
/// 422 naming `field` where a `%` begins no escape, or where the bytes are no UTF-8.
pub fn decode_percent(part: &str, field: &'static str) -> Result<String, Problem> {
    let mut rest = part.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        rest = match &rest[at + 1..] {
            [high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest,
            _ => return Err(invalid_encoding(field, "a '%' that begins no percent escape")),
        };
    }
    let decoded = percent_decode_str(part).decode_utf8().map_err(|_| invalid_encoding(field, "bytes that are no UTF-8"))?;
    Ok(decoded.into_owned())
}

fn invalid_encoding(field: &'static str, what: &str) -> Problem {
    Error::invalid(field, "invalid_encoding", format!("has {what}")).into()
}

/// The chunks of a body as `Bytes`, whatever the stream calls them.
struct Chunks<S>(Pin<Box<S>>);

impl<S: Stream<Item = Result<B, warp::Error>>, B: Buf> Stream for Chunks<S> {
    type Item = Result<Bytes, warp::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx).map_ok(|mut chunk| chunk.copy_to_bytes(chunk.remaining()))
    }
}
