//! Stories about garbage collection as the cluster decides it, over an engine that can lose its power.

use super::*;
use crate::gc::{Barrier, BarrierName, Phase, Report};
use skerry_proto::types::Ts;

/// A cluster with stores 1 and 2.
struct World(Runner);

impl World {
    fn new() -> World {
        let mut world = World(Runner::new());
        let region = parse_region("r2 c1v1 [,) p3@s1");
        let now = world.0.now();
        let begun = world.0.cluster.bootstrap(Some(new_store(1, None, None)), Some(region), now);
        world.make_true(begun);
        let known = world.0.cluster.put_store(Some(new_store(2, None, None)), now);
        world.make_true(known);
        world
    }

    /// Makes a decision durable and true, as the server does.
    fn make_true<T>(&mut self, decision: Result<Decision<T>>) -> T {
        let Decision { answer, changes } = decision.expect("this is allowed");
        self.0.storage().write(&changes, Durability::Synced).expect("memory takes it");
        let now = self.0.now();
        self.0.cluster.install(changes, now);
        answer
    }

    fn decide<T>(&mut self, event: impl FnOnce(&mut Cluster, Moment) -> Result<Decision<T>>) -> T {
        let now = self.0.now();
        let decision = event(&mut self.0.cluster, now);
        self.make_true(decision)
    }

    fn refused<T>(
        &mut self,
        event: impl FnOnce(&mut Cluster, Moment) -> Result<Decision<T>>,
    ) -> String {
        let now = self.0.now();
        match event(&mut self.0.cluster, now) {
            Ok(_) => panic!("this must be refused"),
            Err(error) => error.to_string(),
        }
    }

    /// Time passes, and the scheduler looks after things.
    fn pass(&mut self, seconds: u64) {
        self.0.clock.advance_ms(seconds * 1_000);
        self.tick();
        self.tick();
    }

    fn tick(&mut self) {
        let now = self.0.now();
        let is_due = self.0.cluster.collection_is_due(now);
        let drawn = Ts::compose(now.wall_ms.max(self.0.cluster.timestamps_ms), 0);
        let drawn = is_due.then_some(drawn);
        self.decide(|cluster, now| cluster.collection_tick(drawn, now));
    }

    fn report(&mut self, store: u64, report: Report) {
        self.decide(|cluster, now| cluster.collection_report(StoreId::new(store), report, now));
    }

    /// Both stores do what they are told until there is nothing to do.
    fn collect(&mut self) {
        for _ in 0..4 {
            let order = self.order();
            let free = vec![(Bytes::new(), Bytes::new())];
            for store in [1, 2] {
                let report = Report {
                    kept: order.safe_point,
                    resolved_to: order.resolve_to,
                    free: free.clone(),
                    collecting_to: order.collect_to,
                    ..Report::default()
                };
                self.report(store, report);
            }
            self.tick();
        }
    }

    fn order(&self) -> crate::gc::Order {
        self.0.cluster.collection_order().expect("there is a cluster")
    }

    fn marks(&self) -> (u64, u64) {
        let marks = self.0.cluster.marks().expect("there is a cluster");
        (marks.txn(), marks.gc())
    }

    /// Ten minutes before now.
    fn ten_minutes_ago(&self) -> u64 {
        Ts::compose(self.0.now().wall_ms - 600_000, 0).get()
    }
}

#[test]
fn a_round_goes_to_ten_minutes_ago_and_survives_a_loss_of_power() {
    let mut world = World::new();
    world.pass(599);
    assert_eq!(world.marks(), (0, 0), "it is not time yet");
    world.pass(1);
    let safe_point = world.ten_minutes_ago();
    assert_eq!(world.marks(), (safe_point, 0));
    let order = world.order();
    assert_eq!((order.safe_point, order.resolve_to, order.collect_to), (safe_point, 0, 0));
    world.0.engine = Arc::new(world.0.engine.crash(0));
    world.0.cluster = restore(&world.0.engine, world.0.now());
    assert_eq!(world.marks(), (safe_point, 0));
    world.tick();
    world.collect();
    assert_eq!(world.marks(), (safe_point, safe_point));
    assert_eq!(world.order().collect_to, safe_point);
    let look = world.0.cluster.collection_look(world.0.now()).expect("there is a cluster");
    assert_eq!((look.phase, look.last.expect("it ended").safe_point), (Phase::Idle, safe_point));
    world.pass(599);
    assert_eq!(world.marks().0, safe_point);
    world.pass(1);
    assert_eq!(world.marks().0, world.ten_minutes_ago());
}

#[test]
fn a_barrier_holds_it_back_until_it_falls() {
    let mut world = World::new();
    let needed = world.ten_minutes_ago() + 5;
    let backup = BarrierName::of("backup");
    world.decide(|cluster, now| cluster.set_barrier(backup.clone(), needed, 1_000, now));
    world.pass(700);
    world.collect();
    assert_eq!(world.marks(), (needed, needed));
    let obstacle = |world: &World| {
        let look = world.0.cluster.collection_look(world.0.now()).expect("there is a cluster");
        look.obstacle
    };
    assert!(obstacle(&world).expect("it is held back").contains("backup"));
    let raised = world.decide(|cluster, now| cluster.raise_safe_point(needed + 7, now));
    assert_eq!(raised, needed, "no further than the barrier");
    world.tick();
    world.collect();
    assert_eq!(world.order().collect_to, needed, "what a client raises passes no barrier either");
    world.pass(301);
    world.collect();
    assert_eq!(world.marks().1, world.ten_minutes_ago());
    assert_eq!(obstacle(&world), None);
    let marks = world.0.cluster.marks().expect("there is a cluster");
    assert_eq!(marks.fallen(u64::MAX).count(), 0, "its row is gone");
}

