//! GC: drops versions that no read at or above the safe point can see.
//!
//! Of each key, among its records at or below the safe point, from new to old:
//!
//! 1. Records that changed nothing go, rollbacks too: nobody who began so long ago may still write.
//! 2. The first put stays: it is what reads at the safe point see. Everything older goes, with its value.
//! 3. The first delete goes with everything older, and goes last: without it an older put would be seen again.
//!
//! [`CollectRegion`] searches for keys with garbage without latches and makes one [`CollectGarbage`] after the other.
//! Each is run, with a new view, until its answer says that nothing is left. It goes on where it stopped: to walk once
//! more over what it has dropped of a key would cost more with each time.
//!
//! **Before** this all locks of transactions that began at or below the safe point must have been resolved, in all
//! regions: one that still commits would need its key's older version, or its rollback record.
//!
//! It runs under latches like any other write, and is replicated: so a record that a rollback is about to be noted in
//! cannot vanish in between, and records need no fence against coming back.

use std::sync::Arc;

use skerry_proto::types::Ts;
use skerry_raftstore::engine::{ColumnFamily, Cursor, KeyRange};

use super::concurrency::Concurrency;
use super::error::Result;
use super::{Effect, Steps, WriteCommand, range_in};
use crate::mvcc::key::split_version;
use crate::mvcc::{Changes, Key, WriteKind, WriteRef};
use crate::storage::RegionView;

/// Records that one command drops, so that its write stays small.
const RECORDS_IN_A_COMMAND: usize = 512;
/// Bytes of keys after which it ends all the same: keys may be long.
const BYTES_IN_A_COMMAND: usize = 256 << 10;
/// Keys that one command latches.
const KEYS_IN_A_COMMAND: usize = 64;
/// Records that a search looks at before it gives up its view.
const RECORDS_IN_A_LOOK: usize = 16_384;

/// Drops garbage of some keys.
#[derive(Clone, Debug)]
pub struct CollectGarbage {
    /// The keys.
    pub keys: Vec<Key>,
    /// Reads below it are refused everywhere.
    pub safe_point: Ts,
    /// Records after which it ends, for now.
    pub records_max: usize,
    /// Bytes of its batch after which it does.
    pub bytes_max: usize,
    /// Where it goes on.
    pub from: Option<Place>,
}

/// A record at which a command stopped, with what it knew there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which of its keys.
    key: usize,
    ts: Ts,
    judge: Judge,
    /// The delete that hides what is older: dropped only after all of it.
    hiding: Option<Ts>,
}

/// What was dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Records that were dropped.
    pub records: usize,
    /// Bytes that are written for it.
    pub bytes: usize,
    /// Where the command has to go on; nothing: the keys have no more garbage.
    pub left: Option<Place>,
}

impl WriteCommand for CollectGarbage {
    type Answer = Collected;

    fn name(&self) -> &'static str {
        "collect_garbage"
    }

    fn keys(&self) -> Vec<Key> {
        self.keys.clone()
    }

    fn decide(&self, view: &RegionView, _: &Arc<Concurrency>) -> Result<Effect<Collected>> {
        let mut changes = Changes::new();
        let mut collected = Collected::default();
        let first = self.from.map_or(0, |place| place.key);
        for key in first..self.keys.len() {
            let begin = Place { key, ts: self.safe_point, judge: Judge::default(), hiding: None };
            let place = self.from.filter(|place| place.key == key).unwrap_or(begin);
            collected.left = self.collect(view, place, &mut changes, &mut collected)?;
            if collected.left.is_some() {
                break;
            }
        }
        let batch = changes.into_batch();
        collected.bytes = batch.byte_size();
        Ok(Effect { batch, ..Effect::answer(collected) })
    }
}

