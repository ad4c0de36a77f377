//! The one atomic root of an index: a new manifest replaces the old one in a single rename.

use std::collections::{BTreeMap, HashSet};
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::format::manifest::{
    LOG_DIRECTORY, MANIFEST_BYTES_MAX, Manifest, SEGMENT_DIRECTORY, file_name, parse_file_name, parse_number,
};
use crate::format::position::SegmentName;
use crate::io::{Io, durable};
use crate::types::IndexId;

/// The manifests that an index keeps: the newest, which counts, and the one before it.
#[derive(Debug)]
pub(crate) struct Root {
    io: Arc<dyn Io>,
    directory: PathBuf,
    current: Manifest,
    previous: Option<Manifest>,
    /// Whether what the manifests do not name can go: not where one of them could not be read.
    sweeps: bool,
    /// Manifests that this process has to publish before it removes anything: see [`load`](Self::load).
    unsure: u8,
    /// Set once it is not known which manifest is on the disk.
    poisoned: Option<Error>,
    /// Manifests whose log and segments somebody reads: while they are here, no file that they name is removed.
    pins: BTreeMap<u64, Manifest>,
}

impl Root {
    /// Writes the first manifest of a new index into its directory, as two generations: there are always two, so that one that is missing
    /// is seen. Of an index whose log is shared, it is a new copy, whatever was fetched to begin it with.
    pub(crate) fn create(io: &dyn Io, directory: &Path, mut manifest: Manifest) -> Result<()> {
        manifest.copy = manifest.shared.map(|_| new_copy());
        for generation in 1..=2 {
            manifest.generation = generation;
            durable::replace(io, directory, &manifest.file_name(), &[IoSlice::new(&manifest.encode())])?;
        }
        Ok(())
    }

    /// Reads the newest manifest, and the one before it, for an index that is about to serve. Changes nothing.
    ///
    /// A manifest that was published removes what only older ones name, after its name was synced. So where something of that kind is left, a
    /// publishing did not come to its end, and perhaps because that sync failed: a later one may say `Ok`, and the newest name that is seen here
    /// is lost with a crash all the same, or one that was taken away again comes back. Whatever either names must still be there then. So nothing
    /// is removed before both manifests that are kept are this process's own.
    ///
    /// # Errors
    /// As [`look`](Self::look); [`Error::Io`] also where the directory cannot be synced.
    pub(crate) fn load(io: Arc<dyn Io>, directory: &Path, index: IndexId) -> Result<Self> {
        // A process that was killed may not have come to sync the newest name. It is about to be believed, and files that only older ones
        // name to be removed.
        io.sync_dir(directory).map_err(|error| Error::io("sync", directory, error))?;
        let mut root = Self::look(io, directory, index)?;
        root.unsure = if root.leftovers()?.is_empty() { 0 } else { 2 };
        Ok(root)
    }

    /// Reads the newest manifest, and the one before it, only to look at them: the newest name may be in memory only, so nothing may be
    /// published, served or removed on the strength of it.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the newest one does not check or is missing. It was whole before it had its name, so this is damage and no
    /// crash, and the one before it may be too old for the log.
    pub(crate) fn look(io: Arc<dyn Io>, directory: &Path, index: IndexId) -> Result<Self> {
        let entries = io.list(directory).map_err(|error| Error::io("list", directory, error))?;
        let mut generations: Vec<u64> = entries.iter().filter_map(|entry| parse_file_name(&entry.name)).collect();
        generations.sort_unstable_by_key(|&generation| std::cmp::Reverse(generation));
        let mut newest = generations.into_iter();
        let Some(generation) = newest.next() else {
            return Err(Error::corrupt(
                directory,
                0,
                "there is no manifest in this directory (indices of the first server, in Python, are not read by this version)",
            ));
        };
        let current = read(&*io, directory, generation)?;
        if IndexId::from_bytes(current.index) != index {
            let path = directory.join(file_name(generation));
            return Err(Error::corrupt(
                &path,
                0,
                format!("this is the manifest of index {}", IndexId::from_bytes(current.index)),
            ));
        }
        // The one before it is removed only when the next one is durable. Where it is not there, the newest one may be what is missing, and
        // everything that it named would be swept away.
        let before = generation.saturating_sub(1);
        if newest.next() != Some(before) {
            let path = directory.join(file_name(before));
            return Err(Error::corrupt(
                &path,
                0,
                format!("this manifest is missing, and so may be one that is newer than {generation}"),
            ));
        }
        let previous = read(&*io, directory, before)
            .inspect_err(|error| tracing::warn!(%error, "the manifest before the newest one cannot be read; no file is swept"))
            .ok();
        let sweeps = previous.is_some();
        Ok(Self {
            io,
            directory: directory.to_owned(),
            current,
            previous,
            sweeps,
            unsure: 0,
            poisoned: None,
            pins: BTreeMap::new(),
        })
    }

