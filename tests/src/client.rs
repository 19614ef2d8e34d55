//! A small client for tests: raw requests over gRPC, bare HTTP, and bytes that no client would send.
//!
//! [`RawClient`] does what a TiKV client does first: it asks the scheduler which region holds the keys and
//! which store leads it, then sends that region's epoch with every request. It never retries and it hides
//! nothing: tests want to see each answer. Requests that it has no method for are made from its
//! [`RawClient::context`] and sent through its [`RawClient::store`].
//!
//! [`call_with_body`] sends a gRPC body byte by byte, and [`shout`] sends bytes that are no HTTP at all.

use std::fmt;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::pin::Pin;

use bytes::Bytes;
use skerry_proto::pdpb::pd_client::PdClient;
use skerry_proto::pdpb::{
    GetMembersRequest, GetRegionRequest, GetStoreRequest, RequestHeader, SplitRegionsRequest,
};
use skerry_proto::tikvpb::tikv_client::TikvClient;
use skerry_proto::{errorpb, kvrpcpb, metapb};
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request};
use tonic::codegen::{Body as _, Service as _};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::wait::PATIENCE;

/// The mode of a cluster, as fixed when it was bootstrapped.
pub use skerry_proto::kvrpcpb::ApiVersion;

/// What every raw key of the keyspace DEFAULT begins with on an API V2 cluster.
pub const DEFAULT_KEYSPACE: &[u8] = b"r\0\0\0";

/// Why a request was not answered with what it asked for.
#[derive(Debug)]
pub enum Failure {
    /// gRPC itself: no connection, a time-out, a refusal to look at the request. The outcome of a write
    /// is unknown.
    Status(Status),
    /// The region is elsewhere or has changed. Certainly nothing was done.
    Region(Box<errorpb::Error>),
    /// The store says no, in words. Certainly nothing was done.
    Refused(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Status(status) => {
                write!(formatter, "{:?}: {}", status.code(), status.message())
            }
            Failure::Region(error) => write!(formatter, "region error: {error:?}"),
            Failure::Refused(reason) => write!(formatter, "refused: {reason}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        Failure::Status(status)
    }
}

/// An answer, or why there is none.
pub type Answer<T> = Result<T, Failure>;

/// A connection that is made when it is first used and made again when it was lost.
pub fn channel(address: impl fmt::Display) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .expect("an address of the system makes a valid URI")
        .connect_timeout(PATIENCE)
        .timeout(PATIENCE)
        .connect_lazy()
}

/// The scheduler's service at `address`.
pub fn scheduler(address: SocketAddr) -> PdClient<Channel> {
    PdClient::new(channel(address)).max_decoding_message_size(usize::MAX)
}

/// The store's service at `address`.
pub fn store(address: impl fmt::Display) -> TikvClient<Channel> {
    TikvClient::new(channel(address)).max_decoding_message_size(usize::MAX)
}

/// The number of the cluster, which every other request to its scheduler carries.
pub async fn cluster_id(scheduler: &mut PdClient<Channel>) -> Answer<u64> {
    let members = scheduler.get_members(GetMembersRequest::default()).await?.into_inner();
    Ok(members.header.unwrap_or_default().cluster_id)
}

/// The store that leads the region of a key, and what every request to that region carries.
#[derive(Clone, Debug)]
pub struct Leader {
    /// Its bare service.
    pub store: TikvClient<Channel>,
    /// The region as the scheduler knows it.
    pub context: kvrpcpb::Context,
}

impl Leader {
    /// Of a key as transactions, and raw requests of API V2, write it; found through the scheduler at `address`.
    pub async fn of(address: SocketAddr, key: &[u8], api_version: ApiVersion) -> Answer<Leader> {
        let region_key = Bytes::from(skerry_proto::codec::encode_bytes(key));
        let mut scheduler = scheduler(address);
        let cluster_id = cluster_id(&mut scheduler).await?;
        let header = Some(RequestHeader { cluster_id, ..RequestHeader::default() });
        let question = GetRegionRequest { header: header.clone(), region_key };
        let found = scheduler.get_region(question).await?.into_inner();
        let region = found.region.ok_or_else(|| refused("the scheduler knows no region"))?;
        let leader = found.leader.ok_or_else(|| refused("the region has no leader"))?;
        let question = GetStoreRequest { header, store_id: leader.store_id };
        let found = scheduler.get_store(question).await?.into_inner();
        let home = found.store.ok_or_else(|| refused("the scheduler knows no such store"))?;
        let context = context_of(&region, leader, api_version);
        Ok(Leader { store: store(home.address), context })
    }

