//! BatchCommands: a stream of many commands, each answered as it is done, in any order.
//!
//! 1. A *frame* arrives: commands, and for each a number that its client has chosen. It waits until the server has
//!    room for it ([`CommandRoom`]).
//! 2. Its commands begin, at most [`COMMANDS_MAX`] of a stream at a time. Each is the same call as outside of a stream
//!    ([`super::commands`]): same code, same permits, same errors.
//! 3. Answers that are ready at the same moment leave in one frame. None waits for another.
//!
//! One task drives a stream and all of its commands: a command costs no task of its own, and those that wait are asked
//! again only when they are woken. The task goes on asking them when its client does not read: a command that was
//! given a permit or a latch and is not driven on would hold up everybody else.
//!
//! # When it does not go well
//!
//! * A client that does not read its answers, and one that has [`COMMANDS_MAX`] commands under way, is not read from:
//!   HTTP/2 flow control keeps the rest with it.
//! * A frame that cannot be read, or names more or fewer numbers than commands, ends its stream with an error. So does
//!   the end of the store, after the commands under way are answered.
//! * A client that goes away is not answered: its reads are dropped, its accepted writes happen.
//! * What a call outside of a stream ends with a gRPC status becomes a region error in its own answer.
//!
//! **Invariant.** Every command of a frame that was read is answered exactly once, unless the stream ends first.
//!
//! What it does not do: no order between commands, no deadline of its own (each has its own), no limit on answers that
//! a slow client leaves behind but their number.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::iter::Zip;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use futures_util::stream::FuturesUnordered;
use skerry_proto::tikvpb::batch_commands_request::Request as Command;
use skerry_proto::tikvpb::batch_commands_response::Response as Answer;
use skerry_proto::tikvpb::{BatchCommandsRequest, BatchCommandsResponse};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{KvService, commands};
use crate::server::admission::Room;

/// Commands of one stream that are under way or answered and not taken by the client.
pub(super) const COMMANDS_MAX: usize = 4_096;
/// Commands that begin, one after another, before others of the same thread have their turn.
const BEGUN_MAX: usize = 128;
/// Answers in one frame.
const ANSWERS_MAX: usize = 128;
/// Frames of answers between the task of a stream and its connection.
const FRAMES_WAITING_MAX: usize = 2;
/// What a command takes while it is under way, besides the frame that it came in.
const COMMAND_BYTES: usize = 1 << 10;
/// Room for the commands of all streams of a server. A frame takes room for its bytes and for its commands and gives
/// it back when the last of them is done, because they share its bytes. Clones share it.
#[derive(Clone)]
pub(super) struct CommandRoom {
    /// Permits are [`COMMAND_BYTES`] each, so that their number fits its counter.
    semaphore: Arc<Semaphore>,
    permits: usize,
}

impl CommandRoom {
    pub(super) fn new(bytes_max: usize) -> CommandRoom {
        let permits = (bytes_max / COMMAND_BYTES).clamp(1, u32::MAX as usize / 2);
        CommandRoom { semaphore: Arc::new(Semaphore::new(permits)), permits }
    }

    /// A frame that was long enough to bring `room` for its bytes needs only that for its commands. One that needs more
    /// than there is waits until it has all of it.
    async fn take(self, frame: Frame, room: Option<OwnedSemaphorePermit>) -> (Frame, Held) {
        let bytes = if room.is_some() { 0 } else { frame.bytes };
        let permits = frame.commands.len().min(COMMANDS_MAX) + bytes.div_ceil(COMMAND_BYTES);
        let permits = u32::try_from(permits.min(self.permits)).expect("clamped above");
        let permit = self.semaphore.acquire_many_owned(permits).await;
        (frame, Held { _permit: permit.expect("it is never closed"), _room: room })
    }
}

/// What a frame holds until its last command is done.
struct Held {
    _permit: OwnedSemaphorePermit,
    _room: Option<OwnedSemaphorePermit>,
}

type Answers = Result<BatchCommandsResponse, Status>;

/// Serves the commands of `inbound`, whose long frames bring `room`.
pub(super) fn serve<S>(service: KvService, inbound: S, room: Room) -> ReceiverStream<Answers>
where
    S: Stream<Item = Result<BatchCommandsRequest, Status>> + Send + Unpin + 'static,
{
    let (outbound, answers) = mpsc::channel(FRAMES_WAITING_MAX);
    tokio::spawn(drive(service, inbound, room, outbound));
    ReceiverStream::new(answers)
}

/// The life of a stream.
async fn drive<S>(service: KvService, inbound: S, room: Room, outbound: mpsc::Sender<Answers>)
where
    S: Stream<Item = Result<BatchCommandsRequest, Status>> + Unpin,
{
    let mut stop = pin!(service.home.stop());
    let mut gone = pin!(outbound.closed());
    let mut intake = Intake::new(inbound, room, service.home.command_room.clone());
    let mut running = FuturesUnordered::new();
    let mut done = VecDeque::new();
    let mut told_score = 0;
    let mut end = None;
    loop {
        let room = COMMANDS_MAX - running.len() - done.len();
        for (command, id, held) in intake.by_ref().take(room.min(BEGUN_MAX)) {
            running.push(run(&service, id, command, held));
        }
        if intake.is_over() && running.is_empty() && done.is_empty() {
            break;
        }
        let has_room = running.len() + done.len() < COMMANDS_MAX;
        tokio::select! {
            biased;
            () = &mut gone => return,
            () = gather(&mut running, &mut done), if !running.is_empty() => {}
            place = outbound.reserve(), if !done.is_empty() => match place {
                Ok(place) => place.send(Ok(frame(&service, &mut done, &mut told_score))),
                Err(_closed) => return,
            },
            () = &mut stop, if end.is_none() => {
                intake.close();
                end = Some(Status::unavailable("the store is stopping"));
            }
            () = tokio::task::yield_now(), if has_room && intake.has_next() => {}
            read = intake.read(), if has_room && intake.may_read() => if let Err(status) = read {
                end = Some(status);
                break;
            },
        }
    }
    // What is not driven on must not keep what others wait for.
    drop(running);
    if let Some(status) = end {
        // Whoever is gone needs no reason.
        let _ = outbound.send(Err(status)).await;
    }
}

