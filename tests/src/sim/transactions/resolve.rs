//! What a client does about a lock of another transaction: it finds out at the primary key what became of it, and ends
//! what is over.
//!
//! 1. CheckTxnStatus at the primary key. If nothing is known there and the lock has outlived its time, that
//!    rolls the transaction back.
//! 2. An async commit whose client is gone is decided by its other keys: CheckSecondaryLocks. If one of them was
//!    locked in two phases, the primary key decides after all.
//! 3. What has ended is ended at the key that was met, or everywhere in its region; what lives is waited for, or, by a
//!    reader that has pushed it behind itself, passed.

use skerry_kv::mvcc::{Key, Lock};
use skerry_kv::txn::check_secondary_locks::{CheckSecondaryLocks, SecondaryLocks};
use skerry_kv::txn::check_txn_status::{CheckTxnStatus, TxnStatus};
use skerry_kv::txn::pessimistic_rollback::PessimisticRollback;
use skerry_kv::txn::resolve_lock::{Ends, ResolveLite, ResolveRegion};
use skerry_kv::txn::{Error, scan_lock::ScanLock};
use skerry_proto::kvrpcpb::Action;
use skerry_proto::types::Ts;

use super::client::{Came, Client};
use super::percolator::Txn;
use super::server::Told;
use crate::sim::trace::MILLISECOND;

/// What became of a transaction.
enum Fate {
    /// It was committed.
    Committed(Ts),
    /// It is rolled back, as a whole or as far as it had locked the key that was met in advance.
    RolledBack,
    /// It goes on; whether it can no longer commit below the asker.
    Alive(bool),
}

impl Client {
    /// Another's lock on `key` is in the way of `txn`: ends it, or finds a way past, or waits a little. `caller` is
    /// below what the other shall not commit; 0 if that does not matter.
    pub(super) async fn meet(&mut self, txn: &mut Txn, key: &Key, lock: &Lock, caller: Ts) {
        match self.fate_of(lock, caller).await {
            Some(Fate::Committed(commit_ts)) => {
                txn.resolve(lock.start_ts, commit_ts);
                // A reader that knows the end needs nobody to clean up first.
                if self.chance.percent(80) {
                    self.end_lock(key, lock, commit_ts).await;
                }
            }
            Some(Fate::RolledBack) => {
                if !lock.is_pessimistic() {
                    txn.resolve(lock.start_ts, Ts::ZERO);
                }
                self.end_lock(key, lock, Ts::ZERO).await;
            }
            Some(Fate::Alive(true)) => {
                self.count("txn: reader pushed a lock");
                txn.resolve(lock.start_ts, Ts::ZERO);
            }
            Some(Fate::Alive(false)) | None => {
                let span = self.chance.between(10 * MILLISECOND, 150 * MILLISECOND);
                self.outbox.pause(span).await;
            }
        }
    }

    /// What became of the owner of a lock; nothing if nobody says.
    async fn fate_of(&mut self, lock: &Lock, caller: Ts) -> Option<Fate> {
        let current_ts = self.outbox.stamp().await;
        let mut check = CheckTxnStatus {
            primary: Key::of(&lock.primary),
            start_ts: lock.start_ts,
            caller_start_ts: caller,
            current_ts,
            rollback_if_not_exist: lock.is_expired(current_ts),
            force_sync_commit: false,
            resolving_pessimistic_lock: lock.is_pessimistic(),
            verify_is_primary: true,
        };
        let primary = match self.status(&check).await? {
            TxnStatus::Committed(commit_ts) => return Some(Fate::Committed(commit_ts)),
            TxnStatus::RolledBack(_) => return Some(Fate::RolledBack),
            TxnStatus::Alive { lock, .. }
                if lock.use_async_commit && lock.is_expired(current_ts) =>
            {
                lock
            }
            TxnStatus::Alive { is_pushed, .. } => {
                // An asker that has no timestamp to protect pushes nobody.
                return Some(Fate::Alive(is_pushed && caller != Ts::ZERO));
            }
        };
        if let Some(fate) = self.fate_by_secondaries(&primary).await? {
            return Some(fate);
        }
        check.force_sync_commit = true;
        match self.status(&check).await? {
            TxnStatus::Committed(commit_ts) => Some(Fate::Committed(commit_ts)),
            TxnStatus::RolledBack(_) => Some(Fate::RolledBack),
            TxnStatus::Alive { .. } => Some(Fate::Alive(false)),
        }
    }

    async fn status(&mut self, check: &CheckTxnStatus) -> Option<TxnStatus> {
        let came = self
            .one(&check.primary, |outbox, to| {
                let (context, check) = (to.context(), check.clone());
                outbox.send("check_txn_status", to, move |server| {
                    let (store, side, check) = (server.store(), server.side(), check.clone());
                    Box::pin(async move {
                        let permit = store.permits().acquire(super::WRITE_BYTES).await;
                        let status = store.write(&context, &check, permit).await?;
                        let end = end_of(&status).map(|end| Told::Ended(check.start_ts, end));
                        side.borrow_mut().told.extend(end);
                        Ok(status)
                    })
                })
            })
            .await;
        match came {
            Came::Answer(status) => Some(status),
            // Its lock may still be on its way, or it has another primary key by now.
            Came::Error(Error::TxnNotFound { .. } | Error::PrimaryMismatch { .. }) => None,
            Came::Error(error) => {
                self.is_wrong(format!("the status of {} is {error}", check.start_ts));
                None
            }
            Came::Nothing => None,
        }
    }

