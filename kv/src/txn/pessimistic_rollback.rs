//! PessimisticRollback: releases locks that were taken in advance, without a trace: the transaction may lock these keys
//! again, or end without them.
//!
//! Clients name keys, or none: then the region is searched for all pessimistic locks of the transaction
//! ([`PessimisticRollbackRegion`]).

use std::sync::Arc;

use skerry_proto::types::Ts;

use super::concurrency::Concurrency;
use super::endings::Ending;
use super::error::Result;
use super::resolve_lock::LockSearch;
use super::{Effect, Steps, WriteCommand};
use crate::mvcc::{Changes, Key, Lock, Reader};
use crate::storage::RegionView;

/// Releases the locks of some keys.
#[derive(Clone, Debug)]
pub struct PessimisticRollback {
    /// The keys.
    pub keys: Vec<Key>,
    /// Which transaction.
    pub start_ts: Ts,
    /// Locks that were taken with a later one stay: the request that took them came after this one.
    pub for_update_ts: Ts,
}

impl PessimisticRollback {
    fn releases(&self, lock: &Lock) -> bool {
        lock.is_pessimistic()
            && lock.start_ts == self.start_ts
            && lock.for_update_ts <= self.for_update_ts
    }
}

impl WriteCommand for PessimisticRollback {
    type Answer = ();

    fn name(&self) -> &'static str {
        "pessimistic_rollback"
    }

    fn keys(&self) -> Vec<Key> {
        self.keys.clone()
    }

    fn decide(&self, view: &RegionView, concurrency: &Arc<Concurrency>) -> Result<Effect<()>> {
        let mut reader = Reader::of_keys(&*view.view, &self.keys);
        let (mut changes, mut released) = (Changes::new(), Vec::new());
        let mut ending = Ending {
            reader: &mut reader,
            changes: &mut changes,
            released: &mut released,
            planted: concurrency.planted(),
        };
        for key in &self.keys {
            let lock = ending.reader.load_lock(key)?;
            if let Some(lock) = lock.filter(|lock| self.releases(lock)) {
                ending.unlock(key, &lock, Ts::ZERO);
            }
        }
        Ok(Effect { batch: changes.into_batch(), answer: (), published: None, released })
    }
}

/// Searches a region for the pessimistic locks of a transaction.
#[derive(Clone, Debug)]
pub struct PessimisticRollbackRegion {
    command: PessimisticRollback,
    search: LockSearch,
}

impl PessimisticRollbackRegion {
    /// A search for the locks of this transaction up to `for_update_ts`.
    pub fn new(start_ts: Ts, for_update_ts: Ts) -> PessimisticRollbackRegion {
        let command = PessimisticRollback { keys: Vec::new(), start_ts, for_update_ts };
        PessimisticRollbackRegion { command, search: LockSearch::default() }
    }
}

impl Steps for PessimisticRollbackRegion {
    type Command = PessimisticRollback;

    fn next(&mut self, view: &RegionView) -> Result<Option<PessimisticRollback>> {
        let command = &self.command;
        let keys = self.search.next_keys(view, |lock| command.releases(lock))?;
        Ok(keys.map(|keys| PessimisticRollback { keys, ..self.command.clone() }))
    }
}