async fn run(service: &KvService, id: u64, command: Command, held: Arc<Held>) -> (u64, Answer) {
    let answer = match command.cmd {
        Some(command) => commands::run(service, command).await,
        // One that does not exist here. Clients know what an answer without anything means.
        None => Answer { cmd: None },
    };
    drop(held);
    (id, answer)
}

/// Waits until a command is done, and takes all that are.
async fn gather<F>(running: &mut FuturesUnordered<F>, done: &mut VecDeque<(u64, Answer)>)
where
    F: Future<Output = (u64, Answer)>,
{
    let before = done.len();
    poll_fn(|context| {
        while let Poll::Ready(Some(answer)) = Pin::new(&mut *running).poll_next(context) {
            done.push_back(answer);
        }
        if done.len() > before { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// The next frame of answers. The store's health is told when it has changed.
fn frame(
    service: &KvService,
    done: &mut VecDeque<(u64, Answer)>,
    told_score: &mut i32,
) -> BatchCommandsResponse {
    let count = done.len().min(ANSWERS_MAX);
    let (request_ids, responses) = done.drain(..count).unzip();
    let feedback = service.home.feedback();
    let is_news = feedback.slow_score != std::mem::replace(told_score, feedback.slow_score);
    let health_feedback = is_news.then_some(feedback);
    BatchCommandsResponse { responses, request_ids, health_feedback, ..Default::default() }
}

/// A frame that was read and found to be one.
struct Frame {
    commands: Vec<Command>,
    ids: Vec<u64>,
    /// Its length on the wire.
    bytes: usize,
}

type Waiting = Pin<Box<dyn Future<Output = (Frame, Held)> + Send>>;

/// Where commands come in: one frame at a time.
struct Intake<S> {
    /// None when nothing more is read.
    inbound: Option<S>,
    /// Of the frame that was read last.
    room: Room,
    command_room: CommandRoom,
    /// A frame that waits for room.
    waiting: Option<Waiting>,
    /// What has not begun of the frame that has room.
    commands: Zip<std::vec::IntoIter<Command>, std::vec::IntoIter<u64>>,
    held: Option<Arc<Held>>,
}

impl<S> Intake<S>
where
    S: Stream<Item = Result<BatchCommandsRequest, Status>> + Unpin,
{
    fn new(inbound: S, room: Room, command_room: CommandRoom) -> Intake<S> {
        let commands = Vec::new().into_iter().zip(Vec::new());
        Intake { inbound: Some(inbound), room, command_room, waiting: None, commands, held: None }
    }

    /// Reads nothing more, and forgets what has not begun.
    fn close(&mut self) {
        (self.inbound, self.waiting, self.held) = (None, None, None);
        self.commands = Vec::new().into_iter().zip(Vec::new());
    }

    fn is_open(&self) -> bool {
        self.inbound.is_some() || self.waiting.is_some()
    }

    /// Whether commands of the last frame have not begun.
    fn has_next(&self) -> bool {
        self.commands.len() > 0
    }

    fn may_read(&self) -> bool {
        self.is_open() && !self.has_next()
    }

    fn is_over(&self) -> bool {
        !self.is_open() && !self.has_next()
    }

    /// Reads a frame and waits for room for it, when all commands of the last one have begun. Giving the wait up loses
    /// nothing.
    async fn read(&mut self) -> Result<(), Status> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                let (frame, held) = waiting.await;
                self.waiting = None;
                self.held = Some(Arc::new(held));
                self.commands = frame.commands.into_iter().zip(frame.ids);
                return Ok(());
            }
            let Some(inbound) = &mut self.inbound else { return Ok(()) };
            match poll_fn(|context| Pin::new(&mut *inbound).poll_next(context)).await {
                Some(frame) => {
                    let frame = check(frame?)?;
                    let room = self.room.take();
                    self.waiting = Some(Box::pin(self.command_room.clone().take(frame, room)));
                }
                None => self.inbound = None,
            }
        }
    }
}

impl<S> Iterator for Intake<S> {
    type Item = (Command, u64, Arc<Held>);

    /// The next command to begin.
    fn next(&mut self) -> Option<(Command, u64, Arc<Held>)> {
        let Some((command, id)) = self.commands.next() else {
            self.held = None;
            return None;
        };
        let held = self.held.clone().expect("a frame whose commands begin has room");
        Some((command, id, held))
    }
}

fn check(frame: BatchCommandsRequest) -> Result<Frame, Status> {
    let bytes = prost::Message::encoded_len(&frame);
    let BatchCommandsRequest { requests: commands, request_ids: ids, .. } = frame;
    if commands.len() != ids.len() {
        let (commands, ids) = (commands.len(), ids.len());
        let reason = format!("a frame of {commands} commands names {ids} request_ids");
        return Err(Status::invalid_argument(reason));
    }
    Ok(Frame { commands, ids, bytes })
}
