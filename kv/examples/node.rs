//! A replicated store of one's own: Skerry's parts put together by hand, without a scheduler and without gRPC.
//!
//! Whoever embeds the store reads this: what a [`Store`] needs of the world around it, and how it is started, asked
//! and stopped.
//!
//! # The parts
//!
//! 1. [`Node::start`] opens the engines and the store. The node with the lowest id founds the cluster when its
//!    directory is empty: one region with one replica. The others start empty and wait.
//! 2. [`Wire`] brings raft messages, snapshots and puts to the other nodes: length-prefixed frames over TCP
//!    (`node/wire.rs`).
//! 3. [`run_membership`] stands in for the scheduler: on the leader it looks for nodes that have no replica, adds each
//!    as a learner, and makes it a voter when it has caught up.
//! 4. [`Wire::execute`] takes a put or a get on any node, with a deadline. A put goes to the leader; a get is served
//!    where it is asked, after hearing from the leader how far it must have applied. Either may have to be tried again
//!    while a leader is elected; a put that was proposed never is, because that could undo a later one.
//! 5. [`Node::stop`] is the start read backwards.
//!
//! Without arguments it plays the whole story in one process and checks each step. With them it is one node:
//!
//! ```text
//! cargo build --workspace --all-targets; cd target/debug/examples
//! ./node
//! ./node --id 1 --address 127.0.0.1:7001 --peers 2=127.0.0.1:7002,3=127.0.0.1:7003
//! ./node --id 2 --address 127.0.0.1:7002 --peers 1=127.0.0.1:7001,3=127.0.0.1:7003
//! put apple red
//! get apple
//! ```
//!
//! **Invariant.** *Done* is said after a majority has a put on disk, and *not done* of what will never happen.
//!
//! What it does not do: it removes no node and cuts no region; connections are neither authenticated nor counted; and
//! the founder must not be started again with an empty directory, because it would found a second cluster.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::BufRead as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use clap::Parser;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, never};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use skerry_proto::eraftpb::ConfChangeType;
use skerry_proto::metapb::{self, PeerRole};
use skerry_proto::raft_cmdpb::{ChangePeerRequest, ChangePeerV2Request, admin_request};
use skerry_proto::raft_serverpb::RaftApplyState;
use skerry_proto::types::{RegionId, StoreId};
use skerry_raftstore::config::{RaftConfig, RaftEngineConfig, RocksConfig};
use skerry_raftstore::effects::{RegionReport, SplitAsk};
use skerry_raftstore::engine::log::raft_engine::RaftEngineLog;
use skerry_raftstore::engine::rocks::RocksEngine;
use skerry_raftstore::engine::{ColumnFamily, Engine as _, WriteBatch};
use skerry_raftstore::keys;
use skerry_raftstore::message::{Command, CommandContext, CommandKind, Consistency};
use skerry_raftstore::outside::SchedulerClient;
use skerry_raftstore::reply::{Outcome, Refusal, Reply};
use skerry_raftstore::store::bootstrap::bootstrap;
use skerry_raftstore::store::threads::{RunningStore, StoreHandle};
use skerry_raftstore::store::{Store, StoreParts};
use skerry_raftstore::time::{Clock as _, SystemClock, spawn};
use slog::{Discard, Logger, o};

use crate::wire::{Kind, Wire, accept, read_frame, store_in, write_frame};

// Beside a file of its own name cargo would take it for another example.
#[path = "node/wire.rs"]
mod wire;

/// The only region. It holds every key.
const REGION: RegionId = RegionId::new(1);
/// Between two attempts, and between two looks at the membership.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a put or a get may take.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// How long the story waits for what must happen, and a stop for readers to let go.
const PATIENCE: Duration = Duration::from_secs(60);

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

// ---- 1. A node -------------------------------------------------------------------------------------------------

/// Who a node is and whom it knows.
#[derive(Clone)]
struct Settings {
    id: u64,
    /// Of every node, itself included.
    addresses: BTreeMap<u64, String>,
    directory: PathBuf,
}

/// A running node.
struct Node {
    wire: Arc<Wire>,
    engine: Arc<RocksEngine>,
    running: RunningStore,
    /// Dropped to end the membership thread.
    stop: Sender<()>,
    threads: [JoinHandle<()>; 2],
}

