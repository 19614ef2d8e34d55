//! Who waits for whose lock: pessimistic transactions that want keys which others have locked.
//!
//! 1. A lock request that meets another's lock joins the line of that key ([`LockWaits::join`]), while it still has the
//!    key's latch. Whoever takes the lock away needs the latch too, so its call comes later.
//! 2. When a lock is gone, the *oldest* transaction in the line gets the [`Turn`]; the others go on waiting. It asks
//!    again, with all checks.
//! 3. If it got the lock, or somebody else did meanwhile, the others wait for that one now. In every other case - a
//!    conflict, an error, a client that is gone - its turn goes to the next in line when it is dropped.
//!
//! # Deadlocks
//!
//! Lines are also a graph: each waiter waits for the transaction that has the key. A wait that would close a circle is
//! refused with the whole circle. What this does not find - circles over several stores, and those that close because
//! a lock changes hands - somebody may look for who hears of the waits of all stores ([`Detecting`],
//! [`super::telling`]): a wait ends with its turn or with a circle ([`LockWait::turn_or_circle`]).
//!
//! **Invariant.** A waiter is in its line or has had its turn sent. A turn is kept, or dropped and passed on.
//!
//! What it does not do: it has no clock. Whoever waits decides for how long, and leaves the line by dropping its wait.

use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use bytes::Bytes;
use futures_channel::oneshot;
use skerry_proto::types::Ts;

use super::planted::Planted;
use crate::mvcc::Key;

/// All lines of a store.
#[derive(Default)]
pub struct LockWaits {
    /// Nothing is awaited or sent under it.
    lines: Mutex<Lines>,
}

/// **Invariant.** No line is empty, and `places` has exactly who stands in lines.
#[derive(Default)]
struct Lines {
    /// Numbers the waits; never used twice.
    next_ticket: u64,
    by_key: BTreeMap<Key, Line>,
    /// Where a transaction waits, and the tag of its request. It may wait at many keys.
    places: BTreeMap<(Ts, u64), (Key, Bytes)>,
    /// The bug that a test has planted.
    planted: Option<Planted>,
}

struct Line {
    /// The transaction that has the lock, as far as is known.
    holder: Ts,
    /// By age: start timestamp, then ticket.
    waiters: BTreeMap<(Ts, u64), oneshot::Sender<Turn>>,
}

/// One edge of a circle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The transaction that waits.
    pub waiter: Ts,
    /// The transaction that has the lock.
    pub holder: Ts,
    /// On this key.
    pub key: Key,
    /// What the client of the waiting transaction has given with its request: people tell statements apart by it.
    pub tag: Bytes,
    /// For how long it has been waiting, as far as is known.
    pub waited_ms: u64,
}

impl LockWaits {
    /// Nobody waits.
    pub fn new() -> Arc<LockWaits> {
        Arc::new(LockWaits::default())
    }

    /// The same, with a bug.
    pub fn with_planted(planted: Option<Planted>) -> Arc<LockWaits> {
        let lines = Lines { planted, ..Lines::default() };
        Arc::new(LockWaits { lines: Mutex::new(lines) })
    }

    /// Puts `waiter` into the line of `key`, which `holder` has locked. If that would close a circle, answers it: from
    /// this edge to the one that leads back. The caller has the latch of the key.
    pub fn join(
        self: &Arc<Self>,
        key: &Key,
        holder: Ts,
        waiter: Ts,
        tag: &Bytes,
    ) -> std::result::Result<LockWait, Vec<Edge>> {
        let mut lines = self.lock();
        if let Some(line) = lines.by_key.get_mut(key) {
            line.holder = holder;
        }
        if let Some(mut back) = lines.path(holder, waiter) {
            back.insert(
                0,
                Edge { waiter, holder, key: key.clone(), tag: tag.clone(), waited_ms: 0 },
            );
            return Err(back);
        }
        let place = (waiter, lines.next_ticket);
        lines.next_ticket += 1;
        let (sender, turn) = oneshot::channel();
        let line = lines.by_key.entry(key.clone());
        let line = line.or_insert_with(|| Line { holder, waiters: BTreeMap::new() });
        line.waiters.insert(place, sender);
        lines.places.insert(place, (key.clone(), tag.clone()));
        drop(lines);
        Ok(LockWait { turn, watch: None, _place: Place { waits: self.clone(), place } })
    }

