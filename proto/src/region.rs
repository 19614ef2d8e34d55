//! What is asked of a region: does it hold this key, is this epoch stale, which peer is on that
//! store. Pure functions on the generated messages, for every crate.
//!
//! A range is `[start, end)`: with its start, without its end. An empty start is before all keys
//! and needs no care, since the empty key is the smallest. An empty end is behind all keys and
//! does, since compared as bytes it would come first: compare ends with the functions below.
//!
//! **Invariant.** Of two epochs of one region, each counter only grows: a range changes only
//! together with `version`, the peers only together with `conf_ver`.

use std::cmp::Ordering;
use std::fmt;

use prost::bytes::Bytes;

use crate::metapb::{Peer, PeerRole, Region, RegionEpoch};
use crate::types::{PeerId, RegionId, StoreId};

/// A range of keys, borrowed from whoever knows it.
///
/// Prints as `[a, b)`, with ∞ for an open end and other bytes than printable ASCII escaped. Keys
/// are users' data: a log line that contains a range must be made where redaction is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyBounds<'a> {
    /// The first key of the range.
    pub start: &'a [u8],
    /// The first key behind it; empty if there is none.
    pub end: &'a [u8],
}

impl<'a> KeyBounds<'a> {
    /// The range of all keys.
    pub const ALL: KeyBounds<'static> = KeyBounds { start: b"", end: b"" };

    /// The range from `start` to `end`, of which an empty one means "no end".
    pub const fn new(start: &'a [u8], end: &'a [u8]) -> Self {
        Self { start, end }
    }

    /// Whether there is no key in the range. A range given by a client may also be inverted, which
    /// is the same here.
    pub fn is_empty(&self) -> bool {
        !is_before_end(self.start, self.end)
    }

    /// Whether a key lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start <= key && is_before_end(key, self.end)
    }

    /// Whether all keys of `other` lie in this range.
    pub fn encloses(&self, other: &KeyBounds<'_>) -> bool {
        other.is_empty() || self.start <= other.start && compare_ends(other.end, self.end).is_le()
    }

    /// Whether some key lies in both ranges.
    pub fn overlaps(&self, other: &KeyBounds<'_>) -> bool {
        self.clamp(other).is_some()
    }

    /// The keys that lie in both ranges, or `None` if there are none. This is what a store makes
    /// of a range that reaches beyond a region.
    pub fn clamp(&self, limits: &KeyBounds<'a>) -> Option<KeyBounds<'a>> {
        let end = match compare_ends(self.end, limits.end) {
            Ordering::Less => self.end,
            _ => limits.end,
        };
        let both = KeyBounds { start: self.start.max(limits.start), end };
        (!both.is_empty()).then_some(both)
    }
}

impl fmt::Display for KeyBounds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, ", self.start.escape_ascii())?;
        match self.end {
            [] => f.write_str("∞)"),
            end => write!(f, "{})", end.escape_ascii()),
        }
    }
}

/// Whether a key comes before the end of a range.
pub fn is_before_end(key: &[u8], end: &[u8]) -> bool {
    end.is_empty() || key < end
}

/// Compares the ends of two ranges, of which an empty one is behind all others.
pub fn compare_ends(a: &[u8], b: &[u8]) -> Ordering {
    (a.is_empty(), a).cmp(&(b.is_empty(), b))
}

/// The end of a range as a key of an ordered map: open ends come last.
///
/// In a map of ranges that do not overlap, by their ends, the one that can contain a key is the
/// first whose end is greater than `EndKey::Key(key)`, which holds for the empty key too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndKey {
    /// The range ends before this key. Empty only in a search, never as the end of a range.
    Key(Bytes),
    /// The range has no end.
    Open,
}

impl EndKey {
    /// From the form that messages have, where empty means open.
    pub fn from_wire(end: &Bytes) -> Self {
        match end.is_empty() {
            true => Self::Open,
            false => Self::Key(end.clone()),
        }
    }

    /// The form that messages have.
    pub fn to_wire(&self) -> Bytes {
        match self {
            Self::Key(key) => key.clone(),
            Self::Open => Bytes::new(),
        }
    }
}

impl Region {
    /// The id as a type.
    pub fn region_id(&self) -> RegionId {
        RegionId::new(self.id)
    }

