//! Who is calling: API keys, each of one tenant.

use std::fmt;

use subtle::{ConditionallySelectable, ConstantTimeEq};
use warp::http::HeaderMap;
use warp::http::header::AUTHORIZATION;

use super::reply::Problem;
use crate::TenantId;

/// API keys and the tenant that each one opens. Several keys may open the same tenant.
#[derive(Clone, Default)]
pub struct ApiKeys {
    keys: Vec<(String, TenantId)>,
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
        Self::parse("test-key-1:tenant-1,test-key-2:tenant-2").expect("the list is well-formed")
    }

    /// Parses `key1:tenant1,key2:tenant2`. White space around an entry and empty entries are ignored.
    ///
    /// # Errors
    /// A sentence that says which entry is wrong by its number, and repeats nothing of it: who swaps key and tenant must not find
    /// the key in a log.
    pub fn parse(list: &str) -> Result<Self, String> {
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

    fn push(&mut self, entry: &str) -> Result<(), &'static str> {
        let (key, tenant) = entry.rsplit_once(':').ok_or("has no ':' between key and tenant")?;
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("has a key that is empty or has characters that no HTTP header can bear");
        }
        let tenant = TenantId::new(tenant).map_err(|_| {
            "has a tenant that is no safe directory name: it must be 1 to 64 of a-z, 0-9, '_' and '-', \
             and begin with a letter or a digit"
        })?;
        if self.keys.iter().any(|(known, _)| known == key) {
            return Err("has the key of an earlier entry");
        }
        self.keys.push((key.to_owned(), tenant));
        Ok(())
    }

    /// Adds the keys of `other` that are not there yet.
    pub fn extend(&mut self, other: Self) {
        for (key, tenant) in other.keys {
            if !self.keys.iter().any(|(known, _)| *known == key) {
                self.keys.push((key, tenant));
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The tenants that have a key; one with several comes several times.
    pub fn tenants(&self) -> impl Iterator<Item = &TenantId> {
        self.keys.iter().map(|(_, tenant)| tenant)
    }

    /// The tenant of the key in `X-API-Key`, or in `Authorization: Bearer`.
    ///
    /// # Errors
    /// 401 where there is no key, or none that is known.
    pub(super) fn tenant(&self, headers: &HeaderMap) -> Result<TenantId, Problem> {
        let key = presented(headers).ok_or_else(|| Problem::unauthorized("no API key: send it in the X-API-Key header"))?;
        self.find(key).cloned().ok_or_else(|| Problem::unauthorized("the API key is not known"))
    }

    /// Compares with every key, and each in constant time, so that the time taken tells nothing of how much was right.
    fn find(&self, presented: &[u8]) -> Option<&TenantId> {
        let mut found = u64::MAX;
        for (position, (key, _)) in (0_u64..).zip(&self.keys) {
            found.conditional_assign(&position, key.as_bytes().ct_eq(presented));
        }
        let (_, tenant) = self.keys.get(usize::try_from(found).ok()?)?;
        Some(tenant)
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
mod tests {
    use super::*;

    fn tenant_of(keys: &ApiKeys, header: &'static str, value: &'static str) -> Option<String> {
        let headers = HeaderMap::from_iter([(header.parse().unwrap(), value.parse().unwrap())]);
        keys.tenant(&headers).ok().map(|tenant| tenant.to_string())
    }

    #[test]
    fn a_key_opens_its_tenant_by_either_header_and_no_other_does() {
        let keys = ApiKeys::parse(" alpha:t1 ,be:ta:t2,, gamma:t1").unwrap();
        assert_eq!(tenant_of(&keys, "x-api-key", "alpha").as_deref(), Some("t1"));
        assert_eq!(tenant_of(&keys, "x-api-key", "be:ta").as_deref(), Some("t2"));
        assert_eq!(tenant_of(&keys, "x-api-key", "gamma").as_deref(), Some("t1"));
        assert_eq!(tenant_of(&keys, "authorization", "Bearer alpha").as_deref(), Some("t1"));
        assert_eq!(tenant_of(&keys, "authorization", "bearer alpha").as_deref(), Some("t1"));
        for wrong in ["", "alph", "alphaa", "alpha:t1", "beta", "ALPHA"] {
            assert_eq!(tenant_of(&keys, "x-api-key", wrong), None, "{wrong:?}");
        }
        assert_eq!(tenant_of(&keys, "authorization", "Basic alpha"), None);
        assert_eq!(tenant_of(&keys, "authorization", "Bear"), None);
        assert_eq!(keys.tenant(&HeaderMap::new()).unwrap_err().status(), 401);
        assert_eq!(ApiKeys::default().tenant(&HeaderMap::new()).unwrap_err().status(), 401);
    }

    #[test]
    fn a_wrong_list_is_refused_by_position_and_never_repeats_a_key() {
        for wrong in ["secret", "a:t,secret", "a:t,secret:../up", "a:t,secret:Upper", "a:t,secret:", "secret:t,secret:u"] {
            let problem = ApiKeys::parse(wrong).unwrap_err();
            assert!(problem.starts_with("entry "), "{problem}");
            assert!(!problem.contains("secret"), "{problem}");
        }
        assert!(ApiKeys::parse("tenant-1:sEcReT").is_err_and(|problem| !problem.contains("sEcReT")));
        assert!(ApiKeys::parse(":tenant").is_err());
        assert!(ApiKeys::parse("").unwrap().is_empty());
        assert!(!format!("{:?}", ApiKeys::parse("secret:t").unwrap()).contains("secret"));
    }
}
