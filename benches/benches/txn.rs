//! Transactions through three replicas in one process, beside raw puts of the same size and RocksDB's cached gets.
//!
//! What runs is what serves clients, without the wire: the transactional and the raw API over replicated storage, on
//! the stores of `make bench-store`. Clients are closed loops on one thread; each transaction writes a fresh random
//! key of each region that it is about.
//!
//! Absolute figures on a shared machine mean little. So everything is measured for a moment in each of a few
//! rounds, one after the other, and what counts is the median of a round's ratio to the reference of the same round:
//!
//! | line | reference | ratio |
//! | --- | --- | --- |
//! | one phase; two phases over two regions; pessimistic | raw puts | transactions to puts, per second |
//! | raw puts in that shape: two at once, then one, and one that nobody waits for | raw puts | operations to puts |
//! | gets by key, in batches of 64, at a timestamp | RocksDB's gets by one thread, cached | keys per second |
//! | scans of 100 keys with ten versions | the same with one version | time, so less is better |
//!
//! The line of raw puts in that shape tells what two phases could reach if each of their four writes cost a put, and
//! nothing else was done.
//!
//! A second table tells which threads the processor time of each line goes to, over all rounds.
//!
//! `make bench-txn ARGS="clients=64 seconds=1 rounds=5 keys=100000"` chooses; `only=raw,1pc` leaves lines out, for a
//! profiler.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use skerry_benches::profile::{Profile, Watch};
use skerry_benches::{plain_rocks, value};
use skerry_kv::mvcc::{Key, ReadRules};
use skerry_kv::raw::{Ordering as PutOrdering, Put, RawLimits, RawStore};
use skerry_kv::storage::{ApiVersion, Permits, ReplicatedStorage, RequestContext, Storage};
use skerry_kv::txn::commit::Commit;
use skerry_kv::txn::get::{BatchGet, Get};
use skerry_kv::txn::pessimistic_lock::PessimisticLock;
use skerry_kv::txn::prewrite::{Change, Mutation, Prewrite, Prewritten, Way};
use skerry_kv::txn::scan::Scan;
use skerry_kv::txn::{Locking, Timestamps, TxnLimits, TxnStore};
use skerry_proto::kvrpcpb::AssertionLevel;
use skerry_proto::kvrpcpb::prewrite_request::PessimisticAction;
use skerry_proto::metapb::Region;
use skerry_proto::types::{RegionId, StoreId, Ts};
use skerry_raftstore::config::{ByteSize, RaftConfig};
use skerry_raftstore::time::{Clock, SystemClock, splitmix64};
use skerry_tests::local_cluster::{Layout, LocalCluster};
use skerry_tests::wait::until;
use tokio::runtime::Builder;
use tokio::task::{JoinHandle, LocalSet, spawn_local};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const STORES: u64 = 3;
/// Bytes of a value.
const VALUE_BYTES: usize = 100;
/// Keys of one batch of gets; so many are read on the caller's thread.
const BATCH: usize = 64;
/// Keys of one scan.
const SCAN: usize = 100;
/// Versions of every key in the second half of what is read.
const VERSIONS: u64 = 10;
/// Keys that one transaction loads.
const LOAD: u64 = 500;
/// How long a lock lives.
const TTL_MS: u64 = 60_000;

/// What is measured.
struct Choice {
    clients: Vec<u64>,
    seconds: f64,
    rounds: usize,
    keys: u64,
    only: Vec<String>,
}

