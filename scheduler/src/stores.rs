//! Stores: who they are, what they last said about themselves, and whether they are alive.
//! Owned by the cluster; the rules for registering stand here.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use skerry_proto::metapb::{self, NodeState, StoreState};
use skerry_proto::pdpb::StoreStats;
use skerry_proto::types::StoreId;

use crate::moment::Moment;
use crate::{Error, Result};

/// One store.
#[derive(Clone, Debug)]
pub struct StoreRecord {
    /// What is durable: id, addresses, version, labels, state.
    pub store: metapb::Store,
    /// Its last heartbeat; nothing after a restart of the scheduler until the store speaks again.
    pub heartbeat: Option<Heartbeat>,
    /// When this life of the scheduler came to know it: as long as it has not spoken, its silence counts from
    /// here.
    pub known_since: Moment,
    /// What an operator has set about it.
    pub tuning: StoreTuning,
}

/// What an operator may set about one store besides its labels. Durable.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct StoreTuning {
    /// Share of leaders it gets, beside stores of weight 1.
    pub leader_weight: f64,
    /// Share of replicas it gets.
    pub region_weight: f64,
    /// Replicas of usual size that may be begun here in a minute, if not as everywhere.
    pub add_limit: Option<u32>,
    /// Replicas that may be taken away in a minute.
    pub remove_limit: Option<u32>,
}

impl Default for StoreTuning {
    fn default() -> StoreTuning {
        StoreTuning { leader_weight: 1.0, region_weight: 1.0, add_limit: None, remove_limit: None }
    }
}

/// What a store said of itself, and when.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// Sizes and counters.
    pub stats: StoreStats,
    /// When it arrived.
    pub at: Moment,
}

/// How a store stands, in the words of the HTTP interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It speaks.
    Up,
    /// It has been silent for longer than a few heartbeats.
    Disconnected,
    /// It has been silent for so long that its replicas should be replaced.
    Down,
    /// It is being emptied.
    Offline,
    /// It was emptied for good.
    Tombstone,
}

impl std::fmt::Display for Liveness {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, formatter)
    }
}

/// Silence after which a store counts as ...
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// ... disconnected.
    pub disconnected: Duration,
    /// ... down.
    pub down: Duration,
}

impl StoreRecord {
    /// How the store stands at `now`.
    pub fn liveness(&self, now: Moment, patience: Patience) -> Liveness {
        match self.store.state() {
            StoreState::Tombstone => return Liveness::Tombstone,
            StoreState::Offline => return Liveness::Offline,
            StoreState::Up => {}
        }
        match self.silence(now) {
            silence if silence > patience.down => Liveness::Down,
            silence if silence > patience.disconnected => Liveness::Disconnected,
            _ if self.heartbeat.is_none() => Liveness::Disconnected,
            _ => Liveness::Up,
        }
    }

    /// The id as a type.
    pub fn id(&self) -> StoreId {
        StoreId::new(self.store.id)
    }

    /// How long it has been silent; since when this life of the scheduler began if it has not spoken in it.
    pub fn silence(&self, now: Moment) -> Duration {
        let last = self.heartbeat.as_ref().map_or(self.known_since, |heartbeat| heartbeat.at);
        now.since(last)
    }

    /// The value of a label, if it has one.
    pub fn label(&self, key: &str) -> Option<&str> {
        let label = self.store.labels.iter().find(|label| label.key == key);
        label.map(|label| &label.value[..])
    }

    /// The store as clients see it: with the time of its last heartbeat, in nanoseconds as the wire has it.
    pub fn described(&self) -> metapb::Store {
        let mut store = self.store.clone();
        if let Some(heartbeat) = &self.heartbeat {
            let nanoseconds = heartbeat.at.wall_ms.saturating_mul(1_000_000);
            store.last_heartbeat = i64::try_from(nanoseconds).unwrap_or(i64::MAX);
        }
        store
    }

    /// Whether it was emptied for good.
    pub fn is_tombstone(&self) -> bool {
        self.store.state() == StoreState::Tombstone
    }
}

/// All stores, by id.
///
/// Invariant: no two stores that are not tombstones, and whose disks are not gone, share an address, and a
/// standalone one is the only one.
#[derive(Clone, Debug, Default)]
pub struct Stores {
    records: BTreeMap<StoreId, StoreRecord>,
}

