//! RawChecksum: a number that is equal for equal data, whatever the order in which regions are
//! asked.
//!
//! Each pair has the CRC-64/XZ of its key, as clients know it, followed by its value; the checksum
//! is the exclusive or of all. Parts of different regions can be combined in the same way, so a
//! client compares whole clusters or a backup without reading them.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use bytes::Bytes;
use skerry_proto::kvrpcpb::ChecksumAlgorithm;

use super::RawStore;
use super::key::KeyForm;
use super::walk::Walk;
use crate::error::{Error, Result};
use crate::storage::read_pool::ReadJob;
use crate::storage::{RegionView, RequestContext};

/// The checksum of some ranges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum {
    /// See above.
    pub checksum: u64,
    /// Live pairs.
    pub total_pairs: u64,
    /// Bytes of their keys and values.
    pub total_bytes: u64,
}

impl RawStore {
    /// The checksum of the parts of `ranges` that lie in the region.
    pub async fn checksum(
        &self,
        context: &RequestContext,
        algorithm: i32,
        ranges: Vec<(Bytes, Bytes)>,
    ) -> Result<Checksum> {
        let keys = self.admit(context, "")?;
        if ChecksumAlgorithm::try_from(algorithm) != Ok(ChecksumAlgorithm::Crc64Xor) {
            return Err(Error::UnknownAlgorithm(algorithm));
        }
        let now_seconds = self.now_seconds();
        let view = self.storage.async_snapshot(context).await?;
        let mut walks = VecDeque::with_capacity(ranges.len());
        for (start, end) in &ranges {
            walks.extend(Walk::over(&view, keys, start, end, false)?);
        }
        let sum = Checksum::default();
        self.reads.run(ChecksumJob { view, walks, keys, now_seconds, sum }).await
    }
}

impl Checksum {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        let mut digest = crc64fast::Digest::new();
        digest.write(key);
        digest.write(value);
        self.checksum ^= digest.sum64();
        self.total_pairs += 1;
        self.total_bytes += (key.len() + value.len()) as u64;
    }
}

struct ChecksumJob {
    view: RegionView,
    /// The ranges that are not finished; the first is under way.
    walks: VecDeque<Walk>,
    keys: KeyForm,
    now_seconds: u64,
    sum: Checksum,
}

impl ReadJob for ChecksumJob {
    type Output = Checksum;

    fn slice(&mut self) -> Result<Option<Checksum>> {
        let Some(walk) = self.walks.front_mut() else { return Ok(Some(self.sum)) };
        let finished = walk.slice(&self.view, self.now_seconds, |key, user| {
            self.sum.add(&self.keys.client_key(key)?, user);
            Ok(ControlFlow::Continue(()))
        })?;
        if finished {
            self.walks.pop_front();
        }
        Ok(self.walks.is_empty().then_some(self.sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_of_other_stores() {
        // CRC-64/XZ of "123456789" as its catalogue has it.
        let mut sum = Checksum::default();
        sum.add(b"1234", b"56789");
        assert_eq!(
            sum,
            Checksum { checksum: 0x995D_C9BB_DF19_39FA, total_pairs: 1, total_bytes: 9 }
        );
        // The same pair again takes itself out, but is counted.
        sum.add(b"1234", b"56789");
        assert_eq!(sum, Checksum { checksum: 0, total_pairs: 2, total_bytes: 18 });
    }
}
