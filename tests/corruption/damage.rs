//! What is done to files, and the table of what came of it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::IoSlice;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use faiss_proxy::io::sim::SimIo;
use faiss_proxy::io::{Io, durable};

use crate::memory;
use crate::sample::{Sample, has_extension, write};
use crate::support::{Chance, env_or, files_below};

/// One damage of one file.
pub struct Case {
    pub path: PathBuf,
    pub mutation: Mutation,
}

#[derive(Clone, Debug)]
pub enum Mutation {
    Flip {
        at: usize,
        bit: u8,
    },
    Cut {
        length: usize,
    },
    ZeroTail {
        from: usize,
    },
    /// A sector that never reached the disk.
    ZeroSector {
        start: usize,
    },
    Grow {
        bytes: usize,
        with: u8,
    },
    Remove,
    /// The two change places.
    Exchange {
        with: PathBuf,
    },
    /// Another file of the same index stands under this one's name, too.
    Duplicate {
        of: PathBuf,
    },
    /// The file of another index, of the same kind.
    Foreign {
        of: PathBuf,
    },
    /// The 4 bytes at this place say something else, and the checksum behind what is covered is right.
    Lie {
        covered: Range<usize>,
        at: usize,
        value: u32,
    },
}

/// What an index with a damaged file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has all its data.
    Same,
    /// The same, and a FAISS index was built again.
    Rebuilt,
    /// It has the data of an earlier moment, and says so: nothing vouched for what followed.
    Prefix,
    Refused,
}

impl Mutation {
    fn name(&self) -> &'static str {
        match self {
            Self::Flip { .. } => "flip a bit",
            Self::Cut { .. } => "cut",
            Self::ZeroTail { .. } => "zero a tail",
            Self::ZeroSector { .. } => "zero a sector",
            Self::Grow { .. } => "append bytes",
            Self::Remove => "remove",
            Self::Exchange { .. } => "exchange two",
            Self::Duplicate { .. } => "duplicate another",
            Self::Foreign { .. } => "take another index's",
            Self::Lie { .. } => "lie in a header",
        }
    }

    /// Whether a refusal may name another file of the index than the one that was damaged.
    pub fn moves_files(&self) -> bool {
        matches!(self, Self::Remove | Self::Exchange { .. } | Self::Duplicate { .. } | Self::Foreign { .. })
    }

    fn apply(&self, disk: &SimIo, path: &Path) {
        let bytes = || disk.map(path).unwrap().to_vec();
        let put = |path: &Path, bytes: &[u8]| {
            let name = path.file_name().unwrap().to_str().unwrap();
            durable::replace(disk, path.parent().unwrap(), name, &[IoSlice::new(bytes)]).unwrap();
        };
        match self {
            Self::Flip { at, bit } => write(disk, path, *at, &[bytes()[*at] ^ (1 << bit)]),
            Self::Cut { length } => disk.open(path).unwrap().set_len(*length as u64).unwrap(),
            Self::ZeroTail { from } => write(disk, path, *from, &vec![0; bytes().len() - from]),
            Self::ZeroSector { start } => write(disk, path, *start, &vec![0; (bytes().len() - start).min(512)]),
            Self::Grow { bytes: count, with } => write(disk, path, bytes().len(), &vec![*with; *count]),
            Self::Remove => disk.remove_file(path).unwrap(),
            Self::Exchange { with } => {
                let (one, other) = (bytes(), disk.map(with).unwrap().to_vec());
                put(path, &other);
                put(with, &one);
            }
            Self::Duplicate { of } | Self::Foreign { of } => put(path, &disk.map(of).unwrap()),
            Self::Lie { covered, at, value } => {
                write(disk, path, *at, &value.to_le_bytes());
                let crc = crc32fast::hash(&bytes()[covered.clone()]);
                write(disk, path, covered.end, &crc.to_le_bytes());
            }
        }
    }

    /// Whether anything is different from before.
    fn changes(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Cut { length } => *length < bytes.len(),
            Self::ZeroTail { from } => bytes[*from..].iter().any(|&byte| byte != 0),
            Self::ZeroSector { start } => bytes[*start..].iter().take(512).any(|&byte| byte != 0),
            _ => true,
        }
    }
}

/// How often each kind of damage to each kind of file ended in each outcome.
#[derive(Default)]
pub struct Table(BTreeMap<(&'static str, &'static str), [u64; 4]>);

impl Table {
    pub fn count(&self, file: &str, outcome: Outcome) -> u64 {
        self.0.iter().filter(|((_, kind), _)| *kind == file).map(|(_, counts)| counts[outcome as usize]).sum()
    }

    pub fn total(&self, outcome: Outcome) -> u64 {
        self.0.values().map(|counts| counts[outcome as usize]).sum()
    }

    pub fn cases(&self) -> u64 {
        self.0.values().flatten().sum()
    }

    fn add(&mut self, damage: &'static str, file: &'static str, outcome: Outcome) {
        self.0.entry((damage, file)).or_default()[outcome as usize] += 1;
    }

