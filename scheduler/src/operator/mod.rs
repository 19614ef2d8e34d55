//! Operators: what is being done about a region, as steps that its leader is told one at a time.
//!
//! # The life of an operator
//!
//! 1. A checker, a balancer or a person makes a [`Plan`]; [`Operators::start`] makes an operator of it, if the
//!    region has none of at least the same priority and is as the plan found it.
//! 2. The leader is told the current step, at once and again with every heartbeat: a store has no memory of it, and
//!    an instruction may be lost.
//! 3. Heartbeats alone show progress ([`Operator::progress`]). A step is done when the region has exactly the peers
//!    that follow from it; one that has others is being changed by somebody else, and the operator is cancelled.
//!    A replica that has fallen behind since it was fed is given no vote before it follows again.
//! 4. It ends as done, timed out, cancelled with a reason, or replaced, and goes to the history.
//!
//! While it runs, what it will have changed at its end counts for the stores as if it were so ([`Effect`]): otherwise
//! all decisions of one moment would choose the same store.
//!
//! **Invariants.** A region has at most one operator. An operator knows nothing that is not in memory: a restart of
//! the scheduler ends all of them, and what they have left half done follows from the regions.

use std::fmt;
use std::time::Duration;

use skerry_proto::metapb::Peer;
use skerry_proto::types::{RegionId, StoreId};

use crate::moment::Moment;
use crate::planted::Planted;
use crate::region_tree::RegionRecord;

pub mod build;
mod controller;
pub mod limits;
mod step;

pub use self::build::Goal;
pub use self::controller::{Ended, Operators};
pub use self::step::{Order, Step, ordered};

/// How long a leader may take to do what it is told and to report it. It does so in milliseconds, if at all; the
/// instruction is repeated meanwhile.
const STEP_PATIENCE: Duration = Duration::from_secs(60);

/// How long a new replica may take to get the data, besides what its size needs.
const FEED_PATIENCE: Duration = Duration::from_secs(600);

/// How long it may take for each MiB: a poor network under load.
const FEED_PATIENCE_PER_MIB: Duration = Duration::from_secs(6);

/// What an operator is for. Each kind has a limit of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Somebody asked for it by hand.
    Admin,
    /// A region has too few, too many or badly placed replicas.
    Replica,
    /// Replicas are spread evenly.
    Region,
    /// Leaders are spread evenly.
    Leader,
    /// Hot leaders are spread.
    HotRegion,
    /// A region is cut.
    Split,
}

impl Kind {
    /// As the interfaces have it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Admin => "admin",
            Kind::Replica => "replica",
            Kind::Region => "region",
            Kind::Leader => "leader",
            Kind::HotRegion => "hot-region",
            Kind::Split => "split",
        }
    }
}

/// Who gives way to whom, if both want the same region: the lower to the higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// For comfort.
    Balance,
    /// For safety of the data.
    Repair,
    /// By hand.
    Admin,
}

/// What somebody wants to be done about a region, before ids are given.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The region.
    pub region: RegionId,
    /// Who wants it, and what: `balance-leader`.
    pub name: &'static str,
    /// What limit it falls under.
    pub kind: Kind,
    /// How much it matters.
    pub priority: Priority,
    /// What to do.
    pub task: Task,
}

/// The content of a plan.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    /// Have the replicas stand so.
    Reach(Goal),
    /// Do one thing that needs no new replica.
    Do(Step),
}

/// How an operator ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All steps are done.
    Done,
    /// A step took too long.
    TimedOut(String),
    /// It makes no sense any more, or somebody wanted it to end.
    Cancelled(String),
    /// Another one was more important.
    Replaced,
}

impl fmt::Display for Ending {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Done => formatter.write_str("done"),
            Ending::TimedOut(step) => write!(formatter, "timed out: {step}"),
            Ending::Cancelled(reason) => write!(formatter, "cancelled: {reason}"),
            Ending::Replaced => formatter.write_str("replaced by a more important one"),
        }
    }
}

