//! The table as bytes: in a snapshot, and as what its digest is over.
//!
//! ```text
//! version u8, 1; log time without a leader u64; sessions u32; each of them, by number:
//!   number u64, last heard of u64 (active time), floor u64, answers u32; each of them, by number:
//!     the command's number u64, bytes u32 (2^32 - 1: the answer was not kept), the bytes
//! ```
//! Integers are little-endian, times in microseconds.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use super::{Client, SessionLimits, Sessions};
use crate::types::{LogIndex, Micros};

const VERSION: u8 = 1;
const HEAD: u64 = 13;
const CLIENT_HEAD: u64 = 28;
const ANSWER_HEAD: u64 = 12;
const NOT_KEPT: u32 = u32::MAX;

pub(super) fn hash_clock(leaderless_us: Micros) -> u128 {
    xxh3_128(&leaderless_us.to_le_bytes())
}

impl Sessions {
    /// Bytes that [`encode`](Self::encode) gives; 0 if there is nothing to keep.
    pub(crate) fn encoded_len(&self) -> u64 {
        if self.open.is_empty() {
            0
        } else {
            HEAD + self.bytes
        }
    }

    /// All of it, for a snapshot.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_len() as usize);
        if self.open.is_empty() {
            return out;
        }
        out.push(VERSION);
        out.extend_from_slice(&self.leaderless_us.to_le_bytes());
        out.extend_from_slice(&(self.open.len() as u32).to_le_bytes());
        for (session, client) in &self.open {
            client.encode(*session, &mut out);
        }
        out
    }

    /// The table in a snapshot.
    ///
    /// # Errors
    /// What is wrong with the bytes, as a sentence.
    pub(crate) fn decode(limits: SessionLimits, bytes: &[u8]) -> Result<Self, String> {
        let mut table = Self::new(limits);
        if bytes.is_empty() {
            return Ok(table);
        }
        let mut rest = Reader(bytes);
        let [version] = rest.take()?;
        if version != VERSION {
            return Err(format!(
                "its sessions are of version {version}, this release reads {VERSION}"
            ));
        }
        table.leaderless_us = rest.u64()?;
        for _ in 0..rest.u32()? {
            let session = rest.u64()?;
            let client = Client::decode(&mut rest)?;
            if table.open.contains_key(&session) {
                return Err("a session is in it twice".to_owned());
            }
            table.put(session, Arc::new(client));
        }
        if !rest.0.is_empty() {
            return Err("bytes are left over after its sessions".to_owned());
        }
        Ok(table)
    }
}

impl Client {
    pub(super) fn encoded_len(&self) -> u64 {
        CLIENT_HEAD + ANSWER_HEAD * self.answers.len() as u64 + self.answer_bytes as u64
    }

    pub(super) fn encode(&self, session: LogIndex, out: &mut Vec<u8>) {
        for word in [session, self.used_us, self.floor] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&(self.answers.len() as u32).to_le_bytes());
        for (seq, answer) in &self.answers {
            let len = answer
                .as_ref()
                .map_or(NOT_KEPT, |answer| answer.len() as u32);
            out.extend_from_slice(&seq.to_le_bytes());
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(answer.as_deref().unwrap_or_default());
        }
    }

    fn decode(rest: &mut Reader<'_>) -> Result<Self, String> {
        let (used_us, floor) = (rest.u64()?, rest.u64()?);
        let mut answers = BTreeMap::new();
        for _ in 0..rest.u32()? {
            let seq = rest.u64()?;
            let answer = match rest.u32()? {
                NOT_KEPT => None,
                len => Some(Bytes::copy_from_slice(rest.bytes(len as usize)?)),
            };
            answers.insert(seq, answer);
        }
        let kept = answers.values().flatten();
        Ok(Self {
            used_us,
            floor,
            answer_bytes: kept.map(Bytes::len).sum(),
            answers,
        })
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or_else(cut_off)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or_else(cut_off)?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.take().map(u64::from_le_bytes)
    }
}

fn cut_off() -> String {
    "its sessions are cut off".to_owned()
}
