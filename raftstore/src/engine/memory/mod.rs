//! The data engine in memory: for simulations, which crash it, and as the model that RocksDB is
//! held to.
//!
//! How it works:
//!
//! 1. The newest state is one [`OrderedMap`] for each family. A view is a copy of the five maps,
//!    which shares everything with them and costs five counters.
//! 2. Beside it stand the *durable* state, as of the last sync, and the batches written since. A
//!    sync makes the durable state a copy of the newest and forgets the batches.
//! 3. [`MemoryEngine::crash`] plays as many of those batches over the durable state as the caller
//!    says had reached the medium, and answers the engine that a restart finds.
//!
//! **Invariant.** The newest state is the durable one with all unsynced batches played over it, but
//! for ranges that were destroyed (see [`MemoryEngine::crash`]).
//!
//! What it does not do: it has no limit on memory, and nothing of it outlives the process but
//! checkpoints and tables, which are files.

use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use self::ordered_map::{OrderedMap, Position};
use self::table_file::{MemoryTableWriter, Table};
use super::{
    ColumnFamily, Cursor, Durability, Engine, KeyRange, Operation, TableWriter, View, WriteBatch,
};
use crate::{Error, Result};

mod ordered_map;
mod table_file;

/// Bytes of batches that may wait for a sync. Beyond it they count as synced, as RocksDB writes out
/// a full buffer on its own: it bounds the memory of a run that never syncs.
const UNSYNCED_BYTES_MAX: usize = 64 << 20;

/// The data engine in memory.
#[derive(Default)]
pub struct MemoryEngine {
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    newest: Families,
    /// What a crash at this moment is sure to leave.
    durable: Families,
    /// What was written since, oldest first.
    unsynced: Vec<WriteBatch>,
    unsynced_bytes: usize,
}

/// One map for each column family.
#[derive(Clone, Default)]
struct Families([OrderedMap; ColumnFamily::ALL.len()]);

impl MemoryEngine {
    /// An engine without a key.
    pub fn new() -> MemoryEngine {
        MemoryEngine::default()
    }

    /// The engine that [`Engine::checkpoint`] wrote into `directory`.
    pub fn open_checkpoint(directory: &Path) -> Result<MemoryEngine> {
        let mut families = Families::default();
        for family in ColumnFamily::ALL {
            families.ingest(family, Table::read(&checkpoint_file(directory, family))?);
        }
        Ok(MemoryEngine::holding(families))
    }

    /// How many batches a crash could lose.
    pub fn unsynced_batches(&self) -> usize {
        self.read().unsynced.len()
    }

    /// What is found after power loss when of the batches since the last sync the first `surviving`
    /// had reached the medium. A batch that was torn is rejected by its checksum, so it counts as
    /// lost; which suffix is lost is therefore all there is to choose. This engine stays as it is.
    ///
    /// A destroyed range that was not followed by a sync may be back, in part: as with RocksDB,
    /// whole chunks of it went at once and for good, and the rest with a batch that can be lost.
    pub fn crash(&self, surviving: usize) -> MemoryEngine {
        let state = self.read();
        let batches = state.unsynced.len();
        assert!(surviving <= batches, "{surviving} of {batches} unsynced batches cannot survive");
        let mut families = state.durable.clone();
        for batch in &state.unsynced[..surviving] {
            families.apply(batch);
        }
        MemoryEngine::holding(families)
    }

    /// What is found after the process was killed and started again: everything written.
    pub fn reopen(&self) -> MemoryEngine {
        MemoryEngine::holding(self.read().newest.clone())
    }

    fn holding(families: Families) -> MemoryEngine {
        let state = State { newest: families.clone(), durable: families, ..State::default() };
        MemoryEngine { state: RwLock::new(state) }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("nothing panics while it holds this lock")
    }

    fn modify(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().expect("nothing panics while it holds this lock")
    }
}

impl State {
    fn sync(&mut self) {
        self.durable = self.newest.clone();
        self.unsynced.clear();
        self.unsynced_bytes = 0;
    }
}

impl Families {
    fn of(&self, family: ColumnFamily) -> &OrderedMap {
        &self.0[family as usize]
    }

    fn of_mut(&mut self, family: ColumnFamily) -> &mut OrderedMap {
        &mut self.0[family as usize]
    }

    fn get(&self, family: ColumnFamily, key: &[u8]) -> Option<Bytes> {
        self.of(family).get(key).cloned()
    }

    fn apply(&mut self, batch: &WriteBatch) {
        for operation in batch.operations() {
            match operation {
                Operation::Put(family, key, value) => {
                    self.of_mut(*family).insert(key.clone(), value.clone());
                }
                Operation::Delete(family, key) => self.of_mut(*family).remove(key),
                Operation::DeleteRange(family, range) => self.delete_range(*family, range),
            }
        }
    }

    fn delete_range(&mut self, family: ColumnFamily, range: &KeyRange) {
        let (start, end) = self.bounds(family, range);
        self.of_mut(family).remove_range(start, end);
    }

    fn ingest(&mut self, family: ColumnFamily, table: Table) {
        if let Some(range) = &table.deleted {
            self.delete_range(family, range);
        }
        let map = self.of_mut(family);
        for (key, value) in table.pairs {
            map.insert(key, value);
        }
    }

    /// The places of the first pair in `range` and of the first one behind it; the latter is not
    /// above the former when there is none.
    fn bounds(&self, family: ColumnFamily, range: &KeyRange) -> (Position, Position) {
        let map = self.of(family);
        let end = if range.end.is_empty() { map.end() } else { map.at_or_after(&range.end) };
        (map.at_or_after(&range.start), end)
    }
}

