//! The course's generic test: clients, a bad network, partitions, crashes, short logs, changing members and
//! splits in every combination that its names say.
//!
//! 1. Each client owns the keys of its prefix. It puts the next one or scans all, which must be what it has put.
//!    As many clients share keys; their history must be linearizable.
//! 2. Meanwhile the faults of the parameters come, in all rounds and not only in the first.
//! 3. At the end of a round all stores lose power under way, if crashes are wanted. Then each client must find
//!    everything that it has put, and removes it.
//!
//! **Invariant.** A run in which nothing happened fails: operations, faults and changes are counted.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use bytes::Bytes;
use skerry_proto::eraftpb::ConfChangeType;
use skerry_raftstore::config::{ByteSize, RaftConfig};
use skerry_raftstore::planted::Planted;
use skerry_tests::lab::looks::SOON;
use skerry_tests::lab::{Lab, Setup, run};
use skerry_tests::sim::Summary;
use skerry_tests::sim::trace::{MILLISECOND, Moment, SECOND};

/// Rounds, as in the course.
const ROUNDS: usize = 3;

/// How long clients and faults go on in a round.
const ROUND: Moment = 5 * SECOND;

/// The parameters of the course's test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Generic {
    /// Clients with keys of their own, and as many that share keys.
    pub(crate) clients: usize,
    /// Messages are lost, doubled, late and out of order.
    pub(crate) unreliable: bool,
    /// Stores lose power.
    pub(crate) crash: bool,
    /// The network is cut in two, each time elsewhere.
    pub(crate) partitions: bool,
    /// Entries after which logs are cut; 0 for the usual.
    pub(crate) log_max: u64,
    /// Members of regions change.
    pub(crate) conf_change: bool,
    /// Regions are so small that they must be cut.
    pub(crate) split: bool,
    /// How many rounds.
    pub(crate) rounds: usize,
    /// A bug in every store.
    pub(crate) planted: Option<Planted>,
}

impl Default for Generic {
    fn default() -> Generic {
        Generic {
            clients: 1,
            unreliable: false,
            crash: false,
            partitions: false,
            log_max: 0,
            conf_change: false,
            split: false,
            rounds: ROUNDS,
            planted: None,
        }
    }
}

impl Generic {
    /// Runs the test.
    pub(crate) fn run(self) -> Vec<Summary> {
        let summaries = run(&self.setup(), async |lab| self.script(lab).await);
        summaries.iter().for_each(|summary| self.check_enough(summary));
        summaries
    }

    /// Runs the test, which must find the bug that is planted: the failure has `words` in it.
    pub(crate) fn must_fail(self, words: &str) {
        let failure = catch_unwind(AssertUnwindSafe(|| self.run()));
        let failure = failure.expect_err("the planted bug was not found");
        let found = failure.downcast_ref::<String>().map_or("", String::as_str);
        assert!(found.contains(words), "something else was found: {found}");
    }

    fn setup(&self) -> Setup {
        let mut setup = Setup::of(5);
        setup.shared_clients = self.clients;
        setup.planted = self.planted;
        if self.log_max > 0 {
            setup.config = RaftConfig {
                log_gc_threshold: self.log_max / 2,
                log_gc_count_max: self.log_max,
                ..setup.config
            };
        }
        if self.split {
            setup.config = RaftConfig {
                region_size_max: ByteSize(300),
                split_size: ByteSize(200),
                split_check_size: ByteSize(100),
                ..setup.config
            };
        }
        setup
    }

    async fn script(self, lab: Lab) {
        lab.pause(2 * self.setup().election_timeout()).await;
        lab.set_busy(true);
        let clients: Vec<Rc<Appender>> =
            (0..self.clients).map(|number| Rc::new(Appender::new(number))).collect();
        for _ in 0..self.rounds {
            self.round(&lab, &clients).await;
        }
        if self.split {
            lab.until("the first region was cut", SOON, |lab| {
                lab.regions().first().is_some_and(|first| !first.end_key.is_empty())
            })
            .await;
        }
    }

