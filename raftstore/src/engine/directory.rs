//! A data directory: created, locked, recognised. Everything a process keeps lies in one.
//!
//! ```text
//! LOCK                   held by the process that has the directory open
//! skerry-manifest.toml   what the directory is (see `manifest`)
//! data/                  the data engine
//! raft/raft-engine/      the raft log, in the engine that the manifest names;
//! raft/rocksdb/          there is none in standalone stores and schedulers
//! */skerry-owner         in data/ and raft/: whose they are (see `owner`)
//! ```
//!
//! Opening goes in this order, and nothing is written before it is known whose the directory is:
//!
//! 1. create what is missing of the path, and take the lock;
//! 2. read the manifest, or write one if nothing is there yet;
//! 3. refuse a directory of another format, kind, mode or cluster, one whose data is gone, or one with a part of
//!    another store's;
//! 4. for the log: if another engine is wanted than the one that holds it, move it (see `migrate`).
//!
//! **Invariant.** The manifest always names an engine that has the whole log.
//!
//! **Invariant.** Once a directory has an identity, a missing engine is an error: a store that forgot
//! what it promised must not come back under its old name.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::files;
use super::log::LogEngine;
use crate::config::{RaftEngineConfig, RocksConfig};
use crate::{Error, Result};

pub use manifest::{FORMAT_VERSION, Manifest};

mod manifest;
mod migrate;
mod owner;

/// Name of the manifest.
pub const MANIFEST: &str = "skerry-manifest.toml";
/// Name of the lock file. It is never removed: a name that comes and goes can be locked twice.
pub const LOCK: &str = "LOCK";

/// What kind of process a directory belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The placement driver.
    Scheduler,
    /// A store.
    Store,
}

/// Whether others hold the same data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// No: every write goes to the data engine at once.
    Standalone,
    /// Yes: every write goes through a raft log first.
    Replicated,
}

/// What holds the raft log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogKind {
    /// Nothing: there is no log.
    None,
    /// raft-engine.
    RaftEngine,
    /// A RocksDB of its own.
    Rocksdb,
}

impl LogKind {
    /// What the configuration asks for.
    pub fn wanted(config: &RaftEngineConfig) -> LogKind {
        if config.enable { LogKind::RaftEngine } else { LogKind::Rocksdb }
    }

    /// The name of its directory below `raft/`.
    fn directory_name(self) -> &'static str {
        match self {
            LogKind::None => unreachable!("a directory without a log has no log directory"),
            LogKind::RaftEngine => "raft-engine",
            LogKind::Rocksdb => "rocksdb",
        }
    }
}

/// What a process wants of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purpose {
    /// Which process it is.
    pub kind: Kind,
    /// How it keeps its data.
    pub mode: Mode,
    /// Where a new directory keeps its log; an old one is moved by [`DataDirectory::open_log`].
    pub log: LogKind,
}

impl Purpose {
    /// A scheduler that is alone.
    pub const SCHEDULER: Purpose =
        Purpose { kind: Kind::Scheduler, mode: Mode::Standalone, log: LogKind::None };

    /// A store that is alone.
    pub const STANDALONE_STORE: Purpose =
        Purpose { kind: Kind::Store, mode: Mode::Standalone, log: LogKind::None };

    /// A store that replicates, with the log engine that `config` names.
    pub fn replicated_store(config: &RaftEngineConfig) -> Purpose {
        Purpose { kind: Kind::Store, mode: Mode::Replicated, log: LogKind::wanted(config) }
    }
}

/// Whose directory it is. Unknown parts are learned once and never change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The cluster, known since its bootstrap.
    pub cluster_id: Option<u64>,
    /// The store, known since the scheduler gave it an id.
    pub store_id: Option<u64>,
    /// 1 or 2, fixed when the cluster is bootstrapped.
    pub api_version: Option<u32>,
}

