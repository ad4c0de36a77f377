//! The only place where the state of an index changes: live writes and replay both come through here, so that they cannot differ.

use std::sync::Arc;

use parking_lot::Mutex;

use super::history::History;
use super::keys::Keys;
use super::published::Published;
use super::view::{Segment, View, locate};
use crate::segment::Rows;
use crate::segment::growing::{Growing, NewRow};
use crate::segment::id_map::{IdMap, ROWS_MAX};
use crate::segment::norm;
use crate::segment::positions::Positions;
use crate::segment::words::TextEnd;
use crate::types::{Lsn, Metric, Row};
use crate::wal::operation::{Effect, Operation, Upsert};

/// Bytes of the first chunk of rows; each is twice the one before, so that thousands of small indices stay small.
const CHUNK_BYTES_MIN: usize = 64 << 10;

/// Bytes of the largest. The kernel takes some milliseconds to give so much memory.
const CHUNK_BYTES_MAX: usize = 4 << 20;

/// Bytes that a row takes beside its vector and text.
const ROW_BYTES: usize = 28;

/// What readers share with the writer.
pub(crate) type Shared = Published<View, IdMap>;

/// The writer's side of the state: what the next View is made of.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) dimension: usize,
    pub(crate) metric: Metric,
    pub(crate) lsn: Lsn,
    pub(crate) segments: Vec<Segment>,
    /// What the metadata index leaves out.
    unindexed: Arc<[String]>,
    pub(crate) keys: Keys,
    /// The last segment, while rows can be added to it.
    active: Option<(Arc<Growing>, TextEnd)>,
    next_row: Row,
    /// The first row that no checkpoint has begun to write.
    new_row: Row,
    chunk_bytes: usize,
    /// Rows that died by the operation that is being applied.
    died: Vec<Row>,
    pub(crate) history: Arc<History>,
    /// The next chunk, where the timer's thread has made it already: to touch fresh memory takes longer than to fill it.
    pub(crate) spare: Arc<Mutex<Option<Growing>>>,
}

impl State {
    /// The state of a checkpoint at `lsn`: sealed segments only, by rising first row.
    pub(crate) fn new(
        dimension: usize,
        metric: Metric,
        unindexed: Arc<[String]>,
        lsn: Lsn,
        segments: Vec<Segment>,
        keys: Keys,
    ) -> Self {
        let next_row = segments.last().map_or(0, |last| last.rows.first_row() + last.len as Row);
        Self {
            dimension,
            metric,
            lsn,
            segments,
            unindexed,
            keys,
            active: None,
            next_row,
            new_row: next_row,
            chunk_bytes: CHUNK_BYTES_MIN,
            died: Vec::new(),
            // Those that are dead in the checkpoint died nobody knows when.
            history: Arc::new(History::new(lsn)),
            spare: Arc::default(),
        }
    }

    pub(crate) fn view(&self) -> Arc<View> {
        Arc::new(View { lsn: self.lsn, segments: self.segments.clone(), unindexed: Arc::clone(&self.unindexed) })
    }

    /// Whether `rows` more can be numbered.
    pub(crate) fn has_room_for(&self, rows: usize) -> bool {
        self.next_row + (rows as Row) < ROWS_MAX
    }

    /// Rows, dead ones included, that no checkpoint has begun to write.
    pub(crate) fn new_rows(&self) -> u64 {
        self.next_row - self.new_row
    }

    /// Later rows go to a new chunk, so that the present ones can be written to a file.
    pub(crate) fn freeze(&mut self) {
        self.active = None;
        self.new_row = self.next_row;
        // An index that is no longer written to ends with small chunks again, and one that is soon has its large ones.
        self.chunk_bytes = (self.chunk_bytes / 4).max(CHUNK_BYTES_MIN);
        *self.spare.lock() = None;
    }

    /// Applies the operation of the next LSN. Nothing can fail: it was validated before it was logged.
    pub(crate) fn apply(&mut self, ids: &mut IdMap, operation: &Operation<'_>) -> Effect {
        self.lsn += 1;
        let effect = self.perform(ids, operation);
        self.keys.forget(self.lsn);
        if !self.died.is_empty() {
            self.history.add(self.lsn, &self.died);
            self.died.clear();
        }
        effect
    }

    fn perform(&mut self, ids: &mut IdMap, operation: &Operation<'_>) -> Effect {
        match operation {
            Operation::Upsert(upsert) => self.upsert(ids, upsert),
            Operation::Delete(delete) => {
                let count = delete.ids().filter(|id| self.delete(ids, id)).count();
                Effect { count: count as u64, ..Effect::default() }
            }
            Operation::Keyed(keyed) => {
                self.keys.add(self.lsn, keyed);
                keyed.operation.as_ref().map(|operation| self.perform(ids, operation)).unwrap_or_default()
            }
        }
    }