    /// The fate of an async commit whose primary lock stands. The inner nothing: one key is locked in two phases.
    async fn fate_by_secondaries(&mut self, primary: &Lock) -> Option<Option<Fate>> {
        let start_ts = primary.start_ts;
        let mut left: Vec<Key> = primary.secondaries.iter().map(|user| Key::of(user)).collect();
        let mut commit_ts = primary.min_commit_ts;
        for _ in 0..5 {
            let came = self
                .round(&left, |outbox, to, keys| {
                    let (context, check) = (to.context(), CheckSecondaryLocks { keys, start_ts });
                    outbox.send("check_secondary_locks", to, move |server| {
                        let (store, side, check) = (server.store(), server.side(), check.clone());
                        Box::pin(async move {
                            let permit = store.permits().acquire(super::WRITE_BYTES).await;
                            let locks = store.write(&context, &check, permit).await?;
                            let end = end_by_keys(&locks).map(|end| Told::Ended(start_ts, end));
                            side.borrow_mut().told.extend(end);
                            Ok(locks)
                        })
                    })
                })
                .await;
            left.clear();
            for (keys, came) in came {
                match came {
                    Came::Answer(SecondaryLocks::Committed(commit_ts)) => {
                        return Some(Some(Fate::Committed(commit_ts)));
                    }
                    Came::Answer(SecondaryLocks::RolledBack) => {
                        return Some(Some(Fate::RolledBack));
                    }
                    Came::Answer(SecondaryLocks::Locked(locks)) => {
                        if locks.iter().any(|(_, lock)| !lock.use_async_commit) {
                            return Some(None);
                        }
                        let all = locks.iter().map(|(_, lock)| lock.min_commit_ts);
                        commit_ts = all.fold(commit_ts, Ts::max);
                    }
                    Came::Error(error) => {
                        self.is_wrong(format!("secondaries of {start_ts} say {error}"));
                        return None;
                    }
                    Came::Nothing => left.extend(keys),
                }
            }
            if left.is_empty() {
                self.count("txn: async commit found complete");
                return Some(Some(Fate::Committed(commit_ts)));
            }
            self.breathe().await;
        }
        None
    }

    /// Ends what a transaction that is over has left at a key, or in all of its region.
    async fn end_lock(&mut self, key: &Key, lock: &Lock, commit_ts: Ts) {
        let (start_ts, keys) = (lock.start_ts, vec![key.clone()]);
        let came = if lock.is_pessimistic() {
            let for_update_ts = lock.for_update_ts;
            let command = PessimisticRollback { keys, start_ts, for_update_ts };
            self.one(key, |outbox, to| outbox.write(to, command.clone())).await
        } else if self.chance.percent(25) {
            let ends = Ends::from([(start_ts, commit_ts)]);
            self.one(key, |outbox, to| {
                let (context, ends) = (to.context(), ends.clone());
                outbox.send("resolve_region", to, move |server| {
                    let (store, ends) = (server.store(), ends.clone());
                    Box::pin(async move { store.walk(&context, ResolveRegion::new(ends)).await })
                })
            })
            .await
        } else {
            let command = ResolveLite { keys, start_ts, commit_ts };
            self.one(key, |outbox, to| outbox.write(to, command.clone())).await
        };
        match came {
            Came::Answer(()) if self.shared.dead.borrow().contains(&start_ts) => {
                self.count("txn: lock of a dead client resolved");
                if lock.use_async_commit {
                    self.count("txn: async commit of a dead client resolved");
                }
            }
            Came::Answer(()) | Came::Nothing => {}
            Came::Error(_) if self.may_be_forgotten(start_ts) => {}
            Came::Error(error) => {
                self.is_wrong(format!("{start_ts} ended at {commit_ts}, {key:?} says {error}"));
            }
        }
    }

    /// Ends all locks there are, after all clients are gone. Answers how many it has met.
    pub(super) async fn sweep(&mut self, txn: &mut Txn, keys: &[Key]) -> usize {
        let mut met = 0;
        let (groups, _) = self.groups::<()>(keys).await;
        for (_, keys) in groups {
            let came = self
                .round(&keys[..1], |outbox, to, _| {
                    let all = ScanLock::new(Ts::MAX, Default::default(), Default::default(), 0);
                    outbox.read("scan_lock", to, all)
                })
                .await;
            for (_, came) in came {
                let Came::Answer(locks) = came else {
                    met += 1;
                    continue;
                };
                for (key, lock) in locks {
                    met += 1;
                    self.meet(txn, &key, &lock, Ts::ZERO).await;
                }
            }
        }
        met
    }
}

/// When a transaction was committed; 0 if it will never be; nothing if that is open.
pub(super) fn end_of(status: &TxnStatus) -> Option<Ts> {
    match status {
        TxnStatus::Committed(commit_ts) => Some(*commit_ts),
        TxnStatus::RolledBack(
            Action::NoAction | Action::TtlExpireRollback | Action::LockNotExistRollback,
        ) => Some(Ts::ZERO),
        TxnStatus::RolledBack(_) | TxnStatus::Alive { .. } => None,
    }
}

/// The same, as other keys tell it.
pub(super) fn end_by_keys(locks: &SecondaryLocks) -> Option<Ts> {
    match locks {
        SecondaryLocks::Committed(commit_ts) => Some(*commit_ts),
        SecondaryLocks::RolledBack => Some(Ts::ZERO),
        SecondaryLocks::Locked(_) => None,
    }
}
