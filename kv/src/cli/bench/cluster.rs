//! A cluster as clients of commands (the benchmark, the demos) know it: regions, leaders, connections.
//!
//! 1. Regions are looked up at the scheduler once and kept by their end. A request goes to the leader of its key's
//!    region.
//! 2. When a store says that it is the wrong one, or does not answer, the region is looked up again and the request
//!    repeated, after a pause that grows, until the operation's time is over.
//!
//! Repeating is right here: what is written may be written twice. The time of all attempts counts. What is done to many
//! keys at a time goes to all their regions at once ([`many`]).

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use skerry_proto::codec::encode_bytes;
use skerry_proto::kvrpcpb::{Context, RawGetRequest, RawPutRequest, RawScanRequest};
use skerry_proto::metapb::{Peer, PeerRole};
use skerry_proto::types::Ts;
use skerry_proto::{errorpb, pdpb};
use skerry_raftstore::time::{Clock, SystemClock};
use tonic::transport::Endpoint;

use super::super::raw_space::RawSpace;
use super::line::{Api, Line};
use super::timestamps::{TimestampLine, Timestamps};
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::net::SchedulerClient;

mod many;

/// Between the first attempt and the second; doubled after each.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
/// No pause is longer.
const LAST_PAUSE: Duration = Duration::from_millis(100);
/// Regions that are looked up at a time.
const REGIONS_MAX: i32 = 1 << 20;

/// A region and who leads it.
#[derive(Clone, Debug)]
struct Route {
    start: Vec<u8>,
    /// The leader's, which is asked.
    store: u64,
    /// All replicas that vote, the leader among them.
    peers: Vec<Peer>,
    context: Context,
}

impl Route {
    /// The same region, at another of its replicas, which asks the leader how far it must be before it answers.
    fn at_replica(mut self, turn: u64) -> Route {
        let place = turn as usize % self.peers.len().max(1);
        if let Some(peer) = self.peers.get(place) {
            self.store = peer.store_id;
            self.context.peer = Some(*peer);
            self.context.replica_read = true;
        }
        self
    }
}

/// Connections to a store; requests take turns on them.
#[derive(Debug)]
struct Lines {
    all: Vec<Line>,
    next: AtomicU64,
}

/// See the module.
pub(in crate::cli) struct Cluster {
    scheduler: SchedulerClient,
    timestamps: TimestampLine,
    space: RawSpace,
    /// By end; the last region's end, which is empty, counts as behind all.
    routes: RwLock<BTreeMap<(bool, Vec<u8>), Route>>,
    lines: RwLock<BTreeMap<u64, Lines>>,
    api: Api,
    connections: usize,
    patience: Duration,
    /// Reads take turns at all replicas, and not at leaders alone.
    replica_read: bool,
    reads: AtomicU64,
    /// Attempts that had to be repeated.
    repeated: AtomicU64,
}

/// Why an attempt did not end the operation.
pub(super) enum Miss {
    /// Somebody else may do it.
    Elsewhere(String),
    /// Nobody will.
    Never(String),
}

impl Cluster {
    /// Finds the stores and regions of a cluster. Nobody waits for one that does not answer.
    pub(in crate::cli) async fn connect(
        schedulers: &[String],
        api: Api,
        connections: usize,
        patience: Duration,
    ) -> Result<Cluster> {
        let scheduler = SchedulerClient::new(schedulers, Metrics::new())?;
        scheduler.expect_cluster(scheduler.cluster_id().await?);
        let endpoint = endpoint(&schedulers[0])?;
        let cluster = Cluster {
            timestamps: Timestamps::line(endpoint.connect_lazy(), scheduler.header()),
            space: RawSpace::of(&scheduler).await?,
            scheduler,
            routes: RwLock::default(),
            lines: RwLock::default(),
            api,
            connections,
            patience,
            replica_read: false,
            reads: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
        };
        let regions = cluster.scheduler.regions(b"", REGIONS_MAX).await?;
        regions.into_iter().for_each(|found| cluster.note(found.region, found.leader));
        Ok(cluster)
    }

    /// Reads at any replica.
    pub(super) fn reading_anywhere(self, replica_read: bool) -> Cluster {
        Cluster { replica_read, ..self }
    }

