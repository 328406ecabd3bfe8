//! CRC-32/IEEE of short and long inputs.
//!
//! `crc32fast` folds with carry-less multiplication from 128 bytes on; what is shorter, and what is
//! left over at the end of a long input, it takes byte by byte. The frame of a small command is
//! just that, so here it goes sixteen, eight and four bytes at a time by tables (Sarwate's method
//! in slices: Kounavis and Berry, 2005).

/// From this many bytes on, folding is the faster way.
const FOLDS: usize = 128;
const POLYNOMIAL: u32 = 0xedb8_8320;

/// `TABLES[n][b]`: what byte `b` does to the checksum with `n` bytes after it.
static TABLES: [[u32; 256]; 16] = tables();

const fn tables() -> [[u32; 256]; 16] {
    let mut tables = [[0; 256]; 16];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg());
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut nth = 1;
    while nth < 16 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[nth - 1][byte];
            tables[nth][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        nth += 1;
    }
    tables
}

/// The checksum of `bytes`.
#[inline]
pub(crate) fn hash(bytes: &[u8]) -> u32 {
    extend(0, bytes)
}

/// The checksum of what has checksum `crc`, followed by `bytes`.
#[inline]
pub(crate) fn extend(crc: u32, bytes: &[u8]) -> u32 {
    if bytes.len() < FOLDS {
        return in_slices(crc, bytes);
    }
    let (folded, rest) = bytes.split_at(bytes.len() & !15);
    let mut hasher = crc32fast::Hasher::new_with_initial(crc);
    hasher.update(folded);
    in_slices(hasher.finalize(), rest)
}

#[inline]
fn in_slices(crc: u32, bytes: &[u8]) -> u32 {
    let mut crc = !crc;
    let (sixteens, rest) = bytes.as_chunks::<16>();
    for slice in sixteens {
        crc = step(crc, slice);
    }
    let (eights, rest) = rest.as_chunks::<8>();
    for slice in eights {
        crc = step(crc, slice);
    }
    let (fours, rest) = rest.as_chunks::<4>();
    for slice in fours {
        crc = step(crc, slice);
    }
    for byte in rest {
        crc = (crc >> 8) ^ TABLES[0][usize::from(crc as u8 ^ byte)];
    }
    !crc
}

/// Takes a slice of 4, 8 or 16 bytes at once.
#[inline(always)]
fn step<const N: usize>(crc: u32, slice: &[u8; N]) -> u32 {
    let before = crc.to_le_bytes();
    let mut after = 0;
    for (nth, byte) in slice.iter().enumerate() {
        let byte = byte ^ before.get(nth).copied().unwrap_or(0);
        after ^= TABLES[N - 1 - nth][usize::from(byte)];
    }
    after
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_catalogue() {
        assert_eq!(hash(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn the_same_as_the_library_at_every_length_and_cut() {
        let bytes: Vec<u8> = (0..400u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        for len in 0..bytes.len() {
            let wanted = crc32fast::hash(&bytes[..len]);
            assert_eq!(hash(&bytes[..len]), wanted, "{len} bytes");
            for cut in [0, 1, 4, 28, 127, 128, 200].map(|cut: usize| cut.min(len)) {
                let (head, tail) = bytes[..len].split_at(cut);
                assert_eq!(extend(hash(head), tail), wanted, "{len} bytes cut at {cut}");
            }
        }
    }
}