impl Node {
    fn start(settings: &Settings) -> Result<Node> {
        let listener = TcpListener::bind(&settings.addresses[&settings.id])?;
        let Settings { id, addresses, directory } = settings;
        let engine = RocksEngine::open(&directory.join("data"), &RocksConfig::small(), None)?;
        let log = RaftEngineLog::open(&directory.join("log"), &RaftEngineConfig::default())?;
        let is_empty = engine.get(ColumnFamily::Raft, &keys::region_state(REGION.get()))?.is_none();
        if addresses.keys().next() == Some(id) && is_empty {
            bootstrap(&engine, &log, &first_region(*id))?;
        }
        let engine = Arc::new(engine);
        let store = Store::open(StoreParts {
            store_id: StoreId::new(*id),
            engine: engine.clone(),
            log: Arc::new(log),
            snapshots: directory.join("snapshots"),
            clock: Arc::new(SystemClock),
            config: config(),
            // Nodes must not seek election at the same moments.
            seed: *id,
            logger: Logger::root(Discard, o!()),
            planted: None,
        })?;
        let wire = Wire::open(*id, addresses);
        let running = store.run(wire.clone(), Arc::new(NoScheduler));
        wire.slot.set(running.handle().downgrade()).map_err(|_| "a node starts once")?;
        let (stop, stopped) = bounded(0);
        let (accepting, looking) = (wire.clone(), wire.clone());
        let threads = [
            spawn("accept", move || accept(&listener, &accepting)),
            spawn("membership", move || run_membership(&looking, &stopped)),
        ];
        Ok(Node { wire, engine, running, stop, threads })
    }

    /// Takes nothing more, answers everybody who waits, and closes the files.
    fn stop(self) -> Result<()> {
        let Node { wire, engine, running, stop, threads } = self;
        drop(stop);
        wire.stopping.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = wire.connect(wire.id);
        for thread in threads {
            thread.join().expect("a panic ends the process");
        }
        running.stop();
        engine.close(PATIENCE)?;
        // A connection that is in the middle of a frame holds the store until it has passed it on.
        wait_until("the store is let go", || Arc::strong_count(&engine) == 1);
        Ok(())
    }

    /// How far this replica has applied, and what it has of the log.
    fn apply_state(&self) -> RaftApplyState {
        let stored = self.engine.get(ColumnFamily::Raft, &keys::apply_state(REGION.get()));
        let stored = stored.expect("the engine reads").unwrap_or_default();
        RaftApplyState::decode(stored).expect("the store wrote it")
    }

    fn leads(&self) -> bool {
        self.running.handle().led(REGION).is_some()
    }
}

/// The whole key space, held by the founder alone. A node's replica has the node's id.
fn first_region(founder: u64) -> metapb::Region {
    let epoch = metapb::RegionEpoch { conf_ver: 1, version: 1 };
    metapb::Region {
        id: REGION.get(),
        region_epoch: Some(epoch),
        peers: vec![replica(founder, PeerRole::Voter)],
        ..metapb::Region::default()
    }
}

fn replica(id: u64, role: PeerRole) -> metapb::Peer {
    metapb::Peer { id, store_id: id, role: role.into() }
}

/// Elections within a second, and a log so short that a node that was away needs a snapshot.
fn config() -> RaftConfig {
    RaftConfig {
        tick_ms: 50,
        workers: 1,
        apply_workers: 1,
        log_gc_ticks: 5,
        log_gc_threshold: 20,
        log_gc_count_max: 60,
        ..RaftConfig::default()
    }
}

/// Nobody wants reports; a region that wants to be cut stays whole.
struct NoScheduler;

impl SchedulerClient for NoScheduler {
    fn report(&self, _reports: Vec<RegionReport>) {}

    fn ask_splits(&self, _asks: Vec<SplitAsk>) {}
}

// ---- 2. The membership -----------------------------------------------------------------------------------------

/// Gives every node a replica, as long as this one leads. What is refused is tried again: a learner that has not
/// caught up, a change while another is under way.
fn run_membership(wire: &Wire, stopped: &Receiver<()>) {
    while stopped.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
        let Some(store) = store_in(&wire.slot) else { return };
        if store.led(REGION).is_none() {
            continue;
        }
        for &id in wire.addresses.keys() {
            let Some(region) = region_of(&store) else { break };
            match region.peer_on_store(StoreId::new(id)) {
                None => wire.change_peer(&store, &region, id, PeerRole::Learner),
                Some(peer) if peer.is_learner() => {
                    wire.change_peer(&store, &region, id, PeerRole::Voter);
                }
                Some(_) => {}
            }
        }
    }
}

fn region_of(store: &StoreHandle) -> Option<Arc<metapb::Region>> {
    store.regions().into_iter().find(|region| region.region_id() == REGION)
}

