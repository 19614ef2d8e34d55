//! What a region becomes: changes of range and peers as pure functions, the same when a leader checks a
//! proposal and when every replica applies it.
//!
//! **Invariant.** The same region and the same request give the same result on every replica and in every
//! version of this program: this is a part of the replicated state machine.

use bytes::Bytes;
use skerry_proto::eraftpb::ConfChangeType;
use skerry_proto::metapb::{self, PeerRole};
use skerry_proto::raft_cmdpb::{BatchSplitRequest, ChangePeerRequest, ChangePeerV2Request};
use skerry_proto::region::is_before_end;

/// Whether a region is between two configurations.
pub fn is_joint(region: &metapb::Region) -> bool {
    let is_between = |peer: &metapb::Peer| {
        matches!(peer.role(), PeerRole::IncomingVoter | PeerRole::DemotingVoter)
    };
    region.peers.iter().any(is_between)
}

/// Refuses a cut that makes no sense, with the reason.
pub fn check_split(region: &metapb::Region, request: &BatchSplitRequest) -> Result<(), String> {
    if request.requests.is_empty() {
        return Err("a split needs at least one key".to_string());
    }
    if is_joint(region) {
        return Err("the region is between two configurations".to_string());
    }
    let mut previous = &region.start_key;
    for split in &request.requests {
        if split.split_key <= previous || !is_before_end(&split.split_key, &region.end_key) {
            return Err("split keys must ascend strictly inside the region".to_string());
        }
        if split.new_peer_ids.len() != region.peers.len() || split.new_region_id == 0 {
            return Err(
                "a split needs a region id and as many peer ids as there are peers".to_string()
            );
        }
        previous = &split.split_key;
    }
    Ok(())
}

/// The parts of a region that is cut, in order of their keys; the one that keeps the id is the last if
/// `right_derive` says so, otherwise the first.
pub fn split(region: &metapb::Region, request: &BatchSplitRequest) -> Vec<metapb::Region> {
    let mut epoch = region.epoch();
    epoch.version += request.requests.len() as u64;
    let mut bounds: Vec<Bytes> = vec![region.start_key.clone()];
    bounds.extend(request.requests.iter().map(|split| split.split_key.clone()));
    bounds.push(region.end_key.clone());
    let derived = if request.right_derive { bounds.len() - 2 } else { 0 };
    let mut new = request.requests.iter();
    let parts = bounds.windows(2).enumerate().map(|(position, ends)| {
        let mut part = metapb::Region {
            start_key: ends[0].clone(),
            end_key: ends[1].clone(),
            region_epoch: Some(epoch),
            ..region.clone()
        };
        if position != derived {
            let ids = new.next().expect("one new region for each key");
            part.id = ids.new_region_id;
            let peers = part.peers.iter_mut().zip(&ids.new_peer_ids);
            peers.for_each(|(peer, id)| peer.id = *id);
        }
        part
    });
    parts.collect()
}

/// The region after a change of its peers; refuses one that makes no sense, with the reason.
pub fn change_peers(
    region: &metapb::Region,
    request: &ChangePeerV2Request,
) -> Result<metapb::Region, String> {
    let mut after = region.clone();
    let moves = match &request.changes[..] {
        [] => leave_joint(&mut after)?,
        _ if is_joint(region) => return Err("the region is between two configurations".to_string()),
        [change] => {
            change_one(&mut after, change, false)?;
            1
        }
        changes => {
            for (position, change) in changes.iter().enumerate() {
                let id = |change: &ChangePeerRequest| change.peer.map(|peer| peer.store_id);
                if changes[..position].iter().any(|earlier| id(earlier) == id(change)) {
                    return Err("two changes for one store".to_string());
                }
                change_one(&mut after, change, true)?;
            }
            if !is_joint(&after) {
                // Raft would be between two configurations, and the region not.
                return Err("several changes at once are for voters".to_string());
            }
            changes.len() as u64
        }
    };
    if !after
        .peers
        .iter()
        .any(|peer| matches!(peer.role(), PeerRole::Voter | PeerRole::IncomingVoter))
    {
        return Err("no voter would be left".to_string());
    }
    let mut epoch = region.epoch();
    epoch.conf_ver += moves;
    after.region_epoch = Some(epoch);
    Ok(after)
}