    /// Gives the oldest in the line of `key` its turn: the lock is gone.
    pub fn wake(self: &Arc<Self>, key: &Key) {
        let mut lines = self.lock();
        let oldest = lines.by_key.get(key).and_then(|line| line.waiters.keys().next().copied());
        let sender = oldest.and_then(|place| lines.leave(place));
        if let Some((next, line)) = oldest.zip(lines.by_key.get_mut(key)) {
            // The others wait for whoever has the turn. Who had the lock may go on, and want what one of them has.
            line.holder = next.0;
        }
        drop(lines);
        if let Some(sender) = sender {
            let turn = Turn { waits: self.clone(), key: Some(key.clone()) };
            // If the other end has just gone, the turn comes back in the error and is passed on by its drop.
            let _ = sender.send(turn);
        }
    }

    /// Who waits for whom now, by age of the waiter.
    pub fn edges(&self) -> Vec<Edge> {
        let lines = self.lock();
        let edge = |(&(waiter, _), (key, tag)): (&(Ts, u64), &(Key, Bytes))| {
            let holder = lines.by_key[key].holder;
            Edge { waiter, holder, key: key.clone(), tag: tag.clone(), waited_ms: 0 }
        };
        lines.places.iter().map(edge).collect()
    }

    /// Who has the key for which others stand in line.
    fn holder(&self, key: &Key) -> Option<Ts> {
        self.lock().by_key.get(key).map(|line| line.holder)
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        self.lock().places.len()
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    /// Takes a waiter out of its line.
    fn leave(&mut self, place: (Ts, u64)) -> Option<oneshot::Sender<Turn>> {
        let (key, _) = self.places.remove(&place)?;
        let line = self.by_key.get_mut(&key).expect("whoever has a place stands in its line");
        let sender = line.waiters.remove(&place);
        if line.waiters.is_empty() {
            self.by_key.remove(&key);
        }
        sender
    }

    /// The shortest way along waiting edges from one transaction to another.
    fn path(&self, from: Ts, to: Ts) -> Option<Vec<Edge>> {
        // By which edge a transaction was reached.
        let mut reached: BTreeMap<Ts, Edge> = BTreeMap::new();
        let mut next = VecDeque::from([from]);
        while let Some(waiter) = next.pop_front() {
            for (place, (key, tag)) in self.places.range((waiter, 0)..=(waiter, u64::MAX)) {
                let line = &self.by_key[key];
                if self.planted == Some(Planted::DeadlockEdgeForgotten)
                    && line.waiters.keys().next() != Some(place)
                {
                    continue;
                }
                let holder = line.holder;
                if holder == from || reached.contains_key(&holder) {
                    continue;
                }
                let (key, tag) = (key.clone(), tag.clone());
                reached.insert(holder, Edge { waiter, holder, key, tag, waited_ms: 0 });
                next.push_back(holder);
            }
        }
        let mut edges = VecDeque::from([reached.get(&to)?.clone()]);
        while edges[0].waiter != from {
            edges.push_front(reached[&edges[0].waiter].clone());
        }
        Some(edges.into())
    }
}

/// Looks for circles that no store sees alone.
pub trait Detecting: Send + Sync {
    /// Ready only if the waiter waits for itself, with the circle, as [`LockWaits::join`] tells it. Dropped when the
    /// wait ends.
    fn watch(&self, waiting: Waiting) -> Watch;
}

/// See [`Detecting::watch`].
pub type Watch = Pin<Box<dyn Future<Output = Vec<Edge>> + Send>>;

/// A wait, for whoever watches it.
#[derive(Clone)]
pub struct Waiting {
    /// The transaction that waits.
    pub waiter: Ts,
    /// For this key.
    pub key: Key,
    /// Of its request.
    pub tag: Bytes,
    waits: Arc<LockWaits>,
}

impl Waiting {
    /// For whom it waits now; nothing if it does no more.
    pub fn holder(&self) -> Option<Ts> {
        self.waits.holder(&self.key)
    }
}

/// A place in the line of a key, given up on drop.
pub struct LockWait {
    turn: oneshot::Receiver<Turn>,
    watch: Option<Watch>,
    _place: Place,
}

impl LockWait {
    /// The same, watched.
    pub fn watched(
        self,
        detecting: &dyn Detecting,
        waiter: Ts,
        key: &Key,
        tag: &Bytes,
    ) -> LockWait {
        let waits = self._place.waits.clone();
        let waiting = Waiting { waiter, key: key.clone(), tag: tag.clone(), waits };
        LockWait { watch: Some(detecting.watch(waiting)), ..self }
    }