impl Stores {
    /// The store with this id.
    pub fn get(&self, id: StoreId) -> Option<&StoreRecord> {
        self.records.get(&id)
    }

    /// All stores, by id.
    pub fn iter(&self) -> impl Iterator<Item = &StoreRecord> {
        self.records.values()
    }

    /// The store with this id, if it may speak for itself: heartbeats of others are refused.
    pub fn speaking(&self, id: StoreId) -> Result<&StoreRecord> {
        let record = self.records.get(&id).ok_or(Error::UnknownStore(id.get()))?;
        if record.is_tombstone() {
            return Err(Error::StoreTombstone(id.get()));
        }
        Ok(record)
    }

    /// The record that `store` gets if it registers now, or the reason why it may not. The state is the
    /// scheduler's to decide: what the store says of it is ignored.
    pub fn admit(&self, mut store: metapb::Store) -> Result<metapb::Store> {
        if store.id == 0 {
            return Err(Error::InvalidValue("a store needs an id other than 0".to_string()));
        }
        if store.address.is_empty() {
            return Err(Error::InvalidValue(format!("store {} names no address", store.id)));
        }
        let known = self.records.get(&StoreId::new(store.id));
        if known.is_some_and(StoreRecord::is_tombstone) {
            return Err(Error::StoreTombstone(store.id));
        }
        self.check_version(&store)?;
        self.check_addresses(&store)?;
        self.check_company(&store)?;
        match known {
            Some(record) => {
                store.state = record.store.state;
                store.node_state = record.store.node_state;
                store.last_heartbeat = record.store.last_heartbeat;
                merge_labels(&mut store.labels, &record.store.labels);
            }
            None => {
                store.state = StoreState::Up.into();
                store.node_state = NodeState::Serving.into();
                store.last_heartbeat = 0;
            }
        }
        Ok(store)
    }

    /// Adds or replaces a durable record.
    pub fn install(&mut self, store: metapb::Store, now: Moment) {
        match self.records.get_mut(&StoreId::new(store.id)) {
            Some(record) => record.store = store,
            None => {
                let tuning = StoreTuning::default();
                let record = StoreRecord { store, heartbeat: None, known_since: now, tuning };
                self.records.insert(record.id(), record);
            }
        }
    }

    /// Takes over what an operator has set about a store; nothing if there is no such store any more.
    pub fn tune(&mut self, id: StoreId, tuning: StoreTuning) {
        if let Some(record) = self.records.get_mut(&id) {
            record.tuning = tuning;
        }
    }

    /// Forgets a store for good.
    pub fn remove(&mut self, id: StoreId) {
        self.records.remove(&id);
    }

    /// Records a heartbeat; answers the store.
    pub fn heartbeat(&mut self, stats: StoreStats, at: Moment) -> Result<&StoreRecord> {
        let id = StoreId::new(stats.store_id);
        self.speaking(id)?;
        let record = self.records.get_mut(&id).expect("checked a line above");
        record.heartbeat = Some(Heartbeat { stats, at });
        Ok(record)
    }

    /// Whether more than half of the stores have sent a heartbeat since this process began.
    pub fn most_have_spoken(&self) -> bool {
        let alive = self.records.values().filter(|record| !record.is_tombstone());
        let (count, spoken) = alive.fold((0, 0), |(count, spoken), record| {
            (count + 1, spoken + usize::from(record.heartbeat.is_some()))
        });
        spoken > count / 2
    }

    /// The lowest version among the stores that are not tombstones: what all of them can do.
    pub fn cluster_version(&self) -> Option<Version> {
        let alive = self.records.values().filter(|record| !record.is_tombstone());
        alive.filter_map(|record| Version::parse(&record.store.version)).min()
    }