/// An open data directory. The lock is held until this is dropped, which must be after its engines.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    /// The manifest as it is on disk; changed only by replacing the file first.
    manifest: Mutex<Manifest>,
    _lock: File,
}

impl DataDirectory {
    /// Opens `path` for `purpose`, creating it if nothing is there.
    pub fn open(path: &Path, purpose: Purpose) -> Result<DataDirectory> {
        create(path)?;
        let lock = lock(path)?;
        let file = path.join(MANIFEST);
        let manifest = match fs::read(&file) {
            Ok(bytes) => Manifest::decode(&bytes, &file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => begin(path, purpose)?,
            Err(error) => return Err(failed(&file, error)),
        };
        check_purpose(path, &manifest, purpose)?;
        settle_data(path, &manifest)?;
        owner::check(path, &manifest.identity)?;
        Ok(DataDirectory { path: path.to_path_buf(), manifest: Mutex::new(manifest), _lock: lock })
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the data engine lives; exists.
    pub fn data_path(&self) -> PathBuf {
        self.path.join("data")
    }

    /// What the directory is at this moment.
    pub fn manifest(&self) -> Manifest {
        // A poisoned manifest is whole: it is replaced by one assignment.
        self.manifest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records the parts of `identity` that are known; called when the data engine has been opened, because
    /// from then on a start without its files is refused. A part that was recorded before must be the same:
    /// otherwise the directory belongs to something else, and the answer says to what.
    pub fn set_identity(&self, identity: Identity) -> Result<()> {
        let mut manifest = self.manifest();
        let known = manifest.identity;
        let merged = Identity {
            cluster_id: self.agree(known.cluster_id, identity.cluster_id, |known, wanted| {
                format!(
                    "it belongs to cluster {known}, the scheduler says {wanted}; start the scheduler of \
                     that cluster, or choose another --data-dir"
                )
            })?,
            store_id: self.agree(known.store_id, identity.store_id, |known, wanted| {
                format!("it belongs to store {known}, not to store {wanted}; choose another --data-dir")
            })?,
            api_version: self.agree(known.api_version, identity.api_version, |known, wanted| {
                format!(
                    "it was bootstrapped with API version {known} and that cannot change to {wanted}; \
                     start with --api-version {known}, or choose another --data-dir"
                )
            })?,
        };
        if merged == known {
            return Ok(());
        }
        owner::write(&self.path, &merged)?;
        manifest.identity = merged;
        self.replace_manifest(manifest)
    }

    /// Opens the raft log in the engine that the configuration wants, moving it there first if it lies in
    /// the other one. Only for directories of replicated stores.
    pub fn open_log(
        &self,
        raft_engine: &RaftEngineConfig,
        rocks: &RocksConfig,
    ) -> Result<Arc<dyn LogEngine>> {
        migrate::open(self, &migrate::Opener { raft_engine, rocks }, &mut |_| Ok(()))
    }

    /// Where the log of `kind` lives.
    fn log_path(&self, kind: LogKind) -> PathBuf {
        self.path.join("raft").join(kind.directory_name())
    }

    fn replace_manifest(&self, manifest: Manifest) -> Result<()> {
        write_manifest(&self.path, &manifest)?;
        *self.manifest.lock().unwrap_or_else(PoisonError::into_inner) = manifest;
        Ok(())
    }

    /// What is known after `wanted` was heard of, unless the two contradict each other.
    fn agree<T: Copy + PartialEq>(
        &self,
        known: Option<T>,
        wanted: Option<T>,
        contradiction: impl FnOnce(T, T) -> String,
    ) -> Result<Option<T>> {
        match (known, wanted) {
            (Some(known), Some(wanted)) if known != wanted => {
                Err(mismatch(&self.path, contradiction(known, wanted)))
            }
            (known, wanted) => Ok(known.or(wanted)),
        }
    }
}

/// Makes the directory, and sure that files can be made in it.
fn create(path: &Path) -> Result<()> {
    files::create_directory(path).map_err(|error| failed(path, error))?;
    let listed = fs::read_dir(path).and_then(|mut entries| entries.next().transpose());
    listed.map_err(|error| failed(path, error))?;
    let probe = files::unfinished(&path.join(MANIFEST));
    let probed = File::create(&probe).and_then(|_| fs::remove_file(&probe));
    probed.map_err(|error| failed(path, error))
}

/// Takes the lock, which the operating system gives back when the process ends in whatever way.
fn lock(path: &Path) -> Result<File> {
    let name = path.join(LOCK);
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&name);
    let file = opened.map_err(|error| failed(&name, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::DirectoryLocked(path.to_path_buf())),
        Err(TryLockError::Error(error)) => Err(failed(&name, error)),
    }
}

/// Makes an empty directory ours. One that holds engines but no manifest has lost it.
fn begin(path: &Path, purpose: Purpose) -> Result<Manifest> {
    if let Some(name) = ["data", "raft"].into_iter().find(|name| path.join(name).exists()) {
        let reason = format!(
            "it holds {name}/ but no {MANIFEST}; put that file back from a copy, or choose another --data-dir"
        );
        return Err(mismatch(path, reason));
    }
    let Purpose { kind, mode, log } = purpose;
    let manifest = Manifest { kind, mode, log, identity: Identity::default() };
    write_manifest(path, &manifest)?;
    Ok(manifest)
}

fn write_manifest(directory: &Path, manifest: &Manifest) -> Result<()> {
    let file = directory.join(MANIFEST);
    files::replace_file(&file, &manifest.encode()).map_err(|error| failed(&file, error))
}

fn check_purpose(path: &Path, manifest: &Manifest, purpose: Purpose) -> Result<()> {
    let name = |kind| match kind {
        Kind::Scheduler => "a scheduler",
        Kind::Store => "a store",
    };
    if manifest.kind != purpose.kind {
        let (is, wanted) = (name(manifest.kind), name(purpose.kind));
        return Err(mismatch(
            path,
            format!("it belongs to {is}, not to {wanted}; choose another --data-dir"),
        ));
    }
    match (manifest.mode, purpose.mode) {
        (Mode::Standalone, Mode::Replicated) => Err(mismatch(
            path,
            "it was made with --standalone and has no raft log to replicate; keep --standalone, or \
             choose another --data-dir"
                .to_string(),
        )),
        (Mode::Replicated, Mode::Standalone) => Err(mismatch(
            path,
            "it is one replica of a cluster, and writing to it alone would make it differ from the \
             others; start without --standalone, or choose another --data-dir"
                .to_string(),
        )),
        (Mode::Standalone, Mode::Standalone) | (Mode::Replicated, Mode::Replicated) => Ok(()),
    }
}

/// Makes sure of `data/`. A directory with an identity was used, and then its data engine has a `CURRENT`
/// file. Without an identity nothing was ever promised: what a first start that was interrupted left
/// half-made begins anew.
fn settle_data(path: &Path, manifest: &Manifest) -> Result<()> {
    let data = path.join("data");
    if data.join("CURRENT").exists() {
        return Ok(());
    }
    if manifest.identity == Identity::default() {
        let anew = files::remove_directory(&data).and_then(|()| files::create_directory(&data));
        return anew.map_err(|error| failed(&data, error));
    }
    let current = data.join("CURRENT");
    Err(Error::Damaged {
        what: data.display().to_string(),
        reason: format!(
            "{} is missing although {MANIFEST} says that the directory was used; put it back from a copy, \
             or choose another --data-dir",
            current.display()
        ),
    })
}

/// An input or output error: a full disk is told from an unusable directory.
fn failed(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::DiskFull { path: path.to_path_buf(), reason: error.to_string() }
        }
        _ => Error::directory(path, error),
    }
}

fn mismatch(path: &Path, reason: String) -> Error {
    Error::DirectoryMismatch { path: path.to_path_buf(), reason }
}

#[cfg(test)]
mod tests;
