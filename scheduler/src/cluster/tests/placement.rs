//! Runs the golden scripts of `src/scripts/placement`: a whole cluster that does what it is told, as a table. Leaders
//! carry out instructions at once, unless the script wants to see them; learners have their data with the next beat
//! but one. Time passes in tenths of a second; stores speak every second unless they are silent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Map, Value};
use skerry_proto::pdpb::CheckPolicy;

use super::model::{Truth, apply, note_pending};
use super::*;
use crate::balance::Name;
use crate::cluster::control::Wish;
use crate::operator::limits::Way;

/// What a script can do.
#[derive(goldenscript::Command)]
enum Command {
    /// A cluster of so many stores, of which regions have replicas on `on`, led from the first of them or in turn.
    Begin {
        stores: u64,
        #[arg(key)]
        regions: u64,
        #[arg(key)]
        on: String,
        #[arg(key, optional)]
        size: u64,
        #[arg(key, optional)]
        in_turn: bool,
    },
    /// A store joins, or says something new about itself.
    Store {
        id: u64,
        #[arg(key)]
        label: Option<String>,
        #[arg(key)]
        disk: Option<u64>,
        #[arg(key, optional)]
        free: u64,
        #[arg(key, optional)]
        busy: bool,
        #[arg(key, optional)]
        stopping: bool,
        #[arg(key, optional)]
        receiving: u32,
        #[arg(key, optional)]
        sending: u32,
        #[arg(key, optional)]
        regions: u32,
        #[arg(key)]
        address: Option<String>,
    },
    /// Stores fall silent, or speak again.
    Silence(Vec<u64>),
    Speak(Vec<u64>),
    /// Says how a region is, as its leader would; answers what it is told. Nothing is carried out.
    Region {
        region: String,
        #[arg(key)]
        leader: Option<String>,
        #[arg(key)]
        pending: Option<String>,
        #[arg(key)]
        down: Option<String>,
        #[arg(key, optional)]
        down_seconds: u64,
        #[arg(key, optional)]
        size: u64,
        #[arg(key, optional)]
        written: u64,
    },
    /// The regions with these ids are as large, or as busy, as said.
    Load {
        regions: String,
        #[arg(key)]
        size: Option<u64>,
        #[arg(key)]
        written: Option<u64>,
        #[arg(key)]
        read: Option<u64>,
    },
    /// Lets the scheduler look after everything once; answers what is told. Nothing is carried out.
    Tick,
    /// Lets time pass, with everything carried out; answers what has ended, or only how many if there are many.
    Run {
        seconds: u64,
    },
    /// Lets time pass, and nothing happen but beats of stores and ticks.
    Wait {
        seconds: u64,
    },
    Restart,
    /// Regions and leaders of each store.
    Counts,
    Show {
        region: u64,
    },
    Operators,
    /// The newest ended operators.
    Ended {
        count: usize,
    },
    Explain {
        region: u64,
    },
    /// What the balancers have decided last.
    Why,
    Wish {
        region: u64,
        what: String,
    },
    Cancel {
        region: u64,
    },
    Balancer {
        what: String,
        name: String,
        #[arg(key)]
        store: Option<u64>,
        #[arg(key, optional)]
        seconds: u64,
    },
    Balancers,
    Set {
        name: String,
        value: String,
        /// For so long only; none ends it.
        #[arg(key)]
        seconds: Option<u64>,
    },
    Remove {
        store: u64,
        #[arg(key, optional)]
        destroyed: bool,
    },
    Restore {
        store: u64,
    },
    Leaving {
        store: u64,
    },
    ForgetTombstones,
    Label {
        store: u64,
        label: String,
    },
    Weight {
        store: u64,
        #[arg(key)]
        leader: f64,
        #[arg(key)]
        region: f64,
    },
    Limit {
        store: u64,
        #[arg(key)]
        add: Option<u32>,
        #[arg(key)]
        remove: Option<u32>,
    },
    Scatter {
        regions: String,
        #[arg(key, optional)]
        group: String,
    },
    SplitAt(Vec<String>),
}

