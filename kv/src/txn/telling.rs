//! Tells the detector of the cluster who waits here for whom, and ends the waits that it names.
//!
//! The detector ([`super::deadlock`]) is at some store; a [`Courier`] knows where, and carries words there:
//!
//! 1. A wait is told when it begins, and again every [`TELL_AGAIN`] while it lasts, with whoever holds the key by then.
//! 2. The detector answers only when an edge closes a circle. Then the wait that the edge stands for ends with it
//!    ([`Watched::answered`]).
//! 3. When a transaction does not wait at a key any more, that is told too.
//!
//! No word has to arrive: what gets lost is told again, and what has ended is forgotten by itself. Until then waits go
//! on; some may end by time-out instead.
//!
//! What it does not do: it has no clock and no streams, and does not know who the detector is. So a store and the
//! simulator run the same of it.

use std::collections::BTreeMap;
use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_channel::oneshot;
use skerry_proto::deadlock::{
    DeadlockRequest, DeadlockRequestType, DeadlockResponse, WaitForEntry,
};
use skerry_proto::types::Ts;

use super::error::key_hash;
use super::lock_waits::{Detecting, Edge, Waiting, Watch};
use crate::mvcc::Key;

/// A wait is told again after so long: often enough that an edge of it lives on when one word is lost.
pub const TELL_AGAIN: Duration = Duration::from_millis(500);

/// Carries words to the detector, and knows the time.
pub trait Courier: Send + Sync {
    /// Sends, if it can at once.
    fn send(&self, word: DeadlockRequest);

    /// Ready after so long.
    fn pause(&self, span: Duration) -> Pause;

    /// A clock that never goes back.
    fn now(&self) -> Duration;
}

/// See [`Courier::pause`].
pub type Pause = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Tells. Clones share everything.
#[derive(Clone)]
pub struct Telling {
    courier: Arc<dyn Courier>,
    watched: Arc<Watched>,
}

/// The waits that were told and go on.
#[derive(Debug, Default)]
pub struct Watched {
    /// Nothing is awaited under it.
    waits: Mutex<Waits>,
}

/// Who waits for an answer, by transaction and user key. No list is empty.
type Waits = BTreeMap<(u64, Bytes), Vec<oneshot::Sender<DeadlockResponse>>>;

impl Watched {
    /// The detector has found a circle: whoever waits for the edge that closes it hears of it.
    pub fn answered(&self, answer: &DeadlockResponse) {
        let Some(entry) = &answer.entry else { return };
        let waits = self.lock().remove(&(entry.txn, entry.key.clone()));
        for wait in waits.into_iter().flatten() {
            // Whoever waits no longer does not need it.
            let _ = wait.send(answer.clone());
        }
    }

    /// How many answers are waited for.
    pub fn waiting(&self) -> usize {
        self.lock().values().map(Vec::len).sum()
    }

    fn begin(&self, entry: &WaitForEntry) -> oneshot::Receiver<DeadlockResponse> {
        let (wait, answer) = oneshot::channel();
        self.lock().entry((entry.txn, entry.key.clone())).or_default().push(wait);
        answer
    }

    /// Forgets those of a place that wait no longer. Answers whether nobody is left.
    fn end(&self, entry: &WaitForEntry) -> bool {
        let place = (entry.txn, entry.key.clone());
        let mut waits = self.lock();
        let Some(of_place) = waits.get_mut(&place) else { return true };
        of_place.retain(|wait| !wait.is_canceled());
        let is_empty = of_place.is_empty();
        if is_empty {
            waits.remove(&place);
        }
        is_empty
    }

    fn lock(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().expect("nothing panics while it holds this lock")
    }
}

impl Telling {
    /// Tells by this courier, who brings answers to [`Telling::watched`].
    pub fn new(courier: Arc<dyn Courier>) -> Telling {
        Telling { courier, watched: Arc::default() }
    }

    /// The waits that are told.
    pub fn watched(&self) -> Arc<Watched> {
        Arc::clone(&self.watched)
    }

