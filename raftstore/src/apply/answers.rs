//! Who waits for which entry, and what they will be told when the batch is written.
//!
//! **Invariant.** A proposal is done if the entry at its index has its term, and certainly not done if the entry
//! at its index has another, or an entry of a later term was applied: terms of a log only grow. Nothing else
//! decides it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use raft::eraftpb::Entry;
use skerry_proto::metapb;
use skerry_proto::types::{RegionId, Term};

use crate::message::{AdminDone, Proposal, Waiters, Written};
use crate::reply::Refusal;

/// What an entry did.
#[derive(Debug)]
pub(super) enum EntryOutcome {
    /// It changed data, or nothing.
    Written,
    /// It changed the region.
    Admin(Vec<Arc<metapb::Region>>),
    /// It was refused, on every replica.
    Refused(Refusal),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Answers {
    waiting: BTreeMap<RegionId, VecDeque<Proposal>>,
    ready: Vec<(Waiters, Decision)>,
}

#[derive(Debug)]
enum Decision {
    Written(Written),
    Admin(AdminDone),
    Refused(Refusal),
    Unknown(&'static str),
}

impl Answers {
    /// Proposals that came with the entries that are applied next. They wait until an entry settles them or the
    /// region ends: a replica that is removed applies none of the entries behind its removal.
    pub(super) fn expect(&mut self, region_id: RegionId, proposals: Vec<Proposal>) {
        if !proposals.is_empty() {
            self.waiting.entry(region_id).or_default().extend(proposals);
        }
    }

    /// Decides about the proposals that an applied entry settles; answers when its own was made.
    pub(super) fn decide(
        &mut self,
        region_id: RegionId,
        entry: &Entry,
        outcome: EntryOutcome,
    ) -> Option<Duration> {
        let waiting = self.waiting.entry(region_id).or_default();
        let is_settled =
            |proposal: &Proposal| proposal.index <= entry.index || proposal.term < entry.term;
        let mut outcome = Some(outcome);
        let mut proposed_at = None;
        while waiting.front().is_some_and(is_settled) {
            let proposal = waiting.pop_front().expect("looked at above");
            let own = (proposal.index, proposal.term) == (entry.index, entry.term);
            let decision = match outcome.take_if(|_| own) {
                Some(outcome) => {
                    proposed_at = Some(proposal.proposed_at);
                    decision(entry, outcome, &proposal.waiters)
                }
                None => Decision::Refused(Refusal::StaleCommand),
            };
            self.ready.push((proposal.waiters, decision));
        }
        proposed_at
    }

    /// Tells everybody what was decided. Called when the batch is written.
    pub(super) fn tell(&mut self) {
        for (waiters, decision) in self.ready.drain(..) {
            tell(waiters, decision);
        }
    }

    /// Nobody will decide about these.
    pub(super) fn abandon(&mut self, proposals: Vec<Proposal>) {
        for proposal in proposals {
            let reason = "the replica was removed before the command was applied";
            self.ready.push((proposal.waiters, Decision::Unknown(reason)));
        }
    }

    /// A region is not served any more.
    pub(super) fn end(&mut self, region_id: RegionId) {
        let waiting = self.waiting.remove(&region_id).unwrap_or_default();
        self.abandon(waiting.into());
        self.tell();
    }
}

fn decision(entry: &Entry, outcome: EntryOutcome, waiters: &Waiters) -> Decision {
    match (outcome, waiters) {
        (EntryOutcome::Written, Waiters::Write(_)) => {
            Decision::Written(Written { index: entry.index, term: Term::new(entry.term) })
        }
        (EntryOutcome::Admin(regions), Waiters::Admin(_)) => Decision::Admin(AdminDone { regions }),
        (EntryOutcome::Refused(refusal), _) => Decision::Refused(refusal),
        // Raft puts an empty entry in the place of a change of peers that it does not want.
        (_, _) => Decision::Refused(Refusal::Busy("another change of the peers is under way")),
    }
}

fn tell(waiters: Waiters, decision: Decision) {
    match (waiters, decision) {
        (Waiters::Write(replies), Decision::Written(written)) => {
            replies.into_iter().for_each(|reply| reply.done(written));
        }
        (Waiters::Admin(reply), Decision::Admin(done)) => {
            reply.into_iter().for_each(|reply| reply.done(done.clone()));
        }
        (waiters, Decision::Refused(refusal)) => waiters.refuse(refusal),
        (waiters, Decision::Unknown(reason)) => waiters.unknown(reason),
        (waiters, _) => waiters.unknown("the entry was of another kind"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::reply::{Outcome, Replies};

    #[test]
    fn a_proposal_that_no_entry_settles_is_answered_when_its_region_ends() {
        let replies = Replies::new();
        let (sender, receiver) = sync_channel(1);
        let reply = replies.reply(move |outcome| sender.send(outcome).expect("it is heard"));
        let proposal = Proposal {
            index: 7,
            term: 6,
            proposed_at: Duration::ZERO,
            waiters: Waiters::Write(vec![reply]),
        };
        let mut answers = Answers::default();
        answers.expect(RegionId::new(1), vec![proposal]);
        // Those of another region are applied meanwhile.
        answers.expect(RegionId::new(2), Vec::new());
        answers.decide(RegionId::new(2), &Entry::default(), EntryOutcome::Written);
        answers.tell();
        assert!(receiver.try_recv().is_err(), "nothing is decided");
        answers.end(RegionId::new(1));
        assert!(matches!(receiver.try_recv(), Ok(Outcome::Unknown(_))));
        assert_eq!(replies.dropped(), 0);
    }
}
