//! One replica of one region: a raft state machine with what a store adds to it.
//!
//! A raft worker owns replicas and calls them; nothing else does. A call changes the replica's state and adds
//! to the [`Effects`]; nothing is sent, written or answered in between. The way of a write:
//!
//! 1. [`propose`]: the command is checked against term and epoch; the writes of one round become one entry;
//! 2. [`ready`]: what raft wants is turned into effects: a leader's appends leave at once, entries go to the
//!    log writer, answers to others wait until those are durable, committed entries go to apply;
//! 3. [`Peer::persisted`]: the log writer is done: raft hears of it, held messages leave;
//! 4. [`Peer::applied`]: apply is done (it has answered the clients): changes of the region are followed.
//!
//! Reads that the lease does not cover take a round of heartbeats ([`read`]). Where nothing happens, replicas sleep
//! ([`sleep`]).
//!
//! **Invariants.**
//!
//! 1. Votes and acknowledgements leave after what they promise is durable.
//! 2. A command is answered once: refused here, or handed to apply with its entry, or *unknown* when the
//!    replica ends or has led no more for long.
//! 3. After a replica has applied its own removal its raft state machine is not touched again.
//!
//! What a replica does not do: it does not know workers, queues, threads or files.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use raft::eraftpb::{HardState, Message};
use raft::{RawNode, StateRole};
use skerry_proto::metapb;
use skerry_proto::raft_serverpb::{RaftApplyState, RaftMessage};
use skerry_proto::types::{PeerId, RegionId, Term};
use slog::{Drain as _, Level, LevelFilter, Logger, debug, info};

use self::destroy::Life;
use self::lease::Lease;
use self::propose::Writes;
use self::read::ReadIndexQueue;
use self::storage::PeerStorage;
use crate::Result;
use crate::effects::Effects;
use crate::environment::Environment;
use crate::extent::{Estimate, Extent, FlowTally};
use crate::message::{
    Applied, ApplyMessage, BackgroundTask, Change, Command, CommandContext, CommandKind, NewPeer,
    Origin, PeerSerial, Proposal, Registration,
};
use crate::planted::Planted;
use crate::registry::ReadDelegate;
use crate::reply::Refusal;
use crate::state::conf_state;
use crate::time::splitmix64;

mod cache;
mod destroy;
mod lease;
mod log_gc;
mod membership;
mod propose;
mod read;
mod ready;
mod report;
mod sleep;
mod snapshot;
mod split;
mod step;
mod storage;
mod turns;

pub use self::step::tombstone_for;

/// Committed entries that wait to be kept in memory by raft, in bytes.
const UNCOMMITTED_BYTES_MAX: u64 = 256 << 20;

/// See the module.
pub struct Peer {
    environment: Environment,
    serial: PeerSerial,
    peer: metapb::Peer,
    raft_group: RawNode<PeerStorage>,
    /// As apply has reported it.
    applied: RaftApplyState,
    applied_term: u64,
    /// The last entry that was handed to apply.
    handed: u64,
    /// The last split that it proposed. Once committed it takes leases away until it is applied.
    split_proposed: u64,
    /// The last proposed change of the region; another one waits until it is applied.
    change_proposed: u64,
    writes: Writes,
    proposals: VecDeque<Proposal>,
    reads: ReadIndexQueue,
    lease: Lease,
    delegate: Option<Arc<ReadDelegate>>,
    /// Handed to the log writer and not yet durable, in order.
    unpersisted: VecDeque<ready::Unpersisted>,
    /// The leader wants this replica to lead, which it may not before it is idle; and when that came, in ticks.
    invitation: Option<(u64, Message)>,
    /// An accepted snapshot that does not lie in the data engine yet.
    installing: Option<snapshot::Installing>,
    life: Life,
    role: StateRole,
    term: u64,
    /// Ticks during which it grants no vote, because it may have promised a leader silence before a restart.
    deaf_ticks: usize,
    /// Ticks since it was begun.
    ticks: u64,
    /// Ticks without a leader.
    orphaned_ticks: u64,
    /// Where others are, as their messages said: for replicas that are not in the region (any more).
    addresses: BTreeMap<PeerId, metapb::Peer>,
    /// The newest configuration of a replica that has spoken to this one, which was a member in it.
    named_in: u64,
    /// When it came to lead, in ticks.
    led_since: u64,
    /// When each follower was heard last, in ticks.
    heard: BTreeMap<PeerId, u64>,
    /// Replicas that its last report called pending or down.
    reported_unwell: Vec<PeerId>,
    /// What was written since the region's size was looked at.
    unchecked: Extent,
    /// The region's size.
    size: Estimate,
    /// What was written since the last report.
    unreported: Extent,
    /// What was read since then; shared with whoever reads.
    read_tally: Arc<FlowTally>,
    /// Since when the two are counted.
    reported_at: Duration,
    sleep: sleep::Sleep,
}

