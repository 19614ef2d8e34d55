//! The scheduler places replicas of a real cluster, four stores and itself, each a process, while clients write from
//! start to end: a store is killed, comes back, loses its disk; a store that is new is filled; one is emptied; the
//! scheduler itself is killed again and again.
//!
//! `make test` runs small clusters, `make placement` large ones: `PLACEMENT=full` sets the sizes. What is measured is
//! printed in lines that begin with `placement:`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use serde_json::Value;
use skerry_proto::pdpb::{RequestHeader, TsoRequest};
use skerry_proto::raft_serverpb::{PeerState, RegionLocalState};
use skerry_proto::types::Ts;
use skerry_raftstore::config::RocksConfig;
use skerry_raftstore::engine::rocks::RocksEngine;
use skerry_raftstore::engine::{ColumnFamily, Engine, KeyRange};
use skerry_raftstore::keys;
use skerry_raftstore::time::splitmix64;
use skerry_tests::chaos::{
    Cluster, Habit, Outcome, PatientClient, Placement, Writers, ctl, cut, get, value_of,
};
use skerry_tests::wait::{Stopwatch, let_pass_async, until_async};
use skerry_tests::{client, text_from_environment};

/// Stores of every cluster here; regions have a replica on three of them.
const STORES: usize = 4;
const REPLICAS: usize = 3;
/// Nothing is under way for so long, and then it counts as quiet.
const QUIET: Duration = Duration::from_secs(2);
/// Replicas must be made anew, and a new store filled, in this time.
const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at all regions: a list of a thousand costs something, and the machine has other things to do.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Changes of a region's epoch by one move: a learner comes, two change places, the change ends for both, one goes.
const CHANGES_PER_MOVE: u64 = 6;

/// Writers that leave the machine some air.
const STEADY: Habit =
    Habit { clients: 8, keys: 200, value_size: 256, pause: Duration::from_millis(5) };

/// How large it all is.
#[derive(Clone, Copy)]
struct Size {
    /// Of the clusters whose stores die or leave.
    regions: usize,
    /// Of the cluster that is made even, each with so many bytes.
    regions_to_spread: usize,
    region_bytes: usize,
    /// Silence after which a store is given up.
    down_ms: u64,
    /// How long rates are measured, and how long nothing must move at the end.
    measured: Duration,
    rest: Duration,
    scheduler_kills: usize,
    is_full: bool,
}

impl Size {
    fn wanted() -> Size {
        let is_full = text_from_environment("PLACEMENT").is_some_and(|text| text == "full");
        match is_full {
            true => Size {
                regions: 200,
                regions_to_spread: 1_000,
                region_bytes: 64 << 10,
                down_ms: 10_000,
                measured: Duration::from_secs(15),
                rest: Duration::from_secs(300),
                scheduler_kills: 50,
                is_full,
            },
            false => Size {
                regions: 40,
                regions_to_spread: 60,
                region_bytes: 8 << 10,
                down_ms: 3_000,
                measured: Duration::from_secs(1),
                rest: Duration::from_secs(3),
                scheduler_kills: 10,
                is_full,
            },
        }
    }

    fn configuration(self) -> String {
        let (disconnected, down) = (self.down_ms / 2, self.down_ms);
        format!(
            "[server]\nstore-heartbeat-interval-ms = 300\nregion-heartbeat-interval-ms = 2000\n\
             [scheduler]\nstore-disconnected-ms = {disconnected}\nstore-down-ms = {down}\n"
        )
    }
}

/// Four stores with so many regions, evenly spread.
async fn spread_cluster(size: Size, regions: usize) -> Cluster {
    let cluster = Cluster::start_configured(STORES, &size.configuration()).await;
    cut(cluster.scheduler(), regions);
    let stores = all_up(&cluster);
    until_quiet(&cluster, |placement| {
        let (most, fewest) = placement.extremes(&stores);
        placement.is_whole(REPLICAS) && most - fewest <= regions / 10 + 3
    })
    .await;
    cluster
}

/// The stores that speak.
fn all_up(cluster: &Cluster) -> Vec<u64> {
    let listed = get(cluster.scheduler(), "/stores");
    let stores = listed["stores"].as_array().into_iter().flatten();
    let up = stores.filter(|store| store["store"]["state_name"] == "Up");
    up.filter_map(|store| store["store"]["id"].as_u64()).collect()
}

