//! [`Storage`] over one engine, without raft: `--standalone`. A permanent second implementation
//! beside the replicated one, and the one under which everything above the trait is tested.
//!
//! # Writes
//!
//! 1. The caller's thread checks the request against its region and puts it, with its permit, into
//!    the queue. The queue has as many places as there are permits, so this cannot fail.
//! 2. One writer thread takes the first request, then all that arrived meanwhile, up to a number of
//!    bytes, and merges them into **one** batch in the order of arrival.
//! 3. It writes the batch **synced** and answers everybody. While it waits for the disk the next
//!    requests gather: the slower the disk, the more of them share one sync, with no delay when
//!    there is only one.
//! 4. If the engine fails, everything accepted is answered *unknown* and the process ends: nobody
//!    can say what a disk kept that failed to sync, and nothing is retried over it.
//!
//! # Reads
//!
//! The engine shows a write from the moment it returns, which is before the answer to the writer.
//! So a read on the caller's thread sees everything that was answered before it began: no lease, no
//! hop.
//!
//! **Invariant.** Everything accepted is answered: [`LocalStorage::stop`] closes the queue, the
//! writer drains it, and only then does the thread end.
//!
//! What it does not do: regions never change here, so there is no split, no log and no leader; the
//! term is that of a freshly bootstrapped region, for ever.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use skerry_proto::metapb;
use skerry_proto::types::{RegionId, StoreId, Term};
use skerry_raftstore::engine::{ColumnFamily, Durability, Engine, Operation, WriteBatch};
use skerry_raftstore::extent::FlowTally;
use skerry_raftstore::{keys, time};

use super::permits::{Permit, Permits};
use super::reply::{Answer, Replies, Reply};
use super::{RegionView, RequestContext, Storage, check_key};
use crate::error::{Error, Result};

/// The term of every region here: that of a bootstrapped region which had no election since.
pub const STANDALONE_TERM: Term = Term::new(5);

/// What a [`LocalStorage`] may hold at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalLimits {
    /// Writes that are accepted and not yet answered. Later ones wait at the edge.
    pub pending_commands_max: usize,
    /// Bytes of keys and values of those writes; the memory that waiting writes may take.
    pub pending_bytes_max: usize,
    /// Bytes after which no further request is merged into an engine write. Larger values save
    /// syncs only when single requests are large; the sync, not the copying, should be the longer
    /// part of a write.
    pub merged_bytes_max: usize,
    /// Bytes of one request, as large as an entry of the raft log may be: what works on a
    /// standalone store must work on a replicated one.
    pub entry_bytes_max: usize,
}

impl Default for LocalLimits {
    fn default() -> LocalLimits {
        LocalLimits {
            pending_commands_max: 4_096,
            pending_bytes_max: 64 << 20,
            merged_bytes_max: 4 << 20,
            entry_bytes_max: 8 << 20,
        }
    }
}

/// What was done so far; only ever rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteCounts {
    /// Requests that were written.
    pub commands: u64,
    /// Engine writes, each with one sync, into which they were merged.
    pub engine_writes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    commands: AtomicU64,
    engine_writes: AtomicU64,
}

/// The storage of a standalone store.
pub struct LocalStorage {
    engine: Arc<dyn Engine>,
    store_id: StoreId,
    /// Fixed for the life of the store.
    regions: BTreeMap<RegionId, Arc<metapb::Region>>,
    limits: LocalLimits,
    permits: Arc<Permits>,
    replies: Arc<Replies>,
    counters: Arc<Counters>,
    /// Nobody asks for it: a store that is alone has nothing to balance.
    reads: Arc<FlowTally>,
    /// Taken out by `stop`, which closes the queue. Held for reading only while a request is put
    /// in.
    queue: RwLock<Option<Sender<Pending>>>,
    /// Taken out by `stop`.
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// A write that was accepted. Dropping it answers *unknown* and gives its room back.
struct Pending {
    batch: WriteBatch,
    reply: Reply<()>,
    permit: Permit,
}

impl LocalStorage {
    /// Starts the writer thread over `engine` for the store's `regions`.
    pub fn start(
        engine: Arc<dyn Engine>,
        store_id: StoreId,
        regions: Vec<metapb::Region>,
        limits: LocalLimits,
    ) -> Arc<LocalStorage> {
        let (storage, mut writer) = LocalStorage::by_hand(engine, store_id, regions, limits);
        let thread = time::spawn("local-writer", move || {
            loop {
                match writer.round() {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => time::fatal(&error.to_string()),
                }
            }
        });
        *storage.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        storage
    }

