//! The entries of one region, one after the other.

use std::sync::Arc;

use prost::Message as _;
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeV2, Entry, EntryType};
use skerry_proto::metapb;
use skerry_proto::raft_cmdpb::{
    self, RaftCmdRequest, RaftRequestHeader, Request, admin_request, request,
};
use skerry_proto::raft_serverpb::RaftApplyState;

use super::Region;
use super::admin;
use super::answers::EntryOutcome;
use crate::engine::{ColumnFamily, KeyRange, WriteBatch};
use crate::environment::Environment;
use crate::extent::Extent;
use crate::message::{Applied, ApplyTask, Change, PeerSerial, Registration};
use crate::planted::Planted;
use crate::reply::Refusal;

/// What an entry did, to whom it concerns.
pub(super) struct Done {
    pub(super) outcome: EntryOutcome,
    pub(super) change: Option<Change>,
    pub(super) must_sync: bool,
    pub(super) written: Extent,
}

impl Done {
    /// Data changed, or nothing.
    fn written(written: Extent) -> Done {
        Done { outcome: EntryOutcome::Written, change: None, must_sync: false, written }
    }

    /// The region changed.
    pub(super) fn changed(regions: Vec<Region>, change: Change, must_sync: bool) -> Done {
        let (outcome, change) = (EntryOutcome::Admin(regions), Some(change));
        Done { outcome, change, must_sync, written: Extent::default() }
    }

    /// Nothing changed.
    pub(super) fn refused(refusal: Refusal) -> Done {
        Done { outcome: EntryOutcome::Refused(refusal), ..Done::written(Extent::default()) }
    }
}

/// One region as of what is applied.
pub(super) struct Applier {
    pub(super) serial: PeerSerial,
    pub(super) peer: metapb::Peer,
    pub(super) region: Region,
    pub(super) state: RaftApplyState,
    term: u64,
}

impl Applier {
    pub(super) fn new(registration: Registration) -> Applier {
        let Registration { serial, peer, region, state, term } = registration;
        Applier { serial, peer, region, state, term }
    }

    pub(super) fn serial(&self) -> PeerSerial {
        self.serial
    }

    pub(super) fn region(&self) -> &Region {
        &self.region
    }

    /// What is applied, and the term of the last applied entry.
    pub(super) fn state(&self) -> (RaftApplyState, u64) {
        (self.state, self.term)
    }

    /// Whether the replica was removed by an entry that is applied: those behind it are not its any more.
    pub(super) fn is_removed(&self) -> bool {
        self.region.peer_by_id(self.peer.peer_id()).is_none()
    }

    /// A report without news.
    pub(super) fn report(&self) -> Applied {
        Applied {
            region_id: self.region.region_id(),
            serial: self.serial,
            state: self.state,
            term: self.term,
            proposed_at: None,
            changes: Vec::new(),
            written: Extent::default(),
            removed: false,
        }
    }

    /// Notes what the replica knew to be committed when it handed these over.
    pub(super) fn begin(&mut self, task: &ApplyTask) {
        if task.commit_index > self.state.commit_index {
            (self.state.commit_index, self.state.commit_term) =
                (task.commit_index, task.commit_term);
        }
    }

