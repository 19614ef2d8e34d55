//! Clients that write while something happens, and what they saw of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use skerry_raftstore::time::{Clock, SystemClock};
use tokio::task::JoinSet;

use crate::cli::bench::keys::{Dice, key_at, key_bytes, value_bytes};
use crate::cli::bench::target::Target;
use crate::error::{Error, Result};

/// Keys that are written.
const KEYS: u64 = 100_000;
/// Bytes of a value.
const VALUE_BYTES: usize = 100;
/// Width of a point of the rate over time.
const BUCKET: Duration = Duration::from_millis(100);

/// One operation.
#[derive(Clone, Copy, Debug)]
struct Seen {
    key: u64,
    began: Duration,
    took: Duration,
    is_done: bool,
}

/// Clients under way.
pub(super) struct Background {
    clients: JoinSet<Vec<Seen>>,
    is_over: Arc<AtomicBool>,
}

impl Background {
    /// So many begin to put random keys, one after the other.
    pub(super) fn start(target: &Arc<Target>, clients: u16) -> Background {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for number in 0..usize::from(clients) {
            tasks.spawn(write(target.clone(), is_over.clone(), number));
        }
        Background { clients: tasks, is_over }
    }

    /// Ends them.
    pub(super) async fn stop(mut self) -> Witness {
        self.is_over.store(true, Ordering::Relaxed);
        let mut seen = Vec::new();
        while let Some(one) = self.clients.join_next().await {
            seen.extend(one.unwrap_or_default());
        }
        Witness { seen }
    }
}

async fn write(target: Arc<Target>, is_over: Arc<AtomicBool>, number: usize) -> Vec<Seen> {
    let clock = SystemClock;
    let (mut dice, mut seen) = (Dice::new(number as u64), Vec::new());
    while !is_over.load(Ordering::Relaxed) {
        let key = dice.number() % KEYS;
        let value = Bytes::from(value_bytes(&mut dice, VALUE_BYTES));
        let began = clock.monotonic();
        let is_done = target.put(number, &key_bytes(key, 0), value).await.is_ok();
        seen.push(Seen { key, began, took: clock.monotonic() - began, is_done });
    }
    seen
}

/// What clients saw.
pub(super) struct Witness {
    seen: Vec<Seen>,
}

impl Witness {
    /// Milliseconds of the longest operation of which a part lies between two moments.
    pub(super) fn worst_ms(&self, from: Duration, to: Duration) -> f64 {
        let inside = self.seen.iter().filter(|it| it.began < to && it.began + it.took > from);
        let longest = inside.map(|it| it.took).max().unwrap_or_default();
        longest.as_secs_f64() * 1e3
    }

    /// The longest operation of every key of which a part lies in one of some whiles; of these, in milliseconds, what
    /// 99 of 100 keys did not exceed.
    pub(super) fn worst_of_keys_ms(&self, whiles: &[(Duration, Duration)]) -> f64 {
        let is_inside = |it: &&Seen| {
            whiles.iter().any(|(from, to)| it.began < *to && it.began + it.took > *from)
        };
        let mut longest: BTreeMap<u64, Duration> = BTreeMap::new();
        for seen in self.seen.iter().filter(is_inside) {
            let longest = longest.entry(seen.key).or_default();
            *longest = seen.took.max(*longest);
        }
        let mut times: Vec<Duration> = longest.into_values().collect();
        times.sort();
        let place = (times.len() * 99).div_ceil(100).saturating_sub(1);
        times.get(place).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    }

    /// Operations that failed.
    pub(super) fn failed(&self) -> usize {
        self.seen.iter().filter(|it| !it.is_done).count()
    }

