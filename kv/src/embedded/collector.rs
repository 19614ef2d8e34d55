//! Old versions go from a database of one server too: both sides of a round of garbage collection on one thread, the
//! store's ([`Part`]) and the scheduler's ([`Placement::confer`]).
//!
//! 1. The store tells what it has done and hears what is next. There is nobody else to wait for, so a round goes as
//!    fast as the two can talk: announce, resolve, collect.
//! 2. It goes over its regions, at the pace of `gc.io-rate`.
//! 3. With nothing left to tell it rests for a few seconds, and looks again whether the next round is due.
//!
//! **Invariant.** It ends promptly: in a rest, or when it next waits for the engine or its pace. What it leaves undone
//! belongs to the next round, in this life or another: safe points are on disk before anything goes.
//!
//! What it does not do: it wakes nobody and needs no runtime. The store's primary keys are in the same store
//! ([`Within`]), so nobody is asked over a wire.

use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use skerry_proto::kvrpcpb::{
    CheckSecondaryLocksResponse, CheckTxnStatusRequest, CheckTxnStatusResponse, KeyError,
};
use skerry_proto::metapb::Region;
use skerry_proto::types::{StoreId, Ts};
use skerry_raftstore::snapshot::RateLimit;
use skerry_raftstore::time::{SystemClock, fatal, spawn};
use slog::{Logger, info};

use super::client::region_key;
use super::placement::Placement;
use super::wait::Waiter;
use crate::error::{Error, Result};
use crate::gc::GcConfig;
use crate::gc::part::{Means, Part};
use crate::gc::resolve::{Asked, Elsewhere};
use crate::mvcc::Key;
use crate::storage::{RequestContext, Storage};
use crate::txn::check_secondary_locks::CheckSecondaryLocks;
use crate::txn::check_txn_status::CheckTxnStatus;
use crate::txn::{self, TxnStore};

/// Room that a question about a transaction asks for.
const QUESTION_BYTES: usize = 1 << 10;

/// The thread; see the head of this file.
pub(super) struct Collector {
    stop: Sender<Infallible>,
    thread: JoinHandle<()>,
}

/// What it collects from.
#[derive(Clone)]
pub(super) struct Ground {
    pub(super) store_id: StoreId,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) txn: Arc<TxnStore>,
}

impl Collector {
    /// Starts it. Everything that it holds is let go before [`Collector::stop`] returns.
    pub(super) fn start(
        ground: Ground,
        placement: Arc<Placement>,
        config: &GcConfig,
        logger: Logger,
    ) -> Collector {
        let (stop, stopped) = bounded(0);
        let has_news = Arc::new(AtomicBool::new(false));
        let (storage, told) = (Arc::clone(&ground.storage), Arc::clone(&has_news));
        let means = Means {
            store_id: ground.store_id,
            txn: Arc::clone(&ground.txn),
            led: Box::new(move || storage.regions()),
            elsewhere: Arc::new(Within(ground)),
            news: Box::new(move || told.store(true, Ordering::SeqCst)),
        };
        let driver = Driver {
            part: Part::new(means),
            has_news,
            placement,
            poll_interval: Duration::from_millis(config.poll_interval_ms),
            rate: RateLimit::new(Arc::new(SystemClock), config.io_rate.0),
            stopped,
            logger,
        };
        Collector { stop, thread: spawn("collector", move || driver.run()) }
    }

    /// Ends it; what it is about to write is written.
    pub(super) fn stop(self) {
        drop(self.stop);
        self.thread.join().expect("a thread that panics ends the process");
    }
}

/// What runs on the thread.
struct Driver {
    part: Part,
    /// There is something to tell.
    has_news: Arc<AtomicBool>,
    placement: Arc<Placement>,
    poll_interval: Duration,
    rate: RateLimit,
    /// Nothing ever comes; its other end goes when it is time to end.
    stopped: Receiver<Infallible>,
    logger: Logger,
}

impl Driver {
    fn run(self) {
        loop {
            let is_moving = self.confer();
            let Some(dropped) = Waiter::default().wait_for(self.pass()) else { return };
            if dropped > 0 {
                info!(self.logger, "old versions are dropped"; "records" => dropped);
            }
            let goes_on = is_moving || self.has_news.swap(false, Ordering::SeqCst);
            let rest = if goes_on { Duration::ZERO } else { self.poll_interval };
            if self.rests(rest) {
                return;
            }
        }
    }

