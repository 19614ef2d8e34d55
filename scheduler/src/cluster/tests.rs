//! Runs the golden scripts of `src/scripts/cluster`: events in, answers and writes out, over a memory
//! engine that can lose its power.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use goldenscript::Context;
use skerry_proto::metapb::{Peer, PeerRole, RegionEpoch, Store, StoreLabel};
use skerry_proto::pdpb::PeerStats;
use skerry_raftstore::engine::Durability;
use skerry_raftstore::engine::memory::MemoryEngine;
use skerry_raftstore::time::ManualClock;

use super::*;
use crate::persist::Storage;
use crate::stores::Patience;

type Outcome = std::result::Result<String, Box<dyn StdError>>;

/// What a script can do. Regions are written as they print: `"r2 c1v1 [a,m) p3@s1 p4@s2(learner)"`.
#[derive(goldenscript::Command)]
enum Command {
    /// Power fails: what was not synced is gone.
    Crash,
    /// The process ends and starts again; what it had written is there.
    Restart,
    /// Writes what heartbeats have changed about regions, as happens once a second.
    Save,
    /// Lets time pass.
    Advance {
        seconds: u64,
    },
    Bootstrap {
        #[arg(key)]
        store: Option<u64>,
        #[arg(key)]
        version: Option<String>,
        region: Option<String>,
    },
    Settings,
    PutSettings {
        #[arg(key)]
        id: u64,
        #[arg(key)]
        replicas: u32,
    },
    Ids {
        count: u64,
    },
    PutStore {
        id: u64,
        #[arg(key)]
        address: Option<String>,
        #[arg(key)]
        peer_address: Option<String>,
        #[arg(key)]
        version: Option<String>,
        #[arg(key)]
        label: Option<String>,
    },
    /// An operator has buried a store; no event does that yet.
    Bury {
        id: u64,
    },
    Store {
        id: u64,
    },
    Stores,
    /// Heartbeats of stores. The disk is large and empty unless it is said how much of its GiB is free.
    StoreBeat {
        id: u64,
        #[arg(key)]
        disk: Option<u64>,
        #[arg(key, optional)]
        free: u64,
    },
    /// A region heartbeat, and what its leader is told.
    Beat {
        region: String,
        #[arg(key)]
        leader: Option<String>,
        #[arg(key, optional)]
        term: u64,
        #[arg(key, optional)]
        size: u64,
        #[arg(key, optional)]
        keys: u64,
        #[arg(key)]
        pending: Option<String>,
        #[arg(key)]
        down: Option<String>,
    },
    /// Lets the scheduler look after everything by itself, and tells the stores what it has decided.
    Tick,
    /// Tells a store unasked what a region wants.
    Tell {
        region: u64,
        #[arg(key)]
        store: u64,
    },
    AskSplit {
        region: String,
        #[arg(key)]
        cuts: u32,
    },
    ReportSplit(Vec<String>),
    Key {
        key: String,
    },
    Previous {
        key: String,
    },
    Region {
        id: u64,
    },
    Scan {
        #[arg(key, optional)]
        start: String,
        #[arg(key, optional)]
        end: String,
        #[arg(key)]
        limit: Option<usize>,
    },
    /// Ranges are written `a..m`.
    BatchScan {
        #[arg(key)]
        limit: Option<usize>,
        #[arg(key, optional)]
        whole: bool,
        #[arg(optional)]
        ranges: Vec<String>,
    },
    SafePoint,
    RaiseSafePoint {
        to: u64,
    },
    Keyspace {
        name: String,
    },
}

struct Runner {
    engine: Arc<MemoryEngine>,
    clock: ManualClock,
    cluster: Cluster,
}

const ID: ClusterId = ClusterId::new(77);
const PATIENCE: Patience =
    Patience { disconnected: Duration::from_secs(20), down: Duration::from_secs(1_800) };