struct World {
    engine: Arc<MemoryEngine>,
    clock: ManualClock,
    cluster: Cluster,
    regions: BTreeMap<RegionId, Truth>,
    stats: BTreeMap<u64, StoreStats>,
    silent: BTreeSet<u64>,
    /// Tenths of a second since the beginning.
    tenths: u64,
}

impl World {
    fn new() -> World {
        let engine = Arc::new(MemoryEngine::new());
        let clock = ManualClock::at(1_700_000_000_000);
        let cluster = restore(&engine, Moment::now(&clock));
        World {
            engine,
            clock,
            cluster,
            regions: BTreeMap::new(),
            stats: BTreeMap::new(),
            silent: BTreeSet::new(),
            tenths: 0,
        }
    }

    fn now(&self) -> Moment {
        Moment::now(&self.clock)
    }

    /// Makes a decision durable and true.
    fn take<T>(
        &mut self,
        decision: Result<Decision<T>>,
    ) -> std::result::Result<T, Box<dyn StdError>> {
        let Decision { answer, changes } = decision.map_err(|error| error.to_string())?;
        Storage::new(Arc::clone(&self.engine) as Arc<_>).write(&changes, Durability::Synced)?;
        let now = self.now();
        self.cluster.install(changes, now);
        Ok(answer)
    }

    fn register(&mut self, store: Store) -> std::result::Result<(), Box<dyn StdError>> {
        let decision = self.cluster.put_store(Some(store.clone()), self.now());
        self.take(decision)?;
        let stats = StoreStats { store_id: store.id, ..StoreStats::default() };
        self.stats.entry(store.id).or_insert(stats);
        self.silent.remove(&store.id);
        Ok(())
    }

    fn stores_speak(&mut self) {
        let now = self.now();
        for (id, stats) in &self.stats {
            if !self.silent.contains(id) {
                let here = self.regions.values().filter(|truth| {
                    truth.report.region.iter().flat_map(|it| &it.peers).any(|it| it.store_id == *id)
                });
                let count = u32::try_from(here.count()).expect("few") + stats.region_count;
                let stats = StoreStats { region_count: count, ..stats.clone() };
                // A tombstone is refused, as it should be.
                let _ = self.cluster.store_heartbeat(stats, now);
            }
        }
    }

    /// The leader of a region reports, unless its store is silent; answers what it is told.
    fn report(&mut self, id: RegionId) -> Option<Instruction> {
        let report = self.regions[&id].report.clone();
        let store = report.leader?.store();
        if self.silent.contains(&store.get()) {
            return None;
        }
        let now = self.now();
        self.cluster.region_heartbeat(report, now).expect("the truth is accepted");
        self.tell(id, store)
    }

    fn tell(&mut self, id: RegionId, store: StoreId) -> Option<Instruction> {
        let now = self.now();
        let decision =
            self.cluster.wants_step(id, now).then(|| self.cluster.next_step(id, store, now));
        self.take(decision?).expect("no refusal")
    }

    /// What is told unasked.
    fn tick(&mut self) -> Vec<Instruction> {
        let decision = self.cluster.tick(self.now());
        self.take(decision).expect("no refusal");
        let speak = self.stats.keys().filter(|id| !self.silent.contains(id));
        let stores: Vec<StoreId> = speak.copied().map(StoreId::new).collect();
        let mut told = Vec::new();
        for store in stores {
            for region in self.cluster.regions_to_tell(store, usize::MAX) {
                told.extend(self.tell(region, store));
            }
        }
        told
    }

    /// Does what a leader is told, and what follows from it.
    fn carry_out(&mut self, mut instruction: Instruction) {
        loop {
            let id = instruction.region_id;
            let truth = self.regions.get_mut(&id).expect("it is told about a region that there is");
            if !apply(truth, &instruction.order) {
                return;
            }
            match self.report(id) {
                Some(next) => instruction = next,
                None => return,
            }
        }
    }

