//! Transactions: Percolator's commands, each a function of a view and of what it was asked for.
//!
//! A transaction is known by its start timestamp. It reads at that timestamp, then writes in two phases: *prewrite*
//! locks all keys and stores the values, *commit* turns the locks into records, the primary key's first. Whoever
//! meets a lock asks at its primary key what became of the transaction. `docs/transactions.md` tells the whole story.
//!
//! # The commands
//!
//! | file | commands | answers |
//! | --- | --- | --- |
//! | [`get`], [`scan`] | Get, BatchGet, Scan | values at a timestamp |
//! | [`prewrite`] | Prewrite, with async commit and in one phase | locked, or committed at once |
//! | [`commit`], [`rollback`] | Commit; BatchRollback, Cleanup | the end |
//! | [`check_txn_status`], [`check_secondary_locks`] | what became of a transaction | ... and it is decided now |
//! | [`resolve_lock`] | ResolveLock by keys, and a walk over a region | locks turned into their end |
//! | [`heartbeat`] | TxnHeartBeat | a longer life |
//! | [`pessimistic_lock`], [`pessimistic_rollback`] | locks in advance | locked, or whom to wait for |
//! | [`scan_lock`], [`history`] | ScanLock, MvccGetByKey, MvccGetByStartTs | what lies there |
//! | [`read_index`] | ReadIndex | how far another replica must be, to read |
//! | [`delete_range`], [`garbage`] | DeleteRange, UnsafeDestroyRange, GC | less lies there |
//!
//! # How a command runs
//!
//! Whoever runs commands (the [`executor`]) does this, and needs to know nothing else about them:
//!
//! 1. Reads ([`ReadCommand`]): refuse a timestamp that nobody was given ([`horizon`]); `prepare` with the store's
//!    [`Concurrency`]; take a view; refuse what is below the safe point ([`crate::gc::SafePoints`]); `run`.
//! 2. Writes ([`WriteCommand`]): refuse such a timestamp; take the latches of `keys`; `prepare`; take a view; let in
//!    what may lock, until its write has ended; if the command needs it, see that `max_ts` is fresh for this view, or
//!    make it so and begin again; `run`; write [`Effect::batch`] with the view's term; then drop [`Effect::published`]
//!    and the latches, wake whoever waits for [`Effect::released`], and give the answer.
//! 3. Commands for a whole region ([`Steps`]): take a view without latches and ask for the `next` command, run it as
//!    above, and so on until there is none.
//!
//! **Invariant.** A command reads only keys whose latches are held, or that no decision depends on. So between its view
//! and its write nothing that it relied on has changed.
//!
//! **Invariant.** Every command may arrive twice, late, and in any order: it answers the same and does nothing the
//! second time, or refuses.
//!
//! What a command does not do: it waits for nobody, takes no latches, proposes nothing, and knows no clock: all
//! timestamps come with it. Latches and waiting are the executor's, with [`freshness`], [`horizon`],
//! [`lock_waits`], [`patience`], [`telling`] and [`deadlock`] beside it.

use std::sync::Arc;

use skerry_proto::codec::encode_bytes;
use skerry_proto::region::KeyBounds;
use skerry_proto::types::Ts;
use skerry_raftstore::engine::{KeyRange, WriteBatch};
use skerry_raftstore::keys::{DataSpace, data_range};

use crate::mvcc::Key;
use crate::storage::RegionView;

pub mod check_secondary_locks;
pub mod check_txn_status;
pub mod commit;
pub mod concurrency;
pub mod deadlock;
pub mod delete_range;
mod endings;
pub mod error;
pub mod executor;
pub mod form;
pub mod freshness;
pub mod garbage;
pub mod get;
pub mod heartbeat;
pub mod history;
pub mod horizon;
pub mod lock_waits;
pub mod patience;
pub mod pessimistic_lock;
pub mod pessimistic_rollback;
pub mod planted;
pub mod prewrite;
pub mod read_index;
pub mod resolve_lock;
pub mod rollback;
pub mod scan;
pub mod scan_lock;
pub mod telling;

pub use concurrency::{Concurrency, Published};
pub use error::{Error, Result};
pub use executor::{Locking, TxnLimits, TxnStore};
pub use horizon::Timestamps;

/// A command that writes nothing.
pub trait ReadCommand {
    /// What it answers.
    type Answer;

    /// At which timestamp it shows data. Not below the safe point: there versions may be gone.
    fn reads_at(&self) -> Option<Ts> {
        None
    }

    /// At which timestamp it looks: nothing that it has not seen may be committed at or below it later.
    fn raises_to(&self) -> Ts;