impl Runner {
    fn new() -> Runner {
        let engine = Arc::new(MemoryEngine::new());
        let clock = ManualClock::at(1_700_000_000_000);
        let cluster = restore(&engine, Moment::now(&clock));
        Runner { engine, clock, cluster }
    }

    fn storage(&self) -> Storage {
        Storage::new(Arc::clone(&self.engine) as Arc<_>)
    }

    fn now(&self) -> Moment {
        Moment::now(&self.clock)
    }

    /// Does what the server does with a decision. With the tag `lost`, power fails before the write.
    fn carry_out<T>(
        &mut self,
        context: &Context,
        decision: Result<Decision<T>>,
        print: impl FnOnce(T) -> String,
    ) -> Outcome {
        let Decision { answer, changes } = decision.map_err(described)?;
        let writes = writes(&changes);
        if context.tags.contains("lost") {
            return Ok(format!("{writes}lost before it was written\n"));
        }
        self.storage().write(&changes, Durability::Synced)?;
        let now = self.now();
        self.cluster.install(changes, now);
        Ok(format!("{writes}{}\n", print(answer)))
    }

    fn save(&mut self) -> Outcome {
        let changes = self.cluster.take_region_changes();
        self.storage().write(&changes, Durability::Buffered)?;
        Ok(writes(&changes))
    }
}

fn restore(engine: &Arc<MemoryEngine>, now: Moment) -> Cluster {
    let rows = Storage::new(Arc::clone(engine) as Arc<_>).load().expect("the rows are good");
    let config =
        SchedulerConfig { id_batch: 10, store_down_ms: 1_800_000, ..SchedulerConfig::default() };
    Cluster::restore(ID, &config, rows, now)
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, context: &Context) -> Outcome {
        match command {
            Command::Crash => {
                self.engine = Arc::new(self.engine.crash(0));
                self.cluster = restore(&self.engine, self.now());
            }
            Command::Restart => {
                self.engine = Arc::new(self.engine.reopen());
                self.cluster = restore(&self.engine, self.now());
            }
            Command::Save => return self.save(),
            Command::Advance { seconds } => self.clock.advance_ms(seconds * 1_000),
            decision => return self.decide(decision, context),
        }
        Ok(String::new())
    }
}

impl Runner {
    /// Decisions, in the order of the methods of the cluster; else [`Runner::report`].
    fn decide(&mut self, command: &Command, context: &Context) -> Outcome {
        match command {
            Command::Bootstrap { store, version, region } => {
                let store = store.map(|id| new_store(id, None, version.as_deref()));
                let region = region.as_deref().map(parse_region);
                let decision = self.cluster.bootstrap(store, region, self.now());
                self.carry_out(context, decision, |()| "bootstrapped".to_string())
            }
            Command::PutSettings { id, replicas } => {
                let settings = metapb::Cluster { id: *id, max_peer_count: *replicas };
                let decision = self.cluster.put_settings(Some(settings));
                self.carry_out(context, decision, |()| "put".to_string())
            }
            Command::Ids { count } => {
                let decision = self.cluster.allocate_ids(*count);
                self.carry_out(context, decision, |last| format!("largest {last}"))
            }
            Command::AskSplit { region, cuts } => {
                let decision = self.cluster.ask_split(Some(parse_region(region)), *cuts);
                self.carry_out(context, decision, |ids| print_split(&ids))
            }
            Command::PutStore { id, address, peer_address, version, label } => {
                let mut store = new_store(*id, address.as_deref(), version.as_deref());
                store.peer_address = peer_address.clone().unwrap_or_default();
                store.labels = label.iter().map(|label| parse_label(label)).collect();
                let decision = self.cluster.put_store(Some(store), self.now());
                self.carry_out(context, decision, |()| "registered".to_string())
            }
            Command::Bury { id } => {
                let mut store = self.cluster.store(StoreId::new(*id))?.store.clone();
                store.state = metapb::StoreState::Tombstone.into();
                let decision = Decision { answer: (), changes: vec![Change::Store(store)] };
                self.carry_out(context, Ok(decision), |()| "buried".to_string())
            }
            Command::RaiseSafePoint { to } => {
                let decision = self.cluster.raise_safe_point(*to, self.now());
                self.carry_out(context, decision, |safe_point| safe_point.to_string())
            }
            Command::Tell { region, store } => {
                self.tell(context, RegionId::new(*region), StoreId::new(*store))
            }
            Command::Beat { .. } => self.beat(command, context),
            Command::Tick => {
                let now = self.now();
                let decision = self.cluster.tick(now);
                let mut told = self.carry_out(context, decision, |_| String::new())?;
                told.truncate(told.trim_end().len());
                told += if told.is_empty() { "" } else { "\n" };
                let stores: Vec<StoreId> =
                    self.cluster.stores().map_err(described)?.map(StoreRecord::id).collect();
                for store in stores {
                    for region in self.cluster.regions_to_tell(store, usize::MAX) {
                        told += &self.tell(context, region, store)?;
                    }
                }
                Ok(told)
            }
            report => self.report(report),
        }
    }

