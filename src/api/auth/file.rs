//! Keys as an operator keeps them: a TOML file, in which hashes stand for them.
//!
//! A key that [`Entry::generate`] makes has 256 random bits: nobody finds it by trying, so a plain SHA-256 of it keeps it as well as a slow hash would, and takes
//! under a microsecond a request.

use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;

use super::{ApiKeys, Caller, KeyHash, Known, NO_TENANT, Quota, Quotas, Role, hash};
use crate::TenantId;
use crate::time::{parse_rfc3339, rfc3339};

/// What a key begins with: who finds one in a log or in a repository sees what it is, and so do the scanners that look for such.
const PREFIX: &str = "fpk_";

/// The quota of all tenants that have none of their own.
const OTHERS: &str = "*";

/// Random bytes of a key.
const KEY_BYTES: usize = 32;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    key: Vec<Written>,
    #[serde(default)]
    quota: HashMap<String, Quota>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    name: String,
    tenant: String,
    role: Role,
    sha256: String,
    expires: Option<String>,
}

/// A key as the file has it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// For people. Empty: none.
    pub name: String,
    pub tenant: TenantId,
    pub role: Role,
    /// Microseconds since 1970.
    pub expires_us: Option<i64>,
    hash: KeyHash,
}

/// As the file has it: appended to what is there, it is one more key.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[[key]]")?;
        if !self.name.is_empty() {
            writeln!(f, "name = {}", toml::Value::from(self.name.as_str()))?;
        }
        writeln!(f, "tenant = \"{}\"\nrole = \"{}\"\nsha256 = \"{}\"", self.tenant, self.role.as_str(), hex(&self.hash))?;
        self.expires_us.map_or(Ok(()), |expires_us| writeln!(f, "expires = \"{}\"", rfc3339(expires_us)))
    }
}

impl Entry {
    /// A new key, and its entry.
    ///
    /// # Errors
    /// Where the system has no random bytes.
    pub fn generate(
        name: String,
        tenant: TenantId,
        role: Role,
        expires_us: Option<i64>,
    ) -> Result<(String, Self), getrandom::Error> {
        let mut bytes = [0; KEY_BYTES];
        getrandom::fill(&mut bytes)?;
        let key = format!("{PREFIX}{}", hex(&bytes));
        let hash = hash(key.as_bytes());
        Ok((key, Self { name, tenant, role, expires_us, hash }))
    }

    /// Those of a file.
    ///
    /// # Errors
    /// What is wrong, by line or by the entry's number. Values are not repeated: a key may stand where its hash should.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, String> {
        Ok(parse(text)?.0)
    }

    fn of(written: Written) -> Result<Self, String> {
        let Written { name, tenant, role, sha256, expires } = written;
        let tenant = TenantId::new(&tenant).map_err(|_| NO_TENANT.to_owned())?;
        let hash = unhex(&sha256).ok_or("sha256 must have 64 hexadecimal digits: the hash of a key, not the key")?;
        let expires_us = expires.map(|time| parse_rfc3339(&time).map_err(|problem| format!("expires {problem}"))).transpose()?;
        Ok(Self { name, tenant, role, expires_us, hash })
    }
}

/// The entries and the quotas of a file.
fn parse(text: &str) -> Result<(Vec<Entry>, Quotas), String> {
    let document: Document = toml::from_str(text).map_err(|error| {
        let line =
            error.span().map(|span| 1 + text.as_bytes()[..span.start.min(text.len())].iter().filter(|b| **b == b'\n').count());
        let place = line.map_or_else(String::new, |line| format!("line {line}: "));
        format!("{place}{}", without_values(error.message()))
    })?;
    let entries = document.key.into_iter().enumerate();
    let entries = entries.map(|(at, written)| Entry::of(written).map_err(|problem| format!("key {}: {problem}", at + 1)));
    let mut quotas = Quotas::default();
    for (name, quota) in document.quota {
        match name.as_str() {
            OTHERS => quotas.others = quota,
            name => {
                let tenant = TenantId::new(name).map_err(|_| format!("a quota {NO_TENANT}"))?;
                quotas.of.insert(tenant, quota);
            }
        }
    }
    Ok((entries.collect::<Result<_, _>>()?, quotas))
}

