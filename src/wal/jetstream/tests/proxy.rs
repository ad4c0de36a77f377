//! Between a log and its server, to lose what the server says.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;

/// A proxy of TCP on loopback, for as long as the test runs.
#[derive(Debug)]
pub(super) struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// So many acknowledgements are not passed on, and their connection ends.
    to_lose: usize,
    lost: usize,
    is_cut: bool,
    open: Vec<TcpStream>,
}

impl Proxy {
    pub(super) fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        let state = Arc::clone(&proxy.state);
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let mut locked = state.lock();
                if locked.is_cut {
                    continue;
                }
                let Ok(server) = TcpStream::connect(server) else { continue };
                locked.open.extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                let (from_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || pass_on(from_client, to_server, |_| true));
                let state = Arc::clone(&state);
                thread::spawn(move || pass_on(server, client, |bytes| state.lock().keeps(bytes)));
            }
        });
        proxy
    }

    pub(super) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    pub(super) fn lose_acknowledgements(&self, count: usize) {
        self.state.lock().to_lose = count;
    }

    pub(super) fn lost(&self) -> usize {
        self.state.lock().lost
    }

    /// Ends all connections, and takes none.
    pub(super) fn cut(&self) {
        let mut state = self.state.lock();
        state.is_cut = true;
        for connection in state.open.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    pub(super) fn mend(&self) {
        self.state.lock().is_cut = false;
    }
}

impl State {
    fn keeps(&mut self, bytes: &[u8]) -> bool {
        let is_acknowledgement = bytes.windows(6).any(|window| window == b"\"seq\":");
        if self.to_lose == 0 || !is_acknowledgement {
            return true;
        }
        self.to_lose -= 1;
        self.lost += 1;
        false
    }
}

/// Until either side ends, or `keeps` says no: then both do.
fn pass_on(mut from: TcpStream, mut to: TcpStream, mut keeps: impl FnMut(&[u8]) -> bool) {
    let mut buffer = [0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) if keeps(&buffer[..length]) && to.write_all(&buffer[..length]).is_ok() => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
