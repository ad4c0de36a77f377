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
