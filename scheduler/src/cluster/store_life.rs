//! The life of a store after it has registered: labels, weights and limits; being emptied, and buried.
//!
//! ```text
//!   Up ── remove ──► Offline ── no replica left, by our count and its own ──► Tombstone ── forgotten on request
//!    ◄── restore ──────┘
//! ```
//!
//! A store whose disk was wiped comes back under its old address with a new id. It may take the old one's place when
//! nothing is left of that one: it has been silent for `max-store-down-time` and its replicas have been made
//! anew, or an operator has declared its disk gone. Before, it is told what it waits for.
//!
//! **Invariant.** No store is buried before enough regions have reported: an old picture may lack what it still has.

use std::collections::BTreeMap;

use skerry_proto::metapb::{self, NodeState, StoreLabel, StoreState};
use skerry_proto::types::StoreId;

use super::{Cluster, Decision, invalid};
use crate::checkers::Verdict;
use crate::moment::Moment;
use crate::operator::limits::Way;
use crate::persist::Change;
use crate::planted::Planted;
use crate::stores::{Liveness, StoreRecord, StoreTuning};
use crate::{Error, Result};

/// Regions of a store that are looked at to say why it does not get empty.
const LOOKED_AT: usize = 1_000;

/// How far a store is with being emptied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Regions with a replica there.
    pub left: usize,
    /// As many as there were when it began, or when this scheduler first saw it.
    pub at_first: usize,
    /// Those that cannot go now.
    pub stuck: usize,
    /// Why, with how many it holds for.
    pub reasons: BTreeMap<String, usize>,
}

/// `37 of 412 regions left, 3 stuck: s2 has a replica already, s4 is down`.
impl std::fmt::Display for Leaving {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} of {} regions left", self.left, self.at_first)?;
        if self.stuck > 0 {
            let most = self.reasons.iter().max_by_key(|(_, count)| **count);
            let reason = most.map_or("", |(reason, _)| reason);
            write!(formatter, ", {} stuck: {reason}", self.stuck)?;
        }
        Ok(())
    }
}

impl Cluster {
    /// Begins to empty a store, or, with `destroyed`, takes note that its disk is gone. Answers what will keep it
    /// from coming to an end, if anything does already.
    pub fn remove_store(
        &self,
        id: StoreId,
        destroyed: bool,
        now: Moment,
    ) -> Result<Decision<Option<String>>> {
        let record = self.store(id)?;
        if record.is_tombstone() {
            return Err(Error::StoreTombstone(id.get()));
        }
        if destroyed && record.liveness(now, self.patience()) == Liveness::Up {
            return Err(invalid(format!("{id} is up: its disk is not gone")));
        }
        let store = metapb::Store {
            state: StoreState::Offline.into(),
            node_state: NodeState::Removing.into(),
            physically_destroyed: record.store.physically_destroyed || destroyed,
            ..record.store.clone()
        };
        let picture = self.picture(now);
        let others =
            self.stores.iter().filter(|it| it.id() != id && picture.is_up(it.id())).count();
        let answer = (others < picture.replicas_max).then(|| {
            let wanted = picture.replicas_max;
            format!(
                "{wanted} replicas are wanted of every region, and {others} other stores are up"
            )
        });
        Ok(Decision { answer, changes: changes_of(record, store) })
    }

    /// Takes a store back that is being emptied.
    pub fn restore_store(&self, id: StoreId) -> Result<Decision<()>> {
        let record = self.store(id)?;
        if record.is_tombstone() {
            return Err(Error::StoreTombstone(id.get()));
        }
        if record.store.physically_destroyed {
            return Err(invalid(format!("the disk of {id} was declared gone")));
        }
        let store = metapb::Store {
            state: StoreState::Up.into(),
            node_state: NodeState::Serving.into(),
            ..record.store.clone()
        };
        Ok(Decision { answer: (), changes: changes_of(record, store) })
    }

