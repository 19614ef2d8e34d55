//! A scheduler's place taken by the test: stores talk to it, and it says which stores hold what.
//!
//! It stands between the stores and a real scheduler and hands everything on, but for one thing: once the test has
//! said where replicas are to be ([`Director::place`]), leaders hear only its orders. From each heartbeat of a
//! region it sees the next step, as an operator would give it by hand: add a learner, give it a vote, hand the
//! leadership over, remove a replica. Orders are counted, for a test wants to know that each kind was given.
//!
//! What it does not do: it remembers nothing. An order that was lost or refused is given again with the next
//! heartbeat, if it is still due.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use skerry_proto::eraftpb::ConfChangeType;
use skerry_proto::metapb::{Peer, PeerRole, Region};
use skerry_proto::pdpb::pd_client::PdClient;
use skerry_proto::pdpb::pd_server::{Pd, PdServer};
use skerry_proto::pdpb::{self, ChangePeer, RegionHeartbeatRequest, RegionHeartbeatResponse};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};

use crate::client;
use crate::process::free_port;

/// Messages that may wait on a stream of heartbeats.
const WAITING_MAX: usize = 1_024;

/// What was ordered, how often.
type Orders = Arc<Mutex<BTreeMap<&'static str, usize>>>;

/// See the module. Dropping it closes its port.
pub struct Director {
    /// A thread of its own: a test blocks its threads while processes start.
    runtime: Option<Runtime>,
    address: SocketAddr,
    wanted: watch::Sender<Option<BTreeSet<u64>>>,
    orders: Orders,
}

impl Director {
    /// Takes the place of the scheduler at `real`.
    pub fn start(real: SocketAddr) -> Director {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a thread can be started");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let listener = std::net::TcpListener::bind(address).expect("a free port");
        listener.set_nonblocking(true).expect("a socket can be switched");
        let wanted = watch::Sender::new(None);
        let orders = Orders::default();
        let (orders_given, places) = (orders.clone(), wanted.subscribe());
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("it listens");
            let real = client::scheduler(real);
            let service = PdServer::new(Service { real, wanted: places, orders: orders_given });
            let incoming = TcpIncoming::from(listener);
            // It ends with the runtime.
            let _ = Server::builder().add_service(service).serve_with_incoming(incoming).await;
        });
        Director { runtime: Some(runtime), address, wanted, orders }
    }

    /// Where stores find it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on every region is to have its replicas on exactly these stores.
    pub fn place(&self, stores: impl IntoIterator<Item = u64>) {
        self.wanted.send_replace(Some(stores.into_iter().collect()));
    }

    /// How often each order was given.
    pub fn orders(&self) -> BTreeMap<&'static str, usize> {
        self.orders.lock().expect("no holder panics").clone()
    }
}

