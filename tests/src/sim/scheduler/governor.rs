//! Runs that the scheduler governs: its checkers and balancers decide where replicas are, while stores and the
//! scheduler itself come and go. The operator only cuts regions then.
//!
//! 1. Ten times a second the scheduler looks after everything ([`Cluster::tick`]) and tells leaders what it has
//!    decided; in between it answers reports. Stores say that they live about once a second, and not when they pause.
//! 2. Stores count as down after seconds. Now and then one stays away for longer than that, and comes back with
//!    replicas that others have taken the place of.
//! 3. Now and then the scheduler loses power. What it had synced is there when it is back; what it wrote about
//!    regions may be lost. It gives timestamps by a clock that jumps.
//! 4. In a third of the seeds replicas and leaders are shuffled as well.
//! 5. In half of the seeds a store leaves and another joins ([`super::turnover`]).
//! 6. When everything has healed it finishes what it has begun, and comes to rest.
//!
//! [`Overseer`](super::super::invariants::scheduler::Overseer) looks at all it hears, decides and tells.

use std::sync::Arc;

use skerry_raftstore::engine::Durability;
use skerry_scheduler::Error;
use skerry_scheduler::balance::Name;
use skerry_scheduler::persist::Change;

use super::*;
use crate::sim::invariants::Broken;
use crate::sim::queue::Event;
use crate::sim::trace::{MILLISECOND, SECOND};
use crate::sim::world::World;

/// How often the scheduler looks after everything.
const INTERVAL: Moment = 100 * MILLISECOND;

/// Of a hundred intervals, those in which a store says that it lives.
const BEATS: u64 = 15;

/// Of a thousand intervals, those in which the scheduler loses power, and in which a store goes for long.
const CRASHES: u64 = 8;
const LOSSES: u64 = 8;

/// Of a hundred reports, those that are slow.
const SLOW_REPORTS: u64 = 5;

/// Of a hundred intervals, those in which the limit of timestamps is saved although nobody waits for it.
const LIMITS_SAVED: u64 = 20;

/// Of a hundred intervals, those in which the scheduler's clock jumps, and how far it may be ahead then. It may
/// do so while the power is away, too.
const CLOCK_JUMPS: u64 = 5;
const CLOCK_JUMP_MAX: u64 = 20_000;

/// Silence after which a store counts as down.
pub(super) const STORE_DOWN: Duration = Duration::from_secs(6);

/// How far timestamps are saved ahead.
const WINDOW_MS: u64 = 3_000;

/// What a scheduler is that governs, or does not.
pub(super) fn config(is_governing: bool) -> SchedulerConfig {
    if !is_governing {
        return SchedulerConfig::default();
    }
    SchedulerConfig {
        store_disconnected_ms: 3_000,
        store_down_ms: u64::try_from(STORE_DOWN.as_millis()).expect("seconds"),
        id_batch: 50,
        ..SchedulerConfig::default()
    }
}

impl Scheduler {
    /// Begins to govern.
    fn take_office(&mut self, seed: u64) {
        self.turnover = Turnover::of_seed(seed);
        if seed.is_multiple_of(3) {
            for name in [Name::ShuffleLeader, Name::ShuffleRegion] {
                self.decide(|cluster| cluster.add_balancer(name, None));
            }
        }
    }

    /// Turns off what would never come to rest.
    fn calm(&mut self) {
        for name in [Name::ShuffleLeader, Name::ShuffleRegion] {
            if let Ok(Decision { changes, .. }) = self.cluster.remove_balancer(name, None) {
                self.install(changes);
            }
        }
    }

    /// Whether nobody is at home.
    pub(in crate::sim) fn is_away(&self, now: Moment) -> bool {
        now < self.away_until
    }

    /// How many operators run.
    pub(in crate::sim) fn running(&self) -> usize {
        self.cluster.operators().expect("the cluster is bootstrapped").count()
    }

    /// A store says that it lives, and how many replicas it has. One that was buried is not listened to.
    fn hear_store(&mut self, store: StoreId, replicas: usize, now: Moment) {
        let region_count = u32::try_from(replicas).expect("a few");
        let stats = StoreStats { store_id: store.get(), region_count, ..StoreStats::default() };
        match self.cluster.store_heartbeat(stats, reading(now)) {
            Ok(_) | Err(Error::StoreTombstone(_)) => {}
            Err(error) => panic!("all stores have registered: {error}"),
        }
    }

    /// Loses power, and is away for a while.
    pub(in crate::sim) fn crash(&mut self, now: Moment, lasts: Moment) {
        let surviving = self.chance.below(self.engine.unsynced_batches() as u64 + 1) as usize;
        self.engine = Arc::new(self.engine.crash(surviving));
        self.away_until = now + lasts;
        if self.chance.percent(50) {
            self.skew_ms = self.chance.below(CLOCK_JUMP_MAX);
        }
        let rows = self.storage().load().expect("memory is read");
        let limit = rows.iter().find_map(|row| match row {
            Change::TimestampLimit(limit) => Some(*limit),
            _ => None,
        });
        let begins = reading(self.away_until);
        self.oracle = Oracle::restore(limit.unwrap_or(0), WINDOW_MS, begins);
        let config = config(self.is_governing);
        self.cluster = Cluster::restore(ClusterId::new(1), &config, rows, begins);
        self.plant();
        self.overseer.restarted();
    }

