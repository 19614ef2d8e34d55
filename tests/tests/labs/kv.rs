//! The un-numbered tests of project `kv` that look at a store from outside: regions, epochs, first messages, splits,
//! the first region, where data lies.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};
use skerry_kv::error::Leaving;
use skerry_proto::codec::encode_bytes;
use skerry_proto::eraftpb::ConfChangeType;
use skerry_proto::metapb::{Peer, PeerRole, Region, RegionEpoch};
use skerry_proto::raft_cmdpb::admin_request::Command;
use skerry_proto::raft_cmdpb::{
    BatchSplitRequest, ChangePeerRequest, ChangePeerV2Request, CompactLogRequest, SplitRequest,
    TransferLeaderRequest,
};
use skerry_proto::raft_serverpb::RaftMessage;
use skerry_proto::types::{PeerId, RegionId, StoreId};
use skerry_raftstore::config::{ByteSize, RaftConfig, RaftEngineConfig};
use skerry_raftstore::engine::directory::{DataDirectory, Identity, Purpose};
use skerry_raftstore::engine::log::LogEngine;
use skerry_raftstore::engine::log::memory::MemoryLog;
use skerry_raftstore::engine::memory::MemoryEngine;
use skerry_raftstore::engine::{ColumnFamily, Engine, KeyRange, WriteBatch};
use skerry_raftstore::keys::{apply_state, data_key, region_state};
use skerry_raftstore::message::{CommandContext, Consistency};
use skerry_raftstore::reply::Refusal;
use skerry_raftstore::store::bootstrap::{bootstrap, withdraw};
use skerry_raftstore::store::{Store, StoreParts};
use skerry_raftstore::time::ManualClock;
use skerry_tests::lab::looks::SOON;
use skerry_tests::lab::{Lab, Setup, run};
use skerry_tests::sim::script::{Errand, Told, Wish};
use skerry_tests::sim::trace::MILLISECOND;

/// A region of these keys with a replica on store 1.
pub(crate) fn region(start: &'static str, end: &'static str) -> Region {
    Region {
        id: 4,
        start_key: start.into(),
        end_key: end.into(),
        region_epoch: Some(RegionEpoch { conf_ver: 1, version: 1 }),
        peers: vec![Peer { id: 5, store_id: 1, role: PeerRole::Voter.into() }],
    }
}

/// Every key of the family that holds states of regions.
fn states(engine: &MemoryEngine) -> usize {
    let view = engine.view();
    let mut cursor = view.cursor(ColumnFamily::Raft, &KeyRange::default()).expect("memory is read");
    let mut stands = cursor.seek_to_first().expect("memory is read");
    let mut count = 0;
    while stands {
        count += 1;
        stands = cursor.next().expect("memory is read");
    }
    count
}

/// The first region is written and can be taken back; a directory that belongs to a store refuses another.
#[test]
fn test_bootstrap_store() {
    let (engine, log, first) = (MemoryEngine::new(), MemoryLog::new(), region("", ""));
    bootstrap(&engine, &log, &first).expect("memory is written");
    for key in [region_state(first.id), apply_state(first.id)] {
        assert!(engine.get(ColumnFamily::Raft, &key).expect("memory is read").is_some());
    }
    assert!(log.state(first.id).expect("memory is read").is_some());
    withdraw(&engine, &log, first.id).expect("memory is written");
    assert_eq!((states(&engine), log.regions().expect("memory is read")), (0, vec![]));

    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let purpose = Purpose::replicated_store(&RaftEngineConfig::default());
    let directory = DataDirectory::open(home.path(), purpose).expect("an empty directory");
    let identity =
        |store| Identity { cluster_id: Some(1), store_id: Some(store), ..Identity::default() };
    directory.set_identity(identity(1)).expect("nobody owns it yet");
    directory.set_identity(identity(2)).expect_err("it belongs to store 1");
}