    /// Operations a second over time, with seconds counted from `zero`.
    pub(super) fn rates(&self, zero: Duration) -> Vec<(f64, f64)> {
        let ends = || self.seen.iter().filter(|it| it.is_done).map(|it| it.began + it.took);
        let (Some(first), Some(last)) = (ends().min(), ends().max()) else { return Vec::new() };
        let place = |at: Duration| ((at - first).as_nanos() / BUCKET.as_nanos()) as usize;
        // The last bucket is not a whole one.
        let mut counts = vec![0_u64; place(last)];
        for end in ends() {
            if let Some(count) = counts.get_mut(place(end)) {
                *count += 1;
            }
        }
        let second = |number: usize| {
            let at = first.as_secs_f64() + number as f64 * BUCKET.as_secs_f64();
            ((at - zero.as_secs_f64()) * 100.0).round() / 100.0
        };
        let rate = |count: u64| (count as f64 / BUCKET.as_secs_f64()).round();
        counts.into_iter().enumerate().map(|(at, count)| (second(at), rate(count))).collect()
    }
}

/// One put in the middle of each of `parts` equal parts of all keys, all at the same time. Answers how long each took,
/// repetitions included.
pub(super) async fn put_everywhere(target: &Arc<Target>, parts: u64) -> Result<Vec<Duration>> {
    let clock = SystemClock;
    let began = clock.monotonic();
    let mut puts = JoinSet::new();
    for part in 0..parts {
        let target = target.clone();
        puts.spawn(async move {
            let key = key_at((part as f64 + 0.5) / parts as f64);
            let done = target.put(part as usize, &key, Bytes::from_static(b"there")).await;
            done.map(|()| SystemClock.monotonic())
        });
    }
    let mut times = Vec::new();
    while let Some(put) = puts.join_next().await {
        let ended = put.map_err(|error| Error::Startup(format!("a client failed: {error}")))??;
        times.push(ended - began);
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(began_ms: u64, took_ms: u64, is_done: bool) -> Seen {
        let (began, took) = (Duration::from_millis(began_ms), Duration::from_millis(took_ms));
        Seen { key: 0, began, took, is_done }
    }

    #[test]
    fn a_key_counts_once_with_its_longest_operation_around_the_events() {
        let ms = Duration::from_millis;
        let of = |key, began, took| Seen { key, ..seen(began, took, true) };
        // Ninety-nine keys wait between 1 and 99 ms for the first event; one, far more, for the second.
        let mut all: Vec<Seen> = (1..=99).map(|key| of(key, 100, key)).collect();
        all.extend([of(100, 900, 800), of(99, 110, 2), of(7, 300, 500)]);
        let witness = Witness { seen: all };
        let first = [(ms(100), ms(200))];
        assert_eq!(witness.worst_of_keys_ms(&first), 99.0, "what came between counts for nothing");
        let both = [first[0], (ms(1_000), ms(1_100))];
        assert_eq!(witness.worst_of_keys_ms(&both), 99.0, "one of a hundred keys may be worse");
        assert_eq!(witness.worst_of_keys_ms(&both[1..]), 800.0);
        assert_eq!(witness.worst_of_keys_ms(&[]), 0.0);
    }

    #[test]
    fn a_stall_is_seen_wherever_it_began() {
        let ms = Duration::from_millis;
        let witness =
            Witness { seen: vec![seen(0, 10, true), seen(90, 200, true), seen(400, 5, true)] };
        assert_eq!(witness.worst_ms(ms(0), ms(50)), 10.0);
        assert_eq!(witness.worst_ms(ms(100), ms(150)), 200.0, "it was under way");
        assert_eq!(witness.worst_ms(ms(300), ms(400)), 0.0);
    }

    #[test]
    fn rates_count_what_was_done_in_each_tenth_of_a_second() {
        let witness = Witness {
            seen: vec![
                seen(1_000, 0, true),
                seen(1_010, 20, true),
                seen(1_020, 30, false),
                seen(1_000, 150, true),
                seen(1_100, 120, true),
            ],
        };
        let rates = witness.rates(Duration::from_millis(1_100));
        assert_eq!(rates, [(-0.1, 20.0), (0.0, 10.0)]);
        assert_eq!(witness.failed(), 1);
    }
}
