//! Rows for several queries at once.
//!
//! A matrix kernel gives the products of a block of rows and many queries in a fraction of the time of as many single distances, and rounds in another
//! way. So it only tells which rows *may* be near enough, by a bound of what it can be wrong by; their distances are then computed as for one query.
//! An answer does not depend on how many queries were asked together.

use std::ops::Range;

use super::nearest::BLOCK_ROWS;
use crate::engine::view::Segment;
use crate::segment::{faiss, norm};
use crate::types::Metric;

/// Half of the distance from 1 to the next f32: the relative error of one operation.
const UNIT: f64 = 1.0 / (1 << 24) as f64;

/// Products of some queries and a block of rows.
pub(super) struct Sieve<'a> {
    metric: Metric,
    segment: &'a Segment,
    dimension: usize,
    /// As the f32 kernels get them, one after the other; and the squared norm of each.
    queries: Vec<f32>,
    squared_norms: Vec<f64>,
    /// What is looked at.
    block: Range<usize>,
    /// Of each query with each row of the block.
    products: Vec<f32>,
    /// What a row's product is multiplied by, and what is added then, to become a key: smaller is nearer. With L2, less the query's squared norm,
    /// which is the same for all rows.
    factors: [f32; BLOCK_ROWS],
    terms: [f32; BLOCK_ROWS],
    /// The largest squared norm of a row of the block.
    rows_squared_norm: f64,
}

impl<'a> Sieve<'a> {
    pub(super) fn new<'q>(metric: Metric, segment: &'a Segment, queries: impl Iterator<Item = &'q [f32]>) -> Self {
        let (mut all, mut squared_norms, mut dimension) = (Vec::new(), Vec::new(), 0);
        for query in queries {
            dimension = query.len();
            all.extend_from_slice(query);
            squared_norms.push(norm::squared_norm(query));
        }
        let products = vec![0.0; BLOCK_ROWS * squared_norms.len()];
        Self {
            metric,
            segment,
            dimension,
            queries: all,
            squared_norms,
            block: 0..0,
            products,
            factors: [if metric == Metric::L2 { -2.0 } else { -1.0 }; BLOCK_ROWS],
            terms: [0.0; BLOCK_ROWS],
            rows_squared_norm: 0.0,
        }
    }

    /// Goes on to these rows, at most [`BLOCK_ROWS`].
    pub(super) fn fill(&mut self, block: Range<usize>) {
        let (count, rows) = (block.len(), &self.segment.rows);
        let mut squared_norms = [0.0; BLOCK_ROWS];
        let squared_norms = &mut squared_norms[..count];
        // Of rows that are scaled nobody asks.
        let wanted = (self.metric != Metric::Cosine).then_some(&mut *squared_norms);
        let products = &mut self.products[..count * self.squared_norms.len()];
        faiss::products(self.dimension, &self.queries, rows.floats(block.clone()), products, wanted);
        // That of an extreme row can be infinite; nobody asks how near such a row is.
        let finite = squared_norms.iter().copied().filter(|squared_norm| squared_norm.is_finite());
        self.rows_squared_norm = finite.fold(0.0, f32::max).into();
        match self.metric {
            Metric::L2 => self.terms[..count].copy_from_slice(squared_norms),
            Metric::InnerProduct => {}
            Metric::Cosine => {
                self.factors[..count].fill(-1.0);
                rows.scales(block.clone()).multiply_into(&mut self.factors[..count]);
            }
        }
        self.block = block;
    }

    /// Calls `look` for each row of the block whose key for the query may be `bound` or less. `look` gives the bound for the rows that follow.
    pub(super) fn near(&self, query: usize, bound: f32, mut look: impl FnMut(usize) -> f32) {
        let slack = self.slack(query);
        // Rounded up.
        let limit = |bound: f32| ((f64::from(bound) + slack) as f32).next_up();
        let mut nearest = limit(bound);
        let count = self.block.len();
        let products = &self.products[query * count..][..count];
        let (factors, terms) = (&self.factors[..count], &self.terms[..count]);
        let mut places = [0; BLOCK_ROWS];
        // Few rows are near enough to be looked at one by one.
        let found = faiss::below(products, factors, terms, nearest, &mut places[..count]);
        for &place in &places[..found] {
            let place = place as usize;
            if products[place] * factors[place] + terms[place] <= nearest {
                nearest = limit(look(self.block.start + place));
            }
        }
    }

    /// What a row's key here can be more than what the kernel for one query makes of it: by how far both can be from the truth. With L2, less the
    /// query's squared norm, which the keys here do not have in them.
    ///
    /// A sum of `n` products `a·b` in f32, in any order, is within `γ·Σ|a·b|`, `γ = n·u / (1 - n·u)`, of the true one (Higham, Accuracy and Stability of
    /// Numerical Algorithms, §3.1), and `Σ|a·b|` is at most the product of the norms. So is the squared distance within `γ` of itself, which is at
    /// most twice the sum of the squared norms. The factors leave a third to spare, for the roundings of the few operations after the sums.
    fn slack(&self, query: usize) -> f64 {
        let terms = (self.dimension + 4) as f64 * UNIT;
        let gamma = terms / (1.0 - terms);
        let squared_norm = self.squared_norms[query];
        let slack = match self.metric {
            // The distance: 4. The row's norm: 1. Twice the product: 1 of either squared norm.
            Metric::L2 => 8.0 * gamma * (squared_norm + self.rows_squared_norm),
            Metric::InnerProduct => 3.0 * gamma * (squared_norm * self.rows_squared_norm).sqrt(),
            // Rows are scaled to the length 1.
            Metric::Cosine => 3.0 * gamma * squared_norm.sqrt(),
        };
        // Products that are too small for f32 lose more than their share.
        let slack = slack + f64::from(f32::MIN_POSITIVE);
        if self.metric == Metric::L2 { slack - squared_norm } else { slack }
    }
}
