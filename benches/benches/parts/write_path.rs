//! Two stages of a put by themselves, on one store that is turned by hand: the raft worker that checks and proposes,
//! and the apply worker that turns committed entries into data. Everything between them runs, but is not timed.
//!
//! 1. 256 puts are handed to the store, into one region or spread over as many.
//! 2. The raft worker takes them: checks, an entry for each region, raft, a log task. That is *proposal*.
//! 3. The log, in memory here, is written; the worker hears of it, and the entries are committed.
//! 4. The apply worker takes them: one batch for RocksDB, buffered, and an answer for each put. That is *apply*.
//!
//! In one region all puts share an entry; in 256 none does.

use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use skerry_benches::{VALUE_BYTES, put_into};
use skerry_proto::metapb::Region;
use skerry_proto::types::StoreId;
use skerry_raftstore::config::{RaftConfig, RocksConfig};
use skerry_raftstore::engine::log::memory::MemoryLog;
use skerry_raftstore::engine::rocks::RocksEngine;
use skerry_raftstore::reply::{Outcome, Replies};
use skerry_raftstore::store::bootstrap::bootstrap;
use skerry_raftstore::store::{Store, StoreParts};
use skerry_raftstore::time::{Clock, ManualClock, SystemClock};
use skerry_tests::local_cluster::even_regions;
use slog::{Discard, Logger, o};
use tempfile::TempDir;

/// Puts of a round, and regions when each has its own.
const PUTS: u64 = 256;

/// The actors of a store with one worker of each kind, as [`Store::turn`] numbers them.
const WORKER: usize = 0;
const LOG_WRITER: usize = 1;
const APPLIER: usize = 2;

/// What is timed.
#[derive(Clone, Copy)]
enum Stage {
    Proposal,
    Apply,
}

/// A store that leads all its regions alone.
struct ByHand {
    store: Store,
    clock: ManualClock,
    regions: Vec<Region>,
    replies: Arc<Replies>,
    next: u64,
    _directory: TempDir,
}

pub(crate) fn benches(criterion: &mut Criterion) {
    let stages = [("proposal", Stage::Proposal), ("apply", Stage::Apply)];
    for regions in [1, PUTS] {
        let mut group = criterion.benchmark_group(format!("write path, {regions} regions"));
        group.throughput(Throughput::Elements(PUTS)).sample_size(10);
        for (name, stage) in stages {
            let mut by_hand = ByHand::start(regions);
            group.bench_function(name, |bencher| {
                bencher
                    .iter_custom(|iterations| (0..iterations).map(|_| by_hand.round(stage)).sum());
            });
        }
        group.finish();
    }
}

impl ByHand {
    fn start(regions: u64) -> ByHand {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let regions = even_regions(1, regions);
        let rocks = RocksConfig::default();
        let engine = RocksEngine::open(&directory.path().join("data"), &rocks, None);
        let (engine, log) = (Arc::new(engine.expect("it opens")), Arc::new(MemoryLog::new()));
        for region in &regions {
            bootstrap(engine.as_ref(), log.as_ref(), region).expect("bootstrap");
        }
        let clock = ManualClock::default();
        let parts = StoreParts {
            store_id: StoreId::new(1),
            engine,
            log,
            snapshots: directory.path().join("snapshots"),
            clock: Arc::new(clock.clone()),
            config: RaftConfig { workers: 1, apply_workers: 1, ..RaftConfig::default() },
            seed: 1,
            logger: Logger::root(Discard, o!()),
            planted: None,
        };
        let mut by_hand = ByHand {
            store: Store::open(parts).expect("it opens"),
            clock,
            regions,
            replies: Replies::new(),
            next: 0,
            _directory: directory,
        };
        by_hand.settle();
        by_hand
    }

    /// Puts go their whole way; how long a stage of it took.
    fn round(&mut self, timed: Stage) -> Duration {
        (0..PUTS).for_each(|_| self.put());
        let proposal = self.turn(WORKER);
        self.turn(LOG_WRITER);
        self.turn(WORKER);
        let apply = self.turn(APPLIER);
        // Without ticks the log would never be shortened.
        self.clock.advance_ms(RaftConfig::default().tick_ms);
        self.store.tick();
        self.settle();
        match timed {
            Stage::Proposal => proposal,
            Stage::Apply => apply,
        }
    }

    fn put(&mut self) {
        self.next += 1;
        let region = &self.regions[(self.next % self.regions.len() as u64) as usize];
        let reply = self.replies.reply(|outcome| {
            assert!(matches!(outcome, Outcome::Done(_)), "a put was not done");
        });
        self.store.command(put_into(region, self.next, VALUE_BYTES, reply));
    }

    /// Turns an actor as long as something waits for it.
    fn turn(&mut self, actor: usize) -> Duration {
        let clock = SystemClock;
        let began = clock.monotonic();
        while self.store.has_work(actor) {
            self.store.turn(actor).expect("nothing fails");
        }
        clock.monotonic() - began
    }

    /// Turns all of them until nothing is left to do.
    fn settle(&mut self) {
        while (0..self.store.actors()).any(|actor| self.store.has_work(actor)) {
            for actor in 0..self.store.actors() {
                self.turn(actor);
            }
        }
        self.store.take_reports();
    }
}
