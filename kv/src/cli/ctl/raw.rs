//! `skerry ctl raw`: gets, puts, deletes and scans pairs the way a client library does, one region at a time.

use bytes::Bytes;
use clap::Subcommand;
use serde_json::json;
use skerry_proto::codec::{KeyMode, encode_bytes, keyspace_bounds, keyspace_prefix};
use skerry_proto::kvrpcpb::{self, RawDeleteRequest, RawGetRequest, RawPutRequest, RawScanRequest};
use skerry_proto::region::KeyBounds;
use skerry_proto::tikvpb::tikv_client::TikvClient;
use skerry_proto::types::KeyspaceId;
use skerry_proto::{errorpb, pdpb};
use tonic::transport::{Channel, Endpoint};

use super::{Answer, REGIONS_MAX, escape, unescape};
use crate::error::{Error, Result};
use crate::net::SchedulerClient;
use crate::storage::ApiVersion;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print the value of KEY; a missing key is a failure
    Get {
        /// The key
        key: String,
    },
    /// Set KEY to VALUE
    Put {
        /// The key
        key: String,
        /// Its new value
        value: String,
        /// Remove it after so many seconds
        #[arg(long, default_value_t = 0, value_name = "SECONDS")]
        ttl: u64,
    },
    /// Remove KEY; removing what is not there is no failure
    Delete {
        /// The key
        key: String,
    },
    /// Print pairs in the order of their keys
    Scan {
        /// The first key; default: from the beginning
        start: Option<String>,
        /// The first key that is not printed any more; default: to the end
        #[arg(long, value_name = "KEY")]
        end: Option<String>,
        /// How many pairs at most
        #[arg(long, default_value_t = 20, value_name = "COUNT")]
        limit: u32,
        /// From the end backwards
        #[arg(long)]
        reverse: bool,
    },
}

pub(super) async fn run(command: Command, scheduler: &SchedulerClient) -> Result<Answer> {
    let cluster = Cluster { scheduler, version: version(scheduler).await? };
    match command {
        Command::Get { key } => cluster.get(&key).await,
        Command::Put { key, value, ttl } => cluster.put(&key, &value, ttl).await,
        Command::Delete { key } => cluster.delete(&key).await,
        Command::Scan { start, end, limit, reverse } => {
            let start = unescape(&start.unwrap_or_default())?;
            let end = unescape(&end.unwrap_or_default())?;
            cluster.scan(&start, &end, limit, reverse).await
        }
    }
}

/// Only a cluster of API version 2 has a region that begins where the keyspace DEFAULT does.
async fn version(scheduler: &SchedulerClient) -> Result<ApiVersion> {
    let (start, _) = keyspace_bounds(KeyMode::Raw, KeyspaceId::DEFAULT);
    let region = scheduler.region(&start).await?.region;
    let is_bounded = region.is_some_and(|region| region.start_key == start);
    Ok(if is_bounded { ApiVersion::V2 } else { ApiVersion::V1 })
}

struct Cluster<'a> {
    scheduler: &'a SchedulerClient,
    version: ApiVersion,
}

/// A store and what to tell it about the region that is asked.
struct Target {
    store: TikvClient<Channel>,
    context: Option<kvrpcpb::Context>,
}

