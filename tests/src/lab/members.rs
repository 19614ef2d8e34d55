//! What a scheduler does with regions: peers come and go, leaders are moved, regions are cut. Each is repeated until
//! it is seen to be so.
//!
//! A replica comes as a learner and votes when it has caught up; a leader hands over before it goes. The course does
//! neither; here stores refuse anything else.

use bytes::Bytes;
use skerry_proto::eraftpb::ConfChangeType;
use skerry_proto::metapb::{Peer, PeerRole};
use skerry_proto::raft_cmdpb::TransferLeaderRequest;
use skerry_proto::raft_cmdpb::admin_request::Command;
use skerry_raftstore::message::CommandContext;
use skerry_raftstore::peer::PeerStatus;

use super::Lab;
use super::looks::SOON;
use crate::sim::scheduler::one;
use crate::sim::script::{Errand, Told, Wish};
use crate::sim::trace::{MILLISECOND, SECOND};

impl Lab {
    /// Makes a store lead a region.
    pub async fn must_transfer_leader(&self, region_id: u64, store: usize) {
        let end = self.now() + SOON;
        while self.leader_of(region_id).is_none_or(|(leader, _)| leader != store) {
            assert!(self.now() < end, "store {store} does not lead\n{}", self.picture());
            self.transfer_leader(region_id, store).await;
            self.pause(200 * MILLISECOND).await;
        }
    }

    /// Asks the leader once to hand over to a store.
    pub async fn transfer_leader(&self, region_id: u64, store: usize) -> Option<Told> {
        let (_, status) = self.leader_of(region_id)?;
        let peer = status.region.peer_on_store(self.store_id(store)).copied();
        let request = TransferLeaderRequest { peer, peers: Vec::new() };
        self.administer(region_id, Command::TransferLeader(request)).await
    }

    /// Gives a store a replica that votes; answers which.
    pub async fn must_add_peer(&self, region_id: u64, store: usize) -> Peer {
        let learner = self.new_learner(store);
        let patience = 3 * SOON;
        let end = self.now() + patience;
        loop {
            let role = self.role_of(region_id, learner);
            let kind = match role {
                Some(PeerRole::Voter) => return learner,
                Some(_) => ConfChangeType::AddNode,
                None => ConfChangeType::AddLearnerNode,
            };
            assert!(self.now() < end, "{learner} does not vote\n{}", self.picture());
            self.change_peer(region_id, kind, learner).await;
            self.pause(50 * MILLISECOND).await;
        }
    }

    /// A replica that never was, for a store that has none of the region.
    pub fn new_learner(&self, store: usize) -> Peer {
        let store = self.store_id(store);
        self.world.borrow_mut().new_learner(store)
    }

    /// Takes a store's replica away. One that leads hands over first.
    pub async fn must_remove_peer(&self, region_id: u64, store: usize) {
        let end = self.now() + 3 * SOON;
        while let Some(peer) = self.peer_on(region_id, store).await {
            assert!(self.now() < end, "{peer} stays\n{}", self.picture());
            match self.leader_of(region_id) {
                Some((leader, status)) if leader == store => self.hand_over(&status).await,
                _ => {
                    self.change_peer(region_id, ConfChangeType::RemoveNode, peer).await;
                }
            }
            self.pause(50 * MILLISECOND).await;
        }
    }

    /// A leader hands over to any other voter.
    pub async fn hand_over(&self, leader: &PeerStatus) {
        let is_heir = |peer: &&Peer| peer.id != leader.peer.id && !peer.is_learner();
        let heirs: Vec<Peer> = leader.region.peers.iter().filter(is_heir).copied().collect();
        if let Some(heir) = self.pick(&heirs) {
            self.transfer_leader(leader.region.id, self.number_of(heir.store_id)).await;
        }
    }

    /// Cuts a region at a key that lies inside of it.
    pub async fn must_split(&self, key: &'static str) {
        let end = self.now() + SOON;
        loop {
            let region = self.region_of(key.as_bytes()).await;
            if region.start_key == key.as_bytes() {
                return;
            }
            assert!(self.now() < end, "no cut at {key}\n{}", self.picture());
            let command = self.world.borrow_mut().split_command(&region, Bytes::from(key));
            if let Some(command) = command {
                self.administer(region.id, command).await;
            }
            self.pause(100 * MILLISECOND).await;
        }
    }

    /// Makes a voter of every learner that is left.
    pub async fn promote_learners(&self) {
        let end = self.now() + 3 * SOON;
        while let Some((region_id, learner)) = self.any_learner() {
            assert!(self.now() < end, "{learner} stays a learner\n{}", self.picture());
            self.change_peer(region_id, ConfChangeType::AddNode, learner).await;
            self.pause(50 * MILLISECOND).await;
        }
    }

    fn any_learner(&self) -> Option<(u64, Peer)> {
        self.regions().iter().find_map(|region| {
            let learner = region.peers.iter().find(|peer| peer.is_learner());
            learner.map(|learner| (region.id, *learner))
        })
    }

    /// Asks the leader once to change one peer.
    pub async fn change_peer(
        &self,
        region_id: u64,
        kind: ConfChangeType,
        peer: Peer,
    ) -> Option<Told> {
        self.administer(region_id, Command::ChangePeerV2(one(kind, peer))).await
    }

    /// Asks the leader of a region once, with the epoch that it shows.
    pub async fn administer(&self, region_id: u64, command: Command) -> Option<Told> {
        let Some((leader, status)) = self.leader_of(region_id) else {
            self.pause(SECOND / 10).await;
            return None;
        };
        let context = CommandContext {
            region_id: status.region.region_id(),
            epoch: status.region.epoch(),
            ..CommandContext::default()
        };
        let store = self.store_id(leader);
        self.ask(Errand { store, context, wish: Wish::Admin(command) }).await
    }

    /// The replica that a region has on a store, once the region is led.
    pub async fn peer_on(&self, region_id: u64, store: usize) -> Option<Peer> {
        self.until("a region is led", 3 * SOON, |lab| lab.leader_of(region_id).is_some()).await;
        let (_, status) = self.leader_of(region_id).expect("looked at just now");
        status.region.peer_on_store(self.store_id(store)).copied()
    }

    fn role_of(&self, region_id: u64, peer: Peer) -> Option<PeerRole> {
        let (_, status) = self.leader_of(region_id)?;
        status.region.peer_by_id(peer.peer_id()).map(Peer::role)
    }
}
