//! A store that is turned by threads: one for each actor, and one that ticks.
//!
//! Each thread waits for messages, lets its actor take a batch, and carries what it wants to the queues of
//! the others, to the network and to the scheduler. Nothing else in this crate starts a thread.
//!
//! A stop closes the queues, joins the threads and answers everybody who still waits: what was not proposed is
//! refused, the rest is unknown.
//!
//! **Invariant.** An error of an actor ends the process: below raft nobody can mend it, and a restart finds all
//! that was acknowledged.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use skerry_proto::metapb;
use skerry_proto::raft_serverpb::RaftMessage;
use skerry_proto::types::{PeerId, RegionId, Term};

use super::inbox::{Inbox, Room, Urgency};
use super::{Offer, Store, offered, worker};
use crate::apply;
use crate::background::{self, Background};
use crate::effects::Effects;
use crate::environment::{Counters, Environment};
use crate::extent::{Estimate, Extent};
use crate::message::{
    Applied, ApplyMessage, BackgroundTask, Command, CommandKind, LogTask, Persisted, StoreMessage,
    WorkerMessage,
};
use crate::outside::{ReadGuard, SchedulerClient, Transport};
use crate::registry::LocalReader;
use crate::reply::Refusal;
use crate::snapshot::{self, Activity, SnapshotId};
use crate::time::{fatal, spawn};

/// Messages from outside that may wait for a raft worker, or for the store actor.
const MESSAGES_WAITING_MAX: usize = 40_960;

/// The queues, and the way out.
struct Queues {
    environment: Environment,
    workers: Vec<Inbox<WorkerMessage>>,
    ticks_waiting: Vec<AtomicBool>,
    /// How many have passed.
    ticks: AtomicU64,
    log: Inbox<LogTask>,
    appliers: Vec<Inbox<ApplyMessage>>,
    store: Inbox<StoreMessage>,
    background: Inbox<BackgroundTask>,
    background_tick_waiting: AtomicBool,
    /// Nothing is ever sent here; it closes when the store stops.
    stopping: Receiver<()>,
    transport: Arc<dyn Transport>,
    scheduler: Arc<dyn SchedulerClient>,
}

/// A running store, for those who use it. Cloning copies a reference.
#[derive(Clone)]
pub struct StoreHandle {
    queues: Arc<Queues>,
}

/// A running store, for those whom the store itself holds: it does not keep the store alive.
#[derive(Clone)]
pub struct WeakStoreHandle {
    queues: Weak<Queues>,
}

impl WeakStoreHandle {
    /// The store, if it still runs.
    pub fn upgrade(&self) -> Option<StoreHandle> {
        self.queues.upgrade().map(|queues| StoreHandle { queues })
    }
}

/// A running store, for the one who stops it.
pub struct RunningStore {
    handle: StoreHandle,
    stop_ticking: Sender<()>,
    threads: Vec<JoinHandle<Option<Stopped>>>,
}

/// What a thread hands back when it ends.
enum Stopped {
    Worker(Box<worker::RaftWorker>),
    Applier(Box<apply::ApplyWorker>),
}

