//! The simulated world: stores, network, clients, scheduler and faults, moved from one event to the next.
//!
//! A run has three parts. While it is *dangerous* faults come and go. Then everything heals, and clients
//! must get on: each has to finish a few operations soon. Then clients fall silent, and all replicas must
//! come to agree ([`super::settle`]). Last, the history of the clients is checked.

use std::fmt::Display;
use std::sync::{Arc, Mutex};

use skerry_proto::metapb::Region;
use skerry_raftstore::config::{ByteSize, RaftConfig};
use skerry_raftstore::effects::{RegionReport, SplitAsk};
use skerry_raftstore::store::bootstrap;

use super::chance::Chance;
use super::clients::{Answer, Client, Next, PATIENCE};
use super::faults::Plan;
use super::invariants::{Broken, Invariants};
use super::network::Network;
use super::node::Node;
use super::plots::Held;
use super::queue::{Event, Queue};
use super::scheduler::{Scheduler, Step};
use super::script::{Desk, Ticket, Told};
use super::trace::{MILLISECOND, Moment, SECOND, Trace};
use super::transactions::Transactions;
use super::{Failure, Settings, Summary};
use crate::checker::History;

/// How often all disks are looked at, in events.
const SWEEP_EVENTS: u64 = 1_000;
/// Bytes of a pair of a client, roughly.
const PAIR_BYTES: u64 = 16;

/// What a store tells somebody outside, and when the store did so.
pub(super) enum Letter {
    /// To a client.
    Client { client: usize, attempt: u64, region: u64, is_replica_read: bool, answer: Answer },
    /// To a script.
    Script { ticket: Ticket, region: u64, told: Told },
    /// To the operator: how a step ended.
    Operator(&'static str),
}

/// Where stores put letters. Shared with the replies that they hold.
pub(super) type Letters = Arc<Mutex<Vec<Letter>>>;

/// See the module.
pub struct World {
    pub(super) settings: Settings,
    pub(super) now: Moment,
    pub(super) queue: Queue,
    pub(super) nodes: Vec<Node>,
    pub(super) network: Network,
    pub(super) scheduler: Scheduler,
    pub(super) clients: Vec<Client>,
    pub(super) history: History,
    pub(super) invariants: Invariants,
    pub(super) trace: Trace,
    pub(super) plan: Plan,
    pub(super) chance: Chance,
    pub(super) letters: Letters,
    /// What a script has asked.
    pub(super) desk: Desk,
    pub(super) config: RaftConfig,
    /// Events so far; also the time of the history, in which no two things happen at once.
    pub(super) steps: u64,
    /// Whether faults come and the operator is restless.
    pub(super) is_dangerous: bool,
    /// Whether clients begin operations.
    pub(super) is_busy: bool,
    /// How many voters each region has in the end, if somebody sees to it.
    pub(super) voters_wanted: Option<usize>,
    /// Until when they begin nothing but reads.
    pub(super) quiet_until: Moment,
    /// What a plot holds back.
    pub(super) held: Option<Held>,
    /// Clients of transactions, in runs that have them.
    pub(super) transactions: Option<Transactions>,
}

impl World {
    /// The world of a seed, before anything has happened.
    pub fn new(settings: Settings) -> World {
        let config = config(settings.seed);
        let mut world = World::of(settings, 1, config);
        world.is_dangerous = true;
        world.is_busy = true;
        world.plan_beginning();
        world
    }

