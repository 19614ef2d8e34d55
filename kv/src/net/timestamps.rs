//! Timestamps of the scheduler for whoever cannot go on without one, and a look at its time now and then.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use skerry_proto::types::Ts;
use skerry_raftstore::time::{Clock as _, SystemClock};
use slog::{Logger, warn};

use super::scheduler_client::SchedulerClient;
use crate::txn::{Timestamps, TxnStore};

/// After an answer that is none.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// Between two looks at the scheduler's time.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// Asks until it is told: who waits has a deadline of its own.
pub struct PatientTimestamps {
    scheduler: Arc<SchedulerClient>,
    logger: Logger,
}

impl PatientTimestamps {
    /// Timestamps of this scheduler.
    pub fn new(scheduler: Arc<SchedulerClient>, logger: Logger) -> Arc<PatientTimestamps> {
        Arc::new(PatientTimestamps { scheduler, logger })
    }
}

impl Timestamps for PatientTimestamps {
    fn newest(&self) -> Pin<Box<dyn Future<Output = Ts> + Send + '_>> {
        Box::pin(async {
            loop {
                let asked = self.scheduler.patiently(&self.logger, || self.scheduler.timestamp());
                let reason = match asked.await {
                    Ok(newest) if newest.physical > 0 => {
                        let physical = newest.physical.unsigned_abs() << Ts::LOGICAL_BITS;
                        return Ts::from(physical | newest.logical.unsigned_abs());
                    }
                    Ok(_) => "it answers without one".to_string(),
                    Err(failure) => failure.to_string(),
                };
                // As one of another cluster does. Somebody else may answer next time.
                warn!(self.logger, "the scheduler refuses timestamps, it is asked again"; "reason" => reason);
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
        })
    }

    fn passed(&self) -> Duration {
        SystemClock.monotonic()
    }
}

/// Keeps a store near the scheduler's time, so that it tells by itself which timestamps can have been given, also one
/// that nobody has read at yet. For ever; ended by dropping the future.
pub async fn keep_time(store: Arc<TxnStore>) {
    loop {
        store.look_at_time().await;
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use skerry_proto::pdpb::pd_server::{Pd, PdServer};
    use skerry_proto::pdpb::{ResponseHeader, Timestamp, TsoRequest, TsoResponse};
    use slog::{Discard, o};
    use tokio::net::TcpListener;
    use tonic::codegen::BoxStream;
    use tonic::transport::Server;
    use tonic::transport::server::TcpIncoming;
    use tonic::{Request, Response, Status, Streaming};

    use super::*;
    use crate::metrics::Metrics;

    /// A scheduler that refuses first, then answers nothing, and then a timestamp.
    #[derive(Default)]
    struct Reluctant {
        asked: AtomicU32,
    }

    #[tonic::async_trait]
    impl Pd for Reluctant {
        async fn tso(
            &self,
            _: Request<Streaming<TsoRequest>>,
        ) -> Result<Response<BoxStream<TsoResponse>>, Status> {
            let header = Some(ResponseHeader::default());
            let timestamp = match self.asked.fetch_add(1, Ordering::SeqCst) {
                0 => return Err(Status::failed_precondition("of another cluster")),
                1 => None,
                _ => Some(Timestamp { physical: 7, logical: 3, suffix_bits: 0 }),
            };
            let answer = TsoResponse { header, count: 1, timestamp };
            Ok(Response::new(Box::pin(tokio_stream::once(Ok(answer)))))
        }
    }

    #[tokio::test]
    async fn a_scheduler_that_refuses_is_asked_until_it_does_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let service = Server::builder().add_service(PdServer::new(Reluctant::default()));
        tokio::spawn(service.serve_with_incoming(TcpIncoming::from(listener)));
        let scheduler = SchedulerClient::new(&[address], Metrics::new()).expect("an address");
        let timestamps = PatientTimestamps::new(Arc::new(scheduler), Logger::root(Discard, o!()));
        assert_eq!(timestamps.newest().await, Ts::compose(7, 3));
    }
}
