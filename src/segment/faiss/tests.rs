use super::*;
use crate::segment::positions::Positions;

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
            let positions: Vec<usize> = (0..count).rev().collect();
            let mut backwards = vec![0.0; count];
            distances_of(Kernel::L2, &query, Floats::Mapped(&rows), &positions, &mut backwards);
            backwards.reverse();
            assert_eq!(backwards, l2);
            for (i, row) in rows.chunks(dimension).enumerate() {
                // Small integers: exact in f32 in any order of adding.
                assert_eq!(l2[i], query.iter().zip(row).map(|(a, b)| (a - b) * (a - b)).sum::<f32>());
                assert_eq!(ip[i], query.iter().zip(row).map(|(a, b)| a * b).sum::<f32>());
            }
        }
    }
}

#[test]
fn a_graph_is_searched_as_faiss_searches_it() {
    let (dimension, count, k) = (20, 3_000, 10);
    let mut state = 5_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let rows: Vec<f32> = (0..(count + 40) * dimension).map(|_| next()).collect();
    let (rows, queries) = rows.split_at(count * dimension);
    let stop = AtomicBool::new(false);
    for (factory, is_product) in [("HNSW8", false), ("HNSW8", true), ("HNSW4", true), ("L2norm,HNSW8,Flat", false)] {
        let mut index = Index::new(factory, dimension, is_product).unwrap();
        index.prepare(60, false, None).unwrap();
        index.add(rows, &stop).unwrap();
        let few: Positions = (0..count).filter(|row| row % 7 == 0).collect();
        let most: Positions = (0..count).filter(|row| row % 50 != 0).collect();
        for (ef, hidden) in [(10, None), (30, None), (30, Some(&few)), (200, Some(&most)), (10_000, Some(&few))] {
            let pages: Vec<Option<&Page>> = hidden.map_or(Vec::new(), |hidden| hidden.pages().collect());
            index.set_defaults(ef, 1);
            let search = |kind| {
                let (mut distances, mut labels) = (vec![0.0; 40 * k], vec![0; 40 * k]);
                index.search(kind, queries, k, &pages, &mut distances, &mut labels).unwrap();
                (labels, distances)
            };
            let (ours, of_faiss) = (search(SearchKind::Hnsw { ef }), search(SearchKind::Selected));
            let is_there = |label: &&i64| **label >= 0;
            assert!(of_faiss.0.iter().filter(is_there).count() > 10 * k, "{factory} {ef}");
            assert_eq!(ours.0, of_faiss.0, "{factory} {ef}");
            for (at, label) in ours.0.iter().enumerate() {
                assert!(*label < 0 || ours.1[at] == of_faiss.1[at], "{factory} {ef}");
                assert!(*label < 0 || hidden.is_none_or(|hidden| !hidden.contains(*label as usize)));
            }
        }
    }
}

#[test]
fn places_below_a_bound_are_found_at_every_count_and_what_is_no_number_is_not() {
    for count in 0..40 {
        let products: Vec<f32> = (0..count).map(|i| if i % 11 == 3 { f32::NAN } else { ((i * 37) % 19) as f32 }).collect();
        let (factors, terms) = (vec![-2.0; count], (0..count).map(|i| i as f32).collect::<Vec<_>>());
        for bound in [f32::NEG_INFINITY, -10.0, f32::INFINITY] {
            let mut places = vec![0; count];
            let found = below(&products, &factors, &terms, bound, &mut places);
            let expected = (0..count).filter(|&i| products[i] * factors[i] + terms[i] <= bound);
            assert_eq!(places[..found], expected.map(|i| i as u32).collect::<Vec<_>>());
        }
    }
}
