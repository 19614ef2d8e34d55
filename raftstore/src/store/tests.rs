//! Small clusters on memory engines, turned by hand in a fixed order: what a reader should see first.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, sync_channel};

use skerry_proto::eraftpb::ConfChangeType;
use skerry_proto::metapb::{self, PeerRole};
use skerry_proto::raft_cmdpb::{
    BatchSplitRequest, ChangePeerRequest, ChangePeerV2Request, CompactLogRequest, SplitRequest,
    TransferLeaderRequest, admin_request,
};

use super::*;
use crate::engine::log::memory::MemoryLog;
use crate::engine::memory::MemoryEngine;
use crate::engine::{ColumnFamily, WriteBatch};
use crate::keys::data_key;
use crate::message::{AdminDone, CommandContext, CommandKind, Consistency, RegionView, Written};
use crate::reply::{Outcome, Refusal, Replies};
use crate::snapshot::{Activity, Registration, SnapshotId};
use crate::time::ManualClock;

mod abandoned;
mod born;
mod flow;
mod guarded_reads;
mod messages;
mod offers;
mod overload;
mod pace;
mod replaced;
mod sleep;
mod split_check;
mod stepped;
mod threads;

const RAW: ColumnFamily = ColumnFamily::Raw;

/// One store, and what survives it.
struct Machine {
    store: Store,
    engine: Arc<MemoryEngine>,
    log: Arc<MemoryLog>,
    directory: tempfile::TempDir,
    is_cut_off: bool,
}

/// Stores 1 to n of one cluster.
struct Cluster {
    machines: BTreeMap<u64, Machine>,
    clock: ManualClock,
    replies: Arc<Replies>,
    /// What was sent last, whether or not it arrived.
    overheard: VecDeque<RaftMessage>,
    /// A region whose messages do not arrive.
    muted: Option<u64>,
    /// The same on their way to one store.
    muted_to: Option<(u64, u64)>,
    /// An actor that takes no turn, and its store.
    hanging: Option<(u64, usize)>,
}

/// Messages that are kept for tests that look at them.
const OVERHEARD_MAX: usize = 512;

fn config() -> RaftConfig {
    RaftConfig {
        log_gc_threshold: 5,
        stale_peer_ticks: 40,
        snapshot_generating_max: 1,
        snapshot_applying_max: 1,
        snapshot_collect_ticks: 20,
        snapshot_keep_ticks: 60,
        ..RaftConfig::default()
    }
}

fn peer(id: u64, store_id: u64) -> metapb::Peer {
    metapb::Peer { id, store_id, ..metapb::Peer::default() }
}