    async fn round(self, lab: &Lab, clients: &[Rc<Appender>]) {
        let work = Phase::default();
        let at_work = clients.iter().map(|client| {
            let (lab, work, client) = (lab.clone(), work.clone(), client.clone());
            lab.clone().spawn(async move { client.work(&lab, &work).await })
        });
        let at_work = at_work.collect();
        lab.pause(300 * MILLISECOND).await;
        let danger = Phase::default();
        let mut dangers = Vec::new();
        let election_timeout = self.setup().election_timeout();
        if self.unreliable || self.partitions {
            let (own, danger) = (lab.clone(), danger.clone());
            let chaos = async move { self.spoil_network(&own, &danger, election_timeout).await };
            dangers.push(lab.spawn(chaos));
        }
        if self.crash {
            let (own, danger) = (lab.clone(), danger.clone());
            dangers.push(lab.spawn(async move { crash_stores(&own, &danger).await }));
        }
        lab.pause(100 * MILLISECOND).await;
        if self.conf_change {
            let (own, danger) = (lab.clone(), danger.clone());
            dangers.push(lab.spawn(async move { change_members(&own, &danger).await }));
        }
        lab.pause(ROUND).await;
        danger.end();
        lab.join_all(dangers).await;
        lab.reunite();
        lab.make_reliable();
        lab.pause(election_timeout).await;
        if self.crash {
            lab.stores().for_each(|store| lab.power_off(store));
            lab.pause(500 * MILLISECOND).await;
            lab.stores().for_each(|store| lab.power_on(store));
        }
        work.end();
        lab.join_all(at_work).await;
        lab.promote_learners().await;
        let checks = clients.iter().map(|client| {
            let (lab, client) = (lab.clone(), client.clone());
            lab.clone().spawn(async move { client.finds_and_removes_all(&lab).await })
        });
        lab.join_all(checks.collect()).await;
        if self.log_max > 0 {
            let bound = 2 * self.log_max;
            let what = format!("no log is longer than {bound}");
            lab.until(&what, SOON, |lab| lab.longest_log() <= bound).await;
        }
    }

    /// The network changes every now and then: each state replaces the one before.
    async fn spoil_network(self, lab: &Lab, danger: &Phase, election_timeout: Moment) {
        while danger.goes_on() {
            if self.partitions {
                let side: Vec<usize> = lab.stores().filter(|_| lab.coin()).collect();
                lab.separate(&side);
            }
            if self.unreliable {
                lab.make_unreliable();
            }
            lab.pause(election_timeout + lab.between(0, 200) * MILLISECOND).await;
        }
    }

    /// Whether what the parameters want has happened.
    fn check_enough(&self, summary: &Summary) {
        let Summary { seed, simulated, steps, faults, checked, counts, .. } = summary;
        let count = |name: &str| counts.get(name).copied().unwrap_or(0);
        println!(
            "seed {seed}: {} s, {steps} events, {} puts, {} scans, {} shared operations on {} keys \
             ({} of unknown outcome), {faults} faults, {} elections, {} truncations, {} snapshots, \
             {} conf changes, {} splits",
            simulated / SECOND,
            count("lab: put"),
            count("lab: scan"),
            checked.done,
            checked.keys,
            checked.unknown,
            count("election"),
            count("truncation"),
            count("snapshot install"),
            count("conf change"),
            count("split"),
        );
        let rounds = self.rounds as u64;
        let mut needed = vec![("lab: put", 10 * rounds), ("lab: scan", 10 * rounds)];
        needed.push(("election", 1));
        needed.extend(self.partitions.then_some(("fault: partition", 4 * rounds)));
        needed.extend(self.unreliable.then_some(("fault: bad network", 4 * rounds)));
        needed.extend(self.crash.then_some(("fault: power loss", 5 * rounds)));
        needed.extend(self.crash.then_some(("power loss", 5 * rounds)));
        needed.extend((self.log_max > 0).then_some(("truncation", rounds)));
        needed.extend(self.conf_change.then_some(("conf change", 5 * rounds)));
        needed.extend(self.split.then_some(("split", 5)));
        for (name, least) in needed {
            let seen = count(name);
            assert!(seen >= least, "seed {seed}: {name} happened {seen} times, not {least}");
        }
        assert!(checked.done >= 20 * self.rounds, "{} shared operations", checked.done);
    }
}

