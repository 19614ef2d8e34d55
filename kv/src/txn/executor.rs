//! Runs the commands of transactions over a [`Storage`]: views, latches, permits, writes, waits.
//!
//! # A read
//!
//! 1. Its timestamp must be one that the scheduler can have given ([`Horizon`]). It raises `max_ts` and looks at the
//!    locks in memory.
//! 2. It takes a view, and asks whether versions of its timestamp are all there ([`SafePoints`]).
//! 3. It reads: single keys and small batches on the caller's thread ([`TxnStore::read`]), all else on the read pool
//!    ([`TxnStore::read_at_length`]).
//!
//! If the client has allowed it, Get, BatchGet and Scan are served by the replica that is asked. Async commits of the
//! region are decided at its leader, so the replica asks there first, which raises `max_ts` and lets locks in memory
//! become locks in the log ([`Storage::async_snapshot_at`], [`Concurrency`]).
//!
//! # A write
//!
//! 1. Its caller brings a permit: room for the write. The timestamps that it names must be such as the scheduler can
//!    have given. While a write waits for the scheduler, here or below, others have the room.
//! 2. It takes the latches of its keys ([`Latches`]): lines, first come, first served.
//! 3. It raises `max_ts` if it reads, takes a view, and decides. If it may lock, it is let in ([`SafePoints`]). If
//!    it may choose a commit timestamp, `max_ts` must be fresh for the term and version of that view
//!    ([`freshness`](super::freshness)); if it is not, the latches are given back meanwhile.
//! 4. Its batch is written with the view's term, so that it is refused if there was another leader in between. The
//!    permit takes latches, admission, locks in memory and the wake-up along: they go when the write is in, also if the
//!    caller has long gone. Then the answer is given.
//!
//! A command without a batch is answered from its view.
//!
//! # A lock request that waits
//!
//! It is given back to its caller as a [`LockWait`], without permit and latches: what waits for another transaction
//! must not keep the room that this one needs to end. The caller decides how long, and asks again with its turn
//! ([`super::lock_waits`]).
//!
//! **Invariant.** Latches, `Published` and the view's term belong together: no other command decides about a key
//! between the view and the end of the write, in whatever way that ends.
//!
//! What it does not do: it knows no wire, keeps no deadlines, and repeats nothing but steps 2 and 3.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use skerry_proto::kvrpcpb::MvccInfo;
use skerry_proto::types::{Term, Ts};
use skerry_raftstore::engine::WriteBatch;

use super::concurrency::{Concurrency, Published};
use super::delete_range::DeleteRange;
use super::error::{Error, Result};
use super::form::TxnKeys;
use super::freshness::{Freshness, Reign};
use super::history;
use super::horizon::{Horizon, Timestamps};
use super::lock_waits::{Detecting, Edge, LockWait, LockWaits, Turn};
use super::pessimistic_lock::{KeyLocked, PessimisticLock, PessimisticLocked};
use super::planted::Planted;
use super::{Effect, ReadCommand, Released, Steps, WriteCommand};
use crate::gc::{Admission, SafePoints};
use crate::mvcc::Key;
use crate::storage::read_pool::ReadJob;
use crate::storage::{
    ApiVersion, Latch, Latches, Permit, Permits, ReadPool, RegionView, RequestContext, Storage,
};

/// Room that a step of a walk over a region asks for: about what its keys and records take.
const STEP_BYTES: usize = 64 << 10;

/// Serves transactions over a [`Storage`].
pub struct TxnStore {
    storage: Arc<dyn Storage>,
    keys: TxnKeys,
    reply_bytes_max: usize,
    lock_wait: Duration,
    latches: Arc<Latches>,
    concurrency: Arc<Concurrency>,
    horizon: Horizon,
    freshness: Freshness,
    waits: Arc<LockWaits>,
    safe_points: Arc<SafePoints>,
    /// Looks for deadlocks over several stores, if there are others.
    detecting: Option<Arc<dyn Detecting>>,
    reads: Arc<ReadPool>,
}

/// What one request may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxnLimits {
    /// Bytes of a key, with mode and keyspace if it has them.
    pub key_bytes_max: usize,
    /// Bytes of one answer.
    pub reply_bytes_max: usize,
    /// How long a lock request waits at most. Then its client is told of the lock, looks whether its owner lives, and
    /// asks again where the region is led by then.
    pub lock_wait: Duration,
}

/// What came of a lock request.
pub enum Locking {
    /// In the order of the request.
    Done(Vec<KeyLocked>),
    /// Another transaction's lock is in the way.
    Wait {
        /// Where it stands in line.
        wait: LockWait,
        /// What to answer if it waits no longer.
        locked: Error,
    },
}

