//! Strangers on all three ports: bytes that are no HTTP, requests cut short, calls that do not exist.
//!
//! The rule: an error to that caller, and nobody else notices. While the strangers are at work, a friend
//! writes and reads without pause; each of its requests must succeed, before, during and after.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use skerry_proto::kvrpcpb;
use skerry_raftstore::time::splitmix64;
use skerry_tests::client::{self, ApiVersion, RawClient};
use skerry_tests::process::{Addresses, Ground, Process};
use skerry_tests::wait;
use tonic::Code;

/// What an HTTP/2 client says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Random blobs thrown at each port.
const BLOBS: u64 = 40;
/// Connections left open and silent on each port.
const SILENT: usize = 50;

/// A client that does nothing wrong.
struct Friend {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    work: tokio::task::JoinHandle<()>,
}

impl Friend {
    async fn start(process: &Process) -> Friend {
        let scheduler = process.addresses().scheduler;
        let connected = RawClient::connect(scheduler, ApiVersion::V1).await;
        let client = connected.expect("a ready store is found");
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let work = tokio::spawn(work(client, Arc::clone(&stop), Arc::clone(&rounds)));
        Friend { stop, rounds, work }
    }

    /// Waits for a few more rounds of work, so that the friend is known to be well now.
    async fn is_well(&self) {
        let goal = self.rounds.load(Ordering::SeqCst) + 3;
        wait::until_async("the friend has written and read again", async || {
            assert!(!self.work.is_finished(), "the friend has failed");
            (self.rounds.load(Ordering::SeqCst) >= goal).then_some(())
        })
        .await;
    }

    async fn stop(self) {
        self.is_well().await;
        self.stop.store(true, Ordering::SeqCst);
        self.work.await.expect("none of the friend's requests failed");
    }
}

/// Writes and reads until told to stop; panics at the first failure.
async fn work(client: RawClient, stop: Arc<AtomicBool>, rounds: Arc<AtomicU64>) {
    while !stop.load(Ordering::SeqCst) {
        let round = rounds.load(Ordering::SeqCst);
        let value = Bytes::from(round.to_string());
        client.put("friend", value.clone()).await.expect("a friend's put");
        assert_eq!(client.get("friend").await.expect("a friend's get"), Some(value));
        rounds.fetch_add(1, Ordering::SeqCst);
    }
}

fn ports(addresses: Addresses) -> [SocketAddr; 3] {
    [addresses.scheduler, addresses.store, addresses.status]
}

/// Bytes without any sense, the same for the same seed.
fn noise(seed: u64) -> Vec<u8> {
    let length = splitmix64(seed) % 3_000;
    (0..length).map(|index| splitmix64(seed.wrapping_mul(0x1_0001) + index) as u8).collect()
}

