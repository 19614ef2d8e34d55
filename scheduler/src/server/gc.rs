//! Garbage collection on the wire: the calls of `pdpb.PD` about safe points and barriers, which [`super::placement`]
//! hands over, and the service by which stores take part (`gcpb.Gc`).
//!
//! Keyspaces have no marks of their own: whatever scope a call names, it is about the cluster.

use std::sync::Arc;

use skerry_proto::gcpb::gc_server::Gc;
use skerry_proto::gcpb::{ReportRequest, ReportResponse};
use skerry_proto::pdpb::*;
use skerry_proto::types::StoreId;
use tonic::Request;

use super::Shared;
use super::reply::{Reply, admit, reply};
use crate::cluster::Cluster;
use crate::cluster::collection::Advance;
use crate::gc::marks::DRIVER;
use crate::gc::{Barrier, BarrierName, Marks, Report};

pub(super) async fn get_safe_point(
    shared: &Arc<Shared>,
    request: GetGcSafePointRequest,
) -> Reply<GetGcSafePointResponse> {
    admit(shared, request.header.as_ref())?;
    let safe_point = shared.cluster().safe_point();
    reply(shared, safe_point, |header, safe_point| GetGcSafePointResponse {
        header,
        safe_point: safe_point.unwrap_or_default(),
    })
}

pub(super) async fn update_safe_point(
    shared: &Arc<Shared>,
    request: UpdateGcSafePointRequest,
) -> Reply<UpdateGcSafePointResponse> {
    admit(shared, request.header.as_ref())?;
    let wanted = request.safe_point;
    let raised = shared.decide(|cluster, now| cluster.raise_safe_point(wanted, now)).await;
    reply(shared, raised, |header, safe_point| UpdateGcSafePointResponse {
        header,
        new_safe_point: safe_point.unwrap_or_default(),
    })
}

pub(super) async fn update_service(
    shared: &Arc<Shared>,
    request: UpdateServiceGcSafePointRequest,
) -> Reply<UpdateServiceGcSafePointResponse> {
    admit(shared, request.header.as_ref())?;
    let UpdateServiceGcSafePointRequest { service_id, ttl, safe_point, .. } = request;
    let name = String::from_utf8_lossy(&service_id).into_owned();
    let event =
        |cluster: &mut Cluster, now| cluster.update_service_safe_point(&name, ttl, safe_point, now);
    reply(shared, shared.decide(event).await, |header, lowest| {
        let lowest = lowest.unwrap_or_default();
        UpdateServiceGcSafePointResponse {
            header,
            service_id: lowest.name.into(),
            ttl: lowest.ttl_seconds,
            min_safe_point: lowest.ts,
        }
    })
}

pub(super) async fn get_safe_point_v2(
    shared: &Arc<Shared>,
    request: GetGcSafePointV2Request,
) -> Reply<GetGcSafePointV2Response> {
    let request = GetGcSafePointRequest { header: request.header };
    let answer = get_safe_point(shared, request).await?;
    Ok(answer.map(|GetGcSafePointResponse { header, safe_point }| GetGcSafePointV2Response {
        header,
        safe_point,
    }))
}

pub(super) async fn update_safe_point_v2(
    shared: &Arc<Shared>,
    request: UpdateGcSafePointV2Request,
) -> Reply<UpdateGcSafePointV2Response> {
    let UpdateGcSafePointV2Request { header, safe_point, .. } = request;
    let request = UpdateGcSafePointRequest { header, safe_point };
    let answer = update_safe_point(shared, request).await?;
    Ok(answer.map(|UpdateGcSafePointResponse { header, new_safe_point }| {
        UpdateGcSafePointV2Response { header, new_safe_point }
    }))
}

pub(super) async fn update_service_v2(
    shared: &Arc<Shared>,
    request: UpdateServiceSafePointV2Request,
) -> Reply<UpdateServiceSafePointV2Response> {
    let UpdateServiceSafePointV2Request { header, service_id, safe_point, ttl, .. } = request;
    // The marks are the cluster's, the names of services a keyspace's own: those of two hold back together.
    let keyspace = format!("keyspace {}: ", request.keyspace_id.unwrap_or_default());
    let is_driver = service_id == DRIVER;
    let prefix = if is_driver { "" } else { &keyspace };
    let service_id = [prefix.as_bytes(), &service_id].concat().into();
    let request = UpdateServiceGcSafePointRequest { header, service_id, ttl, safe_point };
    let answer = update_service(shared, request).await?;
    Ok(answer.map(|answer| UpdateServiceSafePointV2Response {
        header: answer.header,
        service_id: match answer.service_id.strip_prefix(keyspace.as_bytes()) {
            Some(own) => answer.service_id.slice_ref(own),
            None => answer.service_id,
        },
        ttl: answer.ttl,
        min_safe_point: answer.min_safe_point,
    }))
}

