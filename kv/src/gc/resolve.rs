//! Ends the locks that old transactions have left in a region.
//!
//! No lock of a transaction that began at or below the safe point can be added any more ([`super::SafePoints`]), and
//! none may be left when versions go. So, until a look at the region finds none:
//!
//! 1. A *pessimistic* lock only reserves a key. It goes.
//! 2. Of any other, the primary key is asked what became of the transaction; its life counts as over. If it has neither
//!    committed nor been rolled back it is rolled back there, for good.
//! 3. A transaction with *async commit* may be committed though its primary lock stands: then its other keys are asked.
//!    All locked, it is committed at the highest of the timestamps that they name; one missing, it is rolled back. Who
//!    else asks, comes to the same end.
//! 4. What nobody could tell leaves its locks to the next pass, and is the error of this one.
//! 5. What came out is done to the locks here. The other regions' leaders do the same to theirs.
//!
//! What it does not do: it finds no stores. Primary keys may be anywhere: [`Elsewhere`] asks there.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use skerry_proto::kvrpcpb::{
    CheckSecondaryLocksResponse, CheckTxnStatusRequest, CheckTxnStatusResponse,
};
use skerry_proto::types::Ts;

use crate::error::Error;
use crate::mvcc::{Key, Lock};
use crate::storage::RequestContext;
use crate::txn::error::Result;
use crate::txn::pessimistic_rollback::PessimisticRollback;
use crate::txn::planted::Planted;
use crate::txn::resolve_lock::{Ends, ResolveLocks};
use crate::txn::scan_lock::ScanLock;
use crate::txn::{TxnStore, WriteCommand};

/// Locks that are looked at together.
const LOCKS_IN_A_LOOK: usize = 256;
/// Transactions about which nobody could be asked before the rest is left to the next pass: each took its time.
const UNDECIDED_MAX: usize = 8;
/// Room that ending them asks for.
const STEP_BYTES: usize = 64 << 10;

/// An answer that takes its time.
pub type Asked<'a, T> = Pin<Box<dyn Future<Output = crate::Result<T>> + Send + 'a>>;

/// Asks leaders of other regions, wherever they are, or of the same.
pub trait Elsewhere: Send + Sync {
    /// What became of a transaction, asked at its primary key. The request has no context yet.
    fn check_txn_status(&self, request: CheckTxnStatusRequest)
    -> Asked<'_, CheckTxnStatusResponse>;

    /// Whether those of some keys of a transaction are locked by it that lie in the region of the first; with how many
    /// these are. The keys ascend.
    fn check_secondary_locks(
        &self,
        start_ts: Ts,
        keys: Vec<Bytes>,
    ) -> Asked<'_, (usize, CheckSecondaryLocksResponse)>;
}

/// Ends all locks of transactions that began at or below `up_to`, which the store keeps, in the region of `context`.
/// When it returns there are none, in the whole region as the context describes it.
pub async fn free_region(
    store: &TxnStore,
    context: &RequestContext,
    up_to: Ts,
    elsewhere: &dyn Elsewhere,
) -> Result<()> {
    assert!(up_to <= store.safe_points().kept(), "locks could still be added below {up_to}");
    let (mut from, mut undecided) = (Bytes::new(), Undecided::default());
    loop {
        let scan = ScanLock::new(up_to, from.clone(), Bytes::new(), LOCKS_IN_A_LOOK);
        let locks = store.read(context, scan).await?;
        let Some((last, _)) = locks.last() else {
            return undecided.failure.map_or(Ok(()), Err);
        };
        let behind_last: Bytes = [&last.user_key()?[..], &[0]].concat().into();
        let findings = find_out(store, locks, up_to, elsewhere, &mut undecided).await;
        findings.carry_out(store, context).await?;
        if undecided.transactions.len() == UNDECIDED_MAX {
            return undecided.failure.map_or(Ok(()), Err);
        }
        if undecided.failure.is_some() {
            // What is ended is gone: only what stays has to be passed over.
            from = behind_last;
        }
    }
}