    /// The storage and its writer, for whoever turns the crank by hand.
    pub fn by_hand(
        engine: Arc<dyn Engine>,
        store_id: StoreId,
        regions: Vec<metapb::Region>,
        limits: LocalLimits,
    ) -> (Arc<LocalStorage>, Writer) {
        let permits = Permits::new(limits.pending_commands_max, limits.pending_bytes_max);
        let (sender, receiver) = crossbeam_channel::bounded(permits.commands_max());
        let counters = Arc::new(Counters::default());
        let writer = Writer {
            engine: engine.clone(),
            queue: receiver,
            merged_bytes_max: limits.merged_bytes_max,
            counters: counters.clone(),
        };
        let regions = regions.into_iter().map(|region| (region.region_id(), Arc::new(region)));
        let storage = LocalStorage {
            engine,
            store_id,
            regions: regions.collect(),
            limits,
            permits,
            replies: Replies::new(),
            counters,
            reads: Arc::default(),
            queue: RwLock::new(Some(sender)),
            writer: Mutex::new(None),
        };
        (Arc::new(storage), writer)
    }

    /// Takes nothing more, answers everything accepted, ends the writer thread. Reads go on
    /// working.
    pub fn stop(&self) {
        self.queue.write().unwrap_or_else(PoisonError::into_inner).take();
        let thread = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic in it has already ended the process.
            let _ = thread.join();
        }
    }

    /// Writes and syncs so far.
    pub fn counts(&self) -> WriteCounts {
        WriteCounts {
            commands: self.counters.commands.load(Ordering::Relaxed),
            engine_writes: self.counters.engine_writes.load(Ordering::Relaxed),
        }
    }

    /// How many replies were dropped without an answer; 0 in a healthy store.
    pub fn unanswered(&self) -> u64 {
        self.replies.unanswered()
    }

    /// The region that `context` is about, if the client's picture of it is right. The order of the
    /// checks is that of the answers: a client that speaks to the wrong store learns nothing about
    /// regions.
    fn region(&self, context: &RequestContext) -> Result<&Arc<metapb::Region>> {
        if context.store_id != self.store_id {
            let (requested, actual) = (context.store_id.get(), self.store_id.get());
            return Err(Error::StoreNotMatch { requested, actual });
        }
        let region = self
            .regions
            .get(&context.region_id)
            .ok_or(Error::RegionNotFound(context.region_id.get()))?;
        let (requested, actual) =
            (context.peer_id.get(), region.peer_on_store(self.store_id).map_or(0, |peer| peer.id));
        if requested != actual {
            return Err(Error::PeerNotMatch { requested, actual });
        }
        // Only the version counts: replicas that come and go do not move keys.
        if context.epoch.version != region.epoch().version {
            return Err(Error::EpochNotMatch { current: vec![region.clone()] });
        }
        if context.term.is_some_and(|term| term != STANDALONE_TERM) {
            return Err(Error::StaleCommand);
        }
        Ok(region)
    }

    /// All that can be refused is refused before the first key is written.
    fn check_write(&self, context: &RequestContext, batch: &WriteBatch) -> Result<()> {
        let region = self.region(context)?;
        for operation in batch.operations() {
            match operation {
                Operation::Put(_, key, _) | Operation::Delete(_, key) => check_key(region, key)?,
                Operation::DeleteRange(_, range) => {
                    let space = keys::DataSpace::of(&range.start).expect("user data has a space");
                    let (start, end) = space.range(&region.start_key, &region.end_key);
                    let inside = range.start >= start && !range.end.is_empty() && range.end <= end;
                    assert!(inside, "whoever deletes a range clamps it first");
                }
            }
        }
        let (bytes, bytes_max) = (batch.byte_size(), self.limits.entry_bytes_max);
        if bytes > bytes_max {
            let region_id = region.id;
            return Err(Error::EntryTooLarge { region_id, bytes, bytes_max });
        }
        Ok(())
    }
}

