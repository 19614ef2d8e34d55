//! Scan: what a transaction sees of a range, upwards or downwards.
//!
//! A locked key is a pair with an error, and the scan goes on behind it. A lock that is only in memory fails the
//! scan, if it lies where the scan came by: the value behind it is in no view yet.

use std::sync::Arc;

use bytes::Bytes;
use skerry_proto::types::Ts;
use skerry_raftstore::engine::KeyRange;

use super::concurrency::Concurrency;
use super::error::{Error, Result};
use super::{ReadCommand, range_in, range_of};
use crate::mvcc::{
    ForwardScan, Found, Key, Lock, Meeting, ReadRules, ReverseScan, Statistics, Version,
};
use crate::storage::RegionView;

/// Reads a range.
#[derive(Clone, Debug)]
pub struct Scan {
    /// The lower bound, as the client sent it; inside.
    pub start: Bytes,
    /// The upper bound, outside. Empty, or behind the region: the region's end.
    pub end: Bytes,
    /// Pairs after which the scan ends.
    pub limit: usize,
    /// Bytes of keys and values after which the request is refused: its answer is in memory as a whole.
    pub reply_bytes_max: usize,
    /// From high to low.
    pub reverse: bool,
    /// Without values.
    pub key_only: bool,
    /// Only every so-many-th pair, beginning with the first; 0 and 1 are all.
    pub sample_step: usize,
    /// At which timestamp, and how.
    pub rules: ReadRules,
    in_memory: Vec<(Key, Arc<Lock>)>,
}

/// What a scan found, and what it did cost.
#[derive(Debug)]
pub struct Scanned {
    /// Keys with their value or with the lock in the way, in the order of the scan.
    pub found: Vec<(Key, Result<Version>)>,
    /// What it did cost.
    pub statistics: Statistics,
}

impl Scan {
    /// A scan upwards over all pairs from `start` up to and without `end`.
    pub fn new(start: Bytes, end: Bytes, limit: usize, rules: ReadRules) -> Scan {
        Scan {
            start,
            end,
            limit,
            reply_bytes_max: usize::MAX,
            reverse: false,
            key_only: false,
            sample_step: 0,
            rules,
            in_memory: Vec::new(),
        }
    }

    /// The part of the range that lies in the region. A scan upwards must begin in the region, where the client
    /// looked it up; one downwards need only meet it.
    fn clamp(&self, view: &RegionView) -> Result<KeyRange> {
        let whole = range_of(&self.start, &self.end);
        if !self.reverse {
            view.check_key(&whole.start)?;
        }
        let outside = || crate::Error::KeyNotInRegion {
            key: whole.start.slice(1..),
            region: view.region.clone(),
        };
        Ok(range_in(view, &self.start, &self.end).ok_or_else(outside)?)
    }

    /// The first of the locks in memory that lies between the scan's beginning and `last`, if it is in the way.
    fn check_memory(&self, range: &KeyRange, last: Option<&Key>) -> Result<()> {
        for (key, lock) in &self.in_memory {
            let is_reached = match last {
                Some(last) if self.reverse => key >= last,
                Some(last) => key <= last,
                None => true,
            };
            let is_inside = range.contains(key.as_bytes()) && is_reached;
            if is_inside && self.rules.meet(key, lock)? != Meeting::Pass {
                return Err(Error::locked(key, lock));
            }
        }
        Ok(())
    }
}

impl ReadCommand for Scan {
    type Answer = Scanned;

    fn reads_at(&self) -> Option<Ts> {
        Some(self.rules.ts)
    }

    fn raises_to(&self) -> Ts {
        self.rules.ts
    }

    fn meet_locks(&mut self, concurrency: &Concurrency) -> Result<()> {
        self.in_memory = concurrency.locks_in(&range_of(&self.start, &self.end));
        Ok(())
    }

    fn replica_ts(&self) -> Option<Ts> {
        Some(self.rules.ts)
    }

    fn run(&self, view: &RegionView) -> Result<Scanned> {
        let nothing = Scanned { found: Vec::new(), statistics: Statistics::default() };
        if range_of(&self.start, &self.end).is_empty() {
            return Ok(nothing);
        }
        let range = self.clamp(view)?;
        let mut walk = Walk::new(self, view, &range)?;
        let (mut found, mut bytes, mut number) = (Vec::new(), 0, 0);
        while found.len() < self.limit {
            let Some(next) = walk.find_next()? else {
                self.check_memory(&range, None)?;
                walk.statistics().note(&view.reads);
                return Ok(Scanned { found, statistics: walk.statistics() });
            };
            let sampled = self.sample_step < 2 || number % self.sample_step == 0;
            number += 1;
            let (key, answer) = match next {
                Found::Value(key, version) => (key, Ok(version)),
                Found::Locked(key, lock) => {
                    let error = Error::locked(&key, &lock);
                    (key, Err(error))
                }
            };
            if !sampled && answer.is_ok() {
                continue;
            }
            bytes +=
                key.as_bytes().len() + answer.as_ref().map_or(0, |version| version.value.len());
            if bytes > self.reply_bytes_max {
                let bytes_max = self.reply_bytes_max;
                return Err(crate::Error::ReplyTooLarge { bytes_max }.into());
            }
            found.push((key, answer));
        }
        if let Some((last, _)) = found.last() {
            self.check_memory(&range, Some(last))?;
        }
        walk.statistics().note(&view.reads);
        Ok(Scanned { found, statistics: walk.statistics() })
    }
}

/// A walk in the direction of the request.
enum Walk<'view> {
    Forward(ForwardScan<'view>),
    Reverse(ReverseScan<'view>),
}

impl<'view> Walk<'view> {
    fn new(scan: &Scan, view: &'view RegionView, range: &KeyRange) -> Result<Walk<'view>> {
        let (view, rules) = (&*view.view, scan.rules.clone());
        Ok(match scan.reverse {
            false => Walk::Forward(ForwardScan::new(view, range, rules, scan.key_only)?),
            true => Walk::Reverse(ReverseScan::new(view, range, rules, scan.key_only)?),
        })
    }

    fn find_next(&mut self) -> Result<Option<Found>> {
        Ok(match self {
            Walk::Forward(walk) => walk.find_next()?,
            Walk::Reverse(walk) => walk.find_next()?,
        })
    }

    fn statistics(&self) -> Statistics {
        match self {
            Walk::Forward(walk) => walk.statistics(),
            Walk::Reverse(walk) => walk.statistics(),
        }
    }
}