impl Choice {
    fn from_arguments() -> Choice {
        let mut choice = Choice {
            clients: vec![1, 64],
            seconds: 1.0,
            rounds: 5,
            keys: 50_000,
            only: Vec::new(),
        };
        for argument in std::env::args() {
            let Some((name, list)) = argument.split_once('=') else { continue };
            let number = || list.parse::<f64>().expect("a number");
            match name {
                "clients" => {
                    let numbers = list.split(',').map(|part| part.parse().expect("a number"));
                    choice.clients = numbers.collect();
                }
                "seconds" => choice.seconds = number(),
                "rounds" => choice.rounds = number() as usize,
                "keys" => choice.keys = number() as u64,
                "only" => choice.only = list.split(',').map(str::to_string).collect(),
                other => panic!("{other} is not known; see the head of benches/benches/txn.rs"),
            }
        }
        choice
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

/// Timestamps without a scheduler: what they cost is not asked here.
#[derive(Default)]
struct Oracle(AtomicU64);

impl Oracle {
    fn next(&self) -> Ts {
        Ts::from(self.0.fetch_add(1, Ordering::SeqCst) + 1)
    }
}

impl Timestamps for Oracle {
    fn newest(&self) -> Pin<Box<dyn Future<Output = Ts> + Send + '_>> {
        Box::pin(std::future::ready(self.next()))
    }

    fn passed(&self) -> Duration {
        SystemClock.monotonic()
    }
}

/// The two APIs of a store.
struct Apis {
    raw: RawStore,
    txn: TxnStore,
}

/// A running cluster as clients see it.
struct World {
    cluster: LocalCluster,
    apis: Vec<Apis>,
    oracle: Arc<Oracle>,
    /// Numbers the keys that are written.
    next: Cell<u64>,
    /// Commits that nobody waits for.
    following: RefCell<Vec<JoinHandle<()>>>,
}

impl World {
    fn start(home: &std::path::Path, oracle: Arc<Oracle>) -> Rc<World> {
        let large = ByteSize::gib(64);
        let config = RaftConfig {
            // The regions stay as they are: what is measured is not how they are cut.
            region_size_max: large,
            split_size: large,
            region_keys_max: 1_000_000_000,
            ..RaftConfig::default()
        };
        let layout = Layout { stores: STORES, regions: 2, raft_engine: true, config };
        let cluster = LocalCluster::start(home, &layout);
        let apis_of = |store_id: u64| {
            let storage: Arc<dyn Storage> = ReplicatedStorage::new(
                StoreId::new(store_id),
                cluster.store(store_id),
                Permits::new(4_096, 64 << 20),
            );
            let (clock, limits) = (Arc::new(SystemClock), RawLimits::default());
            let raw = RawStore::new(Arc::clone(&storage), ApiVersion::V1, clock, limits);
            let limits = TxnLimits {
                key_bytes_max: limits.key_bytes_max,
                reply_bytes_max: limits.reply_bytes_max,
                lock_wait: Duration::from_secs(1),
            };
            let reads = Arc::clone(raw.read_pool());
            let timestamps = Arc::clone(&oracle) as Arc<dyn Timestamps>;
            let txn = TxnStore::new(storage, ApiVersion::V1, limits, timestamps, reads);
            Apis { raw, txn }
        };
        let apis = (1..=STORES).map(apis_of).collect();
        until("every region has a leader", || {
            let led = |region: &Region| cluster.leader(region.id).is_some();
            cluster.regions().iter().all(led).then_some(())
        });
        let (next, following) = (Cell::new(0), RefCell::default());
        Rc::new(World { cluster, apis, oracle, next, following })
    }

    /// Who leads a region, and how it is asked.
    fn region(&self, number: usize) -> (&Apis, RequestContext) {
        let region = &self.cluster.regions()[number];
        let leader = self.cluster.leader(region.id).unwrap_or(1);
        let store_id = StoreId::new(leader);
        let context = RequestContext {
            region_id: RegionId::new(region.id),
            epoch: region.epoch(),
            peer_id: region.peer_on_store(store_id).expect("a replica everywhere").peer_id(),
            store_id,
            term: None,
            api_version: 0,
            replica_read: false,
        };
        (&self.apis[leader as usize - 1], context)
    }

    /// A key that nobody has written, in a region.
    fn fresh_key(&self, region: usize) -> Bytes {
        let number = self.next.get();
        self.next.set(number + 1);
        let mut key = vec![if region == 0 { 0x40 } else { 0xC0 }, b'w'];
        key.extend_from_slice(&splitmix64(number).to_be_bytes());
        key.into()
    }

