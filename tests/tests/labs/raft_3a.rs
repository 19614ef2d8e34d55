//! Project 3A: members come and go, and leadership is handed over.
//!
//! Tests named `test_` run without pre-vote and check-quorum, as the course does. The others say what
//! holds instead with both on, as every store of ours has them.

use protobuf::Message as _;
use raft::StateRole::{Candidate, Follower, Leader};
use raft::eraftpb::{
    ConfChange, ConfChangeType, ConfChangeV2, Entry, EntryType, HardState, Message, MessageType,
};
use raft::prelude::ConfChangeSingle;
use raft::storage::{MemStorage, Storage};
use raft::{Error, GetEntriesContext, RawNode, StateRole};

use super::raft_network::*;

/// A change of one member, as the course proposes it.
fn change(change_type: ConfChangeType, node_id: u64) -> ConfChange {
    ConfChange { change_type, node_id, ..ConfChange::default() }
}

/// Applies a change of one member, and returns who then votes.
fn apply(
    member: &mut Member,
    change_type: ConfChangeType,
    node_id: u64,
) -> Result<Vec<u64>, Error> {
    let single = ConfChangeSingle { change_type, node_id, ..ConfChangeSingle::default() };
    let change = ConfChangeV2 { changes: vec![single].into(), ..ConfChangeV2::default() };
    member.apply_conf_change(&change)?;
    Ok(voters_of(member))
}

#[test]
fn test_add_node_3a() {
    let mut member = Member::fresh(1, 1);
    assert_eq!(apply(&mut member, ConfChangeType::AddNode, 2), Ok(vec![1, 2]));
}

#[test]
fn test_remove_node_3a() {
    let mut member = Member::fresh(1, 2);
    assert_eq!(apply(&mut member, ConfChangeType::RemoveNode, 2), Ok(vec![1]));

    // The course goes on to a group of nobody; the crate has none.
    let refused = apply(&mut member, ConfChangeType::RemoveNode, 1);
    assert!(matches!(refused, Err(Error::ConfChangeError(_))), "{refused:?}");
    assert_eq!(voters_of(&member), [1]);
}

#[test]
fn test_commit_after_remove_node_3a() {
    let mut leader = Member::start(&course_config(1), &voters(2), HardState::default(), &[]);
    leader.assume(StateRole::Leader);
    let removal = change(ConfChangeType::RemoveNode, 2).write_to_bytes().expect("it has a size");
    let entry =
        Entry { entry_type: EntryType::EntryConfChange, data: removal.into(), ..Entry::default() };
    let entries = vec![entry].into();
    leader
        .step(Message { entries, ..local(1, MessageType::MsgPropose) })
        .expect("a leader takes proposals");
    leader.persist();
    assert_eq!(leader.take_committed(), [], "one of two has it");
    let removed_at = leader.raft_log.last_index();
    leader.step(proposal(1, b"hello")).expect("a leader takes proposals");
    leader.persist();

    // 2 acknowledges its own removal, and no more.
    let msg_type = MessageType::MsgAppendResponse;
    let answer = Message { msg_type, from: 2, to: 1, index: removed_at, ..Message::default() };
    leader.step(answer).expect("a leader hears its follower");
    let committed = leader.take_committed();
    let types: Vec<_> = committed.iter().map(|entry| entry.entry_type).collect();
    assert_eq!(types, [EntryType::EntryNormal, EntryType::EntryConfChange]);
    assert!(committed[0].data.is_empty());

    // Of a group of one, the leader alone is the quorum that "hello" has been waiting for.
    assert_eq!(apply(&mut leader, ConfChangeType::RemoveNode, 2), Ok(vec![1]));
    assert_eq!(leader.take_committed(), [data_entry(1, 3, b"hello")]);
}

/// Three members of whom 1 leads, in term 1.
fn led_by_one(config: impl Fn(u64) -> raft::Config) -> Network {
    let mut network = Network::configured(3, config);
    network.campaign(1);
    assert_eq!((network[1].role(), network[1].leader_id), ((Leader, 1), 1));
    network
}

/// What 1, from whom leadership goes, has become and whom it follows.
fn after_transfer(network: &Network) -> (StateRole, u64) {
    (network[1].state, network[1].leader_id)
}

