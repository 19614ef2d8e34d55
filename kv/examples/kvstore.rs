//! The smallest replicated map: three members in one process, on the `raft` crate and nothing above it.
//!
//! Read it from top to bottom to learn how a program is built on raft. This is what flows between its parts:
//!
//! ```text
//!   put --proposals--> RaftNode --messages--> Network --messages--> RaftNode of the others
//!                      |      |
//!                      Disk   +--commits--> KvStore, which says "done" for each batch
//! ```
//!
//! 1. [`KvStore`] is the map. A `put` is proposed and is not in the map yet; it is answered when it comes back
//!    *committed*, which means that a majority has it on disk. What is committed arrives in the same order everywhere.
//! 2. [`Disk`] keeps what raft must not forget: entries, its term and vote, and the newest snapshot of the map.
//! 3. [`RaftNode`] turns raft: ticks, messages and proposals go in, and each [`Ready`](raft::Ready) says what to
//!    write, to send and to apply. It knows nothing of maps: it calls `save` for a snapshot, once the map has said
//!    "done" for all that was committed before.
//! 4. [`Network`] is a table of queues. [`Member`] is one of each, on two threads, with a channel on which either says
//!    why it had to end.
//! 5. [`main`] tells a story and checks each step: elect, put, kill the leader, put, bring it back by a snapshot, stop
//!    all, start all, refuse a damaged file.
//!
//! **Invariants.** Nothing that depends on an entry or a vote is sent before it is synced. The log is cut only up to
//! what a synced snapshot holds.
//!
//! What it does not do: reads are those of the member that is asked, which may be behind; members never change.
//!
//! Run it: `cargo build --workspace --all-targets && target/debug/examples/kvstore`.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select, tick};
use protobuf::Message as _;
use raft::eraftpb::{Entry, HardState, Message, MessageType, Snapshot};
use raft::{
    GetEntriesContext, INVALID_ID, RaftState, RawNode, SnapshotStatus, Storage, StorageError,
};
use serde::{Deserialize, Serialize};
use skerry_raftstore::config::RaftEngineConfig;
use skerry_raftstore::engine::Durability;
use skerry_raftstore::engine::log::raft_engine::RaftEngineLog;
use skerry_raftstore::engine::log::{LogBatch, LogEngine, LogOperation};
use skerry_raftstore::state::{hard_state, local_state};
use skerry_raftstore::time::{entropy, spawn};
use slog::{Discard, Logger, o};

/// The members, which never change.
const MEMBERS: [u64; 3] = [1, 2, 3];
/// The log engine keeps many groups; here is one.
const GROUP: u64 = 1;
/// Raft's unit of time. A follower that hears nothing for 10 to 20 of them seeks election.
const TICK: Duration = Duration::from_millis(50);
/// Entries after which the map is saved as a snapshot.
const SNAPSHOT_EVERY: u64 = 20;
/// Entries in front of a snapshot that stay in the log, for members that are only a little behind.
const KEPT_ENTRIES: u64 = 5;
/// Proposals, messages or commits that may wait. What does not fit is refused, dropped or waited for, in this order.
const ROOM: usize = 256;
/// How long a put waits before its caller must say it again.
const PUT_PATIENCE: Duration = Duration::from_secs(1);
/// How often a condition is looked at, and how many times before the story fails.
const PAUSE: Duration = Duration::from_millis(20);
const LOOKS: u32 = 3_000;

type Failure = Box<dyn Error + Send + Sync>;
type Result<T> = std::result::Result<T, Failure>;

// ---- 1. The map ------------------------------------------------------------------------------------------------

/// What a log entry holds.
#[derive(Serialize, Deserialize)]
struct Put {
    /// By which the member that proposed it knows that it is its own.
    id: u64,
    key: String,
    value: String,
}

/// From raft to the map, in the order of the log.
struct Commit {
    change: Change,
    /// Told when the map holds it.
    done: Sender<()>,
}

enum Change {
    /// Apply these entries.
    Entries(Vec<Vec<u8>>),
    /// Forget everything and be this.
    Load(Vec<u8>),
}

