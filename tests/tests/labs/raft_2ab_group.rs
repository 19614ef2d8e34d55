//! Project 2AB, replication, as whole groups show it: logs that part and meet again, across elections and
//! partitions.
//!
//! Tests named `test_` run without pre-vote and check-quorum, as the course does. The others say what
//! holds instead with both on, as every store of ours has them.

use raft::StateRole::{Candidate, Follower, Leader, PreCandidate};
use raft::eraftpb::{HardState, Message, MessageType};
use raft::{INVALID_ID, StateRole};

use super::raft_network::*;

/// Every member has the same log: entries of these terms, this data in them, committed up to here.
fn assert_logs(network: &Network, terms: &[u64], data: &[&[u8]], committed: u64) {
    for member in network.members() {
        assert_eq!(member.terms(), terms, "log of {}", member.id);
        assert_eq!(member.data(), data, "data of {}", member.id);
        assert_eq!(member.raft_log.committed, committed, "commit of {}", member.id);
    }
}

fn roles(network: &Network) -> Vec<(StateRole, u64)> {
    network.members().map(Member::role).collect()
}

/// The six logs of figure 7 of the Raft paper, each beside that leader.
#[test]
fn test_leader_sync_follower_log_2ab() {
    let of_leader = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
    let of_followers: [&[u64]; 6] = [
        &[1, 1, 1, 4, 4, 5, 5, 6, 6],
        &[1, 1, 1, 4],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        &[1, 1, 1, 4, 4, 4, 4],
        &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ];
    for follower_terms in of_followers {
        let leader = Member::with_log(1, hard_state(8, INVALID_ID, 10), &log_of(&of_leader));
        let state = hard_state(7, INVALID_ID, 0);
        let follower = Member::with_log(2, state, &log_of(follower_terms));
        let mut network = Network::of(vec![leader, follower]);

        // The follower may refuse its vote; the third, of whom only the vote is seen, gives it.
        network.campaign(1);
        let msg_type = MessageType::MsgRequestVoteResponse;
        network.send([Message { msg_type, from: 3, to: 1, term: 9, ..Message::default() }]);
        network.propose(1, b"");

        let terms: Vec<u64> = of_leader.into_iter().chain([9, 9]).collect();
        assert_eq!(roles(&network), [(Leader, 9), (Follower, 9)], "{follower_terms:?}");
        assert_logs(&network, &terms, &[], 12);
    }
}

#[test]
fn test_leader_election_overwrite_newer_logs_2ab() {
    // 1 led in term 1 and reached only 2; 3 led in term 2, by the votes of 4 and 5, and reached nobody.
    let lives = [
        (hard_state(1, INVALID_ID, 0), &[1][..]),
        (hard_state(1, INVALID_ID, 0), &[1]),
        (hard_state(2, INVALID_ID, 0), &[2]),
        (hard_state(2, 3, 0), &[]),
        (hard_state(2, 3, 0), &[]),
    ];
    let members = (1..).zip(lives).map(|(id, (state, terms))| {
        Member::start(&course_config(id), &voters(5), state, &log_of(terms))
    });
    let mut network = Network::of(members.collect());

    network.campaign(1);
    assert_eq!(network[1].role(), (Follower, 2), "three of five know of an election in term 2");
    network.campaign(1);
    assert_eq!(network[1].role(), (Leader, 3));
    assert_logs(&network, &[1, 3], &[], 2);
}

#[test]
fn test_log_replication_2ab() {
    let mut network = Network::fresh(3);
    network.campaign(1);
    network.propose(1, b"first");
    assert_logs(&network, &[1, 1], &[b"first"], 2);

    network.campaign(2);
    network.propose(2, b"second");
    assert_logs(&network, &[1, 1, 2, 2], &[b"first", b"second"], 4);
    for id in 1..=3 {
        let applied = network[id].take_committed();
        assert_eq!(applied[1], data_entry(1, 2, b"first"), "of {id}");
        assert_eq!(applied[3], data_entry(2, 4, b"second"), "of {id}");
    }
}

#[test]
fn test_single_node_commit_2ab() {
    let mut network = Network::fresh(1);
    network.campaign(1);
    network.propose(1, b"some data");
    network.propose(1, b"more data");
    assert_logs(&network, &[1, 1, 1], &[b"some data", b"more data"], 3);
}

#[test]
fn test_commit_without_new_term_entry_2ab() {
    let mut network = Network::fresh(5);
    network.campaign(1);
    [3, 4, 5].into_iter().for_each(|other| network.cut(1, other));
    network.propose(1, b"first");
    network.propose(1, b"second");
    assert_eq!(network[1].raft_log.committed, 1, "two of five have them");

    // No proposal comes; the empty entry of the new leader's term commits what lies before it.
    network.recover();
    network.campaign(2);
    assert_logs(&network, &[1, 1, 1, 2], &[b"first", b"second"], 4);
}

#[test]
fn test_commit_with_heartbeat_2ab() {
    let mut network = Network::fresh(5);
    network.campaign(1);
    network.isolate(5);
    network.propose(1, b"first");
    network.propose(1, b"second");
    assert_eq!(network[5].raft_log.committed, 1);

    network.recover();
    network.beat(1);
    assert_logs(&network, &[1, 1, 1], &[b"first", b"second"], 3);
}