    /// Waits for the turn, or until it turns out that it would never come.
    pub async fn turn_or_circle(mut self) -> std::result::Result<Turn, Vec<Edge>> {
        poll_fn(|task| {
            // First the turn: a circle that is open again is none.
            if let Poll::Ready(turn) = Pin::new(&mut self.turn).poll(task) {
                return Poll::Ready(Ok(turn.expect(LEAVES)));
            }
            match self.watch.as_mut().map(|watch| watch.as_mut().poll(task)) {
                Some(Poll::Ready(circle)) => Poll::Ready(Err(circle)),
                _ => Poll::Pending,
            }
        })
        .await
    }

    /// Waits for the turn.
    pub async fn turn(self) -> Turn {
        self.turn.await.expect(LEAVES)
    }
}

const LEAVES: &str = "a waiter leaves its line with its turn, or by giving this up";

struct Place {
    waits: Arc<LockWaits>,
    place: (Ts, u64),
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waits.lock().leave(self.place);
    }
}

/// The right to be the next to ask for the lock of a key.
pub struct Turn {
    waits: Arc<LockWaits>,
    /// Empty when the turn was used.
    key: Option<Key>,
}

impl Turn {
    /// The key is locked again, by `holder`: the others go on waiting, for that one. Only what it has asked twice has
    /// its turn, too.
    pub fn keep(mut self, holder: Ts) {
        let Some(key) = self.key.take() else { return };
        let mut lines = self.waits.lock();
        let Some(line) = lines.by_key.get_mut(&key) else { return };
        line.holder = holder;
        let own = line.waiters.range((holder, 0)..=(holder, u64::MAX));
        let own: Vec<_> = own.map(|(place, _)| *place).collect();
        let senders: Vec<_> = own.into_iter().filter_map(|place| lines.leave(place)).collect();
        drop(lines);
        for sender in senders {
            // It has nothing to pass on: the lock is there.
            let _ = sender.send(Turn { waits: self.waits.clone(), key: None });
        }
    }

