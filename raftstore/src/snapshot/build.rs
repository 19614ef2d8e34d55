//! Building: a region's pairs as table files.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use prost::Message as _;
use skerry_proto::metapb;
use skerry_proto::raft_serverpb::{RaftSnapshotData, SnapshotCfFile, SnapshotMeta};

use super::{FORMAT_VERSION, MAPS, Side, SnapshotId};
use crate::engine::files::{replace_file, sync_directory, unfinished};
use crate::engine::{ColumnFamily, Engine, KeyRange, View};
use crate::{Error, Result};

/// Writes the files of a snapshot; those of a complete one are kept. `written` hears of every pair's bytes.
pub fn build(
    directory: &Path,
    id: SnapshotId,
    view: &dyn View,
    region: &metapb::Region,
    engine: &dyn Engine,
    written: &mut dyn FnMut(u64),
) -> Result<RaftSnapshotData> {
    let meta = match id.read_meta(directory, Side::Generated)? {
        Some(meta) => meta,
        None => write_files(directory, id, view, region, engine, written)?,
    };
    Ok(RaftSnapshotData {
        region: Some(region.clone()),
        file_size: meta.cf_files.iter().map(|file| file.size).sum(),
        version: FORMAT_VERSION,
        meta: Some(meta),
    })
}

fn write_files(
    directory: &Path,
    id: SnapshotId,
    view: &dyn View,
    region: &metapb::Region,
    engine: &dyn Engine,
    written: &mut dyn FnMut(u64),
) -> Result<SnapshotMeta> {
    let mut meta = SnapshotMeta::default();
    for (map, family, space) in MAPS {
        let path = id.table(directory, Side::Generated, map);
        let (start, end) = space.range(&region.start_key, &region.end_key);
        let temporary = unfinished(&path);
        let _ = std::fs::remove_file(&temporary);
        let size =
            write_table(&temporary, view, engine, family, &KeyRange { start, end }, written)?;
        std::fs::rename(&temporary, &path).map_err(|error| Error::directory(&path, error))?;
        let checksum = checksum_of(&path)?;
        meta.cf_files.push(SnapshotCfFile { cf: map.to_string(), size, checksum });
    }
    sync_directory(directory).map_err(|error| Error::directory(directory, error))?;
    let path = id.meta(directory, Side::Generated);
    replace_file(&path, &meta.encode_to_vec()).map_err(|error| Error::directory(&path, error))?;
    Ok(meta)
}

/// A table that replaces `range`; answers its size.
fn write_table(
    path: &Path,
    view: &dyn View,
    engine: &dyn Engine,
    family: ColumnFamily,
    range: &KeyRange,
    written: &mut dyn FnMut(u64),
) -> Result<u64> {
    let mut table = engine.table_writer(family, path)?;
    table.delete_range(range)?;
    let mut cursor = view.cursor(family, range)?;
    let mut standing = cursor.seek_to_first()?;
    while standing {
        table.put(cursor.key(), cursor.value())?;
        written((cursor.key().len() + cursor.value().len()) as u64);
        standing = cursor.next()?;
    }
    table.finish()
}

/// CRC-32 of a whole file.
pub(super) fn checksum_of(path: &Path) -> Result<u32> {
    let failed = |error| Error::directory(path, error);
    let mut file = File::open(path).map_err(failed)?;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(hasher.finalize()),
            count => hasher.update(&buffer[..count]),
        }
    }
}
