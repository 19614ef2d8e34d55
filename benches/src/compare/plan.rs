//! What is measured: calls of `skerry bench`, each with the goals that it is for (`docs/benchmarks.md`).
//!
//! Ours always runs as separate processes, as peers do: three stores and a scheduler beside three members of etcd.
//! Keys have at least 21 bytes.

/// One call.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// What it is called in the results.
    pub name: &'static str,
    /// Whose servers.
    pub system: &'static str,
    /// The words behind `skerry bench`.
    pub words: &'static [&'static str],
}

const fn job(name: &'static str, system: &'static str, words: &'static [&'static str]) -> Job {
    Job { name, system, words }
}

/// The shape in which etcd measures itself (`etcdctl check perf`): P1, P24.
pub const LARGE: &str = "puts of 1 KiB, 500 clients";
/// P1 again, as client libraries of TiKV do it unless they are told otherwise. etcd has no such thing: it is measured
/// once, with [`LARGE`].
pub const LARGE_STREAMS: &str = "puts of 1 KiB, 500 clients, streams of batches";
/// P4.
pub const ALONE: &str = "one client";
/// P6, P9.
pub const READS: &str = "reads, 64 clients";
/// P8.
pub const ANY_REPLICA: &str = "gets at any replica, 64 clients";
/// P2, P12.
pub const BATCH: &str = "puts in batches, 256 in flight";
/// P3.
pub const UNREPLICATED: &str = "puts of one replica, 256 in flight";
/// P7.
pub const BATCH_READS: &str = "gets in batches, 256 in flight";
/// P10, P11.
pub const TRANSACTIONS: &str = "transactions, 64 clients";

/// P12.
pub const BATCH_64: &str = "puts in batches, 64 regions";
/// P12.
pub const BATCH_1000: &str = "puts in batches, 1000 regions";
/// P12.
pub const BATCH_10000: &str = "puts in batches, 10000 regions";

/// Everything that is run in every round, in its order: the sides of a comparison right after each other.
pub fn jobs() -> &'static [Job] {
    const JOBS: &[Job] = &[
        job(
            LARGE,
            "skerry",
            &["put", "--separate", "--clients", "500", "--key-size", "256", "--value-size", "1024"],
        ),
        job(
            LARGE,
            "etcd",
            &["put", "--clients", "500", "--key-size", "256", "--value-size", "1024"],
        ),
        job(
            LARGE_STREAMS,
            "skerry",
            &[
                "put",
                "--separate",
                "--api",
                "batch",
                "--clients",
                "500",
                "--key-size",
                "256",
                "--value-size",
                "1024",
            ],
        ),
        job(ALONE, "skerry", &["put", "get", "--separate", "--clients", "1", "--keys", "10000"]),
        job(ALONE, "etcd", &["put", "get", "--clients", "1", "--keys", "10000"]),
        job(ALONE, "redis", &["put", "get", "--clients", "1", "--keys", "10000"]),
        job(READS, "skerry", &["get", "scan", "--separate", "--keys", "20000"]),
        job(READS, "etcd", &["get", "scan", "--keys", "20000"]),
        job(ANY_REPLICA, "skerry", &["get", "--separate", "--keys", "20000", "--replica-read"]),
        job(BATCH, "skerry", &["put", "--separate", "--api", "batch", "--clients", "256"]),
        job(
            UNREPLICATED,
            "skerry",
            &["put", "--separate", "--stores", "1", "--api", "batch", "--clients", "256"],
        ),
        job(UNREPLICATED, "redis", &["put", "--clients", "200"]),
        job(BATCH_READS, "skerry", &["get", "--separate", "--api", "batch", "--clients", "256"]),
        job(
            TRANSACTIONS,
            "skerry",
            &["put", "txn-one-region", "txn-two-regions", "--separate", "--regions", "4"],
        ),
        job(
            BATCH_64,
            "skerry",
            &["put", "--separate", "--api", "batch", "--clients", "256", "--regions", "64"],
        ),
        job(
            BATCH_1000,
            "skerry",
            &["put", "--separate", "--api", "batch", "--clients", "256", "--regions", "1000"],
        ),
        job(
            BATCH_10000,
            "skerry",
            &["put", "--separate", "--api", "batch", "--clients", "256", "--regions", "10000"],
        ),
    ];
    JOBS
}

/// A name, a job, the flag that changes from point to point, and its values.
pub type SweepPlan = (&'static str, Job, &'static str, &'static [u64]);

/// What the pictures show, besides the scenarios.
pub fn sweeps() -> [SweepPlan; 4] {
    const CLIENTS: &[u64] = &[1, 4, 16, 64, 256];
    const RATES: &[u64] = &[500, 1_000, 2_000, 4_000, 8_000, 12_000, 16_000];
    [
        ("clients", job("puts", "skerry", &["put", "--separate"]), "--clients", CLIENTS),
        ("clients", job("puts", "etcd", &["put"]), "--clients", CLIENTS),
        ("rate", job("puts at a rate", "skerry", &["put", "--separate"]), "--rate", RATES),
        ("rate", job("puts at a rate", "etcd", &["put"]), "--rate", RATES),
    ]
}

/// Events, once; they repeat themselves.
pub fn scenarios() -> [Job; 15] {
    [
        job("failover", "skerry", &["failover", "--trials", "5", "--seconds", "2"]),
        job("failover", "etcd", &["failover", "--trials", "5", "--seconds", "2"]),
        job(
            "failover, 1000 regions",
            "skerry",
            &["failover", "--regions", "1000", "--seconds", "2"],
        ),
        job(
            "failover, 10000 regions",
            "skerry",
            &["failover", "--regions", "10000", "--trials", "2", "--seconds", "2"],
        ),
        job("leader-eviction", "skerry", &["leader-eviction", "--regions", "16"]),
        job("split", "skerry", &["split"]),
        job("cut", "skerry", &["cut", "--regions", "200"]),
        job("restart, 1000 regions", "skerry", &["restart", "--regions", "1000"]),
        job("restart, 10000 regions", "skerry", &["restart", "--regions", "10000"]),
        job("fill", "skerry", &["fill"]),
        job("fill, unlimited", "skerry", &["fill-unlimited"]),
        job("timestamps", "skerry", &["timestamps", "--clients", "2000"]),
        job("idle", "skerry", &["idle", "--seconds", "5"]),
        job("idle, 1000 regions", "skerry", &["idle", "--seconds", "5", "--regions", "1000"]),
        job("idle, 10000 regions", "skerry", &["idle", "--seconds", "5", "--regions", "10000"]),
    ]
}
