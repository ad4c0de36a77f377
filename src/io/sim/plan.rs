//! Which operations a disk was asked for, which of them is to fail, and at which the process dies.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Steps that a disk remembers: enough for a message, and little for a run of a million.
const TRACE_STEPS_MAX: usize = 1000;

/// A failure on demand: see [`SimIo::fail_at`](super::SimIo::fail_at).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Strikes any operation, which does nothing and fails with `EIO`. What a sync would have synced stays unsynced, and a later sync
    /// does it.
    Eio,
    /// Strikes what needs space: creating, renaming, writing and [`File::set_len`](crate::io::File::set_len) do nothing and fail with
    /// `ENOSPC`. A sync fails as in [`Fault::FailedSync`]: a file system that allocates late finds out only then.
    Enospc,
    /// Strikes [`File::write_at`](crate::io::File::write_at): the first half of the bytes is written, then `EIO`.
    ShortWrite,
    /// Strikes [`File::read_at`](crate::io::File::read_at) and [`File::write_at`](crate::io::File::write_at) and is no error: the first
    /// system call does half of the bytes, the next is interrupted by a signal, and whoever does not ask once more has half of them.
    ShortTransfer,
    /// Strikes [`File::sync_data`](crate::io::File::sync_data) and [`Io::sync_dir`](crate::io::Io::sync_dir) with `EIO`, as Linux does it:
    /// what was unsynced is marked clean and is not on the disk. Reads still give it, later syncs return `Ok` without writing it, and a
    /// crash takes it back, except sectors (and names) that were written again and then synced. See
    /// <https://wiki.postgresql.org/wiki/Fsync_Errors>.
    FailedSync,
}

impl Fault {
    pub const ALL: [Self; 5] = [Self::Eio, Self::Enospc, Self::ShortWrite, Self::ShortTransfer, Self::FailedSync];

    /// Whether there is such a failure of this operation.
    pub fn strikes(self, operation: Operation) -> bool {
        use Operation::{Create, CreateDir, ReadAt, Rename, SetLen, SyncData, SyncDir, WriteAt};
        match self {
            Self::Eio => true,
            Self::Enospc => matches!(operation, Create | CreateDir | Rename | SetLen | WriteAt | SyncData | SyncDir),
            Self::ShortWrite => operation == WriteAt,
            Self::ShortTransfer => matches!(operation, ReadAt | WriteAt),
            Self::FailedSync => matches!(operation, SyncData | SyncDir),
        }
    }

    /// What the system call that it strikes fails with.
    pub(super) fn error(self) -> io::Error {
        match self {
            Self::Eio | Self::ShortWrite | Self::FailedSync => Errno::IO.into(),
            Self::Enospc => Errno::NOSPC.into(),
            Self::ShortTransfer => Errno::INTR.into(),
        }
    }
}

/// Kinds of operations that are counted. Asking an open file for its length, and a disk for its room, are not: they read nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Open,
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
        !matches!(self, Self::Open | Self::ReadAt | Self::Map | Self::List)
    }
}

/// One counted operation.
#[derive(Clone, PartialEq, Eq)]
pub struct Step {
    /// 1 for the first of its disk.
    pub number: u64,
    pub operation: Operation,
    /// As it is at the time, where the file itself was renamed and not its directory; of a rename the old path.
    pub path: PathBuf,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} {:?} {}", self.number, self.operation, self.path.display())
    }
}

#[derive(Default)]
pub(super) struct Plan {
    pub(super) operations: u64,
    pub(super) mutations: u64,
    pub(super) trace: VecDeque<Step>,
    pub(super) faults: Vec<PlannedFault>,
    pub(super) struck: Vec<(Fault, Step)>,
    /// The mutation that the process does not live to do.
    pub(super) crash_at: Option<u64>,
    pub(super) is_crashed: bool,
}

pub(super) struct PlannedFault {
    pub(super) fault: Fault,
    pub(super) due: Due,
}

pub(super) enum Due {
    /// So many operations that it can strike, up to and with the one that it does.
    After(u64),
    /// A step's number.
    At(u64),
}

impl PlannedFault {
    /// Whether it strikes this one.
    fn meets(&mut self, step: &Step) -> bool {
        match &mut self.due {
            _ if !self.fault.strikes(step.operation) => false,
            Due::At(number) => *number == step.number,
            Due::After(left) => {
                *left -= 1;
                *left == 0
            }
        }
    }
}

impl Plan {
    /// Counts an operation, before anything of it is done. The fault that is to strike it, if any.
    pub(super) fn begin(&mut self, operation: Operation, path: &Path) -> io::Result<Option<Fault>> {
        self.check_alive()?;
        self.operations += 1;
        if self.trace.len() == TRACE_STEPS_MAX {
            self.trace.pop_front();
        }
        let step = Step { number: self.operations, operation, path: path.to_owned() };
        self.trace.push_back(step.clone());
        if operation.is_mutation() {
            self.mutations += 1;
            if self.crash_at == Some(self.mutations) {
                self.is_crashed = true;
                self.check_alive()?;
            }
        }
        let mut due = None;
        self.faults.retain_mut(|planned| {
            let meets = planned.meets(&step);
            if meets {
                due = due.or(Some(planned.fault));
            }
            !meets
        });
        self.struck.extend(due.map(|fault| (fault, step)));
        Ok(due)
    }

    /// The same for operations that a fault keeps from doing anything.
    pub(super) fn begin_whole(&mut self, operation: Operation, path: &Path) -> io::Result<()> {
        self.begin(operation, path)?.map_or(Ok(()), |fault| Err(fault.error()))
    }

    pub(super) fn check_alive(&self) -> io::Result<()> {
        if self.is_crashed { Err(io::Error::other("the simulated process has crashed")) } else { Ok(()) }
    }
}

/// The system calls that one transfer of bytes takes.
pub(super) struct Calls {
    fault: Option<Fault>,
    /// Bytes of the first, where the fault is that it does a part.
    half: usize,
    made: u32,
}

impl Calls {
    pub(super) fn new(fault: Option<Fault>, bytes: usize) -> Self {
        Self { fault, half: bytes / 2, made: 0 }
    }

    /// How many bytes the next one may do.
    pub(super) fn next(&mut self) -> io::Result<usize> {
        self.made += 1;
        match (self.fault, self.made) {
            (Some(Fault::ShortWrite | Fault::ShortTransfer), 1) if self.half > 0 => Ok(self.half),
            (Some(Fault::ShortTransfer), 3..) | (None, _) => Ok(usize::MAX),
            (Some(fault), _) => Err(fault.error()),
        }
    }
}