    /// A region heartbeat, and the answer that the server would give.
    fn beat(&mut self, command: &Command, context: &Context) -> Outcome {
        let Command::Beat { region, leader, term, size, keys, pending, down } = command else {
            unreachable!("this is asked about heartbeats only")
        };
        let region = parse_region(region);
        let (id, first) = (region.region_id(), region.peers.first().copied());
        let leader = leader.as_deref().map(parse_peer).or(first);
        let stats = |peer: &String| PeerStats { peer: Some(parse_peer(peer)), down_seconds: 9 };
        let report = RegionHeartbeatRequest {
            leader,
            region: Some(region),
            term: *term,
            approximate_size: *size,
            approximate_keys: *keys,
            pending_peers: pending.iter().map(|peer| parse_peer(peer)).collect(),
            down_peers: down.iter().map(stats).collect(),
            ..RegionHeartbeatRequest::default()
        };
        let now = self.now();
        self.cluster.region_heartbeat(report, now).map_err(described)?;
        if !self.cluster.wants_step(id, self.now()) {
            return Ok(String::new());
        }
        self.tell(context, id, leader.expect("the heartbeat was accepted").store())
    }

    fn tell(&mut self, context: &Context, region: RegionId, store: StoreId) -> Outcome {
        let now = self.now();
        let decision = self.cluster.next_step(region, store, now);
        self.carry_out(context, decision, print_instruction)
    }

    /// Heartbeats and reports; else [`Runner::look`].
    fn report(&mut self, command: &Command) -> Outcome {
        match command {
            Command::StoreBeat { id, disk, free } => {
                let (capacity, available) = disk.map_or((0, 0), |disk| (disk << 30, free << 30));
                let stats =
                    StoreStats { store_id: *id, capacity, available, ..StoreStats::default() };
                let now = self.now();
                let news = self.cluster.store_heartbeat(stats, now).map_err(described)?;
                let up = if news.has_come_up { ", has come up" } else { "" };
                let (version, state) = (news.cluster_version, news.state);
                return Ok(format!("version {version} state {state:?}{up}\n"));
            }
            Command::ReportSplit(regions) => {
                let regions = regions.iter().map(|region| parse_region(region)).collect();
                let now = self.now();
                self.cluster.report_split(regions, now).map_err(described)?;
            }
            question => return self.look(question),
        }
        Ok(String::new())
    }

