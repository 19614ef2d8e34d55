//! Brings raft messages to other stores, over gRPC.
//!
//! There is one *line* to each store, with one task and one stream (`BatchRaft`):
//!
//! 1. A raft worker puts all that a round has for a store into its line at once and goes on: the task wakes to the
//!    whole of it, not to the first message. A line that is full drops what does not fit, counts it
//!    ([`RaftTransport::unsent`]) and says so: raft repeats what matters and sends less to whom it cannot reach.
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
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
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
/// Rounds of raft workers that are taken out of a line together.
const ROUNDS_TAKEN_MAX: usize = 16;
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
    /// Told of each replica that a message did not reach.
    unreachable: OnceLock<Unreachable>,
    /// Messages that were dropped.
    unsent: AtomicU64,
    pub(super) logger: Logger,
}

type Unreachable = Box<dyn Fn(RegionId, PeerId) + Send + Sync>;

/// The way to one store.
#[derive(Clone)]
struct Line {
    /// What a round of a raft worker had for the store. Bounded by the load.
    rounds: mpsc::Sender<Vec<RaftMessage>>,
    load: Arc<Load>,
}

/// What waits in a line.
#[derive(Default)]
struct Load {
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

impl RaftTransport {
    /// A transport without lines, whose tasks run on this runtime.
    pub fn new(cluster_id: u64, resolver: Resolver, logger: Logger) -> Arc<RaftTransport> {
        let shared = Shared {
            cluster_id,
            resolver,
            store: OnceLock::new(),
            unreachable: OnceLock::new(),
            unsent: AtomicU64::new(0),
            logger,
        };
        Arc::new(RaftTransport {
            shared: Arc::new(shared),
            lines: Mutex::default(),
            runtime: Handle::current(),
        })
    }

    /// How many messages were dropped: they found no room, or no way to their store. Of those that were written to a
    /// stream nobody knows.
    pub fn unsent(&self) -> u64 {
        self.shared.unsent.load(Ordering::Relaxed)
    }

    /// From now on the store is told what could not be sent.
    pub fn serve(&self, store: &StoreHandle) {
        let store = store.downgrade();
        let told = store.clone();
        let is_first = self.shared.store.set(store).is_ok();
        assert!(is_first, "a transport serves one store");
        self.shared.tell(Box::new(move |region_id, to_peer| {
            if let Some(store) = told.upgrade() {
                store.unreachable(region_id, to_peer);
            }
        }));
    }

    fn line(&self, store_id: StoreId) -> Line {
        let mut lines = self.lines.lock().expect("nothing panics while it holds this lock");
        let open = || {
            let (line, task) = Line::to(store_id, self.shared.clone());
            self.runtime.spawn(task.run());
            line
        };
        lines.entry(store_id).or_insert_with(open).clone()
    }
}

impl Transport for RaftTransport {
    fn send(&self, messages: Vec<RaftMessage>) {
        let mut of_stores: BTreeMap<StoreId, Vec<RaftMessage>> = BTreeMap::new();
        for message in messages {
            if is_snapshot(&message) {
                self.runtime.spawn(snapshots::send(self.shared.clone(), message));
                continue;
            }
            of_stores.entry(message.to_peer.unwrap_or_default().store()).or_default().push(message);
        }
        let offered =
            of_stores.into_iter().map(|(store_id, of_store)| self.line(store_id).offer(of_store));
        let lost: Vec<RaftMessage> = offered.flatten().collect();
        self.shared.report_lost(&lost);
    }
}

impl Line {
    /// An empty line, and the task that will own its other end.
    fn to(store_id: StoreId, shared: Arc<Shared>) -> (Line, LineTask) {
        // A round has one message at least, so the load is full before this is.
        let (rounds, waiting) = mpsc::channel(LINE_MESSAGES_MAX);
        let load = Arc::new(Load::default());
        let task = LineTask { shared, store_id, waiting, load: load.clone(), pause: PAUSE_MIN };
        (Line { rounds, load }, task)
    }

    /// Adds messages as far as there is room, and hands back the others.
    fn offer(&self, messages: Vec<RaftMessage>) -> Vec<RaftMessage> {
        let (fit, mut lost): (Vec<_>, Vec<_>) =
            messages.into_iter().partition(|message| self.load.take_on(message));
        if !fit.is_empty()
            && let Err(refused) = self.rounds.try_send(fit)
        {
            let refused = refused.into_inner();
            self.load.relieve(&refused);
            lost.extend(refused);
        }
        lost
    }
}

impl Load {
    /// Counts a message if there is room for it.
    fn take_on(&self, message: &RaftMessage) -> bool {
        let messages = self.messages.fetch_add(1, Ordering::Relaxed);
        let bytes = self.bytes.fetch_add(message.message.len(), Ordering::Relaxed);
        let has_room = messages < LINE_MESSAGES_MAX && bytes <= LINE_BYTES_MAX;
        if !has_room {
            self.relieve(std::slice::from_ref(message));
        }
        has_room
    }

