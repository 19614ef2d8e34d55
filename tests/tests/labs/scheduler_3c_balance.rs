//! Project 3C, moves for balance: which replica the scheduler moves, from where to where.
//!
//! The course tells its mock cluster how many regions a store has; a region of 10 MiB weighs as one of them. Here a
//! store weighs what its regions weigh, so each gets *ballast*: regions with nothing but one replica there, which
//! are not whole when more replicas are wanted, and too heavy to be worth a move otherwise. A store that moves are
//! to come from has it in one piece, others in many: regions are looked at by chance, a few on each store.
//!
//! Repairs and the other balancers are off, and one move runs at a time. A move takes more steps than in the course:
//! a replica comes without a vote and is exchanged for the one that leaves through a joint configuration.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use skerry_proto::metapb::{self, Peer};
use skerry_proto::pdpb::{RegionHeartbeatRequest, StoreStats};
use skerry_proto::types::{RegionId, StoreId};
use skerry_scheduler::balance::Name;
use skerry_scheduler::cluster::Cluster;
use skerry_scheduler::moment::Moment;
use skerry_scheduler::operator::{Kind, Operator, Step, ordered};

use crate::scheduler_3c::{CLUSTER, NOW, carry_out, cluster_of, region, register, report};

/// What the regions of the course weigh.
const USUAL: u64 = 10 << 20;

/// Rounds in which a move is found if there is one: it is missed in one of a thousand.
const ROUNDS: usize = 20;

struct Balanced {
    cluster: Cluster,
    now: Moment,
    stores: BTreeSet<u64>,
    /// Stores that say nothing any more.
    silent: BTreeSet<u64>,
    reports: u64,
}

impl Balanced {
    fn new(replicas: u32) -> Balanced {
        let mut cluster = cluster_of(1);
        for balancer in [Name::BalanceLeader, Name::BalanceHotRegion] {
            carry_out(&mut cluster, NOW, |cluster| cluster.remove_balancer(balancer, None));
        }
        let settings = json!({ "replica-schedule-limit": 0, "region-schedule-limit": 1 });
        let settings = settings.as_object().expect("written so a line above");
        carry_out(&mut cluster, NOW, |cluster| cluster.change_settings(settings));
        let (stores, silent) = (BTreeSet::from([1]), BTreeSet::new());
        let mut lab = Balanced { cluster, now: NOW, stores, silent, reports: 0 };
        lab.set_replicas(replicas);
        lab
    }

    fn set_replicas(&mut self, replicas: u32) {
        let settings = metapb::Cluster { id: CLUSTER.get(), max_peer_count: replicas };
        carry_out(&mut self.cluster, self.now, |cluster| cluster.put_settings(Some(settings)));
    }

    /// A store has ballast of `count` usual regions, in so many pieces of whole MiB.
    fn ballast(&mut self, store: u64, count: u64, pieces: u64) {
        if self.stores.insert(store) {
            register(&mut self.cluster, store);
        }
        for piece in 0..pieces {
            let id = store * 1_000 + piece;
            let key = |id: u64| format!("{id:08}").into_bytes();
            let region = region(id, (2, 2), (&key(id), &key(id + 1)), &[store]);
            let size = count * USUAL * (piece + 1) / pieces - count * USUAL * piece / pieces;
            self.hears(RegionHeartbeatRequest { approximate_size: size, ..report(region) });
        }
    }

    /// A store that moves come from.
    fn source(&mut self, store: u64, count: u64) {
        self.ballast(store, count, 1);
    }

    /// A store that none need come from.
    fn other(&mut self, store: u64, count: u64) {
        self.ballast(store, count, count * 10);
    }

    /// A region of usual size on these stores, led from the first; one of its replicas may need a snapshot.
    fn region(&mut self, id: u64, stores: &[u64], pending: Option<u64>) {
        self.reports += 1;
        let key = |id: u64| format!("r{id}").into_bytes();
        let region = region(id, (2, self.reports), (&key(id), &key(id + 1)), stores);
        let pending = pending.and_then(|store| region.peer_on_store(StoreId::new(store)).copied());
        self.hears(RegionHeartbeatRequest {
            approximate_size: USUAL,
            pending_peers: pending.into_iter().collect(),
            ..report(region)
        });
    }

    fn hears(&mut self, report: RegionHeartbeatRequest) {
        self.cluster.region_heartbeat(report, self.now).expect("the report is sound");
    }

    /// Stores stay silent until they count as down.
    fn take_down(&mut self, stores: &[u64]) {
        self.silent.extend(stores);
        self.now.monotonic += self.cluster.patience().down + Duration::from_secs(1);
    }

    /// The move that is begun, if any; it is taken back, for the next question.
    fn begun(&mut self) -> Option<Operator> {
        for _ in 0..ROUNDS {
            for store in self.stores.difference(&self.silent) {
                let stats = StoreStats { store_id: *store, ..StoreStats::default() };
                self.cluster.store_heartbeat(stats, self.now).expect("the store is registered");
            }
            let now = self.now;
            carry_out(&mut self.cluster, now, |cluster| cluster.tick(now));
            let begun = self.cluster.operators().expect("bootstrapped").next().cloned();
            if let Some(operator) = begun {
                let ended = self.cluster.cancel_operator(operator.region, "seen", now);
                ended.expect("it was running a line above");
                return Some(operator);
            }
        }
        None
    }

