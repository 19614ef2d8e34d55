//! How many bytes a second: a bucket that fills steadily and is emptied by what is read, written or sent.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::time::Clock;

/// How much may go at once after a rest, as time at the full rate.
const BURST: Duration = Duration::from_millis(100);

/// A limit shared by all who take from it; each waits for its own turn, so they are served in the order in which
/// they asked. It never sleeps: it tells how long to.
pub struct RateLimit {
    clock: Arc<dyn Clock>,
    bytes_per_second: u64,
    /// When everything taken so far is paid for.
    paid_at: Mutex<Duration>,
}

impl RateLimit {
    /// A limit of so many bytes a second; 0 is no limit.
    pub fn new(clock: Arc<dyn Clock>, bytes_per_second: u64) -> RateLimit {
        RateLimit { clock, bytes_per_second, paid_at: Mutex::default() }
    }

    /// Takes `bytes`, and answers how long the caller has to wait before it uses them. They are taken either way.
    pub fn take(&self, bytes: u64) -> Duration {
        if self.bytes_per_second == 0 {
            return Duration::ZERO;
        }
        let now = self.clock.monotonic();
        let mut paid_at = self.paid_at.lock().expect("nothing panics while it holds this lock");
        *paid_at = (*paid_at).max(now).saturating_add(self.price(bytes));
        paid_at.saturating_sub(now).saturating_sub(BURST)
    }

    /// How long it takes to earn so many bytes.
    fn price(&self, bytes: u64) -> Duration {
        let rate = u128::from(self.bytes_per_second);
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / rate;
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

/// What a store does with bytes of snapshots, each in its own time: a store that feeds two others builds once and sends
/// twice, and one limit for all would give either a third of it.
pub struct RateLimits {
    /// Reading the data engine and writing tables.
    pub building: RateLimit,
    /// To all other stores.
    pub sending: RateLimit,
    /// From all other stores.
    pub receiving: RateLimit,
}

impl RateLimits {
    /// So many bytes a second for each; 0 is no limit.
    pub fn new(clock: &Arc<dyn Clock>, bytes_per_second: u64) -> RateLimits {
        let limit = || RateLimit::new(clock.clone(), bytes_per_second);
        RateLimits { building: limit(), sending: limit(), receiving: limit() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::ManualClock;

    const SECOND: Duration = Duration::from_secs(1);

    fn limit(bytes_per_second: u64) -> (Arc<ManualClock>, RateLimit) {
        let clock = Arc::new(ManualClock::at(0));
        (clock.clone(), RateLimit::new(clock, bytes_per_second))
    }

    #[test]
    fn who_takes_more_than_the_burst_waits_for_the_rest() {
        let (_, limit) = limit(1_000);
        assert_eq!(limit.take(60), Duration::ZERO);
        assert_eq!(limit.take(40), Duration::ZERO, "100 ms are free");
        assert_eq!(limit.take(1), Duration::from_millis(1));
        assert_eq!(limit.take(999), SECOND);
    }

    #[test]
    fn waiting_pays_and_rest_earns_no_more_than_the_burst() {
        let (clock, limit) = limit(1_000);
        assert_eq!(limit.take(1_100), SECOND);
        clock.advance_ms(500);
        assert_eq!(limit.take(0), SECOND / 2);
        clock.advance_ms(3_600_000);
        assert_eq!(limit.take(1_100), SECOND);
    }

    #[test]
    fn over_any_time_no_more_goes_than_rate_and_burst_allow() {
        let (clock, limit) = limit(1_000_000);
        let (mut waited_ms, mut taken) = (0, 0);
        for step in 1..200_u64 {
            let bytes = step * 7_919 % 50_000;
            let wait_ms =
                u64::try_from(limit.take(bytes).as_micros().div_ceil(1_000)).expect("short");
            clock.advance_ms(wait_ms);
            waited_ms += wait_ms;
            taken += bytes;
            assert!(taken <= 1_000 * (waited_ms + 100), "{taken} bytes in {waited_ms} ms");
        }
        // And it does not hold back more than it must: one millisecond of rounding for each wait.
        assert!(taken + 1_000 * 200 >= 1_000 * waited_ms, "{taken} bytes in {waited_ms} ms");
    }

    /// Before, one limit served all: a store that fed two others gave each a third of it.
    #[test]
    fn building_sending_and_receiving_have_a_limit_each() {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(0));
        let limits = RateLimits::new(&clock, 1_000);
        for limit in [&limits.building, &limits.sending, &limits.receiving] {
            assert_eq!(limit.take(1_100), SECOND, "it pays for nobody else");
        }
        for limit in [&limits.building, &limits.sending, &limits.receiving] {
            assert_eq!(limit.take(0), SECOND, "and it does pay for itself");
        }
    }

    #[test]
    fn no_limit_never_waits() {
        let (_, limit) = limit(0);
        assert_eq!(limit.take(u64::MAX), Duration::ZERO);
    }
}
