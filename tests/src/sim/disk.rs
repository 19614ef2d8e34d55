//! The disk of one store: the two engines in memory, with a plug that can be pulled before any write, and
//! a ledger of what must be there whatever happens.
//!
//! 1. *Power loss* keeps a prefix of what was written at or after the last sync, of each engine by
//!    itself ([`Disk::lose_power`]). It may come between two writes of one turn of an actor: from then
//!    on every write fails, the actor stops as it must, and the store is dropped.
//! 2. *Death of the process* keeps everything written.
//! 3. Every write is mixed into a number that becomes part of the trace.
//! 4. A *full disk* has no room for files of snapshots; the engines have set some aside for themselves.
//! 5. The ledger notes, per region, what the log had made durable: the invariants of promises (votes,
//!    acknowledgements) ask it.
//!
//! Snapshot files lie in a real directory, in memory where the machine has one; power loss leaves them as
//! they are, since they are synced before anybody speaks of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use raft::eraftpb::Entry;
use skerry_proto::raft_serverpb::RaftLocalState;
use skerry_raftstore::engine::log::memory::MemoryLog;
use skerry_raftstore::engine::log::{LogBatch, LogBounds, LogEngine, LogOperation};
use skerry_raftstore::engine::memory::MemoryEngine;
use skerry_raftstore::engine::{
    ColumnFamily, Durability, Engine, KeyRange, Operation, TableWriter, View, WriteBatch,
};
use skerry_raftstore::{Error, Result};

use super::chance::Chance;
use super::trace::Digest;

/// No end of the power is planned.
const FOR_EVER: u64 = u64::MAX;

/// See the module.
pub struct Disk {
    engine: Arc<PluggedEngine>,
    log: Arc<PluggedLog>,
    plug: Arc<Plug>,
    snapshots: tempfile::TempDir,
}

/// What both engines of a disk share.
#[derive(Debug)]
struct Plug {
    /// Writes until the power goes.
    writes_left: AtomicU64,
    /// Of everything written.
    digest: Mutex<Digest>,
    writes: AtomicU64,
    /// Whether there is no room for another table file.
    is_full: AtomicBool,
    /// Table files for which there was no room.
    without_room: AtomicU64,
    /// What was written to families of transactions, if somebody wants to know.
    noted: Mutex<Option<Vec<Operation>>>,
}

/// What the log of one region had made durable.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// The newest entry, if there was any.
    pub last: Option<u64>,
    /// The newest raft state, if there was any.
    pub state: Option<RaftLocalState>,
}

impl Disk {
    /// An empty disk.
    pub fn new() -> Disk {
        Disk::holding(MemoryEngine::new(), MemoryLog::new(), snapshot_directory())
    }

    fn holding(engine: MemoryEngine, log: MemoryLog, snapshots: tempfile::TempDir) -> Disk {
        let plug = Arc::new(Plug {
            writes_left: AtomicU64::new(FOR_EVER),
            digest: Mutex::default(),
            writes: AtomicU64::new(0),
            is_full: AtomicBool::new(false),
            without_room: AtomicU64::new(0),
            noted: Mutex::default(),
        });
        let engine = Arc::new(PluggedEngine { inner: engine, plug: plug.clone() });
        let ledger = Mutex::new(Ledger::of(&log));
        let log = Arc::new(PluggedLog { inner: log, plug: plug.clone(), ledger });
        Disk { engine, log, plug, snapshots }
    }

    /// The data engine.
    pub fn engine(&self) -> Arc<dyn Engine> {
        self.engine.clone()
    }

    /// The raft log.
    pub fn log(&self) -> Arc<dyn LogEngine> {
        self.log.clone()
    }

    /// Where snapshot files are.
    pub fn snapshots(&self) -> &Path {
        self.snapshots.path()
    }

    /// Pulls the plug after `writes` more writes.
    pub fn pull_plug_after(&self, writes: u64) {
        self.plug.writes_left.store(writes, Ordering::Relaxed);
    }

    /// Whether a write has failed because the plug is pulled.
    pub fn is_dark(&self) -> bool {
        self.plug.writes_left.load(Ordering::Relaxed) == 0
    }