impl Drop for Director {
    fn drop(&mut self) {
        // Without waiting: this may be called from inside another runtime.
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

#[derive(Clone)]
struct Service {
    real: PdClient<Channel>,
    wanted: watch::Receiver<Option<BTreeSet<u64>>>,
    orders: Orders,
}

type Reply<T> = Result<Response<T>, Status>;

/// The service: calls that are handed on as they are, and the one that is not.
macro_rules! service {
    ($($call:ident: $request:ident -> $response:ident,)*) => {
        #[tonic::async_trait]
        impl Pd for Service {
            $(async fn $call(
                &self,
                request: Request<pdpb::$request>,
            ) -> Reply<pdpb::$response> {
                self.real.clone().$call(request.into_inner()).await
            })*

            async fn region_heartbeat(
                &self,
                request: Request<Streaming<RegionHeartbeatRequest>>,
            ) -> Reply<BoxStream<RegionHeartbeatResponse>> {
                Ok(self.open(request.into_inner()))
            }
        }
    };
}

service! {
    get_members: GetMembersRequest -> GetMembersResponse,
    alloc_id: AllocIdRequest -> AllocIdResponse,
    bootstrap: BootstrapRequest -> BootstrapResponse,
    is_bootstrapped: IsBootstrappedRequest -> IsBootstrappedResponse,
    put_store: PutStoreRequest -> PutStoreResponse,
    store_heartbeat: StoreHeartbeatRequest -> StoreHeartbeatResponse,
    get_store: GetStoreRequest -> GetStoreResponse,
    get_all_stores: GetAllStoresRequest -> GetAllStoresResponse,
    get_region: GetRegionRequest -> GetRegionResponse,
    get_region_by_id: GetRegionByIdRequest -> GetRegionResponse,
    scan_regions: ScanRegionsRequest -> ScanRegionsResponse,
    ask_batch_split: AskBatchSplitRequest -> AskBatchSplitResponse,
    report_batch_split: ReportBatchSplitRequest -> ReportBatchSplitResponse,
}

impl Service {
    /// Answers the heartbeats of one store from now on.
    fn open(
        &self,
        incoming: Streaming<RegionHeartbeatRequest>,
    ) -> Response<BoxStream<RegionHeartbeatResponse>> {
        let (answers, outgoing) = mpsc::channel(WAITING_MAX);
        let service = self.clone();
        tokio::spawn(async move {
            // An end on either side ends both: the store opens another stream.
            let _ = service.converse(incoming, answers).await;
        });
        Response::new(Box::pin(ReceiverStream::new(outgoing)))
    }

    /// Carries the heartbeats of one store, and answers them.
    async fn converse(
        self,
        mut incoming: Streaming<RegionHeartbeatRequest>,
        answers: mpsc::Sender<Result<RegionHeartbeatResponse, Status>>,
    ) -> Option<()> {
        let (to_real, handed_on) = mpsc::channel(WAITING_MAX);
        let stream = ReceiverStream::new(handed_on);
        let mut from_real = self.real.clone().region_heartbeat(stream).await.ok()?.into_inner();
        loop {
            let wanted = self.wanted.borrow().clone();
            tokio::select! {
                beat = incoming.message() => {
                    let beat = beat.ok()??;
                    if let Some(wanted) = &wanted
                        && let Some(order) = self.order(&beat, wanted).await
                    {
                        answers.send(Ok(order)).await.ok()?;
                    }
                    to_real.send(beat).await.ok()?;
                }
                answer = from_real.message() => {
                    let answer = answer.ok()??;
                    if wanted.is_none() {
                        answers.send(Ok(answer)).await.ok()?;
                    }
                }
            }
        }
    }

    /// The next step of a region to where it is to be.
    async fn order(
        &self,
        beat: &RegionHeartbeatRequest,
        wanted: &BTreeSet<u64>,
    ) -> Option<RegionHeartbeatResponse> {
        let (region, leader) = (beat.region.as_ref()?, beat.leader?);
        let mut order = RegionHeartbeatResponse {
            region_id: region.id,
            region_epoch: region.region_epoch,
            target_peer: Some(leader),
            ..RegionHeartbeatResponse::default()
        };
        let on = |store: u64| region.peers.iter().find(|peer| peer.store_id == store);
        let change = |kind: ConfChangeType, peer: Peer| {
            Some(ChangePeer { peer: Some(peer), change_type: kind.into() })
        };
        let name = if let Some(missing) = wanted.iter().find(|store| on(**store).is_none()) {
            let learner = self.learner(beat, *missing).await?;
            order.change_peer = change(ConfChangeType::AddLearnerNode, learner);
            "add"
        } else if let Some(learner) = region.peers.iter().find(|peer| is_learner(peer)) {
            // One that is fed still gets its vote later.
            let is_ready = !beat.pending_peers.iter().any(|pending| pending.id == learner.id);
            let voter = Peer { role: PeerRole::Voter.into(), ..*learner };
            order.change_peer = change(ConfChangeType::AddNode, voter).filter(|_| is_ready);
            order.change_peer.as_ref()?;
            "promote"
        } else {
            self.give_up(region, leader, wanted, &mut order)?
        };
        *self.orders.lock().expect("no holder panics").entry(name).or_default() += 1;
        Some(order)
    }

    /// A replica that is to go: removed, or relieved of its leadership first.
    fn give_up(
        &self,
        region: &Region,
        leader: Peer,
        wanted: &BTreeSet<u64>,
        order: &mut RegionHeartbeatResponse,
    ) -> Option<&'static str> {
        let (stay, go): (Vec<Peer>, Vec<Peer>) =
            region.peers.iter().partition(|peer| wanted.contains(&peer.store_id));
        let leaving = go.first()?;
        if *leaving == leader {
            let peer = stay.first().copied();
            order.transfer_leader = Some(pdpb::TransferLeader { peer, ..Default::default() });
            return Some("transfer");
        }
        let kind = ConfChangeType::RemoveNode.into();
        order.change_peer = Some(ChangePeer { peer: Some(*leaving), change_type: kind });
        Some("remove")
    }

    async fn learner(&self, beat: &RegionHeartbeatRequest, store_id: u64) -> Option<Peer> {
        let request = pdpb::AllocIdRequest { header: beat.header.clone(), count: 1 };
        let id = self.real.clone().alloc_id(request).await.ok()?.into_inner().id;
        Some(Peer { id, store_id, role: PeerRole::Learner.into() })
    }
}

fn is_learner(peer: &Peer) -> bool {
    peer.role() == PeerRole::Learner
}
