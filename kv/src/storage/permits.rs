//! Room for requests: an asynchronous, fair semaphore over commands and bytes.
//!
//! Common clients hand `ServerIsBusy` straight to the application, so a store that is merely behind
//! lets requests *wait*, at the edge, for a [`Permit`]. A permit is held until the request is
//! answered and equals a place in the queue behind it: whoever has one can send without being
//! refused.
//!
//! 1. Requests get permits strictly in the order in which they asked; a large one at the head is
//!    waited for, not overtaken, or it would starve.
//! 2. A request larger than all the room waits until everything is free and then takes all of it.
//! 3. Dropping the wait gives the place in the line up, dropping the permit gives the room back.
//!
//! What waits here is bounded by the edge: each waiter is one request of one connection.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_channel::oneshot;
use futures_util::FutureExt as _;

/// The room and the line before it.
pub struct Permits {
    commands_max: usize,
    bytes_max: usize,
    /// Guards the counts and the line only: nothing is sent, awaited or written under it.
    state: Mutex<State>,
}

/// **Invariant.** If anybody waits, the first in line does not fit into what is free.
struct State {
    commands_free: usize,
    bytes_free: usize,
    line: VecDeque<Waiter>,
}

struct Waiter {
    bytes: usize,
    granted: oneshot::Sender<Permit>,
}

impl Permits {
    /// Room for `commands_max` requests of together `bytes_max` bytes.
    pub fn new(commands_max: usize, bytes_max: usize) -> Arc<Permits> {
        assert!(commands_max > 0 && bytes_max > 0, "a store without room would wait for ever");
        let state =
            State { commands_free: commands_max, bytes_free: bytes_max, line: VecDeque::new() };
        Arc::new(Permits { commands_max, bytes_max, state: Mutex::new(state) })
    }

    /// How many permits there can be at a time: the length that the queue behind them must have.
    pub fn commands_max(&self) -> usize {
        self.commands_max
    }

    /// How many requests stand in the line.
    pub fn waiting(&self) -> usize {
        self.lock().line.iter().filter(|waiter| !waiter.granted.is_canceled()).count()
    }

    /// About how many stand in the line, without looking at each: some may have given up.
    pub fn line_length(&self) -> usize {
        self.lock().line.len()
    }

    /// Waits for room for one request of `bytes`.
    pub async fn acquire(self: &Arc<Self>, bytes: usize) -> Permit {
        let bytes = bytes.min(self.bytes_max);
        let in_line;
        let granted = {
            let mut state = self.lock();
            if state.line.is_empty() && state.take(bytes) {
                return self.permit(bytes);
            }
            let (sender, granted) = oneshot::channel();
            state.line.push_back(Waiter { bytes, granted: sender });
            in_line = InLine(self);
            granted
        };
        let permit = granted.await;
        drop(in_line);
        permit.expect("the line lives as long as these permits, which this wait borrows")
    }

    /// Gives back the room of one permit and hands it to those in line whom it suffices.
    fn release(self: &Arc<Self>, bytes: usize) {
        let mut state = self.lock();
        state.commands_free += 1;
        state.bytes_free += bytes;
        assert!(state.commands_free <= self.commands_max && state.bytes_free <= self.bytes_max);
        self.advance(state);
    }

    /// Serves the line from its head until somebody does not fit.
    fn advance(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let mut granted = Vec::new();
        while let Some(first) = state.line.front() {
            if first.granted.is_canceled() {
                state.line.pop_front();
                continue;
            }
            let bytes = first.bytes;
            if !state.take(bytes) {
                break;
            }
            granted.extend(state.line.pop_front().map(|waiter| (waiter.granted, bytes)));
        }
        drop(state);
        for (sender, bytes) in granted {
            // Whoever gave up since: the permit comes back in the error and is released by its
            // drop.
            let _ = sender.send(self.permit(bytes));
        }
    }

    fn permit(self: &Arc<Self>, bytes: usize) -> Permit {
        Permit { permits: self.clone(), bytes, kept: None, handed_over: None }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A wait that ends: those behind may fit where it did not.
struct InLine<'a>(&'a Arc<Permits>);

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.0.advance(self.0.lock());
    }
}

impl State {
    fn take(&mut self, bytes: usize) -> bool {
        let fits = self.commands_free > 0 && self.bytes_free >= bytes;
        if fits {
            self.commands_free -= 1;
            self.bytes_free -= bytes;
        }
        fits
    }
}

/// Room for one request, given back on drop.
pub struct Permit {
    permits: Arc<Permits>,
    bytes: usize,
    /// What [`Permit::keeping`] attached.
    kept: Option<Box<dyn Send>>,
    /// Whom to tell that the write is on its way.
    handed_over: Option<HandedOver>,
}

/// Whether a write has been given to the storage. Until then it has certainly not happened.
#[derive(Clone, Debug, Default)]
pub struct HandedOver(Arc<AtomicBool>);

