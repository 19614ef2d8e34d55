//! Latches: who may read a key and then write what it read, one after the other.
//!
//! A compare-and-swap reads before it writes, and so does nearly every command of a transaction.
//! Between the two no other of its kind may touch the key. Each of them takes the latches of all
//! its keys first:
//!
//! 1. [`Latches::acquire`] puts the request into the line of each of its keys, all under one mutex,
//!    so that any two requests stand in the same order in every line they share. Nobody can wait in
//!    a circle.
//! 2. It holds its latches when it is the first in all its lines. Until then it is a future that
//!    waits; no thread does.
//! 3. The [`Latch`] leaves all lines when it is dropped, also when its owner gave up waiting, and
//!    wakes those who have become first everywhere.
//!
//! Lines are first come, first served. A key without a line costs nothing, so memory follows the
//! number of requests that are under way.
//!
//! *Latch* is in memory and lasts for one request; a *lock* is Percolator's and lies on disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_channel::oneshot;

/// All lines. One for all raw requests of a store, one for all its transactions: their keys have
/// nothing in common.
#[derive(Default)]
pub struct Latches {
    /// Nothing is awaited, sent or read from the engine under it.
    lines: Mutex<Lines>,
}

/// **Invariant.** A ticket is in `waiting` if and only if it is not the first of every line it
/// stands in. No line is empty.
#[derive(Default)]
struct Lines {
    /// Numbers the requests; never used twice.
    next_ticket: u64,
    /// For each key the tickets of those who want it, in the order in which they came.
    by_key: BTreeMap<Bytes, VecDeque<u64>>,
    /// Those who do not hold their latches yet.
    waiting: BTreeMap<u64, Waiter>,
}

struct Waiter {
    /// In how many lines somebody stands before this one.
    behind: usize,
    /// Tells that it is the first everywhere.
    first: oneshot::Sender<()>,
}

impl Latches {
    /// No latch is held.
    pub fn new() -> Arc<Latches> {
        Arc::new(Latches::default())
    }

    /// Waits until the latches of all `keys` are free and holds them. A key may be named more than
    /// once.
    pub async fn acquire(self: &Arc<Self>, keys: impl IntoIterator<Item = Bytes>) -> Latch {
        let keys: BTreeSet<Bytes> = keys.into_iter().collect();
        let (latch, first) = self.stand_in_line(keys);
        if let Some(first) = first {
            first.await.expect("a waiter is only removed with its latch, which is held here");
        }
        latch
    }

    /// How many keys are latched or waited for.
    pub fn key_count(&self) -> usize {
        self.lock().by_key.len()
    }

    /// Enters all lines at once. The latch is held when the receiver, if there is one, has fired.
    fn stand_in_line(
        self: &Arc<Self>,
        keys: BTreeSet<Bytes>,
    ) -> (Latch, Option<oneshot::Receiver<()>>) {
        let mut lines = self.lock();
        let ticket = lines.next_ticket;
        lines.next_ticket += 1;
        let mut behind = 0;
        for key in &keys {
            let line = lines.by_key.entry(key.clone()).or_default();
            behind += usize::from(!line.is_empty());
            line.push_back(ticket);
        }
        let receiver = (behind > 0).then(|| {
            let (first, receiver) = oneshot::channel();
            lines.waiting.insert(ticket, Waiter { behind, first });
            receiver
        });
        drop(lines);
        (Latch { latches: self.clone(), ticket, keys }, receiver)
    }