    /// Step 1. Answers whether there is more to say or to do at once.
    fn confer(&self) -> bool {
        let report = self.part.report();
        let kept = report.kept;
        let order = self.placement.confer(report).unwrap_or_else(|error| {
            fatal(&format!("the safe point cannot be saved: {error}"));
        });
        // The store relies on it for ever: nobody else raises it.
        let is_new = self.part.heard(order, Duration::ZERO, None);
        is_new || self.part.kept() != kept
    }

    /// Step 2. Answers how many records were dropped, or nothing if it is time to end.
    async fn pass(&self) -> Option<u64> {
        let pace = |bytes| {
            let is_over = self.rests(self.rate.take(bytes));
            async move {
                if is_over {
                    // The pass is given up below.
                    pending::<()>().await;
                }
            }
        };
        let mut pass = pin!(self.part.pass(pace));
        poll_fn(|task| match pass.as_mut().poll(task) {
            Poll::Ready(dropped) => Poll::Ready(Some(dropped)),
            Poll::Pending if self.is_over() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Lets time pass; `true`: it is time to end.
    fn rests(&self, time: Duration) -> bool {
        match time.is_zero() {
            true => self.is_over(),
            false => self.stopped.recv_timeout(time) == Err(RecvTimeoutError::Disconnected),
        }
    }

    fn is_over(&self) -> bool {
        self.stopped.try_recv() == Err(TryRecvError::Disconnected)
    }
}

/// Primary keys of the same store.
struct Within(Ground);

impl Within {
    /// The region of a key.
    fn region(&self, key: &Key) -> Result<Arc<Region>> {
        let boundary = region_key(key);
        let regions = self.0.storage.regions();
        let found = regions.into_iter().find(|region| region.contains_key(boundary));
        found.ok_or(Error::NotNow("no region has the primary key"))
    }

    async fn ask<C: txn::WriteCommand>(
        &self,
        region: &Region,
        command: &C,
    ) -> txn::Result<C::Answer> {
        let Ground { store_id, txn, .. } = &self.0;
        let context = RequestContext::inside(region, *store_id, txn.keys().version);
        let permit = txn.permits().acquire(QUESTION_BYTES).await;
        txn.write(&context, command, permit).await
    }
}

impl Elsewhere for Within {
    fn check_txn_status(
        &self,
        request: CheckTxnStatusRequest,
    ) -> Asked<'_, CheckTxnStatusResponse> {
        Box::pin(async move {
            let check = CheckTxnStatus::asked(Key::of(&request.primary_key), &request);
            match self.ask(&*self.region(&check.primary)?, &check).await {
                Ok(status) => Ok(status.to_wire(&request.primary_key)),
                Err(error) => Ok(CheckTxnStatusResponse {
                    error: Some(about_key(error)?),
                    ..Default::default()
                }),
            }
        })
    }

    fn check_secondary_locks(
        &self,
        start_ts: Ts,
        keys: Vec<Bytes>,
    ) -> Asked<'_, (usize, CheckSecondaryLocksResponse)> {
        Box::pin(async move {
            let keys: Vec<Key> = keys.iter().map(|user| Key::of(user)).collect();
            let first = keys.first().ok_or(Error::NotNow("no key was asked about"))?;
            let region = self.region(first)?;
            let is_inside = |key: &Key| region.contains_key(region_key(key));
            let keys: Vec<Key> = keys.into_iter().take_while(is_inside).collect();
            let count = keys.len();
            let check = CheckSecondaryLocks { keys, start_ts };
            let asked = self.ask(&region, &check).await;
            match asked.and_then(|locks| locks.to_wire()) {
                Ok(locks) => Ok((count, locks)),
                Err(error) => {
                    let error = Some(about_key(error)?);
                    Ok((count, CheckSecondaryLocksResponse { error, ..Default::default() }))
                }
            }
        })
    }
}

/// What is the matter with a key, in the form in which other stores would say it; all else failed here.
fn about_key(error: txn::Error) -> Result<KeyError> {
    match error {
        txn::Error::Other(error) => Err(*error),
        about_key => Ok(about_key.to_wire().expect("only the variant above has no such form")),
    }
}