impl HandedOver {
    /// Whether the write may have happened.
    pub fn is_true(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Permit {
    /// Keeps `guard` as long as the permit. A write takes its latches along in this way: they are
    /// released when the write is in, even if the one who asked has long gone. Were they held by
    /// the asking future, a client that hangs up would let the next compare-and-swap read past a
    /// write that is still on its way.
    pub fn keeping(mut self, guard: impl Send + 'static) -> Permit {
        let before = self.kept.take();
        self.kept = Some(Box::new((before, guard)));
        self
    }

    /// Waits for something else. If that does not come at once, others have the room meanwhile.
    pub async fn aside<T>(self, wait: impl Future<Output = T>) -> (Permit, T) {
        assert!(self.kept.is_none(), "what a write keeps is not given up for a wait");
        let mut wait = pin!(wait);
        if let Some(come) = wait.as_mut().now_or_never() {
            return (self, come);
        }
        let (permits, bytes) = (self.permits.clone(), self.bytes);
        let handed_over = self.handed_over.clone();
        drop(self);
        let come = wait.await;
        let mut permit = permits.acquire(bytes).await;
        permit.handed_over = handed_over;
        (permit, come)
    }

    /// Tells `whom` when the write sets out.
    pub fn telling(mut self, whom: &HandedOver) -> Permit {
        self.handed_over = Some(whom.clone());
        self
    }

    /// From here on the write may happen. For storages, before they take it.
    pub fn hand_over(&self) {
        if let Some(whom) = &self.handed_over {
            whom.0.store(true, Ordering::Relaxed);
        }
    }

    /// Whether this is room of `permits` and not of some other queue.
    pub fn is_of(&self, permits: &Arc<Permits>) -> bool {
        Arc::ptr_eq(&self.permits, permits)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // First what was kept: the next request may need it as much as the room.
        self.kept = None;
        self.permits.release(self.bytes);
    }
}

impl std::fmt::Debug for Permit {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "permit for {} bytes", self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_small_request_does_not_overtake_a_large_one() {
        let permits = Permits::new(10, 100);
        let held = poll(pin!(permits.acquire(60))).expect("there is room");
        let mut large = pin!(permits.acquire(80));
        let mut small = pin!(permits.acquire(1));
        assert!(poll(large.as_mut()).is_none());
        assert!(poll(small.as_mut()).is_none(), "one byte is free, but others were first");
        drop(held);
        assert!(poll(large.as_mut()).is_some());
        assert!(poll(small.as_mut()).is_some());
    }

    #[test]
    fn more_than_all_takes_all() {
        let permits = Permits::new(10, 100);
        let held = poll(pin!(permits.acquire(1))).expect("there is room");
        let mut huge = pin!(permits.acquire(1_000_000));
        assert!(poll(huge.as_mut()).is_none());
        drop(held);
        let all = poll(huge.as_mut()).expect("everything is free");
        let mut next = pin!(permits.acquire(1));
        assert!(poll(next.as_mut()).is_none());
        drop(all);
        assert!(poll(next.as_mut()).is_some());
    }

    #[test]
    fn whoever_gives_up_blocks_nobody_and_loses_no_room() {
        let permits = Permits::new(1, 100);
        let held = poll(pin!(permits.acquire(1))).expect("there is room");
        {
            let mut impatient = pin!(permits.acquire(1));
            assert!(poll(impatient.as_mut()).is_none());
            assert_eq!(permits.waiting(), 1);
        }
        assert_eq!(permits.waiting(), 0);
        let mut patient = pin!(permits.acquire(1));
        assert!(poll(patient.as_mut()).is_none());
        drop(held);
        // Granted but not yet taken, then given up: the room must come back all the same.
        assert!(poll(pin!(permits.acquire(1))).is_none());
        assert!(poll(patient.as_mut()).is_some());
        assert!(poll(pin!(permits.acquire(1))).is_some());
    }

    #[test]
    fn a_large_request_that_gives_up_lets_the_small_ones_behind_it_go() {
        let permits = Permits::new(10, 100);
        let _held = poll(pin!(permits.acquire(60))).expect("there is room");
        let mut large = Box::pin(permits.acquire(80));
        let mut small = pin!(permits.acquire(1));
        assert!(poll(large.as_mut()).is_none() && poll(small.as_mut()).is_none());
        drop(large);
        assert!(poll(small.as_mut()).is_some());
    }

    #[test]
    fn who_waits_for_something_else_lets_others_have_the_room_and_stays_watched() {
        let permits = Permits::new(1, 10);
        let handed_over = HandedOver::default();
        let permit = poll(pin!(permits.acquire(10))).expect("there is room").telling(&handed_over);
        let (permit, ()) = poll(pin!(permit.aside(async {}))).expect("it has come already");
        assert!(poll(pin!(permits.acquire(1))).is_none(), "the room was not given up for that");

        let (news, heard) = oneshot::channel();
        let mut aside = pin!(permit.aside(heard));
        assert!(poll(aside.as_mut()).is_none());
        let other = poll(pin!(permits.acquire(1))).expect("there is room meanwhile");
        news.send("news").expect("somebody waits");
        assert!(poll(aside.as_mut()).is_none(), "now it waits for its room");
        drop(other);
        let (permit, heard) = poll(aside.as_mut()).expect("there is room again");
        assert_eq!(heard, Ok("news"));
        assert!(poll(pin!(permits.acquire(1))).is_none(), "as much as before");

        assert!(!handed_over.is_true());
        permit.hand_over();
        assert!(handed_over.is_true());
    }

    #[test]
    fn what_is_kept_goes_with_the_permit() {
        let permits = Permits::new(1, 1);
        let (first, second) = (Arc::new(()), Arc::new(()));
        let permit = poll(pin!(permits.acquire(1))).expect("there is room");
        let permit = permit.keeping(first.clone()).keeping(second.clone());
        assert_eq!((Arc::strong_count(&first), Arc::strong_count(&second)), (2, 2));
        drop(permit);
        assert_eq!((Arc::strong_count(&first), Arc::strong_count(&second)), (1, 1));
    }
}