    /// A tenth of a second.
    fn pass(&mut self, is_quiet: bool) {
        self.clock.advance_ms(100);
        self.tenths += 1;
        if self.tenths.is_multiple_of(10) {
            self.stores_speak();
        }
        let told = self.tick();
        if is_quiet {
            return;
        }
        told.into_iter().for_each(|instruction| self.carry_out(instruction));
        let fed: Vec<RegionId> =
            self.regions.iter().filter(|(_, it)| !it.empty.is_empty()).map(|(id, _)| *id).collect();
        for id in fed {
            let truth = self.regions.get_mut(&id).expect("listed above");
            let silent = &self.silent;
            let peers = truth.report.region.iter().flat_map(|region| &region.peers);
            let stays: BTreeSet<u64> =
                peers.filter(|peer| silent.contains(&peer.store_id)).map(|peer| peer.id).collect();
            truth.empty.retain(|peer| stays.contains(peer));
            note_pending(truth);
            if let Some(next) = self.report(id) {
                self.carry_out(next);
            }
        }
    }

    /// Ten seconds after the last report all regions report again.
    fn all_report(&mut self) {
        let ids: Vec<RegionId> = self.regions.keys().copied().collect();
        for id in ids {
            if let Some(instruction) = self.report(id) {
                self.carry_out(instruction);
            }
        }
    }
}

impl goldenscript::Runner for World {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Outcome {
        match command {
            Command::Begin { stores, regions, on, size, in_turn } => {
                self.begin(*stores, *regions, on, *size, *in_turn)
            }
            Command::Store { .. } => self.store(command),
            Command::Silence(stores) => {
                self.silent.extend(stores);
                Ok(String::new())
            }
            Command::Speak(stores) => {
                stores.iter().for_each(|id| {
                    self.silent.remove(id);
                });
                self.stores_speak();
                Ok(String::new())
            }
            Command::Region { .. } => self.region(command),
            Command::Load { regions, size, written, read } => {
                self.load(regions, *size, [*written, *read])
            }
            Command::Tick => {
                let told = self.tick();
                Ok(told.into_iter().map(|it| print_instruction(Some(it)) + "\n").collect())
            }
            Command::Run { seconds } => Ok(self.run_for(*seconds)),
            Command::Wait { seconds } => {
                (0..seconds * 10).for_each(|_| self.pass(true));
                Ok(String::new())
            }
            Command::Restart => {
                let changes = self.cluster.take_region_changes();
                let storage = Storage::new(Arc::clone(&self.engine) as Arc<_>);
                storage.write(&changes, Durability::Synced)?;
                self.cluster = restore(&self.engine, self.now());
                Ok(String::new())
            }
            wish => self.want(wish),
        }
    }
}

impl World {
    fn begin(&mut self, stores: u64, regions: u64, on: &str, size: u64, in_turn: bool) -> Outcome {
        let on: Vec<u64> = on.split(' ').map(|id| id.parse().expect("a number")).collect();
        let first = parse_region(&format!("r100 c1v1 [,) p1@s{}", on[0]));
        let store = new_store(on[0], None, None);
        let decision = self.cluster.bootstrap(Some(store), Some(first), self.now());
        self.take(decision)?;
        (1..=stores).try_for_each(|id| self.register(new_store(id, None, None)))?;
        let last = self.cluster.allocate_ids(100 + regions * (on.len() as u64 + 1));
        self.take(last)?;
        self.stores_speak();
        for number in 0..regions {
            let key = |number: u64| match number {
                0 => String::new(),
                number if number == regions => String::new(),
                number => format!("{number:04}"),
            };
            let peer = |(place, store): (usize, &u64)| {
                format!("p{}@s{store}", 101 + regions + number * on.len() as u64 + place as u64)
            };
            let peers: Vec<String> = on.iter().enumerate().map(peer).collect();
            let text = format!(
                "r{} c{}v2 [{},{}) {}",
                100 + number,
                on.len(),
                key(number),
                key(number + 1),
                peers.join(" ")
            );
            let region = parse_region(&text);
            let place = if in_turn { number as usize % on.len() } else { 0 };
            let report = RegionHeartbeatRequest {
                leader: Some(region.peers[place]),
                term: 6,
                approximate_size: size.max(1) << 20,
                region: Some(region),
                ..RegionHeartbeatRequest::default()
            };
            let truth = Truth { report: report.clone(), empty: BTreeSet::new() };
            self.regions.insert(RegionId::new(100 + number), truth);
            let now = self.now();
            self.cluster.region_heartbeat(report, now).map_err(|error| error.to_string())?;
        }
        Ok(String::new())
    }

