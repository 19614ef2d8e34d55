//! On the way: the files of a snapshot as one stream of bytes, in the order of its meta.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message as _;
use skerry_proto::raft_serverpb::{RaftSnapshotData, SnapshotMeta};

use super::{FORMAT_VERSION, MAPS, Side, SnapshotId, damaged};
use crate::engine::files::{replace_file, sync_directory, unfinished};
use crate::{Error, Result};

/// Bytes of a chunk.
const CHUNK_BYTES: usize = 1 << 20;

/// Reads the files of a snapshot that was built here.
#[derive(Debug)]
pub struct Outgoing {
    directory: PathBuf,
    id: SnapshotId,
    meta: SnapshotMeta,
    /// The file that is being read, and its number.
    current: Option<File>,
    next: usize,
}

impl Outgoing {
    /// Opens a complete snapshot.
    pub fn open(directory: &Path, id: SnapshotId) -> Result<Outgoing> {
        let path = id.meta(directory, Side::Generated);
        let meta = id.read_meta(directory, Side::Generated)?;
        let meta = meta.ok_or_else(|| damaged(&path, "the snapshot is not complete"))?;
        Ok(Outgoing { directory: directory.to_path_buf(), id, meta, current: None, next: 0 })
    }

    /// The next piece; nothing when all were given.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            let Some(file) = &mut self.current else {
                let Some(named) = self.meta.cf_files.get(self.next) else { return Ok(None) };
                let path = self.id.table(&self.directory, Side::Generated, &named.cf);
                let opened = File::open(&path).map_err(|error| Error::directory(&path, error))?;
                self.current = Some(opened);
                self.next += 1;
                continue;
            };
            let mut chunk = Vec::new();
            let read = file.take(CHUNK_BYTES as u64).read_to_end(&mut chunk);
            read.map_err(|error| Error::directory(&self.directory, error))?;
            if !chunk.is_empty() {
                return Ok(Some(chunk.into()));
            }
            self.current = None;
        }
    }
}

/// Writes the files of a snapshot that comes from another store. One that is dropped before
/// [`Incoming::finish`] leaves nothing.
#[derive(Debug)]
pub struct Incoming {
    directory: PathBuf,
    id: SnapshotId,
    meta: SnapshotMeta,
    /// The file that is being written.
    current: Option<Writing>,
    next: usize,
    /// It was here already; what comes is thrown away.
    is_here: bool,
    is_finished: bool,
}

#[derive(Debug)]
struct Writing {
    file: File,
    path: PathBuf,
    missing: u64,
    hasher: crc32fast::Hasher,
    checksum: u32,
}

impl Incoming {
    /// Begins to receive.
    pub fn begin(directory: &Path, id: SnapshotId, data: &RaftSnapshotData) -> Result<Incoming> {
        let path = id.meta(directory, Side::Received);
        if data.version != FORMAT_VERSION {
            let reason =
                format!("version {} of the format, {FORMAT_VERSION} is known", data.version);
            return Err(damaged(&path, &reason));
        }
        let meta = data.meta.clone().unwrap_or_default();
        let names: Vec<&str> = meta.cf_files.iter().map(|file| file.cf.as_str()).collect();
        if names != MAPS.map(|(map, _, _)| map) {
            return Err(damaged(&path, &format!("it consists of {names:?}")));
        }
        let is_here = id.read_meta(directory, Side::Received)?.as_ref() == Some(&meta);
        let directory = directory.to_path_buf();
        Ok(Incoming { directory, id, meta, current: None, next: 0, is_here, is_finished: false })
    }

    /// Takes the next bytes of the stream.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() && !self.is_here {
            let writing = match &mut self.current {
                Some(writing) => writing,
                none => {
                    none.insert(Writing::begin(&self.directory, &self.id, &self.meta, self.next)?)
                }
            };
            let missing = usize::try_from(writing.missing).unwrap_or(usize::MAX);
            let (mine, rest) = bytes.split_at(missing.min(bytes.len()));
            writing.take(mine)?;
            bytes = rest;
            if writing.missing == 0 {
                let whole = self.current.take().expect("looked at above");
                whole.complete()?;
                self.next += 1;
            }
        }
        Ok(())
    }

    /// Ends the stream: all files must be here, whole.
    pub fn finish(mut self) -> Result<()> {
        self.is_finished = true;
        if self.is_here {
            return Ok(());
        }
        let path = self.id.meta(&self.directory, Side::Received);
        if self.current.is_some() || self.next != self.meta.cf_files.len() {
            self.is_finished = false;
            return Err(damaged(&path, "the stream ended too early"));
        }
        sync_directory(&self.directory).map_err(|error| Error::directory(&path, error))?;
        replace_file(&path, &self.meta.encode_to_vec())
            .map_err(|error| Error::directory(&path, error))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let (Some(writing), false) = (&self.current, self.is_finished) {
            let _ = std::fs::remove_file(unfinished(&writing.path));
        }
    }
}

impl Writing {
    fn begin(
        directory: &Path,
        id: &SnapshotId,
        meta: &SnapshotMeta,
        number: usize,
    ) -> Result<Writing> {
        let named = meta.cf_files.get(number);
        let named = named.ok_or_else(|| {
            damaged(&id.meta(directory, Side::Received), "more came than it consists of")
        })?;
        let path = id.table(directory, Side::Received, &named.cf);
        let file =
            File::create(unfinished(&path)).map_err(|error| Error::directory(&path, error))?;
        let (missing, checksum) = (named.size, named.checksum);
        Ok(Writing { file, path, missing, hasher: crc32fast::Hasher::new(), checksum })
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.missing -= bytes.len() as u64;
        self.file.write_all(bytes).map_err(|error| Error::directory(&self.path, error))
    }

    fn complete(self) -> Result<()> {
        if self.hasher.finalize() != self.checksum {
            let _ = std::fs::remove_file(unfinished(&self.path));
            return Err(damaged(&self.path, "its checksum is wrong"));
        }
        let failed = |error| Error::directory(&self.path, error);
        self.file.sync_all().map_err(failed)?;
        std::fs::rename(unfinished(&self.path), &self.path).map_err(failed)
    }
}
