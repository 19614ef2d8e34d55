//! What a user may set about the two engines and replication: values, reasons, limits, and the words of the
//! reference.
//!
//! The binary puts these structs into its TOML file as the sections `[rocksdb]`, `[raft-engine]` and
//! `[raftstore]`. Every struct here has the same four parts: fields with their defaults,
//! `validate` (which names the key and what is allowed), and `reference` (one [`Knob`] a field,
//! from which `docs/configuration.md` is made; a test compares its names and defaults with what is
//! really read).
//!
//! Defaults suit a laptop: caches and write buffers stay within a quarter of a gigabyte under load
//! and cost next to nothing while idle, because none of them is filled in advance.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::extent::Extent;
use crate::{Error, Result};

mod raft_reference;
#[cfg(test)]
mod tests;

/// One line of the configuration reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knob {
    /// The TOML table, such as `rocksdb`.
    pub section: &'static str,
    /// The key in that table.
    pub name: &'static str,
    /// The default as a TOML value.
    pub default: String,
    /// What it does and when to change it.
    pub description: &'static str,
}

/// A number of bytes that reads and prints like `64MiB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// Largest first, so that printing takes the first that divides.
const UNITS: [(&str, u64); 4] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl ByteSize {
    /// So many times 1,024 bytes.
    pub const fn kib(count: u64) -> ByteSize {
        ByteSize(count << 10)
    }

    /// So many times 1,048,576 bytes.
    pub const fn mib(count: u64) -> ByteSize {
        ByteSize(count << 20)
    }

    /// So many times 1,073,741,824 bytes.
    pub const fn gib(count: u64) -> ByteSize {
        ByteSize(count << 30)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The number of bytes as a length in memory.
    pub fn length(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, bytes) in UNITS {
            if self.0 > 0 && self.0.is_multiple_of(bytes) {
                return write!(formatter, "{}{unit}", self.0 / bytes);
            }
        }
        write!(formatter, "{}B", self.0)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    /// A whole number and a unit of 1,024s: `B`, `KiB`, `MiB`, `GiB`, `TiB`. Units of 1,000s are
    /// refused rather than guessed at, because `MB` means either to different people; 0 needs none.
    fn from_str(text: &str) -> std::result::Result<ByteSize, String> {
        let digits = text.len() - text.trim_start_matches(|byte: char| byte.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim_start();
        let factor = match UNITS.iter().find(|(name, _)| *name == unit) {
            Some((_, bytes)) => *bytes,
            None if unit == "B" || text == "0" => 1,
            None => return Err(format!("{text:?} is not a size; write for example \"64MiB\"")),
        };
        let number: Option<u64> = number.parse().ok();
        let bytes = number.and_then(|number| number.checked_mul(factor));
        bytes
            .map(ByteSize)
            .ok_or_else(|| format!("{text:?} is not a size; write for example \"64MiB\""))
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<ByteSize, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

/// Takes the text of a size, and numbers as if they had been written as text: 0 is one.
struct SizeVisitor;

impl de::Visitor<'_> for SizeVisitor {
    type Value = ByteSize;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a size, for example \"64MiB\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<ByteSize, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> std::result::Result<ByteSize, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> std::result::Result<ByteSize, E> {
        self.visit_str(&number.to_string())
    }
}

/// How blocks of table files are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// As they are.
    None,
    /// Fast, saves half of ordinary text.
    Lz4,
    /// Slower, saves more.
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Compression::None => "none",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        })
    }
}

/// Levels of a RocksDB tree; [`RocksConfig::compression_per_level`] has one entry for each.
pub const LEVELS: usize = 7;

