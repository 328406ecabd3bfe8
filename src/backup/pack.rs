//! Compression, and what bounds its undoing.
//!
//! gzip is written in Rust (flate2 over miniz_oxide). zstd is its authors' C library, whose build needs
//! what that of ring needs anyway: a C compiler.

use std::cell::Cell;
use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const BUFFER: usize = 256 << 10;
/// Memory that undoing zstd may take: 2^27 bytes, what `zstd --ultra -22` makes.
const ZSTD_WINDOW_LOG: u32 = 27;
const ZSTD_LEVEL: i32 = 3;
/// Up to here any ratio will do: a short text repeated is no attack.
const RATIO_FROM: u64 = 8 << 20;

/// Bounds of backups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupLimits {
    /// Bytes of a backup, compressed or not. Default 4 GiB.
    pub max_bytes: u64,
    /// How many times its size something may become when it is decompressed, once that is more than
    /// 8 MiB. Default 256.
    pub max_ratio: u64,
    /// At which rate backups are written, read and sent, all together, bytes a second. Default 64 MiB.
    pub bytes_per_second: u64,
    /// How long what came of an upload that broke off is kept, so that its caller can go on; zero: not at
    /// all. Four are kept at most, and `max_bytes` of all together. Default one hour.
    pub keep_uploads: Duration,
}

impl Default for BackupLimits {
    fn default() -> Self {
        Self {
            max_bytes: 4 << 30,
            max_ratio: 256,
            bytes_per_second: 64 << 20,
            keep_uploads: Duration::from_secs(60 * 60),
        }
    }
}

impl BackupLimits {
    /// # Errors
    /// If so many bytes, out of so many compressed ones, are too many.
    pub(super) fn allow(&self, out: u64, packed: u64) -> io::Result<()> {
        if out > self.max_bytes {
            let why = format!("it is larger than {} bytes", self.max_bytes);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        if out > RATIO_FROM && out > packed.saturating_mul(self.max_ratio) {
            let why = format!("it becomes more than {} times its size", self.max_ratio);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        Ok(())
    }
}

/// How the state in a backup is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// As by gzip.
    Gzip,
    /// As by zstd.
    Zstd,
}

/// A text that names no compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a compression is none, gzip or zstd")]
pub struct CompressionError;

impl FromStr for Compression {
    type Err = CompressionError;

    fn from_str(text: &str) -> Result<Self, CompressionError> {
        match text {
            "none" => Ok(Self::None),
            "gzip" => Ok(Self::Gzip),
            "zstd" => Ok(Self::Zstd),
            _ => Err(CompressionError),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// Writes all of `input` to `out`, compressed.
pub(super) fn compress(
    how: Compression,
    input: &mut dyn Read,
    out: &mut dyn Write,
) -> io::Result<()> {
    match how {
        Compression::None => io::copy(input, out).map(drop),
        Compression::Gzip => {
            let mut packer = GzEncoder::new(out, flate2::Compression::default());
            io::copy(input, &mut packer)?;
            packer.finish().map(drop)
        }
        Compression::Zstd => {
            let mut packer = zstd::Encoder::new(out, ZSTD_LEVEL)?;
            packer.include_checksum(true)?;
            io::copy(input, &mut packer)?;
            packer.finish().map(drop)
        }
    }
}

/// What `input` holds, decompressed, within the limits.
pub(super) fn decompress<'a>(
    how: Compression,
    input: impl Read + 'a,
    limits: BackupLimits,
) -> io::Result<Box<dyn Read + 'a>> {
    let taken = Rc::new(Cell::new(0));
    let counted = Counted {
        input,
        taken: Rc::clone(&taken),
    };
    let out: Box<dyn Read + 'a> = match how {
        Compression::None => Box::new(counted),
        Compression::Gzip => Box::new(MultiGzDecoder::new(counted)),
        Compression::Zstd => {
            let mut unpacker = zstd::Decoder::new(counted)?;
            unpacker.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(unpacker)
        }
    };
    Ok(Box::new(Capped {
        out,
        taken,
        given: 0,
        limits,
    }))
}

/// A file as it was before somebody compressed it whole, by what its first bytes say.
pub(super) fn unwrap<'a>(
    mut input: impl Read + 'a,
    limits: BackupLimits,
) -> io::Result<(Compression, Box<dyn Read + 'a>)> {
    let mut magic = Vec::with_capacity(ZSTD_MAGIC.len());
    (&mut input)
        .take(ZSTD_MAGIC.len() as u64)
        .read_to_end(&mut magic)?;
    let how = if magic == ZSTD_MAGIC {
        Compression::Zstd
    } else if magic.starts_with(&GZIP_MAGIC) {
        Compression::Gzip
    } else {
        Compression::None
    };
    let whole = BufReader::with_capacity(BUFFER, io::Cursor::new(magic).chain(input));
    Ok((how, decompress(how, whole, limits)?))
}

