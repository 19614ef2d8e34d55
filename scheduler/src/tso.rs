//! Timestamps: strictly increasing over every restart and every jump of the clock, without a disk write
//! for each.
//!
//! A timestamp ([`Ts`]) is a physical part (milliseconds of the calendar) and a counter below 2^18, its
//! logical part. This file is the pure half: [`Oracle`] decides, and somebody else writes what it asks to
//! have written.
//!
//! # How
//!
//! 1. The disk holds one number, the **limit**. No physical part at or above it was ever handed out.
//! 2. Before the oracle uses time at or above the limit, it asks for a new one a *window* ahead
//!    ([`Allocation::NeedsWindow`]); the caller saves it and reports [`Oracle::saved`]. In between,
//!    allocation is arithmetic under a mutex.
//! 3. While timestamps are being used the limit is renewed early ([`Oracle::wanted_limit`]), so that
//!    nobody waits for the disk. While nobody asks, nothing is written.
//! 4. After a restart the oracle begins at the saved limit, above everything it can have said before.
//!    The limit it asks for is then nearer, so that a process that dies every second does not run away
//!    from the clock by a window each time.
//! 5. The physical part follows the wall clock. Where the wall clock is behind it (after a restart, or
//!    when somebody set the clock back) it goes on at half the speed of the monotonic clock: time in the
//!    cluster never stands still, so that locks still expire, and the wall clock catches up.
//! 6. When the logical parts of a millisecond are used up, the next millisecond is taken early, but never
//!    more than a window ahead of the wall clock ([`Allocation::NeedsTime`]).
//!
//! **Invariant.** Every timestamp is above all that were handed out before it, by this oracle or by one
//! that was restored from the same limit.
//!
//! **Invariant.** A physical part leads the wall clock by more than a window only if a restart or a clock
//! set back has put it there.
//!
//! What it does not do: it reads no clock, writes nothing and knows no clients.

use std::time::Duration;

use skerry_proto::types::Ts;

use crate::moment::Moment;
use crate::planted::Planted;

/// The largest counter, and so the most timestamps one request can get. Counter 0 is never handed out:
/// it is left to clients that make a timestamp out of a time.
pub const LOGICAL_MAX: u32 = (Ts::LOGICAL_COUNT - 1) as u32;

/// Answer to a request for timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// The largest of the consecutive timestamps that now belong to the caller.
    Granted(Ts),
    /// Nothing was taken: a higher limit must be saved first.
    NeedsWindow,
    /// Nothing was taken: the present millisecond is used up and the next one is too far ahead. A
    /// millisecond or two later there is room again.
    NeedsTime,
}

/// The source of timestamps. Lives under a mutex that is held for the length of one call.
#[derive(Debug)]
pub struct Oracle {
    /// How far ahead of the wall clock the limit is saved, in milliseconds; where the oracle leads the wall
    /// clock, a quarter of it ahead of the oracle is enough.
    window_ms: u64,
    /// Physical part of the newest timestamp. Below `limit` whenever something is handed out.
    physical_ms: u64,
    /// Logical part of the newest timestamp; 0 if this millisecond is unused.
    logical: u32,
    /// The monotonic reading at which `physical_ms` last moved.
    moved_at: Duration,
    /// The saved limit, exclusive. Only grows.
    limit_ms: u64,
    /// Something was handed out since the limit was last saved.
    used: bool,
    planted: Option<Planted>,
}

impl Oracle {
    /// The oracle that goes on where one with the saved `limit_ms` left off (0: there was none). It hands
    /// out nothing before a new limit is saved.
    pub fn restore(limit_ms: u64, window_ms: u64, now: Moment) -> Oracle {
        assert!(window_ms > 0, "without a window every timestamp would need a disk write");
        Oracle {
            window_ms,
            physical_ms: limit_ms,
            logical: 0,
            moved_at: now.monotonic,
            limit_ms,
            used: false,
            planted: None,
        }
    }

    /// Plants a bug.
    pub fn plant(&mut self, planted: Option<Planted>) {
        self.planted = planted;
        if planted == Some(Planted::WindowForgotten) {
            (self.physical_ms, self.limit_ms) = (0, 0);
        }
    }

    /// Takes `count` consecutive timestamps of one millisecond, 1 to [`LOGICAL_MAX`].
    pub fn allocate(&mut self, count: u32, now: Moment) -> Allocation {
        assert!((1..=LOGICAL_MAX).contains(&count), "{count} timestamps asked for at once");
        self.follow_clock(now);
        if self.logical + count > LOGICAL_MAX {
            if self.physical_ms + 1 > now.wall_ms.saturating_add(self.window_ms) {
                return Allocation::NeedsTime;
            }
            self.move_to(self.physical_ms + 1, now);
        }
        if self.physical_ms >= self.limit_ms && self.planted != Some(Planted::BeyondWindow) {
            return Allocation::NeedsWindow;
        }
        self.logical += count;
        self.used = true;
        Allocation::Granted(Ts::compose(self.physical_ms, u64::from(self.logical)))
    }

    /// The limit that should be saved now, if any: because somebody waits for it, or because timestamps
    /// are being used and a third of the window is gone.
    pub fn wanted_limit(&mut self, now: Moment) -> Option<u64> {
        let starved = self.physical_ms >= self.limit_ms;
        if !starved && !self.used {
            return None;
        }
        let time = self.physical_ms.max(now.wall_ms);
        let ahead = now.wall_ms.saturating_add(self.window_ms);
        let wanted = ahead.max(self.physical_ms.saturating_add(self.window_ms / 4));
        (starved || self.limit_ms < wanted - (wanted - time) / 3).then_some(wanted)
    }

    /// Reports that `limit_ms` is durable.
    pub fn saved(&mut self, limit_ms: u64) {
        assert!(limit_ms >= self.limit_ms, "limit goes back from {} to {limit_ms}", self.limit_ms);
        self.limit_ms = limit_ms;
        self.used = false;
    }

    /// The saved limit.
    pub fn limit_ms(&self) -> u64 {
        self.limit_ms
    }

    /// Step 5: takes the wall clock's time if that is ahead, else half of the time that has passed.
    fn follow_clock(&mut self, now: Moment) {
        if now.wall_ms > self.physical_ms {
            return self.move_to(now.wall_ms, now);
        }
        // A clock that nobody read for long may have been set back in the meantime: of what has passed
        // since then only a window counts, or the lead would grow.
        let passed = now.monotonic.saturating_sub(self.moved_at).as_millis() as u64;
        let half = passed.min(self.window_ms) / 2;
        if half > 0 && now.wall_ms < self.physical_ms {
            self.move_to(self.physical_ms + half, now);
        }
    }

    /// Begins the unused millisecond `physical_ms`.
    fn move_to(&mut self, physical_ms: u64, now: Moment) {
        assert!(physical_ms > self.physical_ms, "time goes back to {physical_ms}");
        self.physical_ms = physical_ms;
        self.logical = 0;
        self.moved_at = now.monotonic;
    }
}

#[cfg(test)]
mod tests;
