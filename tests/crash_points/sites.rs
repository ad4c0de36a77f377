//! Which operation on which kind of file was struck by which fault.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use faiss_proxy::io::sim::{Fault, Operation, SimIo};

/// An operation on a kind of file: all calls of one kind.
pub type Site = (Operation, &'static str);

/// How often each fault struck at each site.
#[derive(Clone, Debug, Default)]
pub struct Sites(BTreeMap<Site, BTreeMap<Fault, u64>>);

impl Sites {
    /// The sites of everything that a disk was asked for, which must not be more than it remembers.
    pub fn of(disk: &SimIo) -> BTreeSet<Site> {
        let trace = disk.trace();
        assert_eq!(trace.len() as u64, disk.operations(), "a longer run than a disk remembers");
        trace.iter().map(|step| (step.operation, kind(&step.path))).collect()
    }

    pub fn add(&mut self, disk: &SimIo) {
        for (fault, step) in disk.struck() {
            *self.0.entry((step.operation, kind(&step.path))).or_default().entry(fault).or_default() += 1;
        }
    }

    pub fn merge(&mut self, other: &Self) {
        for (site, faults) in &other.0 {
            let mine = self.0.entry(*site).or_default();
            faults.iter().for_each(|(fault, count)| *mine.entry(*fault).or_default() += count);
        }
    }

    /// Sites at which a fault did not strike that can.
    pub fn missing<'a>(&self, sites: impl IntoIterator<Item = &'a Site>) -> Vec<(Site, Fault)> {
        let struck = |site: &Site, fault| self.0.get(site).is_some_and(|faults| faults.contains_key(&fault));
        let pairs = sites.into_iter().flat_map(|site| Fault::ALL.map(|fault| (*site, fault)));
        pairs.filter(|(site, fault)| fault.strikes(site.0) && !struck(site, *fault)).collect()
    }

    pub fn sites(&self) -> impl Iterator<Item = &Site> {
        self.0.keys()
    }

    pub fn faults(&self) -> u64 {
        self.0.values().flat_map(BTreeMap::values).sum()
    }
}

impl std::fmt::Display for Sites {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:<12}{:<18}", "operation", "on")?;
        Fault::ALL.iter().try_for_each(|fault| write!(f, "{:>14}", format!("{fault:?}")))?;
        for ((operation, kind), faults) in &self.0 {
            write!(f, "\n{:<12}{kind:<18}", format!("{operation:?}"))?;
            for fault in Fault::ALL {
                let count = faults.get(&fault).map_or("-".to_owned(), u64::to_string);
                write!(f, "{count:>14}")?;
            }
        }
        Ok(())
    }
}

/// What a file or directory of a store is, by its name.
fn kind(path: &Path) -> &'static str {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let depth = path.components().count() - 1;
    let is_temporary = name.ends_with(".tmp");
    match (depth, name.trim_end_matches(".tmp")) {
        (0, _) => "above the data",
        (1, _) => "data directory",
        (2, "LOCK") => "LOCK",
        (2, "RESERVE") => "RESERVE",
        (2, _) => "tenant",
        (3, name) if name.starts_with(".creating-") => ".creating",
        (3, name) if name.starts_with(".deleting-") => ".deleting",
        (3, _) => "index",
        (_, "wal") => "wal/",
        (_, "segments") => "segments/",
        (_, name) if name.starts_with("manifest-") && is_temporary => "manifest.tmp",
        (_, name) if name.starts_with("manifest-") => "manifest",
        (_, name) if name.ends_with(".wal") && is_temporary => ".wal.tmp",
        (_, name) if name.ends_with(".wal") => ".wal",
        (_, name) if name.ends_with(".torn") && is_temporary => ".torn.tmp",
        (_, name) if name.ends_with(".seg") => ".seg",
        (_, name) if name.ends_with(".dead") => ".dead",
        (_, name) if name.ends_with(".keys") => ".keys",
        (_, name) if name.ends_with(".fields") => ".fields",
        (_, name) if name.ends_with(".faiss") => ".faiss",
        _ => panic!("what is {}?", path.display()),
    }
}
