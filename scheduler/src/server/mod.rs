//! The scheduler as a service: gRPC (`pdpb.PD`, `keyspacepb.Keyspace`, `gcpb.Gc`, and what clients expect beside
//! them, `company.rs`) and HTTP/1.1 with JSON on one port, over the pure [`crate::cluster`] and [`crate::tso`].
//!
//! # How
//!
//! 1. [`Scheduler::open`] reads the rows, restores cluster and oracle, and chooses a cluster id if the
//!    engine is new.
//! 2. [`Scheduler::serve`] takes a bound listener. Connections that speak HTTP/2 with gRPC reach the
//!    services; HTTP/1.1 reaches [`crate::api`]; what is neither gets 400 and is closed, and an unknown
//!    gRPC method gets UNIMPLEMENTED.
//! 3. A call that only looks, and a heartbeat, takes the cluster's mutex for microseconds. A decision also
//!    waits for its turn, writes, and answers after that (`shared.rs`).
//! 4. Timestamps have a mutex of their own; one task keeps their window ahead (`timestamps.rs`).
//! 5. A second task writes what heartbeats have changed about regions once a second.
//! 6. A third lets the cluster look after balance ten times a second; what it decides is told on the streams.
//! 7. When told to stop, streams end with UNAVAILABLE, open calls are answered, and after a grace period
//!    what is still open is cut.
//!
//! # Invariants
//!
//! * No mutex is held across an await, and no disk is touched under one.
//! * A failed write ends the process: nobody has been told what was not written.
//! * Every answer of `pdpb` has a header with the cluster id, also refusals and stream messages.
//!
//! What it does not do: TLS, several members, and the methods that `proto/proto/pdpb/service.proto` lists
//! beyond those in `placement.rs`.

mod company;
mod gc;
mod keyspaces;
pub(crate) mod moves;
mod placement;
mod reply;
mod shared;
mod streams;
#[cfg(test)]
mod tests;
mod timestamps;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use skerry_proto::etcdserverpb::cluster_server::ClusterServer;
use skerry_proto::etcdserverpb::kv_server::KvServer;
use skerry_proto::gcpb::gc_server::GcServer;
use skerry_proto::health::health_server::HealthServer;
use skerry_proto::keyspacepb::keyspace_server::KeyspaceServer;
use skerry_proto::pdpb::pd_server::PdServer;
use skerry_proto::types::ClusterId;
use skerry_raftstore::engine::{Durability, Engine};
use skerry_raftstore::time::{Clock, entropy};
use slog::{Logger, info};
use tokio::net::TcpListener;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

pub(crate) use self::reply::COMPATIBLE_VERSION;
pub(crate) use self::shared::Shared;

use crate::config::SchedulerConfig;
use crate::persist::{Change, Storage};
use crate::{Error, Result, api};

/// How long a stop waits for clients to take their last answers.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// Silence after which a client is asked whether it is still there, and how long it may take to answer:
/// a client whose machine has died must not hold its streams for ever.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// A scheduler that has read its state and is ready to serve.
pub struct Scheduler {
    shared: Arc<Shared>,
}

impl Scheduler {
    /// Restores the state from `engine`, which belongs to this scheduler alone. Blocks on the disk; needs no
    /// async runtime.
    pub fn open(
        config: SchedulerConfig,
        engine: Arc<dyn Engine>,
        clock: Arc<dyn Clock>,
        logger: Logger,
    ) -> Result<Scheduler> {
        config.validate()?;
        let storage = Storage::new(engine);
        let mut rows = storage.load()?;
        let known = rows.iter().find_map(|row| match row {
            Change::ClusterId(id) => Some(*id),
            _ => None,
        });
        let id = match known {
            Some(id) => id,
            None => {
                let id = new_cluster_id();
                storage.write(&[Change::ClusterId(id)], Durability::Synced)?;
                rows.push(Change::ClusterId(id));
                info!(logger, "new cluster"; "cluster_id" => id.get());
                id
            }
        };
        let shared = Shared::new(config, id, rows, storage, clock, logger);
        Ok(Scheduler { shared: Arc::new(shared) })
    }

