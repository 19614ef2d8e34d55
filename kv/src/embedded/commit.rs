//! Commits a transaction of the library.
//!
//! 1. All keys are locked and all values stored, region by region in the order of the keys, so that two transactions
//!    cannot wait for each other in a circle. If they fit one request of one region, that request commits as well, and
//!    all is done with one write.
//! 2. Otherwise a timestamp is drawn, and the lock of the first key, the primary one, becomes a record. With this write
//!    the transaction is committed.
//! 3. The other locks follow. If that fails it harms nobody: whoever meets one finishes it.
//!
//! What fails in step 1 is rolled back at every key; if that fails too, others do it when the time of the locks is
//! over.

use std::collections::BTreeMap;

use bytes::Bytes;
use skerry_proto::kvrpcpb::AssertionLevel;
use skerry_proto::types::Ts;

use super::client::{Client, Locks, PART_BYTES_MAX, Target, region_key};
use super::error::{Error, Result};
use crate::mvcc::Key;
use crate::txn;
use crate::txn::commit::Commit;
use crate::txn::prewrite::{Change, Mutation, Prewrite, Prewritten, Way};
use crate::txn::rollback::Rollback;

/// How long a lock lives, at least: a transaction that takes longer between its first lock and its commit is taken for
/// dead.
const LOCK_MS_MIN: u64 = 3_000;
/// Keys for which a lock lives a millisecond longer.
const KEYS_A_MS: u64 = 10;

/// A transaction that is being committed.
struct Committing<'a> {
    client: &'a Client,
    start_ts: Ts,
    /// By key; not empty.
    mutations: Vec<Mutation>,
    primary: Bytes,
    /// Bytes of all keys and values.
    bytes: usize,
    /// The life of its locks, which counts from `start_ts`.
    ttl_ms: u64,
}

/// Makes the changes of the transaction that began at `start_ts` true, all or none.
pub(super) fn commit(
    client: &Client,
    start_ts: Ts,
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
) -> Result<()> {
    let Some((primary, _)) = changes.first_key_value() else { return Ok(()) };
    let primary = Bytes::from(primary.clone());
    let mut mutations = Vec::with_capacity(changes.len());
    for (user, change) in changes {
        let change = change.map_or(Change::Delete, |value| Change::Put(value.into()));
        mutations.push(Mutation::new(client.key(&user)?, change));
    }
    let bytes = bytes_of(&mutations);
    let ttl_ms = ttl_ms(start_ts, client.timestamp(), mutations.len());
    let committing = Committing { client, start_ts, mutations, primary, bytes, ttl_ms };
    match committing.prewrite() {
        // One phase was enough.
        Ok(Some(_)) => Ok(()),
        Ok(None) => committing.finish(),
        Err(error) => {
            committing.roll_back();
            Err(error)
        }
    }
}

/// How long locks live that are written from `now` on: what the application has taken since its start is added.
fn ttl_ms(start_ts: Ts, now: Ts, keys: usize) -> u64 {
    let passed_ms = now.physical_ms().saturating_sub(start_ts.physical_ms());
    passed_ms + LOCK_MS_MIN + keys as u64 / KEYS_A_MS
}

/// A mutation's key, and the bytes that it takes in a request.
fn measure(mutation: &Mutation) -> (&Key, usize) {
    let value = match &mutation.change {
        Change::Put(value) | Change::Insert(value) => value.len(),
        Change::Delete | Change::Lock | Change::CheckNotExists => 0,
    };
    (&mutation.key, mutation.key.as_bytes().len() + value)
}

/// Room for a request with these mutations.
fn bytes_of(part: &[Mutation]) -> usize {
    part.iter().map(|mutation| measure(mutation).1).sum()
}

