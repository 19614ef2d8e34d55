//! What becomes of the bytes of a snapshot between two disks: who pays for them, and what is there when they stop to
//! come. The stores are real and turned by threads; the network between them is a channel in the hands of the test.

use std::path::Path;
use std::thread::JoinHandle;

use skerry_proto::metapb;
use skerry_proto::raft_serverpb::RaftSnapshotData;
use skerry_raftstore::config::{ByteSize, RaftConfig};
use skerry_raftstore::effects::{RegionReport, SplitAsk};
use skerry_raftstore::engine::log::memory::MemoryLog;
use skerry_raftstore::engine::memory::MemoryEngine;
use skerry_raftstore::engine::{ColumnFamily, Durability, Engine, WriteBatch};
use skerry_raftstore::keys::data_key;
use skerry_raftstore::outside::{SchedulerClient, Transport};
use skerry_raftstore::snapshot::SnapshotId;
use skerry_raftstore::store::threads::RunningStore;
use skerry_raftstore::store::{Store, StoreParts};
use skerry_raftstore::time::{ManualClock, spawn};
use slog::{Discard, o};
use tempfile::TempDir;

use super::*;

const ID: SnapshotId = SnapshotId { region_id: 7, term: 6, index: 120 };
/// Bytes a second: one takes a microsecond.
const RATE: u64 = 1_000_000;
/// What goes without a wait, at that rate.
const BURST: u64 = RATE / 10;

/// Nobody else is there.
struct Alone;

impl Transport for Alone {
    fn send(&self, _: Vec<RaftMessage>) {}
}

impl SchedulerClient for Alone {
    fn report(&self, _: Vec<RegionReport>) {}
    fn ask_splits(&self, _: Vec<SplitAsk>) {}
}

/// A store whose snapshots lie in `home` and go at this rate. Its clock stands still.
fn store(home: &Path, rate: u64) -> RunningStore {
    let parts = StoreParts {
        store_id: StoreId::new(1),
        engine: Arc::new(MemoryEngine::new()),
        log: Arc::new(MemoryLog::new()),
        snapshots: home.to_path_buf(),
        clock: Arc::new(ManualClock::default()),
        config: RaftConfig { snapshot_bytes_per_second: ByteSize(rate), ..RaftConfig::default() },
        seed: 1,
        logger: Logger::root(Discard, o!()),
        planted: None,
    };
    Store::open(parts).expect("an empty store opens").run(Arc::new(Alone), Arc::new(Alone))
}

/// Builds a snapshot of about 20 KiB. A store that starts removes those of regions that it does not have.
fn build(home: &Path) -> RaftSnapshotData {
    let engine = MemoryEngine::new();
    let mut batch = WriteBatch::new();
    for number in 0..20 {
        batch.put(ColumnFamily::Raw, data_key(&[number]), vec![number; 1_000]);
    }
    engine.write(batch, Durability::Synced).expect("memory does not fail");
    let region = metapb::Region {
        id: ID.region_id,
        region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version: 1 }),
        peers: vec![metapb::Peer { id: 71, store_id: 1, ..Default::default() }],
        ..Default::default()
    };
    let built = snapshot::build(home, ID, &*engine.view(), &region, &engine, &mut |_| {});
    built.expect("it is built")
}

fn home() -> TempDir {
    tempfile::tempdir().expect("a temporary directory can be made")
}

fn first() -> SnapshotChunk {
    SnapshotChunk { message: Some(RaftMessage::default()), data: Bytes::new() }
}

/// The whole stream, in pieces of 1,000 bytes.
fn pieces(home: &Path) -> Vec<Bytes> {
    let mut outgoing = Outgoing::open(home, ID).expect("it was built");
    let mut pieces = Vec::new();
    while let Some(chunk) = outgoing.next_chunk().expect("it is whole") {
        pieces.extend(chunk.chunks(1_000).map(Bytes::copy_from_slice));
    }
    pieces
}

/// The network's end, and the thread that takes what comes from it.
type Receiving = (mpsc::Sender<Bytes>, JoinHandle<skerry_raftstore::Result<()>>);

/// Lets a store take what the test sends.
fn receiving(home: &Path, store: &RunningStore, data: &RaftSnapshotData) -> Receiving {
    let incoming = Incoming::begin(home, ID, data).expect("it is acceptable");
    let (bytes, arriving) = mpsc::channel(CHUNKS_WAITING_MAX);
    let handle = store.handle();
    (bytes, spawn("receives", move || write(incoming, &handle, arriving)))
}

fn send(bytes: &mpsc::Sender<Bytes>, pieces: &[Bytes]) {
    for piece in pieces {
        bytes.blocking_send(piece.clone()).expect("it is taken");
    }
}

/// Whether raft may hear of the snapshot: its list is written last.
fn is_complete(home: &Path) -> bool {
    names(home).iter().any(|name| name.starts_with("rev_") && name.ends_with(".meta"))
}

/// What a receiver has in its directory.
fn names(home: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(home).expect("a directory");
    let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    entries.map(|entry| name(entry.expect("an entry"))).collect()
}

