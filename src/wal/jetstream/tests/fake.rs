//! A server that says what it is told to say: for answers that a real one gives only now and then.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;

#[derive(Debug)]
pub(super) struct Fake {
    address: SocketAddr,
    answers: Arc<Mutex<VecDeque<Says>>>,
    requests: Arc<Mutex<Vec<String>>>,
}

/// In answer to one request.
#[derive(Clone, Debug)]
pub(super) enum Says {
    Json(String),
    /// A message with these headers, a line each.
    Message(String, Vec<u8>),
    /// That nobody listens.
    NobodyThere,
    Nothing,
}

impl Fake {
    /// Of this version, with these answers to the requests that come.
    pub(super) fn start(version: &str, answers: impl IntoIterator<Item = Says>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let fake = Self { address, answers: Arc::new(Mutex::new(answers.into_iter().collect())), requests: Arc::default() };
        let (answers, requests) = (Arc::clone(&fake.answers), Arc::clone(&fake.requests));
        let version = version.to_owned();
        thread::spawn(move || {
            for client in listener.incoming() {
                let (answers, requests, version) = (Arc::clone(&answers), Arc::clone(&requests), version.clone());
                thread::spawn(move || serve(client.unwrap(), &version, &answers, &requests));
            }
        });
        fake
    }

    pub(super) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Message ids of what was published, and subjects of what was asked.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().clone()
    }

    pub(super) fn unsaid(&self) -> usize {
        self.answers.lock().len()
    }
}

/// Core NATS, as far as a client needs it: <https://docs.nats.io/reference/reference-protocols/nats-protocol>. Ends with the connection.
fn serve(mut client: TcpStream, version: &str, answers: &Mutex<VecDeque<Says>>, requests: &Mutex<Vec<String>>) -> Option<()> {
    let info = format!(
        "INFO {{\"server_id\":\"FAKE\",\"version\":\"{version}\",\"headers\":true,\"max_payload\":1048576,\"proto\":1}}\r\n"
    );
    client.write_all(info.as_bytes()).ok()?;
    let mut reader = BufReader::new(client.try_clone().ok()?);
    // What the client listens to, and by which number.
    let mut inboxes: Vec<(String, String)> = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&bytes| bytes > 0)?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let (subject, reply, head, bytes) = match words[..] {
            ["PING"] => {
                client.write_all(b"PONG\r\n").ok()?;
                continue;
            }
            ["SUB", subject, id] => {
                inboxes.push((subject.trim_end_matches('*').to_owned(), id.to_owned()));
                continue;
            }
            ["PUB", subject, reply, bytes] => (subject, reply, 0, bytes.parse().ok()?),
            ["HPUB", subject, reply, head, bytes] => (subject, reply, head.parse().ok()?, bytes.parse::<usize>().ok()?),
            _ => continue,
        };
        let mut body = vec![0; bytes + 2];
        reader.read_exact(&mut body).ok()?;
        let headers = String::from_utf8_lossy(&body[..head]);
        let id = headers.lines().find_map(|line| line.strip_prefix("Nats-Msg-Id: "));
        requests.lock().push(id.unwrap_or(subject).to_owned());
        let said = answers.lock().pop_front().unwrap_or(Says::Nothing);
        let (_, inbox) = inboxes.iter().find(|(subject, _)| reply.starts_with(subject))?;
        let with_headers = |head: String, payload: &[u8]| {
            let lengths = format!("{} {}", head.len(), head.len() + payload.len());
            [format!("HMSG {reply} {inbox} {lengths}\r\n{head}").as_bytes(), payload, b"\r\n"].concat()
        };
        let answer = match said {
            Says::Json(json) => format!("MSG {reply} {inbox} {}\r\n{json}\r\n", json.len()).into_bytes(),
            Says::Message(headers, payload) => with_headers(format!("NATS/1.0\r\n{headers}\r\n"), &payload),
            Says::NobodyThere => with_headers("NATS/1.0 503\r\n\r\n".to_owned(), &[]),
            Says::Nothing => continue,
        };
        client.write_all(&answer).ok()?;
    }
}
