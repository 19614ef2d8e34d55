//! The raw API: pairs without transactions. One key is linearizable, one request is atomic, and
//! nothing spans two requests but compare-and-swap.
//!
//! # How a request is served
//!
//! 1. [`RawStore::admit`] refuses clients of the other API version and column families that raw
//!    data has not.
//! 2. [`key`] checks the form of every key and turns it into a data key. Only then is the storage
//!    asked, which checks region, epoch and leadership ([`crate::storage`]).
//! 3. **Reads** ([`get`], [`scan`], [`ttl`], [`checksum`]) decode values ([`value`]) and leave out
//!    what has expired by the clock at their beginning. Point reads and up to [`INLINE_KEYS_MAX`]
//!    keys run on the caller's thread; larger reads go to the read pool, in slices.
//! 4. **Writes** ([`put`], [`delete_range`], [`compare_and_swap`]) become one batch, atomic in
//!    their region, and are answered when it is durable. They bring a permit of
//!    [`RawStore::permits`].
//!
//! # Who waits for whom
//!
//! Plain writes wait for nobody: two puts to one key both succeed and one of them is the last. A
//! compare-and-swap and every write with `for_cas` first take the latches of their keys
//! ([`crate::storage::latches`]) and keep them until the write is in. So an application that swaps a key must write
//! it with `for_cas` everywhere; its client library has a switch for that. A `DeleteRange` takes no
//! latches: it is atomic, but not ordered with a compare-and-swap that is under way.
//!
//! # Expiry
//!
//! A pair has gone for every reader in the second in which it expires. Its bytes go later: the data
//! engine drops expired pairs when it compacts, asking [`value::expiry_of`], so removal needs no
//! write, no latch and cannot hit a newer value of the same key.
//!
//! # Answers that are too large
//!
//! A scan is answered in full or refused, never cut. Clients take fewer pairs than they asked for
//! as the end of the region and would lose data in silence. The limit protects the store; it lies
//! far above the 4 MiB that some clients accept, and who scans large values asks for fewer of them
//! at a time, as with TiKV.
//!
//! **Invariant.** An expired pair is not there: for get, scan, checksum, TTL and compare-and-swap
//! alike.
//!
//! What it does not do: no coprocessor, no change feed; and no retry.

use std::sync::Arc;

use skerry_raftstore::keys::DataSpace;
use skerry_raftstore::time::Clock;

use crate::error::Result;
use crate::storage::{ApiVersion, Latches, Permits, ReadPool, RequestContext, Storage};

pub mod checksum;
pub mod compare_and_swap;
pub mod delete_range;
pub mod get;
pub mod key;
pub mod put;
pub mod scan;
pub mod ttl;
pub mod value;
mod walk;

pub use checksum::Checksum;
pub use compare_and_swap::{CompareAndSwap, Swap, Swapped};
pub use put::{Ordering, Put};
pub use scan::Scan;

use key::KeyForm;

/// Keys that are read on the caller's thread. More of them would hold up the other requests of that
/// thread.
pub const INLINE_KEYS_MAX: usize = 64;

/// What one raw request may ask for, and what serves the large ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawLimits {
    /// Bytes of a key, with mode and keyspace if it has them.
    pub key_bytes_max: usize,
    /// Bytes of one answer, because it is in memory as a whole. See above on what is over it.
    pub reply_bytes_max: usize,
    /// Threads for scans, checksums and large batches.
    pub read_threads: usize,
    /// Such reads at a time; later ones wait.
    pub pending_reads_max: usize,
}

impl Default for RawLimits {
    fn default() -> RawLimits {
        RawLimits {
            key_bytes_max: 8 << 10,
            reply_bytes_max: 64 << 20,
            read_threads: 2,
            pending_reads_max: 1_024,
        }
    }
}

/// Serves raw requests over a [`Storage`].
pub struct RawStore {
    storage: Arc<dyn Storage>,
    keys: KeyForm,
    clock: Arc<dyn Clock>,
    limits: RawLimits,
    latches: Arc<Latches>,
    reads: Arc<ReadPool>,
}

impl RawStore {
    /// Starts the threads for large reads.
    pub fn new(
        storage: Arc<dyn Storage>,
        version: ApiVersion,
        clock: Arc<dyn Clock>,
        limits: RawLimits,
    ) -> RawStore {
        RawStore {
            storage,
            keys: KeyForm {
                version,
                key_bytes_max: limits.key_bytes_max,
                space: DataSpace::default(),
            },
            clock,
            limits,
            latches: Latches::new(),
            reads: ReadPool::start(limits.read_threads, limits.pending_reads_max),
        }
    }

    /// The room for writes: each brings a permit for the bytes of its keys and values.
    pub fn permits(&self) -> &Arc<Permits> {
        self.storage.permits()
    }

    /// The threads for large reads, for whoever else has some. Stopped by [`RawStore::stop`].
    pub fn read_pool(&self) -> &Arc<ReadPool> {
        &self.reads
    }

    /// The version that requests must have.
    pub fn version(&self) -> ApiVersion {
        self.keys.version
    }

    /// Finishes the large reads that were accepted and ends their threads. The storage is stopped
    /// by whoever started it, after this.
    pub fn stop(&self) {
        self.reads.stop();
    }

    /// Refuses what no key could make right; answers how the request's keys are formed.
    fn admit(&self, context: &RequestContext, family: &str) -> Result<KeyForm> {
        self.keys.version.check(context.api_version)?;
        self.keys.in_family(family)
    }

    /// The second against which expiry is measured.
    fn now_seconds(&self) -> u64 {
        value::now_seconds(&*self.clock)
    }
}

#[cfg(test)]
mod tests;
