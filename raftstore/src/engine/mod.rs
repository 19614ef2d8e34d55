//! The ordered local store: what every engine promises, in prose, and the small trait that says it.
//!
//! A store has two engines. The **data engine** ([`Engine`], this file) holds what users wrote and the
//! state of regions, in column families. The **log engine** ([`log::LogEngine`]) holds raft entries.
//! [`memory`] and [`rocks`] implement the first; the same golden scripts run on both, and a mirror test
//! drives both with one random sequence of operations.
//!
//! # The contract
//!
//! 1. **Families** are separate ordered maps from bytes to bytes, compared as unsigned bytes. An empty
//!    value is a value. Keys that begin with [`KEYS_END`] are reserved; writing one panics.
//! 2. **A batch is atomic**: readers and a restart see all of it or nothing, over all families, and its
//!    operations take effect in the order they were added.
//! 3. **Order**: batches become visible in the order in which `write` calls return or, for calls that
//!    overlap, in some one order. Once `write` has returned, every later `get`, `view` and write sees it.
//! 4. **Durability**: a [`Durability::Synced`] write survives power loss once it has returned, and with it
//!    every batch written before. A [`Durability::Buffered`] one survives the death of the process, and
//!    survives power loss only if something was synced after it. What is lost is always a suffix, over
//!    all families together: never a batch whose successor is still there.
//! 5. **A view** shows the state of one moment for as long as it is held, over all families, and costs a
//!    few microseconds. It holds back space, so nobody keeps one across a wait for a client.
//! 6. **Errors are fatal**: there is no partial success. After an error of `write`, `sync` or `ingest`
//!    the caller ends the process.
//!
//! **Invariant.** Range ends are exclusive everywhere; an empty end means *no upper bound*.
//!
//! What an engine does not do: it knows no regions, no timestamps and no expiry; it never retries.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use skerry_proto::region::KeyBounds;

use crate::Result;

pub mod directory;
pub(crate) mod files;
pub mod log;
pub mod memory;
pub mod rocks;
#[cfg(test)]
mod tests;
mod torn_manifest;
mod torn_wal;

/// Above every key: where RocksDB wants a real key, this one says *no upper bound*. All keys of the store
/// begin with a prefix from [`crate::keys`] or a letter, so nothing that a client sends can come near it.
pub const KEYS_END: &[u8] = &[0xFF; 8];

/// One ordered map of the data engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ColumnFamily {
    /// Values of transactions too long to stand in their commit record.
    Default,
    /// Locks of transactions that have not ended.
    Lock,
    /// Commit and rollback records.
    Write,
    /// Pairs of the raw API, with their expiry.
    Raw,
    /// Local keys: identity of the store, states of regions. Never user data.
    Raft,
}

impl ColumnFamily {
    /// Every family, in the order in which they are opened and listed.
    pub const ALL: [ColumnFamily; 5] = [
        ColumnFamily::Default,
        ColumnFamily::Lock,
        ColumnFamily::Write,
        ColumnFamily::Raw,
        ColumnFamily::Raft,
    ];

    /// The families that hold user data: those a region's snapshot, split and cleanup consist of.
    pub const DATA: [ColumnFamily; 4] =
        [ColumnFamily::Default, ColumnFamily::Lock, ColumnFamily::Write, ColumnFamily::Raw];

    /// The name on disk, in metrics and in file names.
    pub const fn name(self) -> &'static str {
        match self {
            ColumnFamily::Default => "default",
            ColumnFamily::Lock => "lock",
            ColumnFamily::Write => "write",
            ColumnFamily::Raw => "raw",
            ColumnFamily::Raft => "raft",
        }
    }
}

impl std::fmt::Display for ColumnFamily {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A half-open range of keys. An empty `end` is no upper bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key inside.
    pub start: Bytes,
    /// The first key outside, or empty.
    pub end: Bytes,
}

