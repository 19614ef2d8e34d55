//! The memcomparable codec, beside a plain copy of the same bytes: every key of API version 2 and of
//! every transaction goes through it.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use skerry_benches::value;
use skerry_proto::codec;

fn encode_and_decode(criterion: &mut Criterion) {
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

criterion_group!(benches, encode_and_decode);
criterion_main!(benches);
