//! The sections that belong to the binary: `[log]`, `[server]` and `[storage]`.
//!
//! Those of the engines and of the scheduler stand beside what they configure.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use skerry_raftstore::config::{ByteSize, Knob};

use crate::logging::LogConfig;
use crate::raw::RawLimits;
use crate::storage::LocalLimits;
use crate::txn::TxnLimits;

/// Whether answers are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnswerCompression {
    /// As they are.
    #[default]
    None,
    /// With gzip, for clients that accept it.
    Gzip,
}

/// `[server]`: the gRPC and status servers of a store, and its talk with the scheduler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Where clients are answered.
    pub addr: String,
    /// Where clients are told to come; empty is `addr`.
    pub advertise_addr: String,
    /// Where `/metrics`, `/status` and `/config` are answered.
    pub status_addr: String,
    /// The schedulers, separated by commas.
    pub scheduler_addr: String,
    /// Whether answers are compressed.
    pub answer_compression: AnswerCompression,
    /// The longest request.
    pub request_size_max: ByteSize,
    /// All long requests that are arriving or being served.
    pub requests_in_flight_size_max: ByteSize,
    /// Requests that one connection may have open at a time.
    pub streams_per_connection_max: u32,
    /// Seconds of silence after which the server asks whether a client is still there.
    pub keepalive_interval_s: u32,
    /// Seconds a client has to answer that.
    pub keepalive_timeout_s: u32,
    /// Threads that serve requests; 0 is one a core, at most four.
    pub worker_threads: u32,
    /// How long a stop waits for requests that are being served.
    pub stop_timeout_ms: u32,
    /// How often the store tells the scheduler that it is alive.
    pub store_heartbeat_interval_ms: u32,
    /// How often the store tells the scheduler about each region, if nothing changed.
    pub region_heartbeat_interval_ms: u32,
}

impl Default for ServerConfig {
    fn default() -> ServerConfig {
        ServerConfig {
            addr: "127.0.0.1:20160".to_string(),
            advertise_addr: String::new(),
            status_addr: "127.0.0.1:20180".to_string(),
            scheduler_addr: "127.0.0.1:2379".to_string(),
            answer_compression: AnswerCompression::None,
            request_size_max: ByteSize::mib(64),
            requests_in_flight_size_max: ByteSize::mib(256),
            streams_per_connection_max: 1_024,
            keepalive_interval_s: 60,
            keepalive_timeout_s: 20,
            worker_threads: 0,
            stop_timeout_ms: 5_000,
            store_heartbeat_interval_ms: 3_000,
            region_heartbeat_interval_ms: 10_000,
        }
    }
}

impl ServerConfig {
    /// The schedulers, one by one.
    pub fn schedulers(&self) -> Vec<String> {
        self.scheduler_addr.split(',').map(|address| address.trim().to_string()).collect()
    }

    /// Where clients are told to come.
    pub fn advertised(&self) -> &str {
        if self.advertise_addr.is_empty() { &self.addr } else { &self.advertise_addr }
    }

    /// What is wrong with these values, each as a sentence.
    pub fn problems(&self) -> Vec<String> {
        let mut check = Check { section: "server", problems: Vec::new() };
        check.address("addr", &self.addr);
        check.address("status-addr", &self.status_addr);
        if !self.advertise_addr.is_empty() {
            check.address("advertise-addr", &self.advertise_addr);
        }
        for address in self.schedulers() {
            check.address("scheduler-addr", &address);
        }
        let advertised = self.advertised();
        if advertised.starts_with("0.0.0.0:") || advertised.starts_with("[::]:") {
            check.problems.push(format!(
                "server.advertise-addr: clients cannot connect to {advertised}; name the address by which \
                 they reach this machine"
            ));
        }
        let request = self.request_size_max;
        check.within("request-size-max", request, ByteSize::mib(1)..=ByteSize::gib(1));
        let in_flight = self.requests_in_flight_size_max;
        check.within("requests-in-flight-size-max", in_flight, request..=ByteSize::gib(1_024));
        let streams = self.streams_per_connection_max;
        check.within("streams-per-connection-max", streams, 1..=100_000);
        check.within("keepalive-interval-s", self.keepalive_interval_s, 1..=86_400);
        check.within("keepalive-timeout-s", self.keepalive_timeout_s, 1..=86_400);
        check.within("worker-threads", self.worker_threads, 0..=1_024);
        check.within("stop-timeout-ms", self.stop_timeout_ms, 0..=600_000);
        // The scheduler takes a store for disconnected after 20 s without a heartbeat.
        let store = self.store_heartbeat_interval_ms;
        check.within("store-heartbeat-interval-ms", store, 100..=10_000);
        let region = self.region_heartbeat_interval_ms;
        check.within("region-heartbeat-interval-ms", region, 100..=60_000);
        check.problems
    }

