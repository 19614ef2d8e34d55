//! The words of the reference for `[raftstore]`.

use super::{Knob, RaftConfig, quoted};

impl RaftConfig {
    /// One line for every field that a file may set, in order.
    pub fn reference() -> Vec<Knob> {
        let default = RaftConfig::default();
        let knob = |name, default: &dyn std::fmt::Display, description| Knob {
            section: Self::SECTION,
            name,
            default: default.to_string(),
            description,
        };
        let size = |name, default, description| knob(name, &quoted(default), description);
        vec![
            knob("tick-ms", &default.tick_ms, TICK),
            knob("heartbeat-ticks", &default.heartbeat_ticks, HEARTBEAT),
            knob("election-ticks", &default.election_ticks, ELECTION),
            knob("workers", &default.workers, WORKERS),
            knob("apply-workers", &default.apply_workers, APPLY_WORKERS),
            knob("batch-messages-max", &default.batch_messages_max, BATCH),
            size("messages-waiting-size-max", default.messages_waiting_size_max, WAITING),
            size("log-waiting-size-max", default.log_waiting_size_max, LOG_WAITING),
            size("apply-waiting-size-max", default.apply_waiting_size_max, APPLY_WAITING),
            size("message-size-max", default.message_size_max, MESSAGE),
            knob("inflight-messages-max", &default.inflight_messages_max, INFLIGHT),
            size("apply-size-max", default.apply_size_max, APPLY),
            size("entry-cache-size", default.entry_cache_size, CACHE),
            knob("log-gc-ticks", &default.log_gc_ticks, LOG_GC_TICKS),
            knob("log-purge-ticks", &default.log_purge_ticks, LOG_PURGE),
            knob("log-gc-threshold", &default.log_gc_threshold, LOG_GC_THRESHOLD),
            knob("log-gc-count-max", &default.log_gc_count_max, LOG_GC_COUNT),
            size("split-check-size", default.split_check_size, SPLIT_CHECK),
            size("split-size", default.split_size, SPLIT),
            size("region-size-max", default.region_size_max, REGION_SIZE),
            knob("split-keys", &default.split_keys, SPLIT_KEYS),
            knob("region-keys-max", &default.region_keys_max, REGION_KEYS),
            knob("right-derive", &default.right_derive, RIGHT_DERIVE),
            knob("read-wait-ticks", &default.read_wait_ticks, READ_WAIT),
            knob("unknown-after-ticks", &default.unknown_after_ticks, UNKNOWN_AFTER),
            knob("stale-peer-ticks", &default.stale_peer_ticks, STALE_PEER),
            knob("report-ticks", &default.report_ticks, REPORT),
            knob("hibernate-after-ticks", &default.hibernate_after_ticks, HIBERNATE_AFTER),
            knob("snapshot-generating-max", &default.snapshot_generating_max, GENERATING),
            knob("snapshot-sending-max", &default.snapshot_sending_max, SENDING),
            knob("snapshot-receiving-max", &default.snapshot_receiving_max, RECEIVING),
            knob("snapshot-applying-max", &default.snapshot_applying_max, APPLYING),
            size("snapshot-bytes-per-second", default.snapshot_bytes_per_second, SNAPSHOT_RATE),
            knob("snapshot-collect-ticks", &default.snapshot_collect_ticks, COLLECT),
            knob("snapshot-keep-ticks", &default.snapshot_keep_ticks, KEEP),
        ]
    }
}

const TICK: &str = "Milliseconds of a tick, the unit of all times here. The same on every store of a \
    cluster: leases rest on it.";
const HEARTBEAT: &str = "Ticks between two heartbeats of a leader.";
const ELECTION: &str = "Ticks of silence after which a replica seeks election, at least; at most twice that. \
    Smaller values replace a dead leader sooner and a slow one too often. The same on every store.";
const WORKERS: &str = "Threads that drive raft; regions are spread over them. 0: one below four cores, two from there.";
const APPLY_WORKERS: &str =
    "Threads that bring committed writes into the data engine. 0: as for `workers`.";
const BATCH: &str = "Messages that such a thread takes at a time.";
const WAITING: &str = "Bytes of raft messages that may wait for one of the threads that drive raft. What comes beyond \
    is dropped and counted; the other store repeats it. At least `message-size-max`.";
const LOG_WAITING: &str = "Bytes of log entries that each of these threads may have on their way to the raft log. Beyond \
    that it takes no more from raft until the disk has caught up.";
const APPLY_WAITING: &str = "The same for committed entries on their way to the data engine.";
const MESSAGE: &str = "Bytes of log entries in one raft message; a longer entry goes alone.";
const INFLIGHT: &str =
    "Raft messages with entries that may be on their way to a replica unanswered.";
const APPLY: &str = "Bytes of committed entries of one region that are applied at a time.";
const CACHE: &str = "Bytes of the newest log entries of one region that are kept in memory.";
const LOG_GC_TICKS: &str = "Ticks between two looks at the length of a region's log.";
const LOG_PURGE: &str = "Ticks between two looks for log files that hold no entry any more.";
const LOG_GC_THRESHOLD: &str =
    "Entries that every replica has before the log is cut in front of them.";
const LOG_GC_COUNT: &str = "Entries at which the log is cut although a replica still needs them; it then gets \
    a snapshot.";
const SPLIT_CHECK: &str = "Bytes written to a region before its size is looked at again.";
const SPLIT: &str = "Size of the parts into which a region that has grown is cut.";
const REGION_SIZE: &str = "Size above which a region is cut. Of large regions it is told by samples, and off by some \
    hundredths. At least `split-size`.";
const SPLIT_KEYS: &str =
    "Commit records of the parts into which a region is cut that has too many of them.";
const REGION_KEYS: &str = "Commit records of transactions above which a region is cut. Raw pairs do not count: they are \
    cut by size alone. At least `split-keys`.";
const RIGHT_DERIVE: &str = "Whether the right part of a region that is cut keeps its id; otherwise the left \
    part does.";
const READ_WAIT: &str = "Ticks a read may wait for the other replicas.";
const UNKNOWN_AFTER: &str = "Ticks after which a write is answered as unknown if its replica does not lead any \
    more and nobody has decided about it. Until then it holds back room for other writes.";
const STALE_PEER: &str = "Ticks without a leader after which a replica asks whether it still belongs to its \
    region.";
const REPORT: &str = "Ticks between two reports of a leader to the scheduler when nothing has changed. Of a region \
    that sleeps and has nothing new every fifth is made; one that is awake reports with \
    `server.region-heartbeat-interval-ms` if that is shorter.";
const HIBERNATE_AFTER: &str = "Ticks without reads and writes after which a region's replicas stop sending heartbeats. \
    The next request wakes them. 0: they never stop.";
const GENERATING: &str = "Snapshots of regions that are built at once; each holds back disk space.";
const SENDING: &str = "Snapshots that are sent to other stores at once.";
const RECEIVING: &str = "Snapshots that are taken from other stores at once.";
const APPLYING: &str = "Snapshots that are loaded into the data engine at once.";
const SNAPSHOT_RATE: &str = "Bytes of snapshots that are built in a second, that are sent, and that are received: \
    each may be as many. `0B` is no limit.";
const COLLECT: &str = "Ticks between two looks for files of snapshots that nobody needs.";
const KEEP: &str =
    "Ticks for which files of a snapshot are kept that a message or a replica may still want.";