/// The map of one member, and the way to change that of all.
#[derive(Clone)]
struct KvStore {
    proposals: Sender<Vec<u8>>,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    map: BTreeMap<String, String>,
    /// Puts of this member that are under way.
    waiting: BTreeMap<u64, Sender<()>>,
}

impl KvStore {
    /// Changes the map of every member. An error means that nobody knows: it may still happen.
    fn put(&self, key: &str, value: &str) -> Result<()> {
        let put = Put { id: entropy(), key: key.to_string(), value: value.to_string() };
        let (applied, wait) = bounded(1);
        lock(&self.shared).waiting.insert(put.id, applied);
        let proposed = self.proposals.send_timeout(serde_json::to_vec(&put)?, PUT_PATIENCE);
        let proposed = proposed.map_err(|error| Failure::from(error.to_string()));
        let answer = proposed.and_then(|()| Ok(wait.recv_timeout(PUT_PATIENCE)?));
        lock(&self.shared).waiting.remove(&put.id);
        answer
    }

    /// What this member knows.
    fn get(&self, key: &str) -> Option<String> {
        lock(&self.shared).map.get(key).cloned()
    }

    /// The whole map, for a snapshot.
    fn save(&self) -> Result<Vec<u8>> {
        Ok(serde_json::to_vec(&lock(&self.shared).map)?)
    }

    /// Applies what is committed until raft ends.
    fn apply_all(&self, commits: &Receiver<Commit>) -> Result<()> {
        for Commit { change, done } in commits {
            match change {
                Change::Entries(entries) => self.apply(&entries)?,
                Change::Load(saved) => lock(&self.shared).map = serde_json::from_slice(&saved)?,
            }
            // Raft may have moved on to a later batch and not listen for this one.
            let _ = done.send(());
        }
        Ok(())
    }

