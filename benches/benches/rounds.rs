//! What a put costs three stores in processor time, alone: the stores are turned by hand on one thread, as in the
//! simulator, on real engines. Nobody waits for anybody, so that the figure hardly depends on what else the
//! machine does, and a profiler sees nothing but the way of a put.
//!
//! In each round every one of 256 clients puts one pair into a region chosen uniformly; the stores are turned until
//! all are answered. With one region the puts of a round share an entry; with a thousand hardly any two do. Waiting
//! for the disk does not count.
//!
//! `make bench-rounds`, or with choices: `make bench-rounds ARGS="regions=1,1000 clients=256 rounds=200 engines=real"`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use prost::Message as _;
use skerry_benches::{VALUE_BYTES, put_into};
use skerry_kv::metrics::cpu_seconds;
use skerry_proto::metapb::Region;
use skerry_proto::raft_serverpb::RaftMessage;
use skerry_proto::types::StoreId;
use skerry_raftstore::config::{RaftConfig, RaftEngineConfig, RocksConfig};
use skerry_raftstore::engine::Engine;
use skerry_raftstore::engine::log::LogEngine;
use skerry_raftstore::engine::log::memory::MemoryLog;
use skerry_raftstore::engine::log::raft_engine::RaftEngineLog;
use skerry_raftstore::engine::memory::MemoryEngine;
use skerry_raftstore::engine::rocks::RocksEngine;
use skerry_raftstore::reply::{Outcome, Replies};
use skerry_raftstore::store::bootstrap::bootstrap;
use skerry_raftstore::store::{Store, StoreParts};
use skerry_raftstore::time::{ManualClock, splitmix64};
use skerry_tests::local_cluster::even_regions;
use slog::{Discard, Logger, o};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Stores of the cluster, each with a replica of every region.
const STORES: u64 = 3;

/// Stores that are turned by hand.
struct Cluster {
    stores: BTreeMap<u64, Store>,
    regions: Vec<Region>,
    leaders: BTreeMap<u64, u64>,
    clock: ManualClock,
    replies: Arc<Replies>,
    next: u64,
}

impl Cluster {
    fn start(home: &Path, regions: u64, is_real: bool) -> Cluster {
        let regions = even_regions(STORES, regions);
        let clock = ManualClock::default();
        let open = |store_id| (store_id, open(home, store_id, &regions, is_real, &clock));
        let mut cluster = Cluster {
            stores: (1..=STORES).map(open).collect(),
            regions: regions.clone(),
            leaders: BTreeMap::new(),
            clock: clock.clone(),
            replies: Replies::new(),
            next: 0,
        };
        while cluster.leaders.len() < regions.len() {
            cluster.clock.advance_ms(RaftConfig::default().tick_ms);
            cluster.stores.values_mut().for_each(Store::tick);
            cluster.settle();
        }
        cluster
    }

    /// Turns everything until nothing is left to do. Messages between stores are encoded and decoded.
    fn settle(&mut self) {
        loop {
            let mut sent = Vec::new();
            let mut is_idle = true;
            for store in self.stores.values_mut() {
                for actor in 0..store.actors() {
                    while store.has_work(actor) {
                        store.turn(actor).expect("nothing fails");
                        is_idle = false;
                    }
                }
                let led = store.take_reports().into_iter();
                self.leaders.extend(led.map(|report| (report.region.id, report.leader.store_id)));
                sent.extend(store.take_sent());
            }
            is_idle &= sent.is_empty();
            for message in sent {
                let to = message.to_peer.expect("a receiver").store_id;
                let message = RaftMessage::decode(bytes::Bytes::from(message.encode_to_vec()));
                let to = self.stores.get_mut(&to).expect("a store of the cluster");
                to.receive(message.expect("it was encoded just now"));
            }
            if is_idle {
                return;
            }
        }
    }

    fn put(&mut self) {
        self.next += 1;
        let number = splitmix64(self.next);
        let region = &self.regions[(number % self.regions.len() as u64) as usize];
        let reply = self.replies.reply(|outcome| {
            assert!(matches!(outcome, Outcome::Done(_)), "a put was not done");
        });
        let leader =
            self.stores.get_mut(&self.leaders[&region.id]).expect("a store of the cluster");
        leader.command(put_into(region, self.next, VALUE_BYTES, reply));
    }

    /// Processor time of a put in microseconds, over all rounds.
    fn measure(&mut self, rounds: usize, clients: u64) -> f64 {
        let before = cpu_seconds(None);
        for _ in 0..rounds {
            (0..clients).for_each(|_| self.put());
            self.settle();
        }
        (cpu_seconds(None) - before) * 1e6 / (rounds as u64 * clients) as f64
    }
}

fn open(
    home: &Path,
    store_id: u64,
    regions: &[Region],
    is_real: bool,
    clock: &ManualClock,
) -> Store {
    let home = home.join(store_id.to_string());
    let (engine, log): (Arc<dyn Engine>, Arc<dyn LogEngine>) = match is_real {
        true => (
            Arc::new(
                RocksEngine::open(&home.join("data"), &RocksConfig::default(), None)
                    .expect("an engine"),
            ),
            Arc::new(
                RaftEngineLog::open(&home.join("log"), &RaftEngineConfig::default())
                    .expect("a log"),
            ),
        ),
        false => (Arc::new(MemoryEngine::new()), Arc::new(MemoryLog::new())),
    };
    for region in regions {
        bootstrap(engine.as_ref(), log.as_ref(), region).expect("bootstrap");
    }
    let parts = StoreParts {
        store_id: StoreId::new(store_id),
        engine,
        log,
        snapshots: home.join("snapshots"),
        clock: Arc::new(clock.clone()),
        config: RaftConfig { workers: 1, apply_workers: 1, ..RaftConfig::default() },
        seed: store_id,
        logger: Logger::root(Discard, o!()),
        planted: None,
    };
    Store::open(parts).expect("the store opens")
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_word = |argument: &&String| !argument.starts_with("--") && !argument.contains('=');
    if arguments.iter().filter(is_word).any(|word| !"rounds by hand".contains(word.as_str())) {
        return;
    }
    let choice = |name: &str, otherwise: &str| -> Vec<String> {
        let given =
            arguments.iter().find_map(|argument| argument.strip_prefix(&format!("{name}=")));
        given.unwrap_or(otherwise).split(',').map(str::to_string).collect()
    };
    let number = |text: &String| text.parse::<u64>().expect("a number");
    let clients = number(&choice("clients", "256")[0]);
    let rounds = number(&choice("rounds", "400")[0]) as usize;
    println!("| engines | regions | clients | CPU us a put | of one region |");
    println!("| --- | --- | --- | --- | --- |");
    for engines in choice("engines", "real,memory") {
        let mut first = None;
        for regions in choice("regions", "1,64,1000") {
            let home = tempfile::tempdir().expect("a directory");
            let mut cluster = Cluster::start(home.path(), number(&regions), engines == "real");
            cluster.measure(rounds / 4 + 1, clients);
            let cost = cluster.measure(rounds, clients);
            let first = *first.get_or_insert(cost);
            println!("| {engines} | {regions} | {clients} | {cost:.2} | {:.2} |", first / cost);
        }
    }
}
