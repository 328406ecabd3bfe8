//! Bytes that decide what is done, so that a fuzzer and a seed drive the same code.

pub(super) struct Draw<'a>(&'a [u8]);

impl<'a> Draw<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_done(&self) -> bool {
        self.0.is_empty()
    }

    /// Once the bytes are used up, zeros.
    pub(super) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    pub(super) fn word(&mut self) -> u64 {
        u64::from(self.byte()) << 8 | u64::from(self.byte())
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        let number = if bound > 256 {
            self.word()
        } else {
            u64::from(self.byte())
        };
        number % bound.max(1)
    }

    pub(super) fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == bound - 1
    }

    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }
}
