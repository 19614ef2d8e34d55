//! The queue in front of an actor that has a thread of its own.
//!
//! Senders push under a short lock; the owner takes everything that waits at once, so that a busy actor pays
//! for one lock and one wake-up per batch and not per message.
//!
//! | push | when the queue is full |
//! | --- | --- |
//! | [`Inbox::push`], results between actors | never: there is one for each thing that was asked for |
//! | [`Inbox::offer`], what comes from outside | the message is handed back: raft repeats, clients wait |

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};

/// See the module.
#[derive(Debug)]
pub(super) struct Inbox<T> {
    state: Mutex<State<T>>,
    bell: Condvar,
    /// Messages from outside that may wait.
    room: usize,
}

#[derive(Debug)]
struct State<T> {
    messages: VecDeque<T>,
    is_closed: bool,
    /// The owner waits for the bell.
    is_idle: bool,
}

impl<T> Inbox<T> {
    /// A queue with room for so many messages from outside.
    pub(super) fn new(room: usize, messages: VecDeque<T>) -> Inbox<T> {
        let state = State { messages, is_closed: false, is_idle: false };
        Inbox { state: Mutex::new(state), bell: Condvar::new(), room }
    }

    /// Adds messages, whatever the queue's length.
    pub(super) fn push(&self, messages: impl IntoIterator<Item = T>) {
        let mut state = self.state.lock().expect("no holder panics");
        state.messages.extend(messages);
        let ring = std::mem::take(&mut state.is_idle);
        drop(state);
        if ring {
            self.bell.notify_one();
        }
    }

    /// Adds a message if there is room, or hands it back.
    pub(super) fn offer(&self, message: T) -> Result<(), T> {
        let mut state = self.state.lock().expect("no holder panics");
        if state.is_closed || state.messages.len() >= self.room {
            return Err(message);
        }
        state.messages.push_back(message);
        let ring = std::mem::take(&mut state.is_idle);
        drop(state);
        if ring {
            self.bell.notify_one();
        }
        Ok(())
    }

    /// Waits for messages and takes up to `count`; nothing when the queue is closed.
    pub(super) fn take(&self, count: usize) -> Option<Vec<T>> {
        let mut state = self.state.lock().expect("no holder panics");
        loop {
            if state.is_closed {
                return None;
            }
            if !state.messages.is_empty() {
                let count = count.min(state.messages.len());
                return Some(state.messages.drain(..count).collect());
            }
            state.is_idle = true;
            state = self.bell.wait(state).expect("no holder panics");
        }
    }

    /// Ends the owner's waiting; answers what nobody will take.
    pub(super) fn close(&self) {
        self.state.lock().expect("no holder panics").is_closed = true;
        self.bell.notify_all();
    }

    /// Takes what is left after the owner has gone.
    pub(super) fn drain(&self) -> Vec<T> {
        self.state.lock().expect("no holder panics").messages.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn messages_come_in_order_in_bounded_batches() {
        let inbox = Inbox::new(2, VecDeque::new());
        inbox.push([1, 2, 3]);
        assert_eq!(inbox.offer(4), Err(4), "there is no room");
        assert_eq!(inbox.take(2), Some(vec![1, 2]));
        assert_eq!(inbox.offer(4), Ok(()));
        assert_eq!(inbox.take(9), Some(vec![3, 4]));
        inbox.push([5]);
        inbox.close();
        assert_eq!((inbox.take(9), inbox.offer(6)), (None, Err(6)));
        assert_eq!(inbox.drain(), [5]);
    }

    #[test]
    fn no_message_is_left_lying_while_its_owner_sleeps() {
        let inbox = Arc::new(Inbox::new(usize::MAX, VecDeque::new()));
        let owner = inbox.clone();
        let thread = crate::time::spawn("inbox-owner", move || {
            let mut seen = 0;
            while seen < 4_000 {
                seen += owner.take(7).expect("it is not closed").len();
            }
        });
        let senders: Vec<_> = (0..4)
            .map(|_| {
                let inbox = inbox.clone();
                crate::time::spawn("inbox-sender", move || {
                    (0..1_000).for_each(|number| inbox.push([number]));
                })
            })
            .collect();
        senders.into_iter().for_each(|sender| sender.join().expect("it ends"));
        thread.join().expect("it has seen all");
    }
}
