//! Tells the scheduler that the store lives, how full it is and which regions it serves.
//!
//! One task for the life of the store:
//!
//! 1. after every silence of the scheduler, the store registers again (its address may be new, and the
//!    scheduler may be a new process) and opens a new stream for regions;
//! 2. on a fresh stream all regions are told at once, later on their tick, unless they sleep;
//! 3. the store is told on its own, shorter tick;
//! 4. what replicas report of themselves goes out as it comes, if the stream takes it: they report again;
//! 5. what the scheduler says on the stream is handed to whom it concerns.
//!
//! A scheduler that is away costs a log line when it goes and one when it is back; reads and writes go on. One
//! of another cluster is told nothing: it is an error that a person must look at.

use std::sync::Arc;
use std::time::Duration;

use skerry_proto::types::StoreId;
use skerry_proto::{metapb, pdpb};
use slog::{Logger, error, info, warn};
use tokio::sync::mpsc;

use super::scheduler_client::{Failure, Outcome, RegionHeartbeats, SchedulerClient};

/// What heartbeats say; asked for each time.
pub trait Vitals: Send + Sync {
    /// Capacity, use and load of the store.
    fn store_stats(&self) -> pdpb::StoreStats;
    /// One heartbeat for each region that reports only when it is asked, without header. Others are reminded to
    /// report: those that sleep only if there is a new stream, whose scheduler may know nothing of them.
    fn region_heartbeats(&self, is_new_stream: bool) -> Vec<pdpb::RegionHeartbeatRequest>;
    /// How the store makes itself known.
    fn registration(&self) -> Registration;
    /// The scheduler has answered a region's heartbeat.
    fn instructed(&self, answer: pdpb::RegionHeartbeatResponse);
}

/// How a store makes itself known.
#[derive(Clone, Debug)]
pub enum Registration {
    /// Alone in its cluster, which it begins with its first region.
    Alone(metapb::Store, Vec<metapb::Region>),
    /// One of several, in a cluster that has begun.
    Member(metapb::Store),
}

/// How often to tell what.
#[derive(Clone, Copy, Debug)]
pub struct Intervals {
    /// About the store.
    pub store: Duration,
    /// About its regions, when nothing has changed.
    pub region: Duration,
}

/// How a beat ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// The scheduler took it.
    Heard,
    /// Nobody answered.
    Alone,
    /// The scheduler said no: it serves another cluster, or another store, or has buried this one.
    Refused,
}

/// The task and what it remembers between ticks.
pub struct Heartbeats {
    scheduler: Arc<SchedulerClient>,
    vitals: Arc<dyn Vitals>,
    intervals: Intervals,
    logger: Logger,
    /// What replicas report; nothing more comes when it is closed.
    reports: mpsc::Receiver<pdpb::RegionHeartbeatRequest>,
    /// Open while the scheduler answers.
    stream: Option<RegionHeartbeats>,
    /// Time left until regions are told again.
    until_regions: Duration,
    /// How the last beat ended, so that only changes are logged.
    standing: Standing,
}

impl Heartbeats {
    /// Ready to [`run`](Heartbeats::run).
    pub fn new(
        scheduler: Arc<SchedulerClient>,
        vitals: Arc<dyn Vitals>,
        intervals: Intervals,
        reports: mpsc::Receiver<pdpb::RegionHeartbeatRequest>,
        logger: Logger,
    ) -> Heartbeats {
        let until_regions = Duration::ZERO;
        Heartbeats {
            scheduler,
            vitals,
            intervals,
            logger,
            reports,
            stream: None,
            until_regions,
            standing: Standing::Heard,
        }
    }