    fn merge(&mut self, other: Self) {
        for (key, counts) in other.0 {
            let own = self.0.entry(key).or_default();
            own.iter_mut().zip(counts).for_each(|(own, other)| *own += other);
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((damage, file), [same, rebuilt, prefix, refused]) in &self.0 {
            writeln!(f, "{damage:20} {file:16} same {same:6}  rebuilt {rebuilt:6}  prefix {prefix:6}  refused {refused:6}")?;
        }
        write!(f, "{} damaged stores", self.cases())
    }
}

/// Damages of one file of a sample, where all of them together have `share` percent of a run's: `FAISS_PROXY_MUTATIONS`, about.
pub fn each(samples: &[Sample], share: usize) -> impl Fn(&Sample) -> usize {
    // To open an index of FAISS takes several times as long, and most of its files are as those of any other.
    let weight = |sample: &Sample| if sample.index_type == "Flat" { 6 } else { 1 };
    let weights: usize = samples.iter().map(|sample| sample.files().len() * weight(sample)).sum();
    let count = env_or("FAISS_PROXY_MUTATIONS", 2_000) as usize * share / 100;
    move |sample| (count * weight(sample)).div_ceil(weights)
}

/// Applies to each file of each sample what `ways` gives for it, and opens what is left, in as many threads as there are processors.
pub fn damage_each(samples: &[Sample], ways: impl Fn(&Sample, &Path, &[u8]) -> Vec<Mutation>) -> Table {
    let mut todo: Vec<(&Sample, Case)> = Vec::new();
    for sample in samples {
        for path in sample.files() {
            let bytes = sample.disk.map(&path).unwrap();
            let ways = ways(sample, &path, &bytes).into_iter().filter(|mutation| mutation.changes(&bytes));
            todo.extend(ways.map(|mutation| (sample, Case { path: path.clone(), mutation })));
        }
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut table = Table::default();
        while let Some((sample, case)) = todo.get(next.fetch_add(1, Relaxed)) {
            let _told = ToldOnPanic(format!("{}: {:?} of {}", sample.index_type, case.mutation, case.path.display()));
            let disk = sample.disk.fork();
            case.mutation.apply(&disk, &case.path);
            let (kind, outcome) = (sample.kind(&case.path), memory::counted(|| sample.open(&disk, case)));
            let also = if let Mutation::Exchange { with } = &case.mutation { sample.kind(with) } else { kind };
            let is_allowed = [kind, also].iter().any(|kind| allowed(kind).contains(&outcome));
            assert!(is_allowed, "{outcome:?} after damage of {kind}, {also}");
            table.add(case.mutation.name(), kind, outcome);
        }
        table
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let table = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut table = Table::default();
        workers.into_iter().for_each(|worker| table.merge(worker.join().unwrap()));
        table
    });
    println!("{table}");
    table
}

/// What may come of damage of a file, whatever the damage. That a prefix is left for a reason, the sample sees.
fn allowed(kind: &str) -> &'static [Outcome] {
    use Outcome::{Prefix, Rebuilt, Refused, Same};
    match kind {
        "manifest" | "manifest before" | ".seg" | ".dead" | ".keys" | "log, first" | "log, middle" => &[Same, Refused],
        "log, last" => &[Same, Prefix, Refused],
        ".faiss" => &[Same, Rebuilt],
        _ => &[Same],
    }
}

struct ToldOnPanic(String);

impl Drop for ToldOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

/// At most `count` places of a file among those that say something, spread evenly, and one in ten among its zeros.
pub fn places(bytes: &[u8], count: usize) -> Vec<usize> {
    let (used, zeros): (Vec<usize>, Vec<usize>) =
        (0..bytes.len()).partition(|at| bytes[at / 16 * 16..].iter().take(16).any(|&byte| byte != 0));
    let spread = |places: Vec<usize>, count: usize| {
        let step = places.len().div_ceil(count.max(1)).max(1);
        let first = Chance::new(places.len() as u64).below(step);
        places.into_iter().skip(first).step_by(step)
    };
    spread(used, count).chain(spread(zeros, count.div_ceil(10))).collect()
}

/// Flipped bits: one in each of `count` bytes, or more where there are fewer bytes.
pub fn flips(bytes: &[u8], count: usize) -> Vec<Mutation> {
    let bits = (count / bytes.len().max(1)).clamp(1, 8) as u8;
    let flip = |at: usize| (0..bits).map(move |n| Mutation::Flip { at, bit: (at as u8).wrapping_add(n) % 8 });
    places(bytes, count / usize::from(bits)).into_iter().flat_map(flip).collect()
}

/// The other files in the directory of one, of any kind that it may be taken for.
pub fn siblings(sample: &Sample, path: &Path) -> Vec<PathBuf> {
    if !path.starts_with(sample.victim.directory()) || has_extension(path, "torn") {
        return Vec::new();
    }
    let mut siblings = files_below(&sample.disk, path.parent().unwrap());
    siblings.retain(|other| other != path && other.parent() == path.parent() && !has_extension(other, "torn"));
    siblings
}

/// The files of the other indices that could be taken for one.
pub fn strangers(sample: &Sample, path: &Path) -> Vec<PathBuf> {
    let Ok(below) = path.strip_prefix(sample.victim.directory()) else { return Vec::new() };
    let directories = sample.bystanders.iter().map(|other| other.directory().join(below.parent().unwrap()));
    let files = directories.flat_map(|directory| {
        let files = files_below(&sample.disk, &directory);
        files.into_iter().filter(move |file| file.parent() == Some(&directory))
    });
    files.filter(|other| other.extension() == path.extension()).collect()
}
