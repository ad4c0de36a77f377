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
//! Sectors of [`SECTOR_BYTES`] are atomic. Nothing that was synced rots: damage bytes in the test. Names that are not UTF-8, links,
//! permissions and `..` do not exist. A failed sync loses all that the file had unsynced, and reads go on giving it (on Linux the
//! kernel may also forget it). A file counts with its length against the capacity, holes included, and a directory with nothing.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;

use self::tree::{NodeId, Tree};
use super::{Entry, File, Io, Lock, Map};

mod chance;
mod contents;
mod tree;

#[cfg(test)]
mod tests;

pub(super) use chance::Chance;

/// The unit that a crash keeps or loses as a whole.
pub const SECTOR_BYTES: usize = 512;

/// Steps that [`SimIo::trace`] remembers: enough for a message, and little for a run of a million.
const TRACE_STEPS_MAX: usize = 1000;

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
}

/// A failure on demand: see [`SimIo::fail_at`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Strikes any operation, which does nothing and fails with `EIO`. What a sync would have synced stays unsynced, and a later sync
    /// does it.
    Eio,
    /// Strikes what needs space: creating, renaming, writing and [`File::set_len`] do nothing and fail with `ENOSPC`. A sync fails as
    /// in [`Fault::FailedSync`]: a file system that allocates late finds out only then.
    Enospc,
    /// Strikes [`File::write_at`]: the first half of the bytes is written, then `EIO`.
    ShortWrite,
    /// Strikes [`File::sync_data`] and [`Io::sync_dir`] with `EIO`, as Linux does it: what was unsynced is marked clean and is not on
    /// the disk. Reads still give it, later syncs return `Ok` without writing it, and a crash takes it back, except sectors (and names)
    /// that were written again and then synced. See <https://wiki.postgresql.org/wiki/Fsync_Errors>.
    FailedSync,
}

/// Kinds of operations that are counted. Opening, locking a file that exists, and asking for a length are not: they touch no disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    ReadAt,
    Map,
    List,
    WriteAt,
    SetLen,
    SyncData,
    SyncDir,
    Create,
    CreateDir,
    Rename,
    RemoveFile,
    RemoveDir,
}

impl Operation {
    /// Whether it can change what a crash leaves: syncs do.
    pub fn is_mutation(self) -> bool {
        !matches!(self, Self::ReadAt | Self::Map | Self::List)
    }
}

/// One counted operation.
#[derive(Clone, PartialEq, Eq)]
pub struct Step {
    /// 1 for the first of its disk.
    pub number: u64,
    pub operation: Operation,
    /// As it was when the file was opened; of a rename the old path.
    pub path: PathBuf,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} {:?} {}", self.number, self.operation, self.path.display())
    }
}

struct Disk {
    tree: Tree,
    locks: BTreeSet<NodeId>,
    capacity: Option<u64>,
    operations: u64,
    mutations: u64,
    trace: VecDeque<Step>,
    faults: Vec<PlannedFault>,
    /// The mutation that the process does not live to do.
    crash_at: Option<u64>,
    is_crashed: bool,
}

struct PlannedFault {
    fault: Fault,
    /// Operations that it can strike, up to and with the one that it does.
    left: u64,
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
        let disk = Disk {
            tree,
            locks: BTreeSet::new(),
            capacity,
            operations: 0,
            mutations: 0,
            trace: VecDeque::new(),
            faults: Vec::new(),
            crash_at: None,
            is_crashed: false,
        };
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
        self.disk.lock().operations
    }

    /// Operations so far that can change what a crash leaves: the count that [`SimIo::crash_at`] goes by.
    pub fn mutations(&self) -> u64 {
        self.disk.lock().mutations
    }

    /// The last operations, oldest first; failed ones too.
    pub fn trace(&self) -> Vec<Step> {
        self.disk.lock().trace.iter().cloned().collect()
    }

    /// Lets `fault` strike once: the `n`-th operation from now *among those that it can strike* (1: the next), so that a test that
    /// tries 1, 2, 3, … meets each sync, or each write, once. Several may be planned.
    pub fn fail_at(&self, n: u64, fault: Fault) {
        assert!(n > 0, "1 is the next operation");
        self.disk.lock().faults.push(PlannedFault { fault, left: n });
    }

    /// Faults that did not strike yet.
    pub fn faults_left(&self) -> usize {
        self.disk.lock().faults.len()
    }

    /// Lets the process die at the `n`-th mutation from now (1: the next): that one does nothing, and it and all that follows fail.
    pub fn crash_at(&self, n: u64) {
        assert!(n > 0, "1 is the next mutation");
        let mut disk = self.disk.lock();
        disk.crash_at = Some(disk.mutations + n);
    }

    /// Whether the mutation of [`SimIo::crash_at`] was reached.
    pub fn is_crashed(&self) -> bool {
        self.disk.lock().is_crashed
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

    fn handle(&self, disk: &mut Disk, node: NodeId, path: &Path) -> Arc<dyn File> {
        disk.tree.add_handle(node);
        Arc::new(SimFile { disk: Arc::clone(&self.disk), node, path: path.into() })
    }
}

impl fmt::Debug for SimIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disk = self.disk.lock();
        f.debug_struct("SimIo").field("operations", &disk.operations).field("mutations", &disk.mutations).finish_non_exhaustive()
    }
}

impl Fault {
    fn strikes(self, operation: Operation) -> bool {
        use Operation::{Create, CreateDir, Rename, SetLen, SyncData, SyncDir, WriteAt};
        match self {
            Self::Eio => true,
            Self::Enospc => matches!(operation, Create | CreateDir | Rename | SetLen | WriteAt | SyncData | SyncDir),
            Self::ShortWrite => operation == WriteAt,
            Self::FailedSync => matches!(operation, SyncData | SyncDir),
        }
    }

