//! A client that repeats what a standard client repeats, and as long: nobody who uses one should see more failures.
//!
//! 1. Regions are kept by their end, with who leads them. What is not known is looked up at the scheduler; a scheduler
//!    that is away is no failure as long as what is known suffices.
//! 2. What fails is repeated after a pause that grows. An answer that names another leader, or what has become of the
//!    region, is believed; after any other, and after a connection that broke, the region is looked up anew.
//! 3. What a standard client hands to its caller is handed to ours: a refusal in words, an entry that is too large, an
//!    outcome that the store says it does not know, and twenty seconds without success.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use skerry_proto::pdpb::pd_client::PdClient;
use skerry_proto::pdpb::{
    GetRegionRequest, GetStoreRequest, Region, RequestHeader, ScanRegionsRequest,
};
use skerry_proto::tikvpb::tikv_client::TikvClient;
use skerry_proto::{errorpb, kvrpcpb, metapb};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::client;
use crate::wait::{Stopwatch, let_pass_async};

/// What TiKV's own client has for raw requests.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(5);
/// The scheduler answers from memory.
const LOOK_UP: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LAST_PAUSE: Duration = Duration::from_millis(200);

/// See the module. Of an API V1 cluster.
pub struct PatientClient {
    scheduler: PdClient<Channel>,
    /// 0 until the scheduler has told.
    cluster_id: u64,
    stores: BTreeMap<u64, TikvClient<Channel>>,
    /// By end; an empty end counts as behind all.
    routes: BTreeMap<(bool, Bytes), Route>,
    repeated: u64,
}

#[derive(Clone)]
struct Route {
    start: Bytes,
    store: u64,
    context: kvrpcpb::Context,
}

/// Why an attempt has no answer.
enum Miss {
    /// A standard client tries again, with what the store has told it, if it has.
    Again(Option<Box<errorpb::Error>>),
    /// It does not.
    Never(String),
}

impl PatientClient {
    /// A client of the cluster of the scheduler at `address`.
    pub fn new(address: SocketAddr) -> PatientClient {
        PatientClient {
            scheduler: client::scheduler(address),
            cluster_id: 0,
            stores: BTreeMap::new(),
            routes: BTreeMap::new(),
            repeated: 0,
        }
    }

    /// Attempts that were repeated.
    pub fn repeated(&self) -> u64 {
        self.repeated
    }

    /// Writes a pair, or says what a standard client would say to its caller.
    pub async fn put(&mut self, key: &Bytes, value: &Bytes) -> Result<(), String> {
        self.attempt(key, |mut store: TikvClient<Channel>, context| {
            let (key, value) = (key.clone(), value.clone());
            let request = kvrpcpb::RawPutRequest { context, key, value, ..Default::default() };
            async move {
                let answer = store.raw_put(request).await.map_err(judge)?.into_inner();
                check(answer.region_error, &answer.error)
            }
        })
        .await
    }

    /// Reads a key.
    pub async fn get(&mut self, key: &Bytes) -> Result<Option<Bytes>, String> {
        self.attempt(key, |mut store: TikvClient<Channel>, context| {
            let request =
                kvrpcpb::RawGetRequest { context, key: key.clone(), ..Default::default() };
            async move {
                let answer = store.raw_get(request).await.map_err(judge)?.into_inner();
                check(answer.region_error, &answer.error)?;
                Ok((!answer.not_found).then_some(answer.value))
            }
        })
        .await
    }

