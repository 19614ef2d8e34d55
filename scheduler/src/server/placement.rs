//! `pdpb.PD`: one short method a call. Each checks the header, asks the cluster, and shapes the answer.
//! Methods of the service that are not here answer UNIMPLEMENTED.

use std::sync::Arc;

use skerry_proto::metapb;
use skerry_proto::pdpb::pd_server::Pd;
use skerry_proto::pdpb::*;
use skerry_proto::region::KeyBounds;
use skerry_proto::types::{RegionId, StoreId, Ts};
use slog::info;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::reply::{Reply, admit, header, reply, status};
use super::streams::{Answers, heartbeats};
use super::{Shared, gc, moves};
use crate::Error;
use crate::cluster::Cluster;
use crate::region_tree::RegionRecord;
use crate::tso::LOGICAL_MAX;

/// The service.
pub(super) struct Placement {
    shared: Arc<Shared>,
    member: Member,
}

impl Placement {
    /// The service over the shared state; `member` is how this process is listed.
    pub(super) fn new(shared: Arc<Shared>, member: Member) -> Placement {
        Placement { shared, member }
    }

    /// One region out of the cluster, as an answer.
    fn region(
        &self,
        header: Option<&RequestHeader>,
        find: impl FnOnce(&Cluster) -> crate::Result<Option<Arc<RegionRecord>>>,
    ) -> Reply<GetRegionResponse> {
        admit(&self.shared, header)?;
        let found = find(&self.shared.cluster());
        reply(&self.shared, found, |header, record| match record.flatten() {
            Some(record) => GetRegionResponse {
                header,
                region: Some(record.region.clone()),
                leader: record.leader,
                down_peers: record.down_peers.clone(),
                pending_peers: record.pending_peers.clone(),
            },
            None => GetRegionResponse { header, ..GetRegionResponse::default() },
        })
    }
}

#[tonic::async_trait]
impl Pd for Placement {
    // ---- The scheduler itself. The first two must not ask for a cluster id: this is how it is learnt.

    async fn get_members(&self, _: Request<GetMembersRequest>) -> Reply<GetMembersResponse> {
        Ok(Response::new(GetMembersResponse {
            header: header(&self.shared),
            members: vec![self.member.clone()],
            leader: Some(self.member.clone()),
            etcd_leader: Some(self.member.clone()),
        }))
    }

    async fn get_cluster_info(
        &self,
        _: Request<GetClusterInfoRequest>,
    ) -> Reply<GetClusterInfoResponse> {
        Ok(Response::new(GetClusterInfoResponse {
            header: header(&self.shared),
            service_modes: vec![ServiceMode::PdSvcMode.into()],
            tso_urls: vec![],
        }))
    }

    async fn get_cluster_config(
        &self,
        request: Request<GetClusterConfigRequest>,
    ) -> Reply<GetClusterConfigResponse> {
        admit(&self.shared, request.get_ref().header.as_ref())?;
        let settings = self.shared.cluster().settings();
        reply(&self.shared, settings, |header, cluster| GetClusterConfigResponse {
            header,
            cluster,
        })
    }

    async fn put_cluster_config(
        &self,
        request: Request<PutClusterConfigRequest>,
    ) -> Reply<PutClusterConfigResponse> {
        let request = request.into_inner();
        admit(&self.shared, request.header.as_ref())?;
        let done = self.shared.decide(|cluster, _| cluster.put_settings(request.cluster)).await;
        reply(&self.shared, done, |header, _| PutClusterConfigResponse { header })
    }

    // ---- Ids and timestamps.

    async fn alloc_id(&self, request: Request<AllocIdRequest>) -> Reply<AllocIdResponse> {
        let request = request.into_inner();
        admit(&self.shared, request.header.as_ref())?;
        let wanted = u64::from(request.count);
        let last = self.shared.decide(|cluster, _| cluster.allocate_ids(wanted)).await;
        let count = if request.count > 1 { request.count } else { 0 };
        reply(&self.shared, last, |header, last| match last {
            Some(id) => AllocIdResponse { header, id, count },
            None => AllocIdResponse { header, ..AllocIdResponse::default() },
        })
    }

