//! Puts through three replicas in one process: closed-loop clients against real engines and real threads, beside
//! what the same disk does in the same run without us.
//!
//! For each combination of raft log, regions, clients and value size: puts per second, median and 99th percentile of
//! the time of a put, syncs of one store's raft log per second, processor time of all stores and clients for a put,
//! and bytes that went to one replica's raft log for each byte of keys and values. Before and after each: one
//! fdatasync, and RocksDB's synced puts by 64 threads. A row is told with both; where they differ by over a quarter,
//! it says so.
//!
//! A second table has the profile of each row ([`skerry_benches::profile`]), and the part of the time that one store's
//! log writer spends in syncs if each takes as long as the reference. Where neither the processors nor the syncs are
//! busy, threads wait for each other.
//!
//! `make bench-store ARGS="regions=1,64 clients=64 values=100 seconds=3 stores=3 logs=raft-engine"` chooses.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use skerry_benches::profile::{Profile, Watch};
use skerry_benches::{SyncProbe, in_parallel, key, plain_rocks, put_into, synced, value};
use skerry_proto::metapb::Region;
use skerry_raftstore::config::RaftConfig;
use skerry_raftstore::reply::Outcome;
use skerry_raftstore::time::{Clock, SystemClock, splitmix64};
use skerry_tests::local_cluster::{Layout, LocalCluster};
use skerry_tests::wait::until;

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How far two references of one row may lie apart.
const REFERENCE_TOLERANCE: f64 = 0.25;

/// What is measured.
#[derive(Clone)]
struct Choice {
    logs: Vec<String>,
    stores: u64,
    regions: Vec<u64>,
    clients: Vec<u64>,
    values: Vec<usize>,
    seconds: u64,
}

impl Choice {
    fn from_arguments() -> Choice {
        let mut choice = Choice {
            logs: vec!["raft-engine".to_string(), "rocksdb".to_string()],
            stores: 3,
            regions: vec![1, 64],
            clients: vec![1, 64, 256],
            values: vec![100, 1024],
            seconds: 3,
        };
        for argument in std::env::args() {
            let Some((name, list)) = argument.split_once('=') else { continue };
            let numbers = || list.split(',').map(|part| part.parse().expect("a number"));
            match name {
                "logs" => choice.logs = list.split(',').map(str::to_string).collect(),
                "stores" => choice.stores = numbers().next().expect("a number"),
                "regions" => choice.regions = numbers().collect(),
                "clients" => choice.clients = numbers().collect(),
                "values" => choice.values = numbers().map(|size| size as usize).collect(),
                "seconds" => choice.seconds = numbers().next().expect("a number"),
                other => panic!("{other} is not known; see the head of benches/benches/store.rs"),
            }
        }
        choice
    }
}

/// What the machine does without us.
struct Reference {
    sync_us: f64,
    rocks_puts: f64,
}

fn reference() -> Reference {
    let home = tempfile::tempdir().expect("a directory");
    let clock = SystemClock;
    let mut probe = SyncProbe::new(home.path());
    let began = clock.monotonic();
    (0..200).for_each(|_| probe.sync_once());
    let sync_us = (clock.monotonic() - began).as_secs_f64() * 1e6 / 200.0;
    let rocks = plain_rocks(&home.path().join("rocks"));
    let (puts, options) = (20_000, synced());
    let took = in_parallel(64, puts, |_, number| {
        rocks.put_opt(key(number), value(number, 100), &options).expect("a put");
    });
    Reference { sync_us, rocks_puts: puts as f64 / took.as_secs_f64() }
}

/// One client's put that has ended.
struct Ended {
    client: usize,
    done: bool,
}

/// Clients that put one pair after the other.
struct Clients<'a> {
    cluster: &'a LocalCluster,
    regions: &'a [Region],
    value_bytes: usize,
    ended: SyncSender<Ended>,
    next: u64,
}

impl Clients<'_> {
    fn put(&mut self, client: usize) {
        self.next += 1;
        let number = splitmix64(self.next);
        let region = &self.regions[(number % self.regions.len() as u64) as usize];
        let ended = self.ended.clone();
        let reply = self.cluster.replies().reply(move |outcome| {
            let done = matches!(outcome, Outcome::Done(_));
            // After the measurement nobody listens.
            let _ = ended.send(Ended { client, done });
        });
        let leader = self.cluster.leader(region.id).unwrap_or(1);
        let put = put_into(region, self.next, self.value_bytes, reply);
        self.cluster.store(leader).command(put);
    }
}

/// What a row shows.
struct Row {
    median_ms: f64,
    slow_ms: f64,
    syncs: f64,
    amplification: f64,
    profile: Profile,
}

