//! Why a command of a transaction was not done, by who must act, and how each reason looks on the wire.
//!
//! * **The client resolves** ([`Error::Locked`]): it finds out what became of the other transaction, and comes again.
//! * **The client takes a newer timestamp** ([`Error::CommitTsExpired`], and conflicts of a pessimistic lock).
//! * **The application repeats its transaction** ([`Error::WriteConflict`], [`Error::TxnLockNotFound`]).
//! * **The application decides** ([`Error::AlreadyExists`], [`Error::AssertionFailed`]).
//! * **The transaction is over**, or the request could never be right: the others.
//! * **It is not about a key** ([`Error::Other`]): see [`crate::Error`].
//!
//! **Invariant.** Every error says that nothing was written. The conversion to [`kvrpcpb::KeyError`] is in this file
//! and nowhere else.

use bytes::Bytes;
use skerry_proto::kvrpcpb;
use skerry_proto::types::Ts;

pub use kvrpcpb::write_conflict::Reason;

use super::lock_waits::Edge;
use crate::mvcc::{Key, Lock, LockKind};

/// The result of everything in [`crate::txn`] that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// One reason. Keys are as the client sent them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another transaction's lock is in the way.
    #[error("key \"{}\" is locked by the transaction that began at {}", .key.escape_ascii(), .lock.start_ts)]
    Locked {
        /// The locked key.
        key: Bytes,
        /// Its lock.
        lock: Box<Lock>,
    },

    /// Another transaction was faster.
    #[error(
        "write conflict ({:?}) on key \"{}\": the transaction that began at {} met a record of {}, committed at {}",
        .0.reason, .0.key.escape_ascii(), .0.start_ts, .0.conflict_start_ts, .0.conflict_commit_ts
    )]
    WriteConflict(Box<WriteConflict>),

    /// A key that must not exist does.
    #[error("key \"{}\" exists", .key.escape_ascii())]
    AlreadyExists {
        /// The key.
        key: Bytes,
    },

    /// The commit timestamp is below one that a reader was promised.
    #[error(
        "commit at {commit_ts} on key \"{}\" is refused: the lock promises not to commit before {min_commit_ts}",
        .key.escape_ascii()
    )]
    CommitTsExpired {
        /// The locked key.
        key: Bytes,
        /// The transaction.
        start_ts: Ts,
        /// What was asked for.
        commit_ts: Ts,
        /// What is promised.
        min_commit_ts: Ts,
    },

    /// Neither lock nor record of the transaction is at its primary key.
    #[error("nothing is known of the transaction that began at {start_ts} at \"{}\"", .primary.escape_ascii())]
    TxnNotFound {
        /// The transaction.
        start_ts: Ts,
        /// Its primary key.
        primary: Bytes,
    },

    /// A commit found neither its lock nor its record.
    #[error("key \"{}\" has no lock of the transaction that began at {start_ts}", .key.escape_ascii())]
    TxnLockNotFound {
        /// The key.
        key: Bytes,
        /// The transaction.
        start_ts: Ts,
    },

    /// A rollback came after the commit.
    #[error("the transaction that began at {start_ts} has committed key \"{}\" at {commit_ts}", .key.escape_ascii())]
    Committed {
        /// The key.
        key: Bytes,
        /// The transaction.
        start_ts: Ts,
        /// When it was committed.
        commit_ts: Ts,
    },

    /// A prewrite did not find the pessimistic lock that it relies on.
    #[error("the pessimistic lock on key \"{}\" of {start_ts} is gone: {reason}", .key.escape_ascii())]
    PessimisticLockNotFound {
        /// The key.
        key: Bytes,
        /// The transaction.
        start_ts: Ts,
        /// What was found.
        reason: &'static str,
    },

    /// A pessimistic lock was asked for by a transaction that is over.
    #[error("the transaction that began at {start_ts} is over at key \"{}\"", .key.escape_ascii())]
    TxnIsOver {
        /// The key.
        key: Bytes,
        /// The transaction.
        start_ts: Ts,
    },

    /// The transaction has a lock of another kind than the command takes it to have.
    #[error("the lock on key \"{}\" of {start_ts} is of another kind: {found:?}", .key.escape_ascii())]
    LockKindMismatch {
        /// The key.
        key: Bytes,
        /// The transaction.
        start_ts: Ts,
        /// What is there.
        found: LockKind,
    },

    /// What the transaction would have to see may be gone: it has lived for longer than old versions are kept.
    #[error(
        "GC life time is shorter than transaction duration: timestamp {ts} is below the safe point {safe_point}"
    )]
    TooOld {
        /// Of the read, or of the start of the transaction.
        ts: Ts,
        /// Below which versions may be gone.
        safe_point: Ts,
    },

    /// Nobody can have this timestamp from the scheduler yet. What is read at it could not stay true without harm to
    /// others.
    #[error(
        "the scheduler has not given timestamp {ts} to anybody, its newest is {newest}: take timestamps from the \
         scheduler of this cluster"
    )]
    NotGiven {
        /// What the request named.
        ts: Ts,
        /// What the scheduler has answered.
        newest: Ts,
    },

    /// Waiting for the lock would close a circle. Its edges, from the refused one to the one that leads back.
    #[error("deadlock: the transaction that began at {} would wait for itself, by {} others", .0[0].waiter, .0.len() - 1)]
    Deadlock(Vec<WaitsFor>),

    /// What the client believed about a key is wrong.
    #[error("assertion {:?} on key \"{}\" failed", .0.assertion, .0.key.escape_ascii())]
    AssertionFailed(Box<AssertionFailed>),

    /// The key asked about is not the primary key of the transaction that locks it.
    #[error("key \"{}\" is not the primary key of its lock, \"{}\" is", .key.escape_ascii(), .lock.primary.escape_ascii())]
    PrimaryMismatch {
        /// The key.
        key: Bytes,
        /// Its lock.
        lock: Box<Lock>,
    },

    /// A request that could not be right under any circumstances.
    #[error("{0}")]
    Invalid(String),

    /// Not about a key.
    #[error(transparent)]
    Other(Box<crate::Error>),
}

