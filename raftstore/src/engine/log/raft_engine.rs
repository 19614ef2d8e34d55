//! The raft log in raft-engine, the default: an append-only log of all regions with its index in memory.
//!
//! What the crate leaves to its user, and how it is done here:
//!
//! 1. **Durability** comes only from a write that asks for it; its `sync` does nothing, and neither does a
//!    synced write of nothing. So a synced empty batch writes a few bytes.
//! 2. **Misuse**: the crate panics halfway through a batch on gaps and on entries below what was
//!    compacted. Every batch is checked before it is handed over ([`super::outlook`]).
//! 3. **Compaction** is only a record, and the record may be purged before the entries, copied on by the
//!    crate, are: they would come back. So every region keeps the index of its oldest entry as a value,
//!    which is never lost, and a start compacts again.
//! 4. **Damage** is looked for before the crate opens its files ([`log_files`]).
//! 5. **Old files are removed, not kept for reuse.** Reuse would leave gaps in the file numbers after a
//!    crash, which cannot be told from lost files; it would never give space back; and on ext4 a synced
//!    write into a reused file was not faster than into a fresh one, which the crate allocates ahead.
//! 6. **Two logs in one process** never share a file number (see [`log_files::create`]).
//!
//! A failed sync panics inside the crate, on the thread that wrote: the process ends, as it must.
//!
//! What it does not do: batches that were written without sync are not in order on the medium. When
//! several are lost together, the crate may find an earlier one's entries torn and a later one whole; it
//! then knows these entries and fails when they are read. Entries are therefore always written synced.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use prost::Message as _;
use raft::eraftpb::Entry;
use raft_engine::{Command, Config, MessageExt, ReadableSize, RecoveryMode};
use skerry_proto::raft_serverpb::RaftLocalState;

use super::outlook::Outlook;
use super::{LogBatch, LogBounds, LogEngine, LogOperation, outside};
use crate::config::RaftEngineConfig;
use crate::engine::Durability;
use crate::{Error, Result};

mod log_files;

/// Key of the raft state among a region's values.
const STATE: &[u8] = b"state";
/// Key of the index of the oldest entry (8 bytes, big-endian).
const OLDEST: &[u8] = b"oldest";
/// A region that does not exist, for writes that are only there to be synced.
const NO_REGION: u64 = 0;

/// Tells the crate how entries are numbered.
struct EntryFormat;

impl MessageExt for EntryFormat {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

/// The log on raft-engine.
pub struct RaftEngineLog {
    engine: raft_engine::Engine,
    /// A batch is checked against the bounds and written while nobody else writes.
    writer: Mutex<()>,
    directory: PathBuf,
    /// Dropped after the engine, when its files are closed.
    _clean_stop: CleanStop,
}

impl RaftEngineLog {
    /// Opens the log in `directory`, which is made when it is not there. Its parent must be.
    pub fn open(directory: &Path, config: &RaftEngineConfig) -> Result<RaftEngineLog> {
        if !directory.exists() {
            log_files::create(directory, |staging| open_engine(staging, config).map(drop))?;
        }
        log_files::check(directory)?;
        log_files::forget_clean_stop(directory)?;
        let engine = open_engine(directory, config)?;
        let log = RaftEngineLog {
            engine,
            writer: Mutex::default(),
            directory: directory.to_path_buf(),
            _clean_stop: CleanStop { directory: directory.to_path_buf() },
        };
        log.compact_again()?;
        Ok(log)
    }

    /// Forgets once more what was compacted before and came back.
    fn compact_again(&self) -> Result<()> {
        let mut batch = raft_engine::LogBatch::default();
        for region in self.engine.raft_groups() {
            let oldest = self.engine.get(region, OLDEST).and_then(|bytes| bytes.try_into().ok());
            let index = oldest.map_or(0, u64::from_be_bytes);
            if self.engine.first_index(region).is_some_and(|first| first < index) {
                batch.add_command(region, Command::Compact { index });
            }
        }
        let written = self.engine.write(&mut batch, false);
        written.map(drop).map_err(|error| failed("opening the raft log", &self.directory, error))
    }

    fn current(&self, region: u64) -> Option<LogBounds> {
        let first = self.engine.first_index(region)?;
        let last = self.engine.last_index(region)?;
        Some(LogBounds { first, last })
    }

    /// Adds one part to a batch of the crate, having announced it to `outlook`.
    fn translate(
        operation: &LogOperation,
        outlook: &mut Outlook<'_>,
        target: &mut raft_engine::LogBatch,
    ) -> raft_engine::Result<()> {
        match operation {
            LogOperation::Append(region, entries) => {
                let was_empty = outlook.bounds(*region).is_none();
                outlook.append(*region, entries);
                if let Some(first) = entries.first().filter(|_| was_empty) {
                    target.put(*region, OLDEST.to_vec(), first.index.to_be_bytes().to_vec())?;
                }
                target.add_entries::<EntryFormat>(*region, entries)
            }
            LogOperation::State(region, state) => {
                target.put(*region, STATE.to_vec(), state.encode_to_vec())
            }
            LogOperation::CompactTo(region, index) => {
                if outlook.compact(*region, *index).is_empty() {
                    return Ok(());
                }
                target.add_command(*region, Command::Compact { index: *index });
                target.put(*region, OLDEST.to_vec(), index.to_be_bytes().to_vec())
            }
            LogOperation::Clean(region) => {
                outlook.clean(*region);
                target.add_command(*region, Command::Clean);
                Ok(())
            }
        }
    }

