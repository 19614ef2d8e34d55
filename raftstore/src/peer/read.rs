//! Reads that ask the other replicas whether the leader still leads (ReadIndex).
//!
//! 1. Reads wait in `joining` until the end of the worker's round, and longer while raft would drop their round: a
//!    leader that has committed nothing in its term does, and a follower that knows no leader.
//! 2. Then all of them form one round: raft is stepped with a context that was never used before.
//! 3. Raft answers with an index, after a majority has answered heartbeats that were sent since.
//! 4. When that index is applied, all reads of the round are served from one view.
//!
//! A follower's round goes to the leader, which answers it the same way.
//!
//! A round with reads of transactions names the highest of their timestamps behind its context. The leader first
//! has [`crate::outside::ReadGuard`] prepare it, and holds the round back while something that may commit below is
//! on its way into the log: when that is applied, the index that raft answers covers it.
//!
//! **Invariants.**
//!
//! 1. A read never joins a round that was stepped before, and a round that waits too long is begun again as
//!    another one: raft counts answers by context, so a context used twice could be confirmed by an answer
//!    to its first use.
//! 2. Raft may drop a round without a word; every read has an end.
//! 3. The leader raises its read floor before the answer to a follower leaves it, and from then on before any
//!    message leaves that lets followers apply more.

use std::collections::VecDeque;
use std::time::Duration;

use raft::eraftpb::Message;
use raft::{INVALID_ID, ReadState, StateRole};
use skerry_proto::types::Term;

use super::{Peer, check_context, epoch_not_match};
use crate::message::{CommandContext, Consistency, RegionView};
use crate::planted::Planted;
use crate::reply::{Refusal, Reply};

/// Bytes of a round's context without a timestamp.
const CONTEXT_BYTES: usize = 32;

/// Rounds of other replicas that are held back; what is more is dropped, and begun anew by whoever waits for it.
const HELD_BACK_MAX: usize = 1_024;

/// One read that waits.
#[derive(Debug)]
struct Read {
    context: CommandContext,
    consistency: Consistency,
    reply: Reply<RegionView>,
    ticks: u64,
}

/// Reads that wait for the same answer.
#[derive(Debug)]
struct Round {
    context: Vec<u8>,
    sent_at: Duration,
    ticks: usize,
    index: Option<u64>,
    reads: Vec<Read>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ReadIndexQueue {
    joining: Vec<Read>,
    rounds: VecDeque<Round>,
    /// Rounds begun so far: what makes a context new.
    count: u64,
    /// What followers that serve reads may have applied; 0 while none was told to read in this term.
    floor: u64,
    /// Rounds of other replicas at timestamps that are not prepared yet, or that came before anything was committed in
    /// this term.
    held_back: Vec<Message>,
}

impl ReadIndexQueue {
    /// What followers that serve reads may have applied.
    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.joining.is_empty() && self.rounds.is_empty() && self.held_back.is_empty()
    }

    fn take_all(&mut self) -> Vec<Read> {
        let rounds = self.rounds.drain(..).flat_map(|round| round.reads);
        let mut reads: Vec<Read> = rounds.collect();
        reads.append(&mut self.joining);
        reads
    }
}

impl Peer {
    /// Serves a read at once if the lease allows it; otherwise it joins the next round.
    pub(super) fn read(
        &mut self,
        context: &CommandContext,
        consistency: Consistency,
        reply: Reply<RegionView>,
    ) {
        if let Err(refusal) = self.check_read(context, consistency) {
            return reply.refuse(refusal);
        }
        let view = self.environment.engine.view();
        let now = self.environment.clock.monotonic();
        if consistency == Consistency::Leader && self.has_lease(now) {
            let (region, term) = (self.region().clone(), Term::new(self.raft_group.raft.term));
            let reads = self.read_tally.clone();
            return reply.done(RegionView { view, region, term, reads });
        }
        let read = Read { context: *context, consistency, reply, ticks: 0 };
        self.reads.joining.push(read);
    }

    fn check_read(
        &self,
        context: &CommandContext,
        consistency: Consistency,
    ) -> std::result::Result<(), Refusal> {
        check_context(self, context)?;
        if consistency == Consistency::Leader && !self.is_leader() {
            return Err(self.not_leader());
        }
        if !self.is_initialised() || self.installing.is_some() {
            return Err(Refusal::RegionNotFound(self.region_id()));
        }
        match context.epoch.version == self.region().epoch().version {
            true => Ok(()),
            false => Err(epoch_not_match(self.region())),
        }
    }

    /// Begins a round with all reads that wait for one.
    pub(super) fn begin_read_round(&mut self) {
        if self.reads.joining.is_empty() || self.is_splitting() || !self.may_ask_to_read() {
            return;
        }
        self.reads.count += u64::from(!self.environment.has(Planted::ReusedReadContext));
        let parts = [self.peer.id, self.environment.incarnation, self.serial.0, self.reads.count];
        let joining = self.reads.joining.iter();
        let timestamp = joining.filter_map(|read| timestamp_of(read.consistency)).max();
        let parts = parts.into_iter().chain(timestamp);
        let context: Vec<u8> = parts.flat_map(u64::to_be_bytes).collect();
        let round = Round {
            context: context.clone(),
            sent_at: self.environment.clock.monotonic(),
            ticks: 0,
            index: None,
            reads: std::mem::take(&mut self.reads.joining),
        };
        self.reads.rounds.push_back(round);
        self.raft_group.read_index(context);
    }

    /// Whether raft does more with a read than to drop it.
    fn may_ask_to_read(&self) -> bool {
        let raft = &self.raft_group.raft;
        match raft.state {
            StateRole::Leader => raft.commit_to_current_term(),
            _ => raft.leader_id != INVALID_ID,
        }
    }

