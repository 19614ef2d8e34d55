//! Raft as the labs see it: members on memory storage, and a network among them that a test damages.
//!
//! 1. A [`Member`] is the raft crate's state machine. Stepping it changes memory only; what it then wants
//!    kept goes to its storage with [`Member::persist`], as a store does with a ready.
//! 2. A [`Network`] steps a member, persists it, takes what it now says, and so on in the order of
//!    sending until nobody has anything left to say.
//! 3. Damage ([`Network::cut`] and its kind) lies on what members say, never on what a test itself sends.
//!
//! No time passes by itself: a test ticks. Nothing here is random but the crate's election timeouts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::{Deref, DerefMut, Index, IndexMut};

use protobuf::Message as _;
use raft::eraftpb::{ConfChange, Entry, EntryType, HardState, Message, MessageType};
use raft::storage::MemStorage;
use raft::{Config, Error, INVALID_ID, Raft, RawNode, StateRole};
use slog::Logger;

/// Messages after which a network that is still talking will never fall silent.
const MESSAGES_MAX: usize = 100_000;

/// Ticks after which what a member is waited for will never happen.
const TICKS_MAX: usize = 1_000;

/// What the course runs: ten ticks to an election, a heartbeat each tick, neither pre-vote nor
/// check-quorum, and messages of any size.
pub(crate) fn course_config(id: u64) -> Config {
    Config { election_tick: 10, heartbeat_tick: 1, max_size_per_msg: u64::MAX, ..Config::new(id) }
}

/// The same, with the two safeguards that a store of ours always has on.
pub(crate) fn store_config(id: u64) -> Config {
    Config { pre_vote: true, check_quorum: true, ..course_config(id) }
}

/// A group of one configuration and `size` voters: 1, 2 and so on.
pub(crate) fn voters(size: u64) -> Vec<u64> {
    (1..=size).collect()
}

/// What a member keeps of its votes and its commit index over a restart.
pub(crate) fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState { term, vote, commit, ..HardState::default() }
}

/// An entry without data.
pub(crate) fn empty_entry(term: u64, index: u64) -> Entry {
    Entry { term, index, ..Entry::default() }
}

/// An entry as a client's proposal makes it.
pub(crate) fn data_entry(term: u64, index: u64, data: &'static [u8]) -> Entry {
    Entry { data: data.into(), ..empty_entry(term, index) }
}

/// A log from index 1 on, given by the terms of its entries.
pub(crate) fn log_of(terms: &[u64]) -> Vec<Entry> {
    (1..).zip(terms).map(|(index, term)| empty_entry(*term, index)).collect()
}

/// A message that a member gives to itself, or a client to it: without a term.
pub(crate) fn local(id: u64, msg_type: MessageType) -> Message {
    Message { msg_type, from: id, to: id, ..Message::default() }
}

/// A client's proposal to `id`.
pub(crate) fn proposal(id: u64, data: &'static [u8]) -> Message {
    let entry = Entry { data: data.into(), ..Entry::default() };
    Message { entries: vec![entry].into(), ..local(id, MessageType::MsgPropose) }
}

/// What a follower answers that has taken all entries of `append`.
pub(crate) fn acceptance(append: &Message) -> Message {
    assert_eq!(append.msg_type, MessageType::MsgAppend, "only an append is accepted");
    Message {
        msg_type: MessageType::MsgAppendResponse,
        from: append.to,
        to: append.from,
        term: append.term,
        index: append.index + append.entries.len() as u64,
        ..Message::default()
    }
}

/// What a member finds when it starts.
fn storage_of(voters: &[u64], hard_state: HardState, log: &[Entry]) -> MemStorage {
    let storage = MemStorage::new_with_conf_state((voters.to_vec(), Vec::new()));
    storage.wl().append(log).expect("memory takes entries");
    storage.wl().set_hardstate(hard_state);
    storage
}

fn silent() -> Logger {
    Logger::root(slog::Discard, slog::o!())
}

/// A node, as the store drives raft, that is the only voter of its group.
pub(crate) fn node_alone(
    config: &Config,
    hard_state: HardState,
    log: &[Entry],
) -> RawNode<MemStorage> {
    node_over(config, storage_of(&[1], hard_state, log))
}

/// A node, as the store drives raft, that starts with what is in this storage.
pub(crate) fn node_over(config: &Config, storage: MemStorage) -> RawNode<MemStorage> {
    RawNode::new(config, storage, &silent()).expect("the configuration is valid")
}

/// Who votes in the group, as a member knows it.
pub(crate) fn voters_of(member: &Member) -> Vec<u64> {
    let mut voters = member.prs().conf().to_conf_state().voters;
    voters.sort_unstable();
    voters
}

/// Handles a ready at once, its changes of members too, and returns the entries that it had to keep and
/// those that it had to apply.
pub(crate) fn handle_ready(node: &mut RawNode<MemStorage>) -> (Vec<Entry>, Vec<Entry>) {
    let mut ready = node.ready();
    let entries = ready.take_entries();
    let mut committed = ready.take_committed_entries();
    node.store().wl().append(&entries).expect("memory takes entries");
    committed.extend(node.advance(ready).take_committed_entries());
    for entry in committed.iter().filter(|entry| entry.entry_type == EntryType::EntryConfChange) {
        let mut change = ConfChange::default();
        change.merge_from_bytes(&entry.data).expect("it was proposed whole");
        node.apply_conf_change(&change).expect("it changes one member");
    }
    node.advance_apply();
    (entries, committed)
}

