//! Prewrite: locks all keys of a transaction and stores its values; with it the transaction is ready to commit, or,
//! by one of two shortcuts, committed.
//!
//! # How it goes
//!
//! 1. Every key is checked ([`checks`]): is another transaction in the way, or was one faster?
//! 2. A request that comes late finds its own record and is answered as the first one was.
//! 3. If all keys are free, the locks are made, in one of three ways:
//!
//! | | locks | commit timestamp |
//! | --- | --- | --- |
//! | two phases | written | drawn by the client afterwards |
//! | async commit | written; the primary's names all others | chosen here: the largest `min_commit_ts` of all locks |
//! | one phase | only in memory, records are written at once | chosen here |
//!
//! 4. For the shortcuts the locks are published in memory first, which chooses the timestamp
//!    ([`super::concurrency`]).
//!
//! A shortcut is given up for two phases, in silence, if its timestamp would be above the one that the client allows,
//! or if an earlier attempt at the same request left locks of two phases. All is done or nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use skerry_proto::kvrpcpb::prewrite_request::PessimisticAction;
use skerry_proto::kvrpcpb::{Assertion, AssertionLevel};
use skerry_proto::types::Ts;

use self::checks::Checked;
use super::concurrency::{Concurrency, Published};
use super::endings::Ending;
use super::error::{Error, Result};
use super::planted::Planted;
use super::{Effect, Released, WriteCommand};
use crate::mvcc::{Changes, Key, Lock, LockKind, Reader, TxnRecord, Write, WriteKind};
use crate::storage::RegionView;

mod checks;

/// See the head of this file.
#[derive(Clone, Debug)]
pub struct Prewrite {
    /// What is to be done. If a key is named twice the last counts.
    pub mutations: Vec<Mutation>,
    /// The user key whose lock decides for the whole transaction.
    pub primary: Bytes,
    /// Which transaction.
    pub start_ts: Ts,
    /// Milliseconds after the physical part of `start_ts` for which the locks live.
    pub ttl_ms: u64,
    /// Number of keys of the whole transaction, as its client says.
    pub txn_size: u64,
    /// The newest version that a pessimistic transaction has seen; 0 for an optimistic one.
    pub for_update_ts: Ts,
    /// Lower bound of the commit timestamp; 0 for none.
    pub min_commit_ts: Ts,
    /// Above this the shortcuts are given up; 0 for no bound.
    pub max_commit_ts: Ts,
    /// How thoroughly assertions are checked.
    pub assertion_level: AssertionLevel,
    /// The way that is asked for.
    pub way: Way,
}

/// How a transaction wants to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// In two phases.
    TwoPhases,
    /// As soon as all locks stand. The user keys of all locks but the primary's; they matter where the primary is
    /// written.
    Async(Vec<Bytes>),
    /// With this request, which has all keys.
    OnePhase,
}

/// What is to be done to one key.
#[derive(Clone, Debug)]
pub struct Mutation {
    /// The key.
    pub key: Key,
    /// What is to be done.
    pub change: Change,
    /// What the client believes about the key.
    pub assertion: Assertion,
    /// Of a pessimistic transaction: what to check.
    pub pessimistic: PessimisticAction,
    /// The pessimistic lock must have been taken with exactly this timestamp.
    pub expected_for_update_ts: Option<Ts>,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets a value.
    Put(Bytes),
    /// Sets a value where none may be.
    Insert(Bytes),
    /// Removes the key.
    Delete,
    /// Changes nothing: keeps others from writing until the commit.
    Lock,
    /// Writes nothing: there may be no value.
    CheckNotExists,
}

/// What came of it. The timestamps are 0 where they have no meaning.
#[derive(Debug)]
pub enum Prewritten {
    /// All keys are locked, or the transaction is committed.
    Done {
        /// With async commit: lower bound found for these keys. 0: commit in two phases.
        min_commit_ts: Ts,
        /// With one phase: when it was committed. 0: commit in two phases.
        one_phase_commit_ts: Ts,
    },
    /// Locks of other transactions are in the way: an [`Error::Locked`] for each. Nothing was written.
    Locked(Vec<Error>),
}

impl Mutation {
    /// A change of an optimistic transaction, about which nothing is asserted.
    pub fn new(key: Key, change: Change) -> Mutation {
        Mutation {
            key,
            change,
            assertion: Assertion::None,
            pessimistic: PessimisticAction::SkipPessimisticCheck,
            expected_for_update_ts: None,
        }
    }
}

impl Change {
    fn lock_kind(&self) -> Option<LockKind> {
        match self {
            Change::Put(_) | Change::Insert(_) => Some(LockKind::Put),
            Change::Delete => Some(LockKind::Delete),
            Change::Lock => Some(LockKind::Lock),
            Change::CheckNotExists => None,
        }
    }

    fn must_not_exist(&self) -> bool {
        matches!(self, Change::Insert(_) | Change::CheckNotExists)
    }

