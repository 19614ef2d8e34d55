//! Bounds the memory that requests occupy while they arrive and are served.
//!
//! Clients may send messages of any size up to a cap, many at a time, so a limit on the size of one
//! message alone bounds nothing. [`AdmissionLayer`] reads along as the bytes of a request pass:
//!
//! 1. every gRPC message begins with five bytes, a flag and its length;
//! 2. a message of up to [`FREE_BYTES`] passes at once: small requests are bounded by the number of
//!    streams, and nobody who sends huge ones can hold them up;
//! 3. a longer one waits, before its last header byte is passed on, until the budget has room for its
//!    whole length: nothing of it has been buffered yet, so two half-received messages never wait for
//!    each other, and HTTP/2 flow control keeps the rest with the client;
//! 4. the room is given back when the answer is ready and the message has been consumed or, on a
//!    stream, when the next message begins.
//!
//! Streams between stores are not measured: see [`BETWEEN_STORES`]. A stream of commands goes on with the next message
//! while those of the last are still served, so it takes the room over ([`Room::take`]) and keeps it until they are.
//!
//! **Invariant.** The lengths of all long messages inside the server never exceed the budget, except
//! that one message longer than the whole budget may be there alone.
//!
//! What it does not do: it does not refuse a message longer than the cap (the decoder does, before it
//! reserves memory), it counts a compressed message as [`COMPRESSION_FACTOR`] times its length rather
//! than by what it unpacks to, and it does not count answers.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::BodyDataStream;
use axum::http::{Request, Response};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::Stream;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

/// Messages up to this length need no room in the budget.
pub const FREE_BYTES: usize = 64 << 10;

/// How much larger than its compressed length a message is taken to be.
pub const COMPRESSION_FACTOR: usize = 8;

/// How long a message may wait for room. Clients that set a deadline give up on their own, sooner.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Calls between stores: they bound their own memory, and pass at once. Writes of clients hold room until raft has
/// replicated them: if raft waited for that room, both would wait for ever.
const BETWEEN_STORES: [&str; 2] = ["/tikvpb.Tikv/BatchRaft", "/tikvpb.Tikv/Snapshot"];

/// The stream whose messages are served beside each other. It finds its [`Room`] among the request's extensions.
const TAKES_ROOM_OVER: &str = "/tikvpb.Tikv/BatchCommands";

/// Permits of the semaphore are this many bytes each, so that their number fits its counter.
const BYTES_PER_PERMIT: usize = 1 << 10;

/// Length of the header of a gRPC message.
const HEADER_BYTES: usize = 5;

/// Puts [`AdmissionService`] before every service of a server.
#[derive(Clone)]
pub struct AdmissionLayer {
    budget: Arc<Budget>,
}

impl AdmissionLayer {
    /// A budget of `bytes_max` for all connections together.
    pub fn new(bytes_max: usize) -> AdmissionLayer {
        let permits = (bytes_max / BYTES_PER_PERMIT).clamp(1, Semaphore::MAX_PERMITS);
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        let semaphore = Arc::new(Semaphore::new(permits as usize));
        AdmissionLayer { budget: Arc::new(Budget { semaphore, permits }) }
    }
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = AdmissionService<S>;

    fn layer(&self, inner: S) -> AdmissionService<S> {
        AdmissionService { inner, budget: Arc::clone(&self.budget) }
    }
}

/// Lets requests through to `inner` while the budget has room.
#[derive(Clone)]
pub struct AdmissionService<S> {
    inner: S,
    budget: Arc<Budget>,
}

impl<S, B> Service<Request<Body>> for AdmissionService<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if BETWEEN_STORES.contains(&request.uri().path()) {
            return Box::pin(self.inner.call(request));
        }
        let room = Room::default();
        let (mut parts, body) = request.into_parts();
        if parts.uri.path() == TAKES_ROOM_OVER {
            parts.extensions.insert(room.clone());
        }
        let measured = MeasuredBody {
            inner: axum::body::Body::new(body).into_data_stream(),
            frames: FrameReader::default(),
            chunk: Bytes::new(),
            waiting: None,
            budget: Arc::clone(&self.budget),
            room: room.clone(),
        };
        let body = Body::new(axum::body::Body::from_stream(measured));
        let answer = self.inner.call(Request::from_parts(parts, body));
        Box::pin(async move {
            // A unary handler has dropped its body long before it answers: this clone keeps the room.
            let _room = room;
            answer.await
        })
    }
}

