//! Installing: a received snapshot becomes the data of its region.

use std::path::{Path, PathBuf};

use skerry_proto::metapb;

use super::format::{self, Stored};
use super::{Side, SnapshotId};
use crate::Result;
use crate::engine::{ColumnFamily, Engine};
use crate::planted::Planted;

/// Replaces all data of `region` by the received snapshot `id`, durably; keys outside of the region stay. Everything is
/// checked before anything changes, and the files stay where they are. May be repeated, also after it
/// failed or the machine stopped half way: then some families are replaced and the others are not, so nobody
/// may read the region until this has returned.
pub fn install(
    directory: &Path,
    id: SnapshotId,
    region: &metapb::Region,
    engine: &dyn Engine,
    planted: Option<Planted>,
) -> Result<()> {
    let stored = Stored::open(directory, Side::Receiver, id)?;
    let built_for = stored.data.region.as_ref().expect("a list without region is not acceptable");
    // The tables clear the range that they were built for.
    if built_for.id != region.id || built_for.bounds() != region.bounds() {
        let reason = format!(
            "it is of {built_for} {} instead of {region} {}",
            built_for.bounds(),
            region.bounds()
        );
        return Err(format::damaged(&stored.list_path(), reason));
    }
    if planted != Some(Planted::SnapshotUnchecked) {
        stored.verify()?;
    }
    for family in ColumnFamily::DATA {
        let tables = stored.tables.iter().filter(|table| table.family == family);
        let paths: Vec<PathBuf> = tables.map(|table| stored.path(table)).collect();
        engine.ingest(family, &paths)?;
    }
    Ok(())
}
