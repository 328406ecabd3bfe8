//! A snapshot of the router's state as a stream of bytes.
//!
//! ```text
//! magic "CNVRTST" and the format version, 1
//! chunks:  len u32, crc-32 u32 of the body, body (at most 256 KiB, the last one empty)
//! end:     crc-32 u32 over all bodies
//! ```
//! The bodies together are length-prefixed protobuf: a `SnapshotHeader`; then each section as its
//! number (u8), its count of records (u64), and its records, in key order, as `StateRecord`s.
//! Integers are little-endian. Nothing of what is read is used before its checksum is right, and no
//! length is believed beyond what a record may have.

use std::io::{self, Read, Write};
use std::sync::Arc;

use prost::Message;

use super::command::limits::{FEATURE_LEVEL, MAX_CHECKPOINT, MAX_COMMAND};
use super::ordered::Id;
use super::state::{Clock, Record, RouterState};
use super::{Frozen, RestoreError};
use crate::proto;

const MAGIC: [u8; 8] = *b"CNVRTST\x01";
const CHUNK: usize = 256 << 10;
/// The largest record is a sidecar with all its assignments.
const MAX_RECORD: usize = 1 << 30;

const _: () = assert!(MAX_CHECKPOINT < MAX_COMMAND && MAX_COMMAND < MAX_RECORD);

/// A state that waits to be written.
pub(super) struct FrozenRouter(pub(super) Arc<RouterState>);

impl Frozen for FrozenRouter {
    fn write(self: Box<Self>, out: &mut dyn Write) -> io::Result<()> {
        let state = &*self.0;
        let mut chunks = ChunkWriter::new(out)?;
        chunks.message(&header(state))?;
        for (number, (_, count, records)) in (1_u8..).zip(state.sections()) {
            chunks.write(&[number])?;
            chunks.write(&(count as u64).to_le_bytes())?;
            for record in records {
                chunks.message(&record)?;
            }
        }
        chunks.finish()
    }
}

fn header(state: &RouterState) -> proto::SnapshotHeader {
    let clock = &state.clock;
    proto::SnapshotHeader {
        feature_level: FEATURE_LEVEL,
        index: clock.index,
        term: clock.term,
        time_us: clock.time_us,
        leaderless_us: clock.leaderless_us,
        rejections: clock.rejections,
        rejection_digest: clock.rejection_digest.to_le_bytes().into(),
        digest: state.digest().to_le_bytes().into(),
    }
}

struct ChunkWriter<'a> {
    out: &'a mut dyn Write,
    body: Vec<u8>,
    all: crc32fast::Hasher,
}

impl<'a> ChunkWriter<'a> {
    fn new(out: &'a mut dyn Write) -> io::Result<Self> {
        out.write_all(&MAGIC)?;
        Ok(Self {
            out,
            body: Vec::with_capacity(CHUNK),
            all: crc32fast::Hasher::new(),
        })
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.body.len()));
            self.body.extend_from_slice(now);
            bytes = later;
            if self.body.len() == CHUNK {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn message(&mut self, message: &impl Message) -> io::Result<()> {
        self.write(&message.encode_length_delimited_to_vec())
    }

    fn flush(&mut self) -> io::Result<()> {
        let len = self.body.len() as u32;
        self.out.write_all(&len.to_le_bytes())?;
        let crc = crc32fast::hash(&self.body);
        self.out.write_all(&crc.to_le_bytes())?;
        self.out.write_all(&self.body)?;
        self.all.update(&self.body);
        self.body.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        if !self.body.is_empty() {
            self.flush()?;
        }
        self.flush()?;
        self.out.write_all(&self.all.finalize().to_le_bytes())
    }
}

fn invalid(why: impl Into<String>) -> RestoreError {
    RestoreError::Invalid(why.into())
}

/// Gives the bodies of the chunks as one stream, each verified before any of it is given.
struct ChunkReader<'a> {
    input: &'a mut dyn Read,
    body: Vec<u8>,
    at: usize,
    all: crc32fast::Hasher,
}

