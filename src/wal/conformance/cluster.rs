//! One suite for every implementation of [`Cluster`]: what the contract in `wal/cluster.rs` promises, seen on each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use super::super::cluster::{Cluster, Entry, Told};
use super::super::log::{Appended, Place};
use super::memory::Fault;
use super::memory_cluster::MemoryCluster;
use super::{append, append_all, each_promise, read};
use crate::error::{Error, What};
use crate::types::{IndexId, TenantId};

/// For what comes by itself. A machine that is busy is slower than one that is not, and a test that fails waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where nodes share something, with nothing in it.
pub(crate) trait Clusters {
    /// As one more node reaches it.
    fn reach(&self) -> Arc<dyn Cluster>;

    /// How many are told what is new, as the other side knows it.
    fn followers(&self) -> usize;
}

impl Clusters for MemoryCluster {
    fn reach(&self) -> Arc<dyn Cluster> {
        Arc::new(self.clone())
    }

    fn followers(&self) -> usize {
        self.followers()
    }
}

pub(crate) type Key = (TenantId, IndexId);

pub(crate) fn acme() -> TenantId {
    TenantId::new("acme").unwrap()
}

pub(crate) fn id(number: u128) -> IndexId {
    IndexId::from_u128(number)
}

/// What was told to one who follows.
pub(crate) struct Followed {
    told: Receiver<Told>,
    pub(crate) entries: BTreeMap<Key, Entry>,
    pub(crate) frames: BTreeMap<Key, u64>,
    pub(crate) is_complete: bool,
}

impl Followed {
    pub(crate) fn begin(cluster: &Arc<dyn Cluster>) -> Self {
        let (follower, told) = channel();
        cluster.follow(follower);
        Self { told, entries: BTreeMap::new(), frames: BTreeMap::new(), is_complete: false }
    }

    /// Takes what is told, until this is so.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_so(self) {
            let Ok(told) = self.told.recv_timeout(end.saturating_duration_since(Instant::now())) else {
                let entries: Vec<_> = self.entries.iter().map(|((_, index), entry)| (index, entry.revision)).collect();
                panic!("not told: {what}. Told were {entries:?} and {:?}, complete: {}", self.frames, self.is_complete);
            };
            self.take(told);
        }
    }

    fn take(&mut self, told: Told) {
        match told {
            // What is told again may be older, where servers differ.
            Told::Entry { tenant, index, entry } => {
                let known = self.entries.entry((tenant, index)).or_insert_with(|| entry.clone());
                if known.revision < entry.revision {
                    *known = entry;
                }
            }
            Told::Frame { tenant, index, sequence } => {
                let known = self.frames.entry((tenant, index)).or_default();
                *known = sequence.max(*known);
            }
            Told::Complete => self.is_complete = true,
        }
    }

    #[track_caller]
    pub(crate) fn until_complete(&mut self) {
        self.until("that this is all", |followed| followed.is_complete);
    }

    #[track_caller]
    pub(crate) fn until_entry(&mut self, tenant: &TenantId, index: IndexId, expected: &Entry) {
        let key = (tenant.clone(), index);
        self.until(&format!("{expected:?}"), |followed| followed.entries.get(&key) == Some(expected));
    }

    #[track_caller]
    pub(crate) fn until_frame(&mut self, tenant: &TenantId, index: IndexId, sequence: u64) {
        let key = (tenant.clone(), index);
        self.until(&format!("the frame {sequence}"), |followed| followed.frames.get(&key) == Some(&sequence));
    }
}

/// Writes what must be taken, and gives the entry.
#[track_caller]
pub(crate) fn set(cluster: &Arc<dyn Cluster>, tenant: &TenantId, index: IndexId, revision: u64, about: &[u8]) -> Entry {
    let revision = cluster.set_entry(tenant, index, revision, about).unwrap().expect("nobody else writes");
    Entry { revision, about: Some(about.to_vec()) }
}