/// 1 is elected by 2, while 3, cut off from 1 only, campaigns in vain; then the link is mended.
fn duel(config: impl Fn(u64) -> raft::Config) -> Network {
    let mut network = Network::configured(3, config);
    network.cut(1, 3);
    network.campaign(1);
    network.campaign(3);
    assert_eq!(network[1].role(), (Leader, 1));
    network.recover();
    network
}

#[test]
fn test_dueling_candidates_2ab() {
    let mut network = duel(course_config);
    assert_eq!(network[3].role(), (Candidate, 1), "one vote for it, one against");

    network.campaign(3);
    assert_eq!(roles(&network), [(Follower, 2); 3], "its log is too short, its term high enough");
    let logs = network.members().map(|member| (member.terms(), member.raft_log.committed));
    assert_eq!(logs.collect::<Vec<_>>(), [(vec![1], 1), (vec![1], 1), (vec![], 0)]);
}

#[test]
fn a_duelling_store_deposes_nobody_and_is_caught_up() {
    let mut network = duel(store_config);
    assert_eq!(network[3].role(), (Follower, 1), "the refusal told it of the term");

    network.campaign(3);
    assert_eq!(roles(&network), [(Leader, 1), (Follower, 1), (PreCandidate, 1)]);
    network.beat(1);
    assert_eq!(roles(&network), [(Leader, 1), (Follower, 1), (Follower, 1)]);
    assert_logs(&network, &[1], &[], 1);
}

#[test]
fn test_candidate_concede_2ab() {
    let mut network = Network::fresh(3);
    network.isolate(1);
    network.campaign(1);
    network.campaign(3);
    assert_eq!(network[1].role(), (Candidate, 1));

    network.recover();
    network.beat(3);
    network.propose(3, b"force follower");
    network.beat(3);
    assert_eq!(network[1].role(), (Follower, 1));
    assert_logs(&network, &[1, 1], &[b"force follower"], 2);
}

/// An append of 2 to 1 from when 2 led, in term 2.
fn old_append() -> Message {
    Message {
        msg_type: MessageType::MsgAppend,
        from: 2,
        to: 1,
        term: 2,
        log_term: 2,
        index: 2,
        entries: vec![empty_entry(2, 3)].into(),
        ..Message::default()
    }
}

#[test]
fn test_old_messages_2ab() {
    let mut network = Network::fresh(3);
    [1, 2, 1].into_iter().for_each(|id| network.campaign(id));
    network.send([Message { log_term: 0, index: 0, ..old_append() }, old_append()]);
    assert_eq!(network[1].role(), (Leader, 3));

    network.propose(1, b"some data");
    assert_logs(&network, &[1, 2, 3, 3], &[b"some data"], 4);
}

/// With the safeguards on an old append is not silence: the answer says which term it is now.
#[test]
fn a_store_tells_an_old_leader_of_the_newer_term() {
    let mut member = Member::start(&store_config(1), &voters(3), hard_state(3, 1, 0), &[]);
    member.step(old_append()).expect("an append is heard");
    let answers: Vec<_> = member.take_messages();
    let answers: Vec<_> = answers.iter().map(|it| (it.msg_type, it.to, it.term)).collect();
    assert_eq!(answers, [(MessageType::MsgAppendResponse, 2, 3)]);
    assert_eq!((member.role(), member.terms()), ((Follower, 3), vec![]));
}

#[test]
fn test_proposal_2ab() {
    let cases: [(u64, &[u64], bool); 5] = [
        (3, &[], true),
        (3, &[3], true),
        (3, &[2, 3], false),
        (4, &[2, 3], false),
        (5, &[2, 3], true),
    ];
    for (size, dead, success) in cases {
        let mut network = Network::fresh(size).without(dead);
        network.campaign(1);
        network.propose(1, b"some data");
        match success {
            true => assert_logs(&network, &[1, 1], &[b"some data"], 2),
            false => assert_logs(&network, &[], &[], 0),
        }
        assert_eq!(network[1].term, 1, "{dead:?} of {size} dead");
    }
}

#[test]
fn test_heartbeat_update_commit_2ab() {
    for (failed, succeeded) in [(1, 1), (5, 3), (5, 10)] {
        let mut network = Network::fresh(3);
        network.campaign(1);
        network.isolate(1);
        (0..failed).for_each(|_| network.propose(1, b"lost"));
        assert_eq!(network[1].raft_log.committed, 1);

        network.campaign(2);
        (0..succeeded).for_each(|_| network.propose(2, b"kept"));
        let committed = 2 + succeeded;
        assert_eq!(network[2].raft_log.committed, committed);
        assert_eq!(network[3].raft_log.committed, committed);

        // 1 hears how far the group is, and has other entries at those indexes.
        network.recover();
        network.ignore(MessageType::MsgAppend);
        network.beat(2);
        assert_eq!(network[1].role(), (Follower, 2), "the heartbeat did arrive");
        assert_eq!(network[1].raft_log.committed, 1, "{failed} lost, {succeeded} kept");
    }
}

#[test]
fn test_leader_increase_next_2ab() {
    let leader = Member::with_log(1, hard_state(1, INVALID_ID, 0), &log_of(&[1, 1, 1]));
    let others = [2, 3].map(|id| Member::with_log(id, HardState::default(), &[]));
    let mut network = Network::of([leader].into_iter().chain(others).collect());
    network.campaign(1);
    network.propose(1, b"some data");

    // Three from before, the leader's first, the proposal; next is what follows.
    let progress = network[1].prs().get(2).expect("a leader tracks its followers");
    assert_eq!((progress.matched, progress.next_idx), (5, 6));
}
