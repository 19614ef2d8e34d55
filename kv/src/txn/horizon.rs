//! How far timestamps may have gone: who comes with one that the scheduler cannot have given is refused.
//!
//! What reads learn stays true because later commits are chosen above it ([`super::concurrency`]). One read from far
//! ahead, by a client with a bug, would lift all commits by a shortcut there: acknowledged, and seen by nobody before
//! the scheduler has come so far. So:
//!
//! 1. What the scheduler gave last, the time that has passed since it was asked, and an [`ALLOWANCE`] make the
//!    *horizon*. A timestamp below it is let in, and nobody is asked: while the scheduler is away, those that it has
//!    given are still read at.
//! 2. For one beyond the horizon the scheduler is asked. All that it has given is below its answer, whatever clocks
//!    did meanwhile.
//! 3. One beyond the horizon of that answer is refused.
//!
//! **Invariant.** A timestamp of the scheduler is never refused.
//!
//! What it does not do: it does not know the scheduler's time exactly. A timestamp that is ahead by less than the
//! allowance is let in, and so is one ahead by what this clock has run too fast, or the scheduler's was set back, since
//! it was last asked: commits by a shortcut may then be as far ahead.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use skerry_proto::types::Ts;

use super::error::{Error, Result};

/// Above what is expected of the scheduler by now. Spares a question for each small difference of clocks.
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
    /// Where it was when somebody looked last. Most readers need no more than this.
    seen: AtomicU64,
    heard: Mutex<Heard>,
}

/// The scheduler's last answer.
#[derive(Clone, Copy)]
struct Heard {
    newest: Ts,
    asked_at: Duration,
}

impl Horizon {
    /// Nothing was heard yet.
    pub fn new(source: Arc<dyn Timestamps>) -> Horizon {
        let heard = Heard { newest: Ts::ZERO, asked_at: source.passed() };
        Horizon { source, seen: AtomicU64::new(0), heard: Mutex::new(heard) }
    }

    /// Refuses a timestamp that the scheduler has not given. [`Ts::MAX`] means *the newest*, and is let in. Waits for
    /// the scheduler if it must be asked.
    pub async fn admit(&self, ts: Ts) -> Result<()> {
        if self.reaches(ts) {
            return Ok(());
        }
        let newest = self.newest().await;
        if self.reaches(ts) { Ok(()) } else { Err(Error::NotGiven { ts, newest }) }
    }

    /// A timestamp of the scheduler, above all that it has given.
    pub async fn newest(&self) -> Ts {
        let asked_at = self.source.passed();
        let newest = self.source.newest().await;
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if newest > heard.newest {
            *heard = Heard { newest, asked_at };
        }
        newest
    }

    fn reaches(&self, ts: Ts) -> bool {
        ts == Ts::MAX || ts.get() <= self.seen.load(Ordering::Relaxed) || ts <= self.look()
    }

    fn look(&self) -> Ts {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let since = self.source.passed().saturating_sub(heard.asked_at) + ALLOWANCE;
        let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX).min(Ts::PHYSICAL_MS_MAX);
        let horizon = Ts::from(heard.newest.get().saturating_add(Ts::compose(since, 0).get()));
        self.seen.store(horizon.get(), Ordering::Relaxed);
        horizon
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

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
        assert_eq!(asked(&source), 2);
        block_on(horizon.admit(Ts::MAX)).unwrap();
        assert_eq!(asked(&source), 2, "the newest is whatever it is");
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