    /// A world in which nothing is going to happen, with the first region on the first `replicas` stores.
    pub(super) fn of(settings: Settings, replicas: usize, config: RaftConfig) -> World {
        let seed = settings.seed;
        // A run must be the same on every machine.
        let config = config.for_cores(4);
        let (scheduler, region) = Scheduler::new(
            settings.stores,
            replicas,
            seed,
            settings.governed,
            settings.planted_above,
        );
        let ids = scheduler.stores().iter().enumerate();
        let mut nodes: Vec<Node> =
            ids.map(|(number, id)| Node::new(number, *id, settings.planted)).collect();
        let transactions = settings.transactions.then(|| {
            nodes.iter_mut().for_each(|node| node.serve_transactions(settings.planted_txn));
            Transactions::new(settings.clients, settings.stores, seed)
        });
        let clients = if settings.transactions { 0 } else { settings.clients };
        for node in &nodes[..replicas] {
            let disk = node.disk();
            bootstrap::bootstrap(&*disk.engine(), &*disk.log(), &region)
                .expect("an empty disk takes the first region");
        }
        World {
            now: 0,
            queue: Queue::default(),
            network: Network::new(settings.stores, seed),
            clients: (0..clients).map(|number| Client::new(number, seed)).collect(),
            history: History::default(),
            invariants: Invariants::new(settings.stores),
            trace: Trace::new(settings.tells),
            plan: Plan::new(settings.stores, seed),
            chance: Chance::new(seed, "world"),
            letters: Letters::default(),
            desk: Desk::default(),
            config,
            steps: 0,
            is_dangerous: false,
            is_busy: false,
            voters_wanted: Some(3),
            quiet_until: 0,
            held: None,
            transactions,
            nodes,
            scheduler,
            settings,
        }
    }

    fn plan_beginning(&mut self) {
        for node in 0..self.nodes.len() {
            self.queue.plan(0, Event::Start { node });
        }
        for client in 0..self.clients.len() {
            let at = self.chance.between(SECOND, 2 * SECOND);
            self.queue.plan(at, Event::Ask { client });
        }
        self.queue.plan(SECOND, Event::Operate);
        if self.settings.governed {
            self.begin_to_govern();
        }
        if self.settings.transactions {
            self.begin_transactions();
        }
        // Long enough for the first region to have three replicas.
        self.queue.plan(5 * SECOND, Event::Fault);
    }

    /// Lives through all of it.
    pub fn run(mut self) -> Result<Summary, Failure> {
        let outcome = self.live();
        outcome.map_err(|broken| self.failure(&broken))?;
        self.summary()
    }

    /// A failure at this moment.
    pub(super) fn failure(&self, what: &dyn Display) -> Failure {
        Failure { seed: self.settings.seed, at: self.now, what: what.to_string() }
    }

    /// What was seen, if the history has an order.
    pub(super) fn summary(&self) -> Result<Summary, Failure> {
        let checked = self.history.check().map_err(|violation| self.failure(&violation))?;
        let isolated = self.transactions.as_ref().map(Transactions::check).transpose();
        let isolated = isolated.map_err(|broken| self.failure(&broken))?;
        let faults = self.trace.counts().iter().filter(|(name, _)| name.starts_with("fault"));
        Ok(Summary {
            seed: self.settings.seed,
            simulated: self.now,
            steps: self.steps,
            trace: self.trace.value(),
            faults: faults.map(|(_, count)| count).sum(),
            counts: self.trace.counts().clone(),
            checked,
            isolated: isolated.unwrap_or_default(),
        })
    }

    fn live(&mut self) -> Result<(), Broken> {
        self.run_until(self.settings.dangerous)?;
        self.heal()?;
        self.must_get_on()?;
        self.transactions_must_end()?;
        self.must_agree()?;
        self.read_everything();
        Ok(())
    }

