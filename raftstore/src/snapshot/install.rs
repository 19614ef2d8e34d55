//! Installing: the tables of a received snapshot take the place of a region's data.

use std::path::Path;

use skerry_proto::metapb;

use super::build::checksum_of;
use super::{MAPS, Side, SnapshotId, damaged};
use crate::engine::Engine;
use crate::{Error, Result};

/// Replaces the data of `region` by the snapshot. May be repeated, also after a crash half-way.
pub fn install(
    directory: &Path,
    id: SnapshotId,
    region: &metapb::Region,
    engine: &dyn Engine,
) -> Result<()> {
    let path = id.meta(directory, Side::Received);
    let meta = id.read_meta(directory, Side::Received)?;
    let meta = meta.ok_or_else(|| {
        damaged(&path, &format!("the snapshot that {region} waits for is not complete"))
    })?;
    for file in &meta.cf_files {
        let path = id.table(directory, Side::Received, &file.cf);
        let size = std::fs::metadata(&path).map_err(|error| Error::directory(&path, error))?.len();
        if size != file.size || checksum_of(&path)? != file.checksum {
            return Err(damaged(&path, "its size or checksum is wrong"));
        }
    }
    for (map, family, _) in MAPS {
        engine.ingest(family, &[id.table(directory, Side::Received, map)])?;
    }
    Ok(())
}