impl Cluster {
    /// A cluster whose first region lies on the first `replicas` of `stores`.
    fn new(stores: u64, replicas: u64) -> Cluster {
        let region = metapb::Region {
            id: 1,
            region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version: 1 }),
            peers: (1..=replicas).map(|store| peer(10 + store, store)).collect(),
            ..metapb::Region::default()
        };
        let clock = ManualClock::default();
        let machine = |store_id: u64| {
            let (engine, log) = (Arc::new(MemoryEngine::new()), Arc::new(MemoryLog::new()));
            if store_id <= replicas {
                let written = bootstrap::bootstrap(engine.as_ref(), log.as_ref(), &region);
                written.expect("bootstrap");
            }
            let directory = tempfile::tempdir().expect("a directory");
            let store = open(store_id, &engine, &log, &directory, &clock);
            (store_id, Machine { store, engine, log, directory, is_cut_off: false })
        };
        let machines = (1..=stores).map(machine).collect();
        let (clock, replies) = (clock.clone(), Replies::new());
        Cluster {
            machines,
            clock,
            replies,
            overheard: VecDeque::new(),
            muted: None,
            muted_to: None,
            hanging: None,
        }
    }

    /// The same, four seconds later: somebody leads.
    fn led(stores: u64, replicas: u64) -> Cluster {
        let mut cluster = Cluster::new(stores, replicas);
        cluster.run(40);
        cluster
    }

    /// Turns everything until nothing is left to do, then lets a tick pass; `ticks` times.
    fn run(&mut self, ticks: usize) {
        for _ in 0..ticks {
            self.settle();
            self.clock.advance_ms(100);
            self.machines.values_mut().for_each(|machine| machine.store.tick());
        }
        self.settle();
    }

    fn settle(&mut self) {
        loop {
            let mut sent = Vec::new();
            let mut idle = true;
            for (store, machine) in &mut self.machines {
                for actor in 0..machine.store.actors() {
                    let hangs = self.hanging == Some((*store, actor));
                    while !hangs && machine.store.has_work(actor) {
                        machine.store.turn(actor).expect("nothing fails");
                        replaced::assert_promises_are_kept(machine);
                        idle = false;
                    }
                }
                let out = machine.store.take_sent();
                sent.extend(out.into_iter().filter(|_| !machine.is_cut_off));
            }
            idle &= sent.is_empty();
            sent.into_iter().for_each(|message| self.deliver(message));
            if idle {
                return;
            }
        }
    }

    fn deliver(&mut self, message: RaftMessage) {
        let to = message.to_peer.expect("a receiver").store_id;
        let from = message.from_peer.expect("a sender").store_id;
        self.overheard.truncate(OVERHEARD_MAX - 1);
        self.overheard.push_front(message.clone());
        let (region_id, muted_to) = (message.region_id, self.muted_to);
        if self.muted == Some(region_id) || muted_to == Some((region_id, to)) {
            return;
        }
        if self.machines.get(&to).is_none_or(|machine| machine.is_cut_off) {
            return;
        }
        let directory = |store: u64| self.machines[&store].directory.path();
        let carried = crate::snapshot::carry(directory(from), directory(to), &message);
        if let Some(arrived) = carried {
            let (region_id, to_peer) = (message.region_id, message.to_peer.expect("a receiver").id);
            let sender = self.machines.get_mut(&from).expect("it has sent");
            sender.store.snapshot_sent(RegionId::new(region_id), PeerId::new(to_peer), arrived);
        }
        self.machines.get_mut(&to).expect("looked at above").store.receive(message);
    }

    fn restart(&mut self, store_id: u64) {
        let machine = self.machines.remove(&store_id).expect("it is there");
        let Machine { store, engine, log, directory, is_cut_off } = machine;
        self.replies.disarm();
        drop(store);
        self.replies = Replies::new();
        let engine = Arc::new(engine.crash(0));
        log.crash(0);
        let store = open(store_id, &engine, &log, &directory, &self.clock);
        self.machines.insert(store_id, Machine { store, engine, log, directory, is_cut_off });
    }

    /// Opens a store anew with other settings.
    fn reopen(&mut self, store_id: u64, config: RaftConfig) {
        self.restart(store_id);
        let machine = self.machines.remove(&store_id).expect("it is there");
        let Machine { store, engine, log, directory, is_cut_off } = machine;
        drop(store);
        let store = open_with(config, store_id, &engine, &log, &directory, &self.clock);
        self.machines.insert(store_id, Machine { store, engine, log, directory, is_cut_off });
    }

    fn machine(&mut self, store: u64) -> &mut Machine {
        self.machines.get_mut(&store).expect("it is there")
    }

    /// The replica of a region that leads in the newest term, and its store.
    fn leader(&self, region_id: u64) -> (u64, PeerStatus) {
        let all = self.machines.iter().flat_map(|(store, machine)| {
            machine.store.inspect().into_iter().map(move |status| (*store, status))
        });
        let of_region = all.filter(|(_, status)| status.region.id == region_id && status.is_leader);
        of_region.max_by_key(|(_, status)| status.term).expect("somebody leads")
    }

    fn context(&self, region_id: u64) -> CommandContext {
        let (_, leader) = self.leader(region_id);
        CommandContext {
            region_id: RegionId::new(region_id),
            epoch: leader.region.epoch(),
            ..CommandContext::default()
        }
    }

    fn send(&mut self, store: u64, context: CommandContext, kind: CommandKind) {
        let machine = self.machine(store);
        machine.store.command(Command { context, kind });
    }

    fn put(&mut self, region_id: u64, key: &str, value: &str) -> Outcome<Written> {
        self.put_in(region_id, RAW, key.as_bytes(), value)
    }

    fn put_in(
        &mut self,
        region_id: u64,
        family: ColumnFamily,
        key: &[u8],
        value: &str,
    ) -> Outcome<Written> {
        let (context, store) = (self.context(region_id), self.leader(region_id).0);
        let mut batch = WriteBatch::new();
        batch.put(family, data_key(key), value.to_string());
        let (reply, answers) = self.reply();
        self.send(store, context, CommandKind::Write { batch, reply });
        self.wait(&answers)
    }

    fn get(&mut self, store: u64, region_id: u64, key: &str, from: Consistency) -> Option<String> {
        let context = self.context(region_id);
        let (reply, answers) = self.reply::<RegionView>();
        self.send(store, context, CommandKind::Read { consistency: from, reply });
        match self.wait(&answers) {
            Outcome::Done(view) => {
                let value = view.view.get(RAW, &data_key(key.as_bytes())).expect("get");
                value.map(|value| String::from_utf8(value.to_vec()).expect("text"))
            }
            other => panic!("{other:?}"),
        }
    }

    fn admin(&mut self, region_id: u64, request: admin_request::Command) -> Outcome<AdminDone> {
        let (context, store) = (self.context(region_id), self.leader(region_id).0);
        let (reply, answers) = self.reply();
        self.send(store, context, CommandKind::Admin { request, reply });
        self.wait(&answers)
    }

    fn change(&mut self, region_id: u64, changes: &[(ConfChangeType, metapb::Peer)]) {
        let change = |(kind, peer): &(ConfChangeType, metapb::Peer)| ChangePeerRequest {
            change_type: (*kind).into(),
            peer: Some(*peer),
        };
        let request = ChangePeerV2Request { changes: changes.iter().map(change).collect() };
        let outcome = self.admin(region_id, admin_request::Command::ChangePeerV2(request));
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    }

    /// Lets the replica on store `heir`, which has the id that [`Cluster::new`] gave it, lead.
    fn hand_over(&mut self, region_id: u64, heir: u64) {
        let request = TransferLeaderRequest {
            peer: Some(peer(10 + heir, heir)),
            ..TransferLeaderRequest::default()
        };
        done(self.admin(region_id, admin_request::Command::TransferLeader(request)));
        self.run(10);
        assert_eq!(self.leader(region_id).0, heir);
    }

    /// Cuts the log of a region behind nearly everything that is applied.
    fn cut_log(&mut self, region_id: u64) {
        let applied = self.leader(region_id).1.applied;
        let cut = CompactLogRequest { compact_index: applied - 1, compact_term: 0 };
        done(self.admin(region_id, admin_request::Command::CompactLog(cut)));
        self.run(2);
    }

    /// Writes twenty pairs into region 1.
    fn put_twenty(&mut self, prefix: &str) {
        for number in 0..20 {
            done(self.put(1, &format!("{prefix}{number}"), "v"));
        }
    }

    fn reply<T: Send + 'static>(&self) -> (crate::reply::Reply<T>, Receiver<Outcome<T>>) {
        let (sender, receiver) = sync_channel(1);
        // A test may have stopped listening before its cluster ends.
        let reply = self.replies.reply(move |outcome| drop(sender.send(outcome)));
        (reply, receiver)
    }

    fn wait<T>(&mut self, answers: &Receiver<Outcome<T>>) -> Outcome<T> {
        for _ in 0..200 {
            self.run(1);
            if let Ok(outcome) = answers.try_recv() {
                return outcome;
            }
        }
        panic!("no answer in twenty seconds");
    }

    fn value_on(&self, store: u64, key: &str) -> Option<String> {
        let value = self.machines[&store].engine.get(RAW, &data_key(key.as_bytes())).expect("get");
        value.map(|value| String::from_utf8(value.to_vec()).expect("text"))
    }

    /// The names of a store's snapshot files, without their endings.
    fn snapshots(&self, store: u64) -> Vec<String> {
        let stored = self.machines[&store].store.snapshots().stored().expect("a directory");
        stored.iter().map(|(id, side)| format!("{side:?} {id}")).collect()
    }

    /// Something is done with a snapshot of another region, and takes all the room there is.
    fn occupy(&self, store: u64, activity: Activity) -> Registration {
        let id = SnapshotId { region_id: 99, term: 6, index: 6 };
        self.machines[&store].store.snapshots().begin(id, activity).expect("there is room")
    }

    fn replicas(&self, store: u64) -> Vec<String> {
        let all = self.machines[&store].store.inspect();
        all.iter().map(|status| format!("{} {}", status.region, status.region.bounds())).collect()
    }

    fn split(&mut self, region_id: u64, key: &'static str, new: u64) {
        self.split_at(region_id, vec![key.into()], new);
    }

    /// Cuts a region at these keys; the parts in front have the ids from `new` on.
    fn split_at(&mut self, region_id: u64, keys: Vec<bytes::Bytes>, new: u64) {
        let peers = self.leader(region_id).1.region.peers.len() as u64;
        let split = |(split_key, new_region_id)| SplitRequest {
            split_key,
            new_region_id,
            new_peer_ids: (1..=peers).map(|peer| new_region_id * 10 + peer).collect(),
        };
        let requests = keys.into_iter().zip(new..).map(split).collect();
        let request = BatchSplitRequest { requests, right_derive: true };
        let outcome = self.admin(region_id, admin_request::Command::Splits(request));
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
        self.run(10);
    }
}

