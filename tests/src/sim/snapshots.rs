//! Snapshots on their way between stores: the bytes of the files, of which one may be damaged or the last may
//! be missing. The receiver has to notice.

use skerry_proto::raft_serverpb::RaftMessage;
use skerry_raftstore::planted::Planted;
use skerry_raftstore::snapshot::{Incoming, Outgoing, of_message};
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
    planted: Option<Planted>,
    chance: &mut Chance,
) -> Transfer {
    let (id, data) = of_message(message).expect("only snapshots are carried");
    let is_damaged = chance.percent(DAMAGED);
    let outcome = Incoming::begin(to.snapshots(), id, &data).and_then(|mut incoming| {
        incoming.plant(planted);
        let outgoing = Outgoing::open(from.snapshots(), id)?;
        stream(outgoing, incoming, to.is_full(), is_damaged.then_some(chance))
    });
    match (outcome, is_damaged) {
        (Ok(true), _) => Transfer::TakenDamaged,
        (Ok(false), _) => Transfer::Arrived,
        (Err(_), true) => Transfer::Refused,
        (Err(_), false) => Transfer::Failed,
    }
}

/// Carries the bytes; answers whether any of them was damaged.
fn stream(
    mut outgoing: Outgoing,
    mut incoming: Incoming,
    is_full: bool,
    mut damage: Option<&mut Chance>,
) -> Result<bool> {
    let mut is_damaged = false;
    while let Some(chunk) = outgoing.next_chunk()? {
        let mut bytes = chunk.to_vec();
        if let Some(chance) = &mut damage
            && !is_damaged
            && chance.percent(30)
        {
            is_damaged = true;
            damage_one(&mut bytes, chance);
        }
        if is_full && !incoming.is_complete() {
            let reason = "no space left on device".to_string();
            return Err(Error::Engine { operation: "a received table", reason });
        }
        incoming.write(&bytes)?;
    }
    incoming.finish()?;
    Ok(is_damaged)
}

/// Damages a chunk. Chunks are whole tables as a rule, of the memory engine's form, which end with a checksum.
fn damage_one(bytes: &mut Vec<u8>, chance: &mut Chance) {
    match chance.below(3) {
        0 => bytes.truncate(chance.place(bytes.len())),
        1 => flip(bytes, chance),
        // Where the bytes were damaged before the engine's own checksum was made, only ours can tell.
        _ => {
            let end = bytes.len().saturating_sub(4).max(1);
            flip(&mut bytes[..end], chance);
            let checksum = crc32fast::hash(&bytes[..end]).to_be_bytes();
            let length = checksum.len().min(bytes.len() - end);
            bytes[end..end + length].copy_from_slice(&checksum[..length]);
        }
    }
}

fn flip(bytes: &mut [u8], chance: &mut Chance) {
    let place = chance.place(bytes.len());
    bytes[place] ^= 1 << chance.below(8);
}
