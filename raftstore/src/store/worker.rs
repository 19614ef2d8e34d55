//! A raft worker: owns the replicas of the regions that fall to it, for their lives.
//!
//! A round:
//!
//! 1. takes messages; each goes to its replica, which steps raft, proposes, answers or refuses;
//! 2. every replica that was touched turns what raft wants into effects, as long as the worker has credit
//!    ([`crate::credits`]); those that found none stay touched, and the first of them begins the next round.
//!
//! Replicas that sleep are not ticked. What is for one wakes it, and so does a change of a store that it minds
//! ([`super::neighbours`]). At each tick a few are looked at, and all of them between two reports, so that sleeping
//! leaders report.
//!
//! **Invariant.** Nothing of a replica is touched but in a round of its worker, so two regions never wait for
//! each other but within one batch, and code of replicas is written as if there was one thread.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use raft::eraftpb::HardState;
use skerry_proto::raft_serverpb::{RaftApplyState, RaftMessage};
use skerry_proto::types::{RegionId, StoreId};
use slog::warn;

use super::neighbours::{Neighbours, beacon_of};
use crate::Result;
use crate::credits::{Credit, Credits};
use crate::effects::Effects;
use crate::engine::log::LogOperation;
use crate::environment::{Counters, Environment};
use crate::message::LogTask;
use crate::message::{
    Applied, Command, CommandKind, NewPeer, Origin, PeerSerial, Persisted, StoreMessage,
    WorkerMessage,
};
use crate::peer::{Peer, PeerStatus};
use crate::planted::Planted;
use crate::reply::Refusal;
use crate::state::{initial_apply_state, initial_hard_state, local_state};

/// See the module.
pub(super) struct RaftWorker {
    environment: Environment,
    peers: BTreeMap<RegionId, Peer>,
    /// Those that are ticked.
    awake: BTreeSet<RegionId>,
    neighbours: Neighbours,
    /// Where the next look at sleepers begins.
    next_look: RegionId,
    /// Looks that are due, in parts of one: as many as there are ticks between reports.
    looks_due: usize,
    /// Touched in this round, or in one before that had no credit for them.
    dirty: BTreeSet<RegionId>,
    /// Where a round begins: otherwise regions with small ids could use up all credit for ever.
    next_in_turn: RegionId,
    /// Serials are never given twice: workers take every n-th number.
    next_serial: u64,
    serial_step: u64,
}

impl RaftWorker {
    /// A worker without replicas; `number` of `count`.
    pub(super) fn new(environment: &Environment, number: usize, count: usize) -> RaftWorker {
        let credits = Arc::new(Credits::new(&environment.config));
        RaftWorker {
            environment: Environment { credits, ..environment.clone() },
            peers: BTreeMap::new(),
            awake: BTreeSet::new(),
            neighbours: Neighbours::new(environment, number),
            next_look: RegionId::default(),
            looks_due: 0,
            dirty: BTreeSet::new(),
            next_in_turn: RegionId::default(),
            next_serial: number as u64 + 1,
            serial_step: count as u64,
        }
    }

    /// Takes messages and turns them into effects.
    pub(super) fn round(
        &mut self,
        messages: Vec<WorkerMessage>,
        effects: &mut Effects,
    ) -> Result<()> {
        for message in messages {
            self.handle(message, effects)?;
        }
        let mut behind = std::mem::take(&mut self.dirty);
        let in_front = behind.split_off(&self.next_in_turn);
        let mut found_no_credit = None;
        for region_id in in_front.into_iter().chain(behind) {
            let Some(peer) = self.peers.get_mut(&region_id) else { continue };
            let had_credit = self.environment.credits.suffice();
            peer.ready(effects);
            if !self.environment.credits.suffice() {
                // Raft may have more for it.
                self.dirty.insert(region_id);
                found_no_credit = found_no_credit.or((!had_credit).then_some(region_id));
            }
            if peer.is_asleep() && self.awake.remove(&region_id) {
                self.neighbours.share(peer.region());
                self.neighbours.rely_on(peer.region(), |store| peer.minds(store));
                self.environment.counters.replicas_asleep.fetch_add(1, Ordering::Relaxed);
            }
            if peer.is_buried() {
                self.peers.remove(&region_id);
                self.awake.remove(&region_id);
                effects.store.push(StoreMessage::Unpark(region_id));
            }
        }
        self.next_in_turn = found_no_credit.unwrap_or(self.next_in_turn);
        Ok(())
    }

