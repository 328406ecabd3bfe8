//! Bytes that no compressor makes smaller.

/// The same ones for the same seed.
pub(crate) fn noise(mut seed: u32, len: usize) -> Vec<u8> {
    let bytes = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    });
    bytes.take(len).collect()
}