/// `[rocksdb]`: the data engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RocksConfig {
    /// Uncompressed blocks of table files in memory, over all families.
    pub block_cache_size: ByteSize,
    /// Memory of one family's writes before they become a table file; `lock` and `raft` take a
    /// quarter.
    pub write_buffer_size: ByteSize,
    /// Full and filling write buffers of one family; at the limit, writers wait.
    pub write_buffers_max: u32,
    /// All write buffers of all families together.
    pub write_buffers_total_size: ByteSize,
    /// Table files held open.
    pub open_files_max: u32,
    /// Threads for flush and compaction.
    pub background_jobs_max: u32,
    /// By distance from the newest: entry 0 is level 0, entry 1 the first level below it in use,
    /// and so on.
    pub compression_per_level: [Compression; LEVELS],
    /// Of the last level, where most of the data lies.
    pub bottommost_compression: Compression,
    /// Unit of reading, compression and caching.
    pub block_size: ByteSize,
    /// Bits of Bloom filter for every key; 0 for none.
    pub bloom_filter_bits: u32,
    /// Size at which compaction begins a new table file.
    pub target_file_size: ByteSize,
    /// Size of the first level below level 0; each further one is ten times larger.
    pub level_base_size: ByteSize,
    /// Files in level 0 at which writers are slowed down.
    pub level0_slowdown_files: u32,
    /// Files in level 0 at which writers stop.
    pub level0_stop_files: u32,
    /// Compaction debt at which writers are slowed down.
    pub pending_compaction_slowdown_size: ByteSize,
    /// Compaction debt at which writers stop.
    pub pending_compaction_stop_size: ByteSize,
    /// Table files are handed to the disk in steps of this size while they are written.
    pub bytes_per_sync: ByteSize,
    /// The same for the write-ahead log.
    pub wal_bytes_per_sync: ByteSize,
    /// Write-ahead logs in all; beyond it the family that holds the oldest is flushed.
    pub wal_total_size_max: ByteSize,
}

impl Default for RocksConfig {
    fn default() -> RocksConfig {
        use Compression::{Lz4, None};
        RocksConfig {
            block_cache_size: ByteSize::mib(128),
            write_buffer_size: ByteSize::mib(32),
            write_buffers_max: 4,
            write_buffers_total_size: ByteSize::mib(128),
            open_files_max: 512,
            background_jobs_max: 2,
            compression_per_level: [None, None, Lz4, Lz4, Lz4, Lz4, Lz4],
            bottommost_compression: Lz4,
            block_size: ByteSize::kib(16),
            bloom_filter_bits: 10,
            target_file_size: ByteSize::mib(16),
            level_base_size: ByteSize::mib(128),
            level0_slowdown_files: 20,
            level0_stop_files: 36,
            pending_compaction_slowdown_size: ByteSize::gib(64),
            pending_compaction_stop_size: ByteSize::gib(256),
            bytes_per_sync: ByteSize::mib(1),
            wal_bytes_per_sync: ByteSize::kib(512),
            wal_total_size_max: ByteSize::mib(256),
        }
    }
}

impl RocksConfig {
    /// The TOML table.
    pub const SECTION: &'static str = "rocksdb";

    /// For an engine that holds little and is read seldom, such as the scheduler's own.
    pub fn small() -> RocksConfig {
        RocksConfig {
            block_cache_size: ByteSize::mib(4),
            write_buffer_size: ByteSize::mib(1),
            write_buffers_total_size: ByteSize::mib(4),
            open_files_max: 64,
            target_file_size: ByteSize::mib(4),
            level_base_size: ByteSize::mib(8),
            wal_total_size_max: ByteSize::mib(8),
            ..RocksConfig::default()
        }
    }

