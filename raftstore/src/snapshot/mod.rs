//! The files of raft snapshots: how a region's data travels to a replica that cannot be served from the log.
//!
//! 1. The leader [`build`]s: for each map of keys that the region consists of, one table file that removes
//!    the region's range and holds the pairs of a view. The meta file, written last, makes it complete.
//! 2. [`Outgoing`] gives the files as a stream of chunks, [`Incoming`] writes them under other names at the
//!    follower and checks every size and checksum before it completes.
//! 3. [`install`] checks again and loads the tables, one map after the other. A table replaces the range
//!    that it removes, so a repetition does no harm.
//!
//! | file | is |
//! | --- | --- |
//! | `gen_<region>_<term>_<index>_<map>.sst` | a table, as it was built |
//! | `rev_<region>_<term>_<index>_<map>.sst` | a table, as it was received |
//! | `gen_...`, `rev_...` `.meta` | sizes and checksums; the snapshot is complete |
//! | `*.tmp` | not complete, and nobody's if nobody is writing it |
//!
//! **Invariants.** A name without `.tmp` has its whole content, on the medium. What was received is believed
//! only after its checksums are.
//!
//! What it does not do: it knows no raft, sends nothing and chooses no time.

use std::path::{Path, PathBuf};

use prost::Message as _;
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};
use skerry_proto::raft_serverpb::{RaftMessage, RaftSnapshotData, SnapshotMeta};

use crate::engine::ColumnFamily;
use crate::keys::DataSpace;
use crate::{Error, Result};

mod build;
mod collect;
mod install;
#[cfg(test)]
mod tests;
mod transfer;

pub use self::build::build;
pub use self::collect::{Progress, collect, list};
pub use self::install::install;
pub use self::transfer::{Incoming, Outgoing};

/// The form of the files; another one is refused.
pub const FORMAT_VERSION: u64 = 1;

/// Which snapshot: the state of a region after this entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotId {
    /// The region.
    pub region_id: u64,
    /// The term of the last applied entry.
    pub term: u64,
    /// Its index.
    pub index: u64,
}

/// On which side of its way a file lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Where it was built.
    Generated,
    /// Where it was received.
    Received,
}

/// The maps of keys that a region consists of, with their names in files.
const MAPS: [(&str, ColumnFamily, DataSpace); 6] = [
    ("default", ColumnFamily::Default, DataSpace::Main),
    ("lock", ColumnFamily::Lock, DataSpace::Main),
    ("write", ColumnFamily::Write, DataSpace::Main),
    ("raw", ColumnFamily::Raw, DataSpace::Main),
    ("raw-lock", ColumnFamily::Raw, DataSpace::RawLock),
    ("raw-write", ColumnFamily::Raw, DataSpace::RawWrite),
];

impl Side {
    fn prefix(self) -> &'static str {
        match self {
            Side::Generated => "gen",
            Side::Received => "rev",
        }
    }
}

impl SnapshotId {
    fn stem(&self, side: Side) -> String {
        format!("{}_{}_{}_{}", side.prefix(), self.region_id, self.term, self.index)
    }

    fn table(&self, directory: &Path, side: Side, map: &str) -> PathBuf {
        directory.join(format!("{}_{map}.sst", self.stem(side)))
    }

    fn meta(&self, directory: &Path, side: Side) -> PathBuf {
        directory.join(format!("{}.meta", self.stem(side)))
    }

    /// The meta of a complete snapshot; nothing if it is not complete.
    fn read_meta(&self, directory: &Path, side: Side) -> Result<Option<SnapshotMeta>> {
        let path = self.meta(directory, side);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::directory(&path, error)),
        };
        let meta = SnapshotMeta::decode(&bytes[..]);
        meta.map(Some).map_err(|error| damaged(&path, &error.to_string()))
    }
}

/// Carries the snapshot of a message from one directory to another in the same process. Nothing if the message
/// has none; otherwise whether it arrived.
pub fn carry(from: &Path, to: &Path, message: &RaftMessage) -> Option<bool> {
    let (id, data) = of_message(message)?;
    let carried = || -> Result<()> {
        let mut incoming = Incoming::begin(to, id, &data)?;
        let mut outgoing = Outgoing::open(from, id)?;
        while let Some(chunk) = outgoing.next_chunk()? {
            incoming.write(&chunk)?;
        }
        incoming.finish()
    };
    Some(carried().is_ok())
}

/// The snapshot that a message brings, and what it says of its files.
pub fn of_message(message: &RaftMessage) -> Option<(SnapshotId, RaftSnapshotData)> {
    let parsed = Message::parse_from_bytes(&message.message).ok()?;
    if parsed.get_msg_type() != MessageType::MsgSnapshot {
        return None;
    }
    let metadata = parsed.get_snapshot().get_metadata();
    let (region_id, term, index) = (message.region_id, metadata.term, metadata.index);
    let data = RaftSnapshotData::decode(parsed.get_snapshot().data.clone()).ok()?;
    Some((SnapshotId { region_id, term, index }, data))
}

fn damaged(path: &Path, reason: &str) -> Error {
    Error::Damaged { what: path.display().to_string(), reason: reason.to_string() }
}
