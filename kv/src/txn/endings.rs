//! How a transaction ends at one key: the steps that all commands share which commit or roll back.
//!
//! A key is in one of four states for a transaction, and each step is safe in all of them, any number of times:
//!
//! | at the key is | commit | roll back |
//! | --- | --- | --- |
//! | its lock | record, lock gone | rollback record, lock and value gone |
//! | its commit record | done already | refused: too late |
//! | its rollback record | refused | done already |
//! | nothing | refused | rollback record: a prewrite that is still on its way must fail |
//!
//! **Protection.** Unprotected rollback records are taken away by the next rollback of the same key, so that a key
//! which many try to write does not collect them. What must not be forgotten is protected: the rollback of a primary
//! key, which decides for the whole transaction, and every rollback on which an answer to somebody else rests.

use skerry_proto::types::Ts;

use super::Released;
use super::error::{Error, Result};
use super::planted::Planted;
use crate::mvcc::{Changes, Key, Lock, LockKind, Reader, TxnRecord, Write, WriteKind};

/// What a transaction turned out to be at a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It had committed.
    Committed(Ts),
    /// It had been rolled back.
    WasRolledBack,
    /// It is rolled back now.
    RolledBack,
}

/// A batch that grows while commands decide.
pub(super) struct Ending<'a, 'view> {
    pub(super) reader: &'a mut Reader<'view>,
    pub(super) changes: &'a mut Changes,
    pub(super) released: &'a mut Vec<Released>,
    /// The bug that a test has planted.
    pub(super) planted: Option<Planted>,
}

impl Ending<'_, '_> {
    /// Commits `key`.
    pub(super) fn commit(&mut self, key: &Key, start_ts: Ts, commit_ts: Ts) -> Result<()> {
        if commit_ts <= start_ts {
            let text = format!("a commit at {commit_ts} is not after the start at {start_ts}");
            return Err(Error::Invalid(text));
        }
        let lock = self.reader.load_lock(key)?.filter(|lock| lock.start_ts == start_ts);
        let Some(lock) = lock else {
            return match self.reader.txn_record(key, start_ts)? {
                TxnRecord::Committed { .. } => Ok(()),
                _ => Err(Error::TxnLockNotFound { key: key.user_key()?, start_ts }),
            };
        };
        let kind = match lock.kind {
            LockKind::Put => WriteKind::Put,
            LockKind::Delete => WriteKind::Delete,
            LockKind::Lock => WriteKind::Lock,
            // It was never prewritten, so there is nothing to commit: it is the left-over of a lock request that came
            // late. As a record it would pretend that the transaction had written here.
            LockKind::Pessimistic => {
                self.unlock(key, &lock, Ts::ZERO);
                return Ok(());
            }
        };
        if commit_ts < lock.min_commit_ts {
            let (key, min_commit_ts) = (key.user_key()?, lock.min_commit_ts);
            return Err(Error::CommitTsExpired { key, start_ts, commit_ts, min_commit_ts });
        }
        let write = Write::new(kind, start_ts, lock.short_value.clone());
        match lock.use_async_commit {
            true => self.put_commit(key, commit_ts, write)?,
            // Drawn from the scheduler after all locks stood: no other transaction has this timestamp, so nothing
            // stands there.
            false => self.changes.put_write(key, commit_ts, &write),
        }
        self.unlock(key, &lock, commit_ts);
        Ok(())
    }

    /// Sets a commit record at a timestamp that a store has chosen: async commit and one-phase commit choose some that
    /// others may have begun at. If the transaction that began at just `commit_ts` was rolled back, the record says so
    /// from now on.
    pub(super) fn put_commit(&mut self, key: &Key, commit_ts: Ts, write: Write) -> Result<()> {
        let overlapped_rollback = match self.reader.record_at(key, commit_ts)? {
            None => false,
            Some(record) if record.kind == WriteKind::Rollback => true,
            Some(other) => {
                let other = other.start_ts;
                let text = format!(
                    "{key:?} was committed at {commit_ts} by the transaction that began at {other}"
                );
                return Err(Error::Invalid(text));
            }
        };
        self.changes.put_write(key, commit_ts, &Write { overlapped_rollback, ..write });
        Ok(())
    }

