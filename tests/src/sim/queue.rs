//! What is going to happen in the simulated world: events in the order of their time, and of two at the same
//! time the one that was planned first.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use skerry_proto::raft_serverpb::RaftMessage;
use skerry_raftstore::effects::{RegionReport, SplitAsk};

use super::clients::{Answer, Request};
use super::faults::Fault;
use super::scheduler::Step;
use super::script::{Errand, Ticket};
use super::trace::Moment;
use super::transactions::Happening;

/// Something that is going to happen. Stores are named by number; what is meant for one life of a store
/// names that too.
#[derive(Debug)]
pub(super) enum Event {
    /// A tick of a store.
    Tick { node: usize, life: u64 },
    /// An actor of a store takes a batch.
    Turn { node: usize, life: u64, actor: usize },
    /// A message reaches a store.
    Deliver { node: usize, message: Box<RaftMessage> },
    /// A snapshot, with its files, reaches a store.
    DeliverSnapshot { from: usize, life: u64, node: usize, message: Box<RaftMessage> },
    /// A request reaches a store.
    Request(Box<Request>),
    /// An answer reaches a client.
    Answer { client: usize, attempt: u64, region: u64, answer: Box<Answer> },
    /// A client asks.
    Ask { client: usize },
    /// A client has waited long enough for an attempt.
    GiveUp { client: usize, attempt: u64 },
    /// A report reaches the scheduler.
    Report(Box<RegionReport>),
    /// A wish to cut a region reaches the scheduler.
    SplitAsk(Box<SplitAsk>),
    /// The scheduler looks after everything.
    Govern,
    /// The operator thinks.
    Operate,
    /// A step of the operator reaches a store.
    Step(Box<Step>),
    /// What a script wants of a store reaches it.
    Errand(Box<Errand>, Ticket),
    /// Something goes wrong.
    Fault,
    /// Something that went wrong is over.
    Over(Fault),
    /// A store starts.
    Start { node: usize },
    /// A leader is cut off from all others, and a voter that knew of it goes down until it is back.
    Betray { leader: usize, voter: usize, back: Moment },
    /// Some stores are not heard by others any more.
    Silence { speakers: Vec<usize>, listeners: Vec<usize> },
    /// A region is cut, as it is by then.
    Cut { region: u64 },
    /// All links open.
    Reunite,
    /// Something in a run with transactions.
    Transactions(Box<Happening>),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    events: BinaryHeap<Reverse<Planned>>,
    planned: u64,
}

#[derive(Debug)]
struct Planned {
    at: Moment,
    number: u64,
    event: Event,
}

impl Queue {
    /// Plans an event.
    pub(super) fn plan(&mut self, at: Moment, event: Event) {
        self.planned += 1;
        self.events.push(Reverse(Planned { at, number: self.planned, event }));
    }

    /// The next event before `end`.
    pub(super) fn next(&mut self, end: Moment) -> Option<(Moment, Event)> {
        let Reverse(next) = self.events.peek()?;
        if next.at >= end {
            return None;
        }
        let Reverse(Planned { at, event, .. }) = self.events.pop()?;
        Some((at, event))
    }
}

impl Planned {
    fn order(&self) -> (Moment, u64) {
        (self.at, self.number)
    }
}

impl PartialEq for Planned {
    fn eq(&self, other: &Planned) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Planned) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    fn cmp(&self, other: &Planned) -> Ordering {
        self.order().cmp(&other.order())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_in_the_order_of_planning() {
        let mut queue = Queue::default();
        for (at, client) in [(5, 0), (3, 1), (5, 2), (3, 3), (9, 4)] {
            queue.plan(at, Event::Ask { client });
        }
        let mut seen = Vec::new();
        while let Some((at, Event::Ask { client })) = queue.next(9) {
            seen.push((at, client));
        }
        assert_eq!(seen, [(3, 1), (3, 3), (5, 0), (5, 2)]);
    }
}
