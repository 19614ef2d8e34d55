//! TxnHeartBeat: the owner of a transaction is alive, and its primary lock shall live on.

use std::sync::Arc;

use skerry_proto::types::Ts;

use super::concurrency::Concurrency;
use super::error::{Error, Result};
use super::{Effect, WriteCommand};
use crate::mvcc::{Changes, Key, Reader};
use crate::storage::RegionView;

/// See the head of this file.
#[derive(Clone, Debug)]
pub struct HeartBeat {
    /// The primary key.
    pub primary: Key,
    /// Which transaction.
    pub start_ts: Ts,
    /// Milliseconds for which the lock shall live at least.
    pub ttl_ms: u64,
    /// Raise the lower bound of the commit timestamp to this; 0: leave it.
    pub min_commit_ts: Ts,
}

impl WriteCommand for HeartBeat {
    /// Milliseconds for which the lock lives now.
    type Answer = u64;

    fn name(&self) -> &'static str {
        "heart_beat"
    }

    fn keys(&self) -> Vec<Key> {
        vec![self.primary.clone()]
    }

    fn names(&self) -> Ts {
        self.min_commit_ts
    }

    fn decide(&self, view: &RegionView, _: &Arc<Concurrency>) -> Result<Effect<u64>> {
        let lock = Reader::of_key(&*view.view, &self.primary).load_lock(&self.primary)?;
        let Some(mut lock) = lock.filter(|lock| lock.start_ts == self.start_ts) else {
            let (start_ts, primary) = (self.start_ts, self.primary.user_key()?);
            return Err(Error::TxnNotFound { start_ts, primary });
        };
        // Readers rely on the lower bound of an async commit only as far as it is at all locks.
        let raises = !lock.use_async_commit && lock.min_commit_ts < self.min_commit_ts;
        let prolongs = lock.ttl_ms < self.ttl_ms;
        let mut changes = Changes::new();
        if raises || prolongs {
            lock.ttl_ms = lock.ttl_ms.max(self.ttl_ms);
            if raises {
                lock.min_commit_ts = self.min_commit_ts;
            }
            changes.put_lock(&self.primary, &lock);
        }
        Ok(Effect { batch: changes.into_batch(), ..Effect::answer(lock.ttl_ms) })
    }
}
