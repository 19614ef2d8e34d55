//! Snapshots that a store need not take.

use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};

use super::*;

/// A leader's offer of a snapshot at this index.
fn offer(from: metapb::Peer, to: metapb::Peer, term: u64, index: u64) -> RaftMessage {
    let mut message = Message { from: from.id, to: to.id, term, ..Default::default() };
    message.set_msg_type(MessageType::MsgSnapshot);
    let metadata = message.mut_snapshot().mut_metadata();
    (metadata.index, metadata.term) = (index, term);
    let region = metapb::Region { id: 1, peers: vec![to], ..metapb::Region::default() };
    let data = skerry_proto::raft_serverpb::RaftSnapshotData {
        region: Some(region),
        ..Default::default()
    };
    message.mut_snapshot().data = prost::Message::encode_to_vec(&data).into();
    RaftMessage {
        region_id: 1,
        from_peer: Some(from),
        to_peer: Some(to),
        message: message.write_to_bytes().expect("no required fields").into(),
        region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version: 1 }),
        ..RaftMessage::default()
    }
}

#[test]
fn a_snapshot_that_a_replica_does_not_need_is_judged_before_its_bytes_come() {
    let mut cluster = Cluster::led(3, 3);
    (0..9).for_each(|number| drop(cluster.put(1, &format!("k{number}"), "v")));
    cluster.run(5);
    let (leader, status) = cluster.leader(1);
    let follower = leader % 3 + 1;
    let machine = cluster.machine(follower);
    let replica = machine.store.inspect().pop().expect("one replica");
    let (term, applied) = (replica.term, replica.applied);
    let judged = |machine: &Machine, to, term, index| {
        let offered = offer(status.peer, to, term, index);
        offered::judge(&machine.store.environment, &offered).expect("it reads")
    };
    let own = replica.peer;
    assert_eq!(judged(machine, own, term, applied + 9), Offer::Wanted);
    assert_eq!(judged(machine, own, term, applied), Offer::Had);
    assert_eq!(judged(machine, own, term - 1, applied + 9), Offer::OfOldTerm);
    let newer = peer(99, follower);
    assert_eq!(judged(machine, newer, term, applied), Offer::Wanted, "another replica is meant");

    // What it has is told to the leader at once, though no files are there.
    machine.store.receive(offer(status.peer, own, term, applied));
    (0..machine.store.actors()).for_each(|actor| machine.store.turn(actor).expect("it works"));
    let sent = machine.store.take_sent();
    let answers = sent.iter().map(|sent| Message::parse_from_bytes(&sent.message).expect("raft's"));
    let mut acks = answers.filter(|it| it.get_msg_type() == MessageType::MsgAppendResponse);
    assert!(acks.any(|ack| ack.index >= applied && !ack.reject), "{sent:?}");
}