struct Counted<R> {
    input: R,
    taken: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(out)?;
        self.taken.set(self.taken.get() + got as u64);
        Ok(got)
    }
}

/// Gives out what is allowed, and an error instead of the rest.
struct Capped<R> {
    out: R,
    taken: Rc<Cell<u64>>,
    given: u64,
    limits: BackupLimits,
}

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let got = self.out.read(out).map_err(as_damage)?;
        self.given += got as u64;
        self.limits.allow(self.given, self.taken.get())?;
        Ok(got)
    }
}

/// What the decompressors call by many names. Failures of the system keep theirs.
fn as_damage(error: io::Error) -> io::Error {
    use io::ErrorKind::{InvalidInput, Other, UnexpectedEof};
    match error.raw_os_error() {
        None if matches!(error.kind(), InvalidInput | Other | UnexpectedEof) => {
            io::Error::new(io::ErrorKind::InvalidData, error.to_string())
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BackupLimits = BackupLimits {
        max_bytes: 64 << 20,
        max_ratio: 256,
        bytes_per_second: 1 << 30,
        keep_uploads: Duration::ZERO,
    };

    fn packed(how: Compression, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        compress(how, &mut &*bytes, &mut out).expect("compressed");
        out
    }

    fn unpacked(bytes: &[u8], limits: BackupLimits) -> io::Result<(Compression, Vec<u8>)> {
        let (how, mut plain) = unwrap(bytes, limits)?;
        let mut out = Vec::new();
        plain.read_to_end(&mut out)?;
        Ok((how, out))
    }

    #[test]
    fn what_is_compressed_is_told_by_its_first_bytes() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| n.wrapping_mul(n) as u8).collect();
        for how in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let got = unpacked(&packed(how, &bytes), LIMITS).expect("undone");
            assert_eq!(got, (how, bytes.clone()));
            assert_eq!(how.to_string().parse(), Ok(how));
        }
        let short = unpacked(b"ab", LIMITS).expect("plain");
        assert_eq!(short, (Compression::None, b"ab".to_vec()));
    }

    #[test]
    fn what_becomes_a_multitude_is_refused_before_it_does() {
        let bomb = vec![0; 16 << 20];
        for how in [Compression::Gzip, Compression::Zstd] {
            let refused = unpacked(&packed(how, &bomb), LIMITS).expect_err("refused");
            assert_eq!(refused.kind(), io::ErrorKind::FileTooLarge, "{how}");
        }
        let large = BackupLimits {
            max_bytes: 1000,
            ..LIMITS
        };
        let refused = unpacked(&vec![1; 1001], large).expect_err("refused");
        assert_eq!(refused.kind(), io::ErrorKind::FileTooLarge);
        assert!(unpacked(&vec![1; 1000], large).is_ok());
    }

    #[test]
    fn every_cut_of_something_compressed_is_damage() {
        let bytes = vec![7; 5000];
        for how in [Compression::Gzip, Compression::Zstd] {
            let whole = packed(how, &bytes);
            for len in 5..whole.len() {
                let cut = unpacked(&whole[..len], LIMITS);
                let kind = cut.expect_err("cut").kind();
                assert_eq!(kind, io::ErrorKind::InvalidData, "{how} cut to {len}");
            }
        }
    }
}
