//! The scheduler, which others call the placement driver: it alone sees the whole cluster. It numbers
//! stores, regions and peers, gives out timestamps, and answers where a key lives.
//!
//! Layer map, from the bottom. All but the last two are pure: no clock, no task, no socket.
//!
//! | module | what it is | may name |
//! | --- | --- | --- |
//! | [`error`] | the one error enum, and its form on the wire | nothing |
//! | [`moment`] | one reading of the clock, handed in with every event | nothing |
//! | [`ids`], [`gc`], [`keyspace`], [`stores`], [`region_tree`] | one part of the state each | leaves above |
//! | [`config`] | what a user may set | `error`, `stores` |
//! | [`replicas`] | which replicas a region should have: the rule | `stores`, `region_tree` |
//! | [`tso`] | timestamps | `moment` |
//! | [`persist`] | what survives a restart: the table of keys | `error` |
//! | [`cluster`] | owner of all state but timestamps: events in, answers out | all above |
//! | [`api`] | the JSON interface over HTTP | `cluster`, `server` |
//! | [`server`] | gRPC and HTTP on one port; makes durable what the cluster decides | everything |
//!
//! **Invariant.** What a client has been told survives: an answer leaves only when the change behind it
//! is on disk. What heartbeats report is the exception, because they repeat it.

pub mod api;
pub mod cluster;
pub mod config;
pub mod error;
pub mod gc;
pub mod ids;
pub mod keyspace;
pub mod moment;
pub mod persist;
pub mod region_tree;
pub mod replicas;
pub mod server;
pub mod stores;
pub mod tso;

pub use error::{Error, Result};
