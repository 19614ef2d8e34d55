//! Rollback (which clients call BatchRollback) and Cleanup: give a transaction up.
//!
//! Both leave records also where the transaction has no lock: a prewrite of it that is still on its way must find
//! that it is too late. Cleanup is an older way of [`super::check_txn_status`] and asks about one key.

use std::sync::Arc;

use skerry_proto::types::Ts;

use super::concurrency::Concurrency;
use super::endings::{End, Ending};
use super::error::{Error, Result};
use super::{Effect, Released, WriteCommand};
use crate::mvcc::{Changes, Key, Reader};
use crate::storage::RegionView;

/// Gives a transaction up at some keys, as its owner.
#[derive(Clone, Debug)]
pub struct Rollback {
    /// The keys.
    pub keys: Vec<Key>,
    /// Which transaction.
    pub start_ts: Ts,
}

impl WriteCommand for Rollback {
    type Answer = ();

    fn name(&self) -> &'static str {
        "rollback"
    }

    fn keys(&self) -> Vec<Key> {
        self.keys.clone()
    }

    fn names(&self) -> Ts {
        self.start_ts
    }

    fn decide(&self, view: &RegionView, concurrency: &Arc<Concurrency>) -> Result<Effect<()>> {
        roll_back(view, concurrency, &self.keys, self.start_ts, false)
    }
}

/// Gives a transaction up at one key, as somebody whom its lock hinders.
#[derive(Clone, Debug)]
pub struct Cleanup {
    /// The key.
    pub key: Key,
    /// Which transaction.
    pub start_ts: Ts,
    /// Against which the lock's life is measured; 0: it is over.
    pub current_ts: Ts,
}

impl WriteCommand for Cleanup {
    type Answer = ();

    fn name(&self) -> &'static str {
        "cleanup"
    }

    fn keys(&self) -> Vec<Key> {
        vec![self.key.clone()]
    }

    fn names(&self) -> Ts {
        self.start_ts
    }

    fn decide(&self, view: &RegionView, concurrency: &Arc<Concurrency>) -> Result<Effect<()>> {
        let lock = Reader::of_key(&*view.view, &self.key).load_lock(&self.key)?;
        if let Some(lock) = lock.filter(|lock| lock.start_ts == self.start_ts)
            && self.current_ts != Ts::ZERO
            && !lock.is_expired(self.current_ts)
        {
            return Err(Error::locked(&self.key, &lock));
        }
        roll_back(view, concurrency, std::slice::from_ref(&self.key), self.start_ts, true)
    }
}

fn roll_back(
    view: &RegionView,
    concurrency: &Concurrency,
    keys: &[Key],
    start_ts: Ts,
    protect: bool,
) -> Result<Effect<()>> {
    let mut reader = Reader::of_keys(&*view.view, keys);
    let mut changes = Changes::new();
    let mut released: Vec<Released> = Vec::new();
    let mut ending = Ending {
        reader: &mut reader,
        changes: &mut changes,
        released: &mut released,
        planted: concurrency.planted(),
    };
    for key in keys {
        if let End::Committed(commit_ts) = ending.roll_back(key, start_ts, protect)? {
            return Err(Error::Committed { key: key.user_key()?, start_ts, commit_ts });
        }
    }
    Ok(Effect { batch: changes.into_batch(), answer: (), published: None, released })
}
