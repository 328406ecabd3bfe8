//! Protobuf of records that are a few texts and numbers, from borrowed fields.
//!
//! The bytes are those that prost writes (held by a test in [`values`](super::values)), without the message
//! of owned texts that it would need first: most commands change such a record, on every node.

/// The fields of one message, in the order of their tags.
pub(super) struct Fields<'a>(pub(super) &'a mut Vec<u8>);

impl Fields<'_> {
    pub(super) fn text(&mut self, tag: u32, text: &str) -> &mut Self {
        if !text.is_empty() {
            self.key(tag, LEN);
            varint(self.0, text.len() as u64);
            self.0.extend_from_slice(text.as_bytes());
        }
        self
    }

    pub(super) fn number(&mut self, tag: u32, number: u64) -> &mut Self {
        if number != 0 {
            self.key(tag, VARINT);
            varint(self.0, number);
        }
        self
    }

    pub(super) fn message(&mut self, tag: u32, write: impl FnOnce(&mut Fields<'_>)) -> &mut Self {
        self.key(tag, LEN);
        let begin = self.0.len();
        write(&mut Fields(self.0));
        // The length stands before what it is the length of, and is known only now.
        let end = self.0.len();
        varint(self.0, (end - begin) as u64);
        let length = self.0.len() - end;
        self.0[begin..].rotate_right(length);
        self
    }

    fn key(&mut self, tag: u32, wire_type: u32) {
        varint(self.0, (tag << 3 | wire_type).into());
    }
}

/// Protobuf's wire types.
const VARINT: u32 = 0;
const LEN: u32 = 2;

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
