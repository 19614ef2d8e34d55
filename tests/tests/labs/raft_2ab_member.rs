//! Project 2AB, replication, as one member alone shows it: what a leader sends and counts, what a follower
//! takes and refuses, and to whom a vote goes.
//!
//! The course counts and applies an entry from the moment that it is in memory; the crate waits until it is
//! persisted. Where the two differ, tests assert both steps, and `docs/testing.md` lists the difference.

use raft::eraftpb::{Entry, HardState, Message, MessageType};
use raft::{INVALID_ID, StateRole};

use super::raft_network::*;

/// An append of 2 to 1 in `term`, its entries after the one of (term, index) `previous`.
fn append_after(previous: (u64, u64), term: u64, entries: &[Entry], commit: u64) -> Message {
    Message {
        msg_type: MessageType::MsgAppend,
        from: 2,
        to: 1,
        term,
        log_term: previous.0,
        index: previous.1,
        entries: entries.to_vec().into(),
        commit,
        ..Message::default()
    }
}

/// A request of 2 to 1 for its vote, by a candidate whose log ends with (term, index) `last`.
fn vote_request(term: u64, last: (u64, u64)) -> Message {
    let (log_term, index) = last;
    let msg_type = MessageType::MsgRequestVote;
    Message { msg_type, from: 2, to: 1, term, log_term, index, ..Message::default() }
}

/// A new leader of a group, its first entry committed, proposes "some data" as entry 2.
fn leader_with_a_proposal(size: u64) -> Member {
    let mut leader = Member::fresh(1, size);
    leader.lead();
    assert_eq!(leader.raft_log.last_index(), 1);
    leader.step(proposal(1, b"some data")).expect("a leader takes proposals");
    leader
}

#[test]
fn test_leader_start_replication_2ab() {
    let mut leader = leader_with_a_proposal(3);
    assert_eq!((leader.raft_log.last_index(), leader.raft_log.committed), (2, 1));

    let entry = data_entry(1, 2, b"some data");
    let append =
        |to| Message { from: 1, to, ..append_after((1, 1), 1, std::slice::from_ref(&entry), 1) };
    assert_eq!(leader.take_messages(), [append(2), append(3)]);
    assert_eq!(leader.raft_log.unstable_entries(), [entry]);
}

#[test]
fn test_leader_commit_entry_2ab() {
    let mut leader = leader_with_a_proposal(3);
    for append in leader.take_messages() {
        leader.step(acceptance(&append)).expect("a leader hears its followers");
    }
    assert_eq!(leader.raft_log.committed, 2, "two of three have it, if not yet the leader");
    let told = leader.take_messages();
    let told = told.iter().map(|message| (message.msg_type, message.to, message.commit));
    let append = MessageType::MsgAppend;
    assert_eq!(told.collect::<Vec<_>>(), [(append, 2, 2), (append, 3, 2)]);

    assert_eq!(leader.take_committed(), [], "it is not applied before it is kept here too");
    leader.persist();
    assert_eq!(leader.take_committed(), [data_entry(1, 2, b"some data")]);
}

#[test]
fn test_leader_acknowledge_commit_2ab() {
    let cases: [(u64, &[u64], bool); 9] = [
        (1, &[], true),
        (3, &[], false),
        (3, &[2], true),
        (3, &[2, 3], true),
        (5, &[], false),
        (5, &[2], false),
        (5, &[2, 3], true),
        (5, &[2, 3, 4], true),
        (5, &[2, 3, 4, 5], true),
    ];
    for case @ (size, acceptors, acknowledged) in cases {
        let mut leader = leader_with_a_proposal(size);
        assert_eq!(leader.raft_log.committed, 1, "{case:?}: the leader's own has to be kept first");
        leader.persist();
        for append in leader.take_messages() {
            if acceptors.contains(&append.to) {
                leader.step(acceptance(&append)).expect("a leader hears its followers");
            }
        }
        assert_eq!(leader.raft_log.committed > 1, acknowledged, "{case:?}");
    }
}