/// What is to be done about the locks of one look.
#[derive(Default)]
struct Findings {
    /// Pessimistic ones.
    reserved: BTreeMap<Ts, Vec<Key>>,
    /// Others, and how their transactions ended.
    keys: Vec<Key>,
    ends: Ends,
}

/// Transactions about which nobody could be asked.
#[derive(Default)]
struct Undecided {
    transactions: BTreeSet<Ts>,
    /// Why, the first time.
    failure: Option<crate::txn::Error>,
}

async fn find_out(
    store: &TxnStore,
    locks: Vec<(Key, Lock)>,
    up_to: Ts,
    elsewhere: &dyn Elsewhere,
    undecided: &mut Undecided,
) -> Findings {
    let mut findings = Findings::default();
    for (key, lock) in locks {
        if lock.is_pessimistic() {
            findings.reserved.entry(lock.start_ts).or_default().push(key);
            continue;
        }
        if undecided.transactions.contains(&lock.start_ts) {
            continue;
        }
        let end = match findings.ends.get(&lock.start_ts) {
            Some(end) => Ok(*end),
            None if store.has(Planted::ResolveUnasked) => Ok(Ts::ZERO),
            None => end_of(&lock, up_to, elsewhere).await,
        };
        match end {
            Ok(end) => {
                findings.ends.insert(lock.start_ts, end);
                findings.keys.push(key);
            }
            Err(error) => {
                undecided.transactions.insert(lock.start_ts);
                undecided.failure.get_or_insert(error);
            }
        }
        if undecided.transactions.len() == UNDECIDED_MAX {
            break;
        }
    }
    findings
}

impl Findings {
    async fn carry_out(self, store: &TxnStore, context: &RequestContext) -> Result<()> {
        for (start_ts, keys) in self.reserved {
            let command = PessimisticRollback { keys, start_ts, for_update_ts: Ts::MAX };
            write(store, context, &command).await?;
        }
        if !self.keys.is_empty() {
            write(store, context, &ResolveLocks { keys: self.keys, ends: self.ends }).await?;
        }
        Ok(())
    }
}

async fn write<C: WriteCommand>(
    store: &TxnStore,
    context: &RequestContext,
    command: &C,
) -> Result<C::Answer> {
    let permit = store.permits().acquire(STEP_BYTES).await;
    store.write(context, command, permit).await
}

/// When the transaction of a lock committed; 0 if it did not and never will.
async fn end_of(lock: &Lock, up_to: Ts, elsewhere: &dyn Elsewhere) -> Result<Ts> {
    let mut request = CheckTxnStatusRequest {
        primary_key: lock.primary.clone(),
        lock_ts: lock.start_ts.get(),
        caller_start_ts: up_to.get(),
        // Its life is over.
        current_ts: Ts::MAX.get(),
        rollback_if_not_exist: true,
        verify_is_primary: true,
        ..Default::default()
    };
    let status = decided(elsewhere.check_txn_status(request.clone()).await?)?;
    let Some(primary) = status.lock_info else {
        return Ok(Ts::from(status.commit_version));
    };
    if primary.use_async_commit {
        let answers = ask_secondaries(lock.start_ts, &primary.secondaries, elsewhere).await?;
        if let Some(end) = end_by_secondaries(primary.min_commit_ts, &answers)? {
            return Ok(end);
        }
    }
    // It fell back to two phases at some of its keys: then the primary lock decides, as always.
    request.force_sync_commit = true;
    let status = decided(elsewhere.check_txn_status(request).await?)?;
    if status.lock_info.is_some() {
        return Err(stuck(format!("the transaction that began at {} does not end", lock.start_ts)));
    }
    Ok(Ts::from(status.commit_version))
}