    pub(crate) fn current(&self) -> &Manifest {
        &self.current
    }

    /// A number above that of every segment file that exists or is named: names are never reused.
    pub(crate) fn next_number(&self) -> Result<u64> {
        let directory = self.directory.join(SEGMENT_DIRECTORY);
        let entries = self.io.list(&directory).map_err(|error| Error::io("list", &directory, error))?;
        let found = entries.iter().filter_map(|entry| parse_number(&entry.name));
        let last = found.chain(self.current.file_numbers()).max().unwrap_or(0);
        last.checked_add(1)
            .ok_or_else(|| Error::corrupt(&directory, 0, format!("no segment has number {last}: move the file away")))
    }

    /// Puts a changed copy of the current manifest in its place, durably. Then removes what neither it nor the one before it names.
    /// Gives the manifest's bytes and how many log segments were removed.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Io`]: the old manifest stands. [`Error::OutcomeUnknown`]: either may stand, and every later call fails.
    pub(crate) fn publish(&mut self, change: impl FnOnce(&mut Manifest)) -> Result<(u64, usize)> {
        if let Some(error) = &self.poisoned {
            return Err(error.clone());
        }
        let mut next = self.current.clone();
        change(&mut next);
        next.generation = self.current.generation + 1;
        let bytes = next.encode();
        let written = durable::replace(&*self.io, &self.directory, &next.file_name(), &[IoSlice::new(&bytes)]).and_then(|_| {
            // Read back what the next opening will read, while the manifest before it is still there.
            let path = self.directory.join(next.file_name());
            let found = durable::read_all(&*self.io, &path, MANIFEST_BYTES_MAX);
            match found {
                Ok(found) if found == bytes => Ok(()),
                Ok(_) => Err(Error::io("read back", &path, std::io::Error::other("not what was written")).into_outcome_unknown()),
                Err(error) => Err(error.into_outcome_unknown()),
            }
        });
        if let Err(error) = written {
            if matches!(error, Error::OutcomeUnknown(_)) {
                self.poisoned = Some(error.clone());
                // Its name may be in memory only: the next opening must not believe it, and remove what it replaces. Best effort: the
                // state is the same in both.
                let _ = self.io.remove_file(&self.directory.join(next.file_name()));
            }
            return Err(error);
        }
        let before = std::mem::replace(&mut self.current, next);
        let dropped = self.previous.replace(before);
        // Where the one before could not be read when it was opened, both are of this process by now.
        self.sweeps |= dropped.is_some();
        let names: Vec<PathBuf> = match self.unsure {
            0 => {
                let named = self.named();
                dropped.iter().flat_map(Manifest::files).filter(|name| !named.contains(name)).map(PathBuf::from).collect()
            }
            _ => {
                self.unsure -= 1;
                // From here on all of it can go.
                if self.unsure == 0 { self.leftovers().unwrap_or_default() } else { Vec::new() }
            }
        };
        Ok((bytes.len() as u64, self.remove(names)))
    }

    /// Keeps every file of the log and of the segments that the current manifest names, until [`unpin`](Self::unpin) is given the key.
    pub(crate) fn pin(&mut self) -> (u64, Manifest) {
        let key = self.pins.last_key_value().map_or(0, |(last, _)| last + 1);
        self.pins.insert(key, self.current.clone());
        (key, self.current.clone())
    }

    /// Removes what only this pin kept. A file that stays is removed by the next opening.
    pub(crate) fn unpin(&mut self, key: u64) {
        let Some(pinned) = self.pins.remove(&key) else { return };
        // Else all that no manifest names goes when it can, this too.
        if self.unsure == 0 {
            let named = self.named();
            self.remove(pinned_files(&pinned).filter(|name| !named.contains(name)).map(PathBuf::from));
        }
    }

    /// Names of the files that stay: those of both manifests, and what is pinned.
    fn named(&self) -> HashSet<String> {
        let manifests = std::iter::once(&self.current).chain(&self.previous);
        manifests.flat_map(Manifest::files).chain(self.pins.values().flat_map(pinned_files)).collect()
    }

    /// Gives how many of the files were log.
    fn remove(&self, names: impl IntoIterator<Item = PathBuf>) -> usize {
        let mut log_files_removed = 0;
        for name in names {
            // A file that stays is removed by the next opening.
            match self.io.remove_file(&self.directory.join(&name)) {
                Ok(()) => log_files_removed += usize::from(name.extension().is_some_and(|kind| kind == "wal")),
                Err(error) => {
                    tracing::warn!(name = %name.display(), %error, "a file that is no longer needed could not be removed")
                }
            }
        }
        log_files_removed
    }