/// What stores will have more or less of, beyond what heartbeats show already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// Replicas.
    pub regions: i64,
    /// MiB of replicas.
    pub size_mib: i64,
    /// Leaders.
    pub leaders: i64,
    /// Bytes a second of the regions led.
    pub rate: i64,
    /// Replicas that are on their way here and have no data yet.
    pub arriving: i64,
    /// Replicas that are being fed from here.
    pub feeding: i64,
}

/// One operator.
#[derive(Clone, Debug)]
pub struct Operator {
    /// Its region.
    pub region: RegionId,
    /// Who wants it.
    pub name: &'static str,
    /// What limit it falls under.
    pub kind: Kind,
    /// How much it matters.
    pub priority: Priority,
    /// All steps.
    pub steps: Vec<Step>,
    /// How many of them are done.
    pub done: usize,
    /// When it began.
    pub created: Moment,
    /// When its current step began, or was seen to be accepted.
    step_since: Moment,
    /// Whether the current step has come to need nothing but time.
    is_waiting: bool,
    /// When its leader was last told.
    pub told: Option<Moment>,
    /// Peers before the current step, by id.
    peers: Vec<Peer>,
    /// Peers at the end.
    peers_at_end: Vec<Peer>,
    /// Version of the range when it began.
    version: u64,
    /// What it counts for the stores now.
    effects: Vec<(StoreId, Effect)>,
    planted: Option<Planted>,
}

/// What a heartbeat has shown of an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It goes on.
    Running,
    /// It is over.
    Over(Ending),
}

impl Operator {
    fn new(plan: Plan, steps: Vec<Step>, record: &RegionRecord, now: Moment) -> Operator {
        let peers = ordered(&record.region.peers);
        let peers_at_end = steps.iter().fold(peers.clone(), |peers, step| step.applied(&peers));
        let Plan { region, name, kind, priority, .. } = plan;
        let mut operator = Operator {
            region,
            name,
            kind,
            priority,
            steps,
            done: 0,
            created: now,
            step_since: now,
            is_waiting: false,
            told: None,
            peers,
            peers_at_end,
            version: record.region.epoch().version,
            effects: Vec::new(),
            planted: None,
        };
        operator.effects = operator.effects_beyond(record);
        operator
    }

    fn planted(self, planted: Option<Planted>) -> Operator {
        Operator { planted, ..self }
    }

    /// The step that is due; none if all are done.
    pub fn step(&self) -> Option<&Step> {
        self.steps.get(self.done)
    }

    /// What it counts for the stores.
    pub fn effects(&self) -> impl Iterator<Item = (StoreId, Effect)> {
        self.effects.iter().copied()
    }

    /// What the leader is to be told, unless it is at it already.
    pub fn order(&self, record: &RegionRecord) -> Option<Order> {
        let step = self.step().filter(|step| !self.is_waiting_for(step, record))?;
        Some(step.order())
    }

    /// Whether a step needs nothing but time now.
    fn is_waiting_for(&self, step: &Step, record: &RegionRecord) -> bool {
        let hasty = [Some(Planted::PromoteBeforeData), Some(Planted::LearnerPromotedUnseen)];
        let is_fed = matches!(step, Step::AddLearner(_));
        step.is_waiting(record) && (is_fed || !hasty.contains(&self.planted))
    }

