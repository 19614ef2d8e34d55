//! The memcomparable codec, beside a plain copy of the same bytes: every key of API version 2 and of
//! every transaction goes through it. And the records of transactions, which every read of one decodes.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use skerry_benches::{VALUE_BYTES, value};
use skerry_kv::mvcc::{Lock, LockKind, Write, WriteKind, WriteRef};
use skerry_proto::codec;
use skerry_proto::types::Ts;

pub(crate) fn benches(criterion: &mut Criterion) {
    keys(criterion);
    records(criterion);
}

fn keys(criterion: &mut Criterion) {
    for bytes in [16, 256] {
        let key = value(1, bytes);
        let encoded = codec::encode_bytes(&key);
        let mut group = criterion.benchmark_group(format!("codec, key of {bytes} bytes"));
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function("encode", |bencher| {
            bencher.iter(|| codec::encode_bytes(black_box(&key)));
        });
        group.bench_function("decode", |bencher| {
            bencher.iter(|| codec::decode_bytes(black_box(&encoded)).expect("it was just encoded"));
        });
        group.bench_function("reference: copy", |bencher| {
            bencher.iter(|| black_box(&key).clone());
        });
        group.finish();
    }
}

fn records(criterion: &mut Criterion) {
    let short_value = || Some(Bytes::from(value(1, VALUE_BYTES)));
    let write = Write::new(WriteKind::Put, Ts::from(7), short_value());
    let lock = Lock::new(LockKind::Put, Bytes::from(value(2, 16)), Ts::from(7), 3_000);
    let lock = Lock { short_value: short_value(), ..lock };
    let (written, locked) = (write.encode(), lock.encode());
    let mut group = criterion.benchmark_group(format!("codec, record with {VALUE_BYTES} bytes"));
    group.bench_function("encode a write", |bencher| bencher.iter(|| black_box(&write).encode()));
    group.bench_function("decode a write", |bencher| {
        bencher.iter(|| WriteRef::decode(black_box(&written)).expect("it was just encoded"));
    });
    group.bench_function("encode a lock", |bencher| bencher.iter(|| black_box(&lock).encode()));
    group.bench_function("decode a lock", |bencher| {
        bencher.iter(|| Lock::decode(black_box(&locked)).expect("it was just encoded"));
    });
    group.finish();
}
