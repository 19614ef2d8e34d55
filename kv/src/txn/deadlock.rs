//! Finds circles among the waits of all stores: the graph of who waits for whom, as stores tell it.
//!
//! One store of a cluster is the *detector*: the one that leads the region of the empty key. The others tell it of
//! every wait ([`super::telling`]):
//!
//! 1. A wait is an edge, from a transaction at a key to the one that holds the key. If it closes a circle it is not
//!    taken in, and its store is told the circle; the request that waits is refused with it.
//! 2. Waits are told again while they last. One that is not told for [`EDGE_LIFE`] is forgotten: its store has died, or
//!    takes another store for the detector.
//! 3. A lock that changes hands changes the edges of those who go on waiting. That may close a circle as well, and is
//!    looked at like a new edge; an edge that is told again unchanged is not.
//!
//! A detector begins with nothing. What its predecessor knew it hears again from those who still wait, and whichever
//! edge comes last closes the circle.
//!
//! What it does not do: it has no clock and no streams, it asks nobody, and does not know whether it is the detector.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use skerry_proto::deadlock::{
    DeadlockRequest, DeadlockRequestType, DeadlockResponse, WaitForEntry,
};
use skerry_proto::types::Ts;

use super::error::key_hash;
use super::planted::Planted;

/// After so long without being told of it an edge is forgotten.
pub const EDGE_LIFE: Duration = Duration::from_secs(3);

/// Edges after which no more are taken in: their waits end by time-out.
const EDGES_MAX: usize = 20_000;

/// That a transaction waits for another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitEdge {
    /// The one that waits.
    pub waiter: Ts,
    /// The one that holds the key.
    pub holder: Ts,
    /// The user key.
    pub key: Bytes,
    /// What the waiting client has given with its request.
    pub tag: Bytes,
    /// For how long it waits.
    pub waited_ms: u64,
}

/// The graph.
#[derive(Debug, Default)]
pub struct Detector {
    /// By who waits, and at which key. A transaction may wait at many keys.
    edges: BTreeMap<(Ts, Bytes), Known>,
    /// The bug that a test has planted.
    planted: Option<Planted>,
}

#[derive(Debug)]
struct Known {
    edge: WaitEdge,
    /// When it was told last.
    told_at: Duration,
}

impl Detector {
    /// Knows of nobody, and has a bug.
    pub fn with_planted(planted: Option<Planted>) -> Detector {
        Detector { planted, ..Detector::default() }
    }

    /// Does what a store asks for. Answers only if a wait closes a circle.
    pub fn take(&mut self, request: DeadlockRequest, now: Duration) -> Option<DeadlockResponse> {
        let kind = request.tp();
        let entry = request.entry?;
        let waiter = Ts::from(entry.txn);
        match kind {
            DeadlockRequestType::CleanUpWaitFor => self.clean_up_wait(waiter, &entry.key),
            DeadlockRequestType::CleanUp => self.clean_up(waiter),
            DeadlockRequestType::Detect => {
                let back = self.detect(WaitEdge::of(&entry), now)?;
                return Some(response(entry, &back));
            }
        }
        None
    }

    /// Takes an edge in. If it would close a circle, answers the edges that lead back, from the one of its holder to
    /// the one of whoever waits for its waiter.
    pub fn detect(&mut self, edge: WaitEdge, now: Duration) -> Option<Vec<WaitEdge>> {
        let place = (edge.waiter, edge.key.clone());
        if self.planted == Some(Planted::DetectorEdgeForgotten)
            && let Some(known) = self.edges.get_mut(&place).filter(|known| is_live(known, now))
        {
            known.told_at = now;
            return None;
        }
        let is_known = self.live(&place, now).is_some_and(|known| known.edge.holder == edge.holder);
        if !is_known {
            // A former holder of the key does not matter any more.
            self.edges.remove(&place);
            if let Some(back) = self.path(edge.holder, edge.waiter, now) {
                return Some(back);
            }
            if self.edges.len() >= EDGES_MAX {
                self.forget_old(now);
            }
            if self.edges.len() >= EDGES_MAX {
                return None;
            }
        }
        self.edges.insert(place, Known { edge, told_at: now });
        None
    }

