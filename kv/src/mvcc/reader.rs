//! Reads locks, records and values of single keys.
//!
//! One reader serves one request on one view. It has a single cursor over the records of the range that it was given,
//! which moves from key to key; locks and long values are read by key. What it costs is counted
//! ([`Reader::statistics`]).

use bytes::Bytes;
use skerry_proto::types::Ts;
use skerry_raftstore::engine::{ColumnFamily, KeyRange, View};

use super::cursor::{Statistics, SteppingCursor};
use super::{Key, Lock, LockKind, Meeting, ReadRules, Write, WriteKind, WriteRef};
use crate::error::Result;

/// A value as a reader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// The value; empty if only keys were asked for.
    pub value: Bytes,
    /// When it was committed; 0 if it was seen through a lock, whose owner committed at a timestamp not known here.
    pub commit_ts: Ts,
}

/// What the records of a key say about one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnRecord {
    /// It committed the key.
    Committed {
        /// When.
        commit_ts: Ts,
        /// What it did.
        kind: WriteKind,
    },
    /// It was given up.
    RolledBack,
    /// Nothing.
    None {
        /// A commit of another transaction at just the timestamp at which this one began: a rollback would have to be
        /// noted in it.
        overlapped: Option<Write>,
    },
}

/// See the head of this file.
pub struct Reader<'view> {
    view: &'view dyn View,
    range: KeyRange,
    /// Whether the range has no more than the versions of one key.
    is_of_one_key: bool,
    /// Made when first used.
    writes: Option<SteppingCursor<'view>>,
    processed: Statistics,
}

impl<'view> Reader<'view> {
    /// Reads `key`.
    pub fn of_key(view: &'view dyn View, key: &Key) -> Reader<'view> {
        Reader::of_keys(view, [key])
    }

    /// Reads any of `keys`.
    pub fn of_keys<'a>(
        view: &'view dyn View,
        keys: impl IntoIterator<Item = &'a Key>,
    ) -> Reader<'view> {
        let mut bounds: Option<(&Key, &Key)> = None;
        for key in keys {
            let (low, high) = bounds.unwrap_or((key, key));
            bounds = Some((low.min(key), high.max(key)));
        }
        let is_of_one_key = bounds.is_some_and(|(low, high)| low == high);
        let range = match bounds {
            Some((low, high)) => KeyRange { start: low.at(Ts::MAX), end: high.behind() },
            // A range in which nothing lies.
            None => KeyRange::new(&b"\0"[..], &b"\0"[..]),
        };
        Reader { view, range, is_of_one_key, writes: None, processed: Statistics::default() }
    }

    /// What was done so far.
    pub fn statistics(&self) -> Statistics {
        let mut total = self.processed;
        if let Some(writes) = &self.writes {
            total.add(writes.statistics);
        }
        total
    }

    /// The lock of `key`.
    pub fn load_lock(&self, key: &Key) -> Result<Option<Lock>> {
        let bytes = self.view.get(ColumnFamily::Lock, key.as_bytes())?;
        bytes.map(|bytes| Lock::decode(&bytes)).transpose()
    }

    /// The newest record of `key` at or below `ts`, and when it was committed.
    pub fn seek_write(&mut self, key: &Key, ts: Ts) -> Result<Option<(Ts, Write)>> {
        let writes = self.writes()?;
        writes.seek(&key.at(ts))?;
        Ok(record_of(writes, key)?.map(|(commit_ts, write)| (commit_ts, write.to_owned())))
    }

    /// The record of `key` at exactly this timestamp.
    pub fn record_at(&self, key: &Key, ts: Ts) -> Result<Option<Write>> {
        let bytes = self.view.get(ColumnFamily::Write, &key.at(ts))?;
        bytes.map(|bytes| WriteRef::decode(&bytes).map(WriteRef::to_owned)).transpose()
    }

    /// The newest put or delete of `key` at or below `ts`, passing over what changed nothing.
    pub fn seek_data(&mut self, key: &Key, ts: Ts) -> Result<Option<(Ts, Write)>> {
        let writes = self.writes()?;
        writes.seek(&key.at(ts))?;
        seek_data_from(writes, key)
    }

    /// The put of `key` that a read at `ts` sees; none if there is no value.
    pub fn get_write(&mut self, key: &Key, ts: Ts) -> Result<Option<(Ts, Write)>> {
        Ok(self.seek_data(key, ts)?.filter(|(_, write)| write.kind == WriteKind::Put))
    }

    /// The value that a put wrote.
    pub fn load_value(&mut self, key: &Key, write: Write) -> Result<Bytes> {
        assert_eq!(write.kind, WriteKind::Put, "only puts have values");
        let value = match write.short_value {
            Some(value) => value,
            None => long_value(self.view, key, write.start_ts)?,
        };
        self.processed.processed_versions += 1;
        self.processed.processed_bytes += (key.as_bytes().len() + value.len()) as u64;
        Ok(value)
    }

    /// The value of `key` at `ts`, whatever locks there are.
    pub fn get(&mut self, key: &Key, ts: Ts) -> Result<Option<Version>> {
        let Some((commit_ts, write)) = self.get_write(key, ts)? else { return Ok(None) };
        let value = self.load_value(key, write)?;
        Ok(Some(Version { value, commit_ts }))
    }

    /// The value of `key` for a read with `rules`, or the lock that stands in its way.
    pub fn read(
        &mut self,
        key: &Key,
        rules: &ReadRules,
    ) -> Result<std::result::Result<Option<Version>, Lock>> {
        if let Some(lock) = self.load_lock(key)? {
            match rules.meet(key, &lock)? {
                Meeting::Pass => {}
                Meeting::Blocked => return Ok(Err(lock)),
                Meeting::SeeThrough => {
                    self.processed.processed_versions += 1;
                    let value = value_of_lock(self.view, key, lock)?;
                    return Ok(Ok(value.map(|value| Version { value, commit_ts: Ts::ZERO })));
                }
            }
        }
        self.get(key, rules.ts).map(Ok)
    }

    /// What the records of `key` say about the transaction that began at `start_ts`. They are searched from the newest
    /// down to that timestamp, below which it can have left none.
    pub fn txn_record(&mut self, key: &Key, start_ts: Ts) -> Result<TxnRecord> {
        let writes = self.writes()?;
        writes.seek(&key.at(Ts::MAX))?;
        while let Some((ts, write)) = record_of(writes, key)? {
            if ts < start_ts {
                break;
            }
            if write.start_ts == start_ts {
                return Ok(match write.kind {
                    WriteKind::Rollback => TxnRecord::RolledBack,
                    kind => TxnRecord::Committed { commit_ts: ts, kind },
                });
            }
            if ts == start_ts {
                return Ok(match write.overlapped_rollback {
                    true => TxnRecord::RolledBack,
                    false => TxnRecord::None { overlapped: Some(write.to_owned()) },
                });
            }
            writes.forward()?;
        }
        Ok(TxnRecord::None { overlapped: None })
    }

    fn writes(&mut self) -> Result<&mut SteppingCursor<'view>> {
        if self.writes.is_none() {
            let cursor = match self.is_of_one_key {
                true => self.view.cursor_of_versions(ColumnFamily::Write, &self.range)?,
                false => self.view.cursor(ColumnFamily::Write, &self.range)?,
            };
            self.writes = Some(SteppingCursor::new(cursor));
        }
        Ok(self.writes.as_mut().expect("it was made above"))
    }
}

