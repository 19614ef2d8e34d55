//! CheckSecondaryLocks: whether an async-commit transaction has all its locks, asked by somebody who found its
//! primary lock standing.
//!
//! If all are there it is committed. One that is missing was committed already, or can never come: a protected
//! rollback is left in its place, and with it the transaction cannot commit any more.

use std::sync::Arc;

use skerry_proto::kvrpcpb::CheckSecondaryLocksResponse;
use skerry_proto::types::Ts;

use super::concurrency::Concurrency;
use super::endings::{End, Ending};
use super::error::{Result, lock_infos};
use super::{Effect, WriteCommand};
use crate::mvcc::{Changes, Key, Lock, Reader};
use crate::storage::RegionView;

/// See the head of this file.
#[derive(Clone, Debug)]
pub struct CheckSecondaryLocks {
    /// Some of the transaction's keys.
    pub keys: Vec<Key>,
    /// Which transaction.
    pub start_ts: Ts,
}

/// What became of the transaction at those keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecondaryLocks {
    /// All are locked.
    Locked(Vec<(Key, Lock)>),
    /// One was committed, so it is committed.
    Committed(Ts),
    /// One is rolled back, so it is rolled back.
    RolledBack,
}

impl SecondaryLocks {
    /// As clients see it.
    pub fn to_wire(&self) -> Result<CheckSecondaryLocksResponse> {
        let (locks, commit_ts) = match self {
            SecondaryLocks::Locked(locks) => (lock_infos(locks)?, Ts::ZERO),
            SecondaryLocks::Committed(at) => (Vec::new(), *at),
            SecondaryLocks::RolledBack => (Vec::new(), Ts::ZERO),
        };
        Ok(CheckSecondaryLocksResponse { locks, commit_ts: commit_ts.get(), ..Default::default() })
    }
}

impl WriteCommand for CheckSecondaryLocks {
    type Answer = SecondaryLocks;

    fn name(&self) -> &'static str {
        "check_secondary_locks"
    }

    fn keys(&self) -> Vec<Key> {
        self.keys.clone()
    }

    /// No commit of another transaction may take the timestamp at which a rollback is left here.
    fn raises_to(&self) -> Ts {
        self.start_ts
    }

    fn decide(
        &self,
        view: &RegionView,
        concurrency: &Arc<Concurrency>,
    ) -> Result<Effect<SecondaryLocks>> {
        let mut reader = Reader::of_keys(&*view.view, &self.keys);
        let (mut changes, mut released) = (Changes::new(), Vec::new());
        let mut ending = Ending {
            reader: &mut reader,
            changes: &mut changes,
            released: &mut released,
            planted: concurrency.planted(),
        };
        let mut locks = Vec::with_capacity(self.keys.len());
        let mut ended = None;
        for key in &self.keys {
            let lock = ending.reader.load_lock(key)?.filter(|lock| lock.start_ts == self.start_ts);
            let end = match lock {
                Some(lock) if !lock.is_pessimistic() => {
                    locks.push((key.clone(), lock));
                    continue;
                }
                // Never prewritten, or prewritten and committed before this lock was asked for.
                Some(lock) => {
                    ending.unlock(key, &lock, Ts::ZERO);
                    ending.roll_back_missing(key, self.start_ts, true)?
                }
                None => ending.roll_back_missing(key, self.start_ts, true)?,
            };
            ended = Some(match end {
                End::Committed(commit_ts) => SecondaryLocks::Committed(commit_ts),
                End::RolledBack | End::WasRolledBack => SecondaryLocks::RolledBack,
            });
            break;
        }
        let answer = ended.unwrap_or(SecondaryLocks::Locked(locks));
        Ok(Effect { batch: changes.into_batch(), answer, published: None, released })
    }
}
