//! How much data: bytes of keys and values, and how many keys.

use std::ops::{Add, AddAssign, Div};

/// What is known of a region's extent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// What it is, roughly.
    pub extent: Extent,
    /// Whether it was counted, and everything that was written since was added: then it is certainly not larger.
    pub is_bound: bool,
}

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

impl Add for Extent {
    type Output = Extent;

    fn add(mut self, other: Extent) -> Extent {
        self += other;
        self
    }
}

impl Div<u64> for Extent {
    type Output = Extent;

    fn div(self, parts: u64) -> Extent {
        Extent { bytes: self.bytes / parts, keys: self.keys / parts }
    }
}
