//! Brings raft messages to other stores, over gRPC.
//!
//! There is one *line* to each store, with one task and one stream (`BatchRaft`):
//!
//! 1. A raft worker puts messages into the line and goes on. A line that is full drops them and says so: raft
//!    repeats what matters and sends less to whom it cannot reach.
//! 2. The task takes what has gathered, as one batch, and writes it to the stream. While the stream is slow,
//!    more gathers.
//! 3. A stream that broke is opened again after a pause that grows; meanwhile what comes is dropped and
//!    reported. The address is asked for anew, because the store may have moved.
//!
//! Snapshots travel on a connection of their own (see [`super::snapshots`]), so that they hold nobody up.
//!
//! **Invariant.** Messages of one stream arrive in the order in which they were sent, or not at all. Those of a stream
//! that broke may still arrive among those of the next: raft bears that.
//!
//! What it does not do: it repeats nothing, and it does not know whether a message was understood.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use skerry_proto::raft_serverpb::RaftMessage;
use skerry_proto::tikvpb::BatchRaftMessage;
use skerry_proto::tikvpb::tikv_client::TikvClient;
use skerry_proto::types::{PeerId, RegionId, StoreId};
use skerry_raftstore::outside::Transport;
use skerry_raftstore::snapshot::is_snapshot;
use skerry_raftstore::store::threads::{StoreHandle, WeakStoreHandle};
use slog::{Logger, info, warn};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use super::resolver::Resolver;
use super::scheduler_client::shown;
use super::snapshots;

/// The header by which a stream between stores names its cluster.
pub const CLUSTER_HEADER: &str = "skerry-cluster-id";

/// Messages that may wait in a line.
const LINE_MESSAGES_MAX: usize = 16_384;
/// Bytes that may wait in a line; one message longer than that still fits into an empty one.
const LINE_BYTES_MAX: usize = 64 << 20;
/// Messages of one batch.
const BATCH_MESSAGES_MAX: usize = 1_024;
/// Bytes after which a batch takes no further message.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Batches that may wait for the stream; what waits longer gathers in the line, where it is bounded.
const BATCHES_WAITING_MAX: usize = 2;
/// How long a store may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A silent connection is asked after this time whether it still works, and given up after as long again.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// The first pause before a line is opened again; each is twice the one before.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// See the module.
pub struct RaftTransport {
    shared: Arc<Shared>,
    /// Guards the map alone: lines are bounded queues that never wait.
    lines: Mutex<BTreeMap<StoreId, Line>>,
    runtime: Handle,
}

/// What lines and snapshots need.
pub(super) struct Shared {
    pub(super) cluster_id: u64,
    pub(super) resolver: Resolver,
    /// Set when the store runs. Weak, because the store holds its transport.
    store: OnceLock<WeakStoreHandle>,
    pub(super) logger: Logger,
}

/// The way to one store.
#[derive(Clone)]
struct Line {
    messages: mpsc::Sender<RaftMessage>,
    /// Bytes that wait in it.
    bytes: Arc<AtomicUsize>,
}

impl RaftTransport {
    /// A transport without lines, whose tasks run on this runtime.
    pub fn new(cluster_id: u64, resolver: Resolver, logger: Logger) -> Arc<RaftTransport> {
        let shared = Shared { cluster_id, resolver, store: OnceLock::new(), logger };
        Arc::new(RaftTransport {
            shared: Arc::new(shared),
            lines: Mutex::default(),
            runtime: Handle::current(),
        })
    }

    /// From now on the store is told what could not be sent.
    pub fn serve(&self, store: &StoreHandle) {
        assert!(self.shared.store.set(store.downgrade()).is_ok(), "a transport serves one store");
    }

    fn line(&self, store_id: StoreId) -> Line {
        let mut lines = self.lines.lock().expect("nothing panics while it holds this lock");
        let open = || {
            let (messages, waiting) = mpsc::channel(LINE_MESSAGES_MAX);
            let bytes = Arc::new(AtomicUsize::new(0));
            let task = LineTask {
                shared: self.shared.clone(),
                store_id,
                waiting,
                bytes: bytes.clone(),
                pause: PAUSE_MIN,
            };
            self.runtime.spawn(task.run());
            Line { messages, bytes }
        };
        lines.entry(store_id).or_insert_with(open).clone()
    }
}

impl Transport for RaftTransport {
    fn send(&self, messages: Vec<RaftMessage>) {
        let mut lost = Vec::new();
        let mut line: Option<(StoreId, Line)> = None;
        for message in messages {
            let store_id = message.to_peer.unwrap_or_default().store();
            if is_snapshot(&message) {
                self.runtime.spawn(snapshots::send(self.shared.clone(), message));
                continue;
            }
            // Most messages of a batch go the same way.
            if line.as_ref().is_none_or(|(known, _)| *known != store_id) {
                line = Some((store_id, self.line(store_id)));
            }
            let (_, line) = line.as_ref().expect("it was set above");
            lost.extend(line.offer(message));
        }
        self.shared.report_lost(&lost);
    }
}

impl Line {
    /// Adds a message, or hands it back.
    fn offer(&self, message: RaftMessage) -> Option<RaftMessage> {
        let bytes = message.message.len();
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) > LINE_BYTES_MAX {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Some(message);
        }
        let refused = self.messages.try_send(message).err()?;
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        Some(refused.into_inner())
    }
}

