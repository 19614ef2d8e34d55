//! A world that a script drives: nothing goes wrong and nobody asks anything unless the script says so.
//!
//! 1. [`World::scripted`] begins with a replica of the first region on every store and all stores running.
//! 2. [`World::ask_store`] sends an [`Errand`] to a store, as a client or the scheduler would; [`World::pass`] lets
//!    time go by, and [`World::take_answer`] looks whether the answer has come. An answer may never come: stores
//!    lose power, and a few answers get lost on their way.
//! 3. In between the script cuts and spoils the network and turns power off and on.
//! 4. [`World::finish`] ends as every run ends: all heals, clients get on, replicas agree, the history is checked.
//!
//! The invariants are looked at after every step here as in any other world.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use skerry_proto::metapb::{Peer, Region};
use skerry_proto::raft_cmdpb::admin_request;
use skerry_proto::types::StoreId;
use skerry_raftstore::config::RaftConfig;
use skerry_raftstore::engine::log::LogEngine;
use skerry_raftstore::engine::{ColumnFamily, Engine, WriteBatch};
use skerry_raftstore::message::{
    AdminDone, Command, CommandContext, CommandKind, Consistency, RegionView, Written,
};
use skerry_raftstore::peer::PeerStatus;
use skerry_raftstore::reply::{Outcome, Refusal, Replies, Reply};

use super::chance::Chance;
use super::handling::ANSWERS_LOST;
use super::invariants::Broken;
use super::network::Network;
use super::queue::Event;
use super::trace::{MILLISECOND, Moment};
use super::world::{Letter, Letters, World};
use super::{Failure, Settings, Summary};

/// What a script wants of a store.
#[derive(Clone, Debug)]
pub struct Errand {
    /// The store.
    pub store: StoreId,
    /// The region, as the script believes it to be.
    pub context: CommandContext,
    /// What.
    pub wish: Wish,
}

/// What a script wants done.
#[derive(Clone, Debug)]
pub enum Wish {
    /// Change pairs; keys are data keys.
    Write(WriteBatch),
    /// A view.
    Read(Consistency),
    /// Change the region itself.
    Admin(admin_request::Command),
}

/// How it ended.
#[derive(Debug)]
pub enum Told {
    /// The write was applied.
    Written(Written),
    /// The view.
    View(RegionView),
    /// The region was changed.
    Changed(AdminDone),
    /// It certainly did not happen.
    Refused(Refusal),
    /// Nobody can say.
    Unknown,
}

/// Names an errand until its answer is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Errands that were sent, and the answers that have come.
#[derive(Debug, Default)]
pub(super) struct Desk {
    sent: u64,
    answers: BTreeMap<Ticket, Told>,
}

impl World {
    /// A world with a replica of the first region on every store, all of them running.
    pub fn scripted(settings: Settings, config: RaftConfig) -> Result<World, Failure> {
        let stores = settings.stores;
        let mut world = World::of(settings, stores, config);
        world.voters_wanted = None;
        for node in 0..stores {
            world.power_on(node)?;
        }
        Ok(world)
    }

    /// Lets time go by.
    pub fn pass(&mut self, span: Moment) -> Result<(), Failure> {
        let outcome = self.run_until(self.now + span);
        outcome.map_err(|broken| self.failure(&broken))
    }

    /// What time it is.
    pub fn now(&self) -> Moment {
        self.now
    }

    /// Sends an errand.
    pub fn ask_store(&mut self, errand: Errand) -> Ticket {
        self.desk.sent += 1;
        let ticket = Ticket(self.desk.sent);
        let arrives = self.now + self.chance.between(100, MILLISECOND);
        self.queue.plan(arrives, Event::Errand(Box::new(errand), ticket));
        ticket
    }

    /// The answer, if it has come.
    pub fn take_answer(&mut self, ticket: Ticket) -> Option<Told> {
        self.desk.answers.remove(&ticket)
    }

    /// Lets the clients that the settings name begin, or fall silent.
    pub fn set_busy(&mut self, is_busy: bool) {
        if is_busy && !self.is_busy {
            for client in 0..self.clients.len() {
                let at = self.now + self.chance.below(50 * MILLISECOND);
                self.queue.plan(at, Event::Ask { client });
            }
        }
        self.is_busy = is_busy;
    }

    /// Turns a store's power off: it stops at once, and its disk loses what was not synced.
    pub fn power_off(&mut self, node: usize) {
        if self.nodes[node].store.is_some() {
            self.lose_power_now(node);
        }
    }

    /// Turns a store's power on again.
    pub fn power_on(&mut self, node: usize) -> Result<(), Failure> {
        self.start(node).map_err(|broken| self.failure(&broken))
    }

    /// A store loses power in the middle of a turn, so many writes from now; it comes back by itself.
    pub fn power_off_at_write(&mut self, node: usize, writes: u64) {
        self.nodes[node].disk().pull_plug_after(writes);
    }

    /// The network.
    pub fn network(&mut self) -> &mut Network {
        &mut self.network
    }

    /// Whatever the script wants to leave to the seed.
    pub fn chance(&mut self) -> &mut Chance {
        &mut self.chance
    }

