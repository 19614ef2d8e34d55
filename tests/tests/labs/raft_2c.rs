//! Project 2C in raft: snapshots that are sent, taken over and ignored, and a start behind one.

use raft::StateRole;
use raft::eraftpb::{Message, MessageType, Snapshot};
use raft::storage::MemStorage;

use super::raft_network::*;

/// What stands for the first `index` entries of a group of these voters.
fn snapshot(index: u64, term: u64, voters: &[u64]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = (index, term);
    metadata.mut_conf_state().voters = voters.to_vec();
    snapshot
}

/// A snapshot as a leader sends it.
fn snapshot_message(from: u64, to: u64, term: u64, snapshot: Snapshot) -> Message {
    let msg_type = MessageType::MsgSnapshot;
    Message { msg_type, from, to, term, snapshot: Some(snapshot).into(), ..Message::default() }
}

/// A storage that begins with a snapshot.
fn storage_behind(snapshot: Snapshot) -> MemStorage {
    let storage = MemStorage::new();
    storage.wl().apply_snapshot(snapshot).expect("an empty storage takes a snapshot");
    storage
}

#[test]
fn test_raw_node_restart_from_snapshot_2c() {
    let storage = storage_behind(snapshot(2, 1, &[1, 2]));
    let entry = data_entry(1, 3, b"foo");
    storage.wl().append(std::slice::from_ref(&entry)).expect("memory takes entries");
    storage.wl().set_hardstate(hard_state(1, 0, 3));
    let mut node = node_over(&course_config(1), storage);

    let ready = node.ready();
    assert_eq!(*ready.committed_entries(), [entry]);
    assert!(ready.entries().is_empty() && ready.snapshot().is_empty());
    let light = node.advance(ready);
    assert_eq!((light.commit_index(), light.committed_entries().len()), (None, 0));
    node.advance_apply();
    assert!(!node.has_ready(), "left over: {:?}", node.ready());
}

#[test]
fn test_restore_snapshot_2c() {
    let mut member = Member::fresh(1, 2);
    let message = snapshot_message(2, 1, 11, snapshot(11, 11, &[1, 2, 3]));
    member.step(message).expect("a follower takes a snapshot");
    assert_eq!(member.raft_log.last_index(), 11);
    assert_eq!(member.raft_log.term(11), Ok(11));
    assert_eq!(voters_of(&member), [1, 2, 3]);

    // The same once it is kept.
    member.persist();
    assert_eq!((member.raft_log.last_index(), member.raft_log.term(11)), (11, Ok(11)));
    assert_eq!(member.raft_log.committed, 11);
}

#[test]
fn test_restore_ignore_snapshot_2c() {
    let mut member = Member::with_log(1, hard_state(1, 0, 3), &log_of(&[1, 1, 1]));
    let message = snapshot_message(2, 1, 1, snapshot(1, 1, &[1, 2]));
    member.step(message).expect("it is ignored");
    assert_eq!((member.raft_log.committed, member.raft_log.last_index()), (3, 3));
    assert_eq!(voters_of(&member), [1, 2, 3]);
    assert!(member.raft_log.unstable_snapshot().is_none());
}

#[test]
fn test_provide_snap_2c() {
    let storage = storage_behind(snapshot(11, 11, &[1, 2]));
    let mut member = Member::over(&course_config(1), storage);
    member.assume(StateRole::Leader);
    member.persist();
    member.take_messages();

    // 2 needs an entry that only the snapshot has.
    let progress = member.mut_prs().get_mut(2).expect("2 is a voter");
    (progress.next_idx, progress.recent_active) = (10, true);
    member.step(proposal(1, b"somedata")).expect("a leader takes proposals");
    let messages = member.take_messages();
    let types: Vec<_> = messages.iter().map(|message| message.msg_type).collect();
    assert_eq!(types, [MessageType::MsgSnapshot]);
    assert_eq!(messages[0].get_snapshot().get_metadata().index, 11);
}

#[test]
fn test_restore_from_snap_msg_2c() {
    let mut member = Member::fresh(2, 2);
    let message = snapshot_message(1, 2, 2, snapshot(11, 11, &[1, 2]));
    member.step(message).expect("a follower takes a snapshot");
    assert_eq!(member.leader_id, 1);
    assert_eq!(member.role(), (StateRole::Follower, 2));
}

#[test]
fn test_restore_from_snap_with_overlaping_peers_msg_2c() {
    let mut member = Member::fresh(3, 3);
    let message = snapshot_message(1, 3, 2, snapshot(11, 11, &[2, 3, 4]));
    member.step(message).expect("a follower takes a snapshot");
    assert_eq!(member.leader_id, 1);
    assert_eq!(voters_of(&member), [2, 3, 4]);
}

#[test]
fn test_slow_node_restore_2c() {
    let mut network = Network::fresh(3);
    network.campaign(1);
    network.isolate(3);
    for _ in 0..=100 {
        network.propose(1, b"missed");
    }
    let committed = network[1].raft_log.committed;
    assert_eq!(committed, 102);
    assert_eq!(network[1].take_committed().len(), 102);
    network[1].store().wl().compact(committed).expect("all of it is applied");
    network.recover();

    // The leader learns from the answer to its heartbeat that 3 is there again.
    network.beat(1);
    network.propose(1, b"after");
    assert_eq!(network[1].raft_log.committed, committed + 1);
    assert_eq!(network[3].raft_log.committed, committed + 1);
    assert!(network[3].raft_log.first_index() > 2, "a snapshot stands for what was missed");
}
