//! The JSON interface: HTTP/1.1 (or 2) under `/pd/api/v1` on the port of the gRPC services, for people,
//! scripts and the tools of clients. It only looks.
//!
//! * Paths and shapes are those that existing tools expect; numbers of keys in hexadecimal are upper case.
//! * HEAD on a path that has GET is 405: readiness probes of clients count on it.
//! * What no path matches is 404 in JSON, or UNIMPLEMENTED if the caller speaks gRPC.
//!
//! **Invariant.** Nothing is formatted under the cluster's mutex, and lists of regions not on a thread that
//! serves connections.

mod shapes;
mod text;

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use serde_json::{Value, json};
use skerry_proto::pdpb::Member;
use skerry_proto::region::KeyBounds;
use skerry_proto::types::{RegionId, StoreId};
use tokio::task::spawn_blocking;

use self::shapes::{MemberShape, RegionShape, RegionsShape, StoreShape, StoresShape};
use self::text::{hexadecimal, percent_decoded};
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
        .route("/health", get(health))
        .route("/members", get(members))
        .route("/leader", get(leader))
        .route("/cluster", get(cluster))
        .route("/stores", get(stores))
        .route("/store/{id}", get(store))
        .route("/regions", get(regions))
        .route("/regions/count", get(region_count))
        .route("/region/id/{id}", get(region_by_id))
        .route("/region/key/{*key}", get(region_by_key))
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
            Error::NoSuchStore(_) | Error::UnknownRegion(_) => StatusCode::NOT_FOUND,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal(status, error.to_string())
    }
}

fn not_a_number(text: &str) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, format!("{text:?} is not an id"))
}

// ---- The scheduler itself ---------------------------------------------------------------------------

async fn version() -> Json<Value> {
    let compatible = format!("v{COMPATIBLE_VERSION}");
    Json(json!({ "version": compatible, "skerry_version": env!("CARGO_PKG_VERSION") }))
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

// ---- Stores -----------------------------------------------------------------------------------------

async fn stores(State(api): State<Api>) -> Answer<StoresShape> {
    off_the_server(move || {
        let (records, regions) = {
            let cluster = api.shared.cluster();
            let records: Vec<_> = cluster.stores()?.cloned().collect();
            (records, cluster.scan(KeyBounds::ALL, usize::MAX)?)
        };
        let (now, patience) = (api.shared.now(), api.shared.patience());
        let shape = |record: &_| StoreShape::new(record, &regions, now, patience);
        let stores: Vec<_> = records.iter().map(shape).collect();
        Ok(StoresShape { count: stores.len(), stores })
    })
    .await
}

async fn store(State(api): State<Api>, Path(id): Path<String>) -> Answer<StoreShape> {
    let id = StoreId::new(id.parse().map_err(|_| not_a_number(&id))?);
    off_the_server(move || {
        let (record, regions) = {
            let cluster = api.shared.cluster();
            (cluster.store(id)?.clone(), cluster.scan(KeyBounds::ALL, usize::MAX)?)
        };
        Ok(StoreShape::new(&record, &regions, api.shared.now(), api.shared.patience()))
    })
    .await
}

// ---- Regions ----------------------------------------------------------------------------------------

async fn regions(State(api): State<Api>) -> Answer<RegionsShape> {
    off_the_server(move || {
        let records = api.shared.cluster().scan(KeyBounds::ALL, usize::MAX)?;
        let regions: Vec<_> = records.iter().map(|record| RegionShape::new(record)).collect();
        Ok(RegionsShape { count: regions.len(), regions })
    })
    .await
}

async fn region_count(State(api): State<Api>) -> Answer<Value> {
    let count = api.shared.cluster().region_count()?;
    Ok(Json(json!({ "count": count })))
}

async fn region_by_id(State(api): State<Api>, Path(id): Path<String>) -> Answer<RegionShape> {
    let id = RegionId::new(id.parse().map_err(|_| not_a_number(&id))?);
    let found = api.shared.cluster().region_by_id(id)?;
    let record = found.ok_or(Error::UnknownRegion(id.get()))?;
    Ok(Json(RegionShape::new(&record)))
}

/// The key stands in the path with its bytes escaped, and may be any bytes: the router's own parameter
/// would have to be UTF-8.
async fn region_by_key(State(api): State<Api>, uri: Uri) -> Answer<RegionShape> {
    let escaped = uri.path().rsplit_once("/region/key/").map_or("", |(_, key)| key);
    let key = percent_decoded(escaped);
    let found = api.shared.cluster().region_by_key(&key)?;
    let none = || {
        let sentence = format!("no region is known that contains key {}", hexadecimal(&key));
        Refusal(StatusCode::NOT_FOUND, sentence)
    };
    let record = found.ok_or_else(none)?;
    Ok(Json(RegionShape::new(&record)))
}

/// Makes a large answer on a thread that may take its time.
async fn off_the_server<T: Serialize + Send + 'static>(
    make: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Answer<T> {
    let made = spawn_blocking(make).await;
    let stopped = |_| Refusal(StatusCode::SERVICE_UNAVAILABLE, "stopping".to_string());
    Ok(Json(made.map_err(stopped)??))
}