/// What all connections share.
struct Budget {
    semaphore: Arc<Semaphore>,
    permits: u32,
}

impl Budget {
    /// Waits for room for a message of `bytes`.
    async fn take(self: Arc<Self>, bytes: usize) -> Result<OwnedSemaphorePermit, Status> {
        let wanted = u32::try_from(bytes.div_ceil(BYTES_PER_PERMIT)).unwrap_or(u32::MAX);
        let permits = wanted.min(self.permits);
        let acquired = Arc::clone(&self.semaphore).acquire_many_owned(permits);
        match tokio::time::timeout(WAIT_MAX, acquired).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(Status::unavailable("the server is stopping")),
            Err(_) => Err(Status::resource_exhausted(format!(
                "no memory for a request of {bytes} bytes: requests in flight have held all {} bytes \
                 of server.inflight-bytes-max for {} s",
                self.permits as usize * BYTES_PER_PERMIT,
                WAIT_MAX.as_secs(),
            ))),
        }
    }
}

/// The room that the present message of one request holds, shared by its body and its answer.
#[derive(Clone, Default)]
pub struct Room(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Room {
    /// The room of the message that was received last, if it is a long one: from now on the caller's to keep.
    pub fn take(&self) -> Option<OwnedSemaphorePermit> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn replace(&self, permit: Option<OwnedSemaphorePermit>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = permit;
    }
}

type Waiting = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, Status>> + Send>>;

/// The body of a request, passed on piece by piece as there is room.
struct MeasuredBody {
    inner: BodyDataStream,
    frames: FrameReader,
    /// What has arrived and was not passed on yet.
    chunk: Bytes,
    /// Set while a long message waits for room.
    waiting: Option<Waiting>,
    budget: Arc<Budget>,
    room: Room,
}

impl Stream for MeasuredBody {
    type Item = Result<Bytes, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Status>>> {
        let this = &mut *self;
        loop {
            if let Some(waiting) = &mut this.waiting {
                match std::task::ready!(waiting.as_mut().poll(context)) {
                    Ok(permit) => this.room.replace(Some(permit)),
                    Err(status) => return Poll::Ready(Some(Err(status))),
                }
                this.waiting = None;
            }
            if !this.chunk.is_empty() {
                let step = this.frames.advance(&this.chunk);
                if step.starts_message {
                    // Whatever came before has been consumed, or the next would not be read.
                    this.room.replace(None);
                }
                if step.room_needed > 0 {
                    this.waiting = Some(Box::pin(Arc::clone(&this.budget).take(step.room_needed)));
                }
                let passed = this.chunk.split_to(step.passed);
                if !passed.is_empty() {
                    return Poll::Ready(Some(Ok(passed)));
                }
                continue;
            }
            match std::task::ready!(Pin::new(&mut this.inner).poll_next(context)) {
                Some(Ok(chunk)) => this.chunk = chunk,
                Some(Err(error)) => {
                    return Poll::Ready(Some(Err(Status::from_error(error.into()))));
                }
                None => return Poll::Ready(None),
            }
        }
    }
}

/// What [`FrameReader::advance`] found at the front of a chunk.
#[derive(Debug, Default, PartialEq, Eq)]
struct Step {
    /// So many bytes may be passed on.
    passed: usize,
    /// If not 0, the rest must wait for this much room.
    room_needed: usize,
    /// Whether a header began among the bytes passed.
    starts_message: bool,
}

/// Follows the gRPC framing of a body, which may be cut into chunks anywhere.
#[derive(Default)]
struct FrameReader {
    header: [u8; HEADER_BYTES],
    /// How much of `header` has been read.
    header_filled: usize,
    /// Bytes of the present message that are still to come.
    payload_left: usize,
    /// Set from when room for a long message was asked for, its header then being withheld by one byte,
    /// until the message has passed.
    holds_room: bool,
}

impl FrameReader {
    /// Reads as far into `chunk` as may be passed on. What is not passed is given again next time.
    fn advance(&mut self, chunk: &[u8]) -> Step {
        let mut step = Step::default();
        while step.passed < chunk.len() {
            if self.payload_left > 0 {
                let length = self.payload_left.min(chunk.len() - step.passed);
                self.payload_left -= length;
                step.passed += length;
                if self.payload_left == 0 && std::mem::take(&mut self.holds_room) {
                    // The next message is looked at only when this one was consumed.
                    return step;
                }
                continue;
            }
            self.header[self.header_filled] = chunk[step.passed];
            step.starts_message |= self.header_filled == 0;
            if self.header_filled + 1 == HEADER_BYTES {
                let room = self.room_for_message();
                if room > FREE_BYTES && !self.holds_room {
                    self.holds_room = true;
                    step.room_needed = room;
                    return step;
                }
                self.payload_left = self.message_bytes();
                self.header_filled = 0;
            } else {
                self.header_filled += 1;
            }
            step.passed += 1;
        }
        step
    }

    fn message_bytes(&self) -> usize {
        let [_, length @ ..] = self.header;
        u32::from_be_bytes(length) as usize
    }

    fn room_for_message(&self) -> usize {
        let compressed = self.header[0] != 0;
        let factor = if compressed { COMPRESSION_FACTOR } else { 1 };
        self.message_bytes().saturating_mul(factor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(length: usize, compressed: bool) -> Vec<u8> {
        let mut bytes = vec![u8::from(compressed)];
        bytes.extend(u32::try_from(length).unwrap().to_be_bytes());
        bytes.extend(vec![7; length]);
        bytes
    }

    /// Feeds `bytes` in pieces of `piece` bytes; answers what passed and which rooms were asked for.
    fn feed(bytes: &[u8], piece: usize) -> (usize, Vec<usize>, usize) {
        let mut reader = FrameReader::default();
        let (mut passed, mut rooms, mut starts) = (0, Vec::new(), 0);
        for chunk in bytes.chunks(piece) {
            let mut rest = chunk;
            while !rest.is_empty() {
                let step = reader.advance(rest);
                passed += step.passed;
                starts += usize::from(step.starts_message);
                rest = &rest[step.passed..];
                if step.room_needed > 0 {
                    rooms.push(step.room_needed);
                }
            }
        }
        (passed, rooms, starts)
    }

    #[test]
    fn only_long_messages_ask_for_room_and_compressed_ones_for_more() {
        let mut bytes = message(10, false);
        bytes.extend(message(FREE_BYTES, false));
        bytes.extend(message(FREE_BYTES + 1, false));
        bytes.extend(message(0, false));
        bytes.extend(message(FREE_BYTES, true));
        let (passed, rooms, _) = feed(&bytes, bytes.len());
        assert_eq!(passed, bytes.len());
        assert_eq!(rooms, [FREE_BYTES + 1, FREE_BYTES * COMPRESSION_FACTOR]);
    }

    #[test]
    fn the_last_header_byte_of_a_long_message_is_withheld_until_there_is_room() {
        let bytes = message(FREE_BYTES + 1, false);
        let mut reader = FrameReader::default();
        let first = reader.advance(&bytes);
        assert_eq!((first.passed, first.room_needed), (HEADER_BYTES - 1, FREE_BYTES + 1));
        let rest = reader.advance(&bytes[first.passed..]);
        assert_eq!((rest.passed, rest.room_needed), (bytes.len() - first.passed, 0));
    }

    proptest! {
        #[test]
        fn how_a_body_is_cut_into_chunks_changes_nothing(
            lengths in prop::collection::vec(0..2 * FREE_BYTES, 1..4),
            piece in 1..3 * FREE_BYTES,
        ) {
            let bytes: Vec<u8> = lengths.iter().flat_map(|&length| message(length, false)).collect();
            let long: Vec<usize> = lengths.into_iter().filter(|&length| length > FREE_BYTES).collect();
            let (passed, rooms, _) = feed(&bytes, piece);
            prop_assert_eq!(passed, bytes.len());
            prop_assert_eq!(rooms, long);
        }
    }

    #[tokio::test]
    async fn a_long_message_waits_for_another_and_one_beyond_the_budget_goes_alone() {
        let budget = AdmissionLayer::new(1 << 20).budget;
        let first = Arc::clone(&budget).take(5 << 20).await.expect("the budget is free");
        assert_eq!(budget.semaphore.available_permits(), 0, "it takes all there is");
        let mut second = Box::pin(Arc::clone(&budget).take(1));
        let waits = tokio::time::timeout(Duration::ZERO, &mut second).await;
        assert!(waits.is_err(), "there is no room yet");
        drop(first);
        let _room = second.await.expect("the first has gone");
    }
}
