//! DeleteRange and UnsafeDestroyRange: removes all locks, records and values of a range, whatever transactions there
//! are.
//!
//! DeleteRange is a write like any other, for one region, and is replicated. UnsafeDestroyRange is for a whole store
//! and its regions' replicas there, beside raft, and gives the space back at once; clients send it to every store
//! when they drop a table that nobody will read again.

use bytes::Bytes;
use skerry_raftstore::engine::{ColumnFamily, KeyRange, WriteBatch};

use super::error::{Error, Result};
use super::{range_in, range_of};
use crate::mvcc::Changes;
use crate::storage::RegionView;

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
    pub fn ranges(&self) -> Result<[(ColumnFamily, KeyRange); 3]> {
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
        Ok(families.map(|family| (family, range.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::Key;

    #[test]
    fn a_range_is_destroyed_with_all_its_versions_and_none_of_its_end() {
        let destroy = |start: &'static str, end: &'static str| {
            UnsafeDestroyRange { start: start.into(), end: end.into() }.ranges()
        };
        let ranges = destroy("b", "d").expect("both ends are given");
        for (_, range) in &ranges {
            let holds = |user: &[u8]| range.contains(&Key::of(user).at(5.into()));
            assert!(holds(b"b") && holds(b"c") && holds(b"c\xff"));
            assert!(!holds(b"a") && !holds(b"d"));
        }
        let families = ranges.map(|(family, _)| family.name());
        assert_eq!(families, ["lock", "write", "default"]);
        for (start, end) in [("", "d"), ("b", ""), ("d", "b")] {
            assert!(matches!(destroy(start, end), Err(Error::Invalid(_))), "{start}..{end}");
        }
    }
}