    fn value(&self) -> Option<&Bytes> {
        match self {
            Change::Put(value) | Change::Insert(value) => Some(value),
            _ => None,
        }
    }
}

impl WriteCommand for Prewrite {
    type Answer = Prewritten;

    fn name(&self) -> &'static str {
        "prewrite"
    }

    fn keys(&self) -> Vec<Key> {
        self.mutations.iter().map(|mutation| mutation.key.clone()).collect()
    }

    fn locks_for(&self) -> Option<Ts> {
        Some(self.start_ts)
    }

    fn needs_fresh_max_ts(&self) -> bool {
        self.way != Way::TwoPhases
    }

    fn names(&self) -> Ts {
        self.start_ts.max(self.for_update_ts).max(self.min_commit_ts)
    }

    /// That a key exists which must not is told, as to a read, and must stay true.
    fn raises_to(&self) -> Ts {
        let reads = self.mutations.iter().any(|mutation| mutation.change.must_not_exist());
        if reads { self.start_ts } else { Ts::ZERO }
    }

    fn decide(
        &self,
        view: &RegionView,
        concurrency: &Arc<Concurrency>,
    ) -> Result<Effect<Prewritten>> {
        let last: BTreeMap<&Key, &Mutation> =
            self.mutations.iter().map(|mutation| (&mutation.key, mutation)).collect();
        let mut reader = Reader::of_keys(&*view.view, last.keys().copied());
        let (mut checked, mut in_the_way) = (Vec::with_capacity(last.len()), Vec::new());
        let mut failed = None;
        for mutation in last.into_values() {
            match self.check(&mut reader, mutation, concurrency.planted()) {
                Ok(found) => checked.push((mutation, found)),
                Err(error @ Error::Locked { .. }) => in_the_way.push(error),
                // An alarm for people; what else is wrong may be the reason for it.
                Err(error @ Error::AssertionFailed(_)) => failed = failed.or(Some(error)),
                Err(error @ (Error::WriteConflict(_) | Error::PessimisticLockNotFound { .. })) => {
                    match reader.txn_record(&mutation.key, self.start_ts)? {
                        TxnRecord::Committed { commit_ts, .. } => {
                            return Ok(Effect::answer(self.done_before(commit_ts)));
                        }
                        _ => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        if !in_the_way.is_empty() {
            return Ok(Effect::answer(Prewritten::Locked(in_the_way)));
        }
        if let Some(failed) = failed {
            return Err(failed);
        }
        self.finish(&mut reader, checked, concurrency)
    }
}

impl Prewrite {
    /// Whether the transaction locks keys before it writes them.
    fn is_pessimistic(&self) -> bool {
        self.for_update_ts != Ts::ZERO
    }

    /// The answer to a request that finds its work done, with this timestamp.
    fn done_before(&self, commit_ts: Ts) -> Prewritten {
        let when = |asked| if asked { commit_ts } else { Ts::ZERO };
        Prewritten::Done {
            min_commit_ts: when(matches!(self.way, Way::Async(_))),
            one_phase_commit_ts: when(self.way == Way::OnePhase),
        }
    }

    /// Makes the locks, all keys being free.
    fn finish(
        &self,
        reader: &mut Reader<'_>,
        checked: Vec<(&Mutation, Checked)>,
        concurrency: &Arc<Concurrency>,
    ) -> Result<Effect<Prewritten>> {
        let mut own_min_commit_ts = Ts::ZERO;
        let mut shortcut = self.needs_fresh_max_ts();
        let mut locks = Vec::with_capacity(checked.len());
        for (mutation, found) in checked {
            match found {
                Checked::Nothing => {}
                Checked::Own(lock) => {
                    // Left by an earlier attempt, which may have given the shortcut up.
                    shortcut &= lock.use_async_commit && self.way != Way::OnePhase;
                    own_min_commit_ts = own_min_commit_ts.max(lock.min_commit_ts);
                }
                Checked::Free { reserved, is_newest_seen } => {
                    locks.push(self.lock(mutation, reserved, is_newest_seen));
                }
            }
        }
        if shortcut && locks.is_empty() {
            // Nothing new stands, so nothing new is promised: whoever looks at the locks that stand must come to the
            // same commit timestamp as the client does.
            let at_least = self.start_ts.next().max(self.min_commit_ts);
            let min_commit_ts =
                if own_min_commit_ts == Ts::ZERO { at_least } else { own_min_commit_ts };
            return Ok(Effect::answer(self.done_before(min_commit_ts)));
        }
        let published = shortcut.then(|| self.publish(&locks, concurrency)).flatten();
        let Some(published) = published else { return Ok(self.in_two_phases(locks)) };
        let min_commit_ts = published.min_commit_ts();
        if self.way == Way::OnePhase {
            return self.in_one_phase(reader, locks, published, concurrency.planted());
        }
        let mut changes = Changes::new();
        for ToLock { key, lock, value, .. } in locks {
            let lock = Lock { min_commit_ts, ..self.with_async_commit(&key, lock)? };
            put_lock(&mut changes, &key, lock, value);
        }
        let min_commit_ts = min_commit_ts.max(own_min_commit_ts);
        let answer = Prewritten::Done { min_commit_ts, one_phase_commit_ts: Ts::ZERO };
        let published = Some(published);
        Ok(Effect { batch: changes.into_batch(), answer, published, released: Vec::new() })
    }

    /// The lock for one free key; `before` is the pessimistic lock that it replaces.
    fn lock(&self, mutation: &Mutation, before: Option<Lock>, is_newest_seen: bool) -> ToLock {
        let kind = mutation.change.lock_kind().expect("what writes nothing is never free");
        let mut lock = Lock {
            txn_size: self.txn_size,
            for_update_ts: self.for_update_ts,
            min_commit_ts: self.min_commit_ts,
            ..Lock::new(kind, self.primary.clone(), self.start_ts, self.ttl_ms)
        };
        if let Some(before) = &before {
            // A heart-beat may have prolonged it, a reader raised its bound.
            lock.ttl_ms = lock.ttl_ms.max(before.ttl_ms);
            lock.min_commit_ts = lock.min_commit_ts.max(before.min_commit_ts);
        }
        let (key, value) = (mutation.key.clone(), mutation.change.value().cloned());
        ToLock { key, lock, value, was_locked: before.is_some(), is_newest_seen }
    }

    fn with_async_commit(&self, key: &Key, lock: Lock) -> Result<Lock> {
        let secondaries = match &self.way {
            Way::Async(secondaries) if key.user_key()? == self.primary => secondaries.clone(),
            _ => Vec::new(),
        };
        Ok(Lock { use_async_commit: true, secondaries, ..lock })
    }

    /// Shows the locks to readers; nothing if the shortcut must be given up.
    fn publish(&self, locks: &[ToLock], concurrency: &Arc<Concurrency>) -> Option<Published> {
        let at_least = self.start_ts.max(self.for_update_ts).next().max(self.min_commit_ts);
        let one_phase = self.way == Way::OnePhase;
        let in_memory = locks.iter().map(|ToLock { key, lock, .. }| {
            (key.clone(), Lock { one_phase, use_async_commit: !one_phase, ..lock.clone() })
        });
        concurrency.publish(in_memory.collect(), at_least, self.max_commit_ts)
    }

    fn in_two_phases(&self, locks: Vec<ToLock>) -> Effect<Prewritten> {
        let mut changes = Changes::new();
        for ToLock { key, lock, value, .. } in locks {
            put_lock(&mut changes, &key, lock, value);
        }
        let (min_commit_ts, one_phase_commit_ts) = (Ts::ZERO, Ts::ZERO);
        let answer = Prewritten::Done { min_commit_ts, one_phase_commit_ts };
        Effect { batch: changes.into_batch(), ..Effect::answer(answer) }
    }

    fn in_one_phase(
        &self,
        reader: &mut Reader<'_>,
        locks: Vec<ToLock>,
        published: Published,
        planted: Option<Planted>,
    ) -> Result<Effect<Prewritten>> {
        let commit_ts = published.min_commit_ts();
        let (mut changes, mut released) = (Changes::new(), Vec::<Released>::new());
        for ToLock { key, lock, value, was_locked, is_newest_seen } in locks {
            let kind = match lock.kind {
                LockKind::Put => WriteKind::Put,
                LockKind::Delete => WriteKind::Delete,
                LockKind::Lock | LockKind::Pessimistic => WriteKind::Lock,
            };
            let short = value.and_then(|value| changes.place_value(&key, self.start_ts, value));
            let write = Write::new(kind, self.start_ts, short);
            let (changes, released) = (&mut changes, &mut released);
            let mut ending = Ending { reader: &mut *reader, changes, released, planted };
            match is_newest_seen {
                // It is not above what the transaction has seen, and the commit is.
                true => ending.changes.put_write(&key, commit_ts, &write),
                false => ending.put_commit(&key, commit_ts, write)?,
            }
            if was_locked {
                ending.unlock(&key, &lock, commit_ts);
            }
        }
        let answer = Prewritten::Done { min_commit_ts: Ts::ZERO, one_phase_commit_ts: commit_ts };
        let published = Some(published);
        Ok(Effect { batch: changes.into_batch(), answer, published, released })
    }
}

/// A lock that is to be written, without its value.
struct ToLock {
    key: Key,
    lock: Lock,
    value: Option<Bytes>,
    /// The transaction had locked the key in advance.
    was_locked: bool,
    /// As [`Checked::Free`] says.
    is_newest_seen: bool,
}

fn put_lock(changes: &mut Changes, key: &Key, lock: Lock, value: Option<Bytes>) {
    let start_ts = lock.start_ts;
    let short_value = value.and_then(|value| changes.place_value(key, start_ts, value));
    changes.put_lock(key, &Lock { short_value, ..lock });
}
