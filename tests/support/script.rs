//! Writers whose every step is known beforehand: whoever knows how far each was acknowledged knows what must be there.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use faiss_proxy::{Durability, Lsn};

use super::{Before, Chance, NewPoint, State};

/// What is there of an id: the bits of its values, and its metadata.
pub type Found = BTreeMap<String, (Vec<u32>, String)>;

/// An index to be written to.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub index_type: &'static str,
    pub dimension: usize,
    /// Ids of each of its writers.
    pub ids: usize,
}

/// An exact index, and one with so many rows that FAISS indexes are built and compacted all the time: with [`SEAL_ROWS`].
pub const INDICES: [Shape; 2] =
    [Shape { index_type: "Flat", dimension: 4, ids: 12 }, Shape { index_type: "HNSW16", dimension: 8, ids: 100 }];

pub const SEAL_ROWS: u32 = 64;

/// Writers of each index.
pub const WRITERS: usize = 2;

/// Those of [`INDICES`], one index after the other.
pub fn writers(deletes_max: usize) -> Vec<Writer> {
    let shapes = INDICES.iter().flat_map(|shape| std::iter::repeat_n(shape, WRITERS));
    shapes.zip(0..).map(|(shape, number)| Writer { number, ids: shape.ids, dimension: shape.dimension, deletes_max }).collect()
}

/// One of several that write to an index at once. Each has ids of its own, so that what is there of one does not depend on the others.
#[derive(Clone, Copy, Debug)]
pub struct Writer {
    pub number: u64,
    /// How many ids it has.
    pub ids: usize,
    pub dimension: usize,
    /// Ids of one delete at most.
    pub deletes_max: usize,
}

#[derive(Clone, Debug)]
pub enum Step {
    Put(Vec<NewPoint>),
    Delete(Vec<String>),
}

impl Writer {
    pub fn id(&self, n: usize) -> String {
        format!("w{}-{n}", self.number)
    }

    pub fn every_id(&self) -> impl Iterator<Item = String> + '_ {
        (0..self.ids).map(|n| self.id(n))
    }

    /// What it does as its step `at`, from 1 on. The same for whoever asks.
    pub fn step(&self, at: u64) -> Step {
        let mut chance = Chance::new(self.number << 48 | at);
        let first = chance.below(self.ids);
        let is_delete = chance.below(4) == 0;
        let count = 1 + chance.below(if is_delete { self.deletes_max } else { 5 });
        let ids = (0..count).map(|n| (first + n) % self.ids);
        if is_delete {
            Step::Delete(ids.map(|n| self.id(n)).collect())
        } else {
            Step::Put(ids.map(|n| self.point(at, n)).collect())
        }
    }

    fn point(&self, at: u64, n: usize) -> NewPoint {
        let mut chance = Chance::new((self.number << 48 | at) ^ (n as u64) << 32);
        let values = (0..self.dimension).map(|_| float(&mut chance)).collect();
        NewPoint { id: self.id(n), values, metadata: format!("{{\"step\":{at}}}") }
    }

    /// What its ids hold after a step.
    pub fn after(&self, last_step: u64) -> Found {
        let mut found = Found::new();
        for at in 1..=last_step {
            match self.step(at) {
                Step::Put(points) => found.extend(points.into_iter().map(|NewPoint { id, values, metadata }| {
                    (id, (values.iter().map(|value| value.to_bits()).collect(), metadata))
                })),
                Step::Delete(ids) => ids.iter().for_each(|id| drop(found.remove(id))),
            }
        }
        found
    }

    /// The step of `range` after which its ids hold what is found.
    ///
    /// # Panics
    /// Where there is none: something is lost, or half there, or was never written.
    pub fn standing(&self, found: &Found, range: RangeInclusive<u64>) -> u64 {
        let prefix = format!("w{}-", self.number);
        let own: Found =
            found.iter().filter(|(id, _)| id.starts_with(&prefix)).map(|(id, held)| (id.clone(), held.clone())).collect();
        let standing = range.clone().find(|&at| self.after(at) == own);
        standing.unwrap_or_else(|| {
            let expected = self.after(*range.start());
            let ids = expected.keys().chain(own.keys()).filter(|&id| expected.get(id) != own.get(id));
            let differing: Vec<_> = ids.map(|id| (id, expected.get(id), own.get(id))).collect();
            panic!("writer {} is at none of the steps {range:?}; from the first of them these differ: {differing:?}", self.number)
        })
    }
}

/// A finite float of any kind: the sign of a zero and what is below the normal range must come back too.
fn float(chance: &mut Chance) -> f32 {
    match chance.below(32) {
        0 => -0.0,
        1 => f32::from_bits(1 + chance.below(0x7f_ffff) as u32),
        _ => (chance.below(1 << 24) as f32 / (1 << 22) as f32) - 2.0,
    }
}

pub fn found_in(state: State) -> Found {
    state.into_iter().map(|(id, row)| (id, (row.bits, row.metadata))).collect()
}

/// What a writer was told of one of its steps.
#[derive(Clone, Copy, Debug)]
pub struct Ack {
    pub lsn: Lsn,
    pub durability: Durability,
}

/// What a writer was told since it began.
#[derive(Clone, Debug)]
pub struct Told {
    pub writer: Writer,
    /// The step that it was at.
    pub begun_at: u64,
    /// Of the steps after it.
    pub acks: Vec<Ack>,
}

impl Told {
    pub fn new(writer: Writer) -> Self {
        Self { writer, begun_at: 0, acks: Vec::new() }
    }

    pub fn acked(&self) -> u64 {
        self.begun_at + self.acks.len() as u64
    }

    /// Checks what an index holds of this writer at `lsn`: all that was acknowledged up to it and nothing else, but for the step that was in flight,
    /// whole. Gives the step that it is at, and the acknowledgements after it.
    pub fn check(&self, found: &Found, lsn: Lsn) -> (u64, &[Ack]) {
        let (kept, lost) = self.acks.split_at(self.acks.iter().take_while(|ack| ack.lsn <= lsn).count());
        let at = self.begun_at + kept.len() as u64;
        let in_flight = u64::from(lost.is_empty());
        (self.writer.standing(found, at..=at + in_flight), lost)
    }

    /// The same of what a crash left, from where the writer goes on. Gives how many acknowledged steps are lost; each was one of those that may be.
    pub fn settle(&mut self, found: &Found, lsn: Lsn, before: Before) -> usize {
        let (at, lost) = self.check(found, lsn);
        let may_be_lost = |ack: &Ack| before == Before::PowerCut && ack.durability == Durability::Interval;
        assert!(lost.iter().all(may_be_lost), "of writer {} these are lost at LSN {lsn}: {lost:?}", self.writer.number);
        let count = lost.len();
        *self = Self { begun_at: at, ..Self::new(self.writer) };
        count
    }
}