/// Appends frames to what has none yet, and gives the sequence of the last.
#[track_caller]
pub(crate) fn write(cluster: &Arc<dyn Cluster>, tenant: &TenantId, index: IndexId, names: &[&str]) -> u64 {
    let mut log = cluster.open(tenant, index, Place::START).unwrap();
    append_all(&mut *log, names);
    log.place().sequence
}

#[track_caller]
fn assert_refused(cluster: &Arc<dyn Cluster>, index: IndexId, revisions: &[u64]) {
    let before = cluster.entry(&acme(), index).unwrap();
    for &revision in revisions {
        assert_eq!(cluster.set_entry(&acme(), index, revision, b"refused").unwrap(), None, "revision {revision}");
    }
    assert_eq!(cluster.entry(&acme(), index).unwrap(), before);
}

fn index_that_never_was_is_not_there(clusters: impl Clusters) {
    let cluster = clusters.reach();
    assert_eq!(cluster.entry(&acme(), id(1)).unwrap(), None);
    assert!(matches!(cluster.delete(&acme(), id(1)), Err(Error::NotFound(What::Index))));
    assert_refused(&cluster, id(1), &[1, 7]);
    assert_eq!(cluster.entry(&acme(), id(1)).unwrap(), None, "and its deletion left nothing");
}

fn entry_is_there_as_it_was_written_under_a_revision_that_rises(clusters: impl Clusters) {
    let (one, other) = (clusters.reach(), clusters.reach());
    let large = [7; 100_000];
    let every_byte: Vec<u8> = (0..=255).collect();
    let mut revision = 0;
    for about in [&b"{\"name\": \"n\"}"[..], b"", &every_byte, &large] {
        let entry = set(&one, &acme(), id(1), revision, about);
        assert!(entry.revision > revision);
        assert_eq!(other.entry(&acme(), id(1)).unwrap().as_ref(), Some(&entry));
        revision = entry.revision;
        // Between them, of another index.
        set(&other, &acme(), IndexId::new_v4(), 0, b"another");
    }
}

fn nobody_writes_an_entry_without_its_newest_revision(clusters: impl Clusters) {
    let (one, other) = (clusters.reach(), clusters.reach());
    let first = set(&one, &acme(), id(1), 0, b"1").revision;
    assert_refused(&other, id(1), &[0, first + 1]);
    let second = set(&other, &acme(), id(1), first, b"2").revision;
    assert_refused(&one, id(1), &[0, first, second + 1]);
    set(&one, &acme(), id(1), second, b"3");
}

fn what_was_deleted_stays_deleted(clusters: impl Clusters) {
    let (one, other) = (clusters.reach(), clusters.reach());
    let written = set(&one, &acme(), id(1), 0, b"1").revision;
    one.delete(&acme(), id(1)).unwrap();
    let deleted = other.entry(&acme(), id(1)).unwrap().unwrap();
    assert!(deleted.about.is_none() && deleted.revision > written, "{deleted:?}");
    assert_refused(&other, id(1), &[0, written, deleted.revision, deleted.revision + 1]);
    one.delete(&acme(), id(1)).unwrap();
    other.delete(&acme(), id(1)).unwrap();
    assert_eq!(one.entry(&acme(), id(1)).unwrap(), Some(deleted));
}

