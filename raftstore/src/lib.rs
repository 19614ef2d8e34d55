//! The store below the wire: many raft groups over local engines. No socket and no
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
//! | [`snapshot`] | the files of raft snapshots | leaves, `engine` |
//! | [`credits`] | how much a raft worker may have under way | leaves above |
//! | [`reply`], [`message`], [`effects`] | one answer; what actors tell each other; what they want done | the above |
//! | [`state`], [`region`] | what is stored of a replica; what a region becomes, as pure functions | `error` |
//! | [`planted`] | bugs that a test plants | nothing |
//! | [`meta`], [`registry`], [`environment`], [`outside`] | what the actors of a store share | the above |
//! | [`peer`] | one replica of one region | the above |
//! | [`apply`] | from committed entries to data | the above but `peer` |
//! | [`background`] | slow work | the above but `peer` and `apply` |
//! | [`store`] | all actors of one store with their queues | all |
//!
//! **Invariant.** Nothing here reads a clock, draws a random number, starts a thread or sleeps except
//! through [`time`].

pub mod apply;
pub mod background;
pub mod config;
pub mod credits;
pub mod effects;
pub mod engine;
pub mod environment;
pub mod error;
pub mod extent;
pub mod keys;
pub mod message;
pub mod meta;
pub mod outside;
pub mod peer;
pub mod planted;
pub mod region;
pub mod registry;
pub mod reply;
pub mod snapshot;
pub mod state;
pub mod store;
pub mod time;

pub use error::{Error, Result};
