//! The store keeps its word: processes killed in the middle of acknowledged writes, machines without power,
//! full disks.
//!
//! What counts everywhere: a write that was answered is there after the restart. A write that was not
//! answered may be there or not, but never half of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use skerry_raftstore::time::splitmix64;
use skerry_tests::client::{ApiVersion, RawClient};
use skerry_tests::power_loss::{Chance, PowerCut, points};
use skerry_tests::process::{Ground, Launch, Process};
use skerry_tests::wait;
use tokio::task::JoinHandle;

/// How often the process is killed.
const KILLS: u64 = 50;
/// How often its power is cut, unless the environment says otherwise.
const POWER_CUTS: u64 = 50;
/// The same for three stores at once, which take longer to start.
const CLUSTER_POWER_CUTS: u64 = 10;
/// Operations on files within which a process dies by its own hand: some while it starts, some later.
const OPERATIONS_MAX: u64 = 1_500;
/// Clients that write at the same time.
const WRITERS: u64 = 4;
/// Keys that are read back at once.
const KEYS_OF_A_READ: usize = 4_096;
/// A start-up takes well under two seconds; this is what a starved machine may take.
const START_TIME_MAX: Duration = Duration::from_secs(10);

/// What the store has promised to its clients.
#[derive(Default)]
struct Ledger {
    /// Pairs whose write was acknowledged.
    pairs: BTreeMap<Bytes, Bytes>,
    /// By writer, the round and number that it last wrote to its own counter, and was answered.
    counters: BTreeMap<u64, (u64, u64)>,
}

impl Ledger {
    /// Reads back everything; the message names the first that is not what was promised.
    async fn assert_kept(&self, client: &RawClient, when: &str) {
        let mut found: BTreeMap<Bytes, Bytes> = BTreeMap::new();
        let keys: Vec<&Bytes> = self.pairs.keys().collect();
        // In bites: hundreds of rounds promise more than one answer should hold.
        for some in keys.chunks(KEYS_OF_A_READ) {
            found.extend(client.batch_get(some).await.expect("a ready store answers"));
        }
        for (key, value) in &self.pairs {
            assert_eq!(found.get(key), Some(value), "acknowledged and lost {when}: {key:?}");
        }
        for writer in 0..WRITERS {
            let promised = self.counters.get(&writer).copied();
            let counter = counter(client, writer).await;
            assert!(counter >= promised, "{when} counter {writer} is {counter:?} of {promised:?}");
            let Some((round, number)) = counter else { continue };
            let together = client.get(fresh_key(writer, round, number)).await;
            let together = together.expect("a ready store answers");
            assert!(together.is_some(), "half a batch was kept {when}: {writer} {counter:?}");
        }
    }

    fn extend(&mut self, other: Ledger) {
        self.pairs.extend(other.pairs);
        self.counters.extend(other.counters);
    }
}

/// Round and number in the counter of a writer.
async fn counter(client: &RawClient, writer: u64) -> Option<(u64, u64)> {
    let found = client.get(counter_key(writer)).await.expect("a ready store answers")?;
    let text = String::from_utf8(found.to_vec()).expect("counters are text");
    let (round, number) = text.split_once(' ').expect("a counter is two numbers");
    let number_of = |word: &str| word.parse().expect("a counter is two numbers");
    Some((number_of(round), number_of(number)))
}

fn fresh_key(writer: u64, round: u64, number: u64) -> Bytes {
    Bytes::from(format!("fresh/{writer}/{round:02}/{number:06}"))
}

fn counter_key(writer: u64) -> Bytes {
    Bytes::from(format!("counter/{writer}"))
}

async fn connect(process: &Process) -> RawClient {
    let scheduler = process.addresses().scheduler;
    RawClient::connect(scheduler, ApiVersion::V1).await.expect("a ready store is found")
}

/// Several clients that write without pause until the process is gone.
struct Load {
    answers: Arc<AtomicU64>,
    writers: Vec<JoinHandle<Ledger>>,
}

impl Load {
    fn start(client: &RawClient, round: u64) -> Load {
        let answers = Arc::new(AtomicU64::new(0));
        let writer = |writer| write(client.clone(), writer, round, Arc::clone(&answers));
        let writers = (0..WRITERS).map(writer).map(tokio::spawn).collect();
        Load { answers, writers }
    }

