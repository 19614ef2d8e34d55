//! Whether other stores live: the heartbeats between stores, on which sleeping replicas rely
//! ([`crate::peer`], module `sleep`).
//!
//! 1. Every few ticks a raft worker tells all stores with which its regions are shared that this one lives.
//! 2. A store that has not said so for as long as makes a follower seek election is silent, whatever else comes from
//!    it; one whose incarnation is a later one was started anew.
//! 3. Whoever wakes is told how long *nothing* has come from a store: a leader on it cannot have spoken since.
//!
//! **Invariant.** A store says that it lives only while all of its raft workers take their ticks: a worker that hangs
//! would otherwise keep sleeping replicas from electing others.
//!
//! Each worker counts for itself, in its own ticks, as its replicas do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use skerry_proto::metapb;
use skerry_proto::raft_serverpb::{ExtraMessage, ExtraMessageType, RaftMessage};
use skerry_proto::types::StoreId;

use crate::environment::Environment;
use crate::planted::Planted;

/// When each raft worker of the store has taken its last tick, in nanoseconds of the store's clock.
#[derive(Debug)]
pub struct Pulses(Vec<AtomicU64>);

impl Pulses {
    /// Those of so many workers, which all live now.
    pub fn new(workers: usize, now: Duration) -> Pulses {
        Pulses((0..workers).map(|_| AtomicU64::new(nanoseconds(now))).collect())
    }

    fn beat(&self, worker: usize, now: Duration) {
        self.0[worker].store(nanoseconds(now), Ordering::Relaxed);
    }

    fn all_since(&self, moment: Duration) -> bool {
        self.0.iter().all(|pulse| pulse.load(Ordering::Relaxed) >= nanoseconds(moment))
    }
}

fn nanoseconds(moment: Duration) -> u64 {
    u64::try_from(moment.as_nanos()).expect("five hundred years")
}

/// What is known of another store.
#[derive(Debug)]
struct Heard {
    /// When anything came from it last, in ticks.
    at: u64,
    /// When it said last that it lives.
    alive_at: u64,
    /// The latest that it has named; 0 before.
    incarnation: u64,
}

/// See the module.
pub(super) struct Neighbours {
    environment: Environment,
    worker: usize,
    ticks: u64,
    /// Stores that share a region with this worker, or did lately.
    heard: BTreeMap<StoreId, Heard>,
}

impl Neighbours {
    /// Those of the raft worker with this number.
    pub(super) fn new(environment: &Environment, worker: usize) -> Neighbours {
        Neighbours { environment: environment.clone(), worker, ticks: 0, heard: BTreeMap::new() }
    }

    /// A region of this worker has replicas there.
    pub(super) fn share(&mut self, region: &metapb::Region) {
        for store in region.peers.iter().map(metapb::Peer::store) {
            if store != self.environment.store_id {
                let unknown = Heard { at: self.ticks, alive_at: self.ticks, incarnation: 0 };
                self.heard.entry(store).or_insert(unknown);
            }
        }
    }

    /// A replica of a region falls asleep. The stores that it minds have just spoken: it is from now on that they must
    /// say that they live.
    pub(super) fn rely_on(&mut self, region: &metapb::Region, minds: impl Fn(StoreId) -> bool) {
        for store in region.peers.iter().map(metapb::Peer::store).filter(|store| minds(*store)) {
            let ticks = self.ticks;
            self.heard.entry(store).and_modify(|heard| heard.alive_at = ticks);
        }
    }

    /// These regions are shared, and no others.
    pub(super) fn share_only<'a>(&mut self, regions: impl Iterator<Item = &'a metapb::Region>) {
        let stores = regions.flat_map(|region| region.peers.iter().map(metapb::Peer::store));
        let sharing: BTreeSet<StoreId> = stores.collect();
        self.heard.retain(|store, _| sharing.contains(store));
    }

    /// Something has come from a store.
    pub(super) fn heard(&mut self, store: StoreId) {
        let ticks = self.ticks;
        self.heard.entry(store).and_modify(|heard| heard.at = ticks);
    }

    /// A store says that it lives. Answers whether it was started anew.
    pub(super) fn alive(&mut self, store: StoreId, incarnation: u64) -> bool {
        self.heard(store);
        let Some(heard) = self.heard.get_mut(&store) else { return false };
        heard.alive_at = self.ticks;
        // What it said in a former life may still arrive.
        let before = heard.incarnation;
        heard.incarnation = before.max(incarnation);
        before != 0 && incarnation > before
    }

    /// For how many ticks a store was not heard.
    pub(super) fn silence(&self, store: StoreId) -> u64 {
        self.heard.get(&store).map_or(0, |heard| self.ticks - heard.at)
    }

    /// A tick has passed. Answers which stores have become silent with it.
    pub(super) fn tick(&mut self) -> Vec<StoreId> {
        self.ticks += 1;
        let now = self.environment.clock.monotonic();
        self.environment.pulses.beat(self.worker, now);
        if self.environment.has(Planted::SilenceOverheard) {
            return Vec::new();
        }
        // A tick more than it takes to vote for another one: whoever stands at once is seldom refused by those who
        // have heard the store a little later.
        let patience = self.environment.config.election_ticks as u64 + 1;
        let is_silent = |(store, heard): (&StoreId, &Heard)| {
            (self.ticks == heard.alive_at + patience).then_some(*store)
        };
        self.heard.iter().filter_map(is_silent).collect()
    }

    /// What this store has to say to the others at this tick.
    pub(super) fn beacons(&self) -> Vec<RaftMessage> {
        let Environment { config, clock, pulses, store_id, incarnation, .. } = &self.environment;
        let half = Duration::from_millis(config.tick_ms) * config.election_ticks as u32 / 2;
        let is_time = self.ticks.is_multiple_of(config.heartbeat_ticks as u64);
        if !is_time || !pulses.all_since(clock.monotonic().saturating_sub(half)) {
            return Vec::new();
        }
        let of_store =
            |store: StoreId| metapb::Peer { store_id: store.get(), ..Default::default() };
        let beacon = |to: &StoreId| RaftMessage {
            from_peer: Some(of_store(*store_id)),
            to_peer: Some(of_store(*to)),
            extra_msg: Some(ExtraMessage {
                r#type: ExtraMessageType::MsgStoreAlive.into(),
                incarnation: *incarnation,
                ..ExtraMessage::default()
            }),
            ..RaftMessage::default()
        };
        self.heard.keys().map(beacon).collect()
    }
}

/// The store that says that it lives, and its incarnation, if a message says that.
pub(super) fn beacon_of(message: &RaftMessage) -> Option<(StoreId, u64)> {
    let extra = message.extra_msg.as_ref()?;
    let is_beacon = message.region_id == 0 && extra.r#type() == ExtraMessageType::MsgStoreAlive;
    is_beacon.then_some((message.from_peer?.store(), extra.incarnation))
}
