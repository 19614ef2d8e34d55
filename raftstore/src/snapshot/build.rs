//! Building: one table for each part of a region, out of a view.

use std::path::Path;

use skerry_proto::metapb;
use skerry_proto::raft_serverpb::RaftSnapshotData;

use super::format::{self, Stored, Table};
use super::{Side, SnapshotId, disk};
use crate::Result;
use crate::engine::files::unfinished;
use crate::engine::{ColumnFamily, Engine, KeyRange, View};
use crate::keys::DataSpace;

/// How often the caller hears of progress. Small enough that a wait for the disk's sake is short.
const PROGRESS_BYTES: u64 = 64 << 10;

/// Writes the snapshot `id` of `region` into `directory`, from a view whose applied index is that of `id`, and answers
/// what raft shall carry to the receiver. One that is there, complete and good, is answered at once; any
/// other remains are replaced. `limit` is told of every so many bytes of keys and values before more are
/// written, and may wait.
pub fn build(
    directory: &Path,
    id: SnapshotId,
    view: &dyn View,
    region: &metapb::Region,
    engine: &dyn Engine,
    limit: &mut dyn FnMut(u64),
) -> Result<RaftSnapshotData> {
    assert_eq!(id.region_id, region.id, "snapshot {id} was asked for another region");
    if let Some(stored) = Stored::find_good(directory, Side::Sender, id, region)? {
        return Ok(stored.data);
    }
    let mut tables = Vec::new();
    for (family, number, range) in parts(region) {
        let path = format::table_path(directory, Side::Sender, id, family, number);
        let mut writer = TableSource { view, engine, family, range };
        let (size, checksum) = writer.write(&path, limit)?;
        tables.push(Table { family, number, size, checksum });
    }
    let data = format::list(region, &tables);
    format::complete(directory, Side::Sender, id, &data)?;
    Ok(data)
}

/// What a region consists of: family, number within the family, range. Family `raw` has three parts, because a
/// table removes one range and the region has one in each of three spaces, with other regions between them.
fn parts(region: &metapb::Region) -> Vec<(ColumnFamily, usize, KeyRange)> {
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

/// Where the content of one table comes from.
struct TableSource<'a> {
    view: &'a dyn View,
    engine: &'a dyn Engine,
    family: ColumnFamily,
    range: KeyRange,
}

impl TableSource<'_> {
    /// Writes the table to `path`, synced; answers size and checksum as they are read back.
    fn write(&mut self, path: &Path, limit: &mut dyn FnMut(u64)) -> Result<(u64, u32)> {
        let temporary = unfinished(path);
        disk::step(path)?;
        let mut table = self.engine.table_writer(self.family, &temporary)?;
        table.delete_range(&self.range)?;
        let mut cursor = self.view.cursor(self.family, &self.range)?;
        let mut untold = 0;
        let mut standing = cursor.seek_to_first()?;
        while standing {
            let (key, value) = (cursor.key(), cursor.value());
            table.put(key, value)?;
            untold += (key.len() + value.len()) as u64;
            if untold >= PROGRESS_BYTES {
                limit(std::mem::take(&mut untold));
            }
            standing = cursor.next()?;
        }
        if untold > 0 {
            limit(untold);
        }
        disk::step(path)?;
        let written = table.finish()?;
        let (size, checksum) = disk::measure(&temporary)?;
        if size != written {
            let reason = format!("{written} bytes were written and {size} are there");
            return Err(format::damaged(&temporary, reason));
        }
        disk::rename_finished(path)?;
        Ok((size, checksum))
    }
}
