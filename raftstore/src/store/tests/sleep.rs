//! Hibernation: who falls asleep, what wakes whom, and that nobody misses anything.

use std::sync::atomic::Ordering;

use super::*;

const NOBODY: [u64; 0] = [];

impl Cluster {
    /// A region of three replicas that all sleep.
    fn asleep() -> Cluster {
        let mut cluster = Cluster::led(3, 3);
        done(cluster.put(1, "k", "old"));
        cluster.run(30);
        assert_eq!(cluster.sleepers(), [1, 2, 3]);
        cluster
    }

    /// The stores whose replica of region 1 sleeps.
    fn sleepers(&self) -> Vec<u64> {
        let sleeps = |machine: &Machine| {
            machine.store.inspect().iter().any(|status| status.region.id == 1 && status.is_asleep)
        };
        self.machines.iter().filter(|(_, it)| sleeps(it)).map(|(store, _)| *store).collect()
    }

    /// What each store shows on its metrics page: how many of its replicas sleep.
    fn counted_asleep(&self) -> Vec<u64> {
        let counters = self.machines.values().map(|it| &it.store.environment.counters);
        counters.map(|counters| counters.replicas_asleep.load(Ordering::Relaxed)).collect()
    }

    /// What was sent in so many ticks: of regions, and of stores for themselves.
    fn sent_in(&mut self, ticks: usize) -> (usize, usize) {
        self.overheard.clear();
        self.run(ticks);
        let of_stores = self.overheard.iter().filter(|message| message.region_id == 0).count();
        (self.overheard.len() - of_stores, of_stores)
    }

    fn cut_off(&mut self, store: u64, is_cut_off: bool) {
        self.machine(store).is_cut_off = is_cut_off;
    }

    /// Ticks until somebody else than `former` leads.
    fn ticks_without(&mut self, former: u64) -> usize {
        (0..100)
            .find(|_| {
                self.run(1);
                self.leader(1).0 != former
            })
            .expect("another one is elected")
    }
}

#[test]
fn where_nothing_happens_all_sleep_and_only_the_stores_say_that_they_live() {
    let mut cluster = Cluster::asleep();
    assert_eq!(cluster.sent_in(40), (0, 3 * 2 * 40 / 2));
    assert_eq!(cluster.sleepers(), [1, 2, 3]);
}

#[test]
fn a_write_wakes_all_and_a_while_later_they_sleep_again() {
    let mut cluster = Cluster::asleep();
    let term = cluster.leader(1).1.term;
    done(cluster.put(1, "k", "new"));
    cluster.run(3);
    assert_eq!((cluster.sleepers(), cluster.counted_asleep()), (NOBODY.to_vec(), vec![0, 0, 0]));
    for store in 1..=3 {
        assert_eq!(cluster.value_on(store, "k").as_deref(), Some("new"));
    }
    cluster.run(20);
    assert_eq!((cluster.sleepers(), cluster.counted_asleep()), (vec![1, 2, 3], vec![1, 1, 1]));
    assert_eq!(cluster.leader(1).1.term, term, "nobody was elected");
}

#[test]
fn reads_at_any_replica_are_served_after_long_sleep() {
    let mut cluster = Cluster::asleep();
    for (store, consistency) in [(1, Consistency::Replica), (2, Consistency::Replica)] {
        cluster.run(30);
        assert_eq!(cluster.get(store, 1, "k", consistency).as_deref(), Some("old"));
    }
    cluster.run(30);
    let leader = cluster.leader(1).0;
    assert_eq!(cluster.get(leader, 1, "k", Consistency::Leader).as_deref(), Some("old"));
}

#[test]
fn a_leader_that_is_read_on_other_threads_stays_awake() {
    let mut cluster = Cluster::led(3, 3);
    done(cluster.put(1, "k", "v"));
    let (store, context) = (cluster.leader(1).0, cluster.context(1));
    let mut elsewhere = 0;
    for _ in 0..40 {
        cluster.run(2);
        let reader = cluster.machine(store).store.reader();
        match reader.get(&context, RAW, &data_key(b"k")) {
            Some(read) => {
                assert!(read.expect("it is no refusal").expect("get").is_some());
                elsewhere += 1;
            }
            None => drop(cluster.get(store, 1, "k", Consistency::Leader)),
        }
        assert_eq!(cluster.sleepers(), NOBODY);
    }
    assert!(elsewhere > 20, "{elsewhere}");
}

