//! The scheduler in the simulated cluster: the real one's [`Cluster`], which keeps the regions as leaders
//! report them and gives ids, and an operator that is never content with where the replicas are.
//!
//! The operator looks at one region at a time, as the last report shows it, and takes one step: leave a joint
//! configuration, make a learner a voter, bring the voters to three, move a replica, swap two at once, cut
//! the region, or hand its leadership over. Its picture is old and its steps may be refused; that is the
//! point. When everything has healed it takes its hands off, and the scheduler's own rule puts in order what is
//! left: in answer to reports, as in production, and now and then unasked.
//!
//! In other runs the scheduler governs from the beginning ([`governor`]), and the operator only cuts regions; in some
//! of them a store leaves and another joins ([`turnover`]).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use skerry_proto::eraftpb::ConfChangeType;
use skerry_proto::metapb::{self, Peer, PeerRole, Region};
use skerry_proto::pdpb::{ChangePeer, PeerStats, RegionHeartbeatRequest, StoreStats};
use skerry_proto::raft_cmdpb::admin_request::Command;
use skerry_proto::raft_cmdpb::{
    BatchSplitRequest, ChangePeerRequest, ChangePeerV2Request, SplitRequest, TransferLeaderRequest,
};
use skerry_proto::region::KeyBounds;
use skerry_proto::types::{ClusterId, PeerId, RegionId, StoreId, Ts};
use skerry_raftstore::effects::{RegionReport, SplitAsk};
use skerry_raftstore::engine::Durability;
use skerry_raftstore::engine::memory::MemoryEngine;
use skerry_scheduler::cluster::{Cluster, Decision, Instruction};
use skerry_scheduler::config::SchedulerConfig;
use skerry_scheduler::moment::Moment as Reading;
use skerry_scheduler::operator::Order;
use skerry_scheduler::persist::{Change, Storage};
use skerry_scheduler::planted::Planted;
use skerry_scheduler::region_tree::RegionRecord;
use skerry_scheduler::tso::{Allocation, Oracle};

use super::chance::Chance;
use super::clients::{KEYS, cut};
use super::invariants::scheduler::Overseer;
use super::trace::Moment;

mod collection;
mod governor;
mod turnover;

use self::turnover::Turnover;

/// Replicas that a region should have.
const REPLICAS: usize = 3;

/// Regions beyond which none is cut any more.
const REGIONS_MAX: usize = 10;

/// How many more there may be for a plot.
const REGIONS_BEYOND: usize = 3;

/// A step that the operator wants a leader to take.
#[derive(Clone, Debug)]
pub struct Step {
    /// The region as the scheduler knows it.
    pub region: Region,
    /// Its leader.
    pub leader: Peer,
    /// What it shall do.
    pub command: Command,
}

/// See the module.
pub struct Scheduler {
    cluster: Cluster,
    chance: Chance,
    stores: Vec<StoreId>,
    /// Whether it decides where replicas are all the time, and not only at the end.
    is_governing: bool,
    /// What it has written.
    engine: Arc<MemoryEngine>,
    oracle: Oracle,
    /// How far its wall clock is ahead.
    skew_ms: u64,
    /// When it is back from a loss of power.
    away_until: Moment,
    /// The store that leaves, and the one that joins.
    turnover: Option<Turnover>,
    pub(super) overseer: Overseer,
    /// The bug that the run has planted.
    planted: Option<Planted>,
}