    fn store(&mut self, command: &Command) -> Outcome {
        let Command::Store { id, label, disk, free, address, .. } = command else {
            unreachable!("this is asked about stores only")
        };
        let Command::Store { busy, stopping, receiving, sending, regions, .. } = command else {
            unreachable!("as above")
        };
        let mut store = new_store(*id, address.as_deref(), None);
        store.labels = label.iter().flat_map(|it| it.split(' ')).map(parse_label).collect();
        self.register(store)?;
        let (capacity, available) = disk.map_or((0, 0), |disk| (disk << 30, free << 30));
        let stats = StoreStats {
            store_id: *id,
            capacity,
            available,
            is_busy: *busy,
            is_stopping: *stopping,
            receiving_snap_count: *receiving,
            sending_snap_count: *sending,
            region_count: *regions,
            ..StoreStats::default()
        };
        self.stats.insert(*id, stats);
        self.stores_speak();
        Ok(String::new())
    }

    fn region(&mut self, command: &Command) -> Outcome {
        let Command::Region { region, leader, pending, down, down_seconds, size, written } =
            command
        else {
            unreachable!("this is asked about regions only")
        };
        let region = parse_region(region);
        let (id, first) = (region.region_id(), region.peers.first().copied());
        let stats =
            |peer: &String| PeerStats { peer: Some(parse_peer(peer)), down_seconds: *down_seconds };
        let report = RegionHeartbeatRequest {
            leader: leader.as_deref().map(parse_peer).or(first),
            term: self.regions.get(&id).map_or(6, |truth| truth.report.term),
            approximate_size: (*size).max(1) << 20,
            bytes_written: *written,
            pending_peers: pending.iter().map(|peer| parse_peer(peer)).collect(),
            down_peers: down.iter().map(stats).collect(),
            region: Some(region),
            ..RegionHeartbeatRequest::default()
        };
        self.regions.insert(id, Truth { report, empty: BTreeSet::new() });
        let told = self.report(id);
        Ok(told.map(|it| print_instruction(Some(it)) + "\n").unwrap_or_default())
    }

    fn load(&mut self, regions: &str, size: Option<u64>, flow: [Option<u64>; 2]) -> Outcome {
        let [written, read] = flow;
        for id in regions.split(' ') {
            let id = RegionId::new(id.parse().expect("a number"));
            let truth = self.regions.get_mut(&id).expect("there is such a region");
            truth.report.approximate_size =
                size.map_or(truth.report.approximate_size, |size| size << 20);
            truth.report.bytes_written = written.unwrap_or(truth.report.bytes_written);
            truth.report.bytes_read = read.unwrap_or(truth.report.bytes_read);
            let report = truth.report.clone();
            let now = self.now();
            self.cluster.region_heartbeat(report, now).map_err(|error| error.to_string())?;
        }
        Ok(String::new())
    }

