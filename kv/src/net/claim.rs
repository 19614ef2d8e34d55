//! Makes a replicated store known before it takes part in anything, and refuses to when its directory is a copy.
//!
//! A directory carries the identity of its store. If it was copied, there are two stores of one name, and a raft
//! group that lets both speak may elect two leaders. So before its replicas begin, a store
//!
//! 1. asks the scheduler where the store of its name was last;
//! 2. if that is elsewhere, asks there whether a store of that name is still running: then this one is a copy;
//! 3. registers. The scheduler refuses an address that another store has, so a directory that was exchanged
//!    with that of another store is found as well. So is a new directory where another store is still counted on:
//!    the scheduler says what that one is waited for, and what to do if its disk is gone.
//!
//! What it does not do: without a scheduler nobody can be asked, and the store begins. Nor does it find a copy
//! whose original is not running: that is a move, and as good as any if the original never comes back.

use std::time::Duration;

use skerry_proto::metapb;
use skerry_proto::pdpb::ErrorType;
use skerry_proto::raft_serverpb::RaftMessage;
use skerry_proto::tikvpb::BatchRaftMessage;
use skerry_proto::tikvpb::tikv_client::TikvClient;
use skerry_proto::types::StoreId;
use tonic::Request;
use tonic::transport::Endpoint;

use super::scheduler_client::{Failure, SchedulerClient};
use super::transport::CLUSTER_HEADER;
use crate::error::{Error, Result};

/// How long the other address may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// See the module. `store` is how this one makes itself known.
pub async fn claim(
    cluster_id: u64,
    store: metapb::Store,
    scheduler: &SchedulerClient,
) -> Result<()> {
    let (id, address) = (store.id, store.address.clone());
    // One that is not known yet cannot have a copy that is.
    let known = scheduler.store(StoreId::new(id)).await.map(|known| known.address);
    let before = known.ok().filter(|before| !before.is_empty() && *before != address);
    if let Some(before) = &before
        && is_running(cluster_id, id, before).await
    {
        return Err(Error::Startup(format!(
            "store {id} of this cluster is running at {before}: this data directory is a copy of its own, and two \
             stores of one name would destroy each other's data. Choose another --data-dir; if the store was \
             moved, stop the old one first"
        )));
    }
    match scheduler.put_store(store).await {
        Ok(()) | Err(Failure::Unreachable(_)) => Ok(()),
        Err(failure) => {
            let advice = advice(&failure, before.is_some());
            let reason =
                format!("the scheduler refuses this store as store {id} at {address}: {failure}");
            Err(Error::Startup(format!("{reason}{advice}")))
        }
    }
}

/// What can be done about a refusal, beyond what the scheduler says: it does not know what directory this is.
fn advice(failure: &Failure, has_moved: bool) -> &'static str {
    match failure {
        Failure::Refused(error) if error.r#type() == ErrorType::StoreTombstone => {
            ". Nothing in its data directory is needed any more: with an empty one it joins as a new store"
        }
        _ if has_moved => {
            ". If its data directory was copied from another store or exchanged with it, put it back or choose \
             another --data-dir"
        }
        _ => "",
    }
}

/// Whether a store of this name takes raft messages at `address`. The message says nothing and comes from nobody.
async fn is_running(cluster_id: u64, id: u64, address: &str) -> bool {
    let Ok(endpoint) = Endpoint::from_shared(format!("http://{address}")) else { return false };
    let Ok(channel) = endpoint.connect_timeout(ANSWER_TIMEOUT).connect().await else {
        return false;
    };
    let to_peer = Some(metapb::Peer { store_id: id, ..metapb::Peer::default() });
    let batch = BatchRaftMessage { msgs: vec![RaftMessage { to_peer, ..RaftMessage::default() }] };
    let mut request = Request::new(tokio_stream::once(batch));
    request.metadata_mut().insert(CLUSTER_HEADER, cluster_id.into());
    let mut client = TikvClient::new(channel);
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, client.batch_raft(request)).await;
    matches!(answer, Ok(Ok(_)))
}
