//! The snapshot that a raft message brings: the message goes to raft, the files go beside it.

use std::path::Path;

use prost::Message as _;
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};
use skerry_proto::raft_serverpb::{RaftMessage, RaftSnapshotData};

use super::{SnapshotId, copy};

/// Whether a message brings a snapshot. Looks at no more than its first field, the type, so that it costs nothing
/// for all the messages that do not.
pub fn is_snapshot(message: &RaftMessage) -> bool {
    const TYPE: u8 = 1 << 3;
    message.message.starts_with(&[TYPE, MessageType::MsgSnapshot as u8])
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_snapshot_is_taken_for_one() {
        let all = (0..=u8::MAX).filter_map(|number| {
            <MessageType as protobuf::ProtobufEnum>::from_i32(i32::from(number))
        });
        let mut seen = 0;
        for kind in all {
            let mut message = Message::default();
            message.set_msg_type(kind);
            message.to = 7;
            let message = message.write_to_bytes().expect("a message has a form").into();
            let message = RaftMessage { message, ..RaftMessage::default() };
            assert_eq!(is_snapshot(&message), kind == MessageType::MsgSnapshot, "{kind:?}");
            seen += 1;
        }
        assert!(seen > 15, "{seen} types");
        assert!(!is_snapshot(&RaftMessage::default()));
    }
}
