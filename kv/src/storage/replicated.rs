//! [`Storage`] over replicated regions: what a client asks becomes a command of raftstore, whose answer
//! becomes the client's.
//!
//! # Reads
//!
//! 1. A replica that leads with a valid lease serves them on the caller's thread: a point from the engine
//!    directly, all else from a view. Nobody else is involved.
//! 2. Otherwise the region's worker is asked. It serves from its lease or asks the other replicas; then the
//!    answer comes from its thread.
//! 3. A read that the client has allowed to any replica (`replica_read`) goes to the worker of the replica that
//!    was asked, which asks its leader how far it must have applied. A transaction's names its timestamp, for the
//!    leader to see to it that nothing commits below it unseen.
//!
//! # Writes
//!
//! The region's worker proposes them; they are answered when they are applied here, which is after a
//! majority of replicas has synced them. The permit is held until then and goes just before the answer.
//!
//! **Invariant.** Each outcome of raftstore keeps its meaning: *done*, *refused* (certainly not done) or
//! *unknown*, which alone becomes [`Error::Unknown`].
//!
//! What it does not do: it never retries; a client that is sent elsewhere goes there.

use std::sync::Arc;

use bytes::Bytes;
use skerry_proto::metapb;
use skerry_proto::types::{StoreId, Ts};
use skerry_raftstore::engine::{ColumnFamily, WriteBatch};
use skerry_raftstore::message::{self, Command, CommandContext, CommandKind, Consistency};
use skerry_raftstore::registry::LocalReader;
use skerry_raftstore::reply::{self, Outcome, Refusal};
use skerry_raftstore::store::threads::StoreHandle;

use super::permits::{Permit, Permits};
use super::reply::{Answer, Replies, Reply};
use super::{RegionView, RequestContext, Storage, check_key};
use crate::error::{Error, Result};

/// Where commands for regions go: the queues of a store, whoever turns it.
pub trait Commands: Send + Sync {
    /// Hands a command to the region's worker, who answers it.
    fn command(&self, command: Command);

    /// The regions here.
    fn regions(&self) -> Vec<Arc<metapb::Region>>;
}

impl Commands for StoreHandle {
    fn command(&self, command: Command) {
        StoreHandle::command(self, command);
    }

    fn regions(&self) -> Vec<Arc<metapb::Region>> {
        StoreHandle::regions(self)
    }
}

/// See the module.
pub struct ReplicatedStorage {
    store_id: StoreId,
    store: Arc<dyn Commands>,
    reader: LocalReader,
    permits: Arc<Permits>,
    /// Of the answers to callers.
    replies: Arc<Replies>,
    /// Of the answers that raftstore gives.
    outcomes: Arc<reply::Replies>,
}

impl ReplicatedStorage {
    /// Storage over a running store with this room for writes.
    pub fn new(
        store_id: StoreId,
        store: StoreHandle,
        permits: Arc<Permits>,
    ) -> Arc<ReplicatedStorage> {
        let reader = store.reader();
        ReplicatedStorage::over(store_id, Arc::new(store), reader, permits)
    }

    /// Storage over a store that others turn: its queues, and its reads on the caller's thread.
    pub fn over(
        store_id: StoreId,
        store: Arc<dyn Commands>,
        reader: LocalReader,
        permits: Arc<Permits>,
    ) -> Arc<ReplicatedStorage> {
        let (replies, outcomes) = (Replies::new(), reply::Replies::new());
        let storage = ReplicatedStorage { store_id, store, reader, permits, replies, outcomes };
        Arc::new(storage)
    }

    /// How many answers were dropped; 0 in a healthy store.
    pub fn unanswered(&self) -> u64 {
        self.replies.unanswered() + self.outcomes.dropped()
    }

    fn command_context(&self, context: &RequestContext) -> Result<CommandContext> {
        if context.store_id != self.store_id {
            let (requested, actual) = (context.store_id.get(), self.store_id.get());
            return Err(Error::StoreNotMatch { requested, actual });
        }
        let &RequestContext { region_id, peer_id, epoch, term, .. } = context;
        Ok(CommandContext { region_id, peer_id, epoch, term })
    }

    /// Asks the region's worker; `then` makes the caller's answer from its view.
    fn ask<T: Send + 'static>(
        &self,
        context: CommandContext,
        consistency: Consistency,
        then: impl FnOnce(message::RegionView) -> Result<T> + Send + 'static,
    ) -> Answer<T> {
        let (reply, answer) = self.replies.pair();
        let reply = self.outcomes.reply(move |outcome| {
            reply.answer(result_of(outcome).and_then(then));
        });
        self.store.command(Command { context, kind: CommandKind::Read { consistency, reply } });
        answer
    }
}

impl Storage for ReplicatedStorage {
    fn permits(&self) -> &Arc<Permits> {
        &self.permits
    }

