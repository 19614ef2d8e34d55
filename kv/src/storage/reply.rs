//! The two ends of one answer: [`Reply`] at the side that answers, [`Answer`] at the side that
//! asked.
//!
//! A reply answers exactly once, in whatever way it leaves the program: by [`Reply::answer`], or by
//! being dropped (a stopping actor, a cleared queue), which answers [`Error::Unknown`] and is
//! counted. It never panics on being dropped: a panic while another unwinds would hide the first.
//! The count is 0 in a healthy store; tests and the simulator ask for it.
//!
//! An answer is a future of the standard library. One that is known at once allocates nothing.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures_channel::oneshot;

use crate::error::{Error, Result};

/// Makes replies and counts those that were dropped.
#[derive(Debug, Default)]
pub struct Replies {
    /// Raised by the drop of an unanswered reply, never lowered.
    unanswered: AtomicU64,
}

impl Replies {
    /// A maker that has counted nothing.
    pub fn new() -> Arc<Replies> {
        Arc::new(Replies::default())
    }

    /// Both ends of one answer.
    pub fn pair<T>(self: &Arc<Self>) -> (Reply<T>, Answer<T>) {
        let (sender, receiver) = oneshot::channel();
        (Reply { sender: Some(sender), replies: self.clone() }, Answer::Waiting(receiver))
    }

    /// How many replies were dropped without an answer.
    pub fn unanswered(&self) -> u64 {
        self.unanswered.load(Ordering::Relaxed)
    }
}

/// The end that answers.
#[derive(Debug)]
pub struct Reply<T> {
    /// Taken by the one answer.
    sender: Option<oneshot::Sender<Result<T>>>,
    replies: Arc<Replies>,
}

impl<T> Reply<T> {
    /// Answers. That nobody waits any more is no error.
    pub fn answer(mut self, result: Result<T>) {
        if let Some(sender) = self.sender.take() {
            let _ = sender.send(result);
        }
    }

    /// Whether the other end is gone: work whose only result is the answer may stop.
    pub fn is_abandoned(&self) -> bool {
        self.sender.as_ref().is_none_or(oneshot::Sender::is_canceled)
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        // The other end reads a channel that closed without a word as *unknown*.
        if self.sender.is_some() {
            self.replies.unanswered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The end that asked. Dropping it takes nothing back: an accepted write still happens.
#[derive(Debug)]
pub enum Answer<T> {
    /// Known at once; empty once it was taken.
    Ready(Option<Result<T>>),
    /// To be sent by the [`Reply`].
    Waiting(oneshot::Receiver<Result<T>>),
}

impl<T> Answer<T> {
    /// An answer that is known at once.
    pub fn ready(result: Result<T>) -> Answer<T> {
        Answer::Ready(Some(result))
    }
}

// Nothing in it is ever pinned: a ready result is moved out, a receiver is itself `Unpin`.
impl<T> Unpin for Answer<T> {}

impl<T> Future for Answer<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        match &mut *self {
            Answer::Ready(result) => {
                Poll::Ready(result.take().expect("an answer is not polled after it was taken"))
            }
            Answer::Waiting(receiver) => Pin::new(receiver).poll(context).map(|sent| {
                sent.unwrap_or_else(|_canceled| {
                    let reason = "the request was dropped without an answer";
                    Err(Error::Unknown(reason.to_string()))
                })
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_executor::block_on;

    use super::*;

    #[test]
    fn an_answer_arrives_once_and_a_ready_one_needs_no_channel() {
        let replies = Replies::new();
        let (reply, answer) = replies.pair();
        reply.answer(Ok(7));
        assert_eq!(block_on(answer).unwrap(), 7);
        assert_eq!(block_on(Answer::ready(Ok(8))).unwrap(), 8);
        assert_eq!(replies.unanswered(), 0);
    }

    #[test]
    fn a_dropped_reply_says_unknown_and_is_counted() {
        let replies = Replies::new();
        let (reply, answer) = replies.pair::<()>();
        drop(reply);
        assert!(block_on(answer).unwrap_err().is_unknown());
        assert_eq!(replies.unanswered(), 1);
    }

    #[test]
    fn a_reply_knows_that_nobody_waits_and_answers_into_the_void() {
        let replies = Replies::new();
        let (reply, answer) = replies.pair::<()>();
        assert!(!reply.is_abandoned());
        drop(answer);
        assert!(reply.is_abandoned());
        reply.answer(Ok(()));
        assert_eq!(replies.unanswered(), 0);
    }
}