    /// Fills the disk, so that nothing large finds room, or makes room again.
    pub fn set_full(&self, is_full: bool) {
        self.plug.is_full.store(is_full, Ordering::Relaxed);
    }

    /// Whether nothing large finds room.
    pub fn is_full(&self) -> bool {
        self.plug.is_full.load(Ordering::Relaxed)
    }

    /// For how many table files there was no room since this was asked last.
    pub fn take_without_room(&self) -> u64 {
        self.plug.without_room.swap(0, Ordering::Relaxed)
    }

    /// From now on operations on the families of transactions are noted.
    pub fn note(&self) {
        *self.plug.noted() = Some(Vec::new());
    }

    /// What was noted since this was asked last.
    pub fn take_noted(&self) -> Vec<Operation> {
        self.plug.noted().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// What a restart finds after power loss. Nobody uses the disk any more.
    pub fn lose_power(self, chance: &mut Chance) -> Disk {
        let survive = |chance: &mut Chance, unsynced: usize| match chance.below(4) {
            0 => 0,
            1 => unsynced,
            _ => chance.place(unsynced + 1),
        };
        let engine = self.engine.inner.crash(survive(chance, self.engine.inner.unsynced_batches()));
        let unsynced = self.log.inner.unsynced_batches();
        let surviving = survive(chance, unsynced);
        self.log.inner.crash(surviving);
        let Ok(log) = Arc::try_unwrap(self.log) else {
            panic!("somebody uses the log of a store that is gone");
        };
        Disk::holding(engine, log.inner, self.snapshots)
    }

    /// A number of everything that was written, and how many writes there were.
    pub fn written(&self) -> (u64, u64) {
        (self.plug.digest().value(), self.plug.writes.load(Ordering::Relaxed))
    }

    /// What power loss at this moment would leave under a key of the data engine at the worst.
    pub fn surely(&self, family: ColumnFamily, key: &[u8]) -> Option<Bytes> {
        self.engine.inner.crash(0).get(family, key).expect("memory is read")
    }

    /// What is sure to be in the log of a region.
    pub fn kept(&self, region: u64) -> Kept {
        let ledger = self.log.ledger.lock().expect("nothing panics while it holds this lock");
        ledger.durable.get(&region).cloned().unwrap_or_default()
    }
}

impl Default for Disk {
    fn default() -> Disk {
        Disk::new()
    }
}

/// A directory in memory if there is one: syncing it costs nothing.
fn snapshot_directory() -> tempfile::TempDir {
    let builder = tempfile::Builder::new();
    let in_memory = Path::new("/dev/shm");
    let directory = match in_memory.is_dir() {
        true => builder.tempdir_in(in_memory),
        false => builder.tempdir(),
    };
    directory.expect("a temporary directory can be made")
}

impl Plug {
    /// Lets a write through, or not.
    fn pass(&self) -> Result<()> {
        let left = self.writes_left.load(Ordering::Relaxed);
        if left == 0 {
            let reason = "the power is off".to_string();
            return Err(Error::Engine { operation: "a write", reason });
        }
        if left != FOR_EVER {
            self.writes_left.store(left - 1, Ordering::Relaxed);
        }
        self.writes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn noted(&self) -> std::sync::MutexGuard<'_, Option<Vec<Operation>>> {
        self.noted.lock().expect("nothing panics while it holds this lock")
    }

    fn digest(&self) -> std::sync::MutexGuard<'_, Digest> {
        self.digest.lock().expect("nothing panics while it holds this lock")
    }
}

struct PluggedEngine {
    inner: MemoryEngine,
    plug: Arc<Plug>,
}

impl Engine for PluggedEngine {
    fn get(&self, family: ColumnFamily, key: &[u8]) -> Result<Option<Bytes>> {
        self.inner.get(family, key)
    }

    fn view(&self) -> Arc<dyn View> {
        self.inner.view()
    }

