//! `skerry-owner`: in `data/` and in `raft/`, a line that says whose they are.
//!
//! The manifest names the store, and a whole directory that was copied carries it along. A part that was put into
//! the directory of another store would not be noticed: both hold replicas of the same regions. Such a store would
//! answer with another's data, or vote a second time in another's name.
//!
//! The lines are written before the manifest gets the identity, so a part without one is as old as the directory:
//! it gets its line when it is next opened.

use std::fs;
use std::io;
use std::path::Path;

use super::{Identity, failed, files, mismatch};
use crate::Result;

/// Name of the file.
const OWNER: &str = "skerry-owner";

/// The parts of a directory that can be put into another.
const PARTS: [&str; 2] = ["data", "raft"];

/// Writes whose the parts are that are there.
pub(super) fn write(directory: &Path, identity: &Identity) -> Result<()> {
    let Some(line) = line(identity) else { return Ok(()) };
    for part in PARTS.map(|part| directory.join(part)).iter().filter(|part| part.exists()) {
        let file = part.join(OWNER);
        files::replace_file(&file, line.as_bytes()).map_err(|error| failed(&file, error))?;
    }
    Ok(())
}

/// Refuses parts of another store, and adds the line where it is missing.
pub(super) fn check(directory: &Path, identity: &Identity) -> Result<()> {
    let Some(line) = line(identity) else { return Ok(()) };
    let mut is_missing = false;
    for part in PARTS.map(|part| directory.join(part)).iter().filter(|part| part.exists()) {
        let file = part.join(OWNER);
        match fs::read_to_string(&file) {
            Ok(found) if found == line => {}
            Ok(found) => {
                let (found, line) = (found.trim_end(), line.trim_end());
                let reason = format!(
                    "{} says {found:?} and the manifest {line:?}: it was put here from another directory; put \
                     back what belongs here, or choose another --data-dir",
                    file.display()
                );
                return Err(mismatch(directory, reason));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => is_missing = true,
            Err(error) => return Err(failed(&file, error)),
        }
    }
    if is_missing { write(directory, identity) } else { Ok(()) }
}

/// What the file says; nothing as long as the store has no id.
fn line(identity: &Identity) -> Option<String> {
    let (cluster, store) = identity.cluster_id.zip(identity.store_id)?;
    Some(format!("store {store} of cluster {cluster}\n"))
}
