//! What stores say and are told, in the form in which it travels (`gcpb.Gc`). Whoever carries it uses this: the
//! service, the library in one process, the simulator.

use skerry_proto::gcpb::{ReportRequest, ReportResponse};

use super::{Order, Report};

impl From<ReportRequest> for Report {
    /// Whose report it is, is not part of it.
    fn from(request: ReportRequest) -> Report {
        let free = request.free_of_locks.into_iter();
        Report {
            kept: request.kept,
            resolved_to: request.resolved_to,
            free: free.map(|range| (range.start_key, range.end_key)).collect(),
            collecting_to: request.collecting_to,
            regions: request.regions,
            regions_left: request.regions_left,
            dropped: request.records_dropped,
            obstacle: request.obstacle,
        }
    }
}

impl From<Order> for ReportResponse {
    /// The header is its carrier's.
    fn from(order: Order) -> ReportResponse {
        ReportResponse {
            header: None,
            safe_point: order.safe_point,
            lease_ms: u64::try_from(order.lease.as_millis()).unwrap_or(u64::MAX),
            resolve_to: order.resolve_to,
            collect_to: order.collect_to,
        }
    }
}
