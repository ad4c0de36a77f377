//! Rows in a file that never changes, mapped. Everything is verified when it is opened; after that nothing is.

use std::borrow::Cow;
use std::io::IoSlice;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::Rows;
use super::bits::Bits;
use super::faiss::Floats;
use super::filter::Filter;
use super::filter::fields::Fields;
use crate::error::{Error, Result};
use crate::format::manifest::Checksum;
use crate::format::segment::{ALIGN, BLOCK, HAS_SCALES, Layout, RECORD, Record, SegmentHeader};
use crate::io::{File, Io, Map};
use crate::types::{IndexId, Row};

/// A file is synced each time this many blocks were written, so that the log's sync never waits for long behind it.
const SYNC_BLOCKS: usize = 4;

#[derive(Debug)]
pub(crate) struct Sealed {
    map: Map,
    layout: Layout,
    dimension: usize,
    first_row: Row,
    /// How far each row's number is from `first_row`, rising; `None` where there are no gaps. Gaps are rows that were dead when the
    /// file was written.
    offsets: Option<Box<[u32]>>,
    /// Made or read by the first search with a filter, or made with the segment where filters are in use.
    fields: OnceLock<Fields>,
    /// The same in a file, verified.
    stored_fields: Option<Map>,
}

impl Sealed {
    /// Maps and verifies a segment. Its rows are numbered from `first_row` on.
    ///
    /// # Errors
    /// [`Error::Corrupt`] by file and offset.
    pub(crate) fn open(
        io: &dyn Io,
        path: &Path,
        expected: Checksum,
        index: IndexId,
        number: u64,
        first_row: Row,
    ) -> Result<Self> {
        let map = map_listed(io, path, "segment", expected)?;
        let corrupt = |offset: usize, problem: String| Error::corrupt(path, offset as u64, problem);
        let header = map
            .first_chunk()
            .ok_or_else(|| "the file ends inside its header".to_owned())
            .and_then(SegmentHeader::decode)
            .map_err(|problem| corrupt(0, problem))?;
        if header.index != index || header.number != number {
            return Err(corrupt(0, format!("this is segment {} of index {}", header.number, header.index)));
        }
        let layout = header
            .layout()
            .filter(|layout| layout.checksums.end == map.len())
            .ok_or_else(|| corrupt(0, "the header's sizes are not those of the file".to_owned()))?;
        verify(&map, &layout, expected.crc).map_err(|(offset, problem)| corrupt(offset, problem))?;
        let (dimension, fields) = (header.dimension as usize, OnceLock::new());
        let sealed = Self { map, layout, dimension, first_row, offsets: None, fields, stored_fields: None };
        sealed.check_texts().map_err(|(offset, problem)| corrupt(offset, problem))?;
        Ok(sealed)
    }

    /// Every id and metadata is inside the text and is UTF-8; else where they are not.
    fn check_texts(&self) -> Result<(), (usize, String)> {
        let text = std::str::from_utf8(self.text())
            .map_err(|error| (self.layout.text.start + error.valid_up_to(), "the text is not UTF-8".to_owned()))?;
        for position in 0..self.len() {
            let record = self.record(position);
            let inside = usize::try_from(record.text).ok().and_then(|start| {
                let middle = start.checked_add(record.id_bytes.into())?;
                let end = middle.checked_add(record.metadata_bytes as usize)?;
                text.get(start..middle).and(text.get(middle..end))
            });
            let outside =
                || (self.record_offset(position) as usize, format!("the record of row {position} points outside the text"));
            inside.ok_or_else(outside)?;
        }
        Ok(())
    }

    /// The same file where its rows stand for in-memory rows that had gaps: `offsets` from `first_row`, one for each row, rising.
    pub(crate) fn with_offsets(mut self, offsets: Vec<u32>) -> Self {
        debug_assert_eq!(offsets.len(), self.len());
        debug_assert!(offsets.is_sorted());
        let has_gaps = offsets.last().is_some_and(|&last| last as usize + 1 != offsets.len());
        self.offsets = has_gaps.then(|| offsets.into());
        self
    }

