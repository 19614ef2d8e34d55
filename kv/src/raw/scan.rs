//! RawScan and RawBatchScan: the first pairs of one or more ranges, upwards or downwards.
//!
//! A range may end outside the region and is then clamped: the client goes on in the next region
//! itself. It gets at most `limit` pairs of each range, and fewer only if there are no more. Of several ranges,
//! one without an end goes as far as the next one begins, as in TiKV, where it comes before that.

use std::collections::VecDeque;
use std::mem;
use std::ops::ControlFlow;

use bytes::Bytes;
use skerry_proto::kvrpcpb::KvPair;

use super::RawStore;
use super::get::BoundedPairs;
use super::key::KeyForm;
use super::walk::Walk;
use crate::error::Result;
use crate::storage::read_pool::ReadJob;
use crate::storage::{RegionView, RequestContext};

/// What a scan asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Where each range begins and where it ends. A reverse one begins at its upper bound, which is
    /// exclusive, and ends with its lower bound, which is inclusive.
    pub ranges: Vec<(Bytes, Bytes)>,
    /// Pairs of each range; 0 asks for nothing.
    pub limit: u32,
    /// Leaves the values empty.
    pub key_only: bool,
    /// Downwards.
    pub reverse: bool,
}

impl Scan {
    /// Where the range at a place ends.
    fn end_of(&self, at: usize) -> &[u8] {
        let (start, end) = &self.ranges[at];
        let Some((next, _)) = self.ranges.get(at + 1).filter(|_| end.is_empty()) else {
            return end;
        };
        let comes_after = match self.reverse {
            // A reverse range without a start begins above all keys.
            true => !next.is_empty() && (start.is_empty() || next < start),
            false => start < next,
        };
        if comes_after { next } else { end }
    }
}

impl RawStore {
    /// The pairs of all ranges, range after range, all of one moment.
    pub async fn scan(
        &self,
        context: &RequestContext,
        family: &str,
        scan: Scan,
    ) -> Result<Vec<KvPair>> {
        let keys = self.admit(context, family)?;
        let now_seconds = self.now_seconds();
        let view = self.storage.async_snapshot(context).await?;
        let mut walks = VecDeque::with_capacity(scan.ranges.len());
        for (at, (start, _)) in scan.ranges.iter().enumerate() {
            walks.extend(Walk::over(&view, keys, start, scan.end_of(at), scan.reverse)?);
        }
        if walks.is_empty() || scan.limit == 0 {
            return Ok(Vec::new());
        }
        let bytes_max = self.limits.reply_bytes_max;
        let job = ScanJob {
            view,
            walks,
            keys,
            now_seconds,
            limit: scan.limit,
            key_only: scan.key_only,
            taken: 0,
            reply: BoundedPairs { pairs: Vec::new(), bytes: 0, bytes_max },
        };
        self.reads.run(job).await
    }
}

struct ScanJob {
    view: RegionView,
    /// The ranges that are not finished; the first is under way.
    walks: VecDeque<Walk>,
    keys: KeyForm,
    now_seconds: u64,
    limit: u32,
    key_only: bool,
    /// Pairs of the range that is under way.
    taken: u32,
    reply: BoundedPairs,
}

impl ReadJob for ScanJob {
    type Output = Vec<KvPair>;

    fn slice(&mut self) -> Result<Option<Vec<KvPair>>> {
        let Some(walk) = self.walks.front_mut() else {
            return Ok(Some(mem::take(&mut self.reply.pairs)));
        };
        let finished = walk.slice(&self.view, self.now_seconds, |key, user| {
            let value = if self.key_only { Bytes::new() } else { Bytes::copy_from_slice(user) };
            self.reply.push(self.keys.client_key(key)?, value)?;
            self.taken += 1;
            let enough = self.taken == self.limit;
            Ok(if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        if finished {
            self.walks.pop_front();
            self.taken = 0;
        }
        Ok(self.walks.is_empty().then(|| mem::take(&mut self.reply.pairs)))
    }
}