    fn apply(&self, entries: &[Vec<u8>]) -> Result<()> {
        let mut shared = lock(&self.shared);
        for entry in entries {
            let Put { id, key, value } = serde_json::from_slice(entry)?;
            shared.map.insert(key, value);
            if let Some(applied) = shared.waiting.remove(&id) {
                // Whoever lost patience does not listen any more.
                let _ = applied.send(());
            }
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---- 2. The disk -----------------------------------------------------------------------------------------------

/// What raft must find again. Entries and hard state lie in a log engine, the snapshot in a file.
///
/// The file is written first and the log follows; [`Disk::open`] finishes what a crash has left between the two.
struct Disk {
    log: RaftEngineLog,
    snapshot_path: PathBuf,
    /// The newest one; its index is 0 if there is none.
    snapshot: Snapshot,
    hard_state: HardState,
    /// Index and term of the last entry that raft can not have from the log any more.
    truncated: (u64, u64),
}

impl Disk {
    fn open(directory: &Path) -> Result<Disk> {
        fs::create_dir_all(directory)?;
        let log = RaftEngineLog::open(&directory.join("log"), &RaftEngineConfig::default())?;
        let state = log.state(GROUP)?.unwrap_or_default();
        let snapshot_path = directory.join("snapshot");
        let mut disk = Disk {
            snapshot: read_snapshot(&snapshot_path)?,
            hard_state: hard_state(GROUP.into(), &state)?,
            truncated: (0, 0),
            log,
            snapshot_path,
        };
        disk.follow_snapshot()?;
        Ok(disk)
    }

    /// Makes the log one that begins in or right behind the snapshot.
    fn follow_snapshot(&mut self) -> Result<()> {
        let last = self.snapshot_end();
        let Some(bounds) = self.log.bounds(GROUP)? else { return self.restart_log() };
        if bounds.first == last.0 + 1 {
            self.truncated = last;
            return Ok(());
        }
        // A log that goes on from the snapshot holds its last entry. Another one was superseded by it.
        match self.log.entry(GROUP, last.0)? {
            Some(entry) if entry.term == last.1 => {}
            _ => return self.restart_log(),
        }
        // The oldest entry was kept for its term alone, unless nothing was ever cut.
        let oldest = self.log.entry(GROUP, bounds.first)?.ok_or("the oldest entry is gone")?;
        self.truncated = if oldest.index == 1 { (0, 0) } else { (oldest.index, oldest.term) };
        Ok(())
    }

    /// An empty log behind the snapshot.
    fn restart_log(&mut self) -> Result<()> {
        let (index, term) = self.snapshot_end();
        self.truncated = (index, term);
        self.hard_state.commit = self.hard_state.commit.max(index);
        if self.hard_state.term < term {
            self.hard_state.term = term;
            self.hard_state.vote = INVALID_ID;
        }
        let mut batch = LogBatch::new();
        batch.push(LogOperation::Clean(GROUP));
        batch.push(LogOperation::State(GROUP, local_state(&self.hard_state, index)));
        self.log.write(batch, Durability::Synced)?;
        Ok(())
    }

    /// Adds entries, which may replace others, and remembers term, vote and commit index. They are synced.
    fn append(&mut self, entries: Vec<Entry>, state: Option<&HardState>) -> Result<()> {
        if entries.is_empty() && state.is_none() {
            return Ok(());
        }
        if let Some(state) = state {
            self.hard_state = state.clone();
        }
        let last = entries.last().map_or(self.last(), |entry| entry.index);
        let mut batch = LogBatch::new();
        if !entries.is_empty() {
            batch.push(LogOperation::Append(GROUP, entries));
        }
        batch.push(LogOperation::State(GROUP, local_state(&self.hard_state, last)));
        self.log.write(batch, Durability::Synced)?;
        Ok(())
    }

    /// Another member's snapshot takes the place of everything.
    fn install(&mut self, snapshot: &Snapshot) -> Result<()> {
        write_snapshot(&self.snapshot_path, snapshot)?;
        self.snapshot = snapshot.clone();
        self.restart_log()
    }

    /// Keeps the map as it is after the entry `index`, and cuts the log.
    fn save(&mut self, index: u64, map: Vec<u8>) -> Result<()> {
        let mut snapshot = Snapshot { data: map.into(), ..Snapshot::default() };
        snapshot.mut_metadata().index = index;
        snapshot.mut_metadata().term = self.term(index)?;
        snapshot.mut_metadata().mut_conf_state().voters = MEMBERS.to_vec();
        write_snapshot(&self.snapshot_path, &snapshot)?;
        self.snapshot = snapshot;
        let cut = index.saturating_sub(KEPT_ENTRIES);
        if cut > self.truncated.0 {
            self.truncated = (cut, self.term(cut)?);
            let mut batch = LogBatch::new();
            batch.push(LogOperation::CompactTo(GROUP, cut));
            self.log.write(batch, Durability::Buffered)?;
        }
        Ok(())
    }

    fn last(&self) -> u64 {
        let bounds = self.log.bounds(GROUP).expect("bounds are in memory");
        bounds.map_or(self.truncated.0, |bounds| bounds.last)
    }

    /// Index and term of the last entry in the snapshot.
    fn snapshot_end(&self) -> (u64, u64) {
        let metadata = self.snapshot.get_metadata();
        (metadata.index, metadata.term)
    }
}

/// A crash leaves the old file or the new one, never a part.
fn write_snapshot(path: &Path, snapshot: &Snapshot) -> Result<()> {
    let unfinished = path.with_extension("tmp");
    let mut file = File::create(&unfinished)?;
    file.write_all(&snapshot.write_to_bytes()?)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    File::open(path.parent().ok_or("a file lies in a directory")?)?.sync_all()?;
    Ok(())
}

fn read_snapshot(path: &Path) -> Result<Snapshot> {
    if !path.exists() {
        return Ok(Snapshot::default());
    }
    Snapshot::parse_from_bytes(&fs::read(path)?)
        .map_err(|error| format!("the snapshot {} is damaged: {error}", path.display()).into())
}

/// How raft reads.
impl Storage for Disk {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), (MEMBERS.to_vec(), vec![]).into()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        bytes_max: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.truncated.0 {
            return Err(StorageError::Compacted.into());
        }
        let bytes_max = bytes_max.into().and_then(|bytes| usize::try_from(bytes).ok());
        self.log.entries(GROUP, low, high, bytes_max.unwrap_or(usize::MAX)).map_err(unreadable)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.truncated.0 {
            return Ok(self.truncated.1);
        }
        if index < self.truncated.0 {
            return Err(StorageError::Compacted.into());
        }
        let entry = self.log.entry(GROUP, index).map_err(unreadable)?;
        Ok(entry.ok_or(StorageError::Unavailable)?.term)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.truncated.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let is_recent = self.snapshot_end().0 >= request_index;
        is_recent
            .then(|| self.snapshot.clone())
            .ok_or(StorageError::SnapshotTemporarilyUnavailable.into())
    }
}

fn unreadable(error: skerry_raftstore::Error) -> raft::Error {
    StorageError::Other(Box::new(error)).into()
}

// ---- 3. Raft ---------------------------------------------------------------------------------------------------

struct RaftNode {
    group: RawNode<Disk>,
    network: Arc<Network>,
    commits: Sender<Commit>,
    /// Gives the map for a snapshot.
    save: Box<dyn Fn() -> Result<Vec<u8>> + Send>,
    /// The last entry that was handed to the map.
    committed: u64,
    /// Where the map says "done" for the last batch that it was handed.
    last_done: Option<Receiver<()>>,
    status: Arc<Status>,
}

/// What others may know of a member's raft.
#[derive(Default)]
struct Status {
    /// Whom it follows; 0: nobody.
    leader: AtomicU64,
    /// Snapshots that it was sent.
    snapshots_received: AtomicU64,
}

/// What goes into a member's raft.
struct Inputs {
    proposals: Receiver<Vec<u8>>,
    messages: Receiver<Message>,
    /// Closed to stop it.
    stop: Receiver<()>,
}

impl RaftNode {
    /// Turns raft until it is stopped.
    fn run(mut self, inputs: &Inputs) -> Result<()> {
        let ticks = tick(TICK);
        // The map starts from the snapshot; the entries behind it come when they are known to be committed.
        let saved = self.group.store().snapshot.clone();
        if !saved.is_empty() {
            self.load(&saved)?;
        }
        loop {
            select! {
                recv(ticks) -> _ => { self.group.tick(); }
                recv(inputs.messages) -> message => match message {
                    // A message that raft refuses is as good as lost, which raft expects.
                    Ok(message) => { let _ = self.group.step(message); }
                    Err(_) => return Ok(()),
                },
                recv(inputs.proposals) -> data => match data {
                    // Without a leader it is dropped, and the caller loses patience. A follower sends it on.
                    Ok(data) => { let _ = self.group.propose(vec![], data); }
                    Err(_) => return Ok(()),
                },
                recv(inputs.stop) -> _ => return Ok(()),
            }
            while self.group.has_ready() {
                self.handle_ready()?;
            }
            self.save_if_due()?;
            self.status.leader.store(self.group.raft.leader_id, Ordering::Relaxed);
        }
    }