    async fn raw_put(self: Rc<World>) {
        self.raw_put_in(0).await;
    }

    /// Four puts, in the order in which two phases write.
    async fn four_raw_puts(self: Rc<World>) {
        tokio::join!(self.raw_put_in(0), self.raw_put_in(1));
        self.raw_put_in(0).await;
        let world = Rc::clone(&self);
        self.following.borrow_mut().push(spawn_local(async move { world.raw_put_in(1).await }));
    }

    async fn raw_put_in(&self, region: usize) {
        let (apis, context) = self.region(region);
        let key = self.fresh_key(region);
        let value = Bytes::from(value(self.next.get(), VALUE_BYTES));
        let permit = apis.raw.permits().acquire(key.len() + value.len()).await;
        let put = Put { key, value, ttl_seconds: 0 };
        let put = apis.raw.put(&context, "", vec![put], PutOrdering::Plain, permit);
        put.await.expect("a put");
    }

    fn prewrite(&self, keys: &[Bytes], primary: &Bytes, start_ts: Ts, way: Way) -> Prewrite {
        let put = |key: &Bytes| {
            let value = Bytes::from(value(self.next.get(), VALUE_BYTES));
            Mutation::new(Key::of(key), Change::Put(value))
        };
        Prewrite {
            mutations: keys.iter().map(put).collect(),
            primary: primary.clone(),
            start_ts,
            ttl_ms: TTL_MS,
            txn_size: keys.len() as u64,
            for_update_ts: Ts::ZERO,
            min_commit_ts: Ts::ZERO,
            max_commit_ts: Ts::ZERO,
            assertion_level: AssertionLevel::Off,
            way,
        }
    }

    async fn run_prewrite(&self, region: usize, command: Prewrite) {
        let (apis, context) = self.region(region);
        let permit = apis.txn.permits().acquire(VALUE_BYTES).await;
        let done = apis.txn.write(&context, &command, permit).await.expect("a prewrite");
        assert!(matches!(done, Prewritten::Done { .. }), "{done:?}");
    }

    async fn commit(&self, region: usize, key: &Bytes, start_ts: Ts, commit_ts: Ts) {
        let (apis, context) = self.region(region);
        let permit = apis.txn.permits().acquire(key.len()).await;
        let command = Commit { keys: vec![Key::of(key)], start_ts, commit_ts };
        apis.txn.write(&context, &command, permit).await.expect("a commit");
    }

    async fn one_phase(self: Rc<World>) {
        let (key, start_ts) = (self.fresh_key(0), self.oracle.next());
        let command = self.prewrite(std::slice::from_ref(&key), &key, start_ts, Way::OnePhase);
        self.run_prewrite(0, command).await;
    }

    /// Both regions are locked at the same time; the second one's commit is not waited for, as clients do it.
    async fn two_phases(self: Rc<World>) {
        let (keys, start_ts) = ([self.fresh_key(0), self.fresh_key(1)], self.oracle.next());
        let lock = |region: usize| {
            let key = std::slice::from_ref(&keys[region]);
            self.run_prewrite(region, self.prewrite(key, &keys[0], start_ts, Way::TwoPhases))
        };
        tokio::join!(lock(0), lock(1));
        let commit_ts = self.oracle.next();
        self.commit(0, &keys[0], start_ts, commit_ts).await;
        let world = Rc::clone(&self);
        let second =
            spawn_local(async move { world.commit(1, &keys[1], start_ts, commit_ts).await });
        self.following.borrow_mut().push(second);
    }

    /// Waits for what nobody has waited for.
    async fn settle(&self) {
        let following = self.following.take();
        for second in following {
            second.await.expect("a commit does not panic");
        }
    }