impl KeyRange {
    /// The range from `start` up to but without `end`.
    pub fn new(start: impl Into<Bytes>, end: impl Into<Bytes>) -> KeyRange {
        KeyRange { start: start.into(), end: end.into() }
    }

    /// Whether `key` lies inside.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && (self.end.is_empty() || key < &self.end[..])
    }

    /// The first key outside, as a real key.
    pub fn end_or_last(&self) -> &[u8] {
        if self.end.is_empty() { KEYS_END } else { &self.end }
    }

    /// Whether no key can lie inside.
    pub fn is_empty(&self) -> bool {
        !self.end.is_empty() && self.start >= self.end
    }
}

impl From<KeyBounds<'_>> for KeyRange {
    fn from(bounds: KeyBounds<'_>) -> KeyRange {
        KeyRange {
            start: Bytes::copy_from_slice(bounds.start),
            end: Bytes::copy_from_slice(bounds.end),
        }
    }
}

/// What must be true when a write returns (contract, 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// In the engine and the operating system: survives `kill -9`.
    Buffered,
    /// On the medium: survives power loss.
    Synced,
}

/// One change of a [`WriteBatch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Sets a key.
    Put(ColumnFamily, Bytes, Bytes),
    /// Removes a key; removing what is not there is no error.
    Delete(ColumnFamily, Bytes),
    /// Removes every key of a range.
    DeleteRange(ColumnFamily, KeyRange),
}

/// Changes that happen together or not at all, in order. Keys and values are shared, not copied: bytes
/// that came off the wire go into the engine with one copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    operations: Vec<Operation>,
    bytes: usize,
}

impl WriteBatch {
    /// A batch without changes.
    pub fn new() -> WriteBatch {
        WriteBatch::default()
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, family: ColumnFamily, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        let key = key.into();
        assert!(!key.starts_with(KEYS_END), "key {key:?} is above the end of all keys");
        self.push(Operation::Put(family, key, value.into()));
    }

    /// Removes `key`.
    pub fn delete(&mut self, family: ColumnFamily, key: impl Into<Bytes>) {
        self.push(Operation::Delete(family, key.into()));
    }

    /// Removes every key of `range`.
    pub fn delete_range(&mut self, family: ColumnFamily, range: KeyRange) {
        self.push(Operation::DeleteRange(family, range));
    }

    /// Adds all changes of `other` behind those of this batch.
    pub fn append(&mut self, other: WriteBatch) {
        self.bytes += other.bytes;
        self.operations.extend(other.operations);
    }

    /// The changes, in order.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// The changes, in order, given away.
    pub fn into_operations(self) -> Vec<Operation> {
        self.operations
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Bytes of keys and values, for limits on how much is merged into one write.
    pub fn byte_size(&self) -> usize {
        self.bytes
    }

    fn push(&mut self, operation: Operation) {
        self.bytes += match &operation {
            Operation::Put(_, key, value) => key.len() + value.len(),
            Operation::Delete(_, key) => key.len(),
            Operation::DeleteRange(_, range) => range.start.len() + range.end.len(),
        };
        self.operations.push(operation);
    }
}

/// The data engine. See the contract above; shared by all threads.
pub trait Engine: Send + Sync {
    /// The newest value of `key`, without taking a view.
    fn get(&self, family: ColumnFamily, key: &[u8]) -> Result<Option<Bytes>>;

    /// A consistent view of this moment.
    fn view(&self) -> Arc<dyn View>;

    /// Applies `batch` atomically. An empty batch with [`Durability::Synced`] still makes everything
    /// written before durable.
    fn write(&self, batch: WriteBatch, durability: Durability) -> Result<()>;

    /// Removes `range` from one family for good and gives its space back soon, dropping whole files where
    /// it can. Not for ranges that anybody may still read through an older view: such a view may or may not
    /// see the removed keys. Durable only after a later synced write; idempotent.
    fn destroy_range(&self, family: ColumnFamily, range: &KeyRange) -> Result<()>;

