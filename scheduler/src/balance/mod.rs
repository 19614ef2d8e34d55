//! Balancers: what could be better although nothing is wrong. Each looks at stores as a whole and moves one replica
//! or one leader at a time; the cluster asks again until it has no more wishes, or a limit is reached.
//!
//! | name | what it does | on by default |
//! | --- | --- | --- |
//! | `balance-leader` | as many leaders on every store, by weight | yes |
//! | `balance-region` | as much data on every store, by weight and space | yes |
//! | `balance-hot-region` | spreads leaders of regions under load | yes |
//! | `evict-leader` | leads nothing from some stores | no |
//! | `grant-leader` | leads everything it can from some stores | no |
//! | `shuffle-leader`, `shuffle-region` | moves what comes, for tests | no |
//!
//! **Invariants.** A balancer never touches a region that is not whole or that has an operator. What it does makes
//! stores more alike even when all operators under way are counted as done: so it comes to an end, and does not
//! begin again before the difference is worth it ([`Evenness`]).

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use skerry_proto::types::{RegionId, StoreId};
use skerry_raftstore::time::splitmix64;

use crate::moment::Moment;
use crate::operator::{Kind, Plan};
use crate::picture::Picture;
use crate::{Error, Result};

mod hot;
mod leader;
mod region;
mod shuffle;
mod stores;

/// Regions that are looked at on one store before another one is tried.
const TRIES: usize = 10;

/// Sentences of one decision that are kept.
const REASONS_MAX: usize = 16;

/// The balancers there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Name {
    /// See the table.
    BalanceLeader,
    /// See the table.
    BalanceRegion,
    /// See the table.
    BalanceHotRegion,
    /// See the table.
    EvictLeader,
    /// See the table.
    GrantLeader,
    /// See the table.
    ShuffleLeader,
    /// See the table.
    ShuffleRegion,
}

impl Name {
    /// All of them.
    pub(crate) const ALL: [Name; 7] = [
        Name::BalanceLeader,
        Name::BalanceRegion,
        Name::BalanceHotRegion,
        Name::EvictLeader,
        Name::GrantLeader,
        Name::ShuffleLeader,
        Name::ShuffleRegion,
    ];

    /// As people and files write it.
    pub fn text(self) -> &'static str {
        match self {
            Name::BalanceLeader => "balance-leader",
            Name::BalanceRegion => "balance-region",
            Name::BalanceHotRegion => "balance-hot-region",
            Name::EvictLeader => "evict-leader",
            Name::GrantLeader => "grant-leader",
            Name::ShuffleLeader => "shuffle-leader",
            Name::ShuffleRegion => "shuffle-region",
        }
    }

    /// Reads a name, also in PD's form with `-scheduler` at its end.
    pub fn parse(text: &str) -> Result<Name> {
        let short = text.strip_suffix("-scheduler").unwrap_or(text);
        let known = Name::ALL.into_iter().find(|name| name.text() == short);
        known.ok_or_else(|| {
            let all = Name::ALL.map(Name::text).join(", ");
            Error::InvalidValue(format!("no balancer is called {text:?}; there are {all}"))
        })
    }

    /// Whether it is told which stores it is about.
    pub fn has_stores(self) -> bool {
        matches!(self, Name::EvictLeader | Name::GrantLeader)
    }

    fn kind(self) -> Kind {
        match self {
            Name::BalanceRegion | Name::ShuffleRegion => Kind::Region,
            Name::BalanceHotRegion => Kind::HotRegion,
            _ => Kind::Leader,
        }
    }
}

/// A balancer that is on. Durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Which one.
    pub name: Name,
    /// What stores it is about, if it is about some.
    #[serde(default)]
    pub stores: BTreeSet<u64>,
}

/// What a balancer has last decided, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// When.
    pub at: Moment,
    /// In a sentence.
    pub summary: String,
    /// What stood in the way, a sentence for each region and store.
    pub reasons: Vec<String>,
}

