//! Stores of a cluster of real processes that get replicas late, get them by snapshot, or give all of theirs up.

use std::path::{Path, PathBuf};

use prost::Message as _;
use skerry_proto::metapb::PeerRole;
use skerry_proto::pdpb::Region;
use skerry_proto::raft_serverpb::{PeerState, RegionLocalState};
use skerry_raftstore::config::{RaftEngineConfig, RocksConfig};
use skerry_raftstore::engine::directory::{DataDirectory, Purpose};
use skerry_raftstore::engine::rocks::RocksEngine;
use skerry_raftstore::engine::{ColumnFamily, Engine as _, KeyRange};
use skerry_raftstore::keys;
use skerry_tests::chaos::{Cluster, Ledger};
use skerry_tests::client::http;
use skerry_tests::damage::{Damage, damage, files};
use skerry_tests::wait::until_async;
use tempfile::NamedTempFile;

/// Regions that are cut soon, and logs that wait for nobody.
const SMALL: &str = "[raftstore]\n\
    split-check-size = \"64KiB\"\nsplit-size = \"256KiB\"\nregion-size-max = \"384KiB\"\n\
    log-gc-ticks = 5\nlog-gc-threshold = 10\nlog-gc-count-max = 30\n\
    snapshot-collect-ticks = 5\nsnapshot-keep-ticks = 20\n";

/// A file with settings for all stores.
fn settings(text: &str) -> (NamedTempFile, String) {
    let file = NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), text).expect("a temporary file can be written");
    let path = file.path().display().to_string();
    (file, path)
}

/// A store that is away knows nothing of what its regions have become, and nobody has the log to tell it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_missed_two_splits_and_the_log_catches_up_by_snapshot() {
    let (_file, config) = settings(SMALL);
    let mut cluster = Cluster::start(3, &[("--config", &config)]).await;
    let mut ledger = Ledger::default();
    ledger.write(&cluster, 0..50, 1_000).await;
    let regions = cluster.regions().await.expect("the scheduler answers").len();
    cluster.kill(2);
    ledger.write(&cluster, 50..400, 4_000).await;
    until_async("the region was cut twice", async || {
        (cluster.regions().await.ok()?.len() >= regions + 2).then_some(())
    })
    .await;
    // The parts' logs must be cut as well: entries that it could be told of would need no snapshot.
    ledger.write(&cluster, 0..400, 100).await;
    cluster.revive(2);
    cluster.until_whole(3).await;
    until_async("the store has everything", async || ledger.read_through(&cluster, 2).await).await;
    let installed = cluster.said(2).matches("snapshot installed").count();
    assert!(installed >= 2, "it was not by snapshots: {}", cluster.said(2));
    // What it has counts: with one of the others at a time it is a majority, and may lead.
    for other in [0, 1] {
        cluster.kill(other);
        ledger.assert_kept(&cluster).await;
        ledger.write(&cluster, 0..20, 100).await;
        cluster.revive(other);
        cluster.until_whole(3).await;
    }
    cluster.stop();
}

/// A bit of a snapshot changes while it is on its way: it is not taken, made anew and sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_with_a_flipped_bit_is_sent_again() {
    let (_file, config) = settings("[raftstore]\nsnapshot-bytes-per-second = \"1MiB\"\n");
    let mut cluster = Cluster::start(2, &[("--config", &config)]).await;
    let mut ledger = Ledger::default();
    // Slow enough to be met on its way.
    ledger.write(&cluster, 0..600, 4_000).await;
    cluster.add_store();
    let sent = until_async("a snapshot is on its way", async || {
        [0, 1].into_iter().find_map(|number| {
            let directory = cluster.directory(number).join("snapshots");
            let complete = files(&directory, "meta").into_iter().find_map(|list| {
                let name = list.file_stem()?.to_str()?.to_string();
                let tables = files(&directory, "sst");
                let size = |path: &PathBuf| std::fs::metadata(path).map_or(0, |found| found.len());
                tables.into_iter().find(|table| {
                    let is_part = table.to_str().is_some_and(|path| path.contains(&name));
                    is_part && size(table) > 1 << 20
                })
            });
            Some((number, complete?))
        })
    })
    .await;
    let (sender, table) = sent;
    let _damaged = damage(&table, Damage::BitAtTheEnd);
    cluster.until_whole(3).await;
    until_async("the newcomer has everything", async || ledger.read_through(&cluster, 2).await)
        .await;
    let said = cluster.said(sender);
    assert!(said.contains("a snapshot was not sent; raft will try again"), "{said}");
    assert!(said.contains("is damaged"), "{said}");
    ledger.assert_kept(&cluster).await;
    cluster.stop();
}

