//! `tikvpb.Tikv` on the wire: one short method per call, each the same three steps.
//!
//! 1. [`Call::open`] takes region, version and deadline out of the request.
//! 2. The call runs on [`RawStore`]; writes first wait for their permit.
//! 3. [`finish`] turns the result into a reply: a value, a `region_error`, an `error` text, or a
//!    gRPC status for outcomes that nobody knows. Replies without a text of their own carry it in
//!    the `error` of their first pair, where clients look for it.
//!
//! Transactional calls are the same over [`TxnStore`], in [`txn`]; those about regions and the store are in [`store`].
//! All that clients may send through one stream come in by [`batch`], which calls the methods here.
//!
//! Calls that are not served answer UNIMPLEMENTED by the defaults of the generated trait. What
//! a call means is said in [`crate::raw`] and [`crate::txn`]; nothing is decided here.

use std::sync::Arc;

use bytes::Bytes;
use skerry_proto::errorpb;
use skerry_proto::kvrpcpb::*;
use skerry_proto::raft_serverpb::{Done, SnapshotChunk};
use skerry_proto::tikvpb::tikv_server::Tikv;
use skerry_proto::tikvpb::{BatchCommandsRequest, BatchCommandsResponse, BatchRaftMessage};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use crate::error::Error;
use crate::net::inlet::RaftInlet;
use crate::raw::put::spread_ttls;
use crate::raw::{CompareAndSwap, Ordering, Put, RawStore, Scan, Swap};
use crate::server::admission::Room;
use crate::txn::TxnStore;

mod batch;
mod call;
mod commands;
mod past_waits;
mod store;
mod txn;
mod txn_wire;

use call::{Call, Refused, finish};
use store::StoreCalls;
pub use store::Surroundings;
use txn::TxnCalls;

/// Serves the calls of clients. Clones share everything.
#[derive(Clone)]
pub struct KvService {
    raw: Arc<RawStore>,
    txn: TxnCalls,
    /// Calls about the store itself.
    home: Arc<StoreCalls>,
    /// The cluster that requests may name.
    cluster_id: u64,
}

impl KvService {
    /// Serves raw calls from `raw`, those of transactions from `txn`, and others for the store around them.
    pub fn new(raw: Arc<RawStore>, txn: Arc<TxnStore>, store: Surroundings) -> KvService {
        let cluster_id = store.cluster_id;
        let home = Arc::new(StoreCalls::new(store, Arc::clone(&txn)));
        KvService { raw, txn: TxnCalls::new(txn, cluster_id), home, cluster_id }
    }

