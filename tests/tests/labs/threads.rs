//! Labs of projects 2B and 3B once more, shortly, on real threads and real engines: what the simulator cannot show.
//!
//! Clients share keys, and their history must be linearizable. Nothing goes wrong here; the simulator has the faults.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use skerry_proto::metapb::Region;
use skerry_proto::raft_cmdpb::TransferLeaderRequest;
use skerry_proto::raft_cmdpb::admin_request;
use skerry_raftstore::config::{ByteSize, RaftConfig};
use skerry_raftstore::engine::{ColumnFamily, WriteBatch};
use skerry_raftstore::keys::data_key;
use skerry_raftstore::message::{Command, CommandContext, CommandKind, Consistency, RegionView};
use skerry_raftstore::reply::{Outcome, Reply};
use skerry_tests::checker::{Action, Checked, Ending, History};
use skerry_tests::local_cluster::{Layout, LocalCluster};
use skerry_tests::wait;

/// Keys that the clients share.
const KEYS: u64 = 12;

/// Operations of each client.
const OPERATIONS: u64 = 150;

fn config() -> RaftConfig {
    RaftConfig { tick_ms: 20, report_ticks: 5, ..RaftConfig::default() }
}

/// Runs a story with three stores, one region and a quick pace.
fn with_cluster(config: RaftConfig, story: impl FnOnce(&LocalCluster)) {
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let layout = Layout { stores: 3, regions: 1, raft_engine: true, config };
    let cluster = LocalCluster::start(home.path(), &layout);
    story(&cluster);
    cluster.stop();
}

/// Clients on one cluster, and what they have done.
struct Clients<'a> {
    cluster: &'a LocalCluster,
    history: Mutex<History>,
    stamp: AtomicU64,
}

impl Clients<'_> {
    fn now(&self) -> u64 {
        self.stamp.fetch_add(1, Ordering::SeqCst)
    }

    /// One operation after the other: every third is a put, every ninth a removal.
    fn work(&self, client: u64) {
        for number in 0..OPERATIONS {
            let key = Bytes::from(format!("key-{:04}", (number * 7 + client) % KEYS));
            let action = match number % 9 {
                0 | 3 => Action::Put(Bytes::from(format!("{client}-{number}"))),
                6 => Action::Delete,
                _ => Action::Get,
            };
            let begin = |history: &mut History| {
                history.begin(client as usize, key.clone(), action.clone(), self.now())
            };
            let id = begin(&mut self.history.lock().expect("no client panics"));
            let ending = wait::until("an operation ends", || self.attempt(&key, &action));
            if ending != Ending::Unknown {
                let mut history = self.history.lock().expect("no client panics");
                history.end(id, ending, self.now());
            }
        }
    }

    /// Asks the leader once; nothing if that was refused.
    fn attempt(&self, key: &Bytes, action: &Action) -> Option<Ending> {
        let (region, store) = self.cluster.look_up(key)?;
        let context = context_of(&region);
        let family = ColumnFamily::Raw;
        let mut batch = WriteBatch::new();
        match action {
            Action::Put(value) => batch.put(family, data_key(key), value.clone()),
            Action::Delete => batch.delete(family, data_key(key)),
            _ => return self.read(context, store, key),
        }
        match self.ask(context, store, |reply| CommandKind::Write { batch, reply }) {
            Outcome::Done(_) => Some(Ending::Written),
            Outcome::Refused(_) => None,
            Outcome::Unknown(_) => Some(Ending::Unknown),
        }
    }

    /// By the leader's lease if it holds, else through its queue.
    fn read(&self, context: CommandContext, store: u64, key: &Bytes) -> Option<Ending> {
        let view = match self.cluster.store(store).reader().read(&context) {
            Some(view) => view.ok()?,
            None => {
                let consistency = Consistency::Leader;
                let kind = |reply| CommandKind::Read { consistency, reply };
                let Outcome::Done(view) = self.ask(context, store, kind) else { return None };
                view
            }
        };
        let RegionView { view, region, .. } = view;
        let found = || view.get(ColumnFamily::Raw, &data_key(key)).expect("an engine is read");
        region.contains_key(key).then(|| Ending::Found(found()))
    }

    fn ask<T: Send + 'static>(
        &self,
        context: CommandContext,
        store: u64,
        kind: impl FnOnce(Reply<T>) -> CommandKind,
    ) -> Outcome<T> {
        ask(self.cluster, context, store, kind)
    }
}

fn context_of(region: &Region) -> CommandContext {
    let (region_id, epoch) = (region.region_id(), region.epoch());
    CommandContext { region_id, epoch, ..CommandContext::default() }
}

/// Asks a store and waits: every request is answered.
fn ask<T: Send + 'static>(
    cluster: &LocalCluster,
    context: CommandContext,
    store: u64,
    kind: impl FnOnce(Reply<T>) -> CommandKind,
) -> Outcome<T> {
    let (sender, answers) = sync_channel(1);
    let reply = cluster.replies().reply(move |outcome| {
        // Whoever asked waits.
        let _ = sender.send(outcome);
    });
    cluster.store(store).command(Command { context, kind: kind(reply) });
    answers.recv().expect("a reply answers before it is gone")
}

/// So many clients at once; their history has an order.
fn work_together(cluster: &LocalCluster, count: u64) -> Checked {
    let clients = Clients { cluster, history: Mutex::default(), stamp: AtomicU64::new(0) };
    std::thread::scope(|scope| {
        for client in 0..count {
            let clients = &clients;
            scope.spawn(move || clients.work(client));
        }
    });
    let history = clients.history.into_inner().expect("no client has panicked");
    let checked = history.check().unwrap_or_else(|violation| panic!("{violation}"));
    println!("{checked:?}");
    assert!(checked.done as u64 >= count * OPERATIONS * 9 / 10, "{checked:?}");
    checked
}

#[test]
fn basic_2b_on_threads() {
    with_cluster(config(), |cluster| {
        let checked = work_together(cluster, 1);
        assert_eq!(checked.keys as u64, KEYS);
    });
}

#[test]
fn concurrent_2b_on_threads() {
    with_cluster(config(), |cluster| {
        work_together(cluster, 5);
    });
}

#[test]
fn transfer_leader_3b_on_threads() {
    with_cluster(config(), |cluster| {
        for heir in 1..=3 {
            wait::until("the heir leads", || {
                let (region, store) = cluster.look_up(b"")?;
                if store == heir {
                    return Some(());
                }
                let peer = region.peers.iter().find(|peer| peer.store_id == heir).copied();
                let request = admin_request::Command::TransferLeader(TransferLeaderRequest {
                    peer,
                    ..TransferLeaderRequest::default()
                });
                let kind = |reply| CommandKind::Admin { request, reply };
                ask(cluster, context_of(&region), store, kind);
                None
            });
        }
        work_together(cluster, 2);
    });
}

#[test]
fn split_3b_on_threads() {
    let small = RaftConfig {
        region_size_max: ByteSize(100),
        split_size: ByteSize(50),
        split_check_size: ByteSize(1),
        ..config()
    };
    with_cluster(small, |cluster| {
        work_together(cluster, 5);
        wait::until("the region is cut", || {
            let (first, _) = cluster.look_up(b"")?;
            (!first.end_key.is_empty()).then_some(())
        });
    });
}