    /// Tells of a wait until it turns out that it would never end.
    async fn until_circle(&self, waiting: Waiting) -> Vec<Edge> {
        let Ok(key) = waiting.key.user_key() else { return pending().await };
        let began = self.courier.now();
        let entry = WaitForEntry {
            txn: waiting.waiter.get(),
            wait_for_txn: 0,
            key_hash: key_hash(&key),
            key,
            resource_group_tag: waiting.tag.clone(),
            wait_time: 0,
        };
        let mut told = Told { telling: self, answer: self.watched.begin(&entry), entry };
        loop {
            if let Some(holder) = waiting.holder() {
                told.entry.wait_for_txn = holder.get();
                let waited = self.courier.now().saturating_sub(began).as_millis();
                told.entry.wait_time = u64::try_from(waited).unwrap_or(u64::MAX);
                self.send(DeadlockRequestType::Detect, told.entry.clone());
            }
            let mut pause = self.courier.pause(TELL_AGAIN);
            let ended = poll_fn(|task| match Pin::new(&mut told.answer).poll(task) {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                Poll::Pending => pause.as_mut().poll(task).map(|()| None),
            });
            match ended.await {
                None => {}
                Some(Ok(answer)) => return circle(&answer),
                Some(Err(_gone)) => return pending().await,
            }
        }
    }

    fn send(&self, kind: DeadlockRequestType, entry: WaitForEntry) {
        self.courier.send(DeadlockRequest { tp: kind.into(), entry: Some(entry) });
    }
}

impl Detecting for Telling {
    fn watch(&self, waiting: Waiting) -> Watch {
        let telling = self.clone();
        Box::pin(async move { telling.until_circle(waiting).await })
    }
}

/// A wait that is told, until it is dropped.
struct Told<'a> {
    telling: &'a Telling,
    entry: WaitForEntry,
    answer: oneshot::Receiver<DeadlockResponse>,
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.answer.close();
        // A request that has come twice may go on waiting.
        if self.telling.watched.end(&self.entry) {
            self.telling.send(DeadlockRequestType::CleanUpWaitFor, self.entry.clone());
        }
    }
}