    async fn tso(&self, request: Request<Streaming<TsoRequest>>) -> Reply<BoxStream<TsoResponse>> {
        let shared = Arc::clone(&self.shared);
        let answers = Answers::new(&self.shared, request.into_inner(), move |requests| {
            Box::pin(give_timestamps(Arc::clone(&shared), requests))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn get_min_ts(&self, request: Request<GetMinTsRequest>) -> Reply<GetMinTsResponse> {
        admit(&self.shared, request.get_ref().header.as_ref())?;
        let granted = self.shared.timestamps.allocate(&[1]).await;
        let timestamp = granted.first().map(|ts| to_wire(*ts));
        Ok(Response::new(GetMinTsResponse { header: header(&self.shared), timestamp }))
    }

    // ---- Stores.

    async fn is_bootstrapped(
        &self,
        request: Request<IsBootstrappedRequest>,
    ) -> Reply<IsBootstrappedResponse> {
        admit(&self.shared, request.get_ref().header.as_ref())?;
        let bootstrapped = self.shared.cluster().is_bootstrapped();
        Ok(Response::new(IsBootstrappedResponse { header: header(&self.shared), bootstrapped }))
    }

    async fn bootstrap(&self, request: Request<BootstrapRequest>) -> Reply<BootstrapResponse> {
        let request = request.into_inner();
        admit(&self.shared, request.header.as_ref())?;
        let store = request.store.as_ref().map_or(0, |store| store.id);
        let event =
            |cluster: &mut Cluster, now| cluster.bootstrap(request.store, request.region, now);
        let done = self.shared.decide(event).await;
        if done.is_ok() {
            info!(self.shared.logger, "the cluster is bootstrapped"; "store" => store);
        }
        reply(&self.shared, done, |header, _| BootstrapResponse { header })
    }

    async fn put_store(&self, request: Request<PutStoreRequest>) -> Reply<PutStoreResponse> {
        let request = request.into_inner();
        admit(&self.shared, request.header.as_ref())?;
        let (id, address) =
            request.store.as_ref().map_or((0, String::new()), |it| (it.id, it.address.clone()));
        let done = self.shared.decide(|cluster, now| cluster.put_store(request.store, now)).await;
        match &done {
            Ok(()) => info!(self.shared.logger, "store registered"; "store" => id, "at" => address),
            Err(error) => info!(self.shared.logger, "store refused: {}", error; "store" => id),
        }
        reply(&self.shared, done, |header, _| PutStoreResponse { header })
    }

    async fn get_store(&self, request: Request<GetStoreRequest>) -> Reply<GetStoreResponse> {
        let request = request.into_inner();
        admit(&self.shared, request.header.as_ref())?;
        let id = StoreId::new(request.store_id);
        let found = self.shared.cluster().store(id).cloned();
        reply(&self.shared, found, |header, record| GetStoreResponse {
            header,
            store: record.as_ref().map(|record| record.described()),
            stats: record.and_then(|record| record.heartbeat).map(|heartbeat| heartbeat.stats),
        })
    }

    async fn get_all_stores(
        &self,
        request: Request<GetAllStoresRequest>,
    ) -> Reply<GetAllStoresResponse> {
        let request = request.into_inner();
        admit(&self.shared, request.header.as_ref())?;
        let all = self.shared.cluster().stores().map(|stores| -> Vec<metapb::Store> {
            let wanted = |store: &metapb::Store| {
                !request.exclude_tombstone_stores || store.state() != metapb::StoreState::Tombstone
            };
            stores.map(|record| record.described()).filter(wanted).collect()
        });
        reply(&self.shared, all, |header, stores| GetAllStoresResponse {
            header,
            stores: stores.unwrap_or_default(),
        })
    }

    async fn store_heartbeat(
        &self,
        request: Request<StoreHeartbeatRequest>,
    ) -> Reply<StoreHeartbeatResponse> {
        let request = request.into_inner();
        admit(&self.shared, request.header.as_ref())?;
        let missing = || status(&Error::Malformed("a store heartbeat without stats".to_string()));
        let stats = request.stats.ok_or_else(missing)?;
        let news = self.shared.cluster().store_heartbeat(stats, self.shared.now());
        reply(&self.shared, news, |header, news| match news {
            Some(news) => StoreHeartbeatResponse {
                header,
                cluster_version: news.cluster_version,
                state: news.state.into(),
            },
            None => StoreHeartbeatResponse { header, ..StoreHeartbeatResponse::default() },
        })
    }

    // ---- Regions: looking up.

    async fn get_region(&self, request: Request<GetRegionRequest>) -> Reply<GetRegionResponse> {
        let request = request.into_inner();
        self.region(request.header.as_ref(), |cluster| cluster.region_by_key(&request.region_key))
    }

    async fn get_prev_region(
        &self,
        request: Request<GetRegionRequest>,
    ) -> Reply<GetRegionResponse> {
        let request = request.into_inner();
        self.region(request.header.as_ref(), |cluster| {
            cluster.region_before_key(&request.region_key)
        })
    }

    async fn get_region_by_id(
        &self,
        request: Request<GetRegionByIdRequest>,
    ) -> Reply<GetRegionResponse> {
        let request = request.into_inner();
        let id = RegionId::new(request.region_id);
        self.region(request.header.as_ref(), |cluster| cluster.region_by_id(id))
    }

    async fn scan_regions(
        &self,
        request: Request<ScanRegionsRequest>,
    ) -> Reply<ScanRegionsResponse> {
        let request = request.into_inner();
        admit(&self.shared, request.header.as_ref())?;
        let range = KeyBounds::new(&request.start_key, &request.end_key);
        let found = self.shared.cluster().scan(range, limit(request.limit));
        reply(&self.shared, found, |header, records| {
            let regions = regions(records.unwrap_or_default());
            let leader = |region: &Region| region.leader.unwrap_or_default();
            ScanRegionsResponse {
                header,
                region_metas: regions.iter().filter_map(|region| region.region.clone()).collect(),
                leaders: regions.iter().map(leader).collect(),
                regions,
            }
        })
    }

    async fn batch_scan_regions(
        &self,
        request: Request<BatchScanRegionsRequest>,
    ) -> Reply<BatchScanRegionsResponse> {
        let request = request.into_inner();
        admit(&self.shared, request.header.as_ref())?;
        let ranges: Vec<_> = request.ranges.iter().map(bounds).collect();
        let whole = request.contain_all_key_range;
        let found = self.shared.cluster().batch_scan(&ranges, limit(request.limit), whole);
        reply(&self.shared, found, |header, records| BatchScanRegionsResponse {
            header,
            regions: regions(records.unwrap_or_default()),
        })
    }

    async fn query_region(
        &self,
        request: Request<Streaming<QueryRegionRequest>>,
    ) -> Reply<BoxStream<QueryRegionResponse>> {
        let shared = Arc::clone(&self.shared);
        let answers = Answers::new(&self.shared, request.into_inner(), move |requests| {
            let found = requests.iter().map(|request| query_regions(&shared, request));
            Box::pin(std::future::ready(found.collect()))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    // ---- Regions: reporting and splitting.

    async fn region_heartbeat(
        &self,
        request: Request<Streaming<RegionHeartbeatRequest>>,
    ) -> Reply<BoxStream<RegionHeartbeatResponse>> {
        let stream = heartbeats(Arc::clone(&self.shared), request.into_inner());
        Ok(Response::new(Box::pin(stream)))
    }

    async fn ask_batch_split(
        &self,
        request: Request<AskBatchSplitRequest>,
    ) -> Reply<AskBatchSplitResponse> {
        let request = request.into_inner();
        admit(&self.shared, request.header.as_ref())?;
        let count = request.split_count;
        let ids = self.shared.decide(|cluster, _| cluster.ask_split(request.region, count)).await;
        reply(&self.shared, ids, |header, ids| AskBatchSplitResponse {
            header,
            ids: ids.unwrap_or_default(),
        })
    }

    async fn report_batch_split(
        &self,
        request: Request<ReportBatchSplitRequest>,
    ) -> Reply<ReportBatchSplitResponse> {
        let request = request.into_inner();
        admit(&self.shared, request.header.as_ref())?;
        let done = self.shared.cluster().report_split(request.regions, self.shared.now());
        reply(&self.shared, done, |header, _| ReportBatchSplitResponse { header })
    }

    // ---- Regions: cutting and spreading them on request.

    async fn split_regions(
        &self,
        request: Request<SplitRegionsRequest>,
    ) -> Reply<SplitRegionsResponse> {
        let request = request.into_inner();
        admit(&self.shared, request.header.as_ref())?;
        let done = moves::split(&self.shared, &request.split_keys, request.retry_limit).await;
        reply(&self.shared, done, |header, several| {
            let several = several.unwrap_or_default();
            let (finished_percentage, regions_id) = (several.percentage(), ids(several.well));
            SplitRegionsResponse { header, finished_percentage, regions_id }
        })
    }

    async fn scatter_region(
        &self,
        request: Request<ScatterRegionRequest>,
    ) -> Reply<ScatterRegionResponse> {
        let request = request.into_inner();
        admit(&self.shared, request.header.as_ref())?;
        // The older form names one.
        let named = match request.regions_id.is_empty() {
            true => vec![request.region_id],
            false => request.regions_id,
        };
        let named: Vec<RegionId> = named.into_iter().map(RegionId::new).collect();
        let done = moves::scatter(&self.shared, &request.group, &named).await;
        // Clients look at the header alone, and come again: a region that was just made is told of a little later.
        let is_known =
            |id: &RegionId| matches!(self.shared.cluster().region_by_id(*id), Ok(Some(_)));
        let done = done.and_then(|several| match named.iter().any(is_known) {
            true => Ok(several),
            false => Err(Error::UnknownRegion(named[0].get())),
        });
        reply(&self.shared, done, |header, several| {
            let several = several.unwrap_or_default();
            ScatterRegionResponse {
                header,
                finished_percentage: several.percentage(),
                failed_regions_id: ids(several.failed.into_keys()),
            }
        })
    }

    async fn split_and_scatter_regions(
        &self,
        request: Request<SplitAndScatterRegionsRequest>,
    ) -> Reply<SplitAndScatterRegionsResponse> {
        let request = request.into_inner();
        admit(&self.shared, request.header.as_ref())?;
        let keys = &request.split_keys;
        let done = async {
            let cut = moves::split(&self.shared, keys, request.retry_limit).await?;
            let spread = moves::scatter(&self.shared, &request.group, &cut.well).await?;
            Ok((cut, spread))
        };
        reply(&self.shared, done.await, |header, several| {
            let (cut, spread) = several.unwrap_or_default();
            SplitAndScatterRegionsResponse {
                header,
                split_finished_percentage: cut.percentage(),
                scatter_finished_percentage: spread.percentage(),
                regions_id: ids(cut.well),
            }
        })
    }

    async fn get_operator(
        &self,
        request: Request<GetOperatorRequest>,
    ) -> Reply<GetOperatorResponse> {
        let request = request.into_inner();
        admit(&self.shared, request.header.as_ref())?;
        let region = RegionId::new(request.region_id);
        let found = moves::operator(&self.shared.cluster(), region, header(&self.shared));
        reply(&self.shared, found, |header, found| match found {
            Some(found) => found,
            None => GetOperatorResponse { header, ..GetOperatorResponse::default() },
        })
    }

    // ---- Garbage collection.

    async fn get_gc_safe_point(
        &self,
        request: Request<GetGcSafePointRequest>,
    ) -> Reply<GetGcSafePointResponse> {
        gc::get_safe_point(&self.shared, request.into_inner()).await
    }

    async fn update_gc_safe_point(
        &self,
        request: Request<UpdateGcSafePointRequest>,
    ) -> Reply<UpdateGcSafePointResponse> {
        gc::update_safe_point(&self.shared, request.into_inner()).await
    }

    async fn update_service_gc_safe_point(
        &self,
        request: Request<UpdateServiceGcSafePointRequest>,
    ) -> Reply<UpdateServiceGcSafePointResponse> {
        gc::update_service(&self.shared, request.into_inner()).await
    }

    async fn get_gc_safe_point_v2(
        &self,
        request: Request<GetGcSafePointV2Request>,
    ) -> Reply<GetGcSafePointV2Response> {
        gc::get_safe_point_v2(&self.shared, request.into_inner()).await
    }

    async fn update_gc_safe_point_v2(
        &self,
        request: Request<UpdateGcSafePointV2Request>,
    ) -> Reply<UpdateGcSafePointV2Response> {
        gc::update_safe_point_v2(&self.shared, request.into_inner()).await
    }

    async fn update_service_safe_point_v2(
        &self,
        request: Request<UpdateServiceSafePointV2Request>,
    ) -> Reply<UpdateServiceSafePointV2Response> {
        gc::update_service_v2(&self.shared, request.into_inner()).await
    }

    async fn get_gc_state(&self, request: Request<GetGcStateRequest>) -> Reply<GetGcStateResponse> {
        gc::get_state(&self.shared, request.into_inner()).await
    }

    async fn get_all_keyspaces_gc_states(
        &self,
        request: Request<GetAllKeyspacesGcStatesRequest>,
    ) -> Reply<GetAllKeyspacesGcStatesResponse> {
        gc::get_all_states(&self.shared, request.into_inner()).await
    }

    async fn advance_txn_safe_point(
        &self,
        request: Request<AdvanceTxnSafePointRequest>,
    ) -> Reply<AdvanceTxnSafePointResponse> {
        gc::advance_txn_safe_point(&self.shared, request.into_inner()).await
    }

    async fn advance_gc_safe_point(
        &self,
        request: Request<AdvanceGcSafePointRequest>,
    ) -> Reply<AdvanceGcSafePointResponse> {
        gc::advance_gc_safe_point(&self.shared, request.into_inner()).await
    }

    async fn set_gc_barrier(
        &self,
        request: Request<SetGcBarrierRequest>,
    ) -> Reply<SetGcBarrierResponse> {
        gc::set_barrier(&self.shared, request.into_inner()).await
    }

    async fn delete_gc_barrier(
        &self,
        request: Request<DeleteGcBarrierRequest>,
    ) -> Reply<DeleteGcBarrierResponse> {
        gc::delete_barrier(&self.shared, request.into_inner()).await
    }

    async fn set_global_gc_barrier(
        &self,
        request: Request<SetGlobalGcBarrierRequest>,
    ) -> Reply<SetGlobalGcBarrierResponse> {
        gc::set_global_barrier(&self.shared, request.into_inner()).await
    }

    async fn delete_global_gc_barrier(
        &self,
        request: Request<DeleteGlobalGcBarrierRequest>,
    ) -> Reply<DeleteGlobalGcBarrierResponse> {
        gc::delete_global_barrier(&self.shared, request.into_inner()).await
    }
}

/// Answers requests for timestamps that have arrived together. The first one that is refused ends the
/// stream.
async fn give_timestamps(
    shared: Arc<Shared>,
    requests: Vec<TsoRequest>,
) -> Vec<Result<TsoResponse, Status>> {
    let check = |request: &TsoRequest| {
        admit(&shared, request.header.as_ref())?;
        if !(1..=LOGICAL_MAX).contains(&request.count) {
            let reason = format!("count is {}; allowed is 1 to {LOGICAL_MAX}", request.count);
            return Err(status(&Error::Malformed(reason)));
        }
        Ok(())
    };
    let good = requests.iter().take_while(|request| check(request).is_ok());
    let counts: Vec<u32> = good.map(|request| request.count).collect();
    let granted = shared.timestamps.allocate(&counts).await;
    let answer = |(count, largest): (&u32, Ts)| {
        let (header, timestamp) = (header(&shared), Some(to_wire(largest)));
        Ok(TsoResponse { header, count: *count, timestamp })
    };
    let mut answers: Vec<_> = counts.iter().zip(granted).map(answer).collect();
    let refused = requests.get(counts.len()).and_then(|request| check(request).err());
    answers.extend(refused.map(Err));
    answers
}

fn to_wire(ts: Ts) -> Timestamp {
    Timestamp {
        physical: i64::try_from(ts.physical_ms()).expect("46 bits fit"),
        logical: i64::try_from(ts.logical()).expect("18 bits fit"),
        suffix_bits: 0,
    }
}

/// Answers one request of the QueryRegion stream.
fn query_regions(
    shared: &Shared,
    request: &QueryRegionRequest,
) -> Result<QueryRegionResponse, Status> {
    admit(shared, request.header.as_ref())?;
    let found = find_regions(&shared.cluster(), request);
    let answer = reply(shared, found, |header, found| match found {
        Some(answer) => QueryRegionResponse { header, ..answer },
        None => QueryRegionResponse { header, ..QueryRegionResponse::default() },
    });
    answer.map(Response::into_inner)
}

/// Everything that a QueryRegion asks for; 0 stands for what is not known.
fn find_regions(
    cluster: &Cluster,
    request: &QueryRegionRequest,
) -> crate::Result<QueryRegionResponse> {
    cluster.settings()?;
    let mut answer = QueryRegionResponse::default();
    let mut note = |record: Option<Arc<RegionRecord>>| -> u64 {
        let Some(record) = record else { return 0 };
        let id = record.region.id;
        answer.regions_by_id.entry(id).or_insert_with(|| RegionResponse {
            region: Some(record.region.clone()),
            leader: record.leader,
            down_peers: record.down_peers.clone(),
            pending_peers: record.pending_peers.clone(),
        });
        id
    };
    let mut key_ids = Vec::with_capacity(request.keys.len());
    for key in &request.keys {
        key_ids.push(note(cluster.region_by_key(key)?));
    }
    let mut previous_ids = Vec::with_capacity(request.prev_keys.len());
    for key in &request.prev_keys {
        previous_ids.push(note(cluster.region_before_key(key)?));
    }
    for id in &request.ids {
        note(cluster.region_by_id(RegionId::new(*id))?);
    }
    Ok(QueryRegionResponse { key_id_map: key_ids, prev_key_id_map: previous_ids, ..answer })
}

/// Regions as scans list them. Where no leader is known the field holds an empty peer in the older form
/// of the answer, and nothing here.
fn regions(records: Vec<Arc<RegionRecord>>) -> Vec<Region> {
    let region = |record: Arc<RegionRecord>| Region {
        region: Some(record.region.clone()),
        leader: record.leader,
        down_peers: record.down_peers.clone(),
        pending_peers: record.pending_peers.clone(),
    };
    records.into_iter().map(region).collect()
}

fn bounds(range: &KeyRange) -> KeyBounds<'_> {
    KeyBounds::new(&range.start_key, &range.end_key)
}

fn ids(regions: impl IntoIterator<Item = RegionId>) -> Vec<u64> {
    regions.into_iter().map(RegionId::get).collect()
}

/// A limit on the wire: 0 and negative numbers mean that there is none.
fn limit(wire: i32) -> usize {
    usize::try_from(wire).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX)
}
