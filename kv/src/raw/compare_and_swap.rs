//! RawCompareAndSwap: writes a key if it has the value that the application believes it has.
//!
//! 1. Take the key's latch: from here on no other compare-and-swap and no `for_cas` write touches
//!    it.
//! 2. Read the key from a view. What has expired counts as not there.
//! 3. If the value differs from the expected one: answer it, nothing is written.
//! 4. Else write, with the term of the view, and answer when it is durable. The latch goes with the
//!    write: a client that hangs up now does not release it before the write is in.
//!
//! The previous value is answered in both cases.

use bytes::Bytes;
use skerry_raftstore::engine::{ColumnFamily, WriteBatch};

use super::RawStore;
use super::value::StoredValue;
use crate::error::Result;
use crate::storage::{Permit, RequestContext};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompareAndSwap {
    /// As the client sent it.
    pub key: Bytes,
    /// The value that must be there; `None` if none may be there.
    pub expected: Option<Bytes>,
    /// What happens if it is.
    pub swap: Swap,
}

/// What a compare-and-swap does when it succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swap {
    /// Writes a value that expires after so many seconds; 0 for never.
    Put {
        /// The new value.
        value: Bytes,
        /// Seconds until it expires; 0 for never.
        ttl_seconds: u64,
    },
    /// Removes the key.
    Delete,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swapped {
    /// Whether the expected value was there and the new one is now.
    pub succeeded: bool,
    /// The value before, in any case.
    pub previous: Option<Bytes>,
}

impl RawStore {
    /// See the steps above.
    pub async fn compare_and_swap(
        &self,
        context: &RequestContext,
        family: &str,
        request: CompareAndSwap,
        permit: Permit,
    ) -> Result<Swapped> {
        let key = self.admit(context, family)?.point(&request.key)?;
        let latch = self.latches.acquire([key.clone()]).await;
        let view = self.storage.async_snapshot(context).await?;
        view.check_key(&key)?;
        let now_seconds = self.now_seconds();
        let stored = view.view.get(ColumnFamily::Raw, &key)?;
        let value = stored.map(StoredValue::decode).transpose()?;
        let previous = value.and_then(|value| value.live_at(now_seconds)).map(|value| value.user);
        if previous != request.expected {
            return Ok(Swapped { succeeded: false, previous });
        }
        let mut batch = WriteBatch::new();
        match request.swap {
            Swap::Put { value, ttl_seconds } => {
                let value = StoredValue::new(value, ttl_seconds, now_seconds).encode();
                batch.put(ColumnFamily::Raw, key, value);
            }
            Swap::Delete => batch.delete(ColumnFamily::Raw, key),
        }
        let context = RequestContext { term: Some(view.term), ..*context };
        // A view holds back space and must not be kept across the wait for the disk.
        drop(view);
        self.storage.async_write(&context, batch, permit.keeping(latch)).await?;
        Ok(Swapped { succeeded: true, previous })
    }
}
