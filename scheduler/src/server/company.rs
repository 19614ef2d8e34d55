//! What clients expect at a scheduler's address beside the scheduler: the health service that gRPC libraries know, and
//! of etcd, which a real PD carries, the list of members and a store without keys.
//!
//! A transactional client goes by the list when it is made, and asks for keys only of a scheduler that does not know
//! GetGCState.

use std::sync::Arc;

use skerry_proto::etcdserverpb::cluster_server::Cluster;
use skerry_proto::etcdserverpb::kv_server::Kv;
use skerry_proto::etcdserverpb::{
    Member, MemberListRequest, MemberListResponse, RangeRequest, RangeResponse, ResponseHeader,
};
use skerry_proto::health::health_check_response::ServingStatus;
use skerry_proto::health::health_server::Health;
use skerry_proto::health::{HealthCheckRequest, HealthCheckResponse};
use skerry_proto::pdpb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::Shared;
use super::reply::Reply;

/// Names that clients may ask for: the process as a whole, and its services.
const SERVED: [&str; 3] = ["", "pdpb.PD", "keyspacepb.Keyspace"];

/// The present status and its end.
const WATCHED_MAX: usize = 2;

/// Of a store without keys: it has not changed since it was made.
const REVISION: i64 = 1;

/// See the module. Clones are the same.
#[derive(Clone)]
pub(super) struct Company {
    shared: Arc<Shared>,
    member: pdpb::Member,
}

impl Company {
    /// Beside the scheduler that is listed as `member`.
    pub(super) fn new(shared: Arc<Shared>, member: pdpb::Member) -> Company {
        Company { shared, member }
    }

    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            cluster_id: self.shared.id.get(),
            member_id: self.member.member_id,
            revision: REVISION,
            raft_term: 1,
        })
    }
}

#[tonic::async_trait]
impl Cluster for Company {
    async fn member_list(&self, _: Request<MemberListRequest>) -> Reply<MemberListResponse> {
        let pdpb::Member { name, member_id, peer_urls, client_urls, .. } = self.member.clone();
        let member = Member {
            id: member_id,
            name,
            peer_ur_ls: peer_urls,
            client_ur_ls: client_urls,
            is_learner: false,
        };
        let (header, members) = (self.header(), vec![member]);
        Ok(Response::new(MemberListResponse { header, members }))
    }
}

#[tonic::async_trait]
impl Kv for Company {
    async fn range(&self, _: Request<RangeRequest>) -> Reply<RangeResponse> {
        Ok(Response::new(RangeResponse { header: self.header(), ..RangeResponse::default() }))
    }
}

#[tonic::async_trait]
impl Health for Company {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Reply<HealthCheckResponse> {
        if !SERVED.contains(&request.get_ref().service.as_str()) {
            return Err(Status::not_found("there is no such service here"));
        }
        let status = status(*self.shared.stop.borrow()).into();
        Ok(Response::new(HealthCheckResponse { status }))
    }

    /// The present status at once, and then that it stops, which ends the stream.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Reply<BoxStream<HealthCheckResponse>> {
        let mut stopping = self.shared.stop.subscribe();
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

fn status(is_stopping: bool) -> ServingStatus {
    if is_stopping { ServingStatus::NotServing } else { ServingStatus::Serving }
}
