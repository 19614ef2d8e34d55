//! How a snapshot lies on disk: names of files, the file that lists them, and what makes a list acceptable.
//!
//! ```text
//! gen_<region>_<term>_<index>_<family>.sst       the first part of a family
//! gen_<region>_<term>_<index>_<family>_<n>.sst   its second and third one, n from 2 (of raw pairs alone)
//! gen_<region>_<term>_<index>.meta               the list; written last
//! ```
//!
//! A received snapshot has `rev` for `gen`. What is still being written ends in `.tmp` in addition, and a table
//! on its way into an engine may have a second name ending in `.ingest`.
//!
//! The list is an encoded `raft_serverpb.RaftSnapshotData`, the same that raft carries to the receiver, followed by
//! its CRC-32 (4 bytes, little-endian). It names the files by family and order only, so no list can point
//! out of the directory. They ascend, families in the order of [`ColumnFamily::DATA`]. A part of the region that holds
//! nothing has no table: the receiver clears what it has there itself.

use std::fs;
use std::path::{Path, PathBuf};

use prost::Message as _;
use skerry_proto::metapb;
use skerry_proto::raft_serverpb::{RaftSnapshotData, SnapshotCfFile, SnapshotMeta};

use super::{Side, SnapshotId, disk};
use crate::engine::files::unfinished;
use crate::engine::{ColumnFamily, KeyRange};
use crate::keys::DataSpace;
use crate::{Error, Result};

/// The version of everything said above. Another one is refused: its tables might not clear their ranges.
pub const VERSION: u64 = 2;

/// Length of the checksum behind the list.
const CRC_BYTES: usize = 4;

/// Endings that a name may have besides its own.
const PASSING_ENDINGS: [&str; 2] = [".tmp", ".ingest"];

/// One line of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// The family it is loaded into.
    pub(super) family: ColumnFamily,
    /// Which part of the family it is, from 1.
    pub(super) number: usize,
    /// Length of the file.
    pub(super) size: u64,
    /// CRC-32 of the whole file.
    pub(super) checksum: u32,
}

impl Table {
    /// Says what is wrong with a file of this size and checksum.
    pub(super) fn compare(&self, size: u64, checksum: u32) -> std::result::Result<(), String> {
        if size != self.size {
            return Err(format!("it has {size} bytes of {}", self.size));
        }
        if checksum != self.checksum {
            let expected = self.checksum;
            return Err(format!("its checksum is {checksum:08x} instead of {expected:08x}"));
        }
        Ok(())
    }
}

/// What a region consists of: family, number within the family, range. Family `raw` has three parts, because a
/// table removes one range and the region has one in each of three spaces, with other regions between them.
pub(super) fn parts(region: &metapb::Region) -> Vec<(ColumnFamily, usize, KeyRange)> {
    let range = |space: DataSpace| {
        let (start, end) = space.range(&region.start_key, &region.end_key);
        let range = KeyRange::new(start, end);
        assert!(!range.is_empty(), "a region without room for a key: {region}");
        range
    };
    let mut parts = Vec::new();
    for family in ColumnFamily::DATA {
        if family == ColumnFamily::Raw {
            let mut ranges = DataSpace::ALL.map(range);
            ranges.sort_by(|left, right| left.start.cmp(&right.start));
            let numbered = ranges.into_iter().zip(1..);
            parts.extend(numbered.map(|(range, number)| (family, number, range)));
        } else {
            parts.push((family, 1, range(DataSpace::Main)));
        }
    }
    parts
}

/// How many parts a family has.
fn parts_of(family: ColumnFamily) -> usize {
    if family == ColumnFamily::Raw { DataSpace::ALL.len() } else { 1 }
}

/// The name of a part, in file names and in the list.
fn part_name(family: ColumnFamily, number: usize) -> String {
    match number {
        1 => family.to_string(),
        _ => format!("{family}_{number}"),
    }
}

/// The part of this name; nothing for names that are not made here.
fn part_of(name: &str) -> Option<(ColumnFamily, usize)> {
    let families = ColumnFamily::DATA.into_iter();
    let mut all = families.flat_map(|family| (1..=parts_of(family)).map(move |it| (family, it)));
    all.find(|(family, number)| part_name(*family, *number) == name)
}

/// Where a table lies.
pub(super) fn table_path(
    directory: &Path,
    side: Side,
    id: SnapshotId,
    family: ColumnFamily,
    number: usize,
) -> PathBuf {
    directory.join(format!("{}_{id}_{}.sst", side.prefix(), part_name(family, number)))
}