    /// The transaction does not wait at this key any more.
    fn clean_up_wait(&mut self, waiter: Ts, key: &Bytes) {
        self.edges.remove(&(waiter, key.clone()));
    }

    /// The transaction does not wait any more.
    fn clean_up(&mut self, waiter: Ts) {
        self.edges.retain(|(known, _), _| *known != waiter);
    }

    /// Knows nothing any more.
    pub fn clear(&mut self) {
        self.edges.clear();
    }

    /// Forgets what was not told for long.
    fn forget_old(&mut self, now: Duration) {
        self.edges.retain(|_, known| is_live(known, now));
    }

    /// All edges, with how long their waiters have waited by now.
    pub fn entries(&self, now: Duration) -> Vec<WaitForEntry> {
        let live = self.edges.values().filter(|known| is_live(known, now));
        live.map(|known| aged(known, now).to_wire()).collect()
    }

    fn live(&self, place: &(Ts, Bytes), now: Duration) -> Option<&Known> {
        self.edges.get(place).filter(|known| is_live(known, now))
    }

    /// The shortest way along edges from one transaction to another.
    fn path(&self, from: Ts, to: Ts, now: Duration) -> Option<Vec<WaitEdge>> {
        // By which edge a transaction was reached.
        let mut reached: BTreeMap<Ts, &Known> = BTreeMap::new();
        let mut next = VecDeque::from([from]);
        while let Some(waiter) = next.pop_front() {
            let places = (waiter, Bytes::new())..;
            let own = self.edges.range(places).take_while(|((known, _), _)| *known == waiter);
            for (_, known) in own.filter(|(_, known)| is_live(known, now)) {
                let holder = known.edge.holder;
                if holder != from && !reached.contains_key(&holder) {
                    reached.insert(holder, known);
                    next.push_back(holder);
                }
            }
        }
        let mut edges = VecDeque::from([aged(reached.get(&to)?, now)]);
        while edges[0].waiter != from {
            edges.push_front(aged(reached[&edges[0].waiter], now));
        }
        Some(edges.into())
    }
}

impl WaitEdge {
    fn of(entry: &WaitForEntry) -> WaitEdge {
        WaitEdge {
            waiter: Ts::from(entry.txn),
            holder: Ts::from(entry.wait_for_txn),
            key: entry.key.clone(),
            tag: entry.resource_group_tag.clone(),
            waited_ms: entry.wait_time,
        }
    }

    fn to_wire(&self) -> WaitForEntry {
        WaitForEntry {
            txn: self.waiter.get(),
            wait_for_txn: self.holder.get(),
            key_hash: key_hash(&self.key),
            key: self.key.clone(),
            resource_group_tag: self.tag.clone(),
            wait_time: self.waited_ms,
        }
    }
}

/// The answer about an edge that closes a circle, with the way back.
fn response(refused: WaitForEntry, back: &[WaitEdge]) -> DeadlockResponse {
    let last = back.last().map_or_else(|| refused.key.clone(), |edge| edge.key.clone());
    DeadlockResponse {
        entry: Some(refused),
        deadlock_key_hash: key_hash(&last),
        deadlock_key: last,
        wait_chain: back.iter().map(WaitEdge::to_wire).collect(),
    }
}

fn is_live(known: &Known, now: Duration) -> bool {
    now.saturating_sub(known.told_at) < EDGE_LIFE
}

