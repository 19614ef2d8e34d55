//! What only RocksDB can get wrong: files and their bounds, damage, merges, closing.

use std::collections::BTreeSet;
use std::fs;

use proptest::prelude::*;
use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};
use tempfile::TempDir;

use super::*;
use crate::engine::Cursor;
use crate::time::ManualClock;

const FAMILY: ColumnFamily = ColumnFamily::Default;

fn open(directory: &Path) -> Result<RocksEngine> {
    RocksEngine::open(directory, &RocksConfig::small(), None)
}

/// An engine with `keys` in the last level.
fn holding(keys: &[&'static str]) -> (TempDir, RocksEngine) {
    let home = tempfile::tempdir().expect("temporary directory");
    let engine = open(home.path()).expect("open");
    keys.iter().for_each(|key| put(&engine, FAMILY, key, "value"));
    engine.settle(FAMILY);
    (home, engine)
}

fn put(engine: &RocksEngine, family: ColumnFamily, key: &str, value: &str) {
    let mut batch = WriteBatch::new();
    batch.put(family, key.to_string(), value.to_string());
    engine.write(batch, Durability::Buffered).expect("write");
}

fn has(engine: &RocksEngine, key: &str) -> bool {
    engine.get(FAMILY, key.as_bytes()).expect("get").is_some()
}

/// Names of the files in a directory with this ending.
fn files(directory: &Path, ending: &str) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(directory).expect("list").map(|entry| entry.expect("entry").path());
    entries.filter(|path| path.to_string_lossy().ends_with(ending)).collect()
}

/// What a crash of the machine would find, if all files had been synced.
fn copy(from: &Path) -> TempDir {
    let to = tempfile::tempdir().expect("temporary directory");
    for path in files(from, "") {
        let name = path.file_name().expect("a file has a name");
        if name != "LOCK" {
            fs::copy(&path, to.path().join(name)).expect("copy");
        }
    }
    to
}

// Ranges and files.

#[test]
fn the_key_at_the_end_of_a_destroyed_range_survives_as_the_last_of_its_file() {
    let (_home, engine) = holding(&["b", "c", "d"]);
    let live = engine.database.live_files().expect("live files");
    assert_eq!(live.len(), 1, "one file");
    assert!(live[0].level > 0 && live[0].end_key.as_deref() == Some(b"d"), "that ends with d");
    engine.destroy_range(FAMILY, &KeyRange::new("a", "d")).expect("destroy");
    assert!(!has(&engine, "b") && !has(&engine, "c"));
    assert!(has(&engine, "d"), "it belongs to the next region");
}

#[test]
fn a_destroyed_range_gives_up_its_whole_files_at_once() {
    let (home, engine) = holding(&["b", "c", "d"]);
    assert_eq!(files(home.path(), ".sst").len(), 1);
    engine.destroy_range(FAMILY, &KeyRange::new("b", "e")).expect("destroy");
    assert_eq!(files(home.path(), ".sst").len(), 0);
    assert!(!has(&engine, "b") && !has(&engine, "d"));
}

#[test]
fn keys_just_below_the_end_go_with_the_range() {
    let (_home, engine) = holding(&["c", "c\u{7f}\u{7f}", "cz"]);
    let mut batch = WriteBatch::new();
    let close = [b"c", &[0xFF; 20][..]].concat();
    batch.put(FAMILY, close.clone(), "above what files are dropped by");
    engine.write(batch, Durability::Buffered).expect("write");
    engine.settle(FAMILY);
    engine.destroy_range(FAMILY, &KeyRange::new("c", "d")).expect("destroy");
    assert_eq!(engine.get(FAMILY, &close).expect("get"), None);
    assert!(!has(&engine, "c") && !has(&engine, "cz"));
}

proptest! {
    #[test]
    fn the_limit_for_files_is_below_the_end(end in prop::collection::vec(any::<u8>(), 1..8)) {
        let below = key_below(&end);
        prop_assert!(below < end);
        if end.last() == Some(&0) {
            prop_assert_eq!([&below[..], &[0]].concat(), end);
        }
    }
}

// Damage and strangers.

fn refused(directory: &Path) -> Error {
    match open(directory) {
        Ok(_) => panic!("it opened"),
        Err(error) => error,
    }
}

#[test]
fn a_directory_in_use_is_refused_by_that_name() {
    let (home, engine) = holding(&["a"]);
    assert!(matches!(refused(home.path()), Error::DirectoryLocked(path) if path == home.path()));
    drop(engine);
    open(home.path()).expect("it is free again");
}

