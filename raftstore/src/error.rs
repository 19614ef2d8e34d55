//! What can go wrong in the store, arranged by who must act.
//!
//! * **The operator** must act on everything that concerns the data directory: its message says what
//!   was found, where, and what to do about it. The process has not started and nothing was changed.
//! * **The other store** must send again what came from it and cannot be taken. Nothing is harmed here.
//! * **Nobody can act** on a failed write or a damaged file: below raft an error is either a
//!   deterministic refusal or fatal, and there are no refusals in an engine. The caller ends the process
//!   (see [`crate::time::fatal`]); nothing is retried over a broken disk.

use std::path::{Path, PathBuf};

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// One error of the store. Display is a full sentence fit for a terminal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Operator: another process has the directory open.
    #[error("{} is in use by another process; stop that one first or choose another --data-dir", .0.display())]
    DirectoryLocked(PathBuf),

    /// Operator: the directory cannot be created, read or written.
    #[error("cannot use {}: {reason}", .path.display())]
    DirectoryUnusable {
        /// The directory or the file in it.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },

    /// Operator: the directory belongs to something else (format, engine, mode, cluster).
    #[error("{} cannot be opened: {reason}", .path.display())]
    DirectoryMismatch {
        /// The data directory.
        path: PathBuf,
        /// What it is, what was wanted, and what to do.
        reason: String,
    },

    /// Operator: a setting is out of its range or contradicts another.
    #[error("configuration: {0}")]
    Config(String),

    /// Other store: a snapshot that arrives is not what was announced, or cannot be taken here.
    #[error("{what} is refused: {reason}")]
    SnapshotRefused {
        /// The snapshot or its file.
        what: String,
        /// What was expected and what came.
        reason: String,
    },

    /// Fatal: no space is left for a write. Nothing acknowledged is harmed.
    #[error("the disk under {} is full: {reason}; free some space and start again, nothing acknowledged is lost", .path.display())]
    DiskFull {
        /// Where the write went.
        path: PathBuf,
        /// What the engine said.
        reason: String,
    },

    /// Fatal: bytes on disk are not what was written there.
    #[error("{what} is damaged: {reason}")]
    Damaged {
        /// File, region or record.
        what: String,
        /// What was expected and what was found.
        reason: String,
    },

    /// Fatal: an engine failed in a way that says nothing about why.
    #[error("{operation} failed: {reason}")]
    Engine {
        /// What was being done.
        operation: &'static str,
        /// What the engine said.
        reason: String,
    },
}

impl Error {
    /// An input or output error met while preparing `path`, before anything was opened.
    pub fn directory(path: &Path, error: std::io::Error) -> Error {
        Error::DirectoryUnusable { path: path.to_path_buf(), reason: error.to_string() }
    }

    /// An engine failure during `operation` under `path`; recognises a full disk by its message, which
    /// is all that RocksDB and raft-engine pass on.
    pub fn engine(operation: &'static str, path: &Path, error: impl std::fmt::Display) -> Error {
        let reason = error.to_string();
        if reason.contains("No space left") || reason.contains("Disk quota exceeded") {
            return Error::DiskFull { path: path.to_path_buf(), reason };
        }
        if reason.contains("Corruption") {
            return Error::Damaged { what: path.display().to_string(), reason };
        }
        Error::Engine { operation, reason }
    }
}