/// Before, one limit served all three, and a store that was sent a snapshot could send none.
#[test]
fn who_sends_pays_for_sending_and_who_receives_for_receiving() {
    let (from, to) = (home(), home());
    let (sender, receiver) = (store(from.path(), RATE), store(to.path(), RATE));
    let data = build(from.path());
    let (bytes, writing) = receiving(to.path(), &receiver, &data);
    let (chunks, mut stream) = mpsc::channel(CHUNKS_WAITING_MAX);
    let (outgoing, handle) = (Outgoing::open(from.path(), ID).expect("built"), sender.handle());
    let reading = spawn("sends", move || {
        let moved = AtomicU64::new(0);
        read(outgoing, first(), &handle, &chunks, &moved).map(|()| moved.load(Ordering::Relaxed))
    });
    let mut size = 0;
    while let Some(chunk) = stream.blocking_recv() {
        size += chunk.data.len() as u64;
        send(&bytes, &[chunk.data]);
    }
    drop(bytes);
    let moved = reading.join().expect("no panic").expect("it is sent");
    assert!(moved >= 2, "whoever looks whether it stands still sees it move");
    writing.join().expect("no panic").expect("it is received");
    assert!(is_complete(to.path()) && (20_000..BURST).contains(&size));

    // Whoever takes the burst now waits for what was taken before.
    let owed = |store: &RunningStore| {
        let rates = store.handle().snapshot_rates();
        [&rates.building, &rates.sending, &rates.receiving].map(|limit| limit.take(BURST))
    };
    let (nothing, all) = (Duration::ZERO, Duration::from_micros(size));
    assert_eq!(owed(&sender), [nothing, all, nothing]);
    assert_eq!(owed(&receiver), [nothing, nothing, all]);
    sender.stop();
    receiver.stop();
}

#[test]
fn a_sender_that_pauses_in_the_middle_is_waited_for() {
    let (from, to) = (home(), home());
    let data = build(from.path());
    let receiver = store(to.path(), 0);
    let (bytes, writing) = receiving(to.path(), &receiver, &data);
    let pieces = pieces(from.path());
    let (one_half, other_half) = pieces.split_at(pieces.len() / 2);
    send(&bytes, one_half);
    assert!(!is_complete(to.path()) && !writing.is_finished(), "half a snapshot is none");
    send(&bytes, other_half);
    drop(bytes);
    writing.join().expect("no panic").expect("nothing was lost by it");
    assert!(is_complete(to.path()));
    receiver.stop();
}

#[test]
fn a_sender_that_goes_in_the_middle_leaves_nothing_and_the_next_one_begins_anew() {
    let (from, to) = (home(), home());
    let data = build(from.path());
    let receiver = store(to.path(), 0);
    let pieces = pieces(from.path());
    for gone_after in [0, 1, pieces.len() / 2, pieces.len() - 1] {
        let (bytes, writing) = receiving(to.path(), &receiver, &data);
        send(&bytes, &pieces[..gone_after]);
        drop(bytes);
        let refused = writing.join().expect("no panic").expect_err("it is not whole");
        assert!(refused.to_string().contains("the stream ended"), "{refused}");
        assert_eq!(names(to.path()), Vec::<String>::new(), "after {gone_after} pieces");
    }
    let (bytes, writing) = receiving(to.path(), &receiver, &data);
    send(&bytes, &pieces);
    drop(bytes);
    writing.join().expect("no panic").expect("it is whole");
    assert!(is_complete(to.path()));
    receiver.stop();
}

/// A receiver that waits for its pace, for hours, when its store stops.
#[test]
fn a_receiver_that_stops_in_the_middle_refuses_and_its_next_life_begins_anew() {
    let (from, to) = (home(), home());
    let data = build(from.path());
    let pieces = pieces(from.path());
    let receiver = store(to.path(), 1);
    let (bytes, writing) = receiving(to.path(), &receiver, &data);
    send(&bytes, &pieces[..1]);
    receiver.stop();
    let refused = writing.join().expect("no panic").expect_err("it is not whole");
    assert!(refused.to_string().contains("the stream ended"), "{refused}");
    assert!(bytes.is_closed(), "the sender hears of it");
    assert_eq!(names(to.path()), Vec::<String>::new());

    let receiver = store(to.path(), 0);
    let (bytes, writing) = receiving(to.path(), &receiver, &data);
    send(&bytes, &pieces);
    drop(bytes);
    writing.join().expect("no panic").expect("it is whole");
    assert!(is_complete(to.path()));
    receiver.stop();
}

/// What it answers is told to raft, which sends that replica nothing else before.
#[test]
fn a_sender_that_stops_in_the_middle_says_that_it_has_failed() {
    let from = home();
    let sender = store(from.path(), 1);
    build(from.path());
    let (outgoing, handle) = (Outgoing::open(from.path(), ID).expect("built"), sender.handle());
    let (chunks, mut stream) = mpsc::channel(CHUNKS_WAITING_MAX);
    let reading =
        spawn("sends", move || read(outgoing, first(), &handle, &chunks, &AtomicU64::new(0)));
    assert!(stream.blocking_recv().expect("it has begun").message.is_some());
    sender.stop();
    assert_eq!(reading.join().expect("no panic"), Err("the store stops".to_string()));
    assert!(stream.blocking_recv().is_none(), "nothing more comes");
}

#[test]
fn a_transfer_is_given_up_when_it_stands_still_and_not_while_it_moves() {
    let mut seen = Seen::default();
    assert!(seen.has_moved(0), "it has just begun");
    assert!((1..10).all(|chunks| seen.has_moved(chunks)), "it moves, however slowly");
    assert!(!seen.has_moved(9));
}