    /// Refuses what RocksDB would refuse, misunderstand or die of, with the key and what is
    /// allowed.
    pub fn validate(&self) -> Result<()> {
        let check = Check { section: Self::SECTION };
        let tebibyte = ByteSize::gib(1024);
        check.within("block-cache-size", self.block_cache_size, ByteSize::mib(1)..=tebibyte)?;
        let buffer = ByteSize::kib(256)..=ByteSize::gib(1);
        check.within("write-buffer-size", self.write_buffer_size, buffer)?;
        check.within("write-buffers-max", self.write_buffers_max, 2..=32)?;
        let total = self.write_buffer_size..=tebibyte;
        check.within("write-buffers-total-size", self.write_buffers_total_size, total)?;
        check.within("open-files-max", self.open_files_max, 32..=1_000_000)?;
        check.within("background-jobs-max", self.background_jobs_max, 2..=64)?;
        check.within("block-size", self.block_size, ByteSize::kib(1)..=ByteSize::mib(1))?;
        check.within("bloom-filter-bits", self.bloom_filter_bits, 0..=20)?;
        let file = ByteSize::mib(1)..=ByteSize::gib(1);
        check.within("target-file-size", self.target_file_size, file)?;
        let level = self.target_file_size..=tebibyte;
        check.within("level-base-size", self.level_base_size, level)?;
        check.within("level0-slowdown-files", self.level0_slowdown_files, 4..=1_000)?;
        let stop = self.level0_slowdown_files..=1_000;
        check.within("level0-stop-files", self.level0_stop_files, stop)?;
        let slowdown = self.pending_compaction_slowdown_size;
        let debt = ByteSize::gib(1)..=tebibyte;
        check.within("pending-compaction-slowdown-size", slowdown, debt)?;
        let stop = self.pending_compaction_stop_size;
        check.within("pending-compaction-stop-size", stop, slowdown..=tebibyte)?;
        let step = ByteSize(0)..=ByteSize::gib(1);
        check.within("bytes-per-sync", self.bytes_per_sync, step.clone())?;
        check.within("wal-bytes-per-sync", self.wal_bytes_per_sync, step)?;
        let logs = self.write_buffer_size..=tebibyte;
        check.within("wal-total-size-max", self.wal_total_size_max, logs)
    }

    /// One line for every field, in order.
    pub fn reference() -> Vec<Knob> {
        let default = RocksConfig::default();
        let levels: Vec<String> = default.compression_per_level.iter().map(quoted).collect();
        let knob = |name, default, description| Knob {
            section: Self::SECTION,
            name,
            default,
            description,
        };
        vec![
            knob("block-cache-size", quoted(default.block_cache_size), CACHE),
            knob("write-buffer-size", quoted(default.write_buffer_size), BUFFER),
            knob("write-buffers-max", default.write_buffers_max.to_string(), BUFFERS),
            knob("write-buffers-total-size", quoted(default.write_buffers_total_size), TOTAL),
            knob("open-files-max", default.open_files_max.to_string(), OPEN_FILES),
            knob("background-jobs-max", default.background_jobs_max.to_string(), JOBS),
            knob("compression-per-level", format!("[{}]", levels.join(", ")), LEVEL_COMPRESSION),
            knob("bottommost-compression", quoted(default.bottommost_compression), BOTTOMMOST),
            knob("block-size", quoted(default.block_size), BLOCK),
            knob("bloom-filter-bits", default.bloom_filter_bits.to_string(), BLOOM),
            knob("target-file-size", quoted(default.target_file_size), TARGET),
            knob("level-base-size", quoted(default.level_base_size), BASE),
            knob("level0-slowdown-files", default.level0_slowdown_files.to_string(), SLOWDOWN),
            knob("level0-stop-files", default.level0_stop_files.to_string(), STOP),
            knob(
                "pending-compaction-slowdown-size",
                quoted(default.pending_compaction_slowdown_size),
                DEBT_SLOWDOWN,
            ),
            knob(
                "pending-compaction-stop-size",
                quoted(default.pending_compaction_stop_size),
                DEBT_STOP,
            ),
            knob("bytes-per-sync", quoted(default.bytes_per_sync), FILE_STEP),
            knob("wal-bytes-per-sync", quoted(default.wal_bytes_per_sync), WAL_STEP),
            knob("wal-total-size-max", quoted(default.wal_total_size_max), WAL_TOTAL),
        ]
    }
}

const CACHE: &str = "Memory for blocks read from table files, shared by all column families. It \
    grows with use. The first thing to raise when there is memory to spare.";
