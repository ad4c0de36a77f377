//! `faiss-proxy key`: API keys, of which a file has the hashes.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Failure;
use crate::api::{Entry, Role};
use crate::time::{now_us, parse_rfc3339, rfc3339};
use crate::types::TenantId;

/// Make an API key, or list those that there are.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a key, add its hash to the file, and print the key: it is nowhere else. A server takes it after SIGHUP.
    New {
        #[command(flatten)]
        file: File,
        /// Whose key it is.
        #[arg(long, value_name = "TENANT", value_parser = |text: &str| TenantId::new(text).map_err(|error| error.to_string()))]
        tenant: TenantId,
        /// What it allows; each role allows what those before it do.
        #[arg(long, value_enum, value_name = "ROLE")]
        role: RoleArgument,
        /// What people call it.
        #[arg(long, value_name = "NAME", default_value = "")]
        name: String,
        /// When it is good no more, like 2027-01-31T00:00:00Z; it is good for ever without.
        #[arg(long, value_name = "TIME", value_parser = |text: &str| parse_rfc3339(text))]
        expires: Option<i64>,
    },
    /// List the keys of the file, without the keys.
    Ls {
        #[command(flatten)]
        file: File,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct File {
    /// The file of hashes; `new` creates it. To take a key back, remove its lines and send the server SIGHUP.
    #[arg(long, value_name = "FILE", env = "FAISS_PROXY_KEY_FILE")]
    key_file: PathBuf,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum RoleArgument {
    Reader,
    Writer,
    Admin,
}

/// # Errors
/// Where the file cannot be read or written, or something in it is wrong.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::New { file, tenant, role, name, expires } => {
            let role = match role {
                RoleArgument::Reader => Role::Reader,
                RoleArgument::Writer => Role::Writer,
                RoleArgument::Admin => Role::Admin,
            };
            let generated = Entry::generate(name, tenant, role, expires);
            let (key, entry) = generated.map_err(|error| Failure::new(format!("no random bytes: {error}")))?;
            append(&file.key_file, &entry)?;
            super::print_line(&key)
        }
        Command::Ls { file, json } => list(&file.key_file, json),
    }
}

/// The text of a key file.
///
/// # Errors
/// Where it cannot be read.
#[expect(clippy::disallowed_methods, reason = "it is none of the store's files")]
pub fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}

/// Adds an entry to a file that is right, or to none.
#[expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "it is none of the store's files")]
fn append(path: &Path, entry: &Entry) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", path.display()));
    let before = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(failed(error)),
    };
    entries(path, &before)?;
    let gap = match before.as_str() {
        "" => "",
        text if text.ends_with('\n') => "\n",
        _ => "\n\n",
    };
    // Hashes are no keys, and yet nobody else has to know whose keys there are.
    let mut file = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(format!("{gap}{entry}").as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

fn entries(path: &Path, text: &str) -> Result<Vec<Entry>, Failure> {
    Entry::parse_all(text).map_err(|problem| Failure::new(format!("{}: {problem}", path.display())))
}

fn list(path: &Path, json: bool) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Line<'a> {
        name: &'a str,
        tenant: &'a str,
        role: &'static str,
        expires: Option<String>,
        expired: bool,
    }
    for entry in entries(path, &read(path)?)? {
        let Entry { name, tenant, role, expires_us, .. } = &entry;
        let expired = expires_us.is_some_and(|expires_us| expires_us <= now_us());
        let line = Line { name, tenant: tenant.as_str(), role: role.as_str(), expires: expires_us.map(rfc3339), expired };
        if json {
            super::print_line(&serde_json::to_string(&line).expect("a line is JSON"))?;
            continue;
        }
        let until = match &line.expires {
            None => String::new(),
            Some(time) => format!("  {} {time}", if expired { "expired" } else { "until" }),
        };
        super::print_line(&format!("{:<6} {tenant}  {name}{until}", line.role))?;
    }
    Ok(())
}