    /// Another replica has asked. Raft hears of it when nothing commits below its timestamp unseen.
    pub(super) fn step_read_index(&mut self, message: Message) {
        let timestamp = message.entries.first().and_then(|entry| named_in(&entry.data));
        let is_prepared = match timestamp {
            _ if self.is_leader() && !self.may_ask_to_read() => false,
            Some(timestamp) if self.is_leader() => {
                let guard = self.environment.read_guard.get();
                guard.is_some_and(|guard| guard.prepare(self.region(), timestamp))
            }
            // If another one leads, it goes there.
            _ => true,
        };
        if is_prepared {
            // Raft refuses what it has no use for; whoever waits asks again.
            let _ = self.raft_group.step(message);
        } else if self.reads.held_back.len() < HELD_BACK_MAX {
            self.reads.held_back.push(message);
        }
    }

    /// Something was applied, or time has passed: what was held back may go on.
    pub(super) fn step_held_back(&mut self) {
        for message in std::mem::take(&mut self.reads.held_back) {
            self.step_read_index(message);
        }
    }

    /// Raft has answered rounds.
    pub(super) fn rounds_answered(&mut self, states: Vec<ReadState>) {
        for state in states {
            let rounds = &mut self.reads.rounds;
            let found = rounds.iter_mut().find(|round| round.context == state.request_ctx);
            let Some(round) = found else { continue };
            round.index = Some(state.index);
            let sent_at = round.sent_at;
            self.renew_lease(sent_at);
        }
        self.serve_reads();
    }

    /// Serves what is answered and applied.
    pub(super) fn serve_reads(&mut self) {
        let applied = self.applied.applied_index;
        let is_ready = |round: &Round| round.index.is_some_and(|index| index <= applied);
        if self.installing.is_some() || !self.reads.rounds.iter().any(is_ready) {
            return;
        }
        let rounds = std::mem::take(&mut self.reads.rounds);
        let (ready, waiting): (VecDeque<Round>, VecDeque<Round>) =
            rounds.into_iter().partition(is_ready);
        self.reads.rounds = waiting;
        let (view, region) = (self.environment.engine.view(), self.region().clone());
        let term = Term::new(self.raft_group.raft.term);
        for read in ready.into_iter().flat_map(|round| round.reads) {
            match self.check_read(&read.context, read.consistency) {
                Ok(()) => {
                    read.reply.done(RegionView {
                        view: view.clone(),
                        region: region.clone(),
                        term,
                        reads: self.read_tally.clone(),
                    });
                }
                Err(refusal) => read.reply.refuse(refusal),
            }
        }
    }

    /// A follower that was told to read serves what it has applied by then, which is more if it hears meanwhile
    /// that more is committed. So once one was told, everything that the leader is about to call committed is
    /// below the floor. The next leader has applied all of it before it has a lease.
    pub(super) fn keep_read_floor(&mut self) {
        if self.reads.floor > 0 && self.is_leader() {
            self.raise_read_floor(self.raft_group.raft.raft_log.committed);
        }
    }

    /// A follower that serves reads may have applied `index`.
    pub(super) fn raise_read_floor(&mut self, index: u64) {
        self.reads.floor = self.reads.floor.max(index);
        if let Some(delegate) = &self.delegate {
            delegate.raise_read_floor(index);
        }
    }

    /// Begins rounds anew that nobody has answered, and ends reads that waited too long.
    pub(super) fn tick_reads(&mut self) {
        self.step_held_back();
        let config = &self.environment.config;
        let (patience, wait_max) = (config.election_ticks, config.read_wait_ticks);
        self.reads.rounds.iter_mut().for_each(|round| round.ticks += 1);
        let rounds = std::mem::take(&mut self.reads.rounds);
        for round in rounds {
            match round.index.is_none() && round.ticks >= patience {
                true => self.reads.joining.extend(round.reads),
                false => self.reads.rounds.push_back(round),
            }
        }
        let rounds = self.reads.rounds.iter_mut().flat_map(|round| round.reads.iter_mut());
        rounds.chain(self.reads.joining.iter_mut()).for_each(|read| read.ticks += 1);
        let is_late = |read: &mut Read| read.ticks > wait_max;
        let mut late: Vec<Read> = self.reads.joining.extract_if(.., is_late).collect();
        for round in &mut self.reads.rounds {
            late.extend(round.reads.extract_if(.., is_late));
        }
        for read in late {
            read.reply.refuse(Refusal::Busy("the other replicas do not answer"));
        }
    }

    /// Role or term have changed: what was asked of a leader is refused, other reads ask anew.
    pub(super) fn reads_lost_leadership(&mut self) {
        self.reads.floor = 0;
        self.reads.held_back.clear();
        for read in self.reads.take_all() {
            match read.consistency {
                Consistency::Replica | Consistency::ReplicaAt(_) => self.reads.joining.push(read),
                Consistency::Leader => read.reply.refuse(self.not_leader()),
            }
        }
    }

    /// The replica ends.
    pub(super) fn end_reads(&mut self) {
        let refusal = Refusal::RegionNotFound(self.region_id());
        self.reads.take_all().into_iter().for_each(|read| read.reply.refuse(refusal.clone()));
    }
}

fn timestamp_of(consistency: Consistency) -> Option<u64> {
    match consistency {
        Consistency::ReplicaAt(timestamp) => Some(timestamp),
        Consistency::Leader | Consistency::Replica => None,
    }
}

/// The timestamp behind a round's context.
fn named_in(context: &[u8]) -> Option<u64> {
    let timestamp = context.get(CONTEXT_BYTES..)?;
    Some(u64::from_be_bytes(timestamp.try_into().ok()?))
}