fn deleting_empties_the_log_and_nobody_goes_on_with_it(clusters: impl Clusters) {
    let cluster = clusters.reach();
    set(&cluster, &acme(), id(1), 0, b"1");
    let mut log = cluster.open(&acme(), id(1), Place::START).unwrap();
    append_all(&mut *log, &["1", "2"]);
    // In the same stream, where there are streams.
    let (kept, kept_tenant) = (id(17), TenantId::new("acme-2").unwrap());
    write(&cluster, &acme(), kept, &["1"]);
    write(&cluster, &kept_tenant, id(1), &["1"]);
    cluster.delete(&acme(), id(1)).unwrap();

    assert_eq!(append(&mut *log, &["3"]).unwrap(), Appended::Moved);
    assert!(matches!(read(&mut *log), Err(Error::NotFound(What::Index))));
    let mut late = cluster.open(&acme(), id(1), log.place()).unwrap();
    assert!(matches!(read(&mut *late), Err(Error::NotFound(What::Index))));
    let from_start = read(&mut *cluster.open(&acme(), id(1), Place::START).unwrap());
    assert!(
        matches!(&from_start, Err(Error::NotFound(What::Index))) || from_start.as_ref().is_ok_and(Vec::is_empty),
        "{from_start:?}"
    );
    for (tenant, index) in [(&acme(), kept), (&kept_tenant, id(1))] {
        let mut log = cluster.open(tenant, index, Place::START).unwrap();
        assert_eq!(read(&mut *log).unwrap(), [(1, "1".to_owned())]);
        append_all(&mut *log, &["2"]);
    }
}

fn tenants_have_nothing_in_common(clusters: impl Clusters) {
    let cluster = clusters.reach();
    let other = TenantId::new("a-cme").unwrap();
    let first = set(&cluster, &acme(), id(1), 0, b"acme's");
    let second = set(&cluster, &other, id(1), 0, b"other's");
    assert_eq!(cluster.entry(&acme(), id(1)).unwrap().as_ref(), Some(&first));
    write(&cluster, &acme(), id(1), &["1", "2"]);
    assert_eq!(read(&mut *cluster.open(&other, id(1), Place::START).unwrap()).unwrap(), []);
    cluster.delete(&acme(), id(1)).unwrap();
    assert_eq!(cluster.entry(&other, id(1)).unwrap(), Some(second));
}

/// What is written depends on what was read, so a writing that did not know the newest would show.
fn all_who_write_an_entry_at_once_count_on_from_each_other(clusters: impl Clusters) {
    const WRITERS: usize = 4;
    const EACH: usize = 10;
    let begin = Barrier::new(WRITERS);
    let count = |cluster: Arc<dyn Cluster>| {
        let (mut done, mut refused) = (0, 0);
        begin.wait();
        while done < EACH {
            let entry = cluster.entry(&acme(), id(1)).unwrap();
            let (revision, about) = entry.map_or((0, Vec::new()), |entry| (entry.revision, entry.about.unwrap()));
            match cluster.set_entry(&acme(), id(1), revision, &[&about[..], b"x"].concat()).unwrap() {
                Some(next) => {
                    assert!(next > revision);
                    done += 1;
                }
                None => refused += 1,
            }
        }
        refused
    };
    let refused: usize = std::thread::scope(|scope| {
        let counting: Vec<_> = (0..WRITERS)
            .map(|_| {
                let (cluster, count) = (clusters.reach(), &count);
                scope.spawn(move || count(cluster))
            })
            .collect();
        counting.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    println!("{refused} refused");
    let counted = clusters.reach().entry(&acme(), id(1)).unwrap().unwrap().about.unwrap();
    assert_eq!(counted.len(), WRITERS * EACH);
}

fn deletion_is_the_last_word_among_those_who_write_at_once(clusters: impl Clusters) {
    const WRITERS: usize = 3;
    let cluster = clusters.reach();
    set(&cluster, &acme(), id(1), 0, b"0");
    let begin = Barrier::new(WRITERS + 1);
    let begin = &begin;
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            let cluster = clusters.reach();
            scope.spawn(move || {
                begin.wait();
                // Each goes on until it finds it deleted.
                while let Some(Entry { revision, about: Some(_) }) = cluster.entry(&acme(), id(1)).unwrap() {
                    cluster.set_entry(&acme(), id(1), revision, b"1").unwrap();
                }
            });
        }
        begin.wait();
        // It may lose to them so often that it says so.
        while let Err(error) = cluster.delete(&acme(), id(1)) {
            assert!(matches!(error, Error::Io(_)), "{error}");
        }
    });
    assert!(cluster.entry(&acme(), id(1)).unwrap().unwrap().about.is_none());
}