#[test]
fn test_check_key_in_region() {
    let cases = [
        ("", "", "", true),
        ("", "", "6", true),
        ("", "3", "4", false),
        ("4", "", "3", false),
        ("3", "", "3", true),
        ("", "3", "3", false),
        ("2", "6", "3", true),
        ("2", "6", "2", true),
        ("2", "6", "6", false),
        ("2", "6", "1", false),
    ];
    for (start, end, key, is_inside) in cases {
        let region = region(start, end);
        assert_eq!(region.contains_key(key.as_bytes()), is_inside, "{key} in {}", region.bounds());
    }
}

#[test]
fn test_epoch_stale() {
    let epoch = |version, conf_ver| RegionEpoch { conf_ver, version };
    let current = epoch(10, 10);
    for stale in [epoch(9, 10), epoch(10, 9), epoch(9, 9), epoch(9, 11), epoch(11, 9)] {
        assert!(stale.is_stale(&current), "{stale} beside {current}");
    }
    for fresh in [current, epoch(11, 10), epoch(10, 11), epoch(11, 11)] {
        assert!(!fresh.is_stale(&current), "{fresh} beside {current}");
    }
}

/// A store that does not exist.
const NOWHERE: u64 = 99;

/// Which parts of the epoch a command must know: writes and reads the range, changes of peers the peers, cuts
/// both, compaction and transfer nothing.
#[test]
fn test_check_region_epoch() {
    run(&Setup::of(3), async |lab| {
        lab.put("k", "v").await;
        lab.must_split("m").await;
        let region = lab.region_of(b"a").await;
        let current = region.epoch();
        let older = |version: u64, conf_ver: u64| RegionEpoch {
            version: current.version - version,
            conf_ver: current.conf_ver - conf_ver,
        };
        let mut batch = WriteBatch::new();
        batch.put(ColumnFamily::Raw, data_key(b"a"), Bytes::from("v"));
        let (write, read) = (Wish::Write(batch), Wish::Read(Consistency::Leader));
        let learner = lab.new_learner(1);
        let change =
            change_of(ConfChangeType::AddLearnerNode, Peer { store_id: NOWHERE, ..learner });
        let split = SplitRequest {
            split_key: "b".into(),
            new_region_id: 1_000,
            new_peer_ids: vec![1_001, 1_002, 1_003],
        };
        let split = BatchSplitRequest { requests: vec![split], right_derive: false };
        let heir = lab.leader_of(region.id).expect("it is led").1.peer;
        let transfer = TransferLeaderRequest { peer: Some(heir), peers: Vec::new() };
        let cases = [
            (write, true, false),
            (read, true, false),
            (Wish::Admin(Command::ChangePeerV2(change)), false, true),
            (Wish::Admin(Command::Splits(split)), true, true),
            (Wish::Admin(Command::CompactLog(CompactLogRequest::default())), false, false),
            (Wish::Admin(Command::TransferLeader(transfer)), false, false),
        ];
        for (wish, needs_version, needs_conf_ver) in cases {
            let refused = is_refused(&lab, &region, older(1, 0), wish.clone()).await;
            assert_eq!(refused, needs_version, "{wish:?} with an old version");
            let refused = is_refused(&lab, &region, older(0, 1), wish.clone()).await;
            assert_eq!(refused, needs_conf_ver, "{wish:?} with an old conf_ver");
        }
        // The change of peers knew enough and was carried out. Nobody is there; it is taken back.
        let learner = Peer { store_id: NOWHERE, ..learner };
        lab.until("the change is carried out", SOON, |lab| {
            lab.leader_of(region.id).is_some_and(|(_, status)| status.region.peers.len() == 4)
        })
        .await;
        while lab.region_of(b"a").await.peers.len() == 4 {
            lab.change_peer(region.id, ConfChangeType::RemoveNode, learner).await;
            lab.pause(50 * MILLISECOND).await;
        }
    });
}

