//! Timestamps for many transactions through one stream, one request at a time, as PD's clients do it: what is wanted
//! until its answer comes is the next request.

use skerry_proto::pdpb::pd_client::PdClient;
use skerry_proto::pdpb::{RequestHeader, TsoRequest, TsoResponse};
use skerry_proto::types::Ts;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};

use super::stream::{Asked, Conversation, Shared, Waiter};

/// The stream of one connection to the scheduler.
pub(super) type TimestampLine = Shared<Timestamps>;

/// Who waits for the answer that is to come, in the order in which they asked.
#[derive(Debug)]
pub(super) struct Timestamps {
    scheduler: PdClient<Channel>,
    header: Option<RequestHeader>,
    waiting: Vec<Waiter<Ts>>,
}

impl Timestamps {
    pub(super) fn line(channel: Channel, header: Option<RequestHeader>) -> TimestampLine {
        let scheduler = PdClient::new(channel);
        Shared::new(Timestamps { scheduler, header, waiting: Vec::new() })
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

    fn may_ask(&self) -> bool {
        self.waiting.is_empty()
    }

    fn request(&mut self, asked: Vec<Asked<(), Ts>>) -> TsoRequest {
        let count = u32::try_from(asked.len()).expect("a message has few questions");
        self.waiting = asked.into_iter().map(|asked| asked.answer).collect();
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
        let waiters = std::mem::take(&mut self.waiting);
        for (behind, waiter) in waiters.into_iter().rev().enumerate() {
            let ts = largest.map(|largest| Ts::from(largest.get() - behind as u64));
            // A client that has given up hears nothing.
            let _ = waiter.send(ts.ok_or_else(refused));
        }
    }

    fn broken(&mut self, status: &Status) {
        for waiter in std::mem::take(&mut self.waiting) {
            let _ = waiter.send(Err(status.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use skerry_proto::pdpb;
    use tokio::sync::oneshot;
    use tonic::transport::Endpoint;

    use super::*;

    fn asked() -> (Asked<(), Ts>, oneshot::Receiver<Result<Ts, Status>>) {
        let (answer, answered) = oneshot::channel();
        (Asked { question: (), answer }, answered)
    }

    #[tokio::test]
    async fn one_request_at_a_time_is_shared_by_all_who_asked_before_it() {
        let channel = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        let scheduler = PdClient::new(channel);
        let mut timestamps = Timestamps { scheduler, header: None, waiting: Vec::new() };
        let ((first, earlier), (second, later)) = (asked(), asked());
        assert!(timestamps.may_ask());
        assert_eq!(timestamps.request(vec![first, second]).count, 2);
        assert!(!timestamps.may_ask(), "who asks now waits for the next request");
        let timestamp = Some(pdpb::Timestamp { physical: 7, logical: 9, ..Default::default() });
        timestamps.reply(TsoResponse { count: 2, timestamp, ..Default::default() });
        assert_eq!(earlier.await.unwrap().unwrap(), Ts::compose(7, 8));
        assert_eq!(later.await.unwrap().unwrap(), Ts::compose(7, 9));

        let (third, lost) = asked();
        assert!(timestamps.may_ask());
        timestamps.request(vec![third]);
        timestamps.broken(&Status::unavailable("gone"));
        assert!(lost.await.unwrap().is_err());
        assert!(timestamps.may_ask(), "the next stream begins anew");
    }
}
