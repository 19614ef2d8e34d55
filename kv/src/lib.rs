//! The store that clients speak to: storage, the raw API, the gRPC server, and the binary around them.
//!
//! Layer map, from the bottom:
//!
//! | module | what it is | may name |
//! | --- | --- | --- |
//! | [`error`] | the one error enum of the crate and its wire forms | `storage` for one type |
//! | [`storage`] | the seam between requests and regions; the standalone implementation | `error` |
//! | [`mvcc`] | versions of keys: locks, records, values, and how they are read | `error` |
//! | [`txn`] | the commands of transactions, as functions of a view | `mvcc`, `storage`, `error` |
//! | [`gc`] | old versions go: the safe point that is kept, locks that are ended, what is dropped | `txn`, `storage` |
//! | [`raw`] | the raw API: pairs without transactions | `storage`, `error` |
//! | [`logging`], [`metrics`] | what the process says about itself | nothing |
//! | [`config`] | one TOML file, one struct | `logging`, limits of `raw` and `storage` |
//! | [`net`] | the client of the scheduler | `error`, `metrics` |
//! | [`server`] | gRPC and HTTP: services, limits, status pages | all above |
//! | [`node`] | a store: everything assembled in order and stopped in reverse | all above |
//! | [`embedded`] | the library: a database in this process | all above, and the scheduler |
//! | [`cli`] | the command line | all above, and the scheduler |
//!
//! **Invariant.** tokio, tonic and axum are named in `server`, `net`, `cli` and by the assembly in `node` and
//! `embedded`, and nowhere else: everything below can run under a simulator.

pub mod cli;
pub mod config;
pub mod embedded;
pub mod error;
pub mod gc;
pub mod logging;
pub mod metrics;
pub mod mvcc;
pub mod net;
pub mod node;
pub mod raw;
pub mod server;
pub mod storage;
pub mod txn;

pub use error::{Error, Result};