    /// Its metadata index is read from this file when it is needed.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where it is not the file that the manifest names. Nothing is lost by it: the rows have what was in it.
    pub(crate) fn load_fields(&mut self, io: &dyn Io, path: &Path, checksum: Checksum) -> Result<()> {
        self.stored_fields = Some(map_verified(io, path, "metadata index", checksum)?);
        Ok(())
    }

    /// Whether what [`load_fields`](Self::load_fields) read is the metadata index of these rows; true where there is none. `unindexed`: as for
    /// [`fields`](Self::fields).
    pub(crate) fn stored_fields_are_right(&self, unindexed: &Arc<[String]>) -> bool {
        let rows = (0..self.len()).map(|position| Cow::Borrowed(self.metadata(position)));
        self.stored_fields.as_ref().is_none_or(|stored| **stored == Fields::new(unindexed, rows).encode()[..])
    }

    /// Floats in a vector.
    pub(crate) fn dimension(&self) -> usize {
        self.dimension
    }

    /// Whether it has the inverses of its vectors' norms.
    pub(crate) fn is_scaled(&self) -> bool {
        !self.layout.scales.is_empty()
    }

    pub(crate) fn first_row(&self) -> Row {
        self.first_row
    }

    /// Rows in the file, dead ones included.
    pub(crate) fn len(&self) -> usize {
        self.layout.records.len() / RECORD
    }

    /// Bytes of memory that are this process's own: the map is the kernel's cache.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.offsets.as_ref().map_or(0, |offsets| size_of_val(&**offsets)) + self.field_bytes()
    }

    /// The metadata index, made now if it is not there, without the fields of `unindexed`.
    pub(crate) fn fields(&self, unindexed: &Arc<[String]>) -> &Fields {
        self.fields.get_or_init(|| {
            let stored = self.stored_fields.as_ref().and_then(|stored| Fields::decode(unindexed, stored, self.len()));
            let all = || (0..self.len()).map(|position| Cow::Borrowed(self.metadata(position)));
            stored.unwrap_or_else(|| Fields::new(unindexed, all()))
        })
    }

    /// The metadata index, as far as it is in memory.
    pub(crate) fn made_fields(&self) -> Option<&Fields> {
        self.fields.get()
    }

    /// Whether a search with a filter has been here, or at the rows that it was written of.
    pub(crate) fn has_fields(&self) -> bool {
        self.stored_fields.is_some() || self.fields.get().is_some()
    }

    /// Bytes of memory of its metadata index, once there is one.
    pub(crate) fn field_bytes(&self) -> usize {
        self.fields.get().map_or(0, Fields::memory_bytes)
    }

    /// How far the number of the row at `position` is from the first row's.
    pub(crate) fn offset(&self, position: usize) -> u32 {
        self.offsets.as_ref().map_or(position as u32, |offsets| offsets[position])
    }

    pub(crate) fn position(&self, offset: u32) -> Option<usize> {
        match &self.offsets {
            Some(offsets) => offsets.binary_search(&offset).ok(),
            None => Some(offset as usize).filter(|&position| position < self.len()),
        }
    }

    pub(crate) fn record(&self, position: usize) -> Record {
        let (records, _) = self.map[self.layout.records.clone()].as_chunks::<RECORD>();
        Record::decode(&records[position])
    }

    /// Where in the file the record is.
    pub(crate) fn record_offset(&self, position: usize) -> u64 {
        (self.layout.records.start + position * RECORD) as u64
    }

    pub(crate) fn scales(&self, positions: Range<usize>) -> Floats<'_> {
        let scales: &[f32] = bytemuck::cast_slice(&self.map[self.layout.scales.clone()]);
        Floats::Mapped(if scales.is_empty() { scales } else { &scales[positions] })
    }

    pub(crate) fn floats(&self, positions: Range<usize>) -> Floats<'_> {
        // Maps begin on a page or a cache line, and so do sections: the cast cannot fail.
        let floats: &[f32] = bytemuck::cast_slice(&self.map[self.layout.vectors.clone()]);
        Floats::Mapped(&floats[positions.start * self.dimension..positions.end * self.dimension])
    }

    pub(crate) fn id(&self, position: usize) -> &[u8] {
        let record = self.record(position);
        &self.text()[record.text as usize..][..record.id_bytes.into()]
    }

    pub(crate) fn metadata(&self, position: usize) -> &[u8] {
        let record = self.record(position);
        &self.text()[record.text as usize + usize::from(record.id_bytes)..][..record.metadata_bytes as usize]
    }

    /// The rows at positions from 0 to `len` whose metadata matches. `unindexed`: as for [`fields`](Self::fields).
    pub(crate) fn select(&self, unindexed: &Arc<[String]>, filter: &Filter, len: usize) -> Bits {
        self.fields(unindexed).select(filter, len, |position, text| text.extend_from_slice(self.metadata(position)))
    }

    fn text(&self) -> &[u8] {
        &self.map[self.layout.text.clone()]
    }
}