/// See [`Error::WriteConflict`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteConflict {
    /// The key.
    pub key: Bytes,
    /// The transaction that fails.
    pub start_ts: Ts,
    /// Its primary key.
    pub primary: Bytes,
    /// The one that was faster.
    pub conflict_start_ts: Ts,
    /// When that one committed.
    pub conflict_commit_ts: Ts,
    /// By which check it was found.
    pub reason: Reason,
}

/// One edge of a deadlock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitsFor {
    /// The transaction that waits.
    pub waiter: Ts,
    /// The transaction that has the lock.
    pub holder: Ts,
    /// On this key.
    pub key: Bytes,
    /// Of the waiting request.
    pub tag: Bytes,
    /// For how long it has been waiting, as far as is known.
    pub waited_ms: u64,
}

/// See [`Error::AssertionFailed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssertionFailed {
    /// The key.
    pub key: Bytes,
    /// The transaction.
    pub start_ts: Ts,
    /// What was believed.
    pub assertion: kvrpcpb::Assertion,
    /// The transaction and the commit that contradict; zeros if there is none.
    pub existing: (Ts, Ts),
}

impl From<crate::Error> for Error {
    fn from(error: crate::Error) -> Error {
        Error::Other(Box::new(error))
    }
}

impl From<skerry_raftstore::Error> for Error {
    fn from(error: skerry_raftstore::Error) -> Error {
        crate::Error::from(error).into()
    }
}

impl Error {
    /// That `lock` on `key` is in the way.
    pub fn locked(key: &Key, lock: &Lock) -> Error {
        match key.user_key() {
            Ok(key) => Error::Locked { key, lock: Box::new(lock.clone()) },
            Err(error) => error.into(),
        }
    }

