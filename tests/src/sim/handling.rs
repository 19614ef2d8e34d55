//! How stores of the simulated world are turned: ticks, turns, messages, requests, and what comes out.
//!
//! Whatever happens to a store ends in [`World::after`], which carries what it wants to say, plans the turns
//! of actors that have work, and looks at the invariants.

use std::sync::Arc;

use bytes::Bytes;
use protobuf::ProtobufEnum as _;
use raft::eraftpb::MessageType;
use skerry_proto::raft_cmdpb::admin_request;
use skerry_proto::raft_serverpb::RaftMessage;
use skerry_proto::types::{PeerId, RegionId};
use skerry_raftstore::config::RaftConfig;
use skerry_raftstore::engine::{ColumnFamily, WriteBatch};
use skerry_raftstore::keys::data_key;
use skerry_raftstore::message::{
    Command, CommandContext, CommandKind, Consistency, RegionView, Written,
};
use skerry_raftstore::reply::{Outcome, Refusal};

use super::chance::Chance;
use super::clients::{Answer, Request, Way};
use super::faults::Part;
use super::invariants::{Broken, hold_store_alive};
use super::queue::Event;
use super::scheduler::Step;
use super::snapshots::{Transfer, carry};
use super::trace::{MILLISECOND, Moment};
use super::world::{Letter, Letters, World};
use crate::checker::Action;

/// Of so many turns one comes late, because the machine is busy.
const HICCUPS: u64 = 2_000;

/// Of a thousand answers to clients, those that get lost.
pub(super) const ANSWERS_LOST: u64 = 3;

impl World {
    pub(super) fn tick(&mut self, node: usize, life: u64) -> Result<(), Broken> {
        if self.nodes[node].life != life || self.nodes[node].store.is_none() {
            return Ok(());
        }
        let length = self.nodes[node].tick_length(self.config.tick_ms);
        if let Some(until) = self.sleeps(node) {
            // Of the threads that wake then, any may be the first.
            let wakes = until + self.chance.below(length);
            self.queue.plan(wakes, Event::Tick { node, life });
            return Ok(());
        }
        self.queue.plan(self.now + length, Event::Tick { node, life });
        self.nodes[node].move_clock(self.now);
        if let Some(store) = &mut self.nodes[node].store {
            store.tick();
        }
        self.after(node)
    }

    pub(super) fn turn(&mut self, node: usize, life: u64, actor: usize) -> Result<(), Broken> {
        if self.nodes[node].life != life || self.nodes[node].store.is_none() {
            return Ok(());
        }
        if let Some(until) = self.sleeps(node) {
            self.queue.plan(until, Event::Turn { node, life, actor });
            return Ok(());
        }
        let acting = &mut self.nodes[node];
        if acting.stalled[actor] > self.now {
            let event = Event::Turn { node, life, actor };
            self.queue.plan(acting.stalled[actor], event);
            return Ok(());
        }
        acting.scheduled[actor] = false;
        acting.move_clock(self.now);
        let store = acting.store.as_mut().expect("looked at above");
        let outcome = store.turn(actor);
        if acting.disk().is_dark() {
            // What was written before the power went may survive.
            self.look_at_records(node)?;
            self.lose_power(node);
            return Ok(());
        }
        hold_store_alive(&self.nodes[node], outcome)?;
        self.after(node)
    }

    pub(super) fn deliver(&mut self, node: usize, message: Box<RaftMessage>) -> Result<(), Broken> {
        if let Some(until) = self.sleeps(node) {
            self.queue.plan(until, Event::Deliver { node, message });
            return Ok(());
        }
        let Some(store) = &mut self.nodes[node].store else { return Ok(()) };
        self.invariants.delivered(node, &message, self.now);
        self.trace.mix(self.now, 1, message.region_id);
        self.trace.mix_bytes(&message.message);
        store.receive(*message);
        self.after(node)
    }

