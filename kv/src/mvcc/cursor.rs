//! A cursor that steps to what is near and seeks what is far, and counts both.
//!
//! Versions of one key, and keys that follow each other, are mostly neighbours: a step costs a tenth of a seek. But a
//! key may have thousands of versions. So every movement to a target first takes up to [`STEPS_BEFORE_SEEK`] steps
//! towards it, and seeks only if it has not arrived.
//!
//! **Invariant.** Where it stands after a movement depends on the target alone: whether to step is decided by the key
//! on which it really stands, so it may be moved in any direction, in any order.

use skerry_raftstore::engine::Cursor;
use skerry_raftstore::extent::FlowTally;

use crate::error::Result;

/// Steps after which a target counts as far away. A seek costs about as much as so many steps.
pub const STEPS_BEFORE_SEEK: usize = 10;

/// What a read did cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Movements by a search through the engine's index.
    pub seeks: u64,
    /// Movements by one.
    pub steps: u64,
    /// Versions that became part of the answer, or that said that there is none.
    pub processed_versions: u64,
    /// Bytes of their keys and values.
    pub processed_bytes: u64,
}

impl Statistics {
    /// Adds what another read did cost.
    pub fn add(&mut self, other: Statistics) {
        self.seeks += other.seeks;
        self.steps += other.steps;
        self.processed_versions += other.processed_versions;
        self.processed_bytes += other.processed_bytes;
    }

    /// Counts, for the scheduler, what was read of a region.
    pub fn note(&self, reads: &FlowTally) {
        reads.count(self.processed_versions, self.processed_bytes);
    }
}

/// See the head of this file.
pub struct SteppingCursor<'view> {
    inner: Box<dyn Cursor + 'view>,
    stands: bool,
    /// What it did so far; `processed_*` are its user's to count.
    pub statistics: Statistics,
}

impl<'view> SteppingCursor<'view> {
    /// Begins nowhere.
    pub fn new(inner: Box<dyn Cursor + 'view>) -> SteppingCursor<'view> {
        SteppingCursor { inner, stands: false, statistics: Statistics::default() }
    }

    /// The pair on which it stands.
    pub fn pair(&self) -> Option<(&[u8], &[u8])> {
        self.stands.then(|| (self.inner.key(), self.inner.value()))
    }

    /// The key on which it stands.
    pub fn key(&self) -> Option<&[u8]> {
        self.stands.then(|| self.inner.key())
    }

    /// Moves to the first key at or behind `target`.
    pub fn seek(&mut self, target: &[u8]) -> Result<bool> {
        let ahead = self.key().is_some_and(|key| key <= target);
        for _ in 0..if ahead { STEPS_BEFORE_SEEK } else { 0 } {
            match self.key() {
                Some(key) if key < target => self.forward()?,
                _ => return Ok(self.stands),
            };
        }
        if ahead && self.key().is_none_or(|key| key >= target) {
            return Ok(self.stands);
        }
        self.statistics.seeks += 1;
        self.stands = self.inner.seek(target)?;
        Ok(self.stands)
    }

    /// Moves to the last key at or before `target`.
    pub fn seek_for_previous(&mut self, target: &[u8]) -> Result<bool> {
        let behind = self.key().is_some_and(|key| key >= target);
        for _ in 0..if behind { STEPS_BEFORE_SEEK } else { 0 } {
            match self.key() {
                Some(key) if key > target => self.back()?,
                _ => return Ok(self.stands),
            };
        }
        if behind && self.key().is_none_or(|key| key <= target) {
            return Ok(self.stands);
        }
        self.statistics.seeks += 1;
        self.stands = self.inner.seek_for_previous(target)?;
        Ok(self.stands)
    }

    /// Moves to the first key of its range.
    pub fn seek_to_first(&mut self) -> Result<bool> {
        self.statistics.seeks += 1;
        self.stands = self.inner.seek_to_first()?;
        Ok(self.stands)
    }

    /// Moves to the last key of its range.
    pub fn seek_to_last(&mut self) -> Result<bool> {
        self.statistics.seeks += 1;
        self.stands = self.inner.seek_to_last()?;
        Ok(self.stands)
    }

    /// Moves one key up; stays nowhere if it stands nowhere.
    pub fn forward(&mut self) -> Result<bool> {
        if self.stands {
            self.statistics.steps += 1;
            self.stands = self.inner.next()?;
        }
        Ok(self.stands)
    }

    /// Moves one key down; stays nowhere if it stands nowhere.
    pub fn back(&mut self) -> Result<bool> {
        if self.stands {
            self.statistics.steps += 1;
            self.stands = self.inner.previous()?;
        }
        Ok(self.stands)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use skerry_raftstore::engine::memory::MemoryEngine;
    use skerry_raftstore::engine::{ColumnFamily, Durability, Engine, KeyRange, WriteBatch};

    use super::*;

    proptest! {
        /// However it got where it stands, a movement ends where a fresh cursor's would.
        #[test]
        fn stepping_ends_where_seeking_does(
            keys in vec(any::<u8>(), 0..60), moves in vec((any::<u8>(), 0..4_u8), 1..30),
        ) {
            let engine = MemoryEngine::new();
            let mut batch = WriteBatch::new();
            for key in &keys {
                batch.put(ColumnFamily::Write, vec![*key, 0], "");
            }
            engine.write(batch, Durability::Buffered).unwrap();
            let view = engine.view();
            let range = KeyRange::new(&b"\x10"[..], &b"\xf0"[..]);
            let fresh = || view.cursor(ColumnFamily::Write, &range).unwrap();
            let mut cursor = SteppingCursor::new(fresh());
            for (target, kind) in moves {
                let target = [target, 0];
                let mut expected = fresh();
                let (stands, expects) = match kind {
                    0 | 1 => (cursor.seek(&target).unwrap(), expected.seek(&target).unwrap()),
                    2 => (
                        cursor.seek_for_previous(&target).unwrap(),
                        expected.seek_for_previous(&target).unwrap(),
                    ),
                    _ => (cursor.forward().unwrap(), match cursor.key() {
                        Some(key) => expected.seek(key).unwrap(),
                        None => false,
                    }),
                };
                prop_assert_eq!(stands, expects);
                prop_assert_eq!(cursor.key(), stands.then(|| expected.key()));
            }
        }
    }
}
