//! Drops the old versions of a region, piece by piece, at the pace that the caller allows.
//!
//! 1. A look at the region, on the read pool, finds some keys with garbage ([`CollectRegion`]).
//! 2. A command drops what is theirs: decided under their latches, written through raft like any other write, as many
//!    times as it takes ([`CollectGarbage`](crate::txn::garbage::CollectGarbage)).
//! 3. Between them the caller is told how many bytes were read and written, and may let time pass.
//!
//! A region that is cut or led by another meanwhile ends it with an error, and nothing is lost: what is dropped is
//! dropped, and whoever leads it goes on.

use std::future::Future;

use skerry_proto::types::Ts;

use crate::storage::RequestContext;
use crate::txn::TxnStore;
use crate::txn::error::Result;
use crate::txn::garbage::CollectRegion;
use crate::txn::planted::Planted;

/// Room that one command asks for.
const STEP_BYTES: usize = 64 << 10;

/// Drops what no read at or above `safe_point` sees; answers how many records. `pace` is told of bytes that were read
/// or written, and is waited for.
pub async fn collect_region<P, F>(
    store: &TxnStore,
    context: &RequestContext,
    safe_point: Ts,
    pace: P,
) -> Result<u64>
where
    P: Fn(u64) -> F,
    F: Future<Output = ()>,
{
    let kept = store.safe_points().kept();
    assert!(safe_point <= kept, "garbage collection up to {safe_point}, and reads from {kept} on");
    let safe_point = match store.has(Planted::CollectAboveSafePoint) {
        true => safe_point.max(store.max_ts()),
        false => safe_point,
    };
    let (mut steps, mut dropped) = (CollectRegion::new(safe_point), 0);
    loop {
        let (looked, command) = store.next_step(context, steps).await?;
        steps = looked;
        pace(steps.take_bytes()).await;
        let Some(mut command) = command else { return Ok(dropped) };
        if command.keys.is_empty() {
            continue;
        }
        loop {
            let permit = store.permits().acquire(STEP_BYTES).await;
            let collected = store.write(context, &command, permit).await?;
            dropped += collected.records as u64;
            pace(collected.bytes as u64).await;
            if collected.left.is_none() {
                break;
            }
            command.from = collected.left;
        }
    }
}
