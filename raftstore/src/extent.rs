//! How much data: bytes of keys and values, and how many keys.

use std::ops::{AddAssign, Div};

/// See the module. Of a region it is an estimate: writes are added as they come, and it is corrected when the
/// region is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Of keys and values.
    pub bytes: u64,
    /// How many.
    pub keys: u64,
}

impl AddAssign for Extent {
    fn add_assign(&mut self, other: Extent) {
        self.bytes += other.bytes;
        self.keys += other.keys;
    }
}

impl Div<u64> for Extent {
    type Output = Extent;

    fn div(self, parts: u64) -> Extent {
        Extent { bytes: self.bytes / parts, keys: self.keys / parts }
    }
}
