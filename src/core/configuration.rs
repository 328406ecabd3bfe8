//! Who belongs to the cluster, and what a quorum is.
//!
//! A configuration is an entry of its own kind, from index 1 on. It takes effect when it is
//! appended and is rolled back when it is truncated (Raft paper, section 6).

use super::features::FEATURES;
use crate::types::{Incarnation, LogIndex, NodeId, ReplicaId};

/// One member with its addresses. By default of the release that this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// Who: a node id in one of its lives.
    pub replica: ReplicaId,
    /// `host:port` of its peer listener.
    pub peer_address: String,
    /// Where clients reach it.
    pub client_endpoint: String,
    /// Lowest and highest feature level it supports.
    pub features: (u32, u32),
    /// Leadership goes to the voter of the highest priority that is fit to lead.
    pub priority: u32,
}

impl Default for MemberInfo {
    fn default() -> Self {
        Self {
            replica: ReplicaId::default(),
            peer_address: String::new(),
            client_endpoint: String::new(),
            features: FEATURES,
            priority: 0,
        }
    }
}

/// A learner that is to vote as soon as it has caught up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Promotion {
    /// Who.
    pub learner: ReplicaId,
    /// The voter whose place it takes; node 0 if it takes nobody's.
    pub replaces: ReplicaId,
}

/// The members of the cluster. While `outgoing` is not empty the configuration is *joint*: a
/// decision needs a majority of both voter sets (section 6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// The voters; of a joint configuration, the new ones.
    pub incoming: Vec<MemberInfo>,
    /// Of a joint configuration, the old voters.
    pub outgoing: Vec<MemberInfo>,
    /// Members that receive the log and do not vote.
    pub learners: Vec<MemberInfo>,
    /// Which of them are to vote as soon as they have caught up.
    pub promotions: Vec<Promotion>,
    /// Incarnations that were removed and never come back.
    pub tombstones: Vec<ReplicaId>,
    /// Feature level of the replicated state.
    pub feature_level: u32,
    /// Entries that no state machine applies, ascending (hazard G2).
    pub skipped: Vec<LogIndex>,
}

impl Configuration {
    /// Every member once.
    pub fn members(&self) -> impl Iterator<Item = &MemberInfo> {
        let later = |list: &[MemberInfo], who: &MemberInfo| {
            list.iter().any(|other| other.replica == who.replica)
        };
        let outgoing = self
            .outgoing
            .iter()
            .filter(move |who| !later(&self.incoming, who));
        // A voter on its way to be a learner is both.
        let learners = self
            .learners
            .iter()
            .filter(move |who| !later(&self.outgoing, who));
        self.incoming.iter().chain(outgoing).chain(learners)
    }

    /// The member with this node id (and, where several lives of it are members, any of them).
    pub fn member(&self, node: NodeId) -> Option<&MemberInfo> {
        self.members().find(|who| who.replica.node == node)
    }

    /// Whether this replica votes.
    pub fn is_voter(&self, who: ReplicaId) -> bool {
        self.incoming
            .iter()
            .chain(&self.outgoing)
            .any(|member| member.replica == who)
    }

    /// Whether those for whom `has` is true form a quorum: a majority of each voter set.
    ///
    /// Votes, commits, reads and check-quorum all come down to this function and to
    /// [`quorum_index`](Self::quorum_index).
    pub fn is_quorum(&self, has: impl Fn(ReplicaId) -> bool) -> bool {
        let won = self.quorum_index(|who| u64::from(has(who)));
        won == 1
    }

    /// The highest value that a majority of each voter set has reached, for example the highest
    /// index that a quorum holds. Zero without voters.
    pub fn quorum_index(&self, reached: impl Fn(ReplicaId) -> u64) -> LogIndex {
        let of = |set: &[MemberInfo]| majority_value(set, &reached);
        match (self.incoming.is_empty(), self.outgoing.is_empty()) {
            (true, _) => 0,
            (false, true) => of(&self.incoming),
            (false, false) => of(&self.incoming).min(of(&self.outgoing)),
        }
    }
}

