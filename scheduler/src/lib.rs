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
//! | [`settings`], [`config`] | what an operator may change, what a user may set | `error`, `stores`, `gc` |
//! | [`location`] | where stores stand, by their labels | `stores`, `settings` |
//! | [`operator`] | what is being done about a region, step by step | `region_tree` |
//! | [`picture`], [`filter`] | what decisions see; which stores may take what, and why not | all above |
//! | [`checkers`] | what is wrong with one region, and what to do about it | all above |
//! | [`balance`] | what could be better although nothing is wrong | all above |
//! | [`tso`] | timestamps | `moment` |
//! | [`persist`] | what survives a restart: the table of keys | `error`, `settings`, `balance`, `gc` |
//! | [`cluster`] | owner of all state but timestamps: events in, answers out | all above |
//! | [`api`] | the JSON interface over HTTP | `cluster`, `server` |
//! | [`server`] | gRPC and HTTP on one port; makes durable what the cluster decides | everything |
//!
//! **Invariant.** What a client has been told survives: an answer leaves only when the change behind it
//! is on disk. What heartbeats report is the exception, because they repeat it.

pub mod api;
pub mod balance;
pub mod checkers;
pub mod cluster;
pub mod config;
pub mod error;
pub mod filter;
pub mod gc;
pub mod ids;
pub mod keyspace;
pub mod location;
pub mod moment;
pub mod operator;
pub mod persist;
pub mod picture;
pub mod planted;
pub mod region_tree;
pub mod schedule;
pub mod server;
pub mod settings;
pub mod stores;
pub mod tso;

pub use error::{Error, Result};
