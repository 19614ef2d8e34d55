//! Keyspaces: the tenants of a cluster with API version 2. So far every cluster has the one that clients
//! use when they name none. Used by the cluster and the keyspace service.

use std::collections::BTreeMap;

use skerry_proto::keyspacepb::{KeyspaceMeta, KeyspaceState};

use crate::{Error, Result};

/// Name of the keyspace that exists from bootstrap on.
pub const DEFAULT_NAME: &str = "DEFAULT";

/// Its number, as it stands in the keys of its users.
pub const DEFAULT_ID: u32 = 0;

/// The record of the first keyspace, made when the cluster is bootstrapped.
pub fn default_keyspace(wall_ms: u64) -> KeyspaceMeta {
    let seconds = i64::try_from(wall_ms / 1_000).expect("milliseconds / 1,000 fit");
    KeyspaceMeta {
        id: Some(DEFAULT_ID),
        name: DEFAULT_NAME.to_string(),
        state: KeyspaceState::Enabled.into(),
        created_at: seconds,
        state_changed_at: seconds,
        ..KeyspaceMeta::default()
    }
}

/// All keyspaces, by number.
#[derive(Debug, Default)]
pub struct Keyspaces {
    records: BTreeMap<u32, KeyspaceMeta>,
}

impl Keyspaces {
    /// The keyspace called `name`.
    pub fn by_name(&self, name: &str) -> Result<KeyspaceMeta> {
        let found = self.records.values().find(|record| record.name == name);
        found.cloned().ok_or_else(|| Error::UnknownKeyspace(format!("{name:?}")))
    }

    /// The keyspace with number `id`.
    pub fn by_id(&self, id: u32) -> Result<KeyspaceMeta> {
        self.records.get(&id).cloned().ok_or_else(|| Error::UnknownKeyspace(id.to_string()))
    }

    /// At most `limit` keyspaces from number `start` on; 0 is no limit.
    pub fn list(&self, start: u32, limit: u32) -> Vec<KeyspaceMeta> {
        let limit = if limit == 0 { usize::MAX } else { limit as usize };
        self.records.range(start..).take(limit).map(|(_, record)| record.clone()).collect()
    }

    /// Adds or replaces a durable record.
    pub fn install(&mut self, record: KeyspaceMeta) {
        self.records.insert(record.id.unwrap_or(DEFAULT_ID), record);
    }
}
