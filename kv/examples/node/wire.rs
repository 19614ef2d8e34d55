//! The wire of the example `node`: length-prefixed frames over TCP between the nodes.
//!
//! 1. Each other node has a *line*: a bounded queue, and a thread that writes what is in it to one connection.
//! 2. What does not fit into the line or cannot be written is dropped, and the store is told; raft repeats it.
//! 3. A snapshot has a thread and a connection of its own: the message, then its files in chunks, then an end that is
//!    answered. Whatever happens, raft is told whether it arrived, because it waits for that.
//! 4. A put that must go to the leader is one frame on a connection of its own, and its answer another.
//!
//! **Invariant.** Raft hears of a snapshot only when all its files are here.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, ToSocketAddrs as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use prost::Message as _;
use skerry_proto::raft_serverpb::RaftMessage;
use skerry_proto::types::PeerId;
use skerry_raftstore::outside::Transport;
use skerry_raftstore::reply::Replies;
use skerry_raftstore::snapshot::{self, Activity, Incoming, Outgoing};
use skerry_raftstore::store::threads::{StoreHandle, WeakStoreHandle};
use skerry_raftstore::time::spawn;

use super::{Answer, Attempt, Forwarded, REGION, Result};

/// Messages that may wait for one other node.
const LINE_ROOM: usize = 1_024;
/// How long a node may take to accept a connection, and to take or give a frame that is waited for.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
const FRAME_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest frame that is believed.
const FRAME_BYTES_MAX: u32 = 32 << 20;

/// What a frame holds. On the wire: this byte, four bytes of length, the content.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A raft message.
    Raft = 1,
    /// A raft message that brings a snapshot; its files follow.
    Snapshot = 2,
    /// A piece of these files.
    Chunk = 3,
    /// They are complete; or, as an answer, they have arrived.
    End = 4,
    /// A [`Forwarded`] request.
    Request = 5,
    /// Its [`Answer`].
    Answer = 6,
}

const KINDS: [Kind; 6] =
    [Kind::Raft, Kind::Snapshot, Kind::Chunk, Kind::End, Kind::Request, Kind::Answer];

pub(super) fn write_frame(stream: &mut TcpStream, kind: Kind, content: &[u8]) -> Result<()> {
    let length = u32::try_from(content.len())?;
    let mut frame = Vec::with_capacity(5 + content.len());
    frame.push(kind as u8);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(content);
    Ok(stream.write_all(&frame)?)
}

pub(super) fn read_frame(stream: &mut TcpStream) -> Result<(Kind, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let kind = KINDS.into_iter().find(|kind| *kind as u8 == head[0]).ok_or("not a frame")?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    if length > FRAME_BYTES_MAX {
        return Err(format!("a frame of {length} bytes").into());
    }
    let mut content = vec![0; usize::try_from(length)?];
    stream.read_exact(&mut content)?;
    Ok((kind, content))
}

/// The store, once it runs. Weak, because the store holds the wire.
pub(super) type Slot = Arc<OnceLock<WeakStoreHandle>>;

pub(super) fn store_in(slot: &Slot) -> Option<StoreHandle> {
    slot.get().and_then(WeakStoreHandle::upgrade)
}

/// A node's way to the others and to its own store.
pub(super) struct Wire {
    pub(super) id: u64,
    pub(super) addresses: BTreeMap<u64, String>,
    lines: BTreeMap<u64, Sender<RaftMessage>>,
    pub(super) slot: Slot,
    pub(super) replies: Arc<Replies>,
    pub(super) stopping: AtomicBool,
    pub(super) snapshots_received: AtomicU64,
}

impl Wire {
    pub(super) fn open(id: u64, addresses: &BTreeMap<u64, String>) -> Arc<Wire> {
        let slot = Slot::default();
        let line = |(&to, address): (&u64, &String)| {
            let (line, messages) = bounded(LINE_ROOM);
            let (address, slot) = (address.clone(), slot.clone());
            // It ends when the wire is dropped.
            spawn(&format!("line-{to}"), move || run_line(&address, &messages, &slot));
            (to, line)
        };
        let lines = addresses.iter().filter(|(other, _)| **other != id).map(line).collect();
        Arc::new(Wire {
            id,
            addresses: addresses.clone(),
            lines,
            slot,
            replies: Replies::new(),
            stopping: AtomicBool::new(false),
            snapshots_received: AtomicU64::new(0),
        })
    }

    pub(super) fn connect(&self, id: u64) -> Result<TcpStream> {
        connect(self.addresses.get(&id).ok_or("an unknown node")?)
    }

    /// Sends a snapshot aside, and tells raft how it went: until then raft waits.
    fn send_snapshot(&self, message: RaftMessage) {
        let Some(store) = store_in(&self.slot) else { return };
        let to = message.to_peer.unwrap_or_default();
        let Some(address) = self.addresses.get(&to.store_id).cloned() else { return };
        spawn("snapshot", move || {
            let arrived = send_snapshot(&store, &address, &message).is_ok();
            store.snapshot_sent(REGION, PeerId::new(to.id), arrived);
        });
    }
}