/// One raft state machine with its memory storage; reads as the crate's [`Raft`] that it wraps.
pub(crate) struct Member {
    raft: Raft<MemStorage>,
}

impl Member {
    /// A member with nothing behind it, in the course's configuration.
    pub(crate) fn fresh(id: u64, size: u64) -> Member {
        Member::start(&course_config(id), &voters(size), HardState::default(), &[])
    }

    /// A member in the course's configuration, group of three, that has this log from an earlier life.
    pub(crate) fn with_log(id: u64, hard_state: HardState, log: &[Entry]) -> Member {
        Member::start(&course_config(id), &voters(3), hard_state, log)
    }

    /// A member that starts with what is in its storage.
    pub(crate) fn start(
        config: &Config,
        voters: &[u64],
        hard_state: HardState,
        log: &[Entry],
    ) -> Member {
        Member::over(config, storage_of(voters, hard_state, log))
    }

    /// A member that starts with what is in this storage.
    pub(crate) fn over(config: &Config, storage: MemStorage) -> Member {
        Member { raft: Raft::new(config, storage, &silent()).expect("the configuration is valid") }
    }

    /// Takes the role as an election would have given it: a follower follows 2 in term 1; candidate and
    /// leader are a term ahead of before. A leader's first, empty entry is not persisted yet.
    pub(crate) fn assume(&mut self, role: StateRole) {
        match role {
            StateRole::Follower => self.become_follower(1, 2),
            StateRole::PreCandidate => self.become_pre_candidate(),
            StateRole::Candidate => self.become_candidate(),
            StateRole::Leader => {
                self.become_candidate();
                self.become_leader();
            }
        }
    }

    /// Becomes leader and has its first, empty entry acknowledged by all, and nothing left to say.
    pub(crate) fn lead(&mut self) {
        self.assume(StateRole::Leader);
        self.persist();
        self.bcast_append();
        for append in self.take_messages() {
            self.step(acceptance(&append)).expect("a leader hears its followers");
        }
        assert_eq!(self.raft_log.committed, self.raft_log.last_index());
        self.take_committed();
        self.take_messages();
    }

    /// Lets ticks pass without hearing anybody.
    pub(crate) fn wait(&mut self, ticks: usize) {
        for _ in 0..ticks {
            self.tick();
        }
    }

    /// Ticks until `reached`, hearing nobody, and returns how many ticks that took.
    pub(crate) fn wait_until(&mut self, reached: impl Fn(&Member) -> bool) -> usize {
        let mut ticks = 0;
        while !reached(self) {
            assert!(ticks < TICKS_MAX, "still {:?} after {ticks} ticks", self.role());
            self.tick();
            ticks += 1;
        }
        ticks
    }

    /// Keeps what so far was in memory only, in the order in which a store writes a ready.
    pub(crate) fn persist(&mut self) {
        if let Some(snapshot) = self.raft_log.unstable_snapshot().clone() {
            let index = snapshot.get_metadata().index;
            self.store().wl().apply_snapshot(snapshot).expect("raft wants no older snapshot");
            self.raft_log.stable_snap(index);
            self.on_persist_snap(index);
            self.commit_apply(index);
        }
        let entries = self.raft_log.unstable_entries().to_vec();
        if let Some(last) = entries.last() {
            self.store().wl().append(&entries).expect("memory takes entries");
            self.raft_log.stable_entries(last.index, last.term);
            self.on_persist_entries(last.index, last.term);
        }
        let hard_state = self.hard_state();
        self.store().wl().set_hardstate(hard_state);
    }

    /// What it wants sent, by receiver; the order to each receiver is the order of sending.
    pub(crate) fn take_messages(&mut self) -> Vec<Message> {
        let mut messages = std::mem::take(&mut self.msgs);
        messages.sort_by_key(|message| message.to);
        messages
    }

    /// Applies what may be applied, and returns it.
    pub(crate) fn take_committed(&mut self) -> Vec<Entry> {
        let entries = self.raft_log.next_entries(None).unwrap_or_default();
        if let Some(last) = entries.last() {
            self.commit_apply(last.index);
        }
        entries
    }

    /// The terms of all its entries.
    pub(crate) fn terms(&self) -> Vec<u64> {
        self.raft_log.all_entries().iter().map(|entry| entry.term).collect()
    }

    /// The data of all its entries that have any.
    pub(crate) fn data(&self) -> Vec<Vec<u8>> {
        let entries = self.raft_log.all_entries();
        entries.iter().map(|entry| entry.data.to_vec()).filter(|data| !data.is_empty()).collect()
    }

    /// What it is, in which term.
    pub(crate) fn role(&self) -> (StateRole, u64) {
        (self.state, self.term)
    }
}

