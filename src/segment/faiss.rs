//! All that is called of FAISS. The only file with FFI.
#![expect(unsafe_code, reason = "FAISS is C++: its kernels are reached through a C function of our own shim")]

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

// Links the FAISS that `faiss-sys` built; its own bindings are not called yet.
use faiss_sys as _;

unsafe extern "C" {
    /// See `faiss_shim.cpp`.
    fn faiss_proxy_distances(
        inner_product: i32,
        query: *const f32,
        rows: *const f32,
        dimension: usize,
        count: usize,
        out: *mut f32,
    );
}

/// Which of FAISS's kernels compares two vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// Squared Euclidean distance.
    L2,
    InnerProduct,
}

/// Vectors one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Floats<'a> {
    /// Of a file that never changes.
    Mapped(&'a [f32]),
    /// The bits of floats, in memory that a writer is adding to *behind* these.
    Growing(&'a [AtomicU32]),
}

impl<'a> Floats<'a> {
    fn len(&self) -> usize {
        match self {
            Self::Mapped(floats) => floats.len(),
            Self::Growing(words) => words.len(),
        }
    }

    /// Multiplies each of `out` by its float here.
    pub(crate) fn multiply_into(self, out: &mut [f32]) {
        match self {
            Self::Mapped(floats) => out.iter_mut().zip(floats).for_each(|(x, float)| *x *= float),
            Self::Growing(words) => {
                out.iter_mut().zip(words).for_each(|(x, word)| *x *= f32::from_bits(word.load(Relaxed)));
            }
        }
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = f32> + 'a {
        let (mapped, growing): (&[f32], &[AtomicU32]) = match self {
            Self::Mapped(floats) => (floats, &[]),
            Self::Growing(words) => (&[], words),
        };
        mapped.iter().copied().chain(growing.iter().map(|word| f32::from_bits(word.load(Relaxed))))
    }
}

/// Writes the distance between `query` and each of the `out.len()` vectors in `rows`.
///
/// # Panics
/// Where `rows` is not `out.len()` vectors of the query's dimension.
pub(crate) fn distances(kernel: Kernel, query: &[f32], rows: Floats<'_>, out: &mut [f32]) {
    assert_eq!(rows.len(), query.len() * out.len(), "rows are whole vectors of the query's dimension");
    let first: *const f32 = match rows {
        Floats::Mapped(floats) => floats.as_ptr(),
        Floats::Growing(words) => words.as_ptr().cast(),
    };
    // SAFETY: `query` and `out` are slices. `first` points to `rows.len()` floats, which were just seen to be what the kernel reads:
    // `count * dimension`. Any 32 bits are a float, and `AtomicU32` has the size of `f32` and at least its alignment. The kernel reads
    // growing memory without atomic loads: that is no data race, because the words of a row are written once, before the row is published
    // (`engine/apply.rs` stores the View with release order, and the caller has these rows from a View), and never again. The shim is
    // `noexcept` and keeps no pointer.
    unsafe {
        faiss_proxy_distances(
            i32::from(kernel == Kernel::InnerProduct),
            query.as_ptr(),
            first,
            query.len(),
            out.len(),
            out.as_mut_ptr(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_agree_with_the_formula_at_every_count_and_odd_dimensions() {
        for dimension in [1, 3, 7, 16, 33, 100] {
            for count in 0..9 {
                let rows: Vec<f32> = (0..dimension * count).map(|i| ((i * 37) % 19) as f32 - 9.0).collect();
                let query: Vec<f32> = (0..dimension).map(|i| ((i * 11) % 7) as f32 - 3.0).collect();
                let mut l2 = vec![0.0; count];
                let mut ip = vec![0.0; count];
                distances(Kernel::L2, &query, Floats::Mapped(&rows), &mut l2);
                let growing: Vec<AtomicU32> = rows.iter().map(|x| AtomicU32::new(x.to_bits())).collect();
                distances(Kernel::InnerProduct, &query, Floats::Growing(&growing), &mut ip);
                for (i, row) in rows.chunks(dimension).enumerate() {
                    // Small integers: exact in f32 in any order of adding.
                    assert_eq!(l2[i], query.iter().zip(row).map(|(a, b)| (a - b) * (a - b)).sum::<f32>());
                    assert_eq!(ip[i], query.iter().zip(row).map(|(a, b)| a * b).sum::<f32>());
                }
            }
        }
    }
}
