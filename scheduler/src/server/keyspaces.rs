//! `keyspacepb.Keyspace`: what number a keyspace's name stands for. Clients of API version 2 ask once, when
//! they start.

use std::sync::Arc;

use skerry_proto::keyspacepb::keyspace_server::Keyspace;
use skerry_proto::keyspacepb::{
    GetAllKeyspacesRequest, GetAllKeyspacesResponse, LoadKeyspaceByIdRequest, LoadKeyspaceRequest,
    LoadKeyspaceResponse,
};
use tonic::Request;

use super::Shared;
use super::reply::{Reply, admit, reply};

/// The service.
pub(super) struct Keyspaces {
    shared: Arc<Shared>,
}

impl Keyspaces {
    /// The service over the shared state.
    pub(super) fn new(shared: Arc<Shared>) -> Keyspaces {
        Keyspaces { shared }
    }
}

#[tonic::async_trait]
impl Keyspace for Keyspaces {
    async fn load_keyspace(
        &self,
        request: Request<LoadKeyspaceRequest>,
    ) -> Reply<LoadKeyspaceResponse> {
        let request = request.into_inner();
        admit(&self.shared, request.header.as_ref())?;
        let found = self.shared.cluster().keyspace_by_name(&request.name);
        reply(&self.shared, found, |header, keyspace| LoadKeyspaceResponse { header, keyspace })
    }

    async fn load_keyspace_by_id(
        &self,
        request: Request<LoadKeyspaceByIdRequest>,
    ) -> Reply<LoadKeyspaceResponse> {
        let request = request.into_inner();
        admit(&self.shared, request.header.as_ref())?;
        let found = self.shared.cluster().keyspace_by_id(request.id.unwrap_or_default());
        reply(&self.shared, found, |header, keyspace| LoadKeyspaceResponse { header, keyspace })
    }

    async fn get_all_keyspaces(
        &self,
        request: Request<GetAllKeyspacesRequest>,
    ) -> Reply<GetAllKeyspacesResponse> {
        let request = request.into_inner();
        admit(&self.shared, request.header.as_ref())?;
        let start = request.start_id.unwrap_or_default();
        let found = self.shared.cluster().keyspaces(start, request.limit);
        reply(&self.shared, found, |header, keyspaces| GetAllKeyspacesResponse {
            header,
            keyspaces: keyspaces.unwrap_or_default(),
        })
    }
}
