//! The edge of a store: the gRPC service with its limits, and the status pages.
//!
//! 1. [`listen`] binds a port, before any data is touched: a taken port costs nothing but a sentence.
//! 2. [`serve`] runs the gRPC service. From the outside in, a request passes [`observe`] (counted),
//!    [`admission`] (its memory is bounded) and [`kv_service`] (understood).
//!    [`health`] says that it is there, and when it ends; [`deadlocks`] hears which transactions of all stores wait
//!    for which.
//! 3. [`status`] answers `/metrics`, `/status` and `/config` over plain HTTP on a port of its own.
//!
//! **Invariant.** What arrives can only harm its sender: bytes that are no HTTP/2 end their connection,
//! messages that cannot be decoded end their call, and memory is reserved within a budget.
//!
//! What it does not do: no TLS and no authentication.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use skerry_proto::deadlock::deadlock_server::DeadlockServer;
use skerry_proto::health::health_server::HealthServer;
use skerry_proto::tikvpb::tikv_server::TikvServer;
use tokio::net::TcpListener;
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::config::{AnswerCompression, ServerConfig};
use crate::error::{Error, Result};
use crate::metrics::Metrics;

pub mod admission;
pub mod deadlocks;
pub mod health;
pub mod kv_service;
pub mod observe;
pub mod status;

use admission::AdmissionLayer;
use deadlocks::DeadlockService;
use health::Probe;
use kv_service::KvService;
use observe::ObserveLayer;

/// The longest message about a wait: a key, and what a client says about its request.
const WAIT_BYTES_MAX: usize = 128 << 10;

/// Binds `address`. `flag` is the one that changes it, with what else helps: it ends the sentence that says
/// why the address cannot be bound.
pub async fn listen(address: &str, flag: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let reason = match error.kind() {
            std::io::ErrorKind::AddrInUse => "address in use".to_string(),
            _ => error.to_string(),
        };
        Error::Startup(format!("cannot listen on {address}: {reason}; choose another with {flag}"))
    })
}

/// Serves clients on `listener` until `stop` is ready, then finishes what is under way, within the time that
/// the configuration allows.
pub async fn serve(
    listener: TcpListener,
    service: KvService,
    deadlocks: DeadlockService,
    config: &ServerConfig,
    metrics: Arc<Metrics>,
    stop: impl Future<Output = ()> + Send,
) -> Result<()> {
    let mut service = TikvServer::new(service)
        .max_decoding_message_size(config.request_size_max.length())
        .max_encoding_message_size(usize::MAX)
        .accept_compressed(CompressionEncoding::Gzip);
    if config.answer_compression == AnswerCompression::Gzip {
        service = service.send_compressed(CompressionEncoding::Gzip);
    }
    let (stopping, mut stopped) = tokio::sync::watch::channel(false);
    let probe = Probe::new(stopped.clone());
    let server = Server::builder()
        .layer(ObserveLayer::new(metrics))
        .layer(AdmissionLayer::new(config.requests_in_flight_size_max.length()))
        .max_concurrent_streams(config.streams_per_connection_max)
        .http2_keepalive_interval(Some(seconds(config.keepalive_interval_s)))
        .http2_keepalive_timeout(Some(seconds(config.keepalive_timeout_s)))
        .add_service(service)
        .add_service(HealthServer::new(probe))
        .add_service(DeadlockServer::new(deadlocks).max_decoding_message_size(WAIT_BYTES_MAX))
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            async move {
                stop.await;
                stopping.send_replace(true);
            },
        );
    let overdue = async {
        // An error means that the server has ended, and then nobody waits for this.
        let _ = stopped.wait_for(|stopping| *stopping).await;
        tokio::time::sleep(Duration::from_millis(u64::from(config.stop_timeout_ms))).await;
    };
    tokio::select! {
        served = server => served.map_err(|error| Error::Startup(format!("cannot serve: {error}"))),
        () = overdue => Ok(()),
    }
}

fn seconds(count: u32) -> Duration {
    Duration::from_secs(u64::from(count))
}