    /// The store that leads.
    pub fn store_id(&self) -> u64 {
        self.context.peer.map_or(0, |peer| peer.store_id)
    }
}

/// Cuts the regions at these keys, as transactions write them, and waits until it is done.
pub async fn cut(address: SocketAddr, keys: &[&str]) -> Answer<()> {
    let mut scheduler = scheduler(address);
    let cluster_id = cluster_id(&mut scheduler).await?;
    let header = Some(RequestHeader { cluster_id, ..RequestHeader::default() });
    let encoded = |key: &&str| Bytes::from(skerry_proto::codec::encode_bytes(key.as_bytes()));
    let split_keys = keys.iter().map(encoded).collect();
    let request = SplitRegionsRequest { header, split_keys, retry_limit: 10 };
    let done = scheduler.split_regions(request).await?.into_inner();
    if done.finished_percentage == 100 { Ok(()) } else { Err(refused("not all is cut")) }
}

/// Raw pairs of one region: every key in use of an API V1 cluster, or the keyspace DEFAULT of a V2 one.
#[derive(Clone, Debug)]
pub struct RawClient {
    store: TikvClient<Channel>,
    context: kvrpcpb::Context,
    prefix: &'static [u8],
}

impl RawClient {
    /// Finds the region and its store through the scheduler at `address`.
    pub async fn connect(address: SocketAddr, api_version: ApiVersion) -> Answer<RawClient> {
        let prefix = if api_version == ApiVersion::V2 { DEFAULT_KEYSPACE } else { b"" };
        // V2 regions are cut at encoded keys; the first region of V1 holds any key in use.
        let Leader { store, context } = Leader::of(address, prefix, api_version).await?;
        Ok(RawClient { store, context, prefix })
    }

    /// What every request to the region carries.
    pub fn context(&self) -> Option<kvrpcpb::Context> {
        Some(self.context.clone())
    }

    /// The bare service, for requests made by hand.
    pub fn store(&self) -> TikvClient<Channel> {
        self.store.clone()
    }

    /// The key as it stands on the wire: with the keyspace before it, where there is one.
    pub fn key(&self, key: impl AsRef<[u8]>) -> Bytes {
        Bytes::from([self.prefix, key.as_ref()].concat())
    }

    /// The value of `key`.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Answer<Option<Bytes>> {
        let (context, key) = (self.context(), self.key(key));
        let request = kvrpcpb::RawGetRequest { context, key, ..Default::default() };
        let answer = self.store().raw_get(request).await?.into_inner();
        check(answer.region_error, answer.error)?;
        Ok((!answer.not_found).then_some(answer.value))
    }

    /// Sets `key`.
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Answer<()> {
        self.put_with_ttl(key, value, 0).await
    }

    /// Sets `key` for so many seconds; zero means for ever.
    pub async fn put_with_ttl(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
        ttl: u64,
    ) -> Answer<()> {
        let (context, key, value) = (self.context(), self.key(key), value.into());
        let request = kvrpcpb::RawPutRequest { context, key, value, ttl, ..Default::default() };
        let answer = self.store().raw_put(request).await?.into_inner();
        check(answer.region_error, answer.error)
    }

    /// Removes `key`.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Answer<()> {
        let (context, key) = (self.context(), self.key(key));
        let request = kvrpcpb::RawDeleteRequest { context, key, ..Default::default() };
        let answer = self.store().raw_delete(request).await?.into_inner();
        check(answer.region_error, answer.error)
    }

    /// Sets several keys at once.
    pub async fn batch_put(&self, pairs: impl IntoIterator<Item = (Bytes, Bytes)>) -> Answer<()> {
        let pair =
            |(key, value)| kvrpcpb::KvPair { key: self.key(key), value, ..Default::default() };
        let (context, pairs) = (self.context(), pairs.into_iter().map(pair).collect());
        let request = kvrpcpb::RawBatchPutRequest { context, pairs, ..Default::default() };
        let answer = self.store().raw_batch_put(request).await?.into_inner();
        check(answer.region_error, answer.error)
    }

    /// The pairs of those keys that are there, in the order asked for.
    pub async fn batch_get(
        &self,
        keys: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) -> Answer<Vec<(Bytes, Bytes)>> {
        let (context, keys) = (self.context(), keys.into_iter().map(|key| self.key(key)).collect());
        let request = kvrpcpb::RawBatchGetRequest { context, keys, ..Default::default() };
        let answer = self.store().raw_batch_get(request).await?.into_inner();
        check(answer.region_error, String::new())?;
        self.pairs(answer.pairs)
    }

    /// At most `limit` pairs from `start` up to but without `end`, ascending; an empty `end` means all.
    pub async fn scan(
        &self,
        start: impl AsRef<[u8]>,
        end: impl AsRef<[u8]>,
        limit: u32,
    ) -> Answer<Vec<(Bytes, Bytes)>> {
        let end_key = if end.as_ref().is_empty() { Bytes::new() } else { self.key(end) };
        let (context, start_key) = (self.context(), self.key(start));
        let scan =
            kvrpcpb::RawScanRequest { context, start_key, end_key, limit, ..Default::default() };
        self.scan_with(scan).await
    }

    /// Sends a scan made by hand.
    pub async fn scan_with(&self, scan: kvrpcpb::RawScanRequest) -> Answer<Vec<(Bytes, Bytes)>> {
        let answer = self.store().raw_scan(scan).await?.into_inner();
        check(answer.region_error, String::new())?;
        self.pairs(answer.kvs)
    }

    /// Pairs without the keyspace. Scans and batches report a refusal in the first pair.
    fn pairs(&self, found: Vec<kvrpcpb::KvPair>) -> Answer<Vec<(Bytes, Bytes)>> {
        let plain = |pair: kvrpcpb::KvPair| match pair.error {
            Some(error) => Err(refused(&format!("{error:?}"))),
            None => Ok((pair.key.slice(self.prefix.len()..), pair.value)),
        };
        found.into_iter().map(plain).collect()
    }
}

