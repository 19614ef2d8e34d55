//! Commit: turns locks of a transaction into records. The primary key's commit is the commit of the transaction; all
//! others may follow at any time.

use std::sync::Arc;

use skerry_proto::types::Ts;

use super::concurrency::Concurrency;
use super::endings::Ending;
use super::error::Result;
use super::{Effect, WriteCommand};
use crate::mvcc::{Changes, Key, Reader};
use crate::storage::RegionView;

/// See the head of this file.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The keys to commit.
    pub keys: Vec<Key>,
    /// Of which transaction.
    pub start_ts: Ts,
    /// When.
    pub commit_ts: Ts,
}

impl WriteCommand for Commit {
    /// The timestamp that was asked for.
    type Answer = Ts;

    fn name(&self) -> &'static str {
        "commit"
    }

    fn keys(&self) -> Vec<Key> {
        self.keys.clone()
    }

    fn decide(&self, view: &RegionView, concurrency: &Arc<Concurrency>) -> Result<Effect<Ts>> {
        let mut reader = Reader::of_keys(&*view.view, &self.keys);
        let (mut changes, mut released) = (Changes::new(), Vec::new());
        let mut ending = Ending {
            reader: &mut reader,
            changes: &mut changes,
            released: &mut released,
            planted: concurrency.planted(),
        };
        for key in &self.keys {
            ending.commit(key, self.start_ts, self.commit_ts)?;
        }
        let batch = changes.into_batch();
        Ok(Effect { batch, answer: self.commit_ts, published: None, released })
    }
}