    /// Does `read`, twice if need be: between looking up where an entry lies and reading it there, a purge
    /// may have copied it on and removed the file.
    fn read<T>(
        &self,
        read: impl Fn() -> raft_engine::Result<T>,
    ) -> std::result::Result<T, raft_engine::Error> {
        read().or_else(|_| read())
    }
}

impl LogEngine for RaftEngineLog {
    fn write(&self, batch: LogBatch, durability: Durability) -> Result<u64> {
        // A writer panics only while it checks its batch, before it changes anything, or in a failed sync,
        // after which nobody writes.
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let current = |region| self.current(region);
        let mut outlook = Outlook::from(&current);
        let mut target = raft_engine::LogBatch::default();
        let failed = |error| failed("writing the raft log", &self.directory, error);
        for operation in batch.operations() {
            RaftEngineLog::translate(operation, &mut outlook, &mut target).map_err(failed)?;
        }
        let synced = durability == Durability::Synced;
        if synced && target.is_empty() {
            target.delete(NO_REGION, STATE.to_vec());
        }
        self.engine.write(&mut target, synced).map(|bytes| bytes as u64).map_err(failed)
    }

    fn state(&self, region: u64) -> Result<Option<RaftLocalState>> {
        let Some(bytes) = self.engine.get(region, STATE) else { return Ok(None) };
        let decoded = RaftLocalState::decode(&bytes[..]);
        decoded.map(Some).map_err(|error| damaged(region, &format!("its state: {error}")))
    }

    fn bounds(&self, region: u64) -> Result<Option<LogBounds>> {
        Ok(self.current(region))
    }

    fn entry(&self, region: u64, index: u64) -> Result<Option<Entry>> {
        let entry = self.read(|| self.engine.get_entry::<EntryFormat>(region, index));
        entry.map_err(|error| damaged(region, &format!("entry {index}: {error}")))
    }

    fn entries(&self, region: u64, low: u64, high: u64, bytes_max: usize) -> Result<Vec<Entry>> {
        if low >= high {
            return Ok(Vec::new());
        }
        let bounds = self.current(region);
        if !bounds.is_some_and(|bounds| low >= bounds.first && high <= bounds.last + 1) {
            return Err(outside(region, low, high, bounds));
        }
        let fetched = self.read(|| {
            let mut entries = Vec::new();
            let engine = &self.engine;
            engine
                .fetch_entries_to::<EntryFormat>(region, low, high, Some(bytes_max), &mut entries)
                .map(|_| entries)
        });
        fetched.map_err(|error| damaged(region, &format!("entries {low}..{high}: {error}")))
    }

    fn regions(&self) -> Result<Vec<u64>> {
        // The crate also lists regions that it has only heard of.
        let has_anything = |region: &u64| {
            self.current(*region).is_some() || self.engine.get(*region, STATE).is_some()
        };
        let mut regions = self.engine.raft_groups();
        regions.retain(has_anything);
        regions.sort_unstable();
        Ok(regions)
    }

    fn purge(&self) -> Result<Vec<u64>> {
        let purged = self.engine.purge_expired_files();
        let mut regions =
            purged.map_err(|error| failed("purging the raft log", &self.directory, error))?;
        regions.sort_unstable();
        Ok(regions)
    }
}

/// Records how the files ended, when the log is dropped in an orderly stop.
struct CleanStop {
    directory: PathBuf,
}

impl Drop for CleanStop {
    fn drop(&mut self) {
        // Without a record the next start treats this as a crash, which is right after a panic and does no
        // harm if writing it failed.
        if !std::thread::panicking() {
            let _ = log_files::record_clean_stop(&self.directory);
        }
    }
}

fn open_engine(directory: &Path, config: &RaftEngineConfig) -> Result<raft_engine::Engine> {
    let path = directory.to_str().ok_or_else(|| Error::DirectoryUnusable {
        path: directory.to_path_buf(),
        reason: "raft-engine needs a path that is UTF-8".to_string(),
    })?;
    let options = Config {
        dir: path.to_string(),
        // After a crash the end of the newest file may be torn. Anywhere else it is damage.
        recovery_mode: RecoveryMode::TolerateTailCorruption,
        recovery_threads: config.recovery_threads as usize,
        batch_compression_threshold: ReadableSize(config.batch_compression_threshold.bytes()),
        target_file_size: ReadableSize(config.target_file_size.bytes()),
        purge_threshold: ReadableSize(config.purge_threshold.bytes()),
        enable_log_recycle: false,
        ..Config::default()
    };
    raft_engine::Engine::open(options).map_err(|error| {
        let at_fault = log_files::all(directory).ok().and_then(|files| first_unreadable(&files));
        failed("opening the raft log", at_fault.as_deref().unwrap_or(directory), error)
    })
}

/// The first file with a record that cannot be read, for the message: the crate does not say.
fn first_unreadable(files: &[PathBuf]) -> Option<PathBuf> {
    let is_whole = |path: &PathBuf| {
        let records = <raft_engine::Engine>::dump(path);
        records.is_ok_and(|mut records| records.all(|record| record.is_ok()))
    };
    files.iter().find(|path| !is_whole(path)).cloned()
}

/// An error of the crate, by who must act.
fn failed(operation: &'static str, path: &Path, error: raft_engine::Error) -> Error {
    use raft_engine::Error as Crate;
    let reason = error.to_string();
    // The crate's word for a full disk; it does not pass on the system's.
    if reason.contains("nospace") {
        return Error::DiskFull { path: path.to_path_buf(), reason };
    }
    match error {
        Crate::Corruption(_) | Crate::Codec(_) | Crate::Protobuf(_) => {
            Error::Damaged { what: path.display().to_string(), reason }
        }
        _ => Error::engine(operation, path, reason),
    }
}

fn damaged(region: u64, reason: &str) -> Error {
    let what = format!("the raft log of region {region}");
    Error::Damaged { what, reason: reason.to_string() }
}

#[cfg(test)]
mod tests;