    /// Does what raft wants, in the order that it needs.
    fn handle_ready(&mut self) -> Result<()> {
        let mut ready = self.group.ready();
        // A leader's entries may leave before they are on its own disk: others' disks count as well.
        self.send(ready.take_messages());
        if !ready.snapshot().is_empty() {
            self.group.mut_store().install(ready.snapshot())?;
            self.load(ready.snapshot())?;
            self.status.snapshots_received.fetch_add(1, Ordering::Relaxed);
        }
        let entries = ready.take_entries();
        self.group.mut_store().append(entries, ready.hs())?;
        self.publish(ready.take_committed_entries())?;
        // Votes and "I have it": only now is that true.
        self.send(ready.take_persisted_messages());
        let mut light = self.group.advance(ready);
        if let Some(commit) = light.commit_index() {
            // On disk with the next write: a commit index that is forgotten is learnt again.
            self.group.mut_store().hard_state.commit = commit;
        }
        self.send(light.take_messages());
        self.publish(light.take_committed_entries())?;
        self.group.advance_apply();
        Ok(())
    }

    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            let (to, kind) = (message.to, message.get_msg_type());
            let sent = self.network.send(message);
            // Until it hears how a snapshot fared, raft sends that member nothing else.
            if kind == MessageType::MsgSnapshot {
                let fate = if sent { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
                self.group.report_snapshot(to, fate);
            } else if !sent {
                self.group.report_unreachable(to);
            }
        }
    }

