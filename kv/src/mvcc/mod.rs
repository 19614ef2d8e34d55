//! Many versions of every key: what a transaction wrote, when, and what it is about to write.
//!
//! Transactions here are Percolator's. A key has at most one *lock* and any number of *records*, and three column
//! families hold them:
//!
//! | family | key | value |
//! | --- | --- | --- |
//! | `lock` | user key | [`Lock`]: whose, of which kind, and the value if it is short |
//! | `write` | user key, commit timestamp | [`Write`]: which transaction, of which kind, and the value if it is short |
//! | `default` | user key, start timestamp | a value too long to stand in lock and record |
//!
//! Timestamps are inverted in keys ([`key`]), so the newest version of a key comes first.
//!
//! ```text
//! key a:   time →      5     7        12    14
//!          default     v1             v2               written by the transactions that began at 5 and 12
//!          write             P@5            D@12       P@5 at 7: "the value of the one that began at 5"
//!          lock                                        empty: nobody is about to write a
//! ```
//!
//! # How a read at timestamp `ts` goes
//!
//! 1. [`rules`] look at the key's lock: one that could still commit at or below `ts` stands in the way.
//! 2. [`Reader`] seeks the newest record at or below `ts`. A put leads to a value, a delete to none; records that
//!    changed nothing (locks and rollbacks) are passed over.
//! 3. [`ForwardScan`] and [`ReverseScan`] do this key by key with one cursor each for locks and records. They step over
//!    a few versions and seek past many, so the cost of a key does not grow with its history.
//!
//! # What is written
//!
//! [`Changes`] collects what one command does to the three families. It is the one place where records, locks and
//! values become engine operations.
//!
//! **Invariant.** A record is never overwritten by another of a different transaction: a rollback that meets a commit
//! at its own timestamp is noted *in* that commit ([`Write::overlapped_rollback`]), and a commit that meets a
//! rollback takes over its note. Only a commit whose timestamp was chosen by a store can meet one: those that the
//! scheduler gives out are all different.
//!
//! **Invariant.** A value longer than [`SHORT_VALUE_BYTES_MAX`] stands in `default` exactly as long as a lock or record
//! refers to it.
//!
//! What this module does not do: it takes no decision about transactions ([`crate::txn`]), knows no regions but for the
//! range it is given, and no latches.

pub mod changes;
pub mod cursor;
pub mod key;
pub mod lock;
pub mod reader;
pub mod record;
pub mod rules;
pub mod scan;
pub mod write;

pub use changes::Changes;
pub use cursor::Statistics;
pub use key::Key;
pub use lock::{Lock, LockKind};
pub use reader::{Reader, TxnRecord, Version};
pub use rules::{Isolation, Meeting, ReadRules};
pub use scan::{ForwardScan, Found, ReverseScan};
pub use write::{Write, WriteKind, WriteRef};

/// Bytes of the longest value that stands in its lock and record. A longer one would make walks over records slow, and
/// the length of a short one fits a byte.
pub const SHORT_VALUE_BYTES_MAX: usize = 255;

#[cfg(test)]
pub(crate) mod tests;
