//! HTTP/2, TLS, and connections on which nobody asks for anything.

use std::future::poll_fn;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::program::{ServerProcess, program, refusal};
use crate::support::{KEY, Response, TestServer};

type Request = hyper::Request<Full<Bytes>>;

fn request(method: &str, path: &str, body: &Value) -> Request {
    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    let request = hyper::Request::builder().method(method).uri(format!("http://localhost{path}"));
    request.header("x-api-key", KEY).header("host", "localhost").body(Full::new(body)).unwrap()
}

/// Sends requests one after the other on one connection of HTTP/2; gives status and body of each.
async fn over_http_2<S>(stream: S, requests: Vec<Request>) -> Vec<(u16, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut answers = Vec::new();
    for request in requests {
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        answers.push((status, response.into_body().collect().await.unwrap().to_bytes()));
    }
    drop(sender);
    connection.await.unwrap().unwrap();
    answers
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn adding_and_finding(index: &str) -> Vec<Request> {
    vec![
        request("POST", &format!("{index}/vectors"), &json!({"vectors": [{"id": "a", "values": [1]}]})),
        request("POST", &format!("{index}/search"), &json!({"vector": [1]})),
        request("GET", "/v1/nothing", &Value::Null),
    ]
}

fn assert_added_and_found(answers: &[(u16, Bytes)]) {
    assert_eq!(answers.iter().map(|(status, _)| *status).collect::<Vec<_>>(), [201, 200, 404], "{answers:?}");
    let found: Value = serde_json::from_slice(&answers[1].1).unwrap();
    assert_eq!(found["results"][0]["id"], "a");
}

#[test]
fn http_2_without_tls_is_known_by_its_first_bytes() {
    let server = TestServer::start();
    let index = server.create_index(1);
    block_on(async {
        let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        assert_added_and_found(&over_http_2(stream, adding_and_finding(&index)).await);
    });
}

#[test]
fn requests_of_one_http_2_connection_run_beside_each_other() {
    let server = TestServer::start();
    let index = server.create_index(1);
    block_on(async {
        let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let bodies = (0..100).map(|n| json!({"vectors": [{"id": format!("p{n}"), "values": [n]}]}));
        let sent =
            bodies.map(|body| sender.send_request(request("POST", &format!("{index}/vectors"), &body))).collect::<Vec<_>>();
        for response in sent {
            assert_eq!(response.await.unwrap().status(), 201);
        }
        poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
    });
    assert_eq!(server.get(&index).json()["vector_count"], 100);
}

#[test]
fn an_http_2_connection_on_which_nothing_is_asked_for_is_closed() {
    let server = TestServer::start_with(tempfile::tempdir().unwrap(), |config| {
        config.connections.head_timeout = Duration::from_millis(50)
    });
    block_on(async {
        let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let (sender, connection) =
            http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        // It answers pings all the while.
        connection.await.unwrap();
        assert!(sender.is_closed());
    });
}

#[test]
fn half_open_connections_are_closed_and_nobody_waits_for_them() {
    let server = TestServer::start_with(tempfile::tempdir().unwrap(), |config| {
        (config.connections.beginning_timeout, config.connections.head_timeout) =
            (Duration::from_millis(200), Duration::from_millis(200));
    });
    let beginnings: [&[u8]; 4] = [b"", b"P", b"PRI * HTTP/2.0\r\n\r\nSM\r\n", b"GET / HTTP/1.1\r\nx-half:"];
    let mut half_open: Vec<TcpStream> = (0..200)
        .map(|n| {
            let mut connection = TcpStream::connect(server.address).unwrap();
            connection.write_all(beginnings[n % beginnings.len()]).unwrap();
            connection
        })
        .collect();
    assert_eq!(server.get("/v1/index").status, 200);
    for connection in &mut half_open {
        let _ = connection.read_to_end(&mut Vec::new());
    }
}

#[test]
fn a_body_of_two_lengths_is_refused() {
    let server = TestServer::start();
    for lengths in ["content-length: 2\r\ncontent-length: 3\r\n", "content-length: 2\r\ntransfer-encoding: chunked\r\n"] {
        let mut connection = TcpStream::connect(server.address).unwrap();
        let head = format!("POST /v1/index HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\n{lengths}\r\n{{}}\r\n");
        connection.write_all(head.as_bytes()).unwrap();
        assert_eq!(Response::read(&mut connection).status, 400, "{lengths}");
        // What comes behind is no request of anybody.
        let mut rest = Vec::new();
        let _ = connection.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    }
}

/// Writes a new certificate for `localhost` and its key; gives what a client trusts who trusts it.
fn write_certificate(dir: &Path) -> Arc<ClientConfig> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(dir.join("cert.pem"), cert.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), signing_key.serialize_pem()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(cert.der().to_vec())).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Connects and shakes hands, offering these protocols.
async fn connect(
    server: &ServerProcess,
    trusts: &Arc<ClientConfig>,
    offers: &[&str],
) -> std::io::Result<TlsStream<tokio::net::TcpStream>> {
    let mut config = ClientConfig::clone(trusts);
    config.alpn_protocols = offers.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = tokio::net::TcpStream::connect(server.address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
}

#[test]
fn with_a_certificate_tls_is_spoken_with_either_version_and_sighup_changes_it() {
    let dir = tempfile::tempdir().unwrap();
    let trusts = write_certificate(dir.path());
    let command = &mut program(&dir.path().join("data"));
    let command = command.args(["--dev", "--listen", "127.0.0.1:0", "--tls-cert"]).arg(dir.path().join("cert.pem"));
    let server = ServerProcess::start(command.arg("--tls-key").arg(dir.path().join("key.pem")));
    block_on(async {
        let stream = connect(&server, &trusts, &["h2", "http/1.1"]).await.unwrap();
        let created = over_http_2(stream, vec![request("POST", "/v1/index", &json!({"name": "n", "dimension": 1}))]).await;
        let index = format!("/v1/index/{}", serde_json::from_slice::<Value>(&created[0].1).unwrap()["id"].as_str().unwrap());
        let stream = connect(&server, &trusts, &["h2"]).await.unwrap();
        assert_added_and_found(&over_http_2(stream, adding_and_finding(&index)).await);
        for offers in [&[][..], &["http/1.1"]] {
            let stream = connect(&server, &trusts, offers).await.unwrap();
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            assert_eq!(sender.send_request(request("GET", &index, &Value::Null)).await.unwrap().status(), 200);
        }

        // In clear, nothing is answered.
        let mut clear = TcpStream::connect(server.address).unwrap();
        clear.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        let _ = clear.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP"));

        // A certificate that is wrong changes nothing; a new one is shown to who comes.
        std::fs::write(dir.path().join("key.pem"), "spoiled").unwrap();
        server.signal(Signal::HUP);
        assert!(connect(&server, &trusts, &["h2"]).await.is_ok());
        let renewed = write_certificate(dir.path());
        server.signal(Signal::HUP);
        while connect(&server, &renewed, &["h2"]).await.is_err() {}
        assert!(connect(&server, &trusts, &["h2"]).await.is_err());
    });
}

#[test]
fn a_wrong_certificate_is_refused_at_the_start_and_its_key_is_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    write_certificate(dir.path());
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let start = |cert: &Path, key: &Path| {
        let mut command = program(&dir.path().join("data"));
        refusal(command.args(["--dev", "--listen", "127.0.0.1:0", "--tls-cert"]).arg(cert).arg("--tls-key").arg(key))
    };
    assert!(start(&dir.path().join("absent.pem"), &key).contains("--tls-cert"));
    assert!(start(&key, &key).contains("has no certificate"));
    assert!(start(&cert, &cert).contains("no private key"));
    let other = tempfile::tempdir().unwrap();
    write_certificate(other.path());
    let said = start(&cert, &other.path().join("key.pem"));
    assert!(said.contains("certificate and key"), "{said}");
}
