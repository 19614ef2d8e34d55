//! Where the other stores are: their addresses, as the scheduler knows them, kept until one turns out wrong.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use skerry_proto::metapb::NodeState;
use skerry_proto::types::StoreId;

use super::scheduler_client::{Failure, Outcome, SchedulerClient};

/// See the module. Shared by everything that connects to stores.
pub struct Resolver {
    scheduler: Arc<SchedulerClient>,
    /// Guards the map alone; nobody is asked under it.
    known: Mutex<BTreeMap<StoreId, String>>,
}

impl Resolver {
    /// A resolver that asks `scheduler` for what it does not know.
    pub fn new(scheduler: Arc<SchedulerClient>) -> Resolver {
        Resolver { scheduler, known: Mutex::default() }
    }

    /// The address of a store.
    pub async fn address(&self, store_id: StoreId) -> Outcome<String> {
        if let Some(address) = self.known().get(&store_id) {
            return Ok(address.clone());
        }
        let store = self.scheduler.store(store_id).await?;
        if store.node_state() == NodeState::Removed || store.address.is_empty() {
            return Err(Failure::Unreachable(format!("{store_id} has left the cluster")));
        }
        self.known().insert(store_id, store.address.clone());
        Ok(store.address)
    }

    /// Nobody answered there: the store may have moved.
    pub fn forget(&self, store_id: StoreId) {
        self.known().remove(&store_id);
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<StoreId, String>> {
        self.known.lock().expect("nothing panics while it holds this lock")
    }
}
