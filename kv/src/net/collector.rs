//! The task by which a store takes part in garbage collection ([`crate::gc`]).
//!
//! It does two things at a time:
//!
//! * **It asks** the scheduler, every few seconds and as soon as there is something to tell: what it keeps, which
//!   ranges are free of locks, how far it is with collecting. The answer says up to where to keep, resolve and collect.
//! * **It works** on the regions that it leads, pass after pass ([`Part`]), within a limit of bytes a second.
//!
//! A scheduler that does not know the service is a PD whose cluster has a driver of its own, a client that resolves
//! locks before it raises the safe point: then the store asks for that, keeps it and collects up to it.

use std::sync::Arc;
use std::time::Duration;

use skerry_proto::gcpb::{ReportRequest, ReportResponse};
use skerry_proto::types::{RegionId, StoreId};
use skerry_raftstore::snapshot::RateLimit;
use skerry_raftstore::time::{Clock, SystemClock};
use slog::{Logger, debug, info};
use tokio::sync::Notify;

use super::scheduler_client::{Outcome, SchedulerClient};
use crate::gc::GcConfig;
use crate::gc::part::{Means, Part};
use crate::gc::resolve::Elsewhere;
use crate::storage::Storage;
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
    part: Part,
    poll_interval: Duration,
    rate: RateLimit,
    /// There is something to tell.
    news: Arc<Notify>,
    /// There is something to do.
    orders: Notify,
    logger: Logger,
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
        let led = move || {
            let mut regions = storage.regions();
            regions.retain(|region| leads(region.region_id()));
            regions
        };
        let news = Arc::new(Notify::new());
        let told = Arc::clone(&news);
        let means = Means {
            store_id,
            txn,
            led: Box::new(led),
            elsewhere,
            news: Box::new(move || told.notify_one()),
        };
        Collector {
            scheduler,
            part: Part::new(means),
            poll_interval: Duration::from_millis(config.poll_interval_ms),
            rate: RateLimit::new(Arc::new(SystemClock), config.io_rate.0),
            news,
            orders: Notify::new(),
            logger,
        }
    }

    /// Asks and works for ever; ended by dropping the future.
    pub async fn run(self) {
        tokio::join!(self.ask(), self.work());
    }

    async fn ask(&self) {
        loop {
            let request = ReportRequest { header: self.scheduler.header(), ..self.part.report() };
            let asked_at = SystemClock.monotonic();
            let pause = match self.exchange(&request, asked_at).await {
                Ok(()) if self.part.kept() == request.kept => self.poll_interval,
                Ok(()) => SOON,
                Err(failure) => {
                    debug!(self.logger, "no news of garbage collection"; "reason" => %failure);
                    self.part.unheard();
                    SOON
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.news.notified() => tokio::time::sleep(SOON.min(pause)).await,
            }
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
        if self.part.heard(order, asked_at, lease) {
            self.orders.notify_one();
        }
        Ok(())
    }

    async fn work(&self) {
        loop {
            let pace = |bytes| tokio::time::sleep(self.rate.take(bytes));
            let dropped = self.part.pass(pace).await;
            if dropped > 0 {
                info!(self.logger, "old versions are dropped"; "records" => dropped);
            }
            tokio::select! {
                () = tokio::time::sleep(PASS_PAUSE) => {}
                () = self.orders.notified() => {}
            }
        }
    }
}
