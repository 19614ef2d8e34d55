//! Every goal in the order of their numbers, with the sentence about it that is told if a run misses its floor: what
//! limits it, by which profile, and what would be done next.
//!
//! A sentence holds no figure that a run would change; those are told beside it.

use super::Bounds::{Aim, Both, Floor};
use super::{Goal, Source, little, much};
use crate::compare::plan;

/// What a scenario calls the longest operation of its clients.
const STALL: &str = "longest operation, most";
const KEY_STALL: &str = "longest operation of a key around a cut";
const CUT_STALL: &str = "longest operation around a cut, most";
const FAILED: &str = "failed operations";
/// What a failover calls its length.
pub(super) const BACK: &str = "until every region takes writes, median";
const BACK_MOST: &str = "until every region takes writes, most";
pub(super) const FILLED: &str = "into two empty stores";
const ROCKS: &str = "x RocksDB synced by 64 threads";

// Sentences that stand for several goals. The profiles are in `docs/benchmarks.md`, "Where the time goes".
const PUTS: &str = "The limit is processor time, not the disk: by the profile three fifths of it go into the \
    calls themselves, HTTP/2 and its encoding at the client and at the leader, which share two cores with \
    three stores; appliers take a seventh, log writers an eighth, raft workers a sixteenth. Next: answers of \
    one connection in one write, and requests that are not copied between edge and raft worker.";
const STREAMS: &str = "Calls are saved here, bytes are not: each put carries more than a KiB, which is copied, logged \
    and synced three times and goes through RocksDB's memtable three times, on the two cores that the client has its \
    part of, too. By the profile appliers take a quarter, RocksDB's flushes and merging a fifth, log writers a sixth, \
    calls a third. Next: apply without a write-ahead log of the data engine.";
const UNREPLICATED: &str = "One store syncs and applies for all, on two cores that it shares with the client. \
    Next: apply on the thread that has synced, which saves a hand-over for each batch.";
const ALONE: &str = "Nothing is shared when one client waits. By the profile a third of all time is the \
    kernel's, switching and waking: a put passes about a dozen threads that sleep (edge, raft worker and log \
    writer of the leader and of a follower, then apply and edge again), below two syncs that run side by side. \
    Next: where a store has one raft worker, let it write the log and apply itself, which saves four wake-ups.";
const SCANS: &str = "An iterator that nobody asks over a network copies nothing. By the profile finding pairs \
    is a quarter of the work; the rest is encoding them, carrying them and decoding them, nearly half of that \
    at the client, on the same two cores. Next: write pairs into the answer's bytes straight from the \
    iterator.";
const MANY_REGIONS: &str = "Puts of one region share an entry, a message and a batch; puts of different \
    regions share none of them, on any of three stores. By the profile raft workers take a third, six times \
    their part in puts of one region, in many small pieces that miss the processor's cache. Next: one message \
    for all entries between two stores in a round, and one write of the apply state for several rounds of a \
    region.";
const FAILOVER: &str = "Regions elect by themselves, each after a random time between one and two election \
    timeouts, so all of many wait for the unluckiest. Members of a region take turns, so that no two stand at \
    once. Next: whoever has the newest log stands first.";
const CUT_STALLS: &str = "Who waits this long waits for an election timeout and not for the cut, which takes \
    milliseconds: the figure of nearly all keys stands beside it. Next: find the cut in the rates over time, \
    and what became of the region's leader then.";
const CAPPED: &str = "By default a store writes, sends and receives no more than 100 MiB of snapshots a \
    second, all together (`snapshot-bytes-per-second`), so that clients do not feel them, and the store that \
    has the data sends it to each of two empty stores. Next: none while clients come first; P21 is measured \
    without the limit.";
const SNAPSHOTS: &str = "The reference writes every byte once, and its sync ends in the host's memory. A \
    snapshot's bytes are read, written to a file, sent, written again and taken in by RocksDB, for two stores, \
    all on two cores. Next: send its files while they are being built.";
const STARTS: &str = "A start reads the state of every region and begins its replica, one after the other. \
    Next: read them in one pass of the engine's cursor.";

/// Said of every store event that must not fail an operation.
const MUST_NOT_FAIL: &str = "An operation is repeated for a minute before it counts as failed, so this is an \
    error of ours and not slowness: `skerry bench scenario` names the reasons. Next: replay it in the \
    simulator.";

