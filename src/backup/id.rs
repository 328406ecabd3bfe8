//! Names of snapshots.

use std::fmt;
use std::str::FromStr;

const MAX_LEN: usize = 128;

/// The name of a snapshot: `[a-z0-9][a-z0-9._-]{0,127}` without `..`.
///
/// A type of its own, so that no string from a client ever becomes part of a path: a value can
/// hold no separator, no parent directory, no NUL and nothing hidden.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(String);

/// A text that names no snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a snapshot id is 1 to 128 characters of a-z, 0-9, '.', '_' and '-', begins with a letter or \
     digit, and holds no \"..\""
)]
pub struct SnapshotIdError;

impl SnapshotId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SnapshotId {
    type Err = SnapshotIdError;

    fn from_str(text: &str) -> Result<Self, SnapshotIdError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let first = text.bytes().next().is_some_and(plain);
        let rest = text
            .bytes()
            .all(|byte| plain(byte) || matches!(byte, b'.' | b'_' | b'-'));
        match first && rest && text.len() <= MAX_LEN && !text.contains("..") {
            true => Ok(Self(text.to_owned())),
            false => Err(SnapshotIdError),
        }
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i7_ids_are_names_and_never_paths() {
        for good in ["a", "0", "nightly-2026.01.02_3", &"x".repeat(128)] {
            assert!(good.parse::<SnapshotId>().is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/../b",
            "a..b",
            "/etc/passwd",
            "a/b",
            "a\\b",
            ".hidden",
            "-rf",
            "_x",
            "A",
            "a b",
            "a\0",
            "ä",
            "a\n",
            &"x".repeat(129),
        ] {
            assert!(bad.parse::<SnapshotId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn i7_no_text_of_few_bytes_escapes_the_alphabet() {
        for first in 0..=u8::MAX {
            for second in 0..=u8::MAX {
                let Ok(text) = String::from_utf8(vec![first, second]) else {
                    continue;
                };
                let accepted = text.parse::<SnapshotId>().is_ok();
                let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
                let expected = plain(first) && (plain(second) || b"._-".contains(&second));
                assert_eq!(accepted, expected, "{text:?}");
            }
        }
    }
}
