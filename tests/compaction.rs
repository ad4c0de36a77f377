//! Compaction gives back what deletes left, and erasure leaves no byte of it; reads and writes go on meanwhile.

mod support;

use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use faiss_proxy::config::Limits;
use faiss_proxy::io::sim::{SimIo, Survival};
use faiss_proxy::io::{Entry, File, Io, Lock, Map};
use faiss_proxy::{Durability, Error, IndexOptions, IndexSpec, Metric, Opening};
use support::{Before, Session, dump, files_below, open_store, open_store_as, spec, tenant};

/// Whether any file below the directory holds these bytes.
fn holds(disk: &SimIo, bytes: &[u8]) -> Option<String> {
    files_below(disk, Path::new("/data")).into_iter().find_map(|path| {
        let map = disk.map(&path).unwrap();
        map.windows(bytes.len()).any(|window| window == bytes).then(|| path.display().to_string())
    })
}

#[test]
fn after_an_erasure_no_file_holds_a_byte_of_what_was_deleted() {
    let limits = Limits { log_segment_bytes: 4096, ..Limits::default() };
    let mut session = Session::create(&SimIo::new(), &limits, 4, Metric::L2);
    let ids: Vec<String> = (0..60).map(|n| format!("document-{n}")).collect();
    for (version, ids) in ids.chunks(20).enumerate() {
        session.put(&ids.iter().map(String::as_str).collect::<Vec<_>>(), version as u64).unwrap();
        session.checkpoint().unwrap();
    }
    // Of each kind: deleted from a segment, replaced in a segment, deleted before any checkpoint saw it, and what a crash left of the log.
    let secret = |n: u32| support::NewPoint {
        id: format!("secret-{n}"),
        values: vec![1.234_567_8e11, n as f32, 7.654_321e-9, 1.0],
        metadata: format!("{{\"secret\":\"metadata of {n}\"}}"),
    };
    session.upsert(&[secret(1), secret(2)], Durability::Fsync).unwrap();
    session.checkpoint().unwrap();
    session.upsert(&[secret(3)], Durability::Fsync).unwrap();
    session.upsert(&[secret(4)], Durability::Interval).unwrap();
    let torn = (0..200).map(|seed| session.disk.crash(Survival::Random(seed))).find_map(|disk| {
        let opened = Session::open(&disk, &limits, session.history.clone(), Before::PowerCut).unwrap();
        let has_copy = files_below(&disk, Path::new("/data")).iter().any(|path| path.extension().is_some_and(|e| e == "torn"));
        has_copy.then_some((disk, opened))
    });
    let (disk, mut session) = torn.expect("a power cut that leaves a torn tail");
    session.delete(&["secret-1", "secret-3", "document-5", "document-40"], Durability::Fsync).unwrap();
    session.put(&["secret-2"], 9).unwrap();
    let needles: Vec<Vec<u8>> = vec![
        b"secret-1".to_vec(),
        b"secret-3".to_vec(),
        b"metadata of".to_vec(),
        1.234_567_8e11_f32.to_le_bytes().to_vec(),
        7.654_321e-9_f32.to_le_bytes().to_vec(),
        b"\"document-40\"".to_vec(),
    ];
    assert!(needles.iter().all(|needle| holds(&disk, needle).is_some()), "they are there before");

    let receipt = session.index.erase().unwrap();
    assert_eq!(receipt.lsn, session.index.info().lsn);
    assert!(receipt.rows_erased >= 5 && receipt.files_removed > 4 && receipt.bytes_after < receipt.bytes_before, "{receipt:?}");
    println!("{receipt:?}");
    for needle in &needles {
        assert_eq!(holds(&disk, needle), None, "{:?}", String::from_utf8_lossy(needle));
    }
    // What lives is there, also after a power cut, and nothing comes back.
    let survived = disk.crash(Survival::None);
    let mut session = Session::open(&survived, &limits, session.history.clone(), Before::PowerCut).unwrap();
    assert_eq!(dump(&session.index).len(), 59);
    for needle in &needles {
        assert_eq!(holds(&survived, needle), None);
    }
    session.put(&["document-5"], 3).unwrap();
    let again = session.index.erase().unwrap();
    assert_eq!(again.rows_erased, 0);
}

