//! One reading of the clock, handed in with every event: the state below never reads a clock itself.
//! Used by the cluster (heartbeats) and the oracle (timestamps).

use std::time::Duration;

use skerry_raftstore::time::Clock;

/// Both readings of a [`Clock`], taken together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// For *how long ago*: never goes back, comparable only within one run of the process.
    pub monotonic: Duration,
    /// For *when*: milliseconds since 1970, may jump.
    pub wall_ms: u64,
}

impl Moment {
    /// Reads `clock`.
    pub fn now(clock: &dyn Clock) -> Moment {
        Moment { monotonic: clock.monotonic(), wall_ms: clock.wall_ms() }
    }

    /// How long before this one `earlier` was.
    pub fn since(self, earlier: Moment) -> Duration {
        self.monotonic.saturating_sub(earlier.monotonic)
    }
}
