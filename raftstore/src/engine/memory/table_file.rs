//! The memory engine's table file: written in key order, checked whole by a CRC when it is read.
//!
//! ```text
//! "skrytab1"                                          8 bytes
//! record: kind 1 byte, two lengths of 4 bytes, the two parts    (0 or more)
//!     kind 1: remove from the first part up to but without the second; only as the first record
//!     kind 2: key and value, keys ascending strictly
//! CRC-32 of all the above                             4 bytes
//! ```
//!
//! Integers are little-endian but for the CRC, which is big-endian: with its own CRC behind it in the other order
//! every file would have the same CRC as a whole, and whoever keeps that to compare would compare nothing.
//! Checkpoints are made of the same files, one for each family.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes};

use super::ordered_map::Pair;
use crate::engine::{KEYS_END, KeyRange, TableWriter};
use crate::{Error, Result};

const MAGIC: &[u8] = b"skrytab1";
const CRC_BYTES: usize = 4;
const DELETE_RANGE: u8 = 1;
const PAIR: u8 = 2;

/// Writes one file.
pub(super) struct MemoryTableWriter {
    path: PathBuf,
    file: BufWriter<File>,
    hasher: crc32fast::Hasher,
    /// Bytes written so far.
    size: u64,
    /// Records written so far.
    records: u64,
    /// The key that the next one must exceed.
    last_key: Option<Vec<u8>>,
}

impl MemoryTableWriter {
    pub(super) fn create(path: &Path) -> Result<MemoryTableWriter> {
        let file = File::create(path).map_err(|error| failed(path, error))?;
        let mut writer = MemoryTableWriter {
            path: path.to_path_buf(),
            file: BufWriter::new(file),
            hasher: crc32fast::Hasher::new(),
            size: 0,
            records: 0,
            last_key: None,
        };
        writer.append(MAGIC)?;
        Ok(writer)
    }

    /// Syncs and closes the file, which may be empty.
    pub(super) fn close(mut self) -> Result<u64> {
        let crc = self.hasher.clone().finalize();
        self.append(&crc.to_be_bytes())?;
        let file = self.file.into_inner().map_err(|error| failed(&self.path, error.error()))?;
        file.sync_all().map_err(|error| failed(&self.path, error))?;
        Ok(self.size)
    }

    fn record(&mut self, kind: u8, first: &[u8], second: &[u8]) -> Result<()> {
        let length = |part: &[u8]| {
            let length = u32::try_from(part.len()).map_err(|_| failed(&self.path, "part too long"));
            length.map(u32::to_le_bytes)
        };
        let (first_length, second_length) = (length(first)?, length(second)?);
        self.records += 1;
        self.append(&[kind])?;
        self.append(&first_length)?;
        self.append(&second_length)?;
        self.append(first)?;
        self.append(second)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|error| failed(&self.path, error))
    }
}

impl TableWriter for MemoryTableWriter {
    fn delete_range(&mut self, range: &KeyRange) -> Result<()> {
        assert!(self.records == 0, "a table removes at most one range, before its first pair");
        self.record(DELETE_RANGE, &range.start, range.end_or_last())
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        assert!(!key.starts_with(KEYS_END), "key {key:?} is above the end of all keys");
        if self.last_key.as_deref().is_some_and(|last| key <= last) {
            return Err(failed(&self.path, "keys of a table must ascend"));
        }
        let last = self.last_key.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
        self.record(PAIR, key, value)
    }

    fn finish(self: Box<Self>) -> Result<u64> {
        if self.records == 0 {
            return Err(failed(&self.path, "a table must hold something"));
        }
        self.close()
    }
}

/// What a table file holds.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// To be removed before the pairs are added.
    pub(super) deleted: Option<KeyRange>,
    /// In ascending order of keys.
    pub(super) pairs: Vec<Pair>,
}

impl Table {
    /// Reads and checks a file; keys and values share its one buffer.
    pub(super) fn read(path: &Path) -> Result<Table> {
        let bytes = std::fs::read(path).map_err(|error| failed(path, error))?;
        Table::decode(bytes.into()).map_err(|reason| Error::Damaged {
            what: path.display().to_string(),
            reason: reason.to_string(),
        })
    }

    fn decode(mut bytes: Bytes) -> std::result::Result<Table, &'static str> {
        if bytes.len() < MAGIC.len() + CRC_BYTES || !bytes.starts_with(MAGIC) {
            return Err("it is not a table file");
        }
        let mut crc = bytes.split_off(bytes.len() - CRC_BYTES);
        if crc.get_u32() != crc32fast::hash(&bytes) {
            return Err("its checksum is wrong");
        }
        bytes.advance(MAGIC.len());
        let mut table = Table::default();
        while bytes.has_remaining() {
            let kind = bytes.try_get_u8().map_err(|_| "it ends early")?;
            let first = bytes.try_get_u32_le().map_err(|_| "it ends early")? as usize;
            let second = bytes.try_get_u32_le().map_err(|_| "it ends early")? as usize;
            if bytes.remaining() < first + second {
                return Err("it ends early");
            }
            let (first, second) = (bytes.split_to(first), bytes.split_to(second));
            match kind {
                DELETE_RANGE => table.deleted = Some(KeyRange::new(first, second)),
                PAIR => table.pairs.push((first, second)),
                _ => return Err("it has a record of an unknown kind"),
            }
        }
        Ok(table)
    }
}

fn failed(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::engine("a table file", path, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("table");
        let mut writer = Box::new(MemoryTableWriter::create(&path).expect("create"));
        writer.delete_range(&KeyRange::new("a", "z")).expect("delete_range");
        writer.put(b"b", b"1").expect("put");
        writer.put(b"c", b"").expect("put");
        let size = writer.finish().expect("finish");
        assert_eq!(size, std::fs::metadata(&path).expect("metadata").len());
        (directory, path)
    }

    #[test]
    fn a_table_comes_back_as_it_was_written() {
        let (_directory, path) = written();
        let table = Table::read(&path).expect("read");
        assert_eq!(table.deleted, Some(KeyRange::new("a", "z")));
        assert_eq!(table.pairs, [("b".into(), "1".into()), ("c".into(), Bytes::new())]);
    }

    #[test]
    fn the_checksum_of_a_whole_file_depends_on_what_is_in_it() {
        let (_directory, path) = written();
        let good = std::fs::read(&path).expect("read");
        let end = good.len() - CRC_BYTES;
        let mut other = good.clone();
        other[end - 1] ^= 1;
        let crc = crc32fast::hash(&other[..end]);
        other[end..].copy_from_slice(&crc.to_be_bytes());
        assert!(Table::decode(other.clone().into()).is_ok(), "another file, good in itself");
        assert_ne!(crc32fast::hash(&good), crc32fast::hash(&other));
    }

    #[test]
    fn no_changed_byte_and_no_missing_end_goes_unnoticed() {
        let (_directory, path) = written();
        let good = std::fs::read(&path).expect("read");
        for place in 0..good.len() {
            let mut bad = good.clone();
            bad[place] ^= 0x40;
            assert!(Table::decode(bad.into()).is_err(), "byte {place} changed");
            assert!(Table::decode(good[..place].to_vec().into()).is_err(), "cut at {place}");
        }
    }
}
