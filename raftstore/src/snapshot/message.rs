//! The snapshot that a raft message brings: the message goes to raft, the files go beside it.

use std::path::Path;

use prost::Message as _;
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};
use skerry_proto::raft_serverpb::{RaftMessage, RaftSnapshotData};

use super::{SnapshotId, copy};

/// Which snapshot a message brings and what it says of the files; nothing if it brings none.
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

/// Brings the files of a message's snapshot from one directory to another. Nothing if the message has none;
/// otherwise whether they arrived.
pub fn carry(from: &Path, to: &Path, message: &RaftMessage) -> Option<bool> {
    let (id, data) = of_message(message)?;
    Some(copy(from, to, id, &data).is_ok())
}