impl Store {
    /// Starts the threads.
    pub fn run(
        self,
        transport: Arc<dyn Transport>,
        scheduler: Arc<dyn SchedulerClient>,
    ) -> RunningStore {
        let Store { environment, workers, log_writer, appliers, actor, background, .. } = self;
        let (workers, worker_queues): (Vec<_>, Vec<_>) = workers.into_iter().unzip();
        let (appliers, applier_queues): (Vec<_>, Vec<_>) = appliers.into_iter().unzip();
        let (stop_ticking, ticks) = bounded(1);
        let from_outside = Room {
            messages: MESSAGES_WAITING_MAX,
            bytes: environment.config.messages_waiting_size_max.length(),
        };
        let queues = Arc::new(Queues {
            ticks_waiting: workers.iter().map(|_| AtomicBool::new(false)).collect(),
            ticks: AtomicU64::new(0),
            background_tick_waiting: AtomicBool::new(false),
            workers: worker_queues
                .into_iter()
                .map(|queue| Inbox::new(from_outside, queue))
                .collect(),
            log: Inbox::new(Room::INTERNAL, log_writer.1),
            appliers: applier_queues
                .into_iter()
                .map(|queue| Inbox::new(Room::INTERNAL, queue))
                .collect(),
            store: Inbox::new(from_outside, actor.1),
            background: Inbox::new(Room::INTERNAL, background.1),
            stopping: ticks.clone(),
            environment,
            transport,
            scheduler,
        });
        let mut threads = Vec::new();
        for (number, worker) in workers.into_iter().enumerate() {
            threads.push(run_worker(number, worker, queues.clone()));
        }
        for (number, applier) in appliers.into_iter().enumerate() {
            threads.push(run_applier(number, applier, queues.clone()));
        }
        threads.push(run_actor("log-writer", queues.clone(), |queues| &queues.log, {
            let mut writer = log_writer.0;
            move |tasks, effects| writer.round(tasks, effects)
        }));
        threads.push(run_actor("store-actor", queues.clone(), |queues| &queues.store, {
            let mut actor = actor.0;
            move |messages, effects| actor.round(messages, effects)
        }));
        threads.push(run_background(background.0, queues.clone(), ticks.clone()));
        let clock = queues.clone();
        threads.push(spawn("store-tick", move || {
            let pause = Duration::from_millis(clock.environment.config.tick_ms);
            while ticks.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                clock.tick();
            }
            None
        }));
        RunningStore { handle: StoreHandle { queues }, stop_ticking, threads }
    }
}

fn run_worker(
    number: usize,
    mut worker: worker::RaftWorker,
    queues: Arc<Queues>,
) -> JoinHandle<Option<Stopped>> {
    spawn(&format!("raft-{number}"), move || {
        let batch = queues.environment.config.batch_messages_max;
        while let Some(messages) = queues.workers[number].take(batch) {
            if messages.iter().any(|message| matches!(message, WorkerMessage::Tick)) {
                queues.ticks_waiting[number].store(false, Ordering::Relaxed);
            }
            queues.perform(|effects| worker.round(messages, effects));
        }
        Some(Stopped::Worker(Box::new(worker)))
    })
}

fn run_applier(
    number: usize,
    mut applier: apply::ApplyWorker,
    queues: Arc<Queues>,
) -> JoinHandle<Option<Stopped>> {
    spawn(&format!("apply-{number}"), move || {
        let batch = queues.environment.config.batch_messages_max;
        while let Some(messages) = queues.appliers[number].take(batch) {
            queues.perform(|effects| applier.round(messages, effects));
        }
        Some(Stopped::Applier(Box::new(applier)))
    })
}

/// The one actor whose thread may sleep: while it builds a snapshot, for the disk's and the network's sake. A stop
/// of the store ends all pauses.
fn run_background(
    mut background: Background,
    queues: Arc<Queues>,
    stopping: Receiver<()>,
) -> JoinHandle<Option<Stopped>> {
    spawn("background", move || {
        let mut pause = |wait| {
            let _ = stopping.recv_timeout(wait);
        };
        while let Some(tasks) = queues.background.take(usize::MAX) {
            if tasks.iter().any(|task| matches!(task, BackgroundTask::Tick)) {
                queues.background_tick_waiting.store(false, Ordering::Relaxed);
            }
            queues.perform(|effects| background.round(tasks, &mut pause, effects));
        }
        None
    })
}