/// Goes on until it is ended, by whoever shares it.
#[derive(Clone, Default)]
struct Phase(Rc<Cell<bool>>);

impl Phase {
    fn goes_on(&self) -> bool {
        !self.0.get()
    }

    fn end(&self) {
        self.0.set(true);
    }
}

/// A client that puts one key after the other, all below a prefix of its own.
struct Appender {
    number: usize,
    /// How many keys it has put since it removed all.
    length: Cell<u64>,
}

impl Appender {
    fn new(number: usize) -> Appender {
        Appender { number, length: Cell::new(0) }
    }

    /// Eight bytes, so that a region can be cut between any two.
    fn key(&self, position: u64) -> Bytes {
        Bytes::from(format!("{:02} {position:05}", self.number))
    }

    fn value(&self, position: u64) -> Bytes {
        Bytes::from(format!("x {} {position} y", self.number))
    }

    async fn work(&self, lab: &Lab, work: &Phase) {
        while work.goes_on() {
            if lab.coin() {
                let position = self.length.get();
                lab.put(self.key(position), self.value(position)).await;
                self.length.set(position + 1);
                lab.count("lab: put");
            } else {
                self.finds_all(lab).await;
            }
            lab.pause(lab.between(1, 20) * MILLISECOND).await;
        }
    }

    /// What it has put is there, and nothing else: once, in order, whole.
    async fn finds_all(&self, lab: &Lab) {
        let found = lab.scan(&self.key(0), &self.key(99_999)).await;
        let expected: Vec<_> = (0..self.length.get())
            .map(|position| (self.key(position), self.value(position)))
            .collect();
        let same = found == expected;
        assert!(same, "client {} has put {expected:?} and finds {found:?}", self.number);
        lab.count("lab: scan");
    }

    async fn finds_and_removes_all(&self, lab: &Lab) {
        self.finds_all(lab).await;
        for position in 0..self.length.get() {
            lab.delete(self.key(position)).await;
        }
        self.length.set(0);
        self.finds_all(lab).await;
    }
}

/// Single stores lose power in the middle of a write, and come back by themselves.
async fn crash_stores(lab: &Lab, danger: &Phase) {
    while danger.goes_on() {
        let stores: Vec<usize> = lab.stores().filter(|store| lab.is_on(*store)).collect();
        if stores.len() == lab.stores().count()
            && let Some(store) = lab.pick(&stores)
        {
            lab.power_off_at_write(store, lab.between(0, 30));
        }
        lab.pause(lab.between(500, 1_500) * MILLISECOND).await;
    }
}

/// Replicas come to stores without one and leave stores with one, region after region.
async fn change_members(lab: &Lab, danger: &Phase) {
    while danger.goes_on() {
        if let Some(region) = lab.pick(&lab.regions()) {
            let store = lab.pick(&lab.stores().collect::<Vec<_>>()).expect("there are stores");
            let peer = region.peer_on_store(lab.store_id(store)).copied();
            let leader = lab.leader_of(region.id);
            let change = match peer {
                Some(peer) if peer.is_learner() => Some((ConfChangeType::AddNode, peer)),
                Some(peer) if region.peers.len() > 1 => Some((ConfChangeType::RemoveNode, peer)),
                Some(_) => None,
                None => Some((ConfChangeType::AddLearnerNode, lab.new_learner(store))),
            };
            match (change, leader) {
                (Some((ConfChangeType::RemoveNode, peer)), Some((_, status)))
                    if status.peer.id == peer.id =>
                {
                    lab.hand_over(&status).await;
                }
                (Some((kind, peer)), Some(_)) => {
                    lab.change_peer(region.id, kind, peer).await;
                }
                _ => {}
            }
        }
        lab.pause(lab.between(0, 200) * MILLISECOND).await;
    }
}
