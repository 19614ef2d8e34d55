//! RawGet and RawBatchGet: values by their keys.

use bytes::Bytes;
use skerry_proto::kvrpcpb::KvPair;
use skerry_raftstore::engine::ColumnFamily;

use super::value::StoredValue;
use super::{INLINE_KEYS_MAX, RawStore};
use crate::error::{Error, Result};
use crate::storage::read_pool::ReadJob;
use crate::storage::{RegionView, RequestContext};

/// What a pair of an answer takes beside its bytes.
const PAIR_OVERHEAD_BYTES: usize = 64;

/// Keys of a large batch that are read before another request has its turn.
const SLICE_KEYS: usize = 256;

impl RawStore {
    /// The value of `key`, without taking a view.
    pub async fn get(
        &self,
        context: &RequestContext,
        family: &str,
        key: &[u8],
    ) -> Result<Option<Bytes>> {
        Ok(self.get_live(context, family, key).await?.map(|(value, _)| value.user))
    }

    /// The values of those `keys` that are there, in the order of the request: clients compare
    /// positions. All are of one moment.
    pub async fn batch_get(
        &self,
        context: &RequestContext,
        family: &str,
        keys: Vec<Bytes>,
    ) -> Result<Vec<KvPair>> {
        let form = self.admit(context, family)?;
        let now_seconds = self.now_seconds();
        let view = self.storage.async_snapshot(context).await?;
        let mut data_keys = Vec::with_capacity(keys.len());
        for key in &keys {
            let data_key = form.point(key)?;
            view.check_key(&data_key)?;
            data_keys.push(data_key);
        }
        let large = keys.len() > INLINE_KEYS_MAX;
        let pairs = Vec::with_capacity(keys.len());
        let keys = keys.into_iter().zip(data_keys).collect::<Vec<_>>().into_iter();
        let reply = BoundedPairs { pairs, bytes: 0, bytes_max: self.limits.reply_bytes_max };
        let mut job = BatchGet { view, keys, now_seconds, reply };
        if large {
            return self.reads.run(job).await;
        }
        loop {
            if let Some(pairs) = job.slice()? {
                return Ok(pairs);
            }
        }
    }

    /// The value of `key`, if it is there, and the second in which it was found to be.
    pub(super) async fn get_live(
        &self,
        context: &RequestContext,
        family: &str,
        key: &[u8],
    ) -> Result<Option<(StoredValue, u64)>> {
        let key = self.admit(context, family)?.point(key)?;
        let stored = self.storage.async_get(context, ColumnFamily::Raw, &key).await?;
        let value = stored.map(StoredValue::decode).transpose()?;
        let now_seconds = self.now_seconds();
        Ok(value.and_then(|value| value.live_at(now_seconds)).map(|value| (value, now_seconds)))
    }
}

/// The pairs of an answer, which may not grow without end.
pub(super) struct BoundedPairs {
    pub(super) pairs: Vec<KvPair>,
    pub(super) bytes: usize,
    pub(super) bytes_max: usize,
}

impl BoundedPairs {
    /// Adds a pair, or refuses the whole answer.
    pub(super) fn push(&mut self, key: Bytes, value: Bytes) -> Result<()> {
        self.bytes += key.len() + value.len() + PAIR_OVERHEAD_BYTES;
        if self.bytes > self.bytes_max {
            return Err(Error::ReplyTooLarge { bytes_max: self.bytes_max });
        }
        self.pairs.push(KvPair { key, value, ..Default::default() });
        Ok(())
    }
}

struct BatchGet {
    view: RegionView,
    /// What is still to be read: as the client knows it, and as it lies in the engine.
    keys: std::vec::IntoIter<(Bytes, Bytes)>,
    now_seconds: u64,
    reply: BoundedPairs,
}

impl ReadJob for BatchGet {
    type Output = Vec<KvPair>;

    fn slice(&mut self) -> Result<Option<Vec<KvPair>>> {
        let (mut count, mut bytes) = (0, 0);
        for (key, data_key) in self.keys.by_ref().take(SLICE_KEYS) {
            let stored = self.view.view.get(ColumnFamily::Raw, &data_key)?;
            count += 1;
            bytes += (data_key.len() + stored.as_ref().map_or(0, Bytes::len)) as u64;
            let value = stored.map(StoredValue::decode).transpose()?;
            if let Some(value) = value.and_then(|value| value.live_at(self.now_seconds)) {
                self.reply.push(key, value.user)?;
            }
        }
        self.view.reads.count(count, bytes);
        let finished = self.keys.as_slice().is_empty();
        Ok(finished.then(|| std::mem::take(&mut self.reply.pairs)))
    }
}
