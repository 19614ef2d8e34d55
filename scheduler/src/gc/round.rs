//! One round of garbage collection after the other, each up to one safe point: who has heard of it, which keys are
//! free of locks, who is dropping what. Pure; [`super`] tells the steps.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use skerry_proto::types::StoreId;

use super::ranges::Ranges;
use crate::moment::Moment;

/// For how long a store may rely on what it was told.
pub const LEASE: Duration = Duration::from_secs(300);

/// After this time nobody relies any more on what was told before: clocks of machines run apart by less than an eighth.
const LEASE_OVER: Duration = Duration::from_secs(300 + 300 / 8);

/// A store that has said nothing for so long is not waited for to see a round ended: others lead what it led.
const SILENCE: Duration = Duration::from_secs(60);

/// A step of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing is being done.
    Idle,
    /// Stores are to hear of the safe point.
    Announce,
    /// Locks of transactions that began at or below it are being resolved.
    Resolve,
    /// Old versions are being dropped.
    Collect,
}

impl Phase {
    /// As people read it.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Idle => "idle",
            Phase::Announce => "announcing",
            Phase::Resolve => "resolving locks",
            Phase::Collect => "collecting",
        }
    }
}

/// What a store says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The safe point that it keeps.
    pub kept: u64,
    /// Up to where `free` is free of locks.
    pub resolved_to: u64,
    /// Ranges, by start and end.
    pub free: Vec<(Bytes, Bytes)>,
    /// Up to where it drops old versions, or has.
    pub collecting_to: u64,
    /// Regions that it leads.
    pub regions: u64,
    /// Those of them that are not done.
    pub regions_left: u64,
    /// Since it was started.
    pub dropped: u64,
    /// What stands in its way.
    pub obstacle: String,
}

/// What a store is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// To be kept.
    pub safe_point: u64,
    /// To be relied upon for so long.
    pub lease: Duration,
    /// Locks of transactions that began at or below are to go; 0: none.
    pub resolve_to: u64,
    /// Versions that no read at or above sees are to go; 0: none.
    pub collect_to: u64,
}

/// What a store has said last.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The report, without its ranges.
    pub report: Report,
    /// When it came.
    pub at: Moment,
}

/// A round that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Up to where.
    pub safe_point: u64,
    /// From its beginning to the last region.
    pub took: Duration,
    /// When, in milliseconds since 1970.
    pub wall_ms: u64,
}

/// The round under way, or the last one.
#[derive(Debug)]
pub struct Round {
    phase: Phase,
    /// Its safe point. Rounds are told apart by it: each has a higher one than those before.
    target: u64,
    began: Moment,
    free: Ranges,
    /// There are no locks of transactions that began at or below this.
    collectable: u64,
    stores: BTreeMap<StoreId, Standing>,
    last: Option<Finished>,
    /// Somebody does not want to wait for the next one.
    pub is_wanted: bool,
}

