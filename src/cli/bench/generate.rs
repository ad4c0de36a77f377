//! Vectors that are made, the same for the same seed on every machine.

use std::f64::consts::TAU;

/// Centres that the points stand around.
const CENTRES: usize = 256;

/// Directions in which points differ: of real embeddings, the intrinsic dimension is some tens, whatever their length.
const DIRECTIONS: usize = 24;

/// Of a point: what its centre gives, what is its own, and noise in every dimension.
const CENTRE: f32 = 0.6;
const OWN: f32 = 0.8;
const NOISE: f32 = 0.05;

/// SplitMix64: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
#[derive(Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// At least 0, less than 1.
    pub fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Normally distributed numbers: Box and Muller, 1958.
    fn gaussians(&mut self, out: &mut [f32]) {
        for pair in out.chunks_mut(2) {
            let radius = (-2.0 * (1.0 - self.share()).ln()).sqrt();
            let (sine, cosine) = (TAU * self.share()).sin_cos();
            for (x, part) in pair.iter_mut().zip([cosine, sine]) {
                *x = (radius * part) as f32;
            }
        }
    }
}

/// Makes points around [`CENTRES`] centres. A point is normally distributed around its centre in a space of [`DIRECTIONS`] dimensions, or `dimension` where that is
/// less, which lies askew in that of the vectors; and has a little noise in all of theirs.
#[derive(Debug)]
pub struct Clusters {
    random: Random,
    dimension: usize,
    directions: usize,
    /// `directions` floats each.
    centres: Vec<f32>,
    /// For each of `dimension`, `directions` floats.
    space: Vec<f32>,
}

impl Clusters {
    pub fn new(dimension: usize, seed: u64) -> Self {
        let (mut random, directions) = (Random::new(seed), DIRECTIONS.min(dimension));
        let mut gaussians = |count| {
            let mut floats = vec![0.0; count];
            random.gaussians(&mut floats);
            floats
        };
        let (centres, space) = (gaussians(CENTRES * directions), gaussians(dimension * directions));
        Self { random, dimension, directions, centres, space }
    }

    /// Appends a point.
    pub fn push_to(&mut self, points: &mut Vec<f32>) {
        let centre = (self.random.share() * CENTRES as f64) as usize;
        let mut place = vec![0.0; self.directions];
        self.random.gaussians(&mut place);
        let centre = &self.centres[centre * self.directions..][..self.directions];
        place.iter_mut().zip(centre).for_each(|(own, centre)| *own = CENTRE * centre + OWN * *own);
        let mut noise = vec![0.0; self.dimension];
        self.random.gaussians(&mut noise);
        // So that the length of a vector does not depend on how many directions there are.
        let scale = 1.0 / (self.directions as f32).sqrt();
        points.extend(self.space.chunks_exact(self.directions).zip(noise).map(|(direction, noise)| {
            let product: f32 = direction.iter().zip(&place).map(|(a, b)| a * b).sum();
            product * scale + NOISE * noise
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(count: usize, dimension: usize, seed: u64) -> Vec<f32> {
        let (mut clusters, mut points) = (Clusters::new(dimension, seed), Vec::new());
        (0..count).for_each(|_| clusters.push_to(&mut points));
        points
    }

    #[test]
    fn a_seed_gives_its_points_and_another_gives_others() {
        assert_eq!(points(50, 7, 1), points(50, 7, 1));
        assert_ne!(points(50, 7, 1), points(50, 7, 2));
        for dimension in [1, 2, 100] {
            assert_eq!(points(3, dimension, 1).len(), 3 * dimension);
        }
    }

    #[test]
    fn gaussians_have_mean_0_and_variance_1() {
        let mut floats = vec![0.0; 100_001];
        Random::new(7).gaussians(&mut floats);
        let mean = floats.iter().sum::<f32>() / floats.len() as f32;
        let variance = floats.iter().map(|x| x * x).sum::<f32>() / floats.len() as f32;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }

    #[test]
    fn a_point_has_near_neighbours_which_uniform_noise_has_not() {
        let dimension = 100;
        let points = points(2_000, dimension, 3);
        let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        let (first, others) = points.split_at(dimension);
        let mut distances: Vec<f32> = others.chunks(dimension).map(|other| distance(first, other)).collect();
        distances.sort_by(f32::total_cmp);
        assert!(distances[9] < distances[1_000] / 2.0, "{} {}", distances[9], distances[1_000]);
    }
}