    /// Looks after everything; what leaders are to be told unasked.
    fn tick(&mut self, now: Moment) -> Vec<Step> {
        let saved = self.cluster.take_region_changes();
        if !saved.is_empty() {
            self.storage().write(&saved, Durability::Buffered).expect("memory takes everything");
        }
        self.stamp(now);
        self.decide(|cluster| cluster.tick(reading(now)));
        self.overseer.looks_at(&self.cluster);
        let mut steps = Vec::new();
        for store in self.stores.clone() {
            for region in self.cluster.regions_to_tell(store, usize::MAX) {
                steps.extend(self.answer(region, now));
            }
        }
        steps
    }

    /// Now and then saves the limit that timestamps have asked for, and gives some more, by a clock that may have
    /// jumped.
    fn stamp(&mut self, now: Moment) {
        if self.chance.percent(LIMITS_SAVED) {
            self.save_limit(now);
        }
        if self.chance.percent(CLOCK_JUMPS) {
            self.jump();
        }
        let count = self.chance.between(1, 1_000) as u32;
        self.give(count, now);
    }

    /// Gives `count` timestamps, the last of which is answered, or makes sure that it soon can.
    pub(super) fn allocate(&mut self, count: u32, now: Moment) -> Option<Ts> {
        let granted = self.give(count, now);
        self.save_limit(now);
        granted
    }

    fn give(&mut self, count: u32, now: Moment) -> Option<Ts> {
        match self.oracle.allocate(count, self.by_the_clock(now)) {
            Allocation::Granted(last) => {
                self.overseer.stamped(last, count);
                Some(last)
            }
            Allocation::NeedsWindow | Allocation::NeedsTime => None,
        }
    }

    /// Saves the limit that timestamps have asked for.
    fn save_limit(&mut self, now: Moment) {
        let now = self.by_the_clock(now);
        if let Some(limit) = self.oracle.wanted_limit(now) {
            let row = vec![Change::TimestampLimit(limit)];
            self.storage().write(&row, Durability::Synced).expect("memory takes everything");
            self.cluster.install(row, now);
            self.oracle.saved(limit);
        }
    }

    pub(super) fn by_the_clock(&self, now: Moment) -> Reading {
        Reading { wall_ms: now / MILLISECOND + self.skew_ms, ..reading(now) }
    }

    /// Sets the clock to something else.
    pub(in crate::sim) fn jump(&mut self) {
        self.skew_ms = self.chance.below(CLOCK_JUMP_MAX);
    }

    /// What the operator does while the scheduler governs: it cuts a region.
    pub(super) fn cut_one(&mut self) -> Option<Step> {
        let regions = self.regions();
        let record = self.chance.pick(&regions)?;
        if regions.len() >= REGIONS_MAX || !self.chance.percent(30) {
            return None;
        }
        let (region, leader) = (record.region.clone(), record.leader?);
        let command = self.split(&region)?;
        Some(Step { region, leader, command })
    }
}

impl World {
    /// The scheduler governs from now on.
    pub(in crate::sim) fn begin_to_govern(&mut self) {
        self.scheduler.take_office(self.settings.seed);
        self.queue.plan(SECOND / 2, Event::Govern);
    }

    /// Another tenth of a second has passed.
    pub(in crate::sim) fn govern(&mut self) -> Result<(), Broken> {
        self.queue.plan(self.now + INTERVAL, Event::Govern);
        if self.is_dangerous {
            self.disturb();
        } else {
            self.scheduler.calm();
        }
        if self.scheduler.is_away(self.now) {
            return Ok(());
        }
        if self.is_dangerous {
            self.turn_over();
        }
        for number in 0..self.nodes.len() {
            if self.nodes[number].is_awake(self.now) && self.chance.percent(BEATS) {
                let node = &self.nodes[number];
                let replicas = node.store.as_ref().map_or(0, |store| store.inspect().len());
                self.scheduler.hear_store(node.id, replicas, self.now);
            }
        }
        for step in self.scheduler.tick(self.now) {
            self.trace.count("step by the scheduler, unasked");
            self.plan_step(step);
        }
        self.look_into_graves()?;
        self.scheduler.overseer.verdict()
    }

    /// What goes wrong beyond the faults of every run.
    fn disturb(&mut self) {
        if self.chance.below(1_000) < CRASHES && !self.scheduler.is_away(self.now) {
            let lasts = self.chance.between(100 * MILLISECOND, 3 * SECOND);
            self.scheduler.crash(self.now, lasts);
            self.trace.count("fault: scheduler crash");
            self.trace.tell(self.now, "scheduler", || "loses power".to_string());
        }
        let all_live = self.nodes.iter().all(|node| node.is_awake(self.now));
        if self.chance.below(1_000) < LOSSES && all_live {
            let node = self.chance.place(self.nodes.len());
            let lasts = self.chance.between(8 * SECOND, 15 * SECOND);
            self.lose_power_now(node);
            self.queue.plan(self.now + lasts, Event::Start { node });
            self.trace.count("fault: store loss");
        }
    }

    /// How long a report is on its way beyond what is usual.
    pub(in crate::sim) fn report_delay(&mut self) -> Moment {
        let is_slow = self.settings.governed && self.chance.percent(SLOW_REPORTS);
        if is_slow { self.chance.below(3 * SECOND) } else { 0 }
    }
}