    /// Sets labels of a store; one with an empty value is taken away. Others stay.
    pub fn set_labels(&self, id: StoreId, labels: &[StoreLabel]) -> Result<Decision<()>> {
        let record = self.store(id)?;
        if record.is_tombstone() {
            return Err(Error::StoreTombstone(id.get()));
        }
        let is_sound =
            |text: &str| text.chars().all(|it| it.is_ascii_alphanumeric() || "-_./$".contains(it));
        let bad = labels
            .iter()
            .find(|it| it.key.is_empty() || !is_sound(&it.key) || !is_sound(&it.value));
        if let Some(bad) = bad {
            let reason =
                format!("{:?}={:?} is no label: letters, digits and -_./$", bad.key, bad.value);
            return Err(invalid(reason));
        }
        let mut store = record.store.clone();
        store.labels.retain(|known| !labels.iter().any(|new| new.key == known.key));
        store.labels.extend(labels.iter().filter(|label| !label.value.is_empty()).cloned());
        Ok(Decision { answer: (), changes: changes_of(record, store) })
    }

    /// Sets the shares of leaders and of replicas that a store gets.
    pub fn set_weights(&self, id: StoreId, leader: f64, region: f64) -> Result<Decision<()>> {
        for weight in [leader, region] {
            if !(0.01..=100.0).contains(&weight) {
                return Err(invalid(format!("a weight is {weight}; allowed is from 0.01 to 100")));
            }
        }
        self.tune(id, |tuning| StoreTuning {
            leader_weight: leader,
            region_weight: region,
            ..tuning
        })
    }

    /// Sets how many replicas may come to a store, or leave it, in a minute.
    pub fn set_limit(&self, id: StoreId, ways: &[Way], rate: u32) -> Result<Decision<()>> {
        if rate == 0 || rate > 1_000_000 {
            return Err(invalid(format!("a limit is {rate}; allowed is from 1 to 1000000")));
        }
        self.tune(id, |tuning| {
            ways.iter().fold(tuning, |tuning, way| match way {
                Way::Add => StoreTuning { add_limit: Some(rate), ..tuning },
                Way::Remove => StoreTuning { remove_limit: Some(rate), ..tuning },
            })
        })
    }

    fn tune(
        &self,
        id: StoreId,
        change: impl FnOnce(StoreTuning) -> StoreTuning,
    ) -> Result<Decision<()>> {
        let record = self.store(id)?;
        if record.is_tombstone() {
            return Err(Error::StoreTombstone(id.get()));
        }
        let tuning = change(record.tuning);
        let unchanged = tuning == record.tuning;
        let changes = if unchanged { vec![] } else { vec![Change::Tuning(id, tuning)] };
        Ok(Decision { answer: (), changes })
    }

    /// Forgets all tombstones; answers how many there were.
    pub fn remove_tombstones(&self) -> Result<Decision<usize>> {
        let gone: Vec<StoreId> =
            self.stores()?.filter(|record| record.is_tombstone()).map(StoreRecord::id).collect();
        let changes = gone.iter().flat_map(|id| [Change::StoreGone(*id), Change::TuningGone(*id)]);
        Ok(Decision { answer: gone.len(), changes: changes.collect() })
    }

    /// How far a store is with being emptied; nothing if it is not.
    pub fn leaving(&self, id: StoreId, now: Moment) -> Result<Option<Leaving>> {
        let record = self.store(id)?;
        if record.liveness(now, self.patience()) != Liveness::Offline {
            return Ok(None);
        }
        let here = &self.regions.on(id).replicas;
        let left = here.len();
        let mut leaving = Leaving {
            left,
            at_first: self.leaving.get(&id).copied().unwrap_or(0).max(left),
            stuck: 0,
            reasons: BTreeMap::new(),
        };
        for region in here.iter().take(LOOKED_AT) {
            let Some(record) = self.regions.get(region) else { continue };
            let reason = match (record.leader, self.operators.get(region)) {
                (_, Some(_)) => continue,
                (None, None) => "no leader has reported".to_string(),
                (Some(_), None) => match self.verdict(record, now) {
                    Verdict::Stuck(trouble) => {
                        let refusals = trouble.refusals.iter().map(ToString::to_string);
                        format!("no store will do: {}", refusals.collect::<Vec<_>>().join(", "))
                    }
                    Verdict::Well | Verdict::Do(_) => continue,
                },
            };
            leaving.stuck += 1;
            *leaving.reasons.entry(reason).or_default() += 1;
        }
        Ok(Some(leaving))
    }

