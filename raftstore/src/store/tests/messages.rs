//! Messages that no honest store would send, and one that none would want to.

use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};

use super::*;

/// The last heartbeat that a leader has sent to the replica on `store`.
fn heartbeat_to(cluster: &Cluster, store: u64) -> (RaftMessage, Message) {
    let to_store = |message: &&RaftMessage| message.to_peer.is_some_and(|to| to.store_id == store);
    let parsed = cluster.overheard.iter().filter(to_store).map(|envelope| {
        let message = Message::parse_from_bytes(&envelope.message).expect("raft has made it");
        (envelope.clone(), message)
    });
    let mut beats = parsed.filter(|(_, beat)| beat.get_msg_type() == MessageType::MsgHeartbeat);
    beats.next().expect("a leader beats")
}

#[test]
fn a_store_whose_leader_knows_of_more_than_it_has_ends_and_says_what_was_lost() {
    let mut cluster = Cluster::led(3, 3);
    let leader = cluster.leader(1).0;
    let follower = if leader == 1 { 2 } else { 1 };
    let (envelope, mut beat) = heartbeat_to(&cluster, follower);
    beat.commit = 1_000;
    let message = beat.write_to_bytes().expect("no required fields").into();
    let store = &mut cluster.machine(follower).store;
    store.receive(RaftMessage { message, ..envelope });
    let error = turn_all(store).expect_err("it has lost what it had acknowledged").to_string();
    for words in ["the raft log of r1", "lost acknowledged entries", "1000", "from a copy"] {
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn an_old_leader_that_claims_more_is_not_believed() {
    let mut cluster = Cluster::led(3, 3);
    let leader = cluster.leader(1).0;
    let follower = if leader == 1 { 2 } else { 1 };
    let (envelope, mut beat) = heartbeat_to(&cluster, follower);
    (beat.commit, beat.term) = (1_000, beat.term - 1);
    let message = beat.write_to_bytes().expect("no required fields").into();
    let store = &mut cluster.machine(follower).store;
    store.receive(RaftMessage { message, ..envelope });
    turn_all(store).expect("it goes on");
    cluster.settle();
    done(cluster.put(1, "a", "1"));
}

/// Lets the raft workers of a store take what waits for them, and nobody else.
fn turn_workers(store: &mut Store) {
    for worker in 0..store.workers.len() {
        while store.has_work(worker) {
            store.turn(worker).expect("nothing fails");
        }
    }
}

#[test]
fn an_invitation_to_lead_waits_until_what_is_under_way_has_ended() {
    let mut cluster = Cluster::led(3, 3);
    let (leader, status) = cluster.leader(1);
    let follower = if leader == 1 { 2 } else { 1 };
    let (envelope, mut invitation) = heartbeat_to(&cluster, follower);
    invitation.set_msg_type(MessageType::MsgTimeoutNow);
    let message = invitation.write_to_bytes().expect("no required fields").into();
    // An entry is on its way to the follower's disk when its leader wants it to lead.
    let (reply, _answers) = cluster.reply();
    let mut batch = WriteBatch::new();
    batch.put(RAW, data_key(b"a"), "1");
    cluster.send(leader, cluster.context(1), CommandKind::Write { batch, reply });
    turn_workers(&mut cluster.machine(leader).store);
    let sent = cluster.machine(leader).store.take_sent();
    let to_follower = |it: &RaftMessage| it.to_peer.is_some_and(|to| to.store_id == follower);
    let store = &mut cluster.machine(follower).store;
    sent.into_iter().filter(to_follower).for_each(|entry| store.receive(entry));
    turn_workers(store);
    store.receive(RaftMessage { message, ..envelope });
    turn_workers(store);
    let now = &store.inspect()[0];
    assert_eq!((now.is_leader, now.term), (false, status.term), "its log is not durable");
    cluster.settle();
    let (leads, now) = cluster.leader(1);
    assert_eq!((leads, now.term), (follower, status.term + 1), "nobody asks it twice");
    assert_eq!(cluster.value_on(follower, "a"), Some("1".to_string()));
}