#[test]
fn compaction_drops_dead_rows_and_leaves_one_segment() {
    let disk = SimIo::new();
    let mut session = Session::create(&disk, &Limits::default(), 4, Metric::Cosine);
    let ids: Vec<String> = (0..500).map(|n| format!("document-{n}")).collect();
    for (version, ids) in ids.chunks(100).enumerate() {
        session.put(&ids.iter().map(String::as_str).collect::<Vec<_>>(), version as u64).unwrap();
        session.checkpoint().unwrap();
    }
    let dead: Vec<&str> = ids.iter().step_by(2).map(String::as_str).collect();
    session.delete(&dead, Durability::Fsync).unwrap();
    let report = session.index.compact().unwrap();
    assert_eq!((report.rows_dropped, report.segments_after), (250, 1), "{report:?}");
    assert!(report.bytes_after < report.bytes_before);
    let info = session.index.info();
    assert_eq!((info.tombstones, info.vector_count, info.segments), (0, 250, 1));
    session.delete(&["document-1"], Durability::Fsync).unwrap();
    let session =
        Session::open(&disk.crash(Survival::None), &Limits::default(), session.history.clone(), Before::PowerCut).unwrap();
    let again = session.index.compact().unwrap();
    assert_eq!(again.rows_dropped, 1);
    assert_eq!(session.index.compact().unwrap().rows_dropped, 0);
}

#[test]
fn compaction_that_has_too_little_space_is_not_begun_and_deletes_go_on() {
    let disk = SimIo::new();
    let mut session = Session::create(&disk, &Limits::default(), 4, Metric::L2);
    let ids: Vec<String> = (0..2_000).map(|n| format!("document-{n}")).collect();
    session.put(&ids.iter().map(String::as_str).collect::<Vec<_>>(), 1).unwrap();
    session.delete(&ids.iter().step_by(3).map(String::as_str).collect::<Vec<_>>(), Durability::Fsync).unwrap();
    session.checkpoint().unwrap();
    session.delete(&ids.iter().skip(1).step_by(3).map(String::as_str).collect::<Vec<_>>(), Durability::Fsync).unwrap();
    session.checkpoint().unwrap();
    use faiss_proxy::io::Io;
    let files = files_below(&disk, Path::new("/data"));
    let used: u64 = files.iter().map(|path| disk.open(path).unwrap().len().unwrap()).sum();
    disk.set_capacity(Some(used + 20_000));
    let error = session.index.compact().unwrap_err();
    assert!(matches!(error, Error::Full(_)) && error.to_string().contains("not begun"), "{error}");
    assert_eq!(files_below(&disk, Path::new("/data")), files);
    session.delete(&["document-2"], Durability::Fsync).unwrap();
    disk.set_capacity(None);
    // The third that was deleted first never came to a file.
    assert_eq!(session.index.compact().unwrap().rows_dropped, 668);
}

#[test]
fn training_builds_what_the_type_can_be_trained_on_and_says_where_there_is_too_little() {
    let spec = IndexSpec { index_type: "IVF8,Flat".to_owned(), ..support::spec(4, Metric::L2) };
    let mut session = Session::create_as(&SimIo::new(), &Limits::default(), &spec);
    session.put(&["a", "b"], 1).unwrap();
    let error = session.index.train().unwrap_err();
    assert!(matches!(error, Error::Conflict(_)) && error.to_string().contains("8 rows"), "{error}");
    let ids: Vec<String> = (0..50).map(|n| format!("document-{n}")).collect();
    session.put(&ids.iter().map(String::as_str).collect::<Vec<_>>(), 1).unwrap();
    session.index.settle().unwrap();
    assert_eq!(session.index.info().unindexed_rows, 52, "as many are not advised");
    session.index.train().unwrap();
    let info = session.index.info();
    assert_eq!(info.unindexed_rows, 0, "{:?}", info.builds);
    assert_eq!(dump(&session.index), *session.history.last());
    session.index.train().unwrap();
}

/// A disk on which a build stops before it writes its first index, until it may go on.
#[derive(Debug)]
struct Held {
    disk: SimIo,
    /// Told that it has stopped, and asked whether it may go on. Taken by the one that is held.
    gate: Mutex<Option<(Sender<()>, Receiver<()>)>>,
}

