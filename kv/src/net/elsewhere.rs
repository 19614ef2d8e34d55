//! Asks leaders of other regions what became of a transaction, as a client would.
//!
//! The scheduler says who leads the region of a key, and where that store is; the store is asked over its service for
//! clients, also if it is this one. Whoever is asked at a bad moment (a split, an election) is looked up and asked
//! again a few times. Garbage collection is in no hurry: what fails now is asked again in the next pass.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use skerry_proto::codec::encode_bytes;
use skerry_proto::kvrpcpb::{
    self, CheckSecondaryLocksRequest, CheckSecondaryLocksResponse, CheckTxnStatusRequest,
    CheckTxnStatusResponse,
};
use skerry_proto::tikvpb::tikv_client::TikvClient;
use skerry_proto::types::{StoreId, Ts};
use skerry_proto::{errorpb, metapb};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::resolver::Resolver;
use super::scheduler_client::{SchedulerClient, shown};
use crate::error::{Error, Result};
use crate::gc::resolve::{Asked, Elsewhere};
use crate::storage::ApiVersion;

/// How often a region is asked, and the pause after the first time; each is twice the one before.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(50);
/// How long one answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Keys that one request is about.
const KEYS_MAX: usize = 1_024;

/// See the module.
pub struct RegionCalls {
    scheduler: Arc<SchedulerClient>,
    resolver: Resolver,
    api_version: ApiVersion,
    /// Connections by address. Guards the map alone.
    channels: Mutex<BTreeMap<String, Channel>>,
}

/// Whom to ask about a key.
struct Target {
    region: metapb::Region,
    leader: StoreId,
    client: TikvClient<Channel>,
    context: kvrpcpb::Context,
}

impl RegionCalls {
    /// Calls to the regions that this scheduler knows.
    pub fn new(scheduler: Arc<SchedulerClient>, api_version: ApiVersion) -> Arc<RegionCalls> {
        let (resolver, channels) = (Resolver::new(scheduler.clone()), Mutex::default());
        Arc::new(RegionCalls { scheduler, resolver, api_version, channels })
    }

    async fn target(&self, user_key: &[u8]) -> Result<Target> {
        let unknown = |failure: super::Failure| Error::Unknown(failure.to_string());
        let found = self.scheduler.region(&encode_bytes(user_key)).await.map_err(unknown)?;
        let (Some(region), Some(leader)) = (found.region, found.leader) else {
            return Err(Error::NotNow("the region of a primary key has no leader"));
        };
        let address = self.resolver.address(leader.store()).await.map_err(unknown)?;
        let context = kvrpcpb::Context {
            region_id: region.id,
            region_epoch: region.region_epoch,
            peer: Some(leader),
            api_version: self.api_version.to_wire(),
            ..Default::default()
        };
        // The list of a transaction's other keys is as long as its client wanted.
        let client = TikvClient::new(self.channel(&address)?).max_decoding_message_size(usize::MAX);
        Ok(Target { region, leader: leader.store(), client, context })
    }

    fn channel(&self, address: &str) -> Result<Channel> {
        let mut channels = self.channels.lock().expect("nothing panics while it holds this lock");
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| Error::Unknown(format!("{address} is no address: {error}")))?;
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .tcp_nodelay(true)
            .connect_lazy();
        channels.insert(address.to_string(), channel.clone());
        Ok(channel)
    }

    /// Asks the leader of the region of `user_key`, until it answers something else than where else to ask.
    async fn ask<T, F>(
        &self,
        user_key: &[u8],
        call: impl Fn(&mut Target) -> F,
        region_error: impl Fn(&T) -> Option<&errorpb::Error>,
    ) -> Result<T>
    where
        F: Future<Output = std::result::Result<tonic::Response<T>, Status>>,
    {
        let (mut pause, mut reason) = (PAUSE, Error::NotNow("nobody was asked"));
        for _ in 0..TRIES {
            match self.target(user_key).await {
                Ok(mut target) => match call(&mut target).await {
                    Ok(answer) => {
                        let answer = answer.into_inner();
                        match region_error(&answer) {
                            None => return Ok(answer),
                            Some(error) => reason = Error::Unknown(error.message.clone()),
                        }
                    }
                    Err(status) => {
                        self.resolver.forget(target.leader);
                        reason = Error::Unknown(shown(&status));
                    }
                },
                Err(error) => reason = error,
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(reason)
    }

    /// Asks about those of `keys`, which ascend, that lie in the region of the first; answers how many these are.
    async fn check_some(
        &self,
        start_ts: Ts,
        keys: &[Bytes],
    ) -> Result<(usize, CheckSecondaryLocksResponse)> {
        let counted = Mutex::new(0);
        let call = |target: &mut Target| {
            let is_inside = |key: &&Bytes| target.region.contains_key(&encode_bytes(key));
            let inside = keys.iter().take(KEYS_MAX).take_while(is_inside).cloned();
            let request = CheckSecondaryLocksRequest {
                context: Some(target.context.clone()),
                keys: inside.collect(),
                start_version: start_ts.get(),
            };
            *counted.lock().expect("nothing panics while it holds this lock") = request.keys.len();
            let mut client = target.client.clone();
            async move { client.kv_check_secondary_locks(request).await }
        };
        let answer: CheckSecondaryLocksResponse =
            self.ask(&keys[0], call, |answer| answer.region_error.as_ref()).await?;
        let count = *counted.lock().expect("as above");
        Ok((count, answer))
    }
}

impl Elsewhere for RegionCalls {
    fn check_txn_status(
        &self,
        request: CheckTxnStatusRequest,
    ) -> Asked<'_, CheckTxnStatusResponse> {
        Box::pin(async move {
            let call = |target: &mut Target| {
                let context = Some(target.context.clone());
                let request = CheckTxnStatusRequest { context, ..request.clone() };
                let mut client = target.client.clone();
                async move { client.kv_check_txn_status(request).await }
            };
            self.ask(&request.primary_key, call, |answer| answer.region_error.as_ref()).await
        })
    }

    fn check_secondary_locks(
        &self,
        start_ts: Ts,
        keys: Vec<Bytes>,
    ) -> Asked<'_, (usize, CheckSecondaryLocksResponse)> {
        Box::pin(async move { self.check_some(start_ts, &keys).await })
    }
}
