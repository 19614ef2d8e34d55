//! `grpc.health.v1`: whether this store serves. Clients ask before they trust a store again that has failed them, or
//! watch it.
//!
//! It serves for as long as it can answer this, until it is told to stop: from then on it finishes what is under way.
//! A client that watches hears so at once and goes elsewhere, and its stream ends, so that no stop waits for it.

use skerry_proto::health::health_check_response::ServingStatus;
use skerry_proto::health::health_server::Health;
use skerry_proto::health::{HealthCheckRequest, HealthCheckResponse};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

/// Names that clients may ask for: the process as a whole, and its service.
const SERVED: [&str; 2] = ["", "tikvpb.Tikv"];

/// The present status and its end.
const WATCHED_MAX: usize = 2;

/// Answers for the process.
pub struct Probe {
    /// True from when it stops.
    stopping: watch::Receiver<bool>,
}

impl Probe {
    /// Of a process that serves until `stopping` is true.
    pub fn new(stopping: watch::Receiver<bool>) -> Probe {
        Probe { stopping }
    }
}

fn status(is_stopping: bool) -> ServingStatus {
    if is_stopping { ServingStatus::NotServing } else { ServingStatus::Serving }
}

#[tonic::async_trait]
impl Health for Probe {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !SERVED.contains(&request.get_ref().service.as_str()) {
            return Err(Status::not_found("there is no such service here"));
        }
        let status = status(*self.stopping.borrow()).into();
        Ok(Response::new(HealthCheckResponse { status }))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<BoxStream<HealthCheckResponse>>, Status> {
        let mut stopping = self.stopping.clone();
        let now = match SERVED.contains(&request.get_ref().service.as_str()) {
            true => status(*stopping.borrow()),
            false => ServingStatus::ServiceUnknown,
        };
        let (told, stream) = mpsc::channel(WATCHED_MAX);
        let tell = |status: ServingStatus| Ok(HealthCheckResponse { status: status.into() });
        told.try_send(tell(now)).expect("there is room for the first");
        tokio::spawn(async move {
            let is_stopping = tokio::select! {
                // An error means that the server is gone, which is a stop as well.
                _ = stopping.wait_for(|stopping| *stopping) => true,
                () = told.closed() => false,
            };
            if is_stopping && now == ServingStatus::Serving {
                // Whoever went since is told nothing.
                let _ = told.try_send(tell(ServingStatus::NotServing));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

#[cfg(test)]
mod tests {
    use skerry_proto::health::health_client::HealthClient;
    use skerry_proto::health::health_server::HealthServer;
    use tokio::net::TcpListener;
    use tonic::Code;
    use tonic::transport::server::TcpIncoming;
    use tonic::transport::{Channel, Server};

    use super::*;

    /// Serves the probe as [`super::super::serve`] does; the other end stops it.
    async fn served() -> (HealthClient<Channel>, watch::Sender<bool>, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (stop, mut stopped) = watch::channel(false);
        let server = Server::builder().add_service(HealthServer::new(Probe::new(stop.subscribe())));
        let serving = tokio::spawn(async move {
            let stopped = async move { drop(stopped.wait_for(|stop| *stop).await) };
            let incoming = TcpIncoming::from(listener);
            server.serve_with_incoming_shutdown(incoming, stopped).await.expect("it serves");
        });
        let client = HealthClient::connect(format!("http://{address}")).await.expect("it serves");
        (client, stop, serving)
    }

    fn of(service: &str) -> HealthCheckRequest {
        HealthCheckRequest { service: service.to_string() }
    }

    #[tokio::test]
    async fn who_watches_hears_the_present_at_once_and_the_end_when_it_comes() {
        let (mut client, stop, serving) = served().await;
        let mut watches = Vec::new();
        for service in SERVED {
            let checked = client.check(of(service)).await.expect("an answer").into_inner();
            assert_eq!(checked.status(), ServingStatus::Serving);
            let mut watched = client.watch(of(service)).await.expect("a stream").into_inner();
            let now = watched.message().await.expect("it is open").expect("the present");
            assert_eq!(now.status(), ServingStatus::Serving);
            watches.push(watched);
        }
        stop.send_replace(true);
        for mut watched in watches {
            let then = watched.message().await.expect("it is open").expect("a change");
            assert_eq!(then.status(), ServingStatus::NotServing);
            assert_eq!(watched.message().await.expect("it ends well"), None);
        }
        serving.await.expect("no stop waits for those who watch");
    }

    #[tokio::test]
    async fn a_service_that_is_not_here_is_unknown_to_who_watches_and_refused_to_who_checks() {
        let (mut client, stop, serving) = served().await;
        let refused = client.check(of("no.such.Service")).await.expect_err("it is not here");
        assert_eq!(refused.code(), Code::NotFound);
        let mut watched = client.watch(of("no.such.Service")).await.expect("a stream").into_inner();
        let now = watched.message().await.expect("it is open").expect("the present");
        assert_eq!(now.status(), ServingStatus::ServiceUnknown);
        stop.send_replace(true);
        assert_eq!(watched.message().await.expect("it ends well"), None, "that does not change");
        serving.await.expect("no stop waits for those who watch");
    }
}
