//! Timestamps for many transactions through one stream: what is wanted at the same time is one request.

use std::collections::VecDeque;

use skerry_proto::pdpb::pd_client::PdClient;
use skerry_proto::pdpb::{RequestHeader, TsoRequest, TsoResponse};
use skerry_proto::types::Ts;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};

use super::stream::{Asked, Conversation, Shared, Waiter};

/// The stream of one connection to the scheduler.
pub(super) type TimestampLine = Shared<Timestamps>;

/// Who waits, in the order of the requests; the scheduler answers in the same order.
#[derive(Debug)]
pub(super) struct Timestamps {
    scheduler: PdClient<Channel>,
    header: Option<RequestHeader>,
    waiting: VecDeque<Vec<Waiter<Ts>>>,
}

impl Timestamps {
    pub(super) fn line(channel: Channel, header: Option<RequestHeader>) -> TimestampLine {
        let scheduler = PdClient::new(channel);
        Shared::new(Timestamps { scheduler, header, waiting: VecDeque::new() })
    }
}

impl Conversation for Timestamps {
    type Question = ();
    type Answer = Ts;
    type Request = TsoRequest;
    type Reply = TsoResponse;

    fn open(
        &self,
        requests: ReceiverStream<TsoRequest>,
    ) -> impl Future<Output = Result<Response<Streaming<TsoResponse>>, Status>> + Send + 'static
    {
        let mut scheduler = self.scheduler.clone();
        async move { scheduler.tso(requests).await }
    }

    fn request(&mut self, asked: Vec<Asked<(), Ts>>) -> TsoRequest {
        let count = u32::try_from(asked.len()).expect("a message has few questions");
        self.waiting.push_back(asked.into_iter().map(|asked| asked.answer).collect());
        TsoRequest { header: self.header.clone(), count }
    }

    fn reply(&mut self, reply: TsoResponse) {
        let largest = reply.timestamp.and_then(|timestamp| {
            let physical = u64::try_from(timestamp.physical).ok()?;
            Some(Ts::compose(physical, u64::try_from(timestamp.logical).ok()?))
        });
        let refused = || {
            let error = reply.header.as_ref().and_then(|header| header.error.as_ref());
            let reason = error.map_or("no timestamp was given", |error| &error.message);
            Status::unavailable(reason.to_string())
        };
        // The largest of a run is told: the first who asked gets the smallest.
        let waiters = self.waiting.pop_front().unwrap_or_default();
        for (behind, waiter) in waiters.into_iter().rev().enumerate() {
            let ts = largest.map(|largest| Ts::from(largest.get() - behind as u64));
            // A client that has given up hears nothing.
            let _ = waiter.send(ts.ok_or_else(refused));
        }
    }

    fn broken(&mut self, status: &Status) {
        for waiter in std::mem::take(&mut self.waiting).into_iter().flatten() {
            let _ = waiter.send(Err(status.clone()));
        }
    }
}