fn state_of(cluster: &Cluster, store: u64) -> String {
    let found = get(cluster.scheduler(), &format!("/store/{store}"));
    found["store"]["state_name"].as_str().unwrap_or_default().to_string()
}

/// Where replicas stand a moment later.
async fn next_look(cluster: &Cluster) -> Placement {
    let_pass_async(LOOK_INTERVAL).await;
    Placement::of(cluster.scheduler())
}

/// Waits until `holds` and the scheduler has had nothing to do for a while.
async fn until_quiet(cluster: &Cluster, holds: impl Fn(&Placement) -> bool) -> Placement {
    let mut since = Stopwatch::start();
    loop {
        let placement = until_async("it holds", async || {
            let placement = next_look(cluster).await;
            holds(&placement).then_some(placement)
        })
        .await;
        if get(cluster.scheduler(), "/operators") != Value::Array(Vec::new()) {
            since = Stopwatch::start();
        }
        if since.elapsed() >= QUIET {
            return placement;
        }
    }
}

/// Says what was measured, for the results.
fn tell(sentence: &str) {
    println!("placement: {sentence}");
}

fn assert_nothing_lost(what: &str, outcome: &Outcome) {
    tell(&format!(
        "{what}: {} writes acknowledged, {} attempts repeated, failed: {}; {} keys read back, lost: {}; the longest \
         write took {:?}",
        outcome.acknowledged,
        outcome.repeated,
        outcome.failures.values().sum::<u64>(),
        outcome.keys,
        outcome.lost.len(),
        outcome.longest
    ));
    assert!(outcome.lost.is_empty(), "acknowledged and lost: {:?}", outcome.lost);
    assert!(outcome.failures.is_empty(), "an application saw: {:?}", outcome.failures);
}

// ---- A store dies -----------------------------------------------------------------------------------

/// Waits until all replicas stand on other stores than `dead`; answers how long it took.
async fn until_healed(cluster: &Cluster, dead: u64) -> Duration {
    let watch = Stopwatch::start();
    until_async("every region has its replicas on stores that live", async || {
        let placement = next_look(cluster).await;
        let is_gone = !placement.held().contains_key(&dead);
        (is_gone && placement.is_whole(REPLICAS)).then_some(())
    })
    .await;
    watch.elapsed()
}

/// The replicas that a store has, by its own word: region and peer.
fn replicas_by_itself(cluster: &Cluster, number: usize) -> BTreeSet<(u64, u64)> {
    let (status, body) = client::http(cluster.launch(number).addresses().status, "GET", "/status");
    assert_eq!(status, 200, "{body}");
    let status: Value = serde_json::from_str(&body).expect("JSON");
    let regions = status["regions"].as_array().into_iter().flatten();
    regions.filter_map(|it| Some((it["id"].as_u64()?, it["peer"].as_u64()?))).collect()
}

