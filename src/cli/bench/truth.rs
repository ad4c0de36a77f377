//! Which rows are the nearest: found here by scanning all of them, so that what is measured does not judge itself.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::thread;

use super::data::Data;
use crate::segment::faiss::{Floats, Kernel, distances};
use crate::types::Metric;

/// What a hit may be farther than the last of the nearest rows, relatively: the kernel's sums for one row and for many differ by rounding.
const TOLERANCE: f32 = 1e-6;

/// The nearest rows of each query.
#[derive(Debug)]
pub struct Truth {
    /// For each query, how near its k-th nearest row is: every row that is as near is right. Of fewer than k, the last of them.
    nearness: Vec<f32>,
    /// Rows that a query can find, at most k.
    count: usize,
}

impl Truth {
    /// Of the rows for which `has` is true, where it is given.
    pub fn new(data: &Data, k: usize, has: Option<&[bool]>) -> Self {
        let count = k.min(has.map_or(data.row_count(), |has| has.iter().filter(|has| **has).count()));
        let norms = Norms::of(data);
        let queries: Vec<&[f32]> = data.query_vectors().collect();
        let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let nearness = thread::scope(|scope| {
            let parts = queries.chunks(queries.len().div_ceil(threads).max(1));
            let parts: Vec<_> = parts
                .map(|part| {
                    let norms = &norms;
                    scope.spawn(move || part.iter().map(|query| kth(data, norms, query, count, has)).collect::<Vec<f32>>())
                })
                .collect();
            parts.into_iter().flat_map(|part| part.join().expect("a scan does not panic")).collect()
        });
        Self { nearness, count }
    }

    /// Rows that a query can find, at most k.
    pub fn count(&self) -> usize {
        self.count
    }

    /// How many of the rows that were found for a query are among its nearest. One that was found twice counts once.
    pub fn right(&self, data: &Data, query: usize, found: &[String], has: Option<&[bool]>) -> usize {
        let vector = &data.queries[query * data.dimension..][..data.dimension];
        let rows: HashSet<usize> = found.iter().filter_map(|id| id.parse().ok()).filter(|row| *row < data.row_count()).collect();
        let is_right = |row: usize| {
            let of_row = &data.rows[row * data.dimension..][..data.dimension];
            let near = near(data.metric, vector, of_row, &mut [0.0]);
            let worst = self.nearness[query];
            has.is_none_or(|has| has[row]) && near >= worst - TOLERANCE * worst.abs()
        };
        rows.into_iter().filter(|&row| is_right(row)).count().min(self.count)
    }
}

/// For the cosine: one over the length of each row.
struct Norms(Vec<f32>);

impl Norms {
    fn of(data: &Data) -> Self {
        match data.metric {
            Metric::Cosine => Self(data.rows.chunks_exact(data.dimension).map(inverse_norm).collect()),
            Metric::L2 | Metric::InnerProduct => Self(Vec::new()),
        }
    }
}

fn inverse_norm(vector: &[f32]) -> f32 {
    1.0 / vector.iter().map(|x| x * x).sum::<f32>().sqrt()
}

/// How near the `count`-th nearest row is: higher is nearer.
fn kth(data: &Data, norms: &Norms, query: &[f32], count: usize, has: Option<&[bool]>) -> f32 {
    let mut nearness = vec![0.0; data.row_count()];
    scan(data.metric, query, &data.rows, &mut nearness);
    nearness.iter_mut().zip(&norms.0).for_each(|(near, norm)| *near *= norm);
    if let Some(has) = has {
        let mut has = has.iter();
        nearness.retain(|_| *has.next().expect("one for each row"));
    }
    match count.checked_sub(1) {
        None => f32::INFINITY,
        Some(last) => *nearness.select_nth_unstable_by(last, |a, b| b.total_cmp(a)).1,
    }
}

/// Of one row.
fn near(metric: Metric, query: &[f32], row: &[f32], out: &mut [f32; 1]) -> f32 {
    scan(metric, query, row, out);
    if metric == Metric::Cosine { out[0] * inverse_norm(row) } else { out[0] }
}