    /// Lets everything happen that is planned before `end`.
    pub(super) fn run_until(&mut self, end: Moment) -> Result<(), Broken> {
        while let Some((at, event)) = self.queue.next(end) {
            assert!(at >= self.now, "time goes back");
            self.now = at;
            self.steps += 1;
            self.happen(event)?;
            if self.steps.is_multiple_of(SWEEP_EVENTS) {
                self.invariants.sweep(&self.nodes)?;
                self.invariants.sleepers_notice(&self.nodes, self.now)?;
            }
        }
        self.now = end;
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), Broken> {
        match event {
            Event::Tick { node, life } => self.tick(node, life),
            Event::Turn { node, life, actor } => self.turn(node, life, actor),
            Event::Deliver { node, message } => self.deliver(node, message),
            Event::DeliverSnapshot { from, life, node, message } => {
                self.deliver_snapshot((from, life), node, message)
            }
            Event::Request(request) => self.request(*request),
            Event::Step(step) => self.take_step(*step),
            Event::Errand(errand, ticket) => self.run_errand(*errand, ticket),
            Event::Start { node } => self.start(node),
            Event::Answer { client, attempt, region, answer } => {
                self.answer(client, attempt, region, &answer);
                Ok(())
            }
            Event::Ask { client } => {
                self.ask(client);
                Ok(())
            }
            Event::GiveUp { client, attempt } => {
                self.give_up(client, attempt);
                Ok(())
            }
            Event::Report(report) => self.report(*report),
            Event::Govern => self.govern(),
            Event::SplitAsk(ask) => {
                self.split_ask(&ask);
                Ok(())
            }
            Event::Operate => {
                self.operate();
                Ok(())
            }
            Event::Fault => self.fault(),
            Event::Over(fault) => {
                self.fault_is_over(fault);
                Ok(())
            }
            Event::Betray { leader, voter, back } => {
                self.betray(leader, voter, back);
                Ok(())
            }
            Event::Silence { speakers, listeners } => {
                self.silence(&speakers, &listeners);
                Ok(())
            }
            Event::Cut { region } => {
                self.cut_region(region);
                Ok(())
            }
            Event::Reunite => {
                self.network.heal();
                Ok(())
            }
            Event::Transactions(happening) => self.happens(*happening),
        }
    }

    // ---- Clients ------------------------------------------------------------------------------------

    fn ask(&mut self, client: usize) {
        if !self.is_busy {
            return;
        }
        let (scheduler, chance) = (&self.scheduler, &mut self.chance);
        let look_up = |key: &[u8]| scheduler.look_up(key);
        let only_reads = self.now < self.quiet_until;
        let asking = &mut self.clients[client];
        let request = asking.ask(&mut self.history, self.steps, only_reads, look_up);
        match request {
            Some(request) => {
                let attempt = request.attempt;
                let arrives = self.now + chance.between(100, MILLISECOND);
                self.queue.plan(arrives, Event::Request(Box::new(request)));
                self.queue.plan(self.now + PATIENCE, Event::GiveUp { client, attempt });
            }
            None => self.queue.plan(self.now + 50 * MILLISECOND, Event::Ask { client }),
        }
    }

    fn answer(&mut self, client: usize, attempt: u64, region: u64, answer: &Answer) {
        if self.clients[client].attempt() != attempt {
            return;
        }
        let mixed = match answer {
            Answer::Written { index, .. } => *index,
            Answer::Found(found) => {
                self.trace.mix_bytes(found.as_deref().unwrap_or_default());
                1
            }
            Answer::Refused(_) => 2,
            Answer::Unknown => 3,
        };
        self.trace.mix(self.now, 2, mixed);
        let steps = self.steps;
        self.trace.tell(self.now, format_args!("c{client}"), || {
            format!("at {steps} hears from r{region}: {answer:?}")
        });
        let region = region.into();
        let next = self.clients[client].hear(&mut self.history, self.steps, region, answer);
        self.next_of(client, next);
    }

    fn give_up(&mut self, client: usize, attempt: u64) {
        if self.clients[client].attempt() == attempt {
            self.trace.count("client gives up");
            let next = self.clients[client].give_up(&mut self.history, self.steps);
            self.next_of(client, next);
        }
    }

    fn next_of(&mut self, client: usize, next: Next) {
        if let Next::After(pause) = next {
            self.queue.plan(self.now + pause, Event::Ask { client });
        }
    }

    // ---- The operator -------------------------------------------------------------------------------