#[test]
fn test_leader_commit_preceding_entries_2ab() {
    for terms in [&[][..], &[2], &[1, 2], &[1]] {
        let log = log_of(terms);
        let mut leader = Member::with_log(1, hard_state(2, INVALID_ID, 0), &log);
        leader.assume(StateRole::Leader);
        leader.step(proposal(1, b"some data")).expect("a leader takes proposals");
        for append in leader.take_messages() {
            leader.step(acceptance(&append)).expect("a leader hears its followers");
        }

        let last = log.len() as u64;
        assert_eq!(leader.raft_log.committed, last + 2, "{terms:?}");
        assert_eq!(leader.take_committed(), log, "{terms:?}: what is kept so far");
        leader.persist();
        let own = [empty_entry(3, last + 1), data_entry(3, last + 2, b"some data")];
        assert_eq!(leader.take_committed(), own, "{terms:?}");
    }
}

#[test]
fn test_follower_commit_entry_2ab() {
    let some = |index| data_entry(1, index, b"some data");
    let other = |index| data_entry(1, index, b"some data2");
    let cases = [
        (vec![some(1)], 1),
        (vec![some(1), other(2)], 2),
        (vec![other(1), some(2)], 2),
        (vec![some(1), other(2)], 1),
    ];
    for (entries, commit) in cases {
        let mut follower = Member::fresh(1, 3);
        follower.become_follower(1, 2);
        follower.step(append_after((0, 0), 1, &entries, commit)).expect("an append is heard");

        assert_eq!(follower.raft_log.committed, commit, "{entries:?}");
        assert_eq!(follower.take_committed(), [], "{entries:?}: nothing is kept yet");
        follower.persist();
        assert_eq!(follower.take_committed(), entries[..commit as usize]);
    }
}

#[test]
fn test_follower_check_message_type_msg_append_2ab() {
    // The log holds (term, index) (1, 1), which is committed, and (2, 2).
    let cases = [((0, 0), false), ((1, 1), false), ((2, 2), false), ((1, 2), true), ((3, 3), true)];
    for (previous, reject) in cases {
        let mut follower = Member::with_log(1, hard_state(2, INVALID_ID, 1), &log_of(&[1, 2]));
        follower.become_follower(2, 2);
        follower.step(append_after(previous, 2, &[], 0)).expect("an append is answered");

        let answers = follower.take_messages();
        let answers: Vec<_> = answers.iter().map(|it| (it.msg_type, it.term, it.reject)).collect();
        assert_eq!(answers, [(MessageType::MsgAppendResponse, 2, reject)], "{previous:?}");
    }
}

#[test]
fn test_follower_append_entries_2ab() {
    let entry = empty_entry;
    // (previous term and index, entries, the terms of the log then, what of it is to be persisted)
    let cases = [
        ((2, 2), vec![entry(3, 3)], vec![1, 2, 3], vec![entry(3, 3)]),
        ((1, 1), vec![entry(3, 2), entry(4, 3)], vec![1, 3, 4], vec![entry(3, 2), entry(4, 3)]),
        ((0, 0), vec![entry(1, 1)], vec![1, 2], vec![]),
        ((0, 0), vec![entry(3, 1)], vec![3], vec![entry(3, 1)]),
    ];
    for (previous, entries, terms, unstable) in cases {
        let mut follower = Member::with_log(1, HardState::default(), &log_of(&[1, 2]));
        follower.become_follower(2, 2);
        follower.step(append_after(previous, 2, &entries, 0)).expect("an append is heard");

        assert_eq!(follower.raft_log.all_entries(), log_of(&terms), "{entries:?}");
        assert_eq!(follower.raft_log.unstable_entries(), unstable, "{entries:?}");
        follower.persist();
        assert_eq!(follower.raft_log.all_entries(), log_of(&terms), "{entries:?}, persisted");
    }
}

