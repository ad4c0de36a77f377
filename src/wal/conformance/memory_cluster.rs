use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::super::cluster::{Cluster, Entry, Told};
use super::super::log::{Appended, Log, Place};
use super::super::nodes::{Member, Nodes};
use super::super::operation::Operation;
use super::super::read::Commit;
use super::Logs as _;
use super::memory::{Fault, Memory, MemoryLog, fault};
use crate::error::{Error, Result, What};
use crate::types::{IndexId, Lsn, TenantId};

type Key = (TenantId, IndexId);

/// What nodes share.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryCluster(Arc<Mutex<Shared>>);

#[derive(Default)]
struct Shared {
    logs: BTreeMap<Key, Memory>,
    entries: BTreeMap<Key, Entry>,
    newest_revision: u64,
    fault: Option<Fault>,
    followers: Vec<Sender<Told>>,
    members: BTreeMap<String, Weak<dyn Member>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("entries", &self.entries).finish_non_exhaustive()
    }
}

impl MemoryCluster {
    /// The log of an index, whether or not there is an entry.
    pub(crate) fn log(&self, tenant: &TenantId, index: IndexId) -> Memory {
        self.0.lock().logs.entry((tenant.clone(), index)).or_default().clone()
    }

    /// Of the next writing of an entry, or of its deletion.
    pub(crate) fn fail_next(&self, fault: Fault) {
        self.0.lock().fault = Some(fault);
    }

    /// Takes a node for dead.
    pub(crate) fn lose(&self, node: &str) {
        self.0.lock().members.remove(node);
        self.tell_members();
    }

    fn tell_members(&self) {
        // They may come back here.
        let members = self.0.lock().members.clone();
        let nodes: BTreeSet<String> = members.keys().cloned().collect();
        members.values().filter_map(Weak::upgrade).for_each(|member| member.alive(nodes.clone()));
    }

    /// How many receive still, after they were told something that they know.
    pub(crate) fn followers(&self) -> usize {
        let mut shared = self.0.lock();
        shared.tell(&Told::Complete);
        shared.followers.len()
    }
}

impl Shared {
    fn tell(&mut self, told: &Told) {
        self.followers.retain(|follower| follower.send(told.clone()).is_ok());
    }

    fn write(&mut self, key: &Key, revision: u64, about: Option<&[u8]>) -> Result<Option<u64>> {
        let fault_now = self.fault.take();
        match fault_now {
            Some(Fault::Refused) => return Err(fault()),
            Some(Fault::NotStored) => return Err(fault().into_outcome_unknown()),
            Some(Fault::Lost) | None => {}
        }
        let follows = match self.entries.get(key) {
            None => revision == 0,
            Some(newest) => newest.revision == revision && newest.about.is_some(),
        };
        if !follows {
            return Ok(None);
        }
        self.newest_revision += 1;
        let entry = Entry { revision: self.newest_revision, about: about.map(<[u8]>::to_vec) };
        self.entries.insert(key.clone(), entry.clone());
        self.tell(&Told::Entry { tenant: key.0.clone(), index: key.1, entry });
        if fault_now.is_some() { Err(fault().into_outcome_unknown()) } else { Ok(Some(self.newest_revision)) }
    }

    fn tell_of_log(&mut self, (tenant, index): &Key) {
        let sequence = self.logs.get(&(tenant.clone(), *index)).map_or(0, Memory::newest_sequence);
        if sequence > 0 {
            self.tell(&Told::Frame { tenant: tenant.clone(), index: *index, sequence });
        }
    }
}

impl Cluster for MemoryCluster {
    fn open(&self, tenant: &TenantId, index: IndexId, from: Place) -> Result<Box<dyn Log<Place = Place>>> {
        let log = self.log(tenant, index).open(Some(from))?;
        Ok(Box::new(ToldLog { log, cluster: self.clone(), key: (tenant.clone(), index) }))
    }

    fn entry(&self, tenant: &TenantId, index: IndexId) -> Result<Option<Entry>> {
        Ok(self.0.lock().entries.get(&(tenant.clone(), index)).cloned())
    }

    fn set_entry(&self, tenant: &TenantId, index: IndexId, revision: u64, about: &[u8]) -> Result<Option<u64>> {
        self.0.lock().write(&(tenant.clone(), index), revision, Some(about))
    }

    fn delete(&self, tenant: &TenantId, index: IndexId) -> Result<()> {
        let key = (tenant.clone(), index);
        let mut shared = self.0.lock();
        let Some(entry) = shared.entries.get(&key).cloned() else { return Err(Error::NotFound(What::Index)) };
        if entry.about.is_some() {
            assert!(shared.write(&key, entry.revision, None)?.is_some(), "the lock is held");
        }
        shared.logs.entry(key).or_default().delete();
        Ok(())
    }

    fn follow(&self, told: Sender<Told>) {
        let mut shared = self.0.lock();
        // Under the lock with all that comes, so that nothing comes between.
        let others = std::mem::replace(&mut shared.followers, vec![told]);
        for ((tenant, index), entry) in shared.entries.clone() {
            shared.tell(&Told::Entry { tenant, index, entry });
        }
        shared.tell(&Told::Complete);
        for key in shared.logs.keys().cloned().collect::<Vec<_>>() {
            shared.tell_of_log(&key);
        }
        shared.followers.extend(others);
    }
}

impl Nodes for MemoryCluster {
    fn join(&self, node: &str, member: &Arc<dyn Member>) -> Result<()> {
        self.0.lock().members.insert(node.to_owned(), Arc::downgrade(member));
        self.tell_members();
        Ok(())
    }

    fn leave(&self, node: &str) -> Result<()> {
        self.lose(node);
        Ok(())
    }

    fn has(&self, node: &str, tenant: &TenantId, index: IndexId, lsn: Lsn) -> bool {
        let member = self.0.lock().members.get(node).and_then(Weak::upgrade);
        member.is_some_and(|member| member.has(tenant, index, lsn))
    }
}

/// A log of which those are told who follow.
#[derive(Debug)]
struct ToldLog {
    log: MemoryLog,
    cluster: MemoryCluster,
    key: Key,
}

impl Log for ToldLog {
    type Place = Place;

    fn place(&self) -> Place {
        self.log.place()
    }

    fn written_lsn(&self) -> Lsn {
        self.log.written_lsn()
    }

    fn durable_lsn(&self) -> Lsn {
        self.log.durable_lsn()
    }

    fn time_us(&self) -> u64 {
        self.log.time_us()
    }

    fn frame_bytes_max(&self) -> usize {
        self.log.frame_bytes_max()
    }

    fn append(&mut self, operations: &[&Operation<'_>]) -> Result<Appended> {
        let appended = self.log.append(operations);
        // Where the outcome is not known too.
        if !matches!(appended, Ok(Appended::Moved)) {
            self.cluster.0.lock().tell_of_log(&self.key);
        }
        appended
    }

    fn sync(&mut self) -> Result<()> {
        self.log.sync()
    }

    fn read_new(&mut self, each: &mut dyn FnMut(Commit, &Operation<'_>) -> Result<()>) -> Result<()> {
        self.log.read_new(each)
    }

    fn trim(&mut self, to: Place) -> Result<()> {
        self.log.trim(to)
    }
}
