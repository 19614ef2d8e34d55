//! The queue in front of an actor that has a thread of its own.
//!
//! Senders push under a short lock; the owner takes everything that waits at once, so that a busy actor pays
//! for one lock and one wake-up per batch and not per message.
//!
//! | push | when the queue is full |
//! | --- | --- |
//! | [`Inbox::push`] and its kin, results between actors | never: there is one for each thing that was asked for |
//! | [`Inbox::offer`] and its kin, what comes from outside | the message is handed back: raft repeats, clients wait |
//!
//! What would not be hurried by waking the owner need not ring ([`Urgency::Patient`]): while the owner expects a push
//! that is certain to come, such a message waits for it, and for others of its kind.
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

/// Whether a message may wait for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// The owner is woken.
    Urgent,
    /// The owner is woken unless it expects something, which will wake it.
    Patient,
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
    /// Messages that are certain to be pushed.
    expected: usize,
}

impl<T> State<T> {
    fn take_in(&mut self, message: T, bytes: usize, room: Room) -> Result<(), T> {
        let is_full = self.messages.len() >= room.messages
            || self.bytes > 0 && self.bytes.saturating_add(bytes) > room.bytes;
        if self.is_closed || is_full {
            return Err(message);
        }
        self.messages.push_back((message, bytes));
        self.bytes += bytes;
        Ok(())
    }
}

impl<T> Inbox<T> {
    /// A queue in which these wait already.
    pub(super) fn new(room: Room, messages: VecDeque<T>) -> Inbox<T> {
        let messages = messages.into_iter().map(|message| (message, 0)).collect();
        let state = State { messages, bytes: 0, is_closed: false, is_idle: false, expected: 0 };
        Inbox { state: Mutex::new(state), bell: Condvar::new(), room }
    }

    /// Adds messages, whatever the queue's length.
    pub(super) fn push(&self, messages: impl IntoIterator<Item = T>) {
        let mut state = self.state.lock().expect("no holder panics");
        state.messages.extend(messages.into_iter().map(|message| (message, 0)));
        self.ring(state);
    }

    /// Adds a message, whatever the queue's length, that may wait for what is expected.
    pub(super) fn push_patiently(&self, message: T) {
        let mut state = self.state.lock().expect("no holder panics");
        state.messages.push_back((message, 0));
        self.ring_for(state, Urgency::Patient);
    }

    /// From now on so many more messages are certain to come by [`Inbox::push_expected`].
    pub(super) fn expect(&self, count: usize) {
        self.state.lock().expect("no holder panics").expected += count;
    }

    /// Adds a message that is as good as `count` of those that were expected.
    pub(super) fn push_expected(&self, message: T, count: usize) {
        let mut state = self.state.lock().expect("no holder panics");
        state.expected = state.expected.checked_sub(count).expect("what was expected comes once");
        state.messages.push_back((message, 0));
        self.ring(state);
    }

    /// Adds a message of `bytes` if there is room, or hands it back.
    pub(super) fn offer(&self, message: T, bytes: usize, urgency: Urgency) -> Result<(), T> {
        let mut state = self.state.lock().expect("no holder panics");
        let refused = state.take_in(message, bytes, self.room);
        if refused.is_ok() {
            self.ring_for(state, urgency);
        }
        refused
    }

    /// Adds messages, each with its bytes, as far as there is room, and wakes the owner once; answers how many were
    /// refused.
    pub(super) fn offer_all(&self, messages: Vec<(T, usize)>) -> usize {
        let mut state = self.state.lock().expect("no holder panics");
        let offered = messages.into_iter();
        let refused =
            offered.filter_map(|(message, bytes)| state.take_in(message, bytes, self.room).err());
        let refused = refused.count();
        self.ring(state);
        refused
    }

    /// What is expected cannot come between this look and the message: both are under one lock.
    fn ring_for(&self, state: MutexGuard<'_, State<T>>, urgency: Urgency) {
        if urgency == Urgency::Urgent || state.expected == 0 {
            self.ring(state);
        }
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

    fn offer(inbox: &Inbox<i32>, message: i32, bytes: usize) -> Result<(), i32> {
        inbox.offer(message, bytes, Urgency::Urgent)
    }

    #[test]
    fn messages_come_in_order_in_bounded_batches() {
        let inbox = Inbox::new(Room { messages: 2, ..Room::INTERNAL }, VecDeque::new());
        inbox.push([1, 2, 3]);
        assert_eq!(offer(&inbox, 4, 0), Err(4), "there is no room");
        assert_eq!(inbox.take(2), Some(vec![1, 2]));
        assert_eq!(offer(&inbox, 4, 0), Ok(()));
        assert_eq!(inbox.take(9), Some(vec![3, 4]));
        inbox.push([5]);
        inbox.close();
        assert_eq!((inbox.take(9), offer(&inbox, 6, 0)), (None, Err(6)));
        assert_eq!(inbox.drain(), [5]);
    }

    #[test]
    fn of_many_that_are_offered_those_are_refused_that_find_no_room() {
        let inbox = Inbox::new(Room { messages: 3, bytes: 10 }, VecDeque::new());
        assert_eq!(inbox.offer_all(vec![(1, 6), (2, 6), (3, 4)]), 1, "the second is too long");
        assert_eq!(inbox.offer_all(vec![(4, 0), (5, 0)]), 1, "there are three");
        assert_eq!(inbox.take(9), Some(vec![1, 3, 4]));
    }

    #[test]
    fn long_messages_find_less_room_than_short_ones_and_give_it_back_when_taken() {
        let inbox = Inbox::new(Room { bytes: 10, ..Room::INTERNAL }, VecDeque::new());
        assert_eq!(offer(&inbox, 1, 11), Ok(()), "it would never get through");
        assert_eq!(offer(&inbox, 2, 1), Err(2));
        assert_eq!(inbox.take(1), Some(vec![1]));
        assert_eq!(
            (offer(&inbox, 3, 4), offer(&inbox, 4, 6), offer(&inbox, 5, 1)),
            (Ok(()), Ok(()), Err(5))
        );
        inbox.push([6]);
        assert_eq!(inbox.take(1), Some(vec![3]));
        assert_eq!((offer(&inbox, 7, 5), offer(&inbox, 8, 4)), (Err(7), Ok(())));
        assert_eq!(inbox.take(9), Some(vec![4, 6, 8]));
    }

    #[test]
    fn what_can_wait_is_taken_with_what_is_expected() {
        let inbox = Arc::new(Inbox::new(Room::INTERNAL, VecDeque::new()));
        inbox.expect(2);
        let owner = inbox.clone();
        let (taken, batches) = crossbeam_channel::bounded(2);
        let thread = crate::time::spawn("inbox-owner", move || {
            while let Some(batch) = owner.take(9) {
                taken.send(batch).expect("somebody listens");
            }
        });
        while !inbox.state.lock().expect("nobody panics").is_idle {
            std::thread::yield_now();
        }
        inbox.offer(1, 0, Urgency::Patient).expect("there is room");
        inbox.offer(2, 0, Urgency::Patient).expect("there is room");
        assert!(inbox.state.lock().expect("nobody panics").is_idle, "nobody was woken");
        inbox.push_expected(3, 2);
        assert_eq!(batches.recv(), Ok(vec![1, 2, 3]));
        inbox.offer(4, 0, Urgency::Patient).expect("there is room");
        assert_eq!(batches.recv(), Ok(vec![4]), "nothing is expected any more");
        inbox.close();
        thread.join().expect("it ends");
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