    fn handle(&mut self, message: WorkerMessage, effects: &mut Effects) -> Result<()> {
        match message {
            WorkerMessage::Tick => self.tick(effects),
            WorkerMessage::Raft(message) => self.receive(*message, effects)?,
            WorkerMessage::Command(command) => self.command(*command, effects),
            WorkerMessage::Persisted(all) => {
                all.into_iter().for_each(|persisted| self.persisted(persisted, effects));
            }
            WorkerMessage::Applied(all) => {
                all.into_iter().for_each(|applied| self.applied(applied, effects));
            }
            WorkerMessage::Create(new) => self.create(*new, effects)?,
            WorkerMessage::Report { sleepers } => {
                let told = self.peers.values_mut().filter(|peer| sleepers || !peer.is_asleep());
                told.for_each(|peer| peer.report(effects));
            }
            other => self.handle_rare(other, effects),
        }
        Ok(())
    }

    fn handle_rare(&mut self, message: WorkerMessage, effects: &mut Effects) {
        match message {
            WorkerMessage::SnapshotBuilt { region_id, serial, built } => {
                let peer = self.peer(region_id).filter(|peer| peer.serial() == serial);
                peer.into_iter().for_each(|peer| peer.snapshot_built(built.clone()));
            }
            WorkerMessage::SnapshotInstalled { region_id, serial } => {
                let peer = self.peer(region_id).filter(|peer| peer.serial() == serial);
                peer.into_iter().for_each(|peer| peer.snapshot_installed(effects));
            }
            WorkerMessage::SnapshotSent { region_id, to_peer, arrived } => {
                self.peer(region_id)
                    .into_iter()
                    .for_each(|peer| peer.snapshot_sent(to_peer, arrived));
            }
            WorkerMessage::Unreachable { region_id, to_peer } => {
                self.peer(region_id).into_iter().for_each(|peer| peer.unreachable(to_peer.get()));
            }
            WorkerMessage::CutLog { region_id } => {
                // Only a leader can cut it: a follower is not woken for that.
                if self.peers.get(&region_id).is_some_and(Peer::is_leader) {
                    self.peer(region_id).into_iter().for_each(Peer::cut_log);
                }
            }
            WorkerMessage::Alive { store_id, incarnation } => {
                if self.neighbours.alive(store_id, incarnation) {
                    self.wake_who_minds(store_id);
                }
            }
            WorkerMessage::Rouse { region_id } => self.rouse(region_id),
            WorkerMessage::SplitKeys { region_id, epoch, keys, size } => {
                if let Some(peer) = self.peer(region_id) {
                    peer.split_keys_found(epoch, keys, size, effects);
                }
            }
            _ => unreachable!("handled by the caller"),
        }
    }

    /// The replica of a region, which counts as touched. Whatever is for it wakes it.
    fn peer(&mut self, region_id: RegionId) -> Option<&mut Peer> {
        let peer = self.peers.get_mut(&region_id)?;
        self.dirty.insert(region_id);
        if peer.is_asleep() {
            peer.wake(|store| self.neighbours.silence(store));
            if self.awake.insert(region_id) {
                self.environment.counters.replicas_asleep.fetch_sub(1, Ordering::Relaxed);
            }
        }
        Some(peer)
    }

    /// Wakes a replica that has nothing else to do.
    fn rouse(&mut self, region_id: RegionId) {
        let _ = self.peer(region_id);
    }

    fn tick(&mut self, effects: &mut Effects) {
        for store in self.neighbours.tick() {
            self.wake_who_minds(store);
        }
        effects.send.extend(self.neighbours.beacons());
        for region_id in &self.awake {
            let peer = self.peers.get_mut(region_id).expect("who is awake is here");
            peer.tick(effects);
            self.dirty.insert(*region_id);
        }
        self.look_at_some(effects);
    }

