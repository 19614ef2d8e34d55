//! The raft log in a RocksDB of its own, for `[raft-engine] enable = false`.
//!
//! | key | bytes | value |
//! | --- | --- | --- |
//! | raft state | region (8 bytes, big-endian), `01` | `raft_serverpb.RaftLocalState` |
//! | entry | region, `02`, index (8 bytes, big-endian) | `eraftpb.Entry` |
//!
//! The database holds nothing else, so these keys never meet those of `crate::keys`. A region's keys are
//! neighbours, its state before its entries, and entries lie in the order of their indexes.
//!
//! Bounds are kept in memory: the keys of compacted entries are deleted by ranges, and finding the first
//! live key behind many deletions would cost more the longer a store runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError, RwLock};

use prost::Message as _;
use protobuf::Message as _;
use raft::eraftpb::Entry;
use rocksdb::{DB, DBCompressionType, DBRecoveryMode, Options, ReadOptions, WriteOptions};
use skerry_proto::raft_serverpb::RaftLocalState;

use super::outlook::Outlook;
use super::{LogBatch, LogBounds, LogEngine, LogOperation, outside};
use crate::config::RocksConfig;
use crate::engine::{Durability, files, torn_manifest, torn_wal};
use crate::{Error, Result};

const STATE: u8 = 0x01;
const ENTRY: u8 = 0x02;
/// Above every kind, so that it ends a region.
const BEHIND: u8 = 0x03;

/// The log on RocksDB.
pub struct RocksLog {
    database: DB,
    /// Regions with entries. Changed after the database, by the one who holds `writer`.
    bounds: RwLock<BTreeMap<u64, LogBounds>>,
    /// A batch is checked against the bounds and written while nobody else writes.
    writer: Mutex<()>,
}

impl RocksLog {
    /// Opens the log in `directory`, which is made when it is not there. Its parent must be.
    pub fn open(directory: &Path, config: &RocksConfig) -> Result<RocksLog> {
        let mut options = options(config);
        if !directory.exists() {
            options.create_if_missing(true);
            files::make_directory(directory, |staging| open_database(&options, staging).map(drop))?;
        }
        // A directory that is there is whole, and one that lost its files must not begin anew.
        options.create_if_missing(false);
        let database = open_database(&options, directory)?;
        let log = RocksLog { database, bounds: RwLock::default(), writer: Mutex::default() };
        let mut bounds = BTreeMap::new();
        for region in log.regions()? {
            if let Some(found) = log.find_bounds(region)? {
                bounds.insert(region, found);
            }
        }
        *log.bounds.write().unwrap_or_else(PoisonError::into_inner) = bounds;
        Ok(log)
    }

    fn current(&self, region: u64) -> Option<LogBounds> {
        self.bounds.read().unwrap_or_else(PoisonError::into_inner).get(&region).copied()
    }

    /// Looks for the first and the last entry of a region on disk.
    fn find_bounds(&self, region: u64) -> Result<Option<LogBounds>> {
        let mut iterator = self.database.raw_iterator_opt(within(region));
        let index = |key: Option<&[u8]>| key.and_then(index_of);
        iterator.seek(entry_key(region, 0));
        let first = index(iterator.key());
        iterator.seek_for_prev(entry_key(region, u64::MAX));
        let last = index(iterator.key());
        iterator.status().map_err(|error| self.failed("reading the raft log", error))?;
        Ok(first.zip(last).map(|(first, last)| LogBounds { first, last }))
    }

    /// Adds one part to a batch of RocksDB, having announced it to `outlook`.
    fn translate(
        operation: &LogOperation,
        outlook: &mut Outlook<'_>,
        target: &mut rocksdb::WriteBatch,
    ) -> Result<()> {
        let mut forget = |region: u64, indexes: std::ops::Range<u64>| {
            if !indexes.is_empty() {
                let (start, end) = (indexes.start, indexes.end);
                target.delete_range(entry_key(region, start), entry_key(region, end));
            }
        };
        match operation {
            LogOperation::Append(region, entries) => {
                forget(*region, outlook.append(*region, entries));
                for entry in entries {
                    let value = entry.write_to_bytes().map_err(|error| Error::Engine {
                        operation: "encoding a raft entry",
                        reason: error.to_string(),
                    })?;
                    target.put(entry_key(*region, entry.index), value);
                }
            }
            LogOperation::State(region, state) => {
                target.put(state_key(*region), state.encode_to_vec());
            }
            LogOperation::CompactTo(region, index) => {
                forget(*region, outlook.compact(*region, *index));
            }
            LogOperation::Clean(region) => {
                outlook.clean(*region);
                target.delete_range(state_key(*region), region_end(*region));
            }
        }
        Ok(())
    }

