//! The catalogue that the nodes of a cluster share: what it has of an index, and how a node makes its own what it says.
//!
//! An entry is the index's settings, as JSON. Whoever creates, changes or deletes an index writes the entry first, and then does the same here; the
//! other nodes are told, and do it too.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::index::Index;
use super::slots::Slots;
use crate::error::{Error, Result, What};
use crate::format::manifest::Settings;
use crate::format::position::Place;
use crate::types::{IdempotencyKey, IndexConfig, IndexId, IndexOptions, IndexSummary, TenantId};
use crate::wal::cluster::{Cluster, Entry};

/// Version of the entries that this code writes, and the only one that it reads.
const VERSION: u32 = 1;

/// How often an entry is read and changed anew because others changed it.
const ROUNDS_MAX: usize = 32;

/// How often an index may be created by the same idempotency key, each time after it was deleted.
const LIVES_MAX: u32 = 1024;

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    version: u32,
    #[serde(flatten)]
    settings: Settings,
}

fn encode(settings: &Settings) -> Vec<u8> {
    let document = Document { version: VERSION, settings: settings.clone() };
    serde_json::to_vec(&document).expect("settings are texts and numbers")
}

/// # Errors
/// [`Error::Corrupt`]: it is no entry, or a newer version's.
fn decode(about: &[u8], tenant: &TenantId, id: IndexId) -> Result<Settings> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let wrong = |problem: String| Error::corrupt(&Path::new("catalogue").join(tenant.as_str()).join(id.to_string()), 0, problem);
    // Before all else: what else there is depends on it.
    let Version { version } = serde_json::from_slice(about).map_err(|error| wrong(error.to_string()))?;
    if version != VERSION {
        return Err(wrong(format!("a newer version of faiss-proxy wrote this entry: its version is {version}, not {VERSION}")));
    }
    let document: Document = serde_json::from_slice(about).map_err(|error| wrong(error.to_string()))?;
    Ok(document.settings)
}

impl Slots {
    /// Creates an index for all nodes. For who keeps others from adding one, and knows of none by the same key.
    ///
    /// # Errors
    /// Those of [`Cluster::set_entry`]; [`Error::OutcomeUnknown`] also where the catalogue has it and this node could not make it yet.
    pub(super) fn create_shared(&self, cluster: &dyn Cluster, tenant: &TenantId, settings: Settings) -> Result<Arc<Index>> {
        let (id, settings, is_new) = add(cluster, tenant, settings)?;
        // Of one that nobody has written to there is no snapshot.
        let made =
            if is_new { self.add_empty(tenant, id, settings, Some(Place::START)) } else { self.adopt(tenant, id, settings) };
        made.map_err(Error::into_unanswered)
    }

    /// An index of the catalogue of which this node was not told yet.
    ///
    /// # Errors
    /// [`Error::NotFound`]: the catalogue does not have it. [`Error::Io`]: it does not answer. Those of adding an index.
    pub(super) fn find_shared(&self, cluster: &dyn Cluster, tenant: &TenantId, id: IndexId) -> Result<Arc<Index>> {
        let settings = catalogued(cluster, tenant, id)?;
        let _one = self.creating()?;
        self.adopt(tenant, id, settings)
    }

    /// For who keeps others from adding one: this node's part of an index of the catalogue.
    fn adopt(&self, tenant: &TenantId, id: IndexId, settings: Settings) -> Result<Arc<Index>> {
        self.check_tenant(tenant)?;
        if self.has(tenant, id) { self.open(&(tenant.clone(), id)) } else { self.add_shared(tenant, id, settings) }
    }

    /// Deletes an index for all nodes.
    ///
    /// # Errors
    /// [`Error::NotFound`]; those of [`Cluster::delete`], and of taking it away here.
    pub(super) fn delete_shared(&self, cluster: &dyn Cluster, tenant: &TenantId, id: IndexId) -> Result<()> {
        let is_there = |entry: Entry| entry.about.is_some();
        if !self.has(tenant, id) && !cluster.entry(tenant, id)?.is_some_and(is_there) {
            return Err(Error::NotFound(What::Index));
        }
        cluster.delete(tenant, id)?;
        self.forget(tenant, id)
    }

    fn forget(&self, tenant: &TenantId, id: IndexId) -> Result<()> {
        match self.take_away(tenant, id) {
            // It was never here, or another was faster.
            Err(Error::NotFound(_)) => Ok(()),
            taken => taken,
        }
    }

    /// Makes this node's part of an index what an entry says.
    ///
    /// # Errors
    /// [`Error::Corrupt`]: it says nothing that this version knows. Those of adding, changing and taking away an index.
    pub(super) fn follow_entry(&self, tenant: &TenantId, id: IndexId, entry: &Entry) -> Result<()> {
        let (key, placement) = ((tenant.clone(), id), self.context().placement.as_deref());
        let Some(about) = &entry.about else {
            placement.inspect(|placement| placement.forget_elsewhere(&key));
            return self.forget(tenant, id);
        };
        let settings = decode(about, tenant, id)?;
        let Some(known) = self.about(&key) else {
            if let Some(placement) = placement.filter(|placement| !placement.holds(id)) {
                let Settings { name, created_at_us, .. } = settings;
                placement.note_elsewhere(tenant.clone(), IndexSummary { id, name, created_at_us });
                return Ok(());
            }
            let _one = self.creating()?;
            return self.adopt(tenant, id, settings).map(|_| ());
        };
        let is_as_it_says = *known.name == settings.name && *known.options == settings.options;
        // Of one that is refused, nothing is known; it was said why.
        if is_as_it_says || self.is_refused(&key) {
            return Ok(());
        }
        let config = config(&settings, tenant, id)?;
        let index = self.open(&key)?;
        index.configure(|now| {
            *now = config;
            Ok(())
        })?;
        self.note_name(&index);
        Ok(())
    }
}