    /// These do not wait any more.
    fn relieve(&self, messages: &[RaftMessage]) {
        let bytes = messages.iter().map(|message| message.message.len()).sum();
        self.messages.fetch_sub(messages.len(), Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Shared {
    /// The store that sends, while it runs.
    pub(super) fn store(&self) -> Option<StoreHandle> {
        self.store.get()?.upgrade()
    }

    fn tell(&self, unreachable: Unreachable) {
        assert!(self.unreachable.set(unreachable).is_ok(), "one store is told");
    }

    /// Counts what is dropped, and tells the store whom it did not reach, each once.
    fn report_lost(&self, messages: &[RaftMessage]) {
        self.unsent.fetch_add(messages.len() as u64, Ordering::Relaxed);
        let receiver =
            |message: &RaftMessage| (message.region_id, message.to_peer.map_or(0, |peer| peer.id));
        let Some(unreachable) = self.unreachable.get() else { return };
        let receivers: BTreeSet<(u64, u64)> = messages.iter().map(receiver).collect();
        for (region_id, peer_id) in receivers {
            unreachable(RegionId::new(region_id), PeerId::new(peer_id));
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
    waiting: mpsc::Receiver<Vec<RaftMessage>>,
    load: Arc<Load>,
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
        let mut rounds = Vec::new();
        let count = self.waiting.recv_many(&mut rounds, ROUNDS_TAKEN_MAX).await;
        let messages: Vec<RaftMessage> = rounds.into_iter().flatten().collect();
        self.load.relieve(&messages);
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
    while count < BATCH_MESSAGES_MAX
        && let Some(next) = waiting.get(count)
        && (count == 0 || bytes + next.message.len() <= BATCH_BYTES_MAX)
    {
        count += 1;
        bytes += next.message.len();
    }
    BatchRaftMessage { msgs: waiting.drain(..count).collect() }
}

#[cfg(test)]
mod tests {
    use skerry_proto::metapb;
    use slog::{Discard, o};

    use super::*;
    use crate::metrics::Metrics;
    use crate::net::SchedulerClient;

    /// Whom it could not reach: region and replica.
    type Told = Arc<Mutex<Vec<(u64, u64)>>>;

    /// A transport to stores that nobody answers for, and whom it could not reach. Its tasks run when the test awaits,
    /// which it does not: what is put into a line stays there.
    fn transport() -> (Arc<RaftTransport>, Told) {
        let scheduler = SchedulerClient::new(&["127.0.0.1:1".to_string()], Metrics::new());
        let scheduler = Arc::new(scheduler.expect("an address"));
        let logger = Logger::root(Discard, o!());
        let transport = RaftTransport::new(7, Resolver::new(scheduler), logger);
        let told = Told::default();
        let unreachable = Arc::clone(&told);
        transport.shared.tell(Box::new(move |region_id, peer_id| {
            let mut told = unreachable.lock().expect("no holder panics");
            told.push((region_id.get(), peer_id.get()));
        }));
        (transport, told)
    }

    fn messages(count: usize, region_id: u64, to_store: u64, bytes: usize) -> Vec<RaftMessage> {
        let to_peer = metapb::Peer { id: 10 * to_store, store_id: to_store, ..Default::default() };
        let message = vec![0; bytes].into();
        let message =
            RaftMessage { region_id, to_peer: Some(to_peer), message, ..Default::default() };
        vec![message; count]
    }

    fn taken(told: &Told) -> Vec<(u64, u64)> {
        std::mem::take(&mut told.lock().expect("no holder panics"))
    }

    #[tokio::test]
    async fn a_full_line_drops_exactly_what_does_not_fit_and_tells_raft_of_each_replica_once() {
        let (transport, told) = transport();
        transport.send(messages(LINE_MESSAGES_MAX - 1, 1, 2, 0));
        assert_eq!((transport.unsent(), taken(&told)), (0, vec![]), "there is room for one more");
        // Of these five the first fits.
        transport.send([messages(3, 1, 2, 0), messages(2, 4, 2, 0)].concat());
        assert_eq!((transport.unsent(), taken(&told)), (4, vec![(1, 20), (4, 20)]));
        transport.send(messages(9, 1, 2, 0));
        assert_eq!((transport.unsent(), taken(&told)), (13, vec![(1, 20)]));
        // Another store has a line of its own.
        transport.send(messages(5, 1, 3, 0));
        assert_eq!((transport.unsent(), taken(&told)), (13, vec![]));
    }

    #[tokio::test]
    async fn a_line_is_full_by_bytes_too_and_has_room_again_for_what_is_taken_out() {
        let (transport, told) = transport();
        let large = 1 << 20;
        let fit = LINE_BYTES_MAX / large + 1;
        transport.send(messages(fit + 3, 1, 2, large));
        assert_eq!((transport.unsent(), taken(&told)), (3, vec![(1, 20)]), "one goes beyond");
        transport.send(messages(2, 1, 2, 0));
        assert_eq!(transport.unsent(), 5, "nothing fits any more");

        let (line, mut task) = Line::to(StoreId::new(2), Arc::clone(&transport.shared));
        let refused = |count| line.offer(messages(count, 1, 2, large)).len();
        assert_eq!(refused(fit + 1), 1);
        assert_eq!(task.take().await.expect("the line is open").len(), fit);
        assert_eq!(refused(fit + 1), 1, "what was refused holds no room either");
    }

    #[test]
    fn a_batch_holds_so_many_messages_and_so_many_bytes_but_always_one() {
        let cut = |messages: Vec<RaftMessage>| {
            let mut waiting = VecDeque::from(messages);
            let mut lengths = Vec::new();
            while !waiting.is_empty() {
                lengths.push(batch_of(&mut waiting).msgs.len());
            }
            lengths
        };
        assert_eq!(cut(messages(2 * BATCH_MESSAGES_MAX + 1, 1, 2, 0)), [1_024, 1_024, 1]);
        assert_eq!(cut(messages(5, 1, 2, BATCH_BYTES_MAX / 2)), [2, 2, 1]);
        assert_eq!(cut(messages(2, 1, 2, BATCH_BYTES_MAX + 1)), [1, 1]);
    }
}
