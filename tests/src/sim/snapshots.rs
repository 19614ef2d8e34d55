//! Snapshots on their way between stores: the bytes of the files, of which one may be damaged or the last may
//! be missing. The receiver has to notice.

use skerry_proto::raft_serverpb::{RaftMessage, RaftSnapshotData};
use skerry_raftstore::snapshot::{Incoming, Outgoing, SnapshotId, of_message};
use skerry_raftstore::{Error, Result};

use super::chance::Chance;
use super::disk::Disk;

/// Of a hundred transfers, those whose bytes are damaged.
const DAMAGED: u64 = 4;

/// How a transfer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transfer {
    /// The receiver took it.
    Arrived,
    /// The sender has it no more, or the receiver does not want it.
    Failed,
    /// The receiver noticed the damage.
    Refused,
    /// The receiver took it in spite of the damage.
    TakenDamaged,
}

/// Carries the files of the snapshot that `message` announces.
pub(super) fn carry(
    from: &Disk,
    to: &Disk,
    message: &RaftMessage,
    chance: &mut Chance,
) -> Transfer {
    let (id, data) = of_message(message).expect("only snapshots are carried");
    let is_damaged = chance.percent(DAMAGED);
    let outcome = stream(from, to, id, &data, is_damaged.then_some(chance));
    match (outcome, is_damaged) {
        (Ok(true), _) => Transfer::TakenDamaged,
        (Ok(false), _) => Transfer::Arrived,
        (Err(_), true) => Transfer::Refused,
        (Err(_), false) => Transfer::Failed,
    }
}

/// Carries the bytes; answers whether any of them was damaged.
fn stream(
    from: &Disk,
    to: &Disk,
    id: SnapshotId,
    data: &RaftSnapshotData,
    mut damage: Option<&mut Chance>,
) -> Result<bool> {
    let mut incoming = Incoming::begin(to.snapshots(), id, data)?;
    let mut outgoing = Outgoing::open(from.snapshots(), id)?;
    let mut is_damaged = false;
    while let Some(chunk) = outgoing.next_chunk()? {
        let mut bytes = chunk.to_vec();
        if let Some(chance) = &mut damage
            && !is_damaged
            && chance.percent(30)
        {
            is_damaged = true;
            match chance.percent(50) {
                true => {
                    let place = chance.place(bytes.len());
                    bytes[place] ^= 1 << chance.below(8);
                }
                false => bytes.truncate(chance.place(bytes.len())),
            }
        }
        if to.is_full() && !incoming.is_complete() {
            let reason = "no space left on device".to_string();
            return Err(Error::Engine { operation: "a received table", reason });
        }
        incoming.write(&bytes)?;
    }
    incoming.finish()?;
    Ok(is_damaged)
}
