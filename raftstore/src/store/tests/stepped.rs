//! Messages that nobody should have sent: whatever comes over the wire, a store goes on.
//!
//! One region of a running cluster is cut off from its other replicas, and one of its stores hears instead what a
//! seeded generator makes: true messages of that region again, cut short, with flipped bits, for others; and messages
//! of any kind with any numbers. They take the way of messages from the network. Another region of the same three
//! stores shows that these still serve.
//!
//! **Invariant.** Nothing panics. The one documented stop (a heartbeat of the current leader that commits more
//! than the replica has) is recognised and not provoked.
//!
//! What is believed: the content of entries. A leader has made it, and checked it, and every replica applies it alike;
//! so the generator takes it from true messages.

use std::sync::atomic::Ordering;

use protobuf::Message as _;
use raft::eraftpb::{Entry, Message, MessageType};
use skerry_proto::raft_serverpb::{ExtraMessage, ExtraMessageType};

use super::*;
use crate::time::splitmix64;

/// The region that hears nonsense, and the one that must not suffer.
const FUZZED: u64 = 1;
const SERVING: u64 = 2;
const SEEDS: u64 = 200;
const MESSAGES: u64 = 400;

/// Chance that can be repeated.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        splitmix64(self.0)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.next() as usize % all.len()]
    }

    /// A number near one that means something, or at an end of all numbers.
    fn near(&mut self, number: u64) -> u64 {
        match self.below(40) {
            0 => 0,
            1 => u64::MAX - self.below(3),
            2 => self.next() >> self.below(64),
            step => number.saturating_add(step % 8).saturating_sub(4),
        }
    }
}

/// True messages, and what they say of entries.
struct Heard {
    messages: Vec<RaftMessage>,
    entries: Vec<Entry>,
}

impl Heard {
    fn of(cluster: &Cluster) -> Heard {
        let of_region = cluster.overheard.iter().filter(|message| message.region_id == FUZZED);
        let messages: Vec<RaftMessage> = of_region.cloned().collect();
        let parsed = messages.iter().filter_map(|it| Message::parse_from_bytes(&it.message).ok());
        let mut entries: Vec<Entry> = parsed.flat_map(|message| message.entries).collect();
        entries.push(Entry::default());
        Heard { messages, entries }
    }

    /// The same message with entries that a leader could have made.
    fn with_true_content(&self, chance: &mut Chance, mut message: Message) -> Message {
        for entry in &mut message.entries {
            let known = chance.pick(&self.entries).clone();
            let (index, term) = (entry.index, entry.term);
            // The context of a read is no content.
            let data = std::mem::take(&mut entry.data);
            *entry = Entry { index, term, ..known };
            if matches!(message.msg_type, MessageType::MsgReadIndex | MessageType::MsgReadIndexResp)
            {
                entry.data = data;
            }
        }
        message
    }
}

/// A message of any kind, with numbers near those of the replica that will hear it.
fn invent(chance: &mut Chance, heard: &Heard, from: u64, replica: &PeerStatus) -> Message {
    let kind = (0..64).find_map(|_| {
        let number = i32::try_from(chance.below(24)).expect("small");
        protobuf::ProtobufEnum::from_i32(number)
    });
    let mut message = Message { from, to: replica.peer.id, ..Default::default() };
    message.set_msg_type(kind.unwrap_or(MessageType::MsgAppend));
    message.term = chance.near(replica.term);
    message.index = chance.near(replica.last);
    message.log_term = chance.near(replica.term);
    message.commit = chance.near(replica.commit);
    message.commit_term = chance.near(replica.term);
    message.reject_hint = chance.near(replica.last);
    message.reject = chance.one_in(2);
    if chance.one_in(8) {
        message.request_snapshot = chance.near(replica.last);
    }
    let first = match chance.one_in(4) {
        true => chance.near(replica.last),
        false => message.index.wrapping_add(1),
    };
    for number in 0..chance.below(4) {
        let index = first.wrapping_add(number);
        let data = match chance.one_in(2) {
            true => vec![7; usize::try_from(chance.below(40)).expect("small")],
            false => Vec::new(),
        };
        message.entries.push(Entry {
            index,
            term: message.term,
            data: data.into(),
            ..Entry::default()
        });
    }
    if chance.one_in(3) {
        let snapshots = heard.messages.iter().filter_map(|it| {
            Message::parse_from_bytes(&it.message).ok().filter(Message::has_snapshot)
        });
        let mut snapshot = snapshots.last().map(|mut it| it.take_snapshot()).unwrap_or_default();
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (chance.near(replica.last), chance.near(replica.term));
        message.set_snapshot(snapshot);
    }
    message.context = vec![3; usize::try_from(chance.below(40)).expect("small")].into();
    heard.with_true_content(chance, message)
}

