//! What raft must find again: a file of records, and in memory what they come to, where raft reads.
//!
//! The first record is the newest snapshot, the others are entries, and term and vote. With each snapshot a new file
//! takes the place of the old one as a whole. So only the last record can be unfinished after a crash, and nobody was
//! told of that one.
//!
//! What it does not do: a record is a line of JSON, without a checksum. A log for more than an example has one.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use protobuf::Message as _;
use raft::eraftpb::{Entry, HardState, Snapshot};
use raft::storage::MemStorage;
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use serde::{Deserialize, Serialize};

use super::{MEMBERS, Result};

/// Entries in front of a snapshot that stay in memory, for members that are only a little behind.
const KEPT_ENTRIES: u64 = 5;

/// See the head of this file.
pub(super) struct Disk {
    path: PathBuf,
    file: File,
    memory: MemStorage,
    /// The newest one; its index is 0 if there is none.
    snapshot: Snapshot,
}

/// A line of the file, with raft's own form of what it holds.
#[derive(Serialize, Deserialize)]
enum Record {
    Snapshot(Vec<u8>),
    Entry(Vec<u8>),
    State(Vec<u8>),
}

impl Disk {
    pub(super) fn open(directory: &Path) -> Result<Disk> {
        fs::create_dir_all(directory)?;
        let path = directory.join("log");
        let memory = MemStorage::new_with_conf_state((MEMBERS.to_vec(), vec![]));
        let snapshot = match path.exists() {
            true => replay(&fs::read(&path)?, &memory)
                .map_err(|error| format!("the log {} is damaged: {error}", path.display()))?,
            false => Snapshot::default(),
        };
        let file = begin(&path, &snapshot, &memory)?;
        Ok(Disk { path, file, memory, snapshot })
    }

    /// The newest snapshot.
    pub(super) fn newest(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Adds entries, which may replace others, and remembers term, vote and commit index. They are synced.
    pub(super) fn append(&mut self, entries: &[Entry], state: Option<&HardState>) -> Result<()> {
        let mut lines = Vec::new();
        for entry in entries {
            add(&mut lines, &Record::Entry(entry.write_to_bytes()?))?;
        }
        self.memory.wl().append(entries)?;
        if let Some(state) = state {
            add(&mut lines, &Record::State(state.write_to_bytes()?))?;
            self.memory.wl().set_hardstate(state.clone());
        }
        if !lines.is_empty() {
            self.file.write_all(&lines)?;
            self.file.sync_data()?;
        }
        Ok(())
    }

    /// More is committed. It is on disk with what is written next: a commit index that is forgotten is learnt again.
    pub(super) fn commit(&mut self, index: u64) {
        self.memory.wl().mut_hard_state().commit = index;
    }

    /// Another member's snapshot takes the place of everything.
    pub(super) fn install(&mut self, snapshot: &Snapshot, state: Option<&HardState>) -> Result<()> {
        self.memory.wl().apply_snapshot(snapshot.clone())?;
        if let Some(state) = state {
            self.memory.wl().set_hardstate(state.clone());
        }
        self.begin_with(snapshot.clone())
    }

    /// Keeps the map as it is after the entry `index`, and cuts the log.
    pub(super) fn save(&mut self, index: u64, map: Vec<u8>) -> Result<()> {
        let mut snapshot = Snapshot { data: map.into(), ..Snapshot::default() };
        snapshot.mut_metadata().index = index;
        snapshot.mut_metadata().term = self.memory.term(index)?;
        snapshot.mut_metadata().mut_conf_state().voters = MEMBERS.to_vec();
        self.memory.wl().compact(index.saturating_sub(KEPT_ENTRIES))?;
        self.begin_with(snapshot)
    }

    fn begin_with(&mut self, snapshot: Snapshot) -> Result<()> {
        self.file = begin(&self.path, &snapshot, &self.memory)?;
        self.snapshot = snapshot;
        Ok(())
    }
}

/// Writes a new file: the snapshot and what lies behind it. A crash leaves the old file or the new one.
fn begin(path: &Path, snapshot: &Snapshot, memory: &MemStorage) -> Result<File> {
    let mut lines = Vec::new();
    add(&mut lines, &Record::Snapshot(snapshot.write_to_bytes()?))?;
    let (next, end) = (snapshot.get_metadata().index + 1, memory.last_index()? + 1);
    let behind = match next < end {
        true => memory.entries(next, end, None, GetEntriesContext::empty(false))?,
        false => Vec::new(),
    };
    for entry in behind {
        add(&mut lines, &Record::Entry(entry.write_to_bytes()?))?;
    }
    add(&mut lines, &Record::State(memory.rl().hard_state().write_to_bytes()?))?;
    let unfinished = path.with_extension("tmp");
    let mut file = File::create(&unfinished)?;
    file.write_all(&lines)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    File::open(path.parent().ok_or("a file lies in a directory")?)?.sync_all()?;
    Ok(file)
}

fn add(lines: &mut Vec<u8>, record: &Record) -> Result<()> {
    serde_json::to_writer(&mut *lines, record)?;
    lines.push(b'\n');
    Ok(())
}

/// Takes a file into memory; answers its snapshot.
fn replay(file: &[u8], memory: &MemStorage) -> Result<Snapshot> {
    let mut snapshot = None;
    let lines = file.split_inclusive(|byte| *byte == b'\n');
    for line in lines.filter(|line| line.ends_with(b"\n")) {
        match serde_json::from_slice(line)? {
            Record::Snapshot(bytes) => {
                let newest = snapshot.insert(Snapshot::parse_from_bytes(&bytes)?);
                if newest.get_metadata().index > 0 {
                    memory.wl().apply_snapshot(newest.clone())?;
                }
            }
            Record::Entry(bytes) => memory.wl().append(&[Entry::parse_from_bytes(&bytes)?])?,
            Record::State(bytes) => memory.wl().set_hardstate(HardState::parse_from_bytes(&bytes)?),
        }
    }
    snapshot.ok_or("it has no snapshot".into())
}

/// How raft reads. The snapshot is the only thing that raft's own storage in memory does not keep.
impl Storage for Disk {
    fn initial_state(&self) -> raft::Result<RaftState> {
        self.memory.initial_state()
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        bytes_max: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        self.memory.entries(low, high, bytes_max, context)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        self.memory.term(index)
    }

    fn first_index(&self) -> raft::Result<u64> {
        self.memory.first_index()
    }

    fn last_index(&self) -> raft::Result<u64> {
        self.memory.last_index()
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let is_recent = self.snapshot.get_metadata().index >= request_index;
        is_recent
            .then(|| self.snapshot.clone())
            .ok_or(StorageError::SnapshotTemporarilyUnavailable.into())
    }
}
