//! What survives a restart of the scheduler: the table of keys, and the one place that reads and writes
//! it. The backend is a data engine of the scheduler's own.
//!
//! All keys are in the column family `raft` (local keys; the scheduler has no user data):
//!
//! | key | value | written |
//! | --- | --- | --- |
//! | `b` kind name | a barrier before the safe points, as JSON; kind 1 is of all keyspaces | when it is set |
//! | `c` `b` | balancers that are on, as JSON | when an operator turns one on or off |
//! | `c` `i` | cluster id, 8 bytes | once, when the scheduler first starts |
//! | `c` `m` | `metapb.Cluster` | at bootstrap: there is a cluster as soon as this key exists |
//! | `c` `s` | settings of placement, as JSON | when an operator changes one |
//! | `c` `t` | txn safe point, 8 bytes | when it rises |
//! | `g` | gc safe point, 8 bytes; the other is at least as high | when it rises |
//! | `i` | largest id that may be used, 8 bytes | once for a batch of ids |
//! | `k` id | `keyspacepb.KeyspaceMeta` | at bootstrap |
//! | `r` id | `metapb.Region` | a moment after heartbeats have changed it |
//! | `s` id | `metapb.Store` | when a store registers with something new |
//! | `t` | limit of timestamps in milliseconds, 8 bytes | ahead of use, about once a second |
//! | `w` id | weights and limits of a store, as JSON | when an operator sets one |
//!
//! Numbers are big-endian. A [`Change`] is one row; the cluster decides changes, this file makes them
//! durable, and then the cluster installs them. Start-up installs the same changes, read back.
//!
//! **Invariant.** All changes of one decision are written in one atomic batch.
//!
//! **Invariant.** Every row but `r` is synced before anybody is told. Regions are a picture that
//! heartbeats paint again; losing the last second of it is harmless, because an old row loses to the
//! next heartbeat by its epoch.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use serde::Serialize;
use skerry_proto::keyspacepb::KeyspaceMeta;
use skerry_proto::metapb::{Cluster, Region, Store};
use skerry_proto::types::{ClusterId, RegionId, StoreId};
use skerry_raftstore::Error as EngineError;
use skerry_raftstore::engine::{ColumnFamily, Durability, Engine, KeyRange, WriteBatch};

use crate::Result;
use crate::balance::Spec;
use crate::gc::{Barrier, BarrierName};
use crate::settings::Settings;
use crate::stores::StoreTuning;

/// Where all rows are.
const FAMILY: ColumnFamily = ColumnFamily::Raft;

/// One durable fact, and the row it is stored in.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The cluster's id is chosen.
    ClusterId(ClusterId),
    /// There is a cluster, with these settings.
    Cluster(Cluster),
    /// A store is registered.
    Store(Store),
    /// A store that was a tombstone is forgotten.
    StoreGone(StoreId),
    /// An operator has set this about a store.
    Tuning(StoreId, StoreTuning),
    /// Nothing is set about a store any more.
    TuningGone(StoreId),
    /// An operator has changed how placement works.
    Settings(Box<Settings>),
    /// These balancers are on.
    Balancers(Vec<Spec>),
    /// A region looks like this.
    Region(Region),
    /// A region is gone: others have its range.
    RegionGone(RegionId),
    /// Ids up to and with this one may be used.
    IdBound(u64),
    /// Timestamps below this many milliseconds may be used.
    TimestampLimit(u64),
    /// Versions that no read at or above this timestamp sees may be collected.
    SafePoint(u64),
    /// Transactions that began at or below this timestamp are over.
    TxnSafePoint(u64),
    /// A barrier stands before the safe points.
    Barrier(BarrierName, Barrier),
    /// It does not any more.
    BarrierGone(BarrierName),
    /// A keyspace exists.
    Keyspace(KeyspaceMeta),
}

/// The rows, over an engine.
#[derive(Clone)]
pub struct Storage {
    engine: Arc<dyn Engine>,
}

impl Storage {
    /// The rows in `engine`, which nobody else writes to.
    pub fn new(engine: Arc<dyn Engine>) -> Storage {
        Storage { engine }
    }

