//! The actors of one store with their queues: what threads or a simulator turn.
//!
//! A [`Store`] holds the actors and a queue in front of each. [`Store::turn`] lets one actor take a bounded batch
//! from its queue and puts what it wants into the queues of others, or out: messages for other stores,
//! reports for the scheduler. Nothing happens between turns, and a turn does not depend on time or chance:
//! two runs with the same turns are the same.
//!
//! | actor | how many | queue |
//! | --- | --- | --- |
//! | raft worker | `workers` | commands, messages, ticks, results |
//! | log writer | 1 | log tasks |
//! | apply worker | `apply-workers` | committed entries |
//! | store actor | 1 | messages for unknown regions |
//! | background | 1 | slow work |
//!
//! **Invariant.** Each queue keeps its order. A tick that was not taken yet swallows the next one: ticks are
//! never made up, because a burst of them would end the protection that followers give to a leader's lease.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use skerry_proto::raft_serverpb::RaftMessage;
use skerry_proto::types::{PeerId, RegionId, StoreId};
use slog::Logger;

use self::actor::StoreActor;
use self::log_writer::LogWriter;
pub use self::neighbours::Pulses;
pub use self::offered::Offer;
use self::worker::RaftWorker;
use crate::Result;
use crate::apply::{self, ApplyWorker};
use crate::background::{self, Background};
use crate::config::RaftConfig;
use crate::credits::Credits;
use crate::effects::{Effects, RegionReport, SplitAsk};
use crate::engine::Engine;
use crate::engine::log::LogEngine;
use crate::environment::{Counters, Environment};
use crate::message::{ApplyMessage, BackgroundTask, Command, LogTask, StoreMessage, WorkerMessage};
use crate::meta::StoreMeta;
use crate::peer::PeerStatus;
use crate::planted::Planted;
use crate::registry::{LocalReader, Registry};
use crate::snapshot;
use crate::time::Clock;

mod actor;
pub mod bootstrap;
mod inbox;
mod log_writer;
mod neighbours;
mod offered;
pub mod recover;
#[cfg(test)]
mod tests;
pub mod threads;
mod worker;

/// What a store is made of.
pub struct StoreParts {
    /// Its id.
    pub store_id: StoreId,
    /// Data and states of regions.
    pub engine: Arc<dyn Engine>,
    /// Entries and raft states.
    pub log: Arc<dyn LogEngine>,
    /// Where snapshots lie; made if it is not there.
    pub snapshots: PathBuf,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Settings.
    pub config: RaftConfig,
    /// The only source of chance.
    pub seed: u64,
    /// Where to log.
    pub logger: Logger,
    /// A bug, for tests that show that it would be found.
    pub planted: Option<Planted>,
}

/// See the module.
pub struct Store {
    environment: Environment,
    workers: Vec<(RaftWorker, VecDeque<WorkerMessage>)>,
    log_writer: (LogWriter, VecDeque<LogTask>),
    appliers: Vec<(ApplyWorker, VecDeque<ApplyMessage>)>,
    actor: (StoreActor, VecDeque<StoreMessage>),
    background: (Background, VecDeque<BackgroundTask>),
    /// Whether a tick waits in the queue of each raft worker.
    ticks_waiting: Vec<bool>,
    /// How many have passed.
    ticks: u64,
    /// When the last one came.
    ticked_at: Duration,
    sent: Vec<RaftMessage>,
    reports: Vec<RegionReport>,
    split_asks: Vec<SplitAsk>,
}

impl Store {
    /// Opens a store: repairs what a crash has left, and begins the replicas that were here.
    pub fn open(parts: StoreParts) -> Result<Store> {
        parts.config.validate()?;
        let config = parts.config.for_cores(crate::time::cores());
        let incarnation = recover::count_start(parts.engine.as_ref())?;
        let snapshots = snapshot::Manager::open(&parts.snapshots, snapshot_limits(&config))?;
        let rate = config.snapshot_bytes_per_second.bytes();
        let snapshot_rates = snapshot::RateLimits::new(&parts.clock, rate);
        let environment = Environment {
            store_id: parts.store_id,
            incarnation,
            seed: parts.seed,
            credits: Arc::new(Credits::new(&config)),
            pulses: Arc::new(Pulses::new(config.workers, parts.clock.monotonic())),
            config: Arc::new(config),
            engine: parts.engine,
            log: parts.log,
            meta: Arc::new(Mutex::new(StoreMeta::default())),
            registry: Arc::new(Registry::default()),
            snapshots,
            snapshot_rates: Arc::new(snapshot_rates),
            started: parts.clock.monotonic(),
            clock: parts.clock,
            logger: parts.logger,
            counters: Arc::default(),
            follower_reads: Arc::default(),
            read_guard: Arc::default(),
            planted: parts.planted,
        };
        let found = recover::recover(&environment)?;
        let count = environment.config.workers;
        let worker = |number| (RaftWorker::new(&environment, number, count), VecDeque::new());
        let applier = |_| (ApplyWorker::new(&environment), VecDeque::new());
        let mut store = Store {
            workers: (0..count).map(worker).collect(),
            log_writer: (LogWriter::new(&environment), VecDeque::new()),
            appliers: (0..environment.config.apply_workers).map(applier).collect(),
            actor: (StoreActor::new(&environment), VecDeque::new()),
            background: (Background::new(&environment), VecDeque::new()),
            ticks_waiting: vec![false; count],
            ticks: 0,
            ticked_at: environment.clock.monotonic(),
            sent: Vec::new(),
            reports: Vec::new(),
            split_asks: Vec::new(),
            environment,
        };
        for new in found {
            store.hand_to_worker(new.region.region_id(), WorkerMessage::Create(Box::new(new)));
        }
        Ok(store)
    }