    fn inlet(&self) -> Result<&RaftInlet, Status> {
        let inlet = self.home.inlet.as_ref();
        inlet.ok_or_else(|| Status::unimplemented("a standalone store has no replicas"))
    }
}

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Tikv for KvService {
    async fn batch_raft(&self, request: Request<Streaming<BatchRaftMessage>>) -> Reply<Done> {
        self.inlet()?.batch_raft(request).await
    }

    async fn snapshot(&self, request: Request<Streaming<SnapshotChunk>>) -> Reply<Done> {
        self.inlet()?.snapshot(request).await
    }

    async fn batch_commands(
        &self,
        request: Request<Streaming<BatchCommandsRequest>>,
    ) -> Reply<BoxStream<BatchCommandsResponse>> {
        // Admission has put it there, if there is one before this service.
        let room = request.extensions().get::<Room>().cloned().unwrap_or_default();
        let answers = batch::serve(self.clone(), request.into_inner(), room);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn raw_get(&self, request: Request<RawGetRequest>) -> Reply<RawGetResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let got = call.read(self.raw.get(&call.context, &request.cf, &request.key)).await;
        finish(
            got,
            |value| RawGetResponse {
                not_found: value.is_none(),
                value: value.unwrap_or_default(),
                ..Default::default()
            },
            |region_error, error| RawGetResponse { region_error, error, ..Default::default() },
        )
    }

    async fn raw_batch_get(
        &self,
        request: Request<RawBatchGetRequest>,
    ) -> Reply<RawBatchGetResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let read = self.raw.batch_get(&call.context, &request.cf, request.keys);
        finish_pairs(call.read(read).await, |region_error, pairs| RawBatchGetResponse {
            region_error,
            pairs,
        })
    }

    async fn raw_put(&self, request: Request<RawPutRequest>) -> Reply<RawPutResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let RawPutRequest { key, value, cf, ttl, for_cas, .. } = request;
        let bytes = key.len() + value.len();
        let puts = vec![Put { key, value, ttl_seconds: ttl }];
        let ordering = Ordering::from_wire(for_cas);
        let write = |permit| self.raw.put(&call.context, &cf, puts, ordering, permit);
        finish(
            call.write(self.raw.permits(), bytes, write).await,
            |()| RawPutResponse::default(),
            |region_error, error| RawPutResponse { region_error, error },
        )
    }

    async fn raw_batch_put(
        &self,
        request: Request<RawBatchPutRequest>,
    ) -> Reply<RawBatchPutResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let RawBatchPutRequest { pairs, cf, ttl, ttls, for_cas, .. } = request;
        let bytes = pairs.iter().map(|pair| pair.key.len() + pair.value.len()).sum();
        let ordering = Ordering::from_wire(for_cas);
        let write = async |permit| {
            let ttls = spread_ttls(&ttls, ttl, pairs.len())?;
            let puts = pairs.into_iter().zip(ttls).map(|(pair, ttl_seconds)| Put {
                key: pair.key,
                value: pair.value,
                ttl_seconds,
            });
            self.raw.put(&call.context, &cf, puts.collect(), ordering, permit).await
        };
        finish(
            call.write(self.raw.permits(), bytes, write).await,
            |()| RawBatchPutResponse::default(),
            |region_error, error| RawBatchPutResponse { region_error, error },
        )
    }

    async fn raw_delete(&self, request: Request<RawDeleteRequest>) -> Reply<RawDeleteResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let RawDeleteRequest { key, cf, for_cas, .. } = request;
        let (bytes, ordering) = (key.len(), Ordering::from_wire(for_cas));
        let write = |permit| self.raw.delete(&call.context, &cf, vec![key], ordering, permit);
        finish(
            call.write(self.raw.permits(), bytes, write).await,
            |()| RawDeleteResponse::default(),
            |region_error, error| RawDeleteResponse { region_error, error },
        )
    }

    async fn raw_batch_delete(
        &self,
        request: Request<RawBatchDeleteRequest>,
    ) -> Reply<RawBatchDeleteResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let RawBatchDeleteRequest { keys, cf, for_cas, .. } = request;
        let (bytes, ordering) = (keys.iter().map(Bytes::len).sum(), Ordering::from_wire(for_cas));
        let write = |permit| self.raw.delete(&call.context, &cf, keys, ordering, permit);
        finish(
            call.write(self.raw.permits(), bytes, write).await,
            |()| RawBatchDeleteResponse::default(),
            |region_error, error| RawBatchDeleteResponse { region_error, error },
        )
    }

    async fn raw_scan(&self, request: Request<RawScanRequest>) -> Reply<RawScanResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let scan = Scan {
            ranges: vec![(request.start_key, request.end_key)],
            limit: request.limit,
            key_only: request.key_only,
            reverse: request.reverse,
        };
        let scanned = call.read(self.raw.scan(&call.context, &request.cf, scan)).await;
        finish_pairs(scanned, |region_error, kvs| RawScanResponse { region_error, kvs })
    }

    async fn raw_batch_scan(
        &self,
        request: Request<RawBatchScanRequest>,
    ) -> Reply<RawBatchScanResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let scan = Scan {
            ranges: plain_ranges(request.ranges),
            limit: request.each_limit,
            key_only: request.key_only,
            reverse: request.reverse,
        };
        let scanned = call.read(self.raw.scan(&call.context, &request.cf, scan)).await;
        finish_pairs(scanned, |region_error, kvs| RawBatchScanResponse { region_error, kvs })
    }

    async fn raw_delete_range(
        &self,
        request: Request<RawDeleteRangeRequest>,
    ) -> Reply<RawDeleteRangeResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let RawDeleteRangeRequest { start_key, end_key, cf, .. } = request;
        let (bytes, range) = (start_key.len() + end_key.len(), (&start_key[..], &end_key[..]));
        let write = |permit| self.raw.delete_range(&call.context, &cf, range, permit);
        finish(
            call.write(self.raw.permits(), bytes, write).await,
            |()| RawDeleteRangeResponse::default(),
            |region_error, error| RawDeleteRangeResponse { region_error, error },
        )
    }

    async fn raw_get_key_ttl(
        &self,
        request: Request<RawGetKeyTtlRequest>,
    ) -> Reply<RawGetKeyTtlResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let got = call.read(self.raw.key_ttl(&call.context, &request.cf, &request.key)).await;
        finish(
            got,
            |ttl| RawGetKeyTtlResponse {
                not_found: ttl.is_none(),
                ttl: ttl.unwrap_or_default(),
                ..Default::default()
            },
            |region_error, error| RawGetKeyTtlResponse {
                region_error,
                error,
                ..Default::default()
            },
        )
    }

    async fn raw_compare_and_swap(&self, request: Request<RawCasRequest>) -> Reply<RawCasResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let RawCasRequest { key, value, cf, ttl, .. } = request;
        let bytes = key.len() + value.len();
        let expected = (!request.previous_not_exist).then_some(request.previous_value);
        let put = Swap::Put { value, ttl_seconds: ttl };
        let swap = if request.delete { Swap::Delete } else { put };
        let swap = CompareAndSwap { key, expected, swap };
        let write = |permit| self.raw.compare_and_swap(&call.context, &cf, swap, permit);
        finish(
            call.write(self.raw.permits(), bytes, write).await,
            |swapped| RawCasResponse {
                succeed: swapped.succeeded,
                previous_not_exist: swapped.previous.is_none(),
                previous_value: swapped.previous.unwrap_or_default(),
                ..Default::default()
            },
            |region_error, error| RawCasResponse { region_error, error, ..Default::default() },
        )
    }

    async fn raw_checksum(
        &self,
        request: Request<RawChecksumRequest>,
    ) -> Reply<RawChecksumResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let ranges = plain_ranges(request.ranges);
        let sum = call.read(self.raw.checksum(&call.context, request.algorithm, ranges)).await;
        finish(
            sum,
            |sum| RawChecksumResponse {
                checksum: sum.checksum,
                total_kvs: sum.total_pairs,
                total_bytes: sum.total_bytes,
                ..Default::default()
            },
            |region_error, error| RawChecksumResponse { region_error, error, ..Default::default() },
        )
    }

    async fn kv_get(&self, request: Request<GetRequest>) -> Reply<GetResponse> {
        self.txn.get(request).await
    }

    async fn kv_batch_get(&self, request: Request<BatchGetRequest>) -> Reply<BatchGetResponse> {
        self.txn.batch_get(request).await
    }

    async fn kv_scan(&self, request: Request<ScanRequest>) -> Reply<ScanResponse> {
        self.txn.scan(request).await
    }

    async fn kv_prewrite(&self, request: Request<PrewriteRequest>) -> Reply<PrewriteResponse> {
        self.txn.prewrite(request).await
    }

    async fn kv_pessimistic_lock(
        &self,
        request: Request<PessimisticLockRequest>,
    ) -> Reply<PessimisticLockResponse> {
        self.txn.pessimistic_lock(request).await
    }

    async fn kv_pessimistic_rollback(
        &self,
        request: Request<PessimisticRollbackRequest>,
    ) -> Reply<PessimisticRollbackResponse> {
        self.txn.pessimistic_rollback(request).await
    }

    async fn kv_commit(&self, request: Request<CommitRequest>) -> Reply<CommitResponse> {
        self.txn.commit(request).await
    }

    async fn kv_batch_rollback(
        &self,
        request: Request<BatchRollbackRequest>,
    ) -> Reply<BatchRollbackResponse> {
        self.txn.batch_rollback(request).await
    }

    async fn kv_cleanup(&self, request: Request<CleanupRequest>) -> Reply<CleanupResponse> {
        self.txn.cleanup(request).await
    }

    async fn kv_txn_heart_beat(
        &self,
        request: Request<TxnHeartBeatRequest>,
    ) -> Reply<TxnHeartBeatResponse> {
        self.txn.txn_heart_beat(request).await
    }

    async fn kv_check_txn_status(
        &self,
        request: Request<CheckTxnStatusRequest>,
    ) -> Reply<CheckTxnStatusResponse> {
        self.txn.check_txn_status(request).await
    }

    async fn kv_check_secondary_locks(
        &self,
        request: Request<CheckSecondaryLocksRequest>,
    ) -> Reply<CheckSecondaryLocksResponse> {
        self.txn.check_secondary_locks(request).await
    }

    async fn kv_scan_lock(&self, request: Request<ScanLockRequest>) -> Reply<ScanLockResponse> {
        self.txn.scan_lock(request).await
    }

    async fn kv_resolve_lock(
        &self,
        request: Request<ResolveLockRequest>,
    ) -> Reply<ResolveLockResponse> {
        self.txn.resolve_lock(request).await
    }

    async fn kv_delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Reply<DeleteRangeResponse> {
        self.txn.delete_range(request).await
    }

    async fn mvcc_get_by_key(
        &self,
        request: Request<MvccGetByKeyRequest>,
    ) -> Reply<MvccGetByKeyResponse> {
        self.txn.mvcc_get_by_key(request).await
    }

    async fn mvcc_get_by_start_ts(
        &self,
        request: Request<MvccGetByStartTsRequest>,
    ) -> Reply<MvccGetByStartTsResponse> {
        self.txn.mvcc_get_by_start_ts(request).await
    }

    async fn broadcast_txn_status(
        &self,
        _: Request<BroadcastTxnStatusRequest>,
    ) -> Reply<BroadcastTxnStatusResponse> {
        // A hint, for stores that remember how transactions ended.
        Ok(Response::new(BroadcastTxnStatusResponse {}))
    }

    async fn unsafe_destroy_range(
        &self,
        request: Request<UnsafeDestroyRangeRequest>,
    ) -> Reply<UnsafeDestroyRangeResponse> {
        self.home.unsafe_destroy_range(request).await
    }

    async fn split_region(
        &self,
        request: Request<SplitRegionRequest>,
    ) -> Reply<SplitRegionResponse> {
        self.home.split_region(request).await
    }

    async fn read_index(&self, request: Request<ReadIndexRequest>) -> Reply<ReadIndexResponse> {
        self.home.read_index(request).await
    }

    async fn get_store_safe_ts(
        &self,
        _: Request<StoreSafeTsRequest>,
    ) -> Reply<StoreSafeTsResponse> {
        self.home.get_store_safe_ts()
    }

    async fn get_health_feedback(
        &self,
        _: Request<GetHealthFeedbackRequest>,
    ) -> Reply<GetHealthFeedbackResponse> {
        self.home.get_health_feedback()
    }

    async fn get_lock_wait_info(
        &self,
        _: Request<GetLockWaitInfoRequest>,
    ) -> Reply<GetLockWaitInfoResponse> {
        self.home.get_lock_wait_info()
    }

    async fn get_lock_wait_history(
        &self,
        _: Request<GetLockWaitHistoryRequest>,
    ) -> Reply<GetLockWaitHistoryResponse> {
        self.txn.get_lock_wait_history()
    }
}