impl Wire {
    fn change_peer(&self, store: &StoreHandle, region: &metapb::Region, id: u64, role: PeerRole) {
        let kind = match role {
            PeerRole::Learner => ConfChangeType::AddLearnerNode,
            _ => ConfChangeType::AddNode,
        };
        let change = ChangePeerRequest { change_type: kind.into(), peer: Some(replica(id, role)) };
        let request =
            admin_request::Command::ChangePeerV2(ChangePeerV2Request { changes: vec![change] });
        let make = |reply| CommandKind::Admin { request, reply };
        // The region is looked at again, whatever the answer.
        let _ = self.ask(store, region, REQUEST_TIME, make);
    }

    /// Gives the store a command and waits for its outcome. Nothing: time has run out.
    fn ask<T: Send + 'static>(
        &self,
        store: &StoreHandle,
        region: &metapb::Region,
        time: Duration,
        make: impl FnOnce(Reply<T>) -> CommandKind,
    ) -> Option<Outcome<T>> {
        let (answer, outcomes) = bounded(1);
        let reply = self.replies.reply(move |outcome| {
            // Whoever asked may have lost patience.
            let _ = answer.send(outcome);
        });
        let context =
            CommandContext { region_id: REGION, epoch: region.epoch(), ..Default::default() };
        store.command(Command { context, kind: make(reply) });
        outcomes.recv_timeout(time).ok()
    }
}

// ---- 3. Put and get --------------------------------------------------------------------------------------------

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Request {
    Put { key: String, value: String },
    Get { key: String },
}

/// A request that another node was given.
#[derive(Serialize, Deserialize)]
struct Forwarded {
    request: Request,
    /// Milliseconds until its deadline.
    left_ms: u64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Answer {
    /// It was done; for a get with the value, if there is one.
    Done(Option<String>),
    /// It was not done and will not be.
    NotDone(String),
    /// It may have been done, or may still be.
    Unknown(String),
}

/// What came of asking a store once.
enum Attempt {
    Answered(Answer),
    AskLeader(u64),
    /// It was not done; what follows is why.
    Again(String),
}

impl Wire {
    /// Does it wherever it must be done, within `time`.
    fn execute(&self, request: &Request, time: Duration) -> Answer {
        let deadline = SystemClock.monotonic() + time;
        let mut reason = "there was no time".to_string();
        loop {
            let left = deadline.saturating_sub(SystemClock.monotonic());
            if left.is_zero() {
                return Answer::NotDone(format!("deadline passed: {reason}"));
            }
            let attempt = match self.attempt(request, left) {
                Attempt::AskLeader(id) => self.forward(id, request, left),
                here => here,
            };
            match attempt {
                Attempt::Answered(answer) => return answer,
                Attempt::AskLeader(id) => reason = format!("node {id} leads"),
                Attempt::Again(why) => reason = why,
            }
            pause(PAUSE.min(left));
        }
    }

    /// Asks this node's store.
    fn attempt(&self, request: &Request, left: Duration) -> Attempt {
        let Some(store) = store_in(&self.slot) else {
            return Attempt::Answered(Answer::NotDone("the node stops".to_string()));
        };
        let Some(region) = region_of(&store) else {
            return Attempt::Again("this node has no replica yet".to_string());
        };
        match request {
            Request::Put { key, value } => {
                let mut batch = WriteBatch::new();
                let key = keys::data_key(key.as_bytes());
                batch.put(ColumnFamily::Default, key, value.clone());
                let make = |reply| CommandKind::Write { batch, reply };
                match self.ask(&store, &region, left, make) {
                    Some(Outcome::Done(_)) => Attempt::Answered(Answer::Done(None)),
                    Some(Outcome::Refused(refusal)) => self.refused(&refusal),
                    Some(Outcome::Unknown(reason)) => unknown(reason),
                    None => unknown("it took too long"),
                }
            }
            Request::Get { key } => {
                let consistency = Consistency::Replica;
                let make = |reply| CommandKind::Read { consistency, reply };
                match self.ask(&store, &region, left, make) {
                    Some(Outcome::Done(view)) => {
                        let key = keys::data_key(key.as_bytes());
                        read(view.view.get(ColumnFamily::Default, &key))
                    }
                    Some(Outcome::Refused(refusal)) => Attempt::Again(refusal.to_string()),
                    // A read changes nothing: it may be repeated.
                    Some(Outcome::Unknown(reason)) => Attempt::Again(reason.to_string()),
                    None => Attempt::Again("it took too long".to_string()),
                }
            }
        }
    }