/// What invariants, status pages and tests look at.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerStatus {
    /// The region as of what is applied; only its id if the replica is not initialised.
    pub region: Arc<metapb::Region>,
    /// The replica.
    pub peer: metapb::Peer,
    /// Its term.
    pub term: u64,
    /// For whom it voted in it; 0 for nobody.
    pub vote: u64,
    /// Whether it leads.
    pub is_leader: bool,
    /// Who does; 0 for nobody.
    pub leader: u64,
    /// What it knows to be committed.
    pub commit: u64,
    /// What is applied.
    pub applied: u64,
    /// The last entry in front of its log.
    pub truncated: u64,
    /// The last entry of its log, on its disk or not.
    pub last: u64,
    /// Whether a snapshot is being installed.
    pub is_installing: bool,
    /// Whether it has begun to end; its region may then have the epoch of the end with peers from before.
    pub is_ending: bool,
    /// End of its lease on the store's clock.
    pub lease: Option<Duration>,
    /// Whether it hibernates.
    pub is_asleep: bool,
}

impl Peer {
    /// Begins a replica. `applied` is the state of its region in the data engine; `born` the raft state of one
    /// that was split off just now, which is on its way to the disk.
    pub fn new(
        environment: &Environment,
        serial: PeerSerial,
        new: &NewPeer,
        (applied, applied_term): (RaftApplyState, u64),
        born: Option<HardState>,
        effects: &mut Effects,
    ) -> Result<Peer> {
        let config = &environment.config;
        let mut storage = PeerStorage::load(
            new.region.clone(),
            environment.log.clone(),
            &applied,
            config.entry_cache_size.length(),
        )?;
        born.into_iter().for_each(|state| storage.begin_with(state));
        let raft_config = raft_config(environment, new.peer.id, applied.applied_index);
        let logger = raft_logger(environment, new);
        let raft_group = RawNode::new(&raft_config, storage, &logger)
            .map_err(|error| crate::Error::Config(format!("raft: {error}")))?;
        let deaf_ticks = deaf_ticks(environment, &new.origin);
        let mut peer = Peer {
            environment: environment.clone(),
            serial,
            peer: new.peer,
            applied,
            applied_term,
            handed: applied.applied_index,
            split_proposed: 0,
            change_proposed: 0,
            writes: Writes::default(),
            proposals: VecDeque::new(),
            reads: ReadIndexQueue::default(),
            lease: Lease::default(),
            delegate: None,
            unpersisted: VecDeque::new(),
            invitation: None,
            installing: None,
            life: Life::Alive,
            role: StateRole::Follower,
            term: raft_group.raft.term,
            deaf_ticks,
            ticks: 0,
            orphaned_ticks: 0,
            addresses: BTreeMap::new(),
            named_in: 0,
            led_since: 0,
            heard: BTreeMap::new(),
            reported_unwell: Vec::new(),
            unchecked: Extent::default(),
            size: new.origin.estimate(),
            unreported: Extent::default(),
            read_tally: Arc::default(),
            reported_at: environment.clock.monotonic(),
            sleep: sleep::Sleep::default(),
            raft_group,
        };
        peer.pin_election_timeout();
        peer.register(effects);
        debug!(environment.logger, "replica begins"; "region" => %new.region, "peer" => %new.peer,
            "applied" => applied.applied_index, "origin" => ?new.origin);
        Ok(peer)
    }

