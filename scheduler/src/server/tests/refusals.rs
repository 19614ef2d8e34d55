//! What stores and clients may say wrongly over gRPC: it is refused with a reason, and leaves everything as it was.
//!
//! What people may say wrongly over HTTP is in `control.rs`.

use skerry_proto::metapb::{self, Peer, Region, RegionEpoch, Store, StoreLabel};
use skerry_proto::pdpb::*;
use skerry_proto::store::standalone_label;
use tonic::Code;

use super::control::cluster_of_four;
use super::harness::{Served, region, store, within_patience};
use super::http::{get, tell, whole_state};

/// Region 2 as all know it: three replicas, led from store 1.
fn whole() -> Region {
    let mut whole = region(2, 1, "", "");
    whole.peers.extend((2..=3).map(|store_id| Peer { id: 10 + store_id, store_id, role: 0 }));
    whole
}

fn with_epoch(epoch: Option<RegionEpoch>) -> Region {
    Region { region_epoch: epoch, ..whole() }
}

fn with_peers(peers: &[(u64, u64)]) -> Region {
    let peer = |(id, store_id): &(u64, u64)| Peer { id: *id, store_id: *store_id, role: 0 };
    let epoch = RegionEpoch { conf_ver: 9, version: 9 };
    let peers = peers.iter().map(peer).collect();
    Region { peers, region_epoch: Some(epoch), ..whole() }
}

/// The reason why a heartbeat is refused.
async fn reason_against(served: &Served, beat: RegionHeartbeatRequest) -> String {
    let (beats, mut answers) = served.heartbeats().await;
    beats.send(beat).await.expect("open");
    loop {
        let answer = within_patience(answers.message()).await.expect("good").expect("open");
        match answer.header.expect("always").error {
            Some(error) => return error.message,
            None => assert_eq!(answer.region_id, 0, "a refused heartbeat is told to do nothing"),
        }
    }
}

/// The reason in the header of an answer.
fn reason(header: Option<ResponseHeader>) -> String {
    header.expect("every answer has one").error.map(|error| error.message).unwrap_or_default()
}

