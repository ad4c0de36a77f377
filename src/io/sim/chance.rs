//! Pseudo-random numbers that are the same on every machine, so that a seed in a failure message brings the failure back.

/// SplitMix64: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014; constants as in
/// <https://prng.di.unimi.it/splitmix64.c>.
#[derive(Clone, Debug)]
pub(in crate::io) struct Chance {
    state: u64,
}

impl Chance {
    pub(in crate::io) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Another sequence for each `part`, whatever the order in which parts are asked for.
    pub(in crate::io) fn of_part(seed: u64, part: u64) -> Self {
        Self::new(seed ^ Self::new(part).next())
    }

    pub(in crate::io) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `count - 1`. The bias of the remainder does not matter at our counts.
    pub(in crate::io) fn below(&mut self, count: usize) -> usize {
        (self.next() % count as u64) as usize
    }

    /// True in `quarters` of 4 cases.
    pub(in crate::io) fn in_quarters(&mut self, quarters: usize) -> bool {
        self.below(4) < quarters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_published_generator() {
        let mut chance = Chance::new(1_234_567);
        let found = [chance.next(), chance.next(), chance.next()];
        assert_eq!(found, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }
}