const BUFFER: &str = "Memory for the newest writes of one column family (`default`, `write` and \
    `raw`; `lock` takes a quarter, `raft` a thirty-second). When it is full it becomes a table file.";
const BUFFERS: &str = "How many write buffers a column family may have, the one being filled \
    included. Writers wait when all others are still being written out.";
const TOTAL: &str = "Memory for all write buffers of all column families. Near it the largest is \
    written out early. At least `write-buffer-size`.";
const OPEN_FILES: &str = "Table files kept open. The server lowers it when the limit of the \
    operating system leaves less.";
const JOBS: &str = "Threads that write buffers out and merge table files.";
const LEVEL_COMPRESSION: &str = "Compression by level: `none`, `lz4` or `zstd`. The first entry \
    is for level 0, the second for the first level below it that is in use.";
const BOTTOMMOST: &str = "Compression of the last level, where most of the data lies. `zstd` \
    saves disk for more processor time.";
const BLOCK: &str = "Unit in which table files are read, compressed and cached.";
const BLOOM: &str = "Bits of Bloom filter for each key, in `write` for all its versions together; \
    they save disk reads for keys that are not there. 0 turns the filters off.";
const TARGET: &str = "Size at which merging begins a new table file.";
const BASE: &str =
    "Size of the first level below level 0. Each level is ten times the one above it.";
const SLOWDOWN: &str =
    "Files in level 0 of one column family from which on writers are slowed down.";
const STOP: &str = "Files in level 0 of one column family from which on writers wait. At least \
    `level0-slowdown-files`.";
const DEBT_SLOWDOWN: &str = "Bytes waiting to be merged from which on writers are slowed down.";
const DEBT_STOP: &str = "Bytes waiting to be merged from which on writers wait. At least \
    `pending-compaction-slowdown-size`.";
const FILE_STEP: &str = "Table files are passed to the disk in steps of this size while they are \
    written, which smooths the load. 0 leaves it to the operating system.";
const WAL_STEP: &str = "The same for the write-ahead log. It does not make a write durable.";
const WAL_TOTAL: &str = "Size of all write-ahead logs, and so of what a start has to read again. \
    At least `write-buffer-size`.";

/// `[raft-engine]`: the raft log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RaftEngineConfig {
    /// Whether the log lives in raft-engine; otherwise in a RocksDB of its own.
    pub enable: bool,
    /// Size of all log files at which old ones are cleared.
    pub purge_threshold: ByteSize,
    /// Size at which a new log file is begun.
    pub target_file_size: ByteSize,
    /// Threads that read the log at start.
    pub recovery_threads: u32,
    /// Batches above it are compressed; 0 for none.
    pub batch_compression_threshold: ByteSize,
}

impl Default for RaftEngineConfig {
    fn default() -> RaftEngineConfig {
        RaftEngineConfig {
            enable: true,
            purge_threshold: ByteSize::mib(512),
            target_file_size: ByteSize::mib(32),
            recovery_threads: 2,
            batch_compression_threshold: ByteSize::kib(8),
        }
    }
}

impl RaftEngineConfig {
    /// The TOML table.
    pub const SECTION: &'static str = "raft-engine";

    /// Refuses what cannot work, with the key and what is allowed.
    pub fn validate(&self) -> Result<()> {
        let check = Check { section: Self::SECTION };
        let file = ByteSize::kib(64)..=ByteSize::gib(4);
        check.within("target-file-size", self.target_file_size, file)?;
        // Purging needs at least one file besides the one being written.
        let purge = ByteSize(self.target_file_size.bytes() * 2)..=ByteSize::gib(1024);
        check.within("purge-threshold", self.purge_threshold, purge)?;
        check.within("recovery-threads", self.recovery_threads, 1..=64)?;
        let batch = ByteSize(0)..=ByteSize::gib(1);
        check.within("batch-compression-threshold", self.batch_compression_threshold, batch)
    }