fn plain_ranges(ranges: Vec<KeyRange>) -> Vec<(Bytes, Bytes)> {
    ranges.into_iter().map(|range| (range.start_key, range.end_key)).collect()
}

/// The reply of a call that answers raw pairs. Clients do not look for errors in them, and would take a pair with one
/// for all that there is. So an answer that is too large is a region error, of the kind that clients hand to the
/// application and do not repeat.
fn finish_pairs<R>(
    result: std::result::Result<Vec<KvPair>, Refused>,
    form: impl Fn(Option<errorpb::Error>, Vec<KvPair>) -> R,
) -> Reply<R> {
    if let Err(Refused::Error(error @ Error::ReplyTooLarge { bytes_max })) = &result {
        let entry_size = *bytes_max as u64;
        let kind = errorpb::RaftEntryTooLarge { entry_size, ..Default::default() };
        let message = error.to_string();
        let raft_entry_too_large = Some(kind);
        let error = errorpb::Error { message, raft_entry_too_large, ..Default::default() };
        return Ok(Response::new(form(Some(error), Vec::new())));
    }
    let refused = |region_error, error| form(region_error, error_pair(error));
    finish(result, |pairs| form(None, pairs), refused)
}

/// The text of an error as replies of pairs carry it; no pair for no text.
fn error_pair(error: String) -> Vec<KvPair> {
    if error.is_empty() {
        return Vec::new();
    }
    let error = KeyError { abort: error, ..Default::default() };
    vec![KvPair { error: Some(Box::new(error)), ..Default::default() }]
}

#[cfg(test)]
mod tests;