#[test]
fn a_dead_leader_is_followed_as_soon_as_if_nobody_had_slept() {
    let mut cluster = Cluster::asleep();
    let former = cluster.leader(1).0;
    cluster.cut_off(former, true);
    let ticks = cluster.ticks_without(former);
    assert!((10..=2 * 10 + 5).contains(&ticks), "{ticks}");
    done(cluster.put(1, "k", "new"));
    cluster.cut_off(former, false);
    cluster.run(30);
    assert_eq!(cluster.value_on(former, "k").as_deref(), Some("new"));
    assert_eq!(cluster.sleepers(), [1, 2, 3]);
}

#[test]
fn a_leader_wakes_when_a_member_falls_silent_and_reports_it() {
    let mut cluster = Cluster::asleep();
    let leader = cluster.leader(1).0;
    let lost = 1 + leader % 3;
    cluster.cut_off(lost, true);
    cluster.run(40);
    assert!(!cluster.sleepers().contains(&leader));
    let report = WorkerMessage::Report { sleepers: false };
    cluster.machine(leader).store.take_reports();
    cluster.machine(leader).store.workers[0].1.push_back(report);
    cluster.run(1);
    let reports = cluster.machine(leader).store.take_reports();
    assert_eq!(reports[0].down[0].0, PeerId::new(10 + lost));
    cluster.cut_off(lost, false);
    cluster.run(40);
    assert_eq!(cluster.sleepers(), [1, 2, 3]);
}

#[test]
fn a_store_that_was_started_anew_is_told_at_once_who_leads() {
    let mut cluster = Cluster::asleep();
    let (leader, before) = cluster.leader(1);
    let started = 1 + leader % 3;
    cluster.restart(started);
    cluster.run(6);
    let statuses = cluster.machine(started).store.inspect();
    assert_eq!((statuses[0].leader, statuses[0].term), (before.peer.id, before.term));
}

#[test]
fn one_that_is_woken_alone_lets_its_leader_wake() {
    let mut cluster = Cluster::asleep();
    let (leader, before) = cluster.leader(1);
    let alone = 1 + leader % 3;
    cluster.machine(alone).store.unreachable(RegionId::new(1), PeerId::new(10 + leader));
    cluster.run(3);
    assert!(!cluster.sleepers().contains(&alone));
    cluster.run(4);
    assert_eq!(cluster.sleepers(), NOBODY);
    cluster.run(30);
    assert_eq!((cluster.sleepers(), cluster.leader(1).1.term), (vec![1, 2, 3], before.term));
}

#[test]
fn nobody_rests_while_a_member_cannot_say_that_it_does() {
    let mut cluster = Cluster::led(3, 3);
    let leader = cluster.leader(1).0;
    let deaf = 1 + leader % 3;
    cluster.cut_off(deaf, true);
    cluster.run(60);
    assert_eq!(cluster.sleepers(), NOBODY);
}

#[test]
fn a_replica_that_was_removed_in_its_sleep_does_not_stay() {
    let mut cluster = Cluster::asleep();
    let leader = cluster.leader(1).0;
    let removed = 1 + leader % 3;
    cluster.split(1, "m", 50);
    cluster.run(30);
    // Nothing of region 1 reaches it, and region 50 lets the stores go on living for each other.
    cluster.muted_to = Some((1, removed));
    cluster.change(1, &[(ConfChangeType::RemoveNode, peer(10 + removed, removed))]);
    cluster.run(100);
    assert_eq!(cluster.sleepers(), [1, 2, 3], "it cannot know");
    cluster.muted_to = None;
    // It is looked at every minute, and wakes after ten.
    cluster.run(12 * 600);
    assert!(!cluster.replicas(removed).iter().any(|it| it.starts_with("region 1 ")), "it is gone");
}

