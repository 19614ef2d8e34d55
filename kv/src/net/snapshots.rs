//! Brings raft snapshots to other stores and takes those of others: the RPC `Snapshot`.
//!
//! The first chunk of a stream carries the raft message, which lists the files; the others carry their bytes. The
//! receiver
//!
//! 1. looks whether its replica needs it: one that has applied as much is told at once, and answers its leader; one
//!    that knows a newer leader refuses;
//! 2. registers, or answers that too many snapshots are on their way already;
//! 3. writes the files, which checks their sizes and checksums, and syncs them;
//! 4. only then hands the message to raft, and answers.
//!
//! Whatever happens, the sender tells its raft whether the snapshot arrived: without that word raft would
//! wait for ever. A transfer that broke is begun anew by raft after its own pause. One that stands still counts
//! as broken, on both sides: else a disk that hangs there would keep a place here while the connection lives.
//!
//! **Invariant.** Raft hears of a snapshot only when all its files are here for good.
//!
//! What it does not do: it opens no snapshot (see `raftstore/src/snapshot`), and it repeats nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use skerry_proto::raft_serverpb::{Done, RaftMessage, SnapshotChunk};
use skerry_proto::types::{PeerId, RegionId, StoreId};
use skerry_raftstore::snapshot::{self, Activity, Incoming, Outgoing};
use skerry_raftstore::store::Offer;
use skerry_raftstore::store::threads::StoreHandle;
use slog::{Logger, info, warn};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use super::scheduler_client::shown;
use super::transport::Shared;

/// Chunks that may wait between disk and network, on either side.
const CHUNKS_WAITING_MAX: usize = 2;

/// A transfer that has not moved for this long is given up. The last chunk is answered when all files are synced.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is said then.
const STANDS_STILL: &str = "the snapshot has stood still for a minute";

/// Sends the snapshot that `message` brings, and tells raft how it went.
pub(super) async fn send(shared: Arc<Shared>, message: RaftMessage) {
    let region_id = RegionId::new(message.region_id);
    let to = message.to_peer.unwrap_or_default();
    let Some(store) = shared.store() else { return };
    let sent = try_send(&shared, &store, message).await;
    match &sent {
        Ok(()) => info!(shared.logger, "a snapshot has arrived";
            "region" => region_id.get(), "store" => to.store_id),
        Err(reason) => {
            // Whoever answers there may be another store.
            shared.resolver.forget(to.store());
            warn!(shared.logger, "a snapshot was not sent; raft will try again";
                "region" => region_id.get(), "store" => to.store_id, "reason" => reason);
        }
    }
    store.snapshot_sent(region_id, PeerId::new(to.id), sent.is_ok());
}

async fn try_send(
    shared: &Shared,
    store: &StoreHandle,
    message: RaftMessage,
) -> Result<(), String> {
    let (id, _) = snapshot::of_message(&message).ok_or("the message lists no files")?;
    let manager = store.snapshots();
    let registration = manager.begin(id, Activity::Sending).map_err(|busy| busy.to_string())?;
    let outgoing = {
        let directory = manager.directory().to_path_buf();
        let opened = spawn_blocking(move || Outgoing::open(&directory, id)).await;
        opened.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?
    };
    let mut client = shared.connect(message.to_peer.unwrap_or_default().store()).await?;
    let (chunks, stream) = mpsc::channel(CHUNKS_WAITING_MAX);
    let first = SnapshotChunk { message: Some(message), data: Bytes::new() };
    let moved = Arc::new(AtomicU64::new(0));
    let reading = spawn_blocking({
        let (store, moved) = (store.clone(), Arc::clone(&moved));
        move || read(outgoing, first, &store, &chunks, &moved)
    });
    let answer = tokio::select! {
        answer = client.snapshot(shared.request(ReceiverStream::new(stream))) => answer,
        () = stands_still(&moved) => Err(Status::deadline_exceeded(STANDS_STILL)),
    };
    let read = reading.await.map_err(|error| error.to_string())?;
    drop(registration);
    // A file that could not be read explains a stream that ended early.
    read?;
    answer.map(|_| ()).map_err(|status| shown(&status))
}

/// Ready when `moved` has been the same for that long.
async fn stands_still(moved: &AtomicU64) {
    let mut seen = Seen::default();
    while seen.has_moved(moved.load(Ordering::Relaxed)) {
        tokio::time::sleep(PATIENCE).await;
    }
}

