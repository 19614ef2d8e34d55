//! The data engine on RocksDB.
//!
//! How a call becomes RocksDB's:
//!
//! 1. A batch becomes one RocksDB batch, so atomicity over families is RocksDB's; keys and values
//!    are copied once, into it. A synced write syncs the log, which holds all families in one
//!    order.
//! 2. A get copies the value once, out of the block or the write buffer where it was found.
//! 3. A view is a RocksDB snapshot that keeps the database open ([`view`]).
//! 4. Destroying a range drops whole files, then covers the rest with a range deletion.
//! 5. Ingest syncs the log, then lets RocksDB take hard links of the tables ([`table`]).
//!
//! **Invariant.** Power loss takes a suffix of the batches over all families together (contract,
//! 4): there is one log, RocksDB syncs all but its newest file before it writes a buffer out, and
//! ingest syncs it first. Only dropped files of a destroyed range are outside this order.
//!
//! What it does not do: transactions, merges and user timestamps of RocksDB are not used. It does
//! not guard the directory against another process with words of its own; `engine::directory` does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    ColumnFamilyDescriptor, DB, ErrorKind, FlushOptions, Options, Range, ReadOptions, ReadTier,
    WriteOptions,
};

pub use self::expiry::RawExpiry;
pub use self::statistics::{FamilyStatistics, Statistics};
use self::view::{Holders, RocksView, WhenDamaged, get, handle};
use super::{
    ColumnFamily, Durability, Engine, KeyRange, Operation, TableWriter, View, WriteBatch,
    torn_manifest, torn_wal,
};
use crate::config::RocksConfig;
use crate::{Error, Result};

mod expiry;
mod options;
mod statistics;
mod table;
#[cfg(test)]
mod tests;
mod view;

/// What RocksDB adds to a batch for each operation, at most: its kind, its family and two lengths.
const OPERATION_OVERHEAD_BYTES: usize = 16;

/// The data engine on RocksDB.
pub struct RocksEngine {
    database: Arc<DB>,
    config: RocksConfig,
    shared: options::Shared,
    holders: Arc<Holders>,
    /// Prepared once, because making options costs as much as a read from memory.
    read: ReadOptions,
    buffered: WriteOptions,
    synced: WriteOptions,
    damage: WhenDamaged,
}

impl RocksEngine {
    /// Opens the engine in `directory`, which is created when it is not there. With `raw_expiry`,
    /// expired pairs of family `raw` are dropped in the background. A directory that is damaged, in
    /// use, of another engine or not readable is an error that says so, and is left as it was. What power
    /// loss leaves is no damage.
    pub fn open(
        directory: &Path,
        config: &RocksConfig,
        raw_expiry: Option<RawExpiry>,
    ) -> Result<RocksEngine> {
        config.validate()?;
        std::fs::create_dir_all(directory).map_err(|error| Error::directory(directory, error))?;
        let fresh = is_fresh(directory)?;
        torn_manifest::drop_torn_end(directory)?;
        torn_wal::drop_holes(directory)?;
        let shared = options::Shared::new(config);
        let database_options = options::database(config, &shared, fresh);
        if !fresh {
            refuse_unknown_families(directory, &database_options)?;
        }
        let families = ColumnFamily::ALL.into_iter().map(|family| {
            let options = options::family(config, family, Some(&shared), raw_expiry.as_ref());
            ColumnFamilyDescriptor::new(family.name(), options)
        });
        let database = DB::open_cf_descriptors(&database_options, directory, families)
            .map_err(|error| open_failed(directory, &error))?;
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        Ok(RocksEngine {
            database: Arc::new(database),
            config: config.clone(),
            shared,
            holders: Arc::default(),
            read: ReadOptions::default(),
            buffered: WriteOptions::default(),
            synced,
            damage: WhenDamaged::Tell,
        })
    }

    /// From now on a read that meets a damaged block ends the process: for stores whose data others have, too.
    pub fn ending_when_damaged(self) -> RocksEngine {
        RocksEngine { damage: WhenDamaged::End, ..self }
    }