    /// Every row, in the order of the keys.
    pub fn load(&self) -> Result<Vec<Change>> {
        let view = self.engine.view();
        let mut cursor = view.cursor(FAMILY, &KeyRange::default())?;
        let mut changes = Vec::new();
        let mut standing = cursor.seek_to_first()?;
        while standing {
            changes.push(decode(cursor.key(), cursor.value())?);
            standing = cursor.next()?;
        }
        Ok(changes)
    }

    /// Writes `changes` together. Blocks for as long as the disk does.
    pub fn write(&self, changes: &[Change], durability: Durability) -> Result<()> {
        let mut batch = WriteBatch::new();
        for change in changes {
            match encode(change) {
                (key, Some(value)) => batch.put(FAMILY, key, value),
                (key, None) => batch.delete(FAMILY, key),
            }
        }
        Ok(self.engine.write(batch, durability)?)
    }
}

/// The row of a change; no value if the row goes away.
fn encode(change: &Change) -> (Vec<u8>, Option<Vec<u8>>) {
    let number = |number: u64| Some(number.to_be_bytes().to_vec());
    match change {
        Change::ClusterId(id) => (b"ci".to_vec(), number(id.get())),
        Change::Cluster(cluster) => (b"cm".to_vec(), Some(cluster.encode_to_vec())),
        Change::Store(store) => (row(b's', store.id), Some(store.encode_to_vec())),
        Change::StoreGone(id) => (row(b's', id.get()), None),
        Change::Tuning(id, tuning) => (row(b'w', id.get()), Some(json(tuning))),
        Change::TuningGone(id) => (row(b'w', id.get()), None),
        Change::Settings(settings) => (b"cs".to_vec(), Some(json(settings))),
        Change::Balancers(specs) => (b"cb".to_vec(), Some(json(specs))),
        Change::Region(region) => (row(b'r', region.id), Some(region.encode_to_vec())),
        Change::RegionGone(id) => (row(b'r', id.get()), None),
        Change::IdBound(bound) => (b"i".to_vec(), number(*bound)),
        Change::TimestampLimit(limit_ms) => (b"t".to_vec(), number(*limit_ms)),
        Change::SafePoint(safe_point) => (b"g".to_vec(), number(*safe_point)),
        Change::TxnSafePoint(safe_point) => (b"ct".to_vec(), number(*safe_point)),
        Change::Barrier(name, barrier) => (barrier_row(name), Some(json(barrier))),
        Change::BarrierGone(name) => (barrier_row(name), None),
        Change::Keyspace(keyspace) => {
            (row(b'k', u64::from(keyspace.id.unwrap_or_default())), Some(keyspace.encode_to_vec()))
        }
    }
}

/// The change that a row was written for.
fn decode(key: &[u8], value: &[u8]) -> Result<Change> {
    let change = match key {
        b"ci" => number(value).map(|id| Change::ClusterId(ClusterId::new(id))),
        b"cb" => serde_json::from_slice(value).ok().map(Change::Balancers),
        b"cm" => message(value).map(Change::Cluster),
        b"cs" => serde_json::from_slice(value).ok().map(Change::Settings),
        b"ct" => number(value).map(Change::TxnSafePoint),
        b"i" => number(value).map(Change::IdBound),
        b"t" => number(value).map(Change::TimestampLimit),
        b"g" => number(value).map(Change::SafePoint),
        [b's', id @ ..] => {
            message(value).filter(|store: &Store| ids_match(id, store.id)).map(Change::Store)
        }
        [b'r', id @ ..] => {
            message(value).filter(|region: &Region| ids_match(id, region.id)).map(Change::Region)
        }
        [b'w', id @ ..] => {
            let tuning = serde_json::from_slice(value).ok();
            number(id).map(StoreId::new).zip(tuning).map(|(id, it)| Change::Tuning(id, it))
        }
        [b'k', ..] => message(value).map(Change::Keyspace),
        [b'b', kind, name @ ..] => {
            let name = std::str::from_utf8(name).ok().map(str::to_string);
            let name = name.map(|name| BarrierName { is_global: *kind == 1, name });
            let barrier = serde_json::from_slice(value).ok();
            name.zip(barrier).map(|(name, barrier)| Change::Barrier(name, barrier))
        }
        _ => None,
    };
    Ok(change.ok_or_else(|| EngineError::Damaged {
        what: format!("scheduler row {}", key.escape_ascii()),
        reason: "neither key nor value is of this version of the program".to_string(),
    })?)
}

