//! Splitting and spreading regions on request, and what is being done about one: the longer halves of these calls of
//! `placement.rs`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use skerry_proto::pdpb::{GetOperatorResponse, OperatorStatus, ResponseHeader};
use skerry_proto::types::RegionId;

use super::Shared;
use crate::cluster::Cluster;
use crate::cluster::scatter::Several;
use crate::operator::Ending;
use crate::{Error, Result};

/// Between two looks at whether regions have been cut.
const SPLIT_PAUSE: Duration = Duration::from_millis(100);

/// How often it is looked at least, and at most, whatever the client says.
const SPLIT_LOOKS_MIN: u64 = 10;
const SPLIT_LOOKS_MAX: u64 = 100;

/// Cuts regions at keys and waits for it, for some seconds.
pub(crate) async fn split(shared: &Arc<Shared>, keys: &[Bytes], looks: u64) -> Result<Several> {
    let mut left = looks.clamp(SPLIT_LOOKS_MIN, SPLIT_LOOKS_MAX);
    loop {
        let several = shared.decide(|cluster, now| cluster.split_at(keys, now)).await?;
        shared.tell_news();
        left -= 1;
        if several.failed.is_empty() || left == 0 {
            return Ok(several);
        }
        tokio::time::sleep(SPLIT_PAUSE).await;
    }
}

/// Begins to spread regions of a group.
pub(crate) async fn scatter(
    shared: &Arc<Shared>,
    group: &str,
    regions: &[RegionId],
) -> Result<Several> {
    let several = shared.decide(|cluster, now| cluster.scatter(group, regions, now)).await?;
    shared.tell_news();
    Ok(several)
}

/// What is being done about a region, or was done last.
pub(super) fn operator(
    cluster: &Cluster,
    region: RegionId,
    header: Option<ResponseHeader>,
) -> Result<GetOperatorResponse> {
    let running = cluster.operator(region)?.map(|it| (it.clone(), OperatorStatus::Running));
    let ended = || {
        let mut ended = cluster.ended_operators().ok()?;
        let last = ended.find(|ended| ended.operator.region == region)?;
        let status = match last.ending {
            Ending::Done => OperatorStatus::Success,
            Ending::TimedOut(_) => OperatorStatus::Timeout,
            Ending::Cancelled(_) => OperatorStatus::Cancel,
            Ending::Replaced => OperatorStatus::Replace,
        };
        Some((last.operator.clone(), status))
    };
    let known = running.or_else(ended).ok_or(Error::NoOperator(region.get()))?;
    let (operator, status) = known;
    Ok(GetOperatorResponse {
        header,
        region_id: region.get(),
        desc: operator.name.into(),
        status: status.into(),
        kind: operator.kind.name().into(),
    })
}