    /// Rolls the transaction back at `key`, which has `lock` if that is of this transaction, unless it has committed
    /// there.
    pub(super) fn roll_back(&mut self, key: &Key, start_ts: Ts, protect: bool) -> Result<End> {
        let lock = self.reader.load_lock(key)?.filter(|lock| lock.start_ts == start_ts);
        match lock {
            Some(lock) => {
                self.roll_back_lock(key, &lock, protect)?;
                Ok(End::RolledBack)
            }
            None => self.roll_back_missing(key, start_ts, protect),
        }
    }

    /// Rolls back a transaction that holds `lock` on `key`.
    pub(super) fn roll_back_lock(&mut self, key: &Key, lock: &Lock, protect: bool) -> Result<()> {
        match self.reader.txn_record(key, lock.start_ts)? {
            TxnRecord::None { overlapped } => {
                let is_primary = key.user_key()? == lock.primary;
                self.put_rollback(key, lock.start_ts, protect || is_primary, overlapped)?;
                self.changes.delete_value_of(key, lock);
            }
            TxnRecord::RolledBack => self.changes.delete_value_of(key, lock),
            // The left-over of a lock request that came late: it goes, and what was committed stays.
            TxnRecord::Committed { .. } => {}
        }
        self.unlock(key, lock, Ts::ZERO);
        Ok(())
    }

    /// Rolls back a transaction that has no lock on `key`, unless it has ended there.
    pub(super) fn roll_back_missing(
        &mut self,
        key: &Key,
        start_ts: Ts,
        protect: bool,
    ) -> Result<End> {
        match self.reader.txn_record(key, start_ts)? {
            TxnRecord::Committed { commit_ts, .. } => Ok(End::Committed(commit_ts)),
            TxnRecord::RolledBack => {
                // From now on somebody relies on it.
                if let Some(record) = self.reader.record_at(key, start_ts)?
                    && protect
                    && record.kind == WriteKind::Rollback
                    && !record.protected
                {
                    self.changes.put_write(key, start_ts, &Write::rollback(start_ts, true));
                }
                Ok(End::WasRolledBack)
            }
            TxnRecord::None { overlapped } => {
                self.put_rollback(key, start_ts, protect, overlapped)?;
                Ok(End::RolledBack)
            }
        }
    }

    /// Takes a lock away.
    pub(super) fn unlock(&mut self, key: &Key, lock: &Lock, commit_ts: Ts) {
        self.changes.delete_lock(key);
        self.released.push(Released { key: key.clone(), start_ts: lock.start_ts, commit_ts });
    }

    fn put_rollback(
        &mut self,
        key: &Key,
        start_ts: Ts,
        protected: bool,
        overlapped: Option<Write>,
    ) -> Result<()> {
        if self.planted == Some(Planted::RollbackForgotten) {
            return Ok(());
        }
        let protected = protected && self.planted != Some(Planted::RollbackUnprotected);
        if let Some(commit) = overlapped {
            let marked = Write { overlapped_rollback: true, ..commit };
            self.changes.put_write(key, start_ts, &marked);
            return Ok(());
        }
        // Whoever began before the one that is taken away here meets this one instead, or need not meet any
        // (`super::prewrite`, keys that were not locked in advance).
        if let Some((ts, newest)) = self.reader.seek_write(key, start_ts)?
            && newest.kind == WriteKind::Rollback
            && !newest.protected
        {
            self.changes.delete_write(key, ts);
        }
        self.changes.put_write(key, start_ts, &Write::rollback(start_ts, protected));
        Ok(())
    }
}