impl Report {
    fn of(now: Moment, summary: impl Into<String>) -> Report {
        Report { at: now, summary: summary.into(), reasons: Vec::new() }
    }

    fn note(&mut self, reason: impl FnOnce() -> String) {
        if self.reasons.len() < REASONS_MAX {
            let reason = reason();
            if !self.reasons.contains(&reason) {
                self.reasons.push(reason);
            }
        }
    }
}

/// Chance that can be replayed.
#[derive(Debug)]
pub struct Chance {
    seed: u64,
    drawn: u64,
}

impl Chance {
    /// The same seed draws the same numbers.
    pub fn new(seed: u64) -> Chance {
        Chance { seed, drawn: 0 }
    }

    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        splitmix64(self.seed ^ self.drawn.rotate_left(32))
    }
}

/// Keeps a balancer from beginning again over nothing: it begins when the stores differ by the tolerance, and then
/// goes on until they are as even as moves can make them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evenness {
    is_moving: bool,
}

impl Evenness {
    /// Whether a difference is worth moving something. `begins_above` is larger than `ends_at`.
    fn is_worth(&mut self, difference: f64, begins_above: f64, ends_at: f64) -> bool {
        let threshold = if self.is_moving { ends_at } else { begins_above };
        self.is_moving = difference > threshold;
        self.is_moving
    }

    /// Nothing could be moved: it begins anew.
    fn rest(&mut self) {
        self.is_moving = false;
    }
}

/// A balancer with what it remembers.
#[derive(Debug)]
struct Balancer {
    spec: Spec,
    paused_until: Option<Moment>,
    evenness: Evenness,
    report: Report,
}

/// How a balancer stands, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which one, and about what.
    pub spec: Spec,
    /// How long it still pauses.
    pub pauses_for: Option<Duration>,
    /// What it last decided.
    pub report: Report,
}

/// All balancers that are on.
#[derive(Debug)]
pub struct Balancers {
    on: Vec<Balancer>,
    chance: Chance,
    /// Stores that an eviction is for.
    no_leaders: BTreeSet<StoreId>,
}

impl Balancers {
    /// Those that are on by default.
    pub fn new(seed: u64) -> Balancers {
        let on = [Name::BalanceLeader, Name::BalanceRegion, Name::BalanceHotRegion];
        let specs = on.map(|name| Spec { name, stores: BTreeSet::new() });
        let mut balancers =
            Balancers { on: Vec::new(), chance: Chance::new(seed), no_leaders: BTreeSet::new() };
        balancers.install(specs.to_vec());
        balancers
    }

    /// Turns exactly these on. What goes on keeps its memory.
    pub fn install(&mut self, specs: Vec<Spec>) {
        let mut before = std::mem::take(&mut self.on);
        let balancer = |spec: Spec| {
            let known = before.iter().position(|balancer| balancer.spec.name == spec.name);
            match known {
                Some(place) => Balancer { spec, ..before.swap_remove(place) },
                None => Balancer {
                    spec,
                    paused_until: None,
                    evenness: Evenness::default(),
                    report: Report::default(),
                },
            }
        };
        self.on = specs.into_iter().map(balancer).collect();
        let evicting = self.specs_of(Name::EvictLeader);
        self.no_leaders =
            evicting.flat_map(|spec| &spec.stores).copied().map(StoreId::new).collect();
    }

    /// What is on.
    pub fn specs(&self) -> Vec<Spec> {
        self.on.iter().map(|balancer| balancer.spec.clone()).collect()
    }

    /// Stores that shall lead nothing.
    pub fn no_leaders(&self) -> &BTreeSet<StoreId> {
        &self.no_leaders
    }

    /// Pauses a balancer until a moment, or lets it go on. False if it is not on.
    pub fn pause(&mut self, name: Name, until: Option<Moment>) -> bool {
        let found = self.on.iter_mut().find(|balancer| balancer.spec.name == name);
        found.map(|balancer| balancer.paused_until = until).is_some()
    }

