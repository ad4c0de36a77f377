//! What a tenant may use.

use std::collections::HashMap;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::bucket::Bucket;
use crate::api::reply::Problem;
use crate::types::TenantId;

/// `None`: as much as there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Indices that a tenant may have.
    #[schema(value_type = Option<u64>, minimum = 1)]
    pub indices: Option<NonZeroUsize>,
    /// Points that its indices may have together.
    #[schema(value_type = Option<u64>, minimum = 1)]
    pub points: Option<NonZeroU64>,
    /// Bytes of files from which on its indices take no more points.
    #[schema(value_type = Option<u64>, minimum = 1)]
    pub bytes: Option<NonZeroU64>,
    /// Floats in a vector of a new index.
    #[schema(value_type = Option<u64>, minimum = 1)]
    pub dimension: Option<NonZeroUsize>,
    /// Calls in a second, and as many at one time after a second without.
    #[schema(value_type = Option<u64>, minimum = 1)]
    pub requests_per_second: Option<NonZeroU32>,
    /// Calls that run or wait at one time.
    #[schema(value_type = Option<u64>, minimum = 1)]
    pub requests_in_flight: Option<NonZeroU32>,
}

impl Quota {
    pub fn counts_calls(&self) -> bool {
        self.requests_per_second.is_some() || self.requests_in_flight.is_some()
    }
}

/// The quota of each tenant that has one of its own, and that of the others.
#[derive(Clone, Debug, Default)]
pub struct Quotas {
    pub of: HashMap<TenantId, Quota>,
    pub others: Quota,
}

impl Quotas {
    pub fn get(&self, tenant: &TenantId) -> Quota {
        self.of.get(tenant).copied().unwrap_or(self.others)
    }
}

/// What tenants use now.
#[derive(Clone, Debug, Default)]
pub struct Usages {
    of: Arc<Mutex<HashMap<TenantId, Usage>>>,
}

#[derive(Debug)]
struct Usage {
    in_flight: u32,
    requests: Bucket,
}

/// Counts as a call in flight until it is dropped.
#[derive(Debug)]
pub struct Pass {
    usages: Usages,
    tenant: TenantId,
}

impl Usages {
    /// Lets a call begin.
    ///
    /// # Errors
    /// 429 where the quota is used up.
    pub fn admit(&self, tenant: &TenantId, quota: Quota) -> Result<Pass, Problem> {
        self.admit_at(tenant, quota, Instant::now())
    }

    fn admit_at(&self, tenant: &TenantId, quota: Quota, now: Instant) -> Result<Pass, Problem> {
        let per_second = quota.requests_per_second.map_or(0.0, |rate| rate.get().into());
        let mut of = self.of.lock();
        let usage = of.entry(tenant.clone()).or_insert_with(|| Usage { in_flight: 0, requests: Bucket::full(per_second, now) });
        if let Some(max) = quota.requests_in_flight.filter(|max| usage.in_flight >= max.get()) {
            return Err(Problem::busy(&format!("the tenant has {max} calls in flight, which is its quota")));
        }
        if let Some(rate) = quota.requests_per_second {
            if !usage.requests.has_token(per_second, per_second, now) {
                return Err(Problem::busy(&format!("the tenant's quota is {rate} calls in a second")));
            }
            usage.requests.take(per_second, per_second, now);
        }
        usage.in_flight += 1;
        Ok(Pass { usages: self.clone(), tenant: tenant.clone() })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(usage) = self.usages.of.lock().get_mut(&self.tenant) {
            usage.in_flight -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    #[test]
    fn a_tenant_has_so_many_calls_in_a_second_and_no_other_tenant_has_fewer_by_it() {
        let (usages, now) = (Usages::default(), Instant::now());
        let quota = Quota { requests_per_second: NonZeroU32::new(3), ..Quota::default() };
        for _ in 0..3 {
            usages.admit_at(&tenant("a"), quota, now).unwrap();
        }
        assert_eq!(usages.admit_at(&tenant("a"), quota, now).unwrap_err().status(), 429);
        usages.admit_at(&tenant("b"), quota, now).unwrap();
        let later = now + Duration::from_millis(400);
        usages.admit_at(&tenant("a"), quota, later).unwrap();
        assert!(usages.admit_at(&tenant("a"), quota, later).is_err());
    }

    #[test]
    fn calls_in_flight_are_counted_until_they_end() {
        let usages = Usages::default();
        let quota = Quota { requests_in_flight: NonZeroU32::new(2), ..Quota::default() };
        let first = usages.admit(&tenant("a"), quota).unwrap();
        let _second = usages.admit(&tenant("a"), quota).unwrap();
        assert_eq!(usages.admit(&tenant("a"), quota).unwrap_err().status(), 429);
        drop(first);
        assert!(usages.admit(&tenant("a"), quota).is_ok());
        for _ in 0..10 {
            drop(usages.admit(&tenant("a"), Quota::default()).unwrap());
        }
    }
}