    /// One line for every field, in order.
    pub fn reference() -> Vec<Knob> {
        let default = ServerConfig::default();
        let knob =
            |name, default, description| Knob { section: "server", name, default, description };
        vec![
            knob("addr", quoted(&default.addr), ADDR),
            knob("advertise-addr", quoted(&default.advertise_addr), ADVERTISE_ADDR),
            knob("status-addr", quoted(&default.status_addr), STATUS_ADDR),
            knob("scheduler-addr", quoted(&default.scheduler_addr), SCHEDULER_ADDR),
            knob("answer-compression", quoted("none"), ANSWER_COMPRESSION),
            knob("request-size-max", quoted(default.request_size_max), REQUEST_SIZE),
            knob(
                "requests-in-flight-size-max",
                quoted(default.requests_in_flight_size_max),
                IN_FLIGHT,
            ),
            knob(
                "streams-per-connection-max",
                default.streams_per_connection_max.to_string(),
                STREAMS_PER_CONNECTION,
            ),
            knob(
                "keepalive-interval-s",
                default.keepalive_interval_s.to_string(),
                KEEPALIVE_INTERVAL,
            ),
            knob("keepalive-timeout-s", default.keepalive_timeout_s.to_string(), KEEPALIVE_TIMEOUT),
            knob("worker-threads", default.worker_threads.to_string(), WORKER_THREADS),
            knob("stop-timeout-ms", default.stop_timeout_ms.to_string(), STOP_TIMEOUT),
            knob(
                "store-heartbeat-interval-ms",
                default.store_heartbeat_interval_ms.to_string(),
                STORE_HEARTBEAT,
            ),
            knob(
                "region-heartbeat-interval-ms",
                default.region_heartbeat_interval_ms.to_string(),
                REGION_HEARTBEAT,
            ),
        ]
    }
}

const ADDR: &str = "Where the store answers clients, `HOST:PORT`. Flags: `--addr` of `skerry server`, \
    `--store-addr` of `skerry playground`.";
const ADVERTISE_ADDR: &str = "Where clients are told to come, if that is not `addr`: behind a translated \
    address, or when `addr` is `0.0.0.0`. Empty means `addr`. Flag: `--advertise-addr`.";
const STATUS_ADDR: &str = "Where `/metrics`, `/status` and `/config` are answered over HTTP. Flag: \
    `--status-addr`.";
const SCHEDULER_ADDR: &str = "The schedulers, `HOST:PORT`, several separated by commas. A playground \
    starts its own and listens on it. Flag: `--scheduler-addr`.";
const ANSWER_COMPRESSION: &str = "`gzip` compresses answers to clients that accept it, for slow networks. \
    Requests may be compressed either way.";
const REQUEST_SIZE: &str = "The longest request; longer ones are refused before memory is reserved for \
    them. Compressed requests must fit unpacked.";
const IN_FLIGHT: &str = "Memory for all requests above 64 KiB that are arriving or being served, and as \
    much again for commands that come through streams of many; further ones wait. At least `request-size-max`.";
const STREAMS_PER_CONNECTION: &str = "Requests that one connection may have open at a time; further ones \
    wait at the client.";
const KEEPALIVE_INTERVAL: &str = "Seconds of silence on a connection after which the server asks whether \
    the client is still there.";
const KEEPALIVE_TIMEOUT: &str =
    "Seconds a client has to answer that before its connection is closed.";
const WORKER_THREADS: &str =
    "Threads that serve requests. 0 means one for each core, at most four.";
const STOP_TIMEOUT: &str = "How long a stop waits for requests that are being served, in milliseconds; \
    afterwards they are cut off.";
const STORE_HEARTBEAT: &str = "How often the store tells the scheduler that it is alive. The scheduler \
    takes it for disconnected after 20 seconds.";
