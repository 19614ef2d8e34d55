//! RawDeleteRange: removes every key of a range, whether or not it has a TTL.

use skerry_raftstore::engine::{ColumnFamily, WriteBatch};

use super::RawStore;
use crate::error::{Error, Result};
use crate::storage::{Permit, RequestContext};

impl RawStore {
    /// Removes the part of the range that lies in the region. It must begin there; an end behind
    /// the region is clamped, as everywhere, and the client goes on in the next.
    pub async fn delete_range(
        &self,
        context: &RequestContext,
        family: &str,
        (start, end): (&[u8], &[u8]),
        permit: Permit,
    ) -> Result<()> {
        let form = self.admit(context, family)?;
        let range = form.range(start, end)?;
        let view = self.storage.async_snapshot(context).await?;
        if range.bounds().is_empty() {
            return Ok(());
        }
        let begins_inside = view.region.contains_key(&range.start);
        let Some(inside) = view.clamp(form.space, &range.bounds()).filter(|_| begins_inside) else {
            return Err(Error::KeyNotInRegion { key: range.start, region: view.region });
        };
        drop(view);
        let mut batch = WriteBatch::new();
        batch.delete_range(ColumnFamily::Raw, inside);
        self.storage.async_write(context, batch, permit).await
    }
}