    /// Attempts that had to be repeated so far.
    pub(super) fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }

    /// How long an operation may be repeated.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// Counts an operation that had to begin anew.
    pub(super) fn begin_anew(&self) {
        self.repeated.fetch_add(1, Ordering::Relaxed);
    }

    /// A timestamp above all that were given out before.
    pub(super) async fn timestamp(&self) -> Result<Ts> {
        let taken = tokio::time::timeout(self.patience, self.timestamps.ask(())).await;
        let reason = match taken {
            Ok(Ok(ts)) => return Ok(ts),
            Ok(Err(status)) => status.message().to_string(),
            Err(_) => "no answer in time".to_string(),
        };
        Err(Error::Startup(format!("no timestamp: {reason}")))
    }

    /// Whether transactions can be measured: their keys are written here as those of API version 1.
    pub(super) fn has_transactions(&self) -> bool {
        self.space.is_plain()
    }

    /// Whether two keys of transactions lie in one region.
    pub(super) fn are_together(&self, one: &[u8], other: &[u8]) -> bool {
        let end = |key: &[u8]| self.route_of(&encode_bytes(key)).map(|(end, _)| end);
        end(one) == end(other)
    }

    /// A boundary between regions at this key, good for raw pairs and for transactions.
    pub(super) fn boundary(&self, key: &[u8]) -> Vec<u8> {
        match self.space.is_plain() {
            true => encode_bytes(key),
            false => self.space.region_key(&self.space.key(key)),
        }
    }

    /// Regions that are known.
    pub(super) fn regions(&self) -> usize {
        self.routes.read().expect("no holder panics").len()
    }

    /// Reads a key; nothing if it is not there.
    pub(in crate::cli) async fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let key = self.space.key(key);
        let get = |mut line: Line, context| {
            let request = RawGetRequest { context, key: key.clone(), ..Default::default() };
            async move {
                let answer = line.raw_get(request).await.map_err(lost)?;
                checked(answer.region_error, &answer.error)?;
                Ok((!answer.not_found).then_some(answer.value))
            }
        };
        let choose = self.readers();
        self.attempt_at(&self.space.region_key(&key), choose, get).await
    }

    /// Who reads next: the leader, or whose turn it is.
    fn readers(&self) -> impl Fn(Route) -> Route + use<> {
        let turn = self.replica_read.then(|| self.reads.fetch_add(1, Ordering::Relaxed));
        move |route| match turn {
            Some(turn) => route.at_replica(turn),
            None => route,
        }
    }

    /// Writes a key.
    pub(in crate::cli) async fn put(&self, key: &[u8], value: Bytes) -> Result<()> {
        let key = self.space.key(key);
        let put = |mut line: Line, context| {
            let (key, value) = (key.clone(), value.clone());
            let request = RawPutRequest { context, key, value, ..Default::default() };
            async move {
                let answer = line.raw_put(request).await.map_err(lost)?;
                checked(answer.region_error, &answer.error)
            }
        };
        self.attempt(&self.space.region_key(&key), put).await
    }

    /// Reads up to so many pairs from a key on, of its region.
    pub(super) async fn scan(&self, key: &[u8], limit: u32) -> Result<usize> {
        let (key, end) = (self.space.key(key), self.space.last());
        let scan = |mut line: Line, context| {
            let (start_key, end_key) = (key.clone(), end.clone());
            let request =
                RawScanRequest { context, start_key, end_key, limit, ..Default::default() };
            async move {
                let answer = line.raw_scan(request).await.map_err(lost)?;
                checked(answer.region_error, "")?;
                Ok(answer.kvs.len())
            }
        };
        self.attempt(&self.space.region_key(&key), scan).await
    }

    /// Asks the leader of the region at `place`, written as boundaries are, until it has answered or time is over.
    pub(super) async fn attempt<T, F>(
        &self,
        place: &[u8],
        ask: impl Fn(Line, Option<Context>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, Miss>>,
    {
        self.attempt_at(place, |route| route, ask).await
    }

    /// The same, at the replica that `choose` makes of the way to the leader.
    async fn attempt_at<T, F>(
        &self,
        place: &[u8],
        choose: impl Fn(Route) -> Route,
        ask: impl Fn(Line, Option<Context>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, Miss>>,
    {
        let clock = SystemClock;
        let (began, mut pause) = (clock.monotonic(), FIRST_PAUSE);
        loop {
            let left = self.patience.saturating_sub(clock.monotonic() - began);
            let reason = match self.attempt_once(place, left, &choose, &ask).await {
                Ok(answer) => return Ok(answer),
                Err(Miss::Never(reason)) => return Err(Error::Startup(reason)),
                Err(Miss::Elsewhere(reason)) => reason,
            };
            if clock.monotonic() - began >= self.patience {
                return Err(Error::Startup(reason));
            }
            self.begin_anew();
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(LAST_PAUSE);
            self.look_up(place).await;
        }
    }

    /// One attempt, which may take no longer than `left`.
    async fn attempt_once<T, F>(
        &self,
        place: &[u8],
        left: Duration,
        choose: impl Fn(Route) -> Route,
        ask: impl Fn(Line, Option<Context>) -> F,
    ) -> std::result::Result<T, Miss>
    where
        F: Future<Output = std::result::Result<T, Miss>>,
    {
        let target = self.target(place, choose).await;
        let (line, context) = target.map_err(|error| Miss::Elsewhere(error.to_string()))?;
        let answer = tokio::time::timeout(left, ask(line, Some(context))).await;
        answer.unwrap_or_else(|_| Err(Miss::Elsewhere("no answer in time".to_string())))
    }

    async fn target(
        &self,
        place: &[u8],
        choose: impl Fn(Route) -> Route,
    ) -> Result<(Line, Context)> {
        let Some((_, route)) = self.route_of(place) else {
            return Err(Error::Startup("the region has no leader now".to_string()));
        };
        let route = choose(route);
        if let Some(line) = self.line(route.store) {
            return Ok((line, route.context));
        }
        let stores = self.scheduler.stores().await?;
        let store = stores.into_iter().find(|store| store.id == route.store);
        let address = store.map(|store| store.address).unwrap_or_default();
        let endpoint = endpoint(&address)?;
        let all = (0..self.connections).map(|_| Line::new(&endpoint, self.api)).collect();
        let lines = Lines { all, next: AtomicU64::new(0) };
        self.lines.write().expect("no holder panics").insert(route.store, lines);
        let line = self.line(route.store).expect("it was put there just now");
        Ok((line, route.context))
    }

    fn line(&self, store: u64) -> Option<Line> {
        let lines = self.lines.read().expect("no holder panics");
        let lines = lines.get(&store)?;
        let turn = lines.next.fetch_add(1, Ordering::Relaxed) as usize;
        Some(lines.all[turn % lines.all.len()].clone())
    }

    /// The region at a place with its end, if it is known.
    fn route_of(&self, place: &[u8]) -> Option<(Vec<u8>, Route)> {
        let routes = self.routes.read().expect("no holder panics");
        let behind = (Bound::Excluded((false, place.to_vec())), Bound::Unbounded);
        let ((_, end), route) = routes.range(behind).next()?;
        (*route.start <= *place).then(|| (end.clone(), route.clone()))
    }

    fn forget(&self, place: &[u8]) {
        let Some((end, _)) = self.route_of(place) else { return };
        self.routes.write().expect("no holder panics").remove(&(end.is_empty(), end));
    }

    /// Looks the region of a place up anew. A scheduler that does not answer leaves things as they are.
    async fn look_up(&self, place: &[u8]) {
        let found = self.scheduler.region(place).await;
        if let Ok(pdpb::GetRegionResponse { region, leader, .. }) = found {
            self.forget(place);
            self.note(region, leader);
        }
    }

    fn note(
        &self,
        region: Option<skerry_proto::metapb::Region>,
        leader: Option<skerry_proto::metapb::Peer>,
    ) {
        let (Some(region), Some(leader)) = (region, leader) else { return };
        let end = region.end_key.to_vec();
        let votes = |peer: &&Peer| peer.role() == PeerRole::Voter;
        let route = Route {
            start: region.start_key.to_vec(),
            store: leader.store_id,
            peers: region.peers.iter().filter(votes).copied().collect(),
            context: self.space.context(&region, leader),
        };
        self.routes.write().expect("no holder panics").insert((end.is_empty(), end), route);
    }
}

fn endpoint(address: &str) -> Result<Endpoint> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let endpoint =
        endpoint.map_err(|error| Error::Startup(format!("{address:?} is no address: {error}")))?;
    Ok(endpoint.tcp_nodelay(true))
}

/// What an answer says about the attempt.
pub(super) fn checked(
    region_error: Option<errorpb::Error>,
    error: &str,
) -> std::result::Result<(), Miss> {
    match region_error {
        Some(region_error) => Err(Miss::Elsewhere(region_error.message)),
        None if error.is_empty() => Ok(()),
        None => Err(Miss::Never(error.to_string())),
    }
}

/// What a lost call says about the attempt.
pub(super) fn lost(status: tonic::Status) -> Miss {
    match status.code() {
        tonic::Code::InvalidArgument => Miss::Never(status.message().to_string()),
        tonic::Code::Unimplemented => {
            Miss::Never(format!("the store does not serve such requests: {}", status.message()))
        }
        _ => Miss::Elsewhere(status.message().to_string()),
    }
}