#[test]
fn test_vote_request_2ab() {
    for terms in [&[1][..], &[1, 2]] {
        let last = (terms[terms.len() - 1], terms.len() as u64);
        let term = last.0 + 1;
        let mut member = Member::fresh(1, 3);
        let append = append_after((0, 0), last.0, &log_of(terms), 0);
        member.step(append).expect("an append is heard");
        member.persist();
        member.take_messages();
        member.wait_until(|member| member.state == StateRole::Candidate);

        let request = |to| Message { from: 1, to, ..vote_request(term, last) };
        assert_eq!(member.take_messages(), [request(2), request(3)]);
    }
}

#[test]
fn test_voter_2ab() {
    // (the voter's log, last term and index of the candidate's, refused)
    let cases: [(&[u64], (u64, u64), bool); 9] = [
        (&[1], (1, 1), false),
        (&[1], (1, 2), false),
        (&[1, 1], (1, 1), true),
        // The candidate's last term is higher.
        (&[1], (2, 1), false),
        (&[1], (2, 2), false),
        (&[1, 1], (2, 1), false),
        // The voter's is.
        (&[2], (1, 1), true),
        (&[2], (1, 2), true),
        (&[2, 1], (1, 1), true),
    ];
    for case @ (terms, last, reject) in cases {
        let log = log_of(terms);
        let mut voter = Member::start(&course_config(1), &voters(2), HardState::default(), &log);
        voter.step(vote_request(3, last)).expect("a request is answered");

        let answers = voter.take_messages();
        let answers: Vec<_> = answers.iter().map(|it| (it.msg_type, it.reject)).collect();
        assert_eq!(answers, [(MessageType::MsgRequestVoteResponse, reject)], "{case:?}");
    }
}

#[test]
fn test_leader_only_commits_log_from_current_term_2ab() {
    for (acknowledged, committed) in [(1, 0), (2, 0), (3, 3)] {
        let (state, log) = (hard_state(2, INVALID_ID, 0), log_of(&[1, 2]));
        let mut leader = Member::start(&course_config(1), &voters(2), state, &log);
        leader.assume(StateRole::Leader);
        assert_eq!(leader.role(), (StateRole::Leader, 3));
        leader.step(proposal(1, b"")).expect("a leader takes proposals");
        leader.persist();

        let answer = Message {
            msg_type: MessageType::MsgAppendResponse,
            from: 2,
            to: 1,
            term: 3,
            index: acknowledged,
            ..Message::default()
        };
        leader.step(answer).expect("a leader hears its follower");
        assert_eq!(leader.raft_log.committed, committed, "acknowledged up to {acknowledged}");
    }
}

#[test]
fn test_progress_leader_2ab() {
    let mut leader = Member::fresh(1, 2);
    leader.assume(StateRole::Leader);
    let of_itself = |leader: &Member| {
        let progress = leader.prs().get(1).expect("a leader tracks itself");
        (progress.matched, progress.next_idx)
    };
    for count in 1..=5 {
        assert_eq!(of_itself(&leader).0, count - 1, "the newest entry is not kept yet");
        leader.persist();
        assert_eq!(of_itself(&leader), (count, count + 1));
        leader.step(proposal(1, b"foo")).expect("a leader takes proposals");
    }
    assert_eq!(leader.raft_log.last_index(), 6);
}