impl Cluster<'_> {
    async fn get(&self, key: &str) -> Result<Answer> {
        let key = self.key(&unescape(key)?);
        let Target { mut store, context } = self.target_of(&key).await?;
        let request = RawGetRequest { context, key, ..Default::default() };
        let answer = store.raw_get(request).await.map_err(unreachable)?.into_inner();
        refused(answer.region_error, &answer.error)?;
        if answer.not_found {
            return Err(Error::Startup("not found".to_string()));
        }
        let value = escape(&answer.value);
        Ok(Answer { text: format!("{value}\n"), json: json!({ "value": value }) })
    }

    async fn put(&self, key: &str, value: &str, ttl: u64) -> Result<Answer> {
        let (key, value) = (self.key(&unescape(key)?), Bytes::from(unescape(value)?));
        let Target { mut store, context } = self.target_of(&key).await?;
        let request = RawPutRequest { context, key, value, ttl, ..Default::default() };
        let answer = store.raw_put(request).await.map_err(unreachable)?.into_inner();
        refused(answer.region_error, &answer.error)?;
        Ok(done())
    }

    async fn delete(&self, key: &str) -> Result<Answer> {
        let key = self.key(&unescape(key)?);
        let Target { mut store, context } = self.target_of(&key).await?;
        let request = RawDeleteRequest { context, key, ..Default::default() };
        let answer = store.raw_delete(request).await.map_err(unreachable)?.into_inner();
        refused(answer.region_error, &answer.error)?;
        Ok(done())
    }

    /// Scans region by region, in the direction that was asked for, until there are enough pairs.
    async fn scan(&self, start: &[u8], end: &[u8], limit: u32, reverse: bool) -> Result<Answer> {
        let start = self.key(start);
        let end = if end.is_empty() { self.last() } else { self.key(end) };
        let (low, high) = (self.region_key(&start), self.region_key_of_end(&end));
        let range = KeyBounds::new(&low, &high);
        let mut regions = self.scheduler.regions(&low, REGIONS_MAX).await?;
        regions.retain(|found| {
            found.region.as_ref().is_some_and(|region| region.bounds().overlaps(&range))
        });
        if reverse {
            regions.reverse();
        }
        let mut pairs = Vec::new();
        for region in regions {
            let left = limit - u32::try_from(pairs.len()).unwrap_or(limit);
            if left == 0 {
                break;
            }
            let Target { mut store, context } = self.target(region).await?;
            let (start_key, end_key) = match reverse {
                true => (end.clone(), start.clone()),
                false => (start.clone(), end.clone()),
            };
            let request = RawScanRequest {
                context,
                start_key,
                end_key,
                limit: left,
                reverse,
                ..Default::default()
            };
            let answer = store.raw_scan(request).await.map_err(unreachable)?.into_inner();
            refused(answer.region_error, "")?;
            for pair in answer.kvs {
                let abort = pair.error.map(|error| error.abort).unwrap_or_default();
                refused(None, &abort)?;
                pairs.push((self.shown(&pair.key), escape(&pair.value)));
            }
        }
        let text = pairs.iter().map(|(key, value)| format!("{key}\t{value}\n")).collect();
        let json = pairs.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect();
        Ok(Answer { text, json })
    }

    /// A key as requests carry it.
    fn key(&self, key: &[u8]) -> Bytes {
        match self.version {
            ApiVersion::V1 => Bytes::copy_from_slice(key),
            ApiVersion::V2 => {
                [&keyspace_prefix(KeyMode::Raw, KeyspaceId::DEFAULT)[..], key].concat().into()
            }
        }
    }

    /// The end of everything, as requests carry it.
    fn last(&self) -> Bytes {
        match self.version {
            ApiVersion::V1 => Bytes::new(),
            ApiVersion::V2 => {
                let mut prefix = keyspace_prefix(KeyMode::Raw, KeyspaceId::DEFAULT);
                let last = prefix.last_mut().expect("a prefix has bytes");
                *last += 1;
                Bytes::copy_from_slice(&prefix[..])
            }
        }
    }

    /// A key of a request as boundaries of regions are written.
    fn region_key(&self, key: &[u8]) -> Vec<u8> {
        match self.version {
            ApiVersion::V1 => key.to_vec(),
            ApiVersion::V2 => encode_bytes(key),
        }
    }

    fn region_key_of_end(&self, end: &[u8]) -> Vec<u8> {
        if end.is_empty() { Vec::new() } else { self.region_key(end) }
    }

    /// A key of an answer without its keyspace, for a terminal.
    fn shown(&self, key: &[u8]) -> String {
        let prefix = self.key(b"");
        escape(key.strip_prefix(&prefix[..]).unwrap_or(key))
    }

    async fn target_of(&self, key: &[u8]) -> Result<Target> {
        let found = self.scheduler.region(&self.region_key(key)).await?;
        self.target(pdpb::Region {
            region: found.region,
            leader: found.leader,
            ..Default::default()
        })
        .await
    }

    async fn target(&self, found: pdpb::Region) -> Result<Target> {
        let (Some(region), Some(leader)) = (found.region, found.leader) else {
            return Err(Error::Startup("the region has no leader now; try again".to_string()));
        };
        let stores = self.scheduler.stores().await?;
        let store = stores.into_iter().find(|store| store.id == leader.store_id);
        let address = store.map(|store| store.address).unwrap_or_default();
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| {
            Error::Startup(format!("store {} has no usable address: {error}", leader.store_id))
        })?;
        let context = kvrpcpb::Context {
            region_id: region.id,
            region_epoch: region.region_epoch,
            peer: Some(leader),
            api_version: match self.version {
                ApiVersion::V1 => kvrpcpb::ApiVersion::V1.into(),
                ApiVersion::V2 => kvrpcpb::ApiVersion::V2.into(),
            },
            ..Default::default()
        };
        let store = TikvClient::new(endpoint.connect_lazy()).max_decoding_message_size(usize::MAX);
        Ok(Target { store, context: Some(context) })
    }
}

fn done() -> Answer {
    Answer { text: "ok\n".to_string(), json: json!({ "ok": true }) }
}

/// The store said no. A region error can pass: regions move while one types.
fn refused(region_error: Option<errorpb::Error>, error: &str) -> Result<()> {
    match region_error {
        Some(region_error) => Err(Error::Startup(format!(
            "the region has changed, try again: {}",
            region_error.message
        ))),
        None if error.is_empty() => Ok(()),
        None => Err(Error::Startup(error.to_string())),
    }
}

fn unreachable(status: tonic::Status) -> Error {
    Error::Startup(format!("the store does not answer: {}", status.message()))
}