    /// Counts something that the script did.
    pub fn count(&mut self, what: &'static str) {
        self.trace.tell(self.now, "!", || what.to_string());
        self.trace.count(what);
    }

    /// A line of the story.
    pub fn tell(&self, what: impl FnOnce() -> String) {
        self.trace.tell(self.now, "lab", what);
    }

    /// How often something has happened so far.
    pub fn count_of(&self, what: &str) -> u64 {
        self.trace.counts().get(what).copied().unwrap_or(0)
    }

    /// How many stores there are.
    pub fn stores(&self) -> usize {
        self.nodes.len()
    }

    /// Whether a store runs.
    pub fn is_on(&self, node: usize) -> bool {
        self.nodes[node].store.is_some()
    }

    /// The store with a number.
    pub fn store_id(&self, node: usize) -> StoreId {
        self.nodes[node].id
    }

    /// The number of a store.
    pub fn number_of(&self, store: StoreId) -> usize {
        self.node_of(store.get()).expect("all stores are known")
    }

    /// What the replicas of a store showed last; nothing while it is off.
    pub fn shown(&self, node: usize) -> impl Iterator<Item = &PeerStatus> {
        self.invariants.shown(node)
    }

    /// The data engine of a store, which is there also while the store is off.
    pub fn engine(&self, node: usize) -> Arc<dyn Engine> {
        self.nodes[node].disk().engine()
    }

    /// The raft log of a store.
    pub fn log(&self, node: usize) -> Arc<dyn LogEngine> {
        self.nodes[node].disk().log()
    }

    /// The region of a key as the scheduler has heard of it, and its leader.
    pub fn look_up(&self, key: &[u8]) -> Option<(Region, Option<Peer>)> {
        self.scheduler.look_up(key)
    }

    /// A replica that never was, for a store that has none of the region.
    pub fn new_learner(&mut self, store: StoreId) -> Peer {
        self.scheduler.new_learner(store)
    }

    /// The command that cuts a region at a key; nothing while the scheduler knows a newer region.
    pub fn split_command(&mut self, region: &Region, key: Bytes) -> Option<admin_request::Command> {
        self.scheduler.split_at(region, vec![key])
    }

    /// The regions as their leaders show them, in the order of their keys.
    pub fn regions(&self) -> Vec<Arc<Region>> {
        self.led_regions()
    }

    /// Everything heals, clients get on and fall silent, replicas agree, and the history has an order.
    pub fn finish(&mut self) -> Result<Summary, Failure> {
        let outcome = self.heal().and_then(|()| {
            self.set_busy(true);
            self.must_get_on()?;
            self.must_agree()
        });
        outcome.map_err(|broken| self.failure(&broken))?;
        self.read_everything();
        self.summary()
    }

    /// An errand reaches its store.
    pub(super) fn run_errand(&mut self, errand: Errand, ticket: Ticket) -> Result<(), Broken> {
        let Some(number) = self.node_of(errand.store.get()) else { return Ok(()) };
        let Errand { context, wish, .. } = errand;
        let region = context.region_id.get();
        self.nodes[number].move_clock(self.now);
        let node = &mut self.nodes[number];
        let Some(store) = &mut node.store else { return Ok(()) };
        let (replies, letters) = (&node.replies, &self.letters);
        let desk = (ticket, region);
        let kind = match wish {
            Wish::Write(batch) => {
                let reply = reply(replies, letters, desk, Told::Written);
                CommandKind::Write { batch, reply }
            }
            Wish::Read(consistency) => {
                let reply = reply(replies, letters, desk, Told::View);
                CommandKind::Read { consistency, reply }
            }
            Wish::Admin(request) => {
                let reply = reply(replies, letters, desk, Told::Changed);
                CommandKind::Admin { request, reply }
            }
        };
        store.command(Command { context, kind });
        self.after(number)
    }

    /// An answer comes for the script.
    pub(super) fn hand_in(
        &mut self,
        ticket: Ticket,
        region: u64,
        told: Told,
    ) -> Result<(), Broken> {
        if let Told::Written(Written { index, term }) = &told {
            self.trace.mix(self.now, 5, *index);
            self.invariants.answered(region, *index, term.get())?;
        }
        if self.chance.below(1_000) >= ANSWERS_LOST {
            self.desk.answers.insert(ticket, told);
        }
        Ok(())
    }
}

/// A reply that puts its answer into the letters.
fn reply<T: 'static>(
    replies: &Arc<Replies>,
    letters: &Letters,
    (ticket, region): (Ticket, u64),
    done: fn(T) -> Told,
) -> Reply<T> {
    let letters = letters.clone();
    replies.reply(move |outcome| {
        let told = match outcome {
            Outcome::Done(value) => done(value),
            Outcome::Refused(refusal) => Told::Refused(refusal),
            Outcome::Unknown(_) => Told::Unknown,
        };
        let letter = Letter::Script { ticket, region, told };
        letters.lock().expect("no holder panics").push(letter);
    })
}

/// What lies under a user's key in an engine.
pub fn value_in(engine: &dyn Engine, family: ColumnFamily, key: &[u8]) -> Option<Bytes> {
    engine.get(family, &skerry_raftstore::keys::data_key(key)).expect("memory is read")
}
