//! Keys of several parts, and their borrowed forms, so that a look-up allocates nothing.

use std::cmp::Ordering;

use equivalent::{Comparable, Equivalent};

use crate::state_machine::Id;

/// A partition of a source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourcePartition {
    /// The source.
    pub source_id: Id,
    /// Its partition.
    pub partition: u32,
}

/// A partition of a source, as a group reads it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupPartition {
    /// The group.
    pub group_id: Id,
    /// The source.
    pub source_id: Id,
    /// Its partition.
    pub partition: u32,
}

/// [`SourcePartition`], borrowed.
pub(crate) struct SourceKey<'a>(pub(crate) &'a str, pub(crate) u32);

/// [`GroupPartition`], borrowed.
#[derive(Clone, Copy)]
pub(crate) struct GroupKey<'a>(pub(crate) &'a str, pub(crate) &'a str, pub(crate) u32);

/// Two ids, borrowed.
pub(crate) struct PairKey<'a>(pub(crate) &'a str, pub(crate) &'a str);

macro_rules! comparable {
    ($borrowed:ident, $owned:ty, |$one:ident, $other:ident| $compare:expr) => {
        impl Equivalent<$owned> for $borrowed<'_> {
            fn equivalent(&self, key: &$owned) -> bool {
                self.compare(key) == Ordering::Equal
            }
        }

        impl Comparable<$owned> for $borrowed<'_> {
            fn compare(&self, $other: &$owned) -> Ordering {
                let $one = self;
                $compare
            }
        }
    };
}

comparable!(SourceKey, SourcePartition, |one, other| {
    let source = one.0.cmp(&other.source_id);
    source.then(one.1.cmp(&other.partition))
});

comparable!(GroupKey, GroupPartition, |one, other| {
    let group = one.0.cmp(&other.group_id);
    group
        .then_with(|| one.1.cmp(&other.source_id))
        .then(one.2.cmp(&other.partition))
});

comparable!(PairKey, (Id, Id), |one, other| {
    let first = one.0.cmp(&other.0);
    first.then_with(|| one.1.cmp(&other.1))
});
