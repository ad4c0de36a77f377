//! A server, over connections of the bench's own: requests are bytes that were made before, and of an answer only the head is looked at
//! (docs/decisions/0023-load-generator.md).

use std::borrow::Cow;
use std::env;
use std::io::{Error, ErrorKind, Read as _, Result as IoResult, Write as _};
use std::net::TcpStream;
use std::str;
use std::time::Duration;

use hyper::Uri;
use serde::Deserialize;
use serde_json::json;

use super::super::Failure;
use super::target::{Client, Refusal, Search, Settings, Status, Target};
use crate::config::Limits;
use crate::engine::Batch;
use crate::error::quoted;
use crate::types::{Durability, IndexId};

/// How long a request of the measured part may take. Compactions are not among them.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// Lines in the head of an answer; this server sends six.
const HEADERS_MAX: usize = 64;

/// A server, and a key that it knows.
#[derive(Debug)]
pub struct Server {
    /// HOST:PORT.
    address: String,
    /// What stands before each path.
    prefix: String,
    key: String,
    durability: &'static str,
}

impl Server {
    /// # Errors
    /// Where the URL cannot be one, or the variable has no key that a header can bear.
    pub fn new(url: &str, api_key_env: &str, durability: Durability) -> Result<Self, Failure> {
        let failed = |why: &str| Failure::new(format!("--url {url}: {why}"));
        let uri: Uri = url.parse().map_err(|_| failed("is no URL like http://127.0.0.1:8000"))?;
        let host = uri.host().filter(|_| uri.scheme_str() == Some("http"));
        let host = host.ok_or_else(|| failed("must begin with http://; TLS is not spoken"))?;
        let key = env::var(api_key_env).ok().filter(|key| key.bytes().all(|byte| byte.is_ascii_graphic()) && !key.is_empty());
        let key = key.ok_or_else(|| Failure::new(format!("{api_key_env} has no API key of the server: set it")))?;
        let durability = match durability {
            Durability::Fsync => "fsync",
            Durability::Interval => "interval",
        };
        let (port, prefix) = (uri.port_u16().unwrap_or(80), uri.path().trim_end_matches('/').to_owned());
        Ok(Self { address: format!("{host}:{port}"), prefix, key, durability })
    }

    /// A whole request.
    fn request(&self, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
        let Self { address, prefix, key, .. } = self;
        let length = body.len();
        let head = format!(
            "{method} {prefix}{path} HTTP/1.1\r\nhost: {address}\r\nx-api-key: {key}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        [head.as_bytes(), body].concat()
    }

    /// A request outside of the measured part, which may take as long as it takes, on a connection of its own. Gives the body of its answer.
    fn call(&self, method: &str, path: &str, body: &str) -> Result<Vec<u8>, Failure> {
        let failed = |why: &str| Failure::new(format!("http://{}{}{path}: {why}", self.address, self.prefix));
        let mut connection = Connection::open(&self.address, None).map_err(|error| failed(&error.to_string()))?;
        let status = connection.exchange(&self.request(method, path, body.as_bytes()));
        let status = status.map_err(|error| failed(&error.to_string()))?;
        if (200..300).contains(&status) {
            return Ok(connection.body().to_owned());
        }
        let text = String::from_utf8_lossy(connection.body());
        let detail = Problem::of(&text).map_or_else(|| quoted(&text), |problem| problem.detail.into_owned());
        Err(failed(&format!("{status}: {detail}")))
    }
}

impl Target for Server {
    type Request = Vec<u8>;
    type Client = HttpClient;

    /// Those that a server has where nothing else is said; it has the last word.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    fn create(&self, name: &str, settings: &Settings) -> Result<IndexId, Failure> {
        let Settings { dimension, index_type, metric, options } = settings;
        let body = json!({"name": name, "dimension": dimension, "index_type": index_type, "metric": metric, "options": options});
        let answer = self.call("POST", "/v1/index", &body.to_string())?;
        decoded(&answer).map(|Created { id }| id)
    }