/// How far a transfer was when it was looked at last.
#[derive(Default)]
struct Seen(Option<u64>);

impl Seen {
    fn has_moved(&mut self, to: u64) -> bool {
        self.0.replace(to) != Some(to)
    }
}

/// Reads the files into the stream, and counts the chunks that were taken. Ends early and well if nobody takes them
/// any more.
fn read(
    mut outgoing: Outgoing,
    first: SnapshotChunk,
    store: &StoreHandle,
    chunks: &mpsc::Sender<SnapshotChunk>,
    moved: &AtomicU64,
) -> Result<(), String> {
    let rates = store.snapshot_rates();
    let mut next = Some(first);
    while let Some(chunk) = next {
        if chunks.blocking_send(chunk).is_err() {
            return Ok(());
        }
        moved.fetch_add(1, Ordering::Relaxed);
        let data = outgoing.next_chunk().map_err(|error| error.to_string())?;
        let size = data.as_ref().map_or(0, Bytes::len);
        if !store.pause(rates.sending.take(size as u64)) {
            return Err("the store stops".to_string());
        }
        next = data.map(|data| SnapshotChunk { message: None, data });
    }
    Ok(())
}

/// Takes a snapshot for this store.
pub(super) async fn receive(
    store_id: StoreId,
    store: &StoreHandle,
    logger: &Logger,
    mut stream: Streaming<SnapshotChunk>,
) -> Result<Response<Done>, Status> {
    let first = stream.message().await?.unwrap_or_default();
    let invalid = |reason| Err(Status::invalid_argument(reason));
    let Some(message) = first.message else {
        return invalid("the first chunk of a snapshot brings the message");
    };
    if message.to_peer.unwrap_or_default().store() != store_id {
        return invalid("the snapshot is for another store");
    }
    let Some((id, data)) = snapshot::of_message(&message) else {
        return invalid("the message brings no snapshot");
    };
    let offer = store.judge_snapshot(&message);
    match offer.map_err(|error| Status::internal(error.to_string()))? {
        Offer::Wanted => {}
        Offer::Had => {
            store.receive([message]);
            return Ok(Response::new(Done {}));
        }
        Offer::OfOldTerm => {
            return Err(Status::failed_precondition("the replica knows a newer leader"));
        }
    }
    let manager = store.snapshots();
    let registration = manager.begin(id, Activity::Receiving);
    let registration = registration.map_err(|busy| Status::resource_exhausted(busy.to_string()))?;
    let (chunks, arriving) = mpsc::channel(CHUNKS_WAITING_MAX);
    let writing = spawn_blocking({
        let (directory, store) = (manager.directory().to_path_buf(), store.clone());
        move || {
            let incoming = Incoming::begin(&directory, id, &data)?;
            write(incoming, &store, arriving)?;
            // Held by who writes: the sender may go away at any moment, and another one come.
            Ok::<_, skerry_raftstore::Error>(registration)
        }
    });
    let overdue = || Status::deadline_exceeded(STANDS_STILL);
    while let Some(chunk) = timeout(PATIENCE, stream.message()).await.map_err(|_| overdue())?? {
        if chunks.send(chunk.data).await.is_err() {
            // The writer has ended; its reason is told below.
            break;
        }
    }
    drop(chunks);
    match writing.await.map_err(|error| Status::internal(error.to_string()))? {
        Ok(registration) => {
            store.receive([message]);
            drop(registration);
            Ok(Response::new(Done {}))
        }
        Err(error) => {
            warn!(logger, "a snapshot was refused"; "snapshot" => %id, "reason" => %error);
            Err(Status::failed_precondition(error.to_string()))
        }
    }
}

fn write(
    mut incoming: Incoming,
    store: &StoreHandle,
    mut arriving: mpsc::Receiver<Bytes>,
) -> skerry_raftstore::Result<()> {
    let rates = store.snapshot_rates();
    while !incoming.is_complete()
        && let Some(bytes) = arriving.blocking_recv()
    {
        if !store.pause(rates.receiving.take(bytes.len() as u64)) {
            // What is here is not complete, and is removed.
            break;
        }
        incoming.write(&bytes)?;
    }
    incoming.finish()
}

#[cfg(test)]
mod tests;
