//! What must hold for any bytes that a peer sends. For fuzzers, and for tests on a fixed budget; hidden,
//! and only there for them.

use bytes::{Bytes, BytesMut};

use super::{
    Assembler, ForwardAssembler, ForwardFrame, FrameLimits, HELLO_FIXED, HELLO_MAX, Hello,
    Malformed, encode_into, encode_reply,
};
use crate::network::LinkClass;

/// What a stream came to: every frame written anew, how many, and what ended it.
#[derive(Debug, PartialEq, Eq)]
struct Came {
    again: Vec<u8>,
    frames: usize,
    end: Option<Malformed>,
}

/// A hello. One that is taken says the same when it is written anew.
///
/// # Errors
/// What does not hold.
pub fn hello(bytes: &[u8]) -> Result<(), String> {
    if let Some(fixed) = bytes.first_chunk::<HELLO_FIXED>()
        && let Ok(len) = Hello::length(fixed)
        && !(HELLO_FIXED..=HELLO_MAX).contains(&len)
    {
        return Err(format!("a length of {len}"));
    }
    let Ok(hello) = Hello::decode(bytes) else {
        return Ok(());
    };
    let again = hello.encode();
    if again.len() > bytes.len() || again.get(10..HELLO_FIXED) != bytes.get(10..HELLO_FIXED) {
        return Err(format!("{hello:?} is written differently"));
    }
    match Hello::decode(&again) {
        Ok(same) if same == hello => Ok(()),
        other => Err(format!("{hello:?} comes back as {other:?}")),
    }
}

/// A stream of frames. The first byte says of which class and direction, the second where it is cut; cuts
/// make no difference, and what is taken is written in no other way.
///
/// # Errors
/// What does not hold.
pub fn stream(bytes: &[u8], limit: usize) -> Result<(), String> {
    let Some(([which, cuts], stream)) = bytes.split_first_chunk() else {
        return Ok(());
    };
    let limits = FrameLimits {
        body: limit,
        entry: limit,
    };
    let replies = which & 4 != 0;
    let class = LinkClass::ALL.get(usize::from(which & 3)).copied();
    let class = class.unwrap_or(LinkClass::Control);
    let read = |pieces: &[Bytes]| match class.messages() {
        Some(class) => read(&mut Assembler::new(class, replies, limits), pieces),
        None => read(&mut ForwardAssembler::new(replies, limits), pieces),
    };
    let stream = Bytes::copy_from_slice(stream);
    let whole = read(std::slice::from_ref(&stream))?;
    if whole.again != stream.get(..whole.again.len()).unwrap_or_default() {
        return Err(format!(
            "{} frames are written differently: {stream:x?}",
            whole.frames
        ));
    }
    let cut = read(&pieces(&stream, *cuts))?;
    match cut == whole {
        true => Ok(()),
        false => Err(format!(
            "in pieces it is {cut:?}, at once it is {whole:?}: {stream:x?}"
        )),
    }
}

/// Cut at places that `seed` chooses; many pieces of a byte, and some longer ones.
fn pieces(stream: &Bytes, seed: u8) -> Vec<Bytes> {
    let (mut rest, mut state) = (stream.clone(), u32::from(seed));
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        let len = match state >> 28 {
            0..8 => 1,
            more => more as usize * 3,
        };
        pieces.push(rest.split_to(len.min(rest.len())));
    }
    pieces
}

/// Both assemblers.
trait Frames {
    fn feed(&mut self, chunk: Bytes);
    /// Writes the next frame anew. False if it is not all here.
    fn next(&mut self, again: &mut Vec<u8>) -> Result<bool, Malformed>;
}

fn read(frames: &mut impl Frames, pieces: &[Bytes]) -> Result<Came, String> {
    let mut came = Came {
        again: Vec::new(),
        frames: 0,
        end: None,
    };
    let mut fed = 0;
    for piece in pieces {
        fed += piece.len();
        frames.feed(piece.clone());
        loop {
            match frames.next(&mut came.again) {
                Ok(false) => break,
                Ok(true) => came.frames += 1,
                Err(malformed) => {
                    came.end = Some(malformed);
                    return Ok(came);
                }
            }
        }
        if came.again.len() > fed {
            return Err(format!("{fed} bytes give {}", came.again.len()));
        }
    }
    Ok(came)
}

impl Frames for Assembler {
    fn feed(&mut self, chunk: Bytes) {
        Self::feed(self, chunk);
    }

    fn next(&mut self, again: &mut Vec<u8>) -> Result<bool, Malformed> {
        let ready = self.ready()?;
        let Some(frame) = self.next_frame()? else {
            return Ok(false);
        };
        let body = [frame.entries.chunks().concat(), frame.chunk.concat()].concat();
        let mut out = BytesMut::new();
        encode_into(&frame.message, body.len(), &mut out);
        again.extend_from_slice(&out);
        again.extend_from_slice(&body);
        // What was said to come is what came.
        match ready == Some(body.len()) {
            true => Ok(true),
            false => Err(Malformed::Field("another body than was announced")),
        }
    }
}

impl Frames for ForwardAssembler {
    fn feed(&mut self, chunk: Bytes) {
        Self::feed(self, chunk);
    }

    fn next(&mut self, again: &mut Vec<u8>) -> Result<bool, Malformed> {
        match self.next_frame()? {
            None => return Ok(false),
            Some(ForwardFrame::Request(request, payload)) => {
                let mut out = BytesMut::new();
                request.encode(payload.len(), &mut out);
                again.extend_from_slice(&out);
                again.extend_from_slice(&payload);
            }
            Some(ForwardFrame::Reply(id, outcome)) => {
                let limits = FrameLimits::default();
                again.extend_from_slice(&encode_reply(id, &outcome, &limits));
            }
        }
        Ok(true)
    }
}