#[test]
fn test_handle_message_type_msg_append_2ab() {
    let entry = |index| empty_entry(2, index);
    // The log holds (term, index) (1, 1) and (2, 2), of which nothing is committed.
    // (previous, entries, leader's commit, last index then, commit then, refused)
    let cases = [
        // Refused: the previous entry is another one, or is not there.
        ((3, 2), vec![], 3, 2, 0, true),
        ((3, 3), vec![], 3, 2, 0, true),
        // Taken: from the first conflict on the log is the leader's.
        ((1, 1), vec![], 1, 2, 1, false),
        ((0, 0), vec![entry(1)], 1, 1, 1, false),
        ((2, 2), vec![entry(3), entry(4)], 3, 4, 3, false),
        ((2, 2), vec![entry(3)], 4, 3, 3, false),
        ((1, 1), vec![entry(2)], 4, 2, 2, false),
        // Committed: what the leader has committed, and no more than is known to be the leader's.
        ((1, 1), vec![], 3, 2, 1, false),
        ((1, 1), vec![entry(2)], 3, 2, 2, false),
        ((2, 2), vec![], 3, 2, 2, false),
        ((2, 2), vec![], 4, 2, 2, false),
    ];
    for case in cases {
        let (previous, entries, commit, last_index, committed, reject) = case.clone();
        let (config, log) = (course_config(1), log_of(&[1, 2]));
        let mut member = Member::start(&config, &voters(1), HardState::default(), &log);
        member.become_follower(2, INVALID_ID);
        member.handle_append_entries(&append_after(previous, 2, &entries, commit));

        assert_eq!(member.raft_log.last_index(), last_index, "{case:?}");
        assert_eq!(member.raft_log.committed, committed, "{case:?}");
        let answers: Vec<_> = member.take_messages().iter().map(|answer| answer.reject).collect();
        assert_eq!(answers, [reject], "{case:?}");
    }
}

#[test]
fn test_recv_message_type_msg_request_vote_2ab() {
    use StateRole::{Candidate, Follower, Leader};
    // The log holds two entries of term 2, so what counts is to end with term 2 at 2 or later.
    let unvoted = (0..=3).flat_map(|index| (0..=3).map(move |log_term| (index, log_term)));
    let mut cases: Vec<_> = unvoted
        .map(|(index, log_term)| {
            let reject = log_term < 2 || (log_term == 2 && index < 2);
            (Follower, index, log_term, INVALID_ID, reject)
        })
        .collect();
    cases.extend([(Follower, 3, 2, 2, false), (Follower, 3, 2, 1, true)]);
    cases.extend([(Leader, 3, 3, 1, true), (Candidate, 3, 3, 1, true)]);
    assert_eq!(cases.len(), 20);

    for case @ (role, index, log_term, vote, reject) in cases {
        // Both are of the same term: this is about logs and votes, not about terms.
        let term = log_term.max(2);
        let (config, state) = (course_config(1), hard_state(term, vote, 0));
        let mut voter = Member::start(&config, &voters(1), state, &log_of(&[2, 2]));
        voter.state = role;
        voter.step(vote_request(term, (log_term, index))).expect("a request is answered");

        let answers = voter.take_messages();
        let answers: Vec<_> = answers.iter().map(|it| (it.msg_type, it.reject)).collect();
        assert_eq!(answers, [(MessageType::MsgRequestVoteResponse, reject)], "{case:?}");
    }
}

#[test]
fn test_all_server_stepdown_2ab() {
    let cases = [(StateRole::Follower, 0), (StateRole::Candidate, 0), (StateRole::Leader, 1)];
    for (role, length) in cases {
        let mut member = Member::fresh(1, 3);
        member.assume(role);
        let append = append_after((3, 0), 3, &[], 0);
        for (message, leader) in [(vote_request(3, (3, 0)), INVALID_ID), (append, 2)] {
            let msg_type = message.msg_type;
            member.step(message).expect("whoever is of a later term is heard");
            let case = format!("{role:?}, {msg_type:?}");
            assert_eq!(member.role(), (StateRole::Follower, 3), "{case}");
            assert_eq!(member.leader_id, leader, "{case}");
            assert_eq!(member.raft_log.last_index(), length, "{case}");
            assert_eq!(member.raft_log.all_entries().len() as u64, length, "{case}");
        }
    }
}