    /// Questions.
    fn look(&self, command: &Command) -> Outcome {
        match command {
            Command::Settings => {
                let settings = self.cluster.settings().map_err(described)?;
                let (id, replicas) = (settings.id, settings.max_peer_count);
                Ok(format!("cluster {id} max_peer_count={replicas}\n"))
            }
            Command::Store { id } => {
                let record = self.cluster.store(StoreId::new(*id)).map_err(described)?;
                Ok(print_store(record, self.now()))
            }
            Command::Stores => {
                let stores = self.cluster.stores().map_err(described)?;
                Ok(stores.map(|record| print_store(record, self.now())).collect())
            }
            Command::Key { key } => one(self.cluster.region_by_key(key.as_bytes())),
            Command::Previous { key } => one(self.cluster.region_before_key(key.as_bytes())),
            Command::Region { id } => one(self.cluster.region_by_id(RegionId::new(*id))),
            Command::Scan { start, end, limit } => {
                let range = KeyBounds::new(start.as_bytes(), end.as_bytes());
                many(self.cluster.scan(range, limit.unwrap_or(usize::MAX)))
            }
            Command::BatchScan { limit, whole, ranges } => {
                let ranges: Vec<_> = ranges.iter().map(|range| parse_range(range)).collect();
                many(self.cluster.batch_scan(&ranges, limit.unwrap_or(usize::MAX), *whole))
            }
            Command::SafePoint => {
                Ok(format!("{}\n", self.cluster.safe_point().map_err(described)?))
            }
            Command::Keyspace { name } => {
                let found = self.cluster.keyspace_by_name(name).map_err(described)?;
                let (id, state) = (found.id.expect("always present"), found.state());
                Ok(format!("{} id={id} {state:?} since {}\n", found.name, found.created_at))
            }
            _ => unreachable!("the other commands are not questions"),
        }
    }
}

