//! Founding a cluster on a machine that may die at each of its writes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use raft::eraftpb::Entry;
use skerry_proto::raft_serverpb::RaftLocalState;

use super::*;
use crate::engine::log::LogBounds;
use crate::engine::log::memory::MemoryLog;
use crate::engine::memory::MemoryEngine;
use crate::engine::{KeyRange, TableWriter, View};

/// Both engines, which fail together after so many writes.
struct Machine {
    engine: MemoryEngine,
    log: MemoryLog,
    writes_left: AtomicUsize,
}

impl Machine {
    fn new() -> Machine {
        let writes_left = usize::MAX.into();
        Machine { engine: MemoryEngine::new(), log: MemoryLog::new(), writes_left }
    }

    /// Whether `work` was done within so many writes. Afterwards the machine works again.
    fn dies_after(&self, writes: usize, work: impl FnOnce(&Machine) -> Result<()>) -> bool {
        self.writes_left.store(writes, Ordering::Relaxed);
        let died = work(self).is_err();
        self.writes_left.store(usize::MAX, Ordering::Relaxed);
        died
    }

    fn count(&self) -> Result<()> {
        let one_less = |left: usize| left.checked_sub(1);
        match self.writes_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) {
            Ok(_) => Ok(()),
            Err(_) => {
                let reason = "the machine dies".to_string();
                Err(Error::Engine { operation: "write", reason })
            }
        }
    }

    fn prepare(&self, region: &metapb::Region) -> Result<()> {
        prepare(self, self, region)
    }

    fn prepared(&self) -> Option<metapb::Region> {
        prepared(self, self).expect("it reads")
    }

    fn has_region(&self, id: u64) -> bool {
        let stored = |key: Bytes| self.engine.get(RAFT, &key).expect("it reads").is_some();
        let (region, applied) = (stored(keys::region_state(id)), stored(keys::apply_state(id)));
        assert_eq!(region, applied, "one does not make sense without the other");
        region
    }

    fn logs(&self) -> Vec<u64> {
        self.log.regions().expect("it reads")
    }
}

impl Engine for Machine {
    fn get(&self, family: ColumnFamily, key: &[u8]) -> Result<Option<Bytes>> {
        self.engine.get(family, key)
    }

    fn view(&self) -> Arc<dyn View> {
        self.engine.view()
    }

    fn write(&self, batch: WriteBatch, durability: Durability) -> Result<()> {
        self.count()?;
        self.engine.write(batch, durability)
    }

    fn destroy_range(&self, family: ColumnFamily, range: &KeyRange) -> Result<()> {
        self.engine.destroy_range(family, range)
    }

    fn table_writer(&self, family: ColumnFamily, path: &Path) -> Result<Box<dyn TableWriter>> {
        self.engine.table_writer(family, path)
    }

    fn ingest(&self, family: ColumnFamily, tables: &[PathBuf]) -> Result<()> {
        self.engine.ingest(family, tables)
    }

    fn table_size(&self, family: ColumnFamily, range: &KeyRange) -> Result<u64> {
        self.engine.table_size(family, range)
    }

    fn buffered_size(&self, family: ColumnFamily, range: &KeyRange) -> Result<u64> {
        self.engine.buffered_size(family, range)
    }

    fn checkpoint(&self, path: &Path) -> Result<()> {
        self.engine.checkpoint(path)
    }
}

impl LogEngine for Machine {
    fn write(&self, batch: LogBatch, durability: Durability) -> Result<u64> {
        self.count()?;
        self.log.write(batch, durability)
    }

    fn state(&self, region: u64) -> Result<Option<RaftLocalState>> {
        self.log.state(region)
    }

    fn bounds(&self, region: u64) -> Result<Option<LogBounds>> {
        self.log.bounds(region)
    }

    fn entry(&self, region: u64, index: u64) -> Result<Option<Entry>> {
        self.log.entry(region, index)
    }

    fn entries(&self, region: u64, low: u64, high: u64, bytes_max: usize) -> Result<Vec<Entry>> {
        self.log.entries(region, low, high, bytes_max)
    }

    fn regions(&self) -> Result<Vec<u64>> {
        self.log.regions()
    }

    fn purge(&self) -> Result<Vec<u64>> {
        self.log.purge()
    }
}

fn region(id: u64) -> metapb::Region {
    metapb::Region {
        id,
        region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version: 1 }),
        peers: vec![metapb::Peer { id: id + 1, store_id: 1, ..metapb::Peer::default() }],
        ..metapb::Region::default()
    }
}

#[test]
fn what_was_prepared_is_found_until_it_is_confirmed() {
    let machine = Machine::new();
    assert_eq!(machine.prepared(), None);
    machine.prepare(&region(7)).expect("it writes");
    assert_eq!(machine.prepared(), Some(region(7)));
    confirm(&machine).expect("it writes");
    assert_eq!(machine.prepared(), None);
    assert!(machine.has_region(7));
}

/// The next start asks for new ids if it finds nothing. A log of the former id would stay for ever.
#[test]
fn a_crash_at_any_write_of_the_offer_leaves_nothing_that_the_next_start_does_not_find() {
    let mut boundaries = 0;
    loop {
        let machine = Machine::new();
        let died = machine.dies_after(boundaries, |machine| machine.prepare(&region(7)));
        let founded = match machine.prepared() {
            Some(found) => found,
            None => {
                machine.prepare(&region(11)).expect("it writes");
                region(11)
            }
        };
        confirm(&machine).expect("it writes");
        assert!(machine.has_region(founded.id));
        assert_eq!(machine.logs(), [founded.id], "after {boundaries} writes");
        if !died {
            break;
        }
        boundaries += 1;
    }
    assert_eq!(boundaries, 2, "the data engine, then the log");
}

#[test]
fn a_crash_at_any_write_of_the_withdrawal_is_made_good_by_withdrawing_again() {
    let mut boundaries = 0;
    loop {
        let machine = Machine::new();
        machine.prepare(&region(7)).expect("it writes");
        let died = machine.dies_after(boundaries, |machine| withdraw(machine, machine, 7));
        if let Some(found) = machine.prepared() {
            withdraw(&machine, &machine, found.id).expect("it writes");
        }
        assert_eq!((machine.prepared(), machine.has_region(7)), (None, false));
        assert_eq!(machine.logs(), [0; 0], "after {boundaries} writes");
        if !died {
            break;
        }
        boundaries += 1;
    }
    assert_eq!(boundaries, 2, "the log, then the data engine");
}
