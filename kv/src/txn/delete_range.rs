//! DeleteRange and UnsafeDestroyRange: removes all locks, records and values of a range, whatever transactions there
//! are.
//!
//! DeleteRange is a write like any other, for one region, and is replicated. UnsafeDestroyRange is for a whole store
//! and its regions' replicas there, beside raft, and gives the space back at once; clients send it to every store
//! when they drop a table that nobody will read again. It takes raw pairs of these keys along, as with TiKV, where both
//! lie in the same place.

use bytes::Bytes;
use skerry_raftstore::engine::{ColumnFamily, KeyRange, WriteBatch};
use skerry_raftstore::keys::DataSpace;

use super::error::{Error, Result};
use super::{encode_bound, range_in, range_of};
use crate::mvcc::Changes;
use crate::storage::{ApiVersion, RegionView};

/// Removes a range in one region. It takes no latches: a transaction in that range that goes on beside it has no
/// promise.
#[derive(Clone, Debug)]
pub struct DeleteRange {
    /// The first user key; must be in the region.
    pub start: Bytes,
    /// The first user key that stays; empty, or behind the region: the region's end.
    pub end: Bytes,
}

impl DeleteRange {
    /// What to write.
    pub fn run(&self, view: &RegionView) -> Result<WriteBatch> {
        let whole = range_of(&self.start, &self.end);
        view.check_key(&whole.start)?;
        let mut changes = Changes::new();
        if let Some(range) =
            range_in(view, &self.start, &self.end).filter(|range| !range.is_empty())
        {
            changes.delete_range(&range);
        }
        Ok(changes.into_batch())
    }
}

/// Removes a range on a whole store.
#[derive(Clone, Debug)]
pub struct UnsafeDestroyRange {
    /// The first user key.
    pub start: Bytes,
    /// The first user key that stays.
    pub end: Bytes,
}

impl UnsafeDestroyRange {
    /// What to destroy in which family of the data engine ([`skerry_raftstore::engine::Engine::destroy_range`]), before
    /// the request is answered. Both ends must be given: without one it would be everybody's data.
    pub fn ranges(&self, version: ApiVersion) -> Result<Vec<(ColumnFamily, KeyRange)>> {
        if self.start.is_empty() || self.end.is_empty() {
            let text = "a range to be destroyed has a start and an end";
            return Err(Error::Invalid(text.to_string()));
        }
        if self.start > self.end {
            let text = "a range to be destroyed starts before its end";
            return Err(Error::Invalid(text.to_string()));
        }
        let range = range_of(&self.start, &self.end);
        // Locks first: what has no lock any more is not waited for while its records go.
        let families = [ColumnFamily::Lock, ColumnFamily::Write, ColumnFamily::Default];
        let transactional = families.map(|family| (family, range.clone()));
        Ok(transactional.into_iter().chain(self.raw_ranges(version)).collect())
    }

    fn raw_ranges(&self, version: ApiVersion) -> impl Iterator<Item = (ColumnFamily, KeyRange)> {
        let (start, end) = match version {
            ApiVersion::V1 => (self.start.to_vec(), self.end.to_vec()),
            ApiVersion::V2 => (encode_bound(&self.start), encode_bound(&self.end)),
        };
        DataSpace::ALL.into_iter().map(move |space| {
            let (start, end) = space.range(&start, &end);
            (ColumnFamily::Raw, KeyRange { start, end })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::Key;

    #[test]
    fn a_range_is_destroyed_with_all_its_versions_and_none_of_its_end() {
        let destroy = |start: &'static str, end: &'static str| {
            UnsafeDestroyRange { start: start.into(), end: end.into() }.ranges(ApiVersion::V1)
        };
        let ranges = destroy("b", "d").expect("both ends are given");
        for (_, range) in &ranges[..3] {
            let holds = |user: &[u8]| range.contains(&Key::of(user).at(5.into()));
            assert!(holds(b"b") && holds(b"c") && holds(b"c\xff"));
            assert!(!holds(b"a") && !holds(b"d"));
        }
        let families: Vec<_> = ranges.iter().map(|(family, _)| family.name()).collect();
        assert_eq!(families, ["lock", "write", "default", "raw", "raw", "raw"]);
        let raw = &ranges[3].1;
        assert!(
            raw.contains(&DataSpace::Main.key(b"b")) && !raw.contains(&DataSpace::Main.key(b"d"))
        );
        for (start, end) in [("", "d"), ("b", ""), ("d", "b")] {
            assert!(matches!(destroy(start, end), Err(Error::Invalid(_))), "{start}..{end}");
        }
    }
}