/// An error with the type that clients see.
fn described(error: Error) -> Box<dyn StdError> {
    let header = error.to_header().expect("every refusal of the cluster goes into a header");
    format!("{} {}", header.r#type().as_str_name(), header.message).into()
}

fn writes(changes: &[Change]) -> String {
    let name = |change: &Change| match change {
        Change::ClusterId(id) => format!("id {id}"),
        Change::Cluster(_) => "settings".to_string(),
        Change::Store(store) => format!("s{}", store.id),
        Change::StoreGone(id) => format!("-{id}"),
        Change::Tuning(id, _) => format!("tuning of {id}"),
        Change::TuningGone(id) => format!("-tuning of {id}"),
        Change::Settings(_) => "schedule".to_string(),
        Change::Balancers(_) => "balancers".to_string(),
        Change::Region(region) => format!("r{}", region.id),
        Change::RegionGone(id) => format!("-{id}"),
        Change::IdBound(bound) => format!("ids up to {bound}"),
        Change::TimestampLimit(limit_ms) => format!("timestamps up to {limit_ms}"),
        Change::SafePoint(safe_point) => format!("safe point {safe_point}"),
        Change::TxnSafePoint(safe_point) => format!("txn safe point {safe_point}"),
        Change::Barrier(name, _) => format!("barrier {}", name.name),
        Change::BarrierGone(name) => format!("-barrier {}", name.name),
        Change::Keyspace(keyspace) => format!("keyspace {}", keyspace.name),
    };
    let names: Vec<_> = changes.iter().map(name).collect();
    if names.is_empty() { String::new() } else { format!("writes {}\n", names.join(", ")) }
}

fn print_store(record: &StoreRecord, now: Moment) -> String {
    let store = &record.store;
    let mut line = format!("s{} {} {}", store.id, store.address, record.liveness(now, PATIENCE));
    for label in &store.labels {
        write!(line, " {}:{}", label.key, label.value).expect("strings take everything");
    }
    line + "\n"
}

fn print_instruction(instruction: Option<Instruction>) -> String {
    let Some(Instruction { region_id, epoch, leader, order }) = instruction else {
        return "nothing".to_string();
    };
    format!("{leader} of {region_id} at {epoch}: {order}")
}

fn print_split(ids: &[SplitId]) -> String {
    let one = |id: &SplitId| format!("r{} with peers {:?}", id.new_region_id, id.new_peer_ids);
    ids.iter().map(one).collect::<Vec<_>>().join("\n")
}

fn print_region(record: &RegionRecord) -> String {
    let mut line = format!("{} {}", record.region, record.region.bounds());
    match record.leader {
        Some(leader) => write!(line, " leader {leader} t{}", record.term),
        None => write!(line, " no leader"),
    }
    .expect("strings take everything");
    if record.size_mib > 0 {
        write!(line, " {}MiB {} keys", record.size_mib, record.keys)
            .expect("strings take everything");
    }
    for peer in &record.pending_peers {
        write!(line, " pending {peer}").expect("strings take everything");
    }
    for down in &record.down_peers {
        let peer = down.peer.expect("a report names it");
        write!(line, " down {peer}").expect("strings take everything");
    }
    line + "\n"
}

fn one(found: Result<Option<Arc<RegionRecord>>>) -> Outcome {
    let found = found.map_err(described)?;
    Ok(found.map_or("none\n".to_string(), |record| print_region(&record)))
}

fn many(found: Result<Vec<Arc<RegionRecord>>>) -> Outcome {
    let found = found.map_err(described)?;
    if found.is_empty() {
        return Ok("none\n".to_string());
    }
    Ok(found.iter().map(|record| print_region(record)).collect())
}

fn new_store(id: u64, address: Option<&str>, version: Option<&str>) -> Store {
    Store {
        id,
        address: address.map_or_else(|| format!("host{id}"), ToString::to_string),
        version: version.unwrap_or("8.5.5").to_string(),
        ..Store::default()
    }
}

fn parse_label(text: &str) -> StoreLabel {
    let (key, value) = text.split_once('-').expect("a label is written key-value");
    StoreLabel { key: key.to_string(), value: value.to_string() }
}

/// Reads `r2 c1v1 [a,m) p3@s1 p4@s2`; without the second word there is no epoch.
fn parse_region(text: &str) -> Region {
    let mut region = Region::default();
    for word in text.split_whitespace() {
        if let Some(range) = word.strip_prefix('[') {
            let (start, end) = range.trim_end_matches(')').split_once(',').expect("[start,end)");
            region.start_key = Bytes::copy_from_slice(start.as_bytes());
            region.end_key = Bytes::copy_from_slice(end.as_bytes());
        } else if let Some(epoch) = word.strip_prefix('c') {
            let (conf_ver, version) = epoch.split_once('v').expect("c1v1");
            let number = |text: &str| text.parse().expect("a number");
            let (conf_ver, version) = (number(conf_ver), number(version));
            region.region_epoch = Some(RegionEpoch { conf_ver, version });
        } else if let Some(id) = word.strip_prefix('r') {
            region.id = id.parse().expect("a number");
        } else {
            region.peers.push(parse_peer(word));
        }
    }
    region
}

fn parse_range(text: &str) -> KeyBounds<'_> {
    let (start, end) = text.split_once("..").expect("a range is written a..m");
    KeyBounds::new(start.as_bytes(), end.as_bytes())
}

fn parse_peer(text: &str) -> Peer {
    let (text, role) = match text.trim_end_matches(')').split_once('(') {
        None => (text, PeerRole::Voter),
        Some((text, "learner")) => (text, PeerRole::Learner),
        Some((text, "incoming")) => (text, PeerRole::IncomingVoter),
        Some((text, "demoting")) => (text, PeerRole::DemotingVoter),
        Some((_, role)) => panic!("no peer is {role}"),
    };
    let (id, store) = text.split_once('@').expect("p3@s1");
    let number = |text: &str| text[1..].parse().expect("a letter and a number");
    Peer { id: number(id), store_id: number(store), role: role.into() }
}

mod collection;
mod coverage;
mod model;
mod placement;

#[test]
fn scripts() {
    let mut scripts: Vec<_> = std::fs::read_dir("src/scripts/cluster")
        .expect("the folder is part of the crate")
        .map(|entry| entry.expect("readable").path())
        .collect();
    scripts.sort();
    assert!(scripts.len() >= 12, "some scripts are gone: {scripts:?}");
    for script in scripts {
        println!("{}", script.display());
        goldenscript::run(&mut Runner::new(), &script).expect("the script is as recorded");
    }
}
