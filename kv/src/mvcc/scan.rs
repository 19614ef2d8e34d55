//! Walks a range and shows what a read sees of each key, upwards or downwards.
//!
//! Both directions work alike, with one cursor over locks and one over records:
//!
//! 1. The nearer of the two decides which key is next; both may stand on the same.
//! 2. A lock is looked at by the rules of the read. If it stands in the way, the key is shown as locked and the walk
//!    goes on behind it.
//! 3. The version at the read's timestamp is found: upwards by moving to it, downwards by stepping over the versions
//!    from the oldest, and if there are many, by seeking it.
//! 4. The records' cursor moves past the key's other versions: a few steps, or a seek.
//!
//! A key without a value at the timestamp is not shown. What ends a walk early (limits, size of an answer) is up to who
//! walks.

use bytes::Bytes;
use skerry_proto::types::Ts;
use skerry_raftstore::engine::{ColumnFamily, KeyRange, View};

use super::cursor::{STEPS_BEFORE_SEEK, Statistics, SteppingCursor};
use super::key::split_version;
use super::reader::{long_value, record_of, seek_data_from, value_of_lock};
use super::{Key, Lock, Meeting, ReadRules, Version, Write, WriteKind};
use crate::error::Result;

/// What a walk shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A key and the value that the read sees.
    Value(Key, Version),
    /// A key that cannot be read, and the lock that stands in the way.
    Locked(Key, Lock),
}

/// What both directions share.
struct Walk<'view> {
    view: &'view dyn View,
    locks: SteppingCursor<'view>,
    writes: SteppingCursor<'view>,
    rules: ReadRules,
    key_only: bool,
    processed: Statistics,
}

impl<'view> Walk<'view> {
    /// `range` is of data keys without timestamps, as boundaries of regions are.
    fn new(
        view: &'view dyn View,
        range: &KeyRange,
        rules: ReadRules,
        key_only: bool,
    ) -> Result<Walk<'view>> {
        Ok(Walk {
            view,
            locks: SteppingCursor::new(view.cursor(ColumnFamily::Lock, range)?),
            writes: SteppingCursor::new(view.cursor(ColumnFamily::Write, range)?),
            rules,
            key_only,
            processed: Statistics::default(),
        })
    }

    /// The next key: of the two on which the cursors stand, the one that comes first.
    fn next_key(&self, comes_first: fn(&[u8], &[u8]) -> bool) -> Result<Option<Key>> {
        let written = self.writes.key().map(split_version).transpose()?.map(|(key, _)| key);
        let nearer = match (written, self.locks.key()) {
            (Some(written), Some(locked)) if comes_first(written, locked) => written,
            (_, Some(locked)) => locked,
            (Some(written), None) => written,
            (None, None) => return Ok(None),
        };
        Ok(Some(Key::from_engine(nearer)))
    }

    /// What the lock of `key` means, if the cursor stands on it.
    fn meet(&self, key: &Key) -> Result<Option<(Meeting, Lock)>> {
        match self.locks.pair() {
            Some((locked, value)) if locked == key.as_bytes() => {
                let lock = Lock::decode(value)?;
                Ok(Some((self.rules.meet(key, &lock)?, lock)))
            }
            _ => Ok(None),
        }
    }

    /// What to show for a lock that decides; nothing if it is a delete.
    fn decided(&mut self, key: Key, meeting: Meeting, lock: Lock) -> Result<Option<Found>> {
        if meeting == Meeting::Blocked {
            return Ok(Some(Found::Locked(key, lock)));
        }
        self.processed.processed_versions += 1;
        let value = value_of_lock(self.view, &key, lock)?;
        let value = value.map(|value| if self.key_only { Bytes::new() } else { value });
        Ok(value.map(|value| Found::Value(key, Version { value, commit_ts: Ts::ZERO })))
    }

    /// What to show for the newest data record that the read sees.
    fn shown(&mut self, key: Key, record: Option<(Ts, Write)>) -> Result<Option<Found>> {
        let Some((commit_ts, write)) = record else { return Ok(None) };
        self.processed.processed_versions += 1;
        if write.kind == WriteKind::Delete {
            return Ok(None);
        }
        let value = match write.short_value {
            _ if self.key_only => Bytes::new(),
            Some(value) => value,
            None => long_value(self.view, &key, write.start_ts)?,
        };
        self.processed.processed_bytes += (key.as_bytes().len() + value.len()) as u64;
        Ok(Some(Found::Value(key, Version { value, commit_ts })))
    }

    fn statistics(&self) -> Statistics {
        let mut total = self.processed;
        total.add(self.locks.statistics);
        total.add(self.writes.statistics);
        total
    }
}