    /// A store has fallen silent or was started anew.
    fn wake_who_minds(&mut self, store: StoreId) {
        let sleepers = self.peers.iter().filter(|(_, peer)| peer.is_asleep() && peer.minds(store));
        let sleepers: Vec<RegionId> = sleepers.map(|(region_id, _)| *region_id).collect();
        sleepers.into_iter().for_each(|region_id| self.rouse(region_id));
    }

    /// Looks at as many replicas as are due, so that all are looked at in the time between two reports.
    fn look_at_some(&mut self, effects: &mut Effects) {
        let ticks = usize::try_from(self.environment.config.report_ticks).expect("a small number");
        self.looks_due += self.peers.len().max(1);
        for _ in 0..self.looks_due / ticks {
            self.look_at_next(effects);
        }
        self.looks_due %= ticks;
    }

    fn look_at_next(&mut self, effects: &mut Effects) {
        if self.peers.range(self.next_look..).next().is_none() {
            self.next_look = RegionId::default();
            self.neighbours.share_only(self.peers.values().map(|peer| &**peer.region()));
        }
        let Some((region_id, peer)) = self.peers.range_mut(self.next_look..).next() else { return };
        let region_id = *region_id;
        self.next_look = RegionId::new(region_id.get() + 1);
        if peer.is_asleep() && peer.look_in(effects) {
            self.rouse(region_id);
        }
    }

    fn receive(&mut self, message: RaftMessage, effects: &mut Effects) -> Result<()> {
        let region_id = RegionId::new(message.region_id);
        let store = message.to_peer.map(|peer| peer.store());
        if store != Some(self.environment.store_id) {
            warn!(self.environment.logger, "a message for another store"; "to" => ?message.to_peer);
            Counters::add(&self.environment.counters.messages_refused, 1);
            return Ok(());
        }
        self.neighbours.heard(message.from_peer.unwrap_or_default().store());
        match self.peer(region_id) {
            Some(peer) => peer.step(message, effects)?,
            None => effects.store.push(StoreMessage::Unknown(Box::new(message))),
        }
        Ok(())
    }

    fn command(&mut self, command: Command, effects: &mut Effects) {
        let region_id = command.context.region_id;
        match self.peer(region_id).filter(|peer| peer.is_initialised() && !peer.is_ending()) {
            Some(peer) => peer.command(command, effects),
            None => refuse(command.kind, Refusal::RegionNotFound(region_id)),
        }
    }

    fn persisted(&mut self, persisted: Persisted, effects: &mut Effects) {
        let Persisted { region_id, serial, number } = persisted;
        let peer = self.peer(region_id).filter(|peer| peer.serial() == serial);
        peer.into_iter().for_each(|peer| peer.persisted(number, effects));
    }

    fn applied(&mut self, applied: Applied, effects: &mut Effects) {
        let serial = applied.serial;
        if let Some(peer) = self.peer(applied.region_id).filter(|peer| peer.serial() == serial) {
            peer.applied(applied, effects);
        }
    }

    /// Begins a replica, if nobody was faster.
    fn create(&mut self, new: NewPeer, effects: &mut Effects) -> Result<()> {
        let region_id = new.region.region_id();
        let mut former = HardState::default();
        if let Some(present) = self.peer(region_id) {
            let is_split = matches!(new.origin, Origin::Split { .. });
            if is_split && present.is_ending() {
                // It has heard that the region does not count this store any more; so would the child.
                present.overtaken_by_split(effects);
                return Ok(());
            }
            if !is_split || present.is_initialised() {
                assert!(!is_split, "{} is here", present.region());
                let mut messages = new.messages.into_iter();
                return messages.try_for_each(|message| present.step(message, effects));
            }
            former = present.hard_state();
            present.replaced();
        }
        let applied = self.stored_apply_state(&new)?;
        let serial = PeerSerial(self.next_serial);
        self.next_serial += self.serial_step;
        let born = match new.origin {
            Origin::Split { .. } => Some(self.begin_log(&new, serial, &former, effects)?),
            Origin::Disk | Origin::Message => None,
        };
        let mut peer = Peer::new(&self.environment, serial, &new, applied, born, effects)?;
        let NewPeer { origin, messages, .. } = new;
        peer.begin(origin, messages, effects)?;
        self.neighbours.share(peer.region());
        self.peers.insert(region_id, peer);
        self.awake.insert(region_id);
        self.dirty.insert(region_id);
        effects.store.push(StoreMessage::Unpark(region_id));
        Ok(())
    }

