//! The safe point that the store keeps: who may still read, and who may still lock.
//!
//! Elsewhere old versions may be gone as soon as all stores keep the safe point. So what a store has heard counts for
//! a while only, its *lease*: without news nobody is served until there are some. The scheduler waits that long for
//! a silent store, and no longer.
//!
//! * A read takes its view first and asks then ([`SafePoints::admits_read`]): what it sees was complete when it asked.
//! * A lock is let in ([`SafePoints::admit_lock`]) with an [`Admission`] that it holds until its write has ended in
//!   whatever way. The safe point counts as *kept* when all that were let in under lower ones are gone: then a look at
//!   the locks shows all that there will ever be.
//!
//! **Invariant.** The safe point never falls.
//!
//! What it does not do: it asks nobody, and it knows no regions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_channel::oneshot;
use skerry_proto::types::Ts;
use skerry_raftstore::time::{Clock, ManualClock};

use crate::txn::error::{Error, Result};

/// When a lease ends that never does.
const NEVER: u64 = u64::MAX;

/// See the head of this file. One for a store.
pub struct SafePoints {
    clock: Arc<dyn Clock>,
    /// What was heard last.
    announced: AtomicU64,
    /// Up to when that counts, in milliseconds of the monotonic clock.
    lease_end: AtomicU64,
    /// Nothing is awaited under it.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whoever is let in now holds a copy.
    present: Arc<()>,
    /// Those who were let in under lower safe points.
    earlier: Vec<Weak<()>>,
    /// The highest safe point that was kept so far.
    kept: Ts,
    /// Those who wait for news.
    waiting: Vec<oneshot::Sender<()>>,
}

/// The right of a command to lock; held until its write has ended.
#[derive(Clone, Debug)]
pub struct Admission(
    #[allow(dead_code, reason = "held for others to see that it is held")] Arc<()>,
);