/// Where the list lies.
pub(super) fn meta_path(directory: &Path, side: Side, id: SnapshotId) -> PathBuf {
    directory.join(format!("{}_{id}.meta", side.prefix()))
}

/// The snapshot that a file of this name belongs to; nothing for names that are not made here.
pub(super) fn owner_of(name: &str) -> Option<(SnapshotId, Side)> {
    let finished = PASSING_ENDINGS.iter().find_map(|ending| name.strip_suffix(ending));
    let (prefix, rest) = finished.unwrap_or(name).split_once('_')?;
    let side = [Side::Sender, Side::Receiver].into_iter().find(|side| side.prefix() == prefix)?;
    let (region_id, rest) = number(rest)?;
    let (term, rest) = number(rest.strip_prefix('_')?)?;
    let (index, rest) = number(rest.strip_prefix('_')?)?;
    let id = SnapshotId { region_id, term, index };
    if rest == ".meta" {
        return Some((id, side));
    }
    part_of(rest.strip_prefix('_')?.strip_suffix(".sst")?).map(|_| (id, side))
}

/// The number that `text` begins with, as this file would have printed it, and what follows.
fn number(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    let value: u64 = number.parse().ok()?;
    (value.to_string() == number).then_some((value, rest))
}

/// The list of these tables, as raft carries it.
pub(super) fn list(region: &metapb::Region, tables: &[Table]) -> RaftSnapshotData {
    let line = |table: &Table| SnapshotCfFile {
        cf: part_name(table.family, table.number),
        size: table.size,
        checksum: table.checksum,
    };
    let meta =
        SnapshotMeta { cf_files: tables.iter().map(line).collect(), ..SnapshotMeta::default() };
    RaftSnapshotData {
        region: Some(region.clone()),
        file_size: tables.iter().map(|table| table.size).sum(),
        version: VERSION,
        meta: Some(meta),
    }
}

/// The tables that a list names, or why it is not acceptable. Everything that comes from another store or
/// from disk goes through this.
pub(super) fn tables(
    id: SnapshotId,
    data: &RaftSnapshotData,
) -> std::result::Result<Vec<Table>, String> {
    if data.version != VERSION {
        return Err(format!("it has format version {}, known here is {VERSION}", data.version));
    }
    let region_id = data.region.as_ref().map(|region| region.id);
    if region_id != Some(id.region_id) {
        return Err(format!("it is of region {region_id:?} instead of {}", id.region_id));
    }
    let lines = data.meta.as_ref().map(|meta| &meta.cf_files[..]).unwrap_or_default();
    let mut tables: Vec<Table> = Vec::with_capacity(lines.len());
    let mut total = 0_u64;
    for line in lines {
        let (family, number) = part_of(&line.cf).ok_or_else(|| {
            format!("it has a file of {:?}, which is no part of a region", line.cf)
        })?;
        if line.size == 0 {
            return Err(format!("its file of {} is empty", line.cf));
        }
        total = total.checked_add(line.size).ok_or("its size is beyond all bounds")?;
        tables.push(Table { family, number, size: line.size, checksum: line.checksum });
    }
    if total != data.file_size {
        return Err(format!("its files have {total} bytes instead of {}", data.file_size));
    }
    let place = |table: &Table| {
        (ColumnFamily::DATA.iter().position(|family| *family == table.family), table.number)
    };
    if !tables.is_sorted_by(|one, next| place(one) < place(next)) {
        return Err("its files do not ascend".to_string());
    }
    Ok(tables)
}