    /// What a region that was split off starts with: its predecessor's vote in this store must not be lost,
    /// and may be on its way to the disk still.
    fn begin_log(
        &self,
        new: &NewPeer,
        serial: PeerSerial,
        former: &HardState,
        effects: &mut Effects,
    ) -> Result<HardState> {
        let region_id = new.region.region_id();
        let stored = self.environment.log.state(region_id.get())?;
        let stored = stored.map(|state| crate::state::hard_state(region_id, &state)).transpose()?;
        let newest = stored.filter(|stored| stored.term > former.term).unwrap_or(former.clone());
        let forgets = self.environment.has(Planted::ChildForgetsVote);
        let newest = if forgets { HardState::default() } else { newest };
        let state = initial_hard_state(&newest);
        effects.log.push(LogTask {
            region_id,
            serial,
            number: 0,
            operations: vec![LogOperation::State(
                region_id.get(),
                local_state(&state, crate::state::INITIAL_INDEX),
            )],
            data: None,
            must_sync: false,
            credit: Credit::default(),
        });
        Ok(state)
    }

    fn stored_apply_state(&self, new: &NewPeer) -> Result<(RaftApplyState, u64)> {
        if new.region.peers.is_empty() {
            return Ok((RaftApplyState::default(), 0));
        }
        if matches!(new.origin, Origin::Split { .. }) {
            return Ok((initial_apply_state(), crate::state::INITIAL_TERM));
        }
        super::recover::stored_apply_state(&self.environment, new.region.region_id())
    }

    /// What invariants, status pages and tests look at.
    pub(super) fn inspect(&self) -> impl Iterator<Item = PeerStatus> {
        self.peers.values().map(Peer::status)
    }

    /// The store stops: what waits here is answered.
    pub(super) fn stop(&mut self) {
        self.peers.values_mut().for_each(Peer::stop);
    }
}

/// What every raft worker shall hear of a message by which another store says that it lives.
pub(super) fn alive(message: &RaftMessage) -> Option<impl Fn() -> WorkerMessage> {
    let (store_id, incarnation) = beacon_of(message)?;
    Some(move || WorkerMessage::Alive { store_id, incarnation })
}

/// Refuses a command, whatever it is.
pub(super) fn refuse(kind: CommandKind, refusal: Refusal) {
    match kind {
        CommandKind::Write { reply, .. } => reply.refuse(refusal),
        CommandKind::Read { reply, .. } => reply.refuse(refusal),
        CommandKind::Admin { reply, .. } => reply.refuse(refusal),
    }
}

/// A message that nobody will take any more: a command is refused.
pub(super) fn refuse_command(message: WorkerMessage) {
    if let WorkerMessage::Command(command) = message {
        refuse(command.kind, Refusal::Busy("the store stops"));
    }
}

/// Which region a message is for; nothing if it is for all.
pub(super) fn region_of(message: &WorkerMessage) -> Option<RegionId> {
    match message {
        WorkerMessage::Tick
        | WorkerMessage::Report { .. }
        | WorkerMessage::Alive { .. }
        | WorkerMessage::Persisted(_)
        | WorkerMessage::Applied(_) => None,
        WorkerMessage::Raft(message) => Some(RegionId::new(message.region_id)),
        WorkerMessage::Command(command) => Some(command.context.region_id),
        WorkerMessage::Create(new) => Some(new.region.region_id()),
        WorkerMessage::SnapshotBuilt { region_id, .. }
        | WorkerMessage::SnapshotInstalled { region_id, .. }
        | WorkerMessage::SnapshotSent { region_id, .. }
        | WorkerMessage::CutLog { region_id }
        | WorkerMessage::Rouse { region_id }
        | WorkerMessage::Unreachable { region_id, .. }
        | WorkerMessage::SplitKeys { region_id, .. } => Some(*region_id),
    }
}
