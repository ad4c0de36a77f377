//! A line of TCP on loopback that can fall silent or be cut: between a node and a nats-server, or between two nats-servers.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use parking_lot::{Condvar, Mutex};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    Up,
    /// Connections stay, and nothing comes through, until it is up again. A network that loses everything looks like that.
    Silent,
    /// Connections end, and there are none.
    Cut,
}

/// Its threads end with it.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    line: Line,
    is_over: bool,
    /// Both sides of each connection.
    open: BTreeMap<usize, [TcpStream; 2]>,
}

impl Proxy {
    pub fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Mutex::new(State { line: Line::Up, is_over: false, open: BTreeMap::new() });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        let proxy = Self { address, shared: Arc::clone(&shared) };
        thread::spawn(move || {
            for (number, client) in listener.incoming().enumerate() {
                let (is_over, line) = {
                    let state = shared.state.lock();
                    (state.is_over, state.line)
                };
                if is_over {
                    return;
                }
                let Ok(client) = client else { continue };
                let server = TcpStream::connect(server);
                if line == Line::Cut {
                    continue;
                }
                let Ok(server) = server else { continue };
                shared.connect(number, client, server);
            }
        });
        proxy
    }

    pub fn set(&self, line: Line) {
        let mut state = self.shared.state.lock();
        state.line = line;
        if line == Line::Cut {
            state.end_all();
        }
        self.shared.changed.notify_all();
    }

    pub fn connections(&self) -> usize {
        self.shared.state.lock().open.len()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.is_over = true;
        state.end_all();
        self.shared.changed.notify_all();
        drop(state);
        // So that whoever takes connections sees it.
        let _ = TcpStream::connect(self.address);
    }
}

impl State {
    fn end_all(&mut self) {
        for connection in self.open.values().flatten() {
            let _ = connection.shutdown(Shutdown::Both);
        }
        self.open.clear();
    }
}

impl Shared {
    fn connect(self: &Arc<Self>, number: usize, client: TcpStream, server: TcpStream) {
        let copies = || Some([client.try_clone().ok()?, server.try_clone().ok()?]);
        let (Some(kept), Some([from_client, to_server])) = (copies(), copies()) else { return };
        {
            let mut state = self.state.lock();
            if state.line == Line::Cut || state.is_over {
                return;
            }
            state.open.insert(number, kept);
        }
        for (from, to) in [(from_client, to_server), (server, client)] {
            let shared = Arc::clone(self);
            thread::spawn(move || shared.pass_on(number, from, to));
        }
    }

    /// Until either side ends, or the line is cut: then both do.
    fn pass_on(&self, number: usize, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 64 << 10];
        loop {
            let length = match from.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.unwrap_or(0),
            };
            self.wait_while_silent();
            if length == 0 || to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
        self.state.lock().open.remove(&number);
    }

    fn wait_while_silent(&self) {
        let mut state = self.state.lock();
        self.changed.wait_while(&mut state, |state| state.line == Line::Silent && !state.is_over);
    }
}