    /// Looks at what a heartbeat has shown.
    fn progress(&mut self, record: &RegionRecord, now: Moment) -> Progress {
        while let Some(step) = self.steps.get(self.done) {
            let is_seen = self.planted == Some(Planted::PromoteBeforeData)
                && matches!(step, Step::AddLearner(_))
                && step.is_waiting(record);
            if !is_seen && !step.is_done(record, &self.peers, self.version) {
                break;
            }
            self.peers = step.applied(&self.peers);
            self.done += 1;
            self.step_since = now;
            self.is_waiting = false;
        }
        self.effects = self.effects_beyond(record);
        let Some(step) = self.steps.get(self.done) else {
            let stays = self.planted == Some(Planted::DoneStays);
            return if stays { Progress::Running } else { Progress::Over(Ending::Done) };
        };
        if !self.is_waiting && self.is_waiting_for(step, record) {
            self.is_waiting = true;
            self.step_since = now;
        }
        let current = ordered(&record.region.peers);
        let is_foreign = current != self.peers && current != step.applied(&self.peers);
        if is_foreign && self.planted != Some(Planted::ForeignChangeIgnored) {
            let reason = format!("somebody else has changed the peers: {}", record.region);
            return Progress::Over(Ending::Cancelled(reason));
        }
        let leads = |peer: &Peer| record.leader.is_some_and(|leader| leader.id == peer.id);
        if step.loses_vote().is_some_and(leads) {
            let reason = format!("the replica that leaves has come to lead: {}", record.region);
            return Progress::Over(Ending::Cancelled(reason));
        }
        self.lateness(record.size_mib, now)
    }

    /// Whether the current step has taken too long.
    fn lateness(&self, size_mib: u64, now: Moment) -> Progress {
        let Some(step) = self.step() else { return Progress::Running };
        let size = u32::try_from(size_mib).unwrap_or(u32::MAX);
        let patience = match self.is_waiting {
            true => FEED_PATIENCE.saturating_add(FEED_PATIENCE_PER_MIB.saturating_mul(size)),
            false => STEP_PATIENCE,
        };
        if now.since(self.step_since) <= patience {
            return Progress::Running;
        }
        Progress::Over(Ending::TimedOut(step.to_string()))
    }

    /// What the stores will have at the end, beyond what the region shows now.
    fn effects_beyond(&self, record: &RegionRecord) -> Vec<(StoreId, Effect)> {
        let mut effects: Vec<(StoreId, Effect)> = Vec::new();
        let mut add = |store: StoreId, change: &dyn Fn(&mut Effect)| {
            let known = effects.iter().position(|(known, _)| *known == store);
            let place = known.unwrap_or(effects.len());
            if known.is_none() {
                effects.push((store, Effect::default()));
            }
            change(&mut effects[place].1);
        };
        let size = i64::try_from(record.weight()).unwrap_or(i64::MAX);
        let rate = i64::try_from(record.rate()).unwrap_or(i64::MAX);
        let is_in = |peers: &[Peer], store| peers.iter().any(|peer| peer.store() == store);
        for peer in self.peers_at_end.iter().filter(|it| !is_in(&record.region.peers, it.store())) {
            add(peer.store(), &|effect| (effect.regions, effect.size_mib) = (1, size));
        }
        for peer in record.region.peers.iter().filter(|it| !is_in(&self.peers_at_end, it.store())) {
            add(peer.store(), &|effect| (effect.regions, effect.size_mib) = (-1, -size));
        }
        let left = &self.steps[self.done..];
        let heir = left.iter().rev().find_map(|step| match step {
            Step::Transfer(heir) => Some(heir.store()),
            _ => None,
        });
        if let (Some(heir), Some(leader)) = (heir, record.leader) {
            for (store, one) in [(heir, 1), (leader.store(), -1)] {
                add(store, &|effect| {
                    effect.leaders += one;
                    effect.rate += one * rate;
                });
            }
        }
        for step in left {
            if let Step::AddLearner(learner) = step {
                add(learner.store(), &|effect| effect.arriving += 1);
                if let Some(leader) = record.leader {
                    add(leader.store(), &|effect| effect.feeding += 1);
                }
            }
        }
        effects
    }
}

/// `balance-region of r4: add learner p9@s3, promote p9@s3 (1 of 2 done)`.
impl fmt::Display for Operator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps: Vec<String> = self.steps.iter().map(Step::to_string).collect();
        let (name, region, all) = (self.name, self.region, self.steps.len());
        write!(formatter, "{name} of {region}: {} ({} of {all} done)", steps.join(", "), self.done)
    }
}

#[cfg(test)]
mod tests;