    /// Waits until so many writes were acknowledged or the process has died.
    fn wait_for(&self, process: &mut Process, answers: u64) {
        wait::until("the writers were answered often enough", || {
            let enough = self.answers.load(Ordering::SeqCst) >= answers;
            (enough || !process.is_running()).then_some(())
        });
    }

    /// What was acknowledged in all; the process must be gone.
    async fn collect(self, ledger: &mut Ledger) {
        for writer in self.writers {
            ledger.extend(writer.await.expect("a writer does not panic"));
        }
    }
}

/// Writes until the first failure; counts every acknowledgement in `answers`.
///
/// Every second write is a batch of a fresh key and the writer's counter, which must never be torn apart.
async fn write(client: RawClient, writer: u64, round: u64, answers: Arc<AtomicU64>) -> Ledger {
    let mut ledger = Ledger::default();
    for number in 1.. {
        let key = fresh_key(writer, round, number);
        let value = Bytes::from(format!("{number} of {round}").repeat(10));
        let counts = number % 2 == 0;
        let answer = if counts {
            let counter = (counter_key(writer), Bytes::from(format!("{round} {number}")));
            client.batch_put([(key.clone(), value.clone()), counter]).await
        } else {
            client.put(&key, value.clone()).await
        };
        if answer.is_err() {
            break;
        }
        ledger.pairs.insert(key, value);
        if counts {
            ledger.counters.insert(writer, (round, number));
        }
        answers.fetch_add(1, Ordering::SeqCst);
    }
    ledger
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_kills_lose_no_acknowledged_write() {
    let ground = Ground::new();
    let launch = ground.playground();
    let mut ledger = Ledger::default();
    let mut slowest = Duration::ZERO;
    for round in 0..KILLS {
        let mut process = launch.start();
        slowest = slowest.max(process.start_time());
        let client = connect(&process).await;
        ledger.assert_kept(&client, &format!("before round {round}")).await;
        let load = Load::start(&client, round);
        // Some rounds die among their first writes, others after a hundred.
        load.wait_for(&mut process, 1 + splitmix64(round) % 120);
        assert!(process.is_running(), "it died by itself: {}", process.stderr());
        process.kill();
        load.collect(&mut ledger).await;
    }
    let process = launch.start();
    ledger.assert_kept(&connect(&process).await, "at the end").await;
    process.stop().assert_clean();
    let writes = ledger.pairs.len() as u64;
    println!("{KILLS} kills, {writes} acknowledged writes kept, slowest start {slowest:?}");
    assert!(writes > KILLS * 20, "too few writes to mean anything");
    assert!(slowest < START_TIME_MAX, "a start took {slowest:?}");
}

/// Writes until the process dies by its own hand, or until it is killed after a few dozen writes.
async fn write_for_a_while(mut process: Process, round: u64, ledger: &mut Ledger) {
    let scheduler = process.addresses().scheduler;
    // It may already be dead: then there is nothing to write to.
    let Ok(client) = RawClient::connect(scheduler, ApiVersion::V1).await else { return };
    let load = Load::start(&client, round);
    load.wait_for(&mut process, 1 + splitmix64(round) % 120);
    process.kill();
    load.collect(ledger).await;
}

/// The same with every byte lost that was not synced. A process that dies by its own hand does so between
/// two operations on its files, many times while it starts: recovery must survive its own interruption.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_power_cuts_lose_no_acknowledged_write() {
    let ground = Ground::new();
    let launch = ground.playground();
    cut_power(&ground, &launch, points(POWER_CUTS)).await;
}