    /// That a wait would close a circle, which is not empty.
    pub fn deadlock(circle: &[Edge]) -> Result<Error> {
        let edges = circle.iter().map(WaitsFor::of);
        edges.collect::<Result<Vec<WaitsFor>>>().map(Error::Deadlock)
    }

    /// As clients understand it; what is not about a key is given back.
    pub fn to_wire(&self) -> std::result::Result<kvrpcpb::KeyError, &crate::Error> {
        let text = self.to_string();
        let mut wire = kvrpcpb::KeyError::default();
        match self {
            Error::Locked { key, lock } => wire.locked = Some(lock_info(key, lock)),
            Error::WriteConflict(conflict) => {
                wire.conflict = Some(conflict.to_wire());
                // Clients from before `conflict` look for this one.
                wire.retryable = text;
            }
            Error::AlreadyExists { key } => {
                wire.already_exist = Some(kvrpcpb::AlreadyExist { key: key.clone() });
            }
            Error::CommitTsExpired { key, start_ts, commit_ts, min_commit_ts } => {
                wire.commit_ts_expired = Some(kvrpcpb::CommitTsExpired {
                    start_ts: start_ts.get(),
                    attempted_commit_ts: commit_ts.get(),
                    key: key.clone(),
                    min_commit_ts: min_commit_ts.get(),
                });
            }
            Error::TxnNotFound { start_ts, primary } => {
                wire.txn_not_found = Some(kvrpcpb::TxnNotFound {
                    start_ts: start_ts.get(),
                    primary_key: primary.clone(),
                });
            }
            Error::TxnLockNotFound { key, .. } => {
                wire.txn_lock_not_found = Some(kvrpcpb::TxnLockNotFound { key: key.clone() });
                wire.retryable = text;
            }
            Error::Deadlock(circle) => wire.deadlock = Some(deadlock_to_wire(circle)),
            Error::AssertionFailed(failed) => wire.assertion_failed = Some(failed.to_wire()),
            Error::PrimaryMismatch { key, lock } => {
                let lock_info = Some(lock_info(key, lock));
                wire.primary_mismatch = Some(kvrpcpb::PrimaryMismatch { lock_info });
            }
            Error::Committed { .. }
            | Error::PessimisticLockNotFound { .. }
            | Error::TxnIsOver { .. }
            | Error::TooOld { .. }
            | Error::NotGiven { .. }
            | Error::LockKindMismatch { .. }
            | Error::Invalid(_) => wire.abort = text,
            Error::Other(error) => return Err(error),
        }
        Ok(wire)
    }
}

impl WriteConflict {
    fn to_wire(&self) -> kvrpcpb::WriteConflict {
        kvrpcpb::WriteConflict {
            start_ts: self.start_ts.get(),
            conflict_ts: self.conflict_start_ts.get(),
            conflict_commit_ts: self.conflict_commit_ts.get(),
            key: self.key.clone(),
            primary: self.primary.clone(),
            reason: self.reason.into(),
        }
    }
}

/// One who waits, for people who look.
pub fn wait_for_entry(edge: &Edge) -> Result<skerry_proto::deadlock::WaitForEntry> {
    WaitsFor::of(edge).map(|edge| edge.to_wire())
}

impl WaitsFor {
    fn of(edge: &Edge) -> Result<WaitsFor> {
        let (key, tag) = (edge.key.user_key()?, edge.tag.clone());
        Ok(WaitsFor {
            waiter: edge.waiter,
            holder: edge.holder,
            key,
            tag,
            waited_ms: edge.waited_ms,
        })
    }

    fn to_wire(&self) -> skerry_proto::deadlock::WaitForEntry {
        skerry_proto::deadlock::WaitForEntry {
            txn: self.waiter.get(),
            wait_for_txn: self.holder.get(),
            key_hash: key_hash(&self.key),
            key: self.key.clone(),
            resource_group_tag: self.tag.clone(),
            wait_time: self.waited_ms,
        }
    }
}