    /// Of which key.
    pub fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.waits.wake(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    type Going = Pin<Box<dyn Future<Output = Turn>>>;

    fn key(user: &str) -> Key {
        Key::of(user.as_bytes())
    }

    fn wait(waits: &Arc<LockWaits>, user: &str, holder: u64, waiter: u64) -> Going {
        let joined = waits.join(&key(user), Ts::from(holder), Ts::from(waiter), &Bytes::new());
        let Ok(wait) = joined else { panic!("{waiter} closes a circle") };
        Box::pin(wait.turn())
    }

    fn poll(waiting: &mut Going) -> Option<Turn> {
        match pin!(waiting).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    #[test]
    fn the_oldest_goes_first_and_the_others_when_it_did_not_take_the_lock() {
        let waits = LockWaits::new();
        let mut young = wait(&waits, "k", 10, 30);
        let mut old = wait(&waits, "k", 10, 20);
        waits.wake(&key("other"));
        assert!(poll(&mut young).is_none() && poll(&mut old).is_none());
        waits.wake(&key("k"));
        assert!(poll(&mut young).is_none(), "the other transaction is older");
        let turn = poll(&mut old).expect("its turn");
        assert!(poll(&mut young).is_none());
        drop(turn);
        poll(&mut young).expect("the older one met a conflict").keep(Ts::from(30));
        assert_eq!(waits.waiting(), 0);
    }

    #[test]
    fn whoever_gives_up_leaves_its_turn_to_the_next() {
        let waits = LockWaits::new();
        let (gone, late) = (wait(&waits, "k", 10, 20), wait(&waits, "k", 10, 30));
        let mut patient = wait(&waits, "k", 10, 40);
        drop(gone);
        waits.wake(&key("k"));
        drop(late);
        assert!(poll(&mut patient).is_some(), "its turn had been sent to one who is gone");
    }

    #[test]
    fn a_circle_is_refused_and_told_in_order() {
        let waits = LockWaits::new();
        let _first = wait(&waits, "b", 2, 1);
        let second = wait(&waits, "c", 3, 2);
        let tag = Bytes::from("statement");
        let Err(circle) = waits.join(&key("a"), Ts::from(1), Ts::from(3), &tag) else {
            panic!("3 waits for 1 waits for 2 waits for 3");
        };
        let told: Vec<_> = circle
            .iter()
            .map(|edge| (edge.waiter.get(), edge.holder.get(), edge.key.clone()))
            .collect();
        assert_eq!(told, [(3, 1, key("a")), (1, 2, key("b")), (2, 3, key("c"))]);
        assert_eq!(circle[0].tag, tag);
        drop(second);
        assert!(
            waits.join(&key("a"), Ts::from(1), Ts::from(3), &tag).is_ok(),
            "the circle is open"
        );
    }

    /// Says what it was told to.
    struct Found(Vec<Edge>);

    impl Detecting for Found {
        fn watch(&self, waiting: Waiting) -> Watch {
            assert_eq!(waiting.holder(), Some(Ts::from(10)));
            let circle = self.0.clone();
            Box::pin(async { circle })
        }
    }

    #[test]
    fn a_wait_ends_with_a_circle_that_others_have_found() {
        let waits = LockWaits::new();
        let (waiter, tag) = (Ts::from(20), Bytes::new());
        let joined = waits.join(&key("k"), Ts::from(10), waiter, &tag);
        let Ok(wait) = joined else { panic!("there is no circle here") };
        let edge =
            Edge { waiter, holder: Ts::from(10), key: key("k"), tag: tag.clone(), waited_ms: 7 };
        let watched = wait.watched(&Found(vec![edge.clone()]), waiter, &key("k"), &tag);
        let ended = pin!(watched.turn_or_circle()).poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Err(circle)) = ended else { panic!("it waits for itself") };
        assert_eq!(circle, [edge]);
        assert_eq!(waits.waiting(), 0, "it has left its line");
    }

    #[test]
    fn when_a_lock_changes_hands_the_others_wait_for_its_new_owner() {
        let waits = LockWaits::new();
        let (mut old, _young) = (wait(&waits, "k", 10, 20), wait(&waits, "k", 10, 30));
        waits.wake(&key("k"));
        poll(&mut old).expect("its turn").keep(Ts::from(20));
        let circle = waits.join(&key("other"), Ts::from(30), Ts::from(20), &Bytes::new());
        assert!(circle.is_err(), "30 waits for 20 now");
    }

    #[test]
    fn who_has_given_a_key_up_is_waited_for_no_longer() {
        let waits = LockWaits::new();
        let (mut next, _behind) = (wait(&waits, "k", 10, 20), wait(&waits, "k", 10, 30));
        waits.wake(&key("k"));
        let turn = poll(&mut next).expect("its turn");
        // Before the next one has the lock the former owner wants what the other one has.
        assert!(waits.join(&key("m"), Ts::from(30), Ts::from(10), &Bytes::new()).is_ok());
        let circle = waits.join(&key("n"), Ts::from(30), Ts::from(20), &Bytes::new());
        assert!(circle.is_err(), "30 waits for 20, which has the turn");
        turn.keep(Ts::from(20));
    }

    #[test]
    fn what_a_transaction_asks_twice_has_its_turn_with_the_first() {
        let waits = LockWaits::new();
        let (mut first, mut again) = (wait(&waits, "k", 10, 20), wait(&waits, "k", 10, 20));
        let mut other = wait(&waits, "k", 10, 30);
        waits.wake(&key("k"));
        poll(&mut first).expect("its turn").keep(Ts::from(20));
        drop(poll(&mut again).expect("it has the lock"));
        assert!(poll(&mut other).is_none(), "the lock is there");
        assert_eq!(waits.waiting(), 1);
    }
}