/// All three stores lose power at once, in the middle of whatever their raft logs and their data are at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_cuts_of_all_stores_lose_no_acknowledged_write() {
    let ground = Ground::new();
    let launch = ground.replicated_playground();
    cut_power(&ground, &launch, points(CLUSTER_POWER_CUTS)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_do_they_with_the_raft_log_in_rocksdb() {
    let ground = Ground::new();
    let rocks = ground.file("rocks.toml", "[raft-engine]\nenable = false\n");
    let launch = ground.replicated_playground().with("--config", rocks);
    cut_power(&ground, &launch, points(CLUSTER_POWER_CUTS)).await;
}

/// Starts it and takes its power, so many times.
async fn cut_power(ground: &Ground, launch: &Launch, cuts: u64) {
    let data = ground.path("data");
    std::fs::create_dir(&data).expect("a directory below the temporary one can be made");
    let mut ledger = Ledger::default();
    let mut chance = Chance::of(2026);
    for round in 0..cuts {
        let Some(cut) = PowerCut::over(&data) else { return };
        let dies_itself = chance.below(3) == 0;
        let operation = if dies_itself { chance.below(OPERATIONS_MAX) } else { u64::MAX >> 1 };
        let recorded = launch.clone().environment(cut.dying_at(operation));
        match recorded.try_start() {
            Ok(process) if dies_itself => write_for_a_while(process, round, &mut ledger).await,
            Ok(process) => {
                ledger.assert_kept(&connect(&process).await, &format!("before cut {round}")).await;
                write_for_a_while(process, round, &mut ledger).await;
            }
            Err(ended) => assert!(dies_itself && ended.was_killed(), "{ended:#?}"),
        }
        println!("{round}: {}", cut.cut(chance.below(u64::MAX)));
    }
    let process = launch.start();
    ledger.assert_kept(&connect(&process).await, "at the end").await;
    process.stop().assert_clean();
    let writes = ledger.pairs.len() as u64;
    println!("{cuts} power cuts, {writes} acknowledged writes kept");
    assert!(writes > cuts * 10, "too few writes to mean anything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_under_load_answers_everyone_and_keeps_what_was_acknowledged() {
    let ground = Ground::new();
    let launch = ground.playground();
    let mut process = launch.start();
    let mut ledger = Ledger::default();
    let load = Load::start(&connect(&process).await, 0);
    load.wait_for(&mut process, 100);
    process.stop().assert_clean();
    load.collect(&mut ledger).await;

    let process = launch.start();
    ledger.assert_kept(&connect(&process).await, "by a graceful stop").await;
    process.stop().assert_clean();
}

/// A file system of a few megabytes in memory, unmounted when dropped.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts it; `None` where that is not allowed.
    fn mount(path: PathBuf, size: &str) -> Option<SmallDisk> {
        std::fs::create_dir(&path).expect("a directory below the temporary one can be made");
        let options = format!("size={size}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "skerry-test"])
            .arg(&path)
            .output();
        let mounted = mounted.is_ok_and(|output| output.status.success());
        mounted.then_some(SmallDisk { path })
    }

    /// Gives it another size, with what is on it.
    fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        let status = Command::new("mount").args(["-o", &options]).arg(&self.path).status();
        assert!(status.is_ok_and(|status| status.success()), "a mounted disk can be resized");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that a failing test left behind may still hold a file.
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}

/// Bytes that no compression makes smaller.
fn noise(seed: u64, length: usize) -> Bytes {
    let words = (0..).map(|index| splitmix64(splitmix64(seed) ^ index));
    words.flat_map(u64::to_le_bytes).take(length).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_ends_the_process_with_one_sentence_and_harms_nothing() {
    let ground = Ground::new();
    let Some(disk) = SmallDisk::mount(ground.path("disk"), "24m") else {
        skerry_tests::not_tested("full disk", "mounting a small file system needs root");
        return;
    };
    let launch = ground.playground().with("--data-dir", disk.path.join("data"));
    let process = launch.start();
    let client = connect(&process).await;
    let mut promised = BTreeMap::new();
    for number in 1_u64.. {
        let (key, value) = (fresh_key(0, 0, number), noise(number, 16 << 10));
        if client.put(&key, value.clone()).await.is_err() {
            break;
        }
        promised.insert(key, value);
        assert!(promised.len() < 4096, "64 MB were written to a disk of 24 MB");
    }
    process.end().assert_failed(&["full"]);
    assert!(promised.len() > 100, "the disk was full after {} writes", promised.len());

    disk.resize("256m");
    let process = launch.start();
    let client = connect(&process).await;
    // In bites: all values together are more than one answer should hold.
    let keys: Vec<&Bytes> = promised.keys().collect();
    for some in keys.chunks(64) {
        let found = client.batch_get(some).await.expect("a ready store answers");
        assert_eq!(found.len(), some.len(), "acknowledged and lost on a full disk");
        assert!(found.iter().all(|(key, value)| promised[key] == *value), "a value has changed");
    }
    client.put("after", "room again").await.expect("there is room again");
    process.stop().assert_clean();
}
