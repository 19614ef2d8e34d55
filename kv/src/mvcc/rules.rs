//! Which locks stand in the way of a read.
//!
//! A read at `ts` must see every transaction that commits at or below `ts`. One that holds a lock may still do so, and
//! then the read cannot be answered: it is told of the lock, finds out what became of the transaction, and comes again.
//!
//! A lock stands in the way unless one of these holds:
//!
//! 1. Its owner changes nothing: the lock only keeps others from writing.
//! 2. Its owner began, or will commit, above `ts`.
//! 3. The reader knows that its owner was rolled back or commits above `ts` (`resolved`).
//! 4. The read is of the newest version (`ts` is the highest possible) and the lock is that of the primary key in a
//!    commit of two phases: then the transaction is not committed, and the read may come before it. With async commit
//!    it may be committed already.
//!
//! If the reader knows that its owner has committed at or below `ts` (`committed`), it reads what the lock holds.
//!
//! At isolation level *read committed* locks do not matter.

use std::collections::BTreeSet;

use skerry_proto::types::Ts;

use super::{Key, Lock, LockKind};
use crate::error::Result;

/// What a read may see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Everything that was committed before its timestamp.
    #[default]
    Snapshot,
    /// The newest that is committed and below its timestamp; locks do not matter.
    ReadCommitted,
}

/// How a read wants to be answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadRules {
    /// The timestamp that it reads at. [`Ts::MAX`] means the newest.
    pub ts: Ts,
    /// What it may see.
    pub isolation: Isolation,
    /// Start timestamps of transactions that are known to be rolled back or to commit above `ts`.
    pub resolved: BTreeSet<Ts>,
    /// Start timestamps of transactions that are known to have committed at or below `ts`.
    pub committed: BTreeSet<Ts>,
}

/// What a lock means for a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// Nothing: the key's records decide.
    Pass,
    /// The read cannot be answered for this key.
    Blocked,
    /// What the lock holds is the newest version.
    SeeThrough,
}

impl ReadRules {
    /// Rules of a plain read at `ts`.
    pub fn at(ts: Ts) -> ReadRules {
        ReadRules { ts, ..ReadRules::default() }
    }

    /// What `lock` on `key` means for this read.
    pub fn meet(&self, key: &Key, lock: &Lock) -> Result<Meeting> {
        let changes_nothing = matches!(lock.kind, LockKind::Lock | LockKind::Pessimistic);
        let is_later = lock.start_ts > self.ts || lock.min_commit_ts > self.ts;
        if self.isolation == Isolation::ReadCommitted
            || changes_nothing
            || is_later
            || self.resolved.contains(&lock.start_ts)
        {
            return Ok(Meeting::Pass);
        }
        if self.committed.contains(&lock.start_ts) {
            return Ok(Meeting::SeeThrough);
        }
        let in_two_phases = !lock.use_async_commit && !lock.one_phase;
        if self.ts == Ts::MAX && in_two_phases && lock.primary == key.user_key()? {
            return Ok(Meeting::Pass);
        }
        Ok(Meeting::Blocked)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn lock() -> Lock {
        Lock::new(LockKind::Put, Bytes::from_static(b"k"), Ts::from(10), 0)
    }

    fn meet(rules: &ReadRules, lock: Lock) -> Meeting {
        rules.meet(&Key::of(b"k"), &lock).unwrap()
    }

    #[test]
    fn a_lock_blocks_reads_that_its_owner_could_still_commit_below() {
        let at = |ts| ReadRules::at(Ts::from(ts));
        assert_eq!(meet(&at(9), lock()), Meeting::Pass, "it began later");
        assert_eq!(meet(&at(10), lock()), Meeting::Blocked);
        let pushed = Lock { min_commit_ts: Ts::from(20), ..lock() };
        assert_eq!(meet(&at(19), pushed.clone()), Meeting::Pass, "it will commit later");
        assert_eq!(meet(&at(20), pushed), Meeting::Blocked);
        for kind in [LockKind::Lock, LockKind::Pessimistic] {
            assert_eq!(meet(&at(20), Lock { kind, ..lock() }), Meeting::Pass, "it changes nothing");
        }
        let delete = Lock { kind: LockKind::Delete, ..lock() };
        assert_eq!(meet(&at(20), delete.clone()), Meeting::Blocked);
        let unlocked = ReadRules { isolation: Isolation::ReadCommitted, ..at(20) };
        assert_eq!(meet(&unlocked, delete), Meeting::Pass);
    }

    #[test]
    fn a_reader_that_knows_the_owners_end_is_not_held_up() {
        let resolved = ReadRules { resolved: [Ts::from(10)].into(), ..ReadRules::at(Ts::from(20)) };
        assert_eq!(meet(&resolved, lock()), Meeting::Pass);
        let committed =
            ReadRules { committed: [Ts::from(10)].into(), ..ReadRules::at(Ts::from(20)) };
        assert_eq!(meet(&committed, lock()), Meeting::SeeThrough);
        let other = Lock { start_ts: Ts::from(11), ..lock() };
        assert_eq!(meet(&resolved, other.clone()), Meeting::Blocked);
        assert_eq!(meet(&committed, other), Meeting::Blocked);
    }

    #[test]
    fn a_read_of_the_newest_comes_before_a_primary_that_is_not_committed() {
        let newest = ReadRules::at(Ts::MAX);
        assert_eq!(meet(&newest, lock()), Meeting::Pass);
        let secondary = Lock { primary: Bytes::from_static(b"other"), ..lock() };
        assert_eq!(meet(&newest, secondary), Meeting::Blocked, "its primary may be committed");
        let asynchronous = Lock { use_async_commit: true, ..lock() };
        assert_eq!(meet(&newest, asynchronous), Meeting::Blocked, "it may be committed itself");
        assert_eq!(meet(&newest, Lock { one_phase: true, ..lock() }), Meeting::Blocked);
    }
}
