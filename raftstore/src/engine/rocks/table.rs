//! Table files: written outside the tree, then added to it.

use std::path::{Path, PathBuf};

use rocksdb::{DB, IngestExternalFileOptions, Options, SstFileWriter};
use self_cell::self_cell;

use super::view::handle;
use crate::engine::{ColumnFamily, KEYS_END, KeyRange, TableWriter};
use crate::{Error, Result};

// RocksDB's writer refers to its options, which therefore travel with it.
self_cell!(
    struct Writer {
        owner: Options,
        #[covariant]
        dependent: SstFileWriter,
    }
);

/// Writes one table file. RocksDB itself refuses keys that do not ascend, and syncs the file at the end.
pub(super) struct RocksTableWriter {
    writer: Writer,
    /// For messages.
    path: PathBuf,
    /// Whether something was written.
    begun: bool,
}

impl RocksTableWriter {
    /// Starts a file at `path` in the form that `options` say.
    pub(super) fn create(options: Options, path: &Path) -> Result<RocksTableWriter> {
        let opened = Writer::try_new(options, |options| {
            let writer = SstFileWriter::create(options);
            writer.open(path)?;
            Ok(writer)
        });
        let writer = opened.map_err(|error: rocksdb::Error| failed(path, error))?;
        Ok(RocksTableWriter { writer, path: path.to_path_buf(), begun: false })
    }

    /// One step of writing.
    fn with(
        &mut self,
        write: impl FnOnce(&mut SstFileWriter<'_>) -> std::result::Result<(), rocksdb::Error>,
    ) -> Result<()> {
        self.begun = true;
        let result = self.writer.with_dependent_mut(|_, writer| write(writer));
        result.map_err(|error| failed(&self.path, error))
    }
}

impl TableWriter for RocksTableWriter {
    fn delete_range(&mut self, range: &KeyRange) -> Result<()> {
        assert!(!self.begun, "a table removes at most one range, before its first pair");
        self.with(|writer| writer.delete_range(&range.start[..], range.end_or_last()))
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        assert!(!key.starts_with(KEYS_END), "key {key:?} is above the end of all keys");
        self.with(|writer| writer.put(key, value))
    }

    fn finish(mut self: Box<Self>) -> Result<u64> {
        // RocksDB cannot make an empty file, so no engine does.
        if !self.begun {
            return Err(failed(&self.path, "a table must hold something"));
        }
        self.with(|writer| writer.finish())?;
        Ok(self.writer.borrow_dependent().file_size())
    }
}

/// Adds table files to a family, all or none. The caller has synced the log, or what was written
/// before could be lost while the tables stay.
pub(super) fn ingest(database: &DB, family: ColumnFamily, tables: &[PathBuf]) -> Result<()> {
    let links: Vec<Link> = tables.iter().map(|table| Link::to(table)).collect::<Result<_>>()?;
    let paths: Vec<&Path> = links.iter().map(|link| link.path.as_path()).collect();
    let mut options = IngestExternalFileOptions::default();
    // RocksDB moves our links, which costs nothing, and the originals stay.
    options.set_move_files(true);
    let handle = handle(database, family);
    let ingested = database.ingest_external_file_cf_opts(handle, &options, paths);
    ingested.map_err(|error| Error::engine("ingest", database.path(), error))
}

/// A second name for a table file, for RocksDB to take; removed again if it did not.
struct Link {
    path: PathBuf,
}

impl Link {
    fn to(table: &Path) -> Result<Link> {
        let mut path = table.as_os_str().to_owned();
        path.push(".ingest");
        let link = Link { path: path.into() };
        // A crash may have left one.
        let _ = std::fs::remove_file(&link.path);
        let linked = std::fs::hard_link(table, &link.path);
        // Not every file system has links.
        let made = linked.or_else(|_| std::fs::copy(table, &link.path).map(|_| ()));
        made.map_err(|error| failed(table, error))?;
        Ok(link)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn failed(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::engine("a table file", path, error)
}
