//! One store of the simulated cluster: its disk, its clock, and the store itself while it runs.
//!
//! A clock runs up to a twentieth too fast or too slow, ticks come at a pace of their own, and after a restart
//! the clock may show anything, as after a reboot. Nothing in a store may rely on more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use skerry_kv::txn::planted::Planted as TxnPlanted;
use skerry_proto::types::StoreId;
use skerry_raftstore::config::RaftConfig;
use skerry_raftstore::planted::Planted;
use skerry_raftstore::reply::Replies;
use skerry_raftstore::store::{Store, StoreParts};
use skerry_raftstore::time::Clock;

use super::chance::Chance;
use super::disk::Disk;
use super::trace::Moment;
use super::transactions::server::Server;

/// How much a clock may be off, in parts of a thousand.
const DRIFT_MAX: u64 = 50;

/// A clock that follows the simulated world at a pace of its own.
#[derive(Debug)]
pub struct DriftingClock {
    /// Nanoseconds it shows.
    shows: AtomicU64,
}

impl Clock for DriftingClock {
    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.shows.load(Ordering::Relaxed))
    }

    fn wall_ms(&self) -> u64 {
        1_700_000_000_000 + self.shows.load(Ordering::Relaxed) / 1_000_000
    }
}

/// A pace: nanoseconds that pass here for each microsecond out there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pace(u64);

impl Pace {
    const TRUE: Pace = Pace(1_000);

    fn any(chance: &mut Chance) -> Pace {
        Pace(chance.between(1_000 - DRIFT_MAX, 1_000 + DRIFT_MAX))
    }
}

/// See the module.
pub struct Node {
    /// Its number among the nodes, from 0.
    pub number: usize,
    /// Its name in the cluster.
    pub id: StoreId,
    /// There while the store runs.
    pub store: Option<Store>,
    /// Counts its replies that nobody answered.
    pub replies: Arc<Replies>,
    /// How often it was started: what was meant for an earlier life is dropped.
    pub life: u64,
    /// Until when it does nothing, if it is paused.
    pub paused_until: Moment,
    /// Which of its actors are about to be turned.
    pub scheduled: Vec<bool>,
    /// Until when each of its actors does nothing, if it is stalled.
    pub stalled: Vec<Moment>,
    /// How many times slower than usual its disk is.
    pub disk_slowness: u64,
    /// What is on it outlives the store. Taken only while power is lost.
    disk: Option<Disk>,
    clock: Arc<DriftingClock>,
    clock_pace: Pace,
    tick_pace: Pace,
    /// When the clock was last moved, and what it showed then.
    moved: (Moment, u64),
    /// Writes of the disk that the trace knows of.
    pub traced_writes: u64,
    /// The bug that the run has planted.
    pub planted: Option<Planted>,
    /// There while the store runs, in runs with transactions.
    pub server: Option<Server>,
    /// The same, and what bug its executor has.
    transactions: Option<Option<TxnPlanted>>,
}

impl Node {
    /// A node with an empty disk, not running.
    pub fn new(number: usize, id: StoreId, planted: Option<Planted>) -> Node {
        Node {
            number,
            id,
            store: None,
            replies: Replies::new(),
            life: 0,
            paused_until: 0,
            scheduled: Vec::new(),
            stalled: Vec::new(),
            disk_slowness: 1,
            disk: Some(Disk::new()),
            clock: Arc::new(DriftingClock { shows: AtomicU64::new(0) }),
            clock_pace: Pace::TRUE,
            tick_pace: Pace::TRUE,
            moved: (0, 0),
            traced_writes: 0,
            planted,
            server: None,
            transactions: None,
        }
    }

    /// From now on it serves transactions when it runs, with a bug or without.
    pub fn serve_transactions(&mut self, planted: Option<TxnPlanted>) {
        self.transactions = Some(planted);
        self.disk().note();
    }

    /// Its disk.
    pub fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("a disk is taken only while power is lost")
    }

    /// Whether it does anything.
    pub fn is_awake(&self, now: Moment) -> bool {
        self.store.is_some() && self.paused_until <= now
    }

    /// Starts the store, with a clock that shows anything. Answers whether the power stayed on for so long.
    pub fn start(
        &mut self,
        config: &RaftConfig,
        seed: u64,
        now: Moment,
        chance: &mut Chance,
    ) -> bool {
        assert!(self.store.is_none(), "{} runs already", self.id);
        self.life += 1;
        self.paused_until = 0;
        self.replies = Replies::new();
        let an_hour = 3_600 * 1_000_000_000;
        self.moved = (now, chance.below(an_hour));
        self.move_clock(now);
        let store = Store::open(StoreParts {
            store_id: self.id,
            engine: self.disk().engine(),
            log: self.disk().log(),
            snapshots: self.disk().snapshots().to_path_buf(),
            clock: self.clock.clone(),
            config: config.clone(),
            seed,
            logger: slog::Logger::root(slog::Discard, slog::o!()),
            planted: self.planted,
        });
        if self.disk().is_dark() {
            return false;
        }
        let store = store.unwrap_or_else(|error| panic!("{} does not start: {error}", self.id));
        self.scheduled = vec![false; store.actors()];
        self.stalled = vec![0; store.actors()];
        let serves = |planted| Server::new(self.id, &store, self.clock.clone(), planted);
        self.server = self.transactions.map(serves);
        self.store = Some(store);
        true
    }

    /// Ends the store without a word; what it has written stays.
    pub fn kill(&mut self) {
        self.replies.disarm();
        self.server = None;
        self.store = None;
    }

    /// Ends the store and loses what its disk had not synced.
    pub fn lose_power(&mut self, chance: &mut Chance) {
        self.kill();
        let disk = self.disk.take().expect("a disk is taken only here");
        self.disk = Some(disk.lose_power(chance));
        if self.transactions.is_some() {
            self.disk().note();
        }
        self.traced_writes = 0;
    }

    /// Gives clock and ticks other paces.
    pub fn drift(&mut self, now: Moment, chance: &mut Chance) {
        self.move_clock(now);
        self.clock_pace = Pace::any(chance);
        self.tick_pace = Pace::any(chance);
    }

    /// Gives clock and ticks their true pace.
    pub fn set_right(&mut self, now: Moment) {
        self.move_clock(now);
        (self.clock_pace, self.tick_pace) = (Pace::TRUE, Pace::TRUE);
        self.disk_slowness = 1;
        self.stalled.fill(0);
    }

    /// Lets the clock show what it shows at `now`.
    pub fn move_clock(&mut self, now: Moment) {
        let shows = u64::try_from(self.shows_at(now).as_nanos()).expect("less than centuries");
        self.moved = (now, shows);
        self.clock.shows.store(shows, Ordering::Relaxed);
    }

    /// What the clock shows at a moment that is not before the last one.
    pub fn shows_at(&self, now: Moment) -> Duration {
        let (before, showed) = self.moved;
        Duration::from_nanos(showed + (now - before) * self.clock_pace.0)
    }

    /// How long a tick takes, out there.
    pub fn tick_length(&self, tick_ms: u64) -> Moment {
        tick_ms * 1_000_000 / self.tick_pace.0
    }
}
