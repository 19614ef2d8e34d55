//! ResolveLock: ends what dead transactions left, when their end is known from the primary key.
//!
//! Clients name keys (*lite*), or let the whole region be searched for the locks of one transaction or of many. The
//! search ([`ResolveRegion`]) looks without latches and makes one [`ResolveLocks`] after the other, each for some
//! keys; each looks again under its latches, and leaves alone what has ended meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use skerry_proto::types::Ts;
use skerry_raftstore::engine::{ColumnFamily, KeyRange};

use super::concurrency::Concurrency;
use super::endings::{End, Ending};
use super::error::{Error, Result};
use super::{Effect, Steps, WriteCommand, range_in};
use crate::mvcc::{Changes, Key, Lock, Reader};
use crate::storage::RegionView;

/// Locks that one command ends, so that its latches and its write stay small.
const LOCKS_IN_A_COMMAND: usize = 256;
/// Locks that a search looks at before it gives up its view.
const LOCKS_IN_A_LOOK: usize = 4_096;

/// Transactions and when they committed; 0 for those that were rolled back.
pub type Ends = BTreeMap<Ts, Ts>;

/// Ends the locks of some transactions at some keys, if they are still there.
#[derive(Clone, Debug)]
pub struct ResolveLocks {
    /// Where.
    pub keys: Vec<Key>,
    /// How.
    pub ends: Ends,
}

impl WriteCommand for ResolveLocks {
    type Answer = ();

    fn name(&self) -> &'static str {
        "resolve_locks"
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
            let Some(lock) = ending.reader.load_lock(key)? else { continue };
            match self.ends.get(&lock.start_ts) {
                None => {}
                Some(&Ts::ZERO) => ending.roll_back_lock(key, &lock, false)?,
                Some(&commit_ts) => ending.commit(key, lock.start_ts, commit_ts)?,
            }
        }
        Ok(Effect { batch: changes.into_batch(), answer: (), published: None, released })
    }
}

/// Ends one transaction at the keys that the client names: *lite*. Other than a search it knows that the transaction
/// was to write these keys, so a missing lock matters: a rollback is recorded, a commit refused.
#[derive(Clone, Debug)]
pub struct ResolveLite {
    /// Where.
    pub keys: Vec<Key>,
    /// Which transaction.
    pub start_ts: Ts,
    /// When it committed; 0 if it was rolled back.
    pub commit_ts: Ts,
}

impl WriteCommand for ResolveLite {
    type Answer = ();

    fn name(&self) -> &'static str {
        "resolve_lite"
    }

    fn keys(&self) -> Vec<Key> {
        self.keys.clone()
    }

    /// A rollback is recorded there.
    fn names(&self) -> Ts {
        if self.commit_ts == Ts::ZERO { self.start_ts } else { Ts::ZERO }
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
        let start_ts = self.start_ts;
        for key in &self.keys {
            if self.commit_ts != Ts::ZERO {
                ending.commit(key, start_ts, self.commit_ts)?;
            } else if let End::Committed(commit_ts) = ending.roll_back(key, start_ts, false)? {
                return Err(Error::Committed { key: key.user_key()?, start_ts, commit_ts });
            }
        }
        Ok(Effect { batch: changes.into_batch(), answer: (), published: None, released })
    }
}

/// Searches a region for locks of some transactions.
#[derive(Clone, Debug)]
pub struct ResolveRegion {
    ends: Ends,
    search: LockSearch,
}

impl ResolveRegion {
    /// A search for locks of these transactions.
    pub fn new(ends: Ends) -> ResolveRegion {
        ResolveRegion { ends, search: LockSearch::default() }
    }
}

impl Steps for ResolveRegion {
    type Command = ResolveLocks;

    fn next(&mut self, view: &RegionView) -> Result<Option<ResolveLocks>> {
        let ends = &self.ends;
        let keys = self.search.next_keys(view, |lock| ends.contains_key(&lock.start_ts))?;
        Ok(keys.map(|keys| ResolveLocks { keys, ends: self.ends.clone() }))
    }
}

/// Walks the locks of a region, a bounded number at a time.
#[derive(Clone, Debug, Default)]
pub(super) struct LockSearch {
    /// Where to go on; nothing at the beginning.
    behind: Option<Key>,
    is_done: bool,
}

impl LockSearch {
    /// The next keys whose locks are `wanted`; may be none although there are more. Nothing at the end.
    pub(super) fn next_keys(
        &mut self,
        view: &RegionView,
        wanted: impl Fn(&Lock) -> bool,
    ) -> Result<Option<Vec<Key>>> {
        let region = if self.is_done { None } else { range_in(view, b"", b"") };
        let Some(mut range) = region else { return Ok(None) };
        if let Some(behind) = &self.behind {
            // The first key behind it.
            range = KeyRange { start: [behind.as_bytes(), &[0]].concat().into(), end: range.end };
        }
        let mut keys = Vec::new();
        if !range.is_empty() {
            let mut cursor = view.view.cursor(ColumnFamily::Lock, &range)?;
            let (mut stands, mut looked) = (cursor.seek_to_first()?, 0);
            while stands {
                let key = Key::from_engine(cursor.key());
                self.behind = Some(key.clone());
                if wanted(&Lock::decode(cursor.value())?) {
                    keys.push(key);
                }
                looked += 1;
                if keys.len() >= LOCKS_IN_A_COMMAND || looked >= LOCKS_IN_A_LOOK {
                    return Ok(Some(keys));
                }
                stands = cursor.next()?;
            }
        }
        self.is_done = true;
        Ok((!keys.is_empty()).then_some(keys))
    }
}