/// What is left in the directory of a store that has stopped.
struct Remains {
    regions: usize,
    pairs: usize,
    logs: Vec<u64>,
    files: usize,
}

fn remains(directory: &Path) -> Remains {
    let config = RaftEngineConfig::default();
    let opened = DataDirectory::open(directory, Purpose::replicated_store(&config));
    let opened = opened.expect("a stopped store's directory");
    let rocks = RocksConfig::default();
    let engine = RocksEngine::open(&opened.data_path(), &rocks, None).expect("its data");
    let view = engine.view();
    let (mut regions, mut pairs) = (0, 0);
    for family in ColumnFamily::ALL {
        let mut cursor = view.cursor(family, &KeyRange::default()).expect("it reads");
        let mut standing = cursor.seek_to_first().expect("it reads");
        while standing {
            if keys::region_of_state(cursor.key()).is_some() {
                let state = RegionLocalState::decode(cursor.value()).expect("a state");
                regions += usize::from(state.state() != PeerState::Tombstone);
            }
            pairs += usize::from(keys::region_key(cursor.key()).is_some());
            standing = cursor.next().expect("it reads");
        }
    }
    let log = opened.open_log(&config, &rocks).expect("its log");
    let logs = log.regions().expect("it reads");
    let files = std::fs::read_dir(directory.join("snapshots")).map_or(0, Iterator::count);
    Remains { regions, pairs, logs, files }
}

/// By orders that the test gives: a fourth store gets a replica of everything, and another gives all of its own up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fourth_store_takes_over_and_another_leaves_nothing_behind() {
    // The director only answers who reports, and who sleeps reports every five minutes.
    let awake = "hibernate-after-ticks = 0\n[server]\nregion-heartbeat-interval-ms = 500\n";
    let (_file, config) = settings(&format!("{SMALL}{awake}"));
    let mut cluster = Cluster::start_with_director(3, &[("--config", &config)]).await;
    let mut ledger = Ledger::default();
    ledger.write(&cluster, 0..200, 4_000).await;
    cluster.add_store();
    let mut ids = Vec::new();
    for number in 0..4 {
        let id = until_async("a store is known", async || cluster.store_id(number).await).await;
        ids.push(id);
    }
    // Who leads must first hand over.
    let leaver = until_async("a leader is known", async || cluster.leader().await).await;
    let stay: Vec<usize> = (0..4).filter(|number| *number != leaver).collect();
    cluster.director().place(stay.iter().map(|number| ids[*number]));
    until_async("every region has moved", async || {
        let regions = cluster.regions().await.ok()?;
        let stores = |region: &Region| -> Vec<u64> {
            let peers = region.region.iter().flat_map(|region| &region.peers);
            let voters = peers.filter(|peer| peer.role() == PeerRole::Voter);
            let mut stores: Vec<u64> = voters.map(|peer| peer.store_id).collect();
            stores.sort_unstable();
            stores
        };
        let mut wanted: Vec<u64> = stay.iter().map(|number| ids[*number]).collect();
        wanted.sort_unstable();
        regions.iter().all(|region| stores(region) == wanted).then_some(())
    })
    .await;
    let orders = cluster.director().orders();
    for order in ["add", "promote", "transfer", "remove"] {
        assert!(orders.contains_key(order), "never ordered: {order}; {orders:?}");
    }
    until_async("the fourth store has everything", async || ledger.read_through(&cluster, 3).await)
        .await;
    until_async("the other holds no region", async || {
        let (_, status) = http(cluster.launch(leaver).addresses().status, "GET", "/status");
        let status: serde_json::Value = serde_json::from_str(&status).ok()?;
        status["regions"].as_array().is_some_and(Vec::is_empty).then_some(())
    })
    .await;
    let snapshots = cluster.directory(leaver).join("snapshots");
    until_async("it has collected the snapshots that it sent", async || {
        (std::fs::read_dir(&snapshots).ok()?.count() == 0).then_some(())
    })
    .await;
    cluster.stop_store(leaver);
    let left = remains(&cluster.directory(leaver));
    assert_eq!((left.regions, left.pairs, left.files), (0, 0, 0), "something was left behind");
    assert_eq!(left.logs, Vec::<u64>::new(), "logs were left behind");
    ledger.assert_kept(&cluster).await;
    // Empty as it is, it starts again.
    cluster.revive(leaver);
    cluster.stop();
}
