//! PessimisticLock: reserves keys before they are written, so that a statement sees their newest version and keeps it.
//!
//! All keys of a request are locked or none. For each key, in this order:
//!
//! 1. Another transaction's lock: the request may wait for it ([`PessimisticLocked::Wait`]); who waits and how long
//!    is up to the executor.
//! 2. The own lock: fine, its `for_update_ts` and life are raised.
//! 3. A version newer than `for_update_ts`: a conflict, and the client asks again with a newer timestamp. With
//!    *force*, the lock is taken nevertheless, at that version's timestamp, and its value is answered.
//! 4. A rollback of the own transaction: it is over, somebody gave it up.
//! 5. A value where none may be: the key exists.
//! 6. Otherwise it is locked; where a key without value shall stay free, it is left so.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use skerry_proto::types::Ts;

use super::concurrency::Concurrency;
use super::error::{Error, Reason, Result, WriteConflict};
use super::{Effect, WriteCommand};
use crate::mvcc::{Changes, Key, Lock, LockKind, Reader, TxnRecord, Write, WriteKind};
use crate::storage::RegionView;

/// See the head of this file.
#[derive(Clone, Debug)]
pub struct PessimisticLock {
    /// The keys, and whether each must not exist.
    pub keys: Vec<(Key, bool)>,
    /// The user key whose lock decides for the whole transaction.
    pub primary: Bytes,
    /// Which transaction.
    pub start_ts: Ts,
    /// Milliseconds after the physical part of `start_ts` for which the lock lives.
    pub ttl_ms: u64,
    /// The newest version that the statement has seen.
    pub for_update_ts: Ts,
    /// Lower bound of the commit timestamp; 0 for none.
    pub min_commit_ts: Ts,
    /// Answer the values.
    pub return_values: bool,
    /// Answer whether there are values.
    pub check_existence: bool,
    /// Leave keys without a value unlocked.
    pub lock_only_if_exists: bool,
    /// Lock also over a newer version. One key only.
    pub force: bool,
    /// Rather be refused than wait, also where a wait would close a circle.
    pub no_wait: bool,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PessimisticLocked {
    /// In the order of the request.
    Done(Vec<KeyLocked>),
    /// Another transaction's lock is in the way. Nothing was written; run the command again when the lock is gone.
    Wait {
        /// The locked key.
        key: Key,
        /// Its lock.
        lock: Box<Lock>,
    },
}

/// What came of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyLocked {
    /// Its newest value, if it was asked for or the lock was taken over a newer version.
    pub value: Option<Bytes>,
    /// Whether it has a value, if that is known.
    pub exists: Option<bool>,
    /// When the newer version was committed over which the lock was taken; 0 if there is none.
    pub locked_with_conflict_ts: Ts,
}

impl WriteCommand for PessimisticLock {
    type Answer = PessimisticLocked;

    fn name(&self) -> &'static str {
        "pessimistic_lock"
    }

    fn keys(&self) -> Vec<Key> {
        self.keys.iter().map(|(key, _)| key.clone()).collect()
    }

    fn locks_for(&self) -> Option<Ts> {
        Some(self.start_ts)
    }

    /// The request reads the newest values at `for_update_ts`, and its answer must stay true: also that of a check
    /// that a key does not exist.
    fn raises_to(&self) -> Ts {
        self.for_update_ts
    }

    fn names(&self) -> Ts {
        self.start_ts.max(self.for_update_ts).max(self.min_commit_ts)
    }

    fn decide(&self, view: &RegionView, _: &Arc<Concurrency>) -> Result<Effect<PessimisticLocked>> {
        self.check_request()?;
        let mut reader = Reader::of_keys(&*view.view, self.keys.iter().map(|(key, _)| key));
        let (mut changes, mut results) = (Changes::new(), Vec::with_capacity(self.keys.len()));
        let mut seen = BTreeSet::new();
        for (key, must_not_exist) in &self.keys {
            let own = match reader.load_lock(key)? {
                Some(lock) if lock.start_ts != self.start_ts => {
                    let (key, lock) = (key.clone(), Box::new(lock));
                    return Ok(Effect::answer(PessimisticLocked::Wait { key, lock }));
                }
                other => other,
            };
            let (result, lock) = match own {
                Some(lock) => self.lock_again(&mut reader, key, *must_not_exist, lock)?,
                None => self.lock_anew(&mut reader, key, *must_not_exist)?,
            };
            if let Some(lock) = lock.filter(|_| seen.insert(key)) {
                changes.put_lock(key, &lock);
            }
            results.push(result);
        }
        let batch = changes.into_batch();
        Ok(Effect { batch, ..Effect::answer(PessimisticLocked::Done(results)) })
    }
}

impl PessimisticLock {
    fn check_request(&self) -> Result<()> {
        if self.force && self.keys.len() != 1 {
            let text = "a lock that is taken over newer versions is for one key";
            return Err(Error::Invalid(text.to_string()));
        }
        if self.for_update_ts < self.start_ts {
            let (start, update) = (self.start_ts, self.for_update_ts);
            let text = format!("for_update_ts {update} is before the start at {start}");
            return Err(Error::Invalid(text));
        }
        Ok(())
    }

