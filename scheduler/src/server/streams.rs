//! The streams: request by request (Tso, QueryRegion), and heartbeats of regions.
//! Used by `placement.rs`.
//!
//! A store has one stream of heartbeats, for all regions that it leads. On it the scheduler says four things:
//! that a heartbeat is refused, what its leader shall do, the same unasked when something has been decided, and,
//! when it has had nothing to say for long, that it is alive.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use skerry_proto::pdpb::{
    ChangePeerV2, RegionHeartbeatRequest, RegionHeartbeatResponse, SplitRegion, TransferLeader,
};
use skerry_proto::types::{RegionId, StoreId};
use slog::{debug, info, warn};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::MissedTickBehavior;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::Shared;
use super::reply::{admit, header, reply, stopping};
use crate::Error;
use crate::cluster::Instruction;
use crate::operator::Order;

/// Requests that are answered together, so that a client that sends faster than it is answered costs
/// less for each.
const GATHERED_MAX: usize = 128;

/// Messages that wait for a store to read them. When it is full a message is dropped: the store will
/// report again, and be told again.
const HEARTBEAT_ANSWERS_MAX: usize = 64;

/// The answers to a batch of requests, in their order; after an error there are no more.
type Work<A> = Pin<Box<dyn Future<Output = Vec<Result<A, Status>>> + Send>>;

/// Answers each request of a stream, in order. As a value it is ready at once, so that the client gets
/// its response headers before it has asked anything.
///
/// It takes what has arrived, answers all of it, and only then reads on: a client that does not read its
/// answers is not read from.
pub(super) struct Answers<Q, A> {
    /// None when the client has sent its last request, or an error was answered.
    inbound: Option<Streaming<Q>>,
    work: Box<dyn Fn(Vec<Q>) -> Work<A> + Send>,
    working: Option<Work<A>>,
    ready: VecDeque<Result<A, Status>>,
    stop: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl<Q, A> Answers<Q, A> {
    /// Answers the requests of `inbound` by `work`, until the server stops.
    pub(super) fn new(
        shared: &Shared,
        inbound: Streaming<Q>,
        work: impl Fn(Vec<Q>) -> Work<A> + Send + 'static,
    ) -> Answers<Q, A> {
        let mut stop = shared.stop.subscribe();
        Answers {
            inbound: Some(inbound),
            work: Box::new(work),
            working: None,
            ready: VecDeque::new(),
            stop: Box::pin(async move {
                let _ = stop.wait_for(|stop| *stop).await;
            }),
        }
    }

    /// What has arrived. Empty if the stream is at its end.
    fn poll_gather(&mut self, context: &mut Context<'_>) -> Poll<Vec<Q>> {
        let mut gathered = Vec::new();
        while let Some(inbound) = &mut self.inbound {
            match Pin::new(inbound).poll_next(context) {
                Poll::Ready(Some(Ok(request))) => gathered.push(request),
                // A client that breaks off is not told why.
                Poll::Ready(Some(Err(_)) | None) => self.inbound = None,
                Poll::Pending if gathered.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
            if gathered.len() == GATHERED_MAX {
                break;
            }
        }
        Poll::Ready(gathered)
    }

    fn end(&mut self, with: Status) -> Poll<Option<Result<A, Status>>> {
        self.inbound = None;
        self.working = None;
        self.ready.clear();
        Poll::Ready(Some(Err(with)))
    }
}

impl<Q, A: Unpin> Stream for Answers<Q, A> {
    type Item = Result<A, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            match this.ready.pop_front() {
                Some(Ok(answer)) => return Poll::Ready(Some(Ok(answer))),
                Some(Err(status)) => return this.end(status),
                None if this.inbound.is_none() && this.working.is_none() => {
                    return Poll::Ready(None);
                }
                None => {}
            }
            if this.stop.as_mut().poll(context).is_ready() {
                return this.end(stopping());
            }
            if let Some(working) = &mut this.working {
                this.ready.extend(ready!(working.as_mut().poll(context)));
                this.working = None;
                continue;
            }
            let gathered = ready!(this.poll_gather(context));
            if !gathered.is_empty() {
                this.working = Some((this.work)(gathered));
            }
        }
    }
}

/// Reads a store's heartbeats of regions in a task of their own; answers the stream of what the store is
/// told.
pub(super) fn heartbeats(
    shared: Arc<Shared>,
    inbound: Streaming<RegionHeartbeatRequest>,
) -> impl Stream<Item = Result<RegionHeartbeatResponse, Status>> {
    let (sender, receiver) = mpsc::channel(HEARTBEAT_ANSWERS_MAX);
    tokio::spawn(read_heartbeats(shared, inbound, sender));
    ReceiverStream::new(receiver)
}

/// What makes a stream of heartbeats say something.
enum StreamEvent {
    Report(Box<RegionHeartbeatRequest>),
    News,
    Quiet,
    Stop,
}

