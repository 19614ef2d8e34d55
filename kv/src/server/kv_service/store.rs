//! Calls about regions and the store itself rather than about pairs, and what surrounds the service: the store it
//! belongs to.
//!
//! * UnsafeDestroyRange is for the whole store, beside raft. It goes to the data engine, on a thread that may block,
//!   and is answered when it is durable.
//! * SplitRegion cuts a region at keys that a client names. It must be led from here; ids for the parts come from the
//!   scheduler.
//! * GetStoreSafeTS answers 0: no timestamp is known at which every replica could be read without asking its leader.
//! * Health is told as a *slow score* from 1 (well) to 100: how long the line of writes is that wait for room, against
//!   the room there is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use skerry_proto::codec::encode_bytes;
use skerry_proto::kvrpcpb::*;
use skerry_proto::types::{StoreId, Ts};
use skerry_proto::{errorpb, metapb};
use skerry_raftstore::engine::{Durability, Engine, WriteBatch};
use tokio::sync::watch;
use tonic::{Request, Response};

use super::batch::CommandRoom;
use super::call::{Call, Refused, finish, finish_about_keys};
use super::txn::in_words;
use super::{Reply, txn_wire};
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::net::inlet::RaftInlet;
use crate::net::reporter::Reporter;
use crate::storage::{ApiVersion, RequestContext, Storage};
use crate::txn::TxnStore;
use crate::txn::delete_range::UnsafeDestroyRange;
use crate::txn::error::wait_for_entry;
use crate::txn::read_index::ReadIndex;

/// What one SplitRegion may ask for: it becomes one entry of the log.
const SPLIT_KEYS_MAX: usize = 4_096;
const SPLIT_BYTES_MAX: usize = 1 << 20;

/// The score of a store that is well, and of one that nobody should ask.
const SLOW_SCORE_MIN: usize = 1;
const SLOW_SCORE_MAX: usize = 100;

/// The store that a service belongs to.
pub struct Surroundings {
    /// Its cluster; 0 if clients of all clusters are served.
    pub cluster_id: u64,
    /// Its id.
    pub store_id: StoreId,
    /// Its data.
    pub engine: Arc<dyn Engine>,
    /// Its regions.
    pub storage: Arc<dyn Storage>,
    /// Where other stores send raft messages; a standalone store has no others.
    pub inlet: Option<RaftInlet>,
    /// Who asks the scheduler for ids; a standalone store is never cut.
    pub reporter: Option<Arc<Reporter>>,
    /// True when it stops.
    pub stopping: watch::Receiver<bool>,
    /// Where commands of streams are counted.
    pub metrics: Arc<Metrics>,
    /// Memory for the commands of all streams.
    pub command_bytes_max: usize,
}

impl Surroundings {
    /// A store that is nothing but its data: it never stops, and nobody counts.
    pub fn bare(
        store_id: StoreId,
        engine: Arc<dyn Engine>,
        storage: Arc<dyn Storage>,
    ) -> Surroundings {
        Surroundings {
            cluster_id: 0,
            store_id,
            engine,
            storage,
            inlet: None,
            reporter: None,
            stopping: watch::channel(false).1,
            metrics: Metrics::new(),
            command_bytes_max: 64 << 20,
        }
    }
}

/// See the module.
pub(super) struct StoreCalls {
    cluster_id: u64,
    store_id: StoreId,
    engine: Arc<dyn Engine>,
    storage: Arc<dyn Storage>,
    reporter: Option<Arc<Reporter>>,
    txn: Arc<TxnStore>,
    pub(super) inlet: Option<RaftInlet>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) command_room: CommandRoom,
    stopping: watch::Receiver<bool>,
    /// Numbers what is told of the store's health.
    feedbacks: AtomicU64,
}

impl StoreCalls {
    pub(super) fn new(surroundings: Surroundings, txn: Arc<TxnStore>) -> StoreCalls {
        StoreCalls {
            cluster_id: surroundings.cluster_id,
            store_id: surroundings.store_id,
            engine: surroundings.engine,
            storage: surroundings.storage,
            reporter: surroundings.reporter,
            txn,
            inlet: surroundings.inlet,
            metrics: surroundings.metrics,
            command_room: CommandRoom::new(surroundings.command_bytes_max),
            stopping: surroundings.stopping,
            feedbacks: AtomicU64::new(0),
        }
    }

    /// Ready when the store stops.
    pub(super) async fn stop(&self) {
        if self.stopping.clone().wait_for(|stopping| *stopping).await.is_err() {
            // Nobody is left who could stop it.
            std::future::pending::<()>().await;
        }
    }

    /// What the store says of its health.
    pub(super) fn feedback(&self) -> HealthFeedback {
        let permits = self.storage.permits();
        let (waiting, room) = (permits.line_length(), permits.commands_max());
        let score = SLOW_SCORE_MIN + waiting.min(room) * (SLOW_SCORE_MAX - SLOW_SCORE_MIN) / room;
        HealthFeedback {
            store_id: self.store_id.get(),
            feedback_seq_no: 1 + self.feedbacks.fetch_add(1, Ordering::Relaxed),
            slow_score: i32::try_from(score).expect("at most a hundred"),
        }
    }