    fn delete(&self, index: IndexId) -> Result<(), Failure> {
        self.call("DELETE", &format!("/v1/index/{index}"), "").map(drop)
    }

    fn compact(&self, index: IndexId) -> Result<(), Failure> {
        self.call("POST", &format!("/v1/index/{index}/compact"), "{}").map(drop)
    }

    fn status(&self, index: IndexId) -> Result<Status, Failure> {
        decoded(&self.call("GET", &format!("/v1/index/{index}"), "")?)
    }

    fn write(&self, index: IndexId, points: Batch) -> Vec<u8> {
        let path = format!("/v1/index/{index}/vectors?atomic=true&durability={}", self.durability);
        self.request("POST", &path, &write_body(&points))
    }

    fn search(&self, index: IndexId, search: &Search<'_>) -> Vec<u8> {
        let Search { vector, k, exact, params, filter } = search;
        let vector = serde_json::to_string(vector).expect("finite floats are JSON");
        let mut body = format!("{{\"vector\":{vector},\"k\":{k},\"include_metadata\":false");
        if *exact {
            body.push_str(",\"exact\":true");
        }
        for (name, value) in [("ef", params.ef), ("nprobe", params.nprobe)] {
            if let Some(value) = value {
                body += &format!(",\"params\":{{\"{name}\":{value}}}");
            }
        }
        if let Some(filter) = filter {
            body += &format!(",\"filter\":{filter}");
        }
        body.push('}');
        self.request("POST", &format!("/v1/index/{index}/search"), body.as_bytes())
    }

    fn client(&self, _: IndexId) -> Result<HttpClient, Failure> {
        let address = self.address.clone();
        let connection = Connection::open(&address, Some(ANSWER_TIMEOUT));
        let connection = connection.map_err(|error| Failure::new(format!("http://{address}: {error}")))?;
        Ok(HttpClient { address, connection })
    }
}

fn write_body(points: &Batch) -> Vec<u8> {
    let mut body = b"{\"vectors\":[".to_vec();
    for (at, (id, metadata, vector)) in points.points().enumerate() {
        body.extend_from_slice(if at == 0 { b"{\"id\":" } else { b",{\"id\":" });
        serde_json::to_writer(&mut body, id).expect("a text is JSON");
        body.extend_from_slice(b",\"values\":");
        serde_json::to_writer(&mut body, vector).expect("finite floats are JSON");
        body.extend_from_slice(b",\"metadata\":");
        body.extend_from_slice(metadata.as_bytes());
        body.push(b'}');
    }
    body.extend_from_slice(b"]}");
    body
}

fn decoded<'a, T: Deserialize<'a>>(answer: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(answer).map_err(|error| Failure::new(format!("not the answer of this server: {error}")))
}

#[derive(Deserialize)]
struct Created {
    id: IndexId,
}

/// What is needed of a problem document.
#[derive(Deserialize)]
struct Problem<'a> {
    #[serde(borrow)]
    code: Cow<'a, str>,
    #[serde(borrow)]
    detail: Cow<'a, str>,
}

impl<'a> Problem<'a> {
    fn of(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

#[derive(Deserialize)]
struct Found {
    results: Vec<FoundPoint>,
}

#[derive(Deserialize)]
struct FoundPoint {
    id: String,
}

/// A client on a connection that it keeps.
#[derive(Debug)]
pub struct HttpClient {
    address: String,
    connection: Connection,
}

impl HttpClient {
    /// Afterwards there is a connection again, where there can be one.
    fn broken(&mut self, error: &Error) -> Refusal {
        let reconnected = Connection::open(&self.address, Some(ANSWER_TIMEOUT));
        let is_final = reconnected.is_err();
        if let Ok(connection) = reconnected {
            self.connection = connection;
        }
        let reason = match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()),
            kind => format!("connection: {kind}"),
        };
        Refusal { reason, is_busy: false, is_final }
    }
}

