//! The nouns of Skerry: wire messages, ids, regions and ranges, and the key codec.
//!
//! Everything here is data and pure functions; nothing does I/O. The crate depends on no other of
//! ours, and all others depend on it.
//!
//! * The modules named `...pb` (and [`deadlock`]) are generated from `proto/*.proto` by
//!   `build.rs`. They are the messages on the wire and, for some, on disk. Each file there begins
//!   with who sends what to whom.
//! * [`types`]: ids, terms, indexes and timestamps, each a type of its own.
//! * [`region`]: what is asked of a region: does it hold this key, is this epoch stale, which peer
//!   is on that store.
//! * [`store`]: whether a store replicates.
//! * [`codec`]: the order-preserving encoding of keys.
//!
//! gRPC clients and servers are compiled only with the feature `services`, which the edge of the
//! system (`kv`, `scheduler`, tests, benches) turns on: the core must not know sockets.
//!
//! **Invariant.** Bytes agree with the public definition of these services: a test compares every
//! name, number and type with the table in `tests/kvproto.tsv`.

pub mod codec;
pub mod error;
pub mod region;
pub mod store;
pub mod types;

/// Stores, regions, peers and epochs: part of nearly every other message, and of what a store
/// writes to its own disk about its regions.
#[allow(missing_docs, clippy::all, reason = "generated; see proto/metapb.proto")]
pub mod metapb {
    include!(concat!(env!("OUT_DIR"), "/metapb.rs"));
}

/// Region errors: a store tells a client, or another store, why it did not serve a request and
/// where to ask instead.
#[allow(missing_docs, clippy::all, reason = "generated; see proto/errorpb.proto")]
pub mod errorpb {
    include!(concat!(env!("OUT_DIR"), "/errorpb.rs"));
}

/// The one enum of raft's that our messages mention. Raft's own messages travel inside ours as
/// bytes.
#[allow(missing_docs, clippy::all, reason = "generated; see proto/eraftpb.proto")]
pub mod eraftpb {
    include!(concat!(env!("OUT_DIR"), "/eraftpb.rs"));
}

/// Requests of clients to stores, and the answers: raw pairs, transactions, and what concerns a
/// region or a store.
#[allow(missing_docs, clippy::all, reason = "generated; see proto/kvrpcpb/")]
pub mod kvrpcpb {
    include!(concat!(env!("OUT_DIR"), "/kvrpcpb.rs"));
}

/// The service of a store, called by clients and by other stores; with the envelopes of its
/// streams.
#[allow(missing_docs, clippy::all, reason = "generated; see proto/tikvpb.proto")]
pub mod tikvpb {
    include!(concat!(env!("OUT_DIR"), "/tikvpb.rs"));
}

/// The service of the scheduler and its messages: clients look up regions, stores and timestamps;
/// stores register, report, and are told what to do.
#[allow(missing_docs, clippy::all, reason = "generated; see proto/pdpb/")]
pub mod pdpb {
    include!(concat!(env!("OUT_DIR"), "/pdpb.rs"));
}

/// How the stores of a cluster collect old versions together. Our own.
#[allow(missing_docs, clippy::all, reason = "generated; see proto/gcpb.proto")]
pub mod gcpb {
    include!(concat!(env!("OUT_DIR"), "/gcpb.rs"));
}

/// The service that gives a client of API version 2 the number of its keyspace; answered by the
/// scheduler.
#[allow(missing_docs, clippy::all, reason = "generated; see proto/keyspacepb.proto")]
pub mod keyspacepb {
    include!(concat!(env!("OUT_DIR"), "/keyspacepb.rs"));
}

/// Stores tell the one among them that detects deadlocks which transactions wait for which.
#[allow(missing_docs, clippy::all, reason = "generated; see proto/deadlock.proto")]
pub mod deadlock {
    include!(concat!(env!("OUT_DIR"), "/deadlock.rs"));
}

/// What replicas send each other (raft messages, snapshots), and what a store keeps about them on
/// disk.
#[allow(missing_docs, clippy::all, reason = "generated; see proto/raft_serverpb.proto")]
pub mod raft_serverpb {
    include!(concat!(env!("OUT_DIR"), "/raft_serverpb.rs"));
}

/// The content of raft log entries, proposed by a leader and applied by all replicas. Our own
/// format.
#[allow(missing_docs, clippy::all, reason = "generated; see proto/raft_cmdpb.proto")]
pub mod raft_cmdpb {
    include!(concat!(env!("OUT_DIR"), "/raft_cmdpb.rs"));
}

/// The little of etcd's interface that transactional clients ask the scheduler for.
#[allow(missing_docs, clippy::all, reason = "generated; see proto/etcdserverpb.proto")]
pub mod etcdserverpb {
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
}

/// Whether a store or the scheduler serves, as gRPC libraries ask (`grpc.health.v1`).
#[allow(missing_docs, clippy::all, reason = "generated; see proto/health.proto")]
pub mod health {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}

/// The descriptors of all messages and services above: an encoded
/// `google.protobuf.FileDescriptorSet` without comments. For tests and tools; no program needs it
/// to run.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