impl CollectGarbage {
    /// Drops the garbage of one key from a place on; answers another one if there is more than may be dropped.
    fn collect(
        &self,
        view: &RegionView,
        place: Place,
        changes: &mut Changes,
        collected: &mut Collected,
    ) -> Result<Option<Place>> {
        let key = &self.keys[place.key];
        let mut cursor = view.view.cursor(ColumnFamily::Write, &key.versions())?;
        let mut stands = cursor.seek(&key.at(place.ts))?;
        let Place { mut judge, mut hiding, .. } = place;
        while stands {
            let (_, ts) = split_version(cursor.key())?;
            assert!(ts <= self.safe_point, "{key:?}: garbage at {ts} above {}", self.safe_point);
            let write = WriteRef::decode(cursor.value())?;
            let before = judge;
            let verdict = judge.judge(write.kind);
            if verdict != Verdict::Stays {
                if collected.records >= self.records_max || changes.byte_size() >= self.bytes_max {
                    return Ok(Some(Place { ts, judge: before, hiding, ..place }));
                }
                if verdict == Verdict::GoesLast {
                    hiding = Some(ts);
                } else {
                    collected.records += 1;
                    changes.delete_write(key, ts);
                }
                if write.kind == WriteKind::Put && write.short_value.is_none() {
                    changes.delete_value(key, write.start_ts);
                }
            }
            stands = cursor.next()?;
        }
        if let Some(ts) = hiding {
            collected.records += 1;
            changes.delete_write(key, ts);
        }
        Ok(None)
    }
}

/// Decides about the records of one key at or below the safe point, from new to old.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Judge {
    /// What reads at the safe point see was found.
    has_data: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Stays,
    Goes,
    GoesLast,
}

impl Judge {
    fn judge(&mut self, kind: WriteKind) -> Verdict {
        if self.has_data || !kind.is_data() {
            return Verdict::Goes;
        }
        self.has_data = true;
        if kind == WriteKind::Put { Verdict::Stays } else { Verdict::GoesLast }
    }
}

/// Searches a region for garbage.
#[derive(Clone, Debug)]
pub struct CollectRegion {
    safe_point: Ts,
    /// Where to go on; nothing at the beginning.
    from: Option<Key>,
    is_done: bool,
    /// Looked at and not told yet.
    bytes: u64,
}

impl CollectRegion {
    /// A search for what no read at or above `safe_point` can see.
    pub fn new(safe_point: Ts) -> CollectRegion {
        CollectRegion { safe_point, from: None, is_done: false, bytes: 0 }
    }

    /// How many bytes were looked at since this was asked last.
    pub fn take_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }

    /// Keys with garbage from where the cursor stands; `None` for where to go on means that the region is at its end.
    fn look(&mut self, cursor: &mut dyn Cursor) -> Result<(Vec<Key>, Option<Key>)> {
        let (mut keys, mut current, mut judge) = (Vec::new(), None::<Key>, Judge::default());
        let (mut stands, mut looked, mut dropped) = (cursor.seek_to_first()?, 0, 0);
        while stands {
            let (bytes, ts) = split_version(cursor.key())?;
            if current.as_ref().is_none_or(|key| key.as_bytes() != bytes) {
                let key = Key::from_engine(bytes);
                let is_full = keys.len() >= KEYS_IN_A_COMMAND || dropped >= RECORDS_IN_A_COMMAND;
                if is_full || looked >= RECORDS_IN_A_LOOK {
                    return Ok((keys, Some(key)));
                }
                (current, judge) = (Some(key), Judge::default());
            }
            looked += 1;
            self.bytes += (cursor.key().len() + cursor.value().len()) as u64;
            if ts <= self.safe_point
                && judge.judge(WriteRef::decode(cursor.value())?.kind) != Verdict::Stays
            {
                dropped += 1;
                let key = current.as_ref().expect("it was set for the first record of the key");
                if keys.last() != Some(key) {
                    keys.push(key.clone());
                }
            }
            stands = cursor.next()?;
        }
        Ok((keys, None))
    }
}

impl Steps for CollectRegion {
    type Command = CollectGarbage;

    fn next(&mut self, view: &RegionView) -> Result<Option<CollectGarbage>> {
        let region = if self.is_done { None } else { range_in(view, b"", b"") };
        let Some(mut range) = region else { return Ok(None) };
        if let Some(from) = &self.from {
            range = KeyRange { start: from.to_bytes(), end: range.end };
        }
        let mut keys = Vec::new();
        if !range.is_empty() {
            let mut cursor = view.view.cursor(ColumnFamily::Write, &range)?;
            let (found, from) = self.look(&mut *cursor)?;
            (keys, self.from) = (found, from);
        }
        self.is_done = range.is_empty() || self.from.is_none();
        if self.is_done && keys.is_empty() {
            return Ok(None);
        }
        let safe_point = self.safe_point;
        let (records_max, bytes_max) = (RECORDS_IN_A_COMMAND, BYTES_IN_A_COMMAND);
        Ok(Some(CollectGarbage { keys, safe_point, records_max, bytes_max, from: None }))
    }
}
