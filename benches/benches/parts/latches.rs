//! Latches that nobody else wants, and that somebody hands over, beside the lock under which they lie.

use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Mutex;
use std::task::{Context, Waker};

use bytes::Bytes;
use criterion::Criterion;
use futures_executor::block_on;
use skerry_benches::key;
use skerry_kv::storage::Latches;

/// Keys that others hold meanwhile.
const HELD: u64 = 1_000;

pub(crate) fn benches(criterion: &mut Criterion) {
    let latches = Latches::new();
    let of = |from: u64, count: u64| -> Vec<Bytes> {
        (from..from + count).map(|number| Bytes::from(key(number))).collect()
    };
    let _held = block_on(latches.acquire(of(0, HELD)));
    let mut group = criterion.benchmark_group("latches");
    for count in [1, 16] {
        let keys = of(HELD, count);
        group.bench_function(format!("of {count} keys, free"), |bencher| {
            bencher.iter(|| drop(block_on(latches.acquire(black_box(&keys).iter().cloned()))));
        });
    }
    let wanted = of(HELD, 1);
    group.bench_function("of 1 key, handed over", |bencher| {
        bencher.iter(|| {
            let first = block_on(latches.acquire(wanted.iter().cloned()));
            let mut second = pin!(latches.acquire(wanted.iter().cloned()));
            let mut context = Context::from_waker(Waker::noop());
            assert!(second.as_mut().poll(&mut context).is_pending(), "the first holds it");
            drop(first);
            drop(block_on(second));
        });
    });
    let lock = Mutex::new(0_u64);
    group.bench_function("reference: a mutex", |bencher| {
        bencher.iter(|| *lock.lock().expect("nobody panics") += 1);
    });
    group.finish();
}