    /// Operators that end meanwhile, the oldest first; their names and counts if there are many.
    fn run_for(&mut self, seconds: u64) -> String {
        let before = self.tenths;
        let since = self.now();
        for _ in 0..seconds * 10 {
            self.pass(false);
            if self.tenths.is_multiple_of(100) {
                self.all_report();
            }
        }
        assert_eq!(self.tenths - before, seconds * 10);
        let ended = self.cluster.ended_operators().expect("bootstrapped");
        let ended: Vec<_> = ended.take_while(|it| it.at.monotonic > since.monotonic).collect();
        if ended.len() <= 6 {
            let line = |it: &&crate::operator::Ended| format!("{}: {}\n", it.operator, it.ending);
            return ended.iter().rev().map(line).collect();
        }
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for it in ended {
            *counts.entry(format!("{}: {}", it.operator.name, it.ending)).or_default() += 1;
        }
        counts.into_iter().map(|(name, count)| format!("{count} x {name}\n")).collect()
    }

    /// What a person may want; else [`World::look`].
    fn want(&mut self, command: &Command) -> Outcome {
        let now = self.now();
        let cluster = &mut self.cluster;
        match command {
            Command::Wish { region, what } => {
                let decision = cluster.add_operator(RegionId::new(*region), &parse_wish(what), now);
                Ok(self.take(decision)? + "\n")
            }
            Command::Cancel { region } => {
                let done = cluster.cancel_operator(RegionId::new(*region), "by hand", now);
                done.map_err(|error| error.to_string())?;
                Ok(String::new())
            }
            Command::Balancer { what, name, store, seconds } => {
                let name = Name::parse(name).map_err(|error| error.to_string())?;
                let store = store.map(StoreId::new);
                let decision = match &what[..] {
                    "on" => cluster.add_balancer(name, store),
                    "off" => cluster.remove_balancer(name, store),
                    _ => {
                        let done = cluster.pause_balancer(name, Duration::from_secs(*seconds), now);
                        done.map(|()| Decision { answer: (), changes: vec![] })
                    }
                };
                self.take(decision)?;
                Ok(String::new())
            }
            Command::Set { name, value, seconds } => {
                let value =
                    serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.clone()));
                let change = Map::from_iter([(name.clone(), value)]);
                if let Some(time) = seconds.map(Duration::from_secs) {
                    let done = cluster.change_settings_for(&change, time, now);
                    return done.map(|()| String::new()).map_err(|error| error.to_string().into());
                }
                let decision = cluster.change_settings(&change);
                self.take(decision)?;
                Ok(String::new())
            }
            Command::Remove { store, destroyed } => {
                let decision = cluster.remove_store(StoreId::new(*store), *destroyed, now);
                Ok(self.take(decision)?.map(|warning| warning + "\n").unwrap_or_default())
            }
            Command::Restore { store } => {
                let decision = cluster.restore_store(StoreId::new(*store));
                self.take(decision)?;
                Ok(String::new())
            }
            Command::ForgetTombstones => {
                let decision = cluster.remove_tombstones();
                Ok(format!("{} forgotten\n", self.take(decision)?))
            }
            other => self.tune(other),
        }
    }

    fn tune(&mut self, command: &Command) -> Outcome {
        let now = self.now();
        let cluster = &mut self.cluster;
        let decision = match command {
            Command::Label { store, label } => {
                cluster.set_labels(StoreId::new(*store), &[parse_label(label)])
            }
            Command::Weight { store, leader, region } => {
                cluster.set_weights(StoreId::new(*store), *leader, *region)
            }
            Command::Limit { store, add, remove } => {
                let (way, rate) = match (add, remove) {
                    (Some(rate), _) => (Way::Add, *rate),
                    (None, rate) => (Way::Remove, rate.expect("one of both")),
                };
                cluster.set_limit(StoreId::new(*store), &[way], rate)
            }
            Command::Scatter { regions, group } => {
                let ids = regions.split(' ').map(|id| RegionId::new(id.parse().expect("a number")));
                let decision = cluster.scatter(group, &ids.collect::<Vec<_>>(), now);
                let several = self.take(decision)?;
                return Ok(print_several(&several));
            }
            Command::SplitAt(keys) => {
                let keys: Vec<Bytes> = keys.iter().map(|key| key.clone().into()).collect();
                let decision = cluster.split_at(&keys, now);
                let several = self.take(decision)?;
                return Ok(print_several(&several));
            }
            question => return self.look(question),
        };
        self.take(decision)?;
        Ok(String::new())
    }

    fn look(&self, command: &Command) -> Outcome {
        let (now, cluster) = (self.now(), &self.cluster);
        let lines: Vec<String> = match command {
            Command::Counts => {
                let line = |record: &StoreRecord| {
                    let tally = cluster.regions.on(record.id());
                    let state = record.liveness(now, cluster.patience());
                    let (regions, leaders) = (tally.replicas.len(), tally.leaders.len());
                    format!("{} {state}: {regions} regions, {leaders} leaders", record.id())
                };
                cluster.stores().expect("bootstrapped").map(line).collect()
            }
            Command::Show { region } => {
                let record = cluster.regions.get(RegionId::new(*region)).expect("known");
                vec![print_region(record).trim_end().to_string()]
            }
            Command::Operators => {
                cluster.operators().expect("bootstrapped").map(ToString::to_string).collect()
            }
            Command::Ended { count } => {
                let ended = cluster.ended_operators().expect("bootstrapped").take(*count);
                ended.map(|ended| format!("{}: {}", ended.operator, ended.ending)).collect()
            }
            Command::Explain { region } => {
                cluster.explain(RegionId::new(*region), now).map_err(|error| error.to_string())?
            }
            Command::Why => cluster.explain_balancers(now).expect("bootstrapped"),
            Command::Balancers => {
                let standings = cluster.balancers(now).expect("bootstrapped");
                let line = |it: crate::balance::Standing| {
                    let pause = it.pauses_for.map(|it| format!(", pauses for {} s", it.as_secs()));
                    let (name, stores) = (it.spec.name.text(), it.spec.stores);
                    format!("{name} {stores:?}{}", pause.unwrap_or_default())
                };
                standings.into_iter().map(line).collect()
            }
            Command::Leaving { store } => {
                let leaving = cluster.leaving(StoreId::new(*store), now);
                let leaving = leaving.map_err(|error| error.to_string())?;
                vec![leaving.map_or("not leaving".to_string(), |leaving| leaving.to_string())]
            }
            _ => unreachable!("the other commands are not questions"),
        };
        Ok(lines.into_iter().map(|line| line + "\n").collect())
    }
}

