//! Tells the detector of the cluster who waits here for whom, and hears of circles.
//!
//! The detector is the store that leads the region of the empty key. One task has one stream to it
//! (`deadlock.Deadlock/Detect`):
//!
//! 1. A wait is told when it begins, and again and again while it lasts; when it ends, that is told too. What finds no
//!    room is dropped: it is told again.
//! 2. The detector answers only when an edge closes a circle. Then the wait that the edge stands for ends with it.
//! 3. When the stream breaks, or its other end does not lead that region any more, the task asks the scheduler who
//!    does. Meanwhile waits go on; some may end by time-out instead.
//!
//! While nobody waits, nothing is sent and nobody is looked for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_channel::oneshot;
use skerry_proto::deadlock::deadlock_client::DeadlockClient;
use skerry_proto::deadlock::{
    DeadlockRequest, DeadlockRequestType, DeadlockResponse, WaitForEntry,
};
use skerry_proto::types::Ts;
use skerry_raftstore::time::{Clock, SystemClock};
use slog::{Logger, debug};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::resolver::Resolver;
use super::scheduler_client::{SchedulerClient, shown};
use crate::mvcc::Key;
use crate::txn::error::key_hash;
use crate::txn::lock_waits::{Detecting, Edge, Waiting, Watch};

/// A wait is told again after so long: often enough that an edge of it lives on when one message is lost.
const TELL_AGAIN: Duration = Duration::from_millis(500);
/// Messages that may wait for the stream.
const MESSAGES_MAX: usize = 4_096;
/// After a stream that broke.
const PAUSE: Duration = Duration::from_millis(200);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// See the module.
pub struct Deadlocks {
    messages: mpsc::Sender<DeadlockRequest>,
    /// Who waits for an answer, by transaction and key. Nothing is awaited under it.
    watched: Mutex<Watched>,
}

type Watched = BTreeMap<(u64, Bytes), Vec<oneshot::Sender<DeadlockResponse>>>;

impl Deadlocks {
    /// Tells the detector that the scheduler knows, by a task on this runtime.
    pub fn start(scheduler: Arc<SchedulerClient>, logger: Logger) -> Arc<Deadlocks> {
        let (messages, waiting) = mpsc::channel(MESSAGES_MAX);
        let deadlocks = Arc::new(Deadlocks { messages, watched: Mutex::default() });
        let resolver = Resolver::new(scheduler.clone());
        // Weak, so that the task ends with those who wait.
        let told = Arc::downgrade(&deadlocks);
        let task = Line { scheduler, resolver, waiting, told, logger };
        tokio::spawn(task.run());
        deadlocks
    }

    fn tell(&self, kind: DeadlockRequestType, entry: WaitForEntry) {
        // No room: it is told again, or forgotten by itself.
        let _ = self.messages.try_send(DeadlockRequest { tp: kind.into(), entry: Some(entry) });
    }

    fn answered(&self, answer: DeadlockResponse) {
        let Some(entry) = &answer.entry else { return };
        let watchers = self.lock().remove(&(entry.txn, entry.key.clone()));
        for watcher in watchers.into_iter().flatten() {
            // Whoever waits no longer does not need it.
            let _ = watcher.send(answer.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().expect("nothing panics while it holds this lock")
    }
}

/// What a store tells of its waits.
pub struct Telling(pub Arc<Deadlocks>);

impl Detecting for Telling {
    fn watch(&self, waiting: Waiting) -> Watch {
        let deadlocks = self.0.clone();
        Box::pin(async move { watch(&deadlocks, waiting).await })
    }
}

/// A wait that was told of, until it is dropped.
struct Told<'a> {
    deadlocks: &'a Deadlocks,
    entry: WaitForEntry,
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        let place = (self.entry.txn, self.entry.key.clone());
        let mut watched = self.deadlocks.lock();
        if let Some(watchers) = watched.get_mut(&place) {
            watchers.retain(|watcher| !watcher.is_canceled());
            if watchers.is_empty() {
                watched.remove(&place);
            }
        }
        drop(watched);
        self.deadlocks.tell(DeadlockRequestType::CleanUpWaitFor, self.entry.clone());
    }
}

