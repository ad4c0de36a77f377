//! `faiss-proxy health`: whether a server answers. For a container, which has no other client of HTTP to ask with.

use std::time::Duration;

use super::{Failure, serve};

/// Past it, a server that has accepted the connection counts as one that does not answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks the server that `faiss-proxy serve` with these options is.
///
/// # Errors
/// Where it does not answer that it lives, or cannot be asked.
pub fn run(arguments: &serve::Arguments) -> Result<(), Failure> {
    if arguments.speaks_tls() {
        return Err(Failure::new("--tls-cert: a server that speaks TLS is not asked; ask it with a client that does"));
    }
    // All addresses, 0.0.0.0, are the loopback one to who connects.
    let url = format!("http://{}/v1/health", arguments.listen());
    let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).timeout_global(Some(TIMEOUT)).build().into();
    agent.get(&url).call().map(drop).map_err(|error| Failure::new(format!("{url}: {error}")))
}
