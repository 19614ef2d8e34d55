//! Opens the raft log of a data directory, and moves it when `raft-engine.enable` was changed.
//!
//! A move goes in these steps, and a start after a crash between any two of them ends with one whole log:
//!
//! 1. what an interrupted move left in the new place is removed: the manifest does not name it;
//! 2. every region is copied, state and entries, in batches of bounded size, and synced;
//! 3. both logs are read side by side and must agree;
//! 4. the manifest is replaced: from this moment the new log is the log;
//! 5. the old one is removed, now or at the next start.
//!
//! Raft and data are untouched: a log means the same in either engine.

use std::path::Path;
use std::sync::Arc;

use super::{DataDirectory, Identity, LogKind, MANIFEST, failed, files};
use crate::config::{RaftEngineConfig, RocksConfig};
use crate::engine::Durability;
use crate::engine::log::raft_engine::RaftEngineLog;
use crate::engine::log::rocks::RocksLog;
use crate::engine::log::{LogBatch, LogEngine, LogOperation};
use crate::{Error, Result};

/// Bytes of entries in one batch of a move: its memory, and what is lost in time if it is interrupted.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// The configuration of both engines.
pub(super) struct Opener<'a> {
    pub(super) raft_engine: &'a RaftEngineConfig,
    pub(super) rocks: &'a RocksConfig,
}

impl Opener<'_> {
    fn open(&self, directory: &DataDirectory, kind: LogKind) -> Result<Arc<dyn LogEngine>> {
        let path = directory.log_path(kind);
        let raft = directory.path().join("raft");
        files::create_directory(&raft).map_err(|error| failed(&raft, error))?;
        Ok(match kind {
            LogKind::RaftEngine => Arc::new(RaftEngineLog::open(&path, self.raft_engine)?),
            LogKind::Rocksdb => Arc::new(RocksLog::open(&path, self.rocks)?),
            LogKind::None => unreachable!("only directories of replicated stores have a log"),
        })
    }
}

/// The moments of a move after which everything done so far is on disk. Tests crash at each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Boundary {
    /// One batch of entries is in the new log.
    BatchWritten,
    /// The new log is complete and synced.
    Copied,
    /// The new log was compared with the old one.
    Verified,
    /// The manifest names the new log.
    Switched,
    /// The old log is gone.
    Removed,
}

/// Called at each boundary; an error from it ends the move there.
pub(super) type AtBoundary<'a> = &'a mut dyn FnMut(Boundary) -> Result<()>;

/// Opens the log in the engine that the configuration wants.
pub(super) fn open(
    directory: &DataDirectory,
    opener: &Opener<'_>,
    at: AtBoundary<'_>,
) -> Result<Arc<dyn LogEngine>> {
    let current = directory.manifest().log;
    let wanted = LogKind::wanted(opener.raft_engine);
    let other = match current {
        LogKind::RaftEngine => LogKind::Rocksdb,
        LogKind::Rocksdb => LogKind::RaftEngine,
        LogKind::None => panic!("{} belongs to a store without a log", directory.path().display()),
    };
    remove(&directory.log_path(other))?;
    check_presence(directory, current)?;
    if wanted != current {
        move_log(directory, opener, wanted, at)?;
    }
    opener.open(directory, wanted)
}

fn remove(path: &Path) -> Result<()> {
    files::remove_directory(path).map_err(|error| failed(path, error))
}

/// A store that is known to a cluster has a log; without it, it would vote twice in one term.
fn check_presence(directory: &DataDirectory, kind: LogKind) -> Result<()> {
    let path = directory.log_path(kind);
    let is_empty = std::fs::read_dir(&path).map_or(true, |mut entries| entries.next().is_none());
    if directory.manifest().identity == Identity::default() || !is_empty {
        return Ok(());
    }
    Err(Error::Damaged {
        what: path.display().to_string(),
        reason: format!(
            "the raft log is missing although {MANIFEST} says that the directory was used; put it back \
             from a copy, or let the cluster replace this store by a new one"
        ),
    })
}

fn move_log(
    directory: &DataDirectory,
    opener: &Opener<'_>,
    wanted: LogKind,
    at: AtBoundary<'_>,
) -> Result<()> {
    let mut manifest = directory.manifest();
    let old_path = directory.log_path(manifest.log);
    let old = opener.open(directory, manifest.log)?;
    let new = opener.open(directory, wanted)?;
    for region in old.regions()? {
        copy_region(&*old, &*new, region, at)?;
    }
    new.write(LogBatch::new(), Durability::Synced)?;
    at(Boundary::Copied)?;
    verify(&*old, &*new)?;
    at(Boundary::Verified)?;
    drop(new);
    drop(old);
    manifest.log = wanted;
    directory.replace_manifest(manifest)?;
    at(Boundary::Switched)?;
    remove(&old_path)?;
    at(Boundary::Removed)
}

fn copy_region(
    old: &dyn LogEngine,
    new: &dyn LogEngine,
    region: u64,
    at: AtBoundary<'_>,
) -> Result<()> {
    if let Some(state) = old.state(region)? {
        let mut batch = LogBatch::new();
        batch.push(LogOperation::State(region, state));
        new.write(batch, Durability::Buffered)?;
        at(Boundary::BatchWritten)?;
    }
    let Some(bounds) = old.bounds(region)? else { return Ok(()) };
    let mut next = bounds.first;
    while next <= bounds.last {
        let entries = old.entries(region, next, bounds.last + 1, BATCH_BYTES_MAX)?;
        next += entries.len() as u64;
        let mut batch = LogBatch::new();
        batch.push(LogOperation::Append(region, entries));
        new.write(batch, Durability::Buffered)?;
        at(Boundary::BatchWritten)?;
    }
    Ok(())
}

/// Reads both logs from end to end and refuses to go on unless they are the same.
fn verify(old: &dyn LogEngine, new: &dyn LogEngine) -> Result<()> {
    let differs = |what: String| Error::Damaged {
        what: "the copy of the raft log".to_string(),
        reason: format!("it differs from the original in {what}; the original is still in use"),
    };
    let regions = old.regions()?;
    if new.regions()? != regions {
        return Err(differs("its regions".to_string()));
    }
    for region in regions {
        let bounds = old.bounds(region)?;
        if new.bounds(region)? != bounds || new.state(region)? != old.state(region)? {
            return Err(differs(format!("the bounds or the state of region {region}")));
        }
        let Some(bounds) = bounds else { continue };
        let mut next = bounds.first;
        while next <= bounds.last {
            let expected = old.entries(region, next, bounds.last + 1, BATCH_BYTES_MAX)?;
            let found = new.entries(region, next, next + expected.len() as u64, usize::MAX)?;
            if found != expected {
                return Err(differs(format!("an entry of region {region} at or after {next}")));
            }
            next += expected.len() as u64;
        }
    }
    Ok(())
}
