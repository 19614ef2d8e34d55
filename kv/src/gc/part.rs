//! What a store has done of a round and what it is to do next, whoever turns it.
//!
//! 1. [`Part::report`] is what the scheduler is told, [`Part::heard`] what it answers; what may not have arrived is
//!    done again ([`Part::unheard`]).
//! 2. [`Part::pass`] goes over the regions that the store leads, one after the other: first locks
//!    ([`super::resolve`]), then old versions ([`super::collect`]), at the pace of its caller. What cannot be done
//!    now (a split, an election, a store that is away) is for the next pass; what was in the way is told.
//!
//! What it does not do: it has no clock and no connection. The task at the edge ([`crate::net::collector`]) has them;
//! in a test the simulator does.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use skerry_proto::gcpb::{KeyRange, ReportRequest, ReportResponse};
use skerry_proto::metapb;
use skerry_proto::types::{StoreId, Ts};

use super::collect::collect_region;
use super::resolve::{Elsewhere, free_region};
use crate::storage::RequestContext;
use crate::txn::TxnStore;

/// What a store's part needs of the store.
pub struct Means {
    /// Whose part it is.
    pub store_id: StoreId,
    /// Runs commands.
    pub txn: Arc<TxnStore>,
    /// The regions that the store leads now.
    pub led: Box<dyn Fn() -> Vec<Arc<metapb::Region>> + Send + Sync>,
    /// Where primary keys are asked.
    pub elsewhere: Arc<dyn Elsewhere>,
    /// Called when there is something to tell the scheduler.
    pub news: Box<dyn Fn() + Send + Sync>,
}

/// See the module. One for a store.
pub struct Part {
    means: Means,
    /// Nothing is awaited under it.
    progress: Mutex<Progress>,
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

impl Part {
    /// Nothing is done yet.
    pub fn new(means: Means) -> Part {
        Part { means, progress: Mutex::default() }
    }

    /// What is to be told now. The header is the caller's.
    pub fn report(&self) -> ReportRequest {
        let mut progress = self.progress();
        ReportRequest {
            header: None,
            store_id: self.means.store_id.get(),
            kept: self.kept(),
            resolved_to: progress.resolved_to,
            free_of_locks: std::mem::take(&mut progress.free),
            collecting_to: progress.collecting_to,
            regions: progress.regions,
            regions_left: progress.regions_left,
            records_dropped: progress.dropped,
            obstacle: progress.obstacle.clone(),
        }
    }

    /// The safe point below which nothing is under way here.
    pub fn kept(&self) -> u64 {
        self.means.txn.safe_points().kept().get()
    }

    /// Takes an order, to be relied upon for so long from `asked_at` on; without a lease, for ever. Answers whether
    /// there is other work than before.
    pub fn heard(
        &self,
        order: ReportResponse,
        asked_at: Duration,
        lease: Option<Duration>,
    ) -> bool {
        self.means.txn.safe_points().hear(Ts::from(order.safe_point), asked_at, lease);
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
        is_new
    }

    /// What was told may be lost. It is cheap to find out again.
    pub fn unheard(&self) {
        let mut progress = self.progress();
        progress.resolved.clear();
        progress.tried = 0;
    }

    /// Does what is ordered, once for every region. Answers how many records were dropped. `pace` is told of bytes that
    /// were read or written for old versions, and is waited for.
    pub async fn pass<P, F>(&self, pace: P) -> u64
    where
        P: Fn(u64) -> F,
        F: Future<Output = ()>,
    {
        let order = self.progress().order.clone();
        let (kept, mut obstacle, mut dropped) = (self.kept(), String::new(), 0);
        if order.resolve_to > 0 && order.resolve_to <= kept {
            self.resolve(order.resolve_to, &mut obstacle).await;
        }
        if order.collect_to > 0 && order.collect_to <= kept {
            dropped = self.collect(order.collect_to, &mut obstacle, pace).await;
        }
        self.progress().obstacle = obstacle;
        dropped
    }

    /// Frees the regions of locks that are not known to be.
    async fn resolve(&self, up_to: u64, obstacle: &mut String) {
        let Means { txn, elsewhere, .. } = &self.means;
        for region in (self.means.led)() {
            let known = known_by(&region);
            if self.progress().resolved.get(&known) == Some(&up_to) {
                continue;
            }
            let context = self.context(&region);
            let freed = free_region(txn, &context, Ts::from(up_to), &**elsewhere).await;
            let mut progress = self.progress();
            match freed {
                Ok(()) => {
                    progress.resolved.insert(known, up_to);
                    if progress.resolved_to == up_to {
                        let (start_key, end_key) =
                            (region.start_key.clone(), region.end_key.clone());
                        progress.free.push(KeyRange { start_key, end_key });
                        (self.means.news)();
                    }
                }
                Err(error) => *obstacle = format!("locks of region {}: {error}", region.id),
            }
        }
        self.progress().tried = up_to;
    }

    /// Collects what is left of the regions, until there are other locks to resolve.
    async fn collect<P, F>(&self, up_to: u64, obstacle: &mut String, pace: P) -> u64
    where
        P: Fn(u64) -> F,
        F: Future<Output = ()>,
    {
        let mut total = 0;
        for region in self.uncollected(up_to) {
            let order = self.progress().order.resolve_to;
            if order > self.progress().tried {
                break;
            }
            let context = self.context(&region);
            match collect_region(&self.means.txn, &context, Ts::from(up_to), &pace).await {
                Ok(dropped) => {
                    total += dropped;
                    let mut progress = self.progress();
                    progress.collected.insert(known_by(&region), up_to);
                    progress.dropped += dropped;
                    progress.regions_left -= 1;
                    if progress.regions_left == 0 {
                        (self.means.news)();
                    }
                }
                Err(error) => *obstacle = format!("garbage of region {}: {error}", region.id),
            }
        }
        total
    }

    /// The regions that are left, which are counted for whoever asks how far it is.
    fn uncollected(&self, up_to: u64) -> Vec<Arc<metapb::Region>> {
        let mut led = (self.means.led)();
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
            (self.means.news)();
        }
        led
    }

    fn context(&self, region: &metapb::Region) -> RequestContext {
        let Means { store_id, txn, .. } = &self.means;
        RequestContext::inside(region, *store_id, txn.keys().version)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().expect("nothing panics while it holds this lock")
    }
}

fn known_by(region: &metapb::Region) -> (u64, u64) {
    (region.id, region.epoch().version)
}
