//! Installing: a received snapshot becomes the data of its region.

use std::path::{Path, PathBuf};

use skerry_proto::metapb;

use super::format::{self, Stored};
use super::{Side, SnapshotId};
use crate::Result;
use crate::engine::{ColumnFamily, Durability, Engine, WriteBatch};
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
    clear_without_table(&stored, region, engine)?;
    for family in ColumnFamily::DATA {
        let tables = stored.tables.iter().filter(|table| table.family == family);
        let paths: Vec<PathBuf> = tables.map(|table| stored.path(table)).collect();
        if !paths.is_empty() {
            engine.ingest(family, &paths)?;
        }
    }
    Ok(())
}

/// Clears the parts of which the sender has nothing. Mostly there is nothing here either: a removal that removes
/// nothing would be one more thing for every reader to step over.
fn clear_without_table(
    stored: &Stored,
    region: &metapb::Region,
    engine: &dyn Engine,
) -> Result<()> {
    let view = engine.view();
    let mut batch = WriteBatch::new();
    for (family, number, range) in format::parts(region) {
        let has_table =
            stored.tables.iter().any(|table| (table.family, table.number) == (family, number));
        if !has_table && view.cursor(family, &range)?.seek_to_first()? {
            batch.delete_range(family, range);
        }
    }
    // That it is empty here must be as durable as what is loaded.
    match batch.is_empty() && !stored.tables.is_empty() {
        true => Ok(()),
        false => engine.write(batch, Durability::Synced),
    }
}