/// An edge as it is by now.
fn aged(known: &Known, now: Duration) -> WaitEdge {
    let since = now.saturating_sub(known.told_at).as_millis();
    let since = u64::try_from(since).unwrap_or(u64::MAX);
    // What was told is some store's word.
    let waited_ms = known.edge.waited_ms.saturating_add(since);
    WaitEdge { waited_ms, ..known.edge.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(waiter: u64, holder: u64, key: &'static str) -> WaitEdge {
        let (waiter, holder) = (Ts::from(waiter), Ts::from(holder));
        WaitEdge { waiter, holder, key: key.into(), tag: Bytes::new(), waited_ms: 5 }
    }

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn chain(found: Option<Vec<WaitEdge>>) -> Vec<(u64, u64)> {
        let edges = found.unwrap_or_default();
        edges.iter().map(|edge| (edge.waiter.get(), edge.holder.get())).collect()
    }

    #[test]
    fn the_edge_that_closes_a_circle_is_refused_with_the_way_back() {
        let mut detector = Detector::default();
        assert_eq!(detector.detect(edge(1, 2, "b"), at(0)), None);
        assert_eq!(detector.detect(edge(1, 9, "other"), at(0)), None);
        assert_eq!(detector.detect(edge(2, 3, "c"), at(0)), None);
        let found = detector.detect(edge(3, 1, "a"), at(10));
        assert_eq!(found.as_ref().map(|edges| edges[0].waited_ms), Some(15));
        assert_eq!(chain(found), [(1, 2), (2, 3)]);
        // It was not taken in: whoever was refused does not wait.
        assert_eq!(detector.entries(at(10)).len(), 3);
        assert_eq!(
            chain(detector.detect(edge(3, 1, "a"), at(10))),
            [(1, 2), (2, 3)],
            "asked again"
        );
        detector.clean_up_wait(Ts::from(2), &Bytes::from("c"));
        assert_eq!(detector.detect(edge(3, 1, "a"), at(10)), None);
        detector.clean_up(Ts::from(1));
        assert_eq!(detector.entries(at(10)).len(), 1);
    }

    #[test]
    fn what_stores_ask_is_answered_only_with_a_circle() {
        let mut detector = Detector::default();
        let mut ask = |tp: DeadlockRequestType, edge: WaitEdge| {
            let entry = Some(edge.to_wire());
            detector.take(DeadlockRequest { tp: tp.into(), entry }, at(0))
        };
        assert_eq!(ask(DeadlockRequestType::Detect, edge(1, 2, "b")), None);
        let refused = edge(2, 1, "a");
        let answer = ask(DeadlockRequestType::Detect, refused.clone()).expect("a circle of two");
        assert_eq!(answer.entry, Some(refused.to_wire()));
        assert_eq!(answer.wait_chain, [edge(1, 2, "b").to_wire()]);
        assert_eq!(
            (&answer.deadlock_key[..], answer.deadlock_key_hash),
            (&b"b"[..], key_hash(b"b"))
        );
        assert_eq!(ask(DeadlockRequestType::CleanUpWaitFor, edge(1, 0, "b")), None);
        assert_eq!(ask(DeadlockRequestType::Detect, refused), None, "1 does not wait any more");
        assert_eq!(ask(DeadlockRequestType::CleanUp, edge(2, 0, "")), None);
        assert_eq!(detector.take(DeadlockRequest::default(), at(0)), None, "it says nothing");
        assert!(detector.entries(at(0)).is_empty());
    }

    #[test]
    fn what_is_not_told_again_is_forgotten() {
        let mut detector = Detector::default();
        detector.detect(edge(1, 2, "b"), at(0));
        detector.detect(edge(2, 3, "c"), at(0));
        detector.detect(edge(2, 3, "c"), at(2_000));
        assert_eq!(detector.detect(edge(3, 1, "a"), at(3_000)), None, "1 waits no longer");
        detector.forget_old(at(3_000));
        assert_eq!(detector.edges.len(), 2);
        // The other one comes back, and closes the circle.
        assert_eq!(chain(detector.detect(edge(1, 2, "b"), at(3_100))), [(2, 3), (3, 1)]);
    }

    #[test]
    fn a_lock_that_changes_hands_may_close_a_circle() {
        let mut detector = Detector::default();
        detector.detect(edge(1, 5, "k"), at(0));
        detector.detect(edge(2, 1, "a"), at(0));
        assert_eq!(detector.detect(edge(1, 5, "k"), at(100)), None);
        assert_eq!(chain(detector.detect(edge(1, 2, "k"), at(200))), [(2, 1)]);
    }

    #[test]
    fn a_transaction_that_waits_for_itself_elsewhere_is_none_of_its_own_waits() {
        let mut detector = Detector::default();
        detector.detect(edge(1, 2, "x"), at(0));
        assert_eq!(detector.detect(edge(1, 2, "y"), at(0)), None);
        assert_eq!(chain(detector.detect(edge(2, 1, "z"), at(0))), [(1, 2)]);
    }
}
