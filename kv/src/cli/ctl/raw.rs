//! `skerry ctl raw`: gets, puts, deletes and scans pairs the way a client library does, one region at a time.

use bytes::Bytes;
use clap::Subcommand;
use serde_json::json;
use skerry_proto::kvrpcpb::{self, RawDeleteRequest, RawGetRequest, RawPutRequest, RawScanRequest};
use skerry_proto::region::KeyBounds;
use skerry_proto::tikvpb::tikv_client::TikvClient;
use skerry_proto::{errorpb, pdpb};
use tonic::transport::{Channel, Endpoint};

use super::super::raw_space::RawSpace;
use super::{Answer, REGIONS_MAX, escape, unescape};
use crate::error::{Error, Result};
use crate::net::SchedulerClient;

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
    let cluster = Cluster { scheduler, space: RawSpace::of(scheduler).await? };
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

struct Cluster<'a> {
    scheduler: &'a SchedulerClient,
    space: RawSpace,
}

/// A store and what to tell it about the region that is asked.
struct Target {
    store: TikvClient<Channel>,
    context: Option<kvrpcpb::Context>,
}

impl Cluster<'_> {
    async fn get(&self, key: &str) -> Result<Answer> {
        let key = self.space.key(&unescape(key)?);
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
        let (key, value) = (self.space.key(&unescape(key)?), Bytes::from(unescape(value)?));
        let Target { mut store, context } = self.target_of(&key).await?;
        let request = RawPutRequest { context, key, value, ttl, ..Default::default() };
        let answer = store.raw_put(request).await.map_err(unreachable)?.into_inner();
        refused(answer.region_error, &answer.error)?;
        Ok(done())
    }

    async fn delete(&self, key: &str) -> Result<Answer> {
        let key = self.space.key(&unescape(key)?);
        let Target { mut store, context } = self.target_of(&key).await?;
        let request = RawDeleteRequest { context, key, ..Default::default() };
        let answer = store.raw_delete(request).await.map_err(unreachable)?.into_inner();
        refused(answer.region_error, &answer.error)?;
        Ok(done())
    }

    /// Scans region by region, in the direction that was asked for, until there are enough pairs.
    async fn scan(&self, start: &[u8], end: &[u8], limit: u32, reverse: bool) -> Result<Answer> {
        let start = self.space.key(start);
        let end = if end.is_empty() { self.space.last() } else { self.space.key(end) };
        let (low, high) = (self.space.region_key(&start), self.space.region_key_of_end(&end));
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

    /// A key of an answer without its keyspace, for a terminal.
    fn shown(&self, key: &[u8]) -> String {
        let prefix = self.space.key(b"");
        escape(key.strip_prefix(&prefix[..]).unwrap_or(key))
    }

    async fn target_of(&self, key: &[u8]) -> Result<Target> {
        let found = self.scheduler.region(&self.space.region_key(key)).await?;
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
        let context = self.space.context(&region, leader);
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
