//! A client that finds the leader by itself, tries once, and says exactly what it knows of the outcome.
//!
//! Every write is sent as one that must not come between the two halves of a compare-and-set (`for_cas`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use skerry_proto::pdpb::pd_client::PdClient;
use skerry_proto::pdpb::{GetRegionRequest, GetStoreRequest, RequestHeader};
use skerry_proto::tikvpb::tikv_client::TikvClient;
use skerry_proto::{errorpb, kvrpcpb, metapb};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::checker::{Action, Ending};
use crate::client;

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(2);

/// See the module. Of an API V1 cluster.
pub struct RoutingClient {
    scheduler: PdClient<Channel>,
    /// 0 until the scheduler has told.
    cluster_id: u64,
    stores: BTreeMap<u64, TikvClient<Channel>>,
    /// Where the last attempt went; forgotten when it failed.
    route: Option<(TikvClient<Channel>, kvrpcpb::Context)>,
}

/// What came of an attempt that has no answer.
enum Failed {
    /// Nothing was done.
    Refused,
    /// It may have been done.
    Unknown,
}

impl RoutingClient {
    /// A client of the cluster of the scheduler at `address`.
    pub fn new(address: SocketAddr) -> RoutingClient {
        let scheduler = client::scheduler(address);
        RoutingClient { scheduler, cluster_id: 0, stores: BTreeMap::new(), route: None }
    }

    /// Tries once.
    pub async fn attempt(&mut self, key: Bytes, action: &Action) -> Ending {
        let Some((store, context)) = self.find(&key).await else { return Ending::Refused };
        let tried = tokio::time::timeout(ATTEMPT, ask(store, context, key, action)).await;
        let failed = match tried {
            Ok(Ok(ending)) => return ending,
            Ok(Err(failed)) => failed,
            Err(_elapsed) => Failed::Unknown,
        };
        self.route = None;
        match (failed, action) {
            // A read that is not answered did nothing.
            (Failed::Refused, _) | (_, Action::Get) => Ending::Refused,
            (Failed::Unknown, _) => Ending::Unknown,
        }
    }

    /// The store that leads the key's region, as far as the scheduler knows.
    async fn find(&mut self, key: &Bytes) -> Option<(TikvClient<Channel>, kvrpcpb::Context)> {
        if self.route.is_none() {
            let found = tokio::time::timeout(ATTEMPT, self.look_up(key)).await.ok()?;
            self.route = Some(found.ok()??);
        }
        self.route.clone()
    }

    async fn look_up(
        &mut self,
        key: &Bytes,
    ) -> Result<Option<(TikvClient<Channel>, kvrpcpb::Context)>, Status> {
        if self.cluster_id == 0 {
            let id = client::cluster_id(&mut self.scheduler).await;
            self.cluster_id = id.map_err(|failure| Status::unavailable(failure.to_string()))?;
        }
        let cluster_id = self.cluster_id;
        let header = Some(RequestHeader { cluster_id, ..RequestHeader::default() });
        let request = GetRegionRequest { header: header.clone(), region_key: key.clone() };
        let found = self.scheduler.get_region(request).await?.into_inner();
        let (Some(region), Some(leader)) = (found.region, found.leader) else { return Ok(None) };
        let store_id = leader.store_id;
        if !self.stores.contains_key(&store_id) {
            let request = GetStoreRequest { header, store_id };
            let store = self.scheduler.get_store(request).await?.into_inner().store;
            let Some(metapb::Store { address, .. }) = store else { return Ok(None) };
            let endpoint = Endpoint::from_shared(format!("http://{address}"));
            let endpoint = endpoint.map_err(|error| Status::internal(error.to_string()))?;
            let channel = endpoint.connect_timeout(Duration::from_millis(500)).connect_lazy();
            self.stores.insert(store_id, TikvClient::new(channel));
        }
        let context = kvrpcpb::Context {
            region_id: region.id,
            region_epoch: region.region_epoch,
            peer: Some(leader),
            ..kvrpcpb::Context::default()
        };
        Ok(Some((self.stores[&store_id].clone(), context)))
    }
}

async fn ask(
    mut store: TikvClient<Channel>,
    context: kvrpcpb::Context,
    key: Bytes,
    action: &Action,
) -> Result<Ending, Failed> {
    let context = Some(context);
    match action {
        Action::Get => {
            let request = kvrpcpb::RawGetRequest { context, key, ..Default::default() };
            let answer = store.raw_get(request).await.map_err(judge)?.into_inner();
            check(answer.region_error, &answer.error)?;
            Ok(Ending::Found((!answer.not_found).then_some(answer.value)))
        }
        Action::Put(value) => {
            let (value, for_cas) = (value.clone(), true);
            let request =
                kvrpcpb::RawPutRequest { context, key, value, for_cas, ..Default::default() };
            let answer = store.raw_put(request).await.map_err(judge)?.into_inner();
            check(answer.region_error, &answer.error)?;
            Ok(Ending::Written)
        }
        Action::Delete => {
            let for_cas = true;
            let request = kvrpcpb::RawDeleteRequest { context, key, for_cas, ..Default::default() };
            let answer = store.raw_delete(request).await.map_err(judge)?.into_inner();
            check(answer.region_error, &answer.error)?;
            Ok(Ending::Written)
        }
        Action::CompareAndSet { expected, new } => {
            let request = kvrpcpb::RawCasRequest {
                context,
                key,
                value: new.clone(),
                previous_not_exist: expected.is_none(),
                previous_value: expected.clone().unwrap_or_default(),
                ..Default::default()
            };
            let answer = store.raw_compare_and_swap(request).await.map_err(judge)?.into_inner();
            check(answer.region_error, &answer.error)?;
            let found = (!answer.previous_not_exist).then_some(answer.previous_value);
            Ok(Ending::Found(found))
        }
    }
}

/// An error in the answer says that nothing was done.
fn check(region_error: Option<errorpb::Error>, error: &str) -> Result<(), Failed> {
    match region_error.is_none() && error.is_empty() {
        true => Ok(()),
        false => Err(Failed::Refused),
    }
}

/// A connection that was refused has carried nothing; every other failure may have come after the deed.
fn judge(status: Status) -> Failed {
    let mut source = std::error::Error::source(&status);
    while let Some(error) = source {
        let error_kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if error_kind == Some(std::io::ErrorKind::ConnectionRefused) {
            return Failed::Refused;
        }
        source = error.source();
    }
    Failed::Unknown
}
