//! What to do about a lock that is in the way: find out at its primary key what became of its transaction, and end it
//! there as it ended here. Whoever is alive is waited for, until the time of its lock is over.
//!
//! | the transaction | a reader | a writer |
//! | --- | --- | --- |
//! | committed, or rolled back | finishes the lock | finishes the lock |
//! | alive, and will commit later than the reader reads | passes | waits |
//! | alive | waits | waits |
//! | alive, with async commit, its time over | asks all its keys, then as above | the same |
//!
//! A transaction that asked for async commit may have fallen back to two phases at some of its keys: then its locks say
//! nothing, and it ends at its primary key as any other.

use skerry_proto::kvrpcpb::Action;
use skerry_proto::types::Ts;

use super::client::{Client, Locks, region_key};
use super::error::Result;
use crate::mvcc::Lock;
use crate::txn::check_secondary_locks::{CheckSecondaryLocks, SecondaryLocks};
use crate::txn::check_txn_status::{CheckTxnStatus, TxnStatus};
use crate::txn::pessimistic_rollback::PessimisticRollback;
use crate::txn::resolve_lock::ResolveLocks;
use crate::txn::{self, WriteCommand};

/// Room that a command about a lock asks for.
const COMMAND_BYTES: usize = 1 << 10;

/// What became of a transaction.
enum Fate {
    /// It committed at this timestamp, or was rolled back if it is 0.
    Over(Ts),
    /// It goes on, but cannot commit at or below the asker's timestamp.
    Later,
    /// It goes on.
    Alive,
}

impl Client {
    /// Ends what can be ended of these locks. `reads_at` is the timestamp of a reader, 0 for a writer. Answers the
    /// transactions that a reader may pass by, having begun at these timestamps.
    pub(super) fn make_way(&self, locks: &Locks, reads_at: Ts) -> Result<Vec<Ts>> {
        let mut passable = Vec::new();
        for (user, lock) in locks {
            let key = self.key(user)?;
            match self.fate_of(lock, reads_at)? {
                Fate::Alive => {}
                Fate::Later => passable.push(lock.start_ts),
                // It leaves no trace: its owner may take it again.
                Fate::Over(_) if lock.is_pessimistic() => {
                    // Not one that it has taken again meanwhile.
                    let (start_ts, for_update_ts) = (lock.start_ts, lock.for_update_ts);
                    let command = PessimisticRollback { keys: vec![key], start_ts, for_update_ts };
                    self.run(&command)?;
                }
                Fate::Over(commit_ts) => {
                    let ends = [(lock.start_ts, commit_ts)].into();
                    self.run(&ResolveLocks { keys: vec![key], ends })?;
                }
            }
        }
        Ok(passable)
    }

    /// Asks at the primary key. A transaction whose time is over is rolled back there.
    fn fate_of(&self, lock: &Lock, reads_at: Ts) -> Result<Fate> {
        let is_dead = lock.start_ts < self.dead_before();
        let now = if is_dead { Ts::MAX } else { self.timestamp() };
        let mut status = self.ask(lock, reads_at, now, false)?;
        if let Some(TxnStatus::Alive { lock: primary, .. }) = &status
            && primary.use_async_commit
            && primary.is_expired(now)
        {
            if let Some(end) = self.end_of_async(primary)? {
                return Ok(Fate::Over(end));
            }
            status = self.ask(lock, reads_at, now, true)?;
        }
        Ok(fate_by(status.as_ref(), reads_at))
    }

    /// Asks at the primary key of a lock; none if nothing is known of the transaction there.
    fn ask(
        &self,
        lock: &Lock,
        reads_at: Ts,
        now: Ts,
        force_sync_commit: bool,
    ) -> Result<Option<TxnStatus>> {
        let command = CheckTxnStatus {
            primary: self.key(&lock.primary)?,
            start_ts: lock.start_ts,
            caller_start_ts: reads_at,
            current_ts: now,
            // The primary key may be locked last: only when its time is over, nothing means never.
            rollback_if_not_exist: lock.is_expired(now),
            force_sync_commit,
            resolving_pessimistic_lock: lock.is_pessimistic(),
            verify_is_primary: true,
        };
        self.at(region_key(&command.primary), |target| {
            let permit = target.wait(target.member.txn.permits().acquire(COMMAND_BYTES));
            match target.wait(target.member.txn.write(&target.context, &command, permit)) {
                Err(txn::Error::TxnNotFound { .. }) => Ok(None),
                // Left by a statement that was given up: its transaction has chosen another primary key since.
                Err(txn::Error::PrimaryMismatch { .. }) if lock.is_pessimistic() => {
                    Ok(Some(TxnStatus::RolledBack(Action::NoAction)))
                }
                answered => answered.map(Some),
            }
        })
    }

    /// Asks at all other keys of a transaction with async commit: if all are locked for that it is committed. Answers
    /// when, 0 if it never will be, and none if one of them is locked otherwise.
    fn end_of_async(&self, primary: &Lock) -> Result<Option<Ts>> {
        let mut commit_ts = primary.min_commit_ts;
        for secondary in &primary.secondaries {
            let (keys, start_ts) = (vec![self.key(secondary)?], primary.start_ts);
            match self.run(&CheckSecondaryLocks { keys, start_ts })? {
                SecondaryLocks::Locked(locks) => {
                    if locks.iter().any(|(_, lock)| !lock.use_async_commit) {
                        return Ok(None);
                    }
                    let bounds = locks.iter().map(|(_, lock)| lock.min_commit_ts);
                    commit_ts = bounds.fold(commit_ts, Ts::max);
                }
                SecondaryLocks::Committed(at) => return Ok(Some(at)),
                SecondaryLocks::RolledBack => return Ok(Some(Ts::ZERO)),
            }
        }
        Ok(Some(commit_ts))
    }

    /// Runs a command for one key.
    fn run<C: WriteCommand>(&self, command: &C) -> Result<C::Answer> {
        let keys = command.keys();
        self.at(region_key(&keys[0]), |target| {
            let permit = target.wait(target.member.txn.permits().acquire(COMMAND_BYTES));
            target.wait(target.member.txn.write(&target.context, command, permit))
        })
    }
}

/// What an answer of the primary key means for somebody who reads at a timestamp, 0 for a writer.
fn fate_by(status: Option<&TxnStatus>, reads_at: Ts) -> Fate {
    match status {
        Some(TxnStatus::Committed(at)) => Fate::Over(*at),
        Some(TxnStatus::RolledBack(_)) => Fate::Over(Ts::ZERO),
        Some(TxnStatus::Alive { is_pushed: true, .. }) if reads_at != Ts::ZERO => Fate::Later,
        Some(TxnStatus::Alive { .. }) | None => Fate::Alive,
    }
}
