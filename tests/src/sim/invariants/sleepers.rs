//! What must be true of replicas that hibernate: they miss nothing.

use skerry_proto::metapb::Peer;
use skerry_proto::raft_serverpb::RaftMessage;

use super::super::node::Node;
use super::super::trace::SECOND;
use super::replicas::describe;
use super::*;

/// How long a replica may go on sleeping while nothing comes from a store that it minds. Stores notice that after a
/// second.
const NOTICED_AFTER: Moment = 2 * SECOND;

impl Invariants {
    /// A leader has fallen asleep: nobody of its region lacks anything.
    pub(super) fn leader_sleeps(
        &self,
        nodes: &[Node],
        number: usize,
        status: &PeerStatus,
    ) -> Result<(), Broken> {
        let members = status.region.peers.iter();
        let others = members.filter(|peer| peer.id != status.peer.id).filter_map(|peer| {
            let node = nodes.iter().find(|node| node.id == peer.store())?;
            Some((node, self.shown[node.number].get(&status.region.id)?))
        });
        for (node, other) in others {
            let last = status.last;
            let is_equal = !other.is_asleep || (other.commit, other.applied) == (last, last);
            let has_all = other.term != status.term || other.last == last && is_equal;
            hold(has_all, SLEEPERS_AGREE, || {
                let leader = describe(&nodes[number], status);
                format!("{leader}, but {}", describe(node, other))
            })?;
        }
        Ok(())
    }

    /// A store hears another one.
    pub fn delivered(&mut self, number: usize, message: &RaftMessage, now: Moment) {
        let from = message.from_peer.unwrap_or_default().store_id;
        self.heard.insert((number, from), now);
    }

    /// Looks at who sleeps although nothing comes from a store that it minds, while its own does what it should: a
    /// follower minds the store of its leader, a leader those of all members.
    pub fn sleepers_notice(&mut self, nodes: &[Node], now: Moment) -> Result<(), Broken> {
        let mut asleep = BTreeMap::new();
        for node in nodes {
            let stands_since = node.stalled.iter().copied().fold(node.paused_until, Moment::max);
            let is_well = node.store.is_some() && stands_since <= now;
            for status in self.shown[node.number].values().filter(|status| status.is_asleep) {
                let minded = status.region.peers.iter().filter(|peer| match status.is_leader {
                    true => peer.id != status.peer.id,
                    false => peer.id == status.leader,
                });
                let heard = |peer: &Peer| self.heard.get(&(node.number, peer.store_id));
                let heard = minded.map(|peer| heard(peer).copied().unwrap_or(0)).min();
                let Some(heard) = heard.filter(|_| is_well) else { continue };
                let place = (node.number, node.life, status.region.id);
                let since = self.asleep.get(&place).copied().unwrap_or(now);
                let silent = now - since.max(stands_since).max(heard);
                hold(silent <= NOTICED_AFTER, SLEEPERS_NOTICE, || describe(node, status))?;
                asleep.insert(place, since);
            }
        }
        self.asleep = asleep;
        Ok(())
    }
}
