//! Talks to the scheduler: several addresses, time limits, and one word for each way to fail.
//!
//! 1. Connections are opened when they are first needed and again after they broke.
//! 2. A call goes to the address that answered last; if nobody is there, to the next, once round.
//! 3. Every request names the cluster once it is known; every answer is compared with it.
//! 4. [`SchedulerClient::patiently`] repeats a call with growing pauses until somebody answers: for the
//!    first start, which cannot go on without. Everybody else takes [`Failure::Unreachable`] for what it
//!    is, goes on without the scheduler and comes back on its next tick.
//!
//! **Invariant.** A call that may have been carried out is repeated only if carrying it out twice does no
//! harm: ids that were allocated and lost are not missed, and all else says what is, not what changes.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use skerry_proto::gcpb::gc_client::GcClient;
use skerry_proto::pdpb::pd_client::PdClient;
use skerry_proto::types::StoreId;
use skerry_proto::{gcpb, metapb, pdpb};
use slog::Logger;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::error::{Error, Result};
use crate::metrics::Metrics;

/// How long one address may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one address may take to answer. Longer than a sync on a slow disk, which ids may cost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Silence on a connection with open calls after which it is asked whether it still works: a machine that lost its
/// power says no goodbye. Not more often, because PD takes that for abuse.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// The first pause between two rounds over all addresses; each is twice the one before.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// After so many rounds in vain, and again after so many more, the log says what is being waited for.
const ROUNDS_PER_COMPLAINT: u32 = 5;
/// Heartbeats of regions that may wait for the stream; above that the sender waits.
const HEARTBEATS_WAITING_MAX: usize = 16_384;

/// Why a call has no answer. Not an error of the crate yet: who called decides what it means.
#[derive(Debug)]
pub enum Failure {
    /// Nobody answered, or answered that it cannot now. The call may have been carried out.
    Unreachable(String),
    /// The scheduler answered no.
    Refused(pdpb::Error),
    /// The scheduler belongs to another cluster than this process, or its cluster to another store.
    WrongCluster(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Unreachable(reason) => {
                write!(formatter, "the scheduler does not answer: {reason}")
            }
            Failure::Refused(error) => {
                write!(formatter, "the scheduler refuses: {}", error.message)
            }
            Failure::WrongCluster(reason) => formatter.write_str(reason),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        Error::Startup(failure.to_string())
    }
}

/// What a call answers.
pub type Outcome<T> = std::result::Result<T, Failure>;

/// The scheduler's addresses and what is known about it. Shared by everything that talks to it.
pub struct SchedulerClient {
    endpoints: Vec<(String, Channel)>,
    /// Which address answered last.
    current: AtomicUsize,
    /// 0 until [`SchedulerClient::expect_cluster`].
    cluster_id: AtomicU64,
    metrics: Arc<Metrics>,
}