    /// One line for every field, in order.
    pub fn reference() -> Vec<Knob> {
        let default = RaftEngineConfig::default();
        let knob = |name, default, description| Knob {
            section: Self::SECTION,
            name,
            default,
            description,
        };
        vec![
            knob("enable", default.enable.to_string(), ENABLE),
            knob("purge-threshold", quoted(default.purge_threshold), PURGE),
            knob("target-file-size", quoted(default.target_file_size), LOG_FILE),
            knob("recovery-threads", default.recovery_threads.to_string(), RECOVERY),
            knob(
                "batch-compression-threshold",
                quoted(default.batch_compression_threshold),
                LOG_COMPRESSION,
            ),
        ]
    }
}

const ENABLE: &str = "Keep the raft log in raft-engine. `false` keeps it in a RocksDB of its own.";
const PURGE: &str = "Size of the log files at which old ones are cleared; regions that hold them \
    back are compacted. At least twice `target-file-size`.";
const LOG_FILE: &str = "Size at which a new log file is begun.";
const RECOVERY: &str = "Threads that read the log when the store starts.";
const LOG_COMPRESSION: &str = "Batches of log entries above this size are compressed with lz4. 0 \
    turns it off.";

/// `[raftstore]`: replication. Times are in ticks, so that a simulator can turn them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RaftConfig {
    /// Milliseconds of a tick.
    pub tick_ms: u64,
    /// Ticks between a leader's heartbeats.
    pub heartbeat_ticks: usize,
    /// Silence after which a follower seeks election, at least; at most twice that.
    pub election_ticks: usize,
    /// Raft workers; 0 for what fits the machine.
    pub workers: usize,
    /// Apply workers; 0 for what fits the machine.
    pub apply_workers: usize,
    /// Messages that an actor takes at a time.
    pub batch_messages_max: usize,
    /// Messages of other stores that wait for a raft worker, in bytes.
    pub messages_waiting_size_max: ByteSize,
    /// Entries of a raft worker on their way to the raft log, in bytes.
    pub log_waiting_size_max: ByteSize,
    /// Entries of a raft worker on their way to the data engine, in bytes.
    pub apply_waiting_size_max: ByteSize,
    /// Largest entry of the log; a larger write is refused. The binary sets it to what clients may write
    /// (`storage.entry-size-max`), so a file cannot.
    #[serde(skip)]
    pub entry_size_max: ByteSize,
    /// Entries that a raft message carries, in bytes.
    pub message_size_max: ByteSize,
    /// Appends to a follower that may be on their way.
    pub inflight_messages_max: usize,
    /// Entries that are handed to apply at a time, in bytes.
    pub apply_size_max: ByteSize,
    /// Entries of one region kept in memory, in bytes.
    pub entry_cache_size: ByteSize,
    /// Ticks between looks at the log's length.
    pub log_gc_ticks: u64,
    /// Ticks between looks for files of the log that hold nothing any more.
    pub log_purge_ticks: u64,
    /// Entries that everybody has before the log is cut.
    pub log_gc_threshold: u64,
    /// Entries at which the log is cut although a follower still needs them.
    pub log_gc_count_max: u64,
    /// Bytes written to a region before its size is looked at.
    pub split_check_size: ByteSize,
    /// Size of the parts into which a region is cut.
    pub split_size: ByteSize,
    /// Size above which a region is cut.
    pub region_size_max: ByteSize,
    /// Commit records of the parts into which a region is cut that has too many of them.
    pub split_keys: u64,
    /// Commit records above which a region is cut.
    pub region_keys_max: u64,
    /// Whether the right part of a cut region keeps its id.
    pub right_derive: bool,
    /// Ticks a read may wait before it is refused.
    pub read_wait_ticks: u64,
    /// Ticks after which a write is answered as unknown if its replica leads no more in the term of the proposal.
    pub unknown_after_ticks: u64,
    /// Ticks without a leader after which a replica asks whether it still belongs.
    pub stale_peer_ticks: u64,
    /// Ticks between reports to the scheduler.
    pub report_ticks: u64,
    /// Ticks without reads and writes after which a region's replicas fall asleep; 0: never.
    pub hibernate_after_ticks: u64,
    /// Snapshots that are built at once; each holds a view.
    pub snapshot_generating_max: usize,
    /// Snapshots on their way to other stores.
    pub snapshot_sending_max: usize,
    /// Snapshots on their way here.
    pub snapshot_receiving_max: usize,
    /// Snapshots that are loaded into the data engine at once.
    pub snapshot_applying_max: usize,
    /// Bytes of snapshots that are built in a second, that are sent, and that are received; 0 for no limit.
    pub snapshot_bytes_per_second: ByteSize,
    /// Ticks between looks for files of snapshots that nobody needs.
    pub snapshot_collect_ticks: u64,
    /// Ticks for which files are kept that a message or a follower may still want.
    pub snapshot_keep_ticks: u64,
}

