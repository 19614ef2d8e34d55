//! The smallest replicated map: three members in one process, on the `raft` crate and nothing above it.
//!
//! Read it from top to bottom to learn how a program is built on raft, then `disk.rs`. This is what flows between its
//! parts:
//!
//! ```text
//!   put --proposals--> RaftNode --messages--> Network --messages--> RaftNode of the others
//!                      |      |
//!                      Disk   +--commits--> KvStore, which says "done" for each batch
//! ```
//!
//! 1. [`KvStore`] is the map. A `put` is proposed and is not in the map yet; it is answered when it comes back
//!    *committed*, which means that a majority has it on disk. What is committed arrives in the same order everywhere.
//! 2. [`RaftNode`] turns raft: ticks, messages and proposals go in, and each [`Ready`](raft::Ready) says what to
//!    write, to send and to apply. It knows nothing of maps: it calls `save` for a snapshot, once the map has said
//!    "done" for all that was committed before.
//! 3. [`Disk`] keeps what raft must not forget: entries, its term and vote, and the newest snapshot of the map.
//! 4. [`Network`] is a table of queues. [`Member`] is one of each, on two threads, with a channel on which either says
//!    why it had to end.
//! 5. [`main`] lets three of them live through a story (`story.rs`).
//!
//! **Invariants.** Nothing that depends on an entry or a vote is sent before it is synced. The log is cut only up to
//! what a synced snapshot holds.
//!
//! What it does not do: reads are those of the member that is asked, which may be behind; members never change.
//!
//! Run it: `cargo build --workspace --all-targets && target/debug/examples/kvstore`.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select, tick};
use raft::eraftpb::{Entry, Message, MessageType, Snapshot};
use raft::{RawNode, SnapshotStatus};
use serde::{Deserialize, Serialize};
use skerry_raftstore::time::{entropy, spawn};
use slog::{Discard, Logger, o};

mod disk;
mod story;

use disk::Disk;

/// The members, which never change.
const MEMBERS: [u64; 3] = [1, 2, 3];
/// Raft's unit of time. A follower that hears nothing for 10 to 20 of them seeks election.
const TICK: Duration = Duration::from_millis(50);
/// Entries after which the map is saved as a snapshot.
const SNAPSHOT_EVERY: u64 = 20;
/// Proposals, messages or commits that may wait. What does not fit is refused, dropped or waited for, in this order.
const ROOM: usize = 256;
/// How long a put waits before its caller must say it again.
const PUT_PATIENCE: Duration = Duration::from_secs(1);

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

// ---- 2. Raft ---------------------------------------------------------------------------------------------------

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
        let saved = self.group.store().newest().clone();
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
            self.group.mut_store().install(ready.snapshot(), ready.hs())?;
            self.load(ready.snapshot())?;
            self.status.snapshots_received.fetch_add(1, Ordering::Relaxed);
        }
        self.group.mut_store().append(ready.entries(), ready.hs())?;
        self.publish(ready.take_committed_entries())?;
        // Votes and "I have it": only now is that true.
        self.send(ready.take_persisted_messages());
        let mut light = self.group.advance(ready);
        if let Some(commit) = light.commit_index() {
            self.group.mut_store().commit(commit);
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
        if self.committed < self.group.store().newest().get_metadata().index + SNAPSHOT_EVERY {
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

// ---- 3. The members and their network --------------------------------------------------------------------------

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
        applied: disk.newest().get_metadata().index,
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

fn main() -> Result<()> {
    story::tell()
}