impl Round {
    /// No round was begun since `now`.
    pub fn new(now: Moment) -> Round {
        Round {
            phase: Phase::Idle,
            target: 0,
            began: now,
            free: Ranges::default(),
            collectable: 0,
            stores: BTreeMap::new(),
            last: None,
            is_wanted: false,
        }
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Up to where.
    pub fn target(&self) -> u64 {
        self.target
    }

    /// When it began, or the scheduler did.
    pub fn began(&self) -> Moment {
        self.began
    }

    /// The one before.
    pub fn last(&self) -> Option<Finished> {
        self.last
    }

    /// What stores have said.
    pub fn stores(&self) -> impl Iterator<Item = (StoreId, &Standing)> {
        self.stores.iter().map(|(id, standing)| (*id, standing))
    }

    /// The first key that may still have locks in the way.
    pub fn first_missing(&self) -> Option<Bytes> {
        self.free.first_missing()
    }

    /// Whether another one may begin.
    pub fn may_begin(&self) -> bool {
        matches!(self.phase, Phase::Idle | Phase::Collect)
    }

    /// Begins a round up to `target`, which is durable, if none is under way and the last one did not go so far.
    pub fn begin(&mut self, target: u64, now: Moment) {
        if target > self.target && self.may_begin() {
            (self.phase, self.target, self.began) = (Phase::Announce, target, now);
            self.free = Ranges::default();
        }
    }

    /// Goes on if everybody of `members` has heard, or time has made up for who has not.
    pub fn tick(&mut self, members: &[StoreId], now: Moment) {
        let has_heard =
            |id: &StoreId| self.stores.get(id).is_some_and(|it| it.report.kept >= self.target);
        let is_over = now.since(self.began) >= LEASE_OVER;
        if self.phase == Phase::Announce && (is_over || members.iter().all(has_heard)) {
            self.phase = Phase::Resolve;
        }
        self.stores.retain(|id, _| members.contains(id));
    }

    /// Takes what a store says. Answers a safe point up to which no locks are left any more, if that is news: it may be
    /// published as the gc safe point, and collected up to when that is durable.
    pub fn report(&mut self, store: StoreId, mut report: Report, now: Moment) -> Option<u64> {
        let free = std::mem::take(&mut report.free);
        let is_of_round = self.phase == Phase::Resolve && report.resolved_to == self.target;
        self.stores.insert(store, Standing { report, at: now });
        if is_of_round {
            free.into_iter().for_each(|(start, end)| self.free.insert(start, &end));
            if self.free.is_everything() {
                (self.phase, self.collectable) = (Phase::Collect, self.target);
                return Some(self.target);
            }
        }
        if self.phase == Phase::Collect && self.is_collected(now) {
            let (took, wall_ms) = (now.since(self.began), now.wall_ms);
            self.last = Some(Finished { safe_point: self.target, took, wall_ms });
            self.phase = Phase::Idle;
        }
        None
    }

    /// Whether all who speak have dropped what is to go.
    fn is_collected(&self, now: Moment) -> bool {
        let speaking = self.stores.values().filter(|it| now.since(it.at) < SILENCE);
        let is_done =
            |it: &Standing| it.report.collecting_to >= self.target && it.report.regions_left == 0;
        speaking.into_iter().all(is_done)
    }

    /// What a store is to do, when `txn` and `gc` are the durable marks.
    pub fn order(&self, txn: u64, gc: u64) -> Order {
        Order {
            safe_point: txn,
            lease: LEASE,
            resolve_to: if self.phase == Phase::Resolve { self.target } else { 0 },
            collect_to: if gc >= self.collectable { self.collectable } else { 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORES: [StoreId; 2] = [StoreId::new(1), StoreId::new(2)];

    fn at(seconds: u64) -> Moment {
        Moment { monotonic: Duration::from_secs(seconds), wall_ms: seconds * 1_000 }
    }

    fn kept(kept: u64) -> Report {
        Report { kept, ..Report::default() }
    }

    fn free(to: u64, start: &'static str, end: &'static str) -> Report {
        let range = (Bytes::from(start), Bytes::from(end));
        Report { kept: to, resolved_to: to, free: vec![range], ..Report::default() }
    }

    #[test]
    fn nothing_is_resolved_before_all_have_heard_and_nothing_collected_before_all_is_resolved() {
        let mut round = Round::new(at(0));
        round.begin(70, at(1));
        assert_eq!(round.report(STORES[0], kept(70), at(2)), None);
        round.tick(&STORES, at(2));
        assert_eq!(round.order(70, 0).resolve_to, 0, "the other has not heard");
        // What it resolved by itself, before the other had heard, is no use.
        assert_eq!(round.report(STORES[0], free(70, "", ""), at(3)), None);
        round.report(STORES[1], kept(70), at(3));
        round.tick(&STORES, at(3));
        assert_eq!(round.order(70, 0).resolve_to, 70);
        assert_eq!(round.report(STORES[0], free(70, "", "m"), at(4)), None);
        assert_eq!(round.report(STORES[1], free(60, "m", ""), at(4)), None, "of another round");
        assert_eq!(round.order(70, 0).collect_to, 0);
        assert_eq!(round.report(STORES[1], free(70, "k", ""), at(5)), Some(70));
        assert_eq!(round.order(70, 0).collect_to, 0, "the gc safe point is not durable yet");
        assert_eq!(round.order(70, 70).collect_to, 70);
    }

    #[test]
    fn a_silent_store_is_waited_for_until_its_lease_is_over_on_any_clock() {
        let mut round = Round::new(at(0));
        round.begin(70, at(100));
        round.report(STORES[0], kept(70), at(101));
        round.tick(&STORES, at(400));
        assert_eq!(round.phase(), Phase::Announce);
        round.tick(&STORES, at(438));
        assert_eq!(round.phase(), Phase::Resolve);
    }

    #[test]
    fn a_round_ends_when_all_who_speak_are_done_and_the_next_one_goes_further() {
        let mut round = Round::new(at(0));
        round.begin(70, at(1));
        round.report(STORES[0], kept(70), at(1));
        round.tick(&STORES[..1], at(1));
        round.report(STORES[0], free(70, "", ""), at(2));
        let left = Report { collecting_to: 70, regions_left: 3, ..kept(70) };
        round.report(STORES[0], left.clone(), at(3));
        assert_eq!(round.phase(), Phase::Collect);
        round.report(STORES[0], Report { regions_left: 0, ..left }, at(9));
        assert_eq!(round.phase(), Phase::Idle);
        let took = Duration::from_secs(8);
        assert_eq!(round.last(), Some(Finished { safe_point: 70, took, wall_ms: 9_000 }));
        round.begin(70, at(10));
        assert_eq!(round.phase(), Phase::Idle, "that was done");
        round.begin(71, at(10));
        assert_eq!(round.phase(), Phase::Announce);
        assert_eq!(round.order(71, 70).collect_to, 70, "the last one goes on meanwhile");
    }
}