pub(super) async fn get_state(
    shared: &Arc<Shared>,
    request: GetGcStateRequest,
) -> Reply<GetGcStateResponse> {
    admit(shared, request.header.as_ref())?;
    let (wall_ms, marks) = (shared.now().wall_ms, shared.cluster().marks().cloned());
    reply(shared, marks, |header, marks| {
        let marks = marks.unwrap_or_default();
        let state = state_of(&marks, request.keyspace_scope, request.exclude_gc_barriers, wall_ms);
        let globals = GlobalGcBarriersInfo { barriers: globals_of(&marks, wall_ms) };
        let is_wanted = request.include_global_gc_barriers;
        GetGcStateResponse {
            header,
            gc_state: Some(state),
            global_gc_barriers: is_wanted.then_some(globals),
        }
    })
}

pub(super) async fn get_all_states(
    shared: &Arc<Shared>,
    request: GetAllKeyspacesGcStatesRequest,
) -> Reply<GetAllKeyspacesGcStatesResponse> {
    admit(shared, request.header.as_ref())?;
    let (wall_ms, marks) = (shared.now().wall_ms, shared.cluster().marks().cloned());
    reply(shared, marks, |header, marks| {
        let marks = marks.unwrap_or_default();
        let state = state_of(&marks, None, request.exclude_gc_barriers, wall_ms);
        let globals = match request.exclude_global_gc_barriers {
            true => Vec::new(),
            false => globals_of(&marks, wall_ms),
        };
        GetAllKeyspacesGcStatesResponse {
            header,
            gc_states: vec![state],
            global_gc_barriers: globals,
        }
    })
}

pub(super) async fn advance_txn_safe_point(
    shared: &Arc<Shared>,
    request: AdvanceTxnSafePointRequest,
) -> Reply<AdvanceTxnSafePointResponse> {
    admit(shared, request.header.as_ref())?;
    let target = request.target;
    let raised = shared.decide(|cluster, now| cluster.advance_txn_safe_point(target, now)).await;
    reply(shared, raised, |header, advance| {
        let Advance { old, new, blocker } = advance.unwrap_or_default();
        let described = |(name, ts): (BarrierName, u64)| format!("barrier {:?} at {ts}", name.name);
        AdvanceTxnSafePointResponse {
            header,
            old_txn_safe_point: old,
            new_txn_safe_point: new,
            blocker_description: blocker.map(described).unwrap_or_default(),
        }
    })
}

pub(super) async fn advance_gc_safe_point(
    shared: &Arc<Shared>,
    request: AdvanceGcSafePointRequest,
) -> Reply<AdvanceGcSafePointResponse> {
    admit(shared, request.header.as_ref())?;
    let target = request.target;
    let raised = shared.decide(|cluster, _| cluster.advance_gc_safe_point(target)).await;
    reply(shared, raised, |header, advance| {
        let Advance { old, new, .. } = advance.unwrap_or_default();
        AdvanceGcSafePointResponse { header, old_gc_safe_point: old, new_gc_safe_point: new }
    })
}

pub(super) async fn set_barrier(
    shared: &Arc<Shared>,
    request: SetGcBarrierRequest,
) -> Reply<SetGcBarrierResponse> {
    admit(shared, request.header.as_ref())?;
    let name = BarrierName::of(&request.barrier_id);
    let put_up = put_up(shared, &name, request.barrier_ts, request.ttl_seconds).await;
    let wall_ms = shared.now().wall_ms;
    reply(shared, put_up, |header, barrier| SetGcBarrierResponse {
        header,
        new_barrier_info: barrier.map(|barrier| info(&name, &barrier, wall_ms)),
    })
}

pub(super) async fn set_global_barrier(
    shared: &Arc<Shared>,
    request: SetGlobalGcBarrierRequest,
) -> Reply<SetGlobalGcBarrierResponse> {
    admit(shared, request.header.as_ref())?;
    let name = BarrierName { is_global: true, name: request.barrier_id };
    let put_up = put_up(shared, &name, request.barrier_ts, request.ttl_seconds).await;
    let wall_ms = shared.now().wall_ms;
    reply(shared, put_up, |header, barrier| SetGlobalGcBarrierResponse {
        header,
        new_barrier_info: barrier.map(|barrier| global(&name, &barrier, wall_ms)),
    })
}

