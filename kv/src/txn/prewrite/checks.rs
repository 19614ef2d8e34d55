//! What must be true of a key before a transaction may lock it for writing.
//!
//! | at the key is | optimistic | pessimistic, locked in advance | pessimistic, not locked |
//! | --- | --- | --- | --- |
//! | another's lock | locked | the own lock is gone: refused | locked, to be resolved at once |
//! | the own lock, prewritten | done before | done before | done before |
//! | the own pessimistic lock | refused | free | checked as if there were none |
//! | no lock, a newer version | conflict if above start | refused if above start | conflict if above `for_update_ts` |
//! | no lock, another's rollback | as a newer version | as a newer version | passed over |
//! | no lock, the own rollback | conflict: rolled back | refused | conflict: rolled back |
//!
//! A pessimistic lock that is gone was ended by somebody who took the transaction for dead. If nothing was written
//! since, the transaction may go on nevertheless.
//!
//! A version counts as newer by its record, also if it changed nothing: another transaction held the key meanwhile,
//! and what this one read under that assumption may be wrong.

use skerry_proto::kvrpcpb::prewrite_request::PessimisticAction;
use skerry_proto::kvrpcpb::{Assertion, AssertionLevel};
use skerry_proto::types::Ts;

use super::super::error::{AssertionFailed, Error, Reason, Result, WriteConflict};
use super::super::planted::Planted;
use super::{Change, Mutation, Prewrite, Way};
use crate::mvcc::{Key, Lock, Reader, Write, WriteKind};

/// A key that no other transaction stands in the way of.
pub(super) enum Checked {
    /// It may be locked.
    Free {
        /// The pessimistic lock that is there now.
        reserved: Option<Lock>,
        /// The newest record was looked at: no record stands above what the transaction has seen.
        is_newest_seen: bool,
    },
    /// It is locked: this request was served before.
    Own(Lock),
    /// Nothing is to be written to it.
    Nothing,
}

impl Prewrite {
    /// Checks one key by the table above.
    pub(super) fn check(
        &self,
        reader: &mut Reader<'_>,
        mutation: &Mutation,
        planted: Option<Planted>,
    ) -> Result<Checked> {
        let passes_over =
            planted == Some(Planted::OnePhaseIgnoresLock) && self.way == Way::OnePhase;
        let reserved = match reader.load_lock(&mutation.key)? {
            Some(lock) if lock.start_ts != self.start_ts && passes_over => None,
            Some(lock) if lock.start_ts != self.start_ts => {
                return Err(self.in_the_way(mutation, lock)?);
            }
            Some(lock) if !lock.is_pessimistic() => return Ok(Checked::Own(lock)),
            Some(lock) => Some(self.check_reserved(mutation, lock)?),
            None => None,
        };
        let must_be_reserved =
            self.is_pessimistic() && mutation.pessimistic == PessimisticAction::DoPessimisticCheck;
        // The newest record, if it had to be looked at, and whether none at all stands above what was seen.
        let (newest, is_newest_seen) = match (&reserved, must_be_reserved) {
            (Some(_), true) => (None, false),
            (None, true) => (Some(self.check_unchanged(reader, mutation)?), true),
            (_, false) => {
                let (newest, is_newest_seen) = self.check_newest(reader, mutation)?;
                (Some(newest), is_newest_seen)
            }
        };
        if mutation.change.must_not_exist()
            && let Some(newest) = &newest
            && data_below(reader, &mutation.key, newest)?.is_some_and(is_put)
        {
            return Err(Error::AlreadyExists { key: mutation.key.user_key()? });
        }
        self.check_assertion(reader, mutation, newest)?;
        match mutation.change {
            Change::CheckNotExists => Ok(Checked::Nothing),
            _ => Ok(Checked::Free { reserved, is_newest_seen }),
        }
    }

    /// The error for a lock of another transaction.
    fn in_the_way(&self, mutation: &Mutation, mut lock: Lock) -> Result<Error> {
        if self.is_pessimistic() {
            if mutation.pessimistic == PessimisticAction::DoPessimisticCheck {
                return self.lost(&mutation.key, "another transaction has locked the key");
            }
            // The owner of this lock cannot win: this transaction holds the rows. Time to live 0 tells the client not
            // to wait for it.
            lock.ttl_ms = 0;
        }
        Ok(Error::locked(&mutation.key, &lock))
    }

    /// Checks the pessimistic lock of this transaction.
    fn check_reserved(&self, mutation: &Mutation, lock: Lock) -> Result<Lock> {
        if !self.is_pessimistic() {
            let (key, start_ts) = (mutation.key.user_key()?, self.start_ts);
            return Err(Error::LockKindMismatch { key, start_ts, found: lock.kind });
        }
        match mutation.expected_for_update_ts {
            Some(expected) if expected != lock.for_update_ts => {
                Err(self.lost(&mutation.key, "it was taken with another for_update_ts")?)
            }
            _ => Ok(lock),
        }
    }

