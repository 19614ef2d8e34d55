//! What a store does when others are too slow, too fast or gone.

use super::*;

impl Cluster {
    /// A write that is on its way.
    fn begin_put(&mut self, region_id: u64, key: &str, value: &str) -> Receiver<Outcome<Written>> {
        let (context, store) = (self.context(region_id), self.leader(region_id).0);
        let mut batch = WriteBatch::new();
        batch.put(RAW, data_key(key.as_bytes()), value.to_string());
        let (reply, answers) = self.reply();
        self.send(store, context, CommandKind::Write { batch, reply });
        answers
    }

    fn machine(&mut self, store: u64) -> &mut Machine {
        self.machines.get_mut(&store).expect("it is there")
    }
}

/// Before, such writes kept their permits until the region had a leader again, and the whole store stood still.
#[test]
fn a_write_that_no_leader_decides_about_is_unknown_after_a_while_and_answered_once() {
    let mut cluster = Cluster::new(3, 3);
    cluster.run(40);
    let (leader, _) = cluster.leader(1);
    cluster.machine(leader).is_cut_off = true;
    let answers = cluster.begin_put(1, "a", "1");
    cluster.run(1);
    let early = config().unknown_after_ticks as usize - 10;
    cluster.run(early);
    assert!(!cluster.machine(leader).store.inspect()[0].is_leader, "it has lost its quorum");
    assert!(answers.try_recv().is_err(), "a new leader may decide yet");
    cluster.run(20);
    let told = answers.try_recv();
    assert!(matches!(told, Ok(Outcome::Unknown(_))), "{told:?}");

    // Whatever becomes of the entry now, nobody is told again, and the region serves.
    cluster.machine(leader).is_cut_off = false;
    cluster.run(60);
    done(cluster.put(1, "b", "2"));
    assert!(answers.try_recv().is_err());
    assert_eq!(cluster.replies.dropped(), 0);
}

#[test]
fn a_write_that_its_leader_still_works_on_is_waited_for() {
    let mut cluster = Cluster::new(3, 3);
    cluster.run(40);
    let leader = cluster.leader(1).0;
    let answers = cluster.begin_put(1, "a", "1");
    // Its followers hear it and answer, but their disks do not turn.
    for _ in 0..2 * config().unknown_after_ticks {
        cluster.clock.advance_ms(100);
        let machine = cluster.machine(leader);
        machine.store.tick();
        (0..machine.store.actors()).for_each(|actor| machine.store.turn(actor).expect("it works"));
        // Otherwise check-quorum would end its leadership.
        let beats = machine.store.take_sent();
        let answers = beats.iter().filter_map(answer_to_beat).collect::<Vec<_>>();
        answers.into_iter().for_each(|answer| cluster.machine(leader).store.receive(answer));
    }
    assert!(cluster.machine(leader).store.inspect()[0].is_leader);
    assert!(answers.try_recv().is_err(), "its leader can still decide");
}

/// What a follower that hears a heartbeat says.
fn answer_to_beat(heard: &RaftMessage) -> Option<RaftMessage> {
    use protobuf::Message as _;
    use raft::eraftpb::{Message, MessageType};

    let beat = Message::parse_from_bytes(&heard.message).expect("raft has made it");
    if beat.get_msg_type() != MessageType::MsgHeartbeat {
        return None;
    }
    let mut answer =
        Message { from: beat.to, to: beat.from, term: beat.term, ..Default::default() };
    answer.set_msg_type(MessageType::MsgHeartbeatResponse);
    Some(RaftMessage {
        from_peer: heard.to_peer,
        to_peer: heard.from_peer,
        message: answer.write_to_bytes().expect("no required fields").into(),
        start_key: Default::default(),
        end_key: Default::default(),
        ..heard.clone()
    })
}