    fn async_get(
        &self,
        context: &RequestContext,
        family: ColumnFamily,
        key: &[u8],
    ) -> Answer<Option<Bytes>> {
        let command = match self.command_context(context) {
            Ok(command) => command,
            Err(error) => return Answer::ready(Err(error)),
        };
        if !context.replica_read
            && let Some(read) = self.reader.get(&command, family, key)
        {
            let read = read.map_err(Error::from).and_then(|value| Ok(value?));
            return Answer::ready(read);
        }
        let key = Bytes::copy_from_slice(key);
        self.ask(command, consistency(context), move |view| {
            check_key(&view.region, &key)?;
            let value = view.view.get(family, &key)?;
            view.reads.count(1, (key.len() + value.as_ref().map_or(0, Bytes::len)) as u64);
            Ok(value)
        })
    }

    fn async_snapshot(&self, context: &RequestContext) -> Answer<RegionView> {
        let command = match self.command_context(context) {
            Ok(command) => command,
            Err(error) => return Answer::ready(Err(error)),
        };
        if !context.replica_read
            && let Some(read) = self.reader.read(&command)
        {
            return Answer::ready(read.map(RegionView::from).map_err(Error::from));
        }
        self.ask(command, consistency(context), |view| Ok(view.into()))
    }

    fn async_snapshot_at(&self, context: &RequestContext, ts: Ts) -> Answer<RegionView> {
        // The newest is what the leader has.
        if !context.replica_read || ts == Ts::MAX {
            return self.async_snapshot(&RequestContext { replica_read: false, ..*context });
        }
        let command = match self.command_context(context) {
            Ok(command) => command,
            Err(error) => return Answer::ready(Err(error)),
        };
        if let Some(read) = self.reader.read(&command) {
            return Answer::ready(read.map(RegionView::from).map_err(Error::from));
        }
        self.ask(command, Consistency::ReplicaAt(ts.get()), |view| Ok(view.into()))
    }

    fn async_write(
        &self,
        context: &RequestContext,
        batch: WriteBatch,
        permit: Permit,
    ) -> Answer<()> {
        assert!(permit.is_of(&self.permits), "a permit of another storage is no room here");
        permit.hand_over();
        let context = match self.command_context(context) {
            Ok(context) => context,
            Err(error) => return Answer::ready(Err(error)),
        };
        let (reply, answer): (Reply<()>, Answer<()>) = self.replies.pair();
        let reply = self.outcomes.reply(move |outcome| {
            // First what it keeps: whoever is answered must not meet its own locks in memory.
            drop(permit);
            reply.answer(result_of(outcome).map(|_: message::Written| ()));
        });
        self.store.command(Command { context, kind: CommandKind::Write { batch, reply } });
        answer
    }

    fn regions(&self) -> Vec<Arc<metapb::Region>> {
        let mut regions = self.store.regions();
        regions.sort_by(|one, other| one.start_key.cmp(&other.start_key));
        regions
    }
}

impl std::fmt::Debug for ReplicatedStorage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "replicated storage of {}", self.store_id)
    }
}

fn consistency(context: &RequestContext) -> Consistency {
    match context.replica_read {
        true => Consistency::Replica,
        false => Consistency::Leader,
    }
}

/// What raftstore has answered, as this crate says it.
pub(crate) fn result_of<T>(outcome: Outcome<T>) -> Result<T> {
    match outcome {
        Outcome::Done(value) => Ok(value),
        Outcome::Refused(refusal) => Err(Error::from(refusal)),
        Outcome::Unknown(reason) => Err(Error::Unknown(reason.to_string())),
    }
}

impl From<message::RegionView> for RegionView {
    fn from(view: message::RegionView) -> RegionView {
        let message::RegionView { view, region, term, reads } = view;
        RegionView { view, region, term, reads }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        match refusal {
            Refusal::NotLeader { region_id, leader } => {
                Error::NotLeader { region_id: region_id.get(), leader }
            }
            Refusal::RegionNotFound(region_id) => Error::RegionNotFound(region_id.get()),
            Refusal::EpochNotMatch(current) => Error::EpochNotMatch { current },
            Refusal::KeyNotInRegion { key, region } => Error::KeyNotInRegion { key, region },
            Refusal::PeerMismatch { asked, present } => {
                Error::PeerNotMatch { requested: asked.get(), actual: present.get() }
            }
            Refusal::StoreMismatch { asked, present } => {
                Error::StoreNotMatch { requested: asked.get(), actual: present.get() }
            }
            Refusal::StaleCommand => Error::StaleCommand,
            Refusal::Busy(reason) => Error::NotNow(reason),
            Refusal::EntryTooLarge { region_id, bytes, bytes_max } => {
                Error::EntryTooLarge { region_id: region_id.get(), bytes, bytes_max }
            }
            Refusal::Admin(reason) => Error::Admin(reason),
        }
    }
}
