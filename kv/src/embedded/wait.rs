//! Waiting on the caller's thread: for futures, and between two attempts.
//!
//! What is below the edge is made of futures that need no runtime: whoever completes one wakes the thread that waits.
//! Only servers of a fleet ask their scheduler through a runtime; its context is entered while they are polled.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use skerry_raftstore::time::{Clock, SystemClock, splitmix64};
use tokio::runtime::Handle;

/// The first pause; each further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Waits for futures.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiter {
    /// Of a fleet.
    runtime: Option<Handle>,
}

/// Wakes the thread that waits.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Waiter {
    /// Waits for futures that may ask through this runtime.
    pub(super) fn on(runtime: Handle) -> Waiter {
        Waiter { runtime: Some(runtime) }
    }

    /// Blocks until `future` is done.
    pub(super) fn wait_for<F: Future>(&self, future: F) -> F::Output {
        let _entered = self.runtime.as_ref().map(Handle::enter);
        let mut future = pin!(future);
        let mut waker: Option<Waker> = None;
        // Most futures are ready at once: then nothing is allocated.
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
        loop {
            let waker =
                waker.get_or_insert_with(|| Waker::from(Arc::new(Unpark(thread::current()))));
            match future.as_mut().poll(&mut Context::from_waker(waker)) {
                Poll::Ready(output) => return output,
                Poll::Pending => thread::park(),
            }
        }
    }
}

/// How long something is tried again.
pub(super) struct Patience {
    end: Duration,
    pause: Duration,
    draw: u64,
}

impl Patience {
    /// From now on for so long. Callers with different `seed`s come back at different times.
    pub(super) fn of(time: Duration, seed: u64) -> Patience {
        Patience { end: SystemClock.monotonic() + time, pause: PAUSE_MIN, draw: seed }
    }

    /// Pauses before the next attempt; `false`, at once, if there shall be none.
    pub(super) fn pause(&mut self) -> bool {
        if SystemClock.monotonic() >= self.end {
            return false;
        }
        self.draw = splitmix64(self.draw);
        // Between half and all of it.
        let pause = self.pause.mul_f64(0.5 + (self.draw % 1_024) as f64 / 2_048.0);
        // Nobody sends: this is a wait for the time alone.
        let _ = crossbeam_channel::never::<()>().recv_timeout(pause);
        self.pause = (2 * self.pause).min(PAUSE_MAX);
        true
    }
}

#[cfg(test)]
mod tests {
    use futures_channel::oneshot;
    use skerry_raftstore::time::spawn;

    use super::*;

    #[test]
    fn a_future_is_waited_for_whoever_completes_it() {
        let waiter = Waiter::default();
        assert_eq!(waiter.wait_for(async { 7 }), 7);
        let (sender, receiver) = oneshot::channel();
        let thread = spawn("completes", move || sender.send(8));
        assert_eq!(waiter.wait_for(receiver), Ok(8));
        thread.join().expect("it has sent").expect("it was waited for");
    }

    #[test]
    fn patience_ends() {
        let mut patience = Patience::of(Duration::ZERO, 1);
        assert!(!patience.pause());
        let mut patience = Patience::of(Duration::from_millis(5), 1);
        let mut attempts = 0;
        while patience.pause() {
            attempts += 1;
        }
        assert!((1..10).contains(&attempts), "{attempts}");
    }
}