    pub(super) async fn unsafe_destroy_range(
        &self,
        request: Request<UnsafeDestroyRangeRequest>,
    ) -> Reply<UnsafeDestroyRangeResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let UnsafeDestroyRangeRequest { start_key: start, end_key: end, .. } = request;
        let ranges = UnsafeDestroyRange { start, end }.ranges(self.txn.keys().version);
        let destroy = async {
            let (ranges, engine) = (ranges?, Arc::clone(&self.engine));
            let destroyed = tokio::task::spawn_blocking(move || {
                for (family, range) in ranges {
                    engine.destroy_range(family, &range)?;
                }
                engine.write(WriteBatch::new(), Durability::Synced)
            });
            let unknown = |_| Error::Unknown("the store stopped meanwhile".to_string());
            Ok(destroyed.await.map_err(unknown)?.map_err(Error::from)?)
        };
        finish(
            call.read(destroy).await.map_err(in_words),
            |()| UnsafeDestroyRangeResponse::default(),
            |region_error, error| UnsafeDestroyRangeResponse { region_error, error },
        )
    }

    pub(super) async fn split_region(
        &self,
        request: Request<SplitRegionRequest>,
    ) -> Reply<SplitRegionResponse> {
        let (call, mut request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        if request.split_keys.is_empty() {
            request.split_keys.push(request.split_key);
        }
        let version = self.txn.keys().version;
        let is_boundary = request.is_raw_kv && version == ApiVersion::V1;
        let boundary = |key: Bytes| match is_boundary {
            true => key,
            false => Bytes::from(encode_bytes(&key)),
        };
        let keys = request.split_keys.into_iter().filter(|key| !key.is_empty()).map(boundary);
        let cut = self.cut(&call.context, keys.collect());
        finish(
            call.read(cut).await,
            |regions| {
                let (left, right) = match &regions[..] {
                    [left, right] => (Some(left.clone()), Some(right.clone())),
                    _ => (None, None),
                };
                SplitRegionResponse { left, right, regions, ..Default::default() }
            },
            |region_error, abort| {
                let errors = match region_error {
                    Some(_) => Vec::new(),
                    None => vec![KeyError { abort, ..Default::default() }],
                };
                SplitRegionResponse { region_error, errors, ..Default::default() }
            },
        )
    }

    /// Cuts a region at boundaries, those left out where it begins already. Answers its parts in order.
    async fn cut(
        &self,
        context: &RequestContext,
        mut keys: Vec<Bytes>,
    ) -> Result<Vec<metapb::Region>> {
        self.txn.keys().version.check(context.api_version)?;
        let context = RequestContext { replica_read: false, ..*context };
        // Its region is the one that the client means, led from here.
        let region = self.storage.async_snapshot(&context).await?.region;
        keys.sort();
        keys.dedup();
        keys.retain(|key| *key != region.start_key);
        let is_outside = |key: &&Bytes| !region.contains_key(key);
        if let Some(outside) = keys.iter().find(is_outside) {
            return Err(Error::KeyNotInRegion { key: outside.clone(), region });
        }
        if keys.is_empty() {
            return Ok(vec![metapb::Region::clone(&region)]);
        }
        let bytes: usize = keys.iter().map(Bytes::len).sum();
        if keys.len() > SPLIT_KEYS_MAX || bytes > SPLIT_BYTES_MAX {
            let reason = format!(
                "{} keys of {bytes} bytes are too many to cut at: {SPLIT_KEYS_MAX} keys of \
                 {SPLIT_BYTES_MAX} bytes are allowed at a time",
                keys.len()
            );
            return Err(Error::Admin(reason));
        }
        let reporter = self.reporter.as_ref().ok_or_else(|| {
            Error::Admin("the regions of a standalone store are never cut".to_string())
        })?;
        let parts = reporter.cut(&region, keys).await?;
        Ok(parts.into_iter().map(|part| metapb::Region::clone(&part)).collect())
    }

    pub(super) async fn read_index(
        &self,
        request: Request<ReadIndexRequest>,
    ) -> Reply<ReadIndexResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let read = async {
            let rules = txn_wire::rules(&request.context, request.start_ts)?;
            let ranges = request.ranges.into_iter().map(|range| (range.start_key, range.end_key));
            let command = ReadIndex { rules, ranges: ranges.collect() };
            self.txn.read(&call.context, command).await
        };
        finish_about_keys(
            call.read(read).await,
            |read_index| ReadIndexResponse { read_index, ..Default::default() },
            |region_error, error| {
                let (locked, words) = error.map(|error| (error.locked, error.abort)).unzip();
                let (locked, message) = (locked.flatten(), words.unwrap_or_default());
                // Words have no other place here, and without any this would be an index.
                let said = || errorpb::Error { message, ..Default::default() };
                let region_error = region_error.or_else(|| locked.is_none().then(said));
                ReadIndexResponse { region_error, locked, ..Default::default() }
            },
        )
    }

    pub(super) fn get_store_safe_ts(&self) -> Reply<StoreSafeTsResponse> {
        Ok(Response::new(StoreSafeTsResponse { safe_ts: Ts::ZERO.get() }))
    }

    pub(super) fn get_health_feedback(&self) -> Reply<GetHealthFeedbackResponse> {
        let health_feedback = Some(self.feedback());
        Ok(Response::new(GetHealthFeedbackResponse { health_feedback, ..Default::default() }))
    }

    pub(super) fn get_lock_wait_info(&self) -> Reply<GetLockWaitInfoResponse> {
        let edges = self.txn.lock_waits();
        let entries: crate::txn::Result<Vec<_>> = edges.iter().map(wait_for_entry).collect();
        finish(
            entries.map_err(Refused::Error).map_err(in_words),
            |entries| GetLockWaitInfoResponse { entries, ..Default::default() },
            |region_error, error| GetLockWaitInfoResponse {
                region_error,
                error,
                ..Default::default()
            },
        )
    }
}