#[test]
fn a_new_scheduler_hears_of_sleepers_and_the_same_one_of_those_who_are_awake() {
    let mut cluster = Cluster::asleep();
    let leader = cluster.leader(1).0;
    cluster.machine(leader).store.take_reports();
    for (sleepers, reports) in [(false, 0), (true, 1)] {
        let order = WorkerMessage::Report { sleepers };
        cluster.machine(leader).store.workers[0].1.push_back(order);
        cluster.settle();
        assert_eq!(cluster.machine(leader).store.take_reports().len(), reports);
        assert_eq!(cluster.sleepers(), [1, 2, 3]);
    }
}

#[test]
fn a_sleeping_leader_reports_every_five_minutes_and_wakes_nobody_for_it() {
    let mut cluster = Cluster::asleep();
    let leader = cluster.leader(1).0;
    cluster.machine(leader).store.take_reports();
    cluster.run(5 * 600);
    assert_eq!(cluster.machine(leader).store.take_reports().len(), 1);
    assert_eq!(cluster.sleepers(), [1, 2, 3]);
}

#[test]
fn a_store_is_silent_while_one_of_its_workers_hangs() {
    let mut cluster = Cluster::new(3, 3);
    let two_workers = || RaftConfig { workers: 2, ..config() };
    (1..=3).for_each(|store| cluster.reopen(store, two_workers()));
    cluster.run(40);
    // The other worker shares this one with the same stores, and would go on saying that its store lives.
    let former = cluster.leader(1).0;
    let worker_of = |cluster: &Cluster, region_id: u64| {
        cluster.machines[&former].store.environment.worker_of(RegionId::new(region_id))
    };
    let worker = worker_of(&cluster, 1);
    let other = (50..).find(|region_id| worker_of(&cluster, *region_id) != worker);
    cluster.split(1, "m", other.expect("it has regions"));
    cluster.run(30);
    assert_eq!(cluster.counted_asleep(), [2, 2, 2]);
    assert_eq!(cluster.leader(1).0, former);
    cluster.hanging = Some((former, worker));
    let led_by = |cluster: &Cluster| {
        let others = cluster.machines.iter().filter(|(store, _)| **store != former);
        let mut statuses = others.flat_map(|(_, machine)| machine.store.inspect());
        statuses.any(|status| status.region.id == 1 && status.is_leader)
    };
    let ticks = (0..100).find(|_| {
        cluster.run(1);
        led_by(&cluster)
    });
    assert!(ticks.is_some_and(|ticks| (10..=2 * 10 + 10).contains(&ticks)), "{ticks:?}");
    cluster.hanging = None;
    cluster.run(40);
    assert_eq!(cluster.counted_asleep(), [2, 2, 2]);
}

#[test]
fn stores_that_share_no_region_any_more_say_nothing_to_each_other() {
    let mut cluster = Cluster::asleep();
    let leader = cluster.leader(1).0;
    let emptied = 1 + leader % 3;
    cluster.change(1, &[(ConfChangeType::RemoveNode, peer(10 + emptied, emptied))]);
    // Whom they share regions with is looked at with all the rest, within a minute.
    cluster.run(2 * 600);
    cluster.sent_in(40);
    let concerns = |store: u64| {
        let peers = cluster.overheard.iter().flat_map(|it| [it.from_peer, it.to_peer]);
        peers.flatten().any(|peer| peer.store_id == store)
    };
    assert!(concerns(leader) && !concerns(emptied));
}

#[test]
fn a_log_that_shall_be_cut_wakes_no_follower() {
    let mut cluster = Cluster::asleep();
    let leader = cluster.leader(1).0;
    let mut order = |store: u64| {
        let message = WorkerMessage::CutLog { region_id: RegionId::new(1) };
        cluster.machine(store).store.workers[0].1.push_back(message);
        cluster.settle();
        cluster.sleepers()
    };
    for follower in (1..=3).filter(|store| *store != leader) {
        assert_eq!(order(follower), [1, 2, 3]);
    }
    assert!(!order(leader).contains(&leader), "it has heard of it");
}
