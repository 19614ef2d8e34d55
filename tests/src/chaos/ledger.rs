//! What a cluster has acknowledged to one patient client, and whether it is still there.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use skerry_proto::kvrpcpb::{Context, RawBatchGetRequest};
use skerry_raftstore::time::splitmix64;

use super::{Cluster, RoutingClient};
use crate::checker::{Action, Ending};
use crate::client;
use crate::wait::until_async;

/// See the module. Of an API V1 cluster.
#[derive(Debug, Default)]
pub struct Ledger {
    written: BTreeMap<Bytes, Bytes>,
}

impl Ledger {
    /// Puts pairs with these numbers and values of about `bytes`, each until it is acknowledged.
    pub async fn write(&mut self, cluster: &Cluster, numbers: Range<usize>, bytes: usize) {
        let mut client = RoutingClient::new(cluster.scheduler());
        for number in numbers {
            let key = Bytes::from(format!("key {number:06}"));
            let value = text(number as u64, bytes);
            let put = Action::Put(value.clone());
            until_async("a put is acknowledged", async || {
                (client.attempt(key.clone(), &put).await == Ending::Written).then_some(())
            })
            .await;
            self.written.insert(key, value);
        }
    }

    /// Everything is read through whoever leads.
    pub async fn assert_kept(&self, cluster: &Cluster) {
        let mut client = RoutingClient::new(cluster.scheduler());
        for (key, value) in &self.written {
            let found = until_async("a read is served", async || {
                match client.attempt(key.clone(), &Action::Get).await {
                    Ending::Found(found) => Some(found),
                    _ => None,
                }
            })
            .await;
            assert_eq!(found.as_ref(), Some(value), "acknowledged and lost: {key:?}");
        }
    }

    /// Everything is read from one store's own data. Nothing when it does not answer; a wrong answer fails.
    pub async fn read_through(&self, cluster: &Cluster, number: usize) -> Option<()> {
        let store_id = cluster.store_id(number).await?;
        let regions = cluster.regions().await.ok()?;
        let mut store = client::store(cluster.launch(number).addresses().store);
        let mut found = BTreeMap::new();
        for region in regions.into_iter().filter_map(|region| region.region) {
            let peer = region.peers.iter().find(|peer| peer.store_id == store_id)?;
            let within = |key: &&Bytes| {
                **key >= region.start_key && (region.end_key.is_empty() || **key < region.end_key)
            };
            let context = Context {
                region_id: region.id,
                region_epoch: region.region_epoch,
                peer: Some(*peer),
                replica_read: true,
                ..Context::default()
            };
            let keys = self.written.keys().filter(within).cloned().collect();
            let context = Some(context);
            let request = RawBatchGetRequest { context, keys, ..RawBatchGetRequest::default() };
            let answer = store.raw_batch_get(request).await.ok()?.into_inner();
            if answer.region_error.is_some() || answer.pairs.iter().any(|it| it.error.is_some()) {
                return None;
            }
            found.extend(answer.pairs.into_iter().map(|pair| (pair.key, pair.value)));
        }
        assert!(found == self.written, "store {number} does not have what was acknowledged");
        Some(())
    }
}

/// Text that no compression makes much smaller than half.
fn text(seed: u64, bytes: usize) -> Bytes {
    let words = (0..).map(|index| format!("{:016x}", splitmix64(splitmix64(seed) ^ index)));
    words.take(bytes / 16 + 1).collect::<String>().into()
}
