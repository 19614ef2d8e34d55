//! From commands to proposals.
//!
//! 1. A command is checked against replica, term, epoch and range. What fails is refused: nothing was done.
//! 2. Writes of one round that rest on the same epoch and term share one entry: one append, one share of an
//!    fsync, one apply.
//! 3. What was proposed waits in `proposals` until its index is committed and goes to apply with the entry.
//!
//! **Invariant.** After raft has taken a proposal it is answered by apply alone, or *unknown*: not even a lost
//! leadership says that it will not happen. Unknown it is when the replica ends, and when it leads no more in
//! the proposal's term and nobody has decided for long: a region that has lost its quorum must not keep the room
//! that the writes of all regions share.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use skerry_proto::raft_cmdpb::{
    AdminRequest, DeleteRangeRequest, DeleteRequest, PutRequest, RaftCmdRequest, RaftRequestHeader,
    Request, admin_request, request,
};
use skerry_proto::{metapb, raft_cmdpb};

use super::{Peer, check_context, epoch_not_match};
use crate::effects::Effects;
use crate::engine::{ColumnFamily, Operation, WriteBatch};
use crate::keys;
use crate::message::{AdminDone, CommandContext, Proposal, Waiters, Written};
use crate::reply::{Refusal, Reply};

/// What an entry adds to its requests, roughly.
const HEADER_BYTES: usize = 128;

/// Writes that will share an entry.
#[derive(Debug, Default)]
pub(super) struct Writes {
    requests: Vec<Request>,
    replies: Vec<Reply<Written>>,
    bytes: usize,
    /// The region's when the first was checked; the same for all.
    version: u64,
}

impl Writes {
    /// Whether nothing was collected.
    pub(super) fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }
}

impl Peer {
    /// Checks a write and adds it to the next entry.
    pub(super) fn write(
        &mut self,
        context: &CommandContext,
        batch: WriteBatch,
        reply: Reply<Written>,
    ) {
        if let Err(refusal) = self.check_write(context, &batch) {
            return reply.refuse(refusal);
        }
        let limit = self.environment.config.entry_size_max.length() / 2;
        let overhead = 16 * batch.operations().len();
        if self.writes.bytes + batch.byte_size() + overhead > limit {
            self.propose_writes();
        }
        self.writes.version = self.region().epoch().version;
        self.writes.bytes += batch.byte_size() + overhead;
        self.writes.requests.extend(batch.into_operations().into_iter().map(request_of));
        self.writes.replies.push(reply);
    }

    fn check_write(
        &self,
        context: &CommandContext,
        batch: &WriteBatch,
    ) -> std::result::Result<(), Refusal> {
        check_context(self, context)?;
        if !self.is_leader() {
            return Err(self.not_leader());
        }
        let region = self.region();
        if context.epoch.version != region.epoch().version {
            return Err(epoch_not_match(region));
        }
        let (bytes, bytes_max) =
            (batch.byte_size() + HEADER_BYTES, self.environment.config.entry_size_max.length());
        if bytes > bytes_max {
            let region_id = self.region_id();
            return Err(Refusal::EntryTooLarge { region_id, bytes, bytes_max });
        }
        let outside = batch.operations().iter().find_map(|operation| outside(region, operation));
        match outside {
            None => Ok(()),
            Some(key) => Err(Refusal::KeyNotInRegion { key, region: region.clone() }),
        }
    }

    /// Proposes the writes that were collected.
    pub(super) fn propose_writes(&mut self) {
        if self.writes.is_empty() {
            return;
        }
        let writes = std::mem::take(&mut self.writes);
        let waiters = Waiters::Write(writes.replies);
        if writes.version != self.region().epoch().version {
            return waiters.refuse(epoch_not_match(self.region()));
        }
        let command = RaftCmdRequest {
            header: Some(self.header()),
            requests: writes.requests,
            admin_request: None,
        };
        self.propose(command.encode_to_vec(), waiters);
    }

    /// Leadership is lost: what was only collected was certainly not done.
    pub(super) fn writes_lost_leadership(&mut self) {
        let writes = std::mem::take(&mut self.writes);
        let refusal = self.not_leader();
        Waiters::Write(writes.replies).refuse(refusal);
    }

    /// Hands an entry to raft. Answers whether raft took it.
    pub(super) fn propose(&mut self, data: Vec<u8>, waiters: Waiters) -> bool {
        match self.raft_group.propose(Vec::new(), data) {
            Ok(()) => {
                self.note_proposal(waiters);
                true
            }
            Err(_) => {
                waiters.refuse(self.refusal_of_raft());
                false
            }
        }
    }

    /// Raft has taken what is now its last entry.
    pub(super) fn note_proposal(&mut self, waiters: Waiters) {
        let raft = &self.raft_group.raft;
        let (index, term) = (raft.raft_log.last_index(), raft.term);
        let proposed_at = self.environment.clock.monotonic();
        self.proposals.push_back(Proposal { index, term, proposed_at, waiters });
    }

