//! Where the servers are, and what they and we show each other.

use std::path::PathBuf;
use std::time::Duration;

use async_nats::ConnectOptions;

/// How long after a server's last word it is asked whether it is there. One that says nothing for three times as long, being stopped or behind a network
/// that loses everything, is left for another: by default that is three minutes, in which nothing can be written by way of it.
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// Where the servers are, and how they and we know each other.
#[derive(Clone, Default)]
pub(crate) struct Access {
    /// `nats://HOST:PORT`; with one `tls://HOST:PORT` among them, all is encrypted, whichever server answers.
    pub(crate) urls: Vec<String>,
    /// A name and its password.
    pub(crate) user: Option<(String, String)>,
    /// PEM, whose certificates vouch for the servers; `None`: those that the system has.
    pub(crate) authorities: Option<PathBuf>,
    /// PEM of our certificate and of its key, for servers that ask for one.
    pub(crate) certificate: Option<(PathBuf, PathBuf)>,
}

impl Access {
    pub(super) fn options(&self) -> ConnectOptions {
        let is_encrypted = self.urls.iter().any(|url| url.starts_with("tls://"));
        let mut options = ConnectOptions::new().name("faiss-proxy").ping_interval(PING_INTERVAL).require_tls(is_encrypted);
        if let Some((name, password)) = &self.user {
            options = options.user_and_password(name.clone(), password.clone());
        }
        if let Some(path) = &self.authorities {
            options = options.add_root_certificates(path.clone());
        }
        if let Some((certificate, key)) = &self.certificate {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        options
    }
}