impl Default for RaftConfig {
    fn default() -> RaftConfig {
        RaftConfig {
            tick_ms: 100,
            heartbeat_ticks: 2,
            election_ticks: 10,
            workers: 0,
            apply_workers: 0,
            batch_messages_max: 256,
            messages_waiting_size_max: ByteSize::mib(64),
            log_waiting_size_max: ByteSize::mib(64),
            apply_waiting_size_max: ByteSize::mib(64),
            entry_size_max: ByteSize::mib(8),
            message_size_max: ByteSize::mib(1),
            inflight_messages_max: 256,
            apply_size_max: ByteSize::mib(16),
            entry_cache_size: ByteSize::mib(4),
            log_gc_ticks: 30,
            log_purge_ticks: 100,
            log_gc_threshold: 50,
            log_gc_count_max: 72_000,
            split_check_size: ByteSize::mib(6),
            split_size: ByteSize::mib(96),
            region_size_max: ByteSize::mib(144),
            split_keys: 960_000,
            region_keys_max: 1_440_000,
            right_derive: true,
            read_wait_ticks: 50,
            unknown_after_ticks: 50,
            stale_peer_ticks: 600,
            report_ticks: 600,
            hibernate_after_ticks: 10,
            snapshot_generating_max: 2,
            snapshot_sending_max: 8,
            snapshot_receiving_max: 8,
            snapshot_applying_max: 2,
            snapshot_bytes_per_second: ByteSize::mib(100),
            snapshot_collect_ticks: 300,
            snapshot_keep_ticks: 6_000,
        }
    }
}

impl RaftConfig {
    /// The TOML table.
    pub const SECTION: &'static str = "raftstore";

    /// How long a leader may answer reads after a round of its followers' answers: less than the shortest
    /// silence after which one of them seeks election, with a tenth to spare for clocks that drift.
    pub fn lease(&self) -> std::time::Duration {
        let ticks = u64::try_from(self.election_ticks - 1).expect("a small number");
        std::time::Duration::from_millis(ticks * self.tick_ms * 9 / 10)
    }

    /// Whether a region of this extent should be cut.
    pub fn is_large(&self, extent: Extent) -> bool {
        extent.bytes > self.region_size_max.bytes() || extent.records > self.region_keys_max
    }

    /// With numbers of workers that fit so many cores, where none are set. Below four cores a second worker of a
    /// kind only makes batches smaller and wake-ups more frequent.
    pub fn for_cores(mut self, cores: usize) -> RaftConfig {
        let fitting = if cores < 4 { 1 } else { 2 };
        for workers in [&mut self.workers, &mut self.apply_workers] {
            *workers = if *workers == 0 { fitting } else { *workers };
        }
        self
    }

