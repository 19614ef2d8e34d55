//! The way of the files from one store to another: a stream of bytes, one table after the other in the order of
//! the list. The list itself does not travel here; raft carries it, and the receiver is given it first.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use skerry_proto::raft_serverpb::RaftSnapshotData;

use super::format::{self, Stored, Table};
use super::{Side, SnapshotId, disk};
use crate::planted::Planted;
use crate::{Error, Result};

/// The longest chunk. Far below what one message may have, and long enough that messages cost nothing.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;

/// Reads a complete snapshot of this store for sending.
#[derive(Debug)]
pub struct Outgoing {
    stored: Stored,
    /// The table that is being read, and its place in the list.
    position: usize,
    reading: Option<Reading>,
}

#[derive(Debug)]
struct Reading {
    path: PathBuf,
    file: File,
    progress: Progress,
}

/// How much of a table has gone through.
#[derive(Debug, Default)]
struct Progress {
    bytes: u64,
    hasher: crc32fast::Hasher,
}

impl Progress {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hasher.update(bytes);
    }

    /// Says what is wrong with what went through, as the whole of `table`.
    fn compare(self, table: &Table) -> std::result::Result<(), String> {
        table.compare(self.bytes, self.hasher.finalize())
    }
}

impl Outgoing {
    /// Finds the snapshot `id` that was built into `directory`.
    pub fn open(directory: &Path, id: SnapshotId) -> Result<Outgoing> {
        let stored = Stored::open(directory, Side::Sender, id)?;
        Ok(Outgoing { stored, position: 0, reading: None })
    }

    /// The list that the receiver must have been given.
    pub fn data(&self) -> &RaftSnapshotData {
        &self.stored.data
    }

    /// The next bytes of the stream, at most [`CHUNK_BYTES_MAX`]; nothing when all were given. A file that is not
    /// what the list says is an error, at its last chunk at the latest: the stream must then be broken off, and
    /// the next [`super::build`] makes the snapshot anew.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        let Some(table) = self.stored.tables.get(self.position) else { return Ok(None) };
        let mut reading = match self.reading.take() {
            Some(reading) => reading,
            None => Reading::open(self.stored.path(table))?,
        };
        let chunk = reading.next(table.size)?;
        if reading.progress.bytes == table.size {
            let Reading { path, progress, .. } = reading;
            progress.compare(table).map_err(|reason| format::damaged(&path, reason))?;
            self.position += 1;
        } else {
            self.reading = Some(reading);
        }
        Ok(Some(chunk))
    }
}

impl Reading {
    fn open(path: PathBuf) -> Result<Reading> {
        let file = File::open(&path).map_err(|error| disk::failed(&path, error))?;
        Ok(Reading { path, file, progress: Progress::default() })
    }

    /// Reads on in a file that has `size` bytes, of which some are left.
    fn next(&mut self, size: u64) -> Result<Bytes> {
        let left = size - self.progress.bytes;
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES_MAX);
        let mut chunk = vec![0; length];
        self.file.read_exact(&mut chunk).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => {
                format::damaged(&self.path, format!("it has less than {size} bytes"))
            }
            _ => disk::failed(&self.path, error),
        })?;
        self.progress.add(&chunk);
        Ok(chunk.into())
    }
}

/// Stores a snapshot that arrives from another store. Dropped before [`Incoming::finish`] has succeeded, it removes
/// what it has written.
#[derive(Debug)]
pub struct Incoming {
    directory: PathBuf,
    id: SnapshotId,
    data: RaftSnapshotData,
    tables: Vec<Table>,
    /// How many tables are here as a whole, synced, under their unfinished names.
    position: usize,
    writing: Option<(File, Progress)>,
    /// The snapshot is complete: nothing is to be written, nor removed.
    is_complete: bool,
    planted: Option<Planted>,
}