const REGION_HEARTBEAT: &str = "How often the store tells the scheduler about each of its regions when \
    nothing has changed; changes are told at once. Of a replicated store's regions those that are awake.";

/// `[storage]`: where data lies and what clients may store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct StorageConfig {
    /// The directory under which every process has its own.
    pub data_dir: String,
    /// 1 or 2; fixed when the store is made.
    pub api_version: u32,
    /// The longest key.
    pub key_size_max: ByteSize,
    /// Keys and values of one write request.
    pub entry_size_max: ByteSize,
    /// Keys and values of one answer.
    pub reply_size_max: ByteSize,
    /// Threads for large reads.
    pub read_threads: u32,
    /// Large reads that are accepted at a time.
    pub pending_reads_max: u32,
    /// Writes that are accepted at a time.
    pub pending_writes_max: u32,
    /// Keys and values of those writes.
    pub pending_writes_size_max: ByteSize,
    /// Keys and values after which no further write shares a sync.
    pub merged_writes_size_max: ByteSize,
    /// How long a lock request waits for another transaction.
    pub lock_wait_ms: u32,
}

impl Default for StorageConfig {
    fn default() -> StorageConfig {
        StorageConfig {
            data_dir: "./data".to_string(),
            api_version: 1,
            key_size_max: ByteSize::kib(8),
            entry_size_max: ByteSize::mib(8),
            reply_size_max: ByteSize::mib(64),
            read_threads: 2,
            pending_reads_max: 1_024,
            pending_writes_max: 4_096,
            pending_writes_size_max: ByteSize::mib(64),
            merged_writes_size_max: ByteSize::mib(4),
            lock_wait_ms: 1_000,
        }
    }
}

impl StorageConfig {
    /// What a standalone storage may hold at a time.
    pub fn local_limits(&self) -> LocalLimits {
        LocalLimits {
            pending_commands_max: self.pending_writes_max as usize,
            pending_bytes_max: self.pending_writes_size_max.length(),
            merged_bytes_max: self.merged_writes_size_max.length(),
            entry_bytes_max: self.entry_size_max.length(),
        }
    }

    /// What one raw request may ask for.
    pub fn raw_limits(&self) -> RawLimits {
        RawLimits {
            key_bytes_max: self.key_size_max.length(),
            reply_bytes_max: self.reply_size_max.length(),
            read_threads: self.read_threads as usize,
            pending_reads_max: self.pending_reads_max as usize,
        }
    }

    /// Of transactional requests.
    pub fn txn_limits(&self) -> TxnLimits {
        TxnLimits {
            key_bytes_max: self.key_size_max.length(),
            reply_bytes_max: self.reply_size_max.length(),
            lock_wait: Duration::from_millis(self.lock_wait_ms.into()),
        }
    }

    /// What is wrong with these values, each as a sentence.
    pub fn problems(&self) -> Vec<String> {
        let mut check = Check { section: "storage", problems: Vec::new() };
        if self.data_dir.is_empty() {
            check.problems.push("storage.data-dir is empty; name a directory".to_string());
        }
        check.within("api-version", self.api_version, 1..=2);
        let key = ByteSize(64)..=ByteSize::kib(64);
        check.within("key-size-max", self.key_size_max, key);
        let entry = ByteSize::mib(1)..=ByteSize::mib(512);
        check.within("entry-size-max", self.entry_size_max, entry);
        let reply = ByteSize::mib(1)..=ByteSize::gib(1);
        check.within("reply-size-max", self.reply_size_max, reply);
        check.within("read-threads", self.read_threads, 1..=256);
        check.within("pending-reads-max", self.pending_reads_max, 1..=1_000_000);
        check.within("pending-writes-max", self.pending_writes_max, 1..=1_000_000);
        let pending = self.entry_size_max..=ByteSize::gib(64);
        check.within("pending-writes-size-max", self.pending_writes_size_max, pending);
        let merged = ByteSize(1)..=ByteSize::gib(1);
        check.within("merged-writes-size-max", self.merged_writes_size_max, merged);
        check.within("lock-wait-ms", self.lock_wait_ms, 1..=60_000);
        check.problems
    }

