//! From our configuration to RocksDB's options: every choice that is not a knob stands here with
//! its reason.

use rocksdb::{
    BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, LogLevel, Options, SliceTransform,
    WriteBufferManager,
};

use super::expiry::{ExpiryFilters, RawExpiry};
use crate::config::{ByteSize, Compression, RocksConfig};
use crate::engine::ColumnFamily;

/// RocksDB's own diary (`LOG`) in the data directory: enough for the last days, bounded.
const DIARY_FILE_BYTES: usize = 4 << 20;
const DIARY_FILES: usize = 4;

/// A manifest that grew beyond it is rewritten.
const MANIFEST_BYTES_MAX: usize = 16 << 20;

/// Memory that a write buffer takes at a time: small, because five buffers idle most of the time,
/// and at most an eighth of the buffer, because a buffer counts as full by what it has taken.
const ARENA_BLOCK_BYTES_MAX: usize = 256 << 10;

/// Files of family `raw` that were not merged for so long are, so that expired pairs leave even
/// where nobody writes any more.
const RAW_REWRITE_SECONDS: u64 = 7 * 24 * 3600;

/// What all column families share: memory limits that hold for their sum.
pub(super) struct Shared {
    pub(super) block_cache: Cache,
    pub(super) write_buffers: WriteBufferManager,
}

impl Shared {
    pub(super) fn new(config: &RocksConfig) -> Shared {
        Shared {
            block_cache: Cache::new_lru_cache(config.block_cache_size.length()),
            // Without stalls: near the limit it flushes early, and the ordinary limits slow writers
            // down.
            write_buffers: WriteBufferManager::new_write_buffer_manager(
                config.write_buffers_total_size.length(),
                false,
            ),
        }
    }
}

/// Bytes at the end of a key of family `write` that are its timestamp.
const TIMESTAMP_BYTES: usize = 8;

/// Part of a write buffer that is the filter over its keys: 30 bits for a key with a short value. A buffer takes it at
/// once, and keeps it for as long as it idles.
const BUFFER_FILTER_RATIO: f64 = 0.02;

/// Options of the database as a whole.
pub(super) fn database(config: &RocksConfig, shared: &Shared, create: bool) -> Options {
    let mut options = Options::default();
    options.create_if_missing(create);
    options.create_missing_column_families(true);
    options.set_write_buffer_manager(&shared.write_buffers);
    options.set_max_open_files(i32::try_from(config.open_files_max).unwrap_or(i32::MAX));
    options.set_max_background_jobs(i32::try_from(config.background_jobs_max).unwrap_or(i32::MAX));
    options.set_bytes_per_sync(config.bytes_per_sync.bytes());
    options.set_wal_bytes_per_sync(config.wal_bytes_per_sync.bytes());
    options.set_max_total_wal_size(config.wal_total_size_max.bytes());
    // Up to the first record that is not whole: what power loss leaves of writes that were not
    // synced. A log file that was synced and is missing or short is an error and not an end.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_max_manifest_file_size(MANIFEST_BYTES_MAX);
    options.set_keep_log_file_num(DIARY_FILES);
    options.set_max_log_file_size(DIARY_FILE_BYTES);
    options.set_log_level(LogLevel::Info);
    // Numbers go to `/metrics` (see `statistics`); RocksDB need not keep a history in memory and in
    // LOG.
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

/// Options of one column family; `shared` is left out for table files that are written outside the
/// tree.
pub(super) fn family(
    config: &RocksConfig,
    family: ColumnFamily,
    shared: Option<&Shared>,
    raw_expiry: Option<&RawExpiry>,
) -> Options {
    let mut options = Options::default();
    let write_buffer = match family {
        // Short-lived: a lock and its end meet in the buffer or in the next flush, which keeps neither's value. Each
        // is an insert, so a buffer that nearly fits into the processor's cache takes them faster.
        ColumnFamily::Lock => ByteSize(config.write_buffer_size.bytes() / 16),
        // The same few keys again and again: every batch of every region writes how far it is applied. A buffer
        // that fits into the processor's cache takes them at a fraction of the time, and its flush keeps
        // one version of each.
        ColumnFamily::Raft => ByteSize(config.write_buffer_size.bytes() / 32),
        _ => config.write_buffer_size,
    };
    options.set_write_buffer_size(write_buffer.length());
    let buffers = i32::try_from(config.write_buffers_max).unwrap_or(i32::MAX);
    options.set_max_write_buffer_number(buffers);
    options.set_arena_block_size(ARENA_BLOCK_BYTES_MAX.min(write_buffer.length() / 8));
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_target_file_size_base(config.target_file_size.bytes());
    options.set_max_bytes_for_level_base(config.level_base_size.bytes());
    options.set_level_zero_slowdown_writes_trigger(
        i32::try_from(config.level0_slowdown_files).unwrap_or(i32::MAX),
    );
    options.set_level_zero_stop_writes_trigger(
        i32::try_from(config.level0_stop_files).unwrap_or(i32::MAX),
    );
    options
        .set_soft_pending_compaction_bytes_limit(config.pending_compaction_slowdown_size.length());
    options.set_hard_pending_compaction_bytes_limit(config.pending_compaction_stop_size.length());
    options.set_compression_per_level(&config.compression_per_level.map(compression));
    options.set_bottommost_compression_type(compression(config.bottommost_compression));
    options.set_block_based_table_factory(&table(config, family, shared));
    match family {
        // Nearly every question is whether a key has any record, or any that is newer.
        ColumnFamily::Write => {
            let domain = Some((|key| key.len() > TIMESTAMP_BYTES) as fn(&[u8]) -> bool);
            options.set_prefix_extractor(SliceTransform::create(
                "skerry.user-key",
                user_key,
                domain,
            ));
            options.set_memtable_prefix_bloom_ratio(BUFFER_FILTER_RATIO);
        }
        // Every reader and every writer looks for a lock, and hardly ever finds one.
        ColumnFamily::Lock => {
            options.set_memtable_whole_key_filtering(true);
            options.set_memtable_prefix_bloom_ratio(BUFFER_FILTER_RATIO);
        }
        _ => {}
    }
    if let (ColumnFamily::Raw, Some(expiry)) = (family, raw_expiry) {
        options.set_compaction_filter_factory(ExpiryFilters::new(expiry.clone()));
        options.set_periodic_compaction_seconds(RAW_REWRITE_SECONDS);
    }
    options
}

/// A key of family `write` without its timestamp: what filters of that family know.
fn user_key(key: &[u8]) -> &[u8] {
    &key[..key.len() - TIMESTAMP_BYTES]
}

/// The form of table files.
fn table(config: &RocksConfig, family: ColumnFamily, shared: Option<&Shared>) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    // What is in the filter without its timestamp need not be there again with each.
    table.set_whole_key_filtering(family != ColumnFamily::Write);
    table.set_block_size(config.block_size.length());
    if config.bloom_filter_bits > 0 {
        table.set_bloom_filter(f64::from(config.bloom_filter_bits), false);
    }
    match shared {
        Some(shared) => {
            table.set_block_cache(&shared.block_cache);
            // Indexes and filters count against the cache: otherwise every open file adds memory
            // that no setting bounds. Those of level 0 are needed by nearly every read and stay.
            table.set_cache_index_and_filter_blocks(true);
            table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        }
        None => table.disable_cache(),
    }
    table
}

fn compression(compression: Compression) -> DBCompressionType {
    match compression {
        Compression::None => DBCompressionType::None,
        Compression::Lz4 => DBCompressionType::Lz4,
        Compression::Zstd => DBCompressionType::Zstd,
    }
}
