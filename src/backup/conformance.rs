//! What every repository promises, on each.

use std::sync::Arc;

use super::repository::{Directory, Repository};
use crate::error::Error;
use crate::io::os::OsIo;
use crate::io::sim::SimIo;

fn on_each(check: impl Fn(&dyn Repository)) {
    let directory = tempfile::tempdir().unwrap();
    check(&Directory::new(Arc::new(SimIo::new()), "/a/b"));
    check(&Directory::new(Arc::new(OsIo), directory.path().join("a/b")));
    #[cfg(feature = "cloud")]
    check(&super::objects::Objects::in_memory());
    #[cfg(feature = "server")]
    if let Some(servers) = crate::wal::jetstream::tests::Servers::start() {
        check(&super::bucket::Bucket::open(&servers.connection(), 1).unwrap());
    }
}

fn put(repository: &dyn Repository, name: &str, chunks: &[&[u8]]) {
    let bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
    repository.put(name, bytes, &mut chunks.iter().map(|chunk| Ok(chunk.to_vec()))).unwrap();
}

fn get(repository: &dyn Repository, name: &str) -> Option<Vec<u8>> {
    repository.get(name).unwrap().map(|chunks| chunks.flat_map(Result::unwrap).collect())
}

#[test]
fn what_is_put_is_got_whole_and_takes_the_place_of_what_was_there() {
    on_each(|repository| {
        assert_eq!(get(repository, "t/i/x"), None);
        put(repository, "t/i/x", &[b"one ", b"two"]);
        assert_eq!(get(repository, "t/i/x").unwrap(), b"one two");
        put(repository, "t/i/x", &[b"three"]);
        assert_eq!(get(repository, "t/i/x").unwrap(), b"three");
        put(repository, "t/i/empty", &[]);
        assert_eq!(get(repository, "t/i/empty").unwrap(), b"");
        // In parts, where the repository has them.
        let chunk = vec![7; 1 << 20];
        put(repository, "t/i/large", &[&chunk[..]; 20]);
        assert!(get(repository, "t/i/large").unwrap() == chunk.repeat(20));
    });
}

#[test]
fn what_fails_in_the_middle_is_not_put() {
    on_each(|repository| {
        put(repository, "t/x", &[b"old"]);
        for (name, bytes) in [("t/x", 9), ("t/large", 30 << 20)] {
            let mut chunks = [Ok(vec![1; 9 << 20]), Err(Error::Busy("no"))].into_iter();
            assert!(matches!(repository.put(name, bytes, &mut chunks), Err(Error::Busy("no"))), "{name}");
        }
        assert_eq!(get(repository, "t/x").unwrap(), b"old");
        assert_eq!(get(repository, "t/large"), None);
    });
}

#[test]
fn what_is_to_be_new_is_put_once() {
    on_each(|repository| {
        assert!(repository.put_new("t/x", b"one").unwrap());
        assert!(!repository.put_new("t/x", b"two").unwrap());
        assert_eq!(get(repository, "t/x").unwrap(), b"one");
    });
}

#[test]
fn what_is_removed_is_not_there() {
    on_each(|repository| {
        repository.remove("t/x").unwrap();
        put(repository, "t/x", &[b"one"]);
        put(repository, "t/y", &[b"two"]);
        repository.remove("t/x").unwrap();
        assert_eq!((get(repository, "t/x"), get(repository, "t/y").unwrap()), (None, b"two".to_vec()));
        assert_eq!(repository.list("t").unwrap().len(), 1);
        assert!(repository.put_new("t/x", b"three").unwrap());
        assert_eq!(get(repository, "t/x").unwrap(), b"three");
    });
}

#[test]
fn what_is_below_a_name_is_listed_sorted() {
    on_each(|repository| {
        assert!(repository.list("t").unwrap().is_empty());
        let _lock = repository.lock("t/i").unwrap();
        for name in ["t/i/b", "t/i/a", "t/i/d/e", "t/j", "u/k"] {
            put(repository, name, &[b"x"]);
        }
        let listed = |name| repository.list(name).unwrap().into_iter().map(|e| (e.name, e.is_dir)).collect::<Vec<_>>();
        let expect =
            |entries: &[(&str, bool)]| entries.iter().map(|(name, is_dir)| (name.to_string(), *is_dir)).collect::<Vec<_>>();
        assert_eq!(listed("t/i"), expect(&[("a", false), ("b", false), ("d", true)]));
        assert_eq!(listed(""), expect(&[("t", true), ("u", true)]));
    });
}
