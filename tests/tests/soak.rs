//! Clients that were not written here, in a storm: the crate `tikv-client` works on regions that are being cut, while
//! every second a leader is moved and every ten seconds a store is killed.
//!
//! A client may be told that a call failed, or nothing; then it goes on. What must hold whatever it was told:
//!
//! * money is moved, not made: every snapshot of all accounts has the same sum;
//! * a large transaction is there as a whole or not at all, upwards and downwards alike;
//! * a counter counts every step that was acknowledged, and at most those that may have happened;
//! * a raw pair is what was put last, or what may have been put after it.
//!
//! `make soak` runs ten rounds of it, and keeps what it counted in `docs/results/`; `make test` does not.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use skerry_raftstore::time::splitmix64;
use skerry_tests::chaos::Cluster;
use skerry_tests::client;
use skerry_tests::number_from_environment;
use skerry_tests::wait::{Stopwatch, let_pass_async};

#[path = "soak/stories.rs"]
mod stories;

/// How many rounds, and for how long each, when nobody says.
const ROUNDS: u64 = 1;
const SECONDS: u64 = 15;
/// Between two moves of a leader.
const SHUFFLE: Duration = Duration::from_secs(1);
/// A store is killed after so many moves.
const SHUFFLES_A_KILL: u64 = 10;
/// How long it stays dead, in moves.
const SHUFFLES_DEAD: u64 = 2;

/// What is done to a cluster.
#[derive(Default)]
struct Mishaps {
    leaders_moved: u64,
    stores_killed: u64,
}

/// Asks for another leader of some region; a scheduler that thinks otherwise may refuse.
async fn shuffle(cluster: &Cluster, draw: u64) -> Option<()> {
    let regions = cluster.regions().await.ok()?;
    let region = regions.get(draw as usize % regions.len().max(1))?;
    let leader = region.leader?.store_id;
    let peers = &region.region.as_ref()?.peers;
    let others: Vec<u64> =
        peers.iter().map(|peer| peer.store_id).filter(|store| *store != leader).collect();
    let heir = others.get((draw >> 32) as usize % others.len().max(1))?;
    let wish = json!({
        "name": "transfer-leader",
        "region_id": region.region.as_ref()?.id,
        "to_store_id": heir,
    });
    let (scheduler, wish) = (cluster.scheduler(), wish.to_string());
    let path = "/pd/api/v1/operators";
    let asked = tokio::task::spawn_blocking(move || {
        client::http_with_body(scheduler, "POST", path, &wish).0
    });
    (asked.await.ok()? == 200).then_some(())
}

/// Lets the storm blow for a while.
async fn storm(cluster: &mut Cluster, time: Duration, draw: &mut u64, mishaps: &mut Mishaps) {
    let watch = Stopwatch::start();
    let (mut moves, mut dead) = (0, None);
    while watch.elapsed() < time {
        *draw = splitmix64(*draw);
        let_pass_async(SHUFFLE).await;
        moves += 1;
        mishaps.leaders_moved += u64::from(shuffle(cluster, *draw).await.is_some());
        if moves % SHUFFLES_A_KILL == 0 {
            let victim = (*draw >> 40) as usize % cluster.stores();
            cluster.kill(victim);
            mishaps.stores_killed += 1;
            dead = Some((victim, moves));
        }
        if let Some((victim, since)) = dead
            && moves >= since + SHUFFLES_DEAD
        {
            cluster.revive(victim);
            dead = None;
        }
        cluster.assert_alive();
    }
    if let Some((victim, _)) = dead {
        cluster.revive(victim);
    }
}

/// Regions as small as in the tests of that crate. Old locks are resolved by the stores after some seconds: this client
/// does not get over the second lock of a transaction whose first was never written (tikv/client-rust#543), nor over an
/// expired one of an async commit (tikv/client-rust#528), and a killed store leaves such locks.
const CONFIGURATION: &str = "[raftstore]\nregion-keys-max = 10\nsplit-keys = 7\nsplit-check-size = \"1B\"\n\
                             [scheduler]\ngc-life-time-ms = 10000\ngc-interval-ms = 5000\n";

fn count(scheduler: SocketAddr) -> u64 {
    let (_, body) = client::http(scheduler, "GET", "/pd/api/v1/regions");
    let regions: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    regions["count"].as_u64().expect("a number")
}

#[ignore = "minutes long: `make soak` runs it"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_find_what_they_may_rely_on_in_a_storm() {
    let rounds = number_from_environment("SOAK_ROUNDS").unwrap_or(ROUNDS);
    let seconds = number_from_environment("SOAK_SECONDS").unwrap_or(SECONDS);
    let mut draw = number_from_environment("SOAK_SEED").unwrap_or(2026);
    for round in 1..=rounds {
        let mut cluster = Cluster::start_configured(3, CONFIGURATION).await;
        let scheduler = cluster.scheduler();
        let stories = stories::Stories::begin(scheduler).await;
        let mut mishaps = Mishaps::default();
        storm(&mut cluster, Duration::from_secs(seconds), &mut draw, &mut mishaps).await;
        stories.get_on().await;
        let told = stories.end().await;
        let regions = count(scheduler);
        cluster.until_whole(3).await;
        cluster.stop();
        println!(
            "soak: round {round}: {} leaders moved, {} stores killed, {regions} regions; {told}",
            mishaps.leaders_moved, mishaps.stores_killed
        );
        assert!(regions > 10, "the regions were not cut");
        assert!(mishaps.leaders_moved > 0 && mishaps.stores_killed > 0, "there was no storm");
    }
}
