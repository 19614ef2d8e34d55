//! The hot inner parts, each alone: what a put, a get and a transaction spend their processor time on, without a
//! socket, a second store or a disk that syncs.
//!
//! | group | part |
//! | --- | --- |
//! | `codec` | the memcomparable codec of keys, records of transactions |
//! | `write path` | a raft worker that checks and proposes, an apply worker that applies |
//! | `mvcc` | gets and scans over versions |
//! | `latches` | who may read a key and then write it |
//! | `routing` | the leader's read registry, the scheduler's regions by key |
//!
//! `make bench ARGS="mvcc"` measures, `make bench-smoke` runs everything once, which CI does: a part that does not
//! work any more, or that nobody can build, is found there and not when somebody wants to measure it.

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

mod codec;
mod latches;
mod mvcc;
mod routing;
mod write_path;

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(2));
    targets = codec::benches, write_path::benches, mvcc::benches, latches::benches, routing::benches
}
criterion_main!(benches);
