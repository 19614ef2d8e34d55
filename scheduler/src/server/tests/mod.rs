//! The service over real sockets: header rules, a store's life, streams, what survives power loss, and
//! callers that speak no protocol at all. The clock stands still unless a test moves it.

#![allow(clippy::needless_update, reason = "some requests have no field but the header")]

mod collection;
mod company;
mod control;
mod harness;
mod http;
mod lifecycle;
mod refusals;
mod streams;

use skerry_proto::kvrpcpb::RawGetRequest;
use skerry_proto::pdpb::*;
use skerry_proto::tikvpb::tikv_client::TikvClient;
use tonic::Code;

use self::harness::Served;

/// Calls `$method` of the client with the header `$header`, and answers its result.
macro_rules! call {
    ($served:expr, $header:expr, $method:ident, $request:ident) => {
        $served.client().await.$method($request { header: $header, ..$request::default() }).await
    };
}

/// Runs `$check` on the result of every unary method that is served, but the two that need no header.
macro_rules! every_call {
    ($served:expr, $header:expr, $check:ident) => {
        $check!(
            "GetClusterConfig",
            call!($served, $header, get_cluster_config, GetClusterConfigRequest)
        );
        $check!(
            "PutClusterConfig",
            call!($served, $header, put_cluster_config, PutClusterConfigRequest)
        );
        $check!("AllocID", call!($served, $header, alloc_id, AllocIdRequest));
        $check!("GetMinTS", call!($served, $header, get_min_ts, GetMinTsRequest));
        $check!("IsBootstrapped", call!($served, $header, is_bootstrapped, IsBootstrappedRequest));
        $check!("Bootstrap", call!($served, $header, bootstrap, BootstrapRequest));
        $check!("PutStore", call!($served, $header, put_store, PutStoreRequest));
        $check!("GetStore", call!($served, $header, get_store, GetStoreRequest));
        $check!("GetAllStores", call!($served, $header, get_all_stores, GetAllStoresRequest));
        $check!("GetRegion", call!($served, $header, get_region, GetRegionRequest));
        $check!("GetPrevRegion", call!($served, $header, get_prev_region, GetRegionRequest));
        $check!("GetRegionByID", call!($served, $header, get_region_by_id, GetRegionByIdRequest));
        $check!("ScanRegions", call!($served, $header, scan_regions, ScanRegionsRequest));
        $check!(
            "BatchScanRegions",
            call!($served, $header, batch_scan_regions, BatchScanRegionsRequest)
        );
        $check!("AskBatchSplit", call!($served, $header, ask_batch_split, AskBatchSplitRequest));
        $check!(
            "ReportBatchSplit",
            call!($served, $header, report_batch_split, ReportBatchSplitRequest)
        );
        $check!("SplitRegions", call!($served, $header, split_regions, SplitRegionsRequest));
        $check!("ScatterRegion", call!($served, $header, scatter_region, ScatterRegionRequest));
        $check!(
            "SplitAndScatterRegions",
            call!($served, $header, split_and_scatter_regions, SplitAndScatterRegionsRequest)
        );
        $check!("GetOperator", call!($served, $header, get_operator, GetOperatorRequest));
        $check!(
            "GetGCSafePoint",
            call!($served, $header, get_gc_safe_point, GetGcSafePointRequest)
        );
        $check!(
            "UpdateGCSafePoint",
            call!($served, $header, update_gc_safe_point, UpdateGcSafePointRequest)
        );
        $check!("GetGCState", call!($served, $header, get_gc_state, GetGcStateRequest));
        $check!(
            "UpdateServiceGCSafePoint",
            call!($served, $header, update_service_gc_safe_point, UpdateServiceGcSafePointRequest)
        );
        $check!(
            "GetGCSafePointV2",
            call!($served, $header, get_gc_safe_point_v2, GetGcSafePointV2Request)
        );
        $check!(
            "UpdateGCSafePointV2",
            call!($served, $header, update_gc_safe_point_v2, UpdateGcSafePointV2Request)
        );
        $check!(
            "UpdateServiceSafePointV2",
            call!($served, $header, update_service_safe_point_v2, UpdateServiceSafePointV2Request)
        );
        $check!(
            "GetAllKeyspacesGCStates",
            call!($served, $header, get_all_keyspaces_gc_states, GetAllKeyspacesGcStatesRequest)
        );
        $check!(
            "AdvanceTxnSafePoint",
            call!($served, $header, advance_txn_safe_point, AdvanceTxnSafePointRequest)
        );
        $check!(
            "AdvanceGCSafePoint",
            call!($served, $header, advance_gc_safe_point, AdvanceGcSafePointRequest)
        );
        $check!("SetGCBarrier", call!($served, $header, set_gc_barrier, SetGcBarrierRequest));
        $check!(
            "DeleteGCBarrier",
            call!($served, $header, delete_gc_barrier, DeleteGcBarrierRequest)
        );
        $check!(
            "SetGlobalGCBarrier",
            call!($served, $header, set_global_gc_barrier, SetGlobalGcBarrierRequest)
        );
        $check!(
            "DeleteGlobalGCBarrier",
            call!($served, $header, delete_global_gc_barrier, DeleteGlobalGcBarrierRequest)
        );
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_a_header_with_the_cluster_id_also_a_refusal() {
    let served = Served::start().await;
    macro_rules! check {
        ($name:literal, $result:expr) => {
            let header = $result.expect($name).into_inner().header.expect($name);
            assert_eq!(header.cluster_id, served.cluster_id, $name);
        };
    }
    every_call!(served, served.header(), check);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_another_cluster_or_for_none_is_refused() {
    let served = Served::start().await;
    macro_rules! check {
        ($name:literal, $result:expr) => {
            assert_eq!($result.expect_err($name).code(), Code::FailedPrecondition, $name);
        };
    }
    let other = RequestHeader { cluster_id: served.cluster_id + 1, ..RequestHeader::default() };
    every_call!(served, Some(other.clone()), check);
    every_call!(served, None, check);
    let heartbeat = StoreHeartbeatRequest { header: Some(other), stats: None };
    let refused =
        served.client().await.store_heartbeat(heartbeat).await.expect_err("other cluster");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains(&served.cluster_id.to_string()), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_and_services_are_told_to_whoever_asks() {
    let served = Served::start().await;
    let members = served.client().await.get_members(GetMembersRequest::default()).await;
    let members = members.expect("no header is needed").into_inner();
    assert_eq!(members.header.expect("always").cluster_id, served.cluster_id);
    let leader = members.leader.expect("there is one");
    assert_eq!(leader.client_urls, [format!("http://{}", served.address)]);
    assert_ne!(leader.member_id, 0);
    assert_eq!(members.members, std::slice::from_ref(&leader));
    assert_eq!(members.etcd_leader, Some(leader));

    let info = served.client().await.get_cluster_info(GetClusterInfoRequest::default()).await;
    let info = info.expect("no header is needed").into_inner();
    assert_eq!(info.header.expect("always").cluster_id, served.cluster_id);
    assert_eq!(info.service_modes, [i32::from(ServiceMode::PdSvcMode)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_served_is_unimplemented() {
    let served = Served::start().await;
    let method = call!(served, served.header(), report_min_resolved_ts, ReportMinResolvedTsRequest);
    assert_eq!(method.expect_err("a method of a known service").code(), Code::Unimplemented);
    let mut stranger = TikvClient::connect(served.url()).await.expect("connect");
    let service = stranger.raw_get(RawGetRequest::default()).await;
    assert_eq!(service.expect_err("an unknown service").code(), Code::Unimplemented);
}
