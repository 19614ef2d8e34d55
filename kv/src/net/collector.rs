//! The task by which a store takes part in garbage collection ([`crate::gc`]).
//!
//! It does two things at a time:
//!
//! * **It asks** the scheduler, every few seconds and as soon as there is something to tell: what it keeps, which
//!   ranges are free of locks, how far it is with collecting. The answer says up to where to keep, resolve and collect.
//! * **It works** on the regions that it leads, one after the other: first locks, then old versions, these within a
//!   limit of bytes a second. What cannot be done now (a split, an election, a store that is away) is tried again in
//!   the next pass; what was in the way is told.
//!
//! A scheduler that does not know the service is a PD whose cluster has a driver of its own, a client that resolves
//! locks before it raises the safe point: then the store asks for that, keeps it and collects up to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use skerry_proto::gcpb::{KeyRange, ReportRequest, ReportResponse};
use skerry_proto::metapb;
use skerry_proto::types::{RegionId, StoreId, Ts};
use skerry_raftstore::snapshot::RateLimit;
use skerry_raftstore::time::{Clock, SystemClock};
use slog::{Logger, debug, info};
use tokio::sync::Notify;

use super::scheduler_client::{Outcome, SchedulerClient};
use crate::gc::GcConfig;
use crate::gc::collect::collect_region;
use crate::gc::resolve::{Elsewhere, free_region};
use crate::storage::{RequestContext, Storage};
use crate::txn::TxnStore;

/// Between two questions while there is something to tell, or the scheduler is awaited.
const SOON: Duration = Duration::from_millis(100);
/// Between two passes over the regions while something could not be done, or others may lead them.
const PASS_PAUSE: Duration = Duration::from_millis(500);

/// Whether this store leads a region.
pub type Leads = Box<dyn Fn(RegionId) -> bool + Send + Sync>;

/// See the module.
pub struct Collector {
    scheduler: Arc<SchedulerClient>,
    store_id: StoreId,
    txn: Arc<TxnStore>,
    storage: Arc<dyn Storage>,
    leads: Leads,
    elsewhere: Arc<dyn Elsewhere>,
    poll_interval: Duration,
    rate: RateLimit,
    /// Nothing is awaited under it.
    progress: Mutex<Progress>,
    /// There is something to tell.
    news: Notify,
    /// There is something to do.
    orders: Notify,
    logger: Logger,
}

/// What a store does is known by region and version: a region that was cut is another one.
type Known = BTreeMap<(u64, u64), u64>;

#[derive(Default)]
struct Progress {
    /// What the scheduler said last.
    order: ReportResponse,
    /// Regions that are free of locks, up to where.
    resolved: Known,
    /// Free of locks up to `resolved_to`, and not told yet.
    free: Vec<KeyRange>,
    resolved_to: u64,
    /// Up to where all regions were looked at for locks, with or without success.
    tried: u64,
    /// Regions that were collected, up to where.
    collected: Known,
    collecting_to: u64,
    regions: u64,
    regions_left: u64,
    dropped: u64,
    obstacle: String,
}

/// What a collector works with.
pub struct CollectorParts {
    /// Who arranges it.
    pub scheduler: Arc<SchedulerClient>,
    /// Whose part it is.
    pub store_id: StoreId,
    /// Runs commands.
    pub txn: Arc<TxnStore>,
    /// Knows the regions.
    pub storage: Arc<dyn Storage>,
    /// Knows which are led here.
    pub leads: Leads,
    /// Where primary keys are asked.
    pub elsewhere: Arc<dyn Elsewhere>,
    /// How often to ask, how much to do.
    pub config: GcConfig,
    /// Where it says what it did.
    pub logger: Logger,
}

impl Collector {
    /// Ready to [`run`](Collector::run).
    pub fn new(parts: CollectorParts) -> Collector {
        let CollectorParts { scheduler, store_id, txn, storage, leads, elsewhere, config, logger } =
            parts;
        Collector {
            scheduler,
            store_id,
            txn,
            storage,
            leads,
            elsewhere,
            poll_interval: Duration::from_millis(config.poll_interval_ms),
            rate: RateLimit::new(Arc::new(SystemClock), config.io_rate.0),
            progress: Mutex::default(),
            news: Notify::new(),
            orders: Notify::new(),
            logger,
        }
    }

    /// Asks and works for ever; ended by dropping the future.
    pub async fn run(self) {
        tokio::join!(self.ask(), self.work());
    }

    // ---- Asking.

