//! CheckTxnStatus: what became of a transaction, asked at its primary key by somebody who met one of its locks. If
//! nothing did yet and its owner seems dead, it is rolled back here and now.
//!
//! | at the primary key is | done | answered |
//! | --- | --- | --- |
//! | its commit record | nothing | committed |
//! | its rollback record | nothing | rolled back |
//! | nothing, and the asker may roll back | a protected rollback | rolled back, *lock did not exist* |
//! | nothing, and a pessimistic lock was met | nothing | *lock did not exist, nothing done* |
//! | nothing, and the asker may not | nothing | error: not found |
//! | its lock, which names another primary key | nothing (see below) | error: mismatch |
//! | its lock, with async commit | nothing: the other locks decide | alive |
//! | its lock, expired | a protected rollback | rolled back, *expired* |
//! | the same, and like the lock that was met pessimistic | no record, the lock goes | rolled back, *pessimistic* |
//! | its lock, alive | its `min_commit_ts` raised above the asker | alive, *pushed* |
//!
//! A pessimistic lock here that names another primary key, while a prewritten lock that names this one was met: it
//! was left by a lock request that came late, and the transaction chose another primary key since. It goes, and the
//! rest of the table holds as if it had not been there.

use std::sync::Arc;

use bytes::Bytes;
use skerry_proto::kvrpcpb::{Action, CheckTxnStatusRequest, CheckTxnStatusResponse};
use skerry_proto::types::Ts;

use super::concurrency::Concurrency;
use super::endings::{End, Ending};
use super::error::{Error, Result, lock_info};
use super::{Effect, WriteCommand};
use crate::mvcc::{Changes, Key, Lock, Reader, TxnRecord};
use crate::storage::RegionView;

/// From here on a timestamp is none: the asker reads the newest, or says that the lock's life is over. The Go client
/// says so with the last of all, the Java client with the last that is not negative to it.
const END_OF_TIME: Ts = Ts::compose(i64::MAX as u64 >> Ts::LOGICAL_BITS, 0);

/// See the head of this file.
#[derive(Clone, Debug)]
pub struct CheckTxnStatus {
    /// The primary key, as the lock says that was met.
    pub primary: Key,
    /// Which transaction.
    pub start_ts: Ts,
    /// The asker's timestamp: the other shall not commit at or below it. [`Ts::MAX`]: the asker reads the newest and
    /// may come before any commit.
    pub caller_start_ts: Ts,
    /// Against which the lock's life is measured; [`Ts::MAX`]: it is over.
    pub current_ts: Ts,
    /// Roll back if there is nothing.
    pub rollback_if_not_exist: bool,
    /// Treat a lock with async commit as any other.
    pub force_sync_commit: bool,
    /// The lock that was met is a pessimistic one.
    pub resolving_pessimistic_lock: bool,
    /// Refuse if the lock names another primary key.
    pub verify_is_primary: bool,
}

/// What became of the transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnStatus {
    /// It committed.
    Committed(Ts),
    /// It is rolled back, by this action if any.
    RolledBack(Action),
    /// It goes on.
    Alive {
        /// Its primary lock as it is now.
        lock: Box<Lock>,
        /// Whether it can no longer commit at or below the asker's timestamp.
        is_pushed: bool,
    },
}

impl WriteCommand for CheckTxnStatus {
    type Answer = TxnStatus;

    fn name(&self) -> &'static str {
        "check_txn_status"
    }

    fn keys(&self) -> Vec<Key> {
        vec![self.primary.clone()]
    }

    /// What is answered must stay true: no commit at or below these timestamps may be chosen later.
    fn raises_to(&self) -> Ts {
        let of_asker = [self.caller_start_ts, self.current_ts].into_iter();
        of_asker.filter(|ts| *ts < END_OF_TIME).fold(self.start_ts, Ts::max)
    }

    fn decide(
        &self,
        view: &RegionView,
        concurrency: &Arc<Concurrency>,
    ) -> Result<Effect<TxnStatus>> {
        let mut reader = Reader::of_key(&*view.view, &self.primary);
        let (mut changes, mut released) = (Changes::new(), Vec::new());
        let mut ending = Ending {
            reader: &mut reader,
            changes: &mut changes,
            released: &mut released,
            planted: concurrency.planted(),
        };
        let lock = ending.reader.load_lock(&self.primary)?;
        let answer = match lock.filter(|lock| lock.start_ts == self.start_ts) {
            Some(lock) => self.decide_locked(&mut ending, lock)?,
            None => self.decide_missing(&mut ending)?,
        };
        Ok(Effect { batch: changes.into_batch(), answer, published: None, released })
    }
}

