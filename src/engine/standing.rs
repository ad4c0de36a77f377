//! What is known of indices without opening them, and what tenants use.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;

use super::index::Index;
use super::slot::State;
use super::slots::{Entry, Slots};
use super::store::Store;
use crate::error::{Error, Result};
use crate::types::{IndexId, TenantId};

/// How much there is in an index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct IndexSize {
    /// Live points.
    pub points: u64,
    /// Bytes of the files that the manifest names, the log included: as they were at most a second ago.
    pub bytes: u64,
}

/// How an index stands, open or not.
#[derive(Clone, Debug)]
pub struct Standing {
    pub tenant_id: TenantId,
    pub id: IndexId,
    pub name: String,
    /// UTC, microseconds since 1970.
    pub created_at_us: i64,
    pub state: StandingState,
    /// Of one that is closed, as it was closed; `None`: it was not open since the store was.
    pub size: Option<IndexSize>,
}

/// What an index can do.
#[derive(Clone, Debug)]
pub enum StandingState {
    /// Everything of it was verified, and it serves.
    Open,
    /// Its next use opens it.
    Closed,
    /// It was refused, and why.
    Refused(Error),
}

/// What a tenant uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Those that refuse left out.
    pub indices: usize,
    /// Live points of the indices whose size is known.
    pub points: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Indices whose size is not known.
    pub uncounted: usize,
}

impl Usage {
    pub(crate) fn add(&mut self, state: &StandingState, size: Option<IndexSize>) {
        if matches!(state, StandingState::Refused(_)) {
            return;
        }
        self.indices += 1;
        match size {
            Some(IndexSize { points, bytes }) => {
                self.points += points;
                self.bytes += bytes;
            }
            None => self.uncounted += 1,
        }
    }
}

/// How long the bytes of an open index are good for: to look at them takes some system calls, and a quota is looked at by every write.
const BYTES_GOOD_FOR: Duration = Duration::from_secs(1);

/// The size of an index: of one that is open as of a moment ago, of one that is not as it was closed.
#[derive(Debug, Default)]
pub(super) struct Size(Mutex<Option<(IndexSize, Instant)>>);

impl Size {
    /// `None`: it was not open since the store was.
    fn known(&self, open: Option<&Index>) -> Option<IndexSize> {
        match open {
            Some(index) => Some(self.of(index)),
            None => self.0.lock().map(|(size, _)| size),
        }
    }

    fn of(&self, index: &Index) -> IndexSize {
        let fresh = self.0.lock().filter(|(_, looked)| looked.elapsed() < BYTES_GOOD_FOR);
        match fresh {
            Some((size, _)) => IndexSize { points: index.vector_count(), ..size },
            None => self.note(index),
        }
    }

    /// Looks at it, and keeps what there is to see.
    pub(super) fn note(&self, index: &Index) -> IndexSize {
        let size = IndexSize { points: index.vector_count(), bytes: index.bytes() };
        *self.0.lock() = Some((size, Instant::now()));
        size
    }
}

impl Entry {
    /// `None`: it is deleted.
    fn state_and_size(&self) -> Option<(StandingState, Option<IndexSize>)> {
        let (state, open) = match &*self.slot.state() {
            State::Open(index) => (StandingState::Open, Some(Arc::clone(index))),
            State::Dormant | State::Opening | State::Closing => (StandingState::Closed, None),
            State::Refused(error) => (StandingState::Refused(error.clone()), None),
            State::Deleted => return None,
        };
        // Not under the slot's lock: files are looked at.
        Some((state, self.size.known(open.as_deref())))
    }

    fn standing(&self) -> Option<Standing> {
        let (state, size) = self.state_and_size()?;
        let ((tenant, id), about) = (&self.key, self.about.read());
        let (tenant_id, id, name, created_at_us) = (tenant.clone(), *id, about.name.to_string(), about.created_at_us);
        Some(Standing { tenant_id, id, name, created_at_us, state, size })
    }
}

impl Slots {
    pub(super) fn standings(&self, tenant: Option<&TenantId>) -> Vec<Standing> {
        let mut standings: Vec<Standing> = self.all(tenant).iter().filter_map(|entry| entry.standing()).collect();
        standings.sort_by(|a, b| (&a.tenant_id, a.created_at_us, a.id).cmp(&(&b.tenant_id, b.created_at_us, b.id)));
        standings
    }
}

impl Store {
    /// How every index stands, of a tenant or of all, by tenant and oldest first. None is opened for it.
    pub fn standings(&self, tenant: Option<&TenantId>) -> Vec<Standing> {
        self.slots.standings(tenant)
    }

    /// What the tenant uses, as far as it is known without opening an index.
    pub fn usage(&self, tenant: &TenantId) -> Usage {
        let mut usage = Usage::default();
        // Each write of a tenant with a quota comes here: no names, and no order.
        for (state, size) in self.slots.all(Some(tenant)).iter().filter_map(|entry| entry.state_and_size()) {
            usage.add(&state, size);
        }
        usage
    }

    /// What the tenant uses: indices that were never open are opened for it, once. Those that refuse, or cannot be opened now, are left out.
    ///
    /// # Errors
    /// [`Error::Io`] where the tenant's directory could not be read when the store was opened.
    pub fn full_usage(&self, tenant: &TenantId) -> Result<Usage> {
        self.slots.check_tenant(tenant)?;
        let usage = self.usage(tenant);
        if usage.uncounted == 0 {
            return Ok(usage);
        }
        for standing in self.standings(Some(tenant)) {
            if matches!(standing.state, StandingState::Closed) && standing.size.is_none() {
                // Why it could not be opened is in the log, and is told to who asks for it.
                let _ = self.index(tenant, standing.id);
            }
        }
        Ok(self.usage(tenant))
    }
}