    /// Gives up those proposals of former terms that nobody decides about: a new leader does so within moments,
    /// unless there is none. An entry that is applied later finds nobody who waits for it.
    pub(super) fn tick_proposals(&mut self) {
        let config = &self.environment.config;
        let patience = Duration::from_millis(config.tick_ms * config.unknown_after_ticks);
        let now = self.environment.clock.monotonic();
        let led = self.is_leader().then_some(self.raft_group.raft.term);
        let is_given_up = |proposal: &Proposal| {
            Some(proposal.term) != led && now.saturating_sub(proposal.proposed_at) >= patience
        };
        while self.proposals.front().is_some_and(is_given_up) {
            let proposal = self.proposals.pop_front().expect("looked at above");
            proposal.waiters.unknown("leadership was lost, and nobody has decided about it since");
        }
    }

    /// Why raft takes nothing at the moment.
    pub(super) fn refusal_of_raft(&self) -> Refusal {
        match self.is_leader() {
            true => Refusal::Busy("the leader is handing over or has too much to commit"),
            false => self.not_leader(),
        }
    }

    pub(super) fn header(&self) -> RaftRequestHeader {
        RaftRequestHeader {
            region_id: self.region().id,
            peer: Some(self.peer),
            region_epoch: Some(self.region().epoch()),
            term: self.raft_group.raft.term,
        }
    }

    /// A command that changes the region itself.
    pub(super) fn admin(
        &mut self,
        context: &CommandContext,
        request: admin_request::Command,
        reply: Reply<AdminDone>,
        effects: &mut Effects,
    ) {
        let checked = check_context(self, context).and_then(|()| match self.is_leader() {
            true => Ok(()),
            false => Err(self.not_leader()),
        });
        if let Err(refusal) = checked {
            return reply.refuse(refusal);
        }
        match request {
            admin_request::Command::CompactLog(request) => {
                self.propose_compaction(request.compact_index, Some(reply));
            }
            admin_request::Command::TransferLeader(request) => {
                self.transfer_leader(&request, reply);
            }
            admin_request::Command::Splits(request) => {
                self.propose_split(&context.epoch, request, reply, effects);
            }
            admin_request::Command::ChangePeerV2(request) => {
                self.propose_membership(&context.epoch, request, reply);
            }
        }
    }

    /// An entry with an administrator's command.
    pub(super) fn encode_admin(&self, command: admin_request::Command) -> Vec<u8> {
        let admin_request = Some(AdminRequest { command: Some(command) });
        let header = Some(self.header());
        RaftCmdRequest { header, requests: Vec::new(), admin_request }.encode_to_vec()
    }

    /// Whether the region may be changed now: what was known of it must be known to be its newest state.
    pub(super) fn check_change(&self) -> std::result::Result<(), Refusal> {
        if self.applied_term != self.raft_group.raft.term {
            return Err(Refusal::Busy("the leader has not applied an entry of its term yet"));
        }
        if self.change_proposed > self.applied.applied_index {
            return Err(Refusal::Busy("another change of the region is under way"));
        }
        Ok(())
    }
}

/// The key of an operation, if it lies outside of the region.
fn outside(region: &Arc<metapb::Region>, operation: &Operation) -> Option<Bytes> {
    let inside = |data_key: &Bytes| {
        let key = keys::region_key(data_key).expect("user data has a data prefix");
        region.contains_key(key)
    };
    match operation {
        Operation::Put(_, key, _) | Operation::Delete(_, key) => {
            (!inside(key)).then(|| key.slice(1..))
        }
        Operation::DeleteRange(_, range) => {
            let space = keys::DataSpace::of(&range.start).expect("user data has a data prefix");
            let (start, end) = space.range(&region.start_key, &region.end_key);
            (range.start < start || range.end > end || range.end.is_empty())
                .then(|| range.start.slice(1..))
        }
    }
}

fn request_of(operation: Operation) -> Request {
    let command = match operation {
        Operation::Put(family, key, value) => {
            let column_family = wire_family(family);
            request::Command::Put(PutRequest { column_family, key, value })
        }
        Operation::Delete(family, key) => {
            request::Command::Delete(DeleteRequest { column_family: wire_family(family), key })
        }
        Operation::DeleteRange(family, range) => {
            request::Command::DeleteRange(DeleteRangeRequest {
                column_family: wire_family(family),
                start_key: range.start,
                end_key: range.end,
            })
        }
    };
    Request { command: Some(command) }
}

fn wire_family(family: ColumnFamily) -> i32 {
    let family = match family {
        ColumnFamily::Default => raft_cmdpb::ColumnFamily::Default,
        ColumnFamily::Lock => raft_cmdpb::ColumnFamily::Lock,
        ColumnFamily::Write => raft_cmdpb::ColumnFamily::Write,
        ColumnFamily::Raw => raft_cmdpb::ColumnFamily::Raw,
        ColumnFamily::Raft => panic!("local keys are not replicated"),
    };
    i32::from(family)
}