#[test]
fn what_may_be_gone_cannot_be_kept_any_more() {
    let mut world = World::new();
    world.decide(|cluster, now| cluster.raise_safe_point(50, now));
    let late = BarrierName::of("late");
    assert!(
        world.refused(|cluster, now| cluster.set_barrier(late.clone(), 49, 10, now)).contains("50")
    );
    let barrier = world.decide(|cluster, now| cluster.set_barrier(late.clone(), 50, 10, now));
    let now = world.0.now().wall_ms;
    assert_eq!(barrier, Barrier { ts: 50, expires_ms: Some(now + 10_000) });
    assert_eq!(
        world.decide(|cluster, now| cluster.delete_barrier(late.clone(), now)),
        Some(barrier)
    );
    assert_eq!(world.decide(|cluster, now| cluster.delete_barrier(late.clone(), now)), None);
}

#[test]
fn the_older_calls_answer_the_lowest_of_all_services() {
    let mut world = World::new();
    let mut update = |name: &str, ttl, ts| {
        let lowest =
            world.decide(|cluster, now| cluster.update_service_safe_point(name, ttl, ts, now));
        (lowest.name, lowest.ts)
    };
    let lowest = |name: &str, ts| (name.to_string(), ts);
    assert_eq!(update("backup", 100, 30), lowest("gc_worker", 0), "nothing was collected yet");
    assert_eq!(update("gc_worker", i64::MAX, 20), lowest("gc_worker", 20));
    assert_eq!(update("feed", 100, 10), lowest("gc_worker", 20), "too late: it sees that");
    assert_eq!(update("gc_worker", i64::MAX, 90), lowest("backup", 30));
    assert_eq!(update("backup", 100, 60), lowest("gc_worker", 30));
    assert_eq!(update("backup", 0, 0), lowest("gc_worker", 30));
    assert_eq!(update("gc_worker", i64::MAX, 90), lowest("gc_worker", 90));
    assert_eq!(world.marks(), (90, 0));
}

/// Timestamps go on when the clock is set back, and what is collected follows them.
#[test]
fn a_clock_that_was_set_back_puts_no_round_off() {
    let mut world = World::new();
    world.pass(700);
    world.collect();
    let ahead_ms = world.0.now().wall_ms + 3_600_000;
    world.decide(|_, _| {
        Ok(Decision { answer: (), changes: vec![Change::TimestampLimit(ahead_ms)] })
    });
    world.pass(1);
    assert_eq!(world.marks().0, Ts::compose(ahead_ms - 600_000, 0).get());
}

/// Timestamps go on from where they were when the clock is set back, and safe points with them.
#[test]
fn a_clock_that_was_set_back_refuses_no_safe_point_that_has_come() {
    let mut world = World::new();
    let limit_ms = world.0.now().wall_ms + 3_600_000;
    let until = |ms| Ts::compose(ms, 0).get();
    world.refused(|cluster, now| cluster.raise_safe_point(until(limit_ms), now));
    world.decide(|_, _| {
        Ok(Decision { answer: (), changes: vec![Change::TimestampLimit(limit_ms)] })
    });
    world.refused(|cluster, now| cluster.raise_safe_point(until(limit_ms + 1), now));
    world.decide(|cluster, now| cluster.raise_safe_point(until(limit_ms), now));
    world.0.cluster = restore(&world.0.engine, world.0.now());
    world.decide(|cluster, now| cluster.advance_txn_safe_point(until(limit_ms), now));
}

#[test]
fn the_newer_calls_keep_the_gc_safe_point_below_the_other() {
    let mut world = World::new();
    world.decide(|cluster, now| cluster.set_barrier(BarrierName::of("b"), 60, i64::MAX, now));
    for far in [u64::MAX, Ts::compose(world.0.now().wall_ms + 61_000, 0).get()] {
        let refusals = [
            world.refused(|cluster, now| cluster.advance_txn_safe_point(far, now)),
            world.refused(|cluster, now| cluster.raise_safe_point(far, now)),
            world.refused(|cluster, now| {
                cluster.update_service_safe_point("gc_worker", i64::MAX, far, now)
            }),
        ];
        assert!(refusals.iter().all(|words| words.contains("has not come yet")), "{refusals:?}");
    }
    let advance = world.decide(|cluster, now| cluster.advance_txn_safe_point(90, now));
    assert_eq!((advance.old, advance.new), (0, 60));
    assert_eq!(advance.blocker, Some((BarrierName::of("b"), 60)));
    assert!(world.refused(|cluster, now| cluster.advance_txn_safe_point(59, now)).contains("60"));
    assert!(world.refused(|cluster, _| cluster.advance_gc_safe_point(61)).contains("60"));
    let advance = world.decide(|cluster, _| cluster.advance_gc_safe_point(55));
    assert_eq!((advance.old, advance.new), (0, 55));
    assert!(world.refused(|cluster, _| cluster.advance_gc_safe_point(54)).contains("55"));
    assert_eq!(world.marks(), (60, 55));
}

#[test]
fn a_cluster_without_a_life_time_collects_when_somebody_asks() {
    let mut world = World::new();
    world.0.cluster.habit.life_time = Duration::ZERO;
    world.pass(100_000);
    assert_eq!(world.marks(), (0, 0));
    world.0.cluster.want_collection().expect("there is a cluster");
    world.pass(0);
    world.collect();
    assert_eq!(world.marks().1, Ts::compose(world.0.now().wall_ms, 0).get());
}