/// Leadership goes to 2 and back, each time asked of whom `asked_of` chooses from (leader, target).
fn leadership_goes_and_comes(asked_of: impl Fn(u64, u64) -> u64) {
    let mut network = led_by_one(course_config);
    network.transfer(asked_of(1, 2), 2);
    assert_eq!(after_transfer(&network), (Follower, 2));

    // Proposed at the follower, who passes it on.
    network.propose(1, b"between");
    assert_eq!(network[2].data(), [b"between"]);
    network.transfer(asked_of(2, 1), 1);
    assert_eq!(after_transfer(&network), (Leader, 1));
}

#[test]
fn test_leader_transfer_to_up_to_date_node_3a() {
    leadership_goes_and_comes(|leader, _| leader);
}

#[test]
fn test_leader_transfer_to_up_to_date_node_from_follower_3a() {
    leadership_goes_and_comes(|_, target| target);
}

#[test]
fn test_leader_transfer_to_slow_follower_3a() {
    let mut network = led_by_one(course_config);
    network.isolate(3);
    network.propose(1, b"missed");
    network.recover();
    assert_eq!(network[1].prs().get(3).expect("3 is a voter").matched, 1);

    network.transfer(1, 3);
    assert_eq!(after_transfer(&network), (Follower, 3));
    assert_eq!(network[3].data(), [b"missed"], "it had to be caught up first");
}

#[test]
fn test_leader_transfer_after_snapshot_3a() {
    let mut network = led_by_one(course_config);
    network.isolate(3);
    network.propose(1, b"missed");
    assert_eq!(network[1].take_committed().len(), 2);
    network[1].store().wl().compact(2).expect("all of it is applied");
    network.recover();
    assert_eq!(network[1].prs().get(3).expect("3 is a voter").matched, 1);

    network.transfer(1, 3);
    let msg_type = MessageType::MsgHeartbeatResponse;
    network.send([Message { msg_type, from: 3, to: 1, ..Message::default() }]);
    assert_eq!(after_transfer(&network), (Follower, 3));
    assert_eq!(network[3].raft_log.first_index(), 3, "a snapshot at 2 stands for what was missed");
}

#[test]
fn test_leader_transfer_to_self_3a() {
    let mut network = led_by_one(course_config);
    network.transfer(1, 1);
    assert_eq!(after_transfer(&network), (Leader, 1));
    assert_eq!(network[1].lead_transferee, None);
}

#[test]
fn test_leader_transfer_to_non_existing_node_3a() {
    let mut network = led_by_one(course_config);
    network.transfer(1, 4);
    assert_eq!(after_transfer(&network), (Leader, 1));
    assert_eq!(network[1].lead_transferee, None);
}

/// A transfer to 3, who is cut off, and so does not end.
fn pending_transfer(config: impl Fn(u64) -> raft::Config) -> Network {
    let mut network = led_by_one(config);
    network.isolate(3);
    network.transfer(1, 3);
    assert_eq!(after_transfer(&network), (Leader, 1));
    assert_eq!(network[1].lead_transferee, Some(3));
    let refused = network[1].step(proposal(1, b"meanwhile"));
    assert_eq!(refused, Err(Error::ProposalDropped), "nothing new while the target catches up");
    network
}

#[test]
fn test_leader_transfer_receive_higher_term_vote_3a() {
    let mut network = pending_transfer(course_config);
    network.campaign(2);
    assert_eq!(after_transfer(&network), (Follower, 2));
    assert_eq!(network[1].lead_transferee, None);
}

#[test]
fn test_leader_transfer_remove_node_3a() {
    let mut network = led_by_one(course_config);
    assert_eq!(apply(&mut network[1], ConfChangeType::RemoveNode, 3), Ok(vec![1, 2]));
    network.transfer(1, 3);
    assert_eq!(after_transfer(&network), (Leader, 1));
    assert_eq!(network[1].lead_transferee, None);
}

#[test]
fn test_leader_transfer_back_3a() {
    let mut network = pending_transfer(course_config);
    network.transfer(1, 1);
    assert_eq!(after_transfer(&network), (Leader, 1));
    network[1].step(proposal(1, b"again")).expect("it leads as before");
}