fn measure(layout: &Layout, clients: u64, value_bytes: usize, seconds: u64) -> Row {
    let home = tempfile::tempdir().expect("a directory");
    let cluster = LocalCluster::start(home.path(), layout);
    wait_for_leaders(&cluster);
    let (ended, answers) = sync_channel(2 * clients as usize);
    let regions = cluster.regions().to_vec();
    let mut all = Clients { cluster: &cluster, regions: &regions, value_bytes, ended, next: 0 };
    drive(&mut all, &answers, clients, Duration::from_secs(1));
    let counters = cluster.store(1).counters();
    let count = || {
        let (bytes, syncs) = (&counters.log_bytes, &counters.log_syncs);
        (bytes.load(Ordering::Relaxed), syncs.load(Ordering::Relaxed))
    };
    let (bytes_before, syncs_before) = count();
    let watch = Watch::start();
    let mut times = drive(&mut all, &answers, clients, Duration::from_secs(seconds));
    let profile = watch.profile(times.len() as u64);
    let took = times.len() as f64 / profile.rate();
    let (bytes, syncs) = count();
    drop(all);
    cluster.stop();
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    let user_bytes = times.len() * (10 + value_bytes);
    Row {
        median_ms: at(0.5),
        slow_ms: at(0.99),
        syncs: (syncs - syncs_before) as f64 / took,
        amplification: (bytes - bytes_before) as f64 / user_bytes as f64,
        profile,
    }
}

/// Lets every client put for a while; answers how long each put took.
fn drive(
    all: &mut Clients<'_>,
    answers: &Receiver<Ended>,
    clients: u64,
    time: Duration,
) -> Vec<Duration> {
    let clock = SystemClock;
    let end = clock.monotonic() + time;
    let mut began = Vec::new();
    for client in 0..clients as usize {
        began.push(clock.monotonic());
        all.put(client);
    }
    let (mut times, mut running) = (Vec::new(), clients);
    while running > 0 {
        let Ended { client, done } = answers.recv().expect("every put is answered");
        let now = clock.monotonic();
        if done {
            times.push(now - began[client]);
        }
        match now < end {
            true => {
                began[client] = now;
                all.put(client);
            }
            false => running -= 1,
        }
    }
    times
}

fn wait_for_leaders(cluster: &LocalCluster) {
    until("every region has a leader", || {
        let led = |region: &Region| cluster.leader(region.id).is_some();
        cluster.regions().iter().all(led).then_some(())
    });
}

/// Whether the words on the command line, which choose among all benchmarks by name, leave this one out.
fn is_left_out() -> bool {
    let is_word = |argument: &String| !argument.starts_with("--") && !argument.contains('=');
    let mut words = std::env::args().skip(1).filter(is_word);
    words.any(|word| !"puts through three replicas".contains(&word))
}

fn main() {
    if is_left_out() {
        return;
    }
    let choice = Choice::from_arguments();
    println!(
        "| raft log | stores | regions | clients | value | puts/s | of RocksDB | p50 ms | p99 ms | syncs/s | CPU us a put | log bytes per byte | fdatasync us | RocksDB puts/s |"
    );
    println!("|{}", " --- |".repeat(14));
    let mut profiles = Vec::new();
    let mut before = reference();
    for log in &choice.logs {
        for &regions in &choice.regions {
            for &value_bytes in &choice.values {
                for &clients in &choice.clients {
                    let layout = Layout {
                        stores: choice.stores,
                        regions,
                        raft_engine: log == "raft-engine",
                        config: RaftConfig::default(),
                    };
                    let row = measure(&layout, clients, value_bytes, choice.seconds);
                    let after = reference();
                    let rocks = (before.rocks_puts + after.rocks_puts) / 2.0;
                    let sync_us = (before.sync_us + after.sync_us) / 2.0;
                    let apart = (before.rocks_puts - after.rocks_puts).abs() / rocks;
                    let noise = if apart > REFERENCE_TOLERANCE { " (noisy)" } else { "" };
                    println!(
                        "| {log} | {} | {regions} | {clients} | {value_bytes} | {:.0} | {:.2}{noise} | {:.2} | {:.2} | {:.0} | {:.1} | {:.2} | {:.0} | {rocks:.0} |",
                        choice.stores,
                        row.profile.rate(),
                        row.profile.rate() / rocks,
                        row.median_ms,
                        row.slow_ms,
                        row.syncs,
                        row.profile.cpu_us(),
                        row.amplification,
                        sync_us,
                    );
                    profiles.push(format!(
                        "| {log} | {} | {regions} | {clients} | {value_bytes} | {} | {:.0}% |",
                        choice.stores,
                        row.profile.cells(),
                        row.syncs * sync_us / 1e4,
                    ));
                    before = after;
                }
            }
        }
    }
    println!();
    println!("| raft log | stores | regions | clients | value | {} | in syncs |", Profile::heads());
    println!("|{}", " --- |".repeat(14));
    profiles.iter().for_each(|profile| println!("{profile}"));
}
