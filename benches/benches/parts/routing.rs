//! Finding the way: the registry through which a leader serves reads on the caller's thread, and the scheduler's
//! regions by key, among one region and among ten thousand.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion};
use skerry_benches::{VALUE_BYTES, value};
use skerry_proto::metapb::Region;
use skerry_proto::types::{RegionId, Term};
use skerry_raftstore::engine::memory::MemoryEngine;
use skerry_raftstore::engine::{ColumnFamily, Durability, Engine, WriteBatch};
use skerry_raftstore::keys::data_key;
use skerry_raftstore::message::CommandContext;
use skerry_raftstore::registry::{LocalReader, ReadDelegate, Registry};
use skerry_raftstore::time::ManualClock;
use skerry_scheduler::region_tree::{RegionRecord, RegionTree};
use skerry_tests::local_cluster::even_regions;

/// The term in which the leader leads.
const TERM: u64 = 6;

pub(crate) fn benches(criterion: &mut Criterion) {
    for count in [1, 10_000] {
        let regions = even_regions(1, count);
        reads(criterion, &regions);
        lookups(criterion, &regions);
    }
}

/// A key in each region.
fn key_in(region: &Region) -> Vec<u8> {
    let mut key = region.start_key.to_vec();
    key.resize(3, 7);
    key
}

fn reads(criterion: &mut Criterion, regions: &[Region]) {
    let (engine, registry) = (Arc::new(MemoryEngine::new()), Arc::new(Registry::default()));
    for region in regions {
        let mut batch = WriteBatch::new();
        batch.put(ColumnFamily::Raw, data_key(&key_in(region)), value(region.id, VALUE_BYTES));
        engine.write(batch, Durability::Buffered).expect("it writes");
        let delegate = ReadDelegate::new(
            Arc::new(region.clone()),
            region.peers[0],
            TERM,
            Arc::default(),
            None,
        );
        delegate.set_lease(Duration::from_secs(1));
        registry.set(Arc::new(delegate));
    }
    let reader = LocalReader::new(registry, engine.clone(), Arc::new(ManualClock::default()));
    let asked = |region: &Region| {
        let context = CommandContext {
            region_id: RegionId::new(region.id),
            epoch: region.region_epoch.expect("every region has one"),
            term: Some(Term::new(TERM)),
            ..CommandContext::default()
        };
        (context, data_key(&key_in(region)))
    };
    let asked: Vec<_> = regions.iter().map(asked).collect();
    let mut number = 0;
    let mut next = || {
        number += 7;
        &asked[number % asked.len()]
    };
    let name = format!("routing, a lease read among {} regions", regions.len());
    let mut group = criterion.benchmark_group(name);
    group.bench_function("get", |bencher| {
        bencher.iter_batched(
            &mut next,
            |(context, key)| {
                let found = reader.get(context, ColumnFamily::Raw, key).expect("the lease holds");
                assert!(found.expect("it is led here").expect("it reads").is_some());
            },
            BatchSize::SmallInput,
        );
    });
    group.bench_function("view", |bencher| {
        bencher.iter_batched(
            &mut next,
            |(context, _)| reader.read(context).expect("the lease holds").is_ok(),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("reference: the engine's get", |bencher| {
        bencher.iter_batched(
            &mut next,
            |(_, key)| black_box(engine.get(ColumnFamily::Raw, key).expect("it reads")),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn lookups(criterion: &mut Criterion, regions: &[Region]) {
    let mut tree = RegionTree::default();
    for region in regions {
        tree.accept(RegionRecord::silent(region.clone())).expect("they do not overlap");
    }
    let keys: Vec<Vec<u8>> = regions.iter().map(key_in).collect();
    let mut number = 0;
    let name = format!("routing, the scheduler's {} regions", regions.len());
    let mut group = criterion.benchmark_group(name);
    group.bench_function("by key", |bencher| {
        bencher.iter(|| {
            number += 7;
            tree.by_key(black_box(&keys[number % keys.len()])).expect("there is one").id()
        });
    });
    group.finish();
}
