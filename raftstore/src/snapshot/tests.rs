//! Snapshots from one engine to another, on both kinds, with everything that can happen on the way.

use std::sync::Arc;

use proptest::prelude::*;
use skerry_proto::metapb;

use super::*;
use crate::config::RocksConfig;
use crate::engine::memory::MemoryEngine;
use crate::engine::rocks::RocksEngine;
use crate::engine::{Durability, Engine, KeyRange, WriteBatch};

const ID: SnapshotId = SnapshotId { region_id: 7, term: 6, index: 42 };

fn region() -> metapb::Region {
    metapb::Region {
        id: 7,
        start_key: "f".into(),
        end_key: "p".into(),
        ..metapb::Region::default()
    }
}

/// One engine of each kind, and where their files lie.
fn engines() -> (tempfile::TempDir, Vec<Arc<dyn Engine>>) {
    let home = tempfile::tempdir().expect("a directory");
    let rocks = RocksEngine::open(&home.path().join("rocks"), &RocksConfig::small(), None);
    (home, vec![Arc::new(MemoryEngine::new()), Arc::new(rocks.expect("opens"))])
}

fn fill(engine: &dyn Engine, keys: &[&str], value: &'static str) {
    let mut batch = WriteBatch::new();
    for key in keys {
        for (_, family, space) in MAPS {
            batch.put(family, space.key(key.as_bytes()), value);
        }
    }
    engine.write(batch, Durability::Buffered).expect("write");
}

/// Everything in every family, as text.
fn content(engine: &dyn Engine) -> Vec<String> {
    let view = engine.view();
    let mut all = Vec::new();
    for family in ColumnFamily::DATA {
        let mut cursor = view.cursor(family, &KeyRange::default()).expect("cursor");
        let mut standing = cursor.seek_to_first().expect("seek");
        while standing {
            let (key, value) = (cursor.key().escape_ascii(), cursor.value().escape_ascii());
            all.push(format!("{family} {key}={value}"));
            standing = cursor.next().expect("next");
        }
    }
    all
}

fn built(engine: &dyn Engine) -> (tempfile::TempDir, RaftSnapshotData) {
    let directory = tempfile::tempdir().expect("a directory");
    let view = engine.view();
    let data = build(directory.path(), ID, view.as_ref(), &region(), engine, &mut |_| {});
    (directory, data.expect("builds"))
}

fn stream(directory: &Path) -> Vec<u8> {
    let mut outgoing = Outgoing::open(directory, ID).expect("complete");
    let mut bytes = Vec::new();
    while let Some(chunk) = outgoing.next_chunk().expect("reads") {
        bytes.extend_from_slice(&chunk);
    }
    bytes
}

fn receive(directory: &Path, data: &RaftSnapshotData, bytes: &[u8]) -> Result<()> {
    let mut incoming = Incoming::begin(directory, ID, data)?;
    for chunk in bytes.chunks(1_000) {
        incoming.write(chunk)?;
    }
    incoming.finish()
}

#[test]
fn a_region_arrives_whole_and_nothing_beside_it_is_touched() {
    for source_kind in 0..2 {
        let (_source_home, sources) = engines();
        let (_target_home, targets) = engines();
        // Tables of one kind of engine are read by that kind only.
        let (source, target) = (&sources[source_kind], &targets[source_kind]);
        fill(source.as_ref(), &["a", "f", "g", "p", "z"], "new");
        fill(target.as_ref(), &["e", "ezzz", "f", "h", "ozzz", "p", "q"], "old");
        let (from, data) = built(source.as_ref());
        let to = tempfile::tempdir().expect("a directory");
        receive(to.path(), &data, &stream(from.path())).expect("arrives");
        for _ in 0..2 {
            install(to.path(), ID, &region(), target.as_ref()).expect("installs");
            let (_home, expected) = engines();
            fill(expected[0].as_ref(), &["e", "ezzz", "p", "q"], "old");
            fill(expected[0].as_ref(), &["f", "g"], "new");
            assert_eq!(content(target.as_ref()), content(expected[0].as_ref()));
        }
    }
}

#[test]
fn an_empty_region_empties_the_range() {
    let (_source_home, sources) = engines();
    let (_target_home, targets) = engines();
    for (source, target) in sources.iter().zip(&targets) {
        fill(target.as_ref(), &["f", "o"], "old");
        let (from, data) = built(source.as_ref());
        let to = tempfile::tempdir().expect("a directory");
        receive(to.path(), &data, &stream(from.path())).expect("arrives");
        install(to.path(), ID, &region(), target.as_ref()).expect("installs");
        assert_eq!(content(target.as_ref()), Vec::<String>::new());
    }
}

