//! Holes in RocksDB's write-ahead logs.
//!
//! What was not synced when power fails may reach the disk in any order: a page is missing, and reads as zeros, while
//! pages behind it are there. RocksDB is to stop at the first record that is not whole. But it takes a record of
//! zeros for space that was allocated ahead: it skips the rest of that block, and goes on with the next one if that
//! happens to begin with a new record. What was written in between is then lost *from the middle*: a batch is missing
//! whose successors are there. No replica may lose that: it would say that it has applied what it has not.
//!
//! So before RocksDB looks, [`drop_holes`]
//!
//! 1. follows the records of each log, the oldest first, up to the first that has neither length nor kind;
//! 2. if anything else than zeros is there or behind it, cuts the file in front of it, and removes the younger logs.
//!
//! **Invariant.** Nothing that was synced goes: a sync of any log makes all that came before it durable, so behind a
//! hole nothing is.
//!
//! What it does not do: records that are wrong in another way are left to RocksDB, which stops at them. An older log
//! that ends too early, at the end of a record, is not found: it would take a loss of power between the beginning of
//! a new log and the sync of the old one, which RocksDB does before it relies on the new one's order.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Records are cut where a block ends.
const BLOCK: usize = 32 << 10;
/// Before each record: a checksum, the length and the kind.
const HEADER: usize = 7;

/// Takes what lies behind a hole away from the logs of the database in `directory`.
pub(crate) fn drop_holes(directory: &Path) -> Result<()> {
    let mut has_hole = false;
    for path in logs(directory) {
        let mut change = || -> std::io::Result<()> {
            if has_hole {
                return fs::remove_file(&path);
            }
            if let Some(length) = hole_in(&fs::read(&path)?) {
                has_hole = true;
                let file = File::options().write(true).open(&path)?;
                file.set_len(length as u64)?;
                file.sync_all()?;
            }
            Ok(())
        };
        change().map_err(|error| Error::directory(&path, error))?;
    }
    Ok(())
}

/// The write-ahead logs, the oldest first. A directory that cannot be read is left to RocksDB and its words.
fn logs(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path());
    let number = |path: &PathBuf| -> Option<u64> {
        let is_log = path.extension().is_some_and(|ending| ending == "log");
        path.file_stem()?.to_str()?.parse().ok().filter(|_| is_log)
    };
    let mut logs: Vec<(u64, PathBuf)> =
        paths.filter_map(|path| Some((number(&path)?, path))).collect();
    logs.sort();
    logs.into_iter().map(|(_, path)| path).collect()
}

/// Where the first record begins that has neither length nor kind, if anything but zeros is there or behind it.
fn hole_in(bytes: &[u8]) -> Option<usize> {
    let mut position = 0;
    while position < bytes.len() {
        let block_end = (position / BLOCK + 1) * BLOCK;
        // Too little room for a record: the writer fills it with zeros.
        if block_end - position < HEADER {
            position = block_end;
            continue;
        }
        let header = bytes.get(position..position + HEADER)?;
        // RocksDB looks at length and kind alone: a page may begin in the middle of a checksum.
        if header[4..] == [0, 0, 0] {
            let is_hole = bytes[position..].iter().any(|byte| *byte != 0);
            return is_hole.then_some(position);
        }
        position += HEADER + usize::from(u16::from_le_bytes([header[4], header[5]]));
        if position > block_end {
            // No record is as long as this one says: RocksDB stops here.
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use rocksdb::{DB, DBRecoveryMode, Options};
    use tempfile::TempDir;

    use super::*;

    /// A log of two blocks, as a process that was killed leaves it: records that end with the first block exactly.
    fn killed() -> (TempDir, PathBuf) {
        let home = tempfile::tempdir().expect("a directory");
        let mut options = options();
        options.create_if_missing(true);
        let database = DB::open(&options, home.path()).expect("opens");
        // With what a batch and a put add, a record of 512 bytes.
        let value = vec![b'v'; 512 - HEADER - 12 - 1 - 1 - 4 - 2];
        for number in 0..100 {
            database.put(format!("{number:04}"), &value).expect("puts");
        }
        let copy = tempfile::tempdir().expect("a directory");
        for entry in fs::read_dir(home.path()).expect("lists") {
            let path = entry.expect("an entry").path();
            fs::copy(&path, copy.path().join(path.file_name().expect("a name"))).expect("copies");
        }
        let log = logs(copy.path()).pop().expect("a log");
        let bytes = fs::read(&log).expect("reads");
        assert_eq!(&bytes[BLOCK + HEADER + 12..][..8], b"\x01\x040064\xe5\x03", "records fit");
        (copy, log)
    }

    fn options() -> Options {
        let mut options = Options::default();
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        options
    }

    fn found(home: &Path) -> Vec<usize> {
        let database = DB::open(&options(), home).expect("opens");
        let has = |number: &usize| database.get(format!("{number:04}")).expect("gets").is_some();
        (0..100).filter(has).collect()
    }

    /// What lies between `begin` and the next page did not reach the disk, all others did.
    fn lose_a_page(log: &Path, begin: usize) {
        let mut bytes = fs::read(log).expect("reads");
        bytes[begin..8192].fill(0);
        fs::write(log, bytes).expect("writes");
    }

    #[test]
    fn rocksdb_alone_loses_what_is_in_the_middle() {
        for begin in [4096, 4096 + 3] {
            let (home, log) = killed();
            lose_a_page(&log, begin);
            let found = found(home.path());
            assert!(found.contains(&99) && !found.contains(&10), "{found:?}");
        }
    }

    #[test]
    fn behind_a_hole_nothing_is_left() {
        for begin in [4096, 4096 + 3] {
            let (home, log) = killed();
            lose_a_page(&log, begin);
            fs::write(home.path().join("999999.log"), "younger").expect("writes");
            drop_holes(home.path()).expect("cuts");
            assert_eq!(fs::metadata(&log).expect("a log").len(), 4096);
            assert!(!home.path().join("999999.log").exists());
            assert_eq!(found(home.path()), (0..8).collect::<Vec<_>>());
        }
    }

    #[test]
    fn space_allocated_ahead_and_whole_logs_are_left_alone() {
        let (home, log) = killed();
        let whole = fs::read(&log).expect("reads");
        let mut longer = whole.clone();
        longer.resize(whole.len() + 100_000, 0);
        for bytes in [whole, longer] {
            fs::write(&log, &bytes).expect("writes");
            drop_holes(home.path()).expect("looks");
            assert_eq!(fs::read(&log).expect("reads"), bytes);
        }
        assert_eq!(found(home.path()).len(), 100);
    }
}