fn context_of(
    region: &metapb::Region,
    leader: metapb::Peer,
    api_version: ApiVersion,
) -> kvrpcpb::Context {
    kvrpcpb::Context {
        region_id: region.id,
        region_epoch: region.region_epoch,
        peer: Some(leader),
        api_version: api_version as i32,
        ..kvrpcpb::Context::default()
    }
}

fn refused(reason: &str) -> Failure {
    Failure::Refused(reason.to_string())
}

fn check(region_error: Option<errorpb::Error>, error: String) -> Answer<()> {
    match region_error {
        Some(error) => Err(Failure::Region(Box::new(error))),
        None if error.is_empty() => Ok(()),
        None => Err(Failure::Refused(error)),
    }
}

/// Calls the gRPC method at `path` with a body made by hand and answers how gRPC judged it. The body is
/// text, which can hold the bytes from 0 to 127: enough for frames and fields that are cut short.
pub async fn call_with_body(address: SocketAddr, path: &str, body: &str) -> Code {
    let request = Request::builder()
        .method("POST")
        .uri(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(body.to_string()))
        .expect("a fixed request is well-formed");
    let mut channel = channel(address);
    let answered = async {
        poll_fn(|waker| channel.poll_ready(waker)).await?;
        channel.call(request).await
    };
    let Ok(response) = answered.await else { return Code::Unavailable };
    if let Some(code) = code_in(response.headers()) {
        return code;
    }
    let mut body = response.into_body();
    while let Some(frame) = poll_fn(|waker| Pin::new(&mut body).poll_frame(waker)).await {
        match frame.map(|frame| frame.into_trailers()) {
            Ok(Ok(trailers)) => return code_in(&trailers).unwrap_or(Code::Unknown),
            Ok(Err(_data)) => {}
            Err(status) => return status.code(),
        }
    }
    Code::Unknown
}

fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()))
}

/// Sends bytes as they are, says that no more will come, and answers what was sent back until the other
/// side closed. `None` when it did not close in time: it still holds what a broken client left behind.
pub fn shout(address: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut stream = connect(address);
    // The other side may hang up in the middle of it: that is one of its good answers.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    read_to_close(&mut stream)
}

/// One request by bare HTTP/1.1: the status code and the body.
pub fn http(address: SocketAddr, method: &str, path: &str) -> (u16, String) {
    http_with_body(address, method, path, "")
}

/// The same with a body.
pub fn http_with_body(address: SocketAddr, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = connect(address);
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).expect("a serving port takes a request");
    let heard = read_to_close(&mut stream).expect("an asked server answers and closes");
    let heard = String::from_utf8_lossy(&heard).into_owned();
    let (head, body) = heard.split_once("\r\n\r\n").unwrap_or((&heard, ""));
    let code = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    (code.unwrap_or_else(|| panic!("no HTTP answer: {head:?}")), body.to_string())
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a serving port accepts connections");
    stream.set_read_timeout(Some(PATIENCE)).expect("the limit is not zero");
    stream
}

fn read_to_close(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut heard = Vec::new();
    match stream.read_to_end(&mut heard) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
        // A reset after what could be read is a closed connection as well.
        _ => Some(heard),
    }
}