async fn watch(deadlocks: &Deadlocks, waiting: Waiting) -> Vec<Edge> {
    let Ok(key) = waiting.key.user_key() else { return std::future::pending().await };
    let began = SystemClock.monotonic();
    let entry = WaitForEntry {
        txn: waiting.waiter.get(),
        wait_for_txn: 0,
        key_hash: key_hash(&key),
        key: key.clone(),
        resource_group_tag: waiting.tag.clone(),
        wait_time: 0,
    };
    let (watcher, mut answer) = oneshot::channel();
    let mut told = Told { deadlocks, entry };
    deadlocks.lock().entry((waiting.waiter.get(), key)).or_default().push(watcher);
    loop {
        if let Some(holder) = waiting.holder() {
            told.entry.wait_for_txn = holder.get();
            let waited = SystemClock.monotonic().saturating_sub(began).as_millis();
            told.entry.wait_time = u64::try_from(waited).unwrap_or(u64::MAX);
            deadlocks.tell(DeadlockRequestType::Detect, told.entry.clone());
        }
        tokio::select! {
            biased;
            answer = &mut answer => match answer {
                Ok(answer) => return circle(&answer),
                Err(_gone) => return std::future::pending().await,
            },
            () = tokio::time::sleep(TELL_AGAIN) => {}
        }
    }
}

/// From the edge that closes it to the one that leads back.
fn circle(answer: &DeadlockResponse) -> Vec<Edge> {
    let edge = |entry: &WaitForEntry| Edge {
        waiter: Ts::from(entry.txn),
        holder: Ts::from(entry.wait_for_txn),
        key: Key::of(&entry.key),
        tag: entry.resource_group_tag.clone(),
        waited_ms: entry.wait_time,
    };
    answer.entry.iter().chain(&answer.wait_chain).map(edge).collect()
}

/// The task that has the stream.
struct Line {
    scheduler: Arc<SchedulerClient>,
    resolver: Resolver,
    waiting: mpsc::Receiver<DeadlockRequest>,
    told: std::sync::Weak<Deadlocks>,
    logger: Logger,
}

impl Line {
    /// Ends when nobody is left who could wait.
    async fn run(mut self) {
        while let Some(first) = self.waiting.recv().await {
            if let Err(reason) = self.stream(first).await {
                debug!(self.logger, "no line to the deadlock detector"; "reason" => reason);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Sends until the stream breaks, or nobody is left.
    async fn stream(&mut self, first: DeadlockRequest) -> Result<(), String> {
        let mut client = self.connect().await?;
        let (requests, outgoing) = mpsc::channel(MESSAGES_MAX);
        let _ = requests.try_send(first);
        let answers = client.detect(ReceiverStream::new(outgoing)).await;
        let mut answers = answers.map_err(|status| shown(&status))?.into_inner();
        loop {
            tokio::select! {
                answer = answers.message() => match answer.map_err(|status| shown(&status))? {
                    None => return Err("the detector has closed it".to_string()),
                    Some(answer) => match self.told.upgrade() {
                        Some(deadlocks) => deadlocks.answered(answer),
                        None => return Ok(()),
                    },
                },
                request = self.waiting.recv() => match request {
                    None => return Ok(()),
                    // A full stream is a slow one: what is dropped is told again.
                    Some(request) => drop(requests.try_send(request)),
                },
            }
        }
    }

    async fn connect(&self) -> Result<DeadlockClient<Channel>, String> {
        let found = self.scheduler.region(b"").await.map_err(|failure| failure.to_string())?;
        let leader = found.leader.ok_or("the first region has no leader")?.store();
        // A store that has moved must not be looked for where it was.
        self.resolver.forget(leader);
        let address = self.resolver.address(leader).await.map_err(|failure| failure.to_string())?;
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let endpoint = endpoint.map_err(|error| error.to_string())?;
        let channel = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true).connect().await;
        Ok(DeadlockClient::new(channel.map_err(|error| error.to_string())?))
    }
}