    /// Applies one entry: adds its changes to the batch.
    pub(super) fn apply_entry(
        &mut self,
        entry: &Entry,
        environment: &Environment,
        batch: &mut WriteBatch,
    ) -> Done {
        let expected = self.state.applied_index + 1;
        assert_eq!(entry.index, expected, "{} applies entries out of order", self.region);
        assert!(entry.term >= self.term, "terms of {} go back", self.region);
        (self.state.applied_index, self.term) = (entry.index, entry.term);
        if self.state.commit_index < entry.index {
            (self.state.commit_index, self.state.commit_term) = (entry.index, entry.term);
        }
        match entry.get_entry_type() {
            EntryType::EntryNormal if entry.data.is_empty() => Done::written(Extent::default()),
            EntryType::EntryNormal => self.apply_command(&entry.data, environment, batch),
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                let command = decode(&self.region, &entry.context);
                let change = ConfChangeV2::parse_from_bytes(&entry.data);
                let change = change.expect("raft has made this entry");
                admin::change_peers(self, &command, change, environment, batch)
            }
        }
    }

    fn apply_command(
        &mut self,
        data: &bytes::Bytes,
        environment: &Environment,
        batch: &mut WriteBatch,
    ) -> Done {
        let command = decode(&self.region, data);
        let header = command.header.as_ref().expect("every command has a header");
        match command.admin_request.and_then(|request| request.command) {
            None => {
                let is_blind = environment.has(Planted::IgnoreEpochAtApply);
                self.write(header, command.requests, is_blind, batch)
            }
            Some(admin_request::Command::Splits(request)) => {
                admin::split(self, header, &request, environment, batch)
            }
            Some(admin_request::Command::CompactLog(request)) => admin::compact_log(self, &request),
            Some(other) => panic!("{} has {other:?} in its log", self.region),
        }
    }

    fn write(
        &mut self,
        header: &RaftRequestHeader,
        requests: Vec<Request>,
        is_blind: bool,
        batch: &mut WriteBatch,
    ) -> Done {
        let epoch = header.region_epoch.unwrap_or_default();
        // The range was the same when the keys were checked, if the version is.
        if epoch.version != self.region.epoch().version && !is_blind {
            return Done::refused(Refusal::EpochNotMatch(vec![self.region.clone()]));
        }
        let mut written = Extent::default();
        for request in requests {
            let before = batch.byte_size();
            let family = put_request(batch, request);
            written += Extent::of_pair(family, (batch.byte_size() - before) as u64);
        }
        Done::written(written)
    }

    /// Applies the writes of an entry once more (a planted bug).
    pub(super) fn apply_again(&mut self, entry: &Entry, batch: &mut WriteBatch) {
        if entry.get_entry_type() == EntryType::EntryNormal && !entry.data.is_empty() {
            let requests = decode(&self.region, &entry.data).requests;
            for request in requests {
                put_request(batch, request);
            }
        }
    }

    /// Follows a change of the region.
    pub(super) fn set_region(&mut self, region: metapb::Region) -> Region {
        self.region = Arc::new(region);
        if let Some(peer) = self.region.peer_by_id(self.peer.peer_id()) {
            self.peer = *peer;
        }
        self.region.clone()
    }
}

fn decode(region: &Region, data: &bytes::Bytes) -> RaftCmdRequest {
    RaftCmdRequest::decode(data.clone()).unwrap_or_else(|error| {
        panic!("the log of {region} has an entry that is no command: {error}")
    })
}

/// Adds what a request wants, and answers in which family.
fn put_request(batch: &mut WriteBatch, request: Request) -> ColumnFamily {
    match request.command.expect("a request has a command") {
        request::Command::Put(put) => {
            let family = family(put.column_family());
            batch.put(family, put.key, put.value);
            family
        }
        request::Command::Delete(delete) => {
            let family = family(delete.column_family());
            batch.delete(family, delete.key);
            family
        }
        request::Command::DeleteRange(delete) => {
            let family = family(delete.column_family());
            let (start, end) = (delete.start_key, delete.end_key);
            batch.delete_range(family, KeyRange { start, end });
            family
        }
    }
}

fn family(family: raft_cmdpb::ColumnFamily) -> ColumnFamily {
    match family {
        raft_cmdpb::ColumnFamily::Default => ColumnFamily::Default,
        raft_cmdpb::ColumnFamily::Lock => ColumnFamily::Lock,
        raft_cmdpb::ColumnFamily::Write => ColumnFamily::Write,
        raft_cmdpb::ColumnFamily::Raw => ColumnFamily::Raw,
    }
}
