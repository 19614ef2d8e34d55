//! The torn end of RocksDB's manifest.
//!
//! RocksDB opens a manifest that ends too early, as it should: nothing relies on a record before it was
//! synced. But it refuses one that has its new length already and not yet all of its bytes, which ext4 leaves
//! when power fails between the writing of a record and its sync. [`drop_torn_end`] takes that end away
//! before RocksDB looks:
//!
//! 1. records are followed and their checksums computed, up to the first that is not whole;
//! 2. if a whole sector of it is zeros, it was torn: disks write sectors, and a file that has grown reads as
//!    zeros where nothing was written yet;
//! 3. then the file is cut in front of it, and synced.
//!
//! **Invariant.** Nothing but the mark of an unfinished write is taken for one: a record that is wrong in
//! another way was synced and has rotted since. It stays, and RocksDB refuses the directory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Records are cut where a block ends.
const BLOCK: usize = 32 << 10;
/// Before each record: a checksum, the length and the kind.
const HEADER: usize = 7;
/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// Takes what power loss left of a last write to the manifest of the database in `directory` away. A directory
/// without a manifest, or with one that cannot be read, is left to RocksDB and its words.
pub(crate) fn drop_torn_end(directory: &Path) -> Result<()> {
    let Some(path) = current(directory) else { return Ok(()) };
    let Ok(bytes) = fs::read(&path) else { return Ok(()) };
    let Some(length) = torn_at(&bytes) else { return Ok(()) };
    let cut = || -> std::io::Result<()> {
        let file = File::options().write(true).open(&path)?;
        file.set_len(length as u64)?;
        file.sync_all()
    };
    cut().map_err(|error| Error::directory(&path, error))
}

fn current(directory: &Path) -> Option<PathBuf> {
    let name = fs::read_to_string(directory.join("CURRENT")).ok()?;
    Some(directory.join(name.strip_suffix('\n')?))
}

/// Where the first record begins that a power cut has torn.
fn torn_at(bytes: &[u8]) -> Option<usize> {
    let mut position = 0;
    while position < bytes.len() {
        let block_end = (position / BLOCK + 1) * BLOCK;
        if block_end - position < HEADER {
            position = block_end;
            continue;
        }
        let end = record_end(bytes, position);
        if !is_whole(&bytes[position..end.min(bytes.len())]) {
            return has_blank_sector(bytes, position, end).then_some(position);
        }
        position = end;
    }
    None
}

/// Where the record that begins at `position` ends, if its length can be believed.
fn record_end(bytes: &[u8], position: usize) -> usize {
    let length = |at: usize| bytes.get(at).copied().unwrap_or(0);
    let payload = u16::from_le_bytes([length(position + 4), length(position + 5)]);
    position + HEADER + usize::from(payload)
}

fn is_whole(record: &[u8]) -> bool {
    let Some((header, _)) = record.split_first_chunk::<HEADER>() else { return false };
    let [a, b, c, d, low, high, kind] = *header;
    let complete = record.len() == HEADER + usize::from(u16::from_le_bytes([low, high]));
    // RocksDB disguises checksums, because checksums of checksums are weak.
    let checksum = crc32c::crc32c(&record[HEADER - 1..]).rotate_right(15).wrapping_add(0xA282_EAD8);
    kind != 0 && complete && checksum == u32::from_le_bytes([a, b, c, d])
}

/// Whether a sector, or the part of one that belongs to `begin..end`, is zeros and nothing else.
fn has_blank_sector(bytes: &[u8], begin: usize, end: usize) -> bool {
    let mut from = begin;
    while from < end.min(bytes.len()) {
        let to = ((from / SECTOR + 1) * SECTOR).min(end).min(bytes.len());
        if bytes[from..to].iter().all(|byte| *byte == 0) {
            return true;
        }
        from = to;
    }
    false
}

#[cfg(test)]
mod tests {
    use rocksdb::{DB, Options};
    use tempfile::TempDir;

    use super::*;

    /// A database whose manifest was written record by record, and its manifest.
    fn database() -> (TempDir, PathBuf) {
        let home = tempfile::tempdir().expect("a directory");
        let mut options = Options::default();
        options.create_if_missing(true);
        let database = DB::open(&options, home.path()).expect("opens");
        for number in 0..8 {
            // A file's bounds are in its record, which makes it longer than a sector.
            let key = [format!("{number}").into_bytes(), vec![b'k'; 600]].concat();
            database.put(key, "value").expect("puts");
            database.flush().expect("flushes");
        }
        drop(database);
        let path = current(home.path()).expect("a manifest");
        (home, path)
    }

    fn refused(home: &TempDir) -> bool {
        DB::open(&Options::default(), home.path()).is_err()
    }

    /// Where records begin and end.
    fn records(bytes: &[u8]) -> Vec<(usize, usize)> {
        let (mut records, mut position) = (Vec::new(), 0);
        while position < bytes.len() {
            let end = record_end(bytes, position);
            records.push((position, end));
            position = end;
        }
        records
    }

    /// Where the last record begins.
    fn last_record(bytes: &[u8]) -> usize {
        records(bytes).last().expect("a manifest has records").0
    }

    #[test]
    fn a_record_with_sectors_that_were_never_written_is_dropped_and_the_database_opens() {
        let (home, path) = database();
        let mut whole = fs::read(&path).expect("reads");
        assert_eq!(torn_at(&whole), None, "nothing is taken from a manifest that is whole");
        // The last record that goes on in another sector; RocksDB may have written short ones behind it.
        let next_sector = |begin: usize| (begin / SECTOR + 1) * SECTOR;
        let is_long = |record: &(usize, usize)| next_sector(record.0) < record.1;
        let (last, end) = records(&whole).into_iter().rfind(is_long).expect("one is long");
        whole.truncate(end);
        let mut torn = whole.clone();
        torn[next_sector(last)..].fill(0);
        torn.resize(whole.len() + 5_000, 0);
        fs::write(&path, &torn).expect("writes");
        assert!(refused(&home), "RocksDB opens it by itself: this module can go");
        drop_torn_end(home.path()).expect("cuts");
        assert_eq!(fs::read(&path).expect("reads"), whole[..last]);
        drop_torn_end(home.path()).expect("again");
        assert_eq!(fs::metadata(&path).expect("there").len(), last as u64);
    }

    #[test]
    fn a_length_without_any_bytes_is_dropped() {
        let (home, path) = database();
        let whole = fs::read(&path).expect("reads");
        fs::write(&path, [&whole[..], &[0; 700]].concat()).expect("writes");
        drop_torn_end(home.path()).expect("cuts");
        assert_eq!(fs::read(&path).expect("reads"), whole);
        assert!(!refused(&home));
    }

    #[test]
    fn a_record_that_rotted_stays_and_is_refused() {
        let (home, path) = database();
        let whole = fs::read(&path).expect("reads");
        for position in [last_record(&whole) + HEADER + 3, last_record(&whole) + 1, 40] {
            let mut rotten = whole.clone();
            rotten[position] ^= 0x10;
            fs::write(&path, &rotten).expect("writes");
            drop_torn_end(home.path()).expect("looks");
            assert_eq!(fs::read(&path).expect("reads"), rotten);
            assert!(refused(&home), "a flipped bit at {position}");
        }
    }

    #[test]
    fn a_directory_without_a_manifest_is_left_alone() {
        let home = tempfile::tempdir().expect("a directory");
        drop_torn_end(home.path()).expect("an empty one");
        fs::write(home.path().join("CURRENT"), "MANIFEST-000007\n").expect("writes");
        drop_torn_end(home.path()).expect("one that lost it");
    }
}
