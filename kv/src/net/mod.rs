//! Connections between processes: to the scheduler, and between stores.
//!
//! | file | what |
//! | --- | --- |
//! | [`scheduler_client`] | calls to the scheduler |
//! | [`claim`] | makes a replicated store known before it begins, and finds copies of a directory |
//! | [`heartbeats`] | tells the scheduler that the store lives, and which regions it leads |
//! | [`collector`] | takes part in garbage collection |
//! | [`deadlocks`] | tells the deadlock detector of the cluster who waits here |
//! | [`elsewhere`] | asks other regions what became of transactions |
//! | [`reporter`] | what raftstore tells the scheduler, and what the scheduler wants of regions |
//! | [`resolver`] | where other stores are |
//! | [`timestamps`] | timestamps for whoever cannot go on without one |
//! | [`transport`] | raft messages to other stores |
//! | [`inlet`] | raft messages from other stores |
//! | [`snapshots`] | snapshots, both ways |

pub mod claim;
pub mod collector;
pub mod deadlocks;
pub mod elsewhere;
pub mod heartbeats;
pub mod inlet;
pub mod reporter;
pub mod resolver;
pub mod scheduler_client;
mod snapshots;
pub mod timestamps;
pub mod transport;

pub use scheduler_client::{Failure, SchedulerClient};
