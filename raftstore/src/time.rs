//! The only door to clocks, chance and threads; `clippy.toml` closes every other.
//!
//! Production takes [`SystemClock`]; tests and the simulator take [`ManualClock`] and turn it by hand.
//! Threads are started by [`spawn`] alone, which names them and ends the process when one panics: an
//! actor that died in silence would leave requests unanswered for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Time as the store may know it. Two readings, for two different questions.
pub trait Clock: Send + Sync {
    /// How long ago something was: never goes back, and goes on while the machine sleeps. Comparable only
    /// with other readings of the same clock.
    fn monotonic(&self) -> Duration;

    /// What the calendar says, as milliseconds since 1970. May jump in either direction.
    fn wall_ms(&self) -> u64;
}

/// The clocks of the operating system: CLOCK_BOOTTIME where there is one, and the wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        #[cfg(target_os = "linux")]
        let id = rustix::time::ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        let id = rustix::time::ClockId::Monotonic;
        let now = rustix::time::clock_gettime(id);
        let seconds = u64::try_from(now.tv_sec).expect("boot time is never negative");
        let nanoseconds = u32::try_from(now.tv_nsec).expect("nanoseconds are below a billion");
        Duration::new(seconds, nanoseconds)
    }

    #[allow(clippy::disallowed_methods)] // This is the door.
    fn wall_ms(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        // A wall clock before 1970 is a broken clock; zero keeps everything monotonic above it.
        since.map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }
}

/// A clock that stands still until it is moved; clones share one time.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    monotonic_ms: Arc<AtomicU64>,
    wall_ms: Arc<AtomicU64>,
}

impl ManualClock {
    /// A clock whose calendar reads `wall_ms`.
    pub fn at(wall_ms: u64) -> ManualClock {
        let clock = ManualClock::default();
        clock.wall_ms.store(wall_ms, Ordering::SeqCst);
        clock
    }

    /// Lets `milliseconds` pass on both readings.
    pub fn advance_ms(&self, milliseconds: u64) {
        self.monotonic_ms.fetch_add(milliseconds, Ordering::SeqCst);
        self.wall_ms.fetch_add(milliseconds, Ordering::SeqCst);
    }

    /// Sets the calendar, forward or back, as an administrator or a time daemon would.
    pub fn set_wall_ms(&self, wall_ms: u64) {
        self.wall_ms.store(wall_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.monotonic_ms.load(Ordering::SeqCst))
    }

    fn wall_ms(&self) -> u64 {
        self.wall_ms.load(Ordering::SeqCst)
    }
}

/// Mixes one number into another that looks random (the splitmix64 step). Deterministic: the only source
/// of chance in the store is this function over a seed.
pub fn splitmix64(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// A number nobody can guess, for what must differ between clusters (the cluster id) and not be replayed.
pub fn entropy() -> u64 {
    let mut bytes = [0; 8];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => fatal(&format!("the system gives no random bytes: {error}")),
        }
    }
    u64::from_le_bytes(bytes)
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// Starts a named thread. If it panics the process ends, after the panic message, with the thread's
/// name: what it owned is in an unknown state and raft or a restart is the recovery.
///
/// The name may have at most 15 bytes, the most that Linux shows.
#[allow(clippy::disallowed_methods)] // This is the door.
pub fn spawn<F, T>(name: &str, body: F) -> std::thread::JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    assert!(name.len() <= 15, "thread name {name:?} would be cut");
    let guard_name = name.to_string();
    std::thread::Builder::new()
        .name(name.to_string())
        .spawn(move || {
            let guard = PanicGuard { thread: guard_name };
            let result = body();
            std::mem::forget(guard);
            result
        })
        .unwrap_or_else(|error| fatal(&format!("thread {name} could not be started: {error}")))
}

/// Ends the process when it is dropped, which only a panic does: [`spawn`] forgets it on a normal return.
struct PanicGuard {
    thread: String,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        fatal(&format!("thread {} panicked; see the message above", self.thread));
    }
}

/// Ends the process at once with a sentence on stderr and exit code 1. For what nobody can mend while
/// running: a failed sync, a full disk, a dead actor. Nothing acknowledged is lost by it.
pub fn fatal(message: &str) -> ! {
    eprintln!("skerry: fatal: {message}");
    std::process::exit(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_moves_forward_and_knows_the_century() {
        let clock = SystemClock;
        let earlier = clock.monotonic();
        assert!(clock.monotonic() >= earlier);
        assert!(clock.wall_ms() > 1_700_000_000_000);
    }

    #[test]
    fn a_manual_clock_moves_only_by_hand_and_its_clones_move_with_it() {
        let clock = ManualClock::at(1_000);
        let same = clock.clone();
        clock.advance_ms(5);
        assert_eq!((same.wall_ms(), same.monotonic()), (1_005, Duration::from_millis(5)));
        same.set_wall_ms(10);
        assert_eq!((clock.wall_ms(), clock.monotonic()), (10, Duration::from_millis(5)));
    }

    #[test]
    fn splitmix_spreads_neighbours_over_all_buckets() {
        let mut buckets = [0; 8];
        for region in (0..8_000).step_by(4) {
            buckets[(splitmix64(region) % 8) as usize] += 1;
        }
        assert!(buckets.iter().all(|&count| count > 200), "{buckets:?}");
    }
}