    pub(super) fn deliver_snapshot(
        &mut self,
        (from, life): (usize, u64),
        node: usize,
        message: Box<RaftMessage>,
    ) -> Result<(), Broken> {
        if let Some(until) = self.sleeps(node) {
            self.queue.plan(until, Event::DeliverSnapshot { from, life, node, message });
            return Ok(());
        }
        let region_id = RegionId::new(message.region_id);
        let to_peer = PeerId::new(message.to_peer.unwrap_or_default().id);
        let is_open = self.nodes[node].store.is_some() && self.network.is_open(from, node);
        let transfer = match is_open {
            true => carry(
                self.nodes[from].disk(),
                self.nodes[node].disk(),
                &message,
                self.settings.planted,
                &mut self.chance,
            ),
            false => Transfer::Failed,
        };
        self.trace.count(match transfer {
            Transfer::Arrived | Transfer::TakenDamaged => "snapshot sent",
            Transfer::Failed => "snapshot lost",
            Transfer::Refused => "damaged snapshot refused",
        });
        // A receiver may have the files from an earlier message, and throws away what comes, damaged or not.
        let arrived = matches!(transfer, Transfer::Arrived | Transfer::TakenDamaged);
        if self.nodes[from].life == life
            && let Some(sender) = &mut self.nodes[from].store
        {
            sender.snapshot_sent(region_id, to_peer, arrived);
            self.after(from)?;
        }
        if arrived { self.deliver(node, message) } else { Ok(()) }
    }

    /// Until when a paused store sleeps.
    pub(super) fn sleeps(&self, node: usize) -> Option<Moment> {
        let until = self.nodes[node].paused_until;
        (until > self.now).then_some(until)
    }

    // ---- Requests -----------------------------------------------------------------------------------

    pub(super) fn request(&mut self, request: Request) -> Result<(), Broken> {
        let Some(node) = self.node_of(request.store.get()) else { return Ok(()) };
        if let Some(until) = self.sleeps(node) {
            self.queue.plan(until, Event::Request(Box::new(request)));
            return Ok(());
        }
        let context = CommandContext {
            region_id: request.region.region_id(),
            epoch: request.region.epoch(),
            ..CommandContext::default()
        };
        self.nodes[node].move_clock(self.now);
        let acting = &mut self.nodes[node];
        let Some(store) = &mut acting.store else { return Ok(()) };
        let (id, steps) = (acting.id, self.steps);
        self.trace.tell(self.now, format_args!("c{}", request.client), || {
            let (action, key) = (&request.action, request.key.escape_ascii());
            format!("at {steps} asks {id} for {action:?} of {key} by {:?}", request.way)
        });
        let letters = self.letters.clone();
        let kind = match (&request.action, request.way) {
            (Action::Get, Way::Replica) => read(acting, &request, Consistency::Replica, letters),
            (Action::Get, Way::Lease) => {
                if let Some(outcome) = store.reader().read(&context) {
                    self.trace.count("lease read");
                    let outcome = match outcome {
                        Ok(view) => Outcome::Done(view),
                        Err(refusal) => Outcome::Refused(refusal),
                    };
                    post(&letters, &request, seen(outcome, &request.key));
                    return self.after(node);
                }
                self.trace.count("lease read not possible");
                let shows = acting.shows_at(self.now);
                let mut shown = self.invariants.shown(node);
                let has_expired = shown.any(|status| {
                    let is_over = status.lease.is_some_and(|until| until <= shows);
                    status.region.id == request.region.id && status.is_leader && is_over
                });
                if has_expired {
                    self.trace.count("lease expiry");
                }
                read(acting, &request, Consistency::Leader, letters)
            }
            (Action::Get, _) => read(acting, &request, Consistency::Leader, letters),
            _ => write(acting, &request, letters),
        };
        let store = self.nodes[node].store.as_mut().expect("looked at above");
        store.command(Command { context, kind });
        self.after(node)
    }

    pub(super) fn take_step(&mut self, step: Step) -> Result<(), Broken> {
        let Some(node) = self.node_of(step.leader.store_id) else { return Ok(()) };
        if self.sleeps(node).is_some() {
            return Ok(());
        }
        let context = CommandContext {
            region_id: step.region.region_id(),
            epoch: step.region.epoch(),
            ..CommandContext::default()
        };
        let (name, id) = (name_of(&step.command), self.nodes[node].id);
        self.trace.tell(self.now, "op", || format!("{id} {name} {}", step.region));
        self.plot_against_swap(node, &step);
        self.plot_against_newcomer(&step);
        let letters = self.letters.clone();
        let reply = self.nodes[node].replies.reply(move |outcome: Outcome<_>| {
            let ending = match outcome {
                Outcome::Done(_) => name,
                Outcome::Refused(_) => "operator: refused",
                Outcome::Unknown(_) => "operator: unknown",
            };
            letters.lock().expect("no holder panics").push(Letter::Operator(ending));
        });
        let acting = &mut self.nodes[node];
        let Some(store) = &mut acting.store else { return Ok(()) };
        store.command(Command {
            context,
            kind: CommandKind::Admin { request: step.command, reply },
        });
        self.after(node)
    }