pub(super) const GOALS: &[Goal] = &[
    much(
        "P1",
        "puts, 256 B keys, 1 KiB values, 500 clients",
        "x etcd",
        Both(4.0, 8.0),
        Source::Peer(plan::LARGE, "put", "etcd"),
        PUTS,
    ),
    much(
        "P1",
        "the same through streams of batches",
        "x etcd",
        Both(4.0, 8.0),
        Source::PeerElsewhere(plan::LARGE_STREAMS, "put", (plan::LARGE, "etcd")),
        STREAMS,
    ),
    much(
        "P2",
        "puts in batches, 256 in flight",
        ROCKS,
        Both(0.35, 0.6),
        Source::RocksPuts(plan::BATCH),
        PUTS,
    ),
    much(
        "P3",
        "puts of one replica",
        ROCKS,
        Both(0.8, 1.0),
        Source::RocksPuts(plan::UNREPLICATED),
        UNREPLICATED,
    ),
    much(
        "P3",
        "puts of one replica, beside Redis",
        "x Redis",
        Floor(0.6),
        Source::Peer(plan::UNREPLICATED, "put", "redis"),
        UNREPLICATED,
    ),
    little(
        "P4",
        "one client, p50 of a put",
        "x etcd",
        Both(1.0, 1.0),
        Source::PeerTime(plan::ALONE, "put", "etcd"),
        ALONE,
    ),
    little(
        "P4",
        "one client, p50 of a put, beside a sync",
        "x fdatasync",
        Both(5.0, 3.0),
        Source::Sync(plan::ALONE),
        ALONE,
    ),
    little(
        "P5",
        "p99 of puts at half of our own peak",
        "x etcd at the same rate",
        Both(1.0, 0.5),
        Source::AtHalfPeak("etcd"),
        "The tail is that of 64 clients that share two cores with all servers: an operation waits for a \
         processor before it waits for a disk. Next: `perf sched` over the rate at which it begins.",
    ),
    much(
        "P6",
        "linearizable gets, 64 clients",
        "x etcd",
        Both(2.5, 4.0),
        Source::Peer(plan::READS, "get", "etcd"),
        "Both cores are busy with HTTP/2 on both sides; finding the value is a small part. Next: `--api batch` \
         is the answer for clients that have many gets at a time; for the others fewer allocations in a call.",
    ),
    much(
        "P7",
        "gets in batches, 256 in flight",
        "x RocksDB, one thread",
        Both(0.25, 0.45),
        Source::RocksGets(plan::BATCH_READS),
        "The client's encoding and decoding take as much as the store's, on the same two cores; RocksDB's \
         thread has one to itself and sends nothing. Next: look keys of one message up together, with one \
         lookup of the registry.",
    ),
    much(
        "P8",
        "linearizable gets at any replica, 64 clients",
        "x etcd",
        Both(1.0, 2.0),
        Source::PeerElsewhere(plan::ANY_REPLICA, "get", (plan::READS, "etcd")),
        "Two of three gets ask the leader first how far their replica must be, a message each way through two \
         raft workers; what waits together asks together. Next: let a follower ask for a whole batch of gets \
         at once.",
    ),
    much(
        "P9",
        "scans of 100 pairs",
        "x etcd",
        Floor(3.0),
        Source::Peer(plan::READS, "scan", "etcd"),
        SCANS,
    ),
    much(
        "P9",
        "pairs of these scans",
        "x RocksDB's iterator",
        Aim(0.4),
        Source::RocksScanned(plan::READS),
        SCANS,
    ),
    much(
        "P10",
        "transactions of two regions",
        "x own puts",
        Both(0.35, 0.5),
        Source::OwnPuts("txn-two-regions"),
        "Such a transaction is four replicated writes and two timestamps where a put is one write, and the \
         limit is processor time: a quarter is all that can be had if each of the four costs as much. By the \
         profile calls take three fifths, as for puts, and a call carries one key. The measured time ends with \
         the last commit, which client libraries leave to the background. Next: asynchronous commit, which \
         answers after the first two of the four, and prewrites of both regions in one message.",
    ),
    much(
        "P11",
        "transactions of one region",
        "x own puts",
        Both(0.7, 0.85),
        Source::OwnPuts("txn-one-region"),
        "It writes two keys where a put writes one, and takes a timestamp, latches and a look at lock and newest \
         record. By threads its time is spread as a put's is: two fifths are calls at the stores, a fifth the \
         client, a sixth appliers, an eighth log writers, a tenth raft workers; the scheduler takes a thirtieth. So \
         it is more of everything, and no part of it can give what is missing. Next: cheaper calls, and a search \
         for the newest records of several keys that asks the filters for each.",
    ),
    much(
        "P12",
        "puts over 64 regions",
        "x one region",
        Floor(1.0),
        Source::OneRegion(plan::BATCH_64),
        MANY_REGIONS,
    ),
    much(
        "P12",
        "puts over 1,000 regions",
        "x one region",
        Both(0.75, 0.9),
        Source::OneRegion(plan::BATCH_1000),
        MANY_REGIONS,
    ),
    much(
        "P12",
        "puts over 10,000 regions",
        "x one region",
        Floor(0.5),
        Source::OneRegion(plan::BATCH_10000),
        MANY_REGIONS,
    ),
    little(
        "P13",
        "10,000 idle regions of three replicas",
        "% of a core",
        Both(2.0, 0.5),
        Source::Event("idle", 10_000, "processor"),
        "Regions hibernate. What is left is what four processes take that do nothing, and reports of sleeping \
         leaders, one in five minutes each. Next: fewer threads that wake ten times a second.",
    ),
    little(
        "P15",
        "memory of an idle replica",
        "KiB",
        Both(20.0, 8.0),
        Source::IdleReplica,
        "A replica keeps its raft state, progress of its peers and queues while it sleeps. Next: allocate \
         queues with their first entry.",
    ),
    little(
        "P16",
        "a killed store, one region",
        "x etcd",
        Both(3.0, 1.5),
        Source::Failover(1),
        FAILOVER,
    ),
    little(
        "P16",
        "a killed store, all of 1,000 regions",
        "x etcd",
        Both(3.0, 1.5),
        Source::Failover(1_000),
        FAILOVER,
    ),
    little(
        "P16",
        "a killed store, all of 1,000 regions: the longest",
        "s",
        Floor(6.0),
        Source::Event("failover", 1_000, BACK_MOST),
        FAILOVER,
    ),
    little(
        "P17",
        "a killed store while 10,000 regions hibernate: the longest",
        "s",
        Both(8.0, 3.0),
        Source::Event("failover", 10_000, BACK_MOST),
        "Sleepers notice together that a store is silent, and seven thousand elections on two cores take seconds. \
         Next: whoever has the newest log stands first.",
    ),
    little(
        "P18",
        "leaders leave a store: longest operation",
        "ms",
        Both(500.0, 100.0),
        Source::Event("leader-eviction", 16, STALL),
        "A leader hands over after its follower has everything; operations that come meanwhile are refused and \
         repeated after a pause. Next: answer with the new leader's name as soon as it is known.",
    ),
    little(
        "P18",
        "leaders leave a store: failed operations",
        "",
        Floor(0.0),
        Source::Event("leader-eviction", 16, FAILED),
        MUST_NOT_FAIL,
    ),
    little(
        "P19",
        "a split: longest operation of a key, p99 of keys",
        "ms",
        Both(200.0, 50.0),
        Source::Event("split", 1, KEY_STALL),
        CUT_STALLS,
    ),
    little(
        "P19",
        "a split: longest operation of all",
        "ms",
        Both(200.0, 50.0),
        Source::Event("split", 1, CUT_STALL),
        CUT_STALLS,
    ),
    little(
        "P19",
        "a split: failed operations",
        "",
        Floor(0.0),
        Source::Event("split", 1, FAILED),
        MUST_NOT_FAIL,
    ),
    little(
        "P20",
        "one region that all write to becomes 200",
        "s",
        Both(60.0, 15.0),
        Source::Event("cut", 200, "until one region is"),
        "The scheduler cuts a region at up to so many keys with one command, and then every new region elects \
         a leader and reports. Next: see which of the two takes the time in the store's log.",
    ),
    much(
        "P21",
        "snapshots into two empty stores",
        "x writing and syncing once",
        Both(0.4, 0.7),
        Source::FillOfDisk,
        SNAPSHOTS,
    ),
    much(
        "P22",
        "two empty stores are filled",
        "MiB/s",
        Both(50.0, 100.0),
        Source::Event("fill", 1, FILLED),
        CAPPED,
    ),
    little(
        "P23",
        "a restart with 1,000 regions",
        "s",
        Both(1.0, 0.5),
        Source::Event("restart", 1_000, "until 1000 regions"),
        STARTS,
    ),
    little(
        "P23",
        "a restart with 10,000 regions",
        "s",
        Both(5.0, 2.5),
        Source::Event("restart", 10_000, "until 1000 regions"),
        STARTS,
    ),
    little(
        "P24",
        "raft log of a replica",
        "B a user's byte",
        Both(1.25, 1.1),
        Source::RaftLog(plan::LARGE),
        "An entry has a header beside keys and values, which weighs most where a put has an entry of its own. \
         Next: leave out of an entry's header what its region knows.",
    ),
    much(
        "P27",
        "timestamps",
        "/s",
        Both(200_000.0, 1_000_000.0),
        Source::Event("timestamps", 1, "timestamps"),
        "A timestamp that is asked for alone is a call of gRPC and nearly nothing else. Next: clients that \
         share a stream ask for many in one message.",
    ),
];