    /// The region as of what is applied.
    pub fn region(&self) -> &Arc<metapb::Region> {
        self.raft_group.store().region()
    }

    /// The region's id.
    pub fn region_id(&self) -> RegionId {
        self.region().region_id()
    }

    /// The replica.
    pub fn peer(&self) -> metapb::Peer {
        self.peer
    }

    /// Its serial.
    pub fn serial(&self) -> PeerSerial {
        self.serial
    }

    /// Whether the region's range and peers are known.
    pub fn is_initialised(&self) -> bool {
        self.raft_group.store().is_initialised()
    }

    /// The hard state, for a successor that must not vote again.
    pub fn hard_state(&self) -> HardState {
        self.raft_group.raft.hard_state()
    }

    /// What invariants, status pages and tests look at.
    pub fn status(&self) -> PeerStatus {
        let raft = &self.raft_group.raft;
        PeerStatus {
            region: self.region().clone(),
            peer: self.peer,
            term: raft.term,
            vote: raft.vote,
            is_leader: raft.state == StateRole::Leader,
            leader: raft.leader_id,
            commit: raft.raft_log.committed,
            applied: self.applied.applied_index,
            truncated: self.raft_group.store().truncated().index,
            last: raft.raft_log.last_index(),
            is_installing: self.installing.is_some(),
            is_ending: self.is_ending(),
            lease: self.lease.until(),
            is_asleep: self.is_asleep(),
        }
    }

    /// One tick has passed.
    pub fn tick(&mut self, effects: &mut Effects) {
        if self.life != Life::Alive {
            return;
        }
        self.ticks += 1;
        self.deaf_ticks = self.deaf_ticks.saturating_sub(1);
        // A replica that has something unpersisted must not come to lead: raft asserts that its log is
        // durable then. One that is being installed has nothing to say.
        if self.is_leader() || self.unpersisted.is_empty() && self.installing.is_none() {
            self.raft_group.tick();
            self.pin_election_timeout();
        }
        self.tick_proposals();
        self.tick_reads();
        self.tick_log_gc();
        self.tick_stale(effects);
        self.tick_report(effects);
        self.tick_sleep(effects);
    }

    /// A client's or the scheduler's command.
    pub fn command(&mut self, command: Command, effects: &mut Effects) {
        let Command { context, kind } = command;
        match kind {
            CommandKind::Write { batch, reply } => self.write(&context, batch, reply),
            CommandKind::Read { consistency, reply } => self.read(&context, consistency, reply),
            CommandKind::Admin { request, reply } => self.admin(&context, request, reply, effects),
        }
    }

    /// Apply has done these.
    pub fn applied(&mut self, applied: Applied, effects: &mut Effects) {
        if applied.removed {
            return self.applier_stopped(effects);
        }
        let Applied { state, term, proposed_at, changes, written, .. } = applied;
        self.applied = state;
        self.applied_term = term;
        for change in changes {
            self.follow(change, effects);
        }
        if !self.is_touchable() {
            return;
        }
        self.raft_group.advance_apply_to(state.applied_index);
        self.note_applied_proposal(proposed_at);
        self.update_delegate();
        self.step_held_back();
        self.serve_reads();
        self.check_size(written, effects);
        self.step_invitation(effects);
    }