    /// The epoch; zero if the message has none.
    pub fn epoch(&self) -> RegionEpoch {
        self.region_epoch.unwrap_or_default()
    }

    /// The range of keys that belong to the region.
    pub fn bounds(&self) -> KeyBounds<'_> {
        KeyBounds::new(&self.start_key, &self.end_key)
    }

    /// Whether a key, in the form of region boundaries, belongs to the region.
    pub fn contains_key(&self, key: &[u8]) -> bool {
        self.bounds().contains(key)
    }

    /// The replica on a store. A store has at most one of a region.
    pub fn peer_on_store(&self, store: StoreId) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.store_id == store.get())
    }

    /// The replica with an id.
    pub fn peer_by_id(&self, id: PeerId) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.id == id.get())
    }
}

/// `r4 c1v2 {p5@s1 p6@s2 p7@s3(learner)}`. Boundaries are left out, see [`KeyBounds`].
impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {{", self.region_id(), self.epoch())?;
        for (position, peer) in self.peers.iter().enumerate() {
            let separator = if position == 0 { "" } else { " " };
            write!(f, "{separator}{peer}")?;
        }
        f.write_str("}")
    }
}

impl RegionEpoch {
    /// Whether this epoch is older than `current` in either counter: whoever carries it has not
    /// seen a change of range or peers.
    pub fn is_stale(&self, current: &RegionEpoch) -> bool {
        self.version < current.version || self.conf_ver < current.conf_ver
    }
}

/// `c1v2`: changes of configuration, then version of the range.
impl fmt::Display for RegionEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}v{}", self.conf_ver, self.version)
    }
}

impl Peer {
    /// The id as a type.
    pub fn peer_id(&self) -> PeerId {
        PeerId::new(self.id)
    }

    /// The store as a type.
    pub fn store(&self) -> StoreId {
        StoreId::new(self.store_id)
    }

    /// Whether the replica only receives the log and has no vote in any configuration. A role that
    /// is unknown here counts as a voter's, which is what the getter of the message makes of it.
    pub fn is_learner(&self) -> bool {
        self.role() == PeerRole::Learner
    }
}

