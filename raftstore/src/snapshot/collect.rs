//! What lies in the snapshot directory: how far each snapshot is, and which files are nobody's.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Side, SnapshotId};
use crate::{Error, Result};

/// How far a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// Its files are being written.
    Begun,
    /// All of it is there.
    Complete,
}

/// The snapshots of a directory.
pub fn list(directory: &Path) -> Result<BTreeMap<(SnapshotId, Side), Progress>> {
    let mut found = BTreeMap::new();
    for name in names(directory)? {
        let Some(owner) = owner(&name) else { continue };
        let progress = if name.ends_with(".meta") { Progress::Complete } else { Progress::Begun };
        let entry = found.entry(owner).or_insert(progress);
        *entry = (*entry).max(progress);
    }
    Ok(found)
}

/// Removes every snapshot that `is_needed` does not name, the meta file first, so that what is left of an
/// interrupted removal is not taken for whole. Answers how many went.
pub fn collect(directory: &Path, is_needed: &dyn Fn(&SnapshotId, Side) -> bool) -> Result<usize> {
    let mut gone: Vec<String> = names(directory)?
        .into_iter()
        .filter(|name| owner(name).is_some_and(|(id, side)| !is_needed(&id, side)))
        .collect();
    gone.sort_by_key(|name| !name.ends_with(".meta"));
    for name in &gone {
        let path = directory.join(name);
        std::fs::remove_file(&path).map_err(|error| Error::directory(&path, error))?;
    }
    Ok(gone.iter().filter(|name| name.ends_with(".meta")).count())
}

fn names(directory: &Path) -> Result<Vec<String>> {
    let failed = |error| Error::directory(directory, error);
    let entries = std::fs::read_dir(directory).map_err(failed)?;
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.map(|entry| entry.file_name().to_string_lossy().into_owned())
    };
    let mut names: Vec<String> =
        entries.map(name).collect::<std::io::Result<_>>().map_err(failed)?;
    names.sort_unstable();
    Ok(names)
}

/// Which snapshot a file is of.
fn owner(name: &str) -> Option<(SnapshotId, Side)> {
    let stem = name.split('.').next()?;
    let mut parts = stem.split('_');
    let side = match parts.next()? {
        "gen" => Side::Generated,
        "rev" => Side::Received,
        _ => return None,
    };
    let mut number = || parts.next()?.parse().ok();
    Some((SnapshotId { region_id: number()?, term: number()?, index: number()? }, side))
}
