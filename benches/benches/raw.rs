//! Raw puts and gets through gRPC against the real binary, one client and 64, beside the least that the
//! same disk could do in the same run: one sync, and RocksDB as a library with synced puts by 64 threads.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use skerry_benches::{SyncProbe, VALUE_BYTES, in_parallel, key, plain_rocks, synced, value};
use skerry_raftstore::time::{Clock, SystemClock};
use skerry_tests::client::{ApiVersion, RawClient};
use skerry_tests::process::Ground;
use tokio::runtime::{Builder, Runtime};

/// Pairs that gets choose from.
const PAIRS: u64 = 10_000;
/// Requests of one connection that are under way at a time.
const TASKS_PER_CONNECTION: u64 = 16;

/// A playground and clients connected to it.
struct Playground {
    runtime: Runtime,
    clients: Vec<RawClient>,
    _process: skerry_tests::process::Process,
    _ground: Ground,
}

impl Playground {
    fn start(tasks: u64) -> Playground {
        let ground = Ground::new();
        let process = ground.playground().start();
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime starts");
        let address = process.addresses().scheduler;
        let clients = (0..tasks.div_ceil(TASKS_PER_CONNECTION)).map(|_| {
            runtime.block_on(RawClient::connect(address, ApiVersion::V1)).expect("it is ready")
        });
        let clients = clients.collect();
        Playground { runtime, clients, _process: process, _ground: ground }
    }

    /// `iterations` requests by `tasks` clients at once, each waiting for one answer at a time.
    fn run<F>(&self, tasks: u64, iterations: u64, request: fn(RawClient, u64) -> F) -> Duration
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let clock = SystemClock;
        let began = clock.monotonic();
        self.runtime.block_on(async {
            let running = (0..tasks).map(|task| {
                let client = self.clients[task as usize % self.clients.len()].clone();
                tokio::spawn(async move {
                    for number in (task..iterations).step_by(tasks as usize) {
                        request(client.clone(), number).await;
                    }
                })
            });
            for task in running.collect::<Vec<_>>() {
                task.await.expect("requests succeed");
            }
        });
        clock.monotonic() - began
    }
}

async fn put(client: RawClient, number: u64) {
    client.put(key(number % PAIRS), value(number, VALUE_BYTES)).await.expect("put");
}

async fn get(client: RawClient, number: u64) {
    let found = client.get(key(number % PAIRS)).await.expect("get");
    assert!(black_box(found).is_some(), "the pairs were put before");
}

fn raw_requests(criterion: &mut Criterion) {
    for tasks in [1, 64] {
        let playground = Playground::start(tasks);
        playground.run(64, PAIRS, put);
        let mut group = criterion.benchmark_group(format!("raw through gRPC, {tasks} clients"));
        group.throughput(Throughput::Elements(1));
        group.bench_function("put", |bencher| {
            bencher.iter_custom(|iterations| playground.run(tasks, iterations, put));
        });
        group.bench_function("get", |bencher| {
            bencher.iter_custom(|iterations| playground.run(tasks, iterations, get));
        });
        references(&mut group, tasks);
        group.finish();
    }
}

fn references(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    tasks: u64,
) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let rocks = plain_rocks(&directory.path().join("rocks"));
    group.bench_function("reference: plain RocksDB synced put", |bencher| {
        bencher.iter_custom(|iterations| {
            in_parallel(tasks, iterations, |_, number| {
                let value = value(number, VALUE_BYTES);
                rocks.put_opt(key(number % PAIRS), value, &synced()).expect("put");
            })
        });
    });
    let mut probe = SyncProbe::new(directory.path());
    group.bench_function("reference: fdatasync", |bencher| bencher.iter(|| probe.sync_once()));
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(3));
    targets = raw_requests
}
criterion_main!(benches);
