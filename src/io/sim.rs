//! The simulated disk: it tears writes, loses what was not synced, lies after a failed sync, and fails on demand.
//!
//! A crash test runs a procedure once to count its mutations, then stops it at each of them, cuts the power, and opens what is left:
//!
//! ```
//! use faiss_proxy::io::{Io, sim::{SimIo, Survival}};
//! use std::{io::IoSlice, path::Path};
//!
//! fn procedure(io: &dyn Io) -> std::io::Result<()> {
//!     let file = io.create(Path::new("/f"))?;
//!     file.write_at(0, &[IoSlice::new(b"whole")])?;
//!     file.sync_data()?;
//!     io.sync_dir(Path::new("/"))
//! }
//!
//! let start = SimIo::new();
//! for n in 1.. {
//!     let disk = start.fork();
//!     disk.crash_at(n);
//!     let acknowledged = procedure(&disk).is_ok();
//!     for seed in 0..20 {
//!         let found = disk.crash(Survival::Random(seed));
//!         assert!(!acknowledged || found.open(Path::new("/f")).is_ok(), "crash at {n}, seed {seed}: {:?}", disk.trace());
//!     }
//!     if acknowledged {
//!         break;
//!     }
//! }
//! ```
//!
//! # What it does not do
//!
//! A sector of [`SECTOR_BYTES`] that is written is as it was or as it shall be, or with [`Survival::Torn`] partly the one and partly the
//! other; never something else, and never does its writing harm another sector. Nothing that was synced rots: damage bytes in the test.
//! Names that are not UTF-8, links, permissions and `..` do not exist. A failed sync loses all that the file had unsynced, and reads go on
//! giving it (on Linux the kernel may also forget it). A file counts with its length against the capacity, holes included, and a
//! directory with nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;

use self::plan::{Calls, Due, Plan, PlannedFault};
use self::tree::{NodeId, Tree};
use super::{Entry, File, Io, Lock, Map, whole};

mod chance;
mod contents;
mod plan;
mod tree;

#[cfg(test)]
mod tests;

pub(super) use chance::Chance;
pub use plan::{Fault, Operation, Step};

/// The unit in which a crash keeps or loses what was written.
pub const SECTOR_BYTES: usize = 512;

/// A longer file is a mistake of the test, and would take as much memory.
const FILE_BYTES_MAX: u64 = 1 << 32;

/// A simulated disk. A clone is the same disk; [`SimIo::fork`] is another one with the same contents.
#[derive(Clone)]
pub struct SimIo {
    disk: Arc<Mutex<Disk>>,
}

/// What a power cut leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// Nothing.
    None,
    /// Everything, as after a kill or a power cut at leisure; except what a failed sync lost.
    All,
    /// An arbitrary part, the same for the same seed and history: of each file any of its unsynced sectors, each as it is or as it
    /// was at some time since the last sync; any of the lengths that it had since then; and any of the unsynced changes of names,
    /// each whole, as far as they are possible without the others. What a failed sync lost may be there or not.
    Random(u64),
    /// The same, and sectors that survive may be torn: up to some byte as they are and from there on as the disk had them, or the other
    /// way round.
    Torn(u64),
}

impl Survival {
    fn seed(self) -> u64 {
        match self {
            Self::None | Self::All => 0,
            Self::Random(seed) | Self::Torn(seed) => seed,
        }
    }
}

struct Disk {
    tree: Tree,
    /// What each file that was opened is called now, unless its directory was renamed.
    paths: BTreeMap<NodeId, PathBuf>,
    locks: BTreeMap<NodeId, Holders>,
    capacity: Option<u64>,
    plan: Plan,
}

impl Default for SimIo {
    fn default() -> Self {
        Self::new()
    }
}

impl SimIo {
    /// An empty disk: it has the directory `/`.
    pub fn new() -> Self {
        Self::from_tree(Tree::new(), None)
    }