fn heartbeats_that_are_wrong(served: &Served) -> Vec<(RegionHeartbeatRequest, &'static str)> {
    let epoch = |conf_ver, version| Some(RegionEpoch { conf_ver, version });
    let beat = |region: Region| served.report(region);
    let led_by = |leader: Peer| RegionHeartbeatRequest { leader: Some(leader), ..beat(whole()) };
    let foreign = Region { peers: vec![Peer { id: 5, store_id: 9, role: 0 }], ..whole() };
    vec![
        // Ranges.
        (beat(region(4, 1, "m", "")), "claims keys of another"),
        (beat(region(2, 1, "", "m")), "claims keys of another"),
        (beat(region(4, 9, "z", "a")), "region 4 has no keys"),
        (beat(region(4, 9, "a", "a")), "region 4 has no keys"),
        // Epochs and terms.
        (beat(with_epoch(None)), "region 2 has no epoch"),
        (beat(with_epoch(epoch(0, 0))), "region 2 has no epoch"),
        (beat(with_epoch(epoch(0, 9))), "region 2 has no epoch"),
        (beat(with_epoch(epoch(9, 0))), "region 2 has no epoch"),
        (RegionHeartbeatRequest { term: 5, ..beat(whole()) }, "stale"),
        // Peers.
        (beat(with_peers(&[])), "no peers"),
        (
            RegionHeartbeatRequest { leader: Some(whole().peers[0]), ..beat(with_peers(&[])) },
            "no peers",
        ),
        (beat(with_peers(&[(3, 1), (13, 1)])), "two peers on one store"),
        (beat(with_peers(&[(3, 1), (0, 2)])), "a peer without an id or a store"),
        (beat(with_peers(&[(3, 1), (13, 0)])), "a peer without an id or a store"),
        (led_by(Peer { id: 77, store_id: 1, role: 0 }), "is no peer of"),
        (led_by(Peer { id: 3, store_id: 2, role: 0 }), "is no peer of"),
        (beat(foreign), "store 9 not found"),
        // Nothing at all.
        (RegionHeartbeatRequest { region: None, ..beat(whole()) }, "without a region"),
        (RegionHeartbeatRequest { leader: None, ..beat(whole()) }, "without a leader"),
        (beat(Region { id: 0, ..whole() }), "an id other than 0"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_of_regions_that_cannot_be_are_refused() {
    let served = cluster_of_four().await;
    let before = whole_state(&served).await;
    for (beat, words) in heartbeats_that_are_wrong(&served) {
        let shown = format!("{beat:?}");
        let reason = reason_against(&served, beat).await;
        assert!(reason.contains(words), "{reason}: {shown}");
        assert_eq!(whole_state(&served).await, before, "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_that_are_unknown_or_gone_are_not_listened_to() {
    let served = cluster_of_four().await;
    // Store 4 has nothing, so it is buried at once.
    assert_eq!(tell(&served, "DELETE", "/store/4", "").await.0, 200);
    while get(&served, "/store/4").await["store"]["state_name"] != "Tombstone" {
        tokio::task::yield_now().await;
    }
    let before = whole_state(&served).await;
    for (id, words) in [(9, "store 9 not found"), (0, "store 0 not found"), (4, "is a tombstone")] {
        let stats = Some(StoreStats { store_id: id, ..StoreStats::default() });
        let request = StoreHeartbeatRequest { header: served.header(), stats };
        let answer = served.client().await.store_heartbeat(request).await.expect("StoreHeartbeat");
        let reason = reason(answer.into_inner().header);
        assert!(reason.contains(words), "{reason}");
    }
    let buried = Region { peers: vec![Peer { id: 5, store_id: 4, role: 0 }], ..with_peers(&[]) };
    let reason = reason_against(&served, served.report(buried)).await;
    assert!(reason.contains("store 4 is a tombstone"), "{reason}");
    assert_eq!(whole_state(&served).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_that_cannot_be_do_not_join() {
    let served = cluster_of_four().await;
    let before = whole_state(&served).await;
    let alone = StoreLabel { ..standalone_label() };
    let address_of_3 = store(3).address;
    let wrong = [
        (None, "no store"),
        (Some(Store { id: 0, ..store(7) }), "an id other than 0"),
        (Some(Store { address: String::new(), ..store(7) }), "store 7 names no address"),
        (Some(Store { address: address_of_3.clone(), ..store(7) }), "store 3 has address"),
        (Some(Store { peer_address: address_of_3, ..store(7) }), "store 3 has address"),
        (Some(Store { version: "banana".to_string(), ..store(7) }), "has version \"banana\""),
        (Some(Store { version: "5.0.0".to_string(), ..store(7) }), "does not fit the cluster"),
        (Some(Store { labels: vec![alone], ..store(7) }), "is standalone"),
    ];
    for (store, words) in wrong {
        let request = PutStoreRequest { header: served.header(), store };
        let answer = served.client().await.put_store(request).await.expect("PutStore").into_inner();
        let reason = reason(answer.header);
        assert!(reason.contains(words), "{reason}, and not {words}");
    }
    assert_eq!(whole_state(&served).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn splits_and_settings_that_cannot_be_are_refused() {
    let served = cluster_of_four().await;
    let before = whole_state(&served).await;
    let ask = |region: Option<Region>, split_count| AskBatchSplitRequest {
        header: served.header(),
        region,
        split_count,
        reason: SplitReason::Size.into(),
    };
    let asks = [
        (ask(None, 1), "no region to split"),
        (ask(Some(whole()), 0), "at least one cut"),
        (ask(Some(whole()), u32::MAX), "ids are more than"),
        (ask(Some(with_epoch(None)), 1), "has no epoch"),
        (ask(Some(region(4, 1, "z", "a")), 1), "has no keys"),
        (ask(Some(region(9, 1, "", "")), 1), "region 9 not found"),
    ];
    let mut client = served.client().await;
    for (request, words) in asks {
        let answer = client.ask_batch_split(request).await.expect("AskBatchSplit").into_inner();
        let reason = reason(answer.header);
        assert!(reason.contains(words), "{reason}, and not {words}");
        assert_eq!(answer.ids, []);
    }
    let reports = [
        (vec![region(2, 2, "", "g"), region(4, 2, "p", "")], "not next to each other"),
        (vec![region(2, 2, "", "g"), region(4, 2, "g", "a")], "has no keys"),
        (
            vec![region(2, 2, "", "g"), Region { peers: vec![], ..region(4, 2, "g", "") }],
            "no peers",
        ),
        (vec![with_epoch(Some(RegionEpoch::default()))], "has no epoch"),
        // Overtaken: nobody did anything wrong, and nothing happens.
        (vec![region(2, 1, "", "g"), region(4, 1, "g", "")], ""),
    ];
    for (regions, words) in reports {
        let request = ReportBatchSplitRequest { header: served.header(), regions };
        let answer = client.report_batch_split(request).await.expect("ReportBatchSplit");
        let reason = reason(answer.into_inner().header);
        assert!(reason.contains(words) && reason.is_empty() == words.is_empty(), "{reason}");
    }
    let settings = |id, max_peer_count| Some(metapb::Cluster { id, max_peer_count });
    let changes = [
        (None, "no settings"),
        (settings(served.cluster_id + 1, 5), "settings of another cluster"),
        (settings(served.cluster_id, 0), "max_peer_count is 0"),
    ];
    for (cluster, words) in changes {
        let request = PutClusterConfigRequest { header: served.header(), cluster };
        let answer = client.put_cluster_config(request).await.expect("PutClusterConfig");
        let reason = reason(answer.into_inner().header);
        assert!(reason.contains(words), "{reason}, and not {words}");
    }
    assert_eq!(whole_state(&served).await, before);
}

/// Each would change something if it were meant for this cluster.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_meant_for_another_cluster_changes_nothing() {
    let served = cluster_of_four().await;
    let before = whole_state(&served).await;
    let header =
        Some(RequestHeader { cluster_id: served.cluster_id + 1, ..RequestHeader::default() });
    let mut client = served.client().await;
    let mut refused = Vec::new();
    macro_rules! ask {
        ($method:ident, $request:expr) => {
            let status = client.$method($request).await.expect_err(stringify!($method));
            refused.push((stringify!($method), status));
        };
    }
    ask!(put_store, PutStoreRequest { header: header.clone(), store: Some(store(7)) });
    let stats = Some(StoreStats { store_id: 1, capacity: 5, ..StoreStats::default() });
    ask!(store_heartbeat, StoreHeartbeatRequest { header: header.clone(), stats });
    let regions = vec![region(2, 2, "", "g"), region(4, 2, "g", "")];
    ask!(report_batch_split, ReportBatchSplitRequest { header: header.clone(), regions });
    let cluster = Some(metapb::Cluster { id: served.cluster_id, max_peer_count: 5 });
    ask!(put_cluster_config, PutClusterConfigRequest { header: header.clone(), cluster });
    ask!(update_gc_safe_point, UpdateGcSafePointRequest { header: header.clone(), safe_point: 77 });
    let split_keys = vec!["m".into()];
    ask!(split_regions, SplitRegionsRequest { header: header.clone(), split_keys, retry_limit: 1 });
    ask!(
        scatter_region,
        ScatterRegionRequest {
            header: header.clone(),
            regions_id: vec![2],
            ..ScatterRegionRequest::default()
        }
    );
    let (beats, mut answers) = served.heartbeats().await;
    let moved = RegionHeartbeatRequest { header, ..served.report(with_peers(&[(3, 1), (12, 2)])) };
    beats.send(moved).await.expect("open");
    let ended = loop {
        match within_patience(answers.message()).await {
            Ok(answer) => assert!(answer.is_some(), "the stream ends with an error"),
            Err(status) => break status,
        }
    };
    refused.push(("region_heartbeat", ended));
    for (method, status) in refused {
        assert_eq!(status.code(), Code::FailedPrecondition, "{method}: {status}");
        let names_it = status.message().contains(&served.cluster_id.to_string());
        assert!(names_it, "{method}: {status}");
    }
    assert_eq!(whole_state(&served).await, before);
}
