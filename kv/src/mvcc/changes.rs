//! What a command does to locks, records and values, as one batch for the engine.

use bytes::Bytes;
use skerry_proto::types::Ts;
use skerry_raftstore::engine::{ColumnFamily, KeyRange, WriteBatch};

use super::{Key, Lock, LockKind, SHORT_VALUE_BYTES_MAX, Write};

/// Collects changes. They happen together, in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    batch: WriteBatch,
}

impl Changes {
    /// No change.
    pub fn new() -> Changes {
        Changes::default()
    }

    /// The batch for the engine.
    pub fn into_batch(self) -> WriteBatch {
        self.batch
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.batch.operations().len()
    }

    /// Bytes of their keys and values.
    pub fn byte_size(&self) -> usize {
        self.batch.byte_size()
    }

    /// Sets or replaces the lock of `key`.
    pub fn put_lock(&mut self, key: &Key, lock: &Lock) {
        self.batch.put(ColumnFamily::Lock, key.to_bytes(), lock.encode());
    }

    /// Takes the lock of `key` away.
    pub fn delete_lock(&mut self, key: &Key) {
        self.batch.delete(ColumnFamily::Lock, key.to_bytes());
    }

    /// Sets the record of `key` at `ts`.
    pub fn put_write(&mut self, key: &Key, ts: Ts, write: &Write) {
        self.batch.put(ColumnFamily::Write, key.at(ts), write.encode());
    }

    /// Takes the record of `key` at `ts` away.
    pub fn delete_write(&mut self, key: &Key, ts: Ts) {
        self.batch.delete(ColumnFamily::Write, key.at(ts));
    }

    /// Puts `value` where it belongs: answers it if it is short and goes into lock and record, and stores it as the
    /// long value of `start_ts` otherwise.
    pub fn place_value(&mut self, key: &Key, start_ts: Ts, value: Bytes) -> Option<Bytes> {
        if value.len() <= SHORT_VALUE_BYTES_MAX {
            return Some(value);
        }
        self.put_value(key, start_ts, value);
        None
    }

    /// Stores a long value.
    pub fn put_value(&mut self, key: &Key, start_ts: Ts, value: Bytes) {
        self.batch.put(ColumnFamily::Default, key.at(start_ts), value);
    }

    /// Takes a long value away.
    pub fn delete_value(&mut self, key: &Key, start_ts: Ts) {
        self.batch.delete(ColumnFamily::Default, key.at(start_ts));
    }

    /// Takes away the long value that `lock` on `key` refers to, if it does.
    pub fn delete_value_of(&mut self, key: &Key, lock: &Lock) {
        if lock.kind == LockKind::Put && lock.short_value.is_none() {
            self.delete_value(key, lock.start_ts);
        }
    }

    /// Removes every lock, record and value in a range of data keys.
    pub fn delete_range(&mut self, range: &KeyRange) {
        for family in [ColumnFamily::Lock, ColumnFamily::Write, ColumnFamily::Default] {
            self.batch.delete_range(family, range.clone());
        }
    }
}