/// The bytes of the list's file.
pub(super) fn encode_list(data: &RaftSnapshotData) -> Vec<u8> {
    let mut bytes = data.encode_to_vec();
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

fn decode_list(bytes: &[u8]) -> std::result::Result<RaftSnapshotData, String> {
    let (data, checksum) = bytes.split_last_chunk::<CRC_BYTES>().ok_or("it ends early")?;
    if crc32fast::hash(data) != u32::from_le_bytes(*checksum) {
        return Err("its checksum is wrong".to_string());
    }
    RaftSnapshotData::decode(data).map_err(|error| error.to_string())
}

/// A snapshot whose list is there. Its tables were not looked at.
#[derive(Debug)]
pub(super) struct Stored {
    directory: PathBuf,
    side: Side,
    id: SnapshotId,
    /// The list as raft carries it.
    pub(super) data: RaftSnapshotData,
    /// The list.
    pub(super) tables: Vec<Table>,
}

impl Stored {
    /// Reads the list of a snapshot; nothing if there is none.
    pub(super) fn find(directory: &Path, side: Side, id: SnapshotId) -> Result<Option<Stored>> {
        let path = meta_path(directory, side, id);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| disk::failed(&path, error))?,
        };
        let read = decode_list(&bytes).and_then(|data| Ok((tables(id, &data)?, data)));
        let (tables, data) = read.map_err(|reason| damaged(&path, reason))?;
        Ok(Some(Stored { directory: directory.to_path_buf(), side, id, data, tables }))
    }

    /// As [`Stored::find`], for those who cannot do without.
    pub(super) fn open(directory: &Path, side: Side, id: SnapshotId) -> Result<Stored> {
        let missing = || damaged(&meta_path(directory, side, id), "it is missing".to_string());
        Stored::find(directory, side, id)?.ok_or_else(missing)
    }

    /// The snapshot if it is complete, of this region and good in every byte. Otherwise its remains are
    /// removed, so that it can be made again.
    pub(super) fn find_good(
        directory: &Path,
        side: Side,
        id: SnapshotId,
        region: &metapb::Region,
    ) -> Result<Option<Stored>> {
        let found = Stored::find(directory, side, id).and_then(|found| {
            let found = found.filter(|stored| stored.data.region.as_ref() == Some(region));
            found.as_ref().map_or(Ok(()), Stored::verify)?;
            Ok(found)
        });
        match found {
            Ok(Some(stored)) => Ok(Some(stored)),
            Ok(None) | Err(Error::Damaged { .. }) => {
                remove(directory, side, id)?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Compares every table with the list.
    pub(super) fn verify(&self) -> Result<()> {
        for table in &self.tables {
            let path = self.path(table);
            let (size, checksum) = disk::measure(&path)?;
            table.compare(size, checksum).map_err(|reason| damaged(&path, reason))?;
        }
        Ok(())
    }

    /// Where a table of the list lies.
    pub(super) fn path(&self, table: &Table) -> PathBuf {
        table_path(&self.directory, self.side, self.id, table.family, table.number)
    }

    /// Where the list lies.
    pub(super) fn list_path(&self) -> PathBuf {
        meta_path(&self.directory, self.side, self.id)
    }
}

/// Completes a snapshot whose tables all have their names: makes those durable, then writes the list.
pub(super) fn complete(
    directory: &Path,
    side: Side,
    id: SnapshotId,
    data: &RaftSnapshotData,
) -> Result<()> {
    // Or the list could outlive a power loss that takes the name of a table.
    disk::sync_directory(directory)?;
    let path = meta_path(directory, side, id);
    let mut file = disk::create_unfinished(&path)?;
    disk::append(&path, &mut file, &encode_list(data))?;
    disk::sync(&path, &file)?;
    disk::rename_finished(&path)?;
    disk::sync_directory(directory)
}

/// Removes all files of a snapshot, finished or not. The list goes first: what is left by a crash in between is not
/// taken for complete.
pub(super) fn remove(directory: &Path, side: Side, id: SnapshotId) -> Result<()> {
    let list = meta_path(directory, side, id);
    for path in [list.clone(), unfinished(&list)] {
        disk::remove(&path)?;
    }
    for (name, _) in entries(directory)?.into_iter().filter(|(_, owner)| *owner == (id, side)) {
        disk::remove(&directory.join(name))?;
    }
    Ok(())
}

/// All files of snapshots in a directory, with what they belong to, in the order of their names. Files of
/// anybody else are left out.
pub(super) fn entries(directory: &Path) -> Result<Vec<(String, (SnapshotId, Side))>> {
    let failed = |error| disk::failed(directory, error);
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if let Some(owner) = owner_of(&name) {
            found.push((name, owner));
        }
    }
    found.sort();
    Ok(found)
}

/// Bytes on our own disk are not what was written there.
pub(super) fn damaged(path: &Path, reason: String) -> Error {
    Error::Damaged { what: path.display().to_string(), reason }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: SnapshotId = SnapshotId { region_id: 7, term: 6, index: 120 };

    fn good() -> RaftSnapshotData {
        let region = metapb::Region { id: 7, ..metapb::Region::default() };
        let mut tables: Vec<Table> = ColumnFamily::DATA
            .map(|family| Table { family, number: 1, size: 10, checksum: 5 })
            .to_vec();
        tables.push(Table { family: ColumnFamily::Raw, number: 2, size: 3, checksum: 4 });
        list(&region, &tables)
    }

    #[test]
    fn names_are_what_they_were() {
        let name = |path: PathBuf| path.to_str().expect("UTF-8").to_string();
        let table =
            |side, family, number| name(table_path(Path::new(""), side, ID, family, number));
        assert_eq!(table(Side::Sender, ColumnFamily::Write, 1), "gen_7_6_120_write.sst");
        assert_eq!(table(Side::Receiver, ColumnFamily::Raw, 3), "rev_7_6_120_raw_3.sst");
        assert_eq!(name(meta_path(Path::new(""), Side::Receiver, ID)), "rev_7_6_120.meta");
    }

    #[test]
    fn a_file_is_known_by_its_name_and_strangers_are_not() {
        let ours = [
            "gen_7_6_120_default.sst",
            "gen_7_6_120_raw_2.sst",
            "gen_7_6_120_raw_2.sst.tmp",
            "gen_7_6_120_lock.sst.ingest",
            "gen_7_6_120.meta",
            "gen_7_6_120.meta.tmp",
        ];
        for name in ours {
            assert_eq!(owner_of(name), Some((ID, Side::Sender)), "{name}");
            let received = name.replacen("gen", "rev", 1);
            assert_eq!(owner_of(&received), Some((ID, Side::Receiver)), "{received}");
        }
        let strangers = [
            "",
            "gen",
            "gen_7_6",
            "gen_7_6_120",
            "gen_7_6_120_raft.sst",
            "gen_7_6_120_raw_1.sst",
            "gen_7_6_120_raw_02.sst",
            "gen_7_6_120_raw_4.sst",
            "gen_7_6_120_write_2.sst",
            "gen_7_6_0120.meta",
            "gen_7_6_120_raw.sst.old",
            "gen_7_+6_120.meta",
            "gen_7_6_120_raw_2_3.sst",
            "old_7_6_120.meta",
            "gen_7_6_99999999999999999999.meta",
        ];
        for name in strangers {
            assert_eq!(owner_of(name), None, "{name}");
        }
    }

    #[test]
    fn a_list_that_is_not_acceptable_is_refused_with_its_reason() {
        assert!(tables(ID, &good()).is_ok());
        type Change = fn(&mut RaftSnapshotData);
        let changes: [(Change, &str); 10] = [
            (|data| data.version = 1, "format version 1"),
            (|data| data.region = None, "of region None"),
            (|data| data.region.get_or_insert_default().id = 8, "of region Some(8)"),
            (|data| data.meta = None, "0 bytes instead of 43"),
            (|data| data.file_size += 1, "43 bytes instead of 44"),
            (|data| lines(data)[2].cf = "raft".to_string(), "\"raft\", which is no part"),
            (|data| lines(data).swap(0, 1), "do not ascend"),
            (|data| lines(data)[4].cf = "raw".to_string(), "do not ascend"),
            (|data| lines(data)[4].size = 0, "its file of raw_2 is empty"),
            (|data| lines(data)[4].size = u64::MAX, "beyond all bounds"),
        ];
        for (change, reason) in changes {
            let mut data = good();
            change(&mut data);
            let refusal = tables(ID, &data).expect_err(reason);
            assert!(refusal.contains(reason), "{refusal:?} should say {reason:?}");
        }
        let mut data = good();
        data.file_size -= lines(&mut data).remove(1).size;
        assert_eq!(tables(ID, &data).expect("a part may hold nothing").len(), 4);
    }

    fn lines(data: &mut RaftSnapshotData) -> &mut Vec<SnapshotCfFile> {
        &mut data.meta.get_or_insert_default().cf_files
    }

    #[test]
    fn no_changed_bit_and_no_missing_end_of_a_list_goes_unnoticed() {
        let bytes = encode_list(&good());
        assert_eq!(decode_list(&bytes), Ok(good()));
        for place in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[place] ^= 1 << (place % 8);
            assert!(decode_list(&bad).is_err(), "byte {place} changed");
            assert!(decode_list(&bytes[..place]).is_err(), "cut at {place}");
        }
    }

    proptest! {
        #[test]
        fn a_name_leads_back_to_its_snapshot(region_id: u64, term: u64, index: u64, number in 1..4_usize) {
            let id = SnapshotId { region_id, term, index };
            for side in [Side::Sender, Side::Receiver] {
                let path = table_path(Path::new("d"), side, id, ColumnFamily::Raw, number);
                let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
                prop_assert_eq!(owner_of(name), Some((id, side)));
            }
        }

        #[test]
        fn any_list_is_accepted_or_refused_without_panic(bytes: Vec<u8>) {
            if let Ok(data) = RaftSnapshotData::decode(&bytes[..]) {
                let _ = tables(ID, &data);
            }
            let _ = decode_list(&bytes);
        }
    }
}
