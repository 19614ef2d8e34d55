//! A store joins, reports and splits; clients look things up; power fails in between.

use skerry_proto::keyspacepb::{
    GetAllKeyspacesRequest, LoadKeyspaceByIdRequest, LoadKeyspaceRequest,
};
use skerry_proto::metapb::StoreState;
use skerry_proto::pdpb::*;
use tonic::Code;

use super::harness::{Served, region, store, within_patience};

/// The type of the error in a header.
fn refusal(header: Option<ResponseHeader>) -> Option<ErrorType> {
    header.expect("every answer has one").error.map(|error| error.r#type())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_joins_a_new_cluster() {
    let served = Served::start().await;
    let mut client = served.client().await;
    let request = IsBootstrappedRequest { header: served.header() };
    assert!(!client.is_bootstrapped(request.clone()).await.expect("ask").into_inner().bootstrapped);

    let request_ids = |count| AllocIdRequest { header: served.header(), count };
    let one = client.alloc_id(request_ids(1)).await.expect("ids").into_inner();
    assert_eq!((one.id, one.count), (1, 0));
    let three = client.alloc_id(request_ids(3)).await.expect("ids").into_inner();
    assert_eq!((three.id, three.count), (4, 3));

    let early = PutStoreRequest { header: served.header(), store: Some(store(1)) };
    let early = client.put_store(early).await.expect("ask").into_inner();
    assert_eq!(refusal(early.header), Some(ErrorType::NotBootstrapped));

    served.bootstrap().await;
    assert!(client.is_bootstrapped(request).await.expect("ask").into_inner().bootstrapped);
    let again = BootstrapRequest {
        header: served.header(),
        store: Some(store(9)),
        region: Some(region(10, 1, "", "")),
    };
    let again = client.bootstrap(again).await.expect("ask").into_inner();
    assert_eq!(refusal(again.header), Some(ErrorType::AlreadyBootstrapped));
    // The store of a refused bootstrap has not slipped in.
    let request = GetStoreRequest { header: served.header(), store_id: 9 };
    let missing = client.get_store(request).await.expect("ask").into_inner();
    let error = missing.header.expect("always").error.expect("a refusal");
    assert_eq!(error.message, "invalid store ID 9, not found");

    let register = PutStoreRequest { header: served.header(), store: Some(store(4)) };
    let register = client.put_store(register).await.expect("ask").into_inner();
    assert_eq!(refusal(register.header), None);
    let request = GetAllStoresRequest { header: served.header(), exclude_tombstone_stores: true };
    let stores = client.get_all_stores(request).await.expect("ask").into_inner().stores;
    assert_eq!(stores.iter().map(|store| store.id).collect::<Vec<_>>(), [1, 4]);
    assert!(stores.iter().all(|store| store.state() == StoreState::Up));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_heartbeat_is_recorded_with_its_time() {
    let served = Served::start().await;
    served.bootstrap().await;
    let mut client = served.client().await;
    let beat = |stats| StoreHeartbeatRequest { header: served.header(), stats };
    let stats = StoreStats { store_id: 1, capacity: 100, available: 60, ..StoreStats::default() };
    let news = client.store_heartbeat(beat(Some(stats.clone()))).await.expect("beat").into_inner();
    assert_eq!((refusal(news.header), &*news.cluster_version), (None, "8.5.5"));

    let request = GetStoreRequest { header: served.header(), store_id: 1 };
    let known = client.get_store(request).await.expect("ask").into_inner();
    assert_eq!(known.stats, Some(stats));
    assert_eq!(known.store.expect("known").last_heartbeat, 1_700_000_000_000_000_000);

    let stranger = StoreStats { store_id: 7, ..StoreStats::default() };
    let stranger = client.store_heartbeat(beat(Some(stranger))).await.expect("beat").into_inner();
    let error = stranger.header.expect("always").error.expect("a refusal");
    assert_eq!((error.r#type(), &*error.message), (ErrorType::Unknown, "store 7 not found"));
    let nonsense = client.store_heartbeat(beat(None)).await.expect_err("no stats");
    assert_eq!(nonsense.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn regions_are_found_by_key_by_id_and_by_range() {
    let served = Served::start().await;
    served.bootstrap().await;
    let mut client = served.client().await;
    let regions = vec![region(2, 2, "", "g"), region(4, 2, "g", "p"), region(6, 2, "p", "")];
    let report = ReportBatchSplitRequest { header: served.header(), regions: regions.clone() };
    let report = client.report_batch_split(report).await.expect("report").into_inner();
    assert_eq!(refusal(report.header), None);
    // The leader of the last one speaks, so scans have one known leader and two that are not.
    let (beats, _answers) = served.heartbeats().await;
    beats.send(served.report(regions[2].clone())).await.expect("open");
    while served.region("z").await.leader.is_none() {
        tokio::task::yield_now().await;
    }

    assert_eq!(served.region("g").await.region, Some(regions[1].clone()));
    assert_eq!(served.region("g").await.leader, None);
    let previous = GetRegionRequest { header: served.header(), region_key: "h".into() };
    let previous = client.get_prev_region(previous).await.expect("ask").into_inner();
    assert_eq!(previous.region, Some(regions[0].clone()));
    let by_id = |region_id| GetRegionByIdRequest { header: served.header(), region_id };
    let found = client.get_region_by_id(by_id(6)).await.expect("ask").into_inner();
    assert_eq!(
        (found.region.as_ref(), found.leader),
        (Some(&regions[2]), regions[2].peers.first().copied())
    );
    let missing = client.get_region_by_id(by_id(7)).await.expect("ask").into_inner();
    assert_eq!((refusal(missing.header), missing.region), (None, None));

    let scan = ScanRegionsRequest {
        header: served.header(),
        start_key: "h".into(),
        ..ScanRegionsRequest::default()
    };
    let scan = client.scan_regions(scan).await.expect("scan").into_inner();
    assert_eq!(scan.region_metas, regions[1..]);
    assert_eq!(scan.leaders.iter().map(|leader| leader.id).collect::<Vec<_>>(), [0, 7]);
    let ids = |regions: &[Region]| -> Vec<u64> {
        regions.iter().map(|region| region.region.as_ref().expect("always").id).collect()
    };
    assert_eq!(ids(&scan.regions), [4, 6]);

    let ranges = vec![
        KeyRange { start_key: "a".into(), end_key: "h".into() },
        KeyRange { start_key: "i".into(), end_key: "j".into() },
    ];
    let scan = BatchScanRegionsRequest {
        header: served.header(),
        ranges,
        contain_all_key_range: true,
        ..BatchScanRegionsRequest::default()
    };
    let scan = client.batch_scan_regions(scan).await.expect("scan").into_inner();
    assert_eq!((refusal(scan.header.clone()), ids(&scan.regions)), (None, vec![2, 4]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_split_gets_its_ids_and_a_stale_one_does_not() {
    let served = Served::start().await;
    served.bootstrap().await;
    let mut client = served.client().await;
    let ask = |version| AskBatchSplitRequest {
        header: served.header(),
        region: Some(region(2, version, "", "")),
        split_count: 2,
        reason: SplitReason::Size.into(),
    };
    let ids = client.ask_batch_split(ask(1)).await.expect("ask").into_inner().ids;
    assert_eq!(ids.len(), 2);
    assert!(ids.iter().all(|id| id.new_peer_ids.len() == 1));
    let all: Vec<u64> = ids.iter().flat_map(|id| [id.new_region_id, id.new_peer_ids[0]]).collect();
    assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");

    let regions = vec![region(2, 2, "", "")];
    let report = ReportBatchSplitRequest { header: served.header(), regions };
    client.report_batch_split(report).await.expect("report");
    let stale = client.ask_batch_split(ask(1)).await.expect("ask").into_inner();
    assert_eq!(refusal(stale.header), Some(ErrorType::Unknown));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_keyspace_is_there_from_bootstrap_on() {
    let served = Served::start().await;
    let mut client = served.keyspace_client().await;
    let load = |name: &str| LoadKeyspaceRequest { header: served.header(), name: name.to_string() };
    let early = client.load_keyspace(load("DEFAULT")).await.expect("ask").into_inner();
    assert_eq!(refusal(early.header), Some(ErrorType::NotBootstrapped));
    served.bootstrap().await;
    let found = client.load_keyspace(load("DEFAULT")).await.expect("ask").into_inner();
    assert_eq!(found.keyspace.as_ref().expect("there").id, Some(0));
    let missing = client.load_keyspace(load("tenant")).await.expect("ask").into_inner();
    assert_eq!(refusal(missing.header), Some(ErrorType::EntryNotFound));
    let by_id = LoadKeyspaceByIdRequest { header: served.header(), id: Some(0) };
    let by_id = client.load_keyspace_by_id(by_id).await.expect("ask").into_inner();
    assert_eq!(by_id.keyspace, found.keyspace);
    let all = GetAllKeyspacesRequest { header: served.header(), start_id: Some(0), limit: 0 };
    let all = client.get_all_keyspaces(all).await.expect("ask").into_inner().keyspaces;
    assert_eq!(all.first(), found.keyspace.as_ref());
    let wrong = LoadKeyspaceRequest { header: None, name: "DEFAULT".to_string() };
    let refused = client.load_keyspace(wrong).await.expect_err("no header");
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

/// Everything that was answered holds after the power fails, without a clean stop.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_survives_power_loss() {
    let served = Served::start().await;
    let cluster_id = served.cluster_id;
    served.bootstrap().await;
    let mut client = served.client().await;
    let ids = AllocIdRequest { header: served.header(), count: 10 };
    let last = client.alloc_id(ids.clone()).await.expect("ids").into_inner().id;
    let raise = UpdateGcSafePointRequest { header: served.header(), safe_point: 500 };
    assert_eq!(
        client.update_gc_safe_point(raise).await.expect("raise").into_inner().new_safe_point,
        500
    );
    let register = PutStoreRequest { header: served.header(), store: Some(store(4)) };
    client.put_store(register).await.expect("register");
    let settings = skerry_proto::metapb::Cluster { id: cluster_id, max_peer_count: 5 };
    let settings = PutClusterConfigRequest { header: served.header(), cluster: Some(settings) };
    client.put_cluster_config(settings).await.expect("settings");
    // A minute later the limit of timestamps has to be saved again, and no other write follows that would
    // sync it by the way.
    served.clock.advance_ms(60_000);
    let (requests, mut answers) = served.timestamps().await;
    requests.send(TsoRequest { header: served.header(), count: 7 }).await.expect("open");
    let before = within_patience(answers.message()).await.expect("good").expect("open");

    let served = served.lose_power().await;
    assert_eq!(served.cluster_id, cluster_id);
    let mut client = served.client().await;
    let next = client.alloc_id(ids).await.expect("ids").into_inner().id;
    assert!(next >= last + 10, "{next} after {last}");
    let ask = GetGcSafePointRequest { header: served.header() };
    assert_eq!(client.get_gc_safe_point(ask).await.expect("ask").into_inner().safe_point, 500);
    let lower = UpdateGcSafePointRequest { header: served.header(), safe_point: 400 };
    let lower = client.update_gc_safe_point(lower).await.expect("ask").into_inner();
    assert_eq!(lower.new_safe_point, 500);
    let known = GetStoreRequest { header: served.header(), store_id: 4 };
    assert_eq!(
        client.get_store(known).await.expect("ask").into_inner().store.expect("known").id,
        4
    );
    let ask = GetClusterConfigRequest { header: served.header() };
    let settings = client.get_cluster_config(ask).await.expect("ask").into_inner().cluster;
    assert_eq!(settings.expect("bootstrapped").max_peer_count, 5);
    assert_eq!(served.region("any").await.region, Some(region(2, 1, "", "")));

    // The clock has stood still; only the saved limit keeps the new process above the old one.
    let (requests, mut answers) = served.timestamps().await;
    requests.send(TsoRequest { header: served.header(), count: 1 }).await.expect("open");
    let after = within_patience(answers.message()).await.expect("good").expect("open");
    let parts = |answer: &TsoResponse| {
        let timestamp = answer.timestamp.expect("always");
        (timestamp.physical, timestamp.logical)
    };
    assert!(parts(&after) > parts(&before), "{after:?} after {before:?}");
}