    fn refused(&self, refusal: &Refusal) -> Attempt {
        match refusal {
            Refusal::NotLeader { leader: Some(peer), .. } if peer.store_id != self.id => {
                Attempt::AskLeader(peer.store_id)
            }
            other => Attempt::Again(other.to_string()),
        }
    }

    /// Asks another node. What it was not sent, or has refused, was not done.
    fn forward(&self, id: u64, request: &Request, left: Duration) -> Attempt {
        let mut stream = match self.connect(id) {
            Ok(stream) => stream,
            Err(error) => return Attempt::Again(format!("node {id} is not there: {error}")),
        };
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let content = serde_json::to_vec(&Forwarded { request: request.clone(), left_ms })
            .expect("strings have a JSON form");
        let mut exchange = || -> Result<Answer> {
            stream.set_read_timeout(Some(left))?;
            write_frame(&mut stream, Kind::Request, &content)?;
            let (_, content) = read_frame(&mut stream)?;
            Ok(serde_json::from_slice(&content)?)
        };
        match exchange() {
            Ok(Answer::NotDone(reason)) => Attempt::Again(reason),
            Ok(answer) => Attempt::Answered(answer),
            Err(error) => unknown(&format!("node {id} did not answer: {error}")),
        }
    }
}

fn unknown(reason: &str) -> Attempt {
    Attempt::Answered(Answer::Unknown(reason.to_string()))
}

fn read(found: skerry_raftstore::Result<Option<bytes::Bytes>>) -> Attempt {
    let text = |value: bytes::Bytes| String::from_utf8_lossy(&value).into_owned();
    Attempt::Answered(match found {
        Ok(value) => Answer::Done(value.map(text)),
        Err(error) => Answer::NotDone(error.to_string()),
    })
}

fn pause(time: Duration) {
    let _ = never::<()>().recv_timeout(time);
}

/// Looks again and again until it is so.
fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = SystemClock.monotonic() + PATIENCE;
    while !holds() {
        assert!(SystemClock.monotonic() < deadline, "not true in time: {what}");
        pause(PAUSE);
    }
}

// ---- 4. One node, for a user -----------------------------------------------------------------------------------

/// A node of a small cluster; without arguments, the whole story of three.
#[derive(Parser)]
struct Arguments {
    /// The number of this node; the lowest founds the cluster
    #[arg(long, requires = "address")]
    id: Option<u64>,
    /// Where this node listens, HOST:PORT
    #[arg(long, requires = "id")]
    address: Option<String>,
    /// The other nodes, ID=HOST:PORT
    #[arg(long, value_delimiter = ',', value_parser = parse_peer, requires = "id")]
    peers: Vec<(u64, String)>,
    /// Where its data lies; node-ID in this directory if nothing is said
    #[arg(long, requires = "id")]
    data_dir: Option<PathBuf>,
}

fn parse_peer(text: &str) -> std::result::Result<(u64, String), String> {
    let (id, address) = text.split_once('=').ok_or("write ID=HOST:PORT")?;
    Ok((id.parse().map_err(|_| format!("{id} is no number"))?, address.to_string()))
}

fn main() -> Result<()> {
    let Arguments { id, address, peers, data_dir } = Arguments::parse();
    let (Some(id), Some(address)) = (id, address) else {
        let directory = tempfile::tempdir()?;
        return story(directory.path());
    };
    let mut addresses: BTreeMap<u64, String> = peers.into_iter().collect();
    addresses.insert(id, address);
    let directory = data_dir.unwrap_or_else(|| PathBuf::from(format!("node-{id}")));
    let node = Node::start(&Settings { id, addresses, directory })?;
    println!("node {id} listens; put KEY VALUE, get KEY; the end of input stops it");
    for line in std::io::stdin().lock().lines() {
        match parse_line(&line?) {
            Some(request) => println!("{:?}", node.wire.execute(&request, REQUEST_TIME)),
            None => println!("put KEY VALUE, or get KEY"),
        }
    }
    node.stop()
}

fn parse_line(line: &str) -> Option<Request> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["put", key, value] => Some(Request::Put { key: key.into(), value: value.into() }),
        ["get", key] => Some(Request::Get { key: key.into() }),
        _ => None,
    }
}

// ---- 5. The story ----------------------------------------------------------------------------------------------

/// Three nodes with their expected content.
struct Story {
    settings: BTreeMap<u64, Settings>,
    nodes: BTreeMap<u64, Node>,
    puts: u64,
}