    /// Follows a change that was applied. A replica that ends follows splits still: the children are there.
    fn follow(&mut self, change: Change, effects: &mut Effects) {
        match change {
            Change::Peers { region, change } if self.is_touchable() => {
                self.peers_changed(region, &change, effects);
            }
            Change::Peers { .. } => {}
            Change::Split { region, children, gone } => {
                self.was_split(region, &children, &gone, effects);
            }
            Change::Compacted { first } => {
                let truncated = self.applied.truncated_state.unwrap_or_default();
                self.raft_group.mut_store().compacted(truncated);
                let (region_id, serial) = (self.region_id(), self.serial);
                effects.background.push(BackgroundTask::CompactLog { region_id, serial, first });
            }
        }
    }

    /// Tells apply where it begins for this replica.
    fn register(&self, effects: &mut Effects) {
        if !self.is_initialised() {
            return;
        }
        effects.apply.push(ApplyMessage::Register(Box::new(Registration {
            serial: self.serial,
            peer: self.peer,
            region: self.region().clone(),
            state: self.applied,
            term: self.applied_term,
        })));
    }

    /// Whether it leads.
    pub fn is_leader(&self) -> bool {
        self.raft_group.raft.state == StateRole::Leader
    }

    /// Whether raft may still be asked anything (invariant 3).
    fn is_touchable(&self) -> bool {
        self.life == Life::Alive
    }

    /// The leader as the replica knows it.
    fn leader(&self) -> Option<metapb::Peer> {
        let leader = self.raft_group.raft.leader_id;
        self.find_peer(PeerId::new(leader))
    }

    fn find_peer(&self, id: PeerId) -> Option<metapb::Peer> {
        let member = self.region().peer_by_id(id).copied();
        member.or_else(|| self.addresses.get(&id).copied())
    }

    /// The epoch that a message to a replica carries. It counts as the word of a configuration that the receiver has
    /// a place in, so one without it must not be named: a removed replica would take what was held back
    /// for it until after its removal for a proof that it still belongs, and never end.
    fn epoch_for(&self, to: PeerId) -> metapb::RegionEpoch {
        let region = self.region();
        match region.peer_by_id(to) {
            Some(_) => region.epoch(),
            None => metapb::RegionEpoch { conf_ver: 0, ..region.epoch() },
        }
    }

    fn not_leader(&self) -> Refusal {
        Refusal::NotLeader { region_id: self.region_id(), leader: self.leader() }
    }

    /// The crate draws election timeouts from the system's chance; a run must be repeatable, so ours take the
    /// place of its own after everything that may have drawn one.
    fn pin_election_timeout(&mut self) {
        let raft = &self.raft_group.raft;
        let own = [self.peer.id, raft.term, raft.state as u64]
            .iter()
            .fold(splitmix64(self.environment.seed), |mixed, part| splitmix64(mixed ^ part));
        let shortest = self.environment.config.election_ticks;
        let timeout =
            turns::election_timeout(self.region(), self.peer.id, raft.term, own, shortest);
        self.raft_group.raft.set_randomized_election_timeout(timeout);
    }

    /// Role or term have changed: what rests on the former ones ends.
    fn note_role(&mut self, effects: &mut Effects) {
        let raft = &self.raft_group.raft;
        let (role, term) = (raft.state, raft.term);
        if (role, term) == (self.role, self.term) {
            return;
        }
        let led = self.role == StateRole::Leader;
        (self.role, self.term) = (role, term);
        self.invitation = None;
        self.lease.end();
        self.drop_delegate();
        self.writes_lost_leadership();
        self.reads_lost_leadership();
        if self.environment.has(Planted::AnswersAtStepDown) && role != StateRole::Leader {
            for proposal in std::mem::take(&mut self.proposals) {
                proposal.waiters.refuse(Refusal::StaleCommand);
            }
        }
        if role == StateRole::Leader {
            self.led_since = self.ticks;
            info!(self.environment.logger, "leads"; "region" => %self.region(), "term" => term);
            self.heard =
                self.region().peers.iter().map(|peer| (peer.peer_id(), self.ticks)).collect();
            self.change_proposed = self.raft_group.raft.raft_log.last_index();
            self.look_if_large(effects);
            self.forget_flow();
            self.report(effects);
        } else if led {
            info!(self.environment.logger, "leads no more"; "region" => %self.region(), "term" => term);
        }
    }

