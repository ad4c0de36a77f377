//! Who is calling, and what they may do: API keys, each of one tenant and with one role.

mod attempts;
mod bucket;
mod file;
mod quota;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use warp::http::header::AUTHORIZATION;
use warp::http::{HeaderMap, StatusCode};

use self::attempts::Attempts;
pub use self::file::Entry;
pub use self::quota::Quota;
use self::quota::{Pass, Quotas, Usages};
use super::reply::Problem;
use crate::TenantId;
use crate::time::{now_us, rfc3339};

/// What a key allows; each allows what those before it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Searches, and reads of points and of indices.
    Reader,
    /// Points are stored, changed and deleted too.
    Writer,
    /// Indices are created, changed and deleted too, checkpointed, compacted and backed up.
    Admin,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Writer => "writer",
            Self::Admin => "admin",
        }
    }
}

/// Whose key a request bears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub tenant: TenantId,
    pub role: Role,
}

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    caller: Caller,
    /// Microseconds since 1970; `None`: never.
    expires_us: Option<i64>,
}

/// SHA-256 of an API key.
type KeyHash = [u8; 32];

/// API keys: hashes of them, and what each allows. Several keys may be of one tenant. And what each tenant may use.
#[derive(Clone, Default)]
pub struct ApiKeys {
    keys: HashMap<KeyHash, Known>,
    quotas: Quotas,
}

/// Shows no key: this ends up in logs.
impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeys({})", self.keys.len())
    }
}

impl ApiKeys {
    /// The keys of `--dev`: known to everybody, and those of the first server.
    pub fn for_development() -> Self {
        "test-key-1:tenant-1,test-key-2:tenant-2".parse().expect("the list is well-formed")
    }

    /// Adds a key.
    ///
    /// # Errors
    /// Where it is there already.
    fn insert(&mut self, hash: KeyHash, known: Known) -> Result<(), &'static str> {
        match self.keys.insert(hash, known) {
            Some(_) => Err("has the key of an earlier entry"),
            None => Ok(()),
        }
    }

    fn push(&mut self, entry: &str) -> Result<(), &'static str> {
        let (key, tenant) = entry.rsplit_once(':').ok_or("has no ':' between key and tenant")?;
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("has a key that is empty or has characters that no HTTP header can bear");
        }
        let tenant = TenantId::new(tenant).map_err(|_| NO_TENANT)?;
        // The first server's keys, which these are, were good for everything.
        self.insert(hash(key.as_bytes()), Known { caller: Caller { tenant, role: Role::Admin }, expires_us: None })
    }

    /// Adds the keys and the quotas of `other`; of one that both have, what `self` says of it stands.
    pub fn extend(&mut self, other: Self) {
        let Quotas { of, others } = other.quotas;
        for (tenant, quota) in of {
            self.quotas.of.entry(tenant).or_insert(quota);
        }
        if self.quotas.others == Quota::default() {
            self.quotas.others = others;
        }
        for (hash, known) in other.keys {
            self.keys.entry(hash).or_insert(known);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The tenants that have a key; one with several comes several times.
    pub fn tenants(&self) -> impl Iterator<Item = &TenantId> {
        self.keys.values().map(|known| &known.caller.tenant)
    }

    /// What is looked for is a hash of what came, of which nobody can choose a beginning: how far a comparison goes tells nothing of a key, and for one
    /// that is not known the same is done.
    fn find(&self, presented: &[u8]) -> Option<&Known> {
        self.keys.get(&hash(presented))
    }
}

const NO_TENANT: &str = "has a tenant that is no safe directory name: it must be 1 to 64 of a-z, 0-9, '_' and '-', \
     and begin with a letter or a digit";

/// The list of an environment variable, `key1:tenant1,key2:tenant2`, each key for everything that its tenant may do. White space around an entry and empty
/// entries are ignored. What is wrong is told by the entry's number, and nothing of it is repeated: who swaps key and tenant must not find the key in a log.
impl FromStr for ApiKeys {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        let mut keys = Self::default();
        for (position, entry) in list.split(',').enumerate() {
            let entry = entry.trim();
            if entry.is_empty() {
                continue;
            }
            keys.push(entry).map_err(|problem| format!("entry {} {problem}", position + 1))?;
        }
        Ok(keys)
    }
}

fn hash(key: &[u8]) -> KeyHash {
    Sha256::digest(key).into()
}

/// The keys that are good now, and who tried others.
#[derive(Clone, Debug)]
pub struct Gate {
    keys: Arc<ArcSwap<ApiKeys>>,
    attempts: Arc<Attempts>,
    usages: Usages,
}

impl Gate {
    /// `failures_per_minute`: requests with a key that is not good that an address may send in a minute; then it is turned away with any key. 0: any number.
    pub fn new(keys: ApiKeys, failures_per_minute: u32) -> Self {
        Self {
            keys: Arc::new(ArcSwap::from_pointee(keys)),
            attempts: Arc::new(Attempts::new(failures_per_minute)),
            usages: Usages::default(),
        }
    }

    /// From now on, these keys are good and no others.
    pub fn replace(&self, keys: ApiKeys) {
        self.keys.store(Arc::new(keys));
    }

    /// Whose key is in `X-API-Key`, or in `Authorization: Bearer`.
    ///
    /// # Errors
    /// 401 where there is no key, or none that is good; 429 where the address sent too many of those.
    pub(super) fn caller(&self, headers: &HeaderMap, peer: IpAddr) -> Result<Caller, Problem> {
        let key = presented(headers).ok_or_else(|| Problem::unauthorized("no API key: send it in the X-API-Key header"))?;
        self.attempts.check(peer)?;
        let refused = |detail: &str| {
            self.attempts.failed(peer);
            Problem::unauthorized(detail)
        };
        let keys = self.keys.load();
        let known = keys.find(key).ok_or_else(|| refused("the API key is not known"))?;
        if let Some(expires_us) = known.expires_us.filter(|&expires_us| expires_us <= now_us()) {
            return Err(refused(&format!("the API key expired at {}", rfc3339(expires_us))));
        }
        Ok(known.caller.clone())
    }

    /// Lets a call of a tenant begin, which is in flight until what this gives is dropped. Calls of whom no quota counts them are not counted.
    ///
    /// # Errors
    /// 429 where the tenant's quota is used up.
    pub(super) fn admit(&self, tenant: &TenantId) -> Result<Option<Pass>, Problem> {
        let quota = self.quota(tenant);
        quota.counts_calls().then(|| self.usages.admit(tenant, quota)).transpose()
    }

    pub(super) fn quota(&self, tenant: &TenantId) -> Quota {
        self.keys.load().quotas.get(tenant)
    }
}

impl Caller {
    /// # Errors
    /// 403 where the key's role is less than what a call needs.
    pub(super) fn check(&self, needed: Role) -> Result<(), Problem> {
        if self.role >= needed {
            return Ok(());
        }
        let detail =
            format!("this call needs a key of the role {}, and this one is of a {}", needed.as_str(), self.role.as_str());
        Err(Problem::new(StatusCode::FORBIDDEN, "role", detail))
    }
}

fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(key) = headers.get("x-api-key") {
        return Some(key.as_bytes());
    }
    let (scheme, token) = headers.get(AUTHORIZATION)?.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests;