impl TxnStore {
    /// Serves clients of this version. `reads` belongs to the caller, who stops it.
    pub fn new(
        storage: Arc<dyn Storage>,
        version: ApiVersion,
        limits: TxnLimits,
        timestamps: Arc<dyn Timestamps>,
        reads: Arc<ReadPool>,
    ) -> TxnStore {
        TxnStore {
            storage,
            keys: TxnKeys { version, key_bytes_max: limits.key_bytes_max },
            reply_bytes_max: limits.reply_bytes_max,
            lock_wait: limits.lock_wait,
            latches: Latches::new(),
            concurrency: Concurrency::new(),
            horizon: Horizon::new(timestamps),
            freshness: Freshness::default(),
            waits: LockWaits::new(),
            safe_points: SafePoints::none(),
            detecting: None,
            reads,
        }
    }

    /// The same with a safe point that is kept from now on.
    pub fn keeping(self, safe_points: Arc<SafePoints>) -> TxnStore {
        TxnStore { safe_points, ..self }
    }

    /// The same with somebody who looks for deadlocks that this store does not see alone.
    pub fn detecting(self, detecting: Arc<dyn Detecting>) -> TxnStore {
        TxnStore { detecting: Some(detecting), ..self }
    }

    /// The same, with a bug.
    pub fn with_planted(self, planted: Option<Planted>) -> TxnStore {
        let waits = LockWaits::with_planted(planted);
        TxnStore { concurrency: Concurrency::with_planted(planted), waits, ..self }
    }

    /// Looks at the scheduler's time; waits for it.
    pub async fn look_at_time(&self) {
        self.horizon.newest().await;
    }

    /// The safe point that is kept here.
    pub fn safe_points(&self) -> &SafePoints {
        &self.safe_points
    }

    /// The form of keys.
    pub fn keys(&self) -> TxnKeys {
        self.keys
    }

    /// Bytes of the largest answer.
    pub fn reply_bytes_max(&self) -> usize {
        self.reply_bytes_max
    }

    /// How long a lock request may wait.
    pub fn lock_wait(&self) -> Duration {
        self.lock_wait
    }

    /// The room for writes.
    pub fn permits(&self) -> &Arc<Permits> {
        self.storage.permits()
    }

    /// The highest timestamp that somebody has read at.
    pub fn max_ts(&self) -> Ts {
        self.concurrency.max_ts()
    }

    /// How many lock requests wait.
    pub fn waiting(&self) -> usize {
        self.waits.waiting()
    }

    /// What shortcut commits on this store and reads must know of each other.
    pub fn concurrency(&self) -> &Arc<Concurrency> {
        &self.concurrency
    }

    /// Who waits for whose lock on this store.
    pub fn lock_waits(&self) -> Vec<Edge> {
        self.waits.edges()
    }

    /// Runs a short read on the caller's thread.
    pub async fn read<C: ReadCommand>(
        &self,
        context: &RequestContext,
        mut command: C,
    ) -> Result<C::Answer> {
        let view = self.view_for(context, &mut command).await?;
        command.run(&view)
    }

    /// Runs a long read on the read pool.
    pub async fn read_at_length<C>(
        &self,
        context: &RequestContext,
        mut command: C,
    ) -> Result<C::Answer>
    where
        C: ReadCommand + Send + 'static,
        C::Answer: Send + 'static,
    {
        let view = self.view_for(context, &mut command).await?;
        self.reads.run(LongRead(move || command.run(&view))).await?
    }

    /// Everything that is stored about a key.
    pub async fn history(&self, context: &RequestContext, key: &Key) -> Result<MvccInfo> {
        history::of_key(&self.view(context).await?, key)
    }

    /// Everything that is stored about the first key of the region that a transaction touched.
    pub async fn history_of(
        &self,
        context: &RequestContext,
        start_ts: Ts,
    ) -> Result<Option<(Key, MvccInfo)>> {
        let view = self.view(context).await?;
        self.reads.run(LongRead(move || history::of_transaction(&view, start_ts))).await?
    }

    /// Runs a write.
    pub async fn write<C: WriteCommand>(
        &self,
        context: &RequestContext,
        command: &C,
        permit: Permit,
    ) -> Result<C::Answer> {
        let decided = self.decide(context, command, permit).await?;
        self.finish(context, decided).await
    }