impl Transport for Wire {
    fn send(&self, messages: Vec<RaftMessage>) {
        for message in messages {
            if snapshot::is_snapshot(&message) {
                self.send_snapshot(message);
                continue;
            }
            let to = message.to_peer.unwrap_or_default();
            let line = self.lines.get(&to.store_id);
            if line.is_none_or(|line| line.try_send(message).is_err())
                && let Some(store) = store_in(&self.slot)
            {
                store.unreachable(REGION, PeerId::new(to.id));
            }
        }
    }
}

fn connect(address: &str) -> Result<TcpStream> {
    let address = address.to_socket_addrs()?.next().ok_or("an address without a host")?;
    let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(FRAME_TIMEOUT))?;
    Ok(stream)
}

/// Writes what has gathered for one node. A connection that broke is opened again for the next message.
fn run_line(address: &str, messages: &Receiver<RaftMessage>, slot: &Slot) {
    let mut stream = None;
    for message in messages {
        stream = stream.or_else(|| connect(address).ok());
        let written =
            stream.as_mut().map(|to| write_frame(to, Kind::Raft, &message.encode_to_vec()));
        if !matches!(written, Some(Ok(()))) {
            stream = None;
            if let Some(store) = store_in(slot) {
                store.unreachable(REGION, message.to_peer.unwrap_or_default().peer_id());
            }
        }
    }
}

fn send_snapshot(store: &StoreHandle, address: &str, message: &RaftMessage) -> Result<()> {
    let (id, _) = snapshot::of_message(message).ok_or("it lists no files")?;
    let manager = store.snapshots();
    let _sending = manager.begin(id, Activity::Sending).map_err(|busy| busy.to_string())?;
    let mut outgoing = Outgoing::open(manager.directory(), id)?;
    let mut stream = connect(address)?;
    stream.set_read_timeout(Some(FRAME_TIMEOUT))?;
    write_frame(&mut stream, Kind::Snapshot, &message.encode_to_vec())?;
    while let Some(chunk) = outgoing.next_chunk()? {
        write_frame(&mut stream, Kind::Chunk, &chunk)?;
    }
    write_frame(&mut stream, Kind::End, &[])?;
    match read_frame(&mut stream)? {
        (Kind::End, _) => Ok(()),
        (kind, _) => Err(format!("{kind:?} is no answer to a snapshot").into()),
    }
}

fn receive_snapshot(stream: &mut TcpStream, wire: &Wire, message: RaftMessage) -> Result<()> {
    let store = store_in(&wire.slot).ok_or("the node stops")?;
    stream.set_read_timeout(Some(FRAME_TIMEOUT))?;
    let (id, data) = snapshot::of_message(&message).ok_or("it lists no files")?;
    let manager = store.snapshots();
    let _receiving = manager.begin(id, Activity::Receiving).map_err(|busy| busy.to_string())?;
    let mut incoming = Incoming::begin(manager.directory(), id, &data)?;
    loop {
        match read_frame(stream)? {
            (Kind::Chunk, bytes) => incoming.write(&bytes)?,
            (Kind::End, _) => break,
            (kind, _) => return Err(format!("{kind:?} is no part of a snapshot").into()),
        }
    }
    incoming.finish()?;
    store.receive([message]);
    wire.snapshots_received.fetch_add(1, Ordering::Relaxed);
    write_frame(stream, Kind::End, &[])
}

/// Takes connections until the node stops.
pub(super) fn accept(listener: &TcpListener, wire: &Arc<Wire>) {
    for stream in listener.incoming() {
        if wire.stopping.load(Ordering::Relaxed) {
            return;
        }
        let Ok(mut stream) = stream else { continue };
        let wire = wire.clone();
        // A connection that fails is closed; whoever opened it opens another.
        spawn("connection", move || while serve(&mut stream, &wire).is_ok() {});
    }
}

/// Takes one frame.
fn serve(stream: &mut TcpStream, wire: &Wire) -> Result<()> {
    let (kind, content) = read_frame(stream)?;
    match kind {
        Kind::Raft => {
            let store = store_in(&wire.slot).ok_or("the node stops")?;
            store.receive([RaftMessage::decode(&content[..])?]);
            Ok(())
        }
        Kind::Snapshot => receive_snapshot(stream, wire, RaftMessage::decode(&content[..])?),
        Kind::Request => {
            let Forwarded { request, left_ms } = serde_json::from_slice(&content)?;
            let answer = match wire.attempt(&request, Duration::from_millis(left_ms)) {
                Attempt::Answered(answer) => answer,
                // Not sent on once more: the node that was asked first tries again.
                Attempt::AskLeader(id) => Answer::NotDone(format!("node {id} leads")),
                Attempt::Again(reason) => Answer::NotDone(reason),
            };
            write_frame(stream, Kind::Answer, &serde_json::to_vec(&answer)?)
        }
        Kind::Chunk | Kind::End | Kind::Answer => Err("out of turn".into()),
    }
}