    /// One line for every field, in order.
    pub fn reference() -> Vec<Knob> {
        let default = StorageConfig::default();
        let knob =
            |name, default, description| Knob { section: "storage", name, default, description };
        let merged = default.merged_writes_size_max;
        vec![
            knob("data-dir", quoted(&default.data_dir), DATA_DIR),
            knob("api-version", default.api_version.to_string(), API_VERSION),
            knob("key-size-max", quoted(default.key_size_max), KEY_SIZE),
            knob("entry-size-max", quoted(default.entry_size_max), ENTRY_SIZE),
            knob("reply-size-max", quoted(default.reply_size_max), REPLY_SIZE),
            knob("read-threads", default.read_threads.to_string(), READ_THREADS),
            knob("pending-reads-max", default.pending_reads_max.to_string(), PENDING_READS),
            knob("pending-writes-max", default.pending_writes_max.to_string(), PENDING_WRITES),
            knob("pending-writes-size-max", quoted(default.pending_writes_size_max), PENDING_SIZE),
            knob("merged-writes-size-max", quoted(merged), MERGED_SIZE),
            knob("lock-wait-ms", default.lock_wait_ms.to_string(), LOCK_WAIT),
        ]
    }
}

const DATA_DIR: &str = "The directory under which a scheduler keeps its data in `scheduler` and a store in \
    `store-1`. Flag: `--data-dir`, which for `skerry server` and `skerry scheduler` names that inner \
    directory itself.";
const API_VERSION: &str = "1 (keys as clients send them) or 2 (keys begin with a keyspace). Fixed when the \
    store is made: another value is refused later. Flag: `--api-version`.";
const KEY_SIZE: &str = "The longest key; longer ones are refused.";
const ENTRY_SIZE: &str = "Keys and values of one write request, and so the longest value; larger requests \
    are refused.";
const REPLY_SIZE: &str = "Keys and values of one answer; a larger one is refused, never cut.";
const READ_THREADS: &str = "Threads for scans, checksums and large batches. Reads of a few keys do not need \
    them.";
const PENDING_READS: &str = "How many such reads are accepted at a time; further ones wait.";
const PENDING_WRITES: &str = "How many writes are accepted at a time; further ones wait.";
const PENDING_SIZE: &str = "Keys and values of all writes that are accepted; further ones wait. At least \
    `entry-size-max`.";
const LOCK_WAIT: &str = "How long a request for a lock waits at most while another transaction has it, however long \
    its client would. Then the client is told, looks whether the other one lives, and asks again where the region is \
    led by then.";
const MERGED_SIZE: &str = "Writes that wait at the same time share one sync of the disk, up to this many \
    bytes of keys and values.";

/// One line for every field of `[log]`, in order.
pub fn log_reference() -> Vec<Knob> {
    let default = LogConfig::default();
    let knob = |name, default, description| Knob { section: "log", name, default, description };
    vec![
        knob("level", quoted("info"), LEVEL),
        knob("format", quoted("text"), FORMAT),
        knob("redact", default.redact.to_string(), REDACT),
    ]
}

const LEVEL: &str = "The least important line that is written: `error`, `warn`, `info` or `debug`. A \
    playground takes `warn` unless this or `--log-level` is given.";
const FORMAT: &str = "`text` for people or `json` for machines, one object a line.";
const REDACT: &str = "Hides keys and values of users, who may not want them in a log. Turn it off only to \
    look for a fault.";

/// Collects what is wrong with the values of one section.
struct Check {
    section: &'static str,
    problems: Vec<String>,
}

impl Check {
    fn within<T: PartialOrd + Display>(
        &mut self,
        name: &str,
        value: T,
        allowed: RangeInclusive<T>,
    ) {
        if !allowed.contains(&value) {
            let (section, low, high) = (self.section, allowed.start(), allowed.end());
            self.problems
                .push(format!("{section}.{name} is {value}; allowed is from {low} to {high}"));
        }
    }

    /// A host and a port. Names are not resolved here: a name may appear later.
    fn address(&mut self, name: &str, address: &str) {
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        if port.and_then(|(_, port)| port.parse::<u16>().ok()).is_none() {
            let section = self.section;
            self.problems.push(format!(
                "{section}.{name} is {address:?}; write HOST:PORT, for example \"127.0.0.1:20160\""
            ));
        }
    }
}

/// A TOML string. What is quoted here contains nothing that would need escaping.
fn quoted(value: impl Display) -> String {
    format!("\"{value}\"")
}