    /// Runs a lock request until it is done or has to wait. `turn` is the one that it waited for, if it did.
    pub async fn lock(
        &self,
        context: &RequestContext,
        command: &PessimisticLock,
        turn: Option<Turn>,
        permit: Permit,
    ) -> Result<Locking> {
        self.lock_tagged(context, command, &Bytes::new(), turn, permit).await
    }

    /// The same with what the client wants to read about the request in the chain of a deadlock.
    pub async fn lock_tagged(
        &self,
        context: &RequestContext,
        command: &PessimisticLock,
        tag: &Bytes,
        turn: Option<Turn>,
        permit: Permit,
    ) -> Result<Locking> {
        let decided = self.decide(context, command, permit).await?;
        let Decided { effect, term, latch, admission, permit } = decided;
        let Effect { batch, answer, published, released } = effect;
        let (key, lock) = match answer {
            PessimisticLocked::Done(answer) => {
                let effect = Effect { batch, answer, published, released };
                let decided = Decided { effect, term, latch, admission, permit };
                let results = self.finish(context, decided).await?;
                // A key without a value may have stayed free: then the next in line has its turn.
                if let Some(turn) = turn.filter(|_| !command.lock_only_if_exists) {
                    turn.keep(command.start_ts);
                }
                return Ok(Locking::Done(results));
            }
            PessimisticLocked::Wait { key, lock } if command.no_wait => {
                return Err(Error::locked(&key, &lock));
            }
            PessimisticLocked::Wait { key, lock } => (key, lock),
        };
        let waiter = command.start_ts;
        let wait = match self.waits.join(&key, lock.start_ts, waiter, tag) {
            Ok(wait) => wait,
            Err(circle) => return Err(Error::deadlock(&circle)?),
        };
        let wait = match &self.detecting {
            Some(detecting) => wait.watched(&**detecting, waiter, &key, tag),
            None => wait,
        };
        drop(latch);
        if let Some(turn) = turn.filter(|turn| turn.key() == Some(&key)) {
            turn.keep(lock.start_ts);
        }
        Ok(Locking::Wait { wait, locked: Error::locked(&key, &lock) })
    }

    /// Runs a command for a whole region, step by step, with a permit for each.
    pub async fn walk<S: Steps>(&self, context: &RequestContext, mut steps: S) -> Result<()> {
        loop {
            let view = self.view(context).await?;
            let Some(command) = steps.next(&view)? else { return Ok(()) };
            drop(view);
            if command.keys().is_empty() {
                // It has looked at many locks that do not matter.
                continue;
            }
            let permit = self.permits().acquire(STEP_BYTES).await;
            self.write(context, &command, permit).await?;
        }
    }

    /// The next command of a walk, looked for on the read pool.
    pub async fn next_step<S>(
        &self,
        context: &RequestContext,
        steps: S,
    ) -> Result<(S, Option<S::Command>)>
    where
        S: Steps + Send + 'static,
        S::Command: Send + 'static,
    {
        let view = self.view(context).await?;
        let mut steps = Some(steps);
        let look = move || {
            let mut steps = steps.take().expect("one slice is the whole of it");
            let command = steps.next(&view)?;
            Ok((steps, command))
        };
        self.reads.run(LongRead(look)).await?
    }

    /// Removes a range of the region.
    pub async fn delete_range(
        &self,
        context: &RequestContext,
        command: &DeleteRange,
        permit: Permit,
    ) -> Result<()> {
        let view = self.view(context).await?;
        let (batch, term) = (command.run(&view)?, view.term);
        drop(view);
        self.write_batch(context, batch, term, permit).await
    }

    /// Steps 1 to 3.
    async fn decide<C: WriteCommand>(
        &self,
        context: &RequestContext,
        command: &C,
        mut permit: Permit,
    ) -> Result<Decided<C::Answer>> {
        loop {
            // Nobody shall wait for the scheduler at a latch, with room that others need, or keep old versions alive.
            let (room, admitted) = permit.aside(self.admit(command)).await;
            admitted?;
            permit = room;
            let keys = command.keys();
            let latch = self.latches.acquire(keys.iter().map(Key::to_bytes)).await;
            command.prepare(&self.concurrency);
            let view = self.view(context).await?;
            let admission = match command.locks_for() {
                None => None,
                Some(start_ts) => match self.safe_points.admit_lock(start_ts)? {
                    None => continue,
                    admission => admission,
                },
            };
            let reign = Reign::of(&view);
            if command.needs_fresh_max_ts() && !self.is_fresh(reign) {
                drop((latch, view, admission));
                (permit, ()) = permit.aside(self.learn(reign)).await;
                continue;
            }
            let effect = command.run(&view, &self.concurrency)?;
            return Ok(Decided { effect, term: view.term, latch, admission, permit });
        }
    }