/// More voters than this in one set spill to the heap.
const INLINE_VOTERS: usize = 16;

fn majority_value(set: &[MemberInfo], reached: &impl Fn(ReplicaId) -> u64) -> u64 {
    let mut inline = [0; INLINE_VOTERS];
    let mut heap = Vec::new();
    let values: &mut [u64] = if set.len() <= INLINE_VOTERS {
        &mut inline[..set.len()]
    } else {
        heap.resize(set.len(), 0);
        &mut heap
    };
    for (value, member) in values.iter_mut().zip(set) {
        *value = reached(member.replica);
    }
    values.sort_unstable_by(|a, b| b.cmp(a));
    values[set.len() / 2]
}

/// Bytes that are no configuration of a version known here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a configuration: {0}")]
pub struct ConfigurationError(pub(super) &'static str);

const VERSION: u8 = 1;
const MAX_MEMBERS: u32 = 1024;
const MAX_TEXT: u32 = 512;
const TOO_MANY: &str = "more than 1024 members";
const TOO_LONG: &str = "an address over 512 bytes";

impl Configuration {
    /// The payload of the entry: version 1, then voters, old voters, learners, promotions (learner and
    /// whom it replaces), tombstones, the feature level and the skipped entries; integers little-endian, lists and texts with their length before them.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        for list in [&self.incoming, &self.outgoing, &self.learners] {
            put_u32(&mut out, list.len() as u32);
            for member in list {
                put_replica(&mut out, member.replica);
                put_text(&mut out, &member.peer_address);
                put_text(&mut out, &member.client_endpoint);
                put_u32(&mut out, member.features.0);
                put_u32(&mut out, member.features.1);
                put_u32(&mut out, member.priority);
            }
        }
        put_u32(&mut out, self.promotions.len() as u32);
        for promotion in &self.promotions {
            put_replica(&mut out, promotion.learner);
            put_replica(&mut out, promotion.replaces);
        }
        put_u32(&mut out, self.tombstones.len() as u32);
        self.tombstones
            .iter()
            .for_each(|who| put_replica(&mut out, *who));
        put_u32(&mut out, self.feature_level);
        put_u32(&mut out, self.skipped.len() as u32);
        for index in &self.skipped {
            out.extend_from_slice(&index.to_le_bytes());
        }
        out
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// If the bytes are cut off, too long, of another version, or name a voter twice.
    pub fn decode(payload: &[u8]) -> Result<Self, ConfigurationError> {
        let mut input = payload;
        if take::<1>(&mut input)? != [VERSION] {
            return Err(ConfigurationError("unknown version"));
        }
        let configuration = Self {
            incoming: take_members(&mut input)?,
            outgoing: take_members(&mut input)?,
            learners: take_members(&mut input)?,
            promotions: take_list(&mut input, take_promotion)?,
            tombstones: take_list(&mut input, take_replica)?,
            feature_level: take_u32(&mut input)?,
            skipped: take_list(&mut input, |input| take(input).map(u64::from_le_bytes))?,
        };
        if !input.is_empty() {
            return Err(ConfigurationError("bytes left over"));
        }
        configuration.check()?;
        Ok(configuration)
    }

    /// Whether it can be right at all, and read back by those who get it.
    pub(super) fn check(&self) -> Result<(), ConfigurationError> {
        if self.incoming.is_empty() {
            return Err(ConfigurationError("no voter"));
        }
        for set in [&self.incoming, &self.outgoing, &self.learners] {
            // By number alone: progress is kept by number, so that two lives of one node in one set
            // would count as two voters while one of them answers (hazard E9).
            let mut nodes: Vec<_> = set.iter().map(|member| member.replica.node).collect();
            nodes.sort_unstable();
            nodes.dedup();
            if nodes.len() != set.len() {
                return Err(ConfigurationError("a member is named twice"));
            }
            if set.len() > MAX_MEMBERS as usize {
                return Err(ConfigurationError(TOO_MANY));
            }
            let long = |text: &str| text.len() > MAX_TEXT as usize;
            if set
                .iter()
                .any(|one| long(&one.peer_address) || long(&one.client_endpoint))
            {
                return Err(ConfigurationError(TOO_LONG));
            }
            let nobody = |who: ReplicaId| who.node == 0 || who.incarnation.is_none();
            if set.iter().any(|member| nobody(member.replica)) {
                return Err(ConfigurationError("a member without id or incarnation"));
            }
        }
        let is = |set: &[MemberInfo], who: ReplicaId| set.iter().any(|one| one.replica == who);
        if self
            .learners
            .iter()
            .any(|one| is(&self.incoming, one.replica))
        {
            return Err(ConfigurationError("a learner that votes"));
        }
        if !self.skipped.is_sorted_by(|one, next| one < next) || self.skipped.first() == Some(&0) {
            return Err(ConfigurationError("skipped entries out of order"));
        }
        let stray = |one: &Promotion| !is(&self.learners, one.learner);
        if self.promotions.iter().any(stray) {
            return Err(ConfigurationError("a promotion of no learner"));
        }
        Ok(())
    }
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_replica(out: &mut Vec<u8>, who: ReplicaId) {
    out.extend_from_slice(&who.node.to_le_bytes());
    out.extend_from_slice(&who.incarnation.0);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_u32(out, text.len() as u32);
    out.extend_from_slice(text.as_bytes());
}

fn take<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], ConfigurationError> {
    let (head, rest) = input
        .split_first_chunk()
        .ok_or(ConfigurationError("cut off"))?;
    *input = rest;
    Ok(*head)
}

