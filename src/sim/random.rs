//! Randomness by name: every component draws from a stream of its own, so that one more or one
//! fewer draw in one place shifts nothing elsewhere.

/// A small generator (SplitMix64). The same seed and name give the same numbers for ever.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of component `name`, number `number`, of the run with this seed.
    pub fn named(seed: u64, name: &str, number: u64) -> Self {
        let start = seed ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93);
        let mut stream = Self(name.bytes().fold(start, |state, byte| {
            (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        }));
        stream.0 = stream.next();
        stream
    }

    /// The next 64 bits.
    #[allow(clippy::should_implement_trait)] // an endless stream is no iterator to adapt
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// A number of `range`, its end not included.
    pub fn within(&mut self, range: &std::ops::Range<u64>) -> u64 {
        range.start + self.below(range.end.saturating_sub(range.start))
    }

    /// True `per_mille` times in a thousand. Draws only if it can be true.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        per_mille > 0 && self.below(1000) < per_mille
    }

    /// One of `items`.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        let nth = self.below(items.len() as u64) as usize;
        items.get(nth).copied()
    }
}