    /// Locks its key in advance, then commits in one phase.
    async fn pessimistic(self: Rc<World>) {
        let (apis, context) = self.region(0);
        let (key, start_ts) = (self.fresh_key(0), self.oracle.next());
        let lock = PessimisticLock {
            keys: vec![(Key::of(&key), false)],
            primary: key.clone(),
            start_ts,
            ttl_ms: TTL_MS,
            for_update_ts: start_ts,
            min_commit_ts: Ts::ZERO,
            return_values: false,
            check_existence: false,
            lock_only_if_exists: false,
            force: false,
            no_wait: false,
        };
        let permit = apis.txn.permits().acquire(key.len()).await;
        let locked = apis.txn.lock(&context, &lock, None, permit).await.expect("a lock");
        assert!(matches!(locked, Locking::Done(_)), "nobody has the key");
        let mut command = self.prewrite(std::slice::from_ref(&key), &key, start_ts, Way::OnePhase);
        command.for_update_ts = start_ts;
        command.mutations[0].pessimistic = PessimisticAction::DoPessimisticCheck;
        self.run_prewrite(0, command).await;
    }

    /// Writes what is read: keys with one version, and keys with many.
    async fn load(&self, keys: u64) {
        for (many, versions) in [(false, 1), (true, VERSIONS)] {
            for _ in 0..versions {
                for first in (0..keys).step_by(LOAD as usize) {
                    let keys: Vec<Bytes> = (first..(first + LOAD).min(keys))
                        .map(|number| read_key(many, number))
                        .collect();
                    let start_ts = self.oracle.next();
                    let command = self.prewrite(&keys, &keys[0], start_ts, Way::OnePhase);
                    self.run_prewrite(0, command).await;
                }
            }
        }
    }

    async fn get(self: Rc<World>, draw: u64, keys: u64) {
        let (apis, context) = self.region(0);
        let key = Key::of(&read_key(false, draw % keys));
        let rules = ReadRules::at(self.oracle.next());
        let gotten = apis.txn.read(&context, Get { key, rules }).await.expect("a get");
        assert!(gotten.version.is_some(), "it was loaded");
    }

    async fn batch_get(self: Rc<World>, draw: u64, keys: u64) {
        let (apis, context) = self.region(0);
        let key = |number| Key::of(&read_key(false, splitmix64(draw ^ number) % keys));
        let command = BatchGet {
            keys: (0..BATCH as u64).map(key).collect(),
            rules: ReadRules::at(self.oracle.next()),
            reply_bytes_max: usize::MAX,
        };
        let gotten = apis.txn.read(&context, command).await.expect("a batch of gets");
        assert_eq!(gotten.found.len(), BATCH, "all were loaded");
    }

    async fn scan(self: Rc<World>, many: bool, draw: u64, keys: u64) {
        let (apis, context) = self.region(0);
        let start = read_key(many, draw % (keys - SCAN as u64));
        let rules = ReadRules::at(self.oracle.next());
        // Ends with its kind of keys.
        let end = read_key(many, u64::from(u32::MAX));
        let command = Scan::new(start, end, SCAN, rules);
        let scanned = apis.txn.read(&context, command).await.expect("a scan");
        assert_eq!(scanned.found.len(), SCAN, "so many were loaded");
    }
}

/// A key that is read; `many` have many versions. Their order is that of their numbers.
fn read_key(many: bool, number: u64) -> Bytes {
    format!("{}{number:012}", if many { "many" } else { "once" }).into()
}

/// Runs `operation` in `clients` closed loops for a while.
async fn rate<F: Future<Output = ()> + 'static>(
    clients: u64,
    seconds: f64,
    operation: impl Fn(u64) -> F + Clone + 'static,
) -> Profile {
    let watch = Watch::start();
    let end = SystemClock.monotonic() + Duration::from_secs_f64(seconds);
    let client = |client: u64| {
        let operation = operation.clone();
        spawn_local(async move {
            let mut done = 0;
            while SystemClock.monotonic() < end {
                operation(splitmix64(client << 32 | done)).await;
                done += 1;
            }
            done
        })
    };
    let clients: Vec<JoinHandle<u64>> = (0..clients).map(client).collect();
    let mut done = 0;
    for client in clients {
        done += client.await.expect("a client does not panic");
    }
    watch.profile(done)
}