    // ---- What comes out -----------------------------------------------------------------------------

    /// A store was touched.
    pub(super) fn after(&mut self, number: usize) -> Result<(), Broken> {
        let node = &mut self.nodes[number];
        let (digest, writes) = node.disk().written();
        if writes != node.traced_writes {
            node.traced_writes = writes;
            self.trace.mix(self.now, 3, digest);
        }
        for _ in 0..node.disk().take_without_room() {
            self.trace.count("snapshot without room");
        }
        let Some(store) = &mut node.store else { return Ok(()) };
        let (sent, reports) = (store.take_sent(), store.take_reports());
        let split_asks = store.take_split_asks();
        for actor in 0..store.actors() {
            if store.has_work(actor) && !node.scheduled[actor] {
                node.scheduled[actor] = true;
                let pause = turn_pause(&mut self.chance, &self.config, actor, node.disk_slowness);
                let turn = Event::Turn { node: number, life: node.life, actor };
                self.queue.plan(self.now + pause, turn);
            }
        }
        self.invariants.turned(&self.nodes, number, self.now, &mut self.trace)?;
        self.look_at_records(number)?;
        self.look_after_executor(number);
        for message in sent {
            self.invariants.sent(&self.nodes[number], &message)?;
            self.send(number, message);
        }
        for report in reports {
            self.invariants.reported(&report)?;
            if !self.chance.percent(5) {
                let arrives = self.now + self.chance.between(200, 20 * MILLISECOND);
                let arrives = arrives + self.report_delay();
                self.queue.plan(arrives, Event::Report(Box::new(report)));
            }
        }
        for ask in split_asks {
            let arrives = self.now + self.chance.between(200, 20 * MILLISECOND);
            self.queue.plan(arrives, Event::SplitAsk(Box::new(ask)));
        }
        self.post_letters(number)
    }

    fn send(&mut self, from: usize, message: RaftMessage) {
        let Some(to) = self.node_of(message.to_peer.unwrap_or_default().store_id) else { return };
        if kind_of(&message.message) == Some(MessageType::MsgSnapshot) {
            let arrives = self.now + self.chance.between(2 * MILLISECOND, 400 * MILLISECOND);
            let (life, message) = (self.nodes[from].life, Box::new(message));
            let event = Event::DeliverSnapshot { from, life, node: to, message };
            return self.queue.plan(arrives, event);
        }
        match self.network.send(from, to) {
            [None, None] => {
                if self.chance.percent(20)
                    && let Some(store) = &mut self.nodes[from].store
                {
                    let to_peer = PeerId::new(message.to_peer.unwrap_or_default().id);
                    store.unreachable(RegionId::new(message.region_id), to_peer);
                }
            }
            ways => {
                let held = self.held_back(from, to);
                for way in ways.into_iter().flatten() {
                    let message = Box::new(message.clone());
                    self.queue.plan(self.now + held + way, Event::Deliver { node: to, message });
                }
            }
        }
    }

    fn post_letters(&mut self, number: usize) -> Result<(), Broken> {
        let letters = std::mem::take(&mut *self.letters.lock().expect("no holder panics"));
        for letter in letters {
            match letter {
                Letter::Operator(ending) => self.trace.count(ending),
                Letter::Script { ticket, region, told } => self.hand_in(ticket, region, told)?,
                Letter::Client { client, attempt, region, is_replica_read, answer } => {
                    if let Answer::Written { index, term, .. } = answer {
                        self.invariants.answered(region, index, term)?;
                    }
                    let leads = self
                        .invariants
                        .shown(number)
                        .any(|status| status.region.id == region && status.is_leader);
                    if is_replica_read && !leads && matches!(answer, Answer::Found(_)) {
                        self.trace.count("follower read");
                    }
                    if self.chance.below(1_000) < ANSWERS_LOST {
                        continue;
                    }
                    let arrives = self.now + self.chance.between(100, MILLISECOND);
                    let answer = Box::new(answer);
                    self.queue.plan(arrives, Event::Answer { client, attempt, region, answer });
                }
            }
        }
        Ok(())
    }
}

