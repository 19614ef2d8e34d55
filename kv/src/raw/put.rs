//! RawPut, RawBatchPut, RawDelete and RawBatchDelete: writes that do not look at what was there.

use bytes::Bytes;
use skerry_raftstore::engine::{ColumnFamily, WriteBatch};

use super::RawStore;
use super::value::StoredValue;
use crate::error::{Error, Result};
use crate::storage::{Permit, RequestContext};

/// One pair to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Put {
    /// As the client sent it.
    pub key: Bytes,
    /// May be empty, which is not the same as not there.
    pub value: Bytes,
    /// Seconds until it expires; 0 for never.
    pub ttl_seconds: u64,
}

/// What a write is ordered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    /// With nothing: of two writes to one key one is the last.
    Plain,
    /// With every compare-and-swap on its keys (`for_cas` on the wire).
    ForCas,
}

impl Ordering {
    /// From the field `for_cas`.
    pub fn from_wire(for_cas: bool) -> Ordering {
        if for_cas { Ordering::ForCas } else { Ordering::Plain }
    }
}

impl RawStore {
    /// Writes all pairs or none. Of two pairs with one key the later counts.
    pub async fn put(
        &self,
        context: &RequestContext,
        family: &str,
        puts: Vec<Put>,
        ordering: Ordering,
        permit: Permit,
    ) -> Result<()> {
        let form = self.admit(context, family)?;
        let now_seconds = self.now_seconds();
        let mut batch = WriteBatch::new();
        let mut keys = Vec::with_capacity(puts.len());
        for put in puts {
            let key = form.point(&put.key)?;
            let value = StoredValue::new(put.value, put.ttl_seconds, now_seconds).encode();
            keys.push(key.clone());
            batch.put(ColumnFamily::Raw, key, value);
        }
        self.write(context, batch, keys, ordering, permit).await
    }

    /// Removes all keys or none. That a key is not there is no error.
    pub async fn delete(
        &self,
        context: &RequestContext,
        family: &str,
        keys: Vec<Bytes>,
        ordering: Ordering,
        permit: Permit,
    ) -> Result<()> {
        let form = self.admit(context, family)?;
        let mut batch = WriteBatch::new();
        let mut data_keys = Vec::with_capacity(keys.len());
        for key in keys {
            let key = form.point(&key)?;
            data_keys.push(key.clone());
            batch.delete(ColumnFamily::Raw, key);
        }
        self.write(context, batch, data_keys, ordering, permit).await
    }

    async fn write(
        &self,
        context: &RequestContext,
        batch: WriteBatch,
        keys: Vec<Bytes>,
        ordering: Ordering,
        permit: Permit,
    ) -> Result<()> {
        let permit = match ordering {
            Ordering::Plain => permit,
            Ordering::ForCas => permit.keeping(self.latches.acquire(keys).await),
        };
        self.storage.async_write(context, batch, permit).await
    }
}

/// The TTL of each of `pairs` pairs, from what a RawBatchPut says: `ttls` has none (then `ttl`,
/// which old clients send, is for all), one for all, or one for each.
pub fn spread_ttls(ttls: &[u64], ttl: u64, pairs: usize) -> Result<Vec<u64>> {
    match ttls {
        each if each.len() == pairs => Ok(each.to_vec()),
        [] => Ok(vec![ttl; pairs]),
        [all] => Ok(vec![*all; pairs]),
        other => Err(Error::TtlCount { ttls: other.len(), pairs }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ttls_come_for_none_for_all_or_for_each() {
        assert_eq!(spread_ttls(&[], 7, 2).unwrap(), [7, 7]);
        assert_eq!(spread_ttls(&[5], 7, 2).unwrap(), [5, 5]);
        assert_eq!(spread_ttls(&[5, 6], 7, 2).unwrap(), [5, 6]);
        assert_eq!(spread_ttls(&[5], 7, 1).unwrap(), [5]);
        assert!(spread_ttls(&[5], 7, 0).unwrap().is_empty());
        let refused = spread_ttls(&[5, 6, 7], 0, 2).unwrap_err().to_string();
        assert!(refused.starts_with("3 TTLs for 2 pairs"), "{refused}");
        assert!(spread_ttls(&[5, 6], 0, 3).is_err());
    }
}
