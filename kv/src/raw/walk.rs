//! Walks the live pairs of a range, a bounded slice at a time: the loop under scans and checksums.

use std::ops::ControlFlow;

use bytes::Bytes;
use skerry_raftstore::engine::{ColumnFamily, KeyRange};

use super::key::KeyForm;
use super::value;
use crate::error::{Error, Result};
use crate::storage::RegionView;

/// Pairs after which another request has its turn, expired ones included: a range full of them must
/// not hold a thread either.
const SLICE_PAIRS: usize = 1_024;
/// Bytes after which it has, for ranges of large values.
const SLICE_BYTES: usize = 1 << 20;

/// A walk through one range.
pub(super) struct Walk {
    /// What has not been walked, as data keys: shrinks from the side where the walk is.
    remaining: KeyRange,
    reverse: bool,
}

impl Walk {
    /// The walk for a range of a request, clamped to the region; `None` for an empty range. `start`
    /// is where the walk begins: of a reverse one it is the upper bound.
    ///
    /// A forward walk must begin in the region, where the client looked it up. A reverse one is
    /// looked up by either bound, depending on the client, so it need only meet the region.
    pub(super) fn over(
        view: &RegionView,
        keys: KeyForm,
        start: &[u8],
        end: &[u8],
        reverse: bool,
    ) -> Result<Option<Walk>> {
        let (low, high) = if reverse { (end, start) } else { (start, end) };
        let range = keys.range(low, high)?;
        if range.bounds().is_empty() {
            return Ok(None);
        }
        let begins_inside = reverse || view.region.contains_key(&range.start);
        match view.clamp(keys.space, &range.bounds()) {
            Some(remaining) if begins_inside => Ok(Some(Walk { remaining, reverse })),
            _ => Err(Error::KeyNotInRegion { key: range.start, region: view.region.clone() }),
        }
    }

    /// Shows the next pairs that are live at `now_seconds` to `visit`, as data key and user value.
    /// `true` when the range is at its end or `visit` broke off; `false` after a slice.
    pub(super) fn slice(
        &mut self,
        view: &RegionView,
        now_seconds: u64,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<bool> {
        if self.remaining.is_empty() {
            return Ok(true);
        }
        let mut cursor = view.view.cursor(ColumnFamily::Raw, &self.remaining)?;
        let mut stands =
            if self.reverse { cursor.seek_to_last()? } else { cursor.seek_to_first()? };
        let (mut pairs, mut bytes) = (0, 0);
        let is_over = loop {
            if !stands {
                break true;
            }
            let (user, expiry) = value::split(cursor.value())?;
            pairs += 1;
            bytes += cursor.key().len() + cursor.value().len();
            if value::is_live(expiry, now_seconds) && visit(cursor.key(), user)?.is_break() {
                break true;
            }
            if pairs >= SLICE_PAIRS || bytes >= SLICE_BYTES {
                let last = cursor.key();
                if self.reverse {
                    self.remaining.end = Bytes::copy_from_slice(last);
                } else {
                    // The first key behind `last`.
                    self.remaining.start = [last, &[0]].concat().into();
                }
                break false;
            }
            stands = if self.reverse { cursor.previous()? } else { cursor.next()? };
        };
        view.reads.count(pairs as u64, bytes as u64);
        Ok(is_over)
    }
}
