//! The order in which reads and shortcut commits meet, also on real threads.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;
use crate::mvcc::{Lock, LockKind};

fn lock(start: u64) -> Lock {
    let primary = Bytes::from_static(b"a");
    Lock { use_async_commit: true, ..Lock::new(LockKind::Put, primary, Ts::from(start), 0) }
}

#[test]
fn a_commit_timestamp_lies_above_every_read_before_it() {
    let concurrency = Concurrency::new();
    concurrency.raise_max_ts(Ts::from(50));
    concurrency.raise_max_ts(Ts::from(40));
    concurrency.raise_max_ts(Ts::MAX);
    assert_eq!(
        concurrency.max_ts(),
        Ts::from(50),
        "the newest is no timestamp, and none goes back"
    );
    let publish = |lock: Lock, at_least: u64, max: u64| {
        concurrency.publish(vec![(key("a"), lock)], Ts::from(at_least), Ts::from(max))
    };
    let at = |published: Option<Published>| published.map(|published| published.min_commit_ts());
    assert_eq!(at(publish(lock(10), 11, 0)), Some(Ts::from(51)));
    assert_eq!(at(publish(lock(60), 61, 0)), Some(Ts::from(61)), "and above its start");
    let promised = Lock { min_commit_ts: Ts::from(70), ..lock(10) };
    assert_eq!(at(publish(promised, 11, 0)), Some(Ts::from(70)), "and not below its promise");
    assert_eq!(at(publish(lock(10), 11, 51)), Some(Ts::from(51)));
    assert_eq!(at(publish(lock(10), 11, 50)), None, "the client allows no such timestamp");
    let rules = ReadRules::at(Ts::from(90));
    assert!(concurrency.check_key(&key("a"), &rules).is_ok(), "all of them were dropped");
}

#[test]
fn a_published_lock_is_met_by_keys_and_ranges_until_it_is_dropped() {
    let concurrency = Concurrency::new();
    let locks = vec![(key("b"), lock(10)), (key("d"), lock(10))];
    let published = concurrency.publish(locks, Ts::from(11), Ts::ZERO).expect("no bound");
    let (before, after) = (ReadRules::at(Ts::from(10)), ReadRules::at(Ts::from(11)));
    assert!(concurrency.check_key(&key("b"), &before).is_ok(), "it commits later");
    assert!(matches!(concurrency.check_key(&key("b"), &after), Err(Error::Locked { .. })));
    assert!(concurrency.check_key(&key("c"), &after).is_ok());
    let newest = ReadRules::at(Ts::MAX);
    assert!(concurrency.check_key(&key("b"), &newest).is_err(), "it may be committed already");
    let range = |from, to| range_of(from, to);
    assert!(concurrency.check_range(&range(b"a", b"b"), &after).is_ok(), "the end is outside");
    assert!(concurrency.check_range(&range(b"a", b"c"), &after).is_err());
    assert!(concurrency.check_range(&range(b"c", b""), &after).is_err());
    assert!(concurrency.check_range(&range(b"e", b""), &after).is_ok());
    assert_eq!(concurrency.locks_in(&range(b"", b"")).len(), 2);
    drop(published);
    assert!(concurrency.check_range(&range(b"", b""), &after).is_ok());
}

#[test]
#[should_panic(expected = "its latch is not held")]
fn two_transactions_cannot_publish_one_key() {
    let concurrency = Concurrency::new();
    let _first = concurrency.publish(vec![(key("a"), lock(10))], Ts::ZERO, Ts::ZERO);
    let _second = concurrency.publish(vec![(key("a"), lock(20))], Ts::ZERO, Ts::ZERO);
}

/// A reader and a writer at the same moment, many times: either the reader meets the lock, or the writer commits
/// above it.
#[test]
fn readers_and_writers_on_threads_never_miss_each_other() {
    const ROUNDS: u64 = 3_000;
    let concurrency = Concurrency::new();
    let (start, end) = (Barrier::new(2), Barrier::new(2));
    let met = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=ROUNDS {
                let ts = Ts::from(round * 10);
                start.wait();
                concurrency.raise_max_ts(ts);
                let result = concurrency.check_key(&key("a"), &ReadRules::at(ts));
                met.store(result.is_err(), Ordering::SeqCst);
                end.wait();
            }
        });
        for round in 1..=ROUNDS {
            start.wait();
            let locks = vec![(key("a"), lock(round * 10 - 5))];
            let published =
                concurrency.publish(locks, Ts::from(round * 10 - 4), Ts::ZERO).expect("no bound");
            end.wait();
            let is_above = published.min_commit_ts() > Ts::from(round * 10);
            let met = met.load(Ordering::SeqCst);
            assert!(met || is_above, "round {round}: the reader missed a commit below it");
            drop(published);
        }
    });
}