/// From the edge that closes it to the one that leads back.
fn circle(answer: &DeadlockResponse) -> Vec<Edge> {
    let edge = |entry: &WaitForEntry| Edge {
        waiter: Ts::from(entry.txn),
        holder: Ts::from(entry.wait_for_txn),
        key: Key::of(&entry.key),
        tag: entry.resource_group_tag.clone(),
        waited_ms: entry.wait_time,
    };
    answer.entry.iter().chain(&answer.wait_chain).map(edge).collect()
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;
    use crate::txn::deadlock::Detector;
    use crate::txn::lock_waits::{LockWait, LockWaits, Turn};

    type Ending = Pin<Box<dyn Future<Output = Result<Turn, Vec<Edge>>>>>;

    /// Keeps what it was to send, and lets time pass when it is told to.
    #[derive(Default)]
    struct Memory {
        now: Mutex<Duration>,
        words: Mutex<Vec<DeadlockRequest>>,
    }

    impl Memory {
        fn pass(&self, milliseconds: u64) {
            *self.now.lock().unwrap() += Duration::from_millis(milliseconds);
        }

        /// What was sent since: the kind, who waits for whom, and for how long.
        fn words(&self) -> Vec<(DeadlockRequestType, u64, u64, u64)> {
            let words = std::mem::take(&mut *self.words.lock().unwrap());
            let short = |word: DeadlockRequest| {
                let (kind, entry) = (word.tp(), word.entry.unwrap());
                (kind, entry.txn, entry.wait_for_txn, entry.wait_time)
            };
            words.into_iter().map(short).collect()
        }
    }

    struct Carrying(Arc<Memory>);

    impl Courier for Carrying {
        fn send(&self, word: DeadlockRequest) {
            self.0.words.lock().unwrap().push(word);
        }

        fn pause(&self, span: Duration) -> Pause {
            let memory = Arc::clone(&self.0);
            let end = self.now() + span;
            Box::pin(poll_fn(move |_| match *memory.now.lock().unwrap() >= end {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }))
        }

        fn now(&self) -> Duration {
            *self.0.now.lock().unwrap()
        }
    }

    fn setting() -> (Arc<Memory>, Telling, Arc<LockWaits>) {
        let memory = Arc::new(Memory::default());
        let telling = Telling::new(Arc::new(Carrying(Arc::clone(&memory))));
        (memory, telling, LockWaits::new())
    }

    /// 20 waits for the key, which 10 has.
    fn wait(waits: &Arc<LockWaits>, telling: &Telling) -> Ending {
        let (key, waiter, tag) = (Key::of(b"k"), Ts::from(20), Bytes::new());
        let joined: Result<LockWait, _> = waits.join(&key, Ts::from(10), waiter, &tag);
        let Ok(wait) = joined else { panic!("there is no circle here") };
        Box::pin(wait.watched(telling, waiter, &key, &tag).turn_or_circle())
    }

    fn poll(ending: &mut Ending) -> Option<Result<Turn, Vec<Edge>>> {
        match ending.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(ended) => Some(ended),
            Poll::Pending => None,
        }
    }

    const TOLD: DeadlockRequestType = DeadlockRequestType::Detect;
    const OVER: DeadlockRequestType = DeadlockRequestType::CleanUpWaitFor;

    #[test]
    fn a_wait_is_told_again_until_it_ends() {
        let (memory, telling, waits) = setting();
        let mut waiting = wait(&waits, &telling);
        assert!(poll(&mut waiting).is_none());
        assert_eq!(memory.words(), [(TOLD, 20, 10, 0)]);
        memory.pass(499);
        assert!(poll(&mut waiting).is_none() && memory.words().is_empty());
        memory.pass(1);
        assert!(poll(&mut waiting).is_none());
        assert_eq!(memory.words(), [(TOLD, 20, 10, 500)]);
        waits.wake(&Key::of(b"k"));
        assert!(matches!(poll(&mut waiting), Some(Ok(_))));
        drop(waiting);
        assert_eq!(memory.words(), [(OVER, 20, 10, 500)]);
        assert_eq!(telling.watched().waiting(), 0, "nothing is left of it");
    }

    #[test]
    fn a_wait_that_goes_on_in_another_request_is_not_over() {
        let (memory, telling, waits) = setting();
        let (mut first, mut second) = (wait(&waits, &telling), wait(&waits, &telling));
        assert!(poll(&mut first).is_none() && poll(&mut second).is_none());
        assert_eq!(memory.words().len(), 2);
        drop(first);
        assert_eq!((memory.words(), telling.watched().waiting()), (Vec::new(), 1));
        drop(second);
        assert_eq!(memory.words(), [(OVER, 20, 10, 0)]);
    }

    #[test]
    fn a_wait_that_closes_a_circle_ends_with_it() {
        let (memory, telling, waits) = setting();
        let mut waiting = wait(&waits, &telling);
        assert!(poll(&mut waiting).is_none());
        let mut detector = Detector::default();
        let back = WaitForEntry { txn: 10, wait_for_txn: 20, ..WaitForEntry::default() };
        detector.take(DeadlockRequest { tp: TOLD.into(), entry: Some(back) }, Duration::ZERO);
        let word = memory.words.lock().unwrap().remove(0);
        let answer = detector.take(word, Duration::ZERO).expect("a circle");
        telling.watched().answered(&answer);
        let Some(Err(circle)) = poll(&mut waiting) else { panic!("it would wait for ever") };
        let told: Vec<_> =
            circle.iter().map(|edge| (edge.waiter.get(), edge.holder.get())).collect();
        assert_eq!(told, [(20, 10), (10, 20)]);
        assert_eq!(memory.words(), [(OVER, 20, 10, 0)]);
        assert_eq!(telling.watched().waiting(), 0);
    }
}