    /// Starts a table file at `path` for [`Engine::ingest`], to be filled in ascending key order.
    fn table_writer(&self, family: ColumnFamily, path: &Path) -> Result<Box<dyn TableWriter>>;

    /// Adds finished table files to one family, over what is there. Counts as a synced write. The files are
    /// hard-linked or copied; the originals stay.
    fn ingest(&self, family: ColumnFamily, tables: &[PathBuf]) -> Result<()>;

    /// Roughly how many bytes `range` occupies, keys and values, within a factor of two for large ranges.
    fn approximate_size(&self, family: ColumnFamily, range: &KeyRange) -> Result<u64> {
        Ok(self.table_size(family, range)? + self.buffered_size(family, range)?)
    }

    /// Roughly how many bytes table files hold of `range`, as they are on disk: compressed, and with what was
    /// overwritten or removed since. Reads no pair, and grows with the range to within some blocks of a file.
    fn table_size(&self, family: ColumnFamily, range: &KeyRange) -> Result<u64>;

    /// Bytes of the pairs in `range` that wait in memory to be written into table files. Reads them one by one.
    fn buffered_size(&self, family: ColumnFamily, range: &KeyRange) -> Result<u64>;

    /// Writes a copy of the present state into the new directory `path`, durable and ready to be opened.
    fn checkpoint(&self, path: &Path) -> Result<()>;
}

/// A consistent read view of one moment (contract, 5).
pub trait View: Send + Sync {
    /// The value of `key` at that moment.
    fn get(&self, family: ColumnFamily, key: &[u8]) -> Result<Option<Bytes>>;

    /// A cursor confined to `range`, not yet standing anywhere.
    fn cursor(&self, family: ColumnFamily, range: &KeyRange) -> Result<Box<dyn Cursor + '_>>;

    /// The same where all keys in `range` are those at its start but for their last eight bytes: the versions of one
    /// key. Filters may then say, without a search, that there is none.
    fn cursor_of_versions(
        &self,
        family: ColumnFamily,
        range: &KeyRange,
    ) -> Result<Box<dyn Cursor + '_>> {
        self.cursor(family, range)
    }

    /// The same for whoever walks over much that nobody may want again soon: what is read for it takes no place in
    /// memory from what others read.
    fn cursor_once(&self, family: ColumnFamily, range: &KeyRange) -> Result<Box<dyn Cursor + '_>> {
        self.cursor(family, range)
    }
}

/// Walks the pairs of one family inside its range. Every movement answers whether it stands on a pair;
/// after `false` it stands nowhere and only a seek moves it again.
pub trait Cursor {
    /// Moves to the first key at or after `key`.
    fn seek(&mut self, key: &[u8]) -> Result<bool>;

    /// Moves to the last key at or before `key`.
    fn seek_for_previous(&mut self, key: &[u8]) -> Result<bool>;

    /// Moves to the first key of the range.
    fn seek_to_first(&mut self) -> Result<bool>;

    /// Moves to the last key of the range.
    fn seek_to_last(&mut self) -> Result<bool>;

    /// Moves one key up. Panics when it stands nowhere.
    fn next(&mut self) -> Result<bool>;

    /// Moves one key down. Panics when it stands nowhere.
    fn previous(&mut self) -> Result<bool>;

    /// The key it stands on. Panics when it stands nowhere.
    fn key(&self) -> &[u8];

    /// The value it stands on. Panics when it stands nowhere.
    fn value(&self) -> &[u8];
}

/// Fills one table file for [`Engine::ingest`].
pub trait TableWriter: Send {
    /// Removes the whole `range` when the table is ingested, beneath the pairs of the same table. At most
    /// once, before the first pair.
    fn delete_range(&mut self, range: &KeyRange) -> Result<()>;

    /// Adds a pair; keys ascend strictly.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()>;

    /// Syncs and closes the file; answers its size in bytes.
    fn finish(self: Box<Self>) -> Result<u64>;
}