impl Engine for MemoryEngine {
    fn get(&self, family: ColumnFamily, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.read().newest.get(family, key))
    }

    fn view(&self) -> Arc<dyn View> {
        Arc::new(MemoryView { families: self.read().newest.clone() })
    }

    fn write(&self, batch: WriteBatch, durability: Durability) -> Result<()> {
        let mut state = self.modify();
        state.newest.apply(&batch);
        if durability == Durability::Synced {
            state.sync();
        } else if !batch.is_empty() {
            state.unsynced_bytes += batch.byte_size();
            state.unsynced.push(batch);
            if state.unsynced_bytes > UNSYNCED_BYTES_MAX {
                state.sync();
            }
        }
        Ok(())
    }

    fn destroy_range(&self, family: ColumnFamily, range: &KeyRange) -> Result<()> {
        let mut batch = WriteBatch::new();
        batch.delete_range(family, range.clone());
        let mut state = self.modify();
        let (start, end) = state.durable.bounds(family, range);
        state.durable.of_mut(family).remove_whole_chunks(start, end);
        state.newest.apply(&batch);
        state.unsynced.push(batch);
        Ok(())
    }

    fn table_writer(&self, _: ColumnFamily, path: &Path) -> Result<Box<dyn TableWriter>> {
        Ok(Box::new(MemoryTableWriter::create(path)?))
    }

    fn ingest(&self, family: ColumnFamily, tables: &[PathBuf]) -> Result<()> {
        // All are read before the first is added: a damaged one leaves the engine as it was.
        let tables = tables.iter().map(|path| Table::read(path)).collect::<Result<Vec<_>>>()?;
        let mut state = self.modify();
        for table in tables {
            state.newest.ingest(family, table);
        }
        state.sync();
        Ok(())
    }

    /// There are no files, so everything counts as if it stood in some, with the size that it has.
    fn table_size(&self, family: ColumnFamily, range: &KeyRange) -> Result<u64> {
        let families = self.read().newest.clone();
        let (start, end) = families.bounds(family, range);
        let pairs = families.of(family).range(start, end);
        Ok(pairs.map(|(key, value)| (key.len() + value.len()) as u64).sum())
    }

    fn buffered_size(&self, _: ColumnFamily, _: &KeyRange) -> Result<u64> {
        Ok(0)
    }

    fn checkpoint(&self, path: &Path) -> Result<()> {
        let families = self.read().newest.clone();
        std::fs::create_dir(path).map_err(|error| Error::engine("checkpoint", path, error))?;
        for family in ColumnFamily::ALL {
            let mut writer = MemoryTableWriter::create(&checkpoint_file(path, family))?;
            let map = families.of(family);
            for (key, value) in map.range(Position::default(), map.end()) {
                writer.put(key, value)?;
            }
            writer.close()?;
        }
        let synced = std::fs::File::open(path).and_then(|directory| directory.sync_all());
        synced.map_err(|error| Error::engine("checkpoint", path, error))
    }
}

fn checkpoint_file(directory: &Path, family: ColumnFamily) -> PathBuf {
    directory.join(format!("{family}.table"))
}

/// The state of one moment.
struct MemoryView {
    families: Families,
}

impl View for MemoryView {
    fn get(&self, family: ColumnFamily, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.families.get(family, key))
    }

    fn cursor(&self, family: ColumnFamily, range: &KeyRange) -> Result<Box<dyn Cursor + '_>> {
        let (start, end) = self.families.bounds(family, range);
        Ok(Box::new(MemoryCursor { map: self.families.of(family), start, end, standing: None }))
    }
}

/// Arithmetic on places between `start` and `end`.
struct MemoryCursor<'a> {
    map: &'a OrderedMap,
    /// The first pair of the range.
    start: Position,
    /// The first pair behind it.
    end: Position,
    /// In the range, or nowhere.
    standing: Option<Position>,
}

impl MemoryCursor<'_> {
    /// Stands on the pair at `position`, if it is below the end.
    fn stand_at(&mut self, position: Position) -> Result<bool> {
        self.standing = (position < self.end).then_some(position);
        Ok(self.standing.is_some())
    }

    /// Stands on the pair under `position`, if it is above the start.
    fn stand_below(&mut self, position: Position) -> Result<bool> {
        self.standing = (position > self.start).then(|| self.map.previous(position));
        Ok(self.standing.is_some())
    }

    fn position(&self) -> Position {
        self.standing.expect("a cursor was used that stands nowhere")
    }

    fn pair(&self) -> &(Bytes, Bytes) {
        self.map.pair(self.position()).expect("a cursor stands only on pairs")
    }
}

impl Cursor for MemoryCursor<'_> {
    fn seek(&mut self, key: &[u8]) -> Result<bool> {
        self.stand_at(self.map.at_or_after(key).max(self.start))
    }

    fn seek_for_previous(&mut self, key: &[u8]) -> Result<bool> {
        self.stand_below(self.map.after(key).min(self.end))
    }

    fn seek_to_first(&mut self) -> Result<bool> {
        self.stand_at(self.start)
    }

    fn seek_to_last(&mut self) -> Result<bool> {
        self.stand_below(self.end)
    }

    fn next(&mut self) -> Result<bool> {
        self.stand_at(self.map.next(self.position()))
    }

    fn previous(&mut self) -> Result<bool> {
        self.stand_below(self.position())
    }

    fn key(&self) -> &[u8] {
        &self.pair().0
    }

    fn value(&self) -> &[u8] {
        &self.pair().1
    }
}
