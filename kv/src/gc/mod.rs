//! A store's part in garbage collection: old versions of what transactions wrote go when nobody can read them.
//!
//! The scheduler says up to where, and when (`scheduler/src/gc.rs` tells the steps of a round). A store
//!
//! 1. *keeps* the safe point ([`SafePoints`]): it refuses reads below it and locks of transactions that began at or
//!    below it, and says so when nothing that it let in before is under way any more;
//! 2. *resolves* ([`resolve`]): in the regions that it leads it ends what locks of such transactions are left, by
//!    asking at their primary keys what became of them;
//! 3. *collects* ([`collect`]): it drops, key by key and through raft, what no read at or above the safe point sees
//!    ([`crate::txn::garbage`]).
//!
//! [`part`] is what a store has done of that and what comes next; the task that turns it is at the edge
//! ([`crate::net::collector`]). Transactions, views and latches
//! are the executor's ([`crate::txn::executor`]), which asks [`SafePoints`] for every command.
//!
//! **Invariant.** Nothing is dropped above a safe point that this store keeps itself.

pub mod collect;
pub mod config;
pub mod part;
pub mod resolve;
pub mod safe_points;

pub use config::GcConfig;
pub use safe_points::{Admission, SafePoints};