    /// Buries what has been emptied.
    pub(super) fn bury_empty_stores(&mut self, now: Moment) -> Vec<Change> {
        let patience = self.patience();
        let offline: Vec<StoreId> = self
            .stores
            .iter()
            .filter(|record| record.liveness(now, patience) == Liveness::Offline)
            .map(StoreRecord::id)
            .collect();
        self.leaving.retain(|id, _| offline.contains(id));
        for id in &offline {
            let left = self.regions.replicas_on(*id);
            let at_first = self.leaving.entry(*id).or_default();
            *at_first = left.max(*at_first);
        }
        let is_prepared = self.is_prepared;
        let empty =
            offline.into_iter().filter(|_| is_prepared).filter(|id| self.is_empty(*id, now));
        let records = empty.filter_map(|id| self.stores.get(id));
        records.map(|record| Change::Store(buried(&record.store))).collect()
    }

    /// Whether nothing is left of a store, by our count and, unless it will not speak again, its own.
    fn is_empty(&self, id: StoreId, now: Moment) -> bool {
        let Some(record) = self.stores.get(id) else { return false };
        let by_itself = record.heartbeat.as_ref().map(|heartbeat| heartbeat.stats.region_count);
        let is_lost =
            record.store.physically_destroyed || record.silence(now) > self.patience().down;
        if self.planted == Some(Planted::BuriedEarly) {
            return true;
        }
        self.regions.replicas_on(id) == 0
            && self.operators.effect_on(id).regions <= 0
            && (by_itself == Some(0) || is_lost)
    }

    /// What a new store changes that comes under the address of another, if it may; nothing if no other has it.
    pub(super) fn succession(
        &self,
        store: &metapb::Store,
        now: Moment,
    ) -> Result<Option<Vec<Change>>> {
        if self.stores.get(StoreId::new(store.id)).is_some() || store.address.is_empty() {
            return Ok(None);
        }
        let patience = self.patience();
        // Of several only one has not lost its disk; it decides.
        let before = self
            .stores
            .iter()
            .filter(|record| !record.is_tombstone() && record.store.address == store.address)
            .min_by_key(|record| record.store.physically_destroyed);
        let Some(before) = before else { return Ok(None) };
        let (silence, regions) = (before.silence(now), self.regions.replicas_on(before.id()));
        if silence <= patience.disconnected {
            return Err(Error::AddressOfSpeakingStore {
                store: before.store.id,
                address: store.address.clone(),
                silent_seconds: silence.as_secs(),
                patience_seconds: patience.disconnected.as_secs(),
            });
        }
        let is_lost = before.store.physically_destroyed || silence > patience.down;
        if !is_lost || (regions > 0 && !before.store.physically_destroyed) {
            return Err(Error::AddressOfSilentStore {
                store: before.store.id,
                address: store.address.clone(),
                silent_seconds: silence.as_secs(),
                regions,
                patience_seconds: patience.down.as_secs(),
            });
        }
        let tombstone = buried(&before.store);
        let mut stores = self.stores.clone();
        if regions == 0 {
            stores.install(tombstone.clone(), now);
        }
        let admitted = stores.admit(store.clone())?;
        let mut changes = vec![Change::Store(admitted)];
        if regions == 0 {
            changes.insert(0, Change::Store(tombstone));
        }
        Ok(Some(changes))
    }
}

fn changes_of(before: &StoreRecord, after: metapb::Store) -> Vec<Change> {
    if before.store == after { vec![] } else { vec![Change::Store(after)] }
}

fn buried(store: &metapb::Store) -> metapb::Store {
    metapb::Store {
        state: StoreState::Tombstone.into(),
        node_state: NodeState::Removed.into(),
        ..store.clone()
    }
}
