//! The queue in front of an actor that has a thread of its own.
//!
//! Senders push under a short lock; the owner takes everything that waits at once, so that a busy actor pays
//! for one lock and one wake-up per batch and not per message.
//!
//! | push | when the queue is full |
//! | --- | --- |
//! | [`Inbox::push`], results between actors | never: there is one for each thing that was asked for |
//! | [`Inbox::offer`], what comes from outside | the message is handed back: raft repeats, clients wait |
//!
//! Full is a number of messages or a number of bytes, whichever is reached first. Bytes are counted of what is offered
//! alone, while it waits here; a message that is longer than all the room still fits into an empty queue.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};

/// See the module.
#[derive(Debug)]
pub(super) struct Inbox<T> {
    state: Mutex<State<T>>,
    bell: Condvar,
    room: Room,
}

/// What may wait of messages from outside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// How many messages, those between actors included.
    pub(super) messages: usize,
    /// How many bytes of those that were offered.
    pub(super) bytes: usize,
}

impl Room {
    /// For queues that nothing comes to from outside.
    pub(super) const INTERNAL: Room = Room { messages: usize::MAX, bytes: usize::MAX };
}

#[derive(Debug)]
struct State<T> {
    /// Each with the bytes that it was offered with.
    messages: VecDeque<(T, usize)>,
    /// The sum of those.
    bytes: usize,
    is_closed: bool,
    /// The owner waits for the bell.
    is_idle: bool,
}

impl<T> Inbox<T> {
    /// A queue in which these wait already.
    pub(super) fn new(room: Room, messages: VecDeque<T>) -> Inbox<T> {
        let messages = messages.into_iter().map(|message| (message, 0)).collect();
        let state = State { messages, bytes: 0, is_closed: false, is_idle: false };
        Inbox { state: Mutex::new(state), bell: Condvar::new(), room }
    }

    /// Adds messages, whatever the queue's length.
    pub(super) fn push(&self, messages: impl IntoIterator<Item = T>) {
        let mut state = self.state.lock().expect("no holder panics");
        state.messages.extend(messages.into_iter().map(|message| (message, 0)));
        self.ring(state);
    }

    /// Adds a message of `bytes` if there is room, or hands it back.
    pub(super) fn offer(&self, message: T, bytes: usize) -> Result<(), T> {
        let mut state = self.state.lock().expect("no holder panics");
        let is_full = state.messages.len() >= self.room.messages
            || state.bytes > 0 && state.bytes.saturating_add(bytes) > self.room.bytes;
        if state.is_closed || is_full {
            return Err(message);
        }
        state.messages.push_back((message, bytes));
        state.bytes += bytes;
        self.ring(state);
        Ok(())
    }

    /// Wakes the owner if it waits.
    fn ring(&self, mut state: MutexGuard<'_, State<T>>) {
        let ring = std::mem::take(&mut state.is_idle);
        drop(state);
        if ring {
            self.bell.notify_one();
        }
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
                let State { messages, bytes: waiting, .. } = &mut *state;
                let taken = messages.drain(..count).map(|(message, bytes)| {
                    *waiting -= bytes;
                    message
                });
                return Some(taken.collect());
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
        let mut state = self.state.lock().expect("no holder panics");
        state.bytes = 0;
        state.messages.drain(..).map(|(message, _)| message).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn messages_come_in_order_in_bounded_batches() {
        let inbox = Inbox::new(Room { messages: 2, ..Room::INTERNAL }, VecDeque::new());
        inbox.push([1, 2, 3]);
        assert_eq!(inbox.offer(4, 0), Err(4), "there is no room");
        assert_eq!(inbox.take(2), Some(vec![1, 2]));
        assert_eq!(inbox.offer(4, 0), Ok(()));
        assert_eq!(inbox.take(9), Some(vec![3, 4]));
        inbox.push([5]);
        inbox.close();
        assert_eq!((inbox.take(9), inbox.offer(6, 0)), (None, Err(6)));
        assert_eq!(inbox.drain(), [5]);
    }

    #[test]
    fn long_messages_find_less_room_than_short_ones_and_give_it_back_when_taken() {
        let inbox = Inbox::new(Room { bytes: 10, ..Room::INTERNAL }, VecDeque::new());
        assert_eq!(inbox.offer(1, 11), Ok(()), "it would never get through");
        assert_eq!(inbox.offer(2, 1), Err(2));
        assert_eq!(inbox.take(1), Some(vec![1]));
        assert_eq!(
            (inbox.offer(3, 4), inbox.offer(4, 6), inbox.offer(5, 1)),
            (Ok(()), Ok(()), Err(5))
        );
        inbox.push([6]);
        assert_eq!(inbox.take(1), Some(vec![3]));
        assert_eq!((inbox.offer(7, 5), inbox.offer(8, 4)), (Err(7), Ok(())));
        assert_eq!(inbox.take(9), Some(vec![4, 6, 8]));
    }

    #[test]
    fn no_message_is_left_lying_while_its_owner_sleeps() {
        let inbox = Arc::new(Inbox::new(Room::INTERNAL, VecDeque::new()));
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