    fn upsert(&mut self, ids: &mut IdMap, upsert: &Upsert<'_>) -> Effect {
        let first_row = self.next_row;
        let mut points = upsert.points();
        let mut vectors = &*upsert.vectors;
        while !vectors.is_empty() {
            // As many vectors at once as the chunk has room for: they are most of the bytes, and one after the other they stream into
            // memory, where between ids and texts each would wait for the stores of the one before.
            let rows = self.room().min(vectors.len() / self.dimension);
            let (now, later) = vectors.split_at(rows * self.dimension);
            self.store_vectors(now);
            for (id, metadata, vector) in points.by_ref().take(rows) {
                self.store(id, metadata, vector);
            }
            vectors = later;
        }
        // The ids in a loop of their own: each look-up misses the cache, and so the processor has several under way.
        let mut superseded = Vec::new();
        for (row, (id, ..)) in (first_row..).zip(upsert.points()) {
            let hash = ids.hash(id.as_bytes());
            let replaced = ids.insert(hash, row, |row| has_id(&self.segments, row, id));
            if let Some(old) = replaced {
                self.kill(old);
                if old >= first_row {
                    superseded.push((old - first_row) as u32);
                }
            }
        }
        Effect { count: u64::from(upsert.count) - superseded.len() as u64, superseded, ..Effect::default() }
    }

    fn delete(&mut self, ids: &mut IdMap, id: &str) -> bool {
        let hash = ids.hash(id.as_bytes());
        let removed = ids.remove(hash, |row| has_id(&self.segments, row, id));
        if let Some(row) = removed {
            self.kill(row);
        }
        removed.is_some()
    }

    /// How many rows the active chunk has room for: a new one, where it has none.
    fn room(&mut self) -> usize {
        loop {
            if let (Some((growing, _)), Some(last)) = (&self.active, self.segments.last())
                && last.len < growing.capacity()
            {
                return growing.capacity() - last.len;
            }
            self.add_chunk();
        }
    }

    /// Stores the vectors of the next rows, for which there is [`room`](Self::room).
    fn store_vectors(&mut self, vectors: &[f32]) {
        let ((growing, _), last) = self.active.as_ref().zip(self.segments.last()).expect("a chunk with room is there");
        growing.store_vectors(last.len, vectors);
    }

    /// Adds the next row, whose vector is [stored](Self::store_vectors).
    fn store(&mut self, id: &str, metadata: &str, vector: &[f32]) {
        let ((growing, text_end), last) = self.active.as_mut().zip(self.segments.last_mut()).expect("a chunk with room is there");
        let (scale, extreme) = norm::summary(self.metric, vector);
        let new = NewRow { lsn: self.lsn, id, metadata, scale, extreme };
        growing.store(last.len, text_end, &new);
        if extreme {
            last.extreme.insert(last.len);
        }
        last.len += 1;
        self.next_row += 1;
    }

    /// Whether a spare chunk would soon be of use: the present one is large and half full.
    pub(crate) fn wants_spare(&self) -> bool {
        let half_full =
            |(growing, _): &(Arc<Growing>, TextEnd)| self.segments.last().is_some_and(|last| last.len * 2 >= growing.capacity());
        self.chunk_bytes == CHUNK_BYTES_MAX && self.active.as_ref().is_some_and(half_full) && self.spare.lock().is_none()
    }

    /// A chunk of the size of the next one, made without holding anybody up.
    pub(crate) fn new_spare(dimension: usize, metric: Metric) -> Growing {
        Growing::new(0, capacity(CHUNK_BYTES_MAX, dimension), dimension, metric == Metric::Cosine)
    }

    fn add_chunk(&mut self) {
        let capacity = capacity(self.chunk_bytes, self.dimension);
        self.chunk_bytes = (self.chunk_bytes * 2).min(CHUNK_BYTES_MAX);
        let spare = self.spare.lock().take().filter(|spare| spare.capacity() == capacity);
        let growing = match spare {
            Some(spare) => spare.starting_at(self.next_row),
            None => Growing::new(self.next_row, capacity, self.dimension, self.metric == Metric::Cosine),
        };
        let growing = Arc::new(growing);
        self.segments.push(Segment {
            rows: Rows::Growing(Arc::clone(&growing)),
            len: 0,
            dead: Positions::default(),
            extreme: Positions::default(),
            build: None,
        });
        self.active = Some((growing, TextEnd::default()));
    }

    fn kill(&mut self, row: Row) {
        let (at, position) = locate(&self.segments, row).expect("the id map names rows that exist");
        self.segments[at].dead.insert(position);
        self.died.push(row);
    }
}

/// Rows of a chunk of about this many bytes.
fn capacity(chunk_bytes: usize, dimension: usize) -> usize {
    (chunk_bytes / (4 * dimension + ROW_BYTES)).clamp(1, 1 << 16)
}

/// The row of the live point of this id, if there is one.
pub(crate) fn row_of(ids: &IdMap, segments: &[Segment], id: &str) -> Option<Row> {
    ids.get(ids.hash(id.as_bytes()), |row| has_id(segments, row, id))
}

/// The same: its segment, and its position in it.
pub(crate) fn find<'s>(ids: &IdMap, segments: &'s [Segment], id: &str) -> Option<(&'s Segment, usize)> {
    let (at, position) = locate(segments, row_of(ids, segments, id)?)?;
    Some((&segments[at], position))
}

/// Whether the row holds this id.
fn has_id(segments: &[Segment], row: Row, id: &str) -> bool {
    locate(segments, row).is_some_and(|(at, position)| segments[at].rows.id_equals(position, id))
}
