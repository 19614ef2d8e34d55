//! A lock request as its client sees it: asked again with each turn, until it has its locks or its patience is over.
//!
//! 1. It is asked. If another transaction's lock is in the way it waits in the line of that key
//!    ([`super::lock_waits`]), without room and latches.
//! 2. With its turn it is asked again; a circle refuses it with the circle; when the patience is over it is refused
//!    with the lock in its way. So a wait never ends as *unknown*.
//!
//! What it does not do: it has no clock. Patience is a future that somebody else ends.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use super::error::Error;
use super::executor::Locking;
use super::lock_waits::Turn;
use super::pessimistic_lock::KeyLocked;

/// Asks until the locks are there, or `patience` ends. `ask` gets the turn that was waited for. `waits` is called with
/// the lock in the way before each wait; what it answers is dropped when that wait ends.
pub async fn until_locked<E, F, G>(
    mut ask: impl FnMut(Option<Turn>) -> F,
    patience: impl Future<Output = ()>,
    mut waits: impl FnMut(&Error) -> G,
) -> Result<Vec<KeyLocked>, E>
where
    E: From<Error>,
    F: Future<Output = Result<Locking, E>>,
{
    let mut patience = pin!(patience);
    let mut turn = None;
    loop {
        let (wait, locked) = match ask(turn.take()).await? {
            Locking::Done(results) => return Ok(results),
            Locking::Wait { wait, locked } => (wait, locked),
        };
        let _waiting = waits(&locked);
        let mut next = pin!(wait.turn_or_circle());
        let ended = poll_fn(|task| match next.as_mut().poll(task) {
            Poll::Ready(next) => Poll::Ready(Some(next)),
            Poll::Pending => patience.as_mut().poll(task).map(|()| None),
        });
        match ended.await {
            Some(Ok(next)) => turn = Some(next),
            Some(Err(circle)) => {
                return Err(Error::deadlock(&circle).unwrap_or_else(|error| error).into());
            }
            None => return Err(locked.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::{pending, ready};

    use bytes::Bytes;
    use futures_executor::block_on;
    use skerry_proto::types::Ts;

    use super::*;
    use crate::mvcc::{Key, Lock, LockKind};
    use crate::txn::lock_waits::LockWaits;

    /// Waits twice for the lock of `a`, which is taken away as soon as it waits, and then has it.
    fn asked(patience: impl Future<Output = ()>, is_free: bool) -> (Result<usize, Error>, usize) {
        let (waits, key, waited) = (LockWaits::new(), Key::of(b"a"), Cell::new(0));
        let lock = Lock::new(LockKind::Put, Bytes::from("a"), Ts::from(10), 1_000);
        let ask = |turn: Option<Turn>| {
            assert_eq!(turn.is_some(), waited.get() > 0, "it asks again with its turn");
            let locking = match waited.get() {
                2 => Locking::Done(Vec::new()),
                _ => {
                    let joined = waits.join(&key, Ts::from(10), Ts::from(20), &Bytes::new());
                    let Ok(wait) = joined else { panic!("there is no circle") };
                    Locking::Wait { wait, locked: Error::locked(&key, &lock) }
                }
            };
            ready(Ok::<_, Error>(locking))
        };
        let begins = |_: &Error| {
            waited.set(waited.get() + 1);
            if is_free {
                waits.wake(&key);
            }
        };
        let outcome = block_on(until_locked(ask, patience, begins));
        assert_eq!(waits.waiting(), 0, "it has left its line");
        (outcome.map(|results| results.len()), waited.get())
    }

    #[test]
    fn it_is_asked_again_with_each_turn_and_refused_with_the_lock_when_its_patience_is_over() {
        let (outcome, waited) = asked(pending(), true);
        assert!(outcome.is_ok() && waited == 2);
        let (outcome, waited) = asked(ready(()), false);
        assert!(matches!(outcome, Err(Error::Locked { .. })) && waited == 1);
    }
}
