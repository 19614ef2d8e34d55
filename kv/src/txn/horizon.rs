//! How far timestamps may have gone: who comes with one that the scheduler cannot have given is refused.
//!
//! What reads learn stays true because later commits are chosen above it ([`super::concurrency`]). One read from far
//! ahead, by a client with a bug, would lift all commits by a shortcut there: acknowledged, and seen by nobody before
//! the scheduler has come so far. So:
//!
//! 1. What the scheduler gave last, the time that has passed since, and an [`ALLOWANCE`] make the *horizon*. A
//!    timestamp below it is let in, and nobody is asked: once it was heard of, those that it has given are served also
//!    while it is away.
//! 2. For one beyond the horizon the scheduler is asked. All that it has given is below its answer, whatever clocks
//!    did meanwhile. One question is out at a time; those who come meanwhile share the next.
//! 3. One beyond the horizon of that answer is refused.
//!
//! The same answers serve whoever needs a fresh timestamp ([`super::freshness`]), and a store looks at the scheduler's
//! time now and then ([`crate::net::timestamps`]), so that what clocks run wrong does not add up.
//!
//! **Invariant.** A timestamp of the scheduler is never refused.
//!
//! What it does not do: it does not know the scheduler's time exactly. A timestamp that is ahead by less than the
//! allowance is let in, and so is one ahead by what this clock has run too fast, or the scheduler's was set back, since
//! it answered: commits by a shortcut may then be as far ahead. A read that another replica has let in is believed; a
//! lock that rests on what another store has chosen is judged by this one's horizon.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use skerry_proto::types::Ts;

use super::error::{Error, Result};
use crate::storage::Latches;

/// Above what is expected of the scheduler by now: spares a question for each small difference of clocks, and is how
/// far ahead the clock of a client may be that makes a timestamp out of a time.
const ALLOWANCE: Duration = Duration::from_secs(1);

/// Where timestamps come from: the scheduler, and the time between two of its answers.
pub trait Timestamps: Send + Sync {
    /// A timestamp above all that were given out before. Waits for as long as nobody can say.
    fn newest(&self) -> Pin<Box<dyn Future<Output = Ts> + Send + '_>>;

    /// Time that only goes forward, from any beginning.
    fn passed(&self) -> Duration;
}

/// See the head of this file. One for a store.
pub struct Horizon {
    source: Arc<dyn Timestamps>,
    /// Where it was when somebody looked last. Most requests need no more than this. Written under `heard`.
    seen: AtomicU64,
    heard: Mutex<Heard>,
    /// How many questions were begun. Some were given up.
    begun: AtomicU64,
    /// The line of those who want to ask, in which nobody is overtaken.
    line: Arc<Latches>,
}

/// The last answer.
struct Heard {
    newest: Ts,
    at: Duration,
    /// To which question, counted from one.
    question: u64,
}

impl Horizon {
    /// Nothing was heard yet.
    pub fn new(source: Arc<dyn Timestamps>) -> Horizon {
        let heard = Heard { newest: Ts::ZERO, at: source.passed(), question: 0 };
        let (seen, begun) = (AtomicU64::new(0), AtomicU64::new(0));
        Horizon { source, seen, heard: Mutex::new(heard), begun, line: Latches::new() }
    }

    /// Refuses a timestamp that the scheduler has not given; waits for it if it must be asked.
    pub async fn admit(&self, ts: Ts) -> Result<()> {
        if ts.get() <= self.seen.load(Ordering::Relaxed) || ts <= self.look(&self.lock()) {
            return Ok(());
        }
        let newest = self.newest().await;
        if ts <= self.look(&self.lock()) { Ok(()) } else { Err(Error::NotGiven { ts, newest }) }
    }

    /// A timestamp of the scheduler, above all that it had given before this call.
    pub async fn newest(&self) -> Ts {
        let begun = self.begun.load(Ordering::SeqCst);
        let _turn = self.line.acquire([Bytes::new()]).await;
        {
            let heard = self.lock();
            if heard.question > begun {
                return heard.newest;
            }
        }
        let question = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let newest = self.source.newest().await;
        let mut heard = self.lock();
        *heard = Heard { newest, at: self.source.passed(), question };
        self.look(&heard);
        newest
    }

    fn look(&self, heard: &MutexGuard<'_, Heard>) -> Ts {
        let since = self.source.passed().saturating_sub(heard.at) + ALLOWANCE;
        let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX).min(Ts::PHYSICAL_MS_MAX);
        let horizon = Ts::from(heard.newest.get().saturating_add(Ts::compose(since, 0).get()));
        self.seen.store(horizon.get(), Ordering::Relaxed);
        horizon
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::{Context, Poll, Waker};

    use futures_channel::oneshot;
    use futures_executor::block_on;

    use super::*;

    /// A scheduler and a clock that are set by hand.
    #[derive(Default)]
    struct Source {
        newest_ms: AtomicU64,
        passed_ms: AtomicU64,
        asked: AtomicUsize,
    }