impl Client<Vec<u8>> for HttpClient {
    fn prepare(&mut self, _: &Vec<u8>) {}

    fn send(&mut self, request: &Vec<u8>) -> Result<(), Refusal> {
        match self.connection.exchange(request) {
            Ok(200..300) => Ok(()),
            Ok(status) => {
                let text = String::from_utf8_lossy(self.connection.body());
                let reason = match Problem::of(&text) {
                    Some(problem) => format!("{status} {}", problem.code),
                    None => status.to_string(),
                };
                Err(Refusal { reason, is_busy: status == 429, is_final: false })
            }
            Err(error) => Err(self.broken(&error)),
        }
    }

    fn found(&self) -> Result<Vec<String>, Failure> {
        let found: Found = decoded(self.connection.body())?;
        Ok(found.results.into_iter().map(|point| point.id).collect())
    }
}

/// A connection, and the last answer on it.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Where in the buffer the body of the last answer stands.
    body: std::ops::Range<usize>,
}

impl Connection {
    fn open(address: &str, timeout: Option<Duration>) -> IoResult<Self> {
        let stream = TcpStream::connect(address)?;
        // A request is written whole, and must not wait for the acknowledgement of the one before.
        stream.set_nodelay(true)?;
        stream.set_read_timeout(timeout)?;
        stream.set_write_timeout(timeout)?;
        Ok(Self { stream, buffer: vec![0; 64 << 10], body: 0..0 })
    }

    fn body(&self) -> &[u8] {
        &self.buffer[self.body.clone()]
    }

    /// Sends a request and reads all of its answer; gives the status.
    fn exchange(&mut self, request: &[u8]) -> IoResult<u16> {
        self.body = 0..0;
        self.stream.write_all(request)?;
        let (mut read, mut head) = (0, None);
        let (status, body) = loop {
            if read == self.buffer.len() {
                self.buffer.resize(2 * read, 0);
            }
            match self.stream.read(&mut self.buffer[read..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(more) => read += more,
                // By a signal, which shall end the bench and not break an answer off.
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            if head.is_none() {
                head = parse_head(&self.buffer[..read])?;
            }
            match &head {
                Some((status, body)) if read >= body.end => break (*status, body.clone()),
                _ => {}
            }
        };
        self.body = body;
        Ok(status)
    }
}

/// The status and where the body stands, once the head is there.
fn parse_head(bytes: &[u8]) -> IoResult<Option<(u16, std::ops::Range<usize>)>> {
    let invalid = |why: &str| Error::new(ErrorKind::InvalidData, why);
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut answer = httparse::Response::new(&mut headers);
    let head = match answer.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(invalid(&error.to_string())),
    };
    let status = answer.code.ok_or_else(|| invalid("an answer without a status"))?;
    let length = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = match length {
        Some(header) => str::from_utf8(header.value).ok().and_then(|text| text.parse::<usize>().ok()),
        None => (status == 204).then_some(0),
    };
    let end = length.and_then(|length| head.checked_add(length));
    end.map(|end| Some((status, head..end))).ok_or_else(|| invalid("an answer without a length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_when_it_is_whole_and_gives_status_and_body() {
        let text = b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\nx: y\r\n\r\nhello";
        for end in 0..text.len() - 5 {
            assert_eq!(parse_head(&text[..end]).unwrap(), None);
        }
        let (status, body) = parse_head(text).unwrap().unwrap();
        assert_eq!((status, &text[body]), (201, &b"hello"[..]));
        assert_eq!(parse_head(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap(), Some((204, 27..27)));
    }

    #[test]
    fn what_has_no_length_or_is_no_http_is_an_error() {
        for text in [
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551615\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n",
        ] {
            assert!(parse_head(text.as_bytes()).is_err(), "{text}");
        }
    }
}
