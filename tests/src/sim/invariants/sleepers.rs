//! What must be true of replicas that hibernate: they miss nothing.

use super::super::node::Node;
use super::super::trace::SECOND;
use super::replicas::describe;
use super::*;

/// How long a replica may go on sleeping while the store of its leader does not run. Stores notice after a second; what
/// a bad network brings late lets them believe longer.
const NOTICED_AFTER: Moment = 6 * SECOND;

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
            let has_all = other.term != status.term || other.last == status.last;
            hold(has_all, SLEEPERS_AGREE, || {
                let leader = describe(&nodes[number], status);
                format!("{leader}, but {}", describe(node, other))
            })?;
        }
        Ok(())
    }

    /// Looks at who sleeps although its leader's store is gone, while its own does what it should.
    pub fn sleepers_notice(&mut self, nodes: &[Node], now: Moment) -> Result<(), Broken> {
        let mut left_alone = BTreeMap::new();
        for node in nodes {
            let is_well = node.is_awake(now) && node.stalled.iter().all(|until| *until <= now);
            let sleepers = self.shown[node.number].values().filter(|status| status.is_asleep);
            for status in sleepers.filter(|_| is_well) {
                let leader = status.region.peers.iter().find(|peer| peer.id == status.leader);
                let store =
                    leader.and_then(|leader| nodes.iter().find(|node| node.id == leader.store()));
                if store.is_some_and(|store| store.store.is_none()) {
                    let place = (node.number, status.region.id);
                    let since = self.left_alone.get(&place).copied().unwrap_or(now);
                    hold(now - since <= NOTICED_AFTER, SLEEPERS_NOTICE, || describe(node, status))?;
                    left_alone.insert(place, since);
                }
            }
        }
        self.left_alone = left_alone;
        Ok(())
    }
}