#[test]
fn a_path_that_is_no_directory_is_refused() {
    let home = tempfile::tempdir().expect("temporary directory");
    let path = home.path().join("file");
    fs::write(&path, "not a directory").expect("write");
    assert!(matches!(refused(&path), Error::DirectoryUnusable { .. }));
    assert!(matches!(refused(&path.join("below")), Error::DirectoryUnusable { .. }));
    assert_eq!(fs::read(&path).expect("read"), b"not a directory");
}

#[test]
fn a_family_of_another_version_is_refused_by_name() {
    let (home, engine) = holding(&["a"]);
    drop(engine);
    let mut options = Options::default();
    options.create_missing_column_families(true);
    let mut names: Vec<&str> = ColumnFamily::ALL.iter().map(|family| family.name()).collect();
    names.push("time-machine");
    drop(DB::open_cf(&options, home.path(), names).expect("open with one family more"));
    let error = refused(home.path());
    assert!(matches!(error, Error::DirectoryMismatch { .. }), "{error}");
    assert!(error.to_string().contains("\"time-machine\""), "{error}");
}

#[test]
fn families_that_are_missing_are_made() {
    let home = tempfile::tempdir().expect("temporary directory");
    let mut options = Options::default();
    options.create_if_missing(true);
    drop(DB::open(&options, home.path()).expect("an engine with one family"));
    let engine = open(home.path()).expect("open");
    for family in ColumnFamily::ALL {
        put(&engine, family, "a", "1");
    }
}

#[test]
fn every_damaged_or_missing_part_is_one_clear_error_and_nothing_is_made_anew() {
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 7] = [
        ("CURRENT", |path| fs::remove_file(path).expect("remove")),
        ("CURRENT", |path| fs::write(path, "").expect("write")),
        ("CURRENT", |path| fs::write(path, "MANIFEST-999999\n").expect("write")),
        ("MANIFEST", |path| fs::remove_file(path).expect("remove")),
        ("MANIFEST", |path| fs::write(path, [7; 500]).expect("write")),
        (".sst", |path| fs::remove_file(path).expect("remove")),
        (".sst", |path| fs::write(path, [7; 100]).expect("write")),
    ];
    let (home, engine) = holding(&["a", "b"]);
    engine.close(Duration::from_secs(5)).expect("close");
    drop(engine);
    for (number, (part, harm)) in harms.into_iter().enumerate() {
        let copy = copy(home.path());
        let victim = files(copy.path(), "").into_iter().find(|path| {
            path.file_name().expect("a file has a name").to_string_lossy().contains(part)
        });
        harm(&victim.expect("the part is there"));
        let (tables, error) = (files(copy.path(), ".sst"), refused(copy.path()));
        assert!(matches!(error, Error::Damaged { .. }), "harm {number}: {error:?}");
        assert_eq!(files(copy.path(), ".sst"), tables, "harm {number} made it worse");
    }
}

#[test]
fn a_damaged_block_is_an_error_to_who_reads_it() {
    let (home, engine) = holding(&["a"]);
    engine.close(Duration::from_secs(5)).expect("close");
    drop(engine);
    let table = files(home.path(), ".sst").into_iter().next().expect("a table");
    let mut bytes = fs::read(&table).expect("read");
    bytes[5] ^= 0xFF;
    fs::write(&table, bytes).expect("write");
    let engine = open(home.path()).expect("blocks are checked when they are read");
    assert!(matches!(engine.get(FAMILY, b"a"), Err(Error::Damaged { .. })));
    let view = engine.view();
    assert!(matches!(view.get(FAMILY, b"a"), Err(Error::Damaged { .. })));
    let mut cursor = view.cursor(FAMILY, &KeyRange::default()).expect("cursor");
    assert!(matches!(cursor.seek_to_first(), Err(Error::Damaged { .. })), "not: it is empty");
}

// Power loss.

/// Opens what is left and answers how many batches of
/// [`a_log_cut_anywhere_loses_a_suffix_of_batches`] are there, having checked that they are a
/// prefix and whole.
fn batches_left(directory: &Path, written: usize) -> usize {
    let engine = open(directory).expect("open");
    let view = engine.view();
    let there = |number: usize| {
        let key = format!("{number:03}");
        let families = [ColumnFamily::Default, ColumnFamily::Lock];
        let found = families.map(|family| view.get(family, key.as_bytes()).expect("get").is_some());
        assert_eq!(found[0], found[1], "batch {number} is there in part");
        found[0]
    };
    let left = (0..written).take_while(|number| there(*number)).count();
    for number in left..written {
        assert!(!there(number), "batch {number} is there without batch {left}");
    }
    left
}