fn change_of(kind: ConfChangeType, peer: Peer) -> ChangePeerV2Request {
    ChangePeerV2Request {
        changes: vec![ChangePeerRequest { change_type: kind.into(), peer: Some(peer) }],
    }
}

/// Whether the leader refuses a wish because of this epoch. Repeated while an answer is lost.
async fn is_refused(lab: &Lab, region: &Region, epoch: RegionEpoch, wish: Wish) -> bool {
    let context =
        CommandContext { region_id: region.region_id(), epoch, ..CommandContext::default() };
    loop {
        let (leader, _) = lab.leader_of(region.id).expect("nothing disturbs the leader");
        let store = lab.store_id(leader);
        match lab.ask(Errand { store, context, wish: wish.clone() }).await {
            Some(Told::Refused(Refusal::EpochNotMatch(regions))) => {
                assert!(regions.iter().any(|shown| shown.id == region.id), "{regions:?}");
                return true;
            }
            Some(_) => return false,
            None => {}
        }
    }
}

/// A store that knows no region, and hears this.
fn hears(message: &Message) -> usize {
    let snapshots = tempfile::tempdir().expect("a temporary directory can be made");
    let mut store = Store::open(StoreParts {
        store_id: StoreId::new(2),
        engine: Arc::new(MemoryEngine::new()),
        log: Arc::new(MemoryLog::new()),
        snapshots: snapshots.path().to_path_buf(),
        clock: Arc::new(ManualClock::default()),
        config: RaftConfig::default(),
        seed: 1,
        logger: slog::Logger::root(slog::Discard, slog::o!()),
        planted: None,
    })
    .expect("an empty disk is opened");
    let peer = |id, store_id| Peer { id, store_id, role: PeerRole::Voter.into() };
    store.receive(RaftMessage {
        region_id: 4,
        from_peer: Some(peer(5, 1)),
        to_peer: Some(peer(6, 2)),
        message: message.write_to_bytes().expect("a message has a size").into(),
        region_epoch: Some(RegionEpoch { conf_ver: 2, version: 1 }),
        ..RaftMessage::default()
    });
    while let Some(actor) = (0..store.actors()).find(|actor| store.has_work(*actor)) {
        store.turn(actor).expect("memory does not fail");
    }
    store.inspect().len()
}

/// Only a vote and a leader's first heartbeat begin a replica.
#[test]
fn test_is_initial_msg() {
    let message = |msg_type, commit| Message {
        msg_type,
        commit,
        from: 5,
        to: 6,
        term: 6,
        ..Message::default()
    };
    let initial = [
        message(MessageType::MsgRequestVote, 0),
        message(MessageType::MsgRequestPreVote, 0),
        message(MessageType::MsgHeartbeat, 0),
    ];
    for message in initial {
        assert_eq!(hears(&message), 1, "{message:?}");
    }
    let others = [
        message(MessageType::MsgHeartbeat, 1),
        message(MessageType::MsgAppend, 0),
        message(MessageType::MsgTimeoutNow, 0),
    ];
    for message in others {
        assert_eq!(hears(&message), 0, "{message:?}");
    }
}

/// Versions of encoded keys: a region is cut between keys, never between the versions of one.
#[test]
fn test_split_check() {
    let mut setup = Setup::of(1);
    setup.config = RaftConfig {
        region_size_max: ByteSize(100),
        split_size: ByteSize(50),
        split_check_size: ByteSize(1),
        ..setup.config
    };
    run(&setup, async |lab| {
        let mut batch = WriteBatch::new();
        for number in 0..5 {
            let mut key = encode_bytes(format!("k{number}").as_bytes());
            key.extend_from_slice(&(!10_u64).to_be_bytes());
            batch.put(ColumnFamily::Write, data_key(&key), Bytes::from("abcd"));
        }
        lab.insist(b"k", Wish::Write(batch)).await;
        lab.until("the region was cut", SOON, |lab| lab.regions().len() == 2).await;
        let regions = lab.regions();
        // 22 bytes a pair: the half of them ends within the third.
        assert_eq!(regions[1].start_key, encode_bytes(b"k3"));
        assert_eq!(regions[0].end_key, regions[1].start_key);
    });
}