/// What no other program reads is written as people can read it.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings, numbers and lists of them have a form in JSON")
}

/// The key of a row that there is for each id.
fn row(kind: u8, id: u64) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend_from_slice(&id.to_be_bytes());
    key
}

/// The key of a barrier.
fn barrier_row(name: &BarrierName) -> Vec<u8> {
    [&[b'b', u8::from(name.is_global)], name.name.as_bytes()].concat()
}

fn number(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_be_bytes)
}

fn message<M: Message + Default>(value: &[u8]) -> Option<M> {
    // One copy for the row: the keys inside a region then share it.
    M::decode(Bytes::copy_from_slice(value)).ok()
}

fn ids_match(key: &[u8], id: u64) -> bool {
    number(key) == Some(id)
}

#[cfg(test)]
mod tests {
    use skerry_proto::metapb::{Peer, RegionEpoch};
    use skerry_raftstore::engine::memory::MemoryEngine;

    use super::*;
    use crate::balance::Name;
    use crate::keyspace::default_keyspace;

    fn everything() -> Vec<Change> {
        let region = Region {
            id: 3,
            start_key: Bytes::from_static(b"a"),
            end_key: Bytes::from_static(b"m\0"),
            region_epoch: Some(RegionEpoch { conf_ver: 1, version: 2 }),
            peers: vec![Peer { id: 4, store_id: 2, ..Peer::default() }],
        };
        let barrier = Barrier { ts: 7, expires_ms: None };
        vec![
            Change::Barrier(BarrierName::of("backup"), Barrier { ts: 8, expires_ms: Some(9) }),
            Change::Barrier(BarrierName { is_global: true, name: String::new() }, barrier),
            Change::Balancers(vec![Spec { name: Name::EvictLeader, stores: [4].into() }]),
            Change::ClusterId(ClusterId::new(u64::MAX >> 1)),
            Change::Cluster(Cluster { id: 7, max_peer_count: 3 }),
            Change::Settings(Box::new(Settings { store_limit: 7, ..Settings::default() })),
            Change::TxnSafePoint(45),
            Change::SafePoint(44),
            Change::IdBound(2_000),
            Change::Keyspace(default_keyspace(5_000)),
            Change::Region(region),
            Change::Store(Store { id: 2, address: "a:1".to_string(), ..Store::default() }),
            Change::TimestampLimit(1_700_000_000_000),
            Change::Tuning(
                StoreId::new(2),
                StoreTuning { leader_weight: 0.5, ..StoreTuning::default() },
            ),
        ]
    }

    #[test]
    fn every_row_is_read_back_as_it_was_written() {
        let storage = Storage::new(Arc::new(MemoryEngine::new()));
        storage.write(&everything(), Durability::Synced).expect("write");
        assert_eq!(storage.load().expect("load"), everything());
    }

    #[test]
    fn a_region_that_is_gone_leaves_no_row() {
        let storage = Storage::new(Arc::new(MemoryEngine::new()));
        storage.write(&everything(), Durability::Synced).expect("write");
        storage
            .write(&[Change::RegionGone(RegionId::new(3))], Durability::Buffered)
            .expect("write");
        let regions = |change: &Change| matches!(change, Change::Region(_));
        assert!(!storage.load().expect("load").iter().any(regions));
    }

    #[test]
    fn damaged_rows_are_refused_by_name() {
        let rows: [(&[u8], &[u8]); 4] =
            [(b"t", b"short"), (b"x", b""), (b"cm", b"\xff"), (b"s\0\0\0\0\0\0\0\x02", b"")];
        for (key, value) in rows {
            let engine = Arc::new(MemoryEngine::new());
            let mut batch = WriteBatch::new();
            batch.put(FAMILY, key.to_vec(), value.to_vec());
            engine.write(batch, Durability::Synced).expect("write");
            let refused = Storage::new(engine).load().expect_err("this row is damaged").to_string();
            assert!(refused.contains(&key.escape_ascii().to_string()), "{refused}");
        }
    }
}
