//! What a store does when others are too slow, too fast or gone.

use super::*;
use crate::config::ByteSize;
use crate::engine::log::LogOperation;

impl Cluster {
    /// A write that is on its way.
    pub(super) fn begin_put(
        &mut self,
        region_id: u64,
        key: &str,
        value: &str,
    ) -> Receiver<Outcome<Written>> {
        let (context, store) = (self.context(region_id), self.leader(region_id).0);
        let mut batch = WriteBatch::new();
        batch.put(RAW, data_key(key.as_bytes()), value.to_string());
        let (reply, answers) = self.reply();
        self.send(store, context, CommandKind::Write { batch, reply });
        answers
    }
}

/// Before, such writes kept their permits until the region had a leader again, and the whole store stood still.
#[test]
fn a_write_that_no_leader_decides_about_is_unknown_after_a_while_and_answered_once() {
    let mut cluster = Cluster::led(3, 3);
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
    let mut cluster = Cluster::led(3, 3);
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

const LIMIT: ByteSize = ByteSize::kib(256);
const VALUE: ByteSize = ByteSize::kib(64);
/// What one entry with such a value takes, roughly.
const ENTRY: u64 = VALUE.0 + 1_024;

/// Writes far more than the limits while one actor of the only store does not turn; then it turns. Answers the most
/// bytes that waited for it.
fn most_that_waits(
    is_slow: impl Fn(&Store, usize) -> bool,
    waiting: impl Fn(&Store) -> u64,
) -> u64 {
    let mut cluster = Cluster::new(1, 1);
    let small = RaftConfig {
        log_waiting_size_max: LIMIT,
        apply_waiting_size_max: LIMIT,
        apply_size_max: VALUE,
        ..config()
    };
    cluster.reopen(1, small);
    cluster.run(2);
    let (mut most, mut answers) = (0, Vec::new());
    for number in 0..64 {
        let value = "v".repeat(VALUE.length());
        answers.push(cluster.begin_put(1, &format!("k{number}"), &value));
        let store = &mut cluster.machine(1).store;
        let turning: Vec<_> = (0..store.actors()).filter(|actor| !is_slow(store, *actor)).collect();
        while let Some(actor) = turning.iter().find(|actor| store.has_work(**actor)) {
            store.turn(*actor).expect("it works");
        }
        most = most.max(waiting(store));
    }
    assert!(answers.iter().all(|answer| answer.try_recv().is_err()), "its work is not done");
    cluster.settle();
    for answer in answers {
        done(answer.try_recv().expect("what had to wait goes on by itself"));
    }
    most
}

#[test]
fn a_slow_log_holds_no_more_in_memory_than_the_credit_of_a_worker() {
    let is_log_writer = |store: &Store, actor| matches!(store.locate(actor), Actor::LogWriter);
    let most = most_that_waits(is_log_writer, |store| {
        let operations = store.log_writer.1.iter().flat_map(|task| &task.operations);
        let entries = operations.filter_map(|operation| match operation {
            LogOperation::Append(_, entries) => Some(entries),
            _ => None,
        });
        entries.flatten().map(|entry| entry.data.len() as u64).sum()
    });
    assert!((LIMIT.0..LIMIT.0 + ENTRY).contains(&most), "{most} of 4 MiB");
}

#[test]
fn a_slow_data_engine_holds_no_more_in_memory_than_the_credit_of_a_worker() {
    let is_applier = |store: &Store, actor| matches!(store.locate(actor), Actor::Applier(_));
    let most = most_that_waits(is_applier, |store| {
        let messages = store.appliers.iter().flat_map(|(_, queue)| queue);
        let tasks = messages.filter_map(|message| match message {
            ApplyMessage::Apply(task) => Some(&task.entries),
            _ => None,
        });
        tasks.flatten().map(|entry| entry.data.len() as u64).sum()
    });
    assert!((LIMIT.0..LIMIT.0 + ENTRY).contains(&most), "{most} of 4 MiB");
}