#[test]
fn test_leader_transfer_second_transfer_to_another_node_3a() {
    let mut network = pending_transfer(course_config);
    network.transfer(1, 2);
    assert_eq!(after_transfer(&network), (Follower, 2));
}

#[test]
fn test_transfer_non_member_3a() {
    let mut member = Member::start(&course_config(1), &[2, 3, 4], HardState::default(), &[]);
    let from = |from, msg_type| Message { msg_type, from, to: 1, ..Message::default() };
    for message in [
        from(2, MessageType::MsgTimeoutNow),
        from(2, MessageType::MsgRequestVoteResponse),
        from(3, MessageType::MsgRequestVoteResponse),
    ] {
        member.step(message).expect("it is ignored");
    }
    assert_eq!(member.role(), (Follower, 0));
}

/// The target asks for votes at once and in earnest: no pre-vote, and no lease of the leader in its way.
#[test]
fn a_transfer_between_stores_is_not_held_up_by_the_lease() {
    let mut network = led_by_one(store_config);
    network.beat(1);
    network.ignore(MessageType::MsgRequestPreVote);
    network.transfer(1, 2);
    assert_eq!(after_transfer(&network), (Follower, 2));
    assert_eq!(network[2].role(), (Leader, 2));

    // The same campaign without a transfer is held up.
    network.recover();
    network.campaign(3);
    assert_eq!(network[2].role(), (Leader, 2));
    assert_ne!(network[3].state, Candidate);
}

#[test]
fn a_store_gives_a_transfer_up_after_an_election_time() {
    let mut network = pending_transfer(store_config);
    (0..9).for_each(|_| network.tick(1));
    assert_eq!(network[1].lead_transferee, Some(3));
    network.tick(1);
    assert_eq!(network[1].lead_transferee, None);
    assert_eq!(after_transfer(&network), (Leader, 1));
    network.propose(1, b"again");
    assert_eq!(network[1].raft_log.committed, 2);
}

/// The only voter of its group, who leads it.
fn leader_alone() -> RawNode<MemStorage> {
    let mut node = node_alone(&course_config(1), HardState::default(), &[]);
    assert!(!node.has_ready(), "nothing has happened: {:?}", node.ready());
    node.campaign().expect("a follower campaigns");
    handle_ready(&mut node);
    assert_eq!(node.raft.leader_id, 1);
    node
}

#[test]
fn test_raw_node_propose_and_conf_change_3a() {
    let mut node = leader_alone();
    let addition = change(ConfChangeType::AddNode, 1);
    node.propose(Vec::new(), b"somedata".to_vec()).expect("a leader takes proposals");
    node.propose_conf_change(Vec::new(), addition.clone()).expect("a leader takes proposals");

    let entries = node.raft.raft_log.all_entries();
    let [.., data, conf_change] = &entries[..] else { panic!("too few: {entries:?}") };
    assert_eq!(*data, data_entry(1, 2, b"somedata"));
    assert_eq!(conf_change.entry_type, EntryType::EntryConfChange);
    assert_eq!(conf_change.data, addition.write_to_bytes().expect("it has a size"));
}

#[test]
fn test_raw_node_propose_add_duplicate_node_3a() {
    let mut node = leader_alone();
    for id in [1, 1, 2] {
        let addition = change(ConfChangeType::AddNode, id);
        node.propose_conf_change(Vec::new(), addition).expect("a leader takes proposals");
        handle_ready(&mut node);
    }

    let last = node.store().last_index().expect("memory knows its end");
    let context = GetEntriesContext::empty(false);
    let entries = node.store().entries(last - 2, last + 1, None, context);
    let entries = entries.expect("memory has its last entries");
    let additions: Vec<_> = entries.iter().map(|entry| entry.data.to_vec()).collect();
    let bytes = |id| change(ConfChangeType::AddNode, id).write_to_bytes().expect("it has a size");
    assert_eq!(additions, [bytes(1), bytes(1), bytes(2)]);
    let mut voters = node.raft.prs().conf().to_conf_state().voters;
    voters.sort_unstable();
    assert_eq!(voters, [1, 2]);
}