    async fn attempt<T, F>(
        &mut self,
        key: &Bytes,
        ask: impl Fn(TikvClient<Channel>, Option<kvrpcpb::Context>) -> F,
    ) -> Result<T, String>
    where
        F: Future<Output = Result<T, Miss>>,
    {
        let (watch, mut pause) = (Stopwatch::start(), FIRST_PAUSE);
        loop {
            let mut told = None;
            if let Some((store, context)) = self.target(key).await {
                match tokio::time::timeout(ATTEMPT, ask(store, Some(context))).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(Miss::Never(reason))) => return Err(reason),
                    Ok(Err(Miss::Again(reason))) => told = reason,
                    Err(_) => {}
                }
            }
            if watch.elapsed() >= PATIENCE {
                return Err(format!("no answer within {PATIENCE:?}"));
            }
            self.repeated += 1;
            let_pass_async(pause).await;
            pause = (2 * pause).min(LAST_PAUSE);
            if told.is_none_or(|told| !self.learn(key, &told)) {
                // A scheduler that is away tells nothing new: then what is known is tried again.
                let _ = tokio::time::timeout(LOOK_UP, self.look_up(key)).await;
            }
        }
    }

    /// Takes over what a store says of a region; true if another one is said to lead it, or it has become others.
    fn learn(&mut self, key: &Bytes, told: &errorpb::Error) -> bool {
        let Some(route) = self.route(key).cloned() else { return false };
        let former = route.context.peer;
        if let Some(leader) = told.not_leader.as_ref().and_then(|it| it.leader) {
            let is_new = former.is_some_and(|former| former.id != leader.id);
            let (region_id, start) = (route.context.region_id, route.start);
            let places = self.routes.values_mut().filter(|it| it.start == start);
            for place in places.filter(|it| is_new && it.context.region_id == region_id) {
                place.store = leader.store_id;
                place.context.peer = Some(leader);
            }
            return is_new;
        }
        let parts = told.epoch_not_match.iter().flat_map(|it| &it.current_regions);
        let regions: Vec<metapb::Region> = parts.cloned().collect();
        let is_known = |region: &metapb::Region| {
            region.id == route.context.region_id
                && region.region_epoch == route.context.region_epoch
        };
        if regions.is_empty() || regions.iter().any(is_known) {
            return false;
        }
        for region in regions {
            // It is led from where the parent was, as far as anybody knows.
            let peers = region.peers.iter();
            let leader = peers.copied().find(|peer| peer.store_id == route.store);
            self.note(Some(region), leader);
        }
        true
    }

    fn route(&self, key: &Bytes) -> Option<&Route> {
        let behind = (Bound::Excluded((false, key.clone())), Bound::Unbounded);
        let (_, route) = self.routes.range(behind).next()?;
        (route.start <= *key).then_some(route)
    }

    async fn target(&mut self, key: &Bytes) -> Option<(TikvClient<Channel>, kvrpcpb::Context)> {
        if self.route(key).is_none() {
            let found = tokio::time::timeout(LOOK_UP, self.look_up_all(key)).await;
            found.ok()?.ok()?;
        }
        let Route { store, context, .. } = self.route(key)?.clone();
        if !self.stores.contains_key(&store) {
            let found = tokio::time::timeout(LOOK_UP, self.connect(store)).await;
            self.stores.insert(store, found.ok()?.ok()?);
        }
        Some((self.stores[&store].clone(), context))
    }

    /// The region of a key and those behind it: a client that begins knows none.
    async fn look_up_all(&mut self, key: &Bytes) -> Result<(), Status> {
        let request = ScanRegionsRequest {
            header: self.header().await?,
            start_key: key.clone(),
            limit: 1_024,
            ..Default::default()
        };
        let found = self.scheduler.scan_regions(request).await?.into_inner();
        for Region { region, leader, .. } in found.regions {
            self.note(region, leader);
        }
        Ok(())
    }

    async fn look_up(&mut self, key: &Bytes) -> Result<(), Status> {
        let request = GetRegionRequest { header: self.header().await?, region_key: key.clone() };
        let found = self.scheduler.get_region(request).await?.into_inner();
        self.note(found.region, found.leader);
        Ok(())
    }

    /// A region replaces all that it overlaps.
    fn note(&mut self, region: Option<metapb::Region>, leader: Option<metapb::Peer>) {
        let (Some(region), Some(leader)) = (region, leader.filter(|it| it.store_id != 0)) else {
            return;
        };
        let (start, end) = (region.start_key.clone(), region.end_key.clone());
        self.routes.retain(|(is_last, other_end), other| {
            (!is_last && *other_end <= start) || (!end.is_empty() && end <= other.start)
        });
        let context = kvrpcpb::Context {
            region_id: region.id,
            region_epoch: region.region_epoch,
            peer: Some(leader),
            ..kvrpcpb::Context::default()
        };
        let route = Route { start, store: leader.store_id, context };
        self.routes.insert((end.is_empty(), end), route);
    }

    async fn connect(&mut self, store_id: u64) -> Result<TikvClient<Channel>, Status> {
        let request = GetStoreRequest { header: self.header().await?, store_id };
        let store = self.scheduler.get_store(request).await?.into_inner().store;
        let address = store.unwrap_or_default().address;
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let endpoint = endpoint.map_err(|error| Status::internal(error.to_string()))?;
        let channel = endpoint.connect_timeout(Duration::from_millis(500)).connect_lazy();
        Ok(TikvClient::new(channel))
    }

    async fn header(&mut self) -> Result<Option<RequestHeader>, Status> {
        if self.cluster_id == 0 {
            let id = client::cluster_id(&mut self.scheduler).await;
            self.cluster_id = id.map_err(|failure| Status::unavailable(failure.to_string()))?;
        }
        Ok(Some(RequestHeader { cluster_id: self.cluster_id, ..RequestHeader::default() }))
    }
}

fn check(region_error: Option<errorpb::Error>, error: &str) -> Result<(), Miss> {
    match region_error {
        Some(told) if told.raft_entry_too_large.is_some() => Err(Miss::Never(told.message)),
        Some(told) => Err(Miss::Again(Some(Box::new(told)))),
        None if error.is_empty() => Ok(()),
        None => Err(Miss::Never(error.to_string())),
    }
}

/// A standard client takes every failure to send for one of the store, and tries another or again.
fn judge(status: Status) -> Miss {
    match status.code() {
        Code::InvalidArgument | Code::Unimplemented | Code::Unauthenticated => {
            Miss::Never(status.to_string())
        }
        _ => Miss::Again(None),
    }
}