/// What RocksDB does with the same keys on one thread.
fn rocks_gets(rocks: &rocksdb::DB, keys: u64, seconds: f64) -> Profile {
    let watch = Watch::start();
    let end = SystemClock.monotonic() + Duration::from_secs_f64(seconds);
    let mut done: u64 = 0;
    while SystemClock.monotonic() < end {
        for number in 0..BATCH as u64 {
            let key = read_key(false, splitmix64(done ^ number) % keys);
            assert!(rocks.get(&key).expect("a get").is_some(), "it was loaded");
        }
        done += BATCH as u64;
    }
    watch.profile(done)
}

/// One line of the result, over all rounds.
struct Line {
    name: String,
    /// What the goal is about: the ratio in words.
    of: &'static str,
    rates: Vec<f64>,
    /// Of all rounds.
    profile: Profile,
    ratios: Vec<f64>,
    /// Goal and floor; less is better if the goal is above 1.
    goal: Option<(f64, f64)>,
}

fn median(numbers: &[f64]) -> f64 {
    let mut numbers = numbers.to_vec();
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

/// All lines, in the order in which they first came.
#[derive(Default)]
struct Table(Vec<Line>);

impl Table {
    fn add(
        &mut self,
        name: &str,
        of: &'static str,
        profile: &Profile,
        ratio: f64,
        goal: Option<(f64, f64)>,
    ) {
        let line = match self.0.iter().position(|line| line.name == name) {
            Some(known) => &mut self.0[known],
            None => {
                let (rates, profile, ratios) = Default::default();
                self.0.push(Line { name: name.to_string(), of, rates, profile, ratios, goal });
                self.0.last_mut().expect("it was pushed")
            }
        };
        line.rates.push(profile.rate());
        line.profile.add(profile);
        line.ratios.push(ratio);
    }

    fn print(&self) {
        println!(
            "| what | a second | CPU us each | ratio | of what | goal | floor | spread of the ratio |"
        );
        println!("|{}", " --- |".repeat(8));
        for Line { name, of, rates, profile, ratios, goal } in &self.0 {
            let (low, high) = ratios.iter().fold((f64::MAX, f64::MIN), |(low, high), ratio| {
                (low.min(*ratio), high.max(*ratio))
            });
            let (goal, floor) = goal.map_or(("-".to_string(), "-".to_string()), |(goal, floor)| {
                (format!("{goal:.2}"), format!("{floor:.2}"))
            });
            println!(
                "| {name} | {:.0} | {:.1} | {:.2} | {of} | {goal} | {floor} | {low:.2} to {high:.2} |",
                median(rates),
                profile.cpu_us(),
                median(ratios),
            );
        }
        println!();
        println!("| what | {} |", Profile::heads());
        println!("|{}", " --- |".repeat(9));
        for line in &self.0 {
            println!("| {} | {} |", line.name, line.profile.cells());
        }
    }
}

async fn writes(world: &Rc<World>, choice: &Choice, clients: u64, table: &mut Table) {
    let name = |what: &str| format!("{what}, {clients} clients");
    let (seconds, own) = (choice.seconds, || Rc::clone(world));
    let puts = {
        let own = own();
        rate(clients, seconds, move |_| Rc::clone(&own).raw_put()).await
    };
    let ratio = |of: &Profile| of.rate() / puts.rate();
    table.add(&name("raw puts"), "itself", &puts, 1.0, None);
    if choice.wants("1pc") {
        let own = own();
        let done = rate(clients, seconds, move |_| Rc::clone(&own).one_phase()).await;
        table.add(&name("one phase"), "raw puts", &done, ratio(&done), Some((0.85, 0.70)));
    }
    if choice.wants("2pc") {
        let transacting = own();
        let done = rate(clients, seconds, move |_| Rc::clone(&transacting).two_phases()).await;
        world.settle().await;
        let goal = Some((0.50, 0.35));
        table.add(&name("two phases, two regions"), "raw puts", &done, ratio(&done), goal);
        let keys = done.counted_as(2);
        table.add(&name("the same, keys"), "raw puts", &keys, ratio(&keys), None);
        let putting = own();
        let done = rate(clients, seconds, move |_| Rc::clone(&putting).four_raw_puts()).await;
        world.settle().await;
        table.add(&name("raw puts in that shape"), "raw puts", &done, ratio(&done), None);
    }
    if choice.wants("pessimistic") {
        let own = own();
        let done = rate(clients, seconds, move |_| Rc::clone(&own).pessimistic()).await;
        table.add(&name("pessimistic, one phase"), "raw puts", &done, ratio(&done), None);
    }
}

async fn reads(world: &Rc<World>, choice: &Choice, rocks: &rocksdb::DB, table: &mut Table) {
    let (keys, seconds, own) = (choice.keys, choice.seconds, || Rc::clone(world));
    let reference = rocks_gets(rocks, keys, seconds);
    let ratio = |of: &Profile| of.rate() / reference.rate();
    table.add("reference: RocksDB, cached gets", "itself", &reference, 1.0, None);
    if choice.wants("get") {
        let own = own();
        let done = rate(1, seconds, move |draw| Rc::clone(&own).get(draw, keys)).await;
        table.add("snapshot gets, one client", "RocksDB's gets", &done, ratio(&done), None);
    }
    if choice.wants("batch") {
        let own = own();
        let done = rate(1, seconds, move |draw| Rc::clone(&own).batch_get(draw, keys)).await;
        let done = done.counted_as(BATCH as u64);
        let goal = Some((0.45, 0.25));
        table.add("batched gets, one client, keys", "RocksDB's gets", &done, ratio(&done), goal);
    }
    if choice.wants("scan") {
        let scan = |many| {
            let own = own();
            rate(1, seconds, move |draw| Rc::clone(&own).scan(many, draw, keys))
        };
        let (once, many) = (scan(false).await, scan(true).await);
        table.add("scans of 100 keys, one version", "itself", &once, 1.0, None);
        let name = "scans of 100 keys, ten versions: times the time";
        table.add(name, "one version", &many, once.rate() / many.rate(), Some((3.0, 3.0)));
    }
}

/// Whether the words on the command line, which choose among all benchmarks by name, leave this one out.
fn is_left_out() -> bool {
    let is_word = |argument: &String| !argument.starts_with("--") && !argument.contains('=');
    let mut words = std::env::args().skip(1).filter(is_word);
    words.any(|word| !"transactions through three replicas".contains(&word))
}

fn main() {
    if is_left_out() {
        return;
    }
    let choice = Choice::from_arguments();
    let home = tempfile::tempdir().expect("a directory");
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    let local = LocalSet::new();
    let oracle = Arc::new(Oracle::default());
    let rocks_home = home.path().join("rocks");
    {
        let world = World::start(home.path(), Arc::clone(&oracle));
        local.block_on(&runtime, world.load(choice.keys));
        stop(world);
        let rocks = plain_rocks(&rocks_home);
        for number in 0..choice.keys {
            rocks.put(read_key(false, number), value(number, VALUE_BYTES)).expect("a put");
        }
        rocks.flush().expect("it writes its file");
    }
    // Opened again, both have what is read in files and in the cache, not in the buffers of fresh writes.
    let world = World::start(home.path(), oracle);
    let rocks = plain_rocks(&rocks_home);
    let mut table = Table::default();
    local.block_on(&runtime, async {
        for _ in 0..choice.rounds {
            if ["get", "batch", "scan"].iter().any(|name| choice.wants(name)) {
                reads(&world, &choice, &rocks, &mut table).await;
            }
            if ["raw", "1pc", "2pc", "pessimistic"].iter().any(|name| choice.wants(name)) {
                for &clients in &choice.clients {
                    writes(&world, &choice, clients, &mut table).await;
                }
            }
        }
    });
    table.print();
    stop(world);
}

fn stop(world: Rc<World>) {
    let Some(World { cluster, apis, .. }) = Rc::into_inner(world) else {
        panic!("nobody works any more")
    };
    apis.iter().for_each(|apis| apis.raw.stop());
    drop(apis);
    cluster.stop();
}