/// Maps a file that a manifest lists, to be read at once. `what` it is, for people. Its bytes are not looked at.
///
/// # Errors
/// [`Error::Corrupt`]: it is missing, or not as long as the manifest says. [`Error::Io`]: it cannot be mapped.
fn map_listed(io: &dyn Io, path: &Path, what: &str, expected: Checksum) -> Result<Map> {
    let map = io.map(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::corrupt(path, 0, format!("the manifest lists this {what}, and it is missing")),
        _ => Error::io("map", path, error),
    })?;
    map.read_ahead();
    if map.len() as u64 != expected.bytes {
        let problem = format!("the file has {} bytes, and its manifest says {}", map.len(), expected.bytes);
        return Err(Error::corrupt(path, map.len() as u64, problem));
    }
    Ok(map)
}

/// The same, and compares all its bytes with what the manifest says.
///
/// # Errors
/// As [`map_listed`].
pub(super) fn map_verified(io: &dyn Io, path: &Path, what: &str, expected: Checksum) -> Result<Map> {
    let map = map_listed(io, path, what, expected)?;
    if crc32fast::hash(&map) == expected.crc { Ok(map) } else { Err(Error::corrupt(path, 0, "checksum mismatch")) }
}

/// Checks every block against the table at the end, and the whole against the manifest, in one pass.
fn verify(bytes: &[u8], layout: &Layout, expected: u32) -> Result<(), (usize, String)> {
    let table = &bytes[layout.checksums.clone()];
    let (entries, _) = table.as_chunks::<4>();
    let Some((&own, entries)) = entries.split_last() else { return Err((layout.checksums.start, "no checksums".to_owned())) };
    if crc32fast::hash(&table[..table.len() - 4]) != u32::from_le_bytes(own) {
        return Err((layout.checksums.start, "checksum mismatch in the table of checksums".to_owned()));
    }
    let mut whole = crc32fast::Hasher::new();
    for (number, (block, &entry)) in bytes[..layout.checksums.start].chunks(BLOCK).zip(entries).enumerate() {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(block);
        whole.combine(&hasher);
        if hasher.finalize() != u32::from_le_bytes(entry) {
            return Err((number * BLOCK, "checksum mismatch".to_owned()));
        }
    }
    whole.update(table);
    if whole.finalize() != expected {
        return Err((0, "this is not the file that the manifest names: checksum mismatch".to_owned()));
    }
    Ok(())
}

/// Rows to write, in order: positions of one segment at a time.
pub(crate) type Selection<'a> = [(&'a Rows, Vec<u32>)];