/// A walk upwards.
pub struct ForwardScan<'view> {
    walk: Walk<'view>,
}

impl<'view> ForwardScan<'view> {
    /// Begins at the lower end of `range`, which is of data keys without timestamps.
    pub fn new(
        view: &'view dyn View,
        range: &KeyRange,
        rules: ReadRules,
        key_only: bool,
    ) -> Result<ForwardScan<'view>> {
        let mut walk = Walk::new(view, range, rules, key_only)?;
        walk.locks.seek_to_first()?;
        walk.writes.seek_to_first()?;
        Ok(ForwardScan { walk })
    }

    /// What is found next; nothing at the end of the range.
    pub fn find_next(&mut self) -> Result<Option<Found>> {
        let walk = &mut self.walk;
        while let Some(key) = walk.next_key(|one, other| one < other)? {
            let lock = walk.meet(&key)?;
            if lock.is_some() {
                walk.locks.forward()?;
            }
            let found = match lock {
                Some((meeting, lock)) if meeting != Meeting::Pass => {
                    walk.decided(key.clone(), meeting, lock)?
                }
                _ => {
                    walk.writes.seek(&key.at(walk.rules.ts))?;
                    let record = seek_data_from(&mut walk.writes, &key)?;
                    walk.shown(key.clone(), record)?
                }
            };
            walk.writes.seek(&key.behind())?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// What the walk did cost so far.
    pub fn statistics(&self) -> Statistics {
        self.walk.statistics()
    }
}

/// A walk downwards.
pub struct ReverseScan<'view> {
    walk: Walk<'view>,
}

impl<'view> ReverseScan<'view> {
    /// Begins at the upper end of `range`, which is of data keys without timestamps.
    pub fn new(
        view: &'view dyn View,
        range: &KeyRange,
        rules: ReadRules,
        key_only: bool,
    ) -> Result<ReverseScan<'view>> {
        let mut walk = Walk::new(view, range, rules, key_only)?;
        walk.locks.seek_to_last()?;
        walk.writes.seek_to_last()?;
        Ok(ReverseScan { walk })
    }

    /// What is found next; nothing at the end of the range.
    pub fn find_next(&mut self) -> Result<Option<Found>> {
        while let Some(key) = self.walk.next_key(|one, other| one > other)? {
            let lock = self.walk.meet(&key)?;
            if lock.is_some() {
                self.walk.locks.back()?;
            }
            let found = match lock {
                Some((meeting, lock)) if meeting != Meeting::Pass => {
                    self.walk.decided(key.clone(), meeting, lock)?
                }
                _ => {
                    let record = self.visible(&key)?;
                    self.walk.shown(key.clone(), record)?
                }
            };
            // No version has the key without a timestamp, so this is the oldest version of the key before.
            self.walk.writes.seek_for_previous(key.as_bytes())?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// What the walk did cost so far.
    pub fn statistics(&self) -> Statistics {
        self.walk.statistics()
    }

    /// The newest put or delete at or below the read's timestamp, from a cursor on the oldest version of `key`.
    fn visible(&mut self, key: &Key) -> Result<Option<(Ts, Write)>> {
        let (ts, writes) = (self.walk.rules.ts, &mut self.walk.writes);
        let mut newest = None;
        for _ in 0..STEPS_BEFORE_SEEK {
            match record_of(writes, key)? {
                Some((commit_ts, write)) if commit_ts <= ts => {
                    if write.kind.is_data() {
                        newest = Some((commit_ts, write.to_owned()));
                    }
                }
                _ => return Ok(newest),
            }
            writes.back()?;
        }
        writes.seek(&key.at(ts))?;
        seek_data_from(writes, key)
    }
}