    /// Ends the engine's work for a clean stop: waits until no view is held, makes everything
    /// durable and writes it into table files, so that the next start has no log to read, and stops
    /// background work. Nobody may write afterwards; the files are closed when the last reference
    /// goes. When views are still held after `timeout`, the error names the threads that took them,
    /// and nothing was done.
    pub fn close(&self, timeout: Duration) -> Result<()> {
        self.holders
            .wait_until_empty(timeout)
            .map_err(|reason| Error::Engine { operation: "closing the data engine", reason })?;
        self.sync()?;
        let handles = ColumnFamily::ALL.map(|family| handle(&self.database, family));
        let flushed = self.database.flush_cfs_opt(&handles.each_ref(), &FlushOptions::default());
        flushed.map_err(|error| self.failed("flush", error))?;
        self.database.cancel_all_background_work(true);
        Ok(())
    }

    /// Numbers for `/metrics`.
    pub fn statistics(&self) -> Result<Statistics> {
        statistics::collect(&self.database, &self.shared, self.holders.count())
    }

    /// Writes the buffers of a family into a file of level 0.
    #[cfg(test)]
    pub(crate) fn flush(&self, family: ColumnFamily) {
        self.database.flush_cf(handle(&self.database, family)).expect("flush");
    }

    /// Merges everything in a family into the last level.
    #[cfg(test)]
    pub(crate) fn settle(&self, family: ColumnFamily) {
        let (handle, all) = (handle(&self.database, family), None::<&[u8]>);
        let mut options = rocksdb::CompactOptions::default();
        options.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::Force);
        self.database.compact_range_cf_opt(handle, all, all, &options);
    }

    fn sync(&self) -> Result<()> {
        self.database.flush_wal(true).map_err(|error| self.failed("sync", error))
    }

    fn write_batch(&self, batch: &WriteBatch, options: &WriteOptions) -> Result<()> {
        let overhead = batch.operations().len() * OPERATION_OVERHEAD_BYTES;
        let mut target = rocksdb::WriteBatch::with_capacity_bytes(batch.byte_size() + overhead);
        for operation in batch.operations() {
            match operation {
                Operation::Put(family, key, value) => {
                    target.put_cf(handle(&self.database, *family), key, value);
                }
                Operation::Delete(family, key) => {
                    target.delete_cf(handle(&self.database, *family), key);
                }
                Operation::DeleteRange(family, range) if !range.is_empty() => {
                    let (start, end) = (&range.start[..], range.end_or_last());
                    target.delete_range_cf(handle(&self.database, *family), start, end);
                }
                // RocksDB refuses a reversed range.
                Operation::DeleteRange(..) => {}
            }
        }
        self.database.write_opt(target, options).map_err(|error| self.failed("write", error))
    }

    fn failed(&self, operation: &'static str, error: rocksdb::Error) -> Error {
        Error::engine(operation, self.database.path(), error)
    }
}

impl Engine for RocksEngine {
    fn get(&self, family: ColumnFamily, key: &[u8]) -> Result<Option<Bytes>> {
        get(&self.database, family, key, &self.read, self.damage)
    }

    fn view(&self) -> Arc<dyn View> {
        Arc::new(RocksView::new(self.database.clone(), self.holders.clone(), self.damage))
    }

    fn write(&self, batch: WriteBatch, durability: Durability) -> Result<()> {
        match (batch.is_empty(), durability) {
            (true, Durability::Buffered) => Ok(()),
            // RocksDB does not sync for a batch without content.
            (true, Durability::Synced) => self.sync(),
            (false, Durability::Buffered) => self.write_batch(&batch, &self.buffered),
            (false, Durability::Synced) => self.write_batch(&batch, &self.synced),
        }
    }