fn take_u32(input: &mut &[u8]) -> Result<u32, ConfigurationError> {
    take(input).map(u32::from_le_bytes)
}

fn take_replica(input: &mut &[u8]) -> Result<ReplicaId, ConfigurationError> {
    let node = take(input).map(u64::from_le_bytes)?;
    Ok(ReplicaId::new(node, Incarnation(take(input)?)))
}

fn take_promotion(input: &mut &[u8]) -> Result<Promotion, ConfigurationError> {
    Ok(Promotion {
        learner: take_replica(input)?,
        replaces: take_replica(input)?,
    })
}

fn take_text(input: &mut &[u8]) -> Result<String, ConfigurationError> {
    let len = take_u32(input)?;
    if len > MAX_TEXT {
        return Err(ConfigurationError(TOO_LONG));
    }
    let (text, rest) = input
        .split_at_checked(len as usize)
        .ok_or(ConfigurationError("cut off"))?;
    *input = rest;
    String::from_utf8(text.to_vec()).map_err(|_| ConfigurationError("an address is not UTF-8"))
}

fn take_list<T>(
    input: &mut &[u8],
    item: impl Fn(&mut &[u8]) -> Result<T, ConfigurationError>,
) -> Result<Vec<T>, ConfigurationError> {
    let count = take_u32(input)?;
    if count > MAX_MEMBERS {
        return Err(ConfigurationError(TOO_MANY));
    }
    (0..count).map(|_| item(input)).collect()
}

