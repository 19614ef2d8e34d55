//! What happened: as one number that two runs of a seed must share, as counts, and as a story for people.

use std::collections::BTreeMap;
use std::fmt::Display;

use skerry_raftstore::time::splitmix64;

/// Microseconds of the simulated world since its beginning.
pub type Moment = u64;

/// Microseconds of a millisecond.
pub const MILLISECOND: Moment = 1_000;

/// Microseconds of a second.
pub const SECOND: Moment = 1_000 * MILLISECOND;

/// A hash that depends on nothing but what goes in: not on the process, not on addresses in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(u64);

impl Default for Digest {
    fn default() -> Digest {
        Digest(0xD16E_5700)
    }
}

impl Digest {
    /// Mixes a number in.
    pub fn number(&mut self, number: u64) {
        self.0 = splitmix64(self.0 ^ number);
    }

    /// Mixes bytes in, with their length.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            let word = word.try_into().expect("chunks of eight have eight bytes");
            // A weaker mix for the long part: this runs over every byte that is sent or written.
            self.0 = (self.0 ^ u64::from_le_bytes(word)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            self.0 ^= self.0 >> 29;
        }
        let rest = words.remainder().iter().fold(0, |rest, byte| rest << 8 | u64::from(*byte));
        self.number(rest);
    }

    /// The number so far.
    pub fn value(self) -> u64 {
        self.0
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Trace {
    digest: Digest,
    counts: BTreeMap<&'static str, u64>,
    /// Whether lines are wanted; they cost as much as the run.
    tells: bool,
}

impl Trace {
    /// A trace that prints its story, or keeps it to itself.
    pub fn new(tells: bool) -> Trace {
        Trace { tells, ..Trace::default() }
    }

    /// Mixes something that happened into the number: a delivery, an answer, what a disk took.
    pub fn mix(&mut self, now: Moment, kind: u64, number: u64) {
        self.digest.number(now);
        self.digest.number(kind << 56 ^ number);
    }

    /// Mixes bytes into the number.
    pub fn mix_bytes(&mut self, bytes: &[u8]) {
        self.digest.bytes(bytes);
    }

    /// The number so far.
    pub fn value(&self) -> u64 {
        self.digest.value()
    }

    /// Counts a fault or a rare event.
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// All counts, by name.
    pub fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }

    /// Whether somebody reads the story.
    pub fn tells(&self) -> bool {
        self.tells
    }

    /// A line of the story: when, who, what.
    pub fn tell(&self, now: Moment, who: impl Display, what: impl FnOnce() -> String) {
        if self.tells {
            let (seconds, rest) = (now / SECOND, now % SECOND);
            println!("{seconds:3}.{rest:06} {who:>4}  {}", what());
        }
    }
}