impl TxnStatus {
    /// As clients see it; `primary` is the user key.
    pub fn to_wire(&self, primary: &Bytes) -> CheckTxnStatusResponse {
        match self {
            TxnStatus::Committed(at) => {
                CheckTxnStatusResponse { commit_version: at.get(), ..Default::default() }
            }
            TxnStatus::RolledBack(action) => {
                CheckTxnStatusResponse { action: (*action).into(), ..Default::default() }
            }
            TxnStatus::Alive { lock, is_pushed } => {
                let action = if *is_pushed { Action::MinCommitTsPushed } else { Action::NoAction };
                CheckTxnStatusResponse {
                    lock_ttl: lock.ttl_ms,
                    action: action.into(),
                    lock_info: Some(lock_info(primary, lock)),
                    ..Default::default()
                }
            }
        }
    }
}

impl CheckTxnStatus {
    /// What a request asks about the transaction with this primary key.
    pub fn asked(primary: Key, request: &CheckTxnStatusRequest) -> CheckTxnStatus {
        CheckTxnStatus {
            primary,
            start_ts: Ts::from(request.lock_ts),
            caller_start_ts: Ts::from(request.caller_start_ts),
            current_ts: Ts::from(request.current_ts),
            rollback_if_not_exist: request.rollback_if_not_exist,
            force_sync_commit: request.force_sync_commit,
            resolving_pessimistic_lock: request.resolving_pessimistic_lock,
            verify_is_primary: request.verify_is_primary,
        }
    }

    fn decide_locked(&self, ending: &mut Ending<'_, '_>, mut lock: Lock) -> Result<TxnStatus> {
        let user = self.primary.user_key()?;
        if self.verify_is_primary && lock.primary != user {
            if lock.is_pessimistic() && !self.resolving_pessimistic_lock {
                ending.unlock(&self.primary, &lock, Ts::ZERO);
                return self.decide_missing(ending);
            }
            return Err(Error::PrimaryMismatch { key: user, lock: Box::new(lock) });
        }
        if lock.use_async_commit && !self.force_sync_commit {
            return Ok(TxnStatus::Alive { lock: Box::new(lock), is_pushed: false });
        }
        if lock.is_expired(self.current_ts) {
            if self.resolving_pessimistic_lock && lock.is_pessimistic() {
                ending.unlock(&self.primary, &lock, Ts::ZERO);
                return Ok(TxnStatus::RolledBack(Action::TtlExpirePessimisticRollback));
            }
            if let TxnRecord::Committed { commit_ts, .. } =
                ending.reader.txn_record(&self.primary, self.start_ts)?
            {
                ending.unlock(&self.primary, &lock, commit_ts);
                return Ok(TxnStatus::Committed(commit_ts));
            }
            ending.roll_back_lock(&self.primary, &lock, true)?;
            return Ok(TxnStatus::RolledBack(Action::TtlExpireRollback));
        }
        // A lock without a lower bound belongs to a client that does not expect to have one. Who reads the newest has
        // no timestamp that a commit could be pushed above.
        let caller = self.caller_start_ts;
        let is_newest = caller >= END_OF_TIME;
        if lock.min_commit_ts != Ts::ZERO && !is_newest && caller >= lock.min_commit_ts {
            lock.min_commit_ts = caller.next().max(self.current_ts);
            ending.changes.put_lock(&self.primary, &lock);
        }
        let is_above = caller != Ts::ZERO && lock.min_commit_ts > caller;
        Ok(TxnStatus::Alive { lock: Box::new(lock), is_pushed: is_above || is_newest })
    }

    fn decide_missing(&self, ending: &mut Ending<'_, '_>) -> Result<TxnStatus> {
        match ending.reader.txn_record(&self.primary, self.start_ts)? {
            TxnRecord::Committed { commit_ts, .. } => return Ok(TxnStatus::Committed(commit_ts)),
            TxnRecord::RolledBack => return Ok(TxnStatus::RolledBack(Action::NoAction)),
            TxnRecord::None { .. } => {}
        }
        if !self.rollback_if_not_exist {
            let (start_ts, primary) = (self.start_ts, self.primary.user_key()?);
            return Err(Error::TxnNotFound { start_ts, primary });
        }
        if self.resolving_pessimistic_lock {
            return Ok(TxnStatus::RolledBack(Action::LockNotExistDoNothing));
        }
        let end = ending.roll_back_missing(&self.primary, self.start_ts, true)?;
        assert_eq!(end, End::RolledBack, "there is neither lock nor record");
        Ok(TxnStatus::RolledBack(Action::LockNotExistRollback))
    }
}