    /// Beats for ever; ended by dropping the future.
    pub async fn run(mut self) {
        let mut ticks = tokio::time::interval(self.intervals.store);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let told = self.tick().await;
                    self.note(told);
                }
                Some(report) = self.reports.recv() => self.forward(report),
            }
        }
    }

    /// Sends what a replica reports. Without a stream, or with a full one, it is dropped: the replica reports again.
    fn forward(&self, mut report: pdpb::RegionHeartbeatRequest) {
        report.header = self.scheduler.header();
        if let Some(stream) = &self.stream {
            stream.offer(report);
        }
    }

    /// One beat. The first tick after a silence registers and tells everything.
    async fn tick(&mut self) -> Outcome<()> {
        if self.stream.as_ref().is_none_or(RegionHeartbeats::is_closed) {
            self.stream = None;
            register(&self.scheduler, self.vitals.registration()).await?;
            let vitals = self.vitals.clone();
            let instructed = move |answer| vitals.instructed(answer);
            self.stream = Some(self.scheduler.region_heartbeats(instructed));
            self.tell_regions(true).await?;
            self.until_regions = self.intervals.region;
        } else if self.until_regions.is_zero() {
            self.tell_regions(false).await?;
            self.until_regions = self.intervals.region;
        }
        self.until_regions = self.until_regions.saturating_sub(self.intervals.store);
        self.scheduler.store_heartbeat(self.vitals.store_stats()).await
    }

    async fn tell_regions(&mut self, is_new_stream: bool) -> Outcome<()> {
        let Some(stream) = &self.stream else { return Ok(()) };
        for mut heartbeat in self.vitals.region_heartbeats(is_new_stream) {
            heartbeat.header = self.scheduler.header();
            if !stream.send(heartbeat).await {
                return Err(Failure::Unreachable(
                    "the stream of region heartbeats ended".to_string(),
                ));
            }
        }
        Ok(())
    }

    /// Says in the log what has changed since the last beat, and nothing else: a scheduler may be away for
    /// days.
    fn note(&mut self, told: Outcome<()>) {
        let standing = match &told {
            Ok(()) => Standing::Heard,
            Err(Failure::Unreachable(_)) => Standing::Alone,
            Err(Failure::Refused(_) | Failure::WrongCluster(_)) => Standing::Refused,
        };
        if standing != Standing::Heard {
            self.stream = None;
        }
        if std::mem::replace(&mut self.standing, standing) == standing {
            return;
        }
        match told {
            Ok(()) => info!(self.logger, "the scheduler answers again"),
            Err(Failure::Unreachable(reason)) => {
                warn!(self.logger, "the scheduler does not answer; serving without it";
                    "reason" => reason);
            }
            Err(refusal) => {
                error!(self.logger, "the scheduler refuses this store; serving without it";
                    "reason" => %refusal);
            }
        }
    }
}

/// Makes a store known. Repeating it changes nothing.
pub async fn register(scheduler: &SchedulerClient, registration: Registration) -> Outcome<()> {
    match registration {
        Registration::Alone(store, regions) => register_alone(scheduler, store, &regions).await,
        Registration::Member(store) => scheduler.put_store(store).await,
    }
}

/// The region that a cluster is born with holds every key; the regions that are really served are told by
/// their heartbeats. A cluster that was born with the region of another store is refused: both would take
/// themselves for the owner of every key.
async fn register_alone(
    scheduler: &SchedulerClient,
    store: metapb::Store,
    regions: &[metapb::Region],
) -> Outcome<()> {
    let mut first = regions.first().expect("a store has a region").clone();
    first.start_key.clear();
    first.end_key.clear();
    let (store_id, region_id) = (StoreId::new(store.id), first.id);
    if scheduler.bootstrap(store.clone(), first).await? {
        return Ok(());
    }
    let known = scheduler.region_by_id(region_id).await?.region;
    if known.is_none_or(|region| region.peer_on_store(store_id).is_none()) {
        let others = scheduler.stores().await?;
        let others = others.iter().filter(|other| other.id != store.id);
        let others: Vec<String> =
            others.map(|other| format!("store {} at {}", other.id, other.address)).collect();
        return Err(Failure::WrongCluster(format!(
            "the cluster of the scheduler at {} keeps its data on {} already; a standalone store is alone \
             in its cluster: give it a scheduler of its own",
            scheduler.addresses(),
            others.join(" and "),
        )));
    }
    scheduler.put_store(store).await
}

/// The heartbeat of a region that this store leads alone.
pub fn of_region(
    region: &metapb::Region,
    store_id: StoreId,
    size: u64,
) -> pdpb::RegionHeartbeatRequest {
    pdpb::RegionHeartbeatRequest {
        region: Some(region.clone()),
        leader: region.peer_on_store(store_id).copied(),
        // 0 would mean that the size is not known yet.
        approximate_size: size.max(1),
        ..Default::default()
    }
}