/// Five stores on real disks have five homes, with the data and the log of each below its own.
#[test]
fn test_different_db_path() {
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let open = |store: u64| -> (DataDirectory, [PathBuf; 3]) {
        let path = home.path().join(format!("store-{store}"));
        let purpose = Purpose::replicated_store(&RaftEngineConfig::default());
        let directory = DataDirectory::open(&path, purpose).expect("an empty directory");
        let paths = [directory.path().to_path_buf(), directory.data_path(), path.join("log")];
        (directory, paths)
    };
    let stores: Vec<_> = (1..=5).map(open).collect();
    let paths: BTreeSet<&PathBuf> = stores.iter().flat_map(|(_, paths)| paths).collect();
    assert_eq!(paths.len(), 15);

    // A second store in the same place is refused while the first runs.
    let taken = home.path().join("store-1");
    let purpose = Purpose::replicated_store(&RaftEngineConfig::default());
    assert!(DataDirectory::open(&taken, purpose).is_err());
}

/// Every refusal of raftstore reaches a client in the field that tells it what to do, or as words where clients have
/// none.
#[test]
fn test_raftstore_err_to_pb_error() {
    let region = Arc::new(Region {
        id: 7,
        start_key: Bytes::from("b"),
        end_key: Bytes::from("d"),
        region_epoch: Some(RegionEpoch { conf_ver: 1, version: 3 }),
        ..Region::default()
    });
    let wire = |refusal: Refusal| match skerry_kv::Error::from(refusal).leaving() {
        Leaving::Region(error) => *error,
        other => panic!("it is for clients: {other:?}"),
    };
    let leader = Some(Peer { id: 9, store_id: 2, ..Peer::default() });
    let region_id = RegionId::new(7);
    let told = wire(Refusal::NotLeader { region_id, leader });
    assert_eq!(told.not_leader.map(|it| (it.region_id, it.leader)), Some((7, leader)));
    let told = wire(Refusal::RegionNotFound(region_id));
    assert_eq!(told.region_not_found.map(|it| it.region_id), Some(7));
    let told = wire(Refusal::KeyNotInRegion { key: Bytes::from("z"), region: region.clone() });
    let told = told.key_not_in_region.expect("the key's own field");
    assert_eq!((told.region_id, &told.key[..]), (7, &b"z"[..]));
    assert_eq!((&told.start_key[..], &told.end_key[..]), (&b"b"[..], &b"d"[..]));
    let told = wire(Refusal::EpochNotMatch(vec![region.clone()]));
    let current = told.epoch_not_match.expect("the epoch's own field").current_regions;
    assert_eq!(current, [Region::clone(&region)]);
    assert!(wire(Refusal::StaleCommand).stale_command.is_some());
    let (asked, present) = (PeerId::new(1), PeerId::new(2));
    let told = wire(Refusal::PeerMismatch { asked, present }).mismatch_peer_id;
    assert_eq!(told.map(|it| (it.request_peer_id, it.store_peer_id)), Some((1, 2)));
    let (asked, present) = (StoreId::new(3), StoreId::new(4));
    let told = wire(Refusal::StoreMismatch { asked, present }).store_not_match;
    assert_eq!(told.map(|it| (it.request_store_id, it.actual_store_id)), Some((3, 4)));
    let told = wire(Refusal::EntryTooLarge { region_id, bytes: 10, bytes_max: 9 });
    assert_eq!(told.raft_entry_too_large.map(|it| (it.region_id, it.entry_size)), Some((7, 10)));
    // Clients hand `ServerIsBusy` to the application; a region between two leaders is not that.
    let told = wire(Refusal::Busy("the leader is handing over"));
    assert!(told.server_is_busy.is_none() && told.message.contains("handing over"), "{told:?}");
}
