//! The simulator's only source of chance: a number that is mixed again for each draw.

use skerry_raftstore::time::splitmix64;

/// Draws that depend on nothing but the seed and the draws before.
#[derive(Clone, Debug)]
pub struct Chance {
    state: u64,
}

impl Chance {
    /// The draws of `seed`. Different `purpose`s of one seed have nothing to do with each other.
    pub fn new(seed: u64, purpose: &str) -> Chance {
        let mix = |state, byte: u8| splitmix64(state ^ u64::from(byte));
        Chance { state: purpose.bytes().fold(splitmix64(seed), mix) }
    }

    /// Any number.
    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(1);
        splitmix64(self.state)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        // Skewed by one part in 2^64 / limit, which no run notices.
        self.draw() % limit
    }

    /// A place in a list of `length` things, which is not 0.
    pub fn place(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("below a length")
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True `percent` times of a hundred.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of `things`, if there is any.
    pub fn pick<T: Clone>(&mut self, things: &[T]) -> Option<T> {
        (!things.is_empty()).then(|| things[self.place(things.len())].clone())
    }

    /// Brings `things` into some order.
    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        for end in (1..things.len()).rev() {
            things.swap(end, self.place(end + 1));
        }
    }
}