#[test]
fn a_log_cut_anywhere_loses_a_suffix_of_batches() {
    const BATCHES: usize = 60;
    let home = tempfile::tempdir().expect("temporary directory");
    let engine = open(home.path()).expect("open");
    for number in 0..BATCHES {
        if number == BATCHES / 2 {
            // From here on one family has a file and the others have only a log that is no longer
            // written.
            engine.flush(ColumnFamily::Lock);
        }
        let mut batch = WriteBatch::new();
        for family in [ColumnFamily::Default, ColumnFamily::Lock] {
            // Over several blocks of the log, so that something could follow a torn one.
            batch.put(family, format!("{number:03}"), vec![7; 2_000 + number]);
        }
        engine.write(batch, Durability::Buffered).expect("write");
    }
    let log = files(home.path(), ".log").into_iter().next_back().expect("a log");
    let name = log.file_name().expect("a file has a name");
    let whole = fs::read(&log).expect("read");
    let mut last = 0;
    for cut in (0..12).map(|part| whole.len() * part / 11) {
        let copy = copy(home.path());
        fs::write(copy.path().join(name), &whole[..cut]).expect("cut");
        let left = batches_left(copy.path(), BATCHES);
        assert!(left >= last.max(BATCHES / 2), "{left} after {last}");
        last = left;
    }
    assert_eq!(last, BATCHES, "the whole log holds everything");
    let copy = copy(home.path());
    let mut torn = whole.clone();
    let middle = whole.len() / 2;
    torn[middle] ^= 1;
    fs::write(copy.path().join(name), torn).expect("tear");
    let left = batches_left(copy.path(), BATCHES);
    assert!((BATCHES / 2..BATCHES).contains(&left), "{left}");
}

// Expiry.

/// In these tests a value is the second at which it expires.
fn expiring(clock: &ManualClock) -> (TempDir, RocksEngine) {
    let home = tempfile::tempdir().expect("temporary directory");
    let expiry = RawExpiry {
        clock: Arc::new(clock.clone()),
        expiry_seconds: |value| std::str::from_utf8(value).ok()?.parse().ok(),
    };
    let engine = RocksEngine::open(home.path(), &RocksConfig::small(), Some(expiry)).expect("open");
    (home, engine)
}

fn raw(engine: &RocksEngine, key: &str) -> Option<Bytes> {
    engine.get(ColumnFamily::Raw, key.as_bytes()).expect("get")
}

#[test]
fn expired_raw_pairs_leave_when_files_are_merged_and_no_others() {
    let clock = ManualClock::at(100_500);
    let (_home, engine) = expiring(&clock);
    for (key, value) in [("past", "99"), ("now", "100"), ("later", "101"), ("never", "-")] {
        put(&engine, ColumnFamily::Raw, key, value);
    }
    put(&engine, FAMILY, "past", "99");
    engine.settle(ColumnFamily::Raw);
    engine.settle(FAMILY);
    assert_eq!(raw(&engine, "past"), None);
    assert_eq!(raw(&engine, "now"), Some("100".into()), "a reader may still show this second");
    assert_eq!(raw(&engine, "later"), Some("101".into()));
    assert_eq!(raw(&engine, "never"), Some("-".into()));
    assert!(has(&engine, "past"), "other families do not expire");
    clock.advance_ms(1_000);
    engine.settle(ColumnFamily::Raw);
    assert_eq!(raw(&engine, "now"), None);
    assert_eq!(raw(&engine, "later"), Some("101".into()));
}

#[test]
fn an_expired_value_does_not_bring_back_the_one_it_replaced() {
    let clock = ManualClock::at(100_000);
    let (_home, engine) = expiring(&clock);
    put(&engine, ColumnFamily::Raw, "key", "900");
    engine.settle(ColumnFamily::Raw);
    put(&engine, ColumnFamily::Raw, "key", "200");
    clock.advance_ms(200_000);
    engine.settle(ColumnFamily::Raw);
    assert_eq!(raw(&engine, "key"), None);
}

// Views, closing, numbers.

