//! What a client calls an index type.

use super::{assert_invalid, take};
use crate::segment::recipe::{Recipe, resolve};
use crate::types::{IndexOptions, Metric};

/// Tables up to this are made: FAISS is asked for what takes no more.
const ASKED_BYTES_MAX: u64 = 4 << 20;
const ASKED_DIMENSION_MAX: usize = 64;

/// Bytes of a refusal, which repeats the beginning of what was sent.
const REFUSAL_BYTES_MAX: usize = 2 << 10;

/// An index type at a dimension. `input`: metric (u8), dimension less 1 (u16), the text.
///
/// It is refused as invalid, in few words, whatever its length; or what is written of it is read as the same, no estimate of it overflows,
/// and where that is small FAISS makes it, or refuses it by a reason.
pub fn index_type(mut input: &[u8]) {
    let metric = take(&mut input, 1).first().copied().unwrap_or(0);
    let metric = [Metric::L2, Metric::InnerProduct, Metric::Cosine][usize::from(metric) % 3];
    let dimension = take(&mut input, 2).iter().rev().fold(0, |dimension, &byte| dimension << 8 | usize::from(byte)) + 1;
    let Ok(text) = std::str::from_utf8(input) else { return };

    let recipe = match Recipe::read(text, metric, dimension) {
        Ok(recipe) => recipe,
        Err(error) => {
            assert_invalid(&error);
            assert!(error.to_string().len() <= REFUSAL_BYTES_MAX, "{} bytes", error.to_string().len());
            // A class name is no factory string. What they stand for is small where the dimension is.
            if text.starts_with("Index") && dimension <= ASKED_DIMENSION_MAX {
                resolves(text, metric, dimension);
            }
            return;
        }
    };
    let again = Recipe::read(recipe.factory(), metric, dimension).expect("what is written of a type is one");
    assert_eq!(again, recipe);
    assert!(recipe.train_rows_min() <= recipe.train_rows_advised());
    let empty = recipe.bytes(0);
    assert!(empty <= recipe.bytes(1) && recipe.bytes(1) <= recipe.bytes(u64::MAX));
    let tuning = recipe.tuning(&IndexOptions::default());
    assert!(tuning.nprobe <= recipe.lists().unwrap_or(0) && tuning.overfetch > 0);
    if empty <= ASKED_BYTES_MAX && dimension <= ASKED_DIMENSION_MAX {
        resolves(text, metric, dimension);
    }
}

/// As it is when an index is created. Asks FAISS.
fn resolves(text: &str, metric: Metric, dimension: usize) {
    match resolve(text, Some(metric), dimension, &IndexOptions::default(), u64::MAX) {
        Ok(resolved) => {
            let recipe = Recipe::new(&resolved.factory, resolved.metric, dimension).expect("what a type resolved to is one");
            assert_eq!((recipe.factory(), recipe.metric()), (resolved.factory.as_str(), metric));
        }
        Err(error) => {
            assert_invalid(&error);
            assert!(error.to_string().len() <= REFUSAL_BYTES_MAX, "{} bytes", error.to_string().len());
        }
    }
}