fn run_actor<T: Send + 'static>(
    name: &str,
    queues: Arc<Queues>,
    inbox: impl Fn(&Queues) -> &Inbox<T> + Send + 'static,
    mut round: impl FnMut(Vec<T>, &mut Effects) -> crate::Result<()> + Send + 'static,
) -> JoinHandle<Option<Stopped>> {
    spawn(name, move || {
        while let Some(messages) = inbox(&queues).take(usize::MAX) {
            queues.perform(|effects| round(messages, effects));
        }
        None
    })
}

impl Queues {
    /// Lets an actor take a batch and carries what it wants.
    fn perform(&self, turn: impl FnOnce(&mut Effects) -> crate::Result<()>) {
        let mut effects = Effects::default();
        if let Err(error) = turn(&mut effects) {
            fatal(&error.to_string());
        }
        self.carry(effects);
    }

    fn carry(&self, effects: Effects) {
        if !effects.send.is_empty() {
            self.transport.send(effects.send);
        }
        self.expect_persisted(&effects.log);
        push_all(&self.log, effects.log);
        effects.store.into_iter().for_each(|message| self.to_store_actor(message));
        push_all(&self.background, effects.background);
        let applier_of =
            |task: &ApplyMessage| self.environment.apply_worker_of(apply::region_of(task));
        for (applier, tasks) in
            self.appliers.iter().zip(parted(effects.apply, &self.appliers, applier_of))
        {
            push_all(applier, tasks);
        }
        self.to_owners(
            effects.persisted,
            |it: &Persisted| it.region_id,
            |owner, part| {
                let count = part.len();
                owner.push_expected(WorkerMessage::Persisted(part), count);
            },
        );
        self.to_owners(
            effects.applied,
            |it: &Applied| it.region_id,
            |owner, part| {
                // Clients are answered already; reads that wait for it wait for one write of the log at most.
                owner.push_patiently(WorkerMessage::Applied(part));
            },
        );
        for message in effects.workers {
            let region_id = worker::region_of(&message).expect("for one region");
            self.workers[self.environment.worker_of(region_id)].push([message]);
        }
        if !effects.reports.is_empty() {
            self.scheduler.report(effects.reports);
        }
        if !effects.split_asks.is_empty() {
            self.scheduler.ask_splits(effects.split_asks);
        }
    }

    /// Every task comes back to the worker that owns its region, as persisted.
    fn expect_persisted(&self, tasks: &[LogTask]) {
        for (number, worker) in self.workers.iter().enumerate() {
            let is_of_worker =
                |task: &&LogTask| self.environment.worker_of(task.region_id) == number;
            let count = tasks.iter().filter(is_of_worker).count();
            if count > 0 {
                worker.expect(count);
            }
        }
    }

    /// Results go to the workers that own their regions, in one message each.
    fn to_owners<T>(
        &self,
        results: Vec<T>,
        region_of: impl Fn(&T) -> RegionId,
        push: impl Fn(&Inbox<WorkerMessage>, Vec<T>),
    ) {
        let owner_of = |result: &T| self.environment.worker_of(region_of(result));
        for (worker, part) in self.workers.iter().zip(parted(results, &self.workers, owner_of)) {
            if !part.is_empty() {
                push(worker, part);
            }
        }
    }

    /// What comes from other stores and no replica has asked for is dropped if too much of it waits.
    fn to_store_actor(&self, message: StoreMessage) {
        match message {
            StoreMessage::Unknown(heard) => {
                let bytes = bytes_waiting(&heard);
                let refused =
                    self.store.offer(StoreMessage::Unknown(heard), bytes, Urgency::Urgent).is_err();
                self.count_dropped(usize::from(refused));
            }
            StoreMessage::Unpark(_) => self.store.push([message]),
        }
    }

    fn count_dropped(&self, count: usize) {
        Counters::add(&self.environment.counters.messages_dropped, count as u64);
    }

