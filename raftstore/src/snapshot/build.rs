//! Building: one table for each part of a region that holds something, out of a view.

use std::path::Path;

use skerry_proto::metapb;
use skerry_proto::raft_serverpb::RaftSnapshotData;

use super::format::{self, Stored, Table};
use super::{Side, SnapshotId, disk};
use crate::Result;
use crate::engine::files::unfinished;
use crate::engine::{ColumnFamily, Cursor, Engine, KeyRange, View};

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
    for (family, number, range) in format::parts(region) {
        let mut cursor = view.cursor_once(family, &range)?;
        if !cursor.seek_to_first()? {
            continue;
        }
        let path = format::table_path(directory, Side::Sender, id, family, number);
        let mut writer = TableSource { cursor, engine, family, range: &range };
        let (size, checksum) = writer.write(&path, limit)?;
        tables.push(Table { family, number, size, checksum });
    }
    let data = format::list(region, &tables);
    format::complete(directory, Side::Sender, id, &data)?;
    Ok(data)
}

/// Where the content of one table comes from.
struct TableSource<'a> {
    /// Stands on the first pair.
    cursor: Box<dyn Cursor + 'a>,
    engine: &'a dyn Engine,
    family: ColumnFamily,
    range: &'a KeyRange,
}

impl TableSource<'_> {
    /// Writes the table to `path`, synced; answers size and checksum as they are read back.
    fn write(&mut self, path: &Path, limit: &mut dyn FnMut(u64)) -> Result<(u64, u32)> {
        let temporary = unfinished(path);
        disk::step(path)?;
        let mut table = self.engine.table_writer(self.family, &temporary)?;
        table.delete_range(self.range)?;
        let (cursor, mut untold, mut standing) = (&mut self.cursor, 0, true);
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