    /// How many actors there are: raft workers, log writer, apply workers, store actor, background.
    pub fn actors(&self) -> usize {
        self.workers.len() + self.appliers.len() + 3
    }

    /// Whether something waits for an actor.
    pub fn has_work(&self, actor: usize) -> bool {
        match self.locate(actor) {
            Actor::Worker(number) => !self.workers[number].1.is_empty(),
            Actor::LogWriter => !self.log_writer.1.is_empty(),
            Actor::Applier(number) => !self.appliers[number].1.is_empty(),
            Actor::Store => !self.actor.1.is_empty(),
            Actor::Background => !self.background.1.is_empty(),
        }
    }

    /// Lets an actor take a batch. An error is fatal to the store.
    pub fn turn(&mut self, actor: usize) -> Result<()> {
        let batch = self.environment.config.batch_messages_max;
        let mut effects = Effects::default();
        match self.locate(actor) {
            Actor::Worker(number) => {
                self.ticks_waiting[number] = false;
                let (worker, queue) = &mut self.workers[number];
                worker.round(take(queue, batch), &mut effects)?;
            }
            Actor::LogWriter => {
                let (writer, queue) = &mut self.log_writer;
                writer.round(take(queue, usize::MAX), &mut effects)?;
            }
            Actor::Applier(number) => {
                let (applier, queue) = &mut self.appliers[number];
                applier.round(take(queue, batch), &mut effects)?;
            }
            Actor::Store => {
                let (actor, queue) = &mut self.actor;
                actor.round(take(queue, batch), &mut effects)?;
            }
            Actor::Background => {
                let (background, queue) = &mut self.background;
                // Time does not pass while an actor is turned.
                background.round(take(queue, 1), &mut |_| {}, &mut effects)?;
            }
        }
        self.carry(effects);
        Ok(())
    }

    fn locate(&self, actor: usize) -> Actor {
        let (workers, appliers) = (self.workers.len(), self.appliers.len());
        match actor {
            _ if actor < workers => Actor::Worker(actor),
            _ if actor == workers => Actor::LogWriter,
            _ if actor <= workers + appliers => Actor::Applier(actor - workers - 1),
            _ if actor == workers + appliers + 1 => Actor::Store,
            _ => Actor::Background,
        }
    }

    /// Puts wishes into queues.
    fn carry(&mut self, effects: Effects) {
        let environment = self.environment.clone();
        self.log_writer.1.extend(effects.log);
        self.actor.1.extend(effects.store);
        self.background.1.extend(effects.background);
        for message in effects.apply {
            let owner = environment.apply_worker_of(apply::region_of(&message));
            self.appliers[owner].1.push_back(message);
        }
        for persisted in effects.persisted {
            self.hand_to_worker(persisted.region_id, WorkerMessage::Persisted(vec![persisted]));
        }
        for applied in effects.applied {
            self.hand_to_worker(applied.region_id, WorkerMessage::Applied(vec![applied]));
        }
        for message in effects.workers {
            let region_id = worker::region_of(&message).expect("for one region");
            self.hand_to_worker(region_id, message);
        }
        self.sent.extend(effects.send);
        self.reports.extend(effects.reports);
        self.split_asks.extend(effects.split_asks);
    }

    fn hand_to_worker(&mut self, region_id: RegionId, message: WorkerMessage) {
        let owner = self.environment.worker_of(region_id);
        self.workers[owner].1.push_back(message);
    }

