//! Keys of the router's records, as those who watch write them.

use std::borrow::Cow;
use std::fmt;

/// The key of a record. In its text form `/` and `%` within an id are percent-encoded, so that the
/// parts of a key can be told apart whatever the ids are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StateKey<'a> {
    /// `/sidecars/ID`
    Sidecar(Cow<'a, str>),
    /// `/services/ID`
    Service(Cow<'a, str>),
    /// `/pipelines/ID`
    Pipeline(Cow<'a, str>),
    /// `/assignments/SIDECAR/PIPELINE`
    Assignment(Cow<'a, str>, Cow<'a, str>),
    /// `/locations/NAME/SIDECAR`
    Location(Cow<'a, str>, Cow<'a, str>),
    /// `/groups/ID`
    Group(Cow<'a, str>),
    /// `/offsets/source/SOURCE/PARTITION`
    SourceOffset(Cow<'a, str>, u32),
    /// `/offsets/group/GROUP/SOURCE/PARTITION`
    GroupOffset(Cow<'a, str>, Cow<'a, str>, u32),
    /// `/watermarks/SOURCE/PARTITION`
    Watermark(Cow<'a, str>, u32),
    /// `/checkpoints/SERVICE`
    Checkpoint(Cow<'a, str>),
}

/// What the keys of each section begin with, in the order in which a state is read.
pub(super) const ROOTS: [&str; 10] = [
    "/sidecars/",
    "/services/",
    "/pipelines/",
    "/assignments/",
    "/locations/",
    "/groups/",
    "/offsets/source/",
    "/offsets/group/",
    "/watermarks/",
    "/checkpoints/",
];

impl<'a> StateKey<'a> {
    /// The key in `text`, if it is one.
    pub fn parse(text: &'a str) -> Option<Self> {
        let section = ROOTS.iter().position(|root| text.starts_with(root))?;
        let mut parts = text[ROOTS[section].len()..].split('/');
        let mut id = || parts.next().and_then(decode);
        let partition = |text: Cow<'_, str>| text.parse().ok();
        let key = match section {
            0 => Self::Sidecar(id()?),
            1 => Self::Service(id()?),
            2 => Self::Pipeline(id()?),
            3 => Self::Assignment(id()?, id()?),
            4 => Self::Location(id()?, id()?),
            5 => Self::Group(id()?),
            6 => Self::SourceOffset(id()?, partition(id()?)?),
            7 => Self::GroupOffset(id()?, id()?, partition(id()?)?),
            8 => Self::Watermark(id()?, partition(id()?)?),
            _ => Self::Checkpoint(id()?),
        };
        parts.next().is_none().then_some(key)
    }

    /// The place of its section in [`ROOTS`].
    pub(super) fn section(&self) -> usize {
        match self {
            Self::Sidecar(_) => 0,
            Self::Service(_) => 1,
            Self::Pipeline(_) => 2,
            Self::Assignment(..) => 3,
            Self::Location(..) => 4,
            Self::Group(_) => 5,
            Self::SourceOffset(..) => 6,
            Self::GroupOffset(..) => 7,
            Self::Watermark(..) => 8,
            Self::Checkpoint(_) => 9,
        }
    }
}

impl fmt::Display for StateKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f)
    }
}

impl StateKey<'_> {
    /// Writes its text. To a `String` without a formatter between: this is on every command's way.
    pub(crate) fn write<W: fmt::Write>(&self, out: &mut W) -> fmt::Result {
        out.write_str(ROOTS[self.section()])?;
        match self {
            Self::Sidecar(id)
            | Self::Service(id)
            | Self::Pipeline(id)
            | Self::Group(id)
            | Self::Checkpoint(id) => encode(id, out),
            Self::Assignment(one, other) | Self::Location(one, other) => {
                encode(one, out)?;
                out.write_str("/")?;
                encode(other, out)
            }
            Self::SourceOffset(source, partition) | Self::Watermark(source, partition) => {
                encode(source, out)?;
                number(*partition, out)
            }
            Self::GroupOffset(group, source, partition) => {
                encode(group, out)?;
                out.write_str("/")?;
                encode(source, out)?;
                number(*partition, out)
            }
        }
    }
}

fn encode<W: fmt::Write>(id: &str, out: &mut W) -> fmt::Result {
    let mut rest = id;
    // Many bytes at once, not by characters: both are ASCII.
    while let Some(at) = memchr::memchr2(b'/', b'%', rest.as_bytes()) {
        out.write_str(&rest[..at])?;
        out.write_str(match rest.as_bytes()[at] {
            b'/' => "%2F",
            _ => "%25",
        })?;
        rest = &rest[at + 1..];
    }
    out.write_str(rest)
}

fn number<W: fmt::Write>(partition: u32, out: &mut W) -> fmt::Result {
    out.write_str("/")?;
    out.write_str(itoa::Buffer::new().format(partition))
}

/// The id behind a part of a key; none if the part is none that [`encode`] writes.
fn decode(part: &str) -> Option<Cow<'_, str>> {
    if !part.contains('%') {
        return Some(part.into());
    }
    let (mut id, mut rest) = (String::with_capacity(part.len()), part);
    while let Some((before, after)) = rest.split_once('%') {
        id.push_str(before);
        id.push(match after.get(..2)? {
            "2F" => '/',
            "25" => '%',
            _ => return None,
        });
        rest = &after[2..];
    }
    id.push_str(rest);
    Some(id.into())
}

/// What all ids begin with whose part of a key begins with `part`; none if there can be no such
/// key. An escape that is cut off at the end is left out, so more ids may begin with it.
pub(super) fn decode_start(part: &str) -> Option<Cow<'_, str>> {
    let cut = match part.rfind('%') {
        Some(at) if part.len() - at < 3 => &part[..at],
        _ => part,
    };
    decode(cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_and_read_back() {
        let all = [
            ("/sidecars/shop%2Fa-0", StateKey::Sidecar("shop/a-0".into())),
            ("/services/50%25", StateKey::Service("50%".into())),
            ("/pipelines/p", StateKey::Pipeline("p".into())),
            (
                "/assignments/a%2Fb/c%252F",
                StateKey::Assignment("a/b".into(), "c%2F".into()),
            ),
            (
                "/locations/orders/s",
                StateKey::Location("orders".into(), "s".into()),
            ),
            ("/groups/g", StateKey::Group("g".into())),
            (
                "/offsets/source/s%2F%2F/7",
                StateKey::SourceOffset("s//".into(), 7),
            ),
            (
                "/offsets/group/g/s/4294967295",
                StateKey::GroupOffset("g".into(), "s".into(), u32::MAX),
            ),
            ("/watermarks/s/0", StateKey::Watermark("s".into(), 0)),
            ("/checkpoints/é:1", StateKey::Checkpoint("é:1".into())),
        ];
        for (section, (text, key)) in all.into_iter().enumerate() {
            assert_eq!(key.to_string(), text);
            assert_eq!(key.section(), section);
            assert_eq!(StateKey::parse(text), Some(key));
        }
    }

    #[test]
    fn what_is_no_key_is_not_read_as_one() {
        for text in [
            "",
            "/",
            "sidecars/a",
            "/sidecars",
            "/sidecars/a/b",
            "/sidecars/%2f",
            "/sidecars/%2",
            "/sidecars/%é",
            "/watermarks/s",
            "/watermarks/s/x",
            "/offsets/s/1",
        ] {
            assert_eq!(StateKey::parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_escape_that_is_cut_off_narrows_nothing() {
        let start = |part| decode_start(part).map(Cow::into_owned);
        assert_eq!(start("shop%2F").as_deref(), Some("shop/"));
        assert_eq!(start("shop%2").as_deref(), Some("shop"));
        assert_eq!(start("shop%").as_deref(), Some("shop"));
        assert_eq!(start("a%2Fb%25%").as_deref(), Some("a/b%"));
        assert_eq!(start("%41"), None);
    }
}
