//! Ids of stores, regions and peers: one sequence, never repeated, also not after a crash.
//! The cluster hands them out; their upper bound is made durable in batches, not one by one.

use crate::planted::Planted;

/// The sequence. Ids begin at 1.
///
/// Invariant: every id that has left the process is at most the durable bound, and a restart goes on above
/// that bound. What a crash leaves unused of a batch is never used.
#[derive(Debug)]
pub struct IdAllocator {
    /// The newest id taken.
    last: u64,
    /// The bound that is durable.
    durable: u64,
    /// How many ids one durable write reserves.
    batch: u64,
    planted: Option<Planted>,
}

/// Ids that were taken, and what must be durable before they may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenIds {
    /// The largest of the consecutive ids.
    pub last: u64,
    /// The bound to be made durable first, unless the old one suffices.
    pub bound: Option<u64>,
}

impl IdAllocator {
    /// A sequence of which nothing is used yet.
    pub fn new(batch: u64) -> IdAllocator {
        assert!(batch > 0, "ids are reserved in batches of at least one");
        IdAllocator { last: 0, durable: 0, batch, planted: None }
    }

    /// Takes `count` consecutive ids. They are gone even if the bound never becomes durable.
    pub fn take(&mut self, count: u64) -> TakenIds {
        assert!(count > 0, "no ids asked for");
        self.last = self.last.checked_add(count).expect("2^64 ids outlast every cluster");
        let is_saved = self.planted == Some(Planted::IdBoundNotSaved) && self.durable > 0;
        let is_beyond = self.last > self.durable && !is_saved;
        let bound = is_beyond.then(|| self.last.saturating_add(self.batch));
        TakenIds { last: self.last, bound }
    }

    /// Plants a bug.
    pub fn plant(&mut self, planted: Option<Planted>) {
        self.planted = planted;
    }

    /// Reports that `bound` is durable, by this process or one before it.
    pub fn reserved(&mut self, bound: u64) {
        assert!(bound >= self.durable, "id bound goes back from {} to {bound}", self.durable);
        self.durable = bound;
    }

    /// Forgets how far the last batch was used: called once, after a restart has reported the bound.
    pub fn skip_to_bound(&mut self) {
        self.last = self.last.max(self.durable);
    }
}