impl Shared {
    /// The store that sends, while it runs.
    pub(super) fn store(&self) -> Option<StoreHandle> {
        self.store.get()?.upgrade()
    }

    /// Tells the store whom it did not reach, each once.
    fn report_lost(&self, messages: &[RaftMessage]) {
        let receiver =
            |message: &RaftMessage| (message.region_id, message.to_peer.map_or(0, |peer| peer.id));
        let Some(store) = self.store().filter(|_| !messages.is_empty()) else { return };
        let receivers: BTreeSet<(u64, u64)> = messages.iter().map(receiver).collect();
        for (region_id, peer_id) in receivers {
            store.unreachable(RegionId::new(region_id), PeerId::new(peer_id));
        }
    }

    /// A client of a store, connected.
    pub(super) async fn connect(
        &self,
        store_id: StoreId,
    ) -> std::result::Result<TikvClient<Channel>, String> {
        let address = self.resolver.address(store_id).await.map_err(|error| error.to_string())?;
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let endpoint = endpoint
            .map_err(|error| format!("{address} is no address: {error}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        match endpoint.connect().await {
            Ok(channel) => Ok(TikvClient::new(channel)),
            Err(error) => {
                self.resolver.forget(store_id);
                Err(format!("{address}: {error}"))
            }
        }
    }

    /// A request that names the cluster.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(CLUSTER_HEADER, self.cluster_id.into());
        request
    }
}

/// Owns one line's other end.
struct LineTask {
    shared: Arc<Shared>,
    store_id: StoreId,
    waiting: mpsc::Receiver<RaftMessage>,
    bytes: Arc<AtomicUsize>,
    /// Before the next attempt.
    pause: Duration,
}

impl LineTask {
    /// Runs until the transport is gone.
    async fn run(mut self) {
        while let Some(first) = self.take().await {
            let broken = match self.shared.connect(self.store_id).await {
                Ok(client) => {
                    let broken = self.stream(client, first).await;
                    // Whoever answers there now may be another store.
                    self.shared.resolver.forget(self.store_id);
                    broken
                }
                Err(reason) => {
                    self.shared.report_lost(&first);
                    reason
                }
            };
            let next_try_ms = u64::try_from(self.pause.as_millis()).expect("at most a second");
            warn!(self.shared.logger, "no line to a store"; "store" => self.store_id.get(),
                "reason" => broken, "next_try_ms" => next_try_ms);
            self.drop_for_a_while().await;
        }
    }

    /// What has gathered; nothing when the transport is gone.
    async fn take(&mut self) -> Option<Vec<RaftMessage>> {
        let mut messages = Vec::new();
        let count = self.waiting.recv_many(&mut messages, BATCH_MESSAGES_MAX).await;
        let bytes: usize = messages.iter().map(|message| message.message.len()).sum();
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        (count > 0).then_some(messages)
    }

    /// Sends until the stream breaks or the transport is gone; answers why it ended.
    async fn stream(&mut self, mut client: TikvClient<Channel>, first: Vec<RaftMessage>) -> String {
        info!(self.shared.logger, "a line to a store is open"; "store" => self.store_id.get());
        let (batches, outgoing) = mpsc::channel(BATCHES_WAITING_MAX);
        let request = self.shared.request(ReceiverStream::new(outgoing));
        let mut call = std::pin::pin!(client.batch_raft(request));
        let mut waiting = VecDeque::from(first);
        loop {
            tokio::select! {
                biased;
                ended = &mut call => {
                    self.shared.report_lost(waiting.make_contiguous());
                    return match ended {
                        Ok(_) => "the other store has closed it".to_string(),
                        Err(status) => shown(&status),
                    };
                }
                room = batches.reserve(), if !waiting.is_empty() => {
                    // A closed stream ends the call, which is looked at first.
                    if let Ok(room) = room {
                        room.send(batch_of(&mut waiting));
                    }
                }
                taken = self.take(), if waiting.is_empty() => {
                    let Some(taken) = taken else { return "this store stops".to_string() };
                    waiting = taken.into();
                    // What went before was taken: the line works.
                    self.pause = PAUSE_MIN;
                }
            }
        }
    }

    /// Drops what comes until the next attempt is due, or the transport is gone.
    async fn drop_for_a_while(&mut self) {
        let mut due = std::pin::pin!(tokio::time::sleep(self.pause));
        self.pause = (2 * self.pause).min(PAUSE_MAX);
        loop {
            tokio::select! {
                biased;
                () = &mut due => return,
                taken = self.take() => match taken {
                    Some(lost) => self.shared.report_lost(&lost),
                    None => return,
                },
            }
        }
    }
}

/// As many of these as one batch holds, at least one.
fn batch_of(waiting: &mut VecDeque<RaftMessage>) -> BatchRaftMessage {
    let (mut count, mut bytes) = (0, 0);
    while let Some(next) = waiting.get(count)
        && (count == 0 || bytes + next.message.len() <= BATCH_BYTES_MAX)
    {
        count += 1;
        bytes += next.message.len();
    }
    BatchRaftMessage { msgs: waiting.drain(..count).collect() }
}
