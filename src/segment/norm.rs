//! Sums in f64, always in the same order, so that they are the same on every machine.

use crate::types::Metric;

/// f32 kernels bear squared norms up to here: a squared distance is then under 2^126, a product under 2^124, and f32 ends at 2^128.
const SQUARED_NORM_MAX: f64 = (1_u128 << 124) as f64;

/// Under this, the products of a vector with a unit one lose bits to the bottom of f32, and its inverse norm nears the top.
const COSINE_SQUARED_NORM_MIN: f64 = 1.0 / (1_u128 << 120) as f64;

const LANES: usize = 8;

fn sum(a: &[f32], b: &[f32], term: impl Fn(f64, f64) -> f64) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += term(f64::from(a[lane]), f64::from(b[lane]));
        }
    }
    for (lane, (&a, &b)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[lane] += term(f64::from(a), f64::from(b));
    }
    lanes.iter().sum()
}

/// The squared norm in f32, which overflows to infinity: a bound for what need not be looked at closer, in a quarter of the time.
fn squared_norm_f32(vector: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (chunks, rest) = vector.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] += chunk[lane] * chunk[lane];
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|x| x * x).sum::<f32>()
}

pub(crate) fn inner_product(a: &[f32], b: &[f32]) -> f64 {
    sum(a, b, |a, b| a * b)
}

/// Infinite or not a number exactly where a component is: the squares of all f32 fit into f64.
pub(crate) fn squared_norm(vector: &[f32]) -> f64 {
    inner_product(vector, vector)
}

/// L2: the squared distance; inner product: the product; cosine: the cosine, 0 where a vector has none.
pub(crate) fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    match metric {
        Metric::L2 => sum(a, b, |a, b| (a - b) * (a - b)),
        Metric::InnerProduct => inner_product(a, b),
        Metric::Cosine => {
            let norms = squared_norm(a).sqrt() * squared_norm(b).sqrt();
            if norms > 0.0 { (inner_product(a, b) / norms).clamp(-1.0, 1.0) } else { 0.0 }
        }
    }
}

/// Whether a vector of this squared norm is beyond the f32 kernels, and is scored in f64.
pub(crate) fn is_extreme(metric: Metric, squared_norm: f64) -> bool {
    squared_norm > SQUARED_NORM_MAX || (metric == Metric::Cosine && squared_norm < COSINE_SQUARED_NORM_MIN)
}

/// What is kept of a vector beside its values: its scale (1 where the metric has no use for it), and whether it is extreme.
pub(crate) fn summary(metric: Metric, vector: &[f32]) -> (f32, bool) {
    // Far enough below the border that rounding does not matter.
    if metric != Metric::Cosine && squared_norm_f32(vector) < (SQUARED_NORM_MAX / 4.0) as f32 {
        return (1.0, false);
    }
    let squared_norm = squared_norm(vector);
    (scale(squared_norm), is_extreme(metric, squared_norm))
}

/// What a product with a unit vector is multiplied by to become a cosine.
fn scale(squared_norm: f64) -> f32 {
    (1.0 / squared_norm.sqrt()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squared_norm_is_finite_for_every_finite_vector_and_only_those() {
        assert!(squared_norm(&vec![f32::MAX; 65_536]).is_finite());
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for length in [1, 8, 11] {
                let mut vector = vec![1.0; length];
                vector[length - 1] = odd;
                assert!(!squared_norm(&vector).is_finite());
            }
        }
    }

    #[test]
    fn summary_finds_exactly_the_extreme() {
        for magnitude in [0.0, 1e-30, 1.0, 1e18, 2e18, 4e18, 5e18, 1e19, f32::MAX] {
            for length in [1, 7, 64] {
                let vector = vec![magnitude; length];
                for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
                    let (_, extreme) = summary(metric, &vector);
                    assert_eq!(extreme, is_extreme(metric, squared_norm(&vector)), "{magnitude} x {length} {metric:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_extreme_fits_the_f32_kernels() {
        let largest = (SQUARED_NORM_MAX.sqrt()) as f32;
        assert!(!is_extreme(Metric::L2, squared_norm(&[largest])));
        let apart = largest - -largest;
        assert!((apart * apart).is_finite() && (largest * largest).is_finite());
        assert!(is_extreme(Metric::L2, squared_norm(&[largest * 1.01])));
        assert!(is_extreme(Metric::Cosine, squared_norm(&[1e-20])));
        assert!(!is_extreme(Metric::InnerProduct, squared_norm(&[1e-20])));
        assert!(scale(COSINE_SQUARED_NORM_MIN).is_finite());
    }
}