/// Ends the joint configuration; answers how many peers change their role by it.
fn leave_joint(region: &mut metapb::Region) -> Result<u64, String> {
    let mut moves = 0;
    for peer in &mut region.peers {
        let role = match peer.role() {
            PeerRole::IncomingVoter => PeerRole::Voter,
            PeerRole::DemotingVoter => PeerRole::Learner,
            role => role,
        };
        moves += u64::from(role != peer.role());
        peer.set_role(role);
    }
    if moves == 0 {
        Err("the region is not between two configurations".to_string())
    } else {
        Ok(moves)
    }
}

fn change_one(
    region: &mut metapb::Region,
    change: &ChangePeerRequest,
    joint: bool,
) -> Result<(), String> {
    let peer = change.peer.ok_or("a change names no peer")?;
    let found = region.peers.iter().position(|other| other.store_id == peer.store_id);
    if found.is_some_and(|position| region.peers[position].id != peer.id) {
        return Err(format!("{} has another replica of the region", peer.store()));
    }
    let role = found.map(|position| region.peers[position].role());
    let voter = if joint { PeerRole::IncomingVoter } else { PeerRole::Voter };
    let learner = if joint { PeerRole::DemotingVoter } else { PeerRole::Learner };
    match (change.change_type(), role) {
        (ConfChangeType::AddNode, None) => add(region, peer, voter),
        (ConfChangeType::AddNode, Some(PeerRole::Learner)) => set(region, found, voter),
        (ConfChangeType::AddLearnerNode, None) => add(region, peer, PeerRole::Learner),
        (ConfChangeType::AddLearnerNode, Some(PeerRole::Voter)) => set(region, found, learner),
        (ConfChangeType::RemoveNode, Some(PeerRole::Voter)) if joint => {
            return Err("a voter leaves a joint configuration as a learner first".to_string());
        }
        (ConfChangeType::RemoveNode, Some(_)) => {
            region.peers.remove(found.expect("it has a role"));
        }
        (_, None) => return Err(format!("{peer} is not there")),
        (_, Some(_)) => return Err(format!("{peer} is that already")),
    }
    Ok(())
}

fn add(region: &mut metapb::Region, mut peer: metapb::Peer, role: PeerRole) {
    peer.set_role(role);
    region.peers.push(peer);
}

fn set(region: &mut metapb::Region, position: Option<usize>, role: PeerRole) {
    let position = position.expect("it has a role");
    region.peers[position].set_role(role);
}

#[cfg(test)]
mod tests {
    use skerry_proto::raft_cmdpb::SplitRequest;

    use super::*;

    fn region() -> metapb::Region {
        let peer = |id, store_id| metapb::Peer { id, store_id, ..metapb::Peer::default() };
        metapb::Region {
            id: 1,
            start_key: "b".into(),
            end_key: "y".into(),
            region_epoch: Some(metapb::RegionEpoch { conf_ver: 3, version: 7 }),
            peers: vec![peer(11, 1), peer(12, 2), peer(13, 3)],
        }
    }