    /// Removes files of ours that no kept manifest names: what a crash left. For an index that is known to be sound. Files that are not ours
    /// are left alone. Where manifests have to be published first and there is no room for them, the files stay.
    ///
    /// # Errors
    /// [`Error::Io`]: some are left. [`Error::OutcomeUnknown`]: as [`publish`](Self::publish).
    pub(crate) fn sweep(&mut self) -> Result<()> {
        // The opening looked for leftovers already, and found none.
        if self.unsure == 0 {
            return Ok(());
        }
        while self.unsure > 0 {
            match self.publish(|_| {}) {
                Ok(_) => {}
                Err(error @ Error::OutcomeUnknown(_)) => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "what a crash left stays until two more manifests are published");
                    return Ok(());
                }
            }
        }
        for name in self.leftovers()? {
            let path = self.directory.join(name);
            self.io.remove_file(&path).map_err(|error| Error::io("remove", &path, error))?;
        }
        Ok(())
    }

    /// Files of ours that no kept manifest names and nobody reads, from the index's directory.
    fn leftovers(&self) -> Result<Vec<PathBuf>> {
        let mut leftovers = Vec::new();
        if !self.sweeps {
            return Ok(leftovers);
        }
        let named = self.named();
        for directory in ["", LOG_DIRECTORY, SEGMENT_DIRECTORY] {
            let path = self.directory.join(directory);
            for entry in self.io.list(&path).map_err(|error| Error::io("list", &path, error))? {
                let name = if directory.is_empty() { entry.name.clone() } else { format!("{directory}/{}", entry.name) };
                if !entry.is_dir && is_ours(&entry.name) && !named.contains(&name) {
                    leftovers.push(PathBuf::from(name));
                }
            }
        }
        Ok(leftovers)
    }
}

/// Of the files of an index that begin on a node.
pub(crate) fn new_copy() -> [u8; 16] {
    Uuid::new_v4().into_bytes()
}

/// What a pin keeps: all but the manifest's own file, whose contents whoever pins it has.
fn pinned_files(manifest: &Manifest) -> impl Iterator<Item = String> {
    manifest.files().skip(1)
}

/// Whether a file name is one that this crate gives. Torn tails that were copied aside are kept.
fn is_ours(name: &str) -> bool {
    let name = name.strip_suffix(".tmp").unwrap_or(name);
    parse_file_name(name).is_some() || parse_number(name).is_some() || SegmentName::parse(name).is_some()
}