    /// The id of the cluster, which does not change any more.
    pub fn cluster_id(&self) -> ClusterId {
        self.shared.id
    }

    /// Serves `listener` until `shutdown` is ready. Returns when the last client is answered, or a grace
    /// period later.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<()> {
        let shared = self.shared;
        let address = advertised(&shared.config, &listener)?;
        info!(shared.logger, "scheduler serves"; "advertised" => &address,
            "cluster_id" => shared.id.get(), "bootstrapped" => shared.cluster().is_bootstrapped());
        let routes = routes(&shared, address);
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let mut stopping = shared.stop.subscribe();
        let server = Server::builder()
            .accept_http1(true)
            .max_concurrent_streams(shared.config.requests_per_connection_max)
            .http2_keepalive_interval(Some(PING_INTERVAL))
            .http2_keepalive_timeout(Some(PING_TIMEOUT))
            .serve_with_incoming_shutdown(routes, incoming, async {
                shutdown.await;
                shared.stop.send_replace(true);
            });
        let overdue = async {
            // The sender lives in `shared`: waiting ends only because of what is sent.
            let _ = stopping.wait_for(|stop| *stop).await;
            tokio::time::sleep(STOP_GRACE).await;
        };
        let limit = |change| shared.cluster().install(vec![change], shared.now());
        let result = tokio::select! {
            result = server => result.map_err(|error| Error::Serve(describe(&error))),
            () = overdue => Ok(()),
            never = shared.timestamps.keep_window(&shared.storage, limit) => never,
            never = shared.keep_regions_saved() => never,
            never = shared.keep_balance() => never,
        };
        shared.save_regions().await;
        info!(shared.logger, "scheduler has stopped");
        result
    }
}

/// All services and the JSON interface, by path.
fn routes(shared: &Arc<Shared>, address: String) -> Routes {
    let member = reply::member(shared, &address);
    let size = shared.config.request_size_max.length();
    let placement = placement::Placement::new(Arc::clone(shared), member.clone());
    let placement = PdServer::new(placement)
        .max_decoding_message_size(size)
        .accept_compressed(CompressionEncoding::Gzip);
    let keyspaces = KeyspaceServer::new(keyspaces::Keyspaces::new(Arc::clone(shared)))
        .max_decoding_message_size(size)
        .accept_compressed(CompressionEncoding::Gzip);
    let company = company::Company::new(Arc::clone(shared), member.clone());
    let api = api::router(Arc::clone(shared), member);
    let rounds = GcServer::new(gc::Rounds::new(Arc::clone(shared))).max_decoding_message_size(size);
    Routes::from(api)
        .add_service(placement)
        .add_service(keyspaces)
        .add_service(rounds)
        .add_service(ClusterServer::new(company.clone()))
        .add_service(KvServer::new(company.clone()))
        .add_service(HealthServer::new(company))
        .prepare()
}

/// `host:port` under which clients reach this scheduler.
fn advertised(config: &SchedulerConfig, listener: &TcpListener) -> Result<String> {
    if !config.advertise_addr.is_empty() {
        return Ok(config.advertise_addr.clone());
    }
    let address = listener.local_addr().map_err(|error| Error::Serve(error.to_string()))?;
    if address.ip().is_unspecified() {
        let reason = format!("clients cannot connect to {address}; set scheduler.advertise-addr");
        return Err(Error::Config(reason));
    }
    Ok(address.to_string())
}

/// Not 0, which means *none*, and positive also for clients that read it as a signed number.
fn new_cluster_id() -> ClusterId {
    ClusterId::new((entropy() >> 1).max(1))
}

/// The error and what caused it: tonic keeps the cause to itself.
fn describe(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", describe(source)),
        None => error.to_string(),
    }
}
