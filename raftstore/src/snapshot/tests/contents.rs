//! What is in the region arrives, what was there before is gone, and what lies beside it is not touched.

use proptest::prelude::*;

use super::*;

/// Builds on a store with `from`, installs on one with `before`, and compares.
fn check(kind: Kind, region: &metapb::Region, from: &Contents, before: &Contents) {
    let (sender, receiver) = (Store::holding(kind, from), Store::holding(kind, before));
    let data = sender.build(region).expect("build");
    receiver.receive(&sender, &data).expect("receive");
    assert_eq!(receiver.contents(), *before, "receiving alone changes nothing");
    receiver.install(region).expect("install");
    let expected = expected(region, from, before);
    assert_eq!(receiver.contents(), expected, "{kind:?} {:?}", region.bounds());
    receiver.install(region).expect("install again");
    assert_eq!(receiver.contents(), expected, "twice is once");
    assert_eq!(sender.contents(), *from);
    assert_eq!(sender.names(), names_for("gen", region, from));
    assert_eq!(receiver.names(), names_for("rev", region, from));
}

#[test]
fn a_region_replaces_its_former_data_and_its_nearest_neighbours_stay() {
    for kind in KINDS {
        let (new, old) = (neighbourhood("new"), neighbourhood("old"));
        check(kind, &region("d", "m"), &new, &old);
        let changed = expected(&region("d", "m"), &new, &old);
        // Of the ten keys in a space four are inside, and six of the spaces belong to regions.
        assert_eq!(changed.values().filter(|value| value.starts_with(b"new")).count(), 6 * 4);
    }
}

#[test]
fn the_first_and_the_last_region_end_with_the_data() {
    for kind in KINDS {
        for (start, end) in [("", "d"), ("m", ""), ("", "")] {
            check(kind, &region(start, end), &neighbourhood("new"), &neighbourhood("old"));
        }
    }
}

#[test]
fn an_empty_region_clears_and_an_empty_store_is_filled() {
    for kind in KINDS {
        check(kind, &region("d", "m"), &Contents::new(), &neighbourhood("old"));
        check(kind, &region("d", "m"), &neighbourhood("new"), &Contents::new());
        check(kind, &region("d", "m"), &Contents::new(), &Contents::new());
    }
}

#[test]
fn the_view_decides_and_not_what_was_written_since() {
    for kind in KINDS {
        let (sender, receiver) = (Store::holding(kind, &neighbourhood("new")), Store::new(kind));
        let view = sender.engine.view();
        let mut batch = WriteBatch::new();
        batch.put(ColumnFamily::Raw, "zh", "later");
        batch.delete(ColumnFamily::Default, "zd");
        sender.engine.write(batch, Durability::Buffered).expect("write");
        let region = region("d", "m");
        let directory = sender.snapshots();
        let data = build(&directory, ID, &*view, &region, sender.engine(), &mut |_| {});
        receiver.receive(&sender, &data.expect("build")).expect("receive");
        receiver.install(&region).expect("install");
        assert_eq!(receiver.contents(), expected(&region, &neighbourhood("new"), &Contents::new()));
    }
}