impl SchedulerClient {
    /// A client of the schedulers at `addresses` (`HOST:PORT`). Nothing is connected yet.
    pub fn new(addresses: &[String], metrics: Arc<Metrics>) -> Result<SchedulerClient> {
        assert!(!addresses.is_empty(), "the configuration names at least one scheduler");
        let mut endpoints = Vec::new();
        for address in addresses {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| {
                Error::Startup(format!("scheduler address {address:?} cannot be used: {error}"))
            })?;
            let endpoint = endpoint
                .connect_timeout(CONNECT_TIMEOUT)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
                .keep_alive_timeout(ANSWER_TIMEOUT);
            endpoints.push((address.clone(), endpoint.connect_lazy()));
        }
        let (current, cluster_id) = (AtomicUsize::new(0), AtomicU64::new(0));
        Ok(SchedulerClient { endpoints, current, cluster_id, metrics })
    }

    /// The addresses, for messages.
    pub fn addresses(&self) -> String {
        let addresses: Vec<&str> =
            self.endpoints.iter().map(|(address, _)| address.as_str()).collect();
        addresses.join(",")
    }

    /// From now on every request names `cluster_id`, and no other cluster's answer is taken.
    pub fn expect_cluster(&self, cluster_id: u64) {
        self.cluster_id.store(cluster_id, Ordering::SeqCst);
    }

    /// Repeats `call` until somebody answers, yes or no. Says in the log what it waits for.
    pub async fn patiently<T, F>(&self, logger: &Logger, call: impl Fn() -> F) -> Outcome<T>
    where
        F: Future<Output = Outcome<T>>,
    {
        let mut pause = PAUSE_MIN;
        let mut rounds = 0;
        loop {
            let reason = match call().await {
                Err(Failure::Unreachable(reason)) => reason,
                answered => return answered,
            };
            rounds += 1;
            if rounds % ROUNDS_PER_COMPLAINT == 0 {
                slog::warn!(logger, "waiting for the scheduler";
                    "addresses" => self.addresses(), "reason" => reason);
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(PAUSE_MAX);
        }
    }

    /// Asks which cluster the scheduler serves. Does not compare it with the expected one.
    pub async fn cluster_id(&self) -> Outcome<u64> {
        let call = |mut client: PdClient<Channel>| async move {
            client.get_members(pdpb::GetMembersRequest { header: None }).await
        };
        let header = |answer: &pdpb::GetMembersResponse| answer.header.clone();
        let answer = self.exchange("get_members", call, header).await?;
        let cluster_id = answer.header.map_or(0, |header| header.cluster_id);
        if cluster_id == 0 {
            return Err(Failure::Unreachable("it does not know its cluster yet".to_string()));
        }
        Ok(cluster_id)
    }

    /// `count` new ids that nobody in the cluster has or had.
    pub async fn allocate_ids(&self, count: u32) -> Outcome<Vec<u64>> {
        let request = pdpb::AllocIdRequest { header: self.header(), count };
        let call = |mut client: PdClient<Channel>| {
            let request = request.clone();
            async move { client.alloc_id(request).await }
        };
        let header = |answer: &pdpb::AllocIdResponse| answer.header.clone();
        let answer = self.exchange("alloc_id", call, header).await?;
        // The answer names the largest of `count` consecutive ids.
        let first = answer.id.checked_sub(u64::from(count) - 1).filter(|first| *first > 0);
        let first = first.ok_or_else(|| {
            Failure::Unreachable(format!("it answered {} as the last of {count} ids", answer.id))
        })?;
        Ok((first..=answer.id).collect())
    }

    /// Makes this cluster's first store and region known. `false` if another store was first, or this one
    /// did it before.
    pub async fn bootstrap(&self, store: metapb::Store, region: metapb::Region) -> Outcome<bool> {
        let request = pdpb::BootstrapRequest {
            header: self.header(),
            store: Some(store),
            region: Some(region),
        };
        let call = |mut client: PdClient<Channel>| {
            let request = request.clone();
            async move { client.bootstrap(request).await }
        };
        let header = |answer: &pdpb::BootstrapResponse| answer.header.clone();
        match self.exchange("bootstrap", call, header).await {
            Ok(_) => Ok(true),
            Err(Failure::Refused(error))
                if error.r#type() == pdpb::ErrorType::AlreadyBootstrapped =>
            {
                Ok(false)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Registers this store, or its new address.
    pub async fn put_store(&self, store: metapb::Store) -> Outcome<()> {
        let request = pdpb::PutStoreRequest { header: self.header(), store: Some(store) };
        let call = |mut client: PdClient<Channel>| {
            let request = request.clone();
            async move { client.put_store(request).await }
        };
        let header = |answer: &pdpb::PutStoreResponse| answer.header.clone();
        self.exchange("put_store", call, header).await.map(|_| ())
    }

    /// Says that the store is alive, and how full it is.
    pub async fn store_heartbeat(&self, stats: pdpb::StoreStats) -> Outcome<()> {
        let request = pdpb::StoreHeartbeatRequest { header: self.header(), stats: Some(stats) };
        let call = |mut client: PdClient<Channel>| {
            let request = request.clone();
            async move { client.store_heartbeat(request).await }
        };
        let header = |answer: &pdpb::StoreHeartbeatResponse| answer.header.clone();
        self.exchange("store_heartbeat", call, header).await.map(|_| ())
    }

    /// The region that holds `key`, in the form of boundaries, and its leader.
    pub async fn region(&self, key: &[u8]) -> Outcome<pdpb::GetRegionResponse> {
        let region_key = bytes::Bytes::copy_from_slice(key);
        let request = pdpb::GetRegionRequest { header: self.header(), region_key };
        let call = |mut client: PdClient<Channel>| {
            let request = request.clone();
            async move { client.get_region(request).await }
        };
        self.exchange("get_region", call, |answer| answer.header.clone()).await
    }

    /// The region with an id, and its leader.
    pub async fn region_by_id(&self, region_id: u64) -> Outcome<pdpb::GetRegionResponse> {
        let request = pdpb::GetRegionByIdRequest { header: self.header(), region_id };
        let call = |mut client: PdClient<Channel>| {
            let request = request.clone();
            async move { client.get_region_by_id(request).await }
        };
        self.exchange("get_region_by_id", call, |answer| answer.header.clone()).await
    }

    /// At most `limit` regions from the one that holds `start_key` on, with their leaders.
    pub async fn regions(&self, start_key: &[u8], limit: i32) -> Outcome<Vec<pdpb::Region>> {
        let request = pdpb::ScanRegionsRequest {
            header: self.header(),
            start_key: bytes::Bytes::copy_from_slice(start_key),
            limit,
            ..Default::default()
        };
        let call = |mut client: PdClient<Channel>| {
            let request = request.clone();
            async move { client.scan_regions(request).await }
        };
        let header = |answer: &pdpb::ScanRegionsResponse| answer.header.clone();
        Ok(self.exchange("scan_regions", call, header).await?.regions)
    }

    /// The store with an id.
    pub async fn store(&self, store_id: StoreId) -> Outcome<metapb::Store> {
        let request = pdpb::GetStoreRequest { header: self.header(), store_id: store_id.get() };
        let call = |mut client: PdClient<Channel>| {
            let request = request.clone();
            async move { client.get_store(request).await }
        };
        let answer = self.exchange("get_store", call, |answer| answer.header.clone()).await?;
        answer.store.ok_or_else(|| Failure::Unreachable(format!("it does not know {store_id}")))
    }

    /// Whether the cluster has begun.
    pub async fn is_bootstrapped(&self) -> Outcome<bool> {
        let request = pdpb::IsBootstrappedRequest { header: self.header() };
        let call = |mut client: PdClient<Channel>| {
            let request = request.clone();
            async move { client.is_bootstrapped(request).await }
        };
        let header = |answer: &pdpb::IsBootstrappedResponse| answer.header.clone();
        Ok(self.exchange("is_bootstrapped", call, header).await?.bootstrapped)
    }

    /// Ids for the regions and replicas that cutting `region` in `count` places makes.
    pub async fn ask_split(
        &self,
        region: metapb::Region,
        count: u32,
    ) -> Outcome<Vec<pdpb::SplitId>> {
        let request = pdpb::AskBatchSplitRequest {
            header: self.header(),
            region: Some(region),
            split_count: count,
            ..Default::default()
        };
        let call = |mut client: PdClient<Channel>| {
            let request = request.clone();
            async move { client.ask_batch_split(request).await }
        };
        let header = |answer: &pdpb::AskBatchSplitResponse| answer.header.clone();
        Ok(self.exchange("ask_batch_split", call, header).await?.ids)
    }

    /// A region has become these, from left to right.
    pub async fn report_split(&self, regions: Vec<metapb::Region>) -> Outcome<()> {
        let request = pdpb::ReportBatchSplitRequest { header: self.header(), regions };
        let call = |mut client: PdClient<Channel>| {
            let request = request.clone();
            async move { client.report_batch_split(request).await }
        };
        let header = |answer: &pdpb::ReportBatchSplitResponse| answer.header.clone();
        self.exchange("report_batch_split", call, header).await.map(|_| ())
    }

    /// Every store that was not removed.
    pub async fn stores(&self) -> Outcome<Vec<metapb::Store>> {
        let header = self.header();
        let request = pdpb::GetAllStoresRequest { header, exclude_tombstone_stores: true };
        let call = |mut client: PdClient<Channel>| {
            let request = request.clone();
            async move { client.get_all_stores(request).await }
        };
        let header = |answer: &pdpb::GetAllStoresResponse| answer.header.clone();
        Ok(self.exchange("get_all_stores", call, header).await?.stores)
    }

    /// A timestamp above all that were given out before.
    pub async fn timestamp(&self) -> Outcome<pdpb::Timestamp> {
        let request = pdpb::TsoRequest { header: self.header(), count: 1 };
        let call = |mut client: PdClient<Channel>| {
            let request = request.clone();
            async move {
                let mut answers = client.tso(tokio_stream::once(request)).await?;
                let answer = answers.get_mut().message().await?;
                let ended = || Status::unavailable("the stream ended without one");
                Ok(tonic::Response::new(answer.ok_or_else(ended)?))
            }
        };
        let header = |answer: &pdpb::TsoResponse| answer.header.clone();
        Ok(self.exchange("tso", call, header).await?.timestamp.unwrap_or_default())
    }

    /// Says what this store does for garbage collection, and is told what to do; nothing if the scheduler does not
    /// arrange it.
    pub async fn report_collection(
        &self,
        request: &gcpb::ReportRequest,
    ) -> Outcome<Option<gcpb::ReportResponse>> {
        let call = |channel: Channel| {
            let request = request.clone();
            async move {
                match GcClient::new(channel).report(request).await {
                    Ok(answer) => Ok(tonic::Response::new(Some(answer.into_inner()))),
                    Err(status) if status.code() == Code::Unimplemented => {
                        Ok(tonic::Response::new(None))
                    }
                    Err(status) => Err(status),
                }
            }
        };
        let cluster_id = self.cluster_id.load(Ordering::SeqCst);
        let none = pdpb::ResponseHeader { cluster_id, error: None };
        let header = |answer: &Option<gcpb::ReportResponse>| match answer {
            Some(answer) => answer.header.clone(),
            None => Some(none.clone()),
        };
        self.exchange_over("report_collection", call, header).await
    }

    /// Below which old versions may be gone.
    pub async fn gc_safe_point(&self) -> Outcome<u64> {
        let request = pdpb::GetGcSafePointRequest { header: self.header() };
        let call = |mut client: PdClient<Channel>| {
            let request = request.clone();
            async move { client.get_gc_safe_point(request).await }
        };
        let header = |answer: &pdpb::GetGcSafePointResponse| answer.header.clone();
        Ok(self.exchange("get_gc_safe_point", call, header).await?.safe_point)
    }

    /// Opens a stream for heartbeats of regions. `instructed` is told whatever the scheduler says on it.
    pub fn region_heartbeats(
        &self,
        instructed: impl Fn(pdpb::RegionHeartbeatResponse) + Send + 'static,
    ) -> RegionHeartbeats {
        let (sender, receiver) = mpsc::channel(HEARTBEATS_WAITING_MAX);
        let index = self.current.load(Ordering::Relaxed);
        let mut client = PdClient::new(self.endpoints[index].1.clone());
        // Some schedulers send their headers only with their first message, perhaps a minute later: nobody
        // waits for them.
        let stream = tokio::spawn(async move {
            let mut answers =
                client.region_heartbeat(ReceiverStream::new(receiver)).await?.into_inner();
            while let Some(answer) = answers.message().await? {
                instructed(answer);
            }
            Ok(())
        });
        RegionHeartbeats { sender, stream }
    }

    /// The header of the next request.
    pub fn header(&self) -> Option<pdpb::RequestHeader> {
        let cluster_id = self.cluster_id.load(Ordering::SeqCst);
        Some(pdpb::RequestHeader { cluster_id, ..Default::default() })
    }

    /// One call of the placement service.
    async fn exchange<T, F, A>(
        &self,
        kind: &'static str,
        call: F,
        header: impl Fn(&T) -> Option<pdpb::ResponseHeader>,
    ) -> Outcome<T>
    where
        F: Fn(PdClient<Channel>) -> A,
        A: Future<Output = std::result::Result<tonic::Response<T>, Status>>,
    {
        self.exchange_over(kind, |channel| call(PdClient::new(channel)), header).await
    }

    /// One call, to each address until one answers.
    async fn exchange_over<T, F, A>(
        &self,
        kind: &'static str,
        call: F,
        header: impl Fn(&T) -> Option<pdpb::ResponseHeader>,
    ) -> Outcome<T>
    where
        F: Fn(Channel) -> A,
        A: Future<Output = std::result::Result<tonic::Response<T>, Status>>,
    {
        let first = self.current.load(Ordering::Relaxed);
        let mut reasons = Vec::new();
        for step in 0..self.endpoints.len() {
            let index = (first + step) % self.endpoints.len();
            let (address, channel) = &self.endpoints[index];
            let attempt = call(channel.clone());
            match tokio::time::timeout(ANSWER_TIMEOUT, attempt).await {
                Ok(Ok(response)) => {
                    self.current.store(index, Ordering::Relaxed);
                    let answer = response.into_inner();
                    let checked = self.check(address, header(&answer).unwrap_or_default());
                    let result = if checked.is_ok() { "ok" } else { "refused" };
                    self.metrics.scheduler_exchange(kind, result);
                    return checked.map(|()| answer);
                }
                Ok(Err(status)) if status.code() == Code::FailedPrecondition => {
                    self.metrics.scheduler_exchange(kind, "refused");
                    let reason =
                        format!("the scheduler at {address} refuses: {}", status.message());
                    return Err(Failure::WrongCluster(reason));
                }
                Ok(Err(status)) => reasons.push(format!("{address}: {}", shown(&status))),
                Err(_) => {
                    let seconds = ANSWER_TIMEOUT.as_secs();
                    reasons.push(format!("{address}: no answer within {seconds} s"));
                }
            }
        }
        self.metrics.scheduler_exchange(kind, "unreachable");
        Err(Failure::Unreachable(reasons.join("; ")))
    }

    /// Refuses the answers of other clusters and those that say no.
    fn check(&self, address: &str, header: pdpb::ResponseHeader) -> Outcome<()> {
        let expected = self.cluster_id.load(Ordering::SeqCst);
        if expected != 0 && header.cluster_id != expected {
            return Err(Failure::WrongCluster(format!(
                "the scheduler at {address} serves cluster {}, not cluster {expected}",
                header.cluster_id
            )));
        }
        match header.error {
            Some(error) if error.r#type() != pdpb::ErrorType::Ok => Err(Failure::Refused(error)),
            _ => Ok(()),
        }
    }
}

/// A status in words, with the reason beneath it when there is one: *transport error* alone says nothing.
pub(super) fn shown(status: &Status) -> String {
    let mut text = status.message().to_string();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let reason = error.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        source = error.source();
    }
    text
}

/// An open stream for heartbeats of regions.
pub struct RegionHeartbeats {
    sender: mpsc::Sender<pdpb::RegionHeartbeatRequest>,
    stream: tokio::task::JoinHandle<std::result::Result<(), Status>>,
}

impl RegionHeartbeats {
    /// Sends one; `false` when the stream has ended and a new one must be opened.
    pub async fn send(&self, heartbeat: pdpb::RegionHeartbeatRequest) -> bool {
        self.sender.send(heartbeat).await.is_ok()
    }

    /// Sends one, if there is room.
    pub fn offer(&self, heartbeat: pdpb::RegionHeartbeatRequest) {
        // What finds no room is told again by its next report.
        let _ = self.sender.try_send(heartbeat);
    }

    /// Whether the stream has ended.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl Drop for RegionHeartbeats {
    fn drop(&mut self) {
        self.stream.abort();
    }
}