    /// A pessimistic lock that is gone matters if the key was written since the transaction began. With which
    /// timestamp it had been taken cannot be known any more, so a client that insists on one is refused.
    fn check_unchanged(&self, reader: &mut Reader<'_>, mutation: &Mutation) -> Result<Newest> {
        let newest = reader.seek_write(&mutation.key, Ts::MAX)?;
        let is_newer = newest.as_ref().is_some_and(|(commit_ts, _)| *commit_ts >= self.start_ts);
        if is_newer || mutation.expected_for_update_ts.is_some() {
            return Err(self.lost(&mutation.key, "the key may have been written since")?);
        }
        Ok(newest)
    }

    /// Checks that nobody was faster; the newest record below those that do not count, and whether there are none.
    fn check_newest(&self, reader: &mut Reader<'_>, mutation: &Mutation) -> Result<(Newest, bool)> {
        let (seen, reason) = match mutation.pessimistic {
            _ if !self.is_pessimistic() => (self.start_ts, Reason::Optimistic),
            PessimisticAction::DoConstraintCheck => (self.start_ts, Reason::LazyUniquenessCheck),
            _ => (self.for_update_ts, Reason::NotLockedKeyConflict),
        };
        let mut newest = reader.seek_write(&mutation.key, Ts::MAX)?;
        let mut is_newest_seen = true;
        if reason == Reason::NotLockedKeyConflict {
            // Of others who had to give way: this transaction holds the rows. One of them may have taken the place of
            // this transaction's own rollback here; then its primary key is rolled back, which had to be locked in
            // advance, or the own one is protected and stays.
            while let Some((commit_ts, write)) = &newest
                && *commit_ts > seen
                && write.kind == WriteKind::Rollback
                && write.start_ts != self.start_ts
            {
                newest = reader.seek_write(&mutation.key, commit_ts.previous())?;
                is_newest_seen = false;
            }
        }
        let Some((commit_ts, write)) = &newest else { return Ok((None, is_newest_seen)) };
        let mut conflict = WriteConflict {
            key: mutation.key.user_key()?,
            start_ts: self.start_ts,
            primary: self.primary.clone(),
            conflict_start_ts: write.start_ts,
            conflict_commit_ts: *commit_ts,
            reason,
        };
        if *commit_ts >= self.start_ts {
            let own = reader.record_at(&mutation.key, self.start_ts)?;
            let is_rollback =
                |own: Write| own.kind == WriteKind::Rollback || own.overlapped_rollback;
            if own.is_some_and(is_rollback) {
                conflict.reason = Reason::SelfRolledBack;
                return Err(Error::WriteConflict(Box::new(conflict)));
            }
        }
        if *commit_ts > seen {
            return Err(Error::WriteConflict(Box::new(conflict)));
        }
        Ok((newest, is_newest_seen))
    }

    /// Checks what the client believes about the key. On level *fast* only against what was read anyway.
    fn check_assertion(
        &self,
        reader: &mut Reader<'_>,
        mutation: &Mutation,
        newest: Option<Newest>,
    ) -> Result<()> {
        if mutation.assertion == Assertion::None || self.assertion_level == AssertionLevel::Off {
            return Ok(());
        }
        let data = match newest {
            Some(newest) if newest.as_ref().is_none_or(|(_, write)| write.kind.is_data()) => newest,
            _ if self.assertion_level == AssertionLevel::Fast => return Ok(()),
            _ => reader.seek_data(&mutation.key, Ts::MAX)?,
        };
        let exists = data.as_ref().is_some_and(|(_, write)| write.kind == WriteKind::Put);
        if exists == (mutation.assertion == Assertion::Exist) {
            return Ok(());
        }
        Err(Error::AssertionFailed(Box::new(AssertionFailed {
            key: mutation.key.user_key()?,
            start_ts: self.start_ts,
            assertion: mutation.assertion,
            existing: data.map_or((Ts::ZERO, Ts::ZERO), |(ts, write)| (write.start_ts, ts)),
        })))
    }

    fn lost(&self, key: &Key, reason: &'static str) -> Result<Error> {
        let (key, start_ts) = (key.user_key()?, self.start_ts);
        Ok(Error::PessimisticLockNotFound { key, start_ts, reason })
    }
}

/// The newest record of a key and its timestamp, if it has one.
type Newest = Option<(Ts, Write)>;

/// The newest record at or below `newest` that decides what a reader sees.
fn data_below(reader: &mut Reader<'_>, key: &Key, newest: &Newest) -> Result<Newest> {
    match newest {
        Some((ts, write)) if !write.kind.is_data() => Ok(reader.seek_data(key, *ts)?),
        other => Ok(other.clone()),
    }
}

fn is_put((_, write): (Ts, Write)) -> bool {
    write.kind == WriteKind::Put
}