async fn put_up(
    shared: &Arc<Shared>,
    name: &BarrierName,
    ts: u64,
    ttl_seconds: i64,
) -> crate::Result<Barrier> {
    let name = name.clone();
    shared.decide(|cluster, now| cluster.set_barrier(name, ts, ttl_seconds, now)).await
}

pub(super) async fn delete_barrier(
    shared: &Arc<Shared>,
    request: DeleteGcBarrierRequest,
) -> Reply<DeleteGcBarrierResponse> {
    admit(shared, request.header.as_ref())?;
    let name = BarrierName::of(&request.barrier_id);
    let deleted = shared.decide(|cluster, now| cluster.delete_barrier(name.clone(), now)).await;
    let wall_ms = shared.now().wall_ms;
    reply(shared, deleted, |header, barrier| DeleteGcBarrierResponse {
        header,
        deleted_barrier_info: barrier.flatten().map(|barrier| info(&name, &barrier, wall_ms)),
    })
}

pub(super) async fn delete_global_barrier(
    shared: &Arc<Shared>,
    request: DeleteGlobalGcBarrierRequest,
) -> Reply<DeleteGlobalGcBarrierResponse> {
    admit(shared, request.header.as_ref())?;
    let name = BarrierName { is_global: true, name: request.barrier_id };
    let deleted = shared.decide(|cluster, now| cluster.delete_barrier(name.clone(), now)).await;
    let wall_ms = shared.now().wall_ms;
    reply(shared, deleted, |header, barrier| DeleteGlobalGcBarrierResponse {
        header,
        deleted_barrier_info: barrier.flatten().map(|barrier| global(&name, &barrier, wall_ms)),
    })
}

fn state_of(
    marks: &Marks,
    scope: Option<KeyspaceScope>,
    without_barriers: bool,
    wall_ms: u64,
) -> GcState {
    let own = marks.barriers(wall_ms).filter(|(name, _)| !name.is_global && !without_barriers);
    GcState {
        keyspace_scope: scope,
        is_keyspace_level_gc: false,
        txn_safe_point: marks.txn(),
        gc_safe_point: marks.gc(),
        gc_barriers: own.map(|(name, barrier)| info(name, barrier, wall_ms)).collect(),
    }
}

fn globals_of(marks: &Marks, wall_ms: u64) -> Vec<GlobalGcBarrierInfo> {
    let globals = marks.barriers(wall_ms).filter(|(name, _)| name.is_global);
    globals.map(|(name, barrier)| global(name, barrier, wall_ms)).collect()
}

fn info(name: &BarrierName, barrier: &Barrier, wall_ms: u64) -> GcBarrierInfo {
    let (barrier_id, ttl_seconds) = (name.name.clone(), barrier.seconds_left(wall_ms));
    GcBarrierInfo { barrier_id, barrier_ts: barrier.ts, ttl_seconds }
}

fn global(name: &BarrierName, barrier: &Barrier, wall_ms: u64) -> GlobalGcBarrierInfo {
    let (barrier_id, ttl_seconds) = (name.name.clone(), barrier.seconds_left(wall_ms));
    GlobalGcBarrierInfo { barrier_id, barrier_ts: barrier.ts, ttl_seconds }
}

/// The service for stores.
pub(super) struct Rounds {
    shared: Arc<Shared>,
}

impl Rounds {
    pub(super) fn new(shared: Arc<Shared>) -> Rounds {
        Rounds { shared }
    }
}

#[tonic::async_trait]
impl Gc for Rounds {
    async fn report(&self, request: Request<ReportRequest>) -> Reply<ReportResponse> {
        let shared = &self.shared;
        let request = request.into_inner();
        admit(shared, request.header.as_ref())?;
        let store = StoreId::new(request.store_id);
        let report = Report::from(request);
        // Were something else decided in between, the store could be told what it has heard already, and be silent.
        let event = |cluster: &mut Cluster, now| cluster.collection_report(store, report, now);
        let taken = shared.decide_and_look(event, Cluster::collection_order).await;
        let order = taken.and_then(|((), order)| order);
        reply(shared, order, |header, order| match order {
            Some(order) => ReportResponse { header, ..order.into() },
            None => ReportResponse { header, ..ReportResponse::default() },
        })
    }
}