/// The record on which the cursor stands, if it is one of `key`.
pub(super) fn record_of<'a>(
    writes: &'a SteppingCursor<'_>,
    key: &Key,
) -> Result<Option<(Ts, WriteRef<'a>)>> {
    let Some((version, value)) = writes.pair() else { return Ok(None) };
    let Some(ts) = key.ts_of(version) else { return Ok(None) };
    Ok(Some((ts, WriteRef::decode(value)?)))
}

/// The first put or delete of `key` at or behind where the cursor stands.
pub(super) fn seek_data_from(
    writes: &mut SteppingCursor<'_>,
    key: &Key,
) -> Result<Option<(Ts, Write)>> {
    while let Some((ts, write)) = record_of(writes, key)? {
        if write.kind.is_data() {
            return Ok(Some((ts, write.to_owned())));
        }
        writes.forward()?;
    }
    Ok(None)
}

/// A value that is too long for its record.
pub(super) fn long_value(view: &dyn View, key: &Key, start_ts: Ts) -> Result<Bytes> {
    view.get(ColumnFamily::Default, &key.at(start_ts))?.ok_or_else(|| {
        let what = format!("the value of {key:?} written at {start_ts}");
        skerry_raftstore::Error::Damaged { what, reason: "it is not there".to_string() }.into()
    })
}

/// What its owner is about to write under `lock`, for readers that know it to be committed.
pub(super) fn value_of_lock(view: &dyn View, key: &Key, lock: Lock) -> Result<Option<Bytes>> {
    match (lock.kind, lock.short_value) {
        (LockKind::Put, Some(value)) => Ok(Some(value)),
        (LockKind::Put, None) => long_value(view, key, lock.start_ts).map(Some),
        _ => Ok(None),
    }
}