    fn tick(&self) {
        let passed = 1 + self.ticks.fetch_add(1, Ordering::Relaxed);
        if passed.is_multiple_of(background::TICKS)
            && !self.background_tick_waiting.swap(true, Ordering::Relaxed)
        {
            self.background.push([BackgroundTask::Tick]);
        }
        for (worker, waiting) in self.workers.iter().zip(&self.ticks_waiting) {
            if !waiting.swap(true, Ordering::Relaxed) {
                worker.push([WorkerMessage::Tick]);
            }
        }
    }

    fn close(&self) {
        self.workers.iter().for_each(Inbox::close);
        self.appliers.iter().for_each(Inbox::close);
        self.log.close();
        self.store.close();
        self.background.close();
    }
}

/// What a message from another store keeps in memory while it waits: what raft says is nearly all of it.
fn bytes_waiting(message: &RaftMessage) -> usize {
    message.message.len()
        + message.start_key.len()
        + message.end_key.len()
        + size_of::<RaftMessage>()
}

/// Messages by owner, so that each is woken once and to all that is for it. Empty if there are none.
fn parted<T, O>(messages: Vec<T>, owners: &[O], owner_of: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    if messages.is_empty() {
        return Vec::new();
    }
    let mut parts: Vec<Vec<T>> = owners.iter().map(|_| Vec::new()).collect();
    for message in messages {
        parts[owner_of(&message)].push(message);
    }
    parts
}

fn push_all<T>(inbox: &Inbox<T>, messages: Vec<T>) {
    if !messages.is_empty() {
        inbox.push(messages);
    }
}

impl StoreHandle {
    /// For a part of the store's outside, which the store holds.
    pub fn downgrade(&self) -> WeakStoreHandle {
        WeakStoreHandle { queues: Arc::downgrade(&self.queues) }
    }

    /// A client or the scheduler wants something. A full queue refuses it. Its bytes are those of its permit.
    pub fn command(&self, command: Command) {
        let owner = self.queues.environment.worker_of(command.context.region_id);
        // While entries are being written no other is; proposals that come meanwhile share the next one.
        let urgency = match command.kind {
            CommandKind::Write { .. } => Urgency::Patient,
            CommandKind::Read { .. } | CommandKind::Admin { .. } => Urgency::Urgent,
        };
        let message = WorkerMessage::Command(Box::new(command));
        let offered = self.queues.workers[owner].offer(message, 0, urgency);
        if let Err(WorkerMessage::Command(command)) = offered {
            worker::refuse(command.kind, Refusal::Busy("too many commands wait"));
        }
    }

    /// These have come from another store. A worker wakes once to all that is for it. What a full queue has no room
    /// for is dropped and counted: raft repeats.
    pub fn receive(&self, messages: impl IntoIterator<Item = RaftMessage>) {
        let Queues { environment, workers, .. } = &*self.queues;
        let mut parts: Vec<Vec<_>> = workers.iter().map(|_| Vec::new()).collect();
        for message in messages {
            if let Some(alive) = worker::alive(&message) {
                parts.iter_mut().for_each(|part| part.push((alive(), size_of::<WorkerMessage>())));
                continue;
            }
            let owner = environment.worker_of(RegionId::new(message.region_id));
            let bytes = bytes_waiting(&message);
            parts[owner].push((WorkerMessage::Raft(Box::new(message)), bytes));
        }
        for (worker, part) in workers.iter().zip(parts).filter(|(_, part)| !part.is_empty()) {
            self.queues.count_dropped(worker.offer_all(part));
        }
    }

    /// A message could not be sent.
    pub fn unreachable(&self, region_id: RegionId, to_peer: PeerId) {
        let owner = self.queues.environment.worker_of(region_id);
        let message = WorkerMessage::Unreachable { region_id, to_peer };
        let _ = self.queues.workers[owner].offer(message, 0, Urgency::Urgent);
    }

    /// A snapshot has reached another store, or has not.
    pub fn snapshot_sent(&self, region_id: RegionId, to_peer: PeerId, arrived: bool) {
        let owner = self.queues.environment.worker_of(region_id);
        let message = WorkerMessage::SnapshotSent { region_id, to_peer, arrived };
        self.queues.workers[owner].push([message]);
    }