    fn destroy_range(&self, family: ColumnFamily, range: &KeyRange) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let last = key_below(range.end_or_last());
        if range.start[..] <= last[..] {
            let handle = handle(&self.database, family);
            let dropped =
                self.database.delete_file_in_range_cf(handle, &range.start[..], &last[..]);
            dropped.map_err(|error| self.failed("dropping files of a range", error))?;
        }
        // Files that reach out of the range, level 0 and write buffers. Not before the files are
        // dropped: this deletion must outlive all that it hides.
        let mut batch = WriteBatch::new();
        batch.delete_range(family, range.clone());
        self.write_batch(&batch, &self.buffered)
    }

    fn table_writer(&self, family: ColumnFamily, path: &Path) -> Result<Box<dyn TableWriter>> {
        let options = options::family(&self.config, family, None, None);
        Ok(Box::new(table::RocksTableWriter::create(options, path)?))
    }

    fn ingest(&self, family: ColumnFamily, tables: &[PathBuf]) -> Result<()> {
        self.sync()?;
        if tables.is_empty() {
            return Ok(());
        }
        table::ingest(&self.database, family, tables)
    }

    /// RocksDB looks the ends of the range up in the indexes of the files that reach over them, and takes other
    /// files whole. It leaves write buffers out.
    fn table_size(&self, family: ColumnFamily, range: &KeyRange) -> Result<u64> {
        if range.is_empty() {
            return Ok(0);
        }
        let ranges = [Range::new(&range.start, range.end_or_last())];
        let sizes = self.database.get_approximate_sizes_cf(handle(&self.database, family), &ranges);
        Ok(sizes.iter().sum())
    }

    /// There are never more pairs than the buffers hold.
    fn buffered_size(&self, family: ColumnFamily, range: &KeyRange) -> Result<u64> {
        if range.is_empty() {
            return Ok(0);
        }
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::Memtable);
        options.set_total_order_seek(true);
        options.set_iterate_lower_bound(&range.start[..]);
        options.set_iterate_upper_bound(range.end_or_last());
        let handle = handle(&self.database, family);
        let mut iterator = self.database.raw_iterator_cf_opt(handle, options);
        let mut size = 0;
        iterator.seek_to_first();
        while let Some((key, value)) = iterator.item() {
            size += (key.len() + value.len()) as u64;
            iterator.next();
        }
        iterator.status().map_err(|error| self.failed("buffered size", error))?;
        Ok(size)
    }

    fn checkpoint(&self, path: &Path) -> Result<()> {
        let checkpoint = Checkpoint::new(&self.database);
        let written = checkpoint.and_then(|checkpoint| checkpoint.create_checkpoint(path));
        written.map_err(|error| self.failed("checkpoint", error))
    }
}

/// A key below `end`, and close to it: RocksDB drops files up to and *including* the key it is
/// given, and the key equal to `end` belongs to somebody else.
fn key_below(end: &[u8]) -> Vec<u8> {
    let mut key = end.to_vec();
    match key.pop() {
        // The direct predecessor.
        Some(0) | None => {}
        // There is none; what lies between this and `end` is left to the range deletion.
        Some(last) => key.extend_from_slice(&[last - 1, 0xFF, 0xFF, 0xFF, 0xFF]),
    }
    key
}

/// Whether no engine was ever made in `directory`. RocksDB takes the file CURRENT for the answer,
/// and would begin anew in the middle of a store that has lost it.
fn is_fresh(directory: &Path) -> Result<bool> {
    let entries =
        std::fs::read_dir(directory).map_err(|error| Error::directory(directory, error))?;
    let mut remains = None;
    for entry in entries {
        let name = entry.map_err(|error| Error::directory(directory, error))?.file_name();
        let name = name.to_string_lossy().into_owned();
        if name == "CURRENT" {
            return Ok(false);
        }
        if name.starts_with("MANIFEST-") || name.ends_with(".sst") || name.ends_with(".log") {
            remains = Some(name);
        }
    }
    match remains {
        None => Ok(true),
        Some(name) => Err(Error::Damaged {
            what: directory.display().to_string(),
            reason: format!("the file CURRENT is missing although {name} is there"),
        }),
    }
}

/// A family that this version does not know would be left out of every write and every view.
fn refuse_unknown_families(directory: &Path, options: &Options) -> Result<()> {
    let names = DB::list_cf(options, directory).map_err(|error| open_failed(directory, &error))?;
    let known = |name: &String| ColumnFamily::ALL.iter().any(|family| family.name() == name);
    match names.iter().find(|name| !known(name)) {
        None => Ok(()),
        Some(name) => Err(Error::DirectoryMismatch {
            path: directory.to_path_buf(),
            reason: format!(
                "it holds a column family {name:?}, which this version does not know; \
                 open it with the version that made it"
            ),
        }),
    }
}

/// Says what kept RocksDB from opening `directory`, by who must act.
fn open_failed(directory: &Path, error: &rocksdb::Error) -> Error {
    let reason = error.to_string();
    let says = |part: &str| reason.contains(part);
    if says("lock file") || says("lock hold by current process") {
        return Error::DirectoryLocked(directory.to_path_buf());
    }
    if says("Permission denied") || says("Read-only file system") || says("Too many open files") {
        return Error::DirectoryUnusable { path: directory.to_path_buf(), reason };
    }
    // What an engine needs was there when CURRENT was written.
    let missing = says("No such file or directory") || says("does not exist");
    if missing || error.kind() == ErrorKind::Corruption {
        return Error::Damaged { what: directory.display().to_string(), reason };
    }
    Error::engine("opening the data engine", directory, reason)
}