impl ApiKeys {
    /// The keys and the quotas of a file.
    ///
    /// # Errors
    /// As [`Entry::parse_all`], and where a key comes twice.
    pub fn of_file(text: &str) -> Result<Self, String> {
        let (entries, quotas) = parse(text)?;
        let mut keys = Self { quotas, ..Self::default() };
        for (at, Entry { tenant, role, expires_us, hash, .. }) in entries.into_iter().enumerate() {
            let known = Known { caller: Caller { tenant, role }, expires_us };
            keys.insert(hash, known).map_err(|problem| format!("key {} {problem}", at + 1))?;
        }
        Ok(keys)
    }
}

/// The message of the parser, of which some quote what they met.
fn without_values(message: &str) -> &str {
    message.split(['"', '`']).next().unwrap_or(message).trim_end_matches([' ', ':', ','])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn unhex(text: &str) -> Option<KeyHash> {
    if text.len() != 2 * size_of::<KeyHash>() || !text.is_ascii() {
        return None;
    }
    let mut bytes = KeyHash::default();
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, expires_us: Option<i64>) -> (String, Entry) {
        Entry::generate(name.to_owned(), TenantId::new("t").unwrap(), Role::Writer, expires_us).unwrap()
    }

    #[test]
    fn what_is_written_is_read_and_appended_entries_are_more_keys() {
        let (first, a) = entry("of \"x\"\n[[key]]", None);
        let (second, b) = entry("", Some(1_700_000_000_123_456));
        assert!(first.starts_with("fpk_") && first.len() == 4 + 64 && first != second);
        let text = format!("# by hand\n{a}\n{b}");
        assert!(!text.contains(&first) && !text.contains(&second));
        let read = Entry::parse_all(&text).unwrap();
        assert_eq!(read.iter().map(ToString::to_string).collect::<Vec<_>>(), [a.to_string(), b.to_string()]);
        let keys = ApiKeys::of_file(&text).unwrap();
        assert_eq!(keys.find(first.as_bytes()).unwrap().caller.role, Role::Writer);
        assert_eq!(keys.find(second.as_bytes()).unwrap().expires_us, Some(1_700_000_000_123_456));
        assert!(keys.find(hex(&a.hash).as_bytes()).is_none(), "the hash is no key");
        assert!(ApiKeys::of_file("").unwrap().is_empty());
    }

    #[test]
    fn a_wrong_file_is_refused_by_place_and_repeats_nothing_of_it() {
        let good = entry("", None).1.to_string();
        for (wrong, place) in [
            ("secret".to_owned(), "line 1"),
            (format!("{good}\nsecret = 1"), "line"),
            (format!("\n{good}").replace("writer", "secret"), "line 4"),
            (good.replace("sha256 = \"", "sha256 = \"secret"), "key 1"),
            ("[[key]]\ntenant = \"t\"\nrole = \"writer\"\nsha256 = \"secret\"".to_owned(), "key 1"),
            (format!("{good}{}", good.replace("tenant = \"t\"", "tenant = \"../secret\"")), "key 2"),
            (format!("{good}expires = \"secret\""), "key 1"),
            (format!("{good}{good}"), "key 2"),
            ("[[key]]\ntenant = \"t\"\nrole = \"writer\"\nsecret = \"secret\"".to_owned(), "line 4"),
        ] {
            let problem = ApiKeys::of_file(&wrong).unwrap_err();
            assert!(problem.contains(place), "{problem}: {wrong}");
            assert!(!problem.contains("secret"), "{problem}");
        }
    }
}