#[test]
fn closing_waits_for_views_and_names_who_holds_them() {
    let (_home, engine) = holding(&["a"]);
    let view = std::thread::scope(|scope| {
        let reader = std::thread::Builder::new().name("slow-reader".to_string());
        let view = reader.spawn_scoped(scope, || engine.view()).expect("start a thread");
        view.join().expect("join")
    });
    let error = engine.close(Duration::from_millis(1)).expect_err("a view is held");
    assert!(error.to_string().contains("1 by thread slow-reader"), "{error}");
    std::thread::scope(|scope| {
        let closing = scope.spawn(|| engine.close(Duration::from_secs(60)));
        drop(view);
        closing.join().expect("join").expect("close");
    });
}

#[test]
fn after_a_clean_close_no_log_is_needed() {
    let home = tempfile::tempdir().expect("temporary directory");
    let engine = open(home.path()).expect("open");
    put(&engine, FAMILY, "a", "1");
    put(&engine, ColumnFamily::Raft, "b", "2");
    engine.close(Duration::from_secs(5)).expect("close");
    drop(engine);
    for log in files(home.path(), ".log") {
        fs::write(log, "").expect("empty");
    }
    let engine = open(home.path()).expect("open");
    assert!(has(&engine, "a"));
    assert!(engine.get(ColumnFamily::Raft, b"b").expect("get").is_some());
}

#[test]
fn a_view_outlives_its_engine() {
    let (_home, engine) = holding(&["a"]);
    let view = engine.view();
    drop(engine);
    let range = KeyRange::default();
    let mut cursor: Box<dyn Cursor> = view.cursor(FAMILY, &range).expect("cursor");
    assert!(cursor.seek_to_first().expect("seek"));
    assert_eq!(cursor.key(), b"a");
}

#[test]
fn statistics_count_what_is_there() {
    let (_home, engine) = holding(&["a", "b"]);
    put(&engine, ColumnFamily::Raw, "c", "1");
    let view = engine.view();
    let statistics = engine.statistics().expect("statistics");
    let of = |family| {
        statistics.families.iter().find(|numbers| numbers.family == family).expect("every family")
    };
    assert!(of(FAMILY).table_bytes > 0 && of(FAMILY).estimated_keys == 2, "{statistics:?}");
    assert!(of(ColumnFamily::Raw).table_bytes == 0 && of(ColumnFamily::Raw).estimated_keys == 1);
    assert!(of(ColumnFamily::Raw).memtable_bytes > 0 && statistics.write_buffers_bytes > 0);
    assert_eq!((statistics.views, statistics.background_errors), (1, 0));
    assert!(!statistics.write_stopped);
    drop(view);
    assert_eq!(engine.statistics().expect("statistics").views, 0);
}

// Filters over keys without their timestamps.

/// A key of family `write`. What stands before the timestamp ends by itself, as there.
fn version(key: &str, timestamp: u64) -> Vec<u8> {
    [key.as_bytes(), &[0], &timestamp.to_be_bytes()].concat()
}

fn versions(key: &str) -> KeyRange {
    KeyRange::new(version(key, 0), [&version(key, u64::MAX)[..], &[0]].concat())
}

fn put_versions(engine: &RocksEngine, versions: &[(&str, u64)]) {
    let mut batch = WriteBatch::new();
    for (key, timestamp) in versions {
        batch.put(ColumnFamily::Write, version(key, *timestamp), "record");
    }
    engine.write(batch, Durability::Buffered).expect("write");
}

fn walk(mut cursor: Box<dyn Cursor + '_>) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    let mut stands = cursor.seek_to_first().expect("seek");
    while stands {
        keys.push(cursor.key().to_vec());
        stands = cursor.next().expect("step");
    }
    keys
}

/// Half of it lies in files, half in a buffer.
fn holding_versions() -> (TempDir, RocksEngine) {
    let home = tempfile::tempdir().expect("temporary directory");
    let engine = open(home.path()).expect("open");
    put_versions(&engine, &[("apple", 1), ("apple", 2), ("pear", 1), ("peach", 7)]);
    engine.settle(ColumnFamily::Write);
    put_versions(&engine, &[("apple", 3), ("cherry", 1), ("peach", 9)]);
    (home, engine)
}

