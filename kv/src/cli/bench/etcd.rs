//! A client of etcd, as much of it as a measurement asks for: put, range, a transaction of puts or of ranges, who
//! leads.
//!
//! Messages are written here by hand, from the public definition of its version 3 (`etcdserverpb.KV` and
//! `Maintenance`), and sent through the same gRPC library as ours, so that the client's share of the costs is alike on
//! both sides. The published client library needs `protoc` to be built, which this project does without
//! (`docs/benchmarks.md`, "Beside peers").
//!
//! Requests take turns on the members, as those of many clients would, and move on to the next when one fails. Where
//! the death of a leader is measured, an attempt is given up early: a put that a member has passed on to the dead
//! leader would be answered only after seven seconds, long after the next leader takes puts.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use skerry_raftstore::time::{Clock, SystemClock};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::error::{Error, Result};

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(2);
#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// Of answers only what is looked at is read.
#[derive(Clone, PartialEq, prost::Message)]
struct Nothing {}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    /// Empty: the key alone. One zero byte: to the end of everything.
    #[prost(bytes = "bytes", tag = "2")]
    range_end: Bytes,
    #[prost(int64, tag = "3")]
    limit: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    pairs: Vec<Pair>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Pair {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

/// Puts or ranges that happen together; the real message can do more.
#[derive(Clone, PartialEq, prost::Message)]
struct TransactionRequest {
    #[prost(message, repeated, tag = "2")]
    success: Vec<OneOperation>,
}

/// One of the two.
#[derive(Clone, PartialEq, prost::Message)]
struct OneOperation {
    #[prost(message, optional, tag = "1")]
    range: Option<RangeRequest>,
    #[prost(message, optional, tag = "2")]
    put: Option<PutRequest>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TransactionResponse {
    #[prost(message, repeated, tag = "3")]
    answers: Vec<OneAnswer>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OneAnswer {
    #[prost(message, optional, tag = "1")]
    range: Option<RangeResponse>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const TRANSACTION: &str = "/etcdserverpb.KV/Txn";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";

/// See the module.
pub(super) struct Etcd {
    /// Connections, those of one member never next to each other.
    channels: Vec<Channel>,
    next: AtomicUsize,
    patience: Duration,
    /// How long one attempt may take.
    attempt: Duration,
    repeated: AtomicU64,
}

impl Etcd {
    /// A client with so many connections to each member.
    pub(super) fn connect(
        members: &[String],
        connections: usize,
        patience: Duration,
        attempt: Duration,
    ) -> Result<Etcd> {
        let all = (0..connections).flat_map(|_| members);
        let channels = all.map(|member| channel(member)).collect::<Result<Vec<_>>>()?;
        let (next, repeated) = (AtomicUsize::new(0), AtomicU64::new(0));
        Ok(Etcd { channels, next, patience, attempt, repeated })
    }

    /// Attempts that had to be repeated so far.
    pub(super) fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }

    pub(super) async fn put(&self, key: &[u8], value: Bytes) -> Result<()> {
        let request = PutRequest { key: Bytes::copy_from_slice(key), value };
        self.patiently::<_, Nothing>(PUT, request).await.map(drop)
    }

    /// A linearizable read of one key.
    pub(super) async fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let key = Bytes::copy_from_slice(key);
        let request = RangeRequest { key, ..RangeRequest::default() };
        let answer: RangeResponse = self.patiently(RANGE, request).await?;
        Ok(answer.pairs.into_iter().next().map(|pair| pair.value))
    }

    /// A linearizable read of up to so many pairs from a key on.
    pub(super) async fn scan(&self, key: &[u8], limit: u32) -> Result<usize> {
        let (key, range_end) = (Bytes::copy_from_slice(key), Bytes::from_static(&[0]));
        let request = RangeRequest { key, range_end, limit: limit.into() };
        let answer: RangeResponse = self.patiently(RANGE, request).await?;
        Ok(answer.pairs.len())
    }

    /// Writes many pairs with one transaction.
    pub(super) async fn put_many(&self, pairs: Vec<(Vec<u8>, Bytes)>) -> Result<()> {
        let put = |(key, value): (Vec<u8>, Bytes)| PutRequest { key: key.into(), value };
        let puts = pairs.into_iter().map(|pair| OneOperation { range: None, put: Some(put(pair)) });
        let request = TransactionRequest { success: puts.collect() };
        self.patiently::<_, Nothing>(TRANSACTION, request).await.map(drop)
    }

    /// A linearizable read of many keys with one transaction. Answers how many are there.
    pub(super) async fn get_many(&self, keys: Vec<Vec<u8>>) -> Result<usize> {
        let range = |key: Vec<u8>| RangeRequest { key: key.into(), ..RangeRequest::default() };
        let ranges =
            keys.into_iter().map(|key| OneOperation { range: Some(range(key)), put: None });
        let request = TransactionRequest { success: ranges.collect() };
        let answer: TransactionResponse = self.patiently(TRANSACTION, request).await?;
        let found = answer.answers.into_iter().filter_map(|answer| answer.range);
        Ok(found.map(|found| found.pairs.len()).sum())
    }

    /// One call, until some member has answered or time is over.
    async fn patiently<Q, A>(&self, path: &'static str, request: Q) -> Result<A>
    where
        Q: prost::Message + Clone + 'static,
        A: prost::Message + Default + 'static,
    {
        let clock = SystemClock;
        let began = clock.monotonic();
        loop {
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            let channel = self.channels[turn % self.channels.len()].clone();
            let left = self.patience.saturating_sub(clock.monotonic() - began).min(self.attempt);
            let status =
                match tokio::time::timeout(left, call(channel, path, request.clone())).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(status)) => status,
                    Err(_) => Status::deadline_exceeded("no answer in time"),
                };
            let is_final = matches!(status.code(), Code::InvalidArgument | Code::ResourceExhausted);
            if is_final || clock.monotonic() - began >= self.patience {
                return Err(Error::Startup(format!("etcd: {}", status.message())));
            }
            self.repeated.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn channel(member: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{member}"))
        .map_err(|error| Error::Startup(format!("{member} is no address: {error}")))?;
    Ok(endpoint.tcp_nodelay(true).connect_lazy())
}

async fn call<Q, A>(
    channel: Channel,
    path: &'static str,
    request: Q,
) -> std::result::Result<A, Status>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel).max_decoding_message_size(usize::MAX);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = ProstCodec::<Q, A>::default();
    let answer = grpc.unary(Request::new(request), PathAndQuery::from_static(path), codec).await?;
    Ok(answer.into_inner())
}

/// The place of the member that leads, if all of these that answer agree on one of them.
pub(super) async fn leader(members: &[String]) -> Result<usize> {
    let (mut ids, mut named) = (Vec::new(), Vec::new());
    for member in members {
        let answer: std::result::Result<StatusResponse, Status> =
            call(channel(member)?, STATUS, Nothing {}).await;
        let answer = answer.map_err(|status| {
            Error::Startup(format!("etcd at {member} does not answer: {}", status.message()))
        })?;
        ids.push(answer.header.unwrap_or_default().member_id);
        named.push(answer.leader);
    }
    let is_agreed = named.iter().all(|leader| *leader == named[0]);
    let place = ids.iter().position(|id| *id == named[0]);
    place.filter(|_| is_agreed).ok_or_else(|| Error::Startup("etcd has no leader".to_string()))
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn messages_are_those_of_the_public_definition() {
        let key = || Bytes::from_static(b"k");
        let put = PutRequest { key: key(), value: Bytes::from_static(b"v") };
        assert_eq!(put.encode_to_vec(), b"\x0a\x01k\x12\x01v");
        let range = RangeRequest { key: key(), range_end: Bytes::from_static(&[0]), limit: 7 };
        assert_eq!(range.encode_to_vec(), b"\x0a\x01k\x12\x01\x00\x18\x07");
        let puts =
            TransactionRequest { success: vec![OneOperation { range: None, put: Some(put) }] };
        assert_eq!(puts.encode_to_vec(), b"\x12\x08\x12\x06\x0a\x01k\x12\x01v");
        let range = RangeRequest { key: key(), ..RangeRequest::default() };
        let gets =
            TransactionRequest { success: vec![OneOperation { range: Some(range), put: None }] };
        assert_eq!(gets.encode_to_vec(), b"\x12\x05\x0a\x03\x0a\x01k");
        // A header, one pair with all its fields, and a count.
        let answer = b"\x0a\x02\x10\x05\x12\x0c\x0a\x01k\x10\x02\x18\x02\x20\x01\x2a\x01v\x20\x01";
        let answer = RangeResponse::decode(&answer[..]).expect("well-formed");
        assert_eq!(answer.pairs, [Pair { key: key(), value: Bytes::from_static(b"v") }]);
        // A header, that it succeeded, and the answer to one range: one pair of key and value.
        let answer = b"\x0a\x02\x10\x05\x10\x01\x1a\x0a\x0a\x08\x12\x06\x0a\x01k\x2a\x01v";
        let answer = TransactionResponse::decode(&answer[..]).expect("well-formed");
        let found = answer.answers[0].range.as_ref().expect("a range").pairs.clone();
        assert_eq!(found, [Pair { key: key(), value: Bytes::from_static(b"v") }]);
    }
}