/// Reads and checks the manifest of a generation.
///
/// # Errors
/// [`Error::Corrupt`] where it is not that; [`Error::Io`].
pub(crate) fn read(io: &dyn Io, directory: &Path, generation: u64) -> Result<Manifest> {
    let path = directory.join(file_name(generation));
    let bytes = durable::read_all(io, &path, MANIFEST_BYTES_MAX)?;
    let manifest = Manifest::decode(&bytes).map_err(|problem| Error::corrupt(&path, 0, problem))?;
    if manifest.generation == generation {
        Ok(manifest)
    } else {
        Err(Error::corrupt(&path, 0, format!("this is the manifest of generation {}", manifest.generation)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::manifest::{Checksum, SegmentFile, Settings, segment_name};
    use crate::format::position::Position;
    use crate::io::sim::{Fault, Operation, SimIo, Survival};

    /// The index refused: its newest manifest had come back, and the log segment that it names had been swept away.
    #[test]
    fn what_a_manifest_names_that_a_crash_can_bring_back_is_not_swept() {
        let name = SegmentName { first_lsn: 1, epoch: 1 };
        let wal = Path::new("/").join(LOG_DIRECTORY);
        for seed in 0..100 {
            let disk = new_disk();
            let mut root = load(&disk).unwrap();
            disk.create(&name.path(&wal)).unwrap();
            disk.sync_dir(&wal).unwrap();
            // It is durable, and cannot be read back, and its removal is not durable.
            disk.fail_step(disk.operations() + 8, Fault::Eio);
            root.publish(|manifest| manifest.log.push(name)).unwrap_err();
            assert!(matches!(&disk.struck()[..], [(_, step)] if step.operation == Operation::ReadAt));
            disk.fail_at(1, Fault::FailedSync);
            load(&disk).unwrap_err();
            // The sync after one that failed says that all is well.
            let mut root = load(&disk).unwrap();
            root.sweep().unwrap();
            let after = disk.crash(Survival::Random(seed));
            let root = Root::look(Arc::new(after.clone()), Path::new("/"), IndexId::nil()).unwrap();
            for file in root.current().files() {
                assert!(after.open(&Path::new("/").join(&file)).is_ok(), "seed {seed}: {file} is named and missing");
            }
        }
    }

    /// The index refused: its newest manifest was lost, and the one before the one before it had been swept away.
    #[test]
    fn manifest_before_one_that_a_crash_can_take_away_is_not_swept() {
        for seed in 0..100 {
            let disk = new_disk();
            let mut root = load(&disk).unwrap();
            // Its name is not durable, and it cannot be taken away again.
            disk.fail_step(disk.operations() + 6, Fault::FailedSync);
            disk.fail_step(disk.operations() + 7, Fault::Eio);
            root.publish(|_| {}).unwrap_err();
            let struck: Vec<Operation> = disk.struck().iter().map(|(_, step)| step.operation).collect();
            assert_eq!(struck, [Operation::SyncDir, Operation::RemoveFile]);
            let mut root = load(&disk).unwrap();
            assert_eq!(root.current().generation, 3);
            root.sweep().unwrap();
            assert_eq!(root.current().generation, 5);
            let after = disk.crash(Survival::Random(seed));
            let found = Root::look(Arc::new(after), Path::new("/"), IndexId::nil()).map(|root| root.current().generation);
            assert_eq!(found.map_err(|error| error.to_string()), Ok(5), "seed {seed}");
        }
    }

    #[test]
    fn what_is_pinned_is_neither_swept_nor_removed_by_publishing_and_goes_with_the_last_pin() {
        let named =
            |number| SegmentFile { number, checksum: Checksum { bytes: 0, crc: 0 }, dead: None, built: None, fields: None };
        // With what a crash left, all that no manifest names is swept at once when that can be done; without, each as it is dropped.
        for leftover in [true, false] {
            let disk = new_disk();
            let segments = Path::new("/").join(SEGMENT_DIRECTORY);
            let mut root = load(&disk).unwrap();
            disk.create(&segments.join(segment_name(1))).unwrap();
            root.publish(|manifest| manifest.segments.push(named(1))).unwrap();
            drop(root);
            if leftover {
                disk.create(&segments.join(segment_name(9))).unwrap();
            }
            let mut root = load(&disk).unwrap();
            let ((first, pinned), (second, _)) = (root.pin(), root.pin());
            assert_eq!(pinned, *root.current());
            for _ in 0..3 {
                root.publish(|manifest| manifest.segments.clear()).unwrap();
            }
            let listed = || disk.list(&segments).unwrap().into_iter().map(|entry| entry.name).collect::<Vec<_>>();
            assert_eq!(listed(), [segment_name(1)], "leftover: {leftover}");
            root.unpin(first);
            assert_eq!(listed(), [segment_name(1)], "another has it");
            root.unpin(second);
            root.unpin(second);
            assert_eq!(listed(), [""; 0]);
            assert_eq!(load(&disk).unwrap().unsure, 0, "nothing is left for the next opening");
        }
    }

    /// A disk with a new index in its root.
    fn new_disk() -> SimIo {
        let disk = SimIo::new();
        for directory in [LOG_DIRECTORY, SEGMENT_DIRECTORY] {
            disk.create_dir(&Path::new("/").join(directory)).unwrap();
        }
        Root::create(&disk, Path::new("/"), manifest(1)).unwrap();
        disk
    }

    fn load(disk: &SimIo) -> Result<Root> {
        Root::load(Arc::new(disk.clone()), Path::new("/"), IndexId::nil())
    }

    fn manifest(generation: u64) -> Manifest {
        let settings = Settings {
            name: "n".to_owned(),
            dimension: 1,
            index_type: "Flat".to_owned(),
            factory: "Flat".to_owned(),
            metric: 0,
            created_at_us: 0,
            options: "{}".to_owned(),
            created_by: None,
        };
        Manifest {
            index: [0; 16],
            generation,
            settings,
            position: Position::START,
            log: vec![],
            segments: vec![],
            keys: None,
            shared: None,
            copy: None,
        }
    }

    #[test]
    fn a_stranger_s_file_of_the_last_number_is_an_error_and_no_overflow() {
        let disk = SimIo::new();
        let current = manifest(1);
        disk.create_dir(&Path::new("/").join(SEGMENT_DIRECTORY)).unwrap();
        let io = Arc::new(disk.clone());
        let root = Root {
            io,
            directory: "/".into(),
            current,
            previous: None,
            sweeps: true,
            unsure: 0,
            poisoned: None,
            pins: BTreeMap::new(),
        };
        assert_eq!(root.next_number().unwrap(), 1);
        disk.create(&Path::new("/").join(SEGMENT_DIRECTORY).join(segment_name(u64::MAX))).unwrap();
        let error = root.next_number().unwrap_err().to_string();
        assert!(error.contains("18446744073709551615"), "{error}");
    }
}
