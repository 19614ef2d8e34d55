//! Many callers, one stream: what they ask at the same time travels together. For `BatchCommands` and for timestamps,
//! as client libraries do it.
//!
//! 1. A caller puts its question into a bounded queue and waits for its own answer ([`Shared::ask`]).
//! 2. One task owns the stream. It takes what waits, as one message, and hands answers to whom they belong.
//! 3. When the stream breaks, everybody who waits is told, and the next question opens a new one.
//!
//! What travels is up to a [`Conversation`].

use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

/// Questions that wait for the task.
const WAITING_MAX: usize = 16_384;
/// Questions of one message.
const TOGETHER_MAX: usize = 256;
/// Messages that wait for the network.
const MESSAGES_MAX: usize = 2;

/// What is asked and answered on a stream.
pub(super) trait Conversation: Send + 'static {
    /// One caller's.
    type Question: Send + 'static;
    /// One caller's.
    type Answer: Send + 'static;
    /// A message to the server.
    type Request: Send + 'static;
    /// A message from it.
    type Reply: Send + 'static;

    /// Opens the stream.
    fn open(
        &self,
        requests: ReceiverStream<Self::Request>,
    ) -> impl Future<Output = Result<Response<Streaming<Self::Reply>>, Status>> + Send + 'static;

    /// Whether another message may be sent now, or an answer is waited for first.
    fn may_ask(&self) -> bool {
        true
    }

    /// Makes one message of questions. Whoever waits for them is kept.
    fn request(&mut self, asked: Vec<Asked<Self::Question, Self::Answer>>) -> Self::Request;

    /// Hands the answers of a message out.
    fn reply(&mut self, reply: Self::Reply);

    /// Tells all who wait.
    fn broken(&mut self, status: &Status);
}

/// A question, and where its answer goes.
pub(super) struct Asked<Q, A> {
    pub(super) question: Q,
    pub(super) answer: Waiter<A>,
}

/// Takes one answer.
pub(super) type Waiter<A> = oneshot::Sender<Result<A, Status>>;

/// See the module.
#[derive(Debug)]
pub(super) struct Shared<C: Conversation> {
    questions: mpsc::Sender<Asked<C::Question, C::Answer>>,
}

impl<C: Conversation> Clone for Shared<C> {
    fn clone(&self) -> Shared<C> {
        Shared { questions: self.questions.clone() }
    }
}

impl<C: Conversation> Shared<C> {
    /// Begins; the stream is opened with the first question.
    pub(super) fn new(conversation: C) -> Shared<C> {
        let (questions, waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(converse(conversation, waiting));
        Shared { questions }
    }

    /// Asks, and waits for the answer.
    pub(super) async fn ask(&self, question: C::Question) -> Result<C::Answer, Status> {
        let ended = || Status::unavailable("the stream has ended");
        let (answer, answered) = oneshot::channel();
        self.questions.send(Asked { question, answer }).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

/// Holds one stream after the other, until nobody can ask any more.
async fn converse<C: Conversation>(
    mut conversation: C,
    mut waiting: mpsc::Receiver<Asked<C::Question, C::Answer>>,
) {
    while let Some(first) = waiting.recv().await {
        if let Err(status) = on_one_stream(&mut conversation, first, &mut waiting).await {
            conversation.broken(&status);
        }
    }
}

async fn on_one_stream<C: Conversation>(
    conversation: &mut C,
    first: Asked<C::Question, C::Answer>,
    waiting: &mut mpsc::Receiver<Asked<C::Question, C::Answer>>,
) -> Result<(), Status> {
    let (requests, outgoing) = mpsc::channel(MESSAGES_MAX);
    let mut opening = std::pin::pin!(conversation.open(ReceiverStream::new(outgoing)));
    let (mut held, mut replies) = (Some(first), None);
    loop {
        // A server may answer the call itself only with its first message: questions do not wait for it.
        tokio::select! {
            opened = &mut opening, if replies.is_none() => replies = Some(opened?.into_inner()),
            reply = next(&mut replies), if replies.is_some() => conversation.reply(reply?),
            asked = waiting.recv(), if held.is_none() => match asked {
                Some(asked) => held = Some(asked),
                None => return Ok(()),
            },
            room = requests.reserve(), if held.is_some() && conversation.may_ask() => {
                let room = room.map_err(|_| Status::unavailable("the stream is closed"))?;
                let mut together: Vec<_> = held.take().into_iter().collect();
                while together.len() < TOGETHER_MAX && let Ok(asked) = waiting.try_recv() {
                    together.push(asked);
                }
                room.send(conversation.request(together));
            }
        }
    }
}

async fn next<R>(replies: &mut Option<Streaming<R>>) -> Result<R, Status> {
    let Some(replies) = replies else { return std::future::pending().await };
    let reply = replies.message().await?;
    reply.ok_or_else(|| Status::unavailable("the server has closed the stream"))
}