    fn release(&self, ticket: u64, keys: &BTreeSet<Bytes>) {
        let mut woken = Vec::new();
        let mut lines = self.lock();
        lines.waiting.remove(&ticket);
        for key in keys {
            woken.extend(lines.leave(ticket, key));
        }
        drop(lines);
        for first in woken {
            // Whoever gave up at this moment drops its latch and wakes the next.
            let _ = first.send(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    /// Takes `ticket` out of the line of `key`; answers whom this makes the first everywhere.
    fn leave(&mut self, ticket: u64, key: &Bytes) -> Option<oneshot::Sender<()>> {
        let line =
            self.by_key.get_mut(key).expect("a latch stands in the line of each of its keys");
        let was_first = line.front() == Some(&ticket);
        line.retain(|other| *other != ticket);
        let Some(&next) = line.front() else {
            self.by_key.remove(key);
            return None;
        };
        if !was_first {
            return None;
        }
        let waiter = self.waiting.get_mut(&next).expect("it was not the first of this line");
        waiter.behind -= 1;
        if waiter.behind > 0 {
            return None;
        }
        self.waiting.remove(&next).map(|waiter| waiter.first)
    }
}

/// The latches of some keys, or a place in the lines for them. Released on drop.
pub struct Latch {
    latches: Arc<Latches>,
    ticket: u64,
    keys: BTreeSet<Bytes>,
}

impl Drop for Latch {
    fn drop(&mut self) {
        self.latches.release(self.ticket, &self.keys);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    use super::*;

    type Waiting = Pin<Box<dyn Future<Output = Latch>>>;

    fn want(latches: &Arc<Latches>, keys: &[&'static str]) -> Waiting {
        let latches = latches.clone();
        let keys: Vec<Bytes> = keys.iter().map(|key| Bytes::from_static(key.as_bytes())).collect();
        Box::pin(async move { latches.acquire(keys).await })
    }

    fn poll(waiting: &mut Waiting) -> Option<Latch> {
        match waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(latch) => Some(latch),
            Poll::Pending => None,
        }
    }

    #[test]
    fn whoever_comes_first_is_first_and_strangers_do_not_wait() {
        let latches = Latches::new();
        let (mut a, mut b, mut c) =
            (want(&latches, &["k"]), want(&latches, &["k"]), want(&latches, &["k"]));
        let first = poll(&mut a).expect("nobody holds it");
        assert!(poll(&mut b).is_none() && poll(&mut c).is_none());
        assert!(poll(&mut want(&latches, &["other"])).is_some());
        drop(first);
        assert!(poll(&mut c).is_none(), "b came before c");
        let second = poll(&mut b).expect("its turn");
        drop(second);
        assert!(poll(&mut c).is_some());
        assert_eq!(latches.key_count(), 0);
    }

    #[test]
    fn two_that_want_the_same_keys_in_other_orders_do_not_wait_for_each_other() {
        let latches = Latches::new();
        let (mut one, mut two) = (want(&latches, &["x", "y"]), want(&latches, &["y", "x", "y"]));
        let held = poll(&mut one).expect("nobody holds them");
        assert!(poll(&mut two).is_none());
        drop(held);
        assert!(poll(&mut two).is_some());
    }

    #[test]
    fn one_that_waits_for_two_holders_goes_when_both_are_done() {
        let latches = Latches::new();
        let x = poll(&mut want(&latches, &["x"])).expect("free");
        let y = poll(&mut want(&latches, &["y"])).expect("free");
        let mut both = want(&latches, &["x", "y"]);
        assert!(poll(&mut both).is_none());
        drop(x);
        assert!(poll(&mut both).is_none());
        drop(y);
        assert!(poll(&mut both).is_some());
    }

    #[test]
    fn whoever_gives_up_lets_the_next_one_go() {
        let latches = Latches::new();
        let held = poll(&mut want(&latches, &["x"])).expect("free");
        let (mut impatient, mut patient) = (want(&latches, &["x", "y"]), want(&latches, &["y"]));
        assert!(poll(&mut impatient).is_none());
        assert!(poll(&mut patient).is_none(), "y is wanted by one who came before");
        drop(impatient);
        assert!(poll(&mut patient).is_some());
        drop(held);
        assert_eq!(latches.key_count(), 0);
    }

    proptest! {
        /// Whatever is wanted, granted and dropped in whatever order: no key has two holders,
        /// nobody is forgotten, and on one key nobody overtakes.
        #[test]
        fn every_request_gets_its_turn(
            wants in vec(btree_set(0_usize..4, 1..4), 1..20),
            drops in vec(0_usize..1_000, 60),
        ) {
            const KEYS: [&str; 4] = ["a", "b", "c", "d"];
            let latches = Latches::new();
            let mut waiting: Vec<(usize, Waiting)> = Vec::new();
            let mut held: Vec<(usize, Latch)> = Vec::new();
            let mut granted_by_key: BTreeMap<usize, usize> = BTreeMap::new();
            for (number, keys) in wants.iter().enumerate() {
                let keys: Vec<_> = keys.iter().map(|key| KEYS[*key]).collect();
                let mut future = want(&latches, &keys);
                match poll(&mut future) {
                    Some(latch) => held.push((number, latch)),
                    None => waiting.push((number, future)),
                }
            }
            let mut drops = drops.into_iter();
            loop {
                for (number, _) in &held {
                    for key in &wants[*number] {
                        let owners = held.iter().filter(|(other, _)| wants[*other].contains(key));
                        prop_assert_eq!(owners.count(), 1);
                        let last = granted_by_key.insert(*key, *number).unwrap_or(0);
                        prop_assert!(last <= *number, "{number} overtook {last} on key {key}");
                    }
                }
                if held.is_empty() {
                    break;
                }
                let chosen = drops.next().unwrap_or(0) % held.len();
                held.remove(chosen);
                let mut still = Vec::new();
                for (number, mut future) in waiting {
                    match poll(&mut future) {
                        Some(latch) => held.push((number, latch)),
                        None => still.push((number, future)),
                    }
                }
                waiting = still;
            }
            prop_assert!(waiting.is_empty(), "{} requests were forgotten", waiting.len());
            prop_assert_eq!(latches.key_count(), 0);
        }
    }
}
