//! What many regions on one store cost: the time from opening the store until every region has a leader, and what
//! they take while nobody asks for anything.
//!
//! For each number of regions the store is made, stopped and started again; the second start is what counts. Idle
//! figures are differences to a store of one region in the same run.
//!
//! `make bench-regions ARGS="regions=1000,10000 seconds=10"` chooses.

use std::time::Duration;

use skerry_kv::metrics::{cpu_seconds, resident_bytes};
use skerry_raftstore::config::RaftConfig;
use skerry_raftstore::time::{Clock, SystemClock};
use skerry_tests::local_cluster::{Layout, LocalCluster};
use skerry_tests::wait::{let_pass, until};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a store of so many regions costs.
struct Cost {
    start: Duration,
    /// Of one core.
    idle_cpu: f64,
    resident: u64,
}

fn measure(regions: u64, seconds: u64) -> Cost {
    let home = tempfile::tempdir().expect("a directory");
    let config = RaftConfig::default();
    let layout = Layout { stores: 1, regions, raft_engine: true, config };
    let cluster = LocalCluster::start(home.path(), &layout);
    wait_for_leaders(&cluster);
    cluster.stop();
    let clock = SystemClock;
    let began = clock.monotonic();
    let cluster = LocalCluster::start(home.path(), &layout);
    wait_for_leaders(&cluster);
    let start = clock.monotonic() - began;
    let_pass(Duration::from_secs(2));
    let before = cpu_seconds(None);
    let_pass(Duration::from_secs(seconds));
    let idle_cpu = (cpu_seconds(None) - before) / seconds as f64;
    let resident = resident_bytes().unwrap_or(0);
    cluster.stop();
    Cost { start, idle_cpu, resident }
}

fn wait_for_leaders(cluster: &LocalCluster) {
    let all = cluster.regions().len();
    until("every region has a leader", || (cluster.led() == all).then_some(()));
}

/// Numbers after `name=` on the command line.
fn numbers(name: &str) -> Option<Vec<u64>> {
    let argument = std::env::args().find_map(|it| Some(it.strip_prefix(name)?.to_string()))?;
    Some(argument.split(',').map(|part| part.parse().expect("a number")).collect())
}

fn main() {
    let is_word = |argument: &String| !argument.starts_with("--") && !argument.contains('=');
    if std::env::args().skip(1).filter(is_word).any(|word| !"regions".contains(&word)) {
        return;
    }
    let is_quick = std::env::args().any(|argument| argument == "--quick" || argument == "--test");
    let usual = if is_quick { vec![100] } else { vec![1_000, 10_000] };
    let seconds = numbers("seconds=").map_or(10, |numbers| numbers[0]);
    let alone = measure(1, seconds);
    println!("| regions | start | idle, of one core | idle CPU a region, us/s | memory a region |");
    println!("| --- | --- | --- | --- | --- |");
    for regions in numbers("regions=").unwrap_or(usual) {
        let cost = measure(regions, seconds);
        let cpu = (cost.idle_cpu - alone.idle_cpu) / regions as f64 * 1e6;
        let memory = cost.resident.saturating_sub(alone.resident) / regions;
        println!(
            "| {regions} | {:.2} s | {:.1}% | {cpu:.1} | {:.1} KiB |",
            cost.start.as_secs_f64(),
            cost.idle_cpu * 100.0,
            memory as f64 / 1024.0,
        );
    }
}