#[test]
fn filters_hide_no_version_and_no_other_key() {
    let (_home, engine) = holding_versions();
    let view = engine.view();
    let mut seen = 0;
    for key in ["apple", "banana", "cherry", "pea", "peach", "pear", "p", "zucchini"] {
        let range = versions(key);
        let filtered = walk(view.cursor_of_versions(ColumnFamily::Write, &range).expect("cursor"));
        let searched = walk(view.cursor(ColumnFamily::Write, &range).expect("cursor"));
        assert_eq!(filtered, searched, "{key}");
        seen += filtered.len();
    }
    let all = KeyRange::new("", "");
    let everything = walk(view.cursor(ColumnFamily::Write, &all).expect("cursor"));
    assert_eq!((everything.len(), seen), (7, 7));
    let last = KeyRange::new(version("peach", 8), version("zucchini", 0));
    let keys = walk(view.cursor(ColumnFamily::Write, &last).expect("cursor"));
    assert_eq!(keys, [version("peach", 9), version("pear", 1)], "it begins where no key is");
    assert!(engine.approximate_size(ColumnFamily::Write, &last).expect("size") > 0);
    assert_eq!(engine.get(ColumnFamily::Write, &version("pear", 2)).expect("get"), None);
    assert!(engine.get(ColumnFamily::Write, &version("pear", 1)).expect("get").is_some());
}

/// How often filters of buffers and of files have said that a key is not there.
fn refusals_of_filters<'a>(find: impl Fn() -> Box<dyn Cursor + 'a>) -> [u64; 2] {
    let mut context = PerfContext::default();
    set_perf_stats(PerfStatsLevel::EnableCount);
    context.reset();
    assert!(walk(find()).is_empty());
    let metrics = [PerfMetric::BloomMemtableMissCount, PerfMetric::BloomSstMissCount];
    let refusals = metrics.map(|metric| context.metric(metric));
    set_perf_stats(PerfStatsLevel::Disable);
    refusals
}

#[test]
fn a_key_without_versions_is_not_searched_for() {
    let (_home, engine) = holding_versions();
    let (view, family, range) = (engine.view(), ColumnFamily::Write, versions("banana"));
    let asked = || view.cursor_of_versions(family, &range).expect("cursor");
    assert_eq!(refusals_of_filters(asked), [1, 1], "one buffer, one file");
    let not_asked = || view.cursor(family, &range).expect("cursor");
    assert_eq!(refusals_of_filters(not_asked), [0, 0]);
}

/// Twenty thousand keys in the last level, on an engine whose cache has room for all of them.
fn holding_much() -> (TempDir, RocksEngine) {
    let home = tempfile::tempdir().expect("temporary directory");
    let config =
        RocksConfig { block_cache_size: crate::config::ByteSize::mib(32), ..RocksConfig::small() };
    let engine = RocksEngine::open(home.path(), &config, None).expect("open");
    let mut batch = WriteBatch::new();
    for number in 0..20_000 {
        batch.put(FAMILY, format!("k{number:06}"), "v".repeat(100));
    }
    engine.write(batch, Durability::Buffered).expect("write");
    (home, engine)
}

#[test]
fn what_lies_in_buffers_and_what_lies_in_files_is_told_apart() {
    let (_home, engine) = holding_much();
    let (all, half) = (KeyRange::new("k", "l"), KeyRange::new("k", "k01"));
    let sizes = |range| {
        let [tables, buffers] = [
            engine.table_size(FAMILY, range).expect("size"),
            engine.buffered_size(FAMILY, range).expect("size"),
        ];
        assert_eq!(engine.approximate_size(FAMILY, range).expect("size"), tables + buffers);
        (tables, buffers)
    };
    assert_eq!(sizes(&all), (0, 20_000 * 107));
    assert_eq!(sizes(&half), (0, 10_000 * 107));
    engine.settle(FAMILY);
    let [(whole, _), (part, _)] = [&all, &half].map(sizes);
    assert!(part.abs_diff(whole / 2) < whole / 10, "half of {whole} is {part}");
    assert_eq!(sizes(&all).1 + sizes(&half).1, 0);
    let nothing = KeyRange::new("k01", "k01");
    assert_eq!(sizes(&nothing), (0, 0));
}

#[test]
fn a_walk_that_is_made_once_leaves_the_cache_to_others() {
    let (_home, engine) = holding_much();
    engine.settle(FAMILY);
    let (view, all) = (engine.view(), KeyRange::new("k", "l"));
    let cached = || engine.statistics().expect("statistics").block_cache_bytes;
    let before = cached();
    let once = walk(view.cursor_once(FAMILY, &all).expect("cursor"));
    assert!(cached() < before + (200 << 10), "indexes at most");
    let again = walk(view.cursor(FAMILY, &all).expect("cursor"));
    assert!(cached() > before + (1 << 20), "two megabytes of pairs");
    assert_eq!((once.len(), once), (20_000, again));
}