    async fn ask(&self) {
        loop {
            let request = self.report();
            let asked_at = SystemClock.monotonic();
            let pause = match self.exchange(&request, asked_at).await {
                Ok(()) if self.txn.safe_points().kept().get() == request.kept => self.poll_interval,
                Ok(()) => SOON,
                Err(failure) => {
                    debug!(self.logger, "no news of garbage collection"; "reason" => %failure);
                    // What was told may be lost. It is cheap to find out again.
                    let mut progress = self.progress();
                    progress.resolved.clear();
                    progress.tried = 0;
                    SOON
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.news.notified() => tokio::time::sleep(SOON.min(pause)).await,
            }
        }
    }

    fn report(&self) -> ReportRequest {
        let mut progress = self.progress();
        ReportRequest {
            header: self.scheduler.header(),
            store_id: self.store_id.get(),
            kept: self.txn.safe_points().kept().get(),
            resolved_to: progress.resolved_to,
            free_of_locks: std::mem::take(&mut progress.free),
            collecting_to: progress.collecting_to,
            regions: progress.regions,
            regions_left: progress.regions_left,
            records_dropped: progress.dropped,
            obstacle: progress.obstacle.clone(),
        }
    }

    async fn exchange(&self, request: &ReportRequest, asked_at: Duration) -> Outcome<()> {
        let (order, lease) = match self.scheduler.report_collection(request).await? {
            Some(order) => (order.clone(), Some(Duration::from_millis(order.lease_ms))),
            None => {
                let safe_point = self.scheduler.gc_safe_point().await?;
                let collect_to = safe_point;
                (ReportResponse { safe_point, collect_to, ..Default::default() }, None)
            }
        };
        self.txn.safe_points().hear(Ts::from(order.safe_point), asked_at, lease);
        let mut progress = self.progress();
        if progress.order.resolve_to != order.resolve_to {
            // A scheduler that was started again has forgotten what it was told.
            progress.resolved.clear();
            (progress.resolved_to, progress.free) = (order.resolve_to, Vec::new());
            progress.tried = 0;
        }
        let is_new = progress.order.resolve_to != order.resolve_to
            || progress.order.collect_to != order.collect_to;
        progress.order = order;
        if is_new {
            self.orders.notify_one();
        }
        Ok(())
    }

    // ---- Working.

    async fn work(&self) {
        loop {
            let order = self.progress().order.clone();
            let kept = self.txn.safe_points().kept().get();
            let mut obstacle = String::new();
            if order.resolve_to > 0 && order.resolve_to <= kept {
                self.resolve(order.resolve_to, &mut obstacle).await;
            }
            if order.collect_to > 0 && order.collect_to <= kept {
                self.collect(order.collect_to, &mut obstacle).await;
            }
            self.progress().obstacle = obstacle;
            tokio::select! {
                () = tokio::time::sleep(PASS_PAUSE) => {}
                () = self.orders.notified() => {}
            }
        }
    }

    /// Frees the regions of locks that are not known to be.
    async fn resolve(&self, up_to: u64, obstacle: &mut String) {
        for region in self.led() {
            let known = known_by(&region);
            if self.progress().resolved.get(&known) == Some(&up_to) {
                continue;
            }
            let context = self.context(&region);
            let freed = free_region(&self.txn, &context, Ts::from(up_to), &*self.elsewhere).await;
            let mut progress = self.progress();
            match freed {
                Ok(()) => {
                    progress.resolved.insert(known, up_to);
                    if progress.resolved_to == up_to {
                        let (start_key, end_key) =
                            (region.start_key.clone(), region.end_key.clone());
                        progress.free.push(KeyRange { start_key, end_key });
                        self.news.notify_one();
                    }
                }
                Err(error) => *obstacle = format!("locks of region {}: {error}", region.id),
            }
        }
        self.progress().tried = up_to;
    }

    /// Collects what is left of the regions, until there are other locks to resolve.
    async fn collect(&self, up_to: u64, obstacle: &mut String) {
        for region in self.uncollected(up_to) {
            let order = self.progress().order.resolve_to;
            if order > self.progress().tried {
                return;
            }
            let context = self.context(&region);
            let pace = |bytes| tokio::time::sleep(self.rate.take(bytes));
            match collect_region(&self.txn, &context, Ts::from(up_to), pace).await {
                Ok(dropped) => {
                    let mut progress = self.progress();
                    progress.collected.insert(known_by(&region), up_to);
                    progress.dropped += dropped;
                    progress.regions_left -= 1;
                    if progress.regions_left == 0 {
                        self.news.notify_one();
                    }
                    if dropped > 0 {
                        info!(self.logger, "old versions are dropped";
                            "region" => region.id, "records" => dropped);
                    }
                }
                Err(error) => *obstacle = format!("garbage of region {}: {error}", region.id),
            }
        }
    }

    /// The regions that are left, which are counted for whoever asks how far it is.
    fn uncollected(&self, up_to: u64) -> Vec<Arc<metapb::Region>> {
        let mut led = self.led();
        let present: BTreeSet<(u64, u64)> = led.iter().map(|region| known_by(region)).collect();
        let mut progress = self.progress();
        // What is led elsewhere now, or was cut, is forgotten.
        progress.collected.retain(|known, _| present.contains(known));
        progress.resolved.retain(|known, _| present.contains(known));
        led.retain(|region| progress.collected.get(&known_by(region)) != Some(&up_to));
        let before = (progress.collecting_to, progress.regions_left);
        progress.regions = present.len() as u64;
        (progress.collecting_to, progress.regions_left) = (up_to, led.len() as u64);
        if led.is_empty() && before != (up_to, 0) {
            self.news.notify_one();
        }
        led
    }

    fn led(&self) -> Vec<Arc<metapb::Region>> {
        let mut regions = self.storage.regions();
        regions.retain(|region| (self.leads)(region.region_id()));
        regions
    }

    /// As a client would name the region. What has changed since is refused.
    fn context(&self, region: &metapb::Region) -> RequestContext {
        let peer = region.peer_on_store(self.store_id).copied().unwrap_or_default();
        RequestContext {
            region_id: region.region_id(),
            epoch: region.epoch(),
            peer_id: peer.peer_id(),
            store_id: self.store_id,
            term: None,
            api_version: self.txn.keys().version.to_wire(),
            replica_read: false,
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().expect("nothing panics while it holds this lock")
    }
}

fn known_by(region: &metapb::Region) -> (u64, u64) {
    (region.id, region.epoch().version)
}