    fn error(self) -> io::Error {
        match self {
            Self::Enospc => Errno::NOSPC.into(),
            Self::Eio | Self::ShortWrite | Self::FailedSync => Errno::IO.into(),
        }
    }
}

impl Disk {
    /// Counts an operation, before anything of it is done. The fault that is to strike it, if any.
    fn begin(&mut self, operation: Operation, path: &Path) -> io::Result<Option<Fault>> {
        self.check_alive()?;
        self.operations += 1;
        if self.trace.len() == TRACE_STEPS_MAX {
            self.trace.pop_front();
        }
        self.trace.push_back(Step { number: self.operations, operation, path: path.to_owned() });
        if operation.is_mutation() {
            self.mutations += 1;
            if self.crash_at == Some(self.mutations) {
                self.is_crashed = true;
                self.check_alive()?;
            }
        }
        let mut due = None;
        self.faults.retain_mut(|planned| {
            if planned.fault.strikes(operation) {
                planned.left -= 1;
            }
            if planned.left == 0 {
                due = due.or(Some(planned.fault));
            }
            planned.left > 0
        });
        Ok(due)
    }

    /// The same for operations that a fault keeps from doing anything.
    fn begin_whole(&mut self, operation: Operation, path: &Path) -> io::Result<()> {
        self.begin(operation, path)?.map_or(Ok(()), |fault| Err(fault.error()))
    }

    fn check_alive(&self) -> io::Result<()> {
        if self.is_crashed { Err(io::Error::other("the simulated process has crashed")) } else { Ok(()) }
    }

    /// Bytes by which files may still grow.
    fn free_bytes(&self) -> u64 {
        self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.tree.used_bytes()))
    }
}

impl Io for SimIo {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut disk = self.disk.lock();
        disk.check_alive()?;
        let node = disk.tree.file(path)?;
        Ok(self.handle(&mut disk, node, path))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut disk = self.disk.lock();
        disk.begin_whole(Operation::Create, path)?;
        let node = disk.tree.create(path)?;
        Ok(self.handle(&mut disk, node, path))
    }

    fn map(&self, path: &Path) -> io::Result<Map> {
        let mut disk = self.disk.lock();
        disk.begin_whole(Operation::Map, path)?;
        let node = disk.tree.file(path)?;
        Ok(Map::copied(disk.tree.contents(node).bytes()))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<Entry>> {
        let mut disk = self.disk.lock();
        disk.begin_whole(Operation::List, directory)?;
        disk.tree.list(directory)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.begin_whole(Operation::CreateDir, path)?;
        disk.tree.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.begin_whole(Operation::Rename, from)?;
        disk.tree.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.begin_whole(Operation::RemoveFile, path)?;
        disk.tree.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.begin_whole(Operation::RemoveDir, path)?;
        disk.tree.remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        match disk.begin(Operation::SyncDir, path)? {
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
        disk.check_alive()?;
        Ok(disk.free_bytes())
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        let mut disk = self.disk.lock();
        disk.check_alive()?;
        let node = match disk.tree.file(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                disk.begin_whole(Operation::Create, path)?;
                disk.tree.create(path)?
            }
            found => found?,
        };
        if !disk.locks.insert(node) {
            return Err(ErrorKind::WouldBlock.into());
        }
        disk.tree.add_handle(node);
        Ok(Lock { _held: Box::new(SimLock { disk: Arc::clone(&self.disk), node }) })
    }
}

struct SimFile {
    disk: Arc<Mutex<Disk>>,
    node: NodeId,
    path: Box<Path>,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({})", self.path.display())
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
        disk.begin_whole(Operation::ReadAt, &self.path)?;
        let bytes = disk.tree.contents(self.node).bytes();
        let start = usize::try_from(offset).map_or(bytes.len(), |offset| offset.min(bytes.len()));
        let count = buffer.len().min(bytes.len() - start);
        buffer[..count].copy_from_slice(&bytes[start..start + count]);
        Ok(count)
    }

    fn write_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let fault = disk.begin(Operation::WriteAt, &self.path)?;
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let end = checked_length(offset.checked_add(total as u64))?;
        let length = disk.tree.contents(self.node).len();

        let mut writable = total;
        let mut result = Ok(());
        if let Some(fault) = fault {
            writable = if fault == Fault::ShortWrite { total / 2 } else { 0 };
            result = Err(fault.error());
        } else if total > 0 && end > length && (end - length) as u64 > disk.free_bytes() {
            let end_that_fits = length + disk.free_bytes() as usize;
            writable = total.min((end_that_fits as u64).saturating_sub(offset) as usize);
            result = Err(Errno::NOSPC.into());
        }
        let contents = disk.tree.contents_mut(self.node);
        let mut at = end - total;
        for part in parts {
            let part = &part[..part.len().min(writable)];
            contents.write(at, part);
            at += part.len();
            writable -= part.len();
        }
        result
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let fault = disk.begin(Operation::SyncData, &self.path)?;
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
        disk.begin_whole(Operation::SetLen, &self.path)?;
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
        disk.check_alive()?;
        Ok(disk.tree.contents(self.node).len() as u64)
    }
}

fn checked_length(bytes: Option<u64>) -> io::Result<usize> {
    match bytes {
        Some(bytes) if bytes <= FILE_BYTES_MAX => Ok(bytes as usize),
        _ => Err(ErrorKind::FileTooLarge.into()),
    }
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
        disk.locks.remove(&self.node);
        disk.tree.drop_handle(self.node);
    }
}
