//! The one place of all tests that looks at a clock and sleeps: polling with a deadline.
//!
//! Only tests that start processes, or stores with threads, come here. Everything else turns a `ManualClock` by
//! hand. A wait names what it waits for, and its limit is many times what a slow machine needs: reaching it is a
//! failure of the thing waited for, never of the machine's speed.

use std::time::Duration;

use skerry_raftstore::time::{Clock, SystemClock};

/// How long anything a process does at once may take on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks. Short beside everything that is waited for, long beside the look itself.
const PAUSE: Duration = Duration::from_millis(10);

/// Asks `probe` until it answers, for at most `limit`; `None` when it never did.
#[allow(clippy::disallowed_methods)] // The one door: another process tells nobody that it has ended.
pub fn poll<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let watch = Stopwatch::start();
    loop {
        if let Some(answer) = probe() {
            return Some(answer);
        }
        if watch.elapsed() > limit {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Asks `probe` until it answers; panics with `what` when it has not within [`PATIENCE`].
#[track_caller]
pub fn until<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    poll(PATIENCE, probe).unwrap_or_else(|| panic!("waited {PATIENCE:?} in vain until {what}"))
}

/// Like [`until`], for questions that are put over a connection.
pub async fn until_async<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let watch = Stopwatch::start();
    while watch.elapsed() < PATIENCE {
        if let Some(answer) = probe().await {
            return answer;
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("waited {PATIENCE:?} in vain until {what}")
}

/// Lets time pass on real clocks, for what only time can show (a pair that expires).
#[allow(clippy::disallowed_methods)] // The one door: the clock of another process cannot be turned.
pub fn let_pass(time: Duration) {
    std::thread::sleep(time);
}

/// The same without holding a thread, for tests that let processes work meanwhile.
pub async fn let_pass_async(time: Duration) {
    tokio::time::sleep(time).await;
}

/// How long something took, on the clock that never goes back.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    started: Duration,
}

impl Stopwatch {
    /// Starts measuring.
    pub fn start() -> Stopwatch {
        Stopwatch { started: SystemClock.monotonic() }
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        SystemClock.monotonic() - self.started
    }
}