impl Deref for Member {
    type Target = Raft<MemStorage>;

    fn deref(&self) -> &Raft<MemStorage> {
        &self.raft
    }
}

impl DerefMut for Member {
    fn deref_mut(&mut self) -> &mut Raft<MemStorage> {
        &mut self.raft
    }
}

/// Members that talk to each other, and what is broken between them. Whoever is not there takes
/// every message and answers none.
pub(crate) struct Network {
    members: BTreeMap<u64, Member>,
    /// Links (from, to) that lose everything.
    lost: BTreeSet<(u64, u64)>,
    /// Types that are lost on every link.
    ignored: Vec<MessageType>,
}

impl Network {
    /// `size` fresh members in the course's configuration.
    pub(crate) fn fresh(size: u64) -> Network {
        Network::configured(size, course_config)
    }

    /// `size` fresh members.
    pub(crate) fn configured(size: u64, config: impl Fn(u64) -> Config) -> Network {
        let ids = voters(size);
        let start = |id| Member::start(&config(id), &ids, HardState::default(), &[]);
        Network::of(ids.iter().map(|id| start(*id)).collect())
    }

    /// These members and no others.
    pub(crate) fn of(members: Vec<Member>) -> Network {
        let members = members.into_iter().map(|member| (member.id, member)).collect();
        Network { members, lost: BTreeSet::new(), ignored: Vec::new() }
    }

    /// The same without some of its members, which stay voters.
    pub(crate) fn without(mut self, dead: &[u64]) -> Network {
        self.members.retain(|id, _| !dead.contains(id));
        self
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// Loses all that goes from one to another; the way back stays whole.
    pub(crate) fn drop_messages(&mut self, from: u64, to: u64) {
        self.lost.insert((from, to));
    }

    /// Loses all between two members.
    pub(crate) fn cut(&mut self, one: u64, other: u64) {
        self.drop_messages(one, other);
        self.drop_messages(other, one);
    }

    /// Cuts a member off from all others.
    pub(crate) fn isolate(&mut self, id: u64) {
        let others: Vec<u64> = self.members.keys().copied().filter(|other| *other != id).collect();
        others.into_iter().for_each(|other| self.cut(id, other));
    }

    /// Loses every message of a type.
    pub(crate) fn ignore(&mut self, msg_type: MessageType) {
        self.ignored.push(msg_type);
    }

    /// Mends everything. What was lost stays lost.
    pub(crate) fn recover(&mut self) {
        self.lost.clear();
        self.ignored.clear();
    }

    /// Delivers the messages, then what they make members say, until all are silent.
    pub(crate) fn send(&mut self, messages: impl IntoIterator<Item = Message>) {
        let mut waiting: VecDeque<Message> = messages.into_iter().collect();
        let mut delivered = 0;
        while let Some(message) = waiting.pop_front() {
            delivered += 1;
            assert!(delivered < MESSAGES_MAX, "the members talk for ever, now of {message:?}");
            let id = message.to;
            let Some(member) = self.members.get_mut(&id) else { continue };
            match member.step(message) {
                // Refusing a proposal is an answer; a test that cares asks the member itself.
                Ok(()) | Err(Error::ProposalDropped) => {}
                Err(error) => panic!("member {id} failed: {error}"),
            }
            waiting.extend(self.spoken(id));
        }
    }

    /// Lets a tick pass for one member, and delivers what that makes it say.
    pub(crate) fn tick(&mut self, id: u64) {
        self[id].tick();
        let spoken = self.spoken(id);
        self.send(spoken);
    }

    /// Makes a member campaign, its timeout or not.
    pub(crate) fn campaign(&mut self, id: u64) {
        self.send([local(id, MessageType::MsgHup)]);
    }

    /// Makes a leader send its heartbeats.
    pub(crate) fn beat(&mut self, id: u64) {
        self.send([local(id, MessageType::MsgBeat)]);
    }

    /// Proposes at a member.
    pub(crate) fn propose(&mut self, id: u64, data: &'static [u8]) {
        self.send([proposal(id, data)]);
    }

    /// Asks the member `at` that leadership go to `target`.
    pub(crate) fn transfer(&mut self, at: u64, target: u64) {
        self.send([Message { from: target, ..local(at, MessageType::MsgTransferLeader) }]);
    }

    /// Has a member persist, and takes what it says that is not lost on its way.
    fn spoken(&mut self, id: u64) -> Vec<Message> {
        self[id].persist();
        let messages = self[id].take_messages();
        let arrives = |message: &Message| {
            assert_ne!(message.to, INVALID_ID, "a message without a receiver: {message:?}");
            let link = (message.from, message.to);
            !self.lost.contains(&link) && !self.ignored.contains(&message.msg_type)
        };
        messages.into_iter().filter(arrives).collect()
    }
}

impl Index<u64> for Network {
    type Output = Member;

    fn index(&self, id: u64) -> &Member {
        self.members.get(&id).expect("this member is in the network")
    }
}

impl IndexMut<u64> for Network {
    fn index_mut(&mut self, id: u64) -> &mut Member {
        self.members.get_mut(&id).expect("this member is in the network")
    }
}
