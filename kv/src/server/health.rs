//! `grpc.health.v1`: whether this store serves. Clients ask before they trust a store again that has failed them.
//!
//! It serves for as long as it can answer this.

use skerry_proto::health::health_check_response::ServingStatus;
use skerry_proto::health::health_server::Health;
use skerry_proto::health::{HealthCheckRequest, HealthCheckResponse};
use tonic::{Request, Response, Status};

/// Names that clients may ask for: the process as a whole, and its service.
const SERVED: [&str; 2] = ["", "tikvpb.Tikv"];

/// Answers for the process.
pub struct Probe;

#[tonic::async_trait]
impl Health for Probe {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !SERVED.contains(&request.get_ref().service.as_str()) {
            return Err(Status::not_found("there is no such service here"));
        }
        Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() }))
    }
}