    /// Reads on the caller's thread.
    pub fn reader(&self) -> LocalReader {
        let Environment { registry, engine, clock, .. } = &self.queues.environment;
        LocalReader::new(registry.clone(), engine.clone(), clock.clone())
    }

    /// From now on reads of transactions at other replicas are prepared by `guard`. Only the first call counts.
    pub fn guard_reads(&self, guard: Arc<dyn ReadGuard>) {
        let _ = self.queues.environment.read_guard.set(guard);
    }

    /// Looks for the middle of a region, to have it cut there.
    pub fn halve(&self, region: Arc<metapb::Region>) {
        let size = Estimate::default();
        self.queues.background.push([BackgroundTask::CheckSplit { region, halve: true, size }]);
    }

    /// Every region that is led from here is reported to the scheduler now, those that sleep too if `sleepers`.
    pub fn report(&self, sleepers: bool) {
        let report = || WorkerMessage::Report { sleepers };
        self.queues.workers.iter().for_each(|worker| worker.push([report()]));
    }

    /// Who is at which snapshot, and where their files lie.
    pub fn snapshots(&self) -> Arc<snapshot::Manager> {
        self.queues.environment.snapshots.clone()
    }

    /// Whether the bytes of a snapshot that another store offers are to be taken.
    pub fn judge_snapshot(&self, offered: &RaftMessage) -> crate::Result<Offer> {
        offered::judge(&self.queues.environment, offered)
    }

    /// What is being done with which snapshot at this moment.
    pub fn snapshot_activity(&self) -> Vec<(SnapshotId, Activity)> {
        self.queues.environment.snapshots.list()
    }

    /// How fast bytes of snapshots may be written, sent and received.
    pub fn snapshot_rates(&self) -> Arc<snapshot::RateLimits> {
        self.queues.environment.snapshot_rates.clone()
    }

    /// Lets the caller's thread wait, for [`StoreHandle::snapshot_rates`]; false if the store stops meanwhile.
    pub fn pause(&self, time: Duration) -> bool {
        time.is_zero() || self.queues.stopping.recv_timeout(time) == Err(RecvTimeoutError::Timeout)
    }

    /// What was read of replicas that follow, since the last time.
    pub fn take_follower_reads(&self) -> Extent {
        self.queues.environment.follower_reads.take()
    }

    /// What was done so far.
    pub fn counters(&self) -> Arc<Counters> {
        self.queues.environment.counters.clone()
    }

    /// The replica that leads a region here and its term, if it does.
    pub fn led(&self, region_id: RegionId) -> Option<(metapb::Peer, Term)> {
        let delegate = self.queues.environment.registry.get(region_id)?;
        Some((delegate.peer, Term::new(delegate.term)))
    }

    /// The regions here.
    pub fn regions(&self) -> Vec<Arc<metapb::Region>> {
        let meta = self.queues.environment.meta.lock().expect("no holder panics");
        meta.regions().cloned().collect()
    }
}

impl RunningStore {
    /// For those who use it.
    pub fn handle(&self) -> StoreHandle {
        self.handle.clone()
    }

    /// Ends the threads and answers everybody who waits.
    pub fn stop(self) {
        let RunningStore { handle, stop_ticking, threads } = self;
        drop(stop_ticking);
        let queues = handle.queues;
        queues.close();
        for thread in threads {
            match thread.join().expect("a panic ends the process") {
                Some(Stopped::Worker(mut worker)) => worker.stop(),
                Some(Stopped::Applier(mut applier)) => applier.stop(),
                None => {}
            }
        }
        queues.workers.iter().flat_map(Inbox::drain).for_each(worker::refuse_command);
        queues.appliers.iter().flat_map(Inbox::drain).for_each(apply::abandon);
    }
}