/// As clients expect a circle: the edge that was refused comes last.
fn deadlock_to_wire(circle: &[WaitsFor]) -> kvrpcpb::Deadlock {
    let (refused, others) = circle.split_first().expect("a circle has an edge");
    let closing = others.last().unwrap_or(refused);
    kvrpcpb::Deadlock {
        lock_ts: refused.holder.get(),
        lock_key: refused.key.clone(),
        deadlock_key_hash: key_hash(&closing.key),
        deadlock_key: closing.key.clone(),
        wait_chain: others.iter().chain([refused]).map(WaitsFor::to_wire).collect(),
    }
}

/// By which clients find out whether a deadlock is at a key of their present statement, which they then repeat.
pub fn key_hash(key: &[u8]) -> u64 {
    farmhash::fingerprint64(key)
}

impl AssertionFailed {
    fn to_wire(&self) -> kvrpcpb::AssertionFailed {
        kvrpcpb::AssertionFailed {
            start_ts: self.start_ts.get(),
            key: self.key.clone(),
            assertion: self.assertion.into(),
            existing_start_ts: self.existing.0.get(),
            existing_commit_ts: self.existing.1.get(),
        }
    }
}

/// A lock as clients see it; `key` is the user key.
pub fn lock_info(key: &Bytes, lock: &Lock) -> kvrpcpb::LockInfo {
    kvrpcpb::LockInfo {
        primary_lock: lock.primary.clone(),
        lock_version: lock.start_ts.get(),
        key: key.clone(),
        lock_ttl: lock.ttl_ms,
        txn_size: lock.txn_size,
        lock_type: lock_op(lock.kind).into(),
        lock_for_update_ts: lock.for_update_ts.get(),
        use_async_commit: lock.use_async_commit,
        secondaries: lock.secondaries.clone(),
        min_commit_ts: lock.min_commit_ts.get(),
        duration_to_last_update_ms: 0,
    }
}

/// Locks at keys as clients see them.
pub fn lock_infos(locks: &[(Key, Lock)]) -> Result<Vec<kvrpcpb::LockInfo>> {
    locks.iter().map(|(key, lock)| Ok(lock_info(&key.user_key()?, lock))).collect()
}

/// What clients call a kind of lock.
pub fn lock_op(kind: LockKind) -> kvrpcpb::Op {
    match kind {
        LockKind::Put => kvrpcpb::Op::Put,
        LockKind::Delete => kvrpcpb::Op::Del,
        LockKind::Lock => kvrpcpb::Op::Lock,
        LockKind::Pessimistic => kvrpcpb::Op::PessimisticLock,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_deadlock_have_the_fingerprint_that_clients_compute() {
        // Of nothing, as FarmHash has it.
        assert_eq!(key_hash(b""), 0x9ae1_6a3b_2f90_404f);
        assert_ne!(key_hash(b"a"), key_hash(b"b"));
    }

    #[test]
    fn a_lock_tells_clients_everything() {
        let lock = Lock {
            txn_size: 7,
            for_update_ts: Ts::from(12),
            min_commit_ts: Ts::from(13),
            use_async_commit: true,
            secondaries: vec![Bytes::from_static(b"s")],
            ..Lock::new(LockKind::Delete, Bytes::from_static(b"p"), Ts::from(11), 3_000)
        };
        let wire = Error::locked(&Key::of(b"k"), &lock).to_wire().unwrap();
        let expected = kvrpcpb::LockInfo {
            primary_lock: Bytes::from_static(b"p"),
            lock_version: 11,
            key: Bytes::from_static(b"k"),
            lock_ttl: 3_000,
            txn_size: 7,
            lock_type: kvrpcpb::Op::Del.into(),
            lock_for_update_ts: 12,
            use_async_commit: true,
            secondaries: vec![Bytes::from_static(b"s")],
            min_commit_ts: 13,
            duration_to_last_update_ms: 0,
        };
        assert_eq!(wire.locked, Some(expected));
    }

    #[test]
    fn what_is_not_about_a_key_is_given_back() {
        let error = Error::from(crate::Error::StaleCommand);
        assert!(matches!(error.to_wire(), Err(crate::Error::StaleCommand)));
    }
}