    /// Hands committed entries to the map. A new leader's first entry is empty and none of the map's business.
    fn publish(&mut self, entries: Vec<Entry>) -> Result<()> {
        let Some(last) = entries.last() else { return Ok(()) };
        self.committed = last.index;
        let entries = entries.into_iter().map(|entry| entry.data.to_vec());
        self.commit(Change::Entries(entries.filter(|data| !data.is_empty()).collect()))
    }

    fn load(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.committed = snapshot.get_metadata().index;
        self.commit(Change::Load(snapshot.data.to_vec()))
    }

    fn commit(&mut self, change: Change) -> Result<()> {
        let (done, wait) = bounded(1);
        self.last_done = Some(wait);
        self.commits.send(Commit { change, done }).map_err(|_| "the map has ended".into())
    }

    /// Saves the map when the log has grown, after the map has caught up with it.
    fn save_if_due(&mut self) -> Result<()> {
        if self.committed < self.group.store().snapshot_end().0 + SNAPSHOT_EVERY {
            return Ok(());
        }
        if let Some(last_done) = self.last_done.take() {
            last_done.recv().map_err(|_| "the map has ended")?;
        }
        let map = (self.save)()?;
        let index = self.committed;
        self.group.mut_store().save(index, map)
    }
}

// ---- 4. The members and their network --------------------------------------------------------------------------

/// Who can be reached.
#[derive(Default)]
struct Network {
    inboxes: Mutex<BTreeMap<u64, Sender<Message>>>,
}

impl Network {
    /// Whether it arrived. Raft repeats what did not.
    fn send(&self, message: Message) -> bool {
        let inboxes = lock(&self.inboxes);
        inboxes.get(&message.to).is_some_and(|inbox| inbox.try_send(message).is_ok())
    }
}

/// A running member.
struct Member {
    id: u64,
    store: KvStore,
    status: Arc<Status>,
    /// Why it had to end.
    errors: Receiver<Failure>,
    stop: Sender<()>,
    threads: [JoinHandle<()>; 2],
}

impl Member {
    fn start(id: u64, directory: &Path, network: &Arc<Network>) -> Member {
        let (proposals, proposed) = bounded(ROOM);
        let (inbox, messages) = bounded(ROOM);
        let (commits, committed) = bounded(ROOM);
        // One for each thread, so that neither waits.
        let (failed, errors) = bounded(2);
        let (stop, stopped) = bounded(0);
        let store = KvStore { proposals, shared: Arc::default() };
        lock(&network.inboxes).insert(id, inbox);
        let inputs = Inputs { proposals: proposed, messages, stop: stopped };
        let status = Arc::<Status>::default();
        let raft = spawn(&format!("raft-{id}"), {
            let (directory, network, failed) =
                (directory.to_path_buf(), network.clone(), failed.clone());
            let (map, status) = (store.clone(), status.clone());
            move || {
                let save = Box::new(move || map.save());
                let (committed, last_done) = (0, None);
                let run = open(id, &directory).and_then(|group| {
                    RaftNode { group, network, commits, save, committed, last_done, status }
                        .run(&inputs)
                });
                report(run, &failed);
            }
        });
        let map = store.clone();
        let apply = spawn(&format!("apply-{id}"), move || {
            report(map.apply_all(&committed), &failed);
        });
        Member { id, store, status, errors, stop, threads: [raft, apply] }
    }

    /// Ends it at once. What is synced is all that it finds when it starts again.
    fn kill(self) {
        drop(self.stop);
        for thread in self.threads {
            thread.join().expect("a panic ends the process");
        }
    }
}

/// Raft as this member left it.
fn open(id: u64, directory: &Path) -> Result<RawNode<Disk>> {
    let disk = Disk::open(directory)?;
    let config = raft::Config {
        id,
        election_tick: 10,
        heartbeat_tick: 2,
        // What is in the snapshot is not handed out again.
        applied: disk.snapshot_end().0,
        max_inflight_msgs: ROOM,
        max_size_per_msg: 1 << 20,
        check_quorum: true,
        pre_vote: true,
        ..raft::Config::default()
    };
    Ok(RawNode::new(&config, disk, &Logger::root(Discard, o!()))?)
}

fn report(ended: Result<()>, errors: &Sender<Failure>) {
    if let Err(failure) = ended {
        // The story may have ended before.
        let _ = errors.try_send(failure);
    }
}

// ---- 5. The story ----------------------------------------------------------------------------------------------