fn open(
    store_id: u64,
    engine: &Arc<MemoryEngine>,
    log: &Arc<MemoryLog>,
    directory: &tempfile::TempDir,
    clock: &ManualClock,
) -> Store {
    open_with(config(), store_id, engine, log, directory, clock)
}

fn open_with(
    config: RaftConfig,
    store_id: u64,
    engine: &Arc<MemoryEngine>,
    log: &Arc<MemoryLog>,
    directory: &tempfile::TempDir,
    clock: &ManualClock,
) -> Store {
    let parts = StoreParts {
        store_id: StoreId::new(store_id),
        engine: engine.clone(),
        log: log.clone(),
        snapshots: directory.path().to_path_buf(),
        clock: Arc::new(clock.clone()),
        config,
        seed: store_id,
        logger: Logger::root(slog::Discard, slog::o!()),
        planted: None,
    };
    Store::open(parts).expect("the store opens")
}

/// Lets a store work until it is idle or ends.
fn turn_all(store: &mut Store) -> crate::Result<()> {
    while let Some(actor) = (0..store.actors()).find(|actor| store.has_work(*actor)) {
        store.turn(actor)?;
    }
    Ok(())
}

fn done<T: std::fmt::Debug>(outcome: Outcome<T>) -> T {
    match outcome {
        Outcome::Done(value) => value,
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_store_alone_leads_writes_and_reads_at_once() {
    let mut cluster = Cluster::new(1, 1);
    cluster.run(1);
    done(cluster.put(1, "a", "1"));
    assert_eq!(cluster.get(1, 1, "a", Consistency::Leader).as_deref(), Some("1"));
}

#[test]
fn three_stores_elect_replicate_and_read_from_each() {
    let mut cluster = Cluster::led(3, 3);
    done(cluster.put(1, "a", "1"));
    for store in 1..=3 {
        assert_eq!(cluster.get(store, 1, "a", Consistency::Replica).as_deref(), Some("1"));
    }
    cluster.run(5);
    assert!((1..=3).all(|store| cluster.value_on(store, "a").as_deref() == Some("1")));
}

#[test]
fn a_follower_refuses_and_names_the_leader() {
    let mut cluster = Cluster::led(3, 3);
    let (leader, status) = cluster.leader(1);
    let follower = leader % 3 + 1;
    let (reply, answers) = cluster.reply::<Written>();
    let context = cluster.context(1);
    cluster.send(follower, context, CommandKind::Write { batch: WriteBatch::new(), reply });
    let Outcome::Refused(Refusal::NotLeader { leader, .. }) = cluster.wait(&answers) else {
        panic!("a follower took a write");
    };
    assert_eq!(leader, Some(status.peer));
}

#[test]
fn what_was_acknowledged_survives_the_power_loss_of_all_stores() {
    let mut cluster = Cluster::led(3, 3);
    cluster.put_twenty("k");
    (1..=3).for_each(|store| cluster.restart(store));
    cluster.run(60);
    let store = cluster.leader(1).0;
    for number in 0..20 {
        let value = cluster.get(store, 1, &format!("k{number}"), Consistency::Leader);
        assert_eq!(value.as_deref(), Some("v"), "k{number}");
    }
}

#[test]
fn a_leader_that_is_cut_off_is_replaced_and_follows_when_it_is_back() {
    let mut cluster = Cluster::led(3, 3);
    let (old, _) = cluster.leader(1);
    cluster.machine(old).is_cut_off = true;
    cluster.run(60);
    let (new, _) = cluster.leader(1);
    assert_ne!(old, new);
    done(cluster.put(1, "a", "1"));
    cluster.machine(old).is_cut_off = false;
    cluster.run(20);
    assert_eq!(cluster.value_on(old, "a").as_deref(), Some("1"));
}

#[test]
fn a_region_is_cut_and_both_parts_serve() {
    let mut cluster = Cluster::led(3, 3);
    done(cluster.put(1, "a", "1"));
    done(cluster.put(1, "x", "2"));
    cluster.split(1, "m", 2);
    let parts = ["r1 c1v2 {p11@s1 p12@s2 p13@s3} [m, ∞)", "r2 c1v2 {p21@s1 p22@s2 p23@s3} [, m)"];
    (1..=3).for_each(|store| assert_eq!(cluster.replicas(store), parts));
    done(cluster.put(2, "b", "3"));
    done(cluster.put(1, "y", "4"));
    let outside = cluster.put(2, "y", "5");
    assert!(matches!(outside, Outcome::Refused(Refusal::KeyNotInRegion { .. })), "{outside:?}");
    (1..=3).for_each(|store| cluster.restart(store));
    cluster.run(60);
    (1..=3).for_each(|store| assert_eq!(cluster.replicas(store), parts));
    let store = cluster.leader(2).0;
    assert_eq!(cluster.get(store, 2, "a", Consistency::Leader).as_deref(), Some("1"));
}

#[test]
fn a_new_member_catches_up_by_snapshot_and_an_old_one_leaves_nothing_behind() {
    let mut cluster = Cluster::led(4, 3);
    cluster.put_twenty("k");
    cluster.change(1, &[(ConfChangeType::AddLearnerNode, peer(14, 4))]);
    cluster.run(30);
    assert_eq!(cluster.value_on(4, "k7").as_deref(), Some("v"));
    cluster.change(1, &[(ConfChangeType::AddNode, peer(14, 4))]);
    let leader = cluster.leader(1).0;
    let leaver = leader % 3 + 1;
    cluster.change(1, &[(ConfChangeType::RemoveNode, peer(10 + leaver, leaver))]);
    cluster.run(60);
    assert_eq!(cluster.replicas(leaver), Vec::<String>::new());
    assert_eq!(cluster.value_on(leaver, "k7"), None);
    done(cluster.put(1, "after", "v"));
    // Followers hear that it is committed with the next heartbeat.
    cluster.run(3);
    assert_eq!(cluster.value_on(4, "after").as_deref(), Some("v"));
}

#[test]
fn a_replica_that_has_caught_up_is_reported_at_once() {
    let mut cluster = Cluster::new(2, 1);
    cluster.run(3);
    let reports = |cluster: &mut Cluster| cluster.machine(1).store.take_reports();
    reports(&mut cluster);
    cluster.change(1, &[(ConfChangeType::AddLearnerNode, peer(12, 2))]);
    cluster.run(10);
    let pending: Vec<_> = reports(&mut cluster).into_iter().map(|told| told.pending).collect();
    let told = [vec![PeerId::new(12)], vec![]];
    assert_eq!(pending[..2], told, "a minute before the next report is due");
}

#[test]
fn two_members_are_swapped_through_the_joint_configuration() {
    let mut cluster = Cluster::led(4, 3);
    done(cluster.put(1, "a", "1"));
    let leaver = cluster.leader(1).0 % 3 + 1;
    cluster.change(1, &[(ConfChangeType::AddLearnerNode, peer(14, 4))]);
    cluster.run(30);
    let swap = [
        (ConfChangeType::AddNode, peer(14, 4)),
        (ConfChangeType::AddLearnerNode, peer(10 + leaver, leaver)),
    ];
    cluster.change(1, &swap);
    cluster.change(1, &[]);
    cluster.change(1, &[(ConfChangeType::RemoveNode, peer(10 + leaver, leaver))]);
    cluster.run(60);
    let (_, leader) = cluster.leader(1);
    assert!(leader.region.peers.iter().all(|peer| peer.role() == PeerRole::Voter));
    assert_eq!(cluster.replicas(leaver), Vec::<String>::new());
}

#[test]
fn leadership_is_handed_over() {
    let mut cluster = Cluster::led(3, 3);
    let heir = cluster.leader(1).0 % 3 + 1;
    cluster.hand_over(1, heir);
    done(cluster.put(1, "a", "1"));
}

/// Before, nothing but a write made such a follower an heir again, and an idle region sees none.
#[test]
fn an_idle_region_is_handed_to_a_follower_that_could_not_be_reached_for_a_while() {
    let mut cluster = Cluster::led(3, 3);
    let leader = cluster.leader(1).0;
    let heir = leader % 3 + 1;
    let store = &mut cluster.machine(leader).store;
    store.unreachable(RegionId::new(1), PeerId::new(10 + heir));
    cluster.run(5);
    cluster.hand_over(1, heir);
}

#[test]
fn logs_are_cut_and_a_follower_that_was_away_gets_a_snapshot_after_two_splits() {
    let mut cluster = Cluster::led(3, 3);
    let away = cluster.leader(1).0 % 3 + 1;
    cluster.machine(away).is_cut_off = true;
    for number in 0..20 {
        done(cluster.put(1, &format!("k{number:02}"), "v"));
    }
    cluster.split(1, "k05", 2);
    cluster.split(1, "k10", 3);
    done(cluster.put(1, "last", "v"));
    cluster.cut_log(1);
    cluster.machine(away).is_cut_off = false;
    cluster.run(80);
    let leader = cluster.leader(1).0;
    assert_eq!(cluster.replicas(away), cluster.replicas(leader));
    for key in ["k00", "k07", "k19", "last"] {
        assert_eq!(cluster.value_on(away, key).as_deref(), Some("v"), "{key}");
    }
}

#[test]
fn a_snapshot_that_cannot_be_built_now_is_asked_for_again_and_one_that_cannot_be_installed_waits() {
    let mut cluster = Cluster::led(4, 3);
    cluster.put_twenty("k");
    let leader = cluster.leader(1).0;
    let generating = cluster.occupy(leader, Activity::Generating);
    let applying = cluster.occupy(4, Activity::Applying);
    cluster.change(1, &[(ConfChangeType::AddLearnerNode, peer(14, 4))]);
    cluster.run(30);
    assert_eq!(cluster.snapshots(leader), Vec::<String>::new(), "too many are being built");
    drop(generating);
    cluster.run(100);
    let [waiting] = &cluster.machines[&4].store.inspect()[..] else { panic!("one replica") };
    assert!(waiting.is_installing, "too many are being installed");
    assert_eq!(cluster.snapshots(4).len(), 1, "what is accepted is kept, for however long");
    drop(applying);
    cluster.run(20);
    assert_eq!(cluster.value_on(4, "k7").as_deref(), Some("v"));
    assert_eq!(cluster.snapshots(4), Vec::<String>::new(), "what is installed goes");
    cluster.run(100);
    assert_eq!(cluster.snapshots(leader), Vec::<String>::new(), "and what nobody asks for");
}

#[test]
fn files_that_a_former_process_has_left_are_gone_after_a_start() {
    let mut cluster = Cluster::new(1, 1);
    for name in ["gen_1_6_9.meta", "rev_1_6_8_raw.sst.tmp", "rev_7_6_8.meta", "gen_8_6_7.meta"] {
        std::fs::write(cluster.machines[&1].directory.path().join(name), "x").expect("write");
    }
    cluster.run(50);
    let left = ["Sender 1_6_9", "Receiver 1_6_8", "Receiver 7_6_8"];
    let mut found = cluster.snapshots(1);
    found.sort_by_key(|name| left.iter().position(|other| name == other));
    assert_eq!(found, left, "a region that is not here offers nothing");
    cluster.restart(1);
    assert_eq!(cluster.snapshots(1), Vec::<String>::new());
}

/// A snapshot that was built for a follower which then got another leader's would wait for ever, and the log with it.
#[test]
fn a_snapshot_that_nobody_needs_any_more_does_not_hold_the_log() {
    let mut cluster = Cluster::led(3, 3);
    let leader = cluster.leader(1).0;
    let away = leader % 3 + 1;
    cluster.machine(away).is_cut_off = true;
    for number in 0..20 {
        done(cluster.put(1, &format!("a{number:02}"), "v"));
    }
    cluster.cut_log(1);
    // Long enough to be heard of and to have a snapshot built, not to get it.
    cluster.machine(away).is_cut_off = false;
    cluster.run(2);
    assert_eq!(cluster.value_on(away, "a00"), None);
    cluster.machine(leader).is_cut_off = true;
    cluster.run(80);
    assert_eq!(cluster.value_on(away, "a00").as_deref(), Some("v"));

    cluster.machine(leader).is_cut_off = false;
    cluster.run(20);
    cluster.hand_over(1, leader);
    for number in 0..20 {
        done(cluster.put(1, &format!("b{number:02}"), "v"));
    }
    cluster.run(100);
    let (_, status) = cluster.leader(1);
    assert!(status.applied - status.truncated < 10, "{status:?}");
}

#[test]
fn no_configuration_is_named_to_a_replica_that_it_does_not_have() {
    let mut cluster = Cluster::led(3, 3);
    let (leader, status) = cluster.leader(1);
    let stranger = peer(19, leader % 3 + 1);
    let mut vote = raft::eraftpb::Message { from: 19, to: status.peer.id, ..Default::default() };
    vote.set_msg_type(raft::eraftpb::MessageType::MsgRequestPreVote);
    (vote.term, vote.index, vote.log_term) = (status.term + 1, 0, 0);
    let message = RaftMessage {
        region_id: 1,
        from_peer: Some(stranger),
        to_peer: Some(status.peer),
        message: protobuf::Message::write_to_bytes(&vote)
            .expect("it has no required fields")
            .into(),
        region_epoch: Some(metapb::RegionEpoch { conf_ver: 9, version: 1 }),
        ..RaftMessage::default()
    };
    // Long enough for the leader's followers to be forgotten: it must answer somebody.
    let machine = cluster.machine(leader);
    machine.is_cut_off = true;
    cluster.run(40);
    let machine = cluster.machine(leader);
    machine.store.receive(message);
    (0..machine.store.actors()).for_each(|actor| machine.store.turn(actor).expect("it works"));
    let sent = machine.store.take_sent();
    let answer = sent.iter().find(|message| message.to_peer == Some(stranger)).expect("an answer");
    assert_eq!(answer.region_epoch.map(|epoch| epoch.conf_ver), Some(0));
}