    /// The first words of a replica that was just begun.
    pub fn begin(
        &mut self,
        origin: Origin,
        messages: Vec<RaftMessage>,
        effects: &mut Effects,
    ) -> Result<()> {
        let is_alone = self.region().peers.len() == 1;
        let campaign = matches!(origin, Origin::Split { campaign: true, .. }) || is_alone;
        if campaign && self.is_initialised() {
            let _ = self.raft_group.campaign();
            self.pin_election_timeout();
        }
        messages.into_iter().try_for_each(|message| self.step(message, effects))
    }
}

/// Where the raft crate logs. What it calls information is of interest to who debugs raft: this crate tells in its
/// own words who leads and what changed.
fn raft_logger(environment: &Environment, new: &NewPeer) -> Logger {
    let loud = LevelFilter::new(environment.logger.clone(), Level::Warning);
    let of_peer = slog::o!("region" => new.region.id, "peer" => new.peer.id);
    Logger::root(loud.ignore_res(), of_peer)
}

fn raft_config(environment: &Environment, id: u64, applied: u64) -> raft::Config {
    let config = &environment.config;
    raft::Config {
        id,
        election_tick: config.election_ticks,
        heartbeat_tick: config.heartbeat_ticks,
        min_election_tick: config.election_ticks,
        max_election_tick: 2 * config.election_ticks,
        applied,
        max_size_per_msg: config.message_size_max.bytes(),
        max_inflight_msgs: config.inflight_messages_max,
        max_committed_size_per_ready: config.apply_size_max.bytes(),
        max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
        check_quorum: true,
        pre_vote: true,
        batch_append: true,
        ..raft::Config::default()
    }
}

/// A refusal that names the region as it is now.
fn epoch_not_match(region: &Arc<metapb::Region>) -> Refusal {
    Refusal::EpochNotMatch(vec![region.clone()])
}

/// What every command must agree with, besides its epoch.
fn check_context(peer: &Peer, context: &CommandContext) -> std::result::Result<(), Refusal> {
    let (asked, present) = (context.peer_id, peer.peer.peer_id());
    if asked != PeerId::default() && asked != present {
        return Err(Refusal::PeerMismatch { asked, present });
    }
    match context.term {
        Some(term) if term != Term::new(peer.raft_group.raft.term) => Err(Refusal::StaleCommand),
        _ => Ok(()),
    }
}

/// For how many ticks a replica does not vote: its answers to heartbeats before the start may be what a lease rests on.
/// One that a message begins soon after the start may have been here before, without a trace.
fn deaf_ticks(environment: &Environment, origin: &Origin) -> usize {
    let config = &environment.config;
    let whole = config.election_ticks;
    let since_start = environment.clock.monotonic().saturating_sub(environment.started);
    let passed = since_start.as_millis() / u128::from(config.tick_ms);
    match origin {
        _ if environment.has(Planted::VoteAfterRestart) => 0,
        Origin::Disk => whole,
        Origin::Message => whole.saturating_sub(usize::try_from(passed).unwrap_or(usize::MAX)),
        Origin::Split { .. } => 0,
    }
}

/// Raft's configuration must be the region's after every applied change.
fn assert_same_configuration(peer: &Peer) {
    let mut raft_state = peer.raft_group.raft.prs().conf().to_conf_state();
    let mut region_state = conf_state(peer.region());
    for state in [&mut raft_state, &mut region_state] {
        for list in [
            &mut state.voters,
            &mut state.voters_outgoing,
            &mut state.learners,
            &mut state.learners_next,
        ] {
            list.sort_unstable();
        }
        state.auto_leave = false;
    }
    assert_eq!(raft_state, region_state, "raft and {} disagree", peer.region());
}