    /// One tick has passed.
    pub fn tick(&mut self) {
        self.ticks += 1;
        let waits = |queue: &VecDeque<_>| queue.iter().any(|it| matches!(it, BackgroundTask::Tick));
        if self.ticks.is_multiple_of(background::TICKS) && !waits(&self.background.1) {
            self.background.1.push_back(BackgroundTask::Tick);
        }
        let made_up = self.made_up();
        for (number, (_, queue)) in self.workers.iter_mut().enumerate() {
            if !std::mem::replace(&mut self.ticks_waiting[number], true) {
                queue.push_back(WorkerMessage::Tick);
            }
            queue.extend((0..made_up).map(|_| WorkerMessage::Tick));
        }
    }

    /// Ticks that should have come since the last one: none is made up, but for a planted bug.
    fn made_up(&mut self) -> u64 {
        let now = self.environment.clock.monotonic();
        let since = now.saturating_sub(std::mem::replace(&mut self.ticked_at, now));
        if !self.environment.has(Planted::TicksMadeUp) {
            return 0;
        }
        let due = since.as_millis() / u128::from(self.environment.config.tick_ms);
        u64::try_from(due).expect("few").saturating_sub(1)
    }

    /// A message has come from another store; the files of a snapshot are here already.
    pub fn receive(&mut self, message: RaftMessage) {
        if let Some(alive) = worker::alive(&message) {
            let queues = self.workers.iter_mut().map(|(_, queue)| queue);
            return queues.for_each(|queue| queue.push_back(alive()));
        }
        let region_id = RegionId::new(message.region_id);
        self.hand_to_worker(region_id, WorkerMessage::Raft(Box::new(message)));
    }

    /// A client or the scheduler wants something.
    pub fn command(&mut self, command: Command) {
        self.hand_to_worker(command.context.region_id, WorkerMessage::Command(Box::new(command)));
    }

    /// A snapshot has reached another store, or has not.
    pub fn snapshot_sent(&mut self, region_id: RegionId, to_peer: PeerId, arrived: bool) {
        self.hand_to_worker(region_id, WorkerMessage::SnapshotSent { region_id, to_peer, arrived });
    }

    /// A message could not be sent.
    pub fn unreachable(&mut self, region_id: RegionId, to_peer: PeerId) {
        self.hand_to_worker(region_id, WorkerMessage::Unreachable { region_id, to_peer });
    }

    /// Messages for other stores.
    pub fn take_sent(&mut self) -> Vec<RaftMessage> {
        std::mem::take(&mut self.sent)
    }

    /// Reports for the scheduler.
    pub fn take_reports(&mut self) -> Vec<RegionReport> {
        std::mem::take(&mut self.reports)
    }

    /// Regions that want to be cut.
    pub fn take_split_asks(&mut self) -> Vec<SplitAsk> {
        std::mem::take(&mut self.split_asks)
    }

    /// Reads on the caller's thread.
    pub fn reader(&self) -> LocalReader {
        let Environment { registry, engine, clock, .. } = &self.environment;
        LocalReader::new(registry.clone(), engine.clone(), clock.clone())
    }

    /// Who is at which snapshot, and where their files lie.
    pub fn snapshots(&self) -> Arc<snapshot::Manager> {
        self.environment.snapshots.clone()
    }

    /// What invariants, status pages and tests look at: every replica, by region.
    pub fn inspect(&self) -> Vec<PeerStatus> {
        let mut all: Vec<PeerStatus> =
            self.workers.iter().flat_map(|(worker, _)| worker.inspect()).collect();
        all.sort_by_key(|status| status.region.id);
        all
    }

    /// What was done so far.
    pub fn counters(&self) -> Arc<Counters> {
        self.environment.counters.clone()
    }

    /// The store stops: everybody who waits is answered, what is queued is refused.
    pub fn stop(mut self) {
        for (worker, queue) in &mut self.workers {
            worker.stop();
            for message in queue.drain(..) {
                worker::refuse_command(message);
            }
        }
        for (applier, queue) in &mut self.appliers {
            applier.stop();
            queue.drain(..).for_each(apply::abandon);
        }
    }
}

/// Who is turned.
enum Actor {
    Worker(usize),
    LogWriter,
    Applier(usize),
    Store,
    Background,
}

fn snapshot_limits(config: &RaftConfig) -> snapshot::Limits {
    snapshot::Limits {
        generating: config.snapshot_generating_max,
        sending: config.snapshot_sending_max,
        receiving: config.snapshot_receiving_max,
        applying: config.snapshot_applying_max,
    }
}

fn take<T>(queue: &mut VecDeque<T>, count: usize) -> Vec<T> {
    queue.drain(..count.min(queue.len())).collect()
}