impl Story {
    fn new(directory: &Path) -> Story {
        let addresses: BTreeMap<u64, String> = (1..=3).zip(free_addresses()).collect();
        let settings = |id: u64| {
            let directory = directory.join(format!("node-{id}"));
            (id, Settings { id, addresses: addresses.clone(), directory })
        };
        Story { settings: (1..=3).map(settings).collect(), nodes: BTreeMap::new(), puts: 0 }
    }

    fn start(&mut self, id: u64) -> Result<()> {
        self.nodes.insert(id, Node::start(&self.settings[&id])?);
        println!("node {id} is started");
        Ok(())
    }

    fn stop(&mut self, id: u64) -> Result<()> {
        self.nodes.remove(&id).expect("it runs").stop()
    }

    /// Puts through each node in turn.
    fn put(&mut self, count: u64) {
        for number in self.puts..self.puts + count {
            let turn = usize::try_from(number).expect("a small number") % self.nodes.len();
            let node = self.nodes.values().nth(turn).expect("so many run");
            let (key, value) = (format!("key-{number}"), format!("value-{number}"));
            let answer = node.wire.execute(&Request::Put { key, value }, REQUEST_TIME);
            assert_eq!(answer, Answer::Done(None), "put {number} through node {}", node.wire.id);
        }
        self.puts += count;
        println!("{count} puts through nodes {:?}", self.nodes.keys());
    }

    /// Every running node answers every key.
    fn check(&self) {
        for (id, node) in &self.nodes {
            for number in 0..self.puts {
                let get = Request::Get { key: format!("key-{number}") };
                let answer = node.wire.execute(&get, REQUEST_TIME);
                let expected = Answer::Done(Some(format!("value-{number}")));
                assert_eq!(answer, expected, "get {number} from node {id}");
            }
        }
        println!("{} gets from each of nodes {:?}", self.puts, self.nodes.keys());
    }

    fn wait_for_voters(&self) {
        let are_voters = |node: &Node| {
            let region = region_of(&node.running.handle());
            region.is_some_and(|region| {
                region.peers.len() == self.settings.len()
                    && !region.peers.iter().any(metapb::Peer::is_learner)
            })
        };
        wait_until("every node knows three voters", || self.nodes.values().all(are_voters));
        println!("three voters");
    }

    fn wait_for_leader(&self) -> u64 {
        let leader = || self.nodes.iter().find(|(_, node)| node.leads()).map(|(id, _)| *id);
        wait_until("a node leads", || leader().is_some());
        leader().or_else(leader).expect("leadership does not move while nothing fails")
    }
}

/// Below the range from which the system takes ports of outgoing connections. Stories that are told at the same
/// time begin their search far from each other.
fn free_addresses() -> impl Iterator<Item = String> {
    let first = 12_000 + std::process::id().wrapping_mul(37) % 8_000;
    let all = (first..20_000).chain(12_000..first).map(|port| format!("127.0.0.1:{port}"));
    all.filter(|address| TcpListener::bind(address).is_ok())
}

fn story(directory: &Path) -> Result<()> {
    let mut story = Story::new(directory);
    story.start(1)?;
    story.put(5);
    story.start(2)?;
    story.start(3)?;
    story.wait_for_voters();
    story.put(10);
    story.check();

    let leader = story.wait_for_leader();
    let applied = story.nodes[&leader].apply_state().applied_index;
    story.stop(leader)?;
    println!("node {leader}, which led, is stopped");
    let heir = story.wait_for_leader();
    assert_ne!(heir, leader);
    println!("node {heir} leads");
    story.put(100);
    story.check();
    // What the stopped node lacks is in nobody's log any more.
    let truncated = |node: &Node| node.apply_state().truncated_state.map_or(0, |end| end.index);
    wait_until("the logs are cut", || {
        story.nodes.values().all(|node| truncated(node) > applied + 20)
    });

    story.start(leader)?;
    story.check();
    let received = story.nodes[&leader].wire.snapshots_received.load(Ordering::Relaxed);
    assert!(received > 0, "it could only catch up by a snapshot");
    println!("node {leader} is back and has caught up by a snapshot");

    (1..=3).try_for_each(|id| story.stop(id))?;
    println!("all nodes are stopped");
    (1..=3).try_for_each(|id| story.start(id))?;
    story.check();
    story.put(5);
    story.check();
    (1..=3).try_for_each(|id| story.stop(id))?;
    println!("node: every step was checked");
    Ok(())
}