    fn write(&self, batch: WriteBatch, durability: Durability) -> Result<()> {
        self.plug.pass()?;
        let mut digest = self.plug.digest();
        digest.number(u64::from(durability == Durability::Synced));
        for operation in batch.operations() {
            let (family, first, second) = match operation {
                Operation::Put(family, key, value) => (family, key, value),
                Operation::Delete(family, key) => (family, key, key),
                Operation::DeleteRange(family, range) => (family, &range.start, &range.end),
            };
            digest.number(*family as u64);
            digest.bytes(first);
            digest.bytes(second);
        }
        drop(digest);
        if let Some(noted) = &mut *self.plug.noted() {
            let is_of_transactions = |operation: &&Operation| {
                matches!(
                    operation,
                    Operation::Put(ColumnFamily::Lock | ColumnFamily::Write, ..)
                        | Operation::Delete(ColumnFamily::Write, _)
                )
            };
            noted.extend(batch.operations().iter().filter(is_of_transactions).cloned());
        }
        self.inner.write(batch, durability)
    }

    fn destroy_range(&self, family: ColumnFamily, range: &KeyRange) -> Result<()> {
        self.plug.pass()?;
        self.plug.digest().bytes(&range.start);
        self.inner.destroy_range(family, range)
    }

    fn table_writer(&self, family: ColumnFamily, path: &Path) -> Result<Box<dyn TableWriter>> {
        let inner = self.inner.table_writer(family, path)?;
        Ok(Box::new(PluggedTable { inner, plug: self.plug.clone() }))
    }

    fn ingest(&self, family: ColumnFamily, tables: &[PathBuf]) -> Result<()> {
        self.plug.pass()?;
        self.plug.digest().number(tables.len() as u64);
        self.inner.ingest(family, tables)
    }

    fn table_size(&self, family: ColumnFamily, range: &KeyRange) -> Result<u64> {
        self.inner.table_size(family, range)
    }

    fn buffered_size(&self, family: ColumnFamily, range: &KeyRange) -> Result<u64> {
        self.inner.buffered_size(family, range)
    }

    fn checkpoint(&self, path: &Path) -> Result<()> {
        self.inner.checkpoint(path)
    }
}

/// A table file, for which there may be no room in the end.
struct PluggedTable {
    inner: Box<dyn TableWriter>,
    plug: Arc<Plug>,
}

impl TableWriter for PluggedTable {
    fn delete_range(&mut self, range: &KeyRange) -> Result<()> {
        self.inner.delete_range(range)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.inner.put(key, value)
    }

    fn finish(self: Box<Self>) -> Result<u64> {
        if self.plug.is_full.load(Ordering::Relaxed) {
            self.plug.without_room.fetch_add(1, Ordering::Relaxed);
            let reason = "no space left on device".to_string();
            return Err(Error::Engine { operation: "a table file", reason });
        }
        self.inner.finish()
    }
}

struct PluggedLog {
    inner: MemoryLog,
    plug: Arc<Plug>,
    ledger: Mutex<Ledger>,
}

/// **Invariant.** `present` is `durable` with what was written since the last sync.
#[derive(Debug, Default)]
struct Ledger {
    present: BTreeMap<u64, Kept>,
    durable: BTreeMap<u64, Kept>,
    /// Regions in which the two may differ.
    differ: Vec<u64>,
}

impl Ledger {
    /// What is found in a log after a restart has survived once already.
    fn of(log: &MemoryLog) -> Ledger {
        let mut ledger = Ledger::default();
        for region in log.regions().expect("memory is read") {
            let last = log.bounds(region).expect("memory is read").map(|bounds| bounds.last);
            let state = log.state(region).expect("memory is read");
            ledger.present.insert(region, Kept { last, state });
        }
        ledger.durable = ledger.present.clone();
        ledger
    }

    fn write(&mut self, batch: &LogBatch, durability: Durability) {
        for operation in batch.operations() {
            let region = match operation {
                LogOperation::Append(region, entries) => {
                    if let Some(entry) = entries.last() {
                        self.present.entry(*region).or_default().last = Some(entry.index);
                    }
                    *region
                }
                LogOperation::State(region, state) => {
                    self.present.entry(*region).or_default().state = Some(state.clone());
                    *region
                }
                LogOperation::Clean(region) => {
                    self.present.remove(region);
                    *region
                }
                LogOperation::CompactTo(..) => continue,
            };
            self.differ.push(region);
        }
        if durability == Durability::Synced {
            for region in self.differ.drain(..) {
                match self.present.get(&region) {
                    Some(kept) => drop(self.durable.insert(region, kept.clone())),
                    None => drop(self.durable.remove(&region)),
                }
            }
        }
    }
}