impl Committing<'_> {
    /// Step 1; the commit timestamp if that was all.
    fn prewrite(&self) -> Result<Option<Ts>> {
        let (mut committed, mut may_have_committed) = (None, false);
        let done = self.client.in_parts(&self.mutations, measure, self.start_ts, |target, part| {
            let is_whole = part.len() == self.mutations.len() && self.bytes <= PART_BYTES_MAX;
            may_have_committed |= is_whole;
            // The store chooses the timestamp of one phase: whoever has begun by now must not see it.
            let (way, min_commit_ts) = match is_whole {
                true => (Way::OnePhase, self.client.timestamp().next()),
                // Readers may push it.
                false => (Way::TwoPhases, self.start_ts.next()),
            };
            let command = self.prewrite_of(part, way, min_commit_ts);
            let permit = target.wait(target.member.txn.permits().acquire(bytes_of(part)));
            match target.wait(target.member.txn.write(&target.context, &command, permit))? {
                Prewritten::Done { one_phase_commit_ts, .. } => {
                    committed = Some(one_phase_commit_ts).filter(|ts| *ts != Ts::ZERO);
                    Ok(Locks::new())
                }
                Prewritten::Locked(errors) => locks_of(errors),
            }
        });
        match done {
            // Locks alone make nothing true.
            Err(Error::Unknown(reason)) if !may_have_committed => Err(Error::Busy(reason)),
            done => done.map(|()| committed),
        }
    }

    fn prewrite_of(&self, part: &[Mutation], way: Way, min_commit_ts: Ts) -> Prewrite {
        let keys = self.mutations.len() as u64;
        Prewrite {
            mutations: part.to_vec(),
            primary: self.primary.clone(),
            start_ts: self.start_ts,
            ttl_ms: self.ttl_ms,
            txn_size: keys,
            for_update_ts: Ts::ZERO,
            min_commit_ts,
            max_commit_ts: Ts::ZERO,
            assertion_level: AssertionLevel::Off,
            way,
        }
    }

    /// Steps 2 and 3.
    fn finish(&self) -> Result<()> {
        let first = &self.mutations[0].key;
        let (taken, commit_ts) = loop {
            let commit_ts = self.client.timestamp();
            let committed = self.client.at(region_key(first), |target| {
                let part = target.part_of(&self.mutations, measure);
                match self.commit_part(target, part, commit_ts) {
                    // A reader was promised a later commit.
                    Err(txn::Error::CommitTsExpired { .. }) => Ok(None),
                    answered => answered.map(|()| Some(part.len())),
                }
            })?;
            if let Some(taken) = committed {
                break (taken, commit_ts);
            }
        };
        let rest = &self.mutations[taken..];
        // It is committed, whatever becomes of this.
        let _ = self.client.in_parts(rest, measure, self.start_ts, |target, part| {
            self.commit_part(target, part, commit_ts).map(|()| Locks::new())
        });
        Ok(())
    }

    fn commit_part(
        &self,
        target: &Target<'_>,
        part: &[Mutation],
        commit_ts: Ts,
    ) -> txn::Result<()> {
        let (keys, start_ts) = (keys_of(part), self.start_ts);
        let permit = target.wait(target.member.txn.permits().acquire(bytes_of(part)));
        let command = Commit { keys, start_ts, commit_ts };
        target.wait(target.member.txn.write(&target.context, &command, permit)).map(|_| ())
    }

    /// Takes back what was prewritten; what cannot be reached is left to others.
    fn roll_back(&self) {
        let _ = self.client.in_parts(&self.mutations, measure, self.start_ts, |target, part| {
            let command = Rollback { keys: keys_of(part), start_ts: self.start_ts };
            let permit = target.wait(target.member.txn.permits().acquire(bytes_of(part)));
            target.wait(target.member.txn.write(&target.context, &command, permit))?;
            Ok(Locks::new())
        });
    }
}

fn keys_of(part: &[Mutation]) -> Vec<Key> {
    part.iter().map(|mutation| mutation.key.clone()).collect()
}

/// The locks that these errors name.
fn locks_of(errors: Vec<txn::Error>) -> txn::Result<Locks> {
    let lock_of = |error| match error {
        txn::Error::Locked { key, lock } => Ok((key, *lock)),
        other => Err(other),
    };
    errors.into_iter().map(lock_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_live_from_when_they_are_written_however_long_the_application_took() {
        let (start_ts, hour_ms) = (Ts::compose(1_000_000, 5), 3_600_000);
        assert_eq!(ttl_ms(start_ts, start_ts, 1), 3_000);
        assert_eq!(ttl_ms(start_ts, Ts::compose(1_000_000 + hour_ms, 0), 70), hour_ms + 3_007);
    }
}