struct Story {
    directory: PathBuf,
    network: Arc<Network>,
    members: BTreeMap<u64, Member>,
    /// What must be in every map.
    expected: BTreeMap<String, String>,
}

impl Story {
    fn home(&self, id: u64) -> PathBuf {
        self.directory.join(format!("member-{id}"))
    }

    fn start(&mut self, id: u64) {
        let member = Member::start(id, &self.home(id), &self.network);
        self.members.insert(id, member);
    }

    fn kill(&mut self, id: u64) {
        lock(&self.network.inboxes).remove(&id);
        self.members.remove(&id).expect("it runs").kill();
    }

    /// Looks again and again until it is so. A member that reports an error ends the story.
    fn wait_until(&self, what: &str, holds: impl Fn(&Member) -> bool) {
        for member in self.members.values() {
            let mut looks = 0;
            while !holds(member) {
                looks += 1;
                assert!(looks < LOOKS, "member {}: not true in time: {what}", member.id);
                let error = member.errors.recv_timeout(PAUSE);
                assert!(matches!(error, Err(RecvTimeoutError::Timeout)), "{error:?}");
            }
        }
    }

    /// Waits until all that run follow one that runs.
    fn wait_for_leader(&self) -> u64 {
        let leader_of = |member: &Member| member.status.leader.load(Ordering::Relaxed);
        let is_alive = |member: &Member| self.members.contains_key(&leader_of(member));
        self.wait_until("it follows a living leader", is_alive);
        let leader = leader_of(self.members.values().next().expect("some run"));
        println!("member {leader} leads");
        leader
    }

    /// Puts through each member in turn. A put that is unknown is said again: twice is the same as once.
    fn put(&mut self, numbers: std::ops::Range<u64>) {
        for number in numbers.clone() {
            let (key, value) = (format!("key-{number:03}"), format!("value-{number}"));
            let turn = usize::try_from(number).expect("a small number") % self.members.len();
            let member = self.members.values().nth(turn).expect("so many run");
            let is_done = (0..60).any(|_| member.store.put(&key, &value).is_ok());
            assert!(is_done, "{key} could not be put through member {}", member.id);
            assert_eq!(member.store.get(&key).as_ref(), Some(&value));
            self.expected.insert(key, value);
        }
        println!("put keys {numbers:?} through members {:?}", self.members.keys());
    }

    /// Every running member has all that was ever put, and nothing else.
    fn check_maps(&self) {
        self.wait_until("its map is complete", |member| {
            lock(&member.store.shared).map == self.expected
        });
        println!("{} keys on members {:?}", self.expected.len(), self.members.keys());
    }
}

fn main() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut story = Story {
        directory: directory.path().to_path_buf(),
        network: Arc::default(),
        members: BTreeMap::new(),
        expected: BTreeMap::new(),
    };
    MEMBERS.into_iter().for_each(|id| story.start(id));
    let leader = story.wait_for_leader();
    story.put(0..10);
    story.check_maps();
    story.kill(leader);
    println!("member {leader} is killed");
    let heir = story.wait_for_leader();
    assert_ne!(heir, leader);
    story.put(10..70);
    // By now what the dead member lacks is in nobody's log any more.
    story.start(leader);
    story.check_maps();
    let received = story.members[&leader].status.snapshots_received.load(Ordering::Relaxed);
    assert!(received > 0, "it could only catch up by a snapshot");
    println!("member {leader} is back and has caught up by a snapshot");
    MEMBERS.into_iter().for_each(|id| story.kill(id));
    println!("all members are stopped");
    MEMBERS.into_iter().for_each(|id| story.start(id));
    story.wait_for_leader();
    story.check_maps();
    println!("all members are started again, and nothing is lost");
    story.kill(1);
    fs::write(story.home(1).join("snapshot"), "not a snapshot")?;
    story.start(1);
    let error = story.members[&1].errors.recv_timeout(PAUSE * LOOKS)?;
    assert!(error.to_string().contains("damaged"), "{error}");
    println!("member 1 refuses a damaged snapshot and says so on its error channel");
    MEMBERS.into_iter().for_each(|id| story.kill(id));
    println!("kvstore: every step was checked");
    Ok(())
}
