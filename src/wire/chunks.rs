//! The bytes of a stream as quinn gives them out: chunks whose edges fall anywhere.

use std::collections::VecDeque;

use bytes::Bytes;

/// What came and was not used yet.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    chunks: VecDeque<Bytes>,
    len: usize,
}

impl Chunks {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Takes the next chunk of the stream.
    pub(super) fn feed(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.len += chunk.len();
            self.chunks.push_back(chunk);
        }
    }

    /// Moves `out.len()` bytes out of the chunks, if there are as many.
    pub(super) fn copy(&mut self, out: &mut [u8]) -> bool {
        if self.len < out.len() {
            return false;
        }
        let mut rest = out;
        while !rest.is_empty() {
            let Some(chunk) = self.chunks.front_mut() else {
                return false;
            };
            let piece = chunk.split_to(chunk.len().min(rest.len()));
            let (now, later) = std::mem::take(&mut rest).split_at_mut(piece.len());
            now.copy_from_slice(&piece);
            self.len -= piece.len();
            rest = later;
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
        }
        true
    }

    /// The next `len` bytes, which must be there, without copying them.
    pub(super) fn take(&mut self, len: usize) -> Vec<Bytes> {
        let mut taken = Vec::new();
        let mut left = len;
        while left > 0 {
            let Some(chunk) = self.chunks.front_mut() else {
                break;
            };
            let piece = if chunk.len() > left {
                chunk.split_to(left)
            } else {
                self.chunks.pop_front().unwrap_or_default()
            };
            left -= piece.len();
            self.len -= piece.len();
            taken.push(piece);
        }
        taken
    }
}
