//! Commands of many clients through one `BatchCommands` stream of a store.

use std::collections::BTreeMap;

use skerry_proto::tikvpb::batch_commands_request::{Request, request};
use skerry_proto::tikvpb::batch_commands_response::response;
use skerry_proto::tikvpb::tikv_client::TikvClient;
use skerry_proto::tikvpb::{BatchCommandsRequest, BatchCommandsResponse};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};

use super::stream::{Asked, Conversation, Shared, Waiter};

/// The stream of one connection.
pub(super) type BatchLine = Shared<Commands>;

/// Who waits for which command.
#[derive(Debug)]
pub(super) struct Commands {
    store: TikvClient<Channel>,
    waiting: BTreeMap<u64, Waiter<response::Cmd>>,
    next: u64,
}

impl Commands {
    /// To the store at the end of this connection.
    pub(super) fn line(store: TikvClient<Channel>) -> BatchLine {
        Shared::new(Commands { store, waiting: BTreeMap::new(), next: 1 })
    }
}

impl Conversation for Commands {
    type Question = request::Cmd;
    type Answer = response::Cmd;
    type Request = BatchCommandsRequest;
    type Reply = BatchCommandsResponse;

    fn open(
        &self,
        requests: ReceiverStream<BatchCommandsRequest>,
    ) -> impl Future<Output = Result<Response<Streaming<BatchCommandsResponse>>, Status>> + Send + 'static
    {
        let mut store = self.store.clone();
        async move { store.batch_commands(requests).await }
    }

    fn request(&mut self, asked: Vec<Asked<request::Cmd, response::Cmd>>) -> BatchCommandsRequest {
        let mut message = BatchCommandsRequest::default();
        for Asked { question, answer } in asked {
            message.requests.push(Request { cmd: Some(question) });
            message.request_ids.push(self.next);
            self.waiting.insert(self.next, answer);
            self.next += 1;
        }
        message
    }

    fn reply(&mut self, reply: BatchCommandsResponse) {
        for (id, response) in reply.request_ids.into_iter().zip(reply.responses) {
            // A client that has given up hears nothing.
            let Some(answer) = self.waiting.remove(&id) else { continue };
            let unknown = || Status::unimplemented("the store does not know this command");
            let _ = answer.send(response.cmd.ok_or_else(unknown));
        }
    }

    fn broken(&mut self, status: &Status) {
        for (_, answer) in std::mem::take(&mut self.waiting) {
            let _ = answer.send(Err(status.clone()));
        }
    }
}