    /// Expects a move of a region's replica, and that its leader hands over first if it is the one that moves.
    fn moves(&mut self, id: u64, from: u64, to: u64) {
        let operator = self.begun().expect("the stores are uneven");
        assert_eq!((operator.name, operator.kind), ("balance-region", Kind::Region));
        assert_eq!(operator.region, RegionId::new(id));
        let record = self.cluster.region_by_id(operator.region).expect("bootstrapped");
        let record = record.expect("it was chosen just now");

        let before = ordered(&record.region.peers);
        let stores = |peers: &[Peer]| peers.iter().map(|peer| peer.store_id).collect();
        let mut wanted: BTreeSet<u64> = stores(&before);
        assert!(wanted.remove(&from) && wanted.insert(to), "{operator}");
        let after = operator.steps.iter().fold(before, |peers, step| step.applied(&peers));
        assert_eq!(stores(&after), wanted, "{operator}");
        assert!(after.iter().all(|peer| !peer.is_learner()), "{operator}");

        let adds = |step: &Step| matches!(step, Step::AddLearner(new) if new.store_id == to);
        assert!(operator.steps.first().is_some_and(adds), "{operator}");
        let removes = |step: &Step| matches!(step, Step::Remove(old) if old.store_id == from);
        assert!(operator.steps.last().is_some_and(removes), "{operator}");
        let hands_over = operator.steps.iter().position(|step| matches!(step, Step::Transfer(_)));
        let gives_vote_away = operator.steps.iter().position(|step| step.loses_vote().is_some());
        match record.is_led_from(StoreId::new(from)) {
            true => assert!(hands_over.is_some() && hands_over < gives_vote_away, "{operator}"),
            false => assert_eq!(hands_over, None, "{operator}"),
        }
    }

    fn stays(&mut self) {
        let begun = self.begun();
        assert!(begun.is_none(), "{}", begun.expect("checked on this line"));
    }
}

#[test]
fn test_replicas1_3c() {
    let mut lab = Balanced::new(1);
    lab.other(1, 6);
    lab.ballast(2, 8, 20);
    lab.other(3, 8);
    lab.source(4, 16);
    lab.region(2, &[4], None);
    lab.moves(2, 4, 1);

    // A store that is being emptied takes nothing: now the second has least.
    let now = lab.now;
    carry_out(&mut lab.cluster, now, |cluster| cluster.remove_store(StoreId::new(1), false, now));
    lab.ballast(2, 6, 20);
    lab.moves(2, 4, 2);

    // A region with too few replicas is not moved for comfort.
    lab.set_replicas(3);
    lab.stays();
    lab.set_replicas(1);
    lab.moves(2, 4, 2);
}

#[test]
fn test_replicas3_3c() {
    let mut lab = Balanced::new(3);
    lab.source(1, 16);
    lab.other(2, 15);
    lab.other(3, 14);
    lab.region(2, &[1, 2, 3], None);
    // Every store has a replica.
    lab.stays();
    lab.other(4, 2);
    lab.moves(2, 1, 4);
    lab.other(5, 1);
    lab.moves(2, 1, 5);
    lab.other(6, 0);
    lab.moves(2, 1, 6);

    lab.take_down(&[6]);
    lab.moves(2, 1, 5);
    lab.take_down(&[4, 5]);
    // Fuller than where the replicas are.
    lab.other(7, 20);
    lab.stays();
}

#[test]
fn test_replicas5_3c() {
    let mut lab = Balanced::new(5);
    for store in 1..=4 {
        lab.other(store, store + 3);
    }
    lab.source(5, 28);
    lab.region(2, &[1, 2, 3, 4, 5], None);
    lab.other(6, 1);
    lab.moves(2, 5, 6);
    // Not as empty as the sixth.
    lab.other(7, 5);
    lab.moves(2, 5, 6);

    lab.region(2, &[2, 3, 4, 5, 6], None);
    lab.moves(2, 5, 1);

    lab.source(11, 29);
    lab.other(12, 8);
    lab.other(13, 7);
    lab.region(2, &[2, 3, 11, 12, 13], None);
    lab.moves(2, 11, 6);
}

/// Of the regions that could be moved, the one whose replica there needs a snapshot anyway is.
#[test]
fn test_replace_pending_region_3c() {
    let mut lab = Balanced::new(3);
    lab.source(1, 16);
    lab.other(2, 7);
    lab.other(3, 15);
    lab.other(4, 10);
    lab.region(2, &[1, 2, 3], None);
    lab.region(3, &[1, 2, 3], None);
    lab.region(4, &[2, 1, 3], Some(1));
    for _ in 0..ROUNDS {
        lab.moves(4, 1, 4);
    }
}