/// How long a build is held at most: where whatever is tested waits for the build, nobody says that it may go on.
const HELD_MAX: Duration = Duration::from_millis(300);

impl Io for Held {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        if path.extension().is_some_and(|extension| extension == "faiss")
            && let Some((stopped, go_on)) = self.gate.lock().unwrap().take()
        {
            stopped.send(()).unwrap();
            let _ = go_on.recv_timeout(HELD_MAX);
        }
        self.disk.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.disk.open(path)
    }

    fn map(&self, path: &Path) -> io::Result<Map> {
        self.disk.map(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<Entry>> {
        self.disk.list(directory)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }

    fn available(&self, directory: &Path) -> io::Result<u64> {
        self.disk.available(directory)
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        self.disk.lock(path)
    }

    fn lock_shared(&self, path: &Path) -> io::Result<Lock> {
        self.disk.lock_shared(path)
    }
}

/// An erasure swept away the segment that a build had written and was about to name in a manifest: the index refused at its next opening.
#[test]
fn an_erasure_beside_a_build_erases_what_was_deleted_and_nothing_else() {
    let disk = SimIo::new();
    let (stopped, has_stopped) = channel();
    let (may_go_on, go_on) = channel();
    let held = Held { disk: disk.clone(), gate: Mutex::new(Some((stopped, go_on))) };
    let store = open_store(held, "/data", &Limits::default()).unwrap();
    let options = IndexOptions { seal_rows: Some(20), ..IndexOptions::default() };
    let index =
        store.create_index(&tenant(), &IndexSpec { index_type: "HNSW8".to_owned(), options, ..spec(4, Metric::L2) }).unwrap();
    // Two segments, which have enough rows for a build only together: it writes them into one.
    for half in 0..2 {
        let mut batch = index.batch();
        for n in 0..15 {
            let metadata = format!("{{\"document\":\"{half}-{n}\"}}");
            batch.push(&format!("{half}-{n}"), &[half as f32, n as f32, 1.0, 2.0], &metadata).unwrap();
        }
        index.upsert(batch, Durability::Fsync).unwrap();
        index.checkpoint().unwrap();
    }
    std::thread::scope(|scope| {
        let build = scope.spawn(|| index.settle());
        has_stopped.recv().unwrap();
        index.delete(&["0-7"], Durability::Fsync).unwrap();
        index.erase().unwrap();
        let _ = may_go_on.send(());
        build.join().unwrap().unwrap();
    });
    assert_eq!(holds(&disk, b"\"0-7\""), None, "it was erased");
    let expected = dump(&index);
    assert_eq!(expected.len(), 29);
    let id = index.id();
    drop((index, store));
    let store = open_store(disk.crash(Survival::None), "/data", &Limits::default()).unwrap();
    assert_eq!(dump(&store.index(&tenant(), id).unwrap()), expected);
}

#[test]
fn a_store_that_is_about_to_close_rewrites_nothing_and_does_all_else_also_of_an_index_that_is_opened_later() {
    let disk = SimIo::new();
    let limits = Limits::default();
    let mut session = Session::create(&disk, &limits, 4, Metric::L2);
    session.put(&["a", "b"], 1).unwrap();
    session.checkpoint().unwrap();
    session.put(&["b", "c"], 2).unwrap();
    let id = session.index.id();
    drop(session);
    for opens_before in [true, false] {
        let store = open_store_as(Opening::Lazy, disk.clone(), "/data", &limits).unwrap();
        if opens_before {
            store.index(&tenant(), id).unwrap();
        }
        store.stop_building();
        let index = store.index(&tenant(), id).unwrap();
        for stopped in [index.compact().map(drop), index.erase().map(drop), index.train(), index.settle()] {
            assert!(matches!(&stopped, Err(Error::Closed(why)) if why.contains("nothing is lost")), "{stopped:?}");
        }
        let mut batch = index.batch();
        batch.push("d", &[1.0; 4], "{}").unwrap();
        index.upsert(batch, Durability::Fsync).unwrap();
        assert_eq!(dump(&index).len(), 4);
        store.close().unwrap();
        assert_eq!(index.info().checkpoint_lsn, index.info().lsn);
    }
}