fn who_follows_is_told_of_all_that_is_there_then_that_this_is_all_then_of_what_comes(clusters: impl Clusters) {
    let (one, other) = (clusters.reach(), clusters.reach());
    let first = set(&one, &acme(), id(1), 0, b"1");
    let written_twice = set(&one, &acme(), id(2), 0, b"2");
    let written_twice = set(&one, &acme(), id(2), written_twice.revision, b"2 again");
    set(&one, &acme(), id(3), 0, b"3");
    one.delete(&acme(), id(3)).unwrap();
    let deleted = one.entry(&acme(), id(3)).unwrap().unwrap();
    let frame = write(&one, &acme(), id(1), &["1", "2"]);

    let mut followers = [Followed::begin(&one), Followed::begin(&other)];
    let all = BTreeMap::from([((acme(), id(1)), first.clone()), ((acme(), id(2)), written_twice), ((acme(), id(3)), deleted)]);
    for followed in &mut followers {
        followed.until_complete();
        assert_eq!(followed.entries, all);
        followed.until_frame(&acme(), id(1), frame);
        assert_eq!(followed.frames, BTreeMap::from([((acme(), id(1)), frame)]));
    }

    let again = set(&other, &acme(), id(1), first.revision, b"1 again");
    let new = set(&other, &acme(), id(4), 0, b"4");
    let mut log = other.open(&acme(), id(1), Place::START).unwrap();
    read(&mut *log).unwrap();
    append_all(&mut *log, &["3"]);
    let (last, new_frame) = (log.place().sequence, write(&other, &acme(), id(4), &["1"]));
    other.delete(&acme(), id(2)).unwrap();
    let deleted = other.entry(&acme(), id(2)).unwrap().unwrap();
    for followed in &mut followers {
        followed.until_entry(&acme(), id(1), &again);
        followed.until_entry(&acme(), id(4), &new);
        followed.until_entry(&acme(), id(2), &deleted);
        followed.until_frame(&acme(), id(1), last);
        followed.until_frame(&acme(), id(4), new_frame);
    }
}

fn who_follows_an_empty_catalogue_is_told_that_this_is_all(clusters: impl Clusters) {
    let cluster = clusters.reach();
    let mut followed = Followed::begin(&cluster);
    followed.until_complete();
    assert!(followed.entries.is_empty());
    let entry = set(&cluster, &acme(), id(1), 0, b"1");
    followed.until_entry(&acme(), id(1), &entry);
}

/// More of them than there are streams, where there are streams.
fn log_of_each_index_is_told_of_as_its_own(clusters: impl Clusters) {
    let (one, other) = (clusters.reach(), clusters.reach());
    let (before, after) = (0..30, 20..50);
    let mut frames = BTreeMap::new();
    let mut write_all = |numbers: std::ops::Range<u128>, name: &str| {
        for number in numbers {
            let mut log = one.open(&acme(), id(number), Place::START).unwrap();
            read(&mut *log).unwrap();
            append_all(&mut *log, &[name]);
            frames.insert((acme(), id(number)), log.place().sequence);
        }
        frames.clone()
    };
    let first = write_all(before, "before");
    let mut followed = Followed::begin(&other);
    followed.until("all that were there", |followed| followed.frames == first);
    let all = write_all(after, "after");
    followed.until("all that came", |followed| followed.frames == all);
}