    fn failed(&self, operation: &'static str, error: rocksdb::Error) -> Error {
        Error::engine(operation, self.database.path(), error)
    }
}

impl LogEngine for RocksLog {
    fn write(&self, batch: LogBatch, durability: Durability) -> Result<u64> {
        // A writer panics only while it checks its batch, before it changes anything.
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let current = |region| self.current(region);
        let mut outlook = Outlook::from(&current);
        let mut target = rocksdb::WriteBatch::default();
        for operation in batch.operations() {
            RocksLog::translate(operation, &mut outlook, &mut target)?;
        }
        let bytes = target.size_in_bytes() as u64;
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        self.database
            .write_opt(target, &options)
            .map_err(|error| self.failed("writing the raft log", error))?;
        let mut bounds = self.bounds.write().unwrap_or_else(PoisonError::into_inner);
        for (region, changed) in outlook.into_changed() {
            match changed {
                Some(changed) => bounds.insert(region, changed),
                None => bounds.remove(&region),
            };
        }
        Ok(bytes)
    }

    fn state(&self, region: u64) -> Result<Option<RaftLocalState>> {
        let value = self.database.get_pinned(state_key(region));
        let value = value.map_err(|error| self.failed("reading a raft state", error))?;
        let Some(value) = value else { return Ok(None) };
        let decoded = RaftLocalState::decode(&value[..]);
        decoded.map(Some).map_err(|error| damaged(region, &format!("its state: {error}")))
    }

    fn bounds(&self, region: u64) -> Result<Option<LogBounds>> {
        Ok(self.current(region))
    }

    fn entry(&self, region: u64, index: u64) -> Result<Option<Entry>> {
        let value = self.database.get_pinned(entry_key(region, index));
        let value = value.map_err(|error| self.failed("reading a raft entry", error))?;
        value.map(|value| decode_entry(region, index, &value)).transpose()
    }

    fn entries(&self, region: u64, low: u64, high: u64, bytes_max: usize) -> Result<Vec<Entry>> {
        if low >= high {
            return Ok(Vec::new());
        }
        let bounds = self.current(region);
        if !bounds.is_some_and(|bounds| low >= bounds.first && high <= bounds.last + 1) {
            return Err(outside(region, low, high, bounds));
        }
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut iterator = self.database.raw_iterator_opt(within(region));
        iterator.seek(entry_key(region, low));
        for index in low..high {
            let Some((key, value)) = iterator.item() else {
                iterator.status().map_err(|error| self.failed("reading raft entries", error))?;
                return Err(damaged(region, &format!("entry {index} is missing")));
            };
            if index_of(key) != Some(index) {
                return Err(damaged(region, &format!("entry {index} is missing")));
            }
            bytes += value.len();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(decode_entry(region, index, value)?);
            iterator.next();
        }
        Ok(entries)
    }

    fn regions(&self) -> Result<Vec<u64>> {
        let mut regions = Vec::new();
        let mut iterator = self.database.raw_iterator();
        iterator.seek_to_first();
        while let Some(key) = iterator.key() {
            let region = region_of(key);
            let region = region.ok_or_else(|| damaged(0, "a key that is no key of a raft log"))?;
            regions.push(region);
            iterator.seek(region_end(region));
        }
        iterator.status().map_err(|error| self.failed("listing the raft log", error))?;
        Ok(regions)
    }

    fn purge(&self) -> Result<Vec<u64>> {
        // RocksDB merges deletions away on its own.
        Ok(Vec::new())
    }
}

impl Drop for RocksLog {
    /// A clean stop leaves everything in table files, where every block has a checksum and damage cannot
    /// be mistaken for the end of a log. Nothing is lost if it fails.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = self.database.flush();
        }
    }
}

