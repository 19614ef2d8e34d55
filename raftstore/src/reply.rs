//! Exactly one answer for every request.
//!
//! Whoever asks hands over a [`Reply`], which calls back once with an [`Outcome`]: *done*, *refused* (which
//! means certainly not done), or *unknown*. A reply that is dropped without an answer, by a mistake or
//! because its store stops, says *unknown* and is counted; the simulator wants that count to be 0 after
//! every step. It never panics on being dropped: a panic while another unwinds would hide the first.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use skerry_proto::metapb;
use skerry_proto::types::{PeerId, RegionId, StoreId};

/// How a request ended.
#[derive(Debug)]
pub enum Outcome<T> {
    /// It happened.
    Done(T),
    /// It did not happen and never will.
    Refused(Refusal),
    /// It may have happened, or may still happen. Repeating it blindly could do it twice.
    Unknown(&'static str),
}

/// Why a request was certainly not done. Each says what the asker should look up or change.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Ask the leader, if one is known.
    #[error("{region_id} is led by another replica: {leader:?}")]
    NotLeader {
        /// The region.
        region_id: RegionId,
        /// Whom to ask instead.
        leader: Option<metapb::Peer>,
    },
    /// Look up where the region is.
    #[error("{0} has no replica here")]
    RegionNotFound(RegionId),
    /// Look up the region anew: it has other bounds or other replicas.
    #[error("the region has changed")]
    EpochNotMatch(Vec<Arc<metapb::Region>>),
    /// Look up which region holds the key.
    #[error("a key is outside of {}", .region.region_id())]
    KeyNotInRegion {
        /// The key, without the data prefix.
        key: Bytes,
        /// Where it was looked for.
        region: Arc<metapb::Region>,
    },
    /// Look up the replica's new id.
    #[error("{asked} was asked for, {present} is here")]
    PeerMismatch {
        /// In the request.
        asked: PeerId,
        /// On this store.
        present: PeerId,
    },
    /// Look up the store's address.
    #[error("{asked} was asked for, this is {present}")]
    StoreMismatch {
        /// In the request.
        asked: StoreId,
        /// This one.
        present: StoreId,
    },
    /// Repeat: leadership has changed since the request was computed or proposed.
    #[error("leadership has changed")]
    StaleCommand,
    /// Repeat later.
    #[error("the store is busy: {0}")]
    Busy(&'static str),
    /// Make it smaller.
    #[error("{bytes} bytes are over the limit of {bytes_max} for one entry of {region_id}")]
    EntryTooLarge {
        /// The region.
        region_id: RegionId,
        /// Of the command.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The administrator's command makes no sense for this region now.
    #[error("{0}")]
    Admin(String),
}

/// Makes replies and counts those that were dropped.
#[derive(Debug, Default)]
pub struct Replies {
    dropped: AtomicU64,
    disarmed: AtomicBool,
}

impl Replies {
    /// A maker that has counted nothing.
    pub fn new() -> Arc<Replies> {
        Arc::new(Replies::default())
    }

    /// A reply that tells `answer`.
    pub fn reply<T>(
        self: &Arc<Self>,
        answer: impl FnOnce(Outcome<T>) + Send + 'static,
    ) -> Reply<T> {
        Reply { answer: Some(Box::new(answer)), replies: self.clone() }
    }

    /// How many were dropped without an answer.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// From now on drops are not counted and tell nobody: the process is said to have died.
    pub fn disarm(&self) {
        self.disarmed.store(true, Ordering::Relaxed);
    }
}

/// The end that answers.
pub struct Reply<T> {
    /// Taken by the one answer.
    answer: Option<Box<dyn FnOnce(Outcome<T>) + Send>>,
    replies: Arc<Replies>,
}

impl<T> Reply<T> {
    /// Answers.
    pub fn answer(mut self, outcome: Outcome<T>) {
        let answer = self.answer.take().expect("an answer consumes the reply");
        answer(outcome);
    }

    /// It happened.
    pub fn done(self, value: T) {
        self.answer(Outcome::Done(value));
    }

    /// It did not happen and never will.
    pub fn refuse(self, refusal: Refusal) {
        self.answer(Outcome::Refused(refusal));
    }

    /// Nobody can say.
    pub fn unknown(self, reason: &'static str) {
        self.answer(Outcome::Unknown(reason));
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        let Some(answer) = self.answer.take() else { return };
        if !self.replies.disarmed.load(Ordering::Relaxed) {
            self.replies.dropped.fetch_add(1, Ordering::Relaxed);
            answer(Outcome::Unknown("the request was dropped without an answer"));
        }
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Reply")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, sync_channel};

    use super::*;

    fn pair(replies: &Arc<Replies>) -> (Reply<u32>, Receiver<Outcome<u32>>) {
        let (sender, receiver) = sync_channel(2);
        (replies.reply(move |outcome| sender.send(outcome).expect("somebody listens")), receiver)
    }

    #[test]
    fn an_answer_is_told_once() {
        let replies = Replies::new();
        let (reply, answers) = pair(&replies);
        reply.done(7);
        assert!(matches!(answers.recv(), Ok(Outcome::Done(7))));
        assert!(answers.recv().is_err(), "a second answer");
        assert_eq!(replies.dropped(), 0);
    }

    #[test]
    fn a_dropped_reply_says_unknown_and_is_counted() {
        let replies = Replies::new();
        let (reply, answers) = pair(&replies);
        drop(reply);
        assert!(matches!(answers.recv(), Ok(Outcome::Unknown(_))));
        assert_eq!(replies.dropped(), 1);
    }

    #[test]
    fn after_a_simulated_death_nobody_is_told() {
        let replies = Replies::new();
        let (reply, answers) = pair(&replies);
        replies.disarm();
        drop(reply);
        assert!(answers.recv().is_err());
        assert_eq!(replies.dropped(), 0);
    }
}