fn parse_wish(text: &str) -> Wish {
    let words: Vec<&str> = text.split(' ').collect();
    let store = |place: usize| StoreId::new(words[place].parse().expect("a number"));
    match words[0] {
        "transfer-leader" => Wish::TransferLeader(store(1)),
        "transfer-peer" => Wish::TransferPeer { from: store(1), to: store(2) },
        "transfer-region" => Wish::TransferRegion((1..words.len()).map(store).collect()),
        "add-peer" => Wish::AddPeer(store(1)),
        "add-learner" => Wish::AddLearner(store(1)),
        "remove-peer" => Wish::RemovePeer(store(1)),
        "split" => {
            let keys = words[1..].iter().map(|key| Bytes::copy_from_slice(key.as_bytes()));
            Wish::Split { policy: CheckPolicy::Usekey, keys: keys.collect() }
        }
        other => panic!("nobody can wish {other}"),
    }
}

fn print_several(several: &crate::cluster::scatter::Several) -> String {
    let failed = several.failed.iter().map(|(id, reason)| format!("{id}: {reason}\n"));
    format!("{}% {:?}\n{}", several.percentage(), several.well, failed.collect::<String>())
}

#[test]
fn scripts_of_placement() {
    let mut scripts: Vec<_> = std::fs::read_dir("src/scripts/placement")
        .expect("the folder is part of the crate")
        .map(|entry| entry.expect("readable").path())
        .collect();
    scripts.sort();
    assert!(scripts.len() >= 20, "some scripts are gone: {scripts:?}");
    for script in scripts {
        println!("{}", script.display());
        goldenscript::run(&mut World::new(), &script).expect("the script is as recorded");
    }
}