/// Asks at all other keys of a transaction, region by region.
async fn ask_secondaries(
    start_ts: Ts,
    keys: &[Bytes],
    elsewhere: &dyn Elsewhere,
) -> Result<Vec<(usize, CheckSecondaryLocksResponse)>> {
    let mut left = keys.to_vec();
    left.sort();
    let mut answers = Vec::new();
    while !left.is_empty() {
        let (count, answer) = elsewhere.check_secondary_locks(start_ts, left.clone()).await?;
        if count == 0 {
            let reason = "a region does not hold the key that it was asked for";
            return Err(Error::NotNow(reason).into());
        }
        left.drain(..count);
        answers.push((count, answer));
    }
    Ok(answers)
}

/// The end of a transaction with async commit, by its other keys; none if one of them is not locked for that.
fn end_by_secondaries(
    primary_min_commit_ts: u64,
    answers: &[(usize, CheckSecondaryLocksResponse)],
) -> Result<Option<Ts>> {
    let mut commit_ts = primary_min_commit_ts;
    for (keys, answer) in answers {
        if let Some(error) = &answer.error {
            return Err(stuck(format!("other keys of a transaction: {error:?}")));
        }
        if answer.locks.len() < *keys {
            // Committed at one key, or never to be.
            return Ok(Some(Ts::from(answer.commit_ts)));
        }
        if answer.locks.iter().any(|lock| !lock.use_async_commit) {
            return Ok(None);
        }
        commit_ts = answer.locks.iter().map(|lock| lock.min_commit_ts).fold(commit_ts, u64::max);
    }
    Ok(Some(Ts::from(commit_ts)))
}

fn decided(status: CheckTxnStatusResponse) -> Result<CheckTxnStatusResponse> {
    match status.error {
        None => Ok(status),
        Some(error) => Err(stuck(format!("the primary key of a transaction: {error:?}"))),
    }
}

/// What a person may have to look at.
fn stuck(reason: String) -> crate::txn::Error {
    Error::Admin(format!("locks cannot be resolved: {reason}")).into()
}

#[cfg(test)]
mod tests {
    use skerry_proto::kvrpcpb::LockInfo;

    use super::*;

    fn locked(keys: usize, min_commit_ts: &[u64]) -> (usize, CheckSecondaryLocksResponse) {
        let lock = |ts: &u64| LockInfo {
            use_async_commit: true,
            min_commit_ts: *ts,
            ..Default::default()
        };
        let locks = min_commit_ts.iter().map(lock).collect();
        (keys, CheckSecondaryLocksResponse { locks, ..Default::default() })
    }

    #[test]
    fn a_transaction_with_all_its_locks_is_committed_at_the_highest_timestamp() {
        let answers = [locked(2, &[12, 15]), locked(1, &[13])];
        assert_eq!(end_by_secondaries(14, &answers).unwrap(), Some(Ts::from(15)));
        assert_eq!(end_by_secondaries(17, &answers).unwrap(), Some(Ts::from(17)));
        assert_eq!(end_by_secondaries(17, &[]).unwrap(), Some(Ts::from(17)), "it had one key");
    }

    #[test]
    fn one_key_without_a_lock_decides() {
        let gone = CheckSecondaryLocksResponse { commit_ts: 21, ..Default::default() };
        let answers = [locked(1, &[12]), (1, gone.clone())];
        assert_eq!(end_by_secondaries(14, &answers).unwrap(), Some(Ts::from(21)));
        let never = CheckSecondaryLocksResponse { commit_ts: 0, ..gone };
        let answers = [locked(1, &[12]), (1, never)];
        assert_eq!(end_by_secondaries(14, &answers).unwrap(), Some(Ts::ZERO));
    }

    #[test]
    fn a_key_locked_in_two_phases_leaves_it_to_the_primary() {
        let (_, mut answer) = locked(1, &[12]);
        answer.locks[0].use_async_commit = false;
        assert_eq!(end_by_secondaries(14, &[(1, answer)]).unwrap(), None);
    }
}