    impl Timestamps for Source {
        fn newest(&self) -> Pin<Box<dyn Future<Output = Ts> + Send + '_>> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            Box::pin(std::future::ready(at(self.newest_ms.load(Ordering::Relaxed))))
        }

        fn passed(&self) -> Duration {
            Duration::from_millis(self.passed_ms.load(Ordering::Relaxed))
        }
    }

    /// A scheduler that takes its time.
    #[derive(Default)]
    struct Slow(Mutex<Option<oneshot::Sender<Ts>>>);

    impl Slow {
        /// Whether somebody waits for this answer.
        fn answer(&self, ms: u64) -> bool {
            let asked = self.0.lock().unwrap().take().expect("one question is out at a time");
            asked.send(at(ms)).is_ok()
        }
    }

    impl Timestamps for Slow {
        fn newest(&self) -> Pin<Box<dyn Future<Output = Ts> + Send + '_>> {
            let (sender, answer) = oneshot::channel();
            let before = self.0.lock().unwrap().replace(sender);
            assert!(before.is_none(), "one question is out at a time");
            Box::pin(async { answer.await.unwrap() })
        }

        fn passed(&self) -> Duration {
            Duration::ZERO
        }
    }

    fn at(ms: u64) -> Ts {
        Ts::compose(ms, 7)
    }

    /// A horizon whose scheduler is at a million seconds, and the scheduler.
    fn horizon() -> (Horizon, Arc<Source>) {
        let source = Arc::new(Source::default());
        source.newest_ms.store(1_000_000_000, Ordering::Relaxed);
        (Horizon::new(source.clone()), source)
    }

    fn asked(source: &Source) -> usize {
        source.asked.load(Ordering::Relaxed)
    }

    #[test]
    fn the_scheduler_is_asked_once_and_then_time_alone_moves_the_horizon() {
        let (horizon, source) = horizon();
        for ms in [1_000_000_000, 1_000_000_900, 5] {
            block_on(horizon.admit(at(ms))).unwrap();
        }
        assert_eq!(asked(&source), 1);
        source.passed_ms.store(3_600_000, Ordering::Relaxed);
        block_on(horizon.admit(at(1_003_600_000))).unwrap();
        assert_eq!(asked(&source), 1, "an hour later, of the same answer");
    }

    #[test]
    fn what_was_not_given_is_refused_and_moves_nothing() {
        let (horizon, source) = horizon();
        for made_up in [Ts::from(u64::MAX - 1), at(1_000_060_000)] {
            let refused = block_on(horizon.admit(made_up)).unwrap_err();
            let Error::NotGiven { ts, newest } = refused else {
                panic!("another error: {refused}")
            };
            assert_eq!((ts, newest), (made_up, at(1_000_000_000)));
        }
        assert!(block_on(horizon.admit(Ts::MAX)).is_err(), "it is what reads call the newest");
        assert_eq!(asked(&source), 3);
    }

    #[test]
    fn those_who_come_while_a_question_is_out_share_the_next() {
        let source = Arc::new(Slow::default());
        let horizon = Horizon::new(source.clone());
        let mut task = Context::from_waker(Waker::noop());
        let mut asks: Vec<_> = (0..5).map(|_| Box::pin(horizon.newest())).collect();
        assert!(asks.iter_mut().all(|ask| ask.as_mut().poll(&mut task).is_pending()));
        // The one who has asked gives up, and its question counts for nobody.
        drop(asks.remove(0));
        assert!(!source.answer(7));
        assert!(asks.iter_mut().all(|ask| ask.as_mut().poll(&mut task).is_pending()));
        assert!(source.answer(8));
        for mut ask in asks {
            assert_eq!(ask.as_mut().poll(&mut task), Poll::Ready(at(8)), "of one question");
        }
        // It was asked before this one came.
        let mut late = Box::pin(horizon.newest());
        assert!(late.as_mut().poll(&mut task).is_pending());
        assert!(source.answer(9));
        assert_eq!(late.as_mut().poll(&mut task), Poll::Ready(at(9)));
    }

    #[test]
    fn a_scheduler_whose_clock_was_set_forward_is_believed() {
        let (horizon, source) = horizon();
        block_on(horizon.admit(at(1_000_000_000))).unwrap();
        source.newest_ms.store(2_000_000_000, Ordering::Relaxed);
        block_on(horizon.admit(at(1_999_999_999))).unwrap();
        assert_eq!(asked(&source), 2);
    }

    #[test]
    fn a_clock_that_ran_too_fast_is_set_right_by_the_next_answer() {
        let (horizon, source) = horizon();
        block_on(horizon.admit(at(1_000_000_000))).unwrap();
        source.passed_ms.store(90_000, Ordering::Relaxed);
        source.newest_ms.store(1_000_030_000, Ordering::Relaxed);
        block_on(horizon.admit(at(1_000_090_000))).unwrap();
        assert_eq!(asked(&source), 1, "nobody can know");
        assert!(block_on(horizon.admit(at(1_000_200_000))).is_err());
        assert!(block_on(horizon.admit(at(1_000_090_000))).is_err(), "and now it is known");
    }
}