impl LogEngine for PluggedLog {
    fn write(&self, batch: LogBatch, durability: Durability) -> Result<u64> {
        self.plug.pass()?;
        let mut digest = self.plug.digest();
        digest.number(u64::from(durability == Durability::Synced));
        for operation in batch.operations() {
            match operation {
                LogOperation::Append(region, entries) => {
                    digest.number(*region);
                    for entry in entries {
                        digest.number(entry.index << 20 ^ entry.term);
                        digest.bytes(&entry.data);
                    }
                }
                LogOperation::State(region, state) => {
                    digest.number(*region);
                    digest.bytes(&state.hard_state);
                    digest.number(state.last_index);
                }
                LogOperation::CompactTo(region, index) => digest.number(*region ^ *index << 20),
                LogOperation::Clean(region) => digest.number(!*region),
            }
        }
        drop(digest);
        let mut ledger = self.ledger.lock().expect("nothing panics while it holds this lock");
        ledger.write(&batch, durability);
        self.inner.write(batch, durability)
    }

    fn state(&self, region: u64) -> Result<Option<RaftLocalState>> {
        self.inner.state(region)
    }

    fn bounds(&self, region: u64) -> Result<Option<LogBounds>> {
        self.inner.bounds(region)
    }

    fn entry(&self, region: u64, index: u64) -> Result<Option<Entry>> {
        self.inner.entry(region, index)
    }

    fn entries(&self, region: u64, low: u64, high: u64, bytes_max: usize) -> Result<Vec<Entry>> {
        self.inner.entries(region, low, high, bytes_max)
    }

    fn regions(&self) -> Result<Vec<u64>> {
        self.inner.regions()
    }

    fn purge(&self) -> Result<Vec<u64>> {
        self.inner.purge()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(disk: &Disk, key: &'static str, durability: Durability) -> Result<()> {
        let mut batch = WriteBatch::new();
        batch.put(ColumnFamily::Raw, key, key);
        disk.engine().write(batch, durability)
    }

    fn append(disk: &Disk, index: u64, durability: Durability) {
        let entry = Entry { index, term: 1, ..Entry::default() };
        let mut batch = LogBatch::new();
        batch.push(LogOperation::Append(4, vec![entry]));
        disk.log().write(batch, durability).expect("the power is on");
    }

    #[test]
    fn power_loss_keeps_what_was_synced_and_a_prefix_of_the_rest() {
        let mut found = std::collections::BTreeSet::new();
        for seed in 0..64 {
            let disk = Disk::new();
            put(&disk, "a", Durability::Synced).expect("the power is on");
            put(&disk, "b", Durability::Buffered).expect("the power is on");
            append(&disk, 1, Durability::Synced);
            append(&disk, 2, Durability::Buffered);
            assert_eq!(disk.kept(4).last, Some(1));

            let disk = disk.lose_power(&mut Chance::new(seed, "disk"));
            let has = |key: &str| disk.engine().get(ColumnFamily::Raw, key.as_bytes());
            assert!(has("a").expect("memory is read").is_some());
            let last = disk.log().bounds(4).expect("memory is read").expect("one was synced").last;
            found.insert((has("b").expect("memory is read").is_some(), last));
        }
        let every_combination = [(false, 1), (false, 2), (true, 1), (true, 2)];
        assert_eq!(Vec::from_iter(found), every_combination);
    }

    #[test]
    fn without_power_nothing_is_written() {
        let disk = Disk::new();
        disk.pull_plug_after(1);
        put(&disk, "a", Durability::Buffered).expect("one write is left");
        assert!(disk.is_dark());
        let before = disk.written();
        assert!(put(&disk, "b", Durability::Synced).is_err());
        assert_eq!(disk.written(), before);
        assert_eq!(disk.engine().get(ColumnFamily::Raw, b"b").expect("memory is read"), None);
    }
}
