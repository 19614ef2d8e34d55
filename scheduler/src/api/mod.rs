//! The JSON interface: HTTP/1.1 (or 2) under `/pd/api/v1` on the port of the gRPC services, for people,
//! scripts and the tools of clients.
//!
//! 1. A request is read by the module of its first word ([`regions`], [`stores`], [`operators`], [`schedulers`],
//!    [`settings`], [`statistics`], [`gc`]; the scheduler itself is here) and checked ([`input`]).
//! 2. What only looks asks the cluster; what changes something is a decision like one of gRPC: checked by the cluster,
//!    durable, then answered.
//! 3. Answers are [`shapes`] or sentences. A refusal says in a sentence what is wrong, and nothing has changed.
//!
//! * Paths and shapes are those that existing tools expect; numbers of keys in hexadecimal are upper case.
//! * HEAD on a path that has GET is 405: readiness probes of clients count on it.
//! * What no path matches is 404 in JSON, or UNIMPLEMENTED if the caller speaks gRPC.
//!
//! **Invariant.** Nothing is formatted under the cluster's mutex but sentences, and lists of regions not on a thread
//! that serves connections.

mod gc;
mod input;
mod operators;
mod regions;
mod schedulers;
mod settings;
mod shapes;
mod statistics;
mod stores;
mod text;

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use skerry_proto::pdpb::Member;

use self::shapes::MemberShape;
use self::text::calendar;
use crate::Error;
use crate::server::{COMPATIBLE_VERSION, Shared};

/// Where everything is.
const PREFIX: &str = "/pd/api/v1";

/// What handlers share.
#[derive(Clone)]
struct Api {
    shared: Arc<Shared>,
    member: Arc<Member>,
}

/// An answer that is no success, or one.
type Answer<T> = Result<Json<T>, Refusal>;

/// The router with its fallback, to which the gRPC services are added.
pub(crate) fn router(shared: Arc<Shared>, member: Member) -> Router {
    let paths = Router::new()
        .route("/ping", get(async || ()))
        .route("/version", get(version))
        .route("/status", get(status))
        .route("/health", get(health))
        .route("/members", get(members))
        .route("/leader", get(leader))
        .route("/cluster", get(cluster))
        .route("/cluster/status", get(cluster_status))
        .route("/min-resolved-ts", get(min_resolved_ts))
        .route("/min-resolved-ts/{store}", get(min_resolved_ts_of))
        .merge(gc::router())
        .merge(regions::router())
        .merge(stores::router())
        .merge(operators::router())
        .merge(schedulers::router())
        .merge(settings::router())
        .merge(statistics::router())
        .route_layer(from_fn(refuse_head));
    Router::new()
        .nest(PREFIX, paths)
        .fallback(unknown_path)
        .with_state(Api { shared, member: Arc::new(member) })
}

/// The router would answer HEAD wherever there is GET.
async fn refuse_head(request: Request, next: Next) -> Response {
    if request.method() == Method::HEAD {
        return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET")]).into_response();
    }
    next.run(request).await
}

async fn unknown_path(headers: HeaderMap, uri: Uri) -> Response {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    if kind.is_some_and(|kind| kind.starts_with(b"application/grpc")) {
        let status = tonic::Status::unimplemented(format!("{} is not served", uri.path()));
        return status.into_http::<axum::body::Body>();
    }
    Refusal(StatusCode::NOT_FOUND, format!("nothing is at {}", uri.path())).into_response()
}

/// A status other than 200, with a sentence in JSON.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        let status = match error {
            Error::NoSuchStore(_) | Error::UnknownRegion(_) | Error::NoOperator(_) => {
                StatusCode::NOT_FOUND
            }
            Error::StoreTombstone(_) => StatusCode::GONE,
            Error::InvalidValue(_) | Error::Malformed(_) => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal(status, error.to_string())
    }
}

// ---- The scheduler itself ---------------------------------------------------------------------------

async fn version() -> Json<Value> {
    let compatible = format!("v{COMPATIBLE_VERSION}");
    Json(json!({ "version": compatible, "skerry_version": env!("CARGO_PKG_VERSION") }))
}

async fn status(State(api): State<Api>) -> Json<Value> {
    let began_ms = api.shared.cluster().began().wall_ms;
    Json(json!({
        "version": format!("v{COMPATIBLE_VERSION}"),
        "skerry_version": env!("CARGO_PKG_VERSION"),
        "build_ts": "",
        "git_hash": "",
        "start_timestamp": began_ms / 1_000,
    }))
}

async fn health(State(api): State<Api>) -> Json<Value> {
    let Member { name, member_id, client_urls, .. } = &*api.member;
    let member = json!({
        "name": name, "member_id": member_id, "client_urls": client_urls, "health": true,
    });
    Json(json!([member]))
}

async fn members(State(api): State<Api>) -> Json<Value> {
    let member = MemberShape::new(&api.member);
    Json(json!({
        "header": { "cluster_id": api.shared.id.get() },
        "members": [member],
        "leader": member,
        "etcd_leader": member,
    }))
}

async fn leader(State(api): State<Api>) -> Json<MemberShape> {
    Json(MemberShape::new(&api.member))
}

async fn cluster(State(api): State<Api>) -> Answer<Value> {
    let settings = api.shared.cluster().settings()?;
    Ok(Json(json!({ "id": settings.id, "max_peer_count": settings.max_peer_count })))
}

/// `is_initialized` says whether the cluster has the replicas it wants, as far as one region shows it.
async fn cluster_status(State(api): State<Api>) -> Answer<Value> {
    let cluster = api.shared.cluster();
    let wanted = cluster.settings()?.max_peer_count as usize;
    let first = cluster.region_by_key(b"")?;
    let is_whole = first
        .is_some_and(|record| record.voters().count() >= wanted && record.pending_peers.is_empty());
    let is_initialized = is_whole || cluster.region_count()? > 1;
    let born = cluster.keyspace_by_id(0)?.created_at;
    let born_ms = u64::try_from(born).unwrap_or(0).saturating_mul(1_000);
    Ok(Json(json!({
        "raft_bootstrap_time": calendar(born_ms),
        "is_initialized": is_initialized,
        "replication_status": "",
    })))
}

/// Stores do not report how far their transactions are resolved: this is how PD says so.
async fn min_resolved_ts(State(api): State<Api>) -> Answer<Value> {
    api.shared.cluster().settings()?;
    let nothing = json!({ "is_real_time": false, "min_resolved_ts": 0, "persist_interval": "0s" });
    Ok(Json(nothing))
}

/// The same of one store.
async fn min_resolved_ts_of(State(api): State<Api>, Path(store): Path<String>) -> Answer<Value> {
    api.shared.cluster().store(input::store_id(&store)?)?;
    min_resolved_ts(State(api)).await
}