/// What the catalogue has of an index.
///
/// # Errors
/// [`Error::NotFound`]: nothing. [`Error::Io`]: it does not answer. [`Error::Corrupt`]: nothing that this version knows.
pub(super) fn catalogued(cluster: &dyn Cluster, tenant: &TenantId, id: IndexId) -> Result<Settings> {
    let about = cluster.entry(tenant, id)?.and_then(|entry| entry.about).ok_or(Error::NotFound(What::Index))?;
    decode(&about, tenant, id)
}

/// Adds an index to the catalogue, and gives its id and settings; or those of the one that its idempotency key created already. And whether it is new.
fn add(cluster: &dyn Cluster, tenant: &TenantId, settings: Settings) -> Result<(IndexId, Settings, bool)> {
    let about = encode(&settings);
    let Some(created_by) = &settings.created_by else {
        let id = IndexId::new_v4();
        return match cluster.set_entry(tenant, id, 0, &about)? {
            Some(_) => Ok((id, settings, true)),
            None => Err(Error::Conflict(format!("the catalogue has an index {id} already; try again"))),
        };
    };
    // The key says which id, so that of two nodes that are asked at once one makes the index, and the other finds it.
    for life in 0..LIVES_MAX {
        let id = id_of_key(tenant, &created_by.key, life);
        if cluster.set_entry(tenant, id, 0, &about)?.is_some() {
            return Ok((id, settings, true));
        }
        // One that was deleted is not made again: the next one is.
        if let Some(Entry { about: Some(about), .. }) = cluster.entry(tenant, id)? {
            let found = decode(&about, tenant, id)?;
            return if found.created_by == settings.created_by { Ok((id, found, false)) } else { Err(IdempotencyKey::reused()) };
        }
    }
    Err(Error::Conflict(format!("{LIVES_MAX} indices were created by this key and deleted; take another")))
}

/// RFC 9562, version 8: of a SHA-256.
fn id_of_key(tenant: &TenantId, key: &str, life: u32) -> IndexId {
    let hash = Sha256::new().chain_update(tenant.as_str()).chain_update([0]).chain_update(life.to_le_bytes()).chain_update(key);
    let hash = hash.finalize();
    let bytes = *hash.first_chunk::<16>().expect("it has 32 bytes");
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

fn config(settings: &Settings, tenant: &TenantId, id: IndexId) -> Result<IndexConfig> {
    let options: IndexOptions = serde_json::from_str(&settings.options).map_err(|error| {
        Error::corrupt(&Path::new("catalogue").join(tenant.as_str()).join(id.to_string()), 0, format!("options: {error}"))
    })?;
    Ok(IndexConfig { name: settings.name.clone(), options })
}

/// Changes what the catalogue has of an index, and gives what it has then. `change` is given it, and may be asked again.
///
/// # Errors
/// [`Error::NotFound`]; those of `change`, of [`Index::check_config`] and of [`Cluster::set_entry`]. [`Error::Busy`]: others change it all the time.
pub(super) fn change(
    cluster: &dyn Cluster,
    index: &Index,
    change: impl Fn(&mut IndexConfig) -> Result<()>,
) -> Result<IndexConfig> {
    let (tenant, id) = (&index.tenant, index.id);
    for _ in 0..ROUNDS_MAX {
        let Some(Entry { revision, about: Some(about) }) = cluster.entry(tenant, id)? else {
            return Err(Error::NotFound(What::Index));
        };
        let settings = decode(&about, tenant, id)?;
        let now = config(&settings, tenant, id)?;
        let mut next = now.clone();
        change(&mut next)?;
        if next == now {
            return Ok(next);
        }
        index.check_config(&now, &next)?;
        let settings = Settings { name: next.name.clone(), options: next.options.to_text(), ..settings };
        if cluster.set_entry(tenant, id, revision, &encode(&settings))?.is_some() {
            return Ok(next);
        }
    }
    Err(Error::Busy("this index is changed all the time; nothing was changed: try again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            name: "my index".to_owned(),
            dimension: 3,
            index_type: "IndexFlatL2".to_owned(),
            factory: "Flat".to_owned(),
            metric: 0,
            created_at_us: 1_700_000_000_000_000,
            options: "{}".to_owned(),
            created_by: None,
        }
    }

    #[test]
    fn entry_is_the_documented_json() {
        let json = "{\"version\":1,\"name\":\"my index\",\"dimension\":3,\"index_type\":\"IndexFlatL2\",\"factory\":\"Flat\",\"metric\":0,\
                    \"created_at_us\":1700000000000000,\"options\":\"{}\",\"created_by\":null}";
        assert_eq!(String::from_utf8(encode(&settings())).unwrap(), json);
        let (tenant, id) = (TenantId::new("t").unwrap(), IndexId::nil());
        assert_eq!(decode(json.as_bytes(), &tenant, id).unwrap(), settings());
        let newer = decode(b"{\"version\":2,\"index\":7}", &tenant, id).unwrap_err();
        assert!(newer.to_string().contains("newer version"), "{newer}");
        assert!(matches!(decode(b"{", &tenant, id), Err(Error::Corrupt(_))));
    }

    #[test]
    fn a_key_gives_a_tenant_one_id_for_each_life() {
        let (one, other) = (TenantId::new("one").unwrap(), TenantId::new("other").unwrap());
        let id = id_of_key(&one, "key", 0);
        assert_eq!(id, id_of_key(&one, "key", 0));
        assert_eq!(id.get_version_num(), 8);
        for another in [id_of_key(&other, "key", 0), id_of_key(&one, "key2", 0), id_of_key(&one, "key", 1)] {
            assert_ne!(id, another);
        }
    }
}