impl Scheduler {
    /// A scheduler of so many stores, and the first region on the first `replicas` of them. The scheduler knows it
    /// as it was begun, on the first; the others are said to have come since.
    pub fn new(
        stores: usize,
        replicas: usize,
        seed: u64,
        is_governing: bool,
        planted: Option<Planted>,
    ) -> (Scheduler, Region) {
        let config = governor::config(is_governing);
        let began = Reading::default();
        let mut scheduler = Scheduler {
            cluster: Cluster::restore(ClusterId::new(1), &config, Vec::new(), began),
            chance: Chance::new(seed, "operator"),
            stores: Vec::new(),
            is_governing,
            engine: Arc::new(MemoryEngine::new()),
            oracle: Oracle::restore(0, config.tso_window_ms, began),
            skew_ms: 0,
            away_until: 0,
            turnover: None,
            overseer: Overseer::default(),
            planted,
        };
        scheduler.plant();
        let count = (stores + 1 + replicas) as u64;
        let last = scheduler.decide(|cluster| cluster.allocate_ids(count));
        let ids: Vec<u64> = (last + 1 - count..=last).collect();
        let (region_id, peer_ids) = (ids[stores], &ids[stores + 1..]);
        let region = Region {
            id: region_id,
            region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version: 1 }),
            peers: vec![voter(peer_ids[0], ids[0])],
            ..Region::default()
        };
        let first = (Some(store_record(ids[0])), Some(region.clone()));
        scheduler.decide(|cluster| cluster.bootstrap(first.0, first.1, began));
        for id in &ids[1..stores] {
            scheduler.decide(|cluster| cluster.put_store(Some(store_record(*id)), began));
        }
        let region = Region {
            region_epoch: Some(metapb::RegionEpoch { conf_ver: replicas as u64, version: 1 }),
            peers: peer_ids.iter().zip(&ids).map(|(id, store_id)| voter(*id, *store_id)).collect(),
            ..region
        };
        scheduler.stores = ids[..stores].iter().copied().map(StoreId::new).collect();
        (scheduler, region)
    }

    /// Plants the run's bug in a life that begins.
    fn plant(&mut self) {
        self.cluster.plant(self.planted);
        self.oracle.plant(self.planted);
    }

    /// The stores, in order.
    pub fn stores(&self) -> &[StoreId] {
        &self.stores
    }

    /// Hears from the leader of a region. A report that is older than the picture is refused, as it should be.
    pub fn report(&mut self, report: RegionReport, now: Moment) {
        let peer = |id: PeerId| report.region.peer_by_id(id).copied();
        // A tick is a tenth of a second.
        let stats =
            |(id, ticks): &(PeerId, u64)| PeerStats { peer: peer(*id), down_seconds: ticks / 10 };
        let request = RegionHeartbeatRequest {
            leader: Some(report.leader),
            term: report.term,
            pending_peers: report.pending.iter().filter_map(|id| peer(*id)).collect(),
            down_peers: report.down.iter().map(stats).collect(),
            approximate_size: report.size.bytes,
            region: Some(report.region.clone()),
            ..RegionHeartbeatRequest::default()
        };
        let _ = self.cluster.region_heartbeat(request, reading(now));
        if self.is_governing {
            self.overseer.heard(&self.cluster, &report.region);
        }
    }

    /// A timestamp, if it is at home and can give one at once.
    pub(super) fn timestamp(&mut self, now: Moment) -> Option<Ts> {
        if self.is_away(now) {
            return None;
        }
        self.allocate(1, now)
    }

    /// What the scheduler's own rule wants of the leader of a region, if there is one. All stores live, unless it
    /// governs: it is asked only when everything has healed.
    pub fn rule(&mut self, region: RegionId, now: Moment) -> Option<Step> {
        for store in self.stores.iter().filter(|_| !self.is_governing) {
            let stats = StoreStats { store_id: store.get(), ..StoreStats::default() };
            let heard = self.cluster.store_heartbeat(stats, reading(now));
            heard.expect("all stores have registered");
        }
        self.answer(region, now)
    }

    fn answer(&mut self, region: RegionId, now: Moment) -> Option<Step> {
        let record = self.cluster.region_by_id(region).expect("the cluster is bootstrapped")?;
        let store = record.leader?.store();
        let told = self.decide(|cluster| cluster.next_step(region, store, reading(now)))?;
        if self.is_governing {
            self.overseer.told(&record, &told);
        }
        let Instruction { leader, order, .. } = told;
        let known = |change: ChangePeer| ChangePeerRequest {
            change_type: change.change_type,
            peer: change.peer,
        };
        let command = match order {
            Order::Change(change) => Command::ChangePeerV2(several(vec![known(change)])),
            Order::ChangeJointly(changes) => {
                Command::ChangePeerV2(several(changes.into_iter().map(known).collect()))
            }
            Order::Transfer(heir) => {
                Command::TransferLeader(TransferLeaderRequest { peer: Some(heir), peers: vec![] })
            }
            // Nobody has asked for one.
            Order::Split { .. } => return None,
        };
        Some(Step { region: record.region.clone(), leader, command })
    }

    /// The region of a key, and its leader if one has reported.
    pub fn look_up(&self, key: &[u8]) -> Option<(Region, Option<Peer>)> {
        let record = self.cluster.region_by_key(key).expect("the cluster is bootstrapped")?;
        Some((record.region.clone(), record.leader))
    }

    /// All regions in the order of their keys.
    pub fn regions(&self) -> Vec<Arc<RegionRecord>> {
        self.cluster.scan(KeyBounds::ALL, usize::MAX >> 1).expect("the cluster is bootstrapped")
    }

    /// The next step, if there is one: of the operator while it is restless, else of the rule, for a region that is
    /// not whole.
    pub fn next_step(&mut self, is_restless: bool, now: Moment) -> Option<Step> {
        if self.is_governing {
            return if is_restless { self.cut_one() } else { None };
        }
        let mut regions = self.regions();
        if !is_restless {
            regions.retain(|record| !has_three_voters(&record.region));
        }
        let record = self.chance.pick(&regions)?;
        if !is_restless {
            return self.rule(record.id(), now);
        }
        let leader = record.leader?;
        let region = record.region.clone();
        let command = self.change_of_peers(&region, leader).map(Command::ChangePeerV2);
        let command = match (command, self.chance.below(100)) {
            (Some(command), _) => command,
            (None, 0..30) if regions.len() < REGIONS_MAX => self.split(&region)?,
            (None, 30..70) => self.transfer(&region, leader)?,
            (None, _) => Command::ChangePeerV2(self.move_replica(&region, leader)?),
        };
        Some(Step { region, leader, command })
    }

    /// What the operator does before anything else: it leaves nothing half done, nor fewer voters than three.
    fn change_of_peers(&mut self, region: &Region, leader: Peer) -> Option<ChangePeerV2Request> {
        let is_joint =
            |peer: &Peer| matches!(peer.role(), PeerRole::IncomingVoter | PeerRole::DemotingVoter);
        if region.peers.iter().any(is_joint) {
            return Some(ChangePeerV2Request::default());
        }
        let learners: Vec<Peer> =
            region.peers.iter().filter(|peer| peer.is_learner()).copied().collect();
        let voters: Vec<Peer> =
            region.peers.iter().filter(|peer| !peer.is_learner()).copied().collect();
        if let Some(learner) = self.chance.pick(&learners) {
            return Some(match self.chance.below(100) {
                // One voter for another: a majority before and one after need not meet.
                0..35 if voters.len() >= REPLICAS => {
                    let leaving = self.pick_but(&voters, leader)?;
                    several(vec![
                        change(ConfChangeType::AddNode, learner),
                        change(ConfChangeType::AddLearnerNode, leaving),
                    ])
                }
                35..45 => one(ConfChangeType::RemoveNode, learner),
                _ => one(ConfChangeType::AddNode, learner),
            });
        }
        if voters.len() > REPLICAS {
            let leaving = self.pick_but(&voters, leader)?;
            return Some(one(ConfChangeType::RemoveNode, leaving));
        }
        (voters.len() < REPLICAS).then(|| self.add_learner(region)).flatten()
    }

    fn move_replica(&mut self, region: &Region, leader: Peer) -> Option<ChangePeerV2Request> {
        match self.chance.below(10) {
            0..7 => self.add_learner(region),
            7..9 => {
                // A voter becomes a learner while a new learner arrives: the joint way.
                let leaving = self.pick_but(&region.peers, leader)?;
                let arriving = self.add_learner(region)?.changes;
                let demoted = change(ConfChangeType::AddLearnerNode, leaving);
                Some(several([arriving, vec![demoted]].concat()))
            }
            _ => Some(one(ConfChangeType::RemoveNode, self.pick_but(&region.peers, leader)?)),
        }
    }

    fn add_learner(&mut self, region: &Region) -> Option<ChangePeerV2Request> {
        let without: Vec<StoreId> = self
            .stores
            .iter()
            .copied()
            .filter(|store| region.peer_on_store(*store).is_none())
            .collect();
        let store = self.chance.pick(&without)?;
        Some(one(ConfChangeType::AddLearnerNode, self.new_learner(store)))
    }

    /// A replica that never was, for a store that has none.
    pub(super) fn new_learner(&mut self, store: StoreId) -> Peer {
        let id = self.decide(|cluster| cluster.allocate_ids(1));
        Peer { id, store_id: store.get(), role: PeerRole::Learner.into() }
    }

    fn split(&mut self, region: &Region) -> Option<Command> {
        let inside = |key: &Bytes| *key > region.start_key && region.contains_key(key);
        let mut cuts: Vec<Bytes> = (0..KEYS).map(cut).filter(inside).collect();
        self.chance.shuffle(&mut cuts);
        cuts.truncate(self.chance.between(1, 2) as usize);
        cuts.sort();
        self.split_at(region, cuts)
    }

    /// Cuts a region at once, as it is now, unless there are far too many.
    pub fn cut_now(&mut self, region: &Region, leader: Peer) -> Option<Step> {
        if self.regions().len() >= REGIONS_MAX + REGIONS_BEYOND {
            return None;
        }
        let command = self.split(region)?;
        Some(Step { region: region.clone(), leader, command })
    }

    /// Lets a store cut a region that has grown, where it wants to.
    pub fn allow_split(&mut self, ask: &SplitAsk) -> Option<Step> {
        if self.regions().len() >= REGIONS_MAX {
            return None;
        }
        let command = self.split_at(&ask.region, ask.keys.clone())?;
        Some(Step { region: Region::clone(&ask.region), leader: ask.peer, command })
    }

    /// The command that cuts a region at keys, with ids for the parts; nothing if the picture is older.
    pub(super) fn split_at(&mut self, region: &Region, cuts: Vec<Bytes>) -> Option<Command> {
        let count = u32::try_from(cuts.len()).expect("a few");
        if count == 0 {
            return None;
        }
        let asked = self.cluster.ask_split(Some(region.clone()), count);
        let Decision { answer, changes } = asked.ok()?;
        self.install(changes);
        if self.is_governing {
            self.overseer.split(region, &answer);
        }
        let request = |(split_key, ids): (Bytes, skerry_proto::pdpb::SplitId)| SplitRequest {
            split_key,
            new_region_id: ids.new_region_id,
            new_peer_ids: ids.new_peer_ids,
        };
        let requests = cuts.into_iter().zip(answer).map(request).collect();
        Some(Command::Splits(BatchSplitRequest { requests, right_derive: self.chance.percent(50) }))
    }

    /// Takes a decision, as the server would: durable first, then true.
    fn decide<T>(
        &mut self,
        decide: impl FnOnce(&mut Cluster) -> skerry_scheduler::Result<Decision<T>>,
    ) -> T {
        let Decision { answer, changes } = decide(&mut self.cluster).expect("the request is sound");
        self.install(changes);
        answer
    }

    fn install(&mut self, changes: Vec<Change>) {
        self.storage().write(&changes, Durability::Synced).expect("memory takes everything");
        self.cluster.install(changes, Reading::default());
    }

    fn storage(&self) -> Storage {
        Storage::new(Arc::clone(&self.engine) as Arc<_>)
    }

    fn transfer(&mut self, region: &Region, leader: Peer) -> Option<Command> {
        let heir = self.pick_but(&region.peers, leader)?;
        Some(Command::TransferLeader(TransferLeaderRequest { peer: Some(heir), peers: Vec::new() }))
    }

    fn pick_but(&mut self, peers: &[Peer], but: Peer) -> Option<Peer> {
        let others: Vec<Peer> = peers.iter().filter(|peer| peer.id != but.id).copied().collect();
        self.chance.pick(&others)
    }
}

