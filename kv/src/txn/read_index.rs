//! ReadIndex: up to which index must another replica of the region have applied before it may answer a read of a
//! transaction?
//!
//! It is asked at the leader, as a read: it raises `max_ts`, so that nothing commits at or below the read's timestamp
//! any more that is not in the log yet, and is refused by a lock that is only in memory. After that, all that the read
//! may have to see is applied here, since it was acknowledged, or stands as a lock; the leader's applied index says so.
//!
//! What it does not do: it promises nothing about reads without a timestamp. Another replica may have applied more than
//! its leader; raft's own ReadIndex keeps the leader from falling behind that.

use bytes::Bytes;
use prost::Message as _;
use skerry_proto::raft_serverpb::RaftApplyState;
use skerry_proto::types::Ts;
use skerry_raftstore::engine::ColumnFamily;
use skerry_raftstore::keys;

use super::concurrency::Concurrency;
use super::error::Result;
use super::{ReadCommand, range_of};
use crate::mvcc::ReadRules;
use crate::storage::RegionView;

/// See the head of this file.
#[derive(Clone, Debug)]
pub struct ReadIndex {
    /// How the read that is to follow reads.
    pub rules: ReadRules,
    /// User keys between which it reads.
    pub ranges: Vec<(Bytes, Bytes)>,
}

impl ReadCommand for ReadIndex {
    /// 0 on a store without a log.
    type Answer = u64;

    fn raises_to(&self) -> Ts {
        self.rules.ts
    }

    fn meet_locks(&mut self, concurrency: &Concurrency) -> Result<()> {
        let mut ranges = self.ranges.iter().map(|(start, end)| range_of(start, end));
        ranges.try_for_each(|range| concurrency.check_range(&range, &self.rules))
    }

    fn run(&self, view: &RegionView) -> Result<u64> {
        let stored = view.view.get(ColumnFamily::Raft, &keys::apply_state(view.region.id))?;
        let Some(stored) = stored else { return Ok(0) };
        let state = RaftApplyState::decode(stored).map_err(|error| {
            let what = format!("the apply state of {}", view.region);
            skerry_raftstore::Error::Damaged { what, reason: error.to_string() }
        })?;
        Ok(state.applied_index)
    }
}