fn take_members(input: &mut &[u8]) -> Result<Vec<MemberInfo>, ConfigurationError> {
    take_list(input, |input| {
        Ok(MemberInfo {
            replica: take_replica(input)?,
            peer_address: take_text(input)?,
            client_endpoint: take_text(input)?,
            features: (take_u32(input)?, take_u32(input)?),
            priority: take_u32(input)?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(node: NodeId) -> MemberInfo {
        MemberInfo {
            replica: ReplicaId::new(node, Incarnation([node as u8; 16])),
            peer_address: format!("host-{node}:50052"),
            client_endpoint: String::new(),
            features: (1, 1),
            priority: 100 + node as u32,
        }
    }

    fn sets(incoming: u32, outgoing: u32) -> Configuration {
        let of = |bits: u32| (1..=7).filter(|n| bits >> n & 1 == 1).map(member).collect();
        Configuration {
            incoming: of(incoming),
            outgoing: of(outgoing),
            ..Default::default()
        }
    }

    #[test]
    fn b4_quorums_match_counting_them_out() {
        for (incoming, outgoing) in [
            (0b10, 0),
            (0b110, 0),
            (0b1110, 0),
            (0b11_1110, 0),
            (0b1110, 0b111_1000),
            (0b110, 0b1000),
        ] {
            let configuration = sets(incoming, outgoing);
            for have in 0..256u32 {
                let majority = |set: u32| (set & have).count_ones() * 2 > set.count_ones();
                let expected = majority(incoming) && (outgoing == 0 || majority(outgoing));
                let quorum = configuration.is_quorum(|who| have >> who.node & 1 == 1);
                assert_eq!(quorum, expected, "{incoming:b} {outgoing:b} {have:b}");
            }
        }
        assert!(
            !Configuration::default().is_quorum(|_| true),
            "nobody is no quorum"
        );
    }

    #[test]
    fn the_quorum_index_is_the_highest_that_a_majority_reached() {
        let configuration = sets(0b11_1110, 0);
        let reached = [0, 7, 3, 9, 1, 5];
        assert_eq!(
            configuration.quorum_index(|who| reached[who.node as usize]),
            5
        );
        let joint = sets(0b1110, 0b11_0000);
        assert_eq!(joint.quorum_index(|who| reached[who.node as usize]), 1);
    }

    #[test]
    fn b4_a_quorum_of_more_voters_than_fit_inline_is_the_same() {
        for count in [15, 16, 17, 40] {
            let configuration = Configuration {
                incoming: (1..=count).map(member).collect(),
                ..Configuration::default()
            };
            let median = configuration.quorum_index(|who| who.node * 10);
            assert_eq!(median, (count - count / 2) * 10, "{count} voters");
            assert!(configuration.is_quorum(|who| who.node <= count / 2 + 1));
            assert!(!configuration.is_quorum(|who| who.node <= count / 2));
        }
    }

    #[test]
    fn members_are_found_by_their_number_and_named_once() {
        let mut configuration = sets(0b110, 0b1100);
        configuration.learners.push(member(6));
        let nodes: Vec<_> = configuration
            .members()
            .map(|who| who.replica.node)
            .collect();
        assert_eq!(nodes, [1, 2, 3, 6]);
        for node in 0..9 {
            let expected = nodes.contains(&node).then(|| member(node));
            assert_eq!(configuration.member(node), expected.as_ref());
            let votes = [1, 2, 3].contains(&node);
            assert_eq!(configuration.is_voter(member(node).replica), votes);
        }
    }

    #[test]
    fn an_incarnation_outside_the_configuration_counts_nowhere() {
        let configuration = sets(0b1110, 0);
        let other_life = ReplicaId::new(2, Incarnation([9; 16]));
        assert!(!configuration.is_voter(other_life));
        let voters = [ReplicaId::new(1, Incarnation([1; 16])), other_life];
        assert!(!configuration.is_quorum(|who| voters.contains(&who)));
    }

    #[test]
    fn encoding_round_trips_and_damage_is_refused() {
        let mut configuration = sets(0b1110, 0b110);
        configuration.learners.push(member(6));
        configuration
            .tombstones
            .push(ReplicaId::new(4, Incarnation([8; 16])));
        configuration.feature_level = 3;
        configuration.skipped = vec![7, 900];
        let bytes = configuration.encode();
        assert_eq!(Configuration::decode(&bytes), Ok(configuration.clone()));
        for cut in 0..bytes.len() {
            Configuration::decode(&bytes[..cut]).expect_err("cut off");
        }
        assert_eq!(
            &bytes[..5],
            [1, 3, 0, 0, 0],
            "the version, and three voters"
        );
        let text = "host-1:50052".len();
        let features = 5 + 24 + 4 + text + 4;
        assert_eq!(
            bytes[features..features + 12],
            [1, 0, 0, 0, 1, 0, 0, 0, 101, 0, 0, 0]
        );
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0xff;
            let _ = Configuration::decode(&damaged); // any answer but a panic or a huge allocation
        }
    }

    /// These bytes are in logs and snapshots: whoever changes them makes another version.
    #[test]
    fn j2_golden_configuration() {
        let mut configuration = sets(0b10, 0b10);
        configuration.learners.push(member(5));
        configuration.promotions.push(Promotion {
            learner: member(5).replica,
            replaces: member(1).replica,
        });
        configuration.tombstones.push(member(4).replica);
        configuration.skipped = vec![0x0102];
        configuration.feature_level = 3;
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        let replica = |node: u8| {
            format!(
                "{node:02x}00000000000000{}",
                format!("{node:02x}").repeat(16)
            )
        };
        let whole = |node: u8| {
            let address = hex(format!("host-{node}:50052").as_bytes());
            format!(
                "{}0c000000{address}000000000100000001000000{:02x}000000",
                replica(node),
                100 + node
            )
        };
        let one = "01000000";
        let expected = [
            "01".to_owned(),
            format!("{one}{}", whole(1)),
            format!("{one}{}", whole(1)),
            format!("{one}{}", whole(5)),
            format!("{one}{}{}", replica(5), replica(1)),
            format!("{one}{}", replica(4)),
            "03000000".to_owned(),
            format!("{one}0201000000000000"),
        ];
        assert_eq!(hex(&configuration.encode()), expected.concat());
    }

    #[test]
    fn e9_configurations_that_can_never_be_right_are_refused() {
        let refusal = |configuration: &Configuration| {
            let read = Configuration::decode(&configuration.encode());
            read.err().map(|ConfigurationError(why)| why)
        };
        let in_life = |node: NodeId, life: u8| MemberInfo {
            replica: ReplicaId::new(node, Incarnation([life; 16])),
            ..MemberInfo::default()
        };
        assert_eq!(refusal(&sets(0, 0)), Some("no voter"));
        assert_eq!(refusal(&sets(0, 0b110)), Some("no voter"));
        type Set = fn(&mut Configuration) -> &mut Vec<MemberInfo>;
        let chosen: [Set; 3] = [
            |c| &mut c.incoming,
            |c| &mut c.outgoing,
            |c| &mut c.learners,
        ];
        for set in chosen {
            for (wrong, why) in [
                (member(2), "a member is named twice"),
                (in_life(2, 9), "a member is named twice"),
                (in_life(0, 9), "a member without id or incarnation"),
                (in_life(9, 0), "a member without id or incarnation"),
            ] {
                let mut configuration = sets(0b1110, 0b110);
                set(&mut configuration).retain(|other| other.replica.node != 2);
                set(&mut configuration).extend([member(2), wrong]);
                assert_eq!(refusal(&configuration), Some(why));
            }
            for (count, why) in [(1024, None), (1025, Some("more than 1024 members"))] {
                let mut configuration = sets(0b1110, 0b110);
                *set(&mut configuration) = (1..=count).map(|node| in_life(node, 99)).collect();
                assert_eq!(refusal(&configuration), why, "{count}");
            }
        }
        for (len, why) in [(512, None), (513, Some("an address over 512 bytes"))] {
            let mut configuration = sets(0b1110, 0);
            configuration.incoming[0].peer_address = "a".repeat(len);
            assert_eq!(refusal(&configuration), why, "{len}");
        }
        let mut replaced = sets(0b1110, 0b1110);
        replaced.incoming[1] = in_life(2, 9);
        assert_eq!(
            refusal(&replaced),
            None,
            "the old and the new life are voters"
        );
    }
}
