//! A client of BatchCommands: many commands through one stream, as the Go client sends them.
//!
//! It numbers commands, sends them in the frames that it is given, and hands out answers as they come. It repeats
//! nothing and checks nothing: tests want to see each answer.

use skerry_proto::tikvpb::batch_commands_request::Request;
use skerry_proto::tikvpb::batch_commands_request::request::Cmd as Command;
use skerry_proto::tikvpb::batch_commands_response::response::Cmd as Answer;
use skerry_proto::tikvpb::tikv_client::TikvClient;
use skerry_proto::tikvpb::{BatchCommandsRequest, BatchCommandsResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Frames between the test and its connection.
const FRAMES_WAITING_MAX: usize = 64;

/// A stream and its next number.
pub struct CommandStream {
    frames: mpsc::Sender<BatchCommandsRequest>,
    answers: Streaming<BatchCommandsResponse>,
    next_id: u64,
}

/// Answers that came in one frame, with the numbers of their commands.
pub type Answers = Vec<(u64, Option<Answer>)>;

impl CommandStream {
    /// Opens a stream.
    pub async fn open(mut store: TikvClient<Channel>) -> Result<CommandStream, Status> {
        let (frames, outbound) = mpsc::channel(FRAMES_WAITING_MAX);
        let answers = store.batch_commands(ReceiverStream::new(outbound)).await?.into_inner();
        Ok(CommandStream { frames, answers, next_id: 1 })
    }

    /// Sends commands in one frame; answers the number of the first, which the others follow. A stream that the
    /// store has ended takes them and drops them: its answers say why it has.
    pub async fn send(&mut self, commands: impl IntoIterator<Item = Command>) -> u64 {
        let first = self.next_id;
        let requests: Vec<_> =
            commands.into_iter().map(|command| Request { cmd: Some(command) }).collect();
        self.next_id += requests.len() as u64;
        let request_ids = (first..self.next_id).collect();
        let frame = BatchCommandsRequest { requests, request_ids, ..Default::default() };
        self.send_frame(frame).await;
        first
    }

    /// Sends a frame made by hand.
    pub async fn send_frame(&mut self, frame: BatchCommandsRequest) {
        let _ = self.frames.send(frame).await;
    }

    /// The answers of the next frame; none at the end of the stream.
    pub async fn next(&mut self) -> Result<Option<Answers>, Status> {
        let Some(frame) = self.answers.message().await? else { return Ok(None) };
        let BatchCommandsResponse { responses, request_ids, .. } = frame;
        assert_eq!(responses.len(), request_ids.len(), "a number for each answer");
        let answers = responses.into_iter().map(|response| response.cmd);
        Ok(Some(request_ids.into_iter().zip(answers).collect()))
    }

    /// Takes answers until there are `count`.
    pub async fn take(&mut self, count: usize) -> Result<Answers, Status> {
        let mut taken = Vec::new();
        while taken.len() < count {
            let ended = || Status::aborted("the stream has ended");
            taken.extend(self.next().await?.ok_or_else(ended)?);
        }
        Ok(taken)
    }
}