/// How near rows are, but for the length of the rows.
fn scan(metric: Metric, query: &[f32], rows: &[f32], out: &mut [f32]) {
    let kernel = if metric == Metric::L2 { Kernel::L2 } else { Kernel::InnerProduct };
    distances(kernel, query, Floats::Mapped(rows), out);
    if metric == Metric::L2 {
        out.iter_mut().for_each(|distance| *distance = -*distance);
    }
}

#[cfg(test)]
mod tests {
    use super::super::data::Origin;
    use super::*;
    use crate::config::Limits;

    /// By sorting all rows, in f64.
    fn nearest(data: &Data, query: &[f32], k: usize) -> Vec<String> {
        let sum = |pairs: &mut dyn Iterator<Item = f64>| pairs.sum::<f64>();
        let far = |row: &[f32]| {
            let (a, b) = (query.iter().map(|x| f64::from(*x)), row.iter().map(|x| f64::from(*x)));
            match data.metric {
                Metric::L2 => sum(&mut a.zip(b).map(|(a, b)| (a - b).powi(2))),
                Metric::InnerProduct => -sum(&mut a.zip(b).map(|(a, b)| a * b)),
                Metric::Cosine => -sum(&mut a.zip(b.clone()).map(|(a, b)| a * b)) / sum(&mut b.map(|b| b * b)).sqrt(),
            }
        };
        let rows = data.rows.chunks(data.dimension).map(far);
        let mut rows: Vec<(f64, usize)> = rows.enumerate().map(|(row, far)| (far, row)).collect();
        rows.sort_by(|a, b| a.0.total_cmp(&b.0));
        rows.iter().take(k).map(|(_, row)| row.to_string()).collect()
    }

    #[test]
    fn the_nearest_rows_are_right_and_all_others_are_wrong() {
        for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
            for dimension in [3, 4, 100] {
                let data = Data::new(&Origin::Generated(500, dimension), 20, metric, 1, Limits::default()).unwrap();
                let truth = Truth::new(&data, 10, None);
                for (number, query) in data.query_vectors().enumerate() {
                    let sorted = nearest(&data, query, 500);
                    assert_eq!(truth.right(&data, number, &sorted[..10], None), 10, "{metric:?} {dimension}");
                    assert_eq!(truth.right(&data, number, &sorted[10..], None), 0, "{metric:?} {dimension}");
                    let twice = [&sorted[..5], &sorted[..5], &["no row".to_owned(), "500".to_owned()]].concat();
                    assert_eq!(truth.right(&data, number, &twice, None), 5);
                }
            }
        }
    }

    #[test]
    fn of_rows_that_a_filter_leaves_out_none_is_right() {
        let data = Data::new(&Origin::Generated(100, 4), 5, Metric::L2, 1, Limits::default()).unwrap();
        let has: Vec<bool> = (0..100).map(|row| row % 25 == 0).collect();
        let truth = Truth::new(&data, 10, Some(&has));
        assert_eq!(truth.count(), 4);
        let all: Vec<String> = (0..100).map(|row: usize| row.to_string()).collect();
        for query in 0..5 {
            assert_eq!(truth.right(&data, query, &all, Some(&has)), 4);
            assert_eq!(truth.right(&data, query, &all[1..25], Some(&has)), 0);
        }
        let none = Truth::new(&data, 10, Some(&[false; 100]));
        assert_eq!((none.count(), none.right(&data, 0, &all, Some(&[false; 100]))), (0, 0));
    }

    #[test]
    fn of_rows_that_are_equally_near_any_is_right() {
        let mut data = Data::new(&Origin::Generated(100, 4), 1, Metric::L2, 1, Limits::default()).unwrap();
        let first = data.rows[..4].to_vec();
        data.rows = first.repeat(100);
        let truth = Truth::new(&data, 10, None);
        let last: Vec<String> = (90..100).map(|row: usize| row.to_string()).collect();
        assert_eq!(truth.right(&data, 0, &last, None), 10);
    }
}