    fn operate(&mut self) {
        let pause = self.chance.between(100 * MILLISECOND, 700 * MILLISECOND);
        self.queue.plan(self.now + pause, Event::Operate);
        if let Some(step) = self.scheduler.next_step(self.is_dangerous, self.now) {
            self.plan_step(step);
        }
    }

    /// The leader of a region reports, and is told what the rule wants of it.
    fn report(&mut self, report: RegionReport) -> Result<(), Broken> {
        if self.scheduler.is_away(self.now) {
            return Ok(());
        }
        let region = report.region.region_id();
        self.scheduler.report(report, self.now);
        // A script says itself which replicas it wants.
        let is_ruled = self.settings.governed || !self.is_dangerous;
        if is_ruled
            && self.voters_wanted.is_some()
            && let Some(step) = self.scheduler.rule(region, self.now)
        {
            self.trace.count("step by the rule");
            self.plan_step(step);
        }
        self.scheduler.overseer.verdict()
    }

    /// A store wants to cut a region that has grown.
    fn split_ask(&mut self, ask: &SplitAsk) {
        if let Some(step) = self.scheduler.allow_split(ask) {
            self.trace.count("split asked for by a store");
            self.plan_step(step);
        }
    }

    pub(super) fn plan_step(&mut self, step: Step) {
        let arrives = self.now + self.chance.between(100, 2 * MILLISECOND);
        self.queue.plan(arrives, Event::Step(Box::new(step)));
    }

    /// The node with this name.
    pub(super) fn node_of(&self, store: u64) -> Option<usize> {
        self.nodes.iter().position(|node| node.id.get() == store)
    }

    /// The regions as their leaders show them, in the order of their keys.
    pub(super) fn led_regions(&self) -> Vec<Arc<Region>> {
        let shown = (0..self.nodes.len()).flat_map(|number| self.invariants.shown(number));
        let mut led: Vec<_> =
            shown.filter(|status| status.is_leader).map(|status| status.region.clone()).collect();
        led.sort_by(|a, b| a.start_key.cmp(&b.start_key));
        led
    }
}

/// Settings under which rare things are frequent: short logs, short patience, small caches and batches.
fn config(seed: u64) -> RaftConfig {
    let mut chance = Chance::new(seed, "config");
    let mut size = |small: u64, usual: ByteSize| match chance.percent(50) {
        true => ByteSize(chance.between(1, small)),
        false => usual,
    };
    let usual = RaftConfig::default();
    let message_size_max = size(2_000, usual.message_size_max);
    let apply_size_max = size(2_000, usual.apply_size_max);
    let entry_cache_size = size(1_000, usual.entry_cache_size);
    let split_check_size = size(4_000, usual.split_check_size);
    let config = RaftConfig {
        workers: chance.between(1, 3) as usize,
        apply_workers: chance.between(1, 2) as usize,
        batch_messages_max: chance.between(1, 64) as usize,
        message_size_max,
        inflight_messages_max: chance.between(1, 64) as usize,
        apply_size_max,
        entry_cache_size,
        log_gc_ticks: chance.between(5, 20),
        log_gc_threshold: chance.between(5, 40),
        log_gc_count_max: chance.between(60, 200),
        split_check_size,
        region_keys_max: chance.between(2, 12),
        right_derive: chance.percent(50),
        read_wait_ticks: chance.between(10, 40),
        stale_peer_ticks: 40,
        report_ticks: 20,
        // Clients seldom leave a region alone for longer.
        hibernate_after_ticks: chance.between(1, 4),
        snapshot_collect_ticks: chance.between(5, 30),
        snapshot_keep_ticks: chance.between(10, 60),
        ..usual
    };
    // Pairs of these clients are cut by their size.
    let keys = config.region_keys_max;
    RaftConfig {
        split_keys: keys.div_ceil(2),
        split_size: ByteSize(keys.div_ceil(2) * PAIR_BYTES),
        region_size_max: ByteSize(keys * PAIR_BYTES),
        ..config
    }
}
