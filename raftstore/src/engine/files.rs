//! Changes to files and directories that survive power loss as a whole or not at all; used wherever the
//! store writes files of its own beside those of an engine.
//!
//! A name is durable only when its *directory* was synced: syncing a file does not promise that the file
//! will be found again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Makes the names in `directory` durable: files created, renamed and removed there before this call.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Creates `directory` and what is missing above it, durably. No error if it is there.
pub(crate) fn create_directory(directory: &Path) -> io::Result<()> {
    let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let missing: Vec<&Path> = directory.ancestors().take_while(is_missing).collect();
    fs::create_dir_all(directory)?;
    for created in missing {
        sync_directory(&parent(created))?;
    }
    Ok(())
}

/// The directory that holds the name of `path`.
fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// The name under which [`replace_file`] writes before it renames.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(".tmp");
    PathBuf::from(name)
}

/// Gives the file `path` the content `bytes`: after a crash at any moment it has the old content or the
/// new one, and once this has returned, the new one. May leave an [`unfinished`] file behind.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = unfinished(path);
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, path)?;
    sync_directory(&parent(path))
}

/// Makes the directory `path` durably, with what `fill` puts into it; after a crash at any moment it is there
/// with all of it or not at all. `fill` is given another path and has to sync what it writes.
pub(crate) fn make_directory(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let failed = |error| Error::directory(path, error);
    let staging = path.with_extension("new");
    remove_directory(&staging).map_err(failed)?;
    create_directory(&staging).map_err(failed)?;
    fill(&staging)?;
    sync_directory(&staging).map_err(failed)?;
    fs::rename(&staging, path).map_err(failed)?;
    sync_directory(&parent(path)).map_err(failed)
}

/// Removes a file durably. No error if it is not there.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_directory(&parent(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes a directory and all in it durably. No error if it is not there.
pub(crate) fn remove_directory(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Ok(()) => sync_directory(&parent(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_has_the_new_content_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("note");
        replace_file(&path, b"first, and longer").expect("write");
        replace_file(&path, b"second").expect("replace");
        assert_eq!(fs::read(&path).expect("read"), b"second");
        assert_eq!(fs::read_dir(directory.path()).expect("list").count(), 1);
    }

    #[test]
    fn directories_are_created_with_all_above_them_and_twice_is_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let deep = directory.path().join("a/b/c");
        create_directory(&deep).expect("create");
        create_directory(&deep).expect("again");
        assert!(deep.is_dir());
        remove_directory(&directory.path().join("a")).expect("remove");
        remove_directory(&directory.path().join("a")).expect("again");
        assert!(!deep.exists());
    }
}