/// How long an actor waits for its thread, or for its disk.
fn turn_pause(
    chance: &mut Chance,
    config: &RaftConfig,
    actor: usize,
    disk_slowness: u64,
) -> Moment {
    let hiccup = match chance.below(HICCUPS) {
        0 => chance.between(10 * MILLISECOND, 400 * MILLISECOND),
        _ => 0,
    };
    hiccup
        + match part_of(config, actor) {
            Part::Workers => chance.between(10, 300),
            Part::LogWriter => disk_slowness * chance.between(200, 2 * MILLISECOND),
            Part::Appliers => disk_slowness * chance.between(20, 500),
            Part::Store => chance.between(50, 500),
            Part::Background => disk_slowness * chance.between(MILLISECOND, 30 * MILLISECOND),
        }
}

/// Which kind an actor is, by its number.
pub(super) fn part_of(config: &RaftConfig, actor: usize) -> Part {
    let (workers, appliers) = (config.workers, config.apply_workers);
    match actor {
        _ if actor < workers => Part::Workers,
        _ if actor == workers => Part::LogWriter,
        _ if actor <= workers + appliers => Part::Appliers,
        _ if actor == workers + appliers + 1 => Part::Store,
        _ => Part::Background,
    }
}

/// The type of an encoded raft message, without decoding it: field 1 comes first and is left out for 0.
pub(super) fn kind_of(message: &[u8]) -> Option<MessageType> {
    match message {
        [0x08, kind, ..] => MessageType::from_i32(i32::from(*kind)),
        _ => None,
    }
}

fn name_of(command: &admin_request::Command) -> &'static str {
    match command {
        admin_request::Command::CompactLog(_) => "operator: compact",
        admin_request::Command::TransferLeader(_) => "operator: transfer",
        admin_request::Command::Splits(_) => "operator: split",
        admin_request::Command::ChangePeerV2(change) => match change.changes.len() {
            0 => "operator: leave joint",
            1 => "operator: change of one peer",
            _ => "operator: change of several peers",
        },
    }
}

fn post(letters: &Letters, request: &Request, answer: Answer) {
    letters.lock().expect("no holder panics").push(Letter::Client {
        client: request.client,
        attempt: request.attempt,
        region: request.region.id,
        is_replica_read: request.way == Way::Replica,
        answer,
    });
}

fn write(node: &super::node::Node, request: &Request, letters: Letters) -> CommandKind {
    let mut batch = WriteBatch::new();
    let key = data_key(&request.key);
    match &request.action {
        Action::Put(value) => batch.put(ColumnFamily::Raw, key, value.clone()),
        _ => batch.delete(ColumnFamily::Raw, key),
    }
    let request = Arc::new(request.clone());
    let reply = node.replies.reply(move |outcome: Outcome<Written>| {
        let answer = match outcome {
            Outcome::Done(Written { index, term }) => {
                Answer::Written { region_id: request.region.region_id(), index, term: term.get() }
            }
            Outcome::Refused(refusal) => Answer::Refused(refusal),
            Outcome::Unknown(_) => Answer::Unknown,
        };
        post(&letters, &request, answer);
    });
    CommandKind::Write { batch, reply }
}

fn read(
    node: &super::node::Node,
    request: &Request,
    consistency: Consistency,
    letters: Letters,
) -> CommandKind {
    let request = request.clone();
    let reply = node.replies.reply(move |outcome: Outcome<RegionView>| {
        let answer = seen(outcome, &request.key);
        post(&letters, &request, answer);
    });
    CommandKind::Read { consistency, reply }
}

/// What a view shows of a key, if the key lies in its region.
fn seen(outcome: Outcome<RegionView>, key: &Bytes) -> Answer {
    match outcome {
        Outcome::Done(RegionView { view, region, .. }) => {
            if !region.contains_key(key) {
                return Answer::Refused(Refusal::KeyNotInRegion { key: key.clone(), region });
            }
            Answer::Found(view.get(ColumnFamily::Raw, &data_key(key)).expect("memory is read"))
        }
        Outcome::Refused(refusal) => Answer::Refused(refusal),
        Outcome::Unknown(_) => Answer::Unknown,
    }
}
