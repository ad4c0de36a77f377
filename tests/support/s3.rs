//! A server of the API of S3 on loopback: moto, of `tests/support/moto.txt`. It is looked for in PATH, and `MOTO_SERVER` is a path to it. Where there is
//! none, a test says so and passes.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

pub struct S3 {
    process: Child,
    pub endpoint: String,
}

impl S3 {
    /// With a bucket named "bucket". `None`, and says so: there is no such program here.
    pub fn start() -> Option<Self> {
        let named = std::env::var_os("MOTO_SERVER");
        // A port that is free now.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut command = Command::new(named.as_deref().unwrap_or("moto_server".as_ref()));
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
        let process = match command.spawn() {
            Ok(process) => process,
            Err(error) if named.is_some() => panic!("MOTO_SERVER: {error}"),
            Err(_) => {
                eprintln!(
                    "SKIPPED: there is no moto_server here: scripts/python-environment tests/support/moto.txt has one, for MOTO_SERVER"
                );
                return None;
            }
        };
        let mut s3 = Self { process, endpoint: format!("http://127.0.0.1:{port}") };
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(s3.process.try_wait().unwrap().is_none(), "moto_server ended");
            std::thread::yield_now();
        }
        ureq::put(format!("{}/bucket", s3.endpoint)).send_empty().unwrap();
        Some(s3)
    }

    /// By which the program finds it.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let variables = [
            ("AWS_ENDPOINT", self.endpoint.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
        ];
        variables.map(|(name, value)| (name, value.to_owned())).to_vec()
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