fn open_database(options: &Options, directory: &Path) -> Result<DB> {
    torn_manifest::drop_torn_end(directory)?;
    torn_wal::drop_holes(directory)?;
    DB::open(options, directory).map_err(|error| {
        let reason = error.to_string();
        let what = directory.display().to_string();
        match reason.contains("does not exist") || reason.contains("No such file") {
            true => Error::Damaged { what, reason },
            false => Error::engine("opening the raft log", directory, reason),
        }
    })
}

fn options(config: &RocksConfig) -> Options {
    let mut options = Options::default();
    // As for the data engine: up to the first record that is not whole; a log file that was synced and is
    // missing or short is an error.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_write_buffer_size(config.write_buffer_size.length());
    options.set_max_background_jobs(i32::try_from(config.background_jobs_max).unwrap_or(i32::MAX));
    options.set_target_file_size_base(config.target_file_size.bytes());
    options.set_max_bytes_for_level_base(config.level_base_size.bytes());
    options.set_wal_bytes_per_sync(config.wal_bytes_per_sync.bytes());
    options.set_bytes_per_sync(config.bytes_per_sync.bytes());
    // A log is small beside the data, so a small part of what is allowed for it keeps every file open.
    options.set_max_open_files(i32::try_from(config.open_files_max / 4).unwrap_or(i32::MAX));
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_keep_log_file_num(2);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

/// Reading confined to the entries of one region.
fn within(region: u64) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(entry_key(region, 0));
    options.set_iterate_upper_bound(region_end(region));
    options
}

fn state_key(region: u64) -> Vec<u8> {
    let mut key = region.to_be_bytes().to_vec();
    key.push(STATE);
    key
}

fn entry_key(region: u64, index: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(17);
    key.extend_from_slice(&region.to_be_bytes());
    key.push(ENTRY);
    key.extend_from_slice(&index.to_be_bytes());
    key
}

/// The first key behind all keys of a region.
fn region_end(region: u64) -> Vec<u8> {
    let mut key = region.to_be_bytes().to_vec();
    key.push(BEHIND);
    key
}

fn region_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*key.first_chunk()?))
}

fn index_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(9..)?.try_into().ok()?))
}

/// Reads an entry that was stored under `index`, and checks that it is that one.
fn decode_entry(region: u64, index: u64, bytes: &[u8]) -> Result<Entry> {
    let entry = Entry::parse_from_bytes(bytes);
    let entry = entry.map_err(|error| damaged(region, &format!("entry {index}: {error}")))?;
    if entry.index != index {
        return Err(damaged(
            region,
            &format!("entry {} lies in the place of {index}", entry.index),
        ));
    }
    Ok(entry)
}

fn damaged(region: u64, reason: &str) -> Error {
    let what = format!("the raft log of region {region}");
    Error::Damaged { what, reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_lost_its_files_is_damaged_and_does_not_begin_anew() {
        let root = tempfile::tempdir().expect("a directory");
        let directory = root.path().join("log");
        drop(RocksLog::open(&directory, &RocksConfig::small()).expect("opens"));
        std::fs::remove_file(directory.join("CURRENT")).expect("remove");
        let refused = RocksLog::open(&directory, &RocksConfig::small()).err().expect("refused");
        assert!(matches!(refused, Error::Damaged { .. }), "{refused}");
        assert!(!directory.join("CURRENT").exists());
    }

    #[test]
    fn an_entry_in_the_place_of_another_is_damage() {
        let root = tempfile::tempdir().expect("a directory");
        let log = RocksLog::open(&root.path().join("log"), &RocksConfig::small()).expect("opens");
        let mut batch = LogBatch::new();
        let entries = (1..4).map(|index| Entry { index, ..Entry::default() });
        batch.push(LogOperation::Append(7, entries.collect()));
        log.write(batch, Durability::Synced).expect("writes");
        let second = log.database.get(entry_key(7, 2)).expect("reads").expect("there");
        log.database.put(entry_key(7, 3), second).expect("puts");
        log.database.delete(entry_key(7, 1)).expect("deletes");
        let refused = log.entry(7, 3).expect_err("damaged").to_string();
        assert_eq!(refused, "the raft log of region 7 is damaged: entry 2 lies in the place of 3");
        let refused = log.entries(7, 1, 3, usize::MAX).expect_err("damaged").to_string();
        assert_eq!(refused, "the raft log of region 7 is damaged: entry 1 is missing");
    }
}