/// `p5@s1`, followed by the role in brackets unless it is a voter's.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.peer_id(), self.store())?;
        match self.role() {
            PeerRole::Voter => Ok(()),
            PeerRole::Learner => f.write_str("(learner)"),
            PeerRole::IncomingVoter => f.write_str("(incoming)"),
            PeerRole::DemotingVoter => f.write_str("(demoting)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::Bound::{Excluded, Unbounded};

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn region(peers: &[(u64, u64, PeerRole)]) -> Region {
        let peer = |&(id, store_id, role): &_| Peer { id, store_id, role: i32::from(role) };
        Region {
            id: 4,
            start_key: Bytes::from_static(b"a"),
            end_key: Bytes::from_static(b"m\0"),
            region_epoch: Some(RegionEpoch { conf_ver: 1, version: 2 }),
            peers: peers.iter().map(peer).collect(),
        }
    }

    #[test]
    fn a_region_prints_as_one_line() {
        let region = region(&[
            (5, 1, PeerRole::Voter),
            (6, 2, PeerRole::Learner),
            (7, 3, PeerRole::IncomingVoter),
            (8, 9, PeerRole::DemotingVoter),
        ]);
        assert_eq!(
            region.to_string(),
            "r4 c1v2 {p5@s1 p6@s2(learner) p7@s3(incoming) p8@s9(demoting)}"
        );
        assert_eq!(region.bounds().to_string(), r"[a, m\x00)");
        assert_eq!(KeyBounds::ALL.to_string(), "[, ∞)");
        assert_eq!(Region::default().to_string(), "r0 c0v0 {}");
    }

    #[test]
    fn a_region_has_its_start_but_not_its_end() {
        let region = region(&[]);
        assert!(!region.contains_key(b""));
        assert!(region.contains_key(b"a"));
        assert!(region.contains_key(b"m"));
        assert!(!region.contains_key(b"m\0"));

        let last = Region { start_key: Bytes::from_static(b"m\0"), ..Region::default() };
        assert!(!last.contains_key(b"m"));
        assert!(last.contains_key(b"m\0"));
        assert!(last.contains_key(b"\xff\xff"));
    }

    #[test]
    fn peers_are_found_by_id_and_by_store() {
        let region = region(&[(5, 1, PeerRole::Voter), (1, 5, PeerRole::Learner)]);
        assert_eq!(region.peer_by_id(PeerId::new(5)).map(Peer::store), Some(StoreId::new(1)));
        assert_eq!(region.peer_on_store(StoreId::new(5)).map(Peer::peer_id), Some(PeerId::new(1)));
        assert!(region.peer_on_store(StoreId::new(5)).is_some_and(Peer::is_learner));
        assert_eq!(region.peer_by_id(PeerId::new(4)), None);
        assert_eq!(region.peer_on_store(StoreId::new(4)), None);
    }

    #[test]
    fn an_epoch_is_stale_if_either_counter_is_behind() {
        let epoch = |conf_ver, version| RegionEpoch { conf_ver, version };
        assert!(!epoch(3, 5).is_stale(&epoch(3, 5)));
        assert!(epoch(2, 5).is_stale(&epoch(3, 5)));
        assert!(epoch(3, 4).is_stale(&epoch(3, 5)));
        assert!(!epoch(4, 6).is_stale(&epoch(3, 5)));
        // Neither was derived from the other; each has missed something.
        assert!(epoch(2, 6).is_stale(&epoch(3, 5)));
        assert!(epoch(4, 4).is_stale(&epoch(3, 5)));
    }

    #[test]
    fn in_a_map_by_end_every_key_finds_its_range() {
        let wire = |end: &'static str| EndKey::from_wire(&Bytes::from_static(end.as_bytes()));
        let map = BTreeMap::from([(wire(""), "last"), (wire("m"), "middle"), (wire("a"), "first")]);
        let find = |key: &'static str| {
            let search = EndKey::Key(Bytes::from_static(key.as_bytes()));
            map.range((Excluded(search), Unbounded)).next().map(|(_, name)| *name)
        };
        assert_eq!(find(""), Some("first"));
        assert_eq!(find("a"), Some("middle"));
        assert_eq!(find("lzzz"), Some("middle"));
        assert_eq!(find("m"), Some("last"));
        assert_eq!(find("z"), Some("last"));
    }

    /// Keys of one byte out of six. The model of a range is the list of those it contains, plus one
    /// that stands for all keys behind them.
    fn small_key() -> impl Strategy<Value = Vec<u8>> {
        vec(b'a'..=b'e', 0..=1)
    }

    fn keys_in(range: &KeyBounds<'_>) -> Vec<&'static [u8]> {
        let keys: [&[u8]; 7] = [b"", b"a", b"b", b"c", b"d", b"e", b"\xff"];
        keys.into_iter().filter(|key| range.contains(key)).collect()
    }

    proptest! {
        #[test]
        fn ranges_behave_as_sets_of_keys(
            a in small_key(), b in small_key(), c in small_key(), d in small_key(),
        ) {
            let (x, y) = (KeyBounds::new(&a, &b), KeyBounds::new(&c, &d));
            let (in_x, in_y) = (keys_in(&x), keys_in(&y));
            let in_both: Vec<_> = in_x.iter().copied().filter(|key| y.contains(key)).collect();

            prop_assert_eq!(x.is_empty(), in_x.is_empty());
            prop_assert_eq!(x.overlaps(&y), !in_both.is_empty());
            prop_assert_eq!(x.encloses(&y), in_y.len() == in_both.len());
            prop_assert_eq!(x.clamp(&y).map_or(vec![], |both| keys_in(&both)), in_both);
        }

        #[test]
        fn ends_are_ordered_alike_as_bytes_and_as_map_keys(a in small_key(), b in small_key()) {
            let (x, y) = (Bytes::from(a), Bytes::from(b));
            let expected = match (x.is_empty(), y.is_empty()) {
                (true, true) => Ordering::Equal,
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                (false, false) => x.cmp(&y),
            };
            prop_assert_eq!(compare_ends(&x, &y), expected);
            prop_assert_eq!(EndKey::from_wire(&x).cmp(&EndKey::from_wire(&y)), expected);
            prop_assert_eq!(EndKey::from_wire(&x).to_wire(), x);
        }
    }
}