    /// How all that are on stand.
    pub fn standings(&self, now: Moment) -> Vec<Standing> {
        let standing = |balancer: &Balancer| Standing {
            spec: balancer.spec.clone(),
            pauses_for: balancer
                .paused_until
                .map(|until| until.since(now))
                .filter(|left| !left.is_zero()),
            report: balancer.report.clone(),
        };
        self.on.iter().map(standing).collect()
    }

    /// How many are on.
    pub fn len(&self) -> usize {
        self.on.len()
    }

    /// Whether none is on.
    pub fn is_empty(&self) -> bool {
        self.on.is_empty()
    }

    /// What the balancer at this place wants done next, if anything.
    pub fn next(&mut self, place: usize, picture: &Picture<'_>) -> Option<Plan> {
        let now = picture.now;
        let granted: BTreeSet<StoreId> = self
            .specs_of(Name::GrantLeader)
            .flat_map(|spec| &spec.stores)
            .copied()
            .map(StoreId::new)
            .collect();
        let balancer = self.on.get_mut(place)?;
        if balancer.paused_until.is_some_and(|until| !until.since(now).is_zero()) {
            balancer.report = Report::of(now, "paused");
            return None;
        }
        balancer.paused_until = None;
        let name = balancer.spec.name;
        let (running, limit) = (picture.operators.count(name.kind()), limit(name.kind(), picture));
        if running >= limit {
            let kind = name.kind().name();
            let summary = format!("{running} operators of kind {kind} run, as many as may");
            balancer.report = Report::of(now, summary);
            return None;
        }
        let mut report = Report::of(now, "");
        let (evenness, chance) = (&mut balancer.evenness, &mut self.chance);
        let stores: Vec<StoreId> = balancer.spec.stores.iter().copied().map(StoreId::new).collect();
        let plan = match name {
            Name::BalanceLeader => leader::plan(picture, &granted, evenness, chance, &mut report),
            Name::BalanceRegion => region::plan(picture, evenness, chance, &mut report),
            Name::BalanceHotRegion => hot::plan(picture, &mut report),
            Name::EvictLeader => stores::evict(picture, &stores, chance, &mut report),
            Name::GrantLeader => stores::grant(picture, &stores, chance, &mut report),
            Name::ShuffleLeader => shuffle::leader(picture, chance, &mut report),
            Name::ShuffleRegion => shuffle::region(picture, chance, &mut report),
        };
        balancer.report = report;
        plan
    }

    fn specs_of(&self, name: Name) -> impl Iterator<Item = &Spec> {
        self.on.iter().map(|balancer| &balancer.spec).filter(move |spec| spec.name == name)
    }
}

/// How many operators of a kind may run.
pub fn limit(kind: Kind, picture: &Picture<'_>) -> usize {
    let settings = picture.settings;
    let limit = match kind {
        Kind::Leader => settings.leader_schedule_limit,
        Kind::Region => settings.region_schedule_limit,
        Kind::Replica | Kind::Split => settings.replica_schedule_limit,
        Kind::HotRegion => settings.hot_region_schedule_limit,
        Kind::Admin => u32::MAX,
    };
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// The stores that are up, by id.
fn stores_up(picture: &Picture<'_>) -> Vec<StoreId> {
    let ids = picture.stores.iter().map(|record| record.id());
    ids.filter(|id| picture.is_up(*id)).collect()
}

/// Stores by score, the highest first.
fn by_score(stores: &[StoreId], score: impl Fn(StoreId) -> f64) -> Vec<(StoreId, f64)> {
    let mut scored: Vec<(StoreId, f64)> = stores.iter().map(|id| (*id, score(*id))).collect();
    scored.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    scored
}

fn mean(scored: &[(StoreId, f64)]) -> f64 {
    scored.iter().map(|(_, score)| score).sum::<f64>() / scored.len().max(1) as f64
}

/// Whether a region has nothing under way.
fn is_free(picture: &Picture<'_>, id: RegionId) -> bool {
    picture.operators.get(id).is_none()
}