/// Waits until a store has no replica but those that the scheduler knows of.
async fn until_cleaned(cluster: &Cluster, number: usize) {
    until_async("the store has nothing that it should not have", async || {
        let own = replicas_by_itself(cluster, number);
        let placement = next_look(cluster).await;
        let known = |(region, peer): &(u64, u64)| {
            placement.regions.iter().any(|it| it.id == *region && it.peers.contains_key(peer))
        };
        own.iter().all(known).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_of_a_dead_store_are_made_anew() {
    let size = Size::wanted();
    let mut cluster = spread_cluster(size, size.regions).await;
    let writers = Writers::start(cluster.scheduler(), STEADY, 1);
    let victim = 1;
    let id = cluster.store_id(victim).await.expect("it has joined");
    let held = Placement::of(cluster.scheduler()).held()[&id];

    cluster.kill(victim);
    let healed = until_healed(&cluster, id).await;
    tell(&format!(
        "killed a store with {held} of {} regions: all have three replicas on stores that live after {healed:?} \
         (a store counts as down after {} ms)",
        size.regions, size.down_ms
    ));
    assert!(healed < LIMIT, "{healed:?}");

    // It comes back with replicas that are not wanted any more.
    let stale = Stopwatch::start();
    cluster.revive(victim);
    until_async("it is up", async || (state_of(&cluster, id) == "Up").then_some(())).await;
    until_cleaned(&cluster, victim).await;
    tell(&format!(
        "the killed store came back and had nothing left over after {:?}",
        stale.elapsed()
    ));
    assert_eq!(cluster.store_id(victim).await, Some(id), "it is the same store");
    until_quiet(&cluster, |placement| placement.is_whole(REPLICAS)).await;

    // The same, and this time its disk is gone.
    let wiped = Stopwatch::start();
    cluster.kill(victim);
    std::fs::remove_dir_all(cluster.directory(victim)).expect("it is not running");
    let refused = cluster.try_revive(victim).expect("the old store is still waited for");
    refused.assert_refused(&["refuses this store", "address"]);
    tell(&format!("a new store at its address was answered: {}", refused.complaints()[0]));
    until_healed(&cluster, id).await;
    until_async("a new store takes its place", async || {
        cluster.try_revive(victim).is_none().then_some(())
    })
    .await;
    tell(&format!("with an empty disk it joined anew {:?} after it was killed", wiped.elapsed()));
    let new = cluster.store_id(victim).await.expect("it has joined");
    assert_ne!(new, id, "a store without its disk is another store");
    assert_eq!(state_of(&cluster, id), "Tombstone");
    until_quiet(&cluster, |placement| placement.is_whole(REPLICAS)).await;
    cluster.assert_alive();
    assert_nothing_lost("a store killed twice", &writers.stop().await);
    cluster.stop();
}

// ---- A store is empty -------------------------------------------------------------------------------

/// Puts so many bytes into each of so many equal parts of the keys.
async fn fill(cluster: &Cluster, parts: usize, bytes: usize) {
    const PAIR: usize = 8 << 10;
    const CLIENTS: usize = 8;
    let scheduler = cluster.scheduler();
    let fill = move |client: usize| async move {
        let mut writer = PatientClient::new(scheduler);
        for part in (client..parts).step_by(CLIENTS) {
            for pair in 0..bytes.div_ceil(PAIR) {
                let key = Bytes::from(format!("{:08x}{pair:04x}", ((part << 32) / parts) + 1));
                let value = value_of((part << 16 | pair) as u64, PAIR);
                writer.put(&key, &value).await.expect("a calm cluster takes it");
            }
        }
    };
    let clients: Vec<_> = (0..CLIENTS).map(|client| tokio::spawn(fill(client))).collect();
    for client in clients {
        client.await.expect("a client does not panic");
    }
}

/// The fewest moves after which no store has more than its share.
fn moves_needed(placement: &Placement, stores: &[u64]) -> usize {
    let held = placement.held();
    let share = held.values().sum::<usize>().div_ceil(stores.len());
    held.values().map(|count| count.saturating_sub(share)).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_store_is_filled_with_few_moves_and_then_nothing_moves() {
    let size = Size::wanted();
    let cluster = Cluster::start_configured(STORES, &size.configuration()).await;
    let scheduler = cluster.scheduler();
    // Three stores have everything; the fourth has nothing until the balancers may begin.
    ctl(scheduler, "scheduler pause all 3600").assert_clean();
    cut(scheduler, size.regions_to_spread);
    fill(&cluster, size.regions_to_spread, size.region_bytes).await;
    let stores = all_up(&cluster);
    assert_eq!(stores.len(), STORES);
    until_quiet(&cluster, |placement| placement.is_whole(REPLICAS)).await;
    let busy = Habit { pause: Duration::ZERO, ..STEADY };
    let writers = Writers::start(scheduler, busy, 2);
    let_pass_async(size.measured / 3).await;
    let rate_before = writers.rate_over(size.measured).await;
    let before = Placement::of(scheduler);
    let least = moves_needed(&before, &stores);

    let (watch, written) = (Stopwatch::start(), writers.acknowledged());
    ctl(scheduler, "scheduler pause all 0").assert_clean();
    until_async("stores are even within a tenth", async || {
        let (most, fewest) = next_look(&cluster).await.extremes(&stores);
        ((most - fewest) * 10 <= (most + fewest) / 2).then_some(())
    })
    .await;
    let even_after = watch.elapsed();
    let rate = (writers.acknowledged() - written) as f64 / even_after.as_secs_f64();
    let settled = until_quiet(&cluster, |placement| placement.is_whole(REPLICAS)).await;
    let moves = (settled.changes() - before.changes()) / CHANGES_PER_MOVE;
    tell(&format!(
        "{} regions of {} KiB on three stores, a fourth empty: even within a tenth after {even_after:?}, {moves} moves \
         (the fewest possible: {least}); held at the end: {:?}",
        before.regions.len(),
        size.region_bytes >> 10,
        settled.held().values().collect::<Vec<_>>()
    ));
    tell(&format!(
        "meanwhile {rate:.0} writes a second, before {rate_before:.0}: {:.0}%",
        100.0 * rate / rate_before
    ));
    assert!(even_after < LIMIT, "{even_after:?}");
    assert!(moves * 10 <= least as u64 * 12, "{moves} moves where {least} do");
    // On a machine that runs other tests a rate means nothing.
    assert!(!size.is_full || rate >= 0.7 * rate_before, "{rate:.0} of {rate_before:.0}");

    let_pass_async(size.rest).await;
    let rested = Placement::of(scheduler);
    assert_eq!(rested.changes(), settled.changes(), "something moved without need");
    tell(&format!("then no replica moved for {:?}, under load", size.rest));
    assert_nothing_lost("a store filled", &writers.stop().await);
    cluster.stop();
}

// ---- A store leaves ---------------------------------------------------------------------------------

/// What lies in a store's directory: the regions that are no tombstones, and whether there is any pair.
fn found_on_disk(cluster: &Cluster, number: usize) -> (Vec<u64>, bool) {
    let path = cluster.directory(number).join("data");
    let engine = RocksEngine::open(&path, &RocksConfig::small(), None).expect("it was stopped");
    let view = engine.view();
    let (start, end) = keys::region_states();
    let mut cursor = view.cursor(ColumnFamily::Raft, &KeyRange { start, end }).expect("readable");
    let (mut alive, mut stands) = (Vec::new(), cursor.seek_to_first().expect("readable"));
    while stands {
        let state = RegionLocalState::decode(cursor.value()).expect("a region's state");
        if state.state() != PeerState::Tombstone {
            alive.push(state.region.unwrap_or_default().id);
        }
        stands = cursor.next().expect("readable");
    }
    let mut pairs = view.cursor(ColumnFamily::Raw, &KeyRange::default()).expect("readable");
    (alive, pairs.seek_to_first().expect("readable"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_to_leave_gets_empty() {
    let size = Size::wanted();
    // So that each of four stores has so many.
    let mut cluster = spread_cluster(size, size.regions * STORES / REPLICAS).await;
    let scheduler = cluster.scheduler();
    let writers = Writers::start(scheduler, STEADY, 3);
    let leaving = 2;
    let id = cluster.store_id(leaving).await.expect("it has joined");
    let held = Placement::of(scheduler).held()[&id];
    let watch = Stopwatch::start();
    let shown = tokio::task::spawn_blocking(move || ctl(scheduler, &format!("store offline {id}")));
    let shown = shown.await.expect("it ends");
    shown.assert_clean();
    let took = watch.elapsed();
    let lines: Vec<&str> = shown.stdout.lines().collect();
    let progress = lines.iter().filter(|line| line.contains(" regions left")).count();
    tell(&format!(
        "a store of {held} regions was emptied in {took:?}; its progress was shown in {progress} lines, the first: {}",
        lines.first().unwrap_or(&"none")
    ));
    assert!(progress >= 1, "{shown:?}");
    assert!(lines.last().is_some_and(|line| line.contains("is empty")), "{shown:?}");
    assert_eq!(state_of(&cluster, id), "Tombstone");
    assert_eq!(replicas_by_itself(&cluster, leaving), BTreeSet::new());
    until_quiet(&cluster, |placement| placement.is_whole(REPLICAS)).await;
    assert_nothing_lost("a store emptied", &writers.stop().await);
    cluster.stop_store(leaving);
    assert_eq!(found_on_disk(&cluster, leaving), (Vec::new(), false));
    tell("its data directory holds no region and no pair");
    cluster.stop();
}

// ---- The scheduler dies -----------------------------------------------------------------------------

/// Takes timestamps as fast as they come until told to stop. Answers how many there were, and the highest.
async fn take_timestamps(address: SocketAddr, is_over: Arc<AtomicBool>) -> (u64, Ts) {
    const BATCH: u32 = 100;
    let mut scheduler = client::scheduler(address);
    let cluster_id = client::cluster_id(&mut scheduler).await.expect("it runs");
    let header = Some(RequestHeader { cluster_id, ..RequestHeader::default() });
    let (mut count, mut highest) = (0, Ts::compose(0, 0));
    while !is_over.load(Ordering::Relaxed) {
        let request = TsoRequest { header: header.clone(), count: BATCH };
        let asked = async {
            let mut stream = scheduler.tso(tokio_stream::once(request)).await.ok()?.into_inner();
            stream.message().await.ok()?
        };
        let answer = tokio::time::timeout(Duration::from_secs(1), asked).await;
        let Ok(Some(answer)) = answer else {
            let_pass_async(Duration::from_millis(5)).await;
            continue;
        };
        let told = answer.timestamp.expect("an answer has a timestamp");
        let part = |part: i64| u64::try_from(part).expect("timestamps are positive");
        // The last of the batch.
        let last = Ts::compose(part(told.physical), part(told.logical));
        let first = Ts::compose(part(told.physical), part(told.logical) + 1 - u64::from(BATCH));
        assert!(first > highest, "{first:?} was given after {highest:?}");
        highest = last;
        count += u64::from(BATCH);
    }
    (count, highest)
}

/// No region may have fewer voters than it should, in either of the configurations between which it stands.
fn assert_no_voter_missing(placement: &Placement) {
    for region in &placement.regions {
        let (now, then) = region.voters;
        assert!(now >= REPLICAS && then >= REPLICAS, "a replica was lost: {region:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduler_that_is_killed_while_it_moves_things_harms_nothing() {
    let size = Size::wanted();
    let mut cluster = spread_cluster(size, size.regions).await;
    let scheduler = cluster.scheduler();
    // There is always something to move.
    for words in [
        "config set region-schedule-limit 8",
        "scheduler add shuffle-region",
        "scheduler add shuffle-leader",
    ] {
        ctl(scheduler, words).assert_clean();
    }
    let writers = Writers::start(scheduler, STEADY, 4);
    let is_over = Arc::new(AtomicBool::new(false));
    let taking = tokio::spawn(take_timestamps(scheduler, is_over.clone()));
    let before = Placement::of(scheduler);
    let (mut draw, mut orphans, mut written_alone) = (2026, 0, 0);
    for _ in 0..size.scheduler_kills {
        orphans += until_async("something is being moved", async || {
            let running = get(scheduler, "/operators").as_array().map_or(0, Vec::len);
            (running > 0).then_some(running)
        })
        .await;
        draw = splitmix64(draw);
        let_pass_async(Duration::from_millis(draw % 300)).await;
        cluster.kill_scheduler();
        let written = writers.acknowledged();
        let_pass_async(Duration::from_millis(100 + (draw >> 16) % 400)).await;
        written_alone += writers.acknowledged() - written;
        cluster.revive_scheduler();
        assert_no_voter_missing(&Placement::of(scheduler));
        cluster.assert_alive();
    }
    for words in ["scheduler remove shuffle-region", "scheduler remove shuffle-leader"] {
        ctl(scheduler, words).assert_clean();
    }
    let after = until_quiet(&cluster, |placement| placement.is_whole(REPLICAS)).await;
    is_over.store(true, Ordering::Relaxed);
    let (count, highest) = taking.await.expect("no timestamp went back");
    let kills = size.scheduler_kills;
    tell(&format!(
        "killed the scheduler {kills} times while it moved replicas of {} regions ({orphans} operators under way at \
         the kills, {} changes of replicas in all): no region lost a replica",
        size.regions,
        after.changes() - before.changes()
    ));
    tell(&format!("{count} timestamps, each above the one before; the highest {}", highest.get()));
    tell(&format!("{written_alone} writes were acknowledged while the scheduler was away"));
    assert!(written_alone > 0, "clients stood still without the scheduler");
    assert_nothing_lost("a scheduler killed", &writers.stop().await);
    cluster.stop();
}
