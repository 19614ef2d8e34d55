//! The scheduler's side of garbage collection in runs with transactions: the real rounds and marks, driven by the world
//! as the server drives them in production.

use skerry_proto::gcpb::{ReportRequest, ReportResponse};
use skerry_scheduler::gc::Report;

use super::*;

impl Scheduler {
    /// Goes on with the round, or begins one if the safe point was raised.
    pub(in crate::sim) fn tend_collection(&mut self, now: Moment) {
        let reading = self.by_the_clock(now);
        self.decide(|cluster| cluster.collection_tick(reading));
    }

    /// Whoever drives collection wants everything up to `wanted` to go. It may have wanted more before.
    pub(in crate::sim) fn raise_txn_safe_point(&mut self, wanted: Ts, now: Moment) {
        let raised = self.cluster.advance_txn_safe_point(wanted.get(), self.by_the_clock(now));
        if let Ok(Decision { changes, .. }) = raised {
            self.install(changes);
        }
    }

    /// What a store says, and what it is told.
    pub(in crate::sim) fn collection_report(
        &mut self,
        request: ReportRequest,
        now: Moment,
    ) -> Option<ReportResponse> {
        let store = StoreId::new(request.store_id);
        let free = request.free_of_locks.into_iter();
        let report = Report {
            kept: request.kept,
            resolved_to: request.resolved_to,
            free: free.map(|range| (range.start_key, range.end_key)).collect(),
            collecting_to: request.collecting_to,
            regions: request.regions,
            regions_left: request.regions_left,
            dropped: request.records_dropped,
            obstacle: request.obstacle,
        };
        let reading = self.by_the_clock(now);
        let Decision { changes, .. } =
            self.cluster.collection_report(store, report, reading).ok()?;
        self.install(changes);
        let order = self.cluster.collection_order().ok()?;
        Some(ReportResponse {
            header: None,
            safe_point: order.safe_point,
            lease_ms: u64::try_from(order.lease.as_millis()).unwrap_or(u64::MAX),
            resolve_to: order.resolve_to,
            collect_to: order.collect_to,
        })
    }

    /// Versions below it may be gone.
    pub(in crate::sim) fn safe_point(&self) -> Ts {
        Ts::from(self.cluster.safe_point().expect("the cluster is bootstrapped"))
    }

    /// How far the last round went that has ended in this life.
    pub(in crate::sim) fn finished_round(&self) -> Ts {
        let look = self.cluster.collection_look(Reading::default());
        let last = look.expect("the cluster is bootstrapped").last;
        last.map_or(Ts::ZERO, |finished| Ts::from(finished.safe_point))
    }
}
