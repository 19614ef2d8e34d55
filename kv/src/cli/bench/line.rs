//! A connection to a store: each command as a call of its own, or all together through one `BatchCommands` stream.

use clap::ValueEnum;
use skerry_proto::kvrpcpb::{
    BatchRollbackRequest, CheckTxnStatusRequest, CheckTxnStatusResponse, CommitRequest,
    CommitResponse, GetRequest, GetResponse, PrewriteRequest, PrewriteResponse, RawBatchGetRequest,
    RawBatchGetResponse, RawBatchPutRequest, RawBatchPutResponse, RawGetRequest, RawGetResponse,
    RawPutRequest, RawPutResponse, RawScanRequest, RawScanResponse, ResolveLockRequest,
    ResolveLockResponse,
};
use skerry_proto::tikvpb::batch_commands_request::request::Cmd;
use skerry_proto::tikvpb::batch_commands_response::response;
use skerry_proto::tikvpb::tikv_client::TikvClient;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::batch::{BatchLine, Commands};

/// How commands travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Api {
    /// Each as a call of its own
    Unary,
    /// Many in one message of a stream, as client libraries send them
    Batch,
}

/// See the module. A clone is the same connection.
#[derive(Clone, Debug)]
pub(super) struct Line {
    calls: TikvClient<Channel>,
    batch: Option<BatchLine>,
}

type Answer<T> = Result<T, Status>;

impl Line {
    /// Not connected before it is used.
    pub(super) fn new(endpoint: &Endpoint, api: Api) -> Line {
        let calls = TikvClient::new(endpoint.connect_lazy()).max_decoding_message_size(usize::MAX);
        let batch = (api == Api::Batch).then(|| Commands::line(calls.clone()));
        Line { calls, batch }
    }

    pub(super) async fn raw_get(&mut self, request: RawGetRequest) -> Answer<RawGetResponse> {
        match &self.batch {
            None => Ok(self.calls.raw_get(request).await?.into_inner()),
            Some(batch) => match batch.ask(Cmd::RawGet(request.into())).await? {
                response::Cmd::RawGet(answer) => Ok(answer),
                _ => Err(strange()),
            },
        }
    }

    pub(super) async fn raw_put(&mut self, request: RawPutRequest) -> Answer<RawPutResponse> {
        match &self.batch {
            None => Ok(self.calls.raw_put(request).await?.into_inner()),
            Some(batch) => match batch.ask(Cmd::RawPut(request.into())).await? {
                response::Cmd::RawPut(answer) => Ok(answer),
                _ => Err(strange()),
            },
        }
    }

    pub(super) async fn raw_scan(&mut self, request: RawScanRequest) -> Answer<RawScanResponse> {
        match &self.batch {
            None => Ok(self.calls.raw_scan(request).await?.into_inner()),
            Some(batch) => match batch.ask(Cmd::RawScan(request.into())).await? {
                response::Cmd::RawScan(answer) => Ok(answer),
                _ => Err(strange()),
            },
        }
    }

    pub(super) async fn raw_batch_get(
        &mut self,
        request: RawBatchGetRequest,
    ) -> Answer<RawBatchGetResponse> {
        match &self.batch {
            None => Ok(self.calls.raw_batch_get(request).await?.into_inner()),
            Some(batch) => match batch.ask(Cmd::RawBatchGet(request.into())).await? {
                response::Cmd::RawBatchGet(answer) => Ok(answer),
                _ => Err(strange()),
            },
        }
    }

    pub(super) async fn raw_batch_put(
        &mut self,
        request: RawBatchPutRequest,
    ) -> Answer<RawBatchPutResponse> {
        match &self.batch {
            None => Ok(self.calls.raw_batch_put(request).await?.into_inner()),
            Some(batch) => match batch.ask(Cmd::RawBatchPut(request.into())).await? {
                response::Cmd::RawBatchPut(answer) => Ok(answer),
                _ => Err(strange()),
            },
        }
    }

    pub(super) async fn read(&mut self, request: GetRequest) -> Answer<GetResponse> {
        match &self.batch {
            None => Ok(self.calls.kv_get(request).await?.into_inner()),
            Some(batch) => match batch.ask(Cmd::Get(request.into())).await? {
                response::Cmd::Get(answer) => Ok(answer),
                _ => Err(strange()),
            },
        }
    }

    pub(super) async fn prewrite(&mut self, request: PrewriteRequest) -> Answer<PrewriteResponse> {
        match &self.batch {
            None => Ok(self.calls.kv_prewrite(request).await?.into_inner()),
            Some(batch) => match batch.ask(Cmd::Prewrite(request.into())).await? {
                response::Cmd::Prewrite(answer) => Ok(answer),
                _ => Err(strange()),
            },
        }
    }

    pub(super) async fn commit(&mut self, request: CommitRequest) -> Answer<CommitResponse> {
        match &self.batch {
            None => Ok(self.calls.kv_commit(request).await?.into_inner()),
            Some(batch) => match batch.ask(Cmd::Commit(request.into())).await? {
                response::Cmd::Commit(answer) => Ok(answer),
                _ => Err(strange()),
            },
        }
    }

    /// Not measured, so always a call.
    pub(super) async fn rollback(&mut self, request: BatchRollbackRequest) -> Answer<()> {
        self.calls.kv_batch_rollback(request).await.map(drop)
    }

    /// What became of a transaction. Rare, so always a call.
    pub(super) async fn status(
        &mut self,
        request: CheckTxnStatusRequest,
    ) -> Answer<CheckTxnStatusResponse> {
        Ok(self.calls.kv_check_txn_status(request).await?.into_inner())
    }

    /// Ends a lock as its transaction ended. Rare, too.
    pub(super) async fn resolve(
        &mut self,
        request: ResolveLockRequest,
    ) -> Answer<ResolveLockResponse> {
        Ok(self.calls.kv_resolve_lock(request).await?.into_inner())
    }
}

fn strange() -> Status {
    Status::internal("the store answers another command than the one it was asked for")
}
