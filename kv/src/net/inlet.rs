//! What other stores send to this one: raft messages and snapshots.
//!
//! A stream that names another cluster is refused; a message for another store ends its stream and is counted. What is
//! left goes to the worker that owns the region, which looks at it closely before raft sees it. A store that
//! cannot keep up drops messages: raft repeats. One that stops ends the streams, or it would wait for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use skerry_proto::raft_serverpb::{Done, RaftMessage, SnapshotChunk};
use skerry_proto::tikvpb::BatchRaftMessage;
use skerry_proto::types::StoreId;
use skerry_raftstore::store::threads::StoreHandle;
use slog::{Logger, warn};
use tokio::sync::watch;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::snapshots;
use super::transport::CLUSTER_HEADER;

/// See the module. Clones share everything.
#[derive(Clone)]
pub struct RaftInlet {
    cluster_id: u64,
    store_id: StoreId,
    store: StoreHandle,
    /// True when this store stops.
    stopping: watch::Receiver<bool>,
    logger: Logger,
    misdirected: Arc<AtomicU64>,
}

impl RaftInlet {
    /// Takes messages for a running store until it is `stopping`.
    pub fn new(
        cluster_id: u64,
        store_id: StoreId,
        store: StoreHandle,
        stopping: watch::Receiver<bool>,
        logger: Logger,
    ) -> RaftInlet {
        let misdirected = Arc::default();
        RaftInlet { cluster_id, store_id, store, stopping, logger, misdirected }
    }

    /// How many messages were for another store.
    pub fn misdirected(&self) -> u64 {
        self.misdirected.load(Ordering::Relaxed)
    }

    /// Takes messages until the other store ends the stream, or this one stops.
    pub async fn batch_raft(
        &self,
        request: Request<Streaming<BatchRaftMessage>>,
    ) -> Result<Response<Done>, Status> {
        self.check_cluster(request.metadata())?;
        let (mut stream, mut stopping) = (request.into_inner(), self.stopping.clone());
        loop {
            let batch = tokio::select! {
                batch = stream.message() => batch?,
                // An error means that the node is gone.
                _ = stopping.wait_for(|stopping| *stopping) => None,
            };
            let Some(batch) = batch else { return Ok(Response::new(Done {})) };
            let is_misdirected = |message: &RaftMessage| {
                message.to_peer.unwrap_or_default().store() != self.store_id
            };
            let misdirected = batch.msgs.iter().filter(|message| is_misdirected(message)).count();
            if misdirected > 0 {
                self.misdirected.fetch_add(misdirected as u64, Ordering::Relaxed);
                // The other store has an old address: it looks again when the stream ends.
                return Err(Status::failed_precondition(format!("this is {}", self.store_id)));
            }
            self.store.receive(batch.msgs);
        }
    }

    /// Takes one snapshot.
    pub async fn snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<Done>, Status> {
        self.check_cluster(request.metadata())?;
        let mut stopping = self.stopping.clone();
        let (stream, logger) = (request.into_inner(), &self.logger);
        tokio::select! {
            received = snapshots::receive(self.store_id, &self.store, logger, stream) => received,
            _ = stopping.wait_for(|stopping| *stopping) => {
                Err(Status::unavailable("the store stops"))
            }
        }
    }

    fn check_cluster(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let named = metadata.get(CLUSTER_HEADER).and_then(|value| value.to_str().ok());
        let named = named.and_then(|value| value.parse::<u64>().ok());
        if named == Some(self.cluster_id) {
            return Ok(());
        }
        let reason = match named {
            Some(other) => format!("this store is of cluster {}, not {other}", self.cluster_id),
            None => format!("raft messages must name their cluster in the header {CLUSTER_HEADER}"),
        };
        warn!(self.logger, "a stream of raft messages is refused"; "reason" => &reason);
        Err(Status::failed_precondition(reason))
    }
}
