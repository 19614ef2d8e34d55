//! Defaults, limits, and the words of the reference.

use proptest::prelude::*;

use super::*;

#[test]
fn sizes_print_in_the_largest_unit_that_fits_whole() {
    let printed =
        [0, 1, 1023, 1024, 1536, 64 << 20, 3 << 40].map(|size| ByteSize(size).to_string());
    assert_eq!(printed, ["0B", "1B", "1023B", "1KiB", "1536B", "64MiB", "3TiB"]);
}

#[test]
fn sizes_that_could_mean_two_things_are_refused() {
    for text in ["", "64", "64MB", "64M", "1.5GiB", "-1KiB", "MiB", "64 mib", "99999999TiB"] {
        let refused = text.parse::<ByteSize>().expect_err(text);
        assert!(refused.contains("is not a size"), "{refused}");
    }
    assert_eq!("64 MiB".parse(), Ok(ByteSize::mib(64)));
    assert_eq!("0".parse(), Ok(ByteSize(0)));
}

proptest! {
    #[test]
    fn a_size_survives_printing_and_reading(size in any::<u64>()) {
        prop_assert_eq!(ByteSize(size).to_string().parse(), Ok(ByteSize(size)));
    }
}

/// Compares a section's reference with what serde writes: same keys, same order, same defaults.
fn assert_reference_is_true(knobs: Vec<Knob>, section: &str, written: &str) {
    let table: toml::Table = written.parse().expect("the defaults are TOML");
    let mut names: Vec<&str> = knobs.iter().map(|knob| knob.name).collect();
    names.sort_unstable();
    let mut keys: Vec<&str> = table.keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(names, keys);
    for knob in &knobs {
        assert_eq!(knob.section, section);
        let line = format!("value = {}", knob.default).parse::<toml::Table>();
        let value = line.expect("a default in the reference is a TOML value")["value"].clone();
        assert_eq!(value, table[knob.name], "{}", knob.name);
    }
}

#[test]
fn the_reference_names_every_knob_with_its_default() {
    let rocks = toml::to_string(&RocksConfig::default()).expect("serialise");
    assert_reference_is_true(RocksConfig::reference(), "rocksdb", &rocks);
    let log = toml::to_string(&RaftEngineConfig::default()).expect("serialise");
    assert_reference_is_true(RaftEngineConfig::reference(), "raft-engine", &log);
    let raft = toml::to_string(&RaftConfig::default()).expect("serialise");
    assert_reference_is_true(RaftConfig::reference(), "raftstore", &raft);
}

#[test]
fn defaults_and_the_small_form_are_allowed_and_fit_a_laptop() {
    RocksConfig::default().validate().expect("default");
    RocksConfig::small().validate().expect("small");
    RaftEngineConfig::default().validate().expect("raft-engine");
    let rocks = RocksConfig::default();
    let memory = rocks.block_cache_size.bytes() + rocks.write_buffers_total_size.bytes();
    assert!(memory <= ByteSize::mib(256).bytes(), "{memory}");
}

#[test]
fn a_file_overrides_what_it_names_and_unknown_keys_are_refused() {
    let read: RocksConfig =
        toml::from_str("block-cache-size = \"1GiB\"\nbottommost-compression = \"zstd\"")
            .expect("two known keys");
    assert_eq!(read.block_cache_size, ByteSize::gib(1));
    assert_eq!(read.bottommost_compression, Compression::Zstd);
    assert_eq!(read.write_buffer_size, RocksConfig::default().write_buffer_size);
    let refused = toml::from_str::<RocksConfig>("block-cash-size = \"1GiB\"").expect_err("typo");
    assert!(refused.to_string().contains("block-cash-size"), "{refused}");
    let refused = toml::from_str::<RaftEngineConfig>("purge-threshold = \"9MB\"").expect_err("MB");
    assert!(refused.to_string().contains("is not a size"), "{refused}");
}

#[test]
fn a_value_out_of_range_is_refused_with_its_key_and_the_range() {
    let config = RocksConfig { background_jobs_max: 1, ..RocksConfig::default() };
    assert_eq!(
        config.validate().expect_err("one thread cannot flush and compact").to_string(),
        "configuration: rocksdb.background-jobs-max is 1; allowed is from 2 to 64"
    );
    let config =
        RaftEngineConfig { purge_threshold: ByteSize::mib(33), ..RaftEngineConfig::default() };
    assert_eq!(
        config.validate().expect_err("less than two files").to_string(),
        "configuration: raft-engine.purge-threshold is 33MiB; allowed is from 64MiB to 1TiB"
    );
}