#[test]
fn a_flipped_bit_a_short_and_a_long_stream_are_found_and_leave_no_snapshot() {
    let (_home, engines) = engines();
    fill(engines[0].as_ref(), &["f", "g"], "value");
    let (from, data) = built(engines[0].as_ref());
    let bytes = stream(from.path());
    let to = tempfile::tempdir().expect("a directory");
    let mut wrong: Vec<Vec<u8>> = (0..bytes.len())
        .step_by(7)
        .map(|position| {
            let mut bytes = bytes.clone();
            bytes[position] ^= 4;
            bytes
        })
        .collect();
    wrong.push(bytes[..bytes.len() - 1].to_vec());
    wrong.push([&bytes[..], b"x"].concat());
    wrong.push(Vec::new());
    for bytes in wrong {
        let refused = receive(to.path(), &data, &bytes).expect_err("damaged");
        assert!(matches!(refused, Error::Damaged { .. }), "{refused}");
        let complete = list(to.path()).expect("lists").values().any(|it| *it == Progress::Complete);
        assert!(!complete);
        assert!(install(to.path(), ID, &region(), engines[0].as_ref()).is_err());
    }
    receive(to.path(), &data, &bytes).expect("the true one arrives all the same");
    receive(to.path(), &data, &[]).expect("a complete one is not received again");
}

#[test]
fn a_bit_that_rots_after_arrival_is_found_before_anything_is_loaded() {
    let (_home, engines) = engines();
    fill(engines[0].as_ref(), &["f"], "value");
    let (from, data) = built(engines[0].as_ref());
    let to = tempfile::tempdir().expect("a directory");
    receive(to.path(), &data, &stream(from.path())).expect("arrives");
    let path = ID.table(to.path(), Side::Received, "raw-write");
    let mut bytes = std::fs::read(&path).expect("reads");
    bytes[3] ^= 1;
    std::fs::write(&path, bytes).expect("writes");
    let target = MemoryEngine::new();
    let refused = install(to.path(), ID, &region(), &target).expect_err("damaged").to_string();
    assert!(refused.contains("raw-write.sst is damaged"), "{refused}");
    assert_eq!(content(&target), Vec::<String>::new());
}

#[test]
fn what_was_begun_and_not_completed_is_built_anew_and_collected_if_nobody_wants_it() {
    let (_home, engines) = engines();
    fill(engines[0].as_ref(), &["f"], "value");
    let (directory, first) = built(engines[0].as_ref());
    std::fs::remove_file(ID.meta(directory.path(), Side::Generated)).expect("removes");
    std::fs::write(directory.path().join("gen_7_6_42_raw.sst.tmp"), "half").expect("writes");
    assert_eq!(list(directory.path()).expect("lists")[&(ID, Side::Generated)], Progress::Begun);
    let view = engines[0].view();
    let again =
        build(directory.path(), ID, view.as_ref(), &region(), engines[0].as_ref(), &mut |_| {});
    assert_eq!(again.expect("builds"), first);
    assert_eq!(collect(directory.path(), &|id, _| *id == ID).expect("collects"), 0);
    assert_eq!(collect(directory.path(), &|_, side| side == Side::Received).expect("collects"), 1);
    assert_eq!(std::fs::read_dir(directory.path()).expect("lists").count(), 0);
}

#[test]
fn another_version_of_the_format_is_refused() {
    let (_home, engines) = engines();
    let (from, mut data) = built(engines[0].as_ref());
    data.version = 2;
    let to = tempfile::tempdir().expect("a directory");
    let refused = receive(to.path(), &data, &stream(from.path())).expect_err("refused");
    assert!(refused.to_string().contains("version 2"), "{refused}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn whatever_was_there_the_range_equals_the_senders_and_the_rest_stays(
        sender: Vec<(u8, u8)>, receiver: Vec<(u8, u8)>,
    ) {
        let put = |engine: &dyn Engine, pairs: &[(u8, u8)]| {
            let mut batch = WriteBatch::new();
            for (key, value) in pairs {
                let (_, family, space) = MAPS[usize::from(*value) % MAPS.len()];
                batch.put(family, space.key(&[b'a' + key % 26, *value]), vec![*value]);
            }
            engine.write(batch, Durability::Buffered).expect("write");
        };
        let (source, target) = (MemoryEngine::new(), MemoryEngine::new());
        put(&source, &sender);
        put(&target, &receiver);
        let inside = |line: &String| {
            let key = line.split(' ').nth(1).expect("a key").as_bytes();
            (&b"f"[..]..b"p").contains(&&key[1..])
        };
        let mut expected: Vec<String> = content(&target).into_iter().filter(|line| !inside(line)).collect();
        expected.extend(content(&source).into_iter().filter(inside));
        expected.sort();
        let (from, data) = built(&source);
        let to = tempfile::tempdir().expect("a directory");
        receive(to.path(), &data, &stream(from.path())).expect("arrives");
        install(to.path(), ID, &region(), &target).expect("installs");
        let mut found = content(&target);
        found.sort();
        prop_assert_eq!(found, expected);
    }
}