    /// A request that was repeated, or a later statement.
    fn lock_again(
        &self,
        reader: &mut Reader<'_>,
        key: &Key,
        must_not_exist: bool,
        lock: Lock,
    ) -> Result<(KeyLocked, Option<Lock>)> {
        if !lock.is_pessimistic() {
            let (key, start_ts, found) = (key.user_key()?, self.start_ts, lock.kind);
            return Err(Error::LockKindMismatch { key, start_ts, found });
        }
        // The answer to the first request was lost: it had been locked over a newer version.
        let was_forced = self.force && lock.for_update_ts > self.for_update_ts;
        let for_update_ts = self.for_update_ts.max(lock.for_update_ts);
        let newest = reader.get_write(key, for_update_ts)?;
        let conflict_ts = if was_forced { lock.for_update_ts } else { Ts::ZERO };
        let result = self.result(reader, key, must_not_exist, newest, conflict_ts)?;
        // A later statement may have chosen another primary key, after its first one was refused that key.
        let is_later = self.for_update_ts > lock.for_update_ts;
        let raised = Lock {
            primary: if is_later { self.primary.clone() } else { lock.primary.clone() },
            for_update_ts,
            ttl_ms: lock.ttl_ms.max(self.ttl_ms),
            min_commit_ts: lock.min_commit_ts.max(self.min_commit_ts),
            ..lock.clone()
        };
        let is_changed = raised != lock;
        Ok((result, is_changed.then_some(raised)))
    }

    fn lock_anew(
        &self,
        reader: &mut Reader<'_>,
        key: &Key,
        must_not_exist: bool,
    ) -> Result<(KeyLocked, Option<Lock>)> {
        let newest = reader.seek_write(key, Ts::MAX)?;
        let newer = newest.clone().filter(|(commit_ts, _)| *commit_ts > self.for_update_ts);
        if let Some((commit_ts, write)) = newer.as_ref().filter(|_| !self.force) {
            return Err(self.conflict(key, *commit_ts, write)?);
        }
        let conflict_ts = newer.as_ref().map_or(Ts::ZERO, |(commit_ts, _)| *commit_ts);
        let is_older = newest.as_ref().is_none_or(|(commit_ts, _)| *commit_ts < self.start_ts);
        if !is_older {
            // A record of this transaction itself: the request is late, somebody has ended it.
            let record = reader.txn_record(key, self.start_ts)?;
            if !matches!(record, TxnRecord::None { .. }) {
                return Err(Error::TxnIsOver { key: key.user_key()?, start_ts: self.start_ts });
            }
        }
        let for_update_ts = self.for_update_ts.max(conflict_ts);
        let data = match newest {
            Some((ts, write)) if write.kind.is_data() => {
                Some((ts, write)).filter(|(_, write)| write.kind == WriteKind::Put)
            }
            Some((ts, _)) => reader.get_write(key, ts)?,
            None => None,
        };
        let exists = data.is_some();
        // Over a newer version nothing is promised that is not locked: the statement has to run again.
        let is_refused = if exists { must_not_exist } else { self.lock_only_if_exists };
        if let Some((commit_ts, write)) = newer.filter(|_| is_refused) {
            return Err(self.conflict(key, commit_ts, &write)?);
        }
        let result = self.result(reader, key, must_not_exist, data, conflict_ts)?;
        if self.lock_only_if_exists && !exists {
            return Ok((result, None));
        }
        let lock = Lock {
            for_update_ts,
            min_commit_ts: self.min_commit_ts,
            ..Lock::new(LockKind::Pessimistic, self.primary.clone(), self.start_ts, self.ttl_ms)
        };
        Ok((result, Some(lock)))
    }

    fn result(
        &self,
        reader: &mut Reader<'_>,
        key: &Key,
        must_not_exist: bool,
        data: Option<(Ts, Write)>,
        locked_with_conflict_ts: Ts,
    ) -> Result<KeyLocked> {
        if must_not_exist && data.is_some() {
            return Err(Error::AlreadyExists { key: key.user_key()? });
        }
        let is_forced = locked_with_conflict_ts != Ts::ZERO;
        let wants_value = self.return_values || is_forced;
        let exists = (wants_value || self.check_existence).then_some(data.is_some());
        let value = match data {
            Some((_, write)) if wants_value => Some(reader.load_value(key, write)?),
            _ => None,
        };
        Ok(KeyLocked { value, exists, locked_with_conflict_ts })
    }

    fn conflict(&self, key: &Key, commit_ts: Ts, write: &Write) -> Result<Error> {
        Ok(Error::WriteConflict(Box::new(WriteConflict {
            key: key.user_key()?,
            start_ts: self.start_ts,
            primary: self.primary.clone(),
            conflict_start_ts: write.start_ts,
            conflict_commit_ts: commit_ts,
            reason: Reason::PessimisticRetry,
        })))
    }
}
