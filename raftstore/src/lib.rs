//! The store below the wire: local engines now, many raft groups over them later. No socket and no
//! async runtime anywhere in this crate.
//!
//! Layer map, from the bottom:
//!
//! | module | what it is | may name |
//! | --- | --- | --- |
//! | [`error`] | the one error enum of the crate | nothing |
//! | [`time`] | the only door to clocks, chance and threads | `error` |
//! | [`keys`] | the table of local keys and the prefix of user data | nothing |
//! | [`config`] | what a user may set about the engines, with reasons and limits | `error` |
//! | [`engine`] | the ordered local store and the raft log, each behind a small trait | leaves above |
//!
//! **Invariant.** Nothing here reads a clock, draws a random number, starts a thread or sleeps except
//! through [`time`].

pub mod config;
pub mod engine;
pub mod error;
pub mod keys;
pub mod time;

pub use error::{Error, Result};
