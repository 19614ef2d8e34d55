//! What a store says about itself over plain HTTP: `/metrics` for Prometheus, `/status` for people and
//! probes, `/config` for clients and the scheduler, who read how regions are split from it.
//!
//! Only GET is served; everything else is 404 or 405 in JSON. Nothing here changes anything.

use std::future::Future;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::metrics::Metrics;

/// What the pages show.
#[derive(Clone)]
pub struct Pages {
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Makes `/status` when it is asked for.
    pub status: Arc<dyn Fn() -> Value + Send + Sync>,
    /// `/config`: the effective configuration ([`config_page`]), which never changes.
    pub config: Arc<Value>,
}

/// The effective configuration, and beside our own names those that clients and a real PD read: how regions are
/// split, which engine this is, and that values may expire.
pub fn config_page(config: &Config) -> Value {
    let mut page = serde_json::to_value(config).expect("a configuration is plain data");
    let raftstore = &config.raftstore;
    page["coprocessor"] = json!({
        "region-max-size": raftstore.region_size_max,
        "region-split-size": raftstore.split_size,
        "region-max-keys": raftstore.region_keys_max,
        "region-split-keys": raftstore.split_keys,
        "enable-region-bucket": false,
    });
    page["storage"]["engine"] = json!("raft-kv");
    page["storage"]["enable-ttl"] = json!(true);
    page
}

/// Serves the pages on `listener` until `stop` is ready.
pub async fn serve(
    listener: TcpListener,
    pages: Pages,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let served = axum::serve(listener, router(pages)).with_graceful_shutdown(stop).await;
    served.map_err(|error| Error::Startup(format!("cannot serve the status port: {error}")))
}

fn router(pages: Pages) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/config", get(config))
        .fallback(nothing)
        .with_state(pages)
}

async fn metrics(State(pages): State<Pages>) -> Response {
    let kind = (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
    ([kind], pages.metrics.render()).into_response()
}

async fn status(State(pages): State<Pages>) -> Json<Value> {
    Json((pages.status)())
}

async fn config(State(pages): State<Pages>) -> Json<Value> {
    Json((*pages.config).clone())
}

async fn nothing() -> Response {
    let answer = json!({ "error": "no such page; there are /metrics, /status and /config" });
    (StatusCode::NOT_FOUND, Json(answer)).into_response()
}