/// Beginnings that each get a little further than the last before they make no sense.
fn almost_http() -> Vec<Vec<u8>> {
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let huge_frame = [0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1];
    let headers_of_nonsense =
        [0, 0, 8, 1, 4, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0x7f, 0x80, 0x80, 0];
    vec![
        Vec::new(),
        b"\r\n\r\n".to_vec(),
        b"GET".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"POST /kv HTTP/1.1\r\nContent-Length: 99\r\n\r\nshort".to_vec(),
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(),
        [b"GET /".as_slice(), &[b'a'; 100_000], b" HTTP/1.1\r\n\r\n"].concat(),
        PREFACE[..10].to_vec(),
        PREFACE.to_vec(),
        [PREFACE, &[0; 7]].concat(),
        [PREFACE, &settings, &huge_frame].concat(),
        [PREFACE, &settings, &headers_of_nonsense].concat(),
        [PREFACE, &settings, &noise(1)].concat(),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_every_port_harms_only_its_sender() {
    let ground = Ground::new();
    let mut process = ground.playground().start();
    let friend = Friend::start(&process).await;
    for port in ports(process.addresses()) {
        let blobs = (0..BLOBS).map(noise).chain(almost_http());
        for (number, blob) in blobs.enumerate() {
            let heard = tokio::task::spawn_blocking(move || client::shout(port, &blob)).await;
            let heard = heard.expect("shouting does not panic");
            assert!(heard.is_some(), "{port} holds on to the broken connection {number}");
        }
        friend.is_well().await;
    }
    friend.stop().await;
    assert!(process.is_running());
    process.stop().assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_keep_nobody_out_and_do_not_hold_up_the_end() {
    let ground = Ground::new();
    let process = ground.playground().start();
    let mut silent = Vec::new();
    for port in ports(process.addresses()) {
        for _ in 0..SILENT {
            silent.push(TcpStream::connect(port).expect("a serving port accepts connections"));
        }
    }
    let friend = Friend::start(&process).await;
    friend.stop().await;
    process.stop().assert_clean();
    drop(silent);
}

/// gRPC frames whose message is cut short, in text (see `call_with_body`): one byte of flags, four of
/// length, the message.
const BROKEN_BODIES: [(&str, &str); 6] = [
    ("nothing at all", ""),
    ("half a frame head", "\0\0\0"),
    ("a frame longer than what follows", "\0\0\0\0\x7fshort"),
    ("a field longer than its message", "\0\0\0\0\x03\x12\x20a"),
    ("a tag without a field", "\0\0\0\0\x01\x12"),
    ("a wire type that does not exist", "\0\0\0\0\x02\x17\x01"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_cut_short_are_errors_to_their_sender() {
    let ground = Ground::new();
    let process = ground.playground().start();
    let friend = Friend::start(&process).await;
    let addresses = process.addresses();
    let methods = [
        (addresses.scheduler, "/pdpb.PD/GetRegion"),
        (addresses.scheduler, "/pdpb.PD/Bootstrap"),
        (addresses.store, "/tikvpb.Tikv/RawPut"),
        (addresses.store, "/tikvpb.Tikv/RawBatchGet"),
        (addresses.store, "/tikvpb.Tikv/BatchCommands"),
    ];
    for (address, method) in methods {
        for (story, body) in BROKEN_BODIES {
            let code = client::call_with_body(address, method, body).await;
            // A stream of nothing is one.
            if body.is_empty() && method.ends_with("BatchCommands") {
                assert_eq!(code, Code::Ok, "{method} with {story}");
                continue;
            }
            let is_error = !matches!(code, Code::Ok | Code::Unavailable);
            assert!(is_error, "{method} with {story} was answered {code:?}");
        }
        friend.is_well().await;
    }
    friend.stop().await;
    process.stop().assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_does_not_exist_is_unimplemented() {
    let ground = Ground::new();
    let process = ground.playground().start();
    let Addresses { scheduler, store, .. } = process.addresses();
    let empty = "\0\0\0\0\0";
    for (address, method) in [
        (scheduler, "/pdpb.PD/NoSuchCall"),
        (scheduler, "/no.such.Service/Call"),
        (scheduler, "/etcdserverpb.KV/Put"),
        (scheduler, "/tikvpb.Tikv/RawGet"),
        (store, "/tikvpb.Tikv/NoSuchCall"),
        (store, "/tikvpb.Tikv/KvGC"),
        (store, "/pdpb.PD/GetMembers"),
    ] {
        let code = client::call_with_body(address, method, empty).await;
        assert_eq!(code, Code::Unimplemented, "{method}");
    }
    process.stop().assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_lie_about_their_region_are_told_the_truth() {
    let ground = Ground::new();
    let process = ground.playground().start();
    let scheduler = process.addresses().scheduler;
    let connected = RawClient::connect(scheduler, ApiVersion::V1).await;
    let client = connected.expect("a ready store is found");
    let truth = client.context().expect("a region was found");
    let ask = async |context: Option<kvrpcpb::Context>| {
        let get = kvrpcpb::RawGetRequest { context, key: "k".into(), ..Default::default() };
        let answer = client.store().raw_get(get).await.expect("an answer").into_inner();
        answer.region_error.expect("a region error")
    };
    let no_region = kvrpcpb::Context { region_id: 999_999, ..truth.clone() };
    assert!(ask(Some(no_region)).await.region_not_found.is_some());
    let mut stranger = truth.clone();
    stranger.peer = truth.peer.map(|peer| skerry_proto::metapb::Peer { store_id: 999_999, ..peer });
    assert!(ask(Some(stranger)).await.store_not_match.is_some());
    let mut old = truth.clone();
    old.region_epoch = Some(skerry_proto::metapb::RegionEpoch { conf_ver: 1, version: 0 });
    let told = ask(Some(old)).await.epoch_not_match.expect("an old epoch is told the new one");
    assert_eq!(told.current_regions[0].region_epoch, truth.region_epoch);
    // Nothing at all is no lie, but names no store and no region either.
    ask(None).await;
    assert_eq!(client.get("k").await.expect("a get"), None);
    process.stop().assert_clean();
}