async fn read_heartbeats(
    shared: Arc<Shared>,
    mut inbound: Streaming<RegionHeartbeatRequest>,
    outbound: mpsc::Sender<Result<RegionHeartbeatResponse, Status>>,
) {
    let mut stop = shared.stop.subscribe();
    let mut news = shared.news.subscribe();
    let mut speaker = None;
    let mut keep_alive = tokio::time::interval(Duration::from_millis(shared.config.keep_alive_ms));
    keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    keep_alive.reset();
    loop {
        let event = tokio::select! {
            report = inbound.message() => match report {
                Ok(Some(report)) => StreamEvent::Report(Box::new(report)),
                Ok(None) | Err(_) => return,
            },
            // Its sender lives in `shared`.
            _ = news.changed() => StreamEvent::News,
            _ = keep_alive.tick() => StreamEvent::Quiet,
            _ = stop.wait_for(|stop| *stop) => StreamEvent::Stop,
            () = outbound.closed() => return,
        };
        let answer = match event {
            StreamEvent::Report(report) => {
                speaker = report.leader.map(|leader| leader.store());
                on_report(&shared, *report).await
            }
            StreamEvent::News => {
                tell_all(&shared, speaker, &outbound).await;
                None
            }
            StreamEvent::Quiet => Some(Ok(RegionHeartbeatResponse {
                header: header(&shared),
                ..RegionHeartbeatResponse::default()
            })),
            StreamEvent::Stop => Some(Err(stopping())),
        };
        let Some(answer) = answer else { continue };
        let last = answer.is_err();
        match outbound.try_send(answer) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                warn!(shared.logger, "a store does not read its heartbeat answers; one is dropped");
            }
            Err(TrySendError::Closed(_)) => return,
        }
        if last {
            return;
        }
    }
}

/// Records one heartbeat. It is answered if it is refused, or if its leader has something to do.
async fn on_report(
    shared: &Arc<Shared>,
    report: RegionHeartbeatRequest,
) -> Option<Result<RegionHeartbeatResponse, Status>> {
    if let Err(status) = admit(shared, report.header.as_ref()) {
        return Some(Err(status));
    }
    let target_peer = report.leader;
    let region = report.region.as_ref().map(|region| region.region_id());
    let result = shared.cluster().region_heartbeat(report, shared.now());
    match &result {
        Ok(()) => {
            let speaker = target_peer.expect("none is accepted without").store();
            let region = region.expect("none is accepted without");
            return next_step(shared, region, speaker).await.map(Ok);
        }
        // Expected after every split and change of leader.
        Err(Error::StaleRegion(reason)) => debug!(shared.logger, "heartbeat refused: {}", reason),
        Err(error) => warn!(shared.logger, "heartbeat refused: {}", error),
    }
    let refusal = reply(shared, result, |header, _| RegionHeartbeatResponse {
        header,
        target_peer,
        ..RegionHeartbeatResponse::default()
    });
    Some(refusal.map(tonic::Response::into_inner))
}

/// Tells a store what has been decided about its regions, without being asked. What finds no room is told later.
async fn tell_all(
    shared: &Arc<Shared>,
    speaker: Option<StoreId>,
    outbound: &mpsc::Sender<Result<RegionHeartbeatResponse, Status>>,
) {
    let Some(store) = speaker else { return };
    let told = shared.cluster().regions_to_tell(store, outbound.capacity());
    for region in told {
        let Some(instruction) = next_step(shared, region, store).await else { continue };
        if outbound.try_send(Ok(instruction)).is_err() {
            return;
        }
    }
}

/// What the leader of `region`, on the store that the stream belongs to, shall do; it is durable then.
async fn next_step(
    shared: &Arc<Shared>,
    region: RegionId,
    speaker: StoreId,
) -> Option<RegionHeartbeatResponse> {
    // Nearly always not: then no turn is waited for.
    if !shared.cluster().wants_step(region, shared.now()) {
        return None;
    }
    let decided = shared.decide(|cluster, now| cluster.next_step(region, speaker, now)).await;
    match decided {
        Ok(instruction) => instruction.map(|instruction| to_wire(shared, instruction)),
        Err(error) => {
            warn!(shared.logger, "a region gets no instruction: {}", error; "region" => %region);
            None
        }
    }
}

fn to_wire(shared: &Shared, instruction: Instruction) -> RegionHeartbeatResponse {
    let Instruction { region_id, epoch, leader, order } = instruction;
    info!(shared.logger, "a leader is told to {}", order; "region" => %region_id, "epoch" => %epoch,
        "leader" => %leader);
    let mut answer = RegionHeartbeatResponse {
        header: header(shared),
        region_id: region_id.get(),
        region_epoch: Some(epoch),
        target_peer: Some(leader),
        ..RegionHeartbeatResponse::default()
    };
    match order {
        Order::Change(change) => answer.change_peer = Some(change),
        Order::ChangeJointly(changes) => answer.change_peer_v2 = Some(ChangePeerV2 { changes }),
        Order::Transfer(heir) => {
            answer.transfer_leader = Some(TransferLeader { peer: Some(heir), peers: Vec::new() });
        }
        Order::Split { policy, keys } => {
            answer.split_region = Some(SplitRegion { policy: policy.into(), keys });
        }
    }
    answer
}
