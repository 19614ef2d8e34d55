//! The safe point of garbage collection: versions below it may be gone. Used by the cluster; stores poll
//! it and clients raise it.

/// A mark that only rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SafePoint(u64);

impl SafePoint {
    /// The mark, a timestamp; 0 if nothing was ever collected.
    pub fn get(self) -> u64 {
        self.0
    }

    /// What the mark will be after a request for `wanted`: a request below it changes nothing.
    pub fn raised_to(self, wanted: u64) -> u64 {
        self.0.max(wanted)
    }

    /// Reports that the mark is durable at `safe_point`.
    pub fn install(&mut self, safe_point: u64) {
        assert!(safe_point >= self.0, "the safe point goes back from {} to {safe_point}", self.0);
        self.0 = safe_point;
    }
}