    fn from_tree(tree: Tree, capacity: Option<u64>) -> Self {
        let disk = Disk { tree, paths: BTreeMap::new(), locks: BTreeMap::new(), capacity, plan: Plan::default() };
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    /// The disk as another process finds it after this one was killed: all that was written is there, also what is not synced, and
    /// stays unsynced (or lost). Locks are free, counts are 0, and no fault is planned. This disk does not change.
    pub fn fork(&self) -> Self {
        let disk = self.disk.lock();
        Self::from_tree(disk.tree.without_handles(), disk.capacity)
    }

    /// The disk as found after a power cut: what survived is durable. Locks are free, counts are 0, and no fault is planned. This disk
    /// does not change, and its handles stay with it.
    pub fn crash(&self, survival: Survival) -> Self {
        let disk = self.disk.lock();
        Self::from_tree(disk.tree.after_crash(survival), disk.capacity)
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.disk.lock().plan.operations
    }

    /// Operations so far that can change what a crash leaves: the count that [`SimIo::crash_at`] goes by.
    pub fn mutations(&self) -> u64 {
        self.disk.lock().plan.mutations
    }

    /// The last operations, oldest first; failed ones too.
    pub fn trace(&self) -> Vec<Step> {
        self.disk.lock().plan.trace.iter().cloned().collect()
    }

    /// Lets `fault` strike once: the `n`-th operation from now *among those that it can strike* (1: the next), so that a test that
    /// tries 1, 2, 3, … meets each sync, or each write, once. Several may be planned.
    pub fn fail_at(&self, n: u64, fault: Fault) {
        assert!(n > 0, "1 is the next operation");
        self.disk.lock().plan.faults.push(PlannedFault { fault, due: Due::After(n) });
    }

    /// Lets `fault` strike the operation of this [`Step::number`], where it can strike that one.
    pub fn fail_step(&self, number: u64, fault: Fault) {
        self.disk.lock().plan.faults.push(PlannedFault { fault, due: Due::At(number) });
    }

    /// Faults that did not strike yet.
    pub fn faults_left(&self) -> usize {
        self.disk.lock().plan.faults.len()
    }

    /// Faults that struck, and what.
    pub fn struck(&self) -> Vec<(Fault, Step)> {
        self.disk.lock().plan.struck.clone()
    }

    /// Lets the process die at the `n`-th mutation from now (1: the next): that one does nothing, and it and all that follows fail.
    pub fn crash_at(&self, n: u64) {
        assert!(n > 0, "1 is the next mutation");
        let mut disk = self.disk.lock();
        disk.plan.crash_at = Some(disk.plan.mutations + n);
    }

    /// Whether the mutation of [`SimIo::crash_at`] was reached.
    pub fn is_crashed(&self) -> bool {
        self.disk.lock().plan.is_crashed
    }

    /// Bytes that all files together may have. What would exceed it fails with [`ErrorKind::StorageFull`], a write after it wrote what
    /// fits.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk.lock().capacity = bytes;
    }

    /// Bytes that all files together have.
    pub fn used_bytes(&self) -> u64 {
        self.disk.lock().tree.used_bytes()
    }

    /// A number that is the same for disks that hold the same names and bytes, synced or not, and (but for one case in 2^32) another one for
    /// others.
    pub fn fingerprint(&self) -> u64 {
        self.disk.lock().tree.fingerprint()
    }

    fn handle(&self, disk: &mut Disk, node: NodeId, path: &Path) -> Arc<dyn File> {
        disk.tree.add_handle(node);
        disk.paths.insert(node, path.to_owned());
        Arc::new(SimFile { disk: Arc::clone(&self.disk), node })
    }
}

impl fmt::Debug for SimIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disk = self.disk.lock();
        f.debug_struct("SimIo")
            .field("operations", &disk.plan.operations)
            .field("mutations", &disk.plan.mutations)
            .finish_non_exhaustive()
    }
}

impl Disk {
    /// Counts an operation on a file that is open.
    fn begin(&mut self, operation: Operation, file: NodeId) -> io::Result<Option<Fault>> {
        let Self { plan, paths, .. } = self;
        plan.begin(operation, &paths[&file])
    }

    /// Bytes by which files may still grow.
    fn free_bytes(&self) -> u64 {
        self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.tree.used_bytes()))
    }

    /// One `pread`, of at most so many bytes.
    fn pread(&self, file: NodeId, buffer: &mut [u8], offset: u64, bytes_max: usize) -> usize {
        let found = self.tree.contents(file).from(offset);
        let count = buffer.len().min(found.len()).min(bytes_max);
        buffer[..count].copy_from_slice(&found[..count]);
        count
    }

    /// One `pwritev`, of at most so many bytes, and of as many as there is room for.
    fn pwritev(&mut self, file: NodeId, parts: &[IoSlice<'_>], offset: u64, bytes_max: usize) -> io::Result<usize> {
        let end_max = (self.tree.contents(file).len() as u64).saturating_add(self.free_bytes());
        let room = usize::try_from(end_max.saturating_sub(offset)).unwrap_or(usize::MAX).min(bytes_max);
        let contents = self.tree.contents_mut(file);
        let mut written = 0;
        for part in parts {
            let part = &part[..part.len().min(room - written)];
            contents.write(offset as usize + written, part);
            written += part.len();
        }
        if written > 0 { Ok(written) } else { Err(Errno::NOSPC.into()) }
    }
}

