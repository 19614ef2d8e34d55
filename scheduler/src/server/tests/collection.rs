//! Garbage collection over the wire: the calls of clients that drive it, and the reports of stores.

use skerry_proto::gcpb::gc_client::GcClient;
use skerry_proto::gcpb::{KeyRange, ReportRequest, ReportResponse};
use skerry_proto::pdpb::*;
use tonic::Code;

use super::harness::Served;
use super::http::{get, tell};

/// What store 1 is told when it reports this.
async fn report(served: &Served, request: ReportRequest) -> ReportResponse {
    let mut client = GcClient::connect(served.url()).await.expect("connect");
    let request = ReportRequest { header: served.header(), store_id: 1, ..request };
    let answer = client.report(request).await.expect("an answer").into_inner();
    assert_eq!(answer.header.as_ref().expect("always").error, None);
    answer
}

/// Repeats a report until the scheduler, which looks after things ten times a second, answers as wanted.
async fn report_until(
    served: &Served,
    request: ReportRequest,
    is_wanted: impl Fn(&ReportResponse) -> bool,
) -> ReportResponse {
    super::harness::within_patience(async {
        loop {
            let answer = report(served, request.clone()).await;
            if is_wanted(&answer) {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_drive_it_by_the_newer_calls() {
    let served = Served::start().await;
    served.bootstrap().await;
    let mut client = served.client().await;
    let barrier = SetGcBarrierRequest {
        header: served.header(),
        barrier_id: "backup".to_string(),
        barrier_ts: 60,
        ttl_seconds: 100,
        ..SetGcBarrierRequest::default()
    };
    let set = client.set_gc_barrier(barrier.clone()).await.expect("set").into_inner();
    let info = set.new_barrier_info.expect("it stands");
    assert_eq!((&info.barrier_id[..], info.barrier_ts, info.ttl_seconds), ("backup", 60, 100));
    let global = SetGlobalGcBarrierRequest {
        header: served.header(),
        barrier_id: "all".to_string(),
        barrier_ts: 80,
        ttl_seconds: i64::MAX,
    };
    client.set_global_gc_barrier(global).await.expect("set");
    let advance = AdvanceTxnSafePointRequest {
        header: served.header(),
        target: 90,
        ..AdvanceTxnSafePointRequest::default()
    };
    let advanced = client.advance_txn_safe_point(advance).await.expect("advance").into_inner();
    assert_eq!((advanced.old_txn_safe_point, advanced.new_txn_safe_point), (0, 60));
    assert!(advanced.blocker_description.contains("backup"), "{advanced:?}");
    let advance = AdvanceGcSafePointRequest {
        header: served.header(),
        target: 50,
        ..AdvanceGcSafePointRequest::default()
    };
    let advanced = client.advance_gc_safe_point(advance).await.expect("advance").into_inner();
    assert_eq!(advanced.new_gc_safe_point, 50);
    let late = SetGcBarrierRequest { barrier_ts: 59, ..barrier };
    let refused = client.set_gc_barrier(late).await.expect("an answer").into_inner();
    assert!(refused.header.expect("always").error.expect("too late").message.contains("60"));

    let ask = GetGcStateRequest {
        header: served.header(),
        include_global_gc_barriers: true,
        ..GetGcStateRequest::default()
    };
    let told = client.get_gc_state(ask).await.expect("ask").into_inner();
    let state = told.gc_state.expect("there is one");
    assert_eq!((state.txn_safe_point, state.gc_safe_point), (60, 50));
    assert_eq!(state.gc_barriers.len(), 1);
    assert_eq!(told.global_gc_barriers.expect("asked for").barriers.len(), 1);
    let ask = GetGcSafePointRequest { header: served.header() };
    assert_eq!(client.get_gc_safe_point(ask).await.expect("ask").into_inner().safe_point, 50);
    clients_of_a_keyspace_are_told_the_same(&served).await;

    what_was_set_survives(served.lose_power().await).await;
}

async fn clients_of_a_keyspace_are_told_the_same(served: &Served) {
    let (mut client, keyspace_id) = (served.client().await, Some(7));
    let ask = GetGcSafePointV2Request { header: served.header(), keyspace_id };
    assert_eq!(client.get_gc_safe_point_v2(ask).await.expect("ask").into_inner().safe_point, 50);
    let raise = UpdateGcSafePointV2Request { header: served.header(), keyspace_id, safe_point: 49 };
    let raised = client.update_gc_safe_point_v2(raise).await.expect("raise").into_inner();
    assert_eq!(raised.new_safe_point, 50, "it never falls");
    let hold = |ttl| UpdateServiceSafePointV2Request {
        header: served.header(),
        keyspace_id,
        service_id: "export".into(),
        safe_point: 60,
        ttl,
    };
    let held = client.update_service_safe_point_v2(hold(90)).await.expect("hold").into_inner();
    assert_eq!((held.min_safe_point, &held.service_id[..], held.ttl), (60, &b"backup"[..], 100));
    // Another keyspace has a service of the same name, which does not take the first one's place.
    let other = UpdateServiceSafePointV2Request { keyspace_id: Some(8), ..hold(90) };
    client.update_service_safe_point_v2(other.clone()).await.expect("hold");
    let listed = get(served, "/gc/safepoint").await;
    let services = listed["service_gc_safe_points"].as_array().expect("a list").iter();
    let exports = services.filter(|it| it["service_id"].to_string().contains("export"));
    assert_eq!(exports.count(), 2, "{listed}");
    let other = UpdateServiceSafePointV2Request { ttl: 0, ..other };
    client.update_service_safe_point_v2(other).await.expect("let go");
    client.update_service_safe_point_v2(hold(0)).await.expect("let go");
}

async fn what_was_set_survives(served: Served) {
    let ask = GetAllKeyspacesGcStatesRequest {
        header: served.header(),
        ..GetAllKeyspacesGcStatesRequest::default()
    };
    let mut client = served.client().await;
    let told = client.get_all_keyspaces_gc_states(ask).await.expect("ask").into_inner();
    assert_eq!(told.gc_states[0].txn_safe_point, 60, "it survives");
    assert_eq!(told.gc_states[0].gc_barriers[0].barrier_id, "backup");
    let delete = DeleteGcBarrierRequest {
        header: served.header(),
        barrier_id: "backup".to_string(),
        ..DeleteGcBarrierRequest::default()
    };
    let deleted = client.delete_gc_barrier(delete.clone()).await.expect("delete").into_inner();
    assert!(deleted.deleted_barrier_info.is_some());
    let deleted = client.delete_gc_barrier(delete).await.expect("delete").into_inner();
    assert!(deleted.deleted_barrier_info.is_none());
    // People take away by one command what is in the way, whatever its scope.
    for is_there in [true, false] {
        let (status, answer) = tell(&served, "DELETE", "/gc/barrier/all", "").await;
        assert_eq!(status == 200, is_there, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_led_through_a_round() {
    let served = Served::start().await;
    served.bootstrap().await;
    served.store_beat(1).await;
    let nothing = report(&served, ReportRequest::default()).await;
    assert_eq!((nothing.safe_point, nothing.resolve_to, nothing.collect_to), (0, 0, 0));
    assert!(nothing.lease_ms > 0);
    let raise = UpdateGcSafePointRequest { header: served.header(), safe_point: 77 };
    served.client().await.update_gc_safe_point(raise).await.expect("raise");

    let heard = report(&served, ReportRequest::default()).await;
    assert_eq!((heard.safe_point, heard.resolve_to), (77, 0));
    let kept = ReportRequest { kept: 77, ..ReportRequest::default() };
    report_until(&served, kept.clone(), |order| order.resolve_to == 77).await;
    let free =
        ReportRequest { resolved_to: 77, free_of_locks: vec![KeyRange::default()], ..kept.clone() };
    let order = report(&served, free).await;
    assert_eq!((order.resolve_to, order.collect_to), (0, 77));

    let stranger = ReportRequest { header: None, store_id: 1, ..ReportRequest::default() };
    let mut client = GcClient::connect(served.url()).await.expect("connect");
    let refused = client.report(stranger).await.expect_err("no header");
    assert_eq!(refused.code(), Code::FailedPrecondition);
}