/// Time as the scheduler has it.
fn reading(now: Moment) -> Reading {
    Reading { monotonic: Duration::from_micros(now), wall_ms: 0 }
}

/// How a store registers.
fn store_record(id: u64) -> metapb::Store {
    metapb::Store {
        id,
        address: format!("store-{id}"),
        version: "8.5.0".to_string(),
        ..metapb::Store::default()
    }
}

fn has_three_voters(region: &Region) -> bool {
    region.peers.len() == REPLICAS && region.peers.iter().all(|peer| peer.role() == PeerRole::Voter)
}

fn change(kind: ConfChangeType, peer: Peer) -> ChangePeerRequest {
    let role = match kind {
        ConfChangeType::AddLearnerNode => PeerRole::Learner,
        _ => PeerRole::Voter,
    };
    let peer = Peer { role: role.into(), ..peer };
    ChangePeerRequest { change_type: kind as i32, peer: Some(peer) }
}

fn voter(id: u64, store_id: u64) -> Peer {
    Peer { id, store_id, role: PeerRole::Voter.into() }
}

/// A change of one peer.
pub(crate) fn one(kind: ConfChangeType, peer: Peer) -> ChangePeerV2Request {
    several(vec![change(kind, peer)])
}

fn several(changes: Vec<ChangePeerRequest>) -> ChangePeerV2Request {
    ChangePeerV2Request { changes }
}
