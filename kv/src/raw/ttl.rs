//! RawGetKeyTTL: how long a pair has still to live.

use super::RawStore;
use crate::error::Result;
use crate::storage::RequestContext;

impl RawStore {
    /// Seconds until `key` expires, never more than it was written with; 0 if it stays for ever;
    /// `None` if it is not there.
    pub async fn key_ttl(
        &self,
        context: &RequestContext,
        family: &str,
        key: &[u8],
    ) -> Result<Option<u64>> {
        // One look at the clock decides both, or a pair that ends between two would have zero
        // seconds left, which means for ever.
        let live = self.get_live(context, family, key).await?;
        Ok(live.map(|(value, now_seconds)| value.ttl_at(now_seconds)))
    }
}
