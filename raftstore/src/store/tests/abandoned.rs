//! A replica that was away while all those that it knows were replaced.

use std::collections::BTreeSet;

use super::*;

impl Cluster {
    /// Exchanges one replica for another; the one that goes does not lead.
    fn exchange(&mut self, leaving: metapb::Peer, coming: metapb::Peer) {
        self.change(1, &[(ConfChangeType::AddLearnerNode, coming)]);
        self.run(30);
        self.change(1, &[(ConfChangeType::AddNode, coming)]);
        self.change(1, &[(ConfChangeType::RemoveNode, leaving)]);
        self.run(30);
    }

    fn lead_from(&mut self, heir: metapb::Peer) {
        let request =
            TransferLeaderRequest { peer: Some(heir), ..TransferLeaderRequest::default() };
        done(self.admin(1, admin_request::Command::TransferLeader(request)));
        self.run(10);
        assert_eq!(self.leader(1).0, heir.store_id);
    }
}

/// Before, it asked replicas that are no more at stores that have newer ones, and nobody answered.
#[test]
fn a_replica_that_knows_only_former_ones_hears_that_it_was_removed() {
    let mut cluster = Cluster::led(5, 3);
    cluster.machine(3).is_cut_off = true;
    cluster.run(60);
    cluster.exchange(peer(13, 3), peer(14, 4));
    // Stores 1 and 2 get other replicas in the place of those that store 3 knows.
    cluster.lead_from(peer(14, 4));
    for store in [1, 2] {
        cluster.exchange(peer(10 + store, store), peer(30 + store, 5));
        cluster.exchange(peer(30 + store, 5), peer(20 + store, store));
    }
    cluster.machine(3).is_cut_off = false;
    assert_eq!(cluster.replicas(3).len(), 1);
    cluster.run(100);
    assert_eq!(cluster.replicas(3), Vec::<String>::new());
    let members: BTreeSet<u64> = cluster.leader(1).1.region.peers.iter().map(|it| it.id).collect();
    assert_eq!(members, BTreeSet::from([14, 21, 22]));
}
