//! A person changes where replicas stand, with `skerry ctl`, on a cluster of real stores: operators by hand, a store
//! that is emptied until nothing is left of it, and why nothing happens.

use std::net::SocketAddr;

use serde_json::Value;
use skerry_tests::client;
use skerry_tests::process::{Ended, Ground, Launch};
use skerry_tests::wait;

/// `skerry ctl` against the scheduler at `address`, with these words.
fn ctl(address: SocketAddr, words: &str) -> Ended {
    let launch = Launch::of("ctl").with("--scheduler-addr", address.to_string());
    words.split(' ').fold(launch, |launch, word| launch.argument(word)).run_to_end()
}

/// The JSON under `/pd/api/v1`.
fn get(address: SocketAddr, path: &str) -> Value {
    let (status, body) = client::http(address, "GET", &format!("/pd/api/v1{path}"));
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).expect("JSON")
}

/// The stores of a region's peers, and the one that leads.
fn places(region: &Value) -> (Vec<u64>, Option<u64>) {
    let peers = region["peers"].as_array().expect("a region has peers");
    let mut stores: Vec<u64> = peers.iter().filter_map(|peer| peer["store_id"].as_u64()).collect();
    stores.sort_unstable();
    (stores, region["leader"]["store_id"].as_u64())
}

#[test]
fn a_person_moves_replicas_and_empties_a_store() {
    let ground = Ground::new();
    let config =
        "[server]\nstore-heartbeat-interval-ms = 200\nregion-heartbeat-interval-ms = 500\n";
    let process = ground
        .replicated_playground()
        .with("--stores", "4")
        .with("--config", ground.file("quick.toml", config))
        .start();
    let scheduler = process.addresses().scheduler;
    // What is seen from here on is what was asked for.
    ctl(scheduler, "scheduler pause all 600").assert_clean();
    let region = get(scheduler, "/regions")["regions"][0].clone();
    let id = region["id"].as_u64().expect("a number");
    let look = || places(&get(scheduler, &format!("/region/id/{id}")));
    let stores = get(scheduler, "/stores");
    let all: Vec<u64> = stores["stores"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|store| store["store"]["id"].as_u64())
        .collect();
    assert_eq!(all.len(), 4, "{stores}");
    let (held, leader) = places(&region);
    let free = *all.iter().find(|store| !held.contains(store)).expect("three of four hold it");
    let heir = *held.iter().find(|store| Some(**store) != leader).expect("two follow");

    ctl(scheduler, &format!("operator add transfer-leader {id} {heir}")).assert_clean();
    wait::until("the heir leads", || (look().1 == Some(heir)).then_some(()));
    let old = leader.expect("a ready region is led");
    ctl(scheduler, &format!("operator add transfer-peer {id} {old} {free}")).assert_clean();
    let moved = || {
        let (stores, _) = look();
        (stores.contains(&free) && !stores.contains(&old)).then_some(())
    };
    wait::until("the replica has moved", moved);
    // It has been said why, and what cannot be is refused with the reason.
    let explained = ctl(scheduler, &format!("operator explain {id}"));
    explained.assert_clean();
    assert!(explained.stdout.contains("admin-transfer-peer"), "{explained:?}");
    let refused = ctl(scheduler, &format!("operator add transfer-leader {id} {old}"));
    refused.assert_failed(&["has no replica"]);

    // A store is emptied: the replica goes to the one that is free again.
    let emptied = ctl(scheduler, &format!("store offline {free}"));
    emptied.assert_clean();
    assert!(emptied.stdout.contains("is empty"), "{emptied:?}");
    assert_eq!(look().0.len(), 3);
    assert!(!look().0.contains(&free), "{:?}", look());
    let gone = get(scheduler, &format!("/store/{free}"));
    assert_eq!(gone["store"]["state_name"], "Tombstone");

    // No store is left that another one could be emptied to: it says so instead of hanging silently.
    let begun = ctl(scheduler, &format!("store offline {old} --no-wait"));
    begun.assert_clean();
    assert!(begun.stdout.contains("3 replicas are wanted"), "{begun:?}");
    let stuck = ctl(scheduler, &format!("operator explain {id}"));
    assert!(stuck.stdout.contains("stuck: "), "{stuck:?}");
    assert!(stuck.stdout.contains("has a replica already"), "{stuck:?}");
    ctl(scheduler, &format!("store cancel-offline {old}")).assert_clean();
    let listed = ctl(scheduler, "store list");
    assert!(!listed.stdout.contains("Offline"), "{listed:?}");
    process.stop().assert_clean();
}
