//! `/gc`: the safe points and what holds them back, as PD lists it and as people want it; beginning a round, putting up
//! barriers and taking them away.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use skerry_proto::types::StoreId;

use super::input::{parsed, refused};
use super::text::hexadecimal;
use super::{Answer, Api};
use crate::gc::round::Standing;
use crate::gc::{Barrier, BarrierName};
use crate::moment::Moment;

pub(super) fn router() -> Router<Api> {
    Router::new()
        .route("/gc/safepoint", get(safe_point))
        .route("/gc/safepoint/{service}", delete(remove))
        .route("/gc/status", get(status))
        .route("/gc/run", post(run))
        .route("/gc/barrier/{name}", post(put_up).delete(remove))
}

/// As PD lists it: services are barriers.
async fn safe_point(State(api): State<Api>) -> Answer<Value> {
    let now = api.shared.now();
    let marks = api.shared.cluster().marks()?.clone();
    let service = |(name, barrier): (&BarrierName, &Barrier)| {
        let expired_at = barrier.expires_ms.map_or(i64::MAX.unsigned_abs(), |ms| ms / 1_000);
        json!({ "service_id": name.name, "expired_at": expired_at, "safe_point": barrier.ts })
    };
    let lowest = marks.lowest(now.wall_ms).map_or(marks.txn(), |(_, barrier)| barrier.ts);
    Ok(Json(json!({
        "service_gc_safe_points": marks.barriers(now.wall_ms).map(service).collect::<Vec<_>>(),
        "min_service_gc_safe_point": lowest,
        "gc_safe_point": marks.gc(),
    })))
}

async fn status(State(api): State<Api>) -> Answer<Value> {
    let now = api.shared.now();
    let look = api.shared.cluster().collection_look(now)?;
    let barrier = |(name, barrier): (&BarrierName, &Barrier)| {
        let left = barrier.expires_ms.map(|_| barrier.seconds_left(now.wall_ms));
        json!({
            "name": name.name, "global": name.is_global, "ts": barrier.ts, "seconds_left": left,
        })
    };
    let last = look.last.map(|last| {
        json!({
            "safe_point": last.safe_point,
            "took_ms": last.took.as_millis() as u64,
            "ended_seconds_ago": now.wall_ms.saturating_sub(last.wall_ms) / 1_000,
        })
    });
    let stores = look.stores.iter().map(|(id, standing)| store(*id, standing, now));
    Ok(Json(json!({
        "phase": look.phase.name(),
        "round_safe_point": look.target,
        "round_age_ms": look.age.as_millis() as u64,
        "txn_safe_point": look.marks.txn(),
        "gc_safe_point": look.marks.gc(),
        "life_time_ms": look.habit.life_time.as_millis() as u64,
        "interval_ms": look.habit.interval.as_millis() as u64,
        "held_back_by": look.obstacle,
        "first_unresolved_key": look.unresolved.map(|key| hexadecimal(&key)),
        "barriers": look.marks.barriers(now.wall_ms).map(barrier).collect::<Vec<_>>(),
        "last_round": last,
        "stores": stores.collect::<Vec<_>>(),
    })))
}

fn store(id: StoreId, standing: &Standing, now: Moment) -> Value {
    let report = &standing.report;
    json!({
        "store_id": id.get(),
        "keeps": report.kept,
        "collecting_to": report.collecting_to,
        "regions": report.regions,
        "regions_left": report.regions_left,
        "records_dropped": report.dropped,
        "obstacle": report.obstacle,
        "silent_ms": now.since(standing.at).as_millis() as u64,
    })
}

/// Begins a round as soon as none is under way, without waiting for the interval to pass.
async fn run(State(api): State<Api>) -> Answer<&'static str> {
    api.shared.cluster().want_collection()?;
    Ok(Json("a round of garbage collection begins"))
}

#[derive(Deserialize)]
struct Wanted {
    /// The oldest timestamp that is needed.
    ts: u64,
    /// For how long; for ever if it is not said.
    ttl_seconds: Option<i64>,
}

async fn put_up(
    State(api): State<Api>,
    Path(name): Path<String>,
    body: Bytes,
) -> Answer<&'static str> {
    let Wanted { ts, ttl_seconds } = parsed(&body)?;
    let (name, ttl) = (BarrierName::of(&name), ttl_seconds.unwrap_or(i64::MAX));
    api.shared.decide(|cluster, now| cluster.set_barrier(name, ts, ttl, now)).await?;
    Ok(Json("the barrier stands"))
}

async fn remove(State(api): State<Api>, Path(name): Path<String>) -> Answer<&'static str> {
    for is_global in [false, true] {
        let barrier = BarrierName { is_global, name: name.clone() };
        let gone = api.shared.decide(|cluster, now| cluster.delete_barrier(barrier, now)).await?;
        if gone.is_some() {
            return Ok(Json("the barrier is gone"));
        }
    }
    Err(refused(format!("there is no barrier {name:?}")))
}