    fn cut(keys: &[&'static str], right_derive: bool) -> BatchSplitRequest {
        let split = |(number, key): (usize, &&'static str)| SplitRequest {
            split_key: (*key).into(),
            new_region_id: 100 + number as u64,
            new_peer_ids: (0..3).map(|peer| 200 + 10 * number as u64 + peer).collect(),
        };
        BatchSplitRequest { requests: keys.iter().enumerate().map(split).collect(), right_derive }
    }

    fn shapes(parts: &[metapb::Region]) -> Vec<String> {
        parts.iter().map(|part| format!("{part} {}", part.bounds())).collect()
    }

    #[test]
    fn the_parts_tile_the_region_and_either_end_keeps_the_id() {
        let right = split(&region(), &cut(&["f", "m"], true));
        assert_eq!(
            shapes(&right),
            [
                "r100 c3v9 {p200@s1 p201@s2 p202@s3} [b, f)",
                "r101 c3v9 {p210@s1 p211@s2 p212@s3} [f, m)",
                "r1 c3v9 {p11@s1 p12@s2 p13@s3} [m, y)",
            ]
        );
        let left = split(&region(), &cut(&["f", "m"], false));
        assert_eq!(left[0].id, 1);
        assert_eq!((left[1].id, left[2].id), (100, 101));
        assert_eq!(left[0].start_key, "b");
        assert_eq!(left[2].end_key, "y");
    }

    #[test]
    fn cuts_outside_or_out_of_order_are_refused() {
        for keys in [&["b"][..], &["y"], &["z"], &["a"], &["m", "f"], &["m", "m"], &[]] {
            assert!(check_split(&region(), &cut(keys, true)).is_err(), "{keys:?}");
        }
        assert_eq!(check_split(&region(), &cut(&["bb", "x"], true)), Ok(()));
        let mut short = cut(&["f"], true);
        short.requests[0].new_peer_ids.pop();
        assert!(check_split(&region(), &short).is_err());
    }

    fn change(kind: ConfChangeType, id: u64, store_id: u64) -> ChangePeerRequest {
        let peer = Some(metapb::Peer { id, store_id, ..metapb::Peer::default() });
        ChangePeerRequest { change_type: kind.into(), peer }
    }

    fn changed(region: &metapb::Region, changes: &[ChangePeerRequest]) -> Result<String, String> {
        let request = ChangePeerV2Request { changes: changes.to_vec() };
        change_peers(region, &request).map(|region| region.to_string())
    }

    #[test]
    fn one_change_is_made_at_once_and_several_go_through_the_joint_configuration() {
        use ConfChangeType::{AddLearnerNode, AddNode, RemoveNode};
        let learner = changed(&region(), &[change(AddLearnerNode, 14, 4)]).expect("a learner");
        assert_eq!(learner, "r1 c4v7 {p11@s1 p12@s2 p13@s3 p14@s4(learner)}");
        let removed = changed(&region(), &[change(RemoveNode, 12, 2)]).expect("one less");
        assert_eq!(removed, "r1 c4v7 {p11@s1 p13@s3}");

        let both = [change(AddNode, 14, 4), change(AddLearnerNode, 11, 1)];
        let request = ChangePeerV2Request { changes: both.to_vec() };
        let joint = change_peers(&region(), &request).expect("a swap");
        assert_eq!(joint.to_string(), "r1 c5v7 {p11@s1(demoting) p12@s2 p13@s3 p14@s4(incoming)}");
        assert!(is_joint(&joint));
        assert!(
            changed(&joint, &[change(RemoveNode, 12, 2)]).is_err(),
            "while joint, only leaving"
        );
        assert!(check_split(&joint, &cut(&["f"], true)).is_err());
        let left = changed(&joint, &[]).expect("leaving");
        assert_eq!(left, "r1 c7v7 {p11@s1(learner) p12@s2 p13@s3 p14@s4}");
    }

    #[test]
    fn changes_without_sense_are_refused() {
        use ConfChangeType::{AddLearnerNode, AddNode, RemoveNode};
        for changes in [
            &[change(AddNode, 11, 1)][..],
            &[change(AddNode, 99, 1)],
            &[change(RemoveNode, 14, 4)],
            &[change(AddLearnerNode, 14, 4), change(RemoveNode, 14, 4)],
            &[change(RemoveNode, 11, 1), change(AddNode, 14, 4)],
            &[],
        ] {
            assert!(changed(&region(), changes).is_err(), "{changes:?}");
        }
        let mut alone = region();
        alone.peers.truncate(1);
        assert!(changed(&alone, &[change(RemoveNode, 11, 1)]).is_err(), "nobody would be left");
    }
}