/// The encoding of a true message, damaged; what can still be read has entries that a leader could have made.
fn damage(chance: &mut Chance, heard: &Heard, encoded: &[u8]) -> Vec<u8> {
    let mut bytes = encoded.to_vec();
    if chance.one_in(2) && !bytes.is_empty() {
        bytes.truncate(chance.below(bytes.len() as u64) as usize);
    }
    for _ in 0..chance.below(4) {
        if !bytes.is_empty() {
            let place = chance.below(bytes.len() as u64) as usize;
            bytes[place] ^= 1 << chance.below(8);
        }
    }
    match Message::parse_from_bytes(&bytes) {
        Ok(message) if !message.entries.is_empty() => {
            let message = heard.with_true_content(chance, message);
            message.write_to_bytes().expect("no required fields")
        }
        _ => bytes,
    }
}

/// One message for a replica.
fn make(chance: &mut Chance, heard: &Heard, replica: &PeerStatus) -> RaftMessage {
    let mut envelope = chance.pick(&heard.messages).clone();
    envelope.to_peer = Some(replica.peer);
    let from = *chance.pick(&replica.region.peers);
    envelope.from_peer = Some(from);
    envelope.message = match chance.below(4) {
        0 => envelope.message,
        1 => damage(chance, heard, &envelope.message).into(),
        _ => {
            let message = invent(chance, heard, from.id, replica);
            message.write_to_bytes().expect("no required fields").into()
        }
    };
    match chance.below(24) {
        0 => envelope.region_id = 90 + chance.below(9),
        1 => envelope.to_peer = Some(peer(chance.below(replica.peer.id), replica.peer.store_id)),
        2 => envelope.to_peer = Some(peer(replica.peer.id, chance.below(9))),
        3 => envelope.from_peer = Some(peer(chance.below(200), chance.below(9))),
        4 => envelope.from_peer = None,
        5 => envelope.to_peer = None,
        6 => {
            let (conf_ver, version) = (chance.near(1), chance.near(1));
            envelope.region_epoch = Some(metapb::RegionEpoch { conf_ver, version });
        }
        7 => envelope.region_epoch = None,
        8 => envelope.end_key = vec![b'z'; 3].into(),
        9 => {
            let mut extra = ExtraMessage::default();
            extra.set_type(ExtraMessageType::MsgCheckStalePeer);
            envelope.extra_msg = Some(extra);
        }
        _ => {}
    }
    // Both end the replica, as they should; the rest of the messages are then for one that is gone.
    envelope.is_tombstone = chance.one_in(600);
    if chance.one_in(600) {
        envelope.to_peer = Some(peer(replica.peer.id + 100, replica.peer.store_id));
    }
    envelope
}

/// The one message that must stop the process.
fn stops(envelope: &RaftMessage, replica: &PeerStatus) -> bool {
    let Ok(message) = Message::parse_from_bytes(&envelope.message) else { return false };
    message.get_msg_type() == MessageType::MsgHeartbeat
        && message.commit > replica.last
        && message.term == replica.term
        && message.from == replica.leader
}

/// Lets a store hear nonsense; answers how many messages it refused and of how many it would have died.
fn run(seed: u64) -> (u64, u64) {
    let mut chance = Chance(splitmix64(seed));
    let mut cluster = Cluster::led(3, 3);
    cluster.split(FUZZED, "m", SERVING);
    (0..20).for_each(|number| drop(cluster.put(FUZZED, &format!("x{number}"), "v")));
    cluster.run(20);
    let heard = Heard::of(&cluster);
    let target = 1 + chance.below(3);
    cluster.muted = Some(FUZZED);
    let (mut last_seen, mut stops_seen) = (None, 0);
    for number in 0..MESSAGES {
        let machine = cluster.machine(target);
        let all = machine.store.inspect();
        let present = all.iter().find(|it| it.region.id == FUZZED && it.last > 0).cloned();
        let replica = present.or(last_seen.take()).expect("it began with one");
        let envelope = make(&mut chance, &heard, &replica);
        last_seen = Some(replica);
        if all.iter().any(|it| it.region.id == envelope.region_id && stops(&envelope, it)) {
            stops_seen += 1;
            continue;
        }
        machine.store.receive(envelope);
        // What the next one must not stop on is known only when this one was heard.
        while let Some(actor) = (0..machine.store.actors()).find(|it| machine.store.has_work(*it)) {
            machine.store.turn(actor).expect("nothing fails");
        }
        if number % 8 == 0 {
            cluster.run(1);
        }
    }
    cluster.run(40);
    done(cluster.put(SERVING, "a", "1"));
    cluster.run(5);
    assert_eq!(cluster.value_on(target, "a").as_deref(), Some("1"), "seed {seed}");
    let counters = cluster.machines[&target].store.counters();
    (counters.messages_refused.load(Ordering::Relaxed), stops_seen)
}

#[test]
fn whatever_a_store_hears_it_goes_on() {
    let (mut refused, mut stops) = (0, 0);
    for seed in 0..SEEDS {
        let counts = run(seed);
        assert!(counts.0 > 0, "seed {seed}: nothing was refused");
        (refused, stops) = (refused + counts.0, stops + counts.1);
    }
    println!("{} messages: {refused} refused, {stops} would stop a store", SEEDS * MESSAGES);
    let all = SEEDS * MESSAGES;
    assert!(
        (all / 10..all * 9 / 10).contains(&refused),
        "{refused} of {all}: both ways must be tried"
    );
}