impl Io for SimIo {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut disk = self.disk.lock();
        disk.plan.begin_whole(Operation::Open, path)?;
        let node = disk.tree.file(path)?;
        Ok(self.handle(&mut disk, node, path))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut disk = self.disk.lock();
        disk.plan.begin_whole(Operation::Create, path)?;
        let node = disk.tree.create(path)?;
        Ok(self.handle(&mut disk, node, path))
    }

    fn map(&self, path: &Path) -> io::Result<Map> {
        let mut disk = self.disk.lock();
        disk.plan.begin_whole(Operation::Map, path)?;
        let node = disk.tree.file(path)?;
        Ok(Map::copied(disk.tree.contents(node).bytes()))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<Entry>> {
        let mut disk = self.disk.lock();
        disk.plan.begin_whole(Operation::List, directory)?;
        disk.tree.list(directory)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.plan.begin_whole(Operation::CreateDir, path)?;
        disk.tree.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.plan.begin_whole(Operation::Rename, from)?;
        let file = disk.tree.file(from);
        disk.tree.rename(from, to)?;
        if let Some(path) = file.ok().and_then(|file| disk.paths.get_mut(&file)) {
            *path = to.to_owned();
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.plan.begin_whole(Operation::RemoveFile, path)?;
        disk.tree.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.plan.begin_whole(Operation::RemoveDir, path)?;
        disk.tree.remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        match disk.plan.begin(Operation::SyncDir, path)? {
            None => disk.tree.sync_dir(path, false),
            Some(fault) => {
                if fault != Fault::Eio {
                    disk.tree.sync_dir(path, true)?;
                }
                Err(fault.error())
            }
        }
    }

    fn available(&self, _directory: &Path) -> io::Result<u64> {
        let disk = self.disk.lock();
        disk.plan.check_alive()?;
        Ok(disk.free_bytes())
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        let mut disk = self.disk.lock();
        let present = disk.tree.file(path);
        let is_absent = present.as_ref().is_err_and(|e| e.kind() == ErrorKind::NotFound);
        disk.plan.begin_whole(if is_absent { Operation::Create } else { Operation::Open }, path)?;
        let node = if is_absent { disk.tree.create(path)? } else { present? };
        if disk.locks.contains_key(&node) {
            return Err(ErrorKind::WouldBlock.into());
        }
        disk.locks.insert(node, Holders::One);
        disk.tree.add_handle(node);
        Ok(Lock { _held: Box::new(SimLock { disk: Arc::clone(&self.disk), node }) })
    }

    fn lock_shared(&self, path: &Path) -> io::Result<Lock> {
        let mut disk = self.disk.lock();
        disk.plan.begin_whole(Operation::Open, path)?;
        let node = disk.tree.file(path)?;
        match disk.locks.entry(node).or_insert(Holders::Sharing(0)) {
            Holders::One => return Err(ErrorKind::WouldBlock.into()),
            Holders::Sharing(holders) => *holders += 1,
        }
        disk.tree.add_handle(node);
        Ok(Lock { _held: Box::new(SimLock { disk: Arc::clone(&self.disk), node }) })
    }
}

struct SimFile {
    disk: Arc<Mutex<Disk>>,
    node: NodeId,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({})", self.disk.lock().paths[&self.node].display())
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.disk.lock().tree.drop_handle(self.node);
    }
}

impl File for SimFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut disk = self.disk.lock();
        let fault = disk.begin(Operation::ReadAt, self.node)?;
        let mut calls = Calls::new(fault, buffer.len().min(disk.tree.contents(self.node).from(offset).len()));
        whole::read(buffer, offset, |buffer, offset| Ok(disk.pread(self.node, buffer, offset, calls.next()?)))
    }

    fn write_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let total: usize = parts.iter().map(|part| part.len()).sum();
        checked_length(offset.checked_add(total as u64))?;
        if total == 0 {
            // No system call is made.
            return disk.plan.check_alive();
        }
        let fault = disk.begin(Operation::WriteAt, self.node)?;
        let mut calls = Calls::new(fault, total);
        whole::write(parts, offset, |parts, offset| {
            let bytes_max = calls.next()?;
            disk.pwritev(self.node, parts, offset, bytes_max)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let fault = disk.begin(Operation::SyncData, self.node)?;
        let contents = disk.tree.contents_mut(self.node);
        match fault {
            None => {
                contents.sync();
                Ok(())
            }
            Some(fault) => {
                if fault != Fault::Eio {
                    contents.lose_unsynced();
                }
                Err(fault.error())
            }
        }
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut disk = self.disk.lock();
        if let Some(fault) = disk.begin(Operation::SetLen, self.node)? {
            return Err(fault.error());
        }
        let length = checked_length(Some(bytes))?;
        let present = disk.tree.contents(self.node).len();
        if length > present && (length - present) as u64 > disk.free_bytes() {
            return Err(Errno::NOSPC.into());
        }
        disk.tree.contents_mut(self.node).set_len(length);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let disk = self.disk.lock();
        disk.plan.check_alive()?;
        Ok(disk.tree.contents(self.node).len() as u64)
    }
}

fn checked_length(bytes: Option<u64>) -> io::Result<usize> {
    match bytes {
        Some(bytes) if bytes <= FILE_BYTES_MAX => Ok(bytes as usize),
        _ => Err(ErrorKind::FileTooLarge.into()),
    }
}

/// Who has the lock of a file.
#[derive(Clone, Copy)]
enum Holders {
    One,
    Sharing(u32),
}

struct SimLock {
    disk: Arc<Mutex<Disk>>,
    node: NodeId,
}

impl fmt::Debug for SimLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimLock({})", self.node)
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut disk = self.disk.lock();
        match disk.locks.get_mut(&self.node) {
            Some(Holders::Sharing(holders)) if *holders > 1 => *holders -= 1,
            _ => drop(disk.locks.remove(&self.node)),
        }
        disk.tree.drop_handle(self.node);
    }
}