impl ChunkReader<'_> {
    fn u32(&mut self) -> Result<u32, RestoreError> {
        let mut bytes = [0; 4];
        self.input.read_exact(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// The next chunk; an empty one is the last.
    fn fill(&mut self) -> Result<(), RestoreError> {
        let (len, crc) = (self.u32()? as usize, self.u32()?);
        if len > CHUNK {
            return Err(invalid(format!("a chunk of {len} bytes is over {CHUNK}")));
        }
        self.body.resize(len, 0);
        self.at = 0;
        self.input.read_exact(&mut self.body)?;
        if crc32fast::hash(&self.body) != crc {
            return Err(invalid("the checksum of a chunk does not match"));
        }
        self.all.update(&self.body);
        Ok(())
    }

    fn read(&mut self, mut out: &mut [u8]) -> Result<(), RestoreError> {
        while !out.is_empty() {
            if self.at == self.body.len() {
                self.fill()?;
                if self.body.is_empty() {
                    return Err(invalid("it ends inside a section"));
                }
            }
            let len = out.len().min(self.body.len() - self.at);
            let (now, later) = out.split_at_mut(len);
            now.copy_from_slice(&self.body[self.at..self.at + len]);
            self.at += len;
            out = later;
        }
        Ok(())
    }

    fn byte(&mut self) -> Result<u8, RestoreError> {
        let mut byte = [0];
        self.read(&mut byte)?;
        Ok(byte[0])
    }

    /// A length-prefixed message. What a length claims is allocated as the bytes come in, so that
    /// a lie costs no memory.
    fn message<M: Message + Default>(&mut self) -> Result<M, RestoreError> {
        let mut len = 0_usize;
        for shift in (0..35).step_by(7) {
            let byte = self.byte()?;
            len |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        if len > MAX_RECORD {
            return Err(invalid(format!(
                "a record of {len} bytes is over {MAX_RECORD}"
            )));
        }
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let from = bytes.len();
            bytes.resize(len.min(from + CHUNK), 0);
            self.read(&mut bytes[from..])?;
        }
        M::decode(&*bytes).map_err(|cause| invalid(format!("a record is malformed: {cause}")))
    }

    /// Nothing but the empty chunk and the checksum over all follow.
    fn finish(mut self) -> Result<(), RestoreError> {
        let more = self.at < self.body.len();
        if more || {
            self.fill()?;
            !self.body.is_empty()
        } {
            return Err(invalid("there are bytes after its last section"));
        }
        let crc = self.u32()?;
        if self.all.finalize() != crc {
            return Err(invalid("its checksum does not match"));
        }
        Ok(())
    }
}

/// The records of a snapshot, and the digest that it states. What is derived from the records is
/// not filled in.
pub(super) fn read(input: &mut dyn Read) -> Result<(RouterState, u128), RestoreError> {
    let mut magic = [0; MAGIC.len()];
    input.read_exact(&mut magic)?;
    if magic[..7] != MAGIC[..7] {
        return Err(invalid("it is no snapshot of a router's state"));
    }
    if magic != MAGIC {
        let version = magic[7];
        return Err(invalid(format!(
            "it has format version {version}, and this release reads 1: upgrade this node"
        )));
    }
    let mut chunks = ChunkReader {
        input,
        body: Vec::new(),
        at: 0,
        all: crc32fast::Hasher::new(),
    };
    let mut state = RouterState::default();
    let digest = read_header(&mut state, chunks.message()?)?;
    let sections = state.sections().len();
    let mut reader = RecordReader::default();
    for section in 0..sections {
        if usize::from(chunks.byte()?) != section + 1 {
            return Err(invalid("its sections are not in order"));
        }
        let mut count = [0; 8];
        chunks.read(&mut count)?;
        for _ in 0..u64::from_le_bytes(count) {
            let record = Record::parse(chunks.message()?).map_err(invalid)?;
            if record.section() != section {
                return Err(invalid("a record is in the wrong section"));
            }
            reader.add(&mut state, record)?;
        }
    }
    chunks.finish()?;
    Ok((state, digest))
}

fn read_header(
    state: &mut RouterState,
    header: proto::SnapshotHeader,
) -> Result<u128, RestoreError> {
    if header.feature_level != FEATURE_LEVEL {
        return Err(invalid(format!(
            "it has feature level {}, and this release reads {FEATURE_LEVEL}: upgrade this node",
            header.feature_level
        )));
    }
    let wide = |bytes: Vec<u8>| -> Result<u128, RestoreError> {
        let bytes = <[u8; 16]>::try_from(bytes);
        let bytes = bytes.map_err(|_| invalid("its header has a digest of another length"))?;
        Ok(u128::from_le_bytes(bytes))
    };
    state.clock = Clock {
        index: header.index,
        term: header.term,
        time_us: header.time_us,
        leaderless_us: header.leaderless_us,
        rejections: header.rejections,
        rejection_digest: wide(header.rejection_digest)?,
    };
    wide(header.digest)
}

/// Puts records into a state, each after the one before it.
#[derive(Default)]
struct RecordReader {
    source: Option<Id>,
    group: Option<Id>,
}

impl RecordReader {
    fn add(&mut self, state: &mut RouterState, record: Record) -> Result<(), RestoreError> {
        let checkpoints = &mut state.checkpoints;
        match record {
            Record::Service(service) => {
                ordered(&state.services, &service.service_id)?;
                let id = service.service_id.clone();
                state.services.insert(id, Arc::new(service));
            }
            Record::Pipeline(pipeline) => {
                ordered(&state.pipelines, &pipeline.pipeline_id)?;
                let id = pipeline.pipeline_id.clone();
                state.pipelines.insert(id, Arc::new(pipeline));
            }
            Record::Group(group) => {
                ordered(&state.groups, &group.group_id)?;
                let id = group.group_id.clone();
                state.groups.insert(id, Arc::new(group));
            }
            Record::Sidecar(sidecar) => {
                ordered(&state.sidecars, &sidecar.sidecar_id)?;
                let id = sidecar.sidecar_id.clone();
                state.sidecars.insert(id, Arc::new(sidecar));
            }
            Record::Checkpoint(checkpoint) => {
                ordered(&checkpoints.service_checkpoints, &checkpoint.service_id)?;
                let id = checkpoint.service_id.clone();
                let newest = &mut checkpoints.service_checkpoints;
                newest.insert(id, Arc::new(checkpoint));
            }
            Record::SourceOffset(mut key, offset) => {
                share(&mut self.source, &mut key.source_id);
                ordered(&checkpoints.source_offsets, &key)?;
                checkpoints.source_offsets.insert(key, offset);
            }
            Record::Watermark(mut key, watermark) => {
                share(&mut self.source, &mut key.source_id);
                ordered(&checkpoints.watermarks, &key)?;
                checkpoints.watermarks.insert(key, watermark);
            }
            Record::GroupOffset(mut key, offset) => {
                share(&mut self.source, &mut key.source_id);
                share(&mut self.group, &mut key.group_id);
                ordered(&checkpoints.group_offsets, &key)?;
                checkpoints.group_offsets.insert(key, offset);
            }
        }
        Ok(())
    }
}

/// Lets neighbours with the same id share its text.
fn share(last: &mut Option<Id>, id: &mut Id) {
    match last {
        Some(last) if last == id => *id = last.clone(),
        _ => *last = Some(id.clone()),
    }
}

fn ordered<K: Ord + Clone, V: Clone>(
    map: &super::OrderedMap<K, V>,
    key: &K,
) -> Result<(), RestoreError> {
    if map.iter().next_back().is_none_or(|(last, _)| last < key) {
        return Ok(());
    }
    Err(invalid("its records are not in key order"))
}