/// Nothing may come between what was there and what comes.
fn who_follows_while_others_write_misses_nothing(clusters: impl Clusters) {
    const WRITERS: u128 = 3;
    const EACH: usize = 20;
    let begin = Barrier::new(WRITERS as usize + 1);
    let begin = &begin;
    let (cluster, mut followers) = (clusters.reach(), Vec::new());
    let written: BTreeSet<(Key, u64)> = std::thread::scope(|scope| {
        let writing: Vec<_> = (0..WRITERS)
            .map(|number| {
                let cluster = clusters.reach();
                scope.spawn(move || {
                    begin.wait();
                    let mut log = cluster.open(&acme(), id(number), Place::START).unwrap();
                    (0..EACH).for_each(|_| append_all(&mut *log, &["x"]));
                    ((acme(), id(number)), log.place().sequence)
                })
            })
            .collect();
        begin.wait();
        followers.extend((0..4).map(|_| Followed::begin(&cluster)));
        writing.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for mut followed in followers {
        for ((tenant, index), sequence) in &written {
            followed.until_frame(tenant, *index, *sequence);
        }
    }
}

fn following_ends_when_nobody_receives_any_more(clusters: impl Clusters) {
    let cluster = clusters.reach();
    // One in each stream, where there are streams: who was told of all of them follows everywhere.
    let frames: BTreeMap<Key, u64> = (0..16).map(|n| ((acme(), id(n)), write(&cluster, &acme(), id(n), &["1"]))).collect();
    let follow = || {
        let mut followed = Followed::begin(&cluster);
        followed.until("all of them", |followed| followed.is_complete && followed.frames == frames);
        followed
    };
    let mut stays = follow();
    let alone = clusters.followers();
    drop(follow());
    // Nothing comes of which they could be told.
    let end = Instant::now() + PATIENCE;
    while clusters.followers() > alone {
        assert!(Instant::now() < end, "still {} and not {alone}", clusters.followers());
        std::thread::yield_now();
    }
    let entry = set(&cluster, &acme(), id(1), 0, b"1");
    stays.until_entry(&acme(), id(1), &entry);
}

macro_rules! of_any_cluster {
    ($module:ident, $clusters:expr) => {
        each_promise!(
            $module,
            $clusters,
            [
                index_that_never_was_is_not_there,
                entry_is_there_as_it_was_written_under_a_revision_that_rises,
                nobody_writes_an_entry_without_its_newest_revision,
                what_was_deleted_stays_deleted,
                deleting_empties_the_log_and_nobody_goes_on_with_it,
                tenants_have_nothing_in_common,
                all_who_write_an_entry_at_once_count_on_from_each_other,
                deletion_is_the_last_word_among_those_who_write_at_once,
                who_follows_is_told_of_all_that_is_there_then_that_this_is_all_then_of_what_comes,
                who_follows_an_empty_catalogue_is_told_that_this_is_all,
                log_of_each_index_is_told_of_as_its_own,
                who_follows_while_others_write_misses_nothing,
                following_ends_when_nobody_receives_any_more,
            ]
        );
    };
}

of_any_cluster!(in_memory, Some(super::MemoryCluster::default()));
#[cfg(feature = "server")]
of_any_cluster!(on_jetstream, crate::wal::jetstream::tests::Servers::start());

/// What tests of nodes rely on.
#[test]
fn cluster_in_memory_loses_an_answer_where_it_is_told_to() {
    let memory = MemoryCluster::default();
    let cluster = memory.reach();
    let mut followed = Followed::begin(&cluster);
    for (fault, is_stored) in [(Fault::Lost, true), (Fault::NotStored, false), (Fault::Refused, false)] {
        let index = IndexId::new_v4();
        memory.fail_next(fault);
        let error = cluster.set_entry(&acme(), index, 0, b"1").unwrap_err();
        assert_eq!(matches!(error, Error::OutcomeUnknown(_)), fault != Fault::Refused, "{error}");
        let entry = cluster.entry(&acme(), index).unwrap();
        assert_eq!(entry.is_some(), is_stored);
        if let Some(entry) = entry {
            followed.until_entry(&acme(), index, &entry);
            memory.fail_next(fault);
            assert!(matches!(cluster.delete(&acme(), index), Err(Error::OutcomeUnknown(_))));
            cluster.delete(&acme(), index).unwrap();
            assert!(cluster.entry(&acme(), index).unwrap().unwrap().about.is_none());
        }
    }
}
