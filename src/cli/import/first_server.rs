//! A directory of the first FAISS Proxy Server (Python): `{tenant}/{index}` with `index.faiss`, `metadata.json` and `vectors.json`.
//!
//! `vectors.json` has the metadata of each id, `{"id": {…}, …}`, in the order in which the ids came, and no vectors; `index.faiss` has the vectors
//! in the order in which they came, and no ids; `metadata.json` says how many there should be. That server took the n-th row for the n-th id. But it never took
//! a row out of `index.faiss`: the row of a deleted point stayed, so that those behind it belong to the id before theirs, and so did the
//! old row of a replaced point. Where there are more rows than ids, nothing in the directory says which row is whose.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use serde::Deserialize;
use serde::de::{Deserializer as _, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::super::Failure;
use super::faiss_file::FaissFile;
use super::reader::ReaderLimits;
use super::source::{Fault, FileReader, Row, Source, open};
use crate::error::quoted;

/// Entries of `vectors.json` that are parsed ahead.
const ENTRIES_AHEAD: usize = 256;

/// Points of a directory.
pub struct FirstServer {
    rows: FaissFile,
    entries: Receiver<Result<Entry, serde_json::Error>>,
    /// Why rows and ids do not go together.
    drift: Option<String>,
    as_served: bool,
    path: PathBuf,
    /// Entries that were taken, and the id of the last one.
    taken: u64,
    id: String,
}

/// An id and its metadata.
type Entry = (String, Box<RawValue>);

/// What is needed of `metadata.json`.
#[derive(Deserialize)]
struct About {
    dimension: usize,
    /// Points that were added, less those that were deleted: one that was replaced counts twice.
    vector_count: u64,
}

impl FirstServer {
    /// `as_served`: the n-th row is that of the n-th id, as that server's searches had it, whatever was deleted and replaced.
    ///
    /// # Errors
    /// Where one of the three files cannot be read, or they are not of one index.
    pub fn open(directory: &Path, as_served: bool, limits: ReaderLimits) -> Result<Self, Failure> {
        let about_path = directory.join("metadata.json");
        let about: About = serde_json::from_reader(open(&about_path)?.0)
            .map_err(|error| Failure::new(format!("{}: {error}", about_path.display())))?;
        let rows = FaissFile::open(&directory.join("index.faiss"), limits)?;
        if rows.dimension() != about.dimension {
            let (of_rows, said) = (rows.dimension(), about.dimension);
            let why = format!("says that vectors have {said} values, and those of index.faiss have {of_rows}");
            return Err(Failure::new(format!("{}: {why}", about_path.display())));
        }
        let path = directory.join("vectors.json");
        let failed = |error: serde_json::Error| Failure::new(format!("{}: {error}", path.display()));
        let count = count(open(&path)?.0).map_err(failed)?;
        let drift = drift(rows.count(), count, about.vector_count);
        let (sender, entries) = sync_channel(ENTRIES_AHEAD);
        let (file, _) = open(&path)?;
        thread::spawn(move || parse(file, &sender));
        Ok(Self { rows, entries, drift, as_served, path, taken: 0, id: String::new() })
    }
}

/// What is wrong, where the n-th row need not be that of the n-th id.
fn drift(rows: u64, ids: u64, vector_count: u64) -> Option<String> {
    // Each add made one row and at most one id, and counted one. Were anything deleted or replaced, there would be a row more than ids.
    if rows == ids && rows == vector_count {
        return None;
    }
    Some(format!("index.faiss has {rows} rows, vectors.json {ids} ids, and metadata.json counts {vector_count}"))
}

impl Source for FirstServer {
    fn dimension(&self) -> usize {
        self.rows.dimension()
    }

    fn has_ids(&self) -> bool {
        true
    }

    fn next(&mut self, values: &mut Vec<f32>) -> Result<Option<Row>, Fault> {
        let Ok(entry) = self.entries.recv() else { return Ok(None) };
        let (id, metadata) = entry.map_err(|error| Fault::File(error.to_string()))?;
        self.id.clone_from(&id);
        self.taken += 1;
        let number = self.taken - 1;
        if let Some(drift) = self.drift.as_ref().filter(|_| !self.as_served) {
            let why = format!(
                "which row is its own is not known: {drift}, so that points were deleted or replaced; \
                 its searches took row {number} for it, and so does --rows-as-served"
            );
            return Err(Fault::Row(why));
        }
        if self.rows.next(values)?.is_none() {
            return Err(Fault::Row("index.faiss has no row for it".to_owned()));
        }
        let metadata = Some(metadata.get()).filter(|text| *text != "null").map(str::to_owned);
        Ok(Some(Row { id: Some(id), metadata }))
    }

    fn place(&self) -> String {
        format!("{}: {}", self.path.display(), quoted(&self.id))
    }
}

/// Entries of the object in a file.
fn count(file: FileReader) -> Result<u64, serde_json::Error> {
    let mut count = 0;
    serde_json::Deserializer::from_reader(file).deserialize_map(Each::new(|_: IgnoredAny, _: IgnoredAny| {
        count += 1;
        true
    }))?;
    Ok(count)
}

/// Sends the entries of the object in a file, until nobody takes them.
fn parse(file: FileReader, sender: &SyncSender<Result<Entry, serde_json::Error>>) {
    let mut is_taken = true;
    let parsed = serde_json::Deserializer::from_reader(file).deserialize_map(Each::new(|id: String, metadata: Box<RawValue>| {
        is_taken = sender.send(Ok((id, metadata))).is_ok();
        is_taken
    }));
    if let Err(error) = parsed
        && is_taken
    {
        let _ = sender.send(Err(error));
    }
}

/// Gives each entry of an object to a function, until it wants no more.
struct Each<F, K, V>(F, std::marker::PhantomData<(K, V)>);

impl<K, V, F: FnMut(K, V) -> bool> Each<F, K, V> {
    fn new(take: F) -> Self {
        Self(take, std::marker::PhantomData)
    }
}

impl<'de, K: Deserialize<'de>, V: Deserialize<'de>, F: FnMut(K, V) -> bool> Visitor<'de> for Each<F, K, V> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with the metadata of each id")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry()? {
            if !(self.0)(key, value) {
                return Err(A::Error::custom("no more is wanted"));
            }
        }
        Ok(())
    }
}
