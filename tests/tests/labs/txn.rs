//! What the labs of project 4 stand on: the pure commands over an engine in memory with one region, and a look at every
//! pair beneath them.
//!
//! The course's tests write pairs of families as bytes. Here a lock or record is written by the code that owns its
//! form, and what lies in the engine afterwards is compared as locks, records and values, all of them.

use std::sync::Arc;

use bytes::Bytes;
use skerry_kv::mvcc::{Changes, Key, Lock, LockKind, Write, WriteKind, WriteRef, key};
use skerry_kv::storage::RegionView;
use skerry_kv::txn::{Concurrency, Error, ReadCommand, WriteCommand};
use skerry_proto::metapb::Region;
use skerry_proto::types::{Term, Ts};
use skerry_raftstore::engine::memory::MemoryEngine;
use skerry_raftstore::engine::{ColumnFamily, Durability, Engine, KeyRange, Operation};

/// A store with one region.
pub(crate) struct TxnLab {
    pub(crate) engine: MemoryEngine,
    concurrency: Arc<Concurrency>,
}

/// Everything that lies in the three families, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) locks: Vec<(Vec<u8>, Lock)>,
    pub(crate) writes: Vec<(Vec<u8>, u64, Write)>,
    pub(crate) values: Vec<(Vec<u8>, u64, Bytes)>,
}

impl TxnLab {
    pub(crate) fn new() -> TxnLab {
        TxnLab { engine: MemoryEngine::new(), concurrency: Concurrency::new() }
    }

    pub(crate) fn view(&self) -> RegionView {
        RegionView {
            view: self.engine.view(),
            region: Arc::new(Region::default()),
            term: Term::new(6),
            reads: Arc::default(),
        }
    }

    /// Runs a command that writes, and writes. Every key that it writes must be one whose latch it had asked for.
    pub(crate) fn write<C: WriteCommand>(&self, command: &C) -> Result<C::Answer, Error> {
        command.prepare(&self.concurrency);
        let effect = command.run(&self.view(), &self.concurrency)?;
        let latched: Vec<Bytes> = command.keys().iter().map(Key::to_bytes).collect();
        for operation in effect.batch.operations() {
            let written = match operation {
                Operation::Put(_, key, _) | Operation::Delete(_, key) => key,
                Operation::DeleteRange(..) => panic!("no lab removes a range"),
            };
            let is_latched = latched.iter().any(|key| written.starts_with(key));
            assert!(is_latched, "{} writes {written:?} without its latch", command.name());
        }
        self.engine.write(effect.batch, Durability::Buffered).expect("memory takes it");
        Ok(effect.answer)
    }

    /// Runs a command that reads.
    pub(crate) fn read<C: ReadCommand>(&self, mut command: C) -> Result<C::Answer, Error> {
        command.prepare(&self.concurrency)?;
        command.run(&self.view())
    }

    /// Writes beneath the commands.
    pub(crate) fn set(&self, changes: Changes) {
        self.engine.write(changes.into_batch(), Durability::Buffered).expect("memory takes it");
    }

    /// A value that was committed: written by the transaction of `start`.
    pub(crate) fn committed(&self, user: &[u8], value: &'static [u8], start: u64, commit: u64) {
        let mut changes = Changes::new();
        changes.put_write(&Key::of(user), Ts::from(commit), &put(start, value));
        self.set(changes);
    }

    /// A record of another kind.
    pub(crate) fn record(&self, user: &[u8], kind: WriteKind, start: u64, commit: u64) {
        let mut changes = Changes::new();
        changes.put_write(
            &Key::of(user),
            Ts::from(commit),
            &Write::new(kind, Ts::from(start), None),
        );
        self.set(changes);
    }

    /// A lock with a value.
    pub(crate) fn locked(&self, user: &[u8], value: &'static [u8], start: u64) {
        let mut changes = Changes::new();
        changes.put_lock(&Key::of(user), &lock(start, value));
        self.set(changes);
    }

    pub(crate) fn contents(&self) -> Contents {
        let version = |bytes: &[u8]| {
            let (of, ts) = key::split_version(bytes).expect("a version");
            (user_of(of), ts.get())
        };
        let mut contents = Contents::default();
        self.each(ColumnFamily::Lock, |key, value| {
            contents.locks.push((user_of(key), Lock::decode(value).expect("a lock")));
        });
        self.each(ColumnFamily::Write, |key, value| {
            let (user, ts) = version(key);
            let write = WriteRef::decode(value).expect("a record").to_owned();
            contents.writes.push((user, ts, write));
        });
        self.each(ColumnFamily::Default, |key, value| {
            let (user, ts) = version(key);
            contents.values.push((user, ts, Bytes::copy_from_slice(value)));
        });
        contents
    }

    fn each(&self, family: ColumnFamily, mut visit: impl FnMut(&[u8], &[u8])) {
        let view = self.engine.view();
        let mut cursor = view.cursor(family, &KeyRange::default()).expect("memory is read");
        let mut stands = cursor.seek_to_first().expect("memory is read");
        while stands {
            visit(cursor.key(), cursor.value());
            stands = cursor.next().expect("memory is read");
        }
    }
}

/// The user key of a data key.
fn user_of(data_key: &[u8]) -> Vec<u8> {
    let encoded = skerry_raftstore::keys::region_key(data_key).expect("a data key");
    skerry_proto::codec::decode_bytes(encoded).expect("an encoded key").0
}

/// The record of a put.
pub(crate) fn put(start: u64, value: &'static [u8]) -> Write {
    Write::new(WriteKind::Put, Ts::from(start), Some(Bytes::from_static(value)))
}

/// The lock of a put, as the prewrites of these labs make it: its primary key is 1.
pub(crate) fn lock(start: u64, value: &'static [u8]) -> Lock {
    let lock = Lock::new(LockKind::Put, Bytes::from_static(&[1]), Ts::from(start), 1_000);
    Lock { short_value: Some(Bytes::from_static(value)), ..lock }
}