#[test]
fn a_large_region_travels_in_chunks_and_its_progress_is_told() {
    let value = |number: u32| Bytes::from(number.to_le_bytes().repeat(1_000));
    let pairs = (0..700_u32).map(|number| {
        let mut word = value(number ^ 0x5555).to_vec();
        // Hard to compress, so that the file is as large as the data.
        let mut state = u64::from(number);
        word.iter_mut().for_each(|byte| {
            state = crate::time::splitmix64(state);
            *byte = state as u8;
        });
        ((ColumnFamily::Raw, format!("zk{number:05}").into()), Bytes::from(word))
    });
    let from: Contents = pairs.collect();
    for kind in KINDS {
        let (sender, receiver) = (Store::holding(kind, &from), Store::new(kind));
        let mut told = Vec::new();
        let view = sender.engine.view();
        let (directory, region) = (sender.snapshots(), region("", ""));
        let mut limit = |bytes| told.push(bytes);
        let data = build(&directory, ID, &*view, &region, sender.engine(), &mut limit);
        let data = data.expect("build");
        assert_eq!(told.iter().sum::<u64>(), 700 * (7 + 4_000));
        assert!(
            told.iter().all(|bytes| *bytes < (64 << 10) + 4_008) && told.len() > 40,
            "{told:?}"
        );

        let mut outgoing = Outgoing::open(&directory, ID).expect("open");
        assert_eq!(*outgoing.data(), data);
        let (mut stream, mut longest) = (Vec::new(), 0);
        while let Some(chunk) = outgoing.next_chunk().expect("chunk") {
            longest = longest.max(chunk.len());
            stream.extend_from_slice(&chunk);
        }
        assert_eq!(longest, CHUNK_BYTES_MAX);
        assert_eq!(stream.len() as u64, data.file_size);
        // However the stream is cut on its way, also across files.
        let mut incoming = Incoming::begin(&receiver.snapshots(), ID, &data).expect("begin");
        stream.chunks(300_007).for_each(|piece| incoming.write(piece).expect("write"));
        incoming.finish().expect("finish");
        receiver.install(&region).expect("install");
        assert_eq!(receiver.contents(), from);
    }
}

#[test]
fn a_complete_snapshot_is_used_again_on_both_sides() {
    for kind in KINDS {
        let (sender, receiver) = (Store::holding(kind, &neighbourhood("new")), Store::new(kind));
        let range = region("d", "m");
        let data = sender.build(&range).expect("build");
        let view = sender.engine.view();
        let mut limit = |_| panic!("nothing is written a second time");
        let directory = sender.snapshots();
        let again = build(&directory, ID, &*view, &range, sender.engine(), &mut limit);
        assert_eq!(again.expect("build"), data);
        receiver.receive(&sender, &data).expect("receive");
        let mut incoming = Incoming::begin(&receiver.snapshots(), ID, &data).expect("begin");
        assert!(incoming.is_complete());
        incoming.write(b"what a sender sends that was not told in time").expect("ignored");
        drop(incoming);
        assert_eq!(receiver.names(), complete_names("rev"), "a complete one is not thrown away");
        receiver.install(&range).expect("install");

        // A snapshot under the same name that is of another range is not the same.
        let wider = sender.build(&region("c", "m")).expect("build");
        assert_ne!(wider, data);
        let incoming = Incoming::begin(&receiver.snapshots(), ID, &wider).expect("begin");
        assert!(!incoming.is_complete());
    }
}

/// Keys that meet each other and every bound.
fn any_key() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(proptest::sample::select(vec![0, b'a', b'b', 0xFF]), 0..4)
}

fn any_contents(pairs: usize) -> impl Strategy<Value = Contents> {
    let family = proptest::sample::select(ColumnFamily::ALL.to_vec());
    let space = proptest::sample::select(b"\x01wxyz{".to_vec());
    let key = (family, space, any_key())
        .prop_map(|(family, space, key)| (family, Bytes::from([&[space][..], &key].concat())));
    let value = proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
    proptest::collection::btree_map(key, value, 0..pairs)
}

fn any_region() -> impl Strategy<Value = metapb::Region> {
    let bounds = (any_key(), any_key())
        .prop_filter("a region has room", |(start, end)| end.is_empty() || start < end);
    bounds.prop_map(|(start, end)| metapb::Region {
        start_key: start.into(),
        end_key: end.into(),
        ..region("", "")
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn any_region_arrives_in_memory_and_nothing_else_changes(
        region in any_region(), from in any_contents(150), before in any_contents(150),
    ) {
        check(Kind::Memory, &region, &from, &before);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn any_region_arrives_on_rocksdb_and_nothing_else_changes(
        region in any_region(), from in any_contents(150), before in any_contents(150),
    ) {
        check(Kind::Rocks, &region, &from, &before);
    }
}