    /// Waits for what the scheduler must have said before a write takes its latches.
    async fn admit<C: WriteCommand>(&self, command: &C) -> Result<()> {
        if command.locks_for().is_some() {
            self.safe_points.until_heard().await;
        }
        self.admit_ts(command.names()).await
    }

    async fn admit_ts(&self, ts: Ts) -> Result<()> {
        if self.has(Planted::HorizonForgotten) { Ok(()) } else { self.horizon.admit(ts).await }
    }

    /// Raises `max_ts` above all reads before this reign, which has begun.
    async fn learn(&self, reign: Reign) {
        self.concurrency.raise_max_ts(self.horizon.newest().await);
        self.freshness.learn(reign);
    }

    /// Step 4.
    async fn finish<A>(&self, context: &RequestContext, decided: Decided<A>) -> Result<A> {
        let Decided { effect, term, latch, admission, permit } = decided;
        let Effect { batch, answer, published, released } = effect;
        let wake = Wake { waits: Arc::clone(&self.waits), released };
        // Where locks are published the latch stays: two of one key would be seen at once.
        let is_kept = published.is_some() || !self.has(Planted::LatchReleasedEarly);
        let latch = Some(latch).filter(|_| is_kept);
        let ending =
            Ending { _published: published, _latch: latch, _admission: admission, _wake: wake };
        if !batch.is_empty() {
            self.write_batch(context, batch, term, permit.keeping(ending)).await?;
        }
        Ok(answer)
    }

    async fn write_batch(
        &self,
        context: &RequestContext,
        batch: WriteBatch,
        term: Term,
        permit: Permit,
    ) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let term = Some(term).filter(|_| !self.has(Planted::StaleTerm));
        let context = RequestContext { term, ..*context };
        Ok(self.storage.async_write(&context, batch, permit).await?)
    }

    fn is_fresh(&self, reign: Reign) -> bool {
        self.freshness.is_learnt(reign) || self.has(Planted::MaxTsNotFresh)
    }

    /// Whether a test has planted this bug.
    pub(crate) fn has(&self, bug: Planted) -> bool {
        self.concurrency.planted() == Some(bug)
    }

    /// Steps 1 and 2 of a read: a view in which all versions are that it may have to see, at the leader or where the
    /// client has asked.
    async fn view_for<C: ReadCommand>(
        &self,
        context: &RequestContext,
        command: &mut C,
    ) -> Result<RegionView> {
        if command.raises_to() != Ts::MAX {
            self.admit_ts(command.raises_to()).await?;
        }
        command.prepare(&self.concurrency)?;
        let ts = command.reads_at();
        loop {
            if ts.is_some() {
                self.safe_points.until_heard().await;
            }
            let view = match command.replica_ts() {
                Some(ts) => {
                    self.keys.version.check(context.api_version)?;
                    self.storage.async_snapshot_at(context, ts).await?
                }
                None => self.view(context).await?,
            };
            // In this order: what the view shows was complete when it was asked.
            if ts.map_or(Ok(true), |ts| self.safe_points.admits_read(ts))? {
                return Ok(view);
            }
        }
    }

    async fn view(&self, context: &RequestContext) -> Result<RegionView> {
        self.keys.version.check(context.api_version)?;
        let context = RequestContext { replica_read: false, ..*context };
        Ok(self.storage.async_snapshot(&context).await?)
    }
}

/// A command that has decided and not written.
struct Decided<A> {
    effect: Effect<A>,
    term: Term,
    latch: Latch,
    admission: Option<Admission>,
    permit: Permit,
}

/// What ends with a write, in this order.
struct Ending {
    _published: Option<Published>,
    _latch: Option<Latch>,
    _admission: Option<Admission>,
    _wake: Wake,
}

/// Wakes, on drop, those who wait for these locks. If the write failed they find them again.
struct Wake {
    waits: Arc<LockWaits>,
    released: Vec<Released>,
}

impl Drop for Wake {
    fn drop(&mut self) {
        for released in &self.released {
            self.waits.wake(&released.key);
        }
    }
}

/// A read in one slice: what it may read is bounded by its limits.
struct LongRead<F>(F);

impl<F, T> ReadJob for LongRead<F>
where
    F: FnMut() -> T + Send + 'static,
    T: Send + 'static,
{
    type Output = T;

    fn slice(&mut self) -> crate::Result<Option<T>> {
        Ok(Some((self.0)()))
    }
}

#[cfg(test)]
mod tests;