/// Writes a new segment file of these rows and syncs it; its name is not durable until its directory is synced.
///
/// # Errors
/// [`Error::Full`], [`Error::Io`]: the file is of no use and may be removed.
pub(crate) fn write(
    io: &dyn Io,
    path: &Path,
    index: IndexId,
    number: u64,
    dimension: usize,
    scaled: bool,
    rows: &Selection<'_>,
) -> Result<Checksum> {
    let all = || rows.iter().flat_map(|(rows, positions)| positions.iter().map(move |&position| (*rows, position as usize)));
    let text_bytes =
        all().map(|(rows, position)| rows.record(position)).map(|r| u64::from(r.id_bytes) + u64::from(r.metadata_bytes)).sum();
    let header = SegmentHeader {
        index,
        number,
        dimension: dimension as u32,
        rows: u32::try_from(all().count()).expect("a checkpoint takes no more rows than offsets can number"),
        flags: if scaled { HAS_SCALES } else { 0 },
        text_bytes,
    };
    let file = io.create(path).map_err(|error| Error::io("create", path, error))?;
    let mut writer = Writer { file, path, blocks: Vec::new(), written: 0, table: Vec::new(), whole: crc32fast::Hasher::new() };
    writer.put(&header.encode())?;
    let mut scratch = Vec::new();
    for (rows, position) in all() {
        rows.vector(position, &mut scratch);
        writer.put(bytemuck::cast_slice(&scratch))?;
    }
    writer.pad()?;
    let mut text = 0;
    for (rows, position) in all() {
        let record = Record { text, ..rows.record(position) };
        text += u64::from(record.id_bytes) + u64::from(record.metadata_bytes);
        writer.put(&record.encode())?;
    }
    writer.pad()?;
    if scaled {
        for (rows, position) in all() {
            for scale in rows.scales(position..position + 1).iter() {
                writer.put(&scale.to_le_bytes())?;
            }
        }
    }
    writer.pad()?;
    let mut scratch = Vec::new();
    for (rows, position) in all() {
        scratch.clear();
        rows.id(position, &mut scratch);
        rows.metadata(position, &mut scratch);
        writer.put(&scratch)?;
    }
    writer.pad()?;
    writer.finish()
}

/// Blocks are written so many bytes at a time. Where Linux keeps what is written at one time together in its cache (ext4 since 6.16), a map of the file
/// then has pages of 2 MiB, and not 512 times as many of 4 KiB: scans take three quarters of the time (`docs/performance.md`).
const WRITE_BYTES: usize = 2 << 20;

struct Writer<'a> {
    file: Arc<dyn File>,
    path: &'a Path,
    /// Bytes that are not written yet, less than [`WRITE_BYTES`].
    blocks: Vec<u8>,
    written: u64,
    table: Vec<u8>,
    whole: crc32fast::Hasher,
}

impl Writer<'_> {
    fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(WRITE_BYTES - self.blocks.len()));
            self.blocks.extend_from_slice(now);
            bytes = later;
            if self.blocks.len() == WRITE_BYTES {
                self.write_blocks()?;
            }
        }
        Ok(())
    }

    fn pad(&mut self) -> Result<()> {
        // What is written at one time is a multiple of a line, so that the place in it tells.
        let zeros = self.blocks.len().next_multiple_of(ALIGN) - self.blocks.len();
        self.put(&[0; ALIGN][..zeros])
    }

    fn write_blocks(&mut self) -> Result<()> {
        for block in self.blocks.chunks(BLOCK) {
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(block);
            self.whole.combine(&hasher);
            self.table.extend_from_slice(&hasher.finalize().to_le_bytes());
        }
        let blocks = std::mem::take(&mut self.blocks);
        self.write(&blocks)?;
        self.blocks = blocks;
        self.blocks.clear();
        if (self.table.len() / 4).is_multiple_of(SYNC_BLOCKS) {
            self.sync()?;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_at(self.written, &[IoSlice::new(bytes)]).map_err(|error| Error::io("write", self.path, error))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| Error::io("sync", self.path, error))
    }

    fn finish(mut self) -> Result<Checksum> {
        if !self.blocks.is_empty() {
            self.write_blocks()?;
        }
        let mut table = std::mem::take(&mut self.table);
        let own = crc32fast::hash(&table);
        table.extend_from_slice(&own.to_le_bytes());
        self.whole.update(&table);
        self.write(&table)?;
        self.sync()?;
        Ok(Checksum { bytes: self.written, crc: self.whole.finalize() })
    }
}