    /// Looks at locks in memory, when `max_ts` is raised.
    fn meet_locks(&mut self, concurrency: &Concurrency) -> Result<()>;

    /// Raises `max_ts` and looks at locks in memory. Always before the view is taken.
    fn prepare(&mut self, concurrency: &Concurrency) -> Result<()> {
        concurrency.raise_max_ts(self.raises_to());
        self.meet_locks(concurrency)
    }

    /// The timestamp at which any replica may serve it; none if only the leader may.
    fn replica_ts(&self) -> Option<Ts> {
        None
    }

    /// Reads.
    fn run(&self, view: &RegionView) -> Result<Self::Answer>;
}

/// A command that may write.
pub trait WriteCommand {
    /// What it answers.
    type Answer;

    /// For logs and metrics.
    fn name(&self) -> &'static str;

    /// The keys that it reads and writes: all must be in the region, and their latches be held from before the view
    /// until after the write. May name a key twice.
    fn keys(&self) -> Vec<Key>;

    /// The transaction for which it may lock or write something new. That must have begun above the safe point: what
    /// would tell it of conflicts, and of its own end, may be gone.
    fn locks_for(&self) -> Option<Ts> {
        None
    }

    /// The latest timestamp that the request names and only the scheduler can have given. What a command leaves at
    /// one from far ahead is seen by nobody, and in everybody's way.
    fn names(&self) -> Ts {
        self.raises_to().max(self.locks_for().unwrap_or(Ts::ZERO))
    }

    /// Whether it may choose a commit timestamp by itself. Then the store must know a timestamp above all reads that
    /// former leaders of the region have answered, learned in this term and for this version of the region.
    fn needs_fresh_max_ts(&self) -> bool {
        false
    }

    /// At which timestamp it reads what must stay true; 0 if it does not.
    fn raises_to(&self) -> Ts {
        Ts::ZERO
    }

    /// Raises `max_ts` for what it is about to read. Always before the view is taken.
    fn prepare(&self, concurrency: &Concurrency) {
        concurrency.raise_max_ts(self.raises_to());
    }

    /// Decides, for keys that are in the region.
    fn decide(
        &self,
        view: &RegionView,
        concurrency: &Arc<Concurrency>,
    ) -> Result<Effect<Self::Answer>>;

    /// Refuses keys of other regions and decides.
    fn run(
        &self,
        view: &RegionView,
        concurrency: &Arc<Concurrency>,
    ) -> Result<Effect<Self::Answer>> {
        for key in self.keys() {
            view.check_key(key.as_bytes())?;
        }
        self.decide(view, concurrency)
    }
}

/// A command for a whole region, as a row of commands for some of its keys each. What it finds without latches is only
/// where to look: each command looks again.
pub trait Steps {
    /// What it consists of.
    type Command: WriteCommand;

    /// The command to run next; nothing when all is done.
    fn next(&mut self, view: &RegionView) -> Result<Option<Self::Command>>;
}

/// What a command wants done.
#[derive(Debug)]
pub struct Effect<A> {
    /// To be written with the view's term. Nothing needs to be written if it is empty.
    pub batch: WriteBatch,
    /// To be answered when the batch is durable.
    pub answer: A,
    /// Locks that are in memory until the batch is durable.
    pub published: Option<Published>,
    /// Locks that are gone when the batch is durable, for those who wait for them.
    pub released: Vec<Released>,
}

impl<A> Effect<A> {
    /// Nothing is to be written.
    pub fn answer(answer: A) -> Effect<A> {
        Effect { batch: WriteBatch::new(), answer, published: None, released: Vec::new() }
    }
}

/// A lock that a command takes away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// The key that was locked.
    pub key: Key,
    /// The transaction that had it.
    pub start_ts: Ts,
    /// When that transaction committed; 0 if it did not.
    pub commit_ts: Ts,
}

/// The data keys between two user keys; an empty `end` is no bound.
pub(crate) fn range_of(start: &[u8], end: &[u8]) -> KeyRange {
    let (start, end) = (encode_bound(start), encode_bound(end));
    let (start, end) = data_range(&start, &end);
    KeyRange { start, end }
}

/// The part of the data keys between two user keys that lies in the region.
pub(crate) fn range_in(view: &RegionView, start: &[u8], end: &[u8]) -> Option<KeyRange> {
    let (start, end) = (encode_bound(start), encode_bound(end));
    view.clamp(DataSpace::Main, &KeyBounds::new(&start, &end))
}

fn encode_bound(user: &[u8]) -> Vec<u8> {
    if user.is_empty() { Vec::new() } else { encode_bytes(user) }
}

#[cfg(test)]
mod tests;
