//! What is stored and what is asked for: rows and queries of a file or made, and the metadata that filters look at.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::super::Failure;
use super::super::import::open_by_name;
use super::super::import::source::{Fault, Source};
use super::generate::{Clusters, Random};
use crate::config::Limits;
use crate::engine::Batch;
use crate::types::Metric;

/// Rows, whose ids are their numbers from 0, and queries that are none of them.
#[derive(Debug)]
pub struct Data {
    pub dimension: usize,
    pub metric: Metric,
    /// `dimension` floats each.
    pub rows: Vec<f32>,
    pub queries: Vec<f32>,
    /// Shares of the rows that filters ask for, and whether each row has what the filter wants.
    pub fields: Vec<(f64, Vec<bool>)>,
    limits: Arc<Limits>,
}

/// Where vectors come from.
#[derive(Debug)]
pub enum Origin<'a> {
    /// So many rows of a file at most.
    File(&'a Path, usize),
    /// So many rows of a dimension.
    Generated(usize, usize),
}

impl Data {
    /// Takes `queries` vectors, drawn by `seed`, out of all that there are.
    ///
    /// # Errors
    /// Naming the file, and the row that cannot be stored; and where there are not more vectors than queries.
    pub fn new(origin: &Origin<'_>, queries: usize, metric: Metric, seed: u64, limits: Limits) -> Result<Self, Failure> {
        let limits = Arc::new(limits);
        let (mut all, dimension) = match *origin {
            Origin::File(path, rows) => read(path, rows.saturating_add(queries), metric, &limits)?,
            Origin::Generated(rows, dimension) => {
                let (mut clusters, mut all) = (Clusters::new(dimension, seed), Vec::new());
                (0..rows + queries).for_each(|_| clusters.push_to(&mut all));
                (all, dimension)
            }
        };
        let count = all.len() / dimension;
        if count <= queries {
            return Err(Failure::new(format!("--queries {queries}: there are {count} vectors, and none is left to be searched")));
        }
        let queries = hold_out(&mut all, dimension, queries, seed);
        Ok(Self { dimension, metric, rows: all, queries, fields: Vec::new(), limits })
    }

    /// Draws for each row whether a filter of this share matches it: independently of its vector.
    pub fn add_fields(&mut self, shares: &[f64], seed: u64) {
        let (mut random, rows) = (Random::new(!seed), self.row_count());
        let mut drawn = |share: f64| (share, (0..rows).map(|_| random.share() < share).collect());
        self.fields = shares.iter().map(|&share| drawn(share)).collect();
    }

    pub fn row_count(&self) -> usize {
        self.rows.len() / self.dimension
    }

    pub fn query_vectors(&self) -> impl Iterator<Item = &[f32]> {
        self.queries.chunks_exact(self.dimension)
    }

    /// Some rows as points. Those beyond the last are the first again, under ids of their own.
    pub fn batch(&self, numbers: Range<usize>) -> Batch {
        let mut batch = Batch::new(Arc::clone(&self.limits), self.dimension, self.metric);
        batch.reserve(numbers.len());
        for number in numbers {
            let row = number % self.row_count();
            let vector = &self.rows[row * self.dimension..][..self.dimension];
            batch.push(&number.to_string(), vector, &self.metadata(row)).expect("seen to be valid when it was read");
        }
        batch
    }

    fn metadata(&self, row: usize) -> String {
        let fields = self.fields.iter().enumerate();
        let fields: Vec<String> = fields.map(|(at, (_, has))| format!("\"f{at}\":{}", has[row])).collect();
        format!("{{{}}}", fields.join(","))
    }

    /// The filter that the rows of a field match.
    pub fn filter(field: usize) -> String {
        format!("{{\"f{field}\":true}}")
    }
}

fn read(path: &Path, most: usize, metric: Metric, limits: &Arc<Limits>) -> Result<(Vec<f32>, usize), Failure> {
    let mut source = open_by_name(path)?;
    let dimension = source.dimension();
    let (mut all, mut values) = (Vec::new(), Vec::new());
    while all.len() < most.saturating_mul(dimension) && next(&mut *source, &mut values)? {
        let mut batch = Batch::new(Arc::clone(limits), dimension, metric);
        batch.push("0", &values, "{}").map_err(|error| Failure::new(format!("{}: {error}", source.place())))?;
        all.extend_from_slice(&values);
    }
    Ok((all, dimension))
}

fn next(source: &mut dyn Source, values: &mut Vec<f32>) -> Result<bool, Failure> {
    match source.next(values) {
        Ok(row) => Ok(row.is_some()),
        Err(Fault::Row(why) | Fault::File(why)) => Err(Failure::new(format!("{}: {why}", source.place()))),
    }
}

/// Takes so many vectors out, each set of them as likely as any other; the rest stay in their order. Knuth, The Art of Computer Programming, volume 2,
/// algorithm S.
fn hold_out(all: &mut Vec<f32>, dimension: usize, mut wanted: usize, seed: u64) -> Vec<f32> {
    let (mut random, mut left) = (Random::new(seed.rotate_left(32)), all.len() / dimension);
    let (mut rows, mut taken) = (Vec::with_capacity((left - wanted) * dimension), Vec::with_capacity(wanted * dimension));
    for vector in all.chunks_exact(dimension) {
        if random.share() * (left as f64) < wanted as f64 {
            taken.extend_from_slice(vector);
            wanted -= 1;
        } else {
            rows.extend_from_slice(vector);
        }
        left -= 1;
    }
    *all = rows;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_out_is_not_among_the_rows_and_nothing_is_lost() {
        for (count, wanted) in [(100, 1), (100, 37), (100, 99)] {
            let all: Vec<f32> = (0..count * 2).map(|n| n as f32).collect();
            let mut rows = all.clone();
            let taken = hold_out(&mut rows, 2, wanted, 5);
            assert_eq!(taken.len(), wanted * 2);
            assert!(rows.is_sorted() && taken.is_sorted(), "in their order");
            let mut both = [rows, taken].concat();
            both.sort_by(f32::total_cmp);
            assert_eq!(both, all);
        }
    }

    #[test]
    fn a_share_of_the_rows_has_a_field_and_its_metadata_says_so() {
        let mut data = Data::new(&Origin::Generated(10_000, 2), 10, Metric::L2, 1, Limits::default()).unwrap();
        assert_eq!((data.row_count(), data.query_vectors().count()), (10_000, 10));
        data.add_fields(&[0.5, 0.01, 1.0], 1);
        let counts: Vec<usize> = data.fields.iter().map(|(_, has)| has.iter().filter(|has| **has).count()).collect();
        assert!(counts[0].abs_diff(5_000) < 250 && counts[1].abs_diff(100) < 50 && counts[2] == 10_000, "{counts:?}");
        let row = data.fields[1].1.iter().position(|has| *has).unwrap();
        assert!(data.metadata(row).contains("\"f1\":true") && data.metadata(row).contains("\"f2\":true"));
        assert_eq!(Data::filter(1), r#"{"f1":true}"#);
    }

    #[test]
    fn more_points_than_rows_have_ids_of_their_own() {
        let data = Data::new(&Origin::Generated(3, 2), 1, Metric::L2, 1, Limits::default()).unwrap();
        let batch = data.batch(2..5);
        let ids: Vec<&str> = batch.points().map(|(id, ..)| id).collect();
        assert_eq!(ids, ["2", "3", "4"]);
        let vectors: Vec<&[f32]> = batch.points().map(|(.., vector)| vector).collect();
        assert_eq!(vectors[1], &data.rows[..2]);
    }
}
