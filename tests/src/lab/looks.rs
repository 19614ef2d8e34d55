//! What lies in stores and what their replicas show: looked at from outside, without asking anybody.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use skerry_proto::metapb::Region;
use skerry_proto::raft_serverpb::RaftApplyState;
use skerry_raftstore::engine::log::LogBounds;
use skerry_raftstore::engine::{ColumnFamily, Engine};
use skerry_raftstore::keys::apply_state;
use skerry_raftstore::peer::PeerStatus;

use super::Lab;
use crate::sim::script::value_in;
use crate::sim::trace::{Moment, SECOND};

/// How long something that must come about by itself may take.
pub const SOON: Moment = 10 * SECOND;

impl Lab {
    /// The data engine of a store.
    pub fn engine(&self, store: usize) -> Arc<dyn Engine> {
        self.world().engine(store - 1)
    }

    /// What a store's engine has under a key.
    pub fn value_on(&self, store: usize, key: &str) -> Option<Bytes> {
        self.value_in(store, ColumnFamily::Raw, key)
    }

    /// What a store's engine has under a key of a family.
    pub fn value_in(&self, store: usize, family: ColumnFamily, key: &str) -> Option<Bytes> {
        value_in(&*self.engine(store), family, key.as_bytes())
    }

    /// Fails unless a store has a value soon.
    pub async fn must_have(&self, store: usize, key: &str, value: &str) {
        let what = format!("store {store} has {key}={value}");
        self.until(&what, SOON, |lab| {
            lab.value_on(store, key).as_deref() == Some(value.as_bytes())
        })
        .await;
    }

    /// Fails unless a store soon has nothing under a key.
    pub async fn must_lack(&self, store: usize, key: &str) {
        let what = format!("store {store} has no {key}");
        self.until(&what, SOON, |lab| lab.value_on(store, key).is_none()).await;
    }

    /// What a store shows of its replica of a region.
    pub fn status(&self, store: usize, region_id: u64) -> Option<PeerStatus> {
        self.world().shown(store - 1).find(|status| status.region.id == region_id).cloned()
    }

    /// The replica that leads a region in the newest term, and its store.
    pub fn leader_of(&self, region_id: u64) -> Option<(usize, PeerStatus)> {
        let all = self.stores().filter_map(|store| Some((store, self.status(store, region_id)?)));
        all.filter(|(_, status)| status.is_leader).max_by_key(|(_, status)| status.term)
    }

    /// The regions as their leaders show them, in the order of their keys. A region that two believe they lead
    /// stands there twice.
    pub fn regions(&self) -> Vec<Arc<Region>> {
        self.world().regions()
    }

    /// The region of a key as its leader in the newest term shows it, once there is one.
    pub async fn region_of(&self, key: &[u8]) -> Arc<Region> {
        let mut found = None;
        self.until("a region is led", SOON, |lab| {
            found = lab.led_region(key);
            found.is_some()
        })
        .await;
        found.expect("it was found")
    }

    fn led_region(&self, key: &[u8]) -> Option<Arc<Region>> {
        let of_key = self.regions().into_iter().filter(|region| region.contains_key(key));
        let newest = of_key.max_by_key(|region| region.epoch().version)?;
        Some(self.leader_of(newest.id)?.1.region)
    }

    /// Index of the last applied entry and of the last entry in front of the log, as a store's engine has them.
    pub fn applied_and_truncated(&self, store: usize, region_id: u64) -> Option<(u64, u64)> {
        let engine = self.engine(store);
        let bytes =
            engine.get(ColumnFamily::Raft, &apply_state(region_id)).expect("memory is read");
        let state = RaftApplyState::decode(bytes?).expect("a store wrote it");
        Some((state.applied_index, state.truncated_state.unwrap_or_default().index))
    }

    /// First and last entry that a store's log has of a region, if it has any.
    pub fn log_of(&self, store: usize, region_id: u64) -> Option<LogBounds> {
        self.world().log(store - 1).bounds(region_id).expect("memory is read")
    }

    /// How many applied entries the longest log of any store has.
    pub fn longest_log(&self) -> u64 {
        let shown = |store: usize| self.world().shown(store - 1).cloned().collect::<Vec<_>>();
        let length = |(store, status): (usize, PeerStatus)| {
            let (applied, truncated) = self.applied_and_truncated(store, status.region.id)?;
            Some(applied - truncated)
        };
        let all =
            self.stores().flat_map(|store| shown(store).into_iter().map(move |it| (store, it)));
        all.filter_map(length).max().unwrap_or(0)
    }

    /// Every replica on a line, for a failure.
    pub fn picture(&self) -> String {
        self.world().picture()
    }
}