impl SafePoints {
    /// Nothing was heard yet.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<SafePoints> {
        let (announced, lease_end) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(SafePoints { clock, announced, lease_end, state: Mutex::default() })
    }

    /// Those of a store without garbage collection: everybody is served for ever.
    pub fn none() -> Arc<SafePoints> {
        let points = SafePoints::new(Arc::new(ManualClock::default()));
        points.lease_end.store(NEVER, Ordering::SeqCst);
        points
    }

    /// The safe point is `safe_point` now, at least. The question was asked at `asked_at`, and the answer counts from
    /// then on for as long as `lease`; without one, for ever.
    pub fn hear(&self, safe_point: Ts, asked_at: Duration, lease: Option<Duration>) {
        let mut state = self.lock();
        if safe_point > self.announced() {
            let former = std::mem::take(&mut state.present);
            state.earlier.push(Arc::downgrade(&former));
            // Before the lease: see `admits_read`.
            self.announced.store(safe_point.get(), Ordering::SeqCst);
        }
        let end = lease.map_or(NEVER, |lease| milliseconds(asked_at.saturating_add(lease)));
        self.lease_end.fetch_max(end, Ordering::SeqCst);
        state.waiting.drain(..).for_each(|waiter| {
            // Whoever has given up waits no longer.
            let _ = waiter.send(());
        });
    }

    /// What was heard last.
    pub fn announced(&self) -> Ts {
        Ts::from(self.announced.load(Ordering::SeqCst))
    }

    /// The safe point below which nothing is under way.
    pub fn kept(&self) -> Ts {
        let mut state = self.lock();
        state.earlier.retain(|admitted| admitted.strong_count() > 0);
        if state.earlier.is_empty() {
            state.kept = self.announced();
        }
        state.kept
    }

    /// Waits until what was heard counts.
    pub async fn until_heard(&self) {
        // Nearly always, and without the mutex.
        while !self.counts() {
            let news = {
                let mut state = self.lock();
                if self.counts() {
                    return;
                }
                let (waiter, news) = oneshot::channel();
                state.waiting.retain(|waiter| !waiter.is_canceled());
                state.waiting.push(waiter);
                news
            };
            // An error would mean that there are news as well.
            let _ = news.await;
        }
    }

    /// Whether a read at `ts` may be answered from a view that was taken before this call; `false`: not until there are
    /// news, and then from a new view.
    pub fn admits_read(&self, ts: Ts) -> Result<bool> {
        // First the lease: while it runs, a safe point that is not known here is not kept everywhere.
        let counts = self.counts();
        self.check(ts >= self.announced(), ts)?;
        Ok(counts)
    }

    /// Lets in a command of the transaction that began at `start_ts`, which may lock; nothing: not until there are
    /// news.
    pub fn admit_lock(&self, start_ts: Ts) -> Result<Option<Admission>> {
        let state = self.lock();
        let counts = self.counts();
        let safe_point = self.announced();
        self.check(start_ts > safe_point || safe_point == Ts::ZERO, start_ts)?;
        Ok(counts.then(|| Admission(state.present.clone())))
    }

    fn check(&self, is_young: bool, ts: Ts) -> Result<()> {
        let safe_point = self.announced();
        if is_young { Ok(()) } else { Err(Error::TooOld { ts, safe_point }) }
    }

    fn counts(&self) -> bool {
        let end = self.lease_end.load(Ordering::SeqCst);
        end == NEVER || milliseconds(self.clock.monotonic()) < end
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    const LEASE: Option<Duration> = Some(Duration::from_secs(60));

    fn ts(ts: u64) -> Ts {
        Ts::from(ts)
    }

    #[test]
    fn what_is_below_the_safe_point_is_refused() {
        let points = SafePoints::none();
        points.hear(ts(50), Duration::ZERO, LEASE);
        assert!(points.admits_read(ts(50)).unwrap());
        assert!(matches!(points.admits_read(ts(49)), Err(Error::TooOld { .. })));
        assert!(points.admit_lock(ts(51)).unwrap().is_some());
        assert!(points.admit_lock(ts(50)).is_err(), "its rollback record may be gone");
        points.hear(ts(40), Duration::ZERO, LEASE);
        assert_eq!(points.announced(), ts(50), "it does not fall");
    }

    #[test]
    fn it_is_kept_when_all_who_were_let_in_before_are_gone() {
        let points = SafePoints::none();
        let early = points.admit_lock(ts(10)).unwrap();
        points.hear(ts(50), Duration::ZERO, LEASE);
        assert_eq!(points.kept(), Ts::ZERO);
        let late = points.admit_lock(ts(60)).unwrap();
        points.hear(ts(70), Duration::ZERO, LEASE);
        drop(early);
        assert_eq!(points.kept(), Ts::ZERO, "another one is under way that is below the newest");
        drop(late);
        assert_eq!(points.kept(), ts(70));
        let _young = points.admit_lock(ts(71)).unwrap();
        assert_eq!(points.kept(), ts(70));
    }

    #[test]
    fn without_news_nobody_is_served_until_there_are_some() {
        let clock = ManualClock::default();
        let points = SafePoints::new(Arc::new(clock.clone()));
        let mut task = Context::from_waker(Waker::noop());
        let mut waiting = pin!(points.until_heard());
        assert!(waiting.as_mut().poll(&mut task).is_pending());
        points.hear(ts(50), clock.monotonic(), LEASE);
        assert_eq!(waiting.as_mut().poll(&mut task), Poll::Ready(()));
        assert!(points.admits_read(ts(60)).unwrap());
        clock.advance_ms(60_000);
        assert!(!points.admits_read(ts(60)).unwrap());
        assert!(points.admit_lock(ts(60)).unwrap().is_none());
        assert!(points.admits_read(ts(40)).is_err(), "that is certain");
        points.hear(ts(50), clock.monotonic(), LEASE);
        assert!(points.admits_read(ts(60)).unwrap());
    }
}