    /// A store must be newer than the cluster, or of the same major and minor version.
    fn check_version(&self, store: &metapb::Store) -> Result<()> {
        let cluster = self.cluster_version();
        let fits = match (Version::parse(&store.version), cluster) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(own), Some(cluster)) => {
                own > cluster || (own.major, own.minor) == (cluster.major, cluster.minor)
            }
        };
        if fits {
            return Ok(());
        }
        let cluster = cluster.map_or("(none yet)".to_string(), |version| version.to_string());
        let version = store.version.clone();
        Err(Error::IncompatibleVersion { store: store.id, version, cluster })
    }

    fn check_addresses(&self, store: &metapb::Store) -> Result<()> {
        let others = self.records.values().filter(|record| record.store.id != store.id);
        // Where the disk is gone nobody listens any more.
        let is_gone = |it: &&StoreRecord| it.is_tombstone() || it.store.physically_destroyed;
        for other in others.filter(|record| !is_gone(record)) {
            for wanted in [&store.address, &store.peer_address] {
                let taken = [&other.store.address, &other.store.peer_address];
                if !wanted.is_empty() && taken.contains(&wanted) {
                    let address = wanted.clone();
                    return Err(Error::AddressInUse { store: other.store.id, address });
                }
            }
        }
        Ok(())
    }

    /// A standalone store has every key and gives none away: a second store would never get any.
    fn check_company(&self, store: &metapb::Store) -> Result<()> {
        let others = self.records.values().filter(|record| record.store.id != store.id);
        for other in others.filter(|record| !record.is_tombstone()) {
            let alone = [store, &other.store].into_iter().find(|store| store.is_standalone());
            if let Some(alone) = alone {
                return Err(Error::StandaloneStore { alone: alone.id, refused: store.id });
            }
        }
        Ok(())
    }
}

/// Keeps the labels that an operator has set through the scheduler: a store that starts again names only
/// those of its own configuration, and these win.
fn merge_labels(labels: &mut Vec<metapb::StoreLabel>, known: &[metapb::StoreLabel]) {
    for label in known {
        if !labels.iter().any(|own| own.key == label.key) {
            labels.push(label.clone());
        }
    }
}

/// A semantic version, as far as stores are compared by it. Ordered by its numbers; a pre-release counts
/// as its release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Version {
    /// Reads `8.5.5`, `v8.5.5` or `8.5.5-rc.1`; the empty string is 1.0.0, as a store that names no
    /// version is taken to be the oldest. `None` if it is none of these.
    pub fn parse(text: &str) -> Option<Version> {
        if text.is_empty() {
            return Some(Version { major: 1, minor: 0, patch: 0 });
        }
        let text = text.strip_prefix('v').unwrap_or(text);
        let numbers = text.split_once(['-', '+']).map_or(text, |(numbers, _)| numbers);
        let mut parts = numbers.split('.').map(|part| part.parse::<u32>().ok());
        let (major, minor, patch) = (parts.next()??, parts.next()??, parts.next()??);
        parts.next().is_none().then_some(Version { major, minor, patch })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_like_those_of_real_stores() {
        let read = |text| Version::parse(text).map(|version| version.to_string());
        assert_eq!(read("v8.5.5").as_deref(), Some("8.5.5"));
        assert_eq!(read("8.5.5-rc.1").as_deref(), Some("8.5.5"));
        assert_eq!(read("6.0.0+build").as_deref(), Some("6.0.0"));
        assert_eq!(read("").as_deref(), Some("1.0.0"));
        for nonsense in ["8", "8.5", "8.5.5.5", "eight", "8.5.x", "-", "v"] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
        assert!(Version::parse("8.10.0") > Version::parse("8.9.9"));
    }

    #[test]
    fn a_store_is_alive_as_long_as_it_speaks() {
        let patience =
            Patience { disconnected: Duration::from_secs(20), down: Duration::from_secs(1_800) };
        let at = |seconds| Moment { monotonic: Duration::from_secs(seconds), wall_ms: 0 };
        let mut stores = Stores::default();
        let store = metapb::Store { id: 1, ..metapb::Store::default() };
        stores.install(store.clone(), at(90));
        let liveness = |stores: &Stores, seconds| {
            stores.get(StoreId::new(1)).expect("installed").liveness(at(seconds), patience)
        };
        assert_eq!(liveness(&stores, 90), Liveness::Disconnected);
        assert_eq!(liveness(&stores, 1_890), Liveness::Disconnected);
        assert_eq!(liveness(&stores, 1_891), Liveness::Down);
        let stats = StoreStats { store_id: 1, ..StoreStats::default() };
        stores.heartbeat(stats, at(100)).expect("known");
        assert_eq!(liveness(&stores, 120), Liveness::Up);
        assert_eq!(liveness(&stores, 121), Liveness::Disconnected);
        assert_eq!(liveness(&stores, 1_901), Liveness::Down);
        // Registering again, as after a restart of the store, keeps what is known of its heartbeat.
        stores.install(store, at(2_000));
        assert_eq!(liveness(&stores, 120), Liveness::Up);
    }
}