    /// Refuses what cannot work, with the key and what is allowed.
    pub fn validate(&self) -> Result<()> {
        let check = Check { section: Self::SECTION };
        check.within("tick-ms", self.tick_ms, 10..=10_000)?;
        check.within("heartbeat-ticks", self.heartbeat_ticks, 1..=100)?;
        check.within("election-ticks", self.election_ticks, 3 * self.heartbeat_ticks..=1_000)?;
        check.within("workers", self.workers, 0..=64)?;
        check.within("apply-workers", self.apply_workers, 0..=64)?;
        check.within("batch-messages-max", self.batch_messages_max, 1..=65_536)?;
        let waiting = self.message_size_max..=ByteSize::gib(64);
        check.within("messages-waiting-size-max", self.messages_waiting_size_max, waiting)?;
        let waiting = ByteSize::kib(1)..=ByteSize::gib(64);
        check.within("log-waiting-size-max", self.log_waiting_size_max, waiting.clone())?;
        check.within("apply-waiting-size-max", self.apply_waiting_size_max, waiting)?;
        check.within(
            "entry-size-max",
            self.entry_size_max,
            ByteSize::kib(1)..=ByteSize::mib(512),
        )?;
        check.within("message-size-max", self.message_size_max, ByteSize(1)..=ByteSize::mib(32))?;
        check.within("inflight-messages-max", self.inflight_messages_max, 1..=16_384)?;
        check.within("log-gc-ticks", self.log_gc_ticks, 1..=1_000_000)?;
        check.within("log-purge-ticks", self.log_purge_ticks, 1..=1_000_000)?;
        check.within("log-gc-threshold", self.log_gc_threshold, 1..=1_000_000)?;
        let counts = self.log_gc_threshold..=1_000_000_000;
        check.within("log-gc-count-max", self.log_gc_count_max, counts)?;
        let sizes = self.split_size..=ByteSize::gib(64);
        check.within("region-size-max", self.region_size_max, sizes)?;
        check.within("split-size", self.split_size, ByteSize(1)..=ByteSize::gib(64))?;
        check.within("split-keys", self.split_keys, 1..=1_000_000_000)?;
        let keys = self.split_keys.max(2)..=1_000_000_000;
        check.within("region-keys-max", self.region_keys_max, keys)?;
        check.within("read-wait-ticks", self.read_wait_ticks, 1..=1_000_000)?;
        check.within("unknown-after-ticks", self.unknown_after_ticks, 1..=1_000_000)?;
        check.within("stale-peer-ticks", self.stale_peer_ticks, 20..=10_000_000)?;
        check.within("report-ticks", self.report_ticks, 1..=1_000_000)?;
        check.within("hibernate-after-ticks", self.hibernate_after_ticks, 0..=1_000_000)?;
        check.within("snapshot-generating-max", self.snapshot_generating_max, 1..=1_024)?;
        check.within("snapshot-sending-max", self.snapshot_sending_max, 1..=1_024)?;
        check.within("snapshot-receiving-max", self.snapshot_receiving_max, 1..=1_024)?;
        check.within("snapshot-applying-max", self.snapshot_applying_max, 1..=1_024)?;
        let rate = ByteSize(0)..=ByteSize::gib(1_024);
        check.within("snapshot-bytes-per-second", self.snapshot_bytes_per_second, rate)?;
        check.within("snapshot-collect-ticks", self.snapshot_collect_ticks, 1..=1_000_000)?;
        check.within("snapshot-keep-ticks", self.snapshot_keep_ticks, 10..=10_000_000)
    }
}

/// Compares values with their limits and words the refusal.
struct Check {
    section: &'static str,
}

impl Check {
    fn within<T: PartialOrd + fmt::Display>(
        &self,
        name: &str,
        value: T,
        allowed: RangeInclusive<T>,
    ) -> Result<()> {
        if allowed.contains(&value) {
            return Ok(());
        }
        let (section, low, high) = (self.section, allowed.start(), allowed.end());
        Err(Error::Config(format!("{section}.{name} is {value}; allowed is from {low} to {high}")))
    }
}

/// A TOML string.
fn quoted(value: impl fmt::Display) -> String {
    format!("\"{value}\"")
}
