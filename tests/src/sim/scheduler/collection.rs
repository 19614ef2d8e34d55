//! The scheduler's side of garbage collection in runs with transactions: the real rounds and marks, driven by the world
//! as the server drives them in production.

use skerry_proto::gcpb::{ReportRequest, ReportResponse};

use super::*;

impl Scheduler {
    /// Goes on with the round, or begins one if the safe point was raised.
    pub(in crate::sim) fn tend_collection(&mut self, now: Moment) {
        let reading = self.by_the_clock(now);
        let is_due = self.cluster.collection_is_due(reading);
        let drawn = if is_due { self.allocate(1, now) } else { None };
        self.decide(|cluster| cluster.collection_tick(drawn, reading));
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
        let reading = self.by_the_clock(now);
        let Decision { changes, .. } =
            self.cluster.collection_report(store, request.into(), reading).ok()?;
        self.install(changes);
        self.cluster.collection_order().ok().map(ReportResponse::from)
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