impl Storage for LocalStorage {
    fn permits(&self) -> &Arc<Permits> {
        &self.permits
    }

    fn async_get(
        &self,
        context: &RequestContext,
        family: ColumnFamily,
        key: &[u8],
    ) -> Answer<Option<Bytes>> {
        let checked = self.region(context).and_then(|region| check_key(region, key));
        Answer::ready(checked.and_then(|()| Ok(self.engine.get(family, key)?)))
    }

    fn async_snapshot(&self, context: &RequestContext) -> Answer<RegionView> {
        Answer::ready(self.region(context).map(|region| RegionView {
            view: self.engine.view(),
            region: region.clone(),
            term: STANDALONE_TERM,
            reads: self.reads.clone(),
        }))
    }

    fn async_write(
        &self,
        context: &RequestContext,
        batch: WriteBatch,
        permit: Permit,
    ) -> Answer<()> {
        assert!(permit.is_of(&self.permits), "a permit of another storage is no room here");
        permit.hand_over();
        if let Err(error) = self.check_write(context, &batch) {
            return Answer::ready(Err(error));
        }
        let queue = self.queue.read().unwrap_or_else(PoisonError::into_inner);
        let Some(queue) = queue.as_ref() else {
            return Answer::ready(Err(Error::Stopping));
        };
        let (reply, answer) = self.replies.pair();
        // A closed queue drops the request, which answers it.
        if let Err(refused) = queue.try_send(Pending { batch, reply, permit }) {
            assert!(refused.is_disconnected(), "there are as many places as permits");
        }
        answer
    }

    fn regions(&self) -> Vec<Arc<metapb::Region>> {
        let mut regions: Vec<_> = self.regions.values().cloned().collect();
        regions.sort_by(|one, other| one.start_key.cmp(&other.start_key));
        regions
    }
}

/// The actor behind [`LocalStorage`]: the only one that writes to the engine.
pub struct Writer {
    engine: Arc<dyn Engine>,
    queue: Receiver<Pending>,
    merged_bytes_max: usize,
    counters: Arc<Counters>,
}

impl Writer {
    /// Waits for a request, then writes it with all others that are there. `false` when the storage
    /// was stopped and everything is answered. After an error, which all concerned have been told
    /// is *unknown*, the process must end.
    pub fn round(&mut self) -> skerry_raftstore::Result<bool> {
        match self.queue.recv() {
            Ok(first) => self.write_with_all_others(first).map(|()| true),
            Err(_closed) => Ok(false),
        }
    }

    /// As [`Writer::round`], but `false` also when no request is there.
    pub fn try_round(&mut self) -> skerry_raftstore::Result<bool> {
        match self.queue.try_recv() {
            Ok(first) => self.write_with_all_others(first).map(|()| true),
            Err(_empty_or_closed) => Ok(false),
        }
    }

    fn write_with_all_others(&mut self, first: Pending) -> skerry_raftstore::Result<()> {
        let mut merged = first.batch;
        let mut waiting = vec![(first.reply, first.permit)];
        while merged.byte_size() < self.merged_bytes_max {
            let Ok(next) = self.queue.try_recv() else { break };
            merged.append(next.batch);
            waiting.push((next.reply, next.permit));
        }
        let written = self.engine.write(merged, Durability::Synced);
        match &written {
            Ok(()) => {
                self.counters.commands.fetch_add(waiting.len() as u64, Ordering::Relaxed);
                self.counters.engine_writes.fetch_add(1, Ordering::Relaxed);
            }
            // Nothing more is written, so those behind them may know now.
            Err(_) => waiting.extend(self.queue.try_iter().map(|next| (next.reply, next.permit))),
        }
        for (reply, permit) in waiting {
            // First what it keeps: whoever is answered must not meet its own locks in memory.
            drop(permit);
            reply.answer(written.as_ref().copied().map_err(|error| {
                Error::Unknown(format!("the store failed while writing: {error}"))
            }));
        }
        written
    }
}

#[cfg(test)]
mod tests;