impl Incoming {
    /// Begins to receive the snapshot `id`, whose list is `data`. A list that is not acceptable is refused. If the
    /// same snapshot is here already, complete and good, there is nothing left to do
    /// ([`Incoming::is_complete`]); remains of a former attempt are removed. At most one at a time for each `id`,
    /// which [`super::Manager`] sees to.
    pub fn begin(directory: &Path, id: SnapshotId, data: &RaftSnapshotData) -> Result<Incoming> {
        let acceptable = format::tables(id, data);
        let tables = acceptable.map_err(|reason| refused(format!("snapshot {id}"), reason))?;
        let region = data.region.as_ref().expect("a list without region is not acceptable");
        let found = Stored::find_good(directory, Side::Receiver, id, region)?;
        Ok(Incoming {
            directory: directory.to_path_buf(),
            id,
            data: data.clone(),
            tables,
            position: 0,
            writing: None,
            is_complete: found.is_some(),
            planted: None,
        })
    }

    /// For tests: what if it had a bug?
    pub fn plant(&mut self, planted: Option<Planted>) {
        self.planted = planted;
    }

    /// Whether the snapshot was here already. The sender may stop; what it still sends is ignored.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Takes the next bytes of the stream, however it was cut. After an error there is nothing left but to drop this.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() && !self.is_complete {
            let Some(table) = self.tables.get(self.position).copied() else {
                let reason = format!("{} bytes follow its last file", bytes.len());
                return Err(refused(format!("snapshot {}", self.id), reason));
            };
            let path = self.path(&table);
            let (mut file, mut progress) = match self.writing.take() {
                Some(writing) => writing,
                None => (disk::create_unfinished(&path)?, Progress::default()),
            };
            let left = usize::try_from(table.size - progress.bytes).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(left.min(bytes.len()));
            disk::append(&path, &mut file, now)?;
            progress.add(now);
            bytes = later;
            if progress.bytes < table.size {
                self.writing = Some((file, progress));
                continue;
            }
            if self.planted != Some(Planted::SnapshotUnchecked) {
                progress.compare(&table).map_err(|reason| refused(file_name(&path), reason))?;
            }
            disk::sync(&path, &file)?;
            self.position += 1;
        }
        Ok(())
    }

    /// Ends the stream. When this has returned well, the snapshot is here for good and raft may hear of it.
    pub fn finish(mut self) -> Result<()> {
        if self.is_complete {
            return Ok(());
        }
        if let Some(table) = self.tables.get(self.position) {
            let come = self.writing.as_ref().map_or(0, |(_, progress)| progress.bytes);
            let reason = format!("the stream ended after {come} of its {} bytes", table.size);
            return Err(refused(file_name(&self.path(table)), reason));
        }
        for table in &self.tables {
            disk::rename_finished(&self.path(table))?;
        }
        format::complete(&self.directory, Side::Receiver, self.id, &self.data)?;
        self.is_complete = true;
        Ok(())
    }

    fn path(&self, table: &Table) -> PathBuf {
        format::table_path(&self.directory, Side::Receiver, self.id, table.family, table.number)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.is_complete {
            // What cannot be removed now is removed by the next attempt, or collected.
            let _ = format::remove(&self.directory, Side::Receiver, self.id);
        }
    }
}

/// Brings the snapshot `id`, whose list is `data`, from the directory of one store to that of another on the
/// same machine: the whole transport of a simulated or embedded cluster.
pub fn copy(from: &Path, to: &Path, id: SnapshotId, data: &RaftSnapshotData) -> Result<()> {
    let mut incoming = Incoming::begin(to, id, data)?;
    if !incoming.is_complete() {
        let mut outgoing = Outgoing::open(from, id)?;
        while let Some(chunk) = outgoing.next_chunk()? {
            incoming.write(&chunk)?;
        }
    }
    incoming.finish()
}

fn refused(what: String, reason: String) -> Error {
    Error::SnapshotRefused { what, reason }
}

/// The name alone: the other store has other directories.
fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
