//! Numbers about a RocksDB engine, for `/metrics` and for whoever wonders why writes are slow.

use rocksdb::DB;
use rocksdb::properties::{
    ACTUAL_DELAYED_WRITE_RATE, BACKGROUND_ERRORS, CUR_SIZE_ALL_MEM_TABLES, ESTIMATE_NUM_KEYS,
    ESTIMATE_PENDING_COMPACTION_BYTES, IS_WRITE_STOPPED, NUM_RUNNING_COMPACTIONS,
    NUM_RUNNING_FLUSHES, PropName, TOTAL_SST_FILES_SIZE, num_files_at_level,
};

use super::options::Shared;
use super::view::handle;
use crate::engine::ColumnFamily;
use crate::{Error, Result};

/// The engine at one moment. Cheap enough for every scrape: counters that RocksDB keeps anyway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// One for each column family, in the order of [`ColumnFamily::ALL`].
    pub families: Vec<FamilyStatistics>,
    /// Blocks, indexes and filters in memory.
    pub block_cache_bytes: u64,
    /// Write buffers of all families in memory.
    pub write_buffers_bytes: u64,
    /// Views that are held now; each keeps old values from being dropped.
    pub views: u64,
    /// Write buffers being written out.
    pub running_flushes: u64,
    /// Merges of table files under way.
    pub running_compactions: u64,
    /// Flushes and merges that failed since start.
    pub background_errors: u64,
    /// Bytes a second to which writers are slowed down; 0 when they are not.
    pub delayed_write_bytes_per_second: u64,
    /// Whether writers are stopped.
    pub write_stopped: bool,
}

/// One column family at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyStatistics {
    /// Which one.
    pub family: ColumnFamily,
    /// Its write buffers.
    pub memtable_bytes: u64,
    /// Its table files, with those that only a view still needs.
    pub table_bytes: u64,
    /// Its files in level 0; many of them slow writers down.
    pub level0_files: u64,
    /// Bytes that wait to be merged; many of them slow writers down.
    pub pending_compaction_bytes: u64,
    /// Roughly how many keys it holds.
    pub estimated_keys: u64,
}

pub(super) fn collect(database: &DB, shared: &Shared, views: usize) -> Result<Statistics> {
    let families = ColumnFamily::ALL.into_iter().map(|family| of_family(database, family));
    let whole = |name: &PropName| number(database, ColumnFamily::Default, name);
    Ok(Statistics {
        families: families.collect::<Result<_>>()?,
        block_cache_bytes: shared.block_cache.get_usage() as u64,
        write_buffers_bytes: shared.write_buffers.get_usage() as u64,
        views: views as u64,
        running_flushes: whole(NUM_RUNNING_FLUSHES)?,
        running_compactions: whole(NUM_RUNNING_COMPACTIONS)?,
        background_errors: whole(BACKGROUND_ERRORS)?,
        delayed_write_bytes_per_second: whole(ACTUAL_DELAYED_WRITE_RATE)?,
        write_stopped: whole(IS_WRITE_STOPPED)? != 0,
    })
}

fn of_family(database: &DB, family: ColumnFamily) -> Result<FamilyStatistics> {
    let number = |name: &PropName| number(database, family, name);
    Ok(FamilyStatistics {
        family,
        memtable_bytes: number(CUR_SIZE_ALL_MEM_TABLES)?,
        table_bytes: number(TOTAL_SST_FILES_SIZE)?,
        level0_files: number(&num_files_at_level(0))?,
        pending_compaction_bytes: number(ESTIMATE_PENDING_COMPACTION_BYTES)?,
        estimated_keys: number(ESTIMATE_NUM_KEYS)?,
    })
}

fn number(database: &DB, family: ColumnFamily, name: &PropName) -> Result<u64> {
    let value = database.property_int_value_cf(handle(database, family), name);
    let value = value.map_err(|error| Error::engine("a property", database.path(), error))?;
    Ok(value.unwrap_or(0))
}
